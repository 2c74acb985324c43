//! Policy documents are found wherever they stand, and what is wrong with them has its place in the file.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Runs the program over files with these texts, in a folder of their own.
fn check(arguments: &[&str], files: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let names = files.iter().map(|(name, _)| name);
    let program = env!("CARGO_BIN_EXE_holdfast-check");
    Command::new(program).args(arguments).args(names).current_dir(folder.path()).output().unwrap()
}

/// The lines of errors, without the count.
fn errors(files: &[(&str, &str)]) -> Vec<String> {
    let output = check(&[], files);
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().filter(|line| !line.ends_with(" error") && !line.ends_with(" errors")).map(str::to_owned).collect()
}

fn report(files: &[(&str, &str)]) -> Value {
    serde_json::from_slice(&check(&["--format", "json"], files).stdout).unwrap()
}

/// The type of a configuration that is a text.
const STRING: &str = "type.googleapis.com/google.protobuf.StringValue";

const FILTER: &str = r#"
    "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
    config:
      name: holdfast
      root_id: holdfast
      failure_policy: FAIL_RELOAD
      vm_config: {vm_id: holdfast, code: {local: {filename: /etc/envoy/holdfast.wasm}}}
"#;

/// A discovery response with the filter and this configuration.
fn response(configuration: &str) -> String {
    let type_ = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
    format!(
        "resources:\n- \"@type\": {type_}\n  name: orders\n  typed_config:{FILTER}      configuration: {configuration}\n"
    )
}

#[test]
fn a_document_in_quotes_has_its_places() {
    let document = r#"{\"policies\": [{\"name\": \"a\", \"breaker\": {\"failure_rate\": 140}}]}"#;
    let wrong = format!("{{\"@type\": {STRING}, value: \"{document}\"}}");
    let wrong = wrong.as_str();
    let lines = errors(&[("ecds.yaml", &response(wrong))]);
    let column = "      configuration: ".len() + wrong.find(r#"\"failure_rate"#).unwrap() + 1;
    let place = format!(
        "ecds.yaml:11:{column}: resource orders: policies[0].breaker.failure_rate: must be within 0..=100, was 140"
    );
    assert_eq!(lines, [place]);

    let single = wrong.replace(r#"value: ""#, "value: '").replace(r#"}]}"}"#, "}]}'}").replace(r#"\""#, "\"");
    let lines = errors(&[("ecds.yaml", &response(&single))]);
    let column = "      configuration: ".len() + single.find("\"failure_rate").unwrap() + 1;
    assert!(lines.first().unwrap().starts_with(&format!("ecds.yaml:11:{column}: ")), "{lines:?}");
}

#[test]
fn what_breaks_json_has_its_place_in_the_file() {
    let document = "          {\"policies\": [\n            {\"name\": \"a\"},\n          ]}";
    let text = format!("\n        \"@type\": {STRING}\n        value: |\n{document}");
    let lines = errors(&[("ecds.yaml", &response(&text))]);
    assert_eq!(lines, ["ecds.yaml:16:11: resource orders: document: not valid JSON: trailing comma"]);
}

#[test]
fn a_struct_is_read_as_its_reader_reads_it() {
    let structure = "type.googleapis.com/google.protobuf.Struct";
    let value = "{policies: [{name: a, mode: off, breaker: {failure_rate: 140, min_requests: 1.5}}]}";
    let text = format!("\n        \"@type\": {structure}\n        value: {value}");
    let column = |key: &str| "        value: ".len() + value.find(key).unwrap() + 1;
    let place = |key: &str| format!("ecds.yaml:13:{}: resource orders: policies[0]", column(key));
    let word = "mode: must be one of enforce, shadow, off, was false; YAML may read off without quotes as false, write \"off\"";
    assert_eq!(
        errors(&[("ecds.yaml", &response(&text))]),
        [
            format!("{}.{word}", place("mode")),
            format!("{}.breaker.failure_rate: must be within 0..=100, was 140", place("failure_rate")),
            format!(
                "{}.breaker.min_requests: must be a whole number within 1..=1000000, was \"1.5\"",
                place("min_requests")
            ),
        ]
    );

    let json = json!({"resources": [{
        "name": "orders", "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {"name": "holdfast", "failure_policy": "FAIL_RELOAD", "configuration": {
                "@type": structure, "value": {"policies": [{"name": "a", "breaker": {"min_requests": 1.5}}]},
            }},
        },
    }]});
    let lines = errors(&[("ecds.json", &json.to_string())]);
    assert!(
        lines.first().unwrap().ends_with("min_requests: must be a whole number within 1..=1000000, was 1.5"),
        "{lines:?}"
    );

    let body =
        "{policies: [{name: a, fallback: [{on: [failure], respond: {status: 200, body: {a: [7, 2.5, '2.5']}}}]}]}";
    let text = response(&format!("\n        \"@type\": {structure}\n        value: {body}"));
    let output = String::from_utf8(check(&[], &[("ecds.yaml", &text)]).stdout).unwrap();
    let column = "        value: ".len() + body.find("2.5").unwrap() + 1;
    let warning = format!(
        "ecds.yaml:13:{column}: warning: resource orders: policies[0].fallback[0].respond.body: 2.5 is sent as a text: Envoy's \
         reader of YAML makes one of it in a Struct"
    );
    let warnings: Vec<&str> = output.lines().filter(|line| line.contains(": warning: ")).collect();
    assert_eq!(warnings, [warning]);

    let empty = format!("{{\"@type\": {structure}, value: {{}}}}");
    let lines = errors(&[("ecds.yaml", &response(&empty))]);
    assert!(lines.first().unwrap().contains(": policies: is missing; must be a list of policies"), "{lines:?}");
    let alone = format!("\"@type\": {structure}\nvalue:\n  policies: []\n");
    let output = check(&[], &[("struct.yaml", &alone)]);
    let told = "struct.yaml: valid, no policies, no warnings\n\nvalue, line 3:\nEvery request passes through.\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), told);
}

