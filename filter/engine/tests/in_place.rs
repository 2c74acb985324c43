//! The life of a request whose answer a fallback replaces as it passes, over a host in memory: what each event leads to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A test may stop at once.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::host::{Headers, RootHost};
use holdfast_engine::memory_host::MemoryHost;
use holdfast_engine::request::{Configuration, RequestEffect, RequestPlugin, RequestState, RequestVm};
use holdfast_engine::store::memory::MemoryStore;

/// How the host names the request.
const STREAM: u32 = 1;
const BODY: &[u8] = br#"{"items":[]}"#;
const FALLBACK: &str = r#"{"on":["failure"],"respond":{"status":200,"headers":{"content-type":"application/json"},
    "body":{"items":[]}}}"#;

/// One request seat and one request, whose answer is still to come.
struct Scene {
    host: Rc<MemoryHost>,
    store: MemoryStore,
    plugin: RequestPlugin,
    state: RequestState,
    now: Timestamp,
}

impl Scene {
    fn new() -> Self {
        Scene::with(FALLBACK, &[(":method", "GET"), (":path", "/")])
    }

    fn grpc(also: &[(&str, &str)]) -> Self {
        let call = [(":method", "POST"), (":path", "/a.B/C"), ("content-type", "application/grpc")];
        let scene = Scene::with(FALLBACK, &[&call[..], also].concat());
        for (name, value) in also {
            scene.host.put_property(&format!("request\0headers\0{name}"), Some(value.as_bytes()));
        }
        scene.host.put_property("request\0protocol", Some(b"HTTP/2"));
        scene
    }

