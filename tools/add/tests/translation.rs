//! What a patch replaces in a cluster, it states again: nothing is lost of what Istio's own generator makes of the resources.
//!
//! `istio-clusters.json` has the clusters that Istio makes without Holdfast. The program of `tests/istio` renews it:
//! `HOLDFAST_ISTIO=PATH UPDATE_GOLDEN=1 cargo test -p holdfast-add --test translation`. With `HOLDFAST_ISTIO` alone the test also
//! lets Istio apply what is printed, and compares all that it was not to touch.

// Clippy allows it in test functions only, and not in the helpers that they share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CLUSTER: &str = "outbound|8080||orders.shop.svc.cluster.local";

/// One combination of what a port and a DestinationRule say.
struct Case {
    name: String,
    port: &'static str,
    rule: String,
    /// MeshConfig, on one line.
    mesh: &'static str,
    gateway: bool,
}

impl Case {
    /// The mesh's settings as the generator takes them, which has no mutual TLS of Istio's by itself.
    fn mesh(&self) -> String {
        let rest = self.mesh.strip_prefix('{').unwrap();
        if self.mesh.contains("enableAutoMtls") {
            self.mesh.to_owned()
        } else {
            format!("{{enableAutoMtls: true, {rest}")
        }
    }

    /// The mesh's settings as a user has them. Istio's own mutual TLS is on, as it is by default.
    fn config_map(&self) -> String {
        let mesh = self.mesh;
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {mesh}\n"
        )
    }

    fn resources(&self) -> String {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: orders, namespace: shop}}\nspec:\n  clusterIP: 10.0.0.1\n  \
             selector: {{app: orders}}\n  ports:\n  - {{name: {}, port: 8080, targetPort: 8080}}\n",
            self.port
        );
        if self.rule.is_empty() {
            return service;
        }
        format!(
            "{service}---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
             metadata: {{name: orders, namespace: shop}}\n\
             spec:\n  host: orders.shop.svc.cluster.local\n  {}\n",
            self.rule
        )
    }
}

