//! An export: the log as JSON lines, whose every line holds all that its hash covers. Payload and metadata stand in it byte
//! for byte, so that the chain can be recomputed from the file alone.

use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::PgPool;
use thiserror::Error;

use super::chain::{Chain, Fault, Hash, Link};
use super::read::{ReadError, read};

/// An event of an export, fields in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Line<'a> {
    position: i64,
    /// The stream's kind and id; a member's id is `<organizationId>:<memberId>`.
    #[serde(borrow)]
    ref_type: Cow<'a, str>,
    #[serde(borrow)]
    ref_id: Cow<'a, str>,
    sequence: i64,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    version: Cow<'a, str>,
    time: DateTime<Utc>,
    /// Out of the metadata, for whoever reads along.
    actor: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(with = "hex::serde")]
    previous_hash: Hash,
    #[serde(with = "hex::serde")]
    hash: Hash,
}

/// What is wrong with a line of an export.
#[derive(Debug, Error)]
pub enum LineError {
    /// It is none.
    #[error("position {position}: the line is not one of an export")]
    Malformed {
        /// The position that should have come.
        position: i64,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// It is no text.
    #[error("position {0}: the line is not one of an export: it is not in UTF-8")]
    NoText(i64),
    /// The actor is not the one that the hash covers.
    #[error("position {0}: the actor is not the one in the metadata")]
    Actor(i64),
    /// The hash before it is not that of the line before.
    #[error("position {0}: the previous hash is not the hash of the event before")]
    Previous(i64),
    /// The chain.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl<'a> Line<'a> {
    /// Reads a line; `expected` is the position that should come.
    ///
    /// # Errors
    /// [`LineError::NoText`], [`LineError::Malformed`]
    pub fn parse(bytes: &'a [u8], expected: i64) -> Result<Self, LineError> {
        let text = std::str::from_utf8(bytes).map_err(|_| LineError::NoText(expected))?;
        serde_json::from_str(text).map_err(|source| LineError::Malformed {
            position: expected,
            source,
        })
    }

    /// Its place in the log.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The chain before this line, for a file that begins with it.
    #[must_use]
    pub fn chain_before(&self) -> Chain {
        if self.position == 1 {
            Chain::default()
        } else {
            Chain::after(self.position.saturating_sub(1), self.previous_hash)
        }
    }

    /// Follows a chain to this line.
    ///
    /// # Errors
    /// [`LineError`]
    pub fn follow(&self, chain: &mut Chain) -> Result<(), LineError> {
        let previous = *chain.hash();
        let link = Link {
            position: self.position,
            aggregate_type: &self.ref_type,
            aggregate_id: &self.ref_id,
            sequence: self.sequence,
            event_type: &self.event,
            event_version: &self.version,
            payload: self.data.get(),
            metadata: self.metadata.get(),
            recorded_at: self.time,
            hash: &self.hash,
        };
        // The log's time has microseconds: what is finer would be said and not hashed.
        if !self.time.timestamp_subsec_nanos().is_multiple_of(1_000) {
            return Err(Fault::Changed(self.position).into());
        }
        chain.follow(&link)?;
        if self.previous_hash != previous {
            return Err(LineError::Previous(self.position));
        }
        if self.actor != actor(link.metadata) {
            return Err(LineError::Actor(self.position));
        }
        Ok(())
    }
}

/// Why an export failed.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The log.
    #[error("the log is out of reach")]
    Database(#[from] sqlx::Error),
    /// The output.
    #[error("the export can't be written")]
    Output(#[from] io::Error),
    /// A line.
    #[error("the export can't be written")]
    Json(#[from] serde_json::Error),
    /// Something in it would not stay as it is in a line.
    #[error("position {0}: the event can't be exported as it is stored: `audit verify` says more")]
    Unfit(i64),
}

/// Writes the events from one position to another, both included, a line each.
///
/// # Errors
/// [`ExportError`]; what was written so far is whole lines.
pub async fn export(pool: &PgPool, from: i64, to: i64, output: &mut impl Write) -> Result<(), ExportError> {
    let mut previous: Hash = hash_at(pool, from.saturating_sub(1)).await?;
    let exported = read(pool, from.saturating_sub(1), to, |link, _| {
        previous = write_line(link, previous, output)?;
        Ok(ControlFlow::Continue(()))
    });
    exported.await.map_err(|error| match error {
        ReadError::Database(error) => ExportError::Database(error),
        ReadError::Unreadable(position) => ExportError::Unfit(position),
        ReadError::Taken(error) => error,
    })
}

/// Answers the line's hash.
fn write_line(link: &Link<'_>, previous_hash: Hash, output: &mut impl Write) -> Result<Hash, ExportError> {
    let unfit = || ExportError::Unfit(link.position);
    let hash: Hash = link.hash.try_into().map_err(|_| unfit())?;
    let (data, metadata) = (
        raw(link.payload).ok_or_else(unfit)?,
        raw(link.metadata).ok_or_else(unfit)?,
    );
    let line = Line {
        position: link.position,
        ref_type: link.aggregate_type.into(),
        ref_id: link.aggregate_id.into(),
        sequence: link.sequence,
        event: link.event_type.into(),
        version: link.event_version.into(),
        time: link.recorded_at,
        actor: actor(link.metadata),
        data,
        metadata,
        previous_hash,
        hash,
    };
    serde_json::to_writer(&mut *output, &line)?;
    output.write_all(b"\n")?;
    Ok(hash)
}

/// The hash at a position; zeros before the first, and where nothing stands there.
async fn hash_at(pool: &PgPool, position: i64) -> Result<Hash, sqlx::Error> {
    let hash: Option<Vec<u8>> = sqlx::query_scalar("select hash from events where position = $1")
        .bind(position)
        .fetch_optional(pool)
        .await?;
    Ok(hash.and_then(|hash| hash.try_into().ok()).unwrap_or_default())
}

/// JSON as it is; none where a line would not keep it byte for byte.
fn raw(text: &str) -> Option<&RawValue> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    (raw.get() == text && !text.contains(['\n', '\r'])).then_some(raw)
}

fn actor(metadata: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Metadata {
        actor: Option<String>,
    }
    serde_json::from_str::<Metadata>(metadata).ok()?.actor
}
