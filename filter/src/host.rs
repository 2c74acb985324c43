//! The host as the engine asks for it, by host calls.

use std::cell::Cell;
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::host::{Headers, Host, MetricKind, Refused, RootHost};
use proxy_wasm::types::{MapType, MetricType};

use crate::hostcalls;

thread_local! {
    static RECENTLY: Cell<Timestamp> = const { Cell::new(Timestamp::ZERO) };
    static CONTENTIONS: Cell<u32> = const { Cell::new(0) };
}

/// Notes that a change of shared data was given up.
pub fn note_contention() {
    CONTENTIONS.set(CONTENTIONS.get().saturating_add(1));
}

/// The host that runs this module.
#[derive(Debug, Clone, Copy)]
pub struct WasmHost;

impl RootHost for WasmHost {
    fn now(&self) -> Timestamp {
        let now = Timestamp(hostcalls::now());
        RECENTLY.set(now);
        now
    }

    fn recently(&self) -> Timestamp {
        RECENTLY.get()
    }

    fn tick_every(&self, period: Duration) {
        hostcalls::tick_every(period);
    }

    fn wake_soon(&self) -> bool {
        hostcalls::wake_soon()
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<u32> {
        let kind = match kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
        };
        hostcalls::define_metric(kind, name).ok()
    }

    fn record_metric(&self, id: u32, value: u64) {
        let _ = hostcalls::record_metric(id, value);
    }

    fn increment_metric(&self, id: u32, by: u32) {
        let _ = hostcalls::increment_metric(id, by.into());
    }

    fn log(&self, alarming: bool, line: &str) {
        log::log!(if alarming { log::Level::Warn } else { log::Level::Info }, "{line}");
    }

    fn take_contentions(&self) -> u32 {
        CONTENTIONS.take()
    }
}

impl Host for WasmHost {
    fn property(&self, path: &str) -> Option<Vec<u8>> {
        hostcalls::property(path)
    }

    fn property_of(&self, stream: u32, own: u32, path: &str) -> Option<Vec<u8>> {
        hostcalls::act_for(stream).ok()?;
        let value = hostcalls::property(path);
        // Who asks is there.
        let _ = hostcalls::act_for(own);
        value
    }

    fn set_property(&self, path: &str, value: &[u8]) -> Result<(), Refused> {
        hostcalls::set_property(path, value).map_err(|_| Refused)
    }

    fn header(&self, map: Headers, name: &str) -> Option<Vec<u8>> {
        hostcalls::header(number(map), name)
    }

    fn headers(&self, map: Headers) -> Vec<u8> {
        hostcalls::headers(number(map))
    }

    fn set_header(&self, map: Headers, name: &str, value: &str) {
        let _ = hostcalls::set_header(number(map), name, value);
    }

    fn add_header(&self, map: Headers, name: &str, value: &str) {
        let _ = hostcalls::add_header(number(map), name, value);
    }

    fn remove_header(&self, map: Headers, name: &str) {
        let _ = hostcalls::remove_header(number(map), name);
    }

    fn clear_route_cache(&self) {
        hostcalls::clear_route_cache();
    }

    fn request_body(&self, size: usize) -> Vec<u8> {
        hostcalls::request_body(size)
    }

    fn response_body(&self, size: usize) -> Vec<u8> {
        hostcalls::response_body(size)
    }

    fn set_response_body(&self, body: &[u8]) {
        let _ = hostcalls::set_response_body(body);
    }
}

fn number(map: Headers) -> MapType {
    match map {
        Headers::Request => MapType::HttpRequestHeaders,
        Headers::Response => MapType::HttpResponseHeaders,
        Headers::ResponseTrailers => MapType::HttpResponseTrailers,
    }
}
