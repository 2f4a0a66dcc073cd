//! What a topic says of some members, drawn from a seed: events with versions in any order and without in theirs, repeats,
//! and garbage. The same seed tells the same, so that whoever checks needs nothing from whoever has sent.

use crate::draw::Draw;
use serde_json::{Value, json};
use uuid::Uuid;

/// How much is said, and of whom.
#[derive(clap::Args, Clone, Debug)]
pub struct Story {
    /// Draws everything
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Members, in organizations of a hundred; every other one's events have versions
    #[arg(long, default_value_t = 5_000)]
    pub members: usize,
    /// Events, beside the first one of each member
    #[arg(long, default_value_t = 100_000)]
    pub events: u64,
    /// Repeats among them, a thousand
    #[arg(long, default_value_t = 50)]
    pub repeats: usize,
    /// Garbage among them, a hundred thousand
    #[arg(long, default_value_t = 100)]
    pub garbage: usize,
    /// Draws who the members are, where it is not the seed: those of another story
    #[arg(long)]
    pub people: Option<u64>,
    /// The version of what is said first of each member: past those of another story
    #[arg(long, default_value_t = 0)]
    pub first: u64,
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The nth thing said of a member, from 0.
    Event {
        /// Of whom.
        member: usize,
        /// Which.
        nth: u64,
    },
    /// Nothing that can be read; of a member where it is said under a key.
    Garbage {
        /// Of whom.
        member: Option<usize>,
    },
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// Joined with this.
    Added(Vec<Allow>),
    /// Was given this.
    Granted(Allow),
    /// Lost this action, on this resource or everywhere.
    Revoked(&'static str, Option<&'static str>),
    /// May do exactly this.
    Replaced(Vec<Allow>),
    /// Left.
    Removed,
}

/// Allows one action, or all, on one resource, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allow {
    /// Of the statement.
    pub(super) id: &'static str,
    /// One, or `*`.
    pub(super) action: &'static str,
    /// One, or `*`.
    pub(super) resource: &'static str,
}

/// The actions that are spoken of.
pub(super) const ACTIONS: [&str; 3] = ["ToggleFlag", "UpdateFlagName", "DeleteFlag"];
/// The resources that are spoken of.
pub(super) const RESOURCES: [&str; 3] = [
    "project/a:env/prod:flag/f",
    "project/a:env/dev:flag/f",
    "project/b:env/prod:flag/g",
];
const IDS: [&str; 4] = ["s1", "s2", "s3", "s4"];

/// What the first event of each member gives: to make tokens, and everything else.
pub(super) const EVERYTHING: Allow = Allow {
    id: "s1",
    action: "*",
    resource: "*",
};

impl Story {
    /// The first event of every member.
    #[must_use]
    pub fn beginning(&self) -> Vec<Said> {
        (0..self.members)
            .map(|member| Said::Event { member, nth: 0 })
            .collect()
    }

    /// Everything after that, in the order in which it is sent.
    #[must_use]
    pub fn rest(&self) -> Vec<Said> {
        let mut draw = Draw::new(self.seed, 0);
        let mut counts = vec![0_u64; self.members];
        let mut said: Vec<Said> = Vec::new();
        for _ in 0..self.events {
            let member = draw.below(self.members);
            if draw.below(100_000) < self.garbage {
                // Of a few members, who are blocked by it.
                let member = (draw.below(2) == 0).then_some(member.saturating_sub(member.rem_euclid(100)));
                said.push(Said::Garbage { member });
            } else if draw.below(1000) < self.repeats && !said.is_empty() {
                let again = draw.one_of(&said).copied();
                if let Some(event @ Said::Event { .. }) = again {
                    said.push(event);
                }
            } else if let Some(nth) = counts.get_mut(member) {
                *nth = nth.saturating_add(1);
                said.push(Said::Event { member, nth: *nth });
            }
        }
        shuffle_versioned(&mut said, &mut draw);
        said
    }

    /// Whether a member's events have versions: every other one's have.
    #[must_use]
    pub(super) fn has_versions(member: usize) -> bool {
        member.is_multiple_of(2)
    }

    /// Whose member.
    #[must_use]
    pub fn organization(&self, member: usize) -> Uuid {
        Self::id(self.people(), "organization", member.div_euclid(100), 0)
    }

    /// A member's id.
    #[must_use]
    pub fn member(&self, member: usize) -> Uuid {
        Self::id(self.people(), "member", member, 0)
    }

    fn people(&self) -> u64 {
        self.people.unwrap_or(self.seed)
    }

