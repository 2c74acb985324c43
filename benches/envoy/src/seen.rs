//! What Envoy's statistics say of a load: that it was what it was meant to be.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use holdfast_tests::{Client, Envoy, PATIENCE, eventually};
use serde::Serialize;

use crate::case::{Before, Case, Filters, Shows};
use crate::policies::NAME;
use crate::request;
use crate::stage::{Stage, Subject};

/// Requests that may be cut off when a load ends: as many as it has connections, and some whose answer nobody read.
const CUT_OFF: u64 = 100;

/// Requests that may meet a host that is out: Holdfast looks for new hosts a few times.
const UNSTEERED: u64 = 20;

/// Statistics at a moment.
pub struct Snapshot {
    stats: BTreeMap<String, u64>,
    at_hosts: Vec<u64>,
}

impl Snapshot {
    /// Of an Envoy, and of the hosts behind it.
    pub async fn of(envoy: &Envoy, stage: &Stage, case: &Case) -> anyhow::Result<Self> {
        let stats = envoy.stats().await.map_err(|error| anyhow::anyhow!("the admin interface: {error}"))?;
        Ok(Snapshot { stats, at_hosts: stage.hosts(case).iter().map(|host| host.requests()).collect() })
    }

    fn get(&self, name: &str) -> u64 {
        self.stats.get(name).copied().unwrap_or_default()
    }

    /// A metric of the policy, over all its keys.
    fn metric(&self, name: &str) -> u64 {
        let of_policy = format!("wasmcustom.holdfast.policy=.={NAME};.;key=.=");
        let end = format!(";.;{name}");
        let mine = self.stats.iter().filter(|(stat, _)| stat.starts_with(&of_policy) && stat.ends_with(&end));
        mine.map(|(_, value)| value).sum()
    }

    /// How many keys of the policy have metrics.
    fn keys(&self) -> usize {
        let of_policy = format!("wasmcustom.holdfast.policy=.={NAME};.;key=.=");
        self.stats.keys().filter(|stat| stat.starts_with(&of_policy) && stat.ends_with(";.;requests")).count()
    }
}

/// What happened between two snapshots.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Requests that Envoy has finished.
    pub requests: u64,
    /// Answers 200..=299.
    pub good: u64,
    /// Answers 500..=599.
    pub bad: u64,
    /// Requests that hosts answered.
    pub at_hosts: u64,
}

