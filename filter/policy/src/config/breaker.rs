//! `breaker`: when it opens, for how long, and how it closes again.

use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;

use super::duration;
use super::error::{Report, Reported};
use super::json::Node;
use super::reader::{Item, within};
use super::table::{BREAKER, HALF_OPEN, key, keys};
use crate::document::{Breaker, BreakerControl, Mode, Window};

/// `policy_mode` is what the policy says; `slow_after` whether its `outcome` says what is slow.
pub(super) fn read(
    item: &Item<'_>,
    policy_mode: Mode,
    slow_after: bool,
    report: &mut Report,
) -> Result<Breaker, Reported> {
    let fields = item.object(keys!(BREAKER), report)?;

    let key = key!(BREAKER.duration("window"));
    let window = fields.or(key.name, Window::Time(key.default), report, window);
    let min_requests_key = key!(BREAKER.count("min_requests"));
    let min_requests = fields.optional(min_requests_key.name, report, |item, report| {
        let min_requests = item.count(&min_requests_key.range, report)?;
        match window {
            Ok(Window::Count(last)) if min_requests > NonZeroU32::from(last) => {
                let problem =
                    format!("must be at most the {last} outcomes of window, or nothing opens it; was {min_requests}");
                Err(report.add(&item.path, problem))
            }
            _ => Ok(min_requests),
        }
    });

    let failure_rate = fields.percent(key!(BREAKER.percent("failure_rate")), report);
    let key = key!(BREAKER.percent("slow_rate"));
    let slow_rate = fields.or(key.name, key.default, report, |item, report| {
        let rate = item.percent(key.range, report)?;
        if rate.is_zero() || slow_after {
            return Ok(rate);
        }
        Err(report.add(&item.path, "needs outcome.slow_after, which says what is slow"))
    });
    let consecutive_failures =
        fields.whole(key!(BREAKER.whole("consecutive_failures")), report).map(|row| NonZeroU16::new(row as u16));

    let open_for = fields.duration(key!(BREAKER.duration("open_for")), report);
    let open_growth = fields.number(key!(BREAKER.number("open_growth")), report);
    let open_max_key = key!(BREAKER.duration("open_max"));
    let open_max = fields.optional(open_max_key.name, report, |item, report| {
        let longest = duration::read(item, &open_max_key.range, report)?;
        match open_for {
            Ok(first) if longest < first => {
                Err(item.refused(&format!("at least open_for ({})", duration::text(first)), report))
            }
            _ => Ok(longest),
        }
    });
    let open_jitter = fields.percent(key!(BREAKER.percent("open_jitter")), report);
    let honor_retry_after = fields.boolean(key!(BREAKER.boolean("honor_retry_after")), report);

    let half_open = half_open(&fields.block(key!(BREAKER.object("half_open"))), report);
    let ramp = fields.duration(key!(BREAKER.duration("ramp")), report);
    let words = &BreakerControl::WORDS;
    let state = fields.word(key!(BREAKER.word("state", &BreakerControl::WORDS)), words, report);
    let mode = fields.mode(key!(BREAKER.mode("mode")), policy_mode, report);

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
        min_requests: min_requests?.unwrap_or_else(|| default_min_requests(window, min_requests_key.default)),
        failure_rate: failure_rate?,
        slow_rate: slow_rate?,
        consecutive_failures: consecutive_failures?,
        open_for,
        open_growth: open_growth?,
        // A first period longer than the default maximum is meant.
        open_max: open_max?.unwrap_or(open_max_key.default.max(open_for)),
        open_jitter: open_jitter?,
        honor_retry_after: honor_retry_after?,
        probes,
        lease,
        ramp: ramp?,
        state: state?,
    })
}

/// How many probes there are, and how long each may take.
fn half_open(item: &Item<'_>, report: &mut Report) -> Result<(NonZeroU16, Duration), Reported> {
    let fields = item.object(keys!(HALF_OPEN), report)?;
    let probes = fields.small_count(key!(HALF_OPEN.small_count("probes")), report);
    let lease = fields.duration(key!(HALF_OPEN.duration("lease")), report);
    Ok((probes?, lease?))
}

/// The usual volume, or all outcomes of a window that is smaller than that.
fn default_min_requests(window: Window, usual: NonZeroU32) -> NonZeroU32 {
    match window {
        Window::Count(last) => usual.min(last.into()),
        Window::Time(_) => usual,
    }
}

fn window(item: &Item<'_>, report: &mut Report) -> Result<Window, Reported> {
    let time = &key!(BREAKER.duration("window")).range;
    let outcomes = &key!(BREAKER.whole_range("window")).range;
    match item.node {
        Node::Number(_) => Ok(Window::Count(item.small_count(outcomes, report)?)),
        Node::String(_) => Ok(Window::Time(duration::read(item, time, report)?)),
        _ => {
            let (time, outcomes) = (duration::within(time), within(outcomes));
            let expected = format!("a duration {time} such as \"10s\", or a number of outcomes {outcomes}");
            Err(item.mismatch(&expected, report))
        }
    }
}
