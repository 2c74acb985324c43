//! Every rule: its id, how much it matters, what it finds and what cures it. docs/check.md has the same table.

use crate::finding::Severity;
use crate::finding::Severity::{Error, Hint, Warning};

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, which stays.
    pub id: &'static str,
    /// How much what it finds matters.
    pub severity: Severity,
    /// What it finds.
    pub what: &'static str,
    /// What cures it.
    pub cure: &'static str,
}

macro_rules! rules {
    ($($name:ident = $id:literal, $severity:ident, $what:literal, $cure:literal;)*) => {
        $(
            #[doc = $what]
            pub const $name: Rule = Rule { id: $id, severity: $severity, what: $what, cure: $cure };
        )*
        /// All of them, in the order of the documentation.
        pub const RULES: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    SYNTAX = "syntax", Error,
        "a file is neither JSON nor YAML, or not UTF-8", "mend it where it breaks";
    NO_POLICY = "no-policy", Error,
        "a file has no policy document, and no filter or resource with the module",
        "give a policy document, or the file that has one in it";
    POLICY = "policy", Error,
        "a policy document is not valid; the module refuses it", "the problem says what is accepted";
    POLICY_DOUBTFUL = "policy-doubtful", Warning,
        "a policy is legal, but most likely not what was meant", "the problem says why";
    YAML_ON = "yaml-on", Error,
        "the key `on` without quotes in a resource of Kubernetes, whose tools read it as `true`", "write `\"on\"` in quotes";

    CONFIGURATION_TYPE = "configuration-type", Error,
        "the configuration is no `Struct`, `StringValue` or `BytesValue` with a value, or not in base64; the module \
         refuses it",
        "write it as a google.protobuf.StringValue whose `value` is the JSON text";
    POLICY_MISSING = "policy-missing", Error,
        "a request seat has no policy document; the module refuses to start", "give it one in `configuration`";
    SEAT = "seat", Error,
        "`vm_config.configuration` names no seat that there is; the module refuses it",
        "leave it out for the request seat, or write `{\"seat\": \"attempt\"}`";
    SEAT_MISPLACED = "seat-misplaced", Error,
        "the attempt seat stands among a listener's filters, where it does nothing",
        "take `vm_config.configuration` out and give it a policy document";
    ATTEMPT_SEAT_CONFIGURATION = "attempt-seat-configuration", Error,
        "a filter beside the hosts is not told that it is the attempt seat; `heartbeat` and `discover` stop its VM",
        "write `{\"seat\": \"attempt\"}` as a StringValue in its `vm_config.configuration`";
    ATTEMPT_SEAT_POLICY = "attempt-seat-policy", Error,
        "the attempt seat has a policy document; the module refuses it",
        "take `configuration` out: it takes its policies from the request seat";
    FAILURE_POLICY = "failure-policy", Warning,
        "`failure_policy` is not FAIL_RELOAD: after a crash of the module a worker answers 503, or goes on without \
         it, until Envoy starts anew",
        "write `failure_policy: FAIL_RELOAD`";
    RUNTIME = "runtime", Error,
        "the runtime is not V8, the only one that Envoy's releases have", "write `runtime: envoy.wasm.runtime.v8`";
    REMOTE_CODE = "remote-code", Warning,
        "the module comes from an address, without an agent that fetches it: while that is away, all requests get 503",
        "put it in a file and name that in `code.local.filename`";
    HEADERS_STOP = "headers-stop", Warning,
        "`allow_on_headers_stop_iteration` is set: requests with a body do not wait for a decision", "take it out";

    REQUEST_SEAT_ORDER = "request-seat-order", Error,
        "the request seat does not stand before the router", "put it just before the router, which is the last filter";
    REQUEST_SEAT_BEFORE = "request-seat-before", Hint,
        "other filters stand between the request seat and the router; an answer of theirs is judged by nobody",
        "put the request seat just before the router";
    REQUEST_SEAT_MISSING = "request-seat-missing", Error,
        "there is an attempt seat, but no request seat, from which it takes its policies",
        "put the module just before the router of the listener, with a policy document";
    ATTEMPT_SEAT_MISSING = "attempt-seat-missing", Warning,
        "a policy with `retry` or `outlier` governs a cluster without an attempt seat: attempts are judged less exactly",
        "add the attempt seat to the cluster's `http_filters`, or to `upstream_http_filters` of every router";
    ATTEMPT_SEAT_CODEC = "attempt-seat-codec", Error,
        "the filters beside the hosts do not end with `upstream_codec`; Envoy refuses them",
        "put envoy.filters.http.upstream_codec last";
    VM_ID = "vm-id", Error,
        "the attempt seat has another `vm_id` than every request seat: they do not find each other",
        "give both the same `vm_id`, such as `holdfast`";
    SAME_NAME = "same-name", Warning,
        "two request seats in one chain have the same filter name; settings of a route cannot tell them apart",
        "give each filter a name of its own";

    STEERING_MISSING = "steering-missing", Error,
        "an `outlier` governs a cluster without `override_host`: hosts are judged, and none is left out",
        "put `override_host` around the cluster's load balancing policy";
    STEERING_HEADER = "steering-header", Error,
        "`override_host` does not follow the header `x-holdfast-hosts`",
        "write `override_host_sources: [{header: x-holdfast-hosts}]`";
    STEERING_ORDER = "steering-order", Error,
        "`override_host` is not the first of the policies, and Envoy takes the first that it knows",
        "put it first, with the others in its `fallback_policy`";
    STEERING_REFUSED = "steering-refused", Error,
        "`lb_subset_config`, or settings of zones, localities or hashing in `common_lb_config`, beside \
         `load_balancing_policy`; Envoy refuses them",
        "put them into the fallback of `override_host`";
    STEERING_IMPOSSIBLE = "steering-impossible", Error,
        "a cluster that chooses hosts itself (ORIGINAL_DST, aggregate) with `override_host`, which Envoy refuses, or \
         with an `outlier`, which cannot steer it",
        "take `outlier` and `override_host` off it; of an aggregate cluster, match those within";
    CLUSTER_PROVIDED = "cluster-provided", Error,
        "`cluster_provided` is the fallback of `override_host`; Envoy crashes", "take another fallback, such as \
         `least_request`";
    LB_POLICY = "lb-policy", Warning,
        "`lb_policy` or its settings beside `load_balancing_policy`, which takes their place",
        "make it the fallback of `override_host`, and take it out here";
    STATEFUL_SESSION = "stateful-session", Warning,
        "a `stateful_session` filter chooses hosts before `x-holdfast-hosts` is looked at: a host that is out goes on \
         getting its sessions",
        "take one of the two off these routes";
    OUTLIER_DETECTION = "outlier-detection", Warning,
        "Envoy's `outlier_detection` beside an `outlier`: two judges of the same hosts", "take `outlier_detection` out";
    HTTP2_LOST = "http2-lost", Warning,
        "`explicit_http_config: http_protocol_options` for a cluster that seems to speak HTTP/2: it becomes HTTP/1.1",
        "write `explicit_http_config: {http2_protocol_options: {}}`";
    GRPC_HEARTBEAT = "grpc-heartbeat", Error,
        "a `heartbeat.grpc` in a cluster that speaks HTTP/1.1 to its hosts, or whatever the client speaks: every check fails",
        "write `explicit_http_config: {http2_protocol_options: {}}`, or let the heartbeat ask for a `path`";

    RETRY_BACK_OFF = "retry-back-off", Warning,
        "Envoy's own wait before a retry, 25 ms and more, comes on top of the policy's",
        "write `retry_back_off: {base_interval: 0.001s, max_interval: 0.001s}` in the retry policy of the virtual host";
    RETRY_PREVIOUS_HOSTS = "retry-previous-hosts", Warning,
        "a retry may go to the host that has just failed",
        "add `envoy.retry_host_predicates.previous_hosts` and `host_selection_retry_max_attempts: 5` to the retry policy";
    RETRY_RATELIMITED = "retry-ratelimited", Warning,
        "`envoy-ratelimited` in a route's `retry_on`: the mark by which the attempt seat prevents a retry asks for one",
        "take the word out; in a policy's `on` it works";
    MAX_RETRIES = "max-retries", Warning,
        "Envoy lets 3 retries of a cluster be in flight unless `max_retries` of its `circuit_breakers` is raised",
        "write `circuit_breakers: {thresholds: [{priority: DEFAULT, max_retries: 10000}]}`";
    CONNECT_TIMEOUT = "connect-timeout", Warning,
        "`connect_timeout`, 5 s unless set, is longer than a request may take: one that goes to a host without a connection \
         is lost and not retried, and `outlier` finds such a host late",
        "set `connect_timeout` below it";
    PER_TRY_TIMEOUT = "per-try-timeout", Warning,
        "`per_try_timeout` is not below the route's `timeout`, 15 s unless set: Envoy ignores it",
        "raise the route's `timeout`, or give the policy a `retry.timeout`";

    SLOW_AFTER = "slow-after", Warning,
        "`slow_after` of a policy with a `slow_rate` is longer than the route's `timeout`, 15 s unless set: no answer is ever slow",
        "lower `slow_after`, or raise the route's `timeout`";

    MATCH_CLUSTER = "match-cluster", Warning,
        "a name in `match.cluster` matches no cluster of the configuration", "name a cluster that is there";
    MATCH_HIDDEN = "match-hidden", Warning,
        "a policy never governs: a request seat before its own in the chain has one that matches all its requests",
        "put the seat with the narrower `match` first";
    MATCH_EVERYTHING = "match-everything", Warning,
        "the first policy has no `match`: it governs every cluster that the listener's routes lead to, and there are several",
        "name the clusters in `match.cluster`; `[\"*\"]` says that all are meant";
    MATCH_ROUTE = "match-route", Warning,
        "a name in `match.route` matches no route of the listeners that the policy is for", "name a route that is there";
    DISCOVER_CLUSTER = "discover-cluster", Error,
        "`discover.cluster` names no cluster of the configuration", "add the cluster, or name one that is there";
    ROUTE_CLUSTER = "route-cluster", Error,
        "a fallback's `route` names no cluster of the configuration", "add the cluster, or name one that is there";
    CALL_CLUSTER = "call-cluster", Error,
        "a fallback's `call` names no cluster of the configuration", "add the cluster, or name one that is there";
    ROUTE_SPECIFIER = "route-specifier", Error,
        "a route does not let the fallback of a policy choose another cluster: the fallback does nothing",
        "put a route in front that matches the filter state `wasm.holdfast_route`, or a matcher on it in place of `cluster` (docs/envoy.md)";
    ROUTE_FURTHER = "route-further", Error,
        "nothing lets the fallback of a policy have another cluster serve after the last attempt: after a failure it does nothing",
        "give the cluster an attempt seat, and its route a matcher on the filter state `wasm.holdfast_route` in place of `cluster` and \
         `refresh_cluster_on_retry: true` (Envoy 1.39) in its `retry_policy` (docs/envoy.md)";

    DISCOVER_LOCALITIES = "discover-localities", Warning,
        "`discover` reads `/clusters`, which does not say what the localities of the cluster weigh: while a host is out they are lost",
        "let it read `/config_dump?include_eds&resource=dynamic_endpoint_configs`, or `static_endpoint_configs` for a cluster of the \
         bootstrap";
    LATENCY_HASH = "latency-hash", Warning,
        "a policy ejects by `latency` in a cluster that chooses hosts by a hash: one with heavier requests than others looks slow",
        "take `latency` out, or give it a `deviation` that such differences do not reach";

    INTERNAL_ONLY_HEADERS = "internal-only-headers", Warning,
        "clients may send `x-holdfast-hosts`, and so choose hosts, on routes where the request seat is off, or on a listener \
         without one",
        "write `internal_only_headers: [x-holdfast-hosts]` in the route configuration";
    INTERNAL_ADDRESSES = "internal-addresses", Warning,
        "`internal_address_config` covers all addresses: every client counts as internal, and may send \
         `x-holdfast-hosts` and `x-envoy-*`",
        "list the addresses of your own proxies alone";
    MIRROR = "mirror", Warning,
        "while a host is out, a mirror gets `x-holdfast-hosts` with the addresses of the others",
        "give the mirror's cluster an attempt seat, or the mirror's policy \
         `request_headers_mutations: [{remove: x-holdfast-hosts}]`";
    STATS_MATCHER = "stats-matcher", Warning,
        "the `stats_matcher` drops `wasmcustom.holdfast.*`: no metrics, and workers learn of changes late",
        "let the prefix `wasmcustom.holdfast.` through";
    STATS_TAGS = "stats-tags", Warning,
        "no `stats_tags` for the policy or the key: they stay in the metrics' names",
        "add the tags `policy` with `(policy=\\.=(.*?);\\.;)` and `key` with `(key=\\.=(.*?);\\.;)`";
    ACCESS_LOG = "access-log", Hint,
        "an access log without what Holdfast decided", "add `%FILTER_STATE(wasm.holdfast:PLAIN)%` to its format";

    PATCH_PLACE = "patch-place", Error,
        "a patch puts the request seat behind the router or at the end of the chain, where no request comes",
        "write `operation: INSERT_BEFORE` with `subFilter: {name: envoy.filters.http.router}`";
    PATCH_ALL_CLUSTERS = "patch-all-clusters", Error,
        "a patch without a match for a cluster puts `override_host` also on PassthroughCluster, of type ORIGINAL_DST; \
         Envoy refuses that",
        "name the service or the port in `match.cluster`";
}

/// All of them as a table in Markdown.
pub fn table() -> String {
    let row = |rule: &&Rule| format!("| `{}` | {} | {} | {} |\n", rule.id, rule.severity.name(), rule.what, rule.cure);
    let rows: String = RULES.iter().map(row).collect();
    format!("| rule | severity | what it finds | what cures it |\n|---|---|---|---|\n{}", rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_there_once() {
        for rule in RULES {
            assert_eq!(RULES.iter().filter(|other| other.id == rule.id).count(), 1, "{}", rule.id);
        }
    }
}
