//! The root context: reads the configuration, makes a context for each request, and passes ticks and answers on.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::attempt::AttemptPlugin;
use holdfast_engine::fallback::Unserved;
use holdfast_engine::host::RootHost;
use holdfast_engine::outlier::calls::{CallRequest, CallResponse};
use holdfast_engine::request::{ActivePolicy, Call, Configuration, OutgoingCall, PendingCall, RequestPlugin};
use holdfast_engine::store::{Expected, Store};
use holdfast_policy::seat::Seat;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, MapType, Status};

use crate::attempt_filter::{self, AttemptFilter};
use crate::contexts::{self, Stream};
use crate::host::WasmHost;
use crate::hostcalls;
use crate::request_filter::{self, RequestFilter};
use crate::shared_data::SharedData;
use crate::vm::Vm;

/// The root context.
pub struct Root {
    context: u32,
    plugin: Option<Plugin>,
    /// Our own requests that are under way, by their names.
    calls: HashMap<u32, UnderWay>,
}

/// What a request of our own is for.
enum UnderWay {
    /// For the hosts of a policy.
    OfHosts(Rc<ActivePolicy>, Call),
    /// For a client's request, whose answer is held back.
    OfRequest(PendingCall),
}

/// What the module was configured to be.
#[derive(Clone)]
enum Plugin {
    Request(Rc<RequestPlugin>, SharedData),
    Attempt(Rc<AttemptPlugin>, SharedData),
}

impl Root {
    /// A root context that is still to be configured.
    pub fn new(context: u32) -> Self {
        Root { context, plugin: None, calls: HashMap::new() }
    }

    /// Reads both configurations; the error is what to tell the operator, line by line.
    fn configure() -> Result<Plugin, String> {
        let seat = Seat::parse(&hostcalls::vm_configuration())?;
        let bytes = hostcalls::plugin_configuration();
        match seat {
            Seat::Request => {
                let configuration = Configuration::read(&bytes)?;
                let (vm, host): (_, Rc<dyn RootHost>) = (Vm::current(), Rc::new(WasmHost));
                // Each use has a copy, like a callback's: what that has seen of the signal is of that moment.
                let shared = SharedData::open();
                let plugin = RequestPlugin::new(&host, vm.request, configuration);
                plugin.reseed(&mut shared.clone());
                Ok(Plugin::Request(Rc::new(plugin), shared))
            }
            Seat::Attempt if bytes.trim_ascii().is_empty() => {
                let (vm, host): (_, Rc<dyn RootHost>) = (Vm::current(), Rc::new(WasmHost));
                Ok(Plugin::Attempt(Rc::new(AttemptPlugin::new(&host, vm.attempt)), SharedData::open()))
            }
            Seat::Attempt => {
                Err("configuration: must be empty in the attempt seat, which takes its policies from the request seat"
                    .to_owned())
            }
        }
    }

