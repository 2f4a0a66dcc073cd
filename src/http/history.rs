//! A token's history: its own events and those of its creator's membership that touched it, in the order of the log,
//! oldest first. Read from the log itself; it stays when the token is removed.

use std::collections::BTreeMap;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use domain::access_token::management::may_list;
use domain::access_token::{AccessTokenEvent, DeactivationReason, TokenType};
use domain::ids::OrganizationId;
use domain::member::Member;
use projections::history::History;
use projections::log::{Fact, ReadLogError, RecordedEvent, read_stream};
use serde::Serialize;
use utoipa::ToSchema;

use super::access_tokens::{IdInPath, token_id};
use super::caller::KnownCaller;
use super::envelope::success;
use super::event_body::EventBody;
use super::openapi::schemas::Success;
use super::openapi::{ACCESS_TOKENS, parameters, problems};
use super::problem::Problem;
use super::query::paging;
use super::token_fields::Wrong;
use super::words::Story;
use super::{Service, seen_by};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = History)]
struct HistoryBody {
    total_count: i64,
    items: Vec<EntryBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = HistoryEntry, example = json!({
    "position": 8, "event": "access_token.deactivated", "actor": "reactor", "time": "2026-11-23T21:54:46.077354Z",
    "data": {
        "tokenId": "01a20a66-b224-77bb-8502-b40040c2bccc", "organizationId": "0192f0c0-0000-7000-8000-000000000001",
        "reason": { "kind": "creator_removed", "membershipNumber": 1 },
    },
    "text": "deactivated: its creator left the organization (event 7)",
}))]
struct EntryBody {
    /// Its place in the log.
    #[schema(minimum = 1)]
    position: i64,
    #[serde(flatten)]
    event: EventBody,
}

/// `GET /access-tokens/{id}/history`
#[utoipa::path(
    get, path = "/api/v1/access-tokens/{id}/history", tag = ACCESS_TOKENS, operation_id = "getAccessTokenHistory",
    security(("jwt" = [])),
    summary = "What happened to a token, oldest first",
    description = "Its own events and, of a personal token, those of its creator's membership since; also when it was \
                   removed. Needs `ListAccessTokens`.",
    params(parameters::TokenInPath, parameters::OfMember, parameters::Paging),
    responses(
        (status = 200, description = "The page. One past the end is empty.", body = Success<HistoryBody>),
        problems::History,
    ),
)]
pub(super) async fn of_token(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    known.must(may_list)?;
    let token_id = token_id(id)?;
    let mut wrong = Wrong::default();
    let (index, size) = paging(query.as_deref().unwrap_or_default(), &mut wrong).ok_or(wrong)?;
    seen_by(&service, &headers).await?;
    let mut connection = service.pool.acquire().await?;
    let stream = token_id.to_string();
    let first = read_stream(&mut connection, ("access_token", &stream), 0, 1).await?;
    let history = first.first().and_then(|first| {
        let creator = created_in(first, known.caller.organization_id)?;
        Some(History {
            token_stream: stream,
            creator_stream: creator.map(|id| (id, first.position)),
        })
    });
    let history = history.ok_or(Problem::NotFound)?;
    let (events, total_count) = history
        .read(&mut connection, index.saturating_mul(size), size)
        .await?;
    let ended: Vec<u32> = events.iter().filter_map(ended_membership).collect();
    let removals = match ended.is_empty() {
        true => BTreeMap::new(),
        false => history.removals(&mut connection, &ended).await?,
    };
    let items = events
        .iter()
        .map(|event| EntryBody::new(event, &removals))
        .collect();
    Ok(success(HistoryBody { total_count, items }))
}

/// The stream of the creator where its membership counts, of a personal token; none where this is no token of the
/// organization.
fn created_in(first: &RecordedEvent, organization_id: OrganizationId) -> Option<Option<String>> {
    match &first.fact {
        Fact::AccessToken(AccessTokenEvent::Created(created))
            if created.organization_id == organization_id =>
        {
            let is_personal = created.token_type == TokenType::Personal;
            Some(is_personal.then(|| Member::stream_id(organization_id, created.creator_id)))
        }
        _ => None,
    }
}

/// The creator's membership whose end has stopped the token.
fn ended_membership(event: &RecordedEvent) -> Option<u32> {
    match &event.fact {
        Fact::AccessToken(AccessTokenEvent::Deactivated {
            reason: DeactivationReason::CreatorRemoved { membership_number },
            ..
        }) => Some(*membership_number),
        _ => None,
    }
}

impl EntryBody {
    fn new(event: &RecordedEvent, removals: &BTreeMap<u32, i64>) -> Self {
        let creator_left_at = ended_membership(event).and_then(|number| removals.get(&number).copied());
        let story = Story {
            is_of_token: true,
            creator_left_at,
        };
        Self {
            position: event.position,
            event: EventBody::new(event, story),
        }
    }
}

impl From<ReadLogError> for Problem {
    fn from(error: ReadLogError) -> Self {
        match error {
            ReadLogError::Database(error) => error.into(),
            ReadLogError::Gap { .. } | ReadLogError::Misfiled(_) | ReadLogError::Unreadable { .. } => {
                tracing::error!(%error, "the log can't be read");
                Self::Internal
            }
        }
    }
}
