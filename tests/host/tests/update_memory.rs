//! Updates by the thousand: what Envoy never frees (shared data, metrics and their ids) grows with the first of them, and then
//! no more. Each story is told in two halves, and nothing may be larger in the second half than it was in the first.
//!
//! A story makes as many updates as the first half needs to come to an end of its growth; `HOLDFAST_UPDATES=1000` makes a
//! thousand.

use std::time::Duration;

use holdfast_host_tests::{Host, Request, Response, Seat};

use crate::support::{millis, seconds};

/// So many updates, unless the environment asks for more.
fn updates(usual: usize) -> usize {
    let asked = std::env::var("HOLDFAST_UPDATES").ok().map(|text| text.parse().expect("HOLDFAST_UPDATES is a number"));
    asked.unwrap_or(0).max(usual)
}

/// How much there is of what is never freed.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    keys: usize,
    bytes: usize,
    series: usize,
    metric_ids: usize,
    vm_memory: usize,
}

impl Size {
    fn of(host: &Host) -> Self {
        let (keys, bytes) = host.shared_size();
        let seats =
            |worker: usize| [Seat::Request.on(worker), Seat::Attempt.on(worker)].map(|seat| host.metric_ids(seat));
        let metric_ids = (0..host.workers()).flat_map(seats).sum();
        let vm_memory = (0..host.workers()).map(|worker| host.memory(worker)).sum();
        Size { keys, bytes, series: host.metrics().len(), metric_ids, vm_memory }
    }

    fn parts(&self) -> [(&'static str, usize); 5] {
        let Size { keys, bytes, series, metric_ids, vm_memory } = *self;
        let names = ["keys of shared data", "bytes of shared data", "metrics", "ids of metrics", "memory of VMs"];
        let parts = [keys, bytes, series, metric_ids, vm_memory];
        std::array::from_fn(|part| (names[part], parts[part]))
    }
}

/// What each part was at most.
fn largest(sizes: &[Size]) -> [usize; 5] {
    std::array::from_fn(|part| sizes.iter().map(|size| size.parts()[part].1).max().unwrap_or(0))
}

/// Checks that nothing was larger in the second half than in the first. A fiftieth more is let pass, since a record that is
/// seldom written may be written late, and a tenth more of the memory of VMs: that grows by pages until the heap has found its
/// shape.
#[track_caller]
fn assert_flat(sizes: &[Size]) {
    let (first, second) = sizes.split_at(sizes.len() / 2);
    let (before, after) = (largest(first), largest(second));
    println!("{} updates: at most {before:?}, then {after:?}", sizes.len());
    for (part, ((name, _), let_pass)) in Size::default().parts().iter().zip([50, 50, 50, 50, 10]).enumerate() {
        let (before, after) = (before[part], after[part]);
        assert!(after <= before + before / let_pass, "{name}: {before} in the first half, {after} in the second");
    }
}

/// What stays the same over the updates of a story.
struct Load {
    host: Host,
    tenants: usize,
    /// Between two updates.
    pause: Duration,
}

impl Load {
    /// Each tenant has a request, always on the same worker, as far as that goes with connections that are kept.
    fn requests(&self) {
        for tenant in 0..self.tenants {
            let worker = tenant % self.host.workers();
            let request = Request::get("/").header("x-tenant", tenant.to_string());
            self.host.request(worker, request).with(Response::status(200));
        }
    }

    /// The same with an attempt seat.
    fn attempts(&self) {
        for tenant in 0..self.tenants {
            let worker = tenant % self.host.workers();
            let request = Request::get("/").header("x-tenant", tenant.to_string());
            let routed = self.host.send(worker, request);
            assert_eq!(routed.answer().status, 200);
        }
    }

