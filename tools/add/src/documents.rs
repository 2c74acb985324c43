//! The user's resources: files of YAML or JSON, with several documents, and lists as `kubectl get -o yaml` prints them.

use std::fs;
use std::io::{self, Read};

use holdfast_yaml::{Kind, Node};
use serde_norway::Value;

use crate::fields::{Field, Object};
use crate::place::{Origin, Place, Report};

/// One resource.
#[derive(Debug)]
pub struct Document {
    /// `apiVersion` without its version: `networking.istio.io`, or nothing for Kubernetes' own.
    pub group: String,
    /// `kind`
    pub kind: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`, or `default`.
    pub namespace: String,
    /// Where it stands.
    pub place: Place,
    value: Value,
}

impl Document {
    /// Its `spec`.
    pub fn spec<'a>(&'a self, report: &mut Report) -> Option<Object<'a>> {
        self.part("spec", report)
    }

    /// A part of it that has to be there, such as `spec`.
    pub fn part<'a>(&'a self, key: &'static str, report: &mut Report) -> Option<Object<'a>> {
        let Some(value) = self.value.get(key).filter(|value| !value.is_null()) else {
            report.error(&self.place.field(key), "is missing");
            return None;
        };
        Field { value, place: self.place.field(key) }.object(report)
    }

    /// An annotation's text.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.value.get("metadata")?.get("annotations")?.get(name)?.as_str()
    }
}

fn title(kind: &str, namespace: &str, name: &str) -> String {
    format!("{kind} {namespace}/{name}")
}

/// The documents of all files, in order.
pub fn all(files: &[String], report: &mut Report) -> Vec<Document> {
    files.iter().flat_map(|file| read(file, report)).collect()
}

/// Reads a file, or standard input for `-`.
pub fn read(file: &str, report: &mut Report) -> Vec<Document> {
    let name = if file == "-" { "standard input" } else { file };
    let text = if file == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    match text {
        Ok(text) => parse(name, &text, report),
        Err(error) => {
            report.wrong(format!("{name}: cannot be read: {error}"));
            Vec::new()
        }
    }
}

/// The documents of a text, in order.
pub fn parse(file: &str, text: &str, report: &mut Report) -> Vec<Document> {
    let mut documents = Vec::new();
    match holdfast_yaml::parse(text) {
        Ok(found) => {
            for (index, document) in found.into_iter().enumerate() {
                if let Some(root) = document.root.filter(|root| !root.is_null()) {
                    resource(root, file, index + 1, &mut documents, report);
                }
            }
        }
        // What stands beside a syntax error is not to be relied on.
        Err(error) => report.wrong(format!("{file}:{}: is no YAML: {}", error.at, error.problem)),
    }
    documents
}

fn resource(root: Node, file: &str, number: usize, to: &mut Vec<Document>, report: &mut Report) {
    let value = root.value();
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let metadata = |key: &str| value.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
    let origin = |title: String, root: Node| Place::of(Origin { file: file.to_owned(), number, title, root });
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        report.error(&origin(String::new(), root), "is no Kubernetes resource: apiVersion and kind are missing");
        return;
    };
    if kind == "List" || (kind.ends_with("List") && root.get("items").is_some()) {
        let Some(Kind::List(items)) = root.get("items").map(|items| items.kind.clone()) else {
            report.error(&origin(String::new(), root).field("items"), "is missing");
            return;
        };
        // The entries of a list are documents like others.
        for item in items {
            resource(item, file, number, to, report);
        }
        return;
    }
    let Some(name) = metadata("name").map(str::to_owned) else {
        report.error(&origin(String::new(), root).field("metadata.name"), "is missing");
        return;
    };
    let namespace = metadata("namespace").unwrap_or("default").to_owned();
    let group = version.rsplit_once('/').map_or(String::new(), |(group, _)| group.to_owned());
    let place = origin(title(&kind, &namespace, &name), root);
    to.push(Document { group, kind, name, namespace, place, value });
}
