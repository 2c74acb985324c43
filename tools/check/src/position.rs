//! Where a part of a document stands in its file, through the text that holds it.

use holdfast_yaml::{Node, Position, Style};

/// Where a path such as `policies[0].match.header["x-tenant"]` leads to, or as far as it leads: its last part that is there. A
/// key that is there twice is meant where it is there last.
pub fn find(root: &Node, path: &str) -> Position {
    let (mut node, mut found, mut rest) = (root, root.start, path);
    while !rest.is_empty() {
        if let Some((key, behind)) = quoted_key(rest) {
            let Some((name, value)) = entry(node, |name| name == key) else { break };
            (node, found, rest) = (value, name.start, behind);
        } else if let Some((index, behind)) = index(rest) {
            let Some(item) = node.items().get(index) else { break };
            (node, found, rest) = (item, item.start, behind);
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let key = rest.get(..rest.find(['.', '[']).unwrap_or(rest.len())).unwrap_or(rest);
            let Some((name, value)) = entry(node, |name| name == key) else { break };
            (node, found, rest) = (value, name.start, rest.get(key.len()..).unwrap_or_default());
        }
    }
    found
}

fn entry(node: &Node, is: impl Fn(&str) -> bool) -> Option<&(Node, Node)> {
    node.entries().iter().rev().find(|(name, _)| name.text().is_some_and(&is))
}

/// The index at the head of a path, and what is behind it.
fn index(path: &str) -> Option<(usize, &str)> {
    let (index, behind) = path.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, behind))
}

/// The key in brackets and quotes at the head of a path, and what is behind it.
fn quoted_key(path: &str) -> Option<(String, &str)> {
    let rest = path.strip_prefix('[').filter(|rest| rest.starts_with('"'))?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
    let key = values.next()?.ok()?;
    let behind = rest.get(values.byte_offset()..)?.strip_prefix(']')?;
    Some((key, behind))
}

/// Where a place in the text that a scalar holds stands in `source`, the text that the scalar is written in. Where lines are
/// folded it is where the scalar begins.
pub fn outer(scalar: &Node, source: &str, inner: Position) -> Position {
    match scalar.style {
        Style::Literal => scalar.inner(source, inner.line, inner.column),
        Style::Plain | Style::Quoted => on_one_line(scalar, source, inner).unwrap_or(scalar.start),
        _ => scalar.start,
    }
}

/// A text in quotes, or without any, on one line: each of its characters is one there, or an escape.
fn on_one_line(scalar: &Node, source: &str, inner: Position) -> Option<Position> {
    let written = source.get(scalar.span.clone())?;
    if written.contains('\n') {
        return None;
    }
    let text = scalar.text()?;
    let before: String = text.split('\n').take(inner.line - 1).flat_map(|line| line.chars().chain(['\n'])).collect();
    let want = before.chars().count() + inner.column - 1;
    let quote = written.chars().next().filter(|first| ['"', '\''].contains(first));
    let mut chars = written.chars().peekable();
    let mut column = scalar.start.column;
    if quote.is_some() {
        chars.next();
        column += 1;
    }
    for _ in 0..want {
        let Some(first) = chars.next() else { break };
        column += 1;
        let more = match (quote, first) {
            (Some('\''), '\'') => 1,
            (Some('"'), '\\') => match chars.peek() {
                Some('x') => 3,
                // Two of them are one character beyond U+FFFF, in JSON.
                Some('u') => 5,
                Some('U') => 9,
                _ => 1,
            },
            _ => 0,
        };
        for _ in 0..more {
            chars.next();
        }
        column += more;
    }
    Some(Position { line: scalar.start.line, column })
}

/// The line and the column of a byte of a text.
pub fn of_byte(text: &str, byte: usize) -> Position {
    let mut end = byte.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
    Position { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node {
        holdfast_yaml::parse(text).unwrap().remove(0).root.unwrap()
    }

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    #[test]
    fn a_path_leads_to_its_last_part_that_is_there() {
        let root = node("policies:\n- name: a\n  match:\n    header: {\"x.y\": b}\n");
        assert_eq!(find(&root, "policies[0].name"), at(2, 3));
        assert_eq!(find(&root, "policies[0].match.header[\"x.y\"]"), at(4, 14));
        assert_eq!(find(&root, "policies[0].match.cluster[0]"), at(3, 3));
        assert_eq!(find(&root, "policies[7]"), at(1, 1));
        assert_eq!(find(&root, ""), at(1, 1));
    }

    #[test]
    fn a_place_in_a_text_is_one_in_its_file() {
        let source = "a: |\n  one\n  two\nb: '  it''s'\nc: \"x\\ny\\u00e9z\"\nd: >\n  folded\n";
        let root = node(source);
        assert_eq!(outer(root.get("a").unwrap(), source, at(2, 2)), at(3, 4));
        assert_eq!(outer(root.get("b").unwrap(), source, at(1, 7)), at(4, 12), "behind the two quotes");
        let c = root.get("c").unwrap();
        assert_eq!(outer(c, source, at(1, 2)), at(5, 6), "the end of the first line");
        assert_eq!(outer(c, source, at(2, 3)), at(5, 15), "behind the escape");
        let d = root.get("d").unwrap();
        assert_eq!(outer(d, source, at(1, 3)), d.start);
    }

    #[test]
    fn bytes_are_counted_as_characters() {
        assert_eq!(of_byte("é\né!", 5), at(2, 2));
        assert_eq!(of_byte("a", 9), at(1, 2));
    }
}
