//! Where hosts stand in their cluster, and how Envoy spreads requests over its priorities and localities.
//!
//! Envoy sends all requests to the first priority as long as it has enough healthy hosts, and to the next one what those cannot bear.
//! A priority bears its healthy share times 1.4, at most all. Degraded hosts get what the healthy ones of all priorities cannot
//! bear. Where the localities of a priority have weights, each has its share of that, which shrinks with its healthy hosts in the
//! same way. Source: Envoy, "Priority levels", "Degraded endpoints", "Locality weighted load balancing", and
//! `source/extensions/load_balancing_policies/common/load_balancer_impl.cc`.

use holdfast_policy::document::NamedHost;

/// Where a host stands in its cluster. One of which nothing is known stands where Envoy puts one of which nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Topology {
    /// 0 comes first.
    pub priority: u8,
    /// The number of its locality among those of the cluster. One that is not of the same priority is none.
    pub locality: u16,
    /// Its weight among the hosts of its locality, at least 1.
    pub weight: u32,
    /// Whether it serves only what the others cannot.
    pub is_degraded: bool,
}

impl Default for Topology {
    fn default() -> Self {
        Topology { priority: 0, locality: u16::MAX, weight: 1, is_degraded: false }
    }
}

/// The hosts of one priority that stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Locality {
    /// Of which priority.
    pub priority: u8,
    /// Its weight among the localities of its priority; 0 where nothing is said.
    pub weight: u32,
    /// How many hosts more it has, to which Envoy itself would send nothing.
    pub unusable: u16,
}

/// The most localities of a cluster.
pub const MOST_LOCALITIES: usize = 1000;

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
    /// Its localities.
    pub localities: Vec<Locality>,
    /// How many requests those have had that were asked about, as far as the listing says.
    pub requests: Vec<(String, u64)>,
}

impl HostListing {
    /// The hosts that a policy names, or a source that says the same of them. A locality weighs as much as all its hosts, one
    /// that is alone in its priority nothing.
    #[must_use]
    pub fn of_named<'a>(named: impl IntoIterator<Item = &'a NamedHost>) -> Self {
        let mut listing = HostListing::default();
        let mut names: Vec<(u8, Option<&str>)> = Vec::new();
        for host in named {
            let name = (host.priority, host.locality.as_deref());
            let (priority, weight) = (host.priority, host.weight.get());
            let locality = names.iter().position(|known| *known == name).map(number).unwrap_or_else(|| {
                names.push(name);
                listing.add_locality(priority, 0)
            });
            if let Some(locality) = listing.localities.get_mut(usize::from(locality)) {
                locality.weight = locality.weight.saturating_add(weight);
            }
            let topology = Topology { priority, locality, weight, is_degraded: false };
            listing.hosts.push(ListedHost { address: host.address.clone(), topology });
        }
        let priorities: Vec<u8> = listing.localities.iter().map(|locality| locality.priority).collect();
        for locality in &mut listing.localities {
            if priorities.iter().filter(|priority| **priority == locality.priority).count() == 1 {
                locality.weight = 0;
            }
        }
        listing.in_order()
    }

    /// The host with this address.
    #[must_use]
    pub fn find(&self, address: &[u8]) -> Option<&ListedHost> {
        self.position(address).map(|(_, host)| host)
    }

    /// The same with its place among the hosts.
    #[must_use]
    pub fn position(&self, address: &[u8]) -> Option<(usize, &ListedHost)> {
        let at = self.hosts.binary_search_by(|listed| listed.address.as_bytes().cmp(address)).ok()?;
        self.hosts.get(at).map(|host| (at, host))
    }

    /// The number of the locality of hosts of this priority of which nothing more is known.
    pub fn plain_locality(&mut self, priority: u8) -> u16 {
        let known = self.localities.iter().position(|locality| locality.priority == priority);
        known.map(number).unwrap_or_else(|| self.add_locality(priority, 0))
    }

    /// Adds a locality. Its number.
    pub fn add_locality(&mut self, priority: u8, weight: u32) -> u16 {
        self.localities.push(Locality { priority, weight, unusable: 0 });
        number(self.localities.len() - 1)
    }

    /// Counts a host to which Envoy itself would send nothing.
    pub fn add_unusable(&mut self, locality: u16) {
        if let Some(locality) = self.localities.get_mut(usize::from(locality)) {
            locality.unusable = locality.unusable.saturating_add(1);
        }
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

/// The number of the locality at this place; of none where there are too many.
fn number(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
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

/// The hosts of one locality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    /// Of which priority.
    pub priority: u8,
    /// Its weight among those of its priority; 0 where nothing is said.
    pub weight: u32,
    /// How many there are.
    pub level: Level,
}

/// Hosts that share a load.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Portion {
    /// The share of all requests that they get together, in thousandths of a percent; not 0.
    pub load: u32,
    /// Whether they are the degraded ones of these parts, or the healthy ones.
    pub is_degraded: bool,
    /// Whose hosts they are.
    pub parts: Vec<usize>,
}

