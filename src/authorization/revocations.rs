//! The other side of the lease: after something was taken away, waits until no node decides without knowing it. A node has
//! applied the position, or its lease has run out by this node's own clock, or it is gone. Decides nothing itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::Index;
use super::leases::{self, Lease};
use crate::clock::BootClock;
use crate::follow;
use crate::report::Report;

/// How long nodes are waited for.
const PATIENCE: Duration = Duration::from_secs(5);
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
    called: Mutex<i64>,
}

/// The leases as they were read.
#[derive(Debug, Default)]
struct Seen {
    begun: Duration,
    ended: Duration,
    leases: Vec<Lease>,
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
            called: Mutex::default(),
        }
    }

    /// Waits until every decision on any node, for a request that comes from now on, reflects this position. It must have
    /// been committed before.
    ///
    /// # Errors
    /// Where a node that may still decide did not come to it within five seconds, or the leases could not be read.
    pub async fn confirm(&self, position: i64) -> Result<Confirmation, NotConfirmed> {
        let since = self.boot.since_boot();
        let mut waited_for: Option<HashMap<Uuid, FirstSeen>> = None;
        let mut nodes: usize = 0;
        let mut asked = since;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.look(position, asked).await {
                Ok(seen) => {
                    let waiting = waited_for.get_or_insert_with(|| first_seen(&seen));
                    let now = self.boot.since_boot();
                    let mut gone = Vec::new();
                    waiting.retain(|node_id, first| match self.state(&seen, *node_id, position) {
                        State::Knows => {
                            nodes = nodes.saturating_add(1);
                            false
                        }
                        State::Gone => false,
                        State::Behind(lease) if lease.beat == first.lease.beat => {
                            let is_gone = now >= first.at.saturating_add(lapse(&lease));
                            gone.extend(is_gone.then_some(lease));
                            !is_gone
                        }
                        State::Behind(lease) => now < since.saturating_add(lapse(&lease)),
                    });
                    self.forget(&gone).await;
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
            if asked > since.saturating_add(PATIENCE) {
                return Err(NotConfirmed { position });
            }
        }
    }

    fn state(&self, seen: &Seen, node_id: Uuid, position: i64) -> State {
        if node_id == self.node_id && self.index.position() >= position {
            return State::Knows;
        }
        match seen.leases.iter().find(|lease| lease.node_id == node_id) {
            None => State::Gone,
            Some(lease) if lease.applied >= position => State::Knows,
            Some(lease) => State::Behind(*lease),
        }
    }

    /// Calls for the position, once, and answers the leases as they were read at this time or later.
    async fn look(&self, position: i64, asked: Duration) -> Result<Arc<Seen>, sqlx::Error> {
        {
            let mut called = self.called.lock().await;
            if *called < position {
                let mut connection = self.pool.acquire().await?;
                follow::call(&mut connection, position).await?;
                *called = position;
            }
        }
        let mut seen = self.seen.lock().await;
        if seen.begun < asked {
            let begun = self.boot.since_boot();
            let mut connection = self.pool.acquire().await?;
            let leases = leases::all(&mut connection).await?;
            let ended = self.boot.since_boot();
            *seen = Arc::new(Seen { begun, ended, leases });
        }
        Ok(Arc::clone(&seen))
    }

    /// So that the next one does not have to wait for a node that is no more.
    async fn forget(&self, gone: &[Lease]) {
        for lease in gone {
            let forgotten = async { leases::forget(&mut *self.pool.acquire().await?, lease).await };
            match forgotten.await {
                Ok(()) => {
                    tracing::warn!(node_id = %lease.node_id, "a node has not renewed its lease and is waited for no more")
                }
                Err(error) => tracing::warn!(%error, "a lease that has run out can't be deleted"),
            }
        }
    }
}

/// A lease when it was first seen by whoever waits.
struct FirstSeen {
    lease: Lease,
    at: Duration,
}

enum State {
    Knows,
    Gone,
    Behind(Lease),
}

fn first_seen(seen: &Seen) -> HashMap<Uuid, FirstSeen> {
    let first = |lease: &Lease| FirstSeen {
        lease: *lease,
        at: seen.ended,
    };
    seen.leases
        .iter()
        .map(|lease| (lease.node_id, first(lease)))
        .collect()
}

/// After how long a lease has run out by anybody's clock: two clocks may run at rates that differ by a twentieth.
fn lapse(lease: &Lease) -> Duration {
    lease.max_staleness.saturating_add(lease.max_staleness / 20)
}
