//! Every reason, and which of several comes first.

use cqrs_es::Aggregate;

use super::Reason::{
    Allowed, CreatorNotAMember, DeniedByStatement, IpNotAllowed, MemberBlocked, NoMatchingStatement,
    OutsideTokenScope, TokenExpired, TokenInactive, TokenRemoved, UnknownToken,
};
use super::*;
use crate::access_token::{AccessToken, AccessTokenEvent, Created, DeactivationReason};
use crate::policy::{Permission, Statement, built_in};
use crate::samples::{
    DEV, FLAGS, PROD, PROD_FLAGS, allow, at, created, deny, name, organization, other_organization, token_id,
};

/// What can be wrong at once, in the order of the contract. The last two exclude each other's statements, not each other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    Removed,
    Expired,
    CreatorBlocked,
    CreatorGone,
    /// Its creator has left and come back since.
    EarlierMembership,
    Deactivated,
    ElsewhereFrom,
    Denied,
    NotGranted,
    NarrowedAway,
}

use Flaw::{
    CreatorBlocked, CreatorGone, Deactivated, Denied, EarlierMembership, ElsewhereFrom, Expired,
    NarrowedAway, NotGranted, Removed,
};

const FOR_PERSONAL: [(Flaw, Reason); 10] = [
    (Removed, TokenRemoved),
    (Expired, TokenExpired),
    (CreatorBlocked, MemberBlocked),
    (CreatorGone, CreatorNotAMember),
    (EarlierMembership, TokenInactive),
    (Deactivated, TokenInactive),
    (ElsewhereFrom, IpNotAllowed),
    (Denied, DeniedByStatement),
    (NotGranted, NoMatchingStatement),
    (NarrowedAway, OutsideTokenScope),
];

/// What is not in here does not touch a service token.
const FOR_SERVICE: [(Flaw, Reason); 6] = [
    (Removed, TokenRemoved),
    (Expired, TokenExpired),
    (Deactivated, TokenInactive),
    (ElsewhereFrom, IpNotAllowed),
    (Denied, DeniedByStatement),
    (NotGranted, NoMatchingStatement),
];

