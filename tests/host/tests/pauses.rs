//! A worker that does not run for a while: its ticks do not come, and then the time-outs come first.

use holdfast_engine::breaker::StateName;
use holdfast_host_tests::{Builder, Host, Local, Pending, Reaction, Request, Response};

use crate::outlier_support::{FIVE, World, ejecting_and};
use crate::support::{BREAKER, count, millis, policy, seconds, succeed, trip};

/// Neither ticks nor timers come meanwhile.
fn pause(host: &Host) {
    host.set_clock_forward(seconds(3));
}

fn time_out(requests: impl IntoIterator<Item = Pending>) {
    for request in requests {
        assert_eq!(request.local(Local::timeout()).status, 504);
    }
}

#[test]
fn what_waited_through_a_pause_opens_no_breaker_and_what_comes_afterwards_does() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    let waiting: Vec<_> = (0..8).map(|number| host.get(number % 2).passed()).collect();
    host.advance(millis(500));
    pause(&host);
    time_out(waiting);
    assert_eq!(host.state(), StateName::Closed);
    assert_eq!(["failure", "ignored", "paused.requests"].map(|name| count(&host, name)), [0, 8, 8]);
    host.advance(seconds(1));
    let told = host.logged("this worker did not run for 3");
    assert_eq!(told.len(), 2, "each worker has its own: {told:?}");
    assert!(told.iter().all(|line| line.contains(": 4 requests and checks without an answer in time ")), "{told:?}");

    let waiting: Vec<_> = (0..3).map(|_| host.get(0).passed()).collect();
    host.advance(seconds(1));
    time_out(waiting);
    assert_eq!(host.state(), StateName::Open);
    host.assert_no_trap();
}

#[test]
fn who_has_waited_for_long_before_a_pause_has_waited_for_the_host() {
    let host = Host::with(&policy(BREAKER)).workers(1).start();
    let waiting: Vec<_> = (0..3).map(|_| host.get(0).passed()).collect();
    host.advance(seconds(5));
    pause(&host);
    time_out(waiting);
    assert_eq!(host.state(), StateName::Open);
    assert_eq!(count(&host, "paused.requests"), 0);
}

#[test]
fn an_answer_that_a_pause_has_kept_waiting_is_not_slow() {
    let slow = r#""outcome":{"slow_after":"1s"},"breaker":{"slow_rate":50,"min_requests":3}"#;
    let host = Host::with(&policy(slow)).workers(1).start();
    let waiting: Vec<_> = (0..5).map(|_| host.get(0).passed()).collect();
    host.advance(millis(300));
    pause(&host);
    waiting.into_iter().for_each(|request| drop(request.respond(Response::status(200))));
    assert_eq!(["success", "slow"].map(|name| count(&host, name)), [5, 0]);
    assert_eq!(host.state(), StateName::Closed);
}

#[test]
fn a_probe_that_has_waited_through_a_pause_gives_its_permit_back() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    host.advance(seconds(30));
    let probes: Vec<_> = (0..5).map(|number| host.get(number % 2).passed()).collect();
    host.advance(millis(200));
    pause(&host);
    time_out(probes);
    assert_eq!((host.state(), host.breaker().probes_in_flight()), (StateName::HalfOpen, 0));
    (0..5).for_each(|number| drop(succeed(&host, number % 2)));
    assert_eq!(host.state(), StateName::Closed);
    host.assert_no_trap();
}

/// Of two hosts the quicker one is chosen, also after one of its tries has waited through a pause and a retry has hidden that.
#[test]
fn a_host_is_as_quick_for_the_balancing_as_it_was_before_a_pause() {
    let hosts = &FIVE[..2];
    let listed = format!(r#""hosts":["{}","{}"],"balance":"least_latency""#, hosts[0], hosts[1]);
    let retry = r#""retry":{"per_try_timeout":"1s","on":["gateway-error","reset"],
        "backoff":{"base":"1ms","max":"1ms","jitter":"none"}}"#;
    let world = World::with(&ejecting_and(&listed, retry), 1, hosts, Builder::attempt_seat);
    let quick = Reaction::from(200).after(millis(10));
    world.hosts.serves(hosts[0], quick.clone());
    world.hosts.serves(hosts[1], Reaction::from(200).after(millis(30)));
    world.traffic(20, millis(100));
    world.host.advance(seconds(1));
    world.traffic(20, millis(100));
    world.hosts.hangs(hosts[0]);
    let waiting = world.send(Request::get("/"));
    assert_eq!(waiting.tries()[0].host, hosts[0]);
    world.host.advance(millis(100));
    pause(&world.host);
    world.host.advance(seconds(2));
    assert_eq!((waiting.answer().status, waiting.tries().len()), (200, 2));
    assert_eq!(world.host.metric_of("orders", "cluster=orders", "paused.attempts"), 1);
    world.hosts.serves(hosts[0], quick);
    for _ in 0..5 {
        let next = world.send(Request::get("/"));
        world.host.advance(millis(100));
        assert_eq!(next.tries()[0].host, hosts[0]);
    }
    world.assert_clean();
}
