//! What a token may do: its statements, its creator's permission, its scope.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_token_may_do_what_its_statements_say_and_the_answer_names_the_statement() {
    let app = TestApp::start().await;
    let scope = json!([
        statement("toggles", "allow", "ToggleFlag", FLAGS),
        statement("not in dev", "deny", "ToggleFlag", "project/*:env/dev"),
    ]);
    let (id, secret) = app
        .owner()
        .token(json!({ "name": "bot", "type": "Service", "permissions": scope }))
        .await;
    for subject in [&id, &secret] {
        let allowed = app.ask(subject, "ToggleFlag", FLAG).await;
        assert_eq!(
            (reason(&allowed).as_str(), &allowed["context"]["statementId"]),
            ("allowed", &json!("toggles"))
        );
        let denied = app.ask(subject, "ToggleFlag", OTHER).await;
        assert_eq!(reason(&denied), "denied_by_statement");
        assert_eq!(denied["context"]["statementId"], "not in dev");
        let unmatched = app.ask(subject, "DeleteFlag", FLAG).await;
        assert_eq!(reason(&unmatched), "no_matching_statement");
        assert!(unmatched["context"].get("statementId").is_none());
    }
}

/// The id of a resource is text: matched as it is, whatever its form. Its type is not compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_never_refused_for_its_form() {
    let app = TestApp::start().await;
    let (_, secret) = app
        .owner()
        .service_token("bot", "ToggleFlag", "project/web:env/prod")
        .await;
    for (resource, expected) in [
        ("project/web:env/prod", "allowed"),
        ("project/web:env/prod:", "allowed"),
        ("project/web:env/prod:flag/a:b:c;;;\u{1F980}", "allowed"),
        ("project/web", "no_matching_statement"),
        ("project/*:env/prod", "no_matching_statement"),
        ("", "no_matching_statement"),
        (":::", "no_matching_statement"),
        ("\u{0}", "no_matching_statement"),
    ] {
        assert_eq!(
            reason(&app.ask(&secret, "ToggleFlag", resource).await),
            expected,
            "{resource:?}"
        );
    }
    let mut odd_type = question(token(&secret), json!({}));
    odd_type["resource"]["type"] = json!("spaceship");
    assert_eq!(reason(&app.evaluate(odd_type).await.body), "allowed");
}

/// Tried: `is_in_scope` taken out.
#[tokio::test(flavor = "multi_thread")]
async fn a_personal_token_may_do_what_its_creator_may_and_its_scope_only_narrows_that() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let (_, whole) = developer.personal_token("whole").await;
    let scope = json!([
        statement("s", "allow", "ToggleFlag", FLAGS),
        statement("s", "allow", "CanManageIAM", "iam/*")
    ]);
    let (_, narrow) = developer
        .token(json!({ "name": "narrow", "type": "Personal", "permissions": scope }))
        .await;
    for (secret, action, resource, expected) in [
        (&whole, "DeleteFlag", FLAG, "allowed"),
        (&whole, "CanManageIAM", "iam/*", "no_matching_statement"),
        (&narrow, "ToggleFlag", FLAG, "allowed"),
        (&narrow, "DeleteFlag", FLAG, "outside_token_scope"),
        (&narrow, "CanManageIAM", "iam/*", "no_matching_statement"),
    ] {
        let answer = app.ask(secret, action, resource).await;
        assert_eq!(reason(&answer), expected, "{action} on {resource}");
    }
}

/// Tried: `changed` called for `Added` alone.
#[tokio::test(flavor = "multi_thread")]
async fn permission_taken_from_a_member_is_gone_from_its_personal_tokens_at_once_and_from_no_service_token() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let (_, personal) = developer.personal_token("mine").await;
    let (_, service) = developer.service_token("bot", "ToggleFlag", FLAGS).await;
    let revoke = |permission: &'static str, resources: &'static str| {
        tell(
            &app,
            "PermissionRevoked",
            &developer,
            json!({ "permission": permission, "resources": [resources] }),
        )
    };
    revoke("ToggleFlag", "project/*:env/prod:flag/*").await;
    assert_eq!(why(&app, &personal).await, "no_matching_statement");
    assert_eq!(reason(&app.ask(&personal, "ToggleFlag", OTHER).await), "allowed");
    assert_eq!(
        reason(&app.evaluate(question(member(&developer), json!({}))).await.body),
        "no_matching_statement"
    );
    // Granted again, with a deny beside it, and then everything on flags taken by FeatBit's old group name.
    let grant = json!({ "statements": [statement("back", "allow", "ToggleFlag", FLAGS)] });
    tell(&app, "PermissionGranted", &developer, grant).await;
    assert_eq!(why(&app, &personal).await, "allowed");
    let denied = json!({ "statements": [statement("no", "deny", "ToggleFlag", "project/web")] });
    tell(&app, "PermissionGranted", &developer, denied).await;
    assert_eq!(why(&app, &personal).await, "denied_by_statement");
    revoke("ManageFeatureFlag", "*").await;
    assert_eq!(
        reason(&app.ask(&personal, "CreateFlag", OTHER).await),
        "no_matching_statement"
    );
    assert_eq!(why(&app, &service).await, "allowed");
    tell(
        &app,
        "PermissionsReplaced",
        &developer,
        json!({ "statements": [] }),
    )
    .await;
    assert_eq!(why(&app, &personal).await, "no_matching_statement");
    assert_eq!(why(&app, &service).await, "allowed");
}
