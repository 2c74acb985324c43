//! `outlier.balance`: which of the hosts that are in a request goes to.

use super::error::{Report, Reported};
use super::header;
use super::json::Node;
use super::reader::{Fields, Item, quoted};
use super::table::{BALANCE, HASH, OUTLIER, key, keys};
use crate::document::{Balance, HashBy};

/// What makes the balance of a word.
type Make<T> = fn() -> T;

const BALANCES: [(&str, Make<Balance>); 6] = [
    ("envoy", || Balance::Envoy),
    ("round_robin", || Balance::RoundRobin),
    ("random", || Balance::Random),
    ("weighted", || Balance::Weighted),
    ("least_request", || Balance::LeastRequest),
    ("least_latency", || Balance::LeastLatency),
];

const HASHES: [(&str, Make<HashBy>); 2] = [("source_ip", || HashBy::SourceIp), ("path", || HashBy::Path)];

/// What `balance` of an outlier block says.
pub(super) fn read(fields: &Fields<'_>, report: &mut Report) -> Result<Balance, Reported> {
    let key = key!(OUTLIER.word("balance", &BALANCES));
    let Some(item) = fields.get(key.name) else { return Ok((key.default)()) };
    match item.node {
        Node::Object(_) => {
            let fields = item.object(keys!(BALANCE), report)?;
            let expected = "what chooses the host, such as {\"header\": \"x-user\"} or \"source_ip\"";
            Ok(Balance::Hash(fields.required(key!(BALANCE.required("hash")), expected, report, hash)?))
        }
        Node::String(text) if text == "hash" => {
            let problem = "must say what is hashed, such as {\"hash\": {\"header\": \"x-user\"}}, was \"hash\"";
            Err(report.add(&item.path, problem))
        }
        Node::String(_) => Ok(item.word(&BALANCES, report)?()),
        _ => Err(item.mismatch("a word such as \"round_robin\", or {\"hash\": {\"header\": \"x-user\"}}", report)),
    }
}

/// Reports a balance that knows no hosts.
pub(super) fn refuse_without_hosts(path: &str, balance: &Balance, report: &mut Report) -> Reported {
    let word = match balance {
        Balance::Hash(_) => "hash",
        other => BALANCES.iter().find(|(_, make)| make() == *other).map_or("", |(word, _)| word),
    };
    report.add(
        path,
        format!("\"{word}\" chooses a host for every request and must know them all: give discover, or hosts"),
    )
}

fn hash(item: &Item<'_>, report: &mut Report) -> Result<Vec<HashBy>, Reported> {
    const EXPECTED: &str = "one of \"source_ip\", \"path\", {\"header\": \"x-user\"}, {\"cookie\": \"session\"}";
    match item.node {
        Node::Object(_) => {
            let fields = item.object(keys!(HASH), report)?;
            let header = fields.optional(key!(HASH.name("header")), report, header::read);
            let cookie = fields.optional(key!(HASH.name("cookie")), report, cookie);
            let by = [header?.map(HashBy::Header), cookie?.map(HashBy::Cookie)];
            let by: Vec<HashBy> = by.into_iter().flatten().collect();
            if by.is_empty() {
                return Err(report.add(&item.path, "must name a header or a cookie"));
            }
            Ok(by)
        }
        Node::String(text) => match HASHES.iter().find(|(word, _)| word == text) {
            Some((_, make)) => Ok(vec![make()]),
            None => Err(item.unknown_word(EXPECTED, text, &HASHES.map(|(word, _)| word), report)),
        },
        _ => Err(item.mismatch(EXPECTED, report)),
    }
}

/// A cookie's name, whose case counts. Source: RFC 6265, section 4.1.1.
fn cookie(item: &Item<'_>, report: &mut Report) -> Result<String, Reported> {
    const EXPECTED: &str = "a cookie's name";
    let text = item.string(EXPECTED, report)?;
    match header::is_token(text) {
        true => Ok(text.to_owned()),
        false => {
            let problem = format!("must be a cookie's name (letters, digits, \"-\", \"_\"), was {}", quoted(text));
            Err(report.add(&item.path, problem))
        }
    }
}
