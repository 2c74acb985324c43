//! What the rest get while hosts are out: what Envoy's own outlier detection would give them. Each story has two clusters of the same
//! hosts in one Envoy, one of them steered and the other one with that detection, and both get the same requests.

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Route, Scene, Seats, drive_all, eventually,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{
    ADMIN, NOTICED, SETTLED, are_out, are_told_nothing, becomes, counts, listed, metric, ms, route, until_out,
};

/// Where a host stands: its priority, its weight, and what the endpoint discovery says of its health.
type Standing = (u32, u32, &'static str);

/// A host as any other.
const PLAIN: Standing = (0, 1, "HEALTHY");

const fn of_priority(priority: u32) -> Standing {
    (priority, 1, "HEALTHY")
}

/// Where the policy knows its hosts from.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    /// Its traffic.
    Traffic,
    /// Envoy's listing.
    Listing,
    /// Envoy's dump of endpoints.
    Dump,
    /// Itself.
    Policy,
}

/// Hosts of which some go bad.
struct Case {
    /// Its path, its policy and its cluster. Envoy's own cluster is called the same with `-own`.
    name: &'static str,
    hosts: Vec<Backend>,
    standings: Vec<Standing>,
    bad: Vec<usize>,
    /// The weights of its localities, and which of them each host is in.
    localities: Option<(&'static [u32], &'static [usize])>,
    known: Known,
    /// Of the policy, if it has one.
    balance: Option<&'static str>,
}

impl Case {
    async fn new(name: &'static str, standings: &[Standing], bad: &[usize]) -> Self {
        let mut hosts = Vec::new();
        for _ in standings {
            hosts.push(Backend::start().await.unwrap());
        }
        let (standings, bad) = (standings.to_vec(), bad.to_vec());
        Self { name, hosts, standings, bad, localities: None, known: Known::Listing, balance: None }
    }

    /// Its hosts are in localities with these weights, each in the one of this number.
    fn in_localities(mut self, weights: &'static [u32], of: &'static [usize]) -> Self {
        self.localities = Some((weights, of));
        self.known = Known::Dump;
        self
    }

    /// The name of the locality of a host.
    fn locality(&self, host: usize) -> Option<String> {
        self.localities.map(|(_, of)| format!("zone-{}", of[host]))
    }

    /// Its policy has this balance.
    fn balanced(mut self, balance: &'static str) -> Self {
        self.balance = Some(balance);
        self
    }

    fn own(&self) -> String {
        format!("{}-own", self.name)
    }

    fn bad(&self) -> Vec<&Backend> {
        self.bad.iter().map(|number| &self.hosts[*number]).collect()
    }

    /// How many hosts Envoy would use.
    fn usable(&self) -> u64 {
        self.standings.iter().filter(|(.., health)| !matches!(*health, "UNHEALTHY" | "DRAINING")).count() as u64
    }

    fn endpoints(&self, cluster: &str) -> Value {
        let priorities = self.standings.iter().map(|(priority, ..)| priority + 1).max().unwrap();
        let localities = self.localities.map_or(1, |(weights, _)| weights.len());
        let of = |(wanted, locality): (u32, usize)| {
            let is_there = |at: usize| self.localities.is_none_or(|(_, of)| of[at] == locality);
            let all = self.hosts.iter().zip(&self.standings).enumerate();
            let all = all.filter(|(at, (_, (priority, ..)))| *priority == wanted && is_there(*at));
            let one = all.map(|(_, (host, (_, weight, health)))| {
                let addr = host.addr();
                let address = json!({"address": addr.ip().to_string(), "port_value": addr.port()});
                json!({
                    "endpoint": {"address": {"socket_address": address}},
                    "load_balancing_weight": weight,
                    "health_status": health,
                })
            });
            let mut endpoints = json!({"priority": wanted, "lb_endpoints": one.collect::<Vec<_>>()});
            if let Some((weights, _)) = self.localities {
                endpoints["load_balancing_weight"] = json!(weights[locality]);
                endpoints["locality"] = json!({"region": "r", "zone": format!("zone-{locality}")});
            }
            endpoints
        };
        let places = (0..priorities).flat_map(|priority| (0..localities).map(move |locality| (priority, locality)));
        let endpoints: Vec<Value> = places.map(of).collect();
        json!({"load_assignment": {"cluster_name": cluster, "endpoints": endpoints}})
    }