const POOLS: &[&str] = &[
    "{http: {idleTimeout: 1m, maxRequestsPerConnection: 100, http1MaxPendingRequests: 5}, tcp: {maxConnections: 10, \
      connectTimeout: 250ms, maxConnectionDuration: 1h, tcpKeepalive: {probes: 3, time: 10s, interval: 5s}}}",
    "{tcp: {idleTimeout: 90s}}",
    "{http: {maxConcurrentStreams: 50, http2KeepAlive: {interval: 10s, timeout: 2500ms}}}",
    "{http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 7}}",
    "{http: {h2UpgradePolicy: DO_NOT_UPGRADE}}",
    "{http: {useClientProtocol: true, maxConcurrentStreams: 7, idleTimeout: 3s}}",
];
const BALANCERS: &[&str] = &[
    "{simple: ROUND_ROBIN}",
    "{simple: RANDOM}",
    "{simple: LEAST_CONN}",
    "{simple: LEAST_REQUEST, warmupDurationSecs: 45s}",
    "{simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 20, aggression: 1.5}}",
    "{warmup: {duration: 90s}}",
    "{consistentHash: {httpHeaderName: x-user}}",
    "{consistentHash: {httpCookie: {name: u, ttl: 0s}, ringHash: {minimumRingSize: 2048}}}",
    "{consistentHash: {useSourceIp: true, maglev: {tableSize: 65537}}}",
    "{consistentHash: {httpQueryParameterName: q, maglev: {tableSize: 101}}}",
    "{consistentHash: {httpHeaderName: x, minimumRingSize: 77}}",
    "{consistentHash: {httpHeaderName: x, ringHash: {}}}",
    "{localityLbSetting: {enabled: true}, simple: ROUND_ROBIN}",
    "{localityLbSetting: {enabled: false}}",
    // Failover without outlierDetection weighs nothing.
    "{localityLbSetting: {failover: [{from: r1, to: r2}]}}",
];
const TLS: &[&str] = &[
    "{mode: SIMPLE}",
    "{mode: SIMPLE, sni: a.example}",
    "{mode: SIMPLE, subjectAltNames: [b.example]}",
    "{mode: SIMPLE, insecureSkipVerify: true}",
    "{mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /a}",
    "{mode: DISABLE}",
    "{mode: ISTIO_MUTUAL}",
];
/// Clusters that are made anew: each balancer weighs localities.
const WEIGHED: &[&str] = &[
    "loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r2}]}}, outlierDetection: {consecutive5xxErrors: 0}",
    "loadBalancer: {localityLbSetting: {distribute: [{from: 'r1/*', to: {'r1/*': 80, 'r2/*': 20}}]}, simple: ROUND_ROBIN}",
    "loadBalancer: {localityLbSetting: {failoverPriority: [topology.kubernetes.io/region]}, consistentHash: \
     {useSourceIp: true}}, outlierDetection: {consecutive5xxErrors: 7, consecutiveGatewayErrors: 3, interval: 5s, \
     baseEjectionTime: 1m, maxEjectionPercent: 50, minHealthPercent: 30, splitExternalLocalOriginErrors: true, \
     consecutiveLocalOriginFailures: 4}",
    "loadBalancer: {zoneAwareLbSetting: {minClusterSize: 3}}, connectionPool: {tcp: {maxConnections: 7, connectTimeout: 2s, \
     tcpKeepalive: {probes: 3, time: 10s, interval: 5s}}, http: {http2MaxRequests: 9, maxRetries: 2, idleTimeout: 4s}}",
    "loadBalancer: {zoneAwareLbSetting: {enabled: false}}, retryBudget: {percent: 30, minRetryConcurrency: 5}",
    "loadBalancer: {zoneAwareLbSetting: {}}, tls: {mode: ISTIO_MUTUAL, sni: x.example}",
    "loadBalancer: {zoneAwareLbSetting: {}}, tls: {mode: SIMPLE}",
    "loadBalancer: {zoneAwareLbSetting: {}}, tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /a, \
     subjectAltNames: [x.y]}",
    "loadBalancer: {zoneAwareLbSetting: {}}, tls: {mode: DISABLE}",
];
/// What a mesh says of every cluster.
const MESHES: &[&str] = &[
    "{h2UpgradePolicy: UPGRADE}",
    "{defaultConfig: {proxyHeaders: {preserveHttp1HeaderCase: true}}, h2UpgradePolicy: UPGRADE}",
    "{localityLbSetting: {failover: [{from: r1, to: r2}]}, defaultTrafficPolicy: {outlierDetection: {consecutive5xxErrors: 0}, \
      connectionPool: {http: {idleTimeout: 11s}}}}",
    "{localityLbSetting: {distribute: [{from: 'r1/*', to: {'r1/*': 80, 'r2/*': 20}}]}, connectTimeout: 3s, \
      enableAutoMtls: false}",
];
const LEVELS: &str = "trafficPolicy:
    loadBalancer: {simple: RANDOM}
    connectionPool: {http: {idleTimeout: 7s}}
    portLevelSettings:
    - {port: {number: 8080}, loadBalancer: {consistentHash: {useSourceIp: true}}}
  subsets:
  - {name: v1, labels: {v: '1'}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
  - {name: v2, labels: {v: '2'}, trafficPolicy: {connectionPool: {http: {idleTimeout: 9s}}}}
  - name: v3
    labels: {v: '3'}
    trafficPolicy:
      tls: {mode: SIMPLE}
      portLevelSettings: [{port: {number: 8080}, connectionPool: {http: {maxRequestsPerConnection: 3}}}]
  - {name: v4, labels: {v: '4'}}";

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for gateway in [false, true] {
        let mut add = |port: &'static str, rule: String| {
            let side = if gateway { "gateway" } else { "sidecar" };
            cases.push(Case { name: format!("{side}, {port}: {rule}"), port, rule, mesh: "{}", gateway });
        };
        for port in ["http", "http2", "grpc", "web"] {
            add(port, String::new());
            POOLS.iter().for_each(|pool| add(port, format!("trafficPolicy: {{connectionPool: {pool}}}")));
        }
        BALANCERS.iter().for_each(|balancer| add("http", format!("trafficPolicy: {{loadBalancer: {balancer}}}")));
        for port in ["http", "grpc"] {
            TLS.iter().for_each(|tls| add(port, format!("trafficPolicy: {{tls: {tls}}}")));
            WEIGHED.iter().for_each(|policy| add(port, format!("trafficPolicy: {{{policy}}}")));
        }
        add("http", LEVELS.to_owned());
        add("https", "trafficPolicy: {tls: {mode: SIMPLE}}".to_owned());
    }
    for (index, mesh) in MESHES.iter().enumerate() {
        let rules = ["", "trafficPolicy: {loadBalancer: {simple: RANDOM}}", LEVELS];
        for (port, rule) in ["http", "http2", "web"].into_iter().flat_map(|port| rules.map(|rule| (port, rule))) {
            for gateway in [false, true] {
                let side = if gateway { "gateway" } else { "sidecar" };
                let name = format!("{side}, mesh {index}, {port}: {rule}");
                cases.push(Case { name, port, rule: rule.to_owned(), mesh, gateway });
            }
        }
    }
    cases
}

