//! A filter that does nothing, without an SDK: it exports the callbacks that a filter of requests and responses cannot do
//! without, and no other. What it costs Envoy is the least that a WebAssembly filter costs.
//! Source of the signatures: proxy-wasm ABI 0.2.1.

#![allow(unsafe_code)] // Exported names are `unsafe(no_mangle)`, and the host asks for memory by pointer.

use std::alloc::{Layout, alloc};

/// `proxy_action_t`: go on.
const CONTINUE: u32 = 0;

/// Which version of the ABI this is.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

/// Memory in which the host places what it returns. Nothing here asks for any.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        // SAFETY: the layout's size is not zero.
        Ok(layout) if size > 0 => unsafe { alloc(layout) },
        _ => std::ptr::null_mut(),
    }
}

/// A context begins.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(_context: u32, _parent: u32) {}

/// A request's headers have come.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(_context: u32, _headers: usize, _ended: u32) -> u32 {
    CONTINUE
}

/// A response's headers have come.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(_context: u32, _headers: usize, _ended: u32) -> u32 {
    CONTINUE
}

/// A context is over.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_delete(_context: u32) {}
