//! Several workers and the last token of the budget: whatever comes between two host calls, one of them gets it.

use std::cell::Cell;
use std::rc::Rc;

use holdfast_host_tests::{Call, Host, Request, Routed, Seat, Thread};

use crate::support::{count, millis, retrying, seats_meet, seconds};

const WAIT: &str = r#""backoff":{"base":"200ms","max":"200ms","jitter":"none"}"#;

/// So many retries in ten seconds, whatever the traffic.
fn tokens(count: usize) -> String {
    let per_second = count as f64 / 10.0;
    format!(r#"{WAIT},"budget":{{"ratio":0,"min_per_second":{per_second},"window":"10s"}}"#)
}

fn met(workers: usize, count: usize) -> Host {
    let host = Host::with(&retrying(&tokens(count))).workers(workers).attempt_seat().start();
    seats_meet(&host);
    host
}

/// What a request does at the moment that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// Its first attempt is answered with 503.
    Fails,
    /// Its first attempt ends without an answer.
    Resets,
    /// Its second attempt, which has the token, waits, and its client leaves.
    Leaves,
}

/// A request on a worker, about to act.
fn about_to(act: Act, host: &Host, worker: usize) -> Routed {
    let request = host.send(worker, Request::get("/"));
    if act == Act::Leaves {
        request.attempt().responds(503);
        assert!(!request.is_over(), "it has a token");
    }
    request
}

fn acts(act: Act, request: &Routed) {
    match act {
        Act::Fails => request.attempt().responds(503),
        Act::Resets => request.attempt().resets(),
        Act::Leaves => drop(request.client_leaves()),
    }
}

/// At the call with number `nth` (from 0) of those that `counts` among a worker's attempt seat's, others take a step.
/// Whether it came to that is told in the end.
fn at_call(
    host: &Host,
    worker: usize,
    nth: usize,
    counts: fn(&Call<'_>) -> bool,
    step: impl FnOnce(&Host) + 'static,
) -> Rc<Cell<bool>> {
    let (came, mut left, mut step) = (Rc::new(Cell::new(false)), nth, Some(step));
    let comes = Rc::clone(&came);
    host.on_call(move |host, call| {
        if call.thread == Thread::Worker(worker) && call.seat == Seat::Attempt && counts(call) {
            if left > 0 {
                left -= 1;
            } else if let Some(step) = step.take() {
                comes.set(true);
                step(host);
            }
        }
        None
    });
    came
}

/// Requests whose second attempt waits: as many tokens are in their hands.
fn waiting(requests: &[Routed]) -> usize {
    requests.iter().filter(|request| !request.is_over()).count()
}

/// How many tokens there are when nobody has one in hand; all are there afterwards.
fn left(host: &Host) -> usize {
    let requests: Vec<Routed> = (0..10).map(|number| about_to(Act::Fails, host, number % host.workers())).collect();
    requests.iter().for_each(|request| acts(Act::Fails, request));
    let left = waiting(&requests);
    leave(&requests);
    left
}

fn leave(requests: &[Routed]) {
    requests.iter().filter(|request| !request.is_over()).for_each(|request| drop(request.client_leaves()));
}

#[test]
fn the_last_token_is_one_token_whatever_comes_between_two_calls_of_a_worker() {
    use Act::{Fails, Leaves, Resets};
    let acts_of_two = [
        (Fails, Fails),
        (Fails, Resets),
        (Resets, Fails),
        (Resets, Resets),
        (Leaves, Fails),
        (Leaves, Resets),
        (Fails, Leaves),
        (Resets, Leaves),
    ];
    for (one, other) in acts_of_two {
        let host = met(2, 1);
        for nth in 0.. {
            // The counts of all workers are read again.
            host.advance(millis(20));
            let requests = if other == Leaves {
                let second = about_to(other, &host, 1);
                vec![about_to(one, &host, 0), second]
            } else {
                vec![about_to(one, &host, 0), about_to(other, &host, 1)]
            };
            let second = requests[1].clone();
            let came = at_call(&host, 0, nth, |_| true, move |_| acts(other, &second));
            acts(one, &requests[0]);
            host.nothing_fails();
            if !came.get() {
                leave(&requests);
                assert!(nth >= 4, "{one:?}, {other:?}: there are more calls than {nth}");
                break;
            }
            let waiting = waiting(&requests);
            assert!(waiting <= 1, "{one:?}, {other:?} at call {nth}: both have the one token");
            if one != Leaves && other != Leaves {
                assert_eq!(waiting, 1, "{one:?}, {other:?} at call {nth}: one of them has it");
            }
            leave(&requests);
            assert_eq!(left(&host), 1, "{one:?}, {other:?} at call {nth}: and it comes back once");
        }
        host.advance(seconds(1));
        host.assert_no_trap();
        host.assert_nothing_is_left();
        assert_eq!((count(&host, "retries"), count(&host, "shared_data.contention")), (0, 0), "nothing was sent");
    }
}

fn is_shared(call: &Call<'_>) -> bool {
    call.name.ends_with("shared_data")
}

/// Each worker overtakes the one before it at any of the calls by which they see each other.
fn overtake(host: &Host, requests: &[Routed], points: &[usize]) {
    if let Some((first, rest)) = requests.split_first() {
        if let Some((point, points)) = points.split_first() {
            let (rest, points, worker) = (rest.to_vec(), points.to_vec(), rest.len());
            at_call(host, host.workers() - 1 - worker, *point, is_shared, move |host| overtake(host, &rest, &points));
        }
        acts(Act::Fails, first);
    }
}

#[test]
fn four_workers_that_overtake_each_other_anywhere_get_as_many_tokens_as_there_are() {
    // The table of workers, their four slots, the withdrawals, the swap.
    const POINTS: usize = 7;
    for there in [1, 2] {
        let host = met(4, there);
        for combination in 0..POINTS.pow(3) {
            let points = [combination % POINTS, combination / POINTS % POINTS, combination / POINTS / POINTS];
            host.advance(millis(20));
            let requests: Vec<Routed> = (0..4).map(|worker| about_to(Act::Fails, &host, worker)).collect();
            overtake(&host, &requests, &points);
            host.nothing_fails();
            // Whoever was not overtaken at its point has let the others wait.
            let late = requests.iter().filter(|request| !request.is_over() && !request.attempt().is_held());
            late.collect::<Vec<_>>().into_iter().for_each(|request| acts(Act::Fails, request));
            assert_eq!(waiting(&requests), there, "at the points {points:?}");
            leave(&requests);
        }
        assert_eq!(left(&host), there);
        host.advance(seconds(1));
        host.assert_no_trap();
        host.assert_nothing_is_left();
    }
}

#[test]
fn a_worker_that_loses_every_swap_makes_no_retry_and_takes_nothing() {
    let host = met(2, 1);
    host.contend("/retry/", u64::MAX);
    for act in [Act::Fails, Act::Resets] {
        let request = about_to(act, &host, 0);
        acts(act, &request);
        assert_eq!((request.is_over(), request.answer().status), (true, 503), "{act:?}");
    }
    host.nothing_fails();
    assert_eq!(count(&host, "retries_denied.contention"), 2, "the budget is not spent");
    assert_eq!(count(&host, "retries_denied.budget"), 0);
    assert_eq!(count(&host, "shared_data.contention"), 2, "the attempt seat's giving up is counted as well");
    assert_eq!(left(&host), 1);
    host.contend("/retry/", 63);
    let request = about_to(Act::Fails, &host, 0);
    acts(Act::Fails, &request);
    assert!(!request.is_over(), "the last of 64 swaps is as good as the first");
    request.client_leaves();
    host.assert_no_trap();
}
