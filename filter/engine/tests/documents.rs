//! Several documents in one VM: which of them is the newest of a policy's name.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::host::{Headers, RootHost};
use holdfast_engine::memory_host::MemoryHost;
use holdfast_engine::request::{Configuration, RequestPlugin, RequestState, RequestVm};
use holdfast_engine::store::memory::MemoryStore;

const START: Timestamp = Timestamp::from_secs(1_700_000_000);

/// One VM and what it is told.
struct Scene {
    host: Rc<MemoryHost>,
    store: MemoryStore,
    vm: Rc<RequestVm>,
}

impl Scene {
    fn new() -> Self {
        let host = Rc::new(MemoryHost::at(START));
        Scene { host, store: MemoryStore::default(), vm: Rc::new(RequestVm::new(1)) }
    }

    fn document(&self, breaker: &str) -> RequestPlugin {
        self.policy(&format!(r#""breaker":{breaker}"#))
    }

    /// One policy, `orders`, that has these blocks.
    fn policy(&self, blocks: &str) -> RequestPlugin {
        let root: Rc<dyn RootHost> = Rc::clone(&self.host) as Rc<dyn RootHost>;
        let text = format!(r#"{{"policies":[{{"name":"orders","scope":[],{blocks}}}]}}"#);
        let configuration = Configuration::read(text.as_bytes()).unwrap();
        RequestPlugin::new(&root, Rc::clone(&self.vm), configuration)
    }

    fn serve(&mut self, plugin: &RequestPlugin) {
        self.host.clear_stream();
        self.host.put_headers(Headers::Request, &[(":method", "GET"), (":path", "/")]);
        let (state, _) = RequestState::on_request_headers(plugin, &mut self.store, &*self.host, true);
        state.on_end(plugin, &mut self.store, &*self.host);
    }

    /// Serves a request that is answered so.
    fn answer(&mut self, plugin: &RequestPlugin, status: &str) {
        self.host.clear_stream();
        self.host.put_headers(Headers::Request, &[(":method", "GET"), (":path", "/")]);
        let (state, _) = RequestState::on_request_headers(plugin, &mut self.store, &*self.host, true);
        self.host.put_property("response\0code_details", Some(b"via_upstream"));
        self.host.put_headers(Headers::Response, &[(":status", status)]);
        let (state, _) = state.on_response_headers(plugin, &mut self.store, &*self.host, 1, true);
        state.on_end(plugin, &mut self.store, &*self.host);
    }

    /// The gauge of the breaker under this name.
    fn breaker(&self, name: &str) -> u64 {
        self.host.metric(&format!("policy=.={name};.;key=.=all;.;breaker_state"))
    }

    fn tick(&mut self, plugin: &RequestPlugin, millis: u64) {
        self.host.set_now(START.plus(Duration::from_millis(millis)));
        plugin.on_tick(&mut self.store, &mut |_, _| None);
    }

    /// How many live contents of the name are newer, as the plugin's policy knows; `None` if it was not entered.
    fn rank(&self, plugin: &RequestPlugin) -> Option<usize> {
        plugin.policies[0].state.borrow().standing().map(|standing| standing.rank)
    }
}

#[test]
fn a_document_that_was_only_validated_is_not_there_and_is_the_newest_when_it_first_serves() {
    let mut scene = Scene::new();
    let old = scene.document(r#"{"open_for":"5s"}"#);
    scene.serve(&old);
    let new = scene.document(r#"{"open_for":"6s"}"#);
    // Nothing tells which of the two ticks first.
    for second in 1..=10 {
        scene.tick(&old, second * 1000);
    }
    assert_eq!((scene.rank(&old), scene.rank(&new)), (Some(0), None));
    scene.serve(&new);
    assert_eq!((scene.rank(&old), scene.rank(&new)), (Some(1), Some(0)));
}

#[test]
fn a_breaker_that_documents_share_is_told_in_the_metrics_of_each_whoever_found_it_so() {
    let mut scene = Scene::new();
    let breaker = r#""breaker":{"min_requests":2,"open_for":"10s","half_open":{"probes":1}}"#;
    let old = scene.policy(breaker);
    let new = scene.policy(&format!(r#"{breaker},"fallback":[{{"on":["open"],"respond":{{"status":503}}}}]"#));
    scene.answer(&old, "200");
    scene.answer(&new, "200");
    let tick = |scene: &mut Scene, millis| [&old, &new].into_iter().for_each(|plugin| scene.tick(plugin, millis));
    let told = |scene: &Scene| [scene.breaker("orders"), scene.breaker("orders~2")];

    tick(&mut scene, 1000);
    assert_eq!(told(&scene), [0, 0]);
    for _ in 0..3 {
        scene.answer(&old, "500");
    }
    tick(&mut scene, 2000);
    assert_eq!(told(&scene), [2, 2], "the second has had no request since it opened");
    // A request of the second finds it half-open and closes it; the first has none.
    scene.tick(&old, 15_000);
    scene.answer(&new, "200");
    tick(&mut scene, 16_000);
    assert_eq!(told(&scene), [0, 0]);
    // It opens and closes between two ticks.
    for _ in 0..3 {
        scene.answer(&new, "500");
    }
    scene.host.set_now(START.plus(Duration::from_millis(30_000)));
    scene.answer(&old, "200");
    tick(&mut scene, 30_001);
    assert_eq!(told(&scene), [0, 0]);
}

#[test]
fn a_breaker_that_was_set_by_hand_is_told_in_the_metrics_of_each_document_that_shares_it() {
    let mut scene = Scene::new();
    let breaker = r#""breaker":{"state":"forced_closed"}"#;
    let old = scene.policy(breaker);
    let new = scene.policy(&format!(r#"{breaker},"fallback":[{{"on":["open"],"respond":{{"status":503}}}}]"#));
    scene.answer(&old, "200");
    scene.answer(&new, "200");
    scene.tick(&old, 2000);
    scene.tick(&new, 2000);
    assert_eq!([scene.breaker("orders"), scene.breaker("orders~2")], [5, 5]);
}
