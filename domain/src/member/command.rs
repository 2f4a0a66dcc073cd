//! What can be asked of a member's stream: the membership events of the contract, and the blocking of a member whose
//! messages can't be used.

use thiserror::Error;
use uuid::Uuid;

use crate::ids::{MemberId, OrganizationId};
use crate::policy::{Revocation, Statement};

/// A command to one member's stream.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberCommand {
    /// Whose member.
    pub organization_id: OrganizationId,
    /// Who.
    pub member_id: MemberId,
    /// What is asked.
    pub change: MemberChange,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum MemberChange {
    /// A fact heard from the membership topic, with the producer's version if it sends one.
    Membership {
        /// Rising per member; absent: the order of arrival counts.
        version: Option<i64>,
        /// What the producer says has happened.
        fact: MembershipFact,
    },
    /// Its organization was removed: whatever is heard next stands after this.
    EndWithOrganization,
    /// A message about the member could not be used.
    Block {
        /// The parked message.
        parked_id: Uuid,
        /// A code.
        reason: String,
    },
    /// A parked message about the member was given up.
    DropMessage {
        /// The parked message.
        parked_id: Uuid,
        /// Why it was parked, a code.
        reason: String,
        /// Its CloudEvents type, if it had one.
        message_type: Option<String>,
    },
    /// Nothing parked holds the member any more.
    Release,
}

/// The five things a producer says of a member.
#[derive(Clone, Debug, PartialEq)]
pub enum MembershipFact {
    /// `MemberAdded`
    Added {
        /// All that the member may do.
        statements: Vec<Statement>,
    },
    /// `PermissionGranted`
    Granted {
        /// What is added.
        statements: Vec<Statement>,
    },
    /// `PermissionRevoked`
    Revoked(Revocation),
    /// `PermissionsReplaced`
    Replaced {
        /// All that the member may do.
        statements: Vec<Statement>,
    },
    /// `MemberRemoved`
    Removed,
}

/// Why a member command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MemberRefusal {
    /// One member's events either all have a version or none has.
    #[error("one member's events can't mix versions and the order of arrival")]
    MixedOrder,
}

impl MemberRefusal {
    /// The code under which a message is parked for this.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::MixedOrder => "mixed_order",
        }
    }
}
