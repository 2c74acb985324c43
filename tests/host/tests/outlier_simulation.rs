//! Hours of two hundred hosts that fail and are repaired, against what the model of `docs/outlier-model.md` says of them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use holdfast_engine::base::random::Random;
use holdfast_host_tests::Host;
use holdfast_host_tests::trace::{Clock, Trace};

use crate::fleet::{
    ERROR_OF, Fleet, Machine, Move, Moves, Outage, Traffic, Users, Way, addresses, exponential, moves, times_out,
    within,
};
use crate::support::{count, policy, seconds};

const HOSTS: usize = 200;
const WORKERS: usize = 16;
const PER_SECOND: u32 = 25;

/// A host is good so long and then bad so long, each in the mean.
const BETWEEN_FAILURES: Duration = Duration::from_secs(40 * 60);
const TO_REPAIR: Duration = Duration::from_secs(4 * 60);

/// Hosts are bad from this moment on, at once as many as in the long run.
const BEGIN: Duration = Duration::from_secs(60);
/// Shares are those of the time from here on.
const SETTLED: Duration = Duration::from_secs(10 * 60);
/// An outage that begins later may not be over at the end, and is left out.
const LAST: Duration = Duration::from_secs(100 * 60);
const END: Duration = Duration::from_secs(120 * 60);

/// What the model asks of the policy.
const LIMIT: i32 = 5;
const BASE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(300);
const JITTER: f64 = 0.1;
const PER_TRY: Duration = Duration::from_secs(1);

/// How long after its repair a host may still be found bad: until the interval ends in which it was repaired, and a worker
/// looks at it.
const LATE: Duration = Duration::from_secs(62);

const RETRY: &str = r#""retry":{"max_retries":2,"per_try_timeout":"1s","timeout":"5s"}"#;
/// With so few requests per host the rates need a long interval to have something to judge by.
const OUTLIER: &str = r#""outlier":{"consecutive_failures":5,"interval":"60s",
    "failure_rate":{"threshold":50,"min_requests":5,"min_hosts":5},
    "latency":{"deviation":200,"min_requests":5,"min_hosts":3}}"#;

/// What the formulas of `docs/outlier-model.md` say.
struct Model {
    /// Attempts per second to a host that is in.
    tries: f64,
    /// Repairs per second of a host that is bad.
    repairs: f64,
}

/// The share of time in which a host is good.
/// Source: Trivedi, "Probability and Statistics with Reliability, Queuing, and Computer Science Applications", the two-state
/// availability model.
fn availability() -> f64 {
    let (good, bad) = (BETWEEN_FAILURES.as_secs_f64(), TO_REPAIR.as_secs_f64());
    good / (good + bad)
}

/// Outages per second, of one host.
fn outages_per_second() -> f64 {
    1.0 / (BETWEEN_FAILURES + TO_REPAIR).as_secs_f64()
}

impl Model {
    /// The share of hosts that are out says how many attempts the others get, and those say how soon a host goes out.
    fn new() -> Self {
        let tries = f64::from(PER_SECOND) / HOSTS as f64;
        let mut model = Model { tries, repairs: 1.0 / TO_REPAIR.as_secs_f64() };
        for _ in 0..10 {
            model.tries = tries / (1.0 - model.share_out());
        }
        model
    }

    /// The share of outages in which a retry comes before the repair.
    fn next_comes(&self) -> f64 {
        self.tries / (self.tries + self.repairs)
    }

    /// The share of outages that are long enough to be found.
    fn found(&self) -> f64 {
        self.next_comes().powi(LIMIT)
    }

    /// Attempts of an outage until it is found or over.
    fn detection(&self, way: Way) -> f64 {
        let under_way = if way == Way::Hangs { self.found() * self.tries * PER_TRY.as_secs_f64() } else { 0.0 };
        (1..=LIMIT).map(|number| self.next_comes().powi(number)).sum::<f64>() + under_way
    }

    /// Each ejection, in seconds in the mean, with the share of the outages found that are not over when it begins.
    fn ejections(&self) -> impl Iterator<Item = (f64, f64)> {
        let (mut number, mut left, repairs) = (0, 1.0, self.repairs);
        let ejections = std::iter::from_fn(move || {
            number += 1;
            let lasts = (BASE * number).min(LONGEST).as_secs_f64() * (1.0 + JITTER / 2.0);
            let begins = left;
            left *= (-repairs * lasts).exp();
            Some((lasts, begins))
        });
        ejections.take_while(|(_, begins)| *begins > 1e-9)
    }

