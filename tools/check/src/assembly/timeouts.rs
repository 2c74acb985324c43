//! Times that end an attempt before its own do.

use std::time::Duration;

use holdfast_policy::config::duration;

use super::managers::leads_to;
use super::{Assembly, makes_retries};
use crate::rules;
use crate::rules::Rule;
use crate::texts::At;
use crate::warnings::slow;

/// Envoy's `connect_timeout` unless it is set. Source: Envoy, `config.cluster.v3.Cluster`.
const CONNECT: Duration = Duration::from_secs(5);
/// Envoy's `timeout` of a route unless it is set. Source: Envoy, `config.route.v3.RouteAction`.
const ROUTE: Duration = Duration::from_secs(15);

impl<'a> Assembly<'a, '_> {
    /// Looks at times.
    pub(super) fn timeouts(&mut self) {
        let mut found: Vec<(&'static Rule, At<'a>, String)> = Vec::new();
        for governed in self.governed() {
            let cluster = governed.cluster;
            let actions = governed.manager.actions();
            let routes = actions.iter().filter(|(_, action)| leads_to(action, cluster.name));
            // What ends an attempt first that has no connection, its name and its time: Envoy's time-out of an attempt begins when
            // there is one.
            let mut first: Option<(String, Duration)> = None;
            let mut shorter = |name: String, time: Duration| {
                if first.as_ref().is_none_or(|(_, shortest)| time < *shortest) {
                    first = Some((name, time));
                }
            };
            for policy in &governed.policies {
                let times = policy.retry.as_ref().filter(|_| makes_retries(policy));
                if let Some(time) = times.and_then(|retry| retry.timeout) {
                    shorter(format!("retry.timeout of policy {}", policy.name), time);
                    continue;
                }
                let slow_after = slow::watches(policy).and(policy.outcome.slow_after);
                for (_, action) in routes.clone() {
                    let at = action.get("timeout").unwrap_or_else(|| action.clone());
                    let whole = timeout(action);
                    if let Some(whole) = whole {
                        shorter("the route's timeout".to_owned(), whole);
                    }
                    if let Some((slow, whole)) = slow_after.zip(whole).filter(|(slow, whole)| slow > whole) {
                        let (slow, whole) = (duration::text(slow), duration::text(whole));
                        let problem = format!(
                            "slow_after of policy {}, {slow}, is longer than the route's timeout, {whole}",
                            policy.name
                        );
                        found.push((&rules::SLOW_AFTER, at.clone(), problem));
                    }
                    let one = times.and_then(|retry| retry.per_try_timeout);
                    if let Some((one, whole)) = one.zip(whole).filter(|(one, whole)| one >= whole) {
                        let (one, whole) = (duration::text(one), duration::text(whole));
                        let problem = format!("{one} (per_try_timeout of policy {}) is not below {whole}", policy.name);
                        found.push((&rules::PER_TRY_TIMEOUT, at, problem));
                    }
                }
            }
            let own = cluster.at.get("connect_timeout");
            let connect = own.as_ref().map_or(Some(CONNECT), |at| seconds(at.node.text()?));
            let Some((connect, (name, time))) = connect.zip(first).filter(|(connect, (_, time))| connect > time) else {
                continue;
            };
            let unset = if own.is_none() { "not set, which means " } else { "" };
            let (connect, time) = (duration::text(connect), duration::text(time));
            let problem = format!("connect_timeout is {unset}{connect}, and {name} {time}");
            found.push((&rules::CONNECT_TIMEOUT, own.unwrap_or_else(|| cluster.at.clone()), problem));
        }
        for (rule, at, problem) in found {
            self.add(rule, &at, problem);
        }
    }
}

/// A route's time; none where it has none.
fn timeout(action: &At<'_>) -> Option<Duration> {
    match action.text("timeout") {
        None => Some(ROUTE),
        Some(text) => seconds(text).filter(|time| !time.is_zero()),
    }
}

/// A duration as protobuf writes it: `1.5s`.
fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.strip_suffix('s')?.parse().ok()?).ok()
}
