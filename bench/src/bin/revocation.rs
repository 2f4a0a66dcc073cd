//! How long a revocation takes: tokens are stopped over HTTP, and a permission is taken away by the topic, while every node
//! is asked for that very token so many times a second. What counts is from before the request, or the message, was sent
//! until the last node's first denial was read. And after its answer no node may accept the token any more.
//!
//! Then the log is kept from all nodes, by a lock on its table: how long until the last of them denies everything.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

/// Longer than this nothing here takes that goes well.
const PATIENCE: Duration = Duration::from_secs(20);
/// The targets, at the 99th percentile.
const REST_TARGET: Duration = Duration::from_millis(50);
const KAFKA_TARGET: Duration = Duration::from_millis(150);
/// What nodes are started with where nothing else is said.
const MAX_STALENESS: Duration = Duration::from_millis(1000);
/// How often the log is kept from them.
const FREEZES: usize = 10;

/// Measure how long revocations take.
#[derive(Parser)]
struct Arguments {
    /// A node's address, as http://127.0.0.1:5080; one for each node
    #[arg(long, required = true)]
    node: Vec<String>,
    #[arg(long, env = "ORG")]
    organization: Uuid,
    /// The demo's developer
    #[arg(long, env = "DEVELOPER")]
    developer: Uuid,
    #[arg(long, env = "DEVELOPER_JWT")]
    jwt: String,
    #[arg(long, env = "KAFKA")]
    kafka: String,
    #[arg(long, env = "TOPIC")]
    topic: String,
    #[arg(long, env = "DATABASE_URL")]
    database_url: String,
    /// How many revocations of each kind
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// Decisions a second that each node is asked for
    #[arg(long, default_value_t = 500)]
    rate: u32,
}

/// An answer of a node about the token of a round.
#[derive(Clone, Copy)]
struct Seen {
    node: usize,
    round: usize,
    asked: Instant,
    answered: Instant,
    is_allowed: bool,
}

/// What is asked for now.
#[derive(Clone, Default)]
struct Asked {
    round: usize,
    body: Arc<str>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(3)
        }
    }
}

