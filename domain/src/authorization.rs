//! May this subject do this, here, now? The one function behind every decision, live or as of the past, with the reason
//! that came first. Pure: the caller brings the token, the standing and the time.

mod credential;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use credential::{Credential, CredentialState};

use crate::access_token::TokenType;
use crate::ids::OrganizationId;
use crate::member::Standing;
use crate::policy::{Effect, Granted, StatementId};
use crate::secret::SecretDigest;

/// Why a question was answered as it was: the first that applies, in this order. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The node can't vouch that it knows the log up to now.
    StaleReplica,
    /// No token has this secret or id.
    UnknownToken,
    /// It was removed.
    TokenRemoved,
    /// Its time has passed.
    TokenExpired,
    /// A message about the member is parked: what it may do is not known. Personal tokens and members.
    MemberBlocked,
    /// The creator (or the asking member) does not belong to the organization. Personal tokens and members.
    CreatorNotAMember,
    /// It was deactivated, or its creator has left since it was last activated.
    TokenInactive,
    /// Not from this address.
    IpNotAllowed,
    /// A statement denies it.
    DeniedByStatement,
    /// No statement speaks of it.
    NoMatchingStatement,
    /// The creator may, but the token was narrowed.
    OutsideTokenScope,
    /// A statement allows it and none denies it.
    Allowed,
}

/// What is asked, from where and when.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// FeatBit's permission, as `ToggleFlag`.
    pub action: &'a str,
    /// A resource name as raw text.
    pub resource: &'a str,
    /// The organization the asker believes the resource to be in, if it says so.
    pub organization_id: Option<OrganizationId>,
    /// The address of whoever presented the token.
    pub address: Option<IpAddr>,
    /// The time.
    pub now: DateTime<Utc>,
}

/// The answer, and the statement it rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer<'a> {
    /// Why.
    pub reason: Reason,
    /// The id of the statement that allowed or denied it, where one did and has an id.
    pub statement_id: Option<&'a StatementId>,
}

impl Answer<'_> {
    /// Is it allowed?
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.reason == Reason::Allowed
    }
}

impl From<Reason> for Answer<'_> {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            statement_id: None,
        }
    }
}

/// May this token do it? `presented` is the secret it was found by, none where it was named by its id. `creator` is its
/// creator's standing; only personal tokens depend on it. Does not allocate.
#[must_use]
pub fn decide_for_token<'a>(
    token: &'a Credential,
    presented: Option<&SecretDigest>,
    creator: &'a Standing,
    question: &Question<'_>,
) -> Answer<'a> {
    // A secret that was rotated away is nobody's, as if it had never been issued.
    if presented.is_some_and(|digest| !token.secrets.accept(digest, question.now)) {
        return Reason::UnknownToken.into();
    }
    match unusable_because(token, creator, question.now) {
        Some(reason) => reason.into(),
        None if !is_address_allowed(token, question.address) => Reason::IpNotAllowed.into(),
        None => permitted(token, creator, question),
    }
}

/// May this member do it, by its own permission? Does not allocate.
#[must_use]
pub fn decide_for_member<'a>(
    member: &'a Standing,
    organization_id: OrganizationId,
    question: &Question<'_>,
) -> Answer<'a> {
    match membership(member) {
        Some(reason) => reason.into(),
        None => by_permission(&member.permission, organization_id, question),
    }
}

/// Why a token can't be used by anybody, whatever is asked and wherever from; none where it can. The same for a decision
/// and for an account of what a token could do at some time.
#[must_use]
pub fn unusable_because(token: &Credential, creator: &Standing, now: DateTime<Utc>) -> Option<Reason> {
    if token.state == CredentialState::Removed {
        return Some(Reason::TokenRemoved);
    }
    if token.expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Some(Reason::TokenExpired);
    }
    if token.token_type == TokenType::Personal {
        if let Some(reason) = membership(creator) {
            return Some(reason);
        }
        if token.membership_number != creator.membership_number {
            return Some(Reason::TokenInactive);
        }
    }
    (token.state != CredentialState::Active).then_some(Reason::TokenInactive)
}

fn membership(member: &Standing) -> Option<Reason> {
    if member.is_blocked {
        Some(Reason::MemberBlocked)
    } else if !member.is_member {
        Some(Reason::CreatorNotAMember)
    } else {
        None
    }
}

/// An address that came as v6 but means v4 counts as v4.
fn is_address_allowed(token: &Credential, address: Option<IpAddr>) -> bool {
    token.allowed_ips.is_empty()
        || address.is_some_and(|address| {
            let address = address.to_canonical();
            token.allowed_ips.iter().any(|allowed| allowed.contains(&address))
        })
}

fn permitted<'a>(token: &'a Credential, creator: &'a Standing, question: &Question<'_>) -> Answer<'a> {
    match token.token_type {
        TokenType::Service => by_permission(&token.permission, token.organization_id, question),
        TokenType::Personal => {
            let answer = by_permission(&creator.permission, token.organization_id, question);
            if answer.is_allowed() && !is_in_scope(token, question) {
                return Reason::OutsideTokenScope.into();
            }
            answer
        }
    }
}

/// A personal token without statements is not narrowed.
fn is_in_scope(token: &Credential, question: &Question<'_>) -> bool {
    token.permission.is_empty()
        || token
            .permission
            .decide(question.resource, question.action)
            .is_some_and(|verdict| verdict.effect == Effect::Allow)
}

fn by_permission<'a>(
    permission: &'a Granted,
    organization_id: OrganizationId,
    question: &Question<'_>,
) -> Answer<'a> {
    if question
        .organization_id
        .is_some_and(|asked| asked != organization_id)
    {
        return Reason::NoMatchingStatement.into();
    }
    match permission.decide(question.resource, question.action) {
        None => Reason::NoMatchingStatement.into(),
        Some(verdict) => Answer {
            reason: match verdict.effect {
                Effect::Allow => Reason::Allowed,
                Effect::Deny => Reason::DeniedByStatement,
            },
            statement_id: verdict.statement_id,
        },
    }
}
