//! What can happen to an attempt that waits: its client leaves, its clock is set, its policy changes, its time runs out.

use std::time::Duration;

use holdfast_engine::base::time::SKEW;
use holdfast_host_tests::{By, Host, Request, Response, Route, Routed, Seat, flags};

use crate::clock::JUMPS;
use crate::support::{count, millis, retrying, seats_meet, seconds};

/// Every retry waits so long.
const WAIT: Duration = Duration::from_millis(200);
const BACKOFF: &str = r#""backoff":{"base":"200ms","max":"200ms","jitter":"none"}"#;

/// One retry in ten seconds, whatever the traffic.
const ONE_TOKEN: &str = r#""budget":{"ratio":0,"min_per_second":0.1,"window":"10s"}"#;

fn met(retry: &str, route: Route) -> Host {
    // A wait that a host asks for binds retries that come to it.
    let host = Host::with(&retrying(retry)).attempt_seat().route(route).hosts(&["127.0.0.1:4001"]).start();
    seats_meet(&host);
    host
}

fn get(host: &Host) -> Routed {
    host.send(0, Request::get("/"))
}

/// Sends a request whose first attempt fails.
#[track_caller]
fn failing(host: &Host) -> Routed {
    let request = get(host);
    request.attempt().responds(503);
    request
}

/// Whether a request whose first attempt fails now has another one.
fn has_token(host: &Host) -> bool {
    !failing(host).is_over()
}

/// Checks that all requests are over, nothing of them is left in any VM, and no tick runs for them any more.
#[track_caller]
fn assert_gone(host: &Host, what: &str) {
    host.assert_no_trap();
    host.assert_nothing_is_left();
    // The last tick that was asked for.
    host.advance(seconds(1));
    let calls = host.calls(Seat::Attempt.on(0));
    host.advance(seconds(60));
    assert_eq!(host.calls(Seat::Attempt.on(0)), calls, "{what}: the attempt seat rests");
    host.assert_nothing_is_left();
}

// The client leaves.

/// What a request goes through until a certain moment.
type Until = fn(&Host) -> Routed;

#[test]
fn a_client_may_leave_at_any_moment_of_a_retried_request() {
    let moments: [(&str, usize, Until); 10] = [
        ("before the first answer", 0, get),
        ("when the first answer has begun", 0, |host| {
            let request = get(host);
            request.attempt().begins(200);
            request
        }),
        ("when the wait begins", 0, failing),
        ("in the middle of the wait", 0, |host| {
            let request = failing(host);
            host.advance(WAIT / 2);
            request
        }),
        ("just before the second try is sent", 0, |host| {
            let request = failing(host);
            host.advance(WAIT - Duration::from_nanos(1));
            request
        }),
        ("just after the second try is sent", 1, |host| {
            let request = failing(host);
            host.advance(WAIT);
            request
        }),
        ("when the second answer has begun", 1, |host| {
            let request = failing(host);
            host.advance(WAIT);
            request.attempt().begins(200);
            request
        }),
        ("in the wait after a reset", 0, |host| {
            let request = get(host);
            request.attempt().resets();
            host.advance(WAIT / 2);
            request
        }),
        ("in the wait after a connection that could not be had", 0, |host| {
            let request = get(host);
            request.attempt().connect_fails();
            host.advance(WAIT / 2);
            request
        }),
        ("in the wait after the only token was spent and came back", 0, |host| {
            failing(host).client_leaves();
            failing(host)
        }),
    ];
    for (what, further, until) in moments {
        let host = met(&format!("{BACKOFF},{ONE_TOKEN}"), Route::new());
        let request = until(&host);
        let answer = request.client_leaves();
        assert_eq!(answer.flags, flags::DOWNSTREAM_CONNECTION_TERMINATION, "{what}");
        let sent = request.tries().iter().skip(1).filter(|one| one.sent.is_some()).count();
        assert_eq!(sent, further, "{what}");
        assert_eq!(count(&host, "retries"), further as u64, "{what}: what was not sent is no retry");
        assert_eq!(has_token(&host), further == 0, "{what}: the token of a try that was not sent is back");
        host.advance(seconds(15));
        assert_gone(&host, what);
    }
}

