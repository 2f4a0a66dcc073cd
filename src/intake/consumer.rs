//! Reads the membership topic, on a thread of its own. Where to read on is in PostgreSQL and moves with the events; the
//! broker's own offsets are written for lag tools only and never read. The assignment is set once, in the rebalance
//! callback, from the stored offsets. While a poll is appended the next one is read and decided. One that
//! can't be appended is tried
//! again, paused, until it can.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sqlx::PgPool;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::assignments::{Assignment, Assignments};
use super::member_events::understand;
use super::meters::Meters;
use super::state::IntakeState;
use crate::commands::membership::{Poll, RawMessage, Staged, Taken};
use crate::commands::{CommandError, Commands};
use crate::joined::joined;
use crate::log::{OffsetMove, Partition};
use crate::report::Report;

/// Messages in one poll.
const MAX_POLL: usize = 2000;
/// Bytes after which a poll takes no further message: all of it may have to be parked by one statement.
const MAX_POLL_BYTES: usize = 1024 * 1024;
/// How long the first message of a poll is waited for.
const WAIT_FOR_FIRST: Duration = Duration::from_millis(100);
/// The same while another poll is being appended: what became of that is not known before.
const WAIT_BEHIND_ANOTHER: Duration = Duration::from_millis(5);
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

/// What was read at once, by partition.
struct Polls {
    by_partition: BTreeMap<Partition, Poll>,
    /// The number of the assignment under which it was read.
    assignment: u64,
}

/// What each of some polls comes to, if all before it stands as it was decided.
type Decided = Arc<Vec<Result<Staged, CommandError>>>;

/// Polls that are being decided, while those before them are appended.
struct Deciding {
    polls: Arc<Polls>,
    decided: JoinHandle<Decided>,
}

/// Polls that are being appended.
struct Appending {
    polls: Arc<Polls>,
    decided: Decided,
    tried: JoinHandle<Vec<Tried>>,
}

