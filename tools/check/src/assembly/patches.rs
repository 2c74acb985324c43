//! Istio's EnvoyFilter: where its patches put the module, and what they make of clusters.

use super::{Assembly, Cluster};
use crate::rules;
use crate::texts::At;
use crate::wasm::Filter;

/// What puts a filter before another one, or before all.
const BEFORE: [&str; 3] = ["INSERT_BEFORE", "INSERT_FIRST", "REPLACE"];

impl<'a> Assembly<'a, '_> {
    /// Looks at patches, and takes their clusters up.
    pub(super) fn patches(&mut self) {
        for root in &self.unit.roots {
            for resource in std::iter::once(root.clone()).chain(root.list("items")) {
                if resource.text("kind") != Some("EnvoyFilter") {
                    continue;
                }
                let patches = resource.get("spec").map(|spec| spec.list("configPatches")).unwrap_or_default();
                for patch in patches {
                    self.patch(&patch);
                }
            }
        }
    }

    fn patch(&mut self, patch: &At<'a>) {
        let Some(value) = patch.at(&["patch", "value"]) else { return };
        let operation = patch.at(&["patch", "operation"]).and_then(|at| at.node.text()).unwrap_or_default();
        match patch.text("applyTo") {
            Some("HTTP_FILTER") if Filter::of(value.clone(), &self.discovered).ours => {
                let way = ["match", "listener", "filterChain", "filter", "subFilter", "name"];
                let beside = patch.at(&way).and_then(|name| name.node.text());
                let router = beside == Some("envoy.filters.http.router");
                let behind = !BEFORE.contains(&operation) && operation != "MERGE";
                if behind && (router || operation == "ADD") {
                    let problem = format!("{operation} puts the request seat behind the router");
                    self.add(&rules::PATCH_PLACE, &patch.get("patch").unwrap_or(value), problem);
                }
            }
            Some("CLUSTER") => {
                let mut cluster = Cluster::of(value, true);
                cluster.find_seat(&self.discovered);
                let matched = patch.at(&["match", "cluster"]).is_some_and(|found| !found.entries().is_empty());
                if operation == "MERGE" && !matched && cluster.override_host().is_some() {
                    self.add(&rules::PATCH_ALL_CLUSTERS, patch, "puts override_host on every cluster");
                }
                self.clusters.push(cluster);
            }
            _ => {}
        }
    }
}
