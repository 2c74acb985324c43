//! Responses that a time-out of Envoy's cuts after their headers: nobody has failed.

use holdfast_tests::{Action, Client, Scene, drive_all};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::ends::{CLOSED, OPEN, SEATS, Service, lasting, serve};
use crate::outlying::{Story, are_out, counts, listed, stage, told};

/// How many calls each story makes, by twelve clients.
const CALLS: u64 = 36;

/// The times of a route that can cut a response, with a name for each.
fn times() -> [(&'static str, &'static str, Value); 4] {
    let idle_try = json!({"retry_on": "5xx", "num_retries": 0, "per_try_idle_timeout": "0.25s"});
    [
        ("/whole", "/grpc-whole", json!({"timeout": "0.25s"})),
        (
            "/longest",
            "/grpc-longest",
            json!({"timeout": "0s", "max_stream_duration": {"max_stream_duration": "0.25s"}}),
        ),
        ("/idle", "/grpc-idle", json!({"timeout": "0s", "idle_timeout": "0.25s"})),
        ("/idle-try", "/grpc-idle-try", json!({"timeout": "0s", "retry_policy": idle_try})),
    ]
}

fn watched() -> Value {
    json!({"breaker": lasting()})
}

/// The same with the policy's own time for all attempts.
fn limited() -> Value {
    json!({"breaker": lasting(), "retry": {"timeout": "250ms"}})
}

/// Calls the services of these names, all at the same time.
async fn call(clients: &[Client], names: impl Iterator<Item = &'static str>) {
    let mut calls = JoinSet::new();
    for name in names {
        let request = if is_grpc(name) { Client::grpc_request(name) } else { Client::request(name) };
        let clients = clients.to_vec();
        calls.spawn(async move { drive_all(&clients, 12, CALLS as usize, request).await });
    }
    calls.join_all().await;
}

fn is_grpc(name: &str) -> bool {
    name.starts_with("/grpc")
}

/// The head of a good answer, and nothing more.
fn stream(name: &str) -> Action {
    let head = if is_grpc(name) { Action::grpc(0) } else { Action::ok() };
    head.then_hang()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_out_that_cuts_a_healthy_stream_is_nobodys_failure() {
    for seats in SEATS {
        let mut services = Vec::new();
        for (http, grpc, route) in times() {
            services.push(Service::new(http, watched()).await.route(route.clone()));
            services.push(Service::new(grpc, watched()).await.http2().route(route));
        }
        services.push(Service::new("/policy", limited()).await);
        services.push(Service::new("/grpc-policy", limited()).await.http2());
        let all: Vec<&Service> = services.iter().collect();
        let (scene, clients) = serve(seats, &all).await;
        for service in &services {
            service.host.always(stream(service.name));
        }

        call(&clients, services.iter().map(|service| service.name)).await;

        for service in &services {
            assert_eq!(service.host.requests(), CALLS, "{} {seats:?}: none is rejected", service.name);
            let counted = service.outcomes(&scene, CALLS).await;
            // HTTP has told its status. A gRPC call would have told its own at the end.
            let expected = if is_grpc(service.name) { [0, 0, CALLS] } else { [CALLS, 0, 0] };
            assert_eq!(counted, expected, "{} {seats:?}: success, failure, ignored", service.name);
            assert_eq!(service.metric(&scene, "breaker_state").await, CLOSED, "{} {seats:?}", service.name);
        }
        before_the_headers(&scene, &clients, &services).await;
    }
}

/// A service that gives no headers within the same times has failed.
async fn before_the_headers(scene: &Scene, clients: &[Client], services: &[Service]) {
    services.iter().for_each(|service| service.host.always(Action::hang()));
    call(clients, services.iter().map(|service| service.name)).await;
    for service in services {
        service.becomes(scene, "breaker_state", OPEN).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_host_is_ejected_for_a_stream_that_was_cut() {
    let outlier = || json!({"outlier": listed(json!({"consecutive_failures": 3, "interval": "60s"}))});
    let limited = || json!({"outlier": listed(json!({"consecutive_failures": 3})), "retry": {"timeout": "250ms"}});
    let mut stories = Vec::new();
    for (http, grpc, route) in times() {
        stories.push(Story::new::<2>(http, outlier()).await.over(route.clone()));
        stories.push(Story::new::<2>(grpc, outlier()).await.http2().over(route));
    }
    stories.push(Story::new::<2>("/policy", limited()).await);
    stories.push(Story::new::<2>("/grpc-policy", limited()).await.http2());
    let all: Vec<&Story> = stories.iter().collect();
    let (scene, clients) = stage(2, &all).await;
    for story in &stories {
        story.hosts.iter().for_each(|host| host.always(stream(story.name)));
    }

    call(&clients, stories.iter().map(|story| story.name)).await;

    for story in &stories {
        assert_eq!(counts(&story.hosts).iter().sum::<u64>(), CALLS, "{}", story.name);
        assert_eq!(told(&scene, story.name), Vec::<String>::new(), "{}: nobody is out", story.name);
    }

    // Before the headers it is the host's.
    stories.iter().for_each(|story| story.hosts[0].always(Action::hang()));
    call(&clients, stories.iter().map(|story| story.name)).await;
    for story in &stories {
        are_out(&scene, story.name, &[&story.hosts[0]]).await;
    }
}
