//! What the tests of outlier ejection share: hosts behind a steered cluster, a policy that ejects, and what an operator sees
//! of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use holdfast_tests::{
    AccessLogEntry, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Records, Route, Scene, Seats, drive_all,
    eventually,
};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Longer than the request seat takes to notice an attempt seat.
pub const NOTICED: Duration = Duration::from_millis(1100);

/// Longer than a worker takes to see what another one has done, and than the end of an attempt takes after its answer.
pub const SETTLED: Duration = Duration::from_millis(50);

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub async fn start<const COUNT: usize>() -> [Backend; COUNT] {
    let mut hosts = Vec::new();
    for _ in 0..COUNT {
        hosts.push(Backend::start().await.unwrap());
    }
    hosts.try_into().unwrap()
}

/// A cluster of these hosts that follows the request seat's header.
pub fn steered(name: &str, hosts: &[Backend]) -> Cluster {
    hosts.iter().fold(Cluster::new(name).steered(), |cluster, host| cluster.endpoint(host.addr()))
}

/// A document with one policy, `orders`.
pub fn orders(outlier: Value) -> Value {
    json!({"policies": [{"name": "orders", "outlier": outlier}]})
}

/// With the hosts read from Envoy, so that no request is sent anywhere to find them: then what a host that is out gets can be
/// counted exactly.
pub fn listed(mut outlier: Value) -> Value {
    outlier["discover"] = json!({"cluster": ADMIN, "path": "/clusters?format=json", "interval": "1s"});
    outlier
}

/// The cluster of Envoy's admin interface.
pub const ADMIN: &str = "envoy_admin";

/// Both seats before the steered cluster `orders`, on so many workers.
pub fn before(hosts: &[Backend], workers: u32, document: Value) -> EnvoyOptions {
    let options = EnvoyOptions::new().concurrency(workers).seats(Seats::Both);
    let options = options.cluster(steered("orders", hosts)).cluster(Cluster::admin(ADMIN));
    options.route(Scene::aside()).route(Route::to("/", "orders")).policy(document)
}

/// An Envoy with one policy and one cluster, both `orders`, and a client on each worker. All hosts are known.
pub async fn scene_of(hosts: &[Backend], workers: u32, document: Value) -> (Scene, Vec<Client>) {
    let scene = Scene::with(before(hosts, workers, document)).await;
    let clients = scene.workers(workers as usize).await;
    all_known(&scene, &clients, &["orders"], hosts).await;
    (scene, clients)
}

/// One of several stories that happen in one Envoy at the same time: hosts behind a steered cluster of this name, with a
/// policy of this name for the path of this name and all below it.
pub struct Story {
    pub name: &'static str,
    pub hosts: Vec<Backend>,
    policy: Value,
    http2: bool,
    is_steered: bool,
    route: Value,
}

impl Story {
    /// The policy is given without its name and its match.
    pub async fn new<const HOSTS: usize>(name: &'static str, policy: Value) -> Self {
        let hosts: [Backend; HOSTS] = start().await;
        Self { name, hosts: hosts.into(), policy, http2: false, is_steered: true, route: json!({}) }
    }

    /// A story whose policy says only this of outliers.
    pub async fn of<const HOSTS: usize>(name: &'static str, outlier: Value) -> Self {
        Self::new::<HOSTS>(name, json!({"outlier": outlier})).await
    }

    /// Speaks HTTP/2 to the hosts.
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Has a cluster that does not follow the request seat's header.
    pub fn unsteered(mut self) -> Self {
        self.is_steered = false;
        self
    }

    /// Merges this into the action of its route.
    pub fn over(mut self, route: Value) -> Self {
        self.route = route;
        self
    }

    fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::new(&self.name[1..]);
        if self.is_steered {
            cluster = cluster.steered();
        }
        if self.http2 {
            cluster = cluster.http2();
        }
        self.hosts.iter().fold(cluster, |cluster, host| cluster.endpoint(host.addr()))
    }
}

