//! The rows that some events touch: loaded at once, changed in memory, stored at once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::access_token::{AccessTokenEvent, Created, DeactivationReason, TokenType};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::MemberEvent;
use ipnet::IpNet;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::copy::NewRows;
use crate::log::{Fact, RecordedEvent};
use crate::runner::ProjectError;

/// The columns of a row, as [`Row::put`] writes them.
const COLUMNS: &str = "id, name, name_key, description, status, inactive_reason, membership_number, expires_at, allowed_ips, \
    digest, hint, updated_at, removed_at, organization_id, creator_id, token_type, statements, created_at, \
    created_position";
const ACTIVE: &str = "Active";
const INACTIVE: &str = "Inactive";

/// What can change of a token's row.
#[derive(Debug, FromRow)]
pub(super) struct Row {
    id: Uuid,
    organization_id: Uuid,
    creator_id: Uuid,
    token_type: String,
    pub(super) name: String,
    pub(super) name_key: String,
    pub(super) description: Option<String>,
    status: String,
    inactive_reason: Option<String>,
    pub(super) membership_number: i32,
    pub(super) expires_at: Option<DateTime<Utc>>,
    /// With commas in between: PostgreSQL has no arrays of arrays of different lengths.
    allowed_ips: String,
    pub(super) digest: Vec<u8>,
    pub(super) hint: String,
    updated_at: DateTime<Utc>,
    pub(super) removed_at: Option<DateTime<Utc>>,
    #[sqlx(skip)]
    origin: Origin,
}

/// Where a row comes from.
#[derive(Debug, Default)]
enum Origin {
    /// The table, and it is as it was there.
    #[default]
    Stored,
    /// The table, and it has changed.
    Changed,
    /// One of these events; with what never changes.
    Created {
        /// JSON.
        statements: String,
        at: DateTime<Utc>,
        position: i64,
    },
}

impl Row {
    pub(super) fn created(event: &RecordedEvent, token: &Created) -> Result<Self, ProjectError> {
        let mut row = Self {
            id: token.token_id.as_uuid(),
            organization_id: token.organization_id.as_uuid(),
            creator_id: token.creator_id.as_uuid(),
            token_type: token.token_type.as_str().to_owned(),
            name: token.name.as_str().to_owned(),
            name_key: token.name.key(),
            description: token.description.clone(),
            status: ACTIVE.to_owned(),
            inactive_reason: None,
            membership_number: i32::try_from(token.membership_number)?,
            expires_at: token.expires_at,
            allowed_ips: String::new(),
            digest: token.digest.as_bytes().to_vec(),
            hint: token.hint.clone(),
            updated_at: event.recorded_at,
            removed_at: None,
            origin: Origin::Created {
                statements: serde_json::to_string(&token.statements)?,
                at: event.recorded_at,
                position: event.position,
            },
        };
        row.allow_ips(&token.allowed_ips);
        Ok(row)
    }

    pub(super) fn allow_ips(&mut self, allowed_ips: &[IpNet]) {
        let allowed_ips: Vec<String> = allowed_ips.iter().map(ToString::to_string).collect();
        self.allowed_ips = allowed_ips.join(",");
    }

    pub(super) fn is_active(&self) -> bool {
        self.status == ACTIVE
    }

    pub(super) fn is_inactive_for(&self, reason: DeactivationReason) -> bool {
        !self.is_active() && self.inactive_reason.as_deref() == Some(reason.code())
    }

    pub(super) fn activate(&mut self, membership_number: i32) {
        ACTIVE.clone_into(&mut self.status);
        self.inactive_reason = None;
        self.membership_number = membership_number;
    }

    pub(super) fn deactivate(&mut self, reason: DeactivationReason) {
        INACTIVE.clone_into(&mut self.status);
        self.inactive_reason = Some(reason.code().to_owned());
    }

    fn change_at(&mut self, at: DateTime<Utc>) {
        self.updated_at = at;
        if let Origin::Stored = self.origin {
            self.origin = Origin::Changed;
        }
    }

