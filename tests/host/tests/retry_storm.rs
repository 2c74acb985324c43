//! Minutes of outage, seen from sixteen workers whose requests are all retried: what the budget allows, and no more.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use holdfast_engine::base::random::Random;
use holdfast_host_tests::trace::Trace;
use holdfast_host_tests::{Host, Request, Reset, Routed};

use crate::support::{count, millis, policy, seats_meet, seconds};

const WORKERS: usize = 16;

/// How finely the stories look at what happens; everything but the module's own waits happens at its multiples.
const STEP: Duration = Duration::from_millis(20);

/// The budget: a fifth of the requests, and one a second.
const WINDOW: Duration = Duration::from_secs(10);
const RATIO: f64 = 0.2;
const PER_SECOND: f64 = 1.0;
const RETRY: &str = r#""retry":{"max_retries":3,"timeout":"5s","per_try_timeout":"1s",
    "budget":{"ratio":20,"min_per_second":1,"window":"10s"}}"#;

/// What the hosts do, from a second on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weather {
    from: u64,
    name: &'static str,
    /// Of 100 attempts so many fail.
    failing: u64,
}

/// When the total outage, the partial one, and the last quiet time begin, in seconds.
const TOTAL: u64 = 20;
const PARTIAL: u64 = 80;
const QUIET: u64 = 110;

const WEATHERS: [Weather; 5] = [
    Weather { from: 0, name: "well", failing: 2 },
    Weather { from: TOTAL, name: "total outage", failing: 100 },
    Weather { from: 65, name: "well for a moment", failing: 2 },
    Weather { from: PARTIAL, name: "partial outage", failing: 60 },
    Weather { from: QUIET, name: "well again", failing: 2 },
];
const END: Duration = Duration::from_secs(130);

fn weather(at: Duration) -> Weather {
    *WEATHERS.iter().rev().find(|weather| at >= seconds(weather.from)).unwrap()
}

/// A request under way, and when the hosts answer its attempts, by number.
struct UnderWay {
    request: Routed,
    answers: BTreeMap<usize, Duration>,
}

/// What happened, by time since the run began.
#[derive(Default)]
struct Record {
    /// Requests that ended, with whatever.
    ended: Vec<Duration>,
    /// First attempts that were sent: each has deposited its part of a token.
    first: Vec<Duration>,
    /// Retries that were sent.
    further: Vec<Duration>,
    /// Requests whose next attempt was not sent after all, for the breaker's sake.
    stopped: usize,
}

fn within(times: &[Duration], from: Duration, to: Duration) -> usize {
    times.iter().filter(|at| (from..to).contains(*at)).count()
}

/// What a budget of these deposits allows within so much time.
fn allowed(deposits: usize, time: Duration) -> f64 {
    deposits as f64 * RATIO + PER_SECOND * time.as_secs_f64()
}

impl Record {
    fn end(&mut self, host: &Host, request: &Routed) {
        if !request.tries().is_empty() {
            self.ended.push(host.elapsed());
        }
        self.stopped += usize::from(request.answer().details == "holdfast_not_retried{breaker}");
    }

    /// In no window of the budget's length are there more retries than its deposits and the reserve allow; a tenth
    /// of the deposits on top, because those leave by tenths of the window.
    #[track_caller]
    fn assert_within_budget(&self) {
        for last in &self.further {
            let (from, to) = (last.saturating_sub(WINDOW), *last + Duration::from_nanos(1));
            let deposits = within(&self.first, from, to);
            let (made, most) = (within(&self.further, from, to) as f64, allowed(deposits, WINDOW));
            let most = most + 0.1 * RATIO * deposits as f64;
            assert!(made <= most, "{made} retries in the ten seconds before {last:?}, and {most} are allowed");
        }
    }

    fn assert_used(&self, from: Duration, to: Duration) {
        let (made, most) = (within(&self.further, from, to), allowed(within(&self.first, from, to), to - from));
        assert!(made as f64 >= 0.6 * most, "{made} of the {most} retries that are allowed are made");
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} retries", self.ended.len(), self.further.len())
    }
}

struct Storm {
    host: Host,
    random: Random,
    under_way: Vec<UnderWay>,
    record: Record,
    trace: Trace,
}

impl Storm {
    fn new(title: &str, features: &str, seed: u64) -> Self {
        let host = Host::with(&policy(features)).workers(WORKERS).attempt_seat().start();
        seats_meet(&host);
        let trace = Trace::new(title);
        Storm { host, random: Random::new(seed), under_way: Vec::new(), record: Record::default(), trace }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.next() % limit
    }

    /// About 21 requests a second, each on any worker.
    fn arrive(&mut self) {
        while self.below(100) < 30 {
            let worker = self.below(WORKERS as u64) as usize;
            let request = self.host.send(worker, Request::get("/"));
            self.under_way.push(UnderWay { request, answers: BTreeMap::new() });
        }
    }

