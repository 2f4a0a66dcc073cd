//! What stands in a query string: keys without regard to case, as FeatBit reads them; an empty value is none.

use std::ops::RangeInclusive;

use super::token_fields::Wrong;

/// The most items of a page.
pub(super) const MAX_PAGE: i64 = 100;

/// The index of a page, from 0 (absent: 0), and its size, 1 to [`MAX_PAGE`] (absent: 10).
pub(super) fn paging(query: &str, wrong: &mut Wrong) -> Option<(i64, i64)> {
    let bounded = |key, default, range: RangeInclusive<i64>| match parameter(query, key) {
        None => Some(default),
        Some(value) => value.parse::<i64>().ok().filter(|number| range.contains(number)),
    };
    let index = bounded("pageindex", 0, 0..=i64::from(i32::MAX)).ok_or("page_index_is_invalid");
    let size = bounded("pagesize", 10, 1..=MAX_PAGE).ok_or("page_size_is_invalid");
    wrong.note(index).zip(wrong.note(size))
}

/// The last value of this name (lower case; FeatBit reads them without regard to case). An empty one is none.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    parameters(query)
        .filter(|(key, value)| key == name && !value.is_empty())
        .last()
        .map(|(_, value)| value)
}

/// Keys in lower case. PostgreSQL holds no NUL character, so no name has one.
fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(query.as_bytes())
        .map(|(key, value)| (key.to_ascii_lowercase(), value.replace('\0', "\u{fffd}")))
}
