//! `scope`: what gets its own state within a policy.

use super::error::{Report, Reported, gather};
use super::header;
use super::json::Node;
use super::reader::{Fields, Item};
use super::table::{POLICY, SCOPE, key, keys};
use crate::document::Dimension;

impl Fields<'_> {
    /// What `scope` of a policy says.
    pub(super) fn scope(&self, report: &mut Report) -> Result<Vec<Dimension>, Reported> {
        match self.get(key!(POLICY.strings("scope")).name) {
            Some(item) => read(&item, report),
            None => Ok(default()),
        }
    }
}

/// What gets its own state where nothing is said.
pub(super) fn default() -> Vec<Dimension> {
    key!(POLICY.strings("scope")).default.iter().filter_map(|word| named(word)).collect()
}

fn read(item: &Item<'_>, report: &mut Report) -> Result<Vec<Dimension>, Reported> {
    let most = *key!(POLICY.most("scope"));
    let items = item.list("a list such as [\"cluster\", {\"header\": \"x-tenant\"}]", report)?;
    if items.len() > most {
        return Err(report.add(&item.path, format!("must have at most {most} parts, has {}", items.len())));
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
    const EXPECTED: &str = "one of \"cluster\", \"route\", \"authority\", {\"header\": \"x-tenant\"}";
    match item.node {
        Node::Object(_) => {
            let fields = item.object(keys!(SCOPE), report)?;
            let key = key!(SCOPE.required("header"));
            Ok(Dimension::Header(fields.required(key, header::EXPECTED, report, header::read)?))
        }
        Node::String(text) => named(text)
            .ok_or_else(|| item.unknown_word(EXPECTED, text, &Dimension::WORDS.map(|(word, _)| word), report)),
        _ => Err(item.mismatch(EXPECTED, report)),
    }
}

/// The dimension that a word stands for.
fn named(text: &str) -> Option<Dimension> {
    Dimension::WORDS.into_iter().find(|(word, _)| *word == text).map(|(_, dimension)| dimension)
}