/// A directory for files, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("holdfast-add-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn add(case: &Case, scratch: &Scratch, resources: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-add"));
    command.args(["--istio", "orders.shop:8080"]).arg(resources).arg(scratch.write("istio.yaml", &case.config_map()));
    command.args(["--module", "/holdfast.wasm"]);
    if case.gateway {
        command.args(["--gateway", "--label", "istio=ingressgateway", "--namespace", "shop"]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The clusters of the service that Istio makes of these files, by name; `None` where an older Istio does not know a field.
fn istio(program: &Path, case: &Case, scratch: &Scratch, files: &[&Path]) -> Option<BTreeMap<String, Value>> {
    let mut command = Command::new(program);
    command.args(["generate", "--namespace", "shop", "--mesh"]).arg(scratch.write("mesh.yaml", &case.mesh()));
    command.args(["--node", if case.gateway { "gateway" } else { "sidecar" }]).args(files);
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && complaint.contains("unknown field") {
        return None;
    }
    assert!(output.status.success(), "{}: {complaint}", case.name);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let clusters = all["clusters"].as_array().unwrap().iter();
    let ours = clusters.filter(|cluster| cluster["name"].as_str().unwrap().contains("orders.shop"));
    Some(ours.map(|cluster| (cluster["name"].as_str().unwrap().to_owned(), cluster.clone())).collect())
}

/// What is compared of a cluster: all of one that is made anew, and else what a patch replaces.
fn compared(cluster: &Value) -> Value {
    let common = &cluster["common_lb_config"];
    if common.get("locality_weighted_lb_config").is_some() || common.get("zone_aware_lb_config").is_some() {
        let mut cluster = cluster.clone();
        panic_threshold(&mut cluster);
        return cluster;
    }
    let kept = |(key, value): (&String, &Value)| {
        let kept = key == "lb_policy"
            || (key.ends_with("_lb_config") && key != "common_lb_config")
            || key == "typed_extension_protocol_options";
        kept.then(|| (key.clone(), value.clone()))
    };
    Value::Object(cluster.as_object().unwrap().iter().filter_map(kept).collect())
}

/// What the printed resource does to a cluster: the value merged into it, or the one that takes its place.
fn patched(text: &str, name: &str) -> (bool, Value) {
    let document = text.split("---\n").find(|document| document.contains("kind: EnvoyFilter")).unwrap();
    let value = Value::deserialize(serde_norway::Deserializer::from_str(document)).unwrap();
    let patches = value["spec"]["configPatches"].as_array().unwrap();
    let clusters: Vec<&Value> = patches.iter().filter(|patch| patch["applyTo"] == "CLUSTER").collect();
    if let Some(added) = clusters.iter().find(|patch| patch["patch"]["value"]["name"] == name) {
        let removed =
            |patch: &&&Value| patch["patch"]["operation"] == "REMOVE" && patch["match"]["cluster"]["name"] == name;
        assert_eq!(clusters.iter().filter(removed).count(), 1, "{name}");
        return (true, added["patch"]["value"].clone());
    }
    let fits = |patch: &&&Value| {
        let cluster = &patch["match"]["cluster"];
        cluster["name"] == name
            || (cluster["service"] == "orders.shop.svc.cluster.local" && cluster["portNumber"] == 8080)
    };
    let found: Vec<&&Value> = clusters.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{name} in {text}");
    assert_eq!(found[0]["patch"]["operation"], "MERGE");
    (false, found[0]["patch"]["value"].clone())
}

/// Numbers and durations in one spelling: protobuf's JSON has several.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::String(text) => {
            let number = text.parse::<f64>().ok();
            let seconds = || text.strip_suffix('s').and_then(|seconds| seconds.parse::<f64>().ok());
            number
                .map(|number| json!(number))
                .or_else(|| seconds().map(|seconds| json!(format!("{seconds} s"))))
                .unwrap_or_else(|| json!(text))
        }
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        Value::Object(entries) => {
            Value::Object(entries.iter().map(|(key, value)| (key.clone(), plain(value))).collect())
        }
        other => other.clone(),
    }
}

