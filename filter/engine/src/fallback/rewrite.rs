//! The headers of an answer that is replaced as it passes.
//!
//! What describes the host's body, how long it may be kept, and the client's session with the host goes, and so does what the policy
//! takes for a failure. The rest stays: it is of the filters between Holdfast and the router, such as CORS, or of the host, which
//! cannot be told apart.

use core::str::from_utf8;

use holdfast_policy::document::OutcomeRules;

use super::reply::{FALLBACK_HEADER, GrpcStatus, REJECT_HEADER, Reply};
use crate::host::{Headers, Host};
use crate::http::header_rules::HeaderVerdict;
use crate::http::headers;

/// Names that begin so describe a body or a gRPC call's end.
const PREFIXES: [&str; 2] = ["content-", "grpc-"];

/// Other headers that belong to what is replaced. Source: RFC 9110, sections 8, 10.2, 11.6 and 14.3; RFC 9111, section 5; RFC 6265,
/// section 4.1; RFC 9530.
const OF_THE_ANSWER: [&str; 23] = [
    "accept-ranges",
    "age",
    "authentication-info",
    "cache-control",
    "clear-site-data",
    "digest",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "pragma",
    "proxy-authenticate",
    "proxy-authentication-info",
    "refresh",
    "repr-digest",
    "retry-after",
    "set-cookie",
    "trailer",
    "warning",
    "www-authenticate",
    FALLBACK_HEADER,
    REJECT_HEADER,
];

/// Rewrites the response's headers, which are `serialized` as the host gives them, into those of a reply. `has_body` says that a body
/// goes with them. What `rules` take for a failure would say to the client that the new answer is one.
pub(super) fn rewrite(host: &dyn Host, serialized: &[u8], rules: &OutcomeRules, reply: &Reply, has_body: bool) {
    let is_measured = headers::read(serialized).any(|(name, _)| name == b"content-length");
    remove(host, Headers::Response, serialized, |name, value| {
        PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || OF_THE_ANSWER.contains(&name)
            // Where the length is not known, this is how filters see that there is a body. No client gets it of the host.
            || name == "transfer-encoding" && is_measured
            || HeaderVerdict::of_line(rules, name.as_bytes(), value) == HeaderVerdict::Failure
    });
    let set = |name: &str, value: &str| host.set_header(Headers::Response, name, value);
    set(":status", &reply.status.to_string());
    for (index, (name, value)) in reply.headers.iter().enumerate() {
        let is_first = reply.headers.iter().take(index).all(|(before, _)| before != name);
        // Such as `set-cookie`, of whose lines none may take another's place.
        if is_first { set(name, value) } else { host.add_header(Headers::Response, name, value) }
    }
    // Where the host did not say how long its body is, there may be none: trailers alone. Then no length may be promised.
    if is_measured && (has_body || !reply.body.is_empty()) && !reply.has_bare_status() {
        set("content-length", &reply.body.len().to_string());
    }
}

/// Makes a response that has no body a gRPC one.
pub(super) fn speak_grpc(host: &dyn Host, status: GrpcStatus, message: &[u8]) {
    let set = |name: &str, value: &str| host.set_header(Headers::Response, name, value);
    set(":status", "200");
    for (name, value) in status.headers(String::from_utf8_lossy(message).into_owned()) {
        set(name, &value);
    }
}

/// Removes all headers of a map.
pub(super) fn remove_all(host: &dyn Host, map: Headers) {
    let serialized = host.headers(map);
    remove(host, map, &serialized, |_, _| true);
}

fn remove(host: &dyn Host, map: Headers, serialized: &[u8], goes: impl Fn(&str, &[u8]) -> bool) {
    for (name, value) in headers::read(serialized) {
        // A second line of a header is removed with the first, and once more does no harm.
        if let Some(name) = from_utf8(name).ok().filter(|name| goes(name, value)) {
            host.remove_header(map, name);
        }
    }
}
