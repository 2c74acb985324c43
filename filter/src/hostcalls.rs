//! The host's functions, as the seats use them: through the SDK where its function serves, and declared here where it does not.
//!
//! The SDK's wrappers panic at a status that they do not expect, and a panic stops the worker for every stream. Those that are
//! used here expect every status that Envoy gives for them. The others are declared here, each with its reason: with those
//! any status is a value.

#![allow(unsafe_code)] // The host's ABI is raw pointers; see above.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr::{null, null_mut};
use std::time::{Duration, UNIX_EPOCH};

use holdfast_engine::base::fingerprint;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, MetricType, Status};

/// A status other than 0 = Ok, as the host gave it. Source: proxy-wasm ABI 0.2.1, `proxy_result_t`.
pub type Refusal = u32;

const OK: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    // The SDK's panic where the phase has no such headers, which Envoy answers with 2, and where a value is not UTF-8.
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

    fn proxy_add_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;

    fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
    // The SDK's panics at a name that is not UTF-8, and copies each header into two allocations.
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    // The SDK's takes an empty value for none, and wants a list of the path's parts each time.
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    // The SDK's panics where there is no stream, which Envoy answers with 1.
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, size: usize) -> u32;
    // The SDK's panics at a status that it does not expect.
    fn proxy_get_buffer_bytes(kind: u32, start: usize, size: usize, data: *mut *mut u8, returned: *mut usize) -> u32;
    // The SDK's panics where there is no such buffer, which Envoy answers with 2.
    fn proxy_set_buffer_bytes(kind: u32, start: usize, size: usize, value: *const u8, value_size: usize) -> u32;
    // The SDK's have no details, and a status for gRPC only with the HTTP status 200.
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
    // SAFETY: the host obtained `size` bytes at `data` from the SDK's allocator, which allocates just that many as an array of
    // bytes, and leaves them to the module.
    Ok(unsafe { Vec::from_raw_parts(data, size, size) })
}

