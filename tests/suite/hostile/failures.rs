//! Failed authentications are limited per client address; who can authenticate never notices. The window itself, its
//! minute and its memory are tested beside `src/http/failed_attempts.rs`.

use super::*;

const LIMIT: usize = 100;

/// A node behind so many proxies, for gateways with a key.
async fn node(trusted_proxy_hops: u8) -> TestApp {
    let settings = vec![
        ("TRUSTED_PROXY_HOPS", trusted_proxy_hops.to_string()),
        ("GATEWAY_KEYS", "the gateway's key".to_owned()),
    ];
    TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await
}

/// Lists tokens with this authorization, from this address.
async fn list(app: &TestApp, authorization: &str, forwarded_for: &str) -> Answer {
    let owner = app.owner();
    let actor = app.with_authorization(owner.organization_id, owner.member_id, authorization);
    let request = actor.request(Method::GET, "/access-tokens");
    Answer::of(request.header("x-forwarded-for", forwarded_for)).await
}

/// Asks for a decision with this key, from this address.
async fn decide(app: &TestApp, gateway_key: &str, forwarded_for: &str) -> Answer {
    let question = json!({ "subject": { "type": "access_token", "id": "x" }, "action": { "name": "a" },
                           "resource": { "type": "flag", "id": FLAG } });
    let request = app
        .request(Method::POST, "/access/v1/evaluation")
        .header("x-gateway-key", gateway_key)
        .header("x-forwarded-for", forwarded_for);
    Answer::of(request.json(&question)).await
}

/// Fails from this address until one more is too many.
async fn exhaust(app: &TestApp, forwarded_for: &str) {
    for nth in 1..=LIMIT {
        let answer = list(app, "Bearer wrong", forwarded_for).await;
        assert_eq!((answer.status, answer.code()), (401, "Unauthorized"), "{nth}");
    }
}

fn retry_after(answer: &Answer) -> u64 {
    let seconds = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    seconds
}

/// Tried: `count_failure` taken out of `KnownCaller`, and called before `authenticate`.
#[tokio::test(flavor = "multi_thread")]
async fn the_hundred_and_first_caller_of_an_address_who_can_not_be_believed_is_one_too_many() {
    let app = node(1).await;
    let owner = app.owner();
    let good = format!(
        "Bearer {}",
        jwt(owner.member_id, Utc::now() + TimeDelta::minutes(5))
    );
    nothing_comes_of(&app, async || {
        let bad = [
            "",
            "Bearer wrong",
            "Basic dXNlcjpwYXNz",
            "api-p_000000000000000000000000000000000000000000",
            "Bearer api-AAAAAAAAAAAAAAAAAABBBBBBBBBBBBBBBBBBBBBB",
        ];
        for (nth, authorization) in (1..=LIMIT).zip(bad.iter().cycle()) {
            let answer = list(&app, authorization, "203.0.113.1").await;
            assert_eq!((answer.status, answer.code()), (401, "Unauthorized"), "{nth}");
            // They don't count.
            assert_eq!(list(&app, &good, "203.0.113.1").await.status, 200);
        }
        for authorization in bad {
            let answer = list(&app, authorization, "203.0.113.1").await;
            assert_eq!(answer.status, 429);
            assert_eq!(
                answer.text,
                r#"{"success":false,"errors":["TooManyRequests"],"data":null}"#
            );
            assert_eq!(answer.headers.get("www-authenticate"), None);
            retry_after(&answer);
        }
        assert_eq!(
            list(&app, &good, "203.0.113.1").await.status,
            200,
            "who can be believed passes"
        );
        assert_eq!(
            list(&app, "Bearer wrong", "203.0.113.2").await.status,
            401,
            "another address"
        );
        assert_eq!(
            list(&app, "Bearer wrong", "2001:db8::1").await.status,
            401,
            "another family"
        );
    })
    .await;
    // A known caller who may not is no failed authentication.
    for _ in 0..=LIMIT {
        let request = app.nobody().request(Method::GET, "/access-tokens");
        let answer = Answer::of(request.header("x-forwarded-for", "203.0.113.3")).await;
        assert_eq!(answer.status, 403);
    }
    assert_eq!(list(&app, "Bearer wrong", "203.0.113.3").await.status, 401);
}

