//! A service that answers `200` and says in a header that it failed: the breaker, the hosts and the fallback go by the header, with
//! the attempt seat and without.

use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, PATIENCE, Response, Route, Scene, Seats, attempts, drive_all,
    eventually, with_header,
};
use serde_json::{Value, json};

use crate::outlying::{all_served, are_out, before, start, told_of};
use crate::retrying::{ID, request, seats_meet};

const SEATS: [Seats; 2] = [Seats::Request, Seats::Both];

fn failing() -> Action {
    Action::ok().body("its own error").header("x-app-error", "17")
}

fn rules() -> Value {
    json!({
        "failure": {"header": {"X-App-Error": "*", "x-state": "E*"}},
        "ignore": {"status": [404], "grpc_status": ["NOT_FOUND"], "header": {"x-cache": "HIT*"}},
    })
}

/// A policy `orders` that only counts, with these rules.
fn counting() -> Value {
    json!({"policies": [{"name": "orders", "outcome": rules(), "breaker": {"state": "forced_closed"}, "outlier": {}}]})
}

/// Successes, failures and ignored outcomes, once there are so many in all.
async fn counted(scene: &Scene, requests: u64) -> [u64; 3] {
    eventually(PATIENCE, || async {
        let metrics = scene.metrics("orders", "cluster=orders").await;
        let known = ["success", "failure", "ignored"].map(|name| metrics.get(name).copied().unwrap_or_default());
        if known.iter().sum::<u64>() == requests { Ok(known) } else { Err(format!("{known:?} of {requests}")) }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_answers_fail_by_a_header_until_the_breaker_opens() {
    for seats in SEATS {
        let host = Backend::start().await.unwrap();
        let policy = json!({"policies": [{
            "name": "orders", "outcome": rules(), "breaker": {"min_requests": 20, "open_for": "5m"},
            "fallback": [{"on": ["open", "failure"], "respond": {"status": 200, "body": "instead"}}],
        }]});
        let scene = Scene::with(Scene::of(&host).concurrency(1).seats(seats).policy(policy)).await;
        host.script(|request| if request.index % 2 == 0 { Action::ok() } else { failing() });

        let mut responses = Vec::new();
        for _ in 0..40 {
            responses.push(scene.client.get("/").await.unwrap());
        }

        let texts: Vec<String> = responses.iter().map(Response::text).collect();
        let expected: Vec<&str> = (0..40).map(|at| if at < 20 && at % 2 == 0 { "ok" } else { "instead" }).collect();
        assert_eq!(texts, expected, "{seats:?}");
        assert!(responses.iter().all(|response| response.status == 200 && response.header("x-app-error").is_none()));
        let reasons: Vec<_> = responses.iter().filter_map(|response| response.header("x-holdfast-fallback")).collect();
        let of = |reason: &str| reasons.iter().filter(|text| text.contains(&format!("reason={reason}"))).count();
        assert_eq!((of("failure"), of("open")), (10, 20), "{seats:?}");
        assert_eq!((host.requests(), host.connections()), (20, 1), "answers are replaced, connections are kept");
        assert_eq!(counted(&scene, 20).await, [10, 10, 0]);
        let told = scene.transitions("orders");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("closed -> open: failure rate 50% of 20 >= 50%"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_fails_by_a_header_is_out_in_time() {
    for seats in SEATS {
        let hosts = start::<3>().await;
        let policy =
            json!({"policies": [{"name": "orders", "outcome": rules(), "outlier": {"consecutive_failures": 5}}]});
        let scene = Scene::with(before(&hosts, 2, policy).seats(seats)).await;
        let clients = scene.workers(2).await;
        all_served(&drive_all(&clients, 5, 100, "/").await);
        seats_meet(&clients, "/").await;
        let bad = &hosts[1];
        bad.reset_counters();
        bad.always(failing());

        let records = drive_all(&clients, 5, 200, "/").await;

        all_served(&records);
        let errors = records.responses().filter(|response| response.header("x-app-error").is_some()).count() as u64;
        assert_eq!(errors, bad.requests(), "without a fallback clients get what the host says");
        assert!((5..=9).contains(&errors), "{seats:?}: the bad host gets at most nine requests, not {errors}");
        are_out(&scene, "orders", &[bad]).await;
        let told = told_of(&scene, "orders", bad);
        assert!(told[0].ends_with(": 5 consecutive failures, last 200; 1 of 3 hosts out"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ignored_comes_before_what_fails() {
    for seats in SEATS {
        let host = Backend::start().await.unwrap();
        let scene = Scene::with(Scene::of(&host).seats(seats).policy(counting())).await;
        let mut requests = 0;
        for (action, so_far) in [
            (Action::ok(), [1, 0, 0]),
            (failing(), [1, 1, 0]),
            (Action::ok().header("x-state", "OK").header("x-state", b"E\xff"), [1, 2, 0]),
            (Action::ok().header("x-state", "e1").header("x-app-errors", "1"), [2, 2, 0]),
            (Action::status(503), [2, 3, 0]),
            (Action::status(503).header("x-cache", "HIT from afar"), [2, 3, 1]),
            (Action::status(503).header("x-cache", "MISS"), [2, 4, 1]),
            (failing().header("x-cache", "HIT"), [2, 4, 2]),
            (Action::status(404).header("x-app-error", "17"), [2, 4, 3]),
            (Action::status(404), [2, 4, 4]),
        ] {
            host.always(action.clone());
            scene.client.get("/").await.unwrap();
            requests += 1;
            assert_eq!(counted(&scene, requests).await, so_far, "{action:?}, {seats:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_call_fails_by_a_header_or_by_its_status() {
    for seats in SEATS {
        let host = Backend::start().await.unwrap();
        let options = EnvoyOptions::new()
            .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
            .route(Route::to("/", "orders"))
            .seats(seats)
            .policy(counting());
        let scene = Scene::with(options).await;
        let client = Client::http2(scene.addr());
        let web = |status: &str| {
            Action::status(200).header("content-type", "application/grpc-web").header("grpc-status", status)
        };
        let mut requests = 0;
        for (action, kind, so_far) in [
            (Action::grpc(0), "application/grpc", [1, 0, 0]),
            (Action::grpc(0).header("x-app-error", "17"), "application/grpc", [1, 1, 0]),
            (Action::grpc(14), "application/grpc", [1, 2, 0]),
            (Action::grpc(14).header("x-cache", "HIT"), "application/grpc", [1, 2, 1]),
            (Action::grpc(5).header("x-app-error", "17"), "application/grpc", [1, 2, 2]),
            (Action::grpc_trailers_only(0).header("x-app-error", "17"), "application/grpc", [1, 3, 2]),
            (Action::grpc(0).trailer("x-app-error", "17"), "application/grpc", [2, 3, 2]),
            (web("0").header("x-app-error", "17"), "application/grpc-web", [2, 4, 2]),
            (web("14").header("x-cache", "HIT"), "application/grpc-web", [2, 4, 3]),
        ] {
            host.always(action.clone());
            let call = with_header(Client::grpc_request("/orders.Orders/List"), "content-type", kind);
            assert_eq!(client.send(call).await.unwrap().status, 200);
            requests += 1;
            assert_eq!(counted(&scene, requests).await, so_far, "{action:?}, {seats:?}");
        }
    }
}

/// How many attempts the host sees of a request whose first answer fails by a header, and how they ended by the access log.
async fn attempts_of(retry: Value, route: Value, seats: Seats) -> (usize, Vec<String>) {
    let host = Backend::start().await.unwrap();
    let policy = json!({"policies": [{"name": "orders", "outcome": rules(), "retry": retry.clone(), "breaker": {}}]});
    let options = EnvoyOptions::new()
        .concurrency(1)
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/", "orders").retry_policy(route))
        .seats(seats)
        .policy(policy);
    let scene = Scene::with(options).await;
    let met = seats_meet(std::slice::from_ref(&scene.client), "/").await as usize;
    host.script(Action::in_turn(ID, [failing(), Action::ok()]));
    let response = scene.client.send(request("/", "one")).await.unwrap();
    let seen = host.seen_with(ID, "one").len();
    assert_eq!(response.header("x-app-error").is_some(), seen == 1, "{seats:?}, {retry}: {response:?}");
    let entry = scene.wait_for_access_log(met + 1).await.unwrap().remove(met);
    (seen, attempts(&entry).into_iter().map(|one| one.outcome).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_follows_only_where_on_and_the_route_ask_for_it() {
    let backoff = json!({"base": "1ms", "max": "1ms", "jitter": "none"});
    let listing = json!({"retriable_headers": [{"name": "x-app-error", "present_match": true}]});
    for seats in SEATS {
        let by_status = json!({"on": ["5xx", "reset"], "backoff": backoff});
        let (seen, log) = attempts_of(by_status, listing.clone(), seats).await;
        assert_eq!(seen, 1, "`on` goes by the status: {seats:?}");
        if seats == Seats::Both {
            assert_eq!(log, ["failure:200"]);
        }
        let by_header = json!({"on": ["retriable-headers"], "backoff": backoff});
        let (seen, log) = attempts_of(by_header.clone(), listing.clone(), seats).await;
        assert_eq!(seen, 2, "the route lists the header: {seats:?}");
        if seats == Seats::Both {
            assert_eq!(log, ["failure:200", "success:200"]);
        }
        let (seen, _) = attempts_of(by_header, json!({}), seats).await;
        assert_eq!(seen, 1, "the route lists none: {seats:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_seat_sees_headers_as_the_route_leaves_them() {
    let host = Backend::start().await.unwrap();
    let adding = json!({"response_headers_to_add": [{"header": {"key": "x-app-error", "value": "of the route"}}]});
    let options = EnvoyOptions::new()
        .concurrency(1)
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/removing", "orders").raw(json!({"response_headers_to_remove": ["x-app-error"]})))
        .route(Route::to("/adding", "orders").raw(adding))
        .seats(Seats::Both)
        .policy(counting());
    let scene = Scene::with(options).await;
    host.always(failing());
    let removed = scene.client.get("/removing").await.unwrap();
    assert_eq!(removed.header("x-app-error"), None);
    assert_eq!(counted(&scene, 1).await, [1, 0, 0], "the attempt seat alone has seen it");
    let entry = scene.wait_for_access_log(1).await.unwrap().remove(0);
    assert_eq!(attempts(&entry).into_iter().map(|one| one.outcome).collect::<Vec<_>>(), ["failure:200"]);
    host.always(Action::ok());
    assert_eq!(scene.client.get("/adding").await.unwrap().header("x-app-error").as_deref(), Some("of the route"));
    assert_eq!(counted(&scene, 2).await, [1, 1, 0], "the request seat alone sees it");
}
