//! `match`: which requests a policy governs.

use super::error::{Report, Reported, gather};
use super::header;
use super::json::Node;
use super::reader::{Fields, Item, Keys};
use crate::document::Match;
use crate::glob::Glob;

const KEYS: Keys = Keys::new(&["cluster", "route", "authority", "path", "method", "header"]);

pub(super) fn read(item: &Item<'_>, report: &mut Report) -> Result<Match, Reported> {
    let fields = item.object(KEYS, report)?;
    let cluster = globs(&fields, "cluster", None, report);
    let route = globs(&fields, "route", None, report);
    let authority = globs(&fields, "authority", Some(b'.'), report);
    let path = globs(&fields, "path", Some(b'/'), report);
    let method = globs(&fields, "method", None, report);
    let headers = fields.or("header", Vec::new(), report, headers);
    Ok(Match {
        cluster: cluster?,
        route: route?,
        authority: authority?,
        path: path?,
        method: method?,
        headers: headers?,
    })
}

/// A list of globs, or one glob.
fn globs(fields: &Fields<'_>, key: &str, separator: Option<u8>, report: &mut Report) -> Result<Vec<Glob>, Reported> {
    let Some(item) = fields.get(key) else {
        return Ok(Vec::new());
    };
    // Hosts are equal whatever their case.
    let fold = key == "authority";
    if let Node::String(_) = item.node {
        return Ok(vec![glob(&item, separator, fold, report)?]);
    }
    let items = item.list("a list of globs such as [\"a*\"]", report)?;
    if items.is_empty() {
        // "Any of none" would match nothing and "no condition" everything: neither is what one would guess.
        return Err(report.add(&item.path, "must not be empty; leave the key out to match everything"));
    }
    gather(items.iter().map(|item| glob(item, separator, fold, report)))
}

fn glob(item: &Item<'_>, separator: Option<u8>, fold: bool, report: &mut Report) -> Result<Glob, Reported> {
    let text = item.string("a glob such as \"a*\"", report)?;
    let folded = if fold { text.to_ascii_lowercase() } else { text.to_owned() };
    Glob::new(&folded, separator).map_err(|error| item.bad(&error.to_string(), report))
}

fn headers(item: &Item<'_>, report: &mut Report) -> Result<Vec<(String, Glob)>, Reported> {
    let fields = item.dictionary("an object of header names and globs such as {\"x-tenant\": \"a*\"}", report)?;
    header::pairs(&fields, report, |_, item, report| glob(item, None, false, report))
}
