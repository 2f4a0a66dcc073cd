//! The fields of a token as callers send them, each checked on its own: what is wrong is a list of codes in the order of
//! the fields. Statements are taken strictly here; what producers send on the topic is not. No field takes a secret: it
//! would stay in the log for ever.

use std::net::IpAddr;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use domain::access_token::{InvalidTokenName, TokenName, TokenType, Update};
use domain::policy::{Action, Effect, ResourcePattern, Statement};
use domain::secret::Secret;
use ipnet::IpNet;
use serde_json::Value;
use uuid::Uuid;

use super::body::{Fields, field, whole_number};
use super::problem::Problem;
use crate::commands::issuing::NewToken;

/// Statements of a token.
const MAX_STATEMENTS: usize = 200;
/// Actions of a statement, and resources of it.
const MAX_PARTS: usize = 100;
/// Characters of a statement's id.
const MAX_STATEMENT_ID: usize = 64;
/// Characters of a description.
const MAX_DESCRIPTION: usize = 1000;
/// Digits of a second.
const MICROSECONDS: u16 = 6;
/// Addresses of a token.
const MAX_ADDRESSES: usize = 100;
/// Seconds of a rotation's overlap: a day.
const MAX_OVERLAP: i64 = 86_400;

/// What the fields are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The time.
    pub(super) now: DateTime<Utc>,
    /// The farthest expiry, in days from now.
    pub(super) max_expiry_days: u32,
}

impl Limits {
    /// Whatever can be written down.
    pub(super) const NONE: Self = Self {
        now: DateTime::UNIX_EPOCH,
        max_expiry_days: u32::MAX,
    };
}

/// Collects what is wrong, in the order in which it is looked at.
#[derive(Default)]
pub(super) struct Wrong(Vec<&'static str>);

impl Wrong {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value, or none and its code noted.
    pub(super) fn note<T>(&mut self, checked: Result<T, &'static str>) -> Option<T> {
        checked.map_err(|code| self.0.push(code)).ok()
    }
}

impl From<Wrong> for Problem {
    fn from(wrong: Wrong) -> Self {
        Self::Invalid(wrong.0)
    }
}

/// The token that a POST asks for.
pub(super) fn new_token(fields: &Fields, limits: Limits) -> Result<NewToken, Problem> {
    let mut wrong = Wrong::default();
    let name = wrong.note(name(fields.get("name")));
    let token_type = wrong.note(token_type(fields.get("type")));
    let statements = wrong.note(statements(fields.get("permissions")).and_then(
        |statements| match token_type {
            Some(TokenType::Service) if statements.is_empty() => Err("permissions_is_invalid"),
            _ => Ok(statements),
        },
    ));
    let description = wrong.note(description(fields.get("description")));
    let expires_at = wrong.note(expires_at(fields.get("expiresat"), limits));
    let allowed_ips = wrong.note(allowed_ips(fields.get("allowedips")));
    match (name, token_type, statements, description, expires_at, allowed_ips) {
        (
            Some(name),
            Some(token_type),
            Some(statements),
            Some(description),
            Some(expires_at),
            Some(allowed_ips),
        ) => Ok(NewToken {
            name,
            token_type,
            statements,
            description,
            expires_at,
            allowed_ips,
        }),
        _ => Err(wrong.into()),
    }
}

/// The changes that a PUT asks for: an absent field stays as it is, null means none.
pub(super) fn update(fields: &Fields, limits: Limits) -> Result<Update, Problem> {
    let mut wrong = Wrong::default();
    let update = Update {
        name: wrong.note(name(fields.get("name"))),
        statements: present(fields, "permissions").and_then(|value| wrong.note(statements(Some(value)))),
        description: present(fields, "description").and_then(|value| wrong.note(description(Some(value)))),
        expires_at: present(fields, "expiresat")
            .and_then(|value| wrong.note(expires_at(Some(value), limits))),
        allowed_ips: present(fields, "allowedips").and_then(|value| wrong.note(allowed_ips(Some(value)))),
    };
    if wrong.is_empty() {
        Ok(update)
    } else {
        Err(wrong.into())
    }
}

/// How long the secret before a rotation goes on working: 0 to [`MAX_OVERLAP`] seconds, absent or null: 0.
pub(super) fn overlap(fields: &Fields) -> Result<TimeDelta, Problem> {
    let seconds = match fields.get("overlapseconds") {
        None | Some(Value::Null) => Some(0),
        Some(value) => whole_number(value).filter(|seconds| (0..=MAX_OVERLAP).contains(seconds)),
    };
    seconds
        .and_then(TimeDelta::try_seconds)
        .ok_or(Problem::Invalid(vec!["overlap_seconds_is_invalid"]))
}

fn present<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    fields
        .get(name)
        .filter(|value| name != "permissions" || !value.is_null())
}

