//! AuthZEN's discovery document: where gateways find what answers their questions. It is made once, of the configuration;
//! what a request says of the host it was sent to is never believed.

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Service;
use super::openapi::{DECISIONS, problems, questions};
use super::problem::Problem;

/// The document of a service that is reached at some URL.
#[derive(Debug)]
pub struct Discovery(String);

impl Discovery {
    /// At this URL, which has no `/` at its end.
    #[must_use]
    pub fn at(url: &str) -> Self {
        let document = json!({
            "policy_decision_point": url,
            "access_evaluation_endpoint": format!("{url}/access/v1/evaluation"),
            "access_evaluations_endpoint": format!("{url}/access/v1/evaluations"),
            "search_subject_endpoint": format!("{url}/access/v1/search/subject"),
            "search_resource_endpoint": format!("{url}/access/v1/search/resource"),
            "search_action_endpoint": format!("{url}/access/v1/search/action"),
        });
        Self(document.to_string())
    }
}

/// `GET /.well-known/authzen-configuration`
#[utoipa::path(
    get, path = "/.well-known/authzen-configuration", tag = DECISIONS, operation_id = "getAuthZenConfiguration",
    summary = "Where decisions are made",
    description = "AuthZEN 1.0, PDP metadata: built from `PUBLIC_URL`, never from what a request says. It needs no key.",
    responses(
        (status = 200, description = "The endpoints there are.", body = questions::Configuration),
        problems::Discovery,
    ),
)]
pub(super) async fn configuration(State(service): State<Service>) -> Response {
    match &service.discovery {
        Some(Discovery(document)) => (
            [
                (CONTENT_TYPE, "application/json"),
                (CACHE_CONTROL, "max-age=3600"),
            ],
            document.clone(),
        )
            .into_response(),
        None => Problem::NotFound.into_response(),
    }
}
