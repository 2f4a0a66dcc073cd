//! The glob of one path or one tag: `*` is any run of characters (also none), everything else is itself.
//!
//! Anchored at both ends, case-sensitive, linear in the length of both texts. A `*` in the text that is matched is an
//! ordinary character, which is what makes [`Glob::contains`] as short as it is.

/// Whether both are the same text.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len() && begins_with(one, other)
}

/// Byte by byte: these texts are short and mostly differ early, and calls of the C library's `memcmp` took four fifths of a
/// decision.
fn begins_with(text: &str, beginning: &str) -> bool {
    beginning.len() <= text.len()
        && beginning
            .bytes()
            .zip(text.bytes())
            .all(|(one, other)| one == other)
}

/// The same for an end that begins at a place of the text.
fn ends_with(text: &str, end: &str, from: usize) -> bool {
    end.bytes()
        .zip(text.bytes().skip(from))
        .all(|(one, other)| one == other)
}

/// A glob inside one segment of a resource pattern, split once at its `*`.
#[derive(Clone, Debug)]
pub(super) struct Glob {
    text: Box<str>,
    /// Absent: there is no `*`, and the glob matches its own text.
    stars: Option<Pieces>,
}

/// What stands before the first `*`, between two of them, and after the last.
#[derive(Clone, Debug)]
struct Pieces {
    first: Box<str>,
    middle: Box<[Box<str>]>,
    last: Box<str>,
}

impl Glob {
    pub(super) fn new(text: &str) -> Self {
        let stars = text.split_once('*').map(|(first, rest)| {
            let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
            let middle = middle.split('*').filter(|piece| !piece.is_empty());
            Pieces {
                first: first.into(),
                middle: middle.map(Box::from).collect(),
                last: last.into(),
            }
        });
        Self {
            text: text.into(),
            stars,
        }
    }

    /// Whether this glob matches the whole text.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some(Pieces { first, middle, last }) = &self.stars else {
            return is_same(&self.text, text);
        };
        let room = text.len().checked_sub(last.len());
        let anchored = room.filter(|room| first.len() <= *room && begins_with(text, first));
        let Some(room) = anchored.filter(|room| ends_with(text, last, *room)) else {
            return false;
        };
        // Where a piece begins or ends a character does.
        let Some(mut text) = text.get(first.len()..room) else {
            return false;
        };
        // Between the anchored ends, taking each piece where it first occurs leaves the most room for the next: no
        // backtracking, so no input makes this slow.
        middle.iter().all(|piece| match text.split_once(&**piece) {
            Some((_, after)) => {
                text = after;
                true
            }
            None => false,
        })
    }

    /// Whether every text the other glob matches is matched by this one. Exact, both ways.
    ///
    /// The other's `*` may stand for a character that this glob does not hold, so only a `*` of this one can take it up;
    /// that is what matching the other's own text says, as a `*` in a text is a character no glob holds.
    pub(super) fn contains(&self, other: &Self) -> bool {
        self.matches(&other.text)
    }

    /// Whether some text is matched by both. Exact, both ways.
    ///
    /// Where both have a `*`, only the ends can disagree: the longer beginning, all the middle pieces of the one, all of
    /// the other and the longer end make a text that both match.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (&self.stars, &other.stars) {
            (Some(one), Some(other)) => {
                let (first, other_first) = (&*one.first, &*other.first);
                let (last, other_last) = (&*one.last, &*other.last);
                (first.starts_with(other_first) || other_first.starts_with(first))
                    && (last.ends_with(other_last) || other_last.ends_with(last))
            }
            (_, None) => self.matches(&other.text),
            (None, _) => other.matches(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every text over these characters, up to this length.
    fn all_texts(characters: &[char], length: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut from = 0;
        for _ in 0..length {
            let until = all.len();
            for index in from..until {
                for character in characters {
                    let longer = format!("{}{character}", all[index]);
                    all.push(longer);
                }
            }
            from = until;
        }
        all
    }

    /// As the words say it, one character at a time, with all the backtracking there is.
    fn naive_match(glob: &[char], text: &[char]) -> bool {
        match (glob.split_first(), text.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(('*', rest)), _) => {
                naive_match(rest, text)
                    || text
                        .split_first()
                        .is_some_and(|(_, text)| naive_match(glob, text))
            }
            (Some((wanted, glob)), Some((found, text))) => wanted == found && naive_match(glob, text),
            (Some(_), None) => false,
        }
    }

    /// Tried: either end unanchored, ends that share characters, a missing piece passed over.
    #[test]
    fn a_glob_matches_what_the_definition_says() {
        let texts = all_texts(&['a', 'b', '*'], 5);
        let mut matched = 0;
        for glob_text in all_texts(&['a', 'b', '*'], 4) {
            let (glob, glob_characters) = (Glob::new(&glob_text), glob_text.chars().collect::<Vec<_>>());
            for text in &texts {
                let expected = naive_match(&glob_characters, &text.chars().collect::<Vec<_>>());
                assert_eq!(glob.matches(text), expected, "{glob_text} on {text}");
                matched += usize::from(expected);
            }
        }
        assert!(matched > 1000, "only {matched} matches");
    }

    /// All pairs of globs of up to 3 characters against all texts that could tell them apart: `c` is in no glob, and two
    /// such globs that meet at all meet in at most 6 characters.
    ///
    /// Tried: `contains` by matching the other's text with its `*` left out (unsound), by equality (incomplete);
    /// `overlaps` without either end's check (not exact), with equal ends required (misses overlaps).
    #[test]
    fn contains_and_overlaps_say_exactly_what_the_texts_say() {
        let texts = all_texts(&['a', 'b', 'c'], 6);
        let globs: Vec<(Glob, Vec<bool>)> = all_texts(&['a', 'b', '*'], 3)
            .iter()
            .map(|text| Glob::new(text))
            .map(|glob| {
                let matched = texts.iter().map(|text| glob.matches(text)).collect();
                (glob, matched)
            })
            .collect();
        for (one, by_one) in &globs {
            for (other, by_other) in &globs {
                let both = || by_one.iter().zip(by_other);
                assert_eq!(
                    one.contains(other),
                    both().all(|(one, other)| *one || !other),
                    "{one:?} contains {other:?}"
                );
                assert_eq!(
                    one.overlaps(other),
                    both().any(|(one, other)| *one && *other),
                    "{one:?} overlaps {other:?}"
                );
            }
        }
    }

    #[test]
    fn a_character_is_a_character_however_many_bytes_it_takes() {
        assert!(Glob::new("é*ü").matches("éü"));
        assert!(Glob::new("*é*").matches("日é本"));
        assert!(
            !Glob::new("é*é").matches("é"),
            "the ends may not share a character"
        );
        assert!(!Glob::new("É*").matches("é"));
    }

    /// Tried: each piece taken where it last occurs.
    #[test]
    fn a_hostile_glob_is_answered_at_once() {
        let glob = Glob::new(&"a*".repeat(10_000));
        let text = "a".repeat(20_000) + "b";
        assert!(glob.matches(&text));
        assert!(!Glob::new(&("a*".repeat(10_000) + "c")).matches(&text));
        assert!(!Glob::new(&("*a".repeat(10_000) + "*c*")).matches(&text));
        assert!(glob.overlaps(&Glob::new(&"*a".repeat(10_000))));
    }
}
