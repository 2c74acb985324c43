//! The module's exports: the callbacks that the host calls, and which context each one is for.
//!
//! They are our own and not the SDK's, whose table of calls under way has one entry per token: the host numbers the tokens of each
//! root context from 1 on, an update leaves two root contexts in one VM for as long as connections drain, and the SDK panics
//! at the second token of the same number. They also do nothing that nobody needs for each callback.
//! Source of the signatures: proxy-wasm ABI 0.2.1.

#![allow(unsafe_code)] // Exported names are `unsafe(no_mangle)`, and the host asks for memory by pointer.

use std::alloc::{Layout, alloc};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::attempt_seat::AttemptSeat;
use crate::host;
use crate::request_seat::RequestSeat;
use crate::root::Root;

/// What to do after a callback. Source: proxy-wasm ABI 0.2.1, `proxy_action_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// Go on.
    Continue = 0,
    /// Wait until the module says so.
    Pause = 1,
}

/// A stream's context.
pub enum Stream {
    /// A request's.
    Request(RequestSeat),
    /// A try's.
    Attempt(AttemptSeat),
}

/// Spreads context numbers, which the host gives one after the other.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32((*byte).into()));
    }
    fn write_u32(&mut self, number: u32) {
        // Source: Knuth, TAOCP 3, 6.4: multiplication by 2^64 / the golden ratio.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

#[derive(Default)]
struct Contexts {
    roots: RefCell<Vec<(u32, Root)>>,
    streams: RefCell<HashMap<u32, Box<Stream>, BuildHasherDefault<NumberHasher>>>,
}

thread_local! {
    static CONTEXTS: Contexts = Contexts::default();
}

/// Does something with a root context. The host calls back only when the module has returned, so none is in use.
fn with_root<T>(context: u32, otherwise: T, act: impl FnOnce(&mut Root) -> T) -> T {
    CONTEXTS.with(|contexts| {
        let Ok(mut roots) = contexts.roots.try_borrow_mut() else { return otherwise };
        match roots.iter_mut().find(|(id, _)| *id == context) {
            Some((_, root)) => act(root),
            None => otherwise,
        }
    })
}

/// Does something with a stream's context.
fn with_stream<T>(context: u32, otherwise: T, act: impl FnOnce(&mut Stream) -> T) -> T {
    CONTEXTS.with(|contexts| {
        let Ok(mut streams) = contexts.streams.try_borrow_mut() else { return otherwise };
        match streams.get_mut(&context) {
            Some(stream) => act(stream),
            None => otherwise,
        }
    })
}

/// Which version of the ABI this is.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

/// Memory in which the host places what it returns. It is given back as a `Vec<u8>` of just that capacity.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        // SAFETY: the layout's size is not zero.
        Ok(layout) if size > 0 => unsafe { alloc(layout) },
        _ => std::ptr::null_mut(),
    }
}

/// A context begins: a root context, or with a `parent` a stream's.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    CONTEXTS.with(|contexts| {
        let Ok(mut roots) = contexts.roots.try_borrow_mut() else { return };
        if parent == 0 {
            roots.push((context, Root::default()));
            return;
        }
        let Some((_, root)) = roots.iter().find(|(id, _)| *id == parent) else { return };
        if let Ok(mut streams) = contexts.streams.try_borrow_mut() {
            streams.insert(context, Box::new(root.stream(context)));
        }
    });
}

/// A context is over.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_delete(context: u32) {
    // What ends with a context calls the host, so nothing may be borrowed while it is dropped.
    let stream = CONTEXTS.with(|contexts| contexts.streams.try_borrow_mut().ok()?.remove(&context));
    if stream.is_none() {
        let root = CONTEXTS.with(|contexts| {
            let mut roots = contexts.roots.try_borrow_mut().ok()?;
            let at = roots.iter().position(|(id, _)| *id == context)?;
            Some(roots.swap_remove(at))
        });
        if root.is_some() {
            // Envoy's timer of a root context would go on for as long as the VM lives (Envoy, `Wasm::tickHandler`).
            let _ = host::tick_every(0);
        }
        drop(root);
    }
}

/// The plugin is configured; `false` refuses the configuration.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_configure(context: u32, _size: usize) -> u32 {
    with_root(context, false, Root::on_configure).into()
}

/// The time that was asked for has passed.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_tick(context: u32) {
    with_root(context, (), Root::on_tick);
}

/// A call of ours was answered, or failed: then it has no `headers`.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_http_call_response(
    context: u32,
    token: u32,
    headers: usize,
    _body: usize,
    _trailers: usize,
) {
    with_root(context, (), |root| root.on_http_call_response(token, headers));
}

/// A request's headers have come.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(context: u32, _headers: usize, ended: u32) -> Action {
    let ended = ended != 0;
    with_stream(context, Action::Continue, |stream| match stream {
        Stream::Request(seat) => seat.on_request_headers(ended),
        Stream::Attempt(seat) => seat.on_request_headers(),
    })
}

/// A response's headers have come.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(context: u32, _headers: usize, ended: u32) -> Action {
    let ended = ended != 0;
    with_stream(context, Action::Continue, |stream| match stream {
        Stream::Request(seat) => seat.on_response_headers(ended),
        Stream::Attempt(seat) => seat.on_response_headers(ended),
    })
}

/// A response's trailers have come.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_trailers(context: u32, _trailers: usize) -> Action {
    with_stream(context, (), |stream| match stream {
        Stream::Request(seat) => seat.on_response_trailers(),
        Stream::Attempt(seat) => seat.on_response_trailers(),
    });
    Action::Continue
}

/// A request is over.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(context: u32) {
    with_stream(context, (), |stream| {
        if let Stream::Request(seat) = stream {
            seat.on_log();
        }
    });
}
