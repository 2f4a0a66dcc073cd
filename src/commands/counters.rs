//! Counts what becomes of membership events, by type and outcome, for `GET /metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::membership::Message;

/// Messages by type and outcome. Clones count together.
pub type MessageCounts = Family<MessageLabels, Counter>;

/// What is counted apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MessageLabels {
    /// The type, without what all have in common; `unknown` for any that is not ours: producers may write anything.
    r#type: &'static str,
    /// What became of it.
    outcome: &'static str,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Applied,
    Repeated,
    Stale,
    Parked,
}

/// The types that are counted by name.
const TYPES: [&str; 6] = [
    "MemberAdded",
    "PermissionGranted",
    "PermissionRevoked",
    "PermissionsReplaced",
    "MemberRemoved",
    "OrganizationRemoved",
];

impl MessageLabels {
    pub(super) fn of(message: &Message, outcome: Outcome) -> Self {
        let name = message
            .event_type()
            .and_then(|event_type| event_type.rsplit('.').next());
        Self {
            r#type: TYPES
                .into_iter()
                .find(|known| Some(*known) == name)
                .unwrap_or("unknown"),
            outcome: match outcome {
                Outcome::Applied => "applied",
                Outcome::Repeated => "repeated",
                Outcome::Stale => "stale",
                Outcome::Parked => "parked",
            },
        }
    }
}
