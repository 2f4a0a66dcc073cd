//! Who may manage tokens, actor by actor.

use cqrs_es::Aggregate;

use super::*;
use crate::access_token::{AccessToken, AccessTokenEvent};
use crate::member::{MemberEvent, Place};
use crate::policy::built_in;
use crate::samples::{FLAGS, PROD_FLAGS, ada, allow, blocked, bob, created, deny, member, organization};

const CHANGES: [Change; 3] = [Change::Edit, Change::Arm, Change::Disarm];

/// May do nothing about tokens but this.
fn may_only(action: &str) -> Member {
    member(vec![allow("one", action, ACCESS_TOKENS)])
}

/// Manages tokens of both types, nothing else.
fn token_manager() -> Member {
    member(vec![
        allow("personal", MANAGE_PERSONAL, ACCESS_TOKENS),
        allow("service", MANAGE_SERVICE, ACCESS_TOKENS),
    ])
}

fn token(token_type: TokenType, statements: Vec<Statement>) -> Token {
    let mut token = AccessToken::default();
    token.apply(AccessTokenEvent::Created(created(token_type, statements).into()));
    token.live().expect("a live token").clone()
}

/// Ada's.
fn personal() -> Token {
    token(TokenType::Personal, vec![])
}

/// Ada's, for flags.
fn service() -> Token {
    token(TokenType::Service, vec![allow("s-1", "ToggleFlag", FLAGS)])
}

fn removed_owner() -> Member {
    let mut member = member(built_in::owner());
    member.apply(MemberEvent::Removed {
        organization_id: organization(),
        member_id: ada(),
        place: Place::Arrival(2),
        membership_number: 1,
    });
    member
}

#[test]
fn every_built_in_role_lists_creates_and_asks_for_names() {
    for policy in [
        built_in::owner(),
        built_in::administrator(),
        built_in::developer(),
    ] {
        let caller = member(policy);
        assert!(may_list(&caller));
        assert!(may_ask_for_names(&caller));
        assert!(may_create(&caller, TokenType::Personal));
        assert!(may_create(&caller, TokenType::Service));
    }
}

/// Tried: `LIST` on access tokens in place of `MANAGE_IAM`; the member's permission without regard to its being blocked.
#[test]
fn who_manages_iam_reads_the_audit_log_and_nobody_else() {
    let warden = member(vec![allow("one", MANAGE_IAM, IAM)]);
    for (caller, expected) in [
        (member(built_in::owner()), true),
        (member(built_in::administrator()), true),
        (warden.clone(), true),
        (blocked(warden), false),
        (member(built_in::developer()), false),
        (may_only(LIST), false),
        (may_only(MANAGE_IAM), false),
        (member(vec![]), false),
        (removed_owner(), false),
    ] {
        assert_eq!(may_audit(&caller), expected);
    }
}

#[test]
fn each_of_the_three_permissions_opens_its_own_door_and_names() {
    for (action, list, personal, service) in [
        (LIST, true, false, false),
        (MANAGE_PERSONAL, false, true, false),
        (MANAGE_SERVICE, false, false, true),
    ] {
        let caller = may_only(action);
        assert!(may_ask_for_names(&caller), "{action}");
        assert_eq!(may_list(&caller), list, "{action}");
        assert_eq!(may_create(&caller, TokenType::Personal), personal, "{action}");
        assert_eq!(may_create(&caller, TokenType::Service), service, "{action}");
    }
}

/// Tried: with `!self.is_blocked()` taken out of `Member::may`.
#[test]
fn somebody_without_permission_removed_unknown_or_blocked_may_nothing() {
    for (who, caller) in [
        ("without permission", member(vec![])),
        ("may only manage iam", member(vec![allow("iam", MANAGE_IAM, IAM)])),
        ("removed", removed_owner()),
        ("unknown", Member::default()),
        ("blocked", blocked(member(built_in::owner()))),
    ] {
        assert!(!may_list(&caller), "{who}");
        assert!(!may_ask_for_names(&caller), "{who}");
        for token in [personal(), service()] {
            assert!(!may_create(&caller, token.token_type), "{who}");
            for change in CHANGES {
                assert!(!may_change(ada(), &caller, &token, change), "{who} {change:?}");
            }
        }
    }
}

