//! The lives of requests and attempts, through both seats, over a host in memory: what each event leads to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A test may stop at once.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::attempt::{AttemptEffect, AttemptPlugin, AttemptState, AttemptVm, Waiter, Waits};
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::host::{Headers, Host, RootHost};
use holdfast_engine::memory_host::MemoryHost;
use holdfast_engine::request::{Configuration, RequestEffect, RequestPlugin, RequestState, RequestVm};
use holdfast_engine::store::memory::MemoryStore;

/// How often a worker looks at the clock.
const TICK: Duration = Duration::from_millis(100);
/// How the host names the request.
const STREAM: u32 = 1;
const HOST: &str = "10.0.0.1:80";
const RETRY: &str = r#""retry":{"max_retries":2,"backoff":{"base":"100ms","max":"100ms","jitter":"none"}}"#;

/// One worker: a VM of each seat, and the host that both run in.
struct Scene {
    host: Rc<MemoryHost>,
    store: MemoryStore,
    request: RequestPlugin,
    attempt: AttemptPlugin,
    now: Timestamp,
    /// The attempts whose time to look again has come, until a test lets them.
    due: Vec<Waiter<Waits>>,
}

/// One request, as Envoy takes it through the seats.
struct Stream<'s> {
    scene: &'s mut Scene,
    request: RequestState,
    attempt: AttemptState,
    number: u64,
    /// Whether the request has a body, of which the last byte is still to come.
    uploads: bool,
}

impl Scene {
    fn new(features: &str) -> Self {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let host = Rc::new(MemoryHost::at(now));
        let root: Rc<dyn RootHost> = Rc::clone(&host) as Rc<dyn RootHost>;
        let store = MemoryStore::default();
        let text = format!(r#"{{"policies":[{{"name":"orders",{features}}}]}}"#);
        let configuration = Configuration::read(text.as_bytes()).unwrap();
        let request = RequestPlugin::new(&root, Rc::new(RequestVm::new(1)), configuration);
        request.start();
        let attempt = AttemptPlugin::new(&root, Rc::new(AttemptVm::new(2)));
        Scene { host, store, request, attempt, now, due: Vec::new() }
    }

    /// Passes the time as a worker that runs does: looking at the clock more often than a pause is long.
    fn wait(&mut self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(TICK);
            left -= step;
            self.now = self.now.plus(step);
            self.host.set_now(self.now);
            self.request.on_tick(&mut self.store.clone(), &mut |_, _| None);
            self.due.extend(self.attempt.take_due(self.now).unwrap());
        }
    }

    /// A request's headers come to the request seat.
    fn begin(&mut self, headers: &[(&str, &str)]) -> (Stream<'_>, RequestEffect) {
        self.begin_with(headers, false)
    }

    fn begin_with(&mut self, headers: &[(&str, &str)], uploads: bool) -> (Stream<'_>, RequestEffect) {
        self.host.clear_stream();
        self.host.put_property("xds\0cluster_name", Some(b"orders"));
        self.host.put_headers(Headers::Request, headers);
        let (request, effect) = RequestState::on_request_headers(&self.request, &mut self.store, &*self.host, !uploads);
        (Stream { scene: self, request, attempt: AttemptState::default(), number: 0, uploads }, effect)
    }

    /// The headers of a request whose client uploads a body.
    fn put(&mut self) -> Stream<'_> {
        let (stream, effect) = self.begin_with(&[(":method", "PUT"), (":path", "/")], true);
        assert_eq!(effect, RequestEffect::Continue);
        stream
    }

    fn get(&mut self) -> Stream<'_> {
        let (stream, effect) = self.begin(&[(":method", "GET"), (":path", "/")]);
        assert_eq!(effect, RequestEffect::Continue);
        stream
    }

    /// A whole request whose one attempt is answered so.
    fn answered(&mut self, status: &str) {
        let mut stream = self.get();
        assert_eq!(stream.attempt(), AttemptEffect::Continue);
        stream.attempt_responds(&[(":status", status)]);
        stream.end_attempt();
        let _ = stream.responds("via_upstream");
        stream.end();
    }

    /// The access log's line.
    fn log(&self) -> String {
        String::from_utf8(self.host.property("holdfast").unwrap_or_default()).unwrap()
    }

    fn metric(&self, name: &str) -> u64 {
        // What was counted waits for the next tick.
        self.request.on_tick(&mut self.store.clone(), &mut |_, _| None);
        self.host.metric(&format!("key=.=cluster=orders;.;{name}"))
    }
}

