//! Which keys of the inbox this node has used lately. A key that is not among them is believed to be new, so that nobody has
//! to ask for it: the append, which writes it down, finds out if it is not.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lately::Lately;
use crate::log::InboxKey;

/// Keys of one generation, some 12 bytes each; two are kept.
const MAX_KEYS: usize = 200_000;

/// Keys that were used. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownKeys(Arc<Mutex<Used>>);

#[derive(Debug)]
struct Used {
    /// Of two keys that have the same hash, one is asked for in vain.
    hashes: RandomState,
    keys: Lately<u64>,
}

impl Default for Used {
    fn default() -> Self {
        Self {
            hashes: RandomState::new(),
            keys: Lately::in_generations_of(MAX_KEYS),
        }
    }
}

impl KnownKeys {
    /// Which of these may have been used.
    pub(super) fn may_be_used<'a>(&self, keys: &[&'a InboxKey]) -> Vec<&'a InboxKey> {
        let used = self.used();
        let may_be = |key: &&&InboxKey| used.keys.has(&used.hashes.hash_one(key));
        keys.iter().filter(may_be).copied().collect()
    }

    /// They are used from now on. Past the bound the oldest are forgotten.
    pub(super) fn use_all(&self, keys: &[&InboxKey]) {
        let mut used = self.used();
        for key in keys {
            let hash = used.hashes.hash_one(key);
            used.keys.add(hash);
        }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
