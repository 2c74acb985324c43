//! Several workers on one store, as timelines. `t` is milliseconds since a start.

use super::*;
use crate::base::time::Timestamp;
use crate::breaker::StateName;
use crate::breaker::slot::{BreakerSlot, Shape};
use crate::cx::Cx;
use crate::event::Event;
use crate::http::outcome::Outcome;
use crate::http::outcome::Verdict;
use crate::http::request::Field;
use crate::metric::Metric;
use crate::store::Store;
use crate::store::block::BlockKind;
use crate::store::keys::Key;
use crate::store::memory::MemoryStore;
use crate::store::slot::Slots;
use crate::store::worker::Worker;
use crate::store::workers;
use core::time::Duration;
use holdfast_policy::config;
use holdfast_policy::document::Policy;
use holdfast_policy::document::Reason;
use std::borrow::Cow;
use std::sync::Arc;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SUCCESS: Outcome = Outcome { verdict: Verdict::Success, slow: false, retry_after: None };
const FAILURE: Outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };

fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn policy(features: &str) -> Arc<Policy> {
    let text = format!(r#"{{"policies":[{{"name":"orders",{features}}}]}}"#);
    match config::parse(text.as_bytes()) {
        Ok(mut document) => document.policies.remove(0).into(),
        Err(errors) => panic!("{errors}"),
    }
}

/// The state that a line of the log says the breaker has moved to.
fn moved_to(text: &str) -> Option<StateName> {
    let states = [StateName::Closed, StateName::Open, StateName::HalfOpen, StateName::Ramping];
    states.into_iter().find(|state| text.contains(&format!(" -> {state}: ")))
}

/// One worker with one policy.
struct Thread {
    worker: Worker,
    request_policy: RequestPolicy,
    store: MemoryStore,
    events: Vec<Event>,
}

impl Thread {
    fn new(store: &MemoryStore, policy: &Arc<Policy>, seed: u64) -> Self {
        let mut store = store.clone();
        Thread {
            worker: Worker::new(seed),
            request_policy: RequestPolicy::entered(Arc::clone(policy), &mut store, t(0)),
            store,
            events: Vec::new(),
        }
    }

    fn admit(&mut self, now: Timestamp) -> Decision {
        let key = self.request_policy.key(&mut self.worker, &mut self.store, now, |_| Some(Cow::Borrowed(b"orders")));
        self.request_policy.admit(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events), key)
    }

    fn report(&mut self, ticket: Ticket, outcome: &Outcome, now: Timestamp) {
        let hold = self.request_policy.report(
            &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events),
            ticket,
            outcome,
        );
        if let Some(hold) = hold {
            self.request_policy.release(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut Vec::new()), hold);
        }
    }

    fn flush(&mut self, now: Timestamp) {
        self.request_policy.flush(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut Vec::new()));
    }

    /// A request from admission to outcome at one moment; whether it was admitted.
    fn request(&mut self, outcome: &Outcome, now: Timestamp) -> bool {
        match self.admit(now) {
            Decision::Admitted(ticket) => {
                self.report(ticket, outcome, now);
                true
            }
            Decision::Rejected(_) => false,
        }
    }

    fn tick(&mut self, now: Timestamp) {
        self.worker.tick(&mut self.store, now);
        self.request_policy.tick(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut Vec::new()));
    }

    fn count(&self, metric: Metric) -> usize {
        self.events.iter().filter(|event| **event == Event::Count(metric)).count()
    }

    fn moves(&self) -> Vec<StateName> {
        let to = |event: &Event| match event {
            Event::Log { text, .. } => moved_to(text),
            _ => None,
        };
        self.events.iter().filter_map(to).collect()
    }
}

fn threads(count: u64, features: &str) -> (MemoryStore, Vec<Thread>) {
    let (store, policy) = (MemoryStore::default(), policy(features));
    let threads = (0..count).map(|seed| Thread::new(&store, &policy, seed)).collect();
    (store, threads)
}

const BREAKER: &str = r#""breaker":{"open_for":"10s","open_jitter":0}"#;

#[test]
fn the_threshold_is_over_all_workers_and_the_one_that_reaches_it_opens() {
    let (_, mut threads) = threads(4, BREAKER);
    for n in 0..19 {
        assert!(threads[n % 4].request(&FAILURE, t(n as u64)), "request {n}");
    }
    assert!(threads[3].request(&FAILURE, t(19)), "the twentieth still passes, and opens");
    assert_eq!(threads[3].moves(), [StateName::Open]);
    for thread in &mut threads {
        assert!(!thread.request(&SUCCESS, t(20)), "every worker rejects its next request");
    }
    assert_eq!(threads.iter().map(|thread| thread.moves().len()).sum::<usize>(), 1, "it was one transition");
    assert_eq!(threads.iter().map(|thread| thread.count(Metric::OpenedFailureRate)).sum::<usize>(), 1);
}

#[test]
fn a_success_that_completes_the_volume_opens_too() {
    let (_, mut threads) = threads(2, BREAKER);
    for n in 0..10 {
        threads[0].request(&FAILURE, t(n));
    }
    for n in 0..9 {
        threads[1].request(&SUCCESS, t(10 + n));
    }
    assert!(threads[0].moves().is_empty() && threads[1].moves().is_empty(), "19 are below min_requests");
    threads[1].request(&SUCCESS, t(20));
    assert_eq!(threads[1].moves(), [StateName::Open], "10 of 20 are 50%");
}

