//! The routes by which a fallback has another cluster serve: one in front of each route to the cluster, for each other one; or, where one
//! serves after the last attempt, a matcher in the route, which the router asks again for a retry.

use std::collections::BTreeSet;

use holdfast_policy::document::Route;
use holdfast_yaml::{Node, Yaml};

use super::Changes;
use super::file::{At, File};
use super::found::goes_to;
use crate::envoy::matcher::{self, MATCHER};
use crate::place::Report;

/// What a route's action says of where it goes.
const DESTINATIONS: [&str; 5] =
    ["cluster", "weighted_clusters", "cluster_header", "cluster_specifier_plugin", "inline_cluster_specifier_plugin"];

/// The clusters that fallbacks have serve in the place of one.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// Its name.
    pub cluster: &'a str,
    /// Theirs.
    pub targets: Vec<String>,
    /// Whether one of them serves after the last attempt.
    pub is_further: bool,
}

/// What is to be done about a route.
#[derive(Debug, Default)]
struct Wanted {
    /// The clusters to each of which a route in front is to lead.
    fronts: Vec<String>,
    /// Those that a matcher in the route is to choose, and the route's own.
    matcher: Option<(Vec<String>, String)>,
    /// Whether the router is to ask again for a retry.
    again: bool,
}

impl Wanted {
    fn is_nothing(&self) -> bool {
        self.fronts.is_empty() && self.matcher.is_none() && !self.again
    }
}

