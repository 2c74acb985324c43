//! A host in memory, for tests, the fuzzer and the benches: what it is told it keeps, and what it is asked stands there.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::collections::HashMap;
use std::rc::Rc;

use crate::base::time::Timestamp;
use crate::host::{Headers, Host, MetricKind, Refused, RootHost};
use crate::http::headers;

/// Names and values in their order.
pub type HeaderPairs = Vec<(String, Vec<u8>)>;

/// A host in memory. One stands for one stream at a time; [`MemoryHost::clear_stream`] makes it another's, and
/// [`MemoryHost::another`] gives that other one a host beside it.
#[derive(Debug, Default)]
pub struct MemoryHost {
    process: Rc<Process>,
    /// The tick that was asked for last.
    tick: Cell<Duration>,
    properties: RefCell<HashMap<String, Vec<u8>>>,
    headers: RefCell<HashMap<Headers, HeaderPairs>>,
    /// Whether another filter holds the names of the properties that are set here.
    refuses: Cell<bool>,
    /// The piece of the response's body that is in its callback.
    response_body: RefCell<Vec<u8>>,
    /// The piece of the request's body that is in its callback.
    request_body: RefCell<Vec<u8>>,
    contentions: Cell<u32>,
    /// How many wake-ups were asked for.
    wakes: Cell<u32>,
    /// How often the route was to be chosen anew.
    routed_anew: Cell<u32>,
}

/// What all streams and VMs of a host share.
#[derive(Debug, Default)]
struct Process {
    now: Cell<u64>,
    recently: Cell<u64>,
    /// By id.
    metrics: RefCell<Vec<(String, u64)>>,
    lines: RefCell<Vec<String>>,
}

impl MemoryHost {
    /// A host whose clock stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        let host = MemoryHost::default();
        host.set_now(now);
        host
    }

    /// The same host for another stream or VM: clock, metrics and log are common to both.
    pub fn another(&self) -> Self {
        MemoryHost { process: Rc::clone(&self.process), ..MemoryHost::default() }
    }

    /// Sets the clock.
    pub fn set_now(&self, now: Timestamp) {
        self.process.now.set(now.0);
    }

    /// How often it was asked for ticks; zero for never.
    pub fn tick(&self) -> Duration {
        self.tick.get()
    }

    /// How many wake-ups were asked for since this was last asked.
    pub fn take_wakes(&self) -> u32 {
        self.wakes.take()
    }

    /// How often the route was to be chosen anew since this was last asked.
    pub fn take_routed_anew(&self) -> u32 {
        self.routed_anew.take()
    }

    /// Forgets headers and properties: those of another stream follow.
    pub fn clear_stream(&self) {
        self.properties.borrow_mut().clear();
        self.headers.borrow_mut().clear();
    }

    /// Has a property, or has it no more.
    pub fn put_property(&self, path: &str, value: Option<&[u8]>) {
        match value {
            Some(value) => self.properties.borrow_mut().insert(path.to_owned(), value.to_owned()),
            None => self.properties.borrow_mut().remove(path),
        };
    }

    /// Refuses to set properties from now on, as where another filter holds their names.
    pub fn refuse_properties(&self) {
        self.refuses.set(true);
    }

    /// Has so many changes of shared data given up since it was last asked.
    pub fn put_contentions(&self, given_up: u32) {
        self.contentions.set(given_up);
    }

    /// Has these headers and no others.
    pub fn put_headers<N: AsRef<str>, V: AsRef<[u8]>>(&self, map: Headers, headers: &[(N, V)]) {
        let owned = headers.iter().map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned()));
        self.headers.borrow_mut().insert(map, owned.collect());
    }

    /// Takes the headers of a map, to be [put](MemoryHost::put_headers) back where they belong to another stream meanwhile.
    pub fn take_headers(&self, map: Headers) -> HeaderPairs {
        self.headers.borrow_mut().remove(&map).unwrap_or_default()
    }

    /// A piece of a request's body comes.
    pub fn put_request_body(&self, piece: &[u8]) {
        *self.request_body.borrow_mut() = piece.to_owned();
    }

    /// A piece of a response's body comes.
    pub fn put_response_body(&self, piece: &[u8]) {
        *self.response_body.borrow_mut() = piece.to_owned();
    }

    /// Takes the piece as it has become.
    pub fn take_response_body(&self) -> Vec<u8> {
        self.response_body.take()
    }

    /// The value of a header as text.
    pub fn text(&self, map: Headers, name: &str) -> Option<String> {
        self.header(map, name).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// The value of the metric whose name ends so; 0 if there is none.
    pub fn metric(&self, name: &str) -> u64 {
        self.process.metrics.borrow().iter().find(|(known, _)| known.ends_with(name)).map_or(0, |(_, value)| *value)
    }

    /// The sum of the metrics whose names end so.
    pub fn metrics_sum(&self, name: &str) -> u64 {
        let metrics = self.process.metrics.borrow();
        metrics.iter().filter(|(known, _)| known.ends_with(name)).map(|(_, value)| *value).sum()
    }

    /// What was written to the log since this was last asked.
    pub fn take_lines(&self) -> Vec<String> {
        self.process.lines.take()
    }
}

