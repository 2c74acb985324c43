//! What Envoy knows of one client's request. The contexts of both seats see the same: an attempt has no flags, details or
//! status of its own, and `upstream.*` is that of the attempt that started last, until one answers for good.
//! Measured on Envoy 1.40.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::message::Request;
use crate::stream::SharedHeaders;

/// One request's facts, shared by its context and those of its attempts.
pub(crate) type SharedInfo = Rc<RefCell<StreamInfo>>;

/// The host of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) address: String,
    /// Absent without a connection, and until there is one.
    pub(crate) local_address: Option<String>,
    pub(crate) transport_failure_reason: Option<String>,
}

/// One request's facts.
#[derive(Debug, Default)]
pub(crate) struct StreamInfo {
    cluster: Option<String>,
    route: Option<String>,
    protocol: Option<String>,
    request: SharedHeaders,
    /// Whether the route is to be chosen anew.
    pub(crate) is_route_cleared: bool,
    /// The status of the response, once it goes to the client.
    pub(crate) code: Option<u16>,
    pub(crate) details: Option<String>,
    pub(crate) flags: u64,
    pub(crate) filter_state: BTreeMap<Vec<u8>, Vec<u8>>,
    /// How many attempts have started.
    pub(crate) attempts: u64,
    pub(crate) upstream: Option<Rc<RefCell<Upstream>>>,
    /// How long the host has taken, once its answer is complete; in nanoseconds.
    pub(crate) backend_latency: Option<u64>,
}

impl StreamInfo {
    /// The facts of a client's request, whose headers are these by now.
    pub(crate) fn new(request: &Request, headers: &SharedHeaders) -> SharedInfo {
        let (cluster, route) = (request.cluster.clone(), request.route.clone());
        let set = request.filter_state.iter();
        let filter_state = set.map(|(name, bytes)| (name.clone().into_bytes(), bytes.clone())).collect();
        let (protocol, request) = (Some(request.protocol.clone()), Rc::clone(headers));
        Rc::new(RefCell::new(StreamInfo { cluster, route, protocol, request, filter_state, ..StreamInfo::default() }))
    }

    /// The facts of a call that the module makes itself: it has no route and no filter state.
    pub(crate) fn of_call(cluster: &str) -> SharedInfo {
        Rc::new(RefCell::new(StreamInfo { cluster: Some(cluster.to_owned()), ..StreamInfo::default() }))
    }

    /// The name of its cluster, as the route has it by now.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// The filters are through with the request's headers: a route that was cleared lets the filter state choose the cluster. Until then
    /// the host tells of the cluster before. Source: Envoy's matcher as a cluster specifier, seen on 1.36.2 and 1.40.0.
    pub(crate) fn choose_route(&mut self) {
        if std::mem::take(&mut self.is_route_cleared)
            && let Some(chosen) = self.filter_state.get(&b"holdfast_route"[..])
        {
            self.cluster = Some(String::from_utf8_lossy(chosen).into_owned());
        }
    }

    /// The router chooses the cluster of a retry anew. Source: Envoy's `refresh_cluster_on_retry` with the same matcher, seen on 1.40.0:
    /// from the beginning of the attempt on the host tells of the new one.
    pub(crate) fn choose_again(&mut self) {
        if let Some(chosen) = self.filter_state.get(&b"holdfast_route"[..]) {
            self.cluster = Some(String::from_utf8_lossy(chosen).into_owned());
        }
    }

    /// A property; the parts of its path are separated by zero bytes. `None` for one that this phase does not have.
    pub(crate) fn property(&self, path: &[u8]) -> Option<Vec<u8>> {
        let text = |value: &Option<String>| value.as_ref().map(|value| value.clone().into_bytes());
        let upstream = || self.upstream.as_ref().map(|upstream| upstream.borrow());
        let header = |name: &[u8]| self.request.borrow().get(name).map(<[u8]>::to_vec);
        match path {
            b"request\0method" => header(b":method"),
            b"request\0protocol" => text(&self.protocol),
            b"response\0backend_latency" => self.backend_latency.map(|nanos| nanos.to_le_bytes().to_vec()),
            b"xds\0cluster_name" => text(&self.cluster),
            b"xds\0route_name" => text(&self.route),
            b"response\0code" => self.code.map(|code| u64::from(code).to_le_bytes().to_vec()),
            b"response\0code_details" => text(&self.details),
            b"response\0flags" => Some(self.flags.to_le_bytes().to_vec()),
            b"upstream\0address" => upstream().map(|upstream| upstream.address.clone().into_bytes()),
            b"upstream\0local_address" => upstream().and_then(|upstream| text(&upstream.local_address)),
            b"upstream\0transport_failure_reason" => {
                upstream().and_then(|upstream| text(&upstream.transport_failure_reason))
            }
            b"upstream\0request_attempt_count" => Some(self.attempts.to_le_bytes().to_vec()),
            _ => match path.strip_prefix(b"request\0headers\0") {
                Some(name) => header(name),
                None => self.filter_state.get(path).cloned(),
            },
        }
    }

    /// The filter state `wasm.holdfast`, which an access log shows.
    pub(crate) fn access_log(&self) -> Option<String> {
        self.filter_state.get(&b"holdfast"[..]).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}
