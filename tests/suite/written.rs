//! What a node has appended itself it does not read back: it must be what it would have read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use featbit_tokens::authorization::{Fence, Index, Read, StepError, Tailer};
use featbit_tokens::clock::{BootClock, Clock};
use featbit_tokens::commands::Commands;
use featbit_tokens::log::{Appender, Written};
use projections::log::read_after;
use projections::runner::{ReadModel, Runner};
use serde_json::Value;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::following::{Organization, somebody};
use crate::log::request;
use crate::support::{TestDatabase, eventually, poll, running_appender};

/// It renews its lease by itself every quarter of this.
const MAX_STALENESS: Duration = Duration::from_secs(600);

/// Whoever appends, and what it says of that.
struct Writer {
    commands: Commands,
    written: mpsc::Receiver<Written>,
    _stop: DropGuard,
}

impl Writer {
    fn on(pool: &PgPool) -> Self {
        let (appender, mut task) = Appender::new(pool.clone());
        let written = task.written();
        let stop = CancellationToken::new();
        tokio::spawn(task.run(stop.clone()));
        Self {
            commands: Commands::new(pool.clone(), appender, Clock::default(), 10),
            written,
            _stop: stop.drop_guard(),
        }
    }

    /// Appends these.
    async fn tell(&mut self, events: &[Value]) -> Written {
        let taken = self.commands.take_poll(&poll(events)).await;
        assert_eq!(taken.expect("they are taken").applied, events.len());
        self.written.recv().await.expect("it says so")
    }
}

/// A tailer that is stepped, and handed what the test hands it. Its clock stands still, unless it is moved.
struct Node {
    tailer: Tailer,
    index: Arc<Index>,
    hand: mpsc::Sender<Written>,
    time: Arc<AtomicU64>,
}

impl Node {
    /// At the end of the log.
    async fn on(pool: &PgPool) -> Self {
        let time = Arc::new(AtomicU64::new(3_600_000_000_000));
        let boot = BootClock::Set(Arc::clone(&time));
        let index = Arc::new(Index::new(Fence::new(boot.clone())));
        let (hand, written) = mpsc::channel(8);
        let pool = pool.clone();
        let tailer = Tailer::new(
            pool,
            Arc::clone(&index),
            Clock::new(boot),
            Uuid::new_v4(),
            MAX_STALENESS,
        );
        let mut node = Self {
            tailer: tailer.handed(written),
            index,
            hand,
            time,
        };
        assert_eq!(node.step(0).await.unwrap(), Read::All);
        node
    }

    async fn step(&mut self, called_for: i64) -> Result<Read, StepError> {
        self.tailer.step(called_for).await
    }

    fn hand(&self, written: Written) {
        self.hand.try_send(written).expect("there is room");
    }

    /// All that was applied is in the log as it was kept, from its beginning.
    async fn has_what_the_log_has(&self, pool: &PgPool) {
        let mut connection = pool.acquire().await.unwrap();
        let log = read_after(&mut connection, 0, 1000).await.unwrap();
        // By the hash of its end it is what the log has: it comes from memory.
        let kept = self.tailer.tail();
        let kept = kept
            .read_after_without(&mut connection, 0, 1000, &[])
            .await
            .unwrap();
        assert_eq!(kept.events, log.events);
        assert_eq!(kept.last_hash, log.last_hash);
        assert_eq!(self.index.position(), log.last_position);
    }
}

/// Nobody reads the log as long as this is there.
async fn locked(database: &TestDatabase) -> PgConnection {
    let mut holder = PgConnection::connect(&database.url).await.unwrap();
    let lock = "begin; lock table events in access exclusive mode";
    holder.execute(lock).await.unwrap();
    holder
}

/// Tried: never taken: the steps wait for the lock. With positions from one further on, and with another time.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_has_appended_it_applies_as_it_stands_in_the_log_and_does_not_read_it() {
    let database = TestDatabase::new().await;
    let pool = &database.pool;
    let (mut writer, mut node) = (Writer::on(pool), Node::on(pool).await);
    let organization = Organization::new();
    let mut written = Vec::new();
    for members in [1, 3, 2] {
        let events: Vec<Value> = (0..members).map(|_| organization.added(somebody())).collect();
        written.push(writer.tell(&events).await);
    }
    let holder = locked(&database).await;
    for (written, position) in written.into_iter().zip([1, 4, 6]) {
        node.hand(written);
        let step = tokio::time::timeout(Duration::from_secs(2), node.step(0)).await;
        assert_eq!(step.expect("nothing is read").unwrap(), Read::All);
        assert_eq!(node.index.position(), position);
    }
    holder.close().await.unwrap();
    node.has_what_the_log_has(pool).await;
}

/// Tried: taken wherever it stands.
#[tokio::test(flavor = "multi_thread")]
async fn where_others_came_between_all_is_read() {
    let database = TestDatabase::new().await;
    let pool = &database.pool;
    let (mut own, mut other) = (Writer::on(pool), Writer::on(pool));
    let mut node = Node::on(pool).await;
    let organization = Organization::new();
    let event = || [organization.added(somebody())];
    node.hand(own.tell(&event()).await);
    other.tell(&event()).await;
    node.hand(own.tell(&event()).await);
    node.step(0).await.unwrap();
    assert_eq!(node.index.position(), 1, "handed");
    node.step(0).await.unwrap();
    assert_eq!(node.index.position(), 3, "read");
    let late = own.tell(&event()).await;
    node.step(0).await.unwrap();
    node.hand(late);
    assert_eq!(
        node.step(0).await.unwrap(),
        Read::All,
        "it was read before it came"
    );
    node.hand(own.tell(&event()).await);
    node.step(0).await.unwrap();
    node.has_what_the_log_has(pool).await;
}

