//! Policy documents: compiled natively, exactly as the module does, with the place of everything that is wrong.

use holdfast_policy::config;
use holdfast_policy::document::Document;
use holdfast_yaml::{Node, Position};

use crate::finding::Finding;
use crate::json;
use crate::position;
use crate::reader::Reader;
use crate::rules::{self, Rule};
use crate::sources::{Form, Source};
use crate::texts::{At, Texts, joined};
use crate::warnings::warnings;

/// A policy document that was read.
#[derive(Debug)]
pub struct Checked<'a> {
    /// Where it stands.
    pub at: At<'a>,
    /// It, if it is valid.
    pub document: Option<Document>,
    /// Its tree, with the place of every value in its own text.
    tree: Option<Node>,
    /// Whether its text is held by a scalar.
    held: bool,
    /// Whether its places are known at all.
    placed: bool,
}

impl Checked<'_> {
    /// Where a path of the document stands in the file.
    pub fn position(&self, texts: &Texts, path: &str) -> Position {
        let path = path.strip_prefix("document").map_or(path, |rest| rest.strip_prefix('.').unwrap_or(rest));
        match &self.tree {
            Some(tree) if self.placed => self.outer(texts, position::find(tree, path)),
            _ => texts.position(&self.at),
        }
    }

    fn outer(&self, texts: &Texts, at: Position) -> Position {
        if !self.placed {
            texts.position(&self.at)
        } else if self.held {
            texts.place(self.at.text, position::outer(self.at.node, texts.text(&self.at), at))
        } else {
            texts.place(self.at.text, at)
        }
    }

    /// A finding about a path of it.
    pub fn finding(&self, texts: &Texts, rule: &'static Rule, path: &str, problem: String) -> Finding {
        Finding {
            severity: rule.severity,
            rule: rule.id,
            file: texts.file(&self.at),
            at: Some(self.position(texts, path)),
            path: joined(&texts.path(&self.at), path),
            label: joined(&texts.label(&self.at), path),
            problem,
            cure: String::new(),
            count: 1,
        }
    }
}

/// Reads a document; what is wrong with it is added.
pub fn check<'a>(texts: &Texts, source: Source<'a>, findings: &mut Vec<Finding>) -> Checked<'a> {
    let Source { at, form } = source;
    let reader = match form {
        Form::Kubernetes => Reader::Kubernetes,
        Form::Struct => Reader::of(texts, &at),
        _ => Reader::Plain,
    };
    let (text, tree, held, placed) = match &form {
        Form::Json => (texts.text(&at).as_bytes().to_vec(), Some(at.node.clone()), false, true),
        Form::Text => {
            let text = at.node.text().unwrap_or_default();
            (text.as_bytes().to_vec(), json::tree(text), true, true)
        }
        Form::Bytes(bytes) => (bytes.clone(), None, true, false),
        Form::Yaml | Form::Kubernetes | Form::Struct => {
            let text = match json::text(at.node, reader) {
                Ok(text) => text,
                Err((place, problem)) => {
                    let mut finding = about(texts, &at, &rules::POLICY, problem);
                    finding.at = Some(texts.place(at.text, place));
                    findings.push(finding);
                    return Checked { at, document: None, tree: None, held: false, placed: true };
                }
            };
            (text.into_bytes(), Some(at.node.clone()), false, true)
        }
    };
    let mut checked = Checked { at, document: None, tree, held, placed };
    if reader == Reader::Kubernetes {
        boolean_keys(texts, &checked, findings);
    }
    let parsed = if form == Form::Struct { config::parse_struct_json(&text) } else { config::parse(&text) };
    match parsed {
        Ok(document) => {
            if form == Form::Struct && reader == Reader::Envoy {
                numbers_in_bodies(texts, &checked, findings);
            }
            for warning in warnings(&document) {
                let (path, problem) = (warning.path, warning.problem);
                findings.push(checked.finding(texts, &rules::POLICY_DOUBTFUL, &path, problem));
            }
            checked.document = Some(document);
        }
        Err(errors) => {
            for error in errors.listed() {
                findings.push(match in_text(&error.problem).filter(|_| checked.tree.is_none()) {
                    Some((inner, problem)) => {
                        let inner = characters(&text, inner);
                        let mut finding = checked.finding(texts, &rules::POLICY, "document", problem);
                        finding.at = Some(checked.outer(texts, inner));
                        finding
                    }
                    None => checked.finding(texts, &rules::POLICY, &error.path, error.problem.clone()),
                });
            }
            if errors.unlisted() > 0 {
                let problem = format!("and {} more", errors.unlisted());
                let mut finding = checked.finding(texts, &rules::POLICY, "", problem);
                (finding.at, finding.count) = (None, errors.unlisted());
                findings.push(finding);
            }
        }
    }
    checked
}

