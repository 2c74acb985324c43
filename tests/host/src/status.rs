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
/// Another writer was faster.
pub const CAS_MISMATCH: u32 = 8;
/// Something else went wrong in the host.
pub const INTERNAL_FAILURE: u32 = 10;
/// This host does not do that.
pub const UNIMPLEMENTED: u32 = 12;

/// Every status that is not OK, and one that no version of the ABI knows.
pub const REFUSALS: [u32; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 99];
