//! How this node is: alive, and ready or not, with the reasons.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use projections::parked;
use projections::runner::ReadModel;
use serde_json::json;
use tokio::sync::watch;

use super::Service;
use super::openapi::{HEALTH, problems, schemas};
use crate::database::within;
use crate::intake::IntakeState;

/// What the tasks of this node say of themselves. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Vitals {
    /// The last position this node appended.
    pub appended: watch::Receiver<i64>,
    /// Each read model.
    pub read_models: Vec<Projected>,
    /// How the intake is.
    pub intake: watch::Receiver<IntakeState>,
}

/// A read model, as requests see it.
#[derive(Clone, Debug)]
pub struct Projected {
    /// Which.
    pub read_model: ReadModel,
    /// How far it has come.
    pub progress: watch::Receiver<Progress>,
    /// How many requests wait for it, so that it does not take its time.
    pub waiting: watch::Sender<usize>,
}

/// How a read model is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last position it holds.
    pub position: i64,
    /// Why it does not go on.
    pub error: Option<String>,
}

impl Vitals {
    pub(super) fn appended(&self) -> i64 {
        *self.appended.borrow()
    }

    /// Waits until every read model that requests read has come to a position; false where one has not in time.
    pub(super) async fn read_models_reach(&self, position: i64, patience: Duration) -> bool {
        let all = async {
            let behind = |projected: &&Projected| {
                projected.read_model.is_for_requests() && projected.progress.borrow().position < position
            };
            let behind: Vec<&Projected> = self.read_models.iter().filter(behind).collect();
            let _waits: Vec<Waits<'_>> = behind.iter().map(|projected| Waits::on(projected)).collect();
            for projected in behind {
                let mut progress = projected.progress.clone();
                if progress.wait_for(|at| at.position >= position).await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(patience, all).await.unwrap_or(false)
    }
}

/// A request that waits for a read model, until this is dropped.
struct Waits<'p>(&'p watch::Sender<usize>);

impl<'p> Waits<'p> {
    fn on(projected: &'p Projected) -> Self {
        projected
            .waiting
            .send_modify(|waiting| *waiting = waiting.saturating_add(1));
        Self(&projected.waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting = waiting.saturating_sub(1));
    }
}

/// Events that a read model may be behind while it counts as caught up: under load it is behind by those of a long step and a
/// rest.
const MAX_LAG: i64 = 10_000;

/// `GET /health/liveness`
#[utoipa::path(
    get, path = "/health/liveness", tag = HEALTH, operation_id = "getLiveness",
    summary = "Whether the process answers",
    responses((status = 200, description = "It does.", body = schemas::Liveness), problems::OfEverybody),
)]
pub(super) async fn liveness() -> Response {
    Json(json!({ "status": "alive" })).into_response()
}

/// `GET /health/readiness`
#[utoipa::path(
    get, path = "/health/readiness", tag = HEALTH, operation_id = "getReadiness",
    summary = "Whether the node should be asked anything",
    responses(
        (status = 200, description = "It should.", body = schemas::Readiness),
        (status = 503, description = "Not now: it is catching up, or has lost sight of a store.", body = schemas::Readiness),
        problems::OfEverybody,
    ),
)]
pub(super) async fn readiness(State(service): State<Service>) -> Response {
    let health = health(&service).await;
    let (status, word) = if health.reasons.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let body = json!({
        "status": word,
        "reasons": health.reasons,
        "position": service.index.position(),
        "readModels": health.read_models,
        "intake": health.intake,
        "parkedMessages": health.parked,
        "warnings": health.warnings,
    });
    (status, Json(body)).into_response()
}

/// How the node is.
pub(super) struct Health {
    /// Why it is not ready; none where it is.
    pub(super) reasons: Vec<String>,
    /// What it is ready in spite of.
    pub(super) warnings: Vec<&'static str>,
    /// The last position that each read model holds.
    pub(super) read_models: BTreeMap<&'static str, i64>,
    /// How the intake is, in words.
    pub(super) intake: String,
    /// How many messages are parked; none where the database does not answer in time.
    pub(super) parked: Option<i64>,
}