async fn measure(arguments: Arguments) -> Result<bool, Box<dyn Error>> {
    let (ask, asked) = watch::channel(Asked::default());
    let (tell, seen) = mpsc::unbounded_channel();
    for (number, url) in arguments.node.iter().enumerate() {
        let period = Duration::from_secs(1)
            .checked_div(arguments.rate)
            .unwrap_or(PATIENCE);
        tokio::spawn(keep_asking(
            number,
            format!("{url}/access/v1/evaluation"),
            period,
            asked.clone(),
            tell.clone(),
        ));
    }
    let mut bench = Bench {
        producer: ClientConfig::new()
            .set("bootstrap.servers", &arguments.kafka)
            .set("linger.ms", "0")
            .create()?,
        client: Client::new(),
        arguments,
        ask,
        seen,
        round: 0,
    };
    let (mut rest, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..bench.arguments.rounds {
        let (denied, answered) = bench.stop_a_token().await?;
        rest.push(denied);
        answers.push(answered);
    }
    let kafka = bench.take_a_permission().await?;
    let mut frozen = bench.keep_the_log_from_all().await?;
    say(&format!(
        "{:<52} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "milliseconds", "min", "half", "90 %", "99 %", "max"
    ));
    row("REST: from the request to a denial on all nodes", &mut rest);
    row("REST: from the request to its answer", &mut answers);
    let mut by_kafka = kafka;
    row("Kafka: from the message to a denial on all nodes", &mut by_kafka);
    row("frozen log: until all nodes deny everything", &mut frozen);
    let all = [
        verdict("REST reaches a deny on all nodes", &rest, REST_TARGET),
        verdict("Kafka reaches a deny on all nodes", &by_kafka, KAFKA_TARGET),
        verdict(
            "a frozen log reaches a deny of everything on all nodes",
            &frozen,
            MAX_STALENESS,
        ),
    ];
    Ok(all.iter().all(|met| *met))
}

struct Bench {
    arguments: Arguments,
    client: Client,
    producer: BaseProducer,
    ask: watch::Sender<Asked>,
    seen: mpsc::UnboundedReceiver<Seen>,
    round: usize,
}

impl Bench {
    /// Makes a token, waits until all nodes accept it, and stops it by way of one of them. How long until all denied it, and
    /// until that was answered.
    async fn stop_a_token(&mut self) -> Result<(Duration, Duration), Box<dyn Error>> {
        let (id, secret) = self.token().await?;
        self.ask_for(&secret);
        self.all_say(true, None).await?;
        let begun = Instant::now();
        let path = format!("/access-tokens/{id}/deactivate");
        let status = self.send(Method::PUT, &path, &json!({})).await?.status();
        let answered = Instant::now();
        if status != 200 {
            return Err(format!("a deactivation was answered {status}").into());
        }
        let denied = self.all_say(false, Some(answered)).await?;
        Ok((
            denied.saturating_duration_since(begun),
            answered.saturating_duration_since(begun),
        ))
    }

    /// Takes a permission from the creator of a token and gives it back, again and again.
    async fn take_a_permission(&mut self) -> Result<Vec<Duration>, Box<dyn Error>> {
        let (_, secret) = self.token().await?;
        let mut took = Vec::new();
        for _ in 0..self.arguments.rounds {
            self.ask_for(&secret);
            self.all_say(true, None).await?;
            let begun = Instant::now();
            self.say("PermissionRevoked", &json!({ "permission": "ToggleFlag" }))?;
            let denied = self.all_say(false, None).await?;
            took.push(denied.saturating_duration_since(begun));
            let statement = json!({ "id": "bench", "resourceType": "flag", "effect": "allow",
                "actions": ["ToggleFlag"], "resources": ["project/*:env/*:flag/*"] });
            self.say("PermissionGranted", &json!({ "statements": [statement] }))?;
        }
        Ok(took)
    }

    /// Nobody can read the log any more, again and again: how long until all nodes denied everything.
    async fn keep_the_log_from_all(&mut self) -> Result<Vec<Duration>, Box<dyn Error>> {
        let (_, secret) = self.token().await?;
        let mut database = PgConnection::connect(&self.arguments.database_url).await?;
        let mut took = Vec::new();
        for _ in 0..FREEZES {
            self.ask_for(&secret);
            self.all_say(true, None).await?;
            let mut lock = database.begin().await?;
            sqlx::raw_sql("lock table events in access exclusive mode")
                .execute(&mut *lock)
                .await?;
            let frozen = Instant::now();
            let denied = self.all_say(false, Some(frozen + MAX_STALENESS)).await?;
            took.push(denied.saturating_duration_since(frozen));
            lock.rollback().await?;
        }
        Ok(took)
    }

    async fn token(&self) -> Result<(String, String), Box<dyn Error>> {
        let body = json!({ "name": Uuid::new_v4(), "type": "Personal" });
        let answer: Value = self
            .send(Method::POST, "/access-tokens", &body)
            .await?
            .json()
            .await?;
        let text = |name: &str| {
            answer
                .pointer(name)
                .and_then(Value::as_str)
                .map(ToOwned::to_owned)
        };
        text("/data/id")
            .zip(text("/data/token"))
            .ok_or_else(|| format!("no token: {answer}").into())
    }

    /// A command to one node, another one each round.
    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Response, reqwest::Error> {
        let nodes = &self.arguments.node;
        let nth = self.round.checked_rem(nodes.len()).unwrap_or(0);
        let url = nodes.get(nth).map_or("", String::as_str);
        self.client
            .request(method, format!("{url}/api/v1{path}"))
            .bearer_auth(&self.arguments.jwt)
            .header("organization", self.arguments.organization.to_string())
            .json(body)
            .timeout(PATIENCE)
            .send()
            .await
    }

    fn say(&self, what: &str, data: &Value) -> Result<(), Box<dyn Error>> {
        let Arguments {
            organization,
            developer,
            topic,
            ..
        } = &self.arguments;
        let mut all = json!({ "organizationId": organization, "memberId": developer });
        if let (Some(all), Some(data)) = (all.as_object_mut(), data.as_object()) {
            all.extend(data.clone());
        }
        let event = json!({ "specversion": "1.0", "id": Uuid::new_v4(), "source": "/bench",
            "type": format!("featbit.membership.{what}"), "data": all })
        .to_string();
        let key = format!("{organization}:{developer}");
        self.producer
            .send(BaseRecord::to(topic).key(&key).payload(&event))
            .map_err(|(error, _)| error)?;
        self.producer.flush(PATIENCE)?;
        Ok(())
    }

    fn ask_for(&mut self, secret: &str) {
        self.round = self.round.saturating_add(1);
        let body = json!({
            "subject": { "type": "access_token", "id": secret },
            "action": { "name": "ToggleFlag" },
            "resource": { "type": "flag", "id": "project/web:env/prod:flag/dark-mode" },
        });
        self.ask.send_replace(Asked {
            round: self.round,
            body: body.to_string().into(),
        });
    }

    /// Waits until every node has said so; when the last of them was read. An acceptance of what was asked for after this
    /// time is an error.
    async fn all_say(
        &mut self,
        allowed: bool,
        never_after: Option<Instant>,
    ) -> Result<Instant, Box<dyn Error>> {
        let mut said: Vec<Option<Instant>> = self.arguments.node.iter().map(|_| None).collect();
        let since = Instant::now();
        loop {
            if since.elapsed() > PATIENCE {
                return Err(format!("not all nodes have said so in time: {said:?}").into());
            }
            let seen = tokio::time::timeout(PATIENCE, self.seen.recv())
                .await?
                .ok_or("nobody asks any more")?;
            if seen.round != self.round {
                continue;
            }
            if seen.is_allowed && never_after.is_some_and(|answered| seen.asked > answered) {
                return Err(format!("node {} accepted a token when none may any more", seen.node).into());
            }
            if let Some(first) = said
                .get_mut(seen.node)
                .filter(|first| first.is_none() && seen.is_allowed == allowed)
            {
                *first = Some(seen.answered);
            }
            if let Some(all) = said.iter().copied().collect::<Option<Vec<_>>>() {
                return all.into_iter().max().ok_or_else(|| "there are no nodes".into());
            }
        }
    }
}

async fn keep_asking(
    node: usize,
    url: String,
    period: Duration,
    asked: watch::Receiver<Asked>,
    tell: mpsc::UnboundedSender<Seen>,
) {
    let client = Client::new();
    let mut ticks = interval(period);
    // So many a second, also after a slow answer: as independent clients would.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        let Asked { round, body } = asked.borrow().clone();
        if body.is_empty() {
            continue;
        }
        let begun = Instant::now();
        let request = client
            .post(&url)
            .header("content-type", "application/json")
            .body(body.to_string());
        let Ok(answer) = request.send().await else {
            continue;
        };
        let Ok(text) = answer.text().await else { continue };
        let seen = Seen {
            node,
            round,
            asked: begun,
            answered: Instant::now(),
            is_allowed: text.contains("\"decision\":true"),
        };
        if tell.send(seen).is_err() {
            return;
        }
    }
}

fn row(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |percent| milliseconds(percentile(took, percent));
    let (min, half, most) = (at(0), at(50), at(90));
    say(&format!(
        "{what:<52} {min:>7.1} {half:>7.1} {most:>7.1} {:>7.1} {:>7.1}",
        at(99),
        at(100)
    ));
}

/// Of what is sorted: so many of a hundred are not above it.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = sorted.len().saturating_mul(percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn verdict(what: &str, sorted: &[Duration], target: Duration) -> bool {
    let found = percentile(sorted, 99);
    let is_met = !sorted.is_empty() && found <= target;
    say(&format!(
        "target: {what} within {} ms at the 99th percentile: {} ({:.1})",
        target.as_millis(),
        if is_met { "PASS" } else { "FAIL" },
        milliseconds(found)
    ));
    is_met
}

#[expect(clippy::print_stdout, reason = "a program's answer")]
fn say(line: &str) {
    println!("{line}");
}
