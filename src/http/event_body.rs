//! An event of the log as answers show it: histories and the audit log say the same of it.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use projections::log::{Fact, RecordedEvent};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::words::{Story, told};

/// What is said of an event, after where it stands.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(super) struct EventBody {
    /// `access_token.created`, `access_token.deactivated`, `member.permission_revoked`, …
    event: String,
    /// `member:<uuid>`, `intake`, `reactor` or `operator`.
    #[schema(value_type = String)]
    actor: Value,
    time: DateTime<Utc>,
    /// What the event says, by its kind.
    #[schema(value_type = Object)]
    data: Value,
    /// The same in words a person reads, as `deactivated: its creator left the organization (event 48,213)`. They may change:
    /// programs go by `event` and `data`.
    text: String,
}

impl EventBody {
    /// The event as a part of a story.
    pub(super) fn new(event: &RecordedEvent, story: Story) -> Self {
        let (name, data) = match &event.fact {
            Fact::AccessToken(fact) => (fact.event_type(), serde_json::to_value(fact)),
            Fact::Member(fact) => (fact.event_type(), serde_json::to_value(fact)),
            Fact::Organization(fact) => (fact.event_type(), serde_json::to_value(fact)),
        };
        let mut data = data.unwrap_or_default();
        if let Value::Object(fields) = &mut data {
            // Said already.
            fields.remove("event");
        }
        remove_digests(&mut data);
        Self {
            event: name,
            actor: event.metadata.get("actor").cloned().unwrap_or_default(),
            time: event.recorded_at,
            data,
            text: told(&event.fact, story),
        }
    }
}

/// A digest is in no answer, however an event calls it and however deep it stands.
fn remove_digests(data: &mut Value) {
    match data {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.to_ascii_lowercase().contains("digest"));
            fields.values_mut().for_each(remove_digests);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_digests),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Tried: only the field `digest`; only fields at the top; without regard to upper case.
    #[test]
    fn no_digest_is_shown_whatever_it_is_called() {
        let mut data = json!({
            "digest": "aa", "previousDigest": ["bb"], "name": "digest",
            "secrets": [{ "digest": "cc", "until": 1 }],
        });
        remove_digests(&mut data);
        assert_eq!(data, json!({ "name": "digest", "secrets": [{ "until": 1 }] }));
    }
}
