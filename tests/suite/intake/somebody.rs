//! A member whom only the topic speaks of.

use domain::ids::{MemberId, OrganizationId};
use domain::policy::built_in;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{Actor, TestApp, cloud_event};

pub(super) const ACTION: &str = "ToggleFlag";
pub(super) const FLAG: &str = "project/p:env/prod:flag/f";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Somebody {
    pub(super) organization_id: OrganizationId,
    pub(super) member_id: MemberId,
}

impl Somebody {
    pub(super) fn new() -> Self {
        Self::of(Uuid::new_v4().into())
    }

    pub(super) fn of(organization_id: OrganizationId) -> Self {
        Self {
            organization_id,
            member_id: Uuid::new_v4().into(),
        }
    }

    pub(super) fn key(&self) -> Vec<u8> {
        format!("{}:{}", self.organization_id, self.member_id).into_bytes()
    }

    /// With a version, from 1.
    pub(super) fn event(&self, kind: &str, version: i64, data: Value) -> Value {
        let mut event = cloud_event(kind, self.organization_id, self.member_id, data);
        if version > 0 {
            event["data"]["version"] = version.into();
        }
        event
    }

    /// An owner from now on.
    pub(super) fn added(&self, version: i64) -> Value {
        self.added_with(version, serde_json::to_value(built_in::owner()).unwrap())
    }

    pub(super) fn added_with(&self, version: i64, statements: Value) -> Value {
        let data =
            json!({ "name": "Some Body", "email": "somebody@tests.example", "statements": statements });
        self.event("MemberAdded", version, data)
    }

    pub(super) fn granted(&self, version: i64, id: &str) -> Value {
        self.event("PermissionGranted", version, json!({ "statements": [allow(id)] }))
    }

    pub(super) fn revoked(&self, version: i64) -> Value {
        self.event("PermissionRevoked", version, json!({ "permission": ACTION }))
    }

    pub(super) fn removed(&self, version: i64) -> Value {
        self.event("MemberRemoved", version, json!({}))
    }

    pub(super) fn actor(&self, app: &TestApp) -> Actor {
        app.member(self.organization_id, self.member_id)
    }

    /// Why this member may or may not toggle the flag.
    pub(super) async fn reason(&self, app: &TestApp) -> String {
        let question = json!({
            "subject": {
                "type": "member", "id": self.member_id, "properties": { "organizationId": self.organization_id },
            },
            "action": { "name": ACTION },
            "resource": { "type": "flag", "id": FLAG },
        });
        reason(&app.evaluate(question).await.body)
    }

    /// What stands of this member in the log: type, and version or place.
    pub(super) async fn log(&self, pool: &PgPool) -> Vec<(String, Option<i64>)> {
        sqlx::query_as(
            "select event_type, coalesce((payload->>'version')::bigint, (payload->>'arrival')::bigint) from events
             where aggregate_type = 'member' and aggregate_id = $1 order by sequence",
        )
        .bind(format!("{}:{}", self.organization_id, self.member_id))
        .fetch_all(pool)
        .await
        .unwrap()
    }

    /// The same, without what is not the topic's.
    pub(super) async fn heard(&self, pool: &PgPool) -> Vec<i64> {
        let log = self.log(pool).await;
        log.into_iter().filter_map(|(_, version)| version).collect()
    }
}

/// A statement that allows what is asked here.
pub(super) fn allow(id: &str) -> Value {
    json!({ "id": id, "resourceType": "flag", "effect": "allow", "actions": [ACTION], "resources": ["project/*:env/*:flag/*"] })
}

/// Why a token may or may not toggle the flag.
pub(super) async fn token_reason(app: &TestApp, secret: &str) -> String {
    reason(&app.ask(secret, ACTION, FLAG).await)
}

fn reason(answer: &Value) -> String {
    let reason = answer["context"]["reason"].as_str().unwrap_or_default();
    assert_eq!(answer["decision"] == true, reason == "allowed", "{answer}");
    reason.to_owned()
}