    fn clusters(&self) -> [Cluster; 2] {
        let (name, own) = (self.name.trim_start_matches('/'), self.own());
        let own = own.trim_start_matches('/');
        let detection = json!({
            "consecutive_5xx": 5, "enforcing_success_rate": 0, "base_ejection_time": "3600s", "max_ejection_time": "3600s", "max_ejection_percent": 100,
        });
        let own = Cluster::new(own)
            .without_attempt_seat()
            .raw(self.endpoints(own))
            .raw(json!({"outlier_detection": detection}));
        let steered = Cluster::new(name).steered().raw(self.endpoints(name));
        match self.localities {
            None => [steered, own.raw(json!({"lb_policy": "ROUND_ROBIN"}))],
            Some(_) => {
                let by_locality = json!({
                    "name": "envoy.load_balancing_policies.round_robin",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
                        "locality_lb_config": {"locality_weighted_lb_config": {}},
                    },
                });
                let by_locality = json!({"policies": [{"typed_extension_config": by_locality}]});
                let own = own.raw(json!({"load_balancing_policy": by_locality}));
                [steered.falling_back_to(by_locality), own]
            }
        }
    }

    fn policy(&self) -> Value {
        let outlier = json!({
            "consecutive_failures": 5, "base_ejection_time": "1h", "max_ejection_time": "1h", "max_ejected": 100, "interval": "300s",
        });
        let mut outlier = match self.known {
            Known::Listing => listed(outlier),
            _ => outlier,
        };
        if self.known == Known::Dump {
            let path = "/config_dump?include_eds&resource=static_endpoint_configs";
            outlier["discover"] = json!({"cluster": ADMIN, "path": path, "interval": "1s"});
        }
        if self.known == Known::Policy {
            let all = self.hosts.iter().zip(&self.standings).enumerate();
            let named = all.map(|(at, (host, (priority, weight, _)))| {
                let mut named = json!({"address": host.addr().to_string(), "priority": priority, "weight": weight});
                if let Some(locality) = self.locality(at) {
                    named["locality"] = json!(locality);
                }
                named
            });
            outlier["hosts"] = named.collect();
        }
        if let Some(balance) = self.balance {
            outlier["balance"] = json!(balance);
        }
        json!({"name": self.name.trim_start_matches('/'), "match": {"path": [self.name]}, "outlier": outlier})
    }

    /// The hosts that go bad are out of both clusters.
    async fn go_bad(&self, scene: &Scene, clients: &[Client]) {
        self.bad().iter().for_each(|host| host.always(Action::status(500)));
        for path in [self.name.to_owned(), self.own()] {
            let cluster = &path[1..];
            let out = format!("cluster.{cluster}.outlier_detection.ejections_active");
            eventually(PATIENCE, || async {
                drive_all(clients, 8, 200, path.as_str()).await;
                let out = match path == self.name {
                    true => metric(scene, self.name, "hosts_ejected").await,
                    false => scene.stats().await.unwrap().get(&out).copied().unwrap_or_default(),
                };
                if out == self.bad.len() as u64 { Ok(()) } else { Err(format!("{path}: {out} are out")) }
            })
            .await
            .unwrap();
        }
        are_out(scene, self.name, &self.bad()).await;
        // Envoy's own workers hear of it a moment later.
        sleep(SETTLED).await;
    }

    /// The requests that each host gets, and how many of them failed.
    async fn spread(&self, clients: &[Client], path: &str, requests: usize) -> (Vec<u64>, usize) {
        self.hosts.iter().for_each(Backend::reset_counters);
        let records = drive_all(clients, 8, requests, path).await;
        (counts(&self.hosts), requests - records.count(200))
    }

    /// The share of each host in percent, and how many of the requests failed.
    async fn shares(&self, clients: &[Client], path: &str, requests: usize) -> (Vec<f64>, usize) {
        let (counts, lost) = self.spread(clients, path, requests).await;
        (in_percent(&counts), lost)
    }

    /// Requests that Holdfast steers are spread as Envoy spreads them itself. Both draw lots: of 4,000 requests two shares of a third
    /// differ by 3 points once in 200 times. So what differs is asked for 12,000 more, of which that is hardly ever so.
    async fn is_as_envoys_own(&self, clients: &[Client]) {
        let (mut own, mut steered) = (vec![0; self.hosts.len()], vec![0; self.hosts.len()]);
        for requests in [4000, 12_000] {
            for (path, all) in [(self.own(), &mut own), (self.name.to_owned(), &mut steered)] {
                let (more, lost) = self.spread(clients, &path, requests).await;
                assert_eq!(lost, 0, "{path}: who is left serves them all");
                all.iter_mut().zip(more).for_each(|(all, more)| *all += more);
            }
            println!("{}: {:.1?} beside Envoy's own {:.1?}", self.name, in_percent(&steered), in_percent(&own));
            if differ(&steered, &own).is_none() {
                break;
            }
        }
        if let Some((host, steered, own)) = differ(&steered, &own) {
            panic!("{}, host {host}: {steered:.1} % beside Envoy's {own:.1} %", self.name);
        }
        are_told_nothing(&self.hosts);
    }
}

