//! An access token: who made it, what it may do, and whether it can be used. Decided from its own stream and, for a
//! personal token, its creator's standing at the moment of the command.

mod command;
mod event;
pub mod management;
mod name;
mod secrets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use command::{AccessTokenCommand, AccessTokenRefusal, CreatorStanding, Update};
pub use event::{AccessTokenEvent, Created, DeactivationReason};
pub use name::{InvalidTokenName, TokenName, name_key};
pub use secrets::{Rotation, Secrets};

use crate::ids::{MemberId, OrganizationId, TokenId};
use crate::policy::{Action, Effect, Permission, ResourcePattern, Statement};
use crate::secret::SecretKind;
use crate::upcast::Upcaster;

/// Changes of shape of a token's events: none yet.
pub(crate) const UPCASTERS: &[Upcaster] = &[];

/// Whose permission a token carries: its creator's as it stands, or its own. FeatBit's words, case-sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TokenType {
    /// May do what its creator may do now, narrowed by its own statements if it has any.
    Personal,
    /// May do what its statements say, for ever.
    Service,
}

impl TokenType {
    /// FeatBit's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Personal => "Personal",
            Self::Service => "Service",
        }
    }

    /// The type named by FeatBit's word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Personal" => Some(Self::Personal),
            "Service" => Some(Self::Service),
            _ => None,
        }
    }

    /// Which secrets tokens of this type have.
    #[must_use]
    pub fn secret_kind(self) -> SecretKind {
        match self {
            Self::Personal => SecretKind::Personal,
            Self::Service => SecretKind::Service,
        }
    }
}

/// The state of one token's stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum AccessToken {
    /// Nothing has happened yet.
    #[default]
    Unknown,
    /// Issued and not removed.
    Live(Box<Token>),
    /// Removed: for ever.
    Removed(Box<Token>),
}

/// A token that was issued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Which.
    pub id: TokenId,
    /// In which organization.
    pub organization_id: OrganizationId,
    /// The member who made it.
    pub creator_id: MemberId,
    /// Its name now.
    pub name: TokenName,
    /// Whose permission it carries.
    pub token_type: TokenType,
    /// What its own stream says of it.
    pub status: Status,
    /// The creator's membership when it was created or last activated.
    pub membership_number: u32,
    /// A service token's permission; a personal token's narrowing, empty: not narrowed.
    pub permission: Permission,
    /// A few words of its creator.
    pub description: Option<String>,
    /// From this time on it can't be used.
    pub expires_at: Option<DateTime<Utc>>,
    /// The only addresses it may be used from; none: from everywhere.
    pub allowed_ips: Vec<IpNet>,
    /// What it is recognised by.
    pub secrets: Secrets,
}

/// FeatBit's words for a token's status, as the token's own stream has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// May be used.
    Active,
    /// May not, for a reason.
    Inactive(DeactivationReason),
}

impl Token {
    /// Can it be used: by its own status, its expiry, and for a personal token its creator's membership?
    #[must_use]
    pub fn is_effectively_active(&self, creator: CreatorStanding) -> bool {
        self.status == Status::Active && !self.is_expired(creator.now) && self.membership_holds(creator)
    }

    /// Has its time passed? The instant of expiry itself counts as passed.
    #[must_use]
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// Would the update let it be used longer, or from more addresses?
    #[must_use]
    pub fn is_widened_by(&self, update: &Update) -> bool {
        let longer = match (self.expires_at, update.expires_at) {
            (_, None) | (None, Some(_)) => false,
            (Some(_), Some(None)) => true,
            (Some(before), Some(Some(after))) => after > before,
        };
        let from_more = update.allowed_ips.as_ref().is_some_and(|after| {
            let covered = |net: &IpNet| self.allowed_ips.iter().any(|before| before.contains(net));
            !self.allowed_ips.is_empty() && (after.is_empty() || !after.iter().all(covered))
        });
        longer || from_more
    }

    fn membership_holds(&self, creator: CreatorStanding) -> bool {
        match self.token_type {
            TokenType::Service => true,
            TokenType::Personal => creator.is_member && creator.membership_number == self.membership_number,
        }
    }

