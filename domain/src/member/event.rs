//! What happened to a member of an organization, as stored for ever. Names and fields are pinned by hand: a change of
//! shape is an upcaster, a change of meaning a new event. Names and e-mail addresses never stand here (`profiles`).

use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{MemberId, OrganizationId};
use crate::policy::{Action, ResourcePattern, Statement};
use crate::stored::stored_events;
use crate::upcast::current_version;

/// Where an event stands among its member's: by the producer's version, or by the order of arrival where it sends none.
/// One member never mixes the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// The producer's `version`, rising per member.
    Version(i64),
    /// The how-many-eth event of the member this is, from 1.
    Arrival(i64),
}

impl Place {
    /// The number to order by; only comparable within one member.
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Self::Version(number) | Self::Arrival(number) => number,
        }
    }
}

stored_events! {
    /// An event of a member's stream.
    #[derive(Clone, Debug, PartialEq)]
    pub enum MemberEvent = "MemberEvent" {
        /// Joined, with exactly these statements; for a current member all permission was replaced.
        #[serde(rename = "member.added", rename_all = "camelCase")]
        Added {
            /// Whose member.
            organization_id: OrganizationId,
            /// Who.
            member_id: MemberId,
            /// Its place among the member's events.
            #[serde(flatten)]
            place: Place,
            /// How many times the member has joined with this; a personal token is usable only under the number it was
            /// created or last activated with.
            membership_number: u32,
            /// What the member may do from now on.
            statements: Vec<Statement>,
        },
        /// Statements were added; one with a known id replaces those that had it.
        #[serde(rename = "member.permission_granted", rename_all = "camelCase")]
        PermissionGranted {
            /// Whose member.
            organization_id: OrganizationId,
            /// Who.
            member_id: MemberId,
            /// Its place among the member's events.
            #[serde(flatten)]
            place: Place,
            /// What is added.
            statements: Vec<Statement>,
        },
        /// An action was taken from every allow granted before.
        #[serde(rename = "member.permission_revoked", rename_all = "camelCase")]
        PermissionRevoked {
            /// Whose member.
            organization_id: OrganizationId,
            /// Who.
            member_id: MemberId,
            /// Its place among the member's events.
            #[serde(flatten)]
            place: Place,
            /// The action, a group name, or `*`.
            permission: Action,
            /// Where; absent: everywhere.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            resources: Option<Vec<ResourcePattern>>,
        },
        /// The statements are exactly these from now on.
        #[serde(rename = "member.permissions_replaced", rename_all = "camelCase")]
        PermissionsReplaced {
            /// Whose member.
            organization_id: OrganizationId,
            /// Who.
            member_id: MemberId,
            /// Its place among the member's events.
            #[serde(flatten)]
            place: Place,
            /// All that the member may do.
            statements: Vec<Statement>,
        },
        /// Left the organization.
        #[serde(rename = "member.removed", rename_all = "camelCase")]
        Removed {
            /// Whose member.
            organization_id: OrganizationId,
            /// Who.
            member_id: MemberId,
            /// Its place among the member's events.
            #[serde(flatten)]
            place: Place,
            /// The membership that ended: personal tokens up to this number are of no use any more.
            membership_number: u32,
        },
        /// A message about the member could not be used: denied until it is released.
        #[serde(rename = "member.blocked", rename_all = "camelCase")]
        Blocked {
            /// Whose member.
            organization_id: OrganizationId,
            /// Who.
            member_id: MemberId,
            /// The parked message that blocks.
            parked_id: Uuid,
            /// Why it could not be used, a code.
            reason: String,
        },
        /// A parked message about the member was given up: what it said will never count.
        #[serde(rename = "member.message_dropped", rename_all = "camelCase")]
        MessageDropped {
            /// Whose member.
            organization_id: OrganizationId,
            /// Who.
            member_id: MemberId,
            /// The parked message.
            parked_id: Uuid,
            /// Why it was parked, a code.
            reason: String,
            /// Its CloudEvents type, if it had one.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            message_type: Option<String>,
        },
        /// Nothing parked holds the member any more.
        #[serde(rename = "member.released", rename_all = "camelCase")]
        Released {
            /// Whose member.
            organization_id: OrganizationId,
            /// Who.
            member_id: MemberId,
        },
    }
}

impl DomainEvent for MemberEvent {
    fn event_type(&self) -> String {
        match self {
            Self::Added { .. } => "member.added",
            Self::PermissionGranted { .. } => "member.permission_granted",
            Self::PermissionRevoked { .. } => "member.permission_revoked",
            Self::PermissionsReplaced { .. } => "member.permissions_replaced",
            Self::Removed { .. } => Self::REMOVED,
            Self::Blocked { .. } => "member.blocked",
            Self::MessageDropped { .. } => "member.message_dropped",
            Self::Released { .. } => "member.released",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        current_version(&self.event_type()).to_owned()
    }
}

impl MemberEvent {
    /// The type of the event that ends a membership.
    pub const REMOVED: &'static str = "member.removed";

    /// All that are stored.
    pub const TYPES: [&str; 8] = [
        "member.added",
        "member.permission_granted",
        "member.permission_revoked",
        "member.permissions_replaced",
        Self::REMOVED,
        "member.blocked",
        "member.message_dropped",
        "member.released",
    ];

    /// Its place among the member's events; none where it says nothing of what the member may do.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match *self {
            Self::Added { place, .. }
            | Self::PermissionGranted { place, .. }
            | Self::PermissionRevoked { place, .. }
            | Self::PermissionsReplaced { place, .. }
            | Self::Removed { place, .. } => Some(place),
            Self::Blocked { .. } | Self::MessageDropped { .. } | Self::Released { .. } => None,
        }
    }

    /// Whom it is about.
    #[must_use]
    pub fn subject(&self) -> (OrganizationId, MemberId) {
        match *self {
            Self::Added {
                organization_id,
                member_id,
                ..
            }
            | Self::PermissionGranted {
                organization_id,
                member_id,
                ..
            }
            | Self::PermissionRevoked {
                organization_id,
                member_id,
                ..
            }
            | Self::PermissionsReplaced {
                organization_id,
                member_id,
                ..
            }
            | Self::Removed {
                organization_id,
                member_id,
                ..
            }
            | Self::Blocked {
                organization_id,
                member_id,
                ..
            }
            | Self::MessageDropped {
                organization_id,
                member_id,
                ..
            }
            | Self::Released {
                organization_id,
                member_id,
            } => (organization_id, member_id),
        }
    }
}
