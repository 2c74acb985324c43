//! The host's functions, with bytes in and out and every status handled.
//!
//! The SDK's wrappers panic on a status that they do not expect (`set_property` on a name another filter holds, shared data
//! that the host refuses), and a panic stops the worker for every stream. So the calls are declared here, and a refusal is a
//! value. With `abi.rs` these are the only files with `unsafe`: the host's ABI is pointers.

#![allow(unsafe_code)] // The host's ABI is raw pointers; see above.

use std::cell::Cell;
use std::ptr::{null, null_mut};
use std::time::Duration;

/// A status other than 0 = Ok, as the host gave it. Source: proxy-wasm ABI 0.2.1, `proxy_result_t`.
pub type Refusal = u32;

const OK: u32 = 0;
const CAS_MISMATCH: u32 = 8;

/// Which headers. Source: proxy-wasm ABI 0.2.1, `proxy_map_type_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Headers {
    /// The request's headers.
    Request = 0,
    /// The response's headers.
    Response = 2,
    /// The response's trailers.
    ResponseTrailers = 3,
    /// The headers of the answer to a call of ours.
    CallResponse = 6,
}

/// Log levels. Source: proxy-wasm ABI 0.2.1, `proxy_log_level_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something to know.
    Info = 2,
    /// Something to look at.
    Warn = 3,
    /// Something is wrong.
    Error = 4,
}

/// Kinds of metrics. Source: proxy-wasm ABI 0.2.1, `proxy_metric_type_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MetricKind {
    /// Only rises.
    Counter = 0,
    /// Any value.
    Gauge = 1,
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, length: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, size: usize) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, size: usize, cas: u32) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_http_call(
        upstream: *const u8,
        upstream_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_get_metric(id: u32, value: *mut u64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
}

fn checked(status: u32) -> Result<(), Refusal> {
    if status == OK { Ok(()) } else { Err(status) }
}

/// Runs a call that returns bytes, which the host has allocated through the module's own allocator.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, Refusal> {
    let (mut data, mut size) = (null_mut::<u8>(), 0);
    checked(call(&mut data, &mut size))?;
    if data.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: the host obtained `size` bytes at `data` from `proxy_on_memory_allocate`, which allocates just that many as an array
    // of bytes, and leaves them to the module.
    Ok(unsafe { Vec::from_raw_parts(data, size, size) })
}

/// Writes a line to the host's log.
pub fn log(level: Level, message: &str) {
    // A line that the host refuses is lost; there is nowhere else to say so.
    // SAFETY: the pointer and size are those of `message`.
    let _ = unsafe { proxy_log(level as u32, message.as_ptr(), message.len()) };
}

thread_local! {
    static LATELY: Cell<u64> = const { Cell::new(0) };
    static CONTENTIONS: Cell<u32> = const { Cell::new(0) };
}

/// Notes that a change of shared data was given up.
pub fn note_contention() {
    CONTENTIONS.set(CONTENTIONS.get().saturating_add(1));
}

/// How many were given up since this was last asked. No call.
pub fn take_contentions() -> u32 {
    CONTENTIONS.take()
}

/// Nanoseconds since the Unix epoch; 0 if the host has no clock.
pub fn now() -> u64 {
    let mut time = 0;
    // SAFETY: the pointer is to a local.
    let now = match checked(unsafe { proxy_get_current_time_nanoseconds(&mut time) }) {
        Ok(()) => time,
        Err(_) => 0,
    };
    LATELY.set(now);
    now
}

/// What [`now`] said last: with the ticks a second ago at most, where the worker is not held up. No call.
pub fn lately() -> u64 {
    LATELY.get()
}

/// Asks for `on_tick` every so many milliseconds.
pub fn tick_every(millis: u32) -> Result<(), Refusal> {
    // SAFETY: no pointers.
    checked(unsafe { proxy_set_tick_period_milliseconds(millis) })
}

/// The plugin's configuration.
pub fn plugin_configuration() -> Result<Vec<u8>, Refusal> {
    buffer(7)
}

/// The body of the answer to a call of ours.
pub fn call_response_body() -> Result<Vec<u8>, Refusal> {
    buffer(4)
}

/// The VM's configuration.
pub fn vm_configuration() -> Result<Vec<u8>, Refusal> {
    buffer(6)
}

/// Source of the numbers: proxy-wasm ABI 0.2.1, `proxy_buffer_type_t`.
fn buffer(kind: u32) -> Result<Vec<u8>, Refusal> {
    // SAFETY: `returned` passes pointers to its locals.
    returned(|data, size| unsafe { proxy_get_buffer_bytes(kind, 0, usize::MAX, data, size) })
}

/// The first value of a header; `None` if there is none or the phase has no such headers.
pub fn header(map: Headers, name: &str) -> Option<Vec<u8>> {
    // SAFETY: the pointer and size are those of `name`, the others are `returned`'s locals.
    returned(|data, size| unsafe { proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size) }).ok()
}

