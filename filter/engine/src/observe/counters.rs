//! One series of metrics: what has been counted since the host was last told, and the host's names for them.

use holdfast_policy::document::Policy;

use super::metrics;
use crate::host::{MetricKind, RootHost};
use crate::metric::Metric;

/// One series, by metric number.
pub(super) struct Counters {
    /// The host's names; none where the host refused the metric.
    ids: [Option<u32>; Metric::COUNT],
    /// What the host has not been told yet.
    counted: [u32; Metric::COUNT],
    /// Whether there is anything in `counted`.
    is_counted: bool,
}

impl Counters {
    /// Defines the metrics that a policy of this name can record for a key, so that they are all there, at 0, from its first request.
    pub(super) fn define(host: &dyn RootHost, policy: &Policy, name: &str, key: &str) -> Box<Self> {
        let mut counters =
            Box::new(Counters { ids: [None; Metric::COUNT], counted: [0; Metric::COUNT], is_counted: false });
        for (id, metric) in counters.ids.iter_mut().zip(Metric::ALL) {
            if metrics::concerns(metric, policy) {
                let kind = if metric.is_gauge() { MetricKind::Gauge } else { MetricKind::Counter };
                *id = host.define_metric(kind, &metrics::full_name(name, key, metric));
            }
        }
        counters
    }

    /// Counts. Whether this is the first to be counted since the host was last told.
    pub(super) fn count(&mut self, metric: Metric, by: u32) -> bool {
        if let Some(counted) = self.counted.get_mut(metric as usize) {
            *counted = counted.saturating_add(by);
        }
        !core::mem::replace(&mut self.is_counted, true)
    }

    /// Sets a gauge, at once.
    pub(super) fn set(&self, host: &dyn RootHost, metric: Metric, value: u64) {
        if let Some(Some(id)) = self.ids.get(metric as usize) {
            host.record_metric(*id, value);
        }
    }

    /// Sets all gauges to 0 but those that are to be left.
    pub(super) fn clear_gauges(&self, host: &dyn RootHost, is_left: impl Fn(Metric) -> bool) {
        let gauges = Metric::ALL.into_iter().filter(|metric| metric.is_gauge() && !is_left(*metric));
        gauges.for_each(|metric| self.set(host, metric, 0));
    }

    /// Tells the host what was counted.
    pub(super) fn flush(&mut self, host: &dyn RootHost) {
        if !core::mem::replace(&mut self.is_counted, false) {
            return;
        }
        for (id, counted) in self.ids.iter().zip(&mut self.counted) {
            let by = core::mem::take(counted);
            if let (Some(id), true) = (id, by > 0) {
                host.increment_metric(*id, by);
            }
        }
    }
}
