//! Properties of the algebra, over small worlds in which statements, patterns and resources meet often.
//!
//! The model in here is written from FeatBit's rules alone, without a look at the code it is held against. More cases than
//! the default: `PROPTEST_CASES=200000 cargo test -p domain --release properties`; all held when that was last run.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{Action, Decision, Effect, Entry, Permission, ResourcePattern, Revocation, Statement};

/// Two plain actions, every action, and two group names.
const ACTIONS: [&str; 5] = ["Toggle", "Delete", "*", "ManageFeatureFlag", "AccessEnvs"];
/// What somebody may ask for: the last three are odd, and must be odd in the same way everywhere.
const PERMISSIONS: [&str; 5] = ["Toggle", "Delete", "ManageFeatureFlag", "*", ""];
const SEGMENTS: [&str; 20] = [
    "*",
    "**",
    "e*",
    "*a",
    "*/*",
    "env/*",
    "env/a",
    "env/b",
    "env/*;x",
    "flag/*",
    "flag/a",
    "flag/b",
    "flag/*a",
    "flag/*;x",
    "flag/*;y",
    "flag/*;x,y",
    "flag/a;x*",
    "flag/b;*",
    "flag/a;",
    "flag/*;,",
];

/// The resources of the world: one and two levels deep, with every kind of tags, and some of no proper form.
fn resources() -> Vec<String> {
    let tags = ["", ";x", ";y", ";xy", ";x,y", ";", ";,", ";z;x"];
    let paths = ["env/a", "env/b", "flag/a", "flag/b", "flag/ba", "flag/*", "a", ""];
    let segments: Vec<String> = paths
        .iter()
        .flat_map(|path| tags.map(|tag| format!("{path}{tag}")))
        .collect();
    let below = |outer: &str| {
        segments
            .iter()
            .map(|inner| format!("{outer}:{inner}"))
            .collect::<Vec<_>>()
    };
    let mut all = [
        segments.clone(),
        below("env/a"),
        below("env/b;x"),
        below("flag/a;y"),
    ]
    .concat();
    all.extend(["env/a:flag/a:flag/b;x", "env/a:flag/a:env/b"].map(str::to_owned));
    all
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => vec(select(&SEGMENTS[..]), 1..=2).prop_map(|segments| segments.join(":")),
        1 => Just(String::new()),
        1 => odd_text(),
    ]
}

/// Any text over the characters that mean something, and a few that don't.
fn odd_text() -> impl Strategy<Value = String> {
    "[ab*/:;,é]{0,8}"
}

fn patterns() -> impl Strategy<Value = Vec<ResourcePattern>> {
    vec(pattern().prop_map(ResourcePattern::new), 0..=2)
}

fn action() -> impl Strategy<Value = Action> {
    select(&ACTIONS[..]).prop_map(Action::new)
}

