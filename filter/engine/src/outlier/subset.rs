//! Which hosts of a cluster a request may come to, where the cluster has subsets.
//!
//! Envoy chooses a subset by the metadata `envoy.lb`: hosts bear it, a route and a request's own metadata ask for it. What a route asks
//! for cannot be seen, but whom it leads to can. Hosts with the same metadata have one *label*. Requests over routes of one name, with
//! the same metadata of their own, have one *selector*. Each worker remembers which labels the last requests of a selector came to
//! when nobody steered them: hosts with these are named to such requests, and no others.

use std::collections::{HashMap, VecDeque};

use crate::base::fingerprint;
use crate::base::random::Random;
use crate::host::Host;
use crate::http::headers;

/// The label of a host that bears none of this metadata.
pub const UNLABELLED: u32 = 1;

/// So many of a selector's last requests are remembered.
const LAST: usize = 128;

/// Of the requests that nobody steers, one in so many is looked at where a selector's last ones are known.
const SAMPLE: u64 = 8;

/// The most selectors that a worker remembers, for requests may bear any metadata. Then it begins anew.
const MOST: usize = 256;

/// The label of the host of an attempt, which has one: never 0.
pub fn label(host: &dyn Host) -> u32 {
    let metadata = host.property("xds\0upstream_host_metadata\0filter_metadata\0envoy.lb");
    match metadata.map_or(0, |bytes| of_map(&bytes)) {
        0 => UNLABELLED,
        hash => ((hash >> 32) as u32).max(UNLABELLED + 1),
    }
}

/// The label of the host of a request's last attempt; `None` where Envoy has answered by itself.
pub fn label_of_last(host: &dyn Host) -> Option<u32> {
    Some(label(host)).filter(|label| *label != UNLABELLED || host.property("upstream\0address").is_some())
}

/// The selector of a request; `None` where its route has no name, as many may have none.
pub fn selector(host: &dyn Host) -> Option<u64> {
    let route = host.property("xds\0route_name").filter(|name| !name.is_empty())?;
    let metadata = host.property("metadata\0filter_metadata\0envoy.lb");
    Some(fingerprint::of(&(route, metadata.map_or(0, |bytes| of_map(&bytes)))))
}

/// A hash of the entries of a map, which come in any order.
fn of_map(bytes: &[u8]) -> u64 {
    headers::read(bytes).map(|entry| fingerprint::of(&entry)).fold(0, u64::wrapping_add)
}

/// What one worker has seen of a cluster's subsets.
#[derive(Debug, Default)]
pub struct SubsetsSeen {
    /// The labels of the last hosts, by selector.
    last: HashMap<u64, VecDeque<u32>>,
}

impl SubsetsSeen {
    /// Whether a request that nobody steered is to be looked at.
    pub fn wants(&self, selector: u64, random: &mut Random) -> bool {
        self.last.get(&selector).is_none_or(|last| last.len() < LAST) || random.below(SAMPLE) == 0
    }

    /// A request of this selector, which nobody steered, came to a host with this label.
    pub fn saw(&mut self, selector: u64, label: u32) {
        if self.last.len() >= MOST && !self.last.contains_key(&selector) {
            self.last.clear();
        }
        let last = self.last.entry(selector).or_default();
        if last.len() >= LAST {
            last.pop_front();
        }
        last.push_back(label);
    }

    /// Whether requests of this selector come to hosts with this label.
    #[must_use]
    pub fn leads_to(&self, selector: u64, label: u32) -> bool {
        self.last.get(&selector).is_some_and(|last| last.contains(&label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Timestamp;
    use crate::http::headers::write;
    use crate::memory_host::MemoryHost;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn map(entries: &[(&str, &str)]) -> Vec<u8> {
        let pairs: Vec<(String, &str)> = entries.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
        write(&pairs)
    }

    #[test]
    fn an_answer_that_comes_from_nowhere_says_nothing_of_subsets() {
        let host = MemoryHost::at(Timestamp::from_secs(1));
        assert_eq!(label_of_last(&host), None);
        host.put_property("upstream\0address", Some(b"10.0.0.1:80"));
        assert_eq!(label_of_last(&host), Some(UNLABELLED));
        host.put_property("xds\0upstream_host_metadata\0filter_metadata\0envoy.lb", Some(&map(&[("version", "v1")])));
        assert!(label_of_last(&host).is_some_and(|label| label > UNLABELLED && label == super::label(&host)));
    }

    #[test]
    fn a_map_is_the_same_in_any_order() {
        let (one, other) = (("version", "v1"), ("stage", "prod"));
        assert_eq!(of_map(&map(&[one, other])), of_map(&map(&[other, one])));
        assert_ne!(of_map(&map(&[one, other])), of_map(&map(&[one])));
        assert_ne!(of_map(&map(&[("a", "bc")])), of_map(&map(&[("ab", "c")])));
        assert_eq!((of_map(&map(&[])), of_map(b"\xff\xff")), (0, 0));
    }

    #[test]
    fn a_selector_leads_where_its_last_requests_went() {
        let mut seen = SubsetsSeen::default();
        assert!(!seen.leads_to(1, 7));
        seen.saw(1, 7);
        seen.saw(2, 8);
        assert!(seen.leads_to(1, 7) && !seen.leads_to(1, 8) && !seen.leads_to(2, 7), "each its own");
        // The route asks for another subset from now on.
        (0..LAST).for_each(|_| seen.saw(1, 9));
        assert!(!seen.leads_to(1, 7) && seen.leads_to(1, 9));
    }

    #[test]
    fn every_request_is_looked_at_first_and_some_later() {
        let (mut seen, mut random) = (SubsetsSeen::default(), Random::new(1));
        for _ in 0..LAST {
            assert!(seen.wants(1, &mut random));
            seen.saw(1, 7);
        }
        let looked_at = (0..8000).filter(|_| seen.wants(1, &mut random)).count();
        assert!((800..1200).contains(&looked_at), "{looked_at}");
        assert!(seen.wants(2, &mut random));
    }

    #[test]
    fn any_number_of_selectors_takes_bounded_memory() {
        let mut seen = SubsetsSeen::default();
        (0..10_000).for_each(|selector| seen.saw(selector, 7));
        assert!(seen.last.len() <= MOST && seen.leads_to(9_999, 7));
    }
}
