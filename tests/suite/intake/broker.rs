//! A topic of the test's own on one of the brokers, whoever writes to it, and nodes that read it.

use std::time::{Duration, Instant};

use featbit_tokens::dev::EmbeddedBroker;
use featbit_tokens::intake::IntakeState;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{Options, TestApp, TestDatabase};

/// A join of the embedded broker takes 3 s, a rebalance 10 s, and other tests run beside this one.
const PATIENCE: Duration = Duration::from_secs(90);
pub(super) const PARTITIONS: i32 = 3;

pub(super) struct Broker {
    pub(super) bootstrap_servers: String,
    pub(super) topic: String,
    pub(super) is_embedded: bool,
    producer: BaseProducer,
    _embedded: Option<EmbeddedBroker>,
}

/// A message as its producer hands it over.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    pub(super) key: Option<Vec<u8>>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) partition: Option<i32>,
}

impl Sent {
    /// An event in structured mode, with its key.
    pub(super) fn structured(event: &Value) -> Self {
        let id = |name: &str| event["data"][name].as_str().unwrap_or_default().to_owned();
        Self {
            key: Some(format!("{}:{}", id("organizationId"), id("memberId")).into_bytes()),
            payload: Some(event.to_string().into_bytes()),
            ..Self::default()
        }
    }

    /// The same in binary mode.
    pub(super) fn binary(event: &Value) -> Self {
        let attributes = [
            ("ce_specversion", "specversion"),
            ("ce_id", "id"),
            ("ce_source", "source"),
            ("ce_type", "type"),
        ];
        let headers = attributes.map(|(header, name)| (header, event[name].as_str().unwrap().to_owned()));
        Self {
            headers: [&headers[..], &[("content-type", "application/json".to_owned())]].concat(),
            payload: Some(event["data"].to_string().into_bytes()),
            ..Self::structured(event)
        }
    }

    /// What nobody can read and nobody is named by.
    pub(super) fn garbage(text: &str) -> Self {
        Self {
            payload: Some(text.as_bytes().to_vec()),
            ..Self::default()
        }
    }

    pub(super) fn to(self, partition: i32) -> Self {
        Self {
            partition: Some(partition),
            ..self
        }
    }
}

impl Broker {
    pub(super) fn embedded() -> Self {
        let topic = name();
        let embedded = EmbeddedBroker::start(&topic, PARTITIONS).expect("the embedded broker");
        Self::at(embedded.bootstrap_servers().to_owned(), topic, Some(embedded))
    }

    /// Apache Kafka, if there is one; its topic comes into being with the first message.
    pub(super) fn apache() -> Option<Self> {
        match std::env::var("TEST_KAFKA_BOOTSTRAP_SERVERS") {
            Ok(servers) if !servers.is_empty() => Some(Self::at(servers, name(), None)),
            _ => {
                eprintln!("NOT RUN: TEST_KAFKA_BOOTSTRAP_SERVERS names no Apache Kafka");
                None
            }
        }
    }

