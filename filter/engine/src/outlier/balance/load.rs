//! How busy and how quick hosts are, as one worker knows.
//!
//! Only its own requests are counted: another worker's have the same hosts to choose from and see the same in their own. What is
//! in flight ends with its owner, however a request ends.

use core::cell::Cell;
use core::time::Duration;
use std::rc::Rc;

use super::Preference;
use super::peak_ewma::PeakEwma;
use crate::base::time::Timestamp;
use crate::outlier::table::HostId;

/// What a host costs of which nothing is known and that has requests in flight: more than any that answers, so that it is not given
/// everything until it first does. Source: as for [`PeakEwma`].
const UNKNOWN: f64 = 1e15;

/// A request in flight to a host, until it is dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct InFlight(Rc<Cell<u32>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// One host's load.
#[derive(Debug, Default)]
struct Load {
    id: u32,
    in_flight: Rc<Cell<u32>>,
    latency: PeakEwma,
}

/// What is known of the hosts, by place.
#[derive(Debug, Default)]
pub struct Loads(Vec<Load>);

impl Loads {
    fn of(&self, host: HostId) -> Option<&Load> {
        self.0.get(usize::from(host.index)).filter(|load| load.id == host.id)
    }

    fn of_mut(&mut self, host: HostId) -> Option<&mut Load> {
        let index = usize::from(host.index);
        if self.0.len() <= index {
            self.0.resize_with(index + 1, Load::default);
        }
        let load = self.0.get_mut(index)?;
        if load.id != host.id {
            // Another one has the place now.
            *load = Load { id: host.id, ..Load::default() };
        }
        Some(load)
    }

    /// A request is sent to a host.
    pub fn send(&mut self, host: HostId) -> Option<InFlight> {
        let count = Rc::clone(&self.of_mut(host)?.in_flight);
        count.set(count.get().saturating_add(1));
        Some(InFlight(count))
    }

    /// A host has answered after so long.
    pub fn observe(&mut self, host: HostId, took: Duration, now: Timestamp) {
        if let Some(load) = self.of_mut(host) {
            load.latency.observe(took, now);
        }
    }

    /// A host has failed after so long, which may have been quick: until that fades it is no better than the slowest.
    pub fn fail(&mut self, host: HostId, took: Duration, now: Timestamp) {
        let slowest = self.0.iter().map(|load| load.latency.value(now)).fold(0.0, f64::max);
        if let Some(load) = self.of_mut(host) {
            load.latency.observe(took.max(Duration::from_nanos(slowest as u64)), now);
        }
    }

    /// How many requests are in flight to a host.
    pub fn in_flight(&self, host: HostId) -> u32 {
        self.of(host).map_or(0, |load| load.in_flight.get())
    }
}

/// Prefers hosts with few requests in flight for their weight, in whole ones of the host with the least weight: where few are in
/// flight, parts of them would be nothing but the weights again, and those with small ones would get too much.
pub struct LeastRequest<'a>(pub &'a Loads);

impl Preference for LeastRequest<'_> {
    fn cost(&self, host: HostId, weight: f64) -> f64 {
        // The nearest whole number, of two the lower one.
        (f64::from(self.0.in_flight(host)) / weight.max(1.0) - 0.5).ceil().max(0.0)
    }
}

/// Prefers hosts that answer soon and have few requests in flight. It looks now.
pub struct LeastLatency<'a>(pub &'a Loads, pub Timestamp);

impl Preference for LeastLatency<'_> {
    fn cost(&self, host: HostId, _: f64) -> f64 {
        let Some(load) = self.0.of(host) else { return 0.0 };
        let (latency, in_flight) = (load.latency.value(self.1), f64::from(load.in_flight.get()));
        if latency == 0.0 && in_flight > 0.0 { UNKNOWN + in_flight } else { latency * (in_flight + 1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const HOST: HostId = HostId { index: 3, id: 9 };
    const NOW: Timestamp = Timestamp::from_secs(100);

    #[test]
    fn what_is_in_flight_ends_with_its_owner() {
        let mut loads = Loads::default();
        let (one, two) = (loads.send(HOST), loads.send(HOST));
        assert_eq!(loads.in_flight(HOST), 2);
        let cost = |weight| LeastRequest(&loads).cost(HOST, weight);
        assert_eq!([cost(1.0), cost(1.5), cost(2.0), cost(4.0)], [2.0, 1.0, 1.0, 0.0]);
        drop(one);
        assert_eq!(loads.in_flight(HOST), 1);
        drop(loads);
        drop(two);
    }

    #[test]
    fn another_host_in_the_same_place_begins_with_nothing() {
        let mut loads = Loads::default();
        let one = loads.send(HOST);
        let next = HostId { id: 10, ..HOST };
        assert_eq!(loads.in_flight(next), 0);
        loads.observe(next, Duration::from_millis(5), NOW);
        drop(one);
        assert_eq!((loads.in_flight(next), loads.in_flight(HOST)), (0, 0));
    }

    #[test]
    fn a_host_that_fails_at_once_is_no_better_than_the_slowest() {
        let host = |index| HostId { index, id: 1 };
        let (slow, quick, new) = (host(0), host(1), host(2));
        let mut loads = Loads::default();
        loads.observe(slow, Duration::from_millis(40), NOW);
        loads.observe(quick, Duration::from_millis(20), NOW);
        [quick, new].into_iter().for_each(|host| loads.fail(host, Duration::from_millis(1), NOW));
        let cost = |host, now| LeastLatency(&loads, now).cost(host, 1.0);
        assert_eq!([cost(quick, NOW), cost(new, NOW)], [cost(slow, NOW); 2]);
        let later = NOW.plus(Duration::from_secs(60));
        assert!(cost(new, later) < cost(slow, NOW) / 100.0, "it is tried again");
    }

    #[test]
    fn what_is_slow_or_busy_costs_more_and_what_is_not_known_is_not_given_everything() {
        let (slow, quick, new) = (HostId { index: 0, id: 1 }, HostId { index: 1, id: 2 }, HostId { index: 2, id: 3 });
        let mut loads = Loads::default();
        loads.observe(slow, Duration::from_millis(40), NOW);
        loads.observe(quick, Duration::from_millis(20), NOW);
        let cost = |loads: &Loads, host| LeastLatency(loads, NOW).cost(host, 1.0);
        assert!(cost(&loads, new) < cost(&loads, quick) && cost(&loads, quick) < cost(&loads, slow));
        let _busy: Vec<_> = [quick, quick, new].map(|host| loads.send(host)).into();
        assert!(cost(&loads, slow) < cost(&loads, quick), "three at 20 ms are more than one at 40 ms");
        assert!(cost(&loads, quick) < cost(&loads, new));
    }
}