/// What part of all each is, in percent.
fn in_percent(counts: &[u64]) -> Vec<f64> {
    let all = counts.iter().sum::<u64>() as f64;
    counts.iter().map(|count| 100.0 * *count as f64 / all).collect()
}

/// The first host whose shares are more than 3 points apart.
fn differ(one: &[u64], other: &[u64]) -> Option<(usize, f64, f64)> {
    let shares = in_percent(one).into_iter().zip(in_percent(other)).enumerate();
    shares.map(|(host, (one, other))| (host, one, other)).find(|(_, one, other)| (one - other).abs() > 3.0)
}

/// An Envoy with these clusters. All hosts are known that a listing names.
async fn stage(cases: &[&Case]) -> (Scene, Vec<Client>) {
    let mut options = EnvoyOptions::new().concurrency(4).seats(Seats::Both).cluster(Cluster::admin(ADMIN));
    options = options.route(Scene::aside());
    for case in cases {
        for cluster in case.clusters() {
            options = options.cluster(cluster);
        }
        options = options.route(route(&case.own())).route(route(case.name));
    }
    let policies: Vec<Value> = cases.iter().map(|case| case.policy()).collect();
    let scene = Scene::with(options.policy(json!({"policies": policies}))).await;
    let clients = scene.workers(4).await;
    for _ in 0..2 {
        for case in cases {
            drive_all(&clients, 8, 80, case.name).await;
        }
        sleep(NOTICED).await;
    }
    for case in cases.iter().filter(|case| case.known != Known::Traffic) {
        becomes(&scene, case.name, "hosts", case.usable()).await;
    }
    (scene, clients)
}

