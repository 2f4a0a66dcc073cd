//! The read model behind lists and pages of tokens. A creator's removal makes its personal tokens Inactive here at once;
//! the reactor's events only confirm it. Removed tokens stay as rows with `removed_at`.

mod queries;

pub use queries::{AccessTokenRow, Filter, Page, find, is_name_used, list};

use chrono::{DateTime, Utc};
use domain::access_token::{AccessTokenEvent, Created, DeactivationReason, TokenType};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::MemberEvent;
use domain::organization::OrganizationEvent;
use domain::policy::Statement;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::log::{Fact, RecordedEvent};
use crate::runner::ProjectError;

/// Which statement each event means. Tokens that were issued one after the other are one statement: under load that is
/// most of the log.
pub(crate) async fn project(
    connection: &mut PgConnection,
    events: &[RecordedEvent],
) -> Result<(), ProjectError> {
    let issued: Vec<(&RecordedEvent, &Created)> = events
        .iter()
        .filter_map(|event| Some((event, created_in(event)?)))
        .collect();
    if issued.len() == events.len() {
        return created(connection, &issued).await;
    }
    for event in events {
        project_one(connection, event).await?;
    }
    Ok(())
}

/// Whether one statement takes both.
pub(crate) fn takes_together(one: &RecordedEvent, next: &RecordedEvent) -> bool {
    created_in(one).is_some() && created_in(next).is_some()
}

fn created_in(event: &RecordedEvent) -> Option<&Created> {
    match &event.fact {
        Fact::AccessToken(AccessTokenEvent::Created(created)) => Some(created),
        Fact::AccessToken(_) | Fact::Member(_) | Fact::Organization(_) => None,
    }
}

async fn project_one(connection: &mut PgConnection, event: &RecordedEvent) -> Result<(), ProjectError> {
    match &event.fact {
        Fact::AccessToken(fact) => access_token(connection, event, fact).await,
        Fact::Member(MemberEvent::Removed {
            organization_id,
            member_id,
            membership_number,
            ..
        }) => {
            creator_removed(
                connection,
                event,
                *organization_id,
                *member_id,
                *membership_number,
            )
            .await
        }
        Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
            organization_removed(connection, event, *organization_id).await
        }
        Fact::Member(_) => Ok(()),
    }
}

async fn access_token(
    connection: &mut PgConnection,
    event: &RecordedEvent,
    fact: &AccessTokenEvent,
) -> Result<(), ProjectError> {
    match fact {
        AccessTokenEvent::Created(token) => created(connection, &[(event, token)]).await,
        AccessTokenEvent::Renamed { token_id, name, .. } => {
            sqlx::query("update access_tokens set name = $2, name_key = $3, updated_at = $4 where id = $1")
                .bind(token_id.as_uuid())
                .bind(name.as_str())
                .bind(name.key())
                .bind(event.recorded_at)
                .execute(connection)
                .await?;
            Ok(())
        }
        AccessTokenEvent::DescriptionChanged {
            token_id,
            description,
            ..
        } => {
            sqlx::query("update access_tokens set description = $2, updated_at = $3 where id = $1")
                .bind(token_id.as_uuid())
                .bind(description)
                .bind(event.recorded_at)
                .execute(connection)
                .await?;
            Ok(())
        }
        AccessTokenEvent::ExpiryChanged {
            token_id, expires_at, ..
        } => {
            sqlx::query("update access_tokens set expires_at = $2, updated_at = $3 where id = $1")
                .bind(token_id.as_uuid())
                .bind(expires_at)
                .bind(event.recorded_at)
                .execute(connection)
                .await?;
            Ok(())
        }
        AccessTokenEvent::AllowedIpsChanged {
            token_id,
            allowed_ips,
            ..
        } => {
            sqlx::query("update access_tokens set allowed_ips = $2, updated_at = $3 where id = $1")
                .bind(token_id.as_uuid())
                .bind(allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>())
                .bind(event.recorded_at)
                .execute(connection)
                .await?;
            Ok(())
        }
        AccessTokenEvent::SecretRotated {
            token_id,
            digest,
            hint,
            ..
        } => {
            sqlx::query("update access_tokens set digest = $2, hint = $3, updated_at = $4 where id = $1")
                .bind(token_id.as_uuid())
                .bind(digest.as_bytes().as_slice())
                .bind(hint)
                .bind(event.recorded_at)
                .execute(connection)
                .await?;
            Ok(())
        }
        AccessTokenEvent::Activated {
            token_id,
            membership_number,
            ..
        } => {
            sqlx::query(
                "update access_tokens
                 set status = 'Active', inactive_reason = null, membership_number = $2, updated_at = $3
                 where id = $1",
            )
            .bind(token_id.as_uuid())
            .bind(i32::try_from(*membership_number)?)
            .bind(event.recorded_at)
            .execute(connection)
            .await?;
            Ok(())
        }
        AccessTokenEvent::Deactivated { token_id, reason, .. } => {
            deactivated(connection, event, *token_id, *reason).await
        }
        AccessTokenEvent::Removed { token_id, .. } => {
            sqlx::query("update access_tokens set removed_at = coalesce(removed_at, $2), updated_at = $2 where id = $1")
                .bind(token_id.as_uuid())
                .bind(event.recorded_at)
                .execute(connection)
                .await?;
            Ok(())
        }
    }
}

