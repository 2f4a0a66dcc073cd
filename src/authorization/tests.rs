//! The index by itself, fed by hand. What it answers over HTTP, and from a real log, stands in `tests/suite`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::access_token::{AccessTokenEvent, Created, TokenName, TokenType};
use domain::authorization::{Credential, Question, Reason};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::member::{MemberEvent, Place, Standing};
use domain::organization::OrganizationEvent;
use domain::policy::{Action, Effect, ResourcePattern, Statement};
use domain::secret::{Secret, SecretKind};
use projections::log::{Fact, RecordedEvent};
use uuid::Uuid;

use super::contents::{Contents, TokenEntry};
use super::{Fence, Index, Subject};

const RESOURCE: &str = "project/web:env/prod:flag/dark-mode;beta,team-a";

fn organization(number: u128) -> OrganizationId {
    Uuid::from_u128(number).into()
}

fn ada() -> MemberId {
    Uuid::from_u128(1).into()
}

fn token_id(number: u8) -> TokenId {
    Uuid::from_u128(number.into()).into()
}

fn secret(number: u8) -> Secret {
    Secret::generate(SecretKind::Service, [number; 32])
}

/// Twenty statements with globs and tags, of which only the last is about the resource.
fn twenty() -> Vec<Statement> {
    let statement = |number: usize, resource: &str| Statement {
        id: Some(format!("statement-{number}")),
        resource_type: "flag".to_owned(),
        effect: Effect::Allow,
        actions: vec![Action::new("UpdateFlagName"), Action::new("ToggleFlag")],
        resources: vec![
            ResourcePattern::new(format!("project/w*b:env/stag*ing-{number}:flag/*;team-*,gamma")),
            ResourcePattern::new(resource),
        ],
    };
    (1..20)
        .map(|number| statement(number, "project/*:env/prod:flag/*;delta-*,*-omega"))
        .chain([statement(20, "project/w*:env/*:flag/dark-*;team-*,gamma")])
        .collect()
}

fn joined(organization_id: OrganizationId) -> Fact {
    Fact::Member(MemberEvent::Added {
        organization_id,
        member_id: ada(),
        place: Place::Arrival(1),
        membership_number: 1,
        statements: twenty(),
    })
}

fn created(organization_id: OrganizationId, number: u8, token_type: TokenType) -> Fact {
    let statements = match token_type {
        TokenType::Personal => Vec::new(),
        TokenType::Service => twenty(),
    };
    let created = Created {
        token_id: token_id(number),
        organization_id,
        creator_id: ada(),
        membership_number: 1,
        name: TokenName::parse("deploy").unwrap(),
        token_type,
        statements,
        description: None,
        expires_at: None,
        allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
        digest: secret(number).digest(),
        hint: secret(number).hint(),
    };
    Fact::AccessToken(AccessTokenEvent::Created(created.into()))
}

fn rotated(organization_id: OrganizationId, number: u8, to: u8) -> Fact {
    Fact::AccessToken(AccessTokenEvent::SecretRotated {
        token_id: token_id(number),
        organization_id,
        previous_until: None,
        digest: secret(to).digest(),
        hint: secret(to).hint(),
    })
}

/// As the log would have them, from the first position on.
fn recorded(facts: Vec<Fact>) -> Vec<Arc<RecordedEvent>> {
    (1..)
        .zip(facts)
        .map(|(position, fact)| RecordedEvent {
            position,
            recorded_at: DateTime::UNIX_EPOCH,
            organization_id: organization(10),
            aggregate_id: match &fact {
                Fact::AccessToken(fact) => fact.token_id().to_string(),
                _ => String::new(),
            },
            sequence: 1,
            metadata: serde_json::Value::Null,
            fact,
        })
        .map(Arc::new)
        .collect()
}

/// An index that holds this and may decide for an hour.
fn index(facts: Vec<Fact>) -> Index {
    let index = Index::new(Fence::default());
    index.apply(&recorded(facts));
    index
        .fence()
        .open_until(crate::clock::BootClock::default().since_boot() + Duration::from_secs(3600));
    index
}

fn question(now: DateTime<Utc>) -> Question<'static> {
    Question {
        action: "ToggleFlag",
        resource: RESOURCE,
        organization_id: None,
        address: Some(IpAddr::from([10, 0, 0, 1])),
        now,
    }
}

