//! The packages of `cargo metadata`, and which of them depend on which.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::Fault;

/// What cargo says of a workspace.
#[derive(Debug, Clone, Deserialize)]
pub struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

/// A package, as its manifest says.
#[derive(Debug, Clone, Deserialize)]
pub struct Package {
    /// Tells it from every other.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence.
    pub description: Option<String>,
    /// An SPDX expression, or what was one in older days.
    pub license: Option<String>,
    /// Where its source is kept.
    pub repository: Option<String>,
    /// Where it was got; none for the workspace's own.
    pub source: Option<String>,
    /// The path of its `Cargo.toml`.
    pub manifest_path: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Clone, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Clone, Deserialize)]
struct Kind {
    /// None for an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
}

impl Metadata {
    /// Reads the output of `cargo metadata --format-version 1`.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(output: &str) -> Result<Self, Fault> {
        serde_json::from_str(output).map_err(|error| Fault::new(format!("cargo metadata: {error}")))
    }
}

/// The packages that are in one artefact.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    /// The one that the artefact is named after.
    pub root: &'a Package,
    /// The others, by name and version.
    pub others: Vec<&'a Package>,
    /// Ids of those that one depends on and that are in the artefact too, by its id.
    pub edges: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Parts<'a> {
    /// Of everything that was `built`, what the workspace's package `root` leads to.
    ///
    /// # Errors
    /// When there is no such package, when it was not built, or when something was built that it does not lead to.
    pub fn of(metadata: &'a Metadata, root: &str, built: &BTreeSet<String>) -> Result<Self, Fault> {
        let is_root = |package: &&Package| package.name == root && package.source.is_none();
        let root = metadata
            .packages
            .iter()
            .find(is_root)
            .ok_or_else(|| Fault::new(format!("cargo metadata: the workspace has no package {root}")))?;
        let edges: BTreeMap<&str, BTreeSet<&str>> = metadata
            .resolve
            .nodes
            .iter()
            .filter(|node| built.contains(&node.id))
            .map(|node| (node.id.as_str(), ordinary(node, built)))
            .collect();
        let reached = reached(&root.id, &edges);
        if let Some(stray) = built.iter().find(|id| !reached.contains(id.as_str())) {
            return Err(Fault::new(format!("{stray} was built, and {} does not depend on it", root.name)));
        }
        let mut others: Vec<&Package> = metadata
            .packages
            .iter()
            .filter(|package| package.id != root.id && reached.contains(package.id.as_str()))
            .collect();
        others.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Ok(Self { root, others, edges })
    }

    /// All packages, the root first.
    pub fn all(&self) -> impl Iterator<Item = &'a Package> {
        [self.root].into_iter().chain(self.others.iter().copied())
    }
}

/// What a node needs at run time and was built.
fn ordinary<'a>(node: &'a Node, built: &BTreeSet<String>) -> BTreeSet<&'a str> {
    let is_ordinary = |dependency: &&Dependency| {
        built.contains(&dependency.pkg) && dependency.dep_kinds.iter().any(|kind| kind.kind.is_none())
    };
    node.deps.iter().filter(is_ordinary).map(|dependency| dependency.pkg.as_str()).collect()
}

fn reached<'a>(root: &str, edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut ahead: Vec<&'a str> = edges.keys().filter(|id| **id == root).copied().collect();
    while let Some(id) = ahead.pop() {
        if reached.insert(id) {
            ahead.extend(edges.get(id).into_iter().flatten());
        }
    }
    reached
}
