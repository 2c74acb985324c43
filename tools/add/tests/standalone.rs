//! `add` on an Envoy's own files: what it changes, what it leaves, and what it refuses. That the result runs as the original does
//! is shown on the real Envoy (`tests/envoy/added.rs`).

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::root;
use serde_norway::Value;

fn add(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast-add")).args(arguments).current_dir(root()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The configurations in a folder of `tests/add/`.
fn configurations(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("tests/add").join(folder)).unwrap();
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|ext| ext != "md")).collect();
    files.sort();
    assert!(files.len() >= 8, "{files:?}");
    files
}

/// What becomes of a configuration of `tests/add/shapes/`.
fn added(name: &str, more: &[&str]) -> (String, Value) {
    let file = format!("tests/add/shapes/{name}");
    let output = add(&[&[file.as_str(), "--cluster", "orders", "--output", "-"], more].concat());
    assert!(output.status.success(), "{name}: {}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let value = holdfast_yaml::parse(&text).unwrap()[0].root.as_ref().unwrap().value();
    (text, value)
}

fn cluster(value: &Value) -> &Value {
    let clusters = value["static_resources"]["clusters"].as_sequence().unwrap();
    clusters.iter().find(|cluster| cluster["name"] == "orders").unwrap()
}

/// The policy that balances where no hosts are named: its short name and its configuration.
fn fallback(cluster: &Value) -> (&str, &Value) {
    let outer = &cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"];
    assert_eq!(outer["name"], "envoy.load_balancing_policies.override_host");
    let inner = &outer["typed_config"]["fallback_policy"]["policies"][0]["typed_extension_config"];
    (inner["name"].as_str().unwrap().rsplit('.').next().unwrap(), &inner["typed_config"])
}

fn options(cluster: &Value) -> &Value {
    &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
}

#[test]
fn what_is_there_stays_as_it_is_written() {
    for file in configurations("shapes") {
        let before = fs::read_to_string(&file).unwrap();
        let (after, _) = added(file.file_name().unwrap().to_str().unwrap(), &[]);
        let comments = |text: &str| text.lines().filter(|line| line.trim_start().starts_with('#')).count();
        assert!(comments(&after) >= comments(&before), "{}", file.display());
        // Lines that go are those of the cluster's balancing and protocol, which are said in other words, and of an older Holdfast.
        let mut rest = after.lines();
        let gone: Vec<&str> = before.lines().filter(|line| !rest.clone().any(|other| other == *line)).collect();
        assert!(gone.len() <= 25, "{}: {gone:#?}", file.display());
        assert!(rest.next().is_some());
    }
}

#[test]
fn line_ends_and_a_mark_of_the_encoding_stay() {
    let directory = tempfile::tempdir().unwrap();
    let foreign = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
    // JSON has no such mark.
    for file in configurations("shapes").iter().filter(|file| file.extension().is_some_and(|ext| ext == "yaml")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let copy = directory.path().join(name);
        fs::write(&copy, foreign(&fs::read_to_string(file).unwrap())).unwrap();
        let output = add(&[copy.to_str().unwrap(), "--cluster", "orders", "--output", "-"]);
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), foreign(&added(name, &[]).0), "{name}");
    }
}

#[test]
fn twice_is_as_good_as_once() {
    let directory = tempfile::tempdir().unwrap();
    for file in configurations("shapes") {
        let copy = directory.path().join(file.file_name().unwrap());
        fs::copy(&file, &copy).unwrap();
        let copy_name = copy.to_str().unwrap();
        assert!(add(&[copy_name, "--cluster", "orders", "--write"]).status.success(), "{}", file.display());
        let once = fs::read_to_string(&copy).unwrap();
        let again = add(&[copy_name, "--cluster", "orders", "--write"]);
        assert_eq!(
            String::from_utf8(again.stdout).unwrap(),
            "Nothing to change: Holdfast is there.\n",
            "{}",
            file.display()
        );
        assert_eq!(fs::read_to_string(&copy).unwrap(), once);
    }
}

