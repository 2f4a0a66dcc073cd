//! Reads the log by position. Positions are dense: a missing one means that something is badly wrong with the log or with
//! the reading of it, and stops the reader. An event this binary doesn't know stops it too; nothing is ever skipped.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use domain::access_token::AccessTokenEvent;
use domain::ids::OrganizationId;
use domain::member::MemberEvent;
use domain::organization::OrganizationEvent;
use domain::upcast;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use thiserror::Error;
use uuid::Uuid;

use crate::copy::StoredRow;

/// An event as the log has it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEvent {
    /// Its place in the whole log, from 1.
    pub position: i64,
    /// When it was appended, by the database's clock.
    pub recorded_at: DateTime<Utc>,
    /// In which organization.
    pub organization_id: OrganizationId,
    /// Its stream's id.
    pub aggregate_id: String,
    /// Its place in its stream, from 1.
    pub sequence: i64,
    /// Who, from which request; null in pages of the log, whose readers have no use for it.
    pub metadata: Value,
    /// What happened.
    pub fact: Fact,
}

/// What happened, to whichever aggregate.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// To a token.
    AccessToken(AccessTokenEvent),
    /// To a member.
    Member(MemberEvent),
    /// To an organization.
    Organization(OrganizationEvent),
}

impl Fact {
    /// Its type, as the log names it.
    pub(crate) fn event_type(&self) -> String {
        match self {
            Self::AccessToken(fact) => fact.event_type(),
            Self::Member(fact) => fact.event_type(),
            Self::Organization(fact) => fact.event_type(),
        }
    }

    /// In which organization it happened.
    pub(crate) fn organization_id(&self) -> OrganizationId {
        match self {
            Self::AccessToken(fact) => fact.organization_id(),
            Self::Member(fact) => fact.subject().0,
            Self::Organization(OrganizationEvent::Removed { organization_id }) => *organization_id,
        }
    }
}

/// Why the log can't be read on.
#[derive(Debug, Error)]
pub enum ReadLogError {
    /// The database.
    #[error("the log is out of reach")]
    Database(#[from] sqlx::Error),
    /// A position is not there.
    #[error("position {expected} is missing from the log: the next one is {found}")]
    Gap {
        /// The one that should have come.
        expected: i64,
        /// The one that came.
        found: i64,
    },
    /// The log was tampered with: its hash does not cover what an event is filed under.
    #[error("the event at position {0} is filed under another organization than the one it names")]
    Misfiled(i64),
    /// An event this binary can't read: it is older than the log, or the log was tampered with.
    #[error(
        "the event at position {position} can't be read by this version: {event_type} of {aggregate_type}: {cause}"
    )]
    Unreadable {
        /// Where.
        position: i64,
        /// Of which kind of stream.
        aggregate_type: String,
        /// Of which type.
        event_type: String,
        /// What the parser says.
        cause: String,
    },
}

/// Bytes of payload and metadata in one page, but for a single event that is larger.
const MAX_PAGE_BYTES: i64 = 4 * 1024 * 1024;

/// The kinds of streams, as the log names them.
#[derive(Clone, Copy)]
enum Kind {
    AccessToken,
    Member,
    Organization,
}

/// All that is ever recorded but what is wanted, as whoever wants only that has to name it.
pub fn all_but(wanted: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let all = AccessTokenEvent::TYPES.into_iter();
    let all = all.chain(MemberEvent::TYPES).chain(OrganizationEvent::TYPES);
    all.filter(|event_type| !wanted(event_type)).collect()
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::Member => "member",
            Self::Organization => "organization",
        }
    }
}

/// A stretch of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// In order.
    pub events: Vec<Arc<RecordedEvent>>,
    /// The last position that was looked at, of whatever kind; the one it was read after where there was nothing.
    pub last_position: i64,
    /// The hash of the event there; none where there was nothing.
    pub last_hash: Option<Vec<u8>>,
    /// The hash of the event that it was read after; none where there is none, or nothing was read.
    pub hash_before: Option<Vec<u8>>,
    /// Nothing is known of after them, as of when they were read or appended.
    pub is_last: bool,
    /// Bytes of their payloads.
    pub bytes: usize,
}

/// The columns that [`recorded`] reads, in its order. What else a query selects comes after them.
pub(crate) const COLUMNS: &str = "position, recorded_at, organization_id, aggregate_type, aggregate_id, sequence, event_type, \
    event_version, payload, metadata";
/// How many they are.
pub(crate) const WIDTH: usize = 10;
/// The same columns, without the metadata.
const COLUMNS_WITHOUT_METADATA: &str = "position, recorded_at, organization_id, aggregate_type, aggregate_id, sequence, \
    event_type, event_version, payload, null::json";

/// The events after a position, in order: at most `limit`, and no more than a few megabytes, so that large events make
/// small pages and every page gets through in its time.
///
/// # Errors
/// [`ReadLogError`]; nothing is returned of a page in which something is wrong.
pub async fn read_after(
    connection: &mut PgConnection,
    position: i64,
    limit: i64,
) -> Result<Page, ReadLogError> {
    read_after_without(connection, position, limit, &[]).await
}

