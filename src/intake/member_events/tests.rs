//! What each message says, or why it can't be used and whom that blocks.

use serde_json::json;

use super::*;

const ORGANIZATION: &str = "10000000-0000-4000-8000-000000000001";
const ADA: &str = "20000000-0000-4000-8000-000000000001";
const BOB: &str = "20000000-0000-4000-8000-000000000002";

fn member(id: &str) -> MemberKey {
    (ORGANIZATION.parse().unwrap(), id.parse().unwrap())
}

fn key(member_id: &str) -> Vec<u8> {
    format!("{ORGANIZATION}:{member_id}").into_bytes()
}

fn event(kind: &str, more: Value) -> Value {
    let mut data = json!({ "organizationId": ORGANIZATION, "memberId": ADA, "version": 7 });
    for (name, value) in more.as_object().unwrap() {
        data[name] = value.clone();
    }
    json!({ "specversion": "1.0", "id": "e-1", "source": "/featbit", "type": format!("featbit.membership.{kind}"), "data": data })
}

fn revoked() -> Value {
    event("PermissionRevoked", json!({ "permission": "ToggleFlag" }))
}

fn statements() -> Value {
    json!([{ "id": "a", "resourceType": "flag", "effect": "allow", "actions": ["*"], "resources": ["project/*"], "new": 1 }])
}

fn bytes(key: Option<Vec<u8>>, payload: Option<&[u8]>) -> Message {
    understand(RawMessage {
        key,
        payload: payload.map(<[u8]>::to_vec),
        ..RawMessage::default()
    })
}

fn keyed(key: Option<Vec<u8>>, body: &Value) -> Message {
    bytes(key, Some(body.to_string().as_bytes()))
}

fn structured(body: &Value) -> Message {
    keyed(Some(key(ADA)), body)
}

/// The same event with its attributes in headers.
fn binary(body: &Value, more: &[(&str, &str)]) -> Message {
    let attributes = ["specversion", "id", "source", "type"].map(|name| {
        let value = body[name].as_str().unwrap().to_owned();
        (format!("ce_{name}"), value)
    });
    let more = more
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    understand(RawMessage {
        key: Some(key(ADA)),
        headers: more.chain(attributes).collect(),
        payload: Some(body["data"].to_string().into_bytes()),
        ..RawMessage::default()
    })
}

fn usable(message: Message) -> MembershipEvent {
    message.meaning.expect("a message that can be used")
}

#[track_caller]
fn unusable(message: &Message, reason: &str, blocked: &[MemberKey]) {
    let unusable = message
        .meaning
        .as_ref()
        .expect_err("a message that can't be used");
    assert_eq!((unusable.reason, unusable.members.as_slice()), (reason, blocked));
}

fn without(mut body: Value, pointer: &str, name: &str) -> Value {
    body.pointer_mut(pointer)
        .unwrap()
        .as_object_mut()
        .unwrap()
        .remove(name);
    body
}

fn with(mut body: Value, pointer: &str, name: &str, value: Value) -> Value {
    body.pointer_mut(pointer).unwrap()[name] = value;
    body
}

#[test]
fn each_type_says_its_fact_in_both_modes() {
    let added = json!({ "name": "Ada", "email": "ada@example.org", "statements": statements() });
    let granted = json!({ "statements": statements() });
    let revoked = json!({ "permission": "ToggleFlag", "resources": ["project/*:env/prod:flag/*"] });
    let expected: Vec<Statement> = serde_json::from_value(statements()).unwrap();
    let facts = [
        (
            "MemberAdded",
            added,
            MembershipFact::Added {
                statements: expected.clone(),
            },
        ),
        (
            "PermissionGranted",
            granted.clone(),
            MembershipFact::Granted {
                statements: expected.clone(),
            },
        ),
        (
            "PermissionRevoked",
            revoked,
            MembershipFact::Revoked(Revocation {
                permission: Action::new("ToggleFlag"),
                resources: Some(vec![ResourcePattern::new("project/*:env/prod:flag/*")]),
            }),
        ),
        (
            "PermissionsReplaced",
            granted,
            MembershipFact::Replaced { statements: expected },
        ),
        ("MemberRemoved", json!({}), MembershipFact::Removed),
    ];
    for (kind, data, expected) in facts {
        let body = event(kind, data);
        for message in [structured(&body), binary(&body, &[])] {
            let event = usable(message);
            assert_eq!(
                (event.key.source.as_str(), event.key.key.as_str()),
                ("/featbit", "e-1")
            );
            assert_eq!(event.event_type, format!("featbit.membership.{kind}"));
            let About::Member {
                member_id,
                version,
                fact,
                profile,
            } = event.about
            else {
                panic!("{kind} is about a member");
            };
            assert_eq!(
                ((event.organization_id, member_id), version),
                (member(ADA), Some(7))
            );
            assert_eq!(fact, expected);
            assert_eq!(profile.is_some(), kind == "MemberAdded");
        }
    }
}

