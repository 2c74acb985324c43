//! The program hands each command what follows it, and gives back what the command says.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_command_gets_its_arguments_and_its_exit_code_is_the_programs() {
    let good = run(&["check", "-"], r#"{"policies": []}"#);
    assert_eq!(good.status.code(), Some(0));
    assert!(String::from_utf8(good.stdout).unwrap().starts_with("standard input: valid"));
    assert_eq!(run(&["check", "-"], "{}").status.code(), Some(1));
    assert_eq!(run(&["check", "no-such-file.json"], "").status.code(), Some(2));
    let added = run(&["add", "--istio", "orders.shop.svc.cluster.local:8080", "--protocol", "http"], "");
    let text = String::from_utf8(added.stdout).unwrap();
    assert!(text.starts_with("# holdfast add --istio orders.shop.svc.cluster.local:8080 --protocol http\n"), "{text}");
}

#[test]
fn help_is_the_programs_or_the_commands() {
    let help = |arguments: &[&str]| String::from_utf8(run(arguments, "").stdout).unwrap();
    let all = help(&["--help"]);
    assert!(all.contains("\n  add ") && all.contains("\n  check "), "{all}");
    assert!(help(&["check", "--help"]).contains("Usage: holdfast check "), "{}", help(&["check", "--help"]));
    let wrong = run(&["chek"], "");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("chek"));
}

/// What one command makes the other one takes, whatever configuration it began with.
#[test]
fn check_finds_nothing_wrong_with_what_add_makes() {
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/add/shapes");
    let mut seen = 0;
    for entry in fs::read_dir(&shapes).unwrap() {
        let file = entry.unwrap().path();
        if !file.extension().is_some_and(|ext| ext == "yaml" || ext == "json") {
            continue;
        }
        let added = run(&["add", file.to_str().unwrap(), "--cluster", "orders", "--output", "-"], "");
        assert!(added.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&added.stderr));
        let checked = run(&["check", "-"], &String::from_utf8(added.stdout).unwrap());
        assert_eq!(checked.status.code(), Some(0), "{}: {}", file.display(), String::from_utf8_lossy(&checked.stderr));
        seen += 1;
    }
    assert!(seen >= 60, "{seen}");
}
