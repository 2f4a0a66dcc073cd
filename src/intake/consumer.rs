//! Reads the membership topic, on a thread of its own. Where to read on is in PostgreSQL and moves with the events; the
//! broker's own offsets are written for lag tools only and never read. The assignment is set once, in the rebalance
//! callback, from the stored offsets. While polls are decided and appended the next one is read. One that can't be appended is
//! tried again, paused, until it can.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sqlx::PgPool;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::assignments::{Assignment, Assignments};
use super::meters::Meters;
use super::polls::Polls;
use super::state::IntakeState;
use super::under_way::{Tried, UnderWay};
use crate::commands::membership::{Poll, Taken};
use crate::commands::{CommandError, Commands};
use crate::joined::joined;
use crate::log::{OffsetMove, Partition};
use crate::report::Report;

/// Polls that are decided or being appended while one more is read.
const MAX_UNDER_WAY: usize = 2;
/// How long the first message of a poll is waited for.
const WAIT_FOR_FIRST: Duration = Duration::from_millis(100);
/// The same while others are under way, which may come to their end meanwhile.
const WAIT_BEHIND_OTHERS: Duration = Duration::from_millis(5);
/// Between two tries of a poll that can't be appended.
const RETRY: Duration = Duration::from_millis(250);
/// One look at the group while the store is away.
const PAUSED_POLL: Duration = Duration::from_millis(50);
/// Between two tries to reach the brokers at the start.
const RECONNECT: Duration = Duration::from_secs(1);
/// How long the brokers may take to name their cluster.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(5);
/// How long the brokers, once out of reach, may take to show that they are back.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Where and as whom to read. Its properties may hold a password, so it can't be printed.
#[derive(Clone)]
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

