//! The facts about FeatBit in `conformance/` (see `ORIGIN.md` there), held against this crate.
//!
//! Every test says how many cases it ran, so that a table that lost its cases can't pass.

use domain::policy::{Permission, ResourceName, ResourcePattern, Statement, built_in};
use domain::secret::Secret;
use serde_json::Value;

fn table(json: &str) -> Value {
    serde_json::from_str(json).expect("a table is JSON")
}

fn cases(table: &Value) -> &[Value] {
    table["cases"].as_array().expect("a table has cases")
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} is text in {case}"))
}

fn expected(case: &Value) -> bool {
    case["expected"].as_bool().expect("an expectation")
}

fn statements(json: &Value) -> Vec<Statement> {
    serde_json::from_value(json.clone()).expect("statements")
}

#[test]
fn resources_fall_under_patterns_as_in_featbit() {
    let table = table(include_str!("../conformance/rn-match.json"));
    let mut ran = 0;
    for case in cases(&table) {
        let pattern = ResourcePattern::new(text(case, "pattern"));
        assert_eq!(pattern.matches(text(case, "resource")), expected(case), "{case}");
        ran += 1;
    }
    assert_eq!(ran, 57);
}

#[test]
fn resource_names_are_parsed_as_in_featbit() {
    let table = table(include_str!("../conformance/rn-parse.json"));
    let (mut parsed, mut refused) = (0, 0);
    for case in cases(&table) {
        // FeatBit's null is a missing name; the nearest thing here is an empty one.
        let input = case["input"].as_str().unwrap_or_default();
        if case["success"].as_bool().expect("an expectation") {
            let name = ResourceName::parse(input).unwrap_or_else(|error| panic!("{input}: {error}"));
            let segments = case["segments"].as_array().expect("segments");
            assert_eq!(name.segments().len(), segments.len(), "{case}");
            for (segment, wanted) in name.segments().iter().zip(segments) {
                assert_eq!(
                    (segment.kind(), segment.key()),
                    (text(wanted, "type"), text(wanted, "key")),
                    "{case}"
                );
            }
            assert_eq!(name.to_string(), input);
            parsed += 1;
        } else {
            assert!(ResourceName::parse(input).is_err(), "{case}");
            refused += 1;
        }
    }
    assert_eq!((parsed, refused), (5, 6));
}

#[test]
fn decisions_are_featbits() {
    let table = table(include_str!("../conformance/policy-examples.json"));
    let mut ran = 0;
    for case in cases(&table) {
        let permission = Permission::from_statements(statements(&case["statements"]));
        let decision = permission.decide(text(case, "resource"), text(case, "permission"));
        assert_eq!(decision.is_allowed(), expected(case), "{}", text(case, "name"));
        ran += 1;
    }
    assert_eq!(ran, 9);
}

#[test]
fn the_built_in_policies_are_featbits_but_for_the_ids_of_their_statements() {
    let table = table(include_str!("../conformance/built-in-policies.json"));
    let mut ran = 0;
    for policy in table["policies"].as_array().expect("policies") {
        let mut ours = match text(policy, "key") {
            "owner" => built_in::owner(),
            "administrator" => built_in::administrator(),
            "developer" => built_in::developer(),
            other => panic!("unknown policy {other}"),
        };
        for statement in &mut ours {
            let id = statement.id.take().expect("ours have ids");
            assert!(id.starts_with(text(policy, "key")), "{id}");
        }
        assert_eq!(
            ours,
            statements(&policy["statements"]),
            "{}",
            text(policy, "name")
        );
        ran += 1;
    }
    assert_eq!(ran, 3);
}

#[test]
fn featbits_older_secrets_are_accepted_and_masked_as_in_its_list() {
    let table = table(include_str!("../conformance/legacy-secrets.json"));
    let mut ran = 0;
    for case in cases(&table) {
        let secret = Secret::parse(text(case, "token")).expect("an older secret");
        assert_eq!(secret.reveal(), text(case, "token"));
        assert_eq!(secret.hint(), text(case, "listMask"));
        ran += 1;
    }
    assert_eq!(ran, 2);
}