fn without(value: &Value, keys: &[&str]) -> Value {
    let mut value = value.clone();
    if let Some(entries) = value.as_object_mut() {
        keys.iter().for_each(|key| drop(entries.remove(*key)));
    }
    value
}

/// The protocol options, without Holdfast's parts and without what says nothing.
fn options(cluster: &Value) -> Value {
    let kind = format!("type.googleapis.com/{OPTIONS}");
    let nothing = json!({"@type": kind, "explicit_http_config": {"http_protocol_options": {}}});
    let found = &cluster["typed_extension_protocol_options"][OPTIONS];
    let found = if found.is_null() { &nothing } else { found };
    let found = without(found, &["http_filters", "retry_policy"]);
    let empty = found["common_http_protocol_options"] == json!({});
    plain(&if empty { without(&found, &["common_http_protocol_options"]) } else { found })
}

/// What Istio balances with, as the typed policy that Envoy would make of it.
/// Source: Envoy, `config.cluster.v3.Cluster` and `extensions.load_balancing_policies`.
fn own_balancing(cluster: &Value) -> (String, Value) {
    let (name, config) = match cluster["lb_policy"].as_str().unwrap_or("ROUND_ROBIN") {
        "ROUND_ROBIN" => ("round_robin", "round_robin_lb_config"),
        "LEAST_REQUEST" => ("least_request", "least_request_lb_config"),
        "RANDOM" => ("random", ""),
        "RING_HASH" => ("ring_hash", "ring_hash_lb_config"),
        "MAGLEV" => ("maglev", "maglev_lb_config"),
        other => panic!("{other}"),
    };
    let hash = ["ring_hash", "maglev"].contains(&name);
    let mut config = cluster.get(config).cloned().unwrap_or_else(|| json!({}));
    let common = &cluster["common_lb_config"];
    if let Some(weighted) = common.get("locality_weighted_lb_config") {
        if hash {
            config["locality_weighted_lb_config"] = weighted.clone();
        } else {
            config["locality_lb_config"] = json!({"locality_weighted_lb_config": weighted});
        }
    }
    if let Some(zones) = common.get("zone_aware_lb_config").filter(|_| !hash) {
        config["locality_lb_config"] = json!({"zone_aware_lb_config": zones});
    }
    (name.to_owned(), slow_start(config))
}

/// The balancing behind the header that names hosts.
fn fallback(patch: &Value) -> (String, Value) {
    let policies = patch["load_balancing_policy"]["policies"].as_array().unwrap();
    assert_eq!(policies.len(), 1);
    let steering = &policies[0]["typed_extension_config"]["typed_config"];
    assert_eq!(steering["override_host_sources"], json!([{"header": "x-holdfast-hosts"}]));
    let own = &steering["fallback_policy"]["policies"][0]["typed_extension_config"];
    let name = own["name"].as_str().unwrap().rsplit('.').next().unwrap();
    (name.to_owned(), slow_start(without(&own["typed_config"], &["@type"])))
}

/// Without the values that Envoy takes anyhow, and without the names by which its runtime could change them.
fn slow_start(mut config: Value) -> Value {
    config = plain(&config);
    if let Some(start) = config.get_mut("slow_start_config").and_then(Value::as_object_mut) {
        if start.get("aggression").is_some_and(|aggression| aggression["default_value"] == 1.0) {
            start.remove("aggression");
        } else if let Some(aggression) = start.get_mut("aggression") {
            aggression["runtime_key"] = json!("");
        }
        if start.get("min_weight_percent").is_some_and(|percent| percent["value"] == 10.0) {
            start.remove("min_weight_percent");
        }
    }
    // Zero is a message without fields there.
    if let Some(routing) = config.pointer_mut("/locality_lb_config/zone_aware_lb_config/routing_enabled") {
        *routing = json!({});
    }
    config
}

/// Without `outlierDetection` the newest Istio sets 0, which is an empty message, and an older one nothing.
fn panic_threshold(cluster: &mut Value) {
    if let Some(common) = cluster.get_mut("common_lb_config") {
        let threshold = &common["healthy_panic_threshold"];
        if *threshold == json!({}) || *threshold == json!({"value": 0}) {
            *common = without(common, &["healthy_panic_threshold"]);
        }
    }
}

