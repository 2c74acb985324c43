//! Any bytes in the records of ejection: the table of hosts, runs of failures, counts, who leads. No VM stops, every request
//! is served, and nothing is wrong for ever.

use holdfast_engine::base::random::Random;
use holdfast_host_tests::{Request, Response, Routed, Seat};

use crate::foreign_bytes::damaged;
use crate::outlier_support::{BAD, FIVE, World, ejecting, text};
use crate::support::{millis, seconds};

/// All kinds of records are in use.
const EVERYTHING: &str = r#""ejection_jitter":0,"base_ejection_time":"5s","max_ejection_time":"10s","interval":"1s",
    "failure_rate":{"min_requests":20,"threshold":95},"success_rate":{"min_requests":20,"stdev_factor":5},"latency":{"min_requests":20},
    "heartbeat":{"path":"/healthz","mode":"shadow","interval":"5s"},
    "discover":{"cluster":"envoy_admin","path":"/clusters?format=json","interval":"5s"}"#;

/// As above, and nothing but traffic tells which hosts there are.
const TRAFFIC: &str = r#""ejection_jitter":0,"base_ejection_time":"5s","max_ejection_time":"10s","interval":"1s",
    "latency":{"min_requests":20}"#;

const KINDS: [&str; 4] = ["/table", "/run/", "/attempt_slot/", "/leader"];