/// The flag in production, from 10.0.0.1, at the tests' noon.
fn question() -> Question<'static> {
    Question {
        action: "ToggleFlag",
        resource: PROD,
        organization_id: None,
        address: Some(address("10.0.0.1")),
        now: at(0),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The reason alone, of a token that was issued.
fn why(
    token: &AccessToken,
    presented: Option<&SecretDigest>,
    creator: &Standing,
    question: &Question<'_>,
) -> Reason {
    let token = Credential::of(token).expect("it was issued");
    decide_for_token(&token, presented, creator, question).reason
}

fn member(statements: Vec<Statement>) -> Standing {
    Standing {
        is_member: true,
        is_blocked: false,
        membership_number: 1,
        permission: Granted::new(Permission::from_statements(statements)),
    }
}

fn token(created: Created) -> AccessToken {
    let mut token = AccessToken::default();
    token.apply(AccessTokenEvent::Created(created.into()));
    token
}

fn personal(scope: Vec<Statement>) -> AccessToken {
    token(created(TokenType::Personal, scope))
}

fn service(statements: Vec<Statement>) -> AccessToken {
    token(created(TokenType::Service, statements))
}

/// A token with everything wrong that is asked for, and its creator.
fn flawed(token_type: TokenType, flaws: &[Flaw]) -> (AccessToken, Standing) {
    let has = |flaw| flaws.contains(&flaw);
    let mut statements = vec![];
    if !has(NotGranted) {
        statements.push(allow("a-1", "ToggleFlag", FLAGS));
    }
    if has(Denied) {
        statements.push(deny("d-1", "ToggleFlag", PROD_FLAGS));
    }
    let creator = Standing {
        is_member: !has(CreatorGone),
        is_blocked: has(CreatorBlocked),
        membership_number: if has(EarlierMembership) { 2 } else { 1 },
        ..member(statements.clone())
    };
    let own = match token_type {
        TokenType::Service => statements,
        TokenType::Personal if has(NarrowedAway) => vec![allow("p-1", "ToggleFlag", DEV)],
        TokenType::Personal => vec![],
    };
    let allowed = if has(ElsewhereFrom) {
        "192.168.0.0/16"
    } else {
        "10.0.0.0/8"
    };
    let mut token = token(Created {
        expires_at: has(Expired).then(|| at(0)),
        allowed_ips: vec![allowed.parse().expect("a net")],
        ..created(token_type, own)
    });
    if has(Deactivated) {
        token.apply(AccessTokenEvent::Deactivated {
            token_id: token_id(),
            organization_id: organization(),
            reason: DeactivationReason::ByMember,
        });
    }
    if has(Removed) {
        token.apply(removed());
    }
    (token, creator)
}

fn removed() -> AccessTokenEvent {
    AccessTokenEvent::Removed {
        token_id: token_id(),
        organization_id: organization(),
    }
}

/// Every choice among these.
fn subsets(flaws: &[Flaw]) -> Vec<Vec<Flaw>> {
    flaws.iter().fold(vec![vec![]], |subsets, flaw| {
        let with = subsets
            .iter()
            .map(|subset| [subset.as_slice(), &[*flaw]].concat());
        subsets.iter().cloned().chain(with).collect()
    })
}

fn first_of(flaws: &[Flaw], order: &[(Flaw, Reason)]) -> Reason {
    let first = order.iter().find(|(flaw, _)| flaws.contains(flaw));
    first.map_or(Allowed, |(_, reason)| *reason)
}

fn all_flaws() -> Vec<Flaw> {
    FOR_PERSONAL.iter().map(|(flaw, _)| *flaw).collect()
}

/// Every set of flaws, so also each alone and none.
///
/// Tried: with `unusable_because` asking for the status before the membership, for the address before the status, and for
/// the expiry last; with `membership` asking whether it is a member first.
#[test]
fn of_several_reasons_the_first_in_the_contracts_order_is_given_for_a_personal_token() {
    let mut ran = 0;
    for flaws in subsets(&all_flaws()) {
        let (token, creator) = flawed(TokenType::Personal, &flaws);
        let reason = why(&token, None, &creator, &question());
        assert_eq!(reason, first_of(&flaws, &FOR_PERSONAL), "{flaws:?}");
        ran += 1;
    }
    assert_eq!(ran, 1024);
}

/// Tried: without the condition on the token's type in `usability`.
#[test]
fn of_several_reasons_the_first_is_given_for_a_service_token_and_its_creator_is_not_looked_at() {
    let mut ran = 0;
    for flaws in subsets(&all_flaws()) {
        let (token, creator) = flawed(TokenType::Service, &flaws);
        let reason = why(&token, None, &creator, &question());
        assert_eq!(reason, first_of(&flaws, &FOR_SERVICE), "{flaws:?}");
        ran += 1;
    }
    assert_eq!(ran, 1024);
}

#[test]
fn a_token_never_issued_is_nothing_to_decide_about() {
    assert_eq!(Credential::of(&AccessToken::Unknown), None);
}

#[test]
fn a_token_ends_at_the_instant_of_its_expiry() {
    let owner = member(built_in::owner());
    for (expires_at, reason) in [(at(-1), TokenExpired), (at(0), TokenExpired), (at(1), Allowed)] {
        for token_type in [TokenType::Personal, TokenType::Service] {
            let token = token(Created {
                expires_at: Some(expires_at),
                ..created(token_type, built_in::owner())
            });
            assert_eq!(why(&token, None, &owner, &question()), reason);
        }
    }
}

#[test]
fn a_personal_token_is_usable_under_its_own_membership_only() {
    let token = personal(vec![]);
    for (membership_number, reason) in [(0, TokenInactive), (1, Allowed), (2, TokenInactive)] {
        let creator = Standing {
            membership_number,
            ..member(built_in::owner())
        };
        assert_eq!(why(&token, None, &creator, &question()), reason);
    }
}

// Addresses

fn from(allowed_ips: &[&str], address: Option<IpAddr>) -> Reason {
    let token = token(Created {
        allowed_ips: allowed_ips
            .iter()
            .map(|net| net.parse().expect("a net"))
            .collect(),
        ..created(TokenType::Service, built_in::owner())
    });
    let question = Question {
        address,
        ..question()
    };
    why(&token, None, &Standing::default(), &question)
}

#[test]
fn a_token_is_used_from_its_addresses_only() {
    let lists = ["10.0.0.0/30", "fd00::/126"];
    for (inside, outside) in [
        ("10.0.0.0", "9.255.255.255"),
        ("10.0.0.3", "10.0.0.4"),
        ("fd00::3", "fd00::4"),
    ] {
        assert_eq!(from(&lists, Some(address(inside))), Allowed, "{inside}");
        assert_eq!(from(&lists, Some(address(outside))), IpNotAllowed, "{outside}");
    }
}

#[test]
fn a_token_with_addresses_needs_one_in_the_question_and_one_without_does_not() {
    assert_eq!(from(&["0.0.0.0/0", "::/0"], None), IpNotAllowed);
    assert_eq!(from(&[], None), Allowed);
    assert_eq!(from(&[], Some(address("192.0.2.1"))), Allowed);
}

/// Tried: without `to_canonical`.
#[test]
fn an_address_that_came_as_v6_but_means_v4_counts_as_v4() {
    assert_eq!(from(&["10.0.0.0/8"], Some(address("::ffff:10.0.0.1"))), Allowed);
    assert_eq!(
        from(&["10.0.0.0/8"], Some(address("::ffff:11.0.0.1"))),
        IpNotAllowed
    );
    assert_eq!(
        from(&["::/0"], Some(address("::ffff:10.0.0.1"))),
        IpNotAllowed,
        "v6 addresses don't let v4 in"
    );
}

// Organizations

/// Tried: without the comparison in `by_permission`.
#[test]
fn a_resource_said_to_be_in_another_organization_matches_nothing_not_even_a_deny() {
    let denied = || vec![deny("d-1", "*", "*")];
    for (asked, everything, nothing) in [
        (None, Allowed, DeniedByStatement),
        (Some(organization()), Allowed, DeniedByStatement),
        (
            Some(other_organization()),
            NoMatchingStatement,
            NoMatchingStatement,
        ),
    ] {
        let question = Question {
            organization_id: asked,
            ..question()
        };
        for (statements, expected) in [(built_in::owner(), everything), (denied(), nothing)] {
            let (standing, nobody) = (member(statements.clone()), Standing::default());
            let (personal, service) = (personal(vec![]), service(statements));
            for reason in [
                why(&personal, None, &standing, &question),
                why(&service, None, &nobody, &question),
                decide_for_member(&standing, organization(), &question).reason,
            ] {
                assert_eq!(reason, expected, "{asked:?}");
            }
        }
    }
}

// Permission

fn asked(token: &AccessToken, creator: &Standing, resource: &str) -> Reason {
    let question = Question {
        resource,
        ..question()
    };
    why(token, None, creator, &question)
}

/// Tried: with `is_in_scope` always true.
#[test]
fn a_personal_token_may_do_what_lies_in_its_scope_and_in_its_creators_permission() {
    let creator = member(vec![allow("a-1", "ToggleFlag", FLAGS)]);
    let scoped = personal(vec![allow("p-1", "*", PROD_FLAGS)]);
    assert_eq!(asked(&scoped, &creator, PROD), Allowed);
    assert_eq!(asked(&scoped, &creator, DEV), OutsideTokenScope);
    assert_eq!(asked(&personal(vec![]), &creator, DEV), Allowed);
    let wider = personal(vec![allow("p-1", "*", "*")]);
    assert_eq!(asked(&wider, &creator, "iam/*"), NoMatchingStatement);
}

#[test]
fn a_deny_in_a_personal_tokens_scope_narrows_it() {
    let creator = member(built_in::owner());
    let scoped = personal(vec![allow("p-1", "*", FLAGS), deny("p-2", "*", PROD_FLAGS)]);
    assert_eq!(asked(&scoped, &creator, PROD), OutsideTokenScope);
    assert_eq!(asked(&scoped, &creator, DEV), Allowed);
}

#[test]
fn what_is_taken_from_the_creator_is_taken_from_the_personal_token_and_not_from_the_service_token() {
    let own = vec![allow("s-1", "ToggleFlag", FLAGS)];
    let creator = member(vec![]);
    assert_eq!(asked(&personal(own.clone()), &creator, PROD), NoMatchingStatement);
    assert_eq!(asked(&service(own), &creator, PROD), Allowed);
}

#[test]
fn a_service_token_without_statements_may_nothing() {
    assert_eq!(
        asked(&service(vec![]), &member(built_in::owner()), PROD),
        NoMatchingStatement
    );
}

#[test]
fn the_answer_names_the_statement_of_the_creator_that_allowed_or_denied() {
    let creator = member(vec![
        allow("a-1", "ToggleFlag", FLAGS),
        deny("d-1", "ToggleFlag", PROD_FLAGS),
    ]);
    let token = personal(vec![allow("p-1", "*", "*")]);
    for (resource, expected) in [(PROD, Some("d-1")), (DEV, Some("a-1")), ("iam/*", None)] {
        let question = Question {
            resource,
            ..question()
        };
        let token = Credential::of(&token).expect("it was issued");
        let answer = decide_for_token(&token, None, &creator, &question);
        let named = answer.statement_id.map(ToString::to_string);
        assert_eq!(named.as_deref(), expected, "{resource}");
        assert_eq!(answer.is_allowed(), expected == Some("a-1"), "{resource}");
    }
}

// Members

#[test]
fn a_member_is_answered_by_its_own_permission() {
    for (who, standing, expected) in [
        ("owner", member(built_in::owner()), Allowed),
        ("without permission", member(vec![]), NoMatchingStatement),
        ("denied", member(vec![deny("d-1", "*", "*")]), DeniedByStatement),
        ("unknown", Standing::default(), CreatorNotAMember),
        (
            "blocked",
            Standing {
                is_blocked: true,
                ..member(built_in::owner())
            },
            MemberBlocked,
        ),
        (
            "blocked and gone",
            Standing {
                is_blocked: true,
                ..Standing::default()
            },
            MemberBlocked,
        ),
    ] {
        let answer = decide_for_member(&standing, organization(), &question());
        assert_eq!(answer.reason, expected, "{who}");
    }
}

#[test]
fn reasons_are_written_as_the_contracts_closed_list_has_them() {
    let written = [
        Allowed,
        UnknownToken,
        TokenInactive,
        TokenExpired,
        TokenRemoved,
        CreatorNotAMember,
        MemberBlocked,
        NoMatchingStatement,
        DeniedByStatement,
        OutsideTokenScope,
        IpNotAllowed,
        Reason::StaleReplica,
    ];
    assert_eq!(
        serde_json::to_value(written).expect("serializes"),
        serde_json::json!([
            "allowed",
            "unknown_token",
            "token_inactive",
            "token_expired",
            "token_removed",
            "creator_not_a_member",
            "member_blocked",
            "no_matching_statement",
            "denied_by_statement",
            "outside_token_scope",
            "ip_not_allowed",
            "stale_replica"
        ])
    );
}

/// Tried: without the check of the presented secret, and with it after the one for removed tokens.
#[test]
fn a_secret_that_was_rotated_away_is_nobodys() {
    let digest = |secret: u8| SecretDigest::from_bytes([secret; 32]);
    let mut token = AccessToken::default();
    let service = created(TokenType::Service, vec![allow("s", "ToggleFlag", FLAGS)]);
    token.apply(AccessTokenEvent::Created(service.into()));
    token.apply(AccessTokenEvent::SecretRotated {
        token_id: token_id(),
        organization_id: organization(),
        previous_until: Some(at(60)),
        digest: digest(8),
        hint: String::new(),
    });
    let mut removed = token.clone();
    removed.apply(AccessTokenEvent::Removed {
        token_id: token_id(),
        organization_id: organization(),
    });
    for (secret, now, live, gone) in [
        (8, 60, Allowed, TokenRemoved),
        (7, 59, Allowed, TokenRemoved),
        (7, 60, UnknownToken, UnknownToken),
        (9, 0, UnknownToken, UnknownToken),
    ] {
        let question = Question {
            now: at(now),
            ..question()
        };
        let why = |token| why(token, Some(&digest(secret)), &Standing::default(), &question);
        assert_eq!((why(&token), why(&removed)), (live, gone), "{secret} at {now}");
    }
}

/// What is kept for decisions, event by event, is what the token's whole stream comes to. Every life of up to four events
/// after the first, of all there are.
///
/// Tried: without each of the lines of `Credential::apply` that change something, and without its look at removed tokens.
#[test]
fn a_credential_follows_its_token_through_every_life() {
    let (token_id, organization_id) = (token_id(), organization());
    let events = [
        AccessTokenEvent::Renamed {
            token_id,
            organization_id,
            name: name("other"),
        },
        AccessTokenEvent::DescriptionChanged {
            token_id,
            organization_id,
            description: Some("words".to_owned()),
        },
        AccessTokenEvent::ExpiryChanged {
            token_id,
            organization_id,
            expires_at: Some(at(1)),
        },
        AccessTokenEvent::AllowedIpsChanged {
            token_id,
            organization_id,
            allowed_ips: vec!["10.0.0.0/8".parse().expect("a net")],
        },
        AccessTokenEvent::SecretRotated {
            token_id,
            organization_id,
            previous_until: Some(at(9)),
            digest: SecretDigest::from_bytes([8; 32]),
            hint: String::new(),
        },
        AccessTokenEvent::Activated {
            token_id,
            organization_id,
            membership_number: 2,
        },
        AccessTokenEvent::Deactivated {
            token_id,
            organization_id,
            reason: DeactivationReason::ByMember,
        },
        AccessTokenEvent::Created(created(TokenType::Personal, vec![]).into()),
        removed(),
    ];
    let first = created(TokenType::Service, vec![allow("s", "ToggleFlag", FLAGS)]);
    let mut lives = vec![(token(first.clone()), Credential::issued(&first))];
    for _ in 0..4 {
        lives = lives
            .iter()
            .flat_map(|(token, credential)| {
                events.iter().map(|event| {
                    let (mut token, mut credential) = (token.clone(), credential.clone());
                    token.apply(event.clone());
                    credential.apply(event);
                    (token, credential)
                })
            })
            .collect();
        for (token, credential) in &lives {
            assert_eq!(Credential::of(token).as_ref(), Some(credential), "{token:?}");
        }
    }
    assert_eq!(lives.len(), events.len().pow(4));
}
