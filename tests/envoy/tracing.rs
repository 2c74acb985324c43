//! What Holdfast decided stands in the spans that a collector gets: `envoy/observability/tracing.yaml` as it is shipped.

use std::collections::BTreeSet;

use holdfast_tests::{
    Action, Backend, Client, Cluster, Envoy, EnvoyOptions, PATIENCE, Route, Scene, Seats, envoy_version, eventually,
    with_header,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};

use crate::observing::text;

/// The first Envoy whose tags take a format string.
const FORMATS: (u32, u32) = (1, 37);

const POLICY: &str = "orders";

/// An Envoy before one service, with the shipped tracing, all of it sampled, and the access log that older Envoys need as well.
fn options(orders: &Backend, collector: &Backend, tagged: bool) -> EnvoyOptions {
    let shipped: Value = serde_norway::from_str(&text("envoy/observability/tracing.yaml")).unwrap();
    let mut tracing = shipped["tracing"].clone();
    tracing["random_sampling"] = json!({"value": 100});
    if !tagged {
        tracing.as_object_mut().unwrap().remove("custom_tags");
    }
    let name = shipped["clusters"][0]["name"].as_str().unwrap();
    let mut cluster = shipped["clusters"][0].clone();
    for ours in ["name", "type", "load_assignment"] {
        cluster.as_object_mut().unwrap().remove(ours);
    }
    let log = json!([{
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": {
                "trace": "%TRACE_ID%", "holdfast": "%FILTER_STATE(wasm.holdfast:PLAIN)%", "of": "the test",
            }},
        },
    }]);
    EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(orders.addr()))
        .cluster(Cluster::new(name).endpoint(collector.addr()).without_attempt_seat().raw(cluster))
        .seats(Seats::Both)
        .route(Route::to("/", "orders"))
        .raw_hcm(json!({"tracing": tracing, "access_log": log}))
        .policy(json!({"policies": [{
            "name": POLICY,
            "breaker": {"window": 4, "min_requests": 4, "open_for": "1h"},
            "retry": {"backoff": {"base": "1ms", "max": "1ms"}},
            "fallback": [{"on": ["open"], "respond": {"status": 200}}],
        }]}))
}

/// All spans that a collector was sent.
pub fn spans(collector: &Backend) -> Vec<Span> {
    let mut spans = Vec::new();
    for request in collector.seen() {
        assert_eq!(
            (request.path.as_str(), request.header("content-type").as_deref()),
            ("/v1/traces", Some("application/x-protobuf"))
        );
        let exported = ExportTraceServiceRequest::decode(request.body.clone()).expect("Envoy exports OTLP");
        let scopes = exported.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        spans.extend(scopes.flat_map(|scope| scope.spans));
    }
    spans
}

/// A tag of a span, which is text.
pub fn tag(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(value) => Some(value.clone()),
        other => panic!("{name} is text: {other:?}"),
    }
}

fn trace(span: &Span) -> String {
    span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the access log has: the trace, and the filter state.
fn logged(scene: &Scene) -> BTreeSet<(String, String)> {
    let lines = scene.log();
    let entries = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = entries.filter(|entry| entry["of"] == "the test");
    let field = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    ours.map(|entry| (field(&entry, "trace"), field(&entry, "holdfast"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_has_what_holdfast_decided_and_one_below_it_for_each_attempt() {
    let (orders, collector) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let tagged = envoy_version() >= FORMATS;
    if !tagged {
        let refused =
            Envoy::validate(options(&orders, &collector, true)).await.expect_err("an older Envoy has no such tag");
        assert!(refused.to_string().contains("custom_tags"), "{refused}");
    }
    let scene = Scene::with(options(&orders, &collector, tagged)).await;

    // One that a retry saves, then so many failures that the breaker opens, then a rejection.
    orders.script(Action::in_turn("x-request-key", vec![Action::status(503), Action::ok()]));
    let saved = with_header(Client::request("/saved"), "x-request-key", "saved");
    assert_eq!(scene.client.send(saved).await.unwrap().status, 200);
    orders.always(Action::status(500));
    let mut requests = 1;
    while scene.metric_of(POLICY, "cluster=orders", "breaker_state").await != 2 {
        scene.client.get("/failed").await.unwrap();
        requests += 1;
        assert!(requests < 20, "failures open it");
    }
    assert_eq!(scene.client.get("/rejected").await.unwrap().status, 200);
    requests += 1;

    // A request's own span has no parent here.
    let all = eventually(PATIENCE, || async {
        let spans = spans(&collector);
        let own = spans.iter().filter(|span| span.parent_span_id.is_empty()).count();
        let logged = logged(&scene).len();
        if (own, logged) == (requests, requests) { Ok(spans) } else { Err(format!("{own} spans, {logged} lines")) }
    })
    .await
    .expect("every request is traced and logged");

    let (own, attempts): (Vec<&Span>, Vec<&Span>) = all.iter().partition(|span| span.parent_span_id.is_empty());
    let of = |path: &str| {
        let found = own.iter().find(|span| tag(span, "http.url").is_some_and(|url| url.ends_with(path)));
        *found.unwrap_or_else(|| panic!("{path} has a span: {own:#?}"))
    };
    let below = |span: &Span| attempts.iter().filter(|attempt| attempt.parent_span_id == span.span_id).count();
    assert_eq!(
        [below(of("/saved")), below(of("/failed")), below(of("/rejected"))],
        [2, 1, 0],
        "a span for each attempt"
    );

    let logged = logged(&scene);
    let traces: BTreeSet<String> = logged.iter().map(|(trace, _)| trace.clone()).collect();
    assert_eq!(traces, own.iter().map(|span| trace(span)).collect(), "%TRACE_ID% finds the span of a line");
    if tagged {
        let tags: BTreeSet<(String, String)> =
            own.iter().map(|span| (trace(span), tag(span, "holdfast").unwrap_or_default())).collect();
        assert_eq!(tags, logged, "the tag is what the access log has");
        let saved = tag(of("/saved"), "holdfast").unwrap();
        let host = orders.addr();
        assert!(saved.starts_with("policy=orders; key=cluster=orders; decision=admitted; attempts="), "{saved}");
        assert!(
            saved.contains(&format!("{host} failure:503 ")) && saved.contains(&format!("{host} success:200 ")),
            "{saved}"
        );
        let rejected = tag(of("/rejected"), "holdfast").unwrap();
        assert_eq!(rejected, "policy=orders; key=cluster=orders; decision=fallback; reason=open; kind=static");
    }
}