/// All but balancing and protocol options, for a cluster that is made anew.
fn rest(cluster: &Value) -> Value {
    let mut rest = without(
        cluster,
        &[
            "typed_extension_protocol_options",
            "load_balancing_policy",
            "lb_policy",
            "round_robin_lb_config",
            "least_request_lb_config",
            "ring_hash_lb_config",
        ],
    );
    if let Some(common) = rest.get_mut("common_lb_config") {
        *common = without(common, &["locality_weighted_lb_config", "zone_aware_lb_config"]);
    }
    panic_threshold(&mut rest);
    // The rule's name and the services are for telemetry, which is off in the generator.
    if let Some(istio) = rest.pointer_mut("/metadata/filter_metadata/istio") {
        *istio = without(istio, &["config", "services"]);
    }
    if rest.pointer("/metadata/filter_metadata/istio") == Some(&json!({})) {
        rest = without(&rest, &["metadata"]);
    }
    accounts(&mut rest);
    plain(&rest)
}

/// Istio names the accounts of pods, and has none in the generator; a cluster made anew takes any of the namespace.
fn accounts(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            if entries.get("match_subject_alt_names") == Some(&json!([{"contains": "/ns/shop/sa/"}])) {
                entries.remove("match_subject_alt_names");
            }
            entries.values_mut().for_each(accounts);
        }
        Value::Array(items) => items.iter_mut().for_each(accounts),
        _ => {}
    }
}

#[test]
fn nothing_that_istio_makes_of_a_cluster_is_lost() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/istio-clusters.json");
    let program = std::env::var_os("HOLDFAST_ISTIO").map(PathBuf::from);
    let scratch = Scratch::new("translation");
    let cases = cases();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let program = program.as_deref().expect("HOLDFAST_ISTIO says where tests/istio's program is");
        let made = cases.iter().map(|case| -> (String, BTreeMap<String, Value>) {
            let resources = scratch.write("resources.yaml", &case.resources());
            let clusters = istio(program, case, &scratch, &[&resources]).unwrap();
            let compared = clusters.iter().map(|(name, cluster)| (name.clone(), compared(cluster))).collect();
            (case.name.clone(), compared)
        });
        // A line for each case, so that a difference says which.
        let line = |(name, clusters)| format!("{}: {}", json!(name), json!(clusters));
        let lines = made.map(line).collect::<Vec<_>>().join(",\n");
        fs::write(&path, format!("{{\n{lines}\n}}\n")).unwrap();
    }
    let known: BTreeMap<String, BTreeMap<String, Value>> =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(known.len(), cases.len());
    let mut anew = 0;
    for case in &cases {
        let resources = scratch.write("resources.yaml", &case.resources());
        let text = add(case, &scratch, &resources);
        let clusters = &known[&case.name];
        assert!(clusters.contains_key(CLUSTER), "{}", case.name);
        for (name, cluster) in clusters {
            let (made_anew, patch) = patched(&text, name);
            let what = format!("{}: {name}", case.name);
            assert_eq!(options(&patch), options(cluster), "{what}");
            assert_eq!(fallback(&patch), own_balancing(cluster), "{what}");
            let filters = &patch["typed_extension_protocol_options"][OPTIONS]["http_filters"];
            assert_eq!(filters.as_array().unwrap().len(), 2, "{what}");
            if made_anew {
                assert_eq!(rest(&patch), rest(cluster), "{what}");
                anew += 1;
            }
        }
        if let Some(program) = &program {
            let Some(before) = istio(program, case, &scratch, &[&resources]) else { continue };
            let still =
                before.iter().map(|(name, cluster)| (name.clone(), compared(cluster))).collect::<BTreeMap<_, _>>();
            assert_eq!(&still, clusters, "{}: renew istio-clusters.json", case.name);
            applied(program, case, &scratch, &resources, &text, &before);
        }
    }
    let weighed =
        known.values().flat_map(BTreeMap::values).filter(|cluster| cluster.get("common_lb_config").is_some()).count();
    assert!(weighed >= 4 * WEIGHED.len());
    assert_eq!(anew, weighed);
}

/// Istio applies what is printed: each cluster still is there, with all that was not to be touched.
fn applied(
    program: &Path,
    case: &Case,
    scratch: &Scratch,
    resources: &Path,
    text: &str,
    before: &BTreeMap<String, Value>,
) {
    let filter = scratch.write("filter.yaml", text);
    let after = istio(program, case, scratch, &[resources, &filter]).unwrap();
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{}", case.name);
    for (name, cluster) in before {
        assert_eq!(rest(&after[name]), rest(cluster), "{}: {name}", case.name);
        assert_eq!(options(&after[name]), options(cluster), "{}: {name}", case.name);
        assert_eq!(fallback(&after[name]), own_balancing(cluster), "{}: {name}", case.name);
    }
}
