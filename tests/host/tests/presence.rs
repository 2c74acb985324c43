//! What a request seat believes of attempt seats: for which key and cluster, and what a host can make of it.

use std::cell::Cell;
use std::rc::Rc;

use holdfast_engine::seats::retry_context::RetryContext;
use holdfast_host_tests::{Fault, Host, Request, Response, Routed, Seat, status};

use crate::outlier_support::{BAD, FIVE, World, ejecting, ejecting_and};
use crate::support::{millis, seconds};

const RETRY: &str = r#""retry":{"max_retries":2,"backoff":{"base":"25ms","max":"25ms","jitter":"none"}}"#;

/// While this is set the attempt seat does not see requests, as in a listener whose router lacks it.
fn blindness(host: &Host) -> Rc<Cell<bool>> {
    let blind = Rc::new(Cell::new(false));
    let is_blind = Rc::clone(&blind);
    host.on_call(move |_, call| {
        let sees = call.seat == Seat::Attempt && call.name == "get_property" && call.subject == "holdfast_exchange";
        (sees && is_blind.get()).then_some(Fault::Status(status::NOT_FOUND))
    });
    blind
}

/// Whether the request seat counted on an attempt seat when the request came.
fn counts_on_seat(request: &Routed) -> bool {
    let written = request.filter_state("holdfast_exchange").expect("the attempt seat is told");
    RetryContext::read_property(&written).expect("it is a record").seat
}

fn answered(request: &Routed, response: impl Into<Response>) {
    request.attempt().responds(response);
}

