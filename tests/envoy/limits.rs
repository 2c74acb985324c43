//! The ceiling on requests in flight, and the throttle, over several workers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use holdfast_tests::{Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Records, Route, Scene, eventually};
use serde_json::{Value, json};

fn ceiling(limit: u64) -> Value {
    json!({"policies": [{"name": "orders", "concurrency": {"max_requests": limit}}]})
}

/// Sends 30 requests at once while the host holds its answers, of which exactly `limit` must pass.
async fn flood(scene: &Scene, host: &Backend, limit: u64) -> Records {
    let rejected = scene.metric("rejected.concurrency").await;
    host.reset_counters();
    host.hold();
    let client = scene.client.clone();
    let burst = tokio::spawn(async move { client.burst(30, "/").await });
    eventually(PATIENCE, || async {
        let (passed, rejected) = (host.requests(), scene.metric("rejected.concurrency").await - rejected);
        if passed + rejected == 30 { Ok(()) } else { Err(format!("{passed} passed and {rejected} were rejected")) }
    })
    .await
    .unwrap();
    host.release_all();
    let records = burst.await.unwrap();
    assert_eq!((host.requests(), host.max_in_flight()), (limit, limit), "exactly so many reach the host");
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_so_many_are_in_flight_over_two_workers() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, ceiling(7)).await;

    for _ in 0..5 {
        let records = flood(&scene, &host, 7).await;
        assert_eq!((records.count(200), records.count(503)), (7, 23));
        for response in records.responses().filter(|response| response.status == 503) {
            assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("concurrency; policy=orders"));
            assert_eq!(response.header("retry-after").as_deref(), Some("1"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_so_many_are_in_flight_over_four_workers() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::with(Scene::of(&host).concurrency(4).policy(ceiling(10))).await;

    // Workers meet in the same microseconds only now and then: many rounds.
    for _ in 0..20 {
        let records = flood(&scene, &host, 10).await;
        assert_eq!((records.count(200), records.count(503)), (10, 20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_answer_frees_one_place_for_any_worker() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, ceiling(2)).await;
    let workers = scene.workers(2).await;
    host.hold();
    let one = workers[0].open(Client::request("/"));
    host.wait_in_flight(1).await.unwrap();
    let _two = workers[0].open(Client::request("/"));
    host.wait_in_flight(2).await.unwrap();
    for worker in &workers {
        assert_eq!(worker.get("/").await.unwrap().status, 503, "one worker has taken all places");
    }

    host.release(1);
    assert_eq!(one.finish().await.unwrap().status, 200);
    let _three = workers[1].open(Client::request("/"));
    host.wait_in_flight(2).await.expect("the free place goes to the other worker");
    for worker in &workers {
        assert_eq!(worker.get("/").await.unwrap().status, 503);
    }
    host.release_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_ends_a_request_frees_its_place() {
    let host = Backend::start().await.unwrap();
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/short", "orders").timeout(Duration::from_millis(200)))
        .route(Route::to("/", "orders"))
        .policy(ceiling(3));
    let scene = Scene::with(options).await;

    for client in [Client::http1(scene.addr()), Client::http2(scene.addr())] {
        host.always(Action::hang());
        let left: Vec<_> = (0..3).map(|_| client.open(Client::request("/left"))).collect();
        host.wait_in_flight(3).await.unwrap();
        let ignored = scene.metric("ignored").await;
        assert_eq!(client.get("/").await.unwrap().status, 503);
        for request in left {
            request.disconnect().await;
        }
        scene.becomes("ignored", ignored + 3).await;
        host.wait_in_flight(0).await.unwrap();
        flood_after(&scene, &host).await;
    }

    host.always(Action::hang());
    assert_eq!(scene.client.burst(3, "/short").await.count(504), 3);
    flood_after(&scene, &host).await;
    host.always(Action::reset());
    assert_eq!(scene.client.drive(1, 5, "/").await.count(503), 5);
    flood_after(&scene, &host).await;
    host.always(Action::truncate());
    assert_eq!(scene.client.drive(1, 5, "/").await.errors().count(), 5);
    flood_after(&scene, &host).await;
    host.refuse().await.unwrap();
    assert_eq!(scene.client.drive(1, 5, "/").await.count(503), 5);
    host.resume().unwrap();
    flood_after(&scene, &host).await;
}

/// All three places are free again, and there is no fourth.
async fn flood_after(scene: &Scene, host: &Backend) {
    host.always(Action::ok());
    assert_eq!(flood(scene, host, 3).await.count(200), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_keeps_its_place_longer_than_a_lease() {
    let host = Backend::start().await.unwrap();
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/", "orders").timeout(Duration::ZERO))
        .policy(ceiling(1));
    let scene = Scene::with(options).await;
    host.hold();
    let long = scene.client.open(Client::request("/"));
    host.wait_in_flight(1).await.unwrap();

    tokio::time::sleep(Duration::from_secs(12)).await;

    assert_eq!(scene.client.burst(4, "/").await.count(503), 4, "the worker lives and renews what it holds");
    host.release_all();
    assert_eq!(long.finish().await.unwrap().status, 200);
    assert_eq!(scene.client.get("/").await.unwrap().status, 200);
}

/// A host that sends the head and the first half of its answer, and the other half when it is told to.
struct Halting {
    addr: SocketAddr,
    go_on: mpsc::Sender<()>,
}

impl Halting {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (go_on, told) = mpsc::channel();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst").unwrap();
            // Told by the test, or the test is over.
            let _ = told.recv();
            let _ = stream.write_all(b"other");
        });
        Self { addr, go_on }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_still_being_sent_is_in_flight() {
    let halting = Halting::start();
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(halting.addr))
        .route(Route::direct("/other", 200, ""))
        .route(Route::to("/", "orders"))
        .policy(json!({"policies": [{"name": "orders", "scope": [], "concurrency": {"max_requests": 1}}]}));
    let scene = Scene::with(options).await;

    let download = scene.client.open(Client::request("/"));
    scene.wait_for_stat("cluster.orders.upstream_rq_200", |count| count == 1).await.unwrap();
    let crowded = scene.client.get("/other").await.unwrap();
    assert_eq!(
        crowded.header("x-holdfast-reject").as_deref(),
        Some("concurrency; policy=orders"),
        "the host is still at work for the download"
    );

    halting.go_on.send(()).unwrap();
    assert_eq!(download.finish().await.unwrap().text(), "firstother");
    eventually(PATIENCE, || async { scene.client.get("/other").await.unwrap().status == 200 }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_has_its_own_places() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders", "scope": [{"header": "x-tenant"}], "concurrency": {"max_requests": 1},
    }]});
    let scene = Scene::start(&host, policy).await;
    let of = |tenant: &str| {
        let mut request = Client::request("/");
        request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
        request
    };
    host.hold();
    let gold = scene.client.open(of("gold"));
    host.wait_in_flight(1).await.unwrap();
    let iron = scene.client.open(of("iron"));
    host.wait_in_flight(2).await.expect("iron has a place of its own");
    assert_eq!(scene.client.send(of("gold")).await.unwrap().status, 503);
    host.release_all();
    assert_eq!((gold.finish().await.unwrap().status, iron.finish().await.unwrap().status), (200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_shadow_the_ceiling_only_counts() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "concurrency": {"max_requests": 4, "mode": "shadow"}}]});
    let scene = Scene::start(&host, policy).await;
    host.hold();
    let client = scene.client.clone();
    let burst = tokio::spawn(async move { client.burst(10, "/").await });

    host.wait_in_flight(10).await.expect("all ten reach the host");
    host.release_all();

    assert_eq!(burst.await.unwrap().count(200), 10);
    let counted = scene.counted(&["would_reject.concurrency", "rejected.concurrency", "success"]).await;
    assert_eq!(counted, json!({"would_reject.concurrency": 6, "rejected.concurrency": 0, "success": 10}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_by_the_ceiling_gives_the_probe_back() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders", "concurrency": {"max_requests": 1},
        "breaker": {
            "window": "60s", "min_requests": 2, "open_for": "200ms", "open_jitter": 0,
            "half_open": {"probes": 2, "lease": "1h"},
        },
    }]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::status(500));
    for _ in 0..2 {
        assert_eq!(scene.client.get("/").await.unwrap().status, 500);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;

    host.always(Action::ok());
    host.hold();
    let first = scene.client.open(Client::request("/"));
    host.wait_in_flight(1).await.unwrap();
    for _ in 0..5 {
        let response = scene.client.get("/").await.unwrap();
        let reason = response.header("x-holdfast-reject");
        assert_eq!(reason.as_deref(), Some("concurrency; policy=orders"), "the breaker would have let it probe");
    }
    host.release_all();
    assert_eq!(first.finish().await.unwrap().status, 200);
    assert_eq!(scene.metric("breaker_state").await, 1, "one of two probes is judged");
    assert_eq!(scene.client.get("/").await.unwrap().status, 200, "the second permit was given back five times");
    assert_eq!(scene.metric("breaker_state").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_host_is_asked_less_and_less_but_never_not_at_all() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "throttle": {"window": "60s", "max_rejection": 80}}]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::status(500));

    let records = scene.client.drive(6, 900, "/").await;

    let rejected = records.count(503);
    // 80 % of 900, and six standard deviations to either side. The first few are not rejected yet.
    assert!((640..=792).contains(&rejected), "{:?}", records.statuses());
    assert_eq!(host.requests(), 900 - rejected as u64);
    for response in records.responses().filter(|response| response.status == 503) {
        assert_eq!(response.header("x-holdfast-reject").as_deref(), Some("throttled; policy=orders"));
        assert_eq!(response.header("retry-after").as_deref(), Some("1"));
    }
    assert_eq!(scene.metric("rejected.throttled").await, rejected as u64);

    host.always(Action::ok());
    let mut rounds = 0;
    while scene.client.drive(6, 100, "/").await.count(503) > 40 {
        rounds += 1;
        assert!(rounds < 60, "successes bring the traffic back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_host_is_never_throttled() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, json!({"policies": [{"name": "orders", "throttle": {"window": "60s"}}]})).await;
    // Every 25th is 4 %, less than the 5 % that success_rate allows; but not within the first few.
    host.script(|request| if request.index % 25 == 24 { Action::status(500) } else { Action::ok() });

    let records = scene.client.drive(1, 400, "/").await;

    assert_eq!(scene.metric("rejected.throttled").await, 0, "{:?}", records.statuses());
    assert_eq!((records.count(200), records.count(500)), (384, 16));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_throttle_by_what_all_of_them_have_seen() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "throttle": {"window": "60s", "max_rejection": 100}}]});
    let scene = Scene::start(&host, policy).await;
    let workers = scene.workers(2).await;
    host.always(Action::status(500));
    workers[0].drive(1, 200, "/").await;
    host.always(Action::ok());
    tokio::time::sleep(Duration::from_millis(50)).await;

    let first = workers[1].get("/").await.unwrap();

    // n - 0 of n + 1 with n about 20 at least: a chance of more than nine in ten, so attempt three times.
    let mut rejected = first.status == 503;
    for _ in 0..2 {
        rejected |= workers[1].get("/").await.unwrap().status == 503;
    }
    assert!(rejected, "this worker itself has seen no failure at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_shadow_the_throttle_only_counts_and_a_trickle_is_let_alone() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [
        {"name": "trickle", "match": {"path": ["/trickle"]}, "throttle": {"window": "60s", "min_rps": 10}},
        {"name": "orders", "throttle": {"window": "60s", "mode": "shadow"}},
    ]});
    let scene = Scene::start(&host, policy).await;
    host.always(Action::status(500));

    assert_eq!(scene.client.drive(4, 200, "/").await.count(500), 200, "nothing is rejected");
    assert_eq!(host.requests(), 200);
    let would = scene.metric("would_reject.throttled").await;
    assert!((110..=190).contains(&would), "{would} of 200 would have been");
    assert_eq!(scene.metric("rejected.throttled").await, 0);

    assert_eq!(scene.client.drive(4, 100, "/trickle").await.count(500), 100, "less than ten a second over a minute");
}
