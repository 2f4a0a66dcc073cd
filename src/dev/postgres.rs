//! A private PostgreSQL cluster for `dev` and the tests, run from the installed server's binaries.
//!
//! It never touches a system cluster, never listens beyond 127.0.0.1, and never outlives its parent, not even one
//! ended by SIGKILL: a few lines of shell hold a pipe from us and shut the server down when it closes. Whatever is
//! done inside the cluster's folder is done as the user who runs the server, so root follows no link laid there.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};

pub use self::error::{StartPostgresError, StopPostgresError};

use self::binaries::Binaries;
use self::place::{Folder, Place, Standing};

mod binaries;
mod error;
mod place;
mod user;

/// The role that owns the cluster, and the database the service uses.
const NAME: &str = "featbit_tokens";
/// The oldest major version the log works on.
const OLDEST_MAJOR: u32 = 15;
/// How long `initdb` may take.
const INITDB_LIMIT: Duration = Duration::from_secs(120);
/// How long a start may take until connections are accepted; a start after a crash replays the log first.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the server of an earlier start may take to shut down.
const OLD_SERVER_LIMIT: Duration = Duration::from_secs(30);
/// How long the server of an earlier start may seem unaware that its parent is gone.
const OLD_SERVER_UNAWARE_LIMIT: Duration = Duration::from_secs(5);
/// How long our own server may take to shut down. Above the 20 s after which `WATCH` stops being polite.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks at something that is about to change.
const POLL: Duration = Duration::from_millis(50);
/// How many starts are tried when the port chosen, or the folder, is taken from under us.
const START_ATTEMPTS: u32 = 5;

/// Arguments: the cluster's folder, then the server's command line. The server leaves at once when stdin closes:
/// SIGINT is PostgreSQL's fast shutdown, repeated since a server just starting ignores it; SIGQUIT is its last resort.
const WATCH: &str = r#"
umask 077
cd "$1" || exit 1
shift
if [ -e server.log ]; then mv -f server.log server.log.1; fi
exec 3<&0 </dev/null
"$@" >server.log 2>&1 3<&- &
server=$!
{
  read -r _ <&3
  tries=0
  while [ "$tries" -lt 20 ] && kill -INT "$server"; do tries=$((tries + 1)); sleep 1; done
  kill -QUIT "$server"
} &
wait "$server"
status=$?
trap '' TERM
kill -TERM 0
exit "$status"
"#;

/// Argument: a cluster's folder. Says the process number and the state of the server that runs in it, if one does.
/// (Line 8 of the lock file is `starting`, `ready`, `standby` or `stopping`.)
const OCCUPANT: &str = r#"
cd "$1/data" || exit 1
pid=$(head -n 1 postmaster.pid 2>/dev/null) && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || exit 0
if [ -e "/proc/$pid" ] && [ "$(readlink "/proc/$pid/cwd")" != "$(pwd -P)" ]; then exit 0; fi
echo "$pid $(sed -n 8p postmaster.pid)"
"#;

/// A private PostgreSQL cluster run from the installed server's binaries. Dropping it begins its shutdown without
/// waiting; `stop` waits.
pub struct EmbeddedPostgres {
    url: String,
    place: Place,
    server: Child,
    lifeline: ChildStdin,
}

