//! FeatBit's format, byte for byte, and its page's own requests.

use super::*;

fn case(test: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("../conformance/http-envelope.json")).unwrap();
    let cases = all["cases"].as_array().unwrap();
    cases
        .iter()
        .find(|case| case["test"] == test)
        .unwrap_or_else(|| panic!("{test}"))
        .clone()
}

/// Status, body, and every header that FeatBit's answer has. Its `2.0` is of the controllers its own tests make up.
fn is_as_featbit_answers(answer: &Answer, case: &Value) {
    let test = case["test"].as_str().unwrap();
    assert_eq!(json!(answer.status), case["status"], "{test}: {}", answer.text);
    assert_eq!(answer.text, case["body"].as_str().unwrap(), "{test}");
    assert_eq!(
        answer.header("content-type"),
        case["contentType"].as_str().unwrap(),
        "{test}"
    );
    assert_eq!(
        answer.header("content-length"),
        case["contentLength"].to_string(),
        "{test}"
    );
    for (name, value) in case["headers"].as_object().unwrap() {
        let expected = value.as_str().unwrap().replace("1.0, 2.0", "1.0");
        assert_eq!(answer.header(name), expected, "{test}: {name}");
    }
    for name in case["headersAbsent"].as_array().into_iter().flatten() {
        assert!(
            !answer.headers.contains_key(name.as_str().unwrap()),
            "{test}: {name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_envelope_is_featbits_byte_for_byte() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("deploy").await;

    let anonymous = Answer::of(app.request(Method::GET, "/api/v1/access-tokens")).await;
    is_as_featbit_answers(&anonymous, &case("BasicControllerTests.NeedAuthentication"));
    let done = owner.put(&format!("{}/toggle", at(&id)), json!({})).await;
    is_as_featbit_answers(&done, &case("BasicControllerTests.AllowAnonymous"));
    let forbidden = app.nobody().get("/access-tokens").await;
    is_as_featbit_answers(&forbidden, &case("BasicControllerTests.NeedLicense"));
    let unknown = owner.get(&at(&Uuid::new_v4().to_string())).await;
    is_as_featbit_answers(&unknown, &case("UserControllerTests.GetUserProfile_NotExist"));

    // FeatBit's case is about other fields; the form is the same.
    let mut invalid = case("IdentityControllerTests.LoginByEmail_RequestValidation");
    let body = invalid["body"]
        .as_str()
        .unwrap()
        .replace("email", "name")
        .replace("password", "type");
    invalid["contentLength"] = json!(body.len());
    invalid["body"] = json!(body);
    is_as_featbit_answers(&owner.post("/access-tokens", json!({})).await, &invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_inside_is_a_500_that_says_nothing_of_its_cause() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let (id, _) = owner.personal_token("deploy").await;
    assert_eq!(status_of(&owner, &id).await, "Active", "the read model has it");
    // No read model holds such a thing; one that does can't be read.
    app.database
        .pool
        .execute("update access_tokens_v1.access_tokens set statements = '\"not statements\"'")
        .await
        .unwrap();
    let answer = owner.get(&at(&id)).await;
    is_as_featbit_answers(&answer, &case("BasicControllerTests.HandleException"));
}

#[tokio::test(flavor = "multi_thread")]
async fn featbits_page_finds_what_it_needs() {
    let app = TestApp::start().await;
    let owner = app.owner();
    let list = "/access-tokens?name=&type=&creatorId=&pageIndex=0&pageSize=10";
    assert_eq!(
        owner.get(list).await.body["data"],
        json!({ "totalCount": 0, "items": [] })
    );
    // The page doesn't encode the name; its browser encodes what can't stand in a URL at all.
    let is_used = "/access-tokens/is-name-used?name=my%20100% token!";
    assert_eq!(owner.get(is_used).await.body["data"], false);
    let personal = json!({ "name": "my 100% token!", "type": "Personal", "permissions": [] });
    let created = owner.post("/access-tokens", personal).await;
    assert_eq!(created.body["data"]["name"], "my 100% token!");
    assert!(
        created.body["data"]["token"]
            .as_str()
            .unwrap()
            .starts_with("api-p_")
    );
    assert_eq!(owner.get(is_used).await.body["data"], true);
    let ticked = json!([
        { "id": Uuid::new_v4(), "resourceType": "flag", "effect": "allow",
          "actions": ["CreateFlag", "ToggleFlag"], "resources": ["project/*:env/*:flag/*"] },
        { "id": Uuid::new_v4(), "resourceType": "workspace", "effect": "allow",
          "actions": ["UpdateWorkspaceGeneralSettings"], "resources": ["workspace/*"] },
    ]);
    let service = json!({ "name": "bot", "type": "Service", "permissions": ticked });
    assert_eq!(owner.post("/access-tokens", service).await.status, 200);
    let listed = owner.get(list).await.body["data"]["items"].clone();
    assert_eq!(listed[0]["permissions"], ticked);
    for item in listed.as_array().unwrap() {
        let id = item["id"].as_str().unwrap();
        assert_eq!(item["creator"]["name"], "Olga Owner");
        assert_eq!(item["status"], "Active");
        let edited = json!({ "name": format!("{} 2", item["name"].as_str().unwrap()), "permissions": item["permissions"] });
        assert_eq!(owner.put(&at(id), edited).await.status, 200);
        assert_eq!(
            owner.put(&format!("{}/toggle", at(id)), json!({})).await.body["data"],
            true
        );
        assert_eq!(owner.delete(&at(id)).await.body["data"], true);
    }
    assert_eq!(owner.get(list).await.body["data"]["totalCount"], 0);
}

/// FeatBit's page may live on another origin. `*` would leave out `Authorization` (Fetch standard). Tried: `Any` for the
/// headers.
#[tokio::test(flavor = "multi_thread")]
async fn browsers_may_ask_from_the_origins_that_the_node_was_told_and_no_other() {
    let settings = vec![(
        "CORS_ORIGINS",
        "https://featbit.example, http://localhost:8081".to_owned(),
    )];
    let app = TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let preflight = async |origin: &str| {
        let request = app
            .request(Method::OPTIONS, "/api/v1/access-tokens")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type,organization",
            );
        Answer::of(request).await
    };
    for origin in ["https://featbit.example", "http://localhost:8081"] {
        let answer = preflight(origin).await;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (200, origin)
        );
        for name in ["authorization", "content-type", "organization"] {
            assert!(
                answer.header("access-control-allow-headers").contains(name),
                "{name}"
            );
        }
        let refused = Answer::of(
            app.request(Method::GET, "/api/v1/access-tokens")
                .header("origin", origin),
        )
        .await;
        assert_eq!(
            (refused.status, refused.header("access-control-allow-origin")),
            (401, origin)
        );
    }
    let answer = preflight("https://evil.example").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}
