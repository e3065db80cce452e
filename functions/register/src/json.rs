//! Reading JSON that nobody vouches for.
//!
//! serde_json would let the last of two equal keys win, and quotes in its errors what
//! it finds. Here equal keys are refused by their pointers, at any depth, and each
//! text is a `SecretString` from the moment it leaves the parser: what is a token is
//! known only later.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use monitor::request::Refusal;
use secrecy::{ExposeSecret, SecretString};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use crate::problem::{Kind, Problem};

/// How deep lists and objects may stand in one another. No field needs more than
/// four, beside the values of a chart; serde_json itself gives up at 128.
const MAX_DEPTH: usize = 64;

/// How many fields are refused at once. A body of refusals alone must not come back longer.
const MAX_REFUSALS: usize = 20;

/// The longest part of a field's name that is shown.
const MAX_SHOWN_CHARS: usize = 60;

/// JSON, with every text kept as a secret.
pub(crate) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(SecretString),
    List(Vec<Node>),
    Object(BTreeMap<String, Node>),
}

impl Node {
    /// What it is, for a sentence.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl From<Node> for Value {
    /// Of what holds no secret.
    fn from(node: Node) -> Self {
        match node {
            Node::Null => Self::Null,
            Node::Bool(it) => Self::Bool(it),
            Node::Number(it) => Self::Number(it),
            Node::Text(it) => Self::String(it.expose_secret().to_owned()),
            Node::List(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Node::Object(fields) => {
                Self::Object(fields.into_iter().map(|(name, it)| (name, Self::from(it))).collect())
            }
        }
    }
}

/// What is wrong with the form, in the order in which it was found.
#[derive(Default)]
pub(crate) struct Refusals(Vec<Refusal>);

impl Refusals {
    /// Refuses the field of the object at `at`; an empty name is a field's name, too.
    pub(crate) fn field(&mut self, at: &str, field: &str, detail: impl Into<String>) {
        self.at(pointer(at, field), detail);
    }

    pub(crate) fn at(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.0.len() < MAX_REFUSALS {
            self.0.push(Refusal { pointer: pointer.into(), detail: detail.into() });
        }
    }

    pub(crate) fn into_vec(self) -> Vec<Refusal> {
        self.0
    }
}

/// RFC 6901, of a name as it can be shown.
fn pointer(at: &str, field: &str) -> String {
    let shown: String = field.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect();
    format!("{at}/{}", shown.replace('~', "~0").replace('/', "~1"))
}

/// Reads a body; equal keys are among the refusals, the first of them counts.
///
/// # Errors
/// The problem with what is no JSON at all. It quotes nothing.
pub(crate) fn read(bytes: &[u8]) -> Result<(Node, Refusals), Problem> {
    if bytes.trim_ascii().is_empty() {
        return Err(Problem::new(Kind::Malformed, "the body is empty; a JSON object is awaited"));
    }
    let mut reading = Reading::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = Seed { reading: &mut reading, at: String::new(), depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|node| deserializer.end().map(|()| node));
    match read {
        Ok(node) => Ok((node, reading.refusals)),
        Err(_) if reading.too_deep => {
            let detail = format!("the body nests lists and objects more than {MAX_DEPTH} deep");
            Err(Problem::new(Kind::Malformed, detail))
        }
        Err(error) => {
            // The parser's own words may quote the body.
            let what = if error.is_eof() { "ends before it is complete" } else { "is not JSON" };
            let (line, column) = (error.line(), error.column());
            Err(Problem::new(Kind::Malformed, format!("the body {what}: line {line}, column {column}")))
        }
    }
}

#[derive(Default)]
struct Reading {
    refusals: Refusals,
    too_deep: bool,
}

/// Reads one value, knowing where it stands.
struct Seed<'a> {
    reading: &'a mut Reading,
    at: String,
    depth: usize,
}

impl Seed<'_> {
    /// One level down.
    fn enter<E: Error>(&mut self) -> Result<usize, E> {
        if self.depth == MAX_DEPTH {
            self.reading.too_deep = true;
            return Err(E::custom("too deep"));
        }
        Ok(self.depth + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, it: bool) -> Result<Node, E> {
        Ok(Node::Bool(it))
    }

    fn visit_i64<E>(self, it: i64) -> Result<Node, E> {
        Ok(Node::Number(it.into()))
    }

    fn visit_u64<E>(self, it: u64) -> Result<Node, E> {
        Ok(Node::Number(it.into()))
    }

    fn visit_f64<E: Error>(self, it: f64) -> Result<Node, E> {
        // JSON has no other numbers, so the parser gives none.
        Number::from_f64(it).map(Node::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Node, A::Error> {
        let depth = self.enter()?;
        let mut items = Vec::new();
        loop {
            let at = format!("{}/{}", self.at, items.len());
            match seq.next_element_seed(Seed { reading: self.reading, at, depth })? {
                Some(item) => items.push(item),
                None => return Ok(Node::List(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Node, A::Error> {
        let depth = self.enter()?;
        let mut fields = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let at = pointer(&self.at, &name);
            let value = map.next_value_seed(Seed { reading: self.reading, at, depth })?;
            match fields.entry(name) {
                Entry::Vacant(vacant) => {
                    vacant.insert(value);
                }
                Entry::Occupied(first) => {
                    self.reading.refusals.field(&self.at, first.key(), "it came more than once");
                }
            }
        }
        Ok(Node::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let text =
            r#" {"a": [null, true, -1, 18446744073709551615, 1.5, "\u00e4\n", {}, []], "": {"b": 0}} "#;
        let (node, refusals) = read(text.as_bytes()).unwrap();
        assert_eq!(Value::from(node), serde_json::from_str::<Value>(text).unwrap());
        assert!(refusals.into_vec().is_empty());
    }

    #[test]
    fn equal_keys_are_named_by_their_pointers_and_the_first_counts() {
        let text = r#"{"a": {"b/~": 1, "b\/~": 2}, "l": [{}, {"x": {"y": 1, "y": [{"z": 1, "z": 2}]}}], "\u0061": 3}"#;
        let (node, refusals) = read(text.as_bytes()).unwrap();
        let pointers: Vec<String> = refusals.into_vec().into_iter().map(|it| it.pointer).collect();
        assert_eq!(pointers, ["/a/b~1~0", "/l/1/x/y/0/z", "/l/1/x/y", "/a"]);
        assert_eq!(Value::from(node), json!({"a": {"b/~": 1}, "l": [{}, {"x": {"y": 1}}]}));
    }

    #[test]
    fn depth_has_an_end() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(nested(MAX_DEPTH).as_bytes()).is_ok());
        for depth in [MAX_DEPTH + 1, 127, 128, 30_000] {
            assert!(read(nested(depth).as_bytes()).is_err(), "{depth}");
        }
        let objects = format!("{}1{}", r#"{"a":"#.repeat(MAX_DEPTH + 1), "}".repeat(MAX_DEPTH + 1));
        assert!(read(objects.as_bytes()).is_err());
    }
}
