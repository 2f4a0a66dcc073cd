//! The organization, the people, the hours and the statements that the tests of this crate speak of.

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use uuid::Uuid;

use crate::access_token::{Created, TokenName, TokenType};
use crate::ids::{MemberId, OrganizationId, TokenId};
use crate::member::{Member, MemberEvent, Place};
use crate::policy::{Action, Effect, ResourcePattern, Statement};
use crate::secret::SecretDigest;

/// A flag in production, and one in development.
pub(crate) const PROD: &str = "project/web:env/prod:flag/dark";
pub(crate) const DEV: &str = "project/web:env/dev:flag/dark";
/// Every flag.
pub(crate) const FLAGS: &str = "project/*:env/*:flag/*";
/// Every flag in production.
pub(crate) const PROD_FLAGS: &str = "project/*:env/prod:flag/*";

pub(crate) fn organization() -> OrganizationId {
    Uuid::from_u128(0xa).into()
}

pub(crate) fn other_organization() -> OrganizationId {
    Uuid::from_u128(0xb).into()
}

/// The one who makes the tokens.
pub(crate) fn ada() -> MemberId {
    Uuid::from_u128(1).into()
}

/// Somebody else.
pub(crate) fn bob() -> MemberId {
    Uuid::from_u128(2).into()
}

pub(crate) fn token_id() -> TokenId {
    Uuid::from_u128(0x7).into()
}

/// This many milliseconds into the tests' day.
pub(crate) fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_795_428_000_000 + millis).expect("a time")
}

pub(crate) fn allow(id: &str, action: &str, resource: &str) -> Statement {
    statement(id, Effect::Allow, action, resource)
}

pub(crate) fn deny(id: &str, action: &str, resource: &str) -> Statement {
    statement(id, Effect::Deny, action, resource)
}

fn statement(id: &str, effect: Effect, action: &str, resource: &str) -> Statement {
    Statement {
        id: Some(id.to_owned()),
        resource_type: "flag".to_owned(),
        effect,
        actions: vec![Action::new(action)],
        resources: vec![ResourcePattern::new(resource)],
    }
}

pub(crate) fn name(text: &str) -> TokenName {
    TokenName::parse(text).expect("a name")
}

/// Ada's token `deploy`, in her first membership, without expiry and usable from everywhere.
pub(crate) fn created(token_type: TokenType, statements: Vec<Statement>) -> Created {
    Created {
        token_id: token_id(),
        organization_id: organization(),
        creator_id: ada(),
        membership_number: 1,
        name: name("deploy"),
        token_type,
        statements,
        description: None,
        expires_at: None,
        allowed_ips: Vec::new(),
        digest: SecretDigest::from_bytes([7; 32]),
        hint: "api-p_abcd*******************".to_owned(),
    }
}

/// A member that joined with these statements.
pub(crate) fn member(statements: Vec<Statement>) -> Member {
    let mut member = Member::default();
    member.apply(MemberEvent::Added {
        organization_id: organization(),
        member_id: ada(),
        place: Place::Arrival(1),
        membership_number: 1,
        statements,
    });
    member
}

/// The same, with a message parked.
pub(crate) fn blocked(mut member: Member) -> Member {
    member.apply(MemberEvent::Blocked {
        organization_id: organization(),
        member_id: ada(),
        parked_id: Uuid::from_u128(9),
        reason: "body_is_invalid".to_owned(),
    });
    member
}
