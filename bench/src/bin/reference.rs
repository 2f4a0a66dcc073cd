//! What decisions are held against: axum as small as it gets. `POST /echo` parses the body of an evaluation into borrowed
//! fields and answers a constant of the size of our answers; `GET /hello` answers two words.

use std::error::Error;
use std::hint::black_box;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::{get, post};
use clap::Parser;
use serde::Deserialize;
use tokio::net::TcpListener;

const ANSWER: &str =
    r#"{"decision":true,"context":{"position":1000000,"reason":"allowed","statementId":"developer-flag"}}"#;

/// Answer constants.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 picks a free one, which is written to standard output
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
}

#[derive(Deserialize)]
struct Evaluation<'a> {
    #[serde(borrow)]
    subject: Entity<'a>,
    #[serde(borrow)]
    action: Named<'a>,
    #[serde(borrow)]
    resource: Entity<'a>,
}

#[derive(Deserialize)]
struct Entity<'a> {
    r#type: &'a str,
    id: &'a str,
}

#[derive(Deserialize)]
struct Named<'a> {
    name: &'a str,
}

async fn echo(body: Bytes) -> Result<([(HeaderName, &'static str); 1], &'static str), StatusCode> {
    let evaluation: Evaluation<'_> = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    black_box((
        evaluation.subject.r#type,
        evaluation.subject.id,
        evaluation.action.name,
        evaluation.resource.r#type,
        evaluation.resource.id,
    ));
    Ok(([(CONTENT_TYPE, "application/json")], ANSWER))
}

async fn hello() -> &'static str {
    "Hello, World!"
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(Arguments::parse().http).await?;
    say(&format!("http://{}", listener.local_addr()?));
    let router = Router::new()
        .route("/echo", post(echo))
        .route("/hello", get(hello));
    Ok(axum::serve(listener, router).await?)
}

#[expect(clippy::print_stdout, reason = "whoever started it reads the address there")]
fn say(what: &str) {
    println!("{what}");
}
