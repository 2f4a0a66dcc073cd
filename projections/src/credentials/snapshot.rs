//! All of the read model as of one position: the live version, its checkpoint and its rows, in one repeatable-read snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use domain::member::Member;
use domain::policy::Rules;
use sqlx::postgres::PgRow;
use sqlx::{Executor, PgPool, Postgres, Transaction};
use thiserror::Error;
use uuid::Uuid;

use super::rows::{self, RowError};
use super::{CredentialRow, MemberKey};
use crate::checkpoint::{self, Tables};
use crate::runner::ReadModel;

/// Tokens in one read.
const TOKENS: u32 = 5_000;
/// Members in one read: one may have much more said of it.
const CREATORS: u32 = 1_000;

/// A snapshot that is being read. What is done to the read model from now on does not show in it.
#[derive(Debug)]
pub struct Snapshot {
    transaction: Transaction<'static, Postgres>,
    position: i64,
    hash: Option<Vec<u8>>,
    epoch: Uuid,
    tokens: usize,
}

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
        let mut transaction = pool.begin().await?;
        transaction
            .execute("set transaction isolation level repeatable read, read only")
            .await?;
        let name = ReadModel::Credentials.name();
        let live = checkpoint::of_read_model(&mut transaction, name, Tables::Live).await?;
        let (hash, epoch): (Option<Vec<u8>>, Uuid) = sqlx::query_as(
            "select (select hash from events where position = $1), (select epoch from log_epoch)",
        )
        .bind(live.position)
        .fetch_one(&mut *transaction)
        .await?;
        let schema = ReadModel::Credentials.schema(live.version);
        // Enough to make room by; nobody needs to know it exactly.
        let tokens: f32 = sqlx::query_scalar("select reltuples from pg_class where oid = to_regclass($1)")
            .bind(format!("{schema}.credentials"))
            .fetch_optional(&mut *transaction)
            .await?
            .unwrap_or(0.0);
        let columns = rows::CREDENTIAL_COLUMNS;
        let cursors = format!(
            "declare creators_cursor cursor for
                 select organization_id, member_id, state::text, sequence, has_ended from {schema}.creators;
             declare credentials_cursor cursor for select {columns} from {schema}.credentials"
        );
        transaction.execute(cursors.as_str()).await?;
        Ok(Self {
            transaction,
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

    /// The next members, as they come; empty after the last. They are needed before the tokens.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub async fn next_creators(&mut self) -> Result<CreatorPage, SnapshotError> {
        let fetch = format!("fetch {CREATORS} from creators_cursor");
        Ok(CreatorPage(
            sqlx::query_as(&fetch)
                // Prepared once for a connection, it would take another version's columns for those it was prepared for.
                .persistent(false)
                .fetch_all(&mut *self.transaction)
                .await
                .map_err(unreadable)?,
        ))
    }

    /// The next tokens, as they come; empty after the last.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub async fn next(&mut self) -> Result<TokenPage, SnapshotError> {
        let fetch = format!("fetch {TOKENS} from credentials_cursor");
        Ok(TokenPage(
            sqlx::query(&fetch)
                .persistent(false)
                .fetch_all(&mut *self.transaction)
                .await?,
        ))
    }
}

/// Some members, as the database has sent them.
#[derive(Debug)]
pub struct CreatorPage(Vec<(Uuid, Uuid, String, i64, bool)>);

impl CreatorPage {
    /// Was there nothing more?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
    /// What a page holds.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub fn read(&mut self, page: CreatorPage) -> Result<Vec<(MemberKey, SharedCreator)>, SnapshotError> {
        page.0
            .into_iter()
            .map(|(organization_id, member_id, state, sequence, has_ended)| {
                let creator = SharedCreator {
                    member: self.member(state)?,
                    sequence,
                    has_ended,
                };
                Ok(((organization_id.into(), member_id.into()), creator))
            })
            .collect()
    }

    fn member(&mut self, state: String) -> Result<Arc<Member>, SnapshotError> {
        if let Some(member) = self.members.get(&state) {
            return Ok(Arc::clone(member));
        }
        let member: Arc<Member> = Arc::new(
            serde_json::from_str(&state).map_err(|error| SnapshotError::Unreadable(error.to_string()))?,
        );
        self.members.insert(state, Arc::clone(&member));
        Ok(member)
    }
}

/// Understands the tokens of a snapshot.
#[derive(Debug, Default)]
pub struct TokenReader {
    /// By their text: a million tokens have few different ones.
    rules: HashMap<String, Arc<Rules>>,
}

impl TokenReader {
    /// What a page holds; equal rules are one.
    ///
    /// # Errors
    /// [`SnapshotError`]
    pub fn read(&mut self, page: &TokenPage) -> Result<Vec<CredentialRow>, SnapshotError> {
        page.0
            .iter()
            .map(|row| {
                rows::credential(row, |text| self.rules(text)).map_err(|error| match error {
                    RowError::Database(error) => unreadable(error),
                    RowError::Unreadable { .. } => SnapshotError::Unreadable(error.to_string()),
                })
            })
            .collect()
    }

    fn rules(&mut self, text: &str) -> Result<Arc<Rules>, serde_json::Error> {
        if let Some(rules) = self.rules.get(text) {
            return Ok(Arc::clone(rules));
        }
        let rules: Arc<Rules> = Arc::new(serde_json::from_str(text)?);
        self.rules.insert(text.to_owned(), Arc::clone(&rules));
        Ok(rules)
    }
}

/// Some tokens, as the database has sent them.
#[derive(Debug)]
pub struct TokenPage(Vec<PgRow>);

impl TokenPage {
    /// Was there nothing more?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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