#[test]
fn every_way_to_balance_becomes_the_fallback() {
    let found = |name: &str| {
        let (_, value) = added(name, &[]);
        let cluster = cluster(&value).clone();
        let (kind, config) = fallback(&cluster);
        (kind.to_owned(), config.clone(), cluster)
    };
    let (kind, config, cluster) = found("ring-hash.yaml");
    assert_eq!(kind, "ring_hash");
    assert!(config.get("minimum_ring_size").is_some() && cluster.get("ring_hash_lb_config").is_none(), "{config:?}");
    let (kind, config, _) = found("maglev.yaml");
    assert_eq!(kind, "maglev");
    assert!(config.get("table_size").is_some(), "{config:?}");
    let (kind, config, _) = found("least-request.yaml");
    assert_eq!(kind, "least_request");
    assert!(config.get("choice_count").is_some(), "{config:?}");
    let (kind, config, _) = found("round-robin-slow-start.yaml");
    assert_eq!(kind, "round_robin");
    assert!(config.get("slow_start_config").is_some(), "{config:?}");
    assert_eq!(found("random.yaml").0, "random");
    let (kind, config, cluster) = found("subsets.yaml");
    assert_eq!((kind.as_str(), &config["fallback_policy"]), ("subset", &Value::from("DEFAULT_SUBSET")));
    assert!(config.get("subset_lb_policy").is_some() && cluster.get("lb_subset_config").is_none());
    let (_, config, cluster) = found("locality-weighted.yaml");
    assert!(config["locality_lb_config"].get("locality_weighted_lb_config").is_some(), "{config:?}");
    assert!(cluster["common_lb_config"].get("locality_weighted_lb_config").is_none());
    let (_, config, _) = found("zone-aware.yaml");
    assert!(config["locality_lb_config"].get("zone_aware_lb_config").is_some(), "{config:?}");
    let (_, config, _) = found("bounded-load.yaml");
    assert!(config.get("consistent_hashing_lb_config").is_some(), "{config:?}");
}

