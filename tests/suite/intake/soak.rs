//! The short form of `scripts/soak`: two nodes are told a story while harm is done to them, and what they made of it is held
//! against a naive model.

use std::time::Duration;

use bench::membership::{Check, Checked, Said, Story};
use sqlx::PgPool;

use super::broker::{Broker, Sent, soon};
use super::on_each_broker;
use super::once::{away, back};
use crate::support::{Process, TestDatabase, free_port};

on_each_broker! {
    a_story_that_is_told_through_faults_is_what_the_model_makes_of_it,
}

/// Longer than a session: the other node takes the partitions.
const FROZEN: Duration = Duration::from_secs(8);

/// The check itself is tried by what is planted at the end.
async fn a_story_that_is_told_through_faults_is_what_the_model_makes_of_it(broker: Broker) {
    let story = Story {
        seed: 23,
        members: 60,
        events: 4000,
        repeats: 50,
        garbage: 300,
        people: None,
        first: 0,
    };
    let database = TestDatabase::new().await;
    let ports = [free_port(), free_port()];
    let node = |port| Process::start(&database, port, broker.settings());
    let (mut one, two) = (node(ports[0]), node(ports[1]));
    let said: Vec<Said> = story.beginning().into_iter().chain(story.rest()).collect();
    let quarters: Vec<&[Said]> = said.chunks(said.len().div_ceil(4)).collect();
    let mut told = 0;
    for (nth, quarter) in (0..).zip(quarters) {
        let messages: Vec<Sent> = quarter.iter().map(|said| sent(&story, *said)).collect();
        broker.send(&messages);
        told += messages.len();
        match nth {
            1 => {
                drop(one);
                one = node(ports[0]);
            }
            2 => {
                two.pause();
                tokio::time::sleep(FROZEN).await;
                two.resume();
            }
            3 => {
                away(&database).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                back(&database).await;
            }
            _ => consumed(&database.pool, told).await,
        }
    }
    consumed(&database.pool, told).await;
    followed(&database.pool).await;
    assert_eq!(check(&story, &database).await.differences, [""; 0]);

    let planted = [
        // A permission that was lost, or one that came from nowhere.
        "update members_v1.members set state = (state::jsonb || '{\"delivery\": \"Blocked\"}')::json
         where ctid = (select ctid from members_v1.members where not is_blocked limit 1)",
        // A message that was never taken.
        "delete from inbox where ctid = (select ctid from inbox where source = '/bench' limit 1)",
        // And one that was parked, and is gone.
        "delete from parked_messages where ctid = (select ctid from parked_messages where reason = 'payload_is_not_json' limit 1)",
    ];
    for (count, plant) in (1..).zip(planted) {
        sqlx::query(plant).execute(&database.pool).await.unwrap();
        let differences = check(&story, &database).await.differences;
        assert_eq!(differences.len(), count, "{differences:?}");
    }
    drop((one, two));
}

fn sent(story: &Story, said: Said) -> Sent {
    let (key, value) = story.message(said);
    Sent {
        key: key.map(String::into_bytes),
        payload: Some(value.into_bytes()),
        ..Sent::default()
    }
}

async fn check(story: &Story, database: &TestDatabase) -> Checked {
    let check = Check {
        story: story.clone(),
        database_url: database.url.clone(),
        url: Vec::new(),
        tokens: None,
    };
    check.run().await.expect("the database answers")
}

async fn consumed(pool: &PgPool, messages: usize) {
    let expected = i64::try_from(messages).unwrap();
    soon("consumed", async || {
        let stored: Result<i64, _> =
            sqlx::query_scalar("select coalesce(sum(next_offset), 0)::bigint from kafka_offsets")
                .fetch_one(pool)
                .await;
        // The store may just be coming back.
        stored.is_ok_and(|stored| stored >= expected).then_some(())
    })
    .await;
}

async fn followed(pool: &PgPool) {
    soon("read models", async || {
        let is_level: Result<bool, _> = sqlx::query_scalar(
            "select min(position) = (select max(position) from events) from read_models where is_live",
        )
        .fetch_one(pool)
        .await;
        is_level.unwrap_or(false).then_some(())
    })
    .await;
}
