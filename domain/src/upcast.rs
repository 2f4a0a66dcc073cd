//! Events as older versions have stored them, made into today's. A change of shape is a step in `UPCASTERS` of the aggregate
//! and a fixture of what was stored before; `event_version` says in which shape an event stands. A shape that is not known is
//! of a newer version: whoever meets it stops.

use std::borrow::Cow;

use serde_json::Value;
use thiserror::Error;

use crate::access_token::AccessTokenEvent;
use crate::member::MemberEvent;
use crate::organization::OrganizationEvent;
use crate::{access_token, member};

/// The version of the first shape of every event.
pub const FIRST: &str = "1.0.0";

/// One change of shape of one event.
#[derive(Clone, Copy, Debug)]
pub struct Upcaster {
    /// Of which event.
    pub event_type: &'static str,
    /// The version that was stored.
    pub from: &'static str,
    /// The version that this makes of it.
    pub to: &'static str,
    /// Makes it.
    pub change: fn(&mut Value),
}

/// An event stands in a shape that nobody here knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("version {0} of it is not known")]
pub struct UnknownShape(pub String);

fn all() -> impl Iterator<Item = &'static Upcaster> + Clone {
    access_token::UPCASTERS.iter().chain(member::UPCASTERS)
}

/// The version in which an event is written today.
#[must_use]
pub fn current_version(event_type: &str) -> &'static str {
    version_after(all(), event_type)
}

/// Whether an event of this type and version can be read.
#[must_use]
pub fn is_known(event_type: &str, event_version: &str) -> bool {
    let types = [
        AccessTokenEvent::TYPES.as_slice(),
        MemberEvent::TYPES.as_slice(),
        OrganizationEvent::TYPES.as_slice(),
    ];
    let mut older = all().filter(|step| step.event_type == event_type);
    types.iter().any(|types| types.contains(&event_type))
        && (event_version == current_version(event_type) || older.any(|step| step.from == event_version))
}

/// An event's payload in today's shape; borrowed where it was in it already.
///
/// # Errors
/// [`UnknownShape`]
pub fn upcast<'a>(
    event_type: &str,
    event_version: &str,
    payload: &'a Value,
) -> Result<Cow<'a, Value>, UnknownShape> {
    upcast_by(all(), event_type, event_version, payload)
}

fn version_after<'u>(steps: impl Iterator<Item = &'u Upcaster>, event_type: &str) -> &'static str {
    let own = steps.filter(|step| step.event_type == event_type);
    own.last().map_or(FIRST, |step| step.to)
}

fn upcast_by<'a, 'u>(
    steps: impl Iterator<Item = &'u Upcaster> + Clone,
    event_type: &str,
    event_version: &str,
    payload: &'a Value,
) -> Result<Cow<'a, Value>, UnknownShape> {
    let mut payload = Cow::Borrowed(payload);
    let mut version = event_version;
    for step in steps.clone().filter(|step| step.event_type == event_type) {
        if step.from == version {
            (step.change)(payload.to_mut());
            version = step.to;
        }
    }
    if version == version_after(steps, event_type) {
        Ok(payload)
    } else {
        Err(UnknownShape(event_version.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const STEPS: [Upcaster; 3] = [
        Upcaster {
            event_type: "thing.painted",
            from: "1.0.0",
            to: "1.1.0",
            change: |payload| payload["colors"] = json!([payload["color"].take()]),
        },
        Upcaster {
            event_type: "thing.moved",
            from: "1.0.0",
            to: "2.0.0",
            change: |payload| payload["to"] = json!("nowhere"),
        },
        Upcaster {
            event_type: "thing.painted",
            from: "1.1.0",
            to: "2.0.0",
            change: |payload| {
                if let Some(fields) = payload.as_object_mut() {
                    fields.remove("color");
                }
            },
        },
    ];

    fn read(event_type: &str, version: &str, payload: &Value) -> Result<Value, UnknownShape> {
        upcast_by(STEPS.iter(), event_type, version, payload).map(Cow::into_owned)
    }

    /// Tried: each step taken alone; steps of other events taken too.
    #[test]
    fn an_older_shape_goes_through_every_step_after_it() {
        let today = json!({ "colors": ["red"] });
        let first = json!({ "color": "red" });
        let second = json!({ "color": null, "colors": ["red"] });
        assert_eq!(read("thing.painted", "1.0.0", &first).as_ref(), Ok(&today));
        assert_eq!(read("thing.painted", "1.1.0", &second).as_ref(), Ok(&today));
        assert_eq!(read("thing.painted", "2.0.0", &today).as_ref(), Ok(&today));
        assert_eq!(version_after(STEPS.iter(), "thing.painted"), "2.0.0");
    }

    #[test]
    fn what_never_changed_is_as_it_was_written() {
        let payload = json!({ "size": 3 });
        let read = upcast_by(STEPS.iter(), "thing.grown", FIRST, &payload).unwrap();
        assert!(matches!(read, Cow::Borrowed(_)));
        assert_eq!(current_version("thing.grown"), FIRST);
    }

    /// Tried: without comparing with the last version.
    #[test]
    fn a_shape_that_is_not_known_is_refused() {
        for (event_type, version) in [
            ("thing.painted", "3.0.0"),
            ("thing.grown", "1.0.1"),
            ("thing.moved", ""),
        ] {
            assert_eq!(
                read(event_type, version, &json!({})),
                Err(UnknownShape(version.to_owned()))
            );
        }
    }
}
