//! What a host asks of retries while another attempt of the request is in flight, and when it asks more than once. Attempts are
//! counted at the hosts.

use std::time::Duration;

use holdfast_tests::{Action, Backend, Cluster, EnvoyOptions, Route, Scene, Seats, TICK, attempts, gaps};
use serde_json::{Value, json};

use crate::retrying::{ID, orders, request, seats_meet};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A host, and a policy that hedges an attempt after 800 ms: 400 of its own, and 400 for the longest wait of the three that it
/// draws.
struct Hedging {
    host: Backend,
    scene: Scene,
}

impl Hedging {
    async fn start(more: Value) -> Self {
        let host = Backend::start().await.unwrap();
        let mut retry = json!({
            "max_retries": 3, "per_try_timeout": "400ms", "timeout": "20s", "hedge_on_per_try_timeout": true,
            "backoff": {"base": "100ms", "max": "400ms", "jitter": "none"},
            "budget": {"ratio": 100, "min_per_second": 100},
        });
        json_patch::merge(&mut retry, &more);
        let scene = Scene::with(Scene::of(&host).seats(Seats::Both).policy(orders(retry))).await;
        seats_meet(std::slice::from_ref(&scene.client), "/").await;
        host.reset_counters();
        Self { host, scene }
    }

    /// Sends a request whose attempts are answered so, in this order; gives the status of the answer, its body, and when each
    /// attempt came to the host, from the first one on.
    async fn send(&self, id: &str, actions: Vec<Action>) -> (u16, String, Vec<Duration>) {
        self.host.script(Action::in_turn(ID, actions));
        let response = self.scene.client.send(request("/", id)).await.unwrap();
        // Another attempt would come before any wait here is over.
        tokio::time::sleep(ms(600)).await;
        let seen = self.host.seen_with(ID, id);
        let at = seen.iter().map(|one| one.at.duration_since(seen[0].at)).collect();
        (response.status, response.text(), at)
    }
}

fn asks(name: &str, value: &str) -> Action {
    Action::status(503).header(name, value).body("asked")
}

