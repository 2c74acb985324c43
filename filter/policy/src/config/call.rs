//! `call`: the same request again, in another cluster.

use super::around::Around;
use super::duration::text;
use super::error::{Report, Reported};
use super::other_cluster::{self, CLUSTER};
use super::reader::{Item, key_path};
use super::retry;
use super::table::{CALL, key, keys};
use crate::document::{Call, Reason, ReasonSet};

/// Why a reason is not for a call.
pub(super) const ONLY_AFTER_ANSWERS: &str = "must not name open, concurrency or throttled where the entry has a call, which is made in place of an answer that has failed: \
     use route for them";

/// Reads it for the requests of a policy.
pub(super) fn read(item: &Item<'_>, around: &Around<'_>, report: &mut Report) -> Result<Call, Reported> {
    let fields = item.object(keys!(CALL), report)?;
    let cluster = fields.required(key!(CALL.required("cluster")), CLUSTER, report, |item, report| {
        other_cluster::read(item, around.matches, report)
    });
    let timeout = fields.duration(key!(CALL.duration("timeout")), report).and_then(|timeout| {
        let whole = around.retry.and_then(|retry| retry.timeout).filter(|whole| timeout > *whole);
        let Some(whole) = whole else { return Ok(timeout) };
        let problem =
            format!("must not be longer than retry.timeout, which is \"{}\", was \"{}\"", text(whole), text(timeout));
        Err(report.add(&key_path(&item.path, "timeout"), problem))
    });
    let max_body = fields.size(key!(CALL.size("max_body")), report);
    let max_concurrent = fields.small_count(key!(CALL.small_count("max_concurrent")), report);
    let (methods, idempotency_header) = retry::sent_twice(around.retry);
    Ok(Call {
        cluster: cluster?,
        timeout: timeout?,
        max_body: max_body?,
        max_concurrent: max_concurrent?,
        methods,
        idempotency_header,
    })
}

/// Reports that an entry's reasons, which stand at `path`, are not all given by an answer.
pub(super) fn follows(on: ReasonSet, path: &str, report: &mut Report) -> Result<(), Reported> {
    let is_in_front =
        [Reason::Open, Reason::Concurrency, Reason::Throttled].into_iter().any(|reason| on.contains(reason));
    if is_in_front { Err(report.add(path, ONLY_AFTER_ANSWERS)) } else { Ok(()) }
}
