//! Measures what Holdfast costs a real Envoy: the processor time per request of [`case`]s with Holdfast, with filters that do nothing
//! and with its peers, in [`rounds`] that take turns; and beside it latency, memory and start.
//!
//! A [`stage`] is an Envoy for a case, with its [`hosts`]; [`seen`] makes sure that what was measured is what was meant. The
//! [`report`] keeps every sample; the [`table`] and the [`chart`] show it. No figure is ever a failure: only what could not be
//! measured is.

mod arguments;
mod case;
mod chart;
mod cores;
mod hosts;
mod latency;
mod machine;
mod memory;
mod policies;
mod processor;
mod report;
mod request;
mod rounds;
mod saturation;
mod seen;
mod stage;
mod start;
mod statistics;
mod table;
mod target;
mod wrk;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;

use crate::arguments::Arguments;
use crate::case::{CASES, Case, MANY_HOSTS, named};
use crate::cores::Cores;
use crate::hosts::Hosts;
use crate::machine::Machine;
use crate::report::{Parameters, Report};
use crate::rounds::Rounds;
use crate::saturation::{Standings, Times};
use crate::stage::{Stage, Subject};
use crate::statistics::Spread;
use crate::target::Found;

/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// The rate at which latencies are measured: this part of what the slowest case can serve.
const BELOW_SATURATION: f64 = 0.5;

