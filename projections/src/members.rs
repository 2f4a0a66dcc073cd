//! The read model of who belongs to which organization, and what each may do: the member as its stream gives it, folded
//! by the domain's own code.

use std::collections::BTreeMap;
use std::sync::Arc;

use cqrs_es::Aggregate;
use domain::access_token::AccessTokenEvent;
use domain::ids::{MemberId, OrganizationId};
use domain::member::{Member, MemberEvent};
use domain::organization::OrganizationEvent;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::copy::NewRows;
use crate::log::{Fact, RecordedEvent};
use crate::runner::{ProjectError, let_go_of_some};

/// The columns of a row, as [`Members::all_new`] writes them.
const COLUMNS: &str =
    "organization_id, member_id, is_member, is_blocked, membership_number, stated_position, state";

/// Members by organization and id.
#[derive(Debug, Default)]
pub(crate) struct Members(BTreeMap<(Uuid, Uuid), MemberRow>);

#[derive(Debug, Default)]
struct MemberRow {
    member: Member,
    /// The position of the last MemberAdded or PermissionsReplaced.
    stated: i64,
    /// Not since its organization was removed, whatever its own stream says.
    is_member: bool,
    /// The table has it otherwise.
    is_changed: bool,
}

/// Takes events, of which an organization's removal stands alone: those of members are folded at once. Members that are
/// held, as the table has them, are not read.
pub(crate) async fn project(
    connection: &mut PgConnection,
    events: &[Arc<RecordedEvent>],
    members: &mut Members,
) -> Result<(), ProjectError> {
    members.load(connection, events).await?;
    for event in events {
        members.apply(event);
        if let Fact::Organization(OrganizationEvent::Removed { organization_id }) = &event.fact {
            sqlx::query("update members set is_member = false where organization_id = $1")
                .bind(organization_id.as_uuid())
                .execute(&mut *connection)
                .await?;
        }
    }
    members.store(connection).await?;
    let_go_of_some(&mut members.0);
    Ok(())
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

impl Members {
    /// What an event changes in the members that are held.
    pub(crate) fn apply(&mut self, event: &RecordedEvent) {
        match &event.fact {
            Fact::Member(fact) => {
                let row = self.0.entry(key(fact)).or_default();
                row.member.apply(fact.clone());
                row.is_member = row.member.is_member();
                row.is_changed = true;
                if let MemberEvent::Added { .. } | MemberEvent::PermissionsReplaced { .. } = fact {
                    row.stated = event.position;
                }
            }
            Fact::Organization(OrganizationEvent::Removed { organization_id }) => {
                let organization_id = organization_id.as_uuid();
                let theirs = self.0.iter_mut();
                for (_, row) in theirs.filter(|((organization, _), _)| *organization == organization_id) {
                    row.is_member = false;
                    row.is_changed = true;
                }
            }
            Fact::AccessToken(_) => {}
        }
    }

    /// All of them, where the table has none of them.
    pub(crate) fn all_new(self) -> Result<NewRows, ProjectError> {
        let mut rows = NewRows::of("members", COLUMNS);
        for ((organization_id, member_id), row) in self.0 {
            rows.begin()?;
            rows.put(organization_id)?;
            rows.put(member_id)?;
            rows.put(row.is_member)?;
            rows.put(row.member.is_blocked())?;
            rows.put(i32::try_from(row.member.membership_number())?)?;
            rows.put(row.stated)?;
            rows.put(serde_json::to_string(&row.member)?)?;
        }
        Ok(rows)
    }

    /// What is there of the members that these events are about, and are not held.
    async fn load(
        &mut self,
        connection: &mut PgConnection,
        events: &[Arc<RecordedEvent>],
    ) -> Result<(), ProjectError> {
        let mut touched: Vec<(Uuid, Uuid)> = events
            .iter()
            .filter_map(|event| match &event.fact {
                Fact::Member(fact) => Some(key(fact)),
                Fact::AccessToken(_) | Fact::Organization(_) => None,
            })
            .filter(|key| !self.0.contains_key(key))
            .collect();
        touched.sort_unstable();
        touched.dedup();
        if touched.is_empty() {
            return Ok(());
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
        let row = |(organization, member, Json(state), stated): (Uuid, Uuid, Json<Member>, i64)| {
            let is_member = state.is_member();
            let row = MemberRow {
                member: state,
                stated,
                is_member,
                is_changed: false,
            };
            ((organization, member), row)
        };
        self.0.extend(stored.into_iter().map(row));
        Ok(())
    }

    /// Writes those that are changed.
    async fn store(&mut self, connection: &mut PgConnection) -> Result<(), ProjectError> {
        let mut rows = Rows::default();
        for ((organization_id, member_id), row) in self.0.iter_mut().filter(|(_, row)| row.is_changed) {
            row.is_changed = false;
            rows.organizations.push(*organization_id);
            rows.members.push(*member_id);
            rows.are_members.push(row.is_member);
            rows.are_blocked.push(row.member.is_blocked());
            rows.membership_numbers
                .push(i32::try_from(row.member.membership_number())?);
            rows.stated.push(row.stated);
            rows.states.push(serde_json::to_string(&row.member)?);
        }
        rows.store(connection).await
    }
}

fn key(fact: &MemberEvent) -> (Uuid, Uuid) {
    let (organization_id, member_id) = fact.subject();
    (organization_id.as_uuid(), member_id.as_uuid())
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

impl Rows {
    async fn store(self, connection: &mut PgConnection) -> Result<(), ProjectError> {
        if self.members.is_empty() {
            return Ok(());
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
        .bind(self.organizations)
        .bind(self.members)
        .bind(self.are_members)
        .bind(self.are_blocked)
        .bind(self.membership_numbers)
        .bind(self.stated)
        .bind(self.states)
        .execute(connection)
        .await?;
        Ok(())
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
