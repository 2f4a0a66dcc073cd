//! Feeds the index from the log, and keeps this node's lease: batch after batch, woken by whoever appends, polling
//! underneath. With each renewal of the lease that finds the node at the end of the log, it may decide a little longer; when
//! it can't read or can't renew, that runs out and it denies.
//!
//! The rule, of which the order of the steps is everything: note the time; commit the lease; look for the end of the log, on
//! the primary. From then the node may decide until the noted time and [`Tailer::max_staleness`] have passed, once it has
//! applied that end. Whoever commits a later event then finds the lease; an earlier one is in what was applied.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use projections::credentials::SnapshotError;
use projections::log::{Page, ReadLogError, StoredEvent, read_after};
use projections::tail::Tail;
use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Index;
use super::contents::Contents;
use super::leases::{self, Head, Lease};
use super::starting::{self, Start};
use crate::clock::{Clock, Measured};
use crate::database::{OwnConnection, within};
use crate::follow::{Calls, Follower, Said};
use crate::log::Written;
use crate::report::Report;

/// Events in one read.
const BATCH: i64 = 2000;
/// The longest time between two looks at the log.
const POLL: Duration = Duration::from_millis(50);
/// After a failed read.
const BACK_OFF: Duration = Duration::from_millis(100);
/// A step that takes longer has failed: it proves nothing about now.
const STEP_LIMIT: Duration = Duration::from_secs(2);
/// How often the lease is renewed in the time that it carries.
const RENEWALS: u32 = 4;

/// Keeps one index up to date, and this node's lease.
#[derive(Debug)]
pub struct Tailer {
    pool: PgPool,
    connection: OwnConnection,
    index: Arc<Index>,
    /// What this node appends itself, if it does.
    written: Option<mpsc::Receiver<Written>>,
    /// The end of the log as it was read or handed, for all who follow it.
    tail: Tail,
    clock: Clock,
    max_staleness: Duration,
    node_id: Uuid,
    beat: i64,
    /// Nothing was read yet, so that a snapshot may be what to start from.
    is_blank: bool,
    /// The log that is followed, once it is known.
    epoch: Option<Uuid>,
    /// The hash of the event at the index's position.
    hash: Option<Vec<u8>>,
    /// The last position that the lease says was applied.
    said: i64,
    /// The last call that was answered, or could not be.
    heeded: i64,
    /// When the last renewal was begun, by the clock that counts on.
    renewed: Option<Duration>,
    /// Renewals that don't carry the node yet, the oldest first.
    pending: VecDeque<Renewal>,
}

/// When a renewal was begun, and what has to be applied for it to count.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    begun: Duration,
    head: i64,
}

/// Why a step failed.
#[derive(Debug, Error)]
pub enum StepError {
    /// The log, or this node's reading of it.
    #[error(transparent)]
    Read(#[from] ReadLogError),
    /// The lease.
    #[error("the lease can't be renewed")]
    Lease(#[from] sqlx::Error),
    /// Another log than before stands behind this node.
    #[error(
        "this is not the log that was followed up to position {position}: it is read again from the beginning"
    )]
    AnotherLog {
        /// Up to where.
        position: i64,
    },
    /// A later renewal of this node's was there.
    #[error("the lease was renewed by a request that was given up")]
    Overtaken,
    /// How late it is can't be told.
    #[error("the database's clock has jumped, or can't be read in time")]
    Time,
}

impl Tailer {
    /// A tailer from the beginning of the log.
    #[must_use]
    pub fn new(
        pool: PgPool,
        index: Arc<Index>,
        clock: Clock,
        node_id: Uuid,
        max_staleness: Duration,
    ) -> Self {
        Self {
            connection: OwnConnection::of(pool.clone()),
            pool,
            index,
            written: None,
            tail: Tail::default(),
            clock,
            max_staleness,
            node_id,
            beat: 0,
            is_blank: true,
            epoch: None,
            hash: None,
            said: 0,
            heeded: 0,
            renewed: None,
            pending: VecDeque::new(),
        }
    }

    /// The same, which is handed what this node appends itself, and does not read that.
    #[must_use]
    pub fn handed(mut self, written: mpsc::Receiver<Written>) -> Self {
        self.written = Some(written);
        self
    }

    /// The end of the log as this one reads it.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }

