//! Routes that let a fallback of Holdfast's choose the cluster.

use holdfast_policy::document::{FallbackKind, Mode, Policy};

use super::Assembly;
use super::managers::leads_to;
use crate::rules;
use crate::texts::At;

/// The filter state by which a fallback chooses.
const CHOICE: &str = "wasm.holdfast_route";

/// A matcher that is a route's cluster specifier.
#[derive(Debug)]
pub struct Specifier<'a> {
    /// What the filter state may say, with the cluster for each; nothing if the matcher looks at something else.
    chosen: Vec<(&'a str, &'a str)>,
    /// The cluster where it says nothing.
    pub otherwise: Option<&'a str>,
}

impl<'a> Specifier<'a> {
    /// The matcher of a route's action, if it has one.
    pub fn of(action: &At<'a>) -> Option<Self> {
        let config = action.at(&["inline_cluster_specifier_plugin", "extension", "typed_config"])?;
        let matcher = config.get("cluster_matcher").filter(|_| config.is("MatcherClusterSpecifier"))?;
        let tree = matcher.get("matcher_tree");
        let key = tree.as_ref().and_then(|tree| tree.at(&["input", "typed_config"])?.text("key"));
        let map = tree.as_ref().and_then(|tree| tree.at(&["exact_match_map", "map"]));
        let entries = map.map(|map| map.entries()).unwrap_or_default();
        let chosen = entries.into_iter().filter_map(|(name, one)| Some((name, cluster(&one)?)));
        Some(Specifier {
            chosen: chosen.filter(|_| key == Some(CHOICE)).collect(),
            otherwise: matcher.get("on_no_match").and_then(|one| cluster(&one)),
        })
    }

    /// The clusters that it leads to.
    pub fn clusters(&self) -> impl Iterator<Item = &'a str> + use<'a, '_> {
        self.chosen.iter().map(|(_, cluster)| *cluster).chain(self.otherwise)
    }

    fn lets_choose(&self, cluster: &str) -> bool {
        self.chosen.contains(&(cluster, cluster))
    }
}

/// The cluster of a matcher's action.
fn cluster<'a>(on_match: &At<'a>) -> Option<&'a str> {
    on_match.at(&["action", "typed_config"])?.text("cluster")
}

/// The clusters that a policy's fallbacks choose, with the places of the fallbacks.
pub fn chosen(policy: &Policy) -> impl Iterator<Item = (usize, &str)> {
    let entries = policy.fallback.iter().enumerate().filter(|_| policy.mode == Mode::Enforce);
    entries.filter_map(|(index, entry)| match &entry.kind {
        FallbackKind::Route(route) => Some((index, route.cluster.as_str())),
        FallbackKind::Static(_) | FallbackKind::Stale(_) => None,
    })
}

impl Assembly<'_, '_> {
    /// Looks whether routes let fallbacks choose.
    pub(super) fn specifiers(&mut self) {
        let mut found = Vec::new();
        for governed in self.governed() {
            let all =
                governed.policies.iter().flat_map(|policy| chosen(policy).map(move |(index, to)| (*policy, index, to)));
            for (policy, index, to) in all {
                for (_, action) in governed.manager.actions() {
                    let is_let = Specifier::of(&action).is_some_and(|specifier| specifier.lets_choose(to));
                    if leads_to(&action, governed.cluster.name) && !is_let {
                        let problem = format!("does not let fallback[{index}] of policy {} choose {to}", policy.name);
                        found.push((action, problem));
                    }
                }
            }
        }
        for (at, problem) in found {
            self.add(&rules::ROUTE_SPECIFIER, &at, problem);
        }
    }
}
