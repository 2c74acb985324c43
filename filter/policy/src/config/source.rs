//! What a configuration's bytes hold, whichever way it was written.

use super::error::{Report, Reported};
use super::json::{self, Node};
use super::{WHOLE, meant, structure};

/// The tree that the bytes hold: a JSON text, or a `google.protobuf.Struct`.
pub(super) fn tree(bytes: &[u8], report: &mut Report) -> Result<Node, Reported> {
    // An empty Struct, or nothing at all: both come as no bytes.
    if bytes.is_empty() {
        return Ok(Node::Object(Vec::new()));
    }
    // Some editors put a byte-order mark before JSON; RFC 8259 lets a reader ignore it.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if text.trim_ascii().is_empty() {
        return Err(report.add(WHOLE, "must be a JSON object {\"policies\": [...]}, was empty"));
    }
    if structure::is_meant(bytes) {
        return structure::read(bytes, report);
    }
    Node::parse(text).map_err(|error| {
        let meant = meant::by_text(text);
        // What begins as JSON is a text with a mistake in it.
        if !text.trim_ascii_start().starts_with(b"{") && !structure::is_text(text) {
            return report.add(WHOLE, format!("neither a text nor a google.protobuf.Struct{meant}"));
        }
        let (line, column, cause) = (error.line(), error.column(), json::cause(&error));
        report.add(WHOLE, format!("not valid JSON at line {line}, column {column}: {cause}{meant}"))
    })
}
