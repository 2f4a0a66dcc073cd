//! The organization's audit log: every event of it, newest first, for those who manage IAM. Read from the log itself, so
//! there is nothing to wait for but a position the caller names.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::access_token::management::may_audit;
use projections::audit_log::{self, AuditedEvent, Filter};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Service;
use super::caller::KnownCaller;
use super::envelope::success;
use super::event_body::EventBody;
use super::openapi::schemas::{self, Success};
use super::openapi::{AUDIT, parameters, problems};
use super::problem::Problem;
use super::query::{MAX_PAGE, parameter};
use super::token_fields::Wrong;
use super::words::Story;

/// The last millisecond that RFC 3339 can write, the end of the year 9999.
pub(super) const MAX_MILLISECONDS: i64 = 253_402_300_799_999;
const DEFAULT_PAGE: i64 = 10;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditLog)]
struct PageBody {
    /// How many events match the filters, whatever `after` says.
    #[schema(minimum = 0)]
    total_count: i64,
    items: Vec<EntryBody>,
}

/// Fields in this order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditedEvent)]
struct EntryBody {
    /// Its place in the log.
    #[schema(minimum = 1)]
    position: i64,
    /// The first half of its hash in the chain.
    id: Uuid,
    /// To what it happened.
    #[schema(schema_with = schemas::ref_type)]
    ref_type: String,
    /// To which token, member or organization.
    #[schema(value_type = Uuid)]
    ref_id: String,
    #[serde(flatten)]
    event: EventBody,
}

impl From<AuditedEvent> for EntryBody {
    fn from(audited: AuditedEvent) -> Self {
        Self {
            position: audited.event.position,
            id: audited.id,
            ref_type: audited.ref_type,
            ref_id: audited.ref_id,
            event: EventBody::new(&audited.event, Story::default()),
        }
    }
}

/// `GET /audit-logs`
#[utoipa::path(
    get, path = "/api/v1/audit-logs", tag = AUDIT, operation_id = "listAuditLogs", security(("jwt" = [])),
    summary = "What happened in the organization, newest first",
    description = "Every event of its tokens, its members and itself. Needs `CanManageIAM` on `iam/*`. All filters given must \
                   hold. The next page is what stands below the last position of this one, so pages don't shift while \
                   events arrive.",
    params(parameters::OfMember, parameters::Audited),
    responses(
        (status = 200, description = "The page. One past the end is empty.", body = Success<PageBody>),
        problems::AuditLogs,
    ),
)]
pub(super) async fn list(
    State(service): State<Service>,
    known: KnownCaller,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    known.must(may_audit)?;
    let asked = Asked::parse(query.as_deref().unwrap_or_default())?;
    let mut connection = service.pool.acquire().await?;
    let page = audit_log::read(
        &mut connection,
        known.caller.organization_id,
        &asked.filter,
        asked.below,
        asked.page_size,
    )
    .await?;
    Ok(success(PageBody {
        total_count: page.total,
        items: page.items.into_iter().map(EntryBody::from).collect(),
    }))
}

struct Asked {
    filter: Filter,
    below: Option<i64>,
    page_size: i64,
}

impl Asked {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut wrong = Wrong::default();
        let actor_id = wrong.note(optional(query, "actorid", "actor_id_is_invalid", |text| {
            text.parse().ok()
        }));
        let ref_id = wrong.note(optional(query, "refid", "ref_id_is_invalid", |text| {
            text.parse().ok()
        }));
        let from = wrong.note(optional(query, "from", "from_is_invalid", time));
        let to = wrong.note(optional(query, "to", "to_is_invalid", time));
        let below = wrong.note(optional(query, "after", "after_is_invalid", |text| {
            number(text, i64::MAX)
        }));
        let page_size = wrong.note(optional(query, "pagesize", "page_size_is_invalid", |text| {
            number(text, MAX_PAGE).filter(|size| *size > 0)
        }));
        match (actor_id, ref_id, from, to, below, page_size) {
            (Some(actor_id), Some(ref_id), Some(from), Some(to), Some(below), Some(page_size)) => Ok(Self {
                filter: Filter {
                    text: parameter(query, "query"),
                    actor_id,
                    ref_type: parameter(query, "type"),
                    ref_id,
                    from,
                    to,
                },
                below,
                page_size: page_size.unwrap_or(DEFAULT_PAGE),
            }),
            _ => Err(wrong.into()),
        }
    }
}

/// A parameter that may be absent, or empty, but not wrong.
fn optional<T>(
    query: &str,
    name: &str,
    code: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, &'static str> {
    parameter(query, name)
        .map(|text| parse(&text).ok_or(code))
        .transpose()
}

/// 0 to `max`, in digits.
fn number(text: &str, max: i64) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()).then_some(text)?;
    digits.parse().ok().filter(|number| *number <= max)
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(number(text, MAX_MILLISECONDS)?)
}
