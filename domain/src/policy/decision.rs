//! Decisions: what a list of statements and revocations says about one permission on one resource.
//!
//! FeatBit's algebra, with one addition: a revocation takes an action away from what was allowed before it, and from
//! nothing that comes later. It is no deny: where a later statement allows, it is allowed.

use serde::{Deserialize, Serialize};

use super::resource_text::ResourceText;
use super::{Action, Effect, ResourcePattern, Statement};

/// Takes an action away from every allow that was in force before it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// An action, `*`, or one of the older group names.
    #[serde(rename = "permission")]
    pub permission: Action,
    /// On resources that any of these match; absent: everywhere. An empty list takes nothing.
    #[serde(rename = "resources", default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<ResourcePattern>>,
}

impl Revocation {
    /// Whether this permission on this resource (raw text) is taken away.
    pub fn takes(&self, resource: &str, permission: &str) -> bool {
        self.takes_text(&ResourceText::new(resource), permission)
    }

    fn takes_text(&self, resource: &ResourceText<'_>, permission: &str) -> bool {
        self.permission.matches(permission, resource.as_str())
            && self
                .resources
                .as_ref()
                .is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches_text(resource)))
    }

    /// Whether this takes something from what an earlier statement allows. Never misses it; may also be true where only
    /// resources that nobody has are concerned.
    pub fn takes_from(&self, statement: &Statement) -> bool {
        let all = statement.is_about_everything();
        let concerns = |pattern: &ResourcePattern| {
            all || statement
                .resources
                .iter()
                .any(|allowed| allowed.overlaps(pattern))
        };
        let actions = all
            || statement
                .actions
                .iter()
                .any(|action| action.overlaps(&self.permission));
        let resources = match &self.resources {
            None => all || !statement.resources.is_empty(),
            Some(patterns) => patterns.iter().any(concerns),
        };
        statement.effect == Effect::Allow && actions && resources
    }
}

/// One of the things that make up a permission.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// Allows or denies.
    Statement(Statement),
    /// Takes from the allows before it.
    Revocation(Revocation),
}

/// What somebody may do: statements and revocations in the order in which they took force.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Permission {
    entries: Vec<Entry>,
}

