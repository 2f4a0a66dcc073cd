//! FeatBit's three built-in policies, as its seed data has them; the ids of the statements are ours.

use super::{Action, Effect, ResourcePattern, Statement};

/// The actions that FeatBit's server or its page knows. Any other is an action too.
pub const KNOWN_ACTIONS: &[&str] = &[
    "ArchiveFlag",
    "ArchiveSegment",
    "CanAccessEnv",
    "CanAccessProject",
    "CanManageIAM",
    "CloneFlag",
    "CopyFlagTo",
    "CreateEnv",
    "CreateEnvSecret",
    "CreateFlag",
    "CreateOrg",
    "CreateProject",
    "CreateSegment",
    "DeleteEnv",
    "DeleteEnvSecret",
    "DeleteFlag",
    "DeleteProject",
    "DeleteSegment",
    "ListAccessTokens",
    "ListRelayProxies",
    "ManagePersonalAccessTokens",
    "ManageRelayProxies",
    "ManageServiceAccessTokens",
    "RestoreFlag",
    "RestoreSegment",
    "ToggleFlag",
    "UpdateEnvSecret",
    "UpdateEnvSettings",
    "UpdateFlagDefaultRule",
    "UpdateFlagDescription",
    "UpdateFlagIndividualTargeting",
    "UpdateFlagName",
    "UpdateFlagOffVariation",
    "UpdateFlagTags",
    "UpdateFlagTargetingRules",
    "UpdateFlagVariations",
    "UpdateOrgDefaultUserPermissions",
    "UpdateOrgName",
    "UpdateOrgSortFlagsBy",
    "UpdateProjectSettings",
    "UpdateSegmentDescription",
    "UpdateSegmentName",
    "UpdateSegmentRules",
    "UpdateSegmentTags",
    "UpdateSegmentTargetingUsers",
    "UpdateWorkspaceGeneralSettings",
    "UpdateWorkspaceLicense",
    "UpdateWorkspaceSSOSettings",
];

const TOKEN_ACTIONS: &[&str] = &[
    "ManageServiceAccessTokens",
    "ManagePersonalAccessTokens",
    "ListAccessTokens",
];
const RELAY_PROXY_ACTIONS: &[&str] = &["ManageRelayProxies", "ListRelayProxies"];

/// Owner, `98881f6a-5c6c-4277-bcf7-fda94c538785`: everything.
pub fn owner() -> Vec<Statement> {
    vec![allow("owner", "*", &["*"], "*")]
}

/// Administrator, `3e961f0f-6fd4-4cf4-910f-52d356f8cc08`: every resource type by name.
pub fn administrator() -> Vec<Statement> {
    vec![
        allow("administrator", "iam", &["CanManageIAM"], "iam/*"),
        allow("administrator", "access-token", TOKEN_ACTIONS, "access-token/*"),
        allow(
            "administrator",
            "relay-proxy",
            RELAY_PROXY_ACTIONS,
            "relay-proxy/*",
        ),
        allow(
            "administrator",
            "project",
            &[
                "CanAccessProject",
                "CreateProject",
                "DeleteProject",
                "UpdateProjectSettings",
                "CreateEnv",
            ],
            "project/*",
        ),
        allow(
            "administrator",
            "env",
            &[
                "CanAccessEnv",
                "DeleteEnv",
                "UpdateEnvSettings",
                "CreateEnvSecret",
                "DeleteEnvSecret",
                "UpdateEnvSecret",
            ],
            "project/*:env/*",
        ),
        allow(
            "administrator",
            "workspace",
            &[
                "UpdateWorkspaceGeneralSettings",
                "UpdateWorkspaceLicense",
                "UpdateWorkspaceSSOSettings",
            ],
            "workspace/*",
        ),
        allow(
            "administrator",
            "organization",
            &[
                "UpdateOrgSortFlagsBy",
                "UpdateOrgName",
                "UpdateOrgDefaultUserPermissions",
                "CreateOrg",
            ],
            "organization/*",
        ),
        allow("administrator", "flag", &["*"], "project/*:env/*:flag/*"),
        allow("administrator", "segment", &["*"], "project/*:env/*:segment/*"),
    ]
}

/// Developer, `66f3687f-939d-4257-bd3f-c3553d39e1b6`: flags, segments and tokens; sees projects and environments.
pub fn developer() -> Vec<Statement> {
    vec![
        allow("developer", "access-token", TOKEN_ACTIONS, "access-token/*"),
        allow("developer", "relay-proxy", RELAY_PROXY_ACTIONS, "relay-proxy/*"),
        allow("developer", "project", &["CanAccessProject"], "project/*"),
        allow("developer", "env", &["CanAccessEnv"], "project/*:env/*"),
        allow("developer", "flag", &["*"], "project/*:env/*:flag/*"),
        allow("developer", "segment", &["*"], "project/*:env/*:segment/*"),
    ]
}

/// An allow with an id such as `developer-flag`; the one about everything is `owner-everything`.
fn allow(policy: &str, resource_type: &str, actions: &[&str], resource: &str) -> Statement {
    let subject = if resource_type == "*" {
        "everything"
    } else {
        resource_type
    };
    Statement {
        id: Some(format!("{policy}-{subject}")),
        resource_type: resource_type.to_owned(),
        effect: Effect::Allow,
        actions: actions.iter().copied().map(Action::new).collect(),
        resources: vec![ResourcePattern::new(resource)],
    }
}
