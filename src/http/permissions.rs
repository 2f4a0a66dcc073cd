//! What a token could do at some time, and which events put it so: the auditor's question, answered from the log by the same
//! rules as a live decision. It stays when the token is removed.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use chrono::{DateTime, SubsecRound, Utc};
use domain::access_token::management::may_list;
use domain::as_of::{AsOf, InForce, Revoked};
use domain::authorization::Reason;
use domain::policy::{Action, ResourcePattern, Revocation, Statement};
use projections::as_of::{position_at, recorded_at, token_as_of};
use projections::log::head;
use serde::Serialize;
use tokio::task::block_in_place;
use utoipa::ToSchema;

use super::access_tokens::{IdInPath, token_id};
use super::caller::KnownCaller;
use super::envelope::success;
use super::openapi::schemas::{self, Success};
use super::openapi::{AUDIT, parameters, problems};
use super::problem::Problem;
use super::query::parameter;
use super::{MICROSECONDS, POSITION_PATIENCE, Service};

const INVALID: &str = "at_is_invalid";

/// What a token could do. Fields in this order.
#[derive(Serialize, ToSchema)]
#[schema(as = Permissions)]
struct PermissionsBody {
    /// The last position that counts.
    #[schema(minimum = 1)]
    position: i64,
    /// The time at which it is looked at.
    time: DateTime<Utc>,
    #[schema(schema_with = schemas::status)]
    status: &'static str,
    /// Could it be used at all, from an address it may be used from?
    usable: bool,
    /// Why not; null where it could.
    #[schema(schema_with = schemas::unusable, required)]
    reason: Option<Reason>,
    /// A service token's own statements; of a personal token, those of its creator that were in force, in their order.
    statements: Vec<InForceBody>,
    /// What a personal token was narrowed to; null: not narrowed.
    #[schema(value_type = Option<Vec<schemas::Statement>>, required)]
    scope: Option<Vec<Statement>>,
}

/// A statement, and which events put it so.
#[derive(Serialize, ToSchema)]
#[schema(as = StatementInForce)]
struct InForceBody {
    #[serde(flatten)]
    #[schema(value_type = schemas::Statement)]
    statement: Statement,
    /// Of the event that put it in force.
    #[schema(minimum = 1)]
    position: i64,
    /// What was taken from it since; absent where nothing was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    revoked: Vec<RevokedBody>,
}

/// A revocation. It masks what was allowed before, and denies nothing that is granted later.
#[derive(Serialize, ToSchema)]
#[schema(as = Revoked)]
struct RevokedBody {
    /// An action, or `*`.
    #[schema(value_type = String)]
    permission: Action,
    /// Where; null: everywhere.
    #[schema(value_type = Option<Vec<String>>, required)]
    resources: Option<Vec<ResourcePattern>>,
    /// Of the event that took it.
    #[schema(minimum = 1)]
    position: i64,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Now,
    Position(i64),
    Time(DateTime<Utc>),
}

/// `GET /access-tokens/{id}/permissions`
#[utoipa::path(
    get, path = "/api/v1/access-tokens/{id}/permissions", tag = AUDIT, operation_id = "getAccessTokenPermissions",
    security(("jwt" = [])),
    summary = "What a token could do, now or at any time",
    description = "Answered from the log by the rules of live decisions; also of a token that was removed since. 404 where \
                   it was not created by then. Needs `ListAccessTokens`.",
    params(parameters::TokenInPath, parameters::OfMember, parameters::At),
    responses(
        (status = 200, description = "What it could do then.", body = Success<PermissionsBody>),
        problems::Permissions,
    ),
)]
pub(super) async fn of_token(
    State(service): State<Service>,
    known: KnownCaller,
    id: IdInPath,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    known.must(may_list)?;
    let token_id = token_id(id)?;
    let at = At::parse(query.as_deref().unwrap_or_default())?;
    if let At::Position(position) = at
        && !service.index.reached(position, POSITION_PATIENCE).await
    {
        return Err(Problem::Unavailable);
    }
    let mut connection = service.pool.acquire().await?;
    let position = match at {
        At::Now => head(&mut connection).await?,
        At::Position(position) => position,
        At::Time(time) => position_at(&mut connection, time)
            .await?
            .ok_or(Problem::Invalid(vec![INVALID]))?,
    };
    let organization_id = known.caller.organization_id;
    let as_of = token_as_of(&mut connection, Some(organization_id), token_id, position)
        .await?
        .ok_or(Problem::NotFound)?;
    let time = match at {
        At::Now => service.clock.now().trunc_subsecs(MICROSECONDS),
        At::Position(position) => recorded_at(&mut connection, position)
            .await?
            .ok_or(Problem::Internal)?,
        At::Time(time) => time,
    };
    drop(connection);
    // To weigh every revocation of a long history against every statement takes a while.
    let body = block_in_place(|| PermissionsBody::new(&as_of, position, time));
    Ok(success(body))
}

