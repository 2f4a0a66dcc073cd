//! What followers of the log take from memory, and what nodes believe of it: never more than the log itself says.

use std::sync::Arc;

use domain::ids::{MemberId, OrganizationId};
use featbit_tokens::clock::Clock;
use featbit_tokens::commands::Commands;
use projections::log::read_after;
use projections::runner::{ReadModel, Runner};
use projections::tail::Tail;
use serde_json::{Value, json};
use sqlx::{Executor, PgPool};
use tokio_util::sync::DropGuard;
use uuid::Uuid;

use crate::support::check::read_models_equal_a_replay;
use crate::support::{TestDatabase, cloud_event, poll, running_appender};

/// Commands of a node that does nothing else.
struct Node {
    commands: Commands,
    _stop: DropGuard,
}

impl Node {
    fn on(pool: &PgPool) -> Self {
        let (appender, stop) = running_appender(pool);
        Self {
            commands: Commands::new(pool.clone(), appender, Clock::default(), 10),
            _stop: stop,
        }
    }

    /// How many of these changed something, and how many were known.
    async fn tell(&self, events: &[Value]) -> (usize, usize) {
        let taken = self
            .commands
            .take_poll(&poll(events))
            .await
            .expect("they are taken");
        (taken.applied, taken.repeated)
    }
}

/// Members of one organization.
pub struct Organization(OrganizationId);

impl Organization {
    pub fn new() -> Self {
        Self(Uuid::new_v4().into())
    }

    pub fn added(&self, member: MemberId) -> Value {
        let data = json!({ "name": "Some Body", "email": "somebody@tests.example", "statements": [] });
        cloud_event("MemberAdded", self.0, member, data)
    }

    fn granted(&self, member: MemberId, id: &str) -> Value {
        let statement = json!({
            "id": id, "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"], "resources": ["project/*"],
        });
        cloud_event(
            "PermissionGranted",
            self.0,
            member,
            json!({ "statements": [statement] }),
        )
    }
}

pub fn somebody() -> MemberId {
    Uuid::new_v4().into()
}

async fn head(pool: &PgPool) -> i64 {
    let head = sqlx::query_scalar("select max(position) from events");
    head.fetch_one(pool).await.unwrap()
}

/// As a tailer leaves it.
async fn tail_of(pool: &PgPool) -> Tail {
    let tail = Tail::default();
    let mut connection = pool.acquire().await.unwrap();
    tail.keep(Arc::new(read_after(&mut connection, 0, 100).await.unwrap()));
    tail
}

/// Tried: without the look at the hash in the log, the first runner says that it has come to the third event.
#[tokio::test]
async fn what_was_kept_of_another_log_is_not_believed() {
    let [here, there] = [TestDatabase::new().await, TestDatabase::new().await];
    let organization = Organization::new();
    let [one, two, three] = [(); 3].map(|()| organization.added(somebody()));
    Node::on(&here.pool).tell(&[one.clone(), two.clone()]).await;
    let longer = Node::on(&there.pool);
    longer.tell(&[one, two, three]).await;
    for read_model in ReadModel::ALL {
        let runner = Runner::live(here.pool.clone(), read_model).behind(tail_of(&there.pool).await);
        assert_eq!(runner.catch_up().await.unwrap(), 2);
        // Of its own log it does take what is kept: the same, whoever has read it.
        let own = Runner::live(there.pool.clone(), read_model).behind(tail_of(&there.pool).await);
        assert_eq!(own.catch_up().await.unwrap(), 3);
    }
    read_models_equal_a_replay(&here.pool, 2).await;
    read_models_equal_a_replay(&there.pool, 3).await;
}

/// A runner holds rows as it has written them. Another one, of another node, changes one of them.
///
/// Tried: held whoever has moved the checkpoint since. What was granted in between is missing from the row.
#[tokio::test]
async fn rows_that_are_held_are_read_again_after_somebody_elses_step() {
    let database = TestDatabase::new().await;
    let pool = &database.pool;
    let (node, organization, member) = (Node::on(pool), Organization::new(), somebody());
    for read_model in [ReadModel::Members, ReadModel::Credentials] {
        let [one, other] = [(); 2].map(|()| Runner::live(pool.clone(), read_model));
        node.tell(&[organization.added(member)]).await;
        one.catch_up().await.unwrap();
        node.tell(&[organization.granted(member, "a")]).await;
        other.catch_up().await.unwrap();
        node.tell(&[organization.granted(member, "b")]).await;
        assert_eq!(one.catch_up().await.unwrap(), head(pool).await);
    }
    read_models_equal_a_replay(pool, head(pool).await).await;
}

/// The same where the log has lost its end, as after a failover, and has grown to the same position otherwise.
///
/// Tried: held without a look at the hash. What was lost is in the row, and what came instead of it is not.
#[tokio::test]
async fn rows_that_are_held_of_a_lost_end_of_the_log_are_read_again() {
    let database = TestDatabase::new().await;
    let pool = &database.pool;
    let (node, organization, member) = (Node::on(pool), Organization::new(), somebody());
    node.tell(&[organization.added(member)]).await;
    let runners = [ReadModel::Members, ReadModel::Credentials].map(|it| Runner::live(pool.clone(), it));
    for runner in &runners {
        runner.catch_up().await.unwrap();
    }
    pool.execute("create table members_before as table members_v1.members")
        .await
        .unwrap();
    pool.execute("create table creators_before as table credentials_v1.creators")
        .await
        .unwrap();
    node.tell(&[organization.granted(member, "lost")]).await;
    for runner in &runners {
        assert_eq!(runner.catch_up().await.unwrap(), 2);
    }
    pool.execute(
        "begin;
         set local session_replication_role = replica;
         delete from events where position = 2;
         truncate members_v1.members, credentials_v1.creators;
         insert into members_v1.members table members_before;
         insert into credentials_v1.creators table creators_before;
         update read_models set position = 1 where name in ('members', 'credentials');
         commit",
    )
    .await
    .unwrap();
    let node = Node::on(pool);
    node.tell(&[organization.granted(member, "instead")]).await;
    for runner in &runners {
        let other = Runner::live(pool.clone(), runner.read_model());
        assert_eq!(other.catch_up().await.unwrap(), 2);
    }
    node.tell(&[organization.granted(member, "later")]).await;
    for runner in &runners {
        assert_eq!(runner.catch_up().await.unwrap(), 3);
    }
    read_models_equal_a_replay(pool, 3).await;
}

/// A node believes a key to be new that it has not used itself: the append tells it otherwise, and what is new beside it
/// is taken.
///
/// Tried: the key not asked for after the append has refused the poll. It is refused until it is given up.
#[tokio::test]
async fn what_another_node_has_taken_is_a_repetition() {
    let database = TestDatabase::new().await;
    let pool = &database.pool;
    let [one, other] = [(); 2].map(|()| Node::on(pool));
    let (organization, member) = (Organization::new(), somebody());
    let [added, granted] = [organization.added(member), organization.granted(member, "a")];
    assert_eq!(one.tell(std::slice::from_ref(&added)).await, (1, 0));
    assert_eq!(other.tell(&[added.clone(), granted.clone()]).await, (1, 1));
    assert_eq!(one.tell(&[added, granted]).await, (0, 2));
    assert_eq!(head(pool).await, 2);
}
