//! Feeds the log to one read model. A step is one transaction: the rows of a batch of events and the checkpoint, which is
//! moved by compare-and-set. On an error nothing of the batch stands and the position is reported; nothing is skipped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::{Connection, PgConnection, PgPool};
use thiserror::Error;

use crate::checkpoint::{self, Checkpoint, Tables};
use crate::copy::NewRows;
use crate::loan::Loan;
use crate::log::{ReadLogError, RecordedEvent, all_but};
use crate::tail::{Stretch, Tail};
use crate::{access_tokens, credentials, members};

/// The read models there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadModel {
    /// What lists and pages of tokens show.
    AccessTokens,
    /// Who belongs to which organization.
    Members,
    /// What a node's index starts from.
    Credentials,
}

impl ReadModel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AccessTokens, Self::Members, Self::Credentials];

    /// Its name, as operators write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessTokens => "access_tokens",
            Self::Members => "members",
            Self::Credentials => "credentials",
        }
    }

    /// Do requests read it? Else only a node does that starts, and nobody waits for it.
    #[must_use]
    pub fn is_for_requests(self) -> bool {
        match self {
            Self::AccessTokens | Self::Members => true,
            Self::Credentials => false,
        }
    }

    /// The revision of its projector. It rises with whatever makes other rows of the same events: what another revision has
    /// begun is not gone on with.
    #[must_use]
    pub fn revision(self) -> i32 {
        match self {
            Self::AccessTokens | Self::Members | Self::Credentials => 1,
        }
    }

    /// The schema in which a version's tables are.
    #[must_use]
    pub fn schema(self, version: i32) -> String {
        format!("{}_v{version}", self.name())
    }

    /// Whether events of this type can change anything in it.
    pub(crate) fn wants(self, event_type: &str) -> bool {
        match self {
            Self::AccessTokens => access_tokens::wants(event_type),
            Self::Members => members::wants(event_type),
            Self::Credentials => true,
        }
    }

    /// Events in one transaction: a row that many of them change is written once, but who waits for it waits for all of them.
    fn batch(self) -> i64 {
        match self {
            Self::AccessTokens | Self::Members => 6000,
            Self::Credentials => 20_000,
        }
    }

    /// Whether one statement takes both, which follow each other.
    fn takes_together(self, one: &RecordedEvent, next: &RecordedEvent) -> bool {
        match self {
            Self::AccessTokens => access_tokens::takes_together(one, next),
            Self::Members => members::takes_together(one, next),
            Self::Credentials => true,
        }
    }

    /// Takes events that follow each other, in the schema that is searched first, with the rows that are held of its tables.
    pub(crate) async fn project_all(
        self,
        connection: &mut PgConnection,
        events: &[Arc<RecordedEvent>],
        held: &mut Held,
    ) -> Result<(), StepError> {
        for events in events.chunk_by(|one, next| self.takes_together(one, next)) {
            let first = events.first().map_or(0, |event| event.position);
            held.project(connection, events)
                .await
                .map_err(|source| self.stopped(first, source))?;
        }
        Ok(())
    }

    pub(crate) fn stopped(self, position: i64, source: ProjectError) -> StepError {
        StepError::Project {
            read_model: self.name(),
            position,
            source,
        }
    }

    /// No rows.
    pub(crate) fn nothing(self) -> Held {
        match self {
            Self::AccessTokens => Held::AccessTokens(access_tokens::Rows::default()),
            Self::Members => Held::Members(members::Members::default()),
            Self::Credentials => Held::Credentials(credentials::Batch::default()),
        }
    }
}

/// Rows in memory: all that a stretch of the log comes to which depends on nothing before it, or some as their tables have
/// them.
#[derive(Debug)]
pub(crate) enum Held {
    AccessTokens(access_tokens::Rows),
    Members(members::Members),
    Credentials(credentials::Batch),
}

