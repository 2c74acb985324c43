//! What the host calls first.

#![allow(unsafe_code, missing_docs)] // The macro exports the entry point under its own name.

use proxy_wasm::types::LogLevel;

use crate::contexts;
use crate::root::Root;

proxy_wasm::main! {{
    // Also has a panic's message in the host's log; without it only the trap would be seen.
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context| {
        contexts::forget_roots();
        Box::new(Root::new(context))
    });
}}
