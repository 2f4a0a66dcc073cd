//! What stands in front of every decision: is it one of our gateways that asks, and is its request of a bearable size? Its
//! name for the request goes back with the answer, whatever that is.

use std::net::IpAddr;

use axum::Json;
use axum::body::{Bytes, HttpBody};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::body::read;
use super::caller::single;
use super::failed_attempts::TooManyFailures;
use super::problem::Problem;
use super::{REQUEST_ID, Service, introspection, too_large};

const GATEWAY_KEY: HeaderName = HeaderName::from_static("x-gateway-key");

/// Has `answer` answer whoever has one of the gateway keys, or everybody where none is set. Whoever has none is told so in
/// the form that is spoken there.
pub(super) async fn admit<B: HttpBody<Data = Bytes> + Unpin>(
    form: Form,
    service: &Service,
    peer: IpAddr,
    request: Request<B>,
    answer: impl AsyncFnOnce(Request<B>) -> Response,
) -> Response {
    let request_id = request.headers().get(&REQUEST_ID).cloned();
    let mut response = if too_large(&request) {
        form.too_large()
    } else if has_key(service, request.headers()) {
        answer(request).await
    } else {
        form.turn_away(service, peer, request).await
    };
    if let Some(request_id) = request_id {
        response.headers_mut().insert(REQUEST_ID, request_id);
    }
    response
}

/// How an error is said.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// AuthZEN 1.0, HTTPS binding: a JSON string.
    AuthZen,
    /// FeatBit's envelope.
    FeatBit,
    /// OAuth 2.0 (RFC 6749, 5.2).
    OAuth,
}

fn has_key(service: &Service, headers: &HeaderMap) -> bool {
    if service.gateway_keys.is_empty() {
        return true;
    }
    single(headers, GATEWAY_KEY).is_some_and(|presented| is_one_of(&service.gateway_keys, presented))
}

/// In a time that does not tell how much of a key was right.
pub(super) fn is_one_of(keys: &[String], presented: &str) -> bool {
    keys.iter()
        .any(|key| bool::from(key.as_bytes().ct_eq(presented.as_bytes())))
}

impl Form {
    async fn turn_away<B: HttpBody<Data = Bytes> + Unpin>(
        self,
        service: &Service,
        peer: IpAddr,
        request: Request<B>,
    ) -> Response {
        let (parts, body) = request.into_parts();
        // Or else its sender, still sending, may never see the answer.
        let _ = read(body).await;
        match service.count_failure(peer, &parts.headers) {
            Ok(()) => self.unauthorized(),
            Err(too_many) => self.too_many(too_many),
        }
    }

    fn too_large(self) -> Response {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        match self {
            Self::AuthZen => refuse(status, "the headers and the path must be at most 16 KiB together"),
            Self::FeatBit => Problem::TooLarge.into_response(),
            Self::OAuth => introspection::refuse(status, "invalid_request"),
        }
    }

    /// The path is there, for another method.
    pub(super) fn wrong_method(self) -> Response {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        match self {
            Self::AuthZen => refuse(status, "the method must be POST"),
            Self::FeatBit => Problem::MethodNotAllowed.into_response(),
            Self::OAuth => introspection::refuse(status, "invalid_request"),
        }
    }

    fn unauthorized(self) -> Response {
        match self {
            Self::AuthZen => refuse(StatusCode::UNAUTHORIZED, "a valid X-Gateway-Key is required"),
            Self::FeatBit => Problem::Unauthorized.into_response(),
            Self::OAuth => introspection::refuse(StatusCode::UNAUTHORIZED, "invalid_client"),
        }
    }

    fn too_many(self, too_many: TooManyFailures) -> Response {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let message = "too many requests without a valid X-Gateway-Key";
        let refusal = match self {
            Self::AuthZen => refuse(status, message),
            Self::FeatBit => return Problem::TooManyRequests(too_many).into_response(),
            Self::OAuth => introspection::refuse(status, "invalid_client"),
        };
        let retry_after = HeaderValue::from(too_many.retry_after);
        ([(RETRY_AFTER, retry_after)], refusal).into_response()
    }
}

/// An error in the form of AuthZEN's HTTPS binding: a JSON string.
pub(super) fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(message)).into_response()
}
