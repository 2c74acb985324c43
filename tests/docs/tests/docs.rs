//! Whatever a page shows can be loaded, and wherever it points there is something.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use holdfast_docs_tests::example::{self, Shipped};
use holdfast_docs_tests::{Page, documents, link, pages, root};
use holdfast_policy::config;
use holdfast_schema_tests::refusal;
use serde_json::Value;

fn all() -> Vec<Page> {
    let pages = pages(&root()).unwrap();
    for name in ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/envoy.md"] {
        assert!(pages.iter().any(|page| page.name == name), "{name} is a page");
    }
    pages
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_example_can_be_loaded() {
    let configuration: Value =
        serde_norway::from_str(&fs::read_to_string(root().join("envoy/envoy.yaml")).unwrap()).unwrap();
    let build = fs::read_to_string(root().join("build.sh")).unwrap();
    let shipped = Shipped { configuration: &configuration, build: &build };

    let mut faults = Vec::new();
    for page in all() {
        for one in &page.examples {
            let fault = example::fault(&one.info, &one.text, shipped);
            faults.extend(fault.map(|fault| format!("{}:{}: {fault}", page.name, one.line)));
        }
    }

    none(faults);
}

/// Of those that the parser takes: what the parser's own tests refuse is held against the schema there.
#[test]
fn the_schema_takes_every_document_of_the_repository_that_the_parser_takes() {
    let documents = documents::documents(&root()).unwrap();
    let taken = documents.iter().filter(|(_, text)| config::parse(text.as_bytes()).is_ok());
    let faults: Vec<_> = taken.clone().filter_map(|(path, text)| Some((path, refusal(text)?, text))).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    let (in_source, in_files) =
        taken.partition::<Vec<_>, _>(|(path, _)| path.extension().is_some_and(|end| end == "rs"));
    assert!(in_source.len() > 40 && in_files.len() > 20, "{} in source, {} in files", in_source.len(), in_files.len());
}

#[test]
fn every_link_leads_somewhere() {
    let (root, pages) = (root(), all());

    let mut faults = Vec::new();
    for page in &pages {
        for (line, target) in &page.targets {
            let fault = link::fault(&root, &pages, page, target);
            faults.extend(fault.map(|fault| format!("{}:{line}: ({target}) {fault}", page.name)));
        }
    }

    none(faults);
}

/// What is being moved is named by its room and not by its file, so the source of the module is left out.
#[test]
fn every_file_that_is_named_is_there() {
    let root = root();
    let places = ["benches/", "docs/", "envoy/", "fuzz/", "scripts/", "tests/", "tools/"];

    let mut faults = Vec::new();
    for page in all() {
        for (line, code) in &page.codes {
            let is_path = places.iter().any(|place| code.starts_with(place)) && !code.contains(['*', ' ']);
            if is_path && !root.join(code).exists() {
                faults.push(format!("{}:{line}: there is no {code}", page.name));
            }
        }
    }

    none(faults);
}

#[test]
fn the_readme_leads_to_every_page() {
    let pages = all();
    let readme = pages.iter().find(|page| page.name == "README.md").unwrap();
    let leads_to = |page: &&Page| !readme.targets.iter().any(|(_, target)| *target == page.name);
    let unreached: Vec<_> = pages.iter().filter(|page| page.name != "README.md").filter(leads_to).collect();
    none(unreached.iter().map(|page| format!("the README does not name {}", page.name)).collect());
}

#[test]
fn the_readme_is_short() {
    let pages = all();
    let readme = pages.iter().find(|page| page.name == "README.md").unwrap();
    assert!(readme.lines.len() <= 150, "{} lines", readme.lines.len());
    let long = readme.lines.iter().enumerate().filter(|(_, line)| line.chars().count() > 100);
    none(long.map(|(at, line)| format!("README.md:{}: {} characters", at + 1, line.chars().count())).collect());
}

/// One word for one thing: what is sent to a host is an attempt, and one after the first a retry. The reference of the policy
/// document is generated, and has a test of its own.
#[test]
fn the_pages_use_the_houses_words() {
    let others = ["a try", "one try", "each try", "every try", "further tr", "the next try", "oftener", "seldomest"];
    let mut faults = Vec::new();
    for page in all().iter().filter(|page| page.name != "docs/policy.md") {
        for (line, prose) in &page.prose {
            let prose = format!(" {} ", prose.to_lowercase());
            let is_said = |word: &str| prose.contains(&format!(" {word}"));
            faults
                .extend(others.iter().filter(|word| is_said(word)).map(|word| format!("{}:{line}: {word}", page.name)));
        }
    }
    none(faults);
}
