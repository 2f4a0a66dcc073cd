//! When: a position, a time, or now; what is still to come; and the time that expiry is decided at.

use std::time::{Duration, Instant};

use sqlx::Connection;

use super::*;

/// Tried: `<` for `<=` in `last_position_at`; without the space taken for a plus in `At::parse`.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_means_the_last_position_not_after_it() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("mine").await;
    let created = last(&app, "access_token.created").await;
    for nth in 0..5 {
        let name = json!({ "name": format!("name {nth}") });
        assert_eq!(owner.put(&at(&id), name).await.status, 200);
    }
    let times: Vec<(i64, DateTime<Utc>)> =
        sqlx::query_as("select position, recorded_at from events order by position")
            .fetch_all(&app.database.pool)
            .await
            .unwrap();
    let not_after = |time: DateTime<Utc>| {
        let until = times.iter().filter(|(_, recorded_at)| *recorded_at <= time);
        until.map(|(position, _)| *position).max().unwrap_or(0)
    };
    let created_at = recorded_at(&app, created).await;
    for (_, recorded_at) in &times {
        for offset in [-1, 0, 1] {
            let asked = *recorded_at + TimeDelta::microseconds(offset);
            let answer = permissions(&owner, &id, &format!("?at={}", time(asked))).await;
            if asked < created_at {
                assert_eq!(answer.body, errors(&["ResourceNotFound"]), "{asked}");
            } else {
                assert_eq!(answer.status, 200, "{asked}: {}", answer.text);
                assert_eq!(answer.body["data"]["position"], not_after(asked), "{asked}");
                assert_eq!(answer.body["data"]["time"], json!(asked));
            }
        }
    }
    let an_hour_east = created_at.with_timezone(&chrono::FixedOffset::east_opt(3600).unwrap());
    let an_hour_east = an_hour_east.to_rfc3339_opts(SecondsFormat::Micros, false);
    assert!(an_hour_east.ends_with("+01:00"));
    for spelling in [an_hour_east.clone(), an_hour_east.replace('+', "%2B")] {
        let answer = permissions(&owner, &id, &format!("?at={spelling}")).await;
        assert_eq!(answer.body["data"]["position"], created, "{spelling}");
        assert_eq!(answer.body["data"]["time"], json!(created_at), "{spelling}");
    }
    let long_ago = permissions(&owner, &id, "?at=1970-01-01T00:00:00Z").await;
    assert_eq!(long_ago.body, errors(&["ResourceNotFound"]));
}

/// Tried: without the comparison with now in `position_at`.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_come_and_what_is_no_time_are_invalid() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("mine").await;
    let now = database_time(&app).await;
    let answer = permissions(&owner, &id, &format!("?at={}", time(now))).await;
    assert_eq!(answer.status, 200, "now is not to come: {}", answer.text);
    let to_come = time(now + TimeDelta::hours(1));
    for wrong in [
        to_come.as_str(),
        "9999-12-31T23:59:59Z",
        "yesterday",
        "-1",
        "%2B1",
        "1.0",
        "9223372036854775808",
        "2026-11-23",
        "2026-02-30T10:00:00Z",
        "%00",
    ] {
        let answer = permissions(&owner, &id, &format!("?at={wrong}")).await;
        assert_eq!(
            (answer.status, answer.body),
            (400, errors(&["at_is_invalid"])),
            "{wrong}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_at_it_is_now_and_holds_what_was_just_done() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("mine").await;
    for query in ["", "?at=", "?AT="] {
        let before = database_time(&app).await;
        let data = permissions(&owner, &id, query).await.body["data"].clone();
        let after = database_time(&app).await;
        assert_eq!(data["position"], head(&app).await, "{query}");
        let now: DateTime<Utc> = serde_json::from_value(data["time"].clone()).unwrap();
        // The node measures the database's clock; the two are on one machine here.
        let tolerance = TimeDelta::milliseconds(250);
        assert!(before - tolerance <= now && now <= after + tolerance, "{now}");
        assert_eq!(state(&data), json!(["Active", true, null]));
    }
    for (action, expected) in [
        ("deactivate", json!(["Inactive", false, "token_inactive"])),
        ("activate", json!(["Active", true, null])),
    ] {
        let done = owner.put(&format!("{}/{action}", at(&id)), json!({})).await;
        let data = permissions(&owner, &id, "").await.body["data"].clone();
        assert_eq!(state(&data), expected, "{action}");
        assert_eq!(data["position"].to_string(), done.header("x-log-position"));
    }
}

/// Tried: the clock's now for every time.
#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_decided_at_the_time_asked_about() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let expires_at = Utc::now() + TimeDelta::milliseconds(400);
    let body = json!({ "name": "short", "type": "Personal", "expiresAt": time(expires_at) });
    let (id, _) = owner.token(body).await;
    let created = last(&app, "access_token.created").await;
    let expires_at: DateTime<Utc> =
        serde_json::from_value(owner.get(&at(&id)).await.body["data"]["expiresAt"].clone()).unwrap();
    let at_expiry = eventually("the expiry is no time to come", async || {
        let answer = permissions(&owner, &id, &format!("?at={}", time(expires_at))).await;
        (answer.status == 200).then_some(answer.body["data"].clone())
    })
    .await;
    assert_eq!(state(&at_expiry), json!(["Inactive", false, "token_expired"]));
    let just_before = expires_at - TimeDelta::microseconds(1);
    let just_before = permissions(&owner, &id, &format!("?at={}", time(just_before))).await;
    assert_eq!(state(&just_before.body["data"]), json!(["Active", true, null]));
    assert_eq!(
        state(&as_of(&owner, &id, created).await),
        json!(["Active", true, null]),
        "at a position it is the time of that event"
    );
    let now = permissions(&owner, &id, "").await;
    assert_eq!(
        state(&now.body["data"]),
        json!(["Inactive", false, "token_expired"])
    );
}

