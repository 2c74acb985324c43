//! Which hosts a request is sent to, where Holdfast names them: while some are out, or always.
//!
//! They get what Envoy would give them: each [priority and locality](super::topology) its load. Within it the [balance](super::balance) of the
//! policy chooses, each host in turn by its weight where that leaves it to Envoy.

use core::iter::Cycle;
use std::vec::IntoIter;

use super::balance::load::{LeastLatency, LeastRequest, Loads};
use super::balance::{Candidate, Draws, Rendezvous, Turns, pick};
use super::table::{FULL_SHARE, Host, HostId, HostTable};
use super::topology::{self, Portion};
use super::trial::TRICKLE;
use crate::base::random::{Random, scale};
use crate::base::time::Timestamp;
use holdfast_policy::document::{Balance, Outlier};

/// The request header that names the hosts to the cluster's `override_host` balancing, in the order in which they are to be
/// tried.
pub const HEADER: &str = "x-holdfast-hosts";

/// What chooses among the hosts of a group.
#[derive(Debug)]
enum Chooser {
    InTurn(Turns),
    Drawn(Draws),
    ByHash(Rendezvous, Draws),
}

/// Hosts that share a load.
#[derive(Debug)]
struct Group {
    /// The same whichever others there are.
    name: u64,
    /// Of all requests, in thousandths of a percent.
    load: u32,
    chooser: Chooser,
}

/// The hosts that share a load, of those that are in and `may` get requests.
fn sharing<'a>(
    table: &'a HostTable,
    may: &dyn Fn(&Host) -> bool,
    is_in: &dyn Fn(&Host) -> bool,
) -> Vec<(Portion, Vec<(HostId, &'a Host)>)> {
    let parts = table.parts(may, is_in);
    let mut groups: Vec<_> = topology::portions(&parts).into_iter().map(|portion| (portion, Vec::new())).collect();
    // Of each part, which portions its healthy and its degraded hosts have.
    let mut portion_of = vec![[None; 2]; parts.len()];
    for (at, (portion, _)) in groups.iter().enumerate() {
        for part in &portion.parts {
            if let Some(of) = portion_of.get_mut(*part).and_then(|of| of.get_mut(usize::from(portion.is_degraded))) {
                *of = Some(at);
            }
        }
    }
    for (id, host) in table.hosts().filter(|(_, host)| is_in(host) && may(host)) {
        let at = portion_of.get(table.part_of(host)).and_then(|of| of.get(usize::from(host.topology.is_degraded)));
        if let Some((_, hosts)) = at.copied().flatten().and_then(|at| groups.get_mut(at)) {
            hosts.push((id, host));
        }
    }
    groups
}

/// What a host's turns weigh. Where all are alike, the same.
fn weight(balance: &Balance, host: &Host) -> u32 {
    if matches!(balance, Balance::RoundRobin | Balance::Random) { 1 } else { host.topology.weight.max(1) }
}

/// A host that is out and trickles, and the share of all requests that it gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trickle {
    /// Who it is.
    pub host: HostId,
    /// From 0 to 1.
    pub share: f64,
}

/// Those of a table. Each gets a part of what it would get if all of them were in.
pub fn trickles(table: &HostTable, rules: &Outlier) -> Vec<Trickle> {
    if !table.hosts().any(|(_, host)| host.trickles()) {
        return Vec::new();
    }
    let would_be_in = |host: &Host| host.is_in() || host.trickles();
    let weight = |host: &Host| f64::from(weight(rules.acting_balance(), host));
    let part = f64::from(TRICKLE) / f64::from(FULL_SHARE);
    let groups = sharing(table, &|_| true, &would_be_in);
    let shares = groups.iter().flat_map(|(portion, hosts)| {
        let all: f64 = hosts.iter().map(|(_, host)| weight(host)).sum();
        let of_one = f64::from(portion.load) / f64::from(topology::ALL) / all.max(1.0) * part;
        let trickling = hosts.iter().filter(|(_, host)| host.trickles());
        trickling.map(move |(id, host)| Trickle { host: *id, share: of_one * weight(host) })
    });
    shares.collect()
}

/// How one worker spreads requests over the hosts.
#[derive(Debug, Default)]
pub struct Rotation {
    groups: Vec<Group>,
    /// Whether too few hosts are left to leave the others out.
    panics: bool,
}

