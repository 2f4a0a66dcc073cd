//! The read model behind lists and pages of tokens. A creator's removal makes its personal tokens Inactive here at once;
//! the reactor's events only confirm it. Removed tokens stay as rows with `removed_at`.

mod queries;

pub use queries::{AccessTokenRow, Filter, Page, find, is_name_used, list};

use domain::access_token::{AccessTokenEvent, Created, DeactivationReason, TokenType};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::MemberEvent;
use domain::organization::OrganizationEvent;
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::log::{Fact, RecordedEvent};
use crate::runner::ProjectError;

/// Which statement each event means.
pub(crate) async fn project(
    connection: &mut PgConnection,
    event: &RecordedEvent,
) -> Result<(), ProjectError> {
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
        AccessTokenEvent::Created(token) => created(connection, event, token).await,
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
    event: &RecordedEvent,
    token: &Created,
) -> Result<(), ProjectError> {
    sqlx::query(
        "insert into access_tokens (id, organization_id, creator_id, name, name_key, description, token_type, status,
             membership_number, statements, expires_at, allowed_ips, digest, hint, created_at, updated_at,
             created_position)
         values ($1, $2, $3, $4, $5, $6, $7, 'Active', $8, $9, $10, $11, $12, $13, $14, $14, $15)",
    )
    .bind(token.token_id.as_uuid())
    .bind(token.organization_id.as_uuid())
    .bind(token.creator_id.as_uuid())
    .bind(token.name.as_str())
    .bind(token.name.key())
    .bind(&token.description)
    .bind(token.token_type.as_str())
    .bind(i32::try_from(token.membership_number)?)
    .bind(Json(&token.statements))
    .bind(token.expires_at)
    .bind(token.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>())
    .bind(token.digest.as_bytes().as_slice())
    .bind(&token.hint)
    .bind(event.recorded_at)
    .bind(event.position)
    .execute(connection)
    .await?;
    Ok(())
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