    /// Probes that fail, of an outage that was found: one before each ejection but the first.
    fn probes(&self) -> f64 {
        self.ejections().skip(1).map(|(_, begins)| begins).sum()
    }

    /// From the repair to the end of the ejection, in seconds in the mean, of an outage that was found.
    fn lag(&self) -> f64 {
        let residual = |lasts: f64| lasts - (1.0 - (-self.repairs * lasts).exp()) / self.repairs;
        self.ejections().map(|(lasts, begins)| begins * residual(lasts)).sum()
    }

    /// The share of hosts that are out.
    fn share_out(&self) -> f64 {
        self.found() * (1.0 / self.repairs + self.lag()) * outages_per_second()
    }

    /// The share of attempts that fail.
    fn failed(&self) -> f64 {
        let of = |way: &Way| if way.fails() { self.detection(*way) + self.found() * self.probes() } else { 0.0 };
        let per_outage = Way::ALL.iter().map(of).sum::<f64>() / Way::ALL.len() as f64;
        per_outage * HOSTS as f64 * outages_per_second() / f64::from(PER_SECOND) + 1.0 / ERROR_OF as f64
    }
}

/// Numbers of which there are several.
#[derive(Default)]
struct Sample(Vec<f64>);

impl Sample {
    fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares = self.0.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        (squares / (self.0.len() as f64 - 1.0)).sqrt()
    }

    /// Standard error of the mean.
    fn error(&self) -> f64 {
        self.deviation() / (self.0.len() as f64).sqrt()
    }

    /// The value that a share of it is not above.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Sample(values.into_iter().collect())
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |share| self.quantile(share);
        write!(f, "{:.2} in the mean, half {:.1}, 95 % {:.1}, most {:.1}", self.mean(), of(0.5), of(0.95), of(1.0))
    }
}

/// When each host is bad: a two-state Markov process, from the beginning on as it is in the long run.
fn machines(seed: u64) -> BTreeMap<String, Machine> {
    let mut random = Random::new(seed);
    let mut machine = || {
        let mut outages = Vec::new();
        let is_bad = random.below(1_000_000) as f64 >= availability() * 1e6;
        let mut from = BEGIN + if is_bad { Duration::ZERO } else { exponential(&mut random, BETWEEN_FAILURES) };
        while from < END {
            let to = from + exponential(&mut random, TO_REPAIR);
            outages.push(Outage { way: Way::ALL[random.below(4) as usize], from, to });
            from = to + exponential(&mut random, BETWEEN_FAILURES);
        }
        Machine::new(outages)
    };
    addresses(0, HOSTS).into_iter().map(|address| (address, machine())).collect()
}

/// The same hours, with or without ejection.
struct Hours {
    fleet: Fleet,
    traffic: Traffic,
    /// Hosts that were out, every 10 s.
    out: Sample,
    /// What users saw in each ten minutes, and how many hosts were bad and out at their end.
    rows: Vec<String>,
}

impl Hours {
    fn simulate(features: &str, per_second: u32) -> Self {
        let fleet = Fleet::new(machines(11), 12);
        let serving = fleet.clone();
        let addresses = fleet.addresses();
        let hosts: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let host = Host::with(&policy(features)).workers(WORKERS).attempt_seat().override_host(&hosts);
        let host = host.answering_tries(move |arrival| serving.serve(arrival)).start();
        let mut traffic = Traffic::new(host, per_second, 13);
        let (mut out, mut rows, mut before) = (Sample::default(), Vec::new(), Users::default());
        while traffic.host.elapsed() < END {
            traffic.run(seconds((traffic.host.elapsed().as_secs() / 10 + 1) * 10));
            let (now, out_now) = (traffic.host.elapsed(), count(&traffic.host, "hosts_ejected"));
            if now > SETTLED {
                out.0.push(out_now as f64);
            }
            if now.as_secs().is_multiple_of(600) {
                let bad = fleet.see(|all| all.values().filter(|one| one.is_bad(now, Duration::ZERO)).count());
                let users = traffic.users.since(before);
                before = traffic.users;
                rows.push(format!("{}  {users}; {bad} hosts bad, {out_now} out", Clock(now)));
            }
        }
        traffic.stop();
        Hours { fleet, traffic, out, rows }
    }

