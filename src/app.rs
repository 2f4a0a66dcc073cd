//! The composition root: what a running node consists of. Every task is started here, named, stopped and awaited.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use projections::runner::{ReadModel, Runner};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::audit::{Signed, Signer};
use crate::authorization::{Fence, Index, LastUsed, Revocations, Tailer};
use crate::clock::Clock;
use crate::commands::Commands;
use crate::config::{Config, ConfigError};
use crate::database::{self, connect_for_appends, connect_for_log};
pub use crate::database::{connect, connect_for_operator};
use crate::follow::{Follower, News};
use crate::http::{
    Discovery, FailedAttempts, Parts, Profiles, Progress, Projected, Service, Turns, Vitals, serve,
};
use crate::intake::{Intake, IntakeState, Meters, StartIntakeError, Watched};
use crate::log::Appender;
use crate::metrics::Metrics;
use crate::reactor::Reactor;
use crate::report::Report;
use crate::retention::Retention;
use crate::schema::SchemaError;

/// The longest time between two looks of a read model at the log.
const PROJECTION_POLL: Duration = Duration::from_millis(200);
/// Between two steps of a read model that has come to the end of the log, as long as nobody waits for it: a row that many
/// events change is written once.
const PROJECTION_PACE: Duration = Duration::from_millis(250);
/// The same for the one that only a node reads that starts.
const CREDENTIALS_PACE: Duration = Duration::from_secs(1);
/// A step of a read model that takes longer has failed.
const STEP_LIMIT: Duration = Duration::from_secs(20);
/// After a failed step of a read model.
const PROJECTION_BACK_OFF: Duration = Duration::from_millis(500);
/// How long requests may still take after the node was told to stop.
const DRAIN: Duration = Duration::from_secs(8);

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
    /// A thread.
    #[error("there is no thread for the appender")]
    Thread(#[source] std::io::Error),
}

/// A node that runs. One that is dropped without having been stopped appends nothing any more.
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
    tasks: Tasks,
    append_thread: AppendThread,
}

impl App {
    /// Starts a node.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let pool = connect(&config.database_url).await?;
        let log_pool = connect_for_log(&config.database_url).await?;
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

        let tasks = Tasks::default();
        let clock = Clock::default();
        let append_thread = AppendThread::start().await.map_err(StartError::Thread)?;
        let (appender, mut appender_task) = Appender::new(connect_for_appends(&config.database_url)?);
        let news = News::new(log_pool.clone(), appender.head());
        let commands = Commands::new(pool.clone(), appender.clone(), clock.clone(), config.max_tokens);
        let index = Arc::new(Index::new(Fence::new(clock.boot().clone())));

        let node_id = Uuid::new_v4();
        let tailer = Tailer::new(
            log_pool.clone(),
            Arc::clone(&index),
            clock.clone(),
            node_id,
            config.max_staleness,
        )
        .handed(appender_task.written());
        let tail = tailer.tail();
        tasks.spawn("index", |stop| {
            tailer.run(news.follower(), news.calls(), news.said(), stop)
        });
        let revocations = Arc::new(Revocations::new(
            log_pool.clone(),
            Arc::clone(&index),
            clock.boot().clone(),
            node_id,
        ));
        let mut read_models = Vec::new();
        for read_model in ReadModel::ALL {
            let (progress, seen) = watch::channel(Progress::default());
            let runner = Runner::live(log_pool.clone(), read_model).behind(tail.clone());
            let waiting = watch::Sender::new(0);
            read_models.push(Projected {
                read_model,
                progress: seen,
                waiting: waiting.clone(),
            });
            tasks.spawn(read_model.name(), |stop| {
                let follower = Follower::of(tail.head());
                project(runner, progress, waiting.subscribe(), follower, stop)
            });
        }
        let retention = Retention::new(log_pool.clone(), config.parked_retention_days);
        tasks.spawn("retention", |stop| retention.run(stop));
        let last_used = LastUsed::new(pool.clone(), Arc::clone(&index));
        tasks.spawn("last used", |stop| last_used.run(stop));
        let follower = Follower::of(tail.head());
        let reactor = Reactor::new(log_pool.clone(), commands.clone(), tail);
        tasks.spawn("reactor", |stop| reactor.run(follower, stop));
        tasks.spawn("news", |stop| news.run(stop));

