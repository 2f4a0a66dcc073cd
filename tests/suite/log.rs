//! The log: dense positions in the order of commits, each request all or nothing, nothing twice, nothing changed.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use featbit_tokens::log::{
    AppendOutcome, AppendRequest, Appender, IdempotencyEntry, InboxKey, NameChange, NewEvent, OffsetMove,
    Partition, Recorded, Room, Stream, TokenCount, UsedKey,
};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::support::check::log_is_whole;
use crate::support::{TestDatabase, running_appender};

/// One node's appender, running.
struct Node {
    appender: Appender,
    _stop: DropGuard,
}

impl Node {
    fn on(pool: &PgPool) -> Self {
        let (appender, stop) = running_appender(pool);
        Self {
            appender,
            _stop: stop,
        }
    }

    /// The outcome, without the hour.
    async fn append(&self, request: AppendRequest) -> AppendOutcome {
        match self.appender.append(request).await.expect("an outcome") {
            AppendOutcome::Appended { last: Some(last) } => appended(last.position),
            other => other,
        }
    }
}

fn stream(id: &str) -> Stream {
    Stream {
        aggregate_type: "organization",
        aggregate_id: id.into(),
    }
}

/// So many events to one stream, after this sequence.
pub fn request(id: &str, after: i64, events: i64) -> AppendRequest {
    let organization_id = Uuid::nil().into();
    AppendRequest {
        command_id: Uuid::new_v4(),
        streams: vec![(stream(id), after)],
        events: (1..=events)
            .map(|nth| NewEvent {
                stream: stream(id),
                sequence: after + nth,
                event_type: "organization.removed".to_owned(),
                event_version: "1.0.0".to_owned(),
                organization_id,
                payload: json!({ "event": "organization.removed", "organizationId": organization_id })
                    .to_string(),
                metadata: "{}".into(),
            })
            .collect(),
        inbox: Vec::new(),
        names: Vec::new(),
        offset: None,
        parked: Vec::new(),
        profiles: Vec::new(),
        idempotency: None,
        rests_on: Vec::new(),
    }
}

fn appended(position: i64) -> AppendOutcome {
    let at = DateTime::UNIX_EPOCH;
    AppendOutcome::Appended {
        last: Some(Recorded { position, at }),
    }
}

/// Two writers, the second of which commits before the first if it can, and a reader that moves on to whatever it sees.
/// Answers what the reader has seen, and what there is.
async fn race(database: &TestDatabase, write: [&str; 2], read: &str) -> (Vec<i64>, Vec<i64>) {
    let mut first = PgConnection::connect(&database.url).await.unwrap();
    let mut second = PgConnection::connect(&database.url).await.unwrap();
    let mut reader = PgConnection::connect(&database.url).await.unwrap();
    let mut seen: Vec<i64> = Vec::new();

    first.execute("begin").await.unwrap();
    first.execute(write[0]).await.unwrap();
    let statement = write[1].to_owned();
    let overtaking = tokio::spawn(async move {
        second.execute(statement.as_str()).await.unwrap();
    });
    // Long enough for an insert that does not have to wait; one that has to wait goes on waiting.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let position = seen.last().copied().unwrap_or(0);
    seen.extend(
        sqlx::query_scalar::<_, i64>(read)
            .bind(position)
            .fetch_all(&mut reader)
            .await
            .unwrap(),
    );
    first.execute("commit").await.unwrap();
    overtaking.await.unwrap();
    let position = seen.last().copied().unwrap_or(0);
    seen.extend(
        sqlx::query_scalar::<_, i64>(read)
            .bind(position)
            .fetch_all(&mut reader)
            .await
            .unwrap(),
    );
    let all = sqlx::query_scalar::<_, i64>(read)
        .bind(0_i64)
        .fetch_all(&mut reader)
        .await
        .unwrap();
    (seen, all)
}

