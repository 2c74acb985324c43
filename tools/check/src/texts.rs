//! The texts that are checked: files, and the texts in them that hold documents of their own, such as those of a ConfigMap.

use std::rc::Rc;

use holdfast_yaml::{Node, Position};

use crate::finding::Finding;
use crate::json;
use crate::position;
use crate::rules;

/// A text with the documents in it.
#[derive(Debug)]
pub struct Text {
    /// The file that it is in.
    pub file: usize,
    /// The text.
    pub text: String,
    /// Its documents.
    pub roots: Vec<Node>,
    /// Whether it is JSON.
    pub json: bool,
    /// Where it stands, if it is not the file itself.
    outer: Option<Outer>,
}

/// The scalar that holds a text.
#[derive(Debug)]
struct Outer {
    text: usize,
    scalar: Node,
    path: String,
}

/// All texts.
#[derive(Debug, Default)]
pub struct Texts {
    /// The names of the files.
    pub files: Vec<String>,
    /// Files first to last, each followed by what is in it.
    pub all: Vec<Text>,
}

impl Texts {
    /// Adds a file; gives back why it cannot be read as documents, if it cannot.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) -> Option<Finding> {
        let file = self.files.len();
        self.files.push(name.to_owned());
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let before = String::from_utf8_lossy(error.as_bytes().get(..good).unwrap_or_default()).into_owned();
                return Some(syntax(file, position::of_byte(&before, good), "is not UTF-8"));
            }
        };
        let text = text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned);
        let yaml = [".yaml", ".yml"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        let json = name.to_ascii_lowercase().ends_with(".json") || (!yaml && text.trim_start().starts_with(['{', '[']));
        // What is wrong with JSON the module's own reader says.
        let roots = if json {
            json::tree(&text).into_iter().collect()
        } else {
            match holdfast_yaml::parse(&text) {
                Ok(documents) => documents.into_iter().filter_map(|document| document.root).collect(),
                Err(error) => return Some(syntax(file, error.at, &error.problem)),
            }
        };
        let first = self.all.len();
        self.all.push(Text { file, text, roots, json, outer: None });
        self.unfold(first);
        None
    }

    /// Adds the documents that the data of ConfigMaps hold.
    fn unfold(&mut self, index: usize) {
        let mut found = Vec::new();
        let file = self.all.get(index).map_or(0, |text| text.file);
        for (number, root) in
            self.all.get(index).map(|text| text.roots.as_slice()).unwrap_or_default().iter().enumerate()
        {
            let listed = root.get("items").map(Node::items).unwrap_or_default().iter().enumerate();
            let all = std::iter::once((Vec::new(), root))
                .chain(listed.map(|(at, item)| (vec![Step::Key("items".to_owned()), Step::Index(at)], item)));
            for (steps, one) in all {
                if one.get("kind").and_then(Node::text) != Some("ConfigMap") {
                    continue;
                }
                for (key, value) in one.get("data").map(Node::entries).unwrap_or_default() {
                    let (Some(name), Some(text)) = (key.text(), value.text()) else { continue };
                    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
                    let json = ends(&[".json"]) || (!ends(&[".yaml", ".yml"]) && text.trim_start().starts_with('{'));
                    let roots = if json {
                        json::tree(text).into_iter().collect()
                    } else {
                        let documents = holdfast_yaml::parse(text).unwrap_or_default();
                        documents.into_iter().filter_map(|document| document.root).collect()
                    };
                    let mut steps = steps.clone();
                    steps.extend([Step::Key("data".to_owned()), Step::Key(name.to_owned())]);
                    let path = At { text: index, root: number, node: value, steps }.path();
                    let outer = Some(Outer { text: index, scalar: value.clone(), path });
                    found.push(Text { file, text: text.to_owned(), roots, json, outer });
                }
            }
        }
        self.all.extend(found);
    }

    /// Where a place in a text stands in its file.
    pub fn place(&self, text: usize, at: Position) -> Position {
        match self.all.get(text).and_then(|text| text.outer.as_ref()) {
            Some(outer) => {
                let source = self.all.get(outer.text).map_or("", |text| text.text.as_str());
                self.place(outer.text, position::outer(&outer.scalar, source, at))
            }
            None => at,
        }
    }

    /// The documents, each with its place.
    pub fn roots(&self) -> impl Iterator<Item = At<'_>> {
        self.all.iter().enumerate().flat_map(|(text, one)| {
            one.roots.iter().enumerate().map(move |(root, node)| At { text, root, node, steps: Vec::new() })
        })
    }

    /// The text that a value stands in.
    pub fn text(&self, at: &At<'_>) -> &str {
        self.all.get(at.text).map_or("", |text| text.text.as_str())
    }

    /// The file that a value stands in.
    pub fn file(&self, at: &At<'_>) -> usize {
        self.all.get(at.text).map_or(0, |text| text.file)
    }

    /// Where a value stands in its file.
    pub fn position(&self, at: &At<'_>) -> Position {
        self.place(at.text, at.node.start)
    }

    /// The path of a value from its file's root.
    pub fn path(&self, at: &At<'_>) -> String {
        match self.all.get(at.text).and_then(|text| text.outer.as_ref()) {
            Some(outer) => joined(&outer.path, &at.path()),
            None => at.path(),
        }
    }

    /// The path of the scalar that holds a text; empty for a file.
    pub fn outer_path(&self, text: usize) -> String {
        self.all.get(text).and_then(|text| text.outer.as_ref()).map_or(String::new(), |outer| outer.path.clone())
    }

    /// What a value is in, by names: `listener ingress, filter holdfast`.
    pub fn label(&self, at: &At<'_>) -> String {
        let mut parts = Vec::new();
        if let Some(outer) = self.all.get(at.text).and_then(|text| text.outer.as_ref()) {
            parts.push(outer.path.clone());
        }
        if let Some(root) = self.all.get(at.text).and_then(|text| text.roots.get(at.root)) {
            parts.extend(named(root, &at.steps));
        }
        parts.join(", ")
    }
}

