//! Every rule finds what it is for, at its place, in a configuration that has nothing else wrong.
//!
//! The findings are committed beside the configurations. `UPDATE_GOLDEN=1 cargo test -p holdfast-check` rewrites them.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/edited.rs"]
mod edited;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use edited::Fate;

/// Rules about files and documents, whose findings do not name them.
const UNNAMED: [&str; 3] = ["syntax", "policy", "policy-doubtful"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rules")
}

fn check(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast-check"))
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The lines about findings.
fn findings(output: &Output) -> Vec<String> {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let files = text.lines().filter(|line| line.starts_with("standard input:") || line.contains(".yaml:"));
    // The others say how many there are.
    let counts = |line: &str| line.contains(": valid, ") || line.contains(" error");
    files.filter(|line| !counts(line)).map(str::to_owned).collect()
}

fn rules() -> Vec<(String, String)> {
    let table = String::from_utf8(check(&["--rules"], "").stdout).unwrap();
    let rows = table.lines().skip(2).map(|row| row.split(" | "));
    rows.map(|mut cells| {
        let rule = cells.next().unwrap().trim_matches(['|', ' ', '`']).to_owned();
        (rule, cells.next().unwrap().to_owned())
    })
    .collect()
}

/// What was found in each configuration that breaks a rule.
fn broken() -> Vec<(String, Vec<String>, Option<i32>)> {
    let mut all: Vec<_> = edited::all(&folder())
        .into_iter()
        .map(|one| {
            let output = check(&["--verbose", "-"], &one.text);
            (one.name, findings(&output), output.status.code())
        })
        .collect();
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(rule) = name.strip_suffix(".yaml").filter(|rule| *rule != "base") {
            let output = check(&["--verbose", &name], "");
            all.push((rule.to_owned(), findings(&output), output.status.code()));
        }
    }
    all.sort();
    all
}

#[test]
fn nothing_is_wrong_with_the_base() {
    let output = check(&["--verbose", "base.yaml"], "");
    assert_eq!((output.status.code(), findings(&output)), (Some(0), Vec::new()), "{output:?}");
}

#[test]
fn every_rule_finds_what_it_is_for_and_nothing_else_is_found() {
    let broken = broken();
    let text: String = broken.iter().map(|(rule, lines, _)| format!("{rule}\n{}\n\n", lines.join("\n"))).collect();
    let golden = folder().join("findings.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap();
    assert!(text == expected, "findings.txt should be:\n{expected}\nbut is:\n{text}");

    let rules = rules();
    for (rule, _) in &rules {
        assert!(broken.iter().any(|(broken, _, _)| broken == rule), "no configuration breaks {rule}");
    }
    for (name, lines, code) in &broken {
        let rule = name.split('.').next().unwrap();
        let Some((_, severity)) = rules.iter().find(|(known, _)| known == rule) else { panic!("{rule} is no rule") };
        let named = lines.iter().all(|line| line.ends_with(&format!("[{rule}]")));
        assert!(!lines.is_empty() && (named || UNNAMED.contains(&rule)), "{name}: {lines:?}");
        assert_eq!(*code, Some(i32::from(severity == "error")), "{name}: {lines:?}");
    }
}

#[test]
fn mirrors_that_get_no_header_are_not_mentioned() {
    for one in edited::all(&folder()).iter().filter(|one| one.rule == "mirror") {
        let copied = "{cluster: copy}";
        let taken_off = "{cluster: copy, request_headers_mutations: [{remove: X-Holdfast-Hosts}]}";
        assert_eq!(
            findings(&check(&["--verbose", "-"], &one.text.replace(copied, taken_off))),
            [""; 0],
            "{}",
            one.name
        );
        // The nearest list holds, and that cluster has an attempt seat.
        let own = "route: {request_mirror_policies: [{cluster: orders}], cluster: orders";
        let nearer = one.text.replace("route: {cluster: orders", own);
        if one.name != "mirror" {
            assert_eq!(findings(&check(&["--verbose", "-"], &nearer)), [""; 0], "{}", one.name);
        }
    }
}

#[test]
fn what_envoy_refuses_is_an_error() {
    let rules = rules();
    for one in edited::all(&folder()).iter().filter(|one| one.fate != Fate::Taken) {
        let severity = rules.iter().find(|(rule, _)| *rule == one.rule).map(|(_, severity)| severity.as_str());
        assert_eq!(severity, Some("error"), "{}", one.rule);
    }
}

#[test]
fn the_page_shows_a_report_as_it_is() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/check.md")).unwrap();
    let edits = edited::all(&folder());
    let one = edits.iter().find(|one| one.name == "outlier-detection").unwrap();
    let report = String::from_utf8(check(&["--format", "json", "-"], &one.text).stdout).unwrap();
    assert!(page.contains(&report.replace("standard input", "envoy.yaml")), "{report}");
}

#[test]
fn the_page_has_the_table_of_the_rules() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/check.md")).unwrap();
    let table = String::from_utf8(check(&["--rules"], "").stdout).unwrap();
    assert!(page.contains(&table), "docs/check.md is behind ./build.sh check --rules");
}
