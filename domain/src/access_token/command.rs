//! What can be asked of a token, and why it may be refused. Who may ask is `management`'s business.

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use thiserror::Error;

use super::{Created, DeactivationReason, Rotation, TokenName};
use crate::policy::Statement;

/// A command to one token's stream.
#[derive(Clone, Debug, PartialEq)]
pub enum AccessTokenCommand {
    /// Issue it.
    Create(Box<Created>),
    /// Change what may be changed, at this time; absent: leave as it is.
    Update(Update, DateTime<Utc>),
    /// Give it another secret.
    Rotate(Rotation),
    /// Let it be used (again).
    Activate(CreatorStanding),
    /// Stop it until it is activated.
    Deactivate(DeactivationReason),
    /// Stop it for ever.
    Remove,
}

/// The changes a member may make to a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// Another name.
    pub name: Option<TokenName>,
    /// Another description, or none.
    pub description: Option<Option<String>>,
    /// Another expiry, or none.
    pub expires_at: Option<Option<DateTime<Utc>>>,
    /// Other addresses; none: from everywhere.
    pub allowed_ips: Option<Vec<IpNet>>,
    /// The statements the caller believes the token to have. A service token's can't be changed: they must be these,
    /// as a set, ids aside. A personal token's are ignored (FeatBit's page sends none, which must not widen a scope).
    pub statements: Option<Vec<Statement>>,
}

/// What a token needs to know of its creator, and of the hour, to know whether it can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatorStanding {
    /// Does the creator belong to the organization?
    pub is_member: bool,
    /// The creator's current membership.
    pub membership_number: u32,
    /// The time.
    pub now: DateTime<Utc>,
}

/// Why a command can't be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AccessTokenRefusal {
    /// There is no such token, or it was removed.
    #[error("there is no such token")]
    NoSuchToken,
    /// The id is taken.
    #[error("the token exists already")]
    AlreadyExists,
    /// A service token's statements are fixed at its creation.
    #[error("a service token's permissions are fixed")]
    PermissionsAreFixed,
    /// Its expiry has passed.
    #[error("the token has expired")]
    TokenIsExpired,
    /// A personal token can't be activated while its creator is no member.
    #[error("the token's creator is not a member")]
    CreatorIsNotAMember,
}
