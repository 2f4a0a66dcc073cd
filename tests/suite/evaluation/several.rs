//! Several questions in one request: what each takes from the top, which are answered, and what is wrong with one alone.

use super::*;

const ACTIONS: [&str; 4] = ["ToggleFlag", "CreateFlag", "DeleteFlag", "ToggleFlag"];

async fn ask(app: &TestApp, body: &Value) -> Answer {
    let request = app.request(Method::POST, "/access/v1/evaluations");
    Answer::of(request.json(body)).await
}

/// The reason of each, or what is wrong with it.
fn outcomes(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let evaluations = answer.body["evaluations"].as_array();
    let evaluations = evaluations.unwrap_or_else(|| panic!("{}", answer.text));
    evaluations
        .iter()
        .map(|evaluation| match evaluation["context"]["error"].as_object() {
            Some(error) => {
                assert_eq!(evaluation["decision"], false, "{evaluation}");
                assert_eq!(error["status"], 400, "{evaluation}");
                error["message"].as_str().unwrap().to_owned()
            }
            None => reason(evaluation),
        })
        .collect()
}

/// A token that may toggle and delete flags, not create any.
async fn toggles(app: &TestApp) -> String {
    let permissions = json!([
        statement("toggles", "allow", "ToggleFlag", FLAGS),
        statement("deletes", "allow", "DeleteFlag", FLAGS)
    ]);
    let body = json!({ "name": "bot", "type": "Service", "permissions": permissions });
    app.owner().token(body).await.1
}

/// Tried: `deny_on_first_deny` and `permit_on_first_permit` as `execute_all`; the one that ends left out of the answer.
#[tokio::test(flavor = "multi_thread")]
async fn each_semantic_answers_in_order_up_to_where_it_stops() {
    let app = TestApp::start().await;
    let secret = toggles(&app).await;
    let items = |actions: &[&str]| -> Vec<Value> {
        let item = |action| json!({ "action": { "name": action } });
        actions.iter().map(item).collect()
    };
    let (yes, no) = ("allowed", "no_matching_statement");
    let wrong = "action.name must be a string";
    for (semantic, actions, expected) in [
        (Value::Null, items(&ACTIONS), vec![yes, no, yes, yes]),
        (json!("execute_all"), items(&ACTIONS), vec![yes, no, yes, yes]),
        (json!("deny_on_first_deny"), items(&ACTIONS), vec![yes, no]),
        (json!("permit_on_first_permit"), items(&ACTIONS), vec![yes]),
        (
            json!("deny_on_first_deny"),
            items(&["ToggleFlag"; 3]),
            vec![yes; 3],
        ),
        (
            json!("permit_on_first_permit"),
            items(&["CreateFlag"; 3]),
            vec![no; 3],
        ),
        (
            json!("execute_all"),
            vec![
                json!({ "action": { "name": 1 } }),
                json!({ "action": { "name": "ToggleFlag" } }),
            ],
            vec![wrong, yes],
        ),
        // A failure is a denial: it ends the one, and not the other.
        (
            json!("deny_on_first_deny"),
            vec![
                json!({ "action": { "name": 1 } }),
                json!({ "action": { "name": "ToggleFlag" } }),
            ],
            vec![wrong],
        ),
        (
            json!("permit_on_first_permit"),
            vec![
                json!({ "action": { "name": 1 } }),
                json!({ "action": { "name": "ToggleFlag" } }),
            ],
            vec![wrong, yes],
        ),
    ] {
        let mut body = question(token(&secret), json!({}));
        body["evaluations"] = json!(actions);
        body["options"] = json!({ "evaluations_semantic": semantic, "another": 1 });
        let answer = ask(&app, &body).await;
        assert_eq!(outcomes(&answer), expected, "{semantic} {actions:?}");
        assert!(answer.body.get("decision").is_none(), "{}", answer.text);
    }
}