/// Tried: without the wait (the one that comes is 503 too).
#[tokio::test(flavor = "multi_thread")]
async fn a_position_to_come_is_waited_for_a_quarter_of_a_second() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("mine").await;
    let next = head(&app).await + 1;
    let since = Instant::now();
    let answer = permissions(&owner, &id, &format!("?at={next}")).await;
    assert_eq!(answer.body, errors(&["ServiceUnavailable"]));
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert!(since.elapsed() >= Duration::from_millis(250));
    let never = permissions(&owner, &id, &format!("?at={}", i64::MAX)).await;
    assert_eq!(never.status, 503);

    let revoked = json!({ "permission": "ToggleFlag" });
    let (data, position) = tokio::join!(
        as_of(&owner, &id, next),
        tell(&app, &owner, "PermissionRevoked", revoked)
    );
    assert_eq!((data["position"].as_i64(), position), (Some(next), next));
}

/// An append that has its time already, but is not committed yet, is waited for: else it would later turn up before a time
/// that was answered for.
///
/// Tried: without `wait_for_append` (the answer comes at once, with the position before).
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_as_of_a_time_never_changes() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("mine").await;
    let before = head(&app).await;

    // As append_to_log does it: the lock, the time, the event; and then no commit for a while.
    let mut slow = sqlx::PgConnection::connect(&app.database.url).await.unwrap();
    slow.execute("begin; select pg_advisory_xact_lock(7305808869231650131)")
        .await
        .unwrap();
    slow.execute(
        "insert into events
         select position + 1, aggregate_type, aggregate_id, sequence + 1, 'access_token.renamed', '1.0.0',
                json_build_object('event', 'access_token.renamed', 'tokenId', aggregate_id,
                                  'organizationId', organization_id, 'name', 'slow'),
                '{}', organization_id, clock_timestamp(), hash
         from events order by position desc limit 1",
    )
    .await
    .unwrap();
    let asked = database_time(&app).await;
    let query = format!("?at={}", time(asked));
    let answer = tokio::spawn({
        let (owner, id, query) = (owner.clone(), id.clone(), query.clone());
        async move { permissions(&owner, &id, &query).await }
    });
    eventually("the question waits", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted and mode = 'ShareLock'
             and database = (select oid from pg_database where datname = current_database())",
        )
        .fetch_one(&app.database.pool)
        .await
        .unwrap();
        (waiting > 0 || answer.is_finished()).then_some(())
    })
    .await;
    slow.execute("commit").await.unwrap();
    let first = answer.await.unwrap();
    assert_eq!(first.body["data"]["position"], before + 1, "{}", first.text);
    let again = permissions(&owner, &id, &query).await;
    assert_eq!(again.text, first.text);
}
