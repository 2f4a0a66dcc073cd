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
