//! What is said of a member, and what comes of it: given its events, when told, then these events or that refusal.
//! That the order of arrival does not count stands in `properties`.

mod interruption;
mod permission;

use cqrs_es::test::{AggregateTestExecutor, TestFramework};
use uuid::Uuid;

use super::*;
use crate::policy::{Action, Entry, ResourcePattern, Statement};
use crate::samples::{DEV, FLAGS, PROD, PROD_FLAGS, ada, allow, deny, organization};

fn given(events: Vec<MemberEvent>) -> AggregateTestExecutor<Member> {
    TestFramework::with(()).given(events)
}

fn command(change: MemberChange) -> MemberCommand {
    MemberCommand {
        organization_id: organization(),
        member_id: ada(),
        change,
    }
}

/// Heard with a version.
fn told(version: i64, fact: MembershipFact) -> MemberCommand {
    command(MemberChange::Membership {
        version: Some(version),
        fact,
    })
}

/// Heard without one.
fn told_next(fact: MembershipFact) -> MemberCommand {
    command(MemberChange::Membership { version: None, fact })
}

fn end() -> MemberCommand {
    command(MemberChange::EndWithOrganization)
}

fn block(parked: u128) -> MemberCommand {
    command(MemberChange::Block {
        parked_id: Uuid::from_u128(parked),
        reason: "body_is_invalid".to_owned(),
    })
}

fn release() -> MemberCommand {
    command(MemberChange::Release)
}

fn blocked(parked: u128) -> MemberEvent {
    MemberEvent::Blocked {
        organization_id: organization(),
        member_id: ada(),
        parked_id: Uuid::from_u128(parked),
        reason: "body_is_invalid".to_owned(),
    }
}

fn released() -> MemberEvent {
    MemberEvent::Released {
        organization_id: organization(),
        member_id: ada(),
    }
}

fn add(statements: &[Statement]) -> MembershipFact {
    MembershipFact::Added {
        statements: statements.to_vec(),
    }
}

fn grant(statements: &[Statement]) -> MembershipFact {
    MembershipFact::Granted {
        statements: statements.to_vec(),
    }
}

fn replace(statements: &[Statement]) -> MembershipFact {
    MembershipFact::Replaced {
        statements: statements.to_vec(),
    }
}

fn revocation(action: &str, resources: Option<&[&str]>) -> Revocation {
    Revocation {
        permission: Action::new(action),
        resources: resources.map(|texts| texts.iter().copied().map(ResourcePattern::new).collect()),
    }
}

fn revoke(action: &str, resources: Option<&[&str]>) -> MembershipFact {
    MembershipFact::Revoked(revocation(action, resources))
}

/// The event a fact comes to, at this place and under this membership number.
fn event(place: Place, membership_number: u32, fact: MembershipFact) -> MemberEvent {
    let (organization_id, member_id) = (organization(), ada());
    match fact {
        MembershipFact::Added { statements } => MemberEvent::Added {
            organization_id,
            member_id,
            place,
            membership_number,
            statements,
        },
        MembershipFact::Granted { statements } => MemberEvent::PermissionGranted {
            organization_id,
            member_id,
            place,
            statements,
        },
        MembershipFact::Revoked(Revocation {
            permission,
            resources,
        }) => MemberEvent::PermissionRevoked {
            organization_id,
            member_id,
            place,
            permission,
            resources,
        },
        MembershipFact::Replaced { statements } => MemberEvent::PermissionsReplaced {
            organization_id,
            member_id,
            place,
            statements,
        },
        MembershipFact::Removed => MemberEvent::Removed {
            organization_id,
            member_id,
            place,
            membership_number,
        },
    }
}

/// With a version, in the first membership.
fn at(version: i64, fact: MembershipFact) -> MemberEvent {
    event(Place::Version(version), 1, fact)
}

fn flags(id: &str) -> Statement {
    allow(id, "*", FLAGS)
}

