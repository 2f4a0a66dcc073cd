//! A token as the API shows it.

use std::fmt;

use chrono::{DateTime, Utc};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::policy::Statement;
use projections::access_tokens::AccessTokenRow;
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::schemas;

/// A token as the API shows it, fields in this order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Token, example = json!({
    "id": "01a20a66-b25b-75f3-969f-48e03eda0664", "name": "ci", "description": "deploys", "type": "Service",
    "status": "Active", "token": "api-s_7Zfk*******************", "permissions": [{
        "id": "546ece40-c381-4f94-89f2-4f30a71aea4d", "resourceType": "flag", "effect": "allow",
        "actions": ["ToggleFlag"], "resources": ["project/web:env/prod:flag/*"],
    }],
    "expiresAt": null, "allowedIps": ["10.0.0.0/8"], "lastUsedAt": null, "createdAt": "2026-11-23T21:54:45.605840Z",
    "updatedAt": "2026-11-23T21:54:45.605840Z", "inactiveReason": null,
    "creator": { "id": "0192f0c0-5c6c-7277-bcf7-fda94c538785", "name": "Dana", "email": "dana@example.org" },
}))]
pub(super) struct TokenBody {
    #[schema(value_type = Uuid)]
    pub(super) id: TokenId,
    pub(super) name: String,
    #[schema(required)]
    pub(super) description: Option<String>,
    #[serde(rename = "type")]
    #[schema(schema_with = schemas::token_type)]
    pub(super) token_type: String,
    #[schema(schema_with = schemas::status)]
    pub(super) status: String,
    /// Masked as FeatBit masks it; in the answer to POST, this once, the secret itself.
    pub(super) token: String,
    #[schema(value_type = Vec<schemas::Statement>)]
    pub(super) permissions: Vec<Statement>,
    #[schema(required)]
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) allowed_ips: Vec<String>,
    /// When an evaluation or forward auth last allowed it something; written down by each node once a minute.
    #[schema(required)]
    pub(super) last_used_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    #[schema(schema_with = schemas::inactive_reason, required)]
    pub(super) inactive_reason: Option<String>,
    pub(super) creator: CreatorBody,
}

/// The member who made it; name and address are empty where they were erased.
#[derive(Serialize, ToSchema)]
#[schema(as = Creator)]
pub(super) struct CreatorBody {
    #[schema(value_type = Uuid)]
    pub(super) id: MemberId,
    pub(super) name: String,
    pub(super) email: String,
}

/// It may hold a secret.
impl fmt::Debug for TokenBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenBody({})", self.id)
    }
}

impl From<AccessTokenRow> for TokenBody {
    fn from(row: AccessTokenRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            description: row.description,
            token_type: row.token_type,
            status: row.status,
            token: row.hint,
            permissions: row.statements,
            expires_at: row.expires_at,
            allowed_ips: row.allowed_ips,
            last_used_at: row.last_used_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
            inactive_reason: row.inactive_reason,
            creator: CreatorBody {
                id: row.creator_id,
                name: row.creator_name,
                email: row.creator_email,
            },
        }
    }
}

/// A token with its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = IssuedToken)]
pub(super) struct IssuedBody {
    #[serde(flatten)]
    pub(super) token: TokenBody,
    #[schema(value_type = Uuid)]
    pub(super) organization_id: OrganizationId,
    #[schema(value_type = Uuid)]
    pub(super) creator_id: MemberId,
}