    /// Makes updates with these documents, which are numbered from 1. What there is after each.
    fn updated(&self, updates: usize, document: impl Fn(usize) -> String, each: impl Fn(&Self, usize)) -> Vec<Size> {
        let one = |number| {
            self.host.update(&document(number)).unwrap();
            each(self, number);
            self.host.advance(self.pause);
            Size::of(&self.host)
        };
        (1..=updates).map(one).collect()
    }
}

/// A policy of all features, one of which is another one with each number.
fn policy(name: &str, number: usize) -> String {
    // How often each of six in turn has changed by now.
    let [outcome, breaker, concurrency, throttle, retry, outlier] = std::array::from_fn(|turn| (number + 5 - turn) / 6);
    format!(
        r#"{{"name":"{name}","scope":[{{"header":"x-tenant"}}],
        "outcome":{{"slow_after":"{}ms"}},
        "breaker":{{"slow_rate":100,"open_for":"{}s","open_max":"24h"}},
        "concurrency":{{"max_requests":{}}},
        "throttle":{{"window":"{}ms"}},
        "retry":{{"backoff":{{"base":"1ms","max":"1ms"}},"budget":{{"window":"{}ms"}}}},
        "outlier":{{"max_ejection_time":"{}s"}}}}"#,
        60_000 + outcome,
        30 + breaker,
        1000 + concurrency,
        30_000 + throttle,
        10_000 + retry,
        300 + outlier,
    )
}

