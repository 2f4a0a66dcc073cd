//! What a token could do at some time: `GET /access-tokens/{id}/permissions?at=`.

mod random;
mod times;

use chrono::SecondsFormat;
use domain::authorization::Reason;
use domain::ids::OrganizationId;
use projections::as_of::token_as_of;

use super::*;
use crate::support::TestDatabase;

async fn permissions(actor: &Actor, id: &str, at_query: &str) -> Answer {
    actor.get(&format!("{}/permissions{at_query}", at(id))).await
}

/// What is said of a token at a position.
async fn as_of(actor: &Actor, id: &str, position: i64) -> Value {
    let answer = permissions(actor, id, &format!("?at={position}")).await;
    assert_eq!(answer.status, 200, "at {position}: {}", answer.text);
    assert_eq!(answer.body["data"]["position"], position);
    answer.body["data"].clone()
}

async fn recorded_at(app: &TestApp, position: i64) -> DateTime<Utc> {
    sqlx::query_scalar("select recorded_at from events where position = $1")
        .bind(position)
        .fetch_one(&app.database.pool)
        .await
        .unwrap()
}

async fn database_time(app: &TestApp) -> DateTime<Utc> {
    sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(&app.database.pool)
        .await
        .unwrap()
}

/// The position of the only event of this type, or of the last one.
async fn last(app: &TestApp, event_type: &str) -> i64 {
    sqlx::query_scalar("select max(position) from events where event_type = $1")
        .bind(event_type)
        .fetch_one(&app.database.pool)
        .await
        .unwrap()
}