    /// As it is in the table, where it was created by one of these events.
    fn put(&self, rows: &mut NewRows) -> Result<(), ProjectError> {
        let Origin::Created {
            statements,
            at,
            position,
        } = &self.origin
        else {
            return Ok(());
        };
        let allowed_ips: Vec<&str> = self.allowed_ips.split_terminator(',').collect();
        rows.begin()?;
        rows.put(self.id)?;
        rows.put(self.name.as_str())?;
        rows.put(self.name_key.as_str())?;
        rows.put(self.description.as_deref())?;
        rows.put(self.status.as_str())?;
        rows.put(self.inactive_reason.as_deref())?;
        rows.put(self.membership_number)?;
        rows.put(self.expires_at)?;
        rows.put(allowed_ips)?;
        rows.put(self.digest.as_slice())?;
        rows.put(self.hint.as_str())?;
        rows.put(self.updated_at)?;
        rows.put(self.removed_at)?;
        rows.put(self.organization_id)?;
        rows.put(self.creator_id)?;
        rows.put(self.token_type.as_str())?;
        rows.put_jsonb(statements)?;
        rows.put(*at)?;
        rows.put(*position)
    }

    fn is_personal(&self) -> bool {
        self.token_type == TokenType::Personal.as_str()
    }
}

/// Rows by their token's id.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    by_id: HashMap<Uuid, Row>,
    /// The personal tokens among them, by organization and creator.
    by_creator: HashMap<(Uuid, Uuid), Vec<Uuid>>,
    /// In the order in which they were created.
    created: Vec<Uuid>,
}

impl Rows {
    /// Loads what is there of the rows that these events may change.
    pub(super) async fn touched_by(
        connection: &mut PgConnection,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Self, ProjectError> {
        let mut touched = BTreeSet::new();
        let mut created = BTreeSet::new();
        let mut removed = BTreeSet::new();
        for event in events {
            match &event.fact {
                Fact::AccessToken(AccessTokenEvent::Created(token)) => {
                    created.insert(token.token_id.as_uuid());
                }
                Fact::AccessToken(fact) => {
                    touched.insert(fact.token_id().as_uuid());
                }
                Fact::Member(MemberEvent::Removed {
                    organization_id,
                    member_id,
                    ..
                }) => {
                    removed.insert((organization_id.as_uuid(), member_id.as_uuid()));
                }
                Fact::Member(_) | Fact::Organization(_) => {}
            }
        }
        let touched: Vec<Uuid> = touched.difference(&created).copied().collect();
        let (organizations, creators): (Vec<Uuid>, Vec<Uuid>) = removed.into_iter().unzip();
        let mut rows = Self::default();
        if touched.is_empty() && creators.is_empty() {
            return Ok(rows);
        }
        let stored: Vec<Row> = sqlx::query_as(
            "with touched as (
                 select t.* from unnest($1::uuid[]) as wanted (id) join access_tokens t using (id)
                 union all
                 select t.* from unnest($2::uuid[], $3::uuid[]) as removed (organization_id, creator_id)
                 join access_tokens t using (organization_id, creator_id)
                 where t.token_type = 'Personal' and t.status = 'Active'
             )
             select id, organization_id, creator_id, token_type, name, name_key, description, status, inactive_reason,
                    membership_number, expires_at, array_to_string(allowed_ips, ',') as allowed_ips, digest, hint, updated_at,
                    removed_at
             from touched",
        )
        .bind(touched)
        .bind(organizations)
        .bind(creators)
        .fetch_all(connection)
        .await?;
        for row in stored {
            rows.hold(row);
        }
        Ok(rows)
    }

    fn hold(&mut self, row: Row) {
        let creator = (row.organization_id, row.creator_id);
        if row.is_personal() {
            self.by_creator.entry(creator).or_default().push(row.id);
        }
        self.by_id.insert(row.id, row);
    }

    /// Takes a row that is not in the table yet.
    pub(super) fn insert(&mut self, row: Row) {
        self.created.push(row.id);
        self.hold(row);
    }

    /// The row as it is by now; none where it is not touched.
    pub(super) fn get(&self, token_id: TokenId) -> Option<&Row> {
        self.by_id.get(&token_id.as_uuid())
    }

    /// Changes a row, at a time.
    pub(super) fn change(&mut self, token_id: TokenId, at: DateTime<Utc>, change: impl FnOnce(&mut Row)) {
        if let Some(row) = self.by_id.get_mut(&token_id.as_uuid()) {
            change(row);
            row.change_at(at);
        }
    }

