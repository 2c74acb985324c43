//! Where requests go while a host is out, and that nobody outside has a say in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, HOSTS, PATIENCE, Route, Scene, Seats, Template, Traffic, drive_all,
    eventually, with_header,
};
use http::Request;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::{
    ADMIN, NOTICED, SETTLED, Story, all_known, all_served, are_out, are_told_nothing, becomes, before, counts, is_fair,
    listed, logged, metric, ms, orders, route, stage, start, steered, told_of,
};

/// Each request bears its own value, so that its attempts can be told from others'.
const ID: &str = "x-id";

fn to(path: &str, hosts: &[&str]) -> Request<Bytes> {
    hosts.iter().fold(Client::request(path), |request, value| with_header(request, HOSTS, value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_chooses_a_host_nor_shows_one_where_to_go() {
    let hosts: [Backend; 4] = start().await;
    let mut policy = orders(listed(json!({})));
    policy["policies"][0]["match"] = json!({"path": ["/governed", "/out"]});
    let scene = Scene::with(before(&hosts, 2, policy)).await;
    let clients = scene.workers(2).await;
    for _ in 0..2 {
        all_served(&drive_all(&clients, 4, 40, "/governed").await);
        sleep(NOTICED).await;
    }
    becomes(&scene, "orders", "hosts", 4).await;
    let addr = |number: usize| hosts[number].addr().to_string();
    let (one, two) = (addr(0), addr(1));
    let many = format!("{one},{one},{one}");
    let forged: [&[&str]; 6] =
        [&[&one], &[&many], &[&two, &one], &["", &one], &[",,", &one, "127.0.0.1:1"], &["127.0.0.1:1"]];

    let expect_by_turns = async |path: &'static str| {
        for lines in forged {
            hosts.iter().for_each(Backend::reset_counters);
            all_served(&drive_all(&clients, 2, 40, to(path, lines)).await);
            let counts = counts(&hosts);
            assert!(counts.iter().all(|count| (8..=12).contains(count)), "{path} {lines:?}: by turns, not {counts:?}");
            are_told_nothing(&hosts);
        }
    };
    expect_by_turns("/governed").await;
    expect_by_turns("/ungoverned").await;

    hosts[0].script(|seen| if seen.path == "/out" { Action::status(500) } else { Action::ok() });
    drive_all(&clients, 2, 60, "/out").await;
    are_out(&scene, "orders", &[&hosts[0]]).await;
    for lines in forged {
        hosts.iter().for_each(Backend::reset_counters);
        all_served(&drive_all(&clients, 2, 40, to("/governed", lines)).await);
        assert_eq!(hosts[0].requests(), 0, "{lines:?}: a host that is out stays out");
        let rest: Vec<u64> = hosts[1..].iter().map(Backend::requests).collect();
        assert!(rest.iter().all(|count| (9..=18).contains(count)), "{lines:?}: the others share, not {rest:?}");
        are_told_nothing(&hosts);
    }
    expect_by_turns("/ungoverned").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_named_only_while_one_is_out() {
    // Without an attempt seat nothing takes the header away before it leaves: here it shows.
    let hosts: [Backend; 5] = start().await;
    let policy = |name: &str, retry: Value| {
        let outlier = listed(json!({
            "consecutive_failures": 5, "base_ejection_time": "1500ms", "ejection_jitter": 0, "interval": "60s",
        }));
        let mut policy = json!({"name": name, "match": {"path": [format!("/{name}")]}, "outlier": outlier});
        if !retry.is_null() {
            policy["retry"] = retry;
        }
        policy
    };
    let document =
        json!({"policies": [policy("few", json!({"max_retries": 1})), policy("many", json!({"max_retries": 3}))]});
    let mut options = EnvoyOptions::new().cluster(Cluster::admin(ADMIN)).policy(document).route(Scene::aside());
    for name in ["few", "many"] {
        options = options.cluster(steered(name, &hosts)).route(route(&format!("/{name}")));
    }
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    all_known(&scene, &clients, &["/few", "/many"], &hosts).await;
    let named = |path: &str| -> Vec<Option<Vec<SocketAddr>>> {
        let seen = hosts.iter().flat_map(Backend::seen).filter(|seen| seen.path == path);
        let parse = |list: String| list.split(',').map(|host| host.parse().unwrap()).collect();
        seen.map(|seen| seen.header(HOSTS).map(parse)).collect()
    };

    for path in ["/few", "/many"] {
        drive_all(&clients, 2, 20, path).await;
        assert_eq!(named(path), vec![None; 20], "{path}: nobody is out");
        hosts[3].always(Action::status(500));
        drive_all(&clients, 2, 60, path).await;
        are_out(&scene, path, &[&hosts[3]]).await;
        hosts.iter().for_each(Backend::reset_counters);
        all_served(&drive_all(&clients, 2, 60, path).await);
        let expected = if path == "/few" { 3 } else { 4 };
        for list in named(path) {
            let list = list.unwrap_or_else(|| panic!("{path}: each request is steered"));
            let distinct: BTreeSet<_> = list.iter().copied().collect();
            assert_eq!((list.len(), distinct.len()), (expected, expected), "{path}: a host for each try: {list:?}");
            assert!(!distinct.contains(&hosts[3].addr()), "{path}: not the one that is out");
        }
        hosts[3].always(Action::ok());
        let traffic = Traffic::start(&clients, 4, ms(10), path);
        becomes(&scene, path, "hosts_ejected", 0).await;
        traffic.stop().await;
        sleep(SETTLED).await;
        hosts.iter().for_each(Backend::reset_counters);
        all_served(&drive_all(&clients, 2, 20, path).await);
        assert_eq!(named(path), vec![None; 20], "{path}: nobody is out any more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_requests_go_while_a_host_is_out() {
    let fair = Story::of::<5>("/fair", listed(json!({}))).await;
    let retry = json!({
        "max_retries": 2, "on": ["5xx"], "backoff": {"base": "1ms", "jitter": "none"},
        "budget": {"ratio": 100, "min_per_second": 1000},
    });
    let gateway = listed(json!({"consecutive_failures": 0, "consecutive_gateway_failures": 5}));
    let retried = Story::new::<4>("/retried", json!({"outlier": gateway, "retry": retry})).await;
    let outlier =
        json!({"consecutive_failures": 3, "base_ejection_time": "1s", "ejection_jitter": 0, "interval": "60s"});
    let mut ipv6 = Story::of::<0>("/ipv6", listed(outlier)).await;
    for addr in ["[::1]:0", "[::1]:0", "127.0.0.1:0", "[::1]:0"] {
        ipv6.hosts.push(Backend::start_on(addr.parse().unwrap()).await.expect("the machine has an IPv6 loopback"));
    }
    let unsteered = Story::of::<3>("/unsteered", listed(json!({}))).await.unsteered();
    let (scene, clients) = stage(4, &[&fair, &retried, &ipv6, &unsteered]).await;

    tokio::join!(
        the_rest_share_fairly_and_no_two_workers_go_in_step(&scene, &clients, &fair),
        a_further_try_goes_to_another_host_that_is_in(&scene, &clients, &retried),
        hosts_with_ipv6_addresses_are_ejected_and_named(&scene, &clients, &ipv6),
        a_cluster_that_is_not_steered_is_judged_all_the_same(&scene, &clients, &unsteered),
    );
}

async fn the_rest_share_fairly_and_no_two_workers_go_in_step(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    hosts[0].always(Action::status(500));
    drive_all(clients, 4, 100, *name).await;
    are_out(scene, name, &[&hosts[0]]).await;

    hosts.iter().for_each(Backend::reset_counters);
    all_served(&drive_all(clients, 8, 1000, *name).await);
    assert_eq!(hosts[0].requests(), 0);
    let shares: Vec<u64> = hosts[1..].iter().map(Backend::requests).collect();
    assert!(is_fair(&shares), "{shares:?}");
    // Each worker has its own client: what one of them alone sends is shared as fairly.
    for (number, client) in clients.iter().enumerate() {
        hosts.iter().for_each(Backend::reset_counters);
        all_served(&client.drive(2, 100, *name).await);
        let shares: Vec<u64> = hosts[1..].iter().map(Backend::requests).collect();
        assert!(is_fair(&shares), "worker {number}: {shares:?}");
    }

    // One request on each worker at a time, again and again. In step all four would go to the same host each time, by chance
    // they do once in 64 times.
    let mut together = BTreeMap::<usize, u32>::new();
    for round in 0..60 {
        let request = with_header(Client::request(name), ID, round.to_string());
        let four: Vec<_> = clients.iter().map(|client| client.open(request.clone())).collect();
        for request in four {
            assert_eq!(request.finish().await.unwrap().status, 200);
        }
        let most = hosts.iter().map(|host| host.seen_with(ID, &round.to_string()).len()).max().unwrap();
        *together.entry(most).or_default() += 1;
    }
    let in_step = together.get(&4).copied().unwrap_or_default();
    assert!(in_step <= 45, "in 60 rounds so many times went to the same host: {together:?}");
    are_told_nothing(hosts);
}

async fn a_further_try_goes_to_another_host_that_is_in(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    hosts[3].always(Action::status(503));
    all_served(&drive_all(clients, 4, 80, *name).await);
    are_out(scene, name, &[&hosts[3]]).await;
    hosts.iter().for_each(Backend::reset_counters);

    let script = Action::in_turn(ID, [Action::status(500), Action::status(500), Action::ok()]);
    hosts[..3].iter().for_each(|host| host.script(script.clone()));
    let numbered = Template::new(|number| with_header(Client::request("/retried"), ID, number.to_string()));
    all_served(&drive_all(clients, 8, 120, numbered).await);

    for number in 0..120 {
        let tries: Vec<usize> = hosts.iter().map(|host| host.seen_with(ID, &number.to_string()).len()).collect();
        assert_eq!(
            tries,
            [1, 1, 1, 0],
            "request {number}: each try goes to another host, and none to the one that is out"
        );
    }
    are_told_nothing(hosts);
}

async fn hosts_with_ipv6_addresses_are_ejected_and_named(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    hosts[0].always(Action::status(500));
    drive_all(clients, 4, 40, *name).await;
    are_out(scene, name, &[&hosts[0]]).await;
    hosts[0].wait_idle().await.unwrap();
    hosts.iter().for_each(Backend::reset_counters);
    // A probe is answered late, if there is one already: it is no request of these.
    hosts[0].always(Action::ok());

    let traffic = Traffic::start(clients, 4, ms(10), *name);
    becomes(scene, name, "hosts_ejected", 0).await;
    let count = traffic.stop().await.0.len();
    let shares: Vec<u64> = hosts[1..].iter().map(Backend::requests).collect();
    assert!(is_fair(&shares), "{shares:?}");
    let log = logged(scene, name, count).await;
    let probes: Vec<_> = log.iter().filter_map(|entry| entry.holdfast_field("probe")).collect();
    assert_eq!(probes, [hosts[0].addr().to_string()], "one probe, in brackets as Envoy writes it");
    are_told_nothing(hosts);
}

async fn a_cluster_that_is_not_steered_is_judged_all_the_same(
    scene: &Scene,
    clients: &[Client],
    Story { name, hosts, .. }: &Story,
) {
    hosts[0].always(Action::status(500));

    let records = drive_all(clients, 4, 300, *name).await;

    assert!(!told_of(scene, name, &hosts[0]).is_empty(), "what is found of it is told");
    assert!(is_fair(&counts(hosts)), "Envoy follows its own mind: {:?}", counts(hosts));
    assert_eq!(records.count(500) as u64, hosts[0].requests());
    are_told_nothing(hosts);
}

/// A cluster whose hosts can change, the first of them out.
async fn changing(hosts: &[Backend], workers: u32, outlier: Value) -> (Scene, Vec<Client>) {
    let cluster = steered("orders", hosts).dynamic_endpoints();
    let options = EnvoyOptions::new().concurrency(workers).seats(Seats::Both);
    let options = options.cluster(cluster).cluster(Cluster::admin(ADMIN));
    let options = options.route(Scene::aside()).route(Route::to("/", "orders")).policy(orders(outlier));
    let scene = Scene::with(options).await;
    let clients = scene.workers(workers as usize).await;
    all_known(&scene, &clients, &["orders"], hosts).await;
    hosts[0].always(Action::status(500));
    drive_all(&clients, 2, 60, "/").await;
    are_out(&scene, "orders", &[&hosts[0]]).await;
    (scene, clients)
}

fn addrs(hosts: &[&Backend]) -> Vec<SocketAddr> {
    hosts.iter().map(|host| host.addr()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_hosts_are_found_while_another_is_out() {
    let hosts: [Backend; 8] = start().await;
    // One worker, so that Envoy's own turns come round soon.
    let (scene, clients) = changing(&hosts[..2], 1, json!({})).await;

    let all: Vec<&Backend> = hosts.iter().collect();
    scene.set_endpoints("orders", &addrs(&all)).await.unwrap();
    hosts.iter().for_each(Backend::reset_counters);
    let traffic = Traffic::start(&clients, 4, ms(20), "/");
    becomes(&scene, "orders", "hosts", 8).await;
    sleep(SETTLED).await;
    let risked = hosts[0].requests();
    hosts.iter().for_each(Backend::reset_counters);
    traffic.goes_on(400).await.unwrap();
    let records = traffic.stop().await;

    let shares: Vec<u64> = hosts[1..].iter().map(Backend::requests).collect();
    assert!(is_fair(&shares), "the new ones serve as the other does: {shares:?}");
    let risked = risked + hosts[0].requests();
    assert!(risked <= 6, "one request in five seconds goes anywhere, and after a find a round of them: {risked}");
    assert_eq!(records.count(500) as u64, risked);
    are_out(&scene, "orders", &[&hosts[0]]).await;
    are_told_nothing(&hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_has_left_stands_in_nobodys_way() {
    let hosts: [Backend; 4] = start().await;
    let (scene, clients) = changing(&hosts[..3], 2, listed(json!({}))).await;
    let new = [&hosts[0], &hosts[2], &hosts[3]];
    scene.set_endpoints("orders", &addrs(&new)).await.unwrap();
    hosts.iter().for_each(Backend::reset_counters);

    // At once, whether the listing has been read again or not.
    all_served(&drive_all(&clients, 4, 60, "/").await);
    assert_eq!(
        (hosts[0].requests(), hosts[1].requests()),
        (0, 0),
        "neither to the one that is out nor to the one that left"
    );
    eventually(PATIENCE, || async {
        drive_all(&clients, 4, 60, "/").await;
        let counts = counts(&hosts);
        hosts.iter().for_each(Backend::reset_counters);
        if is_fair(&counts[2..]) && counts[0] + counts[1] == 0 { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await
    .expect("the listing has told of the new one, which gets its share");
    becomes(&scene, "orders", "hosts", 3).await;

    // The one that is out leaves as well.
    scene.set_endpoints("orders", &addrs(&new[1..])).await.unwrap();
    let traffic = Traffic::start(&clients, 2, ms(20), "/");
    becomes(&scene, "orders", "hosts", 2).await;
    becomes(&scene, "orders", "hosts_ejected", 0).await;
    all_served(&traffic.stop().await);
    hosts[2].always(Action::status(500));
    drive_all(&clients, 2, 60, "/").await;
    becomes(&scene, "orders", "hosts_ejected", 1).await;
    assert_eq!(metric(&scene, "orders", "ejections_overflow").await, 0, "and counts against no limit");
    are_told_nothing(&hosts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_too_many_hosts_is_told_of_once_and_left_to_envoy() {
    // All but one on one port, each with an address of its own.
    let [bad] = start().await;
    let all = Backend::start_on("0.0.0.0:0".parse().unwrap()).await.unwrap();
    let addr = |number: u16| {
        SocketAddr::from(([127, 0, 1 + (number / 250) as u8, 1 + (number % 250) as u8], all.addr().port()))
    };
    let cluster = Cluster::new("orders").steered().endpoint(bad.addr());
    let cluster = (0..1004).map(addr).fold(cluster, Cluster::endpoint);
    let options = EnvoyOptions::new().concurrency(1).seats(Seats::Both).cluster(cluster);
    let options = options.route(Scene::aside()).route(Route::to("/", "orders"));
    let scene = Scene::with(options.policy(orders(json!({"consecutive_failures": 1})))).await;
    let clients = scene.workers(1).await;
    all_served(&drive_all(&clients, 1, 8, "/").await);
    sleep(NOTICED).await;
    eventually(PATIENCE, || async {
        drive_all(&clients, 8, 1005, "/").await;
        metric(&scene, "orders", "hosts").await == 1000
    })
    .await
    .expect("so many are known, and no more");

    bad.always(Action::status(500));
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(drive_all(&clients, 8, 1005, "/").await.count(500));
    }
    assert_eq!(seen, [1, 1, 1], "every host has its turn, whether it is known or not");
    let log = scene.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("1000 that are kept for a cluster")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
}
