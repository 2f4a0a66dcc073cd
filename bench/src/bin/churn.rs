//! Creates tokens and deactivates them at an even pace, as another node would: through an appender of its own, each by a
//! request of its own. Says how many it was, a line at the end.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use bench::draw::Draw;
use bench::organization::Organization;
use clap::Parser;
use domain::access_token::{AccessToken, AccessTokenCommand, DeactivationReason};
use domain::ids::TokenId;
use featbit_tokens::app::connect;
use featbit_tokens::log::{AppendOutcome, Appender, UnitOfWork};
use featbit_tokens::report::Report;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Requests are handed in this often, several at a time.
const TICK: Duration = Duration::from_millis(50);

/// Create and revoke tokens at a pace.
#[derive(Parser)]
struct Arguments {
    /// Of a node
    #[arg(long, env = "DATABASE_URL")]
    database_url: String,
    /// Tokens that are created in a second, and as many revoked
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// For how long
    #[arg(long, default_value_t = 5)]
    seconds: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    match churn(Arguments::parse()).await {
        Ok(done) => {
            say(&format!("{done}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("error: {}", Report(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

/// How many were created, and revoked.
async fn churn(arguments: Arguments) -> Result<u32, Box<dyn Error>> {
    let pool = connect(&arguments.database_url).await?;
    let stop = CancellationToken::new();
    let (appender, task) = Appender::new(pool.clone());
    let ended = stop.child_token();
    let appending = tokio::spawn(task.run(ended));
    // An organization that nobody else has made.
    let (seed, _) = Uuid::new_v4().as_u64_pair();
    let mut organization = Organization::new(Draw::new(seed, 0), 1);
    let joining = unit(&pool);
    organization.join(&joining).await?;
    append(appender.clone(), joining).await?;

    let ticks_a_second = u32::try_from(1000_u128.checked_div(TICK.as_millis()).unwrap_or(1))?;
    let each = arguments.rate.checked_div(ticks_a_second).unwrap_or(1).max(1);
    let mut ticks = tokio::time::interval(TICK);
    let (mut done, mut to_revoke): (u32, Vec<TokenId>) = (0, Vec::new());
    for _ in 0..arguments.seconds.saturating_mul(ticks_a_second) {
        ticks.tick().await;
        let mut requests = JoinSet::new();
        for token_id in std::mem::take(&mut to_revoke) {
            let unit = unit(&pool);
            let command = AccessTokenCommand::Deactivate(DeactivationReason::ByMember);
            unit.execute::<AccessToken>(&token_id.to_string(), command)
                .await??;
            requests.spawn(append(appender.clone(), unit));
            done = done.saturating_add(1);
        }
        for _ in 0..each {
            let unit = unit(&pool);
            to_revoke.push(organization.issue(&unit).await?.token_id);
            requests.spawn(append(appender.clone(), unit));
        }
        while let Some(appended) = requests.join_next().await {
            appended??;
        }
    }
    stop.cancel();
    appending.await?;
    Ok(done)
}

fn unit(pool: &PgPool) -> UnitOfWork {
    let metadata = [("actor".to_owned(), "operator".to_owned())];
    UnitOfWork::new(pool.clone(), Uuid::now_v7(), metadata.into())
}

async fn append(appender: Appender, unit: UnitOfWork) -> Result<(), String> {
    match appender.append(unit.request()).await {
        Ok(AppendOutcome::Appended { .. }) => Ok(()),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(Report(&error).to_string()),
    }
}

#[expect(clippy::print_stdout, reason = "a program of the command line")]
fn say(what: &str) {
    println!("{what}");
}