/// One of each kind.
fn facts() -> [MembershipFact; 5] {
    [
        add(&[flags("a")]),
        grant(&[flags("a")]),
        revoke("ToggleFlag", Some(&[PROD])),
        replace(&[flags("a")]),
        MembershipFact::Removed,
    ]
}

/// Somebody of whom this was said in turn.
fn member(commands: &[MemberCommand]) -> Member {
    let mut member = Member::default();
    for command in commands {
        for event in member.decide(command.clone()).expect("no refusal") {
            member.apply(event);
        }
    }
    member
}

/// By version, in order of arrival.
fn heard(facts: &[(i64, MembershipFact)]) -> Member {
    let commands: Vec<_> = facts
        .iter()
        .map(|(version, fact)| told(*version, fact.clone()))
        .collect();
    member(&commands)
}

fn toggles(member: &Member, resource: &str) -> bool {
    member.may("ToggleFlag", resource)
}

fn ids(member: &Member) -> Vec<String> {
    let permission = member.permission();
    permission
        .statements()
        .filter_map(|statement| statement.id.clone())
        .collect()
}

// Every fact

#[tokio::test]
async fn each_fact_about_somebody_never_seen_is_one_event_at_its_version() {
    for fact in facts() {
        given(vec![])
            .when_async(told(7, fact.clone()))
            .await
            .then_expect_events(vec![at(7, fact)]);
    }
}

#[tokio::test]
async fn each_fact_about_a_member_is_one_event_at_its_version() {
    for fact in facts() {
        given(vec![at(1, add(&[]))])
            .when_async(told(7, fact.clone()))
            .await
            .then_expect_events(vec![at(7, fact)]);
    }
}

#[tokio::test]
async fn without_versions_each_fact_is_an_event_at_the_next_place_even_the_same_again() {
    let place = Place::Arrival;
    for fact in facts() {
        given(vec![])
            .when_async(told_next(fact.clone()))
            .await
            .then_expect_events(vec![event(place(1), 1, fact.clone())]);
        given(vec![
            event(place(1), 1, grant(&[])),
            event(place(2), 1, grant(&[])),
        ])
        .when_async(told_next(fact.clone()))
        .await
        .then_expect_events(vec![event(place(3), 1, fact)]);
    }
}

#[test]
fn somebody_never_seen_is_no_member_and_may_nothing() {
    let nobody = Member::default();
    assert_eq!(
        nobody.standing(),
        Standing {
            membership_number: 1,
            ..Standing::default()
        }
    );
    assert!(!toggles(&nobody, PROD));
}

#[test]
fn an_added_member_has_exactly_its_statements_under_number_one() {
    let member = heard(&[(1, add(&[flags("a")]))]);
    assert_eq!(
        member.standing(),
        Standing {
            is_member: true,
            is_blocked: false,
            membership_number: 1,
            permission: Granted::new(Permission::from_statements(vec![flags("a")])),
        }
    );
}

#[test]
fn an_added_for_a_member_replaces_all_permission_and_keeps_the_number() {
    let member = heard(&[
        (1, add(&[flags("a")])),
        (2, revoke("*", None)),
        (3, add(&[flags("b")])),
    ]);
    assert_eq!(ids(&member), ["b"]);
    assert!(toggles(&member, PROD), "earlier revocations are gone");
    assert_eq!(member.membership_number(), 1);
}

// Order

/// Tried: without the refusal in `Member::place`, either way.
#[tokio::test]
async fn one_members_facts_never_mix_versions_and_the_order_of_arrival() {
    for first in facts() {
        for second in facts() {
            given(vec![event(Place::Version(1), 1, first.clone())])
                .when_async(told_next(second.clone()))
                .await
                .then_expect_error(MemberRefusal::MixedOrder);
            given(vec![event(Place::Arrival(1), 1, first.clone())])
                .when_async(told(2, second))
                .await
                .then_expect_error(MemberRefusal::MixedOrder);
        }
    }
}

#[tokio::test]
async fn a_block_settles_no_order() {
    for (command, place) in [
        (told(4, add(&[])), Place::Version(4)),
        (told_next(add(&[])), Place::Arrival(1)),
    ] {
        given(vec![blocked(1), released()])
            .when_async(command)
            .await
            .then_expect_events(vec![event(place, 1, add(&[]))]);
    }
}

