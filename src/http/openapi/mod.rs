//! The OpenAPI 3.1 document. It is collected from the routes themselves: `super::documented` registers each handler with
//! what its `#[utoipa::path]` says, so there is no route without its part of the document. What the handlers share is said
//! once, here: parameters, problems, schemas.

pub(super) mod cloud_events;
mod page;
pub(super) mod parameters;
pub(super) mod problems;
pub(super) mod questions;
pub(super) mod schemas;
pub(super) mod token_bodies;

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Info, OpenApi, OpenApiBuilder, tag::TagBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Service;
use super::problem::Problem;

/// Tags, in the order in which they are shown.
pub(super) const ACCESS_TOKENS: &str = "Access tokens";
pub(super) const AUDIT: &str = "Audit";
pub(super) const MEMBERSHIP: &str = "Membership";
pub(super) const DECISIONS: &str = "Decisions";
pub(super) const HEALTH: &str = "Health";
pub(super) const DOCUMENTATION: &str = "Documentation";

/// Names of the security schemes; in `security(…)` they have to be written out.
const JWT: &str = "jwt";
const GATEWAY_KEY: &str = "gatewayKey";
const INTAKE_KEY: &str = "intakeKey";

static DOCUMENT: LazyLock<Result<String, serde_json::Error>> = LazyLock::new(|| {
    super::documented(frame())
        .to_pretty_json()
        .map(|json| json + "\n")
});

/// The document, as `GET /openapi.json` and the command line give it: JSON, indented, with a line break at its end.
///
/// # Errors
/// Where it can't be written as JSON.
pub fn document() -> Result<&'static str, &'static serde_json::Error> {
    DOCUMENT.as_deref()
}

/// The routes of the document and of the page that shows it.
pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::default()
        .routes(routes!(openapi_json))
        .routes(routes!(page::show))
        .routes(routes!(page::file))
}

/// `GET /openapi.json`
#[utoipa::path(
    get, path = "/openapi.json", tag = DOCUMENTATION, operation_id = "getOpenApiDocument",
    summary = "This document",
    responses(
        (status = 200, description = "OpenAPI 3.1. `featbit-tokens openapi` prints the same.", body = schemas::Document),
        problems::OfEverybody,
    ),
)]
async fn openapi_json() -> Response {
    match document() {
        Ok(json) => ([(CONTENT_TYPE, "application/json; charset=utf-8")], json).into_response(),
        Err(error) => {
            tracing::error!(%error, "the OpenAPI document can't be written");
            Problem::Internal.into_response()
        }
    }
}

/// The document without its operations.
fn frame() -> OpenApi {
    let mut info = Info::new("featbit-tokens", env!("CARGO_PKG_VERSION"));
    info.description = Some(include_str!("description.md").to_owned());
    let mut components = Components::new();
    components.add_security_scheme(
        JWT,
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("JWT")
                .description(Some("FeatBit's JWT; its claim `id` is the member's uuid."))
                .build(),
        ),
    );
    components.add_security_scheme(
        GATEWAY_KEY,
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
            "X-Gateway-Key",
            "One of `GATEWAY_KEYS`. Needed where that is set; a service on loopback may do without.",
        ))),
    );
    components.add_security_scheme(
        INTAKE_KEY,
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
            "X-Intake-Key",
            "One of `INTAKE_KEYS`. Where that is not set nobody sends membership events over HTTP.",
        ))),
    );
    components
        .parameters
        .extend(parameters::of_any_request().map(|(name, parameter)| (name.to_owned(), parameter.into())));
    components
        .responses
        .extend(problems::shared().map(|(name, answer)| (name.to_owned(), answer.into())));
    let tags = [
        (
            ACCESS_TOKENS,
            "Issue, list, change, stop and remove tokens, in FeatBit's wire format.",
        ),
        (
            AUDIT,
            "What happened, and what could be done at any time: from the log.",
        ),
        (MEMBERSHIP, "What is heard of members, where no topic brings it."),
        (
            DECISIONS,
            "May this token or member do this, here, now? AuthZEN 1.0; answered from memory.",
        ),
        (HEALTH, "How this node is."),
        (DOCUMENTATION, "What you are reading."),
    ];
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .tags(Some(tags.map(|(name, description)| {
            TagBuilder::new()
                .name(name)
                .description(Some(description))
                .build()
        })))
        .build()
}
