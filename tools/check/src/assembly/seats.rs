//! Which seats there are, where they stand, and whether they find each other.

use holdfast_policy::seat::Seat;

use super::{Assembly, Cluster, Manager, retries};
use crate::rules;
use crate::texts::At;
use crate::wasm::Filter;

impl<'a> Assembly<'a, '_> {
    /// Looks at the seats.
    pub(super) fn seats(&mut self) {
        for manager in std::mem::take(&mut self.managers) {
            self.order(&manager);
            self.names_of_filters(&manager);
            self.codec(&manager.upstream);
            self.managers.push(manager);
        }
        for cluster in std::mem::take(&mut self.clusters) {
            self.codec(&cluster.filters);
            self.clusters.push(cluster);
        }
        self.ids();
        self.missing_request_seat();
        self.missing_attempt_seats();
    }

    fn order(&mut self, manager: &Manager<'a>) {
        for (index, filter) in manager.filters.iter().enumerate().filter(|(_, filter)| filter.ours) {
            match manager.router {
                Some(router) if router < index => {
                    self.add(&rules::REQUEST_SEAT_ORDER, &filter.at, "stands behind the router");
                }
                Some(router) => {
                    let between = manager.filters.get(index + 1..router).unwrap_or_default();
                    let others: Vec<&str> =
                        between.iter().filter(|other| !other.ours).map(|other| other.name).collect();
                    if !others.is_empty() {
                        let problem = format!("{} between it and the router", others.join(", "));
                        self.add(&rules::REQUEST_SEAT_BEFORE, &filter.at, problem);
                    }
                }
                None => self.add(&rules::REQUEST_SEAT_ORDER, &filter.at, "no router stands behind it"),
            }
        }
    }

    fn names_of_filters(&mut self, manager: &Manager<'a>) {
        let seats: Vec<&Filter<'a>> = manager.seats().collect();
        for (index, seat) in seats.iter().enumerate() {
            if seats.iter().take(index).any(|other| other.name == seat.name) {
                let problem = format!("another request seat of this chain is called {}", seat.name);
                self.add(&rules::SAME_NAME, &seat.at, problem);
            }
        }
    }

    fn codec(&mut self, filters: &[Filter<'a>]) {
        let last = filters.last().is_some_and(|last| last.is("UpstreamCodec", "envoy.filters.http.upstream_codec"));
        if let Some(ours) = filters.iter().find(|filter| filter.ours).filter(|_| !last) {
            self.add(&rules::ATTEMPT_SEAT_CODEC, &ours.at, "the filters here do not end with upstream_codec");
        }
    }

    fn ids(&mut self) {
        let id = |vm_id: Option<&'a str>| vm_id.unwrap_or_default();
        let told = |seat: Seat| self.unit.filters.iter().filter(move |wasm| wasm.told() == Some(seat));
        let mut requests: Vec<&str> = told(Seat::Request).map(|wasm| id(wasm.vm_id())).collect();
        // Istio and Envoy Gateway give their filters none.
        requests.extend(self.unit.plugins.iter().map(|_| ""));
        // One that is discovered from elsewhere may have any.
        let unknown = self.managers.iter().flat_map(Manager::seats).any(|seat| seat.wasm.is_none());
        if requests.is_empty() || unknown {
            return;
        }
        let alone: Vec<(At<'a>, String)> = told(Seat::Attempt)
            .filter(|wasm| !requests.contains(&id(wasm.vm_id())))
            .map(|wasm| {
                let vm = wasm.vm().unwrap_or_else(|| wasm.config.clone());
                let at = vm.get("vm_id").unwrap_or(vm);
                let quoted: Vec<String> = requests.iter().map(|id| format!("\"{id}\"")).collect();
                (at, format!("vm_id is \"{}\", that of the request seat {}", id(wasm.vm_id()), quoted.join(", ")))
            })
            .collect();
        for (at, problem) in alone {
            self.add(&rules::VM_ID, &at, problem);
        }
    }

    fn missing_request_seat(&mut self) {
        let placed = self.managers.iter().any(|manager| manager.seats().next().is_some());
        if placed || self.more_listeners {
            return;
        }
        let beside = self.clusters.iter().flat_map(|cluster| &cluster.filters);
        let beside = beside.chain(self.managers.iter().flat_map(|manager| &manager.upstream));
        let seat = beside.into_iter().find(|filter| filter.ours).map(|filter| filter.at.clone());
        if let Some(at) = seat {
            self.add(&rules::REQUEST_SEAT_MISSING, &at, "an attempt seat, and no listener has a request seat");
        }
    }

    fn missing_attempt_seats(&mut self) {
        let mut missing: Vec<(At<'a>, String)> = Vec::new();
        for governed in self.governed() {
            let wants =
                |policy: &holdfast_policy::document::Policy| retries(policy) || policy.active_outlier().is_some();
            let Some(policy) = governed.first(wants) else { continue };
            if has_attempt_seat(governed.cluster, governed.manager) {
                continue;
            }
            let feature = if retries(policy) { "retry" } else { "outlier" };
            let some = self.managers.iter().any(|manager| manager.upstream.iter().any(|filter| filter.ours));
            let where_else = if some { ", and not every router that leads there has one" } else { "" };
            let problem = format!("no attempt seat for {feature} of policy {}{where_else}", policy.name);
            missing.push((governed.cluster.at.clone(), problem));
        }
        for (at, problem) in missing {
            self.add(&rules::ATTEMPT_SEAT_MISSING, &at, problem);
        }
    }
}

/// Whether attempts at a cluster on the way from a manager pass an attempt seat: the cluster's own filters take the place of the
/// router's.
pub fn has_attempt_seat(cluster: &Cluster<'_>, manager: &Manager<'_>) -> bool {
    if cluster.filters.is_empty() {
        manager.upstream.iter().any(|filter| filter.ours)
    } else {
        cluster.seat().is_some()
    }
}