#[test]
fn the_removal_of_an_organization_is_about_no_member() {
    let body = without(event("OrganizationRemoved", json!({})), "/data", "memberId");
    for key in [Some(key("")), None] {
        assert_eq!(usable(keyed(key, &body)).about, About::Organization);
    }
}

#[test]
fn the_name_and_address_of_an_added_member_are_its_profile() {
    let body = event(
        "MemberAdded",
        json!({ "name": "Ada", "email": "a@b.c", "statements": [] }),
    );
    let About::Member { profile, .. } = usable(structured(&body)).about else {
        panic!("about a member");
    };
    let profile = profile.unwrap();
    assert_eq!((profile.name.as_str(), profile.email.as_str()), ("Ada", "a@b.c"));
}

#[test]
fn a_version_is_optional_and_so_are_the_resources_of_a_revocation() {
    for absent in [
        without(revoked(), "/data", "version"),
        with(revoked(), "/data", "version", Value::Null),
    ] {
        let About::Member { version, fact, .. } = usable(structured(&absent)).about else {
            panic!("about a member");
        };
        assert_eq!(version, None);
        assert!(
            matches!(fact, MembershipFact::Revoked(Revocation { resources: None, .. })),
            "everywhere"
        );
    }
}

#[test]
fn unknown_attributes_fields_and_headers_are_ignored() {
    let body = with(
        with(revoked(), "", "traceparent", json!({ "a": [1] })),
        "/data",
        "new",
        json!([null]),
    );
    usable(structured(&body));
    usable(binary(&body, &[("ce_new", "1"), ("\u{fffd}", "")]));
}

#[test]
fn the_content_type_of_structured_mode_wins_over_attributes_in_headers() {
    for content_type in [
        "application/cloudevents+json",
        "Application/CloudEvents+json; charset=utf-8",
    ] {
        let message = understand(RawMessage {
            key: Some(key(ADA)),
            headers: vec![
                ("Content-Type".to_owned(), content_type.to_owned()),
                ("ce_specversion".to_owned(), "1.0".to_owned()),
                ("ce_id".to_owned(), "another".to_owned()),
            ],
            payload: Some(revoked().to_string().into_bytes()),
            ..RawMessage::default()
        });
        assert_eq!(usable(message).key.key, "e-1");
    }
    usable(binary(&revoked(), &[("content-type", "application/json")]));
}

#[test]
fn a_body_that_nobody_can_read_blocks_the_member_of_the_key() {
    let bodies: [(Option<&[u8]>, &str); 9] = [
        (None, "payload_is_missing"),
        (Some(b""), "payload_is_not_json"),
        (Some(b"{"), "payload_is_not_json"),
        (Some(b"\xff\xfe"), "payload_is_not_json"),
        (Some(b"{\"id\":\"\\ud800\"}"), "payload_is_not_json"),
        (Some(b"{\"id\":1e999}"), "payload_is_not_json"),
        (Some(b"[]"), "payload_is_not_an_object"),
        (Some(b"null"), "payload_is_not_an_object"),
        (Some(b"{}"), "specversion_is_not_supported"),
    ];
    for (body, reason) in bodies {
        unusable(&bytes(Some(key(ADA)), body), reason, &[member(ADA)]);
        for no_member in [
            None,
            Some(key("")),
            Some(Vec::new()),
            Some(b"\xff".to_vec()),
            Some(b"a:b".to_vec()),
        ] {
            unusable(&bytes(no_member, body), reason, &[]);
        }
    }
}

