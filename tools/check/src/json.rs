//! JSON as values with their places. Keys that are there twice stay: the module's reader judges them.

use holdfast_yaml::{Kind, Node, Position, Style};
use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use crate::reader::Reader;

/// A text as a tree; none where it is no JSON.
pub fn tree(text: &str) -> Option<Node> {
    // Its reader goes as deep as a text does; this one does not.
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let parsed = parse_to_ast(text, &CollectOptions::default(), &ParseOptions::default()).ok()?;
    let lines = text.match_indices('\n').map(|(at, _)| at + 1);
    let starts: Vec<usize> = std::iter::once(0).chain(lines).collect();
    Some(Tree { text, starts }.node(&parsed.value?))
}

struct Tree<'t> {
    text: &'t str,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl Tree<'_> {
    fn position(&self, byte: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= byte);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..byte).map_or(0, |before| before.chars().count());
        Position { line, column: column + 1 }
    }

    fn node(&self, value: &Value<'_>) -> Node {
        let (kind, style) = match value {
            Value::StringLit(text) => (Kind::Scalar(text.value.to_string()), Style::Quoted),
            Value::NumberLit(number) => (Kind::Scalar(number.value.to_owned()), Style::Plain),
            Value::BooleanLit(word) => (Kind::Scalar(word.value.to_string()), Style::Plain),
            Value::NullKeyword(_) => (Kind::Scalar("null".to_owned()), Style::Plain),
            Value::Array(array) => {
                (Kind::List(array.elements.iter().map(|item| self.node(item)).collect()), Style::Flow)
            }
            Value::Object(object) => {
                let entries = object.properties.iter().map(|entry| {
                    let key = Kind::Scalar(entry.name.as_str().to_owned());
                    (self.made(key, Style::Quoted, &entry.name), self.node(&entry.value))
                });
                (Kind::Map(entries.collect()), Style::Flow)
            }
        };
        self.made(kind, style, value)
    }

    fn made(&self, kind: Kind, style: Style, at: &impl Ranged) -> Node {
        let (start, end) = (at.start(), at.end());
        Node { kind, style, start: self.position(start), span: start..end, shared: false }
    }
}

/// A value of YAML as JSON, as `reader` has it; the error is what JSON has no word for, and where.
pub fn text(node: &Node, reader: Reader) -> Result<String, (Position, String)> {
    let mut out = String::new();
    write(node, reader, &mut out)?;
    Ok(out)
}

fn write(node: &Node, reader: Reader, out: &mut String) -> Result<(), (Position, String)> {
    match &node.kind {
        Kind::Map(entries) => {
            out.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                out.push_str(&serde_json::Value::from(key.text().unwrap_or_default()).to_string());
                out.push(':');
                write(value, reader, out)?;
            }
            out.push('}');
        }
        Kind::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write(item, reader, out)?;
            }
            out.push(']');
        }
        Kind::Scalar(text) => match reader.scalar(node) {
            Some(value) => out.push_str(&value.to_string()),
            None => return Err((node.start, format!("{text} is no value that JSON has"))),
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_places_and_keys_that_are_there_twice() {
        let root = tree("{\"a\": [1, \"é\", null],\n\t\"a\": true}").unwrap();
        assert_eq!(root.entries().len(), 2);
        let (key, value) = root.entries().last().unwrap();
        assert_eq!((key.start.line, key.start.column, value.start.column), (2, 2, 7));
        assert!(tree("{\"a\": 1,}").is_none() && tree("{'a': 1}").is_none() && tree("").is_none());
        assert!(tree(&"[".repeat(100_000)).is_none());
    }

    #[test]
    fn yaml_becomes_json() {
        let node = holdfast_yaml::parse("a: [1, 1.5, yes, 'no', null, true]\n\"on\": |\n  x\n").unwrap().remove(0).root;
        assert_eq!(text(&node.unwrap(), Reader::Plain).unwrap(), r#"{"a":[1,1.5,"yes","no",null,true],"on":"x\n"}"#);
        let node = holdfast_yaml::parse("a:\n- .nan\n").unwrap().remove(0).root.unwrap();
        assert_eq!(text(&node, Reader::Plain).unwrap_err().0, Position { line: 2, column: 3 });
    }
}
