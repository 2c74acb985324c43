//! YAML as it is printed: keys in the order in which they are given, a comment above a key, JSON as a block.

use std::fmt::Write;
use std::time::Duration;

use serde_norway::Value;

use crate::node::{Kind, Node, Style, plain};

/// A value to print.
#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// As it stands, quoted where it has to be.
    Text(String),
    /// A number, a boolean: as it stands.
    Plain(String),
    /// Several lines, as a block.
    Block(String),
    /// A list.
    List(Vec<Yaml>),
    /// An object.
    Map(Vec<Entry>),
    /// A small list or object on one line.
    Line(Box<Yaml>),
    /// A value of a file, in the words in which it stands there.
    Moved(Moved),
}

/// A value as it is written in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    /// Its lines, the least indented one at the margin.
    text: String,
    /// The same for one line.
    flat: Box<Yaml>,
    /// Whether it begins on a line of its own.
    block: bool,
}

/// How a file lays out what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// By how many columns an object stands deeper than its key.
    pub step: usize,
    /// By how many columns a list does.
    pub list: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Layout { step: 2, list: 0 }
    }
}

/// A key with its value and the comment above it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Yaml,
    /// The comment above it; empty for none.
    pub comment: String,
}

/// The longest line of a comment, with its indentation.
const WIDTH: usize = 126;

impl Yaml {
    /// An empty object.
    pub fn map() -> Self {
        Yaml::Map(Vec::new())
    }

    /// The object with one more key.
    #[must_use]
    pub fn with(self, key: &str, value: impl Into<Yaml>) -> Self {
        self.noted("", key, value)
    }

    /// The object with one more key if there is a value.
    #[must_use]
    pub fn with_some(self, key: &str, value: Option<impl Into<Yaml>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The object with one more key, and a comment above it.
    #[must_use]
    pub fn noted(mut self, comment: &str, key: &str, value: impl Into<Yaml>) -> Self {
        if let Yaml::Map(entries) = &mut self {
            entries.push(Entry { key: key.to_owned(), value: value.into(), comment: comment.to_owned() });
        }
        self
    }

    /// The object with the keys of another one behind its own.
    #[must_use]
    pub fn and(mut self, other: Yaml) -> Self {
        if let (Yaml::Map(entries), Yaml::Map(more)) = (&mut self, other) {
            entries.extend(more);
        }
        self
    }

    /// The value on one line.
    #[must_use]
    pub fn line(self) -> Self {
        Yaml::Line(Box::new(self))
    }

    /// The value of a key of an object.
    pub fn get(&self, key: &str) -> Option<&Yaml> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The same to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Yaml> {
        match self {
            Yaml::Map(entries) => entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.value),
            Yaml::Line(value) => value.get_mut(key),
            _ => None,
        }
    }

    /// The value that keys lead to, one after the other.
    pub fn at_mut(&mut self, keys: &[&str]) -> Option<&mut Yaml> {
        keys.iter().try_fold(self, |value, key| value.get_mut(key))
    }

