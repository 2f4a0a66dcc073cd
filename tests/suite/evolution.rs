//! An event that this binary does not know is of a newer version: everything that follows the log stops before it and says
//! so. Nothing is skipped, nothing is decided from what is behind.

use serde_json::json;
use sqlx::PgPool;

use crate::support::{Answer, Options, TestApp, eventually};

const FLAG: &str = "project/web:env/prod:flag/dark-mode";

/// As a newer node would append it.
async fn append(pool: &PgPool, event_type: &str, event_version: &str) -> i64 {
    sqlx::query_scalar(
        "insert into events
         select position + 1, aggregate_type, gen_random_uuid(), 1, $1, $2,
                (payload::jsonb || jsonb_build_object('event', $1))::json, metadata, organization_id, clock_timestamp(),
                sha256(hash)
         from events where event_type = 'access_token.created' and position = (select max(position) from events)
         returning position",
    )
    .bind(event_type)
    .bind(event_version)
    .fetch_one(pool)
    .await
    .unwrap()
}

/// Tried: without comparing the version (the second case is read as if it were today's); without `is_known` for those who have
/// no use for events of tokens.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_newer_version_stops_whoever_follows_the_log() {
    for (event_type, event_version, cause) in [
        (
            "access_token.painted",
            "1.0.0",
            "unknown variant `access_token.painted`",
        ),
        (
            "access_token.created",
            "2.0.0",
            "version 2.0.0 of it is not known",
        ),
    ] {
        let app = TestApp::start_with(Options {
            settings: vec![("MAX_STALENESS_MS", "500".to_owned())],
            ..Options::default()
        })
        .await;
        let (_, secret) = app.owner().personal_token("ci").await;
        assert_eq!(app.ask(&secret, "ToggleFlag", FLAG).await["decision"], true);
        // The read models hold it: of a page with the unknown event nothing is taken.
        assert_eq!(app.owner().get("/access-tokens").await.status, 200);
        let pool = &app.database.pool;
        let unknown = append(pool, event_type, event_version).await;

        let ready = eventually("the node is not ready, and says why", async || {
            let answer = Answer::of(app.request(reqwest::Method::GET, "/health/readiness")).await;
            let stopped = format!("read model access_tokens has stopped at position {}", unknown - 1);
            (answer.status == 503 && answer.text.contains(&stopped)).then_some(answer)
        })
        .await;
        assert_eq!(ready.body["position"], unknown - 1, "{}", ready.text);
        eventually("the node denies", async || {
            let answer = app.ask(&secret, "ToggleFlag", FLAG).await;
            (answer["context"]["reason"] == "stale_replica").then_some(())
        })
        .await;
        let followed: i64 = sqlx::query_scalar(
            "select max(position) from (select position from read_models union all select position from checkpoints) followers",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        assert!(followed < unknown, "nobody has come past it: {followed}");

        let mut connection = pool.acquire().await.unwrap();
        let error = projections::log::read_after(&mut connection, 0, 1000)
            .await
            .unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains(&format!(
                "the event at position {unknown} can't be read by this version: {event_type}"
            )) && said.contains(cause),
            "{said}"
        );
        app.stop().await;
    }
}

/// What a command loads is read by the same rule.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_to_a_stream_of_a_newer_version_is_refused() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("ci").await;
    sqlx::query(
        "insert into events
         select position + 1, aggregate_type, aggregate_id, sequence + 1, 'access_token.activated', '2.0.0',
                jsonb_build_object('event', 'access_token.activated', 'tokenId', aggregate_id, 'organizationId',
                    organization_id, 'membershipNumber', 1)::json, metadata, organization_id, clock_timestamp(), sha256(hash)
         from events where position = (select max(position) from events)",
    )
    .execute(&app.database.pool)
    .await
    .unwrap();
    let answer = owner
        .put(&format!("/access-tokens/{id}/deactivate"), json!({}))
        .await;
    assert_eq!((answer.status, answer.code()), (500, "InternalServerError"));
    let last: String = sqlx::query_scalar("select event_version from events order by position desc limit 1")
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
    assert_eq!(last, "2.0.0", "nothing was appended after it");
}
