//! Istio's EnvoyFilter and Envoy Gateway's EnvoyPatchPolicy: where their patches put the module, and what they make of clusters.

use super::clusters::{HOSTS, follows};
use super::headers::{is_it, keeps_clients_from_it};
use super::{Assembly, Cluster};
use crate::rules;
use crate::texts::At;
use crate::wasm::Filter;

/// What puts a filter before another one, or before all.
const BEFORE: [&str; 3] = ["INSERT_BEFORE", "INSERT_FIRST", "REPLACE"];

impl<'a> Assembly<'a, '_> {
    /// Looks at patches, and takes their clusters up.
    pub(super) fn patches(&mut self) {
        let resources: Vec<At<'a>> =
            self.unit.roots.iter().flat_map(|root| std::iter::once(root.clone()).chain(root.list("items"))).collect();
        let of_kind = |kind: &'static str, field: &'static str| -> Vec<At<'a>> {
            let specs = resources.iter().filter(|one| one.text("kind") == Some(kind)).filter_map(|one| one.get("spec"));
            specs.flat_map(|spec| spec.list(field)).collect()
        };
        let patches = of_kind("EnvoyFilter", "configPatches");
        patches.iter().for_each(|patch| self.patch(patch));
        self.clients_of_patched(&patches);
        self.clients_of_json_patched(&of_kind("EnvoyPatchPolicy", "jsonPatches"));
    }

    /// Looks whether an EnvoyFilter that has clusters follow the header keeps clients from sending it.
    fn clients_of_patched(&mut self, patches: &[At<'a>]) {
        let context = |patch: &At<'a>| patch.at(&["match", "context"]).and_then(|at| at.node.text()).unwrap_or("ANY");
        let value = |patch: &At<'a>| patch.at(&["patch", "value"]);
        let of_kind = |kind: &'static str| patches.iter().filter(move |patch| patch.text("applyTo") == Some(kind));
        let kept: Vec<&str> = of_kind("ROUTE_CONFIGURATION")
            .filter(|patch| value(patch).is_some_and(|routes| keeps_clients_from_it(&routes)))
            .map(context)
            .collect();
        let mut found: Vec<&At<'a>> = Vec::new();
        for patch in of_kind("CLUSTER").filter(|patch| value(patch).is_some_and(|value| steers(&value))) {
            let open = !kept.contains(&context(patch)) && !kept.contains(&"ANY");
            if open && !found.iter().any(|other| context(other) == context(patch)) {
                found.push(patch);
            }
        }
        for patch in found {
            let problem = format!("clients may send {HOSTS}: no ROUTE_CONFIGURATION patch for {}", context(patch));
            self.add(&rules::INTERNAL_ONLY_HEADERS, patch, problem);
        }
    }

    /// Looks whether an EnvoyPatchPolicy that does so keeps clients from sending it.
    fn clients_of_json_patched(&mut self, patches: &[At<'a>]) {
        let keeps = |patch: &&At<'a>| {
            let is_routes = patch.text("type").is_some_and(|name| name.ends_with(".RouteConfiguration"));
            let value = patch.at(&["operation", "value"]);
            is_routes
                && value.is_some_and(|value| {
                    is_it(&value) || value.items().iter().any(is_it) || keeps_clients_from_it(&value)
                })
        };
        let steering =
            patches.iter().find(|patch| patch.at(&["operation", "value"]).is_some_and(|value| steers(&value)));
        if let Some(patch) = steering.filter(|_| !patches.iter().any(|patch| keeps(&patch))) {
            let problem = format!("clients may send {HOSTS}: no RouteConfiguration patch");
            self.add(&rules::INTERNAL_ONLY_HEADERS, patch, problem);
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

/// Whether a part of a cluster has hosts named by Holdfast's header.
fn steers(at: &At<'_>) -> bool {
    at.is("OverrideHost") && follows(at)
        || at.entries().iter().any(|(_, value)| steers(value))
        || at.items().iter().any(steers)
}
