//! Cuts events that come organization after organization into chunks that can be folded by themselves, and side by side.

use uuid::Uuid;

use crate::copy::{Copied, CopiedRow, StoredRow};
use crate::log::{Place, WIDTH};

/// How many events are taken at once.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events, at least, whose rows are written in one transaction.
    pub together: usize,
    /// Events of one organization, at most, that are folded without the tables.
    pub of_one: usize,
    /// Events that are taken at once of an organization that has more.
    pub rest: usize,
    /// Bytes of payload, at least, with which any of these is enough; in a chunk there are at most twice as many, but for its
    /// last event.
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            together: 20_000,
            of_one: 100_000,
            rest: 10_000,
            bytes: 32 * 1024 * 1024,
        }
    }
}

/// Events that are taken at once, as the database has sent them.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) pieces: Vec<Copied>,
    pub(super) events: usize,
    /// Of payload.
    bytes: usize,
    /// Of a single organization, of which there are rows already.
    pub(super) is_rest: bool,
    /// All organizations up to this one are complete with it; none: the last one goes on.
    pub(super) complete: Option<Uuid>,
}

/// Cuts what it is given, piece by piece.
#[derive(Debug)]
pub(super) struct Cutter {
    bounds: Bounds,
    /// What was not cut off yet.
    chunk: Chunk,
    /// The last event.
    place: Place,
    /// How many there were of its organization, in all chunks, and of how many bytes in this one.
    of_one: usize,
    bytes_of_one: usize,
}

impl Cutter {
    /// After a place.
    pub(super) fn new(bounds: Bounds, place: Place) -> Self {
        Self {
            bounds,
            chunk: Chunk::default(),
            place,
            of_one: 0,
            bytes_of_one: 0,
        }
    }

