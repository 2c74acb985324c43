//! A latency that rises at once and falls slowly.
//!
//! Peak EWMA: a response that took longer than the mean is the mean from then on; others are averaged in, with weights that fade by time.
//! Without responses it fades towards nothing, so that a host that was slow once is tried again. Source: Finagle, "Load Balancing: Power
//! of Two Choices (P2C) + Peak EWMA", and its `PeakEwma.scala`, 2014.

use core::time::Duration;

use crate::base::time::{Timestamp, nanos};

/// What was seen so long ago counts by 1/e.
const FADES: Duration = Duration::from_secs(10);

/// One host's latency.
#[derive(Debug, Clone, Copy, Default)]
pub struct PeakEwma {
    nanos: f64,
    at: Timestamp,
}

impl PeakEwma {
    /// Takes in a response that took so long.
    pub fn observe(&mut self, took: Duration, now: Timestamp) {
        let took = nanos(took) as f64;
        let fading = self.fading(now);
        self.nanos = if took > self.nanos { took } else { self.nanos * fading + took * (1.0 - fading) };
        self.at = now;
    }

    /// What it is now, in nanoseconds.
    pub fn value(&self, now: Timestamp) -> f64 {
        self.nanos * self.fading(now)
    }

    fn fading(&self, now: Timestamp) -> f64 {
        (-(nanos(now.since(self.at)) as f64) / nanos(FADES) as f64).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn millis(value: f64) -> u64 {
        (value / 1e6).round() as u64
    }

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let (mut latency, start) = (PeakEwma::default(), Timestamp::from_secs(100));
        assert_eq!(millis(latency.value(start)), 0);
        latency.observe(Duration::from_millis(100), start);
        assert_eq!(millis(latency.value(start)), 100);
        latency.observe(Duration::from_millis(10), start.plus(Duration::from_secs(1)));
        // 100 e^-0.1 + 10 (1 - e^-0.1)
        assert_eq!(millis(latency.value(start.plus(Duration::from_secs(1)))), 91);
        latency.observe(Duration::from_millis(500), start.plus(Duration::from_secs(2)));
        assert_eq!(millis(latency.value(start.plus(Duration::from_secs(2)))), 500);
        assert_eq!(millis(latency.value(start.plus(Duration::from_secs(12)))), 184, "500 / e");
        assert_eq!(millis(latency.value(start)), 500, "a clock that was put back");
    }
}
