//! The end of the log in memory, as this process read or wrote it last, for all who follow the log close behind: what one of
//! them has decoded the others need not. Whether it is the end of the very log that somebody works on is looked at each time,
//! by a hash, on the connection that he works on; whatever is not here is read from the database.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::PgConnection;
use tokio::sync::watch;

use crate::log::{Page, ReadLogError, RecordedEvent, read_after_without};

/// Bytes of payload that are kept, but for a single page that is larger: some seconds of a busy log.
const MAX_BYTES: usize = 12 * 1024 * 1024;

/// What was read or written last of the log. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Tail(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<Kept>,
    head: watch::Sender<i64>,
}

/// Pages that follow each other without a gap.
#[derive(Debug, Default)]
struct Kept {
    pages: VecDeque<Arc<Page>>,
    bytes: usize,
}

/// Some of the log, for whoever has no use for all types of events.
#[derive(Debug)]
pub struct Stretch {
    /// In order.
    pub events: Vec<Arc<RecordedEvent>>,
    /// The last position that was looked at; the one it was read after where there was nothing.
    pub last_position: i64,
    /// The hash of the event there; none where there was nothing.
    pub last_hash: Option<Vec<u8>>,
    /// The hash of the event that it was read after; none where there is none, or it is not known.
    pub hash_before: Option<Vec<u8>>,
}

impl Tail {
    /// The last position that is kept; 0 for none.
    #[must_use]
    pub fn head(&self) -> watch::Receiver<i64> {
        self.0.head.subscribe()
    }

    /// Keeps a page of all types of events, for as long as there is room. One that does not follow the last one takes its
    /// place.
    pub fn keep(&self, page: Arc<Page>) {
        let Some(first) = page.events.first() else { return };
        let last_position = page.last_position;
        {
            let mut kept = self.kept();
            if kept
                .pages
                .back()
                .is_some_and(|last| last.last_position.saturating_add(1) != first.position)
            {
                kept.forget();
            }
            kept.bytes = kept.bytes.saturating_add(page.bytes);
            kept.pages.push_back(page);
            while kept.bytes > MAX_BYTES && kept.pages.len() > 1 {
                let oldest = kept.pages.pop_front().map_or(0, |page| page.bytes);
                kept.bytes = kept.bytes.saturating_sub(oldest);
            }
        }
        self.0.head.send_replace(last_position);
    }

    /// It was the end of another log.
    pub fn forget(&self) {
        self.kept().forget();
        self.0.head.send_replace(0);
    }

    /// The events after a position, in order, but those of unwanted types: about `limit`, where they are here, else as
    /// [`read_after_without`] has them.
    ///
    /// # Errors
    /// [`ReadLogError`]
    pub async fn read_after_without(
        &self,
        connection: &mut PgConnection,
        position: i64,
        limit: i64,
        unwanted: &[&str],
    ) -> Result<Stretch, ReadLogError> {
        if let Some(stretch) = self.after(position, limit, unwanted)
            && is_end_in_log(connection, &stretch).await?
        {
            return Ok(stretch);
        }
        let page = read_after_without(connection, position, limit, unwanted).await?;
        Ok(Stretch {
            events: page.events,
            last_position: page.last_position,
            last_hash: page.last_hash,
            hash_before: page.hash_before,
        })
    }

    fn after(&self, position: i64, limit: i64, unwanted: &[&str]) -> Option<Stretch> {
        let pages = self.kept().after(position, limit)?;
        Stretch::of(&pages, position, unwanted)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget(&mut self) {
        *self = Self::default();
    }

    /// The pages with what is here after a position: at least one, and no more than the limit reaches where there are several.
    /// None where the event after it is not here.
    fn after(&self, position: i64, limit: i64) -> Option<Vec<Arc<Page>>> {
        let begin = self.pages.partition_point(|page| page.last_position <= position);
        let first = self.pages.get(begin)?;
        if first.events.first()?.position > position.saturating_add(1) {
            return None;
        }
        let reaches = |page: &&Arc<Page>| page.last_position.saturating_sub(position) <= limit;
        let others = self.pages.range(begin..).skip(1).take_while(reaches);
        Some(std::iter::once(first).chain(others).map(Arc::clone).collect())
    }
}

impl Stretch {
    /// What these pages have after a position; none where there are no pages.
    fn of(pages: &[Arc<Page>], position: i64, unwanted: &[&str]) -> Option<Self> {
        let (first, last) = (pages.first()?, pages.last()?);
        let is_whole = first.events.first()?.position == position.saturating_add(1);
        let events = pages.iter().flat_map(|page| &page.events);
        let wanted = events.filter(|event| {
            event.position > position && !unwanted.contains(&event.fact.event_type().as_str())
        });
        Some(Self {
            events: wanted.map(Arc::clone).collect(),
            last_position: last.last_position,
            last_hash: last.last_hash.clone(),
            hash_before: first.hash_before.clone().filter(|_| is_whole),
        })
    }
}

/// Whether the log has the last event of this, and so, by the chain, everything before it as it was read.
async fn is_end_in_log(connection: &mut PgConnection, stretch: &Stretch) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select exists (select from events where position = $1 and hash = $2)")
        .bind(stretch.last_position)
        .bind(stretch.last_hash.as_deref())
        .fetch_one(connection)
        .await
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use domain::ids::OrganizationId;
    use domain::organization::OrganizationEvent;
    use uuid::Uuid;