/// gRPC A6, "Pushback": a negative one stops further hedges and retries, and what is in flight goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_whose_host_asks_not_to_come_back_is_the_last_attempt_and_the_first_goes_on() {
    let hedging = Hedging::start(json!({})).await;
    for (id, refusal) in [
        ("never", asks("grpc-retry-pushback-ms", "-1")),
        ("too long", asks("retry-after", "5")),
        ("nonsense", asks("grpc-retry-pushback-ms", "soon")),
    ] {
        let first = Action::ok().body("first").after(ms(2000));
        let (status, body, at) = hedging.send(id, vec![first, refusal, Action::ok().body("third")]).await;
        assert_eq!((status, body.as_str()), (200, "first"), "{id}: the client waits for what is in flight");
        assert_eq!(at.len(), 2, "{id}: {at:?}");
    }
    let told = hedging.scene.wait_for_access_log(5).await.unwrap().pop().unwrap();
    assert_eq!(
        attempts(&told).iter().map(|one| one.outcome.as_str()).collect::<Vec<_>>(),
        ["failure:503", "success:200"]
    );
    assert_eq!(told.holdfast_field("denied"), Some("retry_after"), "{told:?}");
    let counted = hedging.scene.counted(&["retries", "retries_denied.retry_after", "failure"]).await;
    assert_eq!(counted, json!({"retries": 3, "retries_denied.retry_after": 3, "failure": 0}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_attempts_host_stops_the_next_hedge_while_the_one_before_goes_on() {
    let hedging = Hedging::start(json!({})).await;
    // The hedge, sent at 800 ms, would be hedged at 1600 ms.
    let refusal = asks("grpc-retry-pushback-ms", "-1").after(ms(1200));
    let hedge = Action::ok().body("hedge").after(ms(1600));
    let (status, body, at) = hedging.send("one", vec![refusal.clone(), hedge, Action::ok().body("third")]).await;
    assert_eq!((status, body.as_str()), (200, "hedge"));
    assert_eq!(at.len(), 2, "{at:?}");

    for (id, last, expected) in [("failing", Action::status(500).body("its own"), 500), ("cut", Action::reset(), 503)] {
        let (status, _, at) = hedging.send(id, vec![refusal.clone(), last.after(ms(1600)), Action::ok()]).await;
        assert_eq!((status, at.len()), (expected, 2), "{id}: when the last one in flight fails, so does the request");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_whose_host_names_a_wait_is_followed_after_it() {
    let hedging = Hedging::start(json!({})).await;
    let asked = asks("grpc-retry-pushback-ms", "380");
    let slow = Action::ok().body("first").after(ms(3000));
    let (status, body, at) = hedging.send("one", vec![slow, asked, Action::ok().body("third")]).await;
    assert_eq!((status, body.as_str(), at.len()), (200, "third", 3), "{at:?}");
    assert!(at[2] - at[1] + TICK >= ms(380), "the policy's own wait would be 200 ms: {at:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_per_try_time_out_begins_no_hedge_before_a_wait_that_a_host_asked_for_is_over() {
    let hedging = Hedging::start(json!({})).await;
    // The first attempt asks at 1400 ms, while the hedge is in flight that was sent at 800 ms; at 1600 ms its time is over.
    let asked = asks("grpc-retry-pushback-ms", "390").after(ms(1400));
    let (status, body, at) = hedging.send("one", vec![asked, Action::hang(), Action::ok().body("third")]).await;
    assert_eq!((status, body.as_str(), at.len()), (200, "third", 3), "{at:?}");
    assert!(at[2] + TICK >= ms(1400 + 390), "{at:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_waits_is_stopped_or_waits_on_when_another_attempts_host_asks_for_it() {
    // The first attempt is hedged at 800 ms; the hedge fails at once, and its retry waits until 1000 ms.
    let hedging = Hedging::start(json!({})).await;
    let first = |value| asks("grpc-retry-pushback-ms", value).after(ms(900));
    let (status, body, at) =
        hedging.send("stopped", vec![first("-1"), Action::status(503), Action::ok().body("third")]).await;
    assert_eq!((status, at.len()), (503, 2), "{body}: {at:?}");
    let (status, _, at) = hedging.send("later", vec![first("250"), Action::status(503), Action::ok()]).await;
    assert_eq!((status, at.len()), (200, 3), "{at:?}");
    assert!(at[2] + TICK >= ms(900 + 250), "{at:?}");
}

/// gRPC's Go client retries nothing after several lines of one pushback; Envoy takes the first line of a `retry-after`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_lines_no_pushback_is_guessed_and_the_first_retry_after_counts() {
    let (one, two) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let grpc_on = json!({"on": ["5xx", "unavailable"], "backoff": {"base": "1ms", "max": "1ms"}});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(one.addr()))
        .cluster(Cluster::new("new").endpoint(two.addr()).http2())
        .route(Route::to("/2/", "new"))
        .route(Route::to("/", "orders"));
    let mut policy = orders(grpc_on);
    policy["policies"][0]["scope"] = json!([]);
    let scene = Scene::with(options.seats(Seats::Both).policy(policy)).await;
    for path in ["/", "/2/"] {
        seats_meet(std::slice::from_ref(&scene.client), path).await;
    }
    let lines = |name: &str, values: &[&str]| {
        values.iter().fold(Action::status(503), |action, value| action.header(name, value))
    };
    for (host, path) in [(&one, "/"), (&two, "/2/")] {
        for values in [["300", "100"], ["300", "300"], ["-1", "100"], ["100", "-1"]] {
            let id = format!("pushback {values:?}");
            host.script(Action::in_turn(ID, [lines("grpc-retry-pushback-ms", &values), Action::ok()]));
            let response = scene.client.send(request(path, &id)).await.unwrap();
            assert_eq!((response.status, host.seen_with(ID, &id).len()), (503, 1), "{path}: {id}");
        }
        for (values, expected) in [(["1", "0"], Some(ms(1000))), (["0", "1"], None), (["soon", "1"], None)] {
            let id = format!("retry-after {values:?}");
            host.script(Action::in_turn(ID, [lines("retry-after", &values), Action::ok()]));
            let response = scene.client.send(request(path, &id)).await.unwrap();
            let waits = gaps(&host.seen_with(ID, &id));
            assert_eq!((response.status, waits.len()), (200, 1), "{path}: {id}");
            match expected {
                Some(wait) => assert!(waits[0] + TICK >= wait, "{path}: {id}: {waits:?}"),
                None => assert!(waits[0] < ms(900), "{path}: {id}: {waits:?}"),
            }
        }
    }
}
