//! `audit export` and `audit verify`: the log as evidence, in the database or in a file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use projections::log::head;
use sqlx::PgPool;
use thiserror::Error;

use super::progress::{Progress, say};
use crate::app::connect_for_operator;
use crate::audit::{
    Chain, Checkpoints, DirectoryError, ExportError, Fault, KeyError, Line, LineError, ReadError,
    VerifyingKeys, export, read,
};
use crate::config::audit::{DIRECTORY, KEY_PATH};
use crate::config::{ConfigError, Environment, database_url};
use crate::schema::{self, SchemaError};

/// Bytes of a line of an export; the largest event is a fraction of it.
const MAX_LINE: u64 = 16 * 1024 * 1024;

/// What to do with the log.
#[derive(Clone, Debug, Subcommand)]
pub enum AuditCommand {
    /// Recompute the chain of hashes, and hold it against the signed checkpoints
    Verify(VerifyOptions),
    /// Write the log to standard output, one JSON object a line
    Export {
        /// The first position
        #[arg(long, value_name = "POSITION", default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..))]
        from: i64,
        /// The last position; the newest where none is given
        #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(1..))]
        to: Option<i64>,
        /// How
        #[arg(long, default_value = "jsonl")]
        format: Format,
    },
}

/// How an export is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// One JSON object a line
    Jsonl,
}

/// What to verify, and against what.
#[derive(Args, Clone, Debug)]
pub struct VerifyOptions {
    /// An export, in place of the database
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where the export begins by intention; else it must begin with position 1
    #[arg(long, value_name = "POSITION", requires = "file", value_parser = clap::value_parser!(i64).range(1..))]
    from: Option<i64>,
    /// Where the export ends by intention; else it must reach the last signed checkpoint
    #[arg(long, value_name = "POSITION", requires = "file")]
    to: Option<i64>,
    /// Where signed checkpoints are; else where AUDIT_CHECKPOINT_DIR says
    #[arg(long, value_name = "DIR")]
    checkpoints: Option<PathBuf>,
    /// Whose signatures are believed: PEM files, the public key or the private one, more than once; else AUDIT_SIGNING_KEY_PATH
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
}

