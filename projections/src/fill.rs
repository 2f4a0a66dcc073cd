//! Fills empty tables up to a position, organization after organization. No read model makes anything of two organizations'
//! events together, so each row is folded in memory, by the projectors' own code, and written once, by `COPY`; and nothing of
//! it has to be kept once its organization is through. One page is read while the one before it is decoded, the one before that
//! folded, and one more written.
//!
//! How far it has come is kept beside the rows, in one transaction with them: the last organization that is complete. Of one
//! with more events than may be held, what comes after those is taken as the live loop takes it, in the same transaction.

use futures_util::future::try_join_all;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres, Row, Transaction};
use uuid::Uuid;

use crate::copy::NewRows;
use crate::log::{Place, ReadLogError, RecordedEvent, must_be_dense, recorded, rows_by_organization};
use crate::rebuild::RebuildError;
use crate::runner::{Held, ReadModel, StepError};
use crate::tables;

/// Events in one read.
const PAGE: i64 = 10_000;

/// How many events are taken at once.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events, at least, whose rows are written in one transaction.
    pub together: usize,
    /// Events of one organization, at most, that are folded without the tables.
    pub of_one: usize,
    /// Events that are taken at once of an organization that has more.
    pub rest: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            together: 20_000,
            of_one: 100_000,
            rest: 10_000,
        }
    }
}

/// Tables that are being filled together.
#[derive(Debug)]
pub(crate) struct Fill {
    pool: PgPool,
    until: i64,
    targets: Vec<Target>,
    /// The last event that was read.
    place: Place,
    /// None: all was read.
    read: Option<Vec<PgRow>>,
    /// None: all was decoded.
    decoded: Option<Vec<RecordedEvent>>,
    /// None: all was folded.
    folder: Option<Folder>,
    folded: Vec<Unit>,
    taken: i64,
}

/// A version of a read model, and the organization up to which it is complete.
#[derive(Debug)]
pub(crate) struct Target {
    read_model: ReadModel,
    version: i32,
    complete: Option<Uuid>,
    /// Of an organization that has more events than are held.
    open: Option<Transaction<'static, Postgres>>,
}

/// What is written at once.
#[derive(Debug)]
struct Unit {
    what: What,
    events: usize,
    /// All organizations up to this one are complete with it; none: the last one goes on.
    complete: Option<Uuid>,
}

