//! One context of a request or of an attempt, as Envoy keeps it beside the module.

use std::cell::RefCell;
use std::rc::Rc;

use crate::calls::Calls;
use crate::headers::Headers;
use crate::message::Request;
use crate::stream_info::{SharedInfo, StreamInfo};

/// A reply that Envoy is to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalReply {
    pub(crate) status: u16,
    pub(crate) details: String,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: Headers,
    pub(crate) grpc_status: u32,
}

/// The gRPC status of a reply; one of -1 says none, and the HTTP status gives it.
/// Source: Envoy, `Grpc::Utility::httpToGrpcStatus`.
fn grpc_status(said: u32, status: u16) -> u32 {
    if said != u32::MAX {
        return said;
    }
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

impl LocalReply {
    /// Its headers and body. Source: Envoy, `Utility::prepareLocalReply`.
    pub(crate) fn prepare(&self, is_grpc: bool) -> (Headers, Vec<u8>) {
        let mut headers = Headers::default();
        if is_grpc {
            headers.add(":status", "200");
            headers.add("content-type", "application/grpc");
            headers.add("grpc-status", grpc_status(self.grpc_status, self.status).to_string());
            if !self.body.is_empty() {
                headers.add("grpc-message", &self.body);
            }
        } else {
            headers.add(":status", self.status.to_string());
        }
        for (name, value) in self.headers.iter() {
            headers.add(name, value);
        }
        if is_grpc {
            return (headers, Vec::new());
        }
        if !self.body.is_empty() {
            headers.set("content-length", self.body.len().to_string());
            if headers.get("content-type").is_none() {
                headers.add("content-type", "text/plain");
            }
        }
        (headers, self.body.clone())
    }
}

/// Headers that several contexts see: all attempts of a request have the router's own map.
pub(crate) type SharedHeaders = Rc<RefCell<Headers>>;

/// A header map with whether the phase lets the module see it.
#[derive(Debug, Default)]
pub(crate) struct Map {
    pub(crate) headers: SharedHeaders,
    pub(crate) is_readable: bool,
}

/// A way through the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// One context of a request or of an attempt.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The root context that it belongs to.
    pub(crate) root: u32,
    pub(crate) request: Map,
    pub(crate) response: Map,
    pub(crate) trailers: Map,
    /// Whether the request ends with its headers.
    pub(crate) has_only_headers: bool,
    pub(crate) request_body: Vec<u8>,
    pub(crate) response_body: Vec<u8>,
    pub(crate) is_grpc: bool,
    pub(crate) info: SharedInfo,
    /// A reply that is sent when the running callback has returned.
    pub(crate) reply: Option<LocalReply>,
    /// Whether a reply was asked for; a second one is ignored.
    pub(crate) has_replied: bool,
    /// What the module keeps, until it lets it go on.
    pub(crate) held: Option<Direction>,
    /// What the module has let go on, when the running callback has returned.
    pub(crate) resumed: Option<Direction>,
    /// Whether the module has written the response's status.
    pub(crate) is_rewritten: bool,
    pub(crate) calls: Calls,
}

impl Stream {
    /// A request of a client.
    pub(crate) fn new(root: u32, request: &Request) -> Self {
        let headers = Rc::new(RefCell::new(request.headers.clone()));
        let info = StreamInfo::new(request, &headers);
        Stream::of(root, headers, request.has_only_headers(), request.is_grpc(), info)
    }

    /// A request, or an attempt of one with the same headers and facts.
    pub(crate) fn of(
        root: u32,
        headers: SharedHeaders,
        has_only_headers: bool,
        is_grpc: bool,
        info: SharedInfo,
    ) -> Self {
        Stream {
            root,
            request: Map { headers, is_readable: true },
            response: Map::default(),
            trailers: Map::default(),
            has_only_headers,
            request_body: Vec::new(),
            response_body: Vec::new(),
            is_grpc,
            info,
            reply: None,
            has_replied: false,
            held: None,
            resumed: None,
            is_rewritten: false,
            calls: Calls::default(),
        }
    }

    /// The response's headers as they are now.
    pub(crate) fn response_headers(&self) -> Headers {
        self.response.headers.borrow().clone()
    }

    /// Headers and body of a reply that Envoy makes.
    pub(crate) fn prepare(&self, reply: &LocalReply) -> (Headers, Vec<u8>) {
        reply.prepare(self.is_grpc)
    }
}
