//! The three searches: what is found is allowed, what is not found is not, and pages hold everything once.

use domain::policy::built_in::KNOWN_ACTIONS;

use super::*;

const KEY: &str = "a-key";

async fn search(app: &TestApp, what: &str, body: &Value) -> Answer {
    let request = app.request(Method::POST, &format!("/access/v1/search/{what}"));
    Answer::of(request.header("x-gateway-key", KEY).json(body)).await
}

/// All pages, by this field; that they fit together is looked at here.
async fn all(app: &TestApp, what: &str, body: &Value, field: &str, limit: usize) -> Vec<String> {
    let (mut found, mut asked) = (Vec::new(), body.clone());
    asked["page"] = json!({ "limit": limit });
    loop {
        let answer = search(app, what, &asked).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let results = answer.body["results"].as_array().unwrap();
        assert!(results.len() <= limit, "{}", answer.text);
        assert_eq!(answer.body["page"]["count"], results.len());
        assert!(answer.body["context"]["position"].is_i64(), "{}", answer.text);
        found.extend(
            results
                .iter()
                .map(|result| result[field].as_str().unwrap().to_owned()),
        );
        let next = answer.body["page"]["next_token"].as_str().unwrap();
        if next.is_empty() {
            return found;
        }
        asked["page"]["token"] = json!(next);
    }
}

async fn with_keys() -> TestApp {
    let settings = vec![
        ("GATEWAY_KEYS", KEY.to_owned()),
        // However busy the machine is.
        ("MAX_STALENESS_MS", "30000".to_owned()),
    ];
    TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await
}

async fn is_allowed(app: &TestApp, subject: &Value, action: &str, resource: &str) -> bool {
    let asked = json!({ "subject": subject, "action": { "name": action }, "resource": { "type": "flag", "id": resource } });
    let request = app.request(Method::POST, "/access/v1/evaluation");
    let answer = Answer::of(request.header("x-gateway-key", KEY).json(&asked)).await;
    reason(&answer.body) == "allowed"
}

