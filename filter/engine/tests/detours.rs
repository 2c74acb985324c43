//! Requests that a fallback sends to another cluster, through the request seat, over a host in memory: where they go, and what serves them
//! where nobody is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A test may stop at once.
#![cfg(not(target_arch = "wasm32"))]

use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::fallback::LocalReply;
use holdfast_engine::host::{Headers, Host, RootHost};
use holdfast_engine::memory_host::MemoryHost;
use holdfast_engine::request::{Configuration, RequestEffect, RequestPlugin, RequestState, RequestVm};
use holdfast_engine::store::memory::MemoryStore;

const OPEN: &str = r#""breaker":{"state":"forced_open"}"#;
const STANDBY: &str = r#"{"on":["open"],"route":{"cluster":"standby"}}"#;
const NOBODY: &str = r#"{"on":["open"],"respond":{"status":503,"headers":{"x-at":"${path}"},"body":"nobody"}}"#;

struct Scene {
    host: Rc<MemoryHost>,
    store: MemoryStore,
    plugin: RequestPlugin,
    now: Timestamp,
}

impl Scene {
    /// Policies, each by its name, which is its cluster's, and its features.
    fn new(policies: &[(&str, String)]) -> Self {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let host = Rc::new(MemoryHost::at(now));
        let root: Rc<dyn RootHost> = Rc::clone(&host) as Rc<dyn RootHost>;
        let policies: Vec<String> = policies
            .iter()
            .map(|(name, features)| format!(r#"{{"name":"{name}","match":{{"cluster":"{name}"}},{features}}}"#))
            .collect();
        let text = format!(r#"{{"policies":[{}]}}"#, policies.join(","));
        let configuration = Configuration::read(text.as_bytes()).unwrap();
        let plugin = RequestPlugin::new(&root, Rc::new(RequestVm::new(1)), configuration);
        plugin.start();
        Scene { host, store: MemoryStore::default(), plugin, now }
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.host.set_now(self.now);
    }

    /// A request for the cluster `orders` comes.
    fn begin(&mut self, headers: &[(&str, &str)]) -> (RequestState, RequestEffect) {
        self.host.clear_stream();
        self.host.put_property("xds\0cluster_name", Some(b"orders"));
        let mut all = vec![(":method", "GET"), (":path", "/a?b"), (":authority", "shop"), (":scheme", "http")];
        all.extend_from_slice(headers);
        self.host.put_headers(Headers::Request, &all);
        RequestState::on_request_headers(&self.plugin, &mut self.store, &*self.host, true)
    }

    /// It is answered from this cluster, as Envoy's details say.
    fn answer(&mut self, state: RequestState, (cluster, status, details): (&str, &str, &str)) -> RequestEffect {
        self.host.put_property("xds\0cluster_name", Some(cluster.as_bytes()));
        self.host.put_property("response\0code_details", Some(details.as_bytes()));
        self.host.put_headers(Headers::Response, &[(":status", status)]);
        let (state, effect) = state.on_response_headers(&self.plugin, &mut self.store, &*self.host, 1, true);
        state.on_end(&self.plugin, &mut self.store, &*self.host);
        effect
    }

    /// Where the request was sent, if it was.
    fn sent_to(&self) -> Option<String> {
        self.host.property("holdfast_route").map(|cluster| String::from_utf8(cluster).unwrap())
    }

    fn says(&self) -> Option<String> {
        self.host.text(Headers::Response, "x-holdfast-fallback")
    }

    fn log(&self) -> String {
        String::from_utf8(self.host.property("holdfast").unwrap_or_default()).unwrap()
    }

    fn metric(&self, policy: &str, name: &str) -> u64 {
        // What was counted waits for the next tick.
        self.plugin.on_tick(&mut self.store.clone(), &mut |_, _| None);
        self.host.metric(&format!("policy=.={policy};.;key=.=cluster={policy};.;{name}"))
    }
}

fn replied(effect: RequestEffect) -> LocalReply {
    match effect {
        RequestEffect::Reply(local) => local,
        other => panic!("{other:?} is no reply"),
    }
}

fn header(local: &LocalReply, name: &str) -> Option<String> {
    local.reply.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

fn fallback(entries: &[&str]) -> String {
    format!(r#"{OPEN},"fallback":[{}]"#, entries.join(","))
}

#[test]
fn a_rejected_request_goes_to_the_other_cluster_and_its_answer_says_so() {
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, NOBODY]))]);
    let (state, effect) = scene.begin(&[]);
    assert_eq!((effect, scene.sent_to().as_deref()), (RequestEffect::Continue, Some("standby")));
    assert_eq!(scene.host.take_routed_anew(), 1);
    assert_eq!(scene.answer(state, ("standby", "200", "via_upstream")), RequestEffect::Continue);
    assert_eq!(scene.says().as_deref(), Some("route; reason=open; policy=orders; cluster=standby"));
    assert_eq!(
        scene.log(),
        "policy=orders; key=cluster=orders; decision=fallback; reason=open; kind=route; cluster=standby"
    );
    let counted = ["rejected.open", "fallback.route", "fallback.static", "fallback_failed.route", "misassembled.route"];
    assert_eq!(counted.map(|name| scene.metric("orders", name)), [1, 1, 0, 0, 0]);
}