/// Appends one event to a stream of its own.
fn append_statement(id: &str) -> String {
    let payload = json!({ "event": "organization.removed", "organizationId": Uuid::nil() });
    format!(
        "select append_to_log(
            array['{command}'::uuid], array[1], array['organization'], array['{id}'], array[0::bigint],
            array[1], array['organization'], array['{id}'], array[1::bigint], array['organization.removed'],
            array['1.0.0'], array['{nil}'::uuid], array['{payload}'], array['{{}}'],
            '{{}}'::int[], '{{}}'::text[], '{{}}'::text[], '[]', '[]', '[]', '[]', '[]')",
        command = Uuid::new_v4(),
        nil = Uuid::nil(),
    )
}

#[tokio::test]
async fn a_writer_that_commits_out_of_order_does_not_make_a_reader_skip() {
    let database = TestDatabase::new().await;
    let (one, two) = (append_statement("one"), append_statement("two"));
    let read = "select position from events where position > $1 order by position";
    let (seen, all) = race(&database, [&one, &two], read).await;
    assert_eq!(all, [1, 2]);
    assert_eq!(seen, all, "nothing skipped, nothing twice");
}

/// The test of the test above: with numbers from a bare identity column the same reader loses an event.
#[tokio::test]
async fn a_bare_identity_column_does_make_a_reader_skip() {
    let database = TestDatabase::new().await;
    database
        .pool
        .execute("create table bare (position bigint generated always as identity, id text)")
        .await
        .unwrap();
    let write = [
        "insert into bare (id) values ('one')",
        "insert into bare (id) values ('two')",
    ];
    let (seen, all) = race(
        &database,
        write,
        "select position from bare where position > $1 order by position",
    )
    .await;
    assert_eq!(all, [1, 2]);
    assert_eq!(seen, [2], "the first, which committed last, was never seen");
}

/// Tried without the lock in append_to_log: the writers get the same positions and fail on each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_tails_many_writers_sees_every_event_once_and_in_order() {
    const WRITERS: i64 = 6;
    const EACH: i64 = 60;
    let database = TestDatabase::new().await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let pool = database.pool.clone();
        writers.spawn(async move {
            // A node of its own: they contend for the lock in the database, not in this process.
            let node = Node::on(&pool);
            let mut requests = JoinSet::new();
            for nth in 0..EACH {
                let appender = node.appender.clone();
                requests.spawn(async move {
                    appender
                        .append(request(&format!("{writer}-{nth}"), 0, 1 + nth % 3))
                        .await
                });
            }
            while let Some(outcome) = requests.join_next().await {
                assert!(matches!(
                    outcome.unwrap().unwrap(),
                    AppendOutcome::Appended { last: Some(_) }
                ));
            }
        });
    }
    let expected = WRITERS * (0..EACH).map(|nth| 1 + nth % 3).sum::<i64>();
    let mut connection = database.pool.acquire().await.unwrap();
    let mut position = 0;
    let mut ids = HashSet::new();
    let since = Instant::now();
    while position < expected {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "the reader is at {position} of {expected}"
        );
        while let Some(writer) = writers.try_join_next() {
            writer.unwrap();
        }
        // Stops by itself at a gap.
        for event in projections::log::read_after(&mut connection, position, 50)
            .await
            .unwrap()
            .events
        {
            position = event.position;
            assert!(
                ids.insert((event.aggregate_id.clone(), event.sequence)),
                "nothing twice"
            );
        }
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    assert_eq!(i64::try_from(ids.len()).unwrap(), expected);
    assert_eq!(log_is_whole(&database.pool).await, expected);
}

