//! What fallback answers insert into their headers and into the strings of JSON bodies, and that it stays where it is put.

use bytes::Bytes;
use holdfast_tests::{Action, Backend, Client, Cluster, EnvoyOptions, Route, Scene};
use http::{HeaderValue, Request};
use serde_json::{Value, json};

/// One policy with a fallback for rejections and failures; `breaker` decides which of them it is.
fn orders(breaker: &str, respond: Value) -> Value {
    let fallback = json!([{"on": ["open", "failure"], "respond": respond}]);
    json!({"policies": [{"name": "orders", "breaker": {"state": breaker}, "fallback": fallback}]})
}

fn request(path: &str, id: &[u8]) -> Request<Bytes> {
    let mut request = Client::request(path);
    request.headers_mut().insert("x-id", HeaderValue::from_bytes(id).unwrap());
    request
}

/// What is inserted into everything that can hold it.
fn everywhere() -> Value {
    json!({
        "status": 503,
        "headers": {
            "X-Why": "${reason} of ${policy}, again in ${retry_after} s", "x-at": "<${path}>", "x-id": "${header.X-Id}",
            "x-none": "${header.x-none}", "x-literal": "$${path}, $5",
        },
        "body": {"at": ["${path}", {"${path}": "$${path} ${header.x-id}"}], "retry": 7, "why": "${reason}"},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_and_strings_of_a_json_body_are_templates() {
    let host = Backend::start().await.unwrap();
    for (breaker, reason, wait, requests) in [("forced_open", "open", "1", 0), ("forced_closed", "failure", "0", 1)] {
        host.reset_counters();
        host.always(Action::status(500).body("of the host"));
        let scene = Scene::start(&host, orders(breaker, everywhere())).await;

        let response = scene.client.send(request("/items?id=7&x=%22'", b"a\"b")).await.unwrap();

        assert_eq!(host.requests(), requests);
        assert_eq!(response.status, 503);
        let header = |name: &str| response.header(name);
        assert_eq!(header("x-why").unwrap(), format!("{reason} of orders, again in {wait} s"));
        assert_eq!(
            header("x-at").as_deref(),
            Some("</items?id=7&x=%22'>"),
            "of the request, also when the host has answered"
        );
        assert_eq!(header("x-id").as_deref(), Some("a\"b"));
        assert_eq!(header("x-none"), None, "a header that came out empty is left out");
        assert_eq!(header("x-literal").as_deref(), Some("${path}, $5"));
        assert_eq!(header("content-type").as_deref(), Some("application/json"));
        assert_eq!(
            response.text(),
            format!(r#"{{"at":["/items?id=7&x=%22'",{{"${{path}}":"${{path}} a\"b"}}],"retry":7,"why":"{reason}"}}"#),
            "strings are filled in, keys and numbers are as they were written"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_that_a_client_sends_leaves_its_place() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::start(&host, orders("forced_open", everywhere())).await;
    let nasty = b"\",\"x\":\"</script>\\\x80\xff\t'";

    for client in [scene.client.clone(), Client::http2(scene.addr())] {
        let response = client.send(request("/", nasty)).await.unwrap();

        let value = "\",\"x\":\"</script>\\\u{fffd}\u{fffd}";
        let expected = json!({"why": "open", "at": ["/", {"${path}": format!("${{path}} {value}\t'")}], "retry": 7});
        assert_eq!(response.json(), expected, "{}", response.text());
        assert_eq!(response.header("x-id").unwrap(), format!("{value} '"), "a tab becomes a space");
        assert_eq!(response.header("x"), None);
    }

    let long = "a".repeat(9000);
    let response = scene.client.send(request(&format!("/{long}"), b"1")).await.unwrap();
    assert_eq!(response.header("x-at"), None, "longer than clients take a header");
    assert_eq!(response.header("x-id").as_deref(), Some("1"));
    assert_eq!(response.json()["at"][0], format!("/{long}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_become_metadata_of_a_grpc_answer() {
    let host = Backend::start().await.unwrap();
    let options = EnvoyOptions::new().cluster(Cluster::new("orders").endpoint(host.addr()).http2());
    let scene = Scene::with(options.route(Route::to("/", "orders")).policy(orders("forced_open", everywhere()))).await;
    let mut call = Client::grpc_request("/shop.Orders/Get");
    call.headers_mut().insert("x-id", HeaderValue::from_static("17"));

    let response = Client::http2(scene.addr()).send(call).await.unwrap();

    assert_eq!((response.status, response.header("grpc-status").as_deref()), (200, Some("14")));
    assert_eq!(response.header("x-at").as_deref(), Some("</shop.Orders/Get>"));
    assert_eq!(response.header("x-id").as_deref(), Some("17"));
}