#[test]
fn a_client_that_leaves_before_the_router_makes_the_next_attempt_gives_its_token_back() {
    let host = met(&format!("{BACKOFF},{ONE_TOKEN}"), Route::new().back_off(millis(25)));
    let request = failing(&host);
    assert!(request.waits(), "the router waits by itself first");
    request.client_leaves();
    assert_eq!(count(&host, "retries"), 0);
    let next = failing(&host);
    host.advance(millis(25));
    assert!(next.attempt().is_held(), "there is a token for the next request");
    next.client_leaves();
    assert_gone(&host, "in the router's own wait");
}

#[test]
fn a_token_that_comes_back_comes_back_once() {
    let host = met(&format!("{BACKOFF},{ONE_TOKEN}"), Route::new());
    for _ in 0..5 {
        failing(&host).client_leaves();
    }
    let one = failing(&host);
    assert!(!one.is_over() && !has_token(&host), "there is one token, however often it came back");
    one.client_leaves();
    assert_gone(&host, "five clients that left");
}

/// A slow first attempt is hedged after 100 ms.
const HEDGED: &str = r#""per_try_timeout":"100ms","hedge_on_per_try_timeout":true,
    "backoff":{"base":"1ms","max":"1ms","jitter":"none"}"#;

/// When a hedge begins: the router's time for an attempt has room for the longest wait.
const HEDGES_AFTER: Duration = Duration::from_millis(101);

/// A request whose first attempt is slow, as its hedge begins.
fn slow(host: &Host) -> Routed {
    let request = get(host);
    host.advance(HEDGES_AFTER);
    assert_eq!(request.attempts().len(), 2, "its hedge is there");
    request
}

/// A hedge that has no token is kept and not sent: a reply in its place would end the slow try too.
fn slow_without_a_token(host: &Host) -> Routed {
    let spent = slow(host);
    spent.attempt().responds(200);
    let request = slow(host);
    assert_eq!(request.attempts().iter().map(|one| one.is_held()).collect::<Vec<_>>(), [false, true]);
    request
}

#[test]
fn a_client_may_leave_while_its_attempts_run_beside_each_other() {
    let moments: [(&str, Until); 4] = [
        ("while both run", slow),
        ("when one of them has failed", |host| {
            let request = slow(host);
            request.attempt().responds(503);
            request
        }),
        ("when one of them has no answer", |host| {
            let request = slow(host);
            request.attempts()[0].resets();
            request
        }),
        ("while one is held back", slow_without_a_token),
    ];
    for (what, until) in moments {
        let host = met(&format!("{HEDGED},{ONE_TOKEN}"), Route::new());
        let request = until(&host);
        request.client_leaves();
        assert_eq!(count(&host, "retries"), 1, "{what}: one hedge was sent");
        assert_gone(&host, what);
    }
}