/// Whole objects: of the resource, nothing is taken from the default where one stands there.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_at_the_top_holds_for_each_that_does_not_say_otherwise() {
    let app = TestApp::start().await;
    let secret = toggles(&app).await;
    let nobody = token("nobody's");
    let elsewhere = json!({ "type": "flag", "id": FLAG,
                            "properties": { "organizationId": app.stranger().organization_id } });
    let mut body = question(nobody, json!({ "atLeastPosition": i64::MAX }));
    body["resource"] = elsewhere;
    body["evaluations"] = json!([
        {},
        { "context": {} },
        { "context": {}, "subject": token(&secret) },
        // The whole resource is another, so it is in no organization.
        { "context": {}, "subject": token(&secret), "resource": { "type": "flag", "id": FLAG } },
        { "context": {}, "subject": token(&secret), "resource": { "type": "flag" } },
        { "context": {}, "subject": { "type": "access_token" } },
        { "context": {}, "subject": token(&secret), "resource": { "type": "flag", "id": FLAG }, "action": null },
        { "context": "x" },
        { "subject": 7 },
        7,
        [],
    ]);
    let expected = [
        "stale_replica",
        "unknown_token",
        "no_matching_statement",
        "allowed",
        "resource.id is required",
        "subject.id is required",
        "allowed",
        "context must be an object",
        "subject must be an object",
        "an evaluation must be an object",
        "an evaluation must be an object",
    ];
    assert_eq!(outcomes(&ask(&app, &body).await), expected);

    // Nothing at the top, and each on its own.
    let alone = question(token(&secret), json!({}));
    let body = json!({ "evaluations": [alone, { "subject": token(&secret) }] });
    assert_eq!(
        outcomes(&ask(&app, &body).await),
        ["allowed", "resource is required"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_evaluations_it_is_one_question_and_answered_as_one() {
    let app = TestApp::start().await;
    let secret = toggles(&app).await;
    let one = question(token(&secret), json!({}));
    let expected = app.evaluate(one.clone()).await;
    for evaluations in [None, Some(Value::Null), Some(json!([]))] {
        let mut body = one.clone();
        if let Some(evaluations) = &evaluations {
            body["evaluations"] = evaluations.clone();
        }
        let answer = ask(&app, &body).await;
        assert_eq!(
            (answer.status, &answer.text),
            (200, &expected.text),
            "{evaluations:?}"
        );
    }
    let incomplete = json!({ "subject": token(&secret), "evaluations": [] });
    let answer = ask(&app, &incomplete).await;
    assert_eq!((answer.status, answer.body), (400, json!("resource is required")));
}

/// Tried: `<` for `<=` in the bound; `subject` at the top not looked at.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_whole_is_a_400_with_a_json_string() {
    let app = TestApp::start().await;
    let secret = toggles(&app).await;
    let with = |field: &str, value: Value| {
        let mut body = question(token(&secret), json!({}));
        body["evaluations"] = json!([{}]);
        body[field] = value;
        body
    };
    assert_eq!(outcomes(&ask(&app, &with("extra", json!(1))).await), ["allowed"]);
    let all = ask(&app, &with("evaluations", json!(vec![json!({}); 512]))).await;
    assert_eq!(outcomes(&all), ["allowed"; 512]);
    for (field, value, why) in [
        (
            "evaluations",
            json!(vec![json!({}); 513]),
            "evaluations must be at most 512",
        ),
        ("evaluations", json!({}), "evaluations must be an array"),
        ("evaluations", json!("x"), "evaluations must be an array"),
        ("options", json!(1), "options must be an object"),
        (
            "options",
            json!({ "evaluations_semantic": 1 }),
            "options.evaluations_semantic must be a string",
        ),
        (
            "options",
            json!({ "evaluations_semantic": "EXECUTE_ALL" }),
            "options.evaluations_semantic must be execute_all, deny_on_first_deny or permit_on_first_permit",
        ),
        ("subject", json!("x"), "subject must be an object"),
        ("action", json!([]), "action must be an object"),
        ("resource", json!(1), "resource must be an object"),
        ("context", json!(true), "context must be an object"),
    ] {
        let answer = ask(&app, &with(field, value)).await;
        assert_eq!((answer.status, &answer.body), (400, &json!(why)), "{field}");
    }
    for body in ["", "[]", "{", "{\"evaluations\":[{},]}"] {
        let request = app.request(Method::POST, "/access/v1/evaluations").body(body);
        let answer = Answer::of(request.header("content-type", "application/json")).await;
        assert!(
            answer.status == 400 && answer.body.is_string(),
            "{body}: {}",
            answer.text
        );
    }
}

/// A position that one of them names holds for that one; one that the request names in its header, for all.
#[tokio::test(flavor = "multi_thread")]
async fn each_is_answered_at_the_position_it_wants_to_see_at_least() {
    let app = TestApp::start().await;
    let secret = toggles(&app).await;
    let mut body = question(token(&secret), json!({}));
    body["evaluations"] = json!([{}, { "context": { "atLeastPosition": i64::MAX } }, {}]);
    assert_eq!(
        outcomes(&ask(&app, &body).await),
        ["allowed", "stale_replica", "allowed"]
    );
    let from_header = |position: &'static str| {
        let request = app.request(Method::POST, "/access/v1/evaluations");
        Answer::of(request.header("x-at-least-position", position).json(&body))
    };
    let answer = from_header("9223372036854775807").await;
    assert_eq!(outcomes(&answer), ["stale_replica"; 3]);
    assert_eq!(outcomes(&from_header("1").await).len(), 3);
    let answer = from_header("soon").await;
    assert!(answer.status == 400 && answer.body.is_string(), "{}", answer.text);
}
