//! The figures on the terminal, in a hundred columns.

use comfy_table::{CellAlignment, Table, presets};

use crate::case::Group;
use crate::report::{Cost, Report};
use crate::statistics::Spread;
use crate::target::{Target, Unit};

/// Below this many percent Envoy's core was not what limited the load.
const BUSY: f64 = 90.0;

/// Above this many percent of its time that others had, figures are not worth much.
const DISTURBED: f64 = 5.0;

/// What the figures mean.
const COSTS: &str = "\
Envoy's processor time, user and system, per request, in microseconds: the median of the rounds, and
the range of their middle half. `above`: less what it costs without any filter, round by round.
`x noop` and `x lean`: that, by what as many filters cost that do nothing, written with the Rust SDK,
and by hand with the fewest callbacks. `x none`: the whole cost, by that without any filter. req/s:
what one core of Envoy serves, saturated by 32 connections.";

/// All tables.
pub fn render(report: &Report) -> String {
    let mut out = heading(report);
    if !report.cases.is_empty() {
        section(&mut out, "What a request costs", COSTS, &costs(report));
    }
    let not_busy = report.cases.iter().any(is_idle);
    if not_busy {
        out.push_str("! Envoy was busy for less than 90 % of the time: other work, or the load, held it up.\n");
    }
    if let Some(disturbed) = Spread::of(report.cases.iter().filter_map(|cost| Some(cost.disturbed?.median)))
        && disturbed.median > DISTURBED
    {
        out.push_str(&format!(
            "Other work, here or beside this virtual machine, had {:.0} % of Envoy's core: do not trust these figures.\n",
            disturbed.median
        ));
    }
    if report.cases.iter().any(|cost| !cost.should_be_busy) {
        out.push_str(
            "With two workers Envoy shares both cores with load and hosts: compare the cost, not the req/s.\n",
        );
    }
    if let Some(rate) = report.parameters.latency_rate.filter(|_| !report.latency.is_empty()) {
        let note = format!(
            "Microseconds until the whole answer, at {rate:.0} requests a second sent by the clock, evenly spread."
        );
        section(&mut out, "Latency below saturation", &note, &latencies(report));
    }
    if !report.memory.is_empty() {
        let note = "MiB that Envoy uses after a load: with one worker, and for each further one.";
        section(&mut out, "Memory", note, &memories(report));
    }
    if !report.start.is_empty() {
        let note =
            "Milliseconds of `envoy --mode validate` on all cores, in which modules are compiled and configured.";
        section(&mut out, "Start", note, &starts(report));
    }
    let sizes: Vec<String> = report.modules.iter().map(|(name, bytes)| format!("{name} {bytes}")).collect();
    section(&mut out, "Sizes of the modules in bytes", "", &sizes.join(", "));
    if !report.targets.is_empty() {
        let note = "Ratios and growth are those of the cost above no filter, in the same round.";
        section(&mut out, "Targets", note, &targets(&report.targets));
    }
    if !report.failures.is_empty() {
        out.push_str("\nNot measured:\n");
        for (label, why) in &report.failures {
            out.push_str(&format!("  {label}: {}\n", why.lines().next().unwrap_or_default()));
        }
    }
    out
}

fn heading(report: &Report) -> String {
    let pinned = match (report.cores.envoy, report.cores.hosts, report.cores.load) {
        (Some(envoy), Some(hosts), Some(load)) if hosts == load => {
            format!("Envoy pinned to core {envoy}, hosts and load to core {load}")
        }
        (Some(envoy), Some(hosts), Some(load)) => {
            format!("Envoy pinned to core {envoy}, hosts to core {hosts}, load to core {load}")
        }
        _ => "nothing pinned: Envoy, hosts and load share one core".to_owned(),
    };
    let parameters = &report.parameters;
    format!(
        "Envoy {}, {}, {} with {} cores, Linux {}\n{} rounds of {} s each, Envoys warmed up for {} s; {pinned}\n",
        report.envoy,
        report.date,
        report.machine.cpu,
        report.machine.cores,
        report.machine.kernel,
        parameters.rounds,
        parameters.seconds,
        parameters.warm_up_seconds,
    )
}