impl Seen {
    /// The difference, if it is what the case is to show.
    ///
    /// # Errors
    /// What was seen instead.
    pub fn between(before: &Snapshot, after: &Snapshot, case: &Case) -> anyhow::Result<Self> {
        let grown = |name: &str| after.get(name).saturating_sub(before.get(name));
        let counted = |name: &str| after.metric(name).saturating_sub(before.metric(name));
        let answered = |name: &str| grown(&format!("http.ingress.{name}"));
        let at_each: Vec<u64> =
            after.at_hosts.iter().zip(&before.at_hosts).map(|(after, before)| after.saturating_sub(*before)).collect();
        let seen = Seen {
            requests: answered("downstream_rq_completed"),
            good: answered("downstream_rq_2xx"),
            bad: answered("downstream_rq_5xx"),
            at_hosts: at_each.iter().sum(),
        };
        let is_all = |count: u64| count.abs_diff(seen.requests) <= CUT_OFF;
        if seen.requests <= CUT_OFF {
            bail!("hardly any request: {seen:?}");
        }
        let connections = grown(&format!("cluster.{NAME}.upstream_cx_total"));
        if connections > seen.requests / 10 {
            bail!("{connections} connections to hosts were made for {} requests: they are not kept", seen.requests);
        }
        match case.shows {
            Shows::Answers => {
                if !is_all(seen.good) || seen.at_hosts + CUT_OFF < seen.good {
                    bail!("not every request was answered by a host: {seen:?}");
                }
            }
            Shows::Failures => {
                if !is_all(seen.bad) || seen.at_hosts + CUT_OFF < seen.bad {
                    bail!("not every request failed at a host: {seen:?}");
                }
            }
            Shows::Replacements => {
                if !is_all(seen.good) || seen.at_hosts + CUT_OFF < seen.good || !is_all(counted("fallback.static")) {
                    bail!("not every answer of a host was replaced: {seen:?}");
                }
            }
            Shows::Detours => {
                if !is_all(seen.good) || seen.at_hosts + CUT_OFF < seen.good || !is_all(counted("fallback.route")) {
                    bail!("not every request was answered by a host of the other cluster: {seen:?}");
                }
            }
            Shows::Rejections { status, state } => {
                let wanted = if status >= 500 { seen.bad } else { seen.good };
                // Hosts serve all cases, and may still be answering what the one before has cut off.
                if !is_all(wanted) || seen.at_hosts > CUT_OFF {
                    bail!("not every request was answered with {status} in place of hosts: {seen:?}");
                }
                if after.metric("breaker_state") != state {
                    bail!("the gauge breaker_state is {}, not {state}", after.metric("breaker_state"));
                }
                if !is_all(counted("rejected.open")) {
                    bail!("{} of {} requests were counted as rejected", counted("rejected.open"), seen.requests);
                }
                let served = counted("fallback.static") + counted("fallback.stale");
                if status < 500 && !is_all(served) {
                    bail!("{served} of {} requests were counted as fallbacks", seen.requests);
                }
            }
        }
        match case.filters {
            Filters::None => {}
            Filters::Noop(_) | Filters::NoopLean(_) => {
                if after.get("wasm.envoy.wasm.runtime.v8.active") == 0 {
                    bail!("no VM runs");
                }
            }
            Filters::Holdfast(..) => {
                if counted("requests") + CUT_OFF < seen.requests {
                    bail!("Holdfast counted {} of {} requests", counted("requests"), seen.requests);
                }
                let keys = case.tenants.unwrap_or(1) as usize;
                if after.keys() != keys {
                    bail!("the policy has {} keys, not {keys}", after.keys());
                }
            }
            Filters::Native => {
                let count = answered("admission_control.rq_success");
                if !is_all(count) {
                    bail!("admission control counted {count} of {} requests", seen.requests);
                }
            }
            Filters::Lua => {
                if after.get("http.ingress.lua.errors") > 0 {
                    bail!("the script failed {} times", after.get("http.ingress.lua.errors"));
                }
                let count = answered("lua.executions");
                if count < seen.requests {
                    bail!("the script ran {count} times for {} requests", seen.requests);
                }
            }
        }
        if case.before == Before::AHostIsEjected {
            let out = (before.metric("hosts_ejected"), after.metric("hosts_ejected"));
            if out != (1, 1) {
                bail!("{} hosts were out before, {} after; one should be", out.0, out.1);
            }
            if at_each.last().is_none_or(|at_ejected| *at_ejected > UNSTEERED) {
                bail!("requests reached the host that is out: {at_each:?}");
            }
        }
        Ok(seen)
    }
}

/// Brings about what the case needs before its load.
pub async fn prepare(envoy: &Envoy, stage: &Stage, subject: &Subject) -> anyhow::Result<()> {
    let hosts = stage.hosts(subject.case);
    let (failing, gauge, wanted) = match subject.case.before {
        Before::Nothing => return Ok(()),
        Before::TheBreakerOpens => (hosts, "breaker_state", 2),
        Before::AHostIsEjected => (hosts.last().map(std::slice::from_ref).unwrap_or_default(), "hosts_ejected", 1),
    };
    let client = Client::http1(envoy.addr());
    // What a host has answered before may be kept, if it may.
    client.get(request::PATH).await.map_err(|error| anyhow::anyhow!("before hosts fail: {error}"))?;
    failing.iter().for_each(|host| host.set_failing(true));
    let came = eventually(PATIENCE, || async {
        for _ in 0..20 {
            client.get(request::PATH).await.map_err(|error| error.to_string())?;
        }
        let now = Snapshot::of(envoy, stage, subject.case).await.map_err(|error| error.to_string())?.metric(gauge);
        if now == wanted { Ok(()) } else { Err(format!("the gauge {gauge} is {now}, not {wanted}")) }
    })
    .await;
    if subject.case.before == Before::TheBreakerOpens {
        failing.iter().for_each(|host| host.set_failing(false));
    }
    came.with_context(|| format!("hosts of {} failed", subject.label))
}

/// Has all hosts answer as the case asks, or fail.
pub fn set_hosts(stage: &Stage, case: &Case, failing: bool) {
    for host in stage.hosts(case) {
        host.set_failing(failing);
        host.set_answer(case.answer);
    }
}
