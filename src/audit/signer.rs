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
            ReadError::Unreadable(position) => Self::Fault(Fault::Unreadable(position)),
            ReadError::Taken(fault) => Self::Fault(fault),
        }
    }
}

/// Signs the log's checkpoints.
pub struct Signer {
    pool: PgPool,
    config: SignerConfig,
    /// As far as it was followed.
    chain: Chain,
    /// What is in the directory was not looked at yet.
    is_new: bool,
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
            chain: Chain::default(),
            is_new: true,
            signed,
        }
    }

    /// Until it is told to stop. A fault stays: what was once seen to be broken is neither signed nor shown as whole again,
    /// until somebody has looked after it and starts the node anew.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let round = tokio::select! {
                round = self.round() => round,
                () = stop.cancelled() => return,
            };
            if let Err(error) = round {
                tracing::error!(error = %Report(&error), "no checkpoint of the log was signed");
                if let SignError::Fault(fault) = error {
                    self.signed.send_modify(|signed| signed.fault = Some(fault));
                    return stop.cancelled().await;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.config.interval) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Follows the chain to its end, signs that, and shows what there is.
    async fn round(&mut self) -> Result<(), SignError> {
        if self.is_new {
            let newest = self.newest().await?;
            if let Some(last) = newest.last() {
                self.chain = Chain::after(last.position, last.hash().unwrap_or_default());
            }
            self.signed.send_modify(|signed| signed.newest = newest);
            self.is_new = false;
        }
        let head: i64 = projections::log::head(&mut *self.pool.acquire().await?).await?;
        self.goes_on_from(&self.chain).await?;
        // What was followed before an error need not be followed again.
        let chain = &mut self.chain;
        read(&self.pool, chain.position(), head, |link, organization_id| {
            chain.follow(link)?;
            link.is_filed_under(organization_id)?;
            Ok(ControlFlow::Continue(()))
        })
        .await?;
        let signed = self.signed.borrow().newest.last().map(|last| last.position);
        if self.chain.position() > signed.unwrap_or(0) {
            self.sign().await?;
        }
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

    async fn sign(&self) -> Result<(), SignError> {
        let position = self.chain.position();
        let Some((_, time)) = self.event(position).await? else {
            return Ok(());
        };
        let checkpoint = self.config.key.sign(position, self.chain.hash(), time);
        let (directory, written) = (self.config.directory.clone(), checkpoint.clone());
        tokio::task::spawn_blocking(move || directory::write(&directory, &written)).await??;
        self.signed.send_modify(|signed| {
            signed.newest.push(checkpoint);
            let old = signed.newest.len().saturating_sub(SHOWN);
            signed.newest.drain(..old);
        });
        Ok(())
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
