//! Whoever takes something away waits until no node decides without knowing it.

use std::time::Instant;

use reqwest::Method;
use sqlx::{Connection, Executor, PgConnection};

use super::*;
use crate::support::{Answer, INTAKE_KEY, cloud_event};

/// How long a lost node is waited for, at least: 1.05 times the default of `MAX_STALENESS_MS`.
const LAPSE_MS: u64 = 1050;

async fn deactivate(app: &TestApp, id: &str, query: &str) -> Answer {
    let path = format!("/access-tokens/{id}/deactivate{query}");
    app.developer().put(&path, json!({})).await
}

fn nodes(answer: &Answer) -> &str {
    answer.header("x-confirmed-nodes")
}

fn took(answer: &Answer) -> u64 {
    answer.header("x-confirmed-in-ms").parse().unwrap()
}

/// Tried: `Service::confirm` answering without waiting; of a hundred rounds some find a node that still accepts the token.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_stopped_is_accepted_by_no_node_from_the_answer_on() {
    let app = TestApp::start().await;
    let (one, other) = (Node::start(&app, &[]).await, Node::start(&app, &[]).await);
    for round in 0..100 {
        let (id, secret) = app.developer().personal_token(&round.to_string()).await;
        for node in [&one, &other] {
            eventually("the node knows the token", async || {
                (node.ask(&secret).await == "allowed").then_some(())
            })
            .await;
        }
        let answer = deactivate(&app, &id, "").await;
        assert_eq!((answer.status, nodes(&answer)), (200, "3"), "{}", answer.text);
        let (here, there) = tokio::join!(one.ask(&secret), other.ask(&secret));
        assert_eq!(
            (here.as_str(), there.as_str()),
            ("token_inactive", "token_inactive"),
            "{round}"
        );
    }
}

/// Tried: `is_gone` always true in `confirm`: answered in some milliseconds. And `Fence::is_open` always true: answered in
/// time, and the resumed node accepts the token.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_is_waited_for_until_it_can_decide_no_more() {
    let app = TestApp::start().await;
    let (id, secret) = app.developer().personal_token("ci").await;
    let node = Node::start(&app, &[]).await;
    assert_eq!(node.ask(&secret).await, "allowed");

    node.process.pause();
    let answer = deactivate(&app, &id, "").await;
    assert_eq!((answer.status, nodes(&answer)), (200, "1"), "{}", answer.text);
    assert!(took(&answer) >= LAPSE_MS, "{} ms", took(&answer));
    let asked = async { node.ask(&secret).await };
    let resumed = async {
        // The question lies in the socket by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.process.resume();
    };
    let (reason, ()) = tokio::join!(asked, resumed);
    assert_ne!(reason, "allowed");
    eventually("the node knows", async || {
        (node.ask(&secret).await == "token_inactive").then_some(())
    })
    .await;
}

/// Tried: `forget` doing nothing; and every lease begun with 1, as a count in the row would: whoever has seen the first 1
/// stand still would delete the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_waited_for_once_and_its_lease_never_comes_back_as_it_was() {
    let app = TestApp::start().await;
    let (id, secret) = app.developer().personal_token("ci").await;
    let node = Node::start(&app, &[]).await;
    node.process.pause();
    let beat = "select max(beat) from leases where node_id <> $1";
    let ours: uuid::Uuid = eventually("this node goes on", async || {
        let of_all = "select node_id, beat from leases";
        let before: Vec<(uuid::Uuid, i64)> = sqlx::query_as(of_all)
            .fetch_all(&app.database.pool)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after: Vec<(uuid::Uuid, i64)> = sqlx::query_as(of_all)
            .fetch_all(&app.database.pool)
            .await
            .unwrap();
        after
            .iter()
            .find(|lease| !before.contains(lease))
            .map(|(node_id, _)| *node_id)
    })
    .await;
    let seen: i64 = sqlx::query_scalar(beat)
        .bind(ours)
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
    deactivate(&app, &id, "").await;
    assert_eq!(leases(&app).await, 1, "the lost one's is deleted");

    node.process.resume();
    eventually("the node is back", async || {
        (node.ask(&secret).await == "token_inactive" && leases(&app).await == 2).then_some(())
    })
    .await;
    let later: i64 = sqlx::query_scalar(beat)
        .bind(ours)
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
    assert!(later > seen, "{later} after {seen}");
}

