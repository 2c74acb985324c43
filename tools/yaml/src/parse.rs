//! Reading a text into values with places.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::node::{Kind, Node, Position, Style};

/// One of the documents of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its value; none where there is nothing but comments.
    pub root: Option<Node>,
}

/// A text that is no YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syntax {
    /// Where.
    pub at: Position,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.problem)
    }
}

impl std::error::Error for Syntax {}

/// Aliases within aliases must not fill the memory.
const MOST_NODES: usize = 1_000_000;
/// As deep as a text may nest.
const MOST_DEPTH: usize = 200;

/// Reads all documents of a text.
///
/// # Errors
///
/// The first place at which it is no YAML, has a key twice, or nests deeper than 200.
pub fn parse(text: &str) -> Result<Vec<Document>, Syntax> {
    let (read, offsets) = match one_escape_each(text) {
        Some((read, offsets)) => (Cow::Owned(read), Some(offsets)),
        None => (Cow::Borrowed(text), offsets(text)),
    };
    let mut builder =
        Builder { text, offsets, open: Vec::new(), anchors: HashMap::new(), aliased: Vec::new(), nodes: 0 };
    let mut documents = Vec::new();
    let mut root: Option<Node> = None;
    for event in Parser::new_from_str(&read) {
        let (event, span) = event.map_err(|error| Syntax {
            at: position(&Span::empty(*error.marker())),
            problem: error.info().to_owned(),
        })?;
        match event {
            Event::DocumentStart(..) => {
                root = None;
                builder.anchors.clear();
            }
            Event::DocumentEnd => {
                let aliased = std::mem::take(&mut builder.aliased);
                if let Some(root) = root.as_mut().filter(|_| !aliased.is_empty()) {
                    share_within(root, &aliased);
                }
                documents.push(Document { root: root.take() });
            }
            event => {
                if let Some(done) = builder.event(event, span)? {
                    root = Some(done);
                }
            }
        }
    }
    Ok(documents)
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

/// JSON writes a character outside of the basic plane as two escapes, which YAML has no word for. Gives the text with one YAML escape
/// in place of each such pair, and for each of its characters the byte of `text` that it comes from; none where there is no pair.
fn one_escape_each(text: &str) -> Option<(String, Vec<usize>)> {
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return None;
    }
    let unit = |at: usize| {
        let hex = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(hex, 16).ok()
    };
    let (mut read, mut offsets, mut at) = (String::with_capacity(text.len()), Vec::with_capacity(text.len()), 0);
    let mut escaped = false;
    while let Some(next) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let pair = unit(at).zip(unit(at + 6)).filter(|_| !escaped);
        let pair =
            pair.and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok().filter(|c| c.len_utf16() == 2));
        if let Some(c) = pair {
            let escape = format!("\\U{:08X}", u32::from(c));
            offsets.extend(std::iter::repeat_n(at, escape.len()));
            read.push_str(&escape);
            at += 12;
            continue;
        }
        escaped = next == '\\' && !escaped;
        offsets.push(at);
        read.push(next);
        at += next.len_utf8();
    }
    offsets.push(text.len());
    Some((read, offsets))
}

/// The byte at which each character begins, and the end: the parser counts characters.
fn offsets(text: &str) -> Option<Vec<usize>> {
    (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).chain([text.len()]).collect())
}

/// A list or an object that is not yet at its end.
struct Open {
    anchor: usize,
    start: Position,
    from: usize,
    flow: bool,
    map: bool,
    nodes: Vec<Node>,
}

struct Builder<'t> {
    text: &'t str,
    offsets: Option<Vec<usize>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    /// What aliases stand for.
    aliased: Vec<Range<usize>>,
    nodes: usize,
}