impl Held {
    /// Takes a single event, or some that go together, into the tables.
    async fn project(
        &mut self,
        connection: &mut PgConnection,
        events: &[Arc<RecordedEvent>],
    ) -> Result<(), ProjectError> {
        match self {
            // Most of what happens to tokens makes new ones: nothing is held.
            Self::AccessTokens(_) => access_tokens::project(connection, events).await,
            Self::Members(members) => members::project(connection, events, members).await,
            Self::Credentials(batch) => credentials::project(connection, events, batch).await,
        }
    }

    pub(crate) fn apply(&mut self, event: &RecordedEvent) -> Result<(), ProjectError> {
        match self {
            Self::AccessTokens(rows) => access_tokens::apply(rows, event),
            Self::Members(members) => {
                members.apply(event);
                Ok(())
            }
            Self::Credentials(batch) => {
                batch.apply(event);
                Ok(())
            }
        }
    }

    /// To be written to tables that have none of them.
    pub(crate) fn all_new(self) -> Result<Vec<NewRows>, ProjectError> {
        match self {
            Self::AccessTokens(rows) => Ok(vec![rows.all_new()?]),
            Self::Members(members) => Ok(vec![members.all_new()?]),
            Self::Credentials(batch) => Ok(batch.all_new()?.into()),
        }
    }
}

/// Rows that a runner holds of a table from one step to the next.
const MAX_HELD: usize = 8000;

/// Lets go of half of the rows where they are more than are held.
pub(crate) fn let_go_of_some<K: Ord, R>(rows: &mut BTreeMap<K, R>) {
    if rows.len() > MAX_HELD {
        let mut stays = false;
        rows.retain(|_, _| {
            stays = !stays;
            stays
        });
    }
}

