//! A host that asks for a wait binds retries that go to it, and no others. Attempts are counted at the hosts, and beside them
//! those of Envoy's own retries at the same hosts.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{
    Action, Backend, Client, Cluster, EnvoyOptions, Route, Scene, Seats, TICK, Template, attempts, gaps, retry_policy,
    seen_by_all, with_header,
};
use http::Request;
use serde_json::{Value, json};

use crate::retrying::{ID, orders, quick_backoff, request, seats_meet};

/// Clients that come at once.
const CLIENTS: usize = 60;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn sheds(wait: &str) -> Action {
    Action::status(503).header("retry-after", wait).body("come back later")
}

fn ample() -> Value {
    json!({"ratio": 100, "min_per_second": 1000})
}

/// Two retries, with more of the policy beside them.
fn two_retries(more: Value) -> Value {
    let mut policy = orders(json!({"max_retries": 2, "backoff": quick_backoff(), "budget": ample()}));
    policy["policies"][0]["match"] = json!({"cluster": ["orders"]});
    json_patch::merge(&mut policy["policies"][0], &more);
    policy
}

fn numbered(path: &'static str, name: &str) -> Template {
    let name = name.to_owned();
    Template::new(move |number| request(path, &format!("{name}-{number}")))
}

/// Three hosts behind two clusters: `orders` with Holdfast, and `plain`, for `/plain`, with as many retries of Envoy's own.
struct Shedding {
    hosts: Vec<Backend>,
    scene: Scene,
}

impl Shedding {
    async fn start(policy: Value, is_steered: bool) -> Self {
        let mut hosts = Vec::new();
        for _ in 0..3 {
            hosts.push(Backend::start().await.unwrap());
        }
        let of = |name| hosts.iter().fold(Cluster::new(name), |cluster, host| cluster.endpoint(host.addr()));
        let mut own = retry_policy();
        json_patch::merge(&mut own, &json!({"retry_on": "gateway-error", "num_retries": 2}));
        let orders = of("orders");
        let options = EnvoyOptions::new()
            .cluster(if is_steered { orders.steered() } else { orders })
            .cluster(of("plain").without_attempt_seat())
            .route(Scene::aside())
            .route(Route::to("/plain", "plain").retry_policy(own))
            .route(Route::to("/", "orders"))
            .concurrency(4);
        let scene = Scene::with(options.seats(Seats::Both).policy(policy)).await;
        hosts[0].script(|request| if request.header(ID).is_some() { sheds("60") } else { Action::ok() });
        Self { hosts, scene }
    }

