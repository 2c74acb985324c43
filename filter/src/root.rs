//! The plugin: reads its configuration and makes a context for each request.

use std::cell::Cell;
use std::rc::Rc;

use holdfast_policy::config;
use holdfast_policy::index::Index;
use holdfast_policy::seat::Seat;
use holdfast_policy::store::{Expected, Store};
use holdfast_policy::time::Timestamp;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::attempt_plugin::AttemptPlugin;
use crate::attempt_seat::AttemptSeat;
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
    /// Until then attempt seats that show themselves are not believed to see this listener's requests: one did not.
    pub seatless_until: Cell<Timestamp>,
}

/// The root context.
#[derive(Default)]
pub struct Root {
    plugin: Option<Configured>,
}

/// What the module was configured to be.
enum Configured {
    Request(Rc<Plugin>),
    Attempt(Rc<AttemptPlugin>),
}

impl Root {
    /// Reads both configurations; the error is what to tell the operator, line by line.
    fn configure() -> Result<Configured, String> {
        let vm_configuration = host::vm_configuration().unwrap_or_default();
        let seat = Seat::parse(&vm_configuration)?;
        let bytes = host::plugin_configuration().unwrap_or_default();
        match seat {
            Seat::Request => Root::request_seat(&bytes).map(|plugin| Configured::Request(Rc::new(plugin))),
            Seat::Attempt if bytes.trim_ascii().is_empty() => Ok(Configured::Attempt(Rc::new(AttemptPlugin::new()))),
            Seat::Attempt => {
                Err("configuration: must be empty in the attempt seat, which takes its policies from the request seat"
                    .to_owned())
            }
        }
    }

    fn request_seat(bytes: &[u8]) -> Result<Plugin, String> {
        let document = config::parse(bytes).map_err(|errors| errors.to_string())?;
        let texts = config::policy_texts(bytes);
        let (vm, index) = (Vm::current(), Index::new(&document));
        let policies: Vec<_> = document.policies.into_iter().map(|policy| vm.govern(policy)).collect();
        let mut shared = SharedData::open();
        for (governing, text) in policies.iter().zip(&texts) {
            if let Ok(governed) = governing.governed.try_borrow() {
                governed.publish(&mut shared, text);
            }
        }
        // Opening moved the signal, so each VM sees another value.
        if let (Ok(mut worker), Some(epoch)) = (vm.worker.try_borrow_mut(), shared.epoch()) {
            worker.stir(epoch);
        }
        Ok(Plugin { policies, index, shared, vm, seatless_until: Cell::new(Timestamp::ZERO) })
    }
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        match Root::configure() {
            Ok(configured) => {
                if let Configured::Request(plugin) = &configured {
                    if let Err(refusal) = host::tick_every(TICK_MILLIS) {
                        host::log(
                            Level::Warn,
                            &format!("holdfast: no tick (status {refusal}): leases are renewed late"),
                        );
                    }
                    if !plugin.shared.is_signalled() {
                        tell_unsignalled(&mut plugin.shared.clone());
                    }
                }
                self.plugin = Some(configured);
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
        let plugin = match &self.plugin {
            Some(Configured::Request(plugin)) => plugin,
            Some(Configured::Attempt(plugin)) => return plugin.on_tick(),
            None => return,
        };
        let (now, mut shared) = (Timestamp(host::now()), plugin.shared);
        let Ok(mut worker) = plugin.vm.worker.try_borrow_mut() else { return };
        worker.tick(&mut shared, now);
        for governing in &plugin.policies {
            if let Ok(mut governed) = governing.governed.try_borrow_mut() {
                governed.tick(&mut worker, &mut shared, now);
            }
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(match &self.plugin {
            Some(Configured::Request(plugin)) => Box::new(RequestSeat::new(Some(Rc::clone(plugin)))),
            Some(Configured::Attempt(plugin)) => Box::new(AttemptSeat::new(Rc::clone(plugin), context_id)),
            None => Box::new(RequestSeat::new(None)),
        })
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
