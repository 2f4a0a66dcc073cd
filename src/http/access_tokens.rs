//! The management API of tokens, in FeatBit's wire format. Each handler takes the caller, parses, executes or queries, and
//! answers.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::access_token::management::{may_ask_for_names, may_list};
use domain::ids::{MemberId, TokenId};
use domain::policy::Statement;
use projections::access_tokens::{self as tokens, AccessTokenRow, Filter};
use serde::Serialize;

use super::body::Fields;
use super::caller::KnownCaller;
use super::envelope::{done, done_true, success};
use super::problem::Problem;
use super::token_fields::{Limits, new_token, update as update_of};
use super::{Service, seen_by};
use crate::commands::{CommandError, Done};

/// The most items of a page.
const MAX_PAGE: i64 = 100;
/// How long a command's answer waits for this node's own index to hold it.
const INDEX_PATIENCE: Duration = Duration::from_secs(5);

/// A token as the API shows it, fields in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenBody {
    id: TokenId,
    name: String,
    description: Option<String>,
    #[serde(rename = "type")]
    token_type: String,
    status: String,
    /// Masked as FeatBit masks it; in the answer to POST, this once, the secret itself.
    token: String,
    permissions: Vec<Statement>,
    expires_at: Option<DateTime<Utc>>,
    allowed_ips: Vec<String>,
    last_used_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    inactive_reason: Option<String>,
    creator: CreatorBody,
}

#[derive(Serialize)]
struct CreatorBody {
    id: MemberId,
    name: String,
    email: String,
}

