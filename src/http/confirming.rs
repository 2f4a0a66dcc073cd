//! What takes something away is answered when no node decides without knowing it; `?wait=none` asks not to wait.

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::request::Parts;
use axum::response::Response;

use super::Service;
use super::access_tokens::settle;
use super::problem::Problem;
use super::query::parameter;
use crate::authorization::Confirmation;
use crate::commands::{Done, Effect};

/// How many nodes said that they know.
const CONFIRMED_NODES: HeaderName = HeaderName::from_static("x-confirmed-nodes");
/// How long they were waited for, in milliseconds.
const CONFIRMED_IN_MS: HeaderName = HeaderName::from_static("x-confirmed-in-ms");

/// For what a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until no node accepts any more what was taken away.
    ForEveryNode,
    /// For nobody.
    None,
}

impl<S: Send + Sync> FromRequestParts<S> for Wait {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parameter(parts.uri.query().unwrap_or_default(), "wait").as_deref() {
            None => Ok(Self::ForEveryNode),
            Some("none") => Ok(Self::None),
            Some(_) => Err(Problem::Invalid(vec!["wait_is_invalid"])),
        }
    }
}

impl Service {
    /// Waits until this node's own decisions hold what a command changed; and at the same time for every node where it may
    /// have taken something away, whether or not it had to change anything: an earlier one like it may not have been waited
    /// for to its end.
    pub(super) async fn confirm<T>(
        &self,
        done: &Done<T>,
        wait: Wait,
    ) -> Result<Option<Confirmation>, Problem> {
        let settled = settle(self, done.position);
        if done.effect == Effect::Gives || wait == Wait::None {
            settled.await;
            return Ok(None);
        }
        let ((), confirmed) = tokio::join!(settled, self.revocations.confirm(done.position));
        match confirmed {
            Ok(confirmation) => Ok(Some(confirmation)),
            Err(error) => {
                tracing::warn!(%error, "a revocation stands, and is not confirmed");
                Err(Problem::Unconfirmed {
                    position: done.position,
                })
            }
        }
    }
}

/// Tells a caller who waited what that came to.
pub(super) fn confirmed(mut response: Response, confirmation: Option<Confirmation>) -> Response {
    if let Some(Confirmation { nodes, took }) = confirmation {
        let headers = response.headers_mut();
        headers.insert(CONFIRMED_NODES, HeaderValue::from(nodes));
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        headers.insert(CONFIRMED_IN_MS, HeaderValue::from(took));
    }
    response
}
