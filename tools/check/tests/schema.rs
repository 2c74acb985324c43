//! The JSON Schema as a user gets it. That it says what the parser says is tested beside the parser.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-check")).args(arguments).output().unwrap()
}

#[test]
fn the_committed_schema_is_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.schema.json");
    let output = run(&["--schema"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &output.stdout).unwrap();
    }
    let (printed, committed) = (String::from_utf8(output.stdout).unwrap(), fs::read_to_string(&path).unwrap());
    let differs = printed.lines().zip(committed.lines()).position(|(new, old)| new != old);
    assert!(
        printed == committed,
        "docs/policy.schema.json is behind the tables in filter/policy/src/config/table (from line {} on); renew it with\n\
         ./build.sh check --schema > docs/policy.schema.json",
        differs.unwrap_or_else(|| printed.lines().count().min(committed.lines().count())) + 1
    );
}

#[test]
fn the_schema_stands_alone() {
    let output = run(&["--schema", "a.json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
}
