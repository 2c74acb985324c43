//! 1,000 hosts in four localities and two priorities, as Envoy lists them, and 300 clusters under one policy: what a request pays
//! and where it goes.
//!
//! What is counted small is counted large and compared; `scale` and `outlier_costs` pin the numbers themselves.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_engine::outlier::table::HostTable;
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::record::{Record, mark_of};
use holdfast_host_tests::{Builder, Calls, Request, Response, Routed};

use crate::costs::one;
use crate::listing::{Stands, listing, spread};
use crate::outlier_costs::{Spent, difference, kinds, spent, total};
use crate::outlier_support::{FIVE, World, out};
use crate::scale::many_hosts;
use crate::support::{millis, seconds};

const BREAKER: &str = r#""breaker":{"min_requests":5}"#;

/// The hosts are read as Envoy lists them; one failure takes a host out, for longer than a story lasts.
const LISTED: &str = r#""discover":{"cluster":"envoy_admin","path":"/clusters?format=json"},"consecutive_failures":1,
    "base_ejection_time":"1h","max_ejection_time":"1h""#;

const MANY: usize = 1000;

/// These keys in `outlier`, beside [`LISTED`].
fn listed_and(keys: &str) -> String {
    one(&format!(r#"{BREAKER},"outlier":{{{LISTED}{keys}}}"#))
}

fn addresses(hosts: &[Stands]) -> Vec<&str> {
    hosts.iter().map(|host| host.address.as_str()).collect()
}

/// So many hosts, spread over localities and priorities.
fn hosts(count: usize) -> Vec<Stands> {
    if count == FIVE.len() { spread(&FIVE.map(str::to_owned)) } else { spread(&many_hosts(count)) }
}

/// An Envoy with one cluster of these hosts, which has read their listing, among those of other clusters.
fn start(document: &str, workers: usize, hosts: &[Stands]) -> World {
    let world = World::start(document, workers, &addresses(hosts));
    let other = |number: usize| (format!("other-{number}"), spread(&many_hosts(3)));
    let clusters: Vec<_> = (0..5).map(other).chain([("orders".to_owned(), hosts.to_vec()), other(5)]).collect();
    world.hosts.lists(Response::status(200).body(listing(&clusters)));
    // The policy's first request says which cluster it is about.
    world.traffic(workers, millis(1));
    world.host.advance(seconds(6));
    let usable = hosts.iter().filter(|host| !host.is_unhealthy).count();
    assert_eq!(world.known().len(), usable, "all that Envoy would use are known before they have had a request");
    // Each seat looks at its first attempts.
    world.traffic(200 * workers, millis(1));
    meet_all(&world);
    world
}

/// Each host has had a look at its metadata, as after a while: until then the first look at each one changes the table.
fn meet_all(world: &World) {
    let mut tables = world.host.block_records::<HostTable>(BlockKind::Outlier, 2);
    let (key, mut table) = tables.pop().expect("there is a table");
    let ids: Vec<_> = table.hosts().map(|(id, host)| (id, host.label)).collect();
    let label = ids.iter().map(|(_, label)| *label).max().unwrap();
    assert_ne!(label, 0, "some have been looked at");
    ids.iter().for_each(|(id, _)| _ = table.set_label(*id, label));
    let (bytes, _) = world.host.shared(&key).unwrap();
    let mark = mark_of(&bytes, HostTable::KIND).unwrap();
    world.host.put_shared(&key, table.encode(mark));
    world.host.advance(seconds(2));
    world.traffic(40 * world.host.workers(), millis(1));
}

/// The first `count` hosts are out, and all workers know.
fn take_out(world: &World, hosts: &[Stands], count: usize) -> BTreeSet<String> {
    let bad: BTreeSet<String> = hosts.iter().take(count).map(|host| host.address.clone()).collect();
    bad.iter().for_each(|host| world.hosts.does(host, 503));
    // One after the other, as their turns come; each path has a hash of its own.
    for number in 0.. {
        if number % 8 == 0 && world.out().len() == count {
            break;
        }
        assert!(number < 20 * hosts.len(), "{count} hosts go out: {:?}", world.out());
        world.send(Request::get(&format!("/{number}")));
        world.host.advance(millis(20));
    }
    world.hosts.are_well();
    assert_eq!(world.out().into_iter().collect::<BTreeSet<_>>(), bad);
    // After a failure each attempt seat looks at the runs of all hosts, four with each success.
    world.traffic((hosts.len() / 4 + 20) * world.host.workers(), millis(1));
    bad
}

/// A thousand requests on worker 0, 1 ms apart, each of its own path.
fn thousand(world: &World) -> Vec<Routed> {
    let one = |number| {
        let request = world.host.send(0, Request::get(&format!("/{number}")));
        world.host.advance(millis(1));
        request
    };
    (0..1000).map(one).collect()
}

/// What requests have cost, in the mean.
fn mean(requests: &[Routed]) -> f64 {
    requests.iter().map(|request| total(&spent(request)).0).sum::<u64>() as f64 / requests.len() as f64
}

/// Checks that the usual request of `large` makes the calls of the usual one of `small`, and that together they make no more.
#[track_caller]
fn assert_same_cost(small: &[Routed], large: &[Routed], what: &str) {
    let usual = |requests: &[Routed]| -> Spent {
        let mut kinds = kinds(requests);
        assert!(kinds[0].0 * 2 > requests.len(), "{what}: most are alike: {kinds:#?}");
        kinds.swap_remove(0).1
    };
    let (few, many) = (usual(small), usual(large));
    assert_eq!(many, few, "{what}: {}", difference(&many, &few));
    let (few, many) = (mean(small), mean(large));
    assert!(many < few + 0.25, "{what}: {many:.2} in the mean, {few:.2} where there are few");
}

// Hosts.

const POLICIES: [(&str, &str); 5] = [
    ("detection", ""),
    ("rates", r#","failure_rate":{},"success_rate":{},"latency":{}"#),
    ("each in turn", r#","balance":"weighted""#),
    ("by hash", r#","balance":{"hash":"path"}"#),
    ("by latency", r#","balance":"least_latency""#),
];

#[test]
fn a_healthy_request_makes_the_same_calls_with_a_thousand_hosts_as_with_five() {
    for (name, keys) in POLICIES {
        let [small, large] = [FIVE.len(), MANY].map(|count| {
            let world = start(&listed_and(keys), 2, &hosts(count));
            let requests = thousand(&world);
            world.assert_clean();
            requests
        });
        assert_same_cost(&small, &large, name);
    }
}

#[test]
fn a_steered_request_makes_the_same_calls_past_one_of_a_thousand_hosts_as_past_one_of_five() {
    for (name, keys) in POLICIES {
        let [small, large] = [FIVE.len(), MANY].map(|count| {
            let hosts = hosts(count);
            let world = start(&listed_and(keys), 2, &hosts);
            let bad = take_out(&world, &hosts, 1);
            let requests = thousand(&world);
            assert!(requests.iter().all(is_steered), "{name}: each is steered");
            assert_avoided(&requests, &bad);
            world.assert_clean();
            requests
        });
        assert_same_cost(&small, &large, name);
    }
}

fn is_steered(request: &Routed) -> bool {
    request.access_log().is_some_and(|line| line.contains("hosts_out="))
}

/// Checks that no attempt came to one of these.
#[track_caller]
fn assert_avoided(requests: &[Routed], bad: &BTreeSet<String>) {
    let mut tries = requests.iter().flat_map(Routed::tries);
    assert!(tries.all(|one| !bad.contains(&one.host)), "a host that is out gets nothing");
}

/// How many requests went to each of the hosts that pass.
fn served(requests: &[Routed], hosts: &[Stands], passes: impl Fn(&Stands) -> bool) -> usize {
    let of: BTreeSet<&str> = hosts.iter().filter(|host| passes(host)).map(|host| host.address.as_str()).collect();
    requests.iter().flat_map(Routed::tries).filter(|one| of.contains(one.host.as_str())).count()
}

/// Source: Envoy, "Priority levels": a priority bears its healthy share times 1.4.
#[test]
fn priorities_share_as_envoy_documents_while_hosts_are_out() {
    const REQUESTS: usize = 2000;
    // Of the 500 hosts of the first priority: called unhealthy by Envoy, out, and what that priority bears in percent.
    for (unhealthy, bad, share) in
        [(0, 1, 100), (0, 142, 100), (0, 250, 70), (125, 125, 70), (200, 100, 56), (350, 100, 14)]
    {
        let mut hosts = hosts(MANY);
        hosts[500 - unhealthy..500].iter_mut().for_each(|host| host.is_unhealthy = true);
        let world = start(&listed_and(""), 2, &hosts);
        let out = take_out(&world, &hosts, bad);
        let requests = world.traffic(REQUESTS, millis(1));
        assert_avoided(&requests, &out);
        let what = format!("{unhealthy} unhealthy and {bad} out");
        assert_eq!(served(&requests, &hosts, |host| host.is_unhealthy), 0, "{what}: unhealthy ones get nothing");
        assert_eq!(served(&requests, &hosts, |_| true), REQUESTS);
        let first = served(&requests, &hosts, |host| host.priority == 0);
        // Three standard deviations of a share that is drawn, at most.
        assert!(first.abs_diff(REQUESTS * share / 100) <= 70, "{what}: {first} of {REQUESTS}, not {share} %");
        if share == 100 {
            assert_eq!(first, REQUESTS, "{what}: the first priority bears all");
        }
        assert_spread(&requests, &hosts, &out, &what);
        world.assert_clean();
    }
}

/// Checks that within each priority the hosts that are in share evenly: all weigh the same, whatever their locality.
#[track_caller]
fn assert_spread(requests: &[Routed], hosts: &[Stands], out: &BTreeSet<String>, what: &str) {
    let mut by_host: BTreeMap<String, usize> = BTreeMap::new();
    requests.iter().flat_map(Routed::tries).for_each(|one| *by_host.entry(one.host).or_default() += 1);
    for priority in [0, 1] {
        let is_in = |host: &&Stands| host.priority == priority && !host.is_unhealthy && !out.contains(&host.address);
        let each = hosts.iter().filter(is_in).map(|host| by_host.get(&host.address).copied().unwrap_or(0));
        let shares: Vec<usize> = each.collect();
        let (Some(least), Some(most)) = (shares.iter().min(), shares.iter().max()) else { continue };
        let mean = shares.iter().sum::<usize>() / shares.len();
        // Where two priorities are drawn, a turn may be named for a retry that never comes: the rest is spread by chance.
        let is_even = *most <= 2 * mean + 4 && *least >= mean / 4;
        assert!(is_even, "{what}: hosts of priority {priority} get {least} to {most} requests, {mean} in the mean");
    }
}

// Clusters.

const CLUSTERS: usize = 300;

/// Three hosts, which all clusters share: only who asks tells them apart.
const THREE: [&str; 3] = [FIVE[0], FIVE[1], FIVE[2]];

fn name(number: usize) -> String {
    format!("cluster-{number}")
}

/// One policy for all clusters, with this scope.
fn document(scope: &str) -> String {
    format!(
        r#"{{"policies":[{{"name":"orders",{scope}{BREAKER},"outlier":{{"consecutive_failures":2,"base_ejection_time":"1h",
        "max_ejection_time":"1h"}}}}]}}"#
    )
}