/// Tried: candidates found without a decision.
#[tokio::test(flavor = "multi_thread")]
async fn the_actions_found_are_those_that_are_allowed() {
    let app = with_keys().await;
    let permissions = json!([
        statement("a", "allow", "ToggleFlag", FLAGS),
        statement("b", "allow", "Launch", "project/web"),
        statement("c", "allow", "Launch elsewhere", "project/x"),
        statement("d", "allow", "DeleteFlag", FLAGS),
        statement("e", "deny", "DeleteFlag", "project/web"),
    ]);
    let owner = app.owner();
    let (id, secret) = owner
        .token(json!({ "name": "bot", "type": "Service", "permissions": permissions }))
        .await;
    let (personal, _) = app.developer().personal_token("mine").await;
    for (subject, expected) in [
        (token(&id), Some(vec!["Launch", "ToggleFlag"])),
        (token(&secret), Some(vec!["Launch", "ToggleFlag"])),
        (token(&personal), None),
        (member(&owner), None),
        (member(&app.nobody()), Some(vec![])),
        (token("nobody's"), Some(vec![])),
        (json!({ "type": "user", "id": "x" }), Some(vec![])),
    ] {
        let body = json!({ "subject": subject, "resource": { "type": "flag", "id": FLAG } });
        let found = all(&app, "action", &body, "name", 100).await;
        if let Some(expected) = expected {
            assert_eq!(found, expected, "{subject}");
        } else {
            assert!(found.len() > 20 && found.is_sorted(), "{found:?}");
            assert!(!found.iter().any(|action| action == "*"), "{found:?}");
            for action in KNOWN_ACTIONS {
                let is_found = found.iter().any(|found| found == action);
                assert_eq!(
                    is_found,
                    is_allowed(&app, &subject, action, FLAG).await,
                    "{action}"
                );
            }
        }
        for limit in [1, 7] {
            assert_eq!(all(&app, "action", &body, "name", limit).await, found, "{limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_resources_found_are_the_names_and_patterns_that_are_allowed() {
    let app = with_keys().await;
    let permissions = json!([
        { "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"],
          "resources": ["project/web:env/prod:flag/dark", "project/*:env/dev:flag/*;beta", "project/web:env/prod", "project/x:env/*:flag/*"] },
        statement("no", "deny", "ToggleFlag", "project/x"),
        statement("other", "allow", "DeleteFlag", "project/y:env/*:flag/*"),
    ]);
    let (id, _) = app
        .owner()
        .token(json!({ "name": "bot", "type": "Service", "permissions": permissions }))
        .await;
    let ask = |subject: Value, kind: &str| json!({ "subject": subject, "action": { "name": "ToggleFlag" }, "resource": { "type": kind, "id": "ignored" } });
    for (subject, kind, expected) in [
        (
            token(&id),
            "flag",
            vec!["project/*:env/dev:flag/*;beta", "project/web:env/prod:flag/dark"],
        ),
        (token(&id), "env", vec!["project/web:env/prod"]),
        (token(&id), "segment", vec![]),
        (member(&app.owner()), "flag", vec!["*"]),
        (member(&app.developer()), "flag", vec![FLAGS]),
        (token("nobody's"), "flag", vec![]),
    ] {
        let body = ask(subject.clone(), kind);
        assert_eq!(
            all(&app, "resource", &body, "id", 100).await,
            expected,
            "{subject} {kind}"
        );
        assert_eq!(
            all(&app, "resource", &body, "id", 1).await,
            expected,
            "{subject} {kind}"
        );
        for found in expected {
            assert!(is_allowed(&app, &subject, "ToggleFlag", found).await, "{found}");
        }
    }
}

/// Tried: the place counted over those found.
#[tokio::test(flavor = "multi_thread")]
async fn the_subjects_found_are_the_tokens_of_the_organization_that_may_and_pages_do_not_shift() {
    let app = with_keys().await;
    let (owner, stranger) = (app.owner(), app.stranger());
    let mut expected = Vec::new();
    for nth in 0..7 {
        let (may, _) = owner
            .service_token(&format!("may {nth}"), "ToggleFlag", FLAGS)
            .await;
        owner
            .service_token(&format!("may not {nth}"), "DeleteFlag", FLAGS)
            .await;
        expected.push(may);
    }
    let (stopped, _) = owner.personal_token("stopped").await;
    put(&owner, &stopped, "deactivate").await;
    let (theirs, _) = stranger.personal_token("theirs").await;
    let body = |organization: Value| {
        json!({ "subject": { "type": "access_token", "id": "ignored" }, "action": { "name": "ToggleFlag" },
                "resource": { "type": "flag", "id": FLAG, "properties": { "organizationId": organization } } })
    };
    let ours = body(json!(app.organization_id));
    for limit in [1, 3, 100] {
        assert_eq!(
            all(&app, "subject", &ours, "id", limit).await,
            expected,
            "{limit}"
        );
    }
    let elsewhere = body(json!(stranger.organization_id));
    assert_eq!(all(&app, "subject", &elsewhere, "id", 100).await, [theirs]);
    assert_eq!(
        all(&app, "subject", &body(json!(Uuid::new_v4())), "id", 100)
            .await
            .len(),
        0
    );
    let mut members = ours.clone();
    members["subject"]["type"] = json!("member");
    assert_eq!(all(&app, "subject", &members, "id", 100).await.len(), 0);

    // One that was shown goes, one comes: the second page is what it would have been, and the new one comes last.
    let mut first = ours.clone();
    first["page"] = json!({ "limit": 3 });
    let answer = search(&app, "subject", &first).await;
    assert_eq!(
        owner
            .delete(&format!("/access-tokens/{}", expected[0]))
            .await
            .status,
        200
    );
    let (new, _) = owner.service_token("new", "ToggleFlag", FLAGS).await;
    let mut rest = first.clone();
    rest["page"]["token"] = answer.body["page"]["next_token"].clone();
    let second = search(&app, "subject", &rest).await;
    let ids = |answer: &Answer| -> Vec<String> {
        let results = answer.body["results"].as_array().unwrap().iter();
        results
            .map(|result| result["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        (ids(&answer), ids(&second)),
        (expected[..3].to_vec(), expected[3..6].to_vec())
    );
    rest["page"]["token"] = second.body["page"]["next_token"].clone();
    assert_eq!(
        ids(&search(&app, "subject", &rest).await),
        [expected[6].clone(), new]
    );

    let missing = search(&app, "subject", &body(Value::Null)).await;
    assert_eq!(
        (missing.status, missing.body),
        (400, json!("resource.properties.organizationId is required"))
    );
    // Without keys anybody could ask who is in an organization.
    let open = TestApp::start().await;
    assert_eq!(search(&open, "subject", &ours).await.status, 401);
}

/// Tried: the token of another search taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_is_none_is_refused_and_nothing_is_found_that_can_not_be_vouched_for() {
    let app = with_keys().await;
    let (id, _) = app.owner().personal_token("mine").await;
    let body = json!({ "subject": token(&id), "resource": { "type": "flag", "id": FLAG } });
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = body.clone();
        change(&mut body);
        body
    };
    let mut first = body.clone();
    first["page"] = json!({ "limit": 1 });
    let page_token = search(&app, "action", &first).await.body["page"]["next_token"].clone();
    let of_another = with(&|body| {
        body["page"] = json!({ "limit": 1, "token": page_token });
        body["resource"]["id"] = json!(OTHER);
    });
    for (body, why) in [
        (of_another, "page.token is of another search"),
        (
            with(&|body| body["page"] = json!({ "limit": 2, "token": page_token })),
            "page.token is of another search",
        ),
        (
            with(&|body| body["page"] = json!({ "token": "x" })),
            "page.token is of another search",
        ),
        (
            with(&|body| body["page"] = json!({ "token": 7 })),
            "page.token must be a string",
        ),
        (with(&|body| body["page"] = json!(7)), "page must be an object"),
        (
            with(&|body| body["page"] = json!({ "limit": 0 })),
            "page.limit must be a whole number, from 1",
        ),
        (
            with(&|body| body["subject"] = json!(1)),
            "subject must be an object",
        ),
        (
            with(&|body| body["resource"] = json!({ "type": "flag" })),
            "resource.id is required",
        ),
        (
            with(&|body| body["context"] = json!({ "atPosition": 1 })),
            "context.atPosition, atTime and explain are not for searches",
        ),
    ] {
        let answer = search(&app, "action", &body).await;
        assert_eq!((answer.status, &answer.body), (400, &json!(why)), "{body}");
    }
    let no_action = search(&app, "resource", &body).await;
    assert_eq!(
        (no_action.status, no_action.body),
        (400, json!("action is required"))
    );
    let ahead = with(&|body| body["context"] = json!({ "atLeastPosition": i64::MAX }));
    let answer = search(&app, "action", &ahead).await;
    assert_eq!(answer.body["results"], json!([]));
    assert_eq!(answer.body["context"]["reason"], "stale_replica");
    assert_eq!(answer.body["page"], json!({ "next_token": "", "count": 0 }));
}
