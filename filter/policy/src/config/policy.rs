//! One policy.

use super::around::{Around, Feature, Features};
use super::error::{Report, Reported};
use super::json::Node;
use super::reader::{Item, quoted};
use super::table::{OUTCOME, POLICY, key, keys};
use super::{breaker, concurrency, fallback, matching, outcome, outlier, retry, throttle};
use crate::document::{Match, Mode, Policy, Scope};

/// `names` are those of the policies before, with their paths; this one's is added.
pub(super) fn read<'a>(
    item: &Item<'a>,
    names: &mut Vec<(&'a str, String)>,
    report: &mut Report,
) -> Result<Policy, Reported> {
    let fields = item.object(keys!(POLICY), report)?;
    let name = fields
        .required(key!(POLICY.required("name")), &name_expected(), report, |item, report| name(item, names, report));
    let matches = fields.or(key!(POLICY.object("match")), Match::default(), report, matching::read);

    let by = fields.scope(report);
    let max_keys = fields.small_count(key!(POLICY.small_count("max_keys")), report);

    let mode = fields.word(key!(POLICY.word("mode", &Mode::WORDS)), &Mode::WORDS, report);
    let outcome_item = fields.block(key!(POLICY.object("outcome")));
    let outcome = outcome::read(&outcome_item, report);

    // Where the mode is wrong nothing comes of the policy, so that any does here.
    let given = mode.unwrap_or_default();
    let breaker = fields.optional(key!(POLICY.object("breaker")), report, |item, report| {
        // Given is enough: what is wrong with it has been said.
        let slow_after = key!(OUTCOME.optional_duration("slow_after")).name;
        let slow_after = match outcome_item.node {
            Node::Object(entries) => entries.iter().any(|(key, _)| key == slow_after),
            _ => true,
        };
        breaker::read(item, given, slow_after, report)
    });
    let concurrency = fields
        .optional(key!(POLICY.object("concurrency")), report, |item, report| concurrency::read(item, given, report));
    let throttle =
        fields.optional(key!(POLICY.object("throttle")), report, |item, report| throttle::read(item, given, report));
    let retry = fields.optional(key!(POLICY.object("retry")), report, |item, report| retry::read(item, given, report));
    let outlier =
        fields.optional(key!(POLICY.object("outlier")), report, |item, report| outlier::read(item, given, report));

    let matched = matches.as_ref().ok();
    let retries = retry.as_ref().ok().and_then(Option::as_ref);
    let features = Features {
        breaker: feature(&breaker, |breaker| breaker.mode, mode),
        concurrency: feature(&concurrency, |concurrency| concurrency.mode, mode),
        throttle: feature(&throttle, |throttle| throttle.mode, mode),
        retry: feature(&retry, |retry| retry.mode, mode),
    };
    let fallback = fields.or(key!(POLICY.strings("fallback")).name, Vec::new(), report, |item, report| {
        fallback::read(item, &Around { features, retry: retries, matches: matched }, report)
    });

    Ok(Policy {
        name: name?,
        matches: matches?,
        scope: Scope { by: by?, max_keys: max_keys? },
        mode: mode?,
        outcome: outcome?,
        breaker: breaker?,
        concurrency: concurrency?,
        throttle: throttle?,
        retry: retry?,
        outlier: outlier?,
        fallback: fallback?,
    })
}

/// A feature counts as off when it alone is: a whole policy can be switched off with its one `mode`.
fn feature<T>(
    feature: &Result<Option<T>, Reported>,
    own: impl FnOnce(&T) -> Mode,
    policy: Result<Mode, Reported>,
) -> Feature {
    match feature {
        Ok(None) => Feature::Absent,
        Ok(Some(block)) if own(block) == Mode::Off && policy.is_ok_and(|mode| mode != Mode::Off) => Feature::Off,
        _ => Feature::On,
    }
}

fn name_expected() -> String {
    format!("1 to {} characters of a-z, 0-9, _ and -", key!(POLICY.most("name")))
}

fn name<'a>(item: &Item<'a>, names: &mut Vec<(&'a str, String)>, report: &mut Report) -> Result<String, Reported> {
    let expected = name_expected();
    let text = item.string(&expected, report)?;
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    if text.is_empty() || text.len() > *key!(POLICY.most("name")) || !text.bytes().all(allowed) {
        return Err(item.refused(&expected, report));
    }
    if let Some((_, first)) = names.iter().find(|(other, _)| *other == text) {
        return Err(report.add(&item.path, format!("must be unique, {} is already {first}", quoted(text))));
    }
    names.push((text, item.path.clone()));
    Ok(text.to_owned())
}
