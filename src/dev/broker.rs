//! A broker inside this process that speaks the Kafka protocol, for `dev` and the tests.
//!
//! It is librdkafka's mock cluster, and no Kafka. Its limits, measured:
//!
//! - Memory only: what it held is gone when it is dropped.
//! - A partition keeps 5 MiB; what is older vanishes without a word.
//! - It listens on 127.0.0.1 alone, at a port the system chooses.
//! - The first join of a consumer group takes 3 s, a later rebalance up to 10 s.
//! - A waiting fetch isn't woken by a new message, so the delay of an idle consumer is its
//!   `fetch.wait.max.ms`: set it to 50 or less.
//! - No administration (topics can't be created through the protocol, but any topic that is asked for
//!   exists), no look-up by time, no compaction, and transactions that only look like ones.

use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};
use uuid::Uuid;

/// A running embedded broker; dropping it ends it.
pub struct EmbeddedBroker {
    bootstrap_servers: String,
    cluster_id: String,
    // The mock cluster belongs to this client and lives as long. `MockCluster` by itself can't cross threads.
    _owner: BaseProducer,
}

/// Why the embedded broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartBrokerError {
    /// librdkafka refused to make the client that holds the broker.
    #[error("the embedded broker can't be made")]
    Create(#[source] KafkaError),
    /// The client came up without a broker in it.
    #[error("this build of librdkafka has no mock cluster")]
    NoMockCluster,
    /// The topic can't be had: a bad name, or a number of partitions out of range.
    #[error("the embedded broker can't make topic {topic} with {partitions} partitions")]
    CreateTopic {
        /// The topic asked for.
        topic: String,
        /// The number of partitions asked for.
        partitions: i32,
        /// What librdkafka said.
        source: KafkaError,
    },
}

impl EmbeddedBroker {
    /// Starts a broker that has `topic` with `partitions` partitions (1 or more).
    ///
    /// # Errors
    /// When librdkafka can't make the broker or the topic.
    pub fn start(topic: &str, partitions: i32) -> Result<Self, StartBrokerError> {
        let owner: BaseProducer = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .create()
            .map_err(StartBrokerError::Create)?;
        let cluster = owner
            .client()
            .mock_cluster()
            .ok_or(StartBrokerError::NoMockCluster)?;
        cluster
            .create_topic(topic, partitions, 1)
            .map_err(|source| StartBrokerError::CreateTopic {
                topic: topic.to_owned(),
                partitions,
                source,
            })?;
        let bootstrap_servers = cluster.bootstrap_servers();
        drop(cluster);
        Ok(Self {
            bootstrap_servers,
            cluster_id: Uuid::new_v4().to_string(),
            _owner: owner,
        })
    }

    /// Where clients connect: `127.0.0.1:PORT`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// An identity that is new with every start, since offsets of an earlier broker mean nothing to this one.
    /// (What the broker itself answers to clients is the same text for every mock cluster.)
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EmbeddedBroker")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("cluster_id", &self.cluster_id)
            .finish_non_exhaustive()
    }
}