/// Why the log could not be exported, or is not what it was.
#[derive(Debug, Error)]
pub enum AuditError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database.
    #[error("the database is out of reach")]
    Database(#[from] sqlx::Error),
    /// The schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There are checkpoints, and no key to check them with.
    #[error(
        "the checkpoints' signatures can't be checked without a key: name it by --key or AUDIT_SIGNING_KEY_PATH"
    )]
    NoKey,
    /// The checkpoints.
    #[error(transparent)]
    Checkpoints(#[from] DirectoryError),
    /// The file.
    #[error("{path} can't be read")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Its head was cut off, or is not there by intention.
    #[error("{path} begins with position {first}, not {expected}; if it is meant to, say --from {first}")]
    Head {
        /// Which.
        path: String,
        /// Its first position.
        first: i64,
        /// The one it should have begun with.
        expected: i64,
    },
    /// There is nothing in it.
    #[error("{0} holds no events")]
    Empty(String),
    /// A line of the file.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The log is not what it was.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Carries the command out.
///
/// # Errors
/// [`AuditError`]
pub async fn audit(environment: &Environment, command: &AuditCommand) -> Result<(), AuditError> {
    match command {
        AuditCommand::Export {
            from,
            to,
            format: Format::Jsonl,
        } => {
            let pool = connect(environment).await?;
            let last = head(&mut *pool.acquire().await?).await?;
            let mut output = BufWriter::new(io::stdout().lock());
            export(&pool, *from, to.map_or(last, |to| to.min(last)), &mut output).await?;
            Ok(output.flush().map_err(ExportError::Output)?)
        }
        AuditCommand::Verify(options) => {
            let checkpoints = checkpoints(environment, options)?;
            let (first, chain) = match &options.file {
                None => {
                    let pool = connect(environment).await?;
                    (1, verify_log(&pool, checkpoints.as_ref()).await?)
                }
                Some(path) => verify_file(path, options, checkpoints.as_ref())?,
            };
            say(&format!(
                "positions {first} to {}: the chain of hashes holds, its last is {}",
                chain.position(),
                hex::encode(chain.hash())
            ));
            say(&match checkpoints
                .map(|checkpoints| checkpoints.between(first.saturating_sub(1), chain.position()))
            {
                None => "not held against signed checkpoints: AUDIT_CHECKPOINT_DIR is not set".to_owned(),
                Some(None) => "not held against signed checkpoints: none is of these positions".to_owned(),
                Some(Some((signed, last))) => {
                    format!("held against {signed} signed checkpoints, the last at position {last}")
                }
            });
            Ok(())
        }
    }
}

async fn connect(environment: &Environment) -> Result<PgPool, AuditError> {
    let pool = connect_for_operator(&database_url(environment)?).await?;
    schema::check(&pool).await?;
    Ok(pool)
}

/// What the log is to be held against; none where nothing was signed.
fn checkpoints(
    environment: &Environment,
    options: &VerifyOptions,
) -> Result<Option<Checkpoints>, AuditError> {
    let directory = options
        .checkpoints
        .clone()
        .or_else(|| environment.path(DIRECTORY));
    let Some(directory) = directory else {
        return Ok(None);
    };
    let mut keys = options.keys.clone();
    if keys.is_empty() {
        keys.extend(environment.path(KEY_PATH));
    }
    if keys.is_empty() {
        return Err(AuditError::NoKey);
    }
    let keys = VerifyingKeys::read(keys.iter().map(PathBuf::as_path))?;
    Ok(Some(Checkpoints::read(&directory, &keys)?))
}

async fn verify_log(pool: &PgPool, checkpoints: Option<&Checkpoints>) -> Result<Chain, AuditError> {
    // Before the log's end is looked at: nobody can have followed it further than that.
    let followed: Option<(String, i64)> = sqlx::query_as(
        "select follower, position from (
             select 'read model ' || name as follower, position from read_models
             union all select 'the ' || name, position from checkpoints) followers
         order by position desc limit 1",
    )
    .fetch_optional(pool)
    .await?;
    let (first, last): (Option<i64>, Option<i64>) =
        sqlx::query_as("select min(position), max(position) from events")
            .fetch_one(pool)
            .await?;
    if let Some(position) = first.filter(|first| *first < 1) {
        return Err(Fault::Doubled(position).into());
    }
    let last = last.unwrap_or(0);
    let mut chain = Chain::default();
    let mut progress = Progress::new("audit verify", 0, last);
    let followed_to_end = read(pool, 0, last, |link, organization_id| {
        chain.follow(link)?;
        link.is_filed_under(organization_id)?;
        if let Some(checkpoints) = checkpoints {
            checkpoints.hold(&chain)?;
        }
        progress.at(link.position, last);
        Ok(ControlFlow::Continue(()))
    });
    followed_to_end.await.map_err(|error| match error {
        ReadError::Database(error) => AuditError::Database(error),
        ReadError::Unreadable(position) => Fault::Unreadable(position).into(),
        ReadError::Taken(fault) => AuditError::Fault(fault),
    })?;
    progress.finish(chain.position());
    if let Some(checkpoints) = checkpoints {
        checkpoints.hold_end(&chain, i64::MAX)?;
    }
    match followed {
        Some((follower, followed)) if followed > chain.position() => Err(Fault::Behind {
            from: chain.position().saturating_add(1),
            follower,
            followed,
        }
        .into()),
        _ => Ok(chain),
    }
}

/// The first position in the file, and the chain to its last.
fn verify_file(
    path: &Path,
    options: &VerifyOptions,
    checkpoints: Option<&Checkpoints>,
) -> Result<(i64, Chain), AuditError> {
    let unreadable = |source| AuditError::File {
        path: path.display().to_string(),
        source,
    };
    let mut input = BufReader::new(File::open(path).map_err(unreadable)?);
    let (begin, to) = (options.from.unwrap_or(1), options.to);
    let mut text = Vec::new();
    let mut followed: Option<Chain> = None;
    loop {
        text.clear();
        input
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut text)
            .map_err(unreadable)?;
        if text.is_empty() {
            break;
        }
        let expected = followed.map_or(begin, |chain| chain.position().saturating_add(1));
        let line = Line::parse(text.strip_suffix(b"\n").unwrap_or(&text), expected)?;
        if followed.is_none() && line.position() != begin {
            return Err(AuditError::Head {
                path: path.display().to_string(),
                first: line.position(),
                expected: begin,
            });
        }
        let mut chain = followed.unwrap_or_else(|| line.chain_before());
        if let Some(checkpoints) = checkpoints {
            checkpoints.hold(&chain)?;
        }
        line.follow(&mut chain)?;
        if let Some(checkpoints) = checkpoints {
            checkpoints.hold(&chain)?;
        }
        followed = Some(chain);
    }
    let chain = followed.ok_or_else(|| AuditError::Empty(path.display().to_string()))?;
    if let Some(checkpoints) = checkpoints {
        checkpoints.hold_end(&chain, to.unwrap_or(i64::MAX))?;
    }
    match to {
        Some(to) if to > chain.position() => Err(Fault::Missing(chain.position().saturating_add(1)).into()),
        _ => Ok((begin, chain)),
    }
}
