//! Upstream clusters.

use crate::texts::At;
use crate::wasm::{Filter, Wasm};

/// The key of the options that hold the filters beside the hosts.
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// The header by which the request seat names hosts.
pub const HOSTS: &str = "x-holdfast-hosts";

/// A cluster, or a patch for some.
#[derive(Debug)]
pub struct Cluster<'a> {
    /// It.
    pub at: At<'a>,
    /// Its name.
    pub name: &'a str,
    /// Whether it is a part of a cluster, the rest of which is not known.
    pub partial: bool,
    /// Its HTTP options.
    pub options: Option<At<'a>>,
    /// Its filters beside the hosts.
    pub filters: Vec<Filter<'a>>,
}

impl<'a> Cluster<'a> {
    /// A cluster, yet without its filters.
    pub fn of(at: At<'a>, partial: bool) -> Self {
        let options = at.get("typed_extension_protocol_options").and_then(|all| all.get(OPTIONS));
        Cluster { name: at.text("name").unwrap_or_default(), at, partial, options, filters: Vec::new() }
    }

    /// Finds its filters.
    pub fn find_seat(&mut self, discovered: &[(&'a str, Wasm<'a>)]) {
        let list = self.options.as_ref().map(|options| options.list("http_filters")).unwrap_or_default();
        self.filters = list.into_iter().map(|at| Filter::of(at, discovered)).collect();
    }

    /// Its attempt seat.
    pub fn seat(&self) -> Option<&Filter<'a>> {
        self.filters.iter().find(|filter| filter.ours)
    }

    /// Its load balancing policies by type, with their settings.
    pub fn balancing(&self) -> Vec<At<'a>> {
        let list = self.at.get("load_balancing_policy").map(|policy| policy.list("policies")).unwrap_or_default();
        list.iter().filter_map(|policy| policy.at(&["typed_extension_config", "typed_config"])).collect()
    }

    /// Its `override_host`.
    pub fn override_host(&self) -> Option<At<'a>> {
        self.balancing().into_iter().find(|policy| policy.is("OverrideHost"))
    }

    /// Whether its hosts can be named by Holdfast's header.
    pub fn is_steered(&self) -> bool {
        self.override_host().is_some_and(|policy| follows(&policy))
    }

    /// Why no host of it can be named, if none can.
    pub fn chooses_itself(&self) -> Option<&'static str> {
        if self.at.text("type") == Some("ORIGINAL_DST") {
            Some("is of type ORIGINAL_DST")
        } else if self.is_aggregate() {
            Some("is an aggregate of other clusters")
        } else {
            None
        }
    }

    fn is_aggregate(&self) -> bool {
        self.at.at(&["cluster_type", "name"]).and_then(|name| name.node.text()) == Some("envoy.clusters.aggregate")
    }

    /// Whether it is known to have one host at most.
    pub fn has_one_host(&self) -> bool {
        let hosts = self.at.at(&["load_assignment", "endpoints"]).map(|all| all.items()).unwrap_or_default();
        let hosts: usize = hosts.iter().map(|locality| locality.list("lb_endpoints").len()).sum();
        self.at.text("type").is_none_or(|kind| kind == "STATIC") && hosts <= 1 && !self.partial
    }
}

/// Whether an `override_host` has Holdfast's header among its sources.
pub fn follows(policy: &At<'_>) -> bool {
    let sources = policy.list("override_host_sources");
    sources.iter().filter_map(|source| source.text("header")).any(|header| header.eq_ignore_ascii_case(HOSTS))
}