impl Stream<'_> {
    fn header(&self, map: Headers, name: &str) -> Option<String> {
        self.scene.host.text(map, name)
    }

    /// Envoy begins the next attempt.
    fn attempt(&mut self) -> AttemptEffect {
        self.number += 1;
        let host = &self.scene.host;
        host.put_property("upstream\0address", Some(HOST.as_bytes()));
        host.put_property("upstream\0local_address", Some(b"10.0.0.9:5000"));
        host.put_property("upstream\0request_attempt_count", Some(&self.number.to_le_bytes()));
        host.put_headers::<&str, &str>(Headers::Response, &[]);
        let (state, effect) =
            AttemptState::on_request_headers(&self.scene.attempt, &mut self.scene.store, &**host, 7, !self.uploads);
        self.attempt = state;
        effect
    }

    /// The client's last byte comes after this time, to the request seat and the attempt under way.
    fn uploaded(&mut self, after: Duration) {
        self.scene.wait(after);
        self.request.on_request_end(&*self.scene.host);
        self.replayed();
    }

    /// The whole body comes to the attempt under way.
    fn replayed(&self) {
        self.attempt.on_request_end(&*self.scene.host);
    }

    fn attempt_responds(&mut self, headers: &[(&str, &str)]) {
        self.scene.host.put_headers(Headers::Response, headers);
        self.attempt.on_response_headers(&self.scene.attempt, &mut self.scene.store, &*self.scene.host, 7, true);
    }

    fn end_attempt(&mut self) {
        let state = std::mem::take(&mut self.attempt);
        state.on_end(&self.scene.attempt, &mut self.scene.store, &*self.scene.host, 7);
    }

    /// The tick that the attempt seat has asked for comes after this time.
    fn tick(&mut self, after: Duration) -> Vec<AttemptEffect> {
        self.scene.wait(after);
        let (now, scene) = (self.scene.now, &mut *self.scene);
        let due = std::mem::take(&mut scene.due);
        let effects =
            due.into_iter().map(|waiter| scene.attempt.wake(&mut scene.store, &*scene.host, waiter, now)).collect();
        scene.attempt.end_tick(&mut scene.store, now);
        effects
    }

    /// The response that stands in the host's headers comes to the request seat.
    fn responds(&mut self, details: &str) -> RequestEffect {
        self.scene.host.put_property("response\0code_details", Some(details.as_bytes()));
        let state = std::mem::take(&mut self.request);
        let (state, effect) =
            state.on_response_headers(&self.scene.request, &mut self.scene.store, &*self.scene.host, STREAM, true);
        self.request = state;
        effect
    }

    fn end(self) {
        self.request.on_end(&self.scene.request, &mut self.scene.store, &*self.scene.host);
    }
}

