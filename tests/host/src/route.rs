//! What a route says about retries and time-outs.

use std::time::Duration;

/// The route that all requests take, with its `retry_policy`; a request's `x-envoy-*` headers come on top of it.
#[derive(Debug, Clone)]
pub struct Route {
    pub(crate) retry_on: String,
    pub(crate) retries: u32,
    pub(crate) retriable_status_codes: Vec<u16>,
    pub(crate) retriable_headers: Vec<String>,
    pub(crate) per_try_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) hedges: bool,
    pub(crate) back_off: Duration,
    pub(crate) counts_attempts: bool,
    pub(crate) chooses_again: bool,
}

impl Default for Route {
    fn default() -> Self {
        Route {
            retry_on: String::new(),
            retries: 1,
            retriable_status_codes: Vec::new(),
            retriable_headers: Vec::new(),
            per_try_timeout: Duration::ZERO,
            timeout: Duration::from_secs(15),
            hedges: false,
            back_off: Duration::ZERO,
            counts_attempts: false,
            chooses_again: false,
        }
    }
}

impl Route {
    /// Envoy's defaults: no retries, 15 seconds, and no back-off (`retry_back_off` made negligible).
    pub fn new() -> Self {
        Route::default()
    }

    /// `retry_on`, also with the words for gRPC.
    pub fn retry_on(mut self, words: &str) -> Self {
        self.retry_on = words.to_owned();
        self
    }

    /// `num_retries`; 1 if this is not called.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// `retriable_status_codes`.
    pub fn retriable_status_codes(mut self, codes: &[u16]) -> Self {
        self.retriable_status_codes = codes.to_vec();
        self
    }

    /// `retriable_headers`, by name.
    pub fn retriable_headers(mut self, names: &[&str]) -> Self {
        self.retriable_headers = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// `per_try_timeout`; zero is none.
    pub fn per_try_timeout(mut self, timeout: Duration) -> Self {
        self.per_try_timeout = timeout;
        self
    }

    /// `timeout`; zero is none.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `hedge_policy.hedge_on_per_try_timeout`.
    pub fn hedging(mut self) -> Self {
        self.hedges = true;
        self
    }

    /// How long Envoy itself waits before each retry.
    pub fn back_off(mut self, back_off: Duration) -> Self {
        self.back_off = back_off;
        self
    }

    /// A matcher that lets the filter state choose the cluster, with `refresh_cluster_on_retry`.
    pub fn choosing_again(mut self) -> Self {
        self.chooses_again = true;
        self
    }

    /// `include_request_attempt_count`: Envoy puts `x-envoy-attempt-count` into every attempt.
    pub fn counting_attempts(mut self) -> Self {
        self.counts_attempts = true;
        self
    }
}
