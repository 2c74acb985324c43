//! Which hosts a request is sent to while some are out.
//!
//! The rest get what Envoy would give them: each [priority](super::topology) its load, and within it each host its weight. Each worker
//! gives turns to the hosts of a priority by smooth weighted round robin: a host's credit grows by its weight with each turn, the
//! one with the most credit has the turn and pays for all. Source: nginx, "Upstream: smooth weighted round-robin balancing", 2012.
//! Every host has exactly its share, spread evenly. Workers begin with credits of their own, which they draw whenever the hosts change:
//! no two go in step.

use core::iter::Cycle;
use std::vec::IntoIter;

use super::table::{Host, HostId, HostTable};
use super::topology;
use crate::base::random::Random;
use crate::base::time::Timestamp;
use holdfast_policy::document::Outlier;

/// The request header that names the hosts to the cluster's `override_host` balancing, in the order in which they are to be
/// tried.
pub const HEADER: &str = "x-holdfast-hosts";

/// One host's turns.
#[derive(Debug, Clone, Copy)]
struct Turns {
    host: HostId,
    credit: i64,
}

/// Hosts that share a load.
#[derive(Debug, Default)]
struct Group {
    /// Of all requests, in thousandths of a percent.
    load: u32,
    turns: Vec<Turns>,
}

/// A worker's turns of the hosts.
#[derive(Debug, Default)]
pub struct Rotation {
    groups: Vec<Group>,
}

impl Rotation {
    /// New turns of the hosts that are in, of those that `may` get requests.
    pub fn shuffle(&mut self, table: &HostTable, may: &dyn Fn(&Host) -> bool, random: &mut Random) {
        let levels = table.levels(may);
        let loads = topology::loads(&levels);
        self.groups.clear();
        for (priority, load) in loads.into_iter().enumerate() {
            for (is_degraded, load) in [(false, load.healthy), (true, load.degraded)] {
                let is_of_it = |host: &Host| {
                    host.is_in()
                        && may(host)
                        && (usize::from(host.topology.priority), host.topology.is_degraded) == (priority, is_degraded)
                };
                if load > 0 {
                    let hosts = table.hosts().filter(|(_, host)| is_of_it(host)).map(|(id, _)| id);
                    self.groups.push(Group::new(load, hosts.collect(), table, random));
                }
            }
        }
    }

    /// The hosts to be tried, `wanted` of them, if any is in: as long as there are others each once.
    pub fn next(
        &mut self,
        table: &HostTable,
        rules: &Outlier,
        wanted: usize,
        random: &mut Random,
        now: Timestamp,
    ) -> Vec<HostId> {
        let mut named = Vec::with_capacity(wanted);
        // Of each group that has been drawn, who has its next turns.
        let mut drawn: Vec<(usize, Cycle<IntoIter<HostId>>)> = Vec::new();
        for _ in 0..wanted {
            // Each attempt is sent like any other request, but not to the same host again.
            let Some(at) = self.draw(random) else { break };
            let known = drawn.iter().position(|(group, _)| *group == at);
            let known = known.or_else(|| {
                let next = self.groups.get_mut(at)?.next(table, rules, wanted, now);
                drawn.push((at, next.into_iter().cycle()));
                drawn.len().checked_sub(1)
            });
            named.extend(known.and_then(|known| drawn.get_mut(known)?.1.next()));
        }
        named
    }

    /// Draws a group by its load.
    fn draw(&self, random: &mut Random) -> Option<usize> {
        match self.groups.len() {
            0 => None,
            1 => Some(0),
            _ => {
                let mut drawn = random.below(topology::ALL.into());
                let by_load = self.groups.iter().position(|group| {
                    let is_it = drawn < u64::from(group.load);
                    drawn = drawn.saturating_sub(group.load.into());
                    is_it
                });
                by_load.or(Some(0))
            }
        }
    }
}

impl Group {
    /// Hosts that get this load. Their first turns come in an order that is drawn.
    fn new(load: u32, mut hosts: Vec<HostId>, table: &HostTable, random: &mut Random) -> Self {
        // Source: Durstenfeld, "Algorithm 235: Random permutation", 1964.
        for last in (1..hosts.len()).rev() {
            let other = random.below(last as u64 + 1) as usize;
            hosts.swap(last, other);
        }
        let weight = |host: &HostId| table.host(*host).map_or(0, |host| i64::from(host.topology.weight) * FULL_SHARE);
        let mean = hosts.iter().map(weight).sum::<i64>().checked_div(hosts.len() as i64).unwrap_or(0);
        let turns = hosts.iter().enumerate().map(|(at, host)| Turns { host: *host, credit: mean * at as i64 });
        Group { load, turns: turns.collect() }
    }