/// An Envoy with so many clusters.
fn start_clusters(scope: &str, workers: usize, clusters: usize) -> World {
    World::with(&document(scope), workers, &THREE, |builder| {
        (0..clusters).fold(builder.attempt_seat(), |builder: Builder, number| builder.cluster(&name(number), &THREE))
    })
}

fn to(world: &World, worker: usize, cluster: usize) -> Routed {
    world.host.send(worker, Request::get("/").cluster(&name(cluster)))
}

/// All have a place; more clusters than places, so that the last ones share one key; one key for all.
const ROOMY: &str = r#""max_keys":400,"#;
const CROWDED: &str = "";
const ALL_IN_ONE: &str = r#""scope":[],"#;

/// What a request costs whose cluster has just had others, and one whose cluster has had none for some seconds.
fn costs(scope: &str, clusters: usize) -> [Vec<Routed>; 2] {
    let world = start_clusters(scope, 2, clusters);
    let round = || -> Vec<Routed> { (0..clusters).map(|cluster| to(&world, 0, cluster)).collect() };
    (0..70).for_each(|_| drop(round()));
    for _ in 0..2 {
        world.host.advance(seconds(1));
        (0..10).for_each(|_| drop(round()));
    }
    let often = (0..CLUSTERS / clusters.min(CLUSTERS)).flat_map(|_| round()).collect();
    world.host.advance(millis(2500));
    let seldom = round();
    world.assert_clean();
    [often, seldom]
}