#[derive(Debug)]
enum What {
    /// New rows, for each target in their order.
    Rows(Vec<Vec<NewRows>>),
    /// Events of an organization of which there are rows already.
    Rest(Vec<RecordedEvent>),
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
        drop(connection);
        Ok(Self {
            pool,
            until,
            place: everywhere.map_or((Uuid::nil(), 0), |complete| (complete, i64::MAX)),
            read: Some(Vec::new()),
            decoded: Some(Vec::new()),
            folder: Some(Folder::of(&targets, bounds)),
            targets,
            folded: Vec::new(),
            taken,
        })
    }

    /// How many events are in the tables.
    pub(crate) fn taken(&self) -> i64 {
        self.taken
    }

    /// Reads, folds and writes on; none where all is done. After an error another one goes on from what was written.
    pub(crate) async fn step(mut self) -> Result<Option<Self>, RebuildError> {
        let (page, events, folder) = (self.read.take(), self.decoded.take(), self.folder.take());
        let is_last = page.is_none();
        if folder.is_none() && self.folded.is_empty() {
            self.finish().await?;
            return Ok(None);
        }
        let decoding = tokio::task::spawn_blocking(move || page.map(|page| decode(&page)).transpose());
        let folding = tokio::task::spawn_blocking(move || match (folder, events) {
            (Some(mut folder), Some(events)) => {
                let units = folder.fold(events)?;
                Ok((Some(folder), units))
            }
            (Some(folder), None) => Ok((None, folder.finish()?)),
            (None, _) => Ok((None, Vec::new())),
        });
        let reading = async {
            if is_last {
                return Ok(Vec::new());
            }
            let mut connection = self.pool.acquire().await?;
            rows_by_organization(&mut connection, self.place, self.until, PAGE).await
        };
        let writing = write(&self.pool, self.until, &mut self.targets, &self.folded);
        let (read, decoded, folded, written) = tokio::join!(reading, decoding, folding, writing);
        written?;
        let events: usize = self.folded.iter().map(|unit| unit.events).sum();
        self.taken = self
            .taken
            .saturating_add(i64::try_from(events).unwrap_or(i64::MAX));
        self.decoded = decoded??;
        let folded: Result<_, StepError> = folded?;
        (self.folder, self.folded) = folded?;
        let read = read?;
        if let Some(last) = read.last() {
            self.place = (last.try_get(2)?, last.try_get(0)?);
            self.read = Some(read);
        }
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

async fn write(
    pool: &PgPool,
    until: i64,
    targets: &mut [Target],
    units: &[Unit],
) -> Result<(), RebuildError> {
    for unit in units {
        let each = targets.iter_mut().enumerate();
        try_join_all(each.map(|(number, target)| target.write(pool, until, number, unit))).await?;
    }
    Ok(())
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
        let schema = self.read_model.schema(self.version);
        let mut transaction = match self.open.take() {
            Some(open) => open,
            None => begin(pool, &schema).await?,
        };
        match &unit.what {
            What::Rows(rows) => {
                for rows in rows.get(number).into_iter().flatten() {
                    rows.store(&mut transaction, &schema).await?;
                }
            }
            What::Rest(events) => {
                tables::index(&mut transaction, self.read_model, self.version).await?;
                let events = self.wanted(events);
                self.read_model.project_all(&mut transaction, events).await?;
            }
        }
        let Some(complete) = unit.complete else {
            self.open = Some(transaction);
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
            .execute(&mut *transaction)
            .await?;
            if moved.rows_affected() != 1 {
                return Err(RebuildError::Disturbed(self.read_model.name()));
            }
            self.complete = Some(complete);
        }
        Ok(transaction.commit().await?)
    }

    /// What of some events of one organization is not in the tables yet.
    fn wanted<'e>(&self, events: &'e [RecordedEvent]) -> &'e [RecordedEvent] {
        let is_there = |event: &RecordedEvent| self.complete >= Some(event.organization_id.as_uuid());
        if events.first().is_some_and(is_there) {
            &[]
        } else {
            events
        }
    }

    async fn finish(&self, pool: &PgPool, until: i64) -> Result<(), RebuildError> {
        let mut transaction = begin(pool, &self.read_model.schema(self.version)).await?;
        tables::index(&mut transaction, self.read_model, self.version).await?;
        let moved = sqlx::query(
            "update read_models set position = fills_to, fills_to = null, filled_organization = null
             where name = $1 and version = $2 and not is_live and fills_to = $3",
        )
        .bind(self.read_model.name())
        .bind(self.version)
        .bind(until)
        .execute(&mut *transaction)
        .await?;
        if moved.rows_affected() != 1 {
            return Err(RebuildError::Disturbed(self.read_model.name()));
        }
        Ok(transaction.commit().await?)
    }
}

/// Nobody has to wait for the disk: rows and how far they go are lost together, and then made again.
async fn begin(pool: &PgPool, schema: &str) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query(
        "select set_config('search_path', $1 || ', ' || current_setting('search_path'), true),
                set_config('synchronous_commit', 'off', true)",
    )
    .bind(schema)
    .execute(&mut *transaction)
    .await?;
    Ok(transaction)
}

/// Folds events that come organization after organization.
#[derive(Debug)]
struct Folder {
    bounds: Bounds,
    targets: Vec<(ReadModel, Option<Uuid>, Held)>,
    /// Of the last event.
    organization: Option<Uuid>,
    /// Events that are folded, of the last organization and in all.
    of_one: usize,
    in_all: usize,
    /// The last organization has more than may be held: events of it that are not.
    rest: Option<Vec<RecordedEvent>>,
}

