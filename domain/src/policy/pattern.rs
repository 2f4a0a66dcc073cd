//! Resource patterns: which resource names a statement or a revocation is about.
//!
//! Matching works on the raw text of a resource, so that a name of an odd form is answered, never refused. A pattern is
//! split once, when it is made; matching does not allocate. Comparing patterns ([`contains`](ResourcePattern::contains),
//! [`overlaps`](ResourcePattern::overlaps)) errs on one known side each.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::glob::Glob;
use super::resource_text::{ResourceText, SegmentText, segments_of};

/// Text such as `project/*:env/prod:flag/*;beta` that says which resource names are meant. Any text is a pattern; the
/// empty one matches nothing. JSON: the text.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct ResourcePattern {
    // Shared by its copies: statements are copied with every event of their member.
    text: Arc<str>,
    /// None for the empty pattern, otherwise what stands between the `:`.
    segments: Arc<[SegmentPattern]>,
}

#[derive(Clone)]
struct SegmentPattern {
    /// Among the patterns that were numbered with it, where it is there more than once.
    number: Option<u8>,
    path: Glob,
    /// Empty: tags are not looked at.
    tags: Box<[Glob]>,
}

impl ResourcePattern {
    /// The pattern this text is.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let segments = segments_in(&text).map(SegmentPattern::new).collect();
        Self { text, segments }
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern matches a resource, given as raw text. Segment by segment; a pattern with fewer segments
    /// matches everything below, one with more does not match. An empty text matches and is matched by nothing.
    pub fn matches(&self, resource: &str) -> bool {
        self.matches_text(&ResourceText::new(resource))
    }

    pub(super) fn matches_text(&self, resource: &ResourceText<'_>) -> bool {
        // Nearly always: an iterator over both kinds of segments costs a decision a seventh of its time.
        let names = resource.split();
        if self.segments.len() <= names.len() {
            let mut segments = self.segments.iter().zip(names);
            return !self.is_empty()
                && segments
                    .all(|(segment, name)| resource.remembered(segment.number, || segment.matches(*name)));
        }
        let mut names = resource.segments();
        self.segments
            .iter()
            .all(|segment| names.next().is_some_and(|name| segment.matches(name)))
    }

    /// What stands between the `:`, with its place.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, SegmentText<'_>)> {
        segments_in(&self.text).enumerate()
    }

    /// Gives its segments these numbers, and no others.
    pub(super) fn number(&mut self, number: impl Fn(&(usize, SegmentText<'_>)) -> Option<u8>) {
        let numbers: Vec<_> = self.places().map(|place| number(&place)).collect();
        let have = self.segments.iter().map(|segment| segment.number);
        // Most have none and get none, and go on sharing their segments with their copies.
        if have.ne(numbers.iter().copied()) {
            let segments = self.segments.iter().zip(numbers);
            let segments = segments.map(|(segment, number)| SegmentPattern {
                number,
                ..segment.clone()
            });
            self.segments = segments.collect();
        }
    }

    /// Whether every resource the other pattern matches is matched by this one. True only if that can be shown: a no may
    /// be a contained pattern, a yes is never wrong.
    pub fn contains(&self, other: &Self) -> bool {
        if other.is_empty() {
            return true;
        }
        let mut others = other.segments.iter();
        !self.is_empty()
            && self
                .segments
                .iter()
                .all(|segment| others.next().is_some_and(|other| segment.contains(other)))
    }

    /// Whether some resource may be matched by both. Never misses one. Tags don't count: a resource may carry those that
    /// either pattern asks for.
    pub fn overlaps(&self, other: &Self) -> bool {
        let shared = self.segments.iter().zip(other.segments.iter());
        !self.is_empty()
            && !other.is_empty()
            && shared
                .into_iter()
                .all(|(one, other)| one.path.overlaps(&other.path))
    }

    fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}

impl SegmentPattern {
    fn new(segment: SegmentText<'_>) -> Self {
        Self {
            number: None,
            path: Glob::new(segment.path),
            tags: segment.tags().map(Glob::new).collect(),
        }
    }

    fn matches(&self, segment: SegmentText<'_>) -> bool {
        self.path.matches(segment.path)
            && (self.tags.is_empty()
                || segment
                    .tags()
                    .any(|tag| self.tags.iter().any(|wanted| wanted.matches(tag))))
    }

    fn contains(&self, other: &Self) -> bool {
        let tag_contained = |tag| self.tags.iter().any(|wanted: &Glob| wanted.contains(tag));
        self.path.contains(&other.path)
            && (self.tags.is_empty() || (!other.tags.is_empty() && other.tags.iter().all(tag_contained)))
    }
}

/// An empty pattern has none.
fn segments_in(text: &str) -> impl Iterator<Item = SegmentText<'_>> {
    segments_of((!text.is_empty()).then_some(text))
}

