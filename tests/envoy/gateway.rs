//! `envoy/gateway/`, as Envoy Gateway's own translators make it into Envoy's configuration (`./build.sh gateway`), in a real
//! Envoy: what a user's policies said is still there, both seats work, and each pitfall of its page is as the page says.

use std::fs;

use holdfast_tests::{Action, Backend, Client, Envoy, HOSTS, PATIENCE, Records, eventually, wasm_module, with_header};
use serde_json::{Value, json};

use crate::gateway_fixture::{Fixture, LISTENER, Mounted, cases};
use crate::outlying::start;

const CLUSTER: &str = "httproute/shop/orders/rule/0";
const OVERRIDE_HOST: &str = "envoy.load_balancing_policies.override_host";

async fn run(case: &str, hosts: &[Backend], mounted: &Mounted) -> Envoy {
    let addresses: Vec<_> = hosts.iter().map(Backend::addr).collect();
    Envoy::start(Fixture::of(case).options(&addresses, mounted)).await.unwrap()
}

/// Until Envoy has the policy and the module, requests pass without them.
async fn governed(envoy: &Envoy) {
    for seat in ["http_filter.holdfast-request", "upstream_http_filter.holdfast-attempt"] {
        let loaded = format!("extension_config_discovery.{seat}.config_reload");
        envoy.wait_for_stat(&loaded, |count| count > 0).await.unwrap();
    }
    // That the main thread has them does not say that each worker has begun with both: the first request of one may still be without.
    for _ in 0..8 {
        let client = Client::http1(envoy.addr());
        for _ in 0..4 {
            assert_eq!(client.get("/").await.unwrap().text(), "ok", "the hosts are well");
        }
    }
}

/// A host that fails is out after five attempts, and its failures reach no client; a service that fails opens the breaker, and
/// the fallback answers.
async fn retries_ejects_and_opens(case: &str, count: usize) {
    let mut hosts = Vec::new();
    for _ in 0..count {
        hosts.push(Backend::start().await.unwrap());
    }
    let mounted = Mounted::new();
    let envoy = run(case, &hosts, &mounted).await;
    governed(&envoy).await;
    let client = Client::http1(envoy.addr());

    let failing = &hosts[1];
    failing.reset_counters();
    failing.always(Action::status(503));
    let ejected = format!("host {} ejected for 3", failing.addr());
    let is_out = || async {
        let response = client.get("/").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{case}: a retry hides each failure");
        envoy.log().contains(&ejected)
    };
    eventually(PATIENCE, is_out).await.unwrap_or_else(|_| panic!("{case}: the host is out"));
    assert_eq!(failing.requests(), 5, "{case}: after 5 failures in a row");
    for _ in 0..20 {
        assert_eq!(client.get("/").await.unwrap().text(), "ok");
    }
    assert_eq!(failing.requests(), 5, "{case}: it gets no more of them");

    for host in &hosts {
        host.always(Action::status(503));
    }
    let falls_back = || async {
        let response = client.get("/").await.unwrap();
        response.header("x-holdfast-fallback").filter(|_| response.status == 200)
    };
    let fallback = eventually(PATIENCE, falls_back).await.unwrap_or_else(|_| panic!("{case}: the breaker opens"));
    assert_eq!(fallback, "static; reason=open; policy=orders", "{case}");
    let before: u64 = hosts.iter().map(Backend::requests).sum();
    assert_eq!(client.get("/").await.unwrap().json(), json!({"items": []}));
    assert_eq!(hosts.iter().map(Backend::requests).sum::<u64>(), before, "{case}: no host is asked while it is open");
    for host in &hosts {
        assert!(host.seen().iter().all(|request| request.header(HOSTS).is_none()), "{case}: no host sees the header");
    }
}

#[test]
fn every_fixture_is_of_the_resources_that_are_there_and_nothing_in_them_failed() {
    let cases = cases();
    assert!(cases.len() >= 3, "{cases:?}");
    for case in cases {
        assert_eq!(Fixture::of(&case).complaints(), [""; 0], "{case}");
    }
}

