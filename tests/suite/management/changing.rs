//! Changing tokens: what an update takes, and what turns a token on and off.

use super::*;

/// Tried: the statements of a personal token compared, or taken, in `update`.
#[tokio::test(flavor = "multi_thread")]
async fn what_featbits_page_sends_as_permissions_of_a_personal_token_changes_nothing() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let scope = json!([allow("ToggleFlag", FLAG)]);
    let (id, secret) = owner
        .token(json!({ "name": "scoped", "type": "Personal", "permissions": scope }))
        .await;
    let before = owner.get(&at(&id)).await.body["data"]["permissions"].clone();
    for permissions in [json!([]), json!(null), json!([allow("*", "*")])] {
        let answer = owner
            .put(&at(&id), json!({ "name": "scoped", "permissions": permissions }))
            .await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body["data"]["permissions"], before, "{permissions}");
    }
    assert_eq!(app.ask(&secret, "ToggleFlag", FLAG).await["decision"], true);
    assert_eq!(
        app.ask(&secret, "DeleteFlag", FLAG).await["context"]["reason"],
        "outside_token_scope"
    );
}

/// Tried: `PermissionsAreFixed` taken out of `update`.
#[tokio::test(flavor = "multi_thread")]
async fn the_permissions_of_a_service_token_are_fixed_for_ever() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (a, b) = (allow("ToggleFlag", FLAG), allow("CreateFlag", FLAG));
    let (id, _) = owner
        .token(json!({ "name": "bot", "type": "Service", "permissions": [a, b] }))
        .await;
    let mut with_id = a.clone();
    with_id["id"] = json!("another id");
    let as_is = owner.get(&at(&id)).await.body["data"]["permissions"].clone();
    for same in [json!(null), as_is.clone(), json!([b, a]), json!([with_id, b, b])] {
        let answer = owner
            .put(&at(&id), json!({ "name": "bot", "permissions": same }))
            .await;
        assert_eq!(answer.status, 200, "{same}: {}", answer.text);
        assert_eq!(answer.body["data"]["permissions"], as_is);
    }
    for other in [json!([]), json!([a]), json!([a, b, allow("DeleteFlag", FLAG)])] {
        let answer = owner
            .put(&at(&id), json!({ "name": "renamed", "permissions": other }))
            .await;
        assert_eq!(
            (answer.status, answer.body),
            (422, errors(&["PermissionsAreFixed"])),
            "{other}"
        );
    }
    assert_eq!(
        owner.get(&at(&id)).await.body["data"]["name"],
        "bot",
        "all or nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_field_stays_as_it_is_and_null_means_none() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let expires_at = (Utc::now() + TimeDelta::days(1))
        .format("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let (id, _) = owner
        .token(
            json!({ "name": "deploy", "type": "Personal", "description": "words", "expiresAt": expires_at,
                       "allowedIps": ["10.0.0.1"] }),
        )
        .await;
    let shown = async |body: Value| {
        let answer = owner.put(&at(&id), body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let data = &answer.body["data"];
        json!([
            data["name"],
            data["description"],
            data["expiresAt"],
            data["allowedIps"]
        ])
    };
    let renamed = shown(json!({ "name": "renamed" })).await;
    assert_eq!(renamed, json!(["renamed", "words", expires_at, ["10.0.0.1/32"]]));
    let none = json!({ "name": "renamed", "description": null, "expiresAt": null, "allowedIps": null });
    assert_eq!(shown(none).await, json!(["renamed", null, null, []]));
    let expected = [
        "created",
        "renamed",
        "description_changed",
        "expiry_changed",
        "allowed_ips_changed",
    ];
    assert_eq!(
        events_of(&app, &id).await,
        expected.map(|event| format!("access_token.{event}"))
    );
}

/// Tried: `is_expired` taken out of `activate`.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_reads_as_inactive_and_cannot_be_activated() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.service_token("bot", "ToggleFlag", FLAG).await;
    app.expire(&owner, &id).await;
    let token = owner.get(&at(&id)).await.body["data"].clone();
    assert_eq!(
        (&token["status"], &token["inactiveReason"]),
        (&json!("Inactive"), &json!("expired"))
    );
    assert_eq!(names(&owner, "status=Inactive").await, ["bot"]);
    assert_eq!(names(&owner, "status=Active").await, [""; 0]);
    for action in ["activate", "toggle"] {
        let answer = owner.put(&format!("{}/{action}", at(&id)), json!({})).await;
        assert_eq!(
            (answer.status, answer.body),
            (422, errors(&["TokenIsExpired"])),
            "{action}"
        );
    }
    // Its time given back, it can be activated.
    eventually("the reactor writes the expiry down", async || {
        (events_of(&app, &id).await.len() == 3).then_some(())
    })
    .await;
    let longer = json!({ "name": "bot", "expiresAt": Utc::now() + TimeDelta::days(1) });
    assert_eq!(
        owner.put(&at(&id), longer).await.body["data"]["status"],
        "Inactive"
    );
    assert_eq!(
        owner
            .put(&format!("{}/activate", at(&id)), json!({}))
            .await
            .status,
        200
    );
    assert_eq!(status_of(&owner, &id).await, "Active");
}

/// `CreatorIsNotAMember` is what the domain says; over HTTP the caller is the creator, who is forbidden before, or somebody
/// else, who may not start another's token.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_creators_personal_token_is_inactive_and_nobody_can_activate_it() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let (id, _) = developer.personal_token("mine").await;
    remove(&app, &developer).await;
    let token = owner.get(&at(&id)).await.body["data"].clone();
    assert_eq!(
        (&token["status"], &token["inactiveReason"]),
        (&json!("Inactive"), &json!("creator_removed"))
    );
    assert_eq!(
        token["creator"]["name"], "Dana Developer",
        "the page reads it without a guard"
    );
    for actor in [&owner, &developer] {
        for action in ["activate", "toggle"] {
            assert_eq!(
                actor
                    .put(&format!("{}/{action}", at(&id)), json!({}))
                    .await
                    .status,
                403,
                "{action}"
            );
        }
    }
    assert_eq!(
        owner
            .put(&format!("{}/deactivate", at(&id)), json!({}))
            .await
            .status,
        200
    );
    assert_eq!(owner.delete(&at(&id)).await.status, 200);
}

