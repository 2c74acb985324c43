//! How a host comes to be.

use crate::headers::Headers;
use crate::host::{Choose, Host, Inner};
use crate::metrics::Matcher;
use crate::route::Route;

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
    pub(crate) attempt_seat: bool,
    pub(crate) route: Route,
    pub(crate) choose: Choose,
}

/// The hosts of the cluster, if a test does not name others.
const HOSTS: [&str; 3] = ["127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4003"];

/// One host after the other, the first for a request's first try.
fn in_turn(hosts: &[&str]) -> Choose {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    Box::new(move |number, _| hosts.get((number - 1) % hosts.len().max(1)).cloned())
}

impl Builder {
    pub(crate) fn new(policy: &str) -> Self {
        Builder {
            policy: policy.to_owned(),
            workers: 1,
            vm_configuration: String::new(),
            drops: Box::new(|_| false),
            router_headers: true,
            attempt_seat: false,
            route: Route::new(),
            choose: in_turn(&HOSTS),
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

    /// The module also sits in the cluster: every thread has a second VM, with `{"seat":"attempt"}` as its
    /// configuration, which [`Host::send`] takes every try through.
    pub fn attempt_seat(mut self) -> Self {
        self.attempt_seat = true;
        self
    }

    /// The route of all requests of [`Host::send`]; Envoy's defaults if this is not called.
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// The cluster's hosts: each request has its first try at the first, its second at the second, and so on in turn.
    pub fn hosts(mut self, hosts: &[&str]) -> Self {
        self.choose = in_turn(hosts);
        self
    }

    /// How the cluster chooses a host: by the number of the try, from 1, and the headers it has come with; `None` when
    /// there is no healthy host.
    pub fn choosing_hosts(mut self, choose: impl FnMut(usize, &Headers) -> Option<String> + 'static) -> Self {
        self.choose = Box::new(choose);
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
