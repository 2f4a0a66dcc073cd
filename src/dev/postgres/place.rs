//! Where the cluster lives: in the data directory, or elsewhere when the server's user can't reach that.
//!
//! Nothing in the data directory is changed but the folder `postgres` and the pointer to the folder elsewhere.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};

use super::user::{HELPER_LIMIT, ServerUser};
use super::{StartPostgresError, random_hex};

/// How much of the server's log an error quotes, in bytes.
const LOG_TAIL_BYTES: &str = "2000";
/// Holds the name of the folder elsewhere, in the data directory.
const POINTER: &str = "postgres.elsewhere";

/// Argument: a folder. Says `empty` or `cluster MAJOR`; fails where this user can't work, or holds other things.
const PROBE: &str = r#"
cd "$1" && test -O . && test -w . || exit 1
for entry in * .[!.]*; do
  case $entry in cluster | new.* | '*' | '.[!.]*') ;; *) exit 1 ;; esac
done
if [ -e cluster ]; then echo "cluster $(cat cluster/data/PG_VERSION)"; else echo empty; fi
"#;

/// What a folder that may hold the cluster holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folder {
    Empty,
    HoldsCluster { major: u32 },
}

impl Folder {
    pub(super) fn major(self) -> Option<u32> {
        match self {
            Self::Empty => None,
            Self::HoldsCluster { major } => Some(major),
        }
    }
}

/// Where the cluster stands, seen from the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Inside,
    Elsewhere,
}

/// Where the cluster lives, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) standing: Standing,
    pub(super) user: ServerUser,
}

impl Place {
    /// `postgres` in the data directory where the database's user can work there, else a folder of its own in
    /// `/var/tmp`, which a file in the data directory names (so removing the data directory forgets the data).
    /// A place that already holds a cluster comes first.
    pub(super) async fn choose(data_dir: &Path) -> Result<Self, StartPostgresError> {
        let unusable = |path: &Path, source| StartPostgresError::Folder {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(data_dir).map_err(|source| unusable(data_dir, source))?;
        let data_dir = data_dir
            .canonicalize()
            .map_err(|source| unusable(data_dir, source))?;
        let user = ServerUser::choose().await?;

        let directory = data_dir.join("postgres");
        // Whether this worked shows in the probe.
        let _ = make_private_folder(&directory, user);
        let inside = Self {
            user: user.for_folder(&directory),
            directory,
            standing: Standing::Inside,
        };
        let found = inside.probe().await;
        if matches!(found, Some(Folder::HoldsCluster { .. })) {
            return Ok(inside);
        }
        let pointer = data_dir.join(POINTER);
        if let Some(id) = read_pointer(&pointer) {
            let elsewhere = Self::elsewhere(user, &id).await?;
            if found.is_none() || matches!(elsewhere.probe().await, Some(Folder::HoldsCluster { .. })) {
                return Ok(elsewhere);
            }
        }
        if found.is_some() {
            return Ok(inside);
        }
        let id = random_hex()?;
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&pointer);
        written
            .and_then(|mut file| file.write_all(id.as_bytes()))
            .map_err(|source| unusable(&pointer, source))?;
        Self::elsewhere(user, &id).await
    }

    /// The folder in `/var/tmp`, which anybody could have laid there first: it must belong to the database's user.
    async fn elsewhere(user: ServerUser, id: &str) -> Result<Self, StartPostgresError> {
        let directory = PathBuf::from(format!("/var/tmp/featbit-tokens-{}-{id}", user.uid()));
        let place = Self {
            directory,
            standing: Standing::Elsewhere,
            user,
        };
        let path = place.directory.as_path();
        if path.symlink_metadata().is_err() {
            place
                .shell("umask 077; mkdir \"$1\"", &[path.as_os_str()])
                .await?;
        }
        let found = path
            .symlink_metadata()
            .map_err(|source| place.folder_error(source))?;
        if found.is_dir() && found.uid() == user.uid() && found.mode() & 0o077 == 0 {
            return Ok(place);
        }
        Err(StartPostgresError::NotOurs(place.directory))
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.directory.join("cluster")
    }

    /// What the folder holds; nothing where the user can't work in it, or it holds things not ours.
    pub(super) async fn probe(&self) -> Option<Folder> {
        let said = self.shell(PROBE, &[self.directory.as_os_str()]).await.ok()?;
        if said.trim() == "empty" {
            return Some(Folder::Empty);
        }
        let major = said.trim().strip_prefix("cluster ")?.parse().ok()?;
        Some(Folder::HoldsCluster { major })
    }

    pub(super) async fn shell(
        &self,
        script: &str,
        arguments: &[&OsStr],
    ) -> Result<String, StartPostgresError> {
        self.shell_with_input(script, arguments, "").await
    }

    pub(super) async fn shell_with_input(
        &self,
        script: &str,
        arguments: &[&OsStr],
        input: &str,
    ) -> Result<String, StartPostgresError> {
        let mut all = vec![OsStr::new("-c"), OsStr::new(script), OsStr::new("sh")];
        all.extend_from_slice(arguments);
        self.user.run("sh", &all, input, HELPER_LIMIT).await
    }

    pub(super) async fn log_tail(&self) -> String {
        let log = self.cluster().join("server.log");
        let arguments = [OsStr::new(LOG_TAIL_BYTES), log.as_os_str()];
        self.shell("tail -c \"$1\" \"$2\"", &arguments)
            .await
            .unwrap_or_else(|error| error.to_string())
    }

    pub(super) fn folder_error(&self, source: io::Error) -> StartPostgresError {
        StartPostgresError::Folder {
            path: self.directory.clone(),
            source,
        }
    }
}

/// The identifier a pointer file holds; nothing but one that `random_hex` made.
fn read_pointer(pointer: &Path) -> Option<String> {
    let id = std::fs::read_to_string(pointer).ok()?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Makes the folder, or takes an empty one of root's, for the database's user.
fn make_private_folder(directory: &Path, user: ServerUser) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        // Also when another `dev` made it a moment ago and has not given it away yet.
        Ok(()) | Err(_) => {}
    }
    let found = directory.symlink_metadata()?;
    if let ServerUser::Dropped { uid, gid } = user
        && found.is_dir()
        && found.uid() == 0
        && std::fs::read_dir(directory)?.next().is_none()
    {
        lchown(directory, Some(uid), Some(gid))?;
    }
    Ok(())
}