/// What is known when a request is sent.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The hosts.
    pub table: &'a HostTable,
    /// Their rules.
    pub rules: &'a Outlier,
    /// How many hosts are named.
    pub wanted: usize,
    /// The hash of what the request's host is chosen by, if it has that.
    pub hash: Option<u64>,
    /// What this worker knows of how busy the hosts are.
    pub loads: &'a Loads,
    /// The time.
    pub now: Timestamp,
}

impl Rotation {
    /// Begins anew with the hosts that are in, of those that `may` get requests; in a panic with all of them.
    pub fn new(
        table: &HostTable,
        rules: &Outlier,
        may: &dyn Fn(&Host) -> bool,
        panics: bool,
        random: &mut Random,
    ) -> Self {
        let is_in = |host: &Host| panics || host.is_in();
        let groups = sharing(table, may, &is_in).into_iter().map(|(portion, hosts)| {
            let name = portion.parts.first().map_or(0, |part| *part as u64 * 2 + u64::from(portion.is_degraded));
            let chooser = Chooser::new(rules.acting_balance(), hosts.into_iter(), random);
            Group { name, load: portion.load, chooser }
        });
        let groups = groups.collect();
        Rotation { groups, panics }
    }

    /// The hosts to be tried, if any is in: as long as there are others each once.
    pub fn next(&mut self, asked: &Asked<'_>, random: &mut Random) -> Vec<HostId> {
        let mut named = Vec::with_capacity(asked.wanted);
        // Of each group that has been drawn, who has its next turns, and how many of them have not had theirs.
        let mut drawn: Vec<(usize, Cycle<IntoIter<HostId>>, usize)> = Vec::new();
        for _ in 0..asked.wanted {
            // Each attempt is sent like any other request, but not to the same host again.
            let is_spent = |group: usize| drawn.iter().any(|(other, _, left)| *other == group && *left == 0);
            let at = self.draw(asked.hash, random, &|group| !is_spent(group));
            let Some(at) = at.or_else(|| self.draw(asked.hash, random, &|_| true)) else { break };
            if !drawn.iter().any(|(group, ..)| *group == at) {
                let panics = self.panics;
                let Some(group) = self.groups.get_mut(at) else { break };
                let next = group.chooser.next(asked, panics, random);
                let left = next.len();
                drawn.push((at, next.into_iter().cycle(), left));
            }
            if let Some((_, next, left)) = drawn.iter_mut().find(|(group, ..)| *group == at) {
                *left = left.saturating_sub(1);
                named.extend(next.next());
            }
        }
        named
    }

    /// Draws one of the groups that `may` be drawn, by its load; requests with the same hash draw the same one.
    fn draw(&self, hash: Option<u64>, random: &mut Random, may: &dyn Fn(usize) -> bool) -> Option<usize> {
        if self.groups.len() == 1 {
            return may(0).then_some(0);
        }
        let groups = || self.groups.iter().enumerate().filter(|(at, _)| may(*at));
        if let Some(hash) = hash {
            let at = pick(hash, groups().map(|(_, group)| (group.name, group.load)))?;
            return groups().nth(at).map(|(at, _)| at);
        }
        let all: u64 = groups().map(|(_, group)| u64::from(group.load)).sum();
        let mut drawn = scale(random.next(), all);
        let by_load = groups().find(|(_, group)| {
            let is_it = drawn < u64::from(group.load);
            drawn = drawn.saturating_sub(group.load.into());
            is_it
        });
        by_load.or_else(|| groups().next()).map(|(at, _)| at)
    }
}