/// After their hosts have gone bad.
async fn are_as_envoys_own(cases: &[&Case]) {
    let (scene, clients) = stage(cases).await;
    for case in cases {
        case.go_bad(&scene, &clients).await;
    }
    for case in cases {
        case.is_as_envoys_own(&clients).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_weights_and_health_decide_who_serves_while_hosts_are_out() {
    let [first, second] = [of_priority(0), of_priority(1)];
    let one_of_three = Case::new("/one-of-three", &[first, first, first, second, second, second], &[0]).await;
    let all_of_three = Case::new("/all-of-three", &[first, first, first, second, second, second], &[0, 1, 2]).await;
    let third = of_priority(2);
    let over_three =
        Case::new("/over-three", &[first, first, first, first, second, second, third, third], &[0, 1, 2, 4]).await;
    let heavy = (0, 99, "HEALTHY");
    let weights = Case::new("/weights", &[(0, 1, "HEALTHY"), heavy, heavy, heavy, heavy], &[4]).await;
    let health =
        Case::new("/health", &[PLAIN, PLAIN, PLAIN, PLAIN, (0, 1, "DRAINING"), (0, 1, "UNHEALTHY")], &[0]).await;
    let spare = (1, 1, "HEALTHY");
    let unhealthy = (0, 1, "UNHEALTHY");
    let health_of_first = Case::new("/health-of-first", &[PLAIN, PLAIN, PLAIN, unhealthy, spare, spare], &[0]).await;
    let draining = (0, 1, "DRAINING");
    let draining = Case::new("/draining-of-first", &[PLAIN, PLAIN, PLAIN, draining, spare, spare], &[0]).await;
    let degraded = (0, 1, "DEGRADED");
    let degraded = Case::new("/degraded", &[PLAIN, PLAIN, PLAIN, PLAIN, degraded, degraded], &[0]).await;

    let cases = [&one_of_three, &all_of_three, &over_three, &weights, &health, &health_of_first, &draining, &degraded];
    are_as_envoys_own(&cases).await;
}

/// Localities with weights, which only the dump of endpoints or the policy itself says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn localities_keep_their_weights_while_hosts_are_out() {
    let weighed =
        async |name, bad: &[usize]| Case::new(name, &[PLAIN; 6], bad).await.in_localities(&[3, 1], &[0, 0, 0, 0, 1, 1]);
    // Three of four bear all of it; one of two bears 70 % of it.
    let few = weighed("/few-of-the-first", &[0]).await;
    let half = weighed("/half-of-the-second", &[5]).await;
    let most = weighed("/most-of-the-first", &[0, 1, 2]).await;
    let all = weighed("/all-of-the-second", &[4, 5]).await;
    // What is left of the first priority bears 93 %.
    let spare = of_priority(1);
    let spread = [PLAIN, PLAIN, PLAIN, spare, spare, spare];
    let spread = Case::new("/over-priorities", &spread, &[0]).await.in_localities(&[5, 2], &[0, 1, 1, 0, 0, 1]);
    let of_weight = |weight| (0, weight, "HEALTHY");
    let hosts = [of_weight(1), of_weight(5), of_weight(2), of_weight(2)];
    let weights = Case::new("/weights-within", &hosts, &[2]).await.in_localities(&[1, 4], &[0, 0, 1, 1]);
    let hosts = [PLAIN, PLAIN, (0, 1, "UNHEALTHY"), PLAIN, PLAIN, PLAIN];
    let health = Case::new("/health-of-localities", &hosts, &[0]).await.in_localities(&[1, 1], &[0, 0, 0, 1, 1, 1]);
    // Each locality weighs as much as its hosts.
    let mut named = Case::new("/named", &[PLAIN; 6], &[0, 1]).await.in_localities(&[4, 2], &[0, 0, 0, 0, 1, 1]);
    named.known = Known::Policy;

    let cases = [&few, &half, &most, &all, &spread, &weights, &health, &named];
    are_as_envoys_own(&cases).await;
}

/// Those that choose a host for every request keep to priorities and health, and to weights but for those that say otherwise, before
/// anybody is out and after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_balance_keeps_priorities_weights_and_health() {
    let weight = |weight| (0, weight, "HEALTHY");
    let standings =
        [weight(1), weight(2), weight(4), weight(1), (0, 9, "UNHEALTHY"), (1, 1, "HEALTHY"), (1, 3, "HEALTHY")];
    // One of the first priority is not to be used: four fifths of it bear all. Without the first one, 84 %, and less than
    // that is not left to weights.
    let by_weight = ([12.5, 25.0, 50.0, 12.5, 0.0, 0.0, 0.0], [0.0, 24.0, 48.0, 12.0, 0.0, 4.0, 12.0]);
    let alike = ([25.0, 25.0, 25.0, 25.0, 0.0, 0.0, 0.0], [0.0, 28.0, 28.0, 28.0, 0.0, 8.0, 8.0]);
    let rows = [
        ("/weighted", "weighted", by_weight),
        ("/round-robin", "round_robin", alike),
        ("/random", "random", alike),
        ("/least-request", "least_request", by_weight),
    ];
    let mut cases = Vec::new();
    for (name, balance, shares) in rows {
        cases.push((Case::new(name, &standings, &[0]).await.balanced(balance), shares));
    }
    let (scene, clients) = stage(&cases.iter().map(|(case, _)| case).collect::<Vec<_>>()).await;
    let mut seen = Vec::new();
    for is_after in [false, true] {
        for (case, (before, after)) in &cases {
            if is_after {
                case.go_bad(&scene, &clients).await;
            }
            let (shares, lost) = case.shares(&clients, case.name, 4000).await;
            println!("{}, one out: {is_after}: {shares:.1?}", case.name);
            seen.push((case, shares, if is_after { after } else { before }, lost));
            are_told_nothing(&case.hosts);
        }
    }
    for (case, shares, expected, lost) in seen {
        assert_eq!(lost, 0, "{}", case.name);
        let are_near = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() <= 3.0);
        assert!(are_near, "{}: {shares:.1?}, not {expected:?}", case.name);
    }
}

