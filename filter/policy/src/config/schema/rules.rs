//! Conditions between the keys of a block, as far as a schema can say them.
//!
//! It can compare a value with a constant, and not with another value: that `open_max` is at least `open_for` is for the parser
//! alone.
//!
//! Each rule finds fault with a value where the parser does, and has words for it that editors show. They have none of their
//! own for most keywords: `const` and `enum` are among the few for which all of them take a message from the schema. So where
//! a value is wrong because of others, the rule names what could stand there instead.

use super::pattern;
use super::tree::Schema;
use crate::config::call::ONLY_AFTER_ANSWERS;
use crate::config::fallback::ONE_KIND;
use crate::config::further::{
    NEEDS_NO_HEDGES, NEEDS_OWN_STATUSES, NEEDS_PER_TRY_TIMEOUT, NEEDS_RETRY, NEEDS_RETRY_ON, NO_ATTEMPT_FOLLOWS,
};
use crate::config::json::Node;
use crate::config::outlier::{NO_PATH_BESIDE_GRPC, NO_STATUS_BESIDE_GRPC};
use crate::config::respond::BARE;
use crate::config::table::{
    BREAKER, BUDGET, Block, CALL, CONSECUTIVE, FALLBACK, HASH, HEARTBEAT, OUTCOME, OUTLIER, POLICY, RESPOND, RETRY,
    ROUTE, key,
};
use crate::document::{BreakerControl, Mode, Reason, RetryWord};

/// A percentage or a rate below this is rounded to 0, and refused for that: 0 often means "off".
pub(super) const ROUNDS_TO_NONE: f64 = 0.0005;

/// The balance that chooses no host.
const ENVOY: &str = "envoy";

/// The schemas that a block's object fits as well as that of its keys.
pub(super) fn of(block: &'static Block) -> Vec<Schema> {
    let is = |other: &'static Block| core::ptr::eq(block, other);
    if is(&POLICY) {
        let mut rules = vec![slow_rate_needs_slow_after(), a_detector_is_on()];
        rules.extend(reasons_can_happen());
        rules.extend(a_further_attempt_can_be_made());
        rules
    } else if is(&BREAKER) {
        vec![it_can_open()]
    } else if is(&RETRY) {
        vec![hedging_needs_per_try_timeout()]
    } else if is(&OUTLIER) {
        vec![balance_needs_hosts()]
    } else if is(&HEARTBEAT) {
        vec![grpc_takes_the_place_of_path_and_status()]
    } else if is(&HASH) {
        vec![Schema::any().with("minProperties", 1u32)]
    } else if is(&BUDGET) {
        vec![it_allows_something(), no_rate_rounds_to_none()]
    } else if is(&FALLBACK) {
        vec![it_does_one_thing(), a_route_is_for_what_an_attempt_follows(), a_call_follows_an_answer()]
    } else if is(&ROUTE) {
        vec![a_cluster_is_named(key!(ROUTE.required("cluster")))]
    } else if is(&CALL) {
        vec![a_cluster_is_named(key!(CALL.required("cluster")))]
    } else if is(&RESPOND) {
        vec![no_body_where_none_may_be()]
    } else {
        Vec::new()
    }
}

/// 0, or not near to it.
pub(super) fn nothing_that_rounds_to_none() -> Schema {
    let gap = Schema::of_type("number").with("exclusiveMinimum", 0u32).with("exclusiveMaximum", ROUNDS_TO_NONE);
    Schema::when(gap, only(0u32, "must be 0 or at least 0.001"))
}

fn constant(value: impl Into<Node>) -> Schema {
    Schema::any().with("const", value)
}

/// Nothing but this, and what is wrong with anything else.
fn only(value: impl Into<Node>, message: impl Into<Node>) -> Schema {
    constant(value).with("errorMessage", message)
}

fn not(schema: Schema) -> Schema {
    Schema::any().with("not", schema)
}

fn all(schemas: Vec<Schema>) -> Schema {
    Schema::any().with("allOf", schemas)
}

