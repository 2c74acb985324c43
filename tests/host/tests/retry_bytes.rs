//! Any bytes in what the seats leave for each other: in shared data, which outlives code and configuration, and in the
//! filter state of a request.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_engine::base::random::Random;
use holdfast_host_tests::{Answer, Fault, Host, Request, Response, Route, Routed, Seat, status};

use crate::foreign_bytes::damaged;
use crate::support::{BREAKER, millis, policy, retrying, seats_meet, seconds};

const EXCHANGE: &str = "holdfast_exchange";

/// The longest that a request of these stories may last.
const TIMEOUT: Duration = Duration::from_secs(2);
const WAIT: &str = r#""backoff":{"base":"40ms","max":"40ms","jitter":"none"},"timeout":"2s""#;
const MUCH: &str = r#""budget":{"ratio":100,"min_per_second":1000,"window":"10s"}"#;

/// The hosts answer with these statuses, by the number of the attempt, and 200 after that.
#[track_caller]
fn until_over(host: &Host, request: &Routed, statuses: &[u16]) -> Answer {
    let (began, mut answered) = (host.elapsed(), BTreeSet::new());
    loop {
        for attempt in request.attempts() {
            if !attempt.is_held() && !attempt.is_over() && answered.insert(attempt.number()) {
                let status = statuses.get(attempt.number() - 1).copied().unwrap_or(200);
                attempt.responds(Response::status(status).without_body());
            }
        }
        if request.is_over() {
            return request.answer();
        }
        assert!(host.elapsed() - began <= TIMEOUT, "a request lasts longer than its time-out");
        host.advance(millis(20));
    }
}

// Shared data.

/// Both seats of every worker read and write every kind of record.
fn use_everything(host: &Host) {
    for worker in 0..host.workers() {
        for statuses in [&[200][..], &[503, 503, 503], &[503, 200]] {
            until_over(host, &host.send(worker, Request::get("/").cluster("a")), statuses);
        }
        let leaving = host.send(worker, Request::get("/"));
        if let Some(attempt) = leaving.attempts().pop() {
            attempt.resets();
        }
        if !leaving.is_over() {
            leaving.client_leaves();
        }
    }
    host.advance(seconds(1));
}