        let (signed, all_signed) = watch::channel(Signed::default());
        if let Some(signer) = config.signer {
            let signer = Signer::new(log_pool.clone(), signer, signed);
            tasks.spawn("signer", |stop| signer.run(stop));
        }

        let (meters, decision_timer) = Meters::new(Arc::clone(&index));
        tasks.spawn("decision timer", |stop| decision_timer.run(stop));
        let (intake_state, intake) = watch::channel(IntakeState::Off);
        if let Some(intake_config) = config.intake {
            intake_state.send_replace(IntakeState::Connecting);
            let stop = tasks.stop_requests.clone();
            let watched = Watched {
                state: intake_state,
                meters: meters.clone(),
            };
            let intake = Intake::new(intake_config, log_pool, commands.clone(), watched, stop)?;
            let ended = intake.spawn()?;
            tasks.spawn_edge("intake", |_| async {
                // An error means that the thread is gone too.
                let _ = ended.await;
            });
        } else {
            tracing::info!("no Kafka is configured: there is no membership intake from a topic");
        }

        let service = Service::from(Parts {
            pool,
            index: Arc::clone(&index),
            revocations,
            commands: commands.clone(),
            clock,
            jwt: config.jwt,
            gateway_keys: config.gateway_keys,
            intake_keys: config.intake_keys,
            failed_attempts: FailedAttempts::default(),
            trusted_proxy_hops: config.trusted_proxy_hops,
            cors_origins: config.cors_origins,
            max_expiry_days: config.max_expiry_days,
            profiles: Profiles::default(),
            turns: Turns::default(),
            passes_jwts: config.passes_jwts,
            discovery: discovery(config.public_url, address),
            signed: all_signed,
            metrics: Metrics::new(commands.message_counts(), meters),
            vitals: Vitals {
                appended: appender.head().subscribe(),
                read_models,
                intake: intake.clone(),
            },
        });
        tasks.spawn_edge("http", |stop| serve(listener, service, stop));
        // Last to stop: it takes what the others still hand in.
        tasks.spawn_on(&append_thread.handle, "appender", |stop| appender_task.run(stop));
        tracing::info!(%address, "listening");
        Ok(Self {
            address,
            commands,
            index,
            intake,
            tasks,
            append_thread,
        })
    }

    /// Waits until a task has ended that should not have: then this node is of no use any more.
    pub async fn failed(&self) {
        self.tasks.failed.cancelled().await;
    }

    /// Stops taking requests and messages, finishes those under way, and then everything behind them.
    pub async fn stop(self) {
        self.tasks.stop().await;
        self.append_thread.stop().await;
    }
}

/// What this node says of itself to gateways: under its public address, or where it has none, on loopback, under the one it
/// listens at.
fn discovery(public_url: Option<String>, address: SocketAddr) -> Option<Discovery> {
    let on_loopback = || address.ip().is_loopback().then(|| format!("http://{address}"));
    public_url.or_else(on_loopback).map(|url| Discovery::at(&url))
}

/// The tasks of a node. Those at the edge (requests, messages) stop first, so that those behind them take what they still
/// hand in.
#[derive(Debug, Default)]
struct Tasks {
    stop_requests: CancellationToken,
    stop_tasks: CancellationToken,
    failed: CancellationToken,
    edge: TaskTracker,
    inner: TaskTracker,
}

impl Tasks {
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) {
        self.spawn_on(&Handle::current(), name, task);
    }

    fn spawn_on<F: Future<Output = ()> + Send + 'static>(
        &self,
        runtime: &Handle,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) {
        let stop = self.stop_tasks.clone();
        let task = runtime.spawn(task(stop.clone()));
        self.inner.spawn(watched(name, task, stop, self.failed.clone()));
    }

    fn spawn_edge<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) {
        let stop = self.stop_requests.clone();
        let task = tokio::spawn(task(stop.clone()));
        self.edge.spawn(watched(name, task, stop, self.failed.clone()));
    }

    async fn stop(self) {
        for (stop, tasks) in [(self.stop_requests, self.edge), (self.stop_tasks, self.inner)] {
            stop.cancel();
            tasks.close();
            if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
                tracing::warn!("what was still under way is cut off");
            }
        }
    }
}

