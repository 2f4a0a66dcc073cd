//! Feeds the log to one read model. A step is one transaction: the rows of a batch of events and the checkpoint, which is
//! moved by compare-and-set. On an error nothing of the batch stands and the position is reported; nothing is skipped.

use sqlx::{PgConnection, PgPool};
use thiserror::Error;

use crate::log::{Kind, ReadLogError, RecordedEvent, read_after_without};
use crate::{access_tokens, checkpoint, members};

/// Events in one transaction.
const BATCH: i64 = 500;

/// The read models there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadModel {
    /// What lists and pages of tokens show.
    AccessTokens,
    /// Who belongs to which organization.
    Members,
}

impl ReadModel {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::AccessTokens, Self::Members];

    /// Its name, as operators write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessTokens => "access_tokens",
            Self::Members => "members",
        }
    }

    /// The version of its tables that this binary writes.
    #[must_use]
    pub fn version(self) -> i32 {
        1
    }

    /// The schema in which its live tables are.
    #[must_use]
    pub fn schema(self) -> String {
        format!("{}_v{}", self.name(), self.version())
    }

    /// Whose events change nothing in it.
    fn unwanted(self) -> &'static [Kind] {
        match self {
            Self::AccessTokens => &[],
            Self::Members => &[Kind::AccessToken],
        }
    }

    /// Whether one statement takes both, which follow each other.
    fn takes_together(self, one: &RecordedEvent, next: &RecordedEvent) -> bool {
        match self {
            Self::AccessTokens => access_tokens::takes_together(one, next),
            Self::Members => false,
        }
    }

    /// A single event, or some that go together.
    async fn project(
        self,
        connection: &mut PgConnection,
        events: &[RecordedEvent],
    ) -> Result<(), ProjectError> {
        match self {
            Self::AccessTokens => access_tokens::project(connection, events).await,
            Self::Members => members::project(connection, events).await,
        }
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
    schema: String,
    version: i32,
}

impl Runner {
    /// Writes the live tables.
    #[must_use]
    pub fn live(pool: PgPool, read_model: ReadModel) -> Self {
        Self {
            pool,
            read_model,
            schema: read_model.schema(),
            version: read_model.version(),
        }
    }

    /// Makes empty tables of the same shape in a schema of their own, under a version of their own, and writes those:
    /// a replay beside the live read model.
    ///
    /// # Errors
    /// Where the schema exists already, or the database is out of reach.
    pub async fn beside(pool: PgPool, read_model: ReadModel, version: i32) -> Result<Self, sqlx::Error> {
        let schema = format!("{}_replay_{version}", read_model.name());
        let (live, table) = (read_model.schema(), read_model.name());
        let mut transaction = pool.begin().await?;
        sqlx::raw_sql(&format!(
            "create schema {schema}; create table {schema}.{table} (like {live}.{table} including all);"
        ))
        .execute(&mut *transaction)
        .await?;
        sqlx::query("insert into read_models (name, version) values ($1, $2)")
            .bind(read_model.name())
            .bind(version)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Self {
            pool,
            read_model,
            schema,
            version,
        })
    }

    /// Which read model.
    #[must_use]
    pub fn read_model(&self) -> ReadModel {
        self.read_model
    }

    /// Where its tables are.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// How far it has come, whoever moved it.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn position(&self) -> Result<i64, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        checkpoint::of_read_model(&mut connection, self.read_model.name(), self.version).await
    }

    /// Takes the next batch of events; answers the checkpoint, which is where it was when there was nothing to take or
    /// somebody else took it.
    ///
    /// # Errors
    /// [`StepError`]; nothing of the batch stands.
    pub async fn step(&self) -> Result<i64, StepError> {
        let mut transaction = self.pool.begin().await?;
        let from = checkpoint::of_read_model(&mut transaction, self.read_model.name(), self.version).await?;
        let page = read_after_without(&mut transaction, from, BATCH, self.read_model.unwanted()).await?;
        let to = page.last_position;
        if to == from {
            return Ok(from);
        }
        // First the checkpoint: a second runner waits here for the row, and then finds it moved.
        if !checkpoint::move_read_model(&mut transaction, self.read_model.name(), self.version, from, to)
            .await?
        {
            return Ok(from);
        }
        // Nobody has to wait for the disk: rows and checkpoint are lost together, and then taken from the log again.
        sqlx::query(
            "select set_config('search_path', $1, true), set_config('synchronous_commit', 'off', true)",
        )
        .bind(&self.schema)
        .execute(&mut *transaction)
        .await?;
        let taken_together = |one: &_, next: &_| self.read_model.takes_together(one, next);
        for events in page.events.chunk_by(taken_together) {
            self.read_model
                .project(&mut transaction, events)
                .await
                .map_err(|source| StepError::Project {
                    read_model: self.read_model.name(),
                    position: events.first().map_or(from, |event| event.position),
                    source,
                })?;
        }
        transaction.commit().await?;
        Ok(to)
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