#[test]
fn json_deeper_than_any_event_is_no_json() {
    let deep = "[".repeat(100_000);
    unusable(
        &bytes(Some(key(ADA)), Some(deep.as_bytes())),
        "payload_is_not_json",
        &[member(ADA)],
    );
}

#[test]
fn a_nul_character_in_what_is_used_blocks_the_members_of_the_key_and_of_the_body() {
    let nul = json!("a\0b");
    for body in [
        with(revoked(), "/data", "permission", nul.clone()),
        with(revoked(), "/data", "resources", json!([nul])),
        with(revoked(), "", "id", nul.clone()),
        with(revoked(), "", "type", nul),
    ] {
        unusable(&structured(&body), "payload_has_a_nul_character", &[member(ADA)]);
        unusable(&keyed(None, &body), "payload_has_a_nul_character", &[member(ADA)]);
        let event_type = structured(&body).meaning.unwrap_err().event_type.unwrap();
        assert!(!event_type.contains('\0'), "it can be stored: {event_type:?}");
    }
}

#[test]
fn what_is_needed_must_be_there_and_of_its_kind() {
    let added = event(
        "MemberAdded",
        json!({ "name": "Ada", "email": "a@b.c", "statements": statements() }),
    );
    let granted = event("PermissionGranted", json!({ "statements": statements() }));
    let replaced = event("PermissionsReplaced", json!({ "statements": statements() }));
    let odd = [Value::Null, json!(1), json!({}), json!([1]), json!(true)];
    let fields = [
        (revoked(), "", "specversion", "specversion_is_not_supported"),
        (revoked(), "", "id", "identity_is_invalid"),
        (revoked(), "", "source", "identity_is_invalid"),
        (revoked(), "", "type", "type_is_unknown"),
        (revoked(), "/data", "permission", "permission_is_invalid"),
        (added.clone(), "/data", "name", "name_is_invalid"),
        (added.clone(), "/data", "email", "email_is_invalid"),
        (added, "/data", "statements", "statements_is_invalid"),
        (granted, "/data", "statements", "statements_is_invalid"),
        (replaced, "/data", "statements", "statements_is_invalid"),
    ];
    for (body, pointer, name, reason) in fields {
        unusable(
            &structured(&without(body.clone(), pointer, name)),
            reason,
            &[member(ADA)],
        );
        for odd in &odd {
            unusable(
                &structured(&with(body.clone(), pointer, name, odd.clone())),
                reason,
                &[member(ADA)],
            );
        }
    }
}

#[test]
fn without_its_ids_an_event_is_about_the_member_of_the_key() {
    for odd in [Value::Null, json!(1), json!("ada"), json!("")] {
        for (name, reason) in [
            ("organizationId", "organization_id_is_invalid"),
            ("memberId", "member_id_is_invalid"),
        ] {
            let body = with(revoked(), "/data", name, odd.clone());
            unusable(&structured(&body), reason, &[member(ADA)]);
            unusable(&keyed(None, &body), reason, &[]);
        }
    }
    for data in [Value::Null, json!([]), json!("{}")] {
        unusable(
            &structured(&with(revoked(), "", "data", data)),
            "organization_id_is_invalid",
            &[member(ADA)],
        );
    }
}

#[test]
fn a_value_out_of_range_is_not_guessed_at() {
    for version in [json!("7"), json!(7.5), json!(u64::MAX), json!(true), json!([])] {
        unusable(
            &structured(&with(revoked(), "/data", "version", version)),
            "version_is_invalid",
            &[member(ADA)],
        );
    }
    for resources in [json!([]), json!("*"), json!([1]), json!({})] {
        let body = with(revoked(), "/data", "resources", resources);
        unusable(&structured(&body), "resources_is_invalid", &[member(ADA)]);
    }
    for statements in [json!([1]), json!([{}]), json!([{ "effect": "allow" }])] {
        let body = event("PermissionGranted", json!({ "statements": statements }));
        unusable(&structured(&body), "statements_is_invalid", &[member(ADA)]);
    }
    unusable(
        &structured(&with(revoked(), "/data", "permission", json!(""))),
        "permission_is_invalid",
        &[member(ADA)],
    );
}

