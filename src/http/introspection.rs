//! OAuth 2.0 token introspection (RFC 7662): is this secret a live token's, and whose? Of a token that is not live nothing is
//! said, not even why.

use std::net::IpAddr;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::authorization::{Question, Reason};
use domain::secret::SecretDigest;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{UnreadableBody, read};
use super::openapi::{DECISIONS, problems, questions, schemas};
use super::{Service, at_least_position, reach};
use crate::authorization::{Bearer, Subject};

/// A live token. Fields in this order.
#[derive(Serialize, ToSchema)]
#[schema(as = LiveToken, example = json!({
    "active": true, "sub": "0192f0c0-0000-7000-8000-00000000000c", "client_id": "01a20a66-b224-77bb-8502-b40040c2bccc",
    "token_type": "Personal", "iat": 1763978085, "org": "0192f0c0-0000-7000-8000-000000000001",
}))]
pub(super) struct LiveBody {
    #[schema(schema_with = schemas::always_true)]
    active: bool,
    /// The member who made it.
    sub: Uuid,
    /// The token's id.
    client_id: Uuid,
    #[schema(schema_with = schemas::token_type)]
    token_type: &'static str,
    /// When it was made, in seconds since 1970, as its id has it; absent where that does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    /// When it expires, in seconds since 1970; absent where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    /// Its organization.
    org: Uuid,
}

/// `POST /oauth2/introspect`
#[utoipa::path(
    post, path = "/oauth2/introspect", tag = DECISIONS, operation_id = "introspect", security((), ("gatewayKey" = [])),
    summary = "Is this a live token, and whose?",
    description = "RFC 7662. Live is a token that can be used now, whatever for: neither inactive, expired nor removed, nor one \
                   whose creator has left; and from `ip`, where it has `allowedIps`. `X-At-Least-Position` is waited for up to \
                   250 ms; a node that has not reached it, or can't vouch that it knows the log up to now, calls no token \
                   live.",
    request_body(content = questions::Introspection, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "What is known of it. Never cached.", body = questions::Introspected),
        problems::Introspection,
    ),
)]
pub(super) async fn introspect(State(service): State<Service>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(UnreadableBody::TooLarge) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request"),
        Err(UnreadableBody::Broken) => return refuse(StatusCode::BAD_REQUEST, "invalid_request"),
    };
    let asked = match (
        Asked::of(&parts.headers, &body),
        at_least_position(&parts.headers),
    ) {
        (Some(asked), Ok(at_least)) => (asked, at_least),
        _ => return refuse(StatusCode::BAD_REQUEST, "invalid_request"),
    };
    let body = match live(&service, asked).await {
        Some(bearer) => Json(LiveBody::from(bearer)).into_response(),
        None => Json(json!({ "active": false })).into_response(),
    };
    ([(CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")], body).into_response()
}

/// The token, where it can be used at all.
async fn live(service: &Service, (asked, at_least): (Asked, i64)) -> Option<Bearer> {
    let subject = Subject::Secret(SecretDigest::of(&asked.token).ok()?);
    reach(service, at_least).await;
    let question = Question {
        action: "",
        resource: "",
        organization_id: None,
        address: asked.address,
        now: service.clock.now(),
    };
    service
        .index
        .decide_for_bearer(&subject, &question, at_least, |_, answer, bearer| {
            bearer.filter(|_| is_usable(answer.reason))
        })
}

/// What can be used was asked for its permission, and whatever came of that does not matter.
fn is_usable(reason: Reason) -> bool {
    match reason {
        Reason::Allowed
        | Reason::DeniedByStatement
        | Reason::NoMatchingStatement
        | Reason::OutsideTokenScope => true,
        Reason::StaleReplica
        | Reason::UnknownToken
        | Reason::TokenRemoved
        | Reason::TokenExpired
        | Reason::MemberBlocked
        | Reason::CreatorNotAMember
        | Reason::TokenInactive
        | Reason::IpNotAllowed => false,
    }
}

impl From<Bearer> for LiveBody {
    fn from(bearer: Bearer) -> Self {
        let token_id = bearer.token_id.as_uuid();
        Self {
            active: true,
            sub: bearer.creator_id.as_uuid(),
            client_id: token_id,
            token_type: bearer.token_type.as_str(),
            iat: made_at(token_id),
            exp: bearer.expires_at.as_ref().map(DateTime::<Utc>::timestamp),
            org: bearer.organization_id.as_uuid(),
        }
    }
}

/// The seconds of a UUIDv7 (RFC 9562, 5.7).
fn made_at(id: Uuid) -> Option<i64> {
    if id.get_version_num() != 7 {
        return None;
    }
    let (seconds, _) = id.get_timestamp()?.to_unix();
    i64::try_from(seconds).ok()
}

/// What the form asks.
#[derive(Debug)]
struct Asked {
    token: String,
    /// None where it is absent or no address.
    address: Option<IpAddr>,
}

impl Asked {
    /// None where it is no form, or does not hold one token. What else stands in it is ignored; what stands there twice is
    /// not clear (RFC 6749, 3.2).
    fn of(headers: &HeaderMap, body: &Bytes) -> Option<Self> {
        let media_type = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?;
        if !media_type
            .trim()
            .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        {
            return None;
        }
        let (mut token, mut address) = (None, None);
        for (name, value) in form_urlencoded::parse(body) {
            let field = match name.as_ref() {
                "token" => &mut token,
                "ip" => &mut address,
                _ => continue,
            };
            if field.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        Some(Self {
            token: token.filter(|token| !token.is_empty())?,
            address: address.and_then(|address| address.trim().parse().ok()),
        })
    }
}

/// An error as OAuth 2.0 has them (RFC 6749, 5.2).
pub(super) fn refuse(status: StatusCode, error: &str) -> Response {
    let body = Json(json!({ "error": error }));
    (status, [(CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")], body).into_response()
}
