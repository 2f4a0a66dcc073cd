//! A question asked of the past: what would have been answered then, and every statement that had a say in it.

use super::{AsOf, InForce};
use crate::access_token::TokenType;
use crate::authorization::{Answer, Credential, Question, Reason, decide_for_member, decide_for_token};
use crate::ids::OrganizationId;
use crate::member::Standing;
use crate::policy::{Effect, ResourcePattern, Statement, StatementId};
use crate::secret::SecretDigest;

/// A statement that has a say in a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Say {
    /// Whose it is.
    pub source: Source,
    /// The statement.
    pub statement: Statement,
    /// The pattern by which it speaks of the resource; none where it speaks of everything.
    pub pattern: Option<ResourcePattern>,
    /// Of the event that put it in force.
    pub position: i64,
    /// Of the first event that took this from it; then it has no say any more.
    pub revoked_at: Option<i64>,
}

/// Whose a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The service token's own.
    Token,
    /// The member's: the one asked about, or a personal token's creator.
    Member,
    /// What a personal token was narrowed to.
    Scope,
}

impl AsOf {
    /// May the token do it? `presented` is the secret it was found by. With the id of the statement it rests on.
    #[must_use]
    pub fn decide(
        &self,
        presented: Option<&SecretDigest>,
        question: &Question<'_>,
    ) -> (Reason, Option<StatementId>) {
        match Credential::of(&self.token) {
            None => (Reason::UnknownToken, None),
            Some(token) => owned(decide_for_token(&token, presented, &self.standing(), question)),
        }
    }

    /// May the member do it, by its own permission?
    #[must_use]
    pub fn decide_for_member(
        &self,
        organization_id: OrganizationId,
        question: &Question<'_>,
    ) -> (Reason, Option<StatementId>) {
        owned(decide_for_member(&self.standing(), organization_id, question))
    }

    /// Every statement that has a say in it, or had before it was revoked, in their order. Of a member where there is no
    /// token.
    #[must_use]
    pub fn says(&self, question: &Question<'_>) -> Vec<Say> {
        let (source, statements) = match self.token() {
            Some(token) if token.token_type == TokenType::Service => (Source::Token, self.statements()),
            Some(_) => (Source::Member, self.statements()),
            None if self.creator_has_ended => (Source::Member, Vec::new()),
            None => (Source::Member, self.creators_statements()),
        };
        let scope = self
            .scope()
            .unwrap_or_default()
            .into_iter()
            .map(|statement| InForce {
                statement,
                position: self.created_position,
                revoked: Vec::new(),
            });
        let of = |source| move |in_force| Say::of(source, in_force, question);
        let mut says: Vec<Say> = statements.into_iter().filter_map(of(source)).collect();
        says.extend(scope.filter_map(of(Source::Scope)));
        says
    }

    fn standing(&self) -> Standing {
        let mut standing = self.creator.standing();
        standing.is_member &= !self.creator_has_ended;
        standing
    }
}

impl Say {
    fn of(source: Source, in_force: InForce, question: &Question<'_>) -> Option<Self> {
        let (resource, action) = (question.resource, question.action);
        let statement = in_force.statement;
        if !statement.matches(resource, action) {
            return None;
        }
        let patterns = statement.resources.iter();
        let pattern = match statement.is_about_everything() {
            true => None,
            false => patterns
                .into_iter()
                .find(|pattern| pattern.matches(resource))
                .cloned(),
        };
        let mut revoked = in_force.revoked.iter();
        let revoked_at = revoked
            .find(|revoked| statement.effect == Effect::Allow && revoked.revocation.takes(resource, action))
            .map(|revoked| revoked.position);
        Some(Self {
            source,
            statement,
            pattern,
            position: in_force.position,
            revoked_at,
        })
    }
}

fn owned(answer: Answer<'_>) -> (Reason, Option<StatementId>) {
    (answer.reason, answer.statement_id.cloned())
}
