//! How far the intake is behind its topic, and how long an event takes from the broker to decisions, for `GET /metrics`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use chrono::Utc;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::authorization::Index;

/// Polls whose decisions are still waited for; a poll past that is not timed.
const QUEUE: usize = 256;
/// How long decisions are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// One partition of the topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabel {
    /// Its number.
    partition: i32,
}

/// The intake's meters. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Messages that are there and not taken, by partition; of this node's partitions only.
    pub lag: Family<PartitionLabel, Gauge>,
    /// How old the last message was that was taken, in seconds, where there are more; else 0.
    pub lag_seconds: Family<PartitionLabel, Gauge<f64, AtomicU64>>,
    /// From the broker's timestamp until decisions hold it, in seconds.
    pub decided: Histogram,
    taken: mpsc::Sender<TakenPoll>,
}

/// A poll that stands in the log.
#[derive(Debug)]
struct TakenPoll {
    position: i64,
    /// The broker's timestamps, in milliseconds since 1970.
    sent: Vec<i64>,
}

/// Waits for decisions to hold what was taken, and notes how long that took.
#[derive(Debug)]
pub struct DecisionTimer {
    index: Arc<Index>,
    decided: Histogram,
    taken: mpsc::Receiver<TakenPoll>,
}

impl Meters {
    /// The meters, and the task that times decisions from this index.
    #[must_use]
    pub fn new(index: Arc<Index>) -> (Self, DecisionTimer) {
        let (sender, taken) = mpsc::channel(QUEUE);
        let decided = Histogram::new(exponential_buckets(0.001, 2.0, 20));
        let meters = Self {
            lag: Family::default(),
            lag_seconds: Family::default(),
            decided: decided.clone(),
            taken: sender,
        };
        let timer = DecisionTimer {
            index,
            decided,
            taken,
        };
        (meters, timer)
    }

    pub(super) fn taken(&self, position: i64, sent: Vec<i64>) {
        // One that finds no room is not timed.
        let _ = self.taken.try_send(TakenPoll { position, sent });
    }

    pub(super) fn behind(&self, partition: i32, messages: i64, seconds: f64) {
        let label = PartitionLabel { partition };
        self.lag.get_or_create(&label).set(messages);
        self.lag_seconds.get_or_create(&label).set(seconds);
    }

    /// Partitions may be another node's from now on.
    pub(super) fn forget(&self) {
        self.lag.clear();
        self.lag_seconds.clear();
    }
}

impl DecisionTimer {
    /// Until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(Some(poll)) = stop.run_until_cancelled(self.taken.recv()).await {
            if !self.index.reached(poll.position, PATIENCE).await {
                continue;
            }
            let now = Utc::now().timestamp_millis();
            for sent in poll.sent {
                let took = u64::try_from(now.saturating_sub(sent)).unwrap_or(0);
                self.decided.observe(Duration::from_millis(took).as_secs_f64());
            }
        }
        stop.cancelled().await;
    }
}
