//! Who may do what: the three permissions, ownership, the ceiling of service tokens, organizations.

use super::*;

/// Tried: `known.must` taken out of list and find; `may_create` taken out of `create_token`.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_permission_may_do_nothing_and_one_with_a_built_in_role_everything() {
    let app = TestApp::start().await;
    let (id, _) = app.owner().service_token("known", "ToggleFlag", FLAG).await;
    for (actor, expected) in [
        (app.owner(), 200),
        (app.administrator(), 200),
        (app.developer(), 200),
        (app.nobody(), 403),
        (app.intruder(), 403),
    ] {
        let name = Uuid::new_v4().to_string();
        let answers = [
            actor.get("/access-tokens").await,
            actor.get(&at(&id)).await,
            actor.get(&format!("{}/history", at(&id))).await,
            actor.get("/access-tokens/is-name-used?name=known").await,
            actor
                .post("/access-tokens", json!({ "name": name, "type": "Personal" }))
                .await,
            actor.put(&at(&id), json!({ "name": "known" })).await,
            actor.put(&format!("{}/deactivate", at(&id)), json!({})).await,
            actor.put(&format!("{}/activate", at(&id)), json!({})).await,
            actor.put(&format!("{}/toggle", at(&id)), json!({})).await,
            actor.put(&format!("{}/toggle", at(&id)), json!({})).await,
        ];
        for (nth, answer) in answers.iter().enumerate() {
            assert_eq!(
                answer.status, expected,
                "route {nth} for {}: {}",
                actor.member_id, answer.text
            );
            if expected == 403 {
                assert_eq!(answer.body, errors(&["Forbidden"]));
            }
        }
    }
    assert_eq!(app.nobody().delete(&at(&id)).await.status, 403);
    assert_eq!(app.intruder().delete(&at(&id)).await.status, 403);
    assert_eq!(app.developer().delete(&at(&id)).await.status, 200);
}

/// Tried: `may_ask_for_names` for `may_list`; one permission for the other in `may_create`.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_the_three_permissions_opens_its_own_routes_and_no_other() {
    let app = TestApp::start().await;
    let known = app.owner().service_token("known", "ToggleFlag", FLAG).await.0;
    let flags = ("ToggleFlag", FLAGS);
    for (permission, listed, personal, service) in [
        ("ListAccessTokens", 200, 403, 403),
        ("ManagePersonalAccessTokens", 403, 200, 403),
        ("ManageServiceAccessTokens", 403, 403, 200),
    ] {
        let member = member_who_may(&app, &[(permission, "access-token/*"), flags]).await;
        let create = async |token_type: &str| {
            let name = Uuid::new_v4().to_string();
            let body =
                json!({ "name": name, "type": token_type, "permissions": [allow("ToggleFlag", FLAG)] });
            member.post("/access-tokens", body).await.status
        };
        assert_eq!(member.get("/access-tokens").await.status, listed, "{permission}");
        assert_eq!(member.get(&at(&known)).await.status, listed, "{permission}");
        assert_eq!(
            member.get(&format!("{}/history", at(&known))).await.status,
            listed,
            "{permission}"
        );
        assert_eq!(
            member.get("/access-tokens/is-name-used?name=known").await.status,
            200,
            "{permission}"
        );
        assert_eq!(create("Personal").await, personal, "{permission}");
        assert_eq!(create("Service").await, service, "{permission}");
        let deactivated = member.put(&format!("{}/deactivate", at(&known)), json!({})).await;
        assert_eq!(deactivated.status, service, "{permission}");
    }
}

