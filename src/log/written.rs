//! What this node has just appended, as the log has it. The one that reads the log for all need not read that back: nearly
//! all of what a busy node reads it has written itself.

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

use super::request::NewEvent;

/// Batches on their way. One for which there is no room is read from the log like any other.
const QUEUE: usize = 4;
/// Bytes of payload and metadata in one batch; a larger one is read from the log, page by page.
const MAX_BYTES: usize = 1024 * 1024;

/// The events of a batch that stands in the log.
#[derive(Debug)]
pub struct Written {
    /// Where the first one stands; the others follow without a gap.
    pub first_position: i64,
    /// When they were appended, by the database's clock.
    pub recorded_at: DateTime<Utc>,
    /// In order.
    pub events: Vec<NewEvent>,
    /// The hash of the event before the first one; none where there is none.
    pub hash_before: Option<Vec<u8>>,
    /// The hash of the last one.
    pub hash: Vec<u8>,
}

impl Written {
    fn bytes(&self) -> usize {
        let events = self.events.iter();
        events
            .map(|event| event.payload.len().saturating_add(event.metadata.len()))
            .sum()
    }
}

/// Where batches are handed in. Nothing is ever waited for here: whoever reads can always read the log.
#[derive(Debug)]
pub(super) struct Hand(mpsc::Sender<Written>);

/// The other end.
pub(super) fn hand_over() -> (Hand, mpsc::Receiver<Written>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Hand(sender), receiver)
}

impl Hand {
    pub(super) fn over(&self, written: Written) {
        if written.bytes() <= MAX_BYTES {
            // An error means that there is no room, or nobody who reads.
            let _ = self.0.try_send(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stream;
    use super::*;

    fn written(first_position: i64, bytes: usize) -> Written {
        Written {
            first_position,
            recorded_at: DateTime::UNIX_EPOCH,
            events: vec![NewEvent {
                stream: Stream {
                    aggregate_type: "organization",
                    aggregate_id: "a".into(),
                },
                sequence: 1,
                event_type: String::new(),
                event_version: String::new(),
                organization_id: uuid::Uuid::nil().into(),
                payload: "p".repeat(bytes),
                metadata: "".into(),
            }],
            hash_before: None,
            hash: Vec::new(),
        }
    }

    /// Tried: without the bound in bytes; with a queue of one more.
    #[test]
    fn what_there_is_no_room_for_is_left_to_be_read() {
        let (hand, mut receiver) = hand_over();
        hand.over(written(1, MAX_BYTES + 1));
        for position in 2..=6 {
            hand.over(written(position, MAX_BYTES));
        }
        let handed = std::iter::from_fn(|| receiver.try_recv().ok());
        let handed: Vec<i64> = handed.map(|written| written.first_position).collect();
        assert_eq!(handed, [2, 3, 4, 5]);
    }
}