/// Two paths, the second of which begins anew within the first.
pub fn joined(outer: &str, inner: &str) -> String {
    match (outer.is_empty(), inner.is_empty()) {
        (true, _) => inner.to_owned(),
        (_, true) => outer.to_owned(),
        _ => format!("{outer}: {inner}"),
    }
}

fn syntax(file: usize, at: Position, problem: &str) -> Finding {
    Finding {
        severity: rules::SYNTAX.severity,
        rule: rules::SYNTAX.id,
        file,
        at: Some(at),
        path: String::new(),
        label: String::new(),
        problem: problem.to_owned(),
        cure: String::new(),
        count: 1,
    }
}

/// What the steps lead through, by names.
fn named(root: &Node, steps: &[Step]) -> Vec<String> {
    let text = |node: &Node, key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
    let mut parts = Vec::new();
    let resource = |node: &Node, parts: &mut Vec<String>| {
        if let (Some(kind), Some(_)) = (text(node, "kind"), node.get("apiVersion")) {
            let name = node.get("metadata").and_then(|data| text(data, "name")).unwrap_or_default();
            if kind != "List" {
                parts.push(format!("{kind} {name}").trim_end().to_owned());
            }
        }
    };
    resource(root, &mut parts);
    let mut node = root;
    let mut list = "";
    for step in steps {
        match step {
            Step::Key(key) => {
                let Some((_, value)) = node.entries().iter().find(|(name, _)| name.text() == Some(key)) else { break };
                if matches!(key.as_str(), "route_config" | "routeConfig") {
                    parts.push(
                        format!("route configuration {}", text(value, "name").unwrap_or_default())
                            .trim_end()
                            .to_owned(),
                    );
                }
                (node, list) = (value, key);
            }
            Step::Index(index) => {
                let Some(item) = node.items().get(*index) else { break };
                let kind = match list {
                    "listeners" => "listener",
                    "clusters" => "cluster",
                    "http_filters" | "httpFilters" | "upstream_http_filters" | "upstreamHttpFilters" => "filter",
                    "virtual_hosts" | "virtualHosts" => "virtual host",
                    "routes" => "route",
                    "resources" => {
                        match item.get("@type").and_then(Node::text).unwrap_or_default().rsplit('.').next() {
                            Some("Listener") => "listener",
                            Some("Cluster") => "cluster",
                            Some("RouteConfiguration") => "route configuration",
                            _ => "resource",
                        }
                    }
                    "configPatches" | "jsonPatches" | "wasm" | "items" => "",
                    _ => {
                        node = item;
                        continue;
                    }
                };
                let name = text(item, "name").unwrap_or_else(|| format!("{list}[{index}]"));
                match (kind, list) {
                    ("", "items") => resource(item, &mut parts),
                    ("", _) => parts.push(format!("{list}[{index}]")),
                    _ if name.starts_with(list) => parts.push(name),
                    _ => parts.push(format!("{kind} {name}")),
                }
                node = item;
            }
        }
    }
    parts
}

