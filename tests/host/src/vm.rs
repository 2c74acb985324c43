//! One VM of the module: the order of callbacks is Envoy's. Source: proxy-wasm-cpp-host, `context.cc` and `wasm.cc`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};

use wasmi::{Error, Instance, Memory, Store, TypedFunc, WasmParams, WasmResults};

use crate::caller::CallAnswer;
use crate::headers::Headers;
use crate::host::{Host, Inner};
use crate::imports::Stopped;
use crate::metrics::Kind;
use crate::module::Loaded;
use crate::seat::Seat;
use crate::stream::{Direction, LocalReply, Map, Stream};
use crate::thread::Thread;

/// The VM died. Whether on purpose, and of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trap {
    pub(crate) wanted: bool,
    pub(crate) cause: String,
}

impl From<Error> for Trap {
    fn from(error: Error) -> Self {
        let wanted = matches!(error.downcast_ref::<Stopped>(), Some(Stopped::OnPurpose));
        Trap { wanted, cause: error.to_string() }
    }
}

/// A root context: one configuration of the plugin.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) configuration: Rc<str>,
    /// Nanoseconds between ticks, and when the next is due on the steady clock.
    pub(crate) tick: Option<(u64, u64)>,
    streams: usize,
    /// No listener uses it any more; it goes with its last stream.
    is_retired: bool,
}

/// What the imports see of a VM.
pub(crate) struct VmData {
    pub(crate) host: Weak<Inner>,
    pub(crate) thread: Thread,
    pub(crate) seat: Seat,
    /// Which of the VMs of its seat and thread it is.
    pub(crate) incarnation: u64,
    pub(crate) memory: Option<Memory>,
    pub(crate) malloc: Option<TypedFunc<i32, i32>>,
    /// Places of the metrics that this VM has defined, by kind; an id is `number * 4 + kind`.
    pub(crate) metrics: [Vec<usize>; 3],
    pub(crate) vm_configuration: Vec<u8>,
    pub(crate) roots: BTreeMap<u32, Root>,
    pub(crate) streams: BTreeMap<u32, Stream>,
    /// The context whose callback runs; 0 for none.
    pub(crate) current: u32,
    /// The context that host calls are about, where the module has chosen another.
    pub(crate) effective: Option<u32>,
    /// `_initialize` runs, during which a module may do nothing but log.
    pub(crate) is_starting: bool,
    /// The plugin configuration can be read.
    pub(crate) is_configuring: bool,
    /// The access log is written: header maps can be read again.
    pub(crate) is_logging: bool,
    /// The answer to a call that can be read, and the root context that made it.
    pub(crate) call_answer: Option<(u32, CallAnswer)>,
    /// Contexts that the module has let go on or replied to.
    pub(crate) acted: BTreeSet<u32>,
    pub(crate) calls: u64,
    /// The token of the next call. A VM's root contexts share one count, old and new ones too: 4, 8, 12 and so on. Seen on
    /// Envoy 1.36.2 and 1.40.0. Source: proxy-wasm-cpp-host, `WasmBase::nextHttpCallId`.
    next_token: u32,
}

impl VmData {
    pub(crate) fn take_token(&mut self) -> u32 {
        let token = self.next_token;
        self.next_token = token.wrapping_add(4);
        token
    }

    pub(crate) fn host(&self) -> Host {
        Host::of(self.host.upgrade().expect("a VM runs only inside its host"))
    }

    /// The context that a host call is about.
    pub(crate) fn context(&self) -> u32 {
        self.effective.unwrap_or(self.current)
    }

    pub(crate) fn stream(&mut self) -> Option<&mut Stream> {
        let context = self.context();
        self.streams.get_mut(&context)
    }

    /// The root context of the context that a host call is about.
    pub(crate) fn root(&mut self) -> Option<(u32, &mut Root)> {
        let context = self.context();
        let id = self.streams.get(&context).map_or(context, |stream| stream.root);
        self.roots.get_mut(&id).map(|root| (id, root))
    }

