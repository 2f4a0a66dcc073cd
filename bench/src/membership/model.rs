//! What a member may do, evaluated from scratch from everything that was said of it. Written from the contract, with nothing of
//! the service: what the service comes to is held against this.

use std::collections::BTreeMap;

use super::story::{ACTIONS, Allow, Fact, RESOURCES, Said, Story};

/// Every question that is asked of a member.
pub(super) fn questions() -> impl Iterator<Item = (&'static str, &'static str)> {
    ACTIONS
        .iter()
        .flat_map(|action| RESOURCES.iter().map(move |resource| (*action, *resource)))
}

/// Everything that was said of one member, each thing once.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// By its number: the version, or the place among those without.
    facts: BTreeMap<u64, Fact>,
    /// Something that can't be read.
    pub(super) is_blocked: bool,
}

/// What was said of each member, by its number.
pub(super) fn heard(story: &Story, said: &[Said]) -> Vec<Heard> {
    let mut members = vec![Heard::default(); story.members];
    for one in said {
        match *one {
            Said::Event { member, nth } => {
                if let Some(heard) = members.get_mut(member).filter(|heard| !heard.is_blocked) {
                    heard.facts.entry(nth).or_insert_with(|| story.fact(member, nth));
                }
            }
            Said::Garbage { member: Some(member) } => {
                if let Some(heard) = members.get_mut(member) {
                    heard.is_blocked = true;
                }
            }
            Said::Garbage { member: None } => {}
        }
    }
    members
}

impl Heard {
    /// How many different things were said before it was blocked.
    pub(super) fn count(&self) -> usize {
        self.facts.len()
    }

    /// Does it belong? Only the last of what was said of its coming and going counts.
    pub(super) fn is_member(&self) -> bool {
        let mut coming_and_going = self
            .facts
            .values()
            .filter(|fact| matches!(fact, Fact::Added(_) | Fact::Removed));
        !matches!(coming_and_going.next_back(), Some(Fact::Removed))
    }

    /// May it? Something since the last full state must allow it that no later grant replaced, and that no later revocation
    /// took away.
    pub(super) fn allows(&self, action: &str, resource: &str) -> bool {
        let full = |fact: &Fact| matches!(fact, Fact::Added(_) | Fact::Replaced(_) | Fact::Removed);
        let since = self.facts.iter().rfind(|(_, fact)| full(fact)).map(|(at, _)| *at);
        let Some(since) = since else { return false };
        let said: Vec<(u64, Allow)> = self
            .facts
            .range(since..)
            .flat_map(|(at, fact)| match fact {
                Fact::Added(allows) | Fact::Replaced(allows) => {
                    allows.iter().map(|one| (*at, *one)).collect()
                }
                Fact::Granted(allow) => vec![(*at, *allow)],
                Fact::Revoked(..) | Fact::Removed => Vec::new(),
            })
            .collect();
        let stands = |(at, allow): &(u64, Allow)| {
            !said
                .iter()
                .any(|(later, other)| later > at && other.id == allow.id)
                && !self
                    .facts
                    .range(at.saturating_add(1)..)
                    .any(|(_, fact)| match fact {
                        Fact::Revoked(what, whereabouts) => {
                            (*what == "*" || *what == action)
                                && whereabouts.is_none_or(|place| place == resource)
                        }
                        _ => false,
                    })
        };
        let matches = |allow: &Allow| {
            (allow.action == "*" || allow.action == action)
                && (allow.resource == "*" || allow.resource == resource)
        };
        self.is_member() && said.iter().any(|one| matches(&one.1) && stands(one))
    }
}
