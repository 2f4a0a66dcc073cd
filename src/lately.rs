//! What was met lately, in bounded memory. To have forgotten something must cost time and nothing else.

use std::collections::HashSet;
use std::hash::Hash;

/// The last things that were added: in two generations of at most so many, so that at least so many of them are there.
#[derive(Debug)]
pub(crate) struct Lately<T> {
    most: usize,
    newer: HashSet<T>,
    older: HashSet<T>,
}

impl<T: Eq + Hash> Lately<T> {
    /// Nothing yet, and never more than so many in a generation.
    pub(crate) fn in_generations_of(most: usize) -> Self {
        Self {
            most,
            newer: HashSet::new(),
            older: HashSet::new(),
        }
    }

    /// Past the bound the older generation is forgotten.
    pub(crate) fn add(&mut self, it: T) {
        if self.newer.len() >= self.most {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(it);
    }

    pub(crate) fn has(&self, it: &T) -> bool {
        self.newer.contains(it) || self.older.contains(it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tried: without the bound, and with the newer generation forgotten too.
    #[test]
    fn the_last_generation_stays_and_the_one_before_it_goes() {
        let mut lately = Lately::in_generations_of(2);
        for nth in 1..=5 {
            lately.add(nth);
        }
        let there: Vec<i32> = (1..=6).filter(|nth| lately.has(nth)).collect();
        assert_eq!(there, [3, 4, 5]);
    }
}
