//! Starts an index as a node does, and says how long that took and what it costs in memory: by what the process holds of the
//! machine before and after, so that maps, allocator and all are in it.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use featbit_tokens::app::connect;
use featbit_tokens::authorization::{Fence, Index, Read, Tailer};
use featbit_tokens::clock::{BootClock, Clock};
use featbit_tokens::report::Report;
use projections::runner::{ReadModel, Runner};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// As in the program that starts a node.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A secret's digest, which is not counted: a token can't be without it.
const DIGEST_BYTES: u64 = 32;

/// Start an index from what is in a database.
#[derive(Parser)]
struct Arguments {
    /// Filled by `fill`
    #[arg(long, env = "DATABASE_URL")]
    database_url: String,
    /// Bytes a token, at most, beyond its secret's digest
    #[arg(long, default_value_t = 400)]
    bytes: u64,
    /// Seconds, at most, until the index stands at the end of the log
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Read the whole log instead of starting from a snapshot
    #[arg(long)]
    replay: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match start(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {}", Report(error.as_ref())));
            ExitCode::from(3)
        }
    }
}

async fn start(arguments: Arguments) -> Result<bool, Box<dyn Error>> {
    let pool = connect(&arguments.database_url).await?;
    let tokens: i64 =
        sqlx::query_scalar("select count(*) from events where event_type = 'access_token.created'")
            .fetch_one(&pool)
            .await?;
    let tokens = u64::try_from(tokens)?.max(1);
    let behind = Instant::now();
    Runner::live(pool.clone(), ReadModel::Credentials)
        .catch_up()
        .await?;
    say(&format!(
        "the read model was brought to the end of the log in {:.1} s",
        behind.elapsed().as_secs_f64()
    ));

    let boot = BootClock::default();
    let index = Arc::new(Index::new(Fence::new(boot.clone())));
    let node_id = Uuid::new_v4();
    let clock = Clock::new(boot);
    let mut tailer = Tailer::new(
        pool.clone(),
        Arc::clone(&index),
        clock,
        node_id,
        Duration::from_secs(1),
    );
    let before = resident_bytes()?;
    let started = Instant::now();
    if !arguments.replay {
        tailer.start(&CancellationToken::new()).await?;
    }
    while tailer.step(0).await? == Read::More {}
    let seconds = started.elapsed().as_secs_f64();
    let held = resident_bytes()?.saturating_sub(before);
    sqlx::query("delete from leases where node_id = $1")
        .bind(node_id)
        .execute(&pool)
        .await?;

    let is_fresh = index.fence().is_open();
    let bytes = held.checked_div(tokens).unwrap_or(0).saturating_sub(DIGEST_BYTES);
    let (is_small, is_quick) = (bytes <= arguments.bytes, is_fresh && seconds <= arguments.seconds);
    say(&format!(
        "{}: {bytes} bytes a token beyond its digest, {tokens} tokens in {} MiB (at most {})",
        verdict(is_small),
        held >> 20,
        arguments.bytes
    ));
    say(&format!(
        "{}: ready in {seconds:.2} s at position {} (at most {})",
        verdict(is_quick),
        index.position(),
        arguments.seconds
    ));
    Ok(is_small && is_quick)
}

fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(kib.trim().parse::<u64>()?.saturating_mul(1024))
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "PASS" } else { "FAIL" }
}

#[expect(clippy::print_stdout, reason = "a program of the command line")]
fn say(what: &str) {
    println!("{what}");
}