/// An Envoy for these stories, with a client on each worker. All hosts are known.
pub async fn stage(workers: u32, stories: &[&Story]) -> (Scene, Vec<Client>) {
    let mut options = EnvoyOptions::new().concurrency(workers).seats(Seats::Both).cluster(Cluster::admin(ADMIN));
    options = options.route(Scene::aside());
    let mut policies = Vec::new();
    for story in stories {
        let route = route(story.name).raw(json!({"route": story.route}));
        options = options.cluster(story.cluster()).route(route);
        let mut policy = story.policy.clone();
        policy["name"] = json!(story.name[1..]);
        policy["match"] = json!({"path": [story.name, format!("{}/**", story.name)]});
        policies.push(policy);
    }
    let scene = Scene::with(options.policy(json!({"policies": policies}))).await;
    let clients = scene.workers(workers as usize).await;
    let known: Vec<(&str, &[Backend])> = stories.iter().map(|story| (story.name, story.hosts.as_slice())).collect();
    all_known_to(&scene, &clients, &known).await;
    (scene, clients)
}

/// [`all_known_to`] for policies that share their hosts.
pub async fn all_known(scene: &Scene, clients: &[Client], names: &[&str], hosts: &[Backend]) {
    let policies: Vec<(&str, &[Backend])> = names.iter().map(|name| (*name, hosts)).collect();
    all_known_to(scene, clients, &policies).await;
}

/// Sends traffic until each seat knows the other and each policy, which has the name of its path and of its cluster, knows
/// all its hosts. Then nothing has been counted at the hosts.
pub async fn all_known_to(scene: &Scene, clients: &[Client], policies: &[(&str, &[Backend])]) {
    for round in 0..2 {
        for (name, hosts) in policies {
            let records = drive_all(clients, 2 * clients.len(), 4 * hosts.len() * clients.len(), path(name)).await;
            assert_eq!(records.count(200), records.0.len(), "{name}: {:?}", records.statuses());
        }
        if round == 0 {
            sleep(NOTICED).await;
        }
    }
    for (name, hosts) in policies {
        eventually(PATIENCE, || async {
            let known = metric(scene, name, "hosts").await;
            if known == hosts.len() as u64 {
                return Ok(());
            }
            drive_all(clients, clients.len(), hosts.len(), path(name)).await;
            Err(format!("{known} hosts are known to {name}"))
        })
        .await
        .unwrap();
    }
    sleep(SETTLED).await;
    policies.iter().flat_map(|(_, hosts)| hosts.iter()).for_each(Backend::reset_counters);
}

/// Sends the path of this name, and those below it, to the cluster of this name.
pub fn route(path: &str) -> Route {
    Route::to(path, path.trim_start_matches('/')).raw(json!({"match": {"prefix": null, "path_separated_prefix": path}}))
}

/// Where the policy `orders` takes all there is, others have a path of their own.
fn path(name: &str) -> &str {
    if name == "orders" { "/" } else { name }
}

/// The policy and the key for the cluster of a policy's name, which may be a path.
fn policy_and_key(name: &str) -> (&str, String) {
    let name = name.trim_start_matches('/');
    (name, format!("cluster={name}"))
}

/// All metrics of a policy for the cluster of its name, which may be a path.
pub async fn metrics(scene: &Scene, name: &str) -> BTreeMap<String, u64> {
    let (policy, key) = policy_and_key(name);
    scene.metrics(policy, &key).await
}

/// One of them; 0 when it does not exist.
pub async fn metric(scene: &Scene, name: &str, metric: &str) -> u64 {
    let (policy, key) = policy_and_key(name);
    scene.metric_of(policy, &key, metric).await
}

/// The same as it is now, whatever the workers have still to tell.
pub async fn metric_now(scene: &Scene, name: &str, metric: &str) -> u64 {
    let (policy, key) = policy_and_key(name);
    scene.metric_now(policy, &key, metric).await
}

/// Waits until that metric has this value.
pub async fn becomes(scene: &Scene, name: &str, which: &str, value: u64) {
    eventually(PATIENCE, || async {
        let now = metric_now(scene, name, which).await;
        if now == value { Ok(()) } else { Err(format!("{name}: {which} is {now}, not {value}")) }
    })
    .await
    .unwrap();
}

