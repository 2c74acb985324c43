//! The plugin: reads its configuration and makes a context for each request.

use std::rc::Rc;

use holdfast_policy::config;
use holdfast_policy::index::Index;
use holdfast_policy::seat::Seat;
use holdfast_policy::store::{Expected, Store};
use holdfast_policy::time::Timestamp;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::governing::Governing;
use crate::host::{self, Level};
use crate::request_seat::RequestSeat;
use crate::shared::SharedData;
use crate::vm::Vm;

/// How often claims and counts are renewed, in milliseconds.
const TICK_MILLIS: u32 = 1000;

/// The configured plugin, as the requests see it.
pub struct Plugin {
    /// In the document's order.
    pub policies: Vec<Rc<Governing>>,
    /// Finds the one that governs a request.
    pub index: Index,
    /// The store that all workers share.
    pub shared: SharedData,
    /// The VM that this runs in.
    pub vm: Rc<Vm>,
}

/// The root context.
#[derive(Default)]
pub struct Root {
    plugin: Option<Rc<Plugin>>,
}

impl Root {
    /// Reads both configurations; the error is what to tell the operator, line by line.
    fn configure() -> Result<Plugin, String> {
        let vm_configuration = host::vm_configuration().unwrap_or_default();
        match Seat::parse(&vm_configuration)? {
            Seat::Request => {}
        }
        let bytes = host::plugin_configuration().unwrap_or_default();
        let document = config::parse(&bytes).map_err(|errors| errors.to_string())?;
        let (vm, index) = (Vm::current(), Index::new(&document));
        let policies = document.policies.into_iter().map(|policy| vm.govern(policy)).collect();
        let mut shared = SharedData::open();
        // Opening moved the signal, so each VM sees another value.
        if let (Ok(mut worker), Some(epoch)) = (vm.worker.try_borrow_mut(), shared.epoch()) {
            worker.stir(epoch);
        }
        Ok(Plugin { policies, index, shared, vm })
    }
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        match Root::configure() {
            Ok(mut plugin) => {
                if let Err(refusal) = host::tick_every(TICK_MILLIS) {
                    host::log(Level::Warn, &format!("holdfast: no tick (status {refusal}): leases are renewed late"));
                }
                if !plugin.shared.is_signalled() {
                    tell_unsignalled(&mut plugin.shared);
                }
                self.plugin = Some(Rc::new(plugin));
                true
            }
            Err(errors) => {
                for error in errors.lines() {
                    host::log(Level::Error, &format!("holdfast: configuration refused: {error}"));
                }
                false
            }
        }
    }

    fn on_tick(&mut self) {
        let Some(plugin) = &self.plugin else { return };
        let (now, mut shared) = (Timestamp(host::now()), plugin.shared);
        let Ok(mut worker) = plugin.vm.worker.try_borrow_mut() else { return };
        worker.tick(&mut shared, now);
        for governing in &plugin.policies {
            if let Ok(mut governed) = governing.governed.try_borrow_mut() {
                governed.tick(&mut worker, &mut shared, now);
            }
        }
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(RequestSeat::new(self.plugin.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// Says once for all workers that the change signal is missing.
fn tell_unsignalled(shared: &mut SharedData) {
    if shared.swap("holdfast/told/unsignalled", b"1", Expected::Absent).is_ok() {
        host::log(
            Level::Warn,
            "holdfast: the stats matcher drops the gauge wasmcustom.holdfast.epoch: workers look for changes every 10 ms \
             instead of at once, which costs more; let it pass in stats_config.stats_matcher",
        );
    }
}
