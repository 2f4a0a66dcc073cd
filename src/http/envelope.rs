//! FeatBit's envelope, byte for byte: `{"success":…,"errors":[…],"data":…}`, compact, in this order.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::commands::Done;

/// FeatBit names the versions of its API in every answer of it.
pub(super) const API_VERSIONS: HeaderName = HeaderName::from_static("api-supported-versions");
/// Where in the log a command stands.
pub(super) const LOG_POSITION: HeaderName = HeaderName::from_static("x-log-position");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

#[derive(Serialize)]
struct Envelope<'a, T> {
    success: bool,
    errors: &'a [&'a str],
    data: Option<T>,
}

/// What was asked for.
pub(super) fn success(data: impl Serialize) -> Response {
    respond(
        StatusCode::OK,
        &Envelope {
            success: true,
            errors: &[],
            data: Some(data),
        },
    )
}

/// What a command came to, with its position.
pub(super) fn done(position: i64, data: impl Serialize) -> Response {
    let mut response = success(data);
    response
        .headers_mut()
        .insert(LOG_POSITION, HeaderValue::from(position));
    response
}

/// A command that answers nothing but that it was done.
pub(super) fn done_true(done_at: &Done<()>) -> Response {
    done(done_at.position, true)
}

/// Codes for what went wrong, and what there is to show all the same.
pub(super) fn failure(status: StatusCode, codes: &[&str], data: Option<impl Serialize>) -> Response {
    respond(
        status,
        &Envelope {
            success: false,
            errors: codes,
            data,
        },
    )
}

fn respond(status: StatusCode, envelope: &impl Serialize) -> Response {
    match serde_json::to_vec(envelope) {
        Ok(body) => (
            status,
            [
                (CONTENT_TYPE, JSON),
                (API_VERSIONS, HeaderValue::from_static("1.0")),
            ],
            body,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer can't be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