/// The same for whoever has no use for some types of events: of those only the positions are looked at, of which none may be
/// missing either.
///
/// # Errors
/// [`ReadLogError`]; nothing is returned of a page in which something is wrong.
pub async fn read_after_without(
    connection: &mut PgConnection,
    position: i64,
    limit: i64,
    unwanted: &[&str],
) -> Result<Page, ReadLogError> {
    let rows = sqlx::query(
        "select position, recorded_at, organization_id, aggregate_type, aggregate_id, sequence, event_type, event_version,
                case when is_wanted then payload end as payload, null::json as metadata, hash,
                (select hash from events where position = $1) as hash_before,
                is_wanted, position = (select position from events order by position desc limit 1) as is_last
         from (
             select *, event_type <> all($4) as is_wanted, coalesce(sum(pg_column_size(payload) + pg_column_size(metadata)) over (
                 order by position rows between unbounded preceding and 1 preceding), 0) as bytes_before
             from (select * from events where position > $1 order by position limit $2) found
         ) page
         where bytes_before < $3
         order by position",
    )
    .bind(position)
    .bind(limit)
    .bind(MAX_PAGE_BYTES)
    .bind(unwanted)
    .fetch_all(connection)
    .await?;
    let mut last_position = position;
    let mut events = Vec::with_capacity(rows.len());
    let mut bytes = 0_usize;
    for (expected, row) in (position.saturating_add(1)..).zip(&rows) {
        let found: i64 = row.try_get(0)?;
        if found != expected {
            return Err(ReadLogError::Gap { expected, found });
        }
        last_position = found;
        if row.try_get(12)? {
            bytes = bytes.saturating_add(row.json(8)?.map_or(0, str::len));
            events.push(Arc::new(recorded(row)?));
        } else {
            is_known(row)?;
        }
    }
    let is_last = rows.last().map_or(Ok(true), |row| row.try_get(13))?;
    let last_hash = rows.last().map(|row| row.try_get(10)).transpose()?;
    let hash_before = rows.first().map_or(Ok(None), |row| row.try_get(11))?;
    Ok(Page {
        events,
        last_position,
        last_hash,
        hash_before,
        is_last,
        bytes,
    })
}

/// The events of one stream after a place in it, in order: at most `limit`, and no more than a few megabytes. None where
/// there are no more. Along the primary key: whatever the plan, it looks at no event that it doesn't return.
///
/// # Errors
/// [`ReadLogError`]
pub async fn read_stream(
    connection: &mut PgConnection,
    (aggregate_type, aggregate_id): (&str, &str),
    after: i64,
    limit: i64,
) -> Result<Vec<RecordedEvent>, ReadLogError> {
    let rows = sqlx::query(&format!(
        "select {COLUMNS}
         from (
             select *, coalesce(sum(pg_column_size(payload) + pg_column_size(metadata)) over (
                 order by sequence rows between unbounded preceding and 1 preceding), 0) as bytes_before
             from events
             where aggregate_type = $1 and aggregate_id = $2 and sequence > $3
             order by sequence limit $4
         ) page
         where bytes_before < $5
         order by sequence"
    ))
    .bind(aggregate_type)
    .bind(aggregate_id)
    .bind(after)
    .bind(limit)
    .bind(MAX_PAGE_BYTES)
    .fetch_all(connection)
    .await?;
    rows.iter().map(recorded).collect()
}

/// A place in the log by organizations: an organization, and a position in the log.
pub(crate) type Place = (Uuid, i64);

/// The query for the events after a place, up to a position, organization after organization, each one's in order: no more
/// than `limit` of them, none where there are no more. Their metadata is null.
pub(crate) fn by_organization((organization_id, position): Place, until: i64, limit: i64) -> String {
    format!(
        "select {COLUMNS_WITHOUT_METADATA}
         from events
         where (organization_id, position) > ('{organization_id}', {position}) and position <= {until}
         order by organization_id, position
         limit {limit}"
    )
}

/// Whether the log has every position up to this one.
///
/// # Errors
/// [`ReadLogError::Gap`] where it has not.
pub(crate) async fn must_be_dense(connection: &mut PgConnection, until: i64) -> Result<(), ReadLogError> {
    // Positions are unique and begin with 1: as many as there should be are all of them.
    let found: i64 = sqlx::query_scalar("select count(*) from events where position <= $1")
        .bind(until)
        .fetch_one(&mut *connection)
        .await?;
    if found == until {
        return Ok(());
    }
    let gap: Option<(i64, i64)> = sqlx::query_as(
        "select before + 1, position
         from (select position, lag(position, 1, 0::bigint) over (order by position) as before from events) events
         where position <> before + 1
         order by position limit 1",
    )
    .fetch_optional(connection)
    .await?;
    let (expected, found) = gap.unwrap_or((found.saturating_add(1), until));
    Err(ReadLogError::Gap { expected, found })
}

