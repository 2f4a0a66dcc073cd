//! How events are stored: as one JSON object whose field `event` says which it is. Serde's own way to read such an enum first
//! makes a tree of all its fields, for the name may come last. We write it first, and every node reads every event
//! of the log: here, where it comes first, the fields are read as they come.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Map, Value};

/// The field that names an event.
const NAME: &str = "event";

/// Defines an enum of events that are stored like that.
macro_rules! stored_events {
    ($(#[$attribute:meta])* pub enum $name:ident = $text:literal { $($variants:tt)* }) => {
        $(#[$attribute])*
        #[derive(serde::Serialize)]
        #[serde(tag = "event")]
        pub enum $name { $($variants)* }

        const _: () = {
            #[derive(serde::Deserialize)]
            #[serde(remote = $text)]
            enum Variants { $($variants)* }

            impl<'de> crate::stored::Named<'de> for $name {
                fn read<D: serde::Deserializer<'de>>(variant: D) -> Result<Self, D::Error> {
                    Variants::deserialize(variant)
                }
            }

            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    deserializer.deserialize_map(crate::stored::Event::new())
                }
            }
        };
    };
}
pub(crate) use stored_events;

/// What is read by its name.
pub(crate) trait Named<'de>: Sized {
    /// Reads one that is given as a variant of an enum.
    fn read<D: Deserializer<'de>>(variant: D) -> Result<Self, D::Error>;
}

/// Reads an event from the object that it is.
pub(crate) struct Event<T>(PhantomData<T>);

impl<T> Event<T> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

/// Borrowed where it can be.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de, T: Named<'de>> Visitor<'de> for Event<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<T, A::Error> {
        let first: Option<Text<'_>> = fields.next_key()?;
        if first.as_ref().is_some_and(|Text(key)| key == NAME) {
            let Text(name) = fields.next_value()?;
            return T::read(Variant { name, fields });
        }
        let mut all = Map::new();
        if let Some(Text(key)) = first {
            all.insert(key.into_owned(), fields.next_value()?);
        }
        while let Some((key, value)) = fields.next_entry()? {
            all.insert(key, value);
        }
        let Some(Value::String(name)) = all.remove(NAME) else {
            return Err(A::Error::missing_field(NAME));
        };
        let (name, fields) = (
            Cow::Owned(name),
            serde::de::value::MapDeserializer::new(all.into_iter()),
        );
        T::read(Variant { name, fields }).map_err(|error: serde_json::Error| A::Error::custom(error))
    }
}

/// An enum's variant of which the name is known and the fields come.
struct Variant<'a, A> {
    name: Cow<'a, str>,
    fields: A,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Variant<'_, A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_enum(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, A: MapAccess<'de>> EnumAccess<'de> for Variant<'_, A> {
    type Error = A::Error;
    type Variant = Fields<A>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Fields<A>), A::Error> {
        let variant = seed.deserialize((&*self.name).into_deserializer())?;
        Ok((variant, Fields(self.fields)))
    }
}

struct Fields<A>(A);

impl<'de, A: MapAccess<'de>> VariantAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        Deserialize::deserialize(MapAccessDeserializer::new(self.0))
    }

    fn newtype_variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<V::Value, A::Error> {
        seed.deserialize(MapAccessDeserializer::new(self.0))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, A::Error> {
        MapAccessDeserializer::new(self.0).deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_map(self.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::member::MemberEvent;

    const FIELDS: &str = r#""organizationId":"98881f6a-5c6c-4277-bcf7-fda94c538785","memberId":"0192f0a4-0000-7000-8000-000000000001""#;
    const EVENT: &str = r#""event":"member.released""#;

    fn read(json: &str) -> Result<MemberEvent, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// Tried: without the fields that come before the name.
    #[test]
    fn an_event_is_the_same_wherever_its_name_stands() {
        let first = read(&format!("{{{EVENT},{FIELDS}}}")).expect("an event");
        let last = read(&format!("{{{FIELDS},{EVENT}}}")).expect("an event");
        assert_eq!(first, last);
        let written = serde_json::to_string(&first).expect("serializes");
        assert_eq!(written, format!("{{{EVENT},{FIELDS}}}"), "it is written first");
    }

    #[test]
    fn what_has_no_name_or_one_that_nobody_knows_is_no_event() {
        for json in [
            "{}".to_owned(),
            "[]".to_owned(),
            format!("{{{FIELDS}}}"),
            format!("{{{EVENT}}}"),
            format!(r#"{{"event":7,{FIELDS}}}"#),
            format!(r#"{{{FIELDS},"event":7}}"#),
            format!(r#"{{"event":"member.forgotten",{FIELDS}}}"#),
        ] {
            assert!(read(&json).is_err(), "{json}");
        }
    }
}