async fn created(
    connection: &mut PgConnection,
    issued: &[(&RecordedEvent, &Created)],
) -> Result<(), ProjectError> {
    let mut columns = Columns::default();
    for (event, token) in issued {
        columns.add(event, token)?;
    }
    sqlx::query(
        "insert into access_tokens (id, organization_id, creator_id, name, name_key, description, token_type, status,
             membership_number, statements, expires_at, allowed_ips, digest, hint, created_at, updated_at,
             created_position)
         select id, organization_id, creator_id, name, name_key, description, token_type, 'Active', membership_number,
                statements, expires_at, string_to_array(allowed_ips, ','), digest, hint, created_at, created_at,
                created_position
         from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[],
                     $9::jsonb[], $10::timestamptz[], $11::text[], $12::bytea[], $13::text[], $14::timestamptz[],
                     $15::bigint[])
             as issued (id, organization_id, creator_id, name, name_key, description, token_type, membership_number,
                        statements, expires_at, allowed_ips, digest, hint, created_at, created_position)",
    )
    .bind(columns.ids)
    .bind(columns.organizations)
    .bind(columns.creators)
    .bind(columns.names)
    .bind(columns.name_keys)
    .bind(columns.descriptions)
    .bind(columns.types)
    .bind(columns.membership_numbers)
    .bind(columns.statements)
    .bind(columns.expiries)
    .bind(columns.allowed_ips)
    .bind(columns.digests)
    .bind(columns.hints)
    .bind(columns.times)
    .bind(columns.positions)
    .execute(connection)
    .await?;
    Ok(())
}

/// Issued tokens, column by column.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    organizations: Vec<Uuid>,
    creators: Vec<Uuid>,
    names: Vec<&'a str>,
    name_keys: Vec<String>,
    descriptions: Vec<Option<&'a str>>,
    types: Vec<&'static str>,
    membership_numbers: Vec<i32>,
    statements: Vec<Json<&'a [Statement]>>,
    expiries: Vec<Option<DateTime<Utc>>>,
    /// Each token's, with commas in between: PostgreSQL has no arrays of arrays of different lengths.
    allowed_ips: Vec<String>,
    digests: Vec<&'a [u8]>,
    hints: Vec<&'a str>,
    times: Vec<DateTime<Utc>>,
    positions: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn add(&mut self, event: &RecordedEvent, token: &'a Created) -> Result<(), ProjectError> {
        let allowed_ips: Vec<String> = token.allowed_ips.iter().map(ToString::to_string).collect();
        self.ids.push(token.token_id.as_uuid());
        self.organizations.push(token.organization_id.as_uuid());
        self.creators.push(token.creator_id.as_uuid());
        self.names.push(token.name.as_str());
        self.name_keys.push(token.name.key());
        self.descriptions.push(token.description.as_deref());
        self.types.push(token.token_type.as_str());
        self.membership_numbers
            .push(i32::try_from(token.membership_number)?);
        self.statements.push(Json(&token.statements));
        self.expiries.push(token.expires_at);
        self.allowed_ips.push(allowed_ips.join(","));
        self.digests.push(token.digest.as_bytes());
        self.hints.push(&token.hint);
        self.times.push(event.recorded_at);
        self.positions.push(event.position);
        Ok(())
    }
}

/// A creator's removal was shown when it happened; the reactor's word for it moves no time.
async fn deactivated(
    connection: &mut PgConnection,
    event: &RecordedEvent,
    token_id: TokenId,
    reason: DeactivationReason,
) -> Result<(), ProjectError> {
    sqlx::query(
        "update access_tokens set status = 'Inactive', inactive_reason = $2, updated_at = $3
         where id = $1 and (status = 'Active' or inactive_reason is distinct from $2)",
    )
    .bind(token_id.as_uuid())
    .bind(reason.code())
    .bind(event.recorded_at)
    .execute(connection)
    .await?;
    Ok(())
}

async fn creator_removed(
    connection: &mut PgConnection,
    event: &RecordedEvent,
    organization_id: OrganizationId,
    member_id: MemberId,
    membership_number: u32,
) -> Result<(), ProjectError> {
    sqlx::query(
        "update access_tokens set status = 'Inactive', inactive_reason = $4, updated_at = $5
         where organization_id = $1 and creator_id = $2 and token_type = $6 and status = 'Active'
           and membership_number <= $3",
    )
    .bind(organization_id.as_uuid())
    .bind(member_id.as_uuid())
    .bind(i32::try_from(membership_number)?)
    .bind(DeactivationReason::CreatorRemoved { membership_number }.code())
    .bind(event.recorded_at)
    .bind(TokenType::Personal.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

async fn organization_removed(
    connection: &mut PgConnection,
    event: &RecordedEvent,
    organization_id: OrganizationId,
) -> Result<(), ProjectError> {
    sqlx::query(
        "update access_tokens set removed_at = $2, updated_at = $2 where organization_id = $1 and removed_at is null",
    )
    .bind(organization_id.as_uuid())
    .bind(event.recorded_at)
    .execute(connection)
    .await?;
    Ok(())
}
