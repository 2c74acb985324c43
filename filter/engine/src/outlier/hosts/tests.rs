use super::*;
use crate::outlier::host_events::{HostCount, HostEventKind};
use crate::store::address::Address;
use crate::store::memory::MemoryStore;
use crate::store::record::Mark;
use holdfast_policy::config;
use holdfast_policy::document::NamedHost;
use std::collections::{BTreeSet, HashMap, HashSet};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const MS: Duration = Duration::from_millis(1);
const HOUR: u64 = 3_600_000;
const RUNS: &str = r#""consecutive_failures":5"#;

fn t(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn rules(outlier: &str) -> Outlier {
    let text = format!(r#"{{"policies":[{{"name":"p","outlier":{{"ejection_jitter":0,{outlier}}}}}]}}"#);
    config::parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}")).policies.remove(0).outlier.unwrap()
}

fn address(number: usize) -> String {
    format!("10.0.{}.{}:8080", number / 250, number % 250)
}

/// One worker.
struct Vm {
    worker: Worker,
    hosts: Hosts,
}

/// The workers of one process and the hosts of one group.
struct World {
    rules: Outlier,
    store: MemoryStore,
    vms: Vec<Vm>,
    addresses: Vec<String>,
    /// Which block of the policy's it is that the workers have.
    block: u32,
}

impl World {
    /// Workers that know these hosts.
    fn new(outlier: &str, vms: usize, hosts: usize) -> Self {
        World::on(MemoryStore::default(), outlier, vms, hosts)
    }

    fn on(store: MemoryStore, outlier: &str, vms: usize, hosts: usize) -> Self {
        let mut world = World { rules: rules(outlier), store, vms: Vec::new(), addresses: Vec::new(), block: 7 };
        world.vms = (0..vms)
            .map(|seed| Vm { worker: Worker::new(seed as u64), hosts: Hosts::new(group_of(7), mark(7), Vec::new()) })
            .collect();
        world.addresses = (0..hosts).map(address).collect();
        for host in 0..hosts {
            world.ends(0, host, Verdict::Success, t(0));
        }
        for vm in 0..vms {
            world.look(vm, t(0));
        }
        world
    }

    /// The policy is changed: as many workers have a block that follows the one of before.
    fn change(&mut self, outlier: &str) {
        let (old, new) = (self.block, self.block + 1);
        (self.rules, self.block) = (rules(outlier), new);
        for vm in &mut self.vms {
            let before = Address::new(group_of(old).table(), mark(old));
            vm.hosts = Hosts::new(group_of(new), mark(new), vec![before]);
        }
    }

    fn look(&mut self, vm: usize, now: Timestamp) {
        let (Vm { worker, hosts }, store) = (&mut self.vms[vm], &mut self.store);
        hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules);
    }

    /// An attempt is over that was sent just now.
    fn ends(&mut self, vm: usize, host: usize, verdict: Verdict, now: Timestamp) {
        self.ends_sent(vm, host, verdict, now, now);
    }

    fn ends_sent(&mut self, vm: usize, host: usize, verdict: Verdict, sent: Timestamp, now: Timestamp) {
        let address = self.addresses[host].clone();
        self.judge(vm, address.as_bytes(), verdict, sent, None, now);
    }

    /// What the seats do when an attempt is over.
    fn judge(
        &mut self,
        vm: usize,
        host: &[u8],
        verdict: Verdict,
        sent: Timestamp,
        probe: Option<HostId>,
        now: Timestamp,
    ) {
        let (Vm { worker, hosts }, store) = (&mut self.vms[vm], &mut self.store);
        if verdict == Verdict::Success && probe.is_none() && !hosts.wants_host(store, &self.rules, now) {
            return;
        }
        let end = if verdict == Verdict::Failure { End::Http(503) } else { End::Http(200) };
        let one = HostAttempt { host, end, verdict, took: MS, sent };
        hosts.judge(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules, one, probe);
    }

    fn fails(&mut self, vm: usize, host: usize, times: usize, now: Timestamp) {
        for _ in 0..times {
            self.ends(vm, host, Verdict::Failure, now);
        }
    }

    fn steer(&mut self, vm: usize, now: Timestamp) -> Option<Steering> {
        self.steer_as(vm, 1, false, now)
    }

    fn steer_as(&mut self, vm: usize, attempts: usize, waits: bool, now: Timestamp) -> Option<Steering> {
        let (Vm { worker, hosts }, store) = (&mut self.vms[vm], &mut self.store);
        hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules);
        hosts.steer(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules, attempts, waits, &Asks::NOTHING)
    }

    fn sweep(&mut self, vm: usize, now: Timestamp) {
        let (Vm { worker, hosts }, store) = (&mut self.vms[vm], &mut self.store);
        hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules);
        hosts.flush(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules);
        hosts.sweep(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules);
    }

    fn events(&mut self, vm: usize, now: Timestamp) -> Option<HostEvents> {
        let (Vm { worker, hosts }, store) = (&mut self.vms[vm], &mut self.store);
        hosts.refresh(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules);
        hosts.take_events(&mut Cx::new(store, worker, now, &mut Vec::new()), &self.rules)
    }

    /// The table as the store has it.
    fn table(&mut self) -> HostTable {
        let stored = self.store.get(&group_of(self.block).table());
        stored.and_then(|(bytes, _)| HostTable::decode(&bytes, mark(self.block))).unwrap_or_default()
    }

    fn is_out(&mut self, host: usize) -> bool {
        let (table, address) = (self.table(), self.addresses[host].clone());
        table.find(address.as_bytes()).and_then(|id| table.host(id)).is_some_and(|host| !host.is_in())
    }

    fn calls(&self) -> (usize, usize) {
        (self.store.reads(), self.store.writes())
    }
}

fn mark(block: u32) -> Mark {
    Mark { block, key: 0 }
}

fn group() -> HostPaths {
    group_of(7)
}

fn group_of(block: u32) -> HostPaths {
    HostPaths::new(block as u16, 0, crate::store::cluster::GroupId::OfTheKey).unwrap()
}

fn first(steering: &Steering) -> &str {
    steering.hosts.split(',').next().unwrap_or_default()
}

// Runs of failures over all workers

#[test]
fn the_fifth_failure_in_a_row_over_all_workers_ejects_and_the_fourth_does_not() {
    let mut world = World::new(RUNS, 3, 5);
    for (number, vm) in [0, 1, 2, 0].into_iter().enumerate() {
        world.fails(vm, 3, 1, t(1 + number as u64));
        assert!(!world.is_out(3), "{} in a row", number + 1);
    }
    world.fails(1, 3, 1, t(5));
    assert!(world.is_out(3), "five in a row");
    let events = world.events(2, t(6)).unwrap();
    assert!(matches!(
        events.list[..],
        [super::super::host_events::HostEvent {
            kind: HostEventKind::Ejected(EjectionCause::Run { length: 5, .. }, _),
            out: 1,
            of: 5,
            ..
        }]
    ));
}

#[test]
fn a_success_of_another_worker_begins_the_run_anew() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 3, 4, t(1));
    world.ends(1, 3, Verdict::Success, t(2));
    world.fails(0, 3, 4, t(3));
    assert!(!world.is_out(3), "four, a success, four");
    world.fails(0, 3, 1, t(4));
    assert!(world.is_out(3), "and the fifth");
}