fn document(policies: &[String]) -> String {
    format!(r#"{{"policies":[{}]}}"#, policies.join(","))
}

fn orders(number: usize) -> String {
    document(&[policy("orders", number)])
}

#[test]
fn updates_of_a_policy_with_256_keys_on_16_workers_leave_nothing_behind() {
    let host = Host::with(&orders(0)).workers(16).start();
    let load = Load { host, tenants: 256, pause: millis(1000) };
    load.requests();
    let sizes = load.updated(updates(60), orders, |load, number| {
        let refused = orders(number).replace(r#""slow_rate":100"#, r#""slow_rate":101"#);
        load.host.update(&refused).unwrap_err();
        load.requests();
    });
    load.host.assert_no_trap();
    assert_flat(&sizes);
}

/// Documents come faster than those before them lapse: the most that live at once is what there is place for in the end.
#[test]
fn ten_updates_a_second_take_no_more_than_those_of_one_lease() {
    let host = Host::with(&orders(0)).workers(4).start();
    let load = Load { host, tenants: 16, pause: millis(100) };
    let sizes = load.updated(updates(600), orders, |load, _| load.requests());
    load.host.assert_no_trap();
    assert_flat(&sizes);
}

/// With requests that take longer than several updates, so that several documents have some under way.
#[test]
fn requests_that_outlive_their_document_hold_nothing_when_they_are_over() {
    let host = Host::with(&orders(0)).workers(4).start();
    let load = Load { host, tenants: 16, pause: millis(1000) };
    let slow: std::cell::RefCell<std::collections::VecDeque<_>> = Default::default();
    let sizes = load.updated(updates(100), orders, |load, number| {
        load.requests();
        slow.borrow_mut().push_back(load.host.get(number % 4).passed());
        if number > 5 {
            slow.borrow_mut().pop_front().unwrap().respond(Response::status(200));
        }
    });
    for worker in 0..4 {
        assert!(load.host.roots(worker) <= 7, "{} documents are held by five requests", load.host.roots(worker));
    }
    slow.take().into_iter().for_each(|under_way| drop(under_way.respond(Response::status(200))));
    assert_eq!((0..4).map(|worker| load.host.roots(worker)).collect::<Vec<_>>(), [1; 4]);
    load.host.assert_no_trap();
    assert_flat(&sizes);
}

/// Metrics are never freed either. During a long drain many contents of one name live.
#[test]
fn many_documents_that_drain_have_only_so_many_names_in_metrics() {
    let host = Host::with(&orders(0)).workers(2).start();
    let load = Load { host, tenants: 2, pause: millis(500) };
    let slow: std::cell::RefCell<Vec<_>> = Default::default();
    load.updated(60, orders, |load, number| {
        load.requests();
        slow.borrow_mut().push(load.host.get(number % 2).passed());
    });
    slow.take().into_iter().for_each(|under_way| drop(under_way.respond(Response::status(200))));
    let of_policy =
        |name: &str| Some(name.split_once("policy=.=")?.1.split_once(';')?.0.trim_end_matches('.').to_owned());
    let all = load.host.metrics();
    let names: std::collections::BTreeSet<String> = all.iter().filter_map(|(name, _)| of_policy(name)).collect();
    println!("{} names of a policy that has had 61 contents: {names:?}", names.len());
    assert!(names.contains("orders") && names.contains("orders~2"), "{names:?}");
    assert!(names.len() <= 16, "{} names: {names:?}", names.len());
    let requests: u64 = all.iter().filter(|(name, _)| name.ends_with(";requests")).map(|(_, count)| count).sum();
    assert_eq!(requests, 60 * 3, "and each request is counted once");
    load.host.assert_no_trap();
}

#[test]
fn with_the_attempt_seat_updates_leave_nothing_behind_either() {
    let hosts = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"];
    let builder = Host::with(&orders(0)).workers(4).attempt_seat().override_host(&hosts);
    let host = builder.answering_tries(|_| Some(200.into())).start();
    let load = Load { host, tenants: 32, pause: millis(1000) };
    load.attempts();
    load.host.advance(seconds(1));
    let sizes = load.updated(updates(80), orders, |load, _| load.attempts());
    load.host.assert_no_trap();
    assert_flat(&sizes);
}

/// Features come and go, policies too, and sometimes there is none at all.
#[test]
fn documents_that_grow_and_shrink_leave_nothing_behind() {
    let shape = |number: usize| {
        let all = policy("orders", number);
        let lean =
            format!(r#"{{"name":"orders","scope":[{{"header":"x-tenant"}}],"breaker":{{"min_requests":{number}}}}}"#);
        let other = format!(
            r#"{{"name":"carts","match":{{"path":["/carts"]}},"retry":{{"budget":{{"window":"{number}s"}}}}}}"#
        );
        match number % 4 {
            0 => document(&[all]),
            1 => document(&[lean]),
            2 => document(&[other.replace(&format!("{number}s"), &format!("{}s", 1 + number % 300)), all]),
            _ => document(&[]),
        }
    };
    let host = Host::with(&orders(0)).workers(4).start();
    let load = Load { host, tenants: 32, pause: millis(500) };
    let sizes = load.updated(updates(320), shape, |load, _| load.requests());
    load.host.assert_no_trap();
    assert_flat(&sizes);
}

/// A worker's VM dies now and then: what it had expires, and is used again.
#[test]
fn workers_that_crash_between_updates_leave_nothing_behind() {
    let host = Host::with(&orders(0)).workers(4).start();
    let load = Load { host, tenants: 16, pause: millis(1000) };
    let sizes = load.updated(updates(300), orders, |load, number| {
        if number % 10 == 0 {
            load.host.crash(number / 10 % 4);
        }
        load.requests();
    });
    assert_flat(&sizes);
}

/// A name of a policy that was never there before leaves only what says which of its keys have metrics.
#[test]
fn a_new_name_costs_a_record_whatever_it_was_used_for() {
    let host = Host::with(&orders(0)).workers(8).start();
    let load = Load { host, tenants: 64, pause: millis(1000) };
    let named = |number: usize| document(&[policy(&format!("orders-{number}"), 0)]);
    let sizes = load.updated(updates(60), named, |load, _| load.requests());
    load.host.assert_no_trap();
    let (middle, end) = (sizes[sizes.len() / 2 - 1], sizes[sizes.len() - 1]);
    let names = sizes.len() - sizes.len() / 2;
    let (keys, bytes) = (end.keys - middle.keys, end.bytes - middle.bytes);
    println!("{names} new names, {keys} more keys and {bytes} more bytes of shared data");
    assert!(keys <= names, "{keys} more keys for {names} new names");
    let most = names * (64 + 9 * load.tenants);
    assert!(bytes <= most, "{bytes} more bytes for {names} new names, each with metrics for {} keys", load.tenants);
}
