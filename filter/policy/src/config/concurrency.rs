//! `concurrency`: the ceiling on requests in flight.

use super::error::{Report, Reported};
use super::reader::{Item, whole_number};
use super::table::{CONCURRENCY, key, keys};
use crate::document::{Concurrency, Mode};

pub(super) fn read(item: &Item<'_>, policy_mode: Mode, report: &mut Report) -> Result<Concurrency, Reported> {
    let fields = item.object(keys!(CONCURRENCY), report)?;
    let key = key!(CONCURRENCY.whole_range("max_requests"));
    let max_requests =
        fields.required(key.name, &whole_number(&key.range), report, |item, report| item.count(&key.range, report));
    let mode = fields.mode(key!(CONCURRENCY.mode("mode")), policy_mode, report);
    Ok(Concurrency { mode: mode?, max_requests: max_requests? })
}
