//! What a token could do at some position of the log, and which events put it so: the token, its creator and their
//! organization's removals, folded in the order of the log up to there. The same aggregates and the same rules as behind
//! a live decision; nothing here decides anything of its own.

mod answering;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use answering::{Say, Source};
use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;

use crate::access_token::{AccessToken, AccessTokenEvent, CreatorStanding, Token, TokenType};
use crate::authorization::{Credential, Reason, unusable_because};
use crate::member::{Member, MemberEvent};
use crate::policy::{Entry, Revocation, Statement};

/// A token and its creator, as the events applied so far give them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AsOf {
    token: AccessToken,
    created_position: i64,
    creator: Member,
    /// The position of the last event of the creator at each place: the one in force there, if any is.
    positions: BTreeMap<i64, i64>,
    /// Anything was heard of the creator.
    creator_is_known: bool,
    /// The organization was removed, and the creator has not been added since: then the token is removed too.
    creator_has_ended: bool,
}

/// A statement in force, the position of the event that put it in force, and what was taken from it.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    /// The statement, as it came.
    pub statement: Statement,
    /// Of the event that brought it.
    pub position: i64,
    /// Later revocations that took something from it, the oldest first.
    pub revoked: Vec<Revoked>,
}

/// A revocation, and the position of its event.
#[derive(Clone, Debug, PartialEq)]
pub struct Revoked {
    /// What was taken, and where.
    pub revocation: Revocation,
    /// Of the event that took it.
    pub position: i64,
}

impl AsOf {
    /// The token's next event.
    pub fn apply_to_token(&mut self, position: i64, event: &AccessTokenEvent) {
        self.token.apply(event.clone());
        if matches!(event, AccessTokenEvent::Created(_)) {
            self.created_position = position;
            self.creator_is_known = true;
            // Made in the moment after its organization was removed.
            if self.creator_has_ended {
                self.remove_token();
            }
        }
    }

    /// The creator's next event.
    pub fn apply_to_creator(&mut self, position: i64, event: &MemberEvent) {
        self.creator_is_known = true;
        if matches!(event, MemberEvent::Added { .. }) {
            self.creator_has_ended = false;
        }
        if let Some(place) = event.place() {
            self.positions.insert(place.number(), position);
        }
        self.creator.apply(event.clone());
    }

    /// The organization was removed: the token is, and the membership is over.
    pub fn remove_organization(&mut self) {
        self.creator_has_ended = self.creator_is_known;
        self.remove_token();
    }

    /// The token, removed or not; none where it was not created yet.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        match &self.token {
            AccessToken::Unknown => None,
            AccessToken::Live(token) | AccessToken::Removed(token) => Some(token),
        }
    }

    /// Why it could not be used at this time; none where it could. Addresses are not looked at.
    #[must_use]
    pub fn unusable_because(&self, now: DateTime<Utc>) -> Option<Reason> {
        match Credential::of(&self.token) {
            None => Some(Reason::UnknownToken),
            Some(token) => unusable_because(&token, &self.creator.standing(), now),
        }
    }

    /// Is its status Active at this time, as lists show it and `toggle` turns it? A blocked creator does not change that.
    #[must_use]
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        let creator = CreatorStanding {
            is_member: self.creator.is_member(),
            membership_number: self.creator.membership_number(),
            now,
        };
        self.token
            .live()
            .is_some_and(|token| token.is_effectively_active(creator))
    }

    /// What it rests on, in order: a service token's own statements, for a personal token its creator's.
    #[must_use]
    pub fn statements(&self) -> Vec<InForce> {
        match self.token() {
            Some(token) if token.token_type == TokenType::Service => {
                let own = token.permission.statements().cloned();
                own.map(|statement| InForce {
                    statement,
                    position: self.created_position,
                    revoked: Vec::new(),
                })
                .collect()
            }
            Some(_) if !self.creator_has_ended => self.creators_statements(),
            Some(_) | None => Vec::new(),
        }
    }

    /// The statements that narrow a personal token; none where nothing does, or it is a service token.
    #[must_use]
    pub fn scope(&self) -> Option<Vec<Statement>> {
        let token = self.token()?;
        let is_narrowed = token.token_type == TokenType::Personal && !token.permission.entries().is_empty();
        is_narrowed.then(|| token.permission.statements().cloned().collect())
    }

    fn creators_statements(&self) -> Vec<InForce> {
        let mut in_force: Vec<InForce> = Vec::new();
        for (place, entry) in self.creator.entries() {
            let position = self.positions.get(&place).copied().unwrap_or_default();
            match entry {
                Entry::Statement(statement) => in_force.push(InForce {
                    statement,
                    position,
                    revoked: Vec::new(),
                }),
                Entry::Revocation(revocation) => {
                    let earlier = in_force.iter_mut();
                    for taken in earlier.filter(|earlier| revocation.takes_from(&earlier.statement)) {
                        taken.revoked.push(Revoked {
                            revocation: revocation.clone(),
                            position,
                        });
                    }
                }
            }
        }
        in_force
    }

    /// As the reactor is about to write it down.
    fn remove_token(&mut self) {
        if let Some(token) = self.token.live() {
            let (token_id, organization_id) = (token.id, token.organization_id);
            self.token.apply(AccessTokenEvent::Removed {
                token_id,
                organization_id,
            });
        }
    }
}
