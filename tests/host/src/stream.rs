//! One request as Envoy keeps it beside the module.

use std::collections::BTreeMap;

use crate::calls::Calls;
use crate::headers::Headers;
use crate::message::Request;

/// A reply that the module has asked for.
#[derive(Debug, Clone)]
pub(crate) struct LocalReply {
    pub(crate) status: u16,
    pub(crate) details: String,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: Headers,
    pub(crate) grpc_status: u32,
}

/// A header map with whether the phase lets the module see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Map {
    pub(crate) headers: Headers,
    pub(crate) is_readable: bool,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The root context that it belongs to.
    pub(crate) root: u32,
    pub(crate) request: Map,
    pub(crate) response: Map,
    pub(crate) trailers: Map,
    pub(crate) request_body: Vec<u8>,
    pub(crate) response_body: Vec<u8>,
    pub(crate) is_grpc: bool,
    cluster: Option<String>,
    route: Option<String>,
    /// The response's status, once there is one.
    pub(crate) code: Option<u16>,
    pub(crate) details: Option<String>,
    pub(crate) flags: u64,
    pub(crate) filter_state: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A reply that is sent when the running callback has returned.
    pub(crate) reply: Option<LocalReply>,
    /// Whether a reply was asked for; a second one is ignored.
    pub(crate) has_replied: bool,
    pub(crate) calls: Calls,
}

impl Stream {
    pub(crate) fn new(root: u32, request: &Request) -> Self {
        Stream {
            root,
            request: Map { headers: request.headers.clone(), is_readable: true },
            response: Map::default(),
            trailers: Map::default(),
            request_body: request.body.clone(),
            response_body: Vec::new(),
            is_grpc: request.is_grpc(),
            cluster: request.cluster.clone(),
            route: request.route.clone(),
            code: None,
            details: None,
            flags: 0,
            filter_state: BTreeMap::new(),
            reply: None,
            has_replied: false,
            calls: Calls::default(),
        }
    }

    /// A property; the parts of its path are separated by zero bytes. `None` for one that this phase does not have.
    pub(crate) fn property(&self, path: &[u8]) -> Option<Vec<u8>> {
        let text = |value: &Option<String>| value.as_ref().map(|value| value.clone().into_bytes());
        match path {
            b"xds\0cluster_name" => text(&self.cluster),
            b"xds\0route_name" => text(&self.route),
            b"response\0code" => self.code.map(|code| u64::from(code).to_le_bytes().to_vec()),
            b"response\0code_details" => text(&self.details),
            b"response\0flags" => Some(self.flags.to_le_bytes().to_vec()),
            _ => self.filter_state.get(path).cloned(),
        }
    }

    /// Headers and body of a reply that Envoy makes. Source: Envoy, `Utility::prepareLocalReply`.
    pub(crate) fn prepare(&self, reply: &LocalReply) -> (Headers, Vec<u8>) {
        let mut headers = Headers::default();
        if self.is_grpc {
            headers.add(":status", "200");
            headers.add("content-type", "application/grpc");
            headers.add("grpc-status", reply.grpc_status.to_string());
            if !reply.body.is_empty() {
                headers.add("grpc-message", &reply.body);
            }
        } else {
            headers.add(":status", reply.status.to_string());
        }
        for (name, value) in reply.headers.iter() {
            headers.add(name, value);
        }
        if self.is_grpc {
            return (headers, Vec::new());
        }
        if !reply.body.is_empty() {
            headers.set("content-length", reply.body.len().to_string());
            if headers.get("content-type").is_none() {
                headers.add("content-type", "text/plain");
            }
        }
        (headers, reply.body.clone())
    }
}