#[test]
fn the_protocol_to_the_hosts_stays() {
    let found = |name: &str| {
        let (_, value) = added(name, &[]);
        options(cluster(&value)).clone()
    };
    let http2 = |options: &Value| options["explicit_http_config"].get("http2_protocol_options").is_some();
    assert!(http2(&found("http2-explicit.yaml")) && http2(&found("http2-deprecated-field.yaml")));
    assert!(found("tls-auto-config.yaml").get("auto_config").is_some());
    for name in ["downstream-protocol.yaml", "downstream-protocol-deprecated.yaml"] {
        assert!(found(name).get("use_downstream_protocol_config").is_some(), "{name}");
    }
    assert!(found("strict-dns.yaml")["explicit_http_config"].get("http_protocol_options").is_some());
    // Filters that are there stay behind the seat, the codec last.
    let filters = found("options-with-filters.yaml")["http_filters"].clone();
    let names: Vec<&str> =
        filters.as_sequence().unwrap().iter().map(|filter| filter["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["holdfast", "team-header", "envoy.filters.http.upstream_codec"]);
}

#[test]
fn the_seat_goes_into_a_router_that_has_filters_for_all_clusters() {
    let (_, value) = added("router-filters.yaml", &[]);
    assert!(cluster(&value).get("typed_extension_protocol_options").is_none());
    let text = serde_json::to_string(&value).unwrap();
    let at = |part: &str| text.find(part).unwrap();
    assert!(at("router-header") > at("{\\\"seat\\\": \\\"attempt\\\"}"), "{text}");
}

#[test]
fn an_older_holdfast_is_brought_up_to_date() {
    let (text, value) = added("older-holdfast.yaml", &[]);
    assert_eq!(text.matches("name: envoy.filters.http.router").count(), 1);
    assert_eq!(
        text.matches("root_id: holdfast").count(),
        1,
        "its policy has nothing for an attempt seat to do: {text}"
    );
    assert!(text.contains("failure_policy: FAIL_RELOAD"), "{text}");
    let manager = &value["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    let filters = manager["http_filters"].as_sequence().unwrap();
    let names: Vec<&str> = filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect();
    assert_eq!(names[names.len() - 2..], ["holdfast", "envoy.filters.http.router"]);
    // A policy that is there stays; a cluster that none governs gets one.
    let (text, _) = added("older-holdfast-both-seats.yaml", &[]);
    assert!(text.contains("\"name\": \"billing\"") && text.contains("\"name\": \"orders\""), "{text}");
}

#[test]
fn a_policy_that_is_a_struct_stays_one_unless_another_cluster_needs_one() {
    let (text, _) = added("older-holdfast-struct.yaml", &[]);
    assert!(text.contains("google.protobuf.Struct") && text.contains("failure_rate: 50.5"), "{text}");
    assert_eq!(text.matches("StringValue").count(), 0, "{text}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("envoy.yaml");
    let shape = fs::read_to_string(root().join("tests/add/shapes/older-holdfast-struct.yaml")).unwrap();
    let policy = "- name: orders\n                      match: { cluster: [orders] }";
    fs::write(&file, shape.replace(policy, &policy.replace("orders", "billing"))).unwrap();
    let output = add(&["--cluster", "orders", file.to_str().unwrap(), "--write"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"name\": \"billing\"") && text.contains("\"name\": \"orders\""), "{text}");
    assert!(text.contains("\"failure_rate\": 50.5") && text.contains("StringValue"), "{text}");
}

/// The first seat whose policy matches governs.
#[test]
fn several_seats_in_a_chain_keep_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("envoy.yaml");
    let (text, _) = added("strict-dns.yaml", &[]);
    let router = "          - name: envoy.filters.http.router";
    let other = "          - name: holdfast-team-b\n            typed_config:\n              \
        \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n              config: {root_id: holdfast}\n";
    fs::write(&file, text.replacen(router, &format!("{other}{router}"), 1)).unwrap();
    let output = add(&[file.to_str().unwrap(), "--cluster", "orders"]);
    assert_eq!(
        String::from_utf8(output.stdout.clone()).unwrap(),
        "Nothing to change: Holdfast is there.\n",
        "{}",
        stderr(&output)
    );
}

/// What another seat of the chain governs already gets no second policy.
#[test]
fn the_seat_that_governs_the_cluster_is_the_one_that_counts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("envoy.yaml");
    let (text, _) = added("strict-dns.yaml", &[]);
    let seat = "          - name: holdfast-team-a\n            typed_config:\n              \
        \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm\n              \
        config:\n                root_id: holdfast\n                configuration:\n                  \
        \"@type\": type.googleapis.com/google.protobuf.StringValue\n                  \
        value: '{\"policies\": [{\"name\": \"billing\", \"match\": {\"cluster\": [\"billing\"]}, \"breaker\": {}}]}'\n";
    let first = "          # Holdfast, the request seat";
    assert!(text.contains(first));
    fs::write(&file, text.replacen(first, &format!("{seat}{first}"), 1)).unwrap();
    let output = add(&[file.to_str().unwrap(), "--cluster", "orders"]);
    assert_eq!(
        String::from_utf8(output.stdout.clone()).unwrap(),
        "Nothing to change: Holdfast is there.\n",
        "{}",
        stderr(&output)
    );
}

/// Two listeners whose seats have documents of their own: each keeps its own.
#[test]
fn no_listener_gets_the_document_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("envoy.yaml");
    let policy = directory.path().join("policy.json");
    fs::write(&policy, r#"{"policies": [{"name": "first", "breaker": {"failure_rate": 41}}]}"#).unwrap();
    let shape = "tests/add/shapes/two-managers.yaml";
    let path = file.to_str().unwrap();
    let made = add(&[shape, "--cluster", "orders", "--policy", policy.to_str().unwrap(), "--output", path]);
    assert!(made.status.success(), "{}", stderr(&made));
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("\"failure_rate\": 41").count(), 2, "a seat in each: {text}");
    let (before, after) = text.rsplit_once("\"failure_rate\": 41").unwrap();
    let other = format!("{before}\"failure_rate\": 43{after}");
    fs::write(&file, &other).unwrap();
    let again = add(&[path, "--cluster", "orders"]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), "Nothing to change: Holdfast is there.\n");
}