    /// The personal tokens of a member, as far as they are held.
    pub(super) fn personal_tokens_of(
        &self,
        organization_id: OrganizationId,
        member_id: MemberId,
    ) -> Vec<TokenId> {
        let creator = (organization_id.as_uuid(), member_id.as_uuid());
        let theirs = self.by_creator.get(&creator).into_iter().flatten();
        theirs.map(|id| TokenId::from(*id)).collect()
    }

    /// Those of an organization that was removed.
    pub(super) fn remove_all_of(&mut self, organization_id: OrganizationId, at: DateTime<Utc>) {
        let organization_id = organization_id.as_uuid();
        let theirs = self.by_id.values_mut();
        for row in theirs.filter(|row| row.organization_id == organization_id && row.removed_at.is_none()) {
            row.removed_at = Some(at);
            row.change_at(at);
        }
    }

    /// Those that were created.
    pub(crate) fn all_new(&self) -> Result<NewRows, ProjectError> {
        let mut rows = NewRows::of("access_tokens", COLUMNS);
        // A second creation of one token comes to the table too, to be refused there.
        for row in self.created.iter().filter_map(|id| self.by_id.get(id)) {
            row.put(&mut rows)?;
        }
        Ok(rows)
    }

    /// Writes what is new and what has changed.
    pub(super) async fn store(self, connection: &mut PgConnection) -> Result<(), ProjectError> {
        self.all_new()?.store(connection).await?;
        let mut changed = Columns::default();
        for row in self.by_id.into_values() {
            if let Origin::Changed = row.origin {
                changed.add(row);
            }
        }
        if !changed.ids.is_empty() {
            update(connection, changed).await?;
        }
        Ok(())
    }
}

/// What can change, column by column.
#[derive(Default)]
struct Columns {
    ids: Vec<Uuid>,
    names: Vec<String>,
    name_keys: Vec<String>,
    descriptions: Vec<Option<String>>,
    statuses: Vec<String>,
    inactive_reasons: Vec<Option<String>>,
    membership_numbers: Vec<i32>,
    expiries: Vec<Option<DateTime<Utc>>>,
    allowed_ips: Vec<String>,
    digests: Vec<Vec<u8>>,
    hints: Vec<String>,
    updated: Vec<DateTime<Utc>>,
    removed: Vec<Option<DateTime<Utc>>>,
}

impl Columns {
    fn add(&mut self, row: Row) {
        self.ids.push(row.id);
        self.names.push(row.name);
        self.name_keys.push(row.name_key);
        self.descriptions.push(row.description);
        self.statuses.push(row.status);
        self.inactive_reasons.push(row.inactive_reason);
        self.membership_numbers.push(row.membership_number);
        self.expiries.push(row.expires_at);
        self.allowed_ips.push(row.allowed_ips);
        self.digests.push(row.digest);
        self.hints.push(row.hint);
        self.updated.push(row.updated_at);
        self.removed.push(row.removed_at);
    }
}

async fn update(connection: &mut PgConnection, rows: Columns) -> Result<(), ProjectError> {
    sqlx::query(
        "update access_tokens t
         set name = c.name, name_key = c.name_key, description = c.description, status = c.status,
             inactive_reason = c.inactive_reason, membership_number = c.membership_number, expires_at = c.expires_at,
             allowed_ips = string_to_array(c.allowed_ips, ','), digest = c.digest, hint = c.hint, updated_at = c.updated_at,
             removed_at = c.removed_at
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::timestamptz[],
                     $9::text[], $10::bytea[], $11::text[], $12::timestamptz[], $13::timestamptz[])
             as c (id, name, name_key, description, status, inactive_reason, membership_number, expires_at, allowed_ips, digest,
                   hint, updated_at, removed_at)
         where t.id = c.id",
    )
    .bind(rows.ids)
    .bind(rows.names)
    .bind(rows.name_keys)
    .bind(rows.descriptions)
    .bind(rows.statuses)
    .bind(rows.inactive_reasons)
    .bind(rows.membership_numbers)
    .bind(rows.expiries)
    .bind(rows.allowed_ips)
    .bind(rows.digests)
    .bind(rows.hints)
    .bind(rows.updated)
    .bind(rows.removed)
    .execute(connection)
    .await?;
    Ok(())
}