#[test]
fn what_was_probably_meant_is_told() {
    for (name, text, meant) in [
        ("policy.json", "policies:\n- name: a\n", "not valid JSON: expected value; this looks like YAML: "),
        ("policy.json", "static_resources:\n  listeners: []\n", "; this looks like a configuration of Envoy, "),
        ("policy.json", r#""{\"policies\": []}""#, "; this looks like JSON that was put into a text once more: "),
        (
            "policy.json",
            "",
            "policies: is missing; must be a list of policies, [] lets everything pass; the document is empty",
        ),
        ("policy.json", "/etc/envoy/policy.json", "; this looks like the name of a file: "),
        ("policy.yaml", "name: a\nbreaker: {}\n", "; this looks like the inside of a document: "),
    ] {
        let lines = errors(&[(name, text)]);
        assert!(lines.iter().any(|line| line.contains(meant)), "{text:?}: {lines:?}");
    }
    let yaml = format!("{{\"@type\": {STRING}, value: \"policies: []\"}}");
    let lines = errors(&[("ecds.yaml", &response(&yaml))]);
    assert!(
        lines.first().unwrap().contains("document: not valid JSON: expected value; this looks like YAML: "),
        "{lines:?}"
    );
}

#[test]
fn a_policy_by_itself_is_held_against_the_one_envoy_that_is_given() {
    let base = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rules/base.yaml")).unwrap();
    let policy = r#"{"policies": [{"name": "a", "match": {"cluster": ["orders", "oders"]}, "breaker": {}}]}"#;
    let told = |files: &[(&str, &str)]| String::from_utf8(check(&[], files).stdout).unwrap();
    let warning = "policy.json:1:61: warning: policies[0].match.cluster[1]: \"oders\" matches none of the clusters orders; \
                   name a cluster that is there [match-cluster]";
    let with_envoy = told(&[("policy.json", policy), ("envoy.yaml", &base)]);
    assert!(with_envoy.lines().any(|line| line == warning), "{with_envoy}");
    let alone = told(&[("policy.json", policy)]);
    assert!(alone.contains("no warnings"), "{alone}");
    let two = told(&[("policy.json", policy), ("envoy.yaml", &base), ("other.yaml", &base)]);
    assert!(!two.contains("match-cluster"), "it may be meant for either: {two}");
    let more = base.replace("admin:", "dynamic_resources: {cds_config: {ads: {}}}\nadmin:");
    let more = told(&[("policy.json", policy), ("envoy.yaml", &more)]);
    assert!(!more.contains("match-cluster"), "there may be other clusters: {more}");
}

#[test]
fn bytes_are_read_too() {
    // {"policies": [{"name": "A"}]}
    let bytes =
        "{\"@type\": type.googleapis.com/google.protobuf.BytesValue, value: eyJwb2xpY2llcyI6IFt7Im5hbWUiOiAiQSJ9XX0=}";
    let lines = errors(&[("ecds.yaml", &response(bytes))]);
    let column = "      configuration: ".len() + bytes.find("eyJ").unwrap() + 1;
    assert_eq!(lines.len(), 1);
    let start = format!("ecds.yaml:11:{column}: resource orders: policies[0].name: must be 1 to 63 characters");
    assert!(lines.first().unwrap().starts_with(&start), "{lines:?}");
}

#[test]
fn a_config_map_holds_documents() {
    let inner: String =
        response("{\"@type\": type.googleapis.com/google.protobuf.StringValue, value: '{\"policies\": 1}'}")
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect();
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: edge}}\ndata:\n  envoy.yaml: |\n\
         {inner}  policy.json: |\n    {{\"policies\": []\n"
    );
    let lines = errors(&[("map.yaml", &map)]);
    let [first, second] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(first.starts_with("map.yaml:16:"), "{first}");
    assert!(first.contains(": data[\"envoy.yaml\"], resource orders: policies: must be a list of policies"), "{first}");
    assert!(second.starts_with("map.yaml:18:20:"), "{second}");
    assert!(second.contains(": data[\"policy.json\"]: document: not valid JSON: EOF"), "{second}");
}