impl PermissionsBody {
    fn new(as_of: &AsOf, position: i64, time: DateTime<Utc>) -> Self {
        let reason = as_of.unusable_because(time);
        Self {
            position,
            time,
            status: if as_of.is_active(time) {
                "Active"
            } else {
                "Inactive"
            },
            usable: reason.is_none(),
            reason,
            statements: as_of.statements().into_iter().map(InForceBody::from).collect(),
            scope: as_of.scope(),
        }
    }
}

impl From<InForce> for InForceBody {
    fn from(in_force: InForce) -> Self {
        Self {
            statement: in_force.statement,
            position: in_force.position,
            revoked: in_force.revoked.into_iter().map(RevokedBody::from).collect(),
        }
    }
}

impl From<Revoked> for RevokedBody {
    fn from(revoked: Revoked) -> Self {
        let Revocation {
            permission,
            resources,
        } = revoked.revocation;
        Self {
            permission,
            resources,
            position: revoked.position,
        }
    }
}

impl At {
    /// A position, or a time by RFC 3339, whose `+` may have become a space on its way in the query.
    fn parse(query: &str) -> Result<Self, Problem> {
        let Some(text) = parameter(query, "at") else {
            return Ok(Self::Now);
        };
        let at = if text.bytes().all(|byte| byte.is_ascii_digit()) {
            text.parse().ok().map(Self::Position)
        } else {
            let with_plus = || Some(text.rsplit_once(' ')?).map(|(time, offset)| format!("{time}+{offset}"));
            let time = DateTime::parse_from_rfc3339(&text)
                .ok()
                .or_else(|| DateTime::parse_from_rfc3339(&with_plus()?).ok());
            time.map(|time| Self::Time(time.to_utc().trunc_subsecs(MICROSECONDS)))
        };
        at.ok_or(Problem::Invalid(vec![INVALID]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Option<At> {
        let time = DateTime::parse_from_rfc3339(text).expect("a time");
        Some(At::Time(time.to_utc()))
    }

    /// Tried: without `with_plus`; without `trunc_subsecs`.
    #[test]
    fn at_is_a_position_or_a_time_or_now() {
        for (query, expected) in [
            ("", Some(At::Now)),
            ("at=", Some(At::Now)),
            ("other=7", Some(At::Now)),
            ("at=0", Some(At::Position(0))),
            ("AT=007", Some(At::Position(7))),
            ("at=9223372036854775807", Some(At::Position(i64::MAX))),
            ("at=9223372036854775808", None),
            ("at=-1", None),
            ("at=%2B1", None),
            ("at=+1", None),
            ("at=1.5", None),
            ("at=now", None),
            ("at=2026-11-23", None),
            ("at=2026-11-23T10:00:00", None),
            ("at=2026-11-23T25:00:00Z", None),
            ("at=2026-11-23T10:00:00Z", time("2026-11-23T10:00:00Z")),
            ("at=2026-11-23T10:00:00.5Z", time("2026-11-23T10:00:00.5Z")),
            (
                "at=2026-11-23T10:00:00.1234567Z",
                time("2026-11-23T10:00:00.123456Z"),
            ),
            ("at=2026-11-23T10:00:00%2B01:00", time("2026-11-23T09:00:00Z")),
            ("at=2026-11-23T10:00:00+01:00", time("2026-11-23T09:00:00Z")),
            ("at=2026-11-23T10:00:00-01:00", time("2026-11-23T11:00:00Z")),
        ] {
            assert_eq!(At::parse(query).ok(), expected, "{query}");
        }
    }
}
