//! The rows of `credentials` and `creators`, read and written by many at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::access_token::{Secrets, TokenType};
use domain::authorization::{Credential, CredentialState};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::policy::{Granted, Rules};
use domain::secret::SecretDigest;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{CreatorRow, CredentialRow, MemberKey};
use crate::copy::{NewRows, StoredRow};
use crate::runner::ProjectError;

/// The columns that [`credential`] reads and [`new_credentials`] writes, in their order.
pub(super) const CREDENTIAL_COLUMNS: &str = "token_id, organization_id, creator_id, created_position, token_type, \
    state, membership_number, expires_at, allowed_ips, digest, previous_digest, previous_until, rules, statement_ids";
/// How many they are, and their types.
pub(super) const CREDENTIAL_WIDTH: usize = 14;
pub(super) const CREDENTIAL_TYPES: &str = "uuid, uuid, uuid, bigint, text, text, integer, timestamp with time zone, text[], \
    bytea, bytea, timestamp with time zone, text, json";
/// Those of [`creator`] and [`new_creators`].
pub(super) const CREATOR_COLUMNS: &str = "organization_id, member_id, state, sequence, has_ended";
/// How many they are, and their types.
pub(super) const CREATOR_WIDTH: usize = 5;
pub(super) const CREATOR_TYPES: &str = "uuid, uuid, json, bigint, boolean";

/// Why a stored row is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    /// It could not be had.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// It holds something that this binary does not know.
    #[error("{what} of token {token_id} can't be read by this version")]
    Unreadable {
        /// Of which token.
        token_id: Uuid,
        /// Which column.
        what: &'static str,
    },
}

pub(super) async fn credentials(
    connection: &mut PgConnection,
    tokens: &[TokenId],
    organizations: &[OrganizationId],
) -> Result<Vec<CredentialRow>, ProjectError> {
    let tokens: Vec<Uuid> = tokens.iter().map(|id| id.as_uuid()).collect();
    let organizations: Vec<Uuid> = organizations.iter().map(|id| id.as_uuid()).collect();
    let rows = sqlx::query(&format!(
        "select {CREDENTIAL_COLUMNS} from credentials where token_id = any($1) or organization_id = any($2)"
    ))
    .bind(tokens)
    .bind(organizations)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let read = credential(row, |text| Ok(Arc::new(rules_of(text)?)));
            read.map_err(|error| ProjectError::Unreadable(error.to_string()))
        })
        .collect()
}

/// The rules that a text stands for, and its absence.
pub(super) fn rules_of(text: Option<&str>) -> Result<Rules, serde_json::Error> {
    text.map(serde_json::from_str)
        .transpose()
        .map(Option::unwrap_or_default)
}

/// A row; its rules by way of whoever may have read the same text before.
pub(super) fn credential(
    row: &impl StoredRow,
    rules: impl FnOnce(Option<&str>) -> Result<Arc<Rules>, serde_json::Error>,
) -> Result<CredentialRow, RowError> {
    let token_id: Uuid = row.get(0)?;
    let unreadable = |what| RowError::Unreadable { token_id, what };
    let digest = |bytes: &[u8]| match bytes.try_into() {
        Ok(bytes) => Ok(SecretDigest::from_bytes(bytes)),
        Err(_) => Err(unreadable("a digest")),
    };
    let state: &str = row.get(5)?;
    let state = CredentialState::ALL
        .into_iter()
        .find(|known| known.as_str() == state);
    let membership_number: i32 = row.get(6)?;
    let allowed_ips: Vec<String> = row.get(8)?;
    let current = digest(row.get(9)?)?;
    let previous_digest: Option<&[u8]> = row.get(10)?;
    let previous_until: Option<DateTime<Utc>> = row.get(11)?;
    let previous = previous_digest.map(digest).transpose()?;
    let rules = rules(row.get(12)?).map_err(|_| unreadable("the permission"))?;
    let statement_ids: Vec<Option<String>> = match row.json(13)? {
        Some(text) => serde_json::from_str(text).map_err(|_| unreadable("what its statements are called"))?,
        None => Vec::new(),
    };
    Ok(CredentialRow {
        token_id: token_id.into(),
        creator_id: row.get::<Uuid>(2)?.into(),
        created_position: row.get(3)?,
        credential: Credential {
            organization_id: row.get::<Uuid>(1)?.into(),
            token_type: TokenType::parse(row.get(4)?).ok_or_else(|| unreadable("the type"))?,
            state: state.ok_or_else(|| unreadable("the state"))?,
            membership_number: membership_number
                .try_into()
                .map_err(|_| unreadable("the membership number"))?,
            expires_at: row.get(7)?,
            allowed_ips: allowed_ips
                .iter()
                .map(|net| net.parse().map_err(|_| unreadable("an address")))
                .collect::<Result<_, _>>()?,
            permission: Granted::restored(rules, statement_ids.iter().map(Option::as_deref)),
            secrets: Secrets::restored(current, previous.zip(previous_until)),
        },
    })
}

