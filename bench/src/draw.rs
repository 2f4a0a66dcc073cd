//! Draws that look random and are the same each time for one seed: an installation can be made again.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A sequence of draws.
#[derive(Clone, Debug)]
pub struct Draw {
    key: [u8; 32],
    drawn: u64,
}

impl Draw {
    /// The sequence of this seed and this number: different numbers have nothing in common.
    #[must_use]
    pub fn new(seed: u64, number: u64) -> Self {
        let key = Sha256::new()
            .chain_update(seed.to_be_bytes())
            .chain_update(number.to_be_bytes())
            .finalize();
        Self {
            key: key.into(),
            drawn: 0,
        }
    }

    /// The next 32 bytes.
    pub fn bytes(&mut self) -> [u8; 32] {
        self.drawn = self.drawn.wrapping_add(1);
        Sha256::new()
            .chain_update(self.key)
            .chain_update(self.drawn.to_be_bytes())
            .finalize()
            .into()
    }

    /// A number below this; 0 where it is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let [a, b, c, d, ..] = self.bytes();
        let drawn = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(0);
        drawn.checked_rem(end).unwrap_or(0)
    }

    /// Does something happen that happens so many times in a hundred?
    pub fn in_a_hundred(&mut self, times: usize) -> bool {
        self.below(100) < times
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }

    /// A uuid.
    pub fn uuid(&mut self) -> Uuid {
        let mut first = [0; 16];
        first.copy_from_slice(self.bytes().first_chunk::<16>().unwrap_or(&[0; 16]));
        uuid::Builder::from_random_bytes(first).into_uuid()
    }
}
