//! Whether a token can be used at all, and the reason that comes first.

use super::*;

/// Tried: `changed` called for `Added` alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_creators_personal_tokens_die_at_once_and_stay_dead_until_each_is_activated() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let (first, first_secret) = developer.personal_token("first").await;
    let (second, second_secret) = developer.personal_token("second").await;
    let (_, service) = developer.service_token("bot", "ToggleFlag", FLAGS).await;

    tell(&app, "MemberRemoved", &developer, json!({})).await;
    assert_eq!(why(&app, &first_secret).await, "creator_not_a_member");
    assert_eq!(why(&app, &service).await, "allowed", "a service token lives on");
    // What the reactor appends later never changes the reason.
    written_down(&app, &first, "creator_removed").await;
    written_down(&app, &second, "creator_removed").await;
    assert_eq!(why(&app, &first_secret).await, "creator_not_a_member");

    add_again(&app, &developer).await;
    assert_eq!(why(&app, &first_secret).await, "token_inactive");
    assert_eq!(why(&app, &second_secret).await, "token_inactive");
    put(&developer, &first, "activate").await;
    assert_eq!(why(&app, &first_secret).await, "allowed");
    assert_eq!(
        why(&app, &second_secret).await,
        "token_inactive",
        "each on its own"
    );
    let (_, new) = developer.personal_token("new").await;
    assert_eq!(why(&app, &new).await, "allowed");
}

/// Removed and added again in one poll, so that nobody could have looked in between: the number of the membership tells.
/// Tried: `membership_number` not compared in `usability`.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_added_again_before_anybody_looked_revives_nothing() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let (id, secret) = developer.personal_token("mine").await;
    let statements = json!([statement("all", "allow", "*", "*")]);
    let back = json!({ "name": "Dana", "email": "dana@tests.example", "statements": statements });
    let (organization_id, member_id) = (developer.organization_id, developer.member_id);
    app.tell(&[
        cloud_event("MemberRemoved", organization_id, member_id, json!({})),
        cloud_event("MemberAdded", organization_id, member_id, back),
    ])
    .await;
    assert_eq!(why(&app, &secret).await, "token_inactive");
    written_down(&app, &id, "creator_removed").await;
    assert_eq!(why(&app, &secret).await, "token_inactive");
    put(&developer, &id, "activate").await;
    assert_eq!(why(&app, &secret).await, "allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_stopped_removed_or_unknown_says_which() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, secret) = owner.service_token("bot", "ToggleFlag", FLAGS).await;
    put(&owner, &id, "deactivate").await;
    assert_eq!(why(&app, &secret).await, "token_inactive");
    put(&owner, &id, "activate").await;
    assert_eq!(why(&app, &secret).await, "allowed");
    assert_eq!(owner.delete(&format!("/access-tokens/{id}")).await.status, 200);
    assert_eq!(why(&app, &secret).await, "token_removed");
    assert_eq!(why(&app, &id).await, "token_removed");

    let (_, other) = owner.personal_token("another").await;
    let mut wrong_checksum = other.clone();
    wrong_checksum.replace_range(10..11, if &other[10..11] == "a" { "b" } else { "a" });
    for unknown in [
        "",
        "api-p_",
        &wrong_checksum,
        &other[..47],
        &format!("{other} "),
        &other.to_uppercase(),
        &Uuid::new_v4().to_string(),
        "api-AAAAAAAAAAAAAAAAAABBBBBBBBBBBBBBBBBBBBBB",
        "\u{0}",
    ] {
        assert_eq!(why(&app, unknown).await, "unknown_token", "{unknown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_expired_before_and_after_the_reactor_writes_it_down() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let expires_at = Utc::now() + TimeDelta::minutes(5);
    let body = json!({ "name": "bot", "type": "Service", "permissions": [statement("s", "allow", "ToggleFlag", FLAGS)],
                       "expiresAt": expires_at });
    let (id, secret) = owner.token(body).await;
    assert_eq!(why(&app, &secret).await, "allowed");
    app.expire(&owner, &id).await;
    assert_eq!(why(&app, &secret).await, "token_expired");
    written_down(&app, &id, "expired").await;
    assert_eq!(why(&app, &secret).await, "token_expired");
}

/// Tried: a question without an address let through; `to_canonical` taken out.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_addresses_is_good_from_these_alone_and_v4_in_v6_is_v4() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let listed = async |name: &str, addresses: Value| {
        let body = json!({ "name": name, "type": "Service", "allowedIps": addresses,
                           "permissions": [statement("s", "allow", "ToggleFlag", FLAGS)] });
        owner.token(body).await.1
    };
    let v4 = listed("v4", json!(["10.0.0.0/8"])).await;
    let mapped = listed("mapped", json!(["::ffff:10.0.0.0/104"])).await;
    let v6 = listed("v6", json!(["2001:db8::/32"])).await;
    for (secret, address, expected) in [
        (&v4, json!("10.255.255.255"), "allowed"),
        (&v4, json!("::ffff:10.0.0.1"), "allowed"),
        (&v4, json!("::ffff:a00:1"), "allowed"),
        (&v4, json!(" 10.0.0.1 "), "allowed"),
        (&v4, json!("11.0.0.0"), "ip_not_allowed"),
        (&v4, json!("::ffff:11.0.0.0"), "ip_not_allowed"),
        (&v4, json!("::10.0.0.1"), "ip_not_allowed"),
        (&v4, json!("10.0.0.1:443"), "ip_not_allowed"),
        (&v4, json!("10.0.0.1, 11.0.0.1"), "ip_not_allowed"),
        (&v4, json!("010.0.0.1"), "ip_not_allowed"),
        (&v4, json!(""), "ip_not_allowed"),
        (&v4, json!(167_772_161), "ip_not_allowed"),
        (&v4, Value::Null, "ip_not_allowed"),
        (&mapped, json!("10.0.0.1"), "allowed"),
        (&mapped, json!("::ffff:10.0.0.1"), "allowed"),
        (&mapped, json!("11.0.0.1"), "ip_not_allowed"),
        (&v6, json!("2001:db8:ffff::1"), "allowed"),
        (&v6, json!("2001:db9::1"), "ip_not_allowed"),
        (&v6, json!("10.0.0.1"), "ip_not_allowed"),
    ] {
        assert_eq!(
            why_from(&app, secret, address.clone()).await,
            expected,
            "{address}"
        );
    }
    assert_eq!(why(&app, &v4).await, "ip_not_allowed", "no context at all");
    let (_, from_everywhere) = owner.service_token("free", "ToggleFlag", FLAGS).await;
    assert_eq!(
        why_from(&app, &from_everywhere, json!("no address")).await,
        "allowed"
    );
}