/// It renews its lease, and so is alive, but can't read the log. Tried: `State::Behind` of a beat that moves not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_on_without_reading_the_log_is_waited_for_as_long_as_it_may_decide() {
    let app = TestApp::start().await;
    let (id, _) = app.developer().personal_token("ci").await;
    let pool = app.database.pool.clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let alive = tokio::spawn({
        let stop = stop.clone();
        async move {
            while !stop.is_cancelled() {
                let renewed = "insert into leases values ('00000000-0000-0000-0000-000000000001', 1, 0, 1000)
                               on conflict (node_id) do update set beat = leases.beat + 1";
                sqlx::query(renewed).execute(&pool).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    eventually("it is there", async || (leases(&app).await == 2).then_some(())).await;
    let answer = deactivate(&app, &id, "").await;
    assert_eq!((answer.status, nodes(&answer)), (200, "1"), "{}", answer.text);
    assert!(took(&answer) >= LAPSE_MS, "{} ms", took(&answer));
    assert_eq!(leases(&app).await, 2, "it is not taken for dead");
    stop.cancel();
    alive.await.unwrap();
}

/// Tried: with two minutes of `PATIENCE` it is answered after one, when the lease has run out.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_not_be_waited_for_is_reported_and_what_was_done_stands() {
    let app = TestApp::start().await;
    let (id, secret) = app.developer().personal_token("ci").await;
    let node = Node::start(&app, &[("MAX_STALENESS_MS", "60000")]).await;
    node.process.pause();
    let answer = deactivate(&app, &id, "").await;
    assert_eq!(
        (answer.status, answer.code()),
        (503, "ServiceUnavailable"),
        "{}",
        answer.text
    );
    assert_eq!(answer.header("retry-after"), "1");
    let position: i64 = answer.header("x-log-position").parse().unwrap();
    assert_eq!(
        app.ask(&secret, "ToggleFlag", FLAG).await["context"]["reason"],
        "token_inactive"
    );
    assert_eq!(deactivate(&app, &id, "").await.status, 503, "it waits again");

    node.process.resume();
    let answer = deactivate(&app, &id, "").await;
    assert_eq!((answer.status, nodes(&answer)), (200, "2"), "{}", answer.text);
    assert_eq!(answer.header("x-log-position"), position.to_string());
    assert_eq!(node.ask(&secret).await, "token_inactive");
}

/// Its lease carries it for longer than anybody waits, so that nobody sees the end of it alone. Tried: `since` of a lease
/// that is seen again as of now: refused for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_waited_for_from_when_the_first_one_saw_it_stand_still() {
    let app = TestApp::start().await;
    let (id, _) = app.developer().personal_token("ci").await;
    let node = Node::start(&app, &[("MAX_STALENESS_MS", "6000")]).await;
    node.process.pause();
    let since = Instant::now();
    let answer = deactivate(&app, &id, "").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    let waited = since.elapsed();
    assert!(waited < Duration::from_millis(6300), "five seconds: {waited:?}");
    let answer = deactivate(&app, &id, "").await;
    assert_eq!((answer.status, nodes(&answer)), (200, "1"), "{}", answer.text);
    assert!(
        since.elapsed() >= Duration::from_millis(6300),
        "not before its lease has run out"
    );
    assert_eq!(leases(&app).await, 1, "the lost one's is deleted");
}

/// What waits for this node's own index, and for all nodes, waits for both at once. Tried: `settled` awaited before `confirm`.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_longer_than_five_seconds() {
    let app = TestApp::start().await;
    let (id, _) = app.developer().personal_token("ci").await;
    let other = Node::start(&app, &[("MAX_STALENESS_MS", "60000")]).await;
    other.process.pause();
    let mut holder = PgConnection::connect(&app.database.url).await.unwrap();
    holder
        .execute("begin; lock table leases in share row exclusive mode")
        .await
        .unwrap();
    // A step of this node's that gets no further, for two seconds from now: it can renew nothing and read nothing.
    eventually("the node has just begun to wait", async || {
        let waiting = "select count(*) from pg_stat_activity
            where wait_event_type = 'Lock' and query like 'insert into leases%' and clock_timestamp() - query_start < '100 ms'";
        let waiting: i64 = sqlx::query_scalar(waiting)
            .fetch_one(&app.database.pool)
            .await
            .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    let since = Instant::now();
    let answer = deactivate(&app, &id, "").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    let waited = since.elapsed();
    assert!(waited < Duration::from_millis(6300), "{waited:?}");
}

/// Nobody can show it again. Tried: the error of `confirm` answered as it is, and the one of `load`.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_reaches_who_asked_for_it_whatever_goes_wrong_after_the_rotation() {
    let app = TestApp::start().await;
    let owner = app.developer();
    let (id, old) = owner.personal_token("ci").await;
    let node = Node::start(&app, &[("MAX_STALENESS_MS", "60000")]).await;
    let rotate = async |query: &str| {
        let path = format!("/access-tokens/{id}/rotate{query}");
        let request = owner.request(Method::POST, &path).json(&json!({}));
        Answer::of(request.header("idempotency-key", format!("once{query}"))).await
    };
    let reason = async |secret: &str| {
        let answer = app.ask(secret, "ToggleFlag", FLAG).await;
        answer["context"]["reason"].as_str().unwrap().to_owned()
    };
    let secret_of = |answer: &Answer| {
        assert_eq!(
            (answer.status, answer.code()),
            (503, "ServiceUnavailable"),
            "{}",
            answer.text
        );
        assert_eq!(answer.header("retry-after"), "1");
        assert!(answer.header("cache-control").contains("no-store"));
        assert_eq!(answer.body["data"]["id"], id.as_str());
        answer.body["data"]["token"].as_str().unwrap().to_owned()
    };
    node.process.pause();
    let answer = rotate("").await;
    let new = secret_of(&answer);
    assert_eq!(
        (reason(&old).await.as_str(), reason(&new).await.as_str()),
        ("unknown_token", "allowed")
    );
    node.process.resume();
    let again = rotate("").await;
    assert_eq!(
        (again.status, again.code()),
        (409, "AlreadyDone"),
        "{}",
        again.text
    );
    assert_eq!(again.header("x-log-position"), answer.header("x-log-position"));
    assert_eq!(node.ask(&old).await, "unknown_token", "the retry has waited");

    let lost = "alter view access_tokens rename to out_of_sight";
    app.database.pool.execute(lost).await.unwrap();
    let newest = secret_of(&rotate("?wait=none").await);
    assert_eq!(
        (reason(&new).await.as_str(), reason(&newest).await.as_str()),
        ("unknown_token", "allowed")
    );
}

/// A first attempt may have been answered to nobody. Tried: `Gives` as the effect of a command that finds nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_finds_nothing_to_do_waits_as_well() {
    let app = TestApp::start().await;
    let owner = app.developer();
    let (stopped, _) = owner.personal_token("stopped").await;
    let (removed, _) = owner.personal_token("removed").await;
    let (narrowed, _) = owner.personal_token("narrowed").await;
    let update = json!({ "name": "narrowed", "allowedIps": ["10.0.0.0/8"] });
    let stop = format!("/access-tokens/{stopped}/deactivate");
    let narrow = format!("/access-tokens/{narrowed}");
    let node = Node::start(&app, &[("MAX_STALENESS_MS", "2000")]).await;
    let paused = async |retry: reqwest::RequestBuilder, first: reqwest::RequestBuilder| {
        node.process.pause();
        let first = Answer::of(first).await;
        assert_eq!((first.status, nodes(&first)), (200, ""), "{}", first.text);
        let again = Answer::of(retry).await;
        assert_eq!((again.status, nodes(&again)), (200, "1"), "{}", again.text);
        assert!(took(&again) >= 2100, "{} ms", took(&again));
        node.process.resume();
        eventually("the node is back", async || {
            (node.is_ready().await && leases(&app).await == 2).then_some(())
        })
        .await;
    };
    let put = |path: &str, body: Value| owner.request(Method::PUT, path).json(&body);
    paused(
        put(&stop, json!({})),
        put(&format!("{stop}?wait=none"), json!({})),
    )
    .await;
    let remove = format!("/access-tokens/{removed}");
    paused(
        owner.request(Method::DELETE, &remove),
        owner.request(Method::DELETE, &format!("{remove}?wait=none")),
    )
    .await;
    paused(
        put(&narrow, update.clone()),
        put(&format!("{narrow}?wait=none"), update),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_take_something_away_waits_and_nothing_else_does() {
    let app = TestApp::start().await;
    let owner = app.developer();
    let (id, _) = owner.personal_token("ci").await;
    let token = format!("/access-tokens/{id}");
    let put = |path: &str, body: Value| owner.request(Method::PUT, &format!("{token}{path}")).json(&body);
    let post = |path: &str, body: Value| owner.request(Method::POST, path).json(&body);
    let tomorrow = chrono::Utc::now() + chrono::TimeDelta::days(1);
    let in_turn = [
        ("renamed", put("", json!({ "name": "other" })), ""),
        (
            "described",
            put("", json!({ "name": "other", "description": "x" })),
            "",
        ),
        (
            "an expiry",
            put("", json!({ "name": "other", "expiresAt": tomorrow })),
            "1",
        ),
        (
            "no expiry",
            put("", json!({ "name": "other", "expiresAt": null })),
            "",
        ),
        (
            "addresses",
            put("", json!({ "name": "other", "allowedIps": ["::1"] })),
            "1",
        ),
        (
            "no addresses",
            put("", json!({ "name": "other", "allowedIps": null })),
            "",
        ),
        ("stopped", put("/deactivate", json!({})), "1"),
        ("stopped again", put("/deactivate", json!({})), "1"),
        ("activated", put("/activate", json!({})), ""),
        ("turned off", put("/toggle", json!({})), "1"),
        ("turned on", put("/toggle", json!({})), ""),
        ("rotated", post(&format!("{token}/rotate"), json!({})), "1"),
        (
            "rotated with overlap",
            post(&format!("{token}/rotate"), json!({ "overlapSeconds": 9 })),
            "1",
        ),
        ("asked not to wait", put("/deactivate?wait=none", json!({})), ""),
        ("asked to wait", put("/deactivate?wait=", json!({})), "1"),
        ("removed", owner.request(Method::DELETE, &token), "1"),
        ("removed again", owner.request(Method::DELETE, &token), "1"),
        (
            "created",
            post("/access-tokens", json!({ "name": "new", "type": "Personal" })),
            "",
        ),
    ];
    for (what, request, expected) in in_turn {
        let answer = Answer::of(request).await;
        assert_eq!(
            (answer.status, nodes(&answer)),
            (200, expected),
            "{what}: {}",
            answer.text
        );
        assert_eq!(
            answer.headers.contains_key("x-confirmed-in-ms"),
            !expected.is_empty(),
            "{what}"
        );
    }
    let wrong = Answer::of(put("/deactivate?wait=no", json!({}))).await;
    assert_eq!((wrong.status, wrong.code()), (400, "wait_is_invalid"));
}

/// The creator is removed by the intake over HTTP; sent again, it waits again. Tried: the route without `confirm`.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_removed_over_http_is_answered_when_no_node_accepts_its_personal_tokens() {
    let app = TestApp::start().await;
    let (_, secret) = app.developer().personal_token("ci").await;
    let node = Node::start(&app, &[]).await;
    let (organization_id, developer) = (app.organization_id, app.developer().member_id);
    let removed = cloud_event("MemberRemoved", organization_id, developer, json!({}));
    let tell = async |query: &str| {
        let request = app
            .request(Method::POST, &format!("/api/v1/membership/events{query}"))
            .header("x-intake-key", INTAKE_KEY)
            .header("content-type", "application/cloudevents+json")
            .body(removed.to_string());
        Answer::of(request).await
    };
    node.process.pause();
    let answer = tell("?wait=none").await;
    assert_eq!((answer.status, nodes(&answer)), (200, ""), "{}", answer.text);
    let answer = tell("").await;
    assert_eq!((answer.status, nodes(&answer)), (200, "1"), "{}", answer.text);
    assert!(took(&answer) >= LAPSE_MS, "{} ms", took(&answer));
    node.process.resume();
    assert_ne!(node.ask(&secret).await, "allowed");
    eventually("the node is back", async || node.is_ready().await.then_some(())).await;
    let answer = tell("").await;
    assert_eq!((answer.status, nodes(&answer)), (200, "2"), "{}", answer.text);
    assert_eq!(node.ask(&secret).await, "creator_not_a_member");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so_and_is_not_waited_for() {
    let app = TestApp::start().await;
    let (id, _) = app.developer().personal_token("ci").await;
    let node = Node::start(&app, &[("MAX_STALENESS_MS", "60000")]).await;
    assert_eq!(leases(&app).await, 2);
    node.process.stop();
    assert_eq!(leases(&app).await, 1);
    let answer = deactivate(&app, &id, "").await;
    assert_eq!((answer.status, nodes(&answer)), (200, "1"), "{}", answer.text);
}
