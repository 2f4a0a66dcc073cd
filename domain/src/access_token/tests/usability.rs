//! Whether a token can be used: activated, deactivated, removed.

use super::*;

// Activate

#[tokio::test]
async fn activating_an_active_token_changes_nothing() {
    for token in each() {
        given(vec![token])
            .when_async(activate(member_under(1)))
            .await
            .then_expect_events(vec![]);
    }
}

#[tokio::test]
async fn a_deactivated_token_can_be_activated_whatever_the_reason_was() {
    for token in each() {
        for reason in [
            DeactivationReason::ByMember,
            DeactivationReason::Expired,
            creator_removed(1),
        ] {
            given(vec![token.clone(), deactivated(reason)])
                .when_async(activate(member_under(1)))
                .await
                .then_expect_events(vec![activated(1)]);
        }
    }
}

/// What makes a token usable is its effective status: its own stream still calls this one active.
///
/// Tried: without `membership_holds` in `is_effectively_active`.
#[tokio::test]
async fn a_personal_token_of_an_earlier_membership_is_armed_with_the_new_one() {
    given(vec![personal()])
        .when_async(activate(member_under(2)))
        .await
        .then_expect_events(vec![activated(2)]);
    given(vec![personal(), activated(2)])
        .when_async(activate(member_under(2)))
        .await
        .then_expect_events(vec![]);
}

#[tokio::test]
async fn a_service_token_stays_active_whatever_becomes_of_its_creator() {
    for creator in [gone(), member_under(2)] {
        given(vec![service()])
            .when_async(activate(creator))
            .await
            .then_expect_events(vec![]);
    }
}

#[tokio::test]
async fn a_service_token_can_be_activated_after_its_creator_has_left() {
    given(vec![service(), deactivated(DeactivationReason::ByMember)])
        .when_async(activate(gone()))
        .await
        .then_expect_events(vec![activated(1)]);
}

/// Tried: without the refusal in `Token::activate`.
#[tokio::test]
async fn a_personal_token_cannot_be_activated_while_its_creator_is_no_member() {
    for events in [
        vec![personal()],
        vec![personal(), deactivated(DeactivationReason::ByMember)],
    ] {
        given(events)
            .when_async(activate(gone()))
            .await
            .then_expect_error(AccessTokenRefusal::CreatorIsNotAMember);
    }
}

/// Tried: with `<` in place of `<=` in `Token::is_expired`, and without the refusal in `Token::activate`.
#[tokio::test]
async fn a_token_cannot_be_activated_from_the_instant_of_its_expiry_on() {
    for token_type in [TokenType::Personal, TokenType::Service] {
        for passed in [0, -1] {
            for inactive in [vec![], vec![deactivated(DeactivationReason::Expired)]] {
                given(vec![expiring(token_type, at(passed))])
                    .and(inactive)
                    .when_async(activate(member_under(1)))
                    .await
                    .then_expect_error(AccessTokenRefusal::TokenIsExpired);
            }
        }
        given(vec![
            expiring(token_type, at(1)),
            deactivated(DeactivationReason::ByMember),
        ])
        .when_async(activate(member_under(1)))
        .await
        .then_expect_events(vec![activated(1)]);
    }
}

#[test]
fn a_token_is_effectively_active_by_its_status_its_expiry_and_its_creators_membership() {
    let active =
        |event: &AccessTokenEvent, creator| live(std::slice::from_ref(event)).is_effectively_active(creator);
    assert!(active(&personal(), member_under(1)));
    assert!(!active(&personal(), member_under(2)));
    assert!(!active(&personal(), gone()));
    assert!(active(&service(), member_under(2)));
    assert!(active(&service(), gone()));
    for token in each() {
        let stopped = live(&[token, deactivated(DeactivationReason::ByMember)]);
        assert!(!stopped.is_effectively_active(member_under(1)));
    }
    assert!(active(&expiring(TokenType::Service, at(1)), member_under(1)));
    assert!(!active(&expiring(TokenType::Service, at(0)), member_under(1)));
}

// Deactivate

#[tokio::test]
async fn a_member_and_the_clock_deactivate_tokens_of_either_type() {
    for token in each() {
        for reason in [DeactivationReason::ByMember, DeactivationReason::Expired] {
            given(vec![token.clone()])
                .when_async(AccessTokenCommand::Deactivate(reason))
                .await
                .then_expect_events(vec![deactivated(reason)]);
        }
    }
}

