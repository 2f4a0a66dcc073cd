//! What is slow, locked or killed half way.

use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;

use super::broker::{Broker, Sent, consumed, intake_is, is_reading, readiness, soon};
use super::on_each_broker;
use super::somebody::Somebody;
use crate::support::check::log_is_whole;
use crate::support::{Network, Options, Process, Proxy, TestApp, TestDatabase, free_port};

on_each_broker! {
    a_slow_store_gets_everything_once_and_in_order,
    two_reactors_of_which_one_is_killed_deactivate_each_token_exactly_once,
}

/// Every packet takes 150 ms; then nothing comes through for longer than a statement may take, and all is well again.
async fn a_slow_store_gets_everything_once_and_in_order(broker: Broker) {
    let database = TestDatabase::new().await;
    let proxy = Proxy::before(&database.url).await;
    let mut settings = broker.settings();
    settings.push(("DATABASE_URL", proxy.url.clone()));
    let app = TestApp::start_with(Options {
        settings,
        database: Some(database),
    })
    .await;
    let members: Vec<Somebody> = (0..30).map(|_| Somebody::new()).collect();
    let mut told: usize = 0;
    for (version, network) in (1..).zip([
        Network::Slow(Duration::from_millis(150)),
        Network::Silent,
        Network::Slow(Duration::from_millis(150)),
    ]) {
        proxy.set(network);
        let messages = members.iter().map(|member| member.granted(version, "s"));
        let messages: Vec<Sent> = messages.map(|event| Sent::structured(&event)).collect();
        broker.send(&messages);
        told += messages.len();
        if network == Network::Silent {
            tokio::time::sleep(Duration::from_secs(12)).await;
            proxy.set(Network::Open);
        }
        soon("consumed", async || {
            (offsets(&app.database.pool).await >= told).then_some(())
        })
        .await;
    }
    proxy.set(Network::Open);
    consumed(&app, told).await;
    for member in &members {
        assert_eq!(member.heard(&app.database.pool).await, [1, 2, 3]);
    }
    broker.everything_was_consumed(&app.database.pool).await;
    log_is_whole(&app.database.pool).await;
    app.stop().await;
}

/// What one has done and not written down the other does again, which must come to nothing.
async fn two_reactors_of_which_one_is_killed_deactivate_each_token_exactly_once(broker: Broker) {
    const MEMBERS: usize = 12;
    const TOKENS: i64 = 60;
    let app = broker.node().await;
    let members: Vec<Somebody> = (0..MEMBERS).map(|_| Somebody::new()).collect();
    let added = members.iter().map(|member| member.added(1));
    broker.send(&added.map(|event| Sent::structured(&event)).collect::<Vec<_>>());
    consumed(&app, MEMBERS).await;
    for member in &members {
        for nth in 0..5 {
            member.actor(&app).personal_token(&format!("token {nth}")).await;
        }
    }
    let database = app.database.clone();
    app.stop().await;
    let node = || Process::start(&database, free_port(), broker.settings());
    let (one, two) = (node(), node());
    let removed = members.iter().map(|member| member.removed(2));
    broker.send(&removed.map(|event| Sent::structured(&event)).collect::<Vec<_>>());
    soon("a reactor has begun", async || {
        (deactivated(&database.pool).await.0 > 0).then_some(())
    })
    .await;
    drop(one);
    soon("all is done", async || {
        let (events, _) = deactivated(&database.pool).await;
        let head: i64 = sqlx::query_scalar("select max(position) from events")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        let reactor: i64 = sqlx::query_scalar("select position from checkpoints where name = 'reactor'")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        (events >= TOKENS && reactor == head).then_some(())
    })
    .await;
    assert_eq!(deactivated(&database.pool).await, (TOKENS, TOKENS));
    drop(two);
    log_is_whole(&database.pool).await;
}

/// How many such events there are, and of how many tokens.
async fn deactivated(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as(
        "select count(*), count(distinct aggregate_id) from events where event_type = 'access_token.deactivated'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn offsets(pool: &PgPool) -> usize {
    let at: i64 = sqlx::query_scalar("select coalesce(sum(next_offset), 0)::bigint from kafka_offsets")
        .fetch_one(pool)
        .await
        .unwrap();
    usize::try_from(at).unwrap()
}

/// On Apache Kafka alone: the embedded broker knows neither names nor certificates.
#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_ask_for_a_name_over_tls_are_read_by_whoever_has_it() {
    let Some(broker) = Broker::apache() else { return };
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(servers), Some(ca), Some(password)) = (
        given("TEST_KAFKA_SASL_SSL_SERVERS"),
        given("TEST_KAFKA_CA"),
        given("TEST_KAFKA_PASSWORD"),
    ) else {
        eprintln!("NOT RUN: TEST_KAFKA_SASL_SSL_SERVERS names no Apache Kafka that asks for a name");
        return;
    };
    let somebody = Somebody::new();
    broker.send(&[Sent::structured(&somebody.added(1))]);
    let database = TestDatabase::new().await;
    let with = |password: &str, ca: Option<&str>| {
        let mut settings = broker.settings();
        settings.extend([
            ("KAFKA_BOOTSTRAP_SERVERS", servers.clone()),
            ("KAFKA_PROPERTY_SECURITY_PROTOCOL", "SASL_SSL".to_owned()),
            ("KAFKA_PROPERTY_SASL_MECHANISM", "PLAIN".to_owned()),
            ("KAFKA_PROPERTY_SASL_USERNAME", "intake".to_owned()),
            ("KAFKA_PROPERTY_SASL_PASSWORD", password.to_owned()),
        ]);
        settings.extend(ca.map(|ca| ("KAFKA_PROPERTY_SSL_CA_LOCATION", ca.to_owned())));
        Options {
            settings,
            database: Some(database.clone()),
        }
    };
    for refused in [with("wrong", Some(&ca)), with(&password, None)] {
        let app = TestApp::start_with(refused).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (status, body) = readiness(&app).await;
        assert_eq!(status, 503, "{body}");
        assert_eq!(offsets(&app.database.pool).await, 0);
        assert!(
            !body.to_string().contains("wrong") && !body.to_string().contains(&password),
            "{body}"
        );
        app.stop().await;
    }
    let app = TestApp::start_with(with(&password, Some(&ca))).await;
    intake_is(&app, "part of the group", |state| state.obstacle().is_none()).await;
    is_reading(&app).await;
    consumed(&app, 1).await;
    assert_eq!(somebody.reason(&app).await, "allowed");
    let (status, body) = readiness(&app).await;
    assert_eq!((status, &body["parkedMessages"]), (200, &json!(0)), "{body}");
    app.stop().await;
}
