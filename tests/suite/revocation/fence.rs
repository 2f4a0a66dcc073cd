//! A node that can't see the log denies: it never serves permission that may be gone. The rule of the lease step by step,
//! by a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use domain::authorization::Question;
use domain::secret::SecretDigest;
use featbit_tokens::app;
use featbit_tokens::authorization::{Fence, Index, Read, StepError, Subject, Tailer};
use featbit_tokens::clock::{BootClock, Clock};
use featbit_tokens::commands::Caller;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use super::*;
use crate::support::{Answer, Options, Proxy, cloud_event};

const MAX_STALENESS: Duration = Duration::from_millis(400);

/// Tried with `Fence::is_open` answering true whatever the hour: the frozen node goes on allowing.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_not_read_the_log_denies_everything_until_it_can() {
    let settings = vec![("MAX_STALENESS_MS", "300".to_owned())];
    let app = TestApp::start_with(Options {
        settings,
        database: None,
    })
    .await;
    let (_, secret) = app.developer().personal_token("ci").await;
    assert_eq!(
        app.ask(&secret, "ToggleFlag", FLAG).await["context"]["reason"],
        "allowed"
    );

    let mut freezer = PgConnection::connect(&app.database.url).await.unwrap();
    freezer
        .execute("begin; lock table events in access exclusive mode")
        .await
        .unwrap();
    eventually("the node denies", async || {
        let answer = app.ask(&secret, "ToggleFlag", FLAG).await;
        (answer["decision"] == false && answer["context"]["reason"] == "stale_replica").then_some(())
    })
    .await;
    let ready = Answer::of(app.request(reqwest::Method::GET, "/health/readiness")).await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    let listed = app.owner().get("/access-tokens").await;
    assert_eq!((listed.status, listed.code()), (503, "ServiceUnavailable"));
    assert_eq!(listed.header("retry-after"), "1");

    freezer.execute("commit").await.unwrap();
    eventually("the node decides again", async || {
        (app.ask(&secret, "ToggleFlag", FLAG).await["decision"] == true).then_some(())
    })
    .await;
    app.stop().await;
}

/// A node's index and tailer, stepped by hand. Its clock stands still between two steps, unless it is moved.
struct ByHand {
    index: Arc<Index>,
    tailer: Tailer,
    time: Arc<AtomicU64>,
    last_step: Instant,
    node_id: Uuid,
}

impl ByHand {
    async fn on(database_url: &str) -> Self {
        Self::with(database_url, MAX_STALENESS).await
    }

    async fn with(database_url: &str, max_staleness: Duration) -> Self {
        // Some time after the machine has started.
        let time = Arc::new(AtomicU64::new(3_600_000_000_000));
        let boot = BootClock::Set(Arc::clone(&time));
        let index = Arc::new(Index::new(Fence::new(boot.clone())));
        let node_id = Uuid::new_v4();
        let pool = app::connect(database_url).await.unwrap();
        let tailer = Tailer::new(pool, Arc::clone(&index), Clock::new(boot), node_id, max_staleness);
        Self {
            index,
            tailer,
            time,
            last_step: Instant::now(),
            node_id,
        }
    }

    async fn step(&mut self, called_for: i64) -> Result<Read, StepError> {
        // The database's clock goes on: too far from it, and the node's would be refused.
        self.pass(self.last_step.elapsed());
        self.last_step = Instant::now();
        self.tailer.step(called_for).await
    }

    fn pass(&self, time: Duration) {
        self.time
            .fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
    }

    /// Time that passes for the node alone looks as if the database's clock was set back: that is refused once.
    async fn catch_up(&mut self) {
        let mut refused = 0;
        while refused < 2 {
            match self.step(0).await {
                Ok(Read::All) => return,
                Ok(Read::More) => {}
                Err(_) => refused += 1,
            }
        }
        panic!("the node does not catch up");
    }

