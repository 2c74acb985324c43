//! The harness itself, without Holdfast: what the other tests take for granted about Envoy, backend and client.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_tests::{
    AccessLogEntry, Action, Attempt, Backend, Client, Cluster, Envoy, EnvoyOptions, Listener, PATIENCE, Route, Scene,
    Seats, Template, Update, attempts, body_of, envoy_version, eventually, gaps, metric_name, seen_by_all, stats_tags,
    with_header,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

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
    assert_eq!(entry.holdfast, None, "there is no Holdfast here to write filter state");
    assert_eq!(attempts(&entry), []);
    assert_eq!((entry.path.as_str(), entry.host), ("/items?id=7", Some(backend.addr().to_string())));
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
    backend.always(Action::reset_stream());
    assert_eq!(client.get("/reset-stream").await.unwrap().status, 503);
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
        // Over HTTP/1.1 a stream is reset by closing its connection.
        ("/reset-stream", 503, "UC"),
        ("/resumed", 200, "-"),
        // Over HTTP/1.1 a body that ends before its announced length is a protocol error, not a lost connection.
        ("/truncate", 200, "UPE"),
    ];
    assert_eq!(sorted(&envoy.wait_for_access_log(7).await.unwrap()), expected);
}

/// Where to this process, when it is the one to be killed, writes the numbers of its Envoys.
const PIDS: &str = "HOLDFAST_TEST_PIDS";

/// Starts two Envoys, tells which, and waits to be killed.
async fn be_killed(pids: &Path) -> ! {
    let options = || EnvoyOptions::new().route(Route::direct("/", 200, ""));
    let (one, two) = (Envoy::start(options()).await.unwrap(), Envoy::start(options()).await.unwrap());
    // One that has ended is nobody's any more.
    drop(Envoy::start(options()).await.unwrap());
    let fresh = pids.with_extension("new");
    fs::write(&fresh, format!("{} {}", one.pid(), two.pid())).unwrap();
    fs::rename(fresh, pids).unwrap();
    tokio::time::sleep(PATIENCE).await;
    panic!("nobody has killed it");
}

/// Whether it is there, and not only until somebody asks how it ended.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().next()).is_some_and(|state| state != "Z")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_envoy_outlives_a_process_that_is_killed() {
    if let Some(pids) = std::env::var_os(PIDS) {
        be_killed(Path::new(&pids)).await;
    }
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("pids");
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", "harness::no_envoy_outlives_a_process_that_is_killed"]).env(PIDS, &file);
    let mut process = process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pids = eventually(PATIENCE, || async { fs::read_to_string(&file) }).await.expect("it starts its Envoys");
    let pids: Vec<&str> = pids.split(' ').collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| runs(pid)), "they run: {pids:?}");

    process.kill().unwrap();
    process.wait().unwrap();

    for pid in pids {
        eventually(PATIENCE, || async { !runs(pid) }).await.expect("it ends with its process");
    }
}

