//! `holdfast add` of a plain Envoy's configuration: what it makes of each file of `tests/add/shapes/` runs beside the file
//! itself, before the same hosts. As long as nothing fails nobody can tell them apart; then Holdfast does what it is there for.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use holdfast_tests::{Action, Client, Envoy, HOSTS, PATIENCE, Response, envoy_version, eventually, with_header};
use http::{HeaderMap, Request, Version};
use serde_json::{Value, json};

use crate::added_config::{
    balancing, difference, http_options, orders, request_seats, rest, router_filters as filters_of_router,
};
use crate::shape::{Hosts, add, added, file, files_in};

/// Requests of each kind where chance decides, and where it does not.
const BY_CHANCE: usize = 300;
const EXACTLY: usize = 60;

/// How the hosts share the requests.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shares {
    /// By turns: equal but for where the turns begin.
    Turns,
    /// By chance: equal within five standard deviations of the difference.
    Chance,
    /// By the request: each goes to the same host.
    Hash,
}

/// A kind of request.
#[derive(Clone, Debug)]
struct Ask {
    listener: usize,
    version: Version,
    grpc: bool,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// How many hosts see each of them.
    arrivals: usize,
}

const ASK: Ask = Ask { listener: 0, version: Version::HTTP_11, grpc: false, path: "/items", headers: &[], arrivals: 1 };

impl Ask {
    fn request(&self, number: usize) -> Request<Bytes> {
        let user = format!("user-{}", number % 30);
        let mut request = if self.grpc {
            Client::grpc_request(self.path)
        } else {
            Client::request(&format!("{}?user={user}", self.path))
        };
        for (name, value) in self.headers {
            request = with_header(request, name, *value);
        }
        request = with_header(request, "x-user", &user);
        // Every other user has no cookie.
        if number.is_multiple_of(2) { with_header(request, "cookie", format!("user={user}")) } else { request }
    }

    fn client(&self, envoy: &Envoy) -> Client {
        let mut listeners: Vec<_> = envoy.listeners().collect();
        listeners.sort_unstable();
        let addr = listeners[self.listener].1;
        let client = if self.version == Version::HTTP_2 { Client::http2(addr) } else { Client::http1(addr) };
        client.authority("shop.example")
    }
}

/// What is expected of one file.
struct Proof {
    shape: String,
    /// What balances while no host is out.
    balancing: Vec<Value>,
    /// The cluster's HTTP options; null where the seat is in the router.
    http: Value,
    shares: Shares,
    /// The protocol that the hosts are spoken to in, where it is one.
    speaks: Option<Version>,
    asks: Vec<Ask>,
    /// Whether another host is there when the first one fails.
    alone: bool,
    /// Headers that say which host or cluster was chosen, or what the policy has set.
    of_choice: &'static [&'static str],
    /// Whether the hosts of other zones are spared. Before Envoy 1.39 `override_host` does not tell its fallback where this
    /// Envoy itself is.
    by_zones: bool,
    /// Connection managers through which nothing goes to the cluster.
    spared: &'static [&'static str],
}

impl Proof {
    fn of(shape: &str) -> Self {
        Self {
            shape: shape.to_owned(),
            balancing: vec![json!({"RoundRobin": {}})],
            http: json!({"explicit_http_config": {"http_protocol_options": {}}}),
            shares: Shares::Turns,
            speaks: Some(Version::HTTP_11),
            asks: vec![ASK],
            alone: false,
            of_choice: &[],
            by_zones: false,
            spared: &[],
        }
    }

    fn balanced_by(mut self, shares: Shares, policy: Value) -> Self {
        self.balancing = vec![policy];
        self.shares = shares;
        self
    }

    fn http(mut self, speaks: Version, options: Value) -> Self {
        self.speaks = Some(speaks);
        self.http = options;
        self
    }

    fn asks(mut self, asks: impl IntoIterator<Item = Ask>) -> Self {
        self.asks = asks.into_iter().collect();
        self
    }

    fn alone(mut self) -> Self {
        self.alone = true;
        self
    }
}

/// Headers in the order of their names.
type Headers = Vec<(String, Bytes)>;

/// What a client and the hosts see of one request.
#[derive(Debug, PartialEq)]
struct Exchange {
    status: u16,
    headers: Headers,
    body: Bytes,
    trailers: Option<HeaderMap>,
    /// At each host: the protocol, the path and the headers.
    arrived: Vec<(Version, String, Headers)>,
}

