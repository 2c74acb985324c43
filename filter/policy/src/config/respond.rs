//! `respond`: a fallback's fixed response.

use super::error::{Report, Reported};
use super::json::Node;
use super::reader::Item;
use super::table::{RESPOND, key, keys};
use super::{header, outcome, template};
use crate::document::{Escape, StaticResponse, TemplatePart};

const CONTENT_TYPE: &str = "content-type";
/// Statuses of responses without a body. Source: RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5.
pub(super) const BARE: [u32; 3] = [204, 205, 304];
/// The type of a body that is a string, unless `headers` say another.
const TEXT: &str = "text/plain; charset=utf-8";
/// The type of a body that is any other JSON value.
const JSON: &str = "application/json";

pub(super) fn read(item: &Item<'_>, report: &mut Report) -> Result<StaticResponse, Reported> {
    let fields = item.object(keys!(RESPOND), report)?;
    let status = fields.required_whole(key!(RESPOND.whole_range("status")), report);
    let headers = fields.or(key!(RESPOND.name("headers")), Vec::new(), report, headers);
    let body_key = key!(RESPOND.body("body")).name;
    let body = fields.or(body_key, Vec::new(), report, |item, report| {
        let body = body(item, report)?;
        match status {
            Ok(bare) if BARE.contains(&bare) && !body.is_empty() => {
                Err(report.add(&item.path, format!("must not be there: a response with status {bare} has no body")))
            }
            _ => Ok(body),
        }
    });
    let key = key!(RESPOND.grpc_status("grpc_status"));
    let grpc_status = fields.or(key.name, key.default, report, outcome::grpc_status);

    let (mut headers, body) = (headers?, body?);
    if !body.is_empty() && !headers.iter().any(|(name, _)| name == CONTENT_TYPE) {
        let content_type = match fields.get(body_key) {
            Some(Item { node: Node::String(_), .. }) => TEXT,
            _ => JSON,
        };
        headers.push((CONTENT_TYPE.to_owned(), content_type.to_owned()));
    }
    let content_type = headers.iter().find(|(name, _)| name == CONTENT_TYPE).map_or("", |(_, value)| value);
    let escape = escape(content_type);
    Ok(StaticResponse { status: status? as u16, headers, body, escape, grpc_status: grpc_status? })
}

fn headers(item: &Item<'_>, report: &mut Report) -> Result<Vec<(String, String)>, Reported> {
    let fields = item.dictionary("an object of header names and texts such as {\"x-a\": \"b\"}", report)?;
    header::pairs(&fields, *key!(RESPOND.most("headers")), report, |name, item, report| match header::reserved(name) {
        Some(why) => Err(report.add(&item.path, why)),
        None => header::value(item, report),
    })
}

/// A string is a template, any other value is sent as compact JSON as it is.
fn body(item: &Item<'_>, report: &mut Report) -> Result<Vec<TemplatePart>, Reported> {
    let most = key!(RESPOND.body("body")).range.bytes;
    let too_long =
        |bytes: usize| format!("must be at most {} MiB ({most} bytes) long, was {bytes} bytes", most / (1024 * 1024));
    if let Node::String(text) = item.node {
        if text.len() > most {
            return Err(report.add(&item.path, too_long(text.len())));
        }
        return template::read(&item.path, text, report);
    }
    item.report_duplicates(report);
    match item.node.to_text() {
        text if text.len() <= most => Ok(vec![TemplatePart::Text(text)]),
        text => Err(report.add(&item.path, too_long(text.len()))),
    }
}

/// How values are made harmless in a body of this type. Types that merely build on JSON or XML (`+json`, `x-ndjson`,
/// `svg+xml`) need the same as those.
fn escape(content_type: &str) -> Escape {
    let media_type = content_type.split(';').next().unwrap_or_default().to_ascii_lowercase();
    if media_type.contains("json") {
        Escape::Json
    } else if media_type.contains("html") || media_type.contains("xml") {
        Escape::Markup
    } else {
        Escape::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_content_type_decides_how_values_are_escaped() {
        for (content_type, expected) in [
            ("application/json", Escape::Json),
            ("Application/Problem+JSON; charset=utf-8", Escape::Json),
            ("text/html; charset=utf-8", Escape::Markup),
            ("image/svg+xml", Escape::Markup),
            ("text/plain; note=json", Escape::None),
            ("", Escape::None),
        ] {
            assert_eq!(escape(content_type), expected, "{content_type}");
        }
    }
}
