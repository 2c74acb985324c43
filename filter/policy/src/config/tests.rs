//! Whole documents: what they compile to, and what is said when they do not; and that the JSON Schema says the same.

use core::num::NonZeroU16;
use core::time::Duration;

// In Node there is no validator: the schema is held against the parser natively only.
#[cfg(not(target_arch = "wasm32"))]
use super::schema::agreement::parse;
use super::*;
use crate::document::{
    Balance, BreakerControl, Call, ClientGone, Detector, Dimension, Escape, FallbackKind, HashBy, HeartbeatCheck,
    Jitter, Match, Mode, NamedHost, Outlier, Policy, Reason, Retry, RetryWord, Route, Stale, StaticResponse,
    TemplatePart, Window,
};
use crate::glob::Glob;
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

/// The retry block with these keys.
fn retry(keys: &str) -> Retry {
    policy(&format!(r#""retry": {{{keys}}}"#)).retry.unwrap()
}

/// What is wrong with the retry block with these keys.
fn wrong_retry(keys: &str) -> String {
    wrong_policy(&format!(r#""retry": {{{keys}}}"#))
}

/// The outlier block with these keys.
fn outlier(keys: &str) -> Outlier {
    policy(&format!(r#""outlier": {{{keys}}}"#)).outlier.unwrap()
}

/// What is wrong with the outlier block with these keys.
fn wrong_outlier(keys: &str) -> String {
    wrong_policy(&format!(r#""outlier": {{{keys}}}"#))
}

fn text(text: &str) -> TemplatePart {
    TemplatePart::Text(text.to_owned())
}

fn respond(keys: &str) -> StaticResponse {
    let policy = policy(&format!(r#""fallback": [{{"on": ["failure"], "respond": {{{keys}}}}}]"#));
    match policy.fallback.into_iter().next().unwrap().kind {
        FallbackKind::Static(response) => response,
        FallbackKind::Stale(_) | FallbackKind::Route(_) | FallbackKind::Call(_) => panic!("it is a fixed one"),
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
    assert_eq!(wrong(" \n"), "document: must be a JSON object {\"policies\": [...]}, was empty");
    assert_eq!(wrong(""), wrong("{}"), "no bytes are an empty google.protobuf.Struct too");
    assert_eq!(wrong("[1]"), "document: must be an object with the keys policies, was a list");
    let missing = "policies: is missing; must be a list of policies, [] lets everything pass; the document is empty";
    assert_eq!(wrong("{}"), missing);
    assert_eq!(wrong(r#"{"policies": {}}"#), "policies: must be a list of policies, was an object");
    assert_eq!(wrong(r#"{"policies": [7]}"#).lines().count(), 1);
}

#[test]
fn numbers_with_decimals_in_a_struct_may_be_texts() {
    use prost::Message;
    let text = |text: &str| prost_types::Value::from(text.to_owned());
    let object = |entries: Vec<(&str, prost_types::Value)>| {
        let fields = entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        prost_types::Value::from(prost_types::value::Kind::StructValue(prost_types::Struct { fields }))
    };
    let policy = |rate: &str| {
        let policy = object(vec![("name", text("p")), ("breaker", object(vec![("failure_rate", text(rate))]))]);
        let list = prost_types::ListValue { values: vec![policy] };
        let policies = ("policies".to_owned(), prost_types::value::Kind::ListValue(list).into());
        prost_types::Struct { fields: [policies].into() }.encode_to_vec()
    };
    let bytes = policy("62.5");
    let document = crate::config::parse(&bytes).unwrap();
    assert_eq!(document.policies[0].breaker.as_ref().unwrap().failure_rate, Percent::from_f64(62.5).unwrap());
    let published = crate::config::policy_texts(&bytes).remove(0);
    assert_eq!(
        crate::config::parse_struct_json(published.as_bytes()).unwrap(),
        document,
        "what is published says the same"
    );
    for (rate, problem) in [
        ("162.5", "must be within 0..=100, was \"162.5\""),
        ("inf", "must be a number within 0..=100, was the string \"inf\""),
        ("", "must be a number within 0..=100, was the string \"\""),
    ] {
        let errors = crate::config::parse(&policy(rate)).unwrap_err();
        assert_eq!(errors.to_string(), format!("policies[0].breaker.failure_rate: {problem}"));
    }
    assert_eq!(
        wrong_policy(r#""breaker": {"failure_rate": "62.5"}"#),
        "breaker.failure_rate: must be a number within 0..=100, was the string \"62.5\"",
        "in JSON a text is none"
    );
}

#[test]
fn off_that_became_false_is_told_as_such() {
    assert_eq!(
        wrong_policy(r#""mode": false"#),
        "mode: must be one of enforce, shadow, off, was false; YAML may read off without quotes as false, write \"off\""
    );
    assert_eq!(wrong_policy(r#""mode": true"#), "mode: must be one of enforce, shadow, off, was true");
}

#[test]
fn a_syntax_error_has_its_line_and_column() {
    assert_eq!(
        wrong("{\n  \"policies\": [\n    {name: 1}\n  ]\n}"),
        "document: not valid JSON at line 3, column 6: key must be a string"
    );
    assert_eq!(wrong("policy"), "document: not valid JSON at line 1, column 1: expected value");
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
    assert!(policy.retry.is_none() && policy.outlier.is_none());
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

    let retry = retry("");
    assert_eq!(retry, defaults::retry(Mode::Enforce));
    assert_eq!(retry.max_retries, 2);
    let words: Vec<&str> = retry.on.words.iter().map(RetryWord::name).collect();
    assert_eq!(words, ["gateway-error", "reset", "connect-failure", "refused-stream"]);
    assert!(retry.on.statuses.ranges().is_empty());
    assert_eq!(retry.methods, ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);
    assert_eq!(retry.idempotency_header, "idempotency-key");
    assert_eq!((retry.per_try_timeout, retry.timeout), (None, None));
    let backoff = retry.backoff;
    assert_eq!((backoff.base, backoff.max), (Duration::from_millis(25), Duration::from_millis(250)));
    assert_eq!(backoff.jitter, Jitter::Full);
    assert_eq!((retry.retry_after.honor, retry.retry_after.max), (true, Duration::from_secs(300)));
    assert_eq!((retry.budget.ratio, retry.budget.min_per_second), (Percent::whole(20), 10_000));
    assert_eq!(retry.budget.window, Duration::from_secs(10));
    assert!(retry.skip_retries_of_retries && !retry.hedge_on_per_try_timeout);

    let outlier = outlier("");
    assert_eq!(outlier, defaults::outlier(Mode::Enforce));
    assert_eq!(outlier.consecutive_failures.unwrap().limit.get(), 5);
    let on = Detector::ALL.into_iter().filter(|detector| outlier.mode_of(*detector) != Mode::Off).collect::<Vec<_>>();
    assert_eq!(on, [Detector::ConsecutiveFailures], "the others are off");
    assert_eq!(outlier.interval, Duration::from_secs(10));
    assert_eq!(outlier.base_ejection_time, Duration::from_secs(30));
    assert_eq!(outlier.max_ejection_time, Duration::from_secs(300));
    assert_eq!((outlier.ejection_jitter, outlier.max_ejected), (Percent::whole(10), Percent::whole(50)));
    assert_eq!((outlier.always_eject_one, outlier.panic_threshold), (true, Percent::whole(50)));
    assert_eq!((outlier.probe_requests.get(), outlier.slow_start), (1, Duration::ZERO));
    assert!(outlier.hosts.is_empty() && outlier.discover.is_none());

    let scope = defaults::scope();
    assert_eq!((scope.by, scope.max_keys.get()), (vec![Dimension::Cluster], 256));

    let outcome = defaults::outcome();
    assert_eq!(outcome.failure_status.ranges(), [(500, 599)]);
    let failures: Vec<u8> = (0..=16).filter(|status| outcome.failure_grpc.contains(*status)).collect();
    assert_eq!(failures, [2, 4, 13, 14, 15]);
    assert!(outcome.failure_local && outcome.failure_broken);
    assert!(outcome.failure_headers.is_empty() && outcome.ignore_headers.is_empty());
    assert_eq!(outcome.client_gone, ClientGone::Auto);
}

#[test]
fn everything_can_be_given() {
    let policy = policy(
        r#"
        "match": {"cluster": "outbound|*", "route": ["a", "b*"], "authority": ["API.*.com"], "path": "/a/**",
                  "method": ["GET"], "header": {"X-Tenant": "a*"}},
        "scope": ["route", {"header": "X-Tenant"}], "max_keys": 4096, "mode": "shadow",
        "outcome": {"failure": {"status": ["500-502", "504", 429], "grpc_status": ["INTERNAL", 14], "local": false,
                                "broken": false, "header": {"X-App-Error": "*", "x-status": "E*"}},
                    "ignore": {"status": [404], "grpc_status": [0], "header": {"X-Cache": "HIT"}}, "slow_after": "1.5s",
                    "client_gone": "ignore"},
        "breaker": {"window": 100, "min_requests": 100, "failure_rate": 62.5, "slow_rate": 80,
                    "consecutive_failures": 7, "open_for": "1s", "open_growth": 1.5, "open_max": "1s",
                    "open_jitter": 0, "honor_retry_after": false, "half_open": {"probes": 100, "lease": "10ms"},
                    "ramp": "1h", "state": "forced_closed", "mode": "enforce"},
        "concurrency": {"max_requests": 1000000},
        "throttle": {"success_rate": 90, "aggression": 2.5, "max_rejection": 0, "min_rps": 10, "window": "1s",
                     "mode": "enforce"},
        "retry": {"max_retries": 20, "on": ["5xx", "unavailable", 429, "409", "500-503"], "methods": ["GET", "POST"],
                  "idempotency_header": "X-Request-Key", "per_try_timeout": "1s", "timeout": "1s",
                  "backoff": {"base": "1m", "max": "5m", "jitter": "decorrelated"},
                  "retry_after": {"honor": false, "max": "0s"},
                  "budget": {"ratio": 12.5, "min_per_second": 0.25, "window": "5m"},
                  "skip_retries_of_retries": false, "hedge_on_per_try_timeout": true, "mode": "enforce"},
        "fallback": [{"on": ["open", "throttled", "retries_exhausted"], "respond": {"status": 200}}]"#,
    );
    assert_eq!(policy.matches.authority[0].as_str(), "api.*.com", "hosts are equal whatever their case");
    assert_eq!(policy.matches.route.len(), 2);
    assert_eq!(policy.matches.headers[0].0, "x-tenant");
    assert_eq!(policy.scope.by, [Dimension::Route, Dimension::Header("x-tenant".into())]);
    assert_eq!(policy.outcome.failure_status.ranges(), [(429, 429), (500, 502), (504, 504)]);
    assert_eq!(policy.outcome.slow_after, Some(Duration::from_millis(1500)));
    assert!(!policy.outcome.failure_broken);
    assert_eq!(policy.outcome.client_gone, ClientGone::Ignore);
    let headers = |rules: &[(String, Glob)]| -> Vec<String> {
        rules.iter().map(|(name, glob)| format!("{name}: {}", glob.as_str())).collect()
    };
    assert_eq!(
        headers(&policy.outcome.failure_headers),
        ["x-app-error: *", "x-status: E*"],
        "the case of values counts"
    );
    assert_eq!(headers(&policy.outcome.ignore_headers), ["x-cache: HIT"]);
    let breaker = policy.breaker.unwrap();
    assert_eq!(breaker.mode, Mode::Enforce, "a feature's own mode goes before the policy's");
    assert_eq!((breaker.window, breaker.open_growth), (Window::Count(100.try_into().unwrap()), 1500));
    assert_eq!(policy.concurrency.unwrap().mode, Mode::Shadow, "without one the policy's holds");
    assert_eq!(policy.throttle.unwrap().aggression, 2500);
    let retry = policy.retry.unwrap();
    assert_eq!((retry.mode, retry.max_retries), (Mode::Enforce, 20));
    assert!(retry.on.words.iter().eq([RetryWord::FiveXx, RetryWord::Unavailable]));
    assert_eq!(retry.on.statuses.ranges(), [(409, 409), (429, 429), (500, 503)], "words and statuses share a list");
    assert_eq!(retry.methods, ["GET", "POST"]);
    assert_eq!(retry.idempotency_header, "x-request-key");
    let second = Some(Duration::from_secs(1));
    assert_eq!((retry.per_try_timeout, retry.timeout), (second, second));
    assert_eq!((retry.backoff.base, retry.backoff.max), (Duration::from_secs(60), Duration::from_secs(300)));
    assert_eq!(retry.backoff.jitter, Jitter::Decorrelated);
    assert_eq!((retry.retry_after.honor, retry.retry_after.max), (false, Duration::ZERO));
    assert_eq!((retry.budget.ratio.millis(), retry.budget.min_per_second), (12_500, 250));
    assert_eq!(retry.budget.window, Duration::from_secs(300));
    assert!(!retry.skip_retries_of_retries && retry.hedge_on_per_try_timeout);
    assert!(policy.fallback[0].on.contains(Reason::RetriesExhausted));
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
        wrong_policy(
            r#""breaker": {}, "fallback": [{"on": ["open"], "route": {"cluster": "a", "header": {"x-a": "b"}}}]"#
        ),
        "fallback[0].route.header: not supported yet"
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
    let outcome = policy(r#""outcome": {"failure": {"header": {"x-app-error": "*"}}}"#).outcome;
    assert_eq!(outcome.failure_status, defaults::outcome().failure_status);
    assert!(outcome.failure_broken);
}

#[test]
fn a_response_is_judged_by_headers_of_the_service() {
    for block in ["failure", "ignore"] {
        let outcome = |header: &str| wrong_policy(&format!(r#""outcome": {{"{block}": {{"header": {header}}}}}"#));
        let at = format!("outcome.{block}.header");
        let refused = [
            (
                r#"["x-app-error"]"#,
                ": must be an object of header names and globs such as {\"x-app-error\": \"*\"}, was a list",
            ),
            (
                r#"{":status": "5*"}"#,
                r#"[":status"]: must be a header name (letters, digits, "-"), was ":status"; outcomes have a key of their own for it, status"#,
            ),
            (
                r#"{"grpc-status": "14"}"#,
                r#"["grpc-status"]: has a key of its own: use grpc_status beside header, which is read from trailers too"#,
            ),
            (r#"{"Connection": "close"}"#, ".Connection: says nothing of the service: it belongs to the connection"),
            (
                r#"{"x-holdfast-retry": "1"}"#,
                r#"["x-holdfast-retry"]: says nothing of the service: x-holdfast- headers are Holdfast's own"#,
            ),
            (r#"{"x-a": ""}"#, r#"["x-a"]: must not be empty ("**" matches everything), was """#),
            (r#"{"x-a": 1}"#, r#"["x-a"]: must be a glob such as "a*", was the number 1"#),
            (r#"{"x-a": "1", "X-A": "2"}"#, r#"["X-A"]: is the same header as another one here; case does not count"#),
        ];
        for (header, problem) in refused {
            assert_eq!(outcome(header), format!("{at}{problem}"), "{header}");
        }
        let many: Vec<String> = (0..=100).map(|at| format!("\"x-{at}\": \"*\"")).collect();
        assert_eq!(
            outcome(&format!("{{{}}}", many.join(","))),
            format!("{at}: must have at most 100 headers, has 101")
        );
        assert!(policy(&format!(r#""outcome": {{"{block}": {{"header": {{}}}}}}"#)).outcome == defaults::outcome());
    }
}

#[test]
fn misspelt_keys_of_outcome_are_told_what_was_meant() {
    assert_eq!(
        wrong_policy(
            r#""outcome": {"client_left": "auto", "failure": {"headers": {}, "brocken": true, "broken": 1}, "client_gone": "slow"}"#
        ),
        "outcome.client_left: unknown key; accepted here: failure, ignore, slow_after, client_gone\n\
         outcome.failure.headers: unknown key; accepted here: status, grpc_status, header, local, broken; did you mean \
         \"header\"?\n\
         outcome.failure.brocken: unknown key; accepted here: status, grpc_status, header, local, broken; did you mean \
         \"broken\"?\n\
         outcome.failure.broken: must be true or false, was the number 1\n\
         outcome.client_gone: must be one of auto, ignore, was \"slow\""
    );
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
         outcome.ignore.local: unknown key; accepted here: status, grpc_status, header\n\
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

// Retry.

/// Everything that `on` takes, as errors say it.
const ON: &str = "must be one of 5xx, gateway-error, reset, reset-before-request, connect-failure, envoy-ratelimited, \
                  retriable-4xx, refused-stream, retriable-status-codes, retriable-headers, \
                  http3-post-connect-failure, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable, \
                  or a status like 503 or a range like \"500-599\" within 100..=599";

#[test]
fn the_policys_mode_holds_for_retries_that_have_none_of_their_own() {
    let mode = |keys: &str| policy(keys).retry.unwrap().mode;
    assert_eq!(mode(r#""retry": {}"#), Mode::Enforce);
    assert_eq!(mode(r#""mode": "shadow", "retry": {}"#), Mode::Shadow);
    assert_eq!(mode(r#""mode": "shadow", "retry": {"mode": "enforce"}"#), Mode::Enforce);
    assert_eq!(mode(r#""retry": {"mode": "off"}"#), Mode::Off);
}

#[test]
fn every_limit_of_retries_holds() {
    for (keys, error) in [
        (r#""max_retries": 21"#, "retry.max_retries: must be within 0..=20, was 21"),
        (r#""max_retries": 1.5"#, "retry.max_retries: must be a whole number within 0..=20, was 1.5"),
        (
            r#""idempotency_header": ":path""#,
            "retry.idempotency_header: must be a header name (letters, digits, \"-\"), \
            was \":path\"; match has a key of its own for it",
        ),
        (r#""idempotency_header": null"#, "retry.idempotency_header: must be a header name, was null"),
        (r#""per_try_timeout": "0s""#, "retry.per_try_timeout: must be within 1ms..=1h, was \"0s\""),
        (r#""timeout": "61m""#, "retry.timeout: must be within 1ms..=1h, was \"61m\""),
        (
            r#""timeout": 5"#,
            "retry.timeout: must be a duration within 1ms..=1h such as \"250ms\", \"10s\" or \"1m30s\", was the \
             number 5",
        ),
        (r#""backoff": {"base": "0s"}"#, "retry.backoff.base: must be within 1ms..=1m, was \"0s\""),
        (r#""backoff": {"max": "6m"}"#, "retry.backoff.max: must be within 1ms..=5m, was \"6m\""),
        (
            r#""backoff": {"jitter": "half"}"#,
            "retry.backoff.jitter: must be one of full, equal, decorrelated, none, was \"half\"",
        ),
        (
            r#""backoff": "25ms""#,
            "retry.backoff: must be an object with the keys base, max, jitter, was the string \"25ms\"",
        ),
        (
            r#""retry_after": {"honour": true}"#,
            "retry.retry_after.honour: unknown key; accepted here: honor, max; did \
            you mean \"honor\"?",
        ),
        (r#""retry_after": {"honor": 1}"#, "retry.retry_after.honor: must be true or false, was the number 1"),
        (r#""retry_after": {"max": "2h"}"#, "retry.retry_after.max: must be within 0s..=1h, was \"2h\""),
        (r#""budget": {"ratio": 101}"#, "retry.budget.ratio: must be within 0..=100, was 101"),
        (r#""budget": {"ratio": 0.0001}"#, "retry.budget.ratio: must be 0 or at least 0.001, was 0.0001"),
        (r#""budget": {"min_per_second": 10001}"#, "retry.budget.min_per_second: must be within 0..=10000, was 10001"),
        (
            r#""budget": {"min_per_second": 0.0001}"#,
            "retry.budget.min_per_second: must be 0 or at least 0.001, was 0.0001",
        ),
        (r#""budget": {"window": "999ms"}"#, "retry.budget.window: must be within 1s..=5m, was \"999ms\""),
        (r#""skip_retries_of_retries": 0"#, "retry.skip_retries_of_retries: must be true or false, was the number 0"),
        (r#""hedge_on_per_try_timeout": null"#, "retry.hedge_on_per_try_timeout: must be true or false, was null"),
        (r#""mode": "on""#, "retry.mode: must be one of enforce, shadow, off, was \"on\""),
        (
            r#""per_try_timout": "1s""#,
            "retry.per_try_timout: unknown key; accepted here: max_retries, on, methods, idempotency_header, \
             per_try_timeout, timeout, backoff, retry_after, budget, skip_retries_of_retries, \
             hedge_on_per_try_timeout, mode; did you mean \"per_try_timeout\"?",
        ),
    ] {
        assert_eq!(wrong_retry(keys), error);
    }
    assert_eq!(retry(r#""max_retries": 0"#).max_retries, 0);
}

#[test]
fn a_cause_of_a_retry_is_a_word_of_envoys_or_a_status() {
    assert_eq!(
        wrong_retry(
            r#""on": ["rest", "GATEWAY_ERROR", "reset", "reset", "4xx", "UNAVAILABLE", "nothing", "599-500", "600", 99,
                      503, 503, null]"#
        ),
        format!(
            "retry.on[0]: {ON}, was \"rest\"; did you mean \"reset\"?\n\
             retry.on[1]: {ON}, was \"GATEWAY_ERROR\"; did you mean \"gateway-error\"?\n\
             retry.on[3]: must be a word that is not in the list yet, was \"reset\"\n\
             retry.on[4]: {ON}, was \"4xx\"; did you mean \"400-499\"?\n\
             retry.on[5]: {ON}, was \"UNAVAILABLE\"; did you mean \"unavailable\"?\n\
             retry.on[6]: {ON}, was \"nothing\"\n\
             retry.on[7]: must be an ascending range, was \"599-500\"\n\
             retry.on[8]: must be a status like 503 or a range like \"500-599\" within 100..=599, was \"600\"\n\
             retry.on[9]: must be within 100..=599, was 99\n\
             retry.on[12]: {ON}, was null"
        )
    );
    assert_eq!(wrong_retry(r#""on": []"#), "retry.on: must name at least one word or status");
    assert_eq!(
        wrong_retry(r#""on": "gateway-error,reset""#),
        "retry.on: must be a list of words and statuses such as [\"gateway-error\", 429], was the string \
         \"gateway-error,reset\""
    );
}

#[test]
fn every_word_is_read_as_itself() {
    for word in RetryWord::ALL {
        let retry = retry(&format!(r#""on": ["{}"]"#, word.name()));
        assert!(retry.on.words.iter().eq([word]), "{}", word.name());
        assert!(retry.on.statuses.ranges().is_empty(), "{}", word.name());
    }
}

#[test]
fn methods_are_tokens_whose_case_counts() {
    assert_eq!(retry(r#""methods": ["PROPFIND", "GET"]"#).methods, ["PROPFIND", "GET"]);
    assert_eq!(
        wrong_retry(r#""methods": ["get", "GET", "Post", "GET", "", "A B", 7]"#),
        "retry.methods[0]: must be an HTTP method such as \"GET\", whose case counts, was \"get\"; did you mean \
         \"GET\"?\n\
         retry.methods[2]: must be an HTTP method such as \"GET\", whose case counts, was \"Post\"; did you mean \
         \"POST\"?\n\
         retry.methods[3]: must be a method that is not in the list yet, was \"GET\"\n\
         retry.methods[4]: must be an HTTP method such as \"GET\", whose case counts, was \"\"\n\
         retry.methods[5]: must be an HTTP method such as \"GET\", whose case counts, was \"A B\"\n\
         retry.methods[6]: must be an HTTP method such as \"GET\", whose case counts, was the number 7"
    );
    assert_eq!(wrong_retry(r#""methods": []"#), "retry.methods: must name at least one method");
    assert_eq!(
        wrong_retry(r#""methods": "GET""#),
        "retry.methods: must be a list of methods such as [\"GET\", \"PUT\"], was the string \"GET\""
    );
    let many: Vec<String> = (0..101).map(|index| format!(r#""M{index}""#)).collect();
    assert_eq!(
        wrong_retry(&format!(r#""methods": [{}]"#, many.join(","))),
        "retry.methods: must have at most 100 methods, has 101"
    );
}

#[test]
fn one_try_takes_no_longer_than_all_of_them() {
    assert_eq!(
        wrong_retry(r#""per_try_timeout": "2s", "timeout": "1s""#),
        "retry.per_try_timeout: must be at most timeout (1s), was \"2s\""
    );
    assert_eq!(retry(r#""per_try_timeout": "2s""#).timeout, None);
}

#[test]
fn waits_do_not_shrink() {
    assert_eq!(
        wrong_retry(r#""backoff": {"base": "1s", "max": "999ms"}"#),
        "retry.backoff.max: must be at least base (1s), was \"999ms\""
    );
    assert_eq!(
        wrong_retry(r#""backoff": {"max": "24ms"}"#),
        "retry.backoff.max: must be at least base (25ms), was \"24ms\""
    );
    let backoff = retry(r#""backoff": {"base": "1s"}"#).backoff;
    assert_eq!(backoff.max, Duration::from_secs(1), "a long first wait raises the default maximum");
}

#[test]
fn a_budget_of_nothing_is_refused() {
    assert_eq!(
        wrong_retry(r#""budget": {"ratio": 0, "min_per_second": 0}"#),
        "retry.budget: allows no retry: ratio and min_per_second are both 0; give one of them, or set mode to off"
    );
    assert_eq!(retry(r#""budget": {"ratio": 0}"#).budget.min_per_second, 10_000);
    assert_eq!(retry(r#""budget": {"min_per_second": 0}"#).budget.ratio, Percent::whole(20));
}

#[test]
fn hedging_needs_to_know_what_is_too_slow() {
    assert_eq!(
        wrong_retry(r#""hedge_on_per_try_timeout": true"#),
        "retry.hedge_on_per_try_timeout: needs per_try_timeout, which says when a try is too slow"
    );
    assert!(retry(r#""hedge_on_per_try_timeout": true, "per_try_timeout": "1s""#).hedge_on_per_try_timeout);
}

#[test]
fn a_wrong_value_of_retries_makes_no_second_error_by_contradiction() {
    for keys in [
        r#""per_try_timeout": "2s", "timeout": "0s""#,
        r#""per_try_timeout": 7, "hedge_on_per_try_timeout": true"#,
        r#""backoff": {"base": "2m", "max": "1ms"}"#,
        r#""budget": {"ratio": 0, "min_per_second": -1}"#,
    ] {
        assert_eq!(wrong_retry(keys).lines().count(), 1, "{keys}");
    }
}

// Outlier.

#[test]
fn a_detector_that_is_given_has_the_defaults_of_the_documentation() {
    let outlier = outlier(
        r#""consecutive_failures": {}, "consecutive_gateway_failures": {}, "failure_rate": {}, "success_rate": {},
           "latency": {}, "heartbeat": {}, "probe": {}, "discover": {"cluster": "admin", "path": "/clusters?format=json"}"#,
    );
    assert_eq!(outlier.consecutive_failures.unwrap().limit.get(), 5);
    assert_eq!(outlier.consecutive_gateway_failures.unwrap().limit.get(), 5);
    assert_eq!(outlier.consecutive_local_failures, None);
    let rate = outlier.failure_rate.unwrap();
    assert_eq!((rate.threshold, rate.min_requests.get(), rate.min_hosts.get()), (Percent::whole(85), 50, 5));
    let rate = outlier.success_rate.unwrap();
    assert_eq!((rate.stdev_factor, rate.min_requests.get(), rate.min_hosts.get()), (1900, 100, 5));
    let latency = outlier.latency.unwrap();
    assert_eq!((latency.deviation, latency.min_requests.get(), latency.min_hosts.get()), (200, 50, 3));
    assert_eq!((latency.floor, latency.grace), (Duration::from_millis(20), Duration::from_secs(30)));
    let heartbeat = outlier.heartbeat.unwrap();
    let HeartbeatCheck::Http { path, status } = heartbeat.check else { panic!("it is HTTP") };
    assert_eq!((path.as_str(), status.ranges()), ("/healthz", vec![(200, 299)]));
    assert_eq!((heartbeat.host, heartbeat.headers), (None, Vec::new()));
    assert_eq!((heartbeat.interval, heartbeat.timeout), (Duration::from_secs(1), Duration::from_secs(2)));
    assert_eq!((heartbeat.unhealthy_after.get(), heartbeat.healthy_after.get()), (3, 2));
    assert_eq!(outlier.probe_requests.get(), 1);
    let discover = outlier.discover.unwrap();
    assert_eq!((discover.cluster.as_str(), discover.path.as_str()), ("admin", "/clusters?format=json"));
    assert_eq!(discover.interval, Duration::from_secs(5));
}

#[test]
fn everything_about_hosts_can_be_given() {
    let outlier = outlier(
        r#""consecutive_failures": 0, "consecutive_gateway_failures": 3,
           "consecutive_local_failures": {"threshold": 1000, "mode": "shadow"},
           "failure_rate": {"threshold": 62.5, "min_requests": 1, "min_hosts": 1000},
           "success_rate": {"stdev_factor": 0.5, "min_requests": 1000000, "min_hosts": 1},
           "latency": {"deviation": 100000, "min_requests": 1, "min_hosts": 2, "floor": "0s", "grace": "1h"},
           "heartbeat": {"path": "/?a=b%20c", "interval": "1h", "timeout": "1m", "unhealthy_after": 100,
                         "healthy_after": 1, "status": [200, "300-399"], "host": "orders:8080",
                         "headers": {"Authorization": "Bearer a.b", "x-empty": ""}},
           "interval": "100ms", "base_ejection_time": "1ms", "max_ejection_time": "24h", "ejection_jitter": 0,
           "max_ejected": 100, "always_eject_one": false, "panic_threshold": 0.5, "probe": {"requests": 100},
           "slow_start": "1h", "hosts": ["10.0.0.1:80"],
           "discover": {"cluster": "a b", "path": "/", "interval": "100ms"}, "balance": "envoy""#,
    );
    assert_eq!(outlier.consecutive_failures, None, "0 is off");
    assert_eq!(outlier.consecutive_gateway_failures.unwrap().limit.get(), 3);
    assert_eq!(outlier.consecutive_local_failures.unwrap().limit.get(), 1000);
    assert_eq!(outlier.failure_rate.unwrap().threshold.millis(), 62_500);
    assert_eq!(outlier.success_rate.unwrap().stdev_factor, 500);
    assert_eq!(outlier.latency.unwrap().floor, Duration::ZERO);
    let heartbeat = outlier.heartbeat.unwrap();
    let HeartbeatCheck::Http { path, status } = &heartbeat.check else { panic!("it is HTTP") };
    assert_eq!((path.as_str(), status.ranges()), ("/?a=b%20c", vec![(200, 200), (300, 399)]));
    assert_eq!(heartbeat.timeout, Duration::from_secs(60));
    assert_eq!(heartbeat.host.as_deref(), Some("orders:8080"));
    let headers = [("authorization", "Bearer a.b"), ("x-empty", "")];
    assert_eq!(heartbeat.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((outlier.interval, outlier.base_ejection_time), (Duration::from_millis(100), Duration::from_millis(1)));
    assert_eq!((outlier.max_ejected, outlier.panic_threshold.millis()), (Percent::FULL, 500));
    assert!(!outlier.always_eject_one);
    assert_eq!((outlier.probe_requests.get(), outlier.slow_start), (100, Duration::from_secs(3600)));
    assert_eq!(outlier.hosts, [NamedHost::at("10.0.0.1:80".to_owned())]);
    assert_eq!(outlier.discover.unwrap().interval, Duration::from_millis(100));
}

#[test]
fn a_heartbeat_may_be_that_of_grpc() {
    let check = |keys: &str| outlier(&format!(r#""heartbeat": {{{keys}}}"#)).heartbeat.unwrap().check;
    let of = |service: &str| HeartbeatCheck::Grpc { service: service.to_owned() };
    assert_eq!(check(r#""grpc": {}"#), of(""));
    assert_eq!(check(r#""grpc": {"service": ""}"#), of(""));
    assert_eq!(
        check(r#""grpc": {"service": "shop.Orders"}, "host": "orders", "headers": {"x-a": "b"}"#),
        of("shop.Orders")
    );
}

#[test]
fn a_detectors_mode_goes_before_the_blocks_and_that_before_the_policys() {
    let keys = r#""consecutive_gateway_failures": {"mode": "enforce"}, "failure_rate": {"mode": "off"}, "success_rate": {},
                  "latency": {"mode": "shadow"}, "heartbeat": {}"#;
    let modes = |outlier: &Outlier| Detector::ALL.map(|detector| outlier.mode_of(detector));
    let (enforce, shadow, off) = (Mode::Enforce, Mode::Shadow, Mode::Off);

    let plain = outlier(keys);
    assert_eq!(modes(&plain), [enforce, enforce, off, off, enforce, shadow, enforce]);
    assert!(plain.ejects());

    let of_policy = policy(&format!(r#""mode": "shadow", "outlier": {{{keys}}}"#)).outlier.unwrap();
    assert_eq!(modes(&of_policy), [shadow, enforce, off, off, shadow, shadow, shadow]);

    let of_block = policy(&format!(r#""mode": "shadow", "outlier": {{"mode": "off", {keys}}}"#)).outlier.unwrap();
    assert_eq!(modes(&of_block), [off, enforce, off, off, off, shadow, off]);
    assert_eq!(of_block.mode, off);
}

#[test]
fn every_limit_of_outliers_holds() {
    for (keys, error) in [
        (r#""consecutive_failures": 1001"#, "consecutive_failures: must be within 0..=1000, was 1001"),
        (
            r#""consecutive_failures": false"#,
            "consecutive_failures: must be a whole number within 0..=1000 (0 is off), or an object with the keys \
             threshold, mode, was false",
        ),
        (
            r#""consecutive_gateway_failures": {"threshold": 1.5}"#,
            "consecutive_gateway_failures.threshold: must be a whole number within 0..=1000, was 1.5",
        ),
        (
            r#""consecutive_local_failures": {"limit": 5}"#,
            "consecutive_local_failures.limit: unknown key; accepted here: threshold, mode",
        ),
        (
            r#""failure_rate": 85"#,
            "failure_rate: must be an object with the keys threshold, min_requests, min_hosts, mode, was the number 85",
        ),
        (
            r#""failure_rate": {"threshold": 0}"#,
            "failure_rate.threshold: must be above 0, or every host is out (mode \"off\" switches the detector off), \
             was 0",
        ),
        (r#""failure_rate": {"threshold": 101}"#, "failure_rate.threshold: must be within 0..=100, was 101"),
        (r#""failure_rate": {"min_requests": 0}"#, "failure_rate.min_requests: must be within 1..=1000000, was 0"),
        (r#""failure_rate": {"min_hosts": 1001}"#, "failure_rate.min_hosts: must be within 1..=1000, was 1001"),
        (r#""success_rate": {"stdev_factor": 10.5}"#, "success_rate.stdev_factor: must be within 0..=10, was 10.5"),
        (r#""success_rate": {"min_hosts": 0}"#, "success_rate.min_hosts: must be within 1..=1000, was 0"),
        (
            r#""success_rate": {"stdev_facto": 2}"#,
            "success_rate.stdev_facto: unknown key; accepted here: stdev_factor, min_requests, min_hosts, mode; did \
             you mean \"stdev_factor\"?",
        ),
        (r#""latency": {"deviation": 0}"#, "latency.deviation: must be within 1..=100000, was 0"),
        (r#""latency": {"deviation": 1.5}"#, "latency.deviation: must be a whole number within 1..=100000, was 1.5"),
        (r#""latency": {"min_hosts": 1}"#, "latency.min_hosts: must be within 2..=1000, was 1"),
        (r#""latency": {"floor": "61s"}"#, "latency.floor: must be within 0s..=1m, was \"61s\""),
        (r#""latency": {"grace": "61m"}"#, "latency.grace: must be within 0s..=1h, was \"61m\""),
        (
            r#""heartbeat": {"path": "healthz"}"#,
            "heartbeat.path: must be a path that begins with \"/\", of visible ASCII characters, was \"healthz\"",
        ),
        (
            r#""heartbeat": {"path": "/a b"}"#,
            "heartbeat.path: must be a path that begins with \"/\", of visible ASCII characters, was \"/a b\"",
        ),
        (
            r#""heartbeat": {"host": "orders|8080"}"#,
            "heartbeat.host: must be a host such as \"orders.example.com\" or \"orders:8080\", of at most 255 characters, \
             was \"orders|8080\"",
        ),
        (
            r#""heartbeat": {"host": 8080}"#,
            "heartbeat.host: must be a host such as \"orders.example.com\" or \"orders:8080\", of at most 255 characters, \
             was the number 8080",
        ),
        (
            r#""heartbeat": {"headers": ["a"]}"#,
            "heartbeat.headers: must be an object of header names and texts such as {\"x-a\": \"b\"}, was a list",
        ),
        (
            r#""heartbeat": {"headers": {":authority": "a"}}"#,
            "heartbeat.headers[\":authority\"]: must be a header name (letters, digits, \"-\"), was \":authority\"; host \
             beside headers is the key for it",
        ),
        (
            r#""heartbeat": {"headers": {"Host": "a"}}"#,
            "heartbeat.headers.Host: may not be set: use host beside headers",
        ),
        (
            r#""heartbeat": {"headers": {"X-Holdfast-Hosts": "a"}}"#,
            "heartbeat.headers[\"X-Holdfast-Hosts\"]: may not be set: x-holdfast- headers are Holdfast's own",
        ),
        (
            r#""heartbeat": {"headers": {"x-envoy-max-retries": "2"}}"#,
            "heartbeat.headers[\"x-envoy-max-retries\"]: may not be set: x-envoy- headers are Envoy's own",
        ),
        (
            r#""heartbeat": {"headers": {"x-a": "a\r\nb"}}"#,
            "heartbeat.headers[\"x-a\"]: must be a text of at most 4096 printable ASCII characters, with no space at its \
             ends, was \"a\\u000d\\u000ab\"",
        ),
        (
            r#""heartbeat": {"headers": {"x-a": "a", "X-A": "b"}}"#,
            "heartbeat.headers[\"X-A\"]: is the same header as another one here; case does not count",
        ),
        (r#""heartbeat": {"interval": "99ms"}"#, "heartbeat.interval: must be within 100ms..=1h, was \"99ms\""),
        (r#""heartbeat": {"timeout": "0s"}"#, "heartbeat.timeout: must be within 1ms..=1m, was \"0s\""),
        (r#""heartbeat": {"unhealthy_after": 101}"#, "heartbeat.unhealthy_after: must be within 1..=100, was 101"),
        (r#""heartbeat": {"healthy_after": 0}"#, "heartbeat.healthy_after: must be within 1..=100, was 0"),
        (
            r#""heartbeat": {"status": []}"#,
            "heartbeat.status: must name at least one status, or no heartbeat is ever good",
        ),
        (
            r#""heartbeat": {"status": ["2xx"]}"#,
            "heartbeat.status[0]: must be a status like 503 or a range like \"500-599\" within 100..=599, was \"2xx\"",
        ),
        (r#""heartbeat": {"grpc": true}"#, "heartbeat.grpc: must be an object with the keys service, was true"),
        (
            r#""heartbeat": {"grpc": {"service": "é"}}"#,
            "heartbeat.grpc.service: must be a text of at most 255 printable ASCII characters, with no space at its ends, was \
             \"é\"",
        ),
        (
            r#""heartbeat": {"grpc": {}, "path": "/"}"#,
            "heartbeat.path: must not be there beside grpc, which asks for /grpc.health.v1.Health/Check",
        ),
        (
            r#""heartbeat": {"grpc": {}, "status": [200]}"#,
            "heartbeat.status: must not be there beside grpc, of which SERVING is the good answer",
        ),
        (r#""heartbeat": {"mode": "on"}"#, "heartbeat.mode: must be one of enforce, shadow, off, was \"on\""),
        (r#""interval": "99ms""#, "interval: must be within 100ms..=1h, was \"99ms\""),
        (r#""base_ejection_time": "0s""#, "base_ejection_time: must be within 1ms..=24h, was \"0s\""),
        (r#""max_ejection_time": "25h""#, "max_ejection_time: must be within 1ms..=24h, was \"25h\""),
        (r#""max_ejection_time": "29s""#, "max_ejection_time: must be at least base_ejection_time (30s), was \"29s\""),
        (r#""ejection_jitter": 101"#, "ejection_jitter: must be within 0..=100, was 101"),
        (r#""max_ejected": -1"#, "max_ejected: must be within 0..=100, was -1"),
        (r#""always_eject_one": 1"#, "always_eject_one: must be true or false, was the number 1"),
        (r#""panic_threshold": 100.1"#, "panic_threshold: must be within 0..=100, was 100.1"),
        (r#""probe": 1"#, "probe: must be an object with the keys requests, was the number 1"),
        (r#""probe": {"requests": 0}"#, "probe.requests: must be within 1..=100, was 0"),
        (r#""slow_start": "61m""#, "slow_start: must be within 0s..=1h, was \"61m\""),
        (
            r#""discover": {"cluster": "a"}"#,
            "discover.path: is missing; must be a path such as \"/clusters?format=json\"",
        ),
        (
            r#""discover": {"cluster": "", "path": "/"}"#,
            "discover.cluster: must be the name of the cluster to ask, was \"\"",
        ),
        (
            r#""discover": {"cluster": "a", "path": "/", "interval": "2h"}"#,
            "discover.interval: must be within 100ms..=1h, was \"2h\"",
        ),
        (
            r#""balance": "least_requests", "hosts": ["10.0.0.1:80"]"#,
            "balance: must be one of envoy, round_robin, random, weighted, least_request, least_latency, was \
             \"least_requests\"; did you mean \"least_request\"?",
        ),
        (
            r#""balance": "hash""#,
            "balance: must say what is hashed, such as {\"hash\": {\"header\": \"x-user\"}}, was \"hash\"",
        ),
        (
            r#""balance": 7"#,
            "balance: must be a word such as \"round_robin\", or {\"hash\": {\"header\": \"x-user\"}}, was the number 7",
        ),
        (
            r#""balance": {}"#,
            "balance.hash: is missing; must be what chooses the host, such as {\"header\": \"x-user\"} or \"source_ip\"",
        ),
        (
            r#""balance": {"hash": "ip"}"#,
            "balance.hash: must be one of \"source_ip\", \"path\", {\"header\": \"x-user\"}, {\"cookie\": \"session\"}, was \
             \"ip\"",
        ),
        (r#""balance": {"hash": {}}"#, "balance.hash: must name a header or a cookie"),
        (
            r#""balance": {"hash": {"cookie": "a b"}}"#,
            "balance.hash.cookie: must be a cookie's name (letters, digits, \"-\", \"_\"), was \"a b\"",
        ),
        (
            r#""balance": "weighted""#,
            "balance: \"weighted\" chooses a host for every request and must know them all: give discover, or hosts",
        ),
        (
            r#""balance": {"hash": "path"}, "hosts": []"#,
            "balance: \"hash\" chooses a host for every request and must know them all: give discover, or hosts",
        ),
        (r#""mode": "on""#, "mode: must be one of enforce, shadow, off, was \"on\""),
        (
            r#""consecutive_failure": 5"#,
            "consecutive_failure: unknown key; accepted here: consecutive_failures, consecutive_gateway_failures, \
             consecutive_local_failures, failure_rate, success_rate, latency, heartbeat, interval, \
             base_ejection_time, max_ejection_time, ejection_jitter, max_ejected, always_eject_one, \
             panic_threshold, probe, slow_start, hosts, discover, balance, mode; did you mean \
             \"consecutive_failures\"?",
        ),
    ] {
        assert_eq!(wrong_outlier(keys), format!("outlier.{error}"));
    }
}

#[test]
fn all_errors_of_outliers_are_reported_at_once() {
    assert_eq!(
        wrong_outlier(
            r#""consecutive_failures": "5", "failure_rate": {"threshold": "x", "min_hosts": 0}, "max_ejected": 200,
               "hosts": ["orders:80", 7], "discover": {}, "mode": "maybe""#
        ),
        "outlier.mode: must be one of enforce, shadow, off, was \"maybe\"\n\
         outlier.consecutive_failures: must be a whole number within 0..=1000 (0 is off), or an object with the keys \
         threshold, mode, was the string \"5\"\n\
         outlier.failure_rate.threshold: must be a number within 0..=100, was the string \"x\"\n\
         outlier.failure_rate.min_hosts: must be within 1..=1000, was 0\n\
         outlier.max_ejected: must be within 0..=100, was 200\n\
         outlier.hosts[0]: must be an address and a port such as \"10.0.0.1:8080\" or \"[2001:db8::1]:8080\", was \
         \"orders:80\"; a name is not enough: hosts are told apart by their addresses\n\
         outlier.hosts[1]: must be an address and a port such as \"10.0.0.1:8080\" or \"[2001:db8::1]:8080\", was the \
         number 7\n\
         outlier.discover.cluster: is missing; must be the name of the cluster to ask\n\
         outlier.discover.path: is missing; must be a path such as \"/clusters?format=json\""
    );
}

#[test]
fn outliers_that_nothing_can_find_are_refused_unless_it_is_meant() {
    let none = "outlier: judges no host: every detector is off; give one of consecutive_failures, \
                consecutive_gateway_failures, consecutive_local_failures, failure_rate, success_rate, latency and \
                heartbeat, or set mode to off";
    assert_eq!(wrong_outlier(r#""consecutive_failures": 0"#), none);
    assert_eq!(wrong_outlier(r#""consecutive_failures": {"mode": "off"}, "latency": {"mode": "off"}"#), none);
    assert!(!outlier(r#""consecutive_failures": 0, "mode": "off""#).is_active());
    assert!(outlier(r#""consecutive_failures": 0, "heartbeat": {}"#).ejects());
    let off = policy(r#""mode": "off", "outlier": {"consecutive_failures": 0}"#).outlier.unwrap();
    assert!(!off.is_active(), "a whole policy can be switched off with its one mode");
}

#[test]
fn a_long_first_ejection_raises_the_default_maximum() {
    assert_eq!(outlier(r#""base_ejection_time": "10m""#).max_ejection_time, Duration::from_secs(600));
}

#[test]
fn a_wrong_value_of_outliers_makes_no_second_error_by_contradiction() {
    for keys in [
        r#""base_ejection_time": "1x", "max_ejection_time": "1ms""#,
        r#""consecutive_failures": -1"#,
        r#""consecutive_failures": 0, "latency": {"deviation": 0}"#,
        r#""consecutive_failures": 0, "mode": 7"#,
    ] {
        assert_eq!(wrong_outlier(keys).lines().count(), 1, "{keys}");
    }
}

#[test]
fn hosts_are_addresses_as_envoy_writes_them() {
    let hosts = outlier(
        r#""hosts": ["10.0.0.1:8080", "[2001:DB8:0:0:0:0:0:1]:080", "[::ffff:10.0.0.1]:65535", "[1:0:0:2:0:0:0:3]:1"]"#,
    )
    .hosts;
    let hosts: Vec<String> = hosts.into_iter().map(|host| host.address).collect();
    assert_eq!(hosts, ["10.0.0.1:8080", "[2001:db8::1]:80", "[::ffff:10.0.0.1]:65535", "[1:0:0:2::3]:1"]);

    let host = "must be an address and a port such as \"10.0.0.1:8080\" or \"[2001:db8::1]:8080\", was";
    let name = "; a name is not enough: hosts are told apart by their addresses";
    for (written, problem) in [
        ("orders:8080", format!("{host} \"orders:8080\"{name}")),
        ("orders.svc.local", format!("{host} \"orders.svc.local\"{name}")),
        ("10.0.0.1", format!("{host} \"10.0.0.1\"; the port is missing")),
        ("[::1]", format!("{host} \"[::1]\"; the port is missing")),
        ("2001:db8::1:80", format!("{host} \"2001:db8::1:80\"; an IPv6 address stands in brackets before its port")),
        ("10.0.0.1:65536", format!("{host} \"10.0.0.1:65536\"")),
        ("10.0.0.256:80", format!("{host} \"10.0.0.256:80\"")),
        (" 10.0.0.1:80", format!("{host} \" 10.0.0.1:80\"")),
        ("", format!("{host} \"\"")),
        ("10.0.0.1:0", "must be a host with a port within 1..=65535, was \"10.0.0.1:0\"".to_owned()),
        ("[fe80::1%2]:80", "must be an address without a zone, was \"[fe80::1%2]:80\"".to_owned()),
    ] {
        assert_eq!(wrong_outlier(&format!(r#""hosts": ["{written}"]"#)), format!("outlier.hosts[0]: {problem}"));
    }
    assert_eq!(
        wrong_outlier(r#""hosts": ["[::1]:80", "10.0.0.1:80", "[0:0::1]:80", "[::1]:0080"]"#),
        "outlier.hosts[2]: is the same host as outlier.hosts[0]\n\
         outlier.hosts[3]: is the same host as outlier.hosts[0]"
    );
}

#[test]
fn a_host_may_say_where_it_stands() {
    let hosts = outlier(
        r#""hosts": ["10.0.0.1:80", {"address": "10.0.0.2:080", "weight": 4294967295, "priority": 127, "locality": "b"},
                     {"address": "[0:0::1]:80"}]"#,
    )
    .hosts;
    let weight = core::num::NonZeroU32::MAX;
    let most = NamedHost { address: "10.0.0.2:80".into(), weight, priority: 127, locality: Some("b".into()) };
    assert_eq!(hosts, [NamedHost::at("10.0.0.1:80".into()), most, NamedHost::at("[::1]:80".into())]);
    let host = "an address and a port such as \"10.0.0.1:8080\" or \"[2001:db8::1]:8080\"";
    for (written, problem) in [
        (r#"{"weight": 2}"#, format!(".address: is missing; must be {host}")),
        (
            r#"{"address": "orders:80"}"#,
            format!(
                ".address: must be {host}, was \"orders:80\"; a name is not enough: hosts are told apart by their addresses"
            ),
        ),
        (r#"{"address": "[::1]:80", "weight": 0}"#, ".weight: must be within 1..=4294967295, was 0".to_owned()),
        (r#"{"address": "[::1]:80", "priority": 128}"#, ".priority: must be within 0..=127, was 128".to_owned()),
        (
            r#"{"address": "[::1]:80", "priority": 0.5}"#,
            ".priority: must be a whole number within 0..=127, was 0.5".to_owned(),
        ),
        (
            r#"{"address": "[::1]:80", "locality": ""}"#,
            ".locality: must be the name of a locality, was \"\"".to_owned(),
        ),
        (
            r#"{"address": "[::1]:80", "zone": "b"}"#,
            ".zone: unknown key; accepted here: address, weight, priority, locality".to_owned(),
        ),
    ] {
        assert_eq!(
            wrong_outlier(&format!(r#""hosts": ["10.0.0.1:80", {written}]"#)),
            format!("outlier.hosts[1]{problem}")
        );
    }
    assert_eq!(
        wrong_outlier(r#""hosts": [{"address": "10.0.0.1:80", "weight": 2}, "10.0.0.1:80"]"#),
        "outlier.hosts[1]: is the same host as outlier.hosts[0]"
    );
}

#[test]
fn a_thousand_hosts_are_enough() {
    let list = |count: usize| {
        let hosts: Vec<String> = (0..count).map(|at| format!("\"10.0.{}.{}:80\"", at / 250, at % 250)).collect();
        format!(r#""hosts": [{}]"#, hosts.join(","))
    };
    assert_eq!(outlier(&list(1000)).hosts.len(), 1000);
    assert_eq!(wrong_outlier(&list(1001)), "outlier.hosts: must have at most 1000 hosts, has 1001");
}

// Fallback.

#[test]
fn a_reason_that_can_never_happen_is_refused() {
    assert_eq!(
        wrong_policy(
            r#""concurrency": {"max_requests": 1, "mode": "off"},
               "fallback": [{"on": ["open", "concurrency", "throttled", "failure", "timeout", "retries_exhausted", "no_host"],
                             "respond": {"status": 503}}]"#
        ),
        "fallback[0].on[0]: \"open\" can never happen: the policy has no breaker\n\
         fallback[0].on[1]: \"concurrency\" can never happen: the policy's concurrency is off\n\
         fallback[0].on[2]: \"throttled\" can never happen: the policy has no throttle\n\
         fallback[0].on[5]: \"retries_exhausted\" can never happen: the policy has no retry"
    );
    assert_eq!(
        wrong_policy(
            r#""retry": {"mode": "off"}, "fallback": [{"on": ["retries_exhausted"], "respond": {"status": 503}}]"#
        ),
        "fallback[0].on[0]: \"retries_exhausted\" can never happen: the policy's retry is off"
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
         fallback[0]: must do one thing: give respond, stale, route, or call\n\
         fallback[1].on: must name at least one reason\n\
         fallback[1].respond: must be an object with the keys status, headers, body, grpc_status, was the number 7\n\
         fallback[2].on: must be a list of reasons such as [\"open\"], was the string \"failure\"\n\
         fallback[3].on[1]: must be a reason that is not in the list yet, was \"failure\"\n\
         fallback[3].on[2]: must be one of open, concurrency, throttled, failure, timeout, retries_exhausted, no_host, was \
         \"fail\"\n\
         fallback[3].on[3]: must be one of open, concurrency, throttled, failure, timeout, retries_exhausted, no_host, was \
         the number 7\n\
         fallback[4]: must be an object with the keys on, respond, stale, route, call, was null"
    );
}

#[test]
fn the_last_good_answer_has_limits() {
    let read = |keys: &str| {
        let policy = policy(&format!(r#""fallback": [{{"on": ["failure"], "stale": {{{keys}}}}}]"#));
        *policy.stale().unwrap()
    };
    let stale = |seconds, max_body, entries| Stale {
        max_age: Duration::from_secs(seconds),
        max_body,
        entries: NonZeroU16::new(entries).unwrap(),
    };
    assert_eq!(read(""), stale(600, 65_536, 128));
    assert_eq!(read(r#""max_age": "168h", "max_body": "1MiB""#), stale(604_800, 1_048_576, 128));
    assert_eq!(read(r#""max_age": "1s", "max_body": "1024B", "entries": 1024"#), stale(1, 1024, 1024));
    assert_eq!(
        wrong_policy(
            r#""fallback": [{"on": ["failure"], "stale": {"max_age": "0s", "max_body": "2MiB", "entries": 0, "size": 1}}]"#
        ),
        "fallback[0].stale.size: unknown key; accepted here: max_age, max_body, entries\n\
         fallback[0].stale.max_age: must be within 1s..=168h, was \"0s\"\n\
         fallback[0].stale.max_body: must be within 1KiB..=1MiB, was \"2MiB\"\n\
         fallback[0].stale.entries: must be within 1..=1024, was 0"
    );
    assert_eq!(
        wrong_policy(r#""fallback": [{"on": ["failure"], "stale": {"max_body": 65536}}]"#),
        "fallback[0].stale.max_body: must be a size within 1KiB..=1MiB such as \"64KiB\" or \"1MiB\", was the number 65536"
    );
}

#[test]
fn good_answers_are_kept_in_one_way_and_only_of_gets() {
    assert_eq!(
        wrong_policy(
            r#""fallback": [{"on": ["failure"], "stale": {}}, {"on": ["timeout"], "stale": {"entries": 1}},
                            {"on": ["failure"], "stale": {}, "respond": {"status": 503}}]"#
        ),
        "fallback[1].stale: must be there once in a policy, which keeps its answers in one way: name its reasons in \
         fallback[0].stale\n\
         fallback[2].stale: must be there once in a policy, which keeps its answers in one way: name its reasons in \
         fallback[0].stale"
    );
    let both = r#""fallback": [{"on": ["failure"], "stale": {}, "respond": {"status": 503}}]"#;
    assert_eq!(wrong_policy(both), "fallback[0]: must do one thing: give respond, stale, route, or call");
    for methods in [r#""POST""#, r#"["POST", "HEAD", "P*"]"#] {
        let error = wrong_policy(&format!(
            r#""match": {{"method": {methods}}}, "fallback": [{{"on": ["failure"], "stale": {{}}}}]"#
        ));
        assert!(
            error.starts_with("fallback[0].stale: keeps answers to GET, and match.method lets only POST"),
            "{error}"
        );
    }
    for methods in [r#""GET""#, r#"["POST", "G*"]"#, r#""*""#] {
        let keys = format!(r#""match": {{"method": {methods}}}, "fallback": [{{"on": ["failure"], "stale": {{}}}}]"#);
        assert!(policy(&keys).stale().is_some());
    }
    assert!(policy(r#""mode": "off", "fallback": [{"on": ["failure"], "stale": {}}]"#).stale().is_none());
}

#[test]
fn a_route_names_one_other_cluster() {
    let read = |matches: &str, fallback: &str| {
        policy(&format!(r#""match": {matches}, "breaker": {{}}, "fallback": [{fallback}]"#)).fallback.remove(0).kind
    };
    let standby = r#"{"on": ["open"], "route": {"cluster": "standby"}}"#;
    for matches in ["{}", r#"{"cluster": "orders"}"#, r#"{"cluster": ["orders", "standby"]}"#, r#"{"cluster": "*"}"#] {
        assert_eq!(read(matches, standby), FallbackKind::Route(Route { cluster: "standby".to_owned() }), "{matches}");
    }
    let wrong = |fallback: &str| {
        wrong_policy(&format!(r#""match": {{"cluster": "orders"}}, "breaker": {{}}, "fallback": [{fallback}]"#))
    };
    for (cluster, problem) in [
        (r#""""#, "must not be empty, was \"\""),
        (r#""stand*""#, "must be the name of one cluster: it is no glob, was \"stand*\""),
        (r#""orders""#, "must be another cluster than match.cluster, which requests come from, was \"orders\""),
        ("7", "must be the name of a cluster such as \"standby\", was the number 7"),
    ] {
        let entry = format!(r#"{{"on": ["open"], "route": {{"cluster": {cluster}}}}}"#);
        assert_eq!(wrong(&entry), format!("fallback[0].route.cluster: {problem}"));
    }
    assert_eq!(
        wrong(r#"{"on": ["open"], "route": {}}, {"on": ["open"], "route": {"header": {"x-a": "b"}}}"#),
        "fallback[0].route.cluster: is missing; must be the name of a cluster such as \"standby\"\n\
         fallback[1].route.header: not supported yet\n\
         fallback[1].route.cluster: is missing; must be the name of a cluster such as \"standby\""
    );
    assert_eq!(
        wrong(r#"{"on": ["open"], "route": {"cluster": "standby"}, "stale": {}}"#),
        "fallback[0]: must do one thing: give respond, stale, route, or call"
    );
}

#[test]
fn a_call_repeats_the_request_in_another_cluster_in_place_of_an_answer() {
    let read = |keys: &str| {
        let entry = format!(r#"{{"on": ["failure", "timeout", "no_host"], "call": {{"cluster": "standby"{keys}}}}}"#);
        let policy = policy(&format!(r#""retry": {{"timeout": "10s"}}, "fallback": [{entry}]"#));
        assert!(policy.replaces_answers() && !policy.goes_further());
        policy.calls().next().unwrap().clone()
    };
    let call = |millis, max_body, max_concurrent| Call {
        cluster: "standby".to_owned(),
        timeout: Duration::from_millis(millis),
        max_body,
        max_concurrent: NonZeroU16::new(max_concurrent).unwrap(),
        methods: ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].map(str::to_owned).to_vec(),
        idempotency_header: "idempotency-key".to_owned(),
    };
    assert_eq!(read(""), call(1000, 65_536, 16));
    let most = r#", "timeout": "10s", "max_body": "1MiB", "max_concurrent": 1024"#;
    assert_eq!(read(most), call(10_000, 1_048_576, 1024));
    let wrong = |on: &str, call: &str| {
        wrong_policy(&format!(
            r#""match": {{"cluster": "orders"}}, "breaker": {{}}, "throttle": {{}}, "concurrency": {{"max_requests": 9}},
               "retry": {{"timeout": "900ms"}}, "fallback": [{{"on": [{on}], "call": {call}}}]"#
        ))
    };
    assert_eq!(
        wrong(r#""failure""#, r#"{"timeout": "0s", "max_body": "2MiB", "max_concurrent": 0, "retries": 1}"#),
        "fallback[0].call.retries: unknown key; accepted here: cluster, timeout, max_body, max_concurrent\n\
         fallback[0].call.cluster: is missing; must be the name of a cluster such as \"standby\"\n\
         fallback[0].call.timeout: must be within 1ms..=1m, was \"0s\"\n\
         fallback[0].call.max_body: must be within 1KiB..=1MiB, was \"2MiB\"\n\
         fallback[0].call.max_concurrent: must be within 1..=1024, was 0"
    );
    for (cluster, problem) in [
        (r#""stand*""#, "must be the name of one cluster: it is no glob, was \"stand*\""),
        (r#""orders""#, "must be another cluster than match.cluster, which requests come from, was \"orders\""),
        (r#""""#, "must not be empty, was \"\""),
    ] {
        let call = format!(r#"{{"cluster": {cluster}, "timeout": "100ms"}}"#);
        assert_eq!(wrong(r#""failure""#, &call), format!("fallback[0].call.cluster: {problem}"));
    }
    let short = r#"{"cluster": "standby", "timeout": "100ms"}"#;
    assert_eq!(
        wrong(r#""failure""#, r#"{"cluster": "standby"}"#),
        "fallback[0].call.timeout: must not be longer than retry.timeout, which is \"900ms\", was \"1s\""
    );
    for reason in ["open", "concurrency", "throttled"] {
        assert_eq!(
            wrong(&format!(r#""failure", "{reason}""#), short),
            "fallback[0].on: must not name open, concurrency or throttled where the entry has a call, which is made in place of an \
             answer that has failed: use route for them"
        );
    }
    assert_eq!(
        policy(r#""mode": "off", "fallback": [{"on": ["failure"], "call": {"cluster": "standby"}}]"#).calls().next(),
        None,
        "a policy that is off does nothing"
    );
}

#[test]
fn a_route_after_a_failure_needs_retries_that_leave_a_last_attempt_to_follow() {
    let with = |retry: &str, on: &str| {
        format!(r#""breaker": {{}}{retry}, "fallback": [{{"on": [{on}], "route": {{"cluster": "standby"}}}}]"#)
    };
    for retry in ["{}", r#"{"max_retries": 0}"#, r#"{"on": ["retriable-status-codes", "retriable-headers"]}"#] {
        let policy = policy(&with(&format!(r#", "retry": {retry}"#), r#""open", "failure", "retries_exhausted""#));
        assert!(policy.goes_further() && policy.replaces_answers(), "{retry}");
    }
    assert!(policy(&with(r#", "retry": {"per_try_timeout": "1s"}"#, r#""timeout""#)).goes_further());
    assert!(!policy(&with("", r#""open""#)).goes_further());
    let off = with(r#", "mode": "off", "retry": {}"#, r#""failure""#);
    assert!(!policy(&off).goes_further(), "a policy that is off does nothing");
    let needs = "a route for failure, timeout or retries_exhausted";
    for (retry, on, problem) in [
        ("", r#""failure""#, format!("{needs} is the router's further attempt: it needs retry, which may have max_retries 0")),
        (
            r#", "retry": {"mode": "off"}"#,
            r#""open", "failure""#,
            format!("{needs} is the router's further attempt: it needs retry, which is off"),
        ),
        (
            r#", "retry": {"per_try_timeout": "1s", "hedge_on_per_try_timeout": true}"#,
            r#""retries_exhausted""#,
            format!("{needs} follows the last attempt, which hedges do not have: set retry.hedge_on_per_try_timeout to false"),
        ),
        (
            r#", "retry": {"on": ["retriable-status-codes"]}"#,
            r#""failure""#,
            format!(
                "{needs} needs retry.on without retriable-status-codes: with it the router goes by the route's statuses alone"
            ),
        ),
        (
            r#", "retry": {}"#,
            r#""failure", "timeout""#,
            "a route for timeout needs retry.per_try_timeout: after the whole time-out there is no time for a further attempt"
                .to_owned(),
        ),
        (
            r#", "retry": {}"#,
            r#""no_host""#,
            "must not name no_host where the entry has a route: where there is no host no attempt follows".to_owned(),
        ),
    ] {
        assert_eq!(wrong_policy(&with(retry, on)), format!("fallback[0].on: {problem}"));
    }
}

#[test]
fn a_json_body_is_sent_as_it_was_written() {
    let response = respond(r#""status": 200, "body": {"z": [1, 2.5, null], "a": "\"$5\" é"}"#);
    assert_eq!(response.body, [text(r#"{"z":[1,2.5,null],"a":"\"$5\" é"}"#)]);
    assert_eq!(response.headers, [("content-type".to_owned(), vec![text("application/json")])]);
    assert_eq!(response.grpc_status, 14);
    assert_eq!(respond(r#""status": 200, "body": null"#).body, [text("null")]);
}

#[test]
fn strings_in_a_json_body_are_templates_and_keys_are_not() {
    let response =
        respond(r#""status": 200, "body": {"${path}": ["\"${reason}\"", {"a": "$${b} ${header.X-Id}"}, 7]}"#);
    let start = text(r#"{"${path}":["\""#);
    let parts = [
        start,
        TemplatePart::Reason,
        text(r#"\"",{"a":"${b} "#),
        TemplatePart::Header("x-id".into()),
        text(r#""},7]}"#),
    ];
    assert_eq!(response.body, parts);
    assert_eq!(response.escape, Escape::Json);
    assert_eq!(
        wrong_respond(
            r#""status": 200, "body": {"items": [{"name": "${naem}", "a b": "${path"}], "total": "${path}"}"#
        ),
        "respond.body.items[0].name: unknown variable \"naem\"; accepted here: ${reason}, ${policy}, ${retry_after}, \
         ${path}, ${header.NAME}\n\
         respond.body.items[0][\"a b\"]: has an unclosed \"${path\"; accepted here: ${reason}, ${policy}, ${retry_after}, \
         ${path}, ${header.NAME}; write $${ for a literal ${"
    );
    let list = |count: usize| format!(r#""status": 200, "body": [{}"${{path}}"]"#, "\"${path}\",".repeat(count - 1));
    assert_eq!(respond(&list(64)).body.len(), 64 * 2 + 1);
    assert_eq!(wrong_respond(&list(65)), "respond.body: must have at most 64 variables, has 65");
}

#[test]
fn header_values_are_templates() {
    let response =
        respond(r#""status": 200, "headers": {"X-A": "${reason} of ${header.X-Id}", "x-b": "$${", "x-c": ""}"#);
    let of = |name: &str, parts: Vec<TemplatePart>| (name.to_owned(), parts);
    assert_eq!(
        response.headers,
        [
            of("x-a", vec![TemplatePart::Reason, text(" of "), TemplatePart::Header("x-id".into())]),
            of("x-b", vec![text("${")]),
            of("x-c", vec![]),
        ]
    );
    assert_eq!(
        wrong_respond(
            r#""status": 200, "headers": {"x-a": "${nope}", "X-B": "${path", "content-type": "text/${path}", "x-c": "é${path}"}"#
        ),
        "respond.headers[\"x-a\"]: unknown variable \"nope\"; accepted here: ${reason}, ${policy}, ${retry_after}, ${path}, \
         ${header.NAME}\n\
         respond.headers[\"X-B\"]: has an unclosed \"${path\"; accepted here: ${reason}, ${policy}, ${retry_after}, ${path}, \
         ${header.NAME}; write $${ for a literal ${\n\
         respond.headers[\"content-type\"]: may have no variables: what the body inserts is escaped for it\n\
         respond.headers[\"x-c\"]: must be a text of printable ASCII characters, with no space at its ends, was \"é${path}\""
    );
}

#[test]
fn a_string_body_is_a_template_escaped_for_its_content_type() {
    let response = respond(r#""status": 503, "body": "closed: ${reason}""#);
    assert_eq!(response.body, [text("closed: "), TemplatePart::Reason]);
    assert_eq!(response.headers, [("content-type".to_owned(), vec![text("text/plain; charset=utf-8")])]);
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
    assert_eq!(response.headers, [("x-a".to_owned(), vec![text("b c")])]);
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

#[test]
fn a_balance_is_a_word_or_says_what_is_hashed() {
    let balance = |text: &str| outlier(&format!(r#""hosts": ["10.0.0.1:80"], "balance": {text}"#)).balance;
    for (text, expected) in [
        (r#""envoy""#, Balance::Envoy),
        (r#""round_robin""#, Balance::RoundRobin),
        (r#""random""#, Balance::Random),
        (r#""weighted""#, Balance::Weighted),
        (r#""least_request""#, Balance::LeastRequest),
        (r#""least_latency""#, Balance::LeastLatency),
        (r#"{"hash": {"header": "X-User"}}"#, Balance::Hash(vec![HashBy::Header("x-user".to_owned())])),
        (r#"{"hash": {"cookie": "Session"}}"#, Balance::Hash(vec![HashBy::Cookie("Session".to_owned())])),
        (
            r#"{"hash": {"cookie": "s", "header": "a"}}"#,
            Balance::Hash(vec![HashBy::Header("a".to_owned()), HashBy::Cookie("s".to_owned())]),
        ),
        (r#"{"hash": "source_ip"}"#, Balance::Hash(vec![HashBy::SourceIp])),
        (r#"{"hash": "path"}"#, Balance::Hash(vec![HashBy::Path])),
    ] {
        assert_eq!(balance(text), expected);
    }
    assert_eq!(outlier("").balance, Balance::Envoy);
    let alone = outlier(r#""consecutive_failures": 0, "hosts": ["10.0.0.1:80"], "balance": "random""#);
    assert!(alone.is_active() && alone.balances(), "without any detector");
    let shadow = outlier(r#""mode": "shadow", "hosts": ["10.0.0.1:80"], "balance": "random""#);
    assert!(shadow.is_active() && !shadow.balances(), "a shadow sends nothing anywhere");
}