/// A part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Into an object.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// A value and its way from the root of its document.
#[derive(Debug, Clone)]
pub struct At<'a> {
    /// The text, by its number.
    pub text: usize,
    /// The document in it, by its number.
    pub root: usize,
    /// The value.
    pub node: &'a Node,
    /// The way.
    pub steps: Vec<Step>,
}

/// A value by its way, to compare.
pub type Key = (usize, usize, Rc<str>);

impl<'a> At<'a> {
    /// The value of a field, by its name in snake case: in JSON and YAML a proto's fields may be in camel case too.
    pub fn get(&self, field: &str) -> Option<At<'a>> {
        let camel = camel(field);
        let (key, node) = self
            .node
            .entries()
            .iter()
            .find(|(key, value)| key.text().is_some_and(|key| key == field || key == camel) && !value.is_null())?;
        Some(self.down(Step::Key(key.text().unwrap_or_default().to_owned()), node))
    }

    /// The value that fields lead to.
    pub fn at(&self, fields: &[&str]) -> Option<At<'a>> {
        fields.iter().try_fold(self.clone(), |at, field| at.get(field))
    }

    /// The values of a list; of a message's single value in its place none.
    pub fn list(&self, field: &str) -> Vec<At<'a>> {
        self.get(field).map(|list| list.items()).unwrap_or_default()
    }

    /// The values of this list.
    pub fn items(&self) -> Vec<At<'a>> {
        self.node.items().iter().enumerate().map(|(index, node)| self.down(Step::Index(index), node)).collect()
    }

    /// The values of this object with their keys.
    pub fn entries(&self) -> Vec<(&'a str, At<'a>)> {
        let entry = |(key, node): &'a (Node, Node)| {
            let key = key.text().unwrap_or_default();
            (key, self.down(Step::Key(key.to_owned()), node))
        };
        self.node.entries().iter().map(entry).collect()
    }

    /// The text of a field.
    pub fn text(&self, field: &str) -> Option<&'a str> {
        self.get(field)?.node.text()
    }

    /// Whether a field is true.
    pub fn is_true(&self, field: &str) -> bool {
        self.text(field) == Some("true")
    }

    /// Whether this is a message of a type, by the last part of its name.
    pub fn is(&self, name: &str) -> bool {
        self.type_name() == Some(name)
    }

    /// The last part of the type's name.
    pub fn type_name(&self) -> Option<&'a str> {
        self.text("@type").and_then(|name| name.rsplit(['.', '/']).next())
    }

    /// The way as it is written.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.steps {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Key(key) if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                    path.push_str(if path.is_empty() { "" } else { "." });
                    path.push_str(key);
                }
                Step::Key(key) => path.push_str(&format!("[{}]", serde_json::Value::from(key.as_str()))),
            }
        }
        path
    }

    /// It, to compare.
    pub fn key(&self) -> Key {
        (self.text, self.root, self.path().into())
    }

    fn down(&self, step: Step, node: &'a Node) -> At<'a> {
        let mut steps = self.steps.clone();
        steps.push(step);
        At { text: self.text, root: self.root, node, steps }
    }
}

/// A field's name in camel case, as JSON has it.
fn camel(field: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in field.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if std::mem::take(&mut upper) { c.to_ascii_uppercase() } else { c });
        }
    }
    out
}