    /// Sends a request to a cluster, and gives its name.
    fn dispatch(
        &self,
        cluster: &str,
        headers: &[(String, String)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<u32, Status> {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body = Some(body).filter(|body| !body.is_empty());
        self.dispatch_http_call(cluster, headers, body, Vec::new(), timeout)
    }

    /// Makes a request of our own.
    fn make(&mut self, active: &Rc<ActivePolicy>, call: &Call) -> Option<u32> {
        let CallRequest { upstream, headers, body, timeout, .. } = &call.request;
        let token = self.dispatch(upstream, headers, body, *timeout).ok()?;
        self.calls.insert(token, UnderWay::OfHosts(Rc::clone(active), call.clone()));
        Some(token)
    }

    /// Makes the calls of fallbacks that are to be made.
    fn make_calls(&mut self, plugin: &RequestPlugin, shared: &mut SharedData) {
        while let Some(call) = plugin.take_call() {
            let OutgoingCall { cluster, headers, body, timeout } = &call.request;
            let made = self.dispatch(cluster, headers, body, *timeout);
            let pending = call.into_pending();
            match made {
                Ok(token) => drop(self.calls.insert(token, UnderWay::OfRequest(pending))),
                Err(Status::BadArgument) => self.end(plugin, shared, pending, Err(Unserved::NoCluster)),
                Err(_) => self.end(plugin, shared, pending, Err(Unserved::NoHost)),
            }
        }
    }

    /// A call of a fallback is over: the request that waits for it goes on.
    fn end(
        &self,
        plugin: &RequestPlugin,
        shared: &mut SharedData,
        pending: PendingCall,
        answer: Result<(&[u8], Vec<u8>), Unserved>,
    ) {
        // A context that is gone has no answer to let go.
        if let Some(calling) = pending.end()
            && hostcalls::act_for(calling.stream).is_ok()
        {
            request_filter::act_outside(calling.over(plugin, shared, &WasmHost, answer));
            // What follows is this context's own.
            let _ = hostcalls::act_for(self.context);
        }
    }
}

impl Context for Root {
    /// No listener uses it any more, and its last stream is over.
    fn on_done(&mut self) -> bool {
        // Envoy's timer of a root context would go on for as long as the VM lives (Envoy, `Wasm::tickHandler`).
        hostcalls::tick_every(Duration::ZERO);
        if let Some(Plugin::Request(plugin, mut shared)) = self.plugin.take() {
            plugin.end(&mut shared);
        }
        self.calls.clear();
        contexts::end_root(self.context);
        true
    }

    /// A call of ours was answered; one that failed has no headers.
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, trailers: usize) {
        let Some(under_way) = self.calls.remove(&token) else { return };
        let Some(Plugin::Request(plugin, mut shared)) = self.plugin.clone() else { return };
        let (active, call) = match under_way {
            UnderWay::OfHosts(active, call) => (active, call),
            UnderWay::OfRequest(pending) => {
                let (serialized, body) = if headers > 0 {
                    (hostcalls::headers(MapType::HttpCallResponseHeaders), hostcalls::call_response_body())
                } else {
                    Default::default()
                };
                self.end(&plugin, &mut shared, pending, Ok((&serialized, body)));
                self.make_calls(&plugin, &mut shared);
                return plugin.end_wake(WasmHost.recently());
            }
        };
        // Where nothing came there are no headers that could be asked for.
        let header = |name: &str| {
            if headers > 0 { hostcalls::header(MapType::HttpCallResponseHeaders, name) } else { None }
        };
        let trailer = |name: &str| {
            if trailers > 0 { hostcalls::header(MapType::HttpCallResponseTrailers, name) } else { None }
        };
        let body = if call.request.reads_body(body) { hostcalls::call_response_body() } else { Vec::new() };
        let response = CallResponse::read(&call.request, &header, &trailer, &body);
        plugin.call_reported(&mut shared, &active, &call, token, response, &mut |active, call| self.make(active, call));
    }
}

impl RootContext for Root {
    /// Reads the configuration; `false` refuses it.
    fn on_configure(&mut self, _size: usize) -> bool {
        match Root::configure() {
            Ok(plugin) => {
                if let Plugin::Request(plugin, shared) = &plugin {
                    plugin.start();
                    if !shared.is_signalled() {
                        report_unsignalled(&mut shared.clone());
                    }
                }
                self.plugin = Some(plugin);
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
        match self.plugin.clone() {
            Some(Plugin::Request(plugin, mut shared)) => {
                if request_filter::look_at_held(&plugin, false).is_some() {
                    // What follows is this context's own.
                    let _ = hostcalls::act_for(self.context);
                }
                self.make_calls(&plugin, &mut shared);
                plugin.on_tick(&mut shared, &mut |active, call| self.make(active, call));
            }
            Some(Plugin::Attempt(plugin, shared)) => attempt_filter::on_tick(&plugin, shared),
            None => {}
        }
    }

    /// The wake-up that was asked for.
    fn on_queue_ready(&mut self, queue: u32) {
        hostcalls::end_wake(queue);
        let Some(Plugin::Request(plugin, mut shared)) = self.plugin.clone() else { return };
        if let Some(now) = request_filter::look_at_held(&plugin, true) {
            // What follows is this context's own.
            let _ = hostcalls::act_for(self.context);
            plugin.end_wake(now);
        }
        self.make_calls(&plugin, &mut shared);
    }

    fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
        Some(match &self.plugin {
            Some(Plugin::Request(plugin, shared)) => {
                Stream::begin(context, RequestFilter::new(Some((Rc::clone(plugin), *shared)), context))
            }
            Some(Plugin::Attempt(plugin, shared)) => {
                Stream::begin(context, AttemptFilter::new(Rc::clone(plugin), *shared, context))
            }
            None => Stream::begin(context, RequestFilter::new(None, context)),
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
fn report_unsignalled(shared: &mut SharedData) {
    if shared.swap("holdfast/told/unsignalled", b"1", Expected::Absent).is_ok() {
        log::warn!(
            "holdfast: the stats matcher drops the gauge wasmcustom.holdfast.epoch: workers look for changes every 10 ms \
             instead of at once, which costs more; let it pass in stats_config.stats_matcher",
        );
    }
}
