//! One policy.

use super::error::{Report, Reported};
use super::fallback::{Feature, Features};
use super::json::Node;
use super::reader::{Item, Keys, quoted};
use super::{breaker, concurrency, defaults, fallback, matching, outcome, outlier, retry, scope, throttle};
use crate::document::{Match, Mode, Policy, Scope};

const KEYS: Keys = Keys::new(&[
    "name",
    "match",
    "scope",
    "max_keys",
    "mode",
    "outcome",
    "breaker",
    "concurrency",
    "throttle",
    "retry",
    "outlier",
    "fallback",
]);

const NAME: &str = "1 to 63 characters of a-z, 0-9, _ and -";

/// `names` are those of the policies before, with their paths; this one's is added.
pub(super) fn read<'a>(
    item: &Item<'a>,
    names: &mut Vec<(&'a str, String)>,
    report: &mut Report,
) -> Result<Policy, Reported> {
    let fields = item.object(KEYS, report)?;
    let name = fields.required("name", NAME, report, |item, report| name(item, names, report));
    let matches = fields.or("match", Match::default(), report, matching::read);

    let scope = defaults::scope();
    let by = fields.or("scope", scope.by, report, scope::read);
    let max_keys = fields.small_count("max_keys", scope.max_keys, 4096, report);

    let mode = fields.mode(Mode::default(), report);
    let outcome = fields.or("outcome", defaults::outcome(), report, outcome::read);

    // Where the mode is wrong nothing comes of the policy, so that any does here.
    let given = mode.unwrap_or_default();
    let breaker = fields.optional("breaker", report, |item, report| {
        // Given is enough: what is wrong with it has been said.
        let outcome = fields.get("outcome");
        let slow_after = outcome.is_some_and(|outcome| match outcome.node {
            Node::Object(entries) => entries.iter().any(|(key, _)| key == "slow_after"),
            _ => true,
        });
        breaker::read(item, given, slow_after, report)
    });
    let concurrency = fields.optional("concurrency", report, |item, report| concurrency::read(item, given, report));
    let throttle = fields.optional("throttle", report, |item, report| throttle::read(item, given, report));
    let retry = fields.optional("retry", report, |item, report| retry::read(item, given, report));
    let outlier = fields.optional("outlier", report, |item, report| outlier::read(item, given, report));

    let features = Features {
        breaker: feature(&breaker, |breaker| breaker.mode, mode),
        concurrency: feature(&concurrency, |concurrency| concurrency.mode, mode),
        throttle: feature(&throttle, |throttle| throttle.mode, mode),
        retry: feature(&retry, |retry| retry.mode, mode),
    };
    let fallback = fields.or("fallback", Vec::new(), report, |item, report| fallback::read(item, &features, report));

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

fn name<'a>(item: &Item<'a>, names: &mut Vec<(&'a str, String)>, report: &mut Report) -> Result<String, Reported> {
    let text = item.string(NAME, report)?;
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    if !(1..=63).contains(&text.len()) || !text.bytes().all(allowed) {
        return Err(item.refused(NAME, report));
    }
    if let Some((_, first)) = names.iter().find(|(other, _)| *other == text) {
        return Err(report.add(&item.path, format!("must be unique, {} is already {first}", quoted(text))));
    }
    names.push((text, item.path.clone()));
    Ok(text.to_owned())
}
