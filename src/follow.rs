//! Wakes those who follow the log. This node's appends wake them at once; other nodes' by a NOTIFY, which is sent outside
//! the append's transaction, at most every few milliseconds. Losing one costs a poll's time, never an event.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const CHANNEL: &str = "featbit_tokens_log";
/// At most one NOTIFY in this time.
const COALESCE: Duration = Duration::from_millis(5);
/// Before listening again after the connection was lost.
const BACK_OFF: Duration = Duration::from_millis(250);

/// Tells a follower that there may be something new. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Follower {
    news: watch::Receiver<u64>,
}

impl Follower {
    /// Waits for news, but no longer than this.
    pub async fn next(&mut self, longest: Duration, stop: &CancellationToken) {
        tokio::select! {
            _ = tokio::time::timeout(longest, self.news.changed()) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Passes on this node's appends and other nodes' notifications.
#[derive(Debug)]
pub struct News {
    pool: PgPool,
    appended: watch::Receiver<i64>,
    news: watch::Sender<u64>,
}

impl News {
    /// News of what this node appends, and of what others say they did.
    #[must_use]
    pub fn new(pool: PgPool, appended: watch::Receiver<i64>) -> Self {
        Self {
            pool,
            appended,
            news: watch::Sender::new(0),
        }
    }

    /// Somebody to be woken.
    #[must_use]
    pub fn follower(&self) -> Follower {
        Follower {
            news: self.news.subscribe(),
        }
    }

    /// Until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let (pool, news) = (self.pool.clone(), self.news.clone());
        let wake = move || news.send_modify(|number| *number = number.wrapping_add(1));
        tokio::join!(
            listen(pool, &wake, &stop),
            announce(self.pool, self.appended, &wake, &stop)
        );
    }
}

async fn listen(pool: PgPool, wake: &impl Fn(), stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let heard = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            loop {
                listener.recv().await?;
                wake();
            }
        };
        let lost: Result<(), sqlx::Error> = tokio::select! {
            lost = heard => lost,
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

async fn announce(
    pool: PgPool,
    mut appended: watch::Receiver<i64>,
    wake: &impl Fn(),
    stop: &CancellationToken,
) {
    loop {
        tokio::select! {
            changed = appended.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        wake();
        let head = appended.borrow_and_update().to_string();
        let notified = sqlx::query("select pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(head)
            .execute(&pool)
            .await;
        if let Err(error) = notified {
            tracing::warn!(%error, "other nodes were not notified of an append, they poll");
        }
        tokio::time::sleep(COALESCE).await;
    }
}
