//! A token as the API shows it.

use chrono::{DateTime, Utc};
use domain::ids::{MemberId, OrganizationId, TokenId};
use domain::policy::Statement;
use projections::access_tokens::AccessTokenRow;
use serde::Serialize;

/// A token as the API shows it, fields in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenBody {
    pub(super) id: TokenId,
    pub(super) name: String,
    pub(super) description: Option<String>,
    #[serde(rename = "type")]
    pub(super) token_type: String,
    pub(super) status: String,
    /// Masked as FeatBit masks it; in the answer to POST, this once, the secret itself.
    pub(super) token: String,
    pub(super) permissions: Vec<Statement>,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) allowed_ips: Vec<String>,
    pub(super) last_used_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) inactive_reason: Option<String>,
    pub(super) creator: CreatorBody,
}

#[derive(Serialize)]
pub(super) struct CreatorBody {
    pub(super) id: MemberId,
    pub(super) name: String,
    pub(super) email: String,
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
            last_used_at: None,
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
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IssuedBody {
    #[serde(flatten)]
    pub(super) token: TokenBody,
    pub(super) organization_id: OrganizationId,
    pub(super) creator_id: MemberId,
}
