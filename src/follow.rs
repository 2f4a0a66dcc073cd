//! Wakes those who follow the log. This node's appends wake the one that reads it for all, and that the
//! others; other nodes' by a NOTIFY, which is sent outside
//! the append's transaction, at most every few milliseconds. And by another one whoever waits until all nodes have come to a
//! position calls on them to say so. Losing one costs a poll's time, never an event.

use std::time::Duration;

use futures_util::future::select_all;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::database::{STATEMENT_LIMIT, within};

const CHANNEL: &str = "featbit_tokens_log";
/// On which nodes are called on to say that they have come to a position.
const CALLS: &str = "featbit_tokens_calls";
/// At most one NOTIFY in this time.
const COALESCE: Duration = Duration::from_millis(5);
/// Before listening again after the connection was lost.
const BACK_OFF: Duration = Duration::from_millis(250);
/// After so long without a word it is looked whether the connection is still there.
const SILENCE: Duration = Duration::from_secs(5);

/// Tells a follower that there is something new. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Follower {
    said: Vec<watch::Receiver<i64>>,
    /// Where the follower stood when it was woken last.
    woken_at: Option<i64>,
}

impl Follower {
    /// Somebody who follows what this says.
    #[must_use]
    pub fn of(said: watch::Receiver<i64>) -> Self {
        Self {
            said: vec![said],
            woken_at: None,
        }
    }

    /// The last position that was heard of; 0 for none.
    #[must_use]
    pub fn head(&self) -> i64 {
        let heads = self.said.iter().map(|said| *said.borrow());
        heads.max().unwrap_or(0)
    }

    /// Waits for news of something after this position, but no longer than this.
    pub async fn next(&mut self, position: i64, longest: Duration, stop: &CancellationToken) {
        // Woken for something that was not there: whoever says so again is not believed at once.
        if self.woken_at.take() == Some(position) {
            tokio::time::sleep(COALESCE).await;
        }
        let news = self.said.iter_mut().map(|said| Box::pin(past(said, position)));
        tokio::select! {
            _ = select_all(news) => self.woken_at = Some(position),
            () = tokio::time::sleep(longest) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Calls on this node to say how far it has come.
#[derive(Debug)]
pub struct Calls(watch::Receiver<i64>);

impl Calls {
    /// The farthest position that somebody waits for; 0 for none.
    #[must_use]
    pub fn furthest(&self) -> i64 {
        *self.0.borrow()
    }

    /// Waits until somebody waits for a position past this one.
    pub async fn past(&mut self, position: i64) {
        past(&mut self.0, position).await;
    }
}

/// Waits until something past this position is said.
async fn past(said: &mut watch::Receiver<i64>, position: i64) {
    if said.wait_for(|said| *said > position).await.is_err() {
        // The other end is gone, and the node about to stop.
        std::future::pending::<()>().await;
    }
}

/// What was said of a log. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Said {
    appended: watch::Sender<i64>,
    heard: watch::Sender<i64>,
    called: watch::Sender<i64>,
}

impl Said {
    /// It was another log, which may have been longer: what is said of this one would be no news beside it.
    pub fn forget(&self) {
        for said in [&self.appended, &self.heard, &self.called] {
            said.send_replace(0);
        }
    }
}

/// Calls on all nodes to say when they have come to a position.
///
/// # Errors
/// Where the database is out of reach.
pub async fn call(connection: &mut PgConnection, position: i64) -> Result<(), sqlx::Error> {
    notify(connection, CALLS, position).await
}

async fn notify(
    connection: &mut PgConnection,
    channel: &'static str,
    position: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_notify($1, $2)")
        .bind(channel)
        .bind(position.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Passes on this node's appends, other nodes' notifications, and calls.
#[derive(Debug)]
pub struct News {
    pool: PgPool,
    said: Said,
}

impl News {
    /// News of what this node appends, and of what others say they did.
    #[must_use]
    pub fn new(pool: PgPool, appended: watch::Sender<i64>) -> Self {
        let said = Said {
            appended,
            heard: watch::Sender::new(0),
            called: watch::Sender::new(0),
        };
        Self { pool, said }
    }

    /// What was said, to be forgotten with its log.
    #[must_use]
    pub fn said(&self) -> Said {
        self.said.clone()
    }

    /// Somebody to be woken.
    #[must_use]
    pub fn follower(&self) -> Follower {
        Follower {
            said: vec![self.said.appended.subscribe(), self.said.heard.subscribe()],
            woken_at: None,
        }
    }

    /// What this node is called on for.
    #[must_use]
    pub fn calls(&self) -> Calls {
        Calls(self.said.called.subscribe())
    }

    /// Until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(
            listen(&self.pool, &self.said, &stop),
            announce(&self.pool, self.said.appended.subscribe(), &stop)
        );
    }
}

async fn listen(pool: &PgPool, said: &Said, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let listening = async {
            let mut listener = within(STATEMENT_LIMIT, async {
                // One of its own each time: the pool would wait for one that is given up.
                let own = PgPoolOptions::new().max_connections(1);
                let own = own.connect_lazy_with(pool.connect_options().as_ref().clone());
                let mut listener = PgListener::connect_with(&own).await?;
                listener.listen_all([CHANNEL, CALLS]).await?;
                Ok::<_, sqlx::Error>(listener)
            })
            .await?;
            loop {
                let Ok(notified) = timeout(SILENCE, listener.recv()).await else {
                    within(STATEMENT_LIMIT, sqlx::query("select").execute(&mut listener)).await?;
                    continue;
                };
                let notified = notified?;
                // One that can't be read is nobody's of ours.
                let Ok(position) = notified.payload().parse::<i64>() else {
                    continue;
                };
                let told = if notified.channel() == CALLS {
                    &said.called
                } else {
                    &said.heard
                };
                told.send_if_modified(|known| {
                    let is_news = position > *known;
                    *known = position.max(*known);
                    is_news
                });
            }
        };
        let lost: Result<(), sqlx::Error> = tokio::select! {
            lost = listening => lost,
            () = stop.cancelled() => return,
        };
        if let Err(error) = lost {
            tracing::warn!(%error, "not notified of other nodes' appends for now, polling");
        }
        tokio::select! {
            () = tokio::time::sleep(BACK_OFF) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn announce(pool: &PgPool, mut appended: watch::Receiver<i64>, stop: &CancellationToken) {
    loop {
        tokio::select! {
            changed = appended.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        let head = *appended.borrow_and_update();
        let notify = async { notify(&mut *pool.acquire().await?, CHANNEL, head).await };
        let notified = within(STATEMENT_LIMIT, notify).await;
        if let Err(error) = notified {
            tracing::warn!(%error, "other nodes were not notified of an append, they poll");
        }
        tokio::time::sleep(COALESCE).await;
    }
}
