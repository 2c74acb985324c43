//! Properties of a group's leader and of what it does: for any times, answers, bytes and crashes.
#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use holdfast_engine::base::time::{SKEW, Timestamp};
use holdfast_engine::outlier::discover::{self, Discovery, MOST_HOSTS, TIMEOUT};
use holdfast_engine::outlier::heartbeat::{CheckVerdict, Checks, Found, MOST_IN_FLIGHT};
use holdfast_engine::outlier::leader::{Held, LEASE, LOOK_EVERY, Leader, lead};
use holdfast_engine::outlier::table::HostId;
use holdfast_engine::outlier::topology::HostListing;
use holdfast_engine::store::Store;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::record::{Mark, Record};
use holdfast_policy::document::{Heartbeat, HeartbeatCheck, Mode, NamedHost, StatusSet};
use proptest::prelude::*;

const START: Timestamp = Timestamp::from_secs(1_700_000_000);
const KEY: &str = "holdfast/leader";
const MARK: Mark = Mark { block: 7, key: 0 };

/// The VMs of a process, each with its nonce.
struct Vms {
    store: MemoryStore,
    vms: Vec<(u64, Held)>,
    next_nonce: u64,
}

impl Vms {
    fn new(count: u64) -> Self {
        Vms {
            store: MemoryStore::default(),
            vms: (0..count).map(|nonce| (nonce, Held::default())).collect(),
            next_nonce: count,
        }
    }

    fn ask(&mut self, which: usize, now: Timestamp) -> bool {
        let (nonce, held) = &mut self.vms[which];
        lead(&mut self.store, KEY, MARK, *nonce, held, now)
    }

    fn crash(&mut self, which: usize) {
        self.vms[which] = (self.next_nonce, Held::default());
        self.next_nonce += 1;
    }

    fn lasting(&self, now: Timestamp) -> usize {
        self.vms.iter().filter(|(_, held)| held.lasts(now)).count()
    }
}

/// One thing that happens among the VMs.
#[derive(Debug, Clone)]
enum Step {
    Ask(usize),
    Crash(usize),
    Pass(u64),
    /// The clock jumps.
    At(u64),
    /// Something else writes the key.
    Scribble(Vec<u8>),
    /// A VM whose clock was anywhere claims.
    Foreign(u64, u64),
}

fn forward() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_usize).prop_map(Step::Ask),
        1 => (0..3_usize).prop_map(Step::Crash),
        6 => (0..2000_u64).prop_map(Step::Pass),
        1 => (0..20_000_u64).prop_map(Step::Pass),
    ]
}

fn anything() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => forward(),
        1 => any::<u64>().prop_map(Step::At),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Scribble),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(nonce, expires)| Step::Foreign(nonce, expires)),
    ]
}

fn heartbeat(interval: u64, timeout: u64, unhealthy_after: u16, healthy_after: u16) -> Heartbeat {
    let mut status = StatusSet::default();
    status.insert_range(200, 299);
    Heartbeat {
        check: HeartbeatCheck::Http { path: "/".to_owned(), status },
        host: None,
        headers: Vec::new(),
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout),
        unhealthy_after: unhealthy_after.try_into().unwrap(),
        healthy_after: healthy_after.try_into().unwrap(),
        mode: Mode::Enforce,
    }
}

/// One thing that happens to the checks of a group.
#[derive(Debug, Clone)]
enum Check {
    /// A tick: of those that are due, the call is sent, refused, withdrawn or forgotten, as these say in turn.
    Tick(Vec<u8>),
    /// The call in flight with this number (modulo how many there are) is reported.
    Report(usize, Option<u16>),
    /// A report that nobody waits for.
    Stray(u32),
    /// From now on the group has the hosts below this number.
    Hosts(u16),
    /// Another host takes a place.
    Replace(u16),
    Pass(u64),
    At(u64),
}