    fn activate(&self, creator: CreatorStanding) -> Result<Vec<AccessTokenEvent>, AccessTokenRefusal> {
        if self.is_effectively_active(creator) {
            return Ok(Vec::new());
        }
        if self.is_expired(creator.now) {
            return Err(AccessTokenRefusal::TokenIsExpired);
        }
        if self.token_type == TokenType::Personal && !creator.is_member {
            return Err(AccessTokenRefusal::CreatorIsNotAMember);
        }
        Ok(vec![AccessTokenEvent::Activated {
            token_id: self.id,
            organization_id: self.organization_id,
            membership_number: creator.membership_number,
        }])
    }

    /// A creator's removal closes the memberships up to its number: a token activated under a later one is not touched.
    fn deactivate(&self, reason: DeactivationReason) -> Vec<AccessTokenEvent> {
        let closed = match reason {
            DeactivationReason::CreatorRemoved { membership_number } => {
                self.token_type == TokenType::Personal && self.membership_number <= membership_number
            }
            DeactivationReason::ByMember | DeactivationReason::Expired => true,
        };
        if !closed || self.status != Status::Active {
            return Vec::new();
        }
        vec![AccessTokenEvent::Deactivated {
            token_id: self.id,
            organization_id: self.organization_id,
            reason,
        }]
    }

    /// A secret that nobody could use is not handed out; one of a token that is inactive is, to be activated later.
    fn rotate(&self, rotation: Rotation) -> Result<Vec<AccessTokenEvent>, AccessTokenRefusal> {
        if self.is_expired(rotation.now) {
            return Err(AccessTokenRefusal::TokenIsExpired);
        }
        Ok(vec![AccessTokenEvent::SecretRotated {
            token_id: self.id,
            organization_id: self.organization_id,
            previous_until: rotation.previous_until(self.expires_at),
            digest: rotation.digest,
            hint: rotation.hint,
        }])
    }

    fn update(
        &self,
        update: Update,
        now: DateTime<Utc>,
    ) -> Result<Vec<AccessTokenEvent>, AccessTokenRefusal> {
        let (token_id, organization_id) = (self.id, self.organization_id);
        if self.token_type == TokenType::Service
            && update
                .statements
                .is_some_and(|statements| !same_statements(&self.permission, &statements))
        {
            return Err(AccessTokenRefusal::PermissionsAreFixed);
        }
        let renamed = update
            .name
            .filter(|name| *name != self.name)
            .map(|name| AccessTokenEvent::Renamed {
                token_id,
                organization_id,
                name,
            });
        let described = update
            .description
            .filter(|description| *description != self.description)
            .map(|description| AccessTokenEvent::DescriptionChanged {
                token_id,
                organization_id,
                description,
            });
        let expiry = update
            .expires_at
            .filter(|expires_at| *expires_at != self.expires_at)
            .map(|expires_at| AccessTokenEvent::ExpiryChanged {
                token_id,
                organization_id,
                expires_at,
            });
        // Its time was over, whether or not that was written down by now: with a new expiry it still has to be activated.
        let expired = expiry
            .as_ref()
            .filter(|_| self.is_expired(now))
            .map(|_| DeactivationReason::Expired);
        let stopped = expired.map(|reason| self.deactivate(reason)).unwrap_or_default();
        let addresses = update
            .allowed_ips
            .filter(|allowed_ips| *allowed_ips != self.allowed_ips)
            .map(|allowed_ips| AccessTokenEvent::AllowedIpsChanged {
                token_id,
                organization_id,
                allowed_ips,
            });
        Ok(stopped
            .into_iter()
            .chain([renamed, described, expiry, addresses].into_iter().flatten())
            .collect())
    }
}

/// Equal as sets, ids aside; so are the actions and the resources of a statement.
fn same_statements(permission: &Permission, statements: &[Statement]) -> bool {
    let wanted: HashSet<_> = statements.iter().map(meaning).collect();
    permission.statements().map(meaning).collect::<HashSet<_>>() == wanted
}

/// All that is in a statement but its id, in whatever order it is said.
fn meaning(statement: &Statement) -> (Effect, &str, BTreeSet<&str>, BTreeSet<&str>) {
    (
        statement.effect,
        &statement.resource_type,
        statement.actions.iter().map(Action::as_str).collect(),
        statement.resources.iter().map(ResourcePattern::as_str).collect(),
    )
}

