//! Sequences of calls as other breakers decide them, by what their documentation says, and what this one decides: the same, or
//! otherwise on purpose. Each runs on one worker, and on two by turns.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::breaker::StateName;
use holdfast_engine::cx::Cx;
use holdfast_engine::event::Event;
use holdfast_engine::http::outcome::{Outcome, Verdict};
use holdfast_engine::metric::Metric;
use holdfast_engine::request::{Decision, RequestPolicy, Ticket};
use holdfast_engine::retry::budget::Withdrawn;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::config;

use StateName::{Closed, HalfOpen, Open, Ramping};

/// How the reference decides.
enum Reference {
    /// In the same way.
    Same,
    /// Otherwise: how, and why ours is so.
    Otherwise(&'static str),
}
use Reference::{Otherwise, Same};

/// What happens at a time in milliseconds and right after it, and where the breaker is then. Words: `S` a success, `F` a failure, `s`
/// and `f` slow ones, `I` one that is ignored, `x` a request that is rejected, `+a` a request that begins, `aS` how it ends.
type Step = (u64, &'static str, StateName);

struct Sequence {
    of: &'static str,
    rule: &'static str,
    breaker: &'static str,
    steps: &'static [Step],
    reference: Reference,
}

const SEQUENCES: &[Sequence] = &[
    Sequence {
        of: "Resilience4j",
        rule: "below minimumNumberOfCalls nothing opens, and the call that completes it does",
        breaker: r#""window":4,"min_requests":4"#,
        steps: &[(0, "F F F", Closed), (0, "F", Open), (1, "x", Open)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "a success that completes minimumNumberOfCalls is judged too",
        breaker: r#""window":4,"min_requests":4"#,
        steps: &[(0, "F F S", Closed), (0, "S", Open)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "the threshold is reached by equality",
        breaker: r#""window":10,"min_requests":10"#,
        steps: &[(0, "S S S S S F F F F", Closed), (0, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "a window by number slides: the oldest call leaves for the newest",
        breaker: r#""window":4,"min_requests":4,"failure_rate":75"#,
        steps: &[(0, "F S S F F", Closed), (1, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "calls leave a window by time",
        breaker: r#""window":"10s","min_requests":4"#,
        steps: &[(0, "F F F", Closed), (11_000, "F S", Closed), (12_000, "F F", Open)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "a success to a window that was complete before is judged",
        breaker: r#""window":"2s","min_requests":2"#,
        steps: &[(0, "S S S", Closed), (1400, "F F", Closed), (2050, "S", Closed), (2060, "F", Open)],
        reference: Otherwise("it opens at the success: a verdict that no failure made, for the age of others"),
    },
    Sequence {
        of: "Resilience4j",
        rule: "a slow call that failed counts as slow and as failed",
        breaker: r#""window":4,"min_requests":4,"failure_rate":60,"slow_rate":50"#,
        steps: &[(0, "S S f", Closed), (0, "f", Open)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "slow successes open it",
        breaker: r#""window":4,"min_requests":4,"slow_rate":50"#,
        steps: &[(0, "S S s", Closed), (0, "s", Open)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "ignored calls are neither",
        breaker: r#""window":4,"min_requests":4"#,
        steps: &[(0, "F I F I I S", Closed), (0, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "after waitDurationInOpenState the next call makes it half-open, none before",
        breaker: r#""min_requests":2,"half_open":{"probes":2}"#,
        steps: &[(0, "F F", Open), (29_999, "x", Open), (30_000, "S", HalfOpen), (30_000, "S", Closed)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "half-open permits so many calls and rejects the next",
        breaker: r#""min_requests":2,"half_open":{"probes":3}"#,
        steps: &[
            (0, "F F", Open),
            (30_000, "+a +b +c x", HalfOpen),
            (30_100, "aS bS", HalfOpen),
            (30_100, "cS", Closed),
        ],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "an ignored call gives its permit back",
        breaker: r#""min_requests":2,"half_open":{"probes":1}"#,
        steps: &[(0, "F F", Open), (30_000, "+a x aI", HalfOpen), (30_100, "S", Closed)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "half-open closes below the threshold",
        breaker: r#""min_requests":2,"half_open":{"probes":3}"#,
        steps: &[(0, "F F", Open), (30_000, "F S", HalfOpen), (30_000, "S", Closed)],
        reference: Same,
    },
    Sequence {
        of: "Resilience4j",
        rule: "half-open opens again when all its calls are judged",
        breaker: r#""min_requests":2,"half_open":{"probes":4}"#,
        steps: &[(0, "F F", Open), (30_000, "F", HalfOpen), (30_000, "F", Open)],
        reference: Otherwise("it waits for the other two: they would go to a service that is known to fail"),
    },
    Sequence {
        of: "Resilience4j",
        rule: "half-open judges after the smaller of minimumNumberOfCalls and the permitted calls",
        breaker: r#""min_requests":2,"half_open":{"probes":5}"#,
        steps: &[(0, "F F", Open), (30_000, "S S S S", HalfOpen), (30_000, "S", Closed)],
        reference: Otherwise(
            "it closes at the second: min_requests is what a rate of all traffic needs, probes what closing needs",
        ),
    },
    Sequence {
        of: "Resilience4j",
        rule: "a late answer counts in the state that it meets",
        breaker: r#""min_requests":2,"half_open":{"probes":2}"#,
        steps: &[(0, "+a F F", Open), (30_000, "S aF", HalfOpen), (30_000, "S", Closed)],
        reference: Otherwise(
            "it opens again by a call of before the outage's end, which says nothing about the service now",
        ),
    },
    Sequence {
        of: "Resilience4j",
        rule: "a closed breaker begins with an empty window",
        breaker: r#""min_requests":4,"half_open":{"probes":1}"#,
        steps: &[(0, "F F F F", Open), (30_000, "S", Closed), (30_000, "F F F", Closed), (30_000, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "Polly",
        rule: "below MinimumThroughput nothing opens",
        breaker: r#""min_requests":10,"failure_rate":10"#,
        steps: &[(0, "F F F F F F F F F", Closed), (0, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "Polly",
        rule: "only failures are judged",
        breaker: r#""min_requests":4"#,
        steps: &[(0, "F F S", Closed), (0, "S", Open)],
        reference: Otherwise("it waits for a failure: at low traffic that is one more for a client to see"),
    },
    Sequence {
        of: "Polly",
        rule: "a success to a bad window opens nothing",
        breaker: r#""window":"2s","min_requests":2"#,
        steps: &[(0, "S S S", Closed), (1400, "F F", Closed), (2050, "S", Closed)],
        reference: Same,
    },
    Sequence {
        of: "Polly",
        rule: "half-open is one call, and a failure breaks for as long again",
        breaker: r#""min_requests":2,"open_growth":1,"half_open":{"probes":1}"#,
        steps: &[(0, "F F", Open), (30_000, "+a x aF", Open), (59_999, "x", Open), (60_000, "S", Closed)],
        reference: Same,
    },
    Sequence {
        of: "Hystrix",
        rule: "below requestVolumeThreshold nothing opens, at 50 % of it the circuit does",
        breaker: r#""min_requests":20"#,
        steps: &[(0, "S S S S S S S S S S F F F F F F F F F", Closed), (600, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "Hystrix",
        rule: "the rate is looked at every healthSnapshotIntervalInMilliseconds (500)",
        breaker: r#""min_requests":20"#,
        steps: &[(0, "F F F F F F F F F F F F F F F F F F F", Closed), (1, "F", Open), (2, "x", Open)],
        reference: Otherwise("requests of the half second pass: counting is cheap enough here to decide at once"),
    },
    Sequence {
        of: "Hystrix",
        rule: "after the sleep window one test request, whose success closes and resets the counts",
        breaker: r#""min_requests":4,"open_for":"5s","half_open":{"probes":1}"#,
        steps: &[(0, "F F F F", Open), (5_000, "+a x", HalfOpen), (5_100, "aS", Closed), (5_100, "F F F", Closed)],
        reference: Same,
    },
    Sequence {
        of: "Hystrix",
        rule: "its failure begins another sleep window of the same length",
        breaker: r#""min_requests":4,"open_for":"5s","open_growth":1,"half_open":{"probes":1}"#,
        steps: &[(0, "F F F F", Open), (5_000, "F", Open), (9_999, "x", Open), (10_000, "S", Closed)],
        reference: Same,
    },
    Sequence {
        of: "Hystrix",
        rule: "each sleep window is as long as the first",
        breaker: r#""min_requests":4,"open_for":"5s","half_open":{"probes":1}"#,
        steps: &[(0, "F F F F", Open), (5_000, "F", Open), (14_999, "x", Open), (15_000, "S", Closed)],
        reference: Otherwise(
            "it tests after 5 s again: open_growth 2 leaves a service that stays down alone for longer",
        ),
    },
    Sequence {
        of: "Sentinel",
        rule: "a ratio above the threshold opens it from minRequestAmount on",
        breaker: r#""window":"1s","min_requests":5"#,
        steps: &[(0, "S S F F", Closed), (0, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "Sentinel",
        rule: "a ratio equal to the threshold is below it",
        breaker: r#""window":"1s","min_requests":4"#,
        steps: &[(0, "S S F", Closed), (0, "F", Open)],
        reference: Otherwise(
            "it stays closed: here >= as in Resilience4j, so that 100 is a threshold that can be reached",
        ),
    },
    Sequence {
        of: "Sentinel",
        rule: "statistics of one interval do not know those of the interval before",
        breaker: r#""window":"1s","min_requests":4"#,
        steps: &[(900, "F F", Closed), (1100, "F F", Open)],
        reference: Otherwise("it stays closed: a window that slides sees a burst wherever it falls"),
    },
    Sequence {
        of: "Sentinel",
        rule: "half-open is one request: its failure opens again, its success closes and resets",
        breaker: r#""window":"1s","min_requests":5,"open_for":"10s","open_growth":1,"half_open":{"probes":1}"#,
        steps: &[(0, "F F F F F", Open), (10_000, "+a x aF", Open), (20_000, "S", Closed), (20_000, "F F F F", Closed)],
        reference: Same,
    },
    Sequence {
        of: "gobreaker",
        rule: "the sixth failure in a row trips",
        breaker: r#""failure_rate":0,"consecutive_failures":6"#,
        steps: &[(0, "F F F F F S", Closed), (1, "F F F F F", Closed), (2, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "gobreaker",
        rule: "half-open takes MaxRequests at a time, and closes at as many successes in a row",
        breaker: r#""failure_rate":0,"consecutive_failures":2,"half_open":{"probes":3}"#,
        steps: &[(0, "F F", Open), (30_000, "+a +b +c x aS bS", HalfOpen), (30_000, "cS", Closed)],
        reference: Same,
    },
    Sequence {
        of: "gobreaker",
        rule: "any failure in half-open trips",
        breaker: r#""failure_rate":0,"consecutive_failures":6,"half_open":{"probes":2}"#,
        steps: &[(0, "F F F F F F", Open), (30_000, "F", HalfOpen), (30_000, "S", Closed)],
        reference: Otherwise(
            "it opens at the failure: half-open asks here what opens it otherwise, and one failure is no run of six",
        ),
    },
    Sequence {
        of: "gobreaker",
        rule: "a run that is longer than half-open is reached by all its requests",
        breaker: r#""failure_rate":0,"consecutive_failures":6,"half_open":{"probes":2}"#,
        steps: &[(0, "F F F F F F", Open), (30_000, "F", HalfOpen), (30_000, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "gobreaker",
        rule: "an answer of an earlier generation is dropped",
        breaker: r#""failure_rate":0,"consecutive_failures":2,"half_open":{"probes":2}"#,
        steps: &[(0, "+a +b F F", Open), (30_000, "S aF bF", HalfOpen), (30_000, "S", Closed)],
        reference: Same,
    },
    Sequence {
        of: "failsafe-go",
        rule: "WithFailureThreshold(3): three in a row open it",
        breaker: r#""failure_rate":0,"consecutive_failures":3"#,
        steps: &[(0, "F F S F F", Closed), (0, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "failsafe-go",
        rule: "WithFailureRateThreshold(50, 4, 10s): by rate and number, over a time",
        breaker: r#""window":"10s","min_requests":4"#,
        steps: &[(0, "F S S", Closed), (100, "F", Open)],
        reference: Same,
    },
    Sequence {
        of: "failsafe-go",
        rule: "WithDelay(1s), WithSuccessThreshold(2): two successes close it, a failure opens it again",
        breaker: r#""failure_rate":50,"consecutive_failures":1,"open_for":"1s","open_growth":1,"half_open":{"probes":2}"#,
        steps: &[
            (0, "F", Open),
            (1_000, "S", HalfOpen),
            (1_000, "F", Open),
            (2_000, "S", HalfOpen),
            (2_000, "S", Closed),
        ],
        reference: Same,
    },
    Sequence {
        of: "oxy",
        rule: "tripped, it serves the fallback for FallbackDuration",
        breaker: r#""min_requests":4,"open_for":"10s","ramp":"10s","half_open":{"probes":1}"#,
        steps: &[(0, "F F F F", Open), (9_999, "x", Open)],
        reference: Same,
    },
    Sequence {
        of: "oxy",
        rule: "then it recovers: a share of the traffic that grows from nothing over RecoveryDuration",
        breaker: r#""min_requests":4,"open_for":"10s","ramp":"10s","half_open":{"probes":1}"#,
        steps: &[(0, "F F F F", Open), (10_000, "+a x aS", Ramping), (10_000, "x", Ramping), (20_000, "S", Closed)],
        reference: Otherwise(
            "it recovers without a probe: here one finds out first whether there is anything to recover",
        ),
    },
    Sequence {
        of: "oxy",
        rule: "while it recovers the condition trips it again",
        breaker: r#""min_requests":2,"open_for":"10s","ramp":"10s","half_open":{"probes":1}"#,
        steps: &[(0, "F F", Open), (10_000, "S", Ramping), (19_999, "F F", Open)],
        reference: Same,
    },
];

/// A budget as another keeps it: requests, how many of them fail, and how many retries follow. All come at once, without the reserve.
struct Deposits {
    of: &'static str,
    rule: &'static str,
    sent: u32,
    failing: u32,
    allowed: u32,
    reference: Reference,
}

/// 20 % of what is sent.
const DEPOSITS: [Deposits; 4] = [
    Deposits {
        of: "Finagle",
        rule: "each request deposits percentCanRetry when it is sent, and each retry withdraws one",
        sent: 100,
        failing: 100,
        allowed: 20,
        reference: Same,
    },
    Deposits {
        of: "Finagle",
        rule: "what is left of a token is no retry",
        sent: 9,
        failing: 9,
        allowed: 1,
        reference: Same,
    },
    Deposits {
        of: "tower, linkerd",
        rule: "requests that succeed deposit",
        sent: 100,
        failing: 90,
        allowed: 20,
        reference: Otherwise("10 that succeed pay for 2: in a total outage nothing but the reserve is left"),
    },
    Deposits {
        of: "gRPC",
        rule: "a failure costs one of maxTokens (10), a success gives tokenRatio (0.1), and above half of them all is retried",
        sent: 100,
        failing: 10,
        allowed: 10,
        reference: Otherwise(
            "from full, 4 failures in a row are retried: a bucket of outcomes is a breaker of retries, not a share",
        ),
    },
];

#[test]
fn each_budget_of_a_reference_allows_as_it_says_here() {
    let text = br#"{"policies": [{"name": "p", "retry": {"budget": {"ratio": 20, "min_per_second": 0}}}]}"#;
    let budget = config::parse(text).unwrap().policies.remove(0).retry.unwrap().budget;
    for Deposits { of, rule, sent, failing, allowed, reference } in DEPOSITS {
        let (mut withdrawn, now) = (Withdrawn::default(), Timestamp::from_secs(1_700_000_000));
        let retries = (0..failing).filter(|_| withdrawn.withdraw(&budget, sent, now)).count() as u32;
        let why = if let Otherwise(why) = reference { why } else { "as there" };
        assert_eq!(retries, allowed, "{of}, {rule} ({why})");
        let later = now.plus(budget.window + budget.window / 10);
        assert!(withdrawn.withdraw(&budget, 5, later), "{of}: what was withdrawn is forgotten with the window");
    }
}

struct Thread {
    worker: Worker,
    policy: RequestPolicy,
}

/// A run of one sequence.
struct Run {
    store: MemoryStore,
    threads: Vec<Thread>,
    turn: usize,
    state: StateName,
    under_way: HashMap<char, (usize, Ticket)>,
}

impl Run {
    fn new(breaker: &str, workers: u64) -> Self {
        let slow = if breaker.contains("slow_rate") { r#","outcome":{"slow_after":"1s"}"# } else { "" };
        let text =
            format!(r#"{{"policies":[{{"name":"p","scope":[],"breaker":{{"open_jitter":0,{breaker}}}{slow}}}]}}"#);
        let policy = config::parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{breaker}: {errors}"));
        let policy = Arc::new(policy.policies.into_iter().next().unwrap());
        let mut store = MemoryStore::default();
        let thread = |seed| {
            let policy = RequestPolicy::entered(Arc::clone(&policy), &mut store, Timestamp::from_secs(1_700_000_000));
            Thread { worker: Worker::new(seed), policy }
        };
        let threads = (0..workers).map(thread).collect();
        Run { store, threads, turn: 0, state: Closed, under_way: HashMap::new() }
    }

    /// Takes over what a worker says of the state.
    fn note(&mut self, events: &[Event]) {
        for event in events {
            if let Event::Gauge(Metric::BreakerState, state) = event {
                let all = [Closed, HalfOpen, Open, Ramping];
                self.state = all.into_iter().find(|name| *name as u64 == *state).unwrap();
            }
        }
    }

    fn begin(&mut self, now: Timestamp) -> Option<(usize, Ticket)> {
        self.turn += 1;
        let number = self.turn % self.threads.len();
        let (Thread { worker, policy }, mut events) = (&mut self.threads[number], Vec::new());
        let key = policy.key(worker, &mut self.store, now, |_| Some(Cow::Borrowed(b"")));
        let decision = policy.admit(&mut Cx::new(&mut self.store, worker, now, &mut events), key);
        self.note(&events);
        match decision {
            Decision::Admitted(ticket) => Some((number, ticket)),
            Decision::Rejected(_) => None,
        }
    }

    fn end(&mut self, (number, ticket): (usize, Ticket), how: char, now: Timestamp) {
        let verdict = match how {
            'S' | 's' => Verdict::Success,
            'F' | 'f' => Verdict::Failure,
            _ => Verdict::Ignored,
        };
        let outcome = Outcome { verdict, slow: how.is_ascii_lowercase(), retry_after: None };
        let (Thread { worker, policy }, mut events) = (&mut self.threads[number], Vec::new());
        assert_eq!(policy.report(&mut Cx::new(&mut self.store, worker, now, &mut events), ticket, &outcome), None);
        self.note(&events);
    }

    /// Lets what a word says happen; whether it could.
    fn happens(&mut self, word: &str, now: Timestamp) -> bool {
        let mut letters = word.chars();
        match (letters.next().unwrap(), letters.next()) {
            ('x', None) => self.begin(now).is_none(),
            ('+', Some(name)) => {
                let begun = self.begin(now).map(|begun| self.under_way.insert(name, begun));
                begun.is_some()
            }
            (name, Some(how)) => {
                let begun = self.under_way.remove(&name).unwrap_or_else(|| panic!("{word}: it has not begun"));
                self.end(begun, how, now);
                true
            }
            (how, None) => self.begin(now).map(|begun| self.end(begun, how, now)).is_some(),
        }
    }
}

/// What is wrong with a sequence on so many workers, if anything.
fn fault(sequence: &Sequence, workers: u64) -> Option<String> {
    let mut run = Run::new(sequence.breaker, workers);
    // The start of a bucket of every window here.
    let start = Timestamp::from_secs(1_700_000_000);
    // The clock tells who comes first.
    let mut order = Duration::ZERO;
    for (at, words, state) in sequence.steps {
        for word in words.split(' ') {
            let now = start.plus(Duration::from_millis(*at)).plus(order);
            order += Duration::from_nanos(100);
            if !run.happens(word, now) {
                return Some(format!("{word} of {words:?} at {at} ms cannot be: it is {}", run.state));
            }
        }
        if run.state != *state {
            return Some(format!("after {words:?} at {at} ms it is {}, not {state}", run.state));
        }
    }
    None
}

#[test]
fn each_sequence_of_a_reference_is_decided_as_it_says_here_on_one_worker_and_on_two() {
    let mut faults = Vec::new();
    for (sequence, workers) in SEQUENCES.iter().flat_map(|sequence| [1, 2].map(|workers| (sequence, workers))) {
        let Sequence { of, rule, reference, .. } = sequence;
        let reference = match reference {
            Same => "as there".to_owned(),
            Otherwise(why) => format!("otherwise there: {why}"),
        };
        faults.extend(
            fault(sequence, workers).map(|fault| format!("{of}, {rule} ({workers} workers, {reference}): {fault}")),
        );
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
