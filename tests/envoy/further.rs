//! A fallback that has another cluster serve after the last attempt: what follows what, what each policy counts, and what the route has to say
//! for it.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Records, Response, Route, Scene, Seats, Template,
    Traffic, drive_all, envoy_version, eventually, retry_policy, with_header,
};
use serde_json::{Value, json};

use crate::detours::{breaker, choosing, metric, origin};

/// Whether Envoy can choose the cluster of a retry anew.
fn can_choose_again() -> bool {
    envoy_version() >= (1, 39)
}

/// A route that lets a fallback choose one of `others`, for a retry too.
fn choosing_again(prefix: &str, cluster: &str, others: &[&str]) -> Route {
    let mut policy = retry_policy();
    policy["refresh_cluster_on_retry"] = json!(true);
    choosing(prefix, cluster, others).retry_policy(policy)
}

/// A policy that has the standby serve after the last attempt.
fn orders(retry: Value, fallback: Value) -> Value {
    json!({"name": "orders", "match": {"cluster": ["orders"]}, "breaker": {"min_requests": 10_000}, "retry": retry,
           "fallback": fallback})
}

fn standby() -> Value {
    json!({"name": "standby", "match": {"cluster": ["standby"]}, "breaker": {}, "retry": {}, "outlier": {}})
}

fn to(cluster: &str) -> Value {
    json!({"on": ["failure"], "route": {"cluster": cluster}})
}

/// One Envoy with both clusters, whose attempt seats are known.
async fn scene_of(primary: &Cluster, standby: &Backend, document: Value) -> (Scene, Vec<Client>) {
    let options = EnvoyOptions::new()
        .concurrency(2)
        .seats(Seats::Both)
        .cluster(primary.clone())
        .cluster(Cluster::new("standby").endpoint(standby.addr()).steered())
        .route(Scene::aside())
        .route(choosing_again("/", "orders", &["standby"]))
        .policy(document);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    meet(&clients).await;
    (scene, clients)
}

/// Has the request seats meet the attempt seats.
async fn meet(clients: &[Client]) {
    drive_all(clients, 1, 10, "/meet").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    drive_all(clients, 1, 10, "/meet").await;
}

fn keyed(path: &str, body: impl Into<Bytes>) -> http::Request<Bytes> {
    with_header(Client::post_request(path, body), "idempotency-key", "k")
}

