//! What stands in front of every decision: is it one of our gateways that asks, and is its request of a bearable size? Its
//! name for the request goes back with the answer, whatever that is.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::body::read;
use super::failed_attempts::TooManyFailures;
use super::problem::Problem;
use super::{REQUEST_ID, Service, too_large};

/// Lets through who has one of the gateway keys, or everybody where none is set.
pub(super) async fn admit(State(service): State<Service>, request: Request, next: Next) -> Response {
    let request_id = request.headers().get(&REQUEST_ID).cloned();
    let mut response = if too_large(&request) {
        Problem::TooLarge.into_response()
    } else if has_key(&service, request.headers()) {
        next.run(request).await
    } else {
        turn_away(&service, request).await
    };
    if let Some(request_id) = request_id {
        response.headers_mut().insert(REQUEST_ID, request_id);
    }
    response
}

fn has_key(service: &Service, headers: &HeaderMap) -> bool {
    if service.gateway_keys.is_empty() {
        return true;
    }
    let presented = headers
        .get("x-gateway-key")
        .map(|value| value.as_bytes())
        .unwrap_or_default();
    service
        .gateway_keys
        .iter()
        .any(|key| bool::from(key.as_bytes().ct_eq(presented)))
}

async fn turn_away(service: &Service, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Or else its sender, still sending, may never see the answer.
    let _ = read(body).await;
    match service.count_failure(&parts.extensions, &parts.headers) {
        Ok(()) => refuse(StatusCode::UNAUTHORIZED, "a valid X-Gateway-Key is required"),
        Err(TooManyFailures { retry_after }) => {
            let message = "too many requests without a valid X-Gateway-Key";
            let refusal = refuse(StatusCode::TOO_MANY_REQUESTS, message);
            ([(RETRY_AFTER, HeaderValue::from(retry_after))], refusal).into_response()
        }
    }
}

/// An error in the form of AuthZEN's HTTPS binding: a JSON string.
pub(super) fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(message)).into_response()
}
