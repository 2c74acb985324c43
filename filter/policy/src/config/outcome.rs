//! `outcome`: what is a failure, what is ignored, what is slow.

use core::ops::RangeInclusive;

use super::error::{Report, Reported, gather};
use super::json::Node;
use super::matching;
use super::reader::{Fields, Item, within};
use super::table::{self, Entry, FAILURE, IGNORE, OUTCOME, key, keys};
use crate::document::{ClientGone, GRPC_STATUS_NAMES, GrpcSet, OutcomeRules, StatusSet};
use crate::glob::Glob;

pub(super) fn read(item: &Item<'_>, report: &mut Report) -> Result<OutcomeRules, Reported> {
    let fields = item.object(keys!(OUTCOME), report)?;
    let failure = failure(&fields.block(key!(OUTCOME.object("failure"))), report);
    let ignore = ignore(&fields.block(key!(OUTCOME.object("ignore"))), report);
    let slow_after = fields.optional_duration(key!(OUTCOME.optional_duration("slow_after")), report);
    let words = &ClientGone::WORDS;
    let client_gone = fields.word(key!(OUTCOME.word("client_gone", &ClientGone::WORDS)), words, report);
    let (failure, ignore) = (failure?, ignore?);
    Ok(OutcomeRules {
        failure_status: failure.said.status,
        failure_grpc: failure.said.grpc,
        failure_local: failure.local,
        ignore_status: ignore.status,
        ignore_grpc: ignore.grpc,
        failure_headers: failure.said.headers,
        ignore_headers: ignore.headers,
        failure_broken: failure.broken,
        slow_after: slow_after?,
        client_gone: client_gone?,
    })
}

/// What a host says by which it is judged.
struct Said {
    status: StatusSet,
    grpc: GrpcSet,
    headers: Vec<(String, Glob)>,
}

struct Failure {
    said: Said,
    local: bool,
    broken: bool,
}

fn failure(item: &Item<'_>, report: &mut Report) -> Result<Failure, Reported> {
    let fields = item.object(keys!(FAILURE), report)?;
    let status = fields.statuses(key!(FAILURE.statuses("status")), report, statuses);
    let grpc = fields.grpc_statuses(key!(FAILURE.strings("grpc_status")), report);
    let headers = matching::headers(&fields, key!(FAILURE.glob_headers("header")), report);
    let local = fields.boolean(key!(FAILURE.boolean("local")), report);
    let broken = fields.boolean(key!(FAILURE.boolean("broken")), report);
    let said = Said { status: status?, grpc: grpc?, headers: headers? };
    Ok(Failure { said, local: local?, broken: broken? })
}

fn ignore(item: &Item<'_>, report: &mut Report) -> Result<Said, Reported> {
    let fields = item.object(keys!(IGNORE), report)?;
    let status = fields.statuses(key!(IGNORE.statuses("status")), report, statuses);
    let grpc = fields.grpc_statuses(key!(IGNORE.strings("grpc_status")), report);
    let headers = matching::headers(&fields, key!(IGNORE.glob_headers("header")), report);
    Ok(Said { status: status?, grpc: grpc?, headers: headers? })
}

impl Fields<'_> {
    /// The statuses of a key as `read` reads them, or its default.
    pub(super) fn statuses(
        &self,
        key: &Entry<(), &'static [RangeInclusive<u16>]>,
        report: &mut Report,
        read: impl FnOnce(&Item<'_>, &mut Report) -> Result<StatusSet, Reported>,
    ) -> Result<StatusSet, Reported> {
        match self.get(key.name) {
            Some(item) => read(&item, report),
            None => Ok(status_set(key.default)),
        }
    }

    fn grpc_statuses(
        &self,
        key: &Entry<(), &'static [&'static str]>,
        report: &mut Report,
    ) -> Result<GrpcSet, Reported> {
        match self.get(key.name) {
            Some(item) => grpc_statuses(&item, report),
            None => Ok(grpc_set(key.default)),
        }
    }
}

/// The set of these ranges.
pub(super) fn status_set(ranges: &[RangeInclusive<u16>]) -> StatusSet {
    let mut set = StatusSet::default();
    ranges.iter().for_each(|range| set.insert_range(*range.start(), *range.end()));
    set
}

/// The set of these names.
pub(super) fn grpc_set(names: &[&str]) -> GrpcSet {
    let mut set = GrpcSet::default();
    names.iter().filter_map(|name| named(name)).for_each(|status| set.insert(status));
    set
}

/// A list of statuses and ranges of them; may be empty.
pub(super) fn statuses(item: &Item<'_>, report: &mut Report) -> Result<StatusSet, Reported> {
    let items = item.list("a list of statuses such as [\"500-599\", 429]", report)?;
    let mut set = StatusSet::default();
    gather(items.iter().map(|item| {
        let (first, last) = status_range(item, report)?;
        set.insert_range(first, last);
        Ok(())
    }))?;
    Ok(set)
}

/// What [`status_range`] takes.
pub(super) fn status_expected() -> String {
    format!("a status like 503 or a range like \"500-599\" {}", within(&table::STATUS))
}

/// `503`, `"503"` or `"500-599"`.
pub(super) fn status_range(item: &Item<'_>, report: &mut Report) -> Result<(u16, u16), Reported> {
    let range = match item.node {
        Node::Number(_) => {
            let status = item.whole(&table::STATUS, report)? as u16;
            Some((status, status))
        }
        Node::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            status(first).zip(status(last))
        }
        _ => return Err(item.mismatch(&status_expected(), report)),
    };
    match range {
        Some((first, last)) if first <= last => Ok((first, last)),
        Some(_) => Err(item.refused("an ascending range", report)),
        None => Err(item.refused(&status_expected(), report)),
    }
}

fn status(text: &str) -> Option<u16> {
    // Three digits exactly: parse() alone would take "+503".
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|status| digits && table::STATUS.contains(&u32::from(*status)))
}

fn grpc_statuses(item: &Item<'_>, report: &mut Report) -> Result<GrpcSet, Reported> {
    let items = item.list("a list of gRPC statuses such as [\"UNAVAILABLE\"]", report)?;
    let mut set = GrpcSet::default();
    gather(items.iter().map(|item| {
        set.insert(grpc_status(item, report)?);
        Ok(())
    }))?;
    Ok(set)
}

/// A gRPC status by name or number.
pub(super) fn grpc_status(item: &Item<'_>, report: &mut Report) -> Result<u8, Reported> {
    if let Node::Number(_) = item.node {
        return Ok(item.whole(&table::GRPC_STATUS, report)? as u8);
    }
    let range = within(&table::GRPC_STATUS);
    let expected = format!("a gRPC status, a name such as \"UNAVAILABLE\" or a number {range}");
    let text = item.string(&expected, report)?;
    named(text).ok_or_else(|| item.unknown_word(&expected, text, &GRPC_STATUS_NAMES, report))
}

/// The gRPC status of this name.
fn named(name: &str) -> Option<u8> {
    GRPC_STATUS_NAMES.iter().position(|known| *known == name).map(|status| status as u8)
}
