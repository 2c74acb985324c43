//! What stands in Envoy's files that matters here: clusters, connection managers, and the routes between them.

use super::file::{At, File};
use crate::envoy::balancing::HOSTS;
use crate::envoy::matcher::{self, MATCHER};

/// Everything that was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// The bootstraps.
    pub bootstraps: Vec<At<'a>>,
    /// Clusters by their names.
    pub clusters: Vec<(&'a str, At<'a>)>,
    /// HTTP connection managers.
    pub managers: Vec<Manager<'a>>,
    /// Route configurations that stand by themselves.
    pub routes: Vec<At<'a>>,
    /// Where more clusters come from, if they do: a file, or `a management server`.
    pub more_clusters: Option<String>,
    /// Where more listeners come from.
    pub more_listeners: Option<String>,
}

/// An HTTP connection manager.
#[derive(Debug, Clone)]
pub struct Manager<'a> {
    /// Its configuration.
    pub at: At<'a>,
}

/// How a manager's requests come to a cluster.
#[derive(Debug, Default)]
pub struct Ways<'a> {
    /// Whether any route names it.
    pub named: bool,
    /// Whether a route leaves open where it goes, or routes are not among the files.
    pub open: bool,
    /// Route configurations that name it.
    pub configurations: Vec<At<'a>>,
    /// The name of a route configuration that is not among the files.
    pub missing: Option<&'a str>,
}

/// Looks through the files.
pub fn found(files: &[File]) -> Found<'_> {
    let mut found = Found {
        bootstraps: Vec::new(),
        clusters: Vec::new(),
        managers: Vec::new(),
        routes: Vec::new(),
        more_clusters: None,
        more_listeners: None,
    };
    for (index, file) in files.iter().enumerate() {
        let root = file.at(index);
        let bootstrap = ["static_resources", "dynamic_resources", "admin", "node", "layered_runtime"];
        if bootstrap.iter().any(|key| root.get(key).is_some()) {
            for listener in root.at(&["static_resources"]).map(|all| all.list("listeners")).unwrap_or_default() {
                managers(&listener, &mut found.managers);
            }
            for one in root.at(&["static_resources"]).map(|all| all.list("clusters")).unwrap_or_default() {
                found.clusters.push((one.text("name").unwrap_or_default(), one));
            }
            found.more_clusters = found.more_clusters.or_else(|| elsewhere(&root, "cds_config"));
            found.more_listeners = found.more_listeners.or_else(|| elsewhere(&root, "lds_config"));
            found.bootstraps.push(root);
        } else {
            for one in root.list("resources") {
                // A resource may stand in a wrapper that names it.
                let one = if one.is("Resource") { one.get("resource").unwrap_or(one) } else { one };
                if one.is("Listener") {
                    managers(&one, &mut found.managers);
                } else if one.is("Cluster") {
                    found.clusters.push((one.text("name").unwrap_or_default(), one));
                } else if one.is("RouteConfiguration") {
                    found.routes.push(one);
                }
            }
        }
    }
    found
}

/// Where a bootstrap's dynamic resources of a kind come from.
fn elsewhere(bootstrap: &At<'_>, key: &str) -> Option<String> {
    let source = bootstrap.at(&["dynamic_resources", key])?;
    let path = source.get("path_config_source").and_then(|file| file.text("path")).or_else(|| source.text("path"));
    Some(path.unwrap_or("a management server").to_owned())
}

fn managers<'a>(listener: &At<'a>, to: &mut Vec<Manager<'a>>) {
    let chains = listener.list("filter_chains").into_iter().chain(listener.get("default_filter_chain"));
    let filters = chains.flat_map(|chain| chain.list("filters"));
    let all = filters.filter_map(|filter| filter.get("typed_config"));
    to.extend(all.filter(|config| config.is("HttpConnectionManager")).map(|at| Manager { at }));
}

