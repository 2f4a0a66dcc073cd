//! Fills an empty log with an installation of any size, through the real appender, and writes some of its secrets to a
//! file. For measurements only: the secrets can be made again by whoever knows the seed.

use std::error::Error;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use bench::draw::Draw;
use bench::organization::{Issued, Organization};
use clap::Parser;
use featbit_tokens::app::connect;
use featbit_tokens::log::{AppendOutcome, Appender, UnitOfWork};
use featbit_tokens::report::Report;
use featbit_tokens::schema;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Organizations that are filled at the same time: their requests share a batch.
const AT_ONCE: u64 = 4;
/// Tokens in one request.
const REQUEST: u64 = 500;

/// Fill an empty log with organizations and tokens.
#[derive(Clone, Parser)]
struct Arguments {
    /// An empty database; its schema is brought up to date
    #[arg(long, env = "DATABASE_URL")]
    database_url: String,
    /// How many organizations
    #[arg(long, default_value_t = 500)]
    organizations: u64,
    /// How many tokens in all of them
    #[arg(long, default_value_t = 1_000_000)]
    tokens: u64,
    /// How many members in each
    #[arg(long, default_value_t = 20)]
    members: usize,
    /// Another seed makes other ones
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to write secrets that may toggle a flag, one a line: secret, type, organization
    #[arg(long)]
    secrets: Option<PathBuf>,
    /// How many of them
    #[arg(long, default_value_t = 1000)]
    secret_count: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match fill(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&Report(error.as_ref()).to_string());
            ExitCode::FAILURE
        }
    }
}

async fn fill(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let pool = connect(&arguments.database_url).await?;
    schema::migrate(&pool).await?;
    let started = Instant::now();
    let stop = CancellationToken::new();
    let (appender, task) = Appender::new(pool.clone());
    let mut lines = Vec::new();
    let (filled, ()) = tokio::join!(
        async {
            let mut workers = JoinSet::new();
            for worker in 0..AT_ONCE {
                workers.spawn(share(arguments.clone(), pool.clone(), appender.clone(), worker));
            }
            let mut filled = Ok(());
            while let Some(done) = workers.join_next().await {
                match done {
                    Ok(Ok(secrets)) => lines.extend(secrets),
                    Ok(Err(error)) => filled = Err(error),
                    Err(error) => filled = Err(error.to_string()),
                }
            }
            stop.cancel();
            filled
        },
        task.run(stop.clone())
    );
    filled?;
    // So that the database plans for what is there.
    sqlx::raw_sql("vacuum analyze").execute(&pool).await?;
    let seconds = started.elapsed().as_secs_f64();
    say(&format!(
        "{} tokens of {} organizations in {seconds:.1} s",
        arguments.tokens, arguments.organizations
    ));
    if let Some(path) = &arguments.secrets {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        for line in lines.iter().take(arguments.secret_count) {
            writeln!(file, "{line}")?;
        }
    }
    Ok(())
}

/// Every so-many-eth organization. Answers secrets, a line each.
async fn share(
    arguments: Arguments,
    pool: PgPool,
    appender: Appender,
    worker: u64,
) -> Result<Vec<String>, String> {
    let mut secrets = Vec::new();
    let every = usize::try_from(AT_ONCE).unwrap_or(1);
    // Spread over all organizations, however few are asked for.
    let organizations = usize::try_from(arguments.organizations).unwrap_or(usize::MAX);
    let of_each = arguments.secret_count.div_ceil(organizations.max(1));
    for number in (worker..arguments.organizations).step_by(every) {
        let mut organization = Organization::new(Draw::new(arguments.seed, number), arguments.members);
        let mut kept: usize = 0;
        let unit = unit(&pool);
        organization.join(&unit).await.map_err(failure)?;
        append(&appender, &unit).await?;
        // What does not divide evenly goes to the first ones.
        let even = arguments.tokens.checked_div(arguments.organizations).unwrap_or(0);
        let rest = arguments.tokens.checked_rem(arguments.organizations).unwrap_or(0);
        let mut left = even.saturating_add(u64::from(number < rest));
        while left > 0 {
            let unit = self::unit(&pool);
            for _ in 0..left.min(REQUEST) {
                let issued = organization.issue(&unit).await.map_err(failure)?;
                if issued.is_permitted && kept < of_each {
                    kept = kept.saturating_add(1);
                    secrets.push(line(&organization, &issued));
                }
            }
            append(&appender, &unit).await?;
            left = left.saturating_sub(REQUEST);
        }
    }
    Ok(secrets)
}

fn unit(pool: &PgPool) -> UnitOfWork {
    let metadata = [("actor".to_owned(), "operator".to_owned())];
    UnitOfWork::new(pool.clone(), Uuid::now_v7(), metadata.into())
}

async fn append(appender: &Appender, unit: &UnitOfWork) -> Result<(), String> {
    match appender.append(unit.request()).await {
        Ok(AppendOutcome::Appended { .. }) => Ok(()),
        Ok(other) => Err(format!("the log is not empty: {other:?}")),
        Err(error) => Err(failure(error)),
    }
}

fn line(organization: &Organization, issued: &Issued) -> String {
    format!(
        "{} {} {}",
        issued.secret.reveal(),
        issued.token_type.as_str(),
        organization.id
    )
}

fn failure(error: impl Error) -> String {
    Report(&error).to_string()
}

#[expect(clippy::print_stderr, reason = "a program of the command line")]
fn say(what: &str) {
    eprintln!("{what}");
}
