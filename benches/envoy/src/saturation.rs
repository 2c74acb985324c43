//! What a request costs: the growth of Envoy's processor time over a load, by the requests that Envoy finished in it.
//!
//! Both are read before the load starts and after it has ended, when Envoy is idle: so they belong to exactly the same requests.
//! Reading them under way would take Envoy's time itself, and one reading would be later than the other. What the load's beginning and
//! end cost, 32 connections, is spread over some ten thousand requests.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::machine::{Disturbance, Ticks};
use crate::processor::ProcessorClock;
use crate::seen::{Seen, Snapshot, prepare, restore};
use crate::stage::{Stage, Subject};
use crate::wrk;

/// One measurement of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Microseconds of Envoy's processor time, user and system, per request.
    pub cpu_us: f64,
    /// Requests a second.
    pub rate: f64,
    /// How busy Envoy was, in percent of a core for each worker.
    pub busy: f64,
    /// Seconds of processor time.
    pub cpu_seconds: f64,
    /// What else there was on Envoy's core; nothing where it has none of its own.
    pub disturbance: Option<Disturbance>,
    /// What Envoy and the hosts counted.
    pub seen: Seen,
    /// What the load counted.
    pub wrk: wrk::Counted,
}

/// How long a case is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Before the measurement: V8 compiles again what runs often.
    pub warm_up: Duration,
    /// While it is measured.
    pub measured: Duration,
}

/// Measures a case in an Envoy of its own.
pub async fn measure(stage: &Stage, subject: &Subject, times: Times) -> anyhow::Result<Sample> {
    let measured = load(stage, subject, times).await;
    restore(stage, subject.case);
    measured.with_context(|| format!("case {}", subject.label))
}

async fn load(stage: &Stage, subject: &Subject, times: Times) -> anyhow::Result<Sample> {
    let case = subject.case;
    let envoy = stage.start(subject, case.workers).await?;
    let clock = ProcessorClock::of(envoy.pid())?;
    prepare(&envoy, stage, subject).await?;
    let load = |time| wrk::run(envoy.addr(), wrk::CONNECTIONS, case.tenants, time, stage.cores.load, envoy.dir());
    load(times.warm_up).await?;

    let before = Snapshot::of(&envoy, stage, case).await?;
    let own_core = stage.cores.envoy.filter(|_| case.workers == 1);
    let (ticks, start) = (Ticks::now(own_core)?, clock.now()?);
    let wrk = load(times.measured).await?;
    let spent = clock.now()?.saturating_sub(start);
    let disturbance = own_core.map(|core| Ticks::now(Some(core))).transpose()?.map(|now| now.since(&ticks, spent));
    let spent = spent.as_secs_f64();
    let after = Snapshot::of(&envoy, stage, case).await?;

    if let Some(status) = envoy.exit_status() {
        bail!("Envoy ended: {status}\n{}", envoy.log());
    }
    if wrk.socket_errors > 0 {
        bail!("connections broke: {wrk:?}");
    }
    let seen = Seen::between(&before, &after, case)?;
    Ok(Sample {
        cpu_us: spent * 1e6 / seen.requests as f64,
        rate: wrk.rate(),
        busy: spent / wrk.seconds / f64::from(case.workers) * 100.0,
        cpu_seconds: spent,
        disturbance,
        seen,
        wrk,
    })
}
