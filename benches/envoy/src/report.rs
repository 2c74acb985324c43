//! What a run found: all of it, for bench.json, and what tables and the chart show of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::case::{Case, Filters, Group, Seats, Shows};
use crate::cores::Cores;
use crate::machine::Machine;
use crate::rounds::Rounds;
use crate::stage::Subject;
use crate::statistics::{Spread, by_median, paired};
use crate::target::Target;
use crate::{latency, memory, saturation, start};

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// When it began, in UTC.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// Who ran on which core.
    pub cores: Cores,
    /// Envoy's version.
    pub envoy: String,
    /// How it was measured.
    pub parameters: Parameters,
    /// The modules' sizes in bytes.
    pub modules: BTreeMap<String, u64>,
    /// The cost of requests.
    pub cases: Vec<Cost>,
    /// Latencies at a rate.
    pub latency: Vec<Latency>,
    /// Memory of workers.
    pub memory: Vec<Memory>,
    /// Starts.
    pub start: Vec<Start>,
    /// What was aimed at.
    pub targets: Vec<Target>,
    /// What could not be measured, and why.
    pub failures: BTreeMap<String, String>,
}

/// How a run measured.
#[derive(Clone, Debug, Serialize)]
pub struct Parameters {
    /// Rounds of the cases.
    pub rounds: u32,
    /// Rounds of latency, memory and start.
    pub few_rounds: u32,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// Seconds of load before it.
    pub warm_up_seconds: f64,
    /// Connections of the load.
    pub connections: u32,
    /// Requests a second at which latencies were measured.
    pub latency_rate: Option<f64>,
    /// The order's seed.
    pub seed: u64,
}

/// What a request costs in one case.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// What tells it from all others.
    pub label: String,
    /// The case's name.
    pub case: &'static str,
    /// The module's, where there is one.
    pub module: Option<String>,
    /// What it is.
    pub what: &'static str,
    /// Its place in the table.
    pub group: Group,
    /// The case whose cost is subtracted.
    pub base: &'static str,
    /// Microseconds of processor time per request.
    pub cpu_us: Spread,
    /// The same above the base's.
    pub overhead_us: Option<Spread>,
    /// That, by the overhead of as many filters that do nothing.
    pub times_noop: Option<Spread>,
    /// That, by the overhead of as many with the fewest exports.
    pub times_lean: Option<Spread>,
    /// Its cost by its base's.
    pub times_base: Option<Spread>,
    /// Whether hosts never saw the requests.
    pub rejected: bool,
    /// Requests a second.
    pub rate: Spread,
    /// How busy Envoy was, in percent.
    pub busy: Spread,
    /// Percent of its core's time that others had.
    pub disturbed: Option<Spread>,
    /// Whether Envoy alone had a core, which the load should have kept busy.
    pub should_be_busy: bool,
    /// All rounds.
    pub samples: Vec<saturation::Sample>,
}

/// Latencies of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Which.
    pub label: String,
    /// Microseconds.
    pub p50_us: Spread,
    /// Microseconds.
    pub p99_us: Spread,
    /// All rounds.
    pub samples: Vec<latency::Sample>,
}

/// Memory of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Which.
    pub label: String,
    /// MiB with one worker.
    pub one_worker_mib: Spread,
    /// MiB for each further worker.
    pub per_worker_mib: Spread,
    /// All rounds.
    pub samples: Vec<memory::Sample>,
}

/// Starts of a case.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// Which.
    pub label: String,
    /// Milliseconds.
    pub ms: Spread,
    /// The same above that without filter.
    pub above_none_ms: Option<Spread>,
    /// All rounds.
    pub samples: Vec<start::Sample>,
}

/// The overheads of a case, round by round.
pub fn overheads(rounds: &Rounds<saturation::Sample>, label: &str, case: &Case) -> Vec<f64> {
    rounds.above(label, case.base, |sample| sample.cpu_us)
}

/// The overhead of a case in each round by that of another without Holdfast in the median.
pub fn ratios(rounds: &Rounds<saturation::Sample>, label: &str, case: &Case, noop: &str) -> Vec<f64> {
    by_median(overheads(rounds, label, case), rounds.above(noop, "none", |sample| sample.cpu_us))
}

