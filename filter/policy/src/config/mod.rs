//! The policy document: bytes to a [`Document`].
//!
//! Three steps: the bytes, a JSON text or a `google.protobuf.Struct`, become a tree that keeps what was written (`source`); a cursor
//! walks it and reports what does not fit (`reader`); each block of the document compiles itself with that cursor, one file per block. Which keys a block
//! has, which values they take and what holds without them stands in a [`table`], one file per block as well. Nothing stops
//! at the first error: an operator sees all of them at once, each with its JSON path, the value found and what is
//! accepted. No bytes can make this panic.

mod around;
mod balance;
mod breaker;
mod call;
mod concurrency;
pub mod defaults;
pub mod duration;
mod error;
mod fallback;
mod further;
pub mod header;
pub mod json;
mod matching;
mod meant;
mod mode;
mod other_cluster;
mod outcome;
mod outlier;
mod policy;
#[cfg(any(test, feature = "reference"))]
pub mod prose;
pub(crate) mod reader;
mod respond;
mod retry;
mod route;
#[cfg(any(test, feature = "reference"))]
pub mod schema;
mod scope;
pub mod size;
mod source;
mod spelling;
mod stale;
mod structure;
pub mod table;
mod template;
mod throttle;

#[cfg(test)]
mod tests;

pub use error::{Error, Errors, MAX_LISTED};

use crate::document::{Document, Policy};
use error::{Report, Reported, gather};
use json::Node;
use reader::Item;
use table::{DOCUMENT, key, keys};

/// The most policies in a document.
pub const MAX_POLICIES: usize = *key!(DOCUMENT.most("policies"));

/// The path of the document as a whole, for which JSON has none.
const WHOLE: &str = "document";
const POLICIES: &str = key!(DOCUMENT.required("policies"));

/// Compiles a policy document, or says everything that is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Document, Errors> {
    read(bytes, Report::default())
}

/// The same for the JSON of a `google.protobuf.Struct`, as [`policy_texts`] gives it: numbers in it may be texts.
pub fn parse_struct_json(bytes: &[u8]) -> Result<Document, Errors> {
    let mut report = Report::default();
    report.takes_texts_as_numbers = true;
    read(bytes, report)
}

fn read(bytes: &[u8], mut report: Report) -> Result<Document, Errors> {
    let policies = document(bytes, &mut report);
    report.finish()?;
    // Without a report there are policies; the default is never taken.
    Ok(Document { policies: policies.unwrap_or_default() })
}

/// Each policy of a document that [`parse`] accepts, in order, as the JSON text of a document of its own, for [`parse_struct_json`].
/// Empty for what is no document.
pub fn policy_texts(bytes: &[u8]) -> Vec<String> {
    let Some(Node::Object(entries)) = tree(bytes) else { return Vec::new() };
    let Some((_, Node::Array(policies))) = entries.iter().find(|(key, _)| key == POLICIES) else { return Vec::new() };
    let document = |policy: &Node| format!("{{\"{POLICIES}\":[{}]}}", policy.to_text());
    policies.iter().map(document).collect()
}

/// What the bytes of a configuration hold; `None` where they are no JSON text and no `google.protobuf.Struct`.
pub(crate) fn tree(bytes: &[u8]) -> Option<Node> {
    source::tree(bytes, &mut Report::default()).ok()
}

fn document(bytes: &[u8], report: &mut Report) -> Result<Vec<Policy>, Reported> {
    let root = source::tree(bytes, report)?;
    let document = Item { path: WHOLE.to_owned(), node: &root };
    if !matches!(root, Node::Object(_)) {
        let expected = format!("an object with the keys {}", keys!(DOCUMENT).accepted.join(", "));
        return Err(document.mismatch_meant(&expected, meant::by_value(&root), report));
    }
    let fields = document.object(keys!(DOCUMENT), report)?;
    let Some(Item { node, .. }) = fields.get(POLICIES) else {
        let meant = meant::by_value(&root);
        let problem = format!("is missing; must be a list of policies, [] lets everything pass{meant}");
        return Err(report.add(POLICIES, problem));
    };
    let policies = Item { path: POLICIES.to_owned(), node };
    let items = policies.list("a list of policies", report)?;
    if items.len() > MAX_POLICIES {
        let problem = format!("must have at most {MAX_POLICIES} policies, has {}", items.len());
        return Err(report.add(POLICIES, problem));
    }
    let mut names = Vec::new();
    gather(items.iter().map(|item| policy::read(item, &mut names, report)))
}
