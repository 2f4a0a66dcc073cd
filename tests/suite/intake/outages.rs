//! What is not there, or goes away and comes back: the topic, the brokers, the store. And what an operator can set.

use std::time::{Duration, Instant};

use featbit_tokens::app::{App, StartError};
use featbit_tokens::config::{Config, Environment};
use featbit_tokens::intake::IntakeState;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::broker::{Broker, Sent, becomes_ready, consumed, intake_is, is_reading, readiness};
use super::on_each_broker;
use super::once::{away, back};
use super::somebody::Somebody;
use crate::support::{JWT_KEY, Options, TestApp, TestDatabase};

/// A node stops within this, whatever is out of reach.
const STOPS_WITHIN: Duration = Duration::from_secs(12);

on_each_broker! {
    a_topic_that_is_not_there_yet_is_read_from_its_beginning_when_it_is,
    a_store_that_was_away_gets_everything_in_order,
    an_operators_properties_reach_the_client_but_never_move_an_offset,
}

async fn a_topic_that_is_not_there_yet_is_read_from_its_beginning_when_it_is(broker: Broker) {
    let app = broker.node().await;
    if !broker.is_embedded {
        // Where any topic exists that is asked for there is nothing to wait for.
        let (status, body) = readiness(&app).await;
        assert_eq!(status, 503, "{body}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(*app.app.intake.borrow(), IntakeState::Connecting);
    }
    let somebody = Somebody::new();
    broker.send(&[Sent::structured(&somebody.added(1))]);
    consumed(&app, 1).await;
    assert_eq!(somebody.reason(&app).await, "allowed");
    becomes_ready(&app).await;
    app.stop().await;
}

async fn a_store_that_was_away_gets_everything_in_order(broker: Broker) {
    let app = broker.node().await;
    let somebody = Somebody::new();
    broker.send(&[Sent::structured(&somebody.granted(0, "a"))]);
    consumed(&app, 1).await;
    for round in 0..3 {
        away(&app.database).await;
        for partition in 0..3 {
            broker.send(&[Sent::garbage(&format!("{round}")).to(partition)]);
        }
        broker.send(
            &[somebody.granted(0, "b"), somebody.revoked(0)]
                .each_ref()
                .map(Sent::structured),
        );
        intake_is(&app, "the store is missed", |state| {
            *state == IntakeState::Waiting
        })
        .await;
        let (status, body) = readiness(&app).await;
        assert_eq!(status, 503, "{body}");
        back(&app.database).await;
        consumed(&app, 1 + 5 * (round + 1)).await;
    }
    assert_eq!(somebody.heard(&app.database.pool).await, [1, 2, 3, 4, 5, 6, 7]);
    let parked: i64 = sqlx::query_scalar("select count(*) from parked_messages")
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
    assert_eq!(parked, 9);
    broker.everything_was_consumed(&app.database.pool).await;
    becomes_ready(&app).await;

    away(&app.database).await;
    broker.send(&[Sent::garbage("last")]);
    intake_is(&app, "the store is missed", |state| {
        *state == IntakeState::Waiting
    })
    .await;
    stops_in_time(app).await;
}

/// Tried: with the properties set after ours nothing is read.
async fn an_operators_properties_reach_the_client_but_never_move_an_offset(broker: Broker) {
    let somebody = Somebody::new();
    broker.send(&[Sent::structured(&somebody.added(1))]);
    let with = |property: &'static str, value: &str| {
        let mut settings = broker.settings();
        settings.push((property, value.to_owned()));
        settings
    };
    let database = TestDatabase::new().await;
    for (property, value) in [
        ("KAFKA_PROPERTY_SESSION_TIMEOUT_MS", "soon"),
        ("KAFKA_PROPERTY_NO_SUCH_THING", "1"),
    ] {
        let settings = with(property, value);
        let mut environment = Environment::of_process().with([
            ("DATABASE_URL", database.url.clone()),
            ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("JWT_KEY", JWT_KEY.to_owned()),
        ]);
        for (name, value) in settings {
            environment = environment.with([(name, value)]);
        }
        let refused = App::start(Config::from_environment(&environment).unwrap()).await;
        assert!(
            matches!(refused, Err(StartError::Intake(_))),
            "{property}: {refused:?}"
        );
    }
    let mut settings = with("KAFKA_PROPERTY_AUTO_OFFSET_RESET", "latest");
    settings.push((
        "KAFKA_PROPERTY_PARTITION_ASSIGNMENT_STRATEGY",
        "cooperative-sticky".to_owned(),
    ));
    settings.push(("KAFKA_PROPERTY_ENABLE_AUTO_COMMIT", "true".to_owned()));
    let app = TestApp::start_with(Options {
        settings,
        database: Some(database),
    })
    .await;
    consumed(&app, 1).await;
    assert_eq!(somebody.reason(&app).await, "allowed");
    app.stop().await;
}

/// A mock cluster whose brokers can be taken away.
struct Mock(BaseProducer);

impl Mock {
    fn start() -> (Self, Broker) {
        let owner: BaseProducer = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .create()
            .unwrap();
        let topic = "featbit-membership";
        let servers = {
            let cluster = owner.client().mock_cluster().unwrap();
            cluster.create_topic(topic, 3, 1).unwrap();
            cluster.bootstrap_servers()
        };
        (Self(owner), Broker::at(servers, topic.to_owned(), None))
    }

    fn down(&self) {
        self.0.client().mock_cluster().unwrap().broker_down(-1).unwrap();
    }

    fn up(&self) {
        self.0.client().mock_cluster().unwrap().broker_up(-1).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_without_brokers_and_reads_when_they_come() {
    let (mock, broker) = Mock::start();
    mock.down();
    let app = broker.node().await;
    let (status, body) = readiness(&app).await;
    assert_eq!(status, 503, "{body}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*app.app.intake.borrow(), IntakeState::Connecting);
    mock.up();
    let somebody = Somebody::new();
    broker.send(&[Sent::structured(&somebody.added(1))]);
    consumed(&app, 1).await;
    assert_eq!(somebody.reason(&app).await, "allowed");
    app.stop().await;

    mock.down();
    let app = broker.node().await;
    stops_in_time(app).await;
}

/// Tried: without `look_for_brokers` the node does not get ready again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_that_the_brokers_are_away_and_goes_on_when_they_are_back() {
    let (mock, broker) = Mock::start();
    let app = broker.node().await;
    let somebody = Somebody::new();
    broker.send(&[Sent::structured(&somebody.added(1))]);
    consumed(&app, 1).await;
    for version in 2..4 {
        mock.down();
        intake_is(&app, "the brokers are missed", |state| {
            *state == IntakeState::OutOfReach
        })
        .await;
        let (status, body) = readiness(&app).await;
        assert_eq!(status, 503, "{body}");
        assert_eq!(somebody.reason(&app).await, "allowed", "decisions go on");
        mock.up();
        is_reading(&app).await;
        broker.send(&[Sent::structured(&somebody.granted(version, "x"))]);
        consumed(&app, usize::try_from(version).unwrap()).await;
        becomes_ready(&app).await;
    }
    assert_eq!(somebody.heard(&app.database.pool).await, [1, 2, 3]);
    mock.down();
    intake_is(&app, "the brokers are missed", |state| {
        *state == IntakeState::OutOfReach
    })
    .await;
    stops_in_time(app).await;
}

async fn stops_in_time(app: TestApp) {
    let since = Instant::now();
    app.stop().await;
    assert!(
        since.elapsed() < STOPS_WITHIN,
        "it took {:?} to stop",
        since.elapsed()
    );
}
