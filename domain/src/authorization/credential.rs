//! What decisions need of a token, and nothing else, in little room: every node keeps one for each token there is. What
//! people read of a token (its name, who changed it) is in none of them.

use chrono::{DateTime, Utc};
use ipnet::IpNet;

use crate::access_token::{AccessToken, AccessTokenEvent, Created, Secrets, Status, Token, TokenType};
use crate::ids::OrganizationId;
use crate::policy::{Granted, Permission};

/// A token as decisions know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    /// In which organization.
    pub organization_id: OrganizationId,
    /// Whose permission it carries.
    pub token_type: TokenType,
    /// What became of it.
    pub state: CredentialState,
    /// The creator's membership when it was created or last activated.
    pub membership_number: u32,
    /// From this time on it can't be used.
    pub expires_at: Option<DateTime<Utc>>,
    /// The only addresses it may be used from; none: from everywhere.
    pub allowed_ips: Box<[IpNet]>,
    /// A service token's permission; a personal token's narrowing, empty: not narrowed.
    pub permission: Granted,
    /// What it is recognised by.
    pub secrets: Secrets,
}

/// What became of a token, by its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialState {
    /// May be used.
    Active,
    /// May not, until it is activated.
    Inactive,
    /// Never again.
    Removed,
}

impl Credential {
    /// Of a token just issued.
    #[must_use]
    pub fn issued(created: &Created) -> Self {
        Self {
            organization_id: created.organization_id,
            token_type: created.token_type,
            state: CredentialState::Active,
            membership_number: created.membership_number,
            expires_at: created.expires_at,
            allowed_ips: created.allowed_ips.as_slice().into(),
            permission: Granted::new(Permission::from_statements(created.statements.clone())),
            secrets: Secrets::new(created.digest),
        }
    }

    /// Of a token as its stream gives it; none where it was never issued.
    #[must_use]
    pub fn of(token: &AccessToken) -> Option<Self> {
        match token {
            AccessToken::Unknown => None,
            AccessToken::Live(token) => Some(Self::with_state(token, CredentialState::of(token.status))),
            AccessToken::Removed(token) => Some(Self::with_state(token, CredentialState::Removed)),
        }
    }

    fn with_state(token: &Token, state: CredentialState) -> Self {
        Self {
            organization_id: token.organization_id,
            token_type: token.token_type,
            state,
            membership_number: token.membership_number,
            expires_at: token.expires_at,
            allowed_ips: token.allowed_ips.as_slice().into(),
            permission: Granted::new(token.permission.clone()),
            secrets: token.secrets.clone(),
        }
    }

    /// The token's next event, as far as decisions depend on it. Nothing happens to a removed token.
    pub fn apply(&mut self, event: &AccessTokenEvent) {
        if self.state == CredentialState::Removed {
            return;
        }
        match event {
            AccessTokenEvent::Created(_)
            | AccessTokenEvent::Renamed { .. }
            | AccessTokenEvent::DescriptionChanged { .. } => {}
            AccessTokenEvent::ExpiryChanged { expires_at, .. } => self.expires_at = *expires_at,
            AccessTokenEvent::AllowedIpsChanged { allowed_ips, .. } => {
                self.allowed_ips = allowed_ips.as_slice().into();
            }
            AccessTokenEvent::SecretRotated {
                digest,
                previous_until,
                ..
            } => self.secrets = self.secrets.rotated(*digest, *previous_until),
            AccessTokenEvent::Activated {
                membership_number, ..
            } => {
                self.state = CredentialState::Active;
                self.membership_number = *membership_number;
            }
            AccessTokenEvent::Deactivated { reason, .. } => {
                self.state = CredentialState::of(Status::Inactive(*reason))
            }
            AccessTokenEvent::Removed { .. } => self.remove(),
        }
    }

    /// Ends it for ever.
    pub fn remove(&mut self) {
        self.state = CredentialState::Removed;
    }
}

impl CredentialState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Active, Self::Inactive, Self::Removed];

    /// The state as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Removed => "removed",
        }
    }

    fn of(status: Status) -> Self {
        match status {
            Status::Active => Self::Active,
            Status::Inactive(_) => Self::Inactive,
        }
    }
}
