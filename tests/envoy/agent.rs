//! What Istio's own agent makes of both seats' resources before Envoy sees them (`tests/istio/agent/`), in a real Envoy: the
//! module that it fetched runs, and the filter that it puts in place of one that it could not fetch takes nothing down.

use std::fs;
use std::path::Path;

use holdfast_tests::{Backend, Client, Cluster, Envoy, EnvoyOptions, Records, Route, upstream_codec, wasm_module};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::inputs::hash_of;

const REQUEST: &str = "holdfast.shop.holdfast-orders.request";
const ATTEMPT: &str = "holdfast.shop.holdfast-orders.attempt";

/// Where the agent has put the path of the module.
const FETCHED: &str = "/fetched/by/the/agent/holdfast.wasm";

const DENIES: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

fn fixture() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("istio/fixtures/agent.json");
    let text =
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}: run ./build.sh istio", file.display()));
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let resources = Path::new(env!("CARGO_MANIFEST_DIR")).join("istio/agent/resources.yaml");
    let hash = hash_of(&[resources]);
    assert_eq!(fixture["inputs_sha256"], hash, "{} is out of date: run ./build.sh istio", file.display());
    fixture
}

/// The first filter of this name in what Istio made.
fn filter_in<'a>(tree: &'a Value, name: &str) -> Option<&'a Value> {
    match tree {
        Value::Object(members) if tree["name"] == name && members.contains_key("config_discovery") => Some(tree),
        Value::Object(members) => members.values().find_map(|member| filter_in(member, name)),
        Value::Array(items) => items.iter().find_map(|item| filter_in(item, name)),
        _ => None,
    }
}

/// An Envoy with both seats as Istio made them, but for the source, which is a file with what the agent hands on.
struct Sidecar {
    folder: TempDir,
    fixture: Value,
    more_types: Vec<&'static str>,
}

impl Sidecar {
    /// `outcome` is what the agent did: `fetched` or `denied`.
    fn new(outcome: &str) -> Self {
        let fixture = fixture();
        let folder = TempDir::new().unwrap();
        let module = wasm_module().unwrap();
        for resource in fixture["agent"][outcome].as_array().unwrap() {
            let mut resource = resource.clone();
            resource["@type"] = json!("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
            let name = resource["name"].as_str().unwrap().to_owned();
            let response = json!({"version_info": "1", "resources": [resource]}).to_string();
            fs::write(folder.path().join(name + ".json"), response.replace(FETCHED, module.to_str().unwrap())).unwrap();
        }
        Self { folder, fixture, more_types: Vec::new() }
    }

    /// With one more type that Envoy takes for the seats.
    fn taking(mut self, kind: &'static str) -> Self {
        self.more_types.push(kind);
        self
    }

    fn seat(&self, kind: &str, name: &str) -> Value {
        let mut filter = filter_in(&self.fixture["istio"][kind], name).expect("Istio made it").clone();
        let discovery = &mut filter["config_discovery"];
        assert!(discovery["config_source"]["ads"].is_object(), "{discovery}");
        let path = self.folder.path().join(format!("{name}.json"));
        discovery["config_source"] = json!({"path_config_source": {"path": path}, "resource_api_version": "V3"});
        // Before 1.40 Envoy knows that filter before the router only.
        if kind == "listeners" {
            discovery["type_urls"].as_array_mut().unwrap().extend(self.more_types.iter().map(|kind| json!(kind)));
        }
        filter
    }

    async fn start(&self, orders: &Backend) -> Envoy {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let cluster = Cluster::new("orders").endpoint(orders.addr()).raw(json!({"typed_extension_protocol_options": {
            options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": [self.seat("clusters", ATTEMPT), upstream_codec()],
            },
        }}));
        let options = EnvoyOptions::new().cluster(cluster).route(Route::to("/", "orders"));
        Envoy::start(options.filter(self.seat("listeners", REQUEST))).await.unwrap()
    }
}

async fn twelve(envoy: &Envoy) -> Records {
    Client::http1(envoy.addr()).drive(2, 12, "/").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_module_that_the_agent_fetched_runs_in_both_seats() {
    let orders = Backend::start().await.unwrap();
    let envoy = Sidecar::new("fetched").start(&orders).await;
    for seat in [format!("http_filter.{REQUEST}"), format!("upstream_http_filter.{ATTEMPT}")] {
        envoy
            .wait_for_stat(&format!("extension_config_discovery.{seat}.config_reload"), |count| count > 0)
            .await
            .unwrap();
    }
    let response = Client::http1(envoy.addr()).get("/").await.unwrap();
    assert_eq!(response.status, 503);
    assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("open; policy=orders"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_puts_in_place_of_a_module_that_it_could_not_fetch_is_refused_and_traffic_goes_on() {
    let orders = Backend::start().await.unwrap();
    let envoy = Sidecar::new("denied").start(&orders).await;
    for seat in [format!("http_filter.{REQUEST}"), format!("upstream_http_filter.{ATTEMPT}")] {
        envoy
            .wait_for_stat(&format!("extension_config_discovery.{seat}.update_rejected"), |count| count > 0)
            .await
            .unwrap();
    }
    let records = twelve(&envoy).await;
    assert_eq!(records.count(200), 12, "{:?}", records.statuses());
    assert_eq!(orders.requests(), 12);
}

/// So the two types of the shipped form are what keeps the traffic: a WasmPlugin's own list has this one too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_type_of_that_filter_is_taken_it_denies_everything() {
    let orders = Backend::start().await.unwrap();
    let envoy = Sidecar::new("denied").taking(DENIES).start(&orders).await;
    let loaded = format!("extension_config_discovery.http_filter.{REQUEST}.config_reload");
    envoy.wait_for_stat(&loaded, |count| count > 0).await.unwrap();
    let records = twelve(&envoy).await;
    assert_eq!(records.count(403), 12, "{:?}", records.statuses());
    assert_eq!(orders.requests(), 0);
}
