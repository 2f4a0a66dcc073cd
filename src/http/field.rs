//! Fields of a JSON body, read straight into what is asked for and borrowed from the body where they can be: no tree of
//! values is built. A field is there, or not, or of another type; what is wrong is said by whoever asks for it, in its own
//! words, so that nothing mistyped is an error of the parser.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::body::whole;

/// A field that may be absent (null is as good), and may be of another type than it should.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Field<T> {
    /// Not there, or null.
    #[default]
    Absent,
    /// As it should be.
    Given(T),
    /// Of another type.
    Mistyped,
}

impl<T> Field<T> {
    /// What is there; otherwise what is wrong: `path` is the field's, `kind` what it must be.
    pub(super) fn required(&self, path: &str, kind: &str) -> Result<&T, String> {
        self.optional(path, kind)?
            .ok_or_else(|| format!("{path} is required"))
    }

    /// What is there, if anything is; what is wrong where it is mistyped.
    pub(super) fn optional(&self, path: &str, kind: &str) -> Result<Option<&T>, String> {
        match self {
            Self::Absent => Ok(None),
            Self::Given(value) => Ok(Some(value)),
            Self::Mistyped => Err(format!("{path} must be {kind}")),
        }
    }

    /// What is there; what is mistyped counts as nothing.
    pub(super) fn given(&self) -> Option<&T> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Mistyped => None,
        }
    }

    /// This one, or the other where it is absent.
    pub(super) fn or<'f>(&'f self, other: &'f Self) -> &'f Self {
        match self {
            Self::Absent => other,
            Self::Given(_) | Self::Mistyped => self,
        }
    }
}

/// A body that is a JSON object.
pub(super) fn object<'de, T: FromJson<'de>>(body: &'de [u8]) -> Result<T, String> {
    // Once for the whole body: the parser has then no need to look at each string again.
    let text = std::str::from_utf8(body).map_err(|_| "the body is not JSON: it is not UTF-8".to_owned())?;
    match serde_json::from_str(text) {
        Ok(Field::Given(body)) => Ok(body),
        Ok(Field::Absent | Field::Mistyped) => Err("the body must be a JSON object".to_owned()),
        // A field that stands there twice: nobody knows which one counts (RFC 7493, 2.3).
        Err(error) if error.classify() == Category::Data => Err(format!("the body is ambiguous: {error}")),
        Err(error) => Err(format!("the body is not JSON: {error}")),
    }
}

/// What can be made of one of JSON's types; of all others it is made of nothing.
pub(super) trait FromJson<'de>: Sized {
    /// Of a string that stands in the body as it is.
    fn from_borrowed(text: &'de str) -> Option<Self> {
        Self::from_text(text)
    }

    /// Of a string that had escapes.
    fn from_text(_: &str) -> Option<Self> {
        None
    }

    /// Of a whole number.
    fn from_whole(_: i64) -> Option<Self> {
        None
    }

    /// Of true and false.
    fn from_flag(_: bool) -> Option<Self> {
        None
    }

    /// Of an object. Takes all of it.
    fn from_object<A: MapAccess<'de>>(mut fields: A) -> Result<Option<Self>, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// Of an array. Takes all of it.
    fn from_array<A: SeqAccess<'de>>(mut items: A) -> Result<Option<Self>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl<'de: 'a, 'a> FromJson<'de> for Cow<'a, str> {
    fn from_borrowed(text: &'de str) -> Option<Self> {
        Some(Cow::Borrowed(text))
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(Cow::Owned(text.to_owned()))
    }
}

impl FromJson<'_> for i64 {
    fn from_whole(number: i64) -> Option<Self> {
        Some(number)
    }
}

impl FromJson<'_> for bool {
    fn from_flag(flag: bool) -> Option<Self> {
        Some(flag)
    }
}

/// At most `MAX` items of an array are kept; how many there are is counted.
#[derive(Debug)]
pub(super) struct Items<T, const MAX: usize> {
    pub(super) kept: Vec<Field<T>>,
    pub(super) count: usize,
}

