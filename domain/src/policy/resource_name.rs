//! Resource names: text that means one thing, such as `project/web:env/prod:flag/dark;beta`.
//!
//! Parsed where a name has to be one (a list somebody types, a name we make). A decision never parses: it matches raw text
//! (see [`ResourcePattern`](super::ResourcePattern)).

use std::fmt;

/// A well-formed resource name: one or more segments.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ResourceName {
    segments: Vec<Segment>,
}

/// One `type/key` of a resource name, with its tags.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Segment {
    kind: String,
    key: String,
    tags: Vec<String>,
}

/// Why a text is no resource name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidResourceName {
    /// Nothing was given.
    #[error("a resource name is not empty")]
    Empty,
    /// A segment has no type, no key, an empty tag or a second list of tags.
    #[error("segment {0:?} is not of the form type/key or type/key;tag,tag")]
    Segment(String),
}

impl ResourceName {
    /// Reads `type/key` segments joined by `:`, each with an optional `;tag,tag`. The key may be `*` and may hold `/`.
    ///
    /// # Errors
    /// [`InvalidResourceName`] for an empty text and for the first segment of another form.
    pub fn parse(text: &str) -> Result<Self, InvalidResourceName> {
        if text.is_empty() {
            return Err(InvalidResourceName::Empty);
        }
        let parse = |segment: &str| {
            Segment::parse(segment).ok_or_else(|| InvalidResourceName::Segment(segment.to_owned()))
        };
        text.split(':')
            .map(parse)
            .collect::<Result<_, _>>()
            .map(|segments| Self { segments })
    }

    /// From the outermost to the innermost; never empty.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl Segment {
    /// The resource type, such as `flag`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The key of the project, environment, flag or segment.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The tags, in the order given; empty where the segment has none.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    fn parse(text: &str) -> Option<Self> {
        let (path, tags) = match text.split_once(';') {
            Some((path, tags)) => (path, tags.split(',').map(str::to_owned).collect()),
            None => (text, Vec::new()),
        };
        let (kind, key) = path.split_once('/')?;
        let well_formed = !kind.trim().is_empty() && !key.trim().is_empty();
        let tags_well_formed = tags.iter().all(|tag| !tag.is_empty() && !tag.contains(';'));
        (well_formed && tags_well_formed).then(|| Self {
            kind: kind.to_owned(),
            key: key.to_owned(),
            tags,
        })
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for segment in &self.segments {
            write!(f, "{separator}{segment}")?;
            separator = ":";
        }
        Ok(())
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.key)?;
        let mut separator = ";";
        for tag in &self.tags {
            write!(f, "{separator}{tag}")?;
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_into_its_segments_and_written_back() {
        let text = "project/web:env/prod:flag/dark;beta,team-a";
        let name = ResourceName::parse(text).expect("well formed");
        let [project, _, flag] = name.segments() else {
            panic!("three segments")
        };
        assert_eq!(
            (project.kind(), project.key(), project.tags()),
            ("project", "web", [].as_slice())
        );
        assert_eq!((flag.kind(), flag.key()), ("flag", "dark"));
        assert_eq!(flag.tags(), ["beta", "team-a"]);
        assert_eq!(name.to_string(), text);
    }

    #[test]
    fn a_segment_without_type_key_or_tag_is_refused() {
        for text in [
            " ",
            "/web",
            "project/",
            "project/;a",
            "flag/a;",
            "flag/a;b,",
            "flag/a;b;c",
            "project/web:",
            ":flag/a",
        ] {
            assert!(
                matches!(ResourceName::parse(text), Err(InvalidResourceName::Segment(_))),
                "{text:?}"
            );
        }
        assert_eq!(ResourceName::parse(""), Err(InvalidResourceName::Empty));
    }
}
