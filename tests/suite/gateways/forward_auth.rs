//! Forward auth: what passes, what does not, and what a client can't smuggle past it.

use reqwest::RequestBuilder;
use reqwest::header::HeaderValue;

use super::*;

const FORBIDDEN: &str = r#"{"success":false,"errors":["Forbidden"],"data":null}"#;
const UNAUTHORIZED: &str = r#"{"success":false,"errors":["Unauthorized"],"data":null}"#;
const IDENTITY: [&str; 4] = ["x-token-id", "x-token-type", "x-organization-id", "x-creator-id"];

/// A request that the gateway has in hand, as it asks for it.
fn asking(app: &TestApp, authorization: &str) -> RequestBuilder {
    bare(app, authorization)
        .header("x-featbit-action", "ToggleFlag")
        .header("x-featbit-resource", FLAG)
}

fn bare(app: &TestApp, authorization: &str) -> RequestBuilder {
    app.request(Method::GET, "/forward-auth")
        .header("authorization", authorization)
}

/// The status; that everything else fits it is looked at here, every time.
async fn status(request: RequestBuilder) -> u16 {
    let answer = Answer::of(request).await;
    assert!(answer.header("cache-control").starts_with("no-store"));
    match answer.status {
        200 => assert_eq!(answer.text, ""),
        401 => assert_eq!(
            (answer.text.as_str(), answer.header("www-authenticate")),
            (UNAUTHORIZED, "Bearer")
        ),
        403 => assert_eq!(
            (answer.text.as_str(), answer.headers.get("www-authenticate")),
            (FORBIDDEN, None)
        ),
        503 => assert_eq!(
            (answer.code(), answer.header("retry-after")),
            ("ServiceUnavailable", "1")
        ),
        other => panic!("{other}: {}", answer.text),
    }
    if answer.status != 200 {
        for name in IDENTITY {
            assert_eq!(answer.headers.get(name), None, "{name}");
        }
    }
    answer.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_passes_and_the_answer_says_whose_it_is() {
    let app = TestApp::start().await;
    let (owner, developer) = (app.owner(), app.developer());
    let (personal, personal_secret) = developer.personal_token("mine").await;
    let (service, service_secret) = owner.service_token("bot", "ToggleFlag", FLAGS).await;
    for (secret, id, kind, creator) in [
        (&personal_secret, &personal, "Personal", &developer),
        (&service_secret, &service, "Service", &owner),
    ] {
        for authorization in [
            secret.clone(),
            format!("Bearer {secret}"),
            format!("bearer   {secret}"),
        ] {
            let answer = Answer::of(asking(&app, &authorization)).await;
            assert_eq!(answer.status, 200, "{authorization}: {}", answer.text);
            let identity = IDENTITY.map(|name| answer.header(name).to_owned());
            let expected = [
                id.clone(),
                kind.to_owned(),
                app.organization_id.to_string(),
                creator.member_id.to_string(),
            ];
            assert_eq!(identity, expected);
            assert_eq!(status(asking(&app, &authorization)).await, 200);
        }
    }
    let elsewhere = bare(&app, &service_secret).header("x-featbit-action", "DeleteFlag");
    assert_eq!(status(elsewhere.header("x-featbit-resource", FLAG)).await, 403);
}

/// 401 only where the token is nobody's; FeatBit's page would log its user out otherwise. Tried: `Forbidden` for a removed
/// token.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_nobody_is_401_and_who_is_known_and_may_not_is_403() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (inactive, inactive_secret) = owner.service_token("inactive", "ToggleFlag", FLAGS).await;
    deactivate(&owner, &inactive).await;
    let (removed, removed_secret) = owner.service_token("removed", "ToggleFlag", FLAGS).await;
    owner.delete(&format!("/access-tokens/{removed}")).await;
    let (expired, expired_secret) = owner.personal_token("expired").await;
    app.expire(&owner, &expired).await;
    let (_, orphan_secret) = app.developer().personal_token("orphan").await;
    let (organization_id, member_id) = (app.organization_id, app.developer().member_id);
    app.tell(&[cloud_event(
        "MemberRemoved",
        organization_id,
        member_id,
        json!({}),
    )])
    .await;
    for (authorization, expected) in [
        (inactive_secret.as_str(), 403),
        (&expired_secret, 403),
        (&orphan_secret, 403),
        (&removed_secret, 401),
        (&removed, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer nonsense", 401),
        ("Basic dXNlcjpwYXNz", 401),
        ("api-p_000000000000000000000000000000000000000000", 401),
        ("api-AAAAAAAAAAAAAAAAAABBBBBBBBBBBBBBBBBBBBBB", 401),
    ] {
        assert_eq!(
            status(asking(&app, authorization)).await,
            expected,
            "{authorization}"
        );
    }
    assert_eq!(
        status(app.request(Method::GET, "/forward-auth")).await,
        401,
        "no token"
    );
    // However many there are: they are answers to the gateway, and it may be the one address they all come from.
    for _ in 0..150 {
        assert_eq!(status(bare(&app, "nobody's")).await, 401);
    }
}

/// Each header counts only where it is clear. Tried: `single` takes the first of two; `is_empty` not looked at; what is asked
/// not looked at where the token may do everything.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_clear_is_refused() {
    let app = TestApp::start().await;
    // May do anything to anything, even to nothing at all.
    let (_, secret) = app.owner().personal_token("all").await;
    let with = |action: &[&[u8]], resource: &[&[u8]]| {
        let mut request = bare(&app, &secret);
        for (name, values) in [("x-featbit-action", action), ("x-featbit-resource", resource)] {
            for value in values {
                request = request.header(name, HeaderValue::from_bytes(value).unwrap());
            }
        }
        request
    };
    let (action, resource) = (&b"ToggleFlag"[..], FLAG.as_bytes());
    let long = [b'x'; 8 * 1024];
    for (actions, resources, expected) in [
        (&[action][..], &[resource][..], 200),
        (
            &[action],
            &["project/web:env/prod:flag/dark;\u{6d4b}\u{8bd5}".as_bytes()],
            200,
        ),
        (&[action], &[&long], 200),
        (&[], &[], 403),
        (&[action], &[], 403),
        (&[], &[resource], 403),
        (&[b""], &[resource], 403),
        (&[b"  "], &[resource], 403),
        (&[action], &[b""], 403),
        (&[action, action], &[resource], 403),
        (&[action], &[resource, resource], 403),
        (&[action], &[resource, b""], 403),
        (&[action], &[b"project/\xff"], 403),
        (&[b"\xfe"], &[resource], 403),
    ] {
        let asked = String::from_utf8_lossy(resources.first().unwrap_or(&&b""[..])).into_owned();
        assert_eq!(status(with(actions, resources)).await, expected, "{asked:?}");
    }
    // Two tokens: whose request is it?
    let twice = asking(&app, &secret).header("authorization", &secret);
    assert_eq!(status(twice).await, 401);
    let unclear = asking(&app, &secret).header("authorization", "api-p_nobody's");
    assert_eq!(status(unclear).await, 401);
    let two_positions = asking(&app, &secret)
        .header("x-at-least-position", "0")
        .header("x-at-least-position", "1");
    assert_eq!(status(two_positions).await, 403);
    let too_long = asking(&app, &secret).header("filler", "x".repeat(17 * 1024));
    assert_eq!(Answer::of(too_long).await.status, 413);
}

