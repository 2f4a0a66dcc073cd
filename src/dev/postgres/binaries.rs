//! Finding the installed server: initdb and postgres, of a version that fits.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::user::{HELPER_LIMIT, ServerUser};
use super::{OLDEST_MAJOR, StartPostgresError};

/// Where `initdb` and `postgres` are.
#[derive(Debug)]
pub(super) struct Binaries {
    pub(super) directory: PathBuf,
}

impl Binaries {
    /// `POSTGRES_BIN_DIR`; else Debian's folders, `pg_config` and the search path, of which the newest version
    /// is taken, or the one that made the cluster.
    pub(super) async fn find(
        user: ServerUser,
        cluster: &Path,
        made_by: Option<u32>,
    ) -> Result<Self, StartPostgresError> {
        let named = std::env::var_os("POSTGRES_BIN_DIR").filter(|value| !value.is_empty());
        let candidates = match &named {
            Some(directory) => std::path::absolute(directory).into_iter().collect(),
            None => installed_folders(user).await,
        };
        let mut found = Vec::new();
        for directory in candidates {
            if let Some(major) = major_version(user, &directory).await {
                found.push((major, directory));
            }
        }
        // Stable: among equal versions the first named wins.
        found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
        let newest = found
            .first()
            .map(|(major, directory)| (*major, directory.clone()));
        let chosen = match (made_by, newest) {
            (_, None) => match named {
                Some(directory) => return Err(StartPostgresError::BadBinDir(directory.into())),
                None => return Err(StartPostgresError::NotInstalled),
            },
            (None, newest) => newest,
            (Some(made_by), _) => found.into_iter().find(|(major, _)| *major == made_by),
        };
        match (chosen, made_by) {
            (Some((found, directory)), _) if found < OLDEST_MAJOR => {
                Err(StartPostgresError::TooOld { found, directory })
            }
            (Some((_, directory)), _) => Ok(Self { directory }),
            (None, Some(major)) => Err(StartPostgresError::OtherVersion {
                major,
                directory: cluster.to_owned(),
            }),
            (None, None) => Err(StartPostgresError::NotInstalled),
        }
    }
}

/// Folders that may hold a server's binaries, best first.
async fn installed_folders(user: ServerUser) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| {
            versions
                .flatten()
                .map(|version| version.path().join("bin"))
                .collect()
        })
        .unwrap_or_default();
    if let Ok(said) = user
        .run("pg_config", &[OsStr::new("--bindir")], "", HELPER_LIMIT)
        .await
    {
        folders.push(PathBuf::from(said.trim()));
    }
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&search_path));
    folders.retain(|folder| folder.is_absolute() && folder.join("initdb").exists());
    folders
}

/// The major version of the server in a folder, if the user can run it: `postgres (PostgreSQL) 15.14 (Debian …)`.
async fn major_version(user: ServerUser, directory: &Path) -> Option<u32> {
    user.run(
        directory.join("initdb"),
        &[OsStr::new("--version")],
        "",
        HELPER_LIMIT,
    )
    .await
    .ok()?;
    let program = directory.join("postgres");
    let said = user
        .run(program, &[OsStr::new("--version")], "", HELPER_LIMIT)
        .await
        .ok()?;
    let (_, version) = said.split_once(") ")?;
    version
        .split(|character: char| !character.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}