/// One run: all exchanges, and where the requests went.
struct Run {
    exchanges: Vec<Exchange>,
    hosts: Vec<Vec<usize>>,
    config: Value,
}

fn headers_but(varying: &[&str], of_choice: &[&str], headers: &HeaderMap) -> Headers {
    let kept =
        headers.iter().filter(|(name, _)| !varying.contains(&name.as_str()) && !of_choice.contains(&name.as_str()));
    let mut kept: Vec<_> =
        kept.map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes()))).collect();
    kept.sort();
    kept
}

async fn config(envoy: &Envoy) -> Value {
    let dump: Value = serde_json::from_str(&envoy.admin_get("/config_dump").await.unwrap()).unwrap();
    dump.pointer("/configs/0/bootstrap").expect("the dump begins with the bootstrap").clone()
}

async fn run(proof: &Proof, hosts: &Hosts, envoy: &Envoy) -> Run {
    hosts.reset();
    let each = if proof.shares == Shares::Chance { BY_CHANCE } else { EXACTLY };
    let mut answers: Vec<(usize, Response)> = Vec::new();
    for ask in &proof.asks {
        let client = ask.client(envoy);
        for number in 0..each {
            let request = with_header(ask.request(number), "x-key", answers.len().to_string());
            answers.push((ask.arrivals, client.send(request).await.unwrap()));
        }
    }
    let due: usize = answers.iter().map(|(arrivals, _)| arrivals).sum();
    let all = || async {
        let seen = hosts.seen();
        if seen.len() == due { Ok(seen) } else { Err(format!("{} of {due} arrived", seen.len())) }
    };
    let seen = eventually(PATIENCE, all).await.unwrap_or_else(|late| panic!("{}: {late}", proof.shape));
    let mut arrived: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (place, request) in seen {
        arrived.entry(request.header("x-key").unwrap_or_default()).or_default().push((place, request));
    }
    let mut of_all = Run { exchanges: Vec::new(), hosts: Vec::new(), config: config(envoy).await };
    for (number, (_, answer)) in answers.into_iter().enumerate() {
        let arrived = arrived.remove(&number.to_string()).unwrap_or_default();
        of_all.hosts.push(arrived.iter().map(|(place, _)| *place).collect());
        let mut arrived: Vec<_> = arrived
            .into_iter()
            .map(|(_, request)| {
                (request.version, request.path, headers_but(&["x-request-id"], proof.of_choice, &request.headers))
            })
            .collect();
        // A copy for a mirror comes when it comes.
        arrived.sort_by(|one, other| one.2.cmp(&other.2));
        of_all.exchanges.push(Exchange {
            status: answer.status,
            headers: headers_but(&["date", "x-envoy-upstream-service-time"], proof.of_choice, &answer.headers),
            body: answer.body,
            trailers: answer.trailers,
            arrived,
        });
    }
    of_all
}

/// Names of hosts in a request's headers differ by which host it went to: each has one of its own.
fn same_shares(proof: &Proof, before: &Run, after: &Run) {
    let counts = |run: &Run| {
        let mut counts: BTreeMap<usize, i64> = BTreeMap::new();
        run.hosts.iter().flatten().for_each(|place| *counts.entry(*place).or_default() += 1);
        counts
    };
    let (one, other) = (counts(before), counts(after));
    let total: i64 = one.values().sum();
    if proof.by_zones && envoy_version() < (1, 39) {
        assert!(other.len() > one.len() && other.values().sum::<i64>() == total, "{}: {other:?}", proof.shape);
        return;
    }
    for place in one.keys().chain(other.keys()) {
        let (a, b) = (one.get(place).copied().unwrap_or_default(), other.get(place).copied().unwrap_or_default());
        let bound = match proof.shares {
            Shares::Turns => 3.0,
            Shares::Hash => 0.0,
            Shares::Chance => {
                let share = (a + b) as f64 / (2 * total) as f64;
                5.0 * (2.0 * total as f64 * share * (1.0 - share)).sqrt()
            }
        };
        let difference = (a - b).abs() as f64;
        assert!(difference <= bound, "{}: the hosts had {one:?} before and {other:?} after", proof.shape);
    }
    if proof.shares == Shares::Hash {
        assert_eq!(before.hosts, after.hosts, "{}: each request goes to its own host", proof.shape);
    }
}

