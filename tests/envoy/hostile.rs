//! Clients and hosts that send what nobody should. Envoy goes on, and so does Holdfast: see the end of [`Scene`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, Template, attempt_seat_filter,
    eventually, metric_name, upstream_codec, wasm_module,
};
use http::{HeaderValue, Request};
use serde_json::{Value, json};

/// Opens after four failures and stays open.
fn lasting() -> Value {
    json!({"window": "60s", "min_requests": 4, "open_for": "1h"})
}

fn with_header(name: &'static str, value: &[u8]) -> Request<Bytes> {
    let mut request = Client::request("/");
    request.headers_mut().insert(name, HeaderValue::from_bytes(value).unwrap());
    request
}

/// Writes these bytes and reads until the other side closes.
fn raw(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset ends the answer as well as a close.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn status_line(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).lines().next().unwrap_or_default().to_owned()
}

/// Values that are no text, no plain text, or too much of it.
fn nasty() -> Vec<Vec<u8>> {
    vec![
        b"\xff\xfe".to_vec(),
        b"\x80".to_vec(),
        b"caf\xe9".to_vec(),
        b"a\tb".to_vec(),
        b"${reason}${header.x-id}".to_vec(),
        b"\"},{\"".to_vec(),
        b"**".to_vec(),
        b"/../..".to_vec(),
        Vec::new(),
        vec![b'*'; 5_000],
        // Compressed for HTTP/2 each byte that is no text takes four: Envoy ends a connection at 60 KiB.
        vec![0xf0; 10_000],
        vec![b'x'; 50_000],
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_bytes_that_are_no_text_reach_nothing_but_the_host() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [
        {"name": "matched", "match": {"header": {"x-match": "gold-*"}}, "breaker": {"state": "forced_open"}},
        {
            "name": "orders", "scope": ["authority", {"header": "x-tenant"}], "breaker": {"state": "forced_closed"},
            "fallback": [{"on": ["failure"], "respond": {"status": 200, "body": "${header.x-id}"}}],
        },
    ]});
    let scene = Scene::start(&host, policy).await;

    for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
        for value in nasty() {
            host.always(Action::ok());
            for name in ["x-tenant", "x-match", "x-id", "content-type", "x-unused"] {
                let response = client.send(with_header(name, &value)).await;
                let response = response.unwrap_or_else(|error| panic!("{client:?} {name} {}: {error}", value.len()));
                assert_eq!(response.status, 200, "{name}: {value:?}");
                assert_eq!(host.last_seen().unwrap().headers[name].as_bytes(), value, "passed on as it came");
            }
            host.always(Action::status(500));
            let response = client.send(with_header("x-id", &value)).await.unwrap();
            assert_eq!((response.status, &response.body[..]), (200, &value[..]), "inserted as it came");
        }
        let mut gold = b"gold-".to_vec();
        gold.extend_from_slice(b"\xff\xfe");
        let response = client.send(with_header("x-match", &gold)).await.unwrap();
        assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("open; policy=matched"), "a glob takes bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_that_are_no_text_still_have_their_own_breaker() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "scope": [{"header": "x-tenant"}], "breaker": lasting()}]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::status(500));
    for _ in 0..4 {
        assert_eq!(scene.client.send(with_header("x-tenant", b"\xff\xfe")).await.unwrap().status, 500);
    }
    host.always(Action::ok());

    assert_eq!(scene.client.send(with_header("x-tenant", b"\xff\xfe")).await.unwrap().status, 503);
    assert_eq!(scene.client.send(with_header("x-tenant", b"\xfe\xff")).await.unwrap().status, 200);
    assert_eq!(scene.client.send(with_header("x-tenant", "\u{fffd}\u{fffd}".as_bytes())).await.unwrap().status, 200);
    assert_eq!(scene.client.get("/").await.unwrap().status, 200, "and so have those without the header");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_tenants_share_what_four_keys_leave_over() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders", "scope": [{"header": "x-tenant"}], "max_keys": 4, "breaker": lasting(),
        "concurrency": {"max_requests": 1000}, "throttle": {"max_rejection": 0},
    }]});
    let scene = Scene::start(&host, policy).await;
    let tenants = Template::new(|index| {
        let mut request = Client::request("/");
        request.headers_mut().insert("x-tenant", format!("tenant-{index}").parse().unwrap());
        request
    });

    assert_eq!(scene.client.drive(20, 300, tenants.clone()).await.count(200), 300);
    assert_eq!(scene.client.drive(20, 300, tenants).await.count(200), 300, "the same again");

    let stats = scene.settled_stats("wasmcustom.holdfast.").await.unwrap();
    let requests: Vec<(&String, u64)> = stats
        .iter()
        .filter(|(name, _)| name.starts_with("wasmcustom.holdfast.policy=.=orders;") && name.ends_with(";.;requests"))
        .map(|(name, count)| (name, *count))
        .collect();
    assert_eq!(requests.len(), 5, "four keys and the overflow: {requests:?}");
    assert_eq!(requests.iter().map(|(_, count)| count).sum::<u64>(), 600);
    // When the four come back, there may be no place for them at that moment.
    let overflow = stats[&metric_name("orders", "overflow", "requests")];
    assert!((592..=596).contains(&overflow), "{overflow}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_fails_cuts_nobody_off_however_many_names_were_seen_before() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "scope": [{"header": "x-tenant"}], "breaker": lasting()}]});
    let scene = Scene::start(&host, policy).await;
    let workers = scene.workers(2).await;
    let strays = |prefix: &'static str| {
        Template::new(move |index| {
            let mut request = Client::request("/");
            request.headers_mut().insert("x-tenant", format!("{prefix}-{index}").parse().unwrap());
            request
        })
    };
    let status = async |worker: usize, tenant: &str| {
        workers[worker].send(with_header("x-tenant", tenant.as_bytes())).await.unwrap().status
    };

    assert_eq!(scene.client.drive(20, 300, strays("stray")).await.count(200), 300);
    let mut cut_off = 0;
    for number in 0..30 {
        host.always(Action::status(500));
        cut_off += usize::from(status(number % 2, "failing").await == 503);
        host.always(Action::ok());
        assert_eq!(status(number % 2, "well").await, 200, "request {number}");
    }
    assert_eq!(cut_off, 26, "four failures of its own opened its breaker");

    // Twelve hundred more names, while one tenant is busy and one is cut off.
    for _ in 0..4 {
        assert_eq!(scene.client.drive(20, 300, strays("more")).await.count(200), 300);
        for worker in 0..2 {
            assert_eq!((status(worker, "failing").await, status(worker, "well").await), (503, 200));
        }
    }
    let stats = scene.settled_stats("wasmcustom.holdfast.").await.unwrap();
    let series = stats
        .iter()
        .filter(|(name, _)| name.starts_with("wasmcustom.holdfast.policy=.=orders;") && name.ends_with(";.;requests"));
    assert_eq!(series.count(), 257, "256 names and the overflow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_an_authority() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [
        {"name": "named", "match": {"authority": ["*.test"]}, "breaker": {"state": "forced_open"}},
        {"name": "orders", "scope": ["authority"], "breaker": {"state": "forced_closed"}},
    ]});
    let options = Scene::of(&host)
        .raw_hcm(json!({"http_protocol_options": {"accept_http_10": true, "default_host_for_http_10": "old.test"}}))
        .policy(&policy)
        .listener(
            holdfast_tests::Listener::new("strict")
                .route(Route::to("/", "orders"))
                .raw_hcm(json!({"http_protocol_options": {"accept_http_10": true}}))
                .policy(&policy),
        );
    let scene = Scene::with(options).await;
    let strict = scene.listener("strict");

    let answer = raw(strict, b"GET / HTTP/1.0\r\n\r\n");
    assert!(status_line(&answer).contains(" 400 "), "Envoy itself wants a host: {}", status_line(&answer));
    let answer = raw(scene.addr(), b"GET / HTTP/1.0\r\n\r\n");
    assert!(status_line(&answer).contains(" 503 "), "old.test is governed: {}", status_line(&answer));
    let answer = raw(strict, b"GET / HTTP/1.0\r\nhost: \r\n\r\n");
    assert!(!status_line(&answer).is_empty(), "an empty one gets some answer");
    let answer = raw(strict, b"GET / HTTP/1.0\r\nhost: A.TEST:80\r\n\r\n");
    assert!(!status_line(&answer).is_empty());
    let answer = raw(strict, b"GET / HTTP/1.0\r\nhost: a\xff\xfe\r\n\r\n");
    assert!(!status_line(&answer).is_empty());

    assert_eq!(Client::http1(strict).get("/").await.unwrap().status, 200, "and Envoy goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_and_odd_requests() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders", "scope": ["route", "authority"], "match": {"path": ["/**"], "method": ["**"]},
        "breaker": {"state": "forced_open"},
        "fallback": [{"on": ["open"], "respond": {"status": 200, "body": "${path}"}}],
    }]});
    let scene = Scene::start(&host, policy).await;

    let long = [&b"GET /"[..], &vec![b'a'; 30_000][..], b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"].concat();
    for request in [
        &b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"[..],
        b"GET /%ff%fe%00?${reason} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\nconnection: close\r\n\r\n",
        b"GET http://b/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &long,
    ] {
        let answer = raw(scene.addr(), request);
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert!(
            request[0] == 0x16 || answer.starts_with(b"HTTP/1.1 "),
            "{shown:?} is answered {:?}",
            status_line(&answer)
        );
    }

    let answer = raw(scene.addr(), &long);
    assert!(answer.ends_with(b"aaa"), "a long path is inserted whole");
    assert_eq!(
        scene.client.get("/?${reason}").await.unwrap().text(),
        "/?${reason}",
        "what a client sends is no template"
    );
    assert_eq!(host.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cannot_speak_for_holdfast() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "breaker": lasting()}]});
    let scene = Scene::start(&host, policy).await;
    let forged = || {
        let mut request = Client::request("/");
        for (name, value) in [
            ("x-holdfast-hosts", "127.0.0.1:1"),
            ("x-holdfast-reject", "open; policy=orders"),
            ("x-holdfast-fallback", "static; reason=open; policy=orders"),
            ("x-holdfast-route", "standby"),
            ("x-holdfast-probe", "1"),
            ("x-envoy-upstream-service-time", "1"),
            ("retry-after", "3600"),
            ("grpc-status", "14"),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        request
    };

    for _ in 0..6 {
        let response = scene.client.send(forged()).await.unwrap();
        assert_eq!((response.status, response.header("x-holdfast-reject")), (200, None), "judged like any other");
    }
    host.always(Action::status(500));
    for _ in 0..6 {
        assert_eq!(scene.client.send(forged()).await.unwrap().status, 500);
    }
    assert_eq!(scene.client.send(forged()).await.unwrap().status, 503, "six of twelve: no header opens a way through");
    assert_eq!(scene.counted(&["success", "failure"]).await, json!({"success": 6, "failure": 6}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_cannot_speak_for_holdfast() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [
        {"name": "orders", "match": {"path": ["/"]}, "breaker": {"state": "forced_closed"}},
        {"name": "mended", "fallback": [{"on": ["failure"], "respond": {"status": 200, "body": "instead"}}]},
    ]});
    let scene = Scene::start(&host, policy).await;
    let pretend = |status: u16| {
        Action::status(status)
            .header("x-holdfast-fallback", "static; reason=open; policy=other")
            .header("x-holdfast-reject", "open; policy=other")
            .header("x-envoy-upstream-service-time", "soon")
    };

    host.always(pretend(200));
    assert_eq!(scene.client.get("/").await.unwrap().status, 200);
    host.always(pretend(503));
    assert_eq!(scene.client.get("/").await.unwrap().status, 503);
    let counted = scene.counted(&["requests", "success", "failure", "rejected.open", "ignored"]).await;
    assert_eq!(counted["success"], 1, "the host's answers are the host's");
    assert_eq!(counted["failure"], 1);
    let mended = scene.client.get("/mended").await.unwrap();
    let told: Vec<_> = mended.headers.get_all("x-holdfast-fallback").iter().collect();
    assert_eq!(told, ["static; reason=failure; policy=mended"], "in our answer only we are heard");
    assert_eq!(mended.header("x-holdfast-reject"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_in_retry_after_opens_for_the_usual_time() {
    let host = Backend::start().await.unwrap();
    let breaker = json!({
        "window": "60s", "min_requests": 1, "open_for": "5s", "open_jitter": 0, "open_max": "100s",
    });
    let policy = json!({"policies": [{"name": "orders", "scope": [{"header": "x-tenant"}], "breaker": breaker}]});
    let scene = Scene::start(&host, policy).await;
    let wait = async |tenant: usize, retry_after: &[u8]| {
        let request = || with_header("x-tenant", tenant.to_string().as_bytes());
        host.always(Action::status(503).header("retry-after", retry_after));
        let response = scene.client.send(request()).await.unwrap();
        assert_eq!(response.headers["retry-after"].as_bytes(), retry_after, "passed on as it came");
        let rejected = scene.client.send(request()).await.unwrap();
        assert!(rejected.header("x-holdfast-reject").is_some());
        rejected.header("retry-after").unwrap().parse::<u64>().unwrap()
    };

    let nonsense: [&[u8]; 9] = [
        b"soon",
        b"-1",
        b"",
        b"\xff\xfe",
        b"1e9",
        b"5.5",
        b"Sat, 99 Foo 2099 99:99:99 GMT",
        b"0x7f",
        &[b'1'; 5].map(|_| b'x'),
    ];
    for (tenant, value) in nonsense.into_iter().enumerate() {
        let waits = wait(tenant, value).await;
        assert!((1..=5).contains(&waits), "{value:?}: {waits}");
    }
    for (tenant, value) in
        [&b"99999999999999999999999999"[..], b"18446744073709551615", b"Fri, 31 Dec 9999 23:59:59 GMT"]
            .into_iter()
            .enumerate()
    {
        let waits = wait(100 + tenant, value).await;
        assert!((50..=100).contains(&waits), "too long is as long as open_max: {value:?}: {waits}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_in_grpc_status_reads_as_unknown() {
    let host = Backend::start().await.unwrap();
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders"))
        .policy(json!({"policies": [{"name": "orders", "breaker": {"state": "forced_closed"}}]}));
    let scene = Scene::with(options).await;
    let client = Client::http2(scene.addr());
    let values: [&[u8]; 7] = [b"ok", b"", b"-1", b"\xff\xfe", b"99999999999999999999", b"17", b"14, 0"];

    for content_type in ["application/grpc", "application/grpc-web"] {
        for value in values {
            host.always(Action::status(200).header("content-type", content_type).header("grpc-status", value));
            assert_eq!(client.send(Client::grpc_request("/orders.Orders/List")).await.unwrap().status, 200);
        }
    }
    for content_type in ["application/grpc_web", "application/grpcx", "text/plain"] {
        host.always(Action::ok().header("content-type", content_type).header("grpc-status", "14"));
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }

    scene.becomes("failure", 14).await;
    assert_eq!(scene.metric("success").await, 3, "where it is no gRPC, grpc-status is just a header");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_with_very_many_or_very_long_headers() {
    let host = Backend::start().await.unwrap();
    let scene =
        Scene::start(&host, json!({"policies": [{"name": "orders", "breaker": {"state": "forced_closed"}}]})).await;

    let mut many = Action::ok();
    for number in 0..90 {
        many = many.header(&format!("x-{number}"), b"\xff\xfe");
    }
    host.always(many);
    assert_eq!(scene.client.get("/").await.unwrap().headers["x-89"].as_bytes(), b"\xff\xfe");
    host.always(Action::ok().header("x-long", vec![b'x'; 50_000]).header("retry-after", vec![b'9'; 5_000]));
    assert_eq!(scene.client.get("/").await.unwrap().status, 200);
    assert_eq!(scene.metric("success").await, 2);
    host.always(Action::ok().header("x-long", vec![b'x'; 100_000]));
    let status = scene.client.get("/").await.unwrap().status;
    assert_eq!(status, 502, "Envoy takes no more than 80 KiB of headers");
    assert_eq!(scene.metric("failure").await, 1, "and what it cannot read is no answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crowds_that_leave_at_once_leave_nothing_behind() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders", "concurrency": {"max_requests": 20}, "breaker": lasting(), "throttle": {},
        "fallback": [{"on": ["concurrency", "failure"], "respond": {"status": 200, "body": "instead"}}],
    }]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::hang());

    for round in 0..4 {
        let client = if round % 2 == 0 { Client::http1(scene.addr()) } else { Client::http2(scene.addr()) };
        let crowd: Vec<_> = (0..40).map(|_| client.open(Client::request("/"))).collect();
        tokio::time::sleep(Duration::from_millis(20 * round)).await;
        for request in crowd {
            request.disconnect().await;
        }
    }
    host.wait_in_flight(0).await.unwrap();
    eventually(PATIENCE, || async {
        let metrics = scene.metrics("orders", "cluster=orders").await;
        let sum =
            |names: &[&str]| names.iter().map(|name| metrics.get(*name).copied().unwrap_or_default()).sum::<u64>();
        let (sent, over) = (sum(&["requests"]), sum(&["ignored", "rejected.concurrency", "success", "failure"]));
        if sent == over { Ok(()) } else { Err(format!("{sent} came, {over} are over: {metrics:?}")) }
    })
    .await
    .unwrap();

    host.always(Action::ok());
    host.hold();
    let held: Vec<_> = (0..20).map(|_| scene.client.open(Client::request("/"))).collect();
    host.wait_in_flight(20).await.expect("all places are free");
    assert_eq!(scene.client.get("/").await.unwrap().text(), "instead");
    host.release_all();
    for request in held {
        assert_eq!(request.finish().await.unwrap().text(), "ok");
    }
    assert_eq!(scene.metric("breaker_state").await, 0, "nobody who left was held against the host");
}

/// A filter beside the attempt seat that keeps a response back until all of it has come. The attempt seat asks for another
/// attempt by its headers; the router ends this one at once, and Envoy goes on to hand the attempt seat the trailers of it. (Envoy
/// 1.36 crashes there by itself, whatever the module does.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_an_attempt_that_is_over_harm_nobody() {
    let host = Backend::start().await.unwrap();
    let lua = json!({
        "name": "lua",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": "function envoy_on_response(handle) handle:body() end"},
        },
    });
    let filters = [attempt_seat_filter(&wasm_module().unwrap()), lua, upstream_codec()];
    let cluster = Cluster::new("orders").endpoint(host.addr()).http2().raw(json!({
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"http_filters": filters},
        },
    }));
    let policy = json!({"policies": [{"name": "orders", "retry": {
        "max_retries": 1, "backoff": {"base": "1ms", "max": "1ms"}, "budget": {"ratio": 100, "min_per_second": 100},
    }}]});
    let options = EnvoyOptions::new().cluster(cluster).route(Scene::aside()).route(Route::to("/", "orders"));
    let scene = Scene::with(options.seats(Seats::Both).policy(policy)).await;

    if scene.admin_get("/server_info").await.unwrap().contains("/1.36.") {
        return;
    }

    let failing = Action::status(503).body("no").trailer("x-late", "yes");
    host.script(Action::in_turn("x-id", [failing, Action::ok().trailer("x-late", "yes")]));
    for id in 0..20 {
        let id = id.to_string();
        let response = scene.client.send(with_header("x-id", id.as_bytes())).await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "request {id}");
        let tries = host.seen().iter().filter(|seen| seen.header("x-id").as_deref() == Some(&id)).count();
        assert_eq!(tries, 2, "request {id}: tried again");
    }
    assert_eq!(scene.metric("retries_recovered").await, 20);
}
