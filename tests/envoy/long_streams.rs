//! Streams that last: what a service and its hosts are known by while none of them ends.

use std::time::Duration;

use holdfast_tests::{
    Action, Backend, Client, EnvoyOptions, PATIENCE, Route, Scene, Seats, Traffic, drive_all, eventually,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::ends::{CLOSED, OPEN, SEATS, Service, serve};
use crate::outlying::{
    NOTICED, SETTLED, Story, are_out, becomes, counts, listed, metric, metric_now, ms, orders, stage, start, steered,
    told,
};

/// Half-open after 300 ms, with five probes, each with this lease.
fn leased(lease: &str) -> Value {
    json!({"breaker": {
        "window": "60s", "min_requests": 4, "open_for": "300ms", "open_growth": 1, "open_jitter": 0,
        "half_open": {"probes": 5, "lease": lease},
    }})
}

/// A route that cuts no stream.
fn endless() -> Value {
    json!({"timeout": "0s"})
}

/// A good head, and nothing after it.
fn stream() -> Action {
    Action::grpc(0).then_hang()
}

/// Has the service fail until its breaker opens, and waits until it is half-open.
async fn outage(scene: &Scene, clients: &[Client], service: &Service) {
    service.host.always(Action::grpc_trailers_only(14));
    drive_all(clients, 1, 4, Client::grpc_request(service.name)).await;
    service.becomes(scene, "breaker_state", OPEN).await;
    service.host.reset_counters();
    sleep(ms(400)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_well_again_gets_its_streams_while_all_of_them_run() {
    for seats in SEATS {
        let grpc = Service::new("/grpc", leased("2s")).await.http2().route(endless());
        let watch = Service::new("/watch", leased("2s")).await.route(endless());
        let (scene, clients) = serve(seats, &[&grpc, &watch]).await;
        tokio::join!(outage(&scene, &clients, &grpc), outage(&scene, &clients, &watch));
        grpc.host.always(stream());
        watch.host.always(Action::ok().then_hang());

        // Each of forty clients asks again until it is served.
        let subscribed = Traffic::start(&clients, 40, ms(100), Client::grpc_request(grpc.name));
        let watching = Traffic::start(&clients, 40, ms(100), watch.name);
        eventually(PATIENCE, || async { grpc.host.open_streams() >= 5 }).await.unwrap();
        sleep(ms(200)).await;
        assert_eq!(grpc.host.open_streams(), 5, "{seats:?}: so many probes while none has run for its lease");

        for service in [&grpc, &watch] {
            service.becomes(&scene, "breaker_state", CLOSED).await;
            eventually(PATIENCE, || async { service.host.open_streams() == 40 }).await.unwrap();
            assert_eq!(service.host.requests(), 40, "{} {seats:?}: and none of them has ended", service.name);
            let transitions = service.transitions(&scene);
            assert_eq!(transitions, ["closed -> open", "open -> half-open", "half-open -> closed"], "{}", service.name);
        }
        drop((subscribed, watching));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_end_badly_within_the_lease_fail_their_probes() {
    for seats in SEATS {
        let grpc = Service::new("/grpc", leased("30s")).await.http2().route(endless());
        let (scene, clients) = serve(seats, &[&grpc]).await;
        outage(&scene, &clients, &grpc).await;
        grpc.host.always(Action::grpc(14).lasting(ms(200)));

        drive_all(&clients, 5, 5, Client::grpc_request(grpc.name)).await;

        grpc.becomes(&scene, "breaker_state", OPEN).await;
        let transitions = grpc.transitions(&scene);
        assert_eq!(transitions, ["closed -> open", "open -> half-open", "half-open -> open"], "{seats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_badly_at_last_is_a_failure_then() {
    for seats in SEATS {
        let lasting = json!({"breaker": {"window": "60s", "consecutive_failures": 3, "open_for": "1h"}});
        let late = Service::new("/late", lasting).await.http2().route(endless());
        let again = Service::new("/again", leased("300ms")).await.http2().route(endless());
        let (scene, clients) = serve(seats, &[&late, &again]).await;

        late.host.always(Action::grpc(14).lasting(ms(400)));
        let calls: Vec<_> = (0..3).map(|_| clients[0].open(Client::grpc_request(late.name))).collect();
        late.host.wait_in_flight(0).await.unwrap();
        assert_eq!(late.metric(&scene, "breaker_state").await, CLOSED, "{seats:?}");
        for call in calls {
            assert_eq!(call.finish().await.unwrap().grpc_status(), Some(14), "{seats:?}");
        }
        late.becomes(&scene, "breaker_state", OPEN).await;
        assert_eq!(late.outcomes(&scene, 3).await, [0, 3, 0], "{seats:?}");

        // Long enough to have proved the service well, before all of them fail.
        outage(&scene, &clients, &again).await;
        again.host.always(Action::grpc(14).lasting(ms(2000)));
        let calls = Traffic::start(&clients, 10, ms(100), Client::grpc_request(again.name));
        again.becomes(&scene, "breaker_state", CLOSED).await;
        again.becomes(&scene, "breaker_opened.failure_rate", 2).await;
        let transitions = again.transitions(&scene);
        assert_eq!(
            transitions[..4],
            ["closed -> open", "open -> half-open", "half-open -> closed", "closed -> open"],
            "{seats:?}: what they ended with counts when it comes"
        );
        drop(calls);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_comes_back_by_a_stream_that_runs() {
    let outlier =
        json!({"consecutive_failures": 3, "base_ejection_time": "500ms", "ejection_jitter": 0, "interval": "60s"});
    let policy = json!({
        "breaker": {"min_requests": 10000, "half_open": {"lease": "1s"}}, "outlier": listed(outlier),
    });
    let story = Story::new::<2>("/streams", policy).await.http2().over(endless());
    let (scene, clients) = stage(2, &[&story]).await;
    let call = || Client::grpc_request(story.name);
    story.hosts[0].always(Action::grpc_trailers_only(14));
    story.hosts[1].always(Action::grpc(0));
    for client in clients.iter().cycle() {
        client.send(call()).await.unwrap();
        if story.hosts[0].requests() == 3 {
            break;
        }
    }
    are_out(&scene, story.name, &[&story.hosts[0]]).await;
    story.hosts.iter().for_each(|host| {
        host.reset_counters();
        host.always(stream());
    });
    sleep(ms(600)).await;

    // A stream now and then, none of which ends.
    let mut streams = Vec::new();
    let asked = Instant::now();
    while metric_now(&scene, story.name, "readmitted").await == 0 && asked.elapsed() < PATIENCE / 2 {
        streams.push(clients[streams.len() % 2].open(call()));
        sleep(ms(100)).await;
    }

    assert_eq!(metric(&scene, story.name, "readmitted").await, 1, "{:?}", told(&scene, story.name));
    assert_eq!(metric(&scene, story.name, "hosts_ejected").await, 0);
    assert!(streams.iter().all(|stream| !stream.is_finished()), "it is back, and no stream has ended");
    let before = story.hosts[0].requests();
    streams.extend((0..20).map(|number| clients[number % 2].open(call())));
    eventually(PATIENCE, || async { counts(&story.hosts).iter().sum::<u64>() == streams.len() as u64 }).await.unwrap();
    assert!(story.hosts[0].requests() >= before + 5, "it gets its share: {:?}", counts(&story.hosts));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_with_nothing_but_running_streams_is_known() {
    let hosts: [Backend; 2] = start().await;
    let policy = orders(json!({"consecutive_failures": 3, "base_ejection_time": "60s", "interval": "60s"}));
    let cluster = steered("orders", &hosts).http2();
    let options = EnvoyOptions::new().seats(Seats::Both).cluster(cluster);
    let options = options.route(Scene::aside()).route(Route::to("/", "orders").timeout(Duration::ZERO)).policy(policy);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    let call = || Client::grpc_request("/orders.Orders/Watch");
    hosts.iter().for_each(|host| host.always(stream()));

    // The seats notice each other, by streams that all go on.
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.extend((0..8).map(|number| clients[number % 2].open(call())));
        eventually(PATIENCE, || async { counts(&hosts).iter().sum::<u64>() == streams.len() as u64 }).await.unwrap();
        sleep(NOTICED).await;
    }
    becomes(&scene, "orders", "hosts", 2).await;
    assert_eq!(hosts.iter().map(Backend::open_streams).sum::<u64>(), 16);

    // One begins to fail. The other has told nothing but headers.
    hosts[0].always(Action::grpc_trailers_only(14));
    let began = Instant::now();
    while metric_now(&scene, "orders", "hosts_ejected").await == 0 && began.elapsed() < PATIENCE {
        streams.push(clients[streams.len() % 2].open(call()));
        sleep(ms(20)).await;
    }
    are_out(&scene, "orders", &[&hosts[0]]).await;
    let told = told(&scene, "orders");
    assert!(told[0].ends_with("; 1 of 2 hosts out"), "{told:?}");
    sleep(SETTLED).await;
    let (before, sent) = (counts(&hosts), 20);
    streams.extend((0..sent).map(|number| clients[number % 2].open(call())));
    eventually(PATIENCE, || async { hosts[1].requests() >= before[1] + sent as u64 })
        .await
        .expect("all go to the other");
    assert_eq!(hosts[0].requests(), before[0]);
}
