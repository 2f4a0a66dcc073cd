//! Bodies: malformed, mistyped, too large.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_object_is_refused() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("known").await;
    nothing_comes_of(&app, async || {
        let deep = |open: &str, close: &str| {
            format!(
                "{{\"name\":{}{}}}",
                open.repeat(100_000 / open.len()),
                close.repeat(100_000 / open.len())
            )
        };
        let bodies: Vec<Vec<u8>> = [
            "",
            " ",
            "{",
            "}",
            "[]",
            "null",
            "\"name\"",
            "1",
            "{\"name\":}",
            "{'name':'x'}",
            "{\"name\":\"x\"",
            "{\"name\":\"x\"}{}",
            "{\"name\":\"\\ud800\"}",
            "{\"name\":\"a\nb\"}",
            "{\"name\":NaN}",
            "\u{feff}{}",
            "{\"name\":1e999999}",
            "name=x&type=Personal",
        ]
        .map(|body| body.as_bytes().to_vec())
        .into_iter()
        .chain([deep("[", "]").into(), deep("{\"a\":", "}").into()])
        .chain([
            b"{\"name\":\"\xff\xfe\"}".to_vec(),
            b"{\"name\":\"\xc0\x80\"}".to_vec(),
            b"\x00".to_vec(),
        ])
        .collect();
        for body in bodies {
            let answer = post_raw(&owner, body.clone()).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            assert_eq!(
                (answer.status, answer.body),
                (400, errors(&["body_is_invalid"])),
                "{shown}"
            );
            let request = owner
                .request(Method::PUT, &format!("/access-tokens/{id}"))
                .body(body);
            assert_eq!(
                Answer::of(request).await.body,
                errors(&["body_is_invalid"]),
                "{shown}"
            );
        }
        let form = owner
            .request(Method::POST, "/access-tokens")
            .header("content-type", "text/plain");
        let answer = Answer::of(form.body("{\"name\":\"x\",\"type\":\"Personal\"}")).await;
        assert_eq!((answer.status, answer.body), (400, errors(&["body_is_invalid"])));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_the_wrong_type_is_named() {
    let app = TestApp::start().await;
    let owner = app.owner();
    nothing_comes_of(&app, async || {
        let everything = [
            json!(1),
            json!(1.5),
            json!(true),
            json!("text"),
            json!([1]),
            json!({ "a": 1 }),
        ];
        for (field, code, right) in [
            ("name", "name_is_invalid", "text"),
            ("type", "type_is_invalid", ""),
            ("permissions", "permissions_is_invalid", ""),
            ("description", "description_is_invalid", "text"),
            ("expiresAt", "expires_at_is_invalid", ""),
            ("allowedIps", "allowed_ips_is_invalid", ""),
        ] {
            for value in everything
                .iter()
                .filter(|value| value.as_str() != Some(right) || right.is_empty())
            {
                let mut body = json!({ "name": "n", "type": "Personal" });
                body[field] = value.clone();
                let answer = owner.post("/access-tokens", body).await;
                assert_eq!(
                    (answer.status, answer.body),
                    (400, errors(&[code])),
                    "{field}: {value}"
                );
            }
        }
        for field in ["id", "resourceType", "effect", "actions", "resources"] {
            for value in everything
                .iter()
                .filter(|value| !(value.is_string() && ["id", "resourceType"].contains(&field)))
            {
                let mut odd = statement();
                odd[field] = value.clone();
                let body = json!({ "name": "n", "type": "Service", "permissions": [statement(), odd] });
                let answer = owner.post("/access-tokens", body).await;
                assert_eq!(
                    (answer.status, answer.code()),
                    (400, "permissions_is_invalid"),
                    "{field}: {value}"
                );
            }
            let mut lacking = statement();
            lacking.as_object_mut().unwrap().remove(field);
            let body = json!({ "name": "n", "type": "Robot", "permissions": [lacking] });
            let codes = ["type_is_invalid", "permissions_is_invalid"];
            let expected = if field == "id" { &codes[..1] } else { &codes };
            assert_eq!(
                owner.post("/access-tokens", body).await.body,
                errors(expected),
                "without {field}"
            );
        }
        let soon = Utc::now() + TimeDelta::days(30);
        let leap_second = soon.format("%Y-%m-%dT12:30:60Z").to_string();
        for expiry in [
            "",
            "now",
            "2026-13-01T00:00:00Z",
            "2027-02-30T00:00:00Z",
            "2027-01-01",
            "+275760-09-13T00:00:00Z",
            "-0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "1970-01-01T00:00:00Z",
            "2027-01-01T00:00:00",
            // No second of any clock.
            leap_second.as_str(),
        ] {
            let body = json!({ "name": "n", "type": "Personal", "expiresAt": expiry });
            assert_eq!(
                owner.post("/access-tokens", body).await.body,
                errors(&["expires_at_is_invalid"]),
                "{expiry}"
            );
        }
        for address in [
            "",
            "localhost",
            "10.0.0.1/33",
            "10.0.0",
            "10.0.0.1/",
            "::1/129",
            "10.0.0.1:80",
            "*",
            "10.0.0.1/-1",
        ] {
            let body = json!({ "name": "n", "type": "Personal", "allowedIps": ["10.0.0.1", address] });
            assert_eq!(
                owner.post("/access-tokens", body).await.body,
                errors(&["allowed_ips_is_invalid"]),
                "{address}"
            );
        }
    })
    .await;
}

/// It is not kept. Found by schemathesis, when the whole statement was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_nul_character_in_a_field_that_is_ignored_is_ignored() {
    let app = TestApp::start().await;
    let mut with_more = statement();
    with_more["more\u{0}"] = json!({ "a": ["\u{0}"] });
    let body = json!({ "name": "n", "type": "Service", "permissions": [with_more], "x": "\u{0}" });
    let answer = app.owner().post("/access-tokens", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// PostgreSQL can't hold one. Tried: `may_be_kept` always true.
#[tokio::test(flavor = "multi_thread")]
async fn a_nul_character_is_refused_where_it_stands() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("known").await;
    nothing_comes_of(&app, async || {
        let statements = ["id", "resourceType", "actions", "resources"].map(|field| {
            let mut statement = statement();
            statement[field] = if statement[field].is_array() {
                json!(["a\u{0}b"])
            } else {
                json!("a\u{0}b")
            };
            ("permissions", json!([statement]), "permissions_is_invalid")
        });
        let fields = [
            ("name", json!("a\u{0}b"), "name_is_invalid"),
            ("name", json!("\u{0}"), "name_is_invalid"),
            ("type", json!("Personal\u{0}"), "type_is_invalid"),
            ("description", json!("a\u{0}b"), "description_is_invalid"),
            (
                "expiresAt",
                json!("2027-01-01T00:00:00Z\u{0}"),
                "expires_at_is_invalid",
            ),
            ("allowedIps", json!(["10.0.0.1\u{0}"]), "allowed_ips_is_invalid"),
        ];
        for (field, value, code) in fields.into_iter().chain(statements) {
            let mut body = json!({ "name": "n", "type": "Personal" });
            body[field] = value.clone();
            let answer = owner.post("/access-tokens", body.clone()).await;
            assert_eq!(
                (answer.status, answer.body),
                (400, errors(&[code])),
                "{field}: {value}"
            );
            if field != "type" {
                let answer = owner.put(&format!("/access-tokens/{id}"), body).await;
                assert_eq!(
                    (answer.status, answer.body),
                    (400, errors(&[code])),
                    "{field}: {value}"
                );
            }
        }
        for path in [
            "/access-tokens?name=%00&type=%00&status=%00",
            "/access-tokens/is-name-used?name=%00",
        ] {
            assert_eq!(owner.get(path).await.status, 200, "{path}");
        }
    })
    .await;
}

/// Tried: `MAX_STATEMENTS` and `MAX_PARTS` one higher, and one lower.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_at_most_200_statements_of_at_most_100_actions_and_100_resources() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let texts = |count: usize| json!((0..count).map(|nth| format!("t{nth}")).collect::<Vec<_>>());
    let mut wide = statement();
    wide["actions"] = texts(100);
    wide["resources"] = texts(100);
    let with = |field: &str, count: usize| {
        let mut statement = wide.clone();
        statement[field] = texts(count);
        json!([statement])
    };
    for (permissions, status) in [
        (json!(vec![statement(); 200]), 200),
        (json!(vec![statement(); 201]), 400),
        (json!([wide.clone()]), 200),
        (with("actions", 101), 400),
        (with("resources", 101), 400),
    ] {
        for token_type in ["Personal", "Service"] {
            let body = json!({ "name": Uuid::new_v4(), "type": token_type, "permissions": permissions });
            let answer = owner.post("/access-tokens", body).await;
            assert_eq!(answer.status, status, "{}", answer.text);
            assert!(status == 200 || answer.code() == "permissions_is_invalid");
        }
    }
}

/// The largest token that fits, covered up to its last statement: weighing it against a member's permission takes a while.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_token_is_weighed_to_its_end_while_others_are_answered() {
    let app = TestApp::start().await;
    let developer = app.developer();
    let actions: Vec<_> = (0..100).map(|nth| format!("a{nth}")).collect();
    let resources: Vec<_> = (0..100)
        .map(|nth| format!("project/p:env/e:flag/{nth}"))
        .collect();
    let wide = json!({ "resourceType": "f", "effect": "allow", "actions": actions, "resources": resources });
    let mut statements = vec![wide; 70];
    statements.push(json!({ "resourceType": "iam", "effect": "allow", "actions": ["CanManageIAM"], "resources": ["iam/*"] }));
    let body = json!({ "name": "n", "type": "Service", "permissions": statements });
    assert!(
        (200 * KIB..=256 * KIB).contains(&body.to_string().len()),
        "{}",
        body.to_string().len()
    );
    let (refused, ()) = tokio::join!(developer.post("/access-tokens", body), async {
        for _ in 0..20 {
            assert_eq!(app.owner().get("/access-tokens").await.status, 200);
        }
    });
    assert_eq!((refused.status, refused.body), (403, errors(&["Forbidden"])));
}

