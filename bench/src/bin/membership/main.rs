//! The membership topic for measurements and soaks: sends what a seed tells, checks what the service has made of it against a
//! naive model, and copies the same bytes the way that costs least.

mod check;
mod copy;
mod issue;
mod model;
mod send;
mod story;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use featbit_tokens::report::Report;

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
    Check(check::Check),
    /// Read the topic from some offsets on and insert its messages into a plain table; print how many there were, and in how
    /// many milliseconds
    Copy(copy::Copy),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Send(send) => send.run().await,
        What::Issue(issue) => issue.run().await,
        What::Check(check) => check.run().await,
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

/// A line on standard output.
pub(crate) fn print(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