pub(super) async fn creators(
    connection: &mut PgConnection,
    members: &BTreeSet<MemberKey>,
    organizations: &[OrganizationId],
) -> Result<Vec<(MemberKey, CreatorRow)>, ProjectError> {
    let (of, ids): (Vec<Uuid>, Vec<Uuid>) = members
        .iter()
        .map(|(of, id)| (of.as_uuid(), id.as_uuid()))
        .unzip();
    let organizations: Vec<Uuid> = organizations.iter().map(|id| id.as_uuid()).collect();
    let rows = sqlx::query(&format!(
        "select {CREATOR_COLUMNS} from creators
         where (organization_id, member_id) in (select * from unnest($1::uuid[], $2::uuid[]))
         union all
         select {CREATOR_COLUMNS} from creators where organization_id = any($3)
           and (organization_id, member_id) not in (select * from unnest($1::uuid[], $2::uuid[]))"
    ))
    .bind(of)
    .bind(ids)
    .bind(organizations)
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(creator).collect::<Result<_, sqlx::Error>>()?)
}

/// A row; where its member can't be read, the error says of which column.
pub(super) fn creator(row: &PgRow) -> Result<(MemberKey, CreatorRow), sqlx::Error> {
    let organization_id: OrganizationId = row.try_get::<Uuid, _>(0)?.into();
    let member_id: MemberId = row.try_get::<Uuid, _>(1)?.into();
    let row = CreatorRow {
        member: row.try_get::<Json<_>, _>(2)?.0,
        sequence: row.try_get(3)?,
        has_ended: row.try_get(4)?,
    };
    Ok(((organization_id, member_id), row))
}

pub(super) fn new_credentials<'r>(
    credentials: impl Iterator<Item = &'r CredentialRow>,
) -> Result<NewRows, ProjectError> {
    let mut rows = NewRows::of("credentials", CREDENTIAL_COLUMNS);
    for row in credentials {
        let credential = &row.credential;
        let allowed_ips: Vec<String> = credential.allowed_ips.iter().map(ToString::to_string).collect();
        let previous = credential.secrets.previous();
        rows.begin()?;
        rows.put(row.token_id.as_uuid())?;
        rows.put(credential.organization_id.as_uuid())?;
        rows.put(row.creator_id.as_uuid())?;
        rows.put(row.created_position)?;
        rows.put(credential.token_type.as_str())?;
        rows.put(credential.state.as_str())?;
        rows.put(i32::try_from(credential.membership_number)?)?;
        rows.put(credential.expires_at)?;
        rows.put(allowed_ips)?;
        rows.put(credential.secrets.current().as_bytes().as_slice())?;
        rows.put(previous.as_ref().map(|(digest, _)| digest.as_bytes().as_slice()))?;
        rows.put(previous.as_ref().map(|(_, until)| *until))?;
        rows.put(rules(&credential.permission)?)?;
        let ids = statement_ids(&credential.permission);
        rows.put(ids.map(|ids| serde_json::to_string(&ids)).transpose()?)?;
    }
    Ok(rows)
}

pub(super) fn new_creators<'r>(
    creators: impl Iterator<Item = (MemberKey, &'r CreatorRow)>,
) -> Result<NewRows, ProjectError> {
    let mut rows = NewRows::of("creators", CREATOR_COLUMNS);
    for ((organization_id, member_id), row) in creators {
        rows.begin()?;
        rows.put(organization_id.as_uuid())?;
        rows.put(member_id.as_uuid())?;
        rows.put(serde_json::to_string(&row.member)?)?;
        rows.put(row.sequence)?;
        rows.put(row.has_ended)?;
    }
    Ok(rows)
}

