//! What happened to a token, as stored for ever. Names and fields are pinned by hand: a change of shape is an upcaster,
//! a change of meaning a new event. The secret itself is in none of them; its digest is in Created and SecretRotated.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{TokenName, TokenType};
use crate::ids::{MemberId, OrganizationId, TokenId};
use crate::policy::Statement;
use crate::secret::SecretDigest;
use crate::stored::stored_events;
use crate::upcast::current_version;

stored_events! {
    /// An event of a token's stream.
    #[derive(Clone, Debug, PartialEq)]
    pub enum AccessTokenEvent = "AccessTokenEvent" {
        /// A token was issued.
        #[serde(rename = "access_token.created", rename_all = "camelCase")]
        Created(Box<Created>),
        /// It has another name.
        #[serde(rename = "access_token.renamed", rename_all = "camelCase")]
        Renamed {
            /// Which token.
            token_id: TokenId,
            /// In which organization.
            organization_id: OrganizationId,
            /// The name from now on.
            name: TokenName,
        },
        /// Its description was changed or taken away.
        #[serde(rename = "access_token.description_changed", rename_all = "camelCase")]
        DescriptionChanged {
            /// Which token.
            token_id: TokenId,
            /// In which organization.
            organization_id: OrganizationId,
            /// The description from now on.
            description: Option<String>,
        },
        /// Its expiry was changed or taken away.
        #[serde(rename = "access_token.expiry_changed", rename_all = "camelCase")]
        ExpiryChanged {
            /// Which token.
            token_id: TokenId,
            /// In which organization.
            organization_id: OrganizationId,
            /// From this time on it can't be used.
            expires_at: Option<DateTime<Utc>>,
        },
        /// The addresses it may be used from were changed.
        #[serde(rename = "access_token.allowed_ips_changed", rename_all = "camelCase")]
        AllowedIpsChanged {
            /// Which token.
            token_id: TokenId,
            /// In which organization.
            organization_id: OrganizationId,
            /// The only addresses from now on; none: from everywhere.
            allowed_ips: Vec<IpNet>,
        },
        /// It has another secret.
        #[serde(rename = "access_token.secret_rotated", rename_all = "camelCase")]
        SecretRotated {
            /// Which token.
            token_id: TokenId,
            /// In which organization.
            organization_id: OrganizationId,
            /// Until when the secret before goes on working; none: it ended at once.
            previous_until: Option<DateTime<Utc>>,
            /// SHA-256 of the new secret.
            digest: SecretDigest,
            /// What people may see of it.
            hint: String,
        },
        /// It may be used (again).
        #[serde(rename = "access_token.activated", rename_all = "camelCase")]
        Activated {
            /// Which token.
            token_id: TokenId,
            /// In which organization.
            organization_id: OrganizationId,
            /// The creator's membership at the time: a personal token is usable only while it lasts.
            membership_number: u32,
        },
        /// It may not be used until it is activated.
        #[serde(rename = "access_token.deactivated", rename_all = "camelCase")]
        Deactivated {
            /// Which token.
            token_id: TokenId,
            /// In which organization.
            organization_id: OrganizationId,
            /// Why.
            reason: DeactivationReason,
        },
        /// It can never be used again.
        #[serde(rename = "access_token.removed", rename_all = "camelCase")]
        Removed {
            /// Which token.
            token_id: TokenId,
            /// In which organization.
            organization_id: OrganizationId,
        },
    }
}

/// Everything there is to know of a token when it is issued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// Which token.
    pub token_id: TokenId,
    /// In which organization.
    pub organization_id: OrganizationId,
    /// The member who made it.
    pub creator_id: MemberId,
    /// The creator's membership at the time.
    pub membership_number: u32,
    /// Its first name.
    pub name: TokenName,
    /// Fixed for ever.
    pub token_type: TokenType,
    /// A service token's permission, for ever; a personal token's narrowing, none: not narrowed.
    pub statements: Vec<Statement>,
    /// A few words of its creator.
    pub description: Option<String>,
    /// From this time on it can't be used.
    pub expires_at: Option<DateTime<Utc>>,
    /// The only addresses it may be used from; none: from everywhere.
    pub allowed_ips: Vec<IpNet>,
    /// SHA-256 of the secret.
    pub digest: SecretDigest,
    /// What people may see of the secret.
    pub hint: String,
}

/// Why a token was deactivated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum DeactivationReason {
    /// A member asked for it.
    ByMember,
    /// Its creator left the organization; only memberships up to this number are closed by it.
    CreatorRemoved {
        /// The membership that ended.
        membership_number: u32,
    },
    /// Its time was over.
    Expired,
}

impl DeactivationReason {
    /// The reason as a word: `by_member`, `creator_removed`, `expired`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ByMember => "by_member",
            Self::CreatorRemoved { .. } => "creator_removed",
            Self::Expired => "expired",
        }
    }
}

impl AccessTokenEvent {
    /// All that are stored.
    pub const TYPES: [&str; 9] = [
        "access_token.created",
        "access_token.renamed",
        "access_token.description_changed",
        "access_token.expiry_changed",
        "access_token.allowed_ips_changed",
        "access_token.secret_rotated",
        "access_token.activated",
        "access_token.deactivated",
        "access_token.removed",
    ];

    /// In which organization it happened.
    #[must_use]
    pub fn organization_id(&self) -> OrganizationId {
        match self {
            Self::Created(created) => created.organization_id,
            Self::Renamed { organization_id, .. }
            | Self::DescriptionChanged { organization_id, .. }
            | Self::ExpiryChanged { organization_id, .. }
            | Self::AllowedIpsChanged { organization_id, .. }
            | Self::SecretRotated { organization_id, .. }
            | Self::Activated { organization_id, .. }
            | Self::Deactivated { organization_id, .. }
            | Self::Removed { organization_id, .. } => *organization_id,
        }
    }

    /// To which token it happened.
    #[must_use]
    pub fn token_id(&self) -> TokenId {
        match self {
            Self::Created(created) => created.token_id,
            Self::Renamed { token_id, .. }
            | Self::DescriptionChanged { token_id, .. }
            | Self::ExpiryChanged { token_id, .. }
            | Self::AllowedIpsChanged { token_id, .. }
            | Self::SecretRotated { token_id, .. }
            | Self::Activated { token_id, .. }
            | Self::Deactivated { token_id, .. }
            | Self::Removed { token_id, .. } => *token_id,
        }
    }
}

impl DomainEvent for AccessTokenEvent {
    fn event_type(&self) -> String {
        match self {
            Self::Created(_) => "access_token.created",
            Self::Renamed { .. } => "access_token.renamed",
            Self::DescriptionChanged { .. } => "access_token.description_changed",
            Self::ExpiryChanged { .. } => "access_token.expiry_changed",
            Self::AllowedIpsChanged { .. } => "access_token.allowed_ips_changed",
            Self::SecretRotated { .. } => "access_token.secret_rotated",
            Self::Activated { .. } => "access_token.activated",
            Self::Deactivated { .. } => "access_token.deactivated",
            Self::Removed { .. } => "access_token.removed",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        current_version(&self.event_type()).to_owned()
    }
}
