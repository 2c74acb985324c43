//! Two hundred hosts at once: all of them fail, and all of them are replaced.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_host_tests::trace::{Clock, Trace};
use holdfast_host_tests::{Builder, Host, Reaction, Response};

use crate::fleet::{Fleet, Machine, Outage, Traffic, Users, Way, addresses, within};
use crate::support::{count, policy, seconds};

const HOSTS: usize = 200;
const WORKERS: usize = 16;
const PER_SECOND: u32 = 30;
const RETRY: &str = r#""retry":{"max_retries":2,"per_try_timeout":"1s","timeout":"5s"}"#;

fn minutes(minutes: u64) -> Duration {
    seconds(60 * minutes)
}

fn refs(addresses: &[String]) -> Vec<&str> {
    addresses.iter().map(String::as_str).collect()
}

/// A cluster in an upheaval, and what is told of it.
struct Upheaval<'a> {
    fleet: Fleet,
    traffic: Traffic,
    trace: &'a mut Trace,
    /// What was told last, and when.
    told: (Duration, Users),
    /// How many hosts were out and known at most, by the gauges.
    most_out: u64,
    most_known: u64,
}

impl<'a> Upheaval<'a> {
    /// Of all hosts that there ever are, the first are there from the beginning; `outages` by number.
    fn start(
        trace: &'a mut Trace,
        outlier: &str,
        all: &[String],
        outages: impl Fn(usize) -> Vec<Outage>,
        with: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let machines = all.iter().enumerate().map(|(at, address)| (address.clone(), Machine::new(outages(at))));
        let fleet = Fleet::new(machines.collect(), 22);
        let serving = fleet.clone();
        let host = Host::with(&policy(&format!(r#"{RETRY},"outlier":{{{outlier}}}"#))).workers(WORKERS).attempt_seat();
        let host = host.override_host(&refs(&all[..HOSTS])).answering_tries(move |arrival| serving.serve(arrival));
        let traffic = Traffic::new(with(host).start(), PER_SECOND, 23);
        let told = (Duration::ZERO, Users::default());
        Upheaval { fleet, traffic, trace, told, most_out: 0, most_known: 0 }
    }

    fn now(&self) -> Duration {
        self.traffic.host.elapsed()
    }

    fn out(&self) -> u64 {
        count(&self.traffic.host, "hosts_ejected")
    }

    fn known(&self) -> u64 {
        count(&self.traffic.host, "hosts")
    }

    /// Goes on for a second, and tells what was in each `every` seconds.
    fn step(&mut self, every: u64) {
        self.traffic.run(seconds(self.now().as_secs() + 1));
        (self.most_out, self.most_known) = (self.most_out.max(self.out()), self.most_known.max(self.known()));
        let now = self.now();
        if !now.as_secs().is_multiple_of(every) {
            return;
        }
        let (from, before) = std::mem::replace(&mut self.told, (now, self.traffic.users));
        let (users, (tries, failed)) = (self.traffic.users.since(before), self.fleet.tries(from, now));
        let (busy, out, known) = (self.busy(from, now), self.out(), self.known());
        self.trace.line(format_args!(
            "{}  {} requests, {} failed; {tries} tries to {busy} hosts, {failed} failed; {out} of {known} hosts out",
            Clock(now),
            users.requests,
            users.failed,
        ));
    }

    /// How many hosts got attempts.
    fn busy(&self, from: Duration, to: Duration) -> usize {
        self.fleet.see(|machines| machines.values().filter(|one| within(&one.tries, from, to) > 0).count())
    }

    fn end(&mut self) {
        self.traffic.stop();
        let names = ["ejections.consecutive_failures", "ejections_overflow", "probe_failed", "readmitted"];
        let counts = names.map(|name| format!("{name} {}", count(&self.traffic.host, name)));
        self.trace.line(counts.join(", "));
    }
}

/// The zone of all hosts fails for five minutes.
const FAILS: Duration = Duration::from_secs(60);
const REPAIRED: Duration = Duration::from_secs(360);

/// After how long all were back.
fn zone_fails<'a>(trace: &'a mut Trace, max_ejected: u64) -> (Upheaval<'a>, Duration) {
    let outage = |at| vec![Outage { way: Way::ALL[at % 3], from: FAILS, to: REPAIRED }];
    let outlier = format!(r#""max_ejected":{max_ejected},"panic_threshold":50"#);
    let mut zone = Upheaval::start(trace, &outlier, &addresses(0, HOSTS), outage, |host| host);
    let mut back = None;
    // A probe that fails by chance puts its host out for two and a half minutes more.
    while zone.now() < minutes(12) {
        zone.step(30);
        if zone.now() > REPAIRED && zone.out() == 0 {
            back = back.or(Some(zone.now() - REPAIRED));
        }
    }
    let back = back.expect("all are back in the end");
    zone.trace.line(format_args!(
        "at most {} were out; all were back {}s after the repair",
        zone.most_out,
        back.as_secs()
    ));
    zone.end();
    (zone, back)
}

#[test]
fn when_a_zone_fails_no_more_hosts_are_out_than_may_be_and_all_come_back() {
    let mut trace = Trace::new("All 200 hosts fail for 5 minutes; 16 workers, 30 requests/s");
    trace.line("\n## At most half of them may be out");
    let (zone, back) = zone_fails(&mut trace, 50);
    assert_eq!(zone.most_out, 100, "half of them, and never one more");
    assert!(count(&zone.traffic.host, "ejections_overflow") > 0, "and it is counted that others should be");
    assert!(back <= seconds(132), "the fourth ejection lasts two minutes, and the fifth has not begun: {back:?}");
    let after = zone.fleet.tries(REPAIRED + seconds(5), minutes(9));
    assert!(after.1 * 100 < after.0, "as soon as they are repaired users are served, of those that are in: {after:?}");

    trace.line("\n## All of them may be out, and less than half left is a panic");
    let (zone, back) = zone_fails(&mut trace, 100);
    assert_eq!(zone.most_out, 200);
    assert_eq!(count(&zone.traffic.host, "ejections_overflow"), 0);
    // 7 attempts per host and minute: chance leaves a few out.
    let busy = zone.busy(FAILS + seconds(120), FAILS + seconds(180));
    assert!(busy >= 195, "with all of them out traffic spreads over all again: {busy}");
    assert!(back <= seconds(200), "also those that no request came to as soon as their time was over: {back:?}");
    let after = zone.fleet.tries(REPAIRED + seconds(5), minutes(9));
    assert!(after.1 * 100 < after.0, "and nobody waits for it: {after:?}");
    trace.check("outlier_zone");
}

/// From then on ten hosts leave and ten come each minute. One, which is bad, stays.
const DEPLOY: Duration = Duration::from_secs(120);
const AT_ONCE: usize = 10;

struct Deployed<'a> {
    upheaval: Upheaval<'a>,
    /// How long hosts that came waited for their first attempt, in order.
    waits: Vec<Duration>,
    /// Attempts of each host but the bad one in the last four minutes, in order.
    tries: Vec<usize>,
}

/// Goes on until so many have been replaced, and a few minutes more.
fn deploy<'a>(trace: &'a mut Trace, outlier: &str, replaced: usize) -> Deployed<'a> {
    let last = DEPLOY + minutes((replaced / AT_ONCE) as u64 - 1);
    let end = last + minutes(6);
    let all = addresses(0, 2 * HOSTS);
    let bad = |at| if at == 0 { vec![Outage { way: Way::Errors, from: seconds(60), to: end }] } else { Vec::new() };
    let listed = Rc::new(RefCell::new(all[..HOSTS].to_vec()));
    let listing = Rc::clone(&listed);
    let mut upheaval = Upheaval::start(trace, outlier, &all, bad, |host| {
        host.plain_cluster("admin", &["127.0.0.1:9901"]).answering_calls(move |_| {
            let body = format!(r#"{{"clusters":{{"orders":{:?}}}}}"#, listing.borrow());
            Some(Reaction::from(Response::status(200).body(body)))
        })
    });
    let mut came: BTreeMap<String, Duration> = BTreeMap::new();
    while upheaval.now() < end {
        let now = upheaval.now();
        if (DEPLOY..=last).contains(&now) && now.as_secs().is_multiple_of(60) {
            let gone = AT_ONCE * (1 + ((now - DEPLOY).as_secs() / 60) as usize);
            let mut hosts = all[gone..gone + HOSTS].to_vec();
            came.extend(hosts[HOSTS - AT_ONCE..].iter().map(|address| (address.clone(), now)));
            hosts[0].clone_from(&all[0]);
            upheaval.traffic.host.set_hosts(&refs(&hosts));
            *listed.borrow_mut() = hosts;
        }
        upheaval.step(60);
    }
    let (mut waits, mut tries) = upheaval.fleet.see(|machines| {
        let first = |(address, came): (&String, &Duration)| *machines[address].tries.first().unwrap_or(&end) - *came;
        let in_the_end = |address: &String| within(&machines[address].tries, end - minutes(4), end);
        let waits: Vec<Duration> = came.iter().map(first).collect();
        (waits, listed.borrow()[1..].iter().map(in_the_end).collect::<Vec<usize>>())
    });
    waits.sort();
    tries.sort();
    let (half, most) = (waits[waits.len() / 2].as_secs_f64(), waits[waits.len() - 1].as_secs_f64());
    let known = upheaval.most_known;
    upheaval.trace.line(format_args!(
        "of {} hosts that came half had a try within {half:.1}s, all within {most:.1}s",
        came.len()
    ));
    upheaval.trace.line(format_args!(
        "at most {known} were known; {} to {} tries each in the end",
        tries[0],
        tries[tries.len() - 1]
    ));
    let bad = upheaval.fleet.see(|machines| within(&machines[&all[0]].tries, seconds(60), end));
    upheaval.trace.line(format_args!("the bad one got {bad} tries"));
    upheaval.end();
    Deployed { upheaval, waits, tries }
}

impl Deployed<'_> {
    fn assert_well(&self) {
        let Deployed { upheaval, tries, .. } = self;
        let host = &upheaval.traffic.host;
        assert_eq!(upheaval.traffic.users.failed, 0, "no user sees anything of it");
        assert_eq!(count(host, "ejections.consecutive_failures"), 1, "the bad one is out throughout, and nobody else");
        assert_eq!(count(host, "ejections_overflow") + count(host, "readmitted"), 0);
        assert_eq!(upheaval.known(), HOSTS as u64, "in the end those are known that there are");
        let fair = tries.iter().sum::<usize>() / tries.len();
        assert!(tries[0] * 5 > fair * 2 && tries[tries.len() - 1] < 2 * fair, "new ones get their share: {tries:?}");
    }
}

#[test]
fn while_all_hosts_are_replaced_and_one_is_bad_new_ones_get_their_share_and_gone_ones_are_forgotten() {
    let mut trace =
        Trace::new("Of 200 hosts 10 leave and 10 come each minute, one stays and is bad; 16 workers, 30 requests/s");
    trace.line("\n## Hosts are learned from traffic");
    let deployed = deploy(&mut trace, "", HOSTS);
    deployed.assert_well();
    let most = deployed.waits[deployed.waits.len() - 1];
    assert!(most < seconds(360), "the last one that came is found in time: {most:?}");
    let known = deployed.upheaval.most_known;
    assert!(known <= 260, "who has left is forgotten within six minutes: {known} are known");

    trace.line("\n## Hosts are listed");
    let deployed = deploy(&mut trace, r#""discover":{"cluster":"admin","path":"/hosts"}"#, HOSTS / 2);
    deployed.assert_well();
    let half = deployed.waits[deployed.waits.len() / 2];
    assert!(half < seconds(10), "a listing each 5 s, and a turn each 7 s: {half:?}");
    assert!(deployed.upheaval.most_known <= 210, "who has left is forgotten at the next listing");
    trace.check("outlier_deploy");
}