/// Tried: `Change::Disarm` without `CanManageIAM`; `Change::Edit` and `Change::Arm` as for the creator.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_personal_token_can_only_be_stopped_and_only_by_who_manages_iam() {
    let app = TestApp::start().await;
    let (id, _) = app.developer().personal_token("mine").await;
    let (of_the_owner, _) = app.owner().personal_token("the owner's").await;

    // A developer manages personal tokens, but not IAM: the owner's is out of reach.
    for action in ["activate", "deactivate", "toggle"] {
        let answer = app
            .developer()
            .put(&format!("{}/{action}", at(&of_the_owner)), json!({}))
            .await;
        assert_eq!(answer.status, 403, "{action}");
    }
    assert_eq!(
        app.developer()
            .put(&at(&of_the_owner), json!({ "name": "x" }))
            .await
            .status,
        403
    );
    assert_eq!(app.developer().delete(&at(&of_the_owner)).await.status, 403);
    // One who manages IAM but no personal tokens is no better.
    let warden = member_who_may(&app, &[("CanManageIAM", "iam/*")]).await;
    assert_eq!(
        warden
            .put(&format!("{}/deactivate", at(&id)), json!({}))
            .await
            .status,
        403
    );

    // The administrator manages both: it can stop the developer's, but neither rename nor start it.
    let administrator = app.administrator();
    assert_eq!(
        administrator.put(&at(&id), json!({ "name": "x" })).await.status,
        403
    );
    assert_eq!(
        administrator
            .put(&format!("{}/toggle", at(&id)), json!({}))
            .await
            .status,
        200
    );
    assert_eq!(status_of(&administrator, &id).await, "Inactive");
    for action in ["activate", "toggle"] {
        let answer = administrator
            .put(&format!("{}/{action}", at(&id)), json!({}))
            .await;
        assert_eq!(answer.status, 403, "{action}");
    }
    assert_eq!(
        app.developer()
            .put(&format!("{}/activate", at(&id)), json!({}))
            .await
            .status,
        200
    );
    assert_eq!(
        administrator
            .put(&format!("{}/deactivate", at(&id)), json!({}))
            .await
            .status,
        200
    );
    assert_eq!(administrator.delete(&at(&id)).await.status, 200);
    assert_eq!(app.developer().get(&at(&id)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_token_belongs_to_everybody_who_manages_service_tokens() {
    let app = TestApp::start().await;
    let (id, _) = app.owner().service_token("bot", "ToggleFlag", FLAG).await;
    let renamed = app.developer().put(&at(&id), json!({ "name": "robot" })).await;
    assert_eq!(
        (renamed.status, &renamed.body["data"]["name"]),
        (200, &json!("robot"))
    );
    assert_eq!(renamed.body["data"]["creator"]["name"], "Olga Owner");
    assert_eq!(app.developer().delete(&at(&id)).await.status, 200);
}

/// Tried: `is_under_ceiling` taken out of `create_token`.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_token_never_exceeds_its_creator() {
    let app = TestApp::start().await;
    let everything = json!({ "resourceType": "*", "effect": "allow", "actions": ["*"], "resources": ["*"] });
    for (statement, developer, administrator, owner) in [
        (allow("ToggleFlag", FLAGS), 200, 200, 200),
        (allow("*", "project/*:env/*:segment/vip"), 200, 200, 200),
        (allow("CanManageIAM", "iam/*"), 403, 200, 200),
        (allow("CreateProject", "project/*"), 403, 200, 200),
        (allow("ToggleFlag", "*"), 403, 403, 200),
        (everything, 403, 403, 200),
    ] {
        for (actor, expected) in [
            (app.developer(), developer),
            (app.administrator(), administrator),
            (app.owner(), owner),
        ] {
            let name = Uuid::new_v4().to_string();
            let before = head(&app).await;
            let body = json!({ "name": name, "type": "Service", "permissions": [allow("ToggleFlag", FLAG), statement] });
            let answer = actor.post("/access-tokens", body).await;
            assert_eq!(answer.status, expected, "{statement}: {}", answer.text);
            assert_eq!(
                head(&app).await - before,
                i64::from(expected == 200),
                "nothing is written of a refusal"
            );
        }
    }
    // A personal token can only narrow what its creator may do: it may name anything.
    let body =
        json!({ "name": "scoped", "type": "Personal", "permissions": [allow("CanManageIAM", "iam/*")] });
    assert_eq!(app.developer().post("/access-tokens", body).await.status, 200);
}

/// Tried: `Change::Arm` of a service token as `Change::Edit`.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_token_is_armed_only_by_who_could_have_made_it() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let soon = Utc::now() + TimeDelta::days(10);
    let body = json!({ "name": "iam bot", "type": "Service", "permissions": [allow("CanManageIAM", "iam/*")],
                       "expiresAt": soon, "allowedIps": ["10.0.0.0/8"] });
    let (id, _) = owner.token(body).await;
    let put = async |actor: &Actor, field: &str, value: Value| {
        let mut body = json!({ "name": "iam bot" });
        body[field] = value;
        actor.put(&at(&id), body).await.status
    };
    // Wider: longer, or from more addresses.
    for (field, value) in [
        ("expiresAt", json!(soon + TimeDelta::seconds(1))),
        ("expiresAt", Value::Null),
        ("allowedIps", json!(["10.0.0.0/8", "192.168.0.1"])),
        ("allowedIps", json!(["10.0.0.0/7"])),
        ("allowedIps", json!([])),
        ("allowedIps", Value::Null),
    ] {
        assert_eq!(
            put(&developer, field, value.clone()).await,
            403,
            "{field} {value}"
        );
    }
    // Narrower, or the same.
    for (field, value) in [
        ("expiresAt", json!(soon)),
        ("expiresAt", json!(soon - TimeDelta::days(1))),
        ("allowedIps", json!(["10.1.0.0/16", "10.2.0.1"])),
        ("description", json!("stop it if it misbehaves")),
    ] {
        assert_eq!(
            put(&developer, field, value.clone()).await,
            200,
            "{field} {value}"
        );
    }
    assert_eq!(
        developer
            .put(&format!("{}/deactivate", at(&id)), json!({}))
            .await
            .status,
        200
    );
    for action in ["activate", "toggle"] {
        assert_eq!(
            developer
                .put(&format!("{}/{action}", at(&id)), json!({}))
                .await
                .status,
            403,
            "{action}"
        );
    }
    assert_eq!(status_of(&owner, &id).await, "Inactive");
    assert_eq!(put(&owner, "allowedIps", Value::Null).await, 200);
    assert_eq!(
        owner
            .put(&format!("{}/activate", at(&id)), json!({}))
            .await
            .status,
        200
    );
}

