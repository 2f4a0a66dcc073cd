//! Paths, methods and queries.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_names_no_token_is_not_found() {
    let app = TestApp::start().await;
    let owner = app.owner();
    nothing_comes_of(&app, async || {
        let unknown = Uuid::new_v4().to_string();
        for id in [
            &unknown,
            "00000000-0000-0000-0000-000000000000",
            "1",
            "x",
            "..",
            "%2e%2e",
            "%00",
            "%FF",
            "%F0%9F%A6%80",
            "a%2Fb",
            "' or 1=1 --",
            "*",
            &"f".repeat(4096),
        ] {
            for (method, action) in [
                (Method::GET, ""),
                (Method::PUT, ""),
                (Method::PUT, "/toggle"),
                (Method::PUT, "/activate"),
                (Method::PUT, "/deactivate"),
                (Method::GET, "/history"),
            ] {
                let line = format!(
                    "{method} /api/v1/access-tokens/{}{action}",
                    id.replace(' ', "%20")
                );
                let body = r#"{"name":"n"}"#;
                let head = head(&owner, &line, &format!("content-length: {}\r\n", body.len()));
                let answer = send(&app, format!("{head}{body}").as_bytes()).await;
                let expected = (404, errors(&["ResourceNotFound"]));
                assert_eq!((answer.status, answer.body), expected, "{line}");
            }
        }
        // Removing what never was is done already; what is no id is no path.
        let removed = owner.delete(&format!("/access-tokens/{unknown}")).await;
        assert_eq!(
            (removed.status, removed.body),
            (200, json!({ "success": true, "errors": [], "data": true }))
        );
        assert_eq!(owner.delete("/access-tokens/x").await.status, 404);
        assert_eq!(
            app.nobody()
                .delete(&format!("/access-tokens/{unknown}"))
                .await
                .status,
            403
        );
    })
    .await;
}

/// Tried: `Form::too_large` and `Form::wrong_method` in the envelope for all.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_404_and_a_wrong_method_405_in_the_envelope() {
    let app = TestApp::start().await;
    let owner = app.owner();
    nothing_comes_of(&app, async || {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/api/v1/",
            "/api/v2/access-tokens",
            "/api/v1/access-tokens/",
            "/nowhere",
            "/api/v1//access-tokens",
            "/api/v1/access-tokens/x/y/z",
            "/api/v1/../../etc/passwd",
            "/access/v1",
            "/%",
            "/%zz",
            "/%00",
            "/%FF",
            "/\u{7f}",
            "/?x=%",
            "/api/v1/access-tokens%2F",
            "//",
            "/;/",
            "/*",
        ] {
            for method in ["GET", "POST", "DELETE", "BREW"] {
                let answer = send(&app, head(&owner, &format!("{method} {path}"), "").as_bytes()).await;
                // What is no path at all ends before us.
                let expected = (404, errors(&["ResourceNotFound"]));
                assert!(
                    (answer.status, answer.body.clone()) == expected
                        || (answer.status, path) == (400, "/\u{7f}"),
                    "{method} {path}: {} {}",
                    answer.status,
                    answer.body
                );
            }
        }
        for (method, path) in [
            ("DELETE", "/api/v1/access-tokens"),
            ("PATCH", "/api/v1/access-tokens/x"),
            ("POST", "/api/v1/access-tokens/x/toggle"),
            ("GET", "/api/v1/access-tokens/x/activate"),
            ("GET", "/api/v1/membership/events"),
            ("POST", "/health/liveness"),
            ("BREW", "/api/v1/access-tokens"),
        ] {
            let answer = send(&app, head(&owner, &format!("{method} {path}"), "").as_bytes()).await;
            let expected = (405, errors(&["MethodNotAllowed"]));
            assert_eq!((answer.status, answer.body), expected, "{method} {path}");
        }
        // What has a standard's form says that in it, too.
        for (path, is_said) in [
            ("/access/v1/evaluation", Value::is_string as fn(&Value) -> bool),
            ("/access/v1/search/action", Value::is_string),
            ("/oauth2/introspect", |body| {
                *body == json!({ "error": "invalid_request" })
            }),
        ] {
            let answer = Answer::of(app.request(Method::GET, path)).await;
            assert_eq!(answer.status, 405, "{path}");
            assert!(is_said(&answer.body), "{path}: {}", answer.text);
            let large = app
                .request(Method::POST, path)
                .header("filler", "x".repeat(17 * KIB));
            let answer = Answer::of(large).await;
            assert_eq!(answer.status, 413, "{path}");
            assert!(is_said(&answer.body), "{path}: {}", answer.text);
        }
        assert_eq!(
            owner.delete("/access-tokens").await.header("allow"),
            "GET,HEAD,POST"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weird_query_filters_as_far_as_it_can_be_read() {
    let app = TestApp::start().await;
    let owner = app.owner();
    owner.personal_token("known").await;
    nothing_comes_of(&app, async || {
        for (query, status) in [
            ("?", 200),
            ("?&&&===&", 200),
            ("?name", 200),
            ("?name=%", 200),
            ("?name=%ff%fe", 200),
            ("?name=%00", 200),
            ("?name=';drop%20table%20events;--", 200),
            ("?name=%25%25%25&type=%27&status=%22", 200),
            ("?pageSize=1&pageSize=100", 200),
            ("?pageSize=100&pageSize=0", 400),
            ("?pageSize=%31", 200),
            ("?pageSize=1e1", 400),
            ("?pageSize=0x1", 400),
            ("?pageSize=%20", 400),
            ("?pageIndex=-0", 200),
            ("?pageIndex=-1", 400),
            ("?creatorId=%00", 400),
        ] {
            let answer = send(
                &app,
                head(&owner, &format!("GET /api/v1/access-tokens{query}"), "").as_bytes(),
            )
            .await;
            assert_eq!(answer.status, status, "{query}: {}", answer.body);
        }
    })
    .await;
}