/// The one source is the two headers: what other gateways write is not read.
#[tokio::test(flavor = "multi_thread")]
async fn what_other_sources_say_is_ignored() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().service_token("bot", "ToggleFlag", FLAGS).await;
    for name in [
        "x-forwarded-method",
        "x-forwarded-uri",
        "x-original-method",
        "x-original-url",
        "x-token-id",
        "x-featbit-action-",
    ] {
        for value in ["DELETE", "/api/v1/../%2F//;", ""] {
            let request = asking(&app, &secret).header(name, value);
            assert_eq!(status(request).await, 200, "{name}: {value}");
            let alone = bare(&app, &secret).header(name, value);
            assert_eq!(status(alone).await, 403, "{name}: {value}");
        }
    }
}

/// A preflight that were answered as one of ours would pass a gateway that asks with the method it has in hand. Tried: forward
/// auth inside of CORS; `fallback` for other methods, which names them in `Allow`.
#[tokio::test(flavor = "multi_thread")]
async fn any_method_and_any_path_below_is_asked_alike() {
    let app = node(vec![("CORS_ORIGINS", "https://featbit.example".to_owned())]).await;
    let (_, secret) = app.owner().service_token("bot", "ToggleFlag", FLAGS).await;
    for method in [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND",
    ] {
        for path in [
            "/forward-auth",
            "/forward-auth/",
            "/forward-auth/api/v1/envs?x=/../",
            "/forward-auth//%2f/;/..;",
            "/forward-auth?x",
        ] {
            let ask = |authorization: &str| {
                let request = app.request(method.parse().unwrap(), path);
                request
                    .header("authorization", authorization)
                    .header("x-featbit-action", "ToggleFlag")
                    .header("x-featbit-resource", FLAG)
                    .header("origin", "https://featbit.example")
                    .header("access-control-request-method", "PUT")
            };
            let answer = Answer::of(ask(&secret)).await;
            assert_eq!(answer.status, 200, "{method} {path}");
            assert_eq!(answer.headers.get("allow"), None, "{method} {path}");
            let answer = Answer::of(ask("nobody's")).await;
            assert_eq!(answer.status, 401, "{method} {path}");
        }
    }
    for path in ["/forward-authx", "/x/forward-auth"] {
        let answer = Answer::of(app.request(Method::GET, path)).await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

/// Whether it comes whole, in part or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_neither_needed_nor_looked_at() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().service_token("bot", "ToggleFlag", FLAGS).await;
    for body in [String::new(), "{".to_owned(), "x".repeat(300 * 1024)] {
        let size = body.len();
        let request = app
            .request(Method::POST, "/forward-auth")
            .header("authorization", &secret)
            .header("x-featbit-action", "ToggleFlag")
            .header("x-featbit-resource", FLAG)
            .body(body);
        assert_eq!(status(request).await, 200, "{size} bytes");
    }
    // As nginx asks where `proxy_set_header Content-Length ""` was forgotten: a body is promised, and none comes.
    let mut connection = tokio::net::TcpStream::connect(app.app.address).await.unwrap();
    let head = format!(
        "POST /forward-auth HTTP/1.1\r\nhost: x\r\nauthorization: {secret}\r\nx-featbit-action: ToggleFlag\r\n\
         x-featbit-resource: {FLAG}\r\ncontent-length: 7\r\n\r\n"
    );
    tokio::io::AsyncWriteExt::write_all(&mut connection, head.as_bytes())
        .await
        .unwrap();
    let mut answer = [0; 15];
    tokio::io::AsyncReadExt::read_exact(&mut connection, &mut answer)
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

/// Tried: every JWT passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_of_featbits_own_page_passes_unless_that_is_turned_off() {
    let app = TestApp::start().await;
    let refusing = node(vec![("FORWARD_AUTH_JWT", "refuse".to_owned())]).await;
    let member_id = app.owner().member_id;
    let good = jwt(member_id, Utc::now() + TimeDelta::minutes(5));
    let expired = jwt(member_id, Utc::now() - TimeDelta::minutes(5));
    let forged = good.replace(&good[good.len() - 8..], "AAAAAAAA");
    for (presented, passes) in [
        (format!("Bearer {good}"), true),
        (good.clone(), false),
        (format!("Bearer {expired}"), false),
        (format!("Bearer {forged}"), false),
    ] {
        for request in [asking(&app, &presented), bare(&app, &presented)] {
            let expected = if passes { 200 } else { 401 };
            assert_eq!(status(request).await, expected, "{presented}");
        }
        assert_eq!(status(asking(&refusing, &presented)).await, 401, "{presented}");
    }
    let answer = Answer::of(asking(&app, &format!("Bearer {good}"))).await;
    for name in IDENTITY {
        let empty = answer.headers.get(name).map(|value| value.as_bytes());
        assert_eq!(
            empty,
            Some(&b""[..]),
            "{name}: it is no token, and what a client wrote is overwritten"
        );
    }
    assert!(JWT_KEY.len() >= 32);
    let (_, secret) = refusing.owner().service_token("bot", "ToggleFlag", FLAGS).await;
    assert_eq!(status(asking(&refusing, &secret)).await, 200);
}

/// Tried: the position not handed on to `decide_for_bearer`.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_not_reached_is_a_503() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().service_token("bot", "ToggleFlag", FLAGS).await;
    let at = |position: &'static str| asking(&app, &secret).header("x-at-least-position", position);
    for (position, expected) in [
        ("0", 200),
        ("1", 200),
        ("1000000000", 503),
        ("9223372036854775807", 503),
        ("soon", 403),
        ("-1", 403),
    ] {
        assert_eq!(status(at(position)).await, expected, "{position}");
    }
}