    /// Keys and values of an object; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match self {
            Yaml::Map(entries) => entries,
            Yaml::Line(value) => value.entries(),
            _ => &[],
        }
    }

    /// What a list holds; nothing of anything else.
    pub fn items(&self) -> &[Yaml] {
        match self {
            Yaml::List(items) => items,
            Yaml::Line(value) => value.items(),
            _ => &[],
        }
    }

    /// The same to change it, where it is a list.
    pub fn items_mut(&mut self) -> Option<&mut Vec<Yaml>> {
        match self {
            Yaml::List(items) => Some(items),
            Yaml::Line(value) => value.items_mut(),
            _ => None,
        }
    }

    /// Gives a key of an object this value: in its place where it is there, else as the last one, with the comment. What is no
    /// object becomes one.
    pub fn set(&mut self, comment: &str, key: &str, value: impl Into<Yaml>) {
        let value = value.into();
        if let Yaml::Line(inner) = self {
            return inner.set(comment, key, value);
        }
        if !matches!(self, Yaml::Map(_)) {
            *self = Yaml::map();
        }
        if let Yaml::Map(entries) = self {
            match entries.iter_mut().find(|entry| entry.key == key) {
                Some(entry) => entry.value = value,
                None => entries.push(Entry { key: key.to_owned(), value, comment: comment.to_owned() }),
            }
        }
    }

    /// Gives an object a new key with this value, behind the last of `keys` that it has, else at its end.
    pub fn set_behind(&mut self, keys: &[&str], comment: &str, key: &str, value: impl Into<Yaml>) {
        if let Yaml::Line(inner) = self {
            return inner.set_behind(keys, comment, key, value);
        }
        if let Yaml::Map(entries) = self {
            let at =
                entries.iter().rposition(|entry| keys.contains(&entry.key.as_str())).map_or(entries.len(), |at| at + 1);
            entries.insert(at, Entry { key: key.to_owned(), value: value.into(), comment: comment.to_owned() });
        }
    }

    /// Takes a key out of an object.
    pub fn remove(&mut self, key: &str) -> Option<Yaml> {
        match self {
            Yaml::Map(entries) => {
                let at = entries.iter().position(|entry| entry.key == key)?;
                Some(entries.remove(at).value)
            }
            Yaml::Line(value) => value.remove(key),
            _ => None,
        }
    }

    /// A value of a file whose text is `source`, to stand elsewhere with its comments.
    pub fn moved(node: &Node, source: &str) -> Self {
        let flat = Yaml::from(node);
        let written = source.get(node.span.clone()).unwrap_or_default();
        if node.shared || matches!(node.kind, Kind::Scalar(_)) {
            return flat;
        }
        // What stands behind it on its last line is a comment of its.
        let behind = source.get(node.span.end..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let behind = if behind.trim_start().starts_with('#') { behind.trim_end() } else { "" };
        let margin = node.start.column - 1;
        let mut text = String::new();
        for (index, line) in written.lines().enumerate() {
            let spaces = line.len() - line.trim_start_matches(' ').len();
            let line = if index == 0 { line } else { line.get(spaces.min(margin)..).unwrap_or_default() };
            text.push_str(if index == 0 { "" } else { "\n" });
            text.push_str(line.trim_end());
        }
        let block = node.style == Style::Block;
        if block {
            text.push_str(behind);
        }
        Yaml::Moved(Moved { text, flat: Box::new(flat), block })
    }

    /// The value without comments and layout.
    pub fn value(&self) -> Value {
        match self {
            Yaml::Text(text) => Value::String(text.clone()),
            Yaml::Plain(text) => plain(text),
            // As a block is read: one line end at its end.
            Yaml::Block(text) => Value::String(format!("{}\n", text.trim_end_matches('\n'))),
            Yaml::List(items) => Value::Sequence(items.iter().map(Yaml::value).collect()),
            Yaml::Map(entries) => Value::Mapping(
                entries.iter().map(|entry| (Value::from(entry.key.as_str()), entry.value.value())).collect(),
            ),
            Yaml::Line(value) => value.value(),
            Yaml::Moved(moved) => moved.flat.value(),
        }
    }

    /// Whether it is an object without keys.
    pub fn is_empty(&self) -> bool {
        matches!(self, Yaml::Map(entries) if entries.is_empty())
    }

    /// The value as a document, which ends in a newline.
    pub fn document(&self) -> String {
        let mut out = String::new();
        self.block(0, Layout::default(), &mut out);
        out
    }

    /// Writes lines that begin at `indent`; the first one's indentation is written by the caller where `out` does not end a line.
    pub(crate) fn block(&self, indent: usize, layout: Layout, out: &mut String) {
        match self {
            Yaml::Map(entries) if !entries.is_empty() => {
                for entry in entries {
                    comment(&entry.comment, indent, out);
                    pad(indent, out);
                    entry.write(indent, layout, out);
                }
            }
            Yaml::List(items) if !items.is_empty() => {
                for item in items {
                    comment(item.first_comment(), indent, out);
                    pad(indent, out);
                    out.push('-');
                    item.after_dash(indent, layout, out);
                }
            }
            other => {
                pad(indent, out);
                other.inline(out);
                out.push('\n');
            }
        }
    }

    pub(crate) fn first_comment(&self) -> &str {
        match self {
            Yaml::Map(entries) => entries.first().map_or("", |entry| &entry.comment),
            _ => "",
        }
    }

    fn after_key(&self, indent: usize, layout: Layout, out: &mut String) {
        match self {
            Yaml::Map(entries) if !entries.is_empty() => {
                out.push('\n');
                self.block(indent + layout.step, layout, out);
            }
            Yaml::List(items) if !items.is_empty() => {
                out.push('\n');
                self.block(indent + layout.list, layout, out);
            }
            Yaml::Moved(moved) if moved.block => {
                out.push('\n');
                let list = matches!(*moved.flat, Yaml::List(_));
                moved.lines(indent + if list { layout.list } else { layout.step }, true, out);
            }
            Yaml::Block(text) => {
                out.push_str(" |\n");
                for line in text.lines() {
                    if !line.is_empty() {
                        pad(indent + 2, out);
                    }
                    out.push_str(line);
                    out.push('\n');
                }
            }
            other => {
                out.push(' ');
                other.inline(out);
                out.push('\n');
            }
        }
    }

    pub(crate) fn after_dash(&self, indent: usize, layout: Layout, out: &mut String) {
        match self {
            Yaml::Map(entries) if !entries.is_empty() => {
                // The first key stands behind the dash, its comment above both.
                for (index, entry) in entries.iter().enumerate() {
                    if index == 0 {
                        out.push(' ');
                    } else {
                        comment(&entry.comment, indent + 2, out);
                        pad(indent + 2, out);
                    }
                    entry.write(indent + 2, layout, out);
                }
            }
            Yaml::Moved(moved) if moved.block => {
                out.push(' ');
                moved.lines(indent + 2, false, out);
            }
            other => {
                out.push(' ');
                other.inline(out);
                out.push('\n');
            }
        }
    }

    pub(crate) fn inline(&self, out: &mut String) {
        match self {
            Yaml::Text(text) | Yaml::Block(text) => out.push_str(&scalar(text)),
            Yaml::Plain(text) => out.push_str(text),
            Yaml::Line(value) => value.inline(out),
            Yaml::Moved(moved) => moved.flat.inline(out),
            Yaml::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { ", " });
                    item.inline(out);
                }
                out.push(']');
            }
            Yaml::Map(entries) => {
                out.push('{');
                for (index, entry) in entries.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { ", " });
                    out.push_str(&scalar(&entry.key));
                    out.push_str(": ");
                    entry.value.inline(out);
                }
                out.push('}');
            }
        }
    }
}

