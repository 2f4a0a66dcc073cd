//! A replay: read models filled anew beside the live ones, by the same projectors, and then switched to, or compared. Until
//! the switch nothing live is touched; one that was interrupted is gone on with by the next.
//!
//! The switch is one transaction. It locks the live checkpoint, which stops every node's runner at its compare-and-set, lets
//! the new version come level, and moves the pointer and the views. A runner that waited then finds that its version is not
//! the live one any more, and reads the pointer anew at its next step. A reader waits for the view for as long as that takes.

use std::time::Duration;

use futures_util::future::try_join_all;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use thiserror::Error;

use crate::checkpoint::{self, Tables};
use crate::log::{Page, ReadLogError, all_but, read_after_without};
use crate::runner::{ReadModel, Runner, StepError};

/// Events in one read.
const BATCH: i64 = 5_000;
/// Reads in one transaction, each of no more than a few megabytes: rows that many events change are written once.
const READS: u32 = 4;
/// How long a switch waits for a lock, and so the longest that those behind it wait.
const SWITCH_PATIENCE: &str = "250ms";
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
        let mut version = None;
        for (other, revision) in others {
            let is_ours = other > live.version && revision == read_model.revision();
            if is_ours && leftovers == Leftovers::Resume && version.is_none() {
                version = Some(other);
            } else {
                drop_version(&mut guard, read_model, other).await?;
            }
        }
        let version = match version {
            Some(version) => version,
            None => {
                let version = live.version.saturating_add(1);
                make_version(&mut guard, read_model, live.version, version).await?;
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

    /// Takes a page that was read after `from`.
    async fn take(&self, from: i64, page: &Page) -> Result<(), RebuildError> {
        let mut transaction = self.pool.begin().await?;
        let at = self.runner.checkpoint(&mut transaction).await?;
        if at.position != from || !self.runner.take(&mut transaction, at, page).await? {
            return Err(RebuildError::Disturbed(self.read_model.name()));
        }
        Ok(transaction.commit().await?)
    }

    /// Makes this the live version, once it holds all that the live one holds; answers the position it has then. The version
    /// before is dropped.
    ///
    /// # Errors
    /// [`RebuildError`]; the live one is as it was.
    pub async fn switch(self) -> Result<i64, RebuildError> {
        let name = self.read_model.name();
        self.index_for_readers().await?;
        for _ in 0..SWITCH_TRIES {
            self.come_near().await?;
            match self.try_switch().await {
                Ok(Some((before, position))) => {
                    drop_version(&mut *self.pool.acquire().await?, self.read_model, before).await?;
                    return Ok(position);
                }
                Ok(None) => {}
                Err(RebuildError::Database(error)) if is_lock_timeout(&error) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(SWITCH_PAUSE).await;
        }
        Err(RebuildError::NoMoment(name))
    }

    /// Makes the indexes that were left out while it was filled.
    async fn index_for_readers(&self) -> Result<(), RebuildError> {
        let mut connection = self.pool.acquire().await?;
        let live = checkpoint::of_read_model(&mut connection, self.read_model.name(), Tables::Live).await?;
        let definitions =
            index_definitions(&mut connection, self.read_model, live.version, self.version, true).await?;
        for definition in definitions {
            connection.execute(definition.as_str()).await?;
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
        let name = self.read_model.name();
        let mut transaction = self.pool.begin().await?;
        let Some((live, at_least)) = self.come_level(&mut transaction).await? else {
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
        for table in tables(&mut transaction, self.read_model, self.version).await? {
            let schema = self.schema();
            let view = format!("create or replace view {table} as select * from {schema}.{table}");
            transaction.execute(view.as_str()).await?;
        }
        transaction.commit().await?;
        Ok(Some((live, position)))
    }

    /// Stops the live one until the end of this transaction, and brings this one to where it stands, or past it; answers the
    /// live version and its position. None where that would take long.
    async fn come_level(&self, transaction: &mut PgConnection) -> Result<Option<(i32, i64)>, RebuildError> {
        sqlx::query("select set_config('lock_timeout', $1, true)")
            .bind(SWITCH_PATIENCE)
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
        drop_version(&mut *self.pool.acquire().await?, self.read_model, self.version).await
    }
}

/// Some read models that are filled together: each page of the log is read once for all that stand before it.
#[derive(Debug)]
pub struct Replay {
    pool: PgPool,
    rebuilds: Vec<(Rebuild, i64)>,
    ahead: Option<(i64, Page)>,
}

impl Replay {
    /// Of these.
    ///
    /// # Errors
    /// Where the database is out of reach.
    pub async fn of(pool: PgPool, rebuilds: Vec<Rebuild>) -> Result<Self, RebuildError> {
        let mut all = Vec::new();
        for rebuild in rebuilds {
            let position = rebuild.position().await?;
            all.push((rebuild, position));
        }
        Ok(Self {
            pool,
            rebuilds: all,
            ahead: None,
        })
    }

    /// How far all of them have come.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.rebuilds
            .iter()
            .map(|(_, position)| *position)
            .min()
            .unwrap_or(0)
    }

    /// Takes the next batch, while the one after it is read; answers false where that has brought it near the end: under
    /// load there is always something to come.
    ///
    /// # Errors
    /// [`RebuildError`]
    pub async fn step(&mut self) -> Result<bool, RebuildError> {
        let from = self.position();
        // Those that are ahead stay where they are until the others have come to them.
        let next = self
            .rebuilds
            .iter()
            .map(|(_, position)| *position)
            .filter(|position| *position > from)
            .min();
        let page = match self.ahead.take().filter(|(after, _)| *after == from) {
            Some((_, page)) => page,
            None => self.read(from, next).await?,
        };
        let to = page.last_position;
        if to == from {
            return Ok(false);
        }
        let taking = async {
            let here = self.rebuilds.iter().filter(|(_, position)| *position == from);
            try_join_all(here.map(|(rebuild, _)| rebuild.take(from, &page))).await
        };
        let (taken, ahead) = tokio::join!(taking, self.read(to, next.filter(|next| *next > to)));
        taken?;
        for (_, position) in self.rebuilds.iter_mut().filter(|(_, position)| *position == from) {
            *position = to;
        }
        let is_far = next.is_some() || to.saturating_sub(from) >= LITTLE;
        self.ahead = Some((to, ahead?)).filter(|(to, page)| page.last_position > *to);
        Ok(is_far || self.ahead.is_some())
    }

    /// What stands after a position, up to where the next one stands.
    async fn read(&self, after: i64, until: Option<i64>) -> Result<Page, RebuildError> {
        let until = until.unwrap_or(i64::MAX);
        let mut all = self.read_page(after, until).await?;
        for _ in 1..READS {
            if all.is_last || all.last_position >= until {
                break;
            }
            let next = self.read_page(all.last_position, until).await?;
            all.events.extend(next.events);
            (all.last_position, all.is_last) = (next.last_position, next.is_last);
            all.last_hash = next.last_hash.or(all.last_hash);
        }
        Ok(all)
    }

    async fn read_page(&self, after: i64, until: i64) -> Result<Page, RebuildError> {
        let limit = until.saturating_sub(after).min(BATCH);
        let is_wanted = |event_type: &str| {
            let mut rebuilds = self.rebuilds.iter();
            rebuilds.any(|(rebuild, _)| rebuild.read_model.wants(event_type))
        };
        let unwanted = all_but(is_wanted);
        let mut connection = self.pool.acquire().await?;
        Ok(read_after_without(&mut connection, after, limit, &unwanted).await?)
    }

    /// The read models, to be switched to or compared.
    #[must_use]
    pub fn into_rebuilds(self) -> Vec<Rebuild> {
        self.rebuilds.into_iter().map(|(rebuild, _)| rebuild).collect()
    }
}

/// The tables of a version, by name.
pub(crate) async fn tables(
    connection: &mut PgConnection,
    read_model: ReadModel,
    version: i32,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select tablename::text from pg_tables where schemaname = $1 order by 1")
        .bind(read_model.schema(version))
        .fetch_all(connection)
        .await
}

/// What makes a version's indexes, keys among them, as another one has them: those for readers alone, or all others.
async fn index_definitions(
    connection: &mut PgConnection,
    read_model: ReadModel,
    from: i32,
    to: i32,
    are_for_readers: bool,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select case when c.oid is not null
                then format('alter table %I.%I add constraint %I %s', $2, t.relname, c.conname, pg_get_constraintdef(c.oid))
                else replace(replace(pg_get_indexdef(i.indexrelid), format(' ON %I.', $1), format(' ON %I.', $2)),
                             'INDEX ', 'INDEX IF NOT EXISTS ')
                end
         from pg_index i
         join pg_class t on t.oid = i.indrelid
         join pg_class x on x.oid = i.indexrelid
         left join pg_constraint c on c.conindid = i.indexrelid and c.contype in ('p', 'u')
         where t.relnamespace = $1::regnamespace and (x.relname = any($3)) = $4
         order by c.oid is null, x.relname",
    )
    .bind(read_model.schema(from))
    .bind(read_model.schema(to))
    .bind(read_model.indexes_for_readers())
    .bind(are_for_readers)
    .fetch_all(connection)
    .await
}

async fn make_version(
    connection: &mut PgConnection,
    read_model: ReadModel,
    live: i32,
    version: i32,
) -> Result<(), RebuildError> {
    let (old, new) = (read_model.schema(live), read_model.schema(version));
    let mut transaction = connection.begin().await?;
    transaction
        .execute(format!("create schema {new}").as_str())
        .await?;
    for table in tables(&mut transaction, read_model, live).await? {
        let copy = format!("create table {new}.{table} (like {old}.{table} including all excluding indexes)");
        transaction.execute(copy.as_str()).await?;
    }
    for definition in index_definitions(&mut transaction, read_model, live, version, false).await? {
        transaction.execute(definition.as_str()).await?;
    }
    // Whoever may use the live tables may use these.
    let grants: Vec<String> = sqlx::query_scalar(
        "select format('grant %s on schema %I to %s', privilege_type, $2, who)
         from (select (aclexplode(nspacl)).*, nspowner as owner from pg_namespace where nspname = $1) granted,
              lateral (select case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end as who) named
         where grantee <> owner
         union all
         select format('grant %s on %I.%I to %s', privilege_type, $2, relname, who)
         from (select (aclexplode(relacl)).*, relname, relowner as owner from pg_class
               where relnamespace = $1::regnamespace and relkind = 'r') granted,
              lateral (select case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end as who) named
         where grantee <> owner",
    )
    .bind(&old)
    .bind(&new)
    .fetch_all(&mut *transaction)
    .await?;
    for grant in grants {
        transaction.execute(grant.as_str()).await?;
    }
    sqlx::query("insert into read_models (name, version, revision) values ($1, $2, $3)")
        .bind(read_model.name())
        .bind(version)
        .bind(read_model.revision())
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

/// Drops a version that is not the live one; waits for who still reads it.
async fn drop_version(
    connection: &mut PgConnection,
    read_model: ReadModel,
    version: i32,
) -> Result<(), RebuildError> {
    let mut transaction = connection.begin().await?;
    let dropped = sqlx::query("delete from read_models where name = $1 and version = $2 and not is_live")
        .bind(read_model.name())
        .bind(version)
        .execute(&mut *transaction)
        .await?;
    if dropped.rows_affected() == 1 {
        let schema = read_model.schema(version);
        transaction
            .execute(format!("drop schema if exists {schema} cascade").as_str())
            .await?;
    }
    Ok(transaction.commit().await?)
}

/// SQLSTATE 55P03, `lock_not_available`.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "55P03")
}