    fn with(fallback: &str, request: &[(&str, &str)]) -> Self {
        Scene::judging(r#""outcome":{}"#, fallback, request)
    }

    fn judging(outcome: &str, fallback: &str, request: &[(&str, &str)]) -> Self {
        let now = Timestamp::from_secs(1_700_000_000);
        let host = Rc::new(MemoryHost::at(now));
        let root: Rc<dyn RootHost> = Rc::clone(&host) as Rc<dyn RootHost>;
        let mut store = MemoryStore::default();
        let text = format!(
            r#"{{"policies":[{{"name":"orders",{outcome},"concurrency":{{"max_requests":9}},"fallback":[{fallback}]}}]}}"#
        );
        let configuration = Configuration::read(text.as_bytes()).unwrap();
        let plugin = RequestPlugin::new(&root, Rc::new(RequestVm::new(1)), configuration);
        plugin.start();
        host.put_property("xds\0cluster_name", Some(b"orders"));
        host.put_property("response\0code_details", Some(b"via_upstream"));
        let method = request.iter().find(|(name, _)| *name == ":method").unwrap().1;
        host.put_property("request\0method", Some(method.as_bytes()));
        host.put_headers(Headers::Request, request);
        let (state, effect) = RequestState::on_request_headers(&plugin, &mut store, &*host, true);
        assert_eq!(effect, RequestEffect::Continue);
        Scene { host, store, plugin, state, now }
    }

    fn headers(&mut self, headers: &[(&str, &str)], ended: bool) -> RequestEffect {
        self.host.put_headers(Headers::Response, headers);
        let state = std::mem::take(&mut self.state);
        let (state, effect) = state.on_response_headers(&self.plugin, &mut self.store, &*self.host, STREAM, ended);
        self.state = state;
        effect
    }

    /// A failure's headers, which are held.
    fn held(&mut self) {
        let headers = [(":status", "503"), ("content-length", "4"), ("set-cookie", "a=1"), ("x-cost", "3")];
        assert_eq!(self.headers(&headers, false), RequestEffect::Hold);
        assert!(self.state.wants_body(false));
    }

    /// A piece of the body comes: what is done with it, and what has become of it.
    fn body(&mut self, piece: &[u8], ended: bool) -> (RequestEffect, Vec<u8>) {
        self.host.put_response_body(piece);
        let (plugin, store, host) = (&self.plugin, &mut self.store, &*self.host);
        let state = std::mem::take(&mut self.state);
        let (state, effect) = state.on_response_body(plugin, store, host, piece.len(), ended);
        self.state = state;
        (effect, self.host.take_response_body())
    }

    /// These trailers come: what is done with them, and what is left of them.
    fn trailers(&mut self, trailers: &[(&str, &str)]) -> (RequestEffect, Vec<(String, Vec<u8>)>) {
        self.host.put_headers(Headers::ResponseTrailers, trailers);
        let state = std::mem::take(&mut self.state);
        let (state, effect) = state.on_response_trailers(&self.plugin, &mut self.store, &*self.host);
        self.state = state;
        (effect, self.host.take_headers(Headers::ResponseTrailers))
    }

    /// The host's answer is complete.
    fn complete(&self) {
        self.host.put_property("response\0backend_latency", Some(&7_u64.to_le_bytes()));
    }

    /// A tick after so many milliseconds, and the wake-up that was asked for: what becomes of the answers that are looked at.
    fn tick(&mut self, millis: u64) -> Vec<RequestEffect> {
        self.now = self.now.plus(Duration::from_millis(millis));
        self.host.set_now(self.now);
        let due = self.plugin.take_held(self.host.take_wakes() > 0, self.now);
        let effects = due.into_iter().map(|held| {
            assert_eq!(held.stream, STREAM);
            self.plugin.wake(&*self.host, held, self.now)
        });
        let effects = effects.collect();
        self.plugin.on_tick(&mut self.store, &mut |_, _| None);
        effects
    }

    fn header(&self, name: &str) -> Option<String> {
        self.host.text(Headers::Response, name)
    }

    #[track_caller]
    fn assert_rewritten(&self) {
        assert_eq!(self.header(":status").as_deref(), Some("200"));
        assert_eq!(self.header("content-type").as_deref(), Some("application/json"));
        assert_eq!(self.header("set-cookie"), None);
        assert_eq!(self.header("x-holdfast-fallback").as_deref(), Some("static; reason=failure; policy=orders"));
    }

    fn end(mut self) {
        let state = std::mem::take(&mut self.state);
        state.on_end(&self.plugin, &mut self.store, &*self.host);
        self.tick(1000);
        let metric = |name: &str| self.host.metric(&format!("key=.=cluster=orders;.;{name}"));
        assert_eq!((metric("failure"), metric("fallback.static")), (1, 1));
    }
}

#[track_caller]
fn replied(effect: RequestEffect) -> holdfast_engine::fallback::LocalReply {
    let RequestEffect::Reply(local) = effect else { panic!("a reply: {effect:?}") };
    local
}

const PASSES: RequestEffect = RequestEffect::Continue;

#[test]
fn an_answer_is_held_let_go_and_written_over() {
    let mut scene = Scene::new();
    scene.held();
    scene.assert_rewritten();
    assert_eq!(scene.header("content-length").as_deref(), Some("12"));
    assert_eq!(scene.header("x-cost").as_deref(), Some("3"));
    assert_eq!(scene.host.tick(), Duration::from_millis(10), "where no wake-up comes");
    assert_eq!(scene.tick(0), [RequestEffect::Hold]);
    assert_eq!(scene.host.tick(), Duration::from_millis(1));
    assert_eq!(scene.tick(1), [RequestEffect::Hold]);
    scene.complete();
    assert_eq!(scene.tick(1), [], "the longer it takes the later it is looked at");
    assert_eq!(scene.tick(1), [RequestEffect::Resume]);
    assert!(scene.host.tick() >= Duration::from_millis(100), "ticks are seldom again");
    assert_eq!(scene.body(b"down", true), (PASSES, BODY.to_vec()));
    assert_eq!(scene.tick(25), []);
    scene.end();
}

#[test]
fn pieces_after_the_first_are_emptied_and_trailers_removed() {
    let mut scene = Scene::new();
    scene.held();
    scene.complete();
    assert_eq!(scene.tick(1), [RequestEffect::Resume]);
    assert_eq!(scene.body(b"do", false), (PASSES, BODY.to_vec()));
    assert_eq!(scene.body(b"wn", false), (PASSES, Vec::new()));
    assert_eq!(scene.trailers(&[("x-t", "1"), ("x-t", "2"), ("grpc-status", "0")]), (PASSES, Vec::new()));
    scene.end();
}

#[test]
fn an_empty_body_is_written_over_too() {
    let mut scene = Scene::new();
    assert_eq!(scene.headers(&[(":status", "503"), ("transfer-encoding", "chunked")], false), RequestEffect::Hold);
    assert_eq!(scene.header("content-length"), None, "there may be nothing but trailers");
    scene.complete();
    assert_eq!(scene.tick(1), [RequestEffect::Resume]);
    assert_eq!(scene.body(b"", true), (PASSES, BODY.to_vec()));
    scene.end();
}

#[test]
fn one_that_never_ends_is_replied_to_after_100_ms() {
    let mut scene = Scene::new();
    scene.held();
    let mut looks = 0;
    let mut tick = |scene: &mut Scene| {
        let effects = scene.tick(1);
        looks += effects.len();
        effects
    };
    for millis in 1..100 {
        let effects = tick(&mut scene);
        assert!(effects.iter().all(|effect| *effect == RequestEffect::Hold), "after {millis} ms: {effects:?}");
    }
    let effects = (100..=125).map(|_| tick(&mut scene)).find(|effects| !effects.is_empty()).expect("a look");
    let local = replied(effects.into_iter().next().unwrap());
    assert_eq!((local.reply.status, local.reply.body.as_slice()), (200, BODY));
    assert_eq!(local.details(), "holdfast_failure");
    assert!(looks <= 9, "{looks} looks");
    assert_eq!(scene.tick(200), [], "one reply");
    scene.end();
}

#[test]
fn a_clock_that_is_set_back_or_forward_holds_nothing_up() {
    for millis in [-3_600_000_i64, -5_000, -20, 200, 3_600_000] {
        let mut scene = Scene::new();
        scene.held();
        assert_eq!(scene.tick(50), [RequestEffect::Hold]);
        scene.now = Timestamp(scene.now.0.saturating_add_signed(millis * 1_000_000));
        let ticks = (0..125).map(|_| scene.tick(1));
        let effects: Vec<_> = ticks.flatten().filter(|effect| *effect != RequestEffect::Hold).collect();
        assert_eq!(effects.len(), 1, "{millis} ms");
        replied(effects.into_iter().next().unwrap());
    }
}

#[test]
fn where_its_body_is_seen_it_goes_on_with_the_last_piece() {
    let mut scene = Scene::new();
    scene.held();
    assert_eq!(scene.body(b"do", false), (RequestEffect::Hold, BODY.to_vec()));
    // What was held before counts as part of it.
    let held = [BODY, b"wn"].concat();
    assert_eq!(scene.body(&held, false), (RequestEffect::Hold, BODY.to_vec()));
    assert_eq!(scene.body(BODY, true), (PASSES, BODY.to_vec()));
    scene.complete();
    assert_eq!(scene.tick(1), [PASSES], "it was let go");
    scene.end();

    let mut scene = Scene::new();
    scene.held();
    assert_eq!(scene.body(b"down", false), (RequestEffect::Hold, BODY.to_vec()));
    assert_eq!(scene.trailers(&[("x-t", "1")]), (PASSES, Vec::new()));
    scene.end();

    let mut scene = Scene::new();
    scene.held();
    let (effect, _) = scene.trailers(&[("x-t", "1")]);
    assert_eq!(replied(effect).reply.body, BODY, "there is nothing that could be overwritten");
    scene.end();
}

#[test]
fn what_is_long_passes_at_once() {
    for (length, effect) in [("16384", RequestEffect::Hold), ("16385", PASSES), ("5000000", PASSES)] {
        let mut scene = Scene::new();
        assert_eq!(scene.headers(&[(":status", "503"), ("content-length", length)], false), effect, "{length}");
        scene.assert_rewritten();
        if effect == PASSES {
            assert_eq!(scene.body(&[b'x'; 1000], false), (PASSES, BODY.to_vec()));
            assert_eq!(scene.body(&[b'x'; 1000], true), (PASSES, Vec::new()));
        }
        scene.end();
    }
}

#[test]
fn a_reply_of_the_proxys_own_is_complete() {
    let mut scene = Scene::new();
    let details = b"upstream_reset_before_response_started{connection_failure}";
    scene.host.put_property("response\0code_details", Some(details));
    scene.host.put_property("response\0flags", Some(&(1_u64 << 5).to_le_bytes()));
    assert_eq!(scene.headers(&[(":status", "503"), ("content-length", "9")], false), PASSES);
    scene.assert_rewritten();
    assert_eq!(scene.body(b"reset etc", true), (PASSES, BODY.to_vec()));
    scene.end();
}

#[test]
fn without_a_body_there_is_a_reply() {
    let mut scene = Scene::new();
    let headers = [(":status", "503"), ("content-length", "0")];
    assert_eq!(replied(scene.headers(&headers, true)).reply.body, BODY);
    assert!(!scene.state.wants_body(false));
    assert_eq!(scene.header(":status").as_deref(), Some("503"), "nothing was rewritten");
    scene.end();
}

#[test]
fn without_a_body_and_without_a_new_one_the_headers_are_rewritten() {
    let mut scene =
        Scene::with(r#"{"on":["failure"],"respond":{"status":204}}"#, &[(":method", "GET"), (":path", "/")]);
    assert_eq!(scene.headers(&[(":status", "503"), ("content-length", "0")], true), PASSES);
    assert_eq!((scene.header(":status").as_deref(), scene.header("content-length")), (Some("204"), None));
    scene.end();
}

#[test]
fn a_head_requests_answer_is_rewritten_and_has_no_body() {
    let mut scene = Scene::with(FALLBACK, &[(":method", "HEAD"), (":path", "/")]);
    assert_eq!(scene.headers(&[(":status", "503"), ("content-length", "4")], true), PASSES);
    scene.assert_rewritten();
    assert_eq!(scene.header("content-length").as_deref(), Some("12"), "what a GET would have");
    assert!(!scene.state.wants_body(false));
    scene.end();
}

#[test]
fn a_grpc_answer_of_headers_alone_is_rewritten() {
    let mut scene = Scene::grpc(&[]);
    let headers = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "14"),
        ("grpc-message", "the host's"),
        ("grpc-status-details-bin", "AA"),
    ];
    assert_eq!(scene.headers(&headers, true), PASSES);
    assert_eq!((scene.header(":status").as_deref(), scene.header("grpc-status").as_deref()), (Some("200"), Some("14")));
    assert_eq!(scene.header("grpc-message").as_deref(), Some("fallback of policy orders: failure"));
    assert_eq!(scene.header("grpc-status-details-bin"), None);
    scene.end();
}

