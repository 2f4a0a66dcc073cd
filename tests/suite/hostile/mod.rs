//! What nobody should send: every request is answered for what it is, the node goes on, and nothing is written of it. The
//! guards named at the tests were taken out to see them fail.

mod bodies;
mod callers;
mod failures;
mod headers;
mod paths;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::check::{log_is_whole, read_models_equal_a_replay};
use crate::support::{Actor, Answer, JWT_KEY, Options, TestApp, jwt};

const FLAG: &str = "project/web:env/prod:flag/dark";
const KIB: usize = 1024;

fn errors(codes: &[&str]) -> Value {
    json!({ "success": false, "errors": codes, "data": null })
}

fn statement() -> Value {
    json!({ "resourceType": "flag", "effect": "allow", "actions": ["ToggleFlag"], "resources": [FLAG] })
}

async fn post_raw(actor: &Actor, body: impl Into<reqwest::Body>) -> Answer {
    let request = actor
        .request(Method::POST, "/access-tokens")
        .header("content-type", "application/json");
    Answer::of(request.body(body)).await
}

/// An answer as it came over the wire.
struct RawAnswer {
    status: u16,
    /// Null where it is no JSON.
    body: Value,
}

/// Sends these bytes, and reads until the node closes the connection.
async fn send(app: &TestApp, bytes: &[u8]) -> RawAnswer {
    let mut connection = TcpStream::connect(app.app.address).await.unwrap();
    connection.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), connection.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    RawAnswer {
        status,
        body: serde_json::from_str(body).unwrap_or_default(),
    }
}

/// The head of a request by this actor, with a blank line.
fn head(actor: &Actor, line: &str, more: &str) -> String {
    let jwt = jwt(actor.member_id, Utc::now() + TimeDelta::minutes(5));
    format!(
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {jwt}\r\norganization: {}\r\n{more}\r\n",
        actor.organization_id
    )
}

/// Runs something hostile: afterwards the node is alive and ready, the log is whole and as long as it was, and the read
/// models are what a replay makes of it.
async fn nothing_comes_of(app: &TestApp, attack: impl AsyncFnOnce()) {
    let before = log_is_whole(&app.database.pool).await;
    attack().await;
    for path in ["/health/liveness", "/health/readiness"] {
        assert_eq!(
            Answer::of(app.request(Method::GET, path)).await.status,
            200,
            "{path}"
        );
    }
    assert_eq!(
        log_is_whole(&app.database.pool).await,
        before,
        "nothing was appended"
    );
    read_models_equal_a_replay(&app.database.pool, before).await;
}