/// Tried: toggle on the stream's status alone.
#[tokio::test(flavor = "multi_thread")]
async fn toggle_turns_the_effective_status() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let (id, _) = developer.personal_token("mine").await;
    // Removed and added again, and the reactor is held before it can write the deactivation down.
    let mut held = app.database.pool.begin().await.unwrap();
    held.execute("lock table checkpoints in access exclusive mode")
        .await
        .unwrap();
    let (organization_id, member_id) = (app.organization_id, developer.member_id);
    let statements =
        json!([{ "resourceType": "*", "effect": "allow", "actions": ["*"], "resources": ["*"] }]);
    let data = json!({ "name": "Dana", "email": "d@tests.example", "statements": statements });
    app.tell(&[
        cloud_event("MemberRemoved", organization_id, member_id, json!({})),
        cloud_event("MemberAdded", organization_id, member_id, data),
    ])
    .await;
    assert_eq!(status_of(&developer, &id).await, "Inactive");
    assert_eq!(
        developer
            .put(&format!("{}/toggle", at(&id)), json!({}))
            .await
            .status,
        200
    );
    held.rollback().await.unwrap();
    assert_eq!(status_of(&developer, &id).await, "Active");
    assert_eq!(
        developer
            .put(&format!("{}/toggle", at(&id)), json!({}))
            .await
            .status,
        200
    );
    assert_eq!(status_of(&developer, &id).await, "Inactive");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_with_a_toggle_is_ignored() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("deploy").await;
    for action in ["toggle", "activate", "deactivate"] {
        for body in ["", "{}", "{", "null", "\u{0}"] {
            let request = owner
                .request(Method::PUT, &format!("{}/{action}", at(&id)))
                .body(body);
            let answer = Answer::of(request).await;
            assert_eq!(
                answer.body,
                json!({ "success": true, "errors": [], "data": true }),
                "{action} {body:?}"
            );
        }
    }
}
