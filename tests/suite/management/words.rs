//! Histories and the audit log in words a person reads.

use super::*;
use crate::support::{TestApp, cloud_event, eventually};

/// Tried: without the position of the creator's removal; the creator's own events told as in the audit log.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_told_in_words() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let (id, _) = developer.personal_token("my \"laptop\"").await;
    let token = at(&id);
    developer.put(&token, json!({ "name": "other", "description": "for ci", "expiresAt": "2026-12-31T00:00:00Z", "allowedIps": ["10.0.0.0/8"] })).await;
    developer
        .put(
            &token,
            json!({ "name": "other", "description": null, "expiresAt": null, "allowedIps": null }),
        )
        .await;
    owner.put(&format!("{token}/deactivate"), json!({})).await;
    developer.put(&format!("{token}/activate"), json!({})).await;
    developer.post(&format!("{token}/rotate"), json!({})).await;
    let tell = async |kind: &str, data: Value| {
        app.tell(&[cloud_event(kind, app.organization_id, developer.member_id, data)])
            .await;
    };
    let statement =
        json!({ "id": "s", "resourceType": "*", "effect": "allow", "actions": ["*"], "resources": ["*"] });
    tell("PermissionGranted", json!({ "statements": [statement] })).await;
    tell("PermissionRevoked", json!({ "permission": "ToggleFlag" })).await;
    tell(
        "PermissionRevoked",
        json!({ "permission": "*", "resources": ["a", "b", "c", "d", "e"] }),
    )
    .await;
    tell(
        "PermissionsReplaced",
        json!({ "statements": [statement, statement] }),
    )
    .await;
    tell("MemberRemoved", json!({})).await;
    let read = async || {
        let answer = owner.get(&format!("{token}/history?pageSize=100")).await;
        answer.body["data"]["items"].as_array().unwrap().clone()
    };
    let items = eventually("the reactor has answered", async || {
        let items = read().await;
        (items.last()?["event"] == "access_token.deactivated").then_some(items)
    })
    .await;
    let left_at = items
        .iter()
        .find(|item| item["event"] == "member.removed")
        .unwrap()["position"]
        .clone();
    let told: Vec<&str> = items.iter().map(|item| item["text"].as_str().unwrap()).collect();
    let deactivated = format!("deactivated: its creator left the organization (event {left_at})");
    assert_eq!(
        told,
        [
            "created: personal token \"my \"laptop\"\"",
            "renamed: \"other\"",
            "described anew",
            "expires on 2026-12-31 at 00:00:00 UTC",
            "may be used only from 10.0.0.0/8",
            "description taken away",
            "does not expire any more",
            "may be used from everywhere",
            "deactivated by a member",
            "activated",
            "another secret; the one before has ended",
            "its creator was granted 1 statement",
            "its creator lost ToggleFlag everywhere",
            "its creator lost everything on a, b, c and 2 more",
            "its creator may do from now on what 2 statements say, and nothing else",
            "its creator left the organization",
            &deactivated,
        ]
    );
    let audited = owner.get("/audit-logs?pageSize=3").await;
    let told: Vec<&str> = audited.body["data"]["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        told,
        [
            "deactivated: its creator left the organization",
            "left the organization",
            "may do from now on what 2 statements say, and nothing else",
        ]
    );
}

/// Tried: both streams read up to ten thousand events each, the creator's from its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_does_not_end_where_its_creators_is_long() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let (id, _) = developer.personal_token("ci").await;
    sqlx::query(
        "with last as (select * from events where aggregate_type = 'member' and aggregate_id = $1 order by sequence desc limit 1),
              head as (select max(position) as position from events)
         insert into events
         select head.position + n, 'member', $1, last.sequence + n, 'member.message_dropped', '1.0.0',
                json_build_object('event', 'member.message_dropped', 'organizationId', last.organization_id,
                    'memberId', $2, 'parkedId', gen_random_uuid(), 'reason', 'malformed'),
                last.metadata, last.organization_id, clock_timestamp(), sha256(n::text::bytea)
         from last, head, generate_series(1, 10010) n",
    )
    .bind(format!("{}:{}", app.organization_id, developer.member_id))
    .bind(developer.member_id.as_uuid())
    .execute(&app.database.pool)
    .await
    .unwrap();
    app.tell(&[cloud_event(
        "MemberRemoved",
        app.organization_id,
        developer.member_id,
        json!({}),
    )])
    .await;
    let history = eventually("the reactor has answered", async || {
        let answer = owner
            .get(&format!("{}/history?pageSize=5&pageIndex=2002", at(&id)))
            .await;
        let data = answer.body["data"].clone();
        (data["totalCount"] == 10_013).then_some(data)
    })
    .await;
    let items = history["items"].as_array().unwrap();
    let left_at = items[1]["position"].as_i64().unwrap();
    let told: Vec<&str> = items.iter().map(|item| item["text"].as_str().unwrap()).collect();
    let deactivated = format!(
        "deactivated: its creator left the organization (event {},{:03})",
        left_at / 1000,
        left_at % 1000
    );
    assert_eq!(told[1..], ["its creator left the organization", &deactivated]);
}