    /// The outages in the order in which they began.
    fn stories(&self, moves: &Moves) -> Vec<Story> {
        let (no_moves, no_probes) = (Vec::new(), Vec::new());
        self.fleet.see(|machines| {
            let mut stories = Vec::new();
            for (address, machine) in machines {
                let moves = moves.get(address).unwrap_or(&no_moves);
                let probes = self.traffic.probes.get(address).unwrap_or(&no_probes);
                for outage in machine.outages.iter().filter(|outage| outage.from < LAST) {
                    stories.push(Story::of(address, machine, *outage, moves, probes));
                }
            }
            stories.sort_by_key(|story| story.outage.from);
            stories
        })
    }

    /// The attempts in ten minutes of each host that was good and in all the time, as a share of the mean of all such hosts.
    fn shares(&self, moves: &Moves) -> Sample {
        let (window, mut from, mut shares) = (seconds(600), SETTLED, Sample::default());
        self.fleet.see(|machines| {
            while from + window <= END {
                let is_clear = |begin: Duration, end: Duration| end <= from || begin >= from + window;
                let is_steady = |address: &String, machine: &Machine| {
                    let out = moves.get(address).map(|moves| times_out(moves)).unwrap_or_default();
                    out.iter().all(|(begin, end)| is_clear(*begin, *end))
                        && machine.outages.iter().all(|outage| is_clear(outage.from, outage.to))
                };
                let steady = machines.iter().filter(|(address, machine)| is_steady(address, machine));
                let tries: Sample = steady.map(|(_, one)| within(&one.tries, from, from + window) as f64).collect();
                shares.0.extend(tries.0.iter().map(|count| count / tries.mean()));
                from += window;
            }
        });
        shares
    }

    /// The share of attempts that failed, in percent.
    fn failed(&self) -> f64 {
        let (tries, failed) = self.fleet.tries(SETTLED, END);
        100.0 * failed as f64 / tries as f64
    }

    /// The share of time in which hosts were bad and answered with failures, in percent.
    fn drawn(&self) -> f64 {
        let bad = self.fleet.see(|machines| {
            let outages = machines.values().flat_map(|one| &one.outages).filter(|outage| outage.way.fails());
            outages.map(|one| one.to.min(END).saturating_sub(one.from.max(SETTLED)).as_secs_f64()).sum::<f64>()
        });
        100.0 * bad / (HOSTS as f64 * (END - SETTLED).as_secs_f64())
    }

    /// Ejections of hosts that were good: those of what the last interval had still seen, and others.
    fn ejections_of_good_hosts(&self, moves: &Moves) -> (Vec<String>, Vec<String>) {
        let (mut late, mut wrong) = (Vec::new(), Vec::new());
        self.fleet.see(|machines| {
            for (address, moves) in moves {
                for (at, _, why) in moves.iter().filter(|(_, what, _)| *what == Move::Out) {
                    let line = format!("{}  {address}: {why}", Clock(*at));
                    match &machines[address] {
                        machine if machine.is_bad(*at, Duration::ZERO) => {}
                        machine if machine.is_bad(*at, LATE) => late.push(line),
                        _ => wrong.push(line),
                    }
                }
            }
        });
        (late, wrong)
    }
}

/// An outage, and what the host got in it and after it.
struct Story {
    address: String,
    outage: Outage,
    /// It was out already when it failed.
    was_out: bool,
    /// When it went out, and why.
    found: Option<(Duration, String)>,
    /// Attempts before it was out or repaired.
    detection: usize,
    /// Probes while it was bad.
    probes: usize,
    /// Retries while it was out and bad: under way to it already, or sent wherever the cluster's turn was.
    astray: usize,
    /// Attempts while it was back and bad.
    relapse: usize,
    /// From the repair to the first attempt after it.
    lag: Option<Duration>,
}

impl Story {
    fn of(
        address: &str,
        machine: &Machine,
        outage: Outage,
        moves: &[(Duration, Move, String)],
        probes: &[Duration],
    ) -> Self {
        let (Outage { from, to, .. }, out) = (outage, times_out(moves));
        let found = moves.iter().find(|(at, what, _)| *what == Move::Out && *at > from && *at <= to);
        let found = found.map(|(at, _, why)| (*at, why.clone()));
        // The attempt by which it is found may come and fail at the same moment.
        let just_after = Duration::from_nanos(1);
        let detection = within(&machine.tries, from, found.as_ref().map_or(to, |(at, _)| *at + just_after));
        let while_out = |(since, back): &(Duration, Duration)| {
            within(&machine.tries, (*since + just_after).max(from), (*back).min(to))
        };
        let while_out = out.iter().map(while_out).sum::<usize>();
        let (all, probes) = (within(&machine.tries, from, to), within(probes, from, to));
        let next = machine.tries.get(machine.tries.partition_point(|at| *at < to));
        Story {
            address: address.to_owned(),
            outage,
            was_out: out.iter().any(|(since, back)| *since <= from && from < *back),
            found,
            detection,
            probes,
            astray: while_out.saturating_sub(probes),
            relapse: all.saturating_sub(detection + while_out),
            lag: next.map(|at| *at - to),
        }
    }