/// Nanoseconds since the Unix epoch.
pub fn now() -> u64 {
    let since_epoch = hostcalls::get_current_time().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since_epoch.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Asks for `on_tick` every so often, in whole milliseconds; zero ends it.
pub fn tick_every(period: Duration) {
    // Envoy refuses it never.
    let _ = hostcalls::set_tick_period(period);
}

/// The plugin's configuration.
pub fn plugin_configuration() -> Vec<u8> {
    buffer(BufferType::PluginConfiguration)
}

/// The body of the answer to a call of ours.
pub fn call_response_body() -> Vec<u8> {
    buffer(BufferType::HttpCallResponseBody)
}

/// The VM's configuration.
pub fn vm_configuration() -> Vec<u8> {
    buffer(BufferType::VmConfiguration)
}

/// All bytes of a buffer; none where there is no such buffer.
fn buffer(kind: BufferType) -> Vec<u8> {
    hostcalls::get_buffer(kind, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// The first value of a header; `None` if there is none or the phase has no such headers.
pub fn header(map: MapType, name: &str) -> Option<Vec<u8>> {
    // SAFETY: the pointer and size are those of `name`, the others are `returned`'s locals.
    returned(|data, size| unsafe { proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size) }).ok()
}

/// Sets a header to this one value.
pub fn set_header(map: MapType, name: &str, value: &str) -> Result<(), Refusal> {
    // SAFETY: pointers and sizes are those of the arguments.
    checked(unsafe {
        proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

/// Adds another line of a header.
pub fn add_header(map: MapType, name: &str, value: &str) -> Result<(), Refusal> {
    // SAFETY: pointers and sizes are those of the arguments.
    checked(unsafe { proxy_add_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// Removes all values of a header.
pub fn remove_header(map: MapType, name: &str) -> Result<(), Refusal> {
    // SAFETY: the pointer and size are those of `name`.
    checked(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

thread_local! {
    /// This VM's queue. The time tells VMs apart; where two are equal, one of them is woken by its next tick.
    static QUEUE: String = format!("holdfast/wake/{:x}", now());
}

/// Has the root context of the current one called back as soon as what the host has received now is dealt with. Envoy posts the news
/// of a queue to the thread of who has registered it last, at once (proxy-wasm-cpp-host, `SharedQueue::enqueue`).
pub fn wake_soon() -> bool {
    let queue = QUEUE.with(|name| hostcalls::register_shared_queue(name));
    queue.and_then(|queue| hostcalls::enqueue_shared_queue(queue, None)).is_ok()
}

/// Has Envoy choose the route anew when it is next needed.
pub fn clear_route_cache() {
    // A host without the function leaves the route as it is, which is noticed where the answer comes from.
    let _ = hostcalls::call_foreign_function("clear_route_cache", None);
}

/// Takes the news out of the queue that has called back.
pub fn end_wake(queue: u32) {
    let _ = hostcalls::dequeue_shared_queue(queue);
}

/// Makes the calls that follow concern this context, which must be alive.
pub fn act_for(context: u32) -> Result<(), Status> {
    hostcalls::set_effective_context(context)
}

/// Lets the paused request of the context go on.
pub fn resume_request() -> Result<(), Status> {
    hostcalls::resume_http_request()
}

/// Lets the paused response of the context go on.
pub fn resume_response() -> Result<(), Status> {
    hostcalls::resume_http_response()
}

/// So many bytes of a piece of the request's body, in the body's callback. Empty where there is no such buffer.
pub fn request_body(size: usize) -> Vec<u8> {
    let kind = BufferType::HttpRequestBody as u32;
    // SAFETY: `returned` passes pointers to its locals.
    returned(|data, len| unsafe { proxy_get_buffer_bytes(kind, 0, size, data, len) }).unwrap_or_default()
}

/// So many bytes of what is there of the response's body, in the body's callback. Empty where there is no such buffer.
pub fn response_body(size: usize) -> Vec<u8> {
    let kind = BufferType::HttpResponseBody as u32;
    // SAFETY: `returned` passes pointers to its locals.
    returned(|data, len| unsafe { proxy_get_buffer_bytes(kind, 0, size, data, len) }).unwrap_or_default()
}

/// Puts bytes in the place of what is there of the response's body, in the body's callback.
pub fn set_response_body(body: &[u8]) -> Result<(), Refusal> {
    // SAFETY: the pointer and size are those of `body`.
    checked(unsafe {
        proxy_set_buffer_bytes(BufferType::HttpResponseBody as u32, 0, usize::MAX, body.as_ptr(), body.len())
    })
}

/// All headers of a map in one call, which costs less than two single ones, as [`holdfast_engine::http::headers`] reads them.
/// Empty if the phase has no such headers.
pub fn headers(map: MapType) -> Vec<u8> {
    // SAFETY: `returned` passes pointers to its locals.
    returned(|data, size| unsafe { proxy_get_header_map_pairs(map as u32, data, size) }).unwrap_or_default()
}

/// A property; its path's parts are separated by zero bytes. `None` if the phase does not have it.
pub fn property(path: &str) -> Option<Vec<u8>> {
    // SAFETY: the pointer and size are those of `path`, the others are `returned`'s locals.
    returned(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) }).ok()
}

/// Sets a property, which becomes the filter state `wasm.<path>`.
pub fn set_property(path: &str, value: &[u8]) -> Result<(), Refusal> {
    // SAFETY: pointers and sizes are those of the arguments.
    checked(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

/// The bytes of a key of shared data and their version.
pub fn shared_data(key: &str) -> Option<(Vec<u8>, u32)> {
    match hostcalls::get_shared_data(key) {
        Ok((None, None)) | Err(_) => None,
        Ok((bytes, version)) => Some((bytes.unwrap_or_default(), version.unwrap_or(0))),
    }
}

/// Writes a key of shared data; a `version` of 0 whatever is there, another only over that version. `Ok(false)` if
/// there is another.
pub fn set_shared_data(key: &str, value: &[u8], version: u32) -> Result<bool, Status> {
    match hostcalls::set_shared_data(key, Some(value), Some(version)) {
        Ok(()) => Ok(true),
        Err(Status::CasMismatch) => Ok(false),
        Err(status) => Err(status),
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
    let pairs = holdfast_engine::http::headers::write(headers);
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

thread_local! {
    /// The ids of metrics, by their names' hashes.
    static METRICS: RefCell<HashMap<u64, u32>> = RefCell::default();
}

/// Defines a metric and gives its id. The host gives another id each time and keeps all of them for as long as the VM lives (Envoy,
/// `Context::defineMetric`), so each name is defined once.
pub fn define_metric(kind: MetricType, name: &str) -> Result<u32, Status> {
    let hash = fingerprint::of_text(name.as_bytes());
    if let Some(known) = METRICS.with_borrow(|ids| ids.get(&hash).copied()) {
        return Ok(known);
    }
    let id = hostcalls::define_metric(kind, name)?;
    METRICS.with_borrow_mut(|ids| ids.insert(hash, id));
    Ok(id)
}

/// A metric's value.
pub fn metric(id: u32) -> Result<u64, Status> {
    hostcalls::get_metric(id)
}

/// Sets a gauge.
pub fn record_metric(id: u32, value: u64) -> Result<(), Status> {
    hostcalls::record_metric(id, value)
}

/// Adds to a counter or gauge; 0 is refused.
pub fn increment_metric(id: u32, by: i64) -> Result<(), Status> {
    hostcalls::increment_metric(id, by)
}
