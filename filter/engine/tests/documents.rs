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
        let root: Rc<dyn RootHost> = Rc::clone(&self.host) as Rc<dyn RootHost>;
        let text = format!(r#"{{"policies":[{{"name":"orders","scope":[],"breaker":{breaker}}}]}}"#);
        let configuration = Configuration::read(text.as_bytes()).unwrap();
        RequestPlugin::new(&root, Rc::clone(&self.vm), configuration)
    }

    fn serve(&mut self, plugin: &RequestPlugin) {
        self.host.clear_stream();
        self.host.put_headers(Headers::Request, &[(":method", "GET"), (":path", "/")]);
        let (state, _) = RequestState::on_request_headers(plugin, &mut self.store, &*self.host, true);
        state.on_end(plugin, &mut self.store, &*self.host);
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
