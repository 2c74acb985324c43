//! What a request costs: the growth of Envoy's processor time over a load, by the requests that Envoy finished in it.
//!
//! The Envoys of all cases stand side by side, and each is loaded for a fraction of a second in its turn: what else the machine and those
//! it shares its hardware with are doing changes within seconds, and so falls on all cases alike.
//!
//! Both are read before the load starts and after it has ended, when Envoy is idle: so they belong to exactly the same requests.
//! Reading them under way would take Envoy's time itself, and one reading would be later than the other. What the load's beginning and
//! end cost, 32 connections, is spread over some ten thousand requests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use holdfast_tests::Envoy;
use serde::Serialize;

use crate::case::Filters;
use crate::machine::{Disturbance, Ticks};
use crate::processor::ProcessorClock;
use crate::seen::{Seen, Snapshot, prepare, set_hosts};
use crate::stage::{Stage, Subject};
use crate::wrk;

/// Holdfast's workers tell what they have counted within 100 ms.
const TOLD: Duration = Duration::from_millis(150);

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
    /// Once, before the first measurement: V8 compiles again what runs often.
    pub warm_up: Duration,
    /// While it is measured.
    pub measured: Duration,
}

/// A case's Envoy, warm.
struct Standing {
    envoy: Envoy,
    clock: ProcessorClock,
}

impl Standing {
    async fn start(stage: &Stage, subject: &Subject, times: Times) -> anyhow::Result<Self> {
        let envoy = stage.start(subject, subject.case.workers).await?;
        set_hosts(stage, subject.case, false);
        let prepared = prepare(&envoy, stage, subject).await;
        // It is one time only that hosts fail: other cases have the same.
        set_hosts(stage, subject.case, false);
        prepared?;
        let standing = Standing { clock: ProcessorClock::of(envoy.pid())?, envoy };
        standing.load(stage, subject, times.warm_up).await?;
        // What the first slice finds counted before it must not be told during it.
        tokio::time::sleep(TOLD).await;
        Ok(standing)
    }

    async fn load(&self, stage: &Stage, subject: &Subject, time: Duration) -> anyhow::Result<wrk::Counted> {
        let (addr, dir) = (self.envoy.addr(), self.envoy.dir());
        set_hosts(stage, subject.case, subject.case.fails);
        let counted =
            wrk::run(addr, wrk::CONNECTIONS, subject.case.tenants, subject.case.body, time, stage.cores.load, dir)
                .await;
        set_hosts(stage, subject.case, false);
        counted
    }
}

/// The Envoys of all cases that have had their turn.
#[derive(Default)]
pub struct Standings(RefCell<BTreeMap<String, Rc<Standing>>>);

impl Standings {
    async fn of(&self, stage: &Stage, subject: &Subject, times: Times) -> anyhow::Result<Rc<Standing>> {
        let standing = self.0.borrow().get(&subject.label).cloned();
        if let Some(standing) = standing {
            return Ok(standing);
        }
        let standing = Rc::new(Standing::start(stage, subject, times).await?);
        self.0.borrow_mut().insert(subject.label.clone(), Rc::clone(&standing));
        Ok(standing)
    }
}

/// Measures a case once; its Envoy is started and warmed up the first time.
pub async fn measure(stage: &Stage, standings: &Standings, subject: &Subject, times: Times) -> anyhow::Result<Sample> {
    let measured = async {
        let standing = standings.of(stage, subject, times).await?;
        slice(stage, &standing, subject, times.measured).await
    };
    measured.await.with_context(|| format!("case {}", subject.label))
}

async fn slice(stage: &Stage, standing: &Standing, subject: &Subject, time: Duration) -> anyhow::Result<Sample> {
    let (case, Standing { envoy, clock }) = (subject.case, standing);
    let before = Snapshot::of(envoy, stage, case).await?;
    let own_core = stage.cores.envoy.filter(|_| case.workers == 1);
    let (ticks, start) = (Ticks::now(own_core)?, clock.now()?);
    let wrk = standing.load(stage, subject, time).await?;
    let spent = clock.now()?.saturating_sub(start);
    let disturbance = own_core.map(|core| Ticks::now(Some(core))).transpose()?.map(|now| now.since(&ticks, spent));
    let spent = spent.as_secs_f64();
    if matches!(case.filters, Filters::Holdfast(..)) {
        tokio::time::sleep(TOLD).await;
    }
    let after = Snapshot::of(envoy, stage, case).await?;

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
