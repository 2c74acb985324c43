//! `breaker`: when it opens, for how long, and how it closes again.

use core::num::{NonZeroU16, NonZeroU32};
use core::ops::RangeInclusive;
use core::time::Duration;

use super::error::{Report, Reported};
use super::json::Node;
use super::reader::{Item, Keys};
use super::{defaults, duration};
use crate::document::{Breaker, BreakerControl, Mode, Window};

const KEYS: Keys = Keys::new(&[
    "window",
    "min_requests",
    "failure_rate",
    "slow_rate",
    "consecutive_failures",
    "open_for",
    "open_growth",
    "open_max",
    "open_jitter",
    "honor_retry_after",
    "half_open",
    "ramp",
    "state",
    "mode",
]);
const HALF_OPEN_KEYS: Keys = Keys::new(&["probes", "lease"]);

const HOUR: Duration = Duration::from_secs(3600);
const WINDOW: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const COUNT_WINDOW: u16 = 1000;
const OPEN_FOR: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
const LEASE: RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;
const RAMP: RangeInclusive<Duration> = Duration::ZERO..=HOUR;

const STATES: [(&str, BreakerControl); 3] = [
    ("auto", BreakerControl::Auto),
    ("forced_open", BreakerControl::ForcedOpen),
    ("forced_closed", BreakerControl::ForcedClosed),
];

/// `policy_mode` is what the policy says; `slow_after` whether its `outcome` says what is slow.
pub(super) fn read(
    item: &Item<'_>,
    policy_mode: Mode,
    slow_after: bool,
    report: &mut Report,
) -> Result<Breaker, Reported> {
    let fields = item.object(KEYS, report)?;
    let base = defaults::breaker(policy_mode);

    let window = fields.or("window", base.window, report, window);
    let min_requests = fields.optional("min_requests", report, |item, report| {
        let min_requests = item.count(1_000_000, report)?;
        match window {
            Ok(Window::Count(last)) if min_requests > NonZeroU32::from(last) => {
                let problem =
                    format!("must be at most the {last} outcomes of window, or nothing opens it; was {min_requests}");
                Err(report.add(&item.path, problem))
            }
            _ => Ok(min_requests),
        }
    });

    let failure_rate = fields.percent("failure_rate", base.failure_rate, 0, report);
    let slow_rate = fields.or("slow_rate", base.slow_rate, report, |item, report| {
        let rate = item.percent(0, report)?;
        if rate.is_zero() || slow_after {
            return Ok(rate);
        }
        Err(report.add(&item.path, "needs outcome.slow_after, which says what is slow"))
    });
    let consecutive_failures = fields.or("consecutive_failures", None, report, |item, report| {
        Ok(NonZeroU16::new(item.whole(0..=1000, report)? as u16))
    });

    let open_for = fields.duration("open_for", base.open_for, &OPEN_FOR, report);
    let open_growth = fields.factor("open_growth", base.open_growth, 1..=10, report);
    let open_max = fields.optional("open_max", report, |item, report| {
        let longest = duration::read(item, &OPEN_FOR, report)?;
        match open_for {
            Ok(first) if longest < first => {
                Err(item.refused(&format!("at least open_for ({})", duration::text(first)), report))
            }
            _ => Ok(longest),
        }
    });
    let open_jitter = fields.percent("open_jitter", base.open_jitter, 0, report);
    let honor_retry_after = fields.boolean("honor_retry_after", base.honor_retry_after, report);

    let half_open = fields.or("half_open", (base.probes, base.lease), report, |item, report| {
        let fields = item.object(HALF_OPEN_KEYS, report)?;
        let probes = fields.small_count("probes", base.probes, 100, report);
        let lease = fields.duration("lease", base.lease, &LEASE, report);
        Ok((probes?, lease?))
    });
    let ramp = fields.duration("ramp", base.ramp, &RAMP, report);
    let state = fields.or("state", base.state, report, |item, report| item.word(&STATES, report));
    let mode = fields.mode(base.mode, report);

    if let (Ok(failures), Ok(slow), Ok(None), Ok(BreakerControl::Auto)) =
        (failure_rate, slow_rate, consecutive_failures, state)
        && failures.is_zero()
        && slow.is_zero()
    {
        let problem = "can never open: failure_rate, slow_rate and consecutive_failures are all 0; give one of them, \
                       or set state";
        return Err(report.add(&item.path, problem));
    }

    let (probes, lease) = half_open?;
    let (window, open_for) = (window?, open_for?);
    Ok(Breaker {
        mode: mode?,
        window,
        min_requests: min_requests?.unwrap_or_else(|| default_min_requests(window, base.min_requests)),
        failure_rate: failure_rate?,
        slow_rate: slow_rate?,
        consecutive_failures: consecutive_failures?,
        open_for,
        open_growth: open_growth?,
        // A first period longer than the default maximum is meant.
        open_max: open_max?.unwrap_or(base.open_max.max(open_for)),
        open_jitter: open_jitter?,
        honor_retry_after: honor_retry_after?,
        probes,
        lease,
        ramp: ramp?,
        state: state?,
    })
}

/// The usual volume, or all outcomes of a window that is smaller than that.
fn default_min_requests(window: Window, usual: NonZeroU32) -> NonZeroU32 {
    match window {
        Window::Count(last) => usual.min(last.into()),
        Window::Time(_) => usual,
    }
}

fn window(item: &Item<'_>, report: &mut Report) -> Result<Window, Reported> {
    match item.node {
        Node::Number(_) => Ok(Window::Count(item.small_count(COUNT_WINDOW, report)?)),
        Node::String(_) => Ok(Window::Time(duration::read(item, &WINDOW, report)?)),
        _ => {
            let expected = "a duration within 100ms..=1h such as \"10s\", or a number of outcomes within 1..=1000";
            Err(item.mismatch(expected, report))
        }
    }
}