fn start(keys: &str) -> World {
    let world = World::start(&ejecting(keys), 2, &FIVE);
    let hosts: Vec<String> = FIVE.iter().map(|host| format!("\"{host}\"")).collect();
    world.hosts.lists(Response::status(200).body(format!(r#"{{"clusters":{{"orders":[{}]}}}}"#, hosts.join(","))));
    world.traffic(100, millis(20));
    world
}

/// One host fails now and then, and another is out.
fn is_bad(world: &World) {
    world.hosts.does(BAD, 503);
    world.hosts.does(FIVE[1], 503);
    world.traffic(7, millis(10));
    world.hosts.is_well(FIVE[1]);
    world.traffic_until(100, |world| world.out() == [BAD]);
}

fn keys(world: &World) -> Vec<String> {
    let keys = world.host.shared_keys().into_iter();
    keys.filter(|key| key.contains("/outlier/") && KINDS.iter().any(|kind| key.contains(kind))).collect()
}

#[track_caller]
fn assert_served(requests: &[Routed], what: &str) {
    for request in requests {
        let answer = request.answer();
        let last = request.tries().pop().unwrap_or_else(|| panic!("{what}: it came to no host"));
        assert!(answer.status == 200 || last.host == BAD && answer.status == 503, "{what}: {answer:?}");
    }
}

#[test]
fn every_byte_may_be_another_one_and_every_record_may_be_cut() {
    let mut random = Random::new(5);
    for keys_of in [EVERYTHING, TRAFFIC] {
        let world = start(keys_of);
        is_bad(&world);
        let found = keys(&world);
        for kind in &KINDS[..if keys_of == EVERYTHING { 4 } else { 3 }] {
            assert!(found.iter().any(|key| key.contains(kind)), "{kind} is in use: {found:?}");
        }
        for key in found {
            let whole = world.host.shared(&key).unwrap().0;
            for at in 0..whole.len() {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << (random.next() % 8);
                for bytes in [flipped, whole[..at].to_vec()] {
                    world.host.put_shared(&key, bytes);
                    let requests = world.traffic(6, millis(40));
                    assert_served(&requests, &format!("{key}, byte {at}"));
                }
            }
            world.host.put_shared(&key, &whole);
        }
        assert_ends_well(&world, keys_of);
    }
}

/// The longest that anything which can be read may last, whatever it says: twice the longest ejection, or ten minutes for a
/// host that is not there, or for a table that says it is full.
#[track_caller]
fn assert_ends_well(world: &World, what: &str) {
    world.hosts.are_well();
    for _ in 0..65 {
        assert_served(&world.traffic(4, millis(20)), what);
        world.host.advance(seconds(10));
    }
    assert_served(&world.traffic(100, millis(20)), what);
    let before = FIVE.map(|host| world.hosts.at(host));
    world.traffic(100, millis(20));
    for (host, before) in FIVE.iter().zip(before) {
        let share = world.hosts.at(host) - before;
        assert!((15..=25).contains(&share), "{what}: {host} gets {share} of 100: {:#?}", world.table());
    }
    assert_eq!(world.known(), FIVE, "{what}, {}", text(&world.table().cluster));
    world.hosts.does(BAD, 503);
    world.traffic_until(60, |world| world.out() == [BAD]);
    world.assert_clean();
}

#[test]
fn no_damage_to_all_records_at_once_lasts() {
    let mut random = Random::new(12);
    for how in 0..14 {
        let world = start(EVERYTHING);
        is_bad(&world);
        for _ in 0..3 {
            for key in keys(&world) {
                let bytes = world.host.shared(&key).unwrap().0;
                world.host.put_shared(&key, damaged(&bytes, how, &mut random));
            }
            assert_served(&world.traffic(20, millis(20)), &format!("kind {how}"));
            // New VMs read what is there.
            world.host.crash(1);
            world.host.crash(Seat::Attempt.on(1));
            world.host.advance(seconds(1));
            assert_served(&world.traffic(20, millis(20)), &format!("kind {how}"));
        }
        assert_ends_well(&world, &format!("kind {how}"));
    }
}

/// What cannot be read is as if it had never been written: what follows from it is found again.
#[test]
fn a_second_after_a_record_became_unreadable_all_is_as_it_should_be() {
    for keys_of in [EVERYTHING, TRAFFIC] {
        for kind in KINDS {
            for bytes in [Vec::new(), vec![0], vec![0xff; 4000], b"another plugin's".to_vec()] {
                let world = start(keys_of);
                is_bad(&world);
                for key in keys(&world).iter().filter(|key| key.contains(kind)) {
                    world.host.put_shared(key, &bytes);
                }
                assert_served(&world.traffic(50, millis(20)), kind);
                let before = world.hosts.at(BAD);
                let requests = world.traffic(50, millis(20));
                let unsteered = requests
                    .iter()
                    .filter(|one| one.access_log().is_none_or(|line| !line.contains("hosts_out=")))
                    .count();
                assert!(
                    world.hosts.at(BAD) - before <= unsteered.min(2),
                    "{kind}: it is out again: {:#?}",
                    world.table()
                );
                assert_eq!(world.known(), FIVE, "{kind}");
                world.assert_clean();
            }
        }
    }
}

#[test]
fn a_leader_that_was_overwritten_is_followed_by_one_leader() {
    let world = start(&EVERYTHING.replace(r#""mode":"shadow","interval":"5s""#, r#""mode":"shadow""#));
    world.host.advance(seconds(5));
    let key = keys(&world).into_iter().find(|key| key.contains("/leader")).unwrap();
    let whole = world.host.shared(&key).unwrap().0;
    let mut others = whole.clone();
    others[12] ^= 1;
    let mut for_ever = whole.clone();
    let len = for_ever.len();
    for_ever[len - 8..].copy_from_slice(&u64::MAX.to_le_bytes());
    for bytes in [Vec::new(), others, for_ever, whole[..len - 1].to_vec()] {
        world.host.put_shared(&key, &bytes);
        world.host.advance(seconds(8));
        let from = world.host.elapsed();
        world.host.advance(seconds(5));
        let checks: Vec<_> = world.hosts.checked().into_iter().filter(|one| one.at >= from).collect();
        assert!((20..=30).contains(&checks.len()), "five hosts, five seconds: {}", checks.len());
        assert!(checks.windows(2).all(|two| two[0].thread == two[1].thread));
    }
    world.assert_clean();
}

#[test]
fn a_cluster_name_that_was_changed_is_put_right_by_the_next_request() {
    let world = start(EVERYTHING);
    let key = keys(&world).into_iter().find(|key| key.contains("/table")).unwrap();
    let mut bytes = world.host.shared(&key).unwrap().0;
    let place = bytes.windows(6).position(|window| window == b"orders").unwrap();
    bytes[place + 1] = b'q';
    world.host.put_shared(&key, &bytes);
    world.traffic(100, millis(20));
    assert_eq!(world.table().cluster, b"orders");
    let before = world.hosts.checked().len();
    world.host.advance(seconds(11));
    assert!(world.hosts.checked().len() >= before + 10, "its hosts are checked on");
    world.assert_clean();
}

/// An address in the table that is none any more is nobody's, and the host it was is found again.
#[test]
fn an_address_that_was_changed_is_a_host_that_is_not_there() {
    let world = start(TRAFFIC);
    is_bad(&world);
    let key = keys(&world).into_iter().find(|key| key.contains("/table")).unwrap();
    let bytes = world.host.shared(&key).unwrap().0;
    for (from, to) in [
        ("10.0.0.3:8080", "10.0.0.3:808x"),
        ("10.0.0.3:8080", "\u{0}\u{1},\r\n.3:8080"),
        ("10.0.0.3:8080", "10.9.9.3:8080"),
    ] {
        let place = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[place..place + to.len()].copy_from_slice(to.as_bytes());
        world.host.put_shared(&key, &changed);
        world.host.advance(seconds(1));
        for worker in 0..2 {
            let requests: Vec<_> = (0..10).map(|_| world.host.send(worker, Request::get("/"))).collect();
            assert_served(&requests, to);
        }
    }
    assert_ends_well(&world, "addresses");
}
