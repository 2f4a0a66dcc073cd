//! Introspection by RFC 7662: of a live token all there is, of any other nothing.

use super::*;

async fn introspect(app: &TestApp, form: &[(&str, &str)]) -> Answer {
    Answer::of(app.introspect(form)).await
}

async fn is_live(app: &TestApp, secret: &str) -> bool {
    let answer = introspect(app, &[("token", secret)]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"));
    let is_live = answer.body["active"] == true;
    assert!(is_live || answer.text == r#"{"active":false}"#, "{}", answer.text);
    is_live
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_token_is_told_with_whose_it_is() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let before = Utc::now().timestamp();
    let expires_at = Utc::now() + TimeDelta::minutes(5);
    let body = json!({ "name": "bot", "type": "Service", "expiresAt": expires_at,
                       "permissions": [statement("allow", "ToggleFlag", FLAGS)] });
    let (id, secret) = developer.token(body).await;
    let answer = introspect(&app, &[("token", &secret), ("token_type_hint", "access_token")]).await;
    let made_at = answer.body["iat"].as_i64().unwrap();
    assert!((before..=Utc::now().timestamp()).contains(&made_at), "{made_at}");
    let expected = json!({ "active": true, "sub": developer.member_id, "client_id": id, "token_type": "Service",
                           "iat": made_at, "exp": expires_at.timestamp(), "org": app.organization_id });
    assert_eq!((answer.status, answer.body), (200, expected));

    // Not narrowed by what it may do: a token that may do nothing is one.
    let (_, personal) = app.owner().personal_token("mine").await;
    let (organization_id, member_id) = (app.organization_id, app.owner().member_id);
    let nothing = json!({ "statements": [] });
    app.tell(&[cloud_event(
        "PermissionsReplaced",
        organization_id,
        member_id,
        nothing,
    )])
    .await;
    let answer = introspect(&app, &[("token", &personal)]).await;
    assert_eq!(
        (&answer.body["active"], &answer.body["token_type"]),
        (&json!(true), &json!("Personal"))
    );
    assert!(answer.body.get("exp").is_none(), "{}", answer.text);
}

/// Tried: `TokenInactive`, `CreatorNotAMember` and `MemberBlocked` called usable.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_token_that_is_not_live_nothing_is_told() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (inactive, inactive_secret) = owner.personal_token("inactive").await;
    assert!(is_live(&app, &inactive_secret).await);
    deactivate(&owner, &inactive).await;
    let (removed, removed_secret) = owner.personal_token("removed").await;
    owner.delete(&format!("/access-tokens/{removed}")).await;
    let (expired, expired_secret) = owner.personal_token("expired").await;
    app.expire(&owner, &expired).await;
    let (rotated, rotated_secret) = owner.personal_token("rotated").await;
    let rotate = owner
        .post(&format!("/access-tokens/{rotated}/rotate"), json!({}))
        .await;
    assert_eq!(rotate.status, 200);
    let new_secret = rotate.body["data"]["token"].as_str().unwrap();
    assert!(is_live(&app, new_secret).await);
    let (_, orphan) = app.developer().personal_token("orphan").await;
    let (_, blocked) = app.administrator().personal_token("blocked").await;
    let organization_id = app.organization_id;
    app.tell(&[
        cloud_event(
            "MemberRemoved",
            organization_id,
            app.developer().member_id,
            json!({}),
        ),
        cloud_event(
            "PermissionRevoked",
            organization_id,
            app.administrator().member_id,
            json!({ "permission": 7 }),
        ),
    ])
    .await;
    let jwt = jwt(owner.member_id, Utc::now() + TimeDelta::minutes(5));
    for secret in [
        &inactive_secret,
        &removed_secret,
        &expired_secret,
        &rotated_secret,
        &orphan,
        &blocked,
        &rotated,
        &jwt,
        "nobody's",
        &format!(" {new_secret}"),
        &format!("Bearer {new_secret}"),
        &Uuid::new_v4().to_string(),
    ] {
        assert!(!is_live(&app, secret).await, "{secret}");
    }
}

/// Tried: `IpNotAllowed` called usable.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_addresses_is_live_from_these_alone() {
    let app = TestApp::start().await;
    let body = json!({ "name": "bot", "type": "Personal", "allowedIps": ["203.0.113.0/24"] });
    let (_, secret) = app.owner().token(body).await;
    for (ip, expected) in [
        (Some("203.0.113.7"), true),
        (Some("::ffff:203.0.113.7"), true),
        (Some("198.51.100.1"), false),
        (Some("nowhere"), false),
        (Some(""), false),
        (None, false),
    ] {
        let mut form = vec![("token", secret.as_str())];
        form.extend(ip.map(|ip| ("ip", ip)));
        let answer = introspect(&app, &form).await;
        assert_eq!(answer.body["active"], expected, "{ip:?}");
    }
    let request = app.introspect(&[("token", &secret)]);
    let answer = Answer::of(request.header("x-forwarded-for", "203.0.113.7")).await;
    assert_eq!(
        answer.body["active"], false,
        "only the form says where it was presented"
    );
}

