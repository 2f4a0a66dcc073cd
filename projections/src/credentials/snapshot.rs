//! All of the read model as of one position: the live version, its checkpoint and its rows, in one repeatable-read snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use domain::member::Member;
use domain::policy::Rules;
use sqlx::{Executor, PgConnection, PgPool};
use thiserror::Error;
use uuid::Uuid;

use super::rows::{self, RowError};
use super::{CredentialRow, MemberKey};
use crate::checkpoint::{self, Tables};
use crate::copy::{Copied, CopyOut, StoredRow};
use crate::runner::ReadModel;

/// Bytes in a page, as it is.
const PAGE: usize = 512 * 1024;

/// A snapshot that is being read. What is done to the read model from now on does not show in it.
#[derive(Debug)]
pub struct Snapshot {
    /// None of the pool's: it is closed with the snapshot, wherever the reading has come to.
    connection: PgConnection,
    schema: String,
    position: i64,
    hash: Option<Vec<u8>>,
    epoch: Uuid,
    tokens: usize,
}

/// Pages of a snapshot, one after the other.
#[derive(Debug)]
pub struct Pages<'s>(CopyOut<'s>);

/// Some rows of a snapshot, as the database has sent them.
#[derive(Debug)]
pub struct Page(Copied);

/// A member, perhaps the same as others.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedCreator {
    /// As its stream gives it.
    pub member: Arc<Member>,
    /// The last sequence of its stream that it holds.
    pub sequence: i64,
    /// Its organization was removed, and it has not been added since.
    pub has_ended: bool,
}

/// Why a snapshot can't be read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The database; or the version was replaced in this moment. Another try may get through.
    #[error("the read model of credentials is out of reach")]
    Database(#[from] sqlx::Error),
    /// Something in it is not of this version.
    #[error("the read model of credentials is not of this version: {0}")]
    Unreadable(String),
}

impl Snapshot {
    /// Of the live version, as it is now.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub async fn begin(pool: &PgPool) -> Result<Self, SnapshotError> {
        let mut connection = pool.acquire().await?.detach();
        // One statement reads all of it; for how long, its reader says.
        connection
            .execute("begin isolation level repeatable read, read only; set local statement_timeout = 0")
            .await?;
        let name = ReadModel::Credentials.name();
        let live = checkpoint::of_read_model(&mut connection, name, Tables::Live).await?;
        let (hash, epoch): (Option<Vec<u8>>, Uuid) = sqlx::query_as(
            "select (select hash from events where position = $1), (select epoch from log_epoch)",
        )
        .bind(live.position)
        .fetch_one(&mut connection)
        .await?;
        let schema = ReadModel::Credentials.schema(live.version);
        // What replaces this version waits for its reader to drop it.
        let lock = format!("lock table {schema}.creators, {schema}.credentials in access share mode");
        connection.execute(lock.as_str()).await?;
        // Enough to make room by; nobody needs to know it exactly.
        let tokens: f32 = sqlx::query_scalar("select reltuples from pg_class where oid = to_regclass($1)")
            .bind(format!("{schema}.credentials"))
            .fetch_optional(&mut connection)
            .await?
            .unwrap_or(0.0);
        Ok(Self {
            connection,
            schema,
            position: live.position,
            hash,
            epoch,
            tokens: format!("{tokens:.0}").parse().unwrap_or(0),
        })
    }

    /// The last position it holds.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The hash of the event there; none at position 0.
    #[must_use]
    pub fn hash(&self) -> Option<&[u8]> {
        self.hash.as_deref()
    }

    /// Of which log.
    #[must_use]
    pub fn epoch(&self) -> Uuid {
        self.epoch
    }

    /// About how many tokens there are.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// All members. They are needed before the tokens.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub async fn creators(&mut self) -> Result<Pages<'_>, SnapshotError> {
        self.pages("creators", rows::CREATOR_COLUMNS, rows::CREATOR_TYPES)
            .await
    }

    /// All tokens.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub async fn credentials(&mut self) -> Result<Pages<'_>, SnapshotError> {
        self.pages("credentials", rows::CREDENTIAL_COLUMNS, rows::CREDENTIAL_TYPES)
            .await
    }

    async fn pages(&mut self, table: &str, columns: &str, types: &str) -> Result<Pages<'_>, SnapshotError> {
        let table = format!("{}.{table}", self.schema);
        // Copied values don't say of which type they are.
        let found: Option<String> = sqlx::query_scalar(
            "select string_agg(format_type(atttypid, null), ', ' order by number)
             from unnest(string_to_array($2, ', ')) with ordinality as wanted (attname, number)
             left join pg_attribute using (attname)
             where attrelid = to_regclass($1)",
        )
        .bind(&table)
        .bind(columns)
        .fetch_one(&mut self.connection)
        .await?;
        if found.as_deref() != Some(types) {
            return Err(SnapshotError::Unreadable(format!("the columns of {table}")));
        }
        let query = format!("select {columns} from {table}");
        Ok(Pages(CopyOut::begin(&mut self.connection, &query).await?))
    }
}

