//! `outcome`: what is a failure, what is ignored, what is slow.

use core::time::Duration;

use super::defaults;
use super::error::{Report, Reported, gather};
use super::json::Node;
use super::reader::{Item, Keys};
use crate::document::{GRPC_STATUS_NAMES, GrpcSet, OutcomeRules, StatusSet};

const KEYS: Keys = Keys::new(&["failure", "ignore", "slow_after"]);
const FAILURE_KEYS: Keys = Keys::new(&["status", "grpc_status", "local"]);
const IGNORE_KEYS: Keys = Keys::new(&["status", "grpc_status"]);

/// Shorter times cannot be told from a request that is not slow.
const SLOW_AFTER: core::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

pub(super) fn read(item: &Item<'_>, report: &mut Report) -> Result<OutcomeRules, Reported> {
    let fields = item.object(KEYS, report)?;
    let base = defaults::outcome();
    let failure =
        fields.or("failure", (base.failure_status, base.failure_grpc, base.failure_local), report, |item, report| {
            let fields = item.object(FAILURE_KEYS, report)?;
            let status = fields.or("status", base.failure_status, report, statuses);
            let grpc = fields.or("grpc_status", base.failure_grpc, report, grpc_statuses);
            let local = fields.boolean("local", base.failure_local, report);
            Ok((status?, grpc?, local?))
        });
    let ignore = fields.or("ignore", (base.ignore_status, base.ignore_grpc), report, |item, report| {
        let fields = item.object(IGNORE_KEYS, report)?;
        let status = fields.or("status", base.ignore_status, report, statuses);
        let grpc = fields.or("grpc_status", base.ignore_grpc, report, grpc_statuses);
        Ok((status?, grpc?))
    });
    let slow_after = fields.optional_duration("slow_after", &SLOW_AFTER, report);
    let (failure_status, failure_grpc, failure_local) = failure?;
    let (ignore_status, ignore_grpc) = ignore?;
    Ok(OutcomeRules {
        failure_status,
        failure_grpc,
        failure_local,
        ignore_status,
        ignore_grpc,
        slow_after: slow_after?,
    })
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

/// `503`, `"503"` or `"500-599"`.
pub(super) fn status_range(item: &Item<'_>, report: &mut Report) -> Result<(u16, u16), Reported> {
    const EXPECTED: &str = "a status like 503 or a range like \"500-599\" within 100..=599";
    let range = match item.node {
        Node::Number(_) => {
            let status = item.whole(100..=599, report)? as u16;
            Some((status, status))
        }
        Node::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            status(first).zip(status(last))
        }
        _ => return Err(item.mismatch(EXPECTED, report)),
    };
    match range {
        Some((first, last)) if first <= last => Ok((first, last)),
        Some(_) => Err(item.refused("an ascending range", report)),
        None => Err(item.refused(EXPECTED, report)),
    }
}

fn status(text: &str) -> Option<u16> {
    // Three digits exactly: parse() alone would take "+503".
    let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|status| digits && (100..=599).contains(status))
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
        return Ok(item.whole(0..=16, report)? as u8);
    }
    const EXPECTED: &str = "a gRPC status, a name such as \"UNAVAILABLE\" or a number within 0..=16";
    let text = item.string(EXPECTED, report)?;
    match GRPC_STATUS_NAMES.iter().position(|name| *name == text) {
        Some(status) => Ok(status as u8),
        None => Err(item.unknown_word(EXPECTED, text, &GRPC_STATUS_NAMES, report)),
    }
}
