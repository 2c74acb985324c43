//! How the body of a static fallback is filled in.

use holdfast_policy::config::json;
use holdfast_policy::document::{Escape, FallbackKind, Policy, StaticResponse, TemplatePart};

use super::reply::{ReplyContext, retry_after_seconds};
use crate::http::request::Field;

/// The body. `value` gives a field of the request, if it has it.
pub(super) fn fill(
    policy: &Policy,
    response: &StaticResponse,
    context: &ReplyContext,
    value: &mut dyn FnMut(Field<'_>) -> Option<Vec<u8>>,
) -> Vec<u8> {
    let reason = context.reason.name();
    let mut body = Vec::new();
    for part in &response.body {
        match part {
            TemplatePart::Text(text) => body.extend_from_slice(text.as_bytes()),
            TemplatePart::Reason => body.extend_from_slice(reason.as_bytes()),
            TemplatePart::Policy => body.extend_from_slice(policy.name.as_bytes()),
            TemplatePart::RetryAfter => {
                let seconds = context.retry_after.map_or(0, retry_after_seconds);
                body.extend_from_slice(seconds.to_string().as_bytes());
            }
            TemplatePart::Path | TemplatePart::Header(_) => {
                if let Some(value) = field(part).and_then(&mut *value) {
                    escape(&mut body, &value, response.escape);
                }
            }
        }
    }
    body
}

/// The parts of fallbacks in place of a host's answer that insert something of the request, which is to be kept when the request passes.
pub fn kept_parts(policy: &Policy) -> Vec<TemplatePart> {
    let mut parts: Vec<TemplatePart> = Vec::new();
    for entry in policy.fallback.iter().filter(|entry| entry.replaces_answers()) {
        let FallbackKind::Static(response) = &entry.kind;
        for part in response.body.iter().filter(|part| field(part).is_some()) {
            if !parts.contains(part) {
                parts.push(part.clone());
            }
        }
    }
    parts
}

/// The field of the request that a part of a template inserts, if it does.
pub fn field(part: &TemplatePart) -> Option<Field<'_>> {
    match part {
        TemplatePart::Path => Some(Field::Path),
        TemplatePart::Header(name) => Some(Field::Header(name)),
        TemplatePart::Text(_) | TemplatePart::Reason | TemplatePart::Policy | TemplatePart::RetryAfter => None,
    }
}

/// Appends a value that a client sent, such that it cannot leave the place it is put in.
fn escape(body: &mut Vec<u8>, value: &[u8], escape: Escape) {
    match escape {
        Escape::None => body.extend_from_slice(value),
        Escape::Json => {
            // The quotes are the template's.
            body.extend_from_slice(json::escaped(&String::from_utf8_lossy(value)).as_bytes());
        }
        Escape::Markup => {
            for byte in value {
                match byte {
                    b'&' => body.extend_from_slice(b"&amp;"),
                    b'<' => body.extend_from_slice(b"&lt;"),
                    b'>' => body.extend_from_slice(b"&gt;"),
                    b'"' => body.extend_from_slice(b"&quot;"),
                    b'\'' => body.extend_from_slice(b"&#39;"),
                    byte => body.push(*byte),
                }
            }
        }
    }
}