/// Why a projector could not take an event.
#[derive(Debug, Error)]
pub enum ProjectError {
    /// The database.
    #[error("the read model is out of reach")]
    Database(#[from] sqlx::Error),
    /// What was stored before can't be read back.
    #[error("a stored row can't be read")]
    Stored(#[from] serde_json::Error),
    /// The same, in words of its own.
    #[error("{0}")]
    Unreadable(String),
    /// A number is out of the column's range.
    #[error("a value is out of range")]
    Range(#[from] std::num::TryFromIntError),
}

/// Why a step failed. Nothing of it stands.
#[derive(Debug, Error)]
pub enum StepError {
    /// The database.
    #[error("the read model is out of reach")]
    Database(#[from] sqlx::Error),
    /// The log.
    #[error(transparent)]
    Read(#[from] ReadLogError),
    /// An event, or one of those that were taken together.
    #[error("read model {read_model} stopped before position {position}")]
    Project {
        /// Which.
        read_model: &'static str,
        /// The first event that could not be taken, or one shortly before it.
        position: i64,
        /// Why.
        source: ProjectError,
    },
}

/// One read model and the tables it is written to.
#[derive(Clone, Debug)]
pub struct Runner {
    pool: PgPool,
    read_model: ReadModel,
    tables: Tables,
    /// The types of events that change nothing in it.
    unwanted: Vec<&'static str>,
    /// Where the log is looked for first.
    tail: Tail,
    last: Arc<Mutex<Option<LastStep>>>,
}

/// What a runner's last step has left behind.
#[derive(Debug)]
struct LastStep {
    /// What it has moved the checkpoint to.
    at: Checkpoint,
    /// The hash of the event there.
    hash: Option<Vec<u8>>,
    /// Rows as the tables have them since.
    held: Held,
}

impl Runner {
    /// Writes the live tables, whichever these are at each step: a switch needs no restart.
    #[must_use]
    pub fn live(pool: PgPool, read_model: ReadModel) -> Self {
        Self::of(pool, read_model, Tables::Live)
    }

    /// Takes from memory what others have read of the log.
    #[must_use]
    pub fn behind(self, tail: Tail) -> Self {
        Self { tail, ..self }
    }

    pub(crate) fn of(pool: PgPool, read_model: ReadModel, tables: Tables) -> Self {
        Self {
            pool,
            read_model,
            tables,
            unwanted: all_but(|event_type| read_model.wants(event_type)),
            tail: Tail::default(),
            last: Arc::default(),
        }
    }

    /// Which read model.
    #[must_use]
    pub fn read_model(&self) -> ReadModel {
        self.read_model
    }

    /// How far it has come, whoever moved it.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn position(&self) -> Result<i64, sqlx::Error> {
        Ok(self.checkpoint(&mut *self.pool.acquire().await?).await?.position)
    }

    /// Takes the next batch of events; answers the checkpoint, which is where it was when there was nothing to take or
    /// somebody else took it.
    ///
    /// # Errors
    /// [`StepError`]; nothing of the batch stands.
    pub async fn step(&self) -> Result<i64, StepError> {
        self.step_until(i64::MAX).await
    }

    /// The same, no further than to a position.
    pub(crate) async fn step_until(&self, position: i64) -> Result<i64, StepError> {
        let mut connection = Loan::of(&self.pool).await?;
        let stepped = self.step_on(&mut connection, position).await;
        connection.give_back();
        stepped
    }

    async fn step_on(&self, connection: &mut PgConnection, position: i64) -> Result<i64, StepError> {
        let mut transaction = connection.begin().await?;
        let from = self.checkpoint(&mut transaction).await?;
        let limit = position
            .saturating_sub(from.position)
            .clamp(0, self.read_model.batch());
        let stretch = self
            .tail
            .read_after_without(&mut transaction, from.position, limit, &self.unwanted)
            .await?;
        if stretch.last_position == from.position {
            return Ok(from.position);
        }
        let mut held = self.held_since(from, &stretch);
        if !self.take(&mut transaction, from, &stretch, &mut held).await? {
            return Ok(from.position);
        }
        transaction.commit().await?;
        let at = Checkpoint {
            position: stretch.last_position,
            ..from
        };
        let hash = stretch.last_hash;
        *self.last() = Some(LastStep { at, hash, held });
        Ok(at.position)
    }

    /// The rows that the last step has left, if nobody has taken one since, and what comes next follows on it; or none.
    fn held_since(&self, from: Checkpoint, next: &Stretch) -> Held {
        let last = self.last().take();
        let last =
            last.filter(|last| last.at == from && last.hash.is_some() && last.hash == next.hash_before);
        last.map_or_else(|| self.read_model.nothing(), |last| last.held)
    }

    fn last(&self) -> MutexGuard<'_, Option<LastStep>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn checkpoint(&self, connection: &mut PgConnection) -> Result<Checkpoint, sqlx::Error> {
        checkpoint::of_read_model(connection, self.read_model.name(), self.tables).await
    }

    /// Takes what was read after `from`, in a transaction of the caller's; false where somebody else was faster, or
    /// these are not the live tables any more.
    async fn take(
        &self,
        transaction: &mut PgConnection,
        from: Checkpoint,
        stretch: &Stretch,
        held: &mut Held,
    ) -> Result<bool, StepError> {
        // First the checkpoint: a second runner waits here for the row, and so does a switch, and then finds it moved.
        let name = self.read_model.name();
        if !checkpoint::move_read_model(transaction, name, self.tables, from, stretch.last_position).await? {
            return Ok(false);
        }
        // Nobody has to wait for the disk: rows and checkpoint are lost together, and then taken from the log again.
        sqlx::query(
            "select set_config('search_path', $1, true), set_config('synchronous_commit', 'off', true)",
        )
        .bind(self.read_model.schema(from.version))
        .execute(&mut *transaction)
        .await?;
        self.read_model
            .project_all(transaction, &stretch.events, held)
            .await?;
        Ok(true)
    }

    /// Steps until nothing is left to take; answers the checkpoint.
    ///
    /// # Errors
    /// [`StepError`]
    pub async fn catch_up(&self) -> Result<i64, StepError> {
        let mut before = self.position().await?;
        loop {
            let at = self.step().await?;
            if at == before {
                return Ok(at);
            }
            before = at;
        }
    }
}
