//! A network that falls silent takes nobody's time for ever, and no connections.

use std::time::{Duration, Instant};

use featbit_tokens::app::connect;
use featbit_tokens::database::within;
use sqlx::Executor;

use crate::support::{Proxy, TestDatabase, eventually};

/// As many as a node has for requests.
const CONNECTIONS: usize = 16;
const LIMIT: Duration = Duration::from_millis(500);

/// As when the address of a failed database is taken over. Tried: nothing tested `after_release`: the pool waits for what
/// was given up, and has no connection left; `doubt` after the work is dropped does the same, now and then.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_given_up_leave_their_places_to_new_ones() {
    let database = TestDatabase::new().await;
    let proxy = Proxy::before(&database.url).await;
    let pool = connect(&proxy.url).await.unwrap();
    let mut works = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let pool = pool.clone();
        works.spawn(async move {
            let work = async { (&pool).execute("select pg_sleep(2)").await };
            within(LIMIT.saturating_mul(4), work).await
        });
    }
    eventually("all connections are in use", async || {
        let working: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and query like 'select pg_sleep%' and state = 'active'",
        )
        .fetch_one(&database.pool)
        .await
        .unwrap();
        (usize::try_from(working) == Ok(CONNECTIONS)).then_some(())
    })
    .await;
    proxy.lose();
    let mut given_up = 0;
    while let Some(work) = works.join_next().await {
        let error = work.unwrap().unwrap_err();
        assert!(matches!(error, sqlx::Error::Io(_)), "{error}");
        given_up += 1;
    }
    assert_eq!(given_up, CONNECTIONS);
    let since = Instant::now();
    (&pool).execute("select").await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

/// What was idle is not known to be lost until somebody wants it. Tried: `test` without its limit: the first one waits for
/// as long as for any connection, in vain.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_that_has_fallen_silent_is_found_out_and_replaced() {
    let database = TestDatabase::new().await;
    let proxy = Proxy::before(&database.url).await;
    let pool = connect(&proxy.url).await.unwrap();
    (&pool).execute("select").await.unwrap();
    tokio::time::sleep(LIMIT + LIMIT / 5).await;
    proxy.lose();
    (&pool).execute("select").await.unwrap();
}

/// Whatever the database's own default is. Tried: `connect_for_operator` without `commit_for_good`.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_commits_is_on_disk() {
    let database = TestDatabase::new().await;
    let setting = async |pool: &sqlx::PgPool| {
        let setting: String = sqlx::query_scalar("select current_setting('synchronous_commit')")
            .fetch_one(pool)
            .await
            .unwrap();
        setting
    };
    for (default, expected) in [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")] {
        let url = format!("{}?options=-c%20synchronous_commit%3D{default}", database.url);
        let operator = featbit_tokens::app::connect_for_operator(&url).await.unwrap();
        assert_eq!(setting(&operator).await, expected, "an operator's, {default}");
        assert_eq!(
            setting(&connect(&url).await.unwrap()).await,
            expected,
            "{default}"
        );
    }
}
