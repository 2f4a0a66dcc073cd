//! `replay`: rebuilds read models beside the live ones and switches to them, or compares them, while nodes go on.

use clap::Args;
use projections::compare::compare;
use projections::log::head;
use projections::rebuild::{Leftovers, Rebuild, RebuildError, Switched};
use projections::replay::{Goal, Replay};
use projections::runner::ReadModel;
use thiserror::Error;

use super::progress::{Progress, say};
use crate::app::connect_for_operator;
use crate::report::Report;
use crate::schema::{self, SchemaError};

/// Differences that are shown of one read model.
const MAX_SHOWN: i64 = 100;

/// What to replay.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub struct ReplayOptions {
    /// Which
    #[arg(value_name = "READ_MODEL", value_parser = read_model)]
    read_models: Vec<ReadModel>,
    /// All of them
    #[arg(long, conflicts_with = "read_models")]
    all: bool,
    /// Don't switch: compare with what is live, all of them where none is named; exit 1 where there are differences
    #[arg(long)]
    verify: bool,
}

fn read_model(name: &str) -> Result<ReadModel, String> {
    let known = ReadModel::ALL;
    known
        .into_iter()
        .find(|read_model| read_model.name() == name)
        .ok_or_else(|| {
            let names = known.map(ReadModel::name).join(", ");
            format!("there is no such read model; there are: {names}")
        })
}

/// Why a replay failed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The database.
    #[error("the database is out of reach")]
    Database(#[from] sqlx::Error),
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The replay. What is live is as it was.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// What is live is not what the log says.
    #[error("{0} rows differ from a replay")]
    Differs(i64),
}

/// Carries the command out.
///
/// # Errors
/// [`ReplayError`]; what is live is as it was. What was filled so far is gone on with by the next replay.
pub async fn replay(database_url: &str, options: &ReplayOptions) -> Result<(), ReplayError> {
    let pool = connect_for_operator(database_url).await?;
    schema::check(&pool).await?;
    let (leftovers, goal) = if options.verify {
        (Leftovers::Keep, Goal::Live)
    } else {
        (Leftovers::Resume, Goal::End)
    };
    let named = &options.read_models;
    let is_asked_for = |read_model: &ReadModel| named.is_empty() || named.contains(read_model);
    let mut rebuilds = Vec::new();
    for read_model in ReadModel::ALL.into_iter().filter(is_asked_for) {
        rebuilds.push(Rebuild::begin(pool.clone(), read_model, leftovers).await?);
    }
    let mut replay = Replay::of(pool.clone(), rebuilds, goal).await?;
    let mut end = head(&mut *pool.acquire().await?).await?;
    let mut goes_on = replay.step().await?;
    let from = replay.position();
    if from > 0 {
        say(&format!(
            "going on from a replay that was interrupted after {from} events"
        ));
    }
    let mut progress = Progress::new("replay", from, end);
    while goes_on {
        goes_on = replay.step().await?;
        if replay.position() >= end {
            end = head(&mut *pool.acquire().await?).await?;
        }
        progress.at(replay.position(), end);
    }
    progress.finish(replay.position());
    let mut differing: i64 = 0;
    for rebuild in replay.into_rebuilds() {
        if options.verify {
            differing = differing.saturating_add(verify(rebuild).await?);
        } else {
            switch(rebuild).await?;
        }
    }
    if differing > 0 {
        return Err(ReplayError::Differs(differing));
    }
    Ok(())
}

async fn switch(rebuild: Rebuild) -> Result<(), ReplayError> {
    let (name, version) = (rebuild.read_model().name(), rebuild.version());
    let Switched { position, leftover } = rebuild.switch().await?;
    say(&format!(
        "{name}: version {version} is live, at position {position}"
    ));
    if let Some(error) = leftover {
        say(&format!(
            "{name}: the tables of the version before are still there, the next replay drops them: {}",
            Report(&error)
        ));
    }
    Ok(())
}

/// How many rows differ.
async fn verify(rebuild: Rebuild) -> Result<i64, ReplayError> {
    let name = rebuild.read_model().name();
    let comparison = compare(&rebuild, MAX_SHOWN).await?;
    rebuild.discard().await?;
    for difference in &comparison.differences {
        say(&format!("{name}: {difference}"));
    }
    let (position, differing) = (comparison.position, comparison.differing);
    if differing == 0 {
        say(&format!("{name}: equal to a replay at position {position}"));
    } else {
        say(&format!("{name}: {differing} rows differ at position {position}"));
    }
    Ok(differing)
}