    /// Why it answers as it does.
    fn ask(&self, secret: &str) -> String {
        let question = Question {
            action: "ToggleFlag",
            resource: FLAG,
            organization_id: None,
            address: None,
            now: chrono::Utc::now(),
        };
        let subject = Subject::Secret(SecretDigest::of(secret).unwrap());
        self.index.decide(&subject, &question, 0, |_, answer| {
            serde_json::to_value(answer.reason)
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        })
    }

    async fn lease(&self, app: &TestApp) -> Option<(i64, i64)> {
        sqlx::query_as("select beat, applied from leases where node_id = $1")
            .bind(self.node_id)
            .fetch_optional(&app.database.pool)
            .await
            .unwrap()
    }
}

/// Tried: `open_until(begun + 2 * max_staleness)`, and the time taken after the commit instead of before.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_decides_for_max_staleness_from_before_its_renewal_and_not_a_moment_longer() {
    let app = TestApp::start().await;
    let (_, secret) = app.developer().personal_token("ci").await;
    let mut node = ByHand::on(&app.database.url).await;
    assert_eq!(node.ask(&secret), "stale_replica", "before it has ever looked");
    node.catch_up().await;
    assert_eq!(node.ask(&secret), "allowed");
    node.pass(MAX_STALENESS - Duration::from_nanos(1));
    assert_eq!(node.ask(&secret), "allowed");
    node.pass(Duration::from_nanos(1));
    assert_eq!(node.ask(&secret), "stale_replica");
    node.catch_up().await;
    assert_eq!(node.ask(&secret), "allowed", "renewed");
}

/// Tried: `open` without the comparison of `applied` and `head`.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_counts_when_the_end_it_found_is_applied() {
    let app = TestApp::start().await;
    let (_, secret) = app.developer().personal_token("ci").await;
    let mut node = ByHand::on(&app.database.url).await;
    node.catch_up().await;
    let organization_id = app.organization_id;
    let many: Vec<Value> = (0..3000)
        .map(|_| cloud_event("MemberRemoved", organization_id, Uuid::new_v4().into(), json!({})))
        .collect();
    app.tell(&many).await;
    node.pass(MAX_STALENESS / 4);
    assert_eq!(node.step(0).await.unwrap(), Read::More);
    let (_, applied) = node.lease(&app).await.unwrap();
    assert!(applied >= 1000, "renewed on the way, at {applied}");
    node.pass(MAX_STALENESS - MAX_STALENESS / 4);
    assert_eq!(node.ask(&secret), "stale_replica", "but not at the end");
    node.catch_up().await;
    assert_eq!(node.ask(&secret), "allowed");
}

/// An event that is committed while the lease is on its way is one that its sender waits for this node with: the head has to
/// be read after it. Tried: the head read before the lease is renewed.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_log_is_looked_for_after_the_lease_is_committed() {
    let app = TestApp::start().await;
    let (id, secret) = app.developer().personal_token("ci").await;
    let mut node = ByHand::on(&app.database.url).await;
    let mut holder = PgConnection::connect(&app.database.url).await.unwrap();
    holder
        .execute("begin; lock table leases in share row exclusive mode")
        .await
        .unwrap();
    let meanwhile = async {
        // This node's and the other's.
        eventually("both are about to renew", async || {
            let waiting = "select count(*) from pg_locks where relation = 'leases'::regclass and not granted";
            let waiting: i64 = sqlx::query_scalar(waiting)
                .fetch_one(&app.database.pool)
                .await
                .unwrap();
            (waiting == 2).then_some(())
        })
        .await;
        let developer = app.developer();
        let caller = Caller {
            organization_id: developer.organization_id,
            member_id: developer.member_id,
            request_id: "test".to_owned(),
            known: None,
        };
        let deactivated = app.app.commands.deactivate_token(&caller, id.parse().unwrap());
        deactivated.await.unwrap();
        holder.execute("commit").await.unwrap();
    };
    let (stepped, ()) = tokio::join!(node.step(0), meanwhile);
    stepped.unwrap();
    assert_eq!(
        node.ask(&secret),
        "stale_replica",
        "it has not applied what it was told of"
    );
    node.catch_up().await;
    assert_eq!(node.ask(&secret), "token_inactive");
}

