//! What the stories about updates have in common: a document that changes piece by piece, and the ways in which it comes.

use holdfast_host_tests::{Host, Pending, Response};
use serde_json::{Value, json};

/// A document with one policy, and perhaps one before it that governs nothing of what the stories send.
#[derive(Debug, Clone)]
pub struct Document {
    policy: Value,
    is_second: bool,
}

impl Document {
    /// The policy `orders`, which has one state for everything, with these features.
    pub fn new(features: &str) -> Self {
        let text = format!(r#"{{"name":"orders","scope":[],{features}}}"#);
        Document { policy: serde_json::from_str(&text).expect("features are JSON"), is_second: false }
    }

    /// With another value at a place like `breaker.open_for`.
    pub fn set(&self, place: &str, value: Value) -> Self {
        let mut changed = self.clone();
        let pointer = format!("/{}", place.replace('.', "/"));
        match (changed.policy.pointer_mut(&pointer), place.rsplit_once('.')) {
            (Some(there), _) => *there = value,
            (None, None) => changed.policy[place] = value,
            (None, Some((parent, key))) => {
                let parent = parent.replace('.', "/");
                changed.policy.pointer_mut(&format!("/{parent}")).expect("the block is there")[key] = value;
            }
        }
        changed
    }

    /// Without a feature.
    pub fn without(&self, feature: &str) -> Self {
        let mut changed = self.clone();
        let keys = changed.policy.as_object_mut().expect("a policy is an object");
        assert!(keys.remove(feature).is_some(), "{feature} is there");
        changed
    }

    /// Behind another policy.
    pub fn second(&self) -> Self {
        Document { is_second: true, ..self.clone() }
    }

    /// The document as it is sent.
    pub fn text(&self) -> String {
        let before = json!({"name": "carts", "match": {"cluster": ["carts"]}, "breaker": {}});
        let policies: Vec<&Value> = self.is_second.then_some(&before).into_iter().chain([&self.policy]).collect();
        json!({ "policies": policies }).to_string()
    }
}

/// How a document comes to the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All have it at once, and the one before goes with its last request, as with ECDS.
    AtOnce,
    /// With a new listener, while the old one goes on with the document before.
    Drain,
    /// One worker after the other has it.
    InTurn,
}

impl Way {
    pub const ALL: [Way; 3] = [Way::AtOnce, Way::Drain, Way::InTurn];

    /// Gives the first listener this document.
    #[track_caller]
    pub fn update(self, host: &Host, document: &Document) {
        let text = document.text();
        match self {
            Way::AtOnce => host.update(&text).expect("it is a good document"),
            Way::Drain => drop(host.drain(&text).expect("it is a good document")),
            Way::InTurn => {
                host.update_main(&text).expect("it is a good document");
                (0..host.workers()).rev().for_each(|worker| host.reach(worker));
            }
        }
    }
}

/// A change of a document, and what it is called.
pub type Change = (&'static str, Document);

/// Changes of a document with all features that leave its breaker alone.
pub fn beside_the_breaker(of: &Document) -> Vec<Change> {
    vec![
        (
            "the text of a fallback",
            of.set("fallback", json!([{"on": ["open"], "respond": {"status": 503, "body": "new"}}])),
        ),
        ("no fallback", of.without("fallback")),
        ("max_retries", of.set("retry.max_retries", json!(2))),
        ("no retry", of.without("retry")),
        ("max_requests", of.set("concurrency.max_requests", json!(900))),
        ("no concurrency", of.without("concurrency")),
        ("throttle", of.set("throttle.min_rps", json!(900))),
        ("no throttle", of.without("throttle")),
        ("outlier", of.set("outlier.consecutive_failures", json!(50))),
        ("no outlier", of.without("outlier")),
        ("match", of.set("match", json!({"path": ["/**"]}))),
        ("another policy before it", of.second()),
        ("another spelling", of.set("breaker.open_for", json!("30000ms"))),
    ]
}

/// Changes of its breaker that leave alone how long it is open, how it probes and how it ramps.
pub fn of_the_breaker(of: &Document) -> Vec<Change> {
    vec![
        ("open_for", of.set("breaker.open_for", json!("40s"))),
        ("window", of.set("breaker.window", json!("20s"))),
        ("failure_rate", of.set("breaker.failure_rate", json!(60))),
        ("min_requests", of.set("breaker.min_requests", json!(30))),
        ("consecutive_failures", of.set("breaker.consecutive_failures", json!(4))),
        ("open_growth", of.set("breaker.open_growth", json!(3))),
        ("open_max", of.set("breaker.open_max", json!("10m"))),
        ("open_jitter", of.set("breaker.open_jitter", json!(5))),
        ("honor_retry_after", of.set("breaker.honor_retry_after", json!(false))),
        ("outcome", of.set("outcome", json!({"ignore": {"status": [404]}}))),
    ]
}

/// A document in which every feature has its block, and only the breaker acts in what the stories send.
pub fn with_everything(breaker: &str) -> Document {
    Document::new(&format!(
        r#"{breaker},"concurrency":{{"max_requests":1000}},"throttle":{{"min_rps":1000}},
            "retry":{{"max_retries":1}},"outlier":{{"consecutive_failures":100}},
            "fallback":[{{"on":["open"],"respond":{{"status":503,"body":"old"}}}}]"#
    ))
}

/// What passes when every worker is asked `rounds` times in turn, which the hosts have from then on.
pub fn all_that_pass(host: &Host, rounds: usize) -> Vec<Pending> {
    let all = (0..rounds).flat_map(|_| 0..host.workers()).map(|worker| host.get(worker));
    all.filter(|one| one.has_passed()).map(|one| one.passed()).collect()
}

/// The hosts answer all of these.
pub fn answer(requests: impl IntoIterator<Item = Pending>, status: u16) {
    requests.into_iter().for_each(|request| drop(request.respond(Response::status(status))));
}
