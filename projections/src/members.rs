//! The read model of who belongs to which organization, and what each may do: the member as its stream gives it, folded
//! by the domain's own code.

use std::collections::BTreeMap;

use cqrs_es::Aggregate;
use domain::access_token::AccessTokenEvent;
use domain::ids::{MemberId, OrganizationId};
use domain::member::{Member, MemberEvent};
use domain::organization::OrganizationEvent;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::log::{Fact, RecordedEvent};
use crate::runner::ProjectError;

/// Members by organization and id, each with the position of its last MemberAdded or PermissionsReplaced.
type Members = BTreeMap<(Uuid, Uuid), (Member, i64)>;

/// Takes events, of which an organization's removal stands alone: those of members are folded at once.
pub(crate) async fn project(
    connection: &mut PgConnection,
    events: &[RecordedEvent],
) -> Result<(), ProjectError> {
    let mut members = load(connection, events).await?;
    for event in events {
        match &event.fact {
            Fact::Member(fact) => member(&mut members, event, fact),
            Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
                sqlx::query("update members set is_member = false where organization_id = $1")
                    .bind(organization_id.as_uuid())
                    .execute(&mut *connection)
                    .await?;
            }
            Fact::AccessToken(_) => {}
        }
    }
    store(connection, members).await
}

/// Whether events of this type can change a row.
pub(crate) fn wants(event_type: &str) -> bool {
    !AccessTokenEvent::TYPES.contains(&event_type)
}

/// Whether both may be taken at once, which follow each other.
pub(crate) fn takes_together(one: &RecordedEvent, next: &RecordedEvent) -> bool {
    let is_one_of_many = |event: &RecordedEvent| !matches!(event.fact, Fact::Organization(_));
    is_one_of_many(one) && is_one_of_many(next)
}

fn member(members: &mut Members, event: &RecordedEvent, fact: &MemberEvent) {
    let (member, stated) = members.entry(key(fact)).or_default();
    member.apply(fact.clone());
    if let MemberEvent::Added { .. } | MemberEvent::PermissionsReplaced { .. } = fact {
        *stated = event.position;
    }
}

fn key(fact: &MemberEvent) -> (Uuid, Uuid) {
    let (organization_id, member_id) = fact.subject();
    (organization_id.as_uuid(), member_id.as_uuid())
}

/// What is there of the members that these events are about.
async fn load(connection: &mut PgConnection, events: &[RecordedEvent]) -> Result<Members, ProjectError> {
    let mut touched: Vec<(Uuid, Uuid)> = events
        .iter()
        .filter_map(|event| match &event.fact {
            Fact::Member(fact) => Some(key(fact)),
            Fact::AccessToken(_) | Fact::Organization(_) => None,
        })
        .collect();
    touched.sort_unstable();
    touched.dedup();
    if touched.is_empty() {
        return Ok(Members::new());
    }
    let (organizations, members): (Vec<Uuid>, Vec<Uuid>) = touched.into_iter().unzip();
    let stored: Vec<(Uuid, Uuid, Json<Member>, i64)> = sqlx::query_as(
        "select organization_id, member_id, state, stated_position
         from unnest($1::uuid[], $2::uuid[]) as touched (organization_id, member_id)
         join members using (organization_id, member_id)",
    )
    .bind(organizations)
    .bind(members)
    .fetch_all(connection)
    .await?;
    let stored = stored.into_iter();
    Ok(stored
        .map(|(organization, member, state, stated)| ((organization, member), (state.0, stated)))
        .collect())
}

async fn store(connection: &mut PgConnection, members: Members) -> Result<(), ProjectError> {
    if members.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::default();
    for ((organization_id, member_id), (member, stated)) in members {
        rows.organizations.push(organization_id);
        rows.members.push(member_id);
        rows.are_members.push(member.is_member());
        rows.are_blocked.push(member.is_blocked());
        rows.membership_numbers
            .push(i32::try_from(member.membership_number())?);
        rows.stated.push(stated);
        rows.states.push(serde_json::to_string(&member)?);
    }
    sqlx::query(
        "insert into members (organization_id, member_id, is_member, is_blocked, membership_number, stated_position, state)
         select organization_id, member_id, is_member, is_blocked, membership_number, stated_position, state::json
         from unnest($1::uuid[], $2::uuid[], $3::bool[], $4::bool[], $5::int[], $6::bigint[], $7::text[])
             as changed (organization_id, member_id, is_member, is_blocked, membership_number, stated_position, state)
         on conflict (organization_id, member_id) do update
         set is_member = excluded.is_member, is_blocked = excluded.is_blocked,
             membership_number = excluded.membership_number, stated_position = excluded.stated_position,
             state = excluded.state",
    )
    .bind(rows.organizations)
    .bind(rows.members)
    .bind(rows.are_members)
    .bind(rows.are_blocked)
    .bind(rows.membership_numbers)
    .bind(rows.stated)
    .bind(rows.states)
    .execute(connection)
    .await?;
    Ok(())
}

/// Members, column by column.
#[derive(Default)]
struct Rows {
    organizations: Vec<Uuid>,
    members: Vec<Uuid>,
    are_members: Vec<bool>,
    are_blocked: Vec<bool>,
    membership_numbers: Vec<i32>,
    stated: Vec<i64>,
    states: Vec<String>,
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
