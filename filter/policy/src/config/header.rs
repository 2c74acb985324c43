//! Header names and values.

use super::error::{Report, Reported, gather};
use super::reader::{Fields, Item, quoted};
use super::table::Names;

/// Whether `name` is an HTTP field name. Source: RFC 9110, section 5.6.2, token.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A header name that stands at `path`, in lower case. Pseudo headers are no names.
pub(super) fn name(path: &str, text: &str, names: Names, report: &mut Report) -> Result<String, Reported> {
    if is_token(text) {
        return Ok(text.to_ascii_lowercase());
    }
    let hint = match (names, text) {
        (Names::Request, ":authority" | ":path" | ":method") => "; match has a key of its own for it",
        (Names::Asked, ":authority") => "; host beside headers is the key for it",
        (Names::Judged, ":status") => "; outcomes have a key of their own for it, status",
        _ => "",
    };
    Err(report.add(path, format!("must be a header name (letters, digits, \"-\"), was {}{hint}", quoted(text))))
}

/// What [`read`] takes.
pub(super) const EXPECTED: &str = "a header name";

/// A header name, in lower case.
pub(super) fn read(item: &Item<'_>, report: &mut Report) -> Result<String, Reported> {
    name(&item.path, item.string(EXPECTED, report)?, Names::Request, report)
}

/// An object of at most `most` of these header names and what `read` makes of their values; it is given the lower-case name.
pub(super) fn pairs<T>(
    fields: &Fields<'_>,
    accepted: Names,
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
        let name = name(&item.path, written, accepted, report)?;
        let value = match refused(accepted, &name) {
            Some(why) => Err(report.add(&item.path, why)),
            None => read(&name, &item, report),
        };
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
    if is_printable(text) { Ok(text.to_owned()) } else { Err(item.refused(EXPECTED, report)) }
}

/// The same of at most so many characters.
pub(super) fn text(item: &Item<'_>, most: usize, report: &mut Report) -> Result<String, Reported> {
    let expected = format!("a text of at most {most} printable ASCII characters, with no space at its ends");
    let text = item.string(&expected, report)?;
    if is_printable(text) && text.len() <= most { Ok(text.to_owned()) } else { Err(item.refused(&expected, report)) }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim_ascii().len() == text.len()
}

/// The headers that belong to the connection. Source: RFC 9110, section 7.6.1, and RFC 9113, section 8.2.2.
pub const OF_THE_CONNECTION: [&str; 6] = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];

const FOR_THE_CONNECTION: &str = "may not be set: it belongs to the connection";
const OF_THE_BODY: &str = "may not be set: it follows from the body";

/// What else a response of ours may not set, and why.
pub(super) const RESERVED: [(&str, &str); 3] = [
    ("content-length", OF_THE_BODY),
    ("transfer-encoding", OF_THE_BODY),
    ("grpc-status", "may not be set: use grpc_status beside status"),
];

const NOT_OF_THE_SERVICE: &str = "says nothing of the service: it belongs to the connection";

/// What else a response is not judged by, and why.
pub(super) const UNJUDGED: [(&str, &str); 2] = [
    ("transfer-encoding", NOT_OF_THE_SERVICE),
    ("grpc-status", "has a key of its own: use grpc_status beside header, which is read from trailers too"),
];

const OF_GRPC: &str = "may not be set: it belongs to gRPC";

/// What else a request of ours may not set, and why. `content-type` is that of gRPC, and without it there is no body.
pub(super) const UNASKED: [(&str, &str); 8] = [
    ("host", "may not be set: use host beside headers"),
    ("content-length", OF_THE_BODY),
    ("content-type", OF_THE_BODY),
    ("transfer-encoding", OF_THE_BODY),
    ("expect", OF_THE_BODY),
    // An answer that is compressed is not read.
    ("grpc-encoding", OF_GRPC),
    ("grpc-accept-encoding", OF_GRPC),
    ("grpc-timeout", OF_GRPC),
];

/// What the names of headers begin with that Envoy acts on and does not only pass on: retries and time-outs among them.
pub(super) const ENVOYS_PREFIX: &str = "x-envoy-";

/// What the names of Holdfast's own headers begin with, which a response may not set and is not judged by either.
pub(super) const OWN_PREFIX: &str = "x-holdfast-";

/// Why the header of this (lower-case) name may not stand among these.
fn refused(names: Names, name: &str) -> Option<&'static str> {
    let (listed, connection, own): (&[(&str, &'static str)], _, _) = match names {
        Names::Request => return None,
        Names::Judged => {
            (&UNJUDGED, NOT_OF_THE_SERVICE, "says nothing of the service: x-holdfast- headers are Holdfast's own")
        }
        Names::Sent => (&RESERVED, FOR_THE_CONNECTION, "may not be set: x-holdfast- headers are Holdfast's own"),
        Names::Asked if name.starts_with(ENVOYS_PREFIX) => {
            return Some("may not be set: x-envoy- headers are Envoy's own");
        }
        Names::Asked => (&UNASKED, FOR_THE_CONNECTION, "may not be set: x-holdfast- headers are Holdfast's own"),
    };
    if OF_THE_CONNECTION.contains(&name) {
        return Some(connection);
    }
    let reason = listed.iter().find(|(listed, _)| *listed == name).map(|(_, why)| *why);
    reason.or_else(|| name.starts_with(OWN_PREFIX).then_some(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn names_are_tokens_in_lower_case() {
        let mut report = Report::default();
        assert_eq!(name("policies", "X-Tenant_1", Names::Request, &mut report).unwrap(), "x-tenant_1");
        for bad in ["", "a b", "a:b", ":path", ":status", "é", "a\r\nb"] {
            for names in [Names::Request, Names::Judged, Names::Sent, Names::Asked] {
                assert!(name("policies", bad, names, &mut report).is_err(), "{bad:?}");
            }
        }
    }

    #[test]
    fn headers_that_would_break_the_message_are_reserved() {
        for name in ["content-length", "connection", "x-holdfast-fallback", "grpc-status"] {
            assert!(refused(Names::Sent, name).is_some(), "{name}");
            assert_eq!(refused(Names::Request, name), None, "a request may have any");
        }
        assert_eq!(refused(Names::Sent, "retry-after"), None);
    }

    #[test]
    fn a_request_of_ours_may_not_say_what_is_said_already() {
        for name in ["host", "te", "content-type", "grpc-timeout", "x-holdfast-hosts", "x-envoy-max-retries"] {
            assert!(refused(Names::Asked, name).is_some(), "{name}");
        }
        for name in ["authorization", "user-agent", "cookie", "accept", "x-forwarded-proto", "x-envoy", "x-holdfast"] {
            assert_eq!(refused(Names::Asked, name), None, "{name}");
        }
    }

    #[test]
    fn a_response_is_judged_by_what_a_service_says_in_it() {
        for name in ["connection", "transfer-encoding", "x-holdfast-retry", "grpc-status"] {
            assert!(refused(Names::Judged, name).is_some(), "{name}");
        }
        for name in ["retry-after", "content-length", "x-envoy-ratelimited", "grpc-message", "x-holdfast", "te-a"] {
            assert_eq!(refused(Names::Judged, name), None, "{name}");
        }
    }
}
