//! Headers that belong to one hop of a message, and go no further.

use holdfast_policy::config::header::OF_THE_CONNECTION;

use super::headers;

/// Those beside the ones of the connection. Source: RFC 9110, sections 7.6.1, 8.6 and 11.7; RFC 9111, section 3.1; RFC 9112, section 6.1.
const OF_ONE_HOP: [&str; 5] =
    ["content-length", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization", "transfer-encoding"];

/// The lines of the header by which a message, whose headers are as the host serializes them, names more of them.
pub fn connection(serialized: &[u8]) -> Vec<&[u8]> {
    headers::read(serialized).filter(|(name, _)| *name == b"connection").map(|(_, value)| value).collect()
}

/// Whether a header belongs to one hop, where these are the [lines](connection) that name more of them.
pub fn is_of_one(name: &str, connection: &[&[u8]]) -> bool {
    let is_named = || {
        let mut named = connection.iter().flat_map(|line| line.split(|byte| *byte == b','));
        named.any(|other| other.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    };
    OF_THE_CONNECTION.contains(&name) || OF_ONE_HOP.contains(&name) || is_named()
}
