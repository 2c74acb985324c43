//! How the body and the headers of a static fallback are filled in.

use holdfast_policy::config::json;
use holdfast_policy::document::{Escape, Fallback, FallbackKind, Policy, StaticResponse, TemplatePart};

use super::reply::{ReplyContext, retry_after_seconds};
use crate::http::request::Field;

/// No value that was filled in is longer, in bytes: servers and proxies refuse such a header, and with it the response.
const LONGEST_VALUE: usize = 8192;

/// What templates insert: facts of the reply, and fields of the request.
pub(super) struct Values<'a> {
    pub(super) policy: &'a Policy,
    pub(super) context: &'a ReplyContext,
    /// Gives a field of the request, if it has it.
    pub(super) field: &'a mut dyn FnMut(Field<'_>) -> Option<Vec<u8>>,
}

impl Values<'_> {
    /// The body.
    pub(super) fn body(&mut self, response: &StaticResponse) -> Vec<u8> {
        self.fill(&response.body, |body, value| escape(body, value, response.escape))
    }

    /// The headers but those that came out empty, or too long for a header, by what was inserted.
    pub(super) fn headers(&mut self, response: &StaticResponse) -> Vec<(String, String)> {
        let headers = response.headers.iter();
        headers.filter_map(|(name, parts)| Some((name.clone(), self.header_value(parts)?))).collect()
    }

    fn header_value(&mut self, parts: &[TemplatePart]) -> Option<String> {
        if let [TemplatePart::Text(text)] = parts {
            return Some(text.clone());
        }
        let filled = self.fill(parts, push_in_header);
        let value = String::from_utf8_lossy(filled.trim_ascii());
        let is_fit = parts.is_empty() || (1..=LONGEST_VALUE).contains(&value.len());
        is_fit.then(|| value.into_owned())
    }

    /// The text of a template; `insert` appends what a client sent.
    fn fill(&mut self, parts: &[TemplatePart], insert: impl Fn(&mut Vec<u8>, &[u8])) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            match part {
                TemplatePart::Text(text) => out.extend_from_slice(text.as_bytes()),
                TemplatePart::Reason => out.extend_from_slice(self.context.reason.name().as_bytes()),
                TemplatePart::Policy => out.extend_from_slice(self.policy.name.as_bytes()),
                TemplatePart::RetryAfter => {
                    let seconds = self.context.retry_after.map_or(0, retry_after_seconds);
                    out.extend_from_slice(seconds.to_string().as_bytes());
                }
                TemplatePart::Path | TemplatePart::Header(_) => {
                    if let Some(value) = field(part).and_then(&mut *self.field) {
                        insert(&mut out, &value);
                    }
                }
            }
        }
        out
    }
}

/// The parts of fallbacks in place of a host's answer that insert something of the request, which is to be kept when the request passes.
pub fn kept_parts(policy: &Policy) -> Vec<TemplatePart> {
    parts_of(policy.fallback.iter().filter(|entry| entry.replaces_answers()))
}

/// The same of all fallbacks: what is to be kept of a request on a detour, in whose place each of them may be asked for.
pub fn parts_on_detour(policy: &Policy) -> Vec<TemplatePart> {
    parts_of(policy.fallback.iter())
}

fn parts_of<'a>(entries: impl Iterator<Item = &'a Fallback>) -> Vec<TemplatePart> {
    let mut parts: Vec<TemplatePart> = Vec::new();
    for entry in entries {
        let FallbackKind::Static(response) = &entry.kind else { continue };
        let in_headers = response.headers.iter().flat_map(|(_, value)| value);
        for part in response.body.iter().chain(in_headers).filter(|part| field(part).is_some()) {
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
        Escape::JsonInMarkup => {
            for char in json::escaped(&String::from_utf8_lossy(value)).chars() {
                match char {
                    '&' | '<' | '>' | '\'' => body.extend_from_slice(format!("\\u{:04x}", u32::from(char)).as_bytes()),
                    char => body.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
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

/// Appends a value that a client sent to a header's value, in which no byte may end it: control bytes become spaces.
/// Source: RFC 9110, section 5.5, which has a recipient do so with CR, LF and NUL.
fn push_in_header(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(value.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
}
