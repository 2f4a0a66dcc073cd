//! The other side of the lease: after something was taken away, waits until no node decides without knowing it. A node has
//! applied the position, or its lease has run out by this node's own clock, or it is gone. Decides nothing itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::Index;
use super::leases::{self, Lease};
use crate::clock::BootClock;
use crate::database::within;
use crate::follow;
use crate::report::Report;

/// How long nodes are waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a look at the leases may take, the wait for another one's included.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at the leases, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// What every node knows now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// How many nodes said so; those that decide no more are not among them.
    pub nodes: usize,
    /// How long that took.
    pub took: Duration,
}

/// A node that may still decide could not be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not every node has come to position {position} in time")]
pub struct NotConfirmed {
    /// Which was waited for.
    pub position: i64,
}

/// Waits for all nodes. However many wait at the same time, one of them looks at the leases for all.
#[derive(Debug)]
pub struct Revocations {
    pool: PgPool,
    index: Arc<Index>,
    boot: BootClock,
    node_id: Uuid,
    seen: Mutex<Arc<Seen>>,
    /// The farthest position that nodes are to be called on for, with the next look; 0: none.
    uncalled: AtomicI64,
}

/// The leases as they were read.
#[derive(Debug, Default)]
struct Seen {
    begun: Duration,
    ended: Duration,
    leases: Vec<SeenLease>,
}

/// A lease that may still carry its node.
#[derive(Clone, Copy, Debug)]
struct SeenLease {
    lease: Lease,
    /// Since when it has been seen as it is. A beat never comes twice: it has stood still since then.
    since: Duration,
}

impl Revocations {
    /// Of this node.
    #[must_use]
    pub fn new(pool: PgPool, index: Arc<Index>, boot: BootClock, node_id: Uuid) -> Self {
        Self {
            pool,
            index,
            boot,
            node_id,
            seen: Mutex::default(),
            uncalled: AtomicI64::new(0),
        }
    }

    /// Waits until every decision on any node, for a request that comes from now on, reflects this position. It must have
    /// been committed before.
    ///
    /// # Errors
    /// Where a node that may still decide did not come to it within five seconds, or the leases could not be read.
    pub async fn confirm(&self, position: i64) -> Result<Confirmation, NotConfirmed> {
        self.uncalled.fetch_max(position, Ordering::Relaxed);
        let since = self.boot.since_boot();
        let give_up = since.saturating_add(PATIENCE);
        let mut waited_for: Option<(Duration, HashSet<Uuid>)> = None;
        let mut nodes: usize = 0;
        let mut asked = since;
        let mut pause = FIRST_PAUSE;
        loop {
            let limit = LOOK_LIMIT.min(give_up.saturating_sub(asked));
            match within(limit, self.look(asked)).await {
                Ok(seen) => {
                    let all = || seen.leases.iter().map(|seen| seen.lease.node_id).collect();
                    let (first_seen, waiting) = waited_for.get_or_insert_with(|| (seen.ended, all()));
                    waiting.retain(|node_id| match self.state(&seen, *node_id, position) {
                        State::Knows => {
                            nodes = nodes.saturating_add(1);
                            false
                        }
                        State::Gone => false,
                        // Whatever it has renewed since then, it has looked for the end of the log after that.
                        State::Behind(lease) => seen.ended < first_seen.saturating_add(lapse(&lease)),
                    });
                    if waiting.is_empty() {
                        let took = self.boot.since_boot().saturating_sub(since);
                        return Ok(Confirmation { nodes, took });
                    }
                }
                Err(error) => {
                    tracing::warn!(position, error = %Report(&error), "the nodes' leases can't be read");
                }
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            asked = self.boot.since_boot();
            if asked >= give_up {
                return Err(NotConfirmed { position });
            }
        }
    }

    fn state(&self, seen: &Seen, node_id: Uuid, position: i64) -> State {
        if node_id == self.node_id && self.index.position() >= position {
            return State::Knows;
        }
        match seen.leases.iter().find(|seen| seen.lease.node_id == node_id) {
            None => State::Gone,
            Some(SeenLease { lease, .. }) if lease.applied >= position => State::Knows,
            Some(SeenLease { lease, .. }) => State::Behind(*lease),
        }
    }

    /// The leases that carry anybody, as they were read at this time or later. Whoever reads them calls on the nodes first,
    /// for all who wait, and then forgets the leases that have run out.
    async fn look(&self, asked: Duration) -> Result<Arc<Seen>, sqlx::Error> {
        let mut seen = self.seen.lock().await;
        if seen.begun < asked {
            let mut connection = self.pool.acquire().await?;
            let position = self.uncalled.load(Ordering::Relaxed);
            if position > 0 {
                follow::call(&mut connection, position).await?;
                let (set, not_set) = (Ordering::Relaxed, Ordering::Relaxed);
                // An error means that there is a farther one by now.
                self.uncalled.compare_exchange(position, 0, set, not_set).ok();
            }
            let begun = self.boot.since_boot();
            let leases = leases::all(&mut connection).await?;
            let ended = self.boot.since_boot();
            let (leases, gone) = seen.followed_by(leases, ended);
            *seen = Arc::new(Seen { begun, ended, leases });
            for lease in gone {
                leases::forget(&mut connection, &lease).await?;
                tracing::warn!(node_id = %lease.node_id, "a node has not renewed its lease and is waited for no more");
            }
        }
        Ok(Arc::clone(&seen))
    }
}

impl Seen {
    /// What was read now, beside what was before: the leases that may carry their nodes, and those that have run out.
    fn followed_by(&self, leases: Vec<Lease>, now: Duration) -> (Vec<SeenLease>, Vec<Lease>) {
        let (mut carrying, mut gone) = (Vec::new(), Vec::new());
        for lease in leases {
            let is_same =
                |seen: &&SeenLease| (seen.lease.node_id, seen.lease.beat) == (lease.node_id, lease.beat);
            let since = self.leases.iter().find(is_same).map_or(now, |seen| seen.since);
            if now < since.saturating_add(lapse(&lease)) {
                carrying.push(SeenLease { lease, since });
            } else {
                gone.push(lease);
            }
        }
        (carrying, gone)
    }
}

enum State {
    Knows,
    Gone,
    Behind(Lease),
}

/// After how long a lease has run out by anybody's clock: two clocks may run at rates that differ by a twentieth.
fn lapse(lease: &Lease) -> Duration {
    lease.max_staleness.saturating_add(lease.max_staleness / 20)
}
