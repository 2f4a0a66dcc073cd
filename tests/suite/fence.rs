//! A node that can't see the log denies: it never serves permission that may be gone.

use sqlx::{Connection, Executor, PgConnection};

use crate::support::{Answer, Options, TestApp, eventually};

const FLAG: &str = "project/web:env/prod:flag/dark-mode";

/// Tried with `Index::is_fresh` answering true whatever the hour: the frozen node goes on allowing.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_not_read_the_log_denies_everything_until_it_can() {
    let settings = vec![("MAX_STALENESS_MS", "300".to_owned())];
    let app = TestApp::start_with(Options {
        settings,
        database: None,
    })
    .await;
    let (_, secret) = app.developer().personal_token("ci").await;
    assert_eq!(
        app.ask(&secret, "ToggleFlag", FLAG).await["context"]["reason"],
        "allowed"
    );

    let mut freezer = PgConnection::connect(&app.database.url).await.unwrap();
    freezer
        .execute("begin; lock table events in access exclusive mode")
        .await
        .unwrap();
    eventually("the node denies", async || {
        let answer = app.ask(&secret, "ToggleFlag", FLAG).await;
        (answer["decision"] == false && answer["context"]["reason"] == "stale_replica").then_some(())
    })
    .await;
    let ready = Answer::of(app.request(reqwest::Method::GET, "/health/readiness")).await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    let listed = app.owner().get("/access-tokens").await;
    assert_eq!((listed.status, listed.code()), (503, "ServiceUnavailable"));
    assert_eq!(listed.header("retry-after"), "1");

    freezer.execute("commit").await.unwrap();
    eventually("the node decides again", async || {
        (app.ask(&secret, "ToggleFlag", FLAG).await["decision"] == true).then_some(())
    })
    .await;
    app.stop().await;
}
