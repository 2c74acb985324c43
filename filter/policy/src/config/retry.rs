//! `retry`: after what there is a further try, how long it waits, and how many all requests together may have.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::error::{Report, Reported, gather};
use super::json::Node;
use super::reader::{Item, Keys, quoted, thousandths};
use super::{defaults, duration, header, outcome};
use crate::document::{Backoff, Budget, Jitter, Mode, Retry, RetryAfter, RetryOn, RetryWord};

const KEYS: Keys = Keys::new(&[
    "max_retries",
    "on",
    "methods",
    "idempotency_header",
    "per_try_timeout",
    "timeout",
    "backoff",
    "retry_after",
    "budget",
    "skip_retries_of_retries",
    "hedge_on_per_try_timeout",
    "mode",
]);
const BACKOFF_KEYS: Keys = Keys::new(&["base", "max", "jitter"]);
const RETRY_AFTER_KEYS: Keys = Keys::new(&["honor", "max"]);
const BUDGET_KEYS: Keys = Keys::new(&["ratio", "min_per_second", "window"]);

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = MILLISECOND..=HOUR;
const BASE: RangeInclusive<Duration> = MILLISECOND..=MINUTE;
const LONGEST: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(5 * 60);
const RETRY_AFTER: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5 * 60);

const JITTERS: [(&str, Jitter); 4] =
    [("full", Jitter::Full), ("equal", Jitter::Equal), ("decorrelated", Jitter::Decorrelated), ("none", Jitter::None)];

/// The methods whose case people get wrong. Source: RFC 9110, section 9.3, and RFC 5789.
const STANDARD_METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// The most methods: each request is compared with all of them.
const MAX_METHODS: usize = 100;

pub(super) fn read(item: &Item<'_>, policy_mode: Mode, report: &mut Report) -> Result<Retry, Reported> {
    let fields = item.object(KEYS, report)?;
    let base = defaults::retry(policy_mode);

    let max_retries =
        fields.or("max_retries", base.max_retries, report, |item, report| Ok(item.whole(0..=20, report)? as u8));
    let on = fields.or("on", base.on, report, on);
    let methods = fields.or("methods", base.methods, report, methods);
    let idempotency_header = fields.or("idempotency_header", base.idempotency_header, report, |item, report| {
        header::name(&item.path, item.string("a header name", report)?, report)
    });

    let timeout = fields.optional_duration("timeout", &TIMEOUT, report);
    let per_try_timeout = fields.optional("per_try_timeout", report, |item, report| {
        let one = duration::read(item, &TIMEOUT, report)?;
        match timeout {
            Ok(Some(all)) if one > all => {
                Err(item.refused(&format!("at most timeout ({})", duration::text(all)), report))
            }
            _ => Ok(one),
        }
    });

    let backoff = fields.or("backoff", base.backoff, report, |item, report| backoff(item, base.backoff, report));
    let retry_after =
        fields.or("retry_after", base.retry_after, report, |item, report| retry_after(item, base.retry_after, report));
    let budget = fields.or("budget", base.budget, report, |item, report| budget(item, base.budget, report));
    let skip_retries_of_retries = fields.boolean("skip_retries_of_retries", base.skip_retries_of_retries, report);
    let hedge_on_per_try_timeout =
        fields.or("hedge_on_per_try_timeout", base.hedge_on_per_try_timeout, report, |item, report| {
            let hedge = item.boolean(report)?;
            // Given is enough: what is wrong with it has been said.
            if hedge && fields.get("per_try_timeout").is_none() {
                return Err(report.add(&item.path, "needs per_try_timeout, which says when a try is too slow"));
            }
            Ok(hedge)
        });
    let mode = fields.mode(base.mode, report);

    Ok(Retry {
        mode: mode?,
        max_retries: max_retries?,
        on: on?,
        methods: methods?,
        idempotency_header: idempotency_header?,
        per_try_timeout: per_try_timeout?,
        timeout: timeout?,
        backoff: backoff?,
        retry_after: retry_after?,
        budget: budget?,
        skip_retries_of_retries: skip_retries_of_retries?,
        hedge_on_per_try_timeout: hedge_on_per_try_timeout?,
    })
}

fn on(item: &Item<'_>, report: &mut Report) -> Result<RetryOn, Reported> {
    let items = item.list("a list of words and statuses such as [\"gateway-error\", 429]", report)?;
    if items.is_empty() {
        return Err(report.add(&item.path, "must name at least one word or status"));
    }
    let mut on = RetryOn::default();
    gather(items.iter().map(|item| cause(item, &mut on, report)))?;
    Ok(on)
}

