//! One PostgreSQL for the test run (a private cluster, or the server that TEST_DATABASE_URL names) and a database of its
//! own for each test, copied from a migrated template.

use std::path::Path;
use std::sync::OnceLock;

use featbit_tokens::dev::EmbeddedPostgres;
use featbit_tokens::{app, schema};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use uuid::Uuid;

/// A migrated, empty database.
#[derive(Clone, Debug)]
pub struct TestDatabase {
    pub url: String,
    pub pool: PgPool,
}

struct Server {
    url: String,
    template: String,
    /// Runs until this process ends: its watcher sees the pipe close.
    _embedded: Option<EmbeddedPostgres>,
}

impl TestDatabase {
    pub async fn new() -> Self {
        let server = server();
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&server.url).await.expect("the test server");
        admin
            .execute(format!("create database {name} template {}", server.template).as_str())
            .await
            .expect("a database for the test");
        admin.close().await.expect("closing");
        let url = with_database(&server.url, &name);
        let pool = app::connect(&url).await.expect("the test's database");
        Self { url, pool }
    }
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    // On a thread and a runtime of its own: tests come and go on theirs.
    SERVER.get_or_init(|| {
        std::thread::spawn(start_server)
            .join()
            .expect("the test server starts")
    })
}

fn start_server() -> Server {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (url, embedded) = match std::env::var("TEST_DATABASE_URL") {
            Ok(url) if !url.is_empty() => (url, None),
            _ => {
                let embedded = EmbeddedPostgres::start(&data_dir())
                    .await
                    .expect("PostgreSQL starts");
                (embedded.url().to_owned(), Some(embedded))
            }
        };
        let template = format!("template_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&url).await.expect("the test server");
        admin
            .execute(format!("create database {template}").as_str())
            .await
            .expect("a template");
        let pool = app::connect(&with_database(&url, &template))
            .await
            .expect("the template");
        schema::migrate(&pool).await.expect("the template is migrated");
        pool.close().await;
        Server {
            url,
            template,
            _embedded: embedded,
        }
    })
}

/// A folder per process; those of processes that are gone are cleared away.
fn data_dir() -> std::path::PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name
            .strip_prefix("postgres-")
            .and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
    let dir = all.join(format!("postgres-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a folder for the cluster");
    dir
}

fn with_database(url: &str, name: &str) -> String {
    let (server, query) = url
        .split_once('?')
        .map_or((url, None), |(server, query)| (server, Some(query)));
    let (server, _) = server.rsplit_once('/').expect("a database URL with a path");
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{server}/{name}{query}")
}