    /// A broker that somebody else holds.
    pub(super) fn at(bootstrap_servers: String, topic: String, embedded: Option<EmbeddedBroker>) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &bootstrap_servers)
            .set("linger.ms", "0")
            .set("enable.idempotence", "true")
            .set("message.max.bytes", "2000000")
            .set("topic.metadata.refresh.interval.ms", "1000")
            .create()
            .expect("a producer");
        Self {
            bootstrap_servers,
            topic,
            is_embedded: embedded.is_some(),
            producer,
            _embedded: embedded,
        }
    }

    /// Writes these, and waits until the broker has them.
    pub(super) fn send(&self, messages: &[Sent]) {
        for message in messages {
            let headers = message
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(Header {
                        key,
                        value: Some(value),
                    })
                });
            let mut record: BaseRecord<'_, Vec<u8>, Vec<u8>> = BaseRecord::to(&self.topic).headers(headers);
            record.key = message.key.as_ref();
            record.payload = message.payload.as_ref();
            record.partition = message.partition;
            self.producer
                .send(record)
                .map_err(|(error, _)| error)
                .expect("a message is taken");
        }
        self.producer
            .flush(PATIENCE)
            .expect("the messages are with the broker");
    }

    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("KAFKA_BOOTSTRAP_SERVERS", self.bootstrap_servers.clone()),
            ("KAFKA_TOPIC", self.topic.clone()),
            ("KAFKA_GROUP_ID", format!("{}-group", self.topic)),
            // Not what is tested here, and many nodes share the machine.
            ("MAX_STALENESS_MS", "10000".to_owned()),
        ]
    }

    pub(super) async fn node(&self) -> TestApp {
        self.node_on(TestDatabase::new().await).await
    }

    pub(super) async fn node_on(&self, database: TestDatabase) -> TestApp {
        let options = Options {
            settings: self.settings(),
            database: Some(database),
        };
        TestApp::start_with(options).await
    }

    /// How many messages each partition holds, and what names the cluster.
    pub(super) fn ends(&self) -> (String, Vec<i64>) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap_servers)
            .create()
            .expect("a consumer");
        let ends = (0..PARTITIONS).map(|partition| {
            let (low, high) = consumer
                .fetch_watermarks(&self.topic, partition, PATIENCE)
                .expect("the watermarks");
            assert_eq!(low, 0, "nothing has vanished");
            high
        });
        let ends = ends.collect();
        (
            consumer
                .client()
                .fetch_cluster_id(PATIENCE)
                .expect("a cluster id"),
            ends,
        )
    }

    /// The stored offsets are the ends of the partitions.
    pub(super) async fn everything_was_consumed(&self, pool: &PgPool) {
        let (cluster_id, ends) = self.ends();
        let stored: Vec<(String, String, i32, i64)> = sqlx::query_as(
            "select cluster_id, topic, partition, next_offset from kafka_offsets order by partition",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        let expected: Vec<_> = (0..)
            .zip(ends)
            .filter(|(_, end)| *end > 0)
            .map(|(partition, end)| (cluster_id.clone(), self.topic.clone(), partition, end))
            .collect();
        assert_eq!(stored, expected);
    }
}

fn name() -> String {
    format!("intake-{}", Uuid::new_v4().simple())
}

/// Waits until this many messages were consumed, and decisions hold what came of them.
pub(super) async fn consumed(app: &TestApp, messages: usize) {
    let expected = i64::try_from(messages).unwrap();
    let since = Instant::now();
    loop {
        // The store may just be coming back.
        let stored: i64 =
            sqlx::query_scalar("select coalesce(sum(next_offset), 0)::bigint from kafka_offsets")
                .fetch_one(&app.database.pool)
                .await
                .unwrap_or(-1);
        if stored >= expected {
            break;
        }
        let state = app.app.intake.borrow().to_string();
        assert!(
            since.elapsed() < PATIENCE,
            "{stored} of {expected} messages consumed, {state}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    app.catch_up().await;
}

/// Waits for a state of the intake.
pub(super) async fn intake_is(app: &TestApp, what: &str, is: impl Fn(&IntakeState) -> bool) {
    soon(what, async || is(&app.app.intake.borrow()).then_some(())).await;
}

pub(super) async fn is_reading(app: &TestApp) {
    intake_is(
        app,
        "reading",
        |state| matches!(state, IntakeState::Reading { partitions } if *partitions > 0),
    )
    .await;
}

/// The readiness endpoint's status and body.
pub(super) async fn readiness(app: &TestApp) -> (u16, Value) {
    let answer = app
        .request(reqwest::Method::GET, "/health/readiness")
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

pub(super) async fn becomes_ready(app: &TestApp) {
    soon("ready", async || (readiness(app).await.0 == 200).then_some(())).await;
}

/// Like `eventually`, for what waits for a rebalance.
pub(super) async fn soon<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
