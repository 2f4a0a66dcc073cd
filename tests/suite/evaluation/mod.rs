//! May this subject do this, here, now? Every reason of the closed list, asked for over HTTP as a gateway asks. The guards
//! named at the tests were taken out to see them fail.

mod discovery;
mod form;
mod freshness;
mod last_used;
mod past;
mod permission;
mod searches;
mod several;
mod subjects;
mod usability;

use chrono::{TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Executor;
use uuid::Uuid;

use crate::support::{Actor, Answer, Options, TestApp, cloud_event, eventually};

const FLAG: &str = "project/web:env/prod:flag/dark;beta";
const OTHER: &str = "project/web:env/dev:flag/dark";
const FLAGS: &str = "project/*:env/*:flag/*";

fn statement(id: &str, effect: &str, action: &str, resource: &str) -> Value {
    json!({ "id": id, "resourceType": "flag", "effect": effect, "actions": [action], "resources": [resource] })
}

fn question(subject: Value, context: Value) -> Value {
    json!({
        "subject": subject,
        "action": { "name": "ToggleFlag" },
        "resource": { "type": "flag", "id": FLAG },
        "context": context,
    })
}

fn token(id: &str) -> Value {
    json!({ "type": "access_token", "id": id })
}

fn member(actor: &Actor) -> Value {
    json!({ "type": "member", "id": actor.member_id, "properties": { "organizationId": actor.organization_id } })
}

/// The reason; that the decision agrees with it is looked at here, every time.
fn reason(answer: &Value) -> String {
    let reason = answer["context"]["reason"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"))
        .to_owned();
    assert_eq!(answer["decision"], reason == "allowed", "{answer}");
    assert!(answer["context"]["position"].is_i64(), "{answer}");
    reason
}

async fn why(app: &TestApp, secret: &str) -> String {
    reason(&app.ask(secret, "ToggleFlag", FLAG).await)
}

async fn why_from(app: &TestApp, secret: &str, address: Value) -> String {
    reason(
        &app.evaluate(question(token(secret), json!({ "ipAddress": address })))
            .await
            .body,
    )
}

async fn put(actor: &Actor, id: &str, action: &str) {
    let answer = actor
        .put(&format!("/access-tokens/{id}/{action}"), json!({}))
        .await;
    assert_eq!(answer.status, 200, "{action}: {}", answer.text);
}

async fn tell(app: &TestApp, kind: &str, actor: &Actor, data: Value) {
    app.tell(&[cloud_event(kind, actor.organization_id, actor.member_id, data)])
        .await;
}

async fn add_again(app: &TestApp, actor: &Actor) {
    let statements = json!([
        statement("all", "allow", "*", FLAGS),
        statement("tokens", "allow", "*", "access-token/*")
    ]);
    let data = json!({ "name": "Dana", "email": "dana@tests.example", "statements": statements });
    tell(app, "MemberAdded", actor, data).await;
}

async fn written_down(app: &TestApp, id: &str, kind: &str) {
    eventually("the reactor's event", async || {
        let found: i64 = sqlx::query_scalar(
            "select count(*) from events where aggregate_id = $1 and event_type = 'access_token.deactivated'
             and payload->'reason'->>'kind' = $2",
        )
        .bind(id)
        .bind(kind)
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
        (found == 1).then_some(())
    })
    .await;
    app.catch_up().await;
}
