//! Reads the membership topic, on a thread of its own. Where to read on is in PostgreSQL and moves with the events; the
//! broker's own offsets are written for lag tools only and never read. The assignment is set once, in the rebalance
//! callback, from the stored offsets. A poll that can't be appended is tried again, paused, until it can.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use sqlx::PgPool;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::member_events::understand;
use crate::commands::membership::{Poll, RawMessage, Taken};
use crate::commands::{CommandError, Commands};
use crate::log::{OffsetMove, Partition};
use crate::report::Report;

/// Messages in one poll.
const MAX_POLL: usize = 500;
/// How long the first message of a poll is waited for.
const WAIT_FOR_FIRST: Duration = Duration::from_millis(100);
/// Between two tries of a poll that can't be appended.
const RETRY: Duration = Duration::from_millis(250);
/// Between two tries to reach the brokers at the start.
const RECONNECT: Duration = Duration::from_secs(1);
/// How long the brokers may take to name their cluster.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(5);

/// Where and as whom to read.
#[derive(Clone, Debug)]
pub struct IntakeConfig {
    /// `host:port`, comma-separated.
    pub bootstrap_servers: String,
    /// The membership topic.
    pub topic: String,
    /// The consumer group.
    pub group_id: String,
    /// What names the cluster for ever; none: ask it.
    pub cluster_id: Option<String>,
    /// librdkafka's own properties.
    pub properties: BTreeMap<String, String>,
}

/// How the intake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntakeState {
    /// There is no Kafka here.
    Off,
    /// Not part of the group yet.
    Connecting,
    /// Part of the group, with this many partitions.
    Reading {
        /// How many partitions are this node's.
        partitions: usize,
    },
    /// The store does not take what was read.
    Waiting,
    /// It can't go on without an operator.
    Stopped(String),
}

impl IntakeState {
    /// Why the node is not ready for it; none where it is.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        match self {
            Self::Off | Self::Reading { .. } => None,
            Self::Connecting | Self::Waiting | Self::Stopped(_) => Some(format!("membership intake: {self}")),
        }
    }
}

impl fmt::Display for IntakeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Connecting => f.write_str("connecting"),
            Self::Reading { partitions } => write!(f, "reading {partitions} partitions"),
            Self::Waiting => f.write_str("waiting for the store"),
            Self::Stopped(reason) => write!(f, "stopped: {reason}"),
        }
    }
}

/// Why the intake can't start.
#[derive(Debug, Error)]
pub enum StartIntakeError {
    /// librdkafka does not take the configuration.
    #[error("the Kafka configuration is refused")]
    Configuration(#[from] KafkaError),
    /// No thread.
    #[error("no thread for the intake")]
    Thread(#[from] std::io::Error),
}

/// The consumer, before it runs.
pub struct Intake {
    consumer: BaseConsumer<Assignments>,
    commands: Commands,
    state: Arc<watch::Sender<IntakeState>>,
    stop: CancellationToken,
    runtime: Handle,
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Intake")
    }
}

impl Intake {
    /// A consumer of the group; it joins when it runs.
    ///
    /// # Errors
    /// Where librdkafka does not take the configuration.
    pub fn new(
        config: IntakeConfig,
        pool: PgPool,
        commands: Commands,
        state: watch::Sender<IntakeState>,
        stop: CancellationToken,
    ) -> Result<Self, StartIntakeError> {
        let mut client = ClientConfig::new();
        for (name, value) in &config.properties {
            client.set(name, value);
        }
        client
            .set("bootstrap.servers", &config.bootstrap_servers)
            .set("group.id", &config.group_id)
            // Offsets are ours: a missing or impossible one must stop us, never jump.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed");
        for (name, value) in [("fetch.wait.max.ms", "50"), ("session.timeout.ms", "6000")] {
            if !config.properties.contains_key(name) {
                client.set(name, value);
            }
        }
        let state = Arc::new(state);
        let runtime = Handle::current();
        let context = Assignments {
            pool,
            topic: config.topic.clone(),
            cluster_id: Mutex::new(config.cluster_id),
            next: Mutex::new(HashMap::new()),
            state: Arc::clone(&state),
            runtime: runtime.clone(),
        };
        let consumer: BaseConsumer<Assignments> = client.create_with_context(context)?;
        Ok(Self {
            consumer,
            commands,
            state,
            stop,
            runtime,
        })
    }

    /// Reads on a thread of its own until it is told to stop; the thread ends when the receiver gets its word.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn spawn(self) -> Result<tokio::sync::oneshot::Receiver<()>, StartIntakeError> {
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("intake".to_owned())
            .spawn(move || {
                self.run();
                // Whoever waits for the end may have gone.
                let _ = ended.send(());
            })?;
        Ok(end)
    }

