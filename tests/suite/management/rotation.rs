//! Rotation: another secret for a token, with or without an overlap in which both are good.

use super::*;

async fn rotate(actor: &Actor, id: &str, body: Value) -> Answer {
    actor.post(&format!("{}/rotate", at(id)), body).await
}

/// A rotation that succeeds, and its secret.
async fn new_secret(actor: &Actor, id: &str, overlap: i64) -> String {
    let answer = rotate(actor, id, json!({ "overlapSeconds": overlap })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["data"]["token"].as_str().unwrap().to_owned()
}

async fn why(app: &TestApp, secret: &str) -> String {
    let answer = app.ask(secret, "ToggleFlag", FLAG).await;
    answer["context"]["reason"].as_str().unwrap().to_owned()
}

/// Tried: the overlap ignored by the domain, and the earlier secrets kept by it.
#[tokio::test(flavor = "multi_thread")]
async fn the_secret_before_is_good_for_the_overlap_and_not_at_all_without_one() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for token in ["Personal", "Service"] {
        let body = json!({ "name": token, "type": token, "permissions": [allow("ToggleFlag", FLAGS)] });
        let (id, first) = owner.token(body).await;
        let second = new_secret(&owner, &id, 3600).await;
        assert_ne!(first, second);
        assert_eq!(
            (why(&app, &first).await, why(&app, &second).await),
            ("allowed".into(), "allowed".into())
        );
        // Rotating again ends the oldest.
        let third = new_secret(&owner, &id, 3600).await;
        for (secret, reason) in [
            (&first, "unknown_token"),
            (&second, "allowed"),
            (&third, "allowed"),
        ] {
            assert_eq!(why(&app, secret).await, reason);
        }
        let last = new_secret(&owner, &id, 0).await;
        for (secret, reason) in [
            (&second, "unknown_token"),
            (&third, "unknown_token"),
            (&last, "allowed"),
        ] {
            assert_eq!(why(&app, secret).await, reason);
        }
        assert_eq!(
            app.ask(&id, "ToggleFlag", FLAG).await["decision"],
            true,
            "by its id"
        );
    }
}

/// Tried: without the look at the presented secret in `decide_for_token`.
#[tokio::test(flavor = "multi_thread")]
async fn an_overlap_ends_by_itself() {
    let app = TestApp::start().await;
    let (id, first) = app.owner().personal_token("short").await;
    let second = new_secret(&app.owner(), &id, 1).await;
    assert_eq!(why(&app, &first).await, "allowed");
    eventually("the overlap ends", async || {
        (why(&app, &first).await == "unknown_token").then_some(())
    })
    .await;
    assert_eq!(why(&app, &second).await, "allowed");
}

/// What the index knows of secrets comes from the log alone. Tried: without the new secret put into the index.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_later_knows_the_same_secrets() {
    let app = TestApp::start().await;
    let (id, first) = app.owner().service_token("deploy", "ToggleFlag", FLAG).await;
    let second = new_secret(&app.owner(), &id, 3600).await;
    let third = new_secret(&app.owner(), &id, 3600).await;
    let database = Some(app.database.clone());
    let other = TestApp::start_with(Options {
        database,
        ..Options::default()
    })
    .await;
    for (secret, reason) in [
        (&first, "unknown_token"),
        (&second, "allowed"),
        (&third, "allowed"),
    ] {
        assert_eq!(why(&other, secret).await, reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_answered_as_a_creation_and_changes_nothing_else() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let body = json!({ "name": "bot", "type": "Service", "permissions": [allow("ToggleFlag", FLAG)], "description": "d",
                       "expiresAt": Utc::now() + TimeDelta::days(3), "allowedIps": ["10.0.0.0/8"] });
    let created = owner.post("/access-tokens", body).await.body["data"].clone();
    let id = created["id"].as_str().unwrap();
    let answer = rotate(&owner, id, json!({})).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"));
    assert_eq!(answer.header("x-log-position"), head(&app).await.to_string());
    let rotated = answer.body["data"].clone();
    let secret = rotated["token"].as_str().unwrap();
    assert!(secret.starts_with("api-s_") && secret.len() == 48, "{secret}");
    assert!(rotated["updatedAt"].as_str() > created["updatedAt"].as_str());
    let mut expected = created.clone();
    expected["token"] = rotated["token"].clone();
    expected["updatedAt"] = rotated["updatedAt"].clone();
    assert_eq!(rotated, expected);

    let shown = owner.get(&at(id)).await.body["data"].clone();
    assert_eq!(shown["token"], format!("{}{}", &secret[..10], "*".repeat(19)));
    assert_eq!(shown["updatedAt"], rotated["updatedAt"]);
    let history = owner.get(&format!("{}/history", at(id))).await;
    assert_eq!(
        history.body["data"]["items"][1]["event"],
        "access_token.secret_rotated"
    );
    assert!(!history.text.contains("digest") && !history.text.contains(&secret[10..42]));
}

/// A secret that may have leaked: stop the token, rotate it, activate it. A creator's removal is not undone by a rotation.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_arms_no_token_that_is_inactive() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, first) = owner.personal_token("leaked").await;
    assert_eq!(
        owner
            .put(&format!("{}/deactivate", at(&id)), json!({}))
            .await
            .status,
        200
    );
    let second = new_secret(&owner, &id, 0).await;
    assert_eq!(status_of(&owner, &id).await, "Inactive");
    assert_eq!(
        (why(&app, &first).await, why(&app, &second).await),
        ("unknown_token".into(), "token_inactive".into())
    );
    assert_eq!(
        owner
            .put(&format!("{}/activate", at(&id)), json!({}))
            .await
            .status,
        200
    );
    assert_eq!(
        (why(&app, &first).await, why(&app, &second).await),
        ("unknown_token".into(), "allowed".into())
    );

    let mia = member_who_may(&app, &[("*", "access-token/*"), ("ToggleFlag", FLAGS)]).await;
    let (id, _) = mia.personal_token("mine").await;
    remove(&app, &mia).await;
    add(
        &app,
        mia.member_id,
        json!([allow("*", "access-token/*"), allow("ToggleFlag", FLAGS)]),
    )
    .await;
    let secret = new_secret(&mia, &id, 60).await;
    assert_eq!(why(&app, &secret).await, "token_inactive");
}

