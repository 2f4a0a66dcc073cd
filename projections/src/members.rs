//! The read model of who belongs to which organization, and what each may do: the member as its stream gives it, folded
//! by the domain's own code.

use cqrs_es::Aggregate;
use domain::ids::{MemberId, OrganizationId};
use domain::member::{Member, MemberEvent};
use domain::organization::OrganizationEvent;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row};

use crate::log::{Fact, RecordedEvent};
use crate::runner::ProjectError;

/// Which statement each event means.
pub(crate) async fn project(
    connection: &mut PgConnection,
    events: &[RecordedEvent],
) -> Result<(), ProjectError> {
    for event in events {
        project_one(connection, event).await?;
    }
    Ok(())
}

async fn project_one(connection: &mut PgConnection, event: &RecordedEvent) -> Result<(), ProjectError> {
    match &event.fact {
        Fact::Member(fact) => member(connection, event, fact).await,
        Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
            sqlx::query("update members set is_member = false where organization_id = $1")
                .bind(organization_id.as_uuid())
                .execute(connection)
                .await?;
            Ok(())
        }
        Fact::AccessToken(_) => Ok(()),
    }
}

async fn member(
    connection: &mut PgConnection,
    event: &RecordedEvent,
    fact: &MemberEvent,
) -> Result<(), ProjectError> {
    let (organization_id, member_id) = fact.subject();
    let (mut member, stated) = load(connection, organization_id, member_id).await?;
    let stated = match fact {
        MemberEvent::Added { .. } | MemberEvent::PermissionsReplaced { .. } => event.position,
        _ => stated,
    };
    member.apply(fact.clone());
    sqlx::query(
        "insert into members (organization_id, member_id, is_member, is_blocked, membership_number, stated_position, state)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (organization_id, member_id) do update
         set is_member = excluded.is_member, is_blocked = excluded.is_blocked,
             membership_number = excluded.membership_number, stated_position = excluded.stated_position,
             state = excluded.state",
    )
    .bind(organization_id.as_uuid())
    .bind(member_id.as_uuid())
    .bind(member.is_member())
    .bind(member.is_blocked())
    .bind(i32::try_from(member.membership_number())?)
    .bind(stated)
    .bind(Json(&member))
    .execute(connection)
    .await?;
    Ok(())
}

async fn load(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    member_id: MemberId,
) -> Result<(Member, i64), ProjectError> {
    let row = sqlx::query(
        "select state, stated_position from members where organization_id = $1 and member_id = $2",
    )
    .bind(organization_id.as_uuid())
    .bind(member_id.as_uuid())
    .fetch_optional(connection)
    .await?;
    match row {
        Some(row) => Ok((
            row.try_get::<Json<Member>, _>("state")?.0,
            row.try_get("stated_position")?,
        )),
        None => Ok((Member::default(), 0)),
    }
}

/// What people may read of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Profile {
    /// As people call them.
    pub name: String,
    /// Where to write to them.
    pub email: String,
}

/// A member's name and address; none where they were erased, or were never told.
///
/// # Errors
/// Where the database is out of reach.
pub async fn profile(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    member_id: MemberId,
) -> Result<Option<Profile>, sqlx::Error> {
    sqlx::query_as("select name, email from profiles where organization_id = $1 and member_id = $2")
        .bind(organization_id.as_uuid())
        .bind(member_id.as_uuid())
        .fetch_optional(connection)
        .await
}
