//! Whole documents: what they compile to, and what is said when they do not.

use core::time::Duration;

use super::*;
use crate::document::{
    BreakerControl, Dimension, Escape, FallbackKind, Match, Mode, Policy, Reason, StaticResponse, TemplatePart, Window,
};
use crate::percent::Percent;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The policy with these keys beside its name.
fn policy(keys: &str) -> Policy {
    let json = format!(r#"{{"policies": [{{"name": "p", {keys}}}]}}"#);
    match parse(json.as_bytes()) {
        Ok(document) => document.policies.into_iter().next().unwrap(),
        Err(errors) => panic!("{errors}"),
    }
}

/// What is wrong with a document, a line per error.
fn wrong(json: &str) -> String {
    parse(json.as_bytes()).expect_err("must be refused").to_string()
}

/// What is wrong with the policy with these keys beside its name; paths start within the policy.
fn wrong_policy(keys: &str) -> String {
    wrong(&format!(r#"{{"policies": [{{"name": "p", {keys}}}]}}"#)).replace("policies[0].", "")
}

fn respond(keys: &str) -> StaticResponse {
    let policy = policy(&format!(r#""fallback": [{{"on": ["failure"], "respond": {{{keys}}}}}]"#));
    match policy.fallback.into_iter().next().unwrap().kind {
        FallbackKind::Static(response) => response,
    }
}

fn wrong_respond(keys: &str) -> String {
    wrong_policy(&format!(r#""fallback": [{{"on": ["failure"], "respond": {{{keys}}}}}]"#))
        .replace("fallback[0].respond", "respond")
}

// The document as a whole.

#[test]
fn no_policies_let_everything_pass_and_a_byte_order_mark_does_not_matter() {
    assert!(parse(br#"{"policies": []}"#).unwrap().policies.is_empty());
    assert!(parse(b"\xef\xbb\xbf{\"policies\": []}\n").unwrap().policies.is_empty());
}

#[test]
fn what_is_no_document_is_refused_with_what_it_should_be() {
    let empty = "document: must be a JSON object {\"policies\": [...]}, was empty";
    assert_eq!(wrong(""), empty);
    assert_eq!(wrong(" \n"), empty);
    assert_eq!(wrong("[1]"), "document: must be an object with the keys policies, was a list");
    assert_eq!(wrong("{}"), "policies: is missing; must be a list of policies, [] lets everything pass");
    assert_eq!(wrong(r#"{"policies": {}}"#), "policies: must be a list of policies, was an object");
    assert_eq!(wrong(r#"{"policies": [7]}"#).lines().count(), 1);
}

#[test]
fn a_syntax_error_has_its_line_and_column() {
    assert_eq!(
        wrong("{\n  \"policies\": [\n    {name: 1}\n  ]\n}"),
        "document: not valid JSON at line 3, column 6: key must be a string"
    );
    assert_eq!(wrong("policies: []"), "document: not valid JSON at line 1, column 1: expected value");
}

#[test]
fn a_misspelt_policies_is_two_errors() {
    assert_eq!(
        wrong(r#"{"policy": []}"#),
        "document.policy: unknown key; accepted here: policies\n\
         policies: is missing; must be a list of policies, [] lets everything pass"
    );
}

#[test]
fn duplicate_keys_are_errors_wherever_they_are() {
    assert_eq!(
        wrong(r#"{"policies": [{"name": "a", "name": "b", "breaker": {"ramp": "1s", "ramp": "2s"}}], "policies": []}"#),
        "document.policies: the key is there 2 times; must be there once\n\
         policies[0].name: the key is there 2 times; must be there once\n\
         policies[0].breaker.ramp: the key is there 2 times; must be there once"
    );
    assert_eq!(
        wrong_respond(r#""status": 200, "body": {"a": [{"b": 1, "b": 2}]}"#),
        "respond.body.a[0].b: the key is there 2 times; must be there once"
    );
}

#[test]
fn a_thousand_policies_are_enough() {
    let document = |count: usize| {
        let policies: Vec<String> = (0..count).map(|index| format!(r#"{{"name":"p{index}"}}"#)).collect();
        format!(r#"{{"policies":[{}]}}"#, policies.join(","))
    };
    assert_eq!(parse(document(1000).as_bytes()).unwrap().policies.len(), 1000);
    assert_eq!(wrong(&document(1001)), "policies: must have at most 1000 policies, has 1001");
}

#[test]
fn all_errors_are_reported_at_once_and_only_so_many_are_listed() {
    let policies = vec![r#"{"name":"X"}"#; 80].join(",");
    let errors = parse(format!(r#"{{"policies":[{policies}]}}"#).as_bytes()).unwrap_err();
    assert_eq!((errors.listed().len(), errors.total()), (50, 80));
    assert!(errors.to_string().ends_with("\nand 30 more"));
}

// Defaults and whole policies.

#[test]
fn a_policy_that_says_nothing_governs_everything_and_does_nothing() {
    let document = parse(br#"{"policies": [{"name": "p"}]}"#).unwrap();
    let policy = &document.policies[0];
    assert_eq!(policy.matches, Match::default());
    assert_eq!(policy.scope, defaults::scope());
    assert_eq!(policy.mode, Mode::Enforce);
    assert_eq!(policy.outcome, defaults::outcome());
    assert!(policy.breaker.is_none() && policy.concurrency.is_none() && policy.throttle.is_none());
    assert!(policy.fallback.is_empty());
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let breaker = policy(r#""breaker": {}"#).breaker.unwrap();
    assert_eq!(breaker, defaults::breaker(Mode::Enforce));
    assert_eq!(breaker.window, Window::Time(Duration::from_secs(10)));
    assert_eq!(breaker.min_requests.get(), 20);
    assert_eq!((breaker.failure_rate, breaker.slow_rate), (Percent::whole(50), Percent::ZERO));
    assert_eq!(breaker.consecutive_failures, None);
    assert_eq!((breaker.open_for, breaker.open_max), (Duration::from_secs(30), Duration::from_secs(300)));
    assert_eq!((breaker.open_growth, breaker.open_jitter), (2000, Percent::whole(10)));
    assert!(breaker.honor_retry_after);
    assert_eq!((breaker.probes.get(), breaker.lease), (5, Duration::from_secs(10)));
    assert_eq!((breaker.ramp, breaker.state), (Duration::ZERO, BreakerControl::Auto));

    let throttle = policy(r#""throttle": {}"#).throttle.unwrap();
    assert_eq!(throttle.success_rate, Percent::whole(95));
    assert_eq!((throttle.aggression, throttle.max_rejection), (1000, Percent::whole(80)));
    assert_eq!((throttle.min_rps, throttle.window), (0, Duration::from_secs(30)));

    let scope = defaults::scope();
    assert_eq!((scope.by, scope.max_keys.get()), (vec![Dimension::Cluster], 256));

    let outcome = defaults::outcome();
    assert_eq!(outcome.failure_status.ranges(), [(500, 599)]);
    let failures: Vec<u8> = (0..=16).filter(|status| outcome.failure_grpc.contains(*status)).collect();
    assert_eq!(failures, [2, 4, 13, 14, 15]);
    assert!(outcome.failure_local);
}

#[test]
fn everything_can_be_given() {
    let policy = policy(
        r#"
        "match": {"cluster": "outbound|*", "route": ["a", "b*"], "authority": ["API.*.com"], "path": "/a/**",
                  "method": ["GET"], "header": {"X-Tenant": "a*"}},
        "scope": ["route", {"header": "X-Tenant"}], "max_keys": 4096, "mode": "shadow",
        "outcome": {"failure": {"status": ["500-502", "504", 429], "grpc_status": ["INTERNAL", 14], "local": false},
                    "ignore": {"status": [404], "grpc_status": [0]}, "slow_after": "1.5s"},
        "breaker": {"window": 100, "min_requests": 100, "failure_rate": 62.5, "slow_rate": 80,
                    "consecutive_failures": 7, "open_for": "1s", "open_growth": 1.5, "open_max": "1s",
                    "open_jitter": 0, "honor_retry_after": false, "half_open": {"probes": 100, "lease": "10ms"},
                    "ramp": "1h", "state": "forced_closed", "mode": "enforce"},
        "concurrency": {"max_requests": 1000000},
        "throttle": {"success_rate": 90, "aggression": 2.5, "max_rejection": 0, "min_rps": 10, "window": "1s",
                     "mode": "enforce"},
        "fallback": [{"on": ["open", "throttled"], "respond": {"status": 200}}]"#,
    );
    assert_eq!(policy.matches.authority[0].as_str(), "api.*.com", "hosts are equal whatever their case");
    assert_eq!(policy.matches.route.len(), 2);
    assert_eq!(policy.matches.headers[0].0, "x-tenant");
    assert_eq!(policy.scope.by, [Dimension::Route, Dimension::Header("x-tenant".into())]);
    assert_eq!(policy.outcome.failure_status.ranges(), [(429, 429), (500, 502), (504, 504)]);
    assert_eq!(policy.outcome.slow_after, Some(Duration::from_millis(1500)));
    let breaker = policy.breaker.unwrap();
    assert_eq!(breaker.mode, Mode::Enforce, "a feature's own mode goes before the policy's");
    assert_eq!((breaker.window, breaker.open_growth), (Window::Count(100.try_into().unwrap()), 1500));
    assert_eq!(policy.concurrency.unwrap().mode, Mode::Shadow, "without one the policy's holds");
    assert_eq!(policy.throttle.unwrap().aggression, 2500);
    assert!(policy.fallback[0].on.contains(Reason::Throttled) && !policy.fallback[0].on.contains(Reason::Failure));
}

#[test]
fn names_are_unique_words() {
    assert_eq!(
        wrong(r#"{"policies": [{"name": "a"}, {"name": "Orders API"}, {"name": "a"}, {}, {"name": 7}]}"#),
        "policies[1].name: must be 1 to 63 characters of a-z, 0-9, _ and -, was \"Orders API\"\n\
         policies[2].name: must be unique, \"a\" is already policies[0].name\n\
         policies[3].name: is missing; must be 1 to 63 characters of a-z, 0-9, _ and -\n\
         policies[4].name: must be 1 to 63 characters of a-z, 0-9, _ and -, was the number 7"
    );
    assert!(wrong(&format!(r#"{{"policies": [{{"name": "{}"}}]}}"#, "a".repeat(64))).ends_with("aaa...\""));
}

#[test]
fn what_later_versions_bring_is_not_supported_yet() {
    assert_eq!(
        wrong_policy(r#""retry": {"max_retries": 3}, "outlier": {}"#),
        "retry: not supported yet\noutlier: not supported yet"
    );
    assert_eq!(
        wrong_policy(
            r#""fallback": [{"on": ["no_host", "failure"], "stale": {}}, {"on": ["retries_exhausted"], "route": {}},
                            {"on": ["failure"], "call": {}}]"#
        ),
        "fallback[0].stale: not supported yet\n\
         fallback[0].on[0]: \"no_host\" is not supported yet\n\
         fallback[1].route: not supported yet\n\
         fallback[1].on[0]: \"retries_exhausted\" is not supported yet\n\
         fallback[2].call: not supported yet"
    );
}

// Matching and scope.

#[test]
fn bad_conditions_are_refused() {
    assert_eq!(
        wrong_policy(
            r#""match": {"path": ["/a***", ""], "cluster": 7, "route": [7], "method": [], "header": {":path": "a",
                         "x a": "b", "X-A": "1", "x-a": "2", "x-b": null}}"#
        ),
        "match.cluster: must be a list of globs such as [\"a*\"], was the number 7\n\
         match.route[0]: must be a glob such as \"a*\", was the number 7\n\
         match.path[0]: must have at most two stars in a row, was \"/a***\"\n\
         match.path[1]: must not be empty (\"**\" matches everything), was \"\"\n\
         match.method: must not be empty; leave the key out to match everything\n\
         match.header[\":path\"]: must be a header name (letters, digits, \"-\"), was \":path\"; match has a key of its \
         own for it\n\
         match.header[\"x a\"]: must be a header name (letters, digits, \"-\"), was \"x a\"\n\
         match.header[\"x-a\"]: is the same header as another one here; case does not count\n\
         match.header[\"x-b\"]: must be a glob such as \"a*\", was null"
    );
}

#[test]
fn a_path_has_segments_and_a_cluster_has_none() {
    let matches = policy(r#""match": {"path": "/a/*", "cluster": "a/*", "authority": "*.example.com"}"#).matches;
    assert!(!matches.path[0].matches(b"/a/b/c"));
    assert!(matches.cluster[0].matches(b"a/b/c"));
    assert!(!matches.authority[0].matches(b"a.b.example.com"));
}

#[test]
fn scopes_are_known_and_different() {
    assert_eq!(policy(r#""scope": []"#).scope.by, [], "one state for the policy");
    assert_eq!(
        wrong_policy(
            r#""scope": ["cluster", "clusters", {"header": "X-A"}, "cluster", {"header": "x-a"}, {"header": ":path"}, {}, 7],
               "max_keys": 0"#
        ),
        "scope[1]: must be one of \"cluster\", \"route\", \"authority\", {\"header\": \"x-tenant\"}, was \"clusters\"; \
         did you mean \"cluster\"?\n\
         scope[3]: is the same as policies[0].scope[0]\n\
         scope[4]: is the same as policies[0].scope[2]\n\
         scope[5].header: must be a header name (letters, digits, \"-\"), was \":path\"; match has a key of its own for \
         it\n\
         scope[6].header: is missing; must be a header name\n\
         scope[7]: must be one of \"cluster\", \"route\", \"authority\", {\"header\": \"x-tenant\"}, was the number 7\n\
         max_keys: must be within 1..=4096, was 0"
            .replace("policies[0].", "")
    );
}

// Outcome.

#[test]
fn a_sub_key_of_outcome_replaces_only_its_own_default() {
    let outcome = policy(r#""outcome": {"failure": {"status": []}}"#).outcome;
    assert!(outcome.failure_status.ranges().is_empty());
    assert_eq!(outcome.failure_grpc, defaults::outcome().failure_grpc);
    assert!(outcome.failure_local);
}

#[test]
fn statuses_are_statuses() {
    assert_eq!(
        wrong_policy(
            r#""outcome": {"failure": {"status": ["599-500", "5xx", "+50", 600, "99", 503.5, true, "500-"],
                                       "grpc_status": ["CANCELED", 17, "", null], "local": 1},
                           "ignore": {"status": 404, "local": true}, "slow_after": 5}"#
        ),
        "outcome.failure.status[0]: must be an ascending range, was \"599-500\"\n\
         outcome.failure.status[1]: must be a status like 503 or a range like \"500-599\" within 100..=599, was \"5xx\"\n\
         outcome.failure.status[2]: must be a status like 503 or a range like \"500-599\" within 100..=599, was \"+50\"\n\
         outcome.failure.status[3]: must be within 100..=599, was 600\n\
         outcome.failure.status[4]: must be a status like 503 or a range like \"500-599\" within 100..=599, was \"99\"\n\
         outcome.failure.status[5]: must be a whole number within 100..=599, was 503.5\n\
         outcome.failure.status[6]: must be a status like 503 or a range like \"500-599\" within 100..=599, was true\n\
         outcome.failure.status[7]: must be a status like 503 or a range like \"500-599\" within 100..=599, was \"500-\"\n\
         outcome.failure.grpc_status[0]: must be a gRPC status, a name such as \"UNAVAILABLE\" or a number within \
         0..=16, was \"CANCELED\"; did you mean \"CANCELLED\"?\n\
         outcome.failure.grpc_status[1]: must be within 0..=16, was 17\n\
         outcome.failure.grpc_status[2]: must be a gRPC status, a name such as \"UNAVAILABLE\" or a number within \
         0..=16, was \"\"\n\
         outcome.failure.grpc_status[3]: must be a gRPC status, a name such as \"UNAVAILABLE\" or a number within \
         0..=16, was null\n\
         outcome.failure.local: must be true or false, was the number 1\n\
         outcome.ignore.local: unknown key; accepted here: status, grpc_status\n\
         outcome.ignore.status: must be a list of statuses such as [\"500-599\", 429], was the number 404\n\
         outcome.slow_after: must be a duration within 1ms..=1h such as \"250ms\", \"10s\" or \"1m30s\", was the number 5"
    );
}

// Breaker, concurrency and throttle.

#[test]
fn the_documented_error_is_said_in_the_documented_words() {
    assert_eq!(
        wrong(r#"{"policies": [{"name": "a", "breaker": {"failure_rate": 140}}]}"#),
        "policies[0].breaker.failure_rate: must be within 0..=100, was 140"
    );
    assert_eq!(
        wrong_policy(r#""breaker": {"failure_rate": "x"}"#),
        "breaker.failure_rate: must be a number within 0..=100, was the string \"x\""
    );
}

#[test]
fn every_limit_of_the_breaker_holds() {
    for (keys, error) in [
        (r#""window": "99ms""#, "breaker.window: must be within 100ms..=1h, was \"99ms\""),
        (r#""window": "1h1ns""#, "breaker.window: must be within 100ms..=1h, was \"1h1ns\""),
        (r#""window": 0"#, "breaker.window: must be within 1..=1000, was 0"),
        (r#""window": 1001"#, "breaker.window: must be within 1..=1000, was 1001"),
        (
            r#""window": null"#,
            "breaker.window: must be a duration within 100ms..=1h such as \"10s\", or a number of outcomes within \
             1..=1000, was null",
        ),
        (r#""min_requests": 0"#, "breaker.min_requests: must be within 1..=1000000, was 0"),
        (r#""min_requests": 1000001"#, "breaker.min_requests: must be within 1..=1000000, was 1000001"),
        (r#""slow_rate": 100.5"#, "breaker.slow_rate: must be within 0..=100, was 100.5"),
        (r#""consecutive_failures": 1001"#, "breaker.consecutive_failures: must be within 0..=1000, was 1001"),
        (r#""open_for": "0s""#, "breaker.open_for: must be within 1ms..=24h, was \"0s\""),
        (
            r#""open_for": "10 s""#,
            "breaker.open_for: must be a duration within 1ms..=24h such as \"250ms\", \"10s\" or \"1m30s\", was \
             \"10 s\"",
        ),
        (r#""open_growth": 0.5"#, "breaker.open_growth: must be within 1..=10, was 0.5"),
        (r#""open_max": "25h""#, "breaker.open_max: must be within 1ms..=24h, was \"25h\""),
        (r#""open_max": "29.9s""#, "breaker.open_max: must be at least open_for (30s), was \"29.9s\""),
        (r#""open_jitter": 101"#, "breaker.open_jitter: must be within 0..=100, was 101"),
        (r#""honor_retry_after": "yes""#, "breaker.honor_retry_after: must be true or false, was the string \"yes\""),
        (r#""half_open": {"probes": 101}"#, "breaker.half_open.probes: must be within 1..=100, was 101"),
        (r#""half_open": {"lease": "9ms"}"#, "breaker.half_open.lease: must be within 10ms..=1h, was \"9ms\""),
        (r#""half_open": 5"#, "breaker.half_open: must be an object with the keys probes, lease, was the number 5"),
        (r#""ramp": "61m""#, "breaker.ramp: must be within 0s..=1h, was \"61m\""),
        (r#""state": "open""#, "breaker.state: must be one of auto, forced_open, forced_closed, was \"open\""),
        (r#""mode": "on""#, "breaker.mode: must be one of enforce, shadow, off, was \"on\""),
    ] {
        assert_eq!(wrong_policy(&format!(r#""breaker": {{{keys}}}"#)), error);
    }
}

#[test]
fn the_volume_fits_in_a_window_of_outcomes() {
    assert_eq!(
        wrong_policy(r#""breaker": {"window": 10, "min_requests": 11}"#),
        "breaker.min_requests: must be at most the 10 outcomes of window, or nothing opens it; was 11"
    );
    let breaker = policy(r#""breaker": {"window": 10}"#).breaker.unwrap();
    assert_eq!(breaker.min_requests.get(), 10, "the default gives way to a small window");
}

#[test]
fn a_slow_rate_needs_to_know_what_is_slow() {
    assert_eq!(
        wrong_policy(r#""breaker": {"slow_rate": 50}"#),
        "breaker.slow_rate: needs outcome.slow_after, which says what is slow"
    );
    assert_eq!(
        wrong_policy(r#""breaker": {"slow_rate": 50}, "outcome": {"slow_after": "0s"}"#),
        "outcome.slow_after: must be within 1ms..=1h, was \"0s\"",
        "a wrong one is there"
    );
    assert!(policy(r#""breaker": {"slow_rate": 0}"#).breaker.is_some());
}

#[test]
fn a_breaker_that_nothing_can_open_is_refused_unless_it_is_meant() {
    assert_eq!(
        wrong_policy(r#""breaker": {"failure_rate": 0}"#),
        "breaker: can never open: failure_rate, slow_rate and consecutive_failures are all 0; give one of them, or set \
         state"
    );
    assert!(policy(r#""breaker": {"failure_rate": 0, "state": "forced_closed"}"#).breaker.is_some());
    assert!(policy(r#""breaker": {"failure_rate": 0, "consecutive_failures": 1}"#).breaker.is_some());
}

#[test]
fn a_long_first_period_raises_the_default_maximum() {
    let breaker = policy(r#""breaker": {"open_for": "10m"}"#).breaker.unwrap();
    assert_eq!(breaker.open_max, Duration::from_secs(600));
}

#[test]
fn a_wrong_value_makes_no_second_error_by_contradiction() {
    assert_eq!(wrong_policy(r#""breaker": {"open_for": "1x", "open_max": "1ms"}"#).lines().count(), 1);
    assert_eq!(wrong_policy(r#""breaker": {"window": 0, "min_requests": 5000}"#).lines().count(), 1);
    assert_eq!(wrong_policy(r#""breaker": {"failure_rate": -1}"#).lines().count(), 1);
}

#[test]
fn concurrency_and_throttle_have_limits() {
    assert_eq!(
        wrong_policy(
            r#""concurrency": {"max_request": 0}, "throttle": {"success_rate": 0, "aggression": 11,
               "max_rejection": -1, "min_rps": 1000001, "window": "500ms", "mode": 1}"#
        ),
        "concurrency.max_request: unknown key; accepted here: max_requests, mode; did you mean \"max_requests\"?\n\
         concurrency.max_requests: is missing; must be a whole number within 1..=1000000\n\
         throttle.success_rate: must be within 1..=100, was 0\n\
         throttle.aggression: must be within 1..=10, was 11\n\
         throttle.max_rejection: must be within 0..=100, was -1\n\
         throttle.min_rps: must be within 0..=1000000, was 1000001\n\
         throttle.window: must be within 1s..=1h, was \"500ms\"\n\
         throttle.mode: must be one of enforce, shadow, off, was the number 1"
    );
}

// Fallback.

#[test]
fn a_reason_that_can_never_happen_is_refused() {
    assert_eq!(
        wrong_policy(
            r#""concurrency": {"max_requests": 1, "mode": "off"},
               "fallback": [{"on": ["open", "concurrency", "throttled", "failure", "timeout"],
                             "respond": {"status": 503}}]"#
        ),
        "fallback[0].on[0]: \"open\" can never happen: the policy has no breaker\n\
         fallback[0].on[1]: \"concurrency\" can never happen: the policy's concurrency is off\n\
         fallback[0].on[2]: \"throttled\" can never happen: the policy has no throttle"
    );
}

#[test]
fn a_whole_policy_can_be_switched_off_with_one_word() {
    let policy = policy(r#""mode": "off", "breaker": {}, "fallback": [{"on": ["open"], "respond": {"status": 503}}]"#);
    assert_eq!(policy.breaker.unwrap().mode, Mode::Off);
}

#[test]
fn a_broken_feature_is_not_also_a_missing_one() {
    let errors = wrong_policy(r#""breaker": 7, "fallback": [{"on": ["open"], "respond": {"status": 503}}]"#);
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn an_entry_names_reasons_and_does_one_thing() {
    assert_eq!(
        wrong_policy(
            r#""fallback": [{}, {"on": [], "respond": 7}, {"on": "failure", "respond": {"status": 503}},
                            {"on": ["failure", "failure", "fail", 7], "respond": {"status": 503}}, null]"#
        ),
        "fallback[0].on: is missing; must be a list of reasons such as [\"open\"]\n\
         fallback[0].respond: is missing; must be an object such as {\"status\": 503}\n\
         fallback[1].on: must name at least one reason\n\
         fallback[1].respond: must be an object with the keys status, headers, body, grpc_status, was the number 7\n\
         fallback[2].on: must be a list of reasons such as [\"open\"], was the string \"failure\"\n\
         fallback[3].on[1]: must be a reason that is not in the list yet, was \"failure\"\n\
         fallback[3].on[2]: must be one of open, concurrency, throttled, failure, timeout, was \"fail\"\n\
         fallback[3].on[3]: must be one of open, concurrency, throttled, failure, timeout, was the number 7\n\
         fallback[4]: must be an object with the keys on, respond, was null"
    );
}

#[test]
fn a_json_body_is_sent_as_it_was_written_without_variables() {
    let response = respond(r#""status": 200, "body": {"z": [1, 2.5, null], "a": "${reason} é"}"#);
    assert_eq!(response.body, [TemplatePart::Text(r#"{"z":[1,2.5,null],"a":"${reason} é"}"#.into())]);
    assert_eq!(response.headers, [("content-type".to_owned(), "application/json".to_owned())]);
    assert_eq!(response.grpc_status, 14);
    assert_eq!(respond(r#""status": 200, "body": null"#).body, [TemplatePart::Text("null".into())]);
}

#[test]
fn a_string_body_is_a_template_escaped_for_its_content_type() {
    let response = respond(r#""status": 503, "body": "closed: ${reason}""#);
    assert_eq!(response.body, [TemplatePart::Text("closed: ".into()), TemplatePart::Reason]);
    assert_eq!(response.headers, [("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())]);
    assert_eq!(response.escape, Escape::None);

    let json = respond(
        r#""status": 503, "headers": {"Content-Type": "application/problem+json"}, "body": "{\"at\":\"${path}\"}",
           "grpc_status": "RESOURCE_EXHAUSTED""#,
    );
    assert_eq!(json.escape, Escape::Json);
    assert_eq!(json.headers.len(), 1, "a content type that is given is kept");
    assert_eq!(json.grpc_status, 8);
}

#[test]
fn no_body_needs_no_content_type() {
    let response = respond(r#""status": 204, "headers": {"X-A": "b c"}"#);
    assert_eq!(response.headers, [("x-a".to_owned(), "b c".to_owned())]);
    assert!(response.body.is_empty());
    assert!(respond(r#""status": 204, "body": """#).headers.is_empty(), "an empty body is none");
}

#[test]
fn a_response_that_would_break_the_message_is_refused() {
    assert_eq!(
        wrong_respond(
            r#""status": 199, "headers": {"content-length": "5", "Connection": "close", "x-holdfast-fallback": "x",
               ":status": "200", "x-a": "a\r\nb: c", "x-b": " b", "x-c": 7, "x-d": "1", "X-D": "2"},
               "body": "${nope}", "grpc_status": 17"#
        ),
        "respond.status: must be within 200..=599, was 199\n\
         respond.headers[\"content-length\"]: may not be set: it follows from the body\n\
         respond.headers.Connection: may not be set: it belongs to the connection\n\
         respond.headers[\"x-holdfast-fallback\"]: may not be set: x-holdfast- headers are Holdfast's own\n\
         respond.headers[\":status\"]: must be a header name (letters, digits, \"-\"), was \":status\"\n\
         respond.headers[\"x-a\"]: must be a text of printable ASCII characters, with no space at its ends, was \
         \"a\\u000d\\u000ab: c\"\n\
         respond.headers[\"x-b\"]: must be a text of printable ASCII characters, with no space at its ends, was \" b\"\n\
         respond.headers[\"x-c\"]: must be a text of printable ASCII characters, with no space at its ends, was the \
         number 7\n\
         respond.headers[\"X-D\"]: is the same header as another one here; case does not count\n\
         respond.body: unknown variable \"nope\"; accepted here: ${reason}, ${policy}, ${retry_after}, ${path}, \
         ${header.NAME}\n\
         respond.grpc_status: must be within 0..=16, was 17"
    );
    assert_eq!(wrong_respond(""), "respond.status: is missing; must be a whole number within 200..=599");
    assert_eq!(
        wrong_respond(r#""status": 204, "body": {}"#),
        "respond.body: must not be there: a response with status 204 has no body"
    );
}

#[test]
fn a_body_is_at_most_a_mebibyte() {
    let body = |bytes: usize| format!(r#""status": 200, "body": "{}""#, "a".repeat(bytes));
    assert_eq!(respond(&body(1024 * 1024)).body.len(), 1);
    assert_eq!(
        wrong_respond(&body(1024 * 1024 + 1)),
        "respond.body: must be at most 1 MiB (1048576 bytes) long, was 1048577 bytes"
    );
    let list = format!(r#""status": 200, "body": ["{}"]"#, "a".repeat(1024 * 1024));
    assert!(wrong_respond(&list).ends_with("was 1048580 bytes"));
}
