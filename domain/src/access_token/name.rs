//! A token's name: trimmed, 1 to 128 characters, unique in its organization without regard to case.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name that may be given to a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenName(String);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidTokenName {
    /// Nothing is left after trimming.
    #[error("a name is required")]
    Required,
    /// Longer than [`TokenName::MAX_CHARS`], or with a control character in it.
    #[error("a name has at most 128 characters and no control characters")]
    Invalid,
}

impl TokenName {
    /// The most characters (Unicode scalar values) a name has, after trimming.
    pub const MAX_CHARS: usize = 128;

    /// The name in a text, white space around it taken off.
    ///
    /// # Errors
    /// [`InvalidTokenName`] says whether there was none or a bad one.
    pub fn parse(text: &str) -> Result<Self, InvalidTokenName> {
        let name = text.trim();
        if name.is_empty() {
            return Err(InvalidTokenName::Required);
        }
        if name.chars().count() > Self::MAX_CHARS || name.chars().any(char::is_control) {
            return Err(InvalidTokenName::Invalid);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is unique in an organization: the name without regard to case.
    #[must_use]
    pub fn key(&self) -> String {
        name_key(&self.0)
    }
}

/// The form in which names are compared and searched.
#[must_use]
pub fn name_key(text: &str) -> String {
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, InvalidTokenName> {
        TokenName::parse(text).map(|name| name.as_str().to_owned())
    }

    #[test]
    fn a_name_is_trimmed() {
        assert_eq!(parsed(" \u{a0}\tdeploy bot \n"), Ok("deploy bot".to_owned()));
    }

    #[test]
    fn a_name_of_nothing_but_white_space_is_required() {
        for text in ["", " ", "\t\n", "\u{3000}"] {
            assert_eq!(parsed(text), Err(InvalidTokenName::Required), "{text:?}");
        }
        assert_eq!(parsed("x"), Ok("x".to_owned()));
    }

    #[test]
    fn a_name_has_at_most_128_characters_however_many_bytes_and_after_trimming() {
        for letter in ["x", "é", "🦀"] {
            let longest = letter.repeat(128);
            assert_eq!(parsed(&longest), Ok(longest.clone()));
            assert_eq!(parsed(&format!("  {longest}  ")), Ok(longest));
            assert_eq!(parsed(&letter.repeat(129)), Err(InvalidTokenName::Invalid));
        }
    }

    #[test]
    fn a_name_holds_no_control_characters() {
        for text in ["a\nb", "a\0b", "a\u{7f}b", "a\u{85}b"] {
            assert_eq!(parsed(text), Err(InvalidTokenName::Invalid), "{text:?}");
        }
        assert_eq!(parsed("a b"), Ok("a b".to_owned()));
    }

    #[test]
    fn names_that_differ_in_case_alone_have_one_key() {
        let key = |text| TokenName::parse(text).map(|name| name.key());
        assert_eq!(key("Deploy ÄÖ"), key("dEPLOY äö"));
        assert_ne!(key("deploy"), key("deploy 2"));
    }
}
