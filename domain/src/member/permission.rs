//! A member's statements and revocations, each at its place, and what they come to. The places alone decide: events
//! that arrive late take the place they would have had in time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::policy::{Entry, Revocation, Statement};

/// What changed a member's permission between two full states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Change {
    /// These statements were added.
    Granted(Vec<Statement>),
    /// This was taken from every allow granted before.
    Revoked(Revocation),
}

/// The last full state heard of, and every change placed after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct PermissionHistory {
    base: Option<Base>,
    changes: BTreeMap<i64, Change>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Base {
    place: i64,
    statements: Vec<Statement>,
}

impl PermissionHistory {
    /// Would a full state at this place change anything?
    pub(super) fn takes_full_state(&self, place: i64) -> bool {
        self.base.as_ref().is_none_or(|base| place > base.place)
    }

    /// Would a change at this place change anything? Not at or below the last full state, and not a second time.
    pub(super) fn takes_change(&self, place: i64) -> bool {
        self.takes_full_state(place) && !self.changes.contains_key(&place)
    }

    /// The highest place heard of.
    pub(super) fn last_place(&self) -> Option<i64> {
        let base = self.base.as_ref().map(|base| base.place);
        base.max(self.changes.keys().next_back().copied())
    }

    /// Exactly these statements from this place on; later changes stand.
    pub(super) fn set(&mut self, place: i64, statements: Vec<Statement>) {
        if self.base.as_ref().is_none_or(|base| place >= base.place) {
            self.changes.retain(|at, _| *at > place);
            self.base = Some(Base { place, statements });
        }
    }

    /// One change, at its place.
    pub(super) fn change(&mut self, place: i64, change: Change) {
        if self.takes_change(place) {
            self.changes.insert(place, change);
        }
    }

    /// How many entries there would be if none replaced another.
    pub(super) fn most_entries(&self) -> usize {
        let base = self.base.as_ref().map_or(0, |base| base.statements.len());
        let changes = self.changes.values().map(|change| match change {
            Change::Granted(statements) => statements.len(),
            Change::Revoked(_) => 1,
        });
        changes.fold(base, usize::saturating_add)
    }

    /// What is in force, each entry with the place it comes from: nothing while no full state has been heard of (a grant
    /// alone makes nobody a member with permission), else the statements and revocations in their order. A later
    /// statement replaces all earlier ones of its id; within one event equal ids are all kept.
    pub(super) fn in_force(&self) -> Vec<(i64, Entry)> {
        let Some(base) = &self.base else {
            return Vec::new();
        };
        let at = |place: i64| move |statement: &Statement| (place, Entry::Statement(statement.clone()));
        let mut entries: Vec<_> = base.statements.iter().map(at(base.place)).collect();
        for (place, change) in &self.changes {
            match change {
                Change::Granted(statements) => {
                    entries.retain(|(_, entry)| !is_replaced(entry, statements));
                    entries.extend(statements.iter().map(at(*place)));
                }
                Change::Revoked(revocation) => entries.push((*place, Entry::Revocation(revocation.clone()))),
            }
        }
        entries
    }
}

fn is_replaced(entry: &Entry, by: &[Statement]) -> bool {
    match entry {
        Entry::Statement(Statement { id: Some(id), .. }) => {
            by.iter().any(|statement| statement.id.as_ref() == Some(id))
        }
        Entry::Statement(_) | Entry::Revocation(_) => false,
    }
}
