//! A `google.protobuf.Struct` as a tree: Envoy hands over its bytes as they are on the wire, and of a text the text.
//!
//! Nothing in the bytes says which of the two they are. A Struct with anything in it begins with the key of its first field, a line
//! feed, as a text may; the text is then no Struct, because its other bytes are none of the lengths and keys that would follow.
//! Source: Envoy, `MessageUtil::anyToBytes`; struct.proto; Protocol Buffers, "Encoding".

use core::fmt;

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde_json::Number;

use super::error::{Report, Reported};
use super::json::Node;
use super::reader::key_path;
use super::{POLICIES, WHOLE};

/// The key of `fields`, of which each entry is a message of its own.
const FIELDS: u8 = 1 << 3 | 2;

/// Longer ones are refused: a few of their bytes take a hundred times as much memory.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// What no double beyond it says exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Whether bytes can only be meant as a Struct, or as another message: they begin as one, and are no text.
pub(super) fn is_meant(bytes: &[u8]) -> bool {
    bytes.first() == Some(&FIELDS) && !is_text(bytes)
}

/// Whether bytes are UTF-8, without any control character that no text has.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    let is_text = |text: &str| !text.contains(|char: char| char.is_control() && !matches!(char, '\t' | '\n' | '\r'));
    core::str::from_utf8(bytes).is_ok_and(is_text)
}

/// The tree that a Struct's bytes hold. Keys are in the order of the alphabet: a Struct has none.
pub(super) fn read(bytes: &[u8], report: &mut Report) -> Result<Node, Reported> {
    if bytes.len() > MAX_BYTES {
        let problem = format!(
            "a google.protobuf.Struct must be at most {} MiB ({MAX_BYTES} bytes) long, was {} bytes; a StringValue may be longer",
            MAX_BYTES / (1024 * 1024),
            bytes.len()
        );
        return Err(report.add(WHOLE, problem));
    }
    match Struct::decode(bytes) {
        Ok(structure) => {
            report.takes_texts_as_numbers = true;
            Reader { report, failed: None }.read(structure)
        }
        Err(error) => {
            let problem = format!("neither a text nor a google.protobuf.Struct: {}", cause(&error));
            Err(report.add(WHOLE, problem))
        }
    }
}

/// What is wrong, without the messages that lead to it: in a hostile one there are a hundred.
fn cause(error: &prost::DecodeError) -> String {
    let text = error.to_string();
    let mut rest = text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&text);
    while let Some((_, inner)) = rest.split_once(": ").filter(|(head, _)| head.contains('.') && !head.contains(' ')) {
        rest = inner;
    }
    if rest.contains("recursion limit") { "it nests too deeply".to_owned() } else { rest.to_owned() }
}

struct Reader<'r> {
    report: &'r mut Report,
    failed: Option<Reported>,
}

impl Reader<'_> {
    fn read(mut self, structure: Struct) -> Result<Node, Reported> {
        let root = self.object(structure, &Path::Root);
        self.failed.map_or(Ok(root), Err)
    }

    fn object(&mut self, structure: Struct, path: &Path<'_>) -> Node {
        let entry = |(key, value): (String, Value)| {
            let node = self.node(value, &Path::Key(path, &key));
            (key, node)
        };
        Node::Object(structure.fields.into_iter().map(entry).collect())
    }

    fn node(&mut self, value: Value, path: &Path<'_>) -> Node {
        match value.kind {
            None | Some(Kind::NullValue(_)) => Node::Null,
            Some(Kind::BoolValue(value)) => Node::Bool(value),
            Some(Kind::NumberValue(value)) => match number(value) {
                Some(number) => Node::Number(number),
                None => {
                    let problem = format!("must be a number that JSON has, was {value}");
                    self.failed = Some(self.report.add(&path.to_string(), problem));
                    Node::Null
                }
            },
            Some(Kind::StringValue(text)) => Node::String(text),
            Some(Kind::StructValue(structure)) => self.object(structure, path),
            Some(Kind::ListValue(list)) => {
                let items = list.values.into_iter().enumerate();
                Node::Array(items.map(|(index, value)| self.node(value, &Path::Index(path, index))).collect())
            }
        }
    }
}

/// A double as JSON has it; a whole one without decimals, as it was most likely written.
fn number(value: f64) -> Option<Number> {
    let is_whole = value.fract() == 0.0 && value.abs() <= EXACT && (value != 0.0 || value.is_sign_positive());
    if is_whole { Some((value as i64).into()) } else { Number::from_f64(value) }
}

