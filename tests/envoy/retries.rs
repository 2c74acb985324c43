//! Retries with both seats in a real Envoy, counted at the hosts: which attempts are made, when, and what host, client and
//! operator see of them.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use holdfast_tests::{
    AccessLogEntry, Action, Attempt, Backend, Client, Cluster, EnvoyOptions, Listener, PATIENCE, Records, Response,
    Route, Scene, Seats, TICK, Template, alone, attempts, body_of, eventually, gaps, seen_by_all, with_header,
};
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::retrying::exactly;
use crate::web_socket;

/// The header by which hosts tell the requests of a test apart.
const KEY: &str = "x-request-key";

/// How exactly a back-off of 100 ms and more is kept.
const KEPT: Duration = Duration::from_millis(10);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn changed(mut value: Value, patch: Value) -> Value {
    json_patch::merge(&mut value, &patch);
    value
}

/// A policy for the path of its own name, so that one Envoy can show many. Unless told otherwise it waits hardly at all
/// and has a budget that is in nobody's way.
fn policy(name: &str, retry: Value) -> Value {
    let eager = json!({"backoff": {"base": "1ms", "jitter": "none"}, "budget": {"ratio": 100, "min_per_second": 1000}});
    json!({"name": name, "match": {"path": [format!("/{name}")]}, "retry": changed(eager, retry)})
}

fn document(policies: &[(&str, Value)]) -> Value {
    let policies: Vec<Value> = policies.iter().map(|(name, retry)| policy(name, retry.clone())).collect();
    json!({"policies": policies})
}

/// Both seats before these hosts.
fn before(hosts: &[&Backend], document: Value) -> EnvoyOptions {
    Scene::of_all(hosts).seats(Seats::Both).policy(document)
}

async fn start(host: &Backend, document: Value) -> Scene {
    Scene::with(before(&[host], document)).await
}

/// Lets the request seat find out that there is an attempt seat, for which it looks once a second.
async fn seats_meet(scene: &Scene, hosts: &[&Backend], names: &[&str]) {
    for name in names {
        scene.client.get(&format!("/{name}")).await.unwrap();
    }
    sleep(ms(1100)).await;
    for host in hosts {
        host.reset_counters();
    }
}

fn keyed(name: &str, key: &str) -> Request<Bytes> {
    with_header(Client::request(&format!("/{name}")), KEY, key)
}

fn keyed_post(name: &str, key: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    with_header(Client::post_request(&format!("/{name}"), body), KEY, key)
}

/// Requests `name-0`, `name-1`, and so on.
fn numbered(path: &str, name: &str) -> Template {
    let (path, name) = (path.to_owned(), name.to_owned());
    Template::new(move |number| keyed(&path, &format!("{name}-{number}")))
}

/// Sends a request and sees to it that nothing of what the seats tell each other is in the answer.
async fn send(client: &Client, request: Request<Bytes>) -> Response {
    let sent = format!("{} {} {:?}", request.method(), request.uri(), request.headers().get(KEY));
    let response = client.send(request).await.unwrap_or_else(|error| panic!("{sent}: {error}"));
    expect_unmarked(&response.headers);
    response
}

fn expect_unmarked(headers: &HeaderMap) {
    for (name, value) in headers {
        let ours =
            name.as_str().starts_with("x-holdfast-") && name != "x-holdfast-fallback" && name != "x-holdfast-reject";
        assert!(!ours, "a client sees {name}: {value:?}");
        assert!(name != "x-envoy-ratelimited" || value != "holdfast", "a client sees {name}: {value:?}");
    }
}

/// What the router and Holdfast alone are to know is not in the requests that this host has seen.
fn expect_discreet(host: &Backend) {
    let hidden = ["x-holdfast-", "x-envoy-retry-", "x-envoy-max-retries", "x-envoy-retriable-", "x-envoy-upstream-rq-"];
    for request in host.seen() {
        for name in request.headers.keys() {
            let shown = hidden.iter().find(|prefix| name.as_str().starts_with(**prefix));
            assert_eq!(shown, None, "a host sees {name} in {} {}", request.method, request.path);
        }
        assert_eq!(request.headers.get("x-envoy-hedge-on-per-try-timeout"), None);
    }
}

/// One metric of a policy; 0 when it does not exist.
async fn metric(scene: &Scene, policy: &str, name: &str) -> u64 {
    scene.metric_of(policy, "cluster=orders", name).await
}

/// All that a policy has counted about retries, without what is 0.
async fn counted(scene: &Scene, policy: &str) -> Value {
    let metrics = scene.metrics(policy, "cluster=orders").await;
    let told = |name: &str| name.starts_with("retries") || name.starts_with("would_");
    metrics
        .into_iter()
        .filter(|(name, value)| *value > 0 && told(name))
        .map(|(name, value)| (name, json!(value)))
        .collect()
}

/// How the attempts of a request ended, as the access log tells.
fn outcomes(entry: &AccessLogEntry) -> Vec<String> {
    attempts(entry).into_iter().map(|one| one.outcome).collect()
}

/// How many attempts of this request the hosts have seen.
fn tries(hosts: &[&Backend], key: &str) -> usize {
    seen_by_all(hosts, KEY, key).len()
}

/// The waits before the retry number `turn` (from 0) of the requests `name-0` to `name-(count-1)`, when each
/// failed try took `took`; the shortest first.
fn waits(hosts: &[&Backend], name: &str, count: usize, turn: usize, took: Duration) -> Vec<Duration> {
    let wait = |number| gaps(&seen_by_all(hosts, KEY, &format!("{name}-{number}")))[turn].saturating_sub(took);
    let mut waits: Vec<Duration> = (0..count).map(wait).collect();
    waits.sort_unstable();
    waits
}

/// Tells a story about time, with the number of the round, until the machine is not too busy to keep it. What holds however
/// busy it is, the story asserts itself.
async fn in_some_round(mut story: impl AsyncFnMut(u32) -> Result<(), String>) {
    let start = Instant::now();
    for round in 1.. {
        match story(round).await {
            Ok(()) => return,
            Err(told) => assert!(start.elapsed() < PATIENCE, "not even in {round} rounds: {told}"),
        }
    }
}

/// How late half of the waits of this process are: about as late are Envoy's at the same time.
async fn lateness() -> Duration {
    const WAIT: Duration = ms(100);
    let mut waits = JoinSet::new();
    for number in 0..12 {
        waits.spawn(async move {
            sleep(ms(10 * number)).await;
            let start = Instant::now();
            sleep(WAIT).await;
            start.elapsed().saturating_sub(WAIT)
        });
    }
    let mut late = waits.join_all().await;
    late.sort_unstable();
    late[late.len() / 2]
}

/// None of these waits is shorter than `wait`, and most are hardly longer, but for what the machine is late.
fn are_kept(told: &str, waits: &[Duration], wait: Duration, late: Duration) -> Result<(), String> {
    // On a busy machine a host may see an attempt later than Envoy sent it, and the gap to the next is so much shorter.
    if waits[0] + TICK < wait {
        return Err(format!("{told}: no wait is shorter than {wait:?}: {waits:?}"));
    }
    // What Envoy itself takes for an attempt grows with how slow the machine is, which the lateness of timers does not say.
    if waits[waits.len() / 2] <= wait + wait / 8 + KEPT + late {
        Ok(())
    } else {
        Err(format!("{told}: {wait:?} are kept where others are {late:?} late: {waits:?}"))
    }
}

/// Sends twelve requests at once and expects these waits between the attempts of each, where each failed attempt takes `took`.
async fn expect_waits(client: &Client, host: &Backend, path: &str, told: &str, took: Duration, expected: &[Duration]) {
    in_some_round(async |round| {
        let name = format!("{told}-{round}");
        let (records, late) = tokio::join!(client.drive(12, 12, numbered(path, &name)), lateness());
        assert_eq!(records.count(200), 12, "{told}");
        let mut all = expected.iter().enumerate();
        all.try_for_each(|(turn, wait)| are_kept(told, &waits(&[host], &name, 12, turn, took), *wait, late))
    })
    .await;
}

