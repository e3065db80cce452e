//! Reading what somebody else wrote without keeping more of it than a verdict
//! needs: an answer of 2 MiB can hold a million entries, and forty of them are
//! read in one check.

use std::fmt;

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The longest name, version or digest that counts; Kubernetes' longest name has
/// 253 bytes. What is longer is none.
pub const WORD_BYTES: usize = 256;

/// How much is kept of a text for a person; a message shows a fourth of it.
pub const TEXT_BYTES: usize = 4 * 1024;

/// `null` is what a serializer in Go writes for a nil slice or pointer.
///
/// # Errors
/// What comes is neither `null` nor a `T`.
pub fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A name, version or digest. `null` and what is too long are none.
///
/// # Errors
/// What comes is neither `null` nor a string.
pub fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_option(Text { most: WORD_BYTES, cut: false })
}

/// A text for a person, or the start of it; `null` is an empty one.
///
/// # Errors
/// What comes is neither `null` nor a string.
pub fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(deserializer.deserialize_option(Text { most: TEXT_BYTES, cut: true })?.unwrap_or_default())
}

/// One word, or the start of it; `null` is an empty one.
///
/// # Errors
/// What comes is neither `null` nor a string.
pub fn start_of_word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(deserializer.deserialize_option(Text { most: WORD_BYTES, cut: true })?.unwrap_or_default())
}

/// A time that can't be read is no time: it is no evidence, and no reason to
/// refuse the object.
///
/// # Errors
/// What comes is no JSON.
pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    deserializer.deserialize_any(Time)
}

/// What a list may hold more of than is kept.
pub trait Kept: DeserializeOwned {
    /// So many are kept.
    const MOST: usize;

    /// Whether a verdict looks at it at all.
    fn counts(&self) -> bool {
        true
    }

    /// Leaves the [`Kept::MOST`] that matter most.
    fn trim(all: &mut Vec<Self>) {
        all.truncate(Self::MOST);
    }
}

/// A list, or the part of it that counts; `null` is an empty one.
///
/// # Errors
/// What comes is neither `null` nor a list of `T`.
pub fn list<'de, D: Deserializer<'de>, T: Kept>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let mut all = Vec::new();
    each(deserializer, |item: T| {
        if item.counts() {
            all.push(item);
        }
        if all.len() >= 2 * T::MOST {
            T::trim(&mut all);
        }
    })?;
    T::trim(&mut all);
    Ok(all)
}

/// Hands over the items of a list one by one; `null` has none.
///
/// # Errors
/// What comes is neither `null` nor a list of `T`.
pub fn each<'de, D, T>(deserializer: D, take: impl FnMut(T)) -> Result<(), D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_option(Each(take, std::marker::PhantomData))
}

struct Text {
    most: usize,
    cut: bool,
}

impl<'de> Visitor<'de> for Text {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or null")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(match text.get(..text.floor_char_boundary(self.most)) {
            Some(start) if self.cut || start.len() == text.len() => Some(start.to_owned()),
            _ => None,
        })
    }
}

struct Time;

impl<'de> Visitor<'de> for Time {
    type Value = Option<Timestamp>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(text.parse().ok())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

struct Each<F, T>(F, std::marker::PhantomData<T>);

impl<'de, F: FnMut(T), T: Deserialize<'de>> Visitor<'de> for Each<F, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or null")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            (self.0)(item);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Read {
        #[serde(deserialize_with = "word")]
        word: Option<String>,
        #[serde(deserialize_with = "text")]
        text: String,
        #[serde(deserialize_with = "time")]
        time: Option<Timestamp>,
        #[serde(deserialize_with = "list")]
        list: Vec<Number>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Number(i64);

    impl Kept for Number {
        const MOST: usize = 3;

        fn counts(&self) -> bool {
            self.0 >= 0
        }

        fn trim(all: &mut Vec<Self>) {
            all.sort_by_key(|n| std::cmp::Reverse(n.0));
            all.truncate(Self::MOST);
        }
    }

    fn read(value: serde_json::Value) -> Option<Read> {
        let text = value.to_string();
        let read: Option<Read> = serde_json::from_str(&text).ok();
        assert_eq!(read, serde_json::from_value(value).ok());
        read
    }

    #[test]
    fn null_and_absent_are_nothing_and_another_type_is_refused() {
        let none = Read::default();
        assert_eq!(read(json!({})), Some(Read::default()));
        assert_eq!(read(json!({"word": null, "text": null, "time": null, "list": null})), Some(none));
        for other in [json!({"word": 1}), json!({"text": []}), json!({"list": {}}), json!({"list": ["x"]})] {
            assert_eq!(read(other), None);
        }
    }

    #[test]
    fn a_word_that_is_too_long_is_none_and_a_text_is_cut() {
        let long = "ä".repeat(TEXT_BYTES);
        let came = read(json!({"word": long, "text": long})).unwrap();
        assert_eq!((came.word, came.text.len()), (None, TEXT_BYTES));
        let fits = "w".repeat(WORD_BYTES);
        assert_eq!(read(json!({"word": fits, "text": "t"})).unwrap().word, Some(fits));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for other in
            [json!("yesterday"), json!(1), json!(-1), json!(0.5), json!(true), json!([[]]), json!({"a": {}})]
        {
            assert_eq!(read(json!({"time": other})).unwrap().time, None, "{other}");
        }
        let time = "2026-11-23T19:15:45Z";
        assert_eq!(read(json!({"time": time})).unwrap().time, time.parse().ok());
    }

    #[test]
    fn of_a_long_list_what_matters_is_kept() {
        let list = |range: Vec<i64>| read(json!({"list": range})).unwrap().list;
        assert_eq!(list((-9..100).collect()), [Number(99), Number(98), Number(97)]);
        assert_eq!(list((-9..2).rev().collect()), [Number(1), Number(0)]);
    }
}
