//! What each statement is said to come from, what is said to be taken from it, and what the organization's removal means.
//! That the answers equal the live ones is shown on a real log, in `tests/suite/management/as_of`.

use uuid::Uuid;

use super::*;
use crate::access_token::DeactivationReason;
use crate::member::Place;
use crate::policy::{Action, ResourcePattern};
use crate::samples::{FLAGS, PROD_FLAGS, ada, allow, at, created, deny, organization, token_id};

fn added(place: Place, membership_number: u32, statements: Vec<Statement>) -> MemberEvent {
    MemberEvent::Added {
        organization_id: organization(),
        member_id: ada(),
        place,
        membership_number,
        statements,
    }
}

fn granted(place: Place, statements: Vec<Statement>) -> MemberEvent {
    MemberEvent::PermissionGranted {
        organization_id: organization(),
        member_id: ada(),
        place,
        statements,
    }
}

fn revoked(place: Place, permission: &str, resources: Option<&[&str]>) -> MemberEvent {
    let patterns = |resources: &[&str]| resources.iter().copied().map(ResourcePattern::new).collect();
    MemberEvent::PermissionRevoked {
        organization_id: organization(),
        member_id: ada(),
        place,
        permission: Action::new(permission),
        resources: resources.map(patterns),
    }
}

fn removed(place: Place) -> MemberEvent {
    MemberEvent::Removed {
        organization_id: organization(),
        member_id: ada(),
        place,
        membership_number: 1,
    }
}

fn token(token_type: TokenType, statements: Vec<Statement>) -> AccessTokenEvent {
    AccessTokenEvent::Created(created(token_type, statements).into())
}

/// Ada's personal token, made at position 100, after these events of hers at 1, 2, 3 and so on.
fn personal(events: &[MemberEvent]) -> AsOf {
    let mut as_of = AsOf::default();
    for (position, event) in (1..).zip(events) {
        as_of.apply_to_creator(position, event);
    }
    as_of.apply_to_token(100, &token(TokenType::Personal, vec![]));
    as_of
}

/// `id@position`, and `-position` for each revocation.
fn told(as_of: &AsOf) -> Vec<String> {
    let statements = as_of.statements();
    let line = |it: &InForce| {
        let id = it.statement.id.clone().unwrap_or_default();
        let taken: String = it.revoked.iter().map(|it| format!("-{}", it.position)).collect();
        format!("{id}@{}{taken}", it.position)
    };
    statements.iter().map(line).collect()
}

use Place::{Arrival, Version};

/// Tried: the place for the position; a map that keeps the first position of a place.
#[test]
fn each_statement_names_the_event_that_put_it_in_force() {
    let as_of = personal(&[
        added(
            Arrival(1),
            1,
            vec![allow("a", "*", FLAGS), allow("b", "*", FLAGS)],
        ),
        granted(Arrival(2), vec![allow("c", "*", FLAGS)]),
        granted(Arrival(3), vec![allow("a", "*", PROD_FLAGS)]),
    ]);
    assert_eq!(told(&as_of), ["b@1", "c@2", "a@3"]);
    let late = personal(&[
        granted(Version(9), vec![allow("c", "*", FLAGS)]),
        added(Version(5), 1, vec![allow("a", "*", FLAGS)]),
        granted(Version(7), vec![allow("b", "*", FLAGS)]),
        added(Version(7), 1, vec![allow("d", "*", FLAGS)]),
    ]);
    assert_eq!(told(&late), ["d@4", "c@1"], "by version, whenever they came");
}

/// Tried: every revocation shown with every statement; `Revocation::takes_from` without its effect.
#[test]
fn a_revocation_stands_with_the_earlier_allows_it_takes_from_and_no_others() {
    let as_of = personal(&[
        added(
            Arrival(1),
            1,
            vec![
                allow("toggles", "ToggleFlag", FLAGS),
                allow("deletes", "DeleteFlag", FLAGS),
                deny("never", "ToggleFlag", FLAGS),
                allow("elsewhere", "ToggleFlag", "project/*:env/dev:flag/*"),
            ],
        ),
        revoked(Arrival(2), "ToggleFlag", Some(&[PROD_FLAGS])),
        granted(Arrival(3), vec![allow("later", "ToggleFlag", FLAGS)]),
        revoked(Arrival(4), "*", Some(&[])),
        revoked(Arrival(5), "*", None),
    ]);
    assert_eq!(
        told(&as_of),
        [
            "toggles@1-2-5",
            "deletes@1-5",
            "never@1",
            "elsewhere@1-5",
            "later@3-5"
        ]
    );
}