/// The text says it all.
impl PartialEq for ResourcePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ResourcePattern {}

impl Hash for ResourcePattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Debug for ResourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResourcePattern").field(&self.text).finish()
    }
}

impl From<String> for ResourcePattern {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl Serialize for ResourcePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> ResourcePattern {
        ResourcePattern::new(text)
    }

    #[test]
    fn a_star_alone_matches_whatever_has_a_name() {
        for resource in ["iam/*", "project/p:env/e:flag/f;a", ":", ";", "*"] {
            assert!(pattern("*").matches(resource), "{resource}");
        }
        assert!(!pattern("*").matches(""));
        assert!(!pattern("*:*").matches("project/p"));
    }

    #[test]
    fn only_what_stands_between_the_first_two_semicolons_is_tags() {
        assert!(pattern("flag/a;x").matches("flag/a;x;y"));
        assert!(!pattern("flag/a;y").matches("flag/a;x;y"));
        assert!(pattern("flag/a;x;y").matches("flag/a;x"));
        assert!(pattern("flag/a;").matches("flag/a"));
        assert!(pattern("flag/a;,").matches("flag/a;x,"));
        assert!(!pattern("flag/a;,").matches("flag/a;"));
    }

    /// Tried: without the count of segments, without the tags, with any instead of all of the other's tags, with tags
    /// required of the other only where it has some.
    #[test]
    fn a_pattern_contains_what_is_below_it_and_no_more() {
        for (outer, inner, expected) in [
            ("project/*", "project/web:env/prod", true),
            ("project/web:env/prod", "project/*", false),
            ("project/*:env/*:flag/*", "project/*", false),
            ("project/*", "project/*", true),
            ("project/w*", "project/*", false),
            ("*", "project/*;a:env/*", true),
            ("project/*", "*", false),
            ("flag/*;a", "flag/*", false),
            ("flag/*", "flag/*;a", true),
            ("flag/*;a,b", "flag/x;b", true),
            ("flag/*;a,b", "flag/x;b,c", false),
            ("flag/*;*", "flag/x;c", true),
            ("flag/*;*", "flag/x", false),
            ("flag/*;team-*", "flag/x;team-*", true),
            ("flag/*;team-a", "flag/x;team-*", false),
            ("", "", true),
            ("project/*", "", true),
            ("", "project/*", false),
        ] {
            assert_eq!(
                pattern(outer).contains(&pattern(inner)),
                expected,
                "{outer} contains {inner}"
            );
        }
    }

    #[test]
    fn patterns_overlap_where_one_resource_could_be_in_both() {
        for (one, other, expected) in [
            ("project/web", "project/*:env/prod:flag/*", true),
            ("project/web:env/dev", "project/*:env/prod:flag/*", false),
            ("flag/a*", "flag/*b", true),
            ("flag/a*", "flag/b*", false),
            ("flag/*;a", "flag/x;b", true),
            ("flag/*;a", "flag/x", true),
            ("*", "iam/*", true),
            ("project/*", "iam/*", false),
            ("", "*", false),
            ("", "", false),
        ] {
            assert_eq!(
                pattern(one).overlaps(&pattern(other)),
                expected,
                "{one} overlaps {other}"
            );
            assert_eq!(
                pattern(other).overlaps(&pattern(one)),
                expected,
                "{other} overlaps {one}"
            );
        }
    }

    #[test]
    fn a_pattern_is_its_text_in_json() {
        let json = "\"project/*:env/é;a,\"";
        let read: ResourcePattern = serde_json::from_str(json).expect("any text is a pattern");
        assert_eq!(serde_json::to_string(&read).expect("serializes"), json);
    }
}
