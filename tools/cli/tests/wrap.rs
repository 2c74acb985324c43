//! `holdfast wrap`: what it writes, and that it writes nothing where anything is wrong.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the program in `folder`.
fn wrap(folder: &Path, arguments: &[&str]) -> Run {
    let output =
        Command::new(env!("CARGO_BIN_EXE_holdfast")).arg("wrap").args(arguments).current_dir(folder).output().unwrap();
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

const POLICY: &str = r#"{"policies": [{"name": "orders",
  "breaker": {"failure_rate": 50}}]}
"#;

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("policy.json"), POLICY).unwrap();
    folder
}

fn read(folder: &TempDir, name: &str) -> Value {
    serde_norway::from_str(&fs::read_to_string(folder.path().join(name)).unwrap()).unwrap()
}

#[test]
fn the_document_is_wrapped_as_it_stands_with_its_digest_as_the_version() {
    let folder = folder();
    let run = wrap(folder.path(), &["policy.json", "--output", "request.yaml"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    // sha256sum policy.json
    assert_eq!(run.stdout, "request.yaml: written, version 4067bb1fcac69da4\n");
    let made = read(&folder, "request.yaml");
    assert_eq!(
        made,
        json!({
            "version_info": "4067bb1fcac69da4",
            "resources": [{
                "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                "name": "holdfast-request",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                    "config": {
                        "name": "holdfast",
                        "root_id": "holdfast",
                        "failure_policy": "FAIL_RELOAD",
                        "vm_config": {
                            "vm_id": "holdfast",
                            "runtime": "envoy.wasm.runtime.v8",
                            "code": {"local": {"filename": "/etc/envoy/holdfast.wasm"}},
                        },
                        "configuration": {
                            "@type": "type.googleapis.com/google.protobuf.StringValue",
                            "value": POLICY,
                        },
                    },
                },
            }],
        })
    );
    let printed = wrap(folder.path(), &["policy.json"]).stdout;
    assert_eq!(
        printed,
        fs::read_to_string(folder.path().join("request.yaml")).unwrap(),
        "without a file it is printed"
    );
    let json = wrap(folder.path(), &["policy.json", "--output", "request.json"]);
    assert_eq!(json.code, Some(0));
    let text = fs::read_to_string(folder.path().join("request.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), made, "Envoy reads a file that ends in .json as JSON");
}

#[test]
fn the_attempt_seat_has_no_document() {
    let folder = folder();
    let arguments = ["--seat", "attempt", "--module", "/opt/h.wasm", "--name", "seat-2", "--output", "attempt.yaml"];
    assert_eq!(wrap(folder.path(), &arguments).code, Some(0));
    assert_eq!(read(&folder, "attempt.yaml")["version_info"], "1");
    let filter = read(&folder, "attempt.yaml")["resources"][0].clone();
    assert_eq!(filter["name"], "seat-2");
    let config = &filter["typed_config"]["config"];
    assert_eq!(config["configuration"], Value::Null);
    assert_eq!(config["vm_config"]["configuration"]["value"], r#"{"seat": "attempt"}"#);
    assert_eq!(config["vm_config"]["code"]["local"]["filename"], "/opt/h.wasm");
    let with = wrap(folder.path(), &["policy.json", "--seat", "attempt"]);
    assert_eq!(with.code, Some(2));
    assert!(with.stderr.contains("the attempt seat takes its policies from the request seat"), "{}", with.stderr);
    assert_eq!(wrap(folder.path(), &[]).code, Some(2), "the request seat has one");
}

#[test]
fn a_document_may_be_yaml_with_comments() {
    let folder = folder();
    let yaml = "# ours\npolicies:\n- name: orders # by its cluster\n  breaker: { failure_rate: 50 }\n";
    fs::write(folder.path().join("policy.yaml"), yaml).unwrap();
    assert_eq!(wrap(folder.path(), &["policy.yaml", "--output", "request.yaml"]).code, Some(0));
    let made = read(&folder, "request.yaml");
    let text = made.pointer("/resources/0/typed_config/config/configuration/value").unwrap().as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), serde_json::from_str::<Value>(POLICY).unwrap());
}

/// Refused with exactly these lines, and the file that was there is as it was.
#[track_caller]
fn refused(document: &str, lines: &[&str]) {
    let folder = folder();
    assert_eq!(wrap(folder.path(), &["policy.json", "--output", "request.yaml"]).code, Some(0));
    let before = fs::read_to_string(folder.path().join("request.yaml")).unwrap();
    fs::write(folder.path().join("new"), document).unwrap();
    let run = wrap(folder.path(), &["new", "--output", "request.yaml"]);
    let noun = if lines.len() == 1 { "error" } else { "errors" };
    let expected = format!("{}\n{} {noun}, nothing written\n", lines.join("\n"), lines.len());
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", expected.as_str()));
    assert_eq!(run.code, Some(1));
    assert_eq!(fs::read_to_string(folder.path().join("request.yaml")).unwrap(), before);
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["new", "policy.json", "request.yaml"], "nothing is left beside it");
}

