//! Heartbeats by the health check of gRPC, to servers that applications have and to some that are none, beside Envoy's own.

use std::net::SocketAddr;

use holdfast_tests::{Action, Backend, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, eventually};
use http::Version;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::outlying::{ADMIN, all_known, becomes, metric, metric_now, start, steered, told};

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A message that says SERVING.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 1];

/// A server of tonic's.
struct Tonic {
    addr: SocketAddr,
    health: HealthReporter,
    runs: AbortHandle,
}

impl Tonic {
    /// With its health service, if it is to have that.
    fn start(has_health: bool) -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = incoming.local_addr().unwrap();
        let (health, service) = health_reporter();
        let routes = if has_health { Routes::new(service) } else { Routes::default() };
        let serves = Server::builder().add_routes(routes).serve_with_incoming(incoming);
        Self { addr, health, runs: tokio::spawn(serves).abort_handle() }
    }
}

impl Drop for Tonic {
    fn drop(&mut self) {
        self.runs.abort();
    }
}

/// One policy with its cluster, and a second cluster of the same hosts that Envoy checks itself.
struct Case {
    name: &'static str,
    hosts: Vec<SocketAddr>,
    heartbeat: Value,
    /// Its HTTP options (`extensions.upstreams.http.v3.HttpProtocolOptions`), where it is not just HTTP/2.
    http: Option<Value>,
}

impl Case {
    fn new(name: &'static str, hosts: &[SocketAddr]) -> Self {
        Self { name, hosts: hosts.to_vec(), heartbeat: json!({"grpc": {}}), http: None }
    }

    fn of_service(mut self, service: &str) -> Self {
        self.heartbeat = json!({"grpc": {"service": service}});
        self
    }

    fn over(mut self, http: Value) -> Self {
        self.http = Some(http);
        self
    }

    fn cluster(&self) -> Cluster {
        let cluster = self.hosts.iter().fold(Cluster::new(self.name).steered(), |all, host| all.endpoint(*host));
        match &self.http {
            None => cluster.http2(),
            Some(http) => {
                const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
                let mut options = json!({"@type": format!("type.googleapis.com/{OPTIONS}")});
                json_patch::merge(&mut options, http);
                cluster.raw(json!({"typed_extension_protocol_options": {OPTIONS: options}}))
            }
        }
    }

    fn policy(&self) -> Value {
        let hosts: Vec<String> = self.hosts.iter().map(SocketAddr::to_string).collect();
        let mut heartbeat = json!({"interval": "300ms", "timeout": "1s", "unhealthy_after": 2, "healthy_after": 2});
        json_patch::merge(&mut heartbeat, &self.heartbeat);
        let outlier = json!({"hosts": hosts, "base_ejection_time": "1s", "heartbeat": heartbeat});
        json!({"name": self.name, "match": {"cluster": [self.name]}, "outlier": outlier})
    }

    /// Envoy refuses a gRPC check in a cluster of HTTP/1.
    fn envoys(&self) -> Option<Cluster> {
        if self.http.is_some() {
            return None;
        }
        let check = json!({
            "interval": "0.3s", "timeout": "1s", "unhealthy_threshold": 2, "healthy_threshold": 2,
            "no_traffic_interval": "0.3s", "no_traffic_healthy_interval": "0.3s", "unhealthy_interval": "0.3s",
            "grpc_health_check": {"service_name": self.heartbeat["grpc"]["service"]},
        });
        let cluster = Cluster::new(&format!("envoys_{}", self.name)).http2().without_attempt_seat();
        let cluster = self.hosts.iter().fold(cluster, |all, host| all.endpoint(*host));
        Some(cluster.raw(json!({"health_checks": [check]})))
    }
}