    /// The hosts have new attempts, and answer those whose time has come.
    fn serve(&mut self) {
        let (now, mut under_way) = (self.host.elapsed(), std::mem::take(&mut self.under_way));
        for UnderWay { request, answers } in &mut under_way {
            for attempt in request.attempts().into_iter().filter(|one| !one.is_held()) {
                let latency = millis(10 + self.below(60));
                let due = *answers.entry(attempt.number()).or_insert_with(|| {
                    let Record { first, further, .. } = &mut self.record;
                    if attempt.number() == 1 { first } else { further }.extend(attempt.tried().sent);
                    now + latency
                });
                if due > now {
                    continue;
                }
                match self.below(100) {
                    share if share >= weather(now).failing => attempt.responds(200),
                    share if share % 10 == 0 => attempt.fails(Reset::ConnectFailure),
                    share if share % 10 < 3 => attempt.resets(),
                    _ => attempt.responds(503),
                }
            }
            if request.is_over() {
                self.record.end(&self.host, request);
            }
        }
        under_way.retain(|one| !one.request.is_over());
        self.under_way = under_way;
    }

    fn run(mut self) -> Storm {
        let (mut last, mut before) = (weather(Duration::ZERO), [0; 5]);
        while self.host.elapsed() < END || !self.under_way.is_empty() {
            let now = self.host.elapsed();
            if weather(now) != last {
                last = weather(now);
                self.trace.note(&self.host, format_args!("{}: {} of 100 tries fail", last.name, last.failing));
            }
            if now < END {
                self.arrive();
            }
            self.serve();
            // Steps are at multiples, whatever a VM's start has added.
            let next = STEP * (u32::try_from(now.as_millis()).unwrap() / STEP.as_millis() as u32 + 1);
            self.host.advance(next - now);
            if next.as_millis().is_multiple_of(10_000) {
                let names =
                    ["requests", "retries", "retries_recovered", "retries_denied.budget", "retries_denied.breaker"];
                let counts = names.map(|name| count(&self.host, name));
                let [requests, retries, recovered, budget, breaker] = std::array::from_fn(|at| counts[at] - before[at]);
                before = counts;
                self.trace.note(
                    &self.host,
                    format_args!(
                        "ten seconds: {requests} requests, {retries} retries, {recovered} recovered; \
                         denied: {budget} budget, {breaker} breaker"
                    ),
                );
            }
        }
        self.host.advance(seconds(1));
        self.host.assert_no_trap();
        self.host.assert_nothing_is_left();
        self.record.assert_within_budget();
        assert_eq!(count(&self.host, "retries"), self.record.further.len() as u64, "the metric counts what was sent");
        self.trace.line(format_args!("in all {}", self.record));
        self
    }
}

#[test]
fn minutes_of_outage_are_retried_within_the_budget_and_with_most_of_it() {
    let storm = Storm::new("A retry storm: 16 workers, up to three retries, a budget of 20 % and 1/s", RETRY, 4).run();
    // Not from the first moment on: what the quiet time before has deposited is spent at once.
    storm.record.assert_used(seconds(TOTAL) + WINDOW, seconds(65));
    storm.record.assert_used(seconds(PARTIAL), seconds(QUIET));
    let wished = count(&storm.host, "retries_denied.budget");
    assert!(wished > 1000, "far more retries were asked for: {wished} requests ended for want of a token");
    assert!(storm.record.ended.len() > 2000);
    storm.trace.check("retry_storm");
}

/// Times in which the breaker was in one of these states, from the log.
fn times_in(host: &Host, states: &[&str]) -> Vec<(Duration, Duration)> {
    let (mut spans, mut since) = (Vec::new(), None);
    for line in host.log() {
        let Some((_, to)) = line.text.split_once(" -> ") else { continue };
        let is_in = states.iter().any(|state| to.starts_with(state));
        match since {
            None if is_in => since = Some(line.at),
            Some(from) if !is_in => {
                spans.push((from, line.at));
                since = None;
            }
            _ => {}
        }
    }
    assert_eq!(since, None, "it is closed in the end");
    spans
}

#[track_caller]
fn assert_none_within(times: &[Duration], spans: &[(Duration, Duration)]) {
    for (from, to) in spans {
        let made: Vec<_> = times.iter().filter(|at| *at > from && *at < to).collect();
        assert!(made.is_empty(), "tries at {made:?} between {from:?} and {to:?}");
    }
}

#[test]
fn while_the_breaker_is_open_no_attempt_is_made_not_even_one_that_waits_already() {
    let breaker = r#""breaker":{"window":"10s","min_requests":20,"failure_rate":60,"open_for":"2s","open_max":"4s",
        "open_jitter":0,"half_open":{"probes":3,"lease":"5s"}}"#;
    let waiting = RETRY.replace(r#""max_retries":3"#, r#""max_retries":3,"backoff":{"base":"500ms","max":"500ms"}"#);
    let title = "The same storm with longer waits, against a breaker that opens at 60 %";
    let mut stopped = 0;
    for seed in 4..8 {
        let storm = Storm::new(title, &format!("{breaker},{waiting}"), seed).run();
        let open = times_in(&storm.host, &["open"]);
        assert!(open.len() > 5, "it opens again and again: {open:?}");
        assert_none_within(&storm.record.first, &open);
        assert_none_within(&storm.record.further, &times_in(&storm.host, &["open", "half-open"]));
        let denied = count(&storm.host, "retries_denied.breaker") as usize;
        assert!(denied > storm.record.stopped, "and a probe is not tried again");
        stopped += storm.record.stopped;
        if seed == 4 {
            storm.trace.check("retry_storm_breaker");
        }
    }
    assert!(stopped > 0, "some waited when it opened");
}
