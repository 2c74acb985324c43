//! Whether what a policy names is there.

use super::Assembly;
use crate::documents::Checked;
use crate::finding::Finding;
use crate::rules;
use crate::rules::Rule;

impl Assembly<'_, '_> {
    /// Looks at the names in policies.
    pub(super) fn names(&mut self) {
        let mut found: Vec<Finding> = Vec::new();
        let names: Vec<&str> = self.clusters.iter().map(|cluster| cluster.name).collect();
        for manager in &self.managers {
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
                    if !self.more_clusters {
                        for (at, glob) in policy.matches.cluster.iter().enumerate() {
                            if !names.iter().any(|name| glob.matches(name.as_bytes())) {
                                let problem =
                                    format!("\"{}\" matches none of the clusters{}", glob.as_str(), known(&names));
                                add(&rules::MATCH_CLUSTER, format!("policies[{index}].match.cluster[{at}]"), problem);
                            }
                        }
                        let discover = policy.outlier.as_ref().and_then(|outlier| outlier.discover.as_ref());
                        if let Some(name) = discover.map(|discover| &discover.cluster)
                            && !names.contains(&name.as_str())
                        {
                            let problem = format!("\"{name}\" is none of the clusters{}", known(&names));
                            add(
                                &rules::DISCOVER_CLUSTER,
                                format!("policies[{index}].outlier.discover.cluster"),
                                problem,
                            );
                        }
                    }
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
        [..] if names.len() <= 6 => format!(" {}", names.join(", ")),
        _ => String::new(),
    }
}
