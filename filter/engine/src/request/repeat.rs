//! A request that is kept while it passes, to be sent again to another cluster.

use core::time::Duration;

use holdfast_policy::document::{Call, Policy};

use super::facts::Facts;
use crate::fallback::{self, Unserved};
use crate::host::Host;
use crate::http::outcome::Answer;
use crate::http::request::Field;

/// How much of a request's body is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    /// All of it.
    Whole,
    /// What has come so far.
    Part,
    /// Nothing of use.
    Nothing,
}

/// A request that may be sent again.
pub(super) struct Repeat {
    /// As the host serializes them.
    headers: Vec<u8>,
    /// The cluster that it goes to.
    own: Vec<u8>,
    body: Vec<u8>,
    copied: Copied,
    /// The longest body that any call takes.
    most: usize,
    /// Whether it may be sent twice.
    is_repeatable: bool,
}

impl Repeat {
    /// Begins to keep a request, which has no body if it has `ended`; `None` if no call of the policy could send it again.
    pub(super) fn begin(policy: &Policy, facts: &Facts<'_>, ended: bool) -> Option<Box<Self>> {
        let first = policy.calls().next()?;
        // All of them are wanted, so none is asked for by itself.
        let headers = facts.serialized_headers();
        if facts.grpc().is_some() {
            return None;
        }
        let method = facts.get(Field::Method).unwrap_or_default();
        let is_named = first.methods.iter().any(|named| named.as_bytes() == &*method);
        let is_repeatable = is_named || facts.get(Field::Header(&first.idempotency_header)).is_some();
        let most = policy.calls().map(|call| call.max_body).max().and_then(|most| usize::try_from(most).ok());
        Some(Box::new(Repeat {
            headers: headers.to_vec(),
            own: facts.get(Field::Cluster).unwrap_or_default().into_owned(),
            body: Vec::new(),
            copied: if ended { Copied::Whole } else { Copied::Part },
            most: most.unwrap_or(0),
            is_repeatable,
        }))
    }

    /// A piece of the body has come, of `size` bytes, and with `ended` it is the last.
    pub(super) fn add(&mut self, host: &dyn Host, size: usize, ended: bool) {
        if self.copied != Copied::Part {
            return;
        }
        if self.body.len().saturating_add(size) > self.most {
            return self.drop_body();
        }
        if size > 0 {
            let piece = host.request_body(size);
            if piece.len() != size {
                return self.drop_body();
            }
            self.body.extend_from_slice(&piece);
        }
        if ended {
            self.copied = Copied::Whole;
        }
    }

    /// Trailers have come, which no call can send.
    pub(super) fn drop_body(&mut self) {
        self.body = Vec::new();
        self.copied = Copied::Nothing;
    }

    /// Whether a call may send it again after this answer.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may(&self, call: &Call, answer: Answer) -> Result<(), Unserved> {
        if self.own == call.cluster.as_bytes() {
            return Err(Unserved::Loop);
        }
        // Where there was no host none has seen it.
        if !self.is_repeatable && answer != Answer::NoHost {
            return Err(Unserved::Method);
        }
        let is_there = self.copied == Copied::Whole && self.body.len() <= usize::try_from(call.max_body).unwrap_or(0);
        if is_there { Ok(()) } else { Err(Unserved::Body) }
    }

    /// What is sent again.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) fn again(&self, call: &Call) -> Result<OutgoingCall, Unserved> {
        let (cluster, timeout) = (call.cluster.clone(), call.timeout);
        Ok(OutgoingCall { cluster, headers: fallback::headers_again(&self.headers)?, body: self.body.clone(), timeout })
    }
}

/// A request to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingCall {
    /// The cluster.
    pub cluster: String,
    /// All headers, those of HTTP/2's own before.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long the whole answer may take.
    pub timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Headers;
    use crate::memory_host::MemoryHost;
    use holdfast_policy::config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const FAILED: Answer = Answer::Http(503);

    /// A request to the cluster `orders`, and the calls of a policy: to `standby`, to `orders`, and with shorter bodies to `small`.
    fn begun(method: &str, more: &[(&str, &str)]) -> (MemoryHost, Option<Box<Repeat>>, Vec<Call>) {
        let text = br#"{"policies":[{"name":"a","fallback":[
            {"on":["failure"],"call":{"cluster":"standby","max_body":"2KiB"}},
            {"on":["failure"],"call":{"cluster":"orders"}},
            {"on":["failure"],"call":{"cluster":"small","max_body":"1KiB"}}]}]}"#;
        let policy = config::parse(text).unwrap().policies.remove(0);
        let host = MemoryHost::default();
        host.put_property("xds\0cluster_name", Some(b"orders"));
        let first = [(":method", method), (":path", "/a")];
        host.put_headers(Headers::Request, &[&first[..], more].concat());
        let repeat = Repeat::begin(&policy, &Facts::new(&host), false);
        (host, repeat, policy.calls().cloned().collect())
    }

    fn comes(repeat: &mut Repeat, host: &MemoryHost, piece: &[u8], ended: bool) {
        host.put_request_body(piece);
        repeat.add(host, piece.len(), ended);
    }

    #[test]
    fn it_is_sent_again_with_all_of_its_body_to_another_cluster() {
        let (host, repeat, calls) = begun("PUT", &[]);
        let mut repeat = repeat.unwrap();
        comes(&mut repeat, &host, &[b'x'; 1000], false);
        assert_eq!(repeat.may(&calls[0], FAILED), Err(Unserved::Body), "the rest is still to come");
        comes(&mut repeat, &host, &[b'y'; 100], true);
        let told: Vec<_> = calls.iter().map(|call| repeat.may(call, FAILED)).collect();
        assert_eq!(told, [Ok(()), Err(Unserved::Loop), Err(Unserved::Body)]);
        assert_eq!(repeat.again(&calls[0]).unwrap().body, [&[b'x'; 1000][..], &[b'y'; 100]].concat());
        repeat.drop_body();
        assert_eq!(repeat.may(&calls[0], FAILED), Err(Unserved::Body), "trailers have come");
    }

    #[test]
    fn a_body_that_is_too_long_is_not_kept() {
        let (host, repeat, calls) = begun("PUT", &[]);
        let mut repeat = repeat.unwrap();
        comes(&mut repeat, &host, &[b'x'; 65_000], false);
        comes(&mut repeat, &host, &[b'y'; 600], true);
        assert_eq!(repeat.may(&calls[0], FAILED), Err(Unserved::Body), "none takes more than 64 KiB");
        assert!(repeat.body.is_empty());
    }

    #[test]
    fn what_may_not_be_sent_twice_is_sent_where_no_host_has_seen_it() {
        let (host, repeat, calls) = begun("POST", &[]);
        let mut repeat = repeat.unwrap();
        comes(&mut repeat, &host, b"x", true);
        assert_eq!(repeat.may(&calls[0], FAILED), Err(Unserved::Method));
        assert_eq!(repeat.may(&calls[0], Answer::NoHost), Ok(()));
        let (host, repeat, calls) = begun("POST", &[("idempotency-key", "k")]);
        let mut repeat = repeat.unwrap();
        comes(&mut repeat, &host, b"x", true);
        assert_eq!(repeat.may(&calls[0], FAILED), Ok(()));
        assert!(begun("POST", &[("content-type", "application/grpc")]).1.is_none());
    }
}
