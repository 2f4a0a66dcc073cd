//! Would it have been allowed then, and what has a say in it: answered from the log. That it is what was decided live, at each
//! position of random lives, is tested in `management::as_of::random`.

use super::*;

async fn evaluate(app: &TestApp, subject: &Value, context: Value) -> Value {
    let answer = app.evaluate(question(subject.clone(), context)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

async fn then(app: &TestApp, subject: &Value, position: i64) -> String {
    let answer = evaluate(app, subject, json!({ "atPosition": position })).await;
    assert_eq!(answer["context"]["position"], position, "{answer}");
    reason(&answer)
}

fn position(app: &TestApp) -> i64 {
    app.app.index.position()
}

/// Tried: the position not handed on to `token_as_of`; `presented` not handed on.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_answered_as_it_would_have_been_then() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let before = position(&app);
    let (id, secret) = developer.personal_token("mine").await;
    let created = position(&app);
    tell(
        &app,
        "PermissionRevoked",
        &developer,
        json!({ "permission": "ToggleFlag" }),
    )
    .await;
    let revoked = position(&app);
    let rotated = developer
        .post(&format!("/access-tokens/{id}/rotate"), json!({}))
        .await;
    let new_secret = rotated.body["data"]["token"].as_str().unwrap().to_owned();
    app.catch_up().await;
    let after_rotation = position(&app);
    tell(&app, "MemberRemoved", &developer, json!({})).await;
    written_down(&app, &id, "creator_removed").await;
    let removed = position(&app);
    tell(
        &app,
        "MemberAdded",
        &developer,
        json!({ "name": "Dana", "email": "dana@tests.example", "statements": [statement("all", "allow", "*", "*")] }),
    )
    .await;
    put(&developer, &id, "activate").await;
    app.catch_up().await;
    let activated = position(&app);
    let (by_id, by_secret, by_old_secret) = (token(&id), token(&new_secret), token(&secret));
    let (unknown, mine) = ("unknown_token", member(&developer));
    for (at, token_then, secret_then, member_then) in [
        (0, unknown, unknown, "creator_not_a_member"),
        (before, unknown, unknown, "allowed"),
        (created, "allowed", unknown, "allowed"),
        (revoked, "no_matching_statement", unknown, "no_matching_statement"),
        (
            after_rotation,
            "no_matching_statement",
            "no_matching_statement",
            "no_matching_statement",
        ),
        (
            removed,
            "creator_not_a_member",
            "creator_not_a_member",
            "creator_not_a_member",
        ),
        (removed + 1, "token_inactive", "token_inactive", "allowed"),
        (activated, "allowed", "allowed", "allowed"),
    ] {
        assert_eq!(then(&app, &by_id, at).await, token_then, "{at}");
        assert_eq!(then(&app, &by_secret, at).await, secret_then, "{at}");
        assert_eq!(then(&app, &mine, at).await, member_then, "{at}");
        // Nobody has it any more, so nobody can say whose it was.
        assert_eq!(then(&app, &by_old_secret, at).await, unknown, "{at}");
        assert_eq!(then(&app, &token("nobody's"), at).await, unknown, "{at}");
    }
    // By the time of an event it is its position, to the microsecond.
    let recorded_at: chrono::DateTime<Utc> =
        sqlx::query_scalar("select recorded_at from events where position = $1")
            .bind(revoked)
            .fetch_one(&app.database.pool)
            .await
            .unwrap();
    for (at, expected) in [
        (recorded_at, "no_matching_statement"),
        (recorded_at - TimeDelta::microseconds(1), "allowed"),
        (Utc::now() - TimeDelta::days(1000), unknown),
    ] {
        let answer = evaluate(&app, &by_id, json!({ "atTime": at })).await;
        assert_eq!(reason(&answer), expected, "{at}");
    }
    // What has happened since changes nothing of it.
    assert_eq!(
        developer.delete(&format!("/access-tokens/{id}")).await.status,
        200
    );
    assert_eq!(then(&app, &by_id, activated).await, "allowed");
    assert_eq!(why(&app, &id).await, "token_removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_organizations_and_expiry_count_then_as_they_do_now() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let body = json!({ "name": "bot", "type": "Service", "allowedIps": ["10.0.0.0/8"],
                       "permissions": [statement("s", "allow", "ToggleFlag", FLAGS)] });
    let (id, _) = owner.token(body).await;
    let created = position(&app);
    app.expire(&owner, &id).await;
    let expired = position(&app);
    for (at, address, expected) in [
        (created, json!("10.0.0.1"), "allowed"),
        (created, json!("11.0.0.1"), "ip_not_allowed"),
        (created, Value::Null, "ip_not_allowed"),
        (expired, json!("10.0.0.1"), "token_expired"),
    ] {
        let context = json!({ "atPosition": at, "ipAddress": address });
        assert_eq!(
            reason(&evaluate(&app, &token(&id), context).await),
            expected,
            "{address}"
        );
    }
    let mut elsewhere = question(
        token(&id),
        json!({ "atPosition": created, "ipAddress": "10.0.0.1" }),
    );
    elsewhere["resource"]["properties"] = json!({ "organizationId": app.stranger().organization_id });
    assert_eq!(
        reason(&app.evaluate(elsewhere).await.body),
        "no_matching_statement"
    );
    let stranger = json!({ "type": "member", "id": owner.member_id,
                           "properties": { "organizationId": app.stranger().organization_id } });
    assert_eq!(then(&app, &stranger, created).await, "creator_not_a_member");
}