fn statement(allow_weight: u32) -> impl Strategy<Value = Statement> {
    let resource_type = prop_oneof![12 => Just("flag"), 1 => Just("*")];
    let effect = prop_oneof![allow_weight => Just(Effect::Allow), 1 => Just(Effect::Deny)];
    (resource_type, effect, vec(action(), 0..=2), patterns()).prop_map(
        |(resource_type, effect, actions, resources)| Statement {
            id: None,
            resource_type: resource_type.to_owned(),
            effect,
            actions,
            resources,
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    let revocation =
        (action(), proptest::option::weighted(0.8, patterns())).prop_map(|(permission, resources)| {
            Entry::Revocation(Revocation {
                permission,
                resources,
            })
        });
    prop_oneof![4 => statement(2).prop_map(Entry::Statement), 1 => revocation]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    vec(entry(), 0..=5)
}

/// A token made out of what its creator has, as a person would: some of the creator's statements, often with one action or
/// one pattern less or another, some denies carried; and now and then something out of the blue.
fn token(creator: &[Entry]) -> impl Strategy<Value = Vec<Statement>> + use<> {
    let creator = creator.to_vec();
    let pick = (
        any::<Index>(),
        proptest::option::weighted(0.3, action()),
        proptest::option::weighted(0.5, pattern()),
    );
    (vec(pick, 0..=3), vec(statement(1), 0..=1), any::<bool>()).prop_map(move |(picks, others, carry)| {
        let mut statements = others;
        for (index, action, pattern) in picks.into_iter().filter(|_| !creator.is_empty()) {
            if let Entry::Statement(picked) = index.get(&creator) {
                let mut picked = picked.clone();
                picked.actions = action.map_or(picked.actions, |action| vec![action]);
                picked.resources =
                    pattern.map_or(picked.resources, |pattern| vec![ResourcePattern::new(pattern)]);
                statements.push(picked);
            }
        }
        for entry in creator.iter().filter(|_| carry) {
            match entry {
                Entry::Statement(deny) if deny.effect == Effect::Deny => statements.push(deny.clone()),
                Entry::Revocation(Revocation {
                    permission,
                    resources: Some(resources),
                }) => statements.push(Statement {
                    id: None,
                    resource_type: "flag".to_owned(),
                    effect: Effect::Deny,
                    actions: vec![permission.clone()],
                    resources: resources.clone(),
                }),
                _ => {}
            }
        }
        statements
    })
}

fn creator_and_token() -> impl Strategy<Value = (Vec<Entry>, Vec<Statement>)> {
    entries().prop_flat_map(|creator| {
        let token = token(&creator);
        (Just(creator), token)
    })
}

/// The rules, word for word.
mod model {
    use super::{Action, Effect, Entry, ResourcePattern, Statement};

    fn glob(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
            [wanted, rest @ ..] => text.first() == Some(wanted) && glob(rest, &text[1..]),
        }
    }

    fn glob_text(pattern: &str, text: &str) -> bool {
        glob(
            &pattern.chars().collect::<Vec<_>>(),
            &text.chars().collect::<Vec<_>>(),
        )
    }

    pub(super) fn pattern_matches(pattern: &str, resource: &str) -> bool {
        if pattern.is_empty() || resource.is_empty() {
            return false;
        }
        let patterns: Vec<Vec<&str>> = pattern
            .split(':')
            .map(|segment| segment.split(';').collect())
            .collect();
        let names: Vec<Vec<&str>> = resource
            .split(':')
            .map(|segment| segment.split(';').collect())
            .collect();
        if patterns.len() > names.len() {
            return false;
        }
        for (pattern, name) in patterns.iter().zip(&names) {
            if !glob_text(pattern[0], name[0]) {
                return false;
            }
            if pattern.len() > 1 && !pattern[1].is_empty() {
                if name.len() < 2 || name[1].is_empty() {
                    return false;
                }
                let mut hits = 0;
                for wanted in pattern[1].split(',') {
                    hits += name[1].split(',').filter(|tag| glob_text(wanted, tag)).count();
                }
                if hits == 0 {
                    return false;
                }
            }
        }
        true
    }

    fn action_matches(action: &Action, resource: &str, permission: &str) -> bool {
        let action = action.as_str();
        let last = resource.split(':').next_back().unwrap_or_default();
        let group = match action {
            "ManageFeatureFlag" => "flag/",
            "AccessEnvs" => "env/",
            _ => return action == "*" || action == permission,
        };
        action == permission || last.starts_with(group)
    }

    fn any_matches(
        actions: &[Action],
        resources: &[ResourcePattern],
        resource: &str,
        permission: &str,
    ) -> bool {
        actions
            .iter()
            .any(|action| action_matches(action, resource, permission))
            && resources
                .iter()
                .any(|pattern| pattern_matches(pattern.as_str(), resource))
    }

    pub(super) fn allows(entries: &[Entry], resource: &str, permission: &str) -> bool {
        let mut matched: Vec<&Statement> = Vec::new();
        for entry in entries {
            match entry {
                Entry::Statement(statement) => {
                    if statement.resource_type == "*"
                        || any_matches(&statement.actions, &statement.resources, resource, permission)
                    {
                        matched.push(statement);
                    }
                }
                Entry::Revocation(revocation) => {
                    let about = action_matches(&revocation.permission, resource, permission);
                    let here = match &revocation.resources {
                        Some(patterns) => patterns.iter().any(|it| pattern_matches(it.as_str(), resource)),
                        None => true,
                    };
                    let taken = about && here;
                    if taken {
                        matched.retain(|statement| statement.effect == Effect::Deny);
                    }
                }
            }
        }
        !matched.is_empty() && matched.iter().all(|statement| statement.effect == Effect::Allow)
    }
}

proptest! {
    /// Tried: `matches` without the tags, without the check for emptiness, with as many segments required as there are.
    #[test]
    fn a_pattern_matches_what_the_rules_say(pattern in pattern(), odd in odd_text()) {
        let made = ResourcePattern::new(pattern.as_str());
        for resource in resources().iter().chain([&odd, &pattern, &String::new()]) {
            let expected = model::pattern_matches(&pattern, resource);
            prop_assert_eq!(made.matches(resource), expected, "{} on {}", pattern, resource);
        }
    }

    /// Tried: `contains` without each of its guards; see its table, where each is one line.
    #[test]
    fn a_contained_pattern_matches_nothing_its_container_does_not(one in pattern(), other in pattern(), odd in odd_text()) {
        let (one, other) = (ResourcePattern::new(one), ResourcePattern::new(other));
        if one.contains(&other) {
            for resource in resources().iter().chain([&odd]) {
                prop_assert!(one.matches(resource) || !other.matches(resource), "{}", resource);
            }
        }
    }

    /// Tried: `overlaps` that compares tags too, or asks for as many segments on both sides.
    #[test]
    fn patterns_that_share_a_resource_overlap(one in pattern(), other in pattern(), odd in odd_text()) {
        let (one, other) = (ResourcePattern::new(one), ResourcePattern::new(other));
        if !one.overlaps(&other) {
            for resource in resources().iter().chain([&odd]) {
                prop_assert!(!one.matches(resource) || !other.matches(resource), "{}", resource);
            }
        }
    }

    /// Tried: every change named at the tests of `Permission::decide`, and a revocation forgotten at the next one.
    #[test]
    fn a_decision_is_what_the_rules_say(entries in entries(), odd in odd_text()) {
        let permission = Permission::new(entries.clone());
        for resource in resources().iter().chain([&odd, &String::new()]) {
            for asked in PERMISSIONS {
                let decision = permission.decide(resource, asked);
                let expected = model::allows(&entries, resource, asked);
                prop_assert_eq!(decision.is_allowed(), expected, "{} on {}", asked, resource);
                if let Decision::Allowed(statement) | Decision::Denied(statement) = decision {
                    prop_assert!(statement.matches(resource, asked));
                }
            }
        }
    }

    /// The promise that a service token never exceeds its creator. Tried: every change named at the tests of
    /// `Permission::covers`; those that make a wrong yes possible fail here too, some only with 10,000 cases.
    #[test]
    fn what_a_covered_token_allows_its_creator_may_do((creator, token) in creator_and_token(), odd in odd_text()) {
        let creator = Permission::new(creator);
        if creator.covers(&token) {
            let token = Permission::from_statements(token);
            for resource in resources().iter().chain([&odd, &String::new()]) {
                for asked in PERMISSIONS {
                    let exceeded = token.decide(resource, asked).is_allowed()
                        && !creator.decide(resource, asked).is_allowed();
                    prop_assert!(!exceeded, "{} on {}", asked, resource);
                }
            }
        }
    }
}

/// A property about covered tokens says little if few are: here is how many of the generated ones are, and allow something.
#[test]
fn the_generated_tokens_are_often_covered_and_often_not() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let (mut covered, mut refused, mut with_obstacles) = (0, 0, 0);
    let mut runner = TestRunner::deterministic();
    for _ in 0..2_000 {
        let (creator, token) = creator_and_token()
            .new_tree(&mut runner)
            .expect("generates")
            .current();
        let obstructed = creator.iter().any(|entry| match entry {
            Entry::Statement(statement) => statement.effect == Effect::Deny,
            Entry::Revocation(_) => true,
        });
        let is_covered = Permission::new(creator).covers(&token);
        let token = Permission::from_statements(token);
        if resources()
            .iter()
            .any(|resource| token.decide(resource, "Toggle").is_allowed())
        {
            covered += usize::from(is_covered);
            refused += usize::from(!is_covered);
            with_obstacles += usize::from(is_covered && obstructed);
        }
    }
    assert!(
        covered > 100 && refused > 100 && with_obstacles > 30,
        "{covered} {refused} {with_obstacles}"
    );
}
