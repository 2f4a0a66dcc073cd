//! The messages that were set aside.

use chrono::{DateTime, Utc};
use domain::ids::OrganizationId;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

/// A message that was set aside, without its contents.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ParkedMessage {
    /// Names it.
    pub id: Uuid,
    /// In which organization it holds somebody; none: nowhere.
    pub organization_id: Option<Uuid>,
    /// Whom it holds there.
    pub member_id: Option<Uuid>,
    /// Its CloudEvents type, if it could be read.
    pub event_type: Option<String>,
    /// Why it was set aside, a code.
    pub reason: String,
    /// When.
    pub received_at: DateTime<Utc>,
    /// Of the topic; none: it came over HTTP.
    pub partition: Option<i32>,
    /// In its partition.
    pub message_offset: Option<i64>,
}

const COLUMNS: &str = "m.id, h.organization_id, h.member_id, m.event_type, m.reason, m.received_at, m.partition, m.message_offset";

/// How many there are.
///
/// # Errors
/// Where the database is out of reach.
pub async fn count(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from parked_messages")
        .fetch_one(connection)
        .await
}

/// How many hold members of an organization; one that holds two of them counts twice.
///
/// # Errors
/// Where the database is out of reach.
pub async fn count_of(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from parked_members where organization_id = $1")
        .bind(organization_id.as_uuid())
        .fetch_one(connection)
        .await
}

/// Those that hold members of an organization, in the order in which they were parked: a page of them.
///
/// # Errors
/// Where the database is out of reach.
pub async fn of_organization(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    skip: i64,
    limit: i64,
) -> Result<Vec<ParkedMessage>, sqlx::Error> {
    sqlx::query_as(&format!(
        "select {COLUMNS} from parked_members h join parked_messages m on m.id = h.message_id
         where h.organization_id = $1 order by m.nth, h.member_id offset $2 limit $3"
    ))
    .bind(organization_id.as_uuid())
    .bind(skip)
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// All that are parked after the nth, in their order, with the number to go on from: a page of them, each once for everybody
/// it holds.
///
/// # Errors
/// Where the database is out of reach.
pub async fn after(
    connection: &mut PgConnection,
    nth: i64,
    limit: i64,
) -> Result<Vec<(i64, ParkedMessage)>, sqlx::Error> {
    let rows = sqlx::query(&format!(
        "select m.nth, {COLUMNS}
         from (select * from parked_messages where nth > $1 order by nth limit $2) m
         left join parked_members h on h.message_id = m.id
         order by m.nth, h.member_id"
    ))
    .bind(nth)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| Ok((sqlx::Row::try_get(row, "nth")?, ParkedMessage::from_row(row)?)))
        .collect()
}

/// Erases the contents of messages parked before a time; how many. What they were about, and why they were parked, stays.
///
/// # Errors
/// Where the database is out of reach.
pub async fn erase_before(
    connection: &mut PgConnection,
    time: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let erased = sqlx::query(
        "update parked_messages set payload = null, message_key = null, headers = '[]', erased_at = clock_timestamp()
         where id = any (array(select id from parked_messages where erased_at is null and received_at < $1 limit $2))",
    )
    .bind(time)
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(erased.rows_affected())
}
