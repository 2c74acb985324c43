//! The bill of materials, by [CycloneDX 1.6](https://cyclonedx.org/docs/1.6/json/).

use serde_json::{Map, Value, json};

use crate::lock::Checksums;
use crate::packages::{Package, Parts};
use crate::{Fault, hash, licence, purl};

/// What is told of besides cargo's packages.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `application` for a program; `library` for a module that another program loads.
    pub kind: String,
    /// The file's name.
    pub file: String,
    /// What it was compiled for.
    pub triple: String,
    /// What is linked in and is no package of cargo's: the standard library, and a C library.
    pub linked: Vec<Linked>,
    /// Names and versions of the tools that made it.
    pub tools: Vec<(String, String)>,
}

/// A part that comes with the compiler or the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// Its name.
    pub name: String,
    /// Its version; empty where it cannot be told.
    pub version: String,
    /// Its package URL; empty where it has none.
    pub purl: String,
    /// An SPDX expression.
    pub licence: String,
    /// Whose it is.
    pub copyright: String,
}

/// The bill of materials of `artefact`, as the text of a JSON document.
///
/// Its serial number is made of its content. It has no time.
///
/// # Errors
/// When a package has no licence, or a package of a registry no checksum.
pub fn of(artefact: &[u8], parts: &Parts, checksums: &Checksums, around: &Surroundings) -> Result<String, Fault> {
    let mut components = Vec::new();
    for package in &parts.others {
        components.push(component_of(package, checksums)?);
    }
    for linked in &around.linked {
        components.push(component_of_linked(linked)?);
    }
    let mut root = component_of(parts.root, checksums)?;
    insert(&mut root, "type", around.kind.as_str());
    insert(&mut root, "name", around.file.as_str());
    insert(&mut root, "hashes", json!([{"alg": "SHA-256", "content": hash::sha256(artefact)}]));
    let tools =
        around.tools.iter().map(|(name, version)| json!({"type": "application", "name": name, "version": version}));
    let mut document = Map::from_iter([
        ("$schema".to_owned(), json!("http://cyclonedx.org/schema/bom-1.6.schema.json")),
        ("bomFormat".to_owned(), json!("CycloneDX")),
        ("specVersion".to_owned(), json!("1.6")),
        ("version".to_owned(), json!(1)),
        (
            "metadata".to_owned(),
            json!({
                "component": root,
                "lifecycles": [{"phase": "build"}],
                "tools": {"components": tools.collect::<Vec<_>>()},
                "properties": [{"name": "holdfast:target", "value": around.triple}],
            }),
        ),
        ("components".to_owned(), json!(components)),
        ("dependencies".to_owned(), json!(dependencies(parts, around))),
    ]);
    let serial = hash::uuid(Value::Object(document.clone()).to_string().as_bytes());
    insert(&mut document, "serialNumber", format!("urn:uuid:{serial}"));
    let text = serde_json::to_string_pretty(&document).map_err(|error| Fault::new(error.to_string()))?;
    Ok(text + "\n")
}

fn insert(object: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    object.insert(key.to_owned(), value.into());
}

fn component_of(package: &Package, checksums: &Checksums) -> Result<Map<String, Value>, Fault> {
    let Package { name, version, .. } = package;
    let mut component = Map::new();
    insert(&mut component, "type", "library");
    insert(&mut component, "bom-ref", reference(package));
    insert(&mut component, "purl", reference(package));
    insert(&mut component, "name", name.as_str());
    insert(&mut component, "version", version.as_str());
    insert(&mut component, "scope", "required");
    if let Some(description) = &package.description {
        insert(&mut component, "description", words(description));
    }
    let licence = package.license.as_deref().ok_or_else(|| {
        Fault::new(format!(
            "{name} {version}: its manifest must name its licence as an SPDX expression, and names none"
        ))
    })?;
    insert(&mut component, "licenses", licences(name, licence)?);
    if let Some(repository) = &package.repository {
        insert(&mut component, "externalReferences", json!([{"type": "vcs", "url": repository}]));
    }
    if package.source.is_some() {
        let checksum = checksums.get(name, version).ok_or_else(|| {
            Fault::new(format!("Cargo.lock: {name} {version} comes from a registry and must have a checksum"))
        })?;
        insert(&mut component, "hashes", json!([{"alg": "SHA-256", "content": checksum}]));
    }
    Ok(component)
}

fn component_of_linked(linked: &Linked) -> Result<Map<String, Value>, Fault> {
    let mut component = Map::new();
    insert(&mut component, "type", "library");
    insert(&mut component, "bom-ref", reference_of_linked(linked));
    insert(&mut component, "name", linked.name.as_str());
    insert(&mut component, "scope", "required");
    insert(&mut component, "licenses", licences(&linked.name, &linked.licence)?);
    for (key, value) in [("version", &linked.version), ("purl", &linked.purl), ("copyright", &linked.copyright)] {
        if !value.is_empty() {
            insert(&mut component, key, value.as_str());
        }
    }
    Ok(component)
}

fn licences(name: &str, licence: &str) -> Result<Value, Fault> {
    let expression = licence::canonical(name, licence)?;
    Ok(if licence::is_one(&expression) {
        json!([{"license": {"id": expression}}])
    } else {
        json!([{"expression": expression}])
    })
}

/// A package URL. Packages of the workspace are in no registry: a URL of one would name whatever somebody published there.
fn reference(package: &Package) -> String {
    let kind = if package.source.is_some() { "cargo" } else { "generic" };
    purl::purl(kind, &package.name, &package.version)
}

fn reference_of_linked(linked: &Linked) -> String {
    if linked.purl.is_empty() { format!("linked:{}", linked.name) } else { linked.purl.clone() }
}

/// Manifests wrap their descriptions.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The root is linked with what is no package; so are the others, which would only say it again.
fn dependencies(parts: &Parts, around: &Surroundings) -> Vec<Value> {
    let linked = || around.linked.iter().map(reference_of_linked);
    let of_package = |package: &Package| {
        let depends_on = parts.edges.get(package.id.as_str());
        let is_needed = |other: &&Package| depends_on.is_some_and(|ids| ids.contains(other.id.as_str()));
        let mut references: Vec<String> = parts.all().filter(is_needed).map(reference).collect();
        if package.id == parts.root.id {
            references.extend(linked());
        }
        json!({"ref": reference(package), "dependsOn": references})
    };
    parts.all().map(of_package).chain(linked().map(|reference| json!({"ref": reference}))).collect()
}