/// Somebody waits for the other's event on this node. Tried: what is handed taken for the end whatever this node is called
/// for: the call is put aside.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_what_others_have_appended_is_not_answered_by_what_was_handed() {
    let database = TestDatabase::new().await;
    let pool = &database.pool;
    let (mut own, mut other) = (Writer::on(pool), Writer::on(pool));
    let mut node = Node::on(pool).await;
    let organization = Organization::new();
    node.hand(own.tell(&[organization.added(somebody())]).await);
    other.tell(&[organization.added(somebody())]).await;
    assert_eq!(node.step(2).await.unwrap(), Read::More);
    assert_eq!(node.step(2).await.unwrap(), Read::All);
    assert_eq!(node.index.position(), 2);
    let said: i64 = sqlx::query_scalar("select applied from leases")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(said, 2);
}

/// Tried: `page.hash_before` not compared.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_appended_to_another_log_is_not_applied() {
    let [here, there] = [TestDatabase::new().await, TestDatabase::new().await];
    let organization = Organization::new();
    let event = || [organization.added(somebody())];
    Writer::on(&here.pool).tell(&event()).await;
    let mut node = Node::on(&here.pool).await;
    let mut elsewhere = Writer::on(&there.pool);
    elsewhere.tell(&event()).await;
    node.hand(elsewhere.tell(&event()).await);
    let refused = node.step(0).await.unwrap_err();
    assert!(
        matches!(refused, StepError::AnotherLog { position: 1 }),
        "{refused}"
    );
}

/// What is handed meanwhile belongs to the end that the log has lost, and fits on what is left of it. Tried: it is not thrown
/// away.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_log_that_is_there_no_more() {
    let database = TestDatabase::new().await;
    let pool = &database.pool;
    let mut writer = Writer::on(pool);
    let organization = Organization::new();
    writer.tell(&[organization.added(somebody())]).await;
    // From here it will start again.
    let credentials = Runner::live(pool.clone(), ReadModel::Credentials);
    assert_eq!(credentials.catch_up().await.unwrap(), 1);
    let lost = writer.tell(&[organization.added(somebody())]).await;
    let mut node = Node::on(pool).await;
    let shortened = "alter table events disable trigger user;
        delete from events where position = 2;
        alter table events enable trigger user;";
    pool.execute(shortened).await.unwrap();
    // Its lease is due, and kept waiting.
    node.time.fetch_add(200_000_000_000, Ordering::Relaxed);
    let mut holder = PgConnection::connect(&database.url).await.unwrap();
    let lock = "begin; lock table leases in access exclusive mode";
    holder.execute(lock).await.unwrap();
    let hand = node.hand.clone();
    let meanwhile = async {
        eventually("the node waits for the lock", async || {
            let waiting =
                "select exists (select from pg_locks where not granted and relation = 'leases'::regclass)";
            let waiting: bool = sqlx::query_scalar(waiting).fetch_one(pool).await.unwrap();
            waiting.then_some(())
        })
        .await;
        hand.try_send(lost).expect("there is room");
        holder.execute("commit").await.unwrap();
    };
    let (stepped, ()) = tokio::join!(node.tailer.step(0), meanwhile);
    let refused = stepped.unwrap_err();
    assert!(
        matches!(refused, StepError::AnotherLog { position: 2 }),
        "{refused}"
    );
    node.tailer.start(&CancellationToken::new()).await.unwrap();
    // Time that has passed for the node alone looks as if the database's clock was set back: that is refused once.
    let _ = node.step(0).await;
    assert_eq!(node.step(0).await.unwrap(), Read::All);
    assert_eq!(node.index.position(), 1);
}

/// A batch with a command that stands already. Tried: taken for new.
#[tokio::test]
async fn of_what_was_appended_before_nothing_is_handed() {
    let database = TestDatabase::new().await;
    let pool = &database.pool;
    let (appender, mut task) = Appender::new(pool.clone());
    let mut written = task.written();
    let before = request("a", 0, 2);
    let (others, _stop) = running_appender(pool);
    others.append(before.clone()).await.unwrap();
    let (again, new) = (before, request("b", 0, 1));
    // Both wait when it begins: they are one batch.
    let append = |request| {
        let appender = appender.clone();
        tokio::spawn(async move { appender.append(request).await })
    };
    let waiting = [append(again.clone()), append(new), append(again)];
    tokio::task::yield_now().await;
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    let handed = written.recv().await.unwrap();
    assert_eq!((handed.first_position, handed.events.len()), (3, 1));
    let stored: (Vec<u8>, Vec<u8>, chrono::DateTime<chrono::Utc>) = sqlx::query_as(
        "select before.hash, it.hash, it.recorded_at from events before, events it
         where before.position = 2 and it.position = 3",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(
        (handed.hash_before.unwrap(), handed.hash, handed.recorded_at),
        stored
    );
    stop.cancel();
    assert!(
        written.recv().await.is_none(),
        "the other repetition changed nothing"
    );
}
