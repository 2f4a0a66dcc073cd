//! A token's history: its own events and those of its creator's membership that touched it, in the order of the log,
//! oldest first. Read from the log itself; it stays when the token is removed.

use std::collections::BTreeMap;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use domain::access_token::management::may_list;
use domain::access_token::{AccessTokenEvent, Created, DeactivationReason, TokenType};
use domain::member::{Member, MemberEvent};
use projections::log::{Fact, ReadLogError, RecordedEvent, read_streams};
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
    total_count: usize,
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

/// Events of one token's history that are looked at.
const MAX_EVENTS: i64 = 10_000;

/// `GET /access-tokens/{id}/history`
#[utoipa::path(
    get, path = "/access-tokens/{id}/history", tag = ACCESS_TOKENS, operation_id = "getAccessTokenHistory",
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
    let own = read_streams(
        &mut connection,
        &[("access_token", token_id.to_string())],
        0,
        MAX_EVENTS,
    )
    .await?;
    let created = created(&own).filter(|created| created.organization_id == known.caller.organization_id);
    let created = created.ok_or(Problem::NotFound)?.clone();
    let mut events = own;
    if created.token_type == TokenType::Personal {
        let stream_id = Member::stream_id(created.organization_id, created.creator_id);
        let since = events.first().map_or(0, |event| event.position);
        let membership = read_streams(&mut connection, &[("member", stream_id)], 0, MAX_EVENTS).await?;
        events.extend(membership.into_iter().filter(|event| event.position > since));
        events.sort_by_key(|event| event.position);
    }
    let removals = removals(&events);
    let total_count = events.len();
    let skip = usize::try_from(index.saturating_mul(size)).unwrap_or(usize::MAX);
    let take = usize::try_from(size).unwrap_or(0);
    let items = events
        .into_iter()
        .skip(skip)
        .take(take)
        .map(|event| EntryBody::new(&event, &removals))
        .collect();
    Ok(success(HistoryBody { total_count, items }))
}

fn created(events: &[RecordedEvent]) -> Option<&Created> {
    events.iter().find_map(|event| match &event.fact {
        Fact::AccessToken(AccessTokenEvent::Created(created)) => Some(created),
        _ => None,
    })
}

impl EntryBody {
    fn new(event: &RecordedEvent, removals: &BTreeMap<u32, i64>) -> Self {
        let creator_left_at = match &event.fact {
            Fact::AccessToken(AccessTokenEvent::Deactivated {
                reason: DeactivationReason::CreatorRemoved { membership_number },
                ..
            }) => removals.get(membership_number).copied(),
            _ => None,
        };
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

/// Where each membership of the creator has ended, by its number.
fn removals(events: &[RecordedEvent]) -> BTreeMap<u32, i64> {
    let removal = |event: &RecordedEvent| match &event.fact {
        Fact::Member(MemberEvent::Removed {
            membership_number, ..
        }) => Some((*membership_number, event.position)),
        _ => None,
    };
    events.iter().filter_map(removal).collect()
}

impl From<ReadLogError> for Problem {
    fn from(error: ReadLogError) -> Self {
        match error {
            ReadLogError::Database(error) => error.into(),
            ReadLogError::Gap { .. } | ReadLogError::Unreadable { .. } => {
                tracing::error!(%error, "the log can't be read");
                Self::Internal
            }
        }
    }
}