impl From<AccessTokenRow> for TokenBody {
    fn from(row: AccessTokenRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            description: row.description,
            token_type: row.token_type,
            status: row.status,
            token: row.hint,
            permissions: row.statements,
            expires_at: row.expires_at,
            allowed_ips: row.allowed_ips,
            last_used_at: None,
            created_at: row.created_at,
            updated_at: row.updated_at,
            inactive_reason: row.inactive_reason,
            creator: CreatorBody {
                id: row.creator_id,
                name: row.creator_name,
                email: row.creator_email,
            },
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PageBody {
    total_count: i64,
    items: Vec<TokenBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IssuedBody {
    #[serde(flatten)]
    token: TokenBody,
    organization_id: domain::ids::OrganizationId,
    creator_id: MemberId,
}

/// `GET /access-tokens`
pub(super) async fn list(
    State(service): State<Service>,
    known: KnownCaller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    known.must(may_list)?;
    let query = ListQuery::parse(query.as_deref().unwrap_or_default())?;
    seen_by(State(service.clone()), headers).await?;
    let mut connection = service.pool.acquire().await?;
    let (organization_id, now) = (known.caller.organization_id, service.clock.now());
    let skip = query.page_index.saturating_mul(query.page_size);
    let page = tokens::list(
        &mut connection,
        organization_id,
        now,
        &query.filter,
        skip,
        query.page_size,
    )
    .await?;
    let items = page.items.into_iter().map(TokenBody::from).collect();
    Ok(success(PageBody {
        total_count: page.total,
        items,
    }))
}

/// `GET /access-tokens/is-name-used`
pub(super) async fn is_name_used(
    State(service): State<Service>,
    known: KnownCaller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    known.must(may_ask_for_names)?;
    let name = parameters(query.as_deref().unwrap_or_default())
        .find_map(|(key, value)| (key == "name").then_some(value))
        .filter(|name| !name.trim().is_empty())
        .ok_or(Problem::Invalid(vec!["name_is_required"]))?;
    seen_by(State(service.clone()), headers).await?;
    let mut connection = service.pool.acquire().await?;
    Ok(success(
        tokens::is_name_used(&mut connection, known.caller.organization_id, &name).await?,
    ))
}

/// `GET /access-tokens/{id}`
pub(super) async fn find(
    State(service): State<Service>,
    known: KnownCaller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    known.must(may_list)?;
    let token_id = token_id(&id)?;
    seen_by(State(service.clone()), headers).await?;
    Ok(success(load(&service, &known, token_id).await?))
}

/// `POST /access-tokens`
pub(super) async fn create(
    State(service): State<Service>,
    known: KnownCaller,
    fields: Fields,
) -> Result<Response, Problem> {
    let new = new_token(&fields, limits(&service))?;
    let issued = service.commands.create_token(&known.caller, new.clone()).await?;
    // From what was asked, not from the read model: the secret must be answered even if that lags.
    let created_at = recorded_at(&service, issued.position).await;
    let profile = profile(&service, &known).await;
    let token = TokenBody {
        id: issued.value.token_id,
        name: new.name.as_str().to_owned(),
        description: new.description,
        token_type: new.token_type.as_str().to_owned(),
        status: "Active".to_owned(),
        token: issued.value.secret.reveal().to_owned(),
        permissions: new.statements,
        expires_at: new.expires_at,
        allowed_ips: new.allowed_ips.iter().map(ToString::to_string).collect(),
        last_used_at: None,
        created_at,
        updated_at: created_at,
        inactive_reason: None,
        creator: profile,
    };
    settle(&service, issued.position).await;
    let body = IssuedBody {
        token,
        organization_id: known.caller.organization_id,
        creator_id: known.caller.member_id,
    };
    let mut response = done(issued.position, body);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, axum::http::HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `PUT /access-tokens/{id}`
pub(super) async fn update(
    State(service): State<Service>,
    known: KnownCaller,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Response, Problem> {
    let token_id = token_id(&id)?;
    let update = update_of(&fields, limits(&service))?;
    let done_at = service
        .commands
        .update_token(&known.caller, token_id, update)
        .await?;
    settle(&service, done_at.position).await;
    if !service
        .vitals
        .read_models_reach(done_at.position, INDEX_PATIENCE)
        .await
    {
        return Err(Problem::Unavailable);
    }
    Ok(done(done_at.position, load(&service, &known, token_id).await?))
}

/// `PUT /access-tokens/{id}/toggle`
pub(super) async fn toggle(
    State(service): State<Service>,
    known: KnownCaller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let turned = service.commands.toggle_token(&known.caller, token_id(&id)?).await;
    answer(&service, turned).await
}

/// `PUT /access-tokens/{id}/activate`
pub(super) async fn activate(
    State(service): State<Service>,
    known: KnownCaller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let activated = service
        .commands
        .activate_token(&known.caller, token_id(&id)?)
        .await;
    answer(&service, activated).await
}

/// `PUT /access-tokens/{id}/deactivate`
pub(super) async fn deactivate(
    State(service): State<Service>,
    known: KnownCaller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let deactivated = service
        .commands
        .deactivate_token(&known.caller, token_id(&id)?)
        .await;
    answer(&service, deactivated).await
}

/// `DELETE /access-tokens/{id}`
pub(super) async fn remove(
    State(service): State<Service>,
    known: KnownCaller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let removed = service.commands.remove_token(&known.caller, token_id(&id)?).await;
    answer(&service, removed).await
}

async fn answer(service: &Service, done_at: Result<Done<()>, CommandError>) -> Result<Response, Problem> {
    let done_at = done_at?;
    settle(service, done_at.position).await;
    Ok(done_true(&done_at))
}

/// Waits until this node's own decisions hold what a command changed. Where they don't in time, the node is behind its
/// own log and denies everything anyway.
async fn settle(service: &Service, position: i64) {
    if !service.index.reached(position, INDEX_PATIENCE).await {
        tracing::error!(position, "the index has not reached a command's position in time");
    }
}

async fn load(service: &Service, known: &KnownCaller, token_id: TokenId) -> Result<TokenBody, Problem> {
    let mut connection = service.pool.acquire().await?;
    let found = tokens::find(
        &mut connection,
        known.caller.organization_id,
        service.clock.now(),
        token_id,
    )
    .await?;
    found.map(TokenBody::from).ok_or(Problem::NotFound)
}

/// When the log took an event; about now where it can't be asked.
async fn recorded_at(service: &Service, position: i64) -> DateTime<Utc> {
    sqlx::query_scalar("select recorded_at from events where position = $1")
        .bind(position)
        .fetch_one(&service.pool)
        .await
        .unwrap_or_else(|_| service.clock.now())
}

/// The caller's name and address; empty where they were erased or can't be had just now.
async fn profile(service: &Service, known: &KnownCaller) -> CreatorBody {
    let found: Result<Option<(String, String)>, sqlx::Error> =
        sqlx::query_as("select name, email from profiles where organization_id = $1 and member_id = $2")
            .bind(known.caller.organization_id.as_uuid())
            .bind(known.caller.member_id.as_uuid())
            .fetch_optional(&service.pool)
            .await;
    let (name, email) = found.ok().flatten().unwrap_or_default();
    CreatorBody {
        id: known.caller.member_id,
        name,
        email,
    }
}

fn limits(service: &Service) -> Limits {
    Limits {
        now: service.clock.now(),
        max_expiry_days: service.max_expiry_days,
    }
}

/// The id in a path: whatever is no uuid names no token.
pub(super) fn token_id(text: &str) -> Result<TokenId, Problem> {
    text.parse().map_err(|_| Problem::NotFound)
}

struct ListQuery {
    filter: Filter,
    page_index: i64,
    page_size: i64,
}

impl ListQuery {
    /// An empty value is no filter.
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut parsed = Self {
            filter: Filter::default(),
            page_index: 0,
            page_size: 10,
        };
        for (key, value) in parameters(query).filter(|(_, value)| !value.is_empty()) {
            match key.as_str() {
                "name" => parsed.filter.name = Some(value),
                "type" => parsed.filter.token_type = Some(value),
                "status" => parsed.filter.status = Some(value),
                "creatorid" => {
                    let id = value
                        .parse()
                        .map_err(|_| Problem::Invalid(vec!["creator_id_is_invalid"]))?;
                    parsed.filter.creator_id = Some(id);
                }
                "pageindex" => parsed.page_index = page_index(&value)?,
                "pagesize" => parsed.page_size = page_size(&value)?,
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// Keys in lower case; FeatBit reads them without regard to case.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(query.as_bytes())
        .map(|(key, value)| (key.to_ascii_lowercase(), value.replace('\0', "\u{fffd}")))
}

/// From 0.
pub(super) fn page_index(value: &str) -> Result<i64, Problem> {
    let index = value
        .parse::<i64>()
        .ok()
        .filter(|index| (0..=i64::from(i32::MAX)).contains(index));
    index.ok_or(Problem::Invalid(vec!["page_index_is_invalid"]))
}

/// 1 to [`MAX_PAGE`].
pub(super) fn page_size(value: &str) -> Result<i64, Problem> {
    let size = value
        .parse::<i64>()
        .ok()
        .filter(|size| (1..=MAX_PAGE).contains(size));
    size.ok_or(Problem::Invalid(vec!["page_size_is_invalid"]))
}
