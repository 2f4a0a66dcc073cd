//! With what, where and how often the log's checkpoints are signed. Without a key and a directory nothing is.

use std::path::PathBuf;
use std::time::Duration;

use super::{ConfigError, Environment, invalid};
use crate::audit::{SignerConfig, SigningKey};
use crate::report::Report;

/// Where the key is.
pub(crate) const KEY_PATH: &str = "AUDIT_SIGNING_KEY_PATH";
/// Where signed checkpoints are.
pub(crate) const DIRECTORY: &str = "AUDIT_CHECKPOINT_DIR";
const INTERVAL: &str = "AUDIT_CHECKPOINT_INTERVAL_SECONDS";
/// Seconds between two checkpoints.
const DEFAULT_INTERVAL: u64 = 300;
/// A day.
const MAX_INTERVAL: u64 = 86_400;

/// What the environment says; none where it names neither a key nor a directory. The directory is made where it is not there.
pub(super) fn signer(environment: &Environment) -> Result<Option<SignerConfig>, ConfigError> {
    let seconds: u64 = environment.parse(INTERVAL, DEFAULT_INTERVAL)?;
    if !(1..=MAX_INTERVAL).contains(&seconds) {
        return Err(invalid(INTERVAL, format!("it must be 1 to {MAX_INTERVAL}")));
    }
    let (key, directory) = match (environment.get(KEY_PATH), environment.get(DIRECTORY)) {
        (None, None) => return Ok(None),
        (Some(_), None) => {
            return Err(ConfigError::Missing(
                "AUDIT_CHECKPOINT_DIR (AUDIT_SIGNING_KEY_PATH is)",
            ));
        }
        (None, Some(_)) => {
            return Err(ConfigError::Missing(
                "AUDIT_SIGNING_KEY_PATH (AUDIT_CHECKPOINT_DIR is)",
            ));
        }
        (Some(key), Some(directory)) => (PathBuf::from(key), PathBuf::from(directory)),
    };
    let key = SigningKey::read(&key).map_err(|error| invalid(KEY_PATH, Report(&error)))?;
    std::fs::create_dir_all(&directory)
        .map_err(|error| invalid(DIRECTORY, format!("{}: {error}", directory.display())))?;
    Ok(Some(SignerConfig {
        key,
        directory,
        interval: Duration::from_secs(seconds),
    }))
}
