//! Which keys of the inbox this node has used lately. A key that is not among them is believed to be new, so that nobody has
//! to ask for it: the append, which writes it down, finds out if it is not.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::InboxKey;

/// Keys of one generation, some 12 bytes each; two are kept.
const MAX_KEYS: usize = 200_000;

/// Keys that were used. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownKeys(Arc<Mutex<Generations>>);

#[derive(Debug, Default)]
struct Generations {
    /// Keys by their hashes: of two that have the same, one is asked for in vain.
    hashes: RandomState,
    newer: HashSet<u64>,
    older: HashSet<u64>,
}

impl KnownKeys {
    /// Which of these may have been used.
    pub(super) fn may_be_used<'a>(&self, keys: &[&'a InboxKey]) -> Vec<&'a InboxKey> {
        let generations = self.generations();
        let may_be = |key: &&&InboxKey| {
            let hash = generations.hashes.hash_one(key);
            generations.newer.contains(&hash) || generations.older.contains(&hash)
        };
        keys.iter().filter(may_be).copied().collect()
    }

    /// They are used from now on. Past the bound the oldest are forgotten.
    pub(super) fn use_all(&self, keys: &[&InboxKey]) {
        let mut generations = self.generations();
        for key in keys {
            let hash = generations.hashes.hash_one(key);
            generations.newer.insert(hash);
        }
        if generations.newer.len() > MAX_KEYS {
            generations.older = std::mem::take(&mut generations.newer);
        }
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
