//! Envoy's own settings around retries: its limit, its wait, and that a retry goes to another host. Those that the user has
//! set stay.

use holdfast_yaml::Yaml;

use super::Changes;
use super::file::{At, File};
use super::found::{Manager, Ways, goes_to};
use crate::envoy::retries::{HOST_ATTEMPTS, hardly_any_wait, previous_hosts};
use crate::place::Report;

/// What is no limit beside the policy's budget.
const MOST: u32 = 10_000;

/// Puts them around a cluster.
pub fn put(
    name: &str,
    cluster: &At<'_>,
    ways: &[(Manager<'_>, Ways<'_>)],
    asked: &[&str],
    files: &[File],
    changes: &mut Changes,
    report: &mut Report,
) {
    limit(cluster, files, changes, report);
    let mut done: Vec<&At<'_>> = Vec::new();
    for routes in ways.iter().flat_map(|(_, ways)| &ways.configurations) {
        if done.iter().any(|other| other.is_same(routes)) {
            continue;
        }
        done.push(routes);
        for host in routes.list("virtual_hosts") {
            virtual_host(name, &host, asked, files, changes, report);
        }
    }
}

/// Envoy lets 3 retries of a cluster be in flight unless it is told otherwise.
fn limit(cluster: &At<'_>, files: &[File], changes: &mut Changes, report: &mut Report) {
    const COMMENT: &str = "Holdfast: the policy's budget limits retries. Envoy would let 3 be in flight.";
    let thresholds = cluster.get("circuit_breakers").map(|all| all.list("thresholds")).unwrap_or_default();
    let default = thresholds.into_iter().find(|one| matches!(one.text("priority"), None | Some("DEFAULT" | "0")));
    match default {
        Some(default) => {
            let own = ["retry_budget", "max_retries"].into_iter().find_map(|key| default.get(key));
            match (own, files.get(cluster.file)) {
                (Some(own), Some(file)) if own.node.value().as_u64() != Some(u64::from(MOST)) => {
                    let problem = "stays, and limits retries beside the policy's budget: raise or remove it to let the budget alone decide";
                    report.warn(&file.place(&own.path), problem);
                }
                (Some(_), _) => {}
                (None, _) => changes.at(&default, |default| default.set(COMMENT, "max_retries", MOST)),
            }
        }
        None => changes.at(cluster, |cluster| {
            let new = Yaml::map().with("priority", "DEFAULT").with("max_retries", MOST).line();
            if cluster.get("circuit_breakers").is_none() {
                let keys = ["name", "type", "connect_timeout", "lb_policy", "load_balancing_policy"];
                cluster.set_behind(&keys, COMMENT, "circuit_breakers", Yaml::map());
            }
            let Some(breakers) = cluster.get_mut("circuit_breakers") else { return };
            match breakers.get_mut("thresholds").and_then(Yaml::items_mut) {
                Some(list) => list.push(new),
                None => breakers.set("", "thresholds", vec![new]),
            }
        }),
    }
}

/// Settings for the virtual host, where all routes that have its retry policy are for clusters that are asked for; else for each
/// of its routes. A route with a policy of its own has none of its virtual host's.
fn virtual_host(name: &str, host: &At<'_>, asked: &[&str], files: &[File], changes: &mut Changes, report: &mut Report) {
    const COMMENT: &str =
        "Holdfast: how Envoy executes retries. Without `retry_on` it makes none by itself. The attempt seat waits.";
    let actions: Vec<At<'_>> = host.list("routes").iter().filter_map(|route| route.get("route")).collect();
    let mut ours = actions.iter().filter(|action| goes_to(action, name)).peekable();
    if ours.peek().is_none() {
        return;
    }
    let here = host.get("retry_policy").map(|policy| Yaml::from(policy.node));
    let own = |action: &At<'_>| action.get("retry_policy").map(|policy| Yaml::from(policy.node));
    let heirs: Vec<&At<'_>> = actions.iter().filter(|action| own(action).is_none()).collect();
    let all = !heirs.is_empty() && heirs.iter().all(|action| asked.iter().any(|name| goes_to(action, name)));
    // The first of several clusters sees to it.
    if all && asked.iter().find(|name| heirs.iter().any(|action| goes_to(action, name))) == Some(&name) {
        settle(host, here.clone(), COMMENT, files, changes, report);
    }
    for action in ours {
        match own(action) {
            Some(own) => settle(action, Some(own), COMMENT, files, changes, report),
            None if !all => settle(action, here.clone(), COMMENT, files, changes, report),
            None => {}
        }
    }
}

/// A retry policy with what Holdfast needs.
fn settle(
    at: &At<'_>,
    policy: Option<Yaml>,
    comment: &'static str,
    files: &[File],
    changes: &mut Changes,
    report: &mut Report,
) {
    let mut policy = policy.unwrap_or_else(Yaml::map);
    if let Some(wait) = policy.get("retry_back_off") {
        let own = at.get("retry_policy").unwrap_or_else(|| at.clone());
        if let Some(file) = files.get(at.file).filter(|_| wait.value() != hardly_any_wait().value()) {
            let problem =
                "Envoy's own wait before a retry (retry_back_off) stays: of it and the policy's the longer one counts";
            report.warn(&file.place(&own.path), problem);
        }
    } else {
        policy.set("", "retry_back_off", hardly_any_wait());
    }
    if policy.get("retry_host_predicate").is_none() {
        if policy.get("host_selection_retry_max_attempts").is_none() {
            policy.set("", "host_selection_retry_max_attempts", HOST_ATTEMPTS);
        }
        policy.set("", "retry_host_predicate", vec![previous_hosts()]);
    }
    changes.at(at, move |owner| match owner.get("retry_policy") {
        Some(_) => owner.set("", "retry_policy", policy),
        None => owner.set_behind(
            &["name", "domains", "cluster", "weighted_clusters", "timeout"],
            comment,
            "retry_policy",
            policy,
        ),
    });
}