    /// The host whose turn it is, and those that have the most credit after it: at most so many. One that is starting has a part of its
    /// weight.
    fn next(&mut self, table: &HostTable, rules: &Outlier, wanted: usize, now: Timestamp) -> Vec<HostId> {
        let mut total = 0;
        // The most credit first, and of equal ones the last.
        let mut most: Vec<(i64, usize)> = Vec::with_capacity(wanted.saturating_add(1));
        for (at, turns) in self.turns.iter_mut().enumerate() {
            let host = table.host(turns.host);
            let weight = host.map_or(0, |host| i64::from(host.topology.weight) * i64::from(host.share(rules, now)));
            turns.credit += weight;
            total += weight;
            let place = most.partition_point(|other| *other > (turns.credit, at));
            if place < wanted {
                most.insert(place, (turns.credit, at));
                most.truncate(wanted);
            }
        }
        if let Some(turns) = most.first().and_then(|(_, at)| self.turns.get_mut(*at)) {
            turns.credit -= total;
        }
        most.into_iter().filter_map(|(_, at)| self.turns.get(at)).map(|turns| turns.host).collect()
    }
}

/// [`Host::share`](super::table::Host::share) of one that is not starting.
const FULL_SHARE: i64 = 1000;

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
    use crate::outlier::topology::{HostListing, ListedHost, Topology};
    use holdfast_policy::config;
    use holdfast_policy::document::Detector;
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

    #[test]
    fn every_host_has_the_same_share_and_retries_go_elsewhere() {
        let (table, rules, mut random) = (table(5), rules(), Random::new(1));
        let mut rotation = Rotation::default();
        rotation.shuffle(&table, &|_| true, &mut random);
        let mut served: HashMap<HostId, usize> = HashMap::new();
        for _ in 0..100 {
            let hosts = rotation.next(&table, &rules, 3, &mut random, Timestamp::from_secs(2));
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
            let (mut rotation, mut random) = (Rotation::default(), Random::new(seed));
            rotation.shuffle(&table, &|_| true, &mut random);
            rotation.next(&table, &rules, 50, &mut random, Timestamp::from_secs(2))
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
        table.list(&HostListing { hosts, unusable: unusable.to_vec() }, &[], Timestamp::from_secs(1));
        table
    }

    fn of(priority: u8, weight: u32) -> Topology {
        Topology { priority, weight, is_degraded: false }
    }

    /// How often each host is named first in so many requests, by number.
    fn served(table: &HostTable, requests: usize) -> Vec<usize> {
        let (mut rotation, mut random) = (Rotation::default(), Random::new(1));
        rotation.shuffle(table, &|_| true, &mut random);
        let mut served = vec![0; table.known()];
        for _ in 0..requests {
            let hosts = rotation.next(table, &rules(), 3, &mut random, Timestamp::from_secs(2));
            assert_eq!(hosts.len(), 3);
            served[usize::from(hosts[0].index)] += 1;
        }
        served
    }

    #[test]
    fn hosts_have_the_shares_of_their_weights_spread_evenly() {
        let table = listed(&[of(0, 1), of(0, 99), of(0, 300)], &[]);
        assert_eq!(served(&table, 4000), [10, 990, 3000]);
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

    #[test]
    fn there_is_a_host_for_each_try_though_there_are_fewer_hosts() {
        let (rules, mut random) = (rules(), Random::new(1));
        for known in 1..8 {
            let (table, mut rotation) = (table(known), Rotation::default());
            rotation.shuffle(&table, &|_| true, &mut random);
            for wanted in 0..20 {
                let hosts = rotation.next(&table, &rules, wanted, &mut random, Timestamp::from_secs(2));
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
        let (table, mut rotation) = (listed(&[of(0, 1), of(1, 1)], &[3]), Rotation::default());
        rotation.shuffle(&table, &|_| true, &mut random);
        assert_eq!(rotation.next(&table, &rules, 9, &mut random, Timestamp::from_secs(2)).len(), 9, "over priorities");
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
        let (mut rotation, mut random) = (Rotation::default(), Random::new(1));
        rotation.shuffle(&table, &|_| true, &mut random);
        let mut share = |seconds: u64| {
            let now = Timestamp::from_secs(100 + seconds);
            let first = |_| rotation.next(&table, &rules, 3, &mut random, now)[0] == id;
            (0..1000).map(first).filter(|is_it| *is_it).count()
        };
        // A tenth at first, half of its weight after half of the time: 0.1 of 4.1, 0.5 of 4.5, 1 of 5.
        let shares = [share(0), share(5), share(10)];
        assert!(shares.iter().zip([24, 111, 200]).all(|(share, expected)| share.abs_diff(expected) < 4), "{shares:?}");
    }

    #[test]
    fn no_hosts_are_no_turns() {
        let (table, rules, mut random) = (table(0), rules(), Random::new(1));
        let mut rotation = Rotation::default();
        rotation.shuffle(&table, &|_| true, &mut random);
        assert!(rotation.next(&table, &rules, 3, &mut random, Timestamp::from_secs(2)).is_empty());
    }
}
