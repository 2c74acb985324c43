//! JSON as it was written: key order and duplicate keys are kept, so that both can be judged.
//!
//! Types are checked later and all at once; deserializing into the final types would stop at the first wrong one.

use core::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Number;

/// One JSON value. Depth is bounded by the parser's recursion limit (128), so recursion over it is too.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    /// In the order written; a key may be there twice.
    Object(Vec<(String, Node)>),
}

/// Why bytes are no JSON; `line` and `column` count from 1.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) cause: String,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Node {
    /// Parses exactly one JSON value.
    pub(super) fn parse(bytes: &[u8]) -> Result<Node, SyntaxError> {
        serde_json::from_slice(bytes).map_err(|error| {
            let text = error.to_string();
            // The position is told apart from the cause here; serde_json appends it to the text.
            let cause = text.rsplit_once(" at line ").map_or(text.as_str(), |(cause, _)| cause);
            SyntaxError { cause: cause.to_owned(), line: error.line(), column: error.column() }
        })
    }

    /// The value as compact JSON.
    pub(super) fn to_text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
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

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value).map(Node::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Node, E> {
        Ok(Node::String(value))
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

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Null => serializer.serialize_unit(),
            Node::Bool(value) => serializer.serialize_bool(*value),
            Node::Number(value) => value.serialize(serializer),
            Node::String(value) => serializer.serialize_str(value),
            Node::Array(items) => serializer.collect_seq(items),
            Node::Object(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn values_come_back_as_they_were_written() {
        let text = r#"{"z":1,"a":[true,null,-2,1.5,"é\n"],"z":{}}"#;
        let node = Node::parse(text.as_bytes()).unwrap();
        assert_eq!(node.to_text().unwrap(), text, "order and duplicate keys are kept");
    }

    #[test]
    fn an_error_has_its_position() {
        let error = Node::parse(b"{\n  \"a\": 1,\n}").unwrap_err();
        assert_eq!((error.line, error.column), (3, 1));
        assert_eq!(error.cause, "trailing comma");
    }

    #[test]
    fn depth_is_limited() {
        let deep = "[".repeat(100_000);
        assert_eq!(Node::parse(deep.as_bytes()).unwrap_err().cause, "recursion limit exceeded");
    }

    #[test]
    fn what_is_not_one_value_is_refused() {
        for bytes in [&b"{} {}"[..], b"\"\xff\"", b"1e999", b"nul", b"policies: []"] {
            assert!(Node::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