/// Gives the parts from `known` on, of whose hosts it is not known where they stand, the weight that as many hosts have elsewhere in
/// their priority: they may not have been listed yet.
pub fn weigh_rest(parts: &mut [Part], known: usize) {
    let Some((known, rest)) = parts.split_at_mut_checked(known) else { return };
    for part in rest {
        let same = || known.iter().filter(|other| other.priority == part.priority);
        let weight: u64 = same().map(|other| u64::from(other.weight)).sum();
        let all: u64 = same().map(|other| u64::from(other.level.all)).sum();
        let own = weight.saturating_mul(part.level.all.into()).checked_div(all).unwrap_or(weight);
        part.weight = u32::try_from(own.max(u64::from(weight > 0))).unwrap_or(u32::MAX);
    }
}

/// How requests are spread over these localities.
#[must_use]
pub fn portions(parts: &[Part]) -> Vec<Portion> {
    let mut levels: Vec<Level> = Vec::new();
    for part in parts {
        let at = usize::from(part.priority);
        if levels.len() <= at {
            levels.resize(at + 1, Level::default());
        }
        if let Some(level) = levels.get_mut(at) {
            level.healthy += part.level.healthy;
            level.degraded += part.level.degraded;
            level.all += part.level.all;
        }
    }
    let mut portions = Vec::new();
    for (priority, load) in loads(&levels).into_iter().enumerate() {
        for (is_degraded, load) in [(false, load.healthy), (true, load.degraded)] {
            if load > 0 {
                share_out(parts, priority, is_degraded, load, &mut portions);
            }
        }
    }
    portions
}

