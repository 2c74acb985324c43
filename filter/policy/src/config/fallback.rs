//! `fallback`: what the client gets instead, by reason.

use super::around::{Around, Feature, Features};
use super::error::{Report, Reported, gather};
use super::reader::{Item, key_path};
use super::table::{FALLBACK, key, keys};
use super::{call, further, respond, route, stale};
use crate::document::{Fallback, FallbackKind, Reason, ReasonSet};

pub(super) fn read(item: &Item<'_>, around: &Around<'_>, report: &mut Report) -> Result<Vec<Fallback>, Reported> {
    let entries =
        item.list("a list of fallbacks such as [{\"on\": [\"open\"], \"respond\": {\"status\": 503}}]", report)?;
    let mut first_stale = None;
    gather(entries.iter().map(|item| entry(item, around, &mut first_stale, report)))
}

/// The words for what an entry must do.
pub(super) const ONE_KIND: &str = "must do one thing: give respond, stale, route, or call";

fn entry(
    item: &Item<'_>,
    around: &Around<'_>,
    first_stale: &mut Option<String>,
    report: &mut Report,
) -> Result<Fallback, Reported> {
    let fields = item.object(keys!(FALLBACK), report)?;
    let on = fields.required(
        key!(FALLBACK.required("on")),
        "a list of reasons such as [\"open\"]",
        report,
        |item, report| reasons(item, &around.features, report),
    );
    let respond = fields.optional(key!(FALLBACK.alternative("respond")), report, respond::read);
    let stale = fields.optional(key!(FALLBACK.alternative("stale")), report, |item, report| {
        let stale = stale::read(item, around.matches, first_stale.as_deref(), report);
        first_stale.get_or_insert_with(|| item.path.clone());
        stale
    });
    let route = fields.optional(key!(FALLBACK.alternative("route")), report, |item, report| {
        route::read(item, around.matches, report)
    });
    let call =
        fields.optional(key!(FALLBACK.alternative("call")), report, |item, report| call::read(item, around, report));
    let kind = match (respond?, stale?, route?, call?) {
        (Some(response), None, None, None) => Ok(FallbackKind::Static(response)),
        (None, Some(stale), None, None) => Ok(FallbackKind::Stale(stale)),
        (None, None, Some(route), None) => Ok(FallbackKind::Route(route)),
        (None, None, None, Some(call)) => Ok(FallbackKind::Call(call)),
        _ => Err(report.add(&item.path, ONE_KIND)),
    };
    let fallback = Fallback { on: on?, kind: kind? };
    let path = key_path(&item.path, "on");
    let told = match fallback.kind {
        FallbackKind::Route(_) if fallback.replaces_answers() => further::may_follow(&fallback, around, &path, report),
        FallbackKind::Call(_) => call::follows(fallback.on, &path, report),
        _ => Ok(()),
    };
    told.map(|()| fallback)
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
