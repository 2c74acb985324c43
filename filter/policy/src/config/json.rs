//! JSON as it was written: key order and duplicate keys are kept, so that both can be judged.
//!
//! Types are checked later and all at once; deserializing into the final types would stop at the first wrong one.

use core::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Number;

/// One JSON value. Its depth is bounded by `serde_json`'s limit, so recursion over it is too.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    /// In the order written; a key may be there twice.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Parses exactly one JSON value.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Node, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The value as compact JSON.
    pub(crate) fn to_text(&self) -> String {
        to_text(self)
    }
}

/// A text as it stands between the quotes of a JSON string.
pub fn escaped(text: &str) -> String {
    let quoted = to_text(text);
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default().to_owned()
}

/// A number that stands in a text as JSON has it.
pub(super) fn number(text: &str) -> Option<f64> {
    match Node::parse(text.as_bytes()) {
        Ok(Node::Number(number)) => number.as_f64(),
        _ => None,
    }
}

/// What is wrong, without the position that `serde_json` ends its messages with.
pub fn cause(error: &serde_json::Error) -> String {
    let mut text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.truncate(text.strip_suffix(&position).map_or(text.len(), str::len));
    text
}

fn to_text<T: Serialize + ?Sized>(value: &T) -> String {
    // Only a map with keys that are no texts has no JSON, and there is none here.
    serde_json::to_string(value).unwrap_or_default()
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Null => serializer.serialize_unit(),
            Node::Bool(value) => serializer.serialize_bool(*value),
            Node::Number(number) => number.serialize(serializer),
            Node::String(text) => serializer.serialize_str(text),
            Node::Array(items) => serializer.collect_seq(items),
            Node::Object(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value).map(Node::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn values_come_back_as_they_were_written() {
        let text = r#"{"z":1,"a":[true,null,-2,1.5,-0.0,1e+300,"é\n\u0001"],"z":{}}"#;
        let node = Node::parse(text.as_bytes()).unwrap();
        assert_eq!(node.to_text(), text, "order and duplicate keys are kept");
    }

    #[test]
    fn numbers_keep_their_kind() {
        let number = |text: &str| Node::parse(text.as_bytes()).unwrap().to_text();
        assert_eq!(number("18446744073709551615"), "18446744073709551615");
        assert_eq!(number("-9223372036854775808"), "-9223372036854775808");
        assert_eq!(number("18446744073709551616"), "1.8446744073709552e+19");
        assert_eq!(number("5.0"), "5.0");
        assert_eq!(number("-0"), "-0.0");
    }

    #[test]
    fn an_error_has_its_position_and_its_cause() {
        let error = Node::parse(b"{\n  \"a\": 1,\n}").unwrap_err();
        assert_eq!((error.line(), error.column()), (3, 1));
        assert_eq!(cause(&error), "trailing comma");
    }

    #[test]
    fn texts_are_escaped_without_their_quotes() {
        assert_eq!(escaped("a\"\\\u{8}\u{c}\n\r\t\u{1f}\u{7f}é/"), "a\\\"\\\\\\b\\f\\n\\r\\t\\u001f\u{7f}é/");
        assert_eq!(escaped(""), "");
        assert_eq!(escaped("\""), "\\\"");
    }

    #[test]
    fn depth_is_limited() {
        for open in ["[", "{\"a\":"] {
            let nested = |depth: usize| Node::parse((open.repeat(depth) + "1").as_bytes()).unwrap_err();
            assert_ne!(cause(&nested(127)), "recursion limit exceeded");
            assert_eq!(cause(&nested(128)), "recursion limit exceeded");
            assert_eq!(cause(&nested(100_000)), "recursion limit exceeded");
        }
    }

    #[test]
    fn what_is_not_one_value_is_refused() {
        for bytes in [&b"{} {}"[..], b"\"\xff\"", b"1e999", b"nul", b"policies: []"] {
            assert!(Node::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