#[test]
fn a_grpc_call_that_text_answers_is_replied_to_when_that_is_complete() {
    let text = [(":status", "503"), ("content-type", "text/html"), ("content-length", "13")];
    let mut scene = Scene::grpc(&[]);
    assert_eq!(scene.headers(&text, false), RequestEffect::Hold);
    assert_eq!(scene.header("content-type").as_deref(), Some("text/html"), "nothing is rewritten");
    assert_eq!(scene.tick(1), [RequestEffect::Hold]);
    scene.complete();
    let effects = scene.tick(2);
    let local = replied(effects.into_iter().next().unwrap());
    assert_eq!(
        (local.reply.grpc.map(|grpc| grpc.code), local.reply.body.as_slice()),
        (Some(14), &b"fallback of policy orders: failure"[..])
    );
    scene.end();

    let mut scene = Scene::grpc(&[]);
    assert_eq!(scene.headers(&text, false), RequestEffect::Hold);
    assert_eq!(scene.body(b"<h1>", false), (RequestEffect::Hold, Vec::new()), "none of it is kept");
    assert_eq!(replied(scene.body(b"down</h1>", true).0).reply.grpc.map(|grpc| grpc.code), Some(14));
    scene.end();
}

#[test]
fn where_a_filter_translates_a_grpc_call_it_gets_http() {
    for also in [("x-grpc-web", "1"), ("x-envoy-original-method", "GET")] {
        let mut scene = Scene::grpc(&[also]);
        let text = [(":status", "503"), ("content-type", "text/html"), ("content-length", "13")];
        assert_eq!(scene.headers(&text, false), RequestEffect::Hold, "{also:?}");
        assert_eq!(scene.header(":status").as_deref(), Some("503"));
        assert_eq!(scene.header("content-type").as_deref(), Some("text/plain; charset=utf-8"));
        assert_eq!(scene.header("grpc-status"), None);
        scene.complete();
        assert_eq!(scene.tick(1), [RequestEffect::Resume]);
        assert_eq!(scene.body(b"<h1>down</h1>", true), (PASSES, b"fallback of policy orders: failure".to_vec()));
        scene.end();
    }
}