fn name(value: Option<&Value>) -> Result<TokenName, &'static str> {
    let text = match value {
        None | Some(Value::Null) => return Err("name_is_required"),
        Some(Value::String(text)) if !Secret::is_in(text) => text,
        Some(_) => return Err("name_is_invalid"),
    };
    TokenName::parse(text).map_err(|invalid| match invalid {
        InvalidTokenName::Required => "name_is_required",
        InvalidTokenName::Invalid => "name_is_invalid",
    })
}

fn token_type(value: Option<&Value>) -> Result<TokenType, &'static str> {
    match value {
        None | Some(Value::Null) => Err("type_is_required"),
        Some(Value::String(text)) if text.is_empty() => Err("type_is_required"),
        Some(Value::String(text)) => TokenType::parse(text).ok_or("type_is_invalid"),
        Some(_) => Err("type_is_invalid"),
    }
}

fn statements(value: Option<&Value>) -> Result<Vec<Statement>, &'static str> {
    let items = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= MAX_STATEMENTS => items,
        Some(_) => return Err("permissions_is_invalid"),
    };
    items
        .iter()
        .map(|item| statement(item).ok_or("permissions_is_invalid"))
        .collect()
}

/// Of its fields only what is kept is looked at: any other is ignored, whatever it holds.
fn statement(value: &Value) -> Option<Statement> {
    let fields = value.as_object()?;
    let id = match field(fields, "id") {
        None | Some(Value::Null) => Uuid::new_v4().to_string(),
        Some(value) => text(value)
            .filter(|id| id.chars().count() <= MAX_STATEMENT_ID)?
            .to_owned(),
    };
    let effect = match field(fields, "effect")?.as_str()? {
        "allow" => Effect::Allow,
        "deny" => Effect::Deny,
        _ => return None,
    };
    Some(Statement {
        id: Some(id),
        resource_type: text(field(fields, "resourcetype")?)?.to_owned(),
        effect,
        actions: texts(field(fields, "actions")?)?
            .into_iter()
            .map(Action::new)
            .collect(),
        resources: texts(field(fields, "resources")?)?
            .into_iter()
            .map(ResourcePattern::new)
            .collect(),
    })
}

/// One to [`MAX_PARTS`] texts.
fn texts(value: &Value) -> Option<Vec<&str>> {
    let items = value
        .as_array()
        .filter(|items| (1..=MAX_PARTS).contains(&items.len()))?;
    items.iter().map(text).collect()
}

/// A text that may be kept, not empty.
fn text(value: &Value) -> Option<&str> {
    value
        .as_str()
        .filter(|text| !text.is_empty() && may_be_kept(text))
}

/// PostgreSQL can't hold a NUL, and a secret would stay for ever.
fn may_be_kept(text: &str) -> bool {
    !text.contains('\0') && !Secret::is_in(text)
}

fn description(value: Option<&Value>) -> Result<Option<String>, &'static str> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= MAX_DESCRIPTION && may_be_kept(text) => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err("description_is_invalid"),
    }
}

/// In the future, and not too far; as finely as PostgreSQL keeps it.
fn expires_at(value: Option<&Value>, limits: Limits) -> Result<Option<DateTime<Utc>>, &'static str> {
    let text = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return Err("expires_at_is_invalid"),
    };
    let farthest = TimeDelta::try_days(i64::from(limits.max_expiry_days))
        .and_then(|days| limits.now.checked_add_signed(days))
        .unwrap_or(DateTime::<Utc>::MAX_UTC);
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc().trunc_subsecs(MICROSECONDS))
        .ok()
        // A leap second is a second of no other clock.
        .filter(|time| time.timestamp_subsec_nanos() < 1_000_000_000)
        .filter(|time| *time > limits.now && *time <= farthest)
        .map(Some)
        .ok_or("expires_at_is_invalid")
}

/// Networks (`10.0.0.0/8`) and single addresses, both families; a v4 address written as v6 counts as v4.
fn allowed_ips(value: Option<&Value>) -> Result<Vec<IpNet>, &'static str> {
    let items = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= MAX_ADDRESSES => items,
        Some(_) => return Err("allowed_ips_is_invalid"),
    };
    items
        .iter()
        .map(|item| item.as_str().and_then(network).ok_or("allowed_ips_is_invalid"))
        .collect()
}

fn network(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => text.parse::<IpNet>().ok()?.trunc(),
    };
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.network().to_ipv4_mapped() {
            Some(v4) => IpNet::new(v4.into(), v6.prefix_len().saturating_sub(96)).ok(),
            None => Some(net),
        },
        IpNet::V4(_) | IpNet::V6(_) => Some(net),
    }
}