/// Tried: statements that don't match shown; the first revocation that takes anything for one that takes this.
#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_names_every_statement_its_pattern_and_what_put_it_in_force() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let scope = json!([
        statement("narrow", "allow", "ToggleFlag", "project/web"),
        statement("other", "allow", "DeleteFlag", FLAGS)
    ]);
    let all_in = position(&app);
    let (id, _) = developer
        .token(json!({ "name": "narrowed", "type": "Personal", "permissions": scope }))
        .await;
    let created = position(&app);
    let revoke = |resource: &'static str| json!({ "permission": "ToggleFlag", "resources": [resource] });
    tell(&app, "PermissionRevoked", &developer, revoke("project/*:env/dev")).await;
    tell(
        &app,
        "PermissionRevoked",
        &developer,
        revoke("project/*:env/prod"),
    )
    .await;
    let revoked = position(&app);
    let again = json!({ "statements": [
        { "id": "again", "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"],
          "resources": ["project/x", "project/*:env/prod:flag/d*;beta"] },
        { "resourceType": "*", "effect": "deny", "actions": [], "resources": [] },
    ] });
    tell(&app, "PermissionGranted", &developer, again).await;
    let granted = position(&app);
    let explained = async |subject: Value, at: Option<i64>| {
        let mut context = json!({ "explain": true });
        if let Some(at) = at {
            context["atPosition"] = json!(at);
        }
        let answer = evaluate(&app, &subject, context).await;
        let reason = reason(&answer);
        (reason, answer["context"]["statements"].clone())
    };
    let narrow = json!({ "source": "scope", "id": "narrow", "effect": "allow", "pattern": "project/web", "position": created });
    let first = json!({ "source": "member", "id": "developer-flag", "effect": "allow", "pattern": FLAGS });
    let with = |more: &[(&str, i64)]| {
        let mut first = first.clone();
        for (name, value) in more {
            first[name] = json!(value);
        }
        first
    };
    // The third of the five who were added at the start.
    let added = all_in - 2;
    let (before, since) = (
        with(&[("position", added)]),
        with(&[("position", added), ("revokedAt", revoked)]),
    );
    let regained = json!({ "source": "member", "id": "again", "effect": "allow",
                           "pattern": "project/*:env/prod:flag/d*;beta", "position": granted });
    let denies = json!({ "source": "member", "effect": "deny", "pattern": null, "position": granted });
    for (at, expected, statements) in [
        (Some(created), "allowed", json!([before, narrow])),
        (Some(revoked), "no_matching_statement", json!([since, narrow])),
        (
            Some(granted),
            "denied_by_statement",
            json!([since, regained, denies, narrow]),
        ),
        (
            None,
            "denied_by_statement",
            json!([since, regained, denies, narrow]),
        ),
    ] {
        assert_eq!(
            explained(token(&id), at).await,
            (expected.to_owned(), statements),
            "{at:?}"
        );
    }
    let of_member = explained(member(&developer), None).await;
    assert_eq!(
        of_member,
        ("denied_by_statement".to_owned(), json!([since, regained, denies]))
    );
    let (bot, _) = app.owner().service_token("bot", "ToggleFlag", FLAGS).await;
    let (why, statements) = explained(token(&bot), None).await;
    assert_eq!(
        (why.as_str(), &statements[0]["source"]),
        ("allowed", &json!("token"))
    );
    assert_eq!(statements[0]["position"], position(&app));
    assert_eq!(explained(token("nobody's"), None).await.1, json!([]));
    let quiet = evaluate(&app, &token(&id), json!({ "explain": false })).await;
    assert!(quiet["context"].get("statements").is_none(), "{quiet}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_to_come_or_can_not_be_read_is_said() {
    let app = TestApp::start().await;
    let (id, _) = app.owner().personal_token("mine").await;
    let later = Utc::now() + TimeDelta::minutes(5);
    for (context, why) in [
        (json!({ "atTime": later }), "context.atTime is still to come"),
        (
            json!({ "atTime": "yesterday" }),
            "context.atTime must be a time, as RFC 3339 has it",
        ),
        (
            json!({ "atTime": 7 }),
            "context.atTime must be a time, as RFC 3339 has it",
        ),
        (
            json!({ "atPosition": -1 }),
            "context.atPosition must be a position, from 0",
        ),
        (
            json!({ "atPosition": "1" }),
            "context.atPosition must be a position, from 0",
        ),
        (
            json!({ "explain": "yes" }),
            "context.explain must be true or false",
        ),
        (
            json!({ "atPosition": 1, "atTime": "2026-11-23T10:00:00Z" }),
            "context.atPosition and context.atTime exclude each other",
        ),
    ] {
        let answer = app.evaluate(question(token(&id), context.clone())).await;
        assert_eq!((answer.status, &answer.body), (400, &json!(why)), "{context}");
        // Of one among several, it is that one's error.
        let mut several = question(token(&id), json!({}));
        several["evaluations"] = json!([{}, { "context": context }, { "context": { "explain": true } }]);
        let request = app.request(Method::POST, "/access/v1/evaluations").json(&several);
        let answer = Answer::of(request).await;
        let answers = &answer.body["evaluations"];
        assert_eq!(answers[1]["context"]["error"]["message"], why, "{}", answer.text);
        assert_eq!(reason(&answers[0]), "allowed");
        assert_eq!(reason(&answers[2]), "allowed");
    }
    let ahead = json!({ "atPosition": position(&app) + 1 });
    assert_eq!(reason(&evaluate(&app, &token(&id), ahead).await), "stale_replica");
    let ahead = json!({ "explain": true, "atLeastPosition": i64::MAX });
    assert_eq!(reason(&evaluate(&app, &token(&id), ahead).await), "stale_replica");
}

