//! The plugin: reads its configuration and makes a context for each request.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_policy::config;
use holdfast_policy::governed::{Call, Reply};
use holdfast_policy::index::Index;
use holdfast_policy::outlier::heartbeat;
use holdfast_policy::seat::Seat;
use holdfast_policy::store::{Expected, Store};
use holdfast_policy::time::{Timestamp, millis};

use crate::abi::Stream;
use crate::attempt_plugin::AttemptPlugin;
use crate::attempt_seat::AttemptSeat;
use crate::governing::Governing;
use crate::host::{self, Headers, Level};
use crate::request_seat::RequestSeat;
use crate::shared::SharedData;
use crate::vm::Vm;

/// The most often that the host is asked for a tick.
const LEAST_TICK: Duration = Duration::from_millis(10);

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

impl Plugin {
    /// How often claims and counts are renewed, and hosts looked after.
    fn tick_millis(&self) -> u32 {
        let every =
            self.policies.iter().filter_map(|governing| governing.governed.try_borrow().ok()?.tick_every().into());
        let every = every.min().unwrap_or(Duration::from_secs(1));
        u32::try_from(millis(every.max(LEAST_TICK))).unwrap_or(1000)
    }
}

/// The root context.
#[derive(Default)]
pub struct Root {
    plugin: Option<Configured>,
    /// Our own requests that are under way, by their names.
    calls: HashMap<u32, (Rc<Governing>, Call)>,
}

/// What the module was configured to be.
enum Configured {
    Request(Rc<Plugin>),
    Attempt(Rc<AttemptPlugin>),
}

impl Root {
    /// Makes the requests of our own that are due.
    fn call(&mut self, plugin: &Plugin, governing: &Rc<Governing>) {
        let (now, mut shared, mut told) = (Timestamp(host::now()), plugin.shared, Vec::new());
        let (Ok(mut worker), Ok(mut governed)) =
            (plugin.vm.worker.try_borrow_mut(), governing.governed.try_borrow_mut())
        else {
            return;
        };
        for call in governed.calls(&mut worker, &mut shared, now, &mut told) {
            let token = host::call(&call.upstream, &call.headers, call.timeout).ok();
            let mut events = Vec::new();
            governed.call_made(&call, token, now, &mut events);
            if !events.is_empty() {
                told.push((call.key(), events));
            }
            if let Some(token) = token {
                self.calls.insert(token, (Rc::clone(governing), call));
            }
        }
        told.into_iter().for_each(|(key, events)| governing.tell(&governed, key, events));
    }

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
        // Each use has a copy, like a callback's: what that has seen of the signal is of that moment.
        let shared = SharedData::open();
        for (governing, text) in policies.iter().zip(&texts) {
            if let Ok(governed) = governing.governed.try_borrow() {
                governed.publish(&mut { shared }, text);
            }
        }
        // Opening moved the signal, so each VM sees another value.
        if let (Ok(mut worker), Some(epoch)) = (vm.worker.try_borrow_mut(), { shared }.epoch()) {
            worker.stir(epoch);
        }
        Ok(Plugin { policies, index, shared, vm, seatless_until: Cell::new(Timestamp::ZERO) })
    }

    /// A call of ours was answered; one that failed has no headers.
    pub fn on_http_call_response(&mut self, token: u32, headers: usize) {
        let Some((governing, call)) = self.calls.remove(&token) else { return };
        let Some(Configured::Request(plugin)) = &self.plugin else { return };
        let plugin = Rc::clone(plugin);
        // Where nothing came there are no headers that could be asked for.
        let header = |name: &str| if headers > 0 { host::header(Headers::CallResponse, name) } else { None };
        let status = header(":status").and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok());
        let body = if call.reads_body() { host::call_response_body().unwrap_or_default() } else { Vec::new() };
        let reply = status.map(|status: u16| Reply {
            status,
            // Envoy's own say nothing of how long the host took.
            is_hosts: status < 500 || header("x-envoy-upstream-service-time").is_some(),
            is_gone: status >= 500 && header(heartbeat::GONE).is_some(),
            body: &body,
        });
        let (now, mut shared, mut events) = (Timestamp(host::now()), plugin.shared, governing.events());
        let (Ok(mut worker), Ok(mut governed)) =
            (plugin.vm.worker.try_borrow_mut(), governing.governed.try_borrow_mut())
        else {
            return;
        };
        let others_wait = governed.call_reported(&mut worker, &mut shared, &call, token, reply, now, &mut events);
        governing.tell(&governed, call.key(), events);
        drop((worker, governed));
        if others_wait {
            self.call(&plugin, &governing);
        }
    }

    /// Reads the configuration; `false` refuses it.
    pub fn on_configure(&mut self) -> bool {
        match Root::configure() {
            Ok(configured) => {
                if let Configured::Request(plugin) = &configured {
                    if let Err(refusal) = host::tick_every(plugin.tick_millis()) {
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

    /// Does what is to be done now and then.
    pub fn on_tick(&mut self) {
        let plugin = match &self.plugin {
            Some(Configured::Request(plugin)) => plugin,
            Some(Configured::Attempt(plugin)) => return plugin.on_tick(),
            None => return,
        };
        let plugin = Rc::clone(plugin);
        let (now, mut shared) = (Timestamp(host::now()), plugin.shared);
        {
            let Ok(mut worker) = plugin.vm.worker.try_borrow_mut() else { return };
            worker.tick(&mut shared, now);
            for governing in &plugin.policies {
                if let Ok(mut governed) = governing.governed.try_borrow_mut() {
                    let told = governed.tick(&mut worker, &mut shared, now);
                    told.into_iter().for_each(|(key, events)| governing.tell(&governed, key, events));
                }
            }
        }
        for governing in &plugin.policies {
            self.call(&plugin, governing);
        }
    }

    /// A context for a stream.
    pub fn stream(&self, context: u32) -> Stream {
        match &self.plugin {
            Some(Configured::Request(plugin)) => Stream::Request(RequestSeat::new(Some(Rc::clone(plugin)))),
            Some(Configured::Attempt(plugin)) => Stream::Attempt(AttemptSeat::new(Rc::clone(plugin), context)),
            None => Stream::Request(RequestSeat::new(None)),
        }
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
