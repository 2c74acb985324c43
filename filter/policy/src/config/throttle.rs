//! `throttle`: adaptive client-side throttling.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::defaults;
use super::error::{Report, Reported};
use super::reader::{Item, Keys};
use crate::document::{Mode, Throttle};

const KEYS: Keys = Keys::new(&["success_rate", "aggression", "max_rejection", "min_rps", "window", "mode"]);
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

pub(super) fn read(item: &Item<'_>, policy_mode: Mode, report: &mut Report) -> Result<Throttle, Reported> {
    let fields = item.object(KEYS, report)?;
    let base = defaults::throttle(policy_mode);
    let success_rate = fields.percent("success_rate", base.success_rate, 1, report);
    let aggression = fields.factor("aggression", base.aggression, 1..=10, report);
    let max_rejection = fields.percent("max_rejection", base.max_rejection, 0, report);
    let min_rps = fields.whole("min_rps", base.min_rps, 0..=1_000_000, report);
    let window = fields.duration("window", base.window, &WINDOW, report);
    let mode = fields.mode(base.mode, report);
    Ok(Throttle {
        mode: mode?,
        success_rate: success_rate?,
        aggression: aggression?,
        max_rejection: max_rejection?,
        min_rps: min_rps?,
        window: window?,
    })
}