#[test]
fn hedges_that_are_held_back_do_not_wait_for_each_other() {
    for hedges in [1, 2, 3] {
        let retry = format!(r#"{HEDGED},{ONE_TOKEN},"max_retries":{hedges}"#);
        let host = met(&retry, Route::new().timeout(Duration::ZERO));
        let request = slow_without_a_token(&host);
        host.advance(millis(100) * hedges);
        assert_eq!(request.attempts().len() as u32, 1 + hedges, "each try that is slow, or kept, is hedged once");
        request.attempts()[0].resets();
        host.advance(seconds(1));
        let answer = request.answer();
        assert_eq!((answer.by, answer.status), (By::Holdfast, 503), "{hedges}: none of them is ever sent");
        assert_eq!(answer.details, "holdfast_not_retried{budget}");
        assert_gone(&host, "hedges that are held back");
    }
}

// Its time runs out.

#[test]
fn an_attempt_that_waits_when_the_request_is_out_of_time_was_not_made() {
    let host = met(&format!("{BACKOFF},{ONE_TOKEN}"), Route::new().timeout(WAIT / 2));
    let request = failing(&host);
    assert!(request.attempt().is_held());
    host.advance(WAIT / 2);
    let answer = request.answer();
    assert_eq!((answer.status, answer.details.as_str()), (504, "response_timeout"), "the route ends it");
    assert_eq!(
        answer.access_log.as_deref(),
        Some("policy=orders; key=all; decision=admitted; attempts=127.0.0.1:4001 failure:503 0ms"),
        "one try was made"
    );
    assert_eq!(count(&host, "retries"), 0);
    assert!(has_token(&host), "the token of the other is back");
    host.advance(seconds(1));
    assert_gone(&host, "out of time");
}

#[test]
fn a_wait_that_the_time_does_not_hold_is_not_begun() {
    let host = met(&format!(r#"{BACKOFF},{ONE_TOKEN},"timeout":"150ms""#), Route::new());
    let answer = failing(&host).answer();
    assert_eq!((answer.by, answer.status), (By::Upstream, 503), "the host's answer, at once");
    assert!(answer.access_log.unwrap().ends_with("; denied=deadline"));
    assert_eq!(count(&host, "retries_denied.deadline"), 1);
    assert_gone(&host, "a short time-out");
}

// The clock is set.

/// A way to wait, how long that is, and its name.
type Waiting = (&'static str, Until, Duration);

fn waits() -> [Waiting; 3] {
    [
        ("a back-off", failing, WAIT),
        (
            "a Retry-After",
            |host| {
                let request = get(host);
                request.attempt().responds(Response::status(503).header("retry-after", "3"));
                request
            },
            seconds(3),
        ),
        (
            "a back-off after a reset",
            |host| {
                let request = get(host);
                request.attempt().resets();
                request
            },
            WAIT,
        ),
    ]
}

#[test]
fn no_jump_of_the_clock_makes_an_attempt_wait_for_ever() {
    for (what, jump) in JUMPS {
        for (waits, wait, long) in waits() {
            let host = met(BACKOFF, Route::new().timeout(Duration::ZERO));
            let request = wait(&host);
            assert!(request.attempt().is_held(), "{waits}");
            host.advance(long / 2);
            jump(&host);
            let most = host.elapsed() + long / 2 + SKEW + seconds(1);
            while request.attempt().is_held() && host.elapsed() < most {
                host.advance(millis(50));
            }
            assert!(!request.attempt().is_held(), "{what}: {waits} lasts longer than ten seconds more than it should");
            request.attempt().responds(200);
            assert_eq!(request.answer().status, 200, "{what}");
            assert_gone(&host, what);
        }
    }
}

#[test]
fn no_jump_of_the_clock_forgets_a_hedge_that_is_held_back() {
    for (what, jump) in JUMPS {
        let retry = format!(r#"{HEDGED},{ONE_TOKEN},"max_retries":1"#);
        let host = met(&retry, Route::new().timeout(Duration::ZERO));
        let request = slow_without_a_token(&host);
        jump(&host);
        request.attempts()[0].resets();
        host.advance(seconds(2));
        let answer = request.answer();
        assert_eq!((answer.by, answer.status), (By::Holdfast, 503), "{what}: the try in its place is not awaited");
        assert_gone(&host, what);
    }
}

#[test]
fn a_jump_of_the_clock_forward_ends_waits_and_no_request() {
    for (waits, wait, _) in waits() {
        let host = met(BACKOFF, Route::new().timeout(Duration::ZERO));
        let request = wait(&host);
        host.set_clock_forward(seconds(3600));
        host.advance(seconds(1));
        assert!(!request.attempt().is_held(), "{waits} is over a second later at most");
        request.attempt().responds(200);
        assert_gone(&host, waits);
    }
}

#[test]
fn with_time_outs_no_jump_of_the_clock_makes_a_request_last_longer_than_them() {
    let timeouts = r#""per_try_timeout":"1s","timeout":"5s""#;
    for (what, jump) in JUMPS {
        for (waits, wait, _) in waits() {
            for (share, when) in [(0, "at the beginning of"), (2, "in the middle of")] {
                let host = met(&format!("{BACKOFF},{timeouts}"), Route::new());
                let began = host.elapsed();
                let request = wait(&host);
                if share > 0 {
                    host.advance(WAIT / share);
                }
                jump(&host);
                while !request.is_over() {
                    let sent = request.attempts().into_iter().filter(|one| !one.is_held());
                    // The host never answers again.
                    assert!(sent.count() <= 1);
                    host.advance(millis(50));
                    assert!(host.elapsed() - began <= seconds(5) + millis(50), "{what} {when} {waits}: it lasts on");
                }
                let answer = request.answer();
                assert!([503, 504].contains(&answer.status), "{what} {when} {waits}: {}", answer.status);
                assert!(request.tries().len() <= 3, "{what} {when} {waits}");
                assert_gone(&host, what);
            }
        }
    }
}

#[test]
fn after_a_jump_of_the_clock_the_budget_holds_and_comes_back() {
    for (what, jump) in JUMPS {
        let host =
            met(&format!(r#"{BACKOFF},"budget":{{"ratio":0,"min_per_second":0.5,"window":"10s"}}"#), Route::new());
        let granted = |host: &Host| (0..20).filter(|_| has_token(host)).count();
        assert_eq!(granted(&host), 5);
        jump(&host);
        let after = granted(&host);
        assert!(after <= 5, "{what}: {after} tokens are more than one window has");
        let (mut waited, mut back) = (Duration::ZERO, after);
        while back < 5 {
            host.advance(seconds(1));
            waited += seconds(1);
            back += granted(&host);
            assert!(waited <= seconds(23), "{what}: tokens that were taken before the jump do not come back");
        }
        host.advance(seconds(60));
        assert_gone(&host, what);
    }
}

// The policy changes.

#[test]
fn an_attempt_that_waits_ends_by_the_policy_that_its_request_began_with() {
    let old = format!(r#"{BACKOFF},"max_retries":2,"on":[503]"#);
    let new = r#""backoff":{"base":"50ms","max":"50ms","jitter":"none"},"max_retries":1,"on":[500]"#;
    let host = met(&old, Route::new());
    let before = failing(&host);
    host.advance(WAIT / 2);
    host.update(&retrying(new)).unwrap();
    seats_meet(&host);
    let also_before = before.clone();
    let after = get(&host);
    after.attempt().responds(500);
    assert!(after.attempt().is_held() && !also_before.is_over());
    host.advance(millis(49));
    assert!(after.attempt().is_held());
    host.advance(millis(1));
    assert!(!after.attempt().is_held(), "the new policy's wait");
    after.attempt().responds(500);
    assert_eq!((after.answer().status, after.tries().len()), (500, 2), "and its number of retries");
    let unnamed = failing(&host);
    assert_eq!((unnamed.answer().status, unnamed.tries().len()), (503, 1), "and what it retries");

    assert!(!before.attempt().is_held(), "the old one's wait is over too");
    before.attempt().responds(503);
    assert!(before.attempt().is_held(), "its request is retried by the old policy");
    host.advance(WAIT);
    before.attempt().responds(503);
    assert_eq!((before.answer().status, before.tries().len()), (503, 3), "up to the old policy's number of retries");
    let retries = ["orders", "orders~2"].map(|policy| host.metric_of(policy, "all", "retries"));
    assert_eq!(retries, [1, 2], "the operator sees the old content beside the new one");
    assert_gone(&host, "an update");
}

#[test]
fn both_contents_of_a_policy_wait_side_by_side_in_one_attempt_seat() {
    let with =
        |millis: u64| retrying(&format!(r#""backoff":{{"base":"{millis}ms","max":"{millis}ms","jitter":"none"}}"#));
    let host = Host::with(&with(300)).workers(2).attempt_seat().start();
    seats_meet(&host);
    let mut waiting = Vec::new();
    for millis in [300, 200, 250, 220] {
        if millis != 300 {
            host.update(&with(millis)).unwrap();
        }
        waiting.push((millis, failing(&host)));
    }
    let began = host.elapsed();
    host.advance(seconds(1));
    for (wait, request) in waiting {
        let second = request.tries()[1].sent.unwrap();
        let waited = second - request.tries()[0].ended.unwrap();
        assert!(waited >= millis(wait) && waited <= millis(wait + 1), "{wait} ms became {waited:?}");
        assert!(second >= began);
        request.attempt().responds(200);
        assert_eq!(request.answer().status, 200);
    }
    assert_eq!(host.roots(0), 1, "the request seat has let go of the old ones");
    assert_gone(&host, "four contents");
}

#[test]
fn a_policy_that_is_taken_away_is_there_for_the_requests_that_began_with_it() {
    let host = met(&format!("{BACKOFF},{ONE_TOKEN}"), Route::new());
    let request = failing(&host);
    let later = get(&host);
    host.update(r#"{"policies":[]}"#).unwrap();
    host.advance(WAIT);
    request.attempt().responds(200);
    assert_eq!(request.answer().status, 200);
    later.attempt().responds(503);
    assert!(later.answer().access_log.unwrap().ends_with("; denied=budget"), "its budget too");
    let ungoverned = failing(&host);
    assert_eq!((ungoverned.tries().len(), ungoverned.answer().access_log), (1, None));
    assert_gone(&host, "no policy");
}

#[test]
fn two_policies_wait_at_once_and_each_has_its_own_budget() {
    let one = |name: &str, wait: u64| {
        format!(
            r#"{{"name":"{name}","scope":[],"match":{{"cluster":["{name}"]}},"retry":{{
            "backoff":{{"base":"{wait}ms","max":"{wait}ms","jitter":"none"}},{ONE_TOKEN}}}}}"#
        )
    };
    let document = format!(r#"{{"policies":[{},{}]}}"#, one("orders", 100), one("carts", 200));
    let host = Host::with(&document).attempt_seat().start();
    let send = |cluster: &str| {
        let request = host.send(0, Request::get("/").cluster(cluster));
        request.attempt().responds(503);
        request
    };
    let both = [send("orders"), send("carts")];
    for cluster in ["orders", "carts"] {
        assert!(send(cluster).is_over(), "{cluster} has spent its token");
        assert_eq!(host.metric_of(cluster, "all", "retries_denied.budget"), 1);
    }
    host.advance(millis(100));
    assert_eq!(both.each_ref().map(|one| one.attempt().is_held()), [false, true]);
    host.advance(millis(100));
    for request in both {
        request.attempt().responds(200);
        assert_eq!(request.answer().status, 200);
    }
    assert_gone(&host, "two policies");
}

// The host asks for a wait.

/// An attempt may take 500 ms, and the next one's time has room for a wait of 200 ms before it.
const SHORT: &str = r#""per_try_timeout":"500ms","timeout":"10s""#;

/// UNAVAILABLE, and the wait in milliseconds that the host asks for.
fn pushes_back(wait: u64) -> Response {
    Response::grpc_headers_only(14).header("grpc-retry-pushback-ms", wait.to_string())
}

fn grpc(host: &Host) -> Routed {
    host.send(0, Request::grpc("/orders.v1.Orders/Get").header("idempotency-key", "7"))
}

fn asked_to_wait() -> Host {
    met(&format!(r#"{BACKOFF},{ONE_TOKEN},{SHORT},"on":["unavailable"]"#), Route::new())
}

/// The same, when the attempt seat has seen that there is one host: it looks where attempts go once a host has asked for a wait.
fn shown_one_host() -> Host {
    let host = asked_to_wait();
    let request = grpc(&host);
    request.attempt().responds(pushes_back(600));
    assert_eq!(request.answer().by, By::Holdfast, "before that a retry begins, and is not sent");
    for _ in 0..16 {
        get(&host).attempt().responds(200);
    }
    host
}

/// The same answer with more after its headers, at once or later.
fn with_more(response: &Response) -> [(&'static str, Response); 4] {
    [
        ("headers alone", response.clone()),
        ("a body", response.clone().body("x")),
        ("trailers", response.clone().trailer("x-more", "1")),
        ("a body and trailers", response.clone().body("x").trailer("x-more", "1")),
    ]
}

/// To hold a response back before it is retried can crash Envoy, and what follows its headers would stop the VM.
#[test]
fn a_wait_that_the_next_attempt_has_no_room_for_is_denied_and_no_response_is_held_back() {
    for (what, response) in with_more(&pushes_back(600)) {
        for is_whole in [true, false] {
            let host = shown_one_host();
            let request = grpc(&host);
            let attempt = request.attempt();
            if is_whole {
                attempt.responds(response.clone());
            } else {
                attempt.begins(response.clone());
                host.advance(seconds(1));
                attempt.ends();
            }
            let answer = request.answer();
            assert_eq!((request.tries().len(), answer.header("grpc-status").as_deref()), (1, Some("14")), "{what}");
            assert!(answer.access_log.unwrap().ends_with("; denied=retry_after"), "{what}");
            assert_eq!(count(&host, "retries_denied.retry_after"), 2, "{what}");
            assert_gone(&host, what);
        }
    }
}

#[test]
fn a_wait_that_the_next_attempt_has_room_for_is_made_whatever_follows_the_headers() {
    for (what, response) in with_more(&pushes_back(150)) {
        for is_whole in [true, false] {
            let host = asked_to_wait();
            let request = grpc(&host);
            if is_whole {
                request.attempt().responds(response.clone());
            } else {
                request.attempt().begins(response.clone());
            }
            assert!(request.attempt().is_held(), "{what}: the next try waits, not the response");
            host.advance(millis(149));
            assert!(request.attempt().is_held(), "{what}");
            host.advance(millis(1));
            assert!(!request.attempt().is_held(), "{what}: as long as the host has asked for");
            host.advance(millis(499));
            request.attempt().responds(Response::grpc(0));
            assert_eq!((request.tries().len(), count(&host, "retries_recovered")), (2, 1), "{what}: with all its time");
            assert_gone(&host, what);
        }
    }
}
