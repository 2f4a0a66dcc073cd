//! Which partitions are this node's and where each goes on, as the store has it. Every change of that has a number, so
//! that what was read before a change is not taken after it: it is read again from the stored offsets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use rdkafka::Statistics;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use sqlx::PgPool;
use tokio::runtime::Handle;
use tokio::sync::{RwLock, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::meters::Meters;
use super::state::IntakeState;
use crate::log::Partition;

/// Between two tries to read the stored offsets.
const RETRY: Duration = Duration::from_millis(250);
/// How long a rebalance waits for what is under way.
const APPEND_PATIENCE: Duration = Duration::from_secs(15);

/// The consumer's context: librdkafka tells it of every rebalance, inside `poll`, on the intake's own thread.
pub(super) struct Assignments {
    pub(super) pool: PgPool,
    pub(super) topic: String,
    pub(super) cluster_id: Mutex<Option<String>>,
    pub(super) current: Mutex<Assignment>,
    /// Held by all polls that are under way.
    pub(super) under_way: Arc<RwLock<()>>,
    pub(super) meters: Meters,
    pub(super) state: Arc<watch::Sender<IntakeState>>,
    pub(super) stop: CancellationToken,
    pub(super) runtime: Handle,
}

/// What is this node's now.
#[derive(Default)]
pub(super) struct Assignment {
    /// Rises with every change.
    number: u64,
    /// The stored offset of each partition, none where nothing is stored yet; absent: not part of the group.
    next: Option<HashMap<i32, Option<i64>>>,
    /// When the last message that was taken of each had been sent, in milliseconds since 1970.
    sent_at: HashMap<i32, i64>,
    /// Why one of the partitions can't be read.
    stopped: Option<String>,
    /// When it was last part of the group; none: never.
    left_at: Option<Instant>,
}

impl Assignments {
    pub(super) fn cluster_id(&self) -> Option<String> {
        self.cluster_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn name_cluster(&self, cluster_id: String) {
        *self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster_id);
    }

    /// The number of the assignment that is in force.
    pub(super) fn number(&self) -> u64 {
        self.current().number
    }

    /// A partition and the offset that is stored for it, if it is this node's.
    pub(super) fn place(&self, partition: i32) -> Option<(Partition, Option<i64>)> {
        let stored = *self.current().next.as_ref()?.get(&partition)?;
        let partition = Partition {
            cluster_id: self.cluster_id()?,
            topic: self.topic.clone(),
            partition,
        };
        Some((partition, stored))
    }

    /// The store has moved a partition's offset, past a message that was sent then.
    pub(super) fn moved(&self, partition: i32, next_offset: i64, sent_at: Option<i64>) {
        if let Some(sent_at) = sent_at {
            self.current().sent_at.insert(partition, sent_at);
        }
        if let Some(stored) = self
            .current()
            .next
            .as_mut()
            .and_then(|next| next.get_mut(&partition))
        {
            *stored = Some(next_offset);
        }
    }

    /// One of the partitions can't be read: the others go on, and the node is not ready.
    pub(super) fn stopped(&self, reason: String) {
        self.current().stopped = Some(reason);
        self.show();
    }

    /// Nothing is this node's until it is assigned anew.
    pub(super) fn forget(&self) {
        self.replace(None);
    }

    /// Says how the intake is, as far as the group is concerned.
    pub(super) fn show(&self) {
        let state = {
            let current = self.current();
            match (&current.stopped, &current.next) {
                (Some(reason), _) => IntakeState::Stopped(reason.clone()),
                (None, Some(next)) => IntakeState::Reading {
                    partitions: next.len(),
                },
                (None, None) => match current.left_at {
                    Some(since) => IntakeState::Rebalancing { since },
                    None => IntakeState::Connecting,
                },
            }
        };
        self.state.send_replace(state);
    }

    fn replace(&self, next: Option<HashMap<i32, Option<i64>>>) {
        {
            let mut current = self.current();
            let left_at = match current.next {
                Some(_) => Some(Instant::now()),
                None => current.left_at,
            };
            *current = Assignment {
                number: current.number.wrapping_add(1),
                next,
                sent_at: HashMap::new(),
                stopped: None,
                left_at,
            };
        }
        self.meters.forget();
        self.show();
    }

    fn current(&self) -> MutexGuard<'_, Assignment> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stored offsets of this topic; none when told to stop before they could be read. It waits: without them nothing
    /// can be read, and the group's heartbeat is another thread's.
    fn stored_offsets(&self) -> Option<HashMap<i32, i64>> {
        let cluster_id = self.cluster_id()?;
        while !self.stop.is_cancelled() {
            let stored = sqlx::query_as::<_, (i32, i64)>(
                "select partition, next_offset from kafka_offsets where cluster_id = $1 and topic = $2",
            )
            .bind(&cluster_id)
            .bind(&self.topic)
            .fetch_all(&self.pool);
            match self.runtime.block_on(self.stop.run_until_cancelled(stored))? {
                Ok(stored) => return Some(stored.into_iter().collect()),
                Err(error) => {
                    tracing::error!(%error, "the stored offsets can't be read, trying again");
                    self.state.send_replace(IntakeState::Waiting);
                    std::thread::sleep(RETRY);
                }
            }
        }
        None
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let Some(stored) = self.stored_offsets() else {
            return self.unassign(consumer);
        };
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
        tracing::info!(partitions = next.len(), "reading the membership topic");
        self.replace(Some(next));
        if let Err(error) = consumer.assign(&list) {
            self.stopped(error.to_string());
        }
    }

    /// Waits for what is under way to come to its end: whoever reads a partition next, here or on another node, is to find
    /// the offset that it has come to, or has all of it refused. But not for ever: then the store refuses one of both.
    fn let_it_stand(&self) {
        let under_way = async { timeout(APPEND_PATIENCE, self.under_way.write()).await.map(drop) };
        if self.runtime.block_on(under_way).is_err() {
            tracing::warn!("a rebalance does not wait any longer for what is under way");
        }
    }

    fn unassign(&self, consumer: &BaseConsumer<Self>) {
        self.forget();
        if let Err(error) = consumer.unassign() {
            tracing::warn!(%error, "partitions could not be given back");
        }
    }
}

impl ClientContext for Assignments {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }

    /// How far behind the intake is, as of the last fetch of each partition.
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        let now = Utc::now().timestamp_millis();
        let current = self.current();
        for (partition, stored) in current.next.iter().flatten() {
            let Some(end) = topic.partitions.get(partition).map(|at| at.hi_offset) else {
                continue;
            };
            // Not known until something was fetched.
            if end < 0 {
                continue;
            }
            let behind = end.saturating_sub(stored.unwrap_or(0)).max(0);
            let age = match current.sent_at.get(partition) {
                Some(sent_at) if behind > 0 => u64::try_from(now.saturating_sub(*sent_at)).unwrap_or(0),
                Some(_) | None => 0,
            };
            let seconds = Duration::from_millis(age).as_secs_f64();
            self.meters.behind(*partition, behind, seconds);
        }
    }
}

