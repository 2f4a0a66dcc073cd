//! What the last polls made of their members, so that the next one need not read and fold their streams again. Never believed:
//! a unit that rests on it guards the stream at the sequence it is of, and where that has moved on the stream is read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::member::Member;

use crate::log::UnitOfWork;

/// Members that are kept, some 2 KB each.
const MAX_MEMBERS: usize = 20_000;

/// By their streams, each with the sequence that it is of.
type Members = HashMap<Arc<str>, (i64, Member)>;

/// Members as some sequence of their streams has them. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownMembers(Arc<Mutex<Members>>);

impl KnownMembers {
    /// Lets the unit rest on those that are known, and forgets them: they are lent. The others' streams.
    pub(super) fn lend(&self, unit: &UnitOfWork, stream_ids: Vec<String>) -> Vec<String> {
        let mut members = self.members();
        let mut unknown = Vec::new();
        for stream_id in stream_ids {
            match members.remove(stream_id.as_str()) {
                Some((sequence, member)) => unit.rest_on_known(&stream_id, sequence, member),
                None => unknown.push(stream_id),
            }
        }
        unknown
    }

    /// Keeps what a unit that stands in the log has made of them; past the bound, half of the others go.
    pub(super) fn keep(&self, unit: UnitOfWork) {
        let known = unit.into_known::<Member>();
        let mut members = self.members();
        if members.len().saturating_add(known.len()) > MAX_MEMBERS {
            let mut stays = false;
            members.retain(|_, _| {
                stays = !stays;
                stays
            });
        }
        for (stream_id, sequence, member) in known {
            // A poll beside this one may know it better.
            let newer = members
                .get(&stream_id)
                .is_some_and(|(other, _)| *other > sequence);
            if !newer {
                members.insert(stream_id, (sequence, member));
            }
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