/// A seat that Envoy is told of later has its policy elsewhere.
#[test]
fn seats_that_come_by_discovery_stay_as_they_are() {
    let output = add(&["envoy/live/envoy.yaml", "--cluster", "orders"]);
    assert_eq!(
        String::from_utf8(output.stdout.clone()).unwrap(),
        "Nothing to change: Holdfast is there.\n",
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("its policy comes by discovery and stays as it is"), "{}", stderr(&output));
    let output = add(&["envoy/live/envoy.yaml", "--cluster", "orders", "--policy", "envoy/live/policy.json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("so leave out --policy"), "{}", stderr(&output));
    // A configuration that has all of it already is left alone too.
    let output = add(&["envoy/envoy.yaml", "--cluster", "orders"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "Nothing to change: Holdfast is there.\n");
}

#[test]
fn a_policy_of_ones_own_takes_the_place_of_the_default_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.yaml");
    // YAML is as good as JSON.
    fs::write(&file, "policies:\n- name: mine\n  breaker: {failure_rate: 40}\n").unwrap();
    let policy = ["--policy", file.to_str().unwrap()];
    let (text, value) = added("strict-dns.yaml", &policy);
    assert!(text.contains(r#""match": {"cluster": ["orders"]}"#) && text.contains(r#""failure_rate": 40"#), "{text}");
    // Without retry and outlier there is nothing for the cluster to do.
    assert!(cluster(&value).get("load_balancing_policy").is_none());
    assert!(cluster(&value).get("typed_extension_protocol_options").is_none());
    fs::write(&file, "policies:\n- name: mine\n  breaker:\n    failure_rate: 140\n").unwrap();
    let wrong = add(&["tests/add/shapes/strict-dns.yaml", "--cluster", "orders", "--policy", policy[1]]);
    let expected =
        format!("{}:4:5: policies[0].breaker.failure_rate: must be within 0..=100, was 140\n", file.display());
    assert!(stderr(&wrong).starts_with(&expected), "{}", stderr(&wrong));
}

/// A fallback chooses by a filter state, which a route in front reads; it says what the route behind it says.
#[test]
fn routes_let_a_fallback_choose_another_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.json");
    for (shape, other, fronts) in [
        ("weighted-clusters.yaml", "orders-canary", 1),
        ("two-services.yaml", "billing", 1),
        ("two-route-configs.yaml", "billing", 1),
        ("odd-formatting.yaml", "billing", 1),
    ] {
        let document = format!(
            r#"{{"policies": [{{"name": "orders", "match": {{"cluster": ["orders"]}}, "breaker": {{}},
                "fallback": [{{"on": ["open"], "route": {{"cluster": "{other}"}}}}]}}]}}"#
        );
        fs::write(&policy, &document).unwrap();
        let (text, value) = added(shape, &["--policy", policy.to_str().unwrap()]);
        let states = text.matches("key: wasm.holdfast_route").count();
        assert_eq!(states, fronts, "{shape}: {text}");
        let routes = routes(&value);
        for (index, front) in routes.iter().enumerate().filter(|(_, route)| !route["match"]["filter_state"].is_null()) {
            let behind = &routes[index + 1];
            assert_eq!(front["match"]["filter_state"][0]["string_match"]["exact"], other);
            assert_eq!(front["route"]["cluster"], other);
            for field in ["timeout", "prefix_rewrite", "retry_policy"] {
                assert_eq!(front["route"].get(field), behind["route"].get(field), "{shape}: {field}");
            }
            assert_eq!(front["match"].get("prefix"), behind["match"].get("prefix"), "{shape}");
            assert!(front["route"].get("weighted_clusters").is_none(), "{shape}");
        }
        let copy = directory.path().join(shape);
        fs::write(&copy, &text).unwrap();
        let again = [copy.to_str().unwrap(), "--cluster", "orders", "--policy", policy.to_str().unwrap()];
        let again = add(&again);
        assert_eq!(String::from_utf8(again.stdout).unwrap(), "Nothing to change: Holdfast is there.\n", "{shape}");
    }
    fs::write(&policy, fs::read_to_string(&policy).unwrap().replace("billing", "nowhere")).unwrap();
    let wrong = add(&["tests/add/shapes/strict-dns.yaml", "--cluster", "orders", "--policy", policy.to_str().unwrap()]);
    assert!(stderr(&wrong).contains("has nowhere serve, which is no cluster of these files"), "{}", stderr(&wrong));
}

