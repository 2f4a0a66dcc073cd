//! The command line. Exit 0: done; 1: failed, with the reason on standard error; 2: wrong usage.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use featbit_tokens::app::{App, connect};
use featbit_tokens::config::{Config, Environment, database_url};
use featbit_tokens::report::Report;
use featbit_tokens::{dev, operator, schema};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Events are many small pieces that one thread makes and another drops: the system's allocator took more than a third of a
/// node's time for them, and mimalloc a sixth. This one hands out a piece without looking into it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The access-token authority for FeatBit.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything embedded: a private PostgreSQL, a broker, a demo organization, the service
    Dev {
        /// Where everything is kept
        #[arg(long, value_name = "DIR", default_value = ".featbit-tokens")]
        data_dir: PathBuf,
        /// Where to listen; port 0 picks a free one
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5080")]
        http: SocketAddr,
        /// Use this Kafka instead of the embedded broker
        #[arg(long, value_name = "SERVERS")]
        kafka_bootstrap: Option<String>,
        /// Use this PostgreSQL instead of a private one
        #[arg(long, value_name = "URL")]
        database_url: Option<String>,
    },
    /// Run the service, configured by the environment
    Serve,
    /// Bring the database's schema up to date (needs DATABASE_URL)
    Migrate,
    /// Rebuild read models from the log, beside the live ones, and switch to them (needs DATABASE_URL)
    Replay(operator::ReplayOptions),
    /// Export the log, or verify that it is what it was (needs DATABASE_URL, or a file)
    Audit {
        #[command(subcommand)]
        command: operator::AuditCommand,
    },
    /// The membership messages that could not be used: list and release them (needs DATABASE_URL)
    #[command(subcommand)]
    Parked(operator::ParkedCommand),
    /// Print the OpenAPI 3.1 document, as GET /openapi.json answers it
    Openapi,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error.as_ref()),
    }
}

async fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Dev {
            data_dir,
            http,
            kafka_bootstrap,
            database_url,
        } => {
            log_to_stderr("warn")?;
            Ok(dev::run(dev::DevOptions {
                data_dir,
                http,
                kafka_bootstrap,
                database_url,
            })
            .await?)
        }
        Command::Serve => {
            log_to_stderr("info,sqlx=warn")?;
            serve().await
        }
        Command::Migrate => {
            log_to_stderr("warn")?;
            let pool = connect(&database_url(&Environment::of_process())?).await?;
            Ok(schema::migrate(&pool).await?)
        }
        Command::Replay(options) => {
            log_to_stderr("warn")?;
            Ok(operator::replay(&database_url(&Environment::of_process())?, &options).await?)
        }
        Command::Audit { command } => {
            log_to_stderr("warn")?;
            Ok(operator::audit(&Environment::of_process(), &command).await?)
        }
        Command::Parked(command) => {
            log_to_stderr("warn")?;
            Ok(operator::parked(&database_url(&Environment::of_process())?, command).await?)
        }
        Command::Openapi => {
            let document = featbit_tokens::http::document()?;
            Ok(std::io::stdout().write_all(document.as_bytes())?)
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let app = App::start(Config::from_environment(&Environment::of_process())?).await?;
    let stopped = tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        () = app.failed() => Err("a task has ended that the service can't do without".into()),
    };
    tracing::info!("stopping");
    app.stop().await;
    stopped
}

/// `RUST_LOG` says what, `LOG_FORMAT` how.
fn log_to_stderr(otherwise: &str) -> Result<(), Box<dyn Error>> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(directives).map_err(|error| format!("RUST_LOG is not valid: {error}"))?
        }
        _ => EnvFilter::new(otherwise),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match std::env::var("LOG_FORMAT").as_deref() {
        Ok("json") => logs.json().init(),
        Ok("text" | "") | Err(_) => logs.init(),
        Ok(other) => return Err(format!("LOG_FORMAT is not valid: {other} is neither text nor json").into()),
    }
    Ok(())
}

#[expect(
    clippy::print_stderr,
    reason = "the reason of a failure goes to standard error, whatever is logged"
)]
fn failed(error: &dyn Error) -> ExitCode {
    eprintln!("featbit-tokens: {}", Report(error));
    ExitCode::FAILURE
}