/// Sends requests for a policy's path, so many at a time, until so many of its hosts are out.
pub async fn until_out(scene: &Scene, clients: &[Client], name: &str, requests: usize, wanted: u64) {
    eventually(PATIENCE, || async {
        drive_all(clients, 4, requests, name).await;
        let out = metric_now(scene, name, "hosts_ejected").await;
        if out == wanted { Ok(()) } else { Err(format!("{name}: {out} are out, not {wanted}")) }
    })
    .await
    .unwrap();
}

pub fn counts(hosts: &[Backend]) -> Vec<u64> {
    hosts.iter().map(Backend::requests).collect()
}

/// What the hosts have seen of this path.
pub fn counts_to(hosts: &[Backend], path: &str) -> Vec<u64> {
    hosts.iter().map(|host| host.requests_to(path)).collect()
}

/// Each number is within five standard deviations of what chance alone would give it, were all hosts equal.
pub fn is_fair(counts: &[u64]) -> bool {
    let (total, hosts) = (counts.iter().sum::<u64>() as f64, counts.len() as f64);
    let deviation = (total / hosts * (1.0 - 1.0 / hosts)).sqrt();
    counts.iter().all(|count| (*count as f64 - total / hosts).abs() <= 5.0 * deviation + 1.0)
}

/// What the log tells of the hosts of a policy's key for the cluster of its name, from the host's address on, in order.
pub fn told(scene: &Scene, name: &str) -> Vec<String> {
    let name = name.trim_start_matches('/');
    let start = format!(" {name}/cluster={name}: host ");
    let told = |line: &str| line.find(&start).map(|at| line[at + start.len()..].to_owned());
    scene.log().lines().filter_map(told).collect()
}

/// Like [`told`], of this host only, without its address.
pub fn told_of(scene: &Scene, name: &str, host: &Backend) -> Vec<String> {
    let start = format!("{} ", host.addr());
    told(scene, name).into_iter().filter_map(|line| line.strip_prefix(&start).map(str::to_owned)).collect()
}

/// The hosts that have been ejected and are not back, by the log.
pub fn out(scene: &Scene, name: &str) -> BTreeSet<SocketAddr> {
    let mut out = BTreeSet::new();
    for line in told(scene, name) {
        let (host, what) = line.split_once(' ').unwrap();
        let host = host.parse().unwrap();
        if what.starts_with("ejected for ") || what.starts_with("ejected until ") {
            assert!(out.insert(host), "{host} is ejected and out already: {line}");
        } else if what.starts_with("is back after ") {
            assert!(out.remove(&host), "{host} is back and was not out: {line}");
        }
    }
    out
}

pub fn addrs<'a>(hosts: impl IntoIterator<Item = &'a Backend>) -> BTreeSet<SocketAddr> {
    hosts.into_iter().map(Backend::addr).collect()
}

/// Waits until exactly these hosts are out, by the metrics and by the log.
pub async fn are_out(scene: &Scene, name: &str, hosts: &[&Backend]) {
    becomes(scene, name, "hosts_ejected", hosts.len() as u64).await;
    let wanted = addrs(hosts.iter().copied());
    let hint = || format!("{name}: {:?}", told(scene, name));
    eventually(PATIENCE, || async { if out(scene, name) == wanted { Ok(()) } else { Err(hint()) } }).await.unwrap();
}

/// What the access log has for this path, once there are so many entries.
pub async fn logged(scene: &Scene, path: &str, count: usize) -> Vec<AccessLogEntry> {
    eventually(PATIENCE, || async {
        let all = scene.access_log();
        let mine: Vec<_> = all.into_iter().filter(|entry| entry.path == path).collect();
        if mine.len() >= count { Ok(mine) } else { Err(format!("{} of {count} entries", mine.len())) }
    })
    .await
    .unwrap()
}

/// Nothing that the seats and the router tell each other has come to these hosts.
pub fn are_told_nothing(hosts: &[Backend]) {
    for seen in hosts.iter().flat_map(Backend::seen) {
        let ours = seen.headers.keys().find(|name| name.as_str().starts_with("x-holdfast"));
        assert_eq!(ours, None, "a host sees it in {} {}: {:?}", seen.method, seen.path, seen.headers);
    }
}

pub fn all_served(records: &Records) {
    assert_eq!(records.count(200), records.0.len(), "{:?} {:?}", records.statuses(), records.errors().next());
}