/// A route in front of one to the cluster lets no fallback choose for another one.
#[test]
fn a_route_in_front_is_there_for_the_requests_that_it_takes() {
    let directory = tempfile::tempdir().unwrap();
    let (policy, copy) = (directory.path().join("policy.json"), directory.path().join("envoy.yaml"));
    let document = r#"{"policies": [{"name": "orders", "match": {"cluster": ["orders"]}, "breaker": {},
        "fallback": [{"on": ["open"], "route": {"cluster": "billing"}}]}]}"#;
    fs::write(&policy, document).unwrap();
    let put = |text: &str| {
        fs::write(&copy, text).unwrap();
        let (copy, policy) = (copy.to_str().unwrap(), policy.to_str().unwrap());
        let output = add(&[copy, "--cluster", "orders", "--policy", policy, "--output", "-"]);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let shape = fs::read_to_string(root().join("tests/add/shapes/two-services.yaml")).unwrap();
    let behind = "- match: { prefix: / }\n                route: { cluster: orders }\n";
    assert!(shape.contains(behind));
    let first = put(&shape.replace("prefix: / }", "prefix: /orders }"));
    assert_eq!(first.matches("key: wasm.holdfast_route").count(), 1);
    let last = "          http_filters:\n";
    for (matches, fronts) in [
        ("prefix: /more", 2),
        ("prefix: /orders/7", 1),
        ("path: /orders", 1),
        ("prefix: /orders, headers: [{name: x-a}]", 1),
    ] {
        let more =
            format!("              - match: {{ {matches} }}\n                route: {{ cluster: orders }}\n{last}");
        let text = first.replacen(last, &more, 1);
        assert_ne!(text, first);
        let after = put(&text);
        assert_eq!(after.matches("key: wasm.holdfast_route").count(), fronts, "{matches}: {after}");
    }
}

/// For a further attempt a matcher stands in the route, and the router asks it again.
#[test]
fn routes_let_a_fallback_choose_after_the_last_attempt() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.json");
    let document = r#"{"policies": [{"name": "orders", "match": {"cluster": ["orders"]}, "breaker": {}, "retry": {"max_retries": 0},
        "fallback": [{"on": ["open", "failure"], "route": {"cluster": "OTHER"}}]}]}"#;
    for (shape, other) in [("two-services.yaml", "billing"), ("two-route-configs.yaml", "billing")] {
        fs::write(&policy, document.replace("OTHER", other)).unwrap();
        let options = ["--policy", policy.to_str().unwrap()];
        let (text, value) = added(shape, &options);
        assert_eq!(text.matches("key: wasm.holdfast_route").count(), 1, "{shape}: {text}");
        assert_eq!(text.matches("refresh_cluster_on_retry: true").count(), 1, "{shape}: {text}");
        let plugin = "inline_cluster_specifier_plugin";
        let routes = routes(&value);
        let route = routes.iter().find(|route| !route["route"][plugin].is_null()).unwrap();
        assert!(route["route"].get("cluster").is_none(), "{shape}");
        let matcher = &route["route"][plugin]["extension"]["typed_config"]["cluster_matcher"];
        assert_eq!(matcher["on_no_match"]["action"]["typed_config"]["cluster"], "orders", "{shape}");
        let map = &matcher["matcher_tree"]["exact_match_map"]["map"];
        assert_eq!(map[other]["action"]["typed_config"]["cluster"], other, "{shape}");
        let copy = directory.path().join(shape);
        fs::write(&copy, &text).unwrap();
        let again = add(&[copy.to_str().unwrap(), "--cluster", "orders", options[0], options[1]]);
        assert_eq!(String::from_utf8(again.stdout).unwrap(), "Nothing to change: Holdfast is there.\n", "{shape}");
    }
    fs::write(&policy, document.replace("OTHER", "orders-canary")).unwrap();
    let weighted = "tests/add/shapes/weighted-clusters.yaml";
    let told = add(&[weighted, "--cluster", "orders", "--policy", policy.to_str().unwrap()]);
    let problem = "after a failure no fallback has another cluster serve here: for that a route has a `cluster` alone";
    assert!(told.status.success() && stderr(&told).contains(problem), "{}", stderr(&told));
}

/// The routes of all virtual hosts, one after the other.
fn routes(value: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    collect_routes(value, &mut found);
    found
}

fn collect_routes(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                match value.as_sequence().filter(|_| key == "routes") {
                    Some(routes) => found.extend(routes.iter().cloned()),
                    None => collect_routes(value, found),
                }
            }
        }
        Value::Sequence(list) => list.iter().for_each(|one| collect_routes(one, found)),
        _ => {}
    }
}

