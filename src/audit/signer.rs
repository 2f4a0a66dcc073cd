//! The task that signs checkpoints: at every interval it follows the chain from where it signed last, and signs the end only
//! where all of it holds. A log that does not go on from what was signed is never signed again.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::chain::{Chain, Fault, Hash};
use super::checkpoint::{Checkpoint, SigningKey};
use super::directory::{self, Checkpoints, DirectoryError};
use super::read::{ReadError, read};
use crate::report::Report;

/// Checkpoints that are shown.
const SHOWN: usize = 100;

/// With what, where and how often checkpoints are signed.
#[derive(Clone)]
pub struct SignerConfig {
    /// The key.
    pub key: SigningKey,
    /// Where they are written to.
    pub directory: PathBuf,
    /// Between two of them, where something has happened.
    pub interval: Duration,
}

/// What there is to show of signed checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signed {
    /// The key's public half, in hexadecimal; none: nothing is signed.
    pub public_key: Option<String>,
    /// The newest, oldest first.
    pub newest: Vec<Checkpoint>,
    /// Where the log is not what was signed, or its chain is broken.
    pub fault: Option<Fault>,
}

#[derive(Debug, Error)]
enum SignError {
    #[error("the database is out of reach")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("nothing is signed: {0}")]
    Fault(#[from] Fault),
    #[error("a file was not written to its end")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl From<ReadError<Fault>> for SignError {
    fn from(error: ReadError<Fault>) -> Self {
        match error {
            ReadError::Database(error) => Self::Database(error),
            ReadError::Taken(fault) => Self::Fault(fault),
        }
    }
}

/// Signs the log's checkpoints.
pub struct Signer {
    pool: PgPool,
    config: SignerConfig,
    /// As far as it was followed; none: what is in the directory was not looked at yet.
    chain: Option<Chain>,
    signed: watch::Sender<Signed>,
}

impl Signer {
    /// One that tells what it has signed.
    #[must_use]
    pub fn new(pool: PgPool, config: SignerConfig, signed: watch::Sender<Signed>) -> Self {
        signed.send_modify(|signed| signed.public_key = Some(config.key.public_key()));
        Self {
            pool,
            config,
            chain: None,
            signed,
        }
    }

    /// Until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let round = tokio::select! {
                round = self.round() => round,
                () = stop.cancelled() => return,
            };
            if let Err(error) = &round {
                tracing::error!(error = %Report(error), "no checkpoint of the log was signed");
            }
            let fault = match round {
                Err(SignError::Fault(fault)) => Some(fault),
                Ok(()) | Err(_) => None,
            };
            self.signed.send_modify(|signed| signed.fault = fault);
            tokio::select! {
                () = tokio::time::sleep(self.config.interval) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Follows the chain to its end, signs that, and shows what there is.
    async fn round(&mut self) -> Result<(), SignError> {
        let newest = self.newest().await?;
        let mut chain = match (self.chain, newest.last()) {
            (Some(chain), _) => chain,
            (None, Some(last)) => Chain::after(last.position, last.hash().unwrap_or_default()),
            (None, None) => Chain::default(),
        };
        let head: i64 = projections::log::head(&mut *self.pool.acquire().await?).await?;
        self.goes_on_from(&chain).await?;
        let followed = read(&self.pool, chain.position(), head, |link, organization_id| {
            chain.follow(link)?;
            link.is_filed_under(organization_id)?;
            Ok(ControlFlow::Continue(()))
        });
        followed.await?;
        self.chain = Some(chain);
        let is_signed = newest
            .last()
            .is_some_and(|last| last.position >= chain.position());
        if chain.position() > 0 && !is_signed {
            self.sign(&chain).await?;
        }
        let newest = self.newest().await?;
        self.signed.send_modify(|signed| signed.newest = newest);
        Ok(())
    }

    /// What was signed or followed must still be there.
    async fn goes_on_from(&self, chain: &Chain) -> Result<(), SignError> {
        let position = chain.position();
        if position == 0 {
            return Ok(());
        }
        let found = self.event(position).await?;
        let checkpoint = "by this node".to_owned();
        match found {
            Some((hash, _)) if hash == *chain.hash() => Ok(()),
            Some(_) => Err(Fault::Rewritten {
                position,
                from: 1,
                checkpoint,
            }
            .into()),
            None => Err(Fault::Cut {
                from: projections::log::head(&mut *self.pool.acquire().await?)
                    .await?
                    .saturating_add(1),
                signed: position,
                checkpoint,
            }
            .into()),
        }
    }

    async fn sign(&self, chain: &Chain) -> Result<(), SignError> {
        let Some((_, time)) = self.event(chain.position()).await? else {
            return Ok(());
        };
        let checkpoint = self.config.key.sign(chain.position(), chain.hash(), time);
        let directory = self.config.directory.clone();
        Ok(tokio::task::spawn_blocking(move || directory::write(&directory, &checkpoint)).await??)
    }

    async fn event(&self, position: i64) -> Result<Option<(Hash, DateTime<Utc>)>, sqlx::Error> {
        let found: Option<(Vec<u8>, DateTime<Utc>)> =
            sqlx::query_as("select hash, recorded_at from events where position = $1")
                .bind(position)
                .fetch_optional(&self.pool)
                .await?;
        Ok(found.map(|(hash, time)| (hash.try_into().unwrap_or_default(), time)))
    }

    async fn newest(&self) -> Result<Vec<Checkpoint>, SignError> {
        let (directory, keys) = (self.config.directory.clone(), self.config.key.verifying());
        let newest = move || Checkpoints::newest(&directory, &keys, SHOWN);
        Ok(tokio::task::spawn_blocking(newest).await??)
    }
}