/// A process that is being started has for a moment a copy of all that this one has open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_closed_and_kept_even_while_processes_start() {
    let going = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&going);
    let starting = std::thread::spawn(move || {
        while still.load(Ordering::Relaxed) {
            assert!(Command::new("true").status().unwrap().success());
        }
    });
    let backend = Backend::start().await.unwrap();
    for round in 0..200 {
        backend.refuse().await.unwrap();
        let refused = TcpStream::connect(backend.addr()).await.map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused), "round {round}");
        backend.resume().unwrap();
        TcpStream::connect(backend.addr()).await.unwrap();
    }
    going.store(false, Ordering::Relaxed);
    starting.join().unwrap();
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

    backend.always(Action::grpc(0).trailer("grpc-retry-pushback-ms", "100"));
    let response = client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
    assert_eq!((response.status, response.grpc_status()), (200, Some(0)));
    let trailers = response.trailers.expect("the status came in trailers");
    assert_eq!(trailers["grpc-retry-pushback-ms"], "100");

    backend.always(Action::grpc_trailers_only(14));
    let response = client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
    assert_eq!((response.status, response.grpc_status()), (200, Some(14)));
    assert!(response.body.is_empty() && response.header("grpc-status").is_some(), "the status came in headers");

    let seen = backend.last_seen().unwrap();
    assert_eq!((seen.path.as_str(), seen.body.len()), ("/orders.Orders/List", 5));

    // Over HTTP/2 a reset or a truncated body costs one stream, and a hang ends with its stream.
    backend.always(Action::truncate());
    let broken = client.get("/").await;
    if envoy_version() >= (1, 37) {
        assert_eq!(broken.unwrap_err().status, Some(200));
    } else {
        assert!(broken.unwrap().is_cut_short());
    }
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
    const STATE: &str = "policy=orders; key=cluster=orders; \
        attempts=127.0.0.1:4001 failure:503 3ms, [::1]:4002 success:200 15ms; denied=budget";
    let writer = json!({
        "name": "writer",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config",
            "on_request_headers": [{
                "object_key": "wasm.holdfast",
                "factory_key": "envoy.string",
                "format_string": {"text_format_source": {"inline_string": STATE}},
            }],
        },
    });
    let options = EnvoyOptions::new().route(Route::direct("/", 200, "hello")).filter(writer);
    let envoy = Envoy::start(options).await.unwrap();

    assert_eq!(Client::http1(envoy.addr()).get("/").await.unwrap().text(), "hello");

    let entry = envoy.wait_for_access_log(1).await.unwrap().remove(0);
    assert_eq!(entry.holdfast.as_deref(), Some(STATE));
    assert_eq!((entry.holdfast_field("key"), entry.holdfast_field("denied")), (Some("cluster=orders"), Some("budget")));
    assert_eq!(entry.holdfast_field("reason"), None);
    let attempt = |host: &str, outcome: &str, millis| Attempt { host: host.into(), outcome: outcome.into(), millis };
    let trail = [attempt("127.0.0.1:4001", "failure:503", 3), attempt("[::1]:4002", "success:200", 15)];
    assert_eq!(attempts(&entry), trail);
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