    pub(crate) fn metric(&self, id: u32) -> Option<usize> {
        self.metrics.get((id & 3) as usize)?.get((id >> 2) as usize).copied()
    }

    pub(crate) fn define(&mut self, kind: Kind, place: usize) -> u32 {
        let of_kind = &mut self.metrics[kind as usize];
        of_kind.push(place);
        u32::try_from(of_kind.len() - 1).unwrap() * 4 + kind as u32
    }
}

/// Root context, token, and how much there is of headers, body and trailers.
type Told = (i32, i32, i32, i32, i32);

/// The callbacks, those that the module exports: Envoy calls no others.
struct Exports {
    context_create: TypedFunc<(i32, i32), ()>,
    vm_start: Option<TypedFunc<(i32, i32), i32>>,
    configure: Option<TypedFunc<(i32, i32), i32>>,
    tick: Option<TypedFunc<i32, ()>>,
    request_headers: Option<TypedFunc<(i32, i32, i32), i32>>,
    request_body: Option<TypedFunc<(i32, i32, i32), i32>>,
    request_trailers: Option<TypedFunc<(i32, i32), i32>>,
    response_headers: Option<TypedFunc<(i32, i32, i32), i32>>,
    response_body: Option<TypedFunc<(i32, i32, i32), i32>>,
    response_trailers: Option<TypedFunc<(i32, i32), i32>>,
    log: Option<TypedFunc<i32, ()>>,
    done: Option<TypedFunc<i32, i32>>,
    delete: Option<TypedFunc<i32, ()>>,
    http_call_response: Option<TypedFunc<Told, ()>>,
    queue_ready: Option<TypedFunc<(i32, i32), ()>>,
}

/// A callback, for a context that need not be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callback {
    /// `proxy_on_tick`.
    Tick,
    /// `proxy_on_request_headers`.
    RequestHeaders,
    /// `proxy_on_request_body`, for the last piece.
    RequestBody,
    /// `proxy_on_request_trailers`.
    RequestTrailers,
    /// `proxy_on_response_headers`.
    ResponseHeaders,
    /// `proxy_on_response_trailers`.
    ResponseTrailers,
    /// `proxy_on_log`.
    Log,
}

/// What a callback of a request ended with.
#[derive(Debug)]
pub(crate) enum Step {
    /// The request or response goes on.
    Continue,
    /// The module keeps it.
    Pause,
    /// The module has replied.
    Reply(LocalReply),
}

/// What the module has asked for outside of a stream's own callbacks.
#[derive(Debug)]
pub(crate) enum Action {
    /// What it kept goes on.
    Resume(Direction),
    /// It has replied.
    Reply(LocalReply),
}

/// One VM.
pub(crate) struct Vm {
    store: Store<VmData>,
    exports: Exports,
    next_context: u32,
}

