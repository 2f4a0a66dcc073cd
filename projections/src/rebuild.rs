//! A replay: read models filled anew beside the live ones, by the same projectors, and then switched to, or compared. Until
//! the switch nothing live is touched; one that was interrupted is gone on with by the next.
//!
//! The switch is one transaction. It locks the live checkpoint, which stops every node's runner at its compare-and-set, lets
//! the new version come level, and moves the pointer and the views. A runner that waited then finds that its version is not
//! the live one any more, and reads the pointer anew at its next step. A reader waits for the view for as long as that takes.

use std::time::Duration;

use sqlx::{Executor, PgConnection, PgPool};
use thiserror::Error;
use tokio::time::timeout;

use crate::checkpoint::{self, Tables};
use crate::log::{ReadLogError, head};
use crate::runner::{ReadModel, Runner, StepError};
use crate::tables::{self, tables};

/// How long a switch waits for a lock.
const LOCK_PATIENCE: &str = "250ms";
/// How long a switch may hold what it has locked, its commit aside: so long those behind it wait.
const SWITCH_PATIENCE: Duration = Duration::from_millis(500);
/// Between two tries to switch.
const SWITCH_PAUSE: Duration = Duration::from_millis(250);
/// Tries to switch.
const SWITCH_TRIES: u32 = 240;
/// Events that take no time worth mentioning.
const LITTLE: i64 = 100;
/// Batches that a new version takes while the live one stands still.
const BATCHES_UNDER_LOCK: u32 = 3;