/// Tried: `MAX_BODY` one higher, and one lower.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_256_kib_is_taken_and_one_byte_more_is_not() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let create = |size: usize| {
        let body = json!({ "name": Uuid::new_v4(), "type": "Personal" }).to_string();
        format!("{body}{}", " ".repeat(size - body.len()))
    };
    let ask = |size: usize| {
        let body = json!({ "subject": { "type": "access_token", "id": "x" }, "action": { "name": "x" },
                           "resource": { "type": "x", "id": "x" } });
        let body = format!("{body}{}", " ".repeat(size - body.to_string().len()));
        Answer::of(
            app.request(Method::POST, "/access/v1/evaluation")
                .header("content-type", "application/json")
                .body(body),
        )
    };
    assert_eq!(post_raw(&owner, create(256 * KIB)).await.status, 200);
    assert_eq!(ask(256 * KIB).await.status, 200);
    nothing_comes_of(&app, async || {
        let answer = post_raw(&owner, create(256 * KIB + 1)).await;
        assert_eq!((answer.status, answer.body), (413, errors(&["PayloadTooLarge"])));
        assert_eq!(answer.headers["content-type"], "application/json; charset=utf-8");
        let answer = ask(256 * KIB + 1).await;
        assert_eq!(answer.status, 413);
        assert!(answer.body.is_string(), "{}", answer.text);
    })
    .await;
}