impl Chooser {
    fn new<'a>(balance: &Balance, hosts: impl Iterator<Item = (HostId, &'a Host)>, random: &mut Random) -> Self {
        let candidate = |id, host: &Host| Candidate { host: id, weight: weight(balance, host) };
        let hosts: Vec<(Candidate, &[u8])> =
            hosts.map(|(id, host)| (candidate(id, host), host.address.as_slice())).collect();
        let candidates = hosts.iter().map(|(candidate, _)| *candidate).collect();
        match balance {
            Balance::Envoy | Balance::RoundRobin | Balance::Weighted => Chooser::InTurn(Turns::new(candidates, random)),
            Balance::Random | Balance::LeastRequest | Balance::LeastLatency => Chooser::Drawn(Draws::new(candidates)),
            Balance::Hash(_) => Chooser::ByHash(Rendezvous::new(hosts.into_iter()), Draws::new(candidates)),
        }
    }

    /// The hosts to be tried: at most so many as are wanted, each once. One that is starting has a part of its weight.
    fn next(&mut self, asked: &Asked<'_>, panics: bool, random: &mut Random) -> Vec<HostId> {
        let Asked { table, rules, wanted, hash, loads, now } = *asked;
        let share = |host: HostId| {
            if panics { FULL_SHARE } else { table.host(host).map_or(0, |host| host.share(rules, now)) }
        };
        match self {
            Chooser::InTurn(turns) => turns.next(wanted, share),
            Chooser::Drawn(draws) => match rules.acting_balance() {
                Balance::LeastRequest => draws.next(wanted, random, share, Some(&LeastRequest(loads))),
                Balance::LeastLatency => draws.next(wanted, random, share, Some(&LeastLatency(loads, now))),
                _ => draws.next(wanted, random, share, None),
            },
            Chooser::ByHash(hosts, draws) => match hash {
                Some(hash) => hosts.next(hash, wanted, share),
                None => draws.next(wanted, random, share, None),
            },
        }
    }
}

/// Whether the header's value names the host with this address.
#[must_use]
pub fn names(value: &[u8], address: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|named| named == address)
}