#[test]
fn a_healthy_request_makes_the_same_calls_with_three_hundred_clusters_as_with_one() {
    for (what, scope) in [("a key for each", ROOMY), ("one key", ALL_IN_ONE)] {
        let [[often, seldom], [often_of_many, seldom_of_many]] = [1, CLUSTERS].map(|count| costs(scope, count));
        assert_same_cost(&often, &often_of_many, what);
        let reads =
            |request: &Routed| spent(request).iter().map(|calls: &Calls| calls.of("get_shared_data")).sum::<u64>();
        // What was not used for seconds is looked at once, and that may be the turn of a host too.
        let most = |requests: &[Routed]| requests.iter().map(reads).max().unwrap();
        assert!(most(&seldom_of_many) <= most(&seldom) + 1, "{what}: {} reads", most(&seldom_of_many));
    }
}

/// Which host is out in a cluster; none in every fourth.
fn bad_in(cluster: usize) -> Option<&'static str> {
    THREE.get(cluster % 4).copied()
}

#[test]
fn each_of_three_hundred_clusters_is_steered_past_its_own_host() {
    for (what, scope) in [("a key for each", ROOMY), ("more than keys", CROWDED), ("one key", ALL_IN_ONE)] {
        let world = start_clusters(scope, 2, CLUSTERS);
        for cluster in 0..CLUSTERS {
            (0..12).for_each(|number| drop(to(&world, number % 2, cluster)));
            let Some(bad) = bad_in(cluster) else { continue };
            world.hosts.does(bad, 503);
            (0..12).for_each(|number| drop(to(&world, number % 2, cluster)));
            world.hosts.are_well();
        }
        let tables = world.tables();
        let of = |count: usize| tables.iter().filter(|table| out(table).len() == count).count();
        assert_eq!((of(1), of(0)), (CLUSTERS * 3 / 4, CLUSTERS / 4), "{what}: one is out in three of four clusters");
        world.host.advance(millis(1100));
        for cluster in 0..CLUSTERS {
            let requests: Vec<Routed> = (0..12).map(|number| to(&world, number % 2, cluster)).collect();
            let mut shares: BTreeMap<String, usize> = THREE.map(|host| (host.to_owned(), 0)).into();
            requests.iter().flat_map(Routed::tries).for_each(|one| *shares.entry(one.host).or_default() += 1);
            for host in THREE {
                let share = shares[host];
                match bad_in(cluster) {
                    Some(bad) if bad == host => assert_eq!(share, 0, "{what}: {host} is out in cluster {cluster}"),
                    Some(_) => assert!((5..=7).contains(&share), "{what}: cluster {cluster}: {shares:?}"),
                    None => assert_eq!(share, 4, "{what}: cluster {cluster} has all of its hosts: {shares:?}"),
                }
            }
            let steered = requests.iter().filter(|request| is_steered(request)).count();
            assert_eq!(steered > 0, bad_in(cluster).is_some(), "{what}: cluster {cluster}");
        }
        world.assert_clean();
    }
}
