//! Membership events over HTTP, for installations without Kafka: the same events come to the same.

use reqwest::Method;
use serde_json::{Value, json};

use super::broker::Broker;
use super::somebody::{Somebody, token_reason};
use crate::support::{Answer, INTAKE_KEY, Options, TestApp};

const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

fn request(app: &TestApp, media_type: &str, body: &str) -> reqwest::RequestBuilder {
    app.request(Method::POST, "/api/v1/membership/events")
        .header("x-intake-key", INTAKE_KEY)
        .header("content-type", media_type)
        .body(body.to_owned())
}

async fn send(app: &TestApp, events: &[Value]) -> Answer {
    let answer = Answer::of(request(app, BATCH, &json!(events).to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer
}

fn taken(answer: &Answer) -> [u64; 4] {
    ["applied", "repeated", "stale", "parked"].map(|kind| answer.body["data"][kind].as_u64().unwrap())
}

async fn position(app: &TestApp) -> i64 {
    sqlx::query_scalar("select max(position) from events")
        .fetch_one(&app.database.pool)
        .await
        .unwrap()
}

async fn parked(app: &TestApp) -> Vec<(String, String)> {
    sqlx::query_as(
        "select reason, convert_from(payload, 'UTF8') from parked_messages order by received_at, reason",
    )
    .fetch_all(&app.database.pool)
    .await
    .unwrap()
}

/// Tried: without `settle` a decision right after the answer is the one from before.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_decided_from_when_they_are_answered() {
    let app = TestApp::start().await;
    let somebody = Somebody::new();
    let one = Answer::of(request(
        &app,
        "Application/CloudEvents+JSON; charset=utf-8",
        &somebody.added(1).to_string(),
    ))
    .await;
    assert_eq!(one.status, 200, "{}", one.text);
    assert_eq!(
        one.text,
        r#"{"success":true,"errors":[],"data":{"applied":1,"repeated":0,"stale":0,"parked":0}}"#
    );
    assert_eq!(one.header("x-log-position"), position(&app).await.to_string());
    assert_eq!(somebody.reason(&app).await, "allowed");
    let (_, token) = somebody.actor(&app).personal_token("laptop").await;
    assert_eq!(token_reason(&app, &token).await, "allowed");

    for round in 0..20 {
        let version = 2 + 2 * round;
        let both = send(&app, &[somebody.revoked(version)]).await;
        assert_eq!(taken(&both), [1, 0, 0, 0]);
        assert_eq!(
            somebody.reason(&app).await,
            "no_matching_statement",
            "round {round}"
        );
        send(&app, &[somebody.granted(version + 1, "again")]).await;
        assert_eq!(somebody.reason(&app).await, "allowed", "round {round}");
    }
    send(&app, &[somebody.removed(100)]).await;
    assert_eq!(token_reason(&app, &token).await, "creator_not_a_member");
    app.stop().await;
}

/// Tried: with the batch's positions left out where nothing is appended.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_not_answered_can_be_sent_again() {
    let app = TestApp::start().await;
    let somebody = Somebody::new();
    let events = [
        somebody.added(0),
        somebody.granted(0, "a"),
        somebody.granted(0, "a"),
        somebody.revoked(0),
    ];
    let first = send(&app, &events).await;
    assert_eq!(taken(&first), [4, 0, 0, 0]);
    let log = somebody.log(&app.database.pool).await;
    let again = send(&app, &events).await;
    assert_eq!(taken(&again), [0, 4, 0, 0]);
    assert_eq!(
        again.header("x-log-position"),
        first.header("x-log-position"),
        "whoever waits for it waits for what it came to"
    );
    assert_eq!(somebody.log(&app.database.pool).await, log);
    // Within one batch, too.
    let twice = somebody.removed(0);
    assert_eq!(taken(&send(&app, &[twice.clone(), twice]).await), [1, 1, 0, 0]);
    app.stop().await;
}

