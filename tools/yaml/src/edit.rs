//! Changing a file: what stays the same stays as it is written, with its comments and its layout.
//!
//! The change is given as the value that a document shall have. Where it differs from the one that is there, the text is changed:
//! keys and items are put in or taken out, others replaced. The result is read again and compared with what was wanted.

use std::fmt;
use std::ops::Range;

use serde_norway::Value;

use crate::node::{Kind, Node, Position, Style};
use crate::parse::{Document, behind, parse};
use crate::writer::{Entry, Layout, Yaml, comment, pad, scalar};

/// A change that cannot be written without losing something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unedited {
    /// Where.
    pub at: Position,
    /// Why not.
    pub problem: String,
}

impl fmt::Display for Unedited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.problem)
    }
}

impl std::error::Error for Unedited {}

/// The text with `want` as the value of its document `index` (from 0).
///
/// # Errors
///
/// Where the text is no YAML, or where the change would have to be made in two places that an alias ties together.
pub fn edit(text: &str, index: usize, want: &Yaml) -> Result<String, Unedited> {
    // Line ends and a mark of the encoding are put back as they were.
    let (mark, body) = text.strip_prefix('\u{feff}').map_or(("", text), |body| ("\u{feff}", body));
    let returns = body.contains("\r\n");
    let body = if returns { body.replace("\r\n", "\n") } else { body.to_owned() };
    let unread = |error: crate::Syntax| Unedited { at: error.at, problem: error.problem };
    let documents = parse(&body).map_err(unread)?;
    let Some(root) = documents.get(index).and_then(|document| document.root.as_ref()) else {
        return Err(Unedited {
            at: Position { line: 1, column: 1 },
            problem: format!("has no document {}", index + 1),
        });
    };
    let json = serde_json::from_str::<serde_json::Value>(&body).is_ok();
    let mut edit = Edit { text: &body, layout: layout(root), json, splices: Vec::new(), tied: None };
    edit.node(root, want, None);
    let tied = edit.tied;
    let changed = edit.apply();
    // What is written is what was wanted, or it is not written.
    let again = parse(&changed).unwrap_or_default();
    let values = |documents: &[Document]| -> Vec<Option<Value>> {
        documents.iter().map(|document| document.root.as_ref().map(Node::value)).collect()
    };
    let mut wanted = values(&documents);
    if let Some(document) = wanted.get_mut(index) {
        *document = Some(want.value());
    }
    if values(&again) != wanted {
        let problem = match tied {
            Some(_) => {
                "what has to change here is tied to another place by an anchor and an alias: write it out in both"
            }
            None => "the change cannot be written into this layout",
        };
        return Err(Unedited { at: tied.unwrap_or(root.start), problem: problem.to_owned() });
    }
    let changed = if returns { changed.replace('\n', "\r\n") } else { changed };
    Ok(format!("{mark}{changed}"))
}

/// How the file is laid out: what most of its lines do.
fn layout(root: &Node) -> Layout {
    fn walk(node: &Node, steps: &mut Vec<usize>, lists: &mut Vec<usize>) {
        for (key, value) in node.entries() {
            // In braces it is the first key within that shows it.
            let within =
                if value.style == Style::Flow { value.entries().first().map(|(key, _)| key) } else { Some(value) };
            if let Some(within) = within.filter(|within| within.start.line > key.start.line) {
                let deeper = within.start.column.saturating_sub(key.start.column);
                match (&value.kind, value.style) {
                    (Kind::Map(_), _) => steps.push(deeper),
                    (Kind::List(_), Style::Block) => lists.push(deeper),
                    _ => {}
                }
            }
            walk(value, steps, lists);
        }
        node.items().iter().for_each(|item| walk(item, steps, lists));
    }
    let (mut steps, mut lists) = (Vec::new(), Vec::new());
    walk(root, &mut steps, &mut lists);
    let default = Layout::default();
    Layout {
        step: median(steps).filter(|step| (1..=8).contains(step)).unwrap_or(default.step),
        list: median(lists).filter(|list| *list <= 8).unwrap_or(default.list),
    }
}

fn median(mut values: Vec<usize>) -> Option<usize> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// A part of the text and what stands there instead.
struct Splice {
    at: Range<usize>,
    with: String,
}

struct Edit<'t> {
    text: &'t str,
    layout: Layout,
    json: bool,
    splices: Vec<Splice>,
    /// The first place that changes and is tied to another one.
    tied: Option<Position>,
}