    /// Sends a request of each client. How many got a 503, and the most attempts of one that the shedding host has seen.
    async fn send(&self, path: &'static str, name: &str) -> (usize, usize) {
        let records = self.scene.client.drive(CLIENTS / 3, CLIENTS, numbered(path, name)).await;
        assert_eq!(records.count(200) + records.count(503), CLIENTS, "{:?}", records.statuses());
        let at_it = |number| self.hosts[0].seen_with(ID, &format!("{name}-{number}")).len();
        (records.count(503), (0..CLIENTS).map(at_it).max().unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_host_of_three_that_sheds_costs_no_client_its_answer_as_with_envoys_own_retries() {
    let outlier = json!({"outlier": {"consecutive_failures": 1000}});
    let named = json!({"outlier": {"consecutive_failures": 3, "max_ejected": 40}});
    for (what, more, is_steered) in
        [("retries alone", json!({}), false), ("judged", outlier, true), ("out", named, true)]
    {
        let shedding = Shedding::start(two_retries(more), is_steered).await;
        let clients = shedding.scene.workers(4).await;
        // From the first request of a worker on, and when it has seen who there is.
        let own = shedding.send("/plain", "own").await;
        assert_eq!(own, (0, 1), "{what}: Envoy's own retries go elsewhere");
        for round in ["first", "second"] {
            let (unserved, most) = shedding.send("/", round).await;
            assert!(unserved == 0 && most <= 1, "{what}, {round}: {unserved} unserved, {most} attempts there");
            seats_meet(&clients, "/").await;
        }
        let counted = shedding.scene.counted(&["retries_denied.retry_after", "failure"]).await;
        assert_eq!(counted, json!({"retries_denied.retry_after": 0, "failure": 0}), "{what}");
        let waits = (0..CLIENTS).map(|number| {
            let id = format!("second-{number}");
            gaps(&seen_by_all(&shedding.hosts.iter().collect::<Vec<_>>(), ID, &id))
                .into_iter()
                .max()
                .unwrap_or_default()
        });
        assert!(waits.max().unwrap_or_default() < ms(5000), "{what}: no retry has waited for another host's minute");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_host_that_sheds_the_client_learns_when_to_come_back() {
    let host = Backend::start().await.unwrap();
    let scene = Scene::with(Scene::of(&host).concurrency(1).seats(Seats::Both).policy(two_retries(json!({})))).await;
    seats_meet(std::slice::from_ref(&scene.client), "/").await;
    host.always(sheds("60"));
    // Until it shows that there is no other host, a retry begins and is stopped; from then on none begins.
    for id in ["first", "second"] {
        let first = scene.client.send(request("/", id)).await.unwrap();
        assert_eq!((first.status, host.seen_with(ID, id).len()), (503, 1), "{id}: {first:?}");
        assert_eq!(first.header("retry-after").as_deref(), Some("60"));
    }
    let told = scene.wait_for_access_log(4).await.unwrap().pop().unwrap();
    assert_eq!((told.holdfast_field("denied"), attempts(&told).len()), (Some("retry_after"), 1), "{told:?}");
    scene.client.drive(1, 20, numbered("/", "others")).await;
    let last = scene.client.send(request("/", "last")).await.unwrap();
    assert_eq!((last.status, last.text().as_str()), (503, "come back later"), "its own answer");
    assert_eq!((last.header("retry-after").as_deref(), host.seen_with(ID, "last").len()), (Some("60"), 1));
    let counted = scene.counted(&["retries", "retries_denied.retry_after"]).await;
    assert_eq!(counted, json!({"retries": 0, "retries_denied.retry_after": 23}));

    let meets = |number| Template::new(move |_| request("/", &format!("brief-{number}")));
    host.script(Action::in_turn(ID, [sheds("1"), Action::ok()]));
    let served = scene.client.drive(1, 1, meets(0)).await;
    let waits = gaps(&host.seen_with(ID, "brief-0"));
    assert_eq!((served.count(200), waits.len()), (1, 1), "{served:?}");
    assert!(waits[0] + TICK >= ms(1000), "{waits:?}");
}

/// As Envoy says it to a gRPC client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_client_gets_the_status_of_its_host_and_the_pushback() {
    let host = Backend::start().await.unwrap();
    let cluster = Cluster::new("orders").endpoint(host.addr()).http2();
    let options = EnvoyOptions::new().cluster(cluster).route(Route::to("/", "orders")).concurrency(1);
    let retry = json!({"retry": {"on": ["resource-exhausted"], "methods": ["POST"]}});
    let scene = Scene::with(options.seats(Seats::Both).policy(two_retries(retry))).await;
    let client = Client::http2(scene.addr());
    seats_meet(std::slice::from_ref(&client), "/").await;
    host.always(Action::grpc_trailers_only(8).header("grpc-retry-pushback-ms", "60000"));
    let response = client.send(with_header(Client::grpc_request("/shop.Orders/Get"), ID, "one")).await.unwrap();
    assert_eq!((response.grpc_status(), host.seen_with(ID, "one").len()), (Some(8), 1), "{response:?}");
    let left: u64 = response.header("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!((50_000..=60_000).contains(&left), "{response:?}");
}

/// A user's requests go to one host of two, by its hash, and so do their retries without `previous_hosts`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_comes_to_the_same_host_waits_as_it_asks_or_is_not_sent() {
    let (one, two) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let hosts = [&one, &two];
    let by_user = json!({"route": {"hash_policy": [{"header": {"header_name": "x-user"}}]}});
    let cluster = Cluster::new("orders").endpoint(one.addr()).endpoint(two.addr());
    let options = EnvoyOptions::new()
        .cluster(cluster.raw(json!({"lb_policy": "RING_HASH"})))
        .route(Route::to("/", "orders").raw(by_user))
        .without_retry_policy();
    let policy = two_retries(json!({"retry": {"retry_after": {"max": "30s"}}}));
    let scene = Scene::with(options.concurrency(1).seats(Seats::Both).policy(policy)).await;
    let of_user = |user: u32, id: &str| -> Request<Bytes> { with_header(request("/", id), "x-user", user.to_string()) };
    let send = async |user: u32, id: &str| scene.client.send(of_user(user, id)).await.unwrap();
    for host in hosts {
        host.script(Action::in_turn(ID, [Action::status(503), Action::ok()]));
    }
    let mut users = [None, None];
    for user in 0..40 {
        assert_eq!(send(user, &format!("user-{user}")).await.status, 200);
        let at = hosts.map(|host| host.seen_with(ID, &format!("user-{user}")).len());
        assert!(at == [2, 0] || at == [0, 2], "a retry comes to the same host: {at:?}");
        users[usize::from(at[1] > 0)] = Some(user);
    }
    let [Some(first), Some(second)] = users else { panic!("forty users are at both hosts: {users:?}") };

    for host in hosts {
        host.script(Action::in_turn(ID, [sheds("1"), Action::ok()]));
    }
    for (user, host) in [(first, &one), (second, &two)] {
        let id = format!("waits-{user}");
        assert_eq!(send(user, &id).await.status, 200);
        let waits = gaps(&host.seen_with(ID, &id));
        assert!(waits.len() == 1 && waits[0] + TICK >= ms(1000), "{waits:?}");
    }
    for (wait, left) in [("60", "60"), ("31", "31")] {
        one.script(Action::in_turn(ID, [sheds(wait), Action::ok()]));
        let response = send(first, wait).await;
        assert_eq!((response.status, one.seen_with(ID, wait).len(), two.seen_with(ID, wait).len()), (503, 1, 0));
        assert_eq!(response.header("retry-after").as_deref(), Some(left), "{response:?}");
    }
    let counted = scene.counted(&["retries_denied.retry_after"]).await;
    assert_eq!(counted, json!({"retries_denied.retry_after": 2}));
}
