//! Conditions between the keys of a block, as far as a schema can say them.
//!
//! It can compare a value with a constant, and not with another value: that `open_max` is at least `open_for` is for the parser
//! alone.

use super::tree::{Schema, properties};
use crate::config::respond::BARE;
use crate::config::table::{
    BREAKER, BUDGET, Block, CONSECUTIVE, FALLBACK, OUTCOME, OUTLIER, POLICY, RESPOND, RETRY, key,
};
use crate::document::{BreakerControl, Mode, Reason};

/// A percentage or a rate below this is rounded to 0, and refused for that: 0 often means "off".
pub(super) const ROUNDS_TO_NONE: f64 = 0.0005;

/// The schemas that a block's object fits as well as that of its keys.
pub(super) fn of(block: &'static Block) -> Vec<Schema> {
    let is = |other: &'static Block| core::ptr::eq(block, other);
    if is(&POLICY) {
        let mut rules = vec![slow_rate_needs_slow_after(), a_detector_is_on()];
        rules.extend(reasons_can_happen());
        rules
    } else if is(&BREAKER) {
        vec![it_can_open()]
    } else if is(&RETRY) {
        vec![hedging_needs_per_try_timeout()]
    } else if is(&BUDGET) {
        vec![it_allows_something(), no_rate_rounds_to_none()]
    } else if is(&RESPOND) {
        vec![no_body_where_none_may_be()]
    } else {
        Vec::new()
    }
}

/// Neither 0 nor near to it.
pub(super) fn nothing_that_rounds_to_none() -> Schema {
    let gap = Schema::of_type("number").with("exclusiveMinimum", 0u32).with("exclusiveMaximum", ROUNDS_TO_NONE);
    Schema::any().with("not", gap)
}

fn constant(value: impl Into<crate::config::json::Node>) -> Schema {
    Schema::any().with("const", value)
}

fn above_none() -> Schema {
    Schema::of_type("number").with("exclusiveMinimum", 0u32)
}

/// Holds for every object that has not the key with another value.
fn unless_other(name: &str, schema: Schema) -> Schema {
    Schema::of_type("object").with("properties", properties(vec![(name, schema)]))
}

/// The word that stands for a value.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, other)| other == value).map_or("", |(word, _)| word)
}

fn off() -> Schema {
    constant(word(&Mode::WORDS, &Mode::Off))
}

fn slow_rate_needs_slow_after() -> Schema {
    let slow_rate = Schema::having(vec![(key!(BREAKER.percent("slow_rate")).name, above_none())]);
    let slow_after = Schema::any().with("required", vec![key!(OUTCOME.optional_duration("slow_after")).name]);
    let outcome = *key!(POLICY.object("outcome"));
    let then =
        Schema::any().with("required", vec![outcome]).with("properties", properties(vec![(outcome, slow_after)]));
    let then = then.with("errorMessage", "breaker.slow_rate needs outcome.slow_after, which says what is slow");
    Schema::when(Schema::having(vec![(key!(POLICY.object("breaker")), slow_rate)]), then)
}

fn it_can_open() -> Schema {
    let failure_rate = key!(BREAKER.percent("failure_rate")).name;
    let slow_rate = key!(BREAKER.percent("slow_rate")).name;
    let consecutive = key!(BREAKER.whole("consecutive_failures")).name;
    let state = key!(BREAKER.word("state", &BreakerControl::WORDS)).name;
    let decides = constant(word(&BreakerControl::WORDS, &BreakerControl::Auto));
    let never = Schema::having(vec![(failure_rate, constant(0u32))]).with("allOf", vec![unless_other(state, decides)]);
    let others = [slow_rate, consecutive].map(|name| Schema::having(vec![(name, above_none())]));
    Schema::when(never, Schema::any_of(others.to_vec()))
}

fn hedging_needs_per_try_timeout() -> Schema {
    let hedge = Schema::having(vec![(key!(RETRY.boolean("hedge_on_per_try_timeout")).name, constant(true))]);
    let limit = key!(RETRY.optional_duration("per_try_timeout")).name;
    Schema::when(hedge, Schema::any().with("required", vec![limit]))
}

fn it_allows_something() -> Schema {
    let none = Schema::having(vec![(key!(BUDGET.percent("ratio")).name, constant(0u32))]);
    let some = vec![(key!(BUDGET.number("min_per_second")).name, above_none())];
    Schema::when(none, Schema::any().with("properties", properties(some)))
}

