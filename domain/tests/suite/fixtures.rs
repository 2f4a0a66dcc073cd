//! Every shape of every stored event, as a file in `fixtures/` that is never edited: today's events read what was
//! written yesterday, and write it the same.

use std::collections::BTreeSet;
use std::path::Path;

use cqrs_es::DomainEvent;
use domain::access_token::{AccessTokenEvent, DeactivationReason, TokenType};
use domain::member::{MemberEvent, Place};
use domain::organization::OrganizationEvent;
use domain::upcast::{FIRST, current_version, is_known, upcast};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What is written, and is never to change: all the fixtures there are.
const FIXTURES: [&str; 32] = [
    "access_token.activated",
    "access_token.allowed_ips_changed",
    "access_token.created.personal",
    "access_token.created.service",
    "access_token.deactivated.by_member",
    "access_token.deactivated.creator_removed",
    "access_token.deactivated.expired",
    "access_token.description_changed.none",
    "access_token.description_changed.set",
    "access_token.expiry_changed.none",
    "access_token.expiry_changed.set",
    "access_token.removed",
    "access_token.renamed",
    "access_token.secret_rotated.at_once",
    "access_token.secret_rotated.with_overlap",
    "member.added.arrival",
    "member.added.version",
    "member.blocked",
    "member.message_dropped.of_a_type",
    "member.message_dropped.of_none",
    "member.permission_granted.arrival",
    "member.permission_granted.version",
    "member.permission_revoked.arrival.everywhere",
    "member.permission_revoked.arrival.somewhere",
    "member.permission_revoked.version.everywhere",
    "member.permission_revoked.version.somewhere",
    "member.permissions_replaced.arrival",
    "member.permissions_replaced.version",
    "member.released",
    "member.removed.arrival",
    "member.removed.version",
    "organization.removed",
];

/// An event whose fixtures these are.
trait Stored: DomainEvent {
    /// The fixture that shows the shape of this event. Exhaustive: a new event, reason or place does not compile until it
    /// is named here.
    fn fixture(&self) -> String;
}

impl Stored for AccessTokenEvent {
    fn fixture(&self) -> String {
        match self {
            Self::Created(created) => match created.token_type {
                TokenType::Personal => "access_token.created.personal",
                TokenType::Service => "access_token.created.service",
            },
            Self::Renamed { .. } => "access_token.renamed",
            Self::DescriptionChanged { description, .. } => match description {
                Some(_) => "access_token.description_changed.set",
                None => "access_token.description_changed.none",
            },
            Self::ExpiryChanged { expires_at, .. } => match expires_at {
                Some(_) => "access_token.expiry_changed.set",
                None => "access_token.expiry_changed.none",
            },
            Self::AllowedIpsChanged { .. } => "access_token.allowed_ips_changed",
            Self::SecretRotated { previous_until, .. } => match previous_until {
                Some(_) => "access_token.secret_rotated.with_overlap",
                None => "access_token.secret_rotated.at_once",
            },
            Self::Activated { .. } => "access_token.activated",
            Self::Deactivated { reason, .. } => match reason {
                DeactivationReason::ByMember => "access_token.deactivated.by_member",
                DeactivationReason::CreatorRemoved { .. } => "access_token.deactivated.creator_removed",
                DeactivationReason::Expired => "access_token.deactivated.expired",
            },
            Self::Removed { .. } => "access_token.removed",
        }
        .to_owned()
    }
}

impl Stored for MemberEvent {
    fn fixture(&self) -> String {
        match self {
            Self::Added { place, .. } => format!("member.added.{}", order(*place)),
            Self::PermissionGranted { place, .. } => format!("member.permission_granted.{}", order(*place)),
            Self::PermissionRevoked { place, resources, .. } => {
                let whereabouts = match resources {
                    Some(_) => "somewhere",
                    None => "everywhere",
                };
                format!("member.permission_revoked.{}.{whereabouts}", order(*place))
            }
            Self::PermissionsReplaced { place, .. } => {
                format!("member.permissions_replaced.{}", order(*place))
            }
            Self::Removed { place, .. } => format!("member.removed.{}", order(*place)),
            Self::Blocked { .. } => "member.blocked".to_owned(),
            Self::MessageDropped { message_type, .. } => {
                let of = message_type.as_ref().map_or("of_none", |_| "of_a_type");
                format!("member.message_dropped.{of}")
            }
            Self::Released { .. } => "member.released".to_owned(),
        }
    }
}