impl Builder<'_> {
    fn bytes(&self, span: &Span) -> Range<usize> {
        let byte = |index: usize| match &self.offsets {
            None => index.min(self.text.len()),
            Some(offsets) => offsets.get(index).copied().unwrap_or(self.text.len()),
        };
        byte(span.start.index())..byte(span.end.index())
    }

    /// Takes an event; gives the document's value where it is whole.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Node>, Syntax> {
        let start = position(&span);
        let bytes = self.bytes(&span);
        let fail = |problem: &str| Err(Syntax { at: start, problem: problem.to_owned() });
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let style = match style {
                    ScalarStyle::Plain if !is_text(tag.as_deref()) => Style::Plain,
                    ScalarStyle::Plain | ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    ScalarStyle::Literal => Style::Literal,
                    ScalarStyle::Folded => Style::Folded,
                };
                let written = self.text.get(bytes.clone()).unwrap_or_default();
                let mut end = bytes.start + written.trim_end().len();
                // Empty lines that a text after `|+` keeps are its own.
                let kept = text.len() - text.trim_end_matches('\n').len();
                if matches!(style, Style::Literal | Style::Folded) && kept > 1 {
                    let lines = written.get(end - bytes.start..).unwrap_or_default().match_indices('\n');
                    end += lines.map(|(at, _)| at).nth(kept - 1).unwrap_or(0);
                }
                let kind = Kind::Scalar(text.into_owned());
                let from = match style {
                    Style::Literal => self.header(bytes.start, '|'),
                    Style::Folded => self.header(bytes.start, '>'),
                    _ => bytes.start,
                };
                let start = if from == bytes.start { start } else { self.position(from) };
                let node = Node { kind, style, start, span: from..end.max(from), shared: false };
                self.anchor(anchor, &node);
                self.put(node)
            }
            Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => {
                if self.open.len() >= MOST_DEPTH {
                    return fail("nests deeper than 200");
                }
                let map = matches!(event, Event::MappingStart(..));
                let written = self.text.get(bytes.start..).unwrap_or_default();
                let flow = written.starts_with(if map { '{' } else { '[' });
                self.open.push(Open { anchor, start, from: bytes.start, flow, map, nodes: Vec::new() });
                Ok(None)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(None) };
                let (anchor, flow) = (open.anchor, open.flow);
                let (mut start, mut from) = (open.start, open.from);
                // The parser has a list that stands as deep as its key behind its first dash.
                let first = open.nodes.first().map_or(usize::MAX, |node| node.span.start);
                if !open.map && !flow && first <= from {
                    let dashes = self.text.get(..from).unwrap_or_default().rmatch_indices('-').map(|(at, _)| at);
                    let leads = |at: &usize| {
                        let line = self.text.get(..*at).and_then(|before| before.rsplit('\n').next());
                        line.is_some_and(|line| line.trim().is_empty())
                    };
                    from = dashes.into_iter().find(leads).unwrap_or(from);
                    start = self.position(from);
                }
                let kind = if open.map {
                    let mut entries = pairs(open.nodes)?;
                    for (key, value) in &mut entries {
                        self.seat(value, key.span.end, ':');
                    }
                    Kind::Map(entries)
                } else {
                    let mut items = open.nodes;
                    let mut before = from;
                    for item in items.iter_mut().filter(|_| !flow) {
                        self.seat(item, before, '-');
                        before = item.span.end;
                    }
                    Kind::List(items)
                };
                let last = match &kind {
                    Kind::Map(entries) => entries.last().map(|(key, value)| value.span.end.max(key.span.end)),
                    Kind::List(items) => items.last().map(|item| item.span.end),
                    Kind::Scalar(_) => None,
                };
                // The parser counts spaces and a comment behind a bracket as its own.
                let end = if flow { bytes.start + 1 } else { last.unwrap_or(from) };
                let style = if flow { Style::Flow } else { Style::Block };
                let node = Node { kind, style, start, span: from..end.max(from), shared: false };
                self.anchor(anchor, &node);
                self.put(node)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else { return fail("an alias for what is not whole yet") };
                // It reads as what it stands for, and stands where the alias is.
                let mut node = node.clone();
                self.aliased.push(node.span.clone());
                share(&mut node);
                self.nodes += count(&node);
                (node.start, node.span) = (start, bytes);
                self.put(node)
            }
            _ => Ok(None),
        }
    }

    /// A value that is not written stands right behind the sign that announces it; the parser has it where it noticed.
    fn seat(&self, node: &mut Node, from: usize, sign: char) {
        if node.span.is_empty() && node.style == Style::Plain {
            let at = behind(self.text, from, sign).unwrap_or(from);
            node.span = at..at;
            node.start = self.position(at);
        }
    }

    /// Where the sign of a text on lines stands, which the parser has at its first line with something in it.
    fn header(&self, content: usize, sign: char) -> usize {
        if self.text.get(content..).is_some_and(|text| text.starts_with(['&', '!', sign])) {
            return content;
        }
        let above = self.text.get(..content).unwrap_or_default().trim_end_matches(' ').trim_end();
        let line = above.rfind('\n').map_or(0, |end| end + 1);
        let head = above.get(line..).unwrap_or_default();
        let head = head.split_once(" #").map_or(head, |(head, _)| head);
        head.rfind(sign).map_or(content, |at| line + at)
    }

    fn position(&self, at: usize) -> Position {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
        Position { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }

    fn anchor(&mut self, anchor: usize, node: &Node) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
    }

    fn put(&mut self, node: Node) -> Result<Option<Node>, Syntax> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            return Err(Syntax { at: node.start, problem: "has more than 1000000 values, aliases counted".to_owned() });
        }
        match self.open.last_mut() {
            Some(open) => {
                open.nodes.push(node);
                Ok(None)
            }
            None => Ok(Some(node)),
        }
    }
}