impl Vm {
    /// Instantiates the module and starts it.
    pub(crate) fn start(
        host: &Host,
        thread: Thread,
        seat: Seat,
        vm_configuration: &[u8],
        incarnation: u64,
    ) -> Result<Vm, Trap> {
        let Loaded { engine, module, linker } = host.module();
        let data = VmData {
            host: host.downgrade(),
            thread,
            seat,
            incarnation,
            memory: None,
            malloc: None,
            metrics: [Vec::new(), Vec::new(), Vec::new()],
            vm_configuration: vm_configuration.to_vec(),
            roots: BTreeMap::new(),
            streams: BTreeMap::new(),
            current: 0,
            effective: None,
            is_starting: true,
            is_configuring: false,
            is_logging: false,
            call_answer: None,
            acted: BTreeSet::new(),
            calls: 0,
            next_token: 4,
        };
        let mut store = Store::new(engine, data);
        let instance = linker.instantiate_and_start(&mut store, module)?;
        let memory = instance.get_memory(&store, "memory");
        let malloc =
            export(&instance, &store, "malloc").or_else(|| export(&instance, &store, "proxy_on_memory_allocate"));
        assert!(memory.is_some() && malloc.is_some(), "the module exports its memory and an allocator");
        assert!(
            instance.get_func(&store, "proxy_abi_version_0_2_1").is_some(),
            "the module says that it speaks ABI 0.2.1"
        );
        store.data_mut().memory = memory;
        store.data_mut().malloc = malloc;
        let initialize: Option<TypedFunc<(), ()>> =
            export(&instance, &store, "_initialize").or_else(|| export(&instance, &store, "_start"));
        if let Some(initialize) = initialize {
            initialize.call(&mut store, ())?;
        }
        store.data_mut().is_starting = false;
        let exports = Exports {
            context_create: export(&instance, &store, "proxy_on_context_create").expect("proxy_on_context_create"),
            vm_start: export(&instance, &store, "proxy_on_vm_start"),
            configure: export(&instance, &store, "proxy_on_configure"),
            tick: export(&instance, &store, "proxy_on_tick"),
            request_headers: export(&instance, &store, "proxy_on_request_headers"),
            request_body: export(&instance, &store, "proxy_on_request_body"),
            request_trailers: export(&instance, &store, "proxy_on_request_trailers"),
            response_headers: export(&instance, &store, "proxy_on_response_headers"),
            response_body: export(&instance, &store, "proxy_on_response_body"),
            response_trailers: export(&instance, &store, "proxy_on_response_trailers"),
            log: export(&instance, &store, "proxy_on_log"),
            done: export(&instance, &store, "proxy_on_done"),
            delete: export(&instance, &store, "proxy_on_delete"),
            http_call_response: export(&instance, &store, "proxy_on_http_call_response"),
            queue_ready: export(&instance, &store, "proxy_on_queue_ready"),
        };
        Ok(Vm { store, exports, next_context: 1 })
    }

    pub(crate) fn data(&mut self) -> &mut VmData {
        self.store.data_mut()
    }

