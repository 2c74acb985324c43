//! Where a fallback stands in for an answer: in the answer's place, or as a reply of its own.

use std::rc::Rc;

use holdfast_policy::document::OutcomeRules;

use super::replacement::{HELD_AT_MOST, Manner, Replacement};
use super::reply::{GrpcStatus, LocalReply};
use super::rewrite;
use crate::base::time::Timestamp;
use crate::host::Host;
use crate::http::grpc::GrpcDialect;
use crate::http::headers;

/// The response whose headers have come.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// Its headers as the host serializes them.
    pub serialized: &'a [u8],
    /// What the policy judged it by.
    pub rules: &'a OutcomeRules,
    /// Whether there is nothing but headers.
    pub ended: bool,
    /// Whether it comes from a host of the cluster. Others are made by the proxy and are complete.
    pub is_hosts: bool,
}

/// Where the fallback stands.
#[derive(Debug)]
pub enum Placed {
    /// In the place of the answer, which has been rewritten and has nothing but headers.
    Whole,
    /// In the place of the answer, whose headers have been rewritten and may pass. Its body is still to come.
    Passing(Rc<Replacement>),
    /// In the place of the answer, which is to be held back.
    Held(Rc<Replacement>),
    /// In a reply. Nothing has been rewritten.
    Reply(LocalReply),
}

/// Places a fallback, and rewrites the answer's headers where it stands in their place.
pub fn place(host: &dyn Host, answered: Answered<'_>, local: LocalReply, now: Timestamp) -> Placed {
    let Answered { serialized, rules, ended, is_hosts } = answered;
    let local = match local.reply.grpc {
        None => local,
        // A status in headers alone ends a call where they are the last, and a gRPC-web call in any case.
        Some(status) if ended || status.dialect != GrpcDialect::Grpc => {
            LocalReply { reply: local.reply.into_headers(status), ..local }
        }
        // No trailers can be made of a body, nor headers that are the last.
        Some(_) if is_hosts && !is_translated(host) => {
            return Placed::Held(Rc::new(Replacement::held(local, Manner::Replied, now)));
        }
        Some(_) => LocalReply { reply: local.reply.into_http(), ..local },
    };
    if ended && !local.reply.body.is_empty() && !is_head(host) {
        // There is no body that could be overwritten, and nothing of the answer that is still to come.
        return Placed::Reply(local);
    }
    rewrite::rewrite(host, serialized, rules, &local.reply, !ended);
    if ended {
        Placed::Whole
    } else if is_hosts && announced(serialized).is_none_or(|size| size <= HELD_AT_MOST) {
        Placed::Held(Rc::new(Replacement::held(local, Manner::Rewritten, now)))
    } else {
        Placed::Passing(Rc::new(Replacement::passing(local, now)))
    }
}

/// Makes the response to a gRPC request that was rejected a gRPC one, as it comes by on its way to the client. Envoy makes it one only
/// if the client's request was gRPC. This one may have been made gRPC by a filter, which now translates the answer.
pub fn place_grpc_rejection(host: &dyn Host, ended: bool, status: GrpcStatus, message: &[u8]) {
    // The proxy's own configuration may have given it a body: then it stays an HTTP error, which filters translate too.
    if ended {
        rewrite::speak_grpc(host, status, message);
    }
}

/// The length that the answer's headers announce.
fn announced(serialized: &[u8]) -> Option<u64> {
    let (_, value) = headers::read(serialized).find(|(name, _)| *name == b"content-length")?;
    core::str::from_utf8(value).ok()?.parse().ok()
}

/// Whether the request is HEAD: its answer has no body, whatever its headers say.
fn is_head(host: &dyn Host) -> bool {
    host.property("request\0method").is_some_and(|method| method == b"HEAD")
}

/// Whether a filter has made a gRPC request of the client's, and translates the answer: a transcoder leaves the client's method in a
/// header (Envoy, `JsonTranscoderFilter::decodeHeaders`), gRPC-web clients say what they are, and gRPC itself needs HTTP/2.
fn is_translated(host: &dyn Host) -> bool {
    ["request\0headers\0x-envoy-original-method", "request\0headers\0x-grpc-web"]
        .iter()
        .any(|header| host.property(header).is_some_and(|value| !value.is_empty()))
        || host.property("request\0protocol").is_some_and(|protocol| protocol.starts_with(b"HTTP/1"))
}
