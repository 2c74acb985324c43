//! HTTP connection managers: their filters, and where their routes lead.

use super::specifiers::Specifier;
use crate::texts::At;
use crate::wasm::{Filter, Wasm};

/// An HTTP connection manager.
#[derive(Debug)]
pub struct Manager<'a> {
    /// Its configuration.
    pub at: At<'a>,
    /// Its filters, in their order.
    pub filters: Vec<Filter<'a>>,
    /// The router, by its index.
    pub router: Option<usize>,
    /// The filters of its router beside the hosts of every cluster.
    pub upstream: Vec<Filter<'a>>,
    /// Its route configurations, as far as they are known.
    pub routes: Vec<At<'a>>,
    /// Where they lead.
    pub reach: Reach<'a>,
}

/// Where routes lead.
#[derive(Debug, Default)]
pub struct Reach<'a> {
    /// The names of clusters.
    pub clusters: Vec<&'a str>,
    /// Whether they may lead elsewhere too.
    pub open: bool,
    /// Whether there may be routes that are not known.
    pub more_routes: bool,
}

/// The managers of a listener.
pub fn listener<'a>(listener: &At<'a>, found: &mut Vec<At<'a>>) {
    let chains = listener.list("filter_chains").into_iter().chain(listener.get("default_filter_chain"));
    let filters = chains.flat_map(|chain| chain.list("filters"));
    let configs = filters.filter_map(|filter| filter.get("typed_config"));
    found.extend(configs.filter(|config| config.is("HttpConnectionManager")));
}

impl<'a> Manager<'a> {
    /// A manager with what other files say of it.
    pub fn of(at: At<'a>, routes: &[At<'a>], discovered: &[(&'a str, Wasm<'a>)]) -> Self {
        let filter = |at: At<'a>| Filter::of(at, discovered);
        let filters: Vec<Filter<'a>> = at.list("http_filters").into_iter().map(filter).collect();
        let router = filters.iter().position(|filter| filter.is("Router", "envoy.filters.http.router"));
        let config = router.and_then(|index| filters.get(index)).and_then(|router| router.at.get("typed_config"));
        let upstream = config.map(|config| config.list("upstream_http_filters")).unwrap_or_default();
        let upstream = upstream.into_iter().map(filter).collect();
        let mut reach = Reach::default();
        let routes = configurations(&at, routes, &mut reach);
        for configuration in &routes {
            reach.open |= configuration.get("vhds").is_some();
            reach.more_routes |= configuration.get("vhds").is_some();
            lead(configuration, &mut reach);
        }
        Manager { at, filters, router, upstream, routes, reach }
    }

    /// Its request seats.
    pub fn seats(&self) -> impl Iterator<Item = &Filter<'a>> {
        self.filters.iter().filter(|filter| filter.ours)
    }

    /// The actions of its routes, each with what holds where it says nothing itself: the virtual host, then the route
    /// configuration.
    pub fn actions(&self) -> Vec<([At<'a>; 2], At<'a>)> {
        let mut found = Vec::new();
        for configuration in &self.routes {
            for host in configuration.list("virtual_hosts") {
                let actions = host.list("routes").into_iter().filter_map(|route| route.get("route"));
                found.extend(actions.map(|action| ([host.clone(), configuration.clone()], action)));
            }
        }
        found
    }

    /// The virtual hosts of its routes.
    pub fn virtual_hosts(&self) -> Vec<At<'a>> {
        self.routes.iter().flat_map(|configuration| configuration.list("virtual_hosts")).collect()
    }
}

/// Where a route configuration leads.
pub fn reach<'a>(configuration: &At<'a>) -> Reach<'a> {
    let mut reach = Reach::default();
    lead(configuration, &mut reach);
    reach
}

/// Whether a route's action leads to a cluster.
pub fn leads_to(action: &At<'_>, cluster: &str) -> bool {
    action.text("cluster") == Some(cluster)
        || Specifier::of(action).is_some_and(|specifier| specifier.otherwise == Some(cluster))
        || action
            .get("weighted_clusters")
            .is_some_and(|all| all.list("clusters").iter().any(|one| one.text("name") == Some(cluster)))
}

fn configurations<'a>(manager: &At<'a>, routes: &[At<'a>], reach: &mut Reach<'a>) -> Vec<At<'a>> {
    let mut found: Vec<At<'a>> = manager.get("route_config").into_iter().collect();
    let mut named = |at: &At<'a>, key: &str, found: &mut Vec<At<'a>>| {
        let name = at.text(key);
        let known = routes.iter().find(|routes| name.is_some() && routes.text("name") == name);
        (reach.open, reach.more_routes) = (reach.open || known.is_none(), reach.more_routes || known.is_none());
        found.extend(known.cloned());
    };
    if let Some(rds) = manager.get("rds") {
        named(&rds, "route_config_name", &mut found);
    }
    if let Some(scoped) = manager.get("scoped_routes") {
        let list = scoped.get("scoped_route_configurations_list");
        let all = list.as_ref().map(|list| list.list("scoped_route_configurations")).unwrap_or_default();
        for one in all {
            match one.get("route_configuration") {
                Some(inline) => found.push(inline),
                None => named(&one, "route_configuration_name", &mut found),
            }
        }
        if list.is_none() {
            (reach.open, reach.more_routes) = (true, true);
        }
    }
    found
}

fn lead<'a>(at: &At<'a>, reach: &mut Reach<'a>) {
    let specifier = Specifier::of(at);
    reach.clusters.extend(specifier.iter().flat_map(Specifier::clusters));
    for (key, value) in at.entries() {
        match key {
            // Copies of requests, whose answers nobody gets.
            "request_mirror_policies" | "requestMirrorPolicies" => {}
            "inline_cluster_specifier_plugin" | "inlineClusterSpecifierPlugin" if specifier.is_some() => {}
            "cluster" => reach.clusters.extend(value.node.text()),
            "cluster_header"
            | "clusterHeader"
            | "cluster_specifier_plugin"
            | "clusterSpecifierPlugin"
            | "inline_cluster_specifier_plugin"
            | "inlineClusterSpecifierPlugin" => reach.open = true,
            "weighted_clusters" | "weightedClusters" => {
                for one in value.list("clusters") {
                    reach.clusters.extend(one.text("name"));
                    reach.open |= one.get("cluster_header").is_some();
                }
            }
            _ => lead(&value, reach),
        }
    }
    at.items().iter().for_each(|item| lead(item, reach));
}
