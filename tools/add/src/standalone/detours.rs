//! The routes by which a fallback has another cluster serve: one in front of each route to the cluster, for each other one.

use std::collections::BTreeSet;

use holdfast_yaml::Yaml;

use super::Changes;
use super::file::At;
use super::found::goes_to;

/// The filter state by which a fallback chooses.
const CHOICE: &str = "wasm.holdfast_route";

/// What a route's action says of where it goes.
const DESTINATIONS: [&str; 4] =
    ["weighted_clusters", "cluster_header", "cluster_specifier_plugin", "inline_cluster_specifier_plugin"];

/// Puts them before the routes of a configuration that lead to one of the clusters, for those that its fallbacks choose. Indices of
/// routes move by that, so it is the last change of a configuration.
pub fn put(configuration: &At<'_>, clusters: &[(&str, Vec<String>)], changes: &mut Changes) {
    for host in configuration.list("virtual_hosts") {
        let routes = host.list("routes");
        let missing: Vec<(usize, Vec<String>)> =
            (0..routes.len()).map(|index| (index, missing(&routes, index, clusters))).collect();
        if missing.iter().all(|(_, targets)| targets.is_empty()) {
            continue;
        }
        changes.at(&host, move |host| {
            let Some(routes) = host.get_mut("routes").and_then(Yaml::items_mut) else { return };
            for (index, targets) in missing.into_iter().rev() {
                let Some(route) = routes.get(index).cloned() else { continue };
                let fronts: Vec<Yaml> = targets.iter().filter_map(|target| in_front(&route, target)).collect();
                routes.splice(index..index, fronts);
            }
        });
    }
}

/// The clusters that fallbacks choose in place of that of a route, and to which none of the routes in front of it leads.
fn missing(routes: &[At<'_>], index: usize, clusters: &[(&str, Vec<String>)]) -> Vec<String> {
    let Some(action) = routes.get(index).and_then(|route| route.get("route")) else { return Vec::new() };
    let ours = clusters.iter().filter(|(cluster, _)| goes_to(&action, cluster));
    let targets: BTreeSet<&String> = ours.flat_map(|(_, targets)| targets).collect();
    let is_there = |target: &str| routes.iter().take(index).any(|front| takes(front, target));
    targets.into_iter().filter(|target| !is_there(target)).cloned().collect()
}

/// Whether a route takes what fallbacks send to a cluster.
fn takes(front: &At<'_>, target: &str) -> bool {
    let states = front.get("match").map(|matches| matches.list("filter_state")).unwrap_or_default();
    states.iter().any(|state| {
        state.text("key") == Some(CHOICE)
            && state.get("string_match").is_some_and(|text| text.text("exact") == Some(target))
    })
}

/// A route that takes what another one would, where a fallback has chosen this cluster, and says the same of all else.
fn in_front(route: &Yaml, target: &str) -> Option<Yaml> {
    let chosen = Yaml::map().with("key", CHOICE).with("string_match", Yaml::map().with("exact", target)).line();
    let mut front = route.clone();
    if let Some(name) = front.get("name").map(Yaml::value).and_then(|name| name.as_str().map(str::to_owned)) {
        front.set("", "name", format!("{name}-{target}").as_str());
    }
    let matches = front.get_mut("match")?;
    match matches.get_mut("filter_state").and_then(Yaml::items_mut) {
        Some(states) => states.push(chosen),
        None => matches.set("", "filter_state", vec![chosen]),
    }
    let action = front.get_mut("route")?;
    for destination in DESTINATIONS {
        action.remove(destination);
    }
    action.set("", "cluster", target);
    let comment = format!("Holdfast: a fallback has {target} serve in place of the route below.");
    Some(commented(front, &comment))
}

/// An object with a comment above its first key.
fn commented(object: Yaml, comment: &str) -> Yaml {
    let entries = object.entries().iter().enumerate();
    entries.fold(Yaml::map(), |made, (index, entry)| {
        made.noted(if index == 0 { comment } else { &entry.comment }, &entry.key, entry.value.clone())
    })
}
