//! Routes that let a fallback of Holdfast's choose the cluster.

use holdfast_policy::document::{Fallback, Mode, Policy, Reason, Route};

use super::managers::leads_to;
use super::seats::has_attempt_seat;
use super::{Assembly, Governed};
use crate::rules;
use crate::texts::At;

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
            chosen: chosen.filter(|_| key == Some(Route::FILTER_STATE)).collect(),
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

/// Whether a route takes what a fallback sends to `cluster`, of the requests that this one behind it takes otherwise.
fn is_in_front(front: &At<'_>, behind: &At<'_>, cluster: &str) -> bool {
    let chooses = |state: &At<'_>| {
        state.text("key") == Some(Route::FILTER_STATE)
            && state.at(&["string_match"]).is_some_and(|text| text.text("exact") == Some(cluster))
    };
    let states = front.get("match").map(|matches| matches.list("filter_state")).unwrap_or_default();
    states.iter().any(chooses)
        && front.get("route").is_some_and(|action| leads_to(&action, cluster))
        && takes_paths_of(front, behind)
}

/// Whether a route takes all paths that another one takes, as far as that can be seen.
fn takes_paths_of<'a>(front: &At<'a>, behind: &At<'a>) -> bool {
    let path = |route: &At<'a>, field: &str| route.get("match").and_then(|matches| matches.text(field));
    let is_within = |prefix: &str| {
        ["prefix", "path", "path_separated_prefix"]
            .iter()
            .any(|field| path(behind, field).is_some_and(|path| path.starts_with(prefix)))
    };
    match path(front, "prefix") {
        Some("/" | "") => true,
        Some(prefix) => is_within(prefix),
        None => ["path", "path_separated_prefix"].iter().all(|field| path(front, field) == path(behind, field)),
    }
}

/// The actions of a virtual host that lead to `from` and do not let a fallback choose `to`.
fn stuck<'a>(host: &At<'a>, from: &str, to: &str) -> Vec<At<'a>> {
    let routes = host.list("routes");
    let stays = |(index, route): (usize, &At<'a>)| {
        let action = route.get("route").filter(|action| leads_to(action, from))?;
        let is_let = Specifier::of(&action).is_some_and(|specifier| specifier.lets_choose(to));
        let is_behind = routes.iter().take(index).any(|front| is_in_front(front, route, to));
        (!is_let && !is_behind).then_some(action)
    };
    routes.iter().enumerate().filter_map(stays).collect()
}

/// The clusters that a policy's fallbacks choose, with the places of the fallbacks.
pub fn chosen(policy: &Policy) -> impl Iterator<Item = (usize, &str)> {
    routed(policy).map(|(index, _, cluster)| (index, cluster))
}

/// The fallbacks that choose a cluster, with their places and the cluster.
fn routed(policy: &Policy) -> impl Iterator<Item = (usize, &Fallback, &str)> {
    let entries = policy.fallback.iter().enumerate().filter(|_| policy.mode == Mode::Enforce);
    entries.filter_map(|(index, entry)| Some((index, entry, entry.kind.as_route()?.cluster.as_str())))
}

/// Whether a fallback serves before the first attempt.
fn goes_first(entry: &Fallback) -> bool {
    [Reason::Open, Reason::Concurrency, Reason::Throttled].into_iter().any(|reason| entry.on.contains(reason))
}

/// What keeps a fallback from having `to` serve after the last attempt.
fn kept_from_further<'a>(governed: &Governed<'a, '_>, to: &str) -> Vec<(At<'a>, &'static str)> {
    let (cluster, manager) = (governed.cluster, governed.manager);
    if !has_attempt_seat(cluster, manager) {
        return vec![(cluster.at.clone(), "has no attempt seat")];
    }
    let own = cluster.options.as_ref().and_then(|options| options.get("retry_policy"));
    let mut found = Vec::new();
    for ([host, _], action) in manager.actions().into_iter().filter(|(_, action)| leads_to(action, cluster.name)) {
        let settings = own.clone().or_else(|| action.get("retry_policy")).or_else(|| host.get("retry_policy"));
        if Specifier::of(&action).is_none_or(|specifier| !specifier.lets_choose(to)) {
            found.push((action, "has no matcher that lets it choose"));
        } else if settings.as_ref().and_then(|settings| settings.text("refresh_cluster_on_retry")) != Some("true") {
            found.push((settings.unwrap_or(host), "no refresh_cluster_on_retry"));
        }
    }
    found
}

impl Assembly<'_, '_> {
    /// Looks whether routes let fallbacks choose.
    pub(super) fn specifiers(&mut self) {
        let mut found = Vec::new();
        for governed in self.governed() {
            let all = governed.policies.iter().flat_map(|policy| routed(policy).map(move |routed| (*policy, routed)));
            for (policy, (index, entry, to)) in all {
                let hosts = governed.manager.virtual_hosts();
                for action in
                    hosts.iter().filter(|_| goes_first(entry)).flat_map(|host| stuck(host, governed.cluster.name, to))
                {
                    let problem = format!("does not let fallback[{index}] of policy {} choose {to}", policy.name);
                    found.push((&rules::ROUTE_SPECIFIER, action, problem));
                }
                let kept = if entry.goes_further() { kept_from_further(&governed, to) } else { Vec::new() };
                for (at, why) in kept {
                    let problem =
                        format!("{why}, for fallback[{index}] of policy {} to {to} after a failure", policy.name);
                    found.push((&rules::ROUTE_FURTHER, at, problem));
                }
            }
        }
        for (rule, at, problem) in found {
            self.add(rule, &at, problem);
        }
    }
}
