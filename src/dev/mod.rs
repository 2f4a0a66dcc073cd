//! `dev`: everything embedded. A private PostgreSQL cluster, a broker in this process, a demo organization, and the
//! service itself, started in this order and stopped in the other; either store can be a real one instead. Never a mode of
//! the service: what runs is `App`, configured as `serve` would be.

mod audit;
mod broker;
mod demo;
mod first_screen;
mod postgres;

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::PgPool;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

pub use broker::{EmbeddedBroker, StartBrokerError};
pub use postgres::{EmbeddedPostgres, StartPostgresError, StopPostgresError};

use crate::app::{App, StartError, connect};
use crate::config::{Config, ConfigError, Environment};
use crate::intake::IntakeState;
use audit::Audit;
use demo::Installation;
use first_screen::DevFile;

/// The topic's name, as production has it.
const TOPIC: &str = "featbit-membership";
/// Partitions of the embedded topic.
const PARTITIONS: i32 = 3;
/// How long the service may take to be ready: the embedded broker lets a group wait 3 s, a second node 10 s.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// What `dev` is asked to run.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where to listen.
    pub http: SocketAddr,
    /// A broker that is there already.
    pub kafka_bootstrap: Option<String>,
    /// A database that is there already.
    pub database_url: Option<String>,
}

