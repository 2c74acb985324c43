//! Hosts to which there is no connection for as long as requests last, and hosts whose connections serve others.

use holdfast_host_tests::{Builder, Reaction, Request};

use crate::outlier_support::{BAD, FIVE, World, ejecting_and};
use crate::support::{millis, seconds};

/// Half a second for a request, and all of it for one attempt if need be.
const RETRY: &str = r#""retry":{"timeout":"500ms","max_retries":1,
    "backoff":{"base":"1ms","max":"1ms","jitter":"none"},"budget":{"ratio":100,"min_per_second":100}}"#;

/// One worker that knows its hosts.
fn world(hosts: &[&str], features: &str) -> World {
    let world = World::with(&ejecting_and("", features), 1, hosts, Builder::attempt_seat);
    world.traffic(20, millis(20));
    world.host.advance(seconds(1));
    world.traffic(20, millis(20));
    world
}

/// One that is given half a second, whatever the policy says.
fn short() -> Request {
    Request::get("/").header("x-envoy-upstream-rq-timeout-ms", "500")
}

/// One that is given all the time in the world.
fn long() -> Request {
    Request::get("/").header("x-envoy-upstream-rq-timeout-ms", "0")
}

/// Sends one and waits for its end, and a little more. Whether it went to this host first, and its status.
fn send(world: &World, request: Request, host: &str) -> (bool, u16) {
    let one = world.send(request);
    world.host.advance(millis(510));
    (one.tries()[0].host == host, one.answer().status)
}

#[test]
fn a_host_that_swallows_connections_is_out_after_six_waits_in_a_row() {
    for features in [RETRY, r#""outcome":{}"#] {
        let world = world(&FIVE, features);
        world.hosts.serves(BAD, Reaction::is_unreached());
        let mut waited = 0;
        for _ in 0..60 {
            let (is_bad, status) = send(&world, short(), BAD);
            assert_eq!(status, if is_bad { 504 } else { 200 });
            waited += u32::from(is_bad);
            assert_eq!(world.out().is_empty(), waited < 6, "{waited} waits, {features}");
        }
        assert_eq!(waited, 6, "{features}");
        assert_eq!(world.out(), [BAD]);
        world.assert_clean();
    }
}

#[test]
fn waits_beside_each_other_are_one_and_a_first_one_may_be_a_slow_handshake() {
    let world = world(&FIVE, RETRY);
    for _ in 0..3 {
        world.hosts.serves(BAD, Reaction::is_unreached());
        let burst: Vec<_> = (0..100).map(|_| world.get()).collect();
        world.host.advance(millis(600));
        let late = burst.iter().filter(|one| one.answer().status == 504).count();
        assert_eq!(late, 20);
        // The handshake is over, and the connection serves.
        world.hosts.is_well(BAD);
        let served = world.traffic(20, millis(10));
        world.host.advance(millis(100));
        assert!(served.iter().all(|one| one.answer().status == 200));
        assert_eq!(world.out(), [""; 0]);
    }
    world.assert_clean();
}

#[test]
fn a_host_whose_connections_serve_others_is_not_judged() {
    let world = world(&FIVE, r#""outcome":{}"#);
    world.hosts.hangs(BAD);
    let held: Vec<_> = (0..5).map(|_| world.send(long())).collect();
    let held = held.iter().find(|one| one.tries()[0].host == BAD).unwrap().attempt();
    held.begins(200);
    world.hosts.serves(BAD, Reaction::is_unreached());
    let waited = (0..100).filter(|_| send(&world, short(), BAD) == (true, 504)).count();
    assert_eq!((waited, world.out()), (20, vec![]), "it is reached, and has no connection to spare");
    held.ends();
    let waited = (0..60).filter(|_| send(&world, short(), BAD) == (true, 504)).count();
    assert_eq!((waited, world.out()), (6, vec![BAD.to_owned()]), "now nobody has a connection");
    world.assert_clean();
}

#[test]
fn an_attempt_that_had_less_than_half_of_its_requests_time_says_nothing() {
    let features = format!(
        r#""outcome":{{"ignore":{{"status":[503]}}}},{}"#,
        RETRY.replace(r#""max_retries""#, r#""on":[503],"max_retries""#)
    );
    for (first, says_something) in [(300, false), (200, true)] {
        let world = world(&[BAD], &features);
        for _ in 0..6 {
            world.hosts.hangs(BAD);
            let one = world.get();
            world.host.advance(millis(first));
            world.hosts.serves(BAD, Reaction::is_unreached());
            one.attempt().responds(503);
            world.host.advance(millis(510));
            assert_eq!((one.tries().len(), one.answer().status), (2, 504));
        }
        assert_eq!(!world.out().is_empty(), says_something, "its request had lost {first} of 500 ms before");
        world.assert_clean();
    }
}

#[test]
fn a_client_that_leaves_says_nothing_unless_its_own_time_was_over() {
    for (deadline, is_out) in [("", false), ("500m", true)] {
        let world = world(&FIVE, "");
        world.hosts.serves(BAD, Reaction::is_unreached());
        for _ in 0..60 {
            let request = if deadline.is_empty() {
                Request::grpc("/")
            } else {
                Request::grpc("/").header("grpc-timeout", deadline)
            };
            let one = world.send(request);
            world.host.advance(millis(505));
            if !one.is_over() {
                one.client_leaves();
            }
        }
        assert_eq!(!world.out().is_empty(), is_out, "{deadline}");
        world.assert_clean();
    }
}
