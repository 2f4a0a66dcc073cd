//! The membership topic for measurements and soaks: sends what a seed tells, checks what the service has made of it, and copies the same bytes the way that costs least.

mod copy;
mod issue;
mod send;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use bench::membership::Check;
use clap::{Parser, Subcommand};
use featbit_tokens::report::Report;

/// Differences that are shown.
const MAX_SHOWN: usize = 10;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Send a story to the topic, and print how many messages that were
    Send(send::Send),
    /// Make personal tokens of the story's members, and print them
    Issue(issue::Issue),
    /// Hold what became of a story against the model
    Check(Check),
    /// Read the topic from some offsets on and insert its messages into a plain table; print how many there were, and in how
    /// many milliseconds
    Copy(copy::Copy),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Send(send) => send.run().await,
        What::Issue(issue) => issue.run().await,
        What::Check(check) => report(&check).await,
        What::Copy(copy) => copy.run().await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "membership: {}", Report(error.as_ref())).ok();
            ExitCode::FAILURE
        }
    }
}

async fn report(check: &Check) -> Result<(), Box<dyn Error>> {
    let checked = check.run().await?;
    for difference in checked.differences.iter().take(MAX_SHOWN) {
        print(difference)?;
    }
    let count = checked.differences.len();
    print(&format!(
        "{} messages, {} members, {} questions about tokens: {count} differences",
        checked.messages, checked.members, checked.asked
    ))?;
    if count > 0 {
        return Err("the service and the model differ".into());
    }
    Ok(())
}

/// A line on standard output.
pub(crate) fn print(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
