//! Where the attempt seat goes: into the cluster, or into the router where that has upstream filters for all clusters. What
//! the cluster says of HTTP stays as it is, in whatever words.

use holdfast_yaml::Yaml;

use super::Asked;
use super::Changes;
use super::file::At;
use super::found::{Found, Manager};
use super::holdfast::{is_router, put_attempt_seat};
use crate::envoy::protocol::OPTIONS;
use crate::envoy::seat::Module;
use crate::envoy::typed;

/// Older keys of a cluster that say what the options say.
const OLDER: [&str; 6] = [
    "upstream_http_protocol_options",
    "common_http_protocol_options",
    "http_protocol_options",
    "http2_protocol_options",
    "protocol_selection",
    "max_requests_per_connection",
];

/// Where attempt seats go.
#[derive(Debug, Default)]
pub struct Seats<'a> {
    /// Clusters.
    pub clusters: Vec<At<'a>>,
    /// Managers whose router has them for all clusters.
    pub routers: Vec<Manager<'a>>,
}

/// Decides it. A cluster with upstream filters of its own gets none of its router's, so a seat in a cluster would leave those out.
pub fn seats<'a>(asked: &[Asked<'a>], managers: &[Manager<'a>], found: &Found<'a>) -> Seats<'a> {
    let mut seats = Seats::default();
    for cluster in asked {
        let by_router = cluster.ways.iter().any(|(manager, _)| upstream_filters(manager).is_some());
        if by_router && filters(&cluster.at).is_none() {
            let here = |manager: &&Manager<'a>| cluster.ways.iter().any(|(way, _)| way.at.is_same(&manager.at));
            for manager in managers.iter().filter(here) {
                if !seats.routers.iter().any(|other| other.at.is_same(&manager.at)) {
                    seats.routers.push(manager.clone());
                }
            }
        } else {
            push(&mut seats.clusters, &cluster.at);
        }
        // A copy of a request has the header that names hosts. The attempt seat takes it off.
        for (manager, ways) in &cluster.ways {
            for name in ways.configurations.iter().flat_map(|routes| found.mirrors(routes, cluster.name)) {
                let mirror = found.clusters.iter().find(|(known, _)| *known == name).map(|(_, at)| at);
                if let Some(mirror) = mirror.filter(|at| upstream_filters(manager).is_none() || filters(at).is_some()) {
                    push(&mut seats.clusters, mirror);
                }
            }
        }
    }
    seats
}

fn push<'a>(to: &mut Vec<At<'a>>, at: &At<'a>) {
    if !to.iter().any(|other| other.is_same(at)) {
        to.push(at.clone());
    }
}

/// The router's filters for all clusters.
fn upstream_filters<'a>(manager: &Manager<'a>) -> Option<At<'a>> {
    router(manager)?.get("upstream_http_filters").filter(|filters| !filters.node.items().is_empty())
}

fn router<'a>(manager: &Manager<'a>) -> Option<At<'a>> {
    manager.at.list("http_filters").into_iter().find(is_router)?.get("typed_config")
}

/// The cluster's own.
fn filters<'a>(cluster: &At<'a>) -> Option<At<'a>> {
    cluster
        .at(&["typed_extension_protocol_options", OPTIONS, "http_filters"])
        .filter(|list| !list.node.items().is_empty())
}

/// Puts the seat into a router.
pub fn into_router(manager: &Manager<'_>, module: &Module, changes: &mut Changes) {
    let (Some(router), module) = (router(manager), module.clone()) else { return };
    changes.at(&router, move |router| {
        if router.get("upstream_http_filters").is_none() {
            router.set("", "upstream_http_filters", Yaml::map());
        }
        if let Some(filters) = router.get_mut("upstream_http_filters") {
            put_attempt_seat(filters, &module);
        }
    });
}

/// Puts the seat into a cluster.
pub fn into_cluster(cluster: &At<'_>, module: &Module, changes: &mut Changes) {
    let module = module.clone();
    let options = cluster.at(&["typed_extension_protocol_options", OPTIONS]);
    if let Some(options) = options {
        changes.at(&options, move |options| {
            if options.get("http_filters").is_none() {
                options.set("", "http_filters", Yaml::map());
            }
            if let Some(filters) = options.get_mut("http_filters") {
                put_attempt_seat(filters, &module);
            }
        });
        return;
    }
    let mut new = older(cluster);
    let mut filters = Yaml::map();
    put_attempt_seat(&mut filters, &module);
    new.set("", "http_filters", filters);
    changes.at(cluster, move |cluster| {
        if cluster.get("typed_extension_protocol_options").is_none() {
            const KEYS: [&str; 6] =
                ["name", "type", "connect_timeout", "lb_policy", "load_balancing_policy", "circuit_breakers"];
            cluster.set_behind(&KEYS, "", "typed_extension_protocol_options", Yaml::map());
        }
        if let Some(all) = cluster.get_mut("typed_extension_protocol_options") {
            all.set("", OPTIONS, new);
        }
        for key in OLDER {
            cluster.remove(key);
        }
    });
}

/// What the cluster's older keys say, as options.
/// Source: Envoy's API, config/cluster/v3/cluster.proto, on these fields.
fn older(cluster: &At<'_>) -> Yaml {
    let own = |key: &str| cluster.get(key).map(|at| Yaml::from(at.node));
    let or_default = |key: &str| own(key).unwrap_or_else(Yaml::map);
    let both = || {
        Yaml::map()
            .with("http_protocol_options", or_default("http_protocol_options"))
            .with("http2_protocol_options", or_default("http2_protocol_options"))
    };
    let common = match (own("common_http_protocol_options"), own("max_requests_per_connection")) {
        (common, None) => common,
        (common, Some(most)) => {
            let mut common = common.unwrap_or_else(Yaml::map);
            if common.get("max_requests_per_connection").is_none() {
                common.set("", "max_requests_per_connection", most);
            }
            Some(common)
        }
    };
    let options = typed(OPTIONS)
        .with_some("common_http_protocol_options", common)
        .with_some("upstream_http_protocol_options", own("upstream_http_protocol_options"));
    let http2 = cluster.node.get("http2_protocol_options").is_some();
    match cluster.text("protocol_selection") {
        Some("USE_DOWNSTREAM_PROTOCOL" | "1") => options.with("use_downstream_protocol_config", both()),
        _ if http2 => options.with(
            "explicit_http_config",
            Yaml::map().with("http2_protocol_options", or_default("http2_protocol_options")),
        ),
        _ => options.with(
            "explicit_http_config",
            Yaml::map().with("http_protocol_options", or_default("http_protocol_options")),
        ),
    }
}
