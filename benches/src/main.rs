//! Times all cases natively and prints a JSON document with their numbers, for `bench.mjs` to add those of V8.

use std::error::Error;
use std::fmt::Write;
use std::time::{Duration, Instant};

use holdfast_bench::{Bench, CASES, Case, Kind, Part};

/// So many samples of each case, each of at least so much timed work. One sample of every case is taken in turn, so that
/// what else the machine does falls on all alike. The same in `bench.mjs`.
const SAMPLES: usize = 15;
const SAMPLE: Duration = Duration::from_millis(10);

fn main() -> Result<(), Box<dyn Error>> {
    let mut all: Vec<Measured> = CASES.iter().copied().map(Measured::new).collect();
    // The first round only warms up.
    for round in 0..=SAMPLES {
        for one in &mut all {
            let sample = one.sample().map_err(|problem| format!("{:?}: {problem}", one.case))?;
            if round > 0 {
                one.samples.push(sample);
            }
        }
    }
    let mut out = String::from("[");
    for (number, one) in all.iter_mut().enumerate() {
        one.samples.sort_by(f64::total_cmp);
        let sample = |index: usize| one.samples.get(index).copied().unwrap_or(f64::NAN);
        let (least, median) = (sample(0), sample(SAMPLES / 2));
        let (reads, writes) = (one.each(one.reads), one.each(one.writes));
        let (kind, part, Case { workers, keys, policies, .. }) = (kind(one.case.kind), part(&one.case), one.case);
        let comma = if number == 0 { "" } else { "," };
        write!(
            out,
            "{comma}\n{{\"operation\":\"{part}\",\"window\":\"{kind}\",\"workers\":{workers},\"keys\":{keys},\
             \"policies\":{policies},\"store_reads\":{reads:.3},\"store_writes\":{writes:.3},\
             \"native_ns\":{least:.1},\"native_median_ns\":{median:.1}}}"
        )?;
    }
    println!("{out}\n]");
    Ok(())
}

/// A case, and what was found.
struct Measured {
    case: Case,
    bench: Bench,
    /// Nanoseconds per operation.
    samples: Vec<f64>,
    operations: u64,
    reads: usize,
    writes: usize,
}

impl Measured {
    fn new(case: Case) -> Self {
        let samples = Vec::with_capacity(SAMPLES);
        Measured { case, bench: Bench::new(case), samples, operations: 0, reads: 0, writes: 0 }
    }

    fn sample(&mut self) -> Result<f64, String> {
        let (mut spent, mut operations) = (Duration::ZERO, 0_u64);
        while spent < SAMPLE {
            self.bench.prepare();
            let before = self.bench.store_calls();
            let start = Instant::now();
            let done = self.bench.run();
            spent += start.elapsed();
            let after = self.bench.store_calls();
            self.reads += after.0 - before.0;
            self.writes += after.1 - before.1;
            operations += u64::from(done);
            if done != self.case.batch() {
                return Err(format!("only {done} of {} operations went as they should", self.case.batch()));
            }
        }
        self.operations += operations;
        Ok(spent.as_nanos() as f64 / operations as f64)
    }

    fn each(&self, count: usize) -> f64 {
        count as f64 / self.operations as f64
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Time => "10s",
        Kind::Count100 => "100",
        Kind::Count1000 => "1000",
        Kind::Run => "10s + consecutive",
    }
}

fn part(case: &Case) -> String {
    let name = match case.part {
        Part::Admit => "admit",
        Part::Reject => "reject (open)",
        Part::Succeed => "report success",
        Part::Fail => "report failure",
        Part::Plan => "plan retries",
        Part::PlanPerTry => "plan, per try",
        Part::Grant => "grant a retry",
        Part::Send => "send",
        Part::Steer => "steer",
        Part::SteerSpread => "steer, spread",
        Part::SteerAnew => "steer, changed",
        Part::List => "read listing",
        Part::TakeOver => "take over",
        Part::SendInTurn => "send, in turn",
        Part::SendByHash => "send, hash",
        Part::SendByLatency => "send, latency",
        Part::Judge => "judge",
        Part::JudgeRates => "judge, rates",
        Part::JudgeFailed => "judge, failed",
        Part::Serve => "request",
        Part::ServeBoth => "both seats",
        Part::ServeHosts => "both, hosts",
        Part::ServeSteered => "both, host out",
        Part::Retry => "both, retried",
    };
    if case.part.hosts() || matches!(case.part, Part::List | Part::TakeOver) {
        format!("{name} ({})", case.hosts)
    } else {
        name.to_owned()
    }
}