    fn id(seed: u64, what: &str, one: usize, two: u64) -> Uuid {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(format!("{what} {seed} {one} {two}"));
        let bytes = digest.first_chunk::<16>().copied().unwrap_or_default();
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// What the nth event of a member says.
    pub(super) fn fact(&self, member: usize, nth: u64) -> Fact {
        if nth == 0 {
            return Fact::Added(vec![EVERYTHING]);
        }
        let key = u64::try_from(member).unwrap_or_default().saturating_add(1);
        let mut draw = Draw::new(self.seed, (key << 32) | nth);
        let allow = |draw: &mut Draw| Allow {
            id: pick(&IDS, draw),
            action: if draw.below(4) == 0 {
                "*"
            } else {
                pick(&ACTIONS, draw)
            },
            resource: if draw.below(4) == 0 {
                "*"
            } else {
                pick(&RESOURCES, draw)
            },
        };
        match draw.below(10) {
            0 => Fact::Added(vec![allow(&mut draw), allow(&mut draw)]),
            1 | 2 => Fact::Replaced(vec![allow(&mut draw), allow(&mut draw)]),
            3 if draw.below(3) == 0 => Fact::Removed,
            3..=6 => Fact::Granted(allow(&mut draw)),
            _ => {
                let action = if draw.below(5) == 0 {
                    "*"
                } else {
                    pick(&ACTIONS, &mut draw)
                };
                let resource = (draw.below(2) == 0).then(|| pick(&RESOURCES, &mut draw));
                Fact::Revoked(action, resource)
            }
        }
    }

    /// Key and value of a message.
    #[must_use]
    pub fn message(&self, said: Said) -> (Option<String>, String) {
        let key = |member| format!("{}:{}", self.organization(member), self.member(member));
        match said {
            Said::Garbage { member } => (member.map(key), "{\"garbage\": tru".to_owned()),
            Said::Event { member, nth } => (Some(key(member)), self.event(member, nth).to_string()),
        }
    }

    fn event(&self, member: usize, nth: u64) -> Value {
        let statements = |allows: &[Allow]| -> Value {
            allows
                .iter()
                .map(|allow| {
                    json!({ "id": allow.id, "resourceType": "flag", "effect": "allow", "actions": [allow.action],
                            "resources": [allow.resource] })
                })
                .collect()
        };
        let (kind, mut data) = match self.fact(member, nth) {
            Fact::Added(allows) => (
                "MemberAdded",
                json!({ "name": format!("Member {member}"), "email": format!("{member}@bench.example"),
                        "statements": statements(&allows) }),
            ),
            Fact::Granted(allow) => ("PermissionGranted", json!({ "statements": statements(&[allow]) })),
            Fact::Revoked(action, resource) => (
                "PermissionRevoked",
                match resource {
                    Some(resource) => json!({ "permission": action, "resources": [resource] }),
                    None => json!({ "permission": action }),
                },
            ),
            Fact::Replaced(allows) => (
                "PermissionsReplaced",
                json!({ "statements": statements(&allows) }),
            ),
            Fact::Removed => ("MemberRemoved", json!({})),
        };
        if let Value::Object(data) = &mut data {
            data.insert("organizationId".to_owned(), json!(self.organization(member)));
            data.insert("memberId".to_owned(), json!(self.member(member)));
            if Self::has_versions(member) {
                data.insert("version".to_owned(), json!(self.first.saturating_add(nth)));
            }
        }
        json!({
            "specversion": "1.0", "id": Self::id(self.seed, "event", member, nth), "source": "/bench", "time": "2026-11-25T10:00:00Z",
            "type": format!("featbit.membership.{kind}"), "data": data,
        })
    }
}

/// Events that have versions change places among themselves; the others keep theirs.
fn shuffle_versioned(said: &mut [Said], draw: &mut Draw) {
    let has_versions =
        |said: &Said| matches!(said, Said::Event { member, .. } if Story::has_versions(*member));
    let places: Vec<usize> = (0_usize..)
        .zip(said.iter())
        .filter(|(_, said)| has_versions(said))
        .map(|(place, _)| place)
        .collect();
    for last in (1..places.len()).rev() {
        let with = draw.below(last.saturating_add(1));
        if let (Some(one), Some(other)) = (places.get(last), places.get(with)) {
            said.swap(*one, *other);
        }
    }
}

fn pick<const N: usize>(of: &[&'static str; N], draw: &mut Draw) -> &'static str {
    draw.one_of(of).copied().unwrap_or_default()
}