#[test]
fn successes_of_other_hosts_and_ignored_attempts_end_no_run() {
    let mut world = World::new(RUNS, 2, 5);
    for millis in 1..=5 {
        world.fails(0, 3, 1, t(millis));
        world.ends(1, 2, Verdict::Success, t(millis));
        world.ends(1, 3, Verdict::Ignored, t(millis));
    }
    assert!(world.is_out(3));
}

#[test]
fn without_a_signal_a_success_ends_the_run_once_the_worker_has_looked_again() {
    let mut world = World::on(MemoryStore::unsignalled(), RUNS, 2, 5);
    for host in 0..5 {
        world.ends(1, host, Verdict::Success, t(1));
    }
    world.fails(0, 3, 4, t(2));
    world.ends(1, 3, Verdict::Success, t(12));
    world.fails(0, 3, 4, t(13));
    assert!(!world.is_out(3), "11 ms after its last look the worker looks again");
    world.fails(0, 3, 1, t(14));
    assert!(world.is_out(3));
    assert!(world.steer(1, t(25)).is_some(), "and within 10 ms every worker steers around it");
}

#[test]
fn a_run_that_came_to_nothing_is_told_again_after_as_many_failures() {
    let mut world = World::new(r#""consecutive_failures":{"threshold":3,"mode":"shadow"}"#, 1, 5);
    world.fails(0, 1, 8, t(1));
    let first = world.events(0, t(2)).unwrap();
    let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
    hosts.flush(&mut Cx::new(store, worker, t(200), &mut Vec::new()), &world.rules);
    let second = world.events(0, t(2_000)).unwrap();
    let would = HostCount::Would(Detector::ConsecutiveFailures);
    let counted = |events: &HostEvents| events.counts().find(|(kind, _)| *kind == would).map_or(0, |(_, count)| count);
    assert_eq!(counted(&first) + counted(&second), 2, "at 3 and at 6");
    assert!(!world.is_out(1));
    assert_eq!(world.steer(0, t(2_001)), None);
}

#[test]
fn what_a_host_failed_before_it_was_out_is_forgotten_when_it_is_back() {
    let mut world = World::new(r#""consecutive_failures":5,"consecutive_gateway_failures":7"#, 1, 5);
    world.fails(0, 0, 5, t(1));
    assert!(world.is_out(0));
    world.ends(0, 0, Verdict::Success, t(30_001));
    assert!(!world.is_out(0), "its probe");
    world.fails(0, 0, 4, t(30_002));
    assert!(!world.is_out(0), "four in a row: with those from before it would be nine");
    world.fails(0, 0, 1, t(30_003));
    assert!(world.is_out(0));
}

// What attempts say

#[test]
fn attempts_of_a_host_that_is_out_say_nothing_until_its_time_is_over() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 0, 5, t(0));
    world.ends(1, 0, Verdict::Success, t(100));
    assert!(world.is_out(0), "a success 100 ms later: sent before anybody knew");
    world.ends_sent(1, 0, Verdict::Success, t(29_999), t(31_000));
    assert!(world.is_out(0), "sent at 29,999 ms");
    world.ends_sent(1, 0, Verdict::Success, t(30_000), t(31_000));
    assert!(!world.is_out(0), "sent at 30,000 ms");
}

#[test]
fn late_failures_from_before_it_came_back_are_no_new_run() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 0, 5, t(0));
    world.ends(0, 0, Verdict::Success, t(30_000));
    for _ in 0..9 {
        world.ends_sent(1, 0, Verdict::Failure, t(29_000), t(30_500));
    }
    assert!(!world.is_out(0));
}

#[test]
fn hosts_that_are_no_address_are_never_judged() {
    let mut world = World::new(RUNS, 1, 2);
    for host in [&b"/var/run/app.sock"[..], b"", b"10.0.0.1", b"orders:80", b"10.0.0.1:80,10.0.0.2:80", b"\xff:80"] {
        for _ in 0..9 {
            world.judge(0, host, Verdict::Failure, t(1), None, t(1));
        }
    }
    assert_eq!((world.table().known(), world.table().out()), (2, 0));
}

#[test]
fn of_hosts_that_are_no_address_successes_cost_no_look_at_the_host_for_ever() {
    let mut world = World::new(RUNS, 1, 0);
    world.judge(0, b"/var/run/app.sock", Verdict::Success, t(0), None, t(0));
    let mut wanted = 0;
    for millis in 1..2000 {
        let Vm { hosts, .. } = &mut world.vms[0];
        if hosts.wants_host(&mut world.store, &world.rules, t(millis)) {
            wanted += 1;
            world.judge(0, b"/var/run/app.sock", Verdict::Success, t(millis), None, t(millis));
        }
    }
    assert!(wanted < 500, "{wanted} of 2,000 successes asked for their host");
}

// The healthy path

#[test]
fn a_healthy_group_reads_nothing_shared_and_writes_little() {
    let mut world = World::new(RUNS, 1, 5);
    // The first successes are all looked at.
    for number in 0..200 {
        world.ends(0, number % 5, Verdict::Success, t(1));
    }
    let (reads, writes) = world.calls();
    // 10,000 successes in 900 ms.
    for number in 0..10_000_u64 {
        world.ends(0, number as usize % 5, Verdict::Success, Timestamp(t(2).0 + number * 90_000));
        assert_eq!(world.steer(0, Timestamp(t(2).0 + number * 90_000)), None);
    }
    let (reads, writes) = (world.calls().0 - reads, world.calls().1 - writes);
    assert_eq!(reads, 0);
    assert!(writes <= 91, "{writes} writes: the worker's own counts each 10 ms at most");
}

