//! The management API of tokens that are there, in FeatBit's wire format; what issues a secret is in `issuing`. Each
//! handler takes the caller, parses, executes or queries, and answers.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use domain::access_token::management::{may_ask_for_names, may_list};
use domain::ids::TokenId;
use projections::access_tokens::{self as tokens, Filter};
use serde::Serialize;
use utoipa::ToSchema;

use super::body::Fields;
use super::caller::KnownCaller;
use super::confirming::{Wait, confirmed};
use super::envelope::{done, done_true, success};
use super::openapi::schemas::{self, Success};
use super::openapi::{ACCESS_TOKENS, parameters, problems, token_bodies};
use super::problem::Problem;
use super::query::{paging, parameter};
use super::token_body::TokenBody;
use super::token_fields::{Limits, Wrong, update as update_of};
use super::{Service, seen_by};
use crate::commands::{CommandError, Done};

/// How long a command's answer waits for this node's own index to hold it.
const INDEX_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TokenPage)]
struct PageBody {
    #[schema(minimum = 0)]
    total_count: i64,
    items: Vec<TokenBody>,
}

/// `GET /access-tokens`
#[utoipa::path(
    get, path = "/api/v1/access-tokens", tag = ACCESS_TOKENS, operation_id = "listAccessTokens", security(("jwt" = [])),
    summary = "A page of the organization's tokens, newest first",
    description = "Needs `ListAccessTokens`. Removed tokens are not shown. All filters given must hold.",
    params(parameters::OfMember, parameters::Filter, parameters::Paging),
    responses(
        (status = 200, description = "The page. One past the end is empty.", body = Success<PageBody>),
        problems::List,
    ),
)]
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
#[utoipa::path(
    get, path = "/api/v1/access-tokens/is-name-used", tag = ACCESS_TOKENS, operation_id = "isAccessTokenNameUsed",
    security(("jwt" = [])),
    summary = "Whether a token of the organization has this name",
    description = "Names are compared trimmed and without regard to case. Needs any of `ListAccessTokens`, \
                   `ManagePersonalAccessTokens`, `ManageServiceAccessTokens`.",
    params(parameters::OfMember, parameters::AskedName),
    responses(
        (status = 200, description = "True: it is used.", body = Success<bool>),
        problems::IsNameUsed,
    ),
)]
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
#[utoipa::path(
    get, path = "/api/v1/access-tokens/{id}", tag = ACCESS_TOKENS, operation_id = "getAccessToken", security(("jwt" = [])),
    summary = "One token",
    description = "Needs `ListAccessTokens`.",
    params(parameters::TokenInPath, parameters::OfMember),
    responses((status = 200, description = "The token.", body = Success<TokenBody>), problems::Find),
)]
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

/// `PUT /access-tokens/{id}`
#[utoipa::path(
    put, path = "/api/v1/access-tokens/{id}", tag = ACCESS_TOKENS, operation_id = "updateAccessToken", security(("jwt" = [])),
    summary = "Change a token's name, description, expiry or addresses",
    description = "Somebody else's personal token can't be changed. Whoever lets a service token be used longer or from \
                   more addresses must cover its statements. A token that has expired stays Inactive with a later expiry, \
                   until it is activated. An expiry or addresses are answered when every node knows them, with \
                   `X-Confirmed-Nodes` and `X-Confirmed-In-Ms`.",
    params(parameters::TokenInPath, parameters::OfMember, parameters::Wait),
    request_body = token_bodies::TokenUpdate,
    responses(
        (status = 200, description = "The token as it is now.", body = Success<TokenBody>, headers(
            ("X-Log-Position" = i64, description = "The position of what was done; of the token's last event where nothing had to change."),
        )),
        problems::Update,
    ),
)]
pub(super) async fn update(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
    wait: Wait,
    fields: Fields,
) -> Result<Response, Problem> {
    let token_id = token_id(id)?;
    let update = update_of(&fields, limits(&service))?;
    let done_at = service
        .commands
        .update_token(&known.caller, token_id, update)
        .await?;
    let confirmation = service.confirm(&done_at, wait).await?;
    in_read_models(&service, done_at.position).await?;
    let token = load(&service, &known, token_id).await?;
    Ok(confirmed(done(done_at.position, token), confirmation))
}

/// `PUT /access-tokens/{id}/toggle`
#[utoipa::path(
    put, path = "/api/v1/access-tokens/{id}/toggle", tag = ACCESS_TOKENS, operation_id = "toggleAccessToken", security(("jwt" = [])),
    summary = "Stop a token that can be used, activate one that can't",
    description = "What it turns is the effective status: a personal token whose creator has left is Inactive. Who may, and how it is answered: see activate and deactivate. A body is not looked at.",
    params(parameters::TokenInPath, parameters::OfMember, parameters::Wait),
    responses(
        (status = 200, description = "Done.", body = schemas::Done, headers(
            ("X-Log-Position" = i64, description = "The position of what was done; of the token's last event where nothing had to change."),
        )),
        problems::Toggle,
    ),
)]
pub(super) async fn toggle(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
    wait: Wait,
) -> Result<Response, Problem> {
    let turned = service.commands.toggle_token(&known.caller, token_id(id)?).await;
    answer(&service, turned, wait).await
}

