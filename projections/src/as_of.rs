//! What a token could do at some position, read from the log: by stream, up to that position, never by scanning the log.

use chrono::{DateTime, Utc};
use domain::access_token::{AccessTokenEvent, TokenType};
use domain::as_of::AsOf;
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::Member;
use domain::organization::OrganizationEvent;
use sqlx::PgConnection;

use crate::log::{Fact, ReadLogError, RecordedEvent, read_stream};

/// Events of a stream read at once.
const PAGE: i64 = 200;

/// The last position that was recorded no later than this; none where the time is still to come. It never changes: an
/// append that may still get a time that has passed is waited for.
///
/// # Errors
/// Where the database is out of reach.
pub async fn position_at(
    connection: &mut PgConnection,
    time: DateTime<Utc>,
) -> Result<Option<i64>, sqlx::Error> {
    let (now, head_time): (DateTime<Utc>, Option<DateTime<Utc>>) = sqlx::query_as(
        "select clock_timestamp(), (select recorded_at from events order by position desc limit 1)",
    )
    .fetch_one(&mut *connection)
    .await?;
    // The log's own time may be ahead of a clock that was set back.
    if time > head_time.map_or(now, |head_time| head_time.max(now)) {
        return Ok(None);
    }
    if head_time.is_none_or(|head_time| time >= head_time) {
        sqlx::query("select wait_for_append()")
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query_scalar("select last_position_at($1)")
        .bind(time)
        .fetch_one(connection)
        .await
}

/// When the log took an event; none where there is no such position.
///
/// # Errors
/// Where the database is out of reach.
pub async fn recorded_at(
    connection: &mut PgConnection,
    position: i64,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar("select recorded_at from events where position = $1")
        .bind(position)
        .fetch_optional(connection)
        .await
}

/// A token as of a position; none where it was not created by then, or is not of this organization.
///
/// # Errors
/// [`ReadLogError`]
pub async fn token_as_of(
    connection: &mut PgConnection,
    organization_id: Option<OrganizationId>,
    token_id: TokenId,
    position: i64,
) -> Result<Option<AsOf>, ReadLogError> {
    let mut token = Stream::new("access_token", token_id.to_string(), position);
    let mut others = token.rest(connection).await?;
    let created = others.first().map(|event| &event.fact);
    let Some(Fact::AccessToken(AccessTokenEvent::Created(created))) = created else {
        return Ok(None);
    };
    if organization_id.is_some_and(|expected| created.organization_id != expected) {
        return Ok(None);
    }
    let organization_id = created.organization_id;
    let is_personal = created.token_type == TokenType::Personal;
    let creator = Member::stream_id(organization_id, created.creator_id);
    let mut organization = Stream::new("organization", organization_id.to_string(), position);
    let removals = organization.rest(connection).await?;
    // A service token depends on its creator only where it was made by somebody whose organization was just removed.
    let creator = (is_personal || !removals.is_empty()).then(|| Stream::new("member", creator, position));
    others.extend(removals);
    others.sort_by_key(|event| event.position);
    fold(connection, others, creator).await.map(Some)
}

/// A member as of a position, with no token of its.
///
/// # Errors
/// [`ReadLogError`]
pub async fn member_as_of(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    member_id: MemberId,
    position: i64,
) -> Result<AsOf, ReadLogError> {
    let mut organization = Stream::new("organization", organization_id.to_string(), position);
    let removals = organization.rest(connection).await?;
    let stream = Member::stream_id(organization_id, member_id);
    fold(
        connection,
        removals,
        Some(Stream::new("member", stream, position)),
    )
    .await
}

/// What these events, in the order of the log, and those of the creator come to.
async fn fold(
    connection: &mut PgConnection,
    others: Vec<RecordedEvent>,
    mut creator: Option<Stream>,
) -> Result<AsOf, ReadLogError> {
    let mut as_of = AsOf::default();
    let mut others = others.into_iter().peekable();
    // The creator's may be many: a page at a time.
    while let Some(creator) = &mut creator
        && let events = creator.next_page(connection).await?
        && !events.is_empty()
    {
        for event in events {
            while let Some(before) = others.next_if(|other| other.position < event.position) {
                apply(&mut as_of, &before);
            }
            apply(&mut as_of, &event);
        }
    }
    for event in others {
        apply(&mut as_of, &event);
    }
    Ok(as_of)
}

/// A stream read up to a position, a page at a time.
struct Stream {
    aggregate_type: &'static str,
    aggregate_id: String,
    until: i64,
    /// The last sequence that was read.
    read: i64,
}

impl Stream {
    fn new(aggregate_type: &'static str, aggregate_id: String, until: i64) -> Self {
        Self {
            aggregate_type,
            aggregate_id,
            until,
            read: 0,
        }
    }

    /// None at the end.
    async fn next_page(&mut self, connection: &mut PgConnection) -> Result<Vec<RecordedEvent>, ReadLogError> {
        let stream = (self.aggregate_type, self.aggregate_id.as_str());
        let mut events = read_stream(connection, stream, self.read, PAGE).await?;
        // Positions rise with sequences. What comes later is cut off here and not by the query, which would go on looking.
        events.retain(|event| event.position <= self.until);
        self.read = events.last().map_or(self.read, |last| last.sequence);
        Ok(events)
    }

    async fn rest(&mut self, connection: &mut PgConnection) -> Result<Vec<RecordedEvent>, ReadLogError> {
        let mut all = Vec::new();
        loop {
            let page = self.next_page(connection).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }
}

fn apply(as_of: &mut AsOf, event: &RecordedEvent) {
    match &event.fact {
        Fact::AccessToken(fact) => as_of.apply_to_token(event.position, fact),
        Fact::Member(fact) => as_of.apply_to_creator(event.position, fact),
        Fact::Organization(OrganizationEvent::Removed { .. }) => as_of.remove_organization(),
    }
}