/// Shares what the hosts of one priority get out over its localities, or leaves it to all of them where none has a weight.
fn share_out(parts: &[Part], priority: usize, is_degraded: bool, load: u32, portions: &mut Vec<Portion>) {
    let (full, more) = (u64::from(ALL), OVERPROVISIONING);
    let of_it = || parts.iter().enumerate().filter(|(_, part)| usize::from(part.priority) == priority);
    let effective = |part: &Part| {
        let eligible = u64::from(if is_degraded { part.level.degraded } else { part.level.healthy });
        let available = (eligible * full / 100 * more).checked_div(part.level.all.into()).unwrap_or(0).min(full);
        u128::from(part.weight) * u128::from(available)
    };
    let total: u128 = of_it().map(|(_, part)| effective(part)).sum();
    if total == 0 {
        portions.push(Portion { load, is_degraded, parts: of_it().map(|(at, _)| at).collect() });
        return;
    }
    let (first, mut left) = (portions.len(), load);
    for (at, part) in of_it() {
        let share = (u128::from(load) * effective(part)).checked_div(total).unwrap_or(0) as u32;
        if share > 0 {
            left = left.saturating_sub(share);
            portions.push(Portion { load: share, is_degraded, parts: vec![at] });
        }
    }
    // What rounding leaves over.
    if let Some(portion) = portions.get_mut(first) {
        portion.load += left;
    }
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

    /// Localities of one priority with these weights, and hosts that are in and all that there are; what each gets in percent.
    fn of_localities(localities: &[(u32, u32, u32)]) -> Vec<u32> {
        let parts: Vec<Part> = localities
            .iter()
            .map(|(weight, healthy, all)| Part {
                priority: 0,
                weight: *weight,
                level: Level { healthy: *healthy, degraded: 0, all: *all },
            })
            .collect();
        let portions = portions(&parts);
        assert_eq!(portions.iter().map(|portion| portion.load).sum::<u32>(), ALL);
        let mut shares = vec![0; parts.len()];
        for portion in portions {
            assert_eq!(portion.parts.len(), 1);
            shares[portion.parts[0]] = (portion.load + 500) / 1000;
        }
        shares
    }

    /// The table of Envoy's documentation, "Locality weighted load balancing": two localities that weigh 1 and 2.
    #[test]
    fn localities_share_by_weight_and_by_what_they_can_bear() {
        let of = |healthy| of_localities(&[(1, healthy, 100), (2, 100, 100)]);
        assert_eq!(of(100), [33, 67]);
        assert_eq!(of(70), [33, 67], "98 %, which Envoy's table rounds alike");
        assert_eq!(of(69), [33, 67]);
        assert_eq!(of(50), [26, 74]);
        assert_eq!(of(25), [15, 85]);
        assert_eq!(of(0), [0, 100]);
        assert_eq!(
            of_localities(&[(1, 1, 1), (0, 1, 1), (1, 1, 1)]),
            [50, 0, 50],
            "without a weight beside others it gets nothing"
        );
        assert_eq!(of_localities(&[(u32::MAX, 1, 1), (u32::MAX, 1, 1)]), [50, 50]);
    }

    #[test]
    fn hosts_that_are_not_listed_yet_have_their_share() {
        let part = |priority, weight, all| Part { priority, weight, level: Level { healthy: all, degraded: 0, all } };
        let weights = |mut parts: Vec<Part>, known| {
            weigh_rest(&mut parts, known);
            parts[known..].iter().map(|part| part.weight).collect::<Vec<_>>()
        };
        assert_eq!(
            weights(vec![part(0, 30, 2), part(0, 10, 2), part(1, 9, 1), part(0, 0, 1), part(1, 0, 3)], 3),
            [10, 27]
        );
        assert_eq!(weights(vec![part(0, 0, 2), part(0, 0, 1)], 1), [0], "where none has a weight they are one");
        assert_eq!(weights(vec![part(0, 1, 100), part(0, 0, 1)], 1), [1], "never nothing");
        assert_eq!(weights(vec![part(0, 7, 0), part(0, 0, 1)], 1), [7]);
        assert_eq!(weights(vec![part(0, 0, 1)], 0), [0]);
    }

    #[test]
    fn without_weights_a_priority_is_one() {
        let part = |priority, healthy| Part { priority, weight: 0, level: Level { healthy, degraded: 0, all: 2 } };
        let portions = portions(&[part(0, 1), part(1, 2), part(0, 1)]);
        let portion = |load, parts: &[usize]| Portion { load, is_degraded: false, parts: parts.to_vec() };
        assert_eq!(portions, [portion(70_000, &[0, 2]), portion(30_000, &[1])]);
    }

    #[test]
    fn a_named_locality_weighs_as_much_as_its_hosts() {
        let host = |port: u32, weight, priority, locality: Option<&str>| NamedHost {
            address: format!("10.0.0.1:{port}"),
            weight: core::num::NonZeroU32::new(weight).unwrap(),
            priority,
            locality: locality.map(str::to_owned),
        };
        let hosts = [host(3, 2, 0, Some("a")), host(2, 5, 0, None), host(1, 1, 0, Some("a")), host(4, 7, 1, Some("a"))];
        let listing = HostListing::of_named(&hosts);
        let of = |priority, weight| Locality { priority, weight, unusable: 0 };
        assert_eq!(listing.localities, [of(0, 3), of(0, 5), of(1, 0)]);
        let stands: Vec<(u8, u16, u32)> = listing
            .hosts
            .iter()
            .map(|host| (host.topology.priority, host.topology.locality, host.topology.weight))
            .collect();
        assert_eq!(stands, [(0, 0, 1), (0, 1, 5), (0, 0, 2), (1, 2, 7)]);
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
