//! How Envoy executes retries that a policy decides on.

use super::managers::leads_to;
use super::seats::has_attempt_seat;
use super::{Assembly, makes_retries};
use crate::rules;
use crate::rules::Rule;
use crate::texts::At;

/// So many retries of a cluster Envoy lets be in flight.
const MOST: u32 = 3;

impl<'a> Assembly<'a, '_> {
    /// Looks at the settings of retries.
    pub(super) fn retries(&mut self) {
        let mut found: Vec<(&'static Rule, At<'a>, String)> = Vec::new();
        for governed in self.governed() {
            let Some(policy) = governed.first(makes_retries) else { continue };
            let (cluster, name) = (governed.cluster, &policy.name);
            if !may_retry(&cluster.at) {
                let at = cluster.at.get("circuit_breakers").unwrap_or_else(|| cluster.at.clone());
                let problem = format!("at most {MOST} retries in flight, whatever the budget of policy {name} allows");
                found.push((&rules::MAX_RETRIES, at, problem));
            }
            if !has_attempt_seat(cluster, governed.manager) {
                // Then Envoy's wait is the only one, and its predicates do all.
                continue;
            }
            for ([host, _], action) in governed.manager.actions() {
                if !leads_to(&action, cluster.name) {
                    continue;
                }
                let own = cluster.options.as_ref().and_then(|options| options.get("retry_policy"));
                let of_route = || action.get("retry_policy").or_else(|| host.get("retry_policy"));
                let Some(settings) = own.or_else(of_route) else {
                    let problem = format!("no retry_policy with Envoy's own wait, for retry of policy {name}");
                    found.push((&rules::RETRY_BACK_OFF, host, problem));
                    continue;
                };
                if settings.get("retry_back_off").is_none() {
                    let problem = format!("no retry_back_off, for retry of policy {name}");
                    found.push((&rules::RETRY_BACK_OFF, settings.clone(), problem));
                }
                let predicates = settings.list("retry_host_predicate");
                let previous = predicates.iter().any(|predicate| {
                    predicate.text("name").is_some_and(|name| name.ends_with("previous_hosts"))
                        || predicate.get("typed_config").is_some_and(|config| config.is("PreviousHostsPredicate"))
                });
                if !previous && !cluster.has_one_host() {
                    let problem = format!("no previous_hosts, for retry of policy {name}");
                    found.push((&rules::RETRY_PREVIOUS_HOSTS, settings.clone(), problem));
                }
                let words = settings.get("retry_on").filter(|on| {
                    on.node.text().unwrap_or_default().split(',').any(|word| word.trim() == "envoy-ratelimited")
                });
                if let Some(on) = words {
                    found.push((
                        &rules::RETRY_RATELIMITED,
                        on,
                        format!("envoy-ratelimited, for retry of policy {name}"),
                    ));
                }
            }
        }
        for (rule, at, problem) in found {
            self.add(rule, &at, problem);
        }
    }
}

/// Whether more retries may be in flight than by Envoy's default.
fn may_retry(cluster: &At<'_>) -> bool {
    let thresholds = cluster.get("circuit_breakers").map(|breakers| breakers.list("thresholds")).unwrap_or_default();
    let mut default = thresholds.iter().filter(|one| matches!(one.text("priority"), None | Some("DEFAULT" | "0")));
    let Some(one) = default.next() else { return false };
    one.get("retry_budget").is_some()
        || one.text("max_retries").is_some_and(|most| most.parse::<u32>().map_or(true, |most| most > MOST))
}
