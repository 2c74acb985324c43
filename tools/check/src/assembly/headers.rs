//! Who may send the header that names hosts, and who gets it.

use super::clusters::HOSTS;
use super::managers::{Reach, reach};
use super::seats::has_attempt_seat;
use super::{Assembly, Manager};
use crate::rules;
use crate::rules::Rule;
use crate::texts::At;

/// A finding.
type Found<'a> = (&'static Rule, At<'a>, String);

impl<'a> Assembly<'a, '_> {
    /// Looks at what clients may send, and at what mirrors get.
    pub(super) fn headers(&mut self) {
        let steered: Vec<&str> =
            self.clusters.iter().filter(|cluster| cluster.is_steered()).map(|cluster| cluster.name).collect();
        let leads = |reach: &Reach<'_>| {
            reach.clusters.iter().any(|name| steered.contains(name)) || reach.open && !steered.is_empty()
        };
        let mut found: Vec<Found<'a>> = Vec::new();
        // Those that no known listener has are another one's.
        let all = self.managers.iter().flat_map(|manager| &manager.routes).chain(&self.routes);
        let mut seen = Vec::new();
        for routes in all {
            if seen.contains(&routes.key()) {
                continue;
            }
            seen.push(routes.key());
            if leads(&reach(routes)) && !keeps_clients_from_it(routes) {
                found.push((&rules::INTERNAL_ONLY_HEADERS, routes.clone(), format!("clients may send {HOSTS}")));
            }
        }
        for manager in self.managers.iter().filter(|manager| leads(&manager.reach)) {
            self.mirrors(manager, &leads, &mut found);
            let addresses = manager.at.get("internal_address_config");
            let ranges = addresses.map(|addresses| addresses.list("cidr_ranges")).unwrap_or_default();
            for range in ranges.iter().filter(|range| matches!(range.text("prefix_len"), None | Some("0"))) {
                let address = range.text("address_prefix").unwrap_or_default();
                found.push((&rules::INTERNAL_ADDRESSES, range.clone(), format!("{address}/0 is every address")));
            }
        }
        for (rule, at, problem) in found {
            self.add(rule, &at, problem);
        }
    }

    /// Looks at clusters that get copies of requests in which a request seat may have named hosts.
    fn mirrors(&self, manager: &Manager<'a>, leads: &dyn Fn(&Reach<'_>) -> bool, found: &mut Vec<Found<'a>>) {
        if manager.seats().next().is_none() {
            return;
        }
        for (levels, action) in manager.actions() {
            if !leads(&reach(&action)) {
                continue;
            }
            // The nearest list holds.
            let lists = std::iter::once(&action).chain(&levels).map(|at| at.list("request_mirror_policies"));
            for mirror in lists.into_iter().find(|list| !list.is_empty()).unwrap_or_default() {
                let name = mirror.text("cluster").unwrap_or_default();
                let known = self.clusters.iter().find(|cluster| cluster.name == name);
                let bare = known.is_some_and(|cluster| !has_attempt_seat(cluster, manager));
                let is_new = !found.iter().any(|(_, at, _)| at.key() == mirror.key());
                if bare && is_new && !takes_it_off(&mirror) {
                    found.push((&rules::MIRROR, mirror, format!("the hosts of {name} get {HOSTS}")));
                }
            }
        }
    }
}

/// Whether a route configuration has Envoy remove the header from what clients send.
pub(super) fn keeps_clients_from_it(routes: &At<'_>) -> bool {
    routes.list("internal_only_headers").iter().any(is_it)
}

/// Whether a mirror's policy has Envoy remove it from copies.
fn takes_it_off(mirror: &At<'_>) -> bool {
    let mutations = mirror.list("request_headers_mutations");
    mutations.iter().filter_map(|mutation| mutation.get("remove")).any(|name| is_it(&name))
}

/// Whether this is the header's name.
pub(super) fn is_it(name: &At<'_>) -> bool {
    name.node.text().is_some_and(|name| name.eq_ignore_ascii_case(HOSTS))
}