impl EmbeddedPostgres {
    /// Starts the cluster of `data_dir`, making folder, cluster and database where they are missing.
    ///
    /// # Errors
    /// When no fitting server is installed, the folder can't be used or is in use, or the server does not come up.
    pub async fn start(data_dir: &Path) -> Result<Self, StartPostgresError> {
        let place = Place::choose(data_dir).await?;
        let major = place.probe().await.and_then(|folder| folder.major());
        let binaries = Binaries::find(place.user, &place.directory, major).await?;
        if major.is_none() {
            create_cluster(&place, &binaries).await?;
        }
        let password = place
            .shell("cat \"$1\"", &[place.cluster().join("password").as_os_str()])
            .await?;
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .username(NAME)
            .password(password.trim())
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging();

        let mut attempt = 1;
        loop {
            wait_for_old_server(&place).await?;
            let port = free_port().map_err(|source| place.folder_error(source))?;
            let (server, lifeline) = spawn_server(&place, &binaries, port)?;
            let mut running = Self {
                url: format!("postgres://{NAME}:{}@127.0.0.1:{port}/{NAME}", password.trim()),
                place: place.clone(),
                server,
                lifeline,
            };
            match running.prepare(&options.clone().port(port)).await {
                Ok(()) => return Ok(running),
                Err(StartPostgresError::Ended { log, .. })
                    if lost_a_race(&log) && attempt < START_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How to connect, as `psql` takes it. Holds the password of a superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder where the cluster lives.
    pub fn directory(&self) -> &Path {
        &self.place.directory
    }

    /// True when the cluster could not live in the data directory and lives elsewhere.
    pub fn moved(&self) -> bool {
        self.place.standing == Standing::Elsewhere
    }

    /// Shuts the server down, ending its connections, and waits for its end.
    ///
    /// # Errors
    /// When it does not end in 30 s, or not in order.
    pub async fn stop(self) -> Result<(), StopPostgresError> {
        let Self {
            mut server, lifeline, ..
        } = self;
        drop(lifeline);
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            match server.try_wait().map_err(StopPostgresError::Wait)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(StopPostgresError::Disorderly(status)),
                None => sleep(POLL).await,
            }
        }
        Err(StopPostgresError::TooLong)
    }

    /// Waits until the server accepts connections, then sees to the database.
    async fn prepare(&mut self, options: &PgConnectOptions) -> Result<(), StartPostgresError> {
        let deadline = Instant::now() + READY_LIMIT;
        let mut connection = loop {
            let ended = self
                .server
                .try_wait()
                .map_err(|source| self.place.folder_error(source))?;
            if let Some(status) = ended {
                let directory = self.place.directory.clone();
                return Err(StartPostgresError::Ended {
                    status,
                    directory,
                    log: self.place.log_tail().await,
                });
            }
            match timeout(CONNECT_LIMIT, options.clone().database("postgres").connect()).await {
                Ok(Ok(connection)) => break connection,
                // Wrong password: waiting won't help.
                Ok(Err(error)) if code(&error).as_deref() == Some("28P01") => {
                    return Err(StartPostgresError::Database(error));
                }
                Ok(Err(_)) | Err(_) => {}
            }
            if Instant::now() > deadline {
                let directory = self.place.directory.clone();
                return Err(StartPostgresError::NotReady {
                    directory,
                    log: self.place.log_tail().await,
                });
            }
            sleep(POLL).await;
        };
        create_database(&mut connection)
            .await
            .map_err(StartPostgresError::Database)?;
        // A failure here costs nothing: the connection is only closed less politely.
        drop(timeout(CONNECT_LIMIT, connection.close()).await);
        // What starts that were cut short left behind. An `initdb` of theirs may still be writing: then the next time.
        let script = "rm -rf \"$1\"/new.*";
        drop(
            self.place
                .shell(script, &[self.place.directory.as_os_str()])
                .await,
        );
        Ok(())
    }
}

impl fmt::Debug for EmbeddedPostgres {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EmbeddedPostgres")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Makes the cluster beside its final place and moves it there when complete: a start cut short leaves no half.
async fn create_cluster(place: &Place, binaries: &Binaries) -> Result<(), StartPostgresError> {
    let password = random_hex()?;
    let unfinished = place.directory.join(format!("new.{}", random_hex()?));
    let script = "umask 077; mkdir \"$1\" && cat >\"$1/password\"";
    place
        .shell_with_input(script, &[unfinished.as_os_str()], &password)
        .await?;
    let (data, password_file) = (unfinished.join("data"), unfinished.join("password"));
    let arguments = [
        OsStr::new("--pgdata"),
        data.as_os_str(),
        OsStr::new("--pwfile"),
        password_file.as_os_str(),
        OsStr::new("--username"),
        OsStr::new(NAME),
        OsStr::new("--auth=scram-sha-256"),
        OsStr::new("--locale=C"),
        OsStr::new("--encoding=UTF8"),
    ];
    let made = place
        .user
        .run(binaries.directory.join("initdb"), &arguments, "", INITDB_LIMIT)
        .await;
    let moved = made.and_then(|_| {
        std::fs::rename(&unfinished, place.cluster()).map_err(|source| place.folder_error(source))
    });
    match moved {
        // Another `dev` made it first.
        Err(_) if matches!(place.probe().await, Some(Folder::HoldsCluster { .. })) => Ok(()),
        other => other,
    }
}

/// Waits for a server of an earlier start, whose parent was killed, to end.
async fn wait_for_old_server(place: &Place) -> Result<(), StartPostgresError> {
    let start = Instant::now();
    loop {
        let said = place.shell(OCCUPANT, &[place.cluster().as_os_str()]).await?;
        let mut words = said.split_whitespace();
        let Some(pid) = words.next().and_then(|pid| pid.parse().ok()) else {
            return Ok(());
        };
        let directory = || place.directory.clone();
        let stopping = words.next() == Some("stopping");
        if !stopping && start.elapsed() > OLD_SERVER_UNAWARE_LIMIT {
            return Err(StartPostgresError::InUse {
                directory: directory(),
                pid,
            });
        }
        if start.elapsed() > OLD_SERVER_LIMIT {
            return Err(StartPostgresError::StillStopping {
                directory: directory(),
                pid,
            });
        }
        sleep(POLL).await;
    }
}

/// Starts the server under its watcher. The pipe's other end stays with us alone: std opens it close-on-exec.
fn spawn_server(
    place: &Place,
    binaries: &Binaries,
    port: u16,
) -> Result<(Child, ChildStdin), StartPostgresError> {
    let mut command = place.user.command("sh");
    command.args([
        OsStr::new("-c"),
        OsStr::new(WATCH),
        OsStr::new("sh"),
        place.cluster().as_os_str(),
    ]);
    command
        .arg(binaries.directory.join("postgres"))
        .arg("-D")
        .arg(place.cluster().join("data"));
    let port = format!("port={port}");
    for setting in [
        port.as_str(),
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=200",
        "shared_buffers=64MB",
        "fsync=on",
        "timezone=UTC",
        "log_timezone=UTC",
        // Starts, stops and what ends the server; not refused statements, which are the client's to report.
        "log_min_messages=log",
        "log_min_error_statement=panic",
        "log_checkpoints=off",
        "log_autovacuum_min_duration=-1",
    ] {
        command.arg("-c").arg(setting);
    }
    // A group of its own: Ctrl-C is for us, and we stop the server when nothing needs it any more.
    command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let run_error = |source| StartPostgresError::Run {
        program: "sh".to_owned(),
        uid: place.user.uid(),
        source,
    };
    let mut server = command.spawn().map_err(run_error)?;
    let lifeline = server
        .stdin
        .take()
        .ok_or_else(|| run_error(io::ErrorKind::BrokenPipe.into()))?;
    Ok((server, lifeline))
}

/// Whether the log says that the port or the folder was taken between our look and the server's.
fn lost_a_race(log: &str) -> bool {
    [
        "Address already in use",
        "lock file \"postmaster.pid\"",
        "pre-existing shared memory block",
    ]
    .iter()
    .any(|text| log.contains(text))
}

async fn create_database(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(NAME)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        sqlx::query("create database featbit_tokens")
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// 128 random bits.
fn random_hex() -> Result<String, StartPostgresError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(StartPostgresError::Random)?;
    Ok(hex::encode(bytes))
}
