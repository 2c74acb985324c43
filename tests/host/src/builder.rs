//! How a host comes to be.

use std::sync::Arc;

use crate::clusters::{Balance, Cluster};
use crate::headers::Headers;
use crate::host::{Host, Inner};
use crate::metrics::Matcher;
use crate::module::Loaded;
use crate::reaction::{Arrival, React, Reaction};
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
    pub(crate) shares_metrics: bool,
    pub(crate) router_headers: bool,
    pub(crate) attempt_seat: bool,
    pub(crate) sees_held_bodies: bool,
    pub(crate) route: Route,
    pub(crate) balance: Balance,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) tries: Option<React>,
    pub(crate) calls: Option<React>,
    pub(crate) module: Option<Arc<Loaded>>,
}

/// The hosts of the cluster, if a test does not name others.
const HOSTS: [&str; 3] = ["127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4003"];

impl Builder {
    pub(crate) fn new(policy: &str) -> Self {
        Builder {
            policy: policy.to_owned(),
            workers: 1,
            vm_configuration: String::new(),
            drops: Box::new(|_| false),
            shares_metrics: true,
            router_headers: true,
            attempt_seat: false,
            sees_held_bodies: false,
            route: Route::new(),
            balance: Balance::in_turn(&HOSTS),
            clusters: Vec::new(),
            tries: None,
            calls: None,
            module: None,
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
    /// configuration, which [`Host::send`] takes every attempt through.
    pub fn attempt_seat(mut self) -> Self {
        self.attempt_seat = true;
        self
    }

    /// The plugin has `allow_on_headers_stop_iteration`: it sees bodies whose headers it holds.
    pub fn seeing_held_bodies(mut self) -> Self {
        self.sees_held_bodies = true;
        self
    }

    /// The route of all requests of [`Host::send`]; Envoy's defaults if this is not called.
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    /// The cluster's hosts: each request has its first attempt at the first, its second at the second, and so on in turn.
    pub fn hosts(mut self, hosts: &[&str]) -> Self {
        self.balance = Balance::in_turn(hosts);
        self
    }

    /// The cluster balances with `override_host` from the header `x-holdfast-hosts` over these hosts, and round robin where
    /// there is no such header or its hosts are used up.
    pub fn override_host(mut self, hosts: &[&str]) -> Self {
        self.balance = Balance::override_host(hosts);
        self
    }

    /// There is one more cluster, which balances as [`Builder::override_host`] does and has the attempt seat too, if there
    /// is one. Requests go there by [`crate::Request::cluster`].
    pub fn cluster(mut self, name: &str, hosts: &[&str]) -> Self {
        self.clusters.push(Cluster::new(name, true, Balance::override_host(hosts)));
        self
    }

    /// There is one more cluster, without the module in it.
    pub fn plain_cluster(mut self, name: &str, hosts: &[&str]) -> Self {
        self.clusters.push(Cluster::new(name, false, Balance::override_host(hosts)));
        self
    }

    /// What hosts do by themselves with the attempts of users' requests ([`Host::send`]); `None` leaves one to the test.
    pub fn answering_tries(mut self, react: impl FnMut(&Arrival<'_>) -> Option<Reaction> + 'static) -> Self {
        self.tries = Some(Box::new(react));
        self
    }

    /// What hosts do by themselves with the calls that the module makes; `None` leaves one to the test, see
    /// [`Host::calls_out`].
    pub fn answering_calls(mut self, react: impl FnMut(&Arrival<'_>) -> Option<Reaction> + 'static) -> Self {
        self.calls = Some(Box::new(react));
        self
    }

    /// Another module in place of the shipped one, for tests of this host itself.
    pub fn module(mut self, wasm: &[u8]) -> Self {
        let loaded = Loaded::new(wasm).unwrap_or_else(|problem| panic!("the module cannot be loaded: {problem}"));
        self.module = Some(Arc::new(loaded));
        self
    }

    /// How the cluster chooses a host: by the number of the attempt, from 1, and the headers it has come with; `None` when
    /// there is no healthy host.
    pub fn choosing_hosts(mut self, choose: impl FnMut(usize, &Headers) -> Option<String> + 'static) -> Self {
        self.balance = Balance::Chosen(Box::new(choose));
        self
    }

    /// A stats matcher that drops the metrics that `drops` names.
    pub fn dropping_metrics(mut self, drops: impl Fn(&str) -> bool + 'static) -> Self {
        self.drops = Box::new(drops);
        self
    }

    /// The metrics of the attempt seat are others than the request seat's of the same names, as they are before Envoy 1.39.
    pub fn attempt_seat_with_metrics_of_its_own(mut self) -> Self {
        self.shares_metrics = false;
        self.attempt_seat()
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