#[test]
fn another_specification_or_another_type_is_unknown() {
    for specversion in ["0.3", "2.0", "10", ""] {
        let body = with(revoked(), "", "specversion", json!(specversion));
        unusable(&structured(&body), "specversion_is_not_supported", &[member(ADA)]);
        unusable(
            &binary(&body, &[]),
            "specversion_is_not_supported",
            &[member(ADA)],
        );
    }
    for kind in [
        "featbit.membership.",
        "featbit.membership.memberadded",
        "featbit.flag.Changed",
        "",
    ] {
        let message = structured(&with(revoked(), "", "type", json!(kind)));
        unusable(&message, "type_is_unknown", &[member(ADA)]);
        assert_eq!(message.meaning.unwrap_err().event_type.as_deref(), Some(kind));
    }
}

#[test]
fn an_identity_has_1024_bytes_at_most() {
    for name in ["id", "source"] {
        usable(structured(&with(revoked(), "", name, json!("x".repeat(1024)))));
        usable(structured(&with(revoked(), "", name, json!("é".repeat(512)))));
        for too_long in ["x".repeat(1025), "é".repeat(513)] {
            let body = with(revoked(), "", name, json!(too_long));
            unusable(&structured(&body), "identity_is_invalid", &[member(ADA)]);
        }
        unusable(
            &structured(&with(revoked(), "", name, json!(""))),
            "identity_is_invalid",
            &[member(ADA)],
        );
    }
}

/// Or else two ids that are not UTF-8 are one, and the second event is taken for a repeat.
#[test]
fn an_identity_that_was_not_utf8_is_none() {
    let body = with(revoked(), "", "id", json!("\u{fffd}"));
    unusable(&binary(&body, &[]), "identity_is_invalid", &[member(ADA)]);
}

#[test]
fn where_key_and_body_disagree_both_members_are_blocked() {
    unusable(
        &keyed(Some(key(BOB)), &revoked()),
        "key_does_not_match",
        &[member(BOB), member(ADA)],
    );
    for unreadable in [
        key(""),
        Vec::new(),
        b"\xff".to_vec(),
        ADA.as_bytes().to_vec(),
        [&key(ADA)[..], b" "].concat(),
    ] {
        unusable(
            &keyed(Some(unreadable), &revoked()),
            "key_does_not_match",
            &[member(ADA)],
        );
    }
    let removed = without(event("OrganizationRemoved", json!({})), "/data", "memberId");
    unusable(
        &keyed(Some(key(ADA)), &removed),
        "key_does_not_match",
        &[member(ADA)],
    );
    let other = format!("{BOB}:").into_bytes();
    unusable(&keyed(Some(other), &removed), "key_does_not_match", &[]);
}

#[test]
fn a_broken_body_whose_member_is_not_that_of_the_key_blocks_both() {
    let body = with(revoked(), "", "type", json!("unknown"));
    unusable(
        &keyed(Some(key(BOB)), &body),
        "type_is_unknown",
        &[member(BOB), member(ADA)],
    );
}

#[test]
fn without_a_key_the_body_says_whom_it_is_about() {
    usable(keyed(None, &revoked()));
    unusable(
        &keyed(None, &with(revoked(), "", "type", json!("unknown"))),
        "type_is_unknown",
        &[member(ADA)],
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_at_all_make_it_fail(
        key in proptest::option::of(proptest::collection::vec(0_u8.., 0..80)),
        headers in proptest::collection::vec(("(ce_)?[a-z]{0,12}", ".{0,12}"), 0..6),
        payload in proptest::option::of(proptest::collection::vec(0_u8.., 0..200)),
    ) {
        let raw = RawMessage { key, headers, payload, ..RawMessage::default() };
        let message = understand(raw.clone());
        proptest::prop_assert_eq!(message.raw, raw);
        proptest::prop_assert!(message.meaning.is_err());
    }
}