/// Tried: with `>=` in place of `>` in `takes_full_state`.
#[tokio::test]
async fn a_fact_at_or_below_the_last_full_state_changes_nothing_and_one_above_does() {
    let changes = [grant(&[flags("b")]), revoke("*", None), replace(&[flags("b")])];
    let comings_and_goings = [add(&[flags("b")]), MembershipFact::Removed];
    for full_state in [add(&[]), replace(&[]), MembershipFact::Removed] {
        // Added before, so that a late coming or going has nothing to say of the membership either.
        let before = || vec![at(4, add(&[])), at(5, full_state.clone())];
        let late = changes.iter().flat_map(|fact| [(4, fact), (5, fact)]);
        let late = late.chain(comings_and_goings.iter().flat_map(|fact| [(3, fact), (4, fact)]));
        for (version, fact) in late {
            given(before())
                .when_async(told(version, fact.clone()))
                .await
                .then_expect_events(vec![]);
        }
        for fact in changes.iter().chain(&comings_and_goings) {
            let above = given(before()).when_async(told(6, fact.clone())).await;
            let events = above.inspect_result().map(|events| events.len());
            assert_eq!(events, Ok(1), "{fact:?}");
        }
    }
}

/// Tried: with `>=` in place of `>` in `Presence::takes`.
#[tokio::test]
async fn a_full_state_heard_again_changes_nothing() {
    for full_state in [add(&[]), replace(&[]), MembershipFact::Removed] {
        given(vec![at(5, full_state.clone())])
            .when_async(told(5, full_state))
            .await
            .then_expect_events(vec![]);
    }
}

#[tokio::test]
async fn a_change_at_a_version_already_applied_changes_nothing() {
    let changes = [grant(&[flags("a")]), revoke("*", None)];
    for first in changes.clone() {
        for second in changes.clone() {
            given(vec![at(1, add(&[])), at(5, first.clone()), at(7, grant(&[]))])
                .when_async(told(5, second))
                .await
                .then_expect_events(vec![]);
        }
    }
}

#[test]
fn a_late_change_takes_its_place_by_version() {
    let grant_between = heard(&[
        (1, add(&[])),
        (5, revoke("*", Some(&[PROD_FLAGS]))),
        (3, grant(&[flags("a")])),
    ]);
    assert!(!toggles(&grant_between, PROD), "revoked after it was granted");
    assert!(toggles(&grant_between, DEV));
    let revocation_between = heard(&[
        (1, add(&[flags("a")])),
        (5, grant(&[flags("b")])),
        (3, revoke("*", None)),
    ]);
    assert!(toggles(&revocation_between, PROD), "granted after the revocation");
}

#[test]
fn a_late_full_state_takes_its_place_under_the_changes_after_it() {
    let member = heard(&[
        (1, add(&[flags("a")])),
        (2, grant(&[flags("b")])),
        (5, grant(&[flags("c")])),
        (4, replace(&[flags("d")])),
    ]);
    assert_eq!(ids(&member), ["d", "c"]);
}

// Coming and going

#[test]
fn a_removed_member_is_no_member_and_may_nothing() {
    let member = heard(&[(1, add(&[flags("a")])), (2, MembershipFact::Removed)]);
    assert!(!member.is_member());
    assert_eq!(member.permission(), Permission::default());
    assert!(!toggles(&member, PROD));
}

/// Tried: with `PermissionsReplaced` applied as `Present`.
#[test]
fn only_an_added_restores_a_removed_member() {
    let removed = [(1, add(&[flags("a")])), (2, MembershipFact::Removed)];
    for fact in [
        grant(&[flags("b")]),
        revoke("*", None),
        replace(&[flags("b")]),
        MembershipFact::Removed,
    ] {
        let member = heard(&[removed.as_slice(), &[(3, fact.clone())]].concat());
        assert!(!member.is_member(), "{fact:?}");
        assert!(!toggles(&member, PROD), "{fact:?}");
        assert_eq!(member.permission(), Permission::default(), "{fact:?}");
    }
    let member = heard(&[removed.as_slice(), &[(3, add(&[flags("b")]))]].concat());
    assert!(member.is_member());
    assert_eq!(ids(&member), ["b"]);
}

