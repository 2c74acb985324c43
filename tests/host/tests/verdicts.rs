//! A verdict does not depend on which worker an outcome falls to.

use holdfast_engine::base::random::Random;
use holdfast_engine::breaker::StateName;
use holdfast_host_tests::{Host, Response};

use crate::support::{millis, policy};

/// How often each sequence is run with so many workers, each time on others of them.
const ARRANGEMENTS: u64 = 24;

/// From which time on an answer is slow, where the policy says so.
const SLOW: u64 = 100;

/// Outcomes in their order: when each begins, in milliseconds, and what it is: `S` a success, `F` a failure, `L` a slow success.
type Steps = [(u64, &'static str)];

struct Sequence {
    what: &'static str,
    breaker: &'static str,
    steps: &'static Steps,
    ends: StateName,
}

const SEQUENCES: [Sequence; 10] = [
    Sequence {
        what: "good ones leave, a bad rate stays, and a success comes to it: nothing that it did opens the breaker",
        breaker: r#""window":"2s","min_requests":2"#,
        steps: &[(0, "SSS"), (1400, "FF"), (2050, "S")],
        ends: StateName::Closed,
    },
    Sequence {
        what: "the same, and a failure comes to it",
        breaker: r#""window":"2s","min_requests":2"#,
        steps: &[(0, "SSS"), (1400, "FF"), (2050, "SF")],
        ends: StateName::Open,
    },
    Sequence {
        what: "a success completes min_requests",
        breaker: r#""window":"2s","min_requests":3,"failure_rate":60"#,
        steps: &[(0, "FFS")],
        ends: StateName::Open,
    },
    Sequence {
        what: "a success completes min_requests anew when others have left",
        breaker: r#""window":"2s","min_requests":3"#,
        steps: &[(0, "SSS"), (1400, "FF"), (2050, "S")],
        ends: StateName::Open,
    },
    Sequence {
        what: "as many as min_requests stay, and successes that come to them open nothing",
        breaker: r#""window":"2s","min_requests":5"#,
        steps: &[(0, "SSS"), (1400, "FF"), (1450, "SFS"), (2050, "SS")],
        ends: StateName::Closed,
    },
    Sequence {
        what: "at volume, where no worker has seen min_requests alone",
        breaker: r#""window":"2s","min_requests":20"#,
        steps: &[(0, "SSSSSSSSSSSSSSS"), (1400, "FFFFFFFFFFFF"), (1450, "SSSSSSSS"), (2050, "SSSSSS")],
        ends: StateName::Closed,
    },
    Sequence {
        what: "the last of a window of twenty",
        breaker: r#""window":20,"min_requests":20"#,
        steps: &[(0, "FFFFFFFFFF"), (10, "SSSSSSSSS"), (1000, "S")],
        ends: StateName::Open,
    },
    Sequence {
        what: "a full window by number is judged by failures alone",
        breaker: r#""window":4,"min_requests":4,"failure_rate":60"#,
        steps: &[(0, "SFFS"), (1000, "SSFF"), (2000, "S")],
        ends: StateName::Closed,
    },
    Sequence {
        what: "a slow success opens it by the rate of slow ones",
        breaker: r#""window":"2s","min_requests":2,"slow_rate":50"#,
        steps: &[(0, "SS"), (200, "L"), (400, "L")],
        ends: StateName::Open,
    },
    Sequence {
        what: "a slow success does not open it by the rate of failures",
        breaker: r#""window":"2s","min_requests":2,"slow_rate":90"#,
        steps: &[(0, "SSS"), (1400, "FF"), (2050, "L")],
        ends: StateName::Closed,
    },
];

fn step(host: &Host, worker: usize, outcome: char) {
    let request = host.get(worker);
    // A wrong verdict shows at the end.
    if !request.has_passed() {
        return;
    }
    let request = request.passed();
    if outcome == 'L' {
        host.advance(millis(SLOW + 20));
    }
    request.respond(Response::status(if outcome == 'F' { 503 } else { 200 }));
}

/// Runs a sequence on workers that `random` chooses.
fn run(sequence: &Sequence, workers: usize, mut random: Random) -> StateName {
    let slow = if sequence.breaker.contains("slow_rate") { r#","outcome":{"slow_after":"100ms"}"# } else { "" };
    let features = format!(r#""breaker":{{{},"open_jitter":0}}{slow}"#, sequence.breaker);
    let host = Host::with(&policy(&features)).workers(workers).start();
    // Buckets of the window begin at multiples of its tenth.
    let second = 1_000_000_000;
    host.advance(std::time::Duration::from_nanos(2 * second - host.wall_nanos() % (2 * second)));
    let start = host.elapsed();
    for (at, outcomes) in sequence.steps {
        host.advance((start + millis(*at)).saturating_sub(host.elapsed()));
        for outcome in outcomes.chars() {
            step(&host, (random.next() % workers as u64) as usize, outcome);
        }
    }
    host.assert_no_trap();
    host.state()
}

#[test]
fn a_sequence_of_outcomes_has_one_verdict_on_one_two_and_four_workers() {
    let mut wrong = Vec::new();
    for (sequence, workers) in SEQUENCES.iter().flat_map(|sequence| [1, 2, 4].map(|workers| (sequence, workers))) {
        let ends = (0..ARRANGEMENTS).filter(|seed| run(sequence, workers, Random::new(*seed)) == sequence.ends).count();
        if ends as u64 != ARRANGEMENTS {
            let Sequence { what, ends: right, .. } = sequence;
            wrong.push(format!("{what}: {right} {ends} times of {ARRANGEMENTS} on {workers} workers"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