    fn run(&self) {
        if !self.join_group() {
            return;
        }
        while !self.stop.is_cancelled() {
            match self.poll() {
                Ok(polls) => {
                    for (partition, poll) in polls {
                        self.take(&partition, &poll);
                    }
                }
                Err(reason) => {
                    tracing::error!(reason, "the membership intake has stopped");
                    self.state.send_replace(IntakeState::Stopped(reason));
                    self.runtime.block_on(self.stop.cancelled());
                }
            }
        }
        self.consumer.unsubscribe();
    }

    /// Asks the cluster for its name and joins the group; false when told to stop before that.
    fn join_group(&self) -> bool {
        let context = self.consumer.context();
        while context.cluster_id().is_none() {
            if self.stop.is_cancelled() {
                return false;
            }
            match self.consumer.client().fetch_cluster_id(CLUSTER_PATIENCE) {
                Some(cluster_id) => context.name_cluster(cluster_id),
                None => {
                    tracing::warn!("the Kafka brokers are out of reach, trying again");
                    self.sleep(RECONNECT);
                }
            }
        }
        if let Err(error) = self.consumer.subscribe(&[&context.topic]) {
            self.state.send_replace(IntakeState::Stopped(error.to_string()));
            return false;
        }
        true
    }

    /// What there is to read, by partition; an error where only an operator can help.
    fn poll(&self) -> Result<BTreeMap<Partition, Poll>, String> {
        let mut polls = BTreeMap::new();
        let mut wait = WAIT_FOR_FIRST;
        for _ in 0..MAX_POLL {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => self.add(&mut polls, &message),
                Some(Err(error)) => self.judge(&error)?,
            }
            wait = Duration::ZERO;
        }
        Ok(polls)
    }

    fn add(&self, polls: &mut BTreeMap<Partition, Poll>, message: &BorrowedMessage<'_>) {
        let Some(partition) = self.consumer.context().partition(message.partition()) else {
            return;
        };
        let expected = self.consumer.context().next_offset(message.partition());
        let poll = polls.entry(partition.clone()).or_insert_with(|| Poll {
            messages: Vec::new(),
            offset: None,
        });
        let raw = raw_message(message, partition.clone());
        poll.messages.push(understand(raw));
        // Offsets may have holes (transactions, compaction): the next one is the last one read, plus one.
        let next_offset = message.offset().saturating_add(1);
        poll.offset = Some(OffsetMove {
            partition,
            expected,
            next_offset,
        });
    }

    /// Most errors of a poll pass by themselves; what doesn't stops the intake.
    fn judge(&self, error: &KafkaError) -> Result<(), String> {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::Fatal,
            ) => Err(error.to_string()),
            Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure) => {
                self.sleep(RETRY);
                Ok(())
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                tracing::warn!(
                    topic = self.consumer.context().topic,
                    "the membership topic is not there yet"
                );
                self.sleep(RECONNECT);
                Ok(())
            }
            _ => {
                tracing::warn!(%error, "reading the membership topic");
                Ok(())
            }
        }
    }

    /// Until it stands in the log, or the partition is somebody else's.
    fn take(&self, partition: &Partition, poll: &Poll) {
        let Some(offset) = &poll.offset else { return };
        let reading = self.state.borrow().clone();
        loop {
            match self.runtime.block_on(self.commands.take_poll(poll)) {
                Ok(taken) => {
                    self.taken(partition, offset, taken);
                    self.state.send_if_modified(|state| {
                        let waited = *state == IntakeState::Waiting;
                        if waited {
                            state.clone_from(&reading);
                        }
                        waited
                    });
                    return;
                }
                Err(CommandError::OffsetFenced) => {
                    tracing::warn!(
                        ?partition,
                        "another node reads this partition now, it is left to that one"
                    );
                    self.leave(partition);
                    return;
                }
                Err(error) => {
                    tracing::error!(
                        error = %Report(&error),
                        ?partition,
                        "the log does not take a poll, trying again"
                    );
                    self.state.send_replace(IntakeState::Waiting);
                    if self.stop.is_cancelled() || !self.stay_in_group(partition) {
                        return;
                    }
                }
            }
        }
    }

    fn taken(&self, partition: &Partition, offset: &OffsetMove, taken: Taken) {
        self.consumer
            .context()
            .moved(partition.partition, offset.next_offset);
        tracing::debug!(
            ?partition,
            next = offset.next_offset,
            ?taken,
            "a poll stands in the log"
        );
        let mut list = TopicPartitionList::new();
        let listed = list.add_partition_offset(
            &partition.topic,
            partition.partition,
            Offset::Offset(offset.next_offset),
        );
        if listed.is_ok() && self.consumer.commit(&list, CommitMode::Async).is_err() {
            tracing::debug!(?partition, "the broker was not told how far the intake is");
        }
    }

    /// Keeps polling while the store is away, with everything paused, so that the group does not give up on this node;
    /// false where the partition was taken away meanwhile.
    fn stay_in_group(&self, partition: &Partition) -> bool {
        let Ok(assigned) = self.consumer.assignment() else {
            return true;
        };
        if self.consumer.pause(&assigned).is_err() {
            return true;
        }
        let until = Instant::now() + RETRY;
        while Instant::now() < until {
            if let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(50)) {
                // Paused, yet there it is: seek back, it is read again when it can be taken.
                let back = Offset::Offset(message.offset());
                if let Err(error) = self
                    .consumer
                    .seek(message.topic(), message.partition(), back, RECONNECT)
                {
                    tracing::warn!(%error, "a message that came while paused is read again after the next assignment");
                    self.leave(partition);
                    return false;
                }
            }
        }
        let still_ours = self.consumer.context().partition(partition.partition).is_some();
        if let Err(error) = self.consumer.resume(&assigned) {
            tracing::debug!(%error, "not everything was resumed");
        }
        still_ours
    }

    /// Leaves the group and joins again: whoever has the partition keeps it, and the offsets are read anew.
    fn leave(&self, partition: &Partition) {
        tracing::info!(?partition, "joining the group again");
        self.consumer.unsubscribe();
        self.state.send_replace(IntakeState::Connecting);
        self.sleep(RECONNECT);
        if let Err(error) = self.consumer.subscribe(&[&self.consumer.context().topic]) {
            self.state.send_replace(IntakeState::Stopped(error.to_string()));
        }
    }

    fn sleep(&self, time: Duration) {
        self.runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                () = self.stop.cancelled() => {}
            }
        });
    }
}

