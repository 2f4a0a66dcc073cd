//! What was read of the topic at once, by partition, and the offsets that it moves.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedMessage, Headers, Message as _};

use super::assignments::Assignments;
use super::member_events::understand;
use super::under_way::UnderWay;
use crate::commands::membership::{Poll, RawMessage};
use crate::log::{OffsetMove, Partition};

/// Messages in all.
const MAX_MESSAGES: usize = 2000;
/// Bytes after which no further message is taken: all of it may have to be parked by one statement.
const MAX_BYTES: usize = 1024 * 1024;

/// A poll of each partition.
pub(super) struct Polls {
    pub(super) by_partition: BTreeMap<Partition, Poll>,
    /// The number of the assignment under which it was read.
    pub(super) assignment: u64,
    messages: usize,
    bytes: usize,
}

impl Polls {
    /// Nothing yet.
    pub(super) fn under(assignment: u64) -> Self {
        Self {
            by_partition: BTreeMap::new(),
            assignment,
            messages: 0,
            bytes: 0,
        }
    }

    /// As many messages, or as many bytes, as are taken at once.
    pub(super) fn is_full(&self) -> bool {
        self.messages >= MAX_MESSAGES || self.bytes >= MAX_BYTES
    }

    /// Adds a message to its partition's poll, unless it is in there, in the log, or in what is on its way there, or the
    /// partition is not this node's.
    pub(super) fn add(
        &mut self,
        assignments: &Assignments,
        ahead: &VecDeque<UnderWay>,
        message: &BorrowedMessage<'_>,
    ) {
        self.messages = self.messages.saturating_add(1);
        let Some((partition, stored)) = assignments.place(message.partition()) else {
            return;
        };
        // Where it will be stored by then, or else the append is refused.
        let ahead = ahead.iter().rev().map(|ahead| &ahead.polls);
        let expected = ahead
            .filter(|ahead| ahead.assignment == self.assignment)
            .find_map(|ahead| ahead.next_offset(&partition))
            .or(stored);
        let at_least = self.next_offset(&partition).or(expected);
        if at_least.is_some_and(|next| message.offset() < next) {
            return;
        }
        let raw = raw_message(message, partition.clone());
        self.bytes = self.bytes.saturating_add(size(&raw));
        let poll = self
            .by_partition
            .entry(partition.clone())
            .or_insert_with(|| Poll {
                messages: Vec::new(),
                offset: None,
            });
        poll.messages.push(understand(raw));
        // Offsets may have holes (transactions, compaction): the next one is the last one read, plus one.
        let next_offset = message.offset().saturating_add(1);
        poll.offset = Some(OffsetMove {
            partition,
            expected,
            next_offset,
        });
    }

    fn next_offset(&self, partition: &Partition) -> Option<i64> {
        let poll = self.by_partition.get(partition)?;
        poll.offset.as_ref().map(|offset| offset.next_offset)
    }
}

/// Everything of it that may have to be parked.
fn size(raw: &RawMessage) -> usize {
    let headers: usize = raw
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    headers + raw.key.as_ref().map_or(0, Vec::len) + raw.payload.as_ref().map_or(0, Vec::len)
}

fn raw_message(message: &BorrowedMessage<'_>, partition: Partition) -> RawMessage {
    RawMessage {
        partition: Some(partition),
        offset: Some(message.offset()),
        sent_at: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        headers: message.headers().map(headers).unwrap_or_default(),
        payload: message.payload().map(<[u8]>::to_vec),
    }
}

fn headers<H: Headers>(headers: &H) -> Vec<(String, String)> {
    let header = |index| {
        // rdkafka panics where a name is not UTF-8; such a header is none that we know.
        let header = catch_unwind(AssertUnwindSafe(|| headers.get(index)));
        header.map_or_else(
            |_| ("\u{fffd}".to_owned(), String::new()),
            |header| {
                let value = header
                    .value
                    .map(|value| String::from_utf8_lossy(value).replace('\0', "\u{fffd}"));
                (header.key.to_owned(), value.unwrap_or_default())
            },
        )
    };
    (0..headers.count()).map(header).collect()
}