#[test]
fn old_failures_do_not_open_it() {
    let (_, mut threads) = threads(2, BREAKER);
    for n in 0..19 {
        threads[n % 2].request(&FAILURE, t(0));
    }
    assert!(threads[0].request(&FAILURE, t(10_000)), "the others have left the window of 10 s");
    assert!(threads[1].moves().is_empty() && threads[0].moves().is_empty());
}

#[test]
fn half_open_lets_exactly_its_probes_pass_over_all_workers() {
    let (_, mut threads) = threads(4, BREAKER);
    for n in 0..20 {
        threads[n % 4].request(&FAILURE, t(0));
    }
    let mut tickets = Vec::new();
    for n in 0..50 {
        if let Decision::Admitted(ticket) = threads[n % 4].admit(t(10_000)) {
            assert!(ticket.is_probe());
            tickets.push((n % 4, ticket));
        }
    }
    assert_eq!(tickets.len(), 5);
    for (n, ticket) in tickets {
        threads[n].report(ticket, &SUCCESS, t(10_010));
    }
    for thread in &mut threads {
        assert!(thread.request(&SUCCESS, t(10_020)), "it is closed for every worker");
    }
}

#[test]
fn after_closing_the_failures_from_before_are_forgotten() {
    let (_, mut threads) = threads(2, r#""breaker":{"open_for":"1s","open_jitter":0,"half_open":{"probes":1}}"#);
    for n in 0..20 {
        threads[n % 2].request(&FAILURE, t(0));
    }
    assert!(threads[0].request(&SUCCESS, t(1000)), "the probe");
    for n in 0..19 {
        assert!(threads[n % 2].request(&FAILURE, t(1001)), "19 are below min_requests again");
    }
    threads[0].request(&FAILURE, t(1002));
    assert!(!threads[1].request(&SUCCESS, t(1003)));
}

#[test]
fn late_answers_from_before_the_opening_are_no_probes_and_do_not_judge() {
    let (_, mut threads) = threads(2, BREAKER);
    let late: Vec<_> = (0..30).map(|_| threads[0].admit(t(0))).collect();
    for n in 0..20 {
        threads[n % 2].request(&FAILURE, t(1));
    }
    let Decision::Admitted(probe) = threads[1].admit(t(10_001)) else { panic!("half-open admits a probe") };
    for decision in late {
        let Decision::Admitted(ticket) = decision else { panic!("it was closed") };
        threads[0].report(ticket, &FAILURE, t(10_002));
    }
    assert_eq!(threads[1].moves(), [StateName::Open, StateName::HalfOpen]);
    assert!(threads[0].moves().is_empty());
    threads[1].report(probe, &SUCCESS, t(10_003));
    assert_eq!(threads[1].count(Metric::OpenedFailureRate), 1);
}

#[test]
fn the_healthy_path_reads_nothing_shared() {
    let (store, mut threads) = threads(2, BREAKER);
    for n in 0..30 {
        threads[n % 2].request(&SUCCESS, t(0));
    }
    for n in 0..30 {
        threads[n % 2].request(&SUCCESS, t(1));
    }
    let (reads, writes) = (store.reads(), store.writes());
    for n in 0..100 {
        threads[n as usize % 2].request(&SUCCESS, t(2 + n));
    }
    assert_eq!(store.reads() - reads, 0);
    let writes = store.writes() - writes;
    assert!((18..=20).contains(&writes), "each of the two workers writes its own slot every 10 ms: {writes}");
}

/// The breaker's slots of the policy's one key.
fn slots(thread: &Thread) -> Slots<BreakerSlot> {
    let place = thread.request_policy.place(BlockKind::Breaker, Key::ALL).unwrap();
    place.slots(Shape::of(thread.request_policy.policy().breaker.as_ref().unwrap()))
}

/// What the store has of a worker's place.
fn slot_bytes(thread: &mut Thread, number: u16) -> Option<Vec<u8>> {
    let name = slots(thread).name(number);
    thread.store.get(&name).map(|(bytes, _)| bytes)
}

/// How many outcomes of the policy's one key the store has, of all workers.
fn written(threads: &mut [Thread], now: Timestamp) -> u32 {
    let (count, thread) = (threads.len() as u16, &mut threads[0]);
    let slots = slots(thread);
    let written = (0..count).filter_map(|number| slots.read(&mut thread.store, &slots.name(number)));
    written.map(|slot| slot.own_total(slots.shape(), now)).sum()
}

#[test]
fn outcomes_that_decide_nothing_wait_10_ms_at_most_and_failures_do_not() {
    let (_, mut threads) = threads(2, BREAKER);
    for n in 0..40 {
        threads[n % 2].request(&SUCCESS, t(0));
    }
    assert_eq!(written(&mut threads, t(0)), 40, "below min_requests any may decide");
    assert!(!threads[0].request_policy.has_unwritten());
    for n in 1..10 {
        threads[0].request(&SUCCESS, t(n));
    }
    assert_eq!(written(&mut threads, t(9)), 40);
    assert!(threads[0].request_policy.has_unwritten());
    threads[0].flush(t(9));
    assert_eq!(written(&mut threads, t(9)), 49);
    assert!(!threads[0].request_policy.has_unwritten());
    threads[0].request(&SUCCESS, t(18));
    assert_eq!(written(&mut threads, t(18)), 49, "since it was written");
    threads[0].request(&SUCCESS, t(19));
    assert_eq!(written(&mut threads, t(19)), 51, "without a tick the next one writes what waited");
    threads[0].request(&SUCCESS, t(20));
    threads[0].request(&FAILURE, t(21));
    assert_eq!(written(&mut threads, t(21)), 53, "a failure is written at once, with what waited");
    assert_eq!(
        threads[0].request_policy.blocks.as_ref().unwrap().breaker.as_ref().unwrap().borrow().unwritten.len(),
        1,
        "whatever was written at once between what waits, it is listed once"
    );
    let writes = threads[0].store.writes();
    threads[0].flush(t(22));
    assert_eq!(threads[0].store.writes(), writes, "nothing waits any more");
}

#[test]
fn outcomes_do_not_wait_for_a_clock_that_was_put_back() {
    let (_, mut threads) = threads(1, BREAKER);
    for _ in 0..30 {
        threads[0].request(&SUCCESS, t(60_000));
    }
    assert!(threads[0].request_policy.has_unwritten());
    threads[0].flush(t(60_001));
    for _ in 0..20 {
        threads[0].request(&SUCCESS, t(0));
    }
    assert!(
        !threads[0].request_policy.has_unwritten(),
        "the window begins anew, and below min_requests any may decide"
    );
    threads[0].request(&SUCCESS, t(5));
    assert!(threads[0].request_policy.has_unwritten(), "and then they wait again");
}

#[test]
fn where_failures_in_a_row_count_a_success_is_written_at_once() {
    let (_, mut threads) = threads(2, r#""breaker":{"consecutive_failures":3,"failure_rate":0}"#);
    for n in 0..50 {
        threads[n % 2].request(&SUCCESS, t(0));
    }
    for _ in 0..20 {
        assert!(threads[0].request(&FAILURE, t(1)));
        assert!(threads[0].request(&FAILURE, t(2)));
        assert!(threads[1].request(&SUCCESS, t(3)), "it ends the run for every worker");
    }
}

#[test]
fn a_worker_that_lost_its_place_leaves_the_slot_to_the_next() {
    let (_, mut threads) = threads(2, BREAKER);
    for _ in 0..30 {
        threads[0].request(&SUCCESS, t(0));
    }
    assert!(threads[0].request_policy.has_unwritten());
    let lost = t(0).plus(workers::LEASE).plus(Duration::from_secs(1));
    threads[1].request(&SUCCESS, lost);
    let before = slot_bytes(&mut threads[0], 0);
    assert!(before.is_some());
    assert_eq!(threads[1].worker.held().unwrap().number, 0, "the place went to the other worker");
    threads[0].flush(lost);
    assert_eq!(slot_bytes(&mut threads[0], 0), before);
    assert!(!threads[0].request_policy.has_unwritten());
}

#[test]
fn where_time_does_not_matter_a_closed_breaker_admits_without_a_clock_as_it_would_with_one() {
    let (_, mut threads) = threads(2, BREAKER);
    let unhurried = |thread: &mut Thread, now| {
        let key =
            thread.request_policy.key(&mut thread.worker, &mut thread.store, now, |_| Some(Cow::Borrowed(b"orders")));
        thread.request_policy.admit_recently(&mut thread.store, key, now, &mut thread.events)
    };
    assert!(threads[0].request_policy.is_untimed());
    assert_eq!(unhurried(&mut threads[0], t(0)), None, "it has not looked yet");
    threads[0].request(&SUCCESS, t(0));
    let Decision::Admitted(slow) = threads[0].admit(t(500)) else { panic!("closed") };
    assert_eq!(unhurried(&mut threads[0], t(500)), Some(slow));
    assert_eq!(threads[0].count(Metric::Requests), 3, "both are counted");
    assert_eq!(unhurried(&mut threads[0], t(1500)), None, "its view has grown old");
    for _ in 0..20 {
        threads[1].request(&FAILURE, t(600));
    }
    assert_eq!(unhurried(&mut threads[0], t(600)), None, "the signal has moved");
    assert!(!threads[0].request(&SUCCESS, t(600)));
    assert_eq!(unhurried(&mut threads[0], t(600)), None, "it knows that the breaker is open");
}

#[test]
fn where_time_matters_or_there_is_no_signal_the_clock_is_looked_at() {
    for features in [
        r#""breaker":{"slow_rate":50},"outcome":{"slow_after":"1s"}"#,
        r#""breaker":{},"concurrency":{"max_requests":5}"#,
        r#""breaker":{},"throttle":{}"#,
        r#""breaker":{},"retry":{}"#,
        r#""breaker":{},"outlier":{}"#,
    ] {
        assert!(!RequestPolicy::new(policy(features)).is_untimed(), "{features}");
    }
    let policy = policy(BREAKER);
    let mut thread = Thread::new(&MemoryStore::unsignalled(), &policy, 1);
    thread.request(&SUCCESS, t(0));
    let key =
        thread.request_policy.key(&mut thread.worker, &mut thread.store, t(0), |_| Some(Cow::Borrowed(b"orders")));
    assert_eq!(thread.request_policy.admit_recently(&mut thread.store, key, t(0), &mut thread.events), None);
}

/// A policy by tenant with so few keys.
fn by_tenant(most: u16, features: &str) -> Arc<Policy> {
    policy(&format!(r#""scope":[{{"header":"x-tenant"}}],"max_keys":{most},{features}"#))
}

impl Thread {
    fn key_of(&mut self, tenant: &str, now: Timestamp) -> Key {
        let value = |_: Field<'_>| Some(Cow::Owned(tenant.as_bytes().to_vec()));
        self.request_policy.key(&mut self.worker, &mut self.store, now, value)
    }

    /// A tenant's request from admission to outcome; whether it was admitted.
    fn tenant(&mut self, tenant: &str, outcome: &Outcome, now: Timestamp) -> bool {
        let key = self.key_of(tenant, now);
        match self.request_policy.admit(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events), key) {
            Decision::Admitted(ticket) => {
                self.report(ticket, outcome, now);
                true
            }
            Decision::Rejected(_) => false,
        }
    }

    fn text_of(&mut self, tenant: &str, now: Timestamp) -> String {
        let key = self.key_of(tenant, now);
        self.request_policy.key_text(key).to_owned()
    }
}

#[test]
fn a_key_is_the_same_whatever_the_request_before_had() {
    let mut thread = Thread::new(&MemoryStore::default(), &by_tenant(3, r#""breaker":{}"#), 1);
    let places = ["a", "a", "b", "a", "b", "b", "", "", "a", ""].map(|value| thread.key_of(value, t(0)).occupant.index);
    assert_eq!(places, [0, 0, 1, 0, 1, 1, 2, 2, 0, 2]);
    // Values too long to be kept are found all the same.
    let mut thread = Thread::new(&MemoryStore::default(), &by_tenant(3, r#""breaker":{}"#), 1);
    let long = "x".repeat(crate::store::keys::LONGEST_JOINED + 1);
    let places = [&long, "a", &long].map(|value| thread.key_of(value, t(0)).occupant.index);
    assert_eq!(places, [0, 1, 0]);
}

#[test]
fn after_many_values_that_were_seen_once_a_tenant_that_fails_and_one_that_is_well_have_states_of_their_own() {
    let store = MemoryStore::default();
    let policy = by_tenant(256, BREAKER);
    let mut threads = [1, 2].map(|seed| Thread::new(&store, &policy, seed));
    for n in 0..300 {
        assert!(threads[n % 2].tenant(&format!("stray-{n}"), &SUCCESS, t(0)));
    }
    for n in 0..30 {
        threads[n % 2].tenant("failing", &FAILURE, t(1));
        assert!(threads[n % 2].tenant("well", &SUCCESS, t(1)), "request {n}");
    }
    assert!(!threads[0].tenant("failing", &SUCCESS, t(2)) && !threads[1].tenant("failing", &SUCCESS, t(2)));
}

#[test]
fn values_that_rotate_take_nothing_from_a_busy_tenant_nor_from_one_that_is_cut_off() {
    let store = MemoryStore::default();
    let policy = by_tenant(8, BREAKER);
    let mut threads = [1, 2].map(|seed| Thread::new(&store, &policy, seed));
    for n in 0..40 {
        threads[n % 2].tenant("open", &FAILURE, t(0));
        threads[n % 2].tenant("busy", &SUCCESS, t(0));
    }
    let (open, busy) = (threads[0].key_of("open", t(0)), threads[0].key_of("busy", t(0)));
    // Five seconds in which each request brings a new value, and none is from those two but one a second.
    for n in 0..5000 {
        let now = t(1 + n);
        threads[n as usize % 2].tenant(&format!("stray-{n}"), &SUCCESS, now);
        if n % 1000 == 0 {
            threads[1].tenant("busy", &SUCCESS, now);
            threads.iter_mut().for_each(|thread| thread.tick(now));
        }
    }
    for thread in &mut threads {
        assert_eq!([thread.key_of("open", t(5001)), thread.key_of("busy", t(5001))], [open, busy]);
        assert!(!thread.tenant("open", &SUCCESS, t(5001)), "its breaker is still open");
    }
}

#[test]
fn where_every_place_is_worth_keeping_a_new_key_shares_the_overflow_key_for_a_moment() {
    let store = MemoryStore::default();
    let policy = by_tenant(2, BREAKER);
    let mut thread = Thread::new(&store, &policy, 1);
    for _ in 0..20 {
        thread.tenant("a", &SUCCESS, t(0));
        thread.tenant("b", &FAILURE, t(0));
    }
    assert_eq!(thread.text_of("c", t(1)), "overflow");
    let reads = store.reads();
    assert_eq!(thread.text_of("d", t(50)), "overflow");
    assert_eq!(store.reads(), reads, "nobody asks again so soon");
    // What a has counted is past; b's breaker is not closed.
    assert_eq!(thread.text_of("c", t(15_000)), "x-tenant=c");
    assert_eq!(thread.text_of("b", t(15_000)), "x-tenant=b");
    assert_eq!(thread.text_of("a", t(15_001)), "x-tenant=a", "and c has made one request");
}

#[test]
fn what_an_earlier_tenant_left_at_a_place_is_not_the_next_ones() {
    let store = MemoryStore::default();
    let policy = by_tenant(1, BREAKER);
    let mut threads = [1, 2].map(|seed| Thread::new(&store, &policy, seed));
    for n in 0..19 {
        threads[n % 2].tenant("first", &FAILURE, t(0));
    }
    // 20 failures would open it.
    let later = t(20_000);
    assert!(threads[0].tenant("second", &FAILURE, later));
    assert_eq!(threads[0].text_of("second", later), "x-tenant=second");
    // The other worker has not heard of it, and changes nothing of the second one's.
    let written = |threads: &mut [Thread; 2]| {
        for _ in 0..25 {
            threads[1].tenant("first", &FAILURE, later);
        }
        threads[0].tenant("second", &SUCCESS, later)
    };
    assert!(written(&mut threads));
    threads.iter_mut().for_each(|thread| thread.tick(t(21_000)));
    assert_eq!(threads[1].text_of("second", t(21_000)), "x-tenant=second");
    for n in 0..20 {
        threads[n % 2].tenant("second", &FAILURE, t(21_000));
    }
    assert!(!threads[0].tenant("second", &SUCCESS, t(21_001)) && !threads[1].tenant("second", &SUCCESS, t(21_001)));
}

#[test]
fn only_so_many_keys_have_metric_series_of_their_own_in_the_life_of_a_process() {
    let store = MemoryStore::default();
    let policy = by_tenant(3, BREAKER);
    let mut threads = [1, 2].map(|seed| Thread::new(&store, &policy, seed));
    let series: std::collections::BTreeSet<String> = (0..1500)
        .map(|n| {
            let thread = &mut threads[n % 2];
            let key = thread.key_of(&format!("t{n}"), t(n as u64 * 100));
            thread.request_policy.with_names(key, |names| names.series_text.to_owned())
        })
        .collect();
    let expected = ["overflow", "x-tenant=t0", "x-tenant=t1", "x-tenant=t2"].map(str::to_owned);
    assert_eq!(series, std::collections::BTreeSet::from(expected));
    for thread in &mut threads {
        let back = thread.key_of("t1", t(200_000));
        assert_eq!(
            thread.request_policy.with_names(back, |names| names.series_text.to_owned()),
            "x-tenant=t1",
            "who comes back has the series it had"
        );
    }
}

impl Thread {
    /// An attempt of a request to this cluster that ended so at this host.
    fn attempts(&mut self, key: Key, cluster: &str, host: &str, outcome: &Outcome, now: Timestamp) {
        let hash = self.request_policy.cluster_hash(key, || Cow::Borrowed(cluster.as_bytes()));
        let end = crate::http::attempt::End::Http(if outcome.failed() { 503 } else { 200 });
        let one = crate::outlier::hosts::HostAttempt {
            host: host.as_bytes(),
            end,
            verdict: outcome.verdict,
            took: Duration::from_millis(1),
            sent: now,
        };
        self.request_policy.judge_host(
            &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events),
            key,
            hash,
            one,
            None,
        );
    }

    /// Where a request to this cluster is sent, and how many hosts are out.
    fn out(&mut self, key: Key, cluster: &str, now: Timestamp) -> usize {
        let hash = self.request_policy.cluster_hash(key, || Cow::Borrowed(cluster.as_bytes()));
        let Decision::Admitted(ticket) = self.admit_key(key, now) else { panic!("no breaker") };
        let sending = Sending { cluster: hash, cluster_name: cluster.as_bytes(), eligibility: None, context: None };
        let sent = self.request_policy.send(
            &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events),
            &ticket,
            sending,
            &crate::outlier::hosts::Asks::NOTHING,
        );
        let _ = self.request_policy.report(
            &mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events),
            ticket,
            &SUCCESS,
        );
        sent.steering.map_or(0, |steering| usize::from(steering.out))
    }

    fn admit_key(&mut self, key: Key, now: Timestamp) -> Decision {
        self.request_policy.admit(&mut Cx::new(&mut self.store, &mut self.worker, now, &mut self.events), key)
    }
}

#[test]
fn any_number_of_clusters_under_one_key_have_their_hosts_judged() {
    let store = MemoryStore::default();
    let policy = policy(r#""scope":[],"outlier":{}"#);
    let mut threads = [1, 2].map(|seed| Thread::new(&store, &policy, seed));
    let clusters: Vec<String> = (0..600).map(|number| format!("cluster-{number}")).collect();
    for cluster in &clusters {
        for (n, thread) in threads.iter_mut().enumerate() {
            assert_eq!(thread.key_of("", t(0)), Key::ALL);
            thread.attempts(Key::ALL, cluster, "10.0.0.1:80", &SUCCESS, t(n as u64));
            thread.attempts(Key::ALL, cluster, "10.0.0.2:80", &SUCCESS, t(n as u64));
        }
    }
    for n in 0..5 {
        for cluster in &clusters {
            threads[n % 2].attempts(Key::ALL, cluster, "10.0.0.1:80", &FAILURE, t(10));
        }
    }
    for thread in &mut threads {
        let out: usize = clusters.iter().map(|cluster| thread.out(Key::ALL, cluster, t(11))).sum();
        assert_eq!(out, 600, "one of two in each");
    }
    let reads = store.reads();
    for cluster in &clusters {
        threads[0].out(Key::ALL, cluster, t(12));
    }
    assert_eq!(store.reads() - reads, 0, "and a request reads nothing while nothing changes");
}

#[test]
fn clusters_that_come_and_go_make_room_for_each_other_and_hosts_that_are_out_stay_out() {
    let store = MemoryStore::default();
    let policy = policy(r#""scope":[],"outlier":{"base_ejection_time":"200s"}"#);
    let mut thread = Thread::new(&store, &policy, 1);
    assert_eq!(thread.key_of("", t(0)), Key::ALL);
    for host in ["10.0.0.1:80", "10.0.0.2:80"] {
        thread.attempts(Key::ALL, "kept", host, &SUCCESS, t(0));
    }
    for _ in 0..5 {
        thread.attempts(Key::ALL, "kept", "10.0.0.1:80", &FAILURE, t(1));
    }
    let most = usize::from(MOST_GROUPS);
    for number in 0..most + 100 {
        let now = t(2 + number as u64 / 10);
        thread.out(Key::ALL, &format!("cluster-{number}"), now);
        if number % 500 == 0 {
            thread.tick(now);
        }
    }
    thread.tick(t(2500));
    let known: usize = thread.request_policy.outlier_block().unwrap().iter().map(|(_, clusters)| clusters.len()).sum();
    assert_eq!(known, most, "no more are kept");
    assert_eq!(thread.out(Key::ALL, "kept", t(2501)), 1);
}

#[test]
fn under_the_overflow_key_hosts_of_different_clusters_are_not_compared_and_seats_are_not_mixed() {
    let store = MemoryStore::default();
    let features = r#""outlier":{"consecutive_failures":{"threshold":3},"max_ejected":50},"retry":{},
        "concurrency":{"max_requests":100}"#;
    let policy = policy(&format!(r#""max_keys":1,{features}"#));
    let mut thread = Thread::new(&store, &policy, 1);
    // A request in flight keeps the only place.
    let Decision::Admitted(_held) = thread.admit(t(0)) else { panic!("the first") };
    let key = thread.key_of("slow", t(1));
    assert_eq!(thread.key_of("fast", t(1)), key);
    assert_eq!(thread.request_policy.key_text(key), "overflow");
    let [slow, fast] =
        ["slow", "fast"].map(|name| thread.request_policy.cluster_hash(key, || Cow::Borrowed(name.as_bytes())));
    assert_ne!(slow, fast);
    // Three hosts of each are known; all three of one fail, and half of them are ejected, whatever the other has.
    for (cluster, net) in [("slow", 1), ("fast", 2)] {
        for host in 1..=3 {
            thread.attempts(key, cluster, &format!("10.0.{net}.{host}:80"), &SUCCESS, t(2));
        }
    }
    for host in 1..=3 {
        for _ in 0..3 {
            thread.attempts(key, "slow", &format!("10.0.1.{host}:80"), &FAILURE, t(3));
        }
    }
    assert_eq!([thread.out(key, "slow", t(4)), thread.out(key, "fast", t(4))], [1, 0]);
    // An attempt seat of one of them says nothing of the other.
    let id = thread.request_policy.group_id(&mut thread.store, key, slow, t(4));
    let mut seat = thread.request_policy.blocks.as_ref().unwrap().seat(key, id).unwrap();
    let presence = crate::seats::presence::Presence { seen: t(4) };
    seat.update(&mut thread.store, |_| ((), Some(presence))).unwrap();
    assert!(thread.request_policy.sees_attempt_seat(&mut thread.store, key, slow, t(5000)));
    assert!(!thread.request_policy.sees_attempt_seat(&mut thread.store, key, fast, t(5000)));
}

#[test]
fn a_full_count_window_reads_nothing_shared_either() {
    let (store, mut threads) = threads(2, r#""breaker":{"window":20,"min_requests":20}"#);
    for n in 0..80 {
        threads[n % 2].request(&SUCCESS, t(0));
    }
    let reads = store.reads();
    for n in 0..100 {
        threads[n % 2].request(&SUCCESS, t(1));
    }
    assert_eq!(store.reads() - reads, 0);
}

#[test]
fn probes_pass_the_throttle_but_those_of_a_shadow_breaker_do_not() {
    let settings = |mode: &str| {
        format!(
            r#""breaker":{{"mode":"{mode}","min_requests":4,"open_for":"1s","open_jitter":0,"half_open":{{"probes":100}}}},
               "throttle":{{"max_rejection":100}}"#
        )
    };
    let rejected = |mode: &str| {
        let (_, mut threads) = threads(1, &settings(mode));
        let mut now = 0;
        while !threads[0].events.iter().any(|event| matches!(event, Event::Log { .. })) {
            threads[0].request(&FAILURE, t(now));
            now += 1;
        }
        let before = threads[0].count(Metric::RejectedThrottled);
        for n in 0..50 {
            let _ = threads[0].admit(t(1001 + now + n));
        }
        threads[0].count(Metric::RejectedThrottled) - before
    };
    assert_eq!(rejected("enforce"), 0, "the fifty requests are probes");
    assert!(rejected("shadow") > 10, "the fifty requests pass the breaker in any case");
}

#[test]
fn without_a_change_signal_a_transition_is_seen_within_10_ms() {
    let (store, policy) = (MemoryStore::unsignalled(), policy(BREAKER));
    let mut threads: Vec<_> = (0..2).map(|seed| Thread::new(&store, &policy, seed)).collect();
    threads[1].request(&SUCCESS, t(0));
    for _ in 0..20 {
        threads[0].request(&FAILURE, t(5));
    }
    assert_eq!(threads[0].moves(), [StateName::Open]);
    assert!(!threads[1].request(&SUCCESS, t(10)), "its view was 10 ms old");
}

#[test]
fn a_worker_that_crashed_is_replaced_and_its_counts_go_on() {
    let (store, mut threads) = threads(1, BREAKER);
    for _ in 0..19 {
        threads[0].request(&FAILURE, t(0));
    }
    let policy = Arc::clone(threads[0].request_policy.policy());
    drop(threads);
    let mut reloaded = Thread::new(&store, &policy, 9);
    assert!(reloaded.request(&FAILURE, t(1000)));
    assert_eq!(reloaded.moves(), [StateName::Open], "the 19 failures of the crashed worker are still in the window");
}

#[test]
fn a_place_is_reused_after_its_lease_and_its_slot_taken_over() {
    let (store, mut threads) = threads(1, r#""breaker":{"window":"60s","open_jitter":0}"#);
    for _ in 0..19 {
        threads[0].request(&FAILURE, t(0));
    }
    let mut reloaded = Thread::new(&store, threads[0].request_policy.policy(), 9);
    let later = t(0).plus(workers::LEASE);
    assert!(reloaded.request(&FAILURE, later));
    assert_eq!(reloaded.worker.held().map(|index| index.number), Some(0), "the place had become free");
    assert_eq!(reloaded.moves(), [StateName::Open], "and its slot held 19 failures");
}

#[test]
fn a_worker_that_ticks_keeps_its_place() {
    let (store, mut threads) = threads(1, BREAKER);
    threads[0].request(&SUCCESS, t(0));
    for second in 1..100 {
        threads[0].tick(t(second * 1000));
    }
    let mut other = Thread::new(&store, threads[0].request_policy.policy(), 9);
    other.request(&SUCCESS, t(100_000));
    assert_eq!(other.worker.held().map(|index| index.number), Some(1));
}

#[test]
fn forced_states_decide_without_looking_at_any() {
    let (store, mut open) = threads(1, r#""breaker":{"state":"forced_open"}"#);
    assert!(!open[0].request(&SUCCESS, t(0)));
    assert!(open[0].events.contains(&Event::Gauge(Metric::BreakerState, StateName::ForcedOpen as u64)));
    let (_, mut closed) = threads(1, r#""breaker":{"state":"forced_closed"}"#);
    for _ in 0..100 {
        assert!(closed[0].request(&FAILURE, t(0)));
    }
    assert_eq!(
        store.writes(),
        5,
        "only the policy's place, the key's, its name, its series, and what follows when it is over"
    );
}

#[test]
fn a_shadow_breaker_counts_and_changes_nothing() {
    let (_, mut threads) = threads(2, r#""breaker":{"mode":"shadow","open_jitter":0}"#);
    for n in 0..20 {
        threads[n % 2].request(&FAILURE, t(0));
    }
    for n in 0..10 {
        assert!(threads[n % 2].request(&FAILURE, t(1)));
    }
    let would = threads.iter().map(|thread| thread.count(Metric::WouldRejectOpen)).sum::<usize>();
    let did = threads.iter().map(|thread| thread.count(Metric::RejectedOpen)).sum::<usize>();
    assert_eq!((would, did), (10, 0));
}

#[test]
fn a_count_window_looks_at_the_last_outcomes_of_all_workers() {
    let (_, mut threads) = threads(2, r#""breaker":{"window":10,"min_requests":10,"open_jitter":0}"#);
    for n in 0..100 {
        threads[n % 2].request(&SUCCESS, t(n as u64));
    }
    for n in 0..4 {
        threads[n % 2].request(&FAILURE, t(100 + n as u64));
    }
    assert!(threads.iter().all(|thread| thread.moves().is_empty()), "4 of the last 10");
    threads[0].request(&FAILURE, t(104));
    assert_eq!(threads[0].moves(), [StateName::Open], "5 of the last 10");
}

#[test]
fn consecutive_failures_are_counted_over_all_workers_and_ended_by_any_success() {
    let (_, mut threads) = threads(2, r#""breaker":{"failure_rate":0,"consecutive_failures":5,"open_jitter":0}"#);
    for n in 0..4 {
        threads[n % 2].request(&FAILURE, t(n as u64));
    }
    threads[1].request(&SUCCESS, t(4));
    for n in 0..4 {
        threads[n % 2].request(&FAILURE, t(5 + n as u64));
    }
    assert!(threads.iter().all(|thread| thread.moves().is_empty()));
    threads[0].request(&FAILURE, t(9));
    assert_eq!(threads[0].moves(), [StateName::Open]);
    assert_eq!(threads[0].count(Metric::OpenedConsecutiveFailures), 1);
}

const LIMIT: &str = r#""concurrency":{"max_requests":3}"#;

#[test]
fn concurrency_is_limited_over_all_workers_and_places_come_back() {
    let (_, mut threads) = threads(2, LIMIT);
    let mut tickets = Vec::new();
    for n in 0..10 {
        match threads[n % 2].admit(t(0)) {
            Decision::Admitted(ticket) => tickets.push((n % 2, ticket)),
            Decision::Rejected(rejection) => assert_eq!(rejection.reason, Reason::Concurrency),
        }
    }
    assert_eq!(tickets.len(), 3);
    let (n, ticket) = tickets.remove(0);
    threads[n].report(ticket, &Outcome::IGNORED, t(1));
    assert!(matches!(threads[1].admit(t(1)), Decision::Admitted(_)), "the client that left gave its place back");
    assert!(matches!(threads[1].admit(t(1)), Decision::Rejected(_)));
}

#[test]
fn a_place_is_taken_until_the_response_has_ended() {
    let (_, mut threads) = threads(1, r#""concurrency":{"max_requests":1}"#);
    let Decision::Admitted(ticket) = threads[0].admit(t(0)) else { panic!("it is the first") };
    let Thread { worker, request_policy, store, events } = &mut threads[0];
    let hold =
        request_policy.report(&mut Cx::new(store, worker, t(1), events), ticket, &SUCCESS).expect("it holds a place");
    assert!(matches!(threads[0].admit(t(2)), Decision::Rejected(_)), "its body is still on its way");
    let Thread { worker, request_policy, store, .. } = &mut threads[0];
    request_policy.release(&mut Cx::new(store, worker, t(3), &mut Vec::new()), hold);
    assert!(matches!(threads[0].admit(t(4)), Decision::Admitted(_)));
}

#[test]
fn workers_whose_clocks_are_read_in_another_order_than_they_write_stay_exact() {
    let (_, mut threads) = threads(4, BREAKER);
    for n in 0..20 {
        threads[n % 4].request(&FAILURE, t(100));
    }
    // Each writes with an earlier time than the one before it.
    let admitted = (0..50).filter(|n| matches!(threads[n % 4].admit(t(20_000 - *n as u64)), Decision::Admitted(_)));
    assert_eq!(admitted.count(), 5);

    let (_, mut threads) = self::threads(4, LIMIT);
    let admitted = (0..50).filter(|n| matches!(threads[n % 4].admit(t(20_000 - *n as u64)), Decision::Admitted(_)));
    assert_eq!(admitted.count(), 3);
    let places: std::collections::HashSet<_> =
        threads.iter().filter_map(|thread| thread.worker.held()).map(|index| index.number).collect();
    assert_eq!(places.len(), 4, "no worker took another's place");
}

#[test]
fn requests_of_a_crashed_worker_stop_counting_and_those_of_a_slow_one_do_not() {
    let (_, mut threads) = threads(2, LIMIT);
    let _tickets: Vec<_> = (0..3).map(|n| threads[usize::from(n > 0)].admit(t(0))).collect();
    for second in 1..60 {
        threads[1].tick(t(second * 1000));
    }
    assert!(matches!(threads[1].admit(t(60_000)), Decision::Admitted(_)), "the first worker never ticked again");
    assert!(matches!(threads[1].admit(t(60_000)), Decision::Rejected(_)), "two of its own and the new one");
}

#[test]
fn a_probe_that_concurrency_rejects_gives_its_permit_back() {
    let (_, mut threads) = threads(
        1,
        r#""breaker":{"open_for":"1s","open_jitter":0,"half_open":{"probes":2}},"concurrency":{"max_requests":2}"#,
    );
    // It hangs: its ticket is never reported.
    let Decision::Admitted(_hanging) = threads[0].admit(t(0)) else { panic!("it is the first") };
    for _ in 0..20 {
        threads[0].request(&FAILURE, t(0));
    }
    assert_eq!(threads[0].moves(), [StateName::Open]);
    let Decision::Admitted(probe) = threads[0].admit(t(1000)) else { panic!("the first probe") };
    let Decision::Rejected(rejection) = threads[0].admit(t(1000)) else { panic!("both places are taken") };
    assert_eq!(rejection.reason, Reason::Concurrency, "the breaker had a permit left for it");
    threads[0].report(probe, &SUCCESS, t(1001));
    assert!(threads[0].request(&SUCCESS, t(1002)), "the second permit is still there");
    assert_eq!(threads[0].moves(), [StateName::Open, StateName::HalfOpen, StateName::Closed]);
}

#[test]
fn throttling_follows_the_failures_of_all_workers() {
    let (_, mut threads) = threads(2, r#""throttle":{}"#);
    for n in 0..1000 {
        threads[0].request(&SUCCESS, t(n));
    }
    assert_eq!(threads[0].count(Metric::RejectedThrottled), 0, "a healthy service is left alone");
    let rejected = |thread: &Thread| thread.count(Metric::RejectedThrottled);
    for n in 0..9_000 {
        threads[0].request(&FAILURE, t(1000 + n));
    }
    let before = rejected(&threads[1]);
    for n in 0..1000 {
        threads[1].request(&SUCCESS, t(10_000 + n / 100));
    }
    let share = rejected(&threads[1]) - before;
    assert!((300..=800).contains(&share), "{share} of 1000 were rejected because of the other worker's failures");
}

#[test]
fn different_contents_never_share_state_and_equal_ones_do() {
    let store = MemoryStore::default();
    let mut old = Thread::new(&store, &policy(BREAKER), 1);
    for _ in 0..20 {
        old.request(&FAILURE, t(0));
    }
    let mut equal =
        Thread::new(&store, &policy(r#""breaker":{"open_for":"10000ms","open_jitter":0.0,"min_requests":20}"#), 2);
    assert!(!equal.request(&SUCCESS, t(1)), "written differently, the same policy");
    let mut other = Thread::new(&store, &policy(r#""breaker":{"open_for":"11s","open_jitter":0}"#), 3);
    assert!(!other.request(&SUCCESS, t(1)), "a changed policy begins where the one before it is");
    for _ in 0..6 {
        assert!(other.request(&SUCCESS, t(10_000)), "five probes close it");
    }
    for _ in 0..3 {
        assert!(old.request(&FAILURE, t(10_001)), "and not the one before, which goes on by itself");
    }
    assert!(!old.request(&SUCCESS, t(10_002)));
    assert!(other.request(&SUCCESS, t(10_002)));
}

#[test]
fn a_clock_that_jumps_stops_nothing() {
    let (_, mut threads) = threads(2, BREAKER);
    let hour = 3_600_000;
    for n in 0..20 {
        threads[n % 2].request(&FAILURE, t(2 * hour));
    }
    assert!(!threads[0].request(&SUCCESS, t(2 * hour + 1)));
    for n in 0..5 {
        assert!(threads[n % 2].request(&SUCCESS, t(hour)), "an hour back, the open period counts as over");
    }
    for n in 0..20 {
        assert!(threads[n % 2].request(&FAILURE, t(hour + 1)), "closed");
    }
    assert!(!threads[0].request(&SUCCESS, t(hour + 2)), "and it opens again");
    assert!(threads[0].request(&SUCCESS, t(5 * hour)), "a jump ahead ends the period");
}