/// A module in place of Holdfast: in whichever seat it sits, it adds the header `x-seat: 1` to the request.
fn marking_module(dir: &TempDir) -> PathBuf {
    fn name(text: &str) -> Vec<u8> {
        [&[text.len() as u8], text.as_bytes()].concat()
    }
    fn section(id: u8, count: u8, entries: &[Vec<u8>]) -> Vec<u8> {
        let content = entries.concat();
        [&[id, content.len() as u8 + 1, count], content.as_slice()].concat()
    }
    const I: u8 = 0x7f; // the type i32
    let types =
        [vec![0x60, 0, 0], vec![0x60, 1, I, 1, I], vec![0x60, 3, I, I, I, 1, I], vec![0x60, 5, I, I, I, I, I, 1, I]];
    let exports = [
        [name("memory"), vec![2, 0]],
        [name("proxy_abi_version_0_2_1"), vec![0, 1]],
        [name("malloc"), vec![0, 2]],
        [name("proxy_on_request_headers"), vec![0, 3]],
    ];
    let code = [
        vec![2, 0, 0x0b],
        vec![4, 0, 0x41, 0, 0x0b],
        // Name and value of the header are the first bytes of the memory; the call's result, 0, is also "continue".
        vec![14, 0, 0x41, 0, 0x41, 0, 0x41, 6, 0x41, 6, 0x41, 1, 0x10, 0, 0x0b],
    ];
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, 4, &types),
        section(2, 1, &[name("env"), name("proxy_add_header_map_value"), vec![0, 3]]),
        section(3, 3, &[vec![0, 1, 2]]),
        section(5, 1, &[vec![0, 1]]),
        section(7, 4, &exports.map(|export| export.concat())),
        section(10, 3, &code),
        section(11, 1, &[vec![0, 0x41, 0, 0x0b], name("x-seat1")]),
    ];
    let path = dir.path().join("marking.wasm");
    fs::write(&path, module.concat()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempt_seat_sits_in_every_cluster_but_those_that_leave_it_out() {
    let backend = Backend::start().await.unwrap();
    let dir = TempDir::new().unwrap();
    let cluster = |name: &str| Cluster::new(name).endpoint(backend.addr());
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let patched = cluster("patched").raw(json!({"typed_extension_protocol_options": {options: {
        "@type": format!("type.googleapis.com/{options}"),
        "common_http_protocol_options": {"max_requests_per_connection": 1},
        "use_downstream_protocol_config": {"http2_protocol_options": {}},
    }}}));
    for (seats, seated) in [(Seats::Request, 1), (Seats::Both, 2), (Seats::BothInRouter, 2)] {
        let mut options = EnvoyOptions::new().wasm(marking_module(&dir)).policy(json!({})).seats(seats);
        for cluster in
            [cluster("http1"), cluster("http2").http2(), patched.clone(), cluster("without").without_attempt_seat()]
        {
            options = options.cluster(cluster);
        }
        for name in ["http1", "http2", "patched", "without"] {
            options = options.route(Route::to(&format!("/{name}"), name));
        }
        let envoy = Envoy::start(options).await.unwrap();
        let client = Client::http1(envoy.addr());
        for (path, seats_passed) in [("/http1", seated), ("/http2", seated), ("/patched", seated), ("/without", 1)] {
            assert_eq!(client.get(path).await.unwrap().status, 200);
            let seen = backend.last_seen().unwrap();
            assert_eq!(seen.path, path);
            let passed = seen.headers.get_all("x-seat").iter().count();
            assert_eq!(passed, seats_passed, "{seats:?}, {path}: {:?}", seen.headers);
        }
        assert_eq!(envoy.stat("cluster.http2.upstream_cx_http2_total").await.unwrap(), 1);
        assert_eq!(envoy.stat("cluster.patched.upstream_cx_max_requests").await.unwrap(), 1);
    }
}

/// The retry policies of the virtual host and of the first route that Envoy runs, and the retries it allows at once.
async fn retrying(envoy: &Envoy) -> (Value, Value, Value) {
    let dump: Value = serde_json::from_str(&envoy.admin_get("/config_dump").await.unwrap()).unwrap();
    let clusters: Value = serde_json::from_str(&envoy.admin_get("/clusters?format=json").await.unwrap()).unwrap();
    let routes = dump["configs"].as_array().unwrap().iter().find_map(|config| config.get("static_route_configs"));
    let host = &routes.unwrap()[0]["route_config"]["virtual_hosts"][0];
    let most = clusters["cluster_statuses"][0]["circuit_breakers"]["thresholds"][0]["max_retries"].clone();
    (host["retry_policy"].clone(), host["routes"][0]["route"]["retry_policy"].clone(), most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_seat_brings_what_its_retries_want_of_envoy() {
    let backend = Backend::start().await.unwrap();
    let dir = TempDir::new().unwrap();
    let own = json!({"retry_on": "5xx", "num_retries": 1});
    let options = || one_backend(&backend).wasm(marking_module(&dir));

    let plain = Envoy::start(options().policy(json!({}))).await.unwrap();
    let (host, _, most) = retrying(&plain).await;
    assert_eq!((host, most), (Value::Null, json!(3)), "Envoy's own default");

    for seats in [Seats::Both, Seats::BothInRouter] {
        let both = options().policy(json!({})).seats(seats);
        let (host, _, most) = retrying(&Envoy::start(both.clone()).await.unwrap()).await;
        assert_eq!(host["retry_back_off"], json!({"base_interval": "0.001s", "max_interval": "0.001s"}));
        assert_eq!((&host["retry_on"], most.as_u64() > Some(1000)), (&Value::Null, true));
        let (host, _, _) = retrying(&Envoy::start(both.without_retry_policy()).await.unwrap()).await;
        assert_eq!(host, Value::Null);
    }

    let routed = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(backend.addr()))
        .route(Route::to("/", "orders").retry_policy(own.clone()));
    let routed = routed.wasm(marking_module(&dir)).policy(json!({})).seats(Seats::Both);
    let (_, route, _) = retrying(&Envoy::start(routed).await.unwrap()).await;
    assert_eq!(route, own, "a route keeps its own");

    let (host, _, _) = retrying(&Envoy::start(options().seats(Seats::Both)).await.unwrap()).await;
    assert_eq!(host, Value::Null, "a listener without a policy is Envoy's alone");
}

/// Envoy retries on these conditions, without a wait of its own and on another host if there is one.
fn retrying_by_itself(options: EnvoyOptions, retry_on: &str) -> EnvoyOptions {
    let mut policy = holdfast_tests::retry_policy();
    policy["retry_on"] = json!(retry_on);
    policy["num_retries"] = json!(2);
    options.raw_virtual_host(json!({"retry_policy": policy, "include_request_attempt_count": true}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempts_of_a_request_can_be_scripted_and_timed_over_several_backends() {
    let (one, two) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let envoy = Envoy::start(retrying_by_itself(Scene::of_all(&[&one, &two]), "5xx,reset")).await.unwrap();
    let client = Client::http1(envoy.addr());
    let slow_failure = Action::status(503).after(Duration::from_millis(60));
    let script = Action::in_turn("x-request-key", [slow_failure, Action::reset(), Action::ok()]);
    one.script(script.clone());
    two.script(script);

    for key in ["a", "b"] {
        let order = Client::post_request("/", body_of(100_000));
        let response = client.send(with_header(order, "x-request-key", key)).await.unwrap();
        assert_eq!(response.status, 200, "the third try of each request is answered");

        let tries = seen_by_all(&[&one, &two], "x-request-key", key);
        let numbers: Vec<_> = tries.iter().filter_map(|seen| seen.header("x-envoy-attempt-count")).collect();
        assert_eq!(numbers, ["1", "2", "3"]);
        assert!(tries.iter().all(|seen| seen.body == body_of(100_000)), "a reset comes after the whole request");
        let waits = gaps(&tries);
        assert_eq!(waits.len(), 2);
        assert!(waits[0] >= Duration::from_millis(60), "the second try begins after the end of the first: {waits:?}");
        let by_host = [one.seen_with("x-request-key", key).len(), two.seen_with("x-request-key", key).len()];
        assert!(by_host.iter().all(|tries| *tries >= 1), "a second try goes to another host: {by_host:?}");
    }
    assert_eq!(client.get("/").await.unwrap().status, 200, "requests without a key share a sequence of their own");
    assert_eq!(one.requests() + two.requests(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_can_be_refused_or_reset_and_its_connection_goes_on() {
    let backend = Backend::start().await.unwrap();
    let cluster = Cluster::new("orders").endpoint(backend.addr()).http2();
    let options = EnvoyOptions::new().concurrency(1).cluster(cluster).route(Route::to("/", "orders"));
    let envoy = Envoy::start(retrying_by_itself(options, "refused-stream")).await.unwrap();
    let client = Client::http2(envoy.addr());

    backend.script(Action::in_turn("x-request-key", [Action::refuse_stream(), Action::ok()]));
    assert_eq!(client.get("/refused").await.unwrap().status, 200);
    assert_eq!(backend.requests_to("/refused"), 2, "a refused stream is one that Envoy may retry");
    backend.always(Action::reset_stream());
    assert_eq!(client.get("/reset").await.unwrap().status, 503);
    assert_eq!(backend.requests_to("/reset"), 1, "any other reset is not a refusal");
    assert_eq!(backend.connections(), 1);

    let log = envoy.wait_for_access_log(2).await.unwrap();
    assert_eq!(sorted(&log), [("/refused", 200, "-"), ("/reset", 503, "UR")]);
    backend.wait_idle().await.unwrap();
    assert_eq!(backend.open_connections(), 1, "a kept connection is open without a stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_open_until_its_answer_ends() {
    let backend = Backend::start().await.unwrap();
    let over_http2 = Cluster::new("http2").endpoint(backend.addr()).http2();
    let options = one_backend(&backend).cluster(over_http2);
    let envoy = Envoy::start(options.listener(Listener::new("http2").route(Route::to("/", "http2")))).await.unwrap();
    backend.always(Action::status(201).header("x-begun", "yes").then_hang());

    for client in [Client::http1(envoy.addr()), Client::http2(envoy.listener("http2"))] {
        backend.reset_counters();
        let mut open = client.open_unfinished(Client::post_request("/", "the beginning"));
        backend.wait_in_flight(1).await.unwrap();
        open.send_more(" and the end").await.unwrap();
        open.end_body();
        backend.wait_in_flight(0).await.expect("the answer's head is sent");
        assert_eq!((backend.open_streams(), backend.open_connections() >= 1), (1, true));
        assert_eq!(backend.last_seen().unwrap().body, "the beginning and the end");

        assert!(!open.is_finished(), "the rest of the answer never comes");
        open.disconnect().await;
        backend.wait_idle().await.expect("Envoy gives up a stream that nobody waits for");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_lasts_from_its_head_to_its_end() {
    let backend = Backend::start().await.unwrap();
    let time = Duration::from_millis(300);
    for client in [Client::http1(backend.addr()), Client::http2(backend.addr())] {
        backend.always(Action::grpc(14).lasting(time));
        let (began, lasting) = (Instant::now(), client.open(Client::request("/")));
        eventually(PATIENCE, || async { backend.open_streams() == 1 && backend.in_flight() == 0 }).await.unwrap();
        let response = lasting.finish().await.unwrap();
        assert!(began.elapsed() >= time);
        assert_eq!((response.status, response.body.len(), backend.open_streams()), (200, 5, 0));

        backend.always(Action::truncate().lasting(time));
        let began = Instant::now();
        assert_eq!(
            client.get("/").await.unwrap_err().status,
            Some(200),
            "half of it comes at once, and then it breaks"
        );
        assert!(began.elapsed() >= time);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_can_take_its_time_and_be_answered_before_its_end() {
    let backend = Backend::start().await.unwrap();
    let envoy = Envoy::start(one_backend(&backend)).await.unwrap();
    let client = Client::http1(envoy.addr());
    let order = Client::post_request("/", body_of(50_000));

    let started = Instant::now();
    let response = client.open_in_pieces(order.clone(), 20_000, Duration::from_millis(40)).finish().await.unwrap();
    assert_eq!(response.status, 200);
    assert!(started.elapsed() >= Duration::from_millis(80), "three pieces with two pauses between them");
    let seen = backend.last_seen().unwrap();
    assert_eq!(seen.body, body_of(50_000));
    assert!(seen.at >= started && seen.at.elapsed() >= Duration::from_millis(80), "a request arrives with its headers");

    backend.script_at_headers(|seen| (seen.method == http::Method::POST).then(|| Action::status(503)));
    let open = client.open_in_pieces(order.clone(), 1, Duration::from_secs(1));
    assert_eq!(open.finish().await.unwrap().status, 503, "the answer does not wait for 50,000 seconds");
    assert_eq!((backend.requests(), backend.last_seen().unwrap().body.len()), (2, 0));
    assert_eq!(client.get("/").await.unwrap().status, 200, "what is not chosen at the headers is left to the script");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_can_wait_until_the_host_asks_for_it() {
    let backend = Backend::start().await.unwrap();
    let proxied = Listener::new("proxied").route(Route::to("/", "orders")).raw_hcm(json!({"proxy_100_continue": true}));
    let envoy = Envoy::start(one_backend(&backend).listener(proxied)).await.unwrap();
    let order = with_header(Client::post_request("/", ""), "expect", "100-continue");

    for (listener, asked) in [("ingress", None), ("proxied", Some("100-continue"))] {
        let client = Client::http1(envoy.listener(listener));
        let mut open = client.open_unfinished(order.clone());
        open.wait_continue().await.unwrap();
        open.send_more(body_of(1000)).await.unwrap();
        assert_eq!(open.finish().await.unwrap().status, 200);
        let seen = backend.last_seen().unwrap();
        assert_eq!((seen.header("expect").as_deref(), seen.body), (asked, body_of(1000)));
    }

    backend.script_at_headers(|_| Some(Action::status(503)));
    let open = Client::http1(envoy.listener("proxied")).open_unfinished(order.clone());
    open.wait_continue().await.expect_err("a host that does not read the body does not ask for it");
    assert_eq!(open.finish().await.unwrap().status, 503);
    let open = Client::http1(envoy.listener("ingress")).open_unfinished(order);
    open.wait_continue().await.expect("without that option Envoy itself asks for the body");
    assert_eq!(open.finish().await.unwrap().status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_can_stand_before_another_and_tell_it_the_number_of_its_attempt() {
    let backend = Backend::start().await.unwrap();
    let silent =
        |options| retrying_by_itself(options, "5xx").raw_virtual_host(json!({"include_request_attempt_count": null}));
    let inner = Envoy::start(silent(one_backend(&backend))).await.unwrap();
    let options = EnvoyOptions::new().cluster(Cluster::new("inner").endpoint(inner.addr()));
    let outer = Envoy::start(retrying_by_itself(options.route(Route::to("/", "inner")), "5xx")).await.unwrap();

    backend.always(Action::status(503));
    assert_eq!(Client::http1(outer.addr()).get("/").await.unwrap().status, 503);

    let told: Vec<_> = backend.seen().iter().filter_map(|seen| seen.header("x-envoy-attempt-count")).collect();
    assert_eq!(told, ["1", "1", "1", "2", "2", "2", "3", "3", "3"], "three tries of three tries");
    assert_eq!(outer.wait_for_access_log(1).await.unwrap()[0].attempts, 3);
    assert!(inner.wait_for_access_log(3).await.unwrap().iter().all(|entry| entry.attempts == 3));

    let claim = with_header(Client::request("/claim"), "x-envoy-attempt-count", "7");
    Client::http1(inner.addr()).send(claim).await.unwrap();
    let told = backend.last_seen().unwrap().header("x-envoy-attempt-count");
    assert_eq!(told.as_deref(), Some("7"), "anybody may claim one");
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
        let name = metric_name(policy, key, metric);
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
