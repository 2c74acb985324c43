//! What the tests of how requests end share: services behind one Envoy, each with a policy of its own, and clients that give up.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Backend, Client, Cluster, EnvoyOptions, PATIENCE, Records, Route, Scene, Seats, Template, drive_all, eventually,
    with_header,
};
use http::Request;
use serde_json::{Value, json};

use crate::outlying::ms;

/// The states of a breaker as its gauge shows them.
pub const CLOSED: u64 = 0;
pub const OPEN: u64 = 2;

/// With the attempt seat and without.
pub const SEATS: [Seats; 2] = [Seats::Request, Seats::Both];

/// A host behind a cluster of this name, with a policy of this name for the path of this name.
pub struct Service {
    pub name: &'static str,
    pub host: Backend,
    policy: Value,
    http2: bool,
    route: Value,
}

impl Service {
    /// The policy is given without its name and its match.
    pub async fn new(name: &'static str, policy: Value) -> Self {
        let host = Backend::start().await.unwrap();
        Self { name, host, policy, http2: false, route: json!({}) }
    }

    /// Speaks HTTP/2 to the host.
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Merges this into the route's action.
    pub fn route(mut self, patch: Value) -> Self {
        self.route = patch;
        self
    }

    /// One metric of its policy.
    pub async fn metric(&self, scene: &Scene, name: &str) -> u64 {
        scene.metric_of(&self.name[1..], &self.key(), name).await
    }

    /// Waits until one metric of its policy has this value.
    pub async fn becomes(&self, scene: &Scene, name: &str, value: u64) {
        eventually(PATIENCE, || async {
            let now = scene.metric_now(&self.name[1..], &self.key(), name).await;
            if now == value { Ok(()) } else { Err(format!("{}: {name} is {now}, not {value}", self.name)) }
        })
        .await
        .unwrap();
    }

    /// Its breaker's transitions so far, as `closed -> open`.
    pub fn transitions(&self, scene: &Scene) -> Vec<String> {
        let words = |line: String| Some(line.split_once(": ")?.1.split_once(':')?.0.to_owned());
        scene.transitions(&self.name[1..]).into_iter().filter_map(words).collect()
    }

    /// What has been counted of this many requests of its policy, when all are over: successes, failures, ignored ones.
    pub async fn outcomes(&self, scene: &Scene, requests: u64) -> [u64; 3] {
        eventually(PATIENCE, || async {
            let metrics = scene.metrics(&self.name[1..], &self.key()).await;
            let get = |name: &str| metrics.get(name).copied().unwrap_or_default();
            let counted = [get("success"), get("failure"), get("ignored")];
            if counted.iter().sum::<u64>() >= requests {
                Ok(counted)
            } else {
                Err(format!("{}: {metrics:?}", self.name))
            }
        })
        .await
        .unwrap()
    }

    fn key(&self) -> String {
        format!("cluster={}", &self.name[1..])
    }
}

/// An Envoy with two workers before these services, with a client on each worker.
pub async fn serve(seats: Seats, services: &[&Service]) -> (Scene, Vec<Client>) {
    let scene = Scene::with(options(seats, services)).await;
    let clients = scene.workers(2).await;
    (scene, clients)
}

/// How to run it.
pub fn options(seats: Seats, services: &[&Service]) -> EnvoyOptions {
    let mut options = EnvoyOptions::new().seats(seats).route(Scene::aside());
    let mut policies = Vec::new();
    for service in services {
        let cluster = Cluster::new(&service.name[1..]).endpoint(service.host.addr());
        let cluster = if service.http2 { cluster.http2() } else { cluster };
        let route = Route::to(service.name, &service.name[1..]).raw(json!({
            "match": {"prefix": null, "path": service.name},
            "route": service.route,
        }));
        options = options.cluster(cluster).route(route);
        let mut policy = service.policy.clone();
        policy["name"] = json!(service.name[1..]);
        policy["match"] = json!({"path": [service.name]});
        policies.push(policy);
    }
    options.raw_hcm(trusting()).policy(json!({"policies": policies}))
}

/// Takes clients of this machine for internal ones, whose `x-envoy-*` headers are kept.
pub fn trusting() -> Value {
    json!({
        "use_remote_address": true,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]},
    })
}

/// Sends so many requests with eight senders, each of which gives up after this time.
pub async fn give_up(clients: &[Client], after: Duration, total: usize, request: impl Into<Template>) -> Records {
    let clients: Vec<Client> = clients.iter().map(|client| client.clone().timeout(after)).collect();
    drive_all(&clients, 8, total, request).await
}

/// A gRPC call whose deadline is so far away. A client gives up when its own clock says that it has passed.
pub fn with_deadline(path: &str, deadline: Duration) -> Request<Bytes> {
    with_header(Client::grpc_request(path), "grpc-timeout", format!("{}m", deadline.as_millis()))
}

/// The same for HTTP between proxies.
pub fn with_expected(path: &str, deadline: Duration) -> Request<Bytes> {
    with_header(Client::request(path), "x-envoy-expected-rq-timeout-ms", deadline.as_millis().to_string())
}

/// Opens for good when half of at least four requests in a minute have failed, or five in a row.
pub fn lasting() -> Value {
    json!({"window": "60s", "min_requests": 4, "consecutive_failures": 5, "open_for": "1h"})
}

/// The deadline of clients here. What leaves so much later or earlier than it should on a busy machine is still told apart.
pub const DEADLINE: Duration = ms(500);