#[test]
fn the_creator_may_do_everything_to_a_personal_token() {
    for change in CHANGES {
        assert!(may_change(ada(), &may_only(MANAGE_PERSONAL), &personal(), change));
    }
}

#[test]
fn a_creator_who_lost_the_permission_may_do_nothing_to_a_personal_token() {
    for change in CHANGES {
        assert!(!may_change(ada(), &may_only(MANAGE_SERVICE), &personal(), change));
    }
}

/// Tried: with `true` in place of the check for `CanManageIAM`, and with the last arm for personal tokens `true`.
#[test]
fn somebody_elses_personal_token_can_be_stopped_only_and_only_by_who_manages_iam_too() {
    for (who, caller, expected) in [
        ("owner", member(built_in::owner()), true),
        ("administrator", member(built_in::administrator()), true),
        ("developer", member(built_in::developer()), false),
        ("token manager", token_manager(), false),
    ] {
        assert_eq!(
            may_change(bob(), &caller, &personal(), Change::Disarm),
            expected,
            "{who}"
        );
        assert!(!may_change(bob(), &caller, &personal(), Change::Edit), "{who}");
        assert!(!may_change(bob(), &caller, &personal(), Change::Arm), "{who}");
    }
    let only_iam = member(vec![allow("iam", MANAGE_IAM, IAM)]);
    assert!(!may_change(bob(), &only_iam, &personal(), Change::Disarm));
}

#[test]
fn a_service_token_is_edited_and_stopped_by_whoever_manages_service_tokens() {
    for change in [Change::Edit, Change::Disarm] {
        assert!(may_change(bob(), &may_only(MANAGE_SERVICE), &service(), change));
        assert!(!may_change(ada(), &may_only(MANAGE_PERSONAL), &service(), change));
    }
}

/// Even its own creator: the permission that made it may be gone.
///
/// Tried: with `true` in place of the ceiling in `may_change`.
#[test]
fn a_service_token_is_armed_only_by_who_may_do_all_it_may_do() {
    for caller_id in [ada(), bob()] {
        assert!(!may_change(caller_id, &token_manager(), &service(), Change::Arm));
        for policy in [
            built_in::owner(),
            built_in::administrator(),
            built_in::developer(),
        ] {
            assert!(may_change(caller_id, &member(policy), &service(), Change::Arm));
        }
    }
    let iam = token(TokenType::Service, vec![allow("s-1", MANAGE_IAM, IAM)]);
    assert!(may_change(
        bob(),
        &member(built_in::administrator()),
        &iam,
        Change::Arm
    ));
    assert!(!may_change(
        bob(),
        &member(built_in::developer()),
        &iam,
        Change::Arm
    ));
}

#[test]
fn a_service_token_never_exceeds_who_makes_it() {
    let developer = member(built_in::developer());
    let flags = || allow("s-1", "ToggleFlag", FLAGS);
    let may =
        |caller: &Member, statements: &[Statement]| is_under_ceiling(caller, TokenType::Service, statements);
    assert!(may(&developer, &[flags()]));
    assert!(!may(&developer, &[flags(), allow("s-2", MANAGE_IAM, IAM)]));
    let mut not_in_production = built_in::developer();
    not_in_production.push(deny("d-1", "*", PROD_FLAGS));
    let not_in_production = member(not_in_production);
    assert!(!may(&not_in_production, &[flags()]));
    assert!(
        may(&not_in_production, &[flags(), deny("s-2", "*", PROD_FLAGS)]),
        "the token carries the deny too"
    );
    assert!(!may(&removed_owner(), &[flags()]));
}

#[test]
fn a_personal_token_has_no_ceiling_for_it_only_narrows() {
    let everything = built_in::owner();
    assert!(is_under_ceiling(
        &member(vec![]),
        TokenType::Personal,
        &everything
    ));
}
