//! The retry budget over all workers, hedging, and proxies behind each other: an outage is not made worse by retries. All
//! attempts are counted at the hosts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, Listener, PATIENCE, Records, Route, Scene, Seats, Template,
    attempts, eventually,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::retrying::{ID, exactly, orders, quick_backoff, request, seats_meet};

fn total(hosts: &[&Backend]) -> u64 {
    hosts.iter().map(|host| host.requests()).sum()
}

/// How many attempts each request took, by its id.
fn tries_by_id(hosts: &[&Backend]) -> BTreeMap<String, u64> {
    let mut tries = BTreeMap::new();
    for seen in hosts.iter().flat_map(|host| host.seen()) {
        *tries.entry(seen.header(ID).expect("each request bears its id")).or_default() += 1;
    }
    tries
}

/// The metrics of the policy `orders` for one cluster.
async fn counted(scene: &Scene, cluster: &str) -> BTreeMap<String, u64> {
    scene.metrics("orders", &format!("cluster={cluster}")).await
}

/// Clients of every worker, and as many more over HTTP/1.1 on whichever.
async fn clients(scene: &Scene, workers: usize) -> Vec<Client> {
    let mut clients = scene.workers(workers).await;
    clients.extend((0..workers).map(|_| Client::http1(scene.addr())));
    clients
}

/// Sends `total` requests from all these clients at the same time, each bearing an id.
async fn storm(clients: &[Client], path: &'static str, senders: usize, total: usize) -> Records {
    let mut running = JoinSet::new();
    for (number, client) in clients.iter().cloned().enumerate() {
        let share = total / clients.len();
        let template = Template::new(move |index| request(path, &format!("{path}-{number}-{index}")));
        running.spawn(async move { client.drive(senders, share, template).await });
    }
    let records = Records(running.join_all().await.into_iter().flat_map(|records| records.0).collect());
    assert_eq!((records.0.len(), records.errors().count()), (total, 0), "each request is answered whole");
    records
}

/// A cluster of two hosts that all fail in one way.
struct Outage {
    name: &'static str,
    path: &'static str,
    action: Action,
    /// What clients get.
    status: u16,
    hosts: [Backend; 2],
}

impl Outage {
    async fn new(name: &'static str, path: &'static str, action: Action, status: u16) -> Self {
        let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap()];
        Self { name, path, action, status, hosts }
    }

    fn hosts(&self) -> Vec<&Backend> {
        self.hosts.iter().collect()
    }

    fn cluster(&self, http2: bool) -> Cluster {
        let cluster = self.hosts.iter().fold(Cluster::new(self.name), |cluster, host| cluster.endpoint(host.addr()));
        if http2 { cluster.http2() } else { cluster }
    }

    /// Only hosts that hang are given a time: on a loaded machine the others could exceed it too.
    fn hangs(&self) -> bool {
        self.status == 504
    }

    /// A fifth of the requests, and ten. The window is longer than the outage on any machine.
    fn policy(&self) -> Value {
        let mut retry = json!({
            "max_retries": 3, "backoff": quick_backoff(),
            "budget": {"ratio": 20, "min_per_second": 0.2, "window": "50s"},
        });
        if self.hangs() {
            retry["per_try_timeout"] = json!("150ms");
        }
        json!({"name": self.name, "match": {"cluster": [self.name]}, "retry": retry})
    }

    /// As many retries by Envoy alone.
    fn plain_retries(&self) -> Value {
        let mut retries = json!({
            "retry_on": "5xx", "num_retries": 3,
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.004s"},
        });
        if self.hangs() {
            retries["per_try_timeout"] = json!("0.15s");
        }
        retries
    }

    fn fail(&self) {
        for host in &self.hosts {
            host.reset_counters();
            host.always(self.action.clone());
        }
    }
}

const REQUESTS: u64 = 400;

