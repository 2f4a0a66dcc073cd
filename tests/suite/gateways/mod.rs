//! What gateways ask of each request that comes to them. The guards named at the tests were taken out to see them fail.

mod forward_auth;
mod introspection;
mod proxies;

use chrono::{TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Actor, Answer, JWT_KEY, Options, TestApp, cloud_event, jwt};

const FLAG: &str = "project/web:env/prod:flag/dark;beta";
const FLAGS: &str = "project/*:env/*:flag/*";

fn statement(effect: &str, action: &str, resource: &str) -> Value {
    json!({ "resourceType": "flag", "effect": effect, "actions": [action], "resources": [resource] })
}

async fn node(settings: Vec<(&'static str, String)>) -> TestApp {
    TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await
}

async fn deactivate(actor: &Actor, id: &str) {
    let path = format!("/access-tokens/{id}/deactivate");
    assert_eq!(actor.put(&path, json!({})).await.status, 200);
}
