//! The user the server runs as, and running programs as that user.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::StartPostgresError;

/// How long a helper process may take, `initdb` aside.
pub(super) const HELPER_LIMIT: Duration = Duration::from_secs(10);

/// The user the server runs as. PostgreSQL refuses to run as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerUser {
    Ourselves { uid: u32 },
    Dropped { uid: u32, gid: u32 },
}

impl ServerUser {
    /// Ourselves; where that is root, the user `postgres`, or else `nobody`.
    pub(super) async fn choose() -> Result<Self, StartPostgresError> {
        let uid = system_id("-u", None).await?;
        if uid != 0 {
            return Ok(Self::Ourselves { uid });
        }
        let name = if system_id("-u", Some("postgres")).await.is_ok() {
            "postgres"
        } else {
            "nobody"
        };
        let (uid, gid) = (
            system_id("-u", Some(name)).await?,
            system_id("-g", Some(name)).await?,
        );
        Ok(Self::Dropped { uid, gid })
    }

    /// The same, but for a folder that already has an owner other than root: then that one, to find its data again.
    pub(super) fn for_folder(self, folder: &Path) -> Self {
        match (self, folder.symlink_metadata()) {
            (Self::Dropped { .. }, Ok(found)) if found.is_dir() && found.uid() != 0 && found.gid() != 0 => {
                Self::Dropped {
                    uid: found.uid(),
                    gid: found.gid(),
                }
            }
            _ => self,
        }
    }

    pub(super) fn uid(self) -> u32 {
        match self {
            Self::Ourselves { uid } | Self::Dropped { uid, .. } => uid,
        }
    }

    /// A command to run as this user, in no particular folder and without the caller's PostgreSQL settings.
    /// (`uid` makes std clear the supplementary groups, too.)
    pub(super) fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        if let Self::Dropped { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a program to its end; its standard output where it succeeds.
    pub(super) async fn run(
        self,
        program: impl AsRef<OsStr>,
        arguments: &[&OsStr],
        input: &str,
        limit: Duration,
    ) -> Result<String, StartPostgresError> {
        let mut command = self.command(program.as_ref());
        command.args(arguments);
        let name = program.as_ref().to_string_lossy().into_owned();
        let output = match timeout(limit, output_of(command, input)).await {
            Ok(Ok(output)) => output,
            Ok(Err(source)) => {
                return Err(StartPostgresError::Run {
                    program: name,
                    uid: self.uid(),
                    source,
                });
            }
            Err(_) => {
                let source = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("not done after {} s", limit.as_secs()),
                );
                return Err(StartPostgresError::Run {
                    program: name,
                    uid: self.uid(),
                    source,
                });
            }
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = format!(
            "{} ({})",
            String::from_utf8_lossy(&output.stderr).trim(),
            output.status
        );
        Err(StartPostgresError::Failed {
            program: name,
            message,
        })
    }
}

/// What `id` says of a user, or of ourselves.
async fn system_id(option: &str, name: Option<&str>) -> Result<u32, StartPostgresError> {
    let arguments: Vec<&OsStr> = [Some(option), name]
        .into_iter()
        .flatten()
        .map(OsStr::new)
        .collect();
    let said = ServerUser::Ourselves { uid: 0 }
        .run("id", &arguments, "", HELPER_LIMIT)
        .await?;
    said.trim().parse().map_err(|_| StartPostgresError::Failed {
        program: "id".to_owned(),
        message: said,
    })
}

async fn output_of(command: Command, input: &str) -> io::Result<Output> {
    let mut command = tokio::process::Command::from(command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take()
        && !input.is_empty()
    {
        stdin.write_all(input.as_bytes()).await?;
    }
    child.wait_with_output().await
}