/// Tried: the organization not compared in `load_token`, in `remove_token`, in `find`.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_organization_does_not_exist() {
    let app = TestApp::start().await;
    let (id, secret) = app.owner().service_token("ours", "ToggleFlag", FLAG).await;
    let stranger = app.stranger();
    let before = head(&app).await;
    for action in ["activate", "deactivate", "toggle"] {
        assert_eq!(
            stranger
                .put(&format!("{}/{action}", at(&id)), json!({}))
                .await
                .status,
            404,
            "{action}"
        );
    }
    assert_eq!(
        stranger.put(&at(&id), json!({ "name": "theirs" })).await.status,
        404
    );
    assert_eq!(stranger.get(&at(&id)).await.status, 404);
    assert_eq!(stranger.get(&format!("{}/history", at(&id))).await.status, 404);
    assert_eq!(names(&stranger, "").await, [""; 0]);
    // Removing what does not exist is done already, and answers as for any unknown id.
    let removed = stranger.delete(&at(&id)).await;
    let unknown = stranger.delete(&at(&Uuid::new_v4().to_string())).await;
    assert_eq!((removed.status, &removed.text), (200, &unknown.text));
    assert_eq!(removed.header("x-log-position"), unknown.header("x-log-position"));
    assert_eq!(head(&app).await, before);
    assert_eq!(app.ask(&secret, "ToggleFlag", FLAG).await["decision"], true);
    // Nor does its name stand in anybody's way.
    assert_eq!(
        stranger.get("/access-tokens/is-name-used?name=ours").await.body["data"],
        false
    );
    stranger.personal_token("ours").await;
}

/// Tried: `may_create` taken out of `create_token`.
#[tokio::test(flavor = "multi_thread")]
async fn a_permission_taken_back_is_gone_for_the_next_command() {
    let app = TestApp::start().await;
    let developer = app.developer();
    developer.personal_token("before").await;
    let taken = json!({ "permission": "ManagePersonalAccessTokens" });
    app.tell(&[cloud_event(
        "PermissionRevoked",
        app.organization_id,
        developer.member_id,
        taken,
    )])
    .await;
    let answer = developer
        .post("/access-tokens", json!({ "name": "after", "type": "Personal" }))
        .await;
    assert_eq!((answer.status, answer.body), (403, errors(&["Forbidden"])));
    remove(&app, &developer).await;
    assert_eq!(developer.get("/access-tokens").await.status, 403);
}