#[test]
fn what_was_replaced_after_a_removal_stands_once_a_late_added_restores() {
    let member = heard(&[
        (1, add(&[flags("a")])),
        (2, MembershipFact::Removed),
        (4, replace(&[flags("c")])),
        (3, add(&[flags("b")])),
    ]);
    assert!(member.is_member());
    assert_eq!(member.membership_number(), 2);
    assert_eq!(ids(&member), ["c"]);
}

#[test]
fn an_added_that_comes_after_its_removal_does_not_restore() {
    let member = heard(&[(5, MembershipFact::Removed), (4, add(&[flags("a")]))]);
    assert!(!member.is_member());
}

/// Tried: with the number rising on every `Added`, and on none.
#[tokio::test]
async fn the_membership_number_rises_only_with_an_added_after_a_removal() {
    let first = vec![at(1, add(&[]))];
    given(first.clone())
        .when_async(told(2, add(&[])))
        .await
        .then_expect_events(vec![at(2, add(&[]))]);
    let removed = [first, vec![at(2, MembershipFact::Removed)]].concat();
    let back = event(Place::Version(3), 2, add(&[]));
    given(removed.clone())
        .when_async(told(3, add(&[])))
        .await
        .then_expect_events(vec![back.clone()]);
    given([removed, vec![back]].concat())
        .when_async(told(4, MembershipFact::Removed))
        .await
        .then_expect_events(vec![event(Place::Version(4), 2, MembershipFact::Removed)]);
}

#[tokio::test]
async fn a_member_removed_before_it_was_ever_seen_joins_under_the_second_number() {
    given(vec![at(1, MembershipFact::Removed)])
        .when_async(told(2, add(&[])))
        .await
        .then_expect_events(vec![event(Place::Version(2), 2, add(&[]))]);
}

#[test]
fn whoever_is_heard_of_without_ever_having_been_added_is_a_member_without_permission() {
    for fact in [grant(&[flags("a")]), revoke("*", None)] {
        let member = heard(&[(5, fact)]);
        assert!(member.is_member());
        assert_eq!(member.permission(), Permission::default());
    }
    let member = heard(&[(5, replace(&[flags("a")]))]);
    assert!(member.is_member());
    assert_eq!(ids(&member), ["a"], "but all of its permission was said");
}

/// Tried: with `in_force` answering from the changes alone (the test above), and with `set` dropping later changes (this).
#[test]
fn a_grant_and_a_revocation_for_a_member_never_seen_are_kept_for_a_later_added_with_a_lower_version() {
    let member = heard(&[
        (6, grant(&[flags("b")])),
        (5, revoke("ToggleFlag", Some(&[PROD_FLAGS]))),
        (1, add(&[allow("a", "*", PROD_FLAGS)])),
    ]);
    assert_eq!(ids(&member), ["a", "b"]);
    assert!(toggles(&member, PROD), "the later grant stands");
    let member = heard(&[
        (5, revoke("ToggleFlag", Some(&[PROD_FLAGS]))),
        (1, add(&[flags("a")])),
    ]);
    assert!(!toggles(&member, PROD));
    assert!(toggles(&member, DEV));
    assert_eq!(member.membership_number(), 1);
}

// Streams

#[test]
fn a_members_stream_is_named_by_organization_and_member() {
    assert_eq!(
        Member::stream_id(organization(), ada()),
        "00000000-0000-0000-0000-00000000000a:00000000-0000-0000-0000-000000000001"
    );
}

#[test]
fn every_event_says_whom_it_is_about() {
    let facts = facts().map(|fact| at(1, fact));
    for event in facts.into_iter().chain([blocked(1), released()]) {
        assert_eq!(event.subject(), (organization(), ada()), "{event:?}");
    }
}
