//! `respond`: a fallback's fixed response.

use super::error::{Report, Reported};
use super::json::Node;
use super::reader::{Item, key_path};
use super::table::{Names, RESPOND, key, keys};
use super::template::{self, Template};
use super::{header, json, outcome};
use crate::document::{Escape, StaticResponse, TemplatePart};

pub(super) const CONTENT_TYPE: &str = "content-type";
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
        headers.push((CONTENT_TYPE.to_owned(), vec![TemplatePart::Text(content_type.to_owned())]));
    }
    let content_type = match headers.iter().find(|(name, _)| name == CONTENT_TYPE).map(|(_, parts)| parts.as_slice()) {
        Some([TemplatePart::Text(text)]) => text,
        _ => "",
    };
    let is_value = fields.get(body_key).is_some_and(|item| !matches!(item.node, Node::String(_)));
    let escape = escape(content_type, is_value);
    Ok(StaticResponse { status: status? as u16, headers, body, escape, grpc_status: grpc_status? })
}

fn headers(item: &Item<'_>, report: &mut Report) -> Result<Vec<(String, Vec<TemplatePart>)>, Reported> {
    let fields = item.dictionary("an object of header names and texts such as {\"x-a\": \"b\"}", report)?;
    header::pairs(&fields, Names::Sent, *key!(RESPOND.most("headers")), report, header_value)
}

/// The value of a header, which is a template.
fn header_value(name: &str, item: &Item<'_>, report: &mut Report) -> Result<Vec<TemplatePart>, Reported> {
    let parts = template::read(&item.path, &header::value(item, report)?, report)?;
    if name == CONTENT_TYPE && parts.iter().any(template::is_variable) {
        return Err(report.add(&item.path, "may have no variables: what the body inserts is escaped for it"));
    }
    Ok(parts)
}

/// A string is a template, and so are the strings in any other value, which is sent as compact JSON.
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
    let bytes = item.node.to_text().len();
    if bytes > most {
        return Err(report.add(&item.path, too_long(bytes)));
    }
    let mut template = Template::default();
    let value = value(&item.path, item.node, &mut template, report);
    let parts = template.finish(&item.path, report)?;
    value.map(|()| parts)
}

/// Appends a JSON value whose strings are templates.
fn value(path: &str, node: &Node, template: &mut Template, report: &mut Report) -> Result<(), Reported> {
    let mut failed = None;
    match node {
        Node::String(text) => {
            template.push_text("\"");
            failed = template.push(path, text, json::escaped, report).err();
            template.push_text("\"");
        }
        Node::Array(items) => {
            template.push_text("[");
            for (index, item) in items.iter().enumerate() {
                template.push_text(if index > 0 { "," } else { "" });
                failed = value(&format!("{path}[{index}]"), item, template, report).err().or(failed);
            }
            template.push_text("]");
        }
        Node::Object(entries) => {
            template.push_text("{");
            for (index, (key, item)) in entries.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                template.push_text(&format!("{comma}\"{}\":", json::escaped(key)));
                failed = value(&key_path(path, key), item, template, report).err().or(failed);
            }
            template.push_text("}");
        }
        Node::Null | Node::Bool(_) | Node::Number(_) => template.push_text(&node.to_text()),
    }
    failed.map_or(Ok(()), Err)
}

/// How values are made harmless in a body of this type, or in the strings of a JSON value that is sent as it. Types that merely build
/// on JSON or XML (`+json`, `x-ndjson`, `svg+xml`) need the same as those.
fn escape(content_type: &str, is_value: bool) -> Escape {
    let media_type = content_type.split(';').next().unwrap_or_default().to_ascii_lowercase();
    let is_markup = media_type.contains("html") || media_type.contains("xml");
    if media_type.contains("json") {
        Escape::Json
    } else if is_value {
        if is_markup { Escape::JsonInMarkup } else { Escape::Json }
    } else if is_markup {
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
            assert_eq!(escape(content_type, false), expected, "{content_type}");
        }
    }

    #[test]
    fn strings_of_a_json_value_are_escaped_as_such_whatever_the_content_type() {
        for (content_type, expected) in [
            ("application/json", Escape::Json),
            ("text/plain", Escape::Json),
            ("text/html; charset=utf-8", Escape::JsonInMarkup),
            ("image/svg+xml", Escape::JsonInMarkup),
        ] {
            assert_eq!(escape(content_type, true), expected, "{content_type}");
        }
    }
}
