//! Hosts that have not processed a request, and say so: what Envoy tells of that, and when, and what becomes of requests that may not be
//! sent twice.

use holdfast_tests::{Action, Backend, Client, Cluster, EnvoyOptions, LeavingHost, Route, Scene, Seats, drive_all};
use http::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::outlying::NOTICED;

/// Requests for each case. Of two hosts each has half of them.
const REQUESTS: usize = 8;

/// What ends a stream, the path and cluster of its name, and what Envoy says of the last attempt.
const ENDS: [(&str, &str); 5] = [
    ("/goaway", "remote_refused_stream_reset"),
    ("/leaves", "remote_refused_stream_reset"),
    ("/refused", "remote_refused_stream_reset"),
    ("/reset", "remote_reset"),
    ("/cut", "connection_termination"),
];

/// Only here, when nothing can be retried any more, Envoy tells a refusal from another reset. So behind an attempt seat a POST that has
/// come to a host comes to no other, whatever the route says, and a GET does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_was_refused_is_sent_once_as_envoy_tells_too_late_that_it_was() {
    let leaving = [LeavingHost::start(false).await.unwrap(), LeavingHost::start(true).await.unwrap()];
    let failing = [Backend::start().await.unwrap(), Backend::start().await.unwrap(), Backend::start().await.unwrap()];
    let actions = [Action::refuse_stream(), Action::reset_stream(), Action::reset()];
    failing.iter().zip(actions).for_each(|(host, action)| host.always(action));
    let good = Backend::start().await.unwrap();
    let bad: Vec<_> = leaving.iter().map(LeavingHost::addr).chain(failing.iter().map(Backend::addr)).collect();

    let own = |retry_on: &str| -> Value { json!({"retry_on": retry_on, "num_retries": 3}) };
    let mut options = EnvoyOptions::new().concurrency(1).seats(Seats::Both).route(Scene::aside());
    for ((path, _), addr) in ENDS.iter().zip(&bad) {
        let cluster = Cluster::new(&path[1..]).endpoint(*addr).endpoint(good.addr()).http2();
        options = options.cluster(cluster);
        let to = |prefix: &str| Route::to(&format!("{prefix}{path}"), &path[1..]);
        options = options.route(to("/once")).route(to("/own").retry_policy(own("reset"))).route(to(""));
    }
    let policies = json!({"policies": [
        {"name": "once", "match": {"path": ["/once/**"]}, "retry": {"max_retries": 0}},
        {"name": "orders", "retry": {
            "backoff": {"base": "1ms", "max": "1ms", "jitter": "none"}, "budget": {"ratio": 100, "min_per_second": 1000},
        }},
    ]});
    let scene = Scene::with(options.policy(policies)).await;
    let clients = scene.workers(1).await;
    let client = &clients[0];
    for _ in 0..2 {
        for (path, _) in ENDS {
            drive_all(&clients, 1, 4, path).await;
        }
        sleep(NOTICED).await;
    }

    for (index, (path, details)) in ENDS.iter().enumerate() {
        let take = || match leaving.get(index) {
            Some(host) => host.take_requests(),
            None => {
                let host = &failing[index - leaving.len()];
                let requests = host.requests();
                host.reset_counters();
                requests
            }
        };
        let once = format!("/once{path}");
        for _ in 0..REQUESTS {
            client.get(&once).await.unwrap();
        }
        let told = scene.wait_for_access_log_of(&once, REQUESTS).await.unwrap();
        let failed: Vec<_> = told.iter().filter(|entry| entry.code == 503).collect();
        assert_eq!(failed.len(), REQUESTS / 2, "{path}: {told:?}");
        let wanted = format!("upstream_reset_before_response_started{{{details}}}");
        assert!(failed.iter().all(|entry| entry.details == wanted), "{path}: {failed:?}");

        for prefix in ["", "/own"] {
            let path = format!("{prefix}{path}");
            take();
            good.reset_counters();
            let mut statuses = Vec::new();
            for _ in 0..REQUESTS {
                let mut order = Client::request(&path);
                *order.method_mut() = Method::POST;
                *order.body_mut() = "an order".into();
                statuses.push(client.send(order).await.unwrap().status);
            }
            let (at_bad, at_good) = (take() as usize, good.requests() as usize);
            assert_eq!(at_bad + at_good, REQUESTS, "{path}: each order comes to one host");
            let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
            assert_eq!((count(503), count(200)), (at_bad, at_good), "{path}: {statuses:?}");
            // The hosts take turns, and a retry that Envoy begins has one, though it is stopped.
            let begins_retry = prefix == "/own" || details.contains("refused");
            assert_eq!(at_bad > REQUESTS / 2, begins_retry, "{path}: Envoy's own choice: {at_bad}");
            for _ in 0..REQUESTS {
                assert_eq!(client.get(&path).await.unwrap().status, 200, "{path}: what may be sent again is");
            }
            assert!(take() > 0, "{path}: by a retry");
        }
    }
}