/// Of a cluster whose hosts are learned from its traffic those of other priorities are not known until they serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_listing_the_clusters_own_failover_has_the_choice() {
    let [first, second] = [of_priority(0), of_priority(1)];
    let standings = [first, first, first, second, second, second];
    let mut learned = Case::new("/learned", &standings, &[0, 1, 2]).await;
    learned.known = Known::Traffic;
    let retry_policy = json!({
        "retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"},
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        },
    });
    let mut policy = learned.policy();
    policy["retry"] = json!({
        "max_retries": 2, "on": ["5xx"], "backoff": {"base": "1ms", "jitter": "none"},
        "budget": {"ratio": 100, "min_per_second": 1000},
    });
    let options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).route(Scene::aside());
    let options = options.cluster(Cluster::new("learned").steered().raw(learned.endpoints("learned")));
    let options = options.route(Route::to("/learned", "learned").raw(json!({"route": {"retry_policy": retry_policy}})));
    let scene = Scene::with(options.policy(json!({"policies": [policy]}))).await;
    let clients = scene.workers(2).await;
    for _ in 0..2 {
        assert_eq!(drive_all(&clients, 4, 60, "/learned").await.count(200), 60);
        sleep(NOTICED).await;
    }
    becomes(&scene, "/learned", "hosts", 3).await;

    learned.bad().iter().for_each(|host| host.always(Action::status(500)));
    let records = drive_all(&clients, 4, 300, "/learned").await;
    assert_eq!(records.count(200), 300, "the retry goes to the next priority: {:?}", records.statuses());
    are_out(&scene, "/learned", &learned.bad()).await;
    becomes(&scene, "/learned", "hosts", 6).await;
    sleep(ms(100)).await;
    let (shares, lost) = learned.shares(&clients, "/learned", 300).await;
    assert_eq!(lost, 0);
    let bad: f64 = shares[..3].iter().sum();
    assert!(bad <= 3.0, "those that are out get nothing but what looks for new ones: {shares:.1?}");
}

/// Another one has come under its address, between two readings: Envoy has counted nothing of it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_leaves_and_returns_between_two_listings_is_a_new_one() {
    let mut hosts = Vec::new();
    for _ in 0..3 {
        hosts.push(Backend::start().await.unwrap());
    }
    let addrs: Vec<_> = hosts.iter().map(Backend::addr).collect();
    let mut outlier = listed(
        json!({"consecutive_failures": 3, "base_ejection_time": "1h", "max_ejection_time": "1h", "interval": "300s"}),
    );
    outlier["discover"]["interval"] = json!("4s");
    let orders = addrs.iter().fold(Cluster::new("orders"), |cluster, addr| cluster.endpoint(*addr));
    let options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).cluster(Cluster::admin(ADMIN));
    let options = options.cluster(orders.steered().dynamic_endpoints());
    let options = options.route(Scene::aside()).route(Route::to("/orders", "orders"));
    let policy = json!({"policies": [{"name": "orders", "match": {"cluster": ["orders"]}, "outlier": outlier}]});
    let scene = Scene::with(options.policy(policy)).await;
    let clients = scene.workers(2).await;
    drive_all(&clients, 4, 60, "/orders").await;
    becomes(&scene, "/orders", "hosts", 3).await;

    // Those that only Holdfast makes.
    let readings = async || {
        let name = format!("cluster.{ADMIN}.upstream_rq_total");
        scene.stats().await.unwrap().get(&name).copied().unwrap_or_default()
    };
    let next_reading = async || {
        let before = readings().await;
        eventually(PATIENCE, || async { readings().await > before }).await.unwrap();
        sleep(SETTLED).await;
        readings().await
    };
    let goes_out = async || {
        hosts[0].always(Action::status(500));
        until_out(&scene, &clients, "/orders", 20, 1).await;
        hosts[0].always(Action::ok());
        next_reading().await
    };
    goes_out().await;
    // Nobody but it is a new one.
    drive_all(&clients, 4, 60, "/orders").await;
    next_reading().await;
    becomes(&scene, "/orders", "hosts_ejected", 1).await;

    let mut between = false;
    for _ in 0..10 {
        let before = goes_out().await;
        scene.set_endpoints("orders", &addrs[1..]).await.unwrap();
        scene.set_endpoints("orders", &addrs).await.unwrap();
        between = readings().await == before;
        if between {
            break;
        }
    }
    assert!(between, "the endpoints change and change back between two readings");
    becomes(&scene, "/orders", "hosts_ejected", 0).await;
    hosts.iter().for_each(Backend::reset_counters);
    assert_eq!(drive_all(&clients, 4, 60, "/orders").await.count(200), 60);
    assert!(counts(&hosts).iter().all(|count| *count >= 10), "all serve: {:?}", counts(&hosts));
}