/// Large events make small pages, so that a follower gets through each in its time, and never takes a page cut short for the
/// end of the log. Tried with no bound in bytes (all three in one page), and with `is_last` by the number of rows alone.
#[tokio::test]
async fn a_page_of_the_log_is_bounded_in_bytes_and_knows_whether_it_is_the_last() {
    const LARGE: usize = 2_500_000;
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    for id in ["a", "b", "c"] {
        let mut large = request(id, 0, 1);
        let payload =
            json!({ "event": "organization.removed", "organizationId": Uuid::nil(), "x": "x".repeat(LARGE) });
        large.events[0].payload = payload.to_string();
        node.append(large).await;
    }
    let mut connection = database.pool.acquire().await.unwrap();
    let first = projections::log::read_after(&mut connection, 0, 100)
        .await
        .unwrap();
    assert_eq!((first.events.len(), first.is_last), (2, false));
    let rest = projections::log::read_after(&mut connection, 2, 100)
        .await
        .unwrap();
    assert_eq!((rest.events.len(), rest.is_last), (1, true));
    let full = projections::log::read_after(&mut connection, 0, 1).await.unwrap();
    assert_eq!((full.events.len(), full.is_last), (1, false));
}

#[tokio::test]
async fn a_stream_that_has_moved_on_is_a_conflict_and_others_of_the_batch_stand() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    assert_eq!(node.append(request("a", 0, 1)).await, appended(1));
    let (late, other) = tokio::join!(node.append(request("a", 0, 1)), node.append(request("b", 0, 1)));
    assert_eq!(late, AppendOutcome::Conflict);
    assert_eq!(other, appended(2));
    assert_eq!(log_is_whole(&database.pool).await, 2);
}

/// By one call of the function itself: the appender would try the requests of a batch that fails one by one, and nobody
/// would see. Tried: positions begun as an empty array (its first element stood beside the first event).
#[tokio::test]
async fn a_request_that_does_not_stand_leaves_its_place_in_the_batch_to_nobody() {
    let database = TestDatabase::new().await;
    let [command_1, command_2, command_3] = [(); 3].map(|()| Uuid::new_v4());
    let payload =
        |id: &str| json!({ "event": "organization.removed", "organizationId": Uuid::nil(), "of": id });
    let outcomes: Vec<(i32, String, Option<i64>)> = sqlx::query_as(
        "select request, outcome, last_position from append_to_log(
            $1, '{1,2,3}', array_fill('organization'::text, '{3}'), '{a,b,c}', '{7,0,7}',
            '{1,1,2,3}', array_fill('organization'::text, '{4}'), '{a,a,b,c}', '{8,9,1,8}',
            array_fill('organization.removed'::text, '{4}'), array_fill('1.0.0'::text, '{4}'), $2, $3,
            array_fill('{}'::text, '{4}'), '{}', '{}', '{}', '[]', '[]', '[]', '[]', '[]')",
    )
    .bind([command_1, command_2, command_3])
    .bind([Uuid::nil(); 4])
    .bind(["a", "a", "b", "c"].map(|id| payload(id).to_string()))
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let expected = [
        (1, "conflict", None),
        (2, "appended", Some(1)),
        (3, "conflict", None),
    ];
    assert_eq!(
        outcomes,
        expected.map(|(nth, outcome, last)| (nth, outcome.to_owned(), last))
    );
    let stored: Vec<(String, serde_json::Value)> =
        sqlx::query_as("select aggregate_id, payload from events order by position")
            .fetch_all(&database.pool)
            .await
            .unwrap();
    assert_eq!(stored, [("b".to_owned(), payload("b"))]);
    assert_eq!(log_is_whole(&database.pool).await, 1);
}

/// Tried with the check of `streams` taken out of append_to_log: the guarded request is appended.
#[tokio::test]
async fn a_guard_on_a_stream_that_has_moved_on_is_a_conflict() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    node.append(request("member", 0, 1)).await;
    let mut guarded = request("token", 0, 1);
    guarded.streams.push((stream("member"), 0));
    assert_eq!(node.append(guarded.clone()).await, AppendOutcome::Conflict);
    guarded.command_id = Uuid::new_v4();
    guarded.streams = vec![(stream("token"), 0), (stream("member"), 1)];
    assert_eq!(node.append(guarded).await, appended(2));
}

