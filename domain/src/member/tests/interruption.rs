//! What stops a member without a word of its producer about it: a parked message, the end of its organization.

use super::*;

// Blocking

#[tokio::test]
async fn a_member_is_blocked_once_and_released_once() {
    given(vec![])
        .when_async(block(1))
        .await
        .then_expect_events(vec![blocked(1)]);
    given(vec![blocked(1)])
        .when_async(block(2))
        .await
        .then_expect_events(vec![]);
    given(vec![blocked(1)])
        .when_async(release())
        .await
        .then_expect_events(vec![released()]);
    for unblocked in [vec![], vec![blocked(1), released()]] {
        given(unblocked)
            .when_async(release())
            .await
            .then_expect_events(vec![]);
    }
    given(vec![blocked(1), released()])
        .when_async(block(2))
        .await
        .then_expect_events(vec![blocked(2)]);
}

#[test]
fn a_blocked_member_may_nothing_until_it_is_released() {
    let added = told(1, add(&[flags("a")]));
    let blocked = member(&[added.clone(), block(1)]);
    assert!(blocked.is_blocked() && blocked.is_member());
    assert!(!toggles(&blocked, PROD));
    let released = member(&[added, block(1), release()]);
    assert!(!released.is_blocked());
    assert!(toggles(&released, PROD));
}

#[test]
fn facts_are_taken_while_blocked_and_do_not_release() {
    let member = member(&[block(1), told(1, add(&[flags("a")]))]);
    assert!(member.is_blocked() && member.is_member());
    assert_eq!(ids(&member), ["a"]);
}

#[test]
fn a_block_makes_nobody_a_member() {
    assert!(!member(&[block(1)]).is_member());
}

// The end of the organization

#[tokio::test]
async fn the_end_of_the_organization_removes_a_member_at_the_last_place_heard_of() {
    for (given_events, place) in [
        (vec![at(3, add(&[]))], 3),
        (vec![at(3, add(&[])), at(8, grant(&[]))], 8),
        (vec![at(3, add(&[])), at(8, replace(&[])), at(5, grant(&[]))], 8),
        (vec![at(8, grant(&[]))], 8),
    ] {
        given(given_events)
            .when_async(end())
            .await
            .then_expect_events(vec![at(place, MembershipFact::Removed)]);
    }
    let by_arrival = |number, fact| event(Place::Arrival(number), 1, fact);
    given(vec![by_arrival(1, add(&[])), by_arrival(2, grant(&[]))])
        .when_async(end())
        .await
        .then_expect_events(vec![by_arrival(2, MembershipFact::Removed)]);
}

#[tokio::test]
async fn the_end_of_the_organization_changes_nothing_for_who_is_gone_or_was_never_there() {
    for events in [
        vec![],
        vec![blocked(1)],
        vec![at(3, MembershipFact::Removed)],
        vec![at(3, add(&[])), at(3, MembershipFact::Removed)],
    ] {
        given(events).when_async(end()).await.then_expect_events(vec![]);
    }
}

#[test]
fn after_the_end_of_the_organization_only_what_is_newer_counts() {
    let ended = [told(3, add(&[flags("a")])), told(8, grant(&[flags("b")])), end()];
    for late in [add(&[flags("c")]), replace(&[flags("c")]), grant(&[flags("c")])] {
        for version in [7, 8] {
            let member = member(&[ended.as_slice(), &[told(version, late.clone())]].concat());
            assert!(!member.is_member(), "{late:?} at {version}");
        }
    }
    let back = member(&[ended.as_slice(), &[told(9, add(&[flags("c")]))]].concat());
    assert!(back.is_member());
    assert_eq!(back.membership_number(), 2);
    assert_eq!(ids(&back), ["c"]);
}

#[test]
fn without_versions_whatever_is_heard_after_the_end_of_the_organization_stands() {
    let ended = [told_next(add(&[flags("a")])), end()];
    assert!(!member(&ended).is_member());
    let back = member(&[ended.as_slice(), &[told_next(add(&[flags("b")]))]].concat());
    assert!(back.is_member());
    assert_eq!(back.membership_number(), 2);
    assert_eq!(ids(&back), ["b"]);
}

/// A mended bug: the end changed nothing for who was no member, so a late `MemberAdded` between the removal and the last
/// thing heard brought the member into an organization that had ended.
#[test]
fn the_end_of_the_organization_stands_above_what_was_heard_of_a_removed_member_too() {
    let member = member(&[
        told(5, MembershipFact::Removed),
        told(7, grant(&[flags("a")])),
        end(),
        told(6, add(&[flags("b")])),
    ]);
    assert!(!member.is_member());
    assert_eq!(member.permission(), Permission::default());
}