fn section(out: &mut String, title: &str, note: &str, body: &str) {
    out.push_str(&format!("\n{title}\n"));
    if !note.is_empty() {
        out.push_str(&format!("{note}\n"));
    }
    out.push_str(&format!("\n{body}\n"));
}

/// A table whose first `left` columns hold words and whose others hold numbers.
fn table(head: &[&str], left: usize, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        column.set_cell_alignment(if number < left { CellAlignment::Left } else { CellAlignment::Right });
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

fn is_idle(cost: &Cost) -> bool {
    cost.should_be_busy && cost.busy.median < BUSY
}

fn costs(report: &Report) -> String {
    let groups = [
        (Group::Healthy, "all is well"),
        (Group::Special, "otherwise"),
        (Group::Peers, "peers"),
        (Group::Scale, "more of it"),
    ];
    let head = ["case", "", "CPU us", "middle half", "above", "x noop", "x lean", "x none", "req/s"];
    let mut rows = Vec::new();
    for (group, name) in groups {
        let mut costs = report.cases.iter().filter(|cost| cost.group == group).peekable();
        if costs.peek().is_some() {
            rows.push(vec![format!("-- {name}")]);
        }
        rows.extend(costs.map(|cost| {
            vec![
                format!("{}{}", cost.label, if is_idle(cost) { " !" } else { "" }),
                cost.what.to_owned(),
                one(cost.cpu_us.median),
                range(cost.cpu_us, one),
                median(cost.overhead_us, one),
                median(cost.times_noop, two),
                median(cost.times_lean, two),
                median(cost.times_base, two),
                format!("{:.0}", cost.rate.median),
            ]
        }));
    }
    table(&head, 2, rows)
}

fn latencies(report: &Report) -> String {
    let whole = |value: f64| format!("{value:.0}");
    let rows = report.latency.iter().map(|case| {
        let (p50, p99) = (case.p50_us, case.p99_us);
        vec![case.label.clone(), whole(p50.median), range(p50, whole), whole(p99.median), range(p99, whole)]
    });
    table(&["case", "p50", "middle half", "p99", "middle half"], 1, rows)
}

fn memories(report: &Report) -> String {
    let rows = report.memory.iter().map(|case| {
        let (first, more) = (case.one_worker_mib, case.per_worker_mib);
        vec![case.label.clone(), one(first.median), range(first, one), two(more.median), range(more, two)]
    });
    table(&["case", "1 worker", "middle half", "each more", "middle half"], 1, rows)
}

fn starts(report: &Report) -> String {
    let whole = |value: f64| format!("{value:.0}");
    let rows = report.start.iter().map(|case| {
        vec![case.label.clone(), whole(case.ms.median), range(case.ms, whole), median(case.above_none_ms, whole)]
    });
    table(&["case", "ms", "middle half", "above"], 1, rows)
}

fn targets(targets: &[Target]) -> String {
    let rows = targets.iter().map(|target| {
        let figure = |value: f64| match target.unit {
            Unit::Times => format!("{value:.2} x"),
            Unit::PercentMore => format!("{value:+.1} %"),
            Unit::Mib => format!("{value:.2} MiB"),
            Unit::Kib => format!("{value:.0} KiB"),
        };
        let measured = target.measured;
        let verdict = match measured.median {
            value if value <= target.reach => "reached",
            value if value <= target.at_most => "met",
            _ => "missed",
        };
        vec![
            target.module.as_ref().map_or_else(|| target.what.clone(), |module| format!("{} @{module}", target.what)),
            verdict.to_owned(),
            figure(measured.median),
            range(measured, figure),
            figure(target.at_most),
            figure(target.reach),
        ]
    });
    table(&["target", "", "measured", "middle half", "at most", "reach for"], 2, rows)
}

fn one(value: f64) -> String {
    format!("{value:.1}")
}

fn two(value: f64) -> String {
    format!("{value:.2}")
}

fn median(spread: Option<Spread>, figure: impl Fn(f64) -> String) -> String {
    spread.map_or_else(String::new, |spread| figure(spread.median))
}

fn range(spread: Spread, figure: impl Fn(f64) -> String) -> String {
    format!("{}..{}", figure(spread.low), figure(spread.high))
}
