//! Which hosts a request is sent to while some are out.
//!
//! Each worker walks through the hosts that are in, in an order of its own that it shuffles whenever the hosts change: every
//! host has the same share, and no two workers go in step.

use super::table::{HostId, HostTable};
use crate::base::random::Random;
use crate::base::time::Timestamp;
use holdfast_policy::document::Outlier;

/// The request header that names the hosts to the cluster's `override_host` balancing, in the order in which they are to be
/// tried.
pub const HEADER: &str = "x-holdfast-hosts";

/// How often a turn is given to another host; all of them may be starting.
const TURNS_GIVEN: usize = 4;

/// A worker's order of the hosts.
#[derive(Debug, Default)]
pub struct Rotation {
    order: Vec<HostId>,
    next: usize,
}

impl Rotation {
    /// A new order of the hosts that are in.
    pub fn shuffle(&mut self, table: &HostTable, random: &mut Random) {
        self.order = table.hosts().filter(|(_, host)| host.is_in()).map(|(id, _)| id).collect();
        // Source: Durstenfeld, "Algorithm 235: Random permutation", 1964.
        for last in (1..self.order.len()).rev() {
            let other = random.below(last as u64 + 1) as usize;
            self.order.swap(last, other);
        }
        self.next = 0;
    }

    /// The next hosts, at most `wanted`, each once. A host that is starting gives most of its turns
    /// to others.
    pub fn next(
        &mut self,
        table: &HostTable,
        rules: &Outlier,
        wanted: usize,
        random: &mut Random,
        now: Timestamp,
    ) -> Vec<HostId> {
        let count = self.order.len();
        let turn = self.next.checked_rem(count).unwrap_or(0);
        self.next = turn + 1;
        let mut first = turn;
        for _ in 0..TURNS_GIVEN {
            let share = self.order.get(first).and_then(|id| table.host(*id)).map_or(0, |host| host.share(rules, now));
            if share >= 1000 || random.below(1000) < share.into() {
                break;
            }
            // Anybody's, or the one after it in the order would get them all.
            first = random.below(count as u64) as usize;
        }
        // The second ones begin right after the first: a failed host's load is spread as the order is.
        (0..count.min(wanted))
            .filter_map(|at| self.order.get((first + at).checked_rem(count).unwrap_or(0)).copied())
            .collect()
    }
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
    use holdfast_policy::config;
    use std::collections::HashMap;
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
        rotation.shuffle(&table, &mut random);
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
            rotation.shuffle(&table, &mut random);
            rotation.next(&table, &rules, 50, &mut random, Timestamp::from_secs(2))
        };
        let in_step = first(1).iter().zip(first(2)).filter(|(one, other)| *one == other).count();
        assert!(in_step < 10, "{in_step} of 50");
    }

    #[test]
    fn no_hosts_are_no_turns() {
        let (table, rules, mut random) = (table(0), rules(), Random::new(1));
        let mut rotation = Rotation::default();
        rotation.shuffle(&table, &mut random);
        assert!(rotation.next(&table, &rules, 3, &mut random, Timestamp::from_secs(2)).is_empty());
    }
}
