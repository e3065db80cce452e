//! The values of a release, and looking up in them what is expected.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::Expect;

/// A value that is written longer than this many times the expected one's text
/// is another: a character can be written as six (`\u0041`), and white space is
/// rare in what machines write.
const LONGER: usize = 8;

/// No values are nested deeper; a parser that makes a tree gives up there, too.
const DEEPEST: usize = 128;

/// White space is not held against a short one.
const SPACE_BYTES: usize = 4 * 1024;

/// The values of a release.
///
/// They stay text: as a tree they could take a hundred times its size, and a
/// check may hold those of forty targets. `Debug` shows nothing of them: they
/// may hold passwords.
#[derive(Clone)]
pub struct Values(Form);

#[derive(Clone)]
enum Form {
    /// As they came.
    Text(Box<RawValue>),
    /// What was looked up, by its pointer.
    LookedUp(BTreeMap<String, Found>),
}

/// What stands where a value is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Expected,
    Other,
}

impl Values {
    /// How long they are as text, in bytes; 0 once they were looked up.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match &self.0 {
            Form::Text(text) => text.get().len(),
            Form::LookedUp(_) => 0,
        }
    }

    /// Keeps of them only how they compare to what is expected. Another
    /// expectation is not found in what is left.
    pub fn look_up(&mut self, expect: &Expect) {
        self.0 = Form::LookedUp(self.found(expect).into_owned());
    }

    /// What stands at the expected pointers; those at which nothing stands are left out.
    pub(crate) fn found(&self, expect: &Expect) -> Cow<'_, BTreeMap<String, Found>> {
        let text = match &self.0 {
            Form::LookedUp(found) => return Cow::Borrowed(found),
            Form::Text(text) => text,
        };
        let paths: Vec<Vec<String>> = expect.values.keys().map(|pointer| path(pointer)).collect();
        let wanted: Vec<Wanted<'_>> = expect
            .values
            .iter()
            .zip(&paths)
            .filter(|((pointer, _), _)| pointer.is_empty() || pointer.starts_with('/'))
            .map(|((pointer, expected), path)| Wanted { pointer, left: path, expected })
            .collect();
        let mut found = BTreeMap::new();
        search(text, 0, &wanted, &mut found);
        Cow::Owned(found)
    }
}

impl From<Box<RawValue>> for Values {
    fn from(text: Box<RawValue>) -> Self {
        Self(Form::Text(text))
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::from)
    }
}

impl PartialEq for Values {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Form::Text(a), Form::Text(b)) => a.get() == b.get(),
            (Form::LookedUp(a), Form::LookedUp(b)) => a == b,
            (Form::Text(_), Form::LookedUp(_)) | (Form::LookedUp(_), Form::Text(_)) => false,
        }
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Values(..)")
    }
}

/// A value that is expected, and the way that is left to it.
#[derive(Clone, Copy)]
struct Wanted<'e> {
    pointer: &'e str,
    left: &'e [String],
    expected: &'e Value,
}

/// The steps of a JSON pointer (RFC 6901, section 4).
fn path(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect()
}

