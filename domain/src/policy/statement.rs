//! Statements: the unit of which policies, tokens and membership events are made.

use serde::{Deserialize, Serialize};

use super::resource_text::ResourceText;
use super::{Action, ResourcePattern};

/// Whether a statement gives or forbids. JSON: `allow`, `deny`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(from = "String")]
pub enum Effect {
    /// Gives, unless something forbids.
    #[serde(rename = "allow")]
    Allow,
    /// Forbids, whatever gives.
    #[serde(rename = "deny")]
    Deny,
}

impl From<String> for Effect {
    /// FeatBit allows if every effect is exactly `allow`, so any other text denies. Statements in membership events are
    /// taken as they are; a place that wants to refuse odd effects looks at the text before it comes here.
    fn from(text: String) -> Self {
        if text == "allow" { Self::Allow } else { Self::Deny }
    }
}

/// Allows or denies some actions on some resources. One without actions or without resources matches nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Statement {
    /// What the producer calls it; needn't be unique.
    #[serde(rename = "id", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `*`: the statement matches everything, its actions and resources are ignored. Otherwise it is not looked at.
    #[serde(rename = "resourceType")]
    pub resource_type: String,
    /// Gives or forbids.
    #[serde(rename = "effect")]
    pub effect: Effect,
    /// Any of these.
    #[serde(rename = "actions")]
    pub actions: Vec<Action>,
    /// On any of these.
    #[serde(rename = "resources")]
    pub resources: Vec<ResourcePattern>,
}

impl Statement {
    /// Whether the statement has a say about this permission on this resource (raw text).
    pub fn matches(&self, resource: &str, permission: &str) -> bool {
        self.matches_text(&ResourceText::new(resource), permission)
    }

    pub(super) fn matches_text(&self, resource: &ResourceText<'_>, permission: &str) -> bool {
        self.is_about_everything()
            || (self
                .actions
                .iter()
                .any(|action| action.matches(permission, resource.as_str()))
                && self
                    .resources
                    .iter()
                    .any(|pattern| pattern.matches_text(resource)))
    }

    /// Whether the resource type is `*`: every action on every resource, even on an empty name.
    pub fn is_about_everything(&self) -> bool {
        self.resource_type == "*"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"id":"s-1","resourceType":"flag","effect":"deny","actions":["ToggleFlag","*"],"resources":["project/*","iam/*"]}"#;

    fn read(json: &str) -> Statement {
        serde_json::from_str(json).expect("a statement")
    }

    #[test]
    fn a_statement_is_written_as_it_is_read() {
        assert_eq!(serde_json::to_string(&read(JSON)).expect("serializes"), JSON);
        let anonymous = JSON.replace(r#""id":"s-1","#, "");
        assert_eq!(
            serde_json::to_string(&read(&anonymous)).expect("serializes"),
            anonymous
        );
    }

    #[test]
    fn only_the_id_may_be_missing() {
        for field in [
            r#","resourceType":"flag""#,
            r#","effect":"deny""#,
            r#","actions":["ToggleFlag","*"]"#,
            r#","resources":["project/*","iam/*"]"#,
        ] {
            let json = JSON.replace(field, "");
            assert_ne!(json, JSON);
            assert!(serde_json::from_str::<Statement>(&json).is_err(), "{json}");
        }
        assert_eq!(read(&JSON.replace(r#""s-1""#, "null")).id, None);
    }

    #[test]
    fn an_effect_other_than_allow_denies() {
        for effect in ["deny", "Allow", "allow ", ""] {
            assert_eq!(
                read(&JSON.replace(r#""deny""#, &format!("{effect:?}"))).effect,
                Effect::Deny,
                "{effect}"
            );
        }
        assert_eq!(read(&JSON.replace("deny", "allow")).effect, Effect::Allow);
        assert!(serde_json::from_str::<Effect>("null").is_err());
    }

    #[test]
    fn a_resource_type_of_star_matches_everything() {
        let everything = Statement {
            resource_type: "*".into(),
            actions: vec![],
            resources: vec![],
            ..read(JSON)
        };
        assert!(everything.matches("iam/*", "CanManageIAM"));
        assert!(everything.matches("", ""));
    }

    #[test]
    fn a_statement_without_actions_or_without_resources_matches_nothing() {
        assert!(read(JSON).matches("iam/*", "CanManageIAM"));
        assert!(
            !Statement {
                actions: vec![],
                ..read(JSON)
            }
            .matches("iam/*", "CanManageIAM")
        );
        assert!(
            !Statement {
                resources: vec![],
                ..read(JSON)
            }
            .matches("iam/*", "CanManageIAM")
        );
    }
}