impl Stored for OrganizationEvent {
    fn fixture(&self) -> String {
        match self {
            Self::Removed { .. } => "organization.removed".to_owned(),
        }
    }
}

fn order(place: Place) -> &'static str {
    match place {
        Place::Version(_) => "version",
        Place::Arrival(_) => "arrival",
    }
}

fn fixture(name: &str) -> Value {
    let path = directory().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

/// Reads a fixture into today's event and writes it back.
fn hold<E: Stored + DeserializeOwned>(name: &str) {
    let stored = fixture(name);
    let event_type = stored["event"].as_str().expect("its type");
    // An older shape would be named with its version, read through the upcasters, and not written back.
    let payload = upcast(event_type, FIRST, &stored).unwrap_or_else(|error| panic!("{name}: {error}"));
    let event: E =
        serde_json::from_value(payload.into_owned()).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(event.event_version(), current_version(event_type), "{name}");
    let written = serde_json::to_value(&event).expect("an event is JSON");
    assert_eq!(written, stored, "{name}");
    assert_eq!(
        stored.get("event"),
        Some(&json!(event.event_type())),
        "{name} is stored under its name"
    );
    assert_eq!(event.fixture(), name);
}

/// The event types serde knows, out of what it says to one it does not.
fn event_types<E: Stored + DeserializeOwned>() -> Vec<String> {
    let known = serde_json::from_value::<E>(json!({ "event": "?" }))
        .expect_err("no such event")
        .to_string();
    let (_, known) = known.split_once("expected ").expect("the known ones");
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn is_of_type(name: &str, event_type: &str) -> bool {
    name.strip_prefix(event_type)
        .is_some_and(|shape| shape.is_empty() || shape.starts_with('.'))
}

/// Tried: with a field renamed in `AccessTokenEvent::Activated` and one in `DeactivationReason`, with a name of
/// `event_type` changed, and without `skip_serializing_if` on a revocation's resources.
#[test]
fn what_is_stored_is_read_and_written_back_the_same() {
    for name in FIXTURES {
        match name.split_once('.') {
            Some(("access_token", _)) => hold::<AccessTokenEvent>(name),
            Some(("member", _)) => hold::<MemberEvent>(name),
            Some(("organization", _)) => hold::<OrganizationEvent>(name),
            _ => panic!("{name} is of no aggregate"),
        }
    }
}

/// Tried: with another event (which does not compile until it is named above, and then has no fixture), and with a file
/// taken away.
#[test]
fn every_event_type_has_a_fixture_and_every_file_is_one() {
    let types = [
        event_types::<AccessTokenEvent>(),
        event_types::<MemberEvent>(),
        event_types::<OrganizationEvent>(),
    ]
    .concat();
    let known = [
        AccessTokenEvent::TYPES.as_slice(),
        &MemberEvent::TYPES,
        &OrganizationEvent::TYPES,
    ];
    assert_eq!(
        types,
        known.concat(),
        "a follower who has no use for them knows them too"
    );
    assert!(
        types
            .iter()
            .all(|event_type| is_known(event_type, current_version(event_type)))
    );
    assert!(!is_known("access_token.painted", FIRST) && !is_known("access_token.created", "2.0.0"));
    for event_type in types {
        let has_one = FIXTURES.iter().any(|name| is_of_type(name, &event_type));
        assert!(has_one, "{event_type} has no fixture");
    }
    let files: BTreeSet<String> = std::fs::read_dir(directory())
        .expect("the fixtures")
        .filter_map(|entry| entry.expect("a file").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    assert_eq!(files, FIXTURES.map(str::to_owned).into());
}