/// Puts them into a configuration for routes that lead to one of the clusters. Indices of routes move by that, so it is the last change of
/// a configuration.
pub fn put(
    configuration: &At<'_>,
    clusters: &[Chosen<'_>],
    files: &[File],
    changes: &mut Changes,
    report: &mut Report,
) {
    for host in configuration.list("virtual_hosts") {
        let routes = host.list("routes");
        let wanted: Vec<(usize, Wanted)> =
            (0..routes.len()).map(|index| (index, wanted(&host, &routes, index, clusters, files, report))).collect();
        if wanted.iter().all(|(_, wanted)| wanted.is_nothing()) {
            continue;
        }
        changes.at(&host, move |host| {
            // A route with a policy of its own has none of its virtual host's.
            let mut of_host = false;
            let Some(routes) = host.get_mut("routes").and_then(Yaml::items_mut) else { return };
            for (index, Wanted { fronts, matcher, again }) in wanted.into_iter().rev() {
                let Some(route) = routes.get_mut(index) else { continue };
                if let Some((action, (targets, own))) = route.get_mut("route").zip(matcher) {
                    DESTINATIONS.iter().for_each(|destination| drop(action.remove(destination)));
                    let comment = format!("Holdfast: a fallback has {} serve in place of {own}.", targets.join(", "));
                    action.set(&comment, MATCHER, matcher::choosing(&targets, &own));
                }
                if again {
                    match route.get_mut("route").and_then(|action| action.get_mut("retry_policy")) {
                        Some(policy) => policy.set("", AGAIN, true),
                        None => of_host = true,
                    }
                }
                let route = route.clone();
                let fronts: Vec<Yaml> = fronts.iter().filter_map(|target| in_front(&route, target)).collect();
                routes.splice(index..index, fronts);
            }
            if of_host && let Some(policy) = host.get_mut("retry_policy") {
                policy.set("", AGAIN, true);
            }
        });
    }
}

/// The word of a retry policy by which the router asks the route's matcher again.
const AGAIN: &str = "refresh_cluster_on_retry";

/// What is to be done about a route, so that fallbacks may choose in place of its cluster.
fn wanted(
    host: &At<'_>,
    routes: &[At<'_>],
    index: usize,
    clusters: &[Chosen<'_>],
    files: &[File],
    report: &mut Report,
) -> Wanted {
    let Some(route) = routes.get(index) else { return Wanted::default() };
    let Some(action) = route.get("route") else { return Wanted::default() };
    let ours: Vec<&Chosen<'_>> = clusters.iter().filter(|chosen| goes_to(&action, chosen.cluster)).collect();
    let targets: BTreeSet<&String> = ours.iter().flat_map(|chosen| &chosen.targets).collect();
    let known = matcher::chosen(action.node);
    if ours.iter().any(|chosen| chosen.is_further) {
        if let Some(own) = action.text("cluster").or_else(|| matcher::otherwise(action.node)) {
            let policy = action.get("retry_policy").or_else(|| host.get("retry_policy"));
            let all = known.iter().copied().chain(targets.iter().map(|target| target.as_str()));
            let all: BTreeSet<&str> = all.collect();
            let is_there = all.len() == known.len();
            return Wanted {
                fronts: Vec::new(),
                matcher: (!is_there).then(|| (all.into_iter().map(str::to_owned).collect(), own.to_owned())),
                again: policy.and_then(|policy| policy.text(AGAIN)) != Some("true"),
            };
        }
        if let Some(file) = files.get(action.file) {
            let problem =
                "after a failure no fallback has another cluster serve here: for that a route has a `cluster` alone";
            report.warn(&file.place(&action.path), problem);
        }
    }
    let is_there = |target: &str| {
        known.contains(&target) || routes.iter().take(index).any(|front| takes(front, target) && covers(front, route))
    };
    let fronts = targets.into_iter().filter(|target| !is_there(target)).cloned().collect();
    Wanted { fronts, ..Wanted::default() }
}

/// Whether a condition on filter state is that a fallback has chosen this cluster.
fn is_choice(state: &Node, target: &str) -> bool {
    state.get("key").and_then(Node::text) == Some(Route::FILTER_STATE)
        && state.at(&["string_match", "exact"]).and_then(Node::text) == Some(target)
}

/// Whether a route takes what fallbacks send to a cluster.
fn takes(front: &At<'_>, target: &str) -> bool {
    let states = front.get("match").map(|matches| matches.list("filter_state")).unwrap_or_default();
    states.iter().any(|state| is_choice(state.node, target))
}

/// Whether a route that takes what fallbacks send takes all requests that another one would, as far as its conditions show.
fn covers(front: &At<'_>, behind: &At<'_>) -> bool {
    let (Some(front), Some(behind)) = (front.get("match"), behind.get("match")) else { return false };
    let entries = |node: &Node| -> Vec<(String, Node)> {
        let all = node.entries().iter();
        all.filter_map(|(key, value)| Some((key.text()?.to_owned(), value.clone()))).collect()
    };
    let states = |node: &Node| node.get("filter_state").map(|list| list.items().to_vec()).unwrap_or_default();
    let is_path = |key: &str| ["prefix", "path", "path_separated_prefix"].contains(&key);
    let paths: Vec<String> = entries(behind.node)
        .into_iter()
        .filter(|(key, _)| is_path(key))
        .filter_map(|(_, value)| value.text().map(str::to_owned))
        .collect();
    let asks_no_more = entries(front.node).iter().filter(|(key, _)| key != "filter_state").all(|(key, value)| {
        let is_same = || behind.node.get(key).is_some_and(|other| other.value() == value.value());
        let is_wider =
            || key == "prefix" && value.text().is_some_and(|prefix| paths.iter().any(|path| path.starts_with(prefix)));
        is_same() || is_wider()
    });
    let others = states(front.node);
    let others = others.iter().filter(|state| state.get("key").and_then(Node::text) != Some(Route::FILTER_STATE));
    let theirs = states(behind.node);
    asks_no_more && others.into_iter().all(|state| theirs.iter().any(|other| other.value() == state.value()))
}

/// A route that takes what another one would, where a fallback has chosen this cluster, and says the same of all else.
fn in_front(route: &Yaml, target: &str) -> Option<Yaml> {
    let chosen =
        Yaml::map().with("key", Route::FILTER_STATE).with("string_match", Yaml::map().with("exact", target)).line();
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