impl Folder {
    fn of(targets: &[Target], bounds: Bounds) -> Self {
        let target = |target: &Target| (target.read_model, target.complete, target.read_model.nothing());
        Self {
            bounds,
            targets: targets.iter().map(target).collect(),
            organization: None,
            of_one: 0,
            in_all: 0,
            rest: None,
        }
    }

    /// Takes events; answers what is to be written.
    fn fold(&mut self, events: Vec<RecordedEvent>) -> Result<Vec<Unit>, StepError> {
        let mut units = Vec::new();
        for event in events {
            let organization = event.organization_id.as_uuid();
            if self.organization != Some(organization) {
                units.extend(self.end_organization()?);
                self.organization = Some(organization);
            }
            match &mut self.rest {
                None => {
                    self.apply(&event)?;
                    if self.of_one >= self.bounds.of_one {
                        units.push(self.rows(None)?);
                        self.rest = Some(Vec::new());
                    }
                }
                Some(rest) => {
                    rest.push(event);
                    if rest.len() >= self.bounds.rest {
                        units.push(unit_of_rest(std::mem::take(rest), None));
                    }
                }
            }
        }
        Ok(units)
    }

    /// What is left at the end.
    fn finish(mut self) -> Result<Vec<Unit>, StepError> {
        let mut units: Vec<Unit> = self.end_organization()?.into_iter().collect();
        if self.in_all > 0 {
            units.push(self.rows(self.organization)?);
        }
        Ok(units)
    }

    fn apply(&mut self, event: &RecordedEvent) -> Result<(), StepError> {
        let organization = event.organization_id.as_uuid();
        for (read_model, complete, held) in &mut self.targets {
            if complete.is_none_or(|complete| organization > complete) {
                held.apply(event)
                    .map_err(|source| read_model.stopped(event.position, source))?;
            }
        }
        self.of_one = self.of_one.saturating_add(1);
        self.in_all = self.in_all.saturating_add(1);
        Ok(())
    }

    /// After an organization's last event: what has to be written before the next one's first.
    fn end_organization(&mut self) -> Result<Option<Unit>, StepError> {
        self.of_one = 0;
        if let Some(rest) = self.rest.take() {
            return Ok(Some(unit_of_rest(rest, self.organization)));
        }
        let is_enough = self.in_all >= self.bounds.together;
        is_enough.then(|| self.rows(self.organization)).transpose()
    }

    fn rows(&mut self, complete: Option<Uuid>) -> Result<Unit, StepError> {
        let mut rows = Vec::new();
        for (read_model, _, held) in &mut self.targets {
            let held = std::mem::replace(held, read_model.nothing());
            let new = held.all_new();
            rows.push(new.map_err(|source| read_model.stopped(0, source))?);
        }
        Ok(Unit {
            what: What::Rows(rows),
            events: std::mem::take(&mut self.in_all),
            complete,
        })
    }
}

fn unit_of_rest(rest: Vec<RecordedEvent>, complete: Option<Uuid>) -> Unit {
    Unit {
        events: rest.len(),
        what: What::Rest(rest),
        complete,
    }
}

fn decode(page: &[PgRow]) -> Result<Vec<RecordedEvent>, ReadLogError> {
    let mut events = Vec::with_capacity(page.len());
    for row in page {
        let event = recorded(row)?;
        must_be_filed_right(&event)?;
        events.push(event);
    }
    Ok(events)
}

/// An event under another organization than its own would be taken before or after what it follows.
fn must_be_filed_right(event: &RecordedEvent) -> Result<(), ReadLogError> {
    if event.organization_id == event.fact.organization_id() {
        return Ok(());
    }
    Err(ReadLogError::Misfiled(event.position))
}