fn policy() -> Value {
    json!({"policies": [{
        "name": "orders",
        "match": {"cluster": ["orders"]},
        "breaker": {"failure_rate": 0, "consecutive_failures": 8, "open_for": "60s"},
        "retry": {},
        "outlier": {"consecutive_failures": 3, "base_ejection_time": "60s"},
        "fallback": [{"on": ["open"], "respond": {"status": 200, "body": {"items": []}}}],
    }]})
}

async fn prove(proof: Proof) {
    let path = file("shapes", &proof.shape);
    let original = fs::read_to_string(&path).unwrap();
    let hosts = Hosts::start(&original).await;

    let with_holdfast = added(&path, &policy());
    let (original, with_holdfast) = tokio::join!(hosts.envoy(&original), hosts.envoy(&with_holdfast));
    if proof.asks[0].grpc {
        hosts.orders().for_each(|host| host.always(Action::grpc(0)));
    }
    let (before, after) = (run(&proof, &hosts, &original).await, run(&proof, &hosts, &with_holdfast).await);
    for (one, other) in before.exchanges.iter().zip(&after.exchanges) {
        assert_eq!(one, other, "{}", proof.shape);
    }
    same_shares(&proof, &before, &after);
    if let Some(speaks) = proof.speaks {
        let versions = after.exchanges.iter().flat_map(|exchange| &exchange.arrived).map(|(version, ..)| *version);
        assert!(versions.clone().all(|version| version == speaks), "{}: {:?}", proof.shape, versions.last());
    }
    same_configuration(&proof, &before.config, &after.config);
    protects(&proof, &hosts, &with_holdfast).await;
}

fn same_configuration(proof: &Proof, before: &Value, after: &Value) {
    let name = &proof.shape;
    assert_eq!(difference("", &rest(before), &rest(after)), None, "{name}: the rest is as it was");
    let cluster = orders(after);
    assert_eq!(balancing(cluster), proof.balancing, "{name}: what balances while no host is out");
    if proof.http.is_null() {
        // The router has filters for all clusters, which one in the cluster would take away from it.
        assert_eq!(cluster.get("typed_extension_protocol_options"), None, "{name}: the HTTP options");
        let names: Vec<Value> = filters_of_router(after).iter().map(|filter| filter["name"].clone()).collect();
        let were: Vec<Value> = filters_of_router(before).iter().map(|filter| filter["name"].clone()).collect();
        assert_eq!(names, [vec![json!("holdfast")], were].concat(), "{name}: the router's upstream filters");
    } else {
        let (options, seats) = http_options(cluster);
        assert_eq!((options, seats), (proof.http.clone(), 1), "{name}: the HTTP options");
    }
    for (prefix, seats) in request_seats(after) {
        let wanted = usize::from(!proof.spared.contains(&prefix.as_str()));
        assert_eq!(seats, wanted, "{name}: the request seats of {prefix}");
    }
    let tags = after["stats_config"]["stats_tags"].as_array().unwrap();
    for name in ["policy", "key"] {
        let tag = json!({"tag_name": name, "regex": format!(r"({name}=\.=(.*?);\.;)")});
        assert_eq!(tags.iter().filter(|one| **one == tag).count(), 1, "{name} is a label");
    }
}

/// A host that fails is out, and no client sees it; when all fail the breaker opens, and the fallback answers.
async fn protects(proof: &Proof, hosts: &Hosts, envoy: &Envoy) {
    let ask = &proof.asks[0];
    let client = ask.client(envoy);
    let failure = if ask.grpc { Action::grpc_trailers_only(14) } else { Action::status(503) };
    let mut number = 0;
    let mut send = async || {
        number += 1;
        assert!(number < 3000, "{}: neither ejection nor fallback comes", proof.shape);
        client.send(with_header(ask.request(number), "x-key", "protects")).await.unwrap()
    };
    if !proof.alone {
        hosts.first().always(failure.clone());
        let ejected = format!("host {} ejected for ", hosts.first_address());
        while !envoy.log().contains(&ejected) {
            send().await;
        }
        hosts.reset();
        for _ in 0..30 {
            let answer = send().await;
            let grpc_status = answer.grpc_status().filter(|_| ask.grpc);
            assert_eq!((answer.status, grpc_status), (200, ask.grpc.then_some(0)), "{}", proof.shape);
        }
        let first = hosts.first().addr();
        let got = hosts.seen().into_iter().filter(|(place, _)| hosts.all()[*place].addr() == first).count();
        assert_eq!(got, 0, "{}: a host that is out gets nothing", proof.shape);
    }
    hosts.orders().for_each(|host| host.always(failure.clone()));
    let fallback = loop {
        if let Some(fallback) = send().await.header("x-holdfast-fallback") {
            break fallback;
        }
    };
    assert_eq!(fallback, "static; reason=open; policy=orders", "{}", proof.shape);
    let named = hosts.seen().into_iter().filter(|(_, request)| request.header(HOSTS).is_some()).count();
    assert_eq!(named, 0, "{}: no host, nor a mirror, sees the header", proof.shape);
}