/// A message about a member that can't be used: what the member may do is not known, so it is denied. Its service tokens
/// don't depend on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_member_and_its_personal_tokens_are_denied() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let (_, personal) = developer.personal_token("mine").await;
    let (_, service) = developer.service_token("bot", "ToggleFlag", FLAGS).await;
    tell(&app, "PermissionRevoked", &developer, json!({ "permission": 7 })).await;
    assert_eq!(why(&app, &personal).await, "member_blocked");
    assert_eq!(
        reason(&app.evaluate(question(member(&developer), json!({}))).await.body),
        "member_blocked"
    );
    assert_eq!(why(&app, &service).await, "allowed");
    assert_eq!(
        developer.get("/access-tokens").await.status,
        403,
        "it manages nothing either"
    );
}

/// Tried: expiry looked at after membership; membership after status; addresses before anything else.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_reason_that_applies_is_given() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    // Everything is wrong with it: then one thing after the other is put right.
    let body = json!({ "name": "all wrong", "type": "Personal", "allowedIps": ["10.0.0.1"],
                       "permissions": [statement("s", "allow", "CreateFlag", FLAGS)] });
    let (id, secret) = developer.token(body).await;
    put(&developer, &id, "deactivate").await;
    app.expire(&developer, &id).await;
    tell(&app, "MemberRemoved", &developer, json!({})).await;
    assert_eq!(why(&app, &secret).await, "token_expired");

    let (other, other_secret) = owner
        .token(
            json!({ "name": "same, later", "type": "Personal", "allowedIps": ["10.0.0.1"],
                       "permissions": [statement("s", "allow", "CreateFlag", FLAGS)] }),
        )
        .await;
    put(&owner, &other, "deactivate").await;
    tell(&app, "MemberRemoved", &owner, json!({})).await;
    assert_eq!(why(&app, &other_secret).await, "creator_not_a_member");
    let deny = statement("no", "deny", "ToggleFlag", FLAGS);
    let tokens = statement("tokens", "allow", "*", "access-token/*");
    let back = json!({ "name": "Olga", "email": "olga@tests.example", "statements": [deny, tokens] });
    tell(&app, "MemberAdded", &owner, back).await;
    assert_eq!(why(&app, &other_secret).await, "token_inactive");
    put(&owner, &other, "activate").await;
    assert_eq!(
        why_from(&app, &other_secret, json!("10.0.0.2")).await,
        "ip_not_allowed"
    );
    let from = json!("10.0.0.1");
    assert_eq!(
        why_from(&app, &other_secret, from.clone()).await,
        "denied_by_statement"
    );
    tell(
        &app,
        "PermissionsReplaced",
        &owner,
        json!({ "statements": [tokens] }),
    )
    .await;
    assert_eq!(
        why_from(&app, &other_secret, from.clone()).await,
        "no_matching_statement"
    );
    let all = statement("all", "allow", "*", "*");
    tell(
        &app,
        "PermissionsReplaced",
        &owner,
        json!({ "statements": [all] }),
    )
    .await;
    assert_eq!(why_from(&app, &other_secret, from).await, "outside_token_scope");
    owner.delete(&format!("/access-tokens/{other}")).await;
    assert_eq!(why(&app, &other_secret).await, "token_removed");
    let ahead = question(token(&other_secret), json!({ "atLeastPosition": i64::MAX }));
    assert_eq!(reason(&app.evaluate(ahead).await.body), "stale_replica");
}