#[test]
fn the_request_seat_stands_just_before_the_router_and_the_attempt_seat_within_it() {
    let fixture = Fixture::of("plain");
    let filters = fixture.http_filters();
    let names: Vec<&str> = filters.iter().filter_map(|filter| filter["name"].as_str()).collect();
    assert_eq!(names, ["holdfast-request", "envoy.filters.http.router"]);
    let upstream = filters[1]["typed_config"]["upstream_http_filters"].as_array().unwrap();
    let names: Vec<&str> = upstream.iter().filter_map(|filter| filter["name"].as_str()).collect();
    assert_eq!(names, ["holdfast-attempt", "envoy.filters.http.upstream_codec"]);
    let routes = fixture.resource("routes", LISTENER);
    assert_eq!(routes["internal_only_headers"], json!([HOSTS]), "no client chooses a host");
}

/// The one policy of the cluster, and the one that it falls back to.
fn balancing(cluster: &Value) -> (&Value, &Value) {
    let first = |policies: &'static str, of: &'_ Value| -> Value {
        let policies = of.pointer(policies).and_then(Value::as_array).unwrap();
        assert_eq!(policies.len(), 1, "no second policy is left");
        policies[0]["typed_extension_config"].clone()
    };
    let _ = first("/load_balancing_policy/policies", cluster);
    let own = cluster.pointer("/load_balancing_policy/policies/0/typed_extension_config").unwrap();
    assert_eq!(own["name"], OVERRIDE_HOST);
    let _ = first("/fallback_policy/policies", &own["typed_config"]);
    let fallback = own.pointer("/typed_config/fallback_policy/policies/0/typed_extension_config").unwrap();
    (&own["typed_config"], &fallback["typed_config"])
}

#[test]
fn what_envoy_gateway_would_have_balanced_by_is_the_fallback() {
    let fixture = Fixture::of("plain");
    let (own, fallback) = balancing(fixture.resource("clusters", CLUSTER));
    assert_eq!(own["override_host_sources"], json!([{"header": HOSTS}]));
    assert_eq!(
        fallback["@type"],
        "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"
    );
    assert_eq!(fallback["locality_lb_config"], json!({"locality_weighted_lb_config": {}}), "weights of backends hold");

    let fixture = Fixture::of("weights-slow-start");
    let cluster = fixture.resource("clusters", CLUSTER);
    let (_, fallback) = balancing(cluster);
    assert!(fallback["@type"].as_str().unwrap().ends_with("round_robin.v3.RoundRobin"), "{fallback}");
    assert_eq!(fallback["slow_start_config"], json!({"slow_start_window": "45s"}));
    let endpoints = fixture.resource("endpoints", CLUSTER)["endpoints"].as_array().unwrap();
    let weights: Vec<&Value> = endpoints.iter().map(|locality| &locality["load_balancing_weight"]).collect();
    assert_eq!(weights, [9, 1]);
}

