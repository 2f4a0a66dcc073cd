//! What can be asked of the read model of tokens. Removed tokens are in none of the answers. A token whose time has passed
//! reads as Inactive, whether or not the log says so yet.

use chrono::{DateTime, Utc};
use domain::access_token::name_key;
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::policy::Statement;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

/// Which tokens to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Contained in the name, without regard to case.
    pub name: Option<String>,
    /// FeatBit's word; any other matches nothing.
    pub token_type: Option<String>,
    /// Made by this member.
    pub creator_id: Option<MemberId>,
    /// FeatBit's word; any other matches nothing.
    pub status: Option<String>,
}

/// A page of tokens, newest first.
#[derive(Clone, Debug)]
pub struct Page {
    /// How many there are on all pages.
    pub total: i64,
    /// This page's.
    pub items: Vec<AccessTokenRow>,
}

/// A token as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessTokenRow {
    /// Which.
    pub id: TokenId,
    /// Its name.
    pub name: String,
    /// A few words.
    pub description: Option<String>,
    /// FeatBit's word.
    pub token_type: String,
    /// FeatBit's word.
    pub status: String,
    /// Why it is Inactive.
    pub inactive_reason: Option<String>,
    /// What may be seen of its secret.
    pub hint: String,
    /// Its own statements.
    pub statements: Vec<Statement>,
    /// From this time on it can't be used.
    pub expires_at: Option<DateTime<Utc>>,
    /// None: from everywhere.
    pub allowed_ips: Vec<String>,
    /// When it was last used, as far as nodes have written down; none: not yet.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was issued.
    pub created_at: DateTime<Utc>,
    /// When something about it last changed.
    pub updated_at: DateTime<Utc>,
    /// Who made it.
    pub creator_id: MemberId,
    /// The creator's name; empty where it was erased.
    pub creator_name: String,
    /// The creator's e-mail address; empty where it was erased.
    pub creator_email: String,
}

impl<'r> FromRow<'r, PgRow> for AccessTokenRow {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get::<Uuid, _>("id")?.into(),
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            token_type: row.try_get("token_type")?,
            status: row.try_get("status")?,
            inactive_reason: row.try_get("inactive_reason")?,
            hint: row.try_get("hint")?,
            statements: row.try_get::<Json<Vec<Statement>>, _>("statements")?.0,
            expires_at: row.try_get("expires_at")?,
            allowed_ips: row.try_get("allowed_ips")?,
            last_used_at: row.try_get("last_used_at")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            creator_id: row.try_get::<Uuid, _>("creator_id")?.into(),
            creator_name: row.try_get("creator_name")?,
            creator_email: row.try_get("creator_email")?,
        })
    }
}

/// $1 is the organization and $2 the time.
const TOKENS: &str = "
    with tokens as (
        select t.id, t.name, t.name_key, t.description, t.token_type, t.hint, t.statements, t.expires_at, t.allowed_ips,
               t.created_at, t.updated_at, t.creator_id, t.created_position, u.last_used_at,
               case when t.expires_at <= $2 then 'Inactive' else t.status end as status,
               case when t.status = 'Active' and t.expires_at <= $2 then 'expired' else t.inactive_reason
               end as inactive_reason,
               coalesce(p.name, '') as creator_name, coalesce(p.email, '') as creator_email
        from access_tokens t
        left join profiles p on p.organization_id = t.organization_id and p.member_id = t.creator_id
        left join access_token_uses u on u.token_id = t.id
        where t.organization_id = $1 and t.removed_at is null
    )";

/// A page of an organization's tokens, newest first.
///
/// # Errors
/// Where the database is out of reach.
pub async fn list(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    now: DateTime<Utc>,
    filter: &Filter,
    skip: i64,
    limit: i64,
) -> Result<Page, sqlx::Error> {
    const MATCHING: &str = "
        where ($3::text is null or strpos(name_key, $3) > 0)
          and ($4::text is null or token_type = $4)
          and ($5::uuid is null or creator_id = $5)
          and ($6::text is null or status = $6)";
    let name = filter.name.as_deref().map(name_key);
    let creator_id = filter.creator_id.map(MemberId::as_uuid);
    let total = sqlx::query_scalar(&format!("{TOKENS} select count(*) from tokens {MATCHING}"))
        .bind(organization_id.as_uuid())
        .bind(now)
        .bind(&name)
        .bind(&filter.token_type)
        .bind(creator_id)
        .bind(&filter.status)
        .fetch_one(&mut *connection)
        .await?;
    let items = sqlx::query_as(&format!(
        "{TOKENS} select * from tokens {MATCHING} order by created_position desc offset $7 limit $8"
    ))
    .bind(organization_id.as_uuid())
    .bind(now)
    .bind(&name)
    .bind(&filter.token_type)
    .bind(creator_id)
    .bind(&filter.status)
    .bind(skip)
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    Ok(Page { total, items })
}

/// One token of an organization.
///
/// # Errors
/// Where the database is out of reach.
pub async fn find(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    now: DateTime<Utc>,
    token_id: TokenId,
) -> Result<Option<AccessTokenRow>, sqlx::Error> {
    sqlx::query_as(&format!("{TOKENS} select * from tokens where id = $3"))
        .bind(organization_id.as_uuid())
        .bind(now)
        .bind(token_id.as_uuid())
        .fetch_optional(connection)
        .await
}

/// Does a token of the organization have this name?
///
/// # Errors
/// Where the database is out of reach.
pub async fn is_name_used(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    name: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from access_token_names where organization_id = $1 and name_key = $2)",
    )
    .bind(organization_id.as_uuid())
    .bind(name_key(name.trim()))
    .fetch_one(connection)
    .await
}
