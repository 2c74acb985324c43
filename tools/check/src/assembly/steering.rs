//! Whether Holdfast can name the host of a request.

use holdfast_policy::document::{Detector, Mode, Policy};

use super::clusters::{HOSTS, follows};
use super::{Assembly, Cluster, ejects};
use crate::rules;
use crate::rules::Rule;
use crate::texts::At;

impl<'a> Assembly<'a, '_> {
    /// Looks at load balancing.
    pub(super) fn steering(&mut self) {
        for cluster in std::mem::take(&mut self.clusters) {
            self.balancing(&cluster);
            self.clusters.push(cluster);
        }
        let mut found: Vec<(&'static Rule, At<'a>, String)> = Vec::new();
        for governed in self.governed() {
            let Some(policy) = governed.first(|policy| ejects(policy) || heartbeats(policy)) else { continue };
            let (cluster, name) = (governed.cluster, &policy.name);
            match cluster.chooses_itself() {
                Some(why) => {
                    let problem = format!("{why}, so that outlier of policy {name} cannot leave a host out");
                    found.push((&rules::STEERING_IMPOSSIBLE, cluster.at.clone(), problem));
                }
                None if cluster.override_host().is_none() => {
                    let problem = format!("no override_host for outlier of policy {name}");
                    found.push((&rules::STEERING_MISSING, cluster.at.clone(), problem));
                }
                None => {
                    if let Some(steering) = cluster.override_host().filter(|steering| !follows(steering)) {
                        let problem = format!("does not follow {HOSTS}");
                        found.push((&rules::STEERING_HEADER, sources(&steering), problem));
                    }
                }
            }
            if let Some(fallback) = fallback(cluster) {
                found.extend(weighs_unread_localities(&fallback, policy));
                let by_latency = governed.first(ejects_by_latency);
                if let Some(policy) = by_latency.filter(|_| fallback.is("RingHash") || fallback.is("Maglev")) {
                    let problem = format!("chooses by a hash, and policy {} ejects by latency", policy.name);
                    found.push((&rules::LATENCY_HASH, fallback, problem));
                }
            }
            if let Some(own) = cluster.at.get("outlier_detection").filter(|own| !is_switched_off(own)) {
                let problem = format!("outlier_detection beside outlier of policy {name}");
                found.push((&rules::OUTLIER_DETECTION, own, problem));
            }
            let mut filters = governed.manager.filters.iter();
            if let Some(session) =
                filters.find(|filter| filter.is("StatefulSession", "envoy.filters.http.stateful_session"))
            {
                let problem = format!("chooses hosts before outlier of policy {name} does");
                found.push((&rules::STATEFUL_SESSION, session.at.clone(), problem));
            }
        }
        for (rule, at, problem) in found {
            self.add(rule, &at, problem);
        }
    }

    fn balancing(&mut self, cluster: &Cluster<'a>) {
        let Some(steering) = cluster.override_host() else { return };
        if !follows(&steering) {
            // Another header is another's business where Holdfast has no seat.
            if cluster.seat().is_none() {
                return;
            }
            self.add(&rules::STEERING_HEADER, &sources(&steering), format!("does not follow {HOSTS}"));
        }
        if !cluster.balancing().first().is_some_and(|first| first.is("OverrideHost")) {
            self.add(&rules::STEERING_ORDER, &steering, "override_host is not the first policy");
        }
        let fallback = steering.get("fallback_policy").map(|policy| policy.list("policies")).unwrap_or_default();
        for policy in fallback.iter().filter_map(|policy| policy.at(&["typed_extension_config", "typed_config"])) {
            if policy.is("ClusterProvided") {
                self.add(&rules::CLUSTER_PROVIDED, &policy, "cluster_provided is the fallback of override_host");
            }
        }
        if let Some(why) = cluster.chooses_itself() {
            self.add(&rules::STEERING_IMPOSSIBLE, &steering, format!("the cluster {why}, which Envoy refuses"));
        }
        let common = ["zone_aware_lb_config", "locality_weighted_lb_config", "consistent_hashing_lb_config"];
        let common = common.iter().filter_map(|field| cluster.at.at(&["common_lb_config", field]));
        for refused in common.chain(cluster.at.get("lb_subset_config")) {
            let field = refused.path();
            let field = field.rsplit('.').next().unwrap_or_default().to_owned();
            self.add(&rules::STEERING_REFUSED, &refused, format!("{field} beside load_balancing_policy"));
        }
        self.ignored(cluster);
    }

    /// What `load_balancing_policy` takes the place of.
    fn ignored(&mut self, cluster: &Cluster<'a>) {
        const KINDS: [(&str, &str, &str); 5] = [
            ("ROUND_ROBIN", "RoundRobin", "round_robin_lb_config"),
            ("LEAST_REQUEST", "LeastRequest", "least_request_lb_config"),
            ("RANDOM", "Random", ""),
            ("RING_HASH", "RingHash", "ring_hash_lb_config"),
            ("MAGLEV", "Maglev", "maglev_lb_config"),
        ];
        let first = fallback(cluster);
        let own = first.as_ref().and_then(At::type_name);
        let wanted = cluster.at.get("lb_policy");
        if let Some(at) = &wanted {
            let kind = KINDS.iter().find(|(word, _, _)| at.node.text() == Some(word));
            if kind.is_some_and(|(_, message, _)| own != Some(message)) {
                let problem = format!("lb_policy {} has no effect", at.node.text().unwrap_or_default());
                self.add(&rules::LB_POLICY, at, problem);
                return;
            }
        }
        for (_, message, field) in KINDS.iter().filter(|(_, _, field)| !field.is_empty()) {
            let settings = cluster.at.get(field).filter(|settings| !settings.entries().is_empty());
            // Settings that the fallback has as well are kept for readers.
            let kept = own == Some(message) && first.as_ref().is_some_and(|first| first.entries().len() > 1);
            if let Some(at) = settings.filter(|_| !kept) {
                self.add(&rules::LB_POLICY, &at, format!("{field} has no effect"));
            }
        }
    }
}