/// As where a node knows a stream that the log has lost the end of. Tried: without the look at the event that is written after.
#[tokio::test]
async fn an_event_after_one_that_is_not_there_is_a_conflict() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    node.append(request("a", 0, 1)).await;
    assert_eq!(node.append(request("a", 2, 1)).await, AppendOutcome::Conflict);
    assert_eq!(node.append(request("b", 1, 1)).await, AppendOutcome::Conflict);
    assert_eq!(node.append(request("a", 1, 1)).await, appended(2));
    assert_eq!(log_is_whole(&database.pool).await, 2);
}

/// The batch is believed to be what nearly all are; where one request of it is not, the others stand all the same. Tried:
/// streams not looked at when an event is there already.
#[tokio::test]
async fn an_event_that_is_there_already_is_its_requests_conflict_alone() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    node.append(request("a", 0, 2)).await;
    for round in 0..5 {
        let id = format!("b-{round}");
        // Something in the way, so that the others wait for the same batch.
        let (_, stale, fresh, behind) = tokio::join!(
            node.append(request(&format!("filler-{round}"), 0, 1)),
            node.append(request("a", 1, 2)),
            node.append(request(&id, 0, 1)),
            node.append(request("a", 0, 1)),
        );
        assert_eq!(
            (stale, behind),
            (AppendOutcome::Conflict, AppendOutcome::Conflict)
        );
        assert!(matches!(fresh, AppendOutcome::Appended { .. }));
    }
    assert_eq!(log_is_whole(&database.pool).await, 12);
}

/// Tried with guards and writes of one stream let into the same batch: both are appended.
#[tokio::test]
async fn a_guard_never_shares_a_batch_with_a_write_to_its_stream() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    node.append(request("member", 0, 1)).await;
    for round in 1..20 {
        let mut guarded = request(&format!("token-{round}"), 0, 1);
        guarded.streams.push((stream("member"), round));
        // Something in the way, so that both wait for the same batch.
        let filler = node.append(request(&format!("filler-{round}"), 0, 1));
        let (_, write, guarded) = tokio::join!(
            filler,
            node.append(request("member", round, 1)),
            node.append(guarded)
        );
        assert!(matches!(write, AppendOutcome::Appended { .. }));
        assert_eq!(guarded, AppendOutcome::Conflict, "the write came first");
    }
}

/// Nothing else speaks against the second one; and it waits for the first, in a batch of its own. Tried: all that is waiting in
/// one batch (the second does not find the first, and is a conflict), and without the look at what it rests on.
#[tokio::test]
async fn a_request_stands_only_where_what_it_rests_on_does() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    node.append(request("a", 0, 1)).await;
    let mut there = 1;
    for round in 0..10 {
        let [in_vain, good] = [request("a", 0, 1), request(&format!("first-{round}"), 0, 1)];
        let resting = |on: &[&AppendRequest], id: &str| AppendRequest {
            rests_on: on.iter().map(|request| request.command_id).collect(),
            ..request(&format!("{id}-{round}"), 0, 1)
        };
        let [behind_good, behind_both] = [resting(&[&good], "good"), resting(&[&good, &in_vain], "both")];
        let last = resting(&[&behind_both], "last");
        // Something in the way, so that all of them wait.
        let (_, in_vain, good, behind_good, behind_both, last) = tokio::join!(
            node.append(request(&format!("filler-{round}"), 0, 1)),
            node.append(in_vain),
            node.append(good),
            node.append(behind_good.clone()),
            node.append(behind_both),
            node.append(last),
        );
        for stands in [good, behind_good] {
            assert!(matches!(stands, AppendOutcome::Appended { .. }), "{stands:?}");
        }
        assert_eq!([in_vain, behind_both, last], [AppendOutcome::Conflict; 3]);
        there += 3;
        assert_eq!(log_is_whole(&database.pool).await, there);
    }
    let of_another_node = AppendRequest {
        rests_on: vec![Uuid::new_v4()],
        ..request("b", 0, 1)
    };
    assert_eq!(node.append(of_another_node).await, AppendOutcome::Conflict);
}

