//! What a token could do at some position, read from the log: by stream, up to that position, never by scanning the log.

use chrono::{DateTime, Utc};
use domain::access_token::{AccessTokenEvent, TokenType};
use domain::as_of::AsOf;
use domain::ids::{OrganizationId, TokenId};
use domain::member::Member;
use domain::organization::OrganizationEvent;
use sqlx::PgConnection;

use crate::log::{Fact, ReadLogError, RecordedEvent, last_position, read_streams, read_streams_between};

/// Events read at once.
const PAGE: i64 = 1000;

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

/// A token of the organization as of a position; none where it was not created by then.
///
/// # Errors
/// [`ReadLogError`]
pub async fn token_as_of(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    token_id: TokenId,
    position: i64,
) -> Result<Option<AsOf>, ReadLogError> {
    let own = ("access_token", token_id.to_string());
    let first = read_streams(connection, std::slice::from_ref(&own), 0, 1).await?;
    let Some(RecordedEvent {
        position: created_position,
        fact: Fact::AccessToken(AccessTokenEvent::Created(created)),
        ..
    }) = first.first()
    else {
        return Ok(None);
    };
    if *created_position > position || created.organization_id != organization_id {
        return Ok(None);
    }
    let organization = ("organization", organization_id.to_string());
    // A service token depends on its creator only where it was made by somebody whose organization was just removed.
    let depends_on_creator = created.token_type == TokenType::Personal
        || last_position(connection, organization.0, &organization.1).await? > 0;
    let creator = ("member", Member::stream_id(organization_id, created.creator_id));
    let streams: Vec<_> = [own, organization]
        .into_iter()
        .chain(depends_on_creator.then_some(creator))
        .collect();
    let mut as_of = AsOf::default();
    let mut after = 0;
    loop {
        let events = read_streams_between(connection, &streams, after, position, PAGE).await?;
        let Some(last) = events.last() else {
            return Ok(Some(as_of));
        };
        after = last.position;
        for event in &events {
            apply(&mut as_of, event);
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
