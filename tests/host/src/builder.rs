//! How a host comes to be.

use crate::host::{Host, Inner};
use crate::metrics::Matcher;

/// The module refused a configuration; what it logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its log lines.
    pub lines: Vec<String>,
}

/// A host that is not started yet.
pub struct Builder {
    pub(crate) policy: String,
    pub(crate) workers: usize,
    pub(crate) vm_configuration: String,
    pub(crate) drops: Matcher,
    pub(crate) router_headers: bool,
}

impl Builder {
    pub(crate) fn new(policy: &str) -> Self {
        Builder {
            policy: policy.to_owned(),
            workers: 1,
            vm_configuration: String::new(),
            drops: Box::new(|_| false),
            router_headers: true,
        }
    }

    /// How many workers there are; 1 if this is not called.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// `vm_config.configuration`.
    pub fn vm_configuration(mut self, bytes: &str) -> Self {
        self.vm_configuration = bytes.to_owned();
        self
    }

    /// A stats matcher that drops the metrics that `drops` names.
    pub fn dropping_metrics(mut self, drops: impl Fn(&str) -> bool + 'static) -> Self {
        self.drops = Box::new(drops);
        self
    }

    /// The router adds no headers of its own to what a host answers (`suppress_envoy_headers`).
    pub fn without_router_headers(mut self) -> Self {
        self.router_headers = false;
        self
    }

    /// Starts it; a panic if the module refuses the configuration.
    pub fn start(self) -> Host {
        self.try_start().unwrap_or_else(|refused| panic!("the configuration is refused: {:?}", refused.lines))
    }

    /// Starts it, or says why the module refuses the configuration.
    pub fn try_start(self) -> Result<Host, Refused> {
        Host::start(Inner::new(self))
    }

    /// Starts it with a rule in place from the first call on, see [`Host::on_call`].
    pub fn try_start_with(
        self,
        rule: impl FnMut(&Host, &crate::Call<'_>) -> Option<crate::Fault> + 'static,
    ) -> Result<Host, Refused> {
        let inner = Inner::new(self);
        Host::of(std::rc::Rc::clone(&inner)).on_call(rule);
        Host::start(inner)
    }
}
