//! `match`: which requests a policy governs.

use super::error::{Report, Reported, gather};
use super::header;
use super::json::Node;
use super::reader::{Fields, Item};
use super::table::{Entry, MATCH, Names, Segments, key, keys};
use crate::document::Match;
use crate::glob::Glob;

pub(super) fn read(item: &Item<'_>, report: &mut Report) -> Result<Match, Reported> {
    let fields = item.object(keys!(MATCH), report)?;
    let cluster = globs(&fields, key!(MATCH.globs("cluster")), report);
    let route = globs(&fields, key!(MATCH.globs("route")), report);
    let authority = globs(&fields, key!(MATCH.globs("authority")), report);
    let path = globs(&fields, key!(MATCH.globs("path")), report);
    let method = globs(&fields, key!(MATCH.globs("method")), report);
    let headers = headers(&fields, key!(MATCH.glob_headers("header")), report);
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
fn globs(fields: &Fields<'_>, key: &Entry<Segments, ()>, report: &mut Report) -> Result<Vec<Glob>, Reported> {
    let Some(item) = fields.get(key.name) else {
        return Ok(Vec::new());
    };
    if let Node::String(_) = item.node {
        return Ok(vec![glob(&item, key.range, report)?]);
    }
    let items = item.list("a list of globs such as [\"a*\"]", report)?;
    if items.is_empty() {
        // "Any of none" would match nothing and "no condition" everything: neither is what one would guess.
        return Err(report.add(&item.path, "must not be empty; leave the key out to match everything"));
    }
    gather(items.iter().map(|item| glob(item, key.range, report)))
}

fn glob(item: &Item<'_>, segments: Segments, report: &mut Report) -> Result<Glob, Reported> {
    let text = item.string("a glob such as \"a*\"", report)?;
    let folded = if segments.case { text.to_owned() } else { text.to_ascii_lowercase() };
    Glob::new(&folded, segments.separator).map_err(|error| item.bad(&error.to_string(), report))
}

/// Header names, in lower case, and a glob on each value; none without the key.
pub(super) fn headers(
    fields: &Fields<'_>,
    key: &Entry<(Names, usize, Segments), ()>,
    report: &mut Report,
) -> Result<Vec<(String, Glob)>, Reported> {
    let (names, most, segments) = key.range;
    let example = if names == Names::Judged { r#"{"x-app-error": "*"}"# } else { r#"{"x-tenant": "a*"}"# };
    fields.or(key.name, Vec::new(), report, |item, report| {
        let fields = item.dictionary(&format!("an object of header names and globs such as {example}"), report)?;
        header::pairs(&fields, names, most, report, |_, item, report| glob(item, segments, report))
    })
}
