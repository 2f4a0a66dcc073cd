//! From a message of the membership topic to what it says, pure. A CloudEvent 1.0, structured or binary; unknown attributes
//! and fields are ignored, everything needed is looked at strictly. The member is taken from the key first, so that a body
//! nobody can read still blocks the right one.

use domain::ids::{MemberId, OrganizationId};
use domain::member::MembershipFact;
use domain::policy::{Action, ResourcePattern, Revocation, Statement};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::commands::membership::{About, MembershipEvent, Message, RawMessage, Unusable};
use crate::log::{InboxKey, Profile, has_nul};

/// What the content type of structured mode begins with.
const CLOUD_EVENTS: &str = "application/cloudevents";
/// What every type of ours begins with.
const TYPE_PREFIX: &str = "featbit.membership.";
/// Bytes of a CloudEvents id or source: they are kept for ever, and an index entry must hold both.
const MAX_IDENTITY: usize = 1024;

/// The fields of the data that are looked at.
const FIELDS: [&str; 8] = [
    "organizationId",
    "memberId",
    "version",
    "name",
    "email",
    "statements",
    "permission",
    "resources",
];

type MemberKey = (OrganizationId, MemberId);

/// What a message says, or why it can't be used and whom it may be about.
#[must_use]
pub fn understand(raw: RawMessage) -> Message {
    let keyed = raw.key.as_deref().map_or(Key::Absent, Key::parse);
    let meaning = match CloudEvent::of(&raw) {
        Err(reason) => Err(Unusable {
            key: None,
            reason,
            event_type: None,
            members: keyed.member().into_iter().collect(),
        }),
        Ok(event) => event.meaning(&keyed).map_err(|reason| {
            let mut members: Vec<MemberKey> = keyed.member().into_iter().chain(event.member()).collect();
            members.dedup();
            Unusable {
                key: None,
                reason,
                // PostgreSQL can't hold a NUL.
                event_type: event.event_type.map(|it| it.replace('\0', "\u{fffd}")),
                members,
            }
        }),
    };
    Message { raw, meaning }
}

/// A message's key: `<organizationId>:<memberId>`, or `<organizationId>:` where it is about the whole organization.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Absent,
    Unreadable,
    Organization(OrganizationId),
    Member(OrganizationId, MemberId),
}

impl Key {
    fn parse(bytes: &[u8]) -> Self {
        let parts = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.split_once(':'));
        match parts.map(|(organization, member)| (organization.parse(), member, member.parse())) {
            Some((Ok(organization_id), "", _)) => Self::Organization(organization_id),
            Some((Ok(organization_id), _, Ok(member_id))) => Self::Member(organization_id, member_id),
            _ => Self::Unreadable,
        }
    }

    fn member(self) -> Option<MemberKey> {
        match self {
            Self::Member(organization_id, member_id) => Some((organization_id, member_id)),
            Self::Absent | Self::Unreadable | Self::Organization(_) => None,
        }
    }
}

/// An event as far as it can be read: whom it is about is asked for even where it can't be used.
struct CloudEvent {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    event_type: Option<String>,
    data: Map<String, Value>,
}

