//! The composition root: what a running node consists of. Every task is started here, named, stopped and awaited.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use projections::runner::{ReadModel, Runner};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authorization::{Index, Tailer};
use crate::clock::Clock;
use crate::commands::Commands;
use crate::config::{Config, ConfigError};
use crate::follow::{Follower, News};
use crate::http::{Service, Vitals, router};
use crate::intake::{Intake, IntakeState, StartIntakeError};
use crate::log::Appender;
use crate::reactor::Reactor;
use crate::report::Report;
use crate::schema::SchemaError;

/// Connections to the database.
const CONNECTIONS: u32 = 20;
/// How long a query may take: nothing here takes long.
const STATEMENT_TIMEOUT: &str = "5s";
/// How long a connection is waited for.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// The longest time between two looks of a read model at the log.
const PROJECTION_POLL: Duration = Duration::from_millis(200);
/// After a failed step of a read model.
const PROJECTION_BACK_OFF: Duration = Duration::from_millis(500);
/// How long requests may still take after the node was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Why a node can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database can't be reached.
    #[error("the database is out of reach")]
    Database(#[from] sqlx::Error),
    /// The schema is not this binary's.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The address.
    #[error("can't listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The intake.
    #[error(transparent)]
    Intake(#[from] StartIntakeError),
}

/// A node that runs.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it carries commands out with.
    pub commands: Commands,
    /// What it decides from.
    pub index: Arc<Index>,
    /// How its intake is.
    pub intake: watch::Receiver<IntakeState>,
    stop_requests: CancellationToken,
    stop_tasks: CancellationToken,
    server: TaskTracker,
    tasks: TaskTracker,
}

/// Connections with bounds on how long anything may take.
///
/// # Errors
/// Where the URL is none, or the database does not answer.
pub async fn connect(database_url: &str) -> Result<PgPool, sqlx::Error> {
    let options: PgConnectOptions = database_url
        .parse::<PgConnectOptions>()?
        .application_name("featbit-tokens")
        .options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", "4s"),
            ("idle_in_transaction_session_timeout", "10s"),
        ]);
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(CONNECT_PATIENCE)
        .connect_with(options)
        .await
}

impl App {
    /// Starts a node.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let pool = connect(&config.database_url).await?;
        crate::schema::check(&pool).await?;
        let listener = TcpListener::bind(config.http)
            .await
            .map_err(|source| StartError::Listen {
                address: config.http,
                source,
            })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen {
            address: config.http,
            source,
        })?;

        let (stop_requests, stop_tasks) = (CancellationToken::new(), CancellationToken::new());
        let (server, tasks) = (TaskTracker::new(), TaskTracker::new());
        let clock = Clock::default();
        let (appender, appender_task) = Appender::new(pool.clone());
        let news = News::new(pool.clone(), appender.head());
        let commands = Commands::new(pool.clone(), appender.clone(), clock.clone());
        let index = Arc::new(Index::default());

        let tailer = Tailer::new(
            pool.clone(),
            Arc::clone(&index),
            clock.clone(),
            config.max_staleness,
        );
        tasks.spawn(tailer.run(news.follower(), stop_tasks.clone()));
        let mut read_models = Vec::new();
        for read_model in ReadModel::ALL {
            let (position, seen) = watch::channel(0);
            let runner = Runner::live(pool.clone(), read_model);
            tasks.spawn(project(runner, position, news.follower(), stop_tasks.clone()));
            read_models.push((read_model, seen));
        }
        let reactor = Reactor::new(pool.clone(), commands.clone(), clock.clone());
        tasks.spawn(reactor.run(news.follower(), stop_tasks.clone()));
        tasks.spawn(news.run(stop_tasks.clone()));

        let (intake_state, intake) = watch::channel(IntakeState::Off);
        if let Some(intake_config) = config.intake {
            intake_state.send_replace(IntakeState::Connecting);
            let intake = Intake::new(
                intake_config,
                pool.clone(),
                commands.clone(),
                intake_state,
                stop_requests.clone(),
            )?;
            let ended = intake.spawn()?;
            server.spawn(async move {
                // An error means that the thread is gone too.
                let _ = ended.await;
            });
        } else {
            tracing::info!("no Kafka is configured: there is no membership intake from a topic");
        }

        let service = Service {
            pool,
            index: Arc::clone(&index),
            commands: commands.clone(),
            clock,
            jwt: config.jwt,
            gateway_keys: Arc::new(config.gateway_keys),
            cors_origins: Arc::new(config.cors_origins),
            max_expiry_days: config.max_expiry_days,
            vitals: Vitals {
                appended: appender.head(),
                read_models,
                intake: intake.clone(),
            },
        };
        let stopping = stop_requests.clone();
        let serve = axum::serve(listener, router(service)).with_graceful_shutdown(stopping.cancelled_owned());
        server.spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "the HTTP server has ended");
            }
        });
        // Last to stop: it takes what the others still hand in.
        tasks.spawn(appender_task.run(stop_tasks.clone()));
        server.close();
        tasks.close();
        tracing::info!(%address, "listening");
        Ok(Self {
            address,
            commands,
            index,
            intake,
            stop_requests,
            stop_tasks,
            server,
            tasks,
        })
    }

    /// Stops taking requests and messages, finishes those under way, and then everything behind them.
    pub async fn stop(self) {
        self.stop_requests.cancel();
        if tokio::time::timeout(DRAIN, self.server.wait()).await.is_err() {
            tracing::warn!("requests that were still under way are cut off");
        }
        self.stop_tasks.cancel();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("tasks that did not stop are cut off");
        }
    }
}

/// One read model's task: step by step, woken by whoever appends; on an error it waits and takes the same step again.
async fn project(runner: Runner, position: watch::Sender<i64>, mut wake: Follower, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let before = *position.borrow();
        match runner.step().await {
            Ok(at) if at > before => {
                position.send_replace(at);
            }
            Ok(_) => wake.next(PROJECTION_POLL, &stop).await,
            Err(error) => {
                tracing::error!(
                    read_model = runner.read_model().name(),
                    position = before,
                    error = %Report(&error),
                    "a read model has stopped and tries again"
                );
                tokio::select! {
                    () = tokio::time::sleep(PROJECTION_BACK_OFF) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}