impl Pages<'_> {
    /// The next one; none after the last.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub async fn next(&mut self) -> Result<Option<Page>, SnapshotError> {
        Ok(self.0.next(PAGE).await?.map(Page))
    }
}

/// Understands the members of a snapshot. Those that have had the same said of them, as most with a built-in policy, are
/// one.
#[derive(Debug, Default)]
pub struct CreatorReader {
    /// By their text.
    members: HashMap<String, Arc<Member>>,
}

impl CreatorReader {
    /// What a page of members holds.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub fn read(&mut self, page: &Page) -> Result<Vec<(MemberKey, SharedCreator)>, SnapshotError> {
        page.0
            .rows::<{ rows::CREATOR_WIDTH }>()
            .map(|row| {
                let row = row?;
                let (organization_id, member_id): (Uuid, Uuid) =
                    (row.get(0).map_err(unreadable)?, row.get(1).map_err(unreadable)?);
                let creator = SharedCreator {
                    member: self.member(row.json(2)?.unwrap_or_default())?,
                    sequence: row.get(3).map_err(unreadable)?,
                    has_ended: row.get(4).map_err(unreadable)?,
                };
                Ok(((organization_id.into(), member_id.into()), creator))
            })
            .collect()
    }

    fn member(&mut self, state: &str) -> Result<Arc<Member>, SnapshotError> {
        if let Some(member) = self.members.get(state) {
            return Ok(Arc::clone(member));
        }
        let member: Arc<Member> = Arc::new(
            serde_json::from_str(state).map_err(|error| SnapshotError::Unreadable(error.to_string()))?,
        );
        self.members.insert(state.to_owned(), Arc::clone(&member));
        Ok(member)
    }
}

/// Understands the tokens of a snapshot.
#[derive(Debug, Default)]
pub struct TokenReader {
    /// By their text: a million tokens have few different ones.
    rules: HashMap<String, Arc<Rules>>,
    /// Where there is none.
    nothing: Option<Arc<Rules>>,
}

impl TokenReader {
    /// What a page of tokens holds. Equal rules are one, and what `share` makes of them.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub fn read(
        &mut self,
        page: &Page,
        mut share: impl FnMut(Rules) -> Arc<Rules>,
    ) -> Result<Vec<CredentialRow>, SnapshotError> {
        let mut read = Vec::with_capacity(page.0.len());
        for row in page.0.rows::<{ rows::CREDENTIAL_WIDTH }>() {
            let row = rows::credential(&row?, |text| self.rules(text, &mut share));
            read.push(row.map_err(|error| match error {
                RowError::Database(error) => unreadable(error),
                RowError::Unreadable { .. } => SnapshotError::Unreadable(error.to_string()),
            })?);
        }
        Ok(read)
    }

    fn rules(
        &mut self,
        text: Option<&str>,
        share: impl FnOnce(Rules) -> Arc<Rules>,
    ) -> Result<Arc<Rules>, serde_json::Error> {
        let known = match text {
            Some(text) => self.rules.get(text),
            None => self.nothing.as_ref(),
        };
        if let Some(rules) = known {
            return Ok(Arc::clone(rules));
        }
        let rules = share(rows::rules_of(text)?);
        match text {
            Some(text) => drop(self.rules.insert(text.to_owned(), Arc::clone(&rules))),
            None => self.nothing = Some(Arc::clone(&rules)),
        }
        Ok(rules)
    }
}

/// A column that is there and can't be decoded is not of this version; a column that is not there neither.
fn unreadable(error: sqlx::Error) -> SnapshotError {
    match error {
        sqlx::Error::ColumnDecode { source, .. } => SnapshotError::Unreadable(source.to_string()),
        sqlx::Error::ColumnNotFound(_) | sqlx::Error::ColumnIndexOutOfBounds { .. } => {
            SnapshotError::Unreadable(error.to_string())
        }
        error => SnapshotError::Database(error),
    }
}
