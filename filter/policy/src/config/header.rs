//! Header names and values.

use super::error::{Report, Reported, gather};
use super::reader::{Fields, Item, quoted};

/// Whether `name` is an HTTP field name. Source: RFC 9110, section 5.6.2, token.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A header name that stands at `path`, in lower case. Pseudo headers are no names.
pub(super) fn name(path: &str, text: &str, report: &mut Report) -> Result<String, Reported> {
    if is_token(text) {
        return Ok(text.to_ascii_lowercase());
    }
    let hint = match text {
        ":authority" | ":path" | ":method" => "; match has a key of its own for it",
        _ => "",
    };
    Err(report.add(path, format!("must be a header name (letters, digits, \"-\"), was {}{hint}", quoted(text))))
}

/// What [`read`] takes.
pub(super) const EXPECTED: &str = "a header name";

/// A header name, in lower case.
pub(super) fn read(item: &Item<'_>, report: &mut Report) -> Result<String, Reported> {
    name(&item.path, item.string(EXPECTED, report)?, report)
}

/// An object of at most `most` header names and what `read` makes of their values; it is given the lower-case name.
pub(super) fn pairs<T>(
    fields: &Fields<'_>,
    most: usize,
    report: &mut Report,
    mut read: impl FnMut(&str, &Item<'_>, &mut Report) -> Result<T, Reported>,
) -> Result<Vec<(String, T)>, Reported> {
    if fields.len() > most {
        let problem = format!("must have at most {most} headers, has {}", fields.len());
        return Err(report.add(&fields.path, problem));
    }
    let mut names: Vec<String> = Vec::new();
    gather(fields.items().map(|(written, item)| {
        let name = name(&item.path, written, report)?;
        let value = read(&name, &item, report);
        if names.contains(&name) && !fields.repeats(written) {
            return Err(report.add(&item.path, "is the same header as another one here; case does not count"));
        }
        names.push(name.clone());
        Ok((name, value?))
    }))
}

/// A header value to send.
pub(super) fn value(item: &Item<'_>, report: &mut Report) -> Result<String, Reported> {
    const EXPECTED: &str = "a text of printable ASCII characters, with no space at its ends";
    let text = item.string(EXPECTED, report)?;
    let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if printable && text.trim_ascii().len() == text.len() {
        Ok(text.to_owned())
    } else {
        Err(item.refused(EXPECTED, report))
    }
}

const OF_THE_BODY: &str = "may not be set: it follows from the body";
const OF_THE_CONNECTION: &str = "may not be set: it belongs to the connection";

/// What a response of ours may not set, and why.
pub(super) const RESERVED: [(&str, &str); 9] = [
    ("content-length", OF_THE_BODY),
    ("transfer-encoding", OF_THE_BODY),
    // Source: RFC 9110, section 7.6.1, and RFC 9113, section 8.2.2.
    ("connection", OF_THE_CONNECTION),
    ("keep-alive", OF_THE_CONNECTION),
    ("proxy-connection", OF_THE_CONNECTION),
    ("te", OF_THE_CONNECTION),
    ("trailer", OF_THE_CONNECTION),
    ("upgrade", OF_THE_CONNECTION),
    ("grpc-status", "may not be set: use grpc_status beside status"),
];

/// What the names of Holdfast's own headers begin with, which a response may not set either.
pub(super) const OWN_PREFIX: &str = "x-holdfast-";

/// Why a response of ours may not set the header of this (lower-case) name.
pub(super) fn reserved(name: &str) -> Option<&'static str> {
    match RESERVED.iter().find(|(reserved, _)| *reserved == name) {
        Some((_, why)) => Some(*why),
        None if name.starts_with(OWN_PREFIX) => Some("may not be set: x-holdfast- headers are Holdfast's own"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn names_are_tokens_in_lower_case() {
        let mut report = Report::default();
        assert_eq!(name("policies", "X-Tenant_1", &mut report).unwrap(), "x-tenant_1");
        for bad in ["", "a b", "a:b", ":path", "é", "a\r\nb"] {
            assert!(name("policies", bad, &mut report).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn headers_that_would_break_the_message_are_reserved() {
        for name in ["content-length", "connection", "x-holdfast-fallback", "grpc-status"] {
            assert!(reserved(name).is_some(), "{name}");
        }
        assert_eq!(reserved("retry-after"), None);
    }
}