/// What holds for the value of a key where the key is there.
fn at(key: &str, schema: Schema) -> Schema {
    Schema::where_there(vec![(key, schema)])
}

fn above_none() -> Schema {
    Schema::of_type("number").with("exclusiveMinimum", 0u32)
}

/// The word that stands for a value.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, other)| other == value).map_or("", |(word, _)| word)
}

fn off() -> Schema {
    constant(word(&Mode::WORDS, &Mode::Off))
}

fn slow_rate_needs_slow_after() -> Schema {
    let slow_after = Schema::any().with("required", vec![key!(OUTCOME.optional_duration("slow_after")).name]);
    let is_said = Schema::having(vec![(key!(POLICY.object("outcome")), slow_after)]);
    let none = only(0u32, "needs outcome.slow_after, which says what is slow");
    Schema::unless(is_said, at(key!(POLICY.object("breaker")), at(key!(BREAKER.percent("slow_rate")).name, none)))
}

fn it_can_open() -> Schema {
    let failure_rate = key!(BREAKER.percent("failure_rate"));
    let others = [key!(BREAKER.percent("slow_rate")).name, key!(BREAKER.whole("consecutive_failures")).name];
    let opens = others.map(|name| Schema::having(vec![(name, above_none())]));
    let decides = constant(word(&BreakerControl::WORDS, &BreakerControl::Auto));
    let never = all(vec![
        Schema::having(vec![(failure_rate.name, constant(0u32))]),
        at(key!(BREAKER.word("state", &BreakerControl::WORDS)).name, decides),
        not(Schema::any_of(opens.to_vec())),
    ]);
    let message = "nothing can open the breaker: failure_rate, slow_rate and consecutive_failures are all 0; give one of them, \
                   or set state";
    Schema::when(never, at(failure_rate.name, only(failure_rate.default.millis() / 1000, message)))
}

fn hedging_needs_per_try_timeout() -> Schema {
    let is_limited = Schema::any().with("required", vec![key!(RETRY.optional_duration("per_try_timeout")).name]);
    let none = only(false, "needs per_try_timeout, which says when an attempt is too slow");
    Schema::unless(is_limited, at(key!(RETRY.boolean("hedge_on_per_try_timeout")).name, none))
}

fn balance_needs_hosts() -> Schema {
    let listed = Schema::any().with("minItems", 1u32);
    let knows = Schema::any_of(vec![
        Schema::any().with("required", vec![*key!(OUTLIER.object("discover"))]),
        Schema::having(vec![(key!(OUTLIER.strings("hosts")).name, listed)]),
    ]);
    let message = "chooses a host for every request and must know them all: give discover, or hosts";
    Schema::unless(knows, at(key!(OUTLIER.name("balance")), only(ENVOY, message)))
}

fn grpc_takes_the_place_of_path_and_status() -> Schema {
    let grpc = Schema::any().with("required", vec![*key!(HEARTBEAT.object("grpc"))]);
    let neither = Schema::where_there(vec![
        (key!(HEARTBEAT.string("path")).name, only("", NO_PATH_BESIDE_GRPC)),
        (key!(HEARTBEAT.statuses("status")).name, only(Vec::<Node>::new(), NO_STATUS_BESIDE_GRPC)),
    ]);
    Schema::when(grpc, neither)
}

fn it_allows_something() -> Schema {
    let (ratio, rate) = (key!(BUDGET.percent("ratio")), key!(BUDGET.number("min_per_second")));
    let none = Schema::having(vec![(ratio.name, constant(0u32)), (rate.name, constant(0u32))]);
    let message =
        "the budget allows no retry: ratio and min_per_second are both 0; give one of them, or set mode to off";
    Schema::when(none, at(rate.name, only(rate.default / 1000, message)))
}

fn no_rate_rounds_to_none() -> Schema {
    at(key!(BUDGET.number("min_per_second")).name, nothing_that_rounds_to_none())
}

