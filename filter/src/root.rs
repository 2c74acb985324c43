//! The plugin: reads its configuration and makes a context for each request.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::index::Index;
use holdfast_engine::outlier::heartbeat;
use holdfast_engine::request::{Call, Event, Governed, Reply, SLOTS_WAIT};
use holdfast_engine::store::keys::Key;
use holdfast_engine::store::{Expected, Store};
use holdfast_policy::config;
use holdfast_policy::seat::Seat;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::attempt_plugin::AttemptPlugin;
use crate::attempt_seat::AttemptSeat;
use crate::contexts::{self, Stream};
use crate::governing::Governing;
use crate::host::{self, Headers};
use crate::request_seat::RequestSeat;
use crate::shared::SharedData;
use crate::vm::Vm;

/// The most often that claims and counts are renewed, and that the host is asked for a tick.
const LEAST_TICK: Duration = Duration::from_millis(10);

/// How long the host may wait to be told what was counted.
const COUNTS_WAIT: Duration = Duration::from_millis(100);

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
    /// How often the host was asked for a tick; zero before it was.
    tick: Cell<Duration>,
    /// How often claims and counts are renewed, and hosts looked after.
    renewal_every: Duration,
    /// When that is to be done next.
    renewal_due: Cell<Timestamp>,
}

impl Plugin {
    /// Tells the operator of events of one key, and sees to it that what waits is told and written in time.
    pub fn tell(&self, governing: &Governing, governed: &Governed, key: Key, events: Vec<Event>) {
        governing.tell(governed, key, events);
        if governed.has_unwritten() {
            self.tick_within(SLOTS_WAIT);
        } else if governing.has_counted() {
            self.tick_within(COUNTS_WAIT);
        }
    }

    /// Asks for ticks at least so often.
    fn tick_within(&self, within: Duration) {
        if self.tick.get() > within {
            self.tick_every(within);
        }
    }

    fn tick_every(&self, period: Duration) {
        host::tick_every(period);
        self.tick.set(period);
    }

    /// Whether claims and counts are to be renewed now, at a tick.
    fn is_renewal_due(&self, now: Timestamp) -> bool {
        // The tick that is nearest to the time: the host's ticks are not exact.
        let near = self.tick.get() / 2;
        let left = self.renewal_due.get().since(now);
        // Further off than it was set, the clock was put back.
        let is_due = left <= near || left > self.renewal_every;
        if is_due {
            self.renewal_due.set(now.plus(self.renewal_every));
        }
        is_due
    }

    /// Writes and tells what has waited. How soon there may be more.
    fn flush(&self, now: Timestamp) -> Option<Duration> {
        let mut shared = self.shared;
        let mut soon = None;
        for governing in &self.policies {
            if governing.flush() {
                soon = soon.or(Some(COUNTS_WAIT));
            }
            if let (Ok(mut worker), Ok(mut governed)) =
                (self.vm.worker.try_borrow_mut(), governing.governed.try_borrow_mut())
                && governed.has_unwritten()
            {
                governed.flush(&mut worker, &mut shared, now);
                soon = Some(SLOTS_WAIT);
            }
        }
        soon
    }
}

/// The root context.
pub struct Root {
    context: u32,
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
    /// A root context that is still to be configured.
    pub fn new(context: u32) -> Self {
        Root { context, plugin: None, calls: HashMap::new() }
    }

    /// Makes the requests of our own that are due.
    fn call(&mut self, plugin: &Plugin, governing: &Rc<Governing>) {
        let (now, mut shared, mut told) = (Timestamp(host::now()), plugin.shared, Vec::new());
        let (Ok(mut worker), Ok(mut governed)) =
            (plugin.vm.worker.try_borrow_mut(), governing.governed.try_borrow_mut())
        else {
            return;
        };
        for call in governed.calls(&mut worker, &mut shared, now, &mut told) {
            let headers = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            // Refused where there is no such cluster, no host in it, or one of the host's limits is reached.
            let token = self.dispatch_http_call(&call.upstream, headers, None, Vec::new(), call.timeout).ok();
            let mut events = Vec::new();
            governed.call_made(&call, token, now, &mut events);
            if !events.is_empty() {
                told.push((call.key(), events));
            }
            if let Some(token) = token {
                self.calls.insert(token, (Rc::clone(governing), call));
            }
        }
        told.into_iter().for_each(|(key, events)| plugin.tell(governing, &governed, key, events));
    }