/// What became of a poll, and whether it stands as it was decided.
type Tried = Result<(Taken, bool), CommandError>;

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
            appending: Arc::default(),
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
        let mut appending = None;
        while !self.stop.is_cancelled() {
            let polled = self.poll(appending.as_ref());
            let deciding = polled.map(|polls| self.decide(polls, appending.as_ref()));
            let stands = appending.take().is_none_or(|before| self.finish(before));
            match deciding {
                Ok(deciding) => appending = self.append(deciding, stands),
                Err(reason) => {
                    tracing::error!(reason, "the membership intake has stopped");
                    self.state.send_replace(IntakeState::Stopped(reason));
                    self.runtime.block_on(self.stop.cancelled());
                }
            }
            self.look_for_brokers();
        }
        if let Some(last) = appending {
            self.finish(last);
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

    /// What there is to read, after what is being appended; an error where this consumer is of no use any more.
    fn poll(&self, behind: Option<&Appending>) -> Result<Polls, String> {
        let context = self.consumer.context();
        let mut polls = Polls {
            by_partition: BTreeMap::new(),
            assignment: context.number(),
        };
        let mut wait = match behind {
            Some(_) => WAIT_BEHIND_ANOTHER,
            None => WAIT_FOR_FIRST,
        };
        let mut bytes = 0_usize;
        for _ in 0..MAX_POLL {
            let polled = self.consumer.poll(wait);
            if context.number() != polls.assignment {
                // A rebalance: what was read before it is read again, here or by another node.
                polls.assignment = context.number();
                polls.by_partition.clear();
            }
            match polled {
                None => break,
                Some(Ok(message)) => {
                    let behind = behind.filter(|before| before.polls.assignment == polls.assignment);
                    bytes = bytes.saturating_add(self.add(&mut polls.by_partition, behind, &message));
                }
                Some(Err(error)) => self.judge(&error)?,
            }
            if bytes >= MAX_POLL_BYTES {
                break;
            }
            wait = Duration::ZERO;
        }
        Ok(polls)
    }

    /// Adds a message to its partition's poll; how many bytes it has.
    fn add(
        &self,
        polls: &mut BTreeMap<Partition, Poll>,
        behind: Option<&Appending>,
        message: &BorrowedMessage<'_>,
    ) -> usize {
        let Some((partition, stored)) = self.consumer.context().place(message.partition()) else {
            return 0;
        };
        // Where it will be stored by then, or else the append is refused.
        let expected = behind
            .and_then(|before| before.polls.by_partition.get(&partition)?.offset.as_ref())
            .map_or(stored, |offset| Some(offset.next_offset));
        let poll = polls.entry(partition.clone()).or_insert_with(|| Poll {
            messages: Vec::new(),
            offset: None,
        });
        let at_least = poll.offset.as_ref().map(|offset| offset.next_offset).or(expected);
        if at_least.is_some_and(|next| message.offset() < next) {
            // Already in the log, or in this poll.
            return 0;
        }
        let raw = raw_message(message, partition.clone());
        let bytes = size(&raw);
        poll.messages.push(understand(raw));
        // Offsets may have holes (transactions, compaction): the next one is the last one read, plus one.
        let next_offset = message.offset().saturating_add(1);
        poll.offset = Some(OffsetMove {
            partition,
            expected,
            next_offset,
        });
        bytes
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

    /// Decides what was read, as it will be once what is being appended stands.
    fn decide(&self, polls: Polls, behind: Option<&Appending>) -> Deciding {
        let polls = Arc::new(polls);
        let behind = behind.map(|before| (Arc::clone(&before.polls), Arc::clone(&before.decided)));
        let (commands, read) = (self.commands.clone(), Arc::clone(&polls));
        let decided = self
            .runtime
            .spawn(async move { decide(&commands, &read, behind.as_ref()).await });
        Deciding { polls, decided }
    }

    /// All partitions' at once: what one waits for, another is worked on, and one append may take them all. None where there
    /// is nothing, or it is out of date: also after a stop, for then what was before it may not stand. Where that does not
    /// stand as it was decided, what was decided behind it is of no use, and is decided anew.
    fn append(&self, Deciding { polls, decided }: Deciding, stands: bool) -> Option<Appending> {
        let context = self.consumer.context();
        let is_out_of_date = polls.assignment != context.number() || self.stop.is_cancelled();
        if polls.by_partition.is_empty() || is_out_of_date {
            return None;
        }
        let decided = joined(self.runtime.block_on(decided))?;
        let decided = if stands {
            decided
        } else {
            let anew = decide(&self.commands, &polls, None);
            self.runtime.block_on(anew)
        };
        let (commands, taken, as_decided) = (self.commands.clone(), Arc::clone(&polls), Arc::clone(&decided));
        // Free: whatever was appended before has come to its end.
        let under_way = Arc::clone(&context.appending).try_lock_owned();
        let tried = self.runtime.spawn(async move {
            let _under_way = under_way;
            let polls = taken.by_partition.values().zip(as_decided.iter());
            join_all(polls.map(|(poll, decided)| take(&commands, poll, decided))).await
        });
        Some(Appending {
            polls,
            decided,
            tried,
        })
    }

    /// Sees to it that all of it stands in the log, or is read again; whether it stands as it was decided.
    fn finish(&self, Appending { polls, tried, .. }: Appending) -> bool {
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
            stands &= matches!(tried, Ok((_, true)));
            self.take(partition, poll, tried.map(|(taken, _)| taken));
        }
        stands
    }

    /// Until it stands in the log, or the partition has to be assigned anew.
    fn take(&self, partition: &Partition, poll: &Poll, tried: Result<Taken, CommandError>) {
        let Some(offset) = &poll.offset else { return };
        let mut tried = Some(tried);
        loop {
            let take = || self.runtime.block_on(self.commands.take_poll(poll));
            match tried.take().unwrap_or_else(take) {
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
                    partition = message.partition(),
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

/// Decides what was read, as it will be once that before it stands.
async fn decide(commands: &Commands, polls: &Polls, behind: Option<&(Arc<Polls>, Decided)>) -> Decided {
    let behind: Vec<(&Poll, &Staged)> = behind
        .iter()
        .flat_map(|(polls, decided)| polls.by_partition.values().zip(decided.iter()))
        .filter_map(|(poll, staged)| Some((poll, staged.as_ref().ok()?)))
        .collect();
    let polls = polls.by_partition.values();
    Arc::new(join_all(polls.map(|poll| commands.stage_poll(poll, &behind))).await)
}

/// Takes a poll as it was decided, if it was.
async fn take(commands: &Commands, poll: &Poll, decided: &Result<Staged, CommandError>) -> Tried {
    match decided {
        Ok(staged) => commands.take_staged(poll, staged).await,
        Err(_) => Ok((commands.take_poll(poll).await?, false)),
    }
}

/// Everything of it that may have to be parked.
fn size(raw: &RawMessage) -> usize {
    let headers: usize = raw
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    headers + raw.key.as_ref().map_or(0, Vec::len) + raw.payload.as_ref().map_or(0, Vec::len)
}

fn raw_message(message: &BorrowedMessage<'_>, partition: Partition) -> RawMessage {
    RawMessage {
        partition: Some(partition),
        offset: Some(message.offset()),
        sent_at: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        headers: message.headers().map(headers).unwrap_or_default(),
        payload: message.payload().map(<[u8]>::to_vec),
    }
}

fn headers<H: Headers>(headers: &H) -> Vec<(String, String)> {
    let header = |index| {
        // rdkafka panics where a name is not UTF-8; such a header is none that we know.
        let header = catch_unwind(AssertUnwindSafe(|| headers.get(index)));
        header.map_or_else(
            |_| ("\u{fffd}".to_owned(), String::new()),
            |header| {
                let value = header
                    .value
                    .map(|value| String::from_utf8_lossy(value).replace('\0', "\u{fffd}"));
                (header.key.to_owned(), value.unwrap_or_default())
            },
        )
    };
    (0..headers.count()).map(header).collect()
}
