//! Who may send the header that names hosts.

use super::Assembly;
use super::clusters::HOSTS;
use super::managers::{leads_to, reach};
use super::seats::has_attempt_seat;
use crate::rules;
use crate::rules::Rule;
use crate::texts::At;

impl<'a> Assembly<'a, '_> {
    /// Looks at what clients may send.
    pub(super) fn headers(&mut self) {
        let steered: Vec<&str> =
            self.clusters.iter().filter(|cluster| cluster.is_steered()).map(|cluster| cluster.name).collect();
        let mut found: Vec<(&'static Rule, At<'a>, String)> = Vec::new();
        for manager in &self.managers {
            let to_steered = manager.reach.clusters.iter().any(|name| steered.contains(name));
            if !to_steered && (steered.is_empty() || !manager.reach.open) {
                continue;
            }
            for routes in &manager.routes {
                let reach = reach(routes);
                if !reach.open && !reach.clusters.iter().any(|name| steered.contains(name)) {
                    continue;
                }
                let listed = routes.list("internal_only_headers");
                if !listed.iter().any(|name| name.node.text().is_some_and(|name| name.eq_ignore_ascii_case(HOSTS))) {
                    found.push((&rules::INTERNAL_ONLY_HEADERS, routes.clone(), format!("clients may send {HOSTS}")));
                }
            }
            for (host, action) in manager.actions() {
                let leads = steered.iter().any(|name| leads_to(&action, name));
                for mirror in action.list("request_mirror_policies").iter().chain(&host.list("request_mirror_policies"))
                {
                    let name = mirror.text("cluster").unwrap_or_default();
                    let bare = self.clusters.iter().any(|cluster| {
                        cluster.name == name && !has_attempt_seat(cluster, manager) && manager.seats().next().is_some()
                    });
                    if leads && bare {
                        found.push((&rules::MIRROR, mirror.clone(), format!("the hosts of {name} get {HOSTS}")));
                    }
                }
            }
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
}