fn check() -> impl Strategy<Value = Check> {
    prop_oneof![
        8 => prop::collection::vec(0..8_u8, 1..4).prop_map(Check::Tick),
        20 => (any::<prop::sample::Index>(), prop::option::of(prop_oneof![Just(200), Just(204), Just(503), any::<u16>()]))
            .prop_map(|(which, status)| Check::Report(which.index(1 << 16), status)),
        1 => (1_000_000..u32::MAX).prop_map(Check::Stray),
        1 => (0..80_u16).prop_map(Check::Hosts),
        1 => (0..80_u16).prop_map(Check::Replace),
        8 => (0..1500_u64).prop_map(Check::Pass),
        1 => any::<u64>().prop_map(Check::At),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// While the clock runs forward there is never more than one VM whose claim lasts, and no time without a leader is
    /// longer than a lease and a look while anybody asks.
    #[test]
    fn there_is_at_most_one_leader_and_soon_one(steps in prop::collection::vec(forward(), 1..300)) {
        let (mut vms, mut now) = (Vms::new(3), START);
        for step in steps {
            match step {
                Step::Ask(which) => {
                    let leads = vms.ask(which, now);
                    prop_assert_eq!(leads, vms.vms[which].1.lasts(now));
                }
                Step::Crash(which) => vms.crash(which),
                Step::Pass(millis) => now = now.plus(Duration::from_millis(millis)),
                Step::At(_) | Step::Scribble(_) | Step::Foreign(..) => {}
            }
            prop_assert!(vms.lasting(now) <= 1);
        }
        let until = now.plus(LEASE + LOOK_EVERY);
        vms.ask(1, now);
        while now < until && !vms.ask(1, now) {
            now = now.plus(Duration::from_millis(100));
        }
        prop_assert!(vms.lasting(now) == 1);
    }

    /// Whatever was written and however the clock jumped: once it runs forward, one VM leads after the time that a claim
    /// can at most be believed, and no other does.
    #[test]
    fn after_anything_at_all_there_is_one_leader_again(steps in prop::collection::vec(anything(), 1..200)) {
        let (mut vms, mut now) = (Vms::new(3), START);
        for step in steps {
            match step {
                Step::Ask(which) => {
                    let leads = vms.ask(which, now);
                    prop_assert_eq!(leads, vms.vms[which].1.lasts(now));
                }
                Step::Crash(which) => vms.crash(which),
                Step::Pass(millis) => now = now.plus(Duration::from_millis(millis)),
                Step::At(nanos) => now = Timestamp(nanos),
                Step::Scribble(bytes) => vms.store.set(KEY, &bytes),
                Step::Foreign(nonce, expires) => {
                    let claim = Leader { nonce: nonce.max(1 << 32), expires: Timestamp(expires) };
                    vms.store.set(KEY, &claim.encode(MARK));
                }
            }
        }
        // At the end of time nothing can be claimed any more.
        now = Timestamp(now.0.min(u64::MAX / 2));
        let settled = now.plus(LEASE + SKEW + LOOK_EVERY);
        for tick in 0_usize..200 {
            for which in 0..3 {
                vms.ask((tick + which) % 3, now);
            }
            if now > settled {
                prop_assert_eq!(vms.lasting(now), 1);
            }
            now = now.plus(Duration::from_millis(200));
        }
    }

    /// Whatever happens to checks and hosts: never too many are under way, no host is asked while it is being asked or
    /// more than once in its interval, and verdicts are those that its last answers give.
    #[test]
    fn checks_are_counted_right(
        steps in prop::collection::vec(check(), 1..400),
        interval in 100..3000_u64,
        timeout in 1..3000_u64,
        unhealthy_after in 1..4_u16,
        healthy_after in 1..4_u16,
    ) {
        let heartbeat = heartbeat(interval, timeout, unhealthy_after, healthy_after);
        let mut hosts: Vec<(HostId, String)> = Vec::new();
        let (mut checks, mut now, mut next) = (Checks::default(), START, 0_u32);
        // Tokens of checks under way; the answers of each host, good or bad; when each was asked since the last jump.
        let mut calls: Vec<(HostId, u32)> = Vec::new();
        let mut answers: HashMap<HostId, Vec<bool>> = HashMap::new();
        let mut asked: HashMap<HostId, Vec<Timestamp>> = HashMap::new();
        let mut seen = |found: Found, good: bool, status: Option<u16>| {
            let answers = answers.entry(found.host).or_default();
            answers.push(good);
            let run = answers.iter().rev().take_while(|answer| **answer == good).count() as u16;
            let expected = match good {
                true if run >= healthy_after => CheckVerdict::Healthy,
                false if run >= unhealthy_after => CheckVerdict::Unhealthy { failures: run, last: status },
                _ => CheckVerdict::Nothing,
            };
            prop_assert_eq!(found.verdict, expected);
            Ok(())
        };
        for step in steps {
            match step {
                Check::Tick(fates) => {
                    for found in checks.overdue(&heartbeat, now, |_| false) {
                        calls.retain(|(host, _)| *host != found.host);
                        seen(found, false, None)?;
                    }
                    let listed = hosts.iter().map(|(host, address)| (*host, address.as_bytes()));
                    let due = checks.due(&heartbeat, listed, now);
                    for (number, host) in due.into_iter().enumerate() {
                        prop_assert!(hosts.iter().any(|(known, _)| *known == host));
                        prop_assert!(calls.iter().all(|(known, _)| *known != host), "asked while it is being asked");
                        asked.entry(host).or_default().push(now);
                        match fates[number % fates.len()] {
                            0 => checks.withdrawn(host),
                            1 => {} // It is overdue some time.
                            _ => {
                                next += 1;
                                checks.sent(host, next, now);
                                calls.push((host, next));
                            }
                        }
                    }
                }
                Check::Report(which, status) if !calls.is_empty() => {
                    let (host, token) = calls.swap_remove(which % calls.len());
                    if let Some(found) = checks.reported(&heartbeat, token, status) {
                        prop_assert_eq!(found.host, host);
                        seen(found, status.is_some_and(|status| (200..=299).contains(&status)), status)?;
                    } else {
                        prop_assert!(hosts.iter().all(|(known, _)| *known != host), "the answer of a host is lost");
                    }
                    prop_assert_eq!(checks.reported(&heartbeat, token, status), None, "reported twice");
                }
                Check::Report(..) => {}
                Check::Stray(token) => prop_assert_eq!(checks.reported(&heartbeat, token, None), None),
                Check::Hosts(count) => {
                    hosts.truncate(count.into());
                    for index in hosts.len() as u16..count {
                        next += 1;
                        hosts.push((HostId { index, id: next }, format!("10.0.0.{index}:80")));
                    }
                }
                Check::Replace(index) => {
                    if let Some((host, address)) = hosts.get_mut(usize::from(index)) {
                        next += 1;
                        host.id = next;
                        *address = format!("10.0.1.{index}:80");
                    }
                }
                Check::Pass(millis) => now = now.plus(Duration::from_millis(millis)),
                Check::At(nanos) => {
                    now = Timestamp(nanos);
                    asked.clear();
                }
            }
            prop_assert!(checks.in_flight() <= MOST_IN_FLIGHT);
        }
        for times in asked.values() {
            let passed = times.last().unwrap().since(times[0]).as_nanos();
            let intervals = passed / heartbeat.interval.as_nanos();
            prop_assert!(times.len() as u128 <= intervals + 2, "{} times in {intervals} intervals", times.len());
        }
    }

    /// No listing at all stops the worker, and what is wrong fits on a line.
    #[test]
    fn any_bytes_are_a_listing_or_one_line(body in prop::collection::vec(any::<u8>(), 0..400), cluster in ".{0,80}") {
        if let Err(error) = discover::hosts(&body, &cluster, &|_| true) {
            prop_assert!(!error.contains(['\n', '\r']) && error.len() < 1200, "{error:?}");
        }
    }

    /// The same of bytes that are nearly one.
    #[test]
    fn nearly_a_listing_is_a_listing_or_one_line(tokens in prop::collection::vec(0..26_usize, 0..40)) {
        const TOKENS: [&str; 26] = [
            "{", "{", "}", "}", "[", "[", "]", "]", ",", ",", ":", ":", ":", "\"clusters\"", "\"cluster_statuses\"", "\"name\"",
            "\"orders\"", "\"host_statuses\"", "\"address\"", "\"socket_address\"", "\"port_value\"", "80", "-1.5", "null",
            "\"10.0.0.1\"", "\"10.0.0.1:80\"",
        ];
        let body: String = tokens.into_iter().map(|token| TOKENS[token]).collect();
        if let Err(error) = discover::hosts(body.as_bytes(), "orders", &|_| true) {
            prop_assert!(!error.contains(['\n', '\r']) && error.len() < 1200, "{error:?}");
        }
    }

    /// Any hosts come back from either shape, each once.
    #[test]
    fn hosts_come_back_from_either_shape(
        hosts in prop::collection::vec((any::<IpAddr>(), any::<u16>()), 0..60),
        position in 0..3_usize,
    ) {
        let expected: Vec<SocketAddr> = hosts.iter().copied().map(SocketAddr::from).collect();
        let texts: Vec<_> = expected.iter().map(|host| format!("{:?}", host.to_string())).collect();
        let mut clusters = vec![r#""users": ["10.9.9.9:1"]"#.to_owned(), r#""a": 1"#.to_owned()];
        clusters.insert(position, format!(r#""orders": [{}]"#, texts.join(",")));
        let documented = format!(r#"{{"clusters": {{{}}}}}"#, clusters.join(","));

        let statuses = hosts.iter().map(|(address, port)| {
            format!(r#"{{"stats":[{{}}],"address":{{"socket_address":{{"address":"{address}","port_value":{port}}}}}}}"#)
        });
        let statuses: Vec<_> = statuses.collect();
        let mut clusters = vec![r#"{"name":"users","host_statuses":[1]}"#.to_owned(), "{}".to_owned()];
        clusters.insert(position, format!(r#"{{"name":"orders","host_statuses":[{}]}}"#, statuses.join(",")));
        let envoys = format!(r#"{{"cluster_statuses": [{}]}}"#, clusters.join(","));

        let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        prop_assert!(expected.len() <= MOST_HOSTS);
        let named: Vec<NamedHost> = expected.into_iter().map(NamedHost::at).collect();
        let expected = HostListing::of_named(&named).hosts;
        prop_assert_eq!(&discover::hosts(documented.as_bytes(), "orders", &|_| false).unwrap().hosts, &expected);
        prop_assert_eq!(&discover::hosts(envoys.as_bytes(), "orders", &|_| false).unwrap().hosts, &expected);
    }

    /// However the clock jumps and whatever becomes of the requests, the listing is asked for again within the interval, or
    /// twice its time-out.
    #[test]
    fn a_listing_is_asked_for_again_whatever_happens(
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), prop_oneof![0..20_000_000_000_u64, any::<u64>()]), 1..60),
        interval in 100..20_000_u64,
    ) {
        let interval = Duration::from_millis(interval);
        let (mut discovery, mut now) = (Discovery::default(), START);
        for (token, (sent, reported, to)) in (0_u32..).zip(steps) {
            now = if to < 20_000_000_000 { now.plus(Duration::from_nanos(to)) } else { Timestamp(to / 2) };
            if discovery.due(interval, now) && sent {
                discovery.sent(token);
                if reported {
                    prop_assert!(discovery.reported(token));
                }
            }
            prop_assert!(!discovery.reported(token.wrapping_add(1)));
        }
        let within = interval.max(TIMEOUT * 2);
        prop_assert!(discovery.due(interval, now) || discovery.due(interval, now.plus(within)));
    }
}
