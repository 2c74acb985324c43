//! Dates of HTTP. Source: RFC 9110, section 5.6.7.

use std::time::UNIX_EPOCH;

use crate::base::time::{Timestamp, nanos};

/// The date that a header's value is; `None` for anything else, and for what is before the epoch.
pub fn parse(value: &[u8]) -> Option<Timestamp> {
    let date = httpdate::parse_http_date(core::str::from_utf8(value).ok()?.trim()).ok()?;
    Some(Timestamp(nanos(date.duration_since(UNIX_EPOCH).ok()?)))
}