/// `PUT /access-tokens/{id}/activate`
#[utoipa::path(
    put, path = "/api/v1/access-tokens/{id}/activate", tag = ACCESS_TOKENS, operation_id = "activateAccessToken", security(("jwt" = [])),
    summary = "Let a token be used again",
    description = "Its creator only, for a personal token; whoever covers its statements, for a service token. One that is Active already is left as it is. A body is not looked at.",
    params(parameters::TokenInPath, parameters::OfMember),
    responses(
        (status = 200, description = "Done.", body = schemas::Done, headers(("X-Log-Position" = i64, description = "The position of what was done; of the token's last event where nothing had to change."))),
        problems::Activate,
    ),
)]
pub(super) async fn activate(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
) -> Result<Response, Problem> {
    let activated = service
        .commands
        .activate_token(&known.caller, token_id(id)?)
        .await;
    answer(&service, activated, Wait::None).await
}

/// `PUT /access-tokens/{id}/deactivate`
#[utoipa::path(
    put, path = "/api/v1/access-tokens/{id}/deactivate", tag = ACCESS_TOKENS, operation_id = "deactivateAccessToken", security(("jwt" = [])),
    summary = "Stop a token until it is activated",
    description = "Somebody else's personal token: only with `CanManageIAM`. One that is Inactive already is left as it is. Answered when no node accepts it any more. A body is not looked at.",
    params(parameters::TokenInPath, parameters::OfMember, parameters::Wait),
    responses(
        (status = 200, description = "Done.", body = schemas::Done, headers(
            ("X-Log-Position" = i64, description = "The position of what was done; of the token's last event where nothing had to change."),
            ("X-Confirmed-Nodes" = i64, description = "How many nodes said that they know, where the answer waited for them."),
            ("X-Confirmed-In-Ms" = i64, description = "How long that took, in milliseconds."),
        )),
        problems::Deactivate,
    ),
)]
pub(super) async fn deactivate(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
    wait: Wait,
) -> Result<Response, Problem> {
    let deactivated = service
        .commands
        .deactivate_token(&known.caller, token_id(id)?)
        .await;
    answer(&service, deactivated, wait).await
}

/// `DELETE /access-tokens/{id}`
#[utoipa::path(
    delete, path = "/api/v1/access-tokens/{id}", tag = ACCESS_TOKENS, operation_id = "removeAccessToken", security(("jwt" = [])),
    summary = "Stop a token for ever",
    description = "It can't be undone; the name is free again. One that was removed already, or never was, is removed as \
                   asked. Somebody else's personal token: only with `CanManageIAM`. Answered when no node accepts \
                   it any more.",
    params(parameters::TokenInPath, parameters::OfMember, parameters::Wait),
    responses(
        (status = 200, description = "Done.", body = schemas::Done, headers(
            ("X-Log-Position" = i64, description = "The position of what was done; of the token's last event where nothing had to change."),
            ("X-Confirmed-Nodes" = i64, description = "How many nodes said that they know, where the answer waited for them."),
            ("X-Confirmed-In-Ms" = i64, description = "How long that took, in milliseconds."),
        )),
        problems::Remove,
    ),
)]
pub(super) async fn remove(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
    wait: Wait,
) -> Result<Response, Problem> {
    let removed = service.commands.remove_token(&known.caller, token_id(id)?).await;
    answer(&service, removed, wait).await
}

async fn answer(
    service: &Service,
    done_at: Result<Done<()>, CommandError>,
    wait: Wait,
) -> Result<Response, Problem> {
    let done_at = done_at?;
    let confirmation = service.confirm(&done_at, wait).await?;
    Ok(confirmed(done_true(&done_at), confirmation))
}

/// Waits until this node's own decisions hold what a command changed. Where they don't in time, the node is behind its
/// own log and denies everything anyway.
pub(super) async fn settle(service: &Service, position: i64) {
    if !service.index.reached(position, INDEX_PATIENCE).await {
        tracing::error!(position, "the index has not reached a command's position in time");
    }
}

/// Waits until this node's read models hold what a command changed.
pub(super) async fn in_read_models(service: &Service, position: i64) -> Result<(), Problem> {
    let reached = service.vitals.read_models_reach(position, INDEX_PATIENCE).await;
    reached.then_some(()).ok_or(Problem::Unavailable)
}

pub(super) async fn load(
    service: &Service,
    known: &KnownCaller,
    token_id: TokenId,
) -> Result<TokenBody, Problem> {
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

pub(super) fn limits(service: &Service) -> Limits {
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
