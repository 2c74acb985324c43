//! Answers that a host breaks off after their headers.

use std::net::SocketAddr;

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, RawHost, Route, Scene, Then, attempts, drive_all,
    eventually,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::ends::{CLOSED, OPEN, SEATS, Service, lasting, serve};
use crate::outlying::{Story, are_out, counts, listed, logged, ms, stage};

/// A breaker that only counts.
fn counting() -> Value {
    json!({"breaker": {"state": "forced_closed"}})
}

/// One that opens when a quarter of at least a hundred has failed.
fn at_a_quarter() -> Value {
    json!({"breaker": {"window": "60s", "min_requests": 100, "failure_rate": 25, "open_for": "1h"}})
}

fn in_a_row() -> Value {
    json!({"breaker": {"window": "60s", "consecutive_failures": 3, "open_for": "1h"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarter_of_truncated_answers_is_a_quarter_of_failures() {
    for seats in SEATS {
        let http1 = Service::new("/http1", counting()).await;
        let http2 = Service::new("/http2", counting()).await.http2();
        let rate = Service::new("/rate", at_a_quarter()).await;
        let row = Service::new("/row", in_a_row()).await.http2();
        let services = [&http1, &http2, &rate, &row];
        let (scene, clients) = serve(seats, &services).await;
        services.iter().for_each(|service| service.host.every(4, Action::truncate()));
        // One after the other, they end in the order in which they came.
        let sent = |service: &Service| drive_all(&clients, 1, 100, service.name);
        tokio::join!(sent(&http1), sent(&http2), sent(&rate), sent(&row));

        for service in [&http1, &http2, &rate] {
            assert_eq!(service.outcomes(&scene, 100).await, [75, 25, 0], "{} {seats:?}", service.name);
        }
        rate.becomes(&scene, "breaker_state", OPEN).await;
        assert_eq!(row.metric(&scene, "breaker_state").await, CLOSED, "never three in a row");

        row.host.always(Action::truncate());
        drive_all(&clients, 1, 3, row.name).await;
        row.becomes(&scene, "breaker_state", OPEN).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_answer_was_an_answer_where_the_policy_says_so() {
    let mut policy = in_a_row();
    policy["outcome"] = json!({"failure": {"broken": false}});
    for seats in SEATS {
        let http1 = Service::new("/http1", policy.clone()).await;
        let http2 = Service::new("/http2", policy.clone()).await.http2();
        let (scene, clients) = serve(seats, &[&http1, &http2]).await;
        for service in [&http1, &http2] {
            service.host.always(Action::truncate());
            drive_all(&clients, 4, 20, service.name).await;
            assert_eq!(
                service.outcomes(&scene, 20).await,
                [20, 0, 0],
                "{} {seats:?}: their heads were 200",
                service.name
            );
            assert_eq!(service.metric(&scene, "breaker_state").await, CLOSED, "{} {seats:?}", service.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_breaks_off_is_ejected_and_the_log_says_why() {
    let ejecting = || listed(json!({"consecutive_failures": 5, "base_ejection_time": "60s", "interval": "60s"}));
    let http1 = Story::of::<2>("/http1", ejecting()).await;
    let http2 = Story::of::<2>("/http2", ejecting()).await.http2();
    let grpc = Story::of::<2>("/grpc", ejecting()).await.http2();
    let tolerant = json!({"outcome": {"failure": {"broken": false}}, "outlier": ejecting()});
    let tolerant = Story::new::<2>("/tolerant", tolerant).await;
    let (scene, clients) = stage(2, &[&http1, &http2, &grpc, &tolerant]).await;

    for story in [&http1, &http2, &grpc] {
        let truncated = Action::truncate();
        let is_grpc = story.name == "/grpc";
        let (good, bad, request) = if is_grpc {
            let bad = truncated.header("content-type", "application/grpc");
            (Action::grpc(0), bad, Client::grpc_request(story.name))
        } else {
            (Action::ok(), truncated, Client::request(story.name))
        };
        // Workers that have their first request at the same moment may have no place for the key until a moment later.
        story.hosts.iter().for_each(|host| host.always(good.clone()));
        drive_all(&clients, 4, 8, request.clone()).await;
        sleep(ms(300)).await;
        let before = counts(&story.hosts);
        story.hosts[0].always(bad);
        drive_all(&clients, 4, 40, request).await;

        are_out(&scene, story.name, &[&story.hosts[0]]).await;
        let failing = counts(&story.hosts)[0] - before[0];
        assert!(failing < 12, "{}: after five failures it gets nothing: {failing}", story.name);
        let log = logged(&scene, story.name, 48).await;
        let ends: Vec<_> = log.iter().flat_map(attempts).map(|attempt| attempt.outcome).collect();
        let broken = ends.iter().filter(|end| *end == "failure:broken").count() as u64;
        assert_eq!(broken, failing, "{}: {ends:?}", story.name);
    }

    tolerant.hosts[0].always(Action::truncate());
    drive_all(&clients, 4, 40, tolerant.name).await;
    assert_eq!(crate::outlying::metric(&scene, tolerant.name, "hosts_ejected").await, 0);
    let shares = counts(&tolerant.hosts);
    assert_eq!(shares.iter().sum::<u64>(), 40);
    assert!(shares.iter().all(|share| *share >= 15), "both go on in turn: {shares:?}");
}

/// Answers that end too early in every way, by path, and some that only look so.
fn raw(path: &str) -> (Vec<u8>, Then) {
    let (head, rest, then) = match path {
        "/length" => ("200 OK", "content-length: 100\r\n\r\nhalf", Then::Close),
        "/headers-only" => ("200 OK", "content-length: 100\r\n\r\n", Then::Close),
        "/chunks" => ("200 OK", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", Then::Close),
        "/bad-chunk" => ("200 OK", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nZZ\r\n", Then::Close),
        "/teapot" => ("418 I'm a teapot", "content-length: 100\r\n\r\nhalf", Then::Close),
        "/close" => ("200 OK", "\r\nall there is", Then::Close),
        "/whole" => ("200 OK", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n", Then::Close),
        "/empty" => ("204 No Content", "\r\n", Then::Close),
        "/websocket" => {
            ("101 Switching Protocols", "upgrade: websocket\r\nconnection: upgrade\r\n\r\nhello", Then::Close)
        }
        // The target of a CONNECT is no path.
        _ => ("200 OK", "\r\nhello", Then::Close),
    };
    (format!("HTTP/1.1 {head}\r\n{rest}").into_bytes(), then)
}

/// What asks for a WebSocket.
const WEBSOCKET: &str = "GET /websocket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// What asks for a tunnel.
const TUNNEL: &str = "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n";

/// Sends this and reads until the other side closes.
async fn exchange(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the host closes").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_too_early_is_broken_and_what_ends_by_closing_is_not() {
    let broken = ["/length", "/headers-only", "/chunks", "/bad-chunk", "/teapot"];
    let whole = ["/close", "/whole", "/empty"];
    for seats in SEATS {
        let host = RawHost::start(raw).await.unwrap();
        let policy = json!({"policies": [{
            "name": "orders", "breaker": {"state": "forced_closed"}, "outlier": {"consecutive_failures": 1000},
        }]});
        let options = EnvoyOptions::new()
            .seats(seats)
            .cluster(Cluster::new("orders").steered().endpoint(host.addr()))
            .route(Route::to("/", "orders").raw(json!({
                "match": {"prefix": null, "connect_matcher": {}},
                "route": {"upgrade_configs": [{"upgrade_type": "CONNECT"}]},
            })))
            .route(Route::to("/", "orders").raw(json!({"route": {"upgrade_configs": [{"upgrade_type": "websocket"}]}})))
            // Envoy waits so long for a client to close what it has broken off itself.
            .raw_hcm(json!({"delayed_close_timeout": "0.05s"}))
            .policy(policy);
        let scene = Scene::with(options).await;
        let outcomes = async |requests: u64| {
            eventually(PATIENCE, || async {
                let counted = scene.counted(&["success", "failure", "ignored"]).await;
                let sum: u64 = counted.as_object().unwrap().values().filter_map(Value::as_u64).sum();
                if sum >= requests { Ok(counted) } else { Err(counted.to_string()) }
            })
            .await
            .unwrap()
        };

        for path in broken {
            let answer = scene.client.get(path).await;
            assert!(answer.is_err(), "{path}: {answer:?}");
        }
        assert_eq!(outcomes(5).await, json!({"success": 0, "failure": 5, "ignored": 0}), "{seats:?}");
        for path in whole {
            scene.client.get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        assert_eq!(outcomes(8).await, json!({"success": 3, "failure": 5, "ignored": 0}), "{seats:?}");
        for _ in 0..5 {
            for (request, head) in [(WEBSOCKET, "HTTP/1.1 101 "), (TUNNEL, "HTTP/1.1 200 ")] {
                let answer = exchange(scene.addr(), request).await;
                assert!(answer.starts_with(head) && answer.ends_with("hello"), "{answer}");
            }
        }
        assert_eq!(
            outcomes(18).await,
            json!({"success": 13, "failure": 5, "ignored": 0}),
            "{seats:?}: no tunnel fails"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_in_the_middle_of_an_answer_breaks_nothing() {
    for seats in SEATS {
        let good = Service::new("/good", in_a_row()).await;
        let bad = Service::new("/bad", counting()).await;
        let grpc = Service::new("/grpc", in_a_row()).await.http2();
        good.host.always(Action::ok().then_hang());
        bad.host.always(Action::status(500).then_hang());
        grpc.host.always(Action::grpc(0).then_hang());
        let services = [&good, &bad, &grpc];
        let (scene, clients) = serve(seats, &services).await;

        for client in [Client::http1(scene.addr()), clients[0].clone()] {
            for service in services {
                let request = || match service.name {
                    "/grpc" => Client::grpc_request(service.name),
                    name => Client::request(name),
                };
                let leaving: Vec<_> = (0..5).map(|_| client.open(request())).collect();
                has_begun(&service.host, 5).await;
                for one in leaving {
                    one.disconnect().await;
                }
                service.host.wait_idle().await.unwrap();
                service.host.reset_counters();
            }
        }

        assert_eq!(good.outcomes(&scene, 10).await, [10, 0, 0], "{seats:?}: HTTP has told its status");
        assert_eq!(bad.outcomes(&scene, 10).await, [0, 10, 0], "{seats:?}: a bad one too");
        assert_eq!(grpc.outcomes(&scene, 10).await, [0, 0, 10], "{seats:?}: a gRPC call has not");
        assert_eq!(good.metric(&scene, "breaker_state").await, CLOSED, "{seats:?}");
        assert_eq!(grpc.metric(&scene, "breaker_state").await, CLOSED, "{seats:?}");
    }
}

/// Waits until the headers of so many answers are on their way, and gives them time to arrive.
async fn has_begun(host: &Backend, count: u64) {
    eventually(PATIENCE, || async { host.requests() == count && host.in_flight() == 0 }).await.unwrap();
    tokio::time::sleep(ms(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_stream_that_breaks_off_in_its_middle_fails_like_any_answer() {
    for seats in SEATS {
        let stream = Service::new("/stream", json!({"breaker": lasting()})).await.http2();
        let bad = Action::truncate().header("content-type", "application/grpc").lasting(ms(200));
        stream.host.always(bad);
        let (scene, clients) = serve(seats, &[&stream]).await;
        drive_all(&clients, 4, 4, Client::grpc_request(stream.name)).await;
        assert_eq!(stream.outcomes(&scene, 4).await, [0, 4, 0], "{seats:?}");
        stream.becomes(&scene, "breaker_state", OPEN).await;
    }
}
