//! What decisions need of a token, and nothing else, in little room: every node keeps one for each token there is. What
//! people read of a token (its name, who changed it) is in none of them.

use chrono::{DateTime, Utc};
use ipnet::IpNet;

use crate::access_token::{AccessToken, AccessTokenEvent, Created, Secrets, Status, Token, TokenType};
use crate::ids::OrganizationId;
use crate::policy::{Granted, Permission};
use crate::secret::SecretDigest;

/// A token as decisions know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    pub(super) organization_id: OrganizationId,
    pub(super) token_type: TokenType,
    pub(super) state: State,
    pub(super) membership_number: u32,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) allowed_ips: Box<[IpNet]>,
    pub(super) permission: Granted,
    pub(super) secrets: Secrets,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Active,
    Inactive,
    Removed,
}

impl Credential {
    /// Of a token just issued.
    #[must_use]
    pub fn issued(created: &Created) -> Self {
        Self {
            organization_id: created.organization_id,
            token_type: created.token_type,
            state: State::Active,
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
            AccessToken::Live(token) => Some(Self::with_state(token, State::of(token.status))),
            AccessToken::Removed(token) => Some(Self::with_state(token, State::Removed)),
        }
    }

    fn with_state(token: &Token, state: State) -> Self {
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
        if self.state == State::Removed {
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
                self.state = State::Active;
                self.membership_number = *membership_number;
            }
            AccessTokenEvent::Deactivated { reason, .. } => self.state = State::of(Status::Inactive(*reason)),
            AccessTokenEvent::Removed { .. } => self.remove(),
        }
    }

    /// Ends it for ever.
    pub fn remove(&mut self) {
        self.state = State::Removed;
    }

    /// Was it removed?
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.state == State::Removed
    }

    /// Whose permission it carries.
    #[must_use]
    pub fn token_type(&self) -> TokenType {
        self.token_type
    }

    /// From this time on it can't be used.
    #[must_use]
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.expires_at
    }

    /// The digests of the secrets it may be found by.
    pub fn digests(&self) -> impl Iterator<Item = SecretDigest> {
        self.secrets.digests()
    }

    /// A service token's permission; a personal token's narrowing, empty: not narrowed.
    #[must_use]
    pub fn permission(&self) -> &Granted {
        &self.permission
    }

    /// The same, to share its rules.
    pub fn permission_mut(&mut self) -> &mut Granted {
        &mut self.permission
    }
}

impl State {
    fn of(status: Status) -> Self {
        match status {
            Status::Active => Self::Active,
            Status::Inactive(_) => Self::Inactive,
        }
    }
}