    /// How long it took to find it, in seconds.
    fn found_after(&self) -> Option<f64> {
        self.found.as_ref().map(|(at, _)| (*at - self.outage.from).as_secs_f64())
    }

    fn lag(&self) -> Option<f64> {
        self.lag.map(|lag| lag.as_secs_f64())
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outage { way, from, to } = self.outage;
        write!(f, "{}  {} {} for {:.1}s: ", Clock(from), self.address, way.name(), (to - from).as_secs_f64())?;
        match (&self.found, self.found_after()) {
            (Some((_, why)), Some(after)) => {
                write!(f, "out after {after:.1}s and {} tries, {why}; ", self.detection)?;
                write!(f, "{} probes failed", self.probes)?;
            }
            _ if self.was_out => write!(f, "out already; {} probes failed", self.probes)?,
            _ => write!(f, "not found in {} tries", self.detection)?,
        }
        if self.astray > 0 {
            write!(f, ", {} more tries", self.astray)?;
        }
        if self.relapse > 0 {
            write!(f, ", {} tries while it was back", self.relapse)?;
        }
        match self.lag() {
            Some(lag) => write!(f, "; serves {lag:.1}s after its repair"),
            None => write!(f, "; serves no more"),
        }
    }
}

fn tell_kinds(trace: &mut Trace, stories: &[Story]) {
    for way in Way::ALL {
        let all = || stories.iter().filter(|story| story.outage.way == way && !story.was_out);
        let found = || all().filter(|story| story.found.is_some());
        let sample = |of: &dyn Fn(&Story) -> Option<f64>| found().filter_map(of).collect::<Sample>();
        trace.line(format_args!("{}: {} outages, {} found", way.name(), all().count(), found().count()));
        trace.line(format_args!("  tries until it is out   {}", sample(&|one| Some(one.detection as f64))));
        trace.line(format_args!("  seconds until then      {}", sample(&Story::found_after)));
        trace.line(format_args!("  probes that failed      {}", sample(&|one| Some(one.probes as f64))));
        trace.line(format_args!("  more tries while out    {}", sample(&|one| Some(one.astray as f64))));
        trace.line(format_args!("  tries while back        {}", sample(&|one| Some(one.relapse as f64))));
        trace.line(format_args!("  seconds from its repair {}", sample(&Story::lag)));
    }
}

/// Compares what one outage is in the mean: within four standard errors, which chance alone passes once in 16,000 times, and
/// 3 % for what the model leaves out.
fn compare_outages(trace: &mut Trace, what: &str, model: f64, measured: impl Iterator<Item = f64>) {
    let sample: Sample = measured.collect();
    let (mean, error, of) = (sample.mean(), sample.error(), sample.0.len());
    trace.line(format_args!("{what}: {model:.3} by the model, {mean:.3} +- {error:.3} in {of} outages"));
    let room = 4.0 * error + 0.03 * model;
    assert!(
        (mean - model).abs() <= room,
        "{what}: {mean:.3} in {of} outages, and {model:.3} +- {room:.3} by the model"
    );
}

/// Compares what all outages are together: their number is Poisson's and each is of its own length, exponential, so that the
/// variance of their sum is twice their number; within four of its standard deviations.
fn compare_shares(trace: &mut Trace, what: &str, model: f64, measured: f64, outages: f64) {
    trace.line(format_args!("{what}: {model:.3} by the model, {measured:.3}"));
    let room = 4.0 * (2.0 / outages).sqrt();
    assert!(
        (measured / model - 1.0).abs() <= room,
        "{what}: {measured:.3}, and {model:.3} by the model, +- {room:.2} of it"
    );
}