    /// Runs a callback of a context.
    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        context: u32,
        callback: TypedFunc<P, R>,
        arguments: P,
    ) -> Result<R, Trap> {
        self.data().current = context;
        self.data().effective = None;
        let result = callback.call(&mut self.store, arguments);
        self.data().current = 0;
        Ok(result?)
    }

    fn allocate_context(&mut self) -> u32 {
        self.next_context += 1;
        self.next_context - 1
    }

    /// Makes a root context for a configuration; `false` if the module refuses it.
    pub(crate) fn configure(&mut self, configuration: &Rc<str>) -> Result<bool, Trap> {
        let id = self.allocate_context();
        let root = Root { configuration: Rc::clone(configuration), tick: None, streams: 0, is_retired: false };
        self.data().roots.insert(id, root);
        self.call(id, self.exports.context_create, (id as i32, 0))?;
        let sizes = (self.data().vm_configuration.len(), configuration.len());
        if let Some(vm_start) = self.exports.vm_start
            && self.call(id, vm_start, (id as i32, sizes.0 as i32))? == 0
        {
            return Ok(false);
        }
        let Some(configure) = self.exports.configure else { return Ok(true) };
        self.data().is_configuring = true;
        let accepted = self.call(id, configure, (id as i32, sizes.1 as i32));
        self.data().is_configuring = false;
        Ok(accepted? != 0)
    }

    /// The root context of a configuration. One that only has its last streams is used again where the configuration comes back,
    /// without being configured again. Source: proxy-wasm-cpp-host, `getOrCreateThreadLocalPlugin`, and Envoy, whose streams hold
    /// the plugin.
    pub(crate) fn root_of(&mut self, configuration: &str) -> Option<u32> {
        let mut roots = self.data().roots.iter();
        roots.find(|(_, root)| &*root.configuration == configuration).map(|(id, _)| *id)
    }

    /// Lets go of every root context whose configuration is not among `used`; one with streams goes with the last.
    pub(crate) fn retire_all_but(&mut self, used: &[Rc<str>]) -> Result<(), Trap> {
        let ids: Vec<u32> = self.data().roots.keys().copied().collect();
        for id in ids {
            if let Some(root) = self.data().roots.get_mut(&id) {
                root.is_retired = !used.contains(&root.configuration);
            }
            self.drop_root_if_over(id)?;
        }
        Ok(())
    }

    fn drop_root_if_over(&mut self, id: u32) -> Result<(), Trap> {
        let is_over = self.data().roots.get(&id).is_some_and(|root| root.is_retired && root.streams == 0);
        if is_over {
            self.end(id)?;
            self.data().roots.remove(&id);
            self.data().host().note_lost_caller();
        }
        Ok(())
    }

    /// `on_done` and `on_delete` of a context.
    fn end(&mut self, id: u32) -> Result<(), Trap> {
        if let Some(done) = self.exports.done {
            assert_ne!(self.call(id, done, id as i32)?, 0, "the module does not hold on to its contexts");
        }
        match self.exports.delete {
            Some(delete) => self.call(id, delete, id as i32),
            None => Ok(()),
        }
    }

    /// When the next tick is due, on the steady clock.
    pub(crate) fn next_tick(&mut self) -> Option<u64> {
        self.data().roots.values().filter_map(|root| root.tick).map(|(_, due)| due).min()
    }

    /// Runs the ticks that come at least so often, whether they are due or not.
    pub(crate) fn tick_early(&mut self, at_least_every: u64) -> Result<(), Trap> {
        for id in self.ticking(|period, _| period <= at_least_every) {
            self.call_tick(id)?;
        }
        Ok(())
    }

    /// Runs the first of the ticks that are due.
    pub(crate) fn tick(&mut self, now: u64) -> Result<(), Trap> {
        if let Some(id) = self.ticking(|_, due| due <= now).first().copied() {
            self.call_tick(id)?;
            if let Some(Root { tick: Some((period, due)), .. }) = self.data().roots.get_mut(&id) {
                *due = now + *period;
            }
        }
        Ok(())
    }

    /// Root contexts by their ticks' period and when the next is due.
    fn ticking(&mut self, is_wanted: impl Fn(u64, u64) -> bool) -> Vec<u32> {
        let roots = self.data().roots.iter();
        let wanted = roots.filter(|(_, root)| root.tick.is_some_and(|(period, due)| is_wanted(period, due)));
        wanted.map(|(id, _)| *id).collect()
    }

    /// Calls a root context back for an item of a queue, if both are there.
    pub(crate) fn queue_ready(&mut self, root: u32, token: u32) -> Result<(), Trap> {
        let is_there = self.data().roots.contains_key(&root);
        match self.exports.queue_ready {
            Some(ready) if is_there => self.call(root, ready, (root as i32, token as i32)),
            _ => Ok(()),
        }
    }

    fn call_tick(&mut self, root: u32) -> Result<(), Trap> {
        match self.exports.tick {
            Some(tick) => self.call(root, tick, root as i32),
            None => Ok(()),
        }
    }

    /// Begins a request or an attempt; gives its context.
    pub(crate) fn begin(&mut self, stream: Stream) -> Result<u32, Trap> {
        let id = self.allocate_context();
        let root = stream.root;
        let data = self.data();
        data.streams.insert(id, stream);
        data.roots.get_mut(&root).expect("a request has a root context").streams += 1;
        self.call(id, self.exports.context_create, (id as i32, root as i32))?;
        Ok(id)
    }

    pub(crate) fn stream(&mut self, id: u32) -> &mut Stream {
        self.data().streams.get_mut(&id).expect("the request is still there")
    }

    /// What a callback's return value and its deferred reply come to.
    fn step(&mut self, id: u32, direction: Direction, action: i32) -> Step {
        let stream = self.stream(id);
        match (stream.reply.take(), action) {
            // A reply stops the iteration, whatever the callback returned.
            (Some(reply), _) => Step::Reply(reply),
            (None, 0) => {
                // What it kept until this callback goes on with it.
                stream.held.take_if(|held| *held == direction);
                Step::Continue
            }
            (None, _) => {
                stream.held = Some(direction);
                Step::Pause
            }
        }
    }

    /// The next of the streams that the module acted on in a callback of another context.
    pub(crate) fn take_action(&mut self) -> Option<(u32, Action)> {
        let data = self.data();
        while let Some(id) = data.acted.pop_first() {
            let Some(stream) = data.streams.get_mut(&id) else { continue };
            match (stream.reply.take(), stream.resumed.take()) {
                (Some(reply), _) => return Some((id, Action::Reply(reply))),
                (None, Some(direction)) => return Some((id, Action::Resume(direction))),
                (None, None) => {}
            }
        }
        None
    }

    /// Tells a root context of the answer to a call; of one that broke off it can read nothing.
    pub(crate) fn http_call_response(&mut self, root: u32, token: u32, answer: CallAnswer) -> Result<(), Trap> {
        let is_there = self.data().roots.contains_key(&root);
        let Some(callback) = self.exports.http_call_response.filter(|_| is_there) else { return Ok(()) };
        let trailers = answer.trailers.as_ref().map_or(0, Headers::len);
        let sizes = [answer.headers.len(), answer.body.len(), trailers].map(|size| size as i32);
        self.data().call_answer = (!answer.headers.is_empty()).then_some((root, answer));
        let [headers, body, trailers] = sizes;
        let told = self.call(root, callback, (root as i32, token as i32, headers, body, trailers));
        self.data().call_answer = None;
        told
    }

    pub(crate) fn request_headers(&mut self, id: u32) -> Result<Step, Trap> {
        let stream = self.stream(id);
        let (count, ends) = (stream.request.headers.borrow().len(), stream.has_only_headers);
        let Some(callback) = self.exports.request_headers else { return Ok(Step::Continue) };
        let action = self.call(id, callback, (id as i32, count as i32, i32::from(ends)))?;
        let step = self.step(id, Direction::Request, action);
        // While the request is held or replied to, its headers stay readable.
        self.stream(id).request.is_readable = !matches!(step, Step::Continue);
        if matches!(step, Step::Continue) {
            self.stream(id).info.borrow_mut().choose_route();
        }
        Ok(step)
    }

    pub(crate) fn request_body(&mut self, id: u32, piece: &[u8], ends: bool) -> Result<Step, Trap> {
        self.stream(id).request_body = piece.to_vec();
        // An empty piece comes by only where it is the last.
        let is_seen = ends || !piece.is_empty();
        let Some(callback) = self.exports.request_body.filter(|_| is_seen) else { return Ok(Step::Continue) };
        let action = self.call(id, callback, (id as i32, piece.len() as i32, i32::from(ends)))?;
        Ok(self.step(id, Direction::Request, action))
    }

    /// So many trailers of a request come by.
    pub(crate) fn request_trailers(&mut self, id: u32, count: usize) -> Result<Step, Trap> {
        let Some(callback) = self.exports.request_trailers else { return Ok(Step::Continue) };
        let action = self.call(id, callback, (id as i32, count as i32))?;
        Ok(self.step(id, Direction::Request, action))
    }

    pub(crate) fn response_headers(&mut self, id: u32, headers: Headers, ends: bool) -> Result<Step, Trap> {
        let stream = self.stream(id);
        let count = headers.len();
        stream.response = Map { headers: Rc::new(RefCell::new(headers)), is_readable: true };
        let Some(callback) = self.exports.response_headers else { return Ok(Step::Continue) };
        let action = self.call(id, callback, (id as i32, count as i32, i32::from(ends)))?;
        let step = self.step(id, Direction::Response, action);
        self.stream(id).response.is_readable = !matches!(step, Step::Continue);
        Ok(step)
    }

    pub(crate) fn response_body(&mut self, id: u32, body: &[u8], ends: bool) -> Result<Step, Trap> {
        self.stream(id).response_body = body.to_vec();
        // An empty piece comes by only where it is the last.
        let is_seen = ends || !body.is_empty();
        let Some(callback) = self.exports.response_body.filter(|_| is_seen) else { return Ok(Step::Continue) };
        let action = self.call(id, callback, (id as i32, body.len() as i32, i32::from(ends)))?;
        Ok(self.step(id, Direction::Response, action))
    }

    pub(crate) fn response_trailers(&mut self, id: u32, trailers: Headers) -> Result<Step, Trap> {
        let stream = self.stream(id);
        let count = trailers.len();
        stream.trailers = Map { headers: Rc::new(RefCell::new(trailers)), is_readable: true };
        let Some(callback) = self.exports.response_trailers else { return Ok(Step::Continue) };
        let action = self.call(id, callback, (id as i32, count as i32))?;
        let step = self.step(id, Direction::Response, action);
        self.stream(id).trailers.is_readable = !matches!(step, Step::Continue);
        Ok(step)
    }

    /// Logs and ends a request. What is known of it is given back.
    pub(crate) fn finish(&mut self, id: u32) -> Result<Stream, Trap> {
        self.log(id)?;
        self.delete(id)
    }

    /// `on_log` of a request.
    pub(crate) fn log(&mut self, id: u32) -> Result<(), Trap> {
        let Some(log) = self.exports.log else { return Ok(()) };
        self.data().is_logging = true;
        let logged = self.call(id, log, id as i32);
        self.data().is_logging = false;
        logged
    }

    /// Ends a request or an attempt, which is known to the module to the last. What is known of it is given back.
    pub(crate) fn delete(&mut self, id: u32) -> Result<Stream, Trap> {
        self.end(id)?;
        let stream = self.data().streams.remove(&id).expect("the request is still there");
        self.data().acted.remove(&id);
        if let Some(root) = self.data().roots.get_mut(&stream.root) {
            root.streams -= 1;
        }
        self.drop_root_if_over(stream.root)?;
        Ok(stream)
    }

    /// What was kept back of a response whose headers the module let go on comes by it although they led to a retry,
    /// which has deleted the context. Measured on Envoy 1.40.
    pub(crate) fn rest_after_deletion(&mut self, id: u32, body: usize, trailers: usize) -> Result<(), Trap> {
        if let Some(callback) = self.exports.response_body.filter(|_| body > 0) {
            self.call(id, callback, (id as i32, body as i32, i32::from(trailers == 0)))?;
        }
        if let Some(callback) = self.exports.response_trailers.filter(|_| trailers > 0) {
            self.call(id, callback, (id as i32, trailers as i32))?;
        }
        Ok(())
    }

    /// Runs a callback whatever there is of the context.
    pub(crate) fn call_back(&mut self, id: u32, callback: Callback) -> Result<(), Trap> {
        const EXPORTED: &str = "the module exports it";
        let context = id as i32;
        let with_end = match callback {
            Callback::Tick => return self.call(id, self.exports.tick.expect(EXPORTED), context),
            Callback::Log => return self.call(id, self.exports.log.expect(EXPORTED), context),
            Callback::ResponseTrailers => {
                return self.call(id, self.exports.response_trailers.expect(EXPORTED), (context, 1)).map(drop);
            }
            Callback::RequestTrailers => {
                return self.call(id, self.exports.request_trailers.expect(EXPORTED), (context, 1)).map(drop);
            }
            Callback::RequestBody => self.exports.request_body.expect(EXPORTED),
            Callback::RequestHeaders => self.exports.request_headers.expect(EXPORTED),
            Callback::ResponseHeaders => self.exports.response_headers.expect(EXPORTED),
        };
        self.call(id, with_end, (context, 1, 1)).map(drop)
    }

    /// The context that was begun last.
    pub(crate) fn last_context(&self) -> u32 {
        self.next_context - 1
    }

    /// Bytes of memory that the module holds.
    pub(crate) fn memory_size(&mut self) -> usize {
        self.data().memory.map_or(0, |memory| memory.data_size(&self.store))
    }
}

fn export<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &Store<VmData>,
    name: &str,
) -> Option<TypedFunc<P, R>> {
    let func = instance.get_func(store, name)?;
    match func.typed(store) {
        Ok(typed) => Some(typed),
        Err(error) => panic!("the module's export {name} does not have the ABI's type: {error}"),
    }
}