/// The past is what it was, and the present is known up to now or not at all. Tried: without `is_open` in `from_log`.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_its_fence_explains_nothing_of_now() {
    let app = TestApp::start().await;
    let (id, _) = app.owner().personal_token("mine").await;
    let at = position(&app);
    let no_lease = "alter table leases rename to out_of_sight";
    app.database.pool.execute(no_lease).await.unwrap();
    eventually("the fence is closed", async || {
        (why(&app, &id).await == "stale_replica").then_some(())
    })
    .await;
    let explain = json!({ "explain": true });
    assert_eq!(
        reason(&evaluate(&app, &token(&id), explain).await),
        "stale_replica"
    );
    assert_eq!(then(&app, &token(&id), at).await, "allowed");
}

/// Nobody waits long for a log that can't be read, and nothing is allowed.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_log_it_is_denied() {
    let app = TestApp::start().await;
    let (id, _) = app.owner().personal_token("mine").await;
    let at = position(&app);
    assert_eq!(then(&app, &token(&id), at).await, "allowed");
    let hidden = "alter table events rename to out_of_sight";
    app.database.pool.execute(hidden).await.unwrap();
    for context in [json!({ "atPosition": at }), json!({ "explain": true })] {
        let mut several = question(token(&id), context);
        several["evaluations"] = json!(vec![json!({}); 100]);
        let request = app.request(Method::POST, "/access/v1/evaluations").json(&several);
        let answer = Answer::of(request).await;
        for answered in answer.body["evaluations"].as_array().unwrap() {
            assert_eq!(reason(answered), "stale_replica");
        }
    }
}
