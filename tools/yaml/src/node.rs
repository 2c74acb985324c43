//! A value of a file, and where it stands.

use std::fmt;
use std::ops::Range;

use serde_norway::{Mapping, Value};

/// A line and a column, both from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Position {
    /// `12:7`, as compilers write it behind a file's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A list or an object on lines of their own.
    Block,
    /// A list or an object in brackets or braces, as in JSON.
    Flow,
    /// A text without quotes.
    Plain,
    /// A text in quotes.
    Quoted,
    /// A text after `|`.
    Literal,
    /// A text after `>`.
    Folded,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A text, a number, a boolean or nothing: its text without quotes.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// An object: keys and values in their order.
    Map(Vec<(Node, Node)>),
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// How it is written.
    pub style: Style,
    /// Where it begins.
    pub start: Position,
    /// Its bytes in the text, without spaces and comments behind it.
    pub span: Range<usize>,
    /// Whether it stands in more than one place of the document: an alias stands for it here or elsewhere.
    pub shared: bool,
}

impl Node {
    /// The value of a key of this object.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
    }

    /// The value that keys lead to, one after the other.
    pub fn at(&self, keys: &[&str]) -> Option<&Node> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The key of this object by its name, with its own place.
    pub fn key(&self, key: &str) -> Option<&Node> {
        self.entries().iter().map(|(name, _)| name).find(|name| name.text() == Some(key))
    }

    /// Keys and values of an object; none of anything else.
    pub fn entries(&self) -> &[(Node, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// What a list holds; nothing of anything else.
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a scalar, whatever it stands for.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a scalar that is not in quotes and reads as `null`, or of an empty one.
    pub fn is_null(&self) -> bool {
        self.value().is_null()
    }

    /// The value without its places.
    pub fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(text) if self.style == Style::Plain => plain(text),
            Kind::Scalar(text) => Value::String(text.clone()),
            Kind::List(items) => Value::Sequence(items.iter().map(Node::value).collect()),
            Kind::Map(entries) => {
                let entry = |(key, value): &(Node, Node)| (Value::from(key.text().unwrap_or_default()), value.value());
                Value::Mapping(entries.iter().map(entry).collect::<Mapping>())
            }
        }
    }

    /// Where a path such as `policies[0].breaker.failure_rate` leads to, or as far as it leads: its last part that is there. A
    /// key stands for its value where that is on the same line.
    pub fn find(&self, path: &str) -> Position {
        let mut node = self;
        let mut found = self.start;
        let mut rest = path;
        while !rest.is_empty() {
            if let Some((index, behind)) = index_of(rest) {
                let Some(item) = node.items().get(index) else { break };
                (node, found, rest) = (item, item.start, behind);
                continue;
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
            // A key may hold dots itself, so the longest one that fits is meant.
            let fits = |key: &str| {
                let behind = rest.strip_prefix(key)?;
                (behind.is_empty() || behind.starts_with(['.', '['])).then_some(behind)
            };
            let entry = node
                .entries()
                .iter()
                .filter_map(|(key, value)| Some((key, value, fits(key.text()?)?)))
                .min_by_key(|(_, _, behind)| behind.len());
            let Some((key, value, behind)) = entry else { break };
            (node, found, rest) = (value, key.start, behind);
        }
        found
    }

    /// Where a line and a column (from 1) of a text that this scalar holds stand in the file whose text is `source`. Only a text
    /// after `|` keeps its lines; for any other it is where the scalar begins.
    pub fn inner(&self, source: &str, line: usize, column: usize) -> Position {
        let Some(text) = self.text().filter(|_| self.style == Style::Literal) else { return self.start };
        let number = self.start.line + line;
        let indent = text.lines().nth(line.saturating_sub(1)).and_then(|content| {
            let whole = source.lines().nth(number.saturating_sub(1))?;
            Some(whole.strip_suffix(content)?.chars().count())
        });
        match indent {
            Some(indent) => Position { line: number, column: indent + column },
            None => self.start,
        }
    }
}

/// The index at the head of a path, and what is behind it.
fn index_of(path: &str) -> Option<(usize, &str)> {
    let (index, behind) = path.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, behind))
}

/// What a scalar without quotes stands for.
pub(crate) fn plain(text: &str) -> Value {
    // A text that is no document of its own (`a: b` cannot be one here) is a text.
    match serde_norway::from_str::<Value>(text) {
        Ok(value) if !value.is_mapping() && !value.is_sequence() => value,
        _ => Value::String(text.to_owned()),
    }
}
