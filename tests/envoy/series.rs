//! Every key has a metric series of its own, whatever it holds: a real Prometheus scrapes Envoy and shows it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Prometheus, Route, Scene, eventually, stats_tags,
};
use http::{HeaderValue, Request};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// What Istio calls the cluster of a service.
const OUTBOUND: &str = "outbound|8080||orders.default.svc.cluster.local";

/// Values of a header, each with its text in a key.
fn tenants() -> Vec<(Vec<u8>, String)> {
    let of = |value: &[u8], text: &str| (value.to_vec(), text.to_owned());
    let mut tenants = vec![
        of(b"gold", "gold"),
        of(b"", ""),
        of(b"a:b", "a:b"),
        of(b"a_b", "a_b"),
        of(b"a|b", "a|b"),
        of(b"a%3Ab", "a%253Ab"),
        of(b"a.b", "a.b"),
        of(b"a.b.", "a.b%2E"),
        of(b"a.b..", "a.b.%2E"),
        of(b"a..b", "a..b"),
        of(b".a.b", ".a.b"),
        of(b".", "%2E"),
        of(b"a.requests", "a.requests"),
        of(b";.;", "%3B.%3B"),
        of(b";.;requests", "%3B.%3Brequests"),
        of(b"=.=", "%3D.%3D"),
        of(b";.;key=.=gold;.;requests", "%3B.%3Bkey%3D.%3Dgold%3B.%3Brequests"),
        of(b"gold;.;host=.=10.0.0.1:80", "gold%3B.%3Bhost%3D.%3D10.0.0.1:80"),
        of(b"a b", "a%20b"),
        of(b"a\tb", "a%09b"),
        of(b"a,x-tenant=b", "a%2Cx-tenant%3Db"),
        of(br#"say "hi""#, "say%20%22hi%22"),
        of(br"back\slash", "back%5Cslash"),
        of(br"back\nslash", "back%5Cnslash"),
        of(b"{policy=\"x\"}", "{policy%3D%22x%22}"),
        of(b"100%", "100%25"),
        of(b"~", "%7E"),
        of(b"\xff\xfe", "%FF%FE"),
        of(b"\xfe\xff", "%FE%FF"),
        of("caf\u{e9}".as_bytes(), "caf%C3%A9"),
        of(b"caf\xe9", "caf%E9"),
        // Where Istio's own tags find something.
        of(b"cache.default", "cache.default"),
        of(b"cache.other", "cache.other"),
        of(b"my-component.a.b", "my-component.a.b"),
        of(b"outbound|80||orders.stag.svc.cluster.local", "outbound|80||orders.stag.svc.cluster.local"),
        of(b"wasm_filter.x.y", "wasm_filter.x.y"),
        of(b"rbac.allowed", "rbac.allowed"),
        of(b"x.shadow_denied", "x.shadow_denied"),
    ];
    // Hashes are FNV-1a of the whole value, so they are the same on every machine.
    let long = |last: u8| [&[b'x'; 399][..], &[last]].concat();
    let cut = "x".repeat(260);
    tenants.push((long(b'a'), format!("{cut}~{LONG_A}")));
    tenants.push((long(b'b'), format!("{cut}~{LONG_B}")));
    tenants.push((vec![b'x'; 260], cut));
    tenants
}

const LONG_A: &str = "76D866E31B2E947A";
const LONG_B: &str = "76D865E31B2E92C7";

/// Names of routes, which no client chooses and no codec checks, each with its text in a key.
fn routes() -> Vec<(&'static str, &'static str)> {
    vec![
        ("new\nline", "new%0Aline"),
        ("new\r\nline", "new%0D%0Aline"),
        ("nul\0", "nul%00"),
        ("\u{1}\u{1b}[31m", "%01%1B[31m"),
        ("delete\u{7f}", "delete%7F"),
        ("# TYPE x counter\nx 1", "#%20TYPE%20x%20counter%0Ax%201"),
        ("\u{202e}\u{1f980}", "%E2%80%AE%F0%9F%A6%80"),
    ]
}

/// Authorities, each with its text in a key.
fn authorities() -> Vec<(&'static str, &'static str)> {
    vec![
        ("shop.test", "shop.test"),
        ("shop.test.", "shop.test%2E"),
        ("shop.test:443", "shop.test:443"),
        ("shop.test.:443", "shop.test.:443"),
        ("shop_test", "shop_test"),
        ("[::1]:8080", "[::1]:8080"),
    ]
}

/// A policy and the text of one of its keys.
type Series = (String, String);

/// One request of each key, `more` of which it gets in all.
struct Sent {
    request: Request<Bytes>,
    series: Series,
    more: usize,
}

fn requests() -> Vec<Sent> {
    let mut all = Vec::new();
    let mut add = |path: &str, policy: &str, key: String, change: &dyn Fn(&mut Request<Bytes>)| {
        let mut request = Client::request(path);
        change(&mut request);
        // Different counts, so that series that were mixed up would show it.
        all.push(Sent { request, series: (policy.to_owned(), key), more: all.len() % 4 + 1 });
    };
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap();
    for (tenant, text) in tenants() {
        let change = |request: &mut Request<Bytes>| drop(request.headers_mut().insert("x-tenant", value(&tenant)));
        add("/tenants", "tenants", format!("x-tenant={text}"), &change);
    }
    for (index, (_, text)) in routes().into_iter().enumerate() {
        add(&format!("/routes/{index}"), "routes", format!("route={text}"), &|_| ());
    }
    for (authority, text) in authorities() {
        let change =
            |request: &mut Request<Bytes>| drop(request.headers_mut().insert("host", value(authority.as_bytes())));
        add("/authorities", "authorities", format!("authority={text}"), &change);
    }
    // What a value holds can never look like the next one.
    for (authority, tenant, key) in [
        ("a", "b,x-tenant=c", "authority=a,x-tenant=b%2Cx-tenant%3Dc"),
        ("a.", "b.", "authority=a%2E,x-tenant=b%2E"),
        ("a.", "b", "authority=a%2E,x-tenant=b"),
    ] {
        let change = |request: &mut Request<Bytes>| {
            request.headers_mut().insert("host", value(authority.as_bytes()));
            request.headers_mut().insert("x-tenant", value(tenant.as_bytes()));
        };
        add("/pairs", "pairs", key.to_owned(), &change);
    }
    add("/", "services", format!("cluster={OUTBOUND}"), &|_| ());
    add("/", "all", "all".to_owned(), &|_| ());
    all.last_mut().unwrap().request.headers_mut().insert("x-all", value(b"1"));
    all
}

fn policy() -> Value {
    let breaker = json!({"window": "60s", "min_requests": 1, "open_for": "1h"});
    let tenant = json!({"header": "x-tenant"});
    json!({"policies": [
        {"name": "all", "match": {"header": {"x-all": "1"}}, "scope": [], "breaker": breaker},
        {"name": "tenants", "match": {"path": ["/tenants"]}, "scope": [tenant], "breaker": breaker},
        {"name": "routes", "match": {"path": ["/routes/*"]}, "scope": ["route"], "breaker": breaker},
        {"name": "authorities", "match": {"path": ["/authorities"]}, "scope": ["authority"], "breaker": breaker},
        {"name": "pairs", "match": {"path": ["/pairs"]}, "scope": ["authority", tenant], "breaker": breaker},
        {"name": "services", "breaker": breaker},
    ]})
}

/// Sends all requests through an Envoy with these tags, and finds each key once, under one spelling, in Prometheus, in the log and
/// in the access log. Gives Prometheus, to be asked more.
async fn each_key_is_one_series(tags: Value) -> (Scene, Prometheus) {
    let host = Backend::start().await.unwrap();
    host.always(Action::status(500));
    let mut options = EnvoyOptions::new().cluster(Cluster::new(OUTBOUND).endpoint(host.addr()));
    for (index, (name, _)) in routes().into_iter().enumerate() {
        let route = Route::to(&format!("/routes/{index}"), OUTBOUND).raw(json!({"name": name}));
        options = options.route(route);
    }
    let scene = Scene::with(options.route(Route::to("/", OUTBOUND)).tags(tags).policy(policy())).await;

    let mut expected: BTreeMap<Series, String> = BTreeMap::new();
    for sent in requests() {
        for _ in 0..sent.more {
            scene.client.send(sent.request.clone()).await.unwrap();
        }
        let before = expected.insert(sent.series, sent.more.to_string());
        assert_eq!(before, None, "the keys of this test are different ones");
    }
    let keys: BTreeSet<Series> = expected.keys().cloned().collect();
    let opened: BTreeMap<Series, String> = keys.iter().map(|series| (series.clone(), "1".to_owned())).collect();

    let prometheus = Prometheus::start(&[scene.admin_addr()]).await.unwrap();
    for (name, expected) in [("holdfast_requests", &expected), ("holdfast_breaker_opened_failure_rate", &opened)] {
        eventually(PATIENCE, || async {
            let found = series(&prometheus, name).await;
            if found == *expected { Ok(()) } else { Err(difference(&found, expected)) }
        })
        .await
        .unwrap();
    }
    assert_eq!(prometheus.targets().await.unwrap(), [("up".to_owned(), String::new())], "every line can be read");
    let names = prometheus.query("count by (__name__) ({__name__=~\"holdfast.*\"})").await.unwrap();
    for (labels, count) in names {
        let name = labels["__name__"].as_str();
        let plain =
            name.strip_prefix("holdfast_").is_some_and(|rest| !rest.contains("policy") && !rest.contains("key"));
        assert!(plain, "{name}: the tags take policy and key out of every name");
        let signal = ["holdfast_epoch", "holdfast_runs"].contains(&name);
        assert_eq!(count, if signal { 1 } else { keys.len() }.to_string(), "{name}");
    }
    for (policy, key) in &keys {
        let exactly = format!("holdfast_breaker_state{{policy=\"{policy}\",key=\"{key}\"}} == 2");
        assert_eq!(prometheus.query(&exactly).await.unwrap().len(), 1, "{exactly}");
    }

    let logged: BTreeSet<String> = keys
        .iter()
        .flat_map(|(policy, _)| scene.transitions(policy))
        .filter_map(|line| Some(line.split_once(": closed -> open")?.0.to_owned()))
        .collect();
    assert_eq!(
        logged,
        keys.iter().map(|(policy, key)| format!("{policy}/{key}")).collect(),
        "the log spells them alike"
    );
    let sent = requests().iter().map(|sent| sent.more).sum();
    let mut in_access_log = BTreeSet::new();
    for entry in scene.wait_for_access_log(sent).await.unwrap() {
        let field = |name| entry.holdfast_field(name).unwrap_or_default().to_owned();
        in_access_log.insert((field("policy"), field("key")));
    }
    assert_eq!(in_access_log, keys, "and so does the access log");
    (scene, prometheus)
}

/// The value of each series of a name, by its policy and key.
async fn series(prometheus: &Prometheus, name: &str) -> BTreeMap<Series, String> {
    let samples = prometheus.query(name).await.unwrap();
    let mut found = BTreeMap::new();
    for (labels, value) in samples {
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let before = found.insert((label("policy"), label("key")), value);
        assert_eq!(before, None, "one series for each key: {labels:?}");
    }
    found
}

fn difference(found: &BTreeMap<Series, String>, expected: &BTreeMap<Series, String>) -> String {
    let only = |one: &BTreeMap<Series, String>, other: &BTreeMap<Series, String>| {
        let missing = one.iter().filter(|(series, value)| other.get(*series) != Some(*value));
        missing.map(|(series, value)| format!("{series:?} {value}")).collect::<Vec<_>>()
    };
    format!("only found: {:#?}, only expected: {:#?}", only(found, expected), only(expected, found))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_is_one_series_in_prometheus_whatever_it_holds() {
    let (_scene, prometheus) = each_key_is_one_series(stats_tags()).await;
    let orders = format!("holdfast_requests{{key=\"cluster={OUTBOUND}\"}}");
    assert_eq!(prometheus.query(&orders).await.unwrap().len(), 1, "a service is found by its cluster's own name");
    let all_orders = r#"holdfast_requests{key=~"cluster=outbound\\|8080\\|\\|orders[.].*"}"#;
    assert_eq!(prometheus.query(all_orders).await.unwrap().len(), 1, "as the documentation says");
    let labels: BTreeSet<String> = prometheus
        .query("{policy=\"tenants\"}")
        .await
        .unwrap()
        .into_iter()
        .flat_map(|(labels, _)| labels.into_keys())
        .collect();
    assert_eq!(labels, ["__name__", "instance", "job", "key", "policy"].map(str::to_owned).into());
}

/// Istio's bootstrap has tags that may stand anywhere in a name. Source: Istio, `tools/packaging/common/envoy_bootstrap.json`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tags_of_istios_bootstrap_leave_each_key_its_series() {
    let mut tags = stats_tags();
    let of_istio = [
        // As `extraStatTags: policy,key,host` makes it. No metric has that label yet, and no key can make one.
        ("host", r"(host=\.=(.*?);\.;)"),
        ("cache", r"(cache\.(.+?)\.)"),
        ("component", r"(component\.(.+?)\.)"),
        ("tag", r"(tag\.(.+?);\.)"),
        ("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
        ("authz_enforce_result", r"rbac(\.(allowed|denied))"),
        ("authz_dry_run_action", r"(\.istio_dry_run_(allow|deny)_)"),
        ("authz_dry_run_result", r"(\.shadow_(allowed|denied))"),
        ("response_code", r"_rq(_(\d{3}))$"),
        ("response_code_class", r"_rq(_(\dxx))$"),
    ];
    let of_istio = of_istio.map(|(name, regex)| json!({"tag_name": name, "regex": regex}));
    tags.as_array_mut().unwrap().extend(of_istio);

    let (_scene, prometheus) = each_key_is_one_series(tags).await;

    assert!(
        prometheus.query("{host!=\"\", __name__=~\"holdfast.*\"}").await.unwrap().is_empty(),
        "no key makes a label"
    );
    for (tenant, label, value) in [
        ("cache.default", "cache", "default;"),
        ("my-component.a.b", "component", "a"),
        ("outbound|80||orders.stag.svc.cluster.local", "tag", "svc.cluster.local"),
        ("rbac.allowed", "authz_enforce_result", "allowed"),
    ] {
        let of_tenant = format!("holdfast_requests{{key=\"x-tenant={tenant}\"}}");
        let samples = prometheus.query(&of_tenant).await.unwrap();
        let found: Vec<Option<&str>> =
            samples.iter().map(|(labels, _)| labels.get(label).map(String::as_str)).collect();
        assert_eq!(found, [Some(value)], "such a key has a label more, as the documentation says: {tenant}");
    }
}

#[test]
fn a_value_can_be_read_back_from_its_key() {
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    for (value, text) in tenants().iter().filter(|(_, text)| !text.contains('~')) {
        assert_eq!(decoded(text), *value);
    }
    for (value, text) in routes().into_iter().chain(authorities()) {
        assert_eq!(decoded(text), value.as_bytes());
    }
}