/// The answer to "may this be done there?", with the statement that decided it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<'a> {
    /// Allowed by this one, the first of those that allow; nothing denies.
    Allowed(&'a Statement),
    /// Denied by this one, the first of those that deny.
    Denied(&'a Statement),
    /// Nothing has a say, so it is denied.
    NoMatch,
}

impl Decision<'_> {
    /// Whether it may be done.
    pub const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

impl Permission {
    /// From the oldest to the newest.
    pub const fn new(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// Statements of which nothing was ever revoked, such as a token's own.
    pub fn from_statements(statements: Vec<Statement>) -> Self {
        Self::new(statements.into_iter().map(Entry::Statement).collect())
    }

    /// From the oldest to the newest.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The same, taken out.
    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The statements alone, from the oldest to the newest.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Statement(statement) => Some(statement),
            Entry::Revocation(_) => None,
        })
    }

    /// Decides about one permission on one resource, given as raw text. Does not allocate.
    pub fn decide(&self, resource: &str, permission: &str) -> Decision<'_> {
        match self.deciding(&ResourceText::new(resource), permission) {
            Some((_, statement)) if statement.effect == Effect::Allow => Decision::Allowed(statement),
            Some((_, statement)) => Decision::Denied(statement),
            None => Decision::NoMatch,
        }
    }

    /// The statement that decides, and its number among the entries.
    pub(super) fn deciding(
        &self,
        resource: &ResourceText<'_>,
        permission: &str,
    ) -> Option<(usize, &Statement)> {
        let mut taken = false;
        let mut allowed = None;
        let mut denied = None;
        // From the newest to the oldest, so that a revocation is known before the allows it takes from; the last one
        // seen of each effect is the first of the list.
        for (number, entry) in self.entries.iter().enumerate().rev() {
            match entry {
                Entry::Revocation(revocation) => taken = taken || revocation.takes_text(resource, permission),
                Entry::Statement(statement) if statement.matches_text(resource, permission) => {
                    match statement.effect {
                        Effect::Deny => denied = Some((number, statement)),
                        Effect::Allow if taken => {}
                        Effect::Allow => allowed = Some((number, statement)),
                    }
                }
                Entry::Statement(_) => {}
            }
        }
        denied.or(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROD: &str = "project/web:env/prod:flag/dark";
    const DEV: &str = "project/web:env/dev:flag/dark";

    fn statement(id: &str, effect: Effect, action: &str, resource: &str) -> Entry {
        Entry::Statement(Statement {
            id: Some(id.to_owned()),
            resource_type: "flag".to_owned(),
            effect,
            actions: vec![Action::new(action)],
            resources: vec![ResourcePattern::new(resource)],
        })
    }

    fn revocation(permission: &str, resources: Option<&[&str]>) -> Entry {
        let patterns = |resources: &[&str]| resources.iter().copied().map(ResourcePattern::new).collect();
        Entry::Revocation(Revocation {
            permission: Action::new(permission),
            resources: resources.map(patterns),
        })
    }

    /// `+id` allowed by it, `-id` denied by it, empty for no match.
    fn decide(entries: &[Entry], resource: &str) -> String {
        let id = |statement: &Statement| statement.id.clone().unwrap_or_default();
        match Permission::new(entries.to_vec()).decide(resource, "ToggleFlag") {
            Decision::Allowed(statement) => format!("+{}", id(statement)),
            Decision::Denied(statement) => format!("-{}", id(statement)),
            Decision::NoMatch => String::new(),
        }
    }

    #[test]
    fn the_first_allow_and_before_it_the_first_deny_is_reported() {
        let allows = [
            statement("a1", Effect::Allow, "*", "*"),
            statement("a2", Effect::Allow, "*", "*"),
        ];
        assert_eq!(decide(&allows, PROD), "+a1");
        let mut entries = allows.to_vec();
        entries.push(statement("d1", Effect::Deny, "ToggleFlag", "project/*:env/prod"));
        entries.push(statement("d2", Effect::Deny, "ToggleFlag", "*"));
        assert_eq!(decide(&entries, PROD), "-d1");
        assert_eq!(decide(&entries, DEV), "-d2");
        assert_eq!(decide(&[], PROD), "");
    }

    /// Tried: without the guard `if taken` (nothing is revoked), with it on denies too, and with a pass from the oldest
    /// to the newest (a revocation would take from later grants).
    #[test]
    fn a_revocation_takes_from_earlier_allows_only() {
        let earlier = statement("earlier", Effect::Allow, "*", "*");
        let later = statement("later", Effect::Allow, "*", "*");
        let taken = revocation("ToggleFlag", Some(&["project/*:env/prod"]));
        assert_eq!(decide(&[earlier.clone(), taken.clone()], PROD), "");
        assert_eq!(decide(&[earlier.clone(), taken.clone()], DEV), "+earlier");
        assert_eq!(decide(&[earlier, taken.clone(), later.clone()], PROD), "+later");
        assert_eq!(decide(&[taken, later], PROD), "+later");
    }

    #[test]
    fn a_deny_outlives_every_revocation() {
        let entries = [statement("deny", Effect::Deny, "*", "*"), revocation("*", None)];
        assert_eq!(decide(&entries, PROD), "-deny");
    }

    #[test]
    fn a_revocation_without_resources_holds_everywhere_and_with_none_nowhere() {
        let allow = statement("allow", Effect::Allow, "*", "*");
        assert_eq!(decide(&[allow.clone(), revocation("*", None)], PROD), "");
        assert_eq!(
            decide(&[allow.clone(), revocation("DeleteFlag", None)], PROD),
            "+allow"
        );
        assert_eq!(
            decide(&[allow.clone(), revocation("*", Some(&[]))], PROD),
            "+allow"
        );
        assert_eq!(
            decide(&[allow.clone(), revocation("ManageFeatureFlag", None)], PROD),
            ""
        );
        assert_eq!(
            decide(&[allow, revocation("ManageSegment", None)], PROD),
            "+allow"
        );
    }

    /// Tried: without its actions, without its resources, without its effect; `Some(&[])` as `None`.
    #[test]
    fn a_revocation_takes_from_the_allows_that_share_an_action_and_a_resource_with_it() {
        let everything = Entry::Statement(Statement {
            id: None,
            resource_type: "*".to_owned(),
            effect: Effect::Allow,
            actions: vec![],
            resources: vec![],
        });
        let allow = |action, resource| statement("s", Effect::Allow, action, resource);
        let here: Option<&[&str]> = Some(&["project/*:env/prod"]);
        for (expected, taken, from) in [
            (true, revocation("ToggleFlag", here), allow("ToggleFlag", PROD)),
            (true, revocation("ToggleFlag", here), allow("*", "*")),
            (true, revocation("*", None), allow("ToggleFlag", PROD)),
            (true, revocation("*", here), everything.clone()),
            (
                true,
                revocation("ManageFeatureFlag", None),
                allow("ToggleFlag", PROD),
            ),
            (false, revocation("ToggleFlag", here), allow("ToggleFlag", DEV)),
            (false, revocation("ToggleFlag", here), allow("DeleteFlag", PROD)),
            (false, revocation("*", Some(&[])), allow("ToggleFlag", PROD)),
            (false, revocation("*", Some(&[])), everything),
            (
                false,
                revocation("*", None),
                statement("s", Effect::Deny, "*", "*"),
            ),
        ] {
            let (Entry::Revocation(taken), Entry::Statement(from)) = (taken, from) else {
                panic!("a revocation and a statement");
            };
            assert_eq!(taken.takes_from(&from), expected, "{taken:?} from {from:?}");
        }
    }

    #[test]
    fn a_revocation_is_written_as_it_is_read() {
        for json in [
            r#"{"permission":"*"}"#,
            r#"{"permission":"ToggleFlag","resources":["project/*"]}"#,
        ] {
            let read: Revocation = serde_json::from_str(json).expect("a revocation");
            assert_eq!(serde_json::to_string(&read).expect("serializes"), json);
        }
        assert!(serde_json::from_str::<Revocation>(r#"{"resources":[]}"#).is_err());
    }
}
