//! Forward auth: a gateway asks with each request that comes to it, and lets it through where the answer is 200. What is asked
//! stands in two headers that the gateway sets itself; method, path and body of the request say nothing, and no other header
//! does. Whatever is not clear is refused.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use axum::response::{IntoResponse, Response};
use domain::authorization::{Question, Reason};
use domain::secret::SecretDigest;
use uuid::Uuid;

use super::body::read;
use super::caller::{Presented, single};
use super::client_address::{client_address, peer};
use super::openapi::{DECISIONS, parameters, problems};
use super::problem::Problem;
use super::{Service, at_least_position, reach};
use crate::authorization::{Bearer, Subject};

/// Where it is asked, and at any path below.
pub(super) const PATH: &str = "/forward-auth";

const ACTION: HeaderName = HeaderName::from_static("x-featbit-action");
const RESOURCE: HeaderName = HeaderName::from_static("x-featbit-resource");
const TOKEN_ID: HeaderName = HeaderName::from_static("x-token-id");
const TOKEN_TYPE: HeaderName = HeaderName::from_static("x-token-type");
const ORGANIZATION_ID: HeaderName = HeaderName::from_static("x-organization-id");
const CREATOR_ID: HeaderName = HeaderName::from_static("x-creator-id");
/// How long a body that nobody asked for is taken in, so that its sender gets to see the answer.
const BODY_PATIENCE: Duration = Duration::from_millis(100);

/// `GET /forward-auth`, any other method, and any path below it.
#[utoipa::path(
    get, path = "/forward-auth", tag = DECISIONS, operation_id = "forwardAuth", security((), ("gatewayKey" = [])),
    summary = "May the request that a gateway has in hand pass?",
    description = "For nginx `auth_request`, Caddy `forward_auth`, Traefik ForwardAuth, HAProxy and Envoy. Any method is answered \
                   alike, and so is any path below this one; a body is not looked at. `Authorization` is that of the request \
                   in hand: a token, raw or as `Bearer`. A valid JWT of FeatBit's own page passes whatever it asks for, unless \
                   `FORWARD_AUTH_JWT` is `refuse`; that answer names no token. What is asked stands in `X-FeatBit-Action` and \
                   `X-FeatBit-Resource`, which the gateway has to set at each of its locations: where one forgets to, a \
                   client can. A header that is missing, empty, repeated or not UTF-8 is a 403. A token with `allowedIps` is \
                   used from the address that `TRUSTED_PROXY_HOPS` makes out; where the proxies don't say it, from nowhere.",
    params(parameters::ForwardAuth),
    responses(
        (status = 200, description = "It may. No body.", headers(
            ("X-Token-Id" = String, description = "Which token it was: a UUID. Empty for a JWT, as are the others."),
            ("X-Token-Type" = String, description = "`Personal` or `Service`."),
            ("X-Organization-Id" = String, description = "The organization it belongs to: a UUID."),
            ("X-Creator-Id" = String, description = "The member who made it: a UUID."),
            ("Cache-Control" = String, description = "`no-store`"),
        )),
        problems::ForwardAuth,
    ),
)]
pub(super) async fn ask(State(service): State<Service>, request: Request<Body>) -> Response {
    answer(&service, peer(request.extensions()), request).await
}

/// Whether the request that a gateway at this address has in hand may pass.
pub(super) async fn answer<B: HttpBody<Data = Bytes> + Unpin>(
    service: &Service,
    peer: IpAddr,
    request: Request<B>,
) -> Response {
    let (parts, body) = request.into_parts();
    let mut response = judge(service, peer, &parts.headers)
        .await
        .unwrap_or_else(IntoResponse::into_response);
    take_in(body).await;
    // What can't be decided says so itself, in more words.
    response
        .headers_mut()
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn judge(service: &Service, peer: IpAddr, headers: &HeaderMap) -> Result<Response, Problem> {
    let digest = match Presented::in_headers(headers) {
        Some(Presented::Secret(digest)) => digest,
        Some(Presented::Jwt(jwt)) if service.passes_jwts && service.jwt.believes(jwt) => {
            return Ok(no_token());
        }
        Some(Presented::Jwt(_)) | None => return Err(Problem::Unauthorized),
    };
    let asked = Asked::in_headers(headers);
    let address = client_address(peer, headers, service.trusted_proxy_hops);
    let (reason, bearer) = decide(service, digest, asked, address).await;
    match (reason, asked, bearer) {
        (Reason::Allowed, Some(_), Some(bearer)) => allowed(&bearer),
        (Reason::UnknownToken | Reason::TokenRemoved, ..) => Err(Problem::Unauthorized),
        (Reason::StaleReplica, ..) => Err(Problem::Unavailable),
        _ => Err(Problem::Forbidden),
    }
}

/// What is asked; where that is not clear, only whether the token is one.
async fn decide(
    service: &Service,
    digest: SecretDigest,
    asked: Option<Asked<'_>>,
    address: Option<IpAddr>,
) -> (Reason, Option<Bearer>) {
    let asked = asked.unwrap_or_default();
    reach(service, asked.at_least).await;
    let question = Question {
        action: asked.action,
        resource: asked.resource,
        organization_id: None,
        address,
        now: service.clock.now(),
    };
    service.index.decide_for_bearer(
        &Subject::Secret(digest),
        &question,
        asked.at_least,
        |_, answer, bearer| (answer.reason, bearer),
    )
}

/// Who passes without a token. Gateways copy these headers: were they absent, some would leave what the client wrote.
fn no_token() -> Response {
    let nothing = HeaderValue::from_static("");
    let identity = [TOKEN_ID, TOKEN_TYPE, ORGANIZATION_ID, CREATOR_ID];
    (identity.map(|name| (name, nothing.clone())), Body::empty()).into_response()
}

fn allowed(bearer: &Bearer) -> Result<Response, Problem> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.reserve(5);
    headers.insert(TOKEN_ID, header(bearer.token_id.as_uuid())?);
    headers.insert(TOKEN_TYPE, HeaderValue::from_static(bearer.token_type.as_str()));
    headers.insert(ORGANIZATION_ID, header(bearer.organization_id.as_uuid())?);
    headers.insert(CREATOR_ID, header(bearer.creator_id.as_uuid())?);
    Ok(response)
}

fn header(id: Uuid) -> Result<HeaderValue, Problem> {
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut text)).map_err(|_| Problem::Internal)
}

/// What the gateway asks.
#[derive(Clone, Copy, Debug, Default)]
struct Asked<'h> {
    action: &'h str,
    resource: &'h str,
    at_least: i64,
}

impl<'h> Asked<'h> {
    /// None where a header is missing, empty, repeated or no text: then it is not clear what is asked.
    fn in_headers(headers: &'h HeaderMap) -> Option<Self> {
        let text = |name| single(headers, name).filter(|text| !text.is_empty());
        Some(Self {
            action: text(ACTION)?,
            resource: text(RESOURCE)?,
            at_least: at_least_position(headers).ok()?,
        })
    }
}

/// Takes in what comes of a body at once.
async fn take_in<B: HttpBody<Data = Bytes> + Unpin>(body: B) {
    if !body.is_end_stream() {
        let _ = tokio::time::timeout(BODY_PATIENCE, read(body)).await;
    }
}
