//! What `--envoy-gateway` prints says the same as the files under `envoy/gateway/`, which the real Envoy runs as Envoy Gateway translates
//! them (`tests/envoy/gateway.rs`); and what it refuses.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{documents, root};
use serde_norway::Value;

fn add(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-add"));
    command.arg("--envoy-gateway").args(arguments).current_dir(root()).output().unwrap()
}

fn shipped(name: &str) -> Vec<Value> {
    documents(&fs::read_to_string(root().join("envoy/gateway").join(name)).unwrap())
}

/// A ConfigMap's files with what is packed in them read, so that neither layout nor comments count.
fn read_within(map: &Value) -> Vec<(String, Value)> {
    let data = map.get("data").unwrap().as_mapping().unwrap();
    let files = data.iter().map(|(name, text)| (name.as_str().unwrap().to_owned(), text.as_str().unwrap()));
    files.map(|(name, text)| (name, unpacked(documents(text).remove(0)))).collect()
}

/// JSON in a text is read too.
fn unpacked(value: Value) -> Value {
    match value {
        Value::String(text) if text.trim_start().starts_with('{') => documents(&text).remove(0),
        Value::Sequence(items) => Value::Sequence(items.into_iter().map(unpacked).collect()),
        Value::Mapping(map) => Value::Mapping(map.into_iter().map(|(key, value)| (key, unpacked(value))).collect()),
        other => other,
    }
}

/// The policy of the shipped file, as a file of its own.
fn policy(directory: &Path) -> String {
    let files = read_within(&shipped("holdfast.yaml")[0]);
    let request = &files.iter().find(|(name, _)| name == "request.yaml").unwrap().1;
    let policy = request["resources"][0]["typed_config"]["config"]["configuration"]["value"].clone();
    let file = directory.join("policy.json");
    fs::write(&file, serde_json::to_string(&policy).unwrap()).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn it_says_what_the_shipped_files_say() {
    let directory = tempfile::tempdir().unwrap();
    let policy = policy(directory.path());
    let case = "tests/gateway/cases/plain.yaml";
    let output = add(&["orders.shop:8080", case, "--name", "holdfast", "--policy", &policy]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = documents(&String::from_utf8(output.stdout).unwrap());
    let (map, proxy, patches) = (&printed[0], &printed[1], &printed[2]);
    let shipped_map_and_patches = shipped("holdfast.yaml");
    assert_eq!(map["metadata"], shipped_map_and_patches[0]["metadata"]);
    assert_eq!(read_within(map), read_within(&shipped_map_and_patches[0]));
    assert_eq!(proxy, &shipped("envoy-proxy.yaml")[0]);
    assert_eq!(patches, &shipped_map_and_patches[1]);
    assert_eq!(printed.len(), 3);
}

#[test]
fn what_it_prints_is_for_every_listener_rule_and_backend_that_has_the_service() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    fs::write(&file, TWO_RULES).unwrap();
    let output = add(&["orders.shop:8080", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = documents(&String::from_utf8(output.stdout).unwrap());
    let patches = printed[2]["spec"]["jsonPatches"].as_sequence().unwrap();
    let names = |kind: &str| {
        let mine = patches.iter().filter(|patch| patch["type"].as_str().unwrap().ends_with(kind));
        let mut names: Vec<&str> = mine.map(|patch| patch["name"].as_str().unwrap()).collect();
        names.dedup();
        names
    };
    assert_eq!(names(".Cluster"), ["httproute/shop/orders/rule/1"], "the other rule sends to another service");
    assert_eq!(names(".Listener"), ["shop/eg/http"]);
    assert_eq!(names(".RouteConfiguration"), ["shop/eg/http"]);
}

const TWO_RULES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: eg, namespace: shop }
spec:
  gatewayClassName: eg
  listeners:
  - { name: http, protocol: HTTP, port: 8080 }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: orders, namespace: shop }
spec:
  parentRefs: [{ name: eg }]
  rules:
  - backendRefs: [{ name: stock, port: 8080 }]
  - backendRefs: [{ name: orders, port: 8080 }]
";

/// Changes the resources, and gives what is said about it.
fn refused(change: impl FnOnce(&str) -> String, more: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    fs::write(&file, change(TWO_RULES)).unwrap();
    let file = file.to_str().unwrap();
    let output = add(&[&["orders.shop:8080", file], more].concat());
    let said = String::from_utf8(output.stderr).unwrap().replace(file, "shop.yaml");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{said}");
    said
}

#[test]
fn what_cannot_work_is_refused_with_file_document_and_field_and_nothing_is_printed() {
    let same = str::to_owned;
    let said = refused(|text| text.replace("name: orders, port: 8080", "name: orders, port: 9090"), &[]);
    assert!(said.contains("orders.shop:8080: no HTTPRoute or GRPCRoute of these resources has it"), "{said}");
    assert!(said.contains("orders.shop:9090"), "what there is: {said}");
    let said = refused(|text| text.replace("protocol: HTTP,", "protocol: TCP,"), &[]);
    assert!(said.contains("shop.yaml:14:16: document 2 (HTTPRoute shop/orders): spec.parentRefs[0]"), "{said}");
    assert!(said.contains("fits no HTTP listener of Gateway shop/eg (it has http (TCP))"), "{said}");
    let said = refused(|text| text.replace("parentRefs: [{ name: eg }]", "parentRefs: [{ name: other }]"), &[]);
    assert!(said.contains("spec.parentRefs: names another one than Gateway shop/eg"), "{said}");
    let said = refused(|text| text.split("---").nth(1).unwrap().to_owned(), &[]);
    assert!(said.contains("no Gateway among these resources"), "{said}");
    let said = refused(same, &["--module", "oci://registry.example/holdfast:1"]);
    assert!(said.contains("must be a path in the proxies' containers"), "{said}");
    let said = refused(same, &["--wasm-plugin"]);
    assert!(said.contains("--wasm-plugin has no meaning with --envoy-gateway"), "{said}");
}
