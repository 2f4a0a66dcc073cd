//! Connections to the database, and bounds on how long anything with them may take. A network that falls silent tells
//! nobody: whoever works with the database gives up by itself, and what it gave up is closed, not waited for.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres};

use crate::clock::BootClock;

/// Connections for requests.
const CONNECTIONS: u32 = 16;
/// Connections for the tasks that follow the log: no number of requests can take them away.
const LOG_CONNECTIONS: u32 = 9;
/// Connections of the one task that appends: a second one for when the first was given up and is not closed yet.
const APPEND_CONNECTIONS: u32 = 2;
/// Connections of an operator's command.
const OPERATOR_CONNECTIONS: u32 = 12;
/// How long the database works on a statement: nothing here takes long.
const STATEMENT_TIMEOUT: &str = "5s";
/// How long a statement is waited for: the database has given it up by then, unless it can't be heard.
pub const STATEMENT_LIMIT: Duration = Duration::from_secs(6);
/// How long a connection is waited for.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may have been idle to be used without a test.
const UNTESTED_FOR: Duration = Duration::from_millis(500);
/// How long such a test may take.
const TEST_LIMIT: Duration = Duration::from_millis(500);
/// How long after something was given up every connection is tested, before its use, and after it if it is the pool's.
const DOUBT: Duration = Duration::from_secs(15);

/// How long one task keeps a connection: as long as the pool would have.
const KEPT_FOR: Duration = Duration::from_secs(30 * 60);

/// Until when connections are tested, in milliseconds since boot. One for all pools: they lead to the same network.
static DOUBTED_UNTIL: AtomicU64 = AtomicU64::new(0);

/// Connections for requests.
///
/// # Errors
/// Where the URL is none, or the database does not answer.
pub async fn connect(database_url: &str) -> Result<PgPool, sqlx::Error> {
    connect_with(database_url, CONNECTIONS).await
}

/// Connections for the tasks that follow the log.
///
/// # Errors
/// Where the URL is none, or the database does not answer.
pub(crate) async fn connect_for_log(database_url: &str) -> Result<PgPool, sqlx::Error> {
    connect_with(database_url, LOG_CONNECTIONS).await
}

/// The connection of those who append. It is made when it is needed first, and so listened to on the appender's own thread.
///
/// # Errors
/// Where the URL is none.
pub(crate) fn connect_for_appends(database_url: &str) -> Result<PgPool, sqlx::Error> {
    let (pool, options) = options_with(database_url, APPEND_CONNECTIONS)?;
    Ok(pool.connect_lazy_with(options))
}

/// Connections for an operator's commands, which may read the whole log: nothing is cut off.
///
/// # Errors
/// Where the URL is none, or the database does not answer.
pub async fn connect_for_operator(database_url: &str) -> Result<PgPool, sqlx::Error> {
    let options: PgConnectOptions = database_url.parse()?;
    PgPoolOptions::new()
        .max_connections(OPERATOR_CONNECTIONS)
        .after_connect(|connection, _| Box::pin(commit_for_good(connection)))
        .acquire_timeout(CONNECT_PATIENCE)
        .connect_with(options.application_name("featbit-tokens-operator"))
        .await
}

async fn connect_with(database_url: &str, connections: u32) -> Result<PgPool, sqlx::Error> {
    let (pool, options) = options_with(database_url, connections)?;
    pool.connect_with(options).await
}

fn options_with(
    database_url: &str,
    connections: u32,
) -> Result<(PgPoolOptions, PgConnectOptions), sqlx::Error> {
    let options: PgConnectOptions = database_url
        .parse::<PgConnectOptions>()?
        .application_name("featbit-tokens")
        .options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", "4s"),
            ("idle_in_transaction_session_timeout", "10s"),
        ]);
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .after_connect(|connection, _| Box::pin(commit_for_good(connection)))
        .acquire_timeout(CONNECT_PATIENCE)
        // One that was just used is not asked whether it is still there: that would be a second round trip for each query.
        .test_before_acquire(false)
        .before_acquire(|connection, used| {
            Box::pin(async move {
                if used.idle_for > UNTESTED_FOR || is_doubted() {
                    test(connection).await?;
                }
                Ok(true)
            })
        })
        // The pool itself waits for one that was given up for as long as the network lets it.
        .after_release(|connection, _| {
            Box::pin(async move {
                if is_doubted() {
                    test(connection).await?;
                }
                Ok(true)
            })
        });
    Ok((pool, options))
}

/// What is said to be committed must be: leases and events alike. A stronger setting is the operator's to make.
async fn commit_for_good(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select set_config('synchronous_commit', 'on', false)
         where current_setting('synchronous_commit') in ('off', 'local')",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The connection of a task that works with the database all the time. A pool hands its connections out by turns, and behind
/// each is a process of PostgreSQL's that has its plans and catalogs to itself: by the time it is its turn again, another has
/// had the processor's caches. PostgreSQL took a fifth more time for each append.
#[derive(Debug)]
pub(crate) struct OwnConnection {
    pool: PgPool,
    kept: Option<(PoolConnection<Postgres>, Instant)>,
    /// When it was taken from the pool.
    since: Instant,
}

impl OwnConnection {
    /// One of this pool's, once it is needed.
    pub(crate) fn of(pool: PgPool) -> Self {
        Self {
            pool,
            kept: None,
            since: Instant::now(),
        }
    }

    /// The connection, tested as the pool would have. Whoever it has served hands it back with [`Self::keep`]; otherwise
    /// the pool has it back, and sees what is wrong with it.
    pub(crate) async fn take(&mut self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let kept = self.kept.take().filter(|_| self.since.elapsed() < KEPT_FOR);
        if let Some((mut connection, used)) = kept {
            if used.elapsed() <= UNTESTED_FOR && !is_doubted() {
                return Ok(connection);
            }
            match test(&mut connection).await {
                Ok(()) => return Ok(connection),
                // Closed: the pool would wait for it for as long as the network lets it.
                Err(_) => drop(connection.detach()),
            }
        }
        self.since = Instant::now();
        self.pool.acquire().await
    }

    /// Keeps it for the next time.
    pub(crate) fn keep(&mut self, connection: PoolConnection<Postgres>) {
        self.kept = Some((connection, Instant::now()));
    }
}

/// Work with the database that takes no longer than this, or is given up. The database may have done it.
///
/// # Errors
/// Those of the work; where it is given up, an input or output that has timed out.
pub async fn within<T, E: From<sqlx::Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let mut work = pin!(work);
    match tokio::time::timeout(limit, work.as_mut()).await {
        Ok(done) => done,
        Err(late) => {
            // Before the work is dropped, and its connection goes back to the pool.
            doubt();
            Err(sqlx::Error::from(std::io::Error::from(late)).into())
        }
    }
}

async fn test(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    tokio::time::timeout(TEST_LIMIT, connection.ping())
        .await
        .map_err(std::io::Error::from)?
}

fn doubt() {
    let until = BootClock::Machine.since_boot().saturating_add(DOUBT);
    DOUBTED_UNTIL.fetch_max(milliseconds(until), Ordering::Relaxed);
}

fn is_doubted() -> bool {
    milliseconds(BootClock::Machine.since_boot()) < DOUBTED_UNTIL.load(Ordering::Relaxed)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
