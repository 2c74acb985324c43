//! Every kind of change, one after the other, to a policy under load: no request is lost, none is answered by a breaker that has
//! closed for the change, and by discovery no connection is closed.

use std::time::Duration;

use holdfast_tests::{Backend, Client, EnvoyOptions, Records, Route, Scene, Seats, Traffic};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::changing::{Change, changes, one_after_the_other};
use crate::outlying::{NOTICED, ms, start, steered};
use crate::updating::{OPEN, SHORT, Updated, Way, fails, is_rejected, of_all_names};

/// What the changes change. Retries and a limit are added by one of them.
fn features(hosts: &[Backend]) -> Value {
    let addrs: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
    json!({
        "breaker": {"window": 4, "min_requests": 4, "failure_rate": 100, "open_for": "1h"},
        "throttle": {"window": "1m", "max_rejection": 0},
        "outlier": {
            "consecutive_failures": 1000, "hosts": addrs,
            "heartbeat": {"path": "/healthz", "interval": "1s"},
        },
        "fallback": [{"on": ["open"], "respond": {"status": 503, "body": "none left"}}],
    })
}

struct Loaded {
    envoy: Updated,
    hosts: [Backend; 2],
    changes: Vec<Change>,
    clients: Vec<Client>,
}

impl Loaded {
    async fn start(way: Way, without: &[&str]) -> Self {
        let hosts: [Backend; 2] = start().await;
        let mut changes = changes();
        changes.retain(|change| !without.contains(&change.name));
        let options = EnvoyOptions::new()
            .seats(Seats::Both)
            .cluster(steered("orders", &hosts))
            .route(Scene::aside())
            .route(Route::to("/", "orders"));
        let first = one_after_the_other("orders", &features(&hosts), &changes[..0]);
        let envoy = Updated::start(options, way, &first).await;
        let clients = match way {
            Way::Listener(_) => vec![Client::http1(envoy.addr())],
            Way::Discovery => envoy.clients().await,
        };
        for client in clients.iter().cycle().take(16) {
            assert_eq!(client.get("/orders").await.unwrap().status, 200);
            sleep(NOTICED / 8).await;
        }
        Self { envoy, hosts, changes, clients }
    }

    /// Makes the changes, and gives all that was sent meanwhile.
    async fn updates(&self, pause: Duration, hint: &str) -> Records {
        let traffic = Traffic::start(&self.clients, 8, pause, "/orders");
        traffic.goes_on(50).await.unwrap();
        for made in 1..=self.changes.len() {
            let document = one_after_the_other("orders", &features(&self.hosts), &self.changes[..made]);
            self.envoy.update(&document).await;
            traffic
                .goes_on(50)
                .await
                .unwrap_or_else(|error| panic!("{hint}: {}: {error}", self.changes[made - 1].name));
        }
        traffic.stop().await
    }

    fn requests(&self) -> u64 {
        self.hosts.iter().map(|host| host.requests_to("/orders")).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_loses_a_request() {
    tokio::join!(loses_none(SHORT), loses_none(Way::Discovery));
}

async fn loses_none(way: Way) {
    let loaded = Loaded::start(way, &[]).await;
    let before = loaded.requests();
    let records = loaded.updates(ms(4), "healthy").await;
    println!("{way:?}: {} requests over {} changes", records.0.len(), loaded.changes.len());
    assert_eq!(records.errors().next().map(ToString::to_string), None, "{way:?}");
    assert_eq!(records.count(200), records.0.len(), "{way:?}: {:?}", records.statuses());
    assert_eq!(loaded.requests() - before, records.0.len() as u64, "{way:?}: each comes to a host once");
    if matches!(way, Way::Discovery) {
        let stats = loaded.envoy.stats().await.unwrap();
        let closed = |name: &str| stats.get(name).copied().unwrap_or_default();
        assert_eq!(closed("http.ingress.downstream_cx_destroy_active_rq"), 0);
        assert_eq!(closed("http.ingress.downstream_cx_drain_close"), 0, "no client's connection is closed");
        assert_eq!(closed("listener_manager.listener_modified"), 0, "the listener is the same one");
    }
    let mut counted = Vec::new();
    for counter in ["requests", "success", "failure", "rejected.open"] {
        counted.push(of_all_names(&loaded.envoy, counter).await);
    }
    let sent = records.0.len() as u64 + 16;
    assert_eq!(counted, [sent, sent, 0, 0], "{way:?}: each is counted once, by one name or another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_closes_an_open_breaker() {
    tokio::join!(closes_none(SHORT), closes_none(Way::Discovery));
}

async fn closes_none(way: Way) {
    // In shadow it lets pass, and one that may be open for seconds only is not open for ever.
    let loaded = Loaded::start(way, &["breaker-mode", "open-max"]).await;
    loaded.hosts.iter().for_each(fails);
    while !is_rejected(&loaded.clients[0].get("/orders").await.unwrap()) {}
    let before = loaded.requests();
    let records = loaded.updates(ms(4), "open").await;
    println!("{way:?}: {} requests over {} changes", records.0.len(), loaded.changes.len());
    assert_eq!(records.errors().next().map(ToString::to_string), None, "{way:?}");
    let passed = records.responses().filter(|response| !is_rejected(response)).count();
    assert_eq!(passed, 0, "{way:?}: of {} requests", records.0.len());
    assert_eq!(loaded.requests(), before, "{way:?}: the hosts have rest");
    assert_eq!(loaded.envoy.metric("breaker_state").await, OPEN, "{way:?}");
    assert_eq!(loaded.envoy.transitions("orders").len(), 1, "{way:?}");
}
