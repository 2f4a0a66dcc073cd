//! How the intake is, for readiness and for people.

use std::fmt;
use std::time::{Duration, Instant};

/// How long a rebalance may take before the node is not ready for it: the slowest member of the group has its session's time.
const REBALANCE: Duration = Duration::from_secs(30);

/// How the intake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntakeState {
    /// There is no Kafka here.
    Off,
    /// Not part of the group yet.
    Connecting,
    /// Part of the group until then, and about to be again: some node has come or gone.
    Rebalancing {
        /// Since when.
        since: Instant,
    },
    /// Part of the group, with this many partitions.
    Reading {
        /// How many partitions are this node's.
        partitions: usize,
    },
    /// The brokers do not answer.
    OutOfReach,
    /// The store does not take what was read.
    Waiting,
    /// It, or one of its partitions, can't go on without an operator.
    Stopped(String),
}

impl IntakeState {
    /// Why the node is not ready for it; none where it is.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        match self {
            Self::Off | Self::Reading { .. } => None,
            // A rolling restart must not make all nodes unready at once.
            Self::Rebalancing { since } if since.elapsed() < REBALANCE => None,
            Self::Connecting
            | Self::Rebalancing { .. }
            | Self::OutOfReach
            | Self::Waiting
            | Self::Stopped(_) => Some(format!("membership intake: {self}")),
        }
    }
}

impl fmt::Display for IntakeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Connecting => f.write_str("connecting"),
            Self::Rebalancing { .. } => f.write_str("rebalancing"),
            Self::Reading { partitions } => write!(f, "reading {partitions} partitions"),
            Self::OutOfReach => f.write_str("the brokers are out of reach"),
            Self::Waiting => f.write_str("waiting for the store"),
            Self::Stopped(reason) => write!(f, "stopped: {reason}"),
        }
    }
}
