//! `concurrency`: the ceiling on requests in flight.

use super::error::{Report, Reported};
use super::reader::{Item, Keys};
use crate::document::{Concurrency, Mode};

const KEYS: Keys = Keys::new(&["max_requests", "mode"]);

pub(super) fn read(item: &Item<'_>, policy_mode: Mode, report: &mut Report) -> Result<Concurrency, Reported> {
    let fields = item.object(KEYS, report)?;
    let max_requests = fields.required("max_requests", "a whole number within 1..=1000000", report, |item, report| {
        item.count(1_000_000, report)
    });
    let mode = fields.mode(policy_mode, report);
    Ok(Concurrency { mode: mode?, max_requests: max_requests? })
}