#[test]
fn a_wrong_document_is_refused_with_its_places_and_nothing_is_written() {
    refused(
        "{\"policies\": [{\n  \"name\": \"orders\",\n  \"breaker\": {\"failure_rate\": 140},\n  \"retry\": {\"max_retries\": -1}\n}]}",
        &[
            "new:3:15: policies[0].breaker.failure_rate: must be within 0..=100, was 140",
            "new:4:13: policies[0].retry.max_retries: must be within 0..=20, was -1",
        ],
    );
    refused(
        "policies:\n- name: Orders\n",
        &["new:2:3: policies[0].name: must be 1 to 63 characters of a-z, 0-9, _ and -, was \"Orders\""],
    );
    refused(
        "policies:\n- name: orders\n name: twice\n",
        &["new:3:2: while parsing a block mapping, did not find expected key"],
    );
    refused("{\"policies\": [}", &["new:1:15: document: expected value"]);
    refused("{\"policies\":\n", &["new:2:1: document: EOF while parsing a value"]);
    refused(
        "{\"policies\": [],\n \"policies\": []}",
        &["new:2:2: document.policies: the key is there 2 times; must be there once"],
    );
    refused("policies: []\n---\npolicies: []\n", &["new:3:1: is a second document, where one is taken"]);
    refused("# nothing\n", &["new:1:1: holds no document"]);
    refused("", &["new:1:1: holds no document"]);
}

#[test]
fn what_cannot_be_read_or_written_is_named() {
    let folder = folder();
    let gone = wrap(folder.path(), &["gone.json", "--output", "request.yaml"]);
    assert_eq!(gone.code, Some(2));
    assert!(gone.stderr.starts_with("gone.json: cannot be read: "), "{}", gone.stderr);
    let nowhere = wrap(folder.path(), &["policy.json", "--output", "nowhere/request.yaml"]);
    assert_eq!(nowhere.code, Some(2));
    assert!(nowhere.stderr.starts_with("nowhere/request.yaml: cannot be written: "), "{}", nowhere.stderr);
    let ending = wrap(folder.path(), &["policy.json", "--output", "request.txt"]);
    assert_eq!(ending.code, Some(2));
    assert_eq!(ending.stderr, "request.txt: must end in .yaml, .yml or .json: Envoy goes by that\n");
    fs::write(folder.path().join("latin"), b"{\"policies\":\n [\"\xe4\"]}").unwrap();
    let latin = wrap(folder.path(), &["latin"]);
    assert_eq!(
        (latin.code, latin.stderr.as_str()),
        (Some(1), "latin:2: is not UTF-8 text\n1 error, nothing written\n")
    );
}

#[test]
fn a_file_that_is_replaced_keeps_its_mode() {
    let folder = folder();
    let output = folder.path().join("request.yaml");
    fs::write(&output, "").unwrap();
    fs::set_permissions(&output, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(wrap(folder.path(), &["policy.json", "--output", "request.yaml"]).code, Some(0));
    assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o640);
}
