//! A message that can't be used: set aside as it came, its member denied, everybody else unaffected, nothing lost.

use serde_json::{Value, json};
use sqlx::PgPool;

use super::broker::{Broker, Sent, consumed, readiness};
use super::on_each_broker;
use super::somebody::{Somebody, token_reason};
use crate::support::TestApp;

on_each_broker! {
    garbage_is_parked_as_it_came_and_denies_its_member_alone,
    where_key_and_body_disagree_both_members_are_denied,
    a_message_without_a_member_is_parked_alone_and_the_node_stays_ready,
    messages_as_large_as_the_broker_takes_are_parked_whole,
    the_longest_identity_is_taken_and_a_longer_one_parked,
}

#[derive(Debug, sqlx::FromRow)]
struct Parked {
    reason: String,
    event_type: Option<String>,
    partition: i32,
    message_offset: i64,
    message_key: Option<Vec<u8>>,
    headers: Value,
    payload: Option<Vec<u8>>,
}

async fn parked(pool: &PgPool, somebody: Option<Somebody>) -> Vec<Parked> {
    sqlx::query_as(
        "select reason, event_type, partition, message_offset, message_key, headers, payload from parked_messages
         where member_id is not distinct from $1 order by partition, message_offset",
    )
    .bind(somebody.map(|somebody| somebody.member_id.as_uuid()))
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Every kind of garbage, as a change of a good message about its member, and why it is parked.
fn garbage(somebody: Somebody) -> Vec<(&'static str, Sent)> {
    let good = || Sent::structured(&somebody.granted(2, "x"));
    let bytes = |payload: &[u8]| Sent {
        payload: Some(payload.to_vec()),
        ..good()
    };
    let with = |pointer: &str, name: &str, value: Value| {
        let mut event = somebody.granted(2, "x");
        event.pointer_mut(pointer).unwrap()[name] = value;
        Sent {
            key: Some(somebody.key()),
            ..Sent::structured(&event)
        }
    };
    let no_resources = json!({ "permission": "ToggleFlag", "resources": [] });
    let tombstone = Sent {
        payload: None,
        ..good()
    };
    let no_key = Sent {
        key: None,
        ..with("", "type", json!("featbit.membership.Renamed"))
    };
    let unreadable_key = Sent {
        key: Some(b"\xff\0:".to_vec()),
        ..good()
    };
    let mut binary = Sent::binary(&somebody.granted(2, "x"));
    binary.headers.retain(|(name, _)| *name != "ce_id");
    vec![
        ("payload_is_not_json", bytes(b"garbage")),
        ("payload_is_not_json", bytes(b"")),
        ("payload_is_not_json", bytes(b"{\"id\":\"\xff\xfe\"}")),
        ("payload_is_not_an_object", bytes(b"[1, 2]")),
        ("payload_is_missing", tombstone),
        (
            "payload_has_a_nul_character",
            with("/data", "resources", json!(["a\0b"])),
        ),
        (
            "specversion_is_not_supported",
            with("", "specversion", json!("0.3")),
        ),
        ("identity_is_invalid", with("", "id", Value::Null)),
        ("identity_is_invalid", with("", "source", json!(1))),
        ("identity_is_invalid", binary),
        (
            "type_is_unknown",
            with("", "type", json!("featbit.membership.Renamed")),
        ),
        ("type_is_unknown", no_key),
        ("organization_id_is_invalid", with("", "data", json!("text"))),
        (
            "organization_id_is_invalid",
            with("/data", "organizationId", json!("acme")),
        ),
        ("member_id_is_invalid", with("/data", "memberId", json!(["x"]))),
        ("version_is_invalid", with("/data", "version", json!("2"))),
        ("statements_is_invalid", with("/data", "statements", json!({}))),
        (
            "resources_is_invalid",
            Sent::structured(&somebody.event("PermissionRevoked", 2, no_resources)),
        ),
        ("key_does_not_match", unreadable_key),
        ("mixed_order", Sent::structured(&somebody.granted(0, "x"))),
    ]
}

/// Tried, each alone: with nobody blocked by `park`, and with messages behind a parked one taken.
async fn garbage_is_parked_as_it_came_and_denies_its_member_alone(broker: Broker) {
    let app = broker.node().await;
    let pool = &app.database.pool;
    let healthy = Somebody::new();
    let kinds = garbage(healthy).len();
    let members: Vec<Somebody> = (0..kinds)
        .map(|_| Somebody::of(healthy.organization_id))
        .collect();
    // All in one partition: who comes after garbage there must not suffer from it.
    let mut messages = vec![Sent::structured(&healthy.added(1)).to(0)];
    messages.extend(
        members
            .iter()
            .map(|member| Sent::structured(&member.added(1)).to(0)),
    );
    broker.send(&messages);
    consumed(&app, messages.len()).await;
    let mut tokens = Vec::new();
    for (nth, member) in members.iter().enumerate() {
        let actor = member.actor(&app);
        let personal = actor.personal_token(&format!("personal {nth}")).await;
        let service = actor
            .service_token(&format!("service {nth}"), "ToggleFlag", "project/*:env/*:flag/*")
            .await;
        tokens.push((personal.1, service.1));
    }

    let before = messages.len();
    let mut expected = Vec::new();
    for (member, nth) in members.iter().zip(0..) {
        let (reason, sent) = garbage(*member).swap_remove(nth);
        messages.push(sent.clone().to(0));
        expected.push((reason, sent));
    }
    let behind = |member: &Somebody| {
        [member.revoked(3), member.granted(4, "y")].map(|event| Sent::structured(&event).to(0))
    };
    messages.extend(members.iter().flat_map(behind));
    messages.push(Sent::structured(&healthy.revoked(2)).to(0));
    broker.send(&messages[before..]);
    consumed(&app, messages.len()).await;

    for ((member, (reason, sent)), (personal, service)) in members.iter().zip(&expected).zip(&tokens) {
        let parked = parked(pool, Some(*member)).await;
        let reasons: Vec<&str> = parked.iter().map(|it| it.reason.as_str()).collect();
        assert_eq!(reasons[0], *reason);
        assert_eq!(reasons[1..], ["behind_parked"; 2], "{reason}");
        assert_eq!(
            (&parked[0].payload, &parked[0].message_key),
            (&sent.payload, &sent.key),
            "{reason}"
        );
        let headers: Vec<(String, String)> = serde_json::from_value(parked[0].headers.clone()).unwrap();
        let as_sent: Vec<(String, String)> = sent
            .headers
            .iter()
            .map(|(name, it)| ((*name).to_owned(), it.clone()))
            .collect();
        assert_eq!(headers, as_sent, "{reason}");
        let types: Vec<_> = parked[1..]
            .iter()
            .map(|it| it.event_type.as_deref().unwrap())
            .collect();
        assert_eq!(
            types,
            [
                "featbit.membership.PermissionRevoked",
                "featbit.membership.PermissionGranted"
            ]
        );
        assert!(
            parked.is_sorted_by_key(|it| (it.partition, it.message_offset)),
            "{reason}"
        );
        for denied in [member.reason(&app).await, token_reason(&app, personal).await] {
            assert_eq!(denied, "member_blocked", "{reason}");
        }
        assert_eq!(token_reason(&app, service).await, "allowed", "{reason}");
        let log: Vec<String> = member.log(pool).await.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(log, ["member.added", "member.blocked"], "{reason}");
        let management = member.actor(&app).get("/access-tokens").await;
        assert_eq!(management.status, 403, "{reason}: {}", management.text);
    }
    assert_eq!(
        healthy.reason(&app).await,
        "no_matching_statement",
        "others of the partition go on"
    );
    nothing_is_lost(&app, messages.len()).await;
    assert_eq!(readiness(&app).await.0, 200);
    app.stop().await;
}

async fn where_key_and_body_disagree_both_members_are_denied(broker: Broker) {
    let app = broker.node().await;
    let (keyed, named) = (Somebody::new(), Somebody::new());
    broker.send(&[&keyed.added(1), &named.added(1)].map(Sent::structured));
    consumed(&app, 2).await;
    let sent = Sent {
        key: Some(keyed.key()),
        ..Sent::structured(&named.granted(2, "x"))
    };
    // All through one partition: what comes later is read later.
    broker.send(&[
        sent.to(0),
        Sent::structured(&keyed.granted(2, "x")).to(0),
        Sent::structured(&named.granted(3, "x")).to(0),
    ]);
    consumed(&app, 5).await;
    for somebody in [keyed, named] {
        assert_eq!(somebody.reason(&app).await, "member_blocked");
    }
    let rows = parked(&app.database.pool, Some(keyed)).await;
    let mut reasons: Vec<&str> = rows.iter().map(|it| it.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["behind_parked", "key_does_not_match"]);
    assert_eq!(
        parked(&app.database.pool, Some(named)).await[0].reason,
        "behind_parked"
    );
    nothing_is_lost(&app, 5).await;
    app.stop().await;
}

async fn a_message_without_a_member_is_parked_alone_and_the_node_stays_ready(broker: Broker) {
    let app = broker.node().await;
    let somebody = Somebody::new();
    broker.send(&[
        Sent::structured(&somebody.added(1)).to(0),
        Sent::garbage("nobody's").to(0),
        Sent::default().to(0),
        Sent {
            key: Some(b"no:ids".to_vec()),
            ..Sent::garbage("{}")
        }
        .to(0),
        Sent::structured(&somebody.granted(2, "x")).to(0),
    ]);
    consumed(&app, 5).await;
    assert_eq!(somebody.reason(&app).await, "allowed");
    let reasons: Vec<String> = parked(&app.database.pool, None)
        .await
        .into_iter()
        .map(|it| it.reason)
        .collect();
    assert_eq!(
        reasons,
        [
            "payload_is_not_json",
            "payload_is_missing",
            "specversion_is_not_supported"
        ]
    );
    let (status, body) = readiness(&app).await;
    assert_eq!((status, &body["parkedMessages"]), (200, &json!(3)), "{body}");
    nothing_is_lost(&app, 5).await;
    app.stop().await;
}

/// More of them than one poll holds, where the broker can keep so many.
async fn messages_as_large_as_the_broker_takes_are_parked_whole(broker: Broker) {
    // The embedded broker keeps 5 MiB of a partition.
    let (count, size) = if broker.is_embedded {
        (4, 999_000)
    } else {
        (20, 1_040_000)
    };
    let somebody = Somebody::new();
    let large = "x".repeat(size);
    let mut messages = vec![Sent::garbage(&large).to(0); count];
    messages.push(Sent::structured(&somebody.granted(1, "a")).to(0));
    broker.send(&messages);
    let app = broker.node().await;
    consumed(&app, messages.len()).await;
    let whole: i64 = sqlx::query_scalar("select count(*) from parked_messages where payload = $1")
        .bind(large.as_bytes())
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
    assert_eq!(usize::try_from(whole).unwrap(), count);
    assert_eq!(somebody.heard(&app.database.pool).await, [1]);
    app.stop().await;
}

/// Tried: with 1,024 characters instead of bytes the index refuses the row, and the partition stands still.
async fn the_longest_identity_is_taken_and_a_longer_one_parked(broker: Broker) {
    let app = broker.node().await;
    let (first, second, third) = (Somebody::new(), Somebody::new(), Somebody::new());
    // Text that does not compress.
    let noise = |bytes: usize| -> String {
        let characters = std::iter::repeat_with(|| {
            char::from_u32(0x3400 + uuid::Uuid::new_v4().as_fields().0 % 0x1900).unwrap()
        });
        characters
            .take(bytes / 3)
            .chain(std::iter::repeat_n('x', bytes % 3))
            .collect()
    };
    let named = |mut event: Value, bytes| {
        event["id"] = noise(bytes).into();
        event["source"] = noise(bytes).into();
        Sent::structured(&event).to(0)
    };
    broker.send(&[
        named(first.granted(1, "a"), 1024),
        named(second.granted(1, "a"), 1025),
        named(third.granted(1, "a"), 3072),
    ]);
    consumed(&app, 3).await;
    assert_eq!(first.reason(&app).await, "no_matching_statement", "never added");
    assert_eq!(first.heard(&app.database.pool).await, [1]);
    for somebody in [second, third] {
        assert_eq!(
            parked(&app.database.pool, Some(somebody)).await[0].reason,
            "identity_is_invalid"
        );
    }
    app.stop().await;
}

/// Each message stands in the log or is parked: none of them is a repeat or stale here.
async fn nothing_is_lost(app: &TestApp, messages: usize) {
    let (heard, parked): (i64, i64) = sqlx::query_as(
        "select (select count(*) from events where aggregate_type = 'member' and metadata->>'actor' = 'intake'
                   and event_type <> 'member.blocked' and payload->>'version' is not null),
                (select count(*) from parked_messages)",
    )
    .fetch_one(&app.database.pool)
    .await
    .unwrap();
    assert_eq!(
        usize::try_from(heard + parked).unwrap(),
        messages,
        "{heard} heard, {parked} parked"
    );
}