/// The header's value.
pub fn header(table: &HostTable, hosts: &[HostId]) -> String {
    let mut value = String::with_capacity(hosts.len() * 24);
    for host in hosts.iter().filter_map(|id| table.host(*id)) {
        if !value.is_empty() {
            value.push(',');
        }
        // Addresses have been checked when they were entered.
        value.push_str(core::str::from_utf8(&host.address).unwrap_or_default());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::attempt::End;
    use crate::outlier::cause::EjectionCause;
    use crate::outlier::table::Ejection;
    use crate::outlier::topology::{HostListing, ListedHost, Locality, Topology};
    use holdfast_policy::config;
    use holdfast_policy::document::Detector;
    use holdfast_policy::percent::Percent;
    use std::collections::{HashMap, HashSet};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn rules() -> Outlier {
        let text = br#"{"policies":[{"name":"p","outlier":{"slow_start":"10s","base_ejection_time":"1s"}}]}"#;
        config::parse(text).unwrap().policies.remove(0).outlier.unwrap()
    }

    fn table(hosts: u16) -> HostTable {
        let mut table = HostTable::default();
        for port in 0..hosts {
            table.enter(format!("10.0.0.1:{}", 1000 + port).as_bytes(), false, Timestamp::from_secs(1));
        }
        table
    }

    /// All hosts of a table that are in.
    fn all_of(table: &HostTable, random: &mut Random) -> Rotation {
        Rotation::new(table, &rules(), &|_| true, false, random)
    }

    fn next(
        rotation: &mut Rotation,
        table: &HostTable,
        rules: &Outlier,
        wanted: usize,
        random: &mut Random,
        now: Timestamp,
    ) -> Vec<HostId> {
        rotation.next(&Asked { table, rules, wanted, hash: None, loads: &Loads::default(), now }, random)
    }

    #[test]
    fn every_host_has_the_same_share_and_retries_go_elsewhere() {
        let (table, rules, mut random) = (table(5), rules(), Random::new(1));
        let mut rotation = all_of(&table, &mut random);
        let mut served: HashMap<HostId, usize> = HashMap::new();
        for _ in 0..100 {
            let hosts = next(&mut rotation, &table, &rules, 3, &mut random, Timestamp::from_secs(2));
            assert_eq!(hosts.len(), 3);
            assert!(hosts[0] != hosts[1] && hosts[1] != hosts[2] && hosts[0] != hosts[2]);
            *served.entry(hosts[0]).or_default() += 1;
        }
        assert!(served.values().all(|count| *count == 20), "{served:?}");
    }

    #[test]
    fn two_workers_go_in_different_orders() {
        let (table, rules) = (table(50), rules());
        let first = |seed| {
            let mut random = Random::new(seed);
            let mut rotation = all_of(&table, &mut random);
            next(&mut rotation, &table, &rules, 50, &mut random, Timestamp::from_secs(2))
        };
        let in_step = first(1).iter().zip(first(2)).filter(|(one, other)| *one == other).count();
        assert!(in_step < 10, "{in_step} of 50");
    }

    /// Hosts with these topologies.
    fn listed(hosts: &[Topology], unusable: &[u16]) -> HostTable {
        let host = |(number, topology): (usize, &Topology)| ListedHost {
            address: format!("10.0.0.1:{}", 1000 + number),
            topology: *topology,
        };
        let hosts = hosts.iter().enumerate().map(host).collect();
        let mut table = HostTable::default();
        let mut listing = HostListing { hosts, ..HostListing::default() };
        for (priority, unusable) in unusable.iter().enumerate() {
            let locality = listing.plain_locality(priority as u8);
            (0..*unusable).for_each(|_| listing.add_unusable(locality));
        }
        table.list(&listing, &|_| false, Timestamp::from_secs(1));
        table
    }

    fn take_out(table: &mut HostTable, id: HostId) {
        let cause = EjectionCause::Run { detector: Detector::ConsecutiveFailures, length: 5, last: End::Http(500) };
        let rules = Outlier { max_ejected: Percent::whole(100), ..rules() };
        assert_eq!(table.eject(&rules, id, cause, Timestamp::from_secs(1), 0), Ejection::Ejected);
    }

    fn of(priority: u8, weight: u32) -> Topology {
        Topology { priority, weight, ..Topology::default() }
    }

    /// How often each host is named first in so many requests, by number.
    fn served(table: &HostTable, requests: usize) -> Vec<usize> {
        let mut random = Random::new(1);
        let mut rotation = all_of(table, &mut random);
        let mut served = vec![0; table.known()];
        for _ in 0..requests {
            let hosts = next(&mut rotation, table, &rules(), 3, &mut random, Timestamp::from_secs(2));
            assert_eq!(hosts.len(), 3);
            served[usize::from(hosts[0].index)] += 1;
        }
        served
    }

    #[test]
    fn hosts_have_the_shares_of_their_weights_spread_evenly() {
        let table = listed(&[of(0, 1), of(0, 99), of(0, 300)], &[]);
        let many = served(&table, 4000);
        assert!(many.iter().zip([10_usize, 990, 3000]).all(|(served, share)| served.abs_diff(share) <= 1), "{many:?}");
        let few = served(&table, 40);
        assert!(few[0] <= 1 && few[1].abs_diff(10) <= 1 && few[2].abs_diff(30) <= 1, "{few:?}");
    }

    #[test]
    fn priorities_have_their_loads_and_within_them_hosts_their_weights() {
        // Of the first priority half is left, which bears 70 %.
        let table = listed(&[of(0, 1), of(0, 3), of(1, 1), of(1, 1)], &[2]);
        let shares = served(&table, 10_000);
        let expected = [1750, 5250, 1500, 1500];
        assert!(shares.iter().zip(expected).all(|(share, expected)| share.abs_diff(expected) < 150), "{shares:?}");
        let (degraded, healthy) = (Topology { is_degraded: true, ..of(0, 1) }, of(0, 1));
        let shares = served(&listed(&[healthy, degraded], &[]), 10_000);
        assert!(shares[0].abs_diff(7000) < 150, "a degraded host serves what is too much for the other: {shares:?}");
    }

    /// Two localities of 4 and 2 hosts that weigh 3 and 1.
    fn in_localities() -> HostTable {
        let host = |number: u16| ListedHost {
            address: format!("10.0.0.1:{}", 1000 + number),
            topology: Topology { locality: number / 2 % 2, ..Topology::default() },
        };
        let locality = |weight| Locality { priority: 0, weight, unusable: 0 };
        let listing = HostListing {
            hosts: (0..6).map(host).collect(),
            localities: vec![locality(3), locality(1)],
            ..HostListing::default()
        };
        let mut table = HostTable::default();
        table.list(&listing, &|_| false, Timestamp::from_secs(1));
        table
    }

    #[test]
    fn localities_have_their_weights_until_too_few_of_their_hosts_are_in() {
        let mut table = in_localities();
        assert_eq!(table.known(), 6);
        let share = |table: &HostTable| {
            let served = served(table, 10_000);
            served
                .iter()
                .zip(table.hosts())
                .filter(|(_, (_, host))| host.topology.locality == 0)
                .map(|(served, _)| served)
                .sum::<usize>()
        };
        assert!(share(&table).abs_diff(7500) < 150, "{}", share(&table));
        let of_it: Vec<HostId> =
            table.hosts().filter(|(_, host)| host.topology.locality == 0).map(|(id, _)| id).collect();
        assert_eq!(of_it.len(), 4);
        // 3 of 4 hosts bear all of it; 2 of them 70 % of 3 beside 1.
        for (out, expected) in [(of_it[0], 7500), (of_it[1], 6774), (of_it[2], 5122), (of_it[3], 0)] {
            take_out(&mut table, out);
            assert!(share(&table).abs_diff(expected) < 150, "{expected}: {}", share(&table));
        }
    }

    #[test]
    fn values_of_a_locality_stay_where_they_are_while_hosts_of_another_go_and_come() {
        let (rules, mut table) = (balanced("{\"hash\":\"path\"}"), in_localities());
        let owners = |table: &HostTable| -> Vec<HostId> {
            let mut random = Random::new(1);
            let mut rotation = Rotation::new(table, &rules, &|_| true, false, &mut random);
            let (loads, now) = (Loads::default(), Timestamp::from_secs(2));
            let asked = |hash| Asked { table, rules: &rules, wanted: 3, hash: Some(hash), loads: &loads, now };
            (0..2000).map(|hash| rotation.next(&asked(hash), &mut random)[0]).collect()
        };
        let before = owners(&table);
        let id = table.find(b"10.0.0.1:1001").unwrap();
        take_out(&mut table, id);
        let after = owners(&table);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == id));
        assert!(before.contains(&id) && !after.contains(&id));
    }

    #[test]
    fn there_is_a_host_for_each_try_though_there_are_fewer_hosts() {
        let (rules, mut random) = (rules(), Random::new(1));
        for known in 1..8 {
            let table = table(known);
            let mut rotation = all_of(&table, &mut random);
            for wanted in 0..20 {
                let hosts = next(&mut rotation, &table, &rules, wanted, &mut random, Timestamp::from_secs(2));
                assert_eq!(hosts.len(), wanted);
                for round in hosts.chunks(known.into()) {
                    let different: HashSet<_> = round.iter().collect();
                    assert_eq!(
                        different.len(),
                        round.len(),
                        "{known} hosts: each once, and then each once again: {hosts:?}"
                    );
                }
            }
        }
        let table = listed(&[of(0, 1), of(1, 1)], &[3]);
        let mut rotation = all_of(&table, &mut random);
        assert_eq!(
            next(&mut rotation, &table, &rules, 9, &mut random, Timestamp::from_secs(2)).len(),
            9,
            "over priorities"
        );
    }

    #[test]
    fn a_host_that_is_starting_has_a_part_of_its_weight() {
        let (rules, mut table) = (rules(), table(5));
        let id = table.find(b"10.0.0.1:1002").unwrap();
        let cause = EjectionCause::Run { detector: Detector::ConsecutiveFailures, length: 5, last: End::Http(500) };
        table.eject(&rules, id, cause, Timestamp::from_secs(1), 0);
        let out = |table: &HostTable| table.out();
        assert_eq!(out(&table), 1);
        assert!(table.readmit_healthy(&rules, id, Timestamp::from_secs(100)), "its time is over");
        let mut random = Random::new(1);
        let mut rotation = all_of(&table, &mut random);
        let mut share = |seconds: u64| {
            let now = Timestamp::from_secs(100 + seconds);
            let first = |_| next(&mut rotation, &table, &rules, 3, &mut random, now)[0] == id;
            (0..1000).map(first).filter(|is_it| *is_it).count()
        };
        // A tenth at first, half of its weight after half of the time: 0.1 of 4.1, 0.5 of 4.5, 1 of 5.
        let shares = [share(0), share(5), share(10)];
        assert!(shares.iter().zip([24, 111, 200]).all(|(share, expected)| share.abs_diff(expected) < 4), "{shares:?}");
    }

    /// The rules with this balance.
    fn balanced(balance: &str) -> Outlier {
        let text = format!(
            r#"{{"policies":[{{"name":"p","outlier":{{"slow_start":"10s","hosts":["10.0.0.1:1000"],"balance":{balance}}}}}]}}"#
        );
        config::parse(text.as_bytes()).unwrap().policies.remove(0).outlier.unwrap()
    }

    const BALANCES: [&str; 6] = [
        "\"round_robin\"",
        "\"random\"",
        "\"weighted\"",
        "\"least_request\"",
        "\"least_latency\"",
        "{\"hash\":\"path\"}",
    ];

    /// How often each host is named first in 10,000 requests with different hashes, by number.
    fn shares(balance: &str, table: &HostTable, panics: bool) -> Vec<usize> {
        let (rules, mut random) = (balanced(balance), Random::new(1));
        let mut rotation = Rotation::new(table, &rules, &|_| true, panics, &mut random);
        let mut served = vec![0; table.known()];
        for _ in 0..10_000 {
            let (hash, now) = (Some(random.next()), Timestamp::from_secs(2));
            let asked = Asked { table, rules: &rules, wanted: 3, hash, loads: &Loads::default(), now };
            let hosts = rotation.next(&asked, &mut random);
            assert_eq!(hosts.len(), 3);
            served[usize::from(hosts[0].index)] += 1;
        }
        served
    }

    /// Within 3 points of a hundred.
    fn are_near(shares: &[usize], expected: &[usize]) -> bool {
        shares.iter().zip(expected).all(|(share, expected)| share.abs_diff(*expected) < 300)
    }

    #[test]
    fn every_balance_has_its_shares_within_the_priorities() {
        let table = listed(&[of(0, 1), of(0, 3), of(1, 1), of(1, 1)], &[2]);
        for balance in BALANCES {
            let alike = balance.contains("round_robin") || balance.contains("random");
            let expected = if alike { [3500, 3500, 1500, 1500] } else { [1750, 5250, 1500, 1500] };
            let shares = shares(balance, &table, false);
            assert!(are_near(&shares, &expected), "{balance}: {shares:?}");
        }
    }

    #[test]
    fn a_host_that_is_out_gets_nothing_but_in_a_panic() {
        let mut table = listed(&[of(0, 1); 4], &[]);
        let id = table.find(b"10.0.0.1:1002").unwrap();
        let cause = EjectionCause::Run { detector: Detector::ConsecutiveFailures, length: 5, last: End::Http(500) };
        table.eject(&rules(), id, cause, Timestamp::from_secs(1), 0);
        for balance in BALANCES {
            let out = shares(balance, &table, false);
            assert!(out[2] == 0 && are_near(&out, &[3333, 3333, 0, 3333]), "{balance}: {out:?}");
            let all = shares(balance, &table, true);
            assert!(are_near(&all, &[2500; 4]), "{balance}: {all:?}");
        }
    }

    #[test]
    fn requests_with_the_same_hash_go_to_the_same_host_and_others_do_not_move_with_it() {
        let (rules, mut table) =
            (balanced("{\"hash\":\"path\"}"), listed(&[of(0, 1), of(0, 2), of(1, 1), of(1, 1)], &[1]));
        let owners = |table: &HostTable, seed: u64| -> Vec<HostId> {
            let mut random = Random::new(seed);
            let mut rotation = Rotation::new(table, &rules, &|_| true, false, &mut random);
            let (loads, now) = (Loads::default(), Timestamp::from_secs(2));
            let asked = |hash| Asked { table, rules: &rules, wanted: 3, hash: Some(hash), loads: &loads, now };
            (0..1000).map(|hash| rotation.next(&asked(hash), &mut random)[0]).collect()
        };
        let before = owners(&table, 1);
        assert_eq!(before, owners(&table, 2), "whichever worker it is");
        let id = table.find(b"10.0.0.1:1003").unwrap();
        let cause = EjectionCause::Run { detector: Detector::ConsecutiveFailures, length: 5, last: End::Http(500) };
        table.eject(&rules, id, cause, Timestamp::from_secs(1), 0);
        let after = owners(&table, 3);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == id));
        assert!(before.contains(&id) && !after.contains(&id));
    }

    #[test]
    fn no_hosts_are_no_turns() {
        let (table, rules, mut random) = (table(0), rules(), Random::new(1));
        let mut rotation = all_of(&table, &mut random);
        assert!(next(&mut rotation, &table, &rules, 3, &mut random, Timestamp::from_secs(2)).is_empty());
    }
}
