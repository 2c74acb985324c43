//! A policy document that is a `google.protobuf.Struct`, whose bytes the module gets as they are on the wire: it governs as its text
//! would, in both seats, and hostile bytes are refused.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_tests::{
    Action, Backend, Cluster, Envoy, EnvoyOptions, Route, Scene, Seats, attempt_seat_filter, gaps, holdfast_filter,
    upstream_codec, wasm_module,
};
use serde_json::{Value, json};

use crate::retrying::{ID, request, seats_meet};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn structure(value: Value) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": value})
}

fn bytes(bytes: &[u8]) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.BytesValue", "value": STANDARD.encode(bytes)})
}

/// The request seat with this as its plugin's configuration.
fn filter(configuration: Value) -> Value {
    let mut filter = holdfast_filter(&wasm_module().unwrap(), &json!({"policies": []}).into());
    filter["typed_config"]["config"]["configuration"] = configuration;
    filter
}

/// What the module says of a configuration that it refuses.
async fn refusal(host: &Backend, configuration: Value) -> Vec<String> {
    let error = Envoy::validate(Scene::of(host).filter(filter(configuration))).await.unwrap_err();
    let told = error.log.lines().filter_map(|line| line.split_once("holdfast: configuration refused: "));
    told.map(|(_, error)| error.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_struct_governs_as_its_text_would() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders",
        "breaker": {"window": "60s", "min_requests": 4, "failure_rate": 99.5, "open_for": "1h"},
        "fallback": [{"on": ["open"], "respond": {
            "status": 200, "headers": {"x-why": "${reason}"},
            "body": {"total": 0, "items": [1, -300, null, true, "${path}", {"z": {}, "a": []}]},
        }}],
    }]});
    let scene = Scene::with(Scene::of(&host).filter(filter(structure(policy)))).await;

    host.always(Action::status(500));
    for _ in 0..4 {
        assert_eq!(scene.client.get("/").await.unwrap().status, 500);
    }
    assert!(scene.transitions("orders")[0].contains(">= 99.5%"), "Envoy's reader of YAML makes a text of it");
    let response = scene.client.get("/a").await.unwrap();

    assert_eq!((response.status, host.requests()), (200, 4));
    assert_eq!(response.header("x-why").as_deref(), Some("open"));
    assert_eq!(
        response.text(),
        r#"{"items":[1,-300,null,true,"/a",{"a":[],"z":{}}],"total":0}"#,
        "whole numbers are written as such, and keys stand in the order of the alphabet"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_seats_take_structs() {
    let host = Backend::start().await.unwrap();
    let mut attempt = attempt_seat_filter(&wasm_module().unwrap());
    attempt["typed_config"]["config"]["vm_config"]["configuration"] = structure(json!({"seat": "attempt"}));
    attempt["typed_config"]["config"]["configuration"] = structure(json!({}));
    let options = json!({
        "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
        "explicit_http_config": {"http_protocol_options": {}},
        "http_filters": [attempt, upstream_codec()],
    });
    let cluster = Cluster::new("orders")
        .endpoint(host.addr())
        .without_attempt_seat()
        .raw(json!({"typed_extension_protocol_options": {HTTP_OPTIONS: options}}));
    let mut request_seat = filter(structure(json!({"policies": [{"name": "orders", "retry": {
        "max_retries": 1, "on": [503], "backoff": {"base": "300ms", "max": "300ms", "jitter": "none"},
    }}]})));
    request_seat["typed_config"]["config"]["vm_config"]["configuration"] = structure(json!({"seat": "request"}));
    let options = EnvoyOptions::new().cluster(cluster).route(Route::to("/", "orders")).seats(Seats::Both);
    let scene = Scene::with(options.filter(request_seat)).await;

    seats_meet(std::slice::from_ref(&scene.client), "/").await;
    host.script(Action::in_turn(ID, [Action::status(503), Action::ok()]));
    assert_eq!(scene.client.send(request("/", "7")).await.unwrap().status, 200);

    let gaps = gaps(&host.seen_with(ID, "7"));
    assert_eq!(gaps.len(), 1);
    assert!(gaps[0] >= Duration::from_millis(290), "the attempt seat has the policy, and waits as it says: {gaps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_struct_is_an_empty_document() {
    let host = Backend::start().await.unwrap();
    let missing = "policies: is missing; must be a list of policies, [] lets everything pass; the document is empty";
    let text = json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "{}"});
    for configuration in [structure(json!({})), text, Value::Null] {
        assert_eq!(refusal(&host, configuration.clone()).await, [missing], "{configuration}");
    }
    let scene = Scene::with(Scene::of(&host).filter(filter(structure(json!({"policies": []}))))).await;
    host.always(Action::status(500));
    assert_eq!(scene.client.burst(10, "/").await.count(500), 10, "none governs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_a_struct_is_told_by_its_paths() {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{
        "name": "orders", "breaker": {"failure_rate": 140, "min_requests": 1.5},
        "fallback": [{"on": ["open"], "respond": {"status": 200, "body": {"items": [{"name": "${naem}"}]}}}],
    }]});
    let mut told = refusal(&host, structure(policy)).await;
    told.sort();
    let [min_requests, failure_rate, body] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(min_requests, "policies[0].breaker.failure_rate: must be within 0..=100, was 140");
    assert!(failure_rate.starts_with("policies[0].breaker.min_requests: must be a whole number "), "{failure_rate}");
    assert!(
        body.starts_with("policies[0].fallback[0].respond.body.items[0].name: unknown variable \"naem\""),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_neither_are_refused() {
    let host = Backend::start().await.unwrap();
    let framed = |key: u8, inner: &[u8]| {
        let (mut out, mut left) = (vec![key], inner.len());
        while left > 127 {
            out.push(left as u8 | 128);
            left >>= 7;
        }
        out.push(left as u8);
        [out.as_slice(), inner].concat()
    };
    let of = |value: &[u8]| framed(10, &[b"\x0a\x08policies", framed(18, value).as_slice()].concat());
    let deep = (0..3000).fold(Vec::new(), |inner, _| framed(50, &framed(10, &inner)));
    let many = framed(50, &[10, 0].repeat(4_000_000));
    let neither = "document: neither a text nor a google.protobuf.Struct: ";
    for (what, bytes_of, starts) in [
        (
            "NaN",
            of(&[&[17], f64::NAN.to_le_bytes().as_slice()].concat()),
            "policies: must be a number that JSON has, was NaN",
        ),
        (
            "infinity",
            of(&[&[17], f64::INFINITY.to_le_bytes().as_slice()].concat()),
            "policies: must be a number that JSON has, was inf",
        ),
        ("deep", of(&deep), neither),
        ("cut off", of(&deep)[..20].to_vec(), neither),
        ("many", of(&many), "policies: must have at most 1000 policies, has 4000000"),
        (
            "too many",
            of(&framed(50, &[10, 0].repeat(4_200_000))),
            "document: a google.protobuf.Struct must be at most 8 MiB",
        ),
        ("bytes", b"\xff\x00{".to_vec(), "document: neither a text nor a google.protobuf.Struct"),
    ] {
        let told = refusal(&host, bytes(&bytes_of)).await;
        assert!(told.len() == 1 && told[0].starts_with(starts) && told[0].len() < 300, "{what}: {told:?}");
    }
    let good = bytes(br#"{"policies": []}"#);
    Envoy::validate(Scene::of(&host).filter(filter(good))).await.unwrap();
}
