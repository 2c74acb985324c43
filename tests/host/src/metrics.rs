//! Metrics: one value for each name in the whole process. Source: Envoy, `context.cc`, and its stats store.

use std::collections::HashMap;

use crate::status;

/// What a metric is; the number is the ABI's and the lowest bits of its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(crate) fn of(number: u32) -> Option<Self> {
        [Kind::Counter, Kind::Gauge, Kind::Histogram].get(number as usize).copied()
    }
}

#[derive(Debug)]
struct Stat {
    name: String,
    kind: Kind,
    value: u64,
    /// Whether it was ever written; a gauge that was not is left out of every listing.
    used: bool,
    /// Whether the stats matcher drops it: it then takes every write and reads 0.
    dropped: bool,
}

/// How the names of an upstream filter's metrics begin before Envoy 1.39, but for the cluster's own name.
pub(crate) const OF_CLUSTER: &str = "cluster.";

/// Says which names Envoy's stats matcher drops.
pub(crate) type Matcher = Box<dyn Fn(&str) -> bool>;

/// All metrics of the process.
pub(crate) struct Metrics {
    stats: Vec<Stat>,
    by_name: HashMap<String, usize>,
    drops: Matcher,
}

impl Metrics {
    pub(crate) fn new(drops: Matcher) -> Self {
        Metrics { stats: Vec::new(), by_name: HashMap::new(), drops }
    }

    /// The place of a metric, which is made if it is new.
    pub(crate) fn define(&mut self, kind: Kind, name: &str) -> usize {
        if let Some(place) = self.by_name.get(name) {
            return *place;
        }
        let dropped = (self.drops)(name);
        self.stats.push(Stat { name: name.to_owned(), kind, value: 0, used: false, dropped });
        self.by_name.insert(name.to_owned(), self.stats.len() - 1);
        self.stats.len() - 1
    }

    pub(crate) fn name(&self, place: usize) -> &str {
        &self.stats[place].name
    }

    pub(crate) fn increment(&mut self, place: usize, by: i64) -> u32 {
        let stat = &mut self.stats[place];
        let amount = by.unsigned_abs();
        match stat.kind {
            Kind::Counter if by <= 0 => return status::BAD_ARGUMENT,
            Kind::Histogram => return status::BAD_ARGUMENT,
            _ if stat.dropped => return status::OK,
            // Below zero a gauge wraps.
            _ if by < 0 => stat.value = stat.value.wrapping_sub(amount),
            _ => stat.value = stat.value.wrapping_add(amount),
        }
        stat.used = true;
        status::OK
    }

    pub(crate) fn record(&mut self, place: usize, value: u64) -> u32 {
        let stat = &mut self.stats[place];
        if !stat.dropped {
            stat.used = true;
            match stat.kind {
                Kind::Counter => stat.value = stat.value.wrapping_add(value),
                Kind::Gauge | Kind::Histogram => stat.value = value,
            }
        }
        status::OK
    }

    pub(crate) fn get(&self, place: usize) -> Result<u64, u32> {
        let stat = &self.stats[place];
        match stat.kind {
            Kind::Histogram => Err(status::BAD_ARGUMENT),
            Kind::Counter | Kind::Gauge => Ok(stat.value),
        }
    }

    /// What Envoy's `/stats` shows for a name: nothing for one that was dropped, never defined, or a gauge never set.
    pub(crate) fn shown(&self, name: &str) -> Option<u64> {
        let stat = &self.stats[*self.by_name.get(name)?];
        let listed = !stat.dropped && (stat.used || stat.kind == Kind::Counter);
        listed.then_some(stat.value)
    }

    /// All that Envoy's `/stats` shows, by name.
    pub(crate) fn all_shown(&self) -> Vec<(String, u64)> {
        let mut all: Vec<_> =
            self.stats.iter().filter_map(|stat| Some((stat.name.clone(), self.shown(&stat.name)?))).collect();
        all.sort();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_only_rise_and_gauges_wrap() {
        let mut metrics = Metrics::new(Box::new(|_| false));
        let (counter, gauge) = (metrics.define(Kind::Counter, "c"), metrics.define(Kind::Gauge, "g"));
        assert_eq!(metrics.increment(counter, 0), status::BAD_ARGUMENT);
        assert_eq!(metrics.increment(counter, -1), status::BAD_ARGUMENT);
        assert_eq!(metrics.shown("g"), None, "a gauge that was never set is not listed");
        assert_eq!(metrics.increment(gauge, -1), status::OK);
        assert_eq!(metrics.get(gauge), Ok(u64::MAX));
        assert_eq!(metrics.define(Kind::Counter, "c"), counter, "a name is one metric for all");
    }

    #[test]
    fn what_the_matcher_drops_reads_0_and_is_not_refused() {
        let mut metrics = Metrics::new(Box::new(|name| name == "g"));
        let gauge = metrics.define(Kind::Gauge, "g");
        assert_eq!(metrics.increment(gauge, 5), status::OK);
        assert_eq!(metrics.get(gauge), Ok(0));
        assert_eq!(metrics.shown("g"), None);
    }
}