/// Tried: `is_called` always false: the lease stays where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_renews_the_lease_at_once_when_its_position_is_applied() {
    let app = TestApp::start().await;
    // By itself it renews every quarter of this.
    let mut node = ByHand::with(&app.database.url, Duration::from_secs(600)).await;
    node.catch_up().await;
    let (beat, applied) = node.lease(&app).await.unwrap();
    app.developer().personal_token("ci").await;
    node.catch_up().await;
    assert_eq!(node.lease(&app).await, Some((beat, applied)), "nobody asks");
    node.step(applied + 1).await.unwrap();
    assert_eq!(node.lease(&app).await, Some((beat + 1, applied + 1)));
    node.step(applied + 1).await.unwrap();
    assert_eq!(
        node.lease(&app).await,
        Some((beat + 1, applied + 1)),
        "it has said so"
    );
    node.step(applied + 9).await.unwrap();
    assert_eq!(
        node.lease(&app).await,
        Some((beat + 1, applied + 1)),
        "it has not come so far"
    );
}

/// As a database that was restored, or that was promoted without the last events: the node knows what never was. Tried:
/// `is_same_log` always true; the hash left out of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_which_stands_another_log_denies_and_reads_it_from_the_beginning() {
    let app = TestApp::start().await;
    let (_, kept) = app.developer().personal_token("kept").await;
    let (_, lost) = app.developer().personal_token("lost").await;
    let mut node = ByHand::on(&app.database.url).await;
    node.catch_up().await;
    assert_eq!(node.ask(&lost), "allowed");
    let (beat, applied) = node.lease(&app).await.unwrap();

    // Another event where the node has applied the creation of `lost`: same position, same length of the log.
    let rewritten = "alter table events disable trigger user;
        update events set hash = sha256('another'::bytea), aggregate_type = 'member', aggregate_id = p.aggregate_id,
            sequence = 99, event_type = p.event_type, payload = p.payload, organization_id = p.organization_id
        from (select * from events where aggregate_type = 'member' limit 1) p
        where events.position = (select max(position) from events);
        alter table events enable trigger user;";
    app.database.pool.execute(rewritten).await.unwrap();
    node.pass(MAX_STALENESS / 4);
    assert_eq!(node.ask(&lost), "allowed", "carried by its lease");
    node.step(0).await.unwrap_err();
    assert_eq!(
        node.lease(&app).await,
        Some((beat, applied)),
        "its position means nothing there: it is not said"
    );
    assert_eq!(node.ask(&lost), "stale_replica");
    node.catch_up().await;
    assert_eq!(node.ask(&lost), "unknown_token");
    assert_eq!(node.ask(&kept), "allowed");

    let shortened = "alter table events disable trigger user;
        delete from events where position = (select max(position) from events);
        alter table events enable trigger user;";
    app.database.pool.execute(shortened).await.unwrap();
    node.pass(MAX_STALENESS / 4);
    node.step(0).await.unwrap_err();
    assert_eq!(node.ask(&kept), "stale_replica");
    node.catch_up().await;
    assert_eq!(node.ask(&kept), "allowed");

    app.database
        .pool
        .execute("update log_epoch set epoch = gen_random_uuid()")
        .await
        .unwrap();
    node.pass(MAX_STALENESS / 4);
    node.step(0).await.unwrap_err();
    assert_eq!(node.ask(&kept), "stale_replica");
    node.catch_up().await;
    assert_eq!(node.ask(&kept), "allowed");
}

