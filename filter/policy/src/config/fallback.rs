//! `fallback`: what the client gets instead, by reason.

use super::error::{Report, Reported, gather};
use super::reader::Item;
use super::respond;
use super::table::{FALLBACK, key, keys};
use crate::document::{Fallback, FallbackKind, Reason, ReasonSet};

/// Which features of the policy can give a reason.
pub(super) struct Features {
    pub(super) breaker: Feature,
    pub(super) concurrency: Feature,
    pub(super) throttle: Feature,
    pub(super) retry: Feature,
}

/// What a policy does with a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    Absent,
    Off,
    On,
}

pub(super) fn read(item: &Item<'_>, features: &Features, report: &mut Report) -> Result<Vec<Fallback>, Reported> {
    let entries =
        item.list("a list of fallbacks such as [{\"on\": [\"open\"], \"respond\": {\"status\": 503}}]", report)?;
    gather(entries.iter().map(|item| entry(item, features, report)))
}

fn entry(item: &Item<'_>, features: &Features, report: &mut Report) -> Result<Fallback, Reported> {
    let fields = item.object(keys!(FALLBACK), report)?;
    let on = fields.required(
        key!(FALLBACK.required("on")),
        "a list of reasons such as [\"open\"]",
        report,
        |item, report| reasons(item, features, report),
    );
    let key = key!(FALLBACK.required("respond"));
    let response = match (fields.get(key), fields.not_yet) {
        // That respond is missing beside a kind of a later version is no second problem.
        (None, Some(reported)) => Err(reported),
        _ => fields.required(key, "an object such as {\"status\": 503}", report, respond::read),
    };
    Ok(Fallback { on: on?, kind: FallbackKind::Static(response?) })
}

fn reasons(item: &Item<'_>, features: &Features, report: &mut Report) -> Result<ReasonSet, Reported> {
    let items = item.list("a list of reasons such as [\"open\"]", report)?;
    if items.is_empty() {
        return Err(report.add(&item.path, "must name at least one reason"));
    }
    let mut set = ReasonSet::default();
    gather(items.iter().map(|item| {
        let reason = item.word(&Reason::ALL.map(|reason| (reason.name(), reason)), report)?;
        if set.contains(reason) {
            return Err(item.refused("a reason that is not in the list yet", report));
        }
        set.insert(reason);
        impossible(item, reason, features, report)
    }))?;
    Ok(set)
}

/// Reports a reason that the policy's features can never give: most likely the feature has been forgotten.
fn impossible(item: &Item<'_>, reason: Reason, features: &Features, report: &mut Report) -> Result<(), Reported> {
    let (feature, name) = match reason {
        Reason::Open => (features.breaker, "breaker"),
        Reason::Concurrency => (features.concurrency, "concurrency"),
        Reason::Throttled => (features.throttle, "throttle"),
        Reason::RetriesExhausted => (features.retry, "retry"),
        Reason::Failure | Reason::Timeout | Reason::NoHost => return Ok(()),
    };
    let why = match feature {
        Feature::On => return Ok(()),
        Feature::Absent => format!("the policy has no {name}"),
        Feature::Off => format!("the policy's {name} is off"),
    };
    Err(report.add(&item.path, format!("\"{}\" can never happen: {why}", reason.name())))
}