impl Edit<'_> {
    fn apply(mut self) -> String {
        // Those at one place in the order in which they were made.
        self.splices.sort_by_key(|splice| splice.at.start);
        let mut out = String::new();
        let mut done = 0;
        for splice in &self.splices {
            out.push_str(self.text.get(done..splice.at.start).unwrap_or_default());
            out.push_str(&splice.with);
            done = done.max(splice.at.end);
        }
        out.push_str(self.text.get(done..).unwrap_or_default());
        out
    }

    fn splice(&mut self, at: Range<usize>, with: String) {
        self.splices.push(Splice { at, with });
    }

    /// Makes `want` of a node; `key` is its key where it stands in an object on lines of its own.
    fn node(&mut self, node: &Node, want: &Yaml, key: Option<&Node>) {
        if node.value() == want.value() {
            return;
        }
        match &node.kind {
            _ if node.shared => {
                self.tied = self.tied.or(Some(node.start));
                self.replace(node, want, key);
            }
            Kind::Map(entries) if !entries.is_empty() && !want.entries().is_empty() => {
                self.map(node, entries, want.entries(), key);
            }
            Kind::List(items) if !items.is_empty() && !want.items().is_empty() => {
                self.list(node, items, want.items(), key)
            }
            _ => self.replace(node, want, key),
        }
    }

    fn map(&mut self, node: &Node, entries: &[(Node, Node)], want: &[Entry], key: Option<&Node>) {
        let wanted = |key: &Node| want.iter().any(|entry| Some(entry.key.as_str()) == key.text());
        let kept: Vec<usize> =
            entries.iter().enumerate().filter(|(_, (key, _))| wanted(key)).map(|(index, _)| index).collect();
        let Some(first) = kept.first() else {
            // Nothing stays: the whole is written anew.
            let all = Yaml::Map(want.to_vec());
            return self.replace(node, &all, key);
        };
        for index in (0..entries.len()).filter(|index| !kept.contains(index)) {
            self.remove(node, entries, index, &kept);
        }
        // A new key stands behind the one that it follows.
        let mut behind = *first;
        for entry in want {
            match entries.iter().position(|(key, _)| key.text() == Some(entry.key.as_str())) {
                Some(index) => {
                    let Some((key, value)) = entries.get(index) else { continue };
                    self.node(value, &entry.value, (node.style == Style::Block).then_some(key));
                    behind = index;
                }
                None => self.add_key(node, entries, behind, entry),
            }
        }
    }

    fn add_key(&mut self, node: &Node, entries: &[(Node, Node)], behind: usize, entry: &Entry) {
        let (Some((key, value)), Some((first, _))) = (entries.get(behind), entries.first()) else { return };
        let indent = first.start.column - 1;
        if node.style == Style::Block {
            let at = self.line_end(value.span.end.max(key.span.end));
            let mut with = String::new();
            comment(&entry.comment, indent, &mut with);
            pad(indent, &mut with);
            entry.write(indent, self.layout, &mut with);
            self.put_lines(at, with);
            return;
        }
        let several = self.on_lines(node);
        let mut with = if several { format!(",\n{}", " ".repeat(self.indent_within(first))) } else { ", ".to_owned() };
        with.push_str(&self.flow_key(&entry.key));
        self.flow(&entry.value, several.then(|| self.indent_within(first)), &mut with);
        let at = value.span.end;
        self.splice(at..at, with);
    }

    fn remove(&mut self, node: &Node, entries: &[(Node, Node)], index: usize, kept: &[usize]) {
        let Some((key, value)) = entries.get(index) else { return };
        let last = kept.last().copied().unwrap_or(0);
        let next = entries.get(index + 1);
        let from = key.span.start;
        let to = value.span.end.max(key.span.end);
        if node.style == Style::Block {
            let line = self.line_start(from);
            let alone = self.text.get(line..from).is_some_and(|prefix| prefix.trim().is_empty());
            match next {
                _ if alone => self.splice(line..self.line_end(to), String::new()),
                // It stands behind a dash: the next key that stays takes its place.
                _ => {
                    let stays = kept.iter().find(|stays| **stays > index).and_then(|stays| entries.get(*stays));
                    match stays {
                        Some((stays, _)) => self.splice(from..stays.span.start, String::new()),
                        None => self.splice(from..to, "{}".to_owned()),
                    }
                }
            }
            return;
        }
        match (next, entries.get(last)) {
            (Some((next, _)), _) if index < last => self.splice(from..next.span.start, String::new()),
            // Behind the last one that stays, all at once, with the comma before them.
            (None, Some((_, stays))) => self.splice(stays.span.end..to, String::new()),
            _ => {}
        }
    }

    fn list(&mut self, node: &Node, items: &[Node], want: &[Yaml], key: Option<&Node>) {
        let pairs = paired(items, want);
        let Some((last, _)) = pairs.last().copied() else {
            return self.replace(node, &Yaml::List(want.to_vec()), key);
        };
        let mut next = 0;
        for (index, item) in items.iter().enumerate() {
            let Some(partner) = pairs.iter().find(|(old, _)| *old == index).map(|(_, new)| *new) else {
                self.remove_item(node, items, index, last);
                continue;
            };
            for new in want.get(next..partner).unwrap_or_default() {
                self.add_item_before(node, index, item, new);
            }
            if let Some(want) = want.get(partner) {
                self.node(item, want, None);
            }
            next = partner + 1;
        }
        for new in want.get(next..).unwrap_or_default() {
            self.add_item_behind(node, items, new);
        }
    }

    fn add_item_before(&mut self, list: &Node, index: usize, item: &Node, new: &Yaml) {
        if list.style == Style::Block {
            let dash = self.dash(list, index);
            let line = self.line_start(dash);
            let prefix = self.text.get(line..dash).unwrap_or_default();
            if prefix.trim().is_empty() {
                // Comments right above the item are the item's.
                let at = self.above_comments(line);
                let with = self.block_item(prefix.chars().count(), new);
                self.splice(at..at, with);
            } else {
                let indent = prefix.chars().count();
                let mut with = "-".to_owned();
                new.after_dash(indent, self.layout, &mut with);
                pad(indent, &mut with);
                self.splice(dash..dash, with);
            }
            return;
        }
        let several = self.on_lines(list);
        let mut with = String::new();
        self.flow(new, several.then(|| self.indent_within(item)), &mut with);
        with.push_str(if several { ",\n" } else { ", " });
        if several {
            pad(self.indent_within(item), &mut with);
        }
        self.splice(item.span.start..item.span.start, with);
    }

    fn add_item_behind(&mut self, list: &Node, items: &[Node], new: &Yaml) {
        let (Some(first), Some(last)) = (items.first(), items.last()) else { return };
        if list.style == Style::Block {
            let dash = self.dash(list, 0);
            let indent = self.text.get(self.line_start(dash)..dash).unwrap_or_default().chars().count();
            let with = self.block_item(indent, new);
            let at = self.line_end(last.span.end);
            self.put_lines(at, with);
            return;
        }
        let several = self.on_lines(list);
        let mut with = if several { format!(",\n{}", " ".repeat(self.indent_within(first))) } else { ", ".to_owned() };
        self.flow(new, several.then(|| self.indent_within(first)), &mut with);
        self.splice(last.span.end..last.span.end, with);
    }

    fn remove_item(&mut self, list: &Node, items: &[Node], index: usize, last: usize) {
        let Some(item) = items.get(index) else { return };
        let next = items.get(index + 1);
        if list.style == Style::Block {
            let dash = self.dash(list, index);
            let line = self.line_start(dash);
            let alone = self.text.get(line..dash).is_some_and(|prefix| prefix.trim().is_empty());
            match next {
                _ if alone => self.splice(line..self.line_end(item.span.end), String::new()),
                Some(_) => self.splice(dash..self.dash(list, index + 1), String::new()),
                None => self.splice(dash..item.span.end, "[]".to_owned()),
            }
            return;
        }
        match (next, items.get(last)) {
            (Some(next), _) if index < last => self.splice(item.span.start..next.span.start, String::new()),
            (None, Some(stays)) => self.splice(stays.span.end..item.span.end, String::new()),
            _ => {}
        }
    }

    fn block_item(&self, indent: usize, new: &Yaml) -> String {
        let mut with = String::new();
        comment(new.first_comment(), indent, &mut with);
        pad(indent, &mut with);
        with.push('-');
        new.after_dash(indent, self.layout, &mut with);
        with
    }

    /// Writes a value anew.
    fn replace(&mut self, node: &Node, want: &Yaml, key: Option<&Node>) {
        let Some(key) = key else {
            let before = self.text.get(self.line_start(node.span.start)..node.span.start).unwrap_or_default();
            let mut with = String::new();
            if node.style == Style::Block || self.text.get(..node.span.start).is_some_and(|text| text.ends_with("- ")) {
                match before.chars().count().checked_sub(2) {
                    Some(indent) => want.after_dash(indent, self.layout, &mut with),
                    // No dash is before it: the document as a whole.
                    None => want.block(before.chars().count(), self.layout, &mut with),
                }
                let with = with.trim_start_matches(' ').trim_end_matches('\n').to_owned();
                return self.splice(node.span.clone(), with);
            }
            let several = self.on_lines(node).then(|| self.indent_of(node));
            // What is not written stands right behind its dash or colon.
            with.push_str(if node.span.is_empty() { " " } else { "" });
            self.flow(want, several, &mut with);
            return self.splice(node.span.clone(), with);
        };
        let indent = key.start.column - 1;
        let entry =
            Entry { key: key.text().unwrap_or_default().to_owned(), value: want.clone(), comment: String::new() };
        let mut with = String::new();
        entry.write(indent, self.layout, &mut with);
        let with = with.trim_end_matches('\n');
        let with = with.split_once(':').map_or(with, |(_, behind)| behind);
        // The key as it is written; behind it a colon.
        let colon = self
            .text
            .get(key.span.end..)
            .and_then(|rest| rest.find(':'))
            .map_or(key.span.end, |at| key.span.end + at + 1);
        let end = node.span.end.max(colon);
        let rest = self.text.get(end..self.line_end(end)).unwrap_or_default().trim_end();
        if with.contains('\n') && rest.trim_start().starts_with('#') {
            // A comment behind the old value stands above the new one.
            let above = format!("{}\n{}", rest.trim_start(), " ".repeat(indent));
            self.splice(key.span.start..key.span.start, above);
            let with = with.to_owned();
            return self.splice(colon..end + rest.len(), with);
        }
        let with = with.to_owned();
        // Spaces behind the old value would become a part of a text after `|`.
        let line = self.text.get(end..self.line_end(end)).unwrap_or_default().trim_end_matches('\n');
        let end = if line.trim().is_empty() { end + line.len() } else { end };
        self.splice(colon..end, with);
    }

    /// A value in braces or brackets, or a scalar: on one line, or on lines where `indent` is that of the line it begins on.
    fn flow(&self, value: &Yaml, indent: Option<usize>, out: &mut String) {
        let mut line = String::new();
        if self.json {
            line.push_str(&serde_json::to_string(&value.value()).unwrap_or_default());
        } else {
            value.inline(&mut line);
        }
        let Some(indent) = indent.filter(|indent| indent + line.chars().count() > 100) else {
            return out.push_str(&line);
        };
        let step = self.layout.step;
        let pad_to = |depth: usize, out: &mut String| {
            out.push('\n');
            pad(depth, out);
        };
        let flat = match value {
            Yaml::Line(value) => value,
            other => other,
        };
        if !flat.entries().is_empty() {
            out.push('{');
            for (index, entry) in flat.entries().iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                pad_to(indent + step, out);
                out.push_str(&self.flow_key(&entry.key));
                self.flow(&entry.value, Some(indent + step), out);
            }
            pad_to(indent, out);
            out.push('}');
        } else if !flat.items().is_empty() {
            out.push('[');
            for (index, item) in flat.items().iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                pad_to(indent + step, out);
                self.flow(item, Some(indent + step), out);
            }
            pad_to(indent, out);
            out.push(']');
        } else {
            out.push_str(&line);
        }
    }

    fn flow_key(&self, key: &str) -> String {
        let key = if self.json { serde_json::to_string(key).unwrap_or_default() } else { scalar(key) };
        key + ": "
    }

    /// Whether what stands in braces or brackets has more than one line.
    fn on_lines(&self, node: &Node) -> bool {
        self.text.get(node.span.clone()).is_some_and(|text| text.contains('\n'))
    }

    /// The indentation of the line on which a node begins.
    fn indent_of(&self, node: &Node) -> usize {
        let line = self.text.get(self.line_start(node.span.start)..).unwrap_or_default();
        line.len() - line.trim_start_matches(' ').len()
    }

    /// The indentation of what stands in braces beside a node.
    fn indent_within(&self, node: &Node) -> usize {
        let before = self.text.get(self.line_start(node.span.start)..node.span.start).unwrap_or_default();
        let step = if before.trim().is_empty() { 0 } else { self.layout.step };
        self.indent_of(node) + step
    }

    fn line_start(&self, at: usize) -> usize {
        self.text.get(..at).and_then(|text| text.rfind('\n')).map_or(0, |end| end + 1)
    }

    /// Behind the end of the line.
    fn line_end(&self, at: usize) -> usize {
        self.text.get(at..).and_then(|text| text.find('\n')).map_or(self.text.len(), |end| at + end + 1)
    }

    /// Lines that stand at the end of a line; the text's last one may have no end.
    fn put_lines(&mut self, at: usize, with: String) {
        let open = at == self.text.len() && !self.text.ends_with('\n');
        let with = if open { format!("\n{}", with.trim_end_matches('\n')) } else { with };
        self.splice(at..at, with);
    }

    /// Where the dash of an item stands.
    fn dash(&self, list: &Node, index: usize) -> usize {
        let items = list.items();
        let before =
            index.checked_sub(1).and_then(|before| items.get(before)).map_or(list.span.start, |item| item.span.end);
        let sign = behind(self.text, before, '-').map(|behind| behind - 1);
        sign.unwrap_or(items.get(index).map_or(list.span.start, |item| item.span.start))
    }

    /// The start of the first of the comment lines right above a line.
    fn above_comments(&self, line: usize) -> usize {
        let mut at = line;
        while at > 0 {
            let above = self.line_start(at - 1);
            if !self.text.get(above..at).is_some_and(|text| text.trim_start().starts_with('#')) {
                break;
            }
            at = above;
        }
        at
    }
}