fn says(reason: &str) -> Option<String> {
    Some(format!("route; reason={reason}; policy=orders; cluster=standby"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_serves_after_the_last_try() {
    if !can_choose_again() {
        return;
    }
    let (primary, second) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    second.script(|seen| Action::ok().header("x-by", "standby").body(seen.body.clone()));
    let retry = json!({"max_retries": 1, "budget": {"min_per_second": 100}});
    let document = json!({"policies": [orders(retry, json!([to("standby")])), standby()]});
    let (scene, clients) = scene_of(&Cluster::new("orders").endpoint(primary.addr()), &second, document).await;
    assert_eq!(second.requests(), 0, "nothing has failed");
    let (well, counted) = (primary.requests(), metric(&scene, "orders", "requests").await);

    primary.always(Action::status(503));
    let records = drive_all(&clients, 2, 40, "/down").await;
    assert_eq!(records.count(200), 40, "{:?}", records.statuses());
    for response in records.responses() {
        assert_eq!(origin(response), says("retries_exhausted"));
        assert_eq!(response.header("x-by").as_deref(), Some("standby"));
        assert_eq!(response.header("x-holdfast-retry"), None);
    }
    assert_eq!((primary.requests() - well, second.requests()), (80, 40), "a try, a retry, and the further one");
    let of = async |policy: &'static str, name: &'static str| metric(&scene, policy, name).await;
    assert_eq!(of("orders", "requests").await - counted, 40);
    assert_eq!((of("orders", "failure").await, of("orders", "retries").await), (40, 40));
    assert_eq!((of("orders", "fallback.route").await, of("orders", "retries_recovered").await), (40, 0));
    assert_eq!((of("standby", "requests").await, of("standby", "success").await), (40, 40));
    let entry = scene.wait_for_access_log_of("/down", 40).await.unwrap().remove(0);
    let line = entry.holdfast.unwrap_or_default();
    let begin = "policy=orders; key=cluster=orders; decision=fallback; reason=retries_exhausted; kind=route; cluster=standby; attempts=";
    assert!(line.starts_with(begin) && line.matches("failure:503").count() == 2, "{line}");

    let body = Bytes::from(vec![b'x'; 100_000]);
    let response = clients[0].send(keyed("/write", body.clone())).await.unwrap();
    assert_eq!((response.status, &response.body, origin(&response)), (200, &body, says("retries_exhausted")));
    let at_standby = second.requests();
    let response = clients[0].send(Client::post_request("/write", body.clone())).await.unwrap();
    assert_eq!((response.status, origin(&response)), (503, None), "what may have been done is not done again");
    assert_eq!(second.requests(), at_standby);
    let entries = scene.wait_for_access_log_of("/write", 2).await.unwrap();
    let lines: Vec<String> = entries.into_iter().filter_map(|entry| entry.holdfast).collect();
    assert!(lines.iter().any(|line| line.contains("failed=route:method")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_serves_after_a_try_without_an_answer() {
    if !can_choose_again() {
        return;
    }
    let nobody = {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap()
    };
    let retry = json!({"max_retries": 0, "on": ["gateway-error"], "per_try_timeout": "1s", "timeout": "20s"});
    let fallback = json!([{"on": ["failure", "timeout"], "route": {"cluster": "standby"}}]);
    for (what, action, reason) in [
        ("a reset", Some(Action::reset()), "failure"),
        ("a time-out", Some(Action::hang()), "timeout"),
        ("no connection", None, "failure"),
        ("an answer that no retry is for", Some(Action::status(500)), "failure"),
    ] {
        let (primary, second) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
        let document = json!({"policies": [orders(retry.clone(), fallback.clone()), standby()]});
        let cluster = Cluster::new("orders").endpoint(primary.addr()).dynamic_endpoints();
        let (scene, clients) = scene_of(&cluster, &second, document).await;
        match &action {
            Some(action) => primary.always(action.clone()),
            None => scene.set_endpoints("orders", &[nobody]).await.unwrap(),
        }
        let before = metric(&scene, "orders", "failure").await;
        let records = drive_all(&clients, 2, 8, "/down").await;
        assert_eq!(records.count(200), 8, "after {what}: {:?}", records.statuses());
        assert!(records.responses().all(|response| origin(response) == says(reason)), "after {what}");
        assert_eq!(second.requests(), 8, "after {what}");
        assert_eq!(metric(&scene, "orders", "failure").await - before, 8, "after {what}");
        assert_eq!(metric(&scene, "standby", "success").await, 8, "after {what}");
        let write = clients[0].send(Client::post_request("/write", "x")).await.unwrap();
        let is_served = action.is_none();
        assert_eq!(write.status == 200, is_served, "after {what} a write is {}", write.status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_sees_that_the_service_is_down_nor_that_a_probe_fails() {
    if !can_choose_again() {
        return;
    }
    let (primary, second) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let mut policy = orders(json!({"max_retries": 0}), json!([]));
    policy["breaker"] = breaker("1s");
    policy["fallback"] = json!([{"on": ["open", "failure"], "route": {"cluster": "standby"}}]);
    let document = json!({"policies": [policy, standby()]});
    let (scene, clients) = scene_of(&Cluster::new("orders").endpoint(primary.addr()), &second, document).await;
    let before = primary.requests();
    let order = |index: u64| if index.is_multiple_of(2) { Client::request("/") } else { keyed("/", "order") };
    let traffic = Traffic::start(&clients, 4, Duration::from_millis(10), Template::new(order));
    tokio::time::sleep(Duration::from_secs(1)).await;
    primary.always(Action::status(503));
    tokio::time::sleep(Duration::from_secs(5)).await;
    primary.always(Action::ok());
    eventually(PATIENCE, || async {
        let last = scene.transitions("orders").last().cloned().unwrap_or_default();
        if last.contains("-> closed") { Ok(()) } else { Err(last) }
    })
    .await
    .unwrap();
    let records = traffic.stop().await;
    let (sent, at_primary) = (records.0.len() as u64, primary.requests() - before);
    assert_eq!(records.count(200) as u64, sent, "{:?}", records.statuses());
    let transitions = scene.transitions("orders");
    let again = transitions.iter().filter(|line| line.contains("half-open -> open")).count();
    assert!(again > 0, "probes have failed: {transitions:?}");
    let of = |reason: &str| records.responses().filter(|response| origin(response) == says(reason)).count() as u64;
    let (open, failed) = (of("open"), of("failure"));
    assert_eq!(open + failed, second.requests());
    assert_eq!(at_primary + open, sent, "each came to the service, or was kept from it");
    assert_eq!(metric(&scene, "orders", "failure").await, failed);
    assert!(failed >= 10 + again as u64, "those that opened the breaker, and probes: {failed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_cannot_serve_after_the_last_try_gives_way_to_the_next() {
    if !can_choose_again() {
        return;
    }
    let (primary, spare) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let failing = Backend::start().await.unwrap();
    failing.always(Action::status(500));
    let respond = json!({"on": ["failure"], "respond": {"status": 503, "body": "nobody: ${reason} ${path}"}});
    let policy = |name: &str, fallback: Value| {
        json!({"name": name, "match": {"cluster": [name]}, "breaker": {"min_requests": 10_000},
               "retry": {"max_retries": 0}, "fallback": fallback})
    };
    let document = json!({"policies": [
        policy("missing", json!([to("nowhere"), respond])),
        policy("empty", json!([to("hostless"), respond])),
        policy("closed", json!([to("rejecting"), respond])),
        policy("second", json!([to("rejecting"), to("spare"), respond])),
        policy("behind", json!([respond, to("spare")])),
        policy("own", json!([to("failing"), respond])),
        {"name": "rejecting", "match": {"cluster": ["rejecting"]}, "breaker": {"state": "forced_open"}},
        {"name": "failing", "match": {"cluster": ["failing"]},
         "breaker": {"min_requests": 4, "open_for": "60s"}, "outlier": {"consecutive_failures": 1000}},
    ]});
    let others = ["nowhere", "hostless", "rejecting", "spare", "failing"];
    let names = ["missing", "empty", "closed", "second", "behind", "own"];
    let mut options = EnvoyOptions::new().seats(Seats::Both).cluster(Cluster::new("hostless")).policy(document);
    for name in names {
        options = options.cluster(Cluster::new(name).endpoint(primary.addr()));
        options = options.route(choosing_again(&format!("/{name}"), name, &others));
    }
    options = options.cluster(Cluster::new("rejecting").endpoint(primary.addr()));
    options = options.cluster(Cluster::new("failing").endpoint(failing.addr()));
    let scene = Scene::with(options.cluster(Cluster::new("spare").endpoint(spare.addr()))).await;
    for _ in 0..2 {
        for name in names {
            assert_eq!(scene.client.get(&format!("/{name}/meet")).await.unwrap().status, 200);
        }
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    primary.always(Action::status(503));
    for name in ["missing", "empty", "closed", "behind"] {
        let response = scene.client.get(&format!("/{name}/7")).await.unwrap();
        let body = format!("nobody: failure /{name}/7");
        assert_eq!((response.status, response.text()), (503, body), "{name}");
        assert_eq!(origin(&response), Some(format!("static; reason=failure; policy={name}")));
        let failed = if name == "behind" { 0 } else { 1 };
        assert_eq!(metric(&scene, name, "fallback_failed.route").await, failed, "{name}");
        assert_eq!(metric(&scene, name, "failure").await, 1, "{name}");
    }
    let response = scene.client.get("/second/7").await.unwrap();
    assert_eq!((response.status, spare.requests()), (200, 1));
    assert_eq!(origin(&response).as_deref(), Some("route; reason=failure; policy=second; cluster=spare"));

    // Its own answer goes on, and counts where it was given.
    for _ in 0..4 {
        let response = scene.client.get("/own/7").await.unwrap();
        assert_eq!(response.status, 500);
        assert_eq!(origin(&response).as_deref(), Some("route; reason=failure; policy=own; cluster=failing"));
    }
    assert_eq!(metric(&scene, "failing", "failure").await, 4);
    let response = scene.client.get("/own/7").await.unwrap();
    assert_eq!((response.status, response.text()), (503, "nobody: failure /own/7".to_owned()), "its breaker is open");
    assert_eq!(failing.requests(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_does_not_choose_again_is_said_and_other_fallbacks_serve() {
    let (primary, second) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let respond = json!({"on": ["failure"], "respond": {"status": 503, "body": "nobody"}});
    let document = json!({"policies": [orders(json!({"max_retries": 0}), json!([to("standby"), respond]))]});
    let options = EnvoyOptions::new()
        .concurrency(2)
        .seats(Seats::Both)
        .cluster(Cluster::new("orders").endpoint(primary.addr()))
        .cluster(Cluster::new("standby").endpoint(second.addr()))
        .route(Scene::aside())
        .route(choosing("/", "orders", &["standby"]))
        .policy(document);
    let scene = Scene::with(options).await;
    let clients = scene.workers(2).await;
    meet(&clients).await;
    let before = primary.requests();
    primary.always(Action::status(503));
    let records = drive_all(&clients, 1, 40, "/").await;
    assert_eq!((records.count(503), second.requests()), (40, 0));
    assert!(records.responses().all(is_nobody), "another fallback serves");
    assert_eq!(primary.requests() - before, 40, "no try more comes to the service");
    let said = "orders: a fallback's route to standby does nothing: further attempts still go to orders";
    eventually(PATIENCE, || async { if scene.log().contains(said) { Ok(()) } else { Err("not said") } }).await.unwrap();
    assert_eq!(scene.log().matches(said).count(), 1, "once for all workers");
    assert_eq!(metric(&scene, "orders", "misassembled.route").await, 1);
}

fn is_nobody(response: &Response) -> bool {
    response.text() == "nobody"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_the_standby_and_one_that_hangs_leave_nothing_behind() {
    if !can_choose_again() {
        return;
    }
    let (primary, second) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    primary.always(Action::ok());
    second.always(Action::hang());
    let retry = json!({"max_retries": 0, "timeout": "6s"});
    let mut governed = standby();
    governed["concurrency"] = json!({"max_requests": 100});
    let mut policy = orders(retry, json!([to("standby")]));
    policy["concurrency"] = json!({"max_requests": 100});
    let (scene, clients) =
        scene_of(&Cluster::new("orders").endpoint(primary.addr()), &second, json!({"policies": [policy, governed]}))
            .await;
    primary.always(Action::status(503));
    let impatient: Vec<Client> =
        clients.iter().map(|client| client.reconnected().timeout(Duration::from_secs(2))).collect();
    let left: Records = drive_all(&impatient, 2, 8, "/left").await;
    assert_eq!(left.errors().count(), 8, "they did not wait: {:?}", left.statuses());
    let response = clients[0].get("/hangs").await.unwrap();
    assert_eq!(response.status, 504, "the whole time is over");
    assert_eq!(origin(&response), says("failure"));
    assert_eq!(metric(&scene, "orders", "failure").await, 9);
    assert_eq!(metric(&scene, "standby", "failure").await, 1);
    eventually(PATIENCE, || async {
        let left = [metric(&scene, "orders", "in_flight").await, metric(&scene, "standby", "in_flight").await];
        if left == [0, 0] && second.open_streams() == 0 { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await
    .unwrap();
}