fn raw_message(message: &BorrowedMessage<'_>, partition: Partition) -> RawMessage {
    let headers = message.headers().map(|headers| {
        headers
            .iter()
            .map(|header| {
                let value = header
                    .value
                    .map(|value| String::from_utf8_lossy(value).replace('\0', "\u{fffd}"));
                (header.key.to_owned(), value.unwrap_or_default())
            })
            .collect()
    });
    RawMessage {
        partition: Some(partition),
        offset: Some(message.offset()),
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        payload: message.payload().map(<[u8]>::to_vec),
    }
}

/// Which partitions are this node's, and the next offset of each, as the store has it.
struct Assignments {
    pool: PgPool,
    topic: String,
    cluster_id: Mutex<Option<String>>,
    next: Mutex<HashMap<i32, Option<i64>>>,
    state: Arc<watch::Sender<IntakeState>>,
    runtime: Handle,
}

impl Assignments {
    fn cluster_id(&self) -> Option<String> {
        self.cluster_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn name_cluster(&self, cluster_id: String) {
        *self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster_id);
    }

    /// The partition, if it is this node's.
    fn partition(&self, partition: i32) -> Option<Partition> {
        let is_ours = self
            .next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&partition);
        let cluster_id = self.cluster_id()?;
        is_ours.then(|| Partition {
            cluster_id,
            topic: self.topic.clone(),
            partition,
        })
    }

    fn next_offset(&self, partition: i32) -> Option<i64> {
        self.next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&partition)
            .copied()
            .flatten()
    }

    fn moved(&self, partition: i32, next_offset: i64) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.entry(partition)
            .and_modify(|stored| *stored = Some(next_offset));
    }

    /// The stored offsets of this topic. The callback runs inside `poll`, on the intake's own thread, so it may wait.
    fn stored_offsets(&self) -> HashMap<i32, i64> {
        let cluster_id = self.cluster_id().unwrap_or_default();
        loop {
            let stored = sqlx::query_as::<_, (i32, i64)>(
                "select partition, next_offset from kafka_offsets where cluster_id = $1 and topic = $2",
            )
            .bind(&cluster_id)
            .bind(&self.topic)
            .fetch_all(&self.pool);
            match self.runtime.block_on(stored) {
                Ok(stored) => return stored.into_iter().collect(),
                Err(error) => {
                    tracing::error!(%error, "the stored offsets can't be read, trying again");
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let stored = self.stored_offsets();
        let mut list = TopicPartitionList::new();
        let mut next = HashMap::new();
        for element in partitions.elements() {
            let at = stored.get(&element.partition()).copied();
            // Never read before: from the beginning, nothing that was said of a member may be missed.
            let offset = at.map_or(Offset::Beginning, Offset::Offset);
            if let Err(error) = list.add_partition_offset(element.topic(), element.partition(), offset) {
                tracing::error!(%error, "a partition can't be assigned");
            }
            next.insert(element.partition(), at);
        }
        let count = next.len();
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
        match consumer.assign(&list) {
            Ok(()) => {
                tracing::info!(partitions = count, "reading the membership topic");
                self.state
                    .send_replace(IntakeState::Reading { partitions: count });
            }
            Err(error) => {
                self.state.send_replace(IntakeState::Stopped(error.to_string()));
            }
        }
    }
}

impl ClientContext for Assignments {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Assignments {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, partitions);
            return;
        }
        self.next.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.state.send_replace(IntakeState::Connecting);
        if let Err(error) = consumer.unassign() {
            tracing::warn!(%error, "partitions could not be given back");
        }
    }
}