#[test]
fn a_healthy_group_whose_rates_are_watched_reads_nothing_either() {
    let mut world = World::new(r#""consecutive_failures":0,"failure_rate":{},"latency":{}"#, 1, 5);
    world.ends(0, 0, Verdict::Success, t(1));
    let (reads, writes) = world.calls();
    for number in 0..10_000_u64 {
        world.ends(0, number as usize % 5, Verdict::Success, Timestamp(t(2).0 + number * 90_000));
    }
    let (reads, writes) = (world.calls().0 - reads, world.calls().1 - writes);
    assert_eq!(reads, 0);
    assert!(writes <= 91, "{writes} writes");
}

#[test]
fn after_a_failure_successes_look_at_the_runs_once_and_are_quiet_again() {
    let mut world = World::new(RUNS, 1, 5);
    world.fails(0, 0, 1, t(1));
    for number in 0..200 {
        world.ends(0, number % 5, Verdict::Success, t(2));
    }
    let reads = world.calls().0;
    for number in 0..1000 {
        world.ends(0, number % 5, Verdict::Success, t(3));
    }
    assert_eq!(world.calls().0 - reads, 0);
}

#[test]
fn without_a_signal_the_looks_are_bounded_by_time() {
    let mut world = World::on(MemoryStore::unsignalled(), RUNS, 1, 5);
    for number in 0..200 {
        world.ends(0, number % 5, Verdict::Success, t(1));
    }
    let reads = world.calls().0;
    for number in 0..10_000_u64 {
        let now = Timestamp(t(2).0 + number * 90_000);
        world.ends(0, number as usize % 5, Verdict::Success, now);
        world.look(0, now);
    }
    let reads = world.calls().0 - reads;
    // The table and five runs each 10 ms, in 900 ms.
    assert!(reads <= 6 * 91, "{reads} reads");
}

#[test]
fn in_a_group_that_fails_as_a_whole_views_are_not_thrown_away_at_each_limit() {
    let mut world = World::new(r#""consecutive_failures":5,"max_ejected":0,"always_eject_one":false"#, 2, 5);
    world.fails(0, 0, 5, t(1));
    let _ = world.events(0, t(1));
    world.look(1, t(1));
    let signal = world.store.epoch();
    // A hundred times the limit is reached, and nothing comes of it that a request must know.
    world.fails(0, 0, 500, t(2));
    let raised = world.store.epoch().unwrap() - signal.unwrap();
    assert!(raised <= 2, "the signal that makes all views of all policies old was raised {raised} times");
}

// Learning

#[test]
fn hosts_are_learned_from_traffic_before_one_fails() {
    let mut world = World::new(RUNS, 1, 0);
    world.addresses = (0..50).map(address).collect();
    for number in 0..2_000 {
        world.ends(0, number % 50, Verdict::Success, t(number as u64));
    }
    assert_eq!(world.table().known(), 50);
}

#[test]
fn a_new_host_in_an_old_group_is_found_by_samples() {
    let mut world = World::new(RUNS, 1, 4);
    for number in 0..2_000_usize {
        world.ends(0, number % 4, Verdict::Success, t(number as u64));
    }
    world.addresses.push(address(4));
    // Random, as Envoy's choice: in step with the samples it could be missed.
    let mut random = crate::base::random::Random::new(5);
    for number in 0..2_000_usize {
        world.ends(0, (random.next() % 5) as usize, Verdict::Success, t(3_000 + number as u64));
    }
    assert_eq!(world.table().known(), 5);
}

#[test]
fn a_round_robin_in_step_with_the_samples_hides_no_host() {
    // 16 hosts in turn, and every 16th success looked at: always the same one.
    let mut world = World::new(RUNS, 1, 15);
    for number in 0..2_000_usize {
        world.ends(0, number % 15, Verdict::Success, t(number as u64));
    }
    world.addresses.push(address(15));
    for number in 0..16_000_usize {
        world.ends(0, number % 16, Verdict::Success, Timestamp(t(3_000).0 + number as u64 * 100_000));
    }
    assert_eq!(world.table().known(), 16, "after a thousand tries of the new host");
}

#[test]
fn a_round_robin_in_step_with_the_samples_forgets_no_host() {
    // Four hosts in turn, 100 attempts a second: were every 16th looked at, it would be the same host for ever.
    let mut world = World::new(RUNS, 1, 4);
    for number in 0..30_000_usize {
        let now = t(10 * number as u64);
        world.ends(0, number % 4, Verdict::Success, now);
        if number % 100 == 0 {
            world.sweep(0, now);
        }
        assert_eq!(world.vms[0].hosts.table().map(HostTable::known), Some(4), "after {number} tries");
    }
}

#[test]
fn configured_hosts_are_known_from_the_first_request() {
    let mut world = World::new(r#""consecutive_failures":5,"hosts":["10.0.0.1:80","[::1]:80"]"#, 2, 0);
    for vm in 0..2 {
        let (Vm { worker, hosts }, store) = (&mut world.vms[vm], &mut world.store);
        hosts.refresh(&mut Cx::new(store, worker, t(0), &mut Vec::new()), &world.rules);
        hosts.register(&mut Cx::new(store, worker, t(0), &mut Vec::new()), &world.rules, b"orders");
    }
    let writes = world.calls().1;
    assert_eq!(world.table().known(), 2);
    assert_eq!(world.table().cluster, b"orders");
    for millis in 1..100 {
        let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
        hosts.register(&mut Cx::new(store, worker, t(millis), &mut Vec::new()), &world.rules, b"orders");
    }
    assert_eq!(world.calls().1, writes, "once");
}

#[test]
fn a_configured_host_for_which_there_is_no_place_costs_no_write_at_each_request() {
    let mut world = World::new(RUNS, 1, 1000);
    world.rules = rules(r#""consecutive_failures":5,"hosts":["192.0.2.1:80"]"#);
    let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
    hosts.register(&mut Cx::new(store, worker, t(1), &mut Vec::new()), &world.rules, b"orders");
    let writes = world.calls().1;
    for millis in 2..20 {
        let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
        hosts.register(&mut Cx::new(store, worker, t(millis), &mut Vec::new()), &world.rules, b"orders");
    }
    assert!(world.calls().1 - writes <= 1, "{} writes in 18 requests", world.calls().1 - writes);
}

#[test]
fn a_thousand_and_one_hosts_are_told_of_once_and_steer_nobody() {
    let mut world = World::new(RUNS, 2, 1000);
    world.fails(0, 3, 5, t(1));
    assert!(world.steer(1, t(2)).is_some());
    let _ = world.events(0, t(3));
    world.addresses.push(address(1000));
    for millis in 4..300 {
        world.ends(millis as usize % 2, 1000, Verdict::Success, t(millis));
        world.ends(0, 1000, Verdict::Failure, t(millis));
    }
    let events = world.events(0, t(300)).unwrap();
    assert_eq!(events.list.iter().filter(|one| one.kind == HostEventKind::Full).count(), 1);
    for vm in 0..2 {
        assert_eq!(world.steer(vm, t(301)), None, "the host nobody knows gets its share");
    }
    let (reads, writes) = world.calls();
    for millis in 301..400 {
        world.ends(0, 1000, Verdict::Failure, t(millis));
    }
    assert_eq!(world.calls(), (reads, writes), "what has no place costs nothing");
}

#[test]
fn a_listing_brings_hosts_and_takes_them() {
    let mut world = World::new(r#""consecutive_failures":5,"discover":{"cluster":"admin","path":"/clusters"}"#, 2, 3);
    let listed = HostListing::of_named(&[1, 2, 3].map(address).map(NamedHost::at));
    world.fails(0, 0, 5, t(1));
    let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
    hosts.list(&mut Cx::new(store, worker, t(2), &mut Vec::new()), &world.rules, &listed, &[]);
    world.look(1, t(3));
    let table = world.table();
    assert_eq!((table.known(), table.out(), table.find(address(0).as_bytes())), (3, 0, None));
    assert_eq!(world.steer(1, t(4)), None, "nobody is out any more");
}

#[test]
fn a_listing_that_says_nothing_new_makes_no_view_old() {
    let mut world = World::new(r#""consecutive_failures":5,"discover":{"cluster":"admin","path":"/clusters"}"#, 2, 3);
    let listed = HostListing::of_named(&[0, 1, 2].map(address).map(NamedHost::at));
    let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
    hosts.list(&mut Cx::new(store, worker, t(0), &mut Vec::new()), &world.rules, &listed, &[]);
    let signal = world.store.epoch();
    let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
    hosts.list(&mut Cx::new(store, worker, t(5_000), &mut Vec::new()), &world.rules, &listed, &[]);
    assert_eq!(world.store.epoch(), signal);
}

// Steering

#[test]
fn nobody_is_steered_while_all_are_in_and_everybody_while_one_is_out() {
    let mut world = World::new(RUNS, 2, 5);
    assert_eq!(world.steer(0, t(1)), None);
    world.fails(0, 2, 5, t(1));
    for vm in [0, 1] {
        let mut served: HashMap<String, usize> = HashMap::new();
        for _ in 0..400 {
            let steering = world.steer(vm, t(2)).unwrap();
            assert_eq!((steering.out, steering.of, &steering.probe), (1, 5, &None));
            assert_eq!(steering.hosts.split(',').count(), 3, "three names for one try");
            assert!(
                !steering.hosts.split(',').any(|host| host == address(2)),
                "and never that one: {}",
                steering.hosts
            );
            *served.entry(first(&steering).to_owned()).or_default() += 1;
        }
        assert_eq!(served.len(), 4);
        assert!(served.values().all(|count| *count == 100), "{served:?}");
    }
    for tries in [4, 5, 9] {
        let named = world.steer_as(0, tries, false, t(3)).unwrap().hosts;
        assert_eq!(named.split(',').count(), tries, "one for each try: beyond them Envoy chooses itself");
        assert!(!named.split(',').any(|host| host == address(2)), "{named}");
        assert_eq!(named.split(',').take(4).collect::<HashSet<_>>().len(), 4, "each once, and then again: {named}");
    }
}

/// A request of a selector, on a worker that has seen where those that nobody steered went.
fn steer_selected(world: &mut World, vm: usize, selector: Option<u64>, now: Timestamp) -> Option<Steering> {
    world.look(vm, now);
    let (Vm { worker, hosts }, store) = (&mut world.vms[vm], &mut world.store);
    hosts.steer(
        &mut Cx::new(store, worker, now, &mut Vec::new()),
        &world.rules,
        3,
        false,
        &Asks { selector: &|| selector, ..Asks::NOTHING },
    )
}

fn label(world: &mut World, host: usize, label: u32, now: Timestamp) {
    let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
    let mut none = Vec::new();
    let cx = &mut Cx::new(store, worker, now, &mut none);
    hosts.note_label(cx, &world.rules, address(host).as_bytes(), &|| label);
}

#[test]
fn where_a_cluster_has_subsets_requests_get_to_hosts_of_their_own() {
    let mut world = World::new(r#""consecutive_failures":5,"max_ejected":100,"panic_threshold":0"#, 2, 5);
    // Two of one label, three of another one.
    for number in 0..5 {
        label(&mut world, number, if number < 2 { 7 } else { 8 }, t(1));
    }
    world.fails(0, 0, 5, t(1));
    world.fails(0, 3, 5, t(1));
    for vm in [0, 1] {
        assert_eq!(steer_selected(&mut world, vm, Some(100), t(2)), None, "nobody has seen yet where it leads");
        for (selector, label) in [(100, 7), (200, 8), (300, 7), (300, 8)] {
            let Vm { worker, hosts } = &mut world.vms[vm];
            assert!(hosts.has_subsets());
            hosts.note_subset(worker, selector, &|| Some(label));
        }
        let mut named = |selector| -> BTreeSet<String> {
            let many = (0..20).map(|_| steer_selected(&mut world, vm, Some(selector), t(2)).unwrap().hosts);
            many.flat_map(|hosts| hosts.split(',').map(str::to_owned).collect::<Vec<_>>()).collect()
        };
        assert_eq!(named(100), BTreeSet::from([address(1)]));
        assert_eq!(named(200), BTreeSet::from([2, 4].map(address)));
        assert_eq!(named(300), BTreeSet::from([1, 2, 4].map(address)), "a route that leads to both");
    }
    // The probe of a host is a request that may come to it.
    for (selector, host) in [(200, 3), (100, 0)] {
        let probe = steer_selected(&mut world, 1, Some(selector), t(40_000)).unwrap().probe;
        assert_eq!(probe.map(|(_, named)| named), Some(address(host)));
    }
    // With the other host of a subset out nobody of it is left to be named.
    world.fails(1, 1, 5, t(45_000));
    assert_eq!(steer_selected(&mut world, 0, Some(100), t(45_001)), None);
}

#[test]
fn that_nobody_goes_where_it_is_sent_is_said_and_that_all_do_again() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 0, 5, t(1));
    let check = |world: &mut World, vm: usize, is_followed: bool, second: u64| {
        let now = t(1000 * second);
        let (Vm { worker, hosts }, store) = (&mut world.vms[vm], &mut world.store);
        hosts.check_steering(&mut Cx::new(store, worker, now, &mut Vec::new()), &world.rules, is_followed);
        let events = world.events(vm, now).into_iter().flat_map(|events| events.list);
        events.filter(|event| event.kind == HostEventKind::Unfollowed).count()
    };
    // One in a hundred may have been sent to hosts that have left.
    let said: usize = (0..1000).map(|number| check(&mut world, 0, number % 100 != 0, 1)).sum();
    assert_eq!((said, world.table().is_unfollowed()), (0, false));
    // One in four has not been named the host that it came to.
    let said: usize = (0..100).map(|number| check(&mut world, 0, number % 4 != 0, 2)).sum();
    assert_eq!((said, world.table().is_unfollowed()), (1, true));
    let said: usize = (0..1000).map(|number| check(&mut world, 1, number % 4 != 0, 500)).sum();
    assert_eq!(said, 0, "once in ten minutes");
    check(&mut world, 1, false, 501);
    for number in 0..200 {
        assert!(world.table().is_unfollowed(), "{number}");
        check(&mut world, 1, true, 501);
    }
    assert!(!world.table().is_unfollowed());
}

#[test]
fn where_a_route_has_no_name_nobody_is_steered_and_that_is_said_once() {
    let mut world = World::new(RUNS, 1, 3);
    for number in 0..3 {
        label(&mut world, number, 7, t(1));
    }
    world.fails(0, 0, 5, t(1));
    assert!(steer_selected(&mut world, 0, None, t(2)).is_some(), "all of one label: there are no subsets");
    label(&mut world, 2, 8, t(3));
    assert!(!world.vms[0].hosts.has_subsets(), "not looked at each time");
    label(&mut world, 2, 8, t(11_001));
    let mut said = Vec::new();
    for second in [12, 13, 500, 611, 613, 700] {
        assert_eq!(steer_selected(&mut world, 0, None, t(second * 1000)), None);
        let events = world.events(0, t(second * 1000)).into_iter().flat_map(|events| events.list);
        said.extend(events.filter(|event| event.kind == HostEventKind::RouteUnnamed).map(|_| second));
    }
    assert_eq!(said, [12, 613], "every ten minutes");
}

#[test]
fn the_probe_is_named_first_and_by_one_request() {
    let mut world = World::new(RUNS, 3, 5);
    world.fails(0, 2, 5, t(0));
    assert!(world.steer(1, t(4_999)).unwrap().probe.is_none());
    // What goes unsteered meanwhile is another story.
    for millis in [5_000, 10_000, 15_000, 20_000, 25_000] {
        world.steer(1, t(millis));
    }
    assert!(world.steer(1, t(29_999)).unwrap().probe.is_none(), "29,999 ms: still out");
    let probe = world.steer(1, t(30_001)).unwrap();
    let (id, named) = probe.probe.clone().unwrap();
    assert_eq!((named, first(&probe)), (address(2), &*address(2)), "30,001 ms: due");
    assert_eq!(probe.hosts.split(',').count(), 4, "others are named for its further tries");
    for vm in 0..3 {
        assert!(
            world.steer_as(vm, 1, false, t(30_002)).is_none_or(|other| other.probe.is_none()),
            "one permit over all workers"
        );
    }
    world.judge(1, address(2).as_bytes(), Verdict::Failure, t(30_001), Some(id), t(30_010));
    assert!(world.is_out(2), "it failed");
    for vm in 0..3 {
        assert!(world.steer(vm, t(90_009)).is_none_or(|other| other.probe.is_none()), "59,999 ms later: still out");
    }
    let probe = world.steer(0, t(90_011)).unwrap();
    let (id, _) = probe.probe.unwrap();
    world.judge(2, address(2).as_bytes(), Verdict::Success, t(90_011), Some(id), t(90_020));
    assert!(!world.is_out(2));
    assert_eq!(world.steer(0, t(90_021)), None, "nobody is out");
}

#[test]
fn what_cannot_be_tried_again_leaves_the_probe_to_others_for_a_second() {
    let mut world = World::new(RUNS, 1, 5);
    world.fails(0, 2, 5, t(0));
    assert_eq!(world.steer_as(0, 3, true, t(29_000)), None, "it was time for one to go unsteered");
    assert!(world.steer_as(0, 3, true, t(30_000)).unwrap().probe.is_none(), "30,000 ms: it waits");
    assert!(world.steer_as(0, 3, true, t(30_999)).unwrap().probe.is_none(), "30,999 ms: still");
    assert!(world.steer_as(0, 3, true, t(31_000)).unwrap().probe.is_some(), "31,000 ms: nobody else came");
}

#[test]
fn what_can_be_tried_again_is_the_probe_at_once() {
    let mut world = World::new(RUNS, 1, 5);
    world.fails(0, 2, 5, t(0));
    assert!(world.steer_as(0, 3, false, t(30_000)).unwrap().probe.is_some());
}

/// When requests went unsteered, one coming each millisecond to one worker after another.
fn unsteered(world: &mut World, millis: core::ops::Range<u64>) -> Vec<u64> {
    millis.filter(|millis| world.steer(*millis as usize % 3, t(*millis)).is_none()).collect()
}

#[test]
fn one_request_goes_unsteered_ever_more_seldom_over_all_workers() {
    let mut world = World::new(r#""consecutive_failures":5,"base_ejection_time":"300s""#, 3, 5);
    world.fails(0, 2, 5, t(0));
    assert_eq!(unsteered(&mut world, 0..200_000), [5_000, 15_000, 35_000, 75_000, 135_000, 195_000]);
}

#[test]
fn the_fewer_are_out_the_more_requests_go_unsteered() {
    let mut world = World::new(r#""consecutive_failures":5,"base_ejection_time":"300s""#, 3, 100);
    world.fails(0, 2, 5, t(0));
    let gaps = [250, 750, 1_750, 3_750, 6_750, 9_750];
    assert_eq!(unsteered(&mut world, 0..10_000), gaps, "one of a hundred: twenty times as many, and as many meet it");
}

#[test]
fn where_one_new_host_was_found_others_are_looked_for_at_once() {
    let mut world = World::new(r#""consecutive_failures":5,"base_ejection_time":"300s""#, 3, 5);
    world.fails(0, 2, 5, t(0));
    assert_eq!(unsteered(&mut world, 0..20_000), [5_000, 15_000]);
    world.addresses.push(address(5));
    world.ends(0, 5, Verdict::Success, t(20_000));
    let after = unsteered(&mut world, 20_001..30_000);
    assert_eq!(after, [20_001, 20_002, 20_003, 20_004, 20_005, 20_006, 24_173], "a round of six, and then as at first");
}

#[test]
fn where_the_hosts_are_read_elsewhere_nobody_goes_unsteered() {
    let mut world = World::new(
        r#""consecutive_failures":5,"base_ejection_time":"60s","discover":{"cluster":"admin","path":"/clusters"}"#,
        3,
        5,
    );
    world.fails(0, 2, 5, t(0));
    assert!((0..60_000).step_by(100).all(|millis| world.steer(0, t(millis)).is_some()));
}

#[test]
fn a_group_whose_requests_cannot_be_tried_again_finds_new_hosts_too() {
    let mut world = World::new(r#""consecutive_failures":5,"base_ejection_time":"60s""#, 1, 5);
    world.fails(0, 2, 5, t(0));
    let unsteered = (0..60_000).step_by(100).filter(|millis| world.steer_as(0, 3, true, t(*millis)).is_none()).count();
    assert!(unsteered > 0, "or a host that is added gets nothing for as long as another is out");
}

#[test]
fn a_worker_that_learns_only_while_it_steers_that_nobody_is_left_does_not_steer() {
    let mut world = World::on(MemoryStore::unsignalled(), RUNS, 2, 5);
    world.fails(0, 3, 5, t(0));
    world.look(1, t(5_000));
    // Within the 10 ms that a view lasts another worker sends the unsteered request, and all hosts but the bad one go.
    assert_eq!(world.steer(0, t(5_001)), None);
    let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
    hosts.list(
        &mut Cx::new(store, worker, t(5_001), &mut Vec::new()),
        &world.rules,
        &HostListing::of_named(&[NamedHost::at(address(3))]),
        &[],
    );
    assert_eq!(world.steer(1, t(5_002)), None, "there is no other host");
}

#[test]
fn a_permit_that_turns_out_not_to_be_steered_is_not_kept() {
    let mut world = World::on(MemoryStore::unsignalled(), r#""consecutive_failures":5,"max_ejected":100"#, 2, 3);
    world.fails(0, 0, 5, t(0));
    world.look(1, t(30_000));
    for host in [1, 2] {
        world.fails(0, host, 5, t(30_001));
    }
    assert_eq!(world.steer(1, t(30_002)), None, "all are out: it goes anywhere");
    let table = world.table();
    let host = table.host(table.find(address(0).as_bytes()).unwrap()).unwrap();
    assert!(host.wants_probe(&world.rules, t(30_003)), "and holds no permit for ten seconds");
}

#[test]
fn below_the_panic_threshold_nobody_is_steered_and_any_attempt_is_the_probe() {
    let mut world = World::new(r#""consecutive_failures":5,"max_ejected":100"#, 1, 4);
    for host in 0..3 {
        world.fails(0, host, 5, t(0));
    }
    assert_eq!(world.table().out(), 3);
    assert_eq!(world.steer(0, t(1)), None, "one of four is less than half");
    assert_eq!(world.steer(0, t(31_000)), None, "and nobody is a probe by name");
    world.ends(0, 0, Verdict::Success, t(31_000));
    world.ends(0, 1, Verdict::Failure, t(31_000));
    assert!(!world.is_out(0) && world.is_out(1));
    let steering = world.steer(0, t(31_001)).unwrap();
    assert_eq!((steering.out, steering.of), (2, 4), "two of four are enough");
    assert_eq!(steering.probe.unwrap().1, address(2), "and the third gets its probe");
}

#[test]
fn slow_starters_get_a_tenth_of_their_turns_at_first() {
    let mut world = World::new(r#""consecutive_failures":5,"slow_start":"100s""#, 1, 5);
    world.fails(0, 2, 5, t(0));
    world.ends(0, 2, Verdict::Success, t(30_000));
    let served = |world: &mut World, millis: u64| {
        let now = t(30_000 + millis);
        (0..10_000).filter(|_| world.steer(0, now).is_some_and(|one| first(&one) == address(2))).count()
    };
    let at_first = served(&mut world, 1);
    assert!((150..=350).contains(&at_first), "{at_first} of 10,000: about a tenth of 2,000");
    let halfway = served(&mut world, 50_000);
    assert!((900..=1_400).contains(&halfway), "{halfway}: about half of them");
    let late = served(&mut world, 99_000);
    assert!((1_850..=2_050).contains(&late), "{late}: nearly all");
}

#[test]
fn the_others_share_what_a_slow_starter_does_not_take() {
    let mut world = World::new(r#""consecutive_failures":5,"slow_start":"100s""#, 1, 5);
    world.fails(0, 2, 5, t(0));
    world.ends(0, 2, Verdict::Success, t(30_000));
    let mut served: HashMap<String, usize> = HashMap::new();
    for _ in 0..10_000 {
        if let Some(steering) = world.steer(0, t(30_001)) {
            *served.entry(first(&steering).to_owned()).or_default() += 1;
        }
    }
    served.remove(&address(2));
    assert!(served.values().all(|count| (2_250..=2_650).contains(count)), "{served:?}");
}

#[test]
fn while_one_starts_slowly_no_more_requests_go_unsteered_than_while_it_was_out() {
    let mut world = World::new(r#""consecutive_failures":5,"slow_start":"300s""#, 3, 5);
    world.fails(0, 2, 5, t(0));
    world.ends(0, 2, Verdict::Success, t(30_000));
    assert_eq!(world.table().out(), 0);
    // Each of them may go to the one that is to have few.
    assert_eq!(unsteered(&mut world, 30_001..120_000), [30_001, 40_001, 60_001, 100_001]);
}

// Probes that go astray

#[test]
fn an_ignored_probe_gives_its_permit_back() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 2, 5, t(0));
    let (id, named) = world.steer(0, t(30_000)).unwrap().probe.unwrap();
    world.judge(1, named.as_bytes(), Verdict::Ignored, t(30_000), Some(id), t(30_010));
    assert!(world.steer(1, t(30_011)).unwrap().probe.is_some(), "at once another may be");
}

#[test]
fn a_late_ignored_probe_gives_back_its_own_permit_and_not_anothers() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 2, 5, t(0));
    let (late, named) = world.steer(0, t(30_000)).unwrap().probe.unwrap();
    assert!(world.steer(0, t(40_001)).is_some_and(|one| one.probe.is_some()), "the first one's lease is over");
    world.judge(0, named.as_bytes(), Verdict::Ignored, t(30_000), Some(late), t(41_000));
    let third = world.steer(1, t(41_001));
    assert!(third.is_none_or(|one| one.probe.is_none()), "the second is still under way");
}

#[test]
fn an_ignored_attempt_that_was_no_probe_gives_no_permit_back() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 2, 5, t(0));
    assert!(world.steer(0, t(30_000)).unwrap().probe.is_some());
    // An unsteered request happened to go there as well.
    world.ends_sent(1, 2, Verdict::Ignored, t(30_001), t(30_005));
    let second = world.steer(1, t(30_006));
    assert!(second.is_none_or(|one| one.probe.is_none()), "the probe is still under way");
}

#[test]
fn a_probe_that_another_host_answered_shows_that_its_host_is_gone() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 2, 5, t(0));
    let (id, _) = world.steer(0, t(30_000)).unwrap().probe.unwrap();
    world.judge(1, address(1).as_bytes(), Verdict::Success, t(30_000), Some(id), t(30_010));
    assert_eq!((world.table().known(), world.table().find(address(2).as_bytes())), (4, None));
}

#[test]
fn a_probe_that_no_host_answered_shows_nothing() {
    for host in [&b""[..], b"/var/run/app.sock", b"nonsense"] {
        let mut world = World::new(RUNS, 2, 5);
        world.fails(0, 2, 5, t(0));
        let (id, _) = world.steer(0, t(30_000)).unwrap().probe.unwrap();
        world.judge(1, host, Verdict::Failure, t(30_000), Some(id), t(30_010));
        assert!(world.is_out(2), "a try without a host, {host:?}, is no other host's");
    }
}

#[test]
fn a_probe_answered_after_its_lease_still_counts_and_a_third_is_not_sent() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 2, 5, t(0));
    let (id, named) = world.steer(0, t(30_000)).unwrap().probe.unwrap();
    assert!(world.steer(0, t(40_001)).is_some_and(|one| one.probe.is_some()));
    world.judge(0, named.as_bytes(), Verdict::Success, t(30_000), Some(id), t(41_000));
    assert!(!world.is_out(2), "slow, and a success");
    world.judge(0, named.as_bytes(), Verdict::Failure, t(40_001), Some(id), t(42_000));
    assert!(!world.is_out(2), "the second was sent before it came back");
}

// A clock that jumps

#[test]
fn whatever_the_clock_does_a_healthy_host_is_back_soon() {
    for back in [1_000, 60_000, 500_000, HOUR, 1_000 * HOUR] {
        let mut world = World::new(RUNS, 1, 5);
        let start = 2_000 * HOUR;
        world.fails(0, 2, 5, t(start));
        // From now on all is well, by a clock that was put back.
        let mut is_back = None;
        for millis in (0..1_000_000).step_by(250) {
            let now = t(start + 10 - back + millis);
            let steering = world.steer(0, now);
            let probe = steering.and_then(|one| one.probe);
            let host = if probe.is_some() { 2 } else { 1 };
            let address = address(host);
            world.judge(0, address.as_bytes(), Verdict::Success, now, probe.map(|(id, _)| id), now.plus(MS));
            if !world.is_out(2) {
                is_back = Some(millis);
                break;
            }
        }
        assert!(is_back.is_some_and(|millis| millis <= 640_000), "put back by {back} ms: back after {is_back:?} ms");
    }
}

#[test]
fn whatever_the_clock_does_a_bad_host_is_ejected_again() {
    for back in [1_000, 60_000, HOUR, 1_000 * HOUR] {
        let mut world = World::new(RUNS, 1, 5);
        let start = 2_000 * HOUR;
        world.fails(0, 2, 5, t(start));
        world.ends(0, 2, Verdict::Success, t(start + 30_000));
        assert!(!world.is_out(2));
        let mut is_out = None;
        for millis in (0..1_000_000).step_by(250) {
            world.fails(0, 2, 1, t(start + 30_000 - back + millis));
            if world.is_out(2) {
                is_out = Some(millis);
                break;
            }
        }
        assert!(is_out.is_some_and(|millis| millis <= 61_000), "put back by {back} ms: out after {is_out:?} ms");
    }
}

// The sweep

#[test]
fn rates_are_added_up_over_all_workers_by_whoever_sweeps() {
    let mut world = World::new(r#""consecutive_failures":0,"failure_rate":{"min_requests":30,"min_hosts":1}"#, 3, 5);
    for number in 0..30 {
        world.ends(number % 3, 2, Verdict::Failure, t(1_000 + number as u64 * 20));
    }
    world.sweep(1, t(9_999));
    assert!(!world.is_out(2), "9,999 ms: the interval is not over");
    for vm in 0..3 {
        world.sweep(vm, t(10_099));
    }
    assert!(!world.is_out(2), "10,099 ms: what the others have counted may be on its way");
    world.sweep(2, t(10_100));
    assert!(world.is_out(2), "10,100 ms: 30 of 30");
}

#[test]
fn counts_of_a_worker_that_has_nothing_more_to_do_are_there_in_time() {
    let mut world = World::new(r#""consecutive_failures":0,"failure_rate":{"min_requests":30,"min_hosts":1}"#, 2, 5);
    world.sweep(0, t(9_900));
    for millis in 0..30 {
        world.ends(0, 2, Verdict::Failure, Timestamp(t(9_989).0 + millis * 300_000));
    }
    let due = world.vms[0].hosts.flush_due();
    assert!(due.is_none_or(|due| due <= t(10_010)), "it is to be written within 10 ms: {due:?}");
    let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
    hosts.flush(&mut Cx::new(store, worker, t(10_010), &mut Vec::new()), &world.rules);
    world.sweep(1, t(10_100));
    assert!(world.is_out(2), "the last of them 2 ms before the interval's end");
}

#[test]
fn short_intervals_of_large_groups_are_swept_when_all_has_been_written() {
    let rates = r#""consecutive_failures":0,"failure_rate":{"min_requests":30,"min_hosts":1},"interval":"100ms""#;
    let mut world = World::new(rates, 2, 1000);
    for millis in 1_000..1_400 {
        let now = t(millis);
        if (1_000..1_100).contains(&millis) {
            world.fails(0, 2, 1, now);
        }
        world.ends(0, 1, Verdict::Success, now);
        let (Vm { worker, hosts }, store) = (&mut world.vms[0], &mut world.store);
        if hosts.flush_due().is_some_and(|due| due <= now) {
            hosts.flush(&mut Cx::new(store, worker, now, &mut Vec::new()), &world.rules);
        }
        world.sweep(1, now);
    }
    assert!(world.is_out(2), "a hundred failures of a hundred tries");
}

#[test]
fn an_interval_is_swept_once_however_many_ask() {
    let mut world = World::new(
        r#""consecutive_failures":0,"failure_rate":{"min_requests":10,"min_hosts":1,"mode":"shadow"}"#,
        3,
        5,
    );
    for number in 0..30_u64 {
        world.ends(0, 2, Verdict::Failure, t(1_000 + number * 20));
    }
    for millis in 10_100..10_200 {
        world.sweep(millis as usize % 3, t(millis));
    }
    let events = world.events(0, t(10_200)).unwrap();
    let would = HostCount::Would(Detector::FailureRate);
    assert_eq!(events.counts().find(|(kind, _)| *kind == would).map(|(_, count)| count), Some(1));
}

#[test]
fn a_worker_whose_clock_reading_is_a_moment_old_sweeps_no_interval_again() {
    let mut world = World::new(
        r#""consecutive_failures":0,"failure_rate":{"min_requests":10,"min_hosts":1,"mode":"shadow"}"#,
        2,
        5,
    );
    for number in 0..30_u64 {
        world.ends(0, 2, Verdict::Failure, t(1_000 + number * 20));
    }
    world.sweep(0, t(10_100));
    for number in 0..30_u64 {
        world.ends(0, 2, Verdict::Failure, t(11_000 + number * 20));
    }
    // One worker reads the clock at 20,099 ms and is held up; the other sweeps at 20,100 ms; then the first goes on.
    world.sweep(0, t(20_100));
    world.sweep(1, t(20_099));
    world.sweep(0, t(20_101));
    let events = world.events(0, t(20_200)).unwrap();
    let would = HostCount::Would(Detector::FailureRate);
    assert_eq!(events.counts().find(|(kind, _)| *kind == would).map(|(_, count)| count), Some(2), "two intervals");
}

#[test]
fn an_interval_is_swept_after_the_clock_was_put_back_too() {
    let mut world = World::new(r#""consecutive_failures":0,"failure_rate":{"min_requests":10,"min_hosts":1}"#, 1, 5);
    world.sweep(0, t(HOUR + 10_100));
    for number in 0..30_u64 {
        world.ends(0, 2, Verdict::Failure, t(11_000 + number * 20));
    }
    world.sweep(0, t(20_100));
    assert!(world.is_out(2));
}

// News

#[test]
fn what_happened_is_told_once() {
    let mut world = World::new(RUNS, 3, 5);
    world.fails(0, 2, 5, t(0));
    let told: Vec<_> = (0..3).filter_map(|vm| world.events(vm, t(1))).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].list.len(), 1);
    assert!((0..3).all(|vm| world.events(vm, t(2_000)).is_none()));
}

#[test]
fn damaged_bytes_are_a_new_group() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 2, 5, t(0));
    world.store.set(&group().table(), b"nonsense");
    world.store.raise_epoch();
    assert_eq!(world.steer(1, t(1)), None);
    world.fails(1, 2, 5, t(2));
    assert_eq!(world.table().known(), 1, "it is learned anew");
}

// A changed block

/// Host 3 of five went out at 5 ms, and that was told.
fn out_before() -> World {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 3, 5, t(5));
    world.events(0, t(5)).unwrap();
    world
}

#[test]
fn the_first_request_under_a_changed_policy_keeps_away_from_the_host_that_is_out() {
    let mut world = out_before();
    world.change(r#""consecutive_failures":6"#);
    let steering = world.steer(0, t(1_000)).expect("a host is out");
    assert_eq!((steering.out, steering.of, steering.probe), (1, 5, None));
    assert!(!steering.hosts.contains(&address(3)), "{}", steering.hosts);
    let probe = world.steer(1, t(30_005)).and_then(|steering| steering.probe);
    assert_eq!(probe.map(|(_, host)| host), Some(address(3)), "at the time that was set");
}

#[test]
fn what_is_taken_over_is_told_once_and_what_the_old_policy_told_is_not_told_again() {
    let mut world = out_before();
    world.fails(0, 1, 5, t(6));
    world.change(r#""consecutive_failures":6"#);
    assert!(world.steer(0, t(1_000)).is_some() && world.steer(1, t(1_000)).is_some());
    let events = world.events(1, t(1_000)).unwrap();
    assert_eq!(events.counts().count(), 0, "two ejections are in the counters of the block before");
    let [event] = &events.list[..] else { panic!("{events:?}") };
    assert_eq!(event.kind, HostEventKind::TakenOver(Duration::from_millis(29_005)));
    assert_eq!((event.host.as_slice(), event.out, event.of), (address(3).as_bytes(), 2, 5));
    assert!(world.events(0, t(1_001)).is_none());
}

#[test]
fn runs_of_failures_begin_afresh_under_a_changed_policy() {
    let mut world = World::new(RUNS, 2, 5);
    world.fails(0, 3, 4, t(5));
    world.change(r#""consecutive_failures":5,"max_ejected":40"#);
    world.look(0, t(6));
    assert_eq!(world.table().known(), 5, "the hosts are known at once");
    world.fails(0, 3, 4, t(7));
    assert!(!world.is_out(3));
    world.fails(1, 3, 1, t(8));
    assert!(world.is_out(3));
}

#[test]
fn a_worker_that_looked_before_sees_the_hosts_that_another_has_taken_over() {
    let mut world = out_before();
    world.change(r#""consecutive_failures":6"#);
    world.vms[0].hosts = Hosts::new(group_of(8), mark(8), Vec::new());
    assert!(world.steer(0, t(10)).is_none(), "it does not know of the block before");
    assert!(world.steer(1, t(11)).is_some());
    assert!(world.steer(0, t(12)).is_some());
}

#[test]
fn what_the_block_before_finds_after_it_was_taken_over_is_its_own() {
    let mut world = World::new(RUNS, 2, 0);
    world.change(r#""consecutive_failures":6"#);
    world.look(0, t(0));
    let mut old = Vm { worker: Worker::new(9), hosts: Hosts::new(group_of(7), mark(7), Vec::new()) };
    let (rules, mut store) = (rules(RUNS), world.store.clone());
    let host = address(3);
    let one = HostAttempt { host: host.as_bytes(), end: End::Reset, verdict: Verdict::Failure, took: MS, sent: t(1) };
    for _ in 0..5 {
        let mut none = Vec::new();
        old.hosts.judge(&mut Cx::new(&mut store, &mut old.worker, t(1), &mut none), &rules, one, None);
    }
    assert_eq!(old.hosts.table().map(HostTable::out), Some(1));
    assert!(world.steer(1, t(2)).is_none());
    assert_eq!(world.table().known(), 0);
}

#[test]
fn the_first_interval_that_is_swept_is_the_one_in_which_it_was_taken_over() {
    let rates = r#""consecutive_failures":0,"failure_rate":{"min_requests":4,"min_hosts":1},"interval":"7s""#;
    let mut world = World::new(RUNS, 2, 5);
    world.change(rates);
    let second = (t(0).0 / 7_000_000_000 + 1) * 7_000_000_000;
    let begin = Timestamp(second);
    world.look(0, begin.plus(MS));
    let writes = world.calls().1;
    world.sweep(0, begin.plus(MS * 200));
    assert_eq!(world.calls().1, writes, "nothing was counted before");
    for vm in 0..2 {
        world.fails(vm, 3, 2, begin.plus(MS * 300));
        let (Vm { worker, hosts }, store) = (&mut world.vms[vm], &mut world.store);
        hosts.flush(&mut Cx::new(store, worker, begin.plus(MS * 400), &mut Vec::new()), &world.rules);
    }
    world.sweep(1, begin.plus(MS * 7_200));
    assert!(world.is_out(3), "four of four in the first interval of 7 s");
}

/// Rules of which each request's host is chosen.
fn balanced(balance: &str) -> String {
    format!(
        r#""consecutive_failures":5,"max_ejected":100,"panic_threshold":50,"balance":{balance},
           "discover":{{"cluster":"a","path":"/"}}"#
    )
}

#[test]
fn a_balance_names_hosts_to_every_request() {
    let mut world = World::new(&balanced("\"round_robin\""), 2, 4);
    world.look(0, t(1));
    let steering = world.steer_as(0, 2, false, t(1)).expect("nobody is out, and hosts are named all the same");
    assert!(steering.is_plain() && steering.hosts.split(',').count() == 3, "{steering:?}");
    assert!(steering.leads_to(steering.hosts.split(',').next().unwrap().as_bytes()));
    world.fails(0, 1, 5, t(2));
    for vm in [0, 1] {
        for _ in 0..20 {
            let steering = world.steer_as(vm, 3, false, t(20)).unwrap();
            assert!(!steering.is_plain() && !steering.hosts.split(',').any(|host| host == address(1)));
        }
    }
    assert!(world.steer(1, t(40_000)).unwrap().probe.is_some(), "its time is over");
}

#[test]
fn in_a_panic_a_balance_has_all_hosts_to_choose_from() {
    for balance in ["\"weighted\"", "\"random\"", "{\"hash\":\"path\"}"] {
        let mut world = World::new(&balanced(balance), 1, 4);
        for host in 0..3 {
            world.fails(0, host, 5, t(1));
        }
        let named: HashSet<String> = (0..100).map(|_| world.steer(0, t(2)).unwrap().hosts).collect();
        let first: HashSet<&str> = named.iter().filter_map(|hosts| hosts.split(',').next()).collect();
        assert_eq!(first.len(), 4, "{balance}: {named:?}");
    }
}

#[test]
fn a_balance_chooses_nothing_in_a_shadow_or_in_subsets_or_of_hosts_that_it_does_not_know_all() {
    let mut shadow = World::new(&format!(r#"{},"mode":"shadow""#, balanced("\"random\"")), 1, 3);
    shadow.look(0, t(1));
    assert_eq!(shadow.steer(0, t(1)), None);

    let mut subsets = World::new(&balanced("\"random\""), 1, 3);
    subsets.look(0, t(1));
    assert!(subsets.steer(0, t(1)).is_some());
    label(&mut subsets, 0, 7, t(1));
    label(&mut subsets, 1, 8, t(1));
    assert_eq!(steer_selected(&mut subsets, 0, Some(100), t(2)), None, "where it leads could not be seen any more");

    let mut empty = World::new(&balanced("\"random\""), 1, 0);
    empty.look(0, t(1));
    assert_eq!(empty.steer(0, t(1)), None, "nobody is known yet");
}

#[test]
fn what_is_in_flight_counts_while_the_request_lasts() {
    let mut world = World::new(&balanced("\"least_request\""), 1, 2);
    world.look(0, t(1));
    // Of two each goes to the one that has fewer.
    let held: Vec<Steering> = (0..40).map(|_| world.steer(0, t(1)).unwrap()).collect();
    let of = |host: usize| held.iter().filter(|one| one.leads_to(address(host).as_bytes())).count();
    assert!(of(0).abs_diff(of(1)) <= 4, "{} and {}", of(0), of(1));
    drop(held);
    let ids: Vec<HostId> = world.table().hosts().map(|(id, _)| id).collect();
    assert!(ids.into_iter().all(|id| world.vms[0].hosts.loads.in_flight(id) == 0));
}

#[test]
fn a_host_that_has_been_slow_is_passed_over_for_a_while() {
    let mut world = World::new(&balanced("\"least_latency\""), 1, 3);
    world.look(0, t(1));
    for host in 0..3 {
        let id = world.table().find(address(host).as_bytes()).unwrap();
        world.vms[0].hosts.observe(id, if host == 0 { 50 * MS } else { MS }, false, t(1));
    }
    let mut to_slow = |second: u64| {
        let many = (0..300).map(|_| world.steer(0, t(1000 * second)).unwrap());
        many.filter(|one| one.leads_to(address(0).as_bytes())).count()
    };
    assert!(to_slow(1) < 15, "only where it is drawn twice");
    assert!(to_slow(10_000) > 50, "what it was long ago says nothing any more");
}