/// Sets a header to this one value.
pub fn set_header(map: Headers, name: &str, value: &str) -> Result<(), Refusal> {
    // SAFETY: pointers and sizes are those of the arguments.
    checked(unsafe {
        proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

/// Removes all values of a header.
pub fn remove_header(map: Headers, name: &str) -> Result<(), Refusal> {
    // SAFETY: the pointer and size are those of `name`.
    checked(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// Makes the calls that follow concern this context, which must be alive.
pub fn act_for(context: u32) -> Result<(), Refusal> {
    // SAFETY: no pointers.
    checked(unsafe { proxy_set_effective_context(context) })
}

/// Lets the paused request of the context go on.
pub fn resume_request() -> Result<(), Refusal> {
    /// Source: proxy-wasm ABI 0.2.1, `proxy_stream_type_t`.
    const REQUEST: u32 = 0;
    // SAFETY: no pointers.
    checked(unsafe { proxy_continue_stream(REQUEST) })
}

/// All headers of a map in one call, which costs less than two single ones, as [`holdfast_policy::pairs`] reads them.
/// Empty if the phase has no such headers.
pub fn headers(map: Headers) -> Vec<u8> {
    // SAFETY: `returned` passes pointers to its locals.
    returned(|data, size| unsafe { proxy_get_header_map_pairs(map as u32, data, size) }).unwrap_or_default()
}

/// A property; its path's parts are separated by zero bytes. `None` if the phase does not have it.
pub fn property(path: &str) -> Option<Vec<u8>> {
    // SAFETY: the pointer and size are those of `path`, the others are `returned`'s locals.
    returned(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) }).ok()
}

/// A property that is a number of 64 bits.
pub fn property_number(path: &str) -> Option<u64> {
    property(path)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Sets a property, which becomes the filter state `wasm.<path>`.
pub fn set_property(path: &str, value: &[u8]) -> Result<(), Refusal> {
    // SAFETY: pointers and sizes are those of the arguments.
    checked(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

/// The bytes of a key of shared data and their version.
pub fn shared_data(key: &str) -> Option<(Vec<u8>, u32)> {
    let mut version = 0;
    // SAFETY: the pointer and size are those of `key`, the others are locals.
    let bytes =
        returned(|data, size| unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &mut version) });
    bytes.ok().map(|bytes| (bytes, version))
}

/// Writes a key of shared data; a `version` of 0 whatever is there, another only over that version. `Ok(false)` if
/// there is another.
pub fn set_shared_data(key: &str, value: &[u8], version: u32) -> Result<bool, Refusal> {
    // SAFETY: pointers and sizes are those of the arguments.
    match unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version) } {
        OK => Ok(true),
        CAS_MISMATCH => Ok(false),
        refusal => Err(refusal),
    }
}

/// Replies in place of the host. `grpc_status` only for gRPC clients.
pub fn reply(
    status: u16,
    details: &str,
    headers: &[(String, String)],
    body: &[u8],
    grpc_status: Option<u8>,
) -> Result<(), Refusal> {
    let pairs = holdfast_policy::pairs::write(headers);
    let (body_at, details_at) = (if body.is_empty() { null() } else { body.as_ptr() }, details.as_ptr());
    // SAFETY: pointers and sizes are those of the arguments and of `pairs`.
    checked(unsafe {
        proxy_send_local_response(
            status.into(),
            details_at,
            details.len(),
            body_at,
            body.len(),
            pairs.as_ptr(),
            pairs.len(),
            grpc_status.map_or(-1, i32::from),
        )
    })
}

/// Sends a request without a body to a cluster and gives its token, by which the answer comes to the root context that this is
/// called in. Refused where there is no such cluster, no host in it, or one of the host's limits is reached.
pub fn call(upstream: &str, headers: &[(String, String)], timeout: Duration) -> Result<u32, Refusal> {
    let (headers, none) = (holdfast_policy::pairs::write(headers), holdfast_policy::pairs::write(&[]));
    let timeout = u32::try_from(holdfast_policy::time::millis(timeout)).unwrap_or(u32::MAX);
    let mut token = 0;
    // SAFETY: pointers and sizes are those of the arguments and of locals.
    checked(unsafe {
        proxy_http_call(
            upstream.as_ptr(),
            upstream.len(),
            headers.as_ptr(),
            headers.len(),
            null(),
            0,
            none.as_ptr(),
            none.len(),
            timeout,
            &mut token,
        )
    })?;
    Ok(token)
}

/// Defines a metric and gives its id. To be done once for each name.
pub fn define_metric(kind: MetricKind, name: &str) -> Result<u32, Refusal> {
    let mut id = 0;
    // SAFETY: the pointer and size are those of `name`, the other is a local.
    checked(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id) })?;
    Ok(id)
}

/// A metric's value.
pub fn metric(id: u32) -> Result<u64, Refusal> {
    let mut value = 0;
    // SAFETY: the pointer is to a local.
    checked(unsafe { proxy_get_metric(id, &mut value) })?;
    Ok(value)
}

/// Sets a gauge.
pub fn record_metric(id: u32, value: u64) -> Result<(), Refusal> {
    // SAFETY: no pointers.
    checked(unsafe { proxy_record_metric(id, value) })
}

/// Adds to a counter or gauge; 0 is refused.
pub fn increment_metric(id: u32, by: i64) -> Result<(), Refusal> {
    // SAFETY: no pointers.
    checked(unsafe { proxy_increment_metric(id, by) })
}