#[test]
fn a_creator_who_is_no_member_has_no_statements() {
    let mut as_of = personal(&[added(Arrival(1), 1, vec![allow("a", "*", FLAGS)])]);
    assert_eq!(as_of.unusable_because(at(0)), None);
    as_of.apply_to_creator(101, &removed(Arrival(2)));
    assert_eq!(told(&as_of), [""; 0]);
    assert_eq!(as_of.unusable_because(at(0)), Some(Reason::CreatorNotAMember));
    assert!(!as_of.is_active(at(0)));
    as_of.apply_to_creator(102, &added(Arrival(3), 2, vec![allow("b", "*", FLAGS)]));
    assert_eq!(told(&as_of), ["b@102"]);
    assert_eq!(as_of.unusable_because(at(0)), Some(Reason::TokenInactive));
}

#[test]
fn a_service_token_has_its_own_statements_and_no_scope_whatever_becomes_of_its_creator() {
    let mut as_of = AsOf::default();
    as_of.apply_to_creator(1, &added(Arrival(1), 1, vec![allow("a", "*", FLAGS)]));
    as_of.apply_to_token(2, &token(TokenType::Service, vec![allow("own", "*", FLAGS)]));
    as_of.apply_to_creator(3, &revoked(Arrival(2), "*", None));
    as_of.apply_to_creator(4, &removed(Arrival(3)));
    assert_eq!(told(&as_of), ["own@2"]);
    assert_eq!((as_of.scope(), as_of.unusable_because(at(0))), (None, None));
    assert!(as_of.is_active(at(0)));
}

#[test]
fn a_scope_is_what_a_personal_token_was_narrowed_to() {
    let narrowing = vec![allow("narrow", "ToggleFlag", PROD_FLAGS)];
    let mut as_of = AsOf::default();
    as_of.apply_to_token(2, &token(TokenType::Personal, narrowing.clone()));
    assert_eq!(as_of.scope(), Some(narrowing));
    assert_eq!(personal(&[]).scope(), None);
}

/// A blocked creator's token keeps its status: what is unknown is only what it may do.
#[test]
fn the_status_is_the_effective_one() {
    let member = added(Arrival(1), 1, vec![]);
    let mut as_of = personal(&[member]);
    as_of.apply_to_creator(
        101,
        &MemberEvent::Blocked {
            organization_id: organization(),
            member_id: ada(),
            parked_id: Uuid::from_u128(9),
            reason: "body_is_invalid".to_owned(),
        },
    );
    assert!(as_of.is_active(at(0)));
    assert_eq!(as_of.unusable_because(at(0)), Some(Reason::MemberBlocked));
    as_of.apply_to_token(
        102,
        &AccessTokenEvent::Deactivated {
            token_id: token_id(),
            organization_id: organization(),
            reason: DeactivationReason::ByMember,
        },
    );
    assert!(!as_of.is_active(at(0)));
}

/// Tried: without `creator_has_ended` in `statements`; without the removal in `apply_to_token`; not forgetting the end when
/// the creator is added again.
#[test]
fn an_organizations_removal_ends_the_token_and_the_membership_at_once() {
    let member = || added(Arrival(1), 1, vec![allow("a", "*", FLAGS)]);
    let mut before = personal(&[member()]);
    before.remove_organization();
    assert_eq!(before.unusable_because(at(0)), Some(Reason::TokenRemoved));
    assert_eq!((told(&before), before.is_active(at(0))), (vec![], false));

    let mut after = AsOf::default();
    after.apply_to_creator(1, &member());
    after.remove_organization();
    let mut too_late = after.clone();
    too_late.apply_to_token(3, &token(TokenType::Service, vec![]));
    assert_eq!(too_late.unusable_because(at(0)), Some(Reason::TokenRemoved));

    after.apply_to_creator(3, &added(Arrival(2), 1, vec![allow("b", "*", FLAGS)]));
    after.apply_to_token(4, &token(TokenType::Personal, vec![]));
    assert_eq!(after.unusable_because(at(0)), None);
    assert_eq!(told(&after), ["b@3"]);
}

#[test]
fn a_token_that_was_not_made_yet_is_none() {
    let as_of = AsOf::default();
    assert_eq!(as_of.token(), None);
    assert_eq!(as_of.unusable_because(at(0)), Some(Reason::UnknownToken));
    assert_eq!((as_of.statements(), as_of.scope()), (vec![], None));
}