/// However many tries a request has, and whoever decides on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_try_goes_to_a_host_that_is_out() {
    let previous_hosts = json!({"retry_policy": {
        "retry_on": "5xx", "num_retries": 5, "retry_back_off": {"base_interval": "0.001s"},
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
    }});
    let mut plain = previous_hosts.clone();
    plain["retry_policy"].as_object_mut().unwrap().remove("retry_host_predicate");
    let retry = |max_retries: u32| {
        json!({
            "max_retries": max_retries, "on": ["5xx"], "backoff": {"base": "1ms", "jitter": "none"},
            "budget": {"ratio": 100, "min_per_second": 1000},
        })
    };
    let mut hedged = retry(5);
    hedged["on"] = json!(["5xx", "reset"]);
    hedged["per_try_timeout"] = json!("50ms");
    hedged["hedge_on_per_try_timeout"] = json!(true);
    // One that is in beside one that is out, or beside four.
    let rows = [
        ("/two", 2, retry(1), json!({})),
        ("/five-tries", 2, retry(5), json!({})),
        ("/one-of-five", 5, retry(5), json!({})),
        ("/predicate", 2, retry(5), previous_hosts.clone()),
        ("/routes", 2, Value::Null, plain),
        ("/routes-predicate", 2, Value::Null, previous_hosts),
        ("/hedged", 2, hedged, json!({})),
    ];
    let mut options = EnvoyOptions::new().concurrency(2).seats(Seats::Both).cluster(Cluster::admin(ADMIN));
    options = options.route(Scene::aside());
    let (mut policies, mut all) = (Vec::new(), Vec::new());
    for (name, count, retry, action) in rows {
        let standings = vec![PLAIN; count];
        let bad: Vec<usize> = (1..count).collect();
        let case = Case::new(name, &standings, &bad).await;
        let cluster = Cluster::new(&name[1..]).steered().raw(case.endpoints(&name[1..]));
        options = options.cluster(cluster).route(route(name).raw(json!({"route": action})));
        let mut policy = case.policy();
        // The one that is left fails a few times in a row, and stays.
        policy["outlier"]["consecutive_failures"] = json!(20);
        policy["outlier"]["panic_threshold"] = json!(0);
        if !retry.is_null() {
            policy["retry"] = retry;
        }
        policies.push(policy);
        all.push(case);
    }
    let scene = Scene::with(options.policy(json!({"policies": policies}))).await;
    let clients = scene.workers(2).await;
    for _ in 0..2 {
        for case in &all {
            drive_all(&clients, 4, 40, case.name).await;
        }
        sleep(NOTICED).await;
    }
    for case in &all {
        becomes(&scene, case.name, "hosts", case.usable()).await;
        case.bad().iter().for_each(|host| host.always(Action::status(500)));
        until_out(&scene, &clients, case.name, 40, case.bad.len() as u64).await;
    }
    sleep(SETTLED).await;
    for case in &all {
        case.hosts.iter().for_each(Backend::reset_counters);
        let good = &case.hosts[0];
        for round in 0..5 {
            match case.name {
                "/hedged" => good.always(Action::ok().after(ms(120))),
                _ => good.always(Action::status(500)),
            }
            let is_last = round == 4;
            let response = clients[round % 2].get(case.name).await.unwrap();
            assert!(response.status == 500 || case.name == "/hedged", "{}: {}", case.name, response.status);
            good.always(Action::ok());
            if !is_last {
                drive_all(&clients, 2, 10, case.name).await;
            }
        }
        let to_bad: u64 = case.bad().iter().map(|host| host.requests()).sum();
        assert_eq!(to_bad, 0, "{}: tries at hosts that are out", case.name);
        assert!(good.requests() >= 5 + 40, "{}: {} requests, with their retries", case.name, good.requests());
    }
}