/// As OAuth 2.0 says errors.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_form_with_one_token_is_an_invalid_request() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().personal_token("mine").await;
    let form = "application/x-www-form-urlencoded";
    let good = format!("token={secret}");
    for (content_type, body, expected) in [
        (Some(form), good.clone(), 200),
        (
            Some("Application/X-WWW-Form-URLencoded; charset=utf-8"),
            good.clone(),
            200,
        ),
        (Some(form), format!("a&&b=%ff&{good}&c=&c="), 200),
        (Some("application/json"), good.clone(), 400),
        (None, good.clone(), 400),
        (Some(form), String::new(), 400),
        (Some(form), "token".to_owned(), 400),
        (Some(form), "token=".to_owned(), 400),
        (Some(form), format!("Token={secret}"), 400),
        (Some(form), format!("{good}&{good}"), 400),
        (Some(form), format!("{good}&ip=1.2.3.4&ip=1.2.3.4"), 400),
        (Some(form), format!("{good}&x={}", "x".repeat(257 * 1024)), 413),
    ] {
        let mut request = app.request(Method::POST, "/oauth2/introspect").body(body.clone());
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, expected, "{content_type:?} {body:.100}");
        let said = match expected {
            200 => (&answer.body["active"], json!(true)),
            _ => (&answer.body, json!({ "error": "invalid_request" })),
        };
        assert_eq!(*said.0, said.1, "{content_type:?} {body:.100}");
    }
    let in_path = format!("/oauth2/introspect?token={secret}");
    assert_eq!(Answer::of(app.request(Method::GET, &in_path)).await.status, 405);
    assert_eq!(Answer::of(app.request(Method::POST, &in_path)).await.status, 400);
}

/// Tried: the position not handed on.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_for_gateways_and_no_token_is_live_that_the_node_can_not_vouch_for() {
    let app = node(vec![("GATEWAY_KEYS", "the-key".to_owned())]).await;
    let (_, secret) = app.owner().personal_token("mine").await;
    let ask = |key: &'static str, position: &'static str| {
        let request = app.introspect(&[("token", &secret)]);
        Answer::of(
            request
                .header("x-gateway-key", key)
                .header("x-at-least-position", position),
        )
    };
    for (key, position, status, field, value) in [
        ("the-key", "0", 200, "active", json!(true)),
        ("the-key", "9223372036854775807", 200, "active", json!(false)),
        ("the-key", "soon", 400, "error", json!("invalid_request")),
        ("another", "0", 401, "error", json!("invalid_client")),
        ("", "0", 401, "error", json!("invalid_client")),
    ] {
        let answer = ask(key, position).await;
        assert_eq!(answer.status, status, "{key} {position}");
        assert_eq!(answer.body[field], value, "{key} {position}");
    }
}
