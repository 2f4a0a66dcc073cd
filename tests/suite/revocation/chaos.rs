//! Four nodes on one log, load on all of them, and everything that can go wrong with a node: it stands still, it is cut off,
//! nothing comes through to it and nobody tells it, it is slow, it is killed. After the answer to a deactivation no node
//! accepts the token. `REVOCATION_ATTEMPTS` says how often that is tried (20,000; `scripts/revocation` does it a million
//! times).
//!
//! The control: the same with `?wait=none`, which takes the look at the leases out; it must find a node that accepts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::support::{Network, Options, Proxy, TestDatabase};

const NODES: usize = 4;
/// Clients that ask one node.
const CLIENTS: usize = 2;
/// The tokens stopped last are asked for: a node that does not know yet would accept these.
const ASKED_FOR: usize = 8;
/// A run that gets nowhere ends.
const LIMIT: Duration = Duration::from_secs(3600);

/// What the clients ask for, and what they found.
#[derive(Default)]
struct Found {
    /// Stopped, and answered so; the newest last.
    stopped: Mutex<VecDeque<String>>,
    attempts: AtomicU64,
    accepted: AtomicU64,
    /// By nodes that could not vouch for what they know: they are behind what was done to them.
    stale: AtomicU64,
    /// A live token was accepted: the nodes do decide.
    live: AtomicU64,
    revocations: AtomicU64,
}

/// A node and all that can be done to it.
struct Victim {
    process: Option<Process>,
    proxy: Proxy,
    port: u16,
}

impl Victim {
    fn start(&mut self, app: &TestApp) {
        let database = TestDatabase {
            url: self.proxy.url.clone(),
            pool: app.database.pool.clone(),
        };
        self.process = Some(Process::start(&database, self.port, []));
    }
}

/// Tried: `Fence::is_open` always true: a node that was paused or cut off accepts what was stopped meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn after_its_answer_no_node_accepts_the_token_whatever_happens_to_nodes() {
    let attempts = std::env::var("REVOCATION_ATTEMPTS")
        .ok()
        .and_then(|attempts| attempts.parse().ok())
        .unwrap_or(20_000);
    let found = run(attempts, "", |_| false).await;
    let (attempts, stale) = (
        found.attempts.load(Ordering::Relaxed),
        found.stale.load(Ordering::Relaxed),
    );
    let (live, revocations) = (
        found.live.load(Ordering::Relaxed),
        found.revocations.load(Ordering::Relaxed),
    );
    eprintln!(
        "{revocations} revocations, {attempts} attempts after them, {stale} of them at nodes that could not vouch, \
         {live} live tokens accepted meanwhile: {} revoked ones accepted",
        found.accepted.load(Ordering::Relaxed)
    );
    assert_eq!(found.accepted.load(Ordering::Relaxed), 0);
    assert!(stale > 0, "something was done to the nodes");
    assert!(live > 0, "they decide");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_without_the_look_at_the_leases_does_find_a_node_that_accepts() {
    let found = run(u64::MAX, "?wait=none", |found| {
        found.accepted.load(Ordering::Relaxed) > 0
    })
    .await;
    assert!(found.accepted.load(Ordering::Relaxed) > 0);
}