#[test]
fn several_documents_of_a_file_are_all_found() {
    let plugin = "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: NAME}\n\
                  spec:\n  pluginName: holdfast\n  pluginConfig: {policies: [{name: NAME, breaker: {}}]}\n";
    let first = plugin.replace("NAME", "one");
    let second = plugin.replace("NAME", "TWO");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\n";
    let lines = errors(&[("all.yaml", &format!("{service}---\n{first}---\n{second}"))]);
    assert_eq!(lines.len(), 1);
    assert!(lines.first().unwrap().starts_with("all.yaml:17:30: WasmPlugin TWO: policies[0].name: "), "{lines:?}");

    let output = check(&[], &[("all.yaml", &format!("{service}---\n{first}---\n{}", plugin.replace("NAME", "two")))]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("all.yaml: valid, 2 policies in 2 documents, no warnings\n\nWasmPlugin one, line 10:\n"),
        "{text}"
    );
    assert!(text.contains("\nWasmPlugin two, line 17:\n"), "{text}");

    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", plugin.replace("NAME", "X").replace('\n', "\n  "));
    let lines = errors(&[("list.yaml", &list)]);
    assert!(lines.first().unwrap().starts_with("list.yaml:9:32: WasmPlugin X: policies[0].name: "), "{lines:?}");
}

#[test]
fn a_bootstrap_may_be_json_and_in_camel_case() {
    let wasm = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {"rootId": "holdfast", "failurePolicy": "FAIL_OPEN", "vmConfig": {"vmId": "holdfast"}, "configuration": {
            "@type": STRING, "value": "{\"policies\": [{\"name\": \"a\", \"breaker\": {}}]}"}},
    });
    let router = json!({"name": "envoy.filters.http.router"});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "httpFilters": [router, {"name": "holdfast", "typedConfig": wasm}],
    });
    let filters = json!([{"filters": [{"typedConfig": manager}]}]);
    let bootstrap = json!({"staticResources": {"listeners": [{"name": "in", "filterChains": filters}]}});
    let report = report(&[("envoy.json", &serde_json::to_string_pretty(&bootstrap).unwrap())]);
    let findings = report["files"][0]["findings"].as_array().unwrap();
    let rules: Vec<&str> = findings.iter().map(|finding| finding["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["stats-tags", "request-seat-order", "failure-policy"]);
    assert_eq!(report["files"][0]["documents"][0]["policies"], 1);
}

#[test]
fn files_of_discovery_are_looked_at_together() {
    let base = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rules/base.yaml")).unwrap();
    let (listeners, clusters) = base.split_once("  clusters:\n").unwrap();
    let typed = |name: &str| format!("\"@type\": type.googleapis.com/envoy.config.{name}");
    let bootstrap = format!(
        "{listeners}dynamic_resources:\n  cds_config: {{path_config_source: {{path: cds.yaml}}, resource_api_version: V3}}\n"
    );
    let clusters =
        clusters.replacen("  - name: orders\n", &format!("  - {}\n    name: orders\n", typed("cluster.v3.Cluster")), 1);
    let good = format!("resources:\n{clusters}");
    let both = |cds: &str| report(&[("envoy.yaml", &bootstrap), ("cds.yaml", cds)]);
    assert_eq!(both(&good)["errors"], 0, "{:#}", both(&good));
    assert_eq!(both(&good)["warnings"], 0, "{:#}", both(&good));

    let other = both(&good.replace("vm_id: holdfast", "vm_id: other"));
    assert_eq!(other["files"][1]["findings"][0]["rule"], "vm-id");
    let renamed = both(&good.replace("name: orders", "name: order"));
    let rules: Vec<&Value> =
        renamed["files"][0]["findings"].as_array().unwrap().iter().map(|one| &one["rule"]).collect();
    assert_eq!(rules, ["match-cluster"]);
    // Without the file nothing is said of clusters.
    assert_eq!(report(&[("envoy.yaml", &bootstrap)])["files"][0]["findings"], json!([]));
}

#[test]
fn strict_and_unreadable_files_have_their_exit_codes() {
    let doubtful = r#"{"policies": [{"name": "a"}]}"#;
    assert_eq!(check(&[], &[("a.json", doubtful)]).status.code(), Some(0));
    assert_eq!(check(&["--strict"], &[("a.json", doubtful)]).status.code(), Some(1));
    assert_eq!(check(&["--strict"], &[("a.json", r#"{"policies": []}"#)]).status.code(), Some(0));
    let output = check(&["--format", "json", "none.yaml"], &[("a.json", "{}")]);
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["files"][0]["unreadable"].as_str().unwrap().contains("No such file"), "{report}");
    assert_eq!(report["files"][1]["findings"][0]["path"], "policies");
    assert_eq!((&report["errors"], &report["warnings"]), (&json!(1), &json!(0)));
}