/// Tried: the peer taken whatever `TRUSTED_PROXY_HOPS` says; the peer taken where the proxy says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_addresses_is_good_from_where_the_trusted_proxy_saw_it() {
    let body = json!({ "name": "bot", "type": "Service", "allowedIps": ["203.0.113.0/24"],
                       "permissions": [statement("allow", "ToggleFlag", FLAGS)] });
    let behind = node(vec![("TRUSTED_PROXY_HOPS", "1".to_owned())]).await;
    let (_, secret) = behind.owner().token(body.clone()).await;
    for (forwarded_for, expected) in [
        ("203.0.113.7", 200),
        ("::ffff:203.0.113.7", 200),
        ("198.51.100.1, 203.0.113.7", 200),
        ("203.0.113.7, 198.51.100.1", 403),
        ("203.0.113.7,", 403),
        ("unknown", 403),
        ("", 403),
    ] {
        let request = asking(&behind, &secret).header("x-forwarded-for", forwarded_for);
        assert_eq!(status(request).await, expected, "{forwarded_for}");
    }
    let proxies = json!({ "name": "from the proxy", "type": "Service", "allowedIps": ["127.0.0.0/8", "::1"],
                          "permissions": [statement("allow", "ToggleFlag", FLAGS)] });
    let (_, secret) = behind.owner().token(proxies.clone()).await;
    let unheard_of = [None, Some("unknown"), Some("")];
    for forwarded_for in unheard_of {
        let mut request = asking(&behind, &secret);
        if let Some(forwarded_for) = forwarded_for {
            request = request.header("x-forwarded-for", forwarded_for);
        }
        assert_eq!(
            status(request).await,
            403,
            "{forwarded_for:?}: the proxy itself is not who asks"
        );
    }
    let direct = TestApp::start().await;
    let (_, secret) = direct.owner().token(proxies).await;
    assert_eq!(status(asking(&direct, &secret)).await, 200);
    let (_, secret) = direct.owner().token(body).await;
    let request = asking(&direct, &secret).header("x-forwarded-for", "203.0.113.7");
    assert_eq!(status(request).await, 403, "nobody is trusted to say so");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_gateway_keys_are_set_only_who_has_one_is_answered() {
    let app = node(vec![("GATEWAY_KEYS", "the-key".to_owned())]).await;
    let (_, secret) = app.owner().service_token("bot", "ToggleFlag", FLAGS).await;
    for (key, expected) in [(Some("the-key"), 200), (Some("another"), 401), (None, 401)] {
        for path in ["/forward-auth", "/forward-auth/x"] {
            let mut request = app
                .request(Method::GET, path)
                .header("authorization", &secret)
                .header("x-featbit-action", "ToggleFlag")
                .header("x-featbit-resource", FLAG)
                .header("x-request-id", "req-7");
            if let Some(key) = key {
                request = request.header("x-gateway-key", key);
            }
            let answer = Answer::of(request).await;
            assert_eq!(answer.status, expected, "{key:?} {path}");
            assert_eq!(answer.header("x-request-id"), "req-7");
            assert!(expected == 200 || answer.text == UNAUTHORIZED, "{}", answer.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_stopped_is_stopped_at_the_next_request() {
    // However busy the machine is.
    let app = node(vec![("MAX_STALENESS_MS", "30000".to_owned())]).await;
    let owner = app.owner();
    for nth in 0..20 {
        let (id, secret) = owner.personal_token(&format!("token {nth}")).await;
        assert_eq!(status(asking(&app, &secret)).await, 200);
        deactivate(&owner, &id).await;
        assert_eq!(status(asking(&app, &secret)).await, 403);
    }
}
