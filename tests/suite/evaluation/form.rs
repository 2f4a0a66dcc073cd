//! Who asks, and how: keys, ids of requests, and questions that are none.

use super::*;

/// Tried: `require_gateway_key` lets everybody through.
#[tokio::test(flavor = "multi_thread")]
async fn where_gateway_keys_are_set_only_who_has_one_is_answered() {
    let settings = vec![("GATEWAY_KEYS", "first-key, second-key".to_owned())];
    let app = TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let (_, secret) = app.owner().personal_token("mine").await;
    let ask = async |key: Option<&str>| {
        let request = app
            .request(Method::POST, "/access/v1/evaluation")
            .header("x-request-id", "req-7");
        let request = request.json(&question(token(&secret), json!({})));
        Answer::of(match key {
            Some(key) => request.header("x-gateway-key", key),
            None => request,
        })
        .await
    };
    for key in ["first-key", "second-key"] {
        assert_eq!(ask(Some(key)).await.status, 200, "{key}");
    }
    for key in [
        None,
        Some(""),
        Some("first-ke"),
        Some("first-key2"),
        Some("FIRST-KEY"),
        Some("first-key, second-key"),
    ] {
        let answer = ask(key).await;
        assert_eq!(answer.status, 401, "{key:?}");
        assert!(answer.body.is_string(), "{}", answer.text);
        assert_eq!(answer.header("x-request-id"), "req-7");
    }
    // Which of them is the gateway's? Tried: the first one taken.
    let request = app
        .request(Method::POST, "/access/v1/evaluation")
        .json(&question(token(&secret), json!({})));
    let twice = request
        .header("x-gateway-key", "first-key")
        .header("x-gateway-key", "x");
    assert_eq!(Answer::of(twice).await.status, 401);
    // FeatBit's page has no such key and needs none.
    assert_eq!(app.owner().get("/access-tokens").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_carries_the_requests_id_and_nothing_of_its_own_making() {
    let app = TestApp::start().await;
    let ask = |body: &'static str| app.request(Method::POST, "/access/v1/evaluation").body(body);
    let answer = Answer::of(ask("{").header("x-request-id", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716")).await;
    assert_eq!(
        (answer.status, answer.header("x-request-id")),
        (400, "bfe9eb29-ab87-4ca3-be83-a1d5d8305716")
    );
    let answer = Answer::of(ask("{")).await;
    assert!(!answer.headers.contains_key("x-request-id"));
    let good = question(token("nobody's"), json!({}));
    let request = app
        .request(Method::POST, "/access/v1/evaluation")
        .json(&good)
        .header("x-request-id", "1");
    let answer = Answer::of(request).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (200, "1"));
    assert_eq!(answer.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_lacks_something_is_a_400_with_a_json_string() {
    let app = TestApp::start().await;
    let good = json!({
        "subject": { "type": "access_token", "id": "nobody's" },
        "action": { "name": "ToggleFlag" },
        "resource": { "type": "flag", "id": FLAG },
    });
    assert_eq!(app.evaluate(good.clone()).await.status, 200);
    let refused = |answer: &Answer, what: &str| {
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        assert!(answer.body.is_string(), "{what}: {}", answer.text);
        assert_eq!(answer.header("content-type"), "application/json");
    };
    for path in [
        "subject",
        "subject.type",
        "subject.id",
        "action",
        "action.name",
        "resource",
        "resource.type",
        "resource.id",
    ] {
        let (of, field) = path
            .split_once('.')
            .map_or((None, path), |(of, field)| (Some(of), field));
        for wrong in [
            None,
            Some(Value::Null),
            Some(json!(1)),
            Some(json!([])),
            Some(json!(true)),
        ] {
            let mut body = good.clone();
            let fields = match of {
                Some(of) => &mut body[of],
                None => &mut body,
            };
            let fields = fields.as_object_mut().unwrap();
            match &wrong {
                Some(value) => fields.insert(field.to_owned(), value.clone()),
                None => fields.remove(field),
            };
            let answer = app.evaluate(body).await;
            refused(&answer, &format!("{path} {wrong:?}"));
            assert!(answer.text.contains(path), "{path}: {}", answer.text);
        }
    }
    let with = |path: &str, field: &str, value: Value| {
        let mut body = good.clone();
        body[path][field] = value;
        body
    };
    let member_without_organization = with("subject", "type", json!("member"));
    refused(
        &app.evaluate(member_without_organization).await,
        "a member of no organization",
    );
    for mistyped in [json!("x"), json!([]), json!(1)] {
        let mut body = good.clone();
        body["context"] = mistyped.clone();
        refused(&app.evaluate(body).await, "context");
        refused(
            &app.evaluate(with("resource", "properties", mistyped)).await,
            "resource.properties",
        );
    }
    for body in [
        "",
        " ",
        "{",
        "[]",
        "null",
        "\"\"",
        "{}",
        "{\"subject\":",
        "nul",
        "\u{feff}{}",
        // Twice the same: which of them was meant?
        r#"{"subject":{"type":"access_token","id":"x","id":"y"},"action":{"name":"a"},"resource":{"type":"flag","id":"f"}}"#,
    ] {
        let request = app
            .request(Method::POST, "/access/v1/evaluation")
            .header("content-type", "application/json");
        refused(&Answer::of(request.body(body)).await, body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_json_and_says_so() {
    let app = TestApp::start().await;
    let good = question(token("nobody's"), json!({})).to_string();
    for (content_type, expected) in [
        (Some("application/json"), 200),
        (Some("application/json; charset=utf-8"), 200),
        (Some("Application/JSON"), 200),
        (Some("text/plain"), 400),
        (Some("application/x-www-form-urlencoded"), 400),
        (Some("application/jsonp"), 400),
        (Some(""), 400),
        (None, 400),
    ] {
        let request = app
            .request(Method::POST, "/access/v1/evaluation")
            .body(good.clone());
        let answer = Answer::of(match content_type {
            Some(content_type) => request.header("content-type", content_type),
            None => request,
        })
        .await;
        assert_eq!(answer.status, expected, "{content_type:?}: {}", answer.text);
        assert!(expected == 200 || answer.body.is_string(), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_of_a_question_are_ignored() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().personal_token("mine").await;
    let mut asked = question(token(&secret), json!({ "color": "red", "\u{0}": "\u{0}" }));
    asked["extra"] = json!([1, 2, 3]);
    asked["subject"]["properties"] = json!({ "department": "sales" });
    asked["action"]["properties"] = json!(7);
    assert_eq!(reason(&app.evaluate(asked).await.body), "allowed");
}

/// Five hundred questions about a name of 250 KiB would take a thread for as long as somebody likes. Tried: `MAX_RESOURCE`
/// one higher, and one lower.
#[tokio::test(flavor = "multi_thread")]
async fn a_resource_has_a_name_of_at_most_8_kib() {
    let app = TestApp::start().await;
    let (_, secret) = app.owner().personal_token("mine").await;
    let about = |length: usize| json!({ "type": "flag", "id": "x".repeat(length) });
    let ask = async |path: &str, mut body: Value, length: usize| {
        body["resource"] = about(length);
        Answer::of(app.request(Method::POST, path).json(&body)).await
    };
    let asked = question(token(&secret), json!({}));
    for path in [
        "/access/v1/evaluation",
        "/access/v1/evaluations",
        "/access/v1/search/action",
    ] {
        let allowed = ask(path, asked.clone(), 8 * 1024).await;
        assert_eq!(allowed.status, 200, "{path}: {}", allowed.text);
        let refused = ask(path, asked.clone(), 8 * 1024 + 1).await;
        assert_eq!(refused.status, 400, "{path}");
        assert_eq!(refused.body, "resource.id must be at most 8192 bytes", "{path}");
    }
    let mut several = asked;
    several["evaluations"] =
        json!([{ "resource": about(8 * 1024) }, { "resource": about(8 * 1024 + 1) }, {}]);
    let answer = ask("/access/v1/evaluations", several, 9 * 1024).await;
    let decisions: Vec<_> = answer.body["evaluations"].as_array().unwrap().iter().collect();
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(decisions[0]["decision"], true);
    for refused in &decisions[1..] {
        assert_eq!(refused["decision"], false);
        assert!(
            refused["context"]["error"].to_string().contains("8192"),
            "{refused}"
        );
    }
}
