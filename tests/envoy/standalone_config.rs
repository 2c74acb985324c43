//! The configurations that people copy, `envoy/envoy.yaml` and `envoy/minimal.yaml`, run as they are: only addresses, ports
//! and the module's path are replaced.

use std::net::SocketAddr;
use std::path::Path;

use holdfast_tests::{
    Action, Backend, Client, Envoy, EnvoyOptions, HOSTS, PATIENCE, eventually, stats_tags, wasm_module, with_header,
};
use serde_json::{Value, json};

const FILTERS: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";

fn text(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy").join(name)).unwrap()
}

fn parsed(name: &str) -> Value {
    serde_norway::from_str(&text(name)).unwrap_or_else(|error| panic!("{name} is not YAML: {error}"))
}

fn shipped() -> Value {
    parsed("envoy.yaml")
}

/// The host of the cluster, as the file writes it.
const HOST: &str = "        - endpoint:
            address:
              socket_address: { address: orders.internal, port_value: 8080 }
";

/// The file itself, for Envoy's own YAML parser.
fn placed(hosts: &[SocketAddr], module: &str) -> String {
    let host = |host: &SocketAddr| {
        HOST.replace("orders.internal", &host.ip().to_string()).replace("8080", &host.port().to_string())
    };
    let replacements = [
        ("address: 127.0.0.1, port_value: 9901", "address: 127.0.0.1, port_value: 0".to_owned()),
        ("address: 0.0.0.0, port_value: 8080", "address: 127.0.0.1, port_value: 0".to_owned()),
        (HOST, hosts.iter().map(host).collect()),
        ("filename: /etc/envoy/holdfast.wasm", format!("filename: {module}")),
    ];
    replacements.iter().fold(text("envoy.yaml"), |text, (from, to)| {
        let expected = if from.starts_with("filename") { 2 } else { 1 };
        assert_eq!(text.matches(from).count(), expected, "envoy.yaml says {from:?} so often");
        text.replace(from, to)
    })
}

const ATTEMPT_FILTERS: &str = "/static_resources/clusters/0/typed_extension_protocol_options/\
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions/http_filters";

fn holdfast(config: &Value) -> &Value {
    &config.pointer(FILTERS).unwrap()[0]["typed_config"]["config"]
}

#[test]
fn the_admin_interface_is_on_loopback_only() {
    assert_eq!(shipped().pointer("/admin/address/socket_address/address"), Some(&json!("127.0.0.1")));
}

#[test]
fn holdfast_sits_just_before_the_router() {
    let config = shipped();
    let filters = config.pointer(FILTERS).and_then(Value::as_array).unwrap();
    let names: Vec<&str> = filters.iter().filter_map(|filter| filter["name"].as_str()).collect();
    assert_eq!(names, ["holdfast", "envoy.filters.http.router"]);
    assert_eq!(holdfast(&config)["failure_policy"], "FAIL_RELOAD");
}

#[test]
fn the_attempt_seat_shares_everything_but_its_vm() {
    let config = shipped();
    let filters = config.pointer(ATTEMPT_FILTERS).and_then(Value::as_array).unwrap();
    let names: Vec<&str> = filters.iter().filter_map(|filter| filter["name"].as_str()).collect();
    assert_eq!(names, ["holdfast", "envoy.filters.http.upstream_codec"]);
    let (request, mut attempt) = (holdfast(&config).clone(), filters[0]["typed_config"]["config"].clone());
    assert_eq!(attempt["vm_config"]["configuration"]["value"], r#"{"seat": "attempt"}"#);
    let vm = attempt["vm_config"].as_object_mut().unwrap();
    vm.remove("configuration");
    for (name, value) in attempt.as_object().unwrap() {
        assert_eq!(&request[name], value, "{name} is the request seat's");
    }
}

#[test]
fn envoy_alone_never_retries_and_does_not_stand_in_the_way() {
    let config = shipped();
    let policy = config
        .pointer("/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0")
        .map(|host| host["retry_policy"].clone())
        .unwrap();
    assert_eq!(policy.get("retry_on"), None);
    assert_eq!(policy["retry_back_off"]["max_interval"], "0.001s");
    let retries = config.pointer("/static_resources/clusters/0/circuit_breakers/thresholds/0/max_retries");
    assert!(retries.and_then(Value::as_u64) >= Some(1000), "the budget is the limit, not Envoy's 3");
}

#[test]
fn the_cluster_goes_where_the_header_says_and_nobody_else_ejects() {
    let config = shipped();
    let cluster = config.pointer("/static_resources/clusters/0").unwrap();
    let balancing = &cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"];
    assert_eq!(balancing["name"], "envoy.load_balancing_policies.override_host");
    assert_eq!(balancing["typed_config"]["override_host_sources"], json!([{"header": HOSTS}]));
    assert_eq!(cluster.get("outlier_detection"), None);
}

#[test]
fn the_policy_is_json() {
    let config = shipped();
    let text = holdfast(&config)["configuration"]["value"].as_str().unwrap();
    let document: Value = serde_json::from_str(text).expect("the policy is JSON");
    assert_eq!(document["policies"][0]["name"], "orders");
}

#[test]
fn the_labels_are_those_that_the_other_tests_use() {
    assert_eq!(shipped().pointer("/stats_config/stats_tags"), Some(&stats_tags()));
}

/// What is wrong here is wrong in the configuration and not in the module.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_accepts_all_but_the_module() {
    let mut config = shipped();
    for filters in [FILTERS, ATTEMPT_FILTERS] {
        config.pointer_mut(filters).and_then(Value::as_array_mut).unwrap().remove(0);
    }
    Envoy::validate(EnvoyOptions::new().bootstrap(config.to_string())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_passes_through_the_module() {
    let backend = Backend::start().await.unwrap();
    let module = wasm_module().unwrap();
    let config = placed(&[backend.addr()], module.to_str().expect("the module's path is UTF-8"));

    let envoy = Envoy::start(EnvoyOptions::new().bootstrap(config)).await.unwrap();
    let response = Client::http1(envoy.addr()).get("/").await.unwrap();

    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert_eq!(backend.requests(), 1);
    backend.script(Action::in_turn("x-request-key", vec![Action::status(503), Action::ok()]));
    let request = with_header(Client::request("/"), "x-request-key", "retried");
    let retried = Client::http1(envoy.addr()).send(request).await.unwrap();
    assert_eq!((retried.status, backend.requests()), (200, 3), "the second seat is at work too");
    let dump: Value = serde_json::from_str(&envoy.admin_get("/config_dump").await.unwrap()).unwrap();
    let tags = dump.pointer("/configs/0/bootstrap/stats_config/stats_tags");
    assert_eq!(tags, Some(&stats_tags()), "Envoy reads the regular expressions as they are meant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_fails_is_left_out() {
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let [_, failing, _] = &hosts;
    failing.always(Action::status(503));
    let module = wasm_module().unwrap();
    let addresses = hosts.each_ref().map(Backend::addr);
    let config = placed(&addresses, module.to_str().expect("the module's path is UTF-8"));
    let envoy = Envoy::start(EnvoyOptions::new().bootstrap(config)).await.unwrap();
    let client = Client::http1(envoy.addr());

    let ejected = format!("host {} ejected for 3", failing.addr());
    let is_out = || async {
        let response = client.get("/").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "a retry hides each failure");
        envoy.log().contains(&ejected)
    };
    eventually(PATIENCE, is_out).await.expect("the host is out");
    assert_eq!(failing.requests(), 5, "after 5 failures in a row");

    let before = hosts.each_ref().map(Backend::requests);
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().text(), "ok");
    }
    let [first, second, third] = hosts.each_ref().map(Backend::requests);
    assert_eq!(second - before[1], 0, "it gets no more of them");
    assert!(first - before[0] >= 8 && third - before[2] >= 8, "and the others serve by turns");
    for host in &hosts {
        assert!(host.seen().iter().all(|request| request.header(HOSTS).is_none()), "no host sees the header");
    }
}