async fn one_failure_each(workers: u32, meet: bool) {
    let host = Backend::start().await.unwrap();
    let document = document(&[("orders", json!({}))]);
    let scene = Scene::with(before(&[&host], document).concurrency(workers)).await;
    if meet {
        seats_meet(&scene, &[&host], &["orders"]).await;
    }
    let on_each = scene.workers(workers as usize).await;
    host.script(Action::in_turn(KEY, [Action::status(503), Action::ok()]));

    let mut clients = on_each;
    clients.extend([Client::http1(scene.addr()), Client::http1(scene.addr())]);
    let share = 200 / clients.len();
    let mut runs = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        let (client, requests) = (client.clone(), numbered("orders", &number.to_string()));
        runs.spawn(async move { client.drive(4, share, requests).await });
    }
    let runs: Vec<Records> = runs.join_all().await;

    let sent = share * clients.len();
    assert_eq!(runs.iter().map(|records| records.count(200)).sum::<usize>(), sent, "every request is served");
    for (client, request) in (0..clients.len()).flat_map(|client| (0..share).map(move |request| (client, request))) {
        assert_eq!(tries(&[&host], &format!("{client}-{request}")), 2, "and costs the host one try more");
    }
    assert_eq!(counted(&scene, "orders").await, json!({"retries": sent, "retries_recovered": sent}));
    let all = scene.metrics("orders", "cluster=orders").await;
    assert_eq!((all["success"], all["failure"]), (all["requests"], 0), "to the client no request failed");
    runs.iter().flat_map(Records::responses).for_each(|response| expect_unmarked(&response.headers));
    expect_discreet(&host);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_fails_once_per_request_costs_one_attempt_more_and_no_request() {
    one_failure_each(2, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_over_four_workers_and_from_the_first_request_on() {
    one_failure_each(4, false).await;
}

/// Requests that fail twice before they are served, in several ways.
async fn expect_back_offs(options: EnvoyOptions, host: &Backend, ways: &[(&str, Action, Duration)]) {
    let scene = Scene::with(options).await;
    seats_meet(&scene, &[host], &["orders"]).await;
    for (told, failure, took) in ways {
        host.script(Action::in_turn(KEY, [failure.clone(), failure.clone(), Action::ok()]));
        expect_waits(&scene.client, host, "orders", told, *took, &[ms(100), ms(200)]).await;
    }
    let counted = counted(&scene, "orders").await;
    assert_eq!(counted["retries"].as_u64(), counted["retries_recovered"].as_u64().map(|recovered| 2 * recovered));
}

fn doubling() -> Value {
    document(&[("orders", json!({"backoff": {"base": "100ms", "jitter": "none"}}))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_offs_are_kept_from_the_end_of_the_failed_attempt() {
    let _alone = alone().await;
    let host = Backend::start().await.unwrap();
    let ways = [
        ("503", Action::status(503), Duration::ZERO),
        ("slow-503", Action::status(503).after(ms(50)), ms(50)),
        ("reset", Action::reset(), Duration::ZERO),
        ("slow-reset", Action::reset().after(ms(50)), ms(50)),
    ];
    expect_back_offs(before(&[&host], doubling()), &host, &ways).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_own_wait_runs_within_ours() {
    let _alone = alone().await;
    let host = Backend::start().await.unwrap();
    // Envoy waits up to 25 ms, then up to 75 ms.
    let ways = [("503", Action::status(503), Duration::ZERO), ("reset", Action::reset(), Duration::ZERO)];
    expect_back_offs(before(&[&host], doubling()).without_retry_policy(), &host, &ways).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jitter_spreads_the_waits_within_its_bounds() {
    let _alone = alone().await;
    let host = Backend::start().await.unwrap();
    let jitter = |jitter: &str, max: &str| json!({"backoff": {"base": "200ms", "max": max, "jitter": jitter}});
    let policies = [
        ("full", jitter("full", "300ms")),
        ("equal", jitter("equal", "300ms")),
        ("decorrelated", jitter("decorrelated", "500ms")),
    ];
    let scene = start(&host, document(&policies)).await;
    seats_meet(&scene, &[&host], &["full", "equal", "decorrelated"]).await;
    host.script(Action::in_turn(KEY, [Action::status(503), Action::status(503), Action::ok()]));

    in_some_round(async |round| {
        let drive = |name: &'static str| scene.client.drive(20, 20, numbered(name, &format!("{name}-{round}")));
        let all = tokio::join!(drive("full"), drive("equal"), drive("decorrelated"), lateness());
        assert_eq!((all.0.count(200), all.1.count(200), all.2.count(200)), (20, 20, 20));
        for (name, turn, from, to) in [
            ("full", 0, 0, 200),
            ("full", 1, 0, 300),
            ("equal", 0, 100, 200),
            ("equal", 1, 150, 300),
            // From base to three times the wait before, and never above the maximum.
            ("decorrelated", 0, 200, 500),
            ("decorrelated", 1, 200, 500),
        ] {
            let waits = waits(&[&host], &format!("{name}-{round}"), 20, turn, Duration::ZERO);
            assert!(waits[0] + TICK >= ms(from), "{name} waits at least {from} ms: {waits:?}");
            assert!(waits[19] - waits[0] >= ms((to - from) / 4), "{name} spreads: {waits:?}");
            // The last of sixty that wake at about the same time are not told by the bounds.
            if waits[16] > ms(to) + 3 * KEPT + all.3 {
                return Err(format!("{name} waits at most {to} ms: {waits:?}"));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_off_does_not_eat_the_time_of_the_attempt_after_it() {
    let _alone = alone().await;
    let host = Backend::start().await.unwrap();
    let retry = json!({"per_try_timeout": "600ms", "max_retries": 1, "backoff": {"base": "500ms", "jitter": "none"}});
    let scene = start(&host, document(&[("orders", retry)])).await;
    seats_meet(&scene, &[&host], &["orders"]).await;
    let slow = Action::ok().after(ms(400));
    let send = |key: &str| send(&scene.client, keyed("orders", key));

    host.script(Action::in_turn(KEY, [Action::status(503), slow.clone()]));
    let served = tokio::join!(send("a"), send("b"), send("c"));
    assert_eq!(
        (served.0.status, served.1.status, served.2.status),
        (200, 200, 200),
        "500 and 400 ms, of 600 for a try"
    );
    host.script(Action::in_turn(KEY, [Action::hang(), slow]));
    in_some_round(async |round| {
        let keys = ["d", "e", "f"].map(|key| format!("{key}-{round}"));
        let served = tokio::join!(send(&keys[0]), send(&keys[1]), send(&keys[2]), lateness());
        assert_eq!((served.0.status, served.1.status, served.2.status), (200, 200, 200), "the first try hangs");
        let mut waits: Vec<Duration> = keys.iter().map(|key| gaps(&host.seen_with(KEY, key))[0]).collect();
        waits.sort_unstable();
        are_kept("500 ms when the 600 ms of the try are over", &waits, ms(1100), served.3)
    })
    .await;

    host.always(Action::hang());
    let response = send("g").await;
    assert_eq!((response.status, tries(&[&host], "g")), (504, 2), "two tries hang");
    host.wait_idle().await.unwrap();
    let counted = counted(&scene, "orders").await;
    assert_eq!(counted["retries"].as_u64(), counted["retries_recovered"].as_u64().map(|recovered| recovered + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_hang_are_ended_and_made_again() {
    let (hanging, good) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let retry = json!({"per_try_timeout": "400ms", "max_retries": 1});
    let scene = Scene::with(before(&[&hanging, &good], document(&[("orders", retry)]))).await;
    seats_meet(&scene, &[&hanging, &good], &["orders", "orders"]).await;
    hanging.always(Action::hang());

    let records = scene.client.drive(20, 20, numbered("orders", "hang")).await;

    assert_eq!(records.count(200), 20, "every request is served by the other host");
    assert_eq!(good.requests(), 20);
    let hung = hanging.requests();
    assert!((1..20).contains(&hung), "some had to be made again: {hung}");
    assert_eq!(counted(&scene, "orders").await, json!({"retries": hung, "retries_recovered": hung}));
    hanging.wait_idle().await.expect("a try that is given up does not stay with the host");
    let told = scene.wait_for_access_log(22).await.unwrap();
    let timed_out = |one: &Attempt| one.host == hanging.addr().to_string() && one.outcome == "failure:timeout";
    assert_eq!(told.iter().filter(|entry| attempts(entry).iter().any(timed_out)).count() as u64, hung);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeout_covers_all_attempts_and_their_back_offs() {
    let _alone = alone().await;
    let host = Backend::start().await.unwrap();
    let policies = [
        (
            "hanging",
            json!({
                "timeout": "1s", "per_try_timeout": "400ms", "max_retries": 20, "backoff": {"max": "1ms"},
            }),
        ),
        ("whole", json!({"timeout": "800ms"})),
        (
            "failing",
            json!({
                "timeout": "1100ms", "max_retries": 20, "backoff": {"base": "300ms", "max": "300ms", "jitter": "none"},
            }),
        ),
        ("patient", json!({"timeout": "1s", "backoff": {"base": "4s", "jitter": "none"}})),
    ];
    let scene = start(&host, document(&policies)).await;
    seats_meet(&scene, &[&host], &["hanging", "whole", "failing", "patient"]).await;
    let timed = |key: &'static str, name: &'static str| {
        let request = keyed(name, key);
        let client = &scene.client;
        async move {
            let start = Instant::now();
            (send(client, request).await, start.elapsed())
        }
    };

    host.always(Action::hang());
    let (hanging, whole) = tokio::join!(timed("hanging", "hanging"), timed("whole", "whole"));
    for (told, (response, took), timeout) in [("hanging", &hanging, ms(1000)), ("whole", &whole, ms(800))] {
        assert_eq!(response.status, 504, "{told}");
        let about = timeout - 2 * TICK..timeout + ms(400);
        assert!(about.contains(took), "{told}: it ends with {timeout:?}: {took:?}");
    }
    assert_eq!(tries(&[&host], "hanging"), 3, "two tries of 400 ms and what is left for a third");
    assert_eq!(tries(&[&host], "whole"), 1);
    for name in ["hanging", "whole"] {
        assert_eq!(metric(&scene, name, "failure").await, 1, "{name}");
    }
    host.wait_idle().await.unwrap();

    host.always(Action::status(503).body("the host's own").header("x-own", "yes"));
    let (response, took) = timed("failing", "failing").await;
    assert_eq!((response.status, response.text().as_str()), (503, "the host's own"));
    assert_eq!(tries(&[&host], "failing"), 4, "at 0, 300, 600 and 900 ms; at 1200 ms the time would be over");
    assert!(took < ms(1100), "and nobody waits for that: {took:?}");
    assert_eq!(counted(&scene, "failing").await, json!({"retries": 3, "retries_denied.deadline": 1}));

    let (response, took) = timed("patient", "patient").await;
    assert_eq!((response.status, response.header("x-own").as_deref()), (503, Some("yes")));
    assert!(took < ms(800), "a back-off that does not fit is not waited for: {took:?}");
    assert_eq!(
        (tries(&[&host], "patient"), counted(&scene, "patient").await),
        (1, json!({"retries_denied.deadline": 1}))
    );

    host.always(Action::reset());
    let (response, took) = timed("reset", "patient").await;
    assert_eq!((response.status, tries(&[&host], "reset")), (503, 1));
    assert!(took < ms(800), "neither after a reset: {took:?}");
    assert_eq!(counted(&scene, "patient").await, json!({"retries_denied.deadline": 2}));
}

fn asking(wait: &str) -> Action {
    Action::status(503).header("retry-after", wait).body("come back later")
}

/// Lets the attempt seat see that the cluster has one host: it looks where attempts go once a host has asked for a wait.
async fn show_one_host(scene: &Scene, host: &Backend, name: &str, asking: Action) {
    host.always(asking);
    scene.client.get(&format!("/{name}")).await.unwrap();
    host.always(Action::ok());
    assert_eq!(scene.client.drive(1, 20, numbered(name, "shown")).await.count(200), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_says_when_to_come_back_is_obeyed() {
    let _alone = alone().await;
    let host = Backend::start().await.unwrap();
    let scene = start(&host, document(&[("orders", json!({"on": ["5xx", "unavailable"]}))])).await;
    seats_meet(&scene, &[&host], &["orders"]).await;
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    let date_at = httpdate::parse_http_date(&date).unwrap();
    let pushback = |value: &str| {
        Action::status(200)
            .header("content-type", "application/grpc")
            .header("grpc-status", "14")
            .header("grpc-retry-pushback-ms", value)
    };
    let first = move |key: &str| match key.split('-').next().unwrap() {
        "seconds" => asking("1"),
        "date" => asking(&date),
        "past" => asking("Sun, 06 Nov 1994 08:49:37 GMT"),
        "nonsense" => asking("soon"),
        "pushback" => pushback("300"),
        "never" => pushback("-1"),
        other => panic!("nothing is known of {other}"),
    };
    let turns = std::sync::Mutex::new(std::collections::BTreeSet::new());
    host.script(move |request| {
        let key = request.header(KEY).unwrap();
        if turns.lock().unwrap().insert(key.clone()) { first(&key) } else { Action::ok() }
    });

    let drive = |name: &'static str, count| scene.client.drive(count, count, numbered("orders", name));
    let sent = (SystemTime::now(), Instant::now());
    let expect = async |name: &str, wait| {
        expect_waits(&scene.client, &host, "orders", name, Duration::ZERO, &[wait]).await;
    };
    let (dates, past, nonsense, never, (), ()) = tokio::join!(
        drive("date", 6),
        drive("past", 1),
        drive("nonsense", 1),
        drive("never", 1),
        expect("seconds", ms(1000)),
        expect("pushback", ms(300))
    );

    for (told, records) in [("date", &dates), ("past", &past), ("nonsense", &nonsense)] {
        assert_eq!(records.count(200), records.0.len(), "{told}: the second try is served");
    }
    let due = date_at.duration_since(sent.0).unwrap();
    let second = |number| host.seen_with(KEY, &format!("date-{number}"))[1].at.duration_since(sent.1);
    let mut seconds: Vec<Duration> = (0..6).map(second).collect();
    seconds.sort_unstable();
    assert!(seconds[0] + TICK >= due && seconds[0] <= due + ms(200), "the date is {due:?} away: {seconds:?}");
    for name in ["past-0", "nonsense-0"] {
        assert!(gaps(&host.seen_with(KEY, name))[0] < ms(500), "{name}: nothing to wait for");
    }
    assert_eq!(never.responses().map(Response::grpc_status).collect::<Vec<_>>(), [Some(14)]);
    assert_eq!(tries(&[&host], "never-0"), 1, "a negative pushback asks not to come back at all");
    assert_eq!(metric(&scene, "orders", "retries_denied.retry_after").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_asks_for_too_much_gets_no_retry_and_its_answer_goes_on() {
    // Much less than any wait here, and than any time-out.
    const AT_ONCE: Duration = ms(5000);
    let host = Backend::start().await.unwrap();
    let policies = [
        ("capped", json!({"retry_after": {"max": "9s"}})),
        ("timed", json!({"timeout": "9s"})),
        // The wait runs in the time of the next attempt, or before it in the time of this one. Neither is long enough.
        ("per-try", json!({"per_try_timeout": "300ms"})),
        ("routed", json!({})),
        ("deaf", json!({"retry_after": {"honor": false}})),
    ];
    let scene = Scene::with(before(&[&host], document(&policies)).concurrency(1)).await;
    seats_meet(&scene, &[&host], &["capped", "timed", "per-try", "routed", "deaf"]).await;
    for name in ["capped", "timed", "per-try", "routed"] {
        show_one_host(&scene, &host, name, asking("3600")).await;
    }

    host.script(Action::in_turn(KEY, [asking("10"), Action::ok()]));
    for name in ["capped", "timed", "per-try"] {
        let started = Instant::now();
        let response = send(&scene.client, keyed(name, name)).await;
        assert_eq!((response.status, response.text().as_str()), (503, "come back later"), "{name}");
        assert_eq!(response.header("retry-after").as_deref(), Some("10"), "{name}: the client may wait itself");
        assert!(started.elapsed() < AT_ONCE, "{name}: at once");
        assert_eq!(tries(&[&host], name), 1, "{name}");
        assert_eq!(counted(&scene, name).await, json!({"retries_denied.retry_after": 2}), "{name}");
    }

    host.script(Action::in_turn(KEY, [asking("60"), Action::ok()]));
    assert_eq!(send(&scene.client, keyed("deaf", "deaf")).await.status, 200);
    assert!(gaps(&host.seen_with(KEY, "deaf"))[0] < AT_ONCE, "who does not honor it waits its own time");
    assert_eq!(counted(&scene, "deaf").await, json!({"retries": 1, "retries_recovered": 1}));

    for key in ["first", "second"] {
        let started = Instant::now();
        let response = send(&scene.client, keyed("routed", key)).await;
        assert_eq!((response.status, tries(&[&host], key)), (503, 1), "{key}: the route's own time-out is 15 s");
        assert!(started.elapsed() < AT_ONCE, "{key}: at once");
    }
    assert_eq!(counted(&scene, "routed").await, json!({"retries_denied.retry_after": 3}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_without_a_time_out_leaves_time_for_what_the_host_asks() {
    let host = Backend::start().await.unwrap();
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .route(Route::to("/", "orders").timeout(Duration::ZERO))
        .concurrency(1)
        .seats(Seats::Both)
        .policy(document(&[("orders", json!({}))]));
    let scene = Scene::with(options).await;
    host.script(Action::in_turn(KEY, [asking("60"), Action::ok()]));

    // The first such answer of a worker may be judged by Envoy's default time-out: it did not look for the route's before.
    let first = scene.client.open(keyed("orders", "first"));
    eventually(PATIENCE, || async { host.requests() >= 1 && host.in_flight() == 0 }).await.unwrap();
    sleep(ms(100)).await;
    first.disconnect().await;
    host.reset_counters();
    let second = scene.client.open(keyed("orders", "second"));
    eventually(PATIENCE, || async { host.requests() == 1 && host.in_flight() == 0 }).await.unwrap();
    sleep(ms(400)).await;
    assert!(!second.is_finished(), "a minute is less than the five that retry_after.max allows");
    second.disconnect().await;
    assert_eq!(tries(&[&host], "second"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_the_host_asks_for_does_not_eat_the_next_attempt_either() {
    let _alone = alone().await;
    let host = Backend::start().await.unwrap();
    let backoff = json!({"base": "500ms", "jitter": "none"});
    let retry = json!({"on": ["unavailable"], "per_try_timeout": "400ms", "max_retries": 1, "backoff": backoff});
    let scene = Scene::with(before(&[&host], document(&[("orders", retry)])).concurrency(1)).await;
    seats_meet(&scene, &[&host], &["orders"]).await;
    let asking = |wait: &str| Action::grpc_trailers_only(14).header("grpc-retry-pushback-ms", wait);

    // Second attempts take 300 ms, of 400 for an attempt.
    host.script(Action::in_turn(KEY, [asking("450"), Action::ok().after(ms(300))]));
    expect_waits(&scene.client, &host, "orders", "asked", Duration::ZERO, &[ms(450)]).await;
    let counted = counted(&scene, "orders").await;
    assert_eq!(counted["retries"], counted["retries_recovered"]);

    show_one_host(&scene, &host, "orders", asking("550")).await;
    host.script(Action::in_turn(KEY, [asking("550"), Action::ok()]));
    let response = send(&scene.client, keyed("orders", "longer")).await;
    assert_eq!((response.grpc_status(), tries(&[&host], "longer")), (Some(14), 1), "longer than the longest back-off");
    assert_eq!(metric(&scene, "orders", "retries_denied.retry_after").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_reached_a_host_is_not_sent_again() {
    let (one, two) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let policies = [("plain", json!({})), ("timed", json!({"per_try_timeout": "150ms"}))];
    let scene = Scene::with(before(&[&one, &two], document(&policies))).await;
    seats_meet(&scene, &[&one, &two], &["plain", "timed"]).await;

    for (name, key, failure, status) in [
        ("plain", "503", Action::status(503), 503),
        ("plain", "reset", Action::reset(), 503),
        ("timed", "hang", Action::hang(), 504),
    ] {
        let script = Action::in_turn(KEY, [failure, Action::ok()]);
        one.script(script.clone());
        two.script(script);
        let response = send(&scene.client, keyed_post(name, key, "an order")).await;
        assert_eq!(response.status, status, "{key}");
        assert_eq!(tries(&[&one, &two], key), 1, "{key}: one order is one order");
    }

    assert_eq!(counted(&scene, "plain").await, json!({"retries_denied.method": 2}));
    assert_eq!(counted(&scene, "timed").await, json!({"retries_denied.method": 1}));
    let told = scene.wait_for_access_log(5).await.unwrap();
    for entry in told.iter().filter(|entry| entry.method == "POST") {
        assert_eq!(entry.holdfast_field("denied"), Some("method"), "{entry:?}");
        assert_eq!(attempts(entry).len(), 1, "{entry:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_with_an_idempotency_key_is_sent_again_with_its_whole_body() {
    let (one, two) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let policies = [
        ("plain", json!({})),
        ("timed", json!({"per_try_timeout": "500ms"})),
        ("own", json!({"idempotency_header": "x-order-id"})),
    ];
    let scene = Scene::with(before(&[&one, &two], document(&policies))).await;
    seats_meet(&scene, &[&one, &two], &["plain", "timed", "own"]).await;
    let script = |actions: [Action; 2]| {
        let script = Action::in_turn(KEY, actions);
        one.script(script.clone());
        two.script(script);
    };
    let expect_twice = |key: &str, body: &Bytes| {
        let seen = seen_by_all(&[&one, &two], KEY, key);
        assert_eq!(seen.len(), 2, "{key}");
        assert!(seen.iter().all(|seen| seen.body == body), "{key}: {:?}", seen.iter().map(|seen| seen.body.len()));
        assert_eq!(one.seen_with(KEY, key).len(), 1, "{key}: one try for each host");
    };

    for (name, failure, told) in
        [("plain", Action::status(503), "503"), ("plain", Action::reset(), "reset"), ("timed", Action::hang(), "hang")]
    {
        script([failure, Action::ok()]);
        for (size, size_told) in [(1024, "1 KiB"), (1024 * 1024, "1 MiB")] {
            let (key, body) = (format!("{told}, {size_told}"), body_of(size));
            let order = with_header(keyed_post(name, &key, body.clone()), "idempotency-key", "7");
            assert_eq!(send(&scene.client, order).await.status, 200, "{key}");
            expect_twice(&key, &body);

            let (key, body) = (format!("{told}, {size_told} in pieces"), body_of(size - 1));
            let order = with_header(keyed_post(name, &key, body.clone()), "idempotency-key", "7");
            let response = scene.client.open_in_pieces(order, size / 8, ms(2)).finish().await.unwrap();
            assert_eq!(response.status, 200, "{key}");
            expect_twice(&key, &body);
        }
    }

    script([Action::status(503), Action::ok()]);
    let order = with_header(keyed_post("own", "own", "an order"), "x-order-id", "7");
    assert_eq!(send(&scene.client, order).await.status, 200, "the policy names the header");
    let order = with_header(keyed_post("own", "other", "an order"), "idempotency-key", "7");
    assert_eq!(send(&scene.client, order).await.status, 503, "and then no other counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_retried_while_its_body_still_comes() {
    let (one, two) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let scene = Scene::with(before(&[&one, &two], document(&[("orders", json!({}))]))).await;
    seats_meet(&scene, &[&one, &two], &["orders"]).await;
    let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    for host in [&one, &two] {
        let first = std::sync::Arc::clone(&first);
        let refuse = move || first.swap(false, std::sync::atomic::Ordering::SeqCst).then(|| Action::status(503));
        host.script_at_headers(move |_| refuse());
    }
    let mut order = keyed_post("orders", "a", body_of(200_000));
    *order.method_mut() = Method::PUT;

    let response = scene.client.open_in_pieces(order, 20_000, ms(20)).finish().await.unwrap();

    assert_eq!(response.status, 200, "the first host fails before it has read the body");
    let seen = seen_by_all(&[&one, &two], KEY, "a");
    assert_eq!(seen.iter().map(|seen| seen.body.len()).collect::<Vec<_>>(), [0, 200_000]);
    assert_eq!(seen[1].body, body_of(200_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_are_retried_as_the_policy_says() {
    let host = Backend::start().await.unwrap();
    let policies = [("default", json!({})), ("own", json!({"methods": ["POST", "PATCH"]}))];
    let scene = start(&host, document(&policies)).await;
    seats_meet(&scene, &[&host], &["default", "own"]).await;
    host.script(Action::in_turn(KEY, [Action::status(503), Action::ok()]));

    for (name, method, expected) in [
        ("default", "GET", 2),
        ("default", "HEAD", 2),
        ("default", "OPTIONS", 2),
        ("default", "PUT", 2),
        ("default", "DELETE", 2),
        ("default", "TRACE", 2),
        ("default", "POST", 1),
        ("default", "PATCH", 1),
        ("own", "POST", 2),
        ("own", "PATCH", 2),
        ("own", "GET", 1),
    ] {
        let key = format!("{name}-{method}");
        let mut request = keyed(name, &key);
        *request.method_mut() = method.parse().unwrap();
        let status = send(&scene.client, request).await.status;
        assert_eq!((tries(&[&host], &key), status), (expected, if expected == 2 { 200 } else { 503 }), "{key}");
    }
    assert_eq!(metric(&scene, "default", "retries_denied.method").await, 2);
    assert_eq!(metric(&scene, "own", "retries_denied.method").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_no_host_can_have_seen_is_sent_to_another() {
    let (dead, live) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let waiting = json!({"backoff": {"base": "100ms", "jitter": "none"}});
    let policies = [("eager", json!({})), ("waiting", waiting), ("none", json!({"on": ["5xx"]}))];
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(dead.addr()).endpoint(live.addr()))
        .cluster(Cluster::new("dead").endpoint(dead.addr()))
        .route(Route::to("/none", "dead"))
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        .policy(document(&policies));
    let scene = Scene::with(options).await;
    seats_meet(&scene, &[&dead, &live], &["eager", "waiting"]).await;
    dead.refuse().await.unwrap();
    // Envoy has to hear that the connections which it keeps are closed: an order sent on one of them may have been made.
    sleep(ms(500)).await;

    for name in ["eager", "waiting"] {
        let orders = Template::new(move |number| keyed_post(name, &format!("{name}-{number}"), body_of(1024)));
        let records = scene.client.drive(8, 24, orders).await;
        assert_eq!(records.count(200), 24, "{name}: every order is served");
        for number in 0..24 {
            let seen = live.seen_with(KEY, &format!("{name}-{number}"));
            assert!(seen.len() == 1 && seen[0].body == body_of(1024), "{name}: and made once");
        }
        let retries = metric(&scene, name, "retries").await;
        assert!(retries >= 6, "{name}: a good part of them met the host that is down first: {retries}");
        assert_eq!(counted(&scene, name).await, json!({"retries": retries, "retries_recovered": retries}));
        let slowest = records.latency(100.0);
        assert!(
            name == "eager" || slowest + TICK >= ms(100),
            "{name}: a connect failure is waited after too: {slowest:?}"
        );
    }

    let response = send(&scene.client, keyed_post("none", "none", "an order")).await;
    assert_eq!(response.status, 503, "nobody is there");
    let told = scene.wait_for_access_log(51).await.unwrap();
    assert_eq!(
        outcomes(told.last().unwrap()),
        ["failure:connect_failure"; 3],
        "5xx covers connections that cannot be made"
    );
}

/// Every host fails, each request attempts as often as there are hosts, and none sees it twice.
async fn expect_other_hosts(count: usize) {
    let mut hosts = Vec::new();
    for _ in 0..count {
        hosts.push(Backend::start().await.unwrap());
    }
    let hosts: Vec<&Backend> = hosts.iter().collect();
    let scene = Scene::with(before(&hosts, document(&[("orders", json!({"max_retries": count - 1}))]))).await;
    for (told, failure) in [("503", Action::status(503)), ("reset", Action::reset())] {
        hosts.iter().for_each(|host| host.always(failure.clone()));
        let records = scene.client.drive(6, 60, numbered("orders", told)).await;
        assert_eq!(records.count(503), 60);
        for (number, host) in (0..60).flat_map(|number| hosts.iter().map(move |host| (number, host))) {
            assert_eq!(host.seen_with(KEY, &format!("{told}-{number}")).len(), 1, "{told}: each host sees it once");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_goes_to_another_host_while_there_is_one() {
    expect_other_hosts(2).await;
    expect_other_hosts(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_is_retried_by_its_status_while_that_can_be_seen_in_time() {
    let host = Backend::start().await.unwrap();
    let policies = [("asked", json!({"on": ["unavailable"]})), ("default", json!({}))];
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).http2())
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        .policy(document(&policies));
    let scene = Scene::with(options).await;
    seats_meet(&scene, &[&host], &["asked", "default"]).await;
    let client = Client::http2(scene.addr());
    // gRPC is all POST: an idempotency key makes it retriable.
    let call = |name: &str, key: &str| {
        let call = with_header(Client::grpc_request(&format!("/{name}")), KEY, key);
        with_header(call, "idempotency-key", key)
    };
    let in_turn = |first: Action| host.script(Action::in_turn(KEY, [first, Action::grpc(0)]));

    in_turn(Action::grpc_trailers_only(14));
    let response = send(&client, call("asked", "a")).await;
    assert_eq!((response.grpc_status(), response.body.len(), tries(&[&host], "a")), (Some(0), 5, 2), "it is asked for");
    let response = send(&client, call("default", "b")).await;
    assert_eq!((response.grpc_status(), tries(&[&host], "b")), (Some(14), 1), "nobody has asked for it");
    let plain = with_header(Client::grpc_request("/asked"), KEY, "c");
    let response = send(&client, plain).await;
    assert_eq!((response.grpc_status(), tries(&[&host], "c")), (Some(14), 1), "a call without a key reached the host");

    in_turn(Action::grpc(14).trailer("grpc-message", "gone"));
    let response = send(&client, call("asked", "d")).await;
    assert_eq!(
        (response.status, response.grpc_status(), response.body.len()),
        (200, Some(14), 5),
        "the client has it whole"
    );
    assert_eq!(response.trailers.unwrap()["grpc-message"], "gone");
    assert_eq!(tries(&[&host], "d"), 1, "trailers come too late");
    in_turn(Action::grpc_trailers_only(13));
    assert_eq!(send(&client, call("asked", "e")).await.grpc_status(), Some(13), "INTERNAL is another status");

    assert_eq!(
        counted(&scene, "asked").await,
        json!({"retries": 1, "retries_recovered": 1, "retries_denied.method": 1})
    );
    assert_eq!(counted(&scene, "default").await, json!({}));
    assert_eq!(metric(&scene, "asked", "failure").await, 3, "and all are judged");
    let told = scene.wait_for_access_log(7).await.unwrap();
    assert_eq!(outcomes(&told[2]), ["failure:grpc-14", "success:grpc-0"]);
    expect_discreet(&host);
}

/// One way for a first try to end, and how many attempts a policy makes of it.
type Row = (&'static str, &'static str, Action, usize);

/// What each word of `on` names. Policies whose names begin with `h2` have HTTP/2 hosts.
fn rows() -> Vec<Row> {
    let answer = |status| Action::status(status).body("its own");
    let limited = |status| answer(status).header("x-envoy-ratelimited", "true");
    let marked = |status, name: &str| answer(status).header(name, "yes");
    let grpc = Action::grpc_trailers_only;
    let mut rows = Vec::new();
    let mut row = |name, told, action, tries| rows.push((name, told, action, tries));
    for (name, retried, left) in [
        ("five", &[500, 501, 503, 504, 599][..], &[404, 409, 429][..]),
        ("gateway", &[502, 503, 504], &[500, 501, 505, 404]),
        ("resets", &[], &[500, 503, 504]),
        ("connect", &[], &[500, 503]),
        ("conflict", &[409], &[404, 429, 500, 503]),
        ("statuses", &[429, 500, 502, 504], &[428, 430, 505, 404]),
        ("unsent", &[], &[500, 503]),
        ("lists", &[418], &[417, 503, 500]),
        ("limited", &[], &[429, 503]),
        ("h2-refused", &[], &[503]),
        ("h2-grpc", &[], &[500, 503]),
    ] {
        retried.iter().for_each(|status| row(name, "an answer", answer(*status), 2));
        left.iter().for_each(|status| row(name, "an answer", answer(*status), 1));
    }
    for (name, tries) in [("five", 2), ("gateway", 2), ("resets", 2), ("connect", 1), ("conflict", 1), ("statuses", 1)]
    {
        row(name, "a TCP reset", Action::reset(), tries);
    }
    row("unsent", "a TCP reset after the request was read", Action::reset(), 1);
    row("slow", "nothing in time", Action::hang(), 2);
    row("slow-five", "nothing in time", Action::hang(), 2);
    row("slow-connect", "nothing in time", Action::hang(), 1);
    row("five", "a limited answer", limited(503), 1);
    row("statuses", "a limited answer", limited(429), 1);
    row("limited", "a limited answer", limited(503), 2);
    row("limited", "a limited answer", limited(429), 2);
    row("lists", "an answer with a header of the route's list", marked(503, "x-again"), 2);
    row("lists", "an answer with another header", marked(503, "x-never"), 1);
    row("h2-refused", "a refused stream", Action::refuse_stream(), 2);
    row("h2-refused", "a stream that is reset", Action::reset_stream(), 1);
    row("h2-reset", "a refused stream", Action::refuse_stream(), 2);
    row("h2-reset", "a stream that is reset", Action::reset_stream(), 2);
    row("h2-reset", "a connection that is reset", Action::reset(), 2);
    for (status, tries) in [(1, 2), (4, 2), (8, 2), (13, 2), (14, 2), (2, 1), (5, 1), (16, 1)] {
        row("h2-grpc", "a gRPC status", grpc(status), tries);
        row("h2-refused", "a gRPC status", grpc(status), 1);
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_word_names_what_it_says_and_nothing_else() {
    let (host, over_http2) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let on = |words: Value| json!({"on": words, "max_retries": 1});
    let slow = |words: Value| json!({"on": words, "max_retries": 1, "per_try_timeout": "400ms"});
    let policies = [
        ("five", on(json!(["5xx"]))),
        ("gateway", on(json!(["gateway-error"]))),
        ("resets", on(json!(["reset"]))),
        ("connect", on(json!(["connect-failure"]))),
        ("conflict", on(json!(["retriable-4xx"]))),
        ("statuses", on(json!([429, "500-504"]))),
        ("unsent", on(json!(["reset-before-request"]))),
        ("limited", on(json!(["envoy-ratelimited"]))),
        ("lists", on(json!(["retriable-status-codes", "retriable-headers"]))),
        ("slow", slow(json!(["reset"]))),
        ("slow-five", slow(json!(["5xx"]))),
        ("slow-connect", slow(json!(["connect-failure", "refused-stream", 503, "504"]))),
        ("h2-refused", on(json!(["refused-stream"]))),
        ("h2-reset", on(json!(["reset"]))),
        ("h2-grpc", on(json!(["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"]))),
    ];
    let lists = changed(
        holdfast_tests::retry_policy(),
        json!({
            "retriable_status_codes": [418],
            "retriable_headers": [{"name": "x-again", "present_match": true}],
        }),
    );
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .cluster(Cluster::new("http2").endpoint(over_http2.addr()).http2())
        .route(Route::to("/h2", "http2"))
        .route(Route::to("/lists", "orders").retry_policy(lists))
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        .policy(document(&policies));
    let scene = Scene::with(options).await;
    let hosts = [&host, &over_http2];

    // First while the request seat does not know of the attempt seat, and then while it does.
    let mut wrong = Vec::new();
    for meet in [false, true] {
        if meet {
            seats_meet(&scene, &hosts, &policies.each_ref().map(|(name, _)| *name)).await;
        }
        for (number, (name, told, action, expected)) in rows().into_iter().enumerate() {
            let key = format!("{meet}-{number}");
            hosts.iter().for_each(|host| host.script(Action::in_turn(KEY, [action.clone(), Action::ok()])));
            let response = send(&scene.client, keyed(name, &key)).await;
            let served = response.text() == "ok";
            let limited = response.header("x-envoy-ratelimited");
            let expected_limited = (told.contains("limited") && expected == 1).then_some("true");
            let (seen, answered) = (tries(&hosts, &key), told.contains("answer"));
            let is_own = !answered || expected == 2 || response.text() == "its own";
            if seen != expected || served != (expected == 2) || !is_own || limited.as_deref() != expected_limited {
                wrong.push(format!("{name}, met {meet}: {told}: {seen} tries of {action:?}: {response:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for name in policies.map(|(name, _)| name) {
        let cluster = if name.starts_with("h2") { "cluster=http2" } else { "cluster=orders" };
        let retried = 2 * rows().iter().filter(|row| row.0 == name && row.3 == 2).count() as u64;
        let metrics = scene.metrics(name, cluster).await;
        assert_eq!((metrics["retries"], metrics["retries_recovered"]), (retried, retried), "{name}");
        let denied = metrics.iter().filter(|(metric, _)| metric.starts_with("retries_denied")).map(|(_, count)| count);
        assert_eq!(denied.sum::<u64>(), 0, "{name}: what is not named is not denied");
    }
    hosts.into_iter().for_each(expect_discreet);
}

/// A breaker that opens when half of at least four requests failed, and a policy for all paths.
fn breaking(breaker: Value, retry: Value) -> Value {
    let mut policy = policy("orders", retry);
    policy["match"] = json!({});
    policy["breaker"] =
        changed(json!({"window": "60s", "min_requests": 4, "open_growth": 1, "open_jitter": 0}), breaker);
    json!({"policies": [policy]})
}

/// Four orders that fail, and that nobody retries.
async fn trip(scene: &Scene, host: &Backend) {
    host.script(|request| if request.method == Method::POST { Action::status(500) } else { Action::status(503) });
    fail_four_orders(scene, host).await;
}

/// The first answers could open the breaker: none comes before all four have been let through.
async fn fail_four_orders(scene: &Scene, host: &Backend) {
    let before = host.requests();
    host.hold();
    let client = scene.client.clone();
    let orders = tokio::spawn(async move { client.drive(4, 4, Client::post_request("/", "an order")).await });
    eventually(PATIENCE, || async { host.requests() == before + 4 }).await.unwrap();
    host.release_all();
    assert_eq!(orders.await.unwrap().count(500), 4, "the breaker lets them pass");
    scene.becomes("breaker_state", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_that_opens_between_two_attempts_stops_the_second() {
    let host = Backend::start().await.unwrap();
    let budget = exactly(3);
    // Time enough to open the breaker while they wait, and they are over while it is open.
    let retry = json!({"max_retries": 1, "budget": budget, "backoff": {"base": "6s", "max": "6s", "jitter": "none"}});
    let breaker = json!({"open_for": "15s", "half_open": {"probes": 1}});
    let scene = start(&host, breaking(breaker, retry)).await;
    seats_meet(&scene, &[&host], &["orders"]).await;

    let answer = Action::status(503).body("the host's own");
    let script = Action::in_turn(KEY, [answer.clone(), Action::ok()]);
    host.script(move |request| match request.header(KEY).as_deref() {
        None => Action::status(500),
        Some("reset") => Action::reset(),
        // Not before the breaker is open.
        Some("late") => answer.clone().after(ms(5000)),
        Some(_) => script(request),
    });
    host.script_at_headers(|request| (request.header(KEY)? == "early").then(|| Action::status(503)));
    let waiting = scene.client.open(keyed("orders", "answered"));
    let mut early = keyed("orders", "early").map(|_| body_of(10_000));
    *early.method_mut() = Method::PUT;
    // Its body still comes when its second attempt is stopped.
    let early = Client::http2(scene.addr()).open_in_pieces(early, 250, ms(200));
    let reset = scene.client.open(keyed("orders", "reset"));
    let late = scene.client.open(keyed("orders", "late"));
    eventually(PATIENCE, || async { host.requests() == 4 && host.in_flight() == 1 }).await.unwrap();
    fail_four_orders(&scene, &host).await;
    let opened = Instant::now();

    let late = late.finish().await.unwrap();
    assert_eq!((late.status, late.text().as_str()), (503, "the host's own"), "no try is asked for now: it goes on");
    for (request, told) in [(waiting, "answered"), (reset, "reset"), (early, "early")] {
        let response = request.finish().await.unwrap();
        assert_eq!(response.status, 503, "{told}");
        expect_unmarked(&response.headers);
        assert_eq!(tries(&[&host], told), 1, "{told}: the second try has waited, and is not sent");
    }
    assert_eq!(counted(&scene, "orders").await, json!({"retries_denied.breaker": 4}));
    assert_eq!(scene.metric("failure").await, 8, "each request failed once");
    let log = scene.wait_for_access_log(9).await.unwrap();
    let denied: Vec<_> = log.iter().filter(|entry| entry.holdfast_field("denied") == Some("breaker")).collect();
    assert_eq!(denied.iter().map(|entry| attempts(entry).len()).collect::<Vec<_>>(), [1; 4]);
    let stopped = |entry: &&&AccessLogEntry| entry.details == "holdfast_not_retried{breaker}";
    assert_eq!(denied.iter().filter(stopped).count(), 3, "{denied:?}");

    sleep(ms(15_100).saturating_sub(opened.elapsed())).await;
    host.always(Action::ok());
    assert_eq!(scene.client.get("/").await.unwrap().status, 200);
    scene.becomes("breaker_state", 0).await;
    host.script(Action::in_turn(KEY, [Action::status(503), Action::ok()]));
    let again = scene.client.drive(4, 4, numbered("orders", "again")).await;
    assert_eq!((again.count(200), again.count(503)), (3, 1), "the three tokens had been given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_not_retried() {
    let host = Backend::start().await.unwrap();
    let breaker = json!({"open_for": "150ms", "half_open": {"probes": 3}});
    let document = breaking(breaker, json!({"max_retries": 3}));
    let scene = Scene::with(before(&[&host], document).concurrency(4)).await;
    seats_meet(&scene, &[&host], &["orders"]).await;
    trip(&scene, &host).await;

    for round in 1..=8 {
        sleep(ms(200)).await;
        let rejected = scene.metric("rejected.open").await;
        host.reset_counters();
        host.hold();
        let client = scene.client.clone();
        let burst = tokio::spawn(async move { client.burst(50, "/").await });
        eventually(PATIENCE, || async { host.requests() + scene.metric("rejected.open").await - rejected == 50 })
            .await
            .unwrap();
        host.release_all();
        let records = burst.await.unwrap();
        assert_eq!(records.count(503), 50);
        assert_eq!(host.requests(), 3, "three probes fail and the host sees three tries");
        assert_eq!(counted(&scene, "orders").await, json!({"retries_denied.breaker": 3 * round}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_the_proxy_before_is_not_retried_again() {
    let host = Backend::start().await.unwrap();
    let policies = [("skip", json!({})), ("again", json!({"skip_retries_of_retries": false}))];
    let scene = start(&host, document(&policies)).await;
    seats_meet(&scene, &[&host], &["skip", "again"]).await;
    let claiming = |name: &str, key: &str, count: &str| with_header(keyed(name, key), "x-envoy-attempt-count", count);

    for failure in [Action::status(503), Action::reset()] {
        host.script(Action::in_turn(KEY, [failure, Action::ok()]));
        for (name, count, expected) in
            [("skip", "1", 2), ("skip", "2", 1), ("skip", "3", 1), ("skip", "x", 2), ("again", "2", 2)]
        {
            let key = format!("{name}-{count}-{}", host.requests());
            send(&scene.client, claiming(name, &key, count)).await;
            assert_eq!(tries(&[&host], &key), expected, "{key}");
        }
    }
    host.always(Action::status(404));
    send(&scene.client, claiming("skip", "404", "2")).await;
    host.always(Action::ok());
    send(&scene.client, claiming("skip", "200", "2")).await;

    let four = json!({"retries": 4, "retries_recovered": 4, "retries_denied.retry_of_retry": 4});
    assert_eq!(counted(&scene, "skip").await, four, "only what would have been retried is denied");
    assert_eq!(counted(&scene, "again").await, json!({"retries": 2, "retries_recovered": 2}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_learns_which_attempt_it_sees() {
    let host = Backend::start().await.unwrap();
    let policies = [("orders", json!({"max_retries": 2})), ("again", json!({"skip_retries_of_retries": false}))];
    let scene = start(&host, document(&policies)).await;
    host.always(Action::status(503));
    let told = |key: &str| -> Vec<Option<String>> {
        host.seen_with(KEY, key).iter().map(|seen| seen.header("x-envoy-attempt-count")).collect()
    };

    send(&scene.client, keyed("orders", "a")).await;
    assert_eq!(
        told("a"),
        [None, Some("2".to_owned()), Some("3".to_owned())],
        "so that a proxy there does not retry too"
    );
    send(&scene.client, with_header(keyed("again", "b"), "x-envoy-attempt-count", "2")).await;
    assert_eq!(told("b")[0].as_deref(), Some("2"), "what the proxy before has said");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_retries_nothing_is_changed() {
    let host = Backend::start().await.unwrap();
    let mut whole = policy("whole", json!({}));
    whole["mode"] = json!("shadow");
    let poor = json!({"mode": "shadow", "budget": exactly(1)});
    let policies = [
        ("none", json!({"max_retries": 0})),
        ("off", json!({"mode": "off"})),
        ("shadow", json!({"mode": "shadow"})),
        ("shadow-none", json!({"mode": "shadow", "max_retries": 0})),
        ("poor", poor),
    ];
    let mut document = document(&policies);
    document["policies"].as_array_mut().unwrap().push(whole);
    let scene = start(&host, document).await;
    let names = ["none", "off", "shadow", "shadow-none", "poor", "whole"];
    seats_meet(&scene, &[&host], &names).await;

    for (told, failure) in [
        ("503", Action::status(503).header("x-envoy-ratelimited", "its own")),
        ("reset", Action::reset()),
        ("404", Action::status(404)),
        ("asking", Action::status(404).header("x-holdfast-retry", "1").header("x-holdfast-tries", "1")),
    ] {
        host.always(failure);
        for name in names {
            let key = format!("{name}, {told}");
            let response = scene.client.send(keyed(name, &key)).await.unwrap();
            assert_eq!(tries(&[&host], &key), 1, "{key}");
            assert!(response.status >= 400, "{key}");
            let limited = response.header("x-envoy-ratelimited");
            assert_eq!(limited.as_deref(), (told == "503").then_some("its own"), "{key}");
            if name != "off" {
                expect_unmarked(&response.headers);
            }
        }
        // A worker looks at a shadowed budget every 10 ms.
        sleep(ms(50)).await;
    }
    host.always(Action::status(503));
    for name in names {
        send(&scene.client, Client::post_request(&format!("/{name}"), "an order")).await;
    }

    for (name, would) in [("none", 0), ("off", 0), ("shadow", 2), ("shadow-none", 0), ("poor", 1), ("whole", 2)] {
        let expected = if would == 0 { json!({}) } else { json!({"would_retry": would}) };
        assert_eq!(counted(&scene, name).await, expected, "{name}: the 503 and the reset of idempotent requests");
    }
    expect_discreet(&host);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_can_tell_spent_retries_from_a_plain_failure() {
    let host = Backend::start().await.unwrap();
    let serving = |name: &str, on: Value| {
        let mut policy = policy(name, json!({"max_retries": 1}));
        let body = "${reason}";
        policy["fallback"] = json!([{"on": on, "respond": {"status": 200, "body": body}}]);
        policy
    };
    let policies = [serving("spent", json!(["retries_exhausted"])), serving("failed", json!(["failure"]))];
    let scene = start(&host, json!({"policies": policies})).await;
    seats_meet(&scene, &[&host], &["spent", "failed"]).await;

    for (told, failure) in [("503", Action::status(503).body("its own")), ("reset", Action::reset())] {
        host.always(failure);
        for name in ["spent", "failed"] {
            let key = format!("{name}-{told}");
            let response = send(&scene.client, keyed(name, &key)).await;
            assert_eq!((response.status, response.text().as_str()), (200, "retries_exhausted"), "{key}");
            let fallback = response.header("x-holdfast-fallback").unwrap();
            assert_eq!(fallback, format!("static; reason=retries_exhausted; policy={name}"));
            assert_eq!(tries(&[&host], &key), 2, "{key}: after two tries");
        }
        let response = send(&scene.client, keyed_post("spent", told, "an order")).await;
        assert_eq!(
            (response.status, response.header("x-holdfast-fallback")),
            (503, None),
            "{told}: nothing was retried"
        );
        let response = send(&scene.client, keyed_post("failed", told, "an order")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "failure"), "{told}");
    }
    host.script(Action::in_turn(KEY, [Action::status(503), Action::status(404)]));
    assert_eq!(send(&scene.client, keyed("spent", "404")).await.status, 404, "a 404 after a retry is no failure");
    host.script(Action::in_turn(KEY, [Action::status(503), Action::ok()]));
    assert_eq!(send(&scene.client, keyed("spent", "200")).await.text(), "ok");

    let log = scene.wait_for_access_log(12).await.unwrap();
    let entry = log.iter().find(|entry| entry.holdfast_field("reason").is_some()).unwrap();
    assert_eq!(entry.holdfast_field("kind"), Some("static"));
    assert_eq!(attempts(entry).len(), 2, "a fallback does not hide the tries: {entry:?}");
}

/// Requests with all the headers by which a proxy's own clients may tell Envoy how to retry.
fn forged(request: Request<Bytes>) -> Request<Bytes> {
    let headers = [
        ("x-envoy-retry-on", "5xx,retriable-4xx,retriable-status-codes,retriable-headers,envoy-ratelimited"),
        ("x-envoy-retry-grpc-on", "unavailable"),
        ("x-envoy-max-retries", "9"),
        ("x-envoy-retriable-status-codes", "200,404"),
        ("x-envoy-retriable-header-names", "content-type,date"),
        ("x-holdfast-retry", "1"),
        ("x-holdfast-tries", "1"),
    ];
    headers.into_iter().fold(request, |request, (name, value)| with_header(request, name, value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cannot_ask_for_retries() {
    let host = Backend::start().await.unwrap();
    let policies = [("orders", json!({"max_retries": 1})), ("none", json!({"max_retries": 0}))];
    let scene = start(&host, document(&policies)).await;

    for meet in [false, true] {
        if meet {
            seats_meet(&scene, &[&host], &["orders", "none"]).await;
        }
        for (told, action, request, expected) in [
            ("200", Action::ok(), keyed("orders", ""), 1),
            ("404", Action::status(404), keyed("orders", ""), 1),
            ("409", Action::status(409), keyed("orders", ""), 1),
            ("500", Action::status(500), keyed("orders", ""), 1),
            ("503", Action::status(503), keyed("orders", ""), 2),
            ("grpc", Action::grpc_trailers_only(14), keyed("orders", ""), 1),
            ("a POST", Action::status(503), keyed_post("orders", "", "an order"), 1),
            ("a retry", Action::status(503), with_header(keyed("orders", ""), "x-envoy-attempt-count", "2"), 1),
            ("none", Action::status(503), keyed("none", ""), 1),
            ("none, reset", Action::reset(), keyed("none", ""), 1),
        ] {
            host.always(action);
            let key = format!("{told}, {meet}");
            let mut request = forged(request);
            request.headers_mut().insert(KEY, key.parse().unwrap());
            send(&scene.client, request).await;
            assert_eq!(tries(&[&host], &key), expected, "{key}");
        }
    }
    for request in host.seen() {
        let shown = request.headers.keys().find(|name| name.as_str().starts_with("x-envoy-re"));
        assert_eq!(shown, None, "the router keeps these to itself");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_cannot_ask_for_retries_either() {
    let host = Backend::start().await.unwrap();
    let policies = [("orders", json!({"max_retries": 1})), ("thrifty", json!({"on": ["reset"]}))];
    let scene = start(&host, document(&policies)).await;

    for meet in [false, true] {
        if meet {
            seats_meet(&scene, &[&host], &["orders", "thrifty"]).await;
        }
        for (status, name, method, expected) in [
            (200, "orders", "GET", 1),
            (204, "orders", "HEAD", 1),
            (404, "orders", "GET", 1),
            (500, "orders", "GET", 1),
            (503, "orders", "GET", 2),
            (503, "orders", "POST", 1),
            (503, "thrifty", "GET", 1),
            (200, "thrifty", "GET", 1),
        ] {
            let asking = Action::status(status).header("x-holdfast-retry", "1").header("x-holdfast-tries", "1");
            for (told, action) in [
                ("asking", asking.clone()),
                ("asking and forbidding", asking.header("x-envoy-ratelimited", "holdfast")),
            ] {
                host.always(action);
                let key = format!("{told}: {status} for {method} {name}, met {meet}");
                let mut request = keyed(name, &key);
                *request.method_mut() = method.parse().unwrap();
                assert_eq!(send(&scene.client, request).await.status, status, "{key}");
                // Who says that it is rate-limited is left alone, in whatever words.
                let expected = if told == "asking" { expected } else { 1 };
                assert_eq!(tries(&[&host], &key), expected, "{key}");
            }
        }
    }
    let log = scene.wait_for_access_log(32).await.unwrap();
    let good = log.iter().filter(|entry| entry.code < 300);
    assert!(good.clone().count() >= 12 && good.clone().all(|entry| attempts(entry).is_empty()), "no trail is made up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_seats_tell_each_other_stays_between_them() {
    let host = Backend::start().await.unwrap();
    let poor = json!({"budget": exactly(1)});
    let policies = [
        ("orders", json!({"per_try_timeout": "200ms", "timeout": "5s"})),
        ("poor", poor),
        ("late", json!({"timeout": "100ms", "backoff": {"base": "200ms"}})),
        ("hedged", json!({"per_try_timeout": "100ms", "hedge_on_per_try_timeout": true})),
    ];
    let scene = start(&host, document(&policies)).await;

    for meet in [false, true] {
        if meet {
            seats_meet(&scene, &[&host], &["orders", "poor", "late", "hedged"]).await;
        }
        for (told, action) in [
            ("200", Action::ok()),
            ("404", Action::status(404)),
            ("409", Action::status(409)),
            ("503", Action::status(503)),
            ("503, limited", Action::status(503).header("x-envoy-ratelimited", "true")),
            ("gRPC", Action::grpc(14)),
            ("gRPC, trailers only", Action::grpc_trailers_only(14)),
            ("reset", Action::reset()),
            ("slow", Action::ok().after(ms(150))),
        ] {
            for then in [action.clone(), Action::ok(), Action::status(404)] {
                host.script(Action::in_turn(KEY, [action.clone(), then]));
                let ask = async |name: &str| {
                    let key = format!("{told}, {name}, {}", host.requests());
                    let response = send(&scene.client, keyed(name, &key)).await;
                    let limited = response.header("x-envoy-ratelimited");
                    assert!(limited.is_none() || limited.as_deref() == Some("true"), "{key}: {limited:?}");
                    send(&scene.client, keyed_post(name, &key, "an order")).await;
                };
                tokio::join!(ask("orders"), ask("poor"), ask("late"), ask("hedged"));
            }
        }
    }
    expect_discreet(&host);
    assert!(metric(&scene, "poor", "retries_denied.budget").await > 0, "retries were denied too");
    assert!(metric(&scene, "late", "retries_denied.deadline").await > 0);
    assert!(metric(&scene, "orders", "retries_recovered").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_tells_of_every_attempt() {
    let (one, two, dead) =
        (Backend::start().await.unwrap(), Backend::start().await.unwrap(), Backend::start().await.unwrap());
    dead.refuse().await.unwrap();
    let mut ignoring = policy("ignoring", json!({"on": ["retriable-4xx"]}));
    ignoring["outcome"] = json!({"ignore": {"status": [409]}});
    let policies = json!({"policies": [
        policy("orders", json!({"max_retries": 3, "on": ["5xx", "unavailable"], "per_try_timeout": "400ms"})),
        ignoring,
        policy("poor", json!({"budget": exactly(1)})),
        policy("dead", json!({"max_retries": 1})),
    ]});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(one.addr()).endpoint(two.addr()))
        .cluster(Cluster::new("dead").endpoint(dead.addr()))
        .route(Route::to("/dead", "dead"))
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        .policy(policies);
    let scene = Scene::with(options).await;
    seats_meet(&scene, &[&one, &two], &["orders", "ignoring", "poor"]).await;
    let count = std::cell::Cell::new(3);
    let tell = async |request: Request<Bytes>| {
        send(&scene.client, request).await;
        count.set(count.get() + 1);
        scene.wait_for_access_log(count.get()).await.unwrap().pop().unwrap()
    };
    let script = |actions: Vec<Action>| {
        let script = Action::in_turn(KEY, actions);
        one.script(script.clone());
        two.script(script);
    };
    script(vec![
        Action::reset(),
        Action::status(503).after(ms(30)),
        Action::grpc_trailers_only(14),
        Action::ok().after(ms(60)),
    ]);
    let entry = tell(keyed("orders", "a")).await;
    let trail = attempts(&entry);
    assert_eq!(outcomes(&entry), ["failure:reset", "failure:503", "failure:grpc-14", "success:200"]);
    for (attempt, seen) in trail.iter().zip(seen_by_all(&[&one, &two], KEY, "a")) {
        let host = [&one, &two].into_iter().find(|host| host.addr().to_string() == attempt.host);
        let by_host = host.expect("a try has the address of its host").seen_with(KEY, "a");
        assert!(by_host.iter().any(|other| other.at == seen.at), "{attempt:?} was made there");
    }
    assert!((30..400).contains(&trail[1].millis) && (60..400).contains(&trail[3].millis), "and its time: {trail:?}");
    assert_eq!((entry.attempts, entry.holdfast_field("decision")), (4, Some("admitted")));
    assert_eq!(entry.holdfast_field("denied"), None);

    script(vec![Action::hang(), Action::status(404)]);
    assert_eq!(outcomes(&tell(keyed("orders", "b")).await), ["failure:timeout", "success:404"]);
    script(vec![Action::status(409), Action::ok()]);
    assert_eq!(outcomes(&tell(keyed("ignoring", "c")).await), ["ignored:409", "success:200"]);
    let entry = tell(keyed("dead", "d")).await;
    assert_eq!(outcomes(&entry), ["failure:connect_failure"; 2]);
    assert_eq!(attempts(&entry)[0].host, dead.addr().to_string());
    script(vec![Action::status(503), Action::ok()]);
    assert_eq!(outcomes(&tell(keyed("poor", "e")).await), ["failure:503", "success:200"]);
    let entry = tell(keyed("poor", "f")).await;
    assert_eq!((outcomes(&entry), entry.holdfast_field("denied")), (vec!["failure:503".to_owned()], Some("budget")));

    script(vec![Action::ok()]);
    let line = tell(keyed("orders", "g")).await.holdfast.unwrap();
    assert_eq!(line, "policy=orders; key=cluster=orders; decision=admitted", "a first success needs no words");
    script(vec![Action::status(404)]);
    assert_eq!(attempts(&tell(keyed("orders", "h")).await), [], "nor does a 404");
    script(vec![Action::status(500)]);
    let entry = tell(keyed("ignoring", "i")).await;
    assert_eq!(
        (outcomes(&entry), entry.holdfast_field("denied")),
        (vec!["failure:500".to_owned()], None),
        "one try that failed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_during_a_back_off_leaves_nothing_behind() {
    let host = Backend::start().await.unwrap();
    let budget = exactly(3);
    let slow = json!({"budget": budget, "backoff": {"base": "800ms", "jitter": "none"}});
    let counting = json!({"circuit_breakers": {"thresholds": [{"max_retries": 100, "track_remaining": true}]}});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()).raw(counting))
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        .policy(document(&[("orders", slow)]));
    let scene = Scene::with(options).await;
    seats_meet(&scene, &[&host], &["orders"]).await;
    let (http1, http2) = (Client::http1(scene.addr()), Client::http2(scene.addr()));
    let failing = Action::in_turn(KEY, [Action::status(503), Action::ok()]);
    let resetting = Action::in_turn(KEY, [Action::reset(), Action::ok()]);
    host.script(
        move |seen| if seen.header(KEY).is_some_and(|key| key == "b") { resetting(seen) } else { failing(seen) },
    );

    let waiting =
        [(http1.open(keyed("orders", "a"))), (http1.open(keyed("orders", "b"))), (http2.open(keyed("orders", "c")))];
    eventually(PATIENCE, || async { host.requests() == 3 && host.in_flight() == 0 }).await.unwrap();
    sleep(ms(200)).await;
    for request in waiting {
        assert!(!request.is_finished(), "it waits for its second try");
        request.disconnect().await;
    }
    scene.becomes("ignored", 3).await;
    let gone = Instant::now();
    for (gauge, value) in [
        ("cluster.orders.upstream_rq_active", 0),
        ("cluster.orders.upstream_rq_pending_active", 0),
        ("cluster.orders.circuit_breakers.default.remaining_retries", 100),
        ("http.ingress.downstream_rq_active", 0),
    ] {
        let told = scene.wait_for_stat(gauge, |now| now == value).await;
        assert!(told.is_ok(), "{gauge}: {told:?}");
    }
    sleep(ms(1000).saturating_sub(gone.elapsed())).await;
    assert_eq!(host.requests(), 3, "nothing is sent for clients that are gone");

    let again = scene.client.drive(4, 4, numbered("orders", "again")).await;
    assert_eq!((again.count(200), again.count(503)), (3, 1), "their three tokens had been given back");
    host.wait_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_envoy_cannot_retry_the_hosts_answer_goes_on() {
    let host = Backend::start().await.unwrap();
    let budget = exactly(1);
    let no_more = json!({"circuit_breakers": {"thresholds": [{"max_retries": 0}]}});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .cluster(Cluster::new("full").endpoint(host.addr()).raw(no_more))
        .route(Route::to("/full", "full"))
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        .policy(document(&[("large", json!({"budget": budget})), ("full", json!({}))]));
    let scene = Scene::with(options).await;
    seats_meet(&scene, &[&host], &["large", "full"]).await;
    host.script(Action::in_turn(KEY, [Action::status(503).body("its own"), Action::ok()]));

    for meet in ["a", "b"] {
        let mut order = keyed_post("large", meet, body_of(3 << 20));
        *order.method_mut() = Method::PUT;
        let response = send(&scene.client, order).await;
        assert_eq!((response.status, response.text().as_str()), (503, "its own"), "a body beyond what Envoy keeps");
        assert_eq!(tries(&[&host], meet), 1);
        let response = send(&scene.client, keyed("full", &format!("full-{meet}"))).await;
        assert_eq!((response.status, response.text().as_str()), (503, "its own"), "no retry more at once");
    }
    assert_eq!(counted(&scene, "large").await, json!({}), "no retry was made and none denied");
    let response = send(&scene.client, keyed("large", "c")).await;
    assert_eq!(response.status, 200, "the one token is still there");
    let full = scene.metrics("full", "cluster=full").await;
    assert_eq!((full["retries"], full["retries_recovered"]), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_http2_and_continue_are_retried_as_well() {
    let (host, over_http2) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .cluster(Cluster::new("http2").endpoint(over_http2.addr()).http2())
        .route(Route::to("/h2", "http2"))
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        .policy(document(&[("h1", json!({})), ("h2", json!({}))]));
    // In this listener the host is asked before the client sends its body.
    let asking = Listener::new("asking")
        .route(Route::to("/h2", "http2"))
        .route(Route::to("/", "orders"))
        .policy(document(&[("h1", json!({})), ("h2", json!({}))]))
        .raw_hcm(json!({"proxy_100_continue": true}));
    let scene = Scene::with(options.listener(asking)).await;
    let hosts = [&host, &over_http2];
    seats_meet(&scene, &hosts, &["h1", "h2"]).await;

    for (told, failure) in
        [("503", Action::status(503)), ("stream reset", Action::reset_stream()), ("TCP reset", Action::reset())]
    {
        for host in hosts {
            let large = Action::in_turn(KEY, [failure.clone(), Action::ok().body(body_of(300_000))]);
            let empty = Action::in_turn(KEY, [failure.clone(), Action::status(200)]);
            host.script(move |seen| if seen.method == Method::GET { large(seen) } else { empty(seen) });
        }
        for (name, version) in [("h1", "HTTP/1"), ("h1", "HTTP/2"), ("h2", "HTTP/1"), ("h2", "HTTP/2")] {
            let is_http1 = version == "HTTP/1";
            let client = if is_http1 { Client::http1(scene.addr()) } else { Client::http2(scene.addr()) };
            let key = |method: &str| format!("{method}, {told}, {name}, {version}");
            let (head, get, put) = (key("HEAD"), key("GET"), key("PUT"));
            let mut request = keyed(name, &head);
            *request.method_mut() = Method::HEAD;
            assert_eq!((send(&client, request).await.status, tries(&hosts, &head)), (200, 2), "{head}");
            let response = send(&client, keyed(name, &get)).await;
            assert_eq!((response.body == body_of(300_000), tries(&hosts, &get)), (true, 2), "{get}");

            let mut open = client.open_unfinished(asking_to_continue(name, &put));
            if is_http1 {
                open.wait_continue().await.unwrap();
            }
            open.send_more(body_of(30_000)).await.unwrap();
            assert_eq!(open.finish().await.unwrap().status, 200, "{put}");
            let seen = seen_by_all(&hosts, KEY, &put);
            assert!(seen.len() == 2 && seen.iter().all(|seen| seen.body == body_of(30_000)), "{put}");
        }
    }

    let client = Client::http1(scene.listener("asking"));
    host.script(Action::in_turn(KEY, [Action::status(503).body("its own"), Action::ok()]));
    let mut open = client.open_unfinished(asking_to_continue("h1", "asked"));
    open.wait_continue().await.unwrap();
    open.send_more(body_of(1000)).await.unwrap();
    let response = open.finish().await.unwrap();
    expect_unmarked(&response.headers);
    assert_eq!((response.status, response.text().as_str()), (503, "its own"));
    assert_eq!(tries(&hosts, "asked"), 1, "Envoy retries no request for whose body a host has asked");
    host.always(Action::ok());
    host.reset_counters();
    host.script_at_headers(|seen| (seen.index == 0).then(|| Action::status(503)));
    let mut open = client.open_unfinished(asking_to_continue("h1", "refused"));
    open.wait_continue().await.expect("the second try asks for it");
    open.send_more(body_of(1000)).await.unwrap();
    assert_eq!(open.finish().await.unwrap().status, 200);
    assert_eq!(tries(&hosts, "refused"), 2, "but one that was refused at its headers");
    for host in hosts {
        host.wait_idle().await.unwrap();
    }
}

fn asking_to_continue(name: &str, key: &str) -> Request<Bytes> {
    let mut request = with_header(keyed(name, key), "expect", "100-continue");
    *request.method_mut() = Method::PUT;
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_has_begun_is_never_made_again() {
    let host = Backend::start().await.unwrap();
    let scene =
        start(&host, document(&[("orders", json!({"on": ["5xx", "reset"], "per_try_timeout": "200ms"}))])).await;
    seats_meet(&scene, &[&host], &["orders"]).await;

    host.script(Action::in_turn(KEY, [Action::truncate()]));
    let broken = scene.client.send(keyed("orders", "a")).await.unwrap_err();
    assert_eq!((broken.status, tries(&[&host], "a")), (Some(200), 1), "its head had gone out");
    host.script(Action::in_turn(KEY, [Action::status(503), Action::truncate()]));
    let broken = scene.client.send(keyed("orders", "b")).await.unwrap_err();
    assert_eq!((broken.status, tries(&[&host], "b")), (Some(200), 2), "nor after a retry");
    host.script(Action::in_turn(KEY, [Action::status(503), Action::ok().then_hang()]));
    let open = scene.client.open(keyed("orders", "c"));
    host.wait_in_flight(0).await.unwrap();
    sleep(ms(400)).await;
    assert!(!open.is_finished(), "a body may take longer than a try");
    assert_eq!((tries(&[&host], "c"), host.open_streams()), (2, 1));
    open.disconnect().await;
    host.wait_idle().await.expect("the host's stream ends with the client's");
    // The retry of `b` broke off.
    assert_eq!(counted(&scene, "orders").await, json!({"retries": 2, "retries_recovered": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_retried_until_it_is_made_and_then_left_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let host = std::thread::spawn(move || {
        let mut refusing = listener.accept().unwrap().0;
        let first = web_socket::read_head(&mut refusing);
        refusing.write_all(b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        drop(refusing);
        let second = web_socket::echo(listener.accept().unwrap().0);
        [first, second]
    });
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(addr))
        .route(Route::to("/", "orders"))
        .raw_hcm(web_socket::passed_on())
        .seats(Seats::Both)
        .policy(document(&[("orders", json!({"per_try_timeout": "5s"}))]));
    let scene = Scene::with(options).await;
    let (head, said) = web_socket::say_hello(scene.addr()).await;

    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(!head.contains("holdfast"), "{head}");
    assert_eq!(&said, web_socket::HELLO, "and both sides talk to each other");
    for seen in host.join().unwrap() {
        assert!(
            seen.contains("upgrade: websocket") && !seen.contains("holdfast") && !seen.contains("x-envoy-re"),
            "{seen}"
        );
    }
    assert_eq!(counted(&scene, "orders").await, json!({"retries": 1, "retries_recovered": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_do_not_wait_for_the_seats_to_meet() {
    let host = Backend::start().await.unwrap();
    let backoff = json!({"base": "100ms", "jitter": "none"});
    let policies = [
        ("timed", json!({"per_try_timeout": "2s", "backoff": backoff})),
        ("whole", json!({"timeout": "5s", "backoff": backoff})),
        ("both", json!({"timeout": "5s", "per_try_timeout": "2s", "backoff": backoff})),
    ];
    let scene = start(&host, document(&policies)).await;

    for (told, failure) in [
        ("503 with a body", Action::status(503).body("its own")),
        ("503", Action::status(503)),
        ("TCP reset", Action::reset()),
    ] {
        host.script(Action::in_turn(KEY, [failure, Action::ok()]));
        for (name, _) in &policies {
            let key = format!("{name}, {told}");
            let started = Instant::now();
            assert_eq!(send(&scene.client, keyed(name, &key)).await.status, 200, "{key}");
            assert_eq!(tries(&[&host], &key), 2, "{key}");
            assert!(started.elapsed() + TICK >= ms(100), "{key}: the back-off is kept, too");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_off_survives_whatever_happens_meanwhile() {
    let (host, over_http2) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let retry = json!({"per_try_timeout": "3s", "on": ["5xx"], "max_retries": 20, "backoff": {"base": "500ms", "jitter": "none"}});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(host.addr()))
        .cluster(Cluster::new("http2").endpoint(over_http2.addr()).http2())
        .route(Route::to("/h2", "http2"))
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        // Envoy's own back-off stands between the connections that a host refuses until it listens again.
        .without_retry_policy()
        .policy(document(&[("h1", retry.clone()), ("h2", retry)]));
    let scene = Scene::with(options).await;
    let hosts = [&host, &over_http2];
    let both = || [("h1", Client::http1(scene.addr())), ("h2", Client::http2(scene.addr()))];
    for host in hosts {
        let script = Action::in_turn(KEY, [Action::status(503), Action::status(200)]);
        let at_headers = script.clone();
        host.script(script);
        host.script_at_headers(move |seen| seen.header("x-early").map(|_| at_headers(seen)));
    }

    for meet in [false, true] {
        if meet {
            seats_meet(&scene, &hosts, &["h1", "h2"]).await;
        }
        let mut sent = JoinSet::new();
        for (name, client) in both() {
            for method in ["GET", "HEAD", "PUT", "DELETE", "a PUT that is answered before its end"] {
                let mut request = keyed(name, &format!("{method}, {meet}"));
                let (method, is_early) = (method, method.contains(' '));
                if method == "PUT" || is_early {
                    *request.body_mut() = body_of(50_000);
                }
                if is_early {
                    request = with_header(request, "x-early", "yes");
                }
                *request.method_mut() = if is_early { Method::PUT } else { method.parse().unwrap() };
                let open = if is_early { client.open_in_pieces(request, 5000, ms(80)) } else { client.open(request) };
                sent.spawn(async move { open.finish().await.unwrap().status });
            }
        }
        assert_eq!(sent.join_all().await, [200; 10], "each is served by its second try, met {meet}");

        let left = both().map(|(name, client)| client.open(keyed(name, &format!("client, {meet}"))));
        let cut = both().map(|(name, client)| client.open(keyed(name, &format!("host, {meet}"))));
        eventually(PATIENCE, || async { tries(&hosts, &format!("host, {meet}")) == 2 }).await.unwrap();
        sleep(ms(200)).await;
        for request in left {
            request.disconnect().await;
        }
        for host in hosts {
            host.refuse().await.unwrap();
            host.resume().unwrap();
        }
        for request in cut {
            let response = request.finish().await.unwrap();
            assert_eq!(response.status, 200, "another try has another connection, met {meet}");
        }
        for gauge in ["cluster.orders.upstream_rq_active", "cluster.http2.upstream_rq_active"] {
            scene.wait_for_stat(gauge, |active| active == 0).await.unwrap();
        }
        for host in hosts {
            host.wait_idle().await.unwrap();
        }
        assert_eq!(tries(&hosts, &format!("client, {meet}")), 2, "a client that has left is not served");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_cannot_be_made_is_named_by_its_own_words() {
    let dead = Backend::start().await.unwrap();
    dead.refuse().await.unwrap();
    let on = |words: Value| json!({"on": words, "max_retries": 1});
    let policies = [
        ("connect", on(json!(["connect-failure"]))),
        ("unsent", on(json!(["reset-before-request"]))),
        ("five", on(json!(["5xx"]))),
        ("gateway", on(json!(["gateway-error"]))),
        ("resets", on(json!(["reset"]))),
        ("refused", on(json!(["refused-stream"]))),
        ("conflict", on(json!(["retriable-4xx"]))),
        ("statuses", on(json!(["500-599"]))),
    ];
    let scene = start(&dead, document(&policies)).await;

    for meet in [false, true] {
        if meet {
            seats_meet(&scene, &[&dead], &policies.each_ref().map(|(name, _)| *name)).await;
        }
        for (name, expected) in [
            ("connect", 2),
            ("unsent", 2),
            ("five", 2),
            ("gateway", 2),
            ("resets", 2),
            ("refused", 1),
            ("conflict", 1),
            ("statuses", 1),
        ] {
            for method in ["GET", "POST"] {
                let path = format!("/{name}?{method}-{meet}");
                let mut request = Client::request(&path);
                *request.method_mut() = method.parse().unwrap();
                assert_eq!(send(&scene.client, request).await.status, 503);
                let entry = scene.wait_for_access_log_of(&path, 1).await.unwrap().remove(0);
                let trail = vec!["failure:connect_failure"; expected];
                assert_eq!(outcomes(&entry), trail, "{name}, {method}, met {meet}: {entry:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_had_a_connection_is_not_sent_again_even_if_its_stream_was_refused() {
    let (one, two) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(one.addr()).endpoint(two.addr()).http2())
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        .policy(document(&[("orders", json!({}))]));
    let scene = Scene::with(options).await;
    let hosts = [&one, &two];

    for meet in [false, true] {
        if meet {
            seats_meet(&scene, &hosts, &["orders"]).await;
        }
        // The attempt seat cannot tell a refusal, after which nothing was done, from another reset.
        for (told, failure) in
            [("refused", Action::refuse_stream()), ("reset", Action::reset_stream()), ("cut", Action::reset())]
        {
            let script = Action::in_turn(KEY, [failure, Action::ok()]);
            hosts.iter().for_each(|host| host.script(script.clone()));
            for (kind, expected) in [("plain", 1), ("keyed", 2)] {
                let key = format!("{told}, {kind}, met {meet}");
                let mut order = keyed_post("orders", &key, body_of(1024));
                if kind == "keyed" {
                    order = with_header(order, "idempotency-key", "7");
                }
                let status = send(&scene.client, order).await.status;
                let seen = seen_by_all(&hosts, KEY, &key);
                assert_eq!((seen.len(), status), (expected, if expected == 2 { 200 } else { 503 }), "{key}");
                assert!(seen.iter().all(|seen| seen.body == body_of(1024)), "{key}: its body is whole");
            }
        }
    }
    let told = scene.wait_for_access_log(13).await.unwrap();
    let denied = told.iter().filter(|entry| entry.holdfast_field("denied") == Some("method")).count();
    assert_eq!(denied, 6, "each time the log says why");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_does_not_hold_back_the_connection_of_its_attempt() {
    let (dead, live) = (Backend::start().await.unwrap(), Backend::start().await.unwrap());
    let retry = json!({"max_retries": 2, "backoff": {"base": "2s", "jitter": "none"}});
    let options = EnvoyOptions::new()
        .cluster(Cluster::new("orders").endpoint(dead.addr()))
        .cluster(Cluster::new("two").endpoint(dead.addr()).endpoint(live.addr()))
        .route(Route::to("/two", "two"))
        .route(Route::to("/", "orders"))
        .seats(Seats::Both)
        .policy(document(&[("orders", retry.clone()), ("two", changed(retry, json!({"backoff": {"base": "200ms"}})))]));
    let scene = Scene::with(options).await;
    dead.refuse().await.unwrap();

    let started = Instant::now();
    assert_eq!(send(&scene.client, keyed("orders", "a")).await.status, 503);
    assert!(started.elapsed() < ms(2000), "Envoy connects at once, and what has no connection cannot wait");
    let told = scene.wait_for_access_log(1).await.unwrap();
    assert_eq!(outcomes(&told[0]), ["failure:connect_failure"; 3]);

    // Where another host can be connected to, the wait is kept.
    let records = scene.client.drive(4, 8, numbered("two", "b")).await;
    assert_eq!(records.count(200), 8);
    for entry in scene.wait_for_access_log(9).await.unwrap().iter().skip(1).filter(|entry| !attempts(entry).is_empty())
    {
        assert_eq!(outcomes(entry), ["failure:connect_failure", "success:200"]);
        assert!(entry.all["duration_ms"].as_u64() >= Some(195), "{entry:?}");
    }
}