/// That rate where no case was saturated before, in requests a second.
const RATE: f64 = 5000.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Whichever ends first, the other is dropped, and with it Envoy and the load.
    let ended = tokio::select! {
        measured = bench(&arguments) => measured,
        interrupted = holdfast_tests::interruption() => interrupted.map_err(Into::into).map(|()| {
            eprintln!("\nInterrupted: Envoy and the load are stopped.");
            ExitCode::from(INTERRUPTED)
        }),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

async fn bench(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    for (program, package) in [("wrk", "wrk"), ("h2load", "nghttp2-client"), ("taskset", "util-linux")] {
        require(program, package)?;
    }
    let _lock = machine::lock()?;
    let count = available_parallelism()?.get();
    let machine = Machine::this(count)?;
    let cores = Cores::of(count);
    Cores::keep_to(cores.hosts);
    let stage = Stage {
        envoy: std::path::absolute(&arguments.envoy)?,
        noop: std::path::absolute(&arguments.noop)?,
        noop_lean: std::path::absolute(&arguments.lean_noop)?,
        hosts: Hosts::start(u16::try_from(MANY_HOSTS)?, cores.hosts)?,
        cores,
    };
    let report = measure(arguments, &stage, machine).await?;
    write(&arguments.out, "bench.json", &serde_json::to_string_pretty(&report)?)?;
    if !report.cases.is_empty() {
        write(&arguments.out, "bench.svg", &chart::render(&report)?)?;
    }
    println!("{}", table::render(&report));
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn require(program: &str, package: &str) -> anyhow::Result<()> {
    let started = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    started.map(|_| ()).with_context(|| format!("{program} does not start: apt-get install {package}"))
}

fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

async fn measure(arguments: &Arguments, stage: &Stage, machine: Machine) -> anyhow::Result<Report> {
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string();
    let (rounds, seed, times) = (arguments.rounds(), arguments.seed, arguments.times()?);
    let few_rounds = rounds.min(if arguments.quick { 1 } else { 3 });
    let sizes = sizes(arguments)?;

    let subjects = chosen(arguments, CASES.iter().map(|case| case.name));
    let standings = Standings::default();
    let cost = Rounds::run("cost", &subjects, label, rounds, seed, async |subject| {
        saturation::measure(stage, &standings, &subject, times).await
    });
    let cost = cost.await;
    drop(standings);

    let timed = part(arguments, "latency", &latency::CASES);
    let rate = rate(&cost);
    let latency = Rounds::run("latency", &timed, label, few_rounds, seed, async |subject| {
        latency::measure(stage, &subject, rate, times.warm_up, latency_time(times)).await
    });
    let latency = latency.await;

    let weighed = part(arguments, "memory", &memory::CASES);
    let memory = Rounds::run("memory", &weighed, label, few_rounds, seed, async |subject| {
        memory::measure(stage, &subject).await
    });
    let memory = memory.await;

    let started = part(arguments, "start", &start::CASES);
    let start =
        Rounds::run("start", &started, label, few_rounds, seed, async |subject| start::measure(stage, &subject).await);
    let start = start.await;

    let found = Found { cost: &cost, memory: &memory, sizes: &sizes };
    let failures = [&cost.failures, &latency.failures, &memory.failures, &start.failures];
    Ok(Report {
        date,
        machine,
        cores: stage.cores,
        envoy: machine::envoy_version(&stage.envoy)?,
        parameters: Parameters {
            rounds,
            few_rounds,
            seconds: times.measured.as_secs_f64(),
            warm_up_seconds: times.warm_up.as_secs_f64(),
            connections: wrk::CONNECTIONS,
            latency_rate: (!timed.is_empty()).then_some(rate),
            seed,
        },
        cases: report::costs(&cost, &subjects),
        latency: report::latencies(&latency, &timed),
        memory: report::memories(&memory, &weighed),
        start: report::starts(&start, &started),
        targets: found.targets(&arguments.module),
        failures: failures.into_iter().flatten().map(|(label, why)| (label.clone(), why.clone())).collect(),
        modules: sizes,
    })
}

fn label(subject: &Subject) -> &str {
    &subject.label
}

/// Latencies need more time than costs: of a thousand requests ten decide the 99th percentile.
fn latency_time(times: Times) -> Duration {
    times.measured.max(Duration::from_secs(2))
}

/// The sizes of all modules in bytes.
fn sizes(arguments: &Arguments) -> anyhow::Result<BTreeMap<String, u64>> {
    let noops = [("noop", &arguments.noop), ("noop-lean", &arguments.lean_noop)];
    let modules = arguments.module.iter().map(|module| (module.name.as_str(), &module.path));
    let mut sizes = BTreeMap::new();
    for (name, path) in noops.into_iter().chain(modules) {
        let bytes = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
        if sizes.insert(name.to_owned(), bytes).is_some() {
            bail!("two modules are called {name}: name them, as in --module old=FILE --module new=FILE");
        }
    }
    Ok(sizes)
}

/// The cases that are asked for, and those that they are compared with.
fn chosen<'a>(arguments: &Arguments, names: impl Iterator<Item = &'a str>) -> Vec<Subject> {
    let wanted = |case: &Case| {
        arguments.only.is_empty()
            || arguments.only.iter().filter_map(|name| named(name)).any(|chosen| {
                let noops = report::counterparts(chosen).map(|(noop, lean)| [noop, lean]);
                let needed = noops.into_iter().flatten().chain([chosen.name, chosen.base]);
                needed.into_iter().any(|name| name == case.name)
            })
    };
    let cases = names.filter_map(named).filter(|case| wanted(case));
    cases.flat_map(|case| Subject::all_of(case, &arguments.module)).collect()
}

/// The subjects of a part beside the cases, if it is asked for.
fn part(arguments: &Arguments, name: &str, cases: &[&str]) -> Vec<Subject> {
    if !arguments.has_part(name) {
        return Vec::new();
    }
    let cases = cases.iter().filter_map(|name| named(name));
    cases.flat_map(|case| Subject::all_of(case, &arguments.module)).collect()
}

/// A rate that saturates none of the main cases.
fn rate(cost: &Rounds<saturation::Sample>) -> f64 {
    let slowest = latency::CASES
        .iter()
        .filter_map(|name| named(name))
        .flat_map(|case| cost.samples.iter().filter(move |(label, _)| label.split('@').next() == Some(case.name)))
        .filter_map(|(label, _)| Spread::of(cost.figures(label, |sample| sample.rate)))
        .map(|rate| rate.median)
        .reduce(f64::min);
    latency::even_rate(slowest.map_or(RATE, |rate| rate * BELOW_SATURATION))
}