fn about(texts: &Texts, at: &At<'_>, rule: &'static Rule, problem: String) -> Finding {
    Finding {
        severity: rule.severity,
        rule: rule.id,
        file: texts.file(at),
        at: Some(texts.position(at)),
        path: texts.path(at),
        label: texts.label(at),
        problem,
        cure: String::new(),
        count: 1,
    }
}

/// The place that the module's reader names where a text is no JSON, and the problem without it.
pub fn in_text(problem: &str) -> Option<(Position, String)> {
    let (line, rest) = problem.strip_prefix("not valid JSON at line ")?.split_once(", column ")?;
    let (column, cause) = rest.split_once(": ")?;
    let at = Position { line: line.parse().ok()?, column: column.parse::<usize>().ok()?.max(1) };
    Some((at, format!("not valid JSON: {cause}")))
}

/// The place in characters, of one that counts bytes as the module's reader does.
pub fn characters(text: &[u8], at: Position) -> Position {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.trim_end().split('\n').collect();
    match lines.get(at.line - 1) {
        Some(line) => {
            let before = line.as_bytes().get(..(at.column - 1).min(line.len())).unwrap_or_default();
            Position { line: at.line, column: String::from_utf8_lossy(before).chars().count() + 1 }
        }
        // The end is where the last line ends.
        None => Position { line: lines.len(), column: lines.last().map_or(0, |line| line.chars().count()) + 1 },
    }
}

/// Numbers in bodies that Envoy's reader of YAML makes texts of: where a key is a number the module takes them for one, in a body
/// they are sent as texts.
fn numbers_in_bodies(texts: &Texts, checked: &Checked<'_>, findings: &mut Vec<Finding>) {
    fn walk<'n>(node: &'n Node, found: &mut Vec<&'n Node>) {
        let read = Reader::Envoy.scalar(node).is_some_and(|value| value.is_string());
        if read && node.value().is_number() {
            found.push(node);
        }
        node.entries().iter().for_each(|(_, value)| walk(value, found));
        node.items().iter().for_each(|item| walk(item, found));
    }
    for (policy, node) in checked.at.node.get("policies").map(Node::items).unwrap_or_default().iter().enumerate() {
        for (entry, node) in node.get("fallback").map(Node::items).unwrap_or_default().iter().enumerate() {
            let mut found = Vec::new();
            node.at(&["respond", "body"]).into_iter().for_each(|body| walk(body, &mut found));
            for number in found {
                let text = number.text().unwrap_or_default();
                let problem = format!("{text} is sent as a text: Envoy's reader of YAML makes one of it in a Struct");
                let path = format!("policies[{policy}].fallback[{entry}].respond.body");
                let mut finding = checked.finding(texts, &rules::POLICY_DOUBTFUL, &path, problem);
                finding.at = Some(texts.place(checked.at.text, number.start));
                findings.push(finding);
            }
        }
    }
}

/// Keys that Kubernetes' tools read as booleans: YAML 1.1 has `on` as true.
fn boolean_keys(texts: &Texts, checked: &Checked<'_>, findings: &mut Vec<Finding>) {
    fn walk(node: &Node, found: &mut Vec<Position>) {
        for (key, value) in node.entries() {
            if key.style == holdfast_yaml::Style::Plain && key.text() == Some("on") {
                found.push(key.start);
            }
            walk(value, found);
        }
        node.items().iter().for_each(|item| walk(item, found));
    }
    let mut found = Vec::new();
    walk(checked.at.node, &mut found);
    for place in found {
        let problem = "the key on without quotes is the boolean true to YAML 1.1, as which Kubernetes' tools read it";
        let mut finding = about(texts, &checked.at, &rules::YAML_ON, problem.to_owned());
        finding.at = Some(texts.place(checked.at.text, place));
        finding.cure = rules::YAML_ON.cure.to_owned();
        findings.push(finding);
    }
}