/// Which items stay, in their order: as many as can, and rather those that are equal than those that only have the same name.
fn paired(items: &[Node], want: &[Yaml]) -> Vec<(usize, usize)> {
    let old: Vec<Value> = items.iter().map(Node::value).collect();
    let new: Vec<Value> = want.iter().map(Yaml::value).collect();
    // As many of the same kinds, some with names that were not there: changed in their place, their names too.
    let in_place = |(old_one, new_one): (&Value, &Value)| {
        let renamed = called(new_one).is_none_or(|name| !old.iter().any(|other| called(other) == Some(name)));
        called(old_one) == called(new_one) || (kind(old_one) == kind(new_one) && renamed)
    };
    if old.len() == new.len() && old.iter().zip(&new).all(in_place) {
        return (0..old.len()).map(|index| (index, index)).collect();
    }
    // What both begin and end with is left out of the search.
    let head = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let (last_old, last_new) = (old.len() - tail, new.len() - tail);
    let (old_middle, new_middle) =
        (old.get(head..last_old).unwrap_or_default(), new.get(head..last_new).unwrap_or_default());
    let middle = heaviest(old_middle, new_middle).into_iter().map(|(old, new)| (head + old, head + new));
    let begin = (0..head).map(|index| (index, index));
    let end = (0..tail).map(|index| (last_old + index, last_new + index));
    begin.chain(middle).chain(end).collect()
}

