//! Clients that do not speak gRPC themselves: a filter before Holdfast makes gRPC of what they send, and translates the answer. Each gets
//! a rejection or a fallback in its own language.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{Action, Backend, Client, Cluster, EnvoyOptions, Response, Route, Scene};
use http::Request;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    ServiceDescriptorProto,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    Grpc,
    /// gRPC-web, behind the filter for it. `named`: the client says so in `x-grpc-web`, as Google's do.
    Web {
        named: bool,
    },
    /// JSON over HTTP, behind a transcoder.
    Json,
    /// gRPC-web that no filter translates: the host speaks it.
    WebOfTheHost {
        text: bool,
    },
}

const ALL: [Speech; 6] = [
    Speech::Grpc,
    Speech::Web { named: true },
    Speech::Web { named: false },
    Speech::Json,
    Speech::WebOfTheHost { text: false },
    Speech::WebOfTheHost { text: true },
];

/// A service `orders.Orders` with a method `List`.
fn descriptor() -> Vec<u8> {
    let message = |name: &str| DescriptorProto {
        name: Some(name.to_owned()),
        field: vec![FieldDescriptorProto {
            name: Some("id".to_owned()),
            number: Some(1),
            label: Some(Label::Optional.into()),
            r#type: Some(Type::String.into()),
            ..FieldDescriptorProto::default()
        }],
        ..DescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("orders.proto".to_owned()),
        package: Some("orders".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![message("Request"), message("Response")],
        service: vec![ServiceDescriptorProto {
            name: Some("Orders".to_owned()),
            method: vec![MethodDescriptorProto {
                name: Some("List".to_owned()),
                input_type: Some(".orders.Request".to_owned()),
                output_type: Some(".orders.Response".to_owned()),
                ..MethodDescriptorProto::default()
            }],
            ..ServiceDescriptorProto::default()
        }],
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

fn filter(name: &str, mut config: Value, kind: &str) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{kind}"));
    json!({"name": name, "typed_config": config})
}

impl Speech {
    fn filters(self, options: EnvoyOptions, descriptor: &Path) -> EnvoyOptions {
        match self {
            Speech::Grpc | Speech::WebOfTheHost { .. } => options,
            Speech::Web { .. } => options.filter(filter("web", json!({}), "grpc_web.v3.GrpcWeb")),
            Speech::Json => options.filter(filter(
                "json",
                json!({"proto_descriptor": descriptor, "services": ["orders.Orders"], "auto_mapping": true}),
                "grpc_json_transcoder.v3.GrpcJsonTranscoder",
            )),
        }
    }

    fn client(self, scene: &Scene) -> Client {
        if self == Speech::Grpc { Client::http2(scene.addr()) } else { Client::http1(scene.addr()) }
    }

    fn content_type(self) -> &'static str {
        match self {
            Speech::Grpc => "application/grpc",
            Speech::Json => "application/json",
            Speech::WebOfTheHost { text: true } => "application/grpc-web-text+proto",
            Speech::Web { .. } | Speech::WebOfTheHost { text: false } => "application/grpc-web+proto",
        }
    }

    fn request(self) -> Request<Bytes> {
        let mut request = Client::grpc_request("/orders.Orders/List");
        if self == Speech::Grpc {
            return request;
        }
        request.headers_mut().remove("te");
        request.headers_mut().insert("content-type", self.content_type().parse().unwrap());
        match self {
            Speech::Json => *request.body_mut() = Bytes::from_static(b"{}"),
            Speech::Web { named: true } => drop(request.headers_mut().insert("x-grpc-web", "1".parse().unwrap())),
            _ => {}
        }
        request
    }

    /// That it understands the answer as this gRPC status, which is this one of HTTP.
    #[track_caller]
    fn assert_understands(self, response: &Response, grpc_status: u32, http_status: u16, what: &str) {
        let place = format!("{self:?}: {what}: {response:?}");
        let header = |name: &str| response.header(name).unwrap_or_default();
        match self {
            Speech::Grpc => {
                assert_eq!((response.status, header("grpc-status")), (200, grpc_status.to_string()), "{place}");
                assert_eq!(header("content-type"), "application/grpc", "{place}");
                assert!(header("grpc-message").contains("orders"), "it says whose answer it is: {place}");
                assert!(response.body.is_empty(), "{place}");
                assert_eq!(response.headers.get_all("grpc-status").iter().count(), 1, "{place}");
            }
            Speech::Web { .. } | Speech::WebOfTheHost { .. } => {
                assert_eq!(header("grpc-status"), grpc_status.to_string(), "{place}");
                assert_eq!(header("content-type"), self.content_type(), "{place}");
                assert!(header("grpc-message").contains("orders"), "{place}");
            }
            Speech::Json => {
                assert_eq!(response.status, http_status, "{place}");
                assert_ne!(header("content-type"), "application/json", "it is no message of the service: {place}");
            }
        }
        let ours = ["x-holdfast-fallback", "x-holdfast-reject"].map(|name| response.header(name).is_some());
        assert!(ours.contains(&true), "{place}");
    }
}

fn options(host: &Backend, policy: Value) -> EnvoyOptions {
    EnvoyOptions::new()
        .concurrency(1)
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders").timeout(Duration::from_secs(2)))
        .policy(policy)
}

/// Envoy's own replies get another body, as many have configured it.
fn rewritten(options: EnvoyOptions) -> EnvoyOptions {
    options.raw_hcm(json!({"local_reply_config": {"body_format": {"json_format": {"envoy": "%LOCAL_REPLY_BODY%"}}}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_is_understood_by_each_client() {
    let dir = TempDir::new().unwrap();
    let descriptor = dir.path().join("orders.pb");
    std::fs::write(&descriptor, self::descriptor()).unwrap();
    let host = Backend::start().await.unwrap();
    let breaker = json!({"state": "forced_open"});
    let plain = json!({"policies": [{"name": "orders", "breaker": breaker}]});
    let fallback = json!({"policies": [{"name": "orders", "breaker": breaker, "fallback": [
        {"on": ["open"], "respond": {"status": 200, "body": {"items": []}, "grpc_status": "RESOURCE_EXHAUSTED"}},
    ]}]});
    for speech in ALL {
        for (policy, grpc_status, http_status) in [(&plain, 14, 503), (&fallback, 8, 429)] {
            let scene = Scene::with(speech.filters(options(&host, policy.clone()), &descriptor)).await;
            let response = speech.client(&scene).send(speech.request()).await.unwrap();
            speech.assert_understands(&response, grpc_status, http_status, "rejected");
            assert!(response.header("retry-after").is_some());
        }
        // Where Envoy rewrites its own replies they are errors still, and whole.
        let scene = Scene::with(rewritten(speech.filters(options(&host, plain.clone()), &descriptor))).await;
        let response = speech.client(&scene).send(speech.request()).await.unwrap();
        let status = response.grpc_status().map_or(response.status, |_| 200);
        let is_grpc = matches!(speech, Speech::Grpc | Speech::Web { .. });
        let is_error = if is_grpc { response.grpc_status() == Some(14) } else { response.status == 503 };
        assert!(is_error, "{speech:?}: {status} {response:?}");
    }
    assert_eq!(host.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_failure_is_understood_by_each_client() {
    let dir = TempDir::new().unwrap();
    let descriptor = dir.path().join("orders.pb");
    std::fs::write(&descriptor, self::descriptor()).unwrap();
    let host = Backend::start().await.unwrap();
    let text = Action::status(503).header("content-type", "text/html").body("<h1>down</h1>");
    for (grpc_status, name, http_status) in [(14, "UNAVAILABLE", 503), (8, "RESOURCE_EXHAUSTED", 429)] {
        let policy = json!({"policies": [{"name": "orders", "fallback": [
            {"on": ["failure", "timeout"], "respond": {"status": 200, "body": {"items": []}, "grpc_status": name}},
        ]}]});
        for speech in ALL {
            let scene = Scene::with(speech.filters(options(&host, policy.clone()), &descriptor)).await;
            let client = speech.client(&scene);
            let failing = [
                ("gRPC", Action::grpc_trailers_only(14).header("grpc-message", "the host's")),
                ("text", text.clone()),
                ("text without a body", Action::status(500)),
                ("a reset", Action::reset_stream()),
                ("a time-out", Action::hang()),
            ];
            for (what, action) in failing {
                host.always(action);
                let response = client.send(speech.request()).await.unwrap();
                // Envoy's filter for gRPC-web makes the status of an answer with a body from that of HTTP.
                let is_web = matches!(speech, Speech::Web { .. });
                let has_body = what == "text" || is_web && ["a reset", "a time-out"].contains(&what);
                let expected = if is_web && has_body { web_status(http_status) } else { grpc_status };
                speech.assert_understands(&response, expected, http_status, what);
                let said = [response.header("grpc-message").unwrap_or_default(), response.text()].concat();
                assert!(!said.contains("host's") && !said.contains("down"), "{speech:?}: {what}: {said}");
            }
            assert_eq!(scene.metric("failure").await, 5);
            assert_eq!(scene.metric("fallback.static").await, 5);
            let stats = scene.stats().await.unwrap();
            let resets = stats.get("cluster.orders.upstream_rq_tx_reset").copied().unwrap_or_default();
            assert_eq!(resets, 1, "{speech:?}: of the time-out alone");
        }
    }
}

/// The gRPC status that Envoy reads out of a status of HTTP. Source: Envoy, `Grpc::Utility::httpToGrpcStatus`, after "HTTP to gRPC Status
/// Code Mapping".
fn web_status(http_status: u16) -> u32 {
    match http_status {
        429 | 503 => 14,
        other => panic!("{other} is not among them"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_replaced_is_translated_as_ever() {
    let dir = TempDir::new().unwrap();
    let descriptor = dir.path().join("orders.pb");
    std::fs::write(&descriptor, self::descriptor()).unwrap();
    let host = Backend::start().await.unwrap();
    host.script(|request| {
        let content_type = request.header("content-type").unwrap_or_default();
        if content_type == "application/grpc" {
            return Action::grpc(0);
        }
        Action::ok().header("content-type", content_type).body("a message and a trailer")
    });
    let policy = json!({"policies": [{"name": "orders", "breaker": {}, "fallback": [
        {"on": ["failure"], "respond": {"status": 200, "body": {"items": []}}},
    ]}]});
    for speech in ALL {
        let scene = Scene::with(speech.filters(options(&host, policy.clone()), &descriptor)).await;
        let response = speech.client(&scene).send(speech.request()).await.unwrap();
        match speech {
            Speech::Grpc => assert_eq!(response.grpc_status(), Some(0)),
            Speech::Web { .. } => {
                assert!(response.text().contains("grpc-status:0"), "in the body's last frame: {response:?}");
            }
            Speech::WebOfTheHost { .. } => assert_eq!(response.text(), "a message and a trailer"),
            Speech::Json => assert_eq!((response.status, response.json()), (200, json!({}))),
        }
        scene.becomes("success", 1).await;
    }
}
