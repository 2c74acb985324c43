//! The proxy-wasm shell: turns Envoy's callbacks into calls of [`holdfast_policy`] and its verdicts into host calls.
//! It decides nothing.

mod attempt_plugin;
mod attempt_seat;
mod facts;
mod governing;
mod host;
mod request_seat;
mod root;
mod shared;
mod shared_exchange;
mod vm;

#[allow(missing_docs)] // The macro makes the public function `_initialize`.
mod entry {
    proxy_wasm::main! {{
        proxy_wasm::set_root_context(|_| Box::new(super::root::Root::default()));
    }}
}
