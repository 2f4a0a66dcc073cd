//! What commands answer, and what is seen after them.

use super::*;

/// Tried: `seen_by` taken out of `list`.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_right_after_a_command_shows_what_it_did() {
    let app = TestApp::start().await;
    let owner = app.owner();
    for nth in 0..20 {
        let name = format!("token {nth}");
        let (id, secret) = owner.personal_token(&name).await;
        assert_eq!(names(&owner, "pageSize=1").await, [name.as_str()]);
        assert_eq!(
            app.ask(&secret, "ToggleFlag", FLAG).await["decision"],
            true,
            "and decisions know it"
        );
        owner
            .put(&at(&id), json!({ "name": format!("renamed {nth}") }))
            .await;
        assert_eq!(names(&owner, "pageSize=1").await, [format!("renamed {nth}")]);
        owner.put(&format!("{}/toggle", at(&id)), json!({})).await;
        assert_eq!(status_of(&owner, &id).await, "Inactive");
        assert_eq!(
            app.ask(&secret, "ToggleFlag", FLAG).await["context"]["reason"],
            "token_inactive"
        );
        owner.delete(&at(&id)).await;
        assert_eq!(names(&owner, "").await, [""; 0]);
        assert_eq!(
            app.ask(&secret, "ToggleFlag", FLAG).await["context"]["reason"],
            "token_removed"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_with_its_position_even_if_nothing_had_to_change() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let before = head(&app).await;
    let body = json!({ "name": "deploy", "type": "Personal" });
    let created = owner.post("/access-tokens", body).await;
    let id = created.body["data"]["id"].as_str().unwrap().to_owned();
    assert_eq!(created.header("x-log-position"), (before + 1).to_string());
    let (_, _) = owner.personal_token("something else happens in between").await;
    let act = async |method: Method, path: String, body: Value| {
        let answer = Answer::of(owner.request(method, &path).json(&body)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.header("x-log-position").parse::<i64>().unwrap() - before
    };
    let put = |action: &str| {
        act(
            Method::PUT,
            format!("{}{action}", at(&id)),
            json!({ "name": "deploy" }),
        )
    };
    assert_eq!(put("/activate").await, 1, "it is Active: nothing had to change");
    assert_eq!(put("").await, 1, "it has that name");
    assert_eq!(put("/deactivate").await, 3);
    assert_eq!(put("/deactivate").await, 3);
    assert_eq!(put("/activate").await, 4);
    assert_eq!(put("/activate").await, 4);
    assert_eq!(put("/toggle").await, 5);
    assert_eq!(put("/toggle").await, 6);
    assert_eq!(act(Method::DELETE, at(&id), json!({})).await, 7);
    assert_eq!(
        act(Method::DELETE, at(&id), json!({})).await,
        7,
        "removed is for ever"
    );
    assert_eq!(log_is_whole(&app.database.pool).await, before + 7);
    let renamed = [
        "created",
        "deactivated",
        "activated",
        "deactivated",
        "activated",
        "removed",
    ];
    assert_eq!(
        events_of(&app, &id).await,
        renamed.map(|event| format!("access_token.{event}"))
    );
}

/// Tried: `at_least_position` taken out of `seen_by`.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_waits_for_the_position_it_names_and_says_so_if_it_does_not_come() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("deploy").await;
    let head = head(&app).await;
    for path in [
        "/access-tokens".to_owned(),
        at(&id),
        format!("{}/history", at(&id)),
        "/access-tokens/is-name-used?name=x".to_owned(),
    ] {
        let ask = |position: String| {
            Answer::of(
                owner
                    .request(Method::GET, &path)
                    .header("x-at-least-position", position),
            )
        };
        assert_eq!(ask(head.to_string()).await.status, 200, "{path}");
        let ahead = ask((head + 1).to_string()).await;
        assert_eq!(
            (ahead.status, ahead.body),
            (503, errors(&["ServiceUnavailable"])),
            "{path}"
        );
        assert_eq!(ahead.headers["retry-after"], "1");
        for wrong in ["", "soon", "-1", "1.5", "99999999999999999999"] {
            let answer = ask(wrong.to_owned()).await;
            assert_eq!(
                (answer.status, answer.code()),
                (400, "at_least_position_is_invalid"),
                "{path} {wrong:?}"
            );
        }
    }
}

/// Commands refuse it twice, in `load_token` and in the domain. Tried: `removed_at is null` taken out of the read model's
/// queries.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_token_is_gone_for_ever_but_its_history_stays() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, secret) = owner.service_token("deploy", "ToggleFlag", FLAG).await;
    assert_eq!(
        owner.delete(&at(&id)).await.body,
        json!({ "success": true, "errors": [], "data": true })
    );
    assert_eq!(owner.get(&at(&id)).await.body, errors(&["ResourceNotFound"]));
    assert_eq!(owner.put(&at(&id), json!({ "name": "x" })).await.status, 404);
    for action in ["activate", "deactivate", "toggle"] {
        assert_eq!(
            owner
                .put(&format!("{}/{action}", at(&id)), json!({}))
                .await
                .status,
            404,
            "{action}"
        );
    }
    assert_eq!(owner.delete(&at(&id)).await.status, 200);
    assert_eq!(names(&owner, "").await, [""; 0]);
    assert_eq!(
        app.ask(&secret, "ToggleFlag", FLAG).await["context"]["reason"],
        "token_removed"
    );
    let history = owner.get(&format!("{}/history", at(&id))).await;
    assert_eq!(history.status, 200);
    let items = history.body["data"]["items"].as_array().unwrap();
    let events: Vec<_> = items.iter().map(|item| item["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["access_token.created", "access_token.removed"]);
    assert_eq!(items[1]["actor"], format!("member:{}", owner.member_id));
}

/// A removed organization: nobody is left to remove it, and one of another finds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_organization_takes_its_members_and_tokens_along() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (_, service) = owner.service_token("bot", "ToggleFlag", FLAG).await;
    let mut event = cloud_event(
        "OrganizationRemoved",
        app.organization_id,
        owner.member_id,
        json!({}),
    );
    event["data"].as_object_mut().unwrap().remove("memberId");
    app.tell(&[event]).await;
    assert_eq!(owner.get("/access-tokens").await.status, 403);
    assert_eq!(
        app.ask(&service, "ToggleFlag", FLAG).await["context"]["reason"],
        "token_removed"
    );
}
