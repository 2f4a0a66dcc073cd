//! The discovery document: what it says comes from the configuration alone.

use super::*;

const PATH: &str = "/.well-known/authzen-configuration";

async fn node(settings: Vec<(&'static str, String)>) -> TestApp {
    TestApp::start_with(Options {
        settings,
        ..Options::default()
    })
    .await
}

/// Tried: `PUBLIC_URL` left with its `/`.
#[tokio::test(flavor = "multi_thread")]
async fn the_document_names_the_public_url_whatever_host_was_asked_and_needs_no_key() {
    let settings = vec![
        ("PUBLIC_URL", "https://tokens.example/".to_owned()),
        ("GATEWAY_KEYS", "a-key".to_owned()),
    ];
    let app = node(settings).await;
    let request = app
        .request(Method::GET, PATH)
        .header("host", "evil.example")
        .header("x-forwarded-host", "evil.example");
    let answer = Answer::of(request).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, "application/json")
    );
    let url = "https://tokens.example";
    assert_eq!(answer.body["policy_decision_point"], url);
    let endpoints = answer.body.as_object().unwrap();
    assert!(endpoints.len() > 2, "{}", answer.text);
    for (name, endpoint) in endpoints {
        let path = endpoint.as_str().unwrap().strip_prefix(url).unwrap();
        if name != "policy_decision_point" {
            let asked = Answer::of(app.request(Method::POST, path)).await;
            assert_eq!(asked.status, 401, "{name} is there, and wants a key");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_public_url_it_is_where_the_node_listens_and_only_on_loopback() {
    let app = TestApp::start().await;
    let answer = Answer::of(app.request(Method::GET, PATH)).await;
    assert_eq!(answer.body["policy_decision_point"], app.url, "{}", answer.text);
    let settings = vec![
        ("HTTP_ADDR", "0.0.0.0:0".to_owned()),
        ("GATEWAY_KEYS", "a-key".to_owned()),
    ];
    let answer = Answer::of(node(settings).await.request(Method::GET, PATH)).await;
    assert_eq!((answer.status, answer.code()), (404, "ResourceNotFound"));
}