/// Everything fails, whatever is asked.
async fn total_outage(workers: usize, http2: bool) {
    let reset = if http2 { Action::reset_stream() } else { Action::reset() };
    let outages = [
        Outage::new("failing", "/failing", Action::status(503), 503).await,
        Outage::new("resetting", "/resetting", reset, 503).await,
        Outage::new("hanging", "/hanging", Action::hang(), 504).await,
    ];
    let mut options = EnvoyOptions::new().concurrency(workers as u32).seats(Seats::Both).route(Scene::aside());
    let mut plain = Listener::new("plain");
    for outage in &outages {
        let route = Route::to(outage.path, outage.name);
        options = options.cluster(outage.cluster(http2)).route(route.clone());
        plain = plain.route(route.retry_policy(outage.plain_retries()));
    }
    let policies: Vec<Value> = outages.iter().map(Outage::policy).collect();
    let scene = Scene::with(options.policy(json!({"policies": policies})).listener(plain)).await;
    let clients = clients(&scene, workers).await;
    let bare: Vec<Client> = (0..4).map(|_| Client::http1(scene.listener("plain"))).collect();

    for outage in &outages {
        let (name, hosts) = (outage.name, outage.hosts());
        let started = Instant::now();
        let before = seats_meet(&clients, outage.path).await;
        outage.fail();
        let records = storm(&clients, outage.path, 8, REQUESTS as usize).await;
        let (took, tries) = (started.elapsed(), total(&hosts));
        let metrics = scene.metrics(name, &format!("cluster={name}")).await;

        // The few requests by which the seats met are a part of the window too.
        let allowed = (REQUESTS + before) / 5 + 10;
        println!("{workers} workers, {name}: {tries} tries, allowed {}, in {took:?}", REQUESTS + allowed);
        assert!(took < Duration::from_secs(45), "the budget's window is longer than the outage, not {took:?}");
        // A busy Envoy's timers fire early now and then: the attempt then looks as if the host had cut it off.
        let statuses = records.statuses();
        let early = if outage.hangs() { records.count(503) } else { 0 };
        assert_eq!(records.count(outage.status) + early, REQUESTS as usize, "{name}: {statuses:?}");
        assert!(early <= REQUESTS as usize / 20, "{name}: {statuses:?}");
        assert!(tries * 100 <= (REQUESTS + allowed) * 103, "{name}: {tries} tries of {} allowed", REQUESTS + allowed);
        let retries = tries - REQUESTS;
        assert!(retries * 100 >= allowed * 60, "{name}: {retries} of {allowed} allowed retries were used");
        // An attempt that is given up on a busy machine may have ended before its host has read it.
        let unread = if outage.hangs() { REQUESTS / 25 } else { 0 };
        let agree = |one: u64, other: u64| one.abs_diff(other) <= unread;
        assert!(agree(metrics["retries"], retries), "{name}: each further try is counted: {retries}, {metrics:?}");
        assert_eq!(metrics["retries_recovered"], 0);
        let by_id = tries_by_id(&hosts);
        assert!(agree(by_id.len() as u64, REQUESTS), "{name}: each request reached a host, not {}", by_id.len());
        assert!(by_id.values().all(|tries| *tries <= 4), "{name}: no request is tried more often than it may");
        let exhausted = by_id.values().filter(|tries| **tries == 4).count() as u64;
        let by_budget = metrics["retries_denied.budget"];
        assert!(
            agree(by_budget, REQUESTS - exhausted),
            "{name}: the budget stopped all others: {exhausted}, {metrics:?}"
        );
        let denied: u64 =
            metrics.iter().filter(|(name, _)| name.starts_with("retries_denied.")).map(|(_, count)| count).sum();
        assert_eq!(denied, by_budget, "{name}: and nothing else stopped any: {metrics:?}");

        outage.fail();
        let retried = format!("cluster.{name}.upstream_rq_retry");
        let before = scene.stat(&retried).await.unwrap();
        storm(&bare, outage.path, 16, REQUESTS as usize).await;
        let plain = total(&hosts);
        println!("{workers} workers, {name}, without Holdfast: {plain} tries");
        let retries = scene.stat(&retried).await.unwrap() - before;
        assert_eq!(retries, 3 * REQUESTS, "{name}: without Holdfast the same Envoy makes four tries of each");
        let unread = if outage.hangs() { REQUESTS / 2 } else { 0 };
        assert!(plain <= 4 * REQUESTS && plain + unread >= 4 * REQUESTS, "{name}: the hosts see them: {plain}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_total_outage_gets_no_more_attempts_than_the_budget_allows_over_two_workers() {
    total_outage(2, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_total_outage_gets_no_more_attempts_than_the_budget_allows_over_four_workers() {
    total_outage(4, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_is_one_over_all_workers_and_each_cluster_has_its_own() {
    let (host, other) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let options = EnvoyOptions::new()
        .concurrency(4)
        .seats(Seats::Both)
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .cluster(Cluster::new("carts").endpoint(other.addr()))
        .route(Scene::aside())
        .route(Route::to("/carts", "carts"))
        .route(Route::to("/", "orders"))
        .policy(orders(json!({"max_retries": 1, "backoff": quick_backoff(), "budget": exactly(10)})));
    let scene = Scene::with(options).await;
    let workers = scene.workers(4).await;
    for path in ["/", "/carts"] {
        seats_meet(&workers, path).await;
    }
    host.reset_counters();
    host.always(Action::status(503));

    for number in 0..6 {
        workers[0].send(request("/", &format!("first-{number}"))).await.unwrap();
    }
    assert_eq!(host.requests(), 12, "one worker takes six of ten tokens");
    for number in 0..6 {
        workers[1].send(request("/", &format!("second-{number}"))).await.unwrap();
    }
    assert_eq!(host.requests(), 12 + 6 + 4, "and leaves four to another");
    for worker in &workers {
        assert_eq!(worker.send(request("/", "late")).await.unwrap().status, 503);
    }
    assert_eq!(host.requests(), 12 + 6 + 4 + 4, "and none to anybody after that");
    assert_eq!(counted(&scene, "orders").await["retries_denied.budget"], 2 + 4);

    other.reset_counters();
    other.always(Action::status(503));
    storm(&workers, "/carts", 4, 200).await;
    assert_eq!(other.requests(), 200 + 10, "the other cluster's ten tokens are all there, and no eleventh in a crowd");
    let counted = counted(&scene, "carts").await;
    assert_eq!((counted["retries"], counted["retries_denied.budget"]), (10, 190));
}

/// Two workers get so many requests at once, all of which fail when the last has long been sent. Gives the requests by which the seats
/// met, and the retries that the host sees.
async fn retries_of_a_crowd(budget: Value, requests: usize, after: Duration) -> (u64, u64) {
    let host = Backend::start().await.unwrap();
    let policy = orders(json!({"max_retries": 1, "backoff": quick_backoff(), "budget": budget}));
    let scene = Scene::with(Scene::of(&host).concurrency(2).seats(Seats::Both).policy(policy)).await;
    let workers = scene.workers(2).await;
    let before = seats_meet(&workers, "/").await;
    host.reset_counters();
    host.always(Action::status(503).after(after));
    let records = storm(&workers, "/", requests / 2, requests).await;
    assert_eq!(records.count(503), requests);
    (before, host.requests() - requests as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_deposit_when_they_are_sent_and_not_when_they_are_over() {
    let half = json!({"ratio": 50, "min_per_second": 0, "window": "50s"});
    let (before, retries) = retries_of_a_crowd(half, 100, Duration::from_secs(2)).await;
    println!("half of 100 and {before}: {retries}");
    assert_eq!(retries, (100 + before) / 2, "half of those under way");

    let (before, retries) = retries_of_a_crowd(json!({}), 400, Duration::from_secs(2)).await;
    println!("a fifth of 400 and {before}, and 100: {retries}");
    assert_eq!(retries, 100 + (400 + before) / 5, "a fifth of them, and the reserve");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reserve_comes_back_when_the_window_has_passed() {
    let host = Backend::start().await.unwrap();
    let budget = json!({"ratio": 0, "min_per_second": 0.6, "window": "5s"});
    let policy = orders(json!({"max_retries": 1, "backoff": quick_backoff(), "budget": budget}));
    let scene = Scene::with(Scene::of(&host).seats(Seats::Both).policy(policy)).await;
    seats_meet(std::slice::from_ref(&scene.client), "/").await;
    host.always(Action::status(503));

    for round in 1..=2 {
        host.reset_counters();
        for _ in 0..6 {
            scene.client.get("/").await.unwrap();
        }
        assert_eq!(host.requests(), 6 + 3, "round {round}: three tokens and no more");
        // What is withdrawn stays for eleven tenths of the window at the most.
        sleep(Duration::from_millis(5700)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_requests_deposit_ages_out_with_the_window() {
    let host = Backend::start().await.unwrap();
    let budget = json!({"ratio": 50, "min_per_second": 0, "window": "6s"});
    let policy = orders(json!({"max_retries": 4, "backoff": quick_backoff(), "budget": budget}));
    let scene = Scene::with(Scene::of(&host).seats(Seats::Both).policy(policy)).await;
    let client = &scene.client;
    host.script(|seen| if seen.path == "/bad" { Action::status(503) } else { Action::ok() });
    seats_meet(std::slice::from_ref(client), "/").await;

    assert_eq!(client.drive(1, 10, "/").await.count(200), 10);
    // What a worker has counted is in the store within 10 ms.
    sleep(Duration::from_millis(50)).await;
    client.get("/bad").await.unwrap();
    assert_eq!(host.requests_to("/bad"), 1 + 4, "ten good requests paid for the retries of one bad one");

    client.drive(1, 10, "/").await;
    sleep(Duration::from_millis(6300)).await;
    client.get("/bad").await.unwrap();
    assert_eq!(host.requests_to("/bad"), 1 + 4 + 1, "and for none when they were long ago");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_budget_ends_no_attempt_that_is_under_way_nor_one_that_waits() {
    let host = Backend::start().await.unwrap();
    let policy = orders(json!({
        "max_retries": 1, "backoff": {"base": "700ms", "max": "700ms", "jitter": "none"}, "budget": exactly(8),
    }));
    let scene = Scene::with(Scene::of(&host).seats(Seats::Both).policy(policy)).await;
    seats_meet(std::slice::from_ref(&scene.client), "/").await;
    let slow = Action::ok().body("slow").after(Duration::from_secs(4));
    let failing_once = Action::in_turn(ID, [Action::status(503), slow.clone()]);
    host.script(move |seen| match seen.path.as_str() {
        "/slow" => slow.clone(),
        "/retried" => failing_once(seen),
        _ => Action::status(503),
    });

    let first: Vec<_> = (0..3).map(|number| scene.client.open(request("/slow", &format!("slow-{number}")))).collect();
    let retried: Vec<_> =
        (0..4).map(|number| scene.client.open(request("/retried", &format!("retried-{number}")))).collect();
    eventually(PATIENCE, || async { host.requests_to("/retried") == 4 && host.requests_to("/slow") == 3 })
        .await
        .unwrap();
    // Each of the four has taken its token by its failure and waits; four are left for the others, who also wait.
    sleep(Duration::from_millis(100)).await;
    let others = scene.client.burst(12, Template::new(|index| request("/", &format!("other-{index}")))).await;
    assert_eq!(others.count(503), 12);
    assert_eq!(host.requests_to("/"), 2 + 12 + 4, "the rest of the budget is spent by others");
    let late = scene.client.send(request("/", "late")).await.unwrap();
    assert_eq!((late.status, host.requests_to("/")), (503, 2 + 12 + 4 + 1), "and now there is none");

    assert!(first.iter().chain(&retried).all(|open| !open.is_finished()), "all of them are still under way");

    for open in first.into_iter().chain(retried) {
        let response = open.finish().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "slow"), "nobody loses what was under way");
    }
    assert_eq!((host.requests_to("/slow"), host.requests_to("/retried")), (3, 8));
    let counted = scene.counted(&["retries", "retries_recovered", "retries_denied.budget"]).await;
    assert_eq!(counted, json!({"retries": 8, "retries_recovered": 4, "retries_denied.budget": 9}));
}

/// Two hosts, and a policy that hedges when an attempt takes longer than 400 ms, as no healthy one does.
struct Hedging {
    hosts: [Backend; 2],
    scene: Scene,
}

impl Hedging {
    async fn start(budget: Value, more: Value) -> Self {
        let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap()];
        let mut policy = orders(json!({
            "max_retries": 1, "per_try_timeout": "400ms", "timeout": "20s", "hedge_on_per_try_timeout": true,
            "backoff": quick_backoff(), "budget": budget,
        }));
        json_patch::merge(&mut policy["policies"][0], &more);
        let options = Scene::of_all(&[&hosts[0], &hosts[1]]).seats(Seats::Both).policy(policy);
        let scene = Scene::with(options).await;
        seats_meet(std::slice::from_ref(&scene.client), "/").await;
        hosts.iter().for_each(Backend::reset_counters);
        Self { hosts, scene }
    }

    /// The attempts of each request are answered in this order, on whichever host they fall.
    fn answer(&self, actions: impl IntoIterator<Item = Action>) {
        let script = Action::in_turn(ID, actions);
        self.hosts.iter().for_each(|host| host.script(script.clone()));
    }

    /// The hosts that saw this request, in order.
    fn seen_by(&self, id: &str) -> Vec<String> {
        let all = self.hosts.iter().flat_map(|host| host.seen().into_iter().map(move |seen| (seen, host.addr())));
        let mut all: Vec<_> = all.filter(|(seen, _)| seen.header(ID).as_deref() == Some(id)).collect();
        all.sort_by_key(|(seen, _)| seen.at);
        all.into_iter().map(|(_, addr)| addr.to_string()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_on_another_host_serves_when_the_first_attempt_is_slow() {
    let breaker = json!({"breaker": {"consecutive_failures": 1, "open_for": "1h"}});
    let hedging = Hedging::start(exactly(50), breaker).await;
    let scene = &hedging.scene;
    hedging.answer([Action::hang(), Action::ok().body("hedge")]);
    let before = scene.metric("requests").await;

    for number in 0..10 {
        let id = format!("hedged-{number}");
        let response = scene.client.send(request("/", &id)).await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "hedge"));
        let seen = hedging.seen_by(&id);
        assert_eq!(seen.len(), 2, "one try and one hedge");
        assert_ne!(seen[0], seen[1], "on different hosts");
        let entry = scene.wait_for_access_log(3 + number).await.unwrap().pop().unwrap();
        let trail = attempts(&entry);
        assert_eq!(trail.len(), 1, "the try that lost is no outcome: {entry:?}");
        assert_eq!((&trail[0].host, trail[0].outcome.as_str()), (&seen[1], "success:200"));
        assert_eq!(entry.attempts, 2, "Envoy counts both");
    }

    let counted = scene.counted(&["success", "failure", "retries", "retries_recovered", "breaker_state"]).await;
    let expected =
        json!({"success": before + 10, "failure": 0, "retries": 10, "retries_recovered": 10, "breaker_state": 0});
    assert_eq!(counted, expected, "each request counts once, its hedge once, and the loser against nothing");
    eventually(PATIENCE, || async { hedging.hosts.iter().all(|host| host.open_streams() == 0) })
        .await
        .expect("the tries that lost are ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_first_attempt_still_serves_beside_its_hedge() {
    let hedging = Hedging::start(exactly(50), json!({})).await;
    let slow = Duration::from_millis(900);
    hedging.answer([Action::ok().body("first").after(slow), Action::hang()]);

    for number in 0..5 {
        let id = format!("slow-{number}");
        let response = hedging.scene.client.send(request("/", &id)).await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "first"));
        assert_eq!(hedging.seen_by(&id).len(), 2, "the hedge was sent");
        let entry = hedging.scene.wait_for_access_log(3 + number).await.unwrap().pop().unwrap();
        let trail = attempts(&entry);
        assert_eq!(trail.len(), 1, "{entry:?}");
        assert_eq!((&trail[0].host, trail[0].outcome.as_str()), (&hedging.seen_by(&id)[0], "success:200"));
    }

    let counted = hedging.scene.counted(&["failure", "retries"]).await;
    assert_eq!(counted, json!({"failure": 0, "retries": 5}), "a hedge is a further try, whoever serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_whose_host_fails_leaves_the_slow_first_attempt_alone() {
    let hedging = Hedging::start(exactly(50), json!({})).await;
    let slow = Duration::from_millis(1100);
    hedging.answer([Action::ok().body("first").after(slow), Action::status(503)]);

    let response = hedging.scene.client.send(request("/", "one")).await.unwrap();

    assert_eq!(hedging.seen_by("one").len(), 2, "the hedge was sent, and there is no third try");
    assert_eq!((response.status, response.text().as_str()), (200, "first"));
    let counted = hedging.scene.counted(&["failure", "retries"]).await;
    assert_eq!(counted, json!({"failure": 0, "retries": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_a_hedge_is_not_sent_and_the_slow_first_attempt_goes_on() {
    let hedging = Hedging::start(exactly(1), json!({})).await;
    let (scene, slow) = (&hedging.scene, Duration::from_millis(900));
    hedging.answer([Action::status(503)]);
    scene.client.send(request("/", "spender")).await.unwrap();
    assert_eq!(hedging.seen_by("spender").len(), 2, "the only token is spent");

    hedging.answer([Action::ok().body("first").after(slow), Action::ok().body("hedge")]);
    for number in 0..3 {
        let id = format!("slow-{number}");
        let response = scene.client.send(request("/", &id)).await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "first"), "the try in flight serves");
        assert_eq!(hedging.seen_by(&id).len(), 1, "no hedge was sent");
    }
    hedging.answer([Action::status(500).body("first").after(slow), Action::ok().body("hedge")]);
    let response = scene.client.send(request("/", "failing")).await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (500, "first"), "its own failure is what the client gets");
    hedging.answer([Action::reset().after(slow), Action::ok().body("hedge")]);
    let response = scene.client.send(request("/", "cut")).await.unwrap();
    assert_eq!(response.status, 503, "and when it is cut off nothing hangs");
    let entry = scene.wait_for_access_log(2 + 1 + 3 + 2).await.unwrap().pop().unwrap();
    let trail = attempts(&entry);
    assert_eq!((trail.len(), trail[0].outcome.as_str()), (1, "failure:reset"), "no time-out ends a try that is hedged");
    assert_eq!((hedging.seen_by("failing").len(), hedging.seen_by("cut").len()), (1, 1));

    let counted = scene.counted(&["retries", "retries_denied.budget", "failure"]).await;
    assert_eq!(counted, json!({"retries": 1, "retries_denied.budget": 5, "failure": 3}));
}

/// Two replies in place of one request would crash Envoy, which the scene would notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_hedges_that_are_held_back_are_answered_once() {
    let hedging = Hedging::start(exactly(1), json!({"retry": {"max_retries": 3}})).await;
    hedging.answer([Action::status(503)]);
    hedging.scene.client.send(request("/", "spender")).await.unwrap();

    hedging.answer([Action::reset().after(Duration::from_millis(1700))]);
    let records =
        hedging.scene.client.drive(8, 16, Template::new(|number| request("/", &format!("cut-{number}")))).await;

    assert_eq!(records.count(503), 16, "{:?}", records.statuses());
    assert!((0..16).all(|number| hedging.seen_by(&format!("cut-{number}")).len() == 1), "no hedge was sent");
    hedging.answer([Action::ok()]);
    assert_eq!(hedging.scene.client.send(request("/", "after")).await.unwrap().status, 200, "and all goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_an_attempt_and_its_hedge_both_hang_the_time_out_ends_both() {
    let hedging = Hedging::start(exactly(50), json!({"retry": {"timeout": "1500ms"}})).await;
    hedging.answer([Action::hang()]);

    let response = hedging.scene.client.send(request("/", "one")).await.unwrap();

    assert_eq!(response.status, 504);
    let seen = hedging.seen_by("one");
    assert_eq!(seen.len(), 2, "one hedge and no more");
    let entry = hedging.scene.wait_for_access_log(3).await.unwrap().pop().unwrap();
    let mut trail: Vec<_> = attempts(&entry).into_iter().map(|one| (one.host, one.outcome)).collect();
    trail.sort();
    let mut expected: Vec<_> = seen.into_iter().map(|host| (host, "failure:timeout".to_owned())).collect();
    expected.sort();
    assert_eq!(trail, expected, "both were too slow");
    let counted = hedging.scene.counted(&["failure", "retries"]).await;
    assert_eq!(counted, json!({"failure": 1, "retries": 1}));
    eventually(PATIENCE, || async { hedging.hosts.iter().all(|host| host.open_streams() == 0) }).await.unwrap();
}

/// An inner and an outer Envoy, both with Holdfast, before a host that always fails.
async fn nested(inner_retry: Value, protocol: fn(SocketAddr) -> Client) -> (Backend, Scene, Scene) {
    let host = Backend::start().await.unwrap();
    let generous = json!({"ratio": 100, "min_per_second": 100});
    let mut retry = json!({"max_retries": 2, "backoff": quick_backoff(), "budget": generous});
    let outer_retry = retry.clone();
    json_patch::merge(&mut retry, &inner_retry);
    let inner = Scene::with(Scene::of(&host).seats(Seats::Both).policy(orders(retry))).await;
    let behind = Cluster::new("orders").endpoint(inner.addr());
    let options = EnvoyOptions::new().cluster(behind).route(Scene::aside()).route(Route::to("/", "orders"));
    let outer = Scene::with(options.seats(Seats::Both).policy(orders(outer_retry))).await;
    let clients = [protocol(inner.addr()), protocol(outer.addr())];
    seats_meet(&clients, "/").await;
    host.reset_counters();
    (host, inner, outer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_of_two_proxies_behind_each_other_do_not_multiply() {
    let (host, inner, outer) = nested(json!({}), Client::http1).await;
    host.always(Action::status(503));

    for number in 1..=5 {
        let id = format!("failing-{number}");
        assert_eq!(outer.client.send(request("/", &id)).await.unwrap().status, 503);
        let tries = host.seen_with(ID, &id);
        assert_eq!(tries.len(), 3 + 1 + 1, "the inner proxy retries only what the outer one sends first");
        let numbers: Vec<_> = tries.iter().map(|seen| seen.header("x-envoy-attempt-count")).collect();
        let number = |number: &str| Some(number.to_owned());
        assert_eq!(numbers, [None, number("2"), number("3"), number("2"), number("3")], "the host is told which it is");
    }

    assert_eq!(outer.counted(&["retries", "failure"]).await, json!({"retries": 10, "failure": 5}));
    let counted = inner.counted(&["retries", "failure", "retries_denied.retry_of_retry"]).await;
    assert_eq!(counted, json!({"retries": 10, "failure": 15, "retries_denied.retry_of_retry": 10}));

    host.script(Action::in_turn(ID, [Action::status(503), Action::ok()]));
    assert_eq!(outer.client.send(request("/", "healing")).await.unwrap().status, 200);
    assert_eq!(host.seen_with(ID, "healing").len(), 2, "what the inner one mends the outer one does not hear of");
    assert_eq!(outer.metric("retries").await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_of_two_proxies_multiply_where_the_inner_one_is_told_to() {
    let (host, inner, outer) = nested(json!({"skip_retries_of_retries": false}), Client::http2).await;
    host.always(Action::status(503));

    assert_eq!(outer.client.send(request("/", "failing")).await.unwrap().status, 503);

    assert_eq!(host.seen_with(ID, "failing").len(), 9, "three tries of three tries");
    assert_eq!((outer.metric("retries").await, inner.metric("retries").await), (2, 6));
}

/// Uniform over all numbers. Source: `SplitMix64`.
fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a host does that fails in every way, 30 times in a hundred.
fn ailing(number: u64) -> Action {
    match scattered(number) % 100 {
        0..20 => Action::status(503),
        20..28 => Action::reset(),
        28..30 => Action::hang(),
        other => Action::ok().after(Duration::from_millis(other % 4)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_retries_mend_what_they_can_and_nothing_leaks() {
    const WORKERS: usize = 4;
    const LIMIT: u64 = 1000;
    let hosts = [Backend::start().await.unwrap(), Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let all: Vec<&Backend> = hosts.iter().collect();
    let ceilings = json!({"circuit_breakers": {"thresholds": [{
        "max_connections": LIMIT, "max_pending_requests": LIMIT, "max_requests": LIMIT, "max_retries": LIMIT,
        "track_remaining": true,
    }]}});
    let cluster = all.iter().fold(Cluster::new("orders").raw(ceilings), |cluster, host| cluster.endpoint(host.addr()));
    let policy = orders(json!({
        "max_retries": 2, "per_try_timeout": "1s", "backoff": {"base": "4ms", "max": "20ms"},
        "budget": {"ratio": 100, "min_per_second": 1000},
    }));
    let options = EnvoyOptions::new().concurrency(WORKERS as u32).seats(Seats::Both).policy(policy);
    let scene = Scene::with(options.cluster(cluster).route(Scene::aside()).route(Route::to("/", "orders"))).await;
    let clients = clients(&scene, WORKERS).await;
    let met = seats_meet(&clients, "/").await;
    let gauges = |stats: BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        stats.into_iter().filter(|(name, _)| name.contains("wasm.envoy.wasm.runtime")).collect()
    };
    let machines = gauges(scene.stats().await.unwrap());
    assert!(machines.values().any(|count| *count > 0), "Envoy counts its VMs: {machines:?}");
    for (number, host) in (0_u64..).zip(&hosts) {
        host.reset_counters();
        // Each in an order of its own: a retry comes to another host with nearly the number that the first attempt had.
        host.script(move |seen| ailing(seen.index.wrapping_add(number << 32)));
    }

    let started = Instant::now();
    let records = storm(&clients, "/", 6, 4000).await;

    let (took, served) = (started.elapsed(), records.count(200));
    let metrics = counted(&scene, "orders").await;
    println!("{served} of 4000 served, {} tries in {took:?}: {metrics:?}", total(&all));
    // Three attempts fail with 0.3^3 = 2.7 %, so 3892 are served, with a standard deviation of 10.
    assert!((3832..=3952).contains(&served), "{:?}", records.statuses());
    assert_eq!((metrics["requests"], metrics["success"]), (4000 + met, served as u64 + met));
    assert_eq!(metrics["failure"], 4000 - served as u64);
    assert_eq!(total(&all), 4000 + metrics["retries"], "each try that a host saw is the first or a counted one");
    let by_id = tries_by_id(&all);
    let recovered = records.responses().filter(|response| response.status == 200).count() as u64
        - by_id.values().filter(|tries| **tries == 1).count() as u64;
    assert_eq!(metrics["retries_recovered"], recovered, "and so is each request that a further try has saved");

    // Clients that leave at any moment: while an attempt is under way, while one waits, while it is answered.
    let mut leaving = JoinSet::new();
    for (number, client) in clients.iter().cloned().enumerate() {
        leaving.spawn(async move {
            for index in 0..40_u64 {
                let open = client.open(request("/", &format!("leaving-{number}-{index}")));
                sleep(Duration::from_millis(scattered(index) % 30)).await;
                open.disconnect().await;
            }
        });
    }
    leaving.join_all().await;

    for name in ["upstream_rq_active", "upstream_rq_pending_active"] {
        scene.wait_for_stat(&format!("cluster.orders.{name}"), |count| count == 0).await.expect(name);
    }
    for name in ["remaining_retries", "remaining_rq", "remaining_pending"] {
        let gauge = format!("cluster.orders.circuit_breakers.default.{name}");
        scene.wait_for_stat(&gauge, |count| count == LIMIT).await.expect(name);
    }
    for host in &hosts {
        host.wait_idle().await.unwrap();
    }
    assert_eq!(gauges(scene.stats().await.unwrap()), machines, "no VM was lost and none was made");
    for host in &hosts {
        host.always(Action::ok());
    }
    assert_eq!(storm(&clients, "/", 4, 400).await.count(200), 400, "and all goes on");
}