/// Who sends without looking for the answer must get to see it all the same, whoever it is and wherever it goes. Tried:
/// nothing drained, then the body left unread by routes that don't need it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_10_mb_is_answered_and_the_answer_arrives() {
    let settings = vec![("GATEWAY_KEYS", "gateway-key".to_owned())];
    let app = TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("known").await;
    let large = vec![b'x'; 10_000_000];
    nothing_comes_of(&app, async || {
        let too_large = errors(&["PayloadTooLarge"]);
        for (method, path) in [
            (Method::POST, "/access-tokens".to_owned()),
            (Method::PUT, format!("/access-tokens/{id}")),
            (Method::PUT, format!("/access-tokens/{id}/toggle")),
            (Method::DELETE, format!("/access-tokens/{id}")),
            (Method::GET, "/access-tokens".to_owned()),
            (Method::POST, "/no/such/path".to_owned()),
        ] {
            let known = Answer::of(owner.request(method.clone(), &path).body(large.clone())).await;
            assert_eq!(
                (known.status, known.body),
                (413, too_large.clone()),
                "{method} {path}"
            );
            let anybody = Answer::of(
                app.request(method.clone(), &format!("/api/v1{path}"))
                    .body(large.clone()),
            )
            .await;
            assert_eq!(
                (anybody.status, anybody.body),
                (413, too_large.clone()),
                "{method} {path}"
            );
            // Over the wire, in two halves: everything is sent first, and then the answer is read.
            let line = format!("{method} /api/v1{path}");
            let head = head(&owner, &line, &format!("content-length: {}\r\n", large.len()));
            let answer = send(&app, &[head.as_bytes(), &large].concat()).await;
            assert_eq!((answer.status, answer.body), (413, too_large.clone()), "{line}");
        }
        let ask = |key: &str| {
            app.request(Method::POST, "/access/v1/evaluation")
                .header("x-gateway-key", key)
        };
        for (key, status) in [("gateway-key", 413), ("wrong", 401)] {
            let answer = Answer::of(ask(key).body(large.clone())).await;
            assert_eq!(answer.status, status);
            assert!(answer.body.is_string(), "{}", answer.text);
        }
        // Of which next to nothing comes. Tried: without the look at the size that is announced.
        let announced = head(
            &owner,
            "POST /api/v1/access-tokens",
            "content-length: 99999999\r\n",
        );
        let answer = tokio::time::timeout(
            Duration::from_secs(5),
            send(&app, format!("{announced}{{}}").as_bytes()),
        )
        .await
        .unwrap();
        assert_eq!((answer.status, answer.body), (413, too_large.clone()));
        // Of a length nobody announces.
        let chunked = head(
            &owner,
            "POST /api/v1/access-tokens",
            "transfer-encoding: chunked\r\n",
        );
        let chunks = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000)).repeat(10);
        let answer = send(&app, format!("{chunked}{chunks}0\r\n\r\n").as_bytes()).await;
        assert_eq!((answer.status, answer.body), (413, too_large.clone()));
    })
    .await;
}