/// In shadow the user's own retries go on as they are. Run again for a policy that decides, `add` does the rest.
#[test]
fn in_shadow_envoys_own_retries_keep_their_wait() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("policy.json");
    let host = |mode: &str| {
        fs::write(&file, format!(r#"{{"policies": [{{"name": "a", "mode": "{mode}", "retry": {{}}}}]}}"#)).unwrap();
        let (_, value) = added("retries.yaml", &["--policy", file.to_str().unwrap()]);
        let manager = &value["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        manager["route_config"]["virtual_hosts"][0]["retry_policy"].clone()
    };
    let shadow = host("shadow");
    assert!(shadow.get("retry_back_off").is_none() && shadow.get("retry_host_predicate").is_none(), "{shadow:?}");
    assert!(host("enforce").get("retry_back_off").is_some());
}

#[test]
fn what_cannot_work_is_refused_with_its_place_and_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    for file in configurations("refused") {
        let copy = directory.path().join(file.file_name().unwrap());
        fs::copy(&file, &copy).unwrap();
        let output = add(&[copy.to_str().unwrap(), "--cluster", "orders", "--write"]);
        assert_eq!(output.status.code(), Some(1), "{}", file.display());
        let said = stderr(&output);
        assert!(said.starts_with(copy.to_str().unwrap()) && said.ends_with("1 error, nothing written\n"), "{said}");
        assert_eq!(fs::read(&copy).unwrap(), fs::read(&file).unwrap());
    }
    let reason = |name: &str, part: &str| {
        let output = add(&[&format!("tests/add/refused/{name}"), "--cluster", "orders"]);
        assert!(stderr(&output).contains(part), "{name}: {}", stderr(&output));
    };
    reason(
        "original-dst.yaml",
        ":29:5: static_resources.clusters[0]: type ORIGINAL_DST: the client has chosen the host",
    );
    reason("aggregate.yaml", "an aggregate cluster hands no header on to its clusters");
    reason("no-such-cluster.yaml", "no cluster orders is in these files (they have order)");
    // Nothing is left beside the files.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), configurations("refused").len());
}

#[test]
fn the_request_seat_alone_needs_nothing_of_the_cluster() {
    let output =
        add(&["tests/add/refused/original-dst.yaml", "--cluster", "orders", "--request-only", "--output", "-"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("root_id: holdfast") && !text.contains("\"outlier\"") && !text.contains("override_host"),
        "{text}"
    );
}

#[test]
fn keys_in_camel_case_are_refused_rather_than_overlooked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("envoy.yaml");
    let text = fs::read_to_string(root().join("tests/add/shapes/ring-hash.yaml")).unwrap();
    fs::write(&file, text.replace("lb_policy:", "lbPolicy:")).unwrap();
    let output = add(&[file.to_str().unwrap(), "--cluster", "orders"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(": lbPolicy: keys in this form are not read here: write lb_policy"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn several_files_change_together() {
    let directory = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        let file = directory.path().join(to);
        fs::copy(root().join("tests/add/shapes").join(from), &file).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let (bootstrap, routes) = (copy("rds-from-file.yaml", "envoy.yaml"), copy("files/rds.yaml", "rds.yaml"));
    let alone = add(&[&bootstrap, "--cluster", "orders"]);
    assert!(stderr(&alone).contains("the routes shop are not among the files"), "{}", stderr(&alone));
    let output = add(&[&bootstrap, &routes, "--cluster", "orders", "--write"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let read = |file: &str| fs::read_to_string(Path::new(file)).unwrap();
    assert!(
        read(&routes).contains("internal_only_headers: [x-holdfast-hosts]")
            && read(&bootstrap).contains("root_id: holdfast")
    );
    // One that cannot be written leaves the others as they were.
    let before = read(&bootstrap);
    let missing = add(&[&bootstrap, "no-such-file.yaml", "--cluster", "orders", "--write"]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(read(&bootstrap), before);
}

#[test]
fn no_client_chooses_a_host_on_any_route_that_leads_to_the_cluster() {
    for (shape, configurations, leading) in
        [("several-listeners.yaml", 4, 3), ("two-managers.yaml", 2, 2), ("scoped-routes.yaml", 2, 1)]
    {
        let (text, _) = added(shape, &[]);
        let of_all = text.matches("virtual_hosts:").count();
        let kept = text.matches("internal_only_headers: [x-holdfast-hosts]").count();
        assert_eq!((of_all, kept), (configurations, leading), "{shape}");
    }

    // Routes of a listener that comes from elsewhere, and routes that lead elsewhere.
    let directory = tempfile::tempdir().unwrap();
    let shapes = root().join("tests/add/shapes");
    let (bootstrap, routes) = (directory.path().join("envoy.yaml"), directory.path().join("rds.yaml"));
    fs::copy(shapes.join("rds-from-file.yaml"), &bootstrap).unwrap();
    let more = |name: &str, cluster: &str| {
        format!(
            "- \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n  name: {name}\n  virtual_hosts:\n  \
             - {{ name: all, domains: [\"*\"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }}] }}\n"
        )
    };
    let text = fs::read_to_string(shapes.join("files/rds.yaml")).unwrap();
    fs::write(&routes, text + &more("partners", "orders") + &more("billing", "billing")).unwrap();
    let files = [bootstrap.to_str().unwrap(), routes.to_str().unwrap()];
    let output = add(&[&files[..], &["--cluster", "orders", "--write"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let written: Value = serde_norway::from_str(&fs::read_to_string(&routes).unwrap()).unwrap();
    let kept: Vec<_> = written["resources"]
        .as_sequence()
        .unwrap()
        .iter()
        .map(|one| {
            let headers = one["internal_only_headers"].as_sequence();
            (one["name"].as_str().unwrap(), headers.is_some_and(|names| names.contains(&"x-holdfast-hosts".into())))
        })
        .collect();
    assert_eq!(kept, [("shop", true), ("partners", true), ("billing", false)]);
}

#[test]
fn a_mirror_gets_the_seat_wherever_it_is_named_unless_its_policy_takes_the_header_off() {
    let text = fs::read_to_string(root().join("tests/add/shapes/mirror.yaml")).unwrap();
    let (named, policy) =
        ("                  request_mirror_policies:\n                  - cluster: shadow\n", "cluster: shadow\n");
    assert!(text.contains(named));
    let line = |indent: usize| format!("{:indent$}request_mirror_policies: [{{ cluster: shadow }}]\n", "");
    let fraction =
        "                    runtime_fraction: { default_value: { numerator: 100, denominator: HUNDRED } }\n";
    let elsewhere = |behind: &str, indent| {
        text.replace(&format!("{named}{fraction}"), "").replace(behind, &format!("{behind}{}", line(indent)))
    };
    let taken_off =
        format!("{policy}                    request_headers_mutations: [{{ remove: x-holdfast-hosts }}]\n");
    let directory = tempfile::tempdir().unwrap();
    for (text, has_seat) in [
        (text.clone(), true),
        (elsewhere("domains: [\"*\"]\n", 14), true),
        (elsewhere("name: routes\n", 12), true),
        (text.replace("cluster: orders\n                  r", "cluster_header: x-service\n                  r"), true),
        (text.replacen(policy, &taken_off, 1), false),
    ] {
        let (file, output) = (directory.path().join("envoy.yaml"), directory.path().join("added.yaml"));
        fs::write(&file, &text).unwrap();
        let ran = add(&[file.to_str().unwrap(), "--cluster", "orders", "--output", output.to_str().unwrap()]);
        assert!(ran.status.success(), "{}", stderr(&ran));
        let made: Value = serde_norway::from_str(&fs::read_to_string(&output).unwrap()).unwrap();
        let clusters = made["static_resources"]["clusters"].as_sequence().unwrap();
        let shadow = clusters.iter().find(|cluster| cluster["name"] == "shadow").unwrap();
        let seats = serde_norway::to_string(shadow).unwrap().matches("root_id: holdfast").count();
        assert_eq!(seats, usize::from(has_seat), "{text}");
    }
}

#[test]
fn a_diff_is_shown_unless_told_otherwise() {
    let file = "tests/add/shapes/strict-dns.yaml";
    let output = add(&[file, "--cluster", "orders"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("--- {file}\n+++ {file} with Holdfast\n@@ ")), "{text}");
    let wrong = |arguments: &[&str], part: &str| {
        let output = add(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    };
    wrong(&[file], "say --cluster NAME");
    wrong(&["--cluster", "orders"], "give the Envoy configuration");
    wrong(&[file, "--cluster", "orders", "--istio"], "cannot be used with");
}
