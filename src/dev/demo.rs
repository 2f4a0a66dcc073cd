//! The demo organization: one member of each built-in role, added by membership events like any other, once per database.
//! Its keys are kept in the database too, so that a second `dev` on it is one more node of the same installation.

use chrono::{TimeDelta, Utc};
use domain::ids::{MemberId, OrganizationId};
use domain::policy::{Statement, built_in};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use sqlx::PgPool;
use uuid::{Uuid, uuid};

use super::DevError;
use crate::commands::Commands;
use crate::commands::membership::{Poll, RawMessage};
use crate::intake::member_events::understand;

/// FeatBit's issuer.
pub(super) const ISSUER: &str = "featbit";
/// FeatBit's audience.
pub(super) const AUDIENCE: &str = "featbit-api";
/// How long the demo members' JWTs live, in days.
const JWT_DAYS: i64 = 1;
const ORGANIZATION: Uuid = uuid!("0192f0c0-0000-7000-8000-000000000001");

/// What a `dev` installation is made of.
#[derive(Clone, Debug)]
pub(super) struct Installation {
    /// Signs the demo members' JWTs.
    pub(super) jwt_key: String,
    /// For membership events over HTTP.
    pub(super) intake_key: String,
}

/// A member of the demo organization.
#[derive(Clone, Debug)]
pub(super) struct DemoMember {
    /// Who.
    pub(super) id: MemberId,
    /// As people call it.
    pub(super) name: &'static str,
    /// One of FeatBit's built-in roles.
    pub(super) role: &'static str,
    statements: Vec<Statement>,
}

/// The demo organization.
pub(super) fn organization_id() -> OrganizationId {
    ORGANIZATION.into()
}

/// One of each built-in role.
pub(super) fn members() -> [DemoMember; 3] {
    [
        DemoMember {
            id: uuid!("0192f0c0-0000-7000-8000-00000000000a").into(),
            name: "Olga Owner",
            role: "owner",
            statements: built_in::owner(),
        },
        DemoMember {
            id: uuid!("0192f0c0-0000-7000-8000-00000000000b").into(),
            name: "Adam Administrator",
            role: "administrator",
            statements: built_in::administrator(),
        },
        DemoMember {
            id: uuid!("0192f0c0-0000-7000-8000-00000000000c").into(),
            name: "Dana Developer",
            role: "developer",
            statements: built_in::developer(),
        },
    ]
}

impl Installation {
    /// The one in the database, or a new one put there.
    pub(super) async fn in_database(pool: &PgPool) -> Result<Self, DevError> {
        sqlx::raw_sql("create table if not exists dev_settings (name text primary key, value text not null)")
            .execute(pool)
            .await?;
        Ok(Self {
            jwt_key: setting(pool, "jwt_key", &random_key()?).await?,
            intake_key: setting(pool, "intake_key", &random_key()?).await?,
        })
    }

    /// A member's JWT, as FeatBit would sign it.
    pub(super) fn jwt(&self, member: &DemoMember) -> Result<String, jsonwebtoken::errors::Error> {
        let now = Utc::now();
        let expires = now.checked_add_signed(TimeDelta::days(JWT_DAYS)).unwrap_or(now);
        let claims = json!({
            "id": member.id,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now.timestamp(),
            "exp": expires.timestamp(),
        });
        encode(
            &Header::default(),
            &claims,
            &EncodingKey::from_secret(self.jwt_key.as_bytes()),
        )
    }
}

/// The setting as it is, or this one from now on.
async fn setting(pool: &PgPool, name: &str, otherwise: &str) -> Result<String, sqlx::Error> {
    sqlx::query("insert into dev_settings (name, value) values ($1, $2) on conflict do nothing")
        .bind(name)
        .bind(otherwise)
        .execute(pool)
        .await?;
    sqlx::query_scalar("select value from dev_settings where name = $1")
        .bind(name)
        .fetch_one(pool)
        .await
}

/// Remembers which embedded broker listens at an address: the mock cluster's own id is no identity.
pub(super) async fn name_broker(pool: &PgPool, bootstrap: &str, cluster_id: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into dev_settings (name, value) values ($1, $2) on conflict (name) do update set value = excluded.value",
    )
    .bind(broker_setting(bootstrap))
    .bind(cluster_id)
    .execute(pool)
    .await?;
    Ok(())
}

/// The name of another `dev`'s embedded broker; none where the broker is a real one, which knows its own.
pub(super) async fn broker_name(pool: &PgPool, bootstrap: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("select value from dev_settings where name = $1")
        .bind(broker_setting(bootstrap))
        .fetch_optional(pool)
        .await
}

fn broker_setting(bootstrap: &str) -> String {
    format!("broker at {bootstrap}")
}

fn random_key() -> Result<String, DevError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| DevError::Demo(error.to_string()))?;
    Ok(hex::encode(bytes))
}

/// Adds the members that are not there yet. Each event has an id of its own for ever, so doing it again changes nothing.
pub(super) async fn populate(commands: &Commands) -> Result<(), DevError> {
    let messages = members().iter().map(|member| understand(added(member))).collect();
    let poll = Poll {
        messages,
        offset: None,
    };
    let taken = commands
        .take_poll(&poll)
        .await
        .map_err(|error| DevError::Demo(error.to_string()))?;
    if taken.parked > 0 {
        return Err(DevError::Demo("its events could not be used".to_owned()));
    }
    Ok(())
}

fn added(member: &DemoMember) -> RawMessage {
    let event = json!({
        "specversion": "1.0",
        "id": format!("demo-{}", member.role),
        "source": "/featbit-tokens/dev",
        "type": "featbit.membership.MemberAdded",
        "data": {
            "organizationId": organization_id(),
            "memberId": member.id,
            "name": member.name,
            "email": format!("{}@demo.example", member.role),
            "statements": member.statements,
        },
    });
    let key = format!("{}:{}", organization_id(), member.id);
    RawMessage {
        key: Some(key.into_bytes()),
        payload: Some(event.to_string().into_bytes()),
        ..RawMessage::default()
    }
}
