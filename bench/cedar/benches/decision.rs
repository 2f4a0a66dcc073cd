//! One decision by twenty statements with globs and tags, of which only the last is about the resource: by `domain`, and by
//! cedar-policy on policies that say the same. Parsing, and for cedar the request and its entities, are not in the time.

use std::hint::black_box;
use std::str::FromStr;

use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request};
use criterion::{Criterion, criterion_group, criterion_main};
use domain::policy::{Action, Effect, Granted, Permission, ResourcePattern, Statement};

const RESOURCE: &str = "project/web:env/prod:flag/dark-mode;beta,team-a";
const STATEMENTS: usize = 20;

/// Where the statement of this number allows to toggle: two patterns, of project, environment and flag each, and their tags.
fn patterns(number: usize) -> [(String, [&'static str; 2]); 2] {
    let first = format!("project/w*b:env/stag*ing-{number}:flag/*");
    if number == STATEMENTS {
        [(first, ["team-*", "gamma"]), ("project/w*:env/*:flag/dark-*".to_owned(), ["team-*", "gamma"])]
    } else {
        [(first, ["team-*", "gamma"]), ("project/*:env/prod:flag/*".to_owned(), ["delta-*", "*-omega"])]
    }
}

fn granted() -> Granted {
    let statement = |number| Statement {
        id: Some(format!("statement-{number}")),
        resource_type: "flag".to_owned(),
        effect: Effect::Allow,
        actions: vec![Action::new("UpdateFlagName"), Action::new("ToggleFlag")],
        resources: patterns(number)
            .map(|(path, tags)| ResourcePattern::new(format!("{path};{}", tags.join(","))))
            .to_vec(),
    };
    Granted::new(Permission::from_statements((1..=STATEMENTS).map(statement).collect()))
}

/// The tags are one text with commas around each: cedar has no globs over the members of a set.
fn policies() -> PolicySet {
    let policy = |number| {
        let conditions = patterns(number).map(|(path, tags)| {
            let tags = tags.map(|tag| format!("resource.tags like \"*,{tag},*\""));
            format!("(resource.name like \"{path}\" && ({} || {}))", tags[0], tags[1])
        });
        format!(
            "permit(principal, action in [Action::\"UpdateFlagName\", Action::\"ToggleFlag\"], resource) when {{ {} }};",
            conditions.join(" || ")
        )
    };
    let text: Vec<String> = (1..=STATEMENTS).map(policy).collect();
    PolicySet::from_str(&text.join("\n")).expect("policies")
}

fn decision(criterion: &mut Criterion) {
    let granted = granted();
    criterion.bench_function("ours", |bencher| {
        bencher.iter(|| {
            let verdict = granted.decide(black_box(RESOURCE), black_box("ToggleFlag"));
            assert!(verdict.is_some_and(|verdict| verdict.effect == Effect::Allow));
        });
    });

    let policies = policies();
    let uid = |text: &str| EntityUid::from_str(text).expect("an entity");
    let entities = Entities::from_json_value(
        serde_json::json!([{
            "uid": { "type": "Flag", "id": RESOURCE },
            "attrs": { "name": "project/web:env/prod:flag/dark-mode", "tags": ",beta,team-a," },
            "parents": [],
        }]),
        None,
    )
    .expect("entities");
    let resource = format!("Flag::{}", serde_json::Value::from(RESOURCE));
    let request = Request::new(
        uid("Token::\"t\""),
        uid("Action::\"ToggleFlag\""),
        uid(&resource),
        Context::empty(),
        None,
    )
    .expect("a request");
    let authorizer = Authorizer::new();
    criterion.bench_function("cedar", |bencher| {
        bencher.iter(|| {
            let response = authorizer.is_authorized(black_box(&request), black_box(&policies), black_box(&entities));
            assert_eq!(response.decision(), Decision::Allow);
        });
    });
}

criterion_group!(benches, decision);
criterion_main!(benches);
