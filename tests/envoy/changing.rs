//! The kinds of change that an update may make: one policy for each, under load, so that one update makes all of them, and a
//! table of what is to hold afterwards.

use std::fmt::Display;
use std::sync::Mutex;
use std::time::Duration;

use holdfast_tests::{
    Backend, Client, Cluster, Condition, EnvoyOptions, OpenRequest, Route, Scene, Seats, Traffic, eventually,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{NOTICED, SETTLED, ms, steered};
use crate::updating::{HELD, Updated, Way};

/// How long a row of a table has for what it is to come to, unless many have not: a table that does not hold is told whole.
const COMES: Duration = Duration::from_secs(30);

/// One kind of change: a policy of this name, and of this path, that is so before and has this merged into it after.
#[derive(Clone)]
pub struct Change {
    pub name: &'static str,
    before: Value,
    patch: Value,
}

impl Change {
    /// The path of its own.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }
}

/// The text of a fallback that the change `fallback-text` gives.
pub const NEW_TEXT: &str = "sold out";

/// How long a host may be out at most after the change `max-ejection-time`.
pub const MAX_EJECTION_TIME: Duration = Duration::from_secs(20);

/// Every kind of change, for policies whose features do nothing unless the state that is looked at gives them something to do.
pub fn changes() -> Vec<Change> {
    let change = |name, before: Value, patch: Value| Change { name, before, patch };
    let says = |text: &str| json!({"fallback": [{"on": ["open"], "respond": {"status": 200, "body": text}}]});
    let mut none_left = says("none left");
    none_left["breaker"] = json!({"min_requests": 1_000_000});
    let retry = json!({"retry": {"max_retries": 1}});
    let breaker = json!({"breaker": {"min_requests": 1_000_000}});
    let throttle = json!({"throttle": {"max_rejection": 0}});
    let outlier = json!({"outlier": {"consecutive_failures": 1000}});
    let checked =
        json!({"outlier": {"consecutive_failures": 1000, "heartbeat": {"path": "/before", "interval": "1h"}}});
    let of_breaker = |patch: Value| json!({"breaker": patch});
    let of_outlier = |patch: Value| json!({"outlier": patch});
    vec![
        change("fallback-text", none_left, says(NEW_TEXT)),
        change("retry-added", json!({}), retry.clone()),
        change("retry-removed", retry.clone(), json!({"retry": null})),
        change("max-retries", retry, json!({"retry": {"max_retries": 2}})),
        change("open-for", breaker.clone(), of_breaker(json!({"open_for": "2s"}))),
        change("open-max", breaker.clone(), of_breaker(json!({"open_for": "2s", "open_max": "20s"}))),
        change("failure-rate", breaker.clone(), of_breaker(json!({"failure_rate": 40}))),
        change("probes", breaker.clone(), of_breaker(json!({"half_open": {"probes": 2}}))),
        change("breaker-mode", breaker, of_breaker(json!({"mode": "shadow"}))),
        change("outcome", json!({}), json!({"outcome": {"ignore": {"status": [404]}}})),
        change("concurrency-added", json!({}), json!({"concurrency": {"max_requests": 100}})),
        change("concurrency-removed", json!({"concurrency": {"max_requests": 100}}), json!({"concurrency": null})),
        change(
            "max-requests",
            json!({"concurrency": {"max_requests": 90}}),
            json!({"concurrency": {"max_requests": 100}}),
        ),
        change("throttle", throttle, json!({"throttle": {"success_rate": 90}})),
        change("consecutive-failures", outlier.clone(), of_outlier(json!({"consecutive_failures": 900}))),
        change("base-ejection-time", outlier.clone(), of_outlier(json!({"base_ejection_time": "700ms"}))),
        change(
            "max-ejection-time",
            outlier.clone(),
            of_outlier(json!({"base_ejection_time": "800ms", "max_ejection_time": format!("{MAX_EJECTION_TIME:?}")})),
        ),
        change("outlier-mode", outlier, of_outlier(json!({"mode": "shadow"}))),
        change("heartbeat", checked, of_outlier(json!({"heartbeat": {"path": "/after"}}))),
        change("match", json!({}), json!({"match": {"path": ["/match", "/match/**"]}})),
        change("max-keys", json!({}), json!({"max_keys": 100})),
        change(MOVED, json!({}), json!({})),
    ]
}

/// The change of a policy that stands behind others before and first after.
const MOVED: &str = "moved";

/// An Envoy under load with a policy for each of these changes, each with the features whose state is looked at.
pub struct Stage {
    pub envoy: Updated,
    /// Of the cluster `orders`, which all these policies share. Each has a state of its own all the same.
    pub hosts: Vec<Backend>,
    pub changes: Vec<Change>,
    /// On each worker one, from before the update.
    pub clients: Vec<Client>,
    features: Value,
    load: Load,
    faults: Mutex<Vec<String>>,
}

impl Stage {
    /// `features` is what all the policies have; `without` names changes that are left out.
    pub async fn start(way: Way, hosts: usize, features: Value, without: &[&str]) -> Self {
        let hosts = backends(hosts).await;
        let load_host = Backend::start().await.unwrap();
        let mut changes = changes();
        changes.retain(|change| !without.contains(&change.name));
        let features = with_hosts(features, &hosts);
        let options = EnvoyOptions::new()
            .seats(Seats::Both)
            .cluster(steered("orders", &hosts))
            .cluster(Cluster::new("load").endpoint(load_host.addr()))
            .route(Scene::aside())
            .route(Route::to("/load", "load"))
            .route(Route::to("/", "orders").timeout(HELD));
        let envoy = Updated::start(options, way, &document(&changes, &features, false)).await;
        let clients = envoy.clients().await;
        let load = Load::start(&envoy, &clients, load_host).await;
        let stage = Self { envoy, hosts, changes, clients, features, load, faults: Mutex::default() };
        stage.seats_meet().await;
        stage
    }

    /// Each seat looks for the other once a second, with a request.
    async fn seats_meet(&self) {
        for round in 0..2 {
            for client in &self.clients {
                for change in &self.changes {
                    assert_eq!(client.get(&change.path()).await.unwrap().status, 200, "{}", change.name);
                }
            }
            if round == 0 {
                sleep(NOTICED).await;
            }
        }
        sleep(SETTLED).await;
        self.hosts.iter().for_each(Backend::reset_counters);
    }

    /// Makes all the changes at once, and gives a client on each worker that meets the new document.
    pub async fn update(&self) -> Vec<Client> {
        self.update_with(json!({})).await
    }

    /// The same, with one more change to all of them.
    pub async fn update_with(&self, patch: Value) -> Vec<Client> {
        let mut features = self.features.clone();
        json_patch::merge(&mut features, &patch);
        self.envoy.update(&document(&self.changes, &features, true)).await;
        self.clients_now().await
    }

    /// Whom a request after an update comes from: over new connections, or over the old ones, which have not been closed.
    async fn clients_now(&self) -> Vec<Client> {
        match self.envoy.way {
            Way::Listener(_) => self.envoy.clients().await,
            Way::Discovery => self.clients.clone(),
        }
    }

    /// Requests that the host holds, all of this path, so many for each of these clients.
    pub fn open(clients: &[Client], path: &str, each: usize) -> Vec<OpenRequest> {
        let all = clients.iter().flat_map(|client| (0..each).map(move |_| client));
        all.map(|client| client.open(Client::request(path))).collect()
    }

    /// A gauge of the policy of this change.
    pub async fn gauge(&self, change: &Change, name: &str) -> u64 {
        self.envoy.metric_now(change.name, "cluster=orders", name).await
    }

    /// Holds a row of the table to this, and notes it where it does not hold.
    pub fn check(&self, change: &Change, holds: bool, expected: impl Display) {
        if !holds {
            self.fault(change, expected);
        }
    }

    fn fault(&self, change: &Change, expected: impl Display) {
        let mut faults = self.faults.lock().unwrap();
        faults.push(format!("{} by {:?}: {expected}", change.name, self.envoy.way));
    }

    /// What the log tells of this host to the policy of this change.
    pub fn told(&self, change: &Change, host: &Backend) -> Vec<String> {
        let start = format!(" {}/cluster=orders: host {} ", change.name, host.addr());
        let told = |line: &str| line.find(&start).map(|at| line[at + start.len()..].to_owned());
        self.envoy.log().lines().filter_map(told).collect()
    }

    /// A gauge of the policy of this change has this value, or gets it.
    pub async fn becomes(&self, change: &Change, name: &str, value: u64) {
        self.comes(change, || async {
            let now = self.gauge(change, name).await;
            if now == value { Ok(()) } else { Err(format!("{name} stays {now}, and is not {value}")) }
        })
        .await;
    }

    /// A condition comes true.
    pub async fn comes<F: Future>(&self, change: &Change, condition: impl FnMut() -> F)
    where
        F::Output: Condition,
    {
        let is_hopeless = self.faults.lock().unwrap().len() > 10;
        let patience = if is_hopeless { Duration::from_secs(1) } else { COMES };
        if let Err(error) = eventually(patience, condition).await {
            self.fault(change, error);
        }
    }

    /// All but so many of these requests are answered, and no more of them are.
    pub async fn all_but(&self, change: &Change, requests: &[OpenRequest], held: usize) {
        let all = requests.len();
        self.comes(change, || async {
            let open = all - answered(requests);
            if open == held { Ok(()) } else { Err(format!("{open} of {all} requests are held, not {held}")) }
        })
        .await;
        sleep(SETTLED).await;
        let open = all - answered(requests);
        self.check(change, open >= held, format!("{open} of {all} requests are held, not {held}"));
    }

    /// So many requests of a change come to the only host, and no more of them.
    pub async fn come_to_host(&self, change: &Change, wanted: u64) {
        let got = || self.hosts[0].requests_to(&change.path());
        let expected = || format!("{} requests come to the host, not {wanted}", got());
        self.comes(change, || async { if got() >= wanted { Ok(()) } else { Err(expected()) } }).await;
        self.check(change, got() <= wanted, expected());
    }

    /// Until what has been answered is counted as over, too. Every worker has had something to do since.
    pub async fn settles(&self) {
        self.load.goes_on().await;
        sleep(SETTLED).await;
    }

    /// The load has lost nothing, and every request of it is counted once. Gives what does not hold, for [`all_hold`].
    pub async fn end(self) -> Vec<String> {
        self.load.end(&self.envoy).await;
        self.faults.into_inner().unwrap()
    }
}

/// Tells of all rows of a table at once, by whichever way their document came.
pub fn all_hold((one, other): (Vec<String>, Vec<String>)) {
    let faults = [one, other].concat();
    assert!(faults.is_empty(), "{} times the table does not hold:\n{}", faults.len(), faults.join("\n"));
}

async fn backends(count: usize) -> Vec<Backend> {
    let mut hosts = Vec::new();
    for _ in 0..count {
        hosts.push(Backend::start().await.unwrap());
    }
    hosts
}

/// Names the hosts, so that no request is needed to find them.
pub fn with_hosts(mut features: Value, hosts: &[Backend]) -> Value {
    if features.get("outlier").is_some() {
        let addrs: Vec<String> = hosts.iter().map(|host| host.addr().to_string()).collect();
        features["outlier"]["hosts"] = json!(addrs);
    }
    features
}

/// The policy that governs the load. No change touches it.
pub fn of_load() -> Value {
    json!({
        "name": "load", "match": {"cluster": ["load"]},
        "breaker": {}, "concurrency": {"max_requests": 1000}, "throttle": {}, "retry": {},
    })
}

fn document(changes: &[Change], features: &Value, is_after: bool) -> Value {
    let mut policies = vec![of_load()];
    for Change { name, before, patch } in changes {
        let mut policy = before.clone();
        json_patch::merge(&mut policy, features);
        json_patch::merge(&mut policy, &json!({"name": name, "match": {"path": [format!("/{name}")]}}));
        if is_after {
            json_patch::merge(&mut policy, patch);
        }
        let first = is_after && *name == MOVED;
        policies.insert(if first { 0 } else { policies.len() }, policy);
    }
    if is_after {
        policies.insert(0, json!({"name": "newcomer", "match": {"path": ["/newcomer"]}, "breaker": {}}));
    }
    json!({"policies": policies})
}

/// A document whose policy of this name, for all requests, has got these changes one after the other.
pub fn one_after_the_other(name: &str, features: &Value, made: &[Change]) -> Value {
    let mut policy = features.clone();
    policy["name"] = json!(name);
    let mut others = Vec::new();
    for change in made {
        let mut patch = change.patch.clone();
        if change.name == "match" {
            patch["match"] = json!({"path": ["/**"]});
        }
        if change.name == MOVED {
            others.push(json!({"name": "newcomer", "match": {"path": ["/newcomer"]}, "breaker": {}}));
        }
        json_patch::merge(&mut policy, &patch);
    }
    others.push(policy);
    json!({"policies": others})
}

/// Requests that no update touches, while there are updates.
pub struct Load {
    traffic: Traffic,
    host: Backend,
}

impl Load {
    /// The policy [`of_load`] governs it, and this host serves it.
    pub async fn start(envoy: &Updated, clients: &[Client], host: Backend) -> Self {
        // Over HTTP/1.1 a listener that drains closes a connection with an answer, not between two of them.
        let own = [Client::http1(envoy.addr())];
        let clients = if matches!(envoy.way, Way::Discovery) { clients } else { &own };
        let traffic = Traffic::start(clients, 4, ms(10), "/load");
        traffic.goes_on(8).await.unwrap();
        Self { traffic, host }
    }

    /// Waits for some more of it.
    pub async fn goes_on(&self) {
        self.traffic.goes_on(20).await.unwrap();
    }

    pub async fn end(self, envoy: &Updated) {
        self.goes_on().await;
        let records = self.traffic.stop().await;
        let sent = records.0.len() as u64;
        let bad = records.responses().find(|response| response.status != 200);
        assert_eq!(records.count(200) as u64, sent, "none is lost: {:?}, {bad:?}", records.errors().next());
        assert_eq!(self.host.requests(), sent, "none comes to the host twice");
        let counted = envoy.metrics("load", "cluster=load").await;
        assert_eq!([counted["requests"], counted["success"]], [sent, sent], "each is counted once");
    }
}

/// How many of these requests are answered.
fn answered(requests: &[OpenRequest]) -> usize {
    requests.iter().filter(|request| request.is_finished()).count()
}
