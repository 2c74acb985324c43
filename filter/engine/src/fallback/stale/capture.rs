//! An answer that is copied as it passes, to be kept when it has come to its end.

use std::borrow::Cow;

use holdfast_policy::document::Stale;

use super::answer::{KeptAnswer, is_kept, push_header};
use super::asked::AskedFor;
use super::cache_control::CacheControl;
use super::freshness::{Dates, Freshness};
use super::vary::Vary;
use crate::base::time::Timestamp;
use crate::http::headers;

/// The longest headers that are kept, in bytes.
const LONGEST_HEADERS: usize = 16 * 1024;

/// An answer on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    answer: KeptAnswer,
    max_body: usize,
    /// How long the body is, where the host has said so.
    announced: Option<usize>,
}

impl Capture {
    /// Begins to copy a good answer with status 200 that has these headers, as the host serializes them, and came `now` to a GET that
    /// was sent at `sent`. `None` where it may not be kept, or is too large. Source: RFC 9111, sections 3 and 3.5.
    pub fn begin(asked: &AskedFor, serialized: &[u8], rules: &Stale, sent: Timestamp, now: Timestamp) -> Option<Self> {
        let forbids = |line: &[u8]| CacheControl::read(line).is_none_or(|control| control.no_store);
        if asked.is_head() || asked.lines("cache-control").any(forbids) {
            return None;
        }
        let (mut control, mut length, mut pragma) = (None, None, false);
        let (mut dates, mut varies, mut connection) = (Dates::default(), Vec::new(), Vec::new());
        for (name, value) in headers::read(serialized) {
            let is_fine = match name {
                b"cache-control" => once(&mut control, value),
                b"date" => once(&mut dates.date, value),
                b"age" => once(&mut dates.age, value),
                b"expires" => once(&mut dates.expires, value),
                b"content-length" => once(&mut length, value),
                // A part of something, however it came to have this status.
                b"set-cookie" | b"content-range" => false,
                _ => true,
            };
            match name {
                b"vary" => varies.push(value),
                b"connection" => connection.push(value),
                b"pragma" => pragma |= value.trim_ascii().eq_ignore_ascii_case(b"no-cache"),
                _ => {}
            }
            if !is_fine {
                return None;
            }
        }
        // It counts only where there is nothing newer. Source: RFC 9111, section 5.4.
        let is_legacy = control.is_none() && pragma;
        let control = CacheControl::read(control.unwrap_or_default())?;
        if control.no_store || control.private || is_legacy {
            return None;
        }
        let is_shared = control.public || control.s_maxage.is_some();
        if asked.has("authorization") && !is_shared && !control.must_revalidate {
            return None;
        }
        let vary = Vary::read(varies.into_iter())?;
        // Most hosts that know their client by a cookie do not say so.
        if asked.has("cookie") && !is_shared && !vary.names("cookie") {
            return None;
        }
        let announced = match length {
            Some(length) => Some(core::str::from_utf8(length).ok()?.parse::<usize>().ok()?),
            None => None,
        };
        let max_body = usize::try_from(rules.max_body).unwrap_or(usize::MAX);
        let freshness = Freshness::of(&control, &dates, sent, now)?;
        let answer = KeptAnswer {
            kept: now,
            freshness,
            target: asked.target().to_vec(),
            values: asked.values(&vary)?,
            vary,
            headers: kept_headers(serialized, &connection)?,
            body: Vec::new(),
        };
        let is_small = announced.is_none_or(|announced| announced <= max_body);
        let is_young = answer.age(rules.max_age, now).is_some();
        (is_small && is_young).then_some(Capture { answer, max_body, announced })
    }

    /// Takes a piece of the body. Whether it still may be kept.
    #[must_use]
    pub fn add(&mut self, piece: &[u8]) -> bool {
        let has_room = self.answer.body.len().saturating_add(piece.len()) <= self.max_body;
        if has_room {
            self.answer.body.extend_from_slice(piece);
        }
        has_room
    }

    /// The answer, which has come to its end; `None` where it is not what its host has announced.
    pub fn end(self) -> Option<KeptAnswer> {
        let is_whole = self.announced.is_none_or(|announced| announced == self.answer.body.len());
        is_whole.then_some(self.answer)
    }
}

/// Takes the line of a header that may have one. Whether it is the first.
fn once<'a>(line: &mut Option<&'a [u8]>, value: &'a [u8]) -> bool {
    line.replace(value).is_none()
}

/// The headers to keep; `None` where they are too long, or not text.
fn kept_headers(serialized: &[u8], connection: &[&[u8]]) -> Option<Vec<(String, String)>> {
    let (mut kept, mut size) = (Vec::new(), 0_usize);
    for (name, value) in headers::read(serialized) {
        let name = core::str::from_utf8(name).ok()?;
        if is_kept(name, connection) {
            size = size.saturating_add(name.len()).saturating_add(value.len());
            if size > LONGEST_HEADERS {
                return None;
            }
            push_header(&mut kept, Cow::Borrowed(name), core::str::from_utf8(value).ok()?);
        }
    }
    Some(kept)
}
