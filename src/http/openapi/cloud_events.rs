//! Membership events, for the document. They are read in `intake::member_events`; their types are never made.
#![expect(dead_code, reason = "their fields are read by the derive only")]

use serde_json::Value;
use utoipa::ToSchema;

/// A CloudEvent 1.0 in structured mode. Any object is taken: one that can't be used is set aside. `data` of each `type`:
///
/// | `type`, after `featbit.membership.` | `data`, beside `organizationId`, `memberId` and `version` | means |
/// |---|---|---|
/// | `MemberAdded` | `name`, `email`, `statements` | joins with these; for a member: all is replaced |
/// | `PermissionGranted` | `statements` | adds them; one with a known id replaces it |
/// | `PermissionRevoked` | `permission` (an action, or `*`), `resources` (patterns; absent: everywhere) | takes that from every allow so far |
/// | `PermissionsReplaced` | `statements` | exactly these from now on |
/// | `MemberRemoved` | | leaves the organization |
/// | `OrganizationRemoved` | no `memberId` | every member and every token is removed |
///
/// `version` is an integer that rises for each member; where it is absent, the order of arrival counts. One member never
/// mixes the two.
#[derive(ToSchema)]
#[schema(example = json!({
    "specversion": "1.0", "id": "41e0", "source": "/featbit", "type": "featbit.membership.PermissionRevoked",
    "time": "2026-11-23T10:00:00Z", "data": {
        "organizationId": "0192f0c0-0000-7000-8000-000000000002", "memberId": "0192f0c0-0000-7000-8000-00000000000d",
        "version": 7, "permission": "ToggleFlag", "resources": ["project/web:env/prod:flag/*"],
    },
}))]
pub(in crate::http) struct CloudEvent {
    #[schema(required = false)]
    specversion: Value,
    /// Known together with `source` for ever.
    #[schema(required = false)]
    id: Value,
    #[schema(required = false)]
    source: Value,
    #[schema(required = false)]
    r#type: Value,
    #[schema(required = false)]
    data: Value,
}
