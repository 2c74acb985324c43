//! The scene of the circuit breaker and the fallback: a whole service is down for a while, slowly.

use std::time::Duration;

use holdfast_tests::Action;
use http::Method;

use super::{Caller, Kind, Phase, Scene};
use crate::claims::{self, Claim};
use crate::recording::Runs;

/// What a healthy answer takes.
const USUAL: Duration = Duration::from_millis(5);
/// How long the service hangs before it fails: the worst kind of being down.
const HANG: Duration = Duration::from_secs(1);

/// The breakers' `half_open.probes`.
const PROBES: u32 = 5;

/// Reads have something to fall back to, purchases have not.
const READ: Caller = Caller { method: Method::GET, path: "/items", per_second: 100, policy: "items" };
const BUY: Caller = Caller { method: Method::POST, path: "/checkout", per_second: 25, policy: "checkout" };

pub(super) fn scene() -> Scene {
    Scene {
        name: "outage",
        title: "one outage of a service, lived through twice",
        service: "orders",
        hosts: 2,
        callers: vec![READ, BUY],
        patience: Duration::from_secs(5),
        // The trouble ends while the breakers are open for the second time: at least 1.5 s until they open, 2 s, a
        // second of failing probes and 4 s make 8.5 s.
        phases: vec![
            Phase {
                kind: Kind::Healthy,
                seconds: 5,
                told: format!("orders is well: it answers in {} ms", USUAL.as_millis()),
                hosts: |_| Action::ok().after(USUAL),
            },
            Phase {
                kind: Kind::Outage,
                seconds: 8,
                told: format!("orders goes down: it hangs for {} s, then answers 503", HANG.as_secs()),
                hosts: |_| Action::status(503).after(HANG),
            },
            Phase {
                kind: Kind::Recovery,
                seconds: 6,
                told: format!("orders is well again: it answers in {} ms", USUAL.as_millis()),
                hosts: |_| Action::ok().after(USUAL),
            },
        ],
        // Its times are short, so that nobody has to wait for the end of the story.
        policy: include_str!("outage.json"),
        policy_in_words: "a breaker each: opens at 50% failures in 2 s, probes after 2 s, then after twice as long; \
                          /items has a fallback answer (an empty list), /checkout has none",
        remark: "With Holdfast, what still waits in the outage are the requests sent before the breakers opened, and the \
                 probes: a few clients pay for finding out whether the service is back.",
        claims,
    }
}

fn claims(scene: &Scene, runs: Runs<'_>) -> Vec<Claim> {
    let mut claims = vec![
        claims::healthy_phase_is_clean(scene, runs),
        claims::outage_hurts_without(scene, runs),
        claims::fewer_errors_with(scene, runs),
        claims::fallback_served(runs),
        claims::rejections_seen(runs),
        claims::only_probes_reached_the_service(scene, runs, PROBES),
        claims::nothing_of_holdfast_without(runs),
        claims::ends_well(scene, runs),
    ];
    for policy in scene.policies() {
        claims.push(claims::opened_in_the_outage(scene, runs, policy));
        claims.push(claims::probed_in_vain(scene, runs, policy));
        claims.push(claims::closed_after_the_outage(scene, runs, policy));
        claims.push(claims::envoy_counted_the_same(scene, runs, policy));
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_the_policys() {
        let policy: serde_json::Value = serde_json::from_str(scene().policy).unwrap();
        for policy in policy["policies"].as_array().unwrap() {
            let breaker = &policy["breaker"];
            assert_eq!(breaker["failure_rate"], 50);
            assert_eq!(breaker["window"], "2s");
            assert_eq!(breaker["open_for"], "2s");
            assert_eq!(breaker["open_growth"], 2);
            assert_eq!(breaker["half_open"]["probes"], PROBES);
            assert_eq!(policy["fallback"].is_array(), policy["name"] == READ.policy);
        }
    }
}