/// Tried: `count_failure` taken out of `require_gateway_key`.
/// FeatBit's JWTs live for five minutes, and its page gets a new one by the 401 it is answered; many users share an address.
/// Tried: expired ones counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_that_has_expired_is_no_failure() {
    let app = node(1).await;
    let expired = |seconds| jwt(app.owner().member_id, Utc::now() - TimeDelta::seconds(seconds));
    for seconds in 1..=i64::try_from(LIMIT).unwrap() + 1 {
        let answer = list(&app, &format!("Bearer {}", expired(seconds)), "203.0.113.1").await;
        assert_eq!((answer.status, answer.code()), (401, "Unauthorized"), "{seconds}");
    }
    exhaust(&app, "203.0.113.1").await;
    let answer = list(&app, &format!("Bearer {}", expired(1)), "203.0.113.1").await;
    assert_eq!(answer.status, 401);
    let forged = expired(1).replace('.', ".x");
    assert_eq!(
        list(&app, &format!("Bearer {forged}"), "203.0.113.1")
            .await
            .status,
        429
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_wrong_key_is_limited_too_and_one_with_the_right_key_is_not() {
    let app = node(1).await;
    nothing_comes_of(&app, async || {
        for nth in 1..=LIMIT {
            let answer = decide(&app, "wrong", "203.0.113.1").await;
            assert_eq!(answer.status, 401, "{nth}");
        }
        let answer = decide(&app, "wrong", "203.0.113.1").await;
        assert_eq!(answer.status, 429);
        assert!(answer.body.is_string(), "the standard's form: {}", answer.text);
        retry_after(&answer);
        // One count for everything that authenticates.
        assert_eq!(list(&app, "Bearer wrong", "203.0.113.1").await.status, 429);
        assert_eq!(decide(&app, "the gateway's key", "203.0.113.1").await.status, 200);
        assert_eq!(decide(&app, "wrong", "203.0.113.2").await.status, 401);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_writes_before_its_proxy_does_not_make_it_another() {
    let app = node(1).await;
    nothing_comes_of(&app, async || {
        for nth in 0..LIMIT {
            let forwarded_for = format!("198.51.100.{nth}, 203.0.113.1");
            assert_eq!(list(&app, "Bearer wrong", &forwarded_for).await.status, 401);
        }
        assert_eq!(
            list(&app, "Bearer wrong", "198.51.100.200, 203.0.113.1")
                .await
                .status,
            429
        );
        assert_eq!(
            list(&app, "Bearer wrong", "127.0.0.1, 203.0.113.1").await.status,
            429
        );
        // Nor can it put the blame on somebody else.
        assert_eq!(
            list(&app, "Bearer wrong", "203.0.113.1, 203.0.113.2")
                .await
                .status,
            401
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_of_one_v6_network_are_one_client() {
    let app = node(1).await;
    for nth in 0..LIMIT {
        let answer = list(&app, "Bearer wrong", &format!("2001:db8::{nth:x}")).await;
        assert_eq!(answer.status, 401);
    }
    assert_eq!(
        list(&app, "Bearer wrong", "2001:db8::ffff:0:0:1").await.status,
        429
    );
    assert_eq!(list(&app, "Bearer wrong", "2001:db8:0:1::1").await.status, 401);
}

/// Tried: the header read whatever `TRUSTED_PROXY_HOPS` is; no exception for loopback.
#[tokio::test(flavor = "multi_thread")]
async fn loopback_is_never_limited_and_without_trusted_proxies_the_header_says_nothing() {
    for trusted_proxy_hops in [0, 1] {
        let app = node(trusted_proxy_hops).await;
        let claimed = if trusted_proxy_hops == 0 {
            "203.0.113.1"
        } else {
            "::1"
        };
        exhaust(&app, claimed).await;
        assert_eq!(list(&app, "Bearer wrong", claimed).await.status, 401);
        assert_eq!(decide(&app, "wrong", claimed).await.status, 401);
    }
    // With more proxies promised than the header names, the peer counts: loopback again.
    let app = node(2).await;
    exhaust(&app, "203.0.113.1").await;
    assert_eq!(list(&app, "Bearer wrong", "203.0.113.1").await.status, 401);
    exhaust(&app, "203.0.113.1, 192.0.2.1").await;
    assert_eq!(
        list(&app, "Bearer wrong", "203.0.113.1, 192.0.2.2").await.status,
        429
    );
}