impl AccessToken {
    /// The token, if it was issued and not removed.
    #[must_use]
    pub fn live(&self) -> Option<&Token> {
        match self {
            Self::Live(token) => Some(token),
            Self::Unknown | Self::Removed(_) => None,
        }
    }

    /// The events that a command comes to; none where it is already true.
    ///
    /// # Errors
    /// [`AccessTokenRefusal`] names why it can't be true.
    pub fn decide(&self, command: AccessTokenCommand) -> Result<Vec<AccessTokenEvent>, AccessTokenRefusal> {
        match (self, command) {
            (Self::Unknown, AccessTokenCommand::Create(created)) => {
                Ok(vec![AccessTokenEvent::Created(created)])
            }
            (Self::Live(_) | Self::Removed(_), AccessTokenCommand::Create(_)) => {
                Err(AccessTokenRefusal::AlreadyExists)
            }
            (Self::Live(token), AccessTokenCommand::Update(update, now)) => token.update(update, now),
            (Self::Live(token), AccessTokenCommand::Rotate(rotation)) => token.rotate(rotation),
            (Self::Live(token), AccessTokenCommand::Activate(creator)) => token.activate(creator),
            (Self::Live(token), AccessTokenCommand::Deactivate(reason)) => Ok(token.deactivate(reason)),
            (Self::Live(token), AccessTokenCommand::Remove) => Ok(vec![AccessTokenEvent::Removed {
                token_id: token.id,
                organization_id: token.organization_id,
            }]),
            (Self::Unknown | Self::Removed(_), AccessTokenCommand::Remove) => Ok(Vec::new()),
            (Self::Unknown | Self::Removed(_), _) => Err(AccessTokenRefusal::NoSuchToken),
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Token)) {
        if let Self::Live(token) = self {
            change(token);
        }
    }
}

impl From<Created> for Token {
    fn from(created: Created) -> Self {
        Self {
            id: created.token_id,
            organization_id: created.organization_id,
            creator_id: created.creator_id,
            name: created.name,
            token_type: created.token_type,
            status: Status::Active,
            membership_number: created.membership_number,
            permission: Permission::from_statements(created.statements),
            description: created.description,
            expires_at: created.expires_at,
            allowed_ips: created.allowed_ips,
            secrets: Secrets::new(created.digest),
        }
    }
}

impl Aggregate for AccessToken {
    const TYPE: &'static str = "access_token";
    type Command = AccessTokenCommand;
    type Event = AccessTokenEvent;
    type Error = AccessTokenRefusal;
    type Services = ();

    async fn handle(
        &mut self,
        command: Self::Command,
        (): &Self::Services,
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        for event in self.decide(command)? {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: AccessTokenEvent) {
        match event {
            // Only ever the first: nothing brings a removed token back.
            AccessTokenEvent::Created(created) => {
                if *self == Self::Unknown {
                    *self = Self::Live(Box::new((*created).into()));
                }
            }
            AccessTokenEvent::Renamed { name, .. } => self.change(|token| token.name = name),
            AccessTokenEvent::DescriptionChanged { description, .. } => {
                self.change(|token| token.description = description);
            }
            AccessTokenEvent::ExpiryChanged { expires_at, .. } => {
                self.change(|token| token.expires_at = expires_at);
            }
            AccessTokenEvent::AllowedIpsChanged { allowed_ips, .. } => {
                self.change(|token| token.allowed_ips = allowed_ips);
            }
            AccessTokenEvent::Activated {
                membership_number, ..
            } => self.change(|token| {
                token.status = Status::Active;
                token.membership_number = membership_number;
            }),
            AccessTokenEvent::Deactivated { reason, .. } => {
                self.change(|token| token.status = Status::Inactive(reason));
            }
            AccessTokenEvent::SecretRotated {
                digest,
                previous_until,
                ..
            } => self.change(|token| token.secrets = token.secrets.rotated(digest, previous_until)),
            AccessTokenEvent::Removed { .. } => {
                if let Self::Live(token) = self {
                    *self = Self::Removed(token.clone());
                }
            }
        }
    }
}
