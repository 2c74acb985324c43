//! A kept answer, as it stands in the store and as it is served.

use std::borrow::Cow;

use super::asked::AskedFor;
use super::conditional;
use super::freshness::Freshness;
use super::vary::Vary;
use crate::base::time::{SKEW, Timestamp};
use crate::http::hop;
use crate::store::record::{Kind, Reader, Record, Writer};
use core::time::Duration;

/// An answer with status 200, and what it is an answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// When it was kept.
    pub kept: Timestamp,
    /// Its age, and until when it may be served.
    pub freshness: Freshness,
    /// What was asked for.
    pub target: Vec<u8>,
    /// By which headers it was chosen.
    pub vary: Vary,
    /// What the request had of them.
    pub values: Vec<u8>,
    /// Names in lower case, each once.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer that is served once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedAnswer {
    /// 200, or 304 where the client has it already.
    pub status: u16,
    /// Names in lower case, `age` among them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Its age in whole seconds.
    pub age: u64,
}

/// What a 304 says of the answer that the client has. Source: RFC 9110, section 15.4.5.
const IN_NOT_MODIFIED: [&str; 6] = ["cache-control", "content-location", "date", "etag", "expires", "vary"];

impl KeptAnswer {
    /// Whether it is an answer to this request.
    pub fn is_for(&self, asked: &AskedFor) -> bool {
        self.target == asked.target() && asked.values(&self.vary).is_some_and(|values| values == self.values)
    }

    /// Its age, where it may be served: it is not over its own limit, nor older than this.
    pub fn age(&self, max_age: Duration, now: Timestamp) -> Option<Duration> {
        let age = now.since(self.freshness.born);
        // One from the future is from before the clock was put back.
        let is_past = self.kept <= now.plus(SKEW);
        (is_past && now < self.freshness.until && age <= max_age).then_some(age)
    }

    /// What a client gets of it that has `asked` so.
    pub fn serve(self, asked: &AskedFor, age: Duration) -> ServedAnswer {
        let age = age.as_secs();
        let is_known = conditional::has_it(asked, &self.headers);
        let mut headers = self.headers;
        if is_known {
            headers.retain(|(name, _)| IN_NOT_MODIFIED.contains(&name.as_str()));
        }
        headers.push(("age".to_owned(), age.to_string()));
        let (status, body) = if is_known { (304, Vec::new()) } else { (200, self.body) };
        ServedAnswer { status, headers, body, age }
    }

    /// How many bytes it takes in the store.
    pub fn stored_size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        self.target.len() + self.vary.as_bytes().len() + self.values.len() + headers + self.body.len() + 50
    }
}

impl Record for KeptAnswer {
    const KIND: Kind = Kind::KeptAnswer;

    fn size(&self) -> usize {
        self.stored_size()
    }

    fn write(&self, out: &mut Writer) {
        out.time(self.kept);
        out.time(self.freshness.born);
        out.time(self.freshness.until);
        out.bytes(&self.target);
        out.bytes(self.vary.as_bytes());
        out.bytes(&self.values);
        out.u16(u16::try_from(self.headers.len()).unwrap_or(u16::MAX));
        for (name, value) in self.headers.iter().take(u16::MAX.into()) {
            out.bytes(name.as_bytes());
            out.bytes(value.as_bytes());
        }
        out.rest(&self.body);
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let kept = input.time()?;
        let freshness = Freshness { born: input.time()?, until: input.time()? };
        let target = input.bytes()?.to_vec();
        let vary = Vary::stored(input.bytes()?)?;
        let values = input.bytes()?.to_vec();
        let mut headers = Vec::new();
        for _ in 0..input.u16()? {
            let (name, value) = (input.bytes()?, input.bytes()?);
            let text = |bytes: &[u8]| core::str::from_utf8(bytes).ok().map(str::to_owned);
            headers.push((text(name)?, text(value)?));
        }
        Some(KeptAnswer { kept, freshness, target, vary, values, headers, body: input.rest().to_vec() })
    }
}

/// Names that begin so are Envoy's and Holdfast's own.
const NOT_KEPT_PREFIXES: [&str; 3] = [":", "x-envoy-", "x-holdfast-"];

/// Whether a header of an answer is kept; `connection` are the lines of the header that names those of one hop. This proxy sets `age` itself.
pub fn is_kept(name: &str, connection: &[&[u8]]) -> bool {
    name != "age"
        && !NOT_KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !hop::is_of_one(name, connection)
}

/// Adds a line of a header; several of one name become one. Source: RFC 9110, section 5.3.
pub fn push_header(headers: &mut Vec<(String, String)>, name: Cow<'_, str>, value: &str) {
    match headers.iter_mut().find(|(known, _)| *known == name) {
        Some((_, known)) => {
            known.push_str(", ");
            known.push_str(value);
        }
        None => headers.push((name.into_owned(), value.to_owned())),
    }
}