/// Behind the first `sign` from a place on that stands in no comment.
pub(crate) fn behind(text: &str, from: usize, sign: char) -> Option<usize> {
    let mut comment = false;
    let rest = text.get(from..)?;
    for (at, c) in rest.char_indices() {
        comment = (comment && c != '\n') || c == '#';
        if !comment && c == sign {
            return Some(from + at + sign.len_utf8());
        }
    }
    None
}

/// A tag `!!str` or `!`: a text whatever it looks like.
fn is_text(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| (tag.is_yaml_core_schema() && tag.suffix() == "str") || tag.suffix().is_empty())
}

fn share(node: &mut Node) {
    node.shared = true;
    match &mut node.kind {
        Kind::Scalar(_) => {}
        Kind::List(items) => items.iter_mut().for_each(share),
        Kind::Map(entries) => entries.iter_mut().for_each(|(_, value)| share(value)),
    }
}

/// Marks what stands within one of these parts of the text.
fn share_within(node: &mut Node, aliased: &[Range<usize>]) {
    if aliased.iter().any(|part| part.start <= node.span.start && node.span.end <= part.end) {
        share(node);
        return;
    }
    match &mut node.kind {
        Kind::Scalar(_) => {}
        Kind::List(items) => items.iter_mut().for_each(|item| share_within(item, aliased)),
        Kind::Map(entries) => entries.iter_mut().for_each(|(_, value)| share_within(value, aliased)),
    }
}

fn count(node: &Node) -> usize {
    match &node.kind {
        Kind::Scalar(_) => 1,
        Kind::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Kind::Map(entries) => 1 + entries.iter().map(|(_, value)| 1 + count(value)).sum::<usize>(),
    }
}

/// Keys and values in turn, as pairs. A key that is there twice is an error: readers differ in which one they take.
fn pairs(nodes: Vec<Node>) -> Result<Vec<(Node, Node)>, Syntax> {
    let mut entries = Vec::with_capacity(nodes.len() / 2);
    let mut seen: HashMap<String, Position> = HashMap::new();
    let mut nodes = nodes.into_iter();
    while let (Some(key), Some(value)) = (nodes.next(), nodes.next()) {
        let Some(name) = key.text() else {
            return Err(Syntax { at: key.start, problem: "a key must be a text".to_owned() });
        };
        if let Some(first) = seen.insert(name.to_owned(), key.start) {
            let problem = format!("the key {name} is there twice, first in line {}", first.line);
            return Err(Syntax { at: key.start, problem });
        }
        entries.push((key, value));
    }
    Ok(entries)
}