    /// Follows the log until it is told to stop; then this node decides no more, and says so.
    pub async fn run(mut self, mut wake: Follower, mut calls: Calls, said: Said, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.is_blank {
                let started = tokio::select! {
                    started = self.start(&stop) => started,
                    () = stop.cancelled() => break,
                };
                if let Err(error) = started {
                    tracing::error!(error = %Report(&error), "the index can't be started");
                    return;
                }
            }
            match within(STEP_LIMIT, self.step(calls.furthest())).await {
                Ok(Read::More) => {}
                Ok(Read::All) => {
                    let longest = POLL.min(self.until_renewal());
                    tokio::select! {
                        () = wake.next(self.index.position(), longest, &stop) => {}
                        () = calls.past(self.heeded) => {}
                    }
                }
                Err(error) => {
                    if matches!(error, StepError::AnotherLog { .. }) {
                        said.forget();
                    }
                    let position = self.index.position();
                    tracing::error!(position, error = %Report(&error), "the index can't follow the log");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
        self.index.fence().close();
        if let Err(error) = within(STEP_LIMIT, self.give_up()).await {
            tracing::warn!(%error, "this node's lease is left behind, to be waited for once");
        }
    }

    /// Starts from a snapshot, to be followed by the log after it; tries until it has one, or is told to stop.
    ///
    /// # Errors
    /// Where there is one that this version can't read.
    pub async fn start(&mut self, stop: &CancellationToken) -> Result<(), SnapshotError> {
        while !stop.is_cancelled() {
            let begun = self.clock.boot().since_boot();
            match starting::read(&self.pool).await {
                Ok(Start {
                    contents,
                    hash,
                    epoch,
                }) => {
                    self.index.start_over(contents);
                    self.hash = hash;
                    self.epoch = Some(epoch);
                    self.is_blank = false;
                    let took = self.clock.boot().since_boot().saturating_sub(begun);
                    tracing::info!(
                        position = self.index.position(),
                        ?took,
                        "the index starts from a snapshot"
                    );
                    return Ok(());
                }
                Err(error @ SnapshotError::Unreadable(_)) => return Err(error),
                Err(error @ SnapshotError::Database(_)) => {
                    tracing::error!(error = %Report(&error), "the index can't be started yet");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
        Ok(())
    }

    /// Reads and applies the next batch; renews the lease where it is time, or somebody waits for it.
    ///
    /// # Errors
    /// [`StepError`]; the node goes on deciding for as long as its last lease carries it, but for another log or time.
    pub async fn step(&mut self, called_for: i64) -> Result<Read, StepError> {
        let page = match self.next_written() {
            // A call that goes further is about what others have appended.
            Some(written) => page_of(&written, called_for)?,
            None => {
                let mut connection = self.connection.take().await?;
                let page = read_after(&mut connection, self.index.position(), BATCH).await?;
                self.connection.keep(connection);
                page
            }
        };
        let page = Arc::new(page);
        if let Some(hash) = &page.last_hash {
            // Before anything of it is applied: another log may have grown past where this node stands.
            if page.hash_before != self.hash {
                return Err(self.start_over());
            }
            self.hash = Some(hash.clone());
        }
        self.index.apply(&page.events);
        let is_last = page.is_last;
        self.tail.keep(page);
        let is_called = called_for > self.said && self.index.position() >= called_for;
        // A node that is still far behind when it starts does not decide yet: nobody has to wait for it.
        let is_due = self.until_renewal().is_zero() && (is_last || self.renewed.is_some());
        if is_called || is_due {
            self.renew().await?;
        }
        self.open();
        if !is_last {
            return Ok(Read::More);
        }
        self.heeded = called_for;
        Ok(Read::All)
    }

    /// What this node has appended itself right after what is applied. Where others came between, all is to be read.
    fn next_written(&mut self) -> Option<Written> {
        let next = self.index.position().saturating_add(1);
        let written = self.written.as_mut()?;
        while let Ok(written) = written.try_recv() {
            if written.first_position == next {
                return Some(written);
            }
        }
        None
    }

    /// The rule of the lease: the time, the commit, the head, in this order.
    async fn renew(&mut self) -> Result<(), StepError> {
        let boot = self.clock.boot().clone();
        let begun = boot.since_boot();
        let mut connection = self.connection.take().await?;
        let applied = self.index.position();
        self.beat = self.beat.saturating_add(1);
        let lease = Lease {
            node_id: self.node_id,
            beat: self.beat,
            applied,
            max_staleness: self.max_staleness,
        };
        let is_renewed = leases::renew(&mut connection, &lease, self.hash.as_deref()).await?;
        let asked = boot.since_boot();
        let head = leases::head(&mut connection, applied).await?;
        self.connection.keep(connection);
        if !self.is_same_log(&head, applied) {
            return Err(self.start_over());
        }
        match self.clock.measured(head.time, asked, boot.since_boot()) {
            Measured::Known => {}
            // The node decides as long as its last lease carries it, by the time that it knows.
            Measured::Uncertain => return Err(StepError::Time),
            Measured::Jumped => {
                self.index.fence().close();
                return Err(StepError::Time);
            }
        }
        if !is_renewed {
            return Err(StepError::Overtaken);
        }
        self.epoch = Some(head.epoch);
        self.said = applied;
        self.renewed = Some(begun);
        self.pending.push_back(Renewal {
            begun,
            head: head.position,
        });
        Ok(())
    }

    /// Lets the node decide for as long as its renewals carry it, now that it has applied what they found. One that can't
    /// carry it any more is forgotten.
    fn open(&mut self) {
        let (applied, now) = (self.index.position(), self.clock.boot().since_boot());
        while let Some(renewal) = self.pending.front() {
            let until = renewal.begun.saturating_add(self.max_staleness);
            if applied >= renewal.head {
                self.index.fence().open_until(until);
            } else if until > now {
                return;
            }
            self.pending.pop_front();
        }
    }

    /// How long until the lease has to be renewed.
    fn until_renewal(&self) -> Duration {
        let Some(begun) = self.renewed else {
            return Duration::ZERO;
        };
        let due = begun.saturating_add(self.max_staleness / RENEWALS);
        due.saturating_sub(self.clock.boot().since_boot())
    }

    fn is_same_log(&self, head: &Head, applied: i64) -> bool {
        self.epoch.is_none_or(|epoch| epoch == head.epoch)
            && (applied == 0 || (head.position >= applied && head.hash == self.hash))
    }

    /// After a failover to a database that lacks what this node has applied, none of it counts.
    fn start_over(&mut self) -> StepError {
        let position = self.index.position();
        self.index.fence().close();
        self.tail.forget();
        // It may be of the end that is lost: nothing in it says so. What comes later than this, the next renewal finds out.
        while self
            .written
            .as_mut()
            .is_some_and(|written| written.try_recv().is_ok())
        {}
        self.index.start_over(Contents::default());
        self.is_blank = true;
        self.hash = None;
        self.said = 0;
        self.heeded = 0;
        self.renewed = None;
        self.pending.clear();
        self.epoch = None;
        StepError::AnotherLog { position }
    }

    async fn give_up(&mut self) -> Result<(), sqlx::Error> {
        let mut connection = self.connection.take().await?;
        leases::give_up(&mut connection, self.node_id).await
    }
}

/// What was appended, as if it had been read. There is nothing after it as far as is known: unless this node is called for
/// something that is.
fn page_of(written: &Written, called_for: i64) -> Result<Page, ReadLogError> {
    let stored = (written.first_position..).zip(&written.events);
    let events = stored.map(|(position, event)| {
        let stored = StoredEvent {
            position,
            recorded_at: written.recorded_at,
            organization_id: event.organization_id,
            aggregate_type: event.stream.aggregate_type,
            aggregate_id: &event.stream.aggregate_id,
            sequence: event.sequence,
            event_type: &event.event_type,
            event_version: &event.event_version,
            payload: &event.payload,
        };
        stored.read().map(Arc::new)
    });
    let events: Vec<_> = events.collect::<Result<_, _>>()?;
    let last_position = events
        .last()
        .map_or(written.first_position, |event| event.position);
    Ok(Page {
        events,
        last_position,
        last_hash: Some(written.hash.clone()),
        hash_before: written.hash_before.clone(),
        is_last: called_for <= last_position,
        bytes: written.events.iter().map(|event| event.payload.len()).sum(),
    })
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// There is more to be read.
    More,
    /// There was nothing more.
    All,
}