/// Why `dev` could not run.
#[derive(Debug, Error)]
pub enum DevError {
    /// The folder.
    #[error("can't use {path}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder is another one's.
    #[error("another `dev` is using {0}: stop it, or use another data directory")]
    InUse(PathBuf),
    /// The private cluster.
    #[error(transparent)]
    StartPostgres(#[from] StartPostgresError),
    /// The private cluster, at the end.
    #[error(transparent)]
    StopPostgres(#[from] StopPostgresError),
    /// The broker.
    #[error(transparent)]
    StartBroker(#[from] StartBrokerError),
    /// The database.
    #[error("the database is out of reach")]
    Database(#[from] sqlx::Error),
    /// The schema.
    #[error("the schema can't be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A setting in the environment.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The service.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The demo organization.
    #[error("the demo organization could not be made: {0}")]
    Demo(String),
    /// A task of the service has ended.
    #[error("a task has ended that the service can't do without")]
    Failed,
    /// It did not get ready.
    #[error("the service did not get ready in {} s: {state}", READY_PATIENCE.as_secs())]
    NotReady {
        /// What it was doing.
        state: String,
    },
}

/// Runs everything until Ctrl-C or SIGTERM.
///
/// # Errors
/// [`DevError`]; what was started is stopped.
pub async fn run(options: DevOptions) -> Result<(), DevError> {
    let in_dir = |source| DevError::DataDir {
        path: options.data_dir.clone(),
        source,
    };
    std::fs::create_dir_all(&options.data_dir).map_err(in_dir)?;
    // Held to the end, also where that comes by kill -9; before anything in there is touched.
    let lock = File::create(options.data_dir.join("dev.lock")).map_err(in_dir)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(DevError::InUse(options.data_dir)),
        Err(TryLockError::Error(source)) => return Err(in_dir(source)),
    }
    let file = DevFile::in_dir(&options.data_dir);
    file.remove().map_err(in_dir)?;
    // Heard from now on: a signal during the start still stops everything in order.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(in_dir)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(in_dir)?;
    let told_to_stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let postgres = match &options.database_url {
        None => Some(EmbeddedPostgres::start(&options.data_dir).await?),
        Some(_) => None,
    };
    let ran = run_service(&options, postgres.as_ref(), &file, told_to_stop).await;
    let removed = file.remove().map_err(in_dir);
    if let Some(postgres) = postgres {
        postgres.stop().await?;
    }
    ran.and(removed)
}

async fn run_service(
    options: &DevOptions,
    postgres: Option<&EmbeddedPostgres>,
    file: &DevFile,
    told_to_stop: impl Future<Output = ()>,
) -> Result<(), DevError> {
    let database_url = postgres
        .map(|postgres| postgres.url().to_owned())
        .or_else(|| options.database_url.clone())
        .unwrap_or_default();
    let broker = match &options.kafka_bootstrap {
        None => Some(EmbeddedBroker::start(TOPIC, PARTITIONS)?),
        Some(_) => None,
    };
    let bootstrap = broker
        .as_ref()
        .map(|broker| broker.bootstrap_servers().to_owned())
        .or_else(|| options.kafka_bootstrap.clone())
        .unwrap_or_default();

    let pool = connect(&database_url).await?;
    crate::schema::migrate(&pool).await?;
    let installation = Installation::in_database(&pool).await?;
    let cluster_id = match &broker {
        Some(broker) => {
            demo::name_broker(&pool, &bootstrap, broker.cluster_id()).await?;
            Some(broker.cluster_id().to_owned())
        }
        None => demo::broker_name(&pool, &bootstrap).await?,
    };

    // A database that is somebody else's has its checkpoints elsewhere.
    let audit = postgres.map(|_| Audit::in_dir(&options.data_dir)).transpose();
    let audit = audit.map_err(|source| DevError::DataDir {
        path: options.data_dir.clone(),
        source,
    })?;
    let mut config = configuration(options, &database_url, &bootstrap, &installation, audit.as_ref())?;
    if let Some(intake) = &mut config.intake {
        intake.cluster_id = cluster_id;
    }
    let app = App::start(config).await?;
    let ready_and_told = async {
        demo::populate(&app.commands).await?;
        get_ready(&app, &pool).await?;
        let screen = first_screen::Screen {
            app: &app,
            installation: &installation,
            options,
            postgres,
            database_url: &database_url,
            audit: audit.as_ref(),
            kafka: &bootstrap,
            kafka_is_embedded: broker.is_some(),
            topic: TOPIC,
        };
        file.write(&screen).map_err(|source| DevError::DataDir {
            path: options.data_dir.clone(),
            source,
        })?;
        first_screen::print(&screen, file);
        app.failed().await;
        Err(DevError::Failed)
    };
    // Also while it gets ready.
    let ran = tokio::select! {
        ran = ready_and_told => ran,
        () = told_to_stop => Ok(()),
    };
    tracing::info!("stopping");
    app.stop().await;
    pool.close().await;
    ran
}

/// As `serve` would read it, with what `dev` settles on top of the environment.
fn configuration(
    options: &DevOptions,
    database_url: &str,
    bootstrap: &str,
    installation: &Installation,
    audit: Option<&Audit>,
) -> Result<Config, ConfigError> {
    let mut environment = Environment::of_process().with([
        ("DATABASE_URL", database_url.to_owned()),
        ("KAFKA_BOOTSTRAP_SERVERS", bootstrap.to_owned()),
        ("KAFKA_TOPIC", TOPIC.to_owned()),
        ("HTTP_ADDR", options.http.to_string()),
        ("JWT_ALGORITHM", "HS256".to_owned()),
        ("JWT_KEY", installation.jwt_key.clone()),
        ("JWT_PUBLIC_KEY_PATH", String::new()),
        ("INTAKE_KEYS", installation.intake_key.clone()),
        ("JWT_ISSUER", demo::ISSUER.to_owned()),
        ("JWT_AUDIENCE", demo::AUDIENCE.to_owned()),
    ]);
    if let Some(audit) = audit {
        environment = environment.with([
            ("AUDIT_SIGNING_KEY_PATH", audit.key.display().to_string()),
            ("AUDIT_CHECKPOINT_DIR", audit.checkpoints.display().to_string()),
        ]);
    }
    Config::from_environment(&environment)
}

async fn get_ready(app: &App, pool: &PgPool) -> Result<(), DevError> {
    let head: i64 = sqlx::query_scalar("select coalesce(max(position), 0) from events")
        .fetch_one(pool)
        .await?;
    let mut intake = app.intake.clone();
    let ready = async {
        let reached = app.index.reached(head, READY_PATIENCE).await;
        let reading = intake
            .wait_for(|state| matches!(state, IntakeState::Reading { .. }))
            .await
            .is_ok();
        reached && reading
    };
    match tokio::time::timeout(READY_PATIENCE, ready).await {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(DevError::NotReady {
            state: app.intake.borrow().to_string(),
        }),
    }
}

/// The folder as people would type it: absolute only where it was given so.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