/// A test for each file, of the file's name.
macro_rules! proofs {
    ($($name:ident: $proof:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let shape = stringify!($name).replace('_', "-");
                let proof: fn(Proof) -> Proof = $proof;
                prove(proof(Proof::of(&shape))).await;
            }
        )*

        #[test]
        fn every_file_has_its_proof() {
            let mut proved = [$(stringify!($name)),*].map(|name| name.replace('_', "-"));
            proved.sort();
            assert_eq!(files_in("shapes"), proved);
        }
    };
}

const HTTP1: Version = Version::HTTP_11;
const HTTP2: Version = Version::HTTP_2;

fn http2() -> Value {
    json!({"explicit_http_config": {"http2_protocol_options": {}}})
}

fn ring(size: u32) -> Value {
    json!({"RingHash": {"minimum_ring_size": size.to_string()}})
}

fn to(path: &'static str) -> Ask {
    Ask { path, ..ASK }
}

fn over_http2(ask: Ask) -> Ask {
    Ask { version: HTTP2, ..ask }
}

proofs! {
    // Formatting.
    strict_dns: |proof| proof;
    odd_formatting: |proof| proof;
    flow_cluster: |proof| proof.balanced_by(Shares::Chance, json!({"Random": {}}));
    bootstrap: |proof| proof.balanced_by(Shares::Chance, json!({"LeastRequest": {}}));
    anchors: |proof| proof.http(HTTP2, json!({"explicit_http_config": {"http2_protocol_options": {
        "connection_keepalive": {"interval": "30s", "timeout": "5s"},
    }}}));

    // Listeners and their filters.
    several_listeners: |proof| {
        let spared = &["billing", "tcp"];
        let public = Ask { listener: 2, ..ASK };
        let asks = [public.clone(), Ask { path: "/billing", ..public.clone() }, over_http2(public), Ask { listener: 1, ..ASK }, ASK];
        Proof { spared, ..proof.asks(asks) }
    };
    default_filter_chain: |proof| proof;
    two_managers: |proof| proof.asks([ASK, Ask { listener: 1, ..ASK }]);
    unnamed_listener: |proof| proof;
    two_services: |proof| proof.asks([ASK]);
    unix_socket_upstream: |proof| proof;
    other_filters: |proof| proof;
    stateful_session: |proof| Proof { of_choice: &["set-cookie"], ..proof };
    runtime_and_overload: |proof| proof;
    stats_and_logs: |proof| proof;
    stats_exclusion: |proof| proof;
    stats_rejected: |proof| proof;

    // Protocols.
    http2_explicit: |proof| proof.http(HTTP2, json!({
        "common_http_protocol_options": {"idle_timeout": "300s", "max_requests_per_connection": 10000},
        "explicit_http_config": {"http2_protocol_options": {
            "max_concurrent_streams": 50,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1_048_576,
        }},
    }));
    http2_deprecated_field: |proof| proof.http(HTTP2, http2());
    http1_options_field: |proof| proof.http(HTTP1, json!({
        "common_http_protocol_options": {"idle_timeout": "60s", "max_headers_count": 50, "max_requests_per_connection": 5},
        "explicit_http_config": {"http_protocol_options": {"header_key_format": {"proper_case_words": {}}}},
    }));
    downstream_protocol: |proof| {
        let options = json!({"use_downstream_protocol_config": {
            "http_protocol_options": {},
            "http2_protocol_options": {"max_concurrent_streams": 100},
        }});
        Proof { http: options, speaks: None, ..proof.asks([ASK, over_http2(ASK)]) }
    };
    downstream_protocol_deprecated: |proof| {
        let options = json!({"use_downstream_protocol_config": {
            "http_protocol_options": {},
            "http2_protocol_options": {"max_concurrent_streams": 20},
        }});
        Proof { http: options, speaks: None, ..proof.asks([ASK, over_http2(ASK)]) }
    };
    // The host's own Envoy speaks HTTP/1.1 to the backend, and says in a header what it was spoken to in.
    tls_auto_config: |proof| proof.alone().http(HTTP1, json!({
        "auto_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
        "upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
    }));
    tls_http2: |proof| proof.alone().balanced_by(Shares::Turns, json!({"LeastRequest": {}})).http(HTTP1, http2());
    grpc: |proof| {
        let call = Ask { path: "/shop.Orders/List", grpc: true, ..over_http2(ASK) };
        proof.asks([call]).http(HTTP2, json!({"explicit_http_config": {"http2_protocol_options": {
            "connection_keepalive": {"interval": "20s", "timeout": "4s"},
        }}}))
    };
    options_with_filters: |proof| proof.asks([ASK, to("/billing")]).http(HTTP1, json!({
        "explicit_http_config": {"http_protocol_options": {"accept_http_10": true}},
    }));
    router_filters: |proof| Proof { http: Value::Null, ..proof };

    // Discovery.
    logical_dns: |proof| proof.alone();
    endpoint_hostnames: |proof| Proof { of_choice: &["host"], ..proof };
    eds_from_file: |proof| proof;
    rds_from_file: |proof| proof;
    scoped_routes: |proof| {
        let (north, south) = (&[("x-tenant", "north")], &[("x-tenant", "south")]);
        proof.asks([Ask { headers: north, ..ASK }, Ask { headers: south, ..ASK }])
    };

    // Balancing.
    ring_hash: |proof| proof.balanced_by(Shares::Hash, json!({"RingHash": {
        "hash_function": "MURMUR_HASH_2", "minimum_ring_size": "512", "maximum_ring_size": "4096",
    }}));
    ring_hash_default: |proof| proof.balanced_by(Shares::Hash, json!({"RingHash": {}}));
    maglev: |proof| proof.balanced_by(Shares::Hash, json!({"Maglev": {"table_size": "1009"}}));
    bounded_load: |proof| proof.balanced_by(Shares::Hash, json!({"RingHash": {
        "consistent_hashing_lb_config": {"use_hostname_for_hashing": true, "hash_balance_factor": 150},
    }}));
    least_request: |proof| proof.balanced_by(Shares::Chance, json!({"LeastRequest": {
        "choice_count": 3,
        "active_request_bias": {"default_value": 1.5, "runtime_key": "orders.bias"},
        "slow_start_config": {
            "slow_start_window": "60s",
            "aggression": {"default_value": 2, "runtime_key": "orders.aggression"},
            "min_weight_percent": {"value": 15},
        },
    }}));
    round_robin_slow_start: |proof| proof.balanced_by(Shares::Chance, json!({"RoundRobin": {
        "slow_start_config": {"slow_start_window": "30s"},
    }}));
    random: |proof| proof.balanced_by(Shares::Chance, json!({"Random": {}}));
    weighted_hosts: |proof| proof;
    zone_aware: |proof| {
        let zones = json!({"zone_aware_lb_config": {"routing_enabled": {"value": 100}, "min_cluster_size": "2"}});
        let proof = proof.balanced_by(Shares::Chance, json!({"RoundRobin": {"locality_lb_config": zones}}));
        Proof { by_zones: true, ..proof }
    };
    locality_weighted: |proof| proof.balanced_by(Shares::Turns, json!({"RoundRobin": {"locality_lb_config": {
        "locality_weighted_lb_config": {},
    }}}));
    locality_weighted_ring: |proof| proof.balanced_by(Shares::Hash, json!({"RingHash": {
        "minimum_ring_size": "256", "locality_weighted_lb_config": {},
    }}));
    priorities: |proof| proof.balanced_by(Shares::Chance, json!({"LeastRequest": {}}));
    health_checks: |proof| proof;
    subsets: |proof| {
        let second = Ask { headers: &[("x-version", "v2")], ..ASK };
        proof.asks([ASK, second, to("/first")]).balanced_by(Shares::Turns, json!({"Subset": {
            "fallback_policy": "DEFAULT_SUBSET",
            "default_subset": {"version": "v1"},
            "subset_selectors": [
                {"keys": ["version"]},
                {"keys": ["stage", "version"], "fallback_policy": "ANY_ENDPOINT"},
            ],
            "subset_lb_policy": {"RoundRobin": {}},
        }}))
    };
    subsets_ring_hash: |proof| proof.balanced_by(Shares::Hash, json!({"Subset": {
        "fallback_policy": "ANY_ENDPOINT",
        "subset_selectors": [{"keys": ["version"]}],
        "subset_lb_policy": ring(128),
    }}));
    typed_least_request: |proof| proof.balanced_by(Shares::Chance, json!({"LeastRequest": {"choice_count": 4}}));
    typed_several: |proof| {
        let first = json!({"TypedStruct": {"type_url": "type.googleapis.com/shop.balancing.OfItsOwn", "value": {}}});
        let balancing = vec![first, json!({"Maglev": {"table_size": "503"}})];
        Proof { balancing, shares: Shares::Hash, ..proof }
    };
    typed_wrr: |proof| proof.balanced_by(Shares::Chance, json!({"ClientSideWeightedRoundRobin": {
        "blackout_period": "5s", "weight_update_period": "1s",
    }}));
    load_balancing_policy_config: |proof| proof.balanced_by(Shares::Chance, json!({"Random": {}}));

    // Routes.
    mirror: |proof| proof.asks([Ask { arrivals: 2, ..ASK }]);
    mirror_to_itself: |proof| proof.asks([ASK, Ask { arrivals: 2, ..to("/billing") }]);
    weighted_clusters: |proof| Proof { shares: Shares::Chance, of_choice: &["x-track"], ..proof };
    cluster_header: |proof| {
        let (orders, billing) = (&[("x-service", "orders")], &[("x-service", "billing")]);
        proof.asks([Ask { headers: orders, ..ASK }, Ask { headers: billing, ..ASK }])
    };
    // A policy with `retry` takes the place of a per-try time-out of the route, which a host sees.
    retries: |proof| Proof { of_choice: &["x-envoy-expected-rq-timeout-ms"], ..proof.asks([ASK, to("/flaky")]) };
    retry_budget: |proof| proof;
    outlier_detection: |proof| proof;
    circuit_breakers: |proof| proof;
    two_route_configs: |proof| proof.asks([to("/v2/orders/7"), to("/billing/1"), Ask { arrivals: 0, ..to("/old") }]);

    // Holdfast is there already.
    older_holdfast: |proof| proof.balanced_by(Shares::Hash, json!({"RingHash": {}}));
    older_holdfast_struct: |proof| proof.balanced_by(Shares::Hash, json!({"RingHash": {}}));
    older_holdfast_both_seats: |proof| proof.asks([ASK, to("/billing")]);
}

