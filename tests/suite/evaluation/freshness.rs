//! Freshness: a node never answers from what may be old.

use super::*;

/// Tried: `position < at_least` taken out of `decide`.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_not_reached_is_a_denial_and_no_error() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().personal_token("mine").await;
    let now = app.ask(&secret, "ToggleFlag", FLAG).await["context"]["position"]
        .as_i64()
        .unwrap();
    for (position, expected) in [
        (0, "allowed"),
        (now, "allowed"),
        (now + 1, "stale_replica"),
        (i64::MAX, "stale_replica"),
    ] {
        let asked = question(token(&secret), json!({ "atLeastPosition": position }));
        let answer = app.evaluate(asked).await;
        assert_eq!(
            (answer.status, reason(&answer.body).as_str()),
            (200, expected),
            "{position}"
        );
    }
    let unknown = app
        .evaluate(question(token("nobody's"), json!({ "atLeastPosition": now + 1 })))
        .await;
    assert_eq!(reason(&unknown.body), "stale_replica", "it may be known there");
    for wrong in [json!(-1), json!(1.5), json!("1"), json!(true), json!(u64::MAX)] {
        let answer = app
            .evaluate(question(token(&secret), json!({ "atLeastPosition": wrong })))
            .await;
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.body.is_string(), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_waits_for_the_position_of_a_command_that_is_under_way() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, secret) = owner.personal_token("mine").await;
    let now = app.ask(&secret, "ToggleFlag", FLAG).await["context"]["position"]
        .as_i64()
        .unwrap();
    let asked = question(token(&secret), json!({ "atLeastPosition": now + 1 }));
    let (answer, ()) = tokio::join!(app.evaluate(asked), put(&owner, &id, "deactivate"));
    // In time it is what the command made it; the wait is bounded, and past it nothing is answered that may be old.
    assert!(
        ["token_inactive", "stale_replica"].contains(&reason(&answer.body).as_str()),
        "{}",
        answer.text
    );
}

/// The log is out of reach: what is known gets old, and a node that can't vouch for it denies, says that it is not ready,
/// and does so no longer than it has to. Tried: `is_fresh` always true.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_lost_sight_of_the_log_denies_until_it_sees_it_again() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().personal_token("mine").await;
    let readiness = async || {
        Answer::of(app.request(Method::GET, "/health/readiness"))
            .await
            .status
    };
    assert_eq!(
        (why(&app, &secret).await.as_str(), readiness().await),
        ("allowed", 200)
    );
    app.database
        .pool
        .execute("alter table events rename to out_of_sight")
        .await
        .unwrap();
    eventually("the node denies", async || {
        (why(&app, &secret).await == "stale_replica").then_some(())
    })
    .await;
    assert_eq!(why(&app, "nobody's").await, "stale_replica");
    assert_eq!(readiness().await, 503);
    let listed = app.owner().get("/access-tokens").await;
    assert_eq!(
        (listed.status, listed.code(), listed.header("retry-after")),
        (503, "ServiceUnavailable", "1")
    );
    app.database
        .pool
        .execute("alter table out_of_sight rename to events")
        .await
        .unwrap();
    eventually("the node decides again", async || {
        (why(&app, &secret).await == "allowed").then_some(())
    })
    .await;
    // The read models go on by themselves, too.
    eventually("the node is ready", async || {
        (readiness().await == 200).then_some(())
    })
    .await;
}

/// A command loads its caller from the log itself, so a node that has fallen behind still takes it: tokens can be stopped
/// there, and nobody may more than the log says. Tried: the caller refused wherever the index is not fresh; `Forbidden`
/// for whom a stale index does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_fallen_behind_takes_commands_and_refuses_queries() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("mine").await;
    let never_reached = async |actor: &Actor, method: Method, path: &str| {
        let request = actor
            .request(method, path)
            .header("x-at-least-position", i64::MAX.to_string());
        Answer::of(request).await.status
    };
    let deactivate = format!("/access-tokens/{id}/deactivate");
    assert_eq!(never_reached(&owner, Method::GET, "/access-tokens").await, 503);
    assert_eq!(
        never_reached(&app.intruder(), Method::PUT, &deactivate).await,
        403
    );
    assert_eq!(never_reached(&app.nobody(), Method::PUT, &deactivate).await, 403);
    assert_eq!(never_reached(&owner, Method::PUT, &deactivate).await, 200);
}