/// Neither its length nor the hash of its end says so then: a page read from further on would be taken for more of the same.
/// Tried: `page.hash_before` not compared.
#[tokio::test(flavor = "multi_thread")]
async fn another_log_that_has_grown_past_a_node_is_noticed_before_anything_of_it_is_applied() {
    let app = TestApp::start().await;
    let (_, lost) = app.developer().personal_token("lost").await;
    let mut node = ByHand::on(&app.database.url).await;
    node.catch_up().await;
    assert_eq!(node.ask(&lost), "allowed");
    let grown = "alter table events disable trigger user;
        delete from events where position = (select max(position) from events);
        alter table events enable trigger user;
        insert into events (position, aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                            organization_id, recorded_at, hash)
        select (select max(position) from events) + n, aggregate_type, aggregate_id, 98 + n, event_type, event_version,
               payload, metadata, organization_id, recorded_at, sha256(n::text::bytea)
        from (select * from events where aggregate_type = 'member' order by position limit 1) first, generate_series(1, 3) n";
    app.database.pool.execute(grown).await.unwrap();
    node.step(0).await.unwrap_err();
    assert_eq!(node.ask(&lost), "stale_replica");
    node.catch_up().await;
    assert_eq!(node.ask(&lost), "unknown_token");
}

/// A running node finds its way back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_node_forgets_what_the_log_has_lost() {
    let app = TestApp::start().await;
    let (_, kept) = app.developer().personal_token("kept").await;
    // A database that has lost an event has lost what read models made of it: they don't get that far.
    app.catch_up().await;
    let mut holder = PgConnection::connect(&app.database.url).await.unwrap();
    holder
        .execute("begin; lock table read_models in share mode")
        .await
        .unwrap();
    let (_, lost) = app.developer().personal_token("lost").await;
    let shortened = "alter table events disable trigger user;
        delete from events where position = (select max(position) from events);
        alter table events enable trigger user;";
    app.database.pool.execute(shortened).await.unwrap();
    eventually("the token is nobody's", async || {
        (app.ask(&lost, "ToggleFlag", FLAG).await["context"]["reason"] == "unknown_token").then_some(())
    })
    .await;
    assert_eq!(
        app.ask(&kept, "ToggleFlag", FLAG).await["context"]["reason"],
        "allowed"
    );
}

/// What the old log had beyond the end of this one was heard of, appended and called for. Tried: `Said::forget` doing
/// nothing: this node lists nothing until the log is as long as before, and the other one says what it knows when its lease
/// is due, not when it is called.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_which_stands_a_shorter_log_is_woken_by_what_is_said_of_that_one() {
    let app = TestApp::start().await;
    let (kept, secret) = app.developer().personal_token("kept").await;
    let other = Node::start(&app, &[("MAX_STALENESS_MS", "8000")]).await;
    let put = async |action: &str| {
        let path = format!("/access-tokens/{kept}/{action}");
        let answer = app.developer().put(&path, json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer
    };
    app.catch_up().await;
    let mut holder = PgConnection::connect(&app.database.url).await.unwrap();
    holder
        .execute("begin; lock table read_models in share mode")
        .await
        .unwrap();
    for _ in 0..20 {
        put("deactivate").await;
        put("activate").await;
    }
    let shortened = "alter table events disable trigger user;
        delete from events where position > (select max(position) from events) - 40;
        alter table events enable trigger user;";
    app.database.pool.execute(shortened).await.unwrap();
    // Nor go on with what they have read of it.
    let cancelled = "select pg_cancel_backend(pid) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    app.database.pool.execute(cancelled).await.unwrap();
    holder.execute("commit").await.unwrap();
    eventually("both nodes have noticed", async || {
        let noticed = (other.is_ready().await, app.app.index.fence().is_open());
        let here = app.ask(&secret, "ToggleFlag", FLAG).await["context"]["position"].as_i64();
        let head: i64 = sqlx::query_scalar("select max(position) from events")
            .fetch_one(&app.database.pool)
            .await
            .unwrap();
        (noticed == (true, true) && here == Some(head) && other.position().await == head).then_some(())
    })
    .await;
    let listed = app.owner().get("/access-tokens").await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    for _ in 0..5 {
        let answer = put("deactivate").await;
        assert_eq!(answer.header("x-confirmed-nodes"), "2");
        let took: u64 = answer.header("x-confirmed-in-ms").parse().unwrap();
        assert!(took < 1000, "{took} ms");
        put("activate").await;
        // Its lease was just renewed; the next renewal that nobody calls for is two seconds away.
        eventually("the token is active", async || {
            (other.ask(&secret).await == "allowed").then_some(())
        })
        .await;
    }
}

