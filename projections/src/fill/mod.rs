//! Fills empty tables up to a position, organization after organization. No read model makes anything of two organizations'
//! events together, so each row is folded in memory, by the projectors' own code, and written once, by `COPY`; and nothing of
//! it has to be kept once its organization is through.
//!
//! How far it has come is kept beside the rows, in one transaction with them: the last organization that is complete. Of one
//! with more events than may be held, what comes after those is taken as the live loop takes it, in the same transaction.

mod chunks;
mod folding;
mod reading;

use std::sync::Arc;

use futures_util::future::try_join_all;
use sqlx::{Executor, PgPool};
use uuid::Uuid;

pub use self::chunks::Bounds;
use self::folding::{Folder, Unit, What};
use self::reading::Units;
use crate::loan::Loan;
use crate::log::{RecordedEvent, must_be_dense};
use crate::rebuild::RebuildError;
use crate::runner::ReadModel;
use crate::tables;

/// Tables that are being filled together.
#[derive(Debug)]
pub(crate) struct Fill {
    pool: PgPool,
    until: i64,
    targets: Vec<Target>,
    units: Units,
    taken: i64,
}

/// A version of a read model, and the organization up to which it is complete.
#[derive(Debug)]
pub(crate) struct Target {
    read_model: ReadModel,
    version: i32,
    complete: Option<Uuid>,
    /// The transaction of an organization that has more events than are held.
    open: Option<Loan>,
}

impl Fill {
    /// Of these, up to a position.
    pub(crate) async fn begin(
        pool: PgPool,
        until: i64,
        targets: Vec<Target>,
        bounds: Bounds,
    ) -> Result<Self, RebuildError> {
        let everywhere = targets.iter().map(|target| target.complete).min().flatten();
        let mut connection = pool.acquire().await?;
        must_be_dense(&mut connection, until).await?;
        let taken = match everywhere {
            None => 0,
            Some(complete) => {
                sqlx::query_scalar(
                    "select count(*) from events where organization_id <= $1 and position <= $2",
                )
                .bind(complete)
                .bind(until)
                .fetch_one(&mut *connection)
                .await?
            }
        };
        let place = everywhere.map_or((Uuid::nil(), 0), |complete| (complete, i64::MAX));
        let folder = Folder::of(&targets);
        // It is none of the pool's any more: it is in the middle of something for as long as it lives.
        let units = Units::after(place, until, connection.detach(), bounds, folder);
        Ok(Self {
            pool,
            until,
            targets,
            units,
            taken,
        })
    }

    /// How many events are in the tables.
    pub(crate) fn taken(&self) -> i64 {
        self.taken
    }

    /// Writes what comes next; none where that was all. After an error another one goes on from what was written.
    pub(crate) async fn step(mut self) -> Result<Option<Self>, RebuildError> {
        let Some(unit) = self.units.next().await? else {
            self.finish().await?;
            return Ok(None);
        };
        let each = self.targets.iter_mut().enumerate();
        try_join_all(each.map(|(number, target)| target.write(&self.pool, self.until, number, &unit)))
            .await?;
        let events = i64::try_from(unit.events).unwrap_or(i64::MAX);
        self.taken = self.taken.saturating_add(events);
        Ok(Some(self))
    }

    /// Makes the indexes, and lets the tables be followed on from where they stand.
    async fn finish(self) -> Result<(), RebuildError> {
        let Self {
            pool, until, targets, ..
        } = self;
        try_join_all(targets.iter().map(|target| target.finish(&pool, until))).await?;
        Ok(())
    }
}

impl Target {
    pub(crate) fn new(read_model: ReadModel, version: i32, complete: Option<Uuid>) -> Self {
        Self {
            read_model,
            version,
            complete,
            open: None,
        }
    }

    /// Writes what a unit has for this one.
    async fn write(
        &mut self,
        pool: &PgPool,
        until: i64,
        number: usize,
        unit: &Unit,
    ) -> Result<(), RebuildError> {
        let mut connection = match self.open.take() {
            Some(open) => open,
            None => self.begin(pool).await?,
        };
        match &unit.what {
            What::Rows(rows) => {
                for rows in rows.get(number).into_iter().flatten() {
                    rows.store(&mut connection).await?;
                }
            }
            What::Rest(events) => {
                tables::index(&mut connection, self.read_model, self.version).await?;
                let events = self.wanted(events);
                let mut nothing = self.read_model.nothing();
                self.read_model
                    .project_all(&mut connection, events, &mut nothing)
                    .await?;
            }
        }
        let Some(complete) = unit.complete else {
            self.open = Some(connection);
            return Ok(());
        };
        if self.complete.is_none_or(|already| complete > already) {
            let moved = sqlx::query(
                "update read_models set filled_organization = $5
                 where name = $1 and version = $2 and not is_live and fills_to = $3 and filled_organization is not distinct from $4",
            )
            .bind(self.read_model.name())
            .bind(self.version)
            .bind(until)
            .bind(self.complete)
            .bind(complete)
            .execute(&mut *connection)
            .await?;
            if moved.rows_affected() != 1 {
                return Err(RebuildError::Disturbed(self.read_model.name()));
            }
            self.complete = Some(complete);
        }
        Ok(commit(connection).await?)
    }

    /// What of some events of one organization is not in the tables yet.
    fn wanted<'e>(&self, events: &'e [Arc<RecordedEvent>]) -> &'e [Arc<RecordedEvent>] {
        let is_there = |event: &Arc<RecordedEvent>| self.complete >= Some(event.organization_id.as_uuid());
        if events.first().is_some_and(is_there) {
            &[]
        } else {
            events
        }
    }

    async fn finish(&self, pool: &PgPool, until: i64) -> Result<(), RebuildError> {
        let mut connection = self.begin(pool).await?;
        tables::index(&mut connection, self.read_model, self.version).await?;
        let moved = sqlx::query(
            "update read_models set position = fills_to, fills_to = null, filled_organization = null
             where name = $1 and version = $2 and not is_live and fills_to = $3",
        )
        .bind(self.read_model.name())
        .bind(self.version)
        .bind(until)
        .execute(&mut *connection)
        .await?;
        if moved.rows_affected() != 1 {
            return Err(RebuildError::Disturbed(self.read_model.name()));
        }
        Ok(commit(connection).await?)
    }

    /// Nobody has to wait for the disk: rows and how far they go are lost together, and then made again.
    async fn begin(&self, pool: &PgPool) -> Result<Loan, sqlx::Error> {
        let mut connection = Loan::of(pool).await?;
        connection.execute("begin").await?;
        sqlx::query(
            "select set_config('search_path', $1 || ', ' || current_setting('search_path'), true),
                    set_config('synchronous_commit', 'off', true)",
        )
        .bind(self.read_model.schema(self.version))
        .execute(&mut *connection)
        .await?;
        Ok(connection)
    }
}

async fn commit(mut connection: Loan) -> Result<(), sqlx::Error> {
    connection.execute("commit").await?;
    connection.give_back();
    Ok(())
}
