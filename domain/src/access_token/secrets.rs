//! The digests of the secrets that a token answers to: the last one issued and, for the overlap of a rotation, the one
//! before. Never more than two: rotating again ends the oldest.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::secret::SecretDigest;

/// What a token is recognised by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    current: SecretDigest,
    /// In a place of its own: few tokens have one.
    previous: Option<Box<Previous>>,
}

/// The secret before the last rotation, which works on for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Previous {
    digest: SecretDigest,
    /// From this time on it is no secret of the token any more.
    until: DateTime<Utc>,
}

/// A new secret for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// SHA-256 of the new secret.
    pub digest: SecretDigest,
    /// What people may see of it.
    pub hint: String,
    /// How long the secret before goes on working; zero: not at all.
    pub overlap: TimeDelta,
    /// The time.
    pub now: DateTime<Utc>,
}

impl Rotation {
    /// Until when the secret before goes on working; an overlap never outlives the token's expiry.
    pub(super) fn previous_until(&self, expires_at: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let end = self.now.checked_add_signed(self.overlap)?;
        let end = expires_at.map_or(end, |expires_at| expires_at.min(end));
        (end > self.now).then_some(end)
    }
}

impl Secrets {
    /// Those of a token just issued.
    pub(crate) fn new(digest: SecretDigest) -> Self {
        Self {
            current: digest,
            previous: None,
        }
    }

    /// Those that were written down as [`current`](Self::current) and [`previous`](Self::previous).
    #[must_use]
    pub fn restored(current: SecretDigest, previous: Option<(SecretDigest, DateTime<Utc>)>) -> Self {
        Self {
            current,
            previous: previous.map(|(digest, until)| Box::new(Previous { digest, until })),
        }
    }

    /// The last one issued.
    #[must_use]
    pub fn current(&self) -> SecretDigest {
        self.current
    }

    /// The one before, with the time from which on it is none any more.
    #[must_use]
    pub fn previous(&self) -> Option<(SecretDigest, DateTime<Utc>)> {
        let previous = self.previous.as_ref()?;
        Some((previous.digest, previous.until))
    }

    /// Those after a rotation.
    pub(crate) fn rotated(&self, digest: SecretDigest, previous_until: Option<DateTime<Utc>>) -> Self {
        Self {
            current: digest,
            previous: previous_until.map(|until| {
                Box::new(Previous {
                    digest: self.current,
                    until,
                })
            }),
        }
    }

    /// Is this a secret of the token at this time? The instant at which an overlap ends counts as over.
    #[must_use]
    pub fn accept(&self, digest: &SecretDigest, now: DateTime<Utc>) -> bool {
        self.current == *digest
            || self
                .previous
                .as_ref()
                .is_some_and(|previous| previous.digest == *digest && now < previous.until)
    }

    /// The digests that may be accepted at some time.
    pub fn digests(&self) -> impl Iterator<Item = SecretDigest> {
        [
            Some(self.current),
            self.previous.as_ref().map(|previous| previous.digest),
        ]
        .into_iter()
        .flatten()
    }
}
