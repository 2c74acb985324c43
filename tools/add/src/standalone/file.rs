//! A file of Envoy's: a bootstrap, or a discovery response that a bootstrap names.

use std::fs;
use std::io::{self, Read};

use holdfast_yaml::{Node, Position, Yaml, edit, parse};

use crate::place::{Origin, Place, Report};

/// A step from a value to one within it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The value of a key.
    Key(String),
    /// An entry of a list.
    Entry(usize),
}

/// The way from a file's root to a value.
pub type Path = Vec<Step>;

/// One of the files.
#[derive(Debug)]
pub struct File {
    /// Its name as it was given.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its value as it stands there.
    pub root: Node,
    /// What its value shall be.
    pub want: Yaml,
    /// The number of the document with something in it, from 0.
    document: usize,
    place: Place,
}

/// A value in a file.
#[derive(Debug, Clone)]
pub struct At<'a> {
    /// The file's index among those that were given.
    pub file: usize,
    /// The way to it.
    pub path: Path,
    /// The value as it stands there.
    pub node: &'a Node,
}

impl<'a> At<'a> {
    /// A value of the object that stands here; `null` is as good as absent.
    pub fn get(&self, key: &str) -> Option<At<'a>> {
        let node = self.node.get(key).filter(|node| !node.is_null())?;
        let mut path = self.path.clone();
        path.push(Step::Key(key.to_owned()));
        Some(At { file: self.file, path, node })
    }

    /// The value that keys lead to, one after the other.
    pub fn at(&self, keys: &[&str]) -> Option<At<'a>> {
        keys.iter().try_fold(self.clone(), |at, key| at.get(key))
    }

    /// What the list that stands here holds.
    pub fn items(&self) -> impl Iterator<Item = At<'a>> + '_ {
        self.node.items().iter().enumerate().map(|(index, node)| {
            let mut path = self.path.clone();
            path.push(Step::Entry(index));
            At { file: self.file, path, node }
        })
    }

    /// The entries of the list under a key.
    pub fn list(&self, key: &str) -> Vec<At<'a>> {
        self.get(key).map(|list| list.items().collect()).unwrap_or_default()
    }

    /// Whether both are one and the same value of a file.
    pub fn is_same(&self, other: &At<'_>) -> bool {
        self.file == other.file && self.path == other.path
    }

    /// The text under a key.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.node.get(key)?.text()
    }

    /// Whether this is a message of a type of this name, whatever its package.
    pub fn is(&self, message: &str) -> bool {
        self.text("@type").is_some_and(|name| name.rsplit(['.', '/']).next() == Some(message))
    }
}

impl File {
    /// The root.
    pub fn at(&self, file: usize) -> At<'_> {
        At { file, path: Vec::new(), node: &self.root }
    }

    /// The place of a value, for a report.
    pub fn place(&self, path: &[Step]) -> Place {
        path.iter().fold(self.place.clone(), |place, step| match step {
            Step::Key(key) => place.field(key),
            Step::Entry(index) => place.entry(*index),
        })
    }

    /// The value that the file shall have there; the report says where there is none.
    pub fn wanted(&mut self, path: &[Step]) -> Option<&mut Yaml> {
        path.iter().try_fold(&mut self.want, |value, step| match step {
            Step::Key(key) => value.get_mut(key),
            Step::Entry(index) => value.items_mut()?.get_mut(*index),
        })
    }

    /// The text that the file shall have.
    pub fn edited(&self, report: &mut Report) -> Option<String> {
        match edit(&self.text, self.document, &self.want) {
            Ok(text) => Some(text),
            Err(error) => {
                report.wrong(format!("{}:{error}", self.name));
                None
            }
        }
    }
}

/// Reads the files.
pub fn read(names: &[String], report: &mut Report) -> Vec<File> {
    names.iter().filter_map(|name| one(name, report)).collect()
}

fn one(given: &str, report: &mut Report) -> Option<File> {
    let name = if given == "-" { "standard input" } else { given }.to_owned();
    let text = if given == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(given)
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            report.wrong(format!("{name}: cannot be read: {error}"));
            return None;
        }
    };
    let documents = match parse(text.strip_prefix('\u{feff}').unwrap_or(&text)) {
        Ok(documents) => documents,
        Err(error) => {
            report.wrong(format!("{name}:{}: is no YAML: {}", error.at, error.problem));
            return None;
        }
    };
    let mut found = documents
        .into_iter()
        .enumerate()
        .filter_map(|(index, document)| Some((index, document.root.filter(|root| !root.is_null())?)));
    let Some((document, root)) = found.next() else {
        report.wrong(format!("{name}: is empty: an Envoy configuration is asked for"));
        return None;
    };
    if let Some((_, second)) = found.next() {
        let problem = "a second document begins here: Envoy reads one from a file";
        report.wrong(format!("{name}:{}: {problem}", second.start));
        return None;
    }
    if let Some((at, key)) = camel(&root) {
        let cure: String = key
            .chars()
            .map(|c| if c.is_ascii_uppercase() { format!("_{}", c.to_ascii_lowercase()) } else { c.to_string() })
            .collect();
        report.wrong(format!(
            "{name}:{at}: {key}: keys in this form are not read here: write {cure}, and so for all of them"
        ));
        return None;
    }
    let want = Yaml::from(&root);
    let place = Place::of(Origin { file: name.clone(), number: 0, title: String::new(), root: root.clone() });
    Some(File { name, text, root, want, document, place })
}

/// The first key that is written in Envoy's other form, and where. With some in the one form and some in the other, settings that are
/// there would be taken for absent.
fn camel(node: &Node) -> Option<(Position, &str)> {
    // Words that stand nowhere else than on the way to clusters, filters and routes.
    const KEYS: [&str; 12] = [
        "staticResources",
        "dynamicResources",
        "filterChains",
        "defaultFilterChain",
        "typedConfig",
        "httpFilters",
        "routeConfig",
        "virtualHosts",
        "lbPolicy",
        "loadBalancingPolicy",
        "loadAssignment",
        "typedExtensionProtocolOptions",
    ];
    let own =
        node.entries().iter().filter_map(|(key, _)| Some((key.start, key.text()?))).find(|(_, key)| KEYS.contains(key));
    let within = || node.entries().iter().find_map(|(_, value)| camel(value));
    own.or_else(within).or_else(|| node.items().iter().find_map(camel))
}
