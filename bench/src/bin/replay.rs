//! Measures replays of a log of a realistic mix against the raw ordered read of the same rows, `copy (select * from events
//! order by position) to stdout`, in turn on one PostgreSQL. Exit 0: the target is met; 1: it is not; 3: nothing was measured.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::lives::{Size, fill};
use clap::Parser;
use featbit_tokens::app::connect_for_operator;
use featbit_tokens::audit::{Chain, Fault, read};
use featbit_tokens::authorization::{Fence, Index, Read, Tailer};
use featbit_tokens::clock::Clock;
use featbit_tokens::dev::EmbeddedPostgres;
use featbit_tokens::report::Report;
use featbit_tokens::schema;
use futures_util::TryStreamExt;
use projections::compare::compare;
use projections::log::head;
use projections::rebuild::{Leftovers, Rebuild};
use projections::replay::{Goal, Replay};
use projections::runner::{ReadModel, Runner};
use sqlx::PgPool;
use sqlx::postgres::PgPoolCopyExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// As in the program that carries `replay` out.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Of the rate of the raw read.
const TARGET: f64 = 1.0 / 3.0;
/// Megabytes that a replay may take more at its end than at its beginning.
const FLAT: u64 = 32;
const NOT_MEASURED: u8 = 3;

/// Measure replays against the raw ordered read of the log.
#[derive(Parser)]
struct Arguments {
    /// How many events
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    /// How many organizations they happen in
    #[arg(long, default_value_t = 500)]
    organizations: usize,
    /// How many members in each
    #[arg(long, default_value_t = 20)]
    members: usize,
    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the database's files are; a log that is there is used again
    #[arg(long)]
    data_dir: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&Report(error.as_ref()).to_string());
            ExitCode::from(NOT_MEASURED)
        }
    }
}

async fn measure(arguments: Arguments) -> Result<bool, Box<dyn Error>> {
    let postgres = EmbeddedPostgres::start(&arguments.data_dir).await?;
    let is_met = measure_on(postgres.url(), &arguments).await;
    postgres.stop().await?;
    is_met
}

async fn measure_on(url: &str, arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let pool = connect_for_operator(url).await?;
    schema::migrate(&pool).await?;
    let size = Size {
        events: arguments.events,
        organizations: arguments.organizations,
        members: arguments.members,
    };
    if head(&mut *pool.acquire().await?).await? == 0 {
        let started = Instant::now();
        fill(&pool, size, 1).await?;
        say(&format!(
            "filled with {} events in {:.0} s",
            size.events,
            started.elapsed().as_secs_f64()
        ));
    }
    let events = head(&mut *pool.acquire().await?).await?;
    for read_model in ReadModel::ALL {
        Runner::live(pool.clone(), read_model).catch_up().await?;
    }
    for settle in ["vacuum analyze", "checkpoint"] {
        sqlx::raw_sql(settle).execute(&pool).await?;
    }
    let mut ratios = Vec::new();
    let mut grown = 0;
    raw_read(&pool).await?;
    for round in 1..=arguments.rounds {
        let (raw, bytes) = raw_read(&pool).await?;
        let (read_models, growth) = replay(&pool, events, round == 1).await?;
        let index = start(&pool, events).await?;
        let followed = follow(&pool).await?;
        let chain = verify(&pool, events).await?;
        grown = grown.max(growth);
        let ratio = raw.as_secs_f64() / (read_models + index).as_secs_f64();
        ratios.push(ratio);
        let rate = |time: Duration| seconds_to_rate(events, time);
        say(&format!(
            "round {round}: raw {}/s ({:.2} s, {} MB), read models {:.2} s, index {:.2} s, both {}/s = {ratio:.3} of raw; \
             index event by event {}/s, chain verified {}/s",
            rate(raw),
            raw.as_secs_f64(),
            bytes / 1_000_000,
            read_models.as_secs_f64(),
            index.as_secs_f64(),
            rate(read_models + index),
            rate(followed),
            rate(chain),
        ));
    }
    ratios.sort_by(f64::total_cmp);
    let middle = ratios.get(ratios.len() / 2).copied().unwrap_or(0.0);
    let (is_fast, is_flat) = (middle >= TARGET, grown <= FLAT);
    let verdict = |is_met: bool| if is_met { "PASS" } else { "FAIL" };
    say(&format!(
        "{} replay of {events} events into all read models and the index: {middle:.3} of the raw ordered read's rate \
         (median of {} rounds, each after the other; target {TARGET:.3})",
        verdict(is_fast),
        ratios.len()
    ));
    say(&format!(
        "{} memory while read models are replayed: {grown} MB more in the last half than in the first (at most {FLAT})",
        verdict(is_flat)
    ));
    Ok(is_fast && is_flat)
}

