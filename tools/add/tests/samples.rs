//! What stands under `envoy/istio/`, and beside the cases of `tests/istio/`, is what the program prints. The first lines of each file are the command that makes it.
//!
//! `UPDATE_GOLDEN=1 cargo test -p holdfast-add` rewrites the files; the diff is then what to review.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::{command, documents, root};

/// Files with a command of the program in their first lines.
fn samples() -> Vec<PathBuf> {
    let directories = ["envoy/istio", "envoy/istio/kustomize", "tests/istio/cases"]
        .map(|directory| fs::read_dir(root().join(directory)).unwrap());
    let files = directories.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = files
        .filter(|file| file.extension().is_some_and(|ext| ext == "yaml"))
        .filter(|file| command(&fs::read_to_string(file).unwrap()).is_some())
        .collect();
    found.sort();
    found
}

#[test]
fn every_sample_is_what_the_program_prints() {
    let samples = samples();
    assert!(samples.len() >= 20, "{samples:?}");
    for file in samples {
        let arguments = command(&fs::read_to_string(&file).unwrap()).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_holdfast-add")).args(&arguments).current_dir(root()).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &printed).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), printed, "{}", file.display());
    }
}

/// Each is YAML, and each policy in it one that the module takes.
#[test]
fn every_sample_holds_a_valid_policy() {
    for file in samples() {
        let text = fs::read_to_string(&file).unwrap();
        let mut policies = 0;
        for value in documents(&text) {
            let mut texts = Vec::new();
            strings(&value, &mut texts);
            if let Some(policy) =
                value.get("spec").and_then(|spec| spec.get("wasm").unwrap_or(spec).get("pluginConfig"))
            {
                texts.push(serde_json::to_string(policy).unwrap());
            }
            for text in texts.iter().filter(|text| text.contains("\"policies\"")) {
                holdfast_policy::config::parse(text.as_bytes()).unwrap();
                policies += 1;
            }
        }
        assert!(policies > 0, "{}", file.display());
    }
}

/// The base that people change has what the resource had.
#[test]
fn kustomize_puts_in_what_the_sample_has() {
    let base = root().join("envoy/istio/kustomize");
    let read = |name: &str| fs::read_to_string(base.join(name)).unwrap();
    let value: serde_norway::Value = serde_norway::from_str(&read("holdfast.yaml")).unwrap();
    let mut texts = Vec::new();
    strings(&value, &mut texts);
    assert!(texts.contains(&read("policy.json")));
    let module = read("settings.env");
    let module = module.trim_end().strip_prefix("module=").unwrap();
    assert_eq!(texts.iter().filter(|text| *text == module).count(), 2);
}

fn strings(value: &serde_norway::Value, found: &mut Vec<String>) {
    match value {
        serde_norway::Value::String(text) => found.push(text.clone()),
        serde_norway::Value::Sequence(items) => items.iter().for_each(|item| strings(item, found)),
        serde_norway::Value::Mapping(entries) => entries.values().for_each(|item| strings(item, found)),
        _ => {}
    }
}
