//! When a token was last used: noted by every decision that allows it something, written down now and then.

use std::sync::Arc;

use chrono::DateTime;
use featbit_tokens::authorization::LastUsed;

use super::*;

async fn last_used(app: &TestApp, id: &str) -> Option<DateTime<Utc>> {
    let owner = app.owner();
    let found = owner.get(&format!("/access-tokens/{id}")).await.body["data"]["lastUsedAt"].clone();
    let list = owner.get("/access-tokens?pageSize=100").await;
    let items = list.body["data"]["items"].as_array().unwrap();
    let listed = items.iter().find(|item| item["id"] == id).unwrap();
    assert_eq!(listed["lastUsedAt"], found, "the list says the same");
    serde_json::from_value(found).unwrap()
}

fn writer(app: &TestApp) -> LastUsed {
    LastUsed::new(app.database.pool.clone(), Arc::clone(&app.app.index))
}

/// Tried: with every decision noted.
#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_a_decision_that_allows_and_is_seen_once_it_is_written_down() {
    let app = TestApp::start().await;
    let (id, secret) = app.developer().personal_token("used").await;
    let (idle, idle_secret) = app.developer().personal_token("idle").await;
    let before = Utc::now() - TimeDelta::seconds(2);
    assert_eq!(why(&app, &secret).await, "allowed");
    assert_eq!(
        reason(&app.ask(&idle_secret, "CanManageIAM", "iam/*").await),
        "no_matching_statement"
    );
    let introspection = app
        .request(Method::POST, "/oauth2/introspect")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("token={idle_secret}"));
    assert_eq!(Answer::of(introspection).await.body["active"], true);
    let events: i64 = head(&app).await;

    assert_eq!(
        last_used(&app, &id).await,
        None,
        "nothing is written for a request"
    );
    let writer = writer(&app);
    assert_eq!(writer.write().await.unwrap(), 1);
    let used = last_used(&app, &id).await.unwrap();
    assert!(
        used >= before && used <= Utc::now() + TimeDelta::seconds(2),
        "{used}"
    );
    assert_eq!(last_used(&app, &idle).await, None);
    assert_eq!(writer.write().await.unwrap(), 0, "it is written once");
    assert_eq!(head(&app).await, events, "a use is no event");
    app.stop().await;
}

/// Tried: without the `where` of the upsert.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_the_later_use_stays_whichever_writes_last() {
    let first = TestApp::start().await;
    let (id, secret) = first.developer().personal_token("shared").await;
    let second = TestApp::start_with(Options {
        settings: Vec::new(),
        database: Some(first.database.clone()),
    })
    .await;
    second.catch_up().await;
    assert_eq!(why(&second, &secret).await, "allowed");
    writer(&second).write().await.unwrap();
    let later = Utc::now() + TimeDelta::hours(1);
    sqlx::query("update access_token_uses set last_used_at = $1")
        .bind(later)
        .execute(&first.database.pool)
        .await
        .unwrap();
    assert_eq!(why(&first, &secret).await, "allowed");
    assert_eq!(writer(&first).write().await.unwrap(), 1);
    let kept = last_used(&first, &id).await.unwrap();
    assert_eq!(kept.timestamp(), later.timestamp());
    second.stop().await;
    first.stop().await;
}

/// Tried: without the last write of the task.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_writes_down_what_it_has_noted() {
    let app = TestApp::start().await;
    let (_, secret) = app.developer().personal_token("used").await;
    assert_eq!(why(&app, &secret).await, "allowed");
    let pool = app.database.pool.clone();
    app.stop().await;
    let written: i64 = sqlx::query_scalar("select count(*) from access_token_uses")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(written, 1);
}

async fn head(app: &TestApp) -> i64 {
    sqlx::query_scalar("select coalesce(max(position), 0) from events")
        .fetch_one(&app.database.pool)
        .await
        .unwrap()
}
