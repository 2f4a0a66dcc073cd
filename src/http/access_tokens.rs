//! The management API of tokens, in FeatBit's wire format. Each handler takes the caller, parses, executes or queries, and
//! answers.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
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
use super::token_fields::{Limits, Wrong, new_token, update as update_of};
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
    seen_by(&service, &headers).await?;
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
    let name = parameter(query.as_deref().unwrap_or_default(), "name")
        .filter(|name| !name.trim().is_empty())
        .ok_or(Problem::Invalid(vec!["name_is_required"]))?;
    seen_by(&service, &headers).await?;
    let mut connection = service.pool.acquire().await?;
    Ok(success(
        tokens::is_name_used(&mut connection, known.caller.organization_id, &name).await?,
    ))
}

/// `GET /access-tokens/{id}`
pub(super) async fn find(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    known.must(may_list)?;
    let token_id = token_id(id)?;
    seen_by(&service, &headers).await?;
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
    id: IdInPath,
    fields: Fields,
) -> Result<Response, Problem> {
    let token_id = token_id(id)?;
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
    id: IdInPath,
) -> Result<Response, Problem> {
    let turned = service.commands.toggle_token(&known.caller, token_id(id)?).await;
    answer(&service, turned).await
}

/// `PUT /access-tokens/{id}/activate`
pub(super) async fn activate(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
) -> Result<Response, Problem> {
    let activated = service
        .commands
        .activate_token(&known.caller, token_id(id)?)
        .await;
    answer(&service, activated).await
}

/// `PUT /access-tokens/{id}/deactivate`
pub(super) async fn deactivate(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
) -> Result<Response, Problem> {
    let deactivated = service
        .commands
        .deactivate_token(&known.caller, token_id(id)?)
        .await;
    answer(&service, deactivated).await
}

/// `DELETE /access-tokens/{id}`
pub(super) async fn remove(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
) -> Result<Response, Problem> {
    let removed = service.commands.remove_token(&known.caller, token_id(id)?).await;
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

/// The id in a path, or why there is none.
pub(super) type IdInPath = Result<Path<TokenId>, PathRejection>;

/// Whatever is no uuid, or no text at all, names no token.
pub(super) fn token_id(id: IdInPath) -> Result<TokenId, Problem> {
    id.map(|Path(token_id)| token_id).map_err(|_| Problem::NotFound)
}

struct ListQuery {
    filter: Filter,
    page_index: i64,
    page_size: i64,
}

impl ListQuery {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut wrong = Wrong::default();
        let creator_id =
            parameter(query, "creatorid").map(|id| id.parse().map_err(|_| "creator_id_is_invalid"));
        let filter = Filter {
            name: parameter(query, "name"),
            token_type: parameter(query, "type"),
            creator_id: creator_id.and_then(|parsed| wrong.note(parsed)),
            status: parameter(query, "status"),
        };
        match (paging(query, &mut wrong), wrong.is_empty()) {
            (Some((page_index, page_size)), true) => Ok(Self {
                filter,
                page_index,
                page_size,
            }),
            _ => Err(wrong.into()),
        }
    }
}

/// The index of a page, from 0 (absent: 0), and its size, 1 to [`MAX_PAGE`] (absent: 10).
pub(super) fn paging(query: &str, wrong: &mut Wrong) -> Option<(i64, i64)> {
    let bounded = |key, default, range: RangeInclusive<i64>| match parameter(query, key) {
        None => Some(default),
        Some(value) => value.parse::<i64>().ok().filter(|number| range.contains(number)),
    };
    let index = bounded("pageindex", 0, 0..=i64::from(i32::MAX)).ok_or("page_index_is_invalid");
    let size = bounded("pagesize", 10, 1..=MAX_PAGE).ok_or("page_size_is_invalid");
    wrong.note(index).zip(wrong.note(size))
}

/// The last value of this name (lower case; FeatBit reads them without regard to case). An empty one is none.
fn parameter(query: &str, name: &str) -> Option<String> {
    parameters(query)
        .filter(|(key, value)| key == name && !value.is_empty())
        .last()
        .map(|(_, value)| value)
}

/// Keys in lower case. PostgreSQL holds no NUL character, so no name has one.
fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(query.as_bytes())
        .map(|(key, value)| (key.to_ascii_lowercase(), value.replace('\0', "\u{fffd}")))
}