/// Tried: with the white space of an event left out.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cant_be_used_is_parked_as_it_came_and_the_others_are_taken() {
    let app = TestApp::start().await;
    let (broken, healthy) = (Somebody::new(), Somebody::new());
    send(&app, &[broken.added(1), healthy.added(1)]).await;
    let mut unknown = broken.granted(2, "x");
    unknown["type"] = json!("featbit.membership.Renamed");
    let behind = broken.revoked(3);
    let batch = format!(
        "[\n {unknown} ,{behind},{}, {{ \"who\" : 1e2 }}]",
        healthy.revoked(2)
    );
    let answer = Answer::of(request(&app, BATCH, &batch)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(taken(&answer), [1, 0, 0, 3]);
    let mut expected = [
        ("behind_parked".to_owned(), behind.to_string()),
        (
            "specversion_is_not_supported".to_owned(),
            "{ \"who\" : 1e2 }".to_owned(),
        ),
        ("type_is_unknown".to_owned(), unknown.to_string()),
    ];
    let mut parked = parked(&app).await;
    parked.sort();
    expected.sort();
    assert_eq!(parked, expected);
    assert_eq!(broken.reason(&app).await, "member_blocked");
    assert_eq!(healthy.reason(&app).await, "no_matching_statement");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_holds_no_events_is_refused_and_nothing_of_it_is_taken() {
    let app = TestApp::start().await;
    let before = position(&app).await;
    let event = Somebody::new().added(1).to_string();
    let many = |count: usize| format!("[{}{event}]", format!("{event},").repeat(count - 1));
    let cases = [
        (SINGLE, "", 400, "body_is_invalid"),
        (SINGLE, "{", 400, "body_is_invalid"),
        (SINGLE, "null", 400, "body_is_invalid"),
        (SINGLE, &format!("[{event}]"), 400, "body_is_invalid"),
        (SINGLE, &format!("{event}{event}"), 400, "body_is_invalid"),
        (BATCH, &event, 400, "body_is_invalid"),
        (BATCH, &format!("[{event}, 1]"), 400, "body_is_invalid"),
        (BATCH, &format!("[{event}"), 400, "body_is_invalid"),
        (
            BATCH,
            &format!("[{}{{}}]", "{},".repeat(1000)),
            400,
            "too_many_events",
        ),
        ("application/json", &event, 400, "content_type_is_invalid"),
        ("", &event, 400, "content_type_is_invalid"),
        (BATCH, &many(4000), 413, "PayloadTooLarge"),
    ];
    for (media_type, body, status, code) in cases {
        let answer = Answer::of(request(&app, media_type, body)).await;
        let shown = &body[..body.len().min(60)];
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{media_type} {shown}"
        );
    }
    let raw = request(&app, SINGLE, "").body(vec![b'{', b'"', 0xff, b'"', b':', b'1', b'}']);
    let answer = Answer::of(raw).await;
    assert_eq!((answer.status, answer.code()), (400, "body_is_invalid"));
    assert_eq!(position(&app).await, before);
    assert!(parked(&app).await.is_empty());

    // As many as there may be; the same one a thousand times over.
    let mut small =
        json!({ "specversion": "1.0", "id": "1", "source": "s", "type": "featbit.membership.MemberRemoved" });
    small["data"] = json!({ "organizationId": app.organization_id, "memberId": uuid::Uuid::new_v4() });
    let answer = send(&app, &vec![small; 1000]).await;
    assert_eq!(taken(&answer), [1, 999, 0, 0]);
    app.stop().await;
}

/// Tried: without the key looked at.
#[tokio::test(flavor = "multi_thread")]
async fn only_an_intake_key_opens_it_and_without_any_it_is_not_there() {
    let settings = |keys: &str| {
        vec![
            ("INTAKE_KEYS", keys.to_owned()),
            ("GATEWAY_KEYS", "gateway".to_owned()),
        ]
    };
    let app = TestApp::start_with(Options {
        settings: settings("first, second"),
        database: None,
    })
    .await;
    let somebody = Somebody::new();
    let event = somebody.added(1).to_string();
    let with = |app: &TestApp, name: &str, key: &str| {
        app.request(Method::POST, "/api/v1/membership/events")
            .header("content-type", SINGLE)
            .header(name, key)
            .body(event.clone())
    };
    for (name, key) in [
        ("x-intake-key", "firs"),
        ("x-intake-key", ""),
        ("x-intake-key", "gateway"),
        ("x-gateway-key", "gateway"),
        ("x-gateway-key", "first"),
        ("authorization", "Bearer first"),
    ] {
        let answer = Answer::of(with(&app, name, key)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "Unauthorized"),
            "{name}: {key}"
        );
    }
    let owner = app.owner().post("/membership/events", json!({})).await;
    assert_eq!(owner.status, 401, "a member's JWT is no key");
    assert!(somebody.log(&app.database.pool).await.is_empty());
    for key in ["first", "second"] {
        assert_eq!(Answer::of(with(&app, "x-intake-key", key)).await.status, 200);
    }
    app.stop().await;

    let closed = TestApp::start_with(Options {
        settings: settings(" , "),
        database: None,
    })
    .await;
    for key in ["", "gateway"] {
        let answer = Answer::of(with(&closed, "x-intake-key", key)).await;
        assert_eq!((answer.status, answer.code()), (404, "ResourceNotFound"));
    }
    closed.stop().await;
}

/// Between a topic and HTTP there is no order of arrival. Tried: without `needs_a_version`.
#[tokio::test(flavor = "multi_thread")]
async fn beside_a_topic_a_version_is_required() {
    let app = Broker::embedded().node().await;
    let somebody = Somebody::new();
    let batch = json!([somebody.added(1), somebody.granted(0, "a")]).to_string();
    let answer = Answer::of(request(&app, BATCH, &batch)).await;
    assert_eq!((answer.status, answer.code()), (400, "version_is_required"));
    assert!(
        somebody.log(&app.database.pool).await.is_empty(),
        "all or nothing"
    );
    let mut ended = somebody.added(1);
    ended["type"] = json!("featbit.membership.OrganizationRemoved");
    ended["data"] = json!({ "organizationId": somebody.organization_id });
    assert_eq!(
        taken(&send(&app, &[somebody.added(1), ended]).await),
        [2, 0, 0, 0]
    );
    assert_eq!(somebody.reason(&app).await, "creator_not_a_member");
    app.stop().await;
}