fn it_does_one_thing() -> Schema {
    let kinds = [
        *key!(FALLBACK.alternative("respond")),
        *key!(FALLBACK.alternative("stale")),
        *key!(FALLBACK.alternative("route")),
        *key!(FALLBACK.alternative("call")),
    ];
    let has = |kind: &'static str| Schema::any().with("required", vec![kind]);
    let alone = |kind: &'static str| {
        let others = kinds.iter().filter(|other| **other != kind).map(|other| not(has(other)));
        all(core::iter::once(has(kind)).chain(others).collect())
    };
    let is_one = Schema::any_of(kinds.map(alone).into());
    Schema::unless(is_one, Schema::any().with("const", Node::Null).with("errorMessage", ONE_KIND))
}

/// Where there is no host no attempt follows.
fn a_route_is_for_what_an_attempt_follows() -> Schema {
    routed_without(&[Reason::NoHost], NO_ATTEMPT_FOLLOWS)
}

/// A call is made in place of an answer.
fn a_call_follows_an_answer() -> Schema {
    let called = *key!(FALLBACK.alternative("call"));
    entry_without(called, &[Reason::Open, Reason::Concurrency, Reason::Throttled], ONLY_AFTER_ANSWERS)
}

/// An entry that has no route, or is for none of these reasons.
fn routed_without(reasons: &[Reason], message: &'static str) -> Schema {
    entry_without(key!(FALLBACK.alternative("route")), reasons, message)
}

/// An entry that is not of this kind, or is for none of these reasons.
fn entry_without(kind: &'static str, reasons: &[Reason], message: &'static str) -> Schema {
    let routed = Schema::any().with("required", vec![kind]);
    let others = Reason::ALL.into_iter().filter(|reason| !reasons.contains(reason)).map(Reason::name);
    let item = Schema::any().with("enum", others.collect::<Vec<_>>()).with("errorMessage", message);
    Schema::when(routed, at(key!(FALLBACK.required("on")), Schema::any().with("items", item)))
}

/// What a route after a failure needs of the policy's retries.
fn a_further_attempt_can_be_made() -> Vec<Schema> {
    let retry = *key!(POLICY.object("retry"));
    let of_retry = |schema: Schema| Schema::having(vec![(retry, schema)]);
    let none = |reasons: &[Reason], message| {
        at(key!(POLICY.strings("fallback")).name, Schema::any().with("items", routed_without(reasons, message)))
    };
    let further = [Reason::Failure, Reason::Timeout, Reason::RetriesExhausted];
    let mode = key!(POLICY.word("mode", &Mode::WORDS)).name;
    let is_off = of_retry(Schema::having(vec![(mode, off())]));
    let on = key!(RETRY.strings("on")).name;
    let names = |word: RetryWord| {
        let named = Schema::any().with("contains", constant(word.name()));
        of_retry(Schema::having(vec![(on, named)]))
    };
    let per_try_timeout = Schema::any().with("required", vec![key!(RETRY.optional_duration("per_try_timeout")).name]);
    let hedges = Schema::having(vec![(key!(RETRY.boolean("hedge_on_per_try_timeout")).name, constant(true))]);
    let left = all(vec![names(RetryWord::RetriableStatusCodes), not(names(RetryWord::RetriableHeaders))]);
    let has_retry = Schema::any().with("required", vec![retry]);
    vec![
        Schema::unless(has_retry, none(&further, NEEDS_RETRY)),
        Schema::when(all(vec![is_off, at(mode, not(off()))]), none(&further, NEEDS_RETRY_ON)),
        Schema::when(of_retry(hedges), none(&further, NEEDS_NO_HEDGES)),
        Schema::when(left, none(&further, NEEDS_OWN_STATUSES)),
        Schema::unless(of_retry(per_try_timeout), none(&[Reason::Timeout], NEEDS_PER_TRY_TIMEOUT)),
    ]
}