/// The way to a value, which is only spelled out where something is wrong with that.
enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => f.write_str(WHOLE),
            Path::Key(Path::Root, POLICIES) => f.write_str(POLICIES),
            Path::Key(parent, key) => f.write_str(&key_path(&parent.to_string(), key)),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::ListValue;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn object(fields: Vec<(&str, Value)>) -> Struct {
        Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
    }

    fn list(values: Vec<Value>) -> Value {
        Kind::ListValue(ListValue { values }).into()
    }

    /// The bytes of lists in lists in a Struct, made from within.
    fn deeper(depth: usize) -> Vec<u8> {
        let framed = |key: u8, inner: &[u8]| {
            let mut bytes = vec![key];
            prost::encode_length_delimiter(inner.len(), &mut bytes).unwrap();
            [bytes.as_slice(), inner].concat()
        };
        let value = (0..depth).fold(Vec::new(), |inner, _| framed(0x32, &framed(0x0a, &inner)));
        framed(FIELDS, &[b"\x0a\x01a", framed(0x12, &value).as_slice()].concat())
    }

    fn text(structure: &Struct) -> String {
        let bytes = structure.encode_to_vec();
        assert!(is_meant(&bytes), "{bytes:?}");
        let mut report = Report::default();
        match read(&bytes, &mut report) {
            Ok(node) => node.to_text(),
            Err(_) => report.finish().unwrap_err().to_string(),
        }
    }

    fn problem(bytes: &[u8]) -> String {
        let mut report = Report::default();
        read(bytes, &mut report).expect_err("it is wrong");
        report.finish().unwrap_err().to_string()
    }

    #[test]
    fn values_are_those_of_json_and_keys_are_sorted() {
        let inner = object(vec![("z", "é\"".to_owned().into()), ("a", Kind::NullValue(0).into())]);
        let structure = object(vec![
            ("n", list([5.0, -2.5, 1e3, 0.0, -0.0, 1e300, 9e15, 1e16].map(Value::from).into())),
            ("b", list(vec![true.into(), Value { kind: None }, list(vec![]), Kind::StructValue(inner).into()])),
        ]);
        assert_eq!(
            text(&structure),
            r#"{"b":[true,null,[],{"a":null,"z":"é\""}],"n":[5,-2.5,1000,0,-0.0,1e+300,9000000000000000,1e+16]}"#
        );
    }

    #[test]
    fn numbers_that_json_has_not_are_all_refused_by_their_paths() {
        let bad = || list(vec![1.0.into(), f64::NAN.into()]);
        let policy =
            Kind::StructValue(object(vec![("a b", f64::NEG_INFINITY.into()), ("name", "a".to_owned().into())]));
        let structure = object(vec![("policies", list(vec![policy.into()])), ("x", bad())]);
        assert_eq!(
            text(&structure),
            "policies[0][\"a b\"]: must be a number that JSON has, was -inf\n\
             document.x[1]: must be a number that JSON has, was NaN"
        );
    }

    #[test]
    fn what_is_too_deep_too_long_or_cut_off_is_refused() {
        let deep = |depth: usize| {
            let inner = (0..depth).fold(Value::from(1.0), |inner, _| list(vec![inner]));
            object(vec![("a", inner)]).encode_to_vec()
        };
        let objects = (0..30).fold(Value::from(1.0), |inner, _| Kind::StructValue(object(vec![("a", inner)])).into());
        for deep in [deep(30), object(vec![("a", objects)]).encode_to_vec()] {
            assert!(read(&deep, &mut Report::default()).is_ok(), "deeper than a policy ever is");
        }
        let told = "document: neither a text nor a google.protobuf.Struct: it nests too deeply";
        assert_eq!(problem(&deep(60)), told);
        assert_eq!(problem(&deeper(5000)), told);
        let whole = object(vec![("policies", list(vec![]))]).encode_to_vec();
        for cut in 1..whole.len() {
            let told = problem(&whole[..cut]);
            assert!(
                told.starts_with("document: neither a text nor a google.protobuf.Struct: ") && told.len() < 120,
                "{told}"
            );
        }
        let long = object(vec![("a", list(vec![Value { kind: None }; MAX_BYTES / 2]))]).encode_to_vec();
        assert!(
            problem(&long)
                .starts_with("document: a google.protobuf.Struct must be at most 8 MiB (8388608 bytes) long, was ")
        );
        let most = object(vec![("a", list(vec![Value { kind: None }; MAX_BYTES / 2 - 16]))]).encode_to_vec();
        assert!(read(&most, &mut Report::default()).is_ok());
    }

    #[test]
    fn a_text_is_never_taken_for_one() {
        for text in ["", "{}", "\n{\"policies\": []}", "\npolicies: []", "\n\n\t\r\n x", "\n é"] {
            assert!(!is_meant(text.as_bytes()), "{text:?}");
        }
        assert!(!is_meant(b"\xff\xfe{"), "it does not begin as one");
    }
}
