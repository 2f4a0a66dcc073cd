//! Idempotency keys: a retry creates nothing a second time, and is told what came of the first request.

use super::*;

fn post(actor: &Actor, path: &str, key: &str, body: &Value) -> reqwest::RequestBuilder {
    actor
        .request(Method::POST, path)
        .header("idempotency-key", key)
        .json(body)
}

async fn create(actor: &Actor, key: &str, body: &Value) -> Answer {
    Answer::of(post(actor, "/access-tokens", key, body)).await
}

fn personal(name: &str) -> Value {
    json!({ "name": name, "type": "Personal" })
}

/// Tried: without the look at the key before the append.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_creates_nothing_and_is_shown_the_token_masked() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let created = create(&owner, "k-1", &personal("deploy")).await;
    assert_eq!(created.status, 200, "{}", created.text);
    let (before, id) = (head(&app).await, created.body["data"]["id"].as_str().unwrap());
    let secret = created.body["data"]["token"].as_str().unwrap();
    let shown = owner.get(&at(id)).await.body["data"].clone();
    for _ in 0..2 {
        let retried = create(&owner, "k-1", &personal("deploy")).await;
        assert_eq!(retried.status, 409);
        assert_eq!(
            retried.body,
            json!({ "success": false, "errors": ["AlreadyDone"], "data": shown })
        );
        assert!(
            retried
                .text
                .starts_with(r#"{"success":false,"errors":["AlreadyDone"],"data":{"id":"#)
        );
        assert_eq!(retried.header("x-log-position"), before.to_string());
        assert!(!retried.text.contains(&secret[10..42]));
    }
    // White space and the order and case of keys make no other body.
    let spelled = owner
        .request(Method::POST, "/access-tokens")
        .header("idempotency-key", "k-1")
        .body(r#"{ "Type" : "Personal", "NAME": "deploy" }"#);
    assert_eq!(Answer::of(spelled).await.code(), "AlreadyDone");
    assert_eq!(head(&app).await, before);

    owner.delete(&at(id)).await;
    let retried = create(&owner, "k-1", &personal("deploy")).await;
    assert_eq!(
        (retried.status, &retried.body),
        (409, &errors(&["AlreadyDone"])),
        "the token is gone"
    );
    assert_eq!(retried.header("x-log-position"), (before + 1).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_rotation_is_not_done_twice() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("deploy").await;
    let (other, _) = owner.personal_token("other").await;
    let rotate = format!("{}/rotate", at(&id));
    let rotated = Answer::of(post(&owner, &rotate, "k", &json!({}))).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    let secret = rotated.body["data"]["token"].as_str().unwrap();
    let retried = Answer::of(post(&owner, &rotate, "k", &json!({}))).await;
    assert_eq!((retried.status, retried.code()), (409, "AlreadyDone"));
    assert_eq!(
        retried.body["data"]["token"],
        format!("{}{}", &secret[..10], "*".repeat(19))
    );
    assert_eq!(app.ask(secret, "ToggleFlag", FLAG).await["decision"], true);
    // Without a body is the same as with an empty one.
    let bare = owner
        .request(Method::POST, &rotate)
        .header("idempotency-key", "k");
    assert_eq!(Answer::of(bare).await.code(), "AlreadyDone");
    let reused = Answer::of(post(&owner, &rotate, "k", &json!({ "overlapSeconds": 1 }))).await;
    assert_eq!((reused.status, reused.code()), (422, "IdempotencyKeyReused"));
    // The same key on another path is another key.
    let elsewhere = Answer::of(post(&owner, &format!("{}/rotate", at(&other)), "k", &json!({}))).await;
    assert_eq!(elsewhere.status, 200, "{}", elsewhere.text);
    assert_eq!(create(&owner, "k", &personal("third")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_with_another_body_is_refused_and_changes_nothing() {
    let app = TestApp::start().await;
    let owner = app.owner();
    assert_eq!(create(&owner, "k", &personal("one")).await.status, 200);
    let before = head(&app).await;
    for body in [
        personal("two"),
        json!({ "name": "one", "type": "Personal", "description": "x" }),
    ] {
        let reused = create(&owner, "k", &body).await;
        assert_eq!(
            (reused.status, reused.body),
            (422, errors(&["IdempotencyKeyReused"]))
        );
    }
    assert_eq!(head(&app).await, before);
}

/// Tried: the caller taken out of the query in `already_done`.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_its_caller_in_its_organization() {
    let app = TestApp::start().await;
    for actor in [app.owner(), app.developer(), app.stranger()] {
        let name = Uuid::new_v4().to_string();
        let answer = create(&actor, "the-same", &personal(&name)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_successes_are_kept_and_only_after_authorization() {
    let app = TestApp::start().await;
    let owner = app.owner();
    owner.personal_token("taken").await;
    assert_eq!(
        create(&owner, "k", &personal("taken")).await.code(),
        "NameHasBeenUsed"
    );
    assert_eq!(
        create(&owner, "k", &personal(" ")).await.code(),
        "name_is_required"
    );
    assert_eq!(
        create(&owner, "k", &personal("free")).await.status,
        200,
        "a failure leaves the key unused"
    );

    let mia = member_who_may(&app, &[("ManagePersonalAccessTokens", "access-token/*")]).await;
    assert_eq!(create(&mia, "k", &personal("hers")).await.status, 200);
    let revoked = json!({ "permission": "ManagePersonalAccessTokens" });
    app.tell(&[cloud_event(
        "PermissionRevoked",
        mia.organization_id,
        mia.member_id,
        revoked,
    )])
    .await;
    for name in ["hers", "another"] {
        let answer = create(&mia, "k", &personal(name)).await;
        assert_eq!((answer.status, answer.code()), (403, "Forbidden"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_kept_for_30_days() {
    let app = TestApp::start().await;
    let owner = app.owner();
    assert_eq!(create(&owner, "k", &personal("one")).await.status, 200);
    for (age, expected) in [("29 days 23:59", 422), ("30 days", 200)] {
        sqlx::query("update idempotency_keys set recorded_at = now() - $1::interval")
            .bind(age)
            .execute(&app.database.pool)
            .await
            .unwrap();
        assert_eq!(
            create(&owner, "k", &personal("two")).await.status,
            expected,
            "{age}"
        );
    }
    assert_eq!(create(&owner, "k", &personal("two")).await.code(), "AlreadyDone");
}

/// Tried: without the key in the append (several were created).
#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_retries_at_once_on_two_nodes_one_creates() {
    let app = TestApp::start().await;
    let database = Some(app.database.clone());
    let other = TestApp::start_with(Options {
        database,
        ..Options::default()
    })
    .await;
    let owner = app.owner();
    other.catch_up().await;
    let elsewhere = other.member(owner.organization_id, owner.member_id);
    let mut requests = JoinSet::new();
    for nth in 0..100 {
        let actor = if nth % 2 == 0 {
            owner.clone()
        } else {
            elsewhere.clone()
        };
        requests.spawn(async move { create(&actor, "k", &personal("once")).await });
    }
    let answers = requests.join_all().await;
    let created: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(created.len(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((answer.status, answer.code()), (409, "AlreadyDone"));
        assert_eq!(answer.body["data"]["id"], created[0].body["data"]["id"]);
    }
    assert_eq!(names(&owner, "").await, ["once"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_1_to_255_visible_characters_given_once() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for key in ["k".repeat(255), "\"8e03978e-40d5\"".to_owned(), "!~".to_owned()] {
        let name = Uuid::new_v4().to_string();
        assert_eq!(create(&owner, &key, &personal(&name)).await.status, 200, "{key}");
    }
    let before = head(&app).await;
    for key in [
        "k".repeat(256),
        String::new(),
        "two words".to_owned(),
        "ключ".to_owned(),
    ] {
        let request = owner
            .request(Method::POST, "/access-tokens")
            .header(
                "idempotency-key",
                reqwest::header::HeaderValue::from_bytes(key.as_bytes()).unwrap(),
            )
            .json(&personal("t"));
        let answer = Answer::of(request).await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "idempotency_key_is_invalid"),
            "{key:?}"
        );
    }
    let twice = post(&owner, "/access-tokens", "a", &personal("t")).header("idempotency-key", "a");
    assert_eq!(Answer::of(twice).await.code(), "idempotency_key_is_invalid");
    assert_eq!(head(&app).await, before);
}

/// Tried: what is wrong with the body answered first.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_comes_when_its_expiry_has_passed_is_told_what_was_done() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let soon = chrono::Utc::now() + chrono::TimeDelta::seconds(6);
    let body = json!({ "name": "short", "type": "Personal", "expiresAt": soon });
    let created = create(&owner, "k-1", &body).await;
    assert_eq!(created.status, 200, "{}", created.text);
    let mut of_another_name = body.clone();
    of_another_name["name"] = json!("other");
    crate::support::eventually("its time has passed", async || {
        let answer = owner
            .post("/access-tokens", json!({ "type": "Personal", "expiresAt": soon }))
            .await;
        (answer.body["errors"] == json!(["name_is_required", "expires_at_is_invalid"])).then_some(())
    })
    .await;
    let retried = create(&owner, "k-1", &body).await;
    assert_eq!(
        (retried.status, retried.code()),
        (409, "AlreadyDone"),
        "{}",
        retried.text
    );
    assert_eq!(retried.body["data"]["id"], created.body["data"]["id"]);
    let reused = create(&owner, "k-1", &of_another_name).await;
    assert_eq!((reused.status, reused.code()), (422, "IdempotencyKeyReused"));
    let unknown = create(&owner, "k-3", &body).await;
    assert_eq!((unknown.status, unknown.code()), (400, "expires_at_is_invalid"));
    let forbidden = create(&app.nobody(), "k-1", &body).await;
    assert_eq!(forbidden.status, 403);
}