/// The text of a permission without ids; none where there is nothing in it.
fn rules(permission: &Granted) -> Result<Option<String>, serde_json::Error> {
    let is_something = !permission.is_empty();
    is_something
        .then(|| serde_json::to_string(permission.rules().as_ref()))
        .transpose()
}

/// What its statements are called; none where none has a name.
fn statement_ids(permission: &Granted) -> Option<Vec<Option<String>>> {
    let ids = permission.statement_ids();
    let ids: Vec<Option<String>> = ids.map(|id| id.map(ToString::to_string)).collect();
    (!ids.is_empty()).then_some(ids)
}

/// What can change of tokens.
pub(super) async fn update_credentials<'r>(
    connection: &mut PgConnection,
    rows: impl Iterator<Item = &'r CredentialRow>,
) -> Result<(), ProjectError> {
    let mut columns = Columns::default();
    for row in rows {
        columns.add(row)?;
    }
    if columns.token_ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update credentials c
         set state = changed.state, membership_number = changed.membership_number, expires_at = changed.expires_at,
             allowed_ips = string_to_array(changed.allowed_ips, ','), digest = changed.digest,
             previous_digest = changed.previous_digest, previous_until = changed.previous_until
         from unnest($1::uuid[], $2::text[], $3::int[], $4::timestamptz[], $5::text[], $6::bytea[], $7::bytea[],
                     $8::timestamptz[])
             as changed (token_id, state, membership_number, expires_at, allowed_ips, digest, previous_digest,
                         previous_until)
         where c.token_id = changed.token_id",
    )
    .bind(columns.token_ids)
    .bind(columns.states)
    .bind(columns.membership_numbers)
    .bind(columns.expiries)
    .bind(columns.allowed_ips)
    .bind(columns.digests)
    .bind(columns.previous_digests)
    .bind(columns.previous_until)
    .execute(connection)
    .await?;
    Ok(())
}

/// What can change of tokens, column by column.
#[derive(Default)]
struct Columns {
    token_ids: Vec<Uuid>,
    states: Vec<&'static str>,
    membership_numbers: Vec<i32>,
    expiries: Vec<Option<DateTime<Utc>>>,
    /// Each token's, with commas in between: PostgreSQL has no arrays of arrays of different lengths.
    allowed_ips: Vec<String>,
    digests: Vec<Vec<u8>>,
    previous_digests: Vec<Option<Vec<u8>>>,
    previous_until: Vec<Option<DateTime<Utc>>>,
}

impl Columns {
    fn add(&mut self, row: &CredentialRow) -> Result<(), ProjectError> {
        let credential = &row.credential;
        let allowed_ips: Vec<String> = credential.allowed_ips.iter().map(ToString::to_string).collect();
        let previous = credential.secrets.previous();
        self.token_ids.push(row.token_id.as_uuid());
        self.states.push(credential.state.as_str());
        self.membership_numbers
            .push(i32::try_from(credential.membership_number)?);
        self.expiries.push(credential.expires_at);
        self.allowed_ips.push(allowed_ips.join(","));
        self.digests
            .push(credential.secrets.current().as_bytes().to_vec());
        self.previous_digests
            .push(previous.map(|(digest, _)| digest.as_bytes().to_vec()));
        self.previous_until.push(previous.map(|(_, until)| until));
        Ok(())
    }
}

pub(super) async fn store_creators(
    connection: &mut PgConnection,
    rows: impl Iterator<Item = (MemberKey, &CreatorRow)>,
) -> Result<(), ProjectError> {
    let (mut organizations, mut members, mut states) = (Vec::new(), Vec::new(), Vec::new());
    let (mut sequences, mut ended) = (Vec::new(), Vec::new());
    for ((organization_id, member_id), row) in rows {
        organizations.push(organization_id.as_uuid());
        members.push(member_id.as_uuid());
        states.push(serde_json::to_string(&row.member)?);
        sequences.push(row.sequence);
        ended.push(row.has_ended);
    }
    if members.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into creators as c (organization_id, member_id, state, sequence, has_ended)
         select organization_id, member_id, state::json, sequence, has_ended
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bool[])
             as changed (organization_id, member_id, state, sequence, has_ended)
         on conflict (organization_id, member_id) do update
         set state = excluded.state, sequence = excluded.sequence, has_ended = excluded.has_ended",
    )
    .bind(organizations)
    .bind(members)
    .bind(states)
    .bind(sequences)
    .bind(ended)
    .execute(connection)
    .await?;
    Ok(())
}