/// What the intake tells of itself.
#[derive(Debug)]
pub struct Watched {
    /// How it is.
    pub state: watch::Sender<IntakeState>,
    /// How far behind.
    pub meters: Meters,
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
        watched: Watched,
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
            .set("isolation.level", "read_committed")
            // The rebalance callback sets the whole assignment at once.
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "range,roundrobin");
        let defaults = [
            ("fetch.wait.max.ms", "50"),
            ("session.timeout.ms", "6000"),
            // How soon a topic that comes into being, or a new partition, is noticed.
            ("topic.metadata.refresh.interval.ms", "5000"),
            // How often the lag is measured.
            ("statistics.interval.ms", "1000"),
        ];
        for (name, value) in defaults {
            if !config.properties.contains_key(name) {
                client.set(name, value);
            }
        }
        let state = Arc::new(watched.state);
        let runtime = Handle::current();
        let context = Assignments {
            pool,
            topic: config.topic.clone(),
            cluster_id: Mutex::new(config.cluster_id),
            current: Mutex::new(Assignment::default()),
            under_way: Arc::default(),
            meters: watched.meters,
            state: Arc::clone(&state),
            stop: stop.clone(),
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
                let state = Arc::clone(&self.state);
                // The consumer is dropped in here, and so leaves the group before the word is given.
                if catch_unwind(AssertUnwindSafe(move || self.run())).is_err() {
                    state.send_replace(IntakeState::Stopped("it has failed".to_owned()));
                }
                // Whoever waits for the end may have gone.
                let _ = ended.send(());
            })?;
        Ok(end)
    }

    fn run(&self) {
        if !self.join_group() {
            return;
        }
        let mut under_way = VecDeque::new();
        while !self.stop.is_cancelled() {
            match self.poll(&under_way) {
                Ok(polls) => {
                    if self.is_to_be_taken(&polls) {
                        let polls = self.begin(polls, &under_way);
                        under_way.push_back(polls);
                    }
                    self.settle(&mut under_way, MAX_UNDER_WAY);
                }
                Err(reason) => {
                    self.settle(&mut under_way, 0);
                    tracing::error!(reason, "the membership intake has stopped");
                    self.state.send_replace(IntakeState::Stopped(reason));
                    self.runtime.block_on(self.stop.cancelled());
                }
            }
            self.look_for_brokers();
        }
        self.settle(&mut under_way, 0);
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

    /// What there is to read, after what is under way; an error where this consumer is of no use any more.
    fn poll(&self, ahead: &VecDeque<UnderWay>) -> Result<Polls, String> {
        let context = self.consumer.context();
        let mut polls = Polls::under(context.number());
        let mut wait = if ahead.is_empty() {
            WAIT_FOR_FIRST
        } else {
            WAIT_BEHIND_OTHERS
        };
        while !polls.is_full() {
            let polled = self.consumer.poll(wait);
            if context.number() != polls.assignment {
                // A rebalance: what was read before it is read again, here or by another node.
                polls = Polls::under(context.number());
            }
            match polled {
                None => break,
                Some(Ok(message)) => polls.add(context, ahead, &message),
                Some(Err(error)) => {
                    self.judge(&error)?;
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        Ok(polls)
    }

    /// Not where there is nothing, or it is out of date: also after a stop, for then what is ahead of it may not stand.
    fn is_to_be_taken(&self, polls: &Polls) -> bool {
        let is_in_force = polls.assignment == self.consumer.context().number();
        is_in_force && !polls.by_partition.is_empty() && !self.stop.is_cancelled()
    }

    /// Most errors of a poll pass by themselves. An offset out of range stops its partition (librdkafka reads it no
    /// further) and not the others; what can't pass at all is an error.
    fn judge(&self, error: &KafkaError) -> Result<(), String> {
        let context = self.consumer.context();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => return Err(error.to_string()),
            Some(RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset) => {
                tracing::error!(%error, "a partition is read no further: its stored offset is out of range");
                context.stopped(format!("a stored offset is out of range: {error}"));
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => {
                tracing::error!(%error, "reading the membership topic");
                self.rejoin();
                context.stopped(error.to_string());
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                self.state.send_replace(IntakeState::OutOfReach);
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                tracing::warn!(topic = context.topic, "the membership topic is not there yet");
                self.sleep(RECONNECT);
            }
            _ => tracing::warn!(%error, "reading the membership topic"),
        }
        Ok(())
    }

    /// librdkafka says when the brokers are gone, not when they are back.
    fn look_for_brokers(&self) {
        let is_out_of_reach = *self.state.borrow() == IntakeState::OutOfReach;
        let topic = &self.consumer.context().topic;
        if is_out_of_reach && self.consumer.fetch_metadata(Some(topic), PROBE_PATIENCE).is_ok() {
            tracing::info!("the Kafka brokers are back");
            self.consumer.context().show();
        }
    }

    fn begin(&self, polls: Polls, ahead: &VecDeque<UnderWay>) -> UnderWay {
        // Free but for others that are under way: a rebalance, which waits for all of them, is of this very thread.
        let no_rebalance = Arc::clone(&self.consumer.context().under_way)
            .try_read_owned()
            .ok();
        UnderWay::begin(&self.runtime, &self.commands, polls, ahead, no_rebalance)
    }

    /// Sees to what has come to its end, and waits for the oldest until no more than `most` are under way. Where something does
    /// not stand as it was decided, nothing does that was decided behind it: all of it is taken anew, in order, before
    /// anything else is.
    fn settle(&self, under_way: &mut VecDeque<UnderWay>, most: usize) {
        let mut most = most;
        while under_way.len() > most || under_way.front().is_some_and(UnderWay::has_ended) {
            let Some(oldest) = under_way.pop_front() else {
                return;
            };
            if !self.finish(oldest) {
                most = 0;
            }
        }
    }

    /// Sees to it that all of it stands in the log, or is read again; whether it stands as it was decided.
    fn finish(&self, UnderWay { polls, tried, .. }: UnderWay) -> bool {
        let Some(tried) = joined(self.runtime.block_on(tried)) else {
            return false;
        };
        let mut stands = true;
        for ((partition, poll), tried) in polls.by_partition.iter().zip(tried) {
            // The rest of what was read is out of date after a rebalance, like in `poll`. What was taken of it stands, and is
            // read again from the stored offset.
            if self.consumer.context().number() != polls.assignment {
                return false;
            }
            stands &= matches!(tried, Ok(Some(_)));
            self.take(partition, poll, tried);
        }
        stands
    }

    /// Until it stands in the log, or the partition has to be assigned anew.
    fn take(&self, partition: &Partition, poll: &Poll, tried: Tried) {
        let Some(offset) = &poll.offset else { return };
        let take_anew = || self.runtime.block_on(self.commands.take_anew(poll));
        let mut tried = match tried {
            // After a stop what was ahead of it may not have been taken: it is read again.
            Ok(None) | Err(CommandError::Unfit(_)) if self.stop.is_cancelled() => return,
            // Also what the log refuses: taken anew, it is found out what of it.
            Ok(None) | Err(CommandError::Unfit(_)) => take_anew(),
            Ok(Some(taken)) => Ok(taken),
            Err(error) => Err(error),
        };
        loop {
            match tried {
                Ok(taken) => {
                    self.taken(partition, poll, offset, taken);
                    if *self.state.borrow() == IntakeState::Waiting {
                        self.consumer.context().show();
                    }
                    return;
                }
                Err(CommandError::OffsetFenced) => {
                    tracing::warn!(?partition, "another node has moved this partition's offset");
                    self.rejoin();
                    return;
                }
                Err(error) => {
                    tracing::error!(
                        error = %Report(&error),
                        ?partition,
                        "the log does not take a poll, trying again"
                    );
                    self.state.send_replace(IntakeState::Waiting);
                    if self.stop.is_cancelled() || !self.stay_in_group() {
                        return;
                    }
                }
            }
            tried = take_anew();
        }
    }

    fn taken(&self, partition: &Partition, poll: &Poll, offset: &OffsetMove, taken: Taken) {
        let sent: Vec<i64> = poll
            .messages
            .iter()
            .filter_map(|message| message.raw.sent_at)
            .collect();
        let context = self.consumer.context();
        context.moved(partition.partition, offset.next_offset, sent.last().copied());
        context.meters.taken(taken.position, sent);
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
    /// false where what is in hand must be dropped: it will be read again.
    fn stay_in_group(&self) -> bool {
        let assignment = self.consumer.context().number();
        let assigned = match self.consumer.assignment() {
            Ok(assigned) if self.consumer.pause(&assigned).is_ok() => assigned,
            Ok(_) | Err(_) => {
                self.rejoin();
                return false;
            }
        };
        let until = Instant::now() + RETRY;
        while Instant::now() < until {
            let polled = self.consumer.poll(PAUSED_POLL);
            if self.consumer.context().number() != assignment {
                break;
            }
            if let Some(Ok(message)) = polled {
                tracing::warn!(
                    partition = rdkafka::Message::partition(&message),
                    "a message has come though paused"
                );
                self.rejoin();
            }
        }
        if self.consumer.resume(&assigned).is_err() {
            self.rejoin();
        }
        self.consumer.context().number() == assignment
    }

    /// Leaves the group and joins again. Nothing that was read is taken any more: the offsets are read anew.
    fn rejoin(&self) {
        tracing::info!("joining the group again");
        self.consumer.unsubscribe();
        self.consumer.context().forget();
        self.sleep(RECONNECT);
        if let Err(error) = self.consumer.subscribe(&[&self.consumer.context().topic]) {
            self.consumer.context().stopped(error.to_string());
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