impl<'de, T: FromJson<'de>, const MAX: usize> FromJson<'de> for Items<T, MAX> {
    fn from_array<A: SeqAccess<'de>>(mut items: A) -> Result<Option<Self>, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < MAX
            && let Some(item) = items.next_element()?
        {
            kept.push(item);
        }
        let mut count = kept.len();
        while items.next_element::<IgnoredAny>()?.is_some() {
            count = count.saturating_add(1);
        }
        Ok(Some(Self { kept, count }))
    }
}

/// For `from_object` of whatever derives `Deserialize`.
pub(super) fn read_object<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    fields: A,
) -> Result<Option<T>, A::Error> {
    T::deserialize(MapAccessDeserializer::new(fields)).map(Some)
}

impl<'de, T: FromJson<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor(PhantomData))
    }
}

impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Mistyped, Self::Given)
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: FromJson<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Field::Absent)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(T::from_flag(flag).into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(T::from_whole(number).into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(number).ok().and_then(T::from_whole).into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(whole(number).and_then(T::from_whole).into())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(T::from_borrowed(text).into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(T::from_text(text).into())
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        Ok(T::from_object(fields)?.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        Ok(T::from_array(items)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Body<'a> {
        #[serde(borrow, default)]
        text: Field<Cow<'a, str>>,
        #[serde(default)]
        number: Field<i64>,
    }

    impl<'de: 'a, 'a> FromJson<'de> for Body<'a> {
        fn from_object<A: MapAccess<'de>>(fields: A) -> Result<Option<Self>, A::Error> {
            read_object(fields)
        }
    }

    fn read(body: &str) -> Result<Body<'_>, String> {
        object(body.as_bytes())
    }

    #[test]
    fn what_is_there_is_borrowed_and_what_has_escapes_is_not() {
        let text = |body| match read(body).unwrap().text {
            Field::Given(text) => (text.clone().into_owned(), matches!(text, Cow::Borrowed(_))),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(r#"{"text":"é;a"}"#), ("é;a".to_owned(), true));
        assert_eq!(text(r#"{"text":"\u00e9\/"}"#), ("é/".to_owned(), false));
    }

    #[test]
    fn what_is_mistyped_is_that_and_no_error() {
        for (body, text, number) in [
            (r"{}", Field::Absent, Field::Absent),
            (r#"{"text":null,"number":null}"#, Field::Absent, Field::Absent),
            (r#"{"text":7,"number":7}"#, Field::Mistyped, Field::Given(7)),
            (
                r#"{"text":{"text":"x"},"number":[[7]]}"#,
                Field::Mistyped,
                Field::Mistyped,
            ),
            (r#"{"text":true,"number":7.0}"#, Field::Mistyped, Field::Given(7)),
            (
                r#"{"number":7.5,"other":[{"text":1}]}"#,
                Field::Absent,
                Field::Mistyped,
            ),
            (
                r#"{"number":9223372036854775808}"#,
                Field::Absent,
                Field::Mistyped,
            ),
            (r#"{"number":1e30}"#, Field::Absent, Field::Mistyped),
        ] {
            assert_eq!(read(body), Ok(Body { text, number }), "{body}");
        }
    }

    /// Tried: without the look at UTF-8 the parser takes what it ignores whatever it is.
    #[test]
    fn a_body_that_is_no_object_or_says_something_twice_is_refused() {
        for (body, why) in [
            (&b"[]"[..], "must be a JSON object"),
            (b"null", "must be a JSON object"),
            (b"", "not JSON"),
            (b"{} {}", "not JSON"),
            (b"{\"text\":\"x\"", "not JSON"),
            (b"{\"other\":\"\xff\"}", "not UTF-8"),
            (b"{\"text\":\"x\",\"text\":\"y\"}", "ambiguous"),
            (b"{\"text\":\"x\",\"t\\u0065xt\":null}", "ambiguous"),
        ] {
            let refused = object::<Body<'_>>(body).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
