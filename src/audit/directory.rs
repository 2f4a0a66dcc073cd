//! The directory of signed checkpoints: a file for each, written whole or not at all, never changed. Any number of nodes may
//! write to one directory: what two write under one name is the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use uuid::Uuid;

use super::chain::{Chain, Fault};
use super::checkpoint::{Checkpoint, VerifyingKeys};

/// A checkpoint's file is shorter than this.
const MAX_FILE: u64 = 4 * 1024;

/// Why checkpoints can't be read or written.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The directory, or a file in it.
    #[error("{path} can't be used")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file is called like a checkpoint and is none.
    #[error("{0} is no signed checkpoint")]
    Malformed(String),
    /// It is one, but of somebody else.
    #[error("{0}: the signature is not valid, or by a key that was not named")]
    Untrusted(String),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    move |source| DirectoryError::Io {
        path: path.display().to_string(),
        source,
    }
}

/// Signed checkpoints, by position; one for each hash that was signed there, with the name of its file.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints(BTreeMap<i64, Vec<(Checkpoint, String)>>);

impl Checkpoints {
    /// All that are in a directory; each must be signed by one of these keys.
    ///
    /// # Errors
    /// [`DirectoryError`]
    pub fn read(directory: &Path, keys: &VerifyingKeys) -> Result<Self, DirectoryError> {
        let mut checkpoints = Self::default();
        for path in files(directory)? {
            let name = path.display().to_string();
            let checkpoint = read_file(&path)?;
            if !keys.have_signed(&checkpoint) {
                return Err(DirectoryError::Untrusted(name));
            }
            checkpoints
                .0
                .entry(checkpoint.position)
                .or_default()
                .push((checkpoint, name));
        }
        Ok(checkpoints)
    }

    /// The newest that are in a directory, oldest first, and signed by one of these keys; what else is there is left alone.
    ///
    /// # Errors
    /// Where the directory can't be read.
    pub fn newest(
        directory: &Path,
        keys: &VerifyingKeys,
        at_most: usize,
    ) -> Result<Vec<Checkpoint>, DirectoryError> {
        let mut newest: Vec<Checkpoint> = files(directory)?
            .iter()
            .rev()
            .filter_map(|path| read_file(path).ok())
            .filter(|checkpoint| keys.have_signed(checkpoint))
            .take(at_most)
            .collect();
        newest.reverse();
        Ok(newest)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them are of positions from one to another, and the last of these; none where none is.
    #[must_use]
    pub fn between(&self, from: i64, to: i64) -> Option<(usize, i64)> {
        let positions = from..=to.max(from);
        let last = self.0.range(positions.clone()).next_back()?;
        let signed = self.0.range(positions).map(|(_, signed)| signed.len()).sum();
        Some((signed, *last.0))
    }

    /// Holds the chain, as far as it was just followed, against what was signed there.
    ///
    /// # Errors
    /// [`Fault::Rewritten`]
    pub fn hold(&self, chain: &Chain) -> Result<(), Fault> {
        let position = chain.position();
        for (checkpoint, name) in self.0.get(&position).into_iter().flatten() {
            if checkpoint.hash().as_ref() != Some(chain.hash()) {
                let before = self.0.range(..position).next_back();
                return Err(Fault::Rewritten {
                    position,
                    from: before.map_or(0, |(position, _)| *position).saturating_add(1),
                    checkpoint: name.clone(),
                });
            }
        }
        Ok(())
    }

    /// Holds the end of a chain against what was signed, up to a position.
    ///
    /// # Errors
    /// [`Fault::Cut`]
    pub fn hold_end(&self, chain: &Chain, until: i64) -> Result<(), Fault> {
        let later = self.0.range(..=until).next_back();
        match later.and_then(|(position, signed)| Some((*position, signed.first()?))) {
            Some((signed, (_, name))) if signed > chain.position() => Err(Fault::Cut {
                from: chain.position().saturating_add(1),
                signed,
                checkpoint: name.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// Writes a checkpoint; where it is there already, it stays.
///
/// # Errors
/// Where the directory can't be written to.
pub(super) fn write(directory: &Path, checkpoint: &Checkpoint) -> Result<(), DirectoryError> {
    let path = directory.join(checkpoint.file_name());
    let aside = directory.join(format!(".{}", Uuid::now_v7().simple()));
    let written = || {
        let mut file = fs::File::create_new(&aside)?;
        serde_json::to_writer(&file, checkpoint)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        // Whole at once: whoever reads finds all of it or nothing.
        fs::rename(&aside, &path)?;
        fs::File::open(directory)?.sync_all()
    };
    written().map_err(|source| {
        fs::remove_file(&aside).ok();
        io_error(&path)(source)
    })
}

/// The files that are called like checkpoints, in the order of positions.
fn files(directory: &Path) -> Result<Vec<PathBuf>, DirectoryError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(io_error(directory))? {
        let path = entry.map_err(io_error(directory))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.ends_with(".json") && name.starts_with(|first: char| first.is_ascii_digit()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<Checkpoint, DirectoryError> {
    use std::io::Read;
    let mut text = String::new();
    let file = fs::File::open(path).map_err(io_error(path))?;
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(io_error(path))?;
    serde_json::from_str(&text).map_err(|_| DirectoryError::Malformed(path.display().to_string()))
}