#[test]
fn the_policy_of_the_other_cluster_governs_it_there() {
    let there = r#""breaker":{"min_requests":2,"consecutive_failures":2}"#.to_owned();
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, NOBODY])), ("standby", there)]);
    for turn in 0..2 {
        let (state, _) = scene.begin(&[]);
        assert_eq!(scene.log(), "policy=standby; key=cluster=standby; decision=admitted; detour=orders:open");
        assert_eq!(scene.answer(state, ("standby", "503", "via_upstream")), RequestEffect::Continue, "{turn}");
        assert_eq!(scene.says().as_deref(), Some("route; reason=open; policy=orders; cluster=standby"));
    }
    assert_eq!((scene.metric("standby", "failure"), scene.metric("orders", "failure")), (2, 0));
    // Its breaker is open now.
    let (_, effect) = scene.begin(&[]);
    let local = replied(effect);
    assert_eq!(local.reply.body, b"nobody");
    assert_eq!(header(&local, "x-holdfast-fallback").as_deref(), Some("static; reason=open; policy=orders"));
    assert_eq!(header(&local, "x-at").as_deref(), Some("/a?b"));
    assert!(scene.log().ends_with("; kind=static; failed=route:rejected"), "{}", scene.log());
    assert_eq!((scene.metric("standby", "rejected.open"), scene.metric("orders", "fallback_failed.route")), (1, 1));
}

#[test]
fn where_the_other_policy_has_a_fallback_of_its_own_that_serves() {
    let there = format!(r#"{OPEN},"fallback":[{{"on":["open"],"respond":{{"status":200,"body":"theirs"}}}}]"#);
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, NOBODY])), ("standby", there)]);
    let local = replied(scene.begin(&[]).1);
    assert_eq!(local.reply.body, b"theirs");
    assert_eq!(header(&local, "x-holdfast-fallback").as_deref(), Some("static; reason=open; policy=standby"));
}

#[test]
fn a_cluster_without_anybody_gives_way_to_the_next_entry() {
    for (details, why) in [("cluster_not_found", "no_cluster"), ("no_healthy_upstream", "no_host")] {
        for there in [None, Some(("standby", r#""breaker":{}"#.to_owned()))] {
            let policies: Vec<(&str, String)> =
                [("orders", fallback(&[STANDBY, NOBODY]))].into_iter().chain(there.clone()).collect();
            let mut scene = Scene::new(&policies);
            let (state, _) = scene.begin(&[]);
            let local = replied(scene.answer(state, ("standby", "503", details)));
            assert_eq!((local.reply.status, local.reply.body.as_slice()), (503, &b"nobody"[..]), "{details}");
            assert_eq!(header(&local, "x-at").as_deref(), Some("/a?b"), "what it inserts was kept");
            assert!(scene.log().contains(&format!("kind=static; failed=route:{why}")), "{}", scene.log());
            assert_eq!(scene.metric("orders", "fallback_failed.route"), 1);
            assert_eq!(scene.metric("orders", "misassembled.route"), 0, "the route did choose");
        }
    }
}

#[test]
fn without_another_entry_it_is_the_plain_rejection() {
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY]))]);
    let (state, _) = scene.begin(&[]);
    let effect = scene.answer(state, ("standby", "503", "cluster_not_found"));
    assert_eq!(effect, RequestEffect::Continue, "in place: it has no body");
    let header = |name| scene.host.text(Headers::Response, name);
    assert_eq!(header("x-holdfast-reject").as_deref(), Some("open; policy=orders"));
    assert!(header("retry-after").is_some());
}

#[test]
fn a_host_that_fails_there_is_the_other_clusters_matter() {
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, NOBODY]))]);
    let (state, _) = scene.begin(&[]);
    assert_eq!(scene.answer(state, ("standby", "500", "via_upstream")), RequestEffect::Continue);
    assert_eq!(scene.says().as_deref(), Some("route; reason=open; policy=orders; cluster=standby"));
}