#[tokio::test]
async fn a_command_resubmitted_stands_once_and_answers_as_before() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let command = request("a", 0, 2);
    assert_eq!(node.append(command.clone()).await, appended(2));
    node.append(request("b", 0, 1)).await;
    assert_eq!(node.append(command).await, appended(2));
    assert_eq!(log_is_whole(&database.pool).await, 3);
}

/// Tried: commands looked for only where nothing is believed (the guard that has moved on makes it a conflict).
#[tokio::test]
async fn a_command_resubmitted_stands_also_where_what_it_rested_on_has_moved_on() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    node.append(request("guard", 0, 1)).await;
    let mut command = request("a", 0, 1);
    command.streams.push((stream("guard"), 1));
    assert_eq!(node.append(command.clone()).await, appended(2));
    node.append(request("guard", 1, 1)).await;
    assert_eq!(node.append(command).await, appended(2));
    assert_eq!(log_is_whole(&database.pool).await, 3);
}

/// Without an event there is only the key of the command to find it by. Tried: without the row in the inbox, and with one for
/// every command.
#[tokio::test]
async fn a_command_without_events_resubmitted_stands_once_too() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let mut command = request("a", 0, 0);
    command.streams.clear();
    command.offset = Some(OffsetMove {
        partition: Partition {
            cluster_id: "c".to_owned(),
            topic: "t".to_owned(),
            partition: 0,
        },
        expected: None,
        next_offset: 10,
    });
    for _ in 0..2 {
        let outcome = node.append(command.clone()).await;
        assert_eq!(outcome, AppendOutcome::Appended { last: None });
    }
    command.command_id = Uuid::new_v4();
    assert_eq!(node.append(command).await, AppendOutcome::OffsetFenced);
    node.append(request("a", 0, 1)).await;
    let keys: i64 = sqlx::query_scalar("select count(*) from inbox")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(keys, 1, "and one with events leaves no key");
}

/// Resubmitted after the schema was brought up to date. Tried: commands with events not looked for in the inbox.
#[tokio::test]
async fn a_command_of_a_node_of_before_is_found_by_its_key() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let command = request("a", 0, 2);
    assert_eq!(node.append(command.clone()).await, appended(2));
    let as_before = format!(
        "alter table events disable trigger user;
         update events set command_id = null;
         insert into inbox values ('', '{}', 1, 2)",
        command.command_id
    );
    database.pool.execute(as_before.as_str()).await.unwrap();
    assert_eq!(node.append(command.clone()).await, appended(2));
    database.pool.execute("delete from inbox").await.unwrap();
    assert_eq!(node.append(command).await, AppendOutcome::Conflict);
}

#[tokio::test]
async fn a_key_is_used_once_and_nothing_of_a_repetition_stands() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let key = InboxKey {
        source: "/featbit".to_owned(),
        key: "1".to_owned(),
    };
    let with_key = |id: &str| AppendRequest {
        inbox: vec![key.clone()],
        ..request(id, 0, 1)
    };
    assert_eq!(node.append(with_key("a")).await, appended(1));
    assert_eq!(node.append(with_key("b")).await, AppendOutcome::Repeated);
    assert_eq!(log_is_whole(&database.pool).await, 1);
}

