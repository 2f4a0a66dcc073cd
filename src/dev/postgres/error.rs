//! Why the private cluster does not start or stop, said to the person who has to mend it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::{NAME, OLDEST_MAJOR};

/// Why the private PostgreSQL cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartPostgresError {
    /// No server binaries were found.
    #[error(
        "no PostgreSQL server is installed: install it (Debian, Ubuntu: apt-get install postgresql), or name the \
         folder that holds initdb and postgres in POSTGRES_BIN_DIR"
    )]
    NotInstalled,
    /// `POSTGRES_BIN_DIR` is set, and wrong.
    #[error("POSTGRES_BIN_DIR is {0}, which holds no initdb and postgres that the database's user may run")]
    BadBinDir(PathBuf),
    /// The server is too old.
    #[error("PostgreSQL {found} in {directory} is too old: {OLDEST_MAJOR} or later is needed")]
    TooOld {
        /// Major version found.
        found: u32,
        /// Where.
        directory: PathBuf,
    },
    /// The cluster was made by another major version than those installed.
    #[error(
        "the cluster in {directory} was made by PostgreSQL {major}, which was not found: install postgresql-{major}, \
         name the folder of its binaries in POSTGRES_BIN_DIR, or use another data directory"
    )]
    OtherVersion {
        /// Major version the cluster needs.
        major: u32,
        /// The cluster's folder.
        directory: PathBuf,
    },
    /// Another process serves this cluster.
    #[error(
        "another `dev` is using {directory} (its PostgreSQL is process {pid}): stop it, or use another data directory"
    )]
    InUse {
        /// The cluster's folder.
        directory: PathBuf,
        /// The process number of the server.
        pid: u32,
    },
    /// The server of an earlier start does not end.
    #[error(
        "the PostgreSQL of an earlier start (process {pid}) is still shutting down in {directory} after 30 s"
    )]
    StillStopping {
        /// The cluster's folder.
        directory: PathBuf,
        /// The process number of the server.
        pid: u32,
    },
    /// A folder can't be used or made.
    #[error("can't use {path}")]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder elsewhere belongs to somebody else, or others may enter it.
    #[error("{0} is not a private folder of the database's user: remove it")]
    NotOurs(PathBuf),
    /// A helper process could not be run, or not in time.
    #[error("can't run {program} as user {uid}")]
    Run {
        /// The program.
        program: String,
        /// The user it was to run as.
        uid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// A helper process failed.
    #[error("{program} failed: {message}")]
    Failed {
        /// The program.
        program: String,
        /// What it wrote to its standard error.
        message: String,
    },
    /// The server ended instead of serving.
    #[error("PostgreSQL ended at its start ({status}); the end of {directory}/cluster/server.log:\n{log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The cluster's folder.
        directory: PathBuf,
        /// The end of its log.
        log: String,
    },
    /// The server did not accept connections in time.
    #[error(
        "PostgreSQL did not accept connections within 60 s; the end of {directory}/cluster/server.log:\n{log}"
    )]
    NotReady {
        /// The cluster's folder.
        directory: PathBuf,
        /// The end of its log.
        log: String,
    },
    /// The database can't be looked for or made.
    #[error("can't prepare the database {NAME}")]
    Database(#[source] sqlx::Error),
    /// The system gave no randomness for the password.
    #[error("no randomness for the password of the database")]
    Random(#[source] getrandom::Error),
}

/// Why the server can't be said to have stopped well.
#[derive(Debug, thiserror::Error)]
pub enum StopPostgresError {
    /// It did not end in time.
    #[error("PostgreSQL did not stop within 30 s")]
    TooLong,
    /// It ended, but not by an orderly shutdown; nothing is lost, the next start recovers.
    #[error("PostgreSQL did not shut down in order ({0})")]
    Disorderly(ExitStatus),
    /// Its end can't be observed.
    #[error("can't wait for PostgreSQL to stop")]
    Wait(#[source] io::Error),
}
