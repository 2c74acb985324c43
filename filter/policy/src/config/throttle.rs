//! `throttle`: adaptive client-side throttling.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::breaker::thousandths;
use super::error::{Report, Reported};
use super::reader::{Item, Keys};
use super::{defaults, duration, mode};
use crate::document::{Mode, Throttle};

const KEYS: Keys = Keys::new(&["success_rate", "aggression", "max_rejection", "min_rps", "window", "mode"]);
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

pub(super) fn read(item: &Item<'_>, policy_mode: Mode, report: &mut Report) -> Result<Throttle, Reported> {
    let fields = item.object(KEYS, report)?;
    let base = defaults::throttle(policy_mode);
    let success_rate = fields.or("success_rate", base.success_rate, report, |item, report| item.percent(1, report));
    let aggression =
        fields.or("aggression", base.aggression, report, |item, report| Ok(thousandths(item.number(1..=10, report)?)));
    let max_rejection = fields.or("max_rejection", base.max_rejection, report, |item, report| item.percent(0, report));
    let min_rps = fields.or("min_rps", base.min_rps, report, |item, report| item.whole(0..=1_000_000, report));
    let window = fields.or("window", base.window, report, |item, report| duration::read(item, WINDOW, report));
    let mode = fields.or("mode", base.mode, report, mode::read);
    Ok(Throttle {
        mode: mode?,
        success_rate: success_rate?,
        aggression: aggression?,
        max_rejection: max_rejection?,
        min_rps: min_rps?,
        window: window?,
    })
}
