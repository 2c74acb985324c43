//! Whether what a policy names is there.

use holdfast_policy::document::{FallbackKind, Match, Policy};

use super::specifiers::chosen;
use super::{Assembly, Manager};
use crate::documents::Checked;
use crate::finding::Finding;
use crate::rules;
use crate::rules::Rule;
use crate::warnings::hides;

/// More names than this help nobody.
const LISTED: usize = 6;

impl Assembly<'_, '_> {
    /// Looks at the names in policies.
    pub(super) fn names(&mut self) {
        let mut found: Vec<Finding> = Vec::new();
        let names: Vec<&str> = self.clusters.iter().map(|cluster| cluster.name).collect();
        for checked in
            self.checked.iter().filter(|checked| self.unit.companions.contains(&self.texts.file(&checked.at)))
        {
            let mut add = |rule: &'static Rule, path: String, problem: String| {
                found.push(self.about(rule, checked, &path, problem));
            };
            for (index, policy) in checked.document.iter().flat_map(|document| &document.policies).enumerate() {
                self.clusters_of(index, policy, &names, &mut add);
            }
        }
        for manager in &self.managers {
            self.reach_of(manager, &mut found);
            let mut routes = manager.routes.iter().flat_map(|one| one.list("virtual_hosts"));
            let routes: Vec<&str> =
                routes.by_ref().flat_map(|host| host.list("routes")).filter_map(|route| route.text("name")).collect();
            for filter in manager.seats() {
                let Some(checked) = filter.wasm.as_ref().and_then(|wasm| self.read_of(wasm)) else { continue };
                let Some(document) = &checked.document else { continue };
                let mut add = |rule: &'static Rule, path: String, problem: String| {
                    found.push(self.about(rule, checked, &path, problem));
                };
                for (index, policy) in document.policies.iter().enumerate() {
                    self.clusters_of(index, policy, &names, &mut add);
                    if !manager.reach.more_routes {
                        for (at, glob) in policy.matches.route.iter().enumerate() {
                            if !routes.iter().any(|name| glob.matches(name.as_bytes())) {
                                let problem = format!(
                                    "\"{}\" matches none of the routes' names{}",
                                    glob.as_str(),
                                    known(&routes)
                                );
                                add(&rules::MATCH_ROUTE, format!("policies[{index}].match.route[{at}]"), problem);
                            }
                        }
                    }
                }
            }
        }
        self.findings.extend(found);
    }

    /// The clusters that a policy names.
    fn clusters_of(
        &self,
        index: usize,
        policy: &Policy,
        names: &[&str],
        add: &mut dyn FnMut(&'static Rule, String, String),
    ) {
        if self.more_clusters {
            return;
        }
        for (at, glob) in policy.matches.cluster.iter().enumerate() {
            if !names.iter().any(|name| glob.matches(name.as_bytes())) {
                let problem = format!("\"{}\" matches none of the clusters{}", glob.as_str(), known(names));
                add(&rules::MATCH_CLUSTER, format!("policies[{index}].match.cluster[{at}]"), problem);
            }
        }
        for (at, name) in chosen(policy).filter(|(_, name)| !names.contains(name)) {
            let problem = format!("\"{name}\" is none of the clusters{}", known(names));
            add(&rules::ROUTE_CLUSTER, format!("policies[{index}].fallback[{at}].route.cluster"), problem);
        }
        for (at, entry) in policy.fallback.iter().enumerate() {
            if let FallbackKind::Call(call) = &entry.kind
                && !names.contains(&call.cluster.as_str())
            {
                let problem = format!("\"{}\" is none of the clusters{}", call.cluster, known(names));
                add(&rules::CALL_CLUSTER, format!("policies[{index}].fallback[{at}].call.cluster"), problem);
            }
        }
        let discover = policy.outlier.as_ref().and_then(|outlier| outlier.discover.as_ref());
        if let Some(name) = discover.map(|discover| &discover.cluster)
            && !names.contains(&name.as_str())
        {
            let problem = format!("\"{name}\" is none of the clusters{}", known(names));
            add(&rules::DISCOVER_CLUSTER, format!("policies[{index}].outlier.discover.cluster"), problem);
        }
    }

    /// Policies that govern more than was meant, or nothing: those of one chain, in the order in which they are asked.
    fn reach_of(&self, manager: &Manager<'_>, found: &mut Vec<Finding>) {
        let mut clusters = manager.reach.clusters.clone();
        clusters.sort_unstable();
        clusters.dedup();
        let mut before: Vec<&Policy> = Vec::new();
        for filter in manager.seats() {
            let Some(checked) = filter.wasm.as_ref().and_then(|wasm| self.read_of(wasm)) else { continue };
            let Some(document) = &checked.document else { continue };
            for (index, policy) in document.policies.iter().enumerate() {
                let path = format!("policies[{index}]");
                if let Some(earlier) = before.iter().find(|earlier| hides(earlier, policy).is_some()) {
                    let problem =
                        format!("never governs: policy {} of an earlier seat matches all that it does", earlier.name);
                    found.push(self.about(&rules::MATCH_HIDDEN, checked, &path, problem));
                }
                // Behind others it is the rest that is meant.
                if before.is_empty() && index == 0 && policy.matches == Match::default() && clusters.len() > 1 {
                    let names: Vec<&str> = clusters.iter().copied().take(LISTED).collect();
                    let more = if clusters.len() > LISTED { " and others" } else { "" };
                    let problem = format!("has no match: it governs all of the clusters {}{more}", names.join(", "));
                    found.push(self.about(&rules::MATCH_EVERYTHING, checked, &path, problem));
                }
            }
            before.extend(&document.policies);
        }
    }

    fn about(&self, rule: &'static Rule, checked: &Checked<'_>, path: &str, problem: String) -> Finding {
        let mut finding = checked.finding(self.texts, rule, path, problem);
        finding.cure = rule.cure.to_owned();
        finding
    }
}

/// The names that there are, where that is of help.
fn known(names: &[&str]) -> String {
    match names {
        [] => ", for there are none".to_owned(),
        [..] if names.len() <= LISTED => format!(" {}", names.join(", ")),
        _ => String::new(),
    }
}