/// By one call of the function itself. Tried: keys not looked for when one is there already: none of the batch stands; and
/// without the end to a request that names one key twice: it goes on until the statement's time is up.
#[tokio::test]
async fn a_used_key_is_its_requests_alone() {
    let database = TestDatabase::new().await;
    let append = async |keys: [&str; 3]| {
        let [command_1, command_2, command_3] = [(); 3].map(|()| Uuid::new_v4());
        let outcomes: Result<Vec<(String, Option<i64>)>, _> = sqlx::query_as(
            "select outcome, last_position from append_to_log(
                $1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
                '{1,1,3}', '{/tests,/tests,/tests}', $2, '[]', '[]', '[]', '[]', '[]')",
        )
        .bind([command_1, command_2, command_3])
        .bind(keys)
        .fetch_all(&database.pool)
        .await;
        outcomes.map(|outcomes| {
            outcomes
                .into_iter()
                .map(|(outcome, _)| outcome)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(append(["a", "b", "c"]).await.unwrap(), ["appended"; 3]);
    assert_eq!(
        append(["d", "b", "e"]).await.unwrap(),
        ["repeated", "appended", "appended"]
    );
    assert_eq!(
        append(["d", "f", "e"]).await.unwrap(),
        ["appended", "appended", "repeated"]
    );
    let refused = append(["g", "g", "h"])
        .await
        .unwrap_err()
        .into_database_error()
        .unwrap();
    assert_eq!(refused.constraint(), Some("inbox_pkey"));
    assert_eq!(append(["g", "i", "h"]).await.unwrap(), ["appended"; 3]);
}

#[tokio::test]
async fn a_name_is_one_tokens_until_it_is_freed() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let named = |id: &str, token: Uuid, reserve: bool| {
        let name = NameChange {
            reserve,
            organization_id: Uuid::nil().into(),
            name_key: "ci".to_owned(),
            token_id: token.into(),
            room: None,
        };
        AppendRequest {
            names: vec![name],
            ..request(id, 0, 1)
        }
    };
    assert_eq!(node.append(named("a", one, true)).await, appended(1));
    assert_eq!(node.append(named("b", two, true)).await, AppendOutcome::NameTaken);
    assert_eq!(
        node.append(named("c", two, false)).await,
        appended(2),
        "nobody frees another's name"
    );
    assert_eq!(node.append(named("d", two, true)).await, AppendOutcome::NameTaken);
    assert_eq!(node.append(named("e", one, false)).await, appended(3));
    assert_eq!(node.append(named("f", two, true)).await, appended(4));
    // Tried: taken once more by whose it is: the database refuses it.
    assert_eq!(node.append(named("g", two, true)).await, appended(5));
}

/// Before the schema was brought up to date a node had begun, and it goes on. Tried: names as jsonb passed over; tokens that the
/// node did not count taken for none.
#[tokio::test]
async fn names_are_taken_from_a_node_of_before_too() {
    let database = TestDatabase::new().await;
    let append = async |name_key: &str, token: u128, reserve: bool, at_most: Option<u32>| -> String {
        let name = json!({
            "request": 1, "reserve": reserve, "organization_id": Uuid::nil(), "name_key": name_key,
            "token_id": Uuid::from_u128(token), "at_most": at_most,
        });
        sqlx::query_scalar(
            "select outcome from append_to_log(
                $1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}',
                $2, '[]', '[]', '[]', '[]', '{}', '{}')",
        )
        .bind([Uuid::new_v4()])
        .bind(json!([name]))
        .fetch_one(&database.pool)
        .await
        .unwrap()
    };
    assert_eq!(append("ci", 1, true, None).await, "appended");
    assert_eq!(append("ci", 2, true, None).await, "name_taken");
    assert_eq!(append("ci", 1, false, None).await, "appended");
    assert_eq!(append("ci", 2, true, Some(2)).await, "appended");
    assert_eq!(append("app", 3, true, Some(2)).await, "appended");
    assert_eq!(append("web", 4, true, Some(2)).await, "full");
}

/// Also where it was appended by an answer that was lost. Tried: without the answer for a duplicate in append_to_log.
#[tokio::test]
async fn the_answer_says_when_the_event_was_recorded() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let command = request("a", 0, 2);
    for _ in 0..2 {
        let outcome = node.appender.append(command.clone()).await.unwrap();
        let at: DateTime<Utc> = sqlx::query_scalar("select recorded_at from events where position = 2")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        assert_eq!(
            outcome,
            AppendOutcome::Appended {
                last: Some(Recorded { position: 2, at })
            }
        );
    }
}