#[test]
fn no_bytes_in_any_record_of_retries_stop_a_worker_or_hold_traffic_up() {
    let mut random = Random::new(11);
    for how in 0..14 {
        let host = Host::with(&policy(&format!(r#"{BREAKER},"retry":{{{WAIT}}}"#))).workers(2).attempt_seat().start();
        seats_meet(&host);
        use_everything(&host);
        let keys = host.shared_keys();
        for kind in ["/retry/", "/seat", "/groups", "/text/", "/slot/"] {
            assert!(keys.iter().any(|key| key.contains(kind)), "{kind} is in use: {keys:?}");
        }
        for key in &keys {
            host.put_shared(key, damaged(&host.shared(key).unwrap().0, how, &mut random));
            use_everything(&host);
            // New VMs read what is there.
            host.crash(1);
            host.crash(Seat::Attempt.on(1));
            host.advance(seconds(1));
            use_everything(&host);
            host.assert_nothing_is_left();
        }
        // Whatever the bytes were read as, a failed attempt of a healthy service is followed by another.
        let start = host.elapsed();
        let is_well = |worker| {
            (0..10).for_each(|_| drop(until_over(&host, &host.send(worker, Request::get("/")), &[200])));
            let request = host.send(worker, Request::get("/"));
            until_over(&host, &request, &[503]).status == 200 && request.tries().len() == 2
        };
        while !(is_well(0) && is_well(1)) {
            host.advance(seconds(5));
            assert!(host.elapsed() - start < seconds(400), "kind {how}: {:#?}", host.breakers());
        }
        host.assert_no_trap();
    }
}

#[test]
fn a_policy_that_was_overwritten_is_published_again_by_the_next_vm() {
    let host = Host::with(&retrying(WAIT)).workers(2).attempt_seat().start();
    // It is published when it is first looked after.
    host.advance(seconds(1));
    let key = host.shared_keys().into_iter().find(|key| key.contains("/text/")).unwrap();
    let whole = host.shared(&key).unwrap().0;
    let cut = whole[..whole.len() - 1].to_vec();
    let head_alone = whole[..14].to_vec();
    for bytes in
        [Vec::new(), b"{}".to_vec(), b"\x02\x07 and then nothing that anybody can read".to_vec(), cut, head_alone]
    {
        host.put_shared(&key, bytes);
        host.reload(Seat::Attempt.on(0));
        let blind = host.send(0, Request::get("/"));
        blind.attempt().responds(503);
        assert_eq!(blind.tries()[0].calls.of("set_property"), 0, "an attempt seat without the policy does nothing");
        until_over(&host, &blind, &[503]);
        host.reload(0);
        host.advance(seconds(1));
        assert_eq!(host.shared(&key).unwrap().0, whole, "it is there again");
        let seen = host.send(0, Request::get("/"));
        assert!(!until_over(&host, &seen, &[503]).access_log.unwrap().is_empty());
        assert_eq!(seen.tries()[0].calls.of("set_property"), 1, "and is found");
    }
    host.assert_no_trap();
    host.assert_nothing_is_left();
}

#[test]
fn an_attempt_seat_is_not_believed_in_for_ever() {
    let host = Host::with(&retrying(WAIT)).attempt_seat().start();
    seats_meet(&host);
    let key = host.shared_keys().into_iter().find(|key| key.ends_with("/seat")).unwrap();
    // It says now that it is there until the year 2500.
    let mut bytes = host.shared(&key).unwrap().0;
    let len = bytes.len();
    bytes[len - 8..].copy_from_slice(&(16_725_225_600_000_000_000_u64).to_le_bytes());
    host.put_shared(&key, &bytes);
    host.advance(seconds(1));
    let request = host.send(0, Request::get("/"));
    request.attempt().responds(503);
    let told = request.tries()[0].calls.of("replace_header_map_value");
    assert_eq!((request.is_over(), told), (false, 2), "its answer is judged as ever");
    until_over(&host, &request, &[503]);
    host.assert_no_trap();
}

// The filter state.

/// Bytes as they stand in the filter state after two of three attempts, the second without a connection.
fn sample(host: &Host) -> Vec<u8> {
    let request = host.send(0, Request::get("/"));
    request.attempt().responds(503);
    host.advance(millis(25 + 40));
    request.attempt().connect_fails();
    let bytes = request.filter_state(EXCHANGE).unwrap();
    until_over(host, &request, &[503, 503]);
    assert!(bytes.len() > 140, "two tries are in it");
    bytes
}

/// The router waits a little by itself, so that there is a moment between two attempts.
fn between_tries() -> Host {
    let route = Route::new().back_off(millis(25)).timeout(TIMEOUT);
    let host = Host::with(&retrying(&format!("{WAIT},{MUCH}"))).attempt_seat().route(route).start();
    seats_meet(&host);
    host
}

/// Every cut, every byte with one bit changed, and other versions.
fn damages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut random = Random::new(bytes.len() as u64);
    let cuts = (0..bytes.len()).map(|len| bytes[..len].to_vec());
    let flips = (0..bytes.len()).map(|at| {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (random.next() % 8);
        flipped
    });
    let versions = [0, 1, 3, 255].map(|version| [&[version], &bytes[1..]].concat());
    let others = [vec![0xff; bytes.len()], [bytes, b"\0"].concat(), vec![b'x'; 70_000]];
    cuts.chain(flips).chain(versions).chain(others).collect()
}

#[track_caller]
fn assert_sensible(request: &Routed, answer: &Answer, what: &str) {
    assert!(answer.status == 200 || answer.status >= 400, "{what}: {answer:?}");
    assert!(request.tries().len() <= 3, "{what}: {} tries", request.tries().len());
}

#[test]
fn foreign_bytes_between_two_attempts_stop_no_worker_and_no_request() {
    let host = between_tries();
    let whole = sample(&host);
    // Every bit, for this is what the next attempt goes by.
    let flips = (0..whole.len() * 8).map(|bit| {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    });
    for (number, bytes) in damages(&whole).into_iter().chain(flips).enumerate() {
        let request = host.send(0, Request::get("/"));
        request.attempt().responds(503);
        assert!(request.waits());
        request.put_filter_state(EXCHANGE, bytes);
        let answer = until_over(&host, &request, &[503, 200]);
        assert_sensible(&request, &answer, &format!("damage {number}"));
    }
    host.advance(seconds(1));
    host.assert_no_trap();
    host.assert_nothing_is_left();
}

#[test]
fn what_cannot_be_read_is_an_attempt_that_is_envoys_alone() {
    let host = between_tries();
    let whole = sample(&host);
    let older = [&[1], &whole[1..]].concat();
    for bytes in [older, whole[..whole.len() - 1].to_vec(), Vec::new()] {
        let request = host.send(0, Request::get("/"));
        request.attempt().responds(503);
        request.put_filter_state(EXCHANGE, bytes);
        host.advance(millis(25));
        assert!(!request.attempt().is_held(), "nobody knows how long it is to wait");
        request.attempt().responds(200);
        assert_eq!((request.answer().status, request.attempts().len()), (200, 0));
        let calls = &request.tries()[1].calls;
        let looks = (calls.of("get_property"), calls.of("get_header_map_value"));
        assert_eq!((calls.total(), looks), (2, (1, 1)), "and nobody judges it");
    }
    host.assert_no_trap();
}

#[test]
fn foreign_bytes_before_the_first_attempt_stop_no_worker_and_no_request() {
    let host = between_tries();
    let whole = sample(&host);
    // Another filter holds the name: what the request seat writes does not get there.
    host.on_call(|_, call| {
        let strikes = call.seat == Seat::Request && call.name == "set_property" && call.subject == EXCHANGE;
        strikes.then_some(Fault::Status(status::BAD_ARGUMENT))
    });
    for (number, bytes) in damages(&whole).into_iter().enumerate() {
        let request = host.send(0, Request::get("/").filter_state(EXCHANGE, bytes));
        let answer = until_over(&host, &request, &[503, 503, 200]);
        assert_sensible(&request, &answer, &format!("damage {number}"));
    }
    host.advance(seconds(1));
    host.assert_no_trap();
    host.assert_nothing_is_left();
}

#[test]
fn foreign_bytes_at_the_end_stop_no_worker_and_the_answer_goes_on() {
    let host = between_tries();
    let whole = sample(&host);
    host.on_call(|_, call| {
        let strikes = call.seat == Seat::Attempt && call.name == "set_property";
        strikes.then_some(Fault::Status(status::BAD_ARGUMENT))
    });
    for (number, bytes) in damages(&whole).into_iter().enumerate() {
        let request = host.send(0, Request::get("/"));
        request.put_filter_state(EXCHANGE, bytes);
        // The attempt seat knows of an earlier attempt, so that its mark makes the request seat read.
        let answer = until_over(&host, &request, &[503, 503, 503]);
        assert!([503, 504].contains(&answer.status), "damage {number}: the last answer: {answer:?}");
        assert_sensible(&request, &answer, &format!("damage {number}"));
        let line = answer.access_log.unwrap();
        assert!(line.starts_with("policy=orders; key=all; decision=admitted") && line.is_ascii(), "{line}");
    }
    host.advance(seconds(1));
    host.assert_no_trap();
    host.assert_nothing_is_left();
}