fn compare(trace: &mut Trace, stories: &[Story], hours: &Hours, without: &Hours) {
    let model = Model::new();
    let failing = || stories.iter().filter(|story| story.outage.way.fails() && !story.was_out);
    let found = || failing().filter(|story| story.found.is_some());
    let expected: Sample = failing().map(|one| model.detection(one.outage.way)).collect();
    let is_found = |one: &Story| f64::from(u8::from(one.found.is_some()));
    trace.line("\n## The model, and these outages");
    compare_outages(trace, "share that is found", model.found(), failing().map(is_found));
    let detection = failing().map(|one| one.detection as f64);
    compare_outages(trace, "tries until it is out or repaired", expected.mean(), detection);
    compare_outages(trace, "probes that fail", model.probes(), found().map(|one| one.probes as f64));
    compare_outages(trace, "seconds from the repair on", model.lag(), found().filter_map(Story::lag));

    let outages = HOSTS as f64 * outages_per_second() * (END - SETTLED).as_secs_f64();
    compare_shares(trace, "hosts out", model.share_out() * HOSTS as f64, hours.out.mean(), outages);
    let (failing, by_chance) = (0.75 * outages, 100.0 / ERROR_OF as f64);
    compare_shares(trace, "% of tries that fail", 100.0 * model.failed(), hours.failed(), failing);
    let unavailable = 75.0 * (1.0 - availability()) + by_chance;
    compare_shares(trace, "% of tries that fail without ejection", unavailable, without.failed(), failing);
    let drawn = without.drawn() + by_chance;
    trace.line(format_args!("% of tries that fail without ejection, by these outages: {drawn:.3}"));
    assert!((without.failed() / drawn - 1.0).abs() < 0.05, "tries come to bad hosts as to others");
    assert!(hours.failed() * 4.0 < without.failed(), "most of the tries that failed are spared");
}

#[test]
fn two_hours_of_hosts_that_fail_and_are_repaired_are_as_the_model_says() {
    // Fewer requests are enough to see what users see without ejection.
    let without = Hours::simulate(RETRY, PER_SECOND / 3);
    let hours = Hours::simulate(&format!("{RETRY},{OUTLIER}"), PER_SECOND);
    let host = &hours.traffic.host;
    let moves = moves(host);
    let stories = hours.stories(&moves);

    let title = "Two hours of 200 hosts, each bad for 4 of 44 minutes in the mean; 16 workers, 25 requests/s";
    let mut trace = Trace::new(title);
    hours.rows.iter().for_each(|row| trace.line(row));
    trace.line("\n## Outages of hosts that were in");
    tell_kinds(&mut trace, &stories);
    compare(&mut trace, &stories, &hours, &without);

    trace.line("\n## In all");
    let (spared, users) = (without.traffic.users, hours.traffic.users);
    trace.line(format_args!("without ejection: {spared}"));
    trace.line(format_args!("with ejection: {users}"));
    assert!(spared.failed > 0 && users.failed * 20_000 <= users.requests, "users see nothing of it");
    let names = ["consecutive_failures", "failure_rate", "latency"];
    let ejections = names.map(|name| count(host, &format!("ejections.{name}")));
    for (name, ejections) in names.iter().zip(ejections) {
        trace.line(format_args!("ejections by {name}: {ejections}"));
    }
    let ejections: u64 = ejections.iter().sum();
    let told = |kind| moves.values().flatten().filter(|(_, what, _)| *what == kind).count() as u64;
    let (failed, succeeded) = (count(host, "probe_failed"), count(host, "readmitted"));
    trace.line(format_args!("probes that failed: {failed}, that succeeded: {succeeded}"));
    let counted = [ejections, failed, succeeded];
    assert_eq!(counted, [told(Move::Out), told(Move::OutAgain), told(Move::Back)], "the log tells what metrics count");
    assert_eq!(count(host, "ejections_overflow"), 0, "far fewer than half of the hosts are bad");
    let (late, wrong) = hours.ejections_of_good_hosts(&moves);
    trace.line(format_args!("ejections of good hosts: {}, and {} shortly after a repair", wrong.len(), late.len()));
    late.iter().chain(&wrong).for_each(|line| trace.line(format_args!("  {line}")));
    assert!(wrong.is_empty(), "no host that was good goes out");
    assert!(20 * late.len() as u64 <= ejections, "few go out for what they did before their repair");
    let shares = hours.shares(&moves);
    trace.line("tries in ten minutes of each host that is good and in, as a share of the mean of those hosts:");
    trace.line(format_args!("  {shares}; standard deviation {:.3}", shares.deviation()));
    assert!(shares.quantile(1.0) < 1.5 && shares.deviation() < 0.15, "nobody has to bear much more than the others");

    trace.line("\n## The outages that began in the first twenty minutes");
    let first = stories.iter().take_while(|story| story.outage.from < seconds(1200));
    first.for_each(|story| trace.line(story));
    trace.check("outlier_simulation");
}
