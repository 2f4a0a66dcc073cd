//! `dev` signs checkpoints of its log with a key that it makes for itself, as a production installation would with its own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::audit::SigningKey;

/// Where the key and the checkpoints are.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    pub(super) key: PathBuf,
    pub(super) checkpoints: PathBuf,
}

impl Audit {
    /// Those in a folder; a key is made where there is none.
    pub(super) fn in_dir(dir: &Path) -> io::Result<Self> {
        let dir = fs::canonicalize(dir)?;
        let audit = Self {
            key: dir.join("audit-key.pem"),
            checkpoints: dir.join("audit-checkpoints"),
        };
        if !audit.key.exists() {
            let mut random = [0; 32];
            getrandom::fill(&mut random).map_err(io::Error::other)?;
            let (_, pem) = SigningKey::from_random(&random).map_err(io::Error::other)?;
            let aside = audit.key.with_extension("new");
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&aside)?;
            file.write_all(pem.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &audit.key)?;
        }
        Ok(audit)
    }
}