#[test]
fn a_client_that_leaves_is_not_looked_after_any_more() {
    let mut scene = Scene::new();
    scene.held();
    scene.state = RequestState::Over;
    assert_eq!(scene.tick(1), []);
    assert!(!scene.plugin.holds());
    assert!(scene.host.tick() > Duration::from_millis(1), "ticks are seldom again");
}

#[test]
fn an_answer_that_fails_by_a_header_is_replaced_without_that_header() {
    let judged = r#""outcome":{"failure":{"header":{"x-app-error":"*","x-state":"bad"}}}"#;
    let mut scene = Scene::judging(judged, FALLBACK, &[(":method", "GET"), (":path", "/")]);
    let headers = [
        (":status", "200"),
        ("content-length", "4"),
        ("x-app-error", "17"),
        ("x-app-error", "18"),
        ("x-state", "good"),
        ("x-cost", "3"),
    ];
    assert_eq!(scene.headers(&headers, false), RequestEffect::Hold);
    scene.assert_rewritten();
    assert_eq!(scene.header("x-app-error"), None, "the new answer is no error");
    assert_eq!((scene.header("x-state").as_deref(), scene.header("x-cost").as_deref()), (Some("good"), Some("3")));
    assert_eq!(scene.body(b"oops", true), (PASSES, BODY.to_vec()));
    scene.end();
}