/// Each with a word of the reason.
const REFUSED: [(&str, &str); 8] = [
    ("aggregate", "aggregate"),
    ("cds-and-lds-from-files", "cds.yaml"),
    ("dynamic-forward-proxy", "dynamic_forward_proxy"),
    ("lds-from-file", "lds.yaml"),
    ("no-route", "route"),
    ("no-such-cluster", "orders"),
    ("original-dst", "ORIGINAL_DST"),
    ("tcp-only", "route"),
];

#[test]
fn what_cannot_work_is_refused_with_the_reason_and_nothing_is_written() {
    assert_eq!(files_in("refused"), REFUSED.map(|(name, _)| name), "each has its reason here");
    let folder = tempfile::tempdir().unwrap();
    for (name, reason) in REFUSED {
        let copy = folder.path().join(format!("{name}.yaml"));
        let original = fs::read_to_string(file("refused", name)).unwrap();
        fs::write(&copy, &original).unwrap();
        let ran = add(&copy, &["--write"]);
        let complaint = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(1), "{name}: {complaint}");
        assert!(complaint.contains(reason), "{name}: {complaint}");
        assert!(complaint.contains(&format!("{name}.yaml:")), "{name}: the place is named: {complaint}");
        assert_eq!(fs::read_to_string(&copy).unwrap(), original, "{name}: the file is as it was");
    }
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, REFUSED.len(), "no other file is left behind");
}

#[test]
fn what_add_made_it_leaves_alone() {
    let folder = tempfile::tempdir().unwrap();
    for name in files_in("shapes") {
        let original = file("shapes", &name);
        let made = added(&original, &policy());
        let copy = folder.path().join(original.file_name().unwrap());
        fs::write(&copy, &made).unwrap();
        assert_eq!(added(&copy, &policy()), made, "{name}");
    }
}
