//! Nothing is found in the configurations that people copy, nor in what Istio's own generator makes of them.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The report about a file, or about a text that is given.
fn report(file: &str, input: &str) -> Value {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast-check"))
        .args(["--format", "json", file])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // One that reads a file reads nothing else.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "json") {
            found.push(path);
        }
    }
}

#[test]
fn nothing_is_found_in_what_people_copy() {
    let mut all = Vec::new();
    files(&root().join("envoy"), &mut all);
    let holdfast = ["filters.http.wasm.v3.Wasm", "pluginConfig:", "kind: EnvoyExtensionPolicy", "\"policies\":"];
    let mut checked = 0;
    for path in all.iter().filter(|path| !path.components().any(|part| part.as_os_str() == "templates")) {
        let text = fs::read_to_string(path).unwrap();
        if !holdfast.iter().any(|word| text.contains(word)) {
            continue;
        }
        let report = report(path.to_str().unwrap(), "");
        assert_eq!(report["files"][0]["findings"], json!([]), "{}", path.display());
        checked += 1;
    }
    assert!(checked >= 25, "{checked} of {} files", all.len());
}

#[test]
fn what_istio_makes_of_them_has_no_error() {
    let mut all = Vec::new();
    files(&root().join("tests/istio/fixtures"), &mut all);
    let kinds = [
        ("listeners", "envoy.config.listener.v3.Listener"),
        ("clusters", "envoy.config.cluster.v3.Cluster"),
        ("routes", "envoy.config.route.v3.RouteConfiguration"),
        ("extension_configs", "envoy.config.core.v3.TypedExtensionConfig"),
    ];
    let mut policies = 0;
    for path in all {
        let made: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut resources = Vec::new();
        for (key, kind) in kinds {
            for resource in made[key].as_array().into_iter().flatten() {
                let mut resource = resource.clone();
                resource["@type"] = json!(format!("type.googleapis.com/{kind}"));
                resources.push(resource);
            }
        }
        let alone = path.file_stem().is_some_and(|name| name == "wasm-plugin");
        if resources.is_empty() {
            continue;
        }
        let report = report("-", &json!({"resources": resources}).to_string());
        // A WasmPlugin cannot say FAIL_RELOAD, and a route's own retries stay where all services are meant.
        let by_intent = ["failure-policy", "retry-back-off"];
        // The request seat alone, whose policy would have both.
        let missing = ["attempt-seat-missing", "steering-missing"];
        for finding in report["files"][0]["findings"].as_array().unwrap() {
            let rule = finding["rule"].as_str().unwrap();
            let known =
                by_intent.contains(&rule) || (alone && missing.contains(&rule)) || finding["severity"] == "hint";
            assert!(known, "{}: {finding}", path.display());
        }
        let documents = report["files"][0]["documents"].as_array().unwrap().iter();
        policies += documents.map(|document| document["policies"].as_u64().unwrap()).sum::<u64>();
    }
    assert!(policies >= 15, "{policies}");
}
