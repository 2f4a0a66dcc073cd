//! Actions: what a statement allows or denies somebody to do, such as `ToggleFlag`.
//!
//! An action is an opaque name, compared whole and case-sensitively; only the whole `*` means every one. Older data holds
//! four group names that FeatBit's migrations turned into `*` on resources of one type, and here they mean just that.

use serde::{Deserialize, Serialize};

use super::glob::is_same;

/// The name of an action, `*`, or one of FeatBit's four older group names. Any text; JSON: the text.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Action(String);

impl Action {
    /// The action of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the action is about this permission on this resource: `*` and the same name are, and a group name is about
    /// every permission on a resource whose last segment has the group's type.
    pub fn matches(&self, permission: &str, resource: &str) -> bool {
        self.is_every_action()
            || is_same(&self.0, permission)
            || self
                .group_type()
                .is_some_and(|group_type| last_segment_type(resource) == Some(group_type))
    }

    /// Whether whatever the other action is about, this one is about too. True only if that can be shown.
    pub fn covers(&self, other: &Self) -> bool {
        self.is_every_action() || self == other
    }

    /// Whether both may be about one permission on one resource. Never misses one: a group name is taken to overlap with
    /// every action.
    pub fn overlaps(&self, other: &Self) -> bool {
        let broad = |action: &Self| action.is_every_action() || action.group_type().is_some();
        self == other || broad(self) || broad(other)
    }

    /// Whether this is `*`.
    pub fn is_every_action(&self) -> bool {
        self.0 == "*"
    }

    /// The resource type a group name is about.
    fn group_type(&self) -> Option<&'static str> {
        match self.0.as_str() {
            "ManageFeatureFlag" => Some("flag"),
            "ManageSegment" => Some("segment"),
            "ManageProject" => Some("project"),
            "AccessEnvs" => Some("env"),
            _ => None,
        }
    }
}

/// What stands before the first `/` of the last segment. Tags may hold a `/`, but a type in front of one would then hold
/// the `;` and be no type.
fn last_segment_type(resource: &str) -> Option<&str> {
    let (_, segment) = resource.rsplit_once(':').unwrap_or(("", resource));
    segment.split_once('/').map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG: &str = "project/web:env/prod:flag/dark;segment/x";

    #[test]
    fn an_action_is_compared_whole_unless_it_is_a_star() {
        assert!(Action::new("*").matches("ToggleFlag", FLAG));
        assert!(Action::new("ToggleFlag").matches("ToggleFlag", FLAG));
        for other in ["toggleflag", "Toggle*", "ToggleFlag ", ""] {
            assert!(!Action::new(other).matches("ToggleFlag", FLAG), "{other}");
        }
        assert!(
            !Action::new("ToggleFlag").matches("*", FLAG),
            "a star is no permission that everybody has"
        );
    }

    #[test]
    fn a_group_name_is_every_action_on_resources_that_end_in_its_type() {
        for (group, resource, expected) in [
            ("ManageFeatureFlag", FLAG, true),
            ("ManageFeatureFlag", "project/web:env/prod:flag/*", true),
            ("ManageFeatureFlag", "flag/dark:env/prod", false),
            ("ManageFeatureFlag", "flag", false),
            ("ManageFeatureFlag", "flag;a/b", false),
            ("ManageFeatureFlag", "", false),
            ("ManageSegment", "project/web:env/prod:segment/beta", true),
            ("ManageSegment", FLAG, false),
            ("ManageProject", "project/web", true),
            ("ManageProject", "project/web:env/prod", false),
            ("AccessEnvs", "project/web:env/prod", true),
            ("AccessEnvs", FLAG, false),
        ] {
            assert_eq!(
                Action::new(group).matches("AnyAction", resource),
                expected,
                "{group} on {resource}"
            );
        }
        assert!(
            Action::new("AccessEnvs").matches("AccessEnvs", FLAG),
            "its own name is a name like any other"
        );
    }

    #[test]
    fn covers_is_never_wrong_and_overlaps_misses_nothing() {
        let names = [
            "*",
            "ToggleFlag",
            "DeleteFlag",
            "ManageFeatureFlag",
            "ManageSegment",
            "ManageProject",
            "AccessEnvs",
        ];
        let resources = [
            FLAG,
            "project/web",
            "project/web:env/prod",
            "project/web:env/prod:segment/beta",
            "",
        ];
        for (one, other) in names
            .iter()
            .flat_map(|one| names.map(|other| (Action::new(*one), Action::new(other))))
        {
            for (permission, resource) in names
                .iter()
                .flat_map(|name| resources.map(|resource| (*name, resource)))
            {
                let (by_one, by_other) = (
                    one.matches(permission, resource),
                    other.matches(permission, resource),
                );
                assert!(
                    !one.covers(&other) || by_one || !by_other,
                    "{one:?} covers {other:?}: {permission} {resource}"
                );
                assert!(
                    one.overlaps(&other) || !by_one || !by_other,
                    "{one:?} overlaps {other:?}: {permission} {resource}"
                );
            }
        }
        assert!(Action::new("*").covers(&Action::new("ManageSegment")));
        assert!(!Action::new("ToggleFlag").overlaps(&Action::new("DeleteFlag")));
    }
}