async fn tell(app: &TestApp, member: &Actor, kind: &str, data: Value) -> i64 {
    app.tell(&[cloud_event(kind, member.organization_id, member.member_id, data)])
        .await;
    let stream = format!("{}:{}", member.organization_id, member.member_id);
    sqlx::query_scalar(
        "select max(position) from events where aggregate_type = 'member' and aggregate_id = $1",
    )
    .bind(stream)
    .fetch_one(&app.database.pool)
    .await
    .unwrap()
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn named(id: &str, action: &str, resource: &str) -> Value {
    json!({ "id": id, "resourceType": "flag", "effect": "allow", "actions": [action], "resources": [resource] })
}

/// Status, usable, reason.
fn state(data: &Value) -> Value {
    json!([data["status"], data["usable"], data["reason"]])
}

/// Tried: streams read to their end, whatever `at` is.
#[tokio::test(flavor = "multi_thread")]
async fn a_personal_token_could_do_what_its_creator_could_do_then() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let member = member_who_may(&app, &[("ManagePersonalAccessTokens", "access-token/*")]).await;
    let statements = json!([
        named("manage", "ManagePersonalAccessTokens", "access-token/*"),
        named("toggle", "ToggleFlag", FLAGS)
    ]);
    let stated = tell(
        &app,
        &member,
        "PermissionsReplaced",
        json!({ "statements": statements }),
    )
    .await;
    let narrowing = allow("ToggleFlag", FLAG);
    let (id, _) = member
        .token(json!({ "name": "mine", "type": "Personal", "permissions": [narrowing] }))
        .await;
    let created = last(&app, "access_token.created").await;
    let everywhere = json!({ "permission": "ToggleFlag" });
    let revoked = tell(&app, &member, "PermissionRevoked", everywhere).await;
    let in_prod = json!({ "permission": "*", "resources": ["project/*:env/prod:flag/*"] });
    let again = tell(&app, &member, "PermissionRevoked", in_prod).await;
    let more = json!({ "statements": [named("later", "ToggleFlag", FLAG)] });
    let granted = tell(&app, &member, "PermissionGranted", more).await;
    let removed = tell(&app, &member, "MemberRemoved", json!({})).await;

    let manage = |revoked: Value| {
        let mut statement = named("manage", "ManagePersonalAccessTokens", "access-token/*");
        statement["position"] = json!(stated);
        if !revoked.is_null() {
            statement["revoked"] = revoked;
        }
        statement
    };
    let toggle = |revoked: Value| {
        let mut statement = named("toggle", "ToggleFlag", FLAGS);
        statement["position"] = json!(stated);
        if !revoked.is_null() {
            statement["revoked"] = revoked;
        }
        statement
    };
    let first = json!({ "permission": "ToggleFlag", "resources": null, "position": revoked });
    let second = json!({ "permission": "*", "resources": ["project/*:env/prod:flag/*"], "position": again });
    let mut later = named("later", "ToggleFlag", FLAG);
    later["position"] = json!(granted);
    let none = Value::Null;
    for (position, expected) in [
        (created, vec![manage(none.clone()), toggle(none.clone())]),
        (
            revoked,
            vec![manage(none.clone()), toggle(json!([first.clone()]))],
        ),
        (
            again,
            vec![
                manage(none.clone()),
                toggle(json!([first.clone(), second.clone()])),
            ],
        ),
        (
            granted,
            vec![manage(none.clone()), toggle(json!([first, second])), later],
        ),
    ] {
        let data = as_of(&owner, &id, position).await;
        assert_eq!(data["statements"], Value::from(expected), "at {position}");
        assert_eq!(state(&data), json!(["Active", true, null]), "at {position}");
        assert_eq!(data["time"], json!(recorded_at(&app, position).await));
        assert_eq!(data["scope"][0]["resources"], json!([FLAG]));
        assert!(data["scope"][0].get("position").is_none(), "a plain statement");
    }
    let data = as_of(&owner, &id, removed).await;
    assert_eq!(state(&data), json!(["Inactive", false, "creator_not_a_member"]));
    assert_eq!(data["statements"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_these_fields_in_this_order() {
    let app = TestApp::start().await;
    let (id, _) = app.owner().service_token("bot", "ToggleFlag", FLAG).await;
    let position = head(&app).await;
    let text = permissions(&app.owner(), &id, &format!("?at={position}"))
        .await
        .text;
    let time = serde_json::to_string(&recorded_at(&app, position).await).unwrap();
    let data: Value = serde_json::from_str(&text).unwrap();
    let statement_id = &data["data"]["statements"][0]["id"];
    assert_eq!(
        text,
        format!(
            "{{\"success\":true,\"errors\":[],\"data\":{{\"position\":{position},\"time\":{time},\"status\":\"Active\",\
             \"usable\":true,\"reason\":null,\"statements\":[{{\"id\":{statement_id},\"resourceType\":\"flag\",\
             \"effect\":\"allow\",\"actions\":[\"ToggleFlag\"],\"resources\":[\"{FLAG}\"],\"position\":{position}}}],\
             \"scope\":null}}}}"
        )
    );
}

/// Tried: streams read to their end, whatever `at` is.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_token_has_its_own_statements_whatever_becomes_of_its_creator() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let (id, _) = developer.service_token("bot", "ToggleFlag", FLAG).await;
    let created = last(&app, "access_token.created").await;
    tell(
        &app,
        &developer,
        "PermissionRevoked",
        json!({ "permission": "*" }),
    )
    .await;
    let gone = tell(&app, &developer, "MemberRemoved", json!({})).await;
    owner.put(&format!("{}/deactivate", at(&id)), json!({})).await;
    let stopped = head(&app).await;
    for (position, expected) in [
        (created, json!(["Active", true, null])),
        (gone, json!(["Active", true, null])),
        (stopped, json!(["Inactive", false, "token_inactive"])),
    ] {
        let data = as_of(&owner, &id, position).await;
        assert_eq!(state(&data), expected, "at {position}");
        assert_eq!(data["statements"][0]["position"], created);
        assert_eq!(data["statements"][0]["resources"], json!([FLAG]));
        assert_eq!(data["scope"], Value::Null);
    }
}

/// Tried: streams read to their end, whatever `at` is.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_token_is_answered_for_as_of_before_and_since() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let (id, _) = developer.personal_token("mine").await;
    let created = last(&app, "access_token.created").await;
    developer.delete(&at(&id)).await;
    let removed = last(&app, "access_token.removed").await;
    assert_eq!(owner.get(&at(&id)).await.status, 404);
    let before = as_of(&owner, &id, created).await;
    assert_eq!(state(&before), json!(["Active", true, null]));
    let after = as_of(&owner, &id, removed).await;
    assert_eq!(state(&after), json!(["Inactive", false, "token_removed"]));
    assert_eq!(after["statements"], before["statements"], "its creator's");
    let now = permissions(&owner, &id, "").await;
    assert_eq!((now.status, &now.body["data"]["usable"]), (200, &json!(false)));
}

/// Tried: the organization's stream left out.
#[tokio::test(flavor = "multi_thread")]
async fn with_its_organization_every_token_is_removed_at_once() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (personal, _) = owner.personal_token("mine").await;
    let (service, _) = owner.service_token("bot", "ToggleFlag", FLAG).await;
    let before = head(&app).await;
    let organization_id = app.organization_id;
    let mut removal = cloud_event(
        "OrganizationRemoved",
        organization_id,
        Uuid::nil().into(),
        json!({}),
    );
    removal["data"].as_object_mut().unwrap().remove("memberId");
    app.tell(&[removal]).await;
    let removed = last(&app, "organization.removed").await;
    let all = json!([{ "resourceType": "*", "effect": "allow", "actions": ["*"], "resources": ["*"] }]);
    add(&app, owner.member_id, all).await;
    for id in [&personal, &service] {
        let data = as_of(&owner, id, before).await;
        assert_eq!(state(&data), json!(["Active", true, null]));
        let data = as_of(&owner, id, removed).await;
        assert_eq!(state(&data), json!(["Inactive", false, "token_removed"]));
        let now = permissions(&owner, id, "").await.body["data"].clone();
        assert_eq!(state(&now), json!(["Inactive", false, "token_removed"]));
    }
    let data = as_of(&owner, &personal, removed).await;
    assert_eq!(data["statements"], json!([]), "its creator is no member");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_creator_leaves_the_status_and_takes_the_use() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let (id, _) = developer.personal_token("mine").await;
    let before = head(&app).await;
    let parked = cloud_event("Nonsense", app.organization_id, developer.member_id, json!({}));
    assert_eq!(app.tell(&[parked]).await.parked, 1);
    let blocked = last(&app, "member.blocked").await;
    assert_eq!(
        state(&as_of(&app.owner(), &id, before).await),
        json!(["Active", true, null])
    );
    assert_eq!(
        state(&as_of(&app.owner(), &id, blocked).await),
        json!(["Active", false, "member_blocked"])
    );
}

