//! An answer that a fallback replaces is rewritten as it passes: the host's connection goes on, other filters see the new answer, and
//! nothing of the host's is left in it. What is counted without Holdfast stands beside it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, Listener, PATIENCE, RawHost, Response, Route, Scene, Template,
    Then, envoy_version, eventually,
};
use http::{Method, Request};
use serde_json::{Value, json};

/// The policy: a failure is answered with a JSON body.
fn policy() -> Value {
    json!({"policies": [{
        "name": "orders",
        "fallback": [{
            "on": ["failure"],
            "respond": {"status": 200, "headers": {"content-type": "application/json"}, "body": {"items": []}},
        }],
    }]})
}

const BODY: &str = r#"{"items":[]}"#;

/// The two ways in which a plugin may be told to hold headers back. The module has to serve in both.
const STOPS: [bool; 2] = [false, true];

fn stopping(options: EnvoyOptions, stops: bool) -> EnvoyOptions {
    options.raw_seat(json!({"typed_config": {"config": {"allow_on_headers_stop_iteration": stops}}}))
}

#[track_caller]
fn assert_replaced(response: &Response) {
    assert_eq!((response.status, response.text().as_str()), (200, BODY), "{:?}", response.headers);
    assert_eq!(response.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(response.header("x-holdfast-fallback").as_deref(), Some("static; reason=failure; policy=orders"));
    assert_eq!(response.header("cache-control").as_deref(), Some("no-store"));
    assert_eq!(response.trailers, None);
    if let Some(length) = response.header("content-length") {
        assert_eq!(length, BODY.len().to_string());
    }
}

/// Two equal hosts: one behind a policy, one behind a listener without Holdfast.
struct Beside {
    scene: Scene,
    host: Backend,
    bare_host: Backend,
}

impl Beside {
    async fn start(http2: bool) -> Self {
        let (host, bare_host) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
        let cluster = |name: &str, host: &Backend| {
            let cluster = Cluster::new(name).endpoint(host.addr());
            if http2 { cluster.http2() } else { cluster }
        };
        let options = EnvoyOptions::new()
            .concurrency(1)
            .cluster(cluster("orders", &host))
            .cluster(cluster("bare", &bare_host))
            .route(Route::to("/", "orders"))
            .policy(policy())
            .listener(Listener::new("bare").route(Route::to("/", "bare")));
        Beside { scene: Scene::with(options).await, host, bare_host }
    }

    /// Sends the same requests through both: `percent` of them fail.
    async fn drive(&self, total: usize, percent: usize) {
        let fails = move |path: &str| path.starts_with("/fail");
        for host in [&self.host, &self.bare_host] {
            host.script(
                move |request| {
                    if fails(&request.path) { Action::status(503).body(vec![b'x'; 300]) } else { Action::ok() }
                },
            );
        }
        for (listener, fallback) in [("ingress", true), ("bare", false)] {
            let request = Template::new(move |index| {
                let index = usize::try_from(index).unwrap_or_default();
                Client::request(if index * 7 % 100 < percent { "/fail" } else { "/fine" })
            });
            let client = Client::http2(self.scene.listener(listener));
            let records = client.drive(8, total, request).await;
            let errors: Vec<_> = records.errors().collect();
            assert!(errors.is_empty(), "{listener}: no unrelated request fails: {errors:?}");
            let failing = total * percent / 100;
            let failures = if fallback { 0 } else { failing };
            let expected = [(200, total - failures), (503, failures)];
            let expected: BTreeMap<u16, usize> = expected.into_iter().filter(|(_, count)| *count > 0).collect();
            assert_eq!(records.statuses(), expected, "{listener} at {percent} %");
            if fallback {
                let replaced: Vec<_> =
                    records.responses().filter(|one| one.header("x-holdfast-fallback").is_some()).collect();
                replaced.iter().for_each(|one| assert_replaced(one));
                assert_eq!(replaced.len(), failing);
            }
        }
    }

    async fn resets(&self, cluster: &str) -> u64 {
        let stats = self.scene.stats().await.unwrap();
        let of = |name: &str| stats.get(&format!("cluster.{cluster}.{name}")).copied().unwrap_or_default();
        of("upstream_rq_tx_reset") + of("upstream_rq_rx_reset") + of("http2.tx_reset") + of("http2.rx_reset")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http1_replaced_answers_cost_no_connection() {
    for percent in [10, 25, 100] {
        let beside = Beside::start(false).await;
        beside.drive(1000, percent).await;
        let (with, without) = (beside.host.connections(), beside.bare_host.connections());
        assert!(with <= 8 && without <= 8, "one for each request at a time: {with} and {without} at {percent} %");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_one_after_the_other_keep_one_connection() {
    for stops in STOPS {
        let host = Backend::start().await.unwrap();
        host.always(Action::status(503).body("down"));
        let scene = Scene::with(stopping(Scene::of(&host).concurrency(1).policy(policy()), stops)).await;
        for _ in 0..200 {
            assert_replaced(&scene.client.get("/").await.unwrap());
        }
        assert_eq!(host.connections(), 1, "{stops}");
        assert_eq!(scene.metric("fallback.static").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_replaced_answers_reset_nothing_and_harm_nobody() {
    for percent in [10, 25, 100] {
        let beside = Beside::start(true).await;
        beside.drive(5000, percent).await;
        assert_eq!((beside.host.connections(), beside.bare_host.connections()), (1, 1), "at {percent} %");
        assert_eq!((beside.resets("orders").await, beside.resets("bare").await), (0, 0), "at {percent} %");
    }
}

fn cors() -> Value {
    json!({"name": "envoy.filters.http.cors", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors",
    }})
}

fn hsts() -> Value {
    json!({"name": "envoy.filters.http.header_mutation", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"response_mutations": [{"append": {
            "header": {"key": "strict-transport-security", "value": "max-age=31536000"},
        }}]},
    }})
}

fn compressor() -> Value {
    json!({"name": "envoy.filters.http.compressor", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
        "response_direction_config": {"common_config": {"min_content_length": 5}},
        "compressor_library": {"name": "gzip", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip",
        }},
    }})
}

/// Every origin is allowed, and Envoy rewrites its own replies.
fn around(options: EnvoyOptions) -> EnvoyOptions {
    options
        .raw_virtual_host(json!({"typed_per_filter_config": {"envoy.filters.http.cors": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{"prefix": "https://"}],
        }}}))
        .raw_hcm(json!({"local_reply_config": {"body_format": {"json_format": {
            "envoy": "%LOCAL_REPLY_BODY%", "status": "%RESPONSE_CODE%",
        }}}}))
}

fn from_a_browser() -> Request<Bytes> {
    let mut request = Client::request("/");
    request.headers_mut().insert("origin", "https://shop.example".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_in_front_see_the_new_answer() {
    let host = Backend::start().await.unwrap();
    let options = || around(Scene::of(&host).policy(policy()));
    let scene = Scene::with(options().filter(cors()).filter(hsts())).await;
    let compressed = Scene::with(options().filter(compressor())).await;
    let failing = [
        ("with a body", Action::status(503).body("down")),
        ("without an answer", Action::reset()),
        ("of trailers", Action::status(503).body("down").trailer("x-t", "1")),
    ];
    for (what, action) in failing {
        host.always(action);
        for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
            let response = client.send(from_a_browser()).await.unwrap();
            assert_replaced(&response);
            let header = |name: &str| response.header(name);
            assert_eq!(header("access-control-allow-origin").as_deref(), Some("https://shop.example"), "{what}");
            assert_eq!(header("strict-transport-security").as_deref(), Some("max-age=31536000"), "{what}");
        }
    }

    host.always(Action::status(503).body("down"));
    let mut request = Client::request("/");
    request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    let response = compressed.client.send(request).await.unwrap();
    assert_eq!((response.status, response.header("content-encoding").as_deref()), (200, Some("gzip")));
    assert_eq!(response.body.get(..2), Some(&[0x1f, 0x8b][..]), "gzip's mark");
    assert_replaced(&compressed.client.get("/").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_filters_behind_have_done_to_the_answer_stays() {
    let host = Backend::start().await.unwrap();
    host.always(Action::status(503).body("down"));
    let scene =
        Scene::with(around(Scene::of(&host).policy(policy())).filter_behind(cors()).filter_behind(hsts())).await;
    let response = scene.client.send(from_a_browser()).await.unwrap();
    assert_replaced(&response);
    assert_eq!(response.header("access-control-allow-origin").as_deref(), Some("https://shop.example"));
    assert!(response.header("strict-transport-security").is_some());

    // A rejected request never comes to them.
    let open = json!({"policies": [{"name": "orders", "breaker": {"state": "forced_open"}}]});
    let scene = Scene::with(around(Scene::of(&host).policy(open)).filter_behind(cors()).filter_behind(hsts())).await;
    let response = scene.client.send(from_a_browser()).await.unwrap();
    assert_eq!(response.status, 503);
    assert_eq!(response.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_hosts_answer_is_left_in_it() {
    let gone = [
        ("content-type", "text/html"),
        ("content-encoding", "identity"),
        ("content-language", "de"),
        ("content-disposition", "attachment"),
        ("content-range", "bytes 0-1/2"),
        ("content-location", "/other"),
        ("content-security-policy", "default-src 'none'"),
        ("etag", "\"1\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("expires", "Sun, 06 Nov 2094 08:49:37 GMT"),
        ("age", "7"),
        ("cache-control", "public, max-age=60"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("www-authenticate", "Basic"),
        ("location", "/elsewhere"),
        ("retry-after", "60"),
        ("accept-ranges", "bytes"),
        ("x-holdfast-reject", "open; policy=of-the-host"),
        ("x-holdfast-fallback", "static; reason=open; policy=of-the-host"),
    ];
    let host = Backend::start().await.unwrap();
    let answer =
        Action::status(503).body("down").header("x-request-cost", "3").header("vary", "origin").trailer("x-t", "1");
    host.always(gone.iter().fold(answer, |answer, (name, value)| answer.header(name, value)));
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders"))
        .policy(policy());
    for stops in STOPS {
        let scene = Scene::with(stopping(options.clone(), stops)).await;
        for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
            let response = client.get("/").await.unwrap();
            assert_replaced(&response);
            let ours = ["content-type", "cache-control", "x-holdfast-fallback"];
            for (name, value) in gone {
                let left = response.headers.get_all(name).iter().any(|left| left == value);
                assert!(!left, "{name}: {:?}", response.headers);
                assert_eq!(response.header(name).is_some(), ours.contains(&name), "{name}");
            }
            assert_eq!(
                response.header("x-request-cost").as_deref(),
                Some("3"),
                "another filter's, or the host's: it stays"
            );
        }
    }
}

/// Answers of a host that writes bytes. Some of them no library sends.
fn raw(path: &str) -> (Vec<u8>, Then) {
    let head = "HTTP/1.1 503 Service Unavailable\r\nx-host: raw\r\n";
    let (rest, then): (String, _) = match path {
        "/length" => ("content-length: 4\r\n\r\ndown".into(), Then::Wait),
        "/chunks" => ("transfer-encoding: chunked\r\n\r\n4\r\ndown\r\n3\r\n...\r\n0\r\n\r\n".into(), Then::Wait),
        "/no-chunks" => ("transfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(), Then::Wait),
        "/trailers" => ("transfer-encoding: chunked\r\n\r\n4\r\ndown\r\n0\r\nx-t: 1\r\n\r\n".into(), Then::Wait),
        "/only-trailers" => ("transfer-encoding: chunked\r\n\r\n0\r\nx-t: 1\r\n\r\n".into(), Then::Wait),
        "/close" => ("\r\ndown".into(), Then::Close),
        "/headers" => ("content-length: 0\r\n\r\n".into(), Then::Wait),
        "/long" => (format!("content-length: 5000000\r\n\r\n{}", "x".repeat(5_000_000)), Then::Wait),
        "/stalls" => ("content-length: 4\r\n\r\n".into(), Then::Stall),
        "/stalls-within" => ("content-length: 4\r\n\r\ndo".into(), Then::Stall),
        "/stalls-chunked" => ("transfer-encoding: chunked\r\n\r\n4\r\ndown\r\n".into(), Then::Stall),
        "/interim" => {
            let interim = format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n{head}content-length: 4\r\n\r\ndown");
            return (interim.into_bytes(), Then::Wait);
        }
        "/no-content" => return (b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), Then::Wait),
        "/not-modified" => return (b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n".to_vec(), Then::Wait),
        _ => return (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(), Then::Wait),
    };
    (format!("{head}{rest}").into_bytes(), then)
}

/// The same policy, to which answers without a body are failures too.
fn strict() -> Value {
    let mut policy = policy();
    policy["policies"][0]["outcome"] = json!({"failure": {"status": ["204", "304", "500-599"]}});
    policy
}

async fn raw_scene(stops: bool) -> (Scene, RawHost) {
    let host = RawHost::start(raw).await.unwrap();
    let options = EnvoyOptions::new()
        .concurrency(1)
        .cluster(Cluster::new("orders").endpoint(host.addr()).raw(json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {"enable_trailers": true}},
            },
        }})))
        .route(Route::to("/", "orders").timeout(Duration::from_secs(20)))
        .raw_hcm(json!({"http_protocol_options": {"accept_http_10": true}}))
        .policy(strict());
    (Scene::with(stopping(options, stops)).await, host)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_every_shape_are_replaced_and_keep_their_connection() {
    let whole = [
        "/length",
        "/chunks",
        "/no-chunks",
        "/trailers",
        "/headers",
        "/no-content",
        "/not-modified",
        "/interim",
        "/long",
    ];
    for stops in STOPS {
        let (scene, host) = raw_scene(stops).await;
        for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
            for path in whole.iter().chain(["/"].iter()).chain(whole.iter().rev()) {
                let response = client.get(path).await.unwrap_or_else(|error| panic!("{path} {stops}: {error}"));
                if *path == "/" {
                    assert_eq!(response.text(), "ok", "a success is the host's own");
                } else {
                    assert_replaced(&response);
                }
            }
        }
        assert_eq!(host.connections(), 1, "{stops}: every answer has left its connection usable");
        let closing = scene.client.get("/close").await.unwrap();
        assert_replaced(&closing);
        assert_eq!(scene.client.get("/").await.unwrap().text(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_without_a_body_leave_a_fallback_without_one_at_worst() {
    for stops in STOPS {
        let (scene, _host) = raw_scene(stops).await;
        for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
            let response = client.get("/only-trailers").await.unwrap();
            assert_eq!((response.status, response.trailers.clone()), (200, None), "{response:?}");
            assert!(["", BODY].contains(&response.text().as_str()), "{response:?}");
            assert_eq!(client.get("/").await.unwrap().text(), "ok");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_does_not_wait_for_a_host_that_stalls_within_its_answer() {
    for stops in STOPS {
        let (scene, _host) = raw_scene(stops).await;
        for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
            for path in ["/stalls", "/stalls-within", "/stalls-chunked"] {
                let began = Instant::now();
                let response = client.get(path).await.unwrap_or_else(|error| panic!("{path} {stops}: {error}"));
                assert_replaced(&response);
                // The route would wait for 20 s.
                assert!(began.elapsed() < Duration::from_secs(10), "{path}: {:?}", began.elapsed());
                assert_eq!(client.get("/").await.unwrap().text(), "ok", "the client's connection goes on");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_request_gets_the_new_headers_and_keeps_the_connection() {
    for stops in STOPS {
        let (scene, host) = raw_scene(stops).await;
        let options = |path: &str| {
            let mut request = Client::request(path);
            *request.method_mut() = Method::HEAD;
            request
        };
        for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
            for path in ["/headers", "/headers"] {
                let response = client.send(options(path)).await.unwrap();
                assert_eq!((response.status, response.body.len()), (200, 0));
                assert_eq!(response.header("content-length").unwrap(), BODY.len().to_string(), "what a GET would have");
                assert_eq!(response.header("content-type").as_deref(), Some("application/json"));
                assert_eq!(client.get("/").await.unwrap().text(), "ok");
            }
        }
        assert_eq!(host.connections(), 1);
    }
}

/// Writes these bytes and reads until the other side closes.
fn exchange(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_clients_get_the_whole_of_it() {
    for stops in STOPS {
        let (scene, host) = raw_scene(stops).await;
        for path in ["/length", "/chunks", "/no-chunks", "/headers", "/length"] {
            let answer = exchange(scene.addr(), format!("GET {path} HTTP/1.0\r\nhost: a\r\n\r\n").as_bytes());
            assert!(answer.contains(" 200 OK\r\n"), "{path}: {answer}");
            assert!(!answer.to_lowercase().contains("chunked"), "{path}: {answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{BODY}")), "{path}: {answer}");
        }
        assert_eq!(host.connections(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_its_answer_is_held_leaves_nothing_behind() {
    let mut policy = policy();
    policy["policies"][0]["concurrency"] = json!({"max_requests": 4});
    for stops in STOPS {
        let host = Backend::start().await.unwrap();
        host.script(|request| {
            if request.path == "/stall" {
                Action::status(503).body("down").then_hang()
            } else {
                Action::status(503).body("down")
            }
        });
        let scene = Scene::with(stopping(Scene::of(&host).concurrency(1).policy(policy.clone()), stops)).await;
        for n in 1..=20 {
            let leaving = scene.client.open(Client::request("/stall"));
            eventually(PATIENCE, || async { host.requests_to("/stall") == n && host.in_flight() == 0 }).await.unwrap();
            leaving.disconnect().await;
            assert_replaced(&scene.client.get("/").await.unwrap());
        }
        eventually(PATIENCE, || async {
            let stats = scene.stats().await.unwrap();
            let active = stats.get("http.ingress.downstream_rq_active").copied().unwrap_or_default();
            (active == 0).then_some(()).ok_or(active)
        })
        .await
        .expect("no stream stays");
        assert_eq!(scene.metric("rejected.concurrency").await, 0, "what left gave its place back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_left_out_where_the_document_has_none() {
    let host = Backend::start().await.unwrap();
    host.script(|request| {
        let answer = Action::status(503);
        if request.path == "/headers" { answer } else { answer.body("down") }
    });
    for status in [200, 204, 404] {
        let policy =
            json!({"policies": [{"name": "orders", "fallback": [{"on": ["failure"], "respond": {"status": status}}]}]});
        let scene = Scene::with(Scene::of(&host).concurrency(1).policy(policy)).await;
        let before = host.connections();
        for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
            for path in ["/", "/headers", "/"] {
                let response = client.get(path).await.unwrap();
                assert_eq!((response.status, response.body.len()), (status, 0), "{path}");
            }
        }
        assert_eq!(host.connections() - before, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_call_that_a_proxy_answers_with_text_is_replaced_without_a_reset() {
    let host = Backend::start().await.unwrap();
    host.always(Action::status(503).header("content-type", "text/html").body("<h1>down</h1>"));
    let options = EnvoyOptions::new()
        .concurrency(1)
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders"))
        .policy(json!({"policies": [{"name": "orders", "fallback": [
            {"on": ["failure"], "respond": {"status": 200, "grpc_status": "RESOURCE_EXHAUSTED"}},
        ]}]}));
    for stops in STOPS {
        let scene = Scene::with(stopping(options.clone(), stops)).await;
        let client = Client::http2(scene.addr());
        for _ in 0..50 {
            let response = client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap();
            assert_eq!((response.status, response.header("grpc-status").as_deref()), (200, Some("8")));
            assert_eq!(response.header("grpc-message").as_deref(), Some("fallback of policy orders: failure"));
            assert_eq!(response.header("content-type").as_deref(), Some("application/grpc"));
        }
        let stats = scene.stats().await.unwrap();
        assert_eq!(
            stats.get("cluster.orders.upstream_rq_tx_reset").copied().unwrap_or_default(),
            0,
            "{:?}",
            envoy_version()
        );
    }
}
