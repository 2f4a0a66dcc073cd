//! `parked`: the membership messages that could not be used, of every organization and of none, and releasing them; for the
//! day the only administrator is the one who is blocked. What it changes is recorded with the actor `operator`.

use std::io::Write;

use clap::Subcommand;
use projections::parked::{self, ParkedMessage};
use sqlx::PgPool;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::progress::say;
use crate::app::connect_for_operator;
use crate::clock::Clock;
use crate::commands::{Actor, CommandError, Commands};
use crate::intake::member_events::understand;
use crate::log::Appender;
use crate::schema::{self, SchemaError};

/// Messages that are read at once.
const PAGE: i64 = 1000;

/// What to do with parked messages.
#[derive(Clone, Debug, Subcommand)]
pub enum ParkedCommand {
    /// Print them, oldest first: id, when, organization, member, type, reason, partition and offset, with tabs between
    List,
    /// Take what is parked of whoever the message is about, in its order, as far as it can be taken now
    Retry {
        /// The message's id, as `list` prints it
        id: Uuid,
    },
    /// Give a message up: it will never be taken
    Drop {
        /// The message's id, as `list` prints it
        id: Uuid,
    },
}

/// Why it could not be done.
#[derive(Debug, Error)]
pub enum ParkedError {
    /// The database.
    #[error("the database is out of reach")]
    Database(#[from] sqlx::Error),
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The command.
    #[error(transparent)]
    Command(CommandError),
    /// No such message.
    #[error("no message {0} is parked")]
    NotParked(Uuid),
    /// It was tried, and stays.
    #[error("{0} messages stay parked; `parked list` says why")]
    Stay(usize),
    /// Nobody reads along.
    #[error("standard output is closed")]
    Output(#[source] std::io::Error),
}

/// Lists or releases parked messages.
///
/// # Errors
/// [`ParkedError`]; what stays parked after a retry is one.
pub async fn parked(database_url: &str, command: ParkedCommand) -> Result<(), ParkedError> {
    let pool = connect_for_operator(database_url).await?;
    schema::check(&pool).await?;
    match command {
        ParkedCommand::List => list(&pool).await,
        ParkedCommand::Retry { id } => {
            let retried = with_commands(&pool, async |commands| {
                commands.retry_parked(&Actor::Operator, id, understand).await
            });
            let taken = retried.await.map_err(|error| named(error, id))?.value;
            say(&format!(
                "applied {}, repeated {}, stale {}",
                taken.applied, taken.repeated, taken.stale
            ));
            match taken.parked {
                0 => Ok(()),
                stay => Err(ParkedError::Stay(stay)),
            }
        }
        ParkedCommand::Drop { id } => {
            let dropped = with_commands(&pool, async |commands| {
                commands.drop_parked(&Actor::Operator, id, understand).await
            });
            dropped.await.map_err(|error| named(error, id))?;
            say("dropped");
            Ok(())
        }
    }
}

fn named(error: CommandError, id: Uuid) -> ParkedError {
    match error {
        CommandError::NotFound => ParkedError::NotParked(id),
        error => ParkedError::Command(error),
    }
}

/// Commands that write through an appender of their own, which ends with them.
async fn with_commands<T>(pool: &PgPool, work: impl AsyncFnOnce(Commands) -> T) -> T {
    let (appender, task) = Appender::new(pool.clone());
    let commands = Commands::new(pool.clone(), appender, Clock::default(), 0);
    let stop = CancellationToken::new();
    let working = async {
        let result = work(commands).await;
        stop.cancel();
        result
    };
    let ((), result) = tokio::join!(task.run(stop.clone()), working);
    result
}

async fn list(pool: &PgPool) -> Result<(), ParkedError> {
    let mut connection = pool.acquire().await?;
    let mut output = std::io::stdout().lock();
    let mut nth = 0;
    loop {
        let page = parked::after(&mut connection, nth, PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        nth = *last;
        for (_, message) in &page {
            writeln!(output, "{}", line(message)).map_err(ParkedError::Output)?;
        }
    }
}

/// A message may say anything: what could change the line is shown escaped.
fn line(message: &ParkedMessage) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        message.id.to_string(),
        message.received_at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        or_none(message.organization_id.map(|id| id.to_string())),
        or_none(message.member_id.map(|id| id.to_string())),
        or_none(
            message
                .event_type
                .as_ref()
                .map(|text| text.escape_debug().to_string()),
        ),
        message.reason.clone(),
        or_none(message.partition.map(|partition| partition.to_string())),
        or_none(message.message_offset.map(|offset| offset.to_string())),
    ]
    .join("\t")
}