/// The newest position; 0 for an empty log.
///
/// # Errors
/// Where the database is out of reach.
pub async fn head(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select coalesce((select position from events order by position desc limit 1), 0)")
        .fetch_one(connection)
        .await
}

/// The position of a stream's last event; 0 where it has none.
///
/// # Errors
/// Where the database is out of reach.
pub async fn last_position(
    connection: &mut PgConnection,
    aggregate_type: &str,
    aggregate_id: &str,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select coalesce((select position from events where aggregate_type = $1 and aggregate_id = $2
                          order by sequence desc limit 1), 0)",
    )
    .bind(aggregate_type)
    .bind(aggregate_id)
    .fetch_one(connection)
    .await
}

/// An event as it is stored, but for its metadata.
#[derive(Clone, Copy, Debug)]
pub struct StoredEvent<'e> {
    /// Its place in the whole log, from 1.
    pub position: i64,
    /// When it was appended, by the database's clock.
    pub recorded_at: DateTime<Utc>,
    /// In which organization.
    pub organization_id: OrganizationId,
    /// Of which kind of stream.
    pub aggregate_type: &'e str,
    /// Its stream's id.
    pub aggregate_id: &'e str,
    /// Its place in its stream, from 1.
    pub sequence: i64,
    /// As `access_token.created`.
    pub event_type: &'e str,
    /// Of its shape.
    pub event_version: &'e str,
    /// JSON.
    pub payload: &'e str,
}

impl StoredEvent<'_> {
    /// What it says; its metadata is null.
    ///
    /// # Errors
    /// [`ReadLogError::Unreadable`]
    pub fn read(self) -> Result<RecordedEvent, ReadLogError> {
        // Straight from the text: every node reads every event, and a `Value` in between costs as much again.
        let fact = if self.aggregate_type == Kind::AccessToken.name() {
            self.payload().map(Fact::AccessToken)
        } else if self.aggregate_type == Kind::Member.name() {
            self.payload().map(Fact::Member)
        } else if self.aggregate_type == Kind::Organization.name() {
            self.payload().map(Fact::Organization)
        } else {
            Err("no such aggregate".to_owned())
        };
        let fact = fact.map_err(|cause| ReadLogError::Unreadable {
            position: self.position,
            aggregate_type: self.aggregate_type.to_owned(),
            event_type: self.event_type.to_owned(),
            cause,
        })?;
        Ok(RecordedEvent {
            position: self.position,
            recorded_at: self.recorded_at,
            organization_id: self.organization_id,
            aggregate_id: self.aggregate_id.to_owned(),
            sequence: self.sequence,
            metadata: Value::Null,
            fact,
        })
    }

    fn payload<T: DeserializeOwned>(&self) -> Result<T, String> {
        let read = if self.event_version == upcast::current_version(self.event_type) {
            serde_json::from_str(self.payload)
        } else {
            let stored = serde_json::from_str(self.payload).map_err(|error| error.to_string())?;
            let payload = upcast::upcast(self.event_type, self.event_version, &stored)
                .map_err(|error| error.to_string())?;
            T::deserialize(&*payload)
        };
        read.map_err(|error| error.to_string())
    }
}

/// An event from a row that begins with [`COLUMNS`].
pub(crate) fn recorded(row: &impl StoredRow) -> Result<RecordedEvent, ReadLogError> {
    let stored = StoredEvent {
        position: row.get(0)?,
        recorded_at: row.get(1)?,
        organization_id: row.get::<Uuid>(2)?.into(),
        aggregate_type: row.get(3)?,
        aggregate_id: row.get(4)?,
        sequence: row.get(5)?,
        event_type: row.get(6)?,
        event_version: row.get(7)?,
        // No column of the log is null. What was not selected is no JSON.
        payload: row.json(8)?.unwrap_or_default(),
    };
    Ok(RecordedEvent {
        metadata: metadata(row)?,
        ..stored.read()?
    })
}

/// What is not wanted is not read, but an event of a newer version may mean more than its stream tells.
fn is_known(row: &PgRow) -> Result<(), ReadLogError> {
    let (event_type, event_version): (&str, &str) = (row.try_get(6)?, row.try_get(7)?);
    if upcast::is_known(event_type, event_version) {
        return Ok(());
    }
    Err(ReadLogError::Unreadable {
        position: row.try_get(0)?,
        aggregate_type: row.try_get(3)?,
        event_type: event_type.to_owned(),
        cause: format!("version {event_version} of it is not known"),
    })
}

fn metadata(row: &impl StoredRow) -> Result<Value, sqlx::Error> {
    let text = row.json(9)?;
    let metadata = text.map(serde_json::from_str).transpose();
    Ok(metadata
        .map_err(|error| sqlx::Error::Decode(error.into()))?
        .unwrap_or_default())
}
