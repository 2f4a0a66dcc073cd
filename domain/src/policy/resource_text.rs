//! A resource as a decision meets it: raw text of any form, split once for all the patterns it is held against. Segments that
//! many of these have in common may have numbers; then what was found of one is remembered to the decision's end.

use std::cell::Cell;

/// Segments that are split in advance; FeatBit's names have at most three. Further ones are split as they are needed.
const SEGMENTS: usize = 8;

/// How many segments of patterns have numbers at most.
pub(super) const NUMBERS: u8 = 64;

/// The raw text of a resource, split. Does not allocate.
#[derive(Debug)]
pub(super) struct ResourceText<'a> {
    text: &'a str,
    first: [SegmentText<'a>; SEGMENTS],
    count: usize,
    rest: Option<&'a str>,
    found: Option<Found>,
}

/// What was found of the numbered segments, a bit for each.
#[derive(Debug, Default)]
struct Found {
    looked_at: Cell<u64>,
    matching: Cell<u64>,
}

/// What stands between two `:`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentText<'a> {
    /// What stands before the first `;`.
    pub(super) path: &'a str,
    tags: &'a str,
}

impl<'a> ResourceText<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut split = Self {
            text,
            first: [SegmentText::default(); SEGMENTS],
            count: 0,
            // An empty text has no segments.
            rest: (!text.is_empty()).then_some(text),
            found: None,
        };
        for segment in &mut split.first {
            let Some(rest) = split.rest else { break };
            let (this, after) = match rest.split_once(':') {
                Some((this, after)) => (this, Some(after)),
                None => (rest, None),
            };
            *segment = SegmentText::new(this);
            split.count = split.count.saturating_add(1);
            split.rest = after;
        }
        split
    }

    /// To be held against patterns whose segments were all numbered together, and no others: a number means the same segment
    /// in the same place.
    pub(super) fn for_numbered(text: &'a str) -> Self {
        Self {
            found: Some(Found::default()),
            ..Self::new(text)
        }
    }

    /// Whether the segment of this number matches, by looking or by remembering.
    pub(super) fn remembered(&self, number: Option<u8>, look: impl FnOnce() -> bool) -> bool {
        let bit = number.and_then(|number| 1_u64.checked_shl(u32::from(number)));
        let (Some(found), Some(bit)) = (&self.found, bit) else {
            return look();
        };
        if found.looked_at.get() & bit == 0 {
            found.looked_at.set(found.looked_at.get() | bit);
            if look() {
                found.matching.set(found.matching.get() | bit);
            }
        }
        found.matching.get() & bit != 0
    }

    /// The text as it came.
    pub(super) fn as_str(&self) -> &'a str {
        self.text
    }

    /// Those segments, from the outermost, that were split in advance.
    pub(super) fn split(&self) -> &[SegmentText<'a>] {
        self.first.get(..self.count).unwrap_or_default()
    }

    /// From the outermost to the innermost; none of an empty text.
    pub(super) fn segments(&self) -> impl Iterator<Item = SegmentText<'a>> {
        self.split().iter().copied().chain(segments_of(self.rest))
    }
}

/// What stands between the `:`.
pub(super) fn segments_of(text: Option<&str>) -> impl Iterator<Item = SegmentText<'_>> {
    let split = text.into_iter().flat_map(|text| text.split(':'));
    split.map(SegmentText::new)
}

impl<'a> SegmentText<'a> {
    /// FeatBit looks at nothing behind a second `;`.
    pub(super) fn new(text: &'a str) -> Self {
        let (path, tags) = text.split_once(';').unwrap_or((text, ""));
        let (tags, _) = tags.split_once(';').unwrap_or((tags, ""));
        Self { path, tags }
    }

    /// An empty text holds none, `,` two that are empty.
    pub(super) fn tags(&self) -> impl Iterator<Item = &'a str> {
        self.tags.split(',').filter(|_| !self.tags.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tried: without the rest, and with the rest from one segment further on.
    #[test]
    fn a_text_of_any_length_has_all_its_segments() {
        for count in 0..=3 * SEGMENTS {
            let expected: Vec<String> = (0..count).map(|number| format!("s/{number}")).collect();
            let text = expected.join(":");
            let found: Vec<&str> = ResourceText::new(&text).segments().map(|it| it.path).collect();
            assert_eq!(found, expected);
        }
        let paths = |text: &'static str| -> Vec<&str> {
            ResourceText::new(text).segments().map(|it| it.path).collect()
        };
        assert_eq!(paths(":"), ["", ""]);
        assert_eq!(paths("a:"), ["a", ""]);
        assert_eq!(paths(":::::::::"), [""; 10]);
    }
}
