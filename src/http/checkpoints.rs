//! The newest signed checkpoints of the log, for those who audit: whoever keeps one can tell later whether the log up to
//! there is still the same.

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::access_token::management::may_audit;
use serde::Serialize;
use utoipa::ToSchema;

use super::Service;
use super::caller::KnownCaller;
use super::envelope::success;
use super::openapi::schemas::Success;
use super::openapi::{AUDIT, parameters, problems};
use super::problem::Problem;
use crate::audit::Checkpoint;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Checkpoints)]
struct CheckpointsBody {
    /// The ed25519 key that this node signs with, its 32 bytes in hexadecimal; null: it signs nothing.
    #[schema(required = true)]
    public_key: Option<String>,
    /// The log is not what was signed, or its chain of hashes is broken: this node signs nothing any more, until it is started
    /// anew. `audit verify` says where.
    is_broken: bool,
    items: Vec<CheckpointBody>,
}

/// At this position the log's chain had this hash.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Checkpoint)]
struct CheckpointBody {
    #[schema(minimum = 1)]
    position: i64,
    /// SHA-256 in hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    hash: String,
    /// When the event at this position was recorded.
    time: DateTime<Utc>,
    /// The ed25519 key that signed, in hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    public_key: String,
    /// Its signature (RFC 8032) in hexadecimal, of four lines, each ended by a line feed: `featbit-tokens checkpoint v1`, the
    /// position, the hash, and the time in UTC with six digits after the second and a `Z`.
    #[schema(pattern = "^[0-9a-f]{128}$")]
    signature: String,
}

impl From<Checkpoint> for CheckpointBody {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            position: checkpoint.position,
            hash: checkpoint.hash,
            time: checkpoint.time,
            public_key: checkpoint.public_key,
            signature: checkpoint.signature,
        }
    }
}

/// `GET /audit-logs/checkpoints`
#[utoipa::path(
    get, path = "/api/v1/audit-logs/checkpoints", tag = AUDIT, operation_id = "listCheckpoints", security(("jwt" = [])),
    summary = "The newest signed checkpoints of the log",
    description = "Of the whole log, newest first, at most 100: those that were in this node's directory when it started, \
                   and those that it has signed since. Needs `CanManageIAM` on `iam/*`.",
    params(parameters::OfMember),
    responses(
        (status = 200, description = "The checkpoints.", body = Success<CheckpointsBody>),
        problems::Checkpoints,
    ),
)]
pub(super) async fn list(State(service): State<Service>, known: KnownCaller) -> Result<Response, Problem> {
    known.must(may_audit)?;
    let signed = service.signed.borrow().clone();
    Ok(success(CheckpointsBody {
        public_key: signed.public_key,
        is_broken: signed.fault.is_some(),
        items: signed
            .newest
            .into_iter()
            .rev()
            .map(CheckpointBody::from)
            .collect(),
    }))
}