#[tokio::test]
async fn an_inactive_token_keeps_the_reason_it_has() {
    let reasons = [
        DeactivationReason::ByMember,
        DeactivationReason::Expired,
        creator_removed(1),
    ];
    for first in reasons {
        for second in reasons {
            given(vec![personal(), deactivated(first)])
                .when_async(AccessTokenCommand::Deactivate(second))
                .await
                .then_expect_events(vec![]);
        }
    }
}

#[tokio::test]
async fn a_removed_creator_loses_the_personal_tokens_and_leaves_the_service_tokens() {
    let command = || AccessTokenCommand::Deactivate(creator_removed(1));
    given(vec![personal()])
        .when_async(command())
        .await
        .then_expect_events(vec![deactivated(creator_removed(1))]);
    given(vec![service()])
        .when_async(command())
        .await
        .then_expect_events(vec![]);
}

/// The removal may be answered late, when the member is back and has activated the token.
///
/// Tried: with `true` in place of the comparison in `Token::deactivate`, and with `<` in place of `<=`.
#[tokio::test]
async fn a_removal_closes_memberships_up_to_its_number_only() {
    for (armed_under, ended, closes) in [(1, 1, true), (1, 2, true), (2, 2, true), (2, 1, false)] {
        let expected = if closes {
            vec![deactivated(creator_removed(ended))]
        } else {
            vec![]
        };
        given(vec![personal(), activated(armed_under)])
            .when_async(AccessTokenCommand::Deactivate(creator_removed(ended)))
            .await
            .then_expect_events(expected);
    }
}

// Remove

#[tokio::test]
async fn a_token_is_removed_active_or_not() {
    for token in each() {
        for inactive in [vec![], vec![deactivated(DeactivationReason::ByMember)]] {
            given(vec![token.clone()])
                .and(inactive)
                .when_async(AccessTokenCommand::Remove)
                .await
                .then_expect_events(vec![removed()]);
        }
    }
}

#[tokio::test]
async fn removing_what_is_not_there_succeeds_and_changes_nothing() {
    for events in [vec![], vec![personal(), removed()]] {
        given(events)
            .when_async(AccessTokenCommand::Remove)
            .await
            .then_expect_events(vec![]);
    }
}

#[tokio::test]
async fn a_removed_token_takes_no_command_ever_again() {
    for command in [
        update(Update::default()),
        claiming(vec![]),
        rotation::rotate(8, chrono::TimeDelta::zero()),
        activate(member_under(1)),
        activate(member_under(2)),
        AccessTokenCommand::Deactivate(DeactivationReason::ByMember),
        AccessTokenCommand::Deactivate(creator_removed(1)),
    ] {
        given(vec![personal(), removed()])
            .when_async(command)
            .await
            .then_expect_error(AccessTokenRefusal::NoSuchToken);
    }
}

/// Tried: with `Created` applied to a token in any state, and with `change` reaching a removed token.
#[test]
fn no_event_brings_a_removed_token_back_or_changes_it() {
    let before = token(&[personal(), removed()]);
    assert!(before.live().is_none());
    for event in [
        personal(),
        service(),
        rotated(8, None),
        renamed("release"),
        described(Some("nightly")),
        expiry(Some(at(5))),
        addresses(&["10.0.0.0/8"]),
        activated(2),
        deactivated(DeactivationReason::Expired),
        removed(),
    ] {
        let mut after = before.clone();
        after.apply(event.clone());
        assert_eq!(after, before, "{event:?}");
    }
}

#[test]
fn each_event_changes_what_it_says() {
    let events = [
        personal(),
        renamed("release"),
        described(Some("nightly")),
        expiry(Some(at(5))),
        addresses(&["10.0.0.0/8"]),
        deactivated(creator_removed(1)),
    ];
    let token = live(&events);
    assert_eq!(token.name, name("release"));
    assert_eq!(token.description.as_deref(), Some("nightly"));
    assert_eq!(token.expires_at, Some(at(5)));
    assert_eq!(token.allowed_ips, nets(&["10.0.0.0/8"]));
    assert_eq!(token.status, Status::Inactive(creator_removed(1)));
    let token = live(&[events.as_slice(), &[activated(2)]].concat());
    assert_eq!((token.status, token.membership_number), (Status::Active, 2));
}
