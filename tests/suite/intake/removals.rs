//! What ends with a member, and with an organization: decisions and lists at once, the log by the reactor.

use serde_json::{Value, json};
use sqlx::PgPool;

use super::broker::{Broker, Sent, consumed};
use super::on_each_broker;
use super::somebody::{Somebody, token_reason};
use crate::support::{Actor, eventually};

on_each_broker! {
    a_removed_members_personal_tokens_are_inactive_at_once_and_deactivated_exactly_once,
    with_an_organization_end_its_members_and_all_its_tokens,
}

async fn a_removed_members_personal_tokens_are_inactive_at_once_and_deactivated_exactly_once(broker: Broker) {
    let app = broker.node().await;
    let leaver = Somebody::new();
    let stayer = Somebody::of(leaver.organization_id);
    broker.send(&[&leaver.added(1), &stayer.added(1)].map(Sent::structured));
    consumed(&app, 2).await;
    let actor = leaver.actor(&app);
    let (first, second) = (
        actor.personal_token("first").await,
        actor.personal_token("second").await,
    );
    let service = service_token(&actor).await;
    let others = stayer.actor(&app).personal_token("other").await;
    assert_eq!(token_reason(&app, &first.1).await, "allowed");

    // Twice: of two removals only one is any news.
    broker.send(&[&leaver.removed(2), &leaver.removed(3)].map(Sent::structured));
    consumed(&app, 4).await;
    assert_eq!(token_reason(&app, &first.1).await, "creator_not_a_member");
    assert_eq!(token_reason(&app, &service.1).await, "allowed");
    let listed = list(&stayer.actor(&app)).await;
    for (id, name) in [(&first.0, "first"), (&second.0, "second")] {
        let token = listed.iter().find(|token| token["id"] == **id).expect(name);
        assert_eq!(
            (&token["status"], &token["inactiveReason"]),
            (&json!("Inactive"), &json!("creator_removed"))
        );
    }
    for id in [&service.0, &others.0] {
        let token = listed.iter().find(|token| token["id"] == **id).unwrap();
        assert_eq!(token["status"], "Active");
    }
    let pool = &app.database.pool;
    reactor_is_done(pool).await;
    for (id, times) in [(&first.0, 1), (&second.0, 1), (&service.0, 0), (&others.0, 0)] {
        assert_eq!(stands(pool, "access_token.deactivated", id).await, times);
    }

    broker.send(&[Sent::structured(&leaver.added(4))]);
    consumed(&app, 5).await;
    reactor_is_done(pool).await;
    assert_eq!(leaver.reason(&app).await, "allowed");
    for token in [&first, &second] {
        assert_eq!(token_reason(&app, &token.1).await, "token_inactive");
        assert_eq!(stands(pool, "access_token.deactivated", &token.0).await, 1);
        assert_eq!(stands(pool, "access_token.activated", &token.0).await, 0);
    }
    let activated = actor
        .put(&format!("/access-tokens/{}/activate", first.0), json!({}))
        .await;
    assert_eq!(activated.status, 200, "{}", activated.text);
    app.catch_up().await;
    assert_eq!(token_reason(&app, &first.1).await, "allowed");
    assert_eq!(token_reason(&app, &second.1).await, "token_inactive");
    app.stop().await;
}

async fn with_an_organization_end_its_members_and_all_its_tokens(broker: Broker) {
    let app = broker.node().await;
    let (ada, elsewhere) = (Somebody::new(), Somebody::new());
    let bob = Somebody::of(ada.organization_id);
    broker.send(&[&ada.added(1), &bob.added(1), &elsewhere.added(1)].map(Sent::structured));
    consumed(&app, 3).await;
    let personal = ada.actor(&app).personal_token("personal").await;
    let service = service_token(&bob.actor(&app)).await;
    let other = elsewhere.actor(&app).personal_token("personal").await;

    let mut removed = ada.event("OrganizationRemoved", 0, json!({}));
    removed["data"].as_object_mut().unwrap().remove("memberId");
    // Twice in another mode: a repeat.
    broker.send(&[Sent::structured(&removed), Sent::binary(&removed)]);
    consumed(&app, 5).await;
    for token in [&personal, &service] {
        assert_eq!(token_reason(&app, &token.1).await, "token_removed");
    }
    for member in [ada, bob] {
        assert_eq!(member.reason(&app).await, "creator_not_a_member");
    }
    assert_eq!(elsewhere.reason(&app).await, "allowed");
    assert_eq!(token_reason(&app, &other.1).await, "allowed");

    let pool = &app.database.pool;
    reactor_is_done(pool).await;
    for member in [ada, bob] {
        let types: Vec<String> = member.log(pool).await.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(types, ["member.added", "member.removed"]);
    }
    for token in [&personal, &service] {
        assert_eq!(stands(pool, "access_token.removed", &token.0).await, 1);
    }
    assert_eq!(stands(pool, "access_token.removed", &other.0).await, 0);

    broker.send(&[Sent::structured(&ada.added(2))]);
    consumed(&app, 6).await;
    reactor_is_done(pool).await;
    assert_eq!(ada.reason(&app).await, "allowed");
    assert_eq!(bob.reason(&app).await, "creator_not_a_member");
    for token in [&personal, &service] {
        assert_eq!(token_reason(&app, &token.1).await, "token_removed");
    }
    assert!(list(&ada.actor(&app)).await.is_empty(), "no token came back");
    app.stop().await;
}

async fn service_token(actor: &Actor) -> (String, String) {
    actor
        .service_token("service", super::somebody::ACTION, "project/*:env/*:flag/*")
        .await
}

async fn list(actor: &Actor) -> Vec<Value> {
    let answer = actor.get("/access-tokens").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["data"]["items"].as_array().unwrap().clone()
}

/// The reactor has answered everything there was.
async fn reactor_is_done(pool: &PgPool) {
    eventually("the reactor is at the head", async || {
        let (head, at): (i64, i64) = sqlx::query_as(
            "select coalesce((select max(position) from events), 0),
                    coalesce((select position from checkpoints where name = 'reactor'), 0)",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (head == at).then_some(())
    })
    .await;
}

async fn stands(pool: &PgPool, event_type: &str, aggregate_id: &str) -> i64 {
    sqlx::query_scalar("select count(*) from events where event_type = $1 and aggregate_id = $2")
        .bind(event_type)
        .bind(aggregate_id)
        .fetch_one(pool)
        .await
        .unwrap()
}
