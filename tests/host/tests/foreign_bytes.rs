//! Shared data outlives the code and the configuration that wrote it: any bytes may be under any key.

use holdfast_engine::base::random::Random;
use holdfast_engine::breaker::StateName;
use holdfast_engine::store::workers::KEY as WORKERS;
use holdfast_host_tests::{Host, Response};

use crate::support::{BREAKER, fail, passing, policy, seconds, succeed, trip};

/// A policy that uses every kind of record.
fn everything() -> String {
    format!(
        r#"{{"policies":[{{"name":"orders","scope":[{{"header":"x-tenant"}}],{BREAKER},
            "concurrency":{{"max_requests":50}},"throttle":{{"min_rps":1000}}}}]}}"#
    )
}

fn use_everything(host: &Host) {
    for worker in 0..host.workers() {
        let statuses = [200, 503, 503, 503, 503, 200];
        statuses.into_iter().for_each(|status| drop(host.get(worker).with(Response::status(status))));
    }
    host.advance(seconds(30));
    for worker in 0..host.workers() {
        (0..6).for_each(|_| drop(host.get(worker).with(Response::status(200))));
    }
}

/// Ways to damage a record: 0 to 8, and any other for one bit.
pub fn damaged(bytes: &[u8], how: u64, random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let place = |random: &mut Random, len: usize| (random.next() % len.max(1) as u64) as usize;
    match how {
        0 => bytes.clear(),
        1 => bytes.truncate(place(random, bytes.len())),
        2 => bytes.push(0),
        3 => bytes.fill(0xff),
        4 => bytes.fill(0),
        5 => bytes = (0..place(random, 400)).map(|_| random.next() as u8).collect(),
        6 => {
            // The head is right, the rest is not.
            bytes.iter_mut().skip(14).for_each(|byte| *byte = random.next() as u8);
        }
        7 => bytes.iter_mut().skip(14).for_each(|byte| *byte = 0xff),
        8 => bytes = vec![b'x'; 1 << 20],
        _ => {
            let at = place(random, bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (random.next() % 8);
            }
        }
    }
    bytes
}

#[test]
fn no_bytes_in_any_key_stop_a_worker_or_hold_traffic_up() {
    let mut random = Random::new(7);
    for how in 0..20 {
        let host = Host::with(&everything()).workers(2).start();
        use_everything(&host);
        let keys = host.shared_keys();
        for kind in ["/breaker", "/slot/", "/concurrency/", "/name/", WORKERS] {
            assert!(keys.iter().any(|key| key.contains(kind)), "{kind} is in use: {keys:?}");
        }
        for key in &keys {
            let bytes = damaged(&host.shared(key).unwrap().0, how, &mut random);
            host.put_shared(key, &bytes);
            use_everything(&host);
            host.crash(1);
            host.advance(seconds(1));
            use_everything(&host);
        }
        // Whatever the bytes were read as, a healthy service has its traffic back.
        let start = host.elapsed();
        while (0..2).any(|worker| passing(&host, worker, 10, 200) < 10) {
            host.advance(seconds(5));
            assert!(host.elapsed() - start < seconds(700), "kind {how}: stuck at {:#?}", host.breakers());
        }
        host.assert_no_trap();
    }
}

#[test]
fn bytes_of_another_version_read_as_absent_and_are_replaced() {
    let host = Host::with(&policy(BREAKER)).workers(2).start();
    trip(&host, 0);
    let key = host.breaker().key;
    let mut bytes = host.shared(&key).unwrap().0;
    bytes[0] += 1;
    host.put_shared(&key, &bytes);
    host.advance(seconds(1));
    assert_eq!(passing(&host, 1, 1, 200), 1, "another version's open breaker is none of ours");
    trip(&host, 1);
    assert_eq!(host.state(), StateName::Open, "and the key is used again");
    host.assert_no_trap();
}

/// An older version of the module and this one run side by side while listeners drain; both have a table of workers.
#[test]
fn workers_never_share_a_slot_even_when_a_foreign_table_came_between_them() {
    let rates = r#""breaker":{"window":"1m","min_requests":20,"failure_rate":50,"open_jitter":0}"#;
    let host = Host::with(&policy(rates)).workers(2).start();
    succeed(&host, 0);
    let mut foreign = host.shared(WORKERS).unwrap().0;
    foreign[0] = 0;
    host.put_shared(WORKERS, &foreign);
    succeed(&host, 1);
    // Whoever finds that a claim is gone makes a new one.
    host.advance(seconds(4));
    for _ in 0..10 {
        fail(&host, 1);
    }
    for _ in 0..7 {
        fail(&host, 0);
    }
    assert_eq!(host.state(), StateName::Closed, "19 outcomes are too few");
    fail(&host, 0);
    assert_eq!(host.state(), StateName::Open, "the twentieth, ten of one worker and eight of the other failures");
    host.assert_no_trap();
}
