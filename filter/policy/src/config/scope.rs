//! `scope`: what gets its own state within a policy.

use super::error::{Report, Reported, gather};
use super::header;
use super::json::Node;
use super::reader::{Item, Keys};
use crate::document::Dimension;

const EXPECTED: &str = "one of \"cluster\", \"route\", \"authority\", {\"header\": \"x-tenant\"}";

/// The most parts of a key.
const MAX_PARTS: usize = 8;

pub(super) fn read(item: &Item<'_>, report: &mut Report) -> Result<Vec<Dimension>, Reported> {
    let items = item.list("a list such as [\"cluster\", {\"header\": \"x-tenant\"}]", report)?;
    if items.len() > MAX_PARTS {
        return Err(report.add(&item.path, format!("must have at most {MAX_PARTS} parts, has {}", items.len())));
    }
    let mut seen: Vec<(Dimension, String)> = Vec::new();
    gather(items.iter().map(|item| {
        let dimension = dimension(item, report)?;
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == dimension) {
            return Err(report.add(&item.path, format!("is the same as {first}")));
        }
        seen.push((dimension.clone(), item.path.clone()));
        Ok(dimension)
    }))
}

fn dimension(item: &Item<'_>, report: &mut Report) -> Result<Dimension, Reported> {
    match item.node {
        Node::Object(_) => {
            let fields = item.object(Keys::new(&["header"]), report)?;
            let name = fields.required("header", "a header name", report, |item, report| {
                header::name(&item.path, item.string("a header name", report)?, report)
            })?;
            Ok(Dimension::Header(name))
        }
        Node::String(text) => match text.as_str() {
            "cluster" => Ok(Dimension::Cluster),
            "route" => Ok(Dimension::Route),
            "authority" => Ok(Dimension::Authority),
            _ => Err(item.unknown_word(EXPECTED, text, &["cluster", "route", "authority"], report)),
        },
        _ => Err(item.mismatch(EXPECTED, report)),
    }
}