/// Why a replay did not get through. The live read model is as it was.
#[derive(Debug, Error)]
pub enum RebuildError {
    /// The database.
    #[error("the database is out of reach")]
    Database(#[from] sqlx::Error),
    /// The log.
    #[error(transparent)]
    Read(#[from] ReadLogError),
    /// An event.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A thread.
    #[error("the events were not folded to their end")]
    Interrupted(#[from] tokio::task::JoinError),
    /// Another replay is at it.
    #[error("another replay of {0} is running")]
    Busy(&'static str),
    /// Somebody has taken the tables away, or moved their checkpoint.
    #[error("the tables of this replay of {0} were changed by somebody else")]
    Disturbed(&'static str),
    /// There was no moment for it.
    #[error(
        "{0} is so busy that there was no moment for the switch; run the replay again, it goes on from here"
    )]
    NoMoment(&'static str),
}

/// What to do with what an interrupted replay has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// Go on from there, where this revision of the projector has made it.
    Resume,
    /// Begin at position 0.
    Discard,
    /// Leave it there, and begin beside it.
    Keep,
}

/// A switch that was made.
#[derive(Debug)]
pub struct Switched {
    /// Up to where the new version held the log at that moment.
    pub position: i64,
    /// Why the tables of the version before are still there; the next replay drops them.
    pub leftover: Option<RebuildError>,
}

/// One read model that is being filled anew.
#[derive(Debug)]
pub struct Rebuild {
    pool: PgPool,
    read_model: ReadModel,
    version: i32,
    runner: Runner,
    /// Holds the lock that keeps other replays out, until it is closed.
    _guard: PgConnection,
}

impl Rebuild {
    /// Makes empty tables of the live ones' shape beside them, or finds those of an interrupted replay.
    ///
    /// # Errors
    /// [`RebuildError`]
    pub async fn begin(
        pool: PgPool,
        read_model: ReadModel,
        leftovers: Leftovers,
    ) -> Result<Self, RebuildError> {
        let mut guard = pool.acquire().await?.detach();
        let is_alone: bool = sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended($1, 0))")
            .bind(format!("replay of {}", read_model.name()))
            .fetch_one(&mut guard)
            .await?;
        if !is_alone {
            return Err(RebuildError::Busy(read_model.name()));
        }
        let live = checkpoint::of_read_model(&mut guard, read_model.name(), Tables::Live).await?;
        let others: Vec<(i32, i32)> = sqlx::query_as(
            "select version, revision from read_models where name = $1 and not is_live order by version",
        )
        .bind(read_model.name())
        .fetch_all(&mut guard)
        .await?;
        let mut resumable = None;
        for (other, revision) in others {
            let is_ours = other > live.version && revision == read_model.revision();
            if is_ours && leftovers != Leftovers::Discard && resumable.is_none() {
                resumable = Some(other);
            } else {
                tables::drop(&mut guard, read_model, other).await?;
            }
        }
        let version = match resumable {
            Some(version) if leftovers == Leftovers::Resume => version,
            _ => {
                let version = resumable.unwrap_or(live.version).saturating_add(1);
                let head = head(&mut guard).await?;
                tables::make(&mut guard, read_model, (live.version, version), head).await?;
                version
            }
        };
        let runner = Runner::of(pool.clone(), read_model, Tables::Beside(version));
        Ok(Self {
            pool,
            read_model,
            version,
            runner,
            _guard: guard,
        })
    }

    /// Which read model.
    #[must_use]
    pub fn read_model(&self) -> ReadModel {
        self.read_model
    }

    /// The version that it is to be.
    #[must_use]
    pub fn version(&self) -> i32 {
        self.version
    }

    /// Where its tables are.
    #[must_use]
    pub fn schema(&self) -> String {
        self.read_model.schema(self.version)
    }

    /// How far it has come.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn position(&self) -> Result<i64, sqlx::Error> {
        self.runner.position().await
    }

    /// The live loop's step.
    pub(crate) async fn step(&self) -> Result<i64, StepError> {
        self.runner.step().await
    }

    /// Makes this the live version, once it holds all that the live one holds. The version before is dropped.
    ///
    /// # Errors
    /// [`RebuildError`]; the live one is as it was.
    pub async fn switch(self) -> Result<Switched, RebuildError> {
        let name = self.read_model.name();
        for _ in 0..SWITCH_TRIES {
            self.come_near().await?;
            match self.try_switch().await {
                Ok(Some((before, position))) => {
                    let leftover = self.drop_version(before).await.err();
                    return Ok(Switched { position, leftover });
                }
                Ok(None) => {}
                Err(RebuildError::Database(error)) if is_lock_timeout(&error) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(SWITCH_PAUSE).await;
        }
        Err(RebuildError::NoMoment(name))
    }

    async fn drop_version(&self, version: i32) -> Result<(), RebuildError> {
        tables::drop(&mut *self.pool.acquire().await?, self.read_model, version).await
    }

    /// Comes to where the live one stands at this moment: it may stand still, or go on.
    pub(crate) async fn follow_live(&self) -> Result<(), RebuildError> {
        let mut connection = self.pool.acquire().await?;
        let live = checkpoint::of_read_model(&mut connection, self.read_model.name(), Tables::Live).await?;
        drop(connection);
        let mut before = self.position().await?;
        while before < live.position {
            let at = self.runner.step_until(live.position).await?;
            if at == before {
                return Err(RebuildError::Disturbed(self.read_model.name()));
            }
            before = at;
        }
        Ok(())
    }

    /// Steps until what is left is little: under load there is always something.
    async fn come_near(&self) -> Result<(), RebuildError> {
        let mut before = self.position().await?;
        loop {
            let at = self.runner.step().await?;
            if at.saturating_sub(before) < LITTLE {
                return Ok(());
            }
            before = at;
        }
    }

    /// The version that was live before, and the position; none where the new one would not come level in a moment.
    async fn try_switch(&self) -> Result<Option<(i32, i64)>, RebuildError> {
        let mut transaction = self.pool.begin().await?;
        let Ok(moved) = timeout(SWITCH_PATIENCE, self.move_pointer(&mut transaction)).await else {
            return Ok(None);
        };
        if moved.as_ref().is_ok_and(Option::is_some) {
            transaction.commit().await?;
        }
        moved
    }

    async fn move_pointer(&self, transaction: &mut PgConnection) -> Result<Option<(i32, i64)>, RebuildError> {
        let name = self.read_model.name();
        let Some((live, at_least)) = self.come_level(transaction).await? else {
            return Ok(None);
        };
        let position = self.runner.position().await?;
        for (version, is_live) in [(live, false), (self.version, true)] {
            let moved = sqlx::query(
                "update read_models set is_live = $3 where name = $1 and version = $2 and position >= $4",
            )
            .bind(name)
            .bind(version)
            .bind(is_live)
            .bind(at_least)
            .execute(&mut *transaction)
            .await?;
            // Readers never go back.
            if moved.rows_affected() != 1 {
                return Err(RebuildError::Disturbed(name));
            }
        }
        for table in tables(transaction, self.read_model, self.version).await? {
            let schema = self.schema();
            let view = format!("create or replace view {table} as select * from {schema}.{table}");
            transaction.execute(view.as_str()).await?;
        }
        Ok(Some((live, position)))
    }

    /// Stops the live one until the end of this transaction, and brings this one to where it stands, or past it; answers the
    /// live version and its position. None where that would take long.
    async fn come_level(&self, transaction: &mut PgConnection) -> Result<Option<(i32, i64)>, RebuildError> {
        sqlx::query("select set_config('lock_timeout', $1, true)")
            .bind(LOCK_PATIENCE)
            .execute(&mut *transaction)
            .await?;
        let (version, position): (i32, i64) = sqlx::query_as(
            "select version, position from read_models where name = $1 and is_live for update",
        )
        .bind(self.read_model.name())
        .fetch_one(&mut *transaction)
        .await?;
        for _ in 0..BATCHES_UNDER_LOCK {
            if self.runner.step_until(position).await? >= position {
                return Ok(Some((version, position)));
            }
        }
        Ok(None)
    }

    /// A transaction that sees both versions at one position, and the live one's schema; none where there was no moment.
    pub(crate) async fn level_snapshot(
        &self,
    ) -> Result<Option<(sqlx::Transaction<'static, sqlx::Postgres>, String)>, RebuildError> {
        let mut holding = self.pool.begin().await?;
        let Some((live, _)) = self.come_level(&mut holding).await? else {
            return Ok(None);
        };
        let mut snapshot = self.pool.begin().await?;
        snapshot
            .execute("set transaction isolation level repeatable read, read only")
            .await?;
        let at = "select position from read_models where name = $1 and version = $2";
        let mut positions = Vec::new();
        for version in [live, self.version] {
            let position: i64 = sqlx::query_scalar(at)
                .bind(self.read_model.name())
                .bind(version)
                .fetch_one(&mut *snapshot)
                .await?;
            positions.push(position);
        }
        holding.rollback().await?;
        positions.dedup();
        Ok((positions.len() == 1).then(|| (snapshot, self.read_model.schema(live))))
    }

    /// Takes its tables away.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn discard(self) -> Result<(), RebuildError> {
        self.drop_version(self.version).await
    }
}

/// SQLSTATE 55P03, `lock_not_available`.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "55P03")
}