#[test]
fn http2_hash_pool_and_time_outs_of_the_users_own_policies_are_kept() {
    let fixture = Fixture::of("settings-http2");
    let cluster = fixture.resource("clusters", CLUSTER);
    let (_, fallback) = balancing(cluster);
    assert!(fallback["@type"].as_str().unwrap().ends_with("maglev.v3.Maglev"), "{fallback}");
    assert_eq!(fallback["table_size"], "1021");

    let options =
        &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert!(options["explicit_http_config"]["http2_protocol_options"].is_object(), "{options}");
    let common = json!({
        "idle_timeout": "50s",
        "max_connection_duration": "70s",
        "max_requests_per_connection": 781,
    });
    assert_eq!(options["common_http_protocol_options"], common);
    assert_eq!(options.get("http_filters"), None, "the attempt seat is the router's");

    let limits = &cluster["circuit_breakers"]["thresholds"];
    assert_eq!(limits.as_array().unwrap().len(), 1);
    let limits =
        ["max_connections", "max_pending_requests", "max_requests", "max_retries"].map(|name| &limits[0][name]);
    assert_eq!(limits, [777, 778, 779, 780]);
    assert_eq!(cluster["connect_timeout"], "3s");
    assert_eq!(cluster["common_lb_config"]["healthy_panic_threshold"], json!({"value": 33}));

    let route = &fixture.resource("routes", LISTENER)["virtual_hosts"][0]["routes"][0]["route"];
    assert_eq!(route["hash_policy"], json!([{"header": {"header_name": "x-user"}}]));
    assert_eq!((&route["timeout"], &route["retry_policy"]["num_retries"]), (&json!("9s"), &json!(4)));
    assert_eq!(route["retry_policy"]["retry_back_off"]["base_interval"], "0.001s", "the attempt seat waits, not Envoy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_seats_work_before_a_plain_service() {
    retries_ejects_and_opens("plain", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_seats_work_before_a_service_of_http2_with_settings_of_its_own() {
    retries_ejects_and_opens("settings-http2", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_seats_work_before_two_services_by_weight() {
    retries_ejects_and_opens("weights-slow-start", 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_host_is_out_a_user_keeps_the_host_of_the_hash() {
    let hosts = start::<3>().await;
    let mounted = Mounted::new();
    let envoy = run("settings-http2", &hosts, &mounted).await;
    governed(&envoy).await;
    let client = Client::http1(envoy.addr());
    for user in ["ann", "bob", "cas", "dee"] {
        hosts.iter().for_each(Backend::reset_counters);
        for _ in 0..10 {
            let response = client.send(with_header(Client::request("/"), "x-user", user)).await.unwrap();
            assert_eq!(response.status, 200);
        }
        let mut requests = hosts.each_ref().map(Backend::requests);
        requests.sort_unstable();
        assert_eq!(requests, [0, 0, 10], "{user}");
    }
    let connections = envoy.stat(&format!("cluster.{CLUSTER}.upstream_cx_http2_total")).await.unwrap();
    assert!(connections > 0, "over HTTP/2");
}

/// A document that rejects everything, to see at once whether it governs.
fn forced_open() -> Value {
    json!({"policies": [{"name": "orders", "breaker": {"state": "forced_open"}}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_config_map_changes_the_policy_under_way_and_a_wrong_one_changes_nothing() {
    let hosts = start::<3>().await;
    let mut mounted = Mounted::new();
    let envoy = run("plain", &hosts, &mounted).await;
    governed(&envoy).await;
    let client = Client::http1(envoy.addr());
    assert_eq!(client.get("/").await.unwrap().status, 200);

    mounted.update(&forced_open());
    let rejects = || async { client.get("/").await.unwrap().header("x-holdfast-reject") };
    let reject = eventually(PATIENCE, rejects).await.unwrap();
    assert_eq!(reject, "open; policy=orders");
    assert_eq!(
        envoy.stat("listener_manager.listener_create_success").await.unwrap() % 2,
        0,
        "no new listener was made"
    );

    fs::remove_dir_all(mounted.policy().join("..2")).unwrap();
    mounted.update(&json!({"policies": [{"name": "Bad Name"}]}));
    let refused = "extension_config_discovery.http_filter.holdfast-request.update_rejected";
    envoy.wait_for_stat(refused, |count| count > 0).await.unwrap();
    assert!(envoy.log().contains("policies[0].name"), "the log says what is wrong with it");
    assert_eq!(client.get("/").await.unwrap().header("x-holdfast-reject").as_deref(), Some("open; policy=orders"));
}

/// All of them are answered, by the hosts.
async fn pass(envoy: &Envoy, hosts: &[Backend]) {
    for host in hosts {
        host.reset_counters();
    }
    let records: Records = Client::http1(envoy.addr()).drive(2, 20, "/").await;
    assert_eq!(records.count(200), 20, "{:?}", records.statuses());
    assert_eq!(hosts.iter().map(Backend::requests).sum::<u64>(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_proxy_with_a_wrong_policy_or_without_the_module_serves_as_without_holdfast() {
    let hosts = start::<3>().await;
    let refused = "extension_config_discovery.http_filter.holdfast-request.update_rejected";

    let mut wrong = Mounted::new();
    wrong.update(&json!({"policies": [{"name": "Bad Name"}]}));
    let envoy = run("plain", &hosts, &wrong).await;
    envoy.wait_for_stat(refused, |count| count > 0).await.unwrap();
    pass(&envoy, &hosts).await;

    let envoy = run("plain", &hosts, &Mounted::with_module("/nowhere/holdfast.wasm")).await;
    envoy.wait_for_stat(refused, |count| count > 0).await.unwrap();
    pass(&envoy, &hosts).await;
}

/// So the ConfigMap must be there before the EnvoyPatchPolicy is, and must not be `optional`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_without_the_file_of_policies_refuses_the_listener() {
    let hosts = start::<3>().await;
    let mounted = Mounted::new();
    fs::remove_file(mounted.policy().join("request.yaml")).unwrap();
    let addresses = hosts.each_ref().map(Backend::addr);
    let error = Envoy::start(Fixture::of("plain").options(&addresses, &mounted)).await.unwrap_err();
    assert!(error.log.contains("paths must refer to an existing path in the system"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cannot_choose_a_host() {
    let hosts = start::<3>().await;
    let mounted = Mounted::new();
    let envoy = run("plain", &hosts, &mounted).await;
    governed(&envoy).await;
    hosts.iter().for_each(Backend::reset_counters);
    let client = Client::http1(envoy.addr());
    for _ in 0..30 {
        let request = with_header(Client::request("/"), HOSTS, hosts[0].addr().to_string());
        assert_eq!(client.send(request).await.unwrap().status, 200);
    }
    let [first, second, third] = hosts.each_ref().map(Backend::requests);
    assert_eq!(first + second + third, 30);
    assert!(second > 0 && third > 0, "{first} {second} {third}");
}

/// A metric names them as `policy=.=orders;.;key=.=...;.;`.
#[test]
fn the_policy_and_the_key_of_a_metric_become_labels() {
    let fixture = Fixture::of("plain");
    let tags = fixture.made()["stats_tags"].as_array().unwrap();
    for name in ["policy", "key"] {
        let tag = json!({"tag_name": name, "regex": format!(r"({name}=\.=(.*?);\.;)")});
        assert!(tags.contains(&tag), "{tag} is among {tags:?}");
    }
    assert!(tags.len() > 2, "Envoy Gateway's own are there too");
}

/// The page says that the module comes from a server of Envoy Gateway: here a cluster of this test is that server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_seat_alone_opens_a_breaker_with_the_module_from_envoy_gateways_server() {
    let hosts = start::<3>().await;
    let server = Backend::start().await.unwrap();
    let module = fs::read(wasm_module().unwrap()).unwrap();
    let body = module.clone();
    server.script(move |request| {
        if request.path == "/fetched-by-envoy-gateway.wasm" {
            Action::ok().body(body.clone())
        } else {
            Action::status(404)
        }
    });
    let addresses = hosts.each_ref().map(Backend::addr);
    let envoy =
        Envoy::start(Fixture::of("extension-policy").with_server(&addresses, server.addr(), &module)).await.unwrap();
    let client = Client::http1(envoy.addr());
    assert_eq!(client.get("/").await.unwrap().status, 200, "it passes while the module is on its way, too");

    for host in &hosts {
        host.always(Action::status(503));
    }
    let falls_back = || async {
        let response = client.get("/").await.unwrap();
        response.header("x-holdfast-fallback").filter(|_| response.status == 200)
    };
    let fallback = eventually(PATIENCE, falls_back).await.expect("the breaker opens");
    assert_eq!(fallback, "static; reason=open; policy=orders");
}