/// The two cases with as many filters that do nothing: with the SDK, and with the fewest exports.
pub fn counterparts(case: &Case) -> Option<(&'static str, &'static str)> {
    let seats = match case.filters {
        Filters::Holdfast(seats, _) | Filters::Noop(seats) | Filters::NoopLean(seats) => seats,
        Filters::Native | Filters::Lua => Seats::Request,
        Filters::None => return None,
    };
    (case.base == "none").then_some(match seats {
        Seats::Request | Seats::Second => ("noop", "noop-lean"),
        Seats::Both => ("noop-2", "noop-lean-2"),
    })
}

/// The costs of the cases that were measured.
pub fn costs(rounds: &Rounds<saturation::Sample>, subjects: &[Subject]) -> Vec<Cost> {
    subjects.iter().filter_map(|subject| cost(rounds, subject)).collect()
}

fn cost(rounds: &Rounds<saturation::Sample>, subject: &Subject) -> Option<Cost> {
    let (case, label) = (subject.case, subject.label.as_str());
    let figures = |figure: fn(&saturation::Sample) -> f64| rounds.figures(label, figure);
    let times = |noop: &str| Spread::of(ratios(rounds, label, case, noop));
    let rejected = case.shows != Shows::Answers;
    let (noop, lean) = counterparts(case).filter(|_| !rejected).unzip();
    let base = rounds.figures(case.base, |sample| sample.cpu_us);
    let has_base = case.base != case.name;
    Some(Cost {
        label: label.to_owned(),
        case: case.name,
        module: subject.module.as_ref().map(|module| module.name.clone()),
        what: case.what,
        group: case.group,
        base: case.base,
        cpu_us: Spread::of(figures(|sample| sample.cpu_us))?,
        overhead_us: has_base.then(|| Spread::of(overheads(rounds, label, case))).flatten(),
        times_noop: noop.and_then(times),
        times_lean: lean.and_then(times),
        times_base: has_base
            .then(|| Spread::of(paired(&figures(|sample| sample.cpu_us), &base, |cost, base| cost / base)))
            .flatten(),
        rejected,
        rate: Spread::of(figures(|sample| sample.rate))?,
        busy: Spread::of(figures(|sample| sample.busy))?,
        disturbed: Spread::of(figures(disturbed)),
        should_be_busy: case.workers == 1,
        samples: rounds.samples.get(label)?.clone(),
    })
}

fn disturbed(sample: &saturation::Sample) -> f64 {
    sample.disturbance.map_or(f64::NAN, |disturbance| disturbance.others + disturbance.stolen)
}

/// The latencies of the cases that were measured.
pub fn latencies(rounds: &Rounds<latency::Sample>, subjects: &[Subject]) -> Vec<Latency> {
    let one = |subject: &Subject| {
        let label = subject.label.as_str();
        Some(Latency {
            label: label.to_owned(),
            p50_us: Spread::of(rounds.figures(label, |sample| sample.p50_us))?,
            p99_us: Spread::of(rounds.figures(label, |sample| sample.p99_us))?,
            samples: rounds.samples.get(label)?.clone(),
        })
    };
    subjects.iter().filter_map(one).collect()
}

/// The memory of the cases that were measured.
pub fn memories(rounds: &Rounds<memory::Sample>, subjects: &[Subject]) -> Vec<Memory> {
    let one = |subject: &Subject| {
        let label = subject.label.as_str();
        Some(Memory {
            label: label.to_owned(),
            one_worker_mib: Spread::of(rounds.figures(label, |sample| sample.one_worker_mib))?,
            per_worker_mib: Spread::of(rounds.figures(label, |sample| sample.per_worker_mib))?,
            samples: rounds.samples.get(label)?.clone(),
        })
    };
    subjects.iter().filter_map(one).collect()
}

/// The starts of the cases that were measured.
pub fn starts(rounds: &Rounds<start::Sample>, subjects: &[Subject]) -> Vec<Start> {
    let one = |subject: &Subject| {
        let label = subject.label.as_str();
        let above = (label != "none").then(|| Spread::of(rounds.above(label, "none", |sample| sample.ms))).flatten();
        Some(Start {
            label: label.to_owned(),
            ms: Spread::of(rounds.figures(label, |sample| sample.ms))?,
            above_none_ms: above,
            samples: rounds.samples.get(label)?.clone(),
        })
    };
    subjects.iter().filter_map(one).collect()
}