impl RootHost for MemoryHost {
    fn now(&self) -> Timestamp {
        let now = self.process.now.get();
        self.process.recently.set(now);
        Timestamp(now)
    }

    fn recently(&self) -> Timestamp {
        Timestamp(self.process.recently.get())
    }

    fn tick_every(&self, period: Duration) {
        self.tick.set(period);
    }

    fn wake_soon(&self) -> bool {
        self.wakes.set(self.wakes.get().saturating_add(1));
        true
    }

    fn define_metric(&self, _kind: MetricKind, name: &str) -> Option<u32> {
        let mut metrics = self.process.metrics.borrow_mut();
        // As in Envoy, one name is one metric in all VMs.
        let known = metrics.iter().position(|(known, _)| known == name);
        let id = known.unwrap_or_else(|| {
            metrics.push((name.to_owned(), 0));
            metrics.len().saturating_sub(1)
        });
        u32::try_from(id).ok()
    }

    fn record_metric(&self, id: u32, value: u64) {
        if let Some((_, stored)) = self.process.metrics.borrow_mut().get_mut(id as usize) {
            *stored = value;
        }
    }

    fn increment_metric(&self, id: u32, by: u32) {
        if let Some((_, stored)) = self.process.metrics.borrow_mut().get_mut(id as usize) {
            *stored = stored.saturating_add(by.into());
        }
    }

    fn log(&self, _alarming: bool, line: &str) {
        self.process.lines.borrow_mut().push(line.to_owned());
    }

    fn take_contentions(&self) -> u32 {
        self.contentions.take()
    }
}

impl Host for MemoryHost {
    fn property(&self, path: &str) -> Option<Vec<u8>> {
        self.properties.borrow().get(path).cloned()
    }

    /// It has one stream at a time.
    fn property_of(&self, _stream: u32, _own: u32, _path: &str) -> Option<Vec<u8>> {
        None
    }

    fn set_property(&self, path: &str, value: &[u8]) -> Result<(), Refused> {
        if self.refuses.get() {
            return Err(Refused);
        }
        self.put_property(path, Some(value));
        Ok(())
    }

    fn header(&self, map: Headers, name: &str) -> Option<Vec<u8>> {
        let headers = self.headers.borrow();
        headers.get(&map)?.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn headers(&self, map: Headers) -> Vec<u8> {
        let all = self.headers.borrow();
        headers::write(all.get(&map).map_or(&[][..], Vec::as_slice))
    }

    fn set_header(&self, map: Headers, name: &str, value: &str) {
        let mut headers = self.headers.borrow_mut();
        let headers = headers.entry(map).or_default();
        headers.retain(|(known, _)| known != name);
        headers.push((name.to_owned(), value.as_bytes().to_owned()));
    }

    fn add_header(&self, map: Headers, name: &str, value: &str) {
        self.headers.borrow_mut().entry(map).or_default().push((name.to_owned(), value.as_bytes().to_owned()));
    }

    fn remove_header(&self, map: Headers, name: &str) {
        if let Some(headers) = self.headers.borrow_mut().get_mut(&map) {
            headers.retain(|(known, _)| known != name);
        }
    }

    fn clear_route_cache(&self) {
        self.routed_anew.set(self.routed_anew.get().saturating_add(1));
    }

    fn request_body(&self, size: usize) -> Vec<u8> {
        let piece = self.request_body.borrow();
        piece.get(..size).unwrap_or(&piece).to_vec()
    }

    fn response_body(&self, size: usize) -> Vec<u8> {
        let piece = self.response_body.borrow();
        piece.get(..size).unwrap_or(&piece).to_vec()
    }

    fn set_response_body(&self, body: &[u8]) {
        *self.response_body.borrow_mut() = body.to_owned();
    }
}
