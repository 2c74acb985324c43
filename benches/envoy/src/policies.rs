//! The policy documents of the cases.

use serde_json::{Value, json};

use crate::case::MANY_POLICIES;
use crate::request::TENANT;

/// The policy that governs the requests, and its cluster.
pub const NAME: &str = "orders";

fn document(policy: &Value) -> Value {
    json!({"policies": [policy]})
}

/// One policy.
fn policy(name: &str, matching: &Value, features: Value) -> Value {
    let mut policy = json!({"name": name, "match": matching});
    if let (Value::Object(policy), Value::Object(features)) = (&mut policy, features) {
        policy.extend(features);
    }
    policy
}

/// The one that governs the requests.
fn orders(features: Value) -> Value {
    policy(NAME, &json!({"cluster": [NAME]}), features)
}

/// What a client gets instead.
fn fallback() -> Value {
    json!([{
        "on": ["open", "failure", "timeout"],
        "respond": {"status": 200, "headers": {"content-type": "application/json"}, "body": {"items": []}},
    }])
}

/// A breaker that stays open for longer than any measurement.
fn opening() -> Value {
    json!({"open_for": "1h", "open_max": "1h"})
}

/// Breaker and fallback.
pub fn request_seat() -> Value {
    document(&orders(json!({"breaker": {}, "fallback": fallback()})))
}

/// The same for another cluster, which gets no request.
pub fn elsewhere() -> Value {
    document(&policy("elsewhere", &json!({"cluster": ["elsewhere"]}), json!({"breaker": {}, "fallback": fallback()})))
}

/// A breaker that looks at how long answers take, and a fallback.
pub fn slow() -> Value {
    let breaker = json!({"slow_rate": 50});
    document(&orders(json!({"outcome": {"slow_after": "1s"}, "breaker": breaker, "fallback": fallback()})))
}

/// The cluster that a fallback chooses.
pub const STANDBY: &str = "standby";

/// A breaker that rejects everything, for which another cluster serves.
pub fn detouring() -> Value {
    let fallback = json!([{"on": ["open"], "route": {"cluster": STANDBY}}]);
    document(&orders(json!({"breaker": {"state": "forced_open"}, "fallback": fallback})))
}

/// The features of both seats, and another cluster that would serve after the last attempt.
pub fn going_further() -> Value {
    let fallback = json!([{"on": ["failure"], "route": {"cluster": STANDBY}}]);
    document(&orders(json!({"breaker": {}, "retry": {}, "outlier": {}, "fallback": fallback})))
}

/// The cluster of Envoy's admin interface.
pub const ADMIN: &str = "envoy_admin";

/// Breaker, retry, outlier and fallback, all with their defaults.
fn features() -> Value {
    json!({"breaker": {}, "retry": {}, "outlier": {}, "fallback": fallback()})
}

/// The features of both seats, with their defaults.
pub fn both_seats() -> Value {
    document(&orders(features()))
}

/// The same, and all that looks at rates and latencies.
pub fn rates() -> Value {
    document(&orders(json!({
        "outcome": {"slow_after": "1s"},
        "breaker": {"slow_rate": 50},
        "retry": {},
        "outlier": {"failure_rate": {}, "success_rate": {}, "latency": {}},
        "fallback": fallback(),
    })))
}

/// A breaker without a fallback.
pub fn open() -> Value {
    document(&orders(json!({"breaker": opening()})))
}

/// A breaker that an operator has opened.
pub fn forced_open() -> Value {
    document(&orders(json!({"breaker": {"state": "forced_open"}})))
}

/// A breaker with a fallback.
pub fn open_with_fallback() -> Value {
    document(&orders(json!({"breaker": opening(), "fallback": fallback()})))
}

/// What a client gets instead, where the last good answer is kept.
fn kept() -> Value {
    json!([{"on": ["open", "failure", "timeout"], "stale": {}}])
}

/// As [`request_seat`], and good answers are kept.
pub fn keeping() -> Value {
    document(&orders(json!({"breaker": {}, "fallback": kept()})))
}

/// A breaker whose fallback is what was kept.
pub fn open_with_kept() -> Value {
    document(&orders(json!({"breaker": opening(), "fallback": kept()})))
}

/// A breaker that never opens.
pub fn failing() -> Value {
    document(&orders(json!({"breaker": {"state": "forced_closed"}})))
}

/// The same, and a fallback for each failure.
pub fn replacing() -> Value {
    document(&orders(json!({"breaker": {"state": "forced_closed"}, "fallback": fallback()})))
}

/// As [`both_seats`], and who is out stays out.
pub fn ejecting() -> Value {
    document(&orders(json!({
        "breaker": {},
        "retry": {},
        "outlier": {"base_ejection_time": "1h", "max_ejection_time": "1h"},
        "fallback": fallback(),
    })))
}

/// As [`both_seats`], and each host has its turn.
pub fn in_turn() -> Value {
    balanced(json!("weighted"))
}

/// As [`both_seats`], and each path has its host.
pub fn by_hash() -> Value {
    balanced(json!({"hash": "path"}))
}

/// As [`both_seats`], and the quicker one of two hosts is taken.
pub fn by_latency() -> Value {
    balanced(json!("least_latency"))
}

fn balanced(balance: Value) -> Value {
    let discover = json!({"cluster": ADMIN, "path": "/clusters?format=json"});
    document(&orders(json!({
        "breaker": {},
        "retry": {},
        "outlier": {"balance": balance, "discover": discover},
        "fallback": fallback(),
    })))
}

/// All features, in shadow mode.
pub fn shadow() -> Value {
    document(&orders(json!({
        "mode": "shadow",
        "outcome": {"slow_after": "1s"},
        "breaker": {"slow_rate": 50},
        "concurrency": {"max_requests": 1000},
        "throttle": {},
        "retry": {},
        "outlier": {"failure_rate": {}, "success_rate": {}, "latency": {}},
        "fallback": fallback(),
    })))
}

/// One policy, found by its cluster.
pub fn single() -> Value {
    both_seats()
}

/// Many policies, each for a cluster of its own; the last governs.
pub fn by_cluster() -> Value {
    many(|number| json!({"cluster": [format!("service-{number}")]}), &json!({"cluster": [NAME]}))
}

/// Many policies, each for some paths; the last governs.
pub fn by_glob() -> Value {
    let paths = |service: &str| json!({"path": [format!("/api/v1/{service}/*/items/**")]});
    many(|number| paths(&format!("service-{number}")), &paths(NAME))
}

fn many(other: impl Fn(usize) -> Value, last: &Value) -> Value {
    let others = (1..MANY_POLICIES).map(|number| policy(&format!("service-{number}"), &other(number), features()));
    let policies: Vec<Value> = others.chain([policy(NAME, last, features())]).collect();
    json!({"policies": policies})
}

/// A state for each tenant.
pub fn by_tenant() -> Value {
    document(&orders(json!({"scope": [{"header": TENANT}], "breaker": {}, "fallback": fallback()})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_many_policies_governs() {
        for many in [by_cluster(), by_glob()] {
            let policies = many["policies"].as_array().unwrap();
            assert_eq!(policies.len(), MANY_POLICIES);
            assert_eq!(policies.last().unwrap()["name"], NAME);
        }
        assert_eq!(single()["policies"][0], by_cluster()["policies"][MANY_POLICIES - 1]);
    }
}