    /// The last event that it was given.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Takes the next piece; answers the chunks that end in it.
    pub(super) fn cut(&mut self, mut piece: Copied) -> Result<Vec<Chunk>, sqlx::Error> {
        let mut cut_off = Vec::new();
        while piece.len() > 0 {
            let taken = piece.take_while(|row: &CopiedRow<'_, WIDTH>| {
                let payload: &[u8] = row.get(8)?;
                Ok(self.takes((row.get(2)?, row.get(0)?), payload.len()))
            })?;
            self.chunk.pieces.push(taken);
            if piece.len() > 0 {
                cut_off.push(self.cut_off());
            }
        }
        Ok(cut_off)
    }

    /// What is left at the end.
    pub(super) fn finish(mut self) -> Chunk {
        self.chunk.complete = Some(self.place.0);
        self.chunk
    }

    /// Whether the chunk takes another event, of so many bytes; else it ends before it.
    fn takes(&mut self, place: Place, bytes: usize) -> bool {
        let begins = self.place.0 != place.0;
        let is_enough = if begins {
            self.chunk.is_rest
                || self.chunk.events >= self.bounds.together
                || self.chunk.bytes >= self.bounds.bytes
        } else {
            let enough_of_one = match self.chunk.is_rest {
                true => self.chunk.events >= self.bounds.rest,
                false => self.of_one >= self.bounds.of_one,
            };
            enough_of_one || self.bytes_of_one >= self.bounds.bytes
        };
        if is_enough && self.chunk.events > 0 {
            self.chunk.complete = begins.then_some(self.place.0);
            return false;
        }
        if begins {
            (self.of_one, self.bytes_of_one) = (0, 0);
        }
        self.place = place;
        self.of_one = self.of_one.saturating_add(1);
        self.bytes_of_one = self.bytes_of_one.saturating_add(bytes);
        self.chunk.events = self.chunk.events.saturating_add(1);
        self.chunk.bytes = self.chunk.bytes.saturating_add(bytes);
        true
    }

    fn cut_off(&mut self) -> Chunk {
        let is_rest = self.chunk.complete.is_none();
        self.bytes_of_one = 0;
        let next = Chunk {
            is_rest,
            ..Chunk::default()
        };
        std::mem::replace(&mut self.chunk, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event of an organization, with so many bytes of payload.
    type Event = (u128, usize);

    fn copied(events: &[Event]) -> Copied {
        let rows = events.iter().map(|(organization, bytes)| {
            let mut row = vec![None; WIDTH];
            row[0] = Some(1_i64.to_be_bytes().to_vec());
            row[2] = Some(Uuid::from_u128(*organization).into_bytes().to_vec());
            row[8] = Some(vec![b' '; *bytes]);
            row
        });
        Copied::of(rows)
    }

    fn cut(events: &[Event], piece: usize, bounds: Bounds) -> Vec<(Vec<Event>, Chunk)> {
        let mut cutter = Cutter::new(bounds, (Uuid::nil(), 0));
        let mut chunks = Vec::new();
        for events in events.chunks(piece) {
            chunks.extend(cutter.cut(copied(events)).unwrap());
        }
        chunks.push(cutter.finish());
        let events = |chunk: &Chunk| -> Vec<Event> {
            let rows = chunk.pieces.iter().flat_map(|piece| piece.rows::<WIDTH>());
            rows.map(|row| {
                let row = row.unwrap();
                let payload: &[u8] = row.get(8).unwrap();
                (row.get::<Uuid>(2).unwrap().as_u128(), payload.len())
            })
            .collect()
        };
        chunks.into_iter().map(|chunk| (events(&chunk), chunk)).collect()
    }

    /// Tried: without the bound on bytes, a chunk that goes on for ever; with rest that goes on into the next organization.
    #[test]
    fn chunks_end_where_they_may_and_hold_no_more_than_they_may() {
        let events: Vec<Event> = (0..200_u128)
            .map(|number| {
                (
                    number / 7 + number / 50 * 3 + 1,
                    usize::try_from(number % 13).unwrap(),
                )
            })
            .chain((0..60).map(|number| (1000, number)))
            .chain([(1001, 1), (1001, 500), (1001, 1), (1002, 0)])
            .collect();
        for (together, of_one, rest, bytes) in [
            (1, 1000, 1, 1000),
            (20, 5, 3, 1000),
            (10, 100, 100, 40),
            (1000, 1000, 1000, 1),
            (1000, 1000, 1000, 1000),
        ] {
            let bounds = Bounds {
                together,
                of_one,
                rest,
                bytes,
            };
            for piece in [1, 3, 300] {
                let chunks = cut(&events, piece, bounds);
                let all: Vec<Event> = chunks.iter().flat_map(|(events, _)| events.clone()).collect();
                assert_eq!(all, events, "{bounds:?}: nothing is lost, and nothing moved");
                let mut goes_on = false;
                for (of_chunk, chunk) in &chunks {
                    let (first, last) = (of_chunk.first().unwrap(), of_chunk.last().unwrap());
                    assert_eq!(
                        chunk.is_rest, goes_on,
                        "{bounds:?}: what follows an incomplete one is rest"
                    );
                    assert_eq!(chunk.events, of_chunk.len());
                    let but_the_last = of_chunk.iter().rev().skip(1);
                    let held: usize = but_the_last.map(|(_, bytes)| bytes).sum();
                    assert!(held < 2 * bytes, "{bounds:?}: {held} bytes were not enough");
                    if chunk.is_rest {
                        assert!(
                            of_chunk.len() <= rest && first.0 == last.0,
                            "{bounds:?}: rest of one"
                        );
                    } else {
                        let of_last = of_chunk.iter().filter(|event| event.0 == last.0).count();
                        assert!(of_last <= of_one, "{bounds:?}: {of_last} of one");
                        assert!(
                            of_chunk.len() - of_last < together,
                            "{bounds:?}: enough before the last"
                        );
                    }
                    if let Some(complete) = chunk.complete {
                        assert_eq!(complete.as_u128(), last.0);
                    }
                    goes_on = chunk.complete.is_none();
                }
                assert!(!goes_on, "the last one is complete");
            }
        }
    }
}
