//! How the cluster chooses, and what hosts do by themselves.

use holdfast_host_tests::{Host, Reaction, Request, Reset, Response, Route, Routed};

use crate::small_module::passive;
use crate::support::{millis, seconds};

const HOSTS: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::3]:80"];

fn hosts_of(request: &Routed) -> Vec<String> {
    request.tries().into_iter().map(|one| one.host).collect()
}

fn get(hosts: &str) -> Request {
    Request::get("/").header("x-holdfast-hosts", hosts)
}

#[test]
fn retries_and_hedges_follow_the_header_one_after_the_other() {
    let route = Route::new().retry_on("5xx").retries(3).per_try_timeout(millis(100)).hedging();
    let host = Host::with("{}").module(&passive()).override_host(&HOSTS).route(route).start();
    let request = host.send(0, get("[2001:db8::3]:80,10.9.9.9:80,10.0.0.1:80"));
    host.advance(millis(100));
    assert_eq!(hosts_of(&request), [HOSTS[2], HOSTS[0]], "one that is not in the cluster is skipped");
    request.attempts()[0].responds(503);
    request.attempts()[0].responds(503);
    assert_eq!(request.tries().len(), 3, "used up, the turn is taken");
    request.attempt().responds(200);
    assert_eq!(request.attempts().len(), 0);
    host.assert_nothing_is_left();
}

#[test]
fn without_the_header_each_worker_goes_round_by_itself() {
    let host =
        Host::with("{}").module(&passive()).workers(2).override_host(&HOSTS).answering_tries(|_| Some(200.into()));
    let host = host.start();
    let turns = |worker| (0..3).flat_map(|_| hosts_of(&host.send(worker, Request::get("/")))).collect::<Vec<_>>();
    for worker in [0, 1, 0] {
        let mut seen = turns(worker);
        seen.sort();
        assert_eq!(seen, HOSTS, "three in a row are all three");
    }
    assert_eq!(turns(1), turns(1), "and in the same order again");
    host.set_hosts(&HOSTS[..1]);
    assert_eq!(turns(0), [HOSTS[0]; 3]);
    host.set_hosts(&[]);
    assert_eq!(host.send(0, Request::get("/")).answer().details, "no_healthy_upstream");
    host.assert_nothing_is_left();
}

#[test]
fn another_cluster_has_its_own_hosts() {
    let host = Host::with("{}").module(&passive()).override_host(&HOSTS).cluster("stock", &["10.1.0.1:80"]).start();
    let request = host.send(0, get(HOSTS[1]).cluster("stock"));
    assert_eq!(hosts_of(&request), ["10.1.0.1:80"]);
    let other = host.send(0, get(HOSTS[1]).cluster("unheard-of"));
    assert_eq!(hosts_of(&other), [HOSTS[1]], "one that nobody has added has the first one's hosts");
    host.set_hosts_of("stock", &["10.1.0.2:80"]);
    assert_eq!(hosts_of(&host.send(0, get("").cluster("stock"))), ["10.1.0.2:80"]);
}

#[test]
fn hosts_that_answer_by_themselves_are_counted() {
    let route = Route::new().retry_on("5xx").retries(1);
    let host = Host::with("{}").module(&passive()).override_host(&HOSTS).route(route).answering_tries(|arrival| {
        Some(match arrival.host {
            "10.0.0.1:80" => Reaction::from(200).after(millis(40)),
            "10.0.0.2:80" => Reaction::fails(Reset::ConnectFailure),
            _ => Reaction::breaks_off(),
        })
    });
    let host = host.start();
    let slow = host.send(0, get("10.0.0.2:80,10.0.0.1:80"));
    let broken = host.send(0, get(HOSTS[2]));
    assert_eq!(broken.answer().flags, holdfast_host_tests::flags::UPSTREAM_REMOTE_RESET);
    host.advance(millis(39));
    assert!(!slow.is_over());
    host.advance(millis(1));
    assert_eq!(slow.answer().status, 200);
    let served: Vec<(String, usize)> = host.served().into_iter().collect();
    let expected = [(HOSTS[0], 1), (HOSTS[1], 0), (HOSTS[2], 1)].map(|(host, count)| (host.to_owned(), count));
    assert_eq!(served, expected, "one that was not reached has served nothing");
    host.assert_nothing_is_left();
}

#[test]
fn what_the_test_does_with_an_attempt_comes_before_what_its_host_would_have_done() {
    let host = Host::with("{}").module(&passive()).answering_tries(|_| Some(Reaction::from(500).after(seconds(1))));
    let host = host.start();
    let request = host.send(0, Request::get("/"));
    request.attempt().responds(Response::status(200));
    host.advance(seconds(5));
    assert_eq!(request.answer().status, 200);
    let late = host.send(0, Request::get("/"));
    late.client_leaves();
    host.advance(seconds(5));
    host.assert_nothing_is_left();
}
