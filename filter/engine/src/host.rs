//! The host, as far as Holdfast's decisions need it. The wasm shell makes host calls of it; tests, the fuzzer and the benches answer
//! by themselves.

use crate::base::time::Timestamp;

/// Which headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Headers {
    /// The request's headers.
    Request,
    /// The response's headers.
    Response,
    /// The response's trailers.
    ResponseTrailers,
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// It only rises.
    Counter,
    /// It is set.
    Gauge,
}

/// The host did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// What every callback may ask of the host.
pub trait RootHost {
    /// The time.
    fn now(&self) -> Timestamp;

    /// What [`RootHost::now`] said last: a second ago at most, where the worker is not held up. Costs nothing.
    fn recently(&self) -> Timestamp;

    /// Asks for a tick every so often, in whole milliseconds; zero ends it.
    fn tick_every(&self, period: core::time::Duration);

    /// Asks for one wake-up as soon as what the host has received now is dealt with, which is sooner than any tick. Whether it will
    /// come, if nothing goes wrong.
    fn wake_soon(&self) -> bool;

    /// Defines a metric and gives its id; `None` where the host refuses it. To be done once for each name.
    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32>;

    /// Sets a gauge. Recording is never in the way of a request: what the host refuses is not recorded.
    fn record_metric(&self, id: u32, value: u64);

    /// Adds to a counter; 0 is refused.
    fn increment_metric(&self, id: u32, by: u32);

    /// Writes a line to the log; an alarming one as a warning.
    fn log(&self, alarming: bool, line: &str);

    /// How many changes of shared data were given up since this was last asked. Costs nothing.
    fn take_contentions(&self) -> u32;
}

/// What a callback of a request or an attempt may ask of the host besides.
pub trait Host: RootHost {
    /// A property; its path's parts are separated by zero bytes. `None` if the phase does not have it.
    fn property(&self, path: &str) -> Option<Vec<u8>>;

    /// The same of another stream of this plugin; what is asked later concerns `own` again, the one that asks now. `None` also if that
    /// stream is gone.
    fn property_of(&self, stream: u32, own: u32, path: &str) -> Option<Vec<u8>>;

    /// Sets a property, which becomes the filter state `wasm.<path>`.
    ///
    /// # Errors
    /// Another filter holds the name.
    fn set_property(&self, path: &str, value: &[u8]) -> Result<(), Refused>;

    /// The first value of a header; `None` if there is none or the phase has no such headers.
    fn header(&self, map: Headers, name: &str) -> Option<Vec<u8>>;

    /// All headers in one call, which costs less than two single ones, as [`crate::http::headers`] reads them. Empty if the phase
    /// has no such headers.
    fn headers(&self, map: Headers) -> Vec<u8>;

    /// Sets a header to this one value. Where the host refuses, the request goes on without it.
    fn set_header(&self, map: Headers, name: &str, value: &str);

    /// Adds another line of a header. Where the host refuses, the request goes on without it.
    fn add_header(&self, map: Headers, name: &str, value: &str);

    /// Removes all values of a header, if the host does.
    fn remove_header(&self, map: Headers, name: &str);

    /// Has the route chosen anew when it is next needed, before the request goes on.
    fn clear_route_cache(&self);

    /// A piece of the request's body, of `size` bytes, in the body's callback. Empty if there is no such body.
    fn request_body(&self, size: usize) -> Vec<u8>;

    /// What has come of the response's body, `size` bytes, in the body's callback. Empty if there is no such body.
    fn response_body(&self, size: usize) -> Vec<u8>;

    /// Puts these bytes in the place of what has come of the response's body and has not gone on, in the body's callback.
    fn set_response_body(&self, body: &[u8]);
}

/// A property that is a number of 64 bits.
pub fn property_number(host: &dyn Host, path: &str) -> Option<u64> {
    host.property(path)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Whether Envoy itself has ended a stream whose response flags say that the client has left: its listener or filter chain went away
/// (seen on Envoy 1.36 and 1.40).
pub fn is_disconnected_locally(host: &dyn Host) -> bool {
    host.property("response\0code_details").is_some_and(|details| details.starts_with(b"downstream_local_disconnect"))
}

/// Envoy's response flags; none where it has none.
pub fn response_flags(host: &dyn Host) -> u64 {
    property_number(host, "response\0flags").unwrap_or(0)
}
