//! The harness itself, without Holdfast: what the other tests take for granted about Envoy, backend and client.

// A test may stop at the first broken expectation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    AccessLogEntry, Action, Backend, Client, Cluster, Envoy, EnvoyOptions, Listener, PATIENCE, Route, Template, Update,
    eventually, stats_tags,
};
use serde_json::{Value, json};

fn one_backend(backend: &Backend) -> EnvoyOptions {
    EnvoyOptions::new().cluster(Cluster::new("orders").endpoint(backend.addr())).route(Route::to("/", "orders"))
}

/// Path, code and flags, sorted: two workers need not log in the order of the requests.
fn sorted(log: &[AccessLogEntry]) -> Vec<(&str, u16, &str)> {
    let mut seen: Vec<_> = log.iter().map(|entry| (entry.path.as_str(), entry.code, entry.flags.as_str())).collect();
    seen.sort_unstable();
    seen
}

fn broken_filter() -> Value {
    json!({
        "name": "broken",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": "this is not Lua"},
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_through_envoy_and_is_counted_everywhere() {
    let backend = Backend::start().await.unwrap();
    let envoy = Envoy::start(one_backend(&backend)).await.unwrap();

    let response = Client::http1(envoy.addr()).get("/items?id=7").await.unwrap();

    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert_eq!(backend.requests_to("/items?id=7"), 1);
    assert_eq!(envoy.wait_for_stat("cluster.orders.upstream_rq_200", |count| count > 0).await.unwrap(), 1);
    assert!(envoy.prometheus().await.unwrap().contains("envoy_cluster_upstream_rq_total"));
    let entry = envoy.wait_for_access_log(1).await.unwrap().remove(0);
    assert_eq!((entry.code, entry.flags.as_str(), entry.details.as_str()), (200, "-", "via_upstream"));
    assert_eq!((entry.path.as_str(), entry.host), ("/items?id=7", Some(backend.addr().to_string())));
    assert_eq!(entry.holdfast, None, "there is no Holdfast here to write filter state");
    envoy.wait_for_log("starting workers").await.unwrap();
    assert!(envoy.cpu_time().unwrap() > Duration::ZERO);
    assert!(envoy.resident_bytes().unwrap() > 1_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_of_a_backend_has_its_status_and_flag() {
    let backend = Backend::start().await.unwrap();
    let route = Route::to("/", "orders").timeout(Duration::from_millis(500));
    let cluster = Cluster::new("orders").endpoint(backend.addr());
    let envoy = Envoy::start(EnvoyOptions::new().cluster(cluster).route(route)).await.unwrap();
    let client = Client::http1(envoy.addr());

    backend.always(Action::status(500).body("oops"));
    assert_eq!(client.get("/500").await.unwrap().text(), "oops");
    backend.always(Action::reset());
    assert_eq!(client.get("/reset").await.unwrap().status, 503);
    backend.always(Action::hang());
    assert_eq!(client.get("/hang").await.unwrap().status, 504);
    backend.wait_in_flight(0).await.expect("a backend that hangs notices that Envoy gave up");
    backend.always(Action::truncate());
    let broken = client.get("/truncate").await.unwrap_err();
    assert_eq!(broken.status, Some(200), "the head had arrived: {broken}");
    backend.refuse().await.unwrap();
    assert_eq!(client.get("/refused").await.unwrap().status, 503);
    backend.always(Action::ok().after(Duration::from_millis(20)));
    backend.resume().unwrap();
    assert_eq!(client.get("/resumed").await.unwrap().status, 200, "the backend is back on the same port");

    let expected = [
        ("/500", 500, "-"),
        ("/hang", 504, "UT"),
        ("/refused", 503, "UF"),
        ("/reset", 503, "UC"),
        ("/resumed", 200, "-"),
        // Over HTTP/1.1 a body that ends before its announced length is a protocol error, not a lost connection.
        ("/truncate", 200, "UPE"),
    ];
    assert_eq!(sorted(&envoy.wait_for_access_log(6).await.unwrap()), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_keeps_exactly_so_many_requests_in_flight() {
    let backend = Backend::start().await.unwrap();
    let envoy = Envoy::start(one_backend(&backend)).await.unwrap();
    let client = Client::http1(envoy.addr());

    backend.hold();
    let burst = tokio::spawn(async move { client.burst(8, "/").await });
    backend.wait_in_flight(8).await.unwrap();
    backend.release(3);
    backend.wait_in_flight(5).await.unwrap();
    backend.always(Action::status(503));
    backend.release_all();
    let records = burst.await.unwrap();

    assert_eq!((records.count(200), records.count(503)), (3, 5), "a change holds for requests still at the gate");
    assert_eq!((backend.max_in_flight(), backend.in_flight(), backend.requests()), (8, 0, 8));
    backend.reset_counters();
    assert_eq!((backend.max_in_flight(), backend.requests(), backend.seen().len()), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_record_every_request() {
    let backend = Backend::start().await.unwrap();
    let envoy = Envoy::start(one_backend(&backend)).await.unwrap();
    let client = Client::http1(envoy.addr());

    backend.every(4, Action::status(500));
    let closed = client.drive(4, 40, "/").await;
    assert_eq!((closed.count(200), closed.count(500)), (30, 10), "every fourth request failed");
    assert!(backend.max_in_flight() <= 4, "a closed loop never has more requests under way than senders");
    assert!(closed.latency(50.0) <= closed.latency(100.0));

    let numbered = Template::new(|index| Client::request(&format!("/{index}")));
    let open = client.steady(100.0, Duration::from_millis(200), numbered).await;
    assert_eq!(open.responses().count(), 20);
    assert_eq!(open.errors().count(), 0);
    assert_eq!(backend.requests_to("/19"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_trailers_pass() {
    let backend = Backend::start().await.unwrap();
    let cluster = Cluster::new("orders").endpoint(backend.addr()).http2();
    let envoy = Envoy::start(EnvoyOptions::new().cluster(cluster).route(Route::to("/", "orders"))).await.unwrap();
    let client = Client::http2(envoy.addr()).authority("orders.test");

    backend.always(Action::grpc(0));
    let response = client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
    assert_eq!((response.status, response.grpc_status()), (200, Some(0)));
    assert!(response.trailers.is_some(), "the status came in trailers");

    backend.always(Action::grpc_trailers_only(14));
    let response = client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
    assert_eq!((response.status, response.grpc_status()), (200, Some(14)));
    assert!(response.body.is_empty() && response.header("grpc-status").is_some(), "the status came in headers");

    let seen = backend.last_seen().unwrap();
    assert_eq!((seen.path.as_str(), seen.body.len()), ("/orders.Orders/List", 5));

    // Over HTTP/2 a reset or a truncated body costs one stream, and a hang ends with its stream.
    backend.always(Action::truncate());
    assert!(client.get("/").await.is_err());
    backend.always(Action::hang());
    let open = client.open(Client::request("/"));
    backend.wait_in_flight(1).await.unwrap();
    open.disconnect().await;
    backend.wait_in_flight(0).await.unwrap();
    backend.always(Action::reset());
    assert_eq!(client.get("/").await.unwrap().status, 503);
    backend.wait_in_flight(0).await.expect("the streams of a cut connection end with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_values_are_bytes_both_ways() {
    let backend = Backend::start().await.unwrap();
    let envoy = Envoy::start(one_backend(&backend)).await.unwrap();

    backend.always(Action::ok().header("x-back", b"\xff\xfe"));
    let mut request = Client::request("/");
    request.headers_mut().insert("x-there", http::HeaderValue::from_bytes(b"\xfe\xff").unwrap());
    let response = Client::http1(envoy.addr()).send(request).await.unwrap();

    assert_eq!(response.headers["x-back"].as_bytes(), b"\xff\xfe");
    assert_eq!(backend.last_seen().unwrap().headers["x-there"].as_bytes(), b"\xfe\xff");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_can_leave_midway() {
    let backend = Backend::start().await.unwrap();
    let envoy = Envoy::start(one_backend(&backend)).await.unwrap();
    let client = Client::http1(envoy.addr());

    backend.always(Action::hang());
    let open = client.open(Client::request("/waiting"));
    backend.wait_in_flight(1).await.unwrap();
    assert!(!open.is_finished());
    open.disconnect().await;
    backend.wait_in_flight(0).await.expect("Envoy closes the connection behind a client that left");

    let mut upload = Client::request("/upload").map(|_| Bytes::from("the beginning"));
    *upload.method_mut() = http::Method::POST;
    let open = client.open_unfinished(upload.clone());
    backend.wait_in_flight(1).await.unwrap();
    open.disconnect().await;
    backend.wait_in_flight(0).await.unwrap();

    backend.always(Action::ok());
    let finished = client.open_unfinished(upload).finish().await.unwrap();
    assert_eq!(finished.status, 200);
    assert_eq!(backend.last_seen().unwrap().body, "the beginning");

    let log = envoy.wait_for_access_log(3).await.unwrap();
    assert_eq!(sorted(&log), [("/upload", 0, "DC"), ("/upload", 200, "-"), ("/waiting", 0, "DC")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_shows_filter_state_under_the_name_of_the_module() {
    let writer = json!({
        "name": "writer",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config",
            "on_request_headers": [{
                "object_key": "wasm.holdfast",
                "factory_key": "envoy.string",
                "format_string": {"text_format_source": {"inline_string": "orders; admitted"}},
            }],
        },
    });
    let options = EnvoyOptions::new().route(Route::direct("/", 200, "hello")).filter(writer);
    let envoy = Envoy::start(options).await.unwrap();

    assert_eq!(Client::http1(envoy.addr()).get("/").await.unwrap().text(), "hello");

    let entry = envoy.wait_for_access_log(1).await.unwrap().remove(0);
    assert_eq!(entry.holdfast.as_deref(), Some("orders; admitted"));
    assert_eq!((entry.details.as_str(), entry.attempts), ("direct_response", 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_routes_and_retries_are_rendered() {
    let backend = Backend::start().await.unwrap();
    let retried = Route::to("/retried", "orders").retry_policy(json!({"retry_on": "5xx", "num_retries": 1}));
    let second = Listener::new("second").route(Route::direct("/", 204, ""));
    let options = EnvoyOptions::new()
        .concurrency(1)
        .cluster(Cluster::new("orders").endpoint(backend.addr()).connect_timeout(Duration::from_millis(250)))
        .route(retried.name("retried"))
        .route(Route::to("/", "orders"))
        .listener(second)
        .stats_matcher(json!({"inclusion_list": {"patterns": [{"prefix": "cluster.orders."}]}}));
    let envoy = Envoy::start(options).await.unwrap();
    assert_ne!(envoy.listener("ingress"), envoy.listener("second"));

    backend.script(|request| if request.index == 0 { Action::status(503) } else { Action::ok() });
    assert_eq!(Client::http1(envoy.addr()).get("/retried").await.unwrap().status, 200);
    assert_eq!(Client::http1(envoy.listener("second")).get("/").await.unwrap().status, 204);

    let log = envoy.wait_for_access_log(2).await.unwrap();
    let retried = log.iter().find(|entry| entry.path == "/retried").unwrap();
    assert_eq!((retried.attempts, retried.all["route"].as_str()), (2, Some("retried")));
    let stats = envoy.stats().await.unwrap();
    assert_eq!(stats["cluster.orders.upstream_rq_retry"], 1);
    assert!(!stats.contains_key("http.ingress.downstream_rq_total"), "the matcher drops the rest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_can_be_replaced_and_a_bad_one_changes_nothing() {
    let options = EnvoyOptions::new().dynamic_listeners().route(Route::direct("/", 200, "one"));
    let envoy = Envoy::start(options).await.unwrap();
    let client = Client::http1(envoy.addr());
    assert_eq!(client.get("/").await.unwrap().text(), "one");

    let two = |options: EnvoyOptions| options.listener(Listener::new("ingress").route(Route::direct("/", 200, "two")));
    assert_eq!(envoy.update(two).await.unwrap(), Update::Accepted);
    assert_eq!(client.reconnected().get("/").await.unwrap().text(), "two", "the listener is new, its port is not");

    let broken = envoy.update(|options| options.filter(broken_filter())).await.unwrap();
    let Update::Rejected(message) = broken else { panic!("a filter that cannot be made was accepted") };
    assert!(message.contains("script load error"), "{message}");
    assert_eq!(client.reconnected().get("/").await.unwrap().text(), "two");

    let three =
        |options: EnvoyOptions| options.listener(Listener::new("ingress").route(Route::direct("/", 200, "three")));
    assert_eq!(envoy.update(three).await.unwrap(), Update::Accepted);
    assert_eq!(client.reconnected().get("/").await.unwrap().text(), "three", "a rejection does not stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_configuration_comes_back_with_the_log() {
    let broken = EnvoyOptions::new().route(Route::direct("/", 200, "")).filter(broken_filter());

    let error = Envoy::start(broken.clone()).await.unwrap_err();
    assert!(error.status.is_some_and(|status| !status.success()), "{error}");
    assert!(error.log.contains("script load error"), "{error}");

    let error = Envoy::start(broken.clone().dynamic_listeners()).await.unwrap_err();
    assert_eq!(error.status, None, "with listeners from a file Envoy runs on without them");
    assert!(error.log.contains("script load error"), "{error}");

    let error = Envoy::validate(broken).await.unwrap_err();
    assert!(error.log.contains("script load error"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_ends_when_it_is_dropped_and_when_it_is_asked_to() {
    let options = EnvoyOptions::new().route(Route::direct("/", 200, ""));
    let envoy = Envoy::start(options.clone()).await.unwrap();
    let (process, dir) = (PathBuf::from(format!("/proc/{}", envoy.pid())), envoy.dir().to_owned());
    assert!(process.exists() && dir.exists());
    drop(envoy);
    eventually(PATIENCE, || async { !process.exists() && !dir.exists() }).await.unwrap();

    let envoy = Envoy::start(options).await.unwrap();
    assert_eq!(envoy.exit_status(), None);
    let (status, log) = envoy.stop().await.unwrap();
    assert!(status.success(), "{status}");
    assert!(log.contains("starting workers"), "the log outlives the process");
}

#[test]
fn tags_find_policy_and_key_in_the_name_of_a_metric() {
    let tags = stats_tags();
    let cases = [
        ("orders", "cluster=orders", "requests"),
        ("orders", "cluster=orders", "rejected.open"),
        ("orders", "cluster=orders", "breaker_opened.failure"),
        ("my-policy_2", "cluster=outbound|80||orders.shop.svc.cluster.local", "hosts_ejected"),
        ("orders", "authority=api.example.com:8443,x-tenant=a.hosts", "shared_data.contention"),
        ("orders", "cluster=orders", "would_reject.open"),
    ];
    for (policy, key, metric) in cases {
        let name = format!("wasmcustom.holdfast.policy.{policy}.key.{key}.{metric}");
        let mut rest = name.clone();
        for (tag, value) in [("policy", policy), ("key", key)] {
            let tag = tags.as_array().unwrap().iter().find(|entry| entry["tag_name"] == tag).unwrap();
            let regex = regex::Regex::new(tag["regex"].as_str().unwrap()).unwrap();
            let found = regex.captures(&name).unwrap_or_else(|| panic!("{regex} does not match {name}"));
            assert_eq!(&found[2], value, "in {name}");
            // As Envoy does: each expression sees the whole name, and what its first group matched is taken out.
            rest = rest.replace(&found[1], "");
        }
        assert_eq!(rest, format!("wasmcustom.holdfast.{metric}"));
    }
}