/// Tried: without its check in append_to_log. (Two of one key in a batch the database refuses by itself; the claim spares it
/// the trouble.)
#[tokio::test]
async fn an_idempotency_key_stands_for_one_command_until_it_is_30_days_old() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let keyed = |id: &str, route: &str| AppendRequest {
        idempotency: Some(IdempotencyEntry {
            key: UsedKey {
                organization_id: Uuid::nil().into(),
                member_id: Uuid::nil().into(),
                route: route.to_owned(),
                key: "k".to_owned(),
            },
            body_digest: "00".repeat(32),
            token_id: Uuid::new_v4().into(),
        }),
        ..request(id, 0, 1)
    };
    let (one, two) = tokio::join!(node.append(keyed("a", "/x")), node.append(keyed("b", "/x")));
    assert_eq!((one, two), (appended(1), AppendOutcome::KeyUsed));
    assert_eq!(node.append(keyed("b", "/y")).await, appended(2));
    for (age, outcome) in [
        ("29 days 23 hours", AppendOutcome::KeyUsed),
        ("30 days", appended(3)),
    ] {
        sqlx::query("update idempotency_keys set recorded_at = now() - $1::interval where route = '/x'")
            .bind(age)
            .execute(&database.pool)
            .await
            .unwrap();
        assert_eq!(node.append(keyed("c", "/x")).await, outcome, "{age}");
    }
    assert_eq!(node.append(keyed("d", "/x")).await, AppendOutcome::KeyUsed);
    assert_eq!(log_is_whole(&database.pool).await, 3);
}

/// Tried: without the others of the batch counted (all ten were appended).
#[tokio::test]
async fn an_organization_is_never_given_more_tokens_than_it_may_have_not_even_within_a_batch() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let mut appends = JoinSet::new();
    for nth in 0..10 {
        let appender = node.appender.clone();
        let request = one_of_three(&nth.to_string(), 1, 0, 0);
        appends.spawn(async move { appender.append(request).await.unwrap() });
    }
    let outcomes = appends.join_all().await;
    let is_appended = |outcome: &&AppendOutcome| matches!(outcome, AppendOutcome::Appended { .. });
    assert_eq!(outcomes.iter().filter(is_appended).count(), 3, "{outcomes:?}");
    assert_eq!(
        node.append(one_of_three("late", 1, 3, 3)).await,
        AppendOutcome::Full
    );
}

/// By the node that asks, and maybe some events ago. Tried: without the events since (both conflicts were appended); with those
/// of every organization (nothing was, elsewhere); without either look at where the log ends; without a bound to the events since.
#[tokio::test]
async fn what_has_happened_since_an_organizations_tokens_were_counted_may_be_one_more_each() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    for (position, id) in (1..).zip(["a", "b"]) {
        assert_eq!(node.append(one_of_three(id, 1, 0, 0)).await, appended(position));
    }
    assert_eq!(
        node.append(one_of_three("c", 1, 1, 0)).await,
        AppendOutcome::Conflict
    );
    assert_eq!(
        node.append(one_of_three("c", 1, 2, 1)).await,
        AppendOutcome::Conflict
    );
    assert_eq!(node.append(one_of_three("c", 1, 3, 0)).await, AppendOutcome::Full);
    assert_eq!(node.append(one_of_three("c", 1, 1, 1)).await, appended(3));
    for (position, id) in (4..).zip(["d", "e", "f"]) {
        assert_eq!(node.append(one_of_three(id, 2, 0, 0)).await, appended(position));
    }
    // Counted in an end of the log that was lost.
    assert_eq!(
        node.append(one_of_three("g", 3, 0, 7)).await,
        AppendOutcome::Conflict
    );
    assert_eq!(node.append(one_of_three("g", 3, 0, 6)).await, appended(7));
    // So long ago that the events since are not gone through, as long as others wait.
    assert_eq!(node.append(request("h", 0, 10_000)).await, appended(10_007));
    assert_eq!(
        node.append(one_of_three("i", 4, 0, 6)).await,
        AppendOutcome::Conflict
    );
    assert_eq!(node.append(one_of_three("i", 4, 0, 7)).await, appended(10_008));
}

