//! `GET /metrics`: what can be measured of this node, for Prometheus.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Service;
use super::health::health;
use super::openapi::{HEALTH, problems};
use super::problem::Problem;
use crate::metrics::ReadModelLabel;

/// The media type of OpenMetrics 1.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /metrics`
#[utoipa::path(
    get, path = "/metrics", tag = HEALTH, operation_id = "getMetrics",
    summary = "Measurements of this node",
    description = "In the OpenMetrics text format, which Prometheus reads. It names no organization, member or token.",
    responses(
        (status = 200, description = "All there are.", body = String, content_type = "application/openmetrics-text"),
        problems::OfEverybody,
    ),
)]
pub(super) async fn show(State(service): State<Service>) -> Response {
    let metrics = &service.metrics;
    let health = health(&service).await;
    metrics.position.set(service.index.position());
    for (name, position) in &health.read_models {
        let label = ReadModelLabel { read_model: name };
        metrics.read_models.get_or_create(&label).set(*position);
    }
    if let Some(parked) = health.parked {
        metrics.parked.set(parked);
    }
    metrics.ready.set(i64::from(health.reasons.is_empty()));
    match metrics.text() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics can't be written");
            Problem::Internal.into_response()
        }
    }
}
