//! `throttle`: adaptive client-side throttling.

use super::error::{Report, Reported};
use super::reader::Item;
use super::table::{THROTTLE, key, keys};
use crate::document::{Mode, Throttle};

pub(super) fn read(item: &Item<'_>, policy_mode: Mode, report: &mut Report) -> Result<Throttle, Reported> {
    let fields = item.object(keys!(THROTTLE), report)?;
    let success_rate = fields.percent(key!(THROTTLE.percent("success_rate")), report);
    let aggression = fields.number(key!(THROTTLE.number("aggression")), report);
    let max_rejection = fields.percent(key!(THROTTLE.percent("max_rejection")), report);
    let min_rps = fields.whole(key!(THROTTLE.whole("min_rps")), report);
    let window = fields.duration(key!(THROTTLE.duration("window")), report);
    let mode = fields.mode(key!(THROTTLE.mode("mode")), policy_mode, report);
    Ok(Throttle {
        mode: mode?,
        success_rate: success_rate?,
        aggression: aggression?,
        max_rejection: max_rejection?,
        min_rps: min_rps?,
        window: window?,
    })
}
