//! Membership messages that could not be used, for those who manage IAM: what they are, and releasing them. A message that
//! names no member, or two of different organizations, is released on the command line.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::access_token::management::may_audit;
use projections::parked::{self, ParkedMessage};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Service;
use super::access_tokens::settle;
use super::caller::KnownCaller;
use super::confirming::{Wait, confirmed};
use super::envelope::{done, done_true, success};
use super::membership_events::TakenBody;
use super::openapi::schemas::{Done, Success};
use super::openapi::{MEMBERSHIP, parameters, problems};
use super::problem::Problem;
use super::query::paging;
use super::token_fields::Wrong;
use crate::commands::Actor;
use crate::intake::member_events::understand;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ParkedMessages)]
struct PageBody {
    /// How many the organization has.
    #[schema(minimum = 0)]
    total_count: i64,
    items: Vec<MessageBody>,
}

/// Fields in this order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ParkedMessage)]
struct MessageBody {
    id: Uuid,
    /// Who is denied for it.
    member_id: Uuid,
    /// Its CloudEvents type, if it could be read.
    #[schema(required = true)]
    r#type: Option<String>,
    /// Why it is parked, a code: what is wrong with it, or `behind_parked`, it would overtake an earlier one.
    reason: String,
    received_at: DateTime<Utc>,
    /// Of the topic; null where it came over HTTP.
    #[schema(required = true)]
    partition: Option<i32>,
    /// In its partition; null where it came over HTTP.
    #[schema(required = true)]
    offset: Option<i64>,
}

impl From<ParkedMessage> for MessageBody {
    fn from(message: ParkedMessage) -> Self {
        Self {
            id: message.id,
            member_id: message.member_id.unwrap_or_default(),
            r#type: message.event_type,
            reason: message.reason,
            received_at: message.received_at,
            partition: message.partition,
            offset: message.message_offset,
        }
    }
}

/// `GET /membership/parked`
#[utoipa::path(
    get, path = "/api/v1/membership/parked", tag = MEMBERSHIP, operation_id = "listParkedMessages", security(("jwt" = [])),
    summary = "The membership messages that could not be used, oldest first",
    description = "Whoever they are about is denied until they are released. Needs `CanManageIAM` on `iam/*`.",
    params(parameters::OfMember, parameters::Paging),
    responses(
        (status = 200, description = "The page. One past the end is empty.", body = Success<PageBody>),
        problems::ParkedMessages,
    ),
)]
pub(super) async fn list(
    State(service): State<Service>,
    known: KnownCaller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    known.must(may_audit)?;
    let mut wrong = Wrong::default();
    let Some((index, size)) = paging(query.as_deref().unwrap_or_default(), &mut wrong) else {
        return Err(wrong.into());
    };
    let mut connection = service.pool.acquire().await?;
    let organization_id = known.caller.organization_id;
    let total_count = parked::count_of(&mut connection, organization_id).await?;
    let skip = index.saturating_mul(size);
    let items = parked::of_organization(&mut connection, organization_id, skip, size).await?;
    Ok(success(PageBody {
        total_count,
        items: items.into_iter().map(MessageBody::from).collect(),
    }))
}

/// `POST /membership/parked/{id}/retry`
#[utoipa::path(
    post, path = "/api/v1/membership/parked/{id}/retry", tag = MEMBERSHIP, operation_id = "retryParkedMessage",
    security(("jwt" = [])),
    summary = "Take what is parked of a member after all",
    description = "Everything parked of whoever the message is about, in the order in which it came, as far as it can be \
                   taken now: the first that can't be stays, with its reason, and what came after it. A member of whom \
                   nothing stays is released. Needs `CanManageIAM` on `iam/*`. A body is not looked at.",
    params(parameters::ParkedInPath, parameters::OfMember, parameters::Wait),
    responses(
        (status = 200, description = "What became of them; `parked`: how many stay.", body = Success<TakenBody>, headers(
            ("X-Log-Position" = i64, description = "The position of the last event of it, or one after it."),
            ("X-Confirmed-Nodes" = i64, description = "How many nodes said that they know, where the answer waited for them."),
            ("X-Confirmed-In-Ms" = i64, description = "How long that took, in milliseconds."),
        )),
        problems::RetryParked,
    ),
)]
pub(super) async fn retry(
    State(service): State<Service>,
    known: KnownCaller,
    Path(id): Path<String>,
    wait: Wait,
) -> Result<Response, Problem> {
    let by = Actor::Member(known.caller);
    let retried = service
        .commands
        .retry_parked(&by, parked_id(&id)?, understand)
        .await?;
    let confirmation = service.confirm(&retried, wait).await?;
    let answer = done(retried.position, TakenBody::from(retried.value));
    Ok(confirmed(answer, confirmation))
}

/// `POST /membership/parked/{id}/drop`
#[utoipa::path(
    post, path = "/api/v1/membership/parked/{id}/drop", tag = MEMBERSHIP, operation_id = "dropParkedMessage",
    security(("jwt" = [])),
    summary = "Give a parked message up",
    description = "It will never be taken. A member of whom nothing else is parked is released; or else retry what is. Needs \
                   `CanManageIAM` on `iam/*`. A body is not looked at.",
    params(parameters::ParkedInPath, parameters::OfMember),
    responses(
        (status = 200, description = "It is gone.", body = Done, headers(
            ("X-Log-Position" = i64, description = "The position of what was done."),
        )),
        problems::DropParked,
    ),
)]
pub(super) async fn drop(
    State(service): State<Service>,
    known: KnownCaller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let by = Actor::Member(known.caller);
    let dropped = service
        .commands
        .drop_parked(&by, parked_id(&id)?, understand)
        .await?;
    settle(&service, dropped.position).await;
    Ok(done_true(&dropped))
}

/// What is no uuid names no message.
fn parked_id(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|_| Problem::NotFound)
}