/// A new token of an organization that may have three, and had so many when the log went up to there.
fn one_of_three(id: &str, organization: u128, tokens: i64, as_of: i64) -> AppendRequest {
    let organization_id = Uuid::from_u128(organization).into();
    let mut request = request(id, 0, 1);
    request.events[0].organization_id = organization_id;
    request.names.push(NameChange {
        reserve: true,
        organization_id,
        name_key: id.to_owned(),
        token_id: Uuid::new_v4().into(),
        room: Some(Room {
            at_most: 3,
            counted: TokenCount { tokens, as_of },
        }),
    });
    request
}

#[tokio::test]
async fn an_offset_moves_with_its_events_and_only_from_where_it_was() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let partition = Partition {
        cluster_id: "c".to_owned(),
        topic: "t".to_owned(),
        partition: 0,
    };
    let moving = |id: &str, expected: Option<i64>, next_offset: i64| {
        let offset = OffsetMove {
            partition: partition.clone(),
            expected,
            next_offset,
        };
        AppendRequest {
            offset: Some(offset),
            ..request(id, 0, 1)
        }
    };
    assert_eq!(node.append(moving("a", None, 10)).await, appended(1));
    assert_eq!(
        node.append(moving("b", None, 20)).await,
        AppendOutcome::OffsetFenced
    );
    assert_eq!(
        node.append(moving("c", Some(5), 20)).await,
        AppendOutcome::OffsetFenced
    );
    assert_eq!(node.append(moving("d", Some(10), 20)).await, appended(2));
    assert_eq!(log_is_whole(&database.pool).await, 2);
}

/// Tried without the triggers: all three statements succeed.
#[tokio::test]
async fn the_database_refuses_to_change_an_event() {
    let database = TestDatabase::new().await;
    Node::on(&database.pool).append(request("a", 0, 1)).await;
    for statement in [
        "update events set metadata = '{}'",
        "delete from events",
        "truncate events",
    ] {
        let error = database.pool.execute(statement).await.unwrap_err().to_string();
        assert!(error.contains("events are never changed"), "{statement}: {error}");
    }
    assert_eq!(log_is_whole(&database.pool).await, 1);
}

/// A connection that breaks leaves the outcome unknown; the same command id asks again.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_lose_nothing_and_double_nothing() {
    let database = TestDatabase::new().await;
    let node = Node::on(&database.pool);
    let stop = CancellationToken::new();
    let breaking = tokio::spawn({
        let (url, stop) = (database.url.clone(), stop.clone());
        async move {
            let mut admin = PgConnection::connect(&url).await.unwrap();
            // Now and then there is time enough even on a slow machine.
            for pause in (20..=200).step_by(20).cycle() {
                if stop.is_cancelled() {
                    break;
                }
                let statement = "select pg_terminate_backend(pid) from pg_stat_activity
                                 where datname = current_database() and pid <> pg_backend_pid()";
                admin.execute(statement).await.unwrap();
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    });
    let mut requests = JoinSet::new();
    for nth in 0..300 {
        let appender = node.appender.clone();
        requests.spawn(async move {
            tokio::time::sleep(Duration::from_millis(nth * 5)).await;
            appender.append(request(&nth.to_string(), 0, 1)).await
        });
    }
    let mut positions = HashSet::new();
    while let Some(outcome) = requests.join_next().await {
        match outcome.unwrap().unwrap() {
            AppendOutcome::Appended { last: Some(last) } => assert!(positions.insert(last.position)),
            other => panic!("{other:?}"),
        }
    }
    stop.cancel();
    breaking.await.unwrap();
    // Connections of before may still be breaking.
    let unbroken = PgPool::connect(&database.url).await.unwrap();
    assert_eq!(log_is_whole(&unbroken).await, 300);
}
