//! The read model behind lists and pages of tokens. A creator's removal makes its personal tokens Inactive here at once;
//! the reactor's events only confirm it. Removed tokens stay as rows with `removed_at`.
//!
//! Events are taken many at a time: the rows they touch are loaded once, changed in the order of the events, and stored once.

mod queries;
mod rows;

pub use queries::{AccessTokenRow, Filter, Page, find, is_name_used, list};
pub(crate) use rows::Rows;

use std::sync::Arc;

use domain::access_token::{AccessTokenEvent, DeactivationReason};
use domain::ids::OrganizationId;
use domain::member::MemberEvent;
use domain::organization::OrganizationEvent;
use sqlx::PgConnection;

use crate::log::{Fact, RecordedEvent};
use crate::runner::ProjectError;
use rows::Row;

/// Takes events, of which an organization's removal stands alone.
pub(crate) async fn project(
    connection: &mut PgConnection,
    events: &[Arc<RecordedEvent>],
) -> Result<(), ProjectError> {
    let mut rows = Rows::touched_by(connection, events).await?;
    for event in events {
        apply(&mut rows, event)?;
        if let Fact::Organization(OrganizationEvent::Removed { organization_id }) = &event.fact {
            organization_removed(connection, event, *organization_id).await?;
        }
    }
    rows.store(connection).await
}

/// Whether events of this type can change a row: of members' only their removals.
pub(crate) fn wants(event_type: &str) -> bool {
    !MemberEvent::TYPES.contains(&event_type) || event_type == MemberEvent::REMOVED
}

/// Whether both may be taken at once, which follow each other. An organization has too many rows to hold them all.
pub(crate) fn takes_together(one: &RecordedEvent, next: &RecordedEvent) -> bool {
    let is_one_of_many = |event: &RecordedEvent| !matches!(event.fact, Fact::Organization(_));
    is_one_of_many(one) && is_one_of_many(next)
}

/// What an event changes in the rows that are held.
pub(crate) fn apply(rows: &mut Rows, event: &RecordedEvent) -> Result<(), ProjectError> {
    match &event.fact {
        Fact::AccessToken(fact) => access_token(rows, event, fact),
        Fact::Member(fact) => member(rows, event, fact),
        Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
            rows.remove_all_of(*organization_id, event.recorded_at);
            Ok(())
        }
    }
}

/// What each event of a token changes in its row.
fn access_token(rows: &mut Rows, event: &RecordedEvent, fact: &AccessTokenEvent) -> Result<(), ProjectError> {
    let at = event.recorded_at;
    match fact {
        AccessTokenEvent::Created(token) => rows.insert(Row::created(event, token)?),
        AccessTokenEvent::Renamed { token_id, name, .. } => rows.change(*token_id, at, |row| {
            row.name = name.as_str().to_owned();
            row.name_key = name.key();
        }),
        AccessTokenEvent::DescriptionChanged {
            token_id,
            description,
            ..
        } => rows.change(*token_id, at, |row| row.description.clone_from(description)),
        AccessTokenEvent::ExpiryChanged {
            token_id, expires_at, ..
        } => rows.change(*token_id, at, |row| row.expires_at = *expires_at),
        AccessTokenEvent::AllowedIpsChanged {
            token_id,
            allowed_ips,
            ..
        } => rows.change(*token_id, at, |row| row.allow_ips(allowed_ips)),
        AccessTokenEvent::SecretRotated {
            token_id,
            digest,
            hint,
            ..
        } => rows.change(*token_id, at, |row| {
            row.digest = digest.as_bytes().to_vec();
            row.hint.clone_from(hint);
        }),
        AccessTokenEvent::Activated {
            token_id,
            membership_number,
            ..
        } => {
            let membership_number = i32::try_from(*membership_number)?;
            rows.change(*token_id, at, |row| row.activate(membership_number));
        }
        AccessTokenEvent::Deactivated { token_id, reason, .. } => {
            // A creator's removal was shown when it happened; the reactor's word for it moves no time.
            if rows
                .get(*token_id)
                .is_some_and(|row| !row.is_inactive_for(*reason))
            {
                rows.change(*token_id, at, |row| row.deactivate(*reason));
            }
        }
        AccessTokenEvent::Removed { token_id, .. } => rows.change(*token_id, at, |row| {
            row.removed_at = row.removed_at.or(Some(at));
        }),
    }
    Ok(())
}

/// What a member's event changes in its tokens' rows.
fn member(rows: &mut Rows, event: &RecordedEvent, fact: &MemberEvent) -> Result<(), ProjectError> {
    let MemberEvent::Removed {
        organization_id,
        member_id,
        membership_number,
        ..
    } = fact
    else {
        return Ok(());
    };
    let reason = DeactivationReason::CreatorRemoved {
        membership_number: *membership_number,
    };
    let ended = i32::try_from(*membership_number)?;
    for token_id in rows.personal_tokens_of(*organization_id, *member_id) {
        if rows
            .get(token_id)
            .is_some_and(|row| row.is_active() && row.membership_number <= ended)
        {
            rows.change(token_id, event.recorded_at, |row| row.deactivate(reason));
        }
    }
    Ok(())
}

/// The rows that are not held.
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