/// The file itself, with one host.
fn minimal(host: SocketAddr) -> String {
    let module = wasm_module().unwrap();
    let replacements = [
        ("address: 127.0.0.1, port_value: 9901", "address: 127.0.0.1, port_value: 0".to_owned()),
        ("address: 0.0.0.0, port_value: 8080", "address: 127.0.0.1, port_value: 0".to_owned()),
        ("address: orders.internal, port_value: 8080", format!("address: {}, port_value: {}", host.ip(), host.port())),
        ("/etc/envoy/holdfast.wasm }", format!("{} }}", module.display())),
    ];
    replacements.iter().fold(text("minimal.yaml"), |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "minimal.yaml says {from:?} once");
        text.replace(from, to)
    })
}

#[test]
fn the_minimal_one_is_short_and_a_part_of_the_whole_one() {
    let lines = text("minimal.yaml").lines().count();
    assert!(lines < 60, "{lines} lines");
    let (whole, mut minimal) = (shipped(), parsed("minimal.yaml"));
    for same in ["/admin", "/stats_config"] {
        assert_eq!(minimal.pointer(same), whole.pointer(same), "{same}");
    }
    // The policies differ, and nothing else of the request seat.
    let policy = minimal.pointer_mut(FILTERS).unwrap()[0]["typed_config"]["config"]["configuration"]["value"].take();
    let mut seat = whole.pointer(FILTERS).unwrap()[0].clone();
    seat["typed_config"]["config"]["configuration"]["value"].take();
    assert_eq!(minimal.pointer(FILTERS).unwrap()[0], seat);
    let policy: Value = serde_json::from_str(policy.as_str().unwrap()).expect("the policy is JSON");
    let blocks: Vec<&String> = policy["policies"][0].as_object().unwrap().keys().collect();
    assert_eq!(blocks, ["breaker", "fallback", "match", "name"], "what the request seat alone is for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_minimal_one_opens_the_breaker_and_falls_back() {
    let host = Backend::start().await.unwrap();
    let envoy = Envoy::start(EnvoyOptions::new().bootstrap(minimal(host.addr()))).await.unwrap();
    let client = Client::http1(envoy.addr());
    assert_eq!(client.get("/").await.unwrap().text(), "ok");

    host.always(Action::status(503));
    let falls_back = || async { client.get("/").await.unwrap().header("x-holdfast-fallback") };
    let is_open = || async { falls_back().await.filter(|fallback| fallback.contains("reason=open")) };
    let fallback = eventually(PATIENCE, is_open).await.expect("the breaker opens");
    assert_eq!(fallback, "static; reason=open; policy=orders");
    let before = host.requests();
    let answer = client.get("/").await.unwrap();
    assert_eq!((answer.status, answer.json()), (200, json!({"items": []})));
    assert_eq!(host.requests(), before, "the host is left alone");
    let series = r#"breaker_state{policy="orders",key="cluster=orders"} 2"#;
    let is_told = || async { envoy.prometheus().await.unwrap().lines().any(|line| line.ends_with(series)) };
    eventually(PATIENCE, is_told).await.expect("the policy and the key are labels");
}