/// Adds one of Envoy's words, a status or a range of them.
fn cause(item: &Item<'_>, on: &mut RetryOn, report: &mut Report) -> Result<(), Reported> {
    let names = RetryWord::ALL.map(RetryWord::name);
    let expected =
        || format!("one of {}, or a status like 503 or a range like \"500-599\" within 100..=599", names.join(", "));
    let is_status = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let text = match item.node {
        Node::String(text) if !is_status(text) => text,
        Node::String(_) | Node::Number(_) => {
            let (first, last) = outcome::status_range(item, report)?;
            on.statuses.insert_range(first, last);
            return Ok(());
        }
        _ => return Err(item.mismatch(&expected(), report)),
    };
    match RetryWord::ALL.into_iter().find(|word| word.name() == text) {
        Some(word) if on.words.contains(word) => Err(item.refused("a word that is not in the list yet", report)),
        Some(word) => {
            on.words.insert(word);
            Ok(())
        }
        None => Err(match class(text) {
            Some(range) => {
                let problem = format!("must be {}, was {}; did you mean \"{range}\"?", expected(), quoted(text));
                report.add(&item.path, problem)
            }
            None => item.unknown_word(&expected(), text, &names, report),
        }),
    }
}

/// `4xx` as a range of statuses: Envoy has a word for `5xx` alone, and that is not what is meant.
fn class(text: &str) -> Option<String> {
    let class = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX"))?;
    matches!(class, "1" | "2" | "3" | "4").then(|| format!("{class}00-{class}99"))
}

fn methods(item: &Item<'_>, report: &mut Report) -> Result<Vec<String>, Reported> {
    let items = item.list("a list of methods such as [\"GET\", \"PUT\"]", report)?;
    if items.is_empty() {
        return Err(report.add(&item.path, "must name at least one method"));
    }
    if items.len() > MAX_METHODS {
        return Err(report.add(&item.path, format!("must have at most {MAX_METHODS} methods, has {}", items.len())));
    }
    let mut seen: Vec<&str> = Vec::new();
    gather(items.iter().map(|item| {
        let method = method(item, report)?;
        if seen.contains(&method) {
            return Err(item.refused("a method that is not in the list yet", report));
        }
        seen.push(method);
        Ok(method.to_owned())
    }))
}

/// A method is a token, and case counts. Source: RFC 9110, section 9.1.
fn method<'a>(item: &Item<'a>, report: &mut Report) -> Result<&'a str, Reported> {
    const EXPECTED: &str = "an HTTP method such as \"GET\", whose case counts";
    let text = item.string(EXPECTED, report)?;
    let misspelt = STANDARD_METHODS.iter().any(|method| text.eq_ignore_ascii_case(method) && text != *method);
    if misspelt {
        return Err(item.unknown_word(EXPECTED, text, &STANDARD_METHODS, report));
    }
    if header::is_token(text) { Ok(text) } else { Err(item.refused(EXPECTED, report)) }
}

fn backoff(item: &Item<'_>, default: Backoff, report: &mut Report) -> Result<Backoff, Reported> {
    let fields = item.object(BACKOFF_KEYS, report)?;
    let base = fields.duration("base", default.base, &BASE, report);
    let max = fields.optional("max", report, |item, report| {
        let max = duration::read(item, &LONGEST, report)?;
        match base {
            Ok(base) if max < base => Err(item.refused(&format!("at least base ({})", duration::text(base)), report)),
            _ => Ok(max),
        }
    });
    let jitter = fields.or("jitter", default.jitter, report, |item, report| item.word(&JITTERS, report));
    let base = base?;
    // A first wait longer than the default maximum is meant.
    Ok(Backoff { base, max: max?.unwrap_or(default.max.max(base)), jitter: jitter? })
}

fn retry_after(item: &Item<'_>, default: RetryAfter, report: &mut Report) -> Result<RetryAfter, Reported> {
    let fields = item.object(RETRY_AFTER_KEYS, report)?;
    let honor = fields.boolean("honor", default.honor, report);
    let max = fields.duration("max", default.max, &RETRY_AFTER, report);
    Ok(RetryAfter { honor: honor?, max: max? })
}

fn budget(item: &Item<'_>, default: Budget, report: &mut Report) -> Result<Budget, Reported> {
    let fields = item.object(BUDGET_KEYS, report)?;
    let ratio = fields.percent("ratio", default.ratio, 0, report);
    let min_per_second = fields.or("min_per_second", default.min_per_second, report, |item, report| {
        let rate = item.number(0..=10_000, report)?;
        match thousandths(rate) {
            // A small rate may not become none by rounding.
            0 if rate > 0.0 => Err(item.refused("0 or at least 0.001", report)),
            thousandths => Ok(thousandths),
        }
    });
    let window = fields.duration("window", default.window, &WINDOW, report);
    if let (Ok(ratio), Ok(0)) = (ratio, min_per_second)
        && ratio.is_zero()
    {
        let problem = "allows no retry: ratio and min_per_second are both 0; give one of them, or set mode to off";
        return Err(report.add(&item.path, problem));
    }
    Ok(Budget { ratio: ratio?, min_per_second: min_per_second?, window: window? })
}
