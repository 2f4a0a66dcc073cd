//! The chain: each event's hash covers the event and the hash before it, as `hashed_contents` and `event_hash` define it in
//! the migrations. Recomputed here, independently of the database.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

/// A SHA-256.
pub type Hash = [u8; 32];

/// An event as the chain covers it.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Its place in the log.
    pub position: i64,
    /// Its stream's kind.
    pub aggregate_type: &'a str,
    /// Its stream's id.
    pub aggregate_id: &'a str,
    /// Its place in its stream.
    pub sequence: i64,
    /// What happened.
    pub event_type: &'a str,
    /// In which shape it is told.
    pub event_version: &'a str,
    /// Byte for byte as it is stored.
    pub payload: &'a str,
    /// Byte for byte as it is stored.
    pub metadata: &'a str,
    /// When.
    pub recorded_at: DateTime<Utc>,
    /// What it is said to hash to.
    pub hash: &'a [u8],
}

impl Link<'_> {
    /// What it hashes to after another hash.
    #[must_use]
    pub fn hash_after(&self, previous: &Hash) -> Hash {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            // No field of PostgreSQL's is longer than 1 GiB.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            hash.update(length.to_be_bytes());
            hash.update(bytes);
        };
        field(&self.position.to_be_bytes());
        field(previous);
        field(self.aggregate_type.as_bytes());
        field(self.aggregate_id.as_bytes());
        field(&self.sequence.to_be_bytes());
        field(self.event_type.as_bytes());
        field(self.event_version.as_bytes());
        field(self.payload.as_bytes());
        field(self.metadata.as_bytes());
        field(&self.recorded_at.timestamp_micros().to_be_bytes());
        hash.finalize().into()
    }

    /// The column that says whose event it is is not covered by the hash: it must be what the event itself says.
    ///
    /// # Errors
    /// [`Fault::Misfiled`]
    pub fn is_filed_under(&self, organization_id: Uuid) -> Result<(), Fault> {
        #[derive(Deserialize)]
        struct Payload {
            #[serde(rename = "organizationId")]
            organization_id: Uuid,
        }
        match serde_json::from_str::<Payload>(self.payload) {
            Ok(payload) if payload.organization_id == organization_id => Ok(()),
            Ok(_) | Err(_) => Err(Fault::Misfiled(self.position)),
        }
    }
}

/// What is wrong with a log, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// No event.
    #[error("position {0}: the event is missing")]
    Missing(i64),
    /// Another event stands there too.
    #[error("position {0}: there is more than one event, or one before the beginning")]
    Doubled(i64),
    /// It, or the one before it, is not the one that was written.
    #[error("position {0}: the event's hash is not that of the event and the hash before it")]
    Changed(i64),
    /// It holds something that no append writes.
    #[error("position {0}: the event holds what can't be read, and so not what was written")]
    Unreadable(i64),
    /// It stands under another organization than its own.
    #[error("position {0}: the event is filed under another organization than the one it names")]
    Misfiled(i64),
    /// The chain holds, but it is not the one that was signed.
    #[error(
        "position {position}: the event's hash is not the one that was signed ({checkpoint}): the log was written anew, \
         from position {from} on or later"
    )]
    Rewritten {
        /// Of the signed event.
        position: i64,
        /// The first one that may be another.
        from: i64,
        /// Where the signature is.
        checkpoint: String,
    },
    /// It ends before what somebody has already followed.
    #[error(
        "position {from}: the event is missing, and all after it: {follower} has come to position {followed}"
    )]
    Behind {
        /// The first that is missing.
        from: i64,
        /// Who.
        follower: String,
        /// To where.
        followed: i64,
    },
    /// It ends before an event that was signed.
    #[error(
        "position {from}: the event is missing, and all after it: position {signed} was signed ({checkpoint})"
    )]
    Cut {
        /// The first that is missing.
        from: i64,
        /// The last that was signed.
        signed: i64,
        /// Where the signature is.
        checkpoint: String,
    },
}

/// A chain as far as it was followed; at first, before position 1, its hash is all zeros.
#[derive(Clone, Default, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    position: i64,
    hash: Hash,
}

impl Chain {
    /// A chain of which this was the last that was seen.
    #[must_use]
    pub fn after(position: i64, hash: Hash) -> Self {
        Self { position, hash }
    }

    /// The last position that was followed.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// Follows it to the next event.
    ///
    /// # Errors
    /// [`Fault`], which is the first there is.
    pub fn follow(&mut self, link: &Link<'_>) -> Result<(), Fault> {
        let expected = self.position.saturating_add(1);
        if link.position > expected {
            return Err(Fault::Missing(expected));
        }
        if link.position < expected {
            return Err(Fault::Doubled(link.position));
        }
        let hash = link.hash_after(&self.hash);
        if link.hash != hash {
            return Err(Fault::Changed(expected));
        }
        *self = Self::after(expected, hash);
        Ok(())
    }
}
