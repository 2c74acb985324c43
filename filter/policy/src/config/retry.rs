//! `retry`: after what there is a further try, how long it waits, and how many all requests together may have.

use super::error::{Report, Reported, gather};
use super::json::Node;
use super::reader::{Item, quoted, thousandths};
use super::table::{BACKOFF, BUDGET, RETRY, RETRY_AFTER, key, keys};
use super::{duration, header, outcome};
use crate::document::{Backoff, Budget, Jitter, Mode, Retry, RetryAfter, RetryOn, RetryWord, WordSet};

/// The methods whose case people get wrong. Source: RFC 9110, section 9.3, and RFC 5789.
pub(super) const STANDARD_METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// The methods and the header of requests that may be sent twice: of a policy's retries, or what these would have.
pub(super) fn sent_twice(retry: Option<&Retry>) -> (Vec<String>, String) {
    retry.map_or_else(
        || {
            let header = key!(RETRY.string("idempotency_header")).default;
            (owned(key!(RETRY.strings("methods")).default), header.to_owned())
        },
        |retry| (retry.methods.clone(), retry.idempotency_header.clone()),
    )
}

pub(super) fn read(item: &Item<'_>, policy_mode: Mode, report: &mut Report) -> Result<Retry, Reported> {
    let fields = item.object(keys!(RETRY), report)?;

    let max_retries = fields.whole(key!(RETRY.whole("max_retries")), report).map(|retries| retries as u8);
    let key = key!(RETRY.strings("on"));
    let on = match fields.get(key.name) {
        Some(item) => on(&item, report),
        None => Ok(RetryOn { words: word_set(key.default), ..RetryOn::default() }),
    };
    let key = key!(RETRY.strings("methods"));
    let methods = match fields.get(key.name) {
        Some(item) => methods(&item, report),
        None => Ok(owned(key.default)),
    };
    let key = key!(RETRY.string("idempotency_header"));
    let idempotency_header = match fields.get(key.name) {
        Some(item) => header::read(&item, report),
        None => Ok(key.default.to_owned()),
    };

    let timeout = fields.optional_duration(key!(RETRY.optional_duration("timeout")), report);
    let key = key!(RETRY.optional_duration("per_try_timeout"));
    let per_try_timeout = fields.optional(key.name, report, |item, report| {
        let one = duration::read(item, &key.range, report)?;
        match timeout {
            Ok(Some(all)) if one > all => {
                Err(item.refused(&format!("at most timeout ({})", duration::text(all)), report))
            }
            _ => Ok(one),
        }
    });
    let is_limited = fields.get(key.name).is_some();

    let backoff = backoff(&fields.block(key!(RETRY.object("backoff"))), report);
    let retry_after = retry_after(&fields.block(key!(RETRY.object("retry_after"))), report);
    let budget = budget(&fields.block(key!(RETRY.object("budget"))), report);
    let skip_retries_of_retries = fields.boolean(key!(RETRY.boolean("skip_retries_of_retries")), report);
    let key = key!(RETRY.boolean("hedge_on_per_try_timeout"));
    let hedge_on_per_try_timeout = fields.or(key.name, key.default, report, |item, report| {
        let hedge = item.boolean(report)?;
        // Given is enough: what is wrong with it has been said.
        if hedge && !is_limited {
            return Err(report.add(&item.path, "needs per_try_timeout, which says when a try is too slow"));
        }
        Ok(hedge)
    });
    let mode = fields.mode(key!(RETRY.mode("mode")), policy_mode, report);

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

/// The set of these words.
pub(super) fn word_set(names: &[&str]) -> WordSet {
    let mut words = WordSet::default();
    RetryWord::ALL.into_iter().filter(|word| names.contains(&word.name())).for_each(|word| words.insert(word));
    words
}

/// The same strings, to be kept.
pub(super) fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().copied().map(str::to_owned).collect()
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
    let expected = || format!("one of {}, or {}", names.join(", "), outcome::status_expected());
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
    let most = *key!(RETRY.most("methods"));
    if items.len() > most {
        return Err(report.add(&item.path, format!("must have at most {most} methods, has {}", items.len())));
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

fn backoff(item: &Item<'_>, report: &mut Report) -> Result<Backoff, Reported> {
    let fields = item.object(keys!(BACKOFF), report)?;
    let base = fields.duration(key!(BACKOFF.duration("base")), report);
    let key = key!(BACKOFF.duration("max"));
    let max = fields.optional(key.name, report, |item, report| {
        let max = duration::read(item, &key.range, report)?;
        match base {
            Ok(base) if max < base => Err(item.refused(&format!("at least base ({})", duration::text(base)), report)),
            _ => Ok(max),
        }
    });
    let jitter = fields.word(key!(BACKOFF.word("jitter", &Jitter::WORDS)), &Jitter::WORDS, report);
    let base = base?;
    // A first wait longer than the default maximum is meant.
    Ok(Backoff { base, max: max?.unwrap_or(key.default.max(base)), jitter: jitter? })
}

fn retry_after(item: &Item<'_>, report: &mut Report) -> Result<RetryAfter, Reported> {
    let fields = item.object(keys!(RETRY_AFTER), report)?;
    let honor = fields.boolean(key!(RETRY_AFTER.boolean("honor")), report);
    let max = fields.duration(key!(RETRY_AFTER.duration("max")), report);
    Ok(RetryAfter { honor: honor?, max: max? })
}

fn budget(item: &Item<'_>, report: &mut Report) -> Result<Budget, Reported> {
    let fields = item.object(keys!(BUDGET), report)?;
    let ratio = fields.percent(key!(BUDGET.percent("ratio")), report);
    let key = key!(BUDGET.number("min_per_second"));
    let min_per_second = fields.or(key.name, key.default, report, |item, report| {
        let rate = item.number(&key.range, report)?;
        match thousandths(rate) {
            // A small rate may not become none by rounding.
            0 if rate > 0.0 => Err(item.refused("0 or at least 0.001", report)),
            thousandths => Ok(thousandths),
        }
    });
    let window = fields.duration(key!(BUDGET.duration("window")), report);
    if let (Ok(ratio), Ok(0)) = (ratio, min_per_second)
        && ratio.is_zero()
    {
        let problem = "allows no retry: ratio and min_per_second are both 0; give one of them, or set mode to off";
        return Err(report.add(&item.path, problem));
    }
    Ok(Budget { ratio: ratio?, min_per_second: min_per_second?, window: window? })
}