fn why(index: &Index, subject: &Subject) -> Reason {
    index.decide(subject, &question(Utc::now()), 0, |_, answer| answer.reason)
}

/// Tried: with the question's resource copied, and with a standing made for a member who is unknown.
#[test]
fn a_decision_allocates_nothing() {
    let here = organization(10);
    let index = index(vec![
        joined(here),
        created(here, 1, TokenType::Personal),
        created(here, 2, TokenType::Service),
    ]);
    let subjects = [
        (Subject::Secret(secret(1).digest()), Reason::Allowed),
        (Subject::Secret(secret(2).digest()), Reason::Allowed),
        (Subject::Token(token_id(2)), Reason::Allowed),
        (Subject::Member(here, ada()), Reason::Allowed),
        (Subject::Secret(secret(3).digest()), Reason::UnknownToken),
        (
            Subject::Member(organization(11), ada()),
            Reason::CreatorNotAMember,
        ),
        (Subject::Unknown, Reason::UnknownToken),
    ];
    for (subject, expected) in &subjects {
        // The first one of a thread sets up what belongs to the thread.
        assert_eq!(why(&index, subject), *expected, "{subject:?}");
        let allocated = allocation_counter::measure(|| {
            for _ in 0..100 {
                assert_eq!(why(&index, subject), *expected);
            }
        });
        assert_eq!(allocated.count_total, 0, "{subject:?}");
    }
    assert_eq!(
        allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1)))).count_total,
        1,
        "the counter counts"
    );
}

/// What each of a million costs twice over is seen here first; `scripts/bench decisions` measures all of it.
#[test]
fn a_token_takes_little_room() {
    assert!(size_of::<Credential>() <= 128, "{}", size_of::<Credential>());
    assert!(size_of::<TokenEntry>() <= 48, "{}", size_of::<TokenEntry>());
    assert!(size_of::<Standing>() <= 40, "{}", size_of::<Standing>());
}

/// After a failover the log may be another one. Tried: with `start_over` that changes nothing.
#[test]
fn an_index_that_starts_over_holds_nothing_of_what_it_held() {
    let here = organization(10);
    let index = index(vec![joined(here), created(here, 1, TokenType::Personal)]);
    assert_eq!(why(&index, &Subject::Token(token_id(1))), Reason::Allowed);
    index.start_over(Contents::default());
    assert_eq!(index.position(), 0);
    assert_eq!(why(&index, &Subject::Token(token_id(1))), Reason::UnknownToken);
    assert_eq!(
        why(&index, &Subject::Member(here, ada())),
        Reason::CreatorNotAMember
    );
    index.apply(&recorded(vec![joined(here)]));
    assert_eq!(why(&index, &Subject::Member(here, ada())), Reason::Allowed);
}

/// Tried: with every organization's tokens and members ended, and with none.
#[test]
fn an_organizations_removal_ends_its_own_tokens_and_members_alone() {
    let (here, there) = (organization(10), organization(11));
    let index = index(vec![
        joined(here),
        created(here, 1, TokenType::Service),
        joined(there),
        created(there, 2, TokenType::Service),
        Fact::Organization(OrganizationEvent::Removed {
            organization_id: here,
        }),
        // The reactor's word for the first is on its way; one more is made in between.
        created(here, 3, TokenType::Service),
    ]);
    for (number, expected) in [
        (1, Reason::TokenRemoved),
        (2, Reason::Allowed),
        (3, Reason::TokenRemoved),
    ] {
        assert_eq!(
            why(&index, &Subject::Token(token_id(number))),
            expected,
            "{number}"
        );
    }
    let reasons = [here, there].map(|of| why(&index, &Subject::Member(of, ada())));
    assert_eq!(reasons, [Reason::CreatorNotAMember, Reason::Allowed]);
}

/// Tried: without the removal of what has ended; without the new one put in.
#[test]
fn a_rotated_secret_is_found_and_the_one_before_is_forgotten() {
    let here = organization(10);
    let index = index(vec![
        created(here, 1, TokenType::Service),
        rotated(here, 1, 2),
        rotated(here, 1, 3),
    ]);
    assert_eq!(why(&index, &Subject::Secret(secret(3).digest())), Reason::Allowed);
    assert_eq!(
        why(&index, &Subject::Secret(secret(1).digest())),
        Reason::UnknownToken
    );
    assert_eq!(index.secrets(), 1);
}