    use super::*;
    use crate::log::Fact;

    /// From one position to another, each of so many bytes.
    fn page(from: i64, to: i64, bytes: usize) -> Arc<Page> {
        let organization_id = OrganizationId::from(Uuid::nil());
        let event = |position| RecordedEvent {
            position,
            recorded_at: DateTime::UNIX_EPOCH,
            organization_id,
            aggregate_id: String::new(),
            sequence: 1,
            metadata: serde_json::Value::Null,
            fact: Fact::Organization(OrganizationEvent::Removed { organization_id }),
        };
        Arc::new(Page {
            events: (from..=to).map(event).map(Arc::new).collect(),
            last_position: to,
            last_hash: Some(to.to_be_bytes().to_vec()),
            hash_before: Some((from - 1).to_be_bytes().to_vec()),
            is_last: true,
            bytes,
        })
    }

    fn kept(pages: &[(i64, i64, usize)]) -> Tail {
        let tail = Tail::default();
        for (from, to, bytes) in pages {
            tail.keep(page(*from, *to, *bytes));
        }
        tail
    }

    /// The first and the last position of what is kept after one, and whether the hash before it is known.
    fn after(tail: &Tail, position: i64, limit: i64) -> Option<(i64, i64, bool)> {
        let stretch = tail.after(position, limit, &[])?;
        let first = stretch.events.first()?.position;
        assert_eq!(stretch.events.last()?.position, stretch.last_position);
        assert_eq!(
            stretch.last_hash,
            Some(stretch.last_position.to_be_bytes().to_vec())
        );
        let before = stretch.hash_before;
        assert!(before.as_ref().is_none_or(|hash| *hash == position.to_be_bytes()));
        Some((first, stretch.last_position, before.is_some()))
    }

    /// Tried: without the look at the first position, with the hash before the page where only the end of it is wanted, and
    /// without the limit.
    #[test]
    fn what_follows_a_position_is_whole_pages_without_a_gap() {
        let tail = kept(&[(11, 20, 1), (21, 30, 1), (31, 31, 1)]);
        assert_eq!(after(&tail, 9, 100), None, "the tenth is missing");
        assert_eq!(after(&tail, 10, 100), Some((11, 31, true)));
        assert_eq!(after(&tail, 15, 100), Some((16, 31, false)));
        assert_eq!(after(&tail, 10, 20), Some((11, 30, true)));
        assert_eq!(after(&tail, 10, 1), Some((11, 20, true)), "a page at least");
        assert_eq!(after(&tail, 30, 100), Some((31, 31, true)));
        assert_eq!(after(&tail, 31, 100), None);
        assert_eq!(*tail.head().borrow(), 31);
    }

    /// Tried: without the look at what the page follows on.
    #[test]
    fn a_page_that_does_not_follow_takes_the_place_of_what_was_kept() {
        let tail = kept(&[(1, 10, 1), (12, 20, 1)]);
        assert_eq!(after(&tail, 0, 100), None);
        assert_eq!(after(&tail, 11, 100), Some((12, 20, true)));
        tail.keep(page(5, 8, 1));
        assert_eq!(after(&tail, 4, 100), Some((5, 8, true)));
        tail.forget();
        assert_eq!(after(&tail, 4, 100), None);
        assert_eq!(*tail.head().borrow(), 0);
    }

    /// Tried: without the bound.
    #[test]
    fn the_oldest_pages_go_when_there_is_no_more_room() {
        let half = MAX_BYTES / 2;
        let tail = kept(&[(1, 1, half), (2, 2, half), (3, 3, 1)]);
        assert_eq!(after(&tail, 0, 100), None);
        assert_eq!(after(&tail, 1, 100), Some((2, 3, true)));
        tail.keep(page(4, 4, MAX_BYTES + 1));
        assert_eq!(after(&tail, 2, 100), None);
        assert_eq!(after(&tail, 3, 100), Some((4, 4, true)), "one page always");
    }

    #[test]
    fn unwanted_events_are_left_out_and_counted_over() {
        let tail = kept(&[(1, 3, 1)]);
        let stretch = tail.after(0, 100, &["organization.removed"]).unwrap();
        assert!(stretch.events.is_empty());
        assert_eq!(stretch.last_position, 3);
    }
}