fn a_cluster_is_named(key: &'static str) -> Schema {
    at(key, pattern::string("^[^*]*$", "the name of one cluster: it is no glob"))
}

fn no_body_where_none_may_be() -> Schema {
    let status = Schema::any().with("enum", BARE.to_vec());
    let bare = Schema::having(vec![(key!(RESPOND.whole_range("status")).name, status)]);
    let none = only("", "must not be there: a response with this status has no body");
    Schema::when(bare, at(key!(RESPOND.body("body")).name, none))
}

/// What the policy has, and has not switched off alone, can give its reasons.
fn reasons_can_happen() -> Vec<Schema> {
    let features = [
        (Reason::Open, *key!(POLICY.object("breaker"))),
        (Reason::Concurrency, *key!(POLICY.object("concurrency"))),
        (Reason::Throttled, *key!(POLICY.object("throttle"))),
        (Reason::RetriesExhausted, *key!(POLICY.object("retry"))),
    ];
    let mode = key!(POLICY.word("mode", &Mode::WORDS)).name;
    let rules = features.map(|(reason, feature)| {
        let is_off = Schema::having(vec![(feature, Schema::having(vec![(mode, off())]))]);
        let alone = all(vec![is_off, at(mode, not(off()))]);
        let (there, name) = (Schema::any().with("required", vec![feature]), reason.name());
        [
            Schema::unless(there, without(reason, format!("\"{name}\" can never happen: the policy has no {feature}"))),
            Schema::when(alone, without(reason, format!("\"{name}\" can never happen: the policy's {feature} is off"))),
        ]
    });
    rules.into_iter().flatten().collect()
}

/// A policy none of whose fallbacks is for a reason.
fn without(reason: Reason, message: String) -> Schema {
    let others: Vec<&str> = Reason::ALL.map(Reason::name).into_iter().filter(|name| *name != reason.name()).collect();
    let others = Schema::any().with("enum", others).with("errorMessage", message);
    let items = |schema: Schema| Schema::any().with("items", schema);
    let entry = at(key!(FALLBACK.required("on")), items(Schema::when(constant(reason.name()), others)));
    at(key!(POLICY.strings("fallback")).name, items(entry))
}

/// Of a block of outliers that acts.
fn a_detector_is_on() -> Schema {
    let mode = *key!(OUTLIER.mode("mode"));
    let default = key!(OUTLIER.whole("consecutive_failures"));
    let switched_off = || Schema::having(vec![(mode, off())]);
    let none = || Schema::having(vec![(key!(CONSECUTIVE.whole("threshold")).name, constant(0u32))]);
    let row = || Schema::any_of(vec![constant(0u32), none(), switched_off()]);
    let others = Schema::where_there(vec![
        (key!(OUTLIER.whole("consecutive_gateway_failures")).name, row()),
        (key!(OUTLIER.whole("consecutive_local_failures")).name, row()),
        (key!(OUTLIER.object("failure_rate")), switched_off()),
        (key!(OUTLIER.object("success_rate")), switched_off()),
        (key!(OUTLIER.object("latency")), switched_off()),
        (key!(OUTLIER.object("heartbeat")), switched_off()),
        (key!(OUTLIER.name("balance")), constant(ENVOY)),
    ]);
    let outlier = *key!(POLICY.object("outlier"));
    // This one is on where nothing is said of it.
    let judges_none = all(vec![Schema::having(vec![(default.name, row())]), others]);
    let has_mode = Schema::having(vec![(outlier, Schema::any().with("required", vec![mode]))]);
    let is_off = Schema::having(vec![(outlier, switched_off())]);
    let takes_off_over = all(vec![not(has_mode), switched_off()]);
    let acts = not(Schema::any_of(vec![is_off, takes_off_over]));
    let message = "judges no host: every detector is off; give one of them, or set mode to off";
    let fault = at(outlier, at(default.name, only(default.default, message)));
    Schema::when(all(vec![Schema::having(vec![(outlier, judges_none)]), acts]), fault)
}
