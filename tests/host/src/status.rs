//! Statuses of host calls. Source: proxy-wasm ABI 0.2.1, `proxy_result_t`.

/// Done.
pub const OK: u32 = 0;
/// There is no such thing.
pub const NOT_FOUND: u32 = 1;
/// An argument is out of range, or the phase does not have it.
pub const BAD_ARGUMENT: u32 = 2;
/// What was asked for cannot be put into bytes.
pub const SERIALIZATION_FAILURE: u32 = 3;
/// A pointer or size leaves the module's memory.
pub const INVALID_MEMORY_ACCESS: u32 = 6;
/// There is nothing in it.
pub const EMPTY: u32 = 7;
/// Another writer was faster.
pub const CAS_MISMATCH: u32 = 8;
/// Something else went wrong in the host.
pub const INTERNAL_FAILURE: u32 = 10;
/// This host does not do that.
pub const UNIMPLEMENTED: u32 = 12;

/// Every status that is not OK, and one that no version of the ABI knows.
const REFUSALS: [u32; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 99];

/// The statuses by which a call, named without `proxy_`, may be refused.
///
/// The SDK makes some calls, and panics at a status that Envoy does not give for them: for those it is what Envoy gives.
/// Source: Envoy, `context.cc`, and proxy-wasm-cpp-host, `exports.cc` and `shared_data.cc`. The module's own take any.
pub fn refusals(call: &str) -> &'static [u32] {
    match call {
        "define_metric"
        | "get_current_time_nanoseconds"
        | "log"
        | "set_tick_period_milliseconds"
        | "register_shared_queue"
        | "continue_stream" => &[],
        "enqueue_shared_queue" | "call_foreign_function" => &[NOT_FOUND],
        "dequeue_shared_queue" => &[NOT_FOUND, EMPTY],
        "get_buffer_bytes" | "get_shared_data" | "record_metric" => &[NOT_FOUND],
        "get_metric" | "increment_metric" => &[NOT_FOUND, BAD_ARGUMENT],
        "http_call" => &[BAD_ARGUMENT, INTERNAL_FAILURE],
        "set_effective_context" => &[BAD_ARGUMENT],
        "set_shared_data" => &[CAS_MISMATCH],
        _ => &REFUSALS,
    }
}
