//! A permission as decisions use it: rules that many may have in common, and what the statements are called here. A
//! million tokens with the same policy share its rules, though each of their statements has an id of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::resource_text::{NUMBERS, ResourceText, SegmentText};
use super::{Effect, Entry, Permission, ResourcePattern};

/// So many patterns have enough in common for it to be looked at once: most tokens have one or two, and are made often.
const MANY: usize = 4;

/// A permission, its rules apart from the ids of its statements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Granted {
    rules: Arc<Rules>,
    /// One for each entry of the rules, up to the last that has one.
    ids: Box<[Option<StatementId>]>,
}

/// A permission whose statements have no ids: equal ones need only be kept once. Its patterns are numbered together.
#[derive(Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Permission")]
pub struct Rules(Permission);

impl From<Permission> for Rules {
    /// Numbers those segments that its patterns have in common: of each a decision finds out once whether it matches.
    fn from(permission: Permission) -> Self {
        let mut entries = permission.into_entries();
        // Their texts are shared with those in the entries.
        let patterns: Vec<_> = entries
            .iter_mut()
            .flat_map(resources)
            .map(|it| it.clone())
            .collect();
        let numbers = numbers(&patterns);
        // All of them: one that has numbers has them from among others.
        for pattern in entries.iter_mut().flat_map(resources) {
            pattern.number(|place| numbers.get(place).copied());
        }
        Self(Permission::new(entries))
    }
}

/// Of the segments that are there more than once, each with its place.
fn numbers(patterns: &[ResourcePattern]) -> BTreeMap<(usize, SegmentText<'_>), u8> {
    if patterns.len() < MANY {
        return BTreeMap::new();
    }
    let mut times = BTreeMap::<_, usize>::new();
    for place in patterns.iter().flat_map(ResourcePattern::places) {
        let times = times.entry(place).or_default();
        *times = times.saturating_add(1);
    }
    times.retain(|_, times| *times > 1);
    times.into_keys().zip(0..NUMBERS).collect()
}

fn resources(entry: &mut Entry) -> &mut [ResourcePattern] {
    match entry {
        Entry::Statement(statement) => &mut statement.resources,
        Entry::Revocation(revocation) => revocation.resources.as_deref_mut().unwrap_or_default(),
    }
}

/// What a statement is called. Most are called by a uuid, and kept as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatementId {
    /// In the one form in which we write them.
    Uuid(Uuid),
    /// Any other text.
    Text(Box<str>),
}

/// What a granted permission says: whether a statement allows or denies, and what that statement is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// It allows, or denies.
    pub effect: Effect,
    /// Its id, if it has one.
    pub statement_id: Option<&'a StatementId>,
}

impl Granted {
    /// A permission, taken apart.
    #[must_use]
    pub fn new(permission: Permission) -> Self {
        let mut entries = permission.into_entries();
        let mut ids = Vec::new();
        for (number, entry) in entries.iter_mut().enumerate() {
            if let Entry::Statement(statement) = entry
                && let Some(id) = statement.id.take()
            {
                ids.resize(number, None);
                ids.push(Some(StatementId::new(&id)));
            }
        }
        Self {
            rules: Arc::new(Rules::from(Permission::new(entries))),
            ids: ids.into(),
        }
    }

    /// Put together from its [`rules`](Self::rules) and its [`statement_ids`](Self::statement_ids).
    #[must_use]
    pub fn restored<'a>(rules: Arc<Rules>, ids: impl IntoIterator<Item = Option<&'a str>>) -> Self {
        let ids = ids.into_iter().map(|id| id.map(StatementId::new));
        Self {
            rules,
            ids: ids.collect(),
        }
    }

    /// What the statements are called: one for each entry, up to the last that has a name.
    pub fn statement_ids(&self) -> impl Iterator<Item = Option<&StatementId>> {
        self.ids.iter().map(Option::as_ref)
    }

    /// Put together again.
    #[must_use]
    pub fn permission(&self) -> Permission {
        let ids = self.ids.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        let entries = self.rules.0.entries().iter().cloned().zip(ids);
        Permission::new(
            entries
                .map(|(mut entry, id)| {
                    if let Entry::Statement(statement) = &mut entry {
                        statement.id = id.map(ToString::to_string);
                    }
                    entry
                })
                .collect(),
        )
    }

    /// Its rules.
    #[must_use]
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// Takes equal rules that are kept already for its own; nothing changes where they are others.
    pub fn share(&mut self, kept: &Arc<Rules>) {
        if self.rules == *kept {
            self.rules = Arc::clone(kept);
        }
    }

    /// Is there neither a statement nor a revocation?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.0.entries().is_empty()
    }

    /// Decides about one permission on one resource, given as raw text; none where nothing has a say. Does not allocate.
    #[must_use]
    pub fn decide(&self, resource: &str, permission: &str) -> Option<Verdict<'_>> {
        let resource = ResourceText::for_numbered(resource);
        let (number, statement) = self.rules.0.deciding(&resource, permission)?;
        Some(Verdict {
            effect: statement.effect,
            statement_id: self.ids.get(number).and_then(Option::as_ref),
        })
    }
}