    /// Reads both configurations; the error is what to tell the operator, line by line.
    fn configure() -> Result<Configured, String> {
        let vm_configuration = host::vm_configuration();
        let seat = Seat::parse(&vm_configuration)?;
        let bytes = host::plugin_configuration();
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
            if let Ok(mut governed) = governing.governed.try_borrow_mut() {
                governed.publish(&mut { shared }, text);
                vm.configure(&mut governed, shared);
                governing.name(&governed);
            }
        }
        // Opening moved the signal, so each VM sees another value.
        if let (Ok(mut worker), Some(epoch)) = (vm.worker.try_borrow_mut(), { shared }.epoch()) {
            worker.stir(epoch);
        }
        let every =
            policies.iter().filter_map(|governing| governing.governed.try_borrow().ok()?.tick_every().into()).min();
        Ok(Plugin {
            renewal_every: every.unwrap_or(Duration::from_secs(1)).max(LEAST_TICK),
            policies,
            index,
            shared,
            vm,
            tick: Cell::new(Duration::ZERO),
            renewal_due: Cell::new(Timestamp::ZERO),
        })
    }

    /// Renews what would otherwise expire, and looks after the hosts.
    fn renew(&mut self, plugin: &Rc<Plugin>, now: Timestamp) {
        let mut shared = plugin.shared;
        {
            let Ok(mut worker) = plugin.vm.worker.try_borrow_mut() else { return };
            worker.tick(&mut shared, now);
            for governing in &plugin.policies {
                if let Ok(mut governed) = governing.governed.try_borrow_mut() {
                    let told = governed.tick(&mut worker, &mut shared, now);
                    governing.name(&governed);
                    told.into_iter().for_each(|(key, events)| governing.tell(&governed, key, events));
                }
            }
        }
        for governing in &plugin.policies {
            self.call(plugin, governing);
        }
    }
}

impl Context for Root {
    /// No listener uses it any more, and its last stream is over.
    fn on_done(&mut self) -> bool {
        // Envoy's timer of a root context would go on for as long as the VM lives (Envoy, `Wasm::tickHandler`).
        host::tick_every(Duration::ZERO);
        self.plugin = None;
        self.calls.clear();
        contexts::end_root(self.context);
        true
    }

    /// A call of ours was answered; one that failed has no headers.
    fn on_http_call_response(&mut self, token: u32, headers: usize, _body: usize, _trailers: usize) {
        let Some((governing, call)) = self.calls.remove(&token) else { return };
        let Some(Configured::Request(plugin)) = &self.plugin else { return };
        let plugin = Rc::clone(plugin);
        // Where nothing came there are no headers that could be asked for.
        let header = |name: &str| if headers > 0 { host::header(Headers::CallResponse, name) } else { None };
        let status = header(":status").and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok());
        let body = if call.reads_body() { host::call_response_body() } else { Vec::new() };
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
        plugin.tell(&governing, &governed, call.key(), events);
        drop((worker, governed));
        if others_wait {
            self.call(&plugin, &governing);
        }
    }
}

impl RootContext for Root {
    /// Reads the configuration; `false` refuses it.
    fn on_configure(&mut self, _size: usize) -> bool {
        match Root::configure() {
            Ok(configured) => {
                if let Configured::Request(plugin) = &configured {
                    plugin.tick_every(plugin.renewal_every);
                    if !plugin.shared.is_signalled() {
                        tell_unsignalled(&mut plugin.shared.clone());
                    }
                }
                self.plugin = Some(configured);
                true
            }
            Err(errors) => {
                for error in errors.lines() {
                    log::error!("holdfast: configuration refused: {error}");
                }
                false
            }
        }
    }

    /// Does what is to be done now and then.
    fn on_tick(&mut self) {
        let plugin = match &self.plugin {
            Some(Configured::Request(plugin)) => plugin,
            Some(Configured::Attempt(plugin)) => return plugin.on_tick(),
            None => return,
        };
        let plugin = Rc::clone(plugin);
        let now = Timestamp(host::now());
        let (every, is_due) = (plugin.renewal_every, plugin.is_renewal_due(now));
        if is_due {
            self.renew(&plugin, now);
        }
        // Afterwards: renewing may have found something to tell.
        let soon = plugin.flush(now);
        let next = match soon {
            // Ticks go back to being seldom where that does not put off the next renewal.
            None if is_due => every,
            None => COUNTS_WAIT,
            Some(soon) => soon,
        };
        let next = next.min(every);
        if plugin.tick.get() != next {
            plugin.tick_every(next);
        }
    }

    fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
        Some(match &self.plugin {
            Some(Configured::Request(plugin)) => Stream::begin(context, RequestSeat::new(Some(Rc::clone(plugin)))),
            Some(Configured::Attempt(plugin)) => Stream::begin(context, AttemptSeat::new(Rc::clone(plugin), context)),
            None => Stream::begin(context, RequestSeat::new(None)),
        })
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        contexts::delete_root(self.context);
    }
}

/// Says once for all workers that the change signal is missing.
fn tell_unsignalled(shared: &mut SharedData) {
    if shared.swap("holdfast/told/unsignalled", b"1", Expected::Absent).is_ok() {
        log::warn!(
            "holdfast: the stats matcher drops the gauge wasmcustom.holdfast.epoch: workers look for changes every 10 ms \
             instead of at once, which costs more; let it pass in stats_config.stats_matcher",
        );
    }
}
