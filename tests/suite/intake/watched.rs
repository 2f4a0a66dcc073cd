//! What the intake tells of itself: metrics, and readiness while nodes come and go.

use reqwest::Method;
use serde_json::json;

use super::broker::{Broker, Sent, consumed, intake_is, is_reading, readiness, soon};
use super::on_each_broker;
use super::somebody::Somebody;
use crate::support::{Answer, TestApp, TestDatabase};
use featbit_tokens::intake::IntakeState;

on_each_broker! {
    messages_are_counted_by_type_and_by_what_became_of_them_and_timed_until_decisions_hold_them,
    a_node_stays_ready_while_another_comes_and_goes,
}

/// The value of a series; none where it is not there.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

async fn metrics(app: &TestApp) -> String {
    let answer = Answer::of(app.request(Method::GET, "/metrics")).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .header("content-type")
            .starts_with("application/openmetrics-text")
    );
    assert!(answer.text.ends_with("# EOF\n"));
    answer.text
}

async fn messages_are_counted_by_type_and_by_what_became_of_them_and_timed_until_decisions_hold_them(
    broker: Broker,
) {
    let app = broker.node().await;
    let before = metrics(&app).await;
    let (somebody, other) = (Somebody::new(), Somebody::new());
    let granted = somebody.granted(3, "a");
    let mut renamed = other.granted(2, "a");
    renamed["type"] = json!("featbit.membership.Renamed\"\n");
    let messages = [
        Sent::structured(&somebody.added(2)).to(0),
        Sent::structured(&granted).to(0),
        Sent::structured(&granted).to(0),
        Sent::structured(&somebody.revoked(1)).to(0),
        Sent::structured(&other.added(1)).to(0),
        Sent::structured(&renamed).to(0),
        Sent::structured(&other.revoked(3)).to(0),
        Sent::garbage("x").to(0),
    ];
    broker.send(&messages);
    consumed(&app, messages.len()).await;
    let text = soon("all of them are timed, and the lag is measured", async || {
        let text = metrics(&app).await;
        let timed = value(&text, "featbit_tokens_intake_to_decision_seconds_count")?;
        let lag = value(&text, "featbit_tokens_intake_lag_messages{partition=\"0\"}")?;
        (timed >= 8.0 && lag == 0.0).then_some(text)
    })
    .await;
    let count = |text: &str, kind: &str, outcome: &str| {
        let series =
            format!("featbit_tokens_membership_messages_total{{type=\"{kind}\",outcome=\"{outcome}\"}}");
        value(text, &series).unwrap_or(0.0) - value(&before, &series).unwrap_or(0.0)
    };
    for (kind, outcome, expected) in [
        ("MemberAdded", "applied", 2.0),
        ("PermissionGranted", "applied", 1.0),
        ("PermissionGranted", "repeated", 1.0),
        ("PermissionRevoked", "stale", 1.0),
        ("PermissionRevoked", "parked", 1.0),
        ("unknown", "parked", 2.0),
        ("PermissionGranted", "stale", 0.0),
    ] {
        assert_eq!(count(&text, kind, outcome), expected, "{kind} {outcome}\n{text}");
    }
    assert_eq!(value(&text, "featbit_tokens_parked_messages"), Some(3.0));
    assert_eq!(
        value(&text, "featbit_tokens_intake_to_decision_seconds_count"),
        Some(8.0)
    );
    assert_eq!(
        value(&text, "featbit_tokens_intake_lag_seconds{partition=\"0\"}"),
        Some(0.0)
    );
    assert!(value(&text, "featbit_tokens_position").unwrap() >= 5.0);
    for name in [
        somebody.member_id.to_string(),
        somebody.organization_id.to_string(),
    ] {
        assert!(!text.contains(&name), "nobody is named");
    }
    app.stop().await;
}

async fn a_node_stays_ready_while_another_comes_and_goes(broker: Broker) {
    let database = TestDatabase::new().await;
    broker.send(&[Sent::structured(&Somebody::new().added(1))]);
    let app = broker.node_on(database.clone()).await;
    intake_is(&app, "all are its own", |state| {
        *state == IntakeState::Reading { partitions: 3 }
    })
    .await;
    soon("ready", async || (readiness(&app).await.0 == 200).then_some(())).await;
    let mut states = app.app.intake.clone();
    let rebalanced = tokio::spawn(async move {
        states
            .wait_for(|state| matches!(state, IntakeState::Rebalancing { .. }))
            .await
            .is_ok()
    });
    let other = broker.node_on(database).await;
    let shares =
        |state: &IntakeState| matches!(state, IntakeState::Reading { partitions } if *partitions < 3);
    soon("they share", async || {
        let (status, body) = readiness(&app).await;
        let is_intakes = body["reasons"].to_string().contains("intake");
        assert!(status == 200 || !is_intakes, "{body}");
        shares(&app.app.intake.borrow()).then_some(())
    })
    .await;
    other.stop().await;
    soon("it has all again", async || {
        let (status, body) = readiness(&app).await;
        let is_intakes = body["reasons"].to_string().contains("intake");
        assert!(status == 200 || !is_intakes, "{body}");
        (*app.app.intake.borrow() == IntakeState::Reading { partitions: 3 }).then_some(())
    })
    .await;
    is_reading(&app).await;
    assert!(
        rebalanced.is_finished() || broker.is_embedded,
        "it was seen to rebalance"
    );
    app.stop().await;
}