/// As when the address of a failed database is taken over: who was connected hears nothing any more, not even that. Tried:
/// no `within` around the steps of the read models: they stand still.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_have_fallen_silent_are_given_up_and_replaced() {
    let app = TestApp::start().await;
    let (id, secret) = app.developer().personal_token("ci").await;
    let proxy = Proxy::before(&app.database.url).await;
    let other = Node::start(&app, &[("DATABASE_URL", &proxy.url)]).await;
    for round in 0..3 {
        proxy.lose();
        let renamed = format!("round {round}");
        let path = format!("/access-tokens/{id}");
        let answer = app.developer().put(&path, json!({ "name": renamed })).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let position: i64 = answer.header("x-log-position").parse().unwrap();
        eventually("the node decides by what there is", async || {
            (other.ask(&secret).await == "allowed" && other.position().await >= position).then_some(())
        })
        .await;
        eventually("and lists it", async || {
            let at = app.developer().at(other.port, reqwest::Method::GET, &path);
            let shown = Answer::of(at.header("x-at-least-position", position)).await;
            (shown.status == 200 && shown.body["data"]["name"] == renamed).then_some(())
        })
        .await;
    }
}

/// What was confirmed on a database that then is lost is lost with it, unless a standby had it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_a_synchronous_standby_is_warned_of() {
    let app = TestApp::start().await;
    let warnings = async |node: &str| {
        let answer = reqwest::get(format!("{node}/health/readiness")).await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        (status, body["warnings"].as_array().unwrap().len())
    };
    eventually("the node is ready, and warns", async || {
        (warnings(&app.url).await == (200, 1)).then_some(())
    })
    .await;
}

/// As a standby refuses to. Tried: the error of `leases::renew` ignored.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_a_database_that_only_reads_does_not_decide() {
    let app = TestApp::start().await;
    let (_, secret) = app.developer().personal_token("ci").await;
    let only_reads = format!(
        "{}?options=-c%20default_transaction_read_only%3Don",
        app.database.url
    );
    let mut node = ByHand::on(&only_reads).await;
    node.step(0).await.unwrap_err();
    assert_eq!(node.ask(&secret), "stale_replica");
}

/// Expiries go by the database's clock: a node that can't tell the time can't decide. Tried: what `Clock::measured` answers
/// ignored.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_databases_clock_jumps_denies_until_it_has_seen_the_time_again() {
    let app = TestApp::start().await;
    let (_, secret) = app.developer().personal_token("ci").await;
    // A clock that can be set stands before the database's own.
    app.database
        .pool
        .execute(
            "create schema set_clock;
             create table set_clock.ahead (seconds float8 not null);
             insert into set_clock.ahead values (0);
             create function set_clock.clock_timestamp() returns timestamptz language sql as
                 $$ select pg_catalog.clock_timestamp() + (select make_interval(secs => seconds) from set_clock.ahead) $$;",
        )
        .await
        .unwrap();
    let url = format!(
        "{}?options=-c%20search_path%3Dset_clock,pg_catalog,public",
        app.database.url
    );
    let mut node = ByHand::on(&url).await;
    node.catch_up().await;
    assert_eq!(node.ask(&secret), "allowed");
    app.database
        .pool
        .execute("update set_clock.ahead set seconds = 3600")
        .await
        .unwrap();
    node.pass(MAX_STALENESS / 4);
    node.step(0).await.unwrap_err();
    assert_eq!(node.ask(&secret), "stale_replica");
    node.catch_up().await;
    assert_eq!(node.ask(&secret), "allowed");
}