/// What chooses in a cluster where `override_host` does not.
fn fallback<'a>(cluster: &Cluster<'a>) -> Option<At<'a>> {
    let policies = cluster.override_host()?.get("fallback_policy")?.list("policies");
    policies.first()?.at(&["typed_extension_config", "typed_config"])
}

/// Whether a policy's `discover` does not say what the localities weigh that this policy of the cluster chooses by.
fn weighs_unread_localities<'a>(fallback: &At<'a>, policy: &Policy) -> Option<(&'static Rule, At<'a>, String)> {
    let weighs = fallback.at(&["locality_lb_config", "locality_weighted_lb_config"])?;
    let discover =
        policy.active_outlier()?.discover.as_ref().filter(|discover| discover.path.starts_with("/clusters"))?;
    let problem = format!("{} does not say what the localities weigh to policy {}", discover.path, policy.name);
    Some((&rules::DISCOVER_LOCALITIES, weighs, problem))
}

/// Whether a policy takes hosts out for being slow.
fn ejects_by_latency(policy: &Policy) -> bool {
    policy.active_outlier().is_some_and(|outlier| outlier.mode_of(Detector::Latency) == Mode::Enforce)
}

/// Where a policy has its headers from.
fn sources<'a>(steering: &At<'a>) -> At<'a> {
    steering.get("override_host_sources").unwrap_or_else(|| steering.clone())
}

/// Whether a check of Holdfast's own has to reach its host.
fn heartbeats(policy: &Policy) -> bool {
    policy.active_outlier().is_some_and(|outlier| outlier.mode_of(Detector::Heartbeat) != Mode::Off)
}

/// Whether a detection ejects nothing: Istio writes one to keep failover by locality.
fn is_switched_off(detection: &At<'_>) -> bool {
    let zero = |field: &str| detection.text(field) == Some("0");
    zero("enforcing_consecutive_5xx") && zero("enforcing_success_rate") || zero("max_ejection_percent")
}
