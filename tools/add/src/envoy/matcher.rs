//! The matcher by which a route lets a fallback choose its cluster.

use holdfast_policy::document::Route;
use holdfast_yaml::{Node, Yaml};

use super::typed;

/// The key of a route's action that holds it.
pub const MATCHER: &str = "inline_cluster_specifier_plugin";

/// A matcher that lets a fallback choose one of `targets`, and is `own` otherwise.
pub fn choosing(targets: &[String], own: &str) -> Yaml {
    let go = |cluster: &str| {
        let action = typed("envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction");
        let action = Yaml::map().with("name", cluster).with("typed_config", action.with("cluster", cluster));
        Yaml::map().with("action", action)
    };
    let input = typed("envoy.extensions.matching.common_inputs.network.v3.FilterStateInput");
    let input = Yaml::map().with("name", "holdfast").with("typed_config", input.with("key", Route::FILTER_STATE));
    let map = targets.iter().fold(Yaml::map(), |map, target| map.with(target, go(target)));
    let tree = Yaml::map().with("input", input).with("exact_match_map", Yaml::map().with("map", map));
    let config = typed("envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier")
        .with("cluster_matcher", Yaml::map().with("matcher_tree", tree).with("on_no_match", go(own)));
    let extension =
        Yaml::map().with("name", "envoy.router.cluster_specifier_plugin.matcher").with("typed_config", config);
    Yaml::map().with("extension", extension)
}

/// The matcher of a route's action, if it is one that asks what a fallback has chosen.
fn asked(action: &Node) -> Option<&Node> {
    let matcher = action.at(&[MATCHER, "extension", "typed_config", "cluster_matcher"])?;
    let key = matcher.at(&["matcher_tree", "input", "typed_config", "key"])?;
    (key.text() == Some(Route::FILTER_STATE)).then_some(matcher)
}

/// The clusters that the matcher of a route's action lets a fallback choose.
pub fn chosen(action: &Node) -> Vec<&str> {
    let map = asked(action).and_then(|matcher| matcher.at(&["matcher_tree", "exact_match_map", "map"]));
    map.map(|map| map.entries().iter().filter_map(|(key, _)| key.text()).collect()).unwrap_or_default()
}

/// The cluster to which it leads where none has chosen.
pub fn otherwise(action: &Node) -> Option<&str> {
    asked(action)?.at(&["on_no_match", "action", "typed_config", "cluster"])?.text()
}