#[test]
fn a_request_that_succeeds_is_counted_and_said_to_the_access_log() {
    let mut scene = Scene::new(r#""breaker":{}"#);
    scene.answered("200");
    assert_eq!(scene.log(), "policy=orders; key=cluster=orders; decision=admitted");
    assert_eq!((scene.metric("requests"), scene.metric("success"), scene.metric("failure")), (1, 1, 0));
}

#[test]
fn an_outcome_is_reported_once_however_many_events_follow() {
    let mut scene = Scene::new(r#""breaker":{}"#);
    let mut stream = scene.get();
    stream.attempt_responds(&[(":status", "503")]);
    let _ = stream.responds("via_upstream");
    let _ = stream.responds("via_upstream");
    let state = std::mem::take(&mut stream.request);
    (stream.request, _) =
        state.on_response_trailers(&stream.scene.request, &mut stream.scene.store, &*stream.scene.host);
    stream.end();
    assert_eq!((scene.metric("failure"), scene.metric("ignored")), (1, 0));
}

#[test]
fn an_open_breaker_replies_and_the_next_probe_is_let_through() {
    let mut scene = Scene::new(r#""breaker":{"min_requests":2,"open_for":"10s","open_jitter":0}"#);
    scene.answered("503");
    scene.answered("503");
    assert_eq!(
        scene.host.take_lines(),
        ["orders/cluster=orders: closed -> open: failure rate 100% of 2 >= 50%; next probe in 10s"]
    );
    let (stream, effect) = scene.begin(&[(":method", "GET"), (":path", "/")]);
    let RequestEffect::Reply(local) = effect else { panic!("it is open") };
    assert_eq!((local.reply.status, local.details()), (503, "holdfast_open".to_owned()));
    stream.end();
    assert_eq!(scene.log(), "policy=orders; key=cluster=orders; decision=rejected; reason=open");
    assert_eq!((scene.metric("rejected.open"), scene.metric("failure")), (1, 2), "a reply is no outcome");

    scene.wait(Duration::from_secs(10));
    scene.answered("200");
    assert!(scene.log().ends_with("decision=probe"), "{}", scene.log());
}

#[test]
fn a_grpc_response_is_judged_by_its_trailers_or_where_it_breaks_off() {
    let mut scene = Scene::new(r#""breaker":{}"#);
    for (trailers, failures) in [(Some("14"), 1), (Some("0"), 1), (None, 2)] {
        let mut stream = scene.get();
        let headers = [(":status", "200"), ("content-type", "application/grpc")];
        stream.scene.host.put_headers(Headers::Response, &headers);
        stream.scene.host.put_property("response\0code_details", Some(b"via_upstream"));
        let state = std::mem::take(&mut stream.request);
        let (state, effect) = state.on_response_headers(
            &stream.scene.request,
            &mut stream.scene.store,
            &*stream.scene.host,
            STREAM,
            false,
        );
        assert_eq!(effect, RequestEffect::Continue);
        stream.request = state;
        if let Some(status) = trailers {
            stream.scene.host.put_headers(Headers::ResponseTrailers, &[("grpc-status", status)]);
            let state = std::mem::take(&mut stream.request);
            (stream.request, _) =
                state.on_response_trailers(&stream.scene.request, &mut stream.scene.store, &*stream.scene.host);
        } else {
            // Envoy's flag for a host that reset the stream.
            stream.scene.host.put_property("response\0flags", Some(&(1_u64 << 4).to_le_bytes()));
        }
        stream.end();
        assert_eq!(scene.metric("failure"), failures, "{trailers:?}");
    }
}

const BY_HEADER: &str =
    r#""outcome":{"failure":{"header":{"x-app-error":"*"}},"ignore":{"header":{"x-cache":"HIT*"}}}"#;

#[test]
fn a_header_of_the_response_decides_where_the_policy_says_so() {
    let mut scene = Scene::new(&format!(r#"{BY_HEADER},"breaker":{{"min_requests":3,"open_jitter":0}}"#));
    let answers: [&[(&str, &str)]; 5] = [
        &[(":status", "200")],
        &[(":status", "200"), ("x-app-error", "17")],
        &[(":status", "503"), ("x-cache", "HIT from here")],
        &[(":status", "200"), ("x-app-error", "17"), ("x-cache", "HIT")],
        &[(":status", "200"), ("x-cache", "MISS"), ("x-app-error", "")],
    ];
    for headers in answers {
        let mut stream = scene.get();
        stream.scene.host.put_headers(Headers::Response, headers);
        let _ = stream.responds("via_upstream");
        stream.end();
    }
    assert_eq!((scene.metric("success"), scene.metric("failure"), scene.metric("ignored")), (1, 2, 2));
    assert_eq!(
        scene.host.take_lines(),
        ["orders/cluster=orders: closed -> open: failure rate 66% of 3 >= 50%; next probe in 30s"]
    );
}

#[test]
fn a_reply_that_no_host_made_is_not_judged_by_its_headers() {
    let mut scene = Scene::new(&format!(r#"{BY_HEADER},"breaker":{{}}"#));
    let mut stream = scene.get();
    stream.scene.host.put_headers(Headers::Response, &[(":status", "200"), ("x-app-error", "1")]);
    let _ = stream.responds("direct_response");
    stream.end();
    assert_eq!((scene.metric("failure"), scene.metric("ignored")), (0, 1));
}

#[test]
fn a_grpc_call_fails_by_a_header_or_by_its_status() {
    let mut scene = Scene::new(&format!(r#"{BY_HEADER},"breaker":{{}}"#));
    for (header, status, counts) in [
        (("x-app-error", "1"), "0", (0, 1, 0)),
        (("x-other", "1"), "14", (0, 2, 0)),
        (("x-cache", "HIT"), "14", (0, 2, 1)),
        (("x-other", "1"), "0", (1, 2, 1)),
    ] {
        let mut stream = scene.get();
        let headers = [(":status", "200"), ("content-type", "application/grpc"), header];
        stream.scene.host.put_headers(Headers::Response, &headers);
        stream.scene.host.put_property("response\0code_details", Some(b"via_upstream"));
        let (plugin, host) = (&stream.scene.request, Rc::clone(&stream.scene.host));
        let state = std::mem::take(&mut stream.request);
        let (state, _) = state.on_response_headers(plugin, &mut stream.scene.store, &*host, STREAM, false);
        host.put_headers(Headers::ResponseTrailers, &[("grpc-status", status)]);
        (stream.request, _) = state.on_response_trailers(plugin, &mut stream.scene.store, &*host);
        stream.end();
        let found = (scene.metric("success"), scene.metric("failure"), scene.metric("ignored"));
        assert_eq!(found, counts, "{header:?} {status}");
    }
}

#[test]
fn the_attempt_seat_judges_by_the_same_headers_and_a_retry_does_not_follow_from_them() {
    let mut scene = Scene::new(&format!(r#"{BY_HEADER},{RETRY},"breaker":{{}}"#));
    let mut stream = scene.get();
    assert_eq!(stream.attempt(), AttemptEffect::Continue);
    stream.attempt_responds(&[(":status", "200"), ("x-app-error", "17")]);
    assert_eq!(stream.header(Headers::Response, "x-holdfast-retry"), None, "`on` does not name a 200");
    let forbidden = stream.header(Headers::Response, "x-envoy-ratelimited");
    assert_eq!(forbidden.as_deref(), Some("holdfast"), "the route may list that header: a retry would cost the answer");
    stream.end_attempt();
    let _ = stream.responds("via_upstream");
    assert_eq!(stream.header(Headers::Response, "x-app-error").as_deref(), Some("17"), "the client gets the answer");
    stream.end();
    assert!(scene.log().contains("attempts=10.0.0.1:80 failure:200 0ms"), "{}", scene.log());
    assert_eq!((scene.metric("failure"), scene.metric("retries")), (1, 0));
}

#[test]
fn a_retry_that_is_stopped_leaves_the_verdict_by_header() {
    let mut scene = Scene::new(&format!(r#"{BY_HEADER},"retry":{{"on":["5xx","retriable-headers"]}},"breaker":{{}}"#));
    let (mut stream, _) = scene.begin(&[(":method", "POST"), (":path", "/")]);
    assert_eq!(stream.attempt(), AttemptEffect::Continue);
    stream.attempt_responds(&[(":status", "200"), ("x-app-error", "17")]);
    stream.end_attempt();
    // The route lists the header, so the router begins a retry.
    let AttemptEffect::Reply(reply) = stream.attempt() else { panic!("no POST is sent again") };
    stream.end_attempt();
    let status = reply.status.to_string();
    stream.scene.host.put_headers(Headers::Response, &[(":status", status.as_str())]);
    let _ = stream.responds(&reply.details);
    stream.end();
    assert_eq!(
        (scene.metric("failure"), scene.metric("success")),
        (1, 0),
        "it stands for the attempt before, a 200 that failed"
    );
}

#[test]
fn a_client_that_leaves_is_nobodys_failure_and_counts_in_flight_no_more() {
    let mut scene = Scene::new(r#""breaker":{},"concurrency":{"max_requests":1}"#);
    let stream = scene.get();
    stream.end();
    assert_eq!((scene.metric("ignored"), scene.metric("failure")), (1, 0));
    scene.get().end();
    assert_eq!(scene.metric("rejected.concurrency"), 0, "it is over, so there is room for another");
}

#[test]
fn a_failed_attempt_is_retried_after_its_wait() {
    let mut scene = Scene::new(RETRY);
    let mut stream = scene.get();
    assert_eq!(stream.header(Headers::Request, "x-envoy-max-retries").as_deref(), Some("2"));
    assert_eq!(stream.attempt(), AttemptEffect::Continue);
    stream.attempt_responds(&[(":status", "503")]);
    assert_eq!(stream.header(Headers::Response, "x-holdfast-retry").as_deref(), Some("1"), "the router is asked");
    stream.end_attempt();
    assert_eq!(stream.attempt(), AttemptEffect::Pause);
    assert_eq!(stream.header(Headers::Request, "x-envoy-attempt-count").as_deref(), Some("2"));
    assert_eq!(stream.tick(Duration::from_millis(99)), [], "not yet");
    assert_eq!(stream.tick(Duration::from_millis(1)), [AttemptEffect::Resume]);
    stream.attempt_responds(&[(":status", "200")]);
    stream.end_attempt();
    assert_eq!(stream.header(Headers::Response, "x-holdfast-tries").as_deref(), Some("1"));
    let _ = stream.responds("via_upstream");
    assert_eq!(stream.header(Headers::Response, "x-holdfast-tries"), None, "no client hears of it");
    stream.end();
    assert!(
        scene.log().contains("attempts=10.0.0.1:80 failure:503 0ms, 10.0.0.1:80 success:200 0ms"),
        "{}",
        scene.log()
    );
    assert_eq!((scene.metric("retries"), scene.metric("retries_recovered")), (1, 1));
}

#[test]
fn a_breaker_that_opens_during_the_wait_stops_the_retry() {
    let mut scene = Scene::new(&format!(r#"{RETRY},"breaker":{{"min_requests":2,"failure_rate":60}}"#));
    scene.answered("200");
    let mut stream = scene.get();
    assert_eq!(stream.attempt(), AttemptEffect::Continue);
    stream.attempt_responds(&[(":status", "503")]);
    stream.end_attempt();
    assert_eq!(stream.attempt(), AttemptEffect::Pause);
    // Meanwhile other requests fail.
    let (waiting, number) = (std::mem::take(&mut stream.attempt), stream.number);
    let own = std::mem::take(&mut stream.request);
    let kept = stream.scene.host.property("holdfast_exchange").unwrap();
    drop(stream);
    scene.answered_alone("503");
    scene.answered_alone("503");
    scene.host.put_property("holdfast_exchange", Some(&kept));
    let mut stream = Stream { scene: &mut scene, request: own, attempt: waiting, number, uploads: false };
    let effects = stream.tick(Duration::from_millis(100));
    let [AttemptEffect::Reply(reply)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((reply.status, reply.details.as_str()), (503, "holdfast_not_retried{breaker}"));
}

#[test]
fn a_spent_budget_forbids_the_retry() {
    let mut scene = Scene::new(r#""retry":{"budget":{"ratio":0,"min_per_second":0.1,"window":"10s"}}"#);
    // Until the seats have met, the request seat looks at the budget itself; the attempt seat announces itself here.
    scene.answered("200");
    scene.wait(Duration::from_secs(2));
    let mut stream = scene.get();
    assert_eq!(stream.attempt(), AttemptEffect::Continue);
    stream.attempt_responds(&[(":status", "503")]);
    stream.end_attempt();
    assert_eq!(stream.attempt(), AttemptEffect::Pause, "it takes the one token");
    assert_eq!(stream.tick(Duration::from_secs(1)), [AttemptEffect::Resume]);
    stream.attempt_responds(&[(":status", "200")]);
    stream.end_attempt();
    let _ = stream.responds("via_upstream");
    stream.end();

    let mut stream = scene.get();
    assert_eq!(stream.attempt(), AttemptEffect::Continue);
    stream.attempt_responds(&[(":status", "503")]);
    assert_eq!(stream.header(Headers::Response, "x-holdfast-retry"), None);
    let forbidden = stream.header(Headers::Response, "x-envoy-ratelimited");
    assert_eq!(forbidden.as_deref(), Some("holdfast"), "the router's own conditions do not count either");
    stream.end_attempt();
    let _ = stream.responds("via_upstream");
    stream.end();
    assert!(scene.log().ends_with("; denied=budget"), "{}", scene.log());
    assert_eq!((scene.metric("retries"), scene.metric("retries_denied.budget")), (1, 1));
}

#[test]
fn no_wait_begins_that_would_end_after_the_clients_own_deadline() {
    const GRPC: (&str, &str) = ("content-type", "application/grpc");
    for (waits, is_retried) in [
        ([GRPC, ("grpc-timeout", "150m")], true),
        ([GRPC, ("grpc-timeout", "100m")], false),
        ([GRPC, ("grpc-timeout", "1x")], true),
        ([("content-type", "application/json"), ("grpc-timeout", "100m")], true),
        ([GRPC, ("x-envoy-expected-rq-timeout-ms", "100")], false),
        ([GRPC, ("x-envoy-expected-rq-timeout-ms", "150")], true),
    ] {
        let mut scene = Scene::new(RETRY);
        scene.answered("200");
        let request = [&[(":method", "GET"), (":path", "/")][..], &waits].concat();
        let (mut stream, effect) = scene.begin(&request);
        assert_eq!((effect, stream.attempt()), (RequestEffect::Continue, AttemptEffect::Continue));
        stream.attempt_responds(&[(":status", "503")]);
        assert_eq!(stream.header(Headers::Response, "x-holdfast-retry").is_some(), is_retried, "{waits:?}");
        stream.end_attempt();
        if !is_retried {
            let _ = stream.responds("via_upstream");
            assert!(scene.log().contains("denied=deadline"), "{}", scene.log());
            assert_eq!(scene.metric("retries_denied.deadline"), 1);
        }
    }
}

#[test]
fn a_request_that_its_client_has_sent_before_is_not_retried() {
    for (header, denied) in [
        (("grpc-previous-rpc-attempts", "1"), 1),
        (("x-envoy-attempt-count", "2"), 1),
        (("x-envoy-attempt-count", "1"), 0),
    ] {
        let mut scene = Scene::new(RETRY);
        let (mut stream, _) = scene.begin(&[(":method", "GET"), (":path", "/"), header]);
        let most = stream.header(Headers::Request, "x-envoy-max-retries");
        assert_eq!(most.as_deref(), Some(if denied > 0 { "0" } else { "2" }), "{header:?}");
        let _ = stream.attempt();
        stream.attempt_responds(&[(":status", "503")]);
        stream.end_attempt();
        let _ = stream.responds("via_upstream");
        assert_eq!(scene.metric("retries_denied.retry_of_retry"), denied, "{header:?}");
    }
}

#[test]
fn a_client_that_leaves_during_the_wait_gives_the_token_back() {
    let budget = r#"},"budget":{"ratio":0,"min_per_second":0.1,"window":"10s"}}"#;
    let mut scene = Scene::new(&RETRY.replace("}}", budget));
    for _ in 0..3 {
        let mut stream = scene.get();
        assert_eq!(stream.attempt(), AttemptEffect::Continue);
        stream.attempt_responds(&[(":status", "503")]);
        stream.end_attempt();
        assert_eq!(stream.attempt(), AttemptEffect::Pause, "each finds the one token there is");
        // Envoy's flag for a client that has closed its connection.
        stream.scene.host.put_property("response\0flags", Some(&(1_u64 << 14).to_le_bytes()));
        stream.end_attempt();
        assert_eq!(stream.tick(Duration::from_secs(1)), [], "nobody waits any more");
        stream.end();
    }
    assert_eq!(scene.metric("ignored"), 3);
}

#[test]
fn an_ungoverned_attempt_passes_without_the_names_of_hosts() {
    let mut scene = Scene::new(r#""match":{"cluster":["other"]},"breaker":{}"#);
    let (mut stream, effect) = scene.begin(&[(":method", "GET"), ("x-holdfast-hosts", "10.6.6.6:80")]);
    assert_eq!(effect, RequestEffect::Continue);
    assert_eq!(stream.header(Headers::Request, "x-holdfast-hosts"), None, "a client does not choose a host");
    assert_eq!(stream.attempt(), AttemptEffect::Continue);
    stream.end_attempt();
    stream.end();
}

impl Scene {
    /// A whole request that the attempt seat does not see: that of another cluster member, as far as this VM knows.
    fn answered_alone(&mut self, status: &str) {
        let mut stream = self.get();
        stream.scene.host.put_headers(Headers::Response, &[(":status", status)]);
        let _ = stream.responds("via_upstream");
        stream.end();
    }
}

/// A request's headers come to a request seat behind another one, which has left this in the filter state.
fn behind(scene: &mut Scene, left: &str) -> RequestState {
    scene.host.clear_stream();
    scene.host.put_property("xds\0cluster_name", Some(b"orders"));
    scene.host.put_property("holdfast", Some(left.as_bytes()));
    scene.host.put_headers(Headers::Request, &[(":method", "GET"), (":path", "/"), ("x-holdfast-hosts", HOST)]);
    let (state, effect) = RequestState::on_request_headers(&scene.request, &mut scene.store, &*scene.host, true);
    assert_eq!(effect, RequestEffect::Continue);
    state
}

#[test]
fn what_a_request_seat_before_this_one_governs_is_left_alone_and_that_is_said_once() {
    let mut scene = Scene::new(r#""breaker":{"window":3,"min_requests":3,"failure_rate":50},"retry":{}"#);
    for _ in 0..10 {
        let state = behind(&mut scene, "policy=first; key=all; decision=admitted");
        assert_eq!(scene.host.text(Headers::Request, "x-holdfast-hosts").as_deref(), Some(HOST), "the hosts it named");
        assert_eq!(
            scene.host.text(Headers::Request, "x-envoy-max-retries"),
            None,
            "the router hears nothing from here"
        );
        scene.host.put_headers(Headers::Response, &[(":status", "503")]);
        let (state, effect) = state.on_response_headers(&scene.request, &mut scene.store, &*scene.host, STREAM, true);
        assert_eq!(effect, RequestEffect::Continue);
        state.on_end(&scene.request, &mut scene.store, &*scene.host);
        assert_eq!(scene.log(), "policy=first; key=all; decision=admitted");
    }
    assert_eq!((scene.metric("requests"), scene.metric("failure")), (0, 0));
    let said: Vec<String> =
        scene.host.take_lines().into_iter().filter(|line| line.contains("does not govern")).collect();
    let line =
        "orders: does not govern a request that it matches: the policy first of a request seat before this one does";
    assert_eq!(said, [line]);
}

#[test]
fn what_another_filter_keeps_under_the_name_is_no_seats() {
    let mut scene = Scene::new(r#""breaker":{}"#);
    let _ = behind(&mut scene, "of another filter");
    assert_eq!(scene.host.text(Headers::Request, "x-holdfast-hosts"), None, "a client's own choice");
    assert_eq!(scene.log(), "policy=orders; key=cluster=orders; decision=admitted");
    assert_eq!(scene.metric("requests"), 1);
}

#[test]
fn a_policy_that_is_off_governs_and_does_nothing() {
    let mut scene = Scene::new(r#""mode":"off","breaker":{},"retry":{}"#);
    let stream = scene.get();
    stream.end();
    assert_eq!(scene.log(), "policy=orders; decision=off");
    assert_eq!(scene.metric("requests"), 0);
}

/// A policy that opens for what takes half a second, over requests that come one after the other.
const SLOW: &str = r#""outcome":{"slow_after":"500ms"},
    "breaker":{"window":10,"min_requests":10,"failure_rate":0,"slow_rate":50,"open_jitter":0}"#;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_slow_client_makes_no_service_slow() {
    let mut scene = Scene::new(SLOW);
    for _ in 0..20 {
        let mut stream = scene.put();
        stream.uploaded(2 * SECOND);
        stream.scene.host.put_headers(Headers::Response, &[(":status", "200")]);
        let _ = stream.responds("via_upstream");
        stream.end();
    }
    assert_eq!((scene.metric("slow"), scene.metric("success"), scene.metric("rejected.open")), (0, 20, 0));
}

#[test]
fn a_service_that_is_slow_after_the_last_byte_is_slow() {
    let mut scene = Scene::new(SLOW);
    for _ in 0..10 {
        let mut stream = scene.put();
        stream.uploaded(2 * SECOND);
        stream.scene.wait(SECOND / 2);
        stream.scene.host.put_headers(Headers::Response, &[(":status", "200")]);
        let _ = stream.responds("via_upstream");
        stream.end();
    }
    assert_eq!(scene.metric("slow"), 10);
    assert_eq!(
        scene.host.take_lines(),
        ["orders/cluster=orders: closed -> open: slow rate 100% of 10 >= 50%; next probe in 30s"]
    );
}

#[test]
fn an_answer_before_the_last_byte_took_no_time() {
    let mut scene = Scene::new(SLOW);
    let mut stream = scene.put();
    stream.scene.wait(2 * SECOND);
    stream.scene.host.put_headers(Headers::Response, &[(":status", "413")]);
    let _ = stream.responds("via_upstream");
    // The client goes on with it, and nobody cares.
    stream.uploaded(SECOND);
    stream.end();
    assert_eq!((scene.metric("slow"), scene.metric("success")), (0, 1));
}

#[test]
fn a_request_without_a_body_counts_from_its_headers() {
    let mut scene = Scene::new(SLOW);
    let mut stream = scene.get();
    stream.scene.wait(SECOND);
    stream.scene.host.put_headers(Headers::Response, &[(":status", "200")]);
    let _ = stream.responds("via_upstream");
    stream.end();
    assert_eq!(scene.metric("slow"), 1);
}

#[test]
fn every_attempt_takes_the_time_from_the_last_byte_that_its_host_gets() {
    let mut scene = Scene::new(RETRY);
    let mut stream = scene.put();
    assert_eq!(stream.attempt(), AttemptEffect::Continue);
    stream.uploaded(2 * SECOND);
    stream.scene.wait(Duration::from_millis(30));
    stream.attempt_responds(&[(":status", "503")]);
    stream.end_attempt();
    // What is kept of the body comes as soon as the wait is over.
    assert_eq!(stream.attempt(), AttemptEffect::Pause);
    assert_eq!(stream.tick(Duration::from_millis(100)), [AttemptEffect::Resume]);
    stream.replayed();
    stream.scene.wait(Duration::from_millis(40));
    stream.attempt_responds(&[(":status", "200")]);
    stream.end_attempt();
    let _ = stream.responds("via_upstream");
    stream.end();
    assert!(
        scene.log().contains("attempts=10.0.0.1:80 failure:503 30ms, 10.0.0.1:80 success:200 40ms"),
        "{}",
        scene.log()
    );
}

#[test]
fn a_reset_while_the_client_uploads_is_no_time_out_of_the_attempt() {
    // By the router's clock an attempt's time begins with its last byte, which the first never gets.
    let mut scene = Scene::new(&RETRY.replace(r#""max_retries""#, r#""per_try_timeout":"1s","max_retries""#));
    let ends = [(None, "reset 0ms"), (Some(Duration::from_millis(1100)), "timeout 1100ms")];
    for (last_byte, end) in ends {
        let mut stream = scene.put();
        assert_eq!(stream.attempt(), AttemptEffect::Continue);
        stream.scene.wait(3 * SECOND);
        if let Some(time) = last_byte {
            stream.uploaded(Duration::ZERO);
            stream.scene.wait(time);
        }
        stream.end_attempt();
        stream.scene.host.put_headers(Headers::Response, &[(":status", "503")]);
        stream.scene.host.put_property("response\0flags", Some(&(1_u64 << 4).to_le_bytes()));
        let _ = stream.responds("upstream_reset_before_response_started{remote_reset}");
        stream.end();
        assert!(scene.log().contains(&format!("attempts=10.0.0.1:80 failure:{end}")), "{}", scene.log());
    }
}

/// A module of another release writes what the seats tell each other in another way.
#[test]
fn attempts_of_a_request_seat_of_another_release_are_left_to_envoy_and_that_is_said_if_it_lasts() {
    let mut scene = Scene::new(RETRY);
    scene.answered("200");
    let mut said = Vec::new();
    for second in 0..30 {
        let mut stream = scene.get();
        let mut written = stream.scene.host.property("holdfast_exchange").unwrap_or_default();
        assert!(!written.is_empty(), "the request may be retried");
        written.iter_mut().for_each(|byte| *byte = !*byte);
        stream.scene.host.put_property("holdfast_exchange", Some(&written));
        assert_eq!(stream.attempt(), AttemptEffect::Continue);
        stream.attempt_responds(&[(":status", "503")]);
        stream.end_attempt();
        assert_eq!(stream.scene.host.property("holdfast_exchange"), Some(written), "it is the other release's");
        let _ = stream.responds("via_upstream");
        stream.end();
        scene.wait(Duration::from_secs(1));
        said.extend(
            scene.host.take_lines().into_iter().filter(|line| line.contains("of another release")).map(|_| second),
        );
    }
    assert_eq!(said, [19]);
}
