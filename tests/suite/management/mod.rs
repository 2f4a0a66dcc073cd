//! Tokens over HTTP, as FeatBit's page and its members use them: what each of them may do, what is answered, what it
//! changes. The guards named at the tests were taken out one by one to see them fail.

mod answers;
mod as_of;
mod audit_log;
mod changing;
mod creating;
mod crowds;
mod format;
mod idempotency;
mod limits;
mod lists;
mod names;
mod permissions;
mod races;
mod rotation;
mod words;

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use domain::ids::MemberId;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::check::log_is_whole;
use crate::support::{Actor, Answer, Options, TestApp, cloud_event, eventually};

const FLAG: &str = "project/web:env/prod:flag/dark";
const FLAGS: &str = "project/*:env/*:flag/*";

fn allow(action: &str, resource: &str) -> Value {
    json!({ "resourceType": "flag", "effect": "allow", "actions": [action], "resources": [resource] })
}

fn at(id: &str) -> String {
    format!("/access-tokens/{id}")
}

fn errors(codes: &[&str]) -> Value {
    json!({ "success": false, "errors": codes, "data": null })
}

async fn status_of(actor: &Actor, id: &str) -> Value {
    let answer = actor.get(&at(id)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["data"]["status"].clone()
}

/// The names on a page, in its order.
async fn names(actor: &Actor, query: &str) -> Vec<String> {
    let answer = actor.get(&format!("/access-tokens?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.text);
    let items = answer.body["data"]["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

async fn head(app: &TestApp) -> i64 {
    sqlx::query_scalar("select coalesce(max(position), 0) from events")
        .fetch_one(&app.database.pool)
        .await
        .unwrap()
}

async fn events_of(app: &TestApp, id: &str) -> Vec<String> {
    sqlx::query_scalar("select event_type from events where aggregate_id = $1 order by sequence")
        .bind(id)
        .fetch_all(&app.database.pool)
        .await
        .unwrap()
}

/// A new member with these statements.
async fn member_who_may(app: &TestApp, statements: &[(&str, &str)]) -> Actor {
    let statements: Vec<Value> = statements
        .iter()
        .map(|(action, resource)| allow(action, resource))
        .collect();
    let member_id = MemberId::from(Uuid::new_v4());
    add(app, member_id, json!(statements)).await;
    app.member(app.organization_id, member_id)
}

async fn add(app: &TestApp, member_id: MemberId, statements: Value) {
    let data = json!({ "name": "Mia Member", "email": "mia@tests.example", "statements": statements });
    app.tell(&[cloud_event("MemberAdded", app.organization_id, member_id, data)])
        .await;
}

async fn remove(app: &TestApp, member: &Actor) {
    app.tell(&[cloud_event(
        "MemberRemoved",
        member.organization_id,
        member.member_id,
        json!({}),
    )])
    .await;
}
