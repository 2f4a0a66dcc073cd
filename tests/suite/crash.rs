//! Kill -9 under load, again and again: what was answered is in the log exactly once, every position is there, and every
//! read model equals a replay. `CRASH_KILLS` says how often (50; `scripts/crash` does it 1,000 times).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::ids::{MemberId, OrganizationId};
use domain::policy::built_in;
use featbit_tokens::app::App;
use featbit_tokens::commands::membership::{Poll, RawMessage};
use featbit_tokens::config::{Config, Environment};
use featbit_tokens::intake::member_events::understand;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::check::{log_is_whole, read_models_equal_a_replay};
use crate::support::{JWT_KEY, Process, TestDatabase, cloud_event, free_port, jwt};

/// Clients that never stop asking.
const CLIENTS: usize = 8;

/// What a client was told, in order. A command that was not answered may or may not stand.
#[derive(Default)]
struct Told {
    created: Vec<(String, String, i64)>,
    changed: Vec<(String, &'static str, i64)>,
}

struct Client {
    http: reqwest::Client,
    base: String,
    organization_id: OrganizationId,
    member_id: MemberId,
    answered: Arc<AtomicUsize>,
}

impl Client {
    /// The answer with its position, if there was one and it was a success.
    async fn send(&self, method: reqwest::Method, path: &str, body: Value) -> Option<(Value, i64)> {
        let expires = chrono::Utc::now() + chrono::TimeDelta::minutes(5);
        let response = self
            .http
            .request(method, format!("{}{path}", self.base))
            .header(
                "authorization",
                format!("Bearer {}", jwt(self.member_id, expires)),
            )
            .header("organization", self.organization_id.to_string())
            .json(&body)
            .send()
            .await
            .ok()?;
        let status = response.status().as_u16();
        let position = response
            .headers()
            .get("x-log-position")
            .and_then(|p| p.to_str().ok()?.parse().ok());
        let body: Value = response.json().await.ok()?;
        assert!(matches!(status, 200 | 403 | 503), "{path}: {status} {body}");
        if status != 200 {
            return None;
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
        Some((body, position.expect("a position")))
    }

    /// Makes a token, stops it, starts it, removes every other one; again and again.
    async fn run(self, stop: CancellationToken) -> Told {
        let mut told = Told::default();
        'tokens: while !stop.is_cancelled() {
            let name = Uuid::new_v4().to_string();
            let created = self
                .send(
                    reqwest::Method::POST,
                    "/access-tokens",
                    json!({ "name": name, "type": "Personal" }),
                )
                .await;
            let Some((body, position)) = created else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let id = body["data"]["id"].as_str().unwrap().to_owned();
            told.created.push((id.clone(), name, position));
            for (action, event) in [
                ("deactivate", "access_token.deactivated"),
                ("activate", "access_token.activated"),
            ] {
                let path = format!("/access-tokens/{id}/{action}");
                // Not answered: it may stand or not, and what comes next on this token might change nothing.
                let Some((_, position)) = self.send(reqwest::Method::PUT, &path, json!({})).await else {
                    continue 'tokens;
                };
                told.changed.push((id.clone(), event, position));
            }
            if told.created.len().is_multiple_of(2) {
                let path = format!("/access-tokens/{id}");
                if let Some((_, position)) = self.send(reqwest::Method::DELETE, &path, json!({})).await {
                    told.changed.push((id.clone(), "access_token.removed", position));
                }
            }
        }
        told
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_killed_at_random_keeps_every_command_it_has_answered() {
    let kills: u32 = std::env::var("CRASH_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(50);
    let database = TestDatabase::new().await;
    let (organization_id, member_id) = (Uuid::new_v4().into(), Uuid::new_v4().into());
    join(&database, organization_id, member_id).await;

    let port = free_port();
    let answered = Arc::new(AtomicUsize::new(0));
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .build()
            .unwrap();
        let base = format!("http://127.0.0.1:{port}/api/v1");
        let answered = Arc::clone(&answered);
        clients.spawn(
            Client {
                http,
                base,
                organization_id,
                member_id,
                answered,
            }
            .run(stop.clone()),
        );
    }
    for _ in 0..kills {
        let process = Process::start(&database, port, []);
        let before = answered.load(Ordering::Relaxed);
        // Under load: some commands are answered first, and then at a moment nobody chose.
        while answered.load(Ordering::Relaxed) < before + 3 * CLIENTS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_micros(u64::from(Uuid::new_v4().as_fields().1) * 4)).await;
        drop(process);
    }
    stop.cancel();
    let mut all = Vec::new();
    while let Some(told) = clients.join_next().await {
        all.push(told.unwrap());
    }
    let head = log_is_whole(&database.pool).await;
    let stands = events(&database.pool).await;
    let mut created = 0;
    for told in &all {
        for (id, name, position) in &told.created {
            assert_eq!(
                stands.get(position),
                Some(&("access_token.created".to_owned(), id.clone())),
                "{name}"
            );
            created += 1;
        }
        for (id, event, position) in &told.changed {
            assert_eq!(stands.get(position), Some(&((*event).to_owned(), id.clone())));
        }
    }
    let doubled: Vec<String> = sqlx::query_scalar(
        "select payload->>'name' from events where event_type = 'access_token.created' group by 1 having count(*) > 1",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    assert!(doubled.is_empty(), "{doubled:?}");
    assert!(
        created >= usize::try_from(kills).unwrap(),
        "there was load: {created} tokens"
    );
    read_models_equal_a_replay(&database.pool, head).await;
    eprintln!("{kills} kills, {created} answered creations, {head} events: nothing lost, nothing doubled");
}

async fn events(pool: &PgPool) -> HashMap<i64, (String, String)> {
    let rows: Vec<(i64, String, String)> =
        sqlx::query_as("select position, event_type, aggregate_id from events")
            .fetch_all(pool)
            .await
            .unwrap();
    rows.into_iter()
        .map(|(position, event, id)| (position, (event, id)))
        .collect()
}

/// A first member, added by a node that then leaves.
async fn join(database: &TestDatabase, organization_id: OrganizationId, member_id: MemberId) {
    let environment = Environment::of_process().with([
        ("DATABASE_URL", database.url.clone()),
        ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
        ("JWT_KEY", JWT_KEY.to_owned()),
    ]);
    let app = App::start(Config::from_environment(&environment).unwrap())
        .await
        .unwrap();
    let data = json!({ "name": "Olga", "email": "o@tests.example", "statements": built_in::owner() });
    let event = cloud_event("MemberAdded", organization_id, member_id, data);
    let raw = RawMessage {
        payload: Some(event.to_string().into_bytes()),
        ..RawMessage::default()
    };
    let poll = Poll {
        messages: vec![understand(raw)],
        offset: None,
    };
    assert_eq!(app.commands.take_poll(&poll).await.unwrap().applied, 1);
    app.stop().await;
}
