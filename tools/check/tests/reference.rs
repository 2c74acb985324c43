//! The policy reference: what is committed is what the tables say, and all of it holds.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use holdfast_policy::config;
use holdfast_policy::config::table::sections;

/// What `./build.sh check --reference` prints.
fn printed() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-check")).arg("--reference").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The texts between the fences of `page`.
fn examples(page: &str) -> Vec<&str> {
    page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_committed_reference_is_what_the_tables_say() {
    let committed = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md")).unwrap();
    let printed = printed();
    let differs = printed.lines().zip(committed.lines()).position(|(new, old)| new != old);
    assert!(
        printed == committed,
        "docs/policy.md is behind the tables in filter/policy/src/config/table (from line {} on); renew it with\n\
         ./build.sh check --reference > docs/policy.md",
        differs.unwrap_or_else(|| printed.lines().count().min(committed.lines().count())) + 1
    );
}

#[test]
fn every_block_has_a_section_with_a_valid_example() {
    let page = printed();
    let examples = examples(&page);
    assert_eq!(examples.len(), sections().len());
    for example in examples {
        if let Err(errors) = config::parse(example.as_bytes()) {
            panic!("{example}{errors}");
        }
    }
}

#[test]
fn every_key_has_a_row_and_a_text() {
    let page = printed();
    for section in sections() {
        let parent = section.paths.first().unwrap().trim_start_matches("policies[]").trim_start_matches('.');
        for key in section.block.keys {
            let path = if parent.is_empty() { key.name.to_owned() } else { format!("{parent}.{}", key.name) };
            assert_eq!(page.matches(&format!("\n| `{path}` | ")).count(), 1, "{path}");
            assert_eq!(page.matches(&format!("\n* **`{path}`** ")).count(), 1, "{path}");
        }
    }
}

/// As GitHub makes them.
#[test]
fn every_link_within_the_page_has_its_heading() {
    let page = printed();
    let anchors: HashSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|heading| heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"))
        .map(|heading| heading.chars().filter(|char| char.is_alphanumeric() || "-_".contains(*char)).collect())
        .collect();
    let links: Vec<&str> = page.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.len() > 40, "{links:?}");
    for link in links {
        assert!(anchors.contains(link), "{link}");
    }
}

#[test]
fn every_row_has_as_many_cells_as_the_table_has_columns() {
    for row in printed().lines().filter(|line| line.starts_with('|')) {
        assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{row}");
    }
}

#[test]
fn the_reference_stands_alone() {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-check")).args(["--reference", "a.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}