fn no_rate_rounds_to_none() -> Schema {
    let rate = vec![(key!(BUDGET.number("min_per_second")).name, nothing_that_rounds_to_none())];
    Schema::any().with("properties", properties(rate))
}

fn no_body_where_none_may_be() -> Schema {
    let status = Schema::any().with("enum", BARE.to_vec());
    let body = constant("").with("errorMessage", "must not be there: a response with this status has no body");
    let body = properties(vec![(key!(RESPOND.body("body")).name, body)]);
    let bare = Schema::having(vec![(key!(RESPOND.whole_range("status")).name, status)]);
    Schema::when(bare, Schema::any().with("properties", body))
}

/// What the policy has, and has not switched off alone, can give its reasons.
fn reasons_can_happen() -> Vec<Schema> {
    let mode = key!(POLICY.word("mode", &Mode::WORDS)).name;
    let features = [
        (Reason::Open, *key!(POLICY.object("breaker"))),
        (Reason::Concurrency, *key!(POLICY.object("concurrency"))),
        (Reason::Throttled, *key!(POLICY.object("throttle"))),
        (Reason::RetriesExhausted, *key!(POLICY.object("retry"))),
    ];
    let rules = features.map(|(reason, feature)| {
        let named = Schema::of_type("array").with("contains", constant(reason.name()));
        let entry = Schema::having(vec![(key!(FALLBACK.required("on")), named)]);
        let entries = Schema::of_type("array").with("contains", entry);
        let asked = || Schema::having(vec![(key!(POLICY.strings("fallback")).name, entries.clone())]);
        let message =
            format!("fallback is for \"{}\", which can never happen: the policy has no {feature}", reason.name());
        let there = Schema::any().with("required", vec![feature]).with("errorMessage", message);
        let acts = unless_other(mode, Schema::any().with("not", off()));
        let message = format!("fallback is for \"{}\", which can never happen: {feature} is off", reason.name());
        let on = Schema::any().with("not", off()).with("errorMessage", message);
        let on = properties(vec![(feature, Schema::any().with("properties", properties(vec![(mode, on)])))]);
        [
            Schema::when(asked(), there),
            Schema::when(asked().with("allOf", vec![acts]), Schema::any().with("properties", on)),
        ]
    });
    rules.into_iter().flatten().collect()
}

/// Of a block of outliers that acts.
fn a_detector_is_on() -> Schema {
    let mode = *key!(OUTLIER.mode("mode"));
    let switched_off = || Schema::having(vec![(mode, off())]);
    let none = || Schema::having(vec![(key!(CONSECUTIVE.whole("threshold")).name, constant(0u32))]);
    let row = || Schema::any_of(vec![constant(0u32), none(), switched_off()]);
    let detectors = vec![
        (key!(OUTLIER.whole("consecutive_failures")).name, row()),
        (key!(OUTLIER.whole("consecutive_gateway_failures")).name, row()),
        (key!(OUTLIER.whole("consecutive_local_failures")).name, row()),
        (key!(OUTLIER.object("failure_rate")), switched_off()),
        (key!(OUTLIER.object("success_rate")), switched_off()),
        (key!(OUTLIER.object("latency")), switched_off()),
        (key!(OUTLIER.object("heartbeat")), switched_off()),
    ];
    // The one that is on where nothing is said.
    let given = vec![key!(OUTLIER.whole("consecutive_failures")).name];
    let judges_none = Schema::of_type("object").with("required", given).with("properties", properties(detectors));
    let outlier = *key!(POLICY.object("outlier"));
    let own_mode = Schema::any().with("required", vec![mode]);
    let has_own_mode = Schema::having(vec![(outlier, own_mode)]);
    let message = "judges no host: every detector is off; give one of them, or set mode to \"off\"";
    let own = properties(vec![(
        outlier,
        Schema::any().with("properties", properties(vec![(mode, off().with("errorMessage", message))])),
    )]);
    let policys = Schema::having(vec![(key!(POLICY.word("mode", &Mode::WORDS)).name, off())]);
    let then = Schema::unless(has_own_mode.clone(), policys.with("errorMessage", format!("outlier {message}")));
    let then = then.with("then", Schema::any().with("properties", own));
    Schema::when(Schema::having(vec![(outlier, judges_none)]), then)
}