impl Entry {
    pub(crate) fn write(&self, indent: usize, layout: Layout, out: &mut String) {
        out.push_str(&scalar(&self.key));
        out.push(':');
        self.value.after_key(indent, layout, out);
    }
}

impl Moved {
    fn lines(&self, indent: usize, first: bool, out: &mut String) {
        for (index, line) in self.text.lines().enumerate() {
            if !line.is_empty() && (first || index > 0) {
                pad(indent, out);
            }
            out.push_str(line);
            out.push('\n');
        }
    }
}

/// A value of a file, to change it. Comments are not in it.
impl From<&Node> for Yaml {
    fn from(node: &Node) -> Self {
        match &node.kind {
            Kind::Scalar(text) if node.style == Style::Plain => Yaml::Plain(text.clone()),
            Kind::Scalar(text) if node.style == Style::Literal && is_block(text) => Yaml::Block(text.clone()),
            Kind::Scalar(text) => Yaml::Text(text.clone()),
            Kind::List(items) => Yaml::List(items.iter().map(Yaml::from).collect()),
            Kind::Map(entries) => Yaml::Map(
                entries
                    .iter()
                    .map(|(key, value)| Entry {
                        key: key.text().unwrap_or_default().to_owned(),
                        value: Yaml::from(value),
                        comment: String::new(),
                    })
                    .collect(),
            ),
        }
    }
}

/// Whether a text written as a block is read as the same text.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or_default();
    !body.is_empty() && !body.ends_with('\n') && !text.starts_with([' ', '\n', '\t'])
}