pub(super) async fn health(service: &Service) -> Health {
    let intake = service.vitals.intake.borrow().clone();
    let mut reasons = Vec::new();
    if !service.index.fence().is_open() {
        reasons.push("the authorization index can't vouch that it knows the log up to now".to_owned());
    }
    if let Some(reason) = intake.obstacle() {
        reasons.push(reason);
    }
    let mut read_models = BTreeMap::new();
    for Projected {
        read_model, progress, ..
    } in &service.vitals.read_models
    {
        let (name, progress) = (read_model.name(), progress.borrow().clone());
        read_models.insert(name, progress.position);
        if progress.error.is_some() {
            reasons.push(format!(
                "read model {name} has stopped at position {}",
                progress.position
            ));
        } else if read_model.is_for_requests()
            && service.index.position().saturating_sub(progress.position) > MAX_LAG
        {
            reasons.push(format!(
                "read model {name} is not caught up: at position {}",
                progress.position
            ));
        }
    }
    let store = ask_store(service).await;
    if store.is_none() {
        reasons.push("the database is out of reach".to_owned());
    }
    let mut warnings = Vec::new();
    if store.is_some_and(|store| !store.has_synchronous_standby) {
        warnings.push("no standby of the database is synchronous: a revocation may be lost in a failover");
    }
    Health {
        reasons,
        warnings,
        read_models,
        intake: intake.to_string(),
        parked: store.map(|store| store.parked),
    }
}

/// What the database says of itself.
#[derive(Clone, Copy)]
struct Store {
    parked: i64,
    has_synchronous_standby: bool,
}

/// None where the database does not answer in time.
async fn ask_store(service: &Service) -> Option<Store> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let ask = async {
        let mut connection = service.pool.acquire().await?;
        Ok::<_, sqlx::Error>(Store {
            parked: parked::count(&mut connection).await?,
            has_synchronous_standby: sqlx::query_scalar(
                "select current_setting('synchronous_standby_names') <> ''",
            )
            .fetch_one(&mut *connection)
            .await?,
        })
    };
    within(PATIENCE, ask).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one that only a node reads that starts follows the log in long steps: were it waited for, every creation would
    /// take a second. Tried: without a word to it, and with one that is not taken back.
    #[tokio::test]
    async fn a_request_waits_for_the_read_models_that_requests_read_and_hurries_them() {
        let at = |position| Progress {
            position,
            error: None,
        };
        let mut runners = Vec::new();
        let mut vitals = |behind| {
            let of = |read_model| {
                let position = if read_model == behind { 1 } else { 2 };
                let (runner, progress) = watch::channel(at(position));
                runners.push(runner);
                Projected {
                    read_model,
                    progress,
                    waiting: watch::Sender::new(0),
                }
            };
            Vitals {
                appended: watch::channel(2).1,
                read_models: ReadModel::ALL.map(of).to_vec(),
                intake: watch::channel(IntakeState::Off).1,
            }
        };
        let patience = Duration::from_millis(10);
        assert!(
            vitals(ReadModel::Credentials)
                .read_models_reach(2, patience)
                .await
        );
        let vitals = vitals(ReadModel::AccessTokens);
        let waiting = |vitals: &Vitals| -> Vec<usize> {
            let of = |projected: &Projected| *projected.waiting.borrow();
            vitals.read_models.iter().map(of).collect()
        };
        let (reached, ()) = tokio::join!(vitals.read_models_reach(2, patience), async {
            tokio::task::yield_now().await;
            let hurried = ReadModel::ALL.map(|one| usize::from(one == ReadModel::AccessTokens));
            assert_eq!(waiting(&vitals), hurried);
        });
        assert!(!reached);
        assert_eq!(waiting(&vitals), [0, 0, 0], "it does not wait any more");
    }
}