#[test]
fn clusters_are_asked_in_turn() {
    let spare = r#"{"on":["open"],"route":{"cluster":"spare"}}"#;
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, spare, NOBODY])), ("standby", OPEN.to_owned())]);
    let (state, effect) = scene.begin(&[]);
    assert_eq!((effect, scene.sent_to().as_deref()), (RequestEffect::Continue, Some("spare")));
    assert_eq!(
        scene.log(),
        "policy=orders; key=cluster=orders; decision=fallback; reason=open; kind=route; cluster=spare; failed=route:rejected"
    );
    assert_eq!(scene.answer(state, ("spare", "200", "via_upstream")), RequestEffect::Continue);
    assert_eq!(scene.says().as_deref(), Some("route; reason=open; policy=orders; cluster=spare"));
}

#[test]
fn clusters_that_fall_back_to_each_other_come_to_an_end() {
    let back = r#"{"on":["open"],"route":{"cluster":"orders"}}"#;
    for (there, says) in [
        (fallback(&[back]), "static; reason=open; policy=orders"),
        (fallback(&[back, NOBODY]), "static; reason=open; policy=standby"),
    ] {
        let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, NOBODY])), ("standby", there)]);
        let local = replied(scene.begin(&[]).1);
        assert_eq!(header(&local, "x-holdfast-fallback").as_deref(), Some(says));
        assert_eq!(scene.metric("standby", "fallback_failed.route"), 1);
    }
}

#[test]
fn a_route_that_does_not_choose_is_said_once_and_left_alone_for_a_while() {
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, NOBODY]))]);
    for round in 0..3 {
        let (state, effect) = scene.begin(&[]);
        assert_eq!(effect, RequestEffect::Continue, "{round}");
        assert_eq!(scene.answer(state, ("orders", "200", "via_upstream")), RequestEffect::Continue);
        assert_eq!(scene.says(), None, "it is its own cluster's answer");
        assert_eq!(scene.metric("orders", "misassembled.route"), 1);
        for _ in 0..5 {
            let local = replied(scene.begin(&[]).1);
            assert_eq!(local.reply.body, b"nobody");
            assert!(scene.log().ends_with("; failed=route:not_routed"), "{}", scene.log());
        }
        scene.wait(Duration::from_secs(10));
    }
    let lines = scene.host.take_lines();
    let said = lines.iter().filter(|line| line.contains("a fallback's route to standby does nothing")).count();
    assert_eq!(said, 1, "{lines:?}");
    assert_eq!((scene.metric("orders", "fallback.route"), scene.metric("orders", "fallback_failed.route")), (3, 18));
    let (state, _) = scene.begin(&[]);
    let _ = scene.answer(state, ("standby", "200", "via_upstream"));
    assert_eq!(scene.metric("orders", "misassembled.route"), 0);
}

#[test]
fn where_another_filter_holds_the_name_the_next_entry_serves() {
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, NOBODY]))]);
    scene.host.refuse_properties();
    assert_eq!(replied(scene.begin(&[]).1).reply.body, b"nobody");
    assert_eq!(scene.host.take_routed_anew(), 0);
}

#[test]
fn a_policy_in_shadow_only_counts() {
    let features = format!(r#""mode":"shadow","breaker":{{"consecutive_failures":1}},"fallback":[{STANDBY}]"#);
    let mut scene = Scene::new(&[("orders", features)]);
    for _ in 0..2 {
        let (state, effect) = scene.begin(&[]);
        assert_eq!((effect, scene.sent_to()), (RequestEffect::Continue, None));
        let _ = scene.answer(state, ("orders", "503", "via_upstream"));
        assert_eq!(scene.says(), None);
    }
    assert_eq!((scene.metric("orders", "would_fallback.route"), scene.host.take_routed_anew()), (1, 0));
}

#[test]
fn a_grpc_call_that_finds_nobody_gets_a_grpc_answer() {
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, NOBODY]))]);
    let (state, _) = scene.begin(&[("content-type", "application/grpc")]);
    let effect = scene.answer(state, ("standby", "503", "cluster_not_found"));
    assert_eq!(effect, RequestEffect::Continue, "in place: headers are all there is");
    assert_eq!(scene.host.text(Headers::Response, "grpc-status").as_deref(), Some("14"));
    assert_eq!(scene.says().as_deref(), Some("static; reason=open; policy=orders"));
}

#[test]
fn a_client_that_leaves_on_the_way_leaves_nothing_behind() {
    let there = r#""concurrency":{"max_requests":1}"#.to_owned();
    let mut scene = Scene::new(&[("orders", fallback(&[STANDBY, NOBODY])), ("standby", there)]);
    for _ in 0..3 {
        let (state, effect) = scene.begin(&[]);
        assert_eq!(effect, RequestEffect::Continue, "its place was given back");
        state.on_end(&scene.plugin, &mut scene.store, &*scene.host);
    }
}