#[test]
fn a_grpc_web_answer_fails_by_a_header() {
    let judged = r#""outcome":{"failure":{"header":{"x-app-error":"*"}}}"#;
    let call = [(":method", "POST"), (":path", "/a.B/C"), ("content-type", "application/grpc-web+proto")];
    let mut scene = Scene::judging(judged, FALLBACK, &call);
    let headers = [
        (":status", "200"),
        ("content-type", "application/grpc-web+proto"),
        ("content-length", "4"),
        ("x-app-error", "1"),
    ];
    assert_eq!(scene.headers(&headers, false), RequestEffect::Hold);
    assert_eq!(scene.header("grpc-status").as_deref(), Some("14"));
    assert_eq!(scene.header("x-app-error"), None);
    scene.complete();
    assert_eq!(scene.tick(1), [RequestEffect::Resume]);
    scene.end();
}

#[test]
fn a_success_is_none_of_its_business() {
    let mut scene = Scene::new();
    assert_eq!(scene.headers(&[(":status", "200"), ("content-length", "2")], false), PASSES);
    assert!(!scene.state.wants_body(false));
    assert_eq!(scene.body(b"ok", true), (PASSES, b"ok".to_vec()));
    assert_eq!(scene.trailers(&[("x-t", "1")]).1.len(), 1);
    assert_eq!(scene.header("content-length").as_deref(), Some("2"));
}