async fn run(attempts: u64, wait: &str, enough: impl Fn(&Found) -> bool) -> Arc<Found> {
    let settings = vec![("MAX_TOKENS_PER_ORGANIZATION", "1000000".to_owned())];
    let app = Arc::new(
        TestApp::start_with(Options {
            settings,
            database: None,
        })
        .await,
    );
    let mut victims = Vec::new();
    for _ in 0..NODES {
        let proxy = Proxy::before(&app.database.url).await;
        let mut victim = Victim {
            process: None,
            proxy,
            port: free_port(),
        };
        victim.start(&app);
        victims.push(victim);
    }
    let ports: Vec<u16> = victims.iter().map(|victim| victim.port).collect();
    let found = Arc::new(Found::default());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (_, live) = app.owner().personal_token("live").await;
    for port in &ports {
        for _ in 0..CLIENTS {
            tasks.spawn(ask_on(*port, live.clone(), Arc::clone(&found), stop.clone()));
        }
    }
    for nth in 0..3 {
        let (app, found, stop) = (Arc::clone(&app), Arc::clone(&found), stop.clone());
        tasks.spawn(revoke_on(app, nth, wait.to_owned(), ports.clone(), found, stop));
    }
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let since = Instant::now();
    while found.attempts.load(Ordering::Relaxed) < attempts && !enough(&found) {
        assert!(
            since.elapsed() < LIMIT,
            "only {} attempts, of which {} were accepted",
            found.attempts.load(Ordering::Relaxed),
            found.accepted.load(Ordering::Relaxed)
        );
        let mut disturbance = || {
            let lasts = Duration::from_millis(random.random_range(50..2500));
            (random.random_range(0..NODES), random.random_range(0..6), lasts)
        };
        let (one, other) = (disturbance(), disturbance());
        // Mostly two nodes at the same time; one, where both are the same.
        if let Ok([victim, second]) = victims.get_disjoint_mut([one.0, other.0]) {
            tokio::join!(
                do_something_to(victim, &app, one.1, one.2),
                do_something_to(second, &app, other.1, other.2)
            );
        } else {
            do_something_to(&mut victims[one.0], &app, one.1, one.2).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
    }
    stop.cancel();
    drop(victims);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    found
}

async fn do_something_to(victim: &mut Victim, app: &TestApp, what: u32, lasts: Duration) {
    let process = victim.process.as_ref().unwrap();
    match what {
        0 | 1 => {
            process.pause();
            tokio::time::sleep(lasts).await;
            process.resume();
        }
        2..=4 => {
            let network = match what {
                2 => Network::Cut,
                3 => Network::Silent,
                _ => Network::Slow(lasts / 40),
            };
            victim.proxy.set(network);
            tokio::time::sleep(lasts).await;
            victim.proxy.set(Network::Open);
        }
        _ => {
            // Dropped, it is killed with -9.
            victim.process = None;
            victim.start(app);
        }
    }
}

/// Asks one node, mostly for a token that was stopped just now.
async fn ask_on(port: u16, live: String, found: Arc<Found>, stop: CancellationToken) {
    let client = Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
    let url = format!("http://127.0.0.1:{port}/access/v1/evaluation");
    let mut turn: usize = 0;
    while !stop.is_cancelled() {
        turn += 1;
        let stopped = {
            let stopped = found.stopped.lock().unwrap();
            let nth = stopped.len().saturating_sub(1 + turn % ASKED_FOR);
            stopped.get(nth).filter(|_| !turn.is_multiple_of(50)).cloned()
        };
        let secret = stopped.as_ref().unwrap_or(&live);
        let Some(reason) = reason(&client, &url, secret).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        if stopped.is_some() {
            count(&found.attempts);
        }
        match (stopped.is_some(), reason.as_str()) {
            (true, "allowed") => count(&found.accepted),
            (true, "stale_replica") => count(&found.stale),
            (false, "allowed") => count(&found.live),
            _ => 0,
        };
    }
}

/// None where there was no answer.
async fn reason(client: &Client, url: &str, secret: &str) -> Option<String> {
    let answer = client.post(url).json(&question(secret)).send().await.ok()?;
    let body: Value = answer.json().await.ok()?;
    Some(body["context"]["reason"].as_str()?.to_owned())
}

/// Makes a token, sees that some node accepts it, stops it by way of some node; again and again.
async fn revoke_on(
    app: Arc<TestApp>,
    nth: usize,
    wait: String,
    ports: Vec<u16>,
    found: Arc<Found>,
    stop: CancellationToken,
) {
    let client = Client::builder()
        .timeout(Duration::from_secs(12))
        .build()
        .unwrap();
    let mut round = 0;
    while !stop.is_cancelled() {
        round += 1;
        let port = ports[(nth + round) % ports.len()];
        // Its JWT is good for some minutes, which may not be enough for all rounds.
        let owner = app.developer();
        let (id, secret) = owner.personal_token(&format!("{nth} {round}")).await;
        let known = reason(
            &client,
            &format!("http://127.0.0.1:{port}/access/v1/evaluation"),
            &secret,
        )
        .await;
        if known.as_deref() != Some("allowed") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let request = owner.at(
            port,
            reqwest::Method::PUT,
            &format!("/access-tokens/{id}/deactivate{wait}"),
        );
        let answered = request.timeout(Duration::from_secs(12)).send().await;
        if answered.is_ok_and(|answer| answer.status() == 200) {
            let mut stopped = found.stopped.lock().unwrap();
            stopped.push_back(secret);
            if stopped.len() > ASKED_FOR {
                stopped.pop_front();
            }
            found.revocations.fetch_add(1, Ordering::Relaxed);
        }
    }
}