impl ConsumerContext for Assignments {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        self.let_it_stand();
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, partitions);
        } else {
            self.unassign(consumer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rdkafka::ClientConfig;

    use super::*;
    use crate::authorization::{Fence, Index};
    use crate::clock::BootClock;

    /// Else whoever is given the partition reads an offset that is about to move, and is refused later. Tried: without
    /// `let_it_stand`.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_rebalance_waits_for_what_is_under_way() {
        let stands = Arc::new(AtomicBool::new(false));
        let context = Assignments {
            pool: PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap(),
            topic: "topic".to_owned(),
            cluster_id: Mutex::default(),
            current: Mutex::default(),
            under_way: Arc::default(),
            meters: Meters::new(Arc::new(Index::new(Fence::new(BootClock::Machine)))).0,
            state: Arc::new(watch::Sender::new(IntakeState::Connecting)),
            stop: CancellationToken::new(),
            runtime: Handle::current(),
        };
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", "127.0.0.1:1")
            .set("group.id", "group");
        let consumer: BaseConsumer<Assignments> = client.create_with_context(context).unwrap();
        let under_way = Arc::clone(&consumer.context().under_way).read_owned().await;
        let (appended, seen) = (Arc::clone(&stands), Arc::clone(&stands));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            appended.store(true, Ordering::SeqCst);
            drop(under_way);
        });
        let rebalance = move || {
            let code = RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS;
            let context = consumer.context();
            context.rebalance(&consumer, code, &mut TopicPartitionList::new());
            assert!(seen.load(Ordering::SeqCst), "the append stands");
            assert_eq!(context.number(), 1);
        };
        tokio::task::spawn_blocking(rebalance).await.unwrap();
    }
}