impl CloudEvent {
    fn of(raw: &RawMessage) -> Result<Self, &'static str> {
        let payload = raw.payload.as_deref().ok_or("payload_is_missing")?;
        let body: Value = serde_json::from_slice(payload).map_err(|_| "payload_is_not_json")?;
        let Value::Object(mut body) = body else {
            return Err("payload_is_not_an_object");
        };
        let header = |name: &str| {
            raw.headers
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.clone())
        };
        let is_structured =
            header("content-type").is_some_and(|it| it.to_ascii_lowercase().starts_with(CLOUD_EVENTS));
        // Binary mode: the attributes are headers and the value is the data.
        if !is_structured && (header("ce_specversion").is_some() || header("ce_type").is_some()) {
            return Ok(Self {
                specversion: header("ce_specversion"),
                id: header("ce_id"),
                source: header("ce_source"),
                event_type: header("ce_type"),
                data: body,
            });
        }
        let attribute = |name: &str| body.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        Ok(Self {
            specversion: attribute("specversion"),
            id: attribute("id"),
            source: attribute("source"),
            event_type: attribute("type"),
            data: match body.remove("data") {
                Some(Value::Object(data)) => data,
                _ => Map::new(),
            },
        })
    }

    fn meaning(&self, key: &Key) -> Result<MembershipEvent, &'static str> {
        // In what is used; what else a message holds is ignored, whatever it is.
        let mut attributes = [&self.id, &self.source, &self.event_type].into_iter().flatten();
        if attributes.any(|text| text.contains('\0'))
            || FIELDS.iter().filter_map(|name| self.data.get(*name)).any(has_nul)
        {
            return Err("payload_has_a_nul_character");
        }
        if !self
            .specversion
            .as_ref()
            .is_some_and(|version| version.starts_with("1."))
        {
            return Err("specversion_is_not_supported");
        }
        let identity = identity(self.source.as_ref()).zip(identity(self.id.as_ref()));
        let (source, id) = identity.ok_or("identity_is_invalid")?;
        let event_type = self.event_type.clone().unwrap_or_default();
        let kind = event_type.strip_prefix(TYPE_PREFIX).ok_or("type_is_unknown")?;
        let organization_id = self
            .id_field("organizationId")
            .ok_or("organization_id_is_invalid")?;
        let about = if kind == "OrganizationRemoved" {
            self.about_organization(key, organization_id)?
        } else {
            self.about_member(key, organization_id, kind)?
        };
        Ok(MembershipEvent {
            key: InboxKey { source, key: id },
            event_type,
            organization_id,
            about,
        })
    }

    fn about_organization(&self, key: &Key, organization_id: OrganizationId) -> Result<About, &'static str> {
        match key {
            Key::Organization(keyed) if *keyed == organization_id => Ok(About::Organization),
            Key::Absent => Ok(About::Organization),
            Key::Organization(_) | Key::Member(..) | Key::Unreadable => Err("key_does_not_match"),
        }
    }

    fn about_member(
        &self,
        key: &Key,
        organization_id: OrganizationId,
        kind: &str,
    ) -> Result<About, &'static str> {
        let member_id: MemberId = self.id_field("memberId").ok_or("member_id_is_invalid")?;
        match key {
            Key::Member(organization, member) if (*organization, *member) == (organization_id, member_id) => {
            }
            Key::Absent => {}
            Key::Member(..) | Key::Organization(_) | Key::Unreadable => return Err("key_does_not_match"),
        }
        let fact = match kind {
            "MemberAdded" => MembershipFact::Added {
                statements: self.statements()?,
            },
            "PermissionGranted" => MembershipFact::Granted {
                statements: self.statements()?,
            },
            "PermissionRevoked" => MembershipFact::Revoked(self.revocation()?),
            "PermissionsReplaced" => MembershipFact::Replaced {
                statements: self.statements()?,
            },
            "MemberRemoved" => MembershipFact::Removed,
            _ => return Err("type_is_unknown"),
        };
        let profile = match &fact {
            MembershipFact::Added { .. } => Some(Profile {
                organization_id,
                member_id,
                name: self.text_field("name").ok_or("name_is_invalid")?,
                email: self.text_field("email").ok_or("email_is_invalid")?,
            }),
            _ => None,
        };
        Ok(About::Member {
            member_id,
            version: self.version()?,
            fact,
            profile,
        })
    }

    fn member(&self) -> Option<MemberKey> {
        Some((self.id_field("organizationId")?, self.id_field("memberId")?))
    }

    fn id_field<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.data.get(name)?.as_str()?.parse().ok()
    }

    fn text_field(&self, name: &str) -> Option<String> {
        self.data.get(name)?.as_str().map(ToOwned::to_owned)
    }

    fn version(&self) -> Result<Option<i64>, &'static str> {
        match self.data.get("version") {
            None | Some(Value::Null) => Ok(None),
            Some(version) => version.as_i64().map(Some).ok_or("version_is_invalid"),
        }
    }

    fn statements(&self) -> Result<Vec<Statement>, &'static str> {
        let statements = self.data.get("statements").ok_or("statements_is_invalid")?;
        Vec::deserialize(statements).map_err(|_| "statements_is_invalid")
    }

    /// An absent list of resources means everywhere; an empty one could mean that or nothing, and is not guessed at.
    fn revocation(&self) -> Result<Revocation, &'static str> {
        let permission = self
            .text_field("permission")
            .filter(|text| !text.is_empty())
            .ok_or("permission_is_invalid")?;
        let resources = match self.data.get("resources") {
            None | Some(Value::Null) => None,
            Some(resources) => {
                let patterns: Vec<ResourcePattern> =
                    Vec::deserialize(resources).map_err(|_| "resources_is_invalid")?;
                Some(patterns)
                    .filter(|patterns| !patterns.is_empty())
                    .ok_or("resources_is_invalid")
                    .map(Some)?
            }
        };
        Ok(Revocation {
            permission: Action::new(permission),
            resources,
        })
    }
}

/// A replacement character may stand for anything (a header that was not UTF-8): two events could look like one.
fn identity(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty() && text.len() <= MAX_IDENTITY && !text.contains('\u{fffd}'))
        .cloned()
}

#[cfg(test)]
mod tests;