fn seconds_to_rate(events: i64, time: Duration) -> u128 {
    u128::try_from(events).unwrap_or(0) * 1_000_000 / time.as_micros().max(1)
}

/// How long the raw read takes, and how much it is.
async fn raw_read(pool: &PgPool) -> Result<(Duration, usize), sqlx::Error> {
    let started = Instant::now();
    let mut rows = pool
        .copy_out_raw("copy (select * from events order by position) to stdout")
        .await?;
    let mut bytes = 0;
    while let Some(chunk) = rows.try_next().await? {
        bytes += chunk.len();
    }
    Ok((started.elapsed(), bytes))
}

/// All read models, until they are live; and how many megabytes more it took at the end.
async fn replay(pool: &PgPool, events: i64, is_compared: bool) -> Result<(Duration, u64), Box<dyn Error>> {
    let started = Instant::now();
    let mut rebuilds = Vec::new();
    for read_model in ReadModel::ALL {
        rebuilds.push(Rebuild::begin(pool.clone(), read_model, Leftovers::Discard).await?);
    }
    let mut replay = Replay::of(pool.clone(), rebuilds, Goal::End).await?;
    let (mut first, mut last) = (0, 0);
    while replay.step().await? {
        let half = if replay.position() * 2 < events {
            &mut first
        } else {
            &mut last
        };
        *half = resident_megabytes().max(*half);
    }
    let rebuilds = replay.into_rebuilds();
    let mut took = started.elapsed();
    for rebuild in rebuilds {
        if is_compared {
            let comparison = compare(&rebuild, 1).await?;
            if let Some(difference) = comparison.differences.first() {
                return Err(format!("it differs from what is live: {difference}").into());
            }
        }
        let started = Instant::now();
        rebuild.switch().await?;
        took += started.elapsed();
    }
    Ok((took, last.saturating_sub(first)))
}

/// The index, as a node makes it when it starts: from the read model that was just replayed, and what is after it.
async fn start(pool: &PgPool, events: i64) -> Result<Duration, Box<dyn Error>> {
    let (mut tailer, index) = tailer(pool);
    let started = Instant::now();
    tailer.start(&CancellationToken::new()).await?;
    while matches!(tailer.step(0).await?, Read::More) {}
    let took = started.elapsed();
    if index.position() != events {
        return Err(format!("the index came to {} only", index.position()).into());
    }
    Ok(took)
}

/// The index from position 0, event by event: no node does that, unless it is there from the log's beginning.
async fn follow(pool: &PgPool) -> Result<Duration, Box<dyn Error>> {
    let (mut tailer, _) = tailer(pool);
    let started = Instant::now();
    while matches!(tailer.step(0).await?, Read::More) {}
    Ok(started.elapsed())
}

fn tailer(pool: &PgPool) -> (Tailer, Arc<Index>) {
    let clock = Clock::default();
    let index = Arc::new(Index::new(Fence::new(clock.boot().clone())));
    let max_staleness = Duration::from_secs(1);
    let (pool, node) = (pool.clone(), Uuid::now_v7());
    (
        Tailer::new(pool, Arc::clone(&index), clock, node, max_staleness),
        index,
    )
}

/// The chain of hashes, as `audit verify` follows it.
async fn verify(pool: &PgPool, events: i64) -> Result<Duration, Box<dyn Error>> {
    let started = Instant::now();
    let mut chain = Chain::default();
    read(pool, 0, events, |link, organization_id| {
        chain.follow(link)?;
        link.is_filed_under(organization_id)?;
        Ok::<_, Fault>(std::ops::ControlFlow::Continue(()))
    })
    .await?;
    Ok(started.elapsed())
}

/// Of this process.
fn resident_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1024
}

#[expect(clippy::print_stderr, reason = "a program of the command line")]
fn say(what: &str) {
    eprintln!("{what}");
}