/// Waits until so many hosts are out by each verdict.
async fn are_out(scene: &Scene, case: &Case, count: u64) {
    becomes(scene, case.name, "hosts_ejected", count).await;
    if case.http.is_none() {
        let name = format!("cluster.envoys_{}.membership_healthy", case.name);
        let wanted = case.hosts.len() as u64 - count;
        scene.wait_for_stat(&name, |healthy| healthy == wanted).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_in_while_its_health_service_says_serving() {
    let (well, changes, bare) = (Tonic::start(true), Tonic::start(true), Tonic::start(false));
    changes.health.set_service_status("shop.Orders", ServingStatus::Serving).await;
    let [hanging, page, garbled, refuses, status, first]: [Backend; 6] = start().await;
    hanging.always(Action::hang());
    page.always(Action::ok().header("content-type", "text/html").body("<p>SERVING</p>"));
    let grpc = |body: &[u8]| Action::grpc(0).body(body.to_vec());
    garbled.always(grpc(&[0, 0, 0, 0, 3, 8, 1]));
    refuses.always(Action::grpc_trailers_only(14));
    status.always(Action::status(503));
    let http1 = || json!({"explicit_http_config": {"http_protocol_options": {}}});
    let follows =
        || json!({"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}});

    let with = |host: SocketAddr| [well.addr, host];
    let changing = Case::new("changing", &with(changes.addr));
    let named = Case::new("named", &[changes.addr]).of_service("shop.Orders");
    let out = [
        (Case::new("no_service", &with(bare.addr)), "gRPC status UNIMPLEMENTED"),
        (Case::new("other_service", &[changes.addr]).of_service("shop.Carts"), "gRPC status NOT_FOUND"),
        (Case::new("hanging", &with(hanging.addr())), "no answer"),
        (Case::new("page", &with(page.addr())), "an answer that is not gRPC"),
        (Case::new("garbled", &with(garbled.addr())), "a gRPC answer without a health status"),
        (Case::new("refuses", &with(refuses.addr())), "gRPC status UNAVAILABLE"),
        (Case::new("status", &with(status.addr())), "503"),
        // These speak HTTP/1.1 to their hosts. A server of gRPC breaks that off, and one of HTTP/1.1 answers what it likes.
        (Case::new("http1", &[well.addr]).over(http1()), "no answer"),
        (Case::new("follows", &[well.addr]).over(follows()), "no answer"),
        (Case::new("http1_page", &[first.addr()]).over(http1()), "an answer that is not gRPC"),
        (Case::new("follows_page", &[first.addr()]).over(follows()), "an answer that is not gRPC"),
    ];

    let all: Vec<&Case> = [&changing, &named].into_iter().chain(out.iter().map(|(case, _)| case)).collect();
    let mut options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).route(Scene::aside());
    for case in &all {
        options = options.cluster(case.cluster());
        if let Some(cluster) = case.envoys() {
            options = options.cluster(cluster);
        }
    }
    let policies: Vec<Value> = all.iter().map(|case| case.policy()).collect();
    let scene = Scene::with(options.policy(json!({"policies": policies}))).await;

    for (case, why) in &out {
        are_out(&scene, case, 1).await;
        let last = format!("2 heartbeats failed, last {why}; ");
        let told = told(&scene, case.name);
        assert!(told.iter().any(|line| line.contains(&last)), "{}: {told:?}", case.name);
    }
    are_out(&scene, &changing, 0).await;
    are_out(&scene, &named, 0).await;
    assert_eq!(metric(&scene, "changing", "hosts").await, 2);
    let seen = page.last_seen().unwrap();
    assert_eq!((seen.path.as_str(), seen.header("te").as_deref()), (CHECK, Some("trailers")));
    assert_eq!(seen.header("content-type").as_deref(), Some("application/grpc"));
    assert_eq!((seen.version, seen.body.as_ref()), (Version::HTTP_2, &[0; 5][..]));
    assert!(first.seen().iter().all(|seen| seen.version == Version::HTTP_11));
    // Without HTTP/2 the call goes as HTTP/1.1, and what a server of gRPC answers to that is a protocol error.
    for name in ["http1", "follows"] {
        let stats = scene.stats_like(&format!(r"^cluster\.{name}\.upstream_cx_.*")).await.unwrap();
        let stat = |stat: &str| stats[&format!("cluster.{name}.upstream_cx_{stat}")];
        assert!(stat("http1_total") >= 2 && stat("http2_total") == 0, "{stats:?}");
        assert!(stat("protocol_error") >= 2, "{stats:?}");
    }

    changes.health.set_service_status("", ServingStatus::NotServing).await;
    are_out(&scene, &changing, 1).await;
    are_out(&scene, &named, 0).await;
    let told = told(&scene, "changing");
    assert!(told.iter().any(|line| line.contains("last NOT_SERVING")), "{told:?}");
    changes.health.set_service_status("", ServingStatus::Serving).await;
    changes.health.set_service_status("shop.Orders", ServingStatus::Unknown).await;
    are_out(&scene, &changing, 0).await;
    are_out(&scene, &named, 1).await;
    assert_eq!(metric_now(&scene, "changing", "readmitted").await, 1);
    changes.health.set_service_status("shop.Orders", ServingStatus::Serving).await;
    are_out(&scene, &named, 0).await;
    // One that hangs no more, and one that has become a server of gRPC.
    hanging.release_all();
    hanging.always(grpc(&SERVING));
    page.always(grpc(&SERVING));
    are_out(&scene, &out[2].0, 0).await;
    are_out(&scene, &out[3].0, 0).await;
}

/// Envoy answers a gRPC request with 200, whatever it is that it has to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_has_left_is_forgotten_and_no_failure() {
    let hosts: [Backend; 3] = start().await;
    for host in &hosts {
        host.script(|seen| if seen.path == CHECK { Action::grpc(0).body(SERVING.to_vec()) } else { Action::ok() });
    }
    let heartbeat = json!({"grpc": {}, "interval": "500ms", "timeout": "400ms"});
    let document = json!({"policies": [{"name": "orders", "outlier": {"heartbeat": heartbeat}}]});
    let cluster = steered("orders", &hosts).http2().dynamic_endpoints();
    let options = EnvoyOptions::new().seats(Seats::Both).cluster(cluster).cluster(Cluster::admin(ADMIN));
    let options = options.route(Scene::aside()).route(Route::to("/", "orders")).policy(document);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["orders"], &hosts).await;
    let checked = |host: &Backend| host.requests_to(CHECK);
    eventually(PATIENCE, || async { hosts.iter().all(|host| checked(host) >= 2) }).await.unwrap();

    scene.set_endpoints("orders", &[hosts[1].addr(), hosts[2].addr()]).await.unwrap();
    becomes(&scene, "orders", "hosts", 2).await;
    assert_eq!(metric(&scene, "orders", "ejections_detected.heartbeat").await, 0);
    hosts.iter().for_each(Backend::reset_counters);
    eventually(PATIENCE, || async { hosts[1..].iter().all(|host| checked(host) >= 4) }).await.unwrap();
    assert_eq!(checked(&hosts[0]), 0);
    assert_eq!(metric(&scene, "orders", "ejections_detected.heartbeat").await, 0);
}
