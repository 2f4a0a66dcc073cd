//! Every route is in the document, and everything in the document is a route.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use uuid::Uuid;

use super::*;
use crate::support::Answer;

/// Documented for one method, and answered for every one: what comes to it is tested in `gateways::forward_auth`.
const ANY_METHOD: &str = "/forward-auth";

/// A route can only be registered by `routes!`, which takes none that says nothing of itself; each is registered once, and
/// as many are in the document. Tried: `toggle` registered by `.route("…", axum::routing::put(…))`; `decisions()` left out
/// of `documented`.
#[test]
fn every_route_of_the_source_is_in_the_document() {
    let mut registered = 0;
    for (file, source) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http")) {
        // What `routes!` has registered may answer other methods as well.
        let source = source.replace("use axum::routing::any;", "");
        for other_way in [
            ".route(",
            ".route_service(",
            ".nest_service(",
            "fallback_service(",
            "axum::routing",
        ] {
            assert!(!source.contains(other_way), "{file}: {other_way}");
        }
        registered += source
            .split("routes!(")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .flat_map(|(handlers, _)| handlers.split(','))
            .filter(|handler| !handler.trim().is_empty())
            .count();
    }
    assert_eq!(registered, operations(&document()).len());
}

fn sources(folder: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                return sources(&path);
            }
            let source = match path.extension() {
                Some(extension) if extension == "rs" => std::fs::read_to_string(&path).unwrap(),
                _ => String::new(),
            };
            vec![(path.display().to_string(), source)]
        })
        .collect()
}

/// Each path of the document is there for the methods it names, and for no other. Tried: `patch` on a token's path by
/// `.route`.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_there_for_the_methods_of_the_document_and_no_other() {
    let app = TestApp::start().await;
    let id = Uuid::new_v4().to_string();
    let mut by_path: BTreeMap<String, BTreeSet<Method>> = BTreeMap::new();
    for operation in operations(&document()) {
        let answer = Answer::of(operation.request(&app, &id)).await;
        assert!(
            ![404, 405].contains(&answer.status),
            "{} {}: {}",
            operation.method,
            operation.path,
            answer.text
        );
        by_path
            .entry(operation.path_of(&id))
            .or_default()
            .insert(operation.method);
    }
    for (path, mut methods) in by_path {
        if path == ANY_METHOD {
            continue;
        }
        if methods.contains(&Method::GET) {
            methods.insert(Method::HEAD);
        }
        for method in [
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::TRACE,
        ] {
            if methods.contains(&method) {
                continue;
            }
            let answer = Answer::of(app.request(method.clone(), &path)).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            let allowed: BTreeSet<Method> = answer
                .header("allow")
                .split(',')
                .map(|method| method.parse().unwrap())
                .collect();
            assert_eq!(allowed, methods, "{method} {path}");
        }
    }
}

#[test]
fn every_operation_says_what_it_is() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let tags: BTreeSet<&str> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    let mut ids = BTreeSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            let is_camel_case = id.starts_with(|first: char| first.is_ascii_lowercase())
                && id.chars().all(|letter| letter.is_ascii_alphanumeric());
            assert!(is_camel_case, "{id}");
            assert!(ids.insert(id), "{id} stands there twice");
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(
                !summary.is_empty() && !summary.starts_with('`'),
                "{id}: {summary:?}"
            );
            for tag in operation["tags"].as_array().unwrap() {
                assert!(tags.contains(tag.as_str().unwrap()), "{id}: {tag}");
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{id}: {parameter}");
                assert!(!parameter["schema"].is_null(), "{id}: {parameter}");
            }
        }
    }
}

#[test]
fn examples_are_what_their_schemas_say() {
    let document = document();
    let mut examples = 0;
    for schema in document["components"]["schemas"].as_object().unwrap().values() {
        if let Some(example) = schema.get("example") {
            validator(&document, schema).validate(example).unwrap();
            examples += 1;
        }
    }
    for operation in operations(&document) {
        for answer in operation.answers.values() {
            let content = &answer["content"]["application/json"];
            if let Some(example) = content.get("example") {
                validator(&document, &content["schema"])
                    .validate(example)
                    .unwrap();
                examples += 1;
            }
        }
    }
    assert!(examples > 20, "{examples} examples");
}

/// Whatever the environment: it needs none.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_the_document_that_the_service_answers() {
    let app = TestApp::start().await;
    let answer = Answer::of(app.request(Method::GET, "/openapi.json")).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, "application/json; charset=utf-8")
    );
    let printed = Command::new(env!("CARGO_BIN_EXE_featbit-tokens"))
        .arg("openapi")
        .env_clear()
        .output()
        .unwrap();
    assert!(printed.status.success());
    assert_eq!(String::from_utf8(printed.stderr).unwrap(), "");
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), answer.text);
    assert!(
        answer.text.starts_with("{\n  \"openapi\": \"3.1.0\",\n"),
        "indented"
    );
}