impl From<&str> for Yaml {
    fn from(text: &str) -> Self {
        Yaml::Text(text.to_owned())
    }
}

impl From<String> for Yaml {
    fn from(text: String) -> Self {
        Yaml::Text(text)
    }
}

impl From<bool> for Yaml {
    fn from(value: bool) -> Self {
        Yaml::Plain(value.to_string())
    }
}

impl From<u16> for Yaml {
    fn from(value: u16) -> Self {
        Yaml::Plain(value.to_string())
    }
}

impl From<u32> for Yaml {
    fn from(value: u32) -> Self {
        Yaml::Plain(value.to_string())
    }
}

impl From<u64> for Yaml {
    fn from(value: u64) -> Self {
        Yaml::Plain(value.to_string())
    }
}

impl From<f64> for Yaml {
    fn from(value: f64) -> Self {
        Yaml::Plain(value.to_string())
    }
}

impl From<Vec<Yaml>> for Yaml {
    fn from(items: Vec<Yaml>) -> Self {
        Yaml::List(items)
    }
}

/// As protobuf's JSON has it: seconds, with a fraction where there is one.
impl From<Duration> for Yaml {
    fn from(value: Duration) -> Self {
        let nanos = value.subsec_nanos();
        let mut text = value.as_secs().to_string();
        if nanos > 0 {
            let _ = write!(text, ".{nanos:09}");
            text.truncate(text.trim_end_matches('0').len());
        }
        Yaml::Plain(text + "s")
    }
}

pub(crate) fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

pub(crate) fn comment(text: &str, indent: usize, out: &mut String) {
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && indent + line.chars().count() + word.chars().count() + 3 > WIDTH {
                pad(indent, out);
                let _ = writeln!(out, "# {line}");
                line.clear();
            }
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
        pad(indent, out);
        let _ = writeln!(out, "# {line}");
    }
}

/// A text as a scalar: plain where YAML 1.1 and 1.2 both read that as the same text, else in double quotes as in JSON.
pub(crate) fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/|:*~".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/');
    let ends = !text.ends_with(':');
    let reserved = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let word = reserved.iter().any(|word| text.eq_ignore_ascii_case(word));
    if starts && ends && !word && text.chars().all(plain) {
        text.to_owned()
    } else {
        serde_json::to_string(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Yaml {
        Yaml::map()
            .with("name", "orders")
            .noted(
                "Why it is there.",
                "list",
                vec![
                    Yaml::map().with("a", 1_u32).with("b", Yaml::map().with("c", "no")),
                    Yaml::from("x: y"),
                    Yaml::map().with("only", Yaml::List(vec!["1".into(), "two".into()]).line()),
                ],
            )
            .with("json", Yaml::Block("{\n\n  \"a\": 1\n}\n".to_owned()))
            .with("empty", Yaml::map())
            .with("time", Duration::from_millis(1500))
            .with("@type", "type.googleapis.com/x.y.Z")
            .with("glob", "outbound|8080||orders.shop.svc.cluster.local")
    }

    #[test]
    fn a_document_is_laid_out_like_those_that_people_write() {
        let expected = r#"name: orders
# Why it is there.
list:
- a: 1
  b:
    c: "no"
- "x: y"
- only: ["1", two]
json: |
  {

    "a": 1
  }
empty: {}
time: 1.5s
"@type": type.googleapis.com/x.y.Z
glob: outbound|8080||orders.shop.svc.cluster.local
"#;
        assert_eq!(sample().document(), expected);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in
            ["", "no", "1", "1.0", "a: b", "#", "'", "\"", "é", "a\nb", "*x", "-", "~", "a:", "outbound|80||*.x", "{}"]
        {
            let document = Yaml::map().with("key", text).with(text, "value").document();
            let value: serde_norway::Value = serde_norway::from_str(&document).unwrap();
            assert_eq!(value.get("key").and_then(|value| value.as_str()), Some(text), "{document}");
            assert_eq!(value.get(text).and_then(|value| value.as_str()), Some("value"), "{document}");
        }
    }
}