/// Looks up what is wanted below this text, which lies so deep.
fn search(text: &RawValue, depth: usize, wanted: &[Wanted<'_>], found: &mut BTreeMap<String, Found>) {
    let mut steps: BTreeMap<&str, Vec<Wanted<'_>>> = BTreeMap::new();
    for wanted in wanted {
        match wanted.left.split_first() {
            Some((step, left)) => steps.entry(step).or_default().push(Wanted { left, ..*wanted }),
            None => {
                let there = if is(text.get(), wanted.expected) { Found::Expected } else { Found::Other };
                found.insert(wanted.pointer.to_owned(), there);
            }
        }
    }
    if steps.is_empty() || depth >= DEEPEST {
        return;
    }
    let names = steps.keys().copied().collect();
    let mut json = serde_json::Deserializer::from_str(text.get());
    // What can't be read holds nothing that is expected.
    let children = Children(&names).deserialize(&mut json).unwrap_or_default();
    for (step, child) in children {
        if let Some(wanted) = steps.get(step.as_ref()) {
            search(child, depth + 1, wanted, found);
        }
    }
}

/// A string equals a scalar's text form, so that `"8080"` in a pipeline's
/// variable meets `8080` in YAML, and the other way round; else JSON equality.
fn is(text: &str, expected: &Value) -> bool {
    if text.len() > expected.to_string().len() * LONGER + SPACE_BYTES {
        return false;
    }
    match (expected, serde_json::from_str(text)) {
        (Value::String(text), Ok(Value::Number(n))) => *text == n.to_string(),
        (Value::Number(n), Ok(Value::String(text))) => text == n.to_string(),
        (Value::String(text), Ok(Value::Bool(b))) => *text == b.to_string(),
        (Value::Bool(b), Ok(Value::String(text))) => text == b.to_string(),
        (expected, Ok(found)) => *expected == found,
        (_, Err(_)) => false,
    }
}

/// Those children of an object or array that have one of these names.
struct Children<'w>(&'w BTreeSet<&'w str>);

impl<'de> DeserializeSeed<'de> for Children<'_> {
    type Value = BTreeMap<Cow<'de, str>, &'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A name that is borrowed where it is written without escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Children<'_> {
    type Value = BTreeMap<Cow<'de, str>, &'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut children = BTreeMap::new();
        while let Some(Name(name)) = fields.next_key()? {
            if self.0.contains(name.as_ref()) {
                // Of a name that comes twice the last one counts, as with Helm.
                children.insert(name, fields.next_value()?);
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(children)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        // A pointer writes an index without leading zeros.
        let wanted: BTreeSet<usize> = self
            .0
            .iter()
            .filter_map(|name| name.parse().ok().filter(|index: &usize| index.to_string() == **name))
            .collect();
        let mut children = BTreeMap::new();
        for index in 0.. {
            let end = if wanted.contains(&index) {
                let item = items.next_element()?;
                item.map(|item| children.insert(Cow::Owned(index.to_string()), item)).is_none()
            } else {
                items.next_element::<IgnoredAny>()?.is_none()
            };
            if end {
                break;
            }
        }
        Ok(children)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(BTreeMap::new())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Values {
        serde_json::from_str(text).unwrap()
    }

    fn found(values: &Values, pointer: &str, expected: Value) -> Option<Found> {
        let expect = Expect { values: [(pointer.to_owned(), expected)].into(), ..Expect::default() };
        let found = values.found(&expect).get(pointer).copied();
        let mut kept = values.clone();
        kept.look_up(&expect);
        assert_eq!(kept.found(&expect).get(pointer).copied(), found);
        assert_eq!(kept.text_bytes(), 0);
        found
    }

    #[test]
    fn pointers_lead_where_a_tree_would_lead_them() {
        let text = r#"{"a": {"b": [10, {"c/d": "x", "e~f": null}], "": 1}, "\u0061b": true, "twice": 1, "twice": 2}"#;
        let tree: Value = serde_json::from_str(text).unwrap();
        for pointer in [
            "",
            "/a",
            "/a/b",
            "/a/b/0",
            "/a/b/1",
            "/a/b/1/c~1d",
            "/a/b/1/e~0f",
            "/a/",
            "/ab",
            "/twice",
            "/a/b/00",
            "/a/b/-1",
            "/a/b/2",
            "/a/b/+0",
            "/a/b/0/0",
            "/x",
            "/ab/x",
            "a",
            "/a/b/18446744073709551616",
        ] {
            let there = tree.pointer(pointer).cloned();
            let expected = there.clone().unwrap_or_default();
            assert_eq!(
                found(&values(text), pointer, expected),
                there.as_ref().map(|_| Found::Expected),
                "{pointer}"
            );
            assert_eq!(
                found(&values(text), pointer, json!("other")),
                there.map(|_| Found::Other),
                "{pointer}"
            );
        }
    }

    #[test]
    fn many_are_looked_up_at_once() {
        let expect = Expect {
            values: [("/a", json!({"b": 1})), ("/a/b", json!(1)), ("/a/c", json!(1)), ("/d", json!(2))]
                .map(|(pointer, value)| (pointer.to_owned(), value))
                .into(),
            ..Expect::default()
        };
        let found = values(r#"{"a": {"b": 1}, "d": 1}"#).found(&expect).into_owned();
        let expected = [("/a", Found::Expected), ("/a/b", Found::Expected), ("/d", Found::Other)];
        assert_eq!(found, expected.map(|(pointer, found)| (pointer.to_owned(), found)).into());
    }

    #[test]
    fn what_is_far_longer_than_expected_is_another() {
        let spread = format!("{{\"a\": [{}1]}}", " ".repeat(3_000));
        assert_eq!(found(&values(&spread), "/a", json!([1])), Some(Found::Expected));
        let escaped = format!(r#"{{"a": "{}"}}"#, r"\u0061".repeat(2_000));
        assert_eq!(found(&values(&escaped), "/a", json!("a".repeat(2_000))), Some(Found::Expected));
        let padded = format!("{{\"a\": [{}1]}}", " ".repeat(5_000));
        assert_eq!(found(&values(&padded), "/a", json!([1])), Some(Found::Other));
    }

    #[test]
    fn a_pointer_without_an_end_is_not_followed() {
        let deep = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(found(&values(&deep(100)), &"/0".repeat(100), json!(1)), Some(Found::Expected));
        assert_eq!(found(&values(&deep(50_000)), &"/0".repeat(50_000), json!(1)), None);
    }

    #[test]
    fn nothing_of_them_is_shown() {
        assert_eq!(format!("{:?}", values(r#"{"password": "hunter2"}"#)), "Values(..)");
    }
}