/// The longest common subsequence, where equal items count twice as much as those of one name.
fn heaviest(old: &[Value], new: &[Value]) -> Vec<(usize, usize)> {
    let weight = |old: &Value, new: &Value| match (old == new, called(old)) {
        (true, _) => 2_usize,
        (false, Some(name)) if called(new) == Some(name) => 1,
        _ => 0,
    };
    // Each cell has the best weight from there on, and whether its two items are a pair of it.
    let width = new.len() + 1;
    let mut best = vec![(0, false); (old.len() + 1) * width];
    let at =
        |best: &[(usize, bool)], row: usize, column: usize| best.get(row * width + column).copied().unwrap_or_default();
    for (row, old) in old.iter().enumerate().rev() {
        for (column, new) in new.iter().enumerate().rev() {
            let without = at(&best, row + 1, column).0.max(at(&best, row, column + 1).0);
            let weight = weight(old, new);
            let with = if weight == 0 { 0 } else { weight + at(&best, row + 1, column + 1).0 };
            if let Some(cell) = best.get_mut(row * width + column) {
                *cell = if with > without { (with, true) } else { (without, false) };
            }
        }
    }
    let (mut row, mut column, mut pairs) = (0, 0, Vec::new());
    while row < old.len() && column < new.len() {
        if at(&best, row, column).1 {
            pairs.push((row, column));
            (row, column) = (row + 1, column + 1);
        } else if at(&best, row + 1, column).0 >= at(&best, row, column + 1).0 {
            row += 1;
        } else {
            column += 1;
        }
    }
    pairs
}

/// What an entry of a list is called in the files that this is for: by its name, or by that of what it holds.
fn called(value: &Value) -> Option<&str> {
    value.get("name").and_then(Value::as_str).or_else(|| kind(value))
}

/// What an entry of a list holds.
fn kind(value: &Value) -> Option<&str> {
    let extension = || value.get("typed_extension_config")?.get("name")?.as_str();
    extension().or_else(|| value.get("@type")?.as_str())
}
