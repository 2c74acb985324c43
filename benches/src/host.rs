//! A host whose answers are prepared: what the module asks costs no more than the copy that it gets.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::Rc;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::host::{Headers, Host, MetricKind, Refused, RootHost};
use holdfast_engine::http::{headers, markers};
use holdfast_engine::outlier::steering;
use holdfast_engine::seats::retry_context;

/// A header map, also as the host lays it out.
pub(crate) struct HeaderMap {
    pairs: Vec<(String, Vec<u8>)>,
    bytes: Vec<u8>,
}

impl HeaderMap {
    pub(crate) fn new(headers: &[(&str, &str)]) -> Rc<Self> {
        let pairs: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_owned())).collect();
        let bytes = headers::write(&pairs);
        Rc::new(HeaderMap { pairs, bytes })
    }
}

/// What the module has done to the host, for the cases to see that they measure what they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Retry contexts that were written.
    pub contexts: u32,
    /// Requests whose router was told to heed the attempt seat's mark.
    pub seats: u32,
    /// Requests whose hosts were named.
    pub steered: u32,
    /// Retries that were asked for.
    pub asked: u32,
    /// Hosts whose address was asked for.
    pub addresses: u32,
    /// Lines of the log.
    pub lines: u32,
}

/// The host.
pub(crate) struct BenchHost {
    now: Cell<u64>,
    recently: Cell<u64>,
    cluster: RefCell<Rc<str>>,
    address: RefCell<Rc<str>>,
    attempt: Cell<u64>,
    request: RefCell<Rc<HeaderMap>>,
    response: RefCell<Rc<HeaderMap>>,
    context: RefCell<Vec<u8>>,
    line: RefCell<Vec<u8>>,
    metrics: Cell<u32>,
    seen: Cell<Seen>,
}

impl BenchHost {
    pub(crate) fn new(now: Timestamp) -> Self {
        BenchHost {
            now: Cell::new(now.0),
            recently: Cell::new(now.0),
            cluster: RefCell::new("".into()),
            address: RefCell::new("10.0.0.0:8080".into()),
            attempt: Cell::new(1),
            request: RefCell::new(HeaderMap::new(&[])),
            response: RefCell::new(HeaderMap::new(&[])),
            context: RefCell::default(),
            line: RefCell::default(),
            metrics: Cell::new(0),
            seen: Cell::default(),
        }
    }

    pub(crate) fn set_now(&self, now: Timestamp) {
        self.now.set(now.0);
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.get()
    }

    fn see(&self, what: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.get();
        what(&mut seen);
        self.seen.set(seen);
    }

    /// A request of which nothing has been said yet.
    pub(crate) fn begin(&self, cluster: &Rc<str>, headers: &Rc<HeaderMap>) {
        self.cluster.replace(Rc::clone(cluster));
        self.request.replace(Rc::clone(headers));
        self.context.borrow_mut().clear();
    }

    /// The router's next attempt goes to this host.
    pub(crate) fn attempt(&self, number: u64, address: &Rc<str>) {
        self.attempt.set(number);
        self.address.replace(Rc::clone(address));
    }

    pub(crate) fn respond(&self, headers: &Rc<HeaderMap>) {
        self.response.replace(Rc::clone(headers));
    }

    pub(crate) fn context(&self) -> Vec<u8> {
        self.context.borrow().clone()
    }

    pub(crate) fn set_context(&self, context: Vec<u8>) {
        self.context.replace(context);
    }

    fn map(&self, map: Headers) -> Option<Rc<HeaderMap>> {
        match map {
            Headers::Request => Some(Rc::clone(&self.request.borrow())),
            Headers::Response => Some(Rc::clone(&self.response.borrow())),
            Headers::ResponseTrailers => None,
        }
    }
}

impl RootHost for BenchHost {
    fn now(&self) -> Timestamp {
        self.recently.set(self.now.get());
        Timestamp(self.now.get())
    }

    fn recently(&self) -> Timestamp {
        Timestamp(self.recently.get())
    }

    fn tick_every(&self, _period: Duration) {}

    fn wake_soon(&self) -> bool {
        true
    }

    fn define_metric(&self, _kind: MetricKind, _name: &str) -> Option<u32> {
        self.metrics.set(self.metrics.get().wrapping_add(1));
        Some(self.metrics.get())
    }

    fn record_metric(&self, _id: u32, _value: u64) {}

    fn increment_metric(&self, _id: u32, _by: u32) {}

    fn log(&self, _alarming: bool, _line: &str) {
        self.see(|seen| seen.lines += 1);
    }

    fn take_contentions(&self) -> u32 {
        0
    }
}

impl Host for BenchHost {
    fn property(&self, path: &str) -> Option<Vec<u8>> {
        match path {
            retry_context::PROPERTY => Some(self.context.borrow().clone()).filter(|context| !context.is_empty()),
            "xds\0cluster_name" => Some(self.cluster.borrow().as_bytes().to_vec()),
            "upstream\0address" => {
                self.see(|seen| seen.addresses += 1);
                Some(self.address.borrow().as_bytes().to_vec())
            }
            "upstream\0local_address" => Some(b"10.0.0.9:5000".to_vec()),
            "upstream\0request_attempt_count" => Some(self.attempt.get().to_le_bytes().to_vec()),
            "response\0flags" => Some(vec![0; 8]),
            "response\0code_details" => Some(b"via_upstream".to_vec()),
            _ => None,
        }
    }

    fn property_of(&self, _stream: u32, _own: u32, path: &str) -> Option<Vec<u8>> {
        self.property(path)
    }

    fn set_property(&self, path: &str, value: &[u8]) -> Result<(), Refused> {
        let kept = if path == retry_context::PROPERTY {
            self.see(|seen| seen.contexts += 1);
            &self.context
        } else {
            &self.line
        };
        let mut kept = kept.borrow_mut();
        kept.clear();
        kept.extend_from_slice(value);
        Ok(())
    }

    fn header(&self, map: Headers, name: &str) -> Option<Vec<u8>> {
        self.map(map)?.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn headers(&self, map: Headers) -> Vec<u8> {
        self.map(map).map_or_else(Vec::new, |map| map.bytes.clone())
    }

    /// Only notes it: nothing that is measured reads a header that was set.
    fn set_header(&self, _map: Headers, name: &str, _value: &str) {
        match name {
            markers::RETRY_HEADER => self.see(|seen| seen.asked += 1),
            steering::HEADER => self.see(|seen| seen.steered += 1),
            "x-envoy-retriable-header-names" => self.see(|seen| seen.seats += 1),
            _ => {}
        }
    }

    fn add_header(&self, _map: Headers, _name: &str, _value: &str) {}

    fn remove_header(&self, _map: Headers, _name: &str) {}

    fn clear_route_cache(&self) {}

    fn request_body(&self, size: usize) -> Vec<u8> {
        vec![b'x'; size]
    }

    fn response_body(&self, size: usize) -> Vec<u8> {
        vec![b'x'; size]
    }

    fn set_response_body(&self, _body: &[u8]) {}
}
