//! A node decides as long as its lease carries it, and a revocation is over when it says so.

mod chaos;
mod fence;
mod waiting;

use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};

use crate::support::{Process, TestApp, eventually, free_port};

const FLAG: &str = "project/web:env/prod:flag/dark-mode";

/// A node that is a process of its own, on the database of the tests' node.
struct Node {
    process: Process,
    port: u16,
    url: String,
    client: Client,
}

impl Node {
    /// Ready.
    async fn start(app: &TestApp, settings: &[(&str, &str)]) -> Self {
        let port = free_port();
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let node = Self {
            process: Process::start(&app.database, port, settings),
            port,
            url: format!("http://127.0.0.1:{port}"),
            client: Client::builder()
                .timeout(Duration::from_secs(20))
                .build()
                .unwrap(),
        };
        eventually("the node is ready", async || node.is_ready().await.then_some(())).await;
        node
    }

    async fn is_ready(&self) -> bool {
        let answer = self
            .client
            .get(format!("{}/health/readiness", self.url))
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// How far this node has come.
    async fn position(&self) -> i64 {
        let body = self.answer("nobody's").await;
        body["context"]["position"].as_i64().unwrap()
    }

    /// Why this node answers as it does.
    async fn ask(&self, secret: &str) -> String {
        let body = self.answer(secret).await;
        body["context"]["reason"].as_str().unwrap().to_owned()
    }

    async fn answer(&self, secret: &str) -> Value {
        let answer = self
            .client
            .post(format!("{}/access/v1/evaluation", self.url))
            .json(&question(secret))
            .send()
            .await
            .unwrap();
        answer.json().await.unwrap()
    }
}

fn question(secret: &str) -> Value {
    json!({
        "subject": { "type": "access_token", "id": secret },
        "action": { "name": "ToggleFlag" },
        "resource": { "type": "flag", "id": FLAG },
    })
}

/// How many nodes have a lease.
async fn leases(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from leases")
        .fetch_one(&app.database.pool)
        .await
        .unwrap()
}