impl StatementId {
    fn new(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(uuid) if *uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == *text => {
                Self::Uuid(uuid)
            }
            Ok(_) | Err(_) => Self::Text(text.into()),
        }
    }
}

impl fmt::Display for StatementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Serialize for StatementId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Uuid(uuid) => {
                serializer.serialize_str(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Action, Decision, Revocation, built_in};
    use crate::samples::{FLAGS, PROD, allow, deny};

    fn revocation() -> Entry {
        Entry::Revocation(Revocation {
            permission: Action::new("DeleteFlag"),
            resources: None,
        })
    }

    /// Tried: with ids that are not filled up to the number of their entry; with every id that reads as a uuid kept as one.
    #[test]
    fn a_permission_taken_apart_and_put_together_is_the_same() {
        let uuid = "98881f6a-5c6c-4277-bcf7-fda94c538785";
        let mut anonymous = allow("", "*", FLAGS);
        anonymous.id = None;
        for ids in [
            uuid,
            "developer-flag",
            "",
            "98881F6A-5C6C-4277-BCF7-FDA94C538785",
            "98881f6a5c6c4277bcf7fda94c538785",
        ] {
            let entries = vec![
                Entry::Statement(anonymous.clone()),
                revocation(),
                Entry::Statement(allow(ids, "ToggleFlag", FLAGS)),
                revocation(),
                Entry::Statement(anonymous.clone()),
            ];
            let permission = Permission::new(entries);
            let granted = Granted::new(permission.clone());
            assert_eq!(granted.permission(), permission);

            let rules = serde_json::to_string(granted.rules().as_ref()).expect("serializes");
            let ids: Vec<Option<String>> = granted
                .statement_ids()
                .map(|id| id.map(ToString::to_string))
                .collect();
            let rules = Arc::new(serde_json::from_str(&rules).expect("reads"));
            let restored = Granted::restored(rules, ids.iter().map(Option::as_deref));
            assert_eq!(restored, granted);
        }
    }

    #[test]
    fn a_verdict_names_its_statement() {
        let granted = Granted::new(Permission::new(vec![
            revocation(),
            Entry::Statement(deny("no", "DeleteFlag", FLAGS)),
            Entry::Statement(allow("yes", "ToggleFlag", FLAGS)),
        ]));
        let said = |action| {
            let verdict = granted.decide(PROD, action)?;
            Some((verdict.effect, verdict.statement_id?.to_string()))
        };
        assert_eq!(said("ToggleFlag"), Some((Effect::Allow, "yes".to_owned())));
        assert_eq!(said("DeleteFlag"), Some((Effect::Deny, "no".to_owned())));
        assert_eq!(said("CreateFlag"), None);
    }

    /// Tried: with the ids left in the rules, and with `share` that takes whatever it is given.
    #[test]
    fn equal_rules_are_shared_whatever_the_statements_are_called() {
        let named = |suffix: &str| {
            let mut statements = built_in::developer();
            for statement in &mut statements {
                statement.id = Some(format!("{}-{suffix}", statement.resource_type));
            }
            Granted::new(Permission::from_statements(statements))
        };
        let (first, mut second) = (named("1"), named("2"));
        let kept = second.permission();
        second.share(first.rules());
        assert!(Arc::ptr_eq(first.rules(), second.rules()));
        assert_eq!(second.permission(), kept);

        let mut other = Granted::new(Permission::from_statements(built_in::owner()));
        other.share(first.rules());
        assert_eq!(other.permission(), Permission::from_statements(built_in::owner()));
    }

    /// Tried: numbers left as they are where no segment is there twice; the memory used for what has none of these numbers.
    #[test]
    fn numbers_that_patterns_had_among_others_do_not_count() {
        let of = |project: &str, below: [&str; MANY]| {
            let on = |below: &str| format!("project/{project}:{below}");
            let entries = below.map(|below| Entry::Statement(allow(project, "*", &on(below))));
            Granted::new(Permission::new(entries.to_vec())).permission()
        };
        let (a, b) = (
            of("a", ["env/*", "1", "2", "3"]),
            of("b", ["env/p*", "1", "2", "3"]),
        );
        let first = |permission: &Permission| permission.entries().first().cloned();
        let mixed = Permission::new([first(&a), first(&b)].into_iter().flatten().collect());
        for project in ["a", "b"] {
            let resource = format!("project/{project}:env/prod");
            let Decision::Allowed(statement) = mixed.decide(&resource, "ToggleFlag") else {
                panic!("allowed");
            };
            assert_eq!(statement.id.as_deref(), Some(project));
            let granted = Granted::new(mixed.clone());
            let verdict = granted
                .decide(&resource, "ToggleFlag")
                .and_then(|verdict| verdict.statement_id);
            assert_eq!(verdict.map(ToString::to_string).as_deref(), Some(project));
        }
    }
}