/// Tried: `Change::Edit` instead of `Change::Arm`.
#[tokio::test(flavor = "multi_thread")]
async fn only_who_could_have_made_a_token_may_have_its_secret() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let (theirs, secret) = developer.personal_token("theirs").await;
    let (service, _) = owner.service_token("all", "*", "*").await;
    let before = head(&app).await;
    let manager = member_who_may(&app, &[("ManageServiceAccessTokens", "access-token/*")]).await;
    let token = app.with_authorization(app.organization_id, developer.member_id, &secret);
    let anonymous = app.with_authorization(app.organization_id, developer.member_id, "Bearer x");
    for (who, actor, id, expected) in [
        (
            "the owner, somebody else's",
            owner.clone(),
            &theirs,
            (403, "Forbidden"),
        ),
        ("a manager whom it exceeds", manager, &service, (403, "Forbidden")),
        (
            "a developer whom it exceeds",
            developer.clone(),
            &service,
            (403, "Forbidden"),
        ),
        (
            "a member without permission",
            app.nobody(),
            &theirs,
            (403, "Forbidden"),
        ),
        (
            "somebody of another organization",
            app.stranger(),
            &service,
            (404, "ResourceNotFound"),
        ),
        ("no member", app.intruder(), &service, (403, "Forbidden")),
        ("the token itself", token, &theirs, (403, "Forbidden")),
        ("nobody", anonymous, &theirs, (401, "Unauthorized")),
    ] {
        let answer = rotate(&actor, id, json!({})).await;
        assert_eq!((answer.status, answer.code()), expected, "{who}");
    }
    assert_eq!(head(&app).await, before + 1, "only the manager was added");
    assert_eq!(why(&app, &secret).await, "allowed");
    assert_eq!(
        rotate(&app.administrator(), &service, json!({})).await.status,
        403,
        "an administrator may not everything"
    );
    assert_eq!(rotate(&owner, &service, json!({})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_gone_or_expired_is_not_rotated() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (expired, _) = owner.personal_token("expired").await;
    app.expire(&owner, &expired).await;
    let (removed, _) = owner.personal_token("removed").await;
    owner.delete(&at(&removed)).await;
    for (id, expected) in [
        (expired, (422, "TokenIsExpired")),
        (removed, (404, "ResourceNotFound")),
        (Uuid::new_v4().to_string(), (404, "ResourceNotFound")),
        ("none".to_owned(), (404, "ResourceNotFound")),
    ] {
        let answer = rotate(&owner, &id, json!({ "overlapSeconds": 60 })).await;
        assert_eq!((answer.status, answer.code()), expected, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlap_is_0_to_86400_seconds_and_a_body_may_be_left_out() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("t").await;
    for body in [
        json!({}),
        json!({ "overlapSeconds": null }),
        json!({ "OVERLAPSECONDS": 0 }),
        json!({ "overlapSeconds": 60.0 }),
        json!({ "overlapSeconds": -0.0 }),
        json!({ "overlapSeconds": 86_400 }),
    ] {
        assert_eq!(rotate(&owner, &id, body.clone()).await.status, 200, "{body}");
    }
    let empty = Answer::of(owner.request(Method::POST, &format!("{}/rotate", at(&id)))).await;
    assert_eq!(empty.status, 200, "{}", empty.text);
    let before = head(&app).await;
    for (body, code) in [
        (json!({ "overlapSeconds": -1 }), "overlap_seconds_is_invalid"),
        (json!({ "overlapSeconds": 86_401 }), "overlap_seconds_is_invalid"),
        (json!({ "overlapSeconds": 1.5 }), "overlap_seconds_is_invalid"),
        (json!({ "overlapSeconds": 1e300 }), "overlap_seconds_is_invalid"),
        (json!({ "overlapSeconds": "60" }), "overlap_seconds_is_invalid"),
        (json!([]), "body_is_invalid"),
        (json!("60"), "body_is_invalid"),
    ] {
        let answer = rotate(&owner, &id, body.clone()).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{body}");
    }
    assert_eq!(head(&app).await, before);
}