impl<'a> Found<'a> {
    /// How a manager's requests come to a cluster.
    pub fn ways(&self, manager: &Manager<'a>, cluster: &str) -> Ways<'a> {
        let mut ways = Ways::default();
        let mut configurations: Vec<At<'a>> = manager.at.get("route_config").into_iter().collect();
        let named = |at: &At<'a>, key: &str, ways: &mut Ways<'a>| -> Option<At<'a>> {
            let name = at.text(key)?;
            let found = self.routes.iter().find(|routes| routes.text("name") == Some(name)).cloned();
            if found.is_none() {
                ways.open = true;
                ways.missing = Some(name);
            }
            found
        };
        if let Some(rds) = manager.at.get("rds") {
            configurations.extend(named(&rds, "route_config_name", &mut ways));
        }
        if let Some(scoped) = manager.at.get("scoped_routes") {
            let list = scoped.at(&["scoped_route_configurations_list"]);
            ways.open |= list.is_none();
            for one in list.map(|list| list.list("scoped_route_configurations")).unwrap_or_default() {
                match one.get("route_configuration") {
                    Some(inline) => configurations.push(inline),
                    None => configurations.extend(named(&one, "route_configuration_name", &mut ways)),
                }
            }
        }
        for one in configurations {
            let reach = reach(one.node, cluster);
            ways.named |= reach.named;
            ways.open |= reach.open || one.get("vhds").is_some();
            if reach.named || reach.open {
                ways.configurations.push(one);
            }
        }
        ways
    }

    /// Route configurations of listeners that are not among the files, as far as they lead to a cluster.
    pub fn routes_of_others(&self, cluster: &str) -> Vec<At<'a>> {
        let of_known = |routes: &At<'a>| {
            let ways = self.managers.iter().map(|manager| self.ways(manager, cluster));
            ways.into_iter().any(|ways| ways.configurations.iter().any(|one| one.is_same(routes)))
        };
        let leads = |routes: &&At<'a>| {
            let reach = reach(routes.node, cluster);
            reach.named || reach.open || routes.get("vhds").is_some()
        };
        self.routes.iter().filter(leads).filter(|routes| !of_known(routes)).cloned().collect()
    }

    /// Clusters that get copies of the requests that go, or may go, to a cluster, with all that these requests say.
    pub fn mirrors(&self, configuration: &At<'a>, cluster: &str) -> Vec<&'a str> {
        let takes_it_off = |policy: &At<'a>| {
            let mutations = policy.list("request_headers_mutations");
            mutations.iter().any(|one| one.text("remove").is_some_and(|name| name.eq_ignore_ascii_case(HOSTS)))
        };
        let list = |at: &At<'a>| at.list("request_mirror_policies");
        let mut found = Vec::new();
        for host in configuration.list("virtual_hosts") {
            for route in host.list("routes") {
                let Some(action) = route.get("route") else { continue };
                let reach = reach(action.node, cluster);
                if !reach.named && !reach.open {
                    continue;
                }
                // The nearest list holds.
                let lists = [list(&action), list(&host), list(configuration)];
                let nearest = lists.into_iter().find(|list| !list.is_empty()).unwrap_or_default();
                found.extend(
                    nearest.iter().filter(|policy| !takes_it_off(policy)).filter_map(|policy| policy.text("cluster")),
                );
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// What a part of a route configuration says of a cluster.
#[derive(Default)]
struct Reach {
    named: bool,
    open: bool,
}

fn reach(node: &holdfast_yaml::Node, cluster: &str) -> Reach {
    let mut found = Reach::default();
    for (key, value) in node.entries() {
        match key.text() {
            // Copies of requests, whose answers nobody gets.
            Some("request_mirror_policies") => {}
            Some("cluster") if value.text() == Some(cluster) => found.named = true,
            Some(MATCHER) if matcher::otherwise(node).is_some() => {
                found.named |= matcher::otherwise(node) == Some(cluster) || matcher::chosen(node).contains(&cluster);
            }
            Some("cluster_header" | "cluster_specifier_plugin" | MATCHER) => found.open = true,
            Some("weighted_clusters") => {
                let clusters = value.get("clusters").map(holdfast_yaml::Node::items).unwrap_or_default();
                found.named |= clusters.iter().any(|one| one.get("name").and_then(|name| name.text()) == Some(cluster));
                found.open |= clusters.iter().any(|one| one.get("cluster_header").is_some());
            }
            _ => {
                let within = reach(value, cluster);
                found.named |= within.named;
                found.open |= within.open;
            }
        }
    }
    for item in node.items() {
        let within = reach(item, cluster);
        found.named |= within.named;
        found.open |= within.open;
    }
    found
}

/// Whether a route's action names a cluster, alone or among others by weight.
pub fn goes_to(action: &At<'_>, cluster: &str) -> bool {
    action.text("cluster") == Some(cluster)
        || matcher::otherwise(action.node) == Some(cluster)
        || action
            .get("weighted_clusters")
            .is_some_and(|all| all.list("clusters").iter().any(|one| one.text("name") == Some(cluster)))
}