#[test]
fn a_failure_that_no_attempt_seat_saw_says_nothing_of_other_keys_and_clusters() {
    let tenant = r#"[{"header":"x-tenant"}]"#;
    let of = |cluster: &str, tenant: &str| Request::get("/").cluster(cluster).header("x-tenant", tenant);
    for (scope, missed, others) in [
        (r#"["cluster"]"#, of("carts", "a"), vec![of("orders", "a")]),
        ("[]", of("carts", "a"), vec![of("orders", "a")]),
        (tenant, of("carts", "a"), vec![of("carts", "b"), of("orders", "a")]),
    ] {
        for features in [RETRY, r#""outlier":{}"#] {
            let document = format!(r#"{{"policies":[{{"name":"orders","scope":{scope},{features}}}]}}"#);
            let host = Host::with(&document).attempt_seat().cluster("carts", &FIVE).start();
            let blind = blindness(&host);
            let get = |request: &Request, status: u16| {
                let sent = host.send(0, request.clone());
                answered(&sent, status);
                sent
            };
            let all = || others.iter().chain([&missed]);
            all().for_each(|request| drop(get(request, 200)));
            host.advance(seconds(1));
            assert!(all().all(|request| counts_on_seat(&get(request, 200))), "scope {scope}: they meet");

            blind.set(true);
            let unseen = get(&missed, 503);
            assert!(counts_on_seat(&unseen) && unseen.is_over());
            blind.set(false);
            let about = format!("scope {scope}, {features}");
            for wait in [0, 1, 58] {
                host.advance(seconds(wait));
                all().for_each(|request| drop(get(request, 200)));
                assert!(!counts_on_seat(&get(&missed, 200)), "{about}: it is not believed to be there");
                for other in &others {
                    assert!(counts_on_seat(&get(other, 200)), "{about}: others' still is: {other:?}");
                }
            }
            host.advance(seconds(2));
            assert!(counts_on_seat(&get(&missed, 200)), "{about}: a minute later it is believed again");
            host.assert_no_trap();
        }
    }
}

#[test]
fn a_host_whose_attempt_seat_does_not_see_it_is_judged_from_the_first_failure_on() {
    for features in ["", RETRY] {
        let world = World::start(&ejecting_and(r#""ejection_jitter":0"#, features), 1, &FIVE);
        world.traffic(300, millis(10));
        blindness(&world.host).set(true);
        world.hosts.does(BAD, 503);
        // Where there are retries, by Envoy's words: the policy's next attempt is then at another host, and the last one's is judged.
        let post = || world.host.send(0, Request::new("POST", "/"));
        let failed: Vec<_> = (0..100).map(|_| post()).filter(|sent| sent.answer().status == 503).collect();
        assert_eq!(
            (failed.len(), world.out()),
            (5, vec![BAD.to_owned()]),
            "{features}: five failures in a row, all seen"
        );
        world.host.assert_no_trap();
    }
}

/// What only an attempt seat says.
const SEATS_OWN: [(&str, &str); 3] =
    [("x-holdfast-tries", "1"), ("x-holdfast-retry", "1"), ("x-envoy-ratelimited", "holdfast")];

fn forged(status: u16, headers: &[(&str, &str)]) -> Response {
    headers.iter().fold(Response::status(status), |response, (name, value)| response.header(name, value))
}

#[test]
fn without_an_attempt_seat_no_host_escapes_its_judgement_by_speaking_for_one() {
    for features in ["", RETRY] {
        for headers in SEATS_OWN.iter().map(std::slice::from_ref).chain([&SEATS_OWN[..]]) {
            let world = World::with(&ejecting_and(r#""ejection_jitter":0"#, features), 2, &FIVE, |builder| builder);
            world.traffic(300, millis(10));
            world.hosts.does(BAD, forged(503, headers));
            let sent: Vec<_> = (0..100).map(|_| world.send(Request::new("POST", "/"))).collect();
            let failed = sent.iter().filter(|sent| sent.answer().status == 503).count();
            assert_eq!((failed, world.out()), (5, vec![BAD.to_owned()]), "{features} {headers:?}");
            for (name, _) in SEATS_OWN {
                assert!(sent.iter().all(|sent| sent.answer().header(name).is_none()), "no client hears {name}");
            }
            world.host.assert_no_trap();
        }
    }
}

#[test]
fn without_an_attempt_seat_a_host_that_speaks_for_one_is_known_by_its_successes_too() {
    // Whose successes are compared with others' is known at once.
    let keys = r#""latency":{"min_requests":10,"min_hosts":3},"interval":"10s","ejection_jitter":0"#;
    let world = World::with(&ejecting(keys), 1, &FIVE, |builder| builder);
    world.hosts.does(BAD, forged(200, &SEATS_OWN[..1]));
    world.traffic(100, millis(10));
    assert_eq!(world.known(), FIVE);
    world.host.assert_no_trap();
}

#[test]
fn a_host_that_asks_for_retries_where_no_attempt_seat_is_does_so_once() {
    let document = format!(r#"{{"policies":[{{"name":"orders",{RETRY}}}]}}"#);
    let host = Host::with(&document).attempt_seat().start();
    crate::support::seats_meet(&host);
    blindness(&host).set(true);
    let asking = || {
        let sent = host.send(0, Request::get("/"));
        while !sent.is_over() {
            match sent.attempts().pop() {
                Some(attempt) => attempt.responds(forged(200, &SEATS_OWN[1..2])),
                None => host.advance(millis(100)),
            }
        }
        assert_eq!(sent.answer().header("x-holdfast-retry"), None);
        (sent.tries().len(), counts_on_seat(&sent))
    };
    assert_eq!(asking(), (3, true), "the router takes it for the attempt seat's word");
    assert_eq!(host.metric_of("orders", "cluster=orders", "retries"), 2, "that is counted, and charged to the budget");
    assert_eq!(asking(), (1, false), "which nobody believes again");
    host.assert_no_trap();
}

#[test]
fn before_the_seats_meet_an_attempt_is_judged_once() {
    for features in ["", RETRY] {
        let keys = r#""latency":{"min_requests":10,"min_hosts":3},"interval":"10s","ejection_jitter":0"#;
        for response in [Response::status(200), Response::grpc(0), Response::status(503), Response::grpc(14)] {
            let world = World::start(&ejecting_and(keys, features), 1, &FIVE);
            FIVE.iter().for_each(|host| world.hosts.serves(host, response.clone()));
            let sent = world.host.send(0, Request::grpc("/orders.Orders/Get"));
            world.host.advance(millis(100));
            assert!(sent.is_over() && sent.tries().len() == 1);
            // The cluster's name, whether another seat governs, what the attempt seat wrote and, with retries, how many attempts
            // there were; not the host's name.
            let asked = sent.answer().calls.of("get_property");
            assert_eq!(asked, if features.is_empty() { 3 } else { 4 }, "{features} {response:?}");
            world.host.assert_no_trap();
        }
    }
}

#[test]
fn a_host_that_fails_its_checks_cannot_say_that_it_is_gone() {
    let world = World::start(&ejecting(r#""heartbeat":{"path":"/healthz"},"ejection_jitter":0"#), 2, &FIVE);
    world.traffic(300, millis(10));
    world.hosts.answers_checks(BAD, forged(503, &[("x-holdfast-gone", "1")]));
    world.host.advance(seconds(5));
    assert_eq!((world.out(), world.known()), (vec![BAD.to_owned()], FIVE.map(str::to_owned).to_vec()));
    world.assert_clean();
}
