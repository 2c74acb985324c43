//! Where hosts stand in their cluster, and how Envoy spreads requests over its priorities.
//!
//! Envoy sends all requests to the first priority as long as it has enough healthy hosts, and to the next one what those cannot bear.
//! A priority bears its healthy share times 1.4, at most all. Degraded hosts get what the healthy ones of all priorities cannot
//! bear. Source: Envoy, "Priority levels", "Degraded endpoints", and
//! `source/extensions/load_balancing_policies/common/load_balancer_impl.cc`.

/// Where a host stands in its cluster. One of which nothing is known stands where Envoy puts one of which nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Topology {
    /// 0 comes first.
    pub priority: u8,
    /// Its weight among the hosts of its priority, at least 1.
    pub weight: u32,
    /// Whether it serves only what the others cannot.
    pub is_degraded: bool,
}

impl Default for Topology {
    fn default() -> Self {
        Topology { priority: 0, weight: 1, is_degraded: false }
    }
}

/// A host in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedHost {
    /// As Envoy writes it: `10.0.0.1:8080`, `[2001:db8::1]:8080`.
    pub address: String,
    /// Where it stands.
    pub topology: Topology,
}

/// What a listing says of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostListing {
    /// The hosts that requests may be sent to, sorted by their addresses, each once.
    pub hosts: Vec<ListedHost>,
    /// How many hosts more each priority has, to which Envoy itself would send nothing.
    pub unusable: Vec<u16>,
}

impl HostListing {
    /// Hosts of which nothing is known but their addresses.
    #[must_use]
    pub fn of_addresses(addresses: impl IntoIterator<Item = String>) -> Self {
        let topology = Topology::default();
        let listed = addresses.into_iter().map(|address| ListedHost { address, topology }).collect();
        HostListing { hosts: listed, unusable: Vec::new() }.in_order()
    }

    /// Sorted by their addresses, each once: of one that is there twice, the one that Envoy uses first.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        let order = |host: &ListedHost| (host.topology.priority, host.topology.is_degraded);
        self.hosts.sort_unstable_by(|one, two| (&one.address, order(one)).cmp(&(&two.address, order(two))));
        self.hosts.dedup_by(|one, two| one.address == two.address);
        self
    }
}

/// The hosts of one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    /// How many of them get requests.
    pub healthy: u32,
    /// How many get what the healthy ones cannot bear.
    pub degraded: u32,
    /// How many there are.
    pub all: u32,
}

/// The share of all requests that a priority gets, in thousandths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// What its healthy hosts get.
    pub healthy: u32,
    /// What its degraded hosts get.
    pub degraded: u32,
}

/// All requests.
pub const ALL: u32 = 100_000;

/// A priority bears so much more than the share of its hosts that are healthy, in percent.
const OVERPROVISIONING: u64 = 140;

/// What each of these priorities gets, the first one first. Together they get [`ALL`], or nothing where no host gets requests.
#[must_use]
pub fn loads(levels: &[Level]) -> Vec<Load> {
    let all = u64::from(ALL);
    let bears = |part: u32, level: &Level| {
        let share = u64::from(part) * all / 100 * OVERPROVISIONING;
        // However many there are: one that is healthy is not nothing.
        share.checked_div(level.all.into()).unwrap_or(0).clamp(u64::from(part > 0), all)
    };
    let healthy = levels.iter().map(|level| bears(level.healthy, level));
    let degraded = levels.iter().map(|level| bears(level.degraded, level));
    let total = healthy.clone().chain(degraded.clone()).sum::<u64>().min(all);
    let mut left = all;
    let mut take = |bears: u64| {
        let load = (bears * all).checked_div(total).unwrap_or(0).min(left);
        left -= load;
        load as u32
    };
    let healthy: Vec<u32> = healthy.map(&mut take).collect();
    let degraded: Vec<u32> = degraded.map(&mut take).collect();
    let mut loads: Vec<Load> =
        healthy.into_iter().zip(degraded).map(|(healthy, degraded)| Load { healthy, degraded }).collect();
    // What rounding leaves over.
    let left = left as u32;
    for load in &mut loads {
        if load.healthy > 0 {
            load.healthy += left;
            break;
        }
        if load.degraded > 0 {
            load.degraded += left;
            break;
        }
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Of 100 hosts each so many are healthy and degraded; what each priority gets in percent, of its healthy and degraded hosts.
    fn percent(levels: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let levels: Vec<Level> = levels
            .iter()
            .map(|(healthy, degraded)| Level { healthy: *healthy, degraded: *degraded, all: 100 })
            .collect();
        let loads = loads(&levels);
        assert_eq!(loads.iter().map(|load| load.healthy + load.degraded).sum::<u32>(), ALL);
        let round = |share: u32| (share + 500) / 1000;
        loads.iter().map(|load| (round(load.healthy), round(load.degraded))).collect()
    }

    fn healthy(levels: &[u32]) -> Vec<u32> {
        let levels: Vec<(u32, u32)> = levels.iter().map(|healthy| (*healthy, 0)).collect();
        percent(&levels).into_iter().map(|(healthy, _)| healthy).collect()
    }

    /// The tables of Envoy's documentation, "Priority levels".
    #[test]
    fn two_and_three_priorities_share_as_envoy_documents_it() {
        assert_eq!(healthy(&[100, 100]), [100, 0]);
        assert_eq!(healthy(&[72, 100]), [100, 0]);
        assert_eq!(healthy(&[71, 100]), [99, 1]);
        assert_eq!(healthy(&[50, 100]), [70, 30]);
        assert_eq!(healthy(&[25, 100]), [35, 65]);
        assert_eq!(healthy(&[0, 100]), [0, 100]);
        assert_eq!(healthy(&[25, 25]), [50, 50], "where both together bear too little");
        assert_eq!(healthy(&[100, 100, 100]), [100, 0, 0]);
        assert_eq!(healthy(&[72, 72, 100]), [100, 0, 0]);
        assert_eq!(healthy(&[50, 60, 100]), [70, 30, 0]);
        assert_eq!(healthy(&[25, 100, 100]), [35, 65, 0]);
        assert_eq!(healthy(&[25, 25, 100]), [35, 35, 30]);
        assert_eq!(healthy(&[25, 25, 20]), [36, 36, 29], "28, as Envoy rounds");
    }

    /// The table of Envoy's documentation, "Degraded endpoints".
    #[test]
    fn degraded_hosts_get_what_the_healthy_ones_cannot_bear() {
        assert_eq!(percent(&[(100, 0)]), [(100, 0)]);
        assert_eq!(percent(&[(71, 29)]), [(99, 1)]);
        assert_eq!(percent(&[(50, 50)]), [(70, 30)]);
        assert_eq!(percent(&[(0, 100)]), [(0, 100)]);
        assert_eq!(percent(&[(50, 50), (100, 0)]), [(70, 0), (30, 0)], "the healthy ones of all priorities come first");
        assert_eq!(percent(&[(0, 100), (25, 0)]), [(0, 65), (35, 0)]);
    }

    #[test]
    fn nothing_is_nothing_and_one_healthy_host_of_thousands_is_something() {
        assert_eq!(loads(&[]), []);
        assert_eq!(loads(&[Level::default()]), [Load::default()]);
        assert_eq!(loads(&[Level { healthy: 0, degraded: 0, all: 7 }; 2]), [Load::default(); 2]);
        let lonely = Level { healthy: 1, degraded: 0, all: u32::MAX };
        assert_eq!(loads(&[lonely]), [Load { healthy: ALL, degraded: 0 }]);
    }
}