/// The appender's own thread. Among the requests' tasks an answer of the database's is seen only after a good many of those
/// have been: its connection stood idle for a fifth of the time, with everybody waiting for it.
#[derive(Debug)]
struct AppendThread {
    handle: Handle,
    stop: DropGuard,
    ended: oneshot::Receiver<()>,
}

impl AppendThread {
    async fn start() -> Result<Self, std::io::Error> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (started, start) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("appender".to_owned())
            .spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build();
                // Whoever waits for either may have gone.
                let _ = started.send(
                    runtime
                        .as_ref()
                        .map(|runtime| runtime.handle().clone())
                        .map_err(|error| std::io::Error::new(error.kind(), error.to_string())),
                );
                if let Ok(runtime) = runtime {
                    runtime.block_on(stopped.cancelled());
                }
                let _ = end.send(());
            })?;
        Ok(Self {
            handle: start.await.map_err(std::io::Error::other)??,
            stop: stop.drop_guard(),
            ended,
        })
    }

    /// Whoever still runs on it is cut off.
    async fn stop(self) {
        drop(self.stop);
        // An error means that the thread is gone too.
        let _ = self.ended.await;
    }
}

/// Waits for a task; says so, and that the node has failed, where it ends without having been told to.
async fn watched(
    name: &'static str,
    task: JoinHandle<()>,
    stop: CancellationToken,
    failed: CancellationToken,
) {
    let ended = task.await;
    if let Err(error) = &ended {
        tracing::error!(task = name, %error, "a task has failed");
    }
    if !stop.is_cancelled() {
        tracing::error!(task = name, "a task has ended: this node can't go on");
        failed.cancel();
    }
}

/// One read model's task: step by step, woken by the one that reads the log; on an error it waits and takes the same step
/// again.
async fn project(
    runner: Runner,
    progress: watch::Sender<Progress>,
    mut waiting: watch::Receiver<usize>,
    mut wake: Follower,
    stop: CancellationToken,
) {
    let pace = match runner.read_model() {
        ReadModel::AccessTokens | ReadModel::Members => PROJECTION_PACE,
        ReadModel::Credentials => CREDENTIALS_PACE,
    };
    while !stop.is_cancelled() {
        let before = progress.borrow().position;
        let (started, head) = (tokio::time::Instant::now(), wake.head());
        match database::within(STEP_LIMIT, runner.step()).await {
            Ok(position) => {
                progress.send_replace(Progress {
                    position,
                    error: None,
                });
                if position <= before {
                    wake.next(position, PROJECTION_POLL, &stop).await;
                } else if position >= head {
                    rest_for(pace.saturating_sub(started.elapsed()), &mut waiting, &stop).await;
                }
            }
            Err(error) => {
                let read_model = runner.read_model().name();
                let error = Report(&error).to_string();
                tracing::error!(
                    read_model,
                    position = before,
                    error,
                    "a read model has stopped and tries again"
                );
                progress.send_modify(|progress| progress.error = Some(error));
                tokio::select! {
                    () = tokio::time::sleep(PROJECTION_BACK_OFF) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

/// No longer than this, and no longer than nobody waits.
async fn rest_for(time: Duration, waiting: &mut watch::Receiver<usize>, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        // An error means that nobody can wait for it any more.
        Ok(_) = waiting.wait_for(|waiting| *waiting > 0) => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Tried: without the look at who waits, and without that at being told to stop.
    #[tokio::test]
    async fn a_read_model_rests_until_somebody_waits_for_it() {
        let (waiting, mut seen) = watch::channel(0);
        let stop = CancellationToken::new();
        let (long, short) = (Duration::from_secs(3600), Duration::from_millis(20));
        let mut rests = async || timeout(short, rest_for(long, &mut seen, &stop)).await.is_err();
        assert!(rests().await);
        waiting.send_replace(1);
        assert!(!rests().await);
        waiting.send_replace(0);
        assert!(rests().await, "as before, once nobody waits any more");
        stop.cancel();
        assert!(!rests().await);
    }
}