/// Tried: streams read to their end; without the comparison of organizations in `token_as_of`.
#[tokio::test(flavor = "multi_thread")]
async fn before_it_was_made_and_in_another_organization_there_is_no_token() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("mine").await;
    let created = last(&app, "access_token.created").await;
    let not_found = errors(&["ResourceNotFound"]);
    as_of(&owner, &id, created).await;
    for position in [created - 1, 1, 0] {
        let answer = permissions(&owner, &id, &format!("?at={position}")).await;
        assert_eq!(
            (answer.status, answer.body),
            (404, not_found.clone()),
            "{position}"
        );
    }
    let strangers = permissions(&app.stranger(), &id, "").await;
    assert_eq!((strangers.status, strangers.body), (404, not_found.clone()));
    for unknown in [
        &Uuid::new_v4().to_string(),
        "no-uuid",
        &owner.member_id.to_string(),
    ] {
        let answer = permissions(&owner, unknown, "").await;
        assert_eq!((answer.status, &answer.body), (404, &not_found), "{unknown}");
    }
}

/// Tried: without `known.must(may_list)`.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_list_tokens_may_ask_and_nobody_else() {
    let app = TestApp::start().await;
    let (id, secret) = app.owner().service_token("bot", "ToggleFlag", FLAG).await;
    let lister = member_who_may(&app, &[("ListAccessTokens", "access-token/*")]).await;
    let manager = member_who_may(&app, &[("ManageServiceAccessTokens", "access-token/*")]).await;
    let token = app.with_authorization(app.organization_id, app.owner().member_id, &secret);
    let no_jwt = app.with_authorization(app.organization_id, app.owner().member_id, "Bearer nonsense");
    for (nth, (actor, status, code)) in [
        (app.owner(), 200, ""),
        (app.administrator(), 200, ""),
        (app.developer(), 200, ""),
        (lister, 200, ""),
        (manager, 403, "Forbidden"),
        (app.nobody(), 403, "Forbidden"),
        (app.intruder(), 403, "Forbidden"),
        (token, 403, "Forbidden"),
        (no_jwt, 401, "Unauthorized"),
        (app.stranger(), 404, "ResourceNotFound"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = permissions(&actor, &id, "").await;
        assert_eq!((answer.status, answer.code()), (status, code), "actor {nth}");
        if status == 403 {
            let garbage = permissions(&actor, &id, "?at=garbage").await;
            assert_eq!(garbage.status, 403, "who may not ask is told nothing else");
        }
    }
    let nobody = app.request(Method::GET, &format!("/api/v1{}/permissions", at(&id)));
    let answer = Answer::of(nobody).await;
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (401, "Bearer")
    );
}

/// What commands refuse, but two nodes may come to: the token of somebody whose organization was removed a moment before.
///
/// Tried: the creator's stream left out for service tokens; without the removal in `AsOf::apply_to_token`.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_made_right_after_its_organization_was_removed_is_removed() {
    let database = TestDatabase::new().await;
    let organization_id = OrganizationId::from(Uuid::new_v4());
    let (member_id, token_id) = (Uuid::new_v4(), Uuid::new_v4());
    let member = format!("{organization_id}:{member_id}");
    let added = json!({ "event": "member.added", "organizationId": organization_id, "memberId": member_id, "arrival": 1,
                        "membershipNumber": 1, "statements": [] });
    let removed = json!({ "event": "organization.removed", "organizationId": organization_id });
    let created = json!({ "event": "access_token.created", "tokenId": token_id, "organizationId": organization_id,
                          "creatorId": member_id, "membershipNumber": 1, "name": "late", "tokenType": "Service",
                          "statements": [], "description": null, "expiresAt": null, "allowedIps": [],
                          "digest": "00".repeat(32), "hint": "" });
    for (position, aggregate_type, aggregate_id, payload) in [
        (1_i64, "member", member, added),
        (2, "organization", organization_id.to_string(), removed),
        (3, "access_token", token_id.to_string(), created),
    ] {
        sqlx::query(
            "insert into events values ($1, $2, $3, 1, $4, '1.0.0', $5, '{}', $6, now(), sha256(''))",
        )
        .bind(position)
        .bind(aggregate_type)
        .bind(aggregate_id)
        .bind(payload["event"].as_str().unwrap())
        .bind(&payload)
        .bind(organization_id.as_uuid())
        .execute(&database.pool)
        .await
        .unwrap();
    }
    let mut connection = database.pool.acquire().await.unwrap();
    let as_of = token_as_of(&mut connection, Some(organization_id), token_id.into(), 3)
        .await
        .unwrap()
        .expect("a token");
    assert_eq!(as_of.unusable_because(Utc::now()), Some(Reason::TokenRemoved));
}
