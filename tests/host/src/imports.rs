//! The host functions. Source: proxy-wasm ABI 0.2.1; statuses as proxy-wasm-cpp-host's `exports.cc` and Envoy's
//! `context.cc` give them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use wasmi::errors::HostError;
use wasmi::{Caller, Engine, Error, ExternType, Linker, Module};

use crate::caller::{Asking, CallAnswer};
use crate::faults::{Call, Fault};
use crate::flow::Call as Outgoing;
use crate::headers::Headers;
use crate::metrics::{self, Kind};
use crate::queues::Registrant;
use crate::seat::Seat;
use crate::status;
use crate::stream::{Direction, LocalReply, Map, Stream};
use crate::vm::VmData;

/// Why a host call stopped the VM.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// A test asked for it.
    OnPurpose,
    /// The module did what Envoy does not let it do, or this host cannot.
    Forbidden(String),
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::OnPurpose => f.write_str("stopped by the test"),
            Stopped::Forbidden(what) => f.write_str(what),
        }
    }
}

impl HostError for Stopped {}

type Host<'a> = Caller<'a, VmData>;

/// A status, or the VM's end.
type Answer = Result<u32, Error>;

/// Functions of the ABI that no code of the module calls yet. The SDK links them whether they are called or not.
const NOT_PLAYED: [&str; 10] = [
    "proxy_close_stream",
    "proxy_get_buffer_status",
    "proxy_get_header_map_size",
    "proxy_get_status",
    "proxy_grpc_call",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_grpc_send",
    "proxy_grpc_stream",
    "proxy_resolve_shared_queue",
];

/// Everything that the module imports; an error names what it cannot have.
pub(crate) fn linker(engine: &Engine, module: &Module) -> Result<Linker<VmData>, String> {
    let mut linker = Linker::new(engine);
    define(&mut linker).expect("each name once");
    let mut unknown = Vec::new();
    for import in module.imports() {
        let (space, name) = (import.module(), import.name());
        match import.ty() {
            ExternType::Func(ty) if space == "env" && NOT_PLAYED.contains(&name) => {
                let owned = name.to_owned();
                let stop = move |_: Host<'_>, _: &[wasmi::Val], _: &mut [wasmi::Val]| {
                    Err(Error::host(Stopped::Forbidden(format!("the in-process host does not play {owned} yet"))))
                };
                linker.func_new(space, name, ty.clone(), stop).expect("each name once");
            }
            _ if space == "env" && PLAYED.contains(&name) => {}
            _ => unknown.push(format!("{space}.{name}")),
        }
    }
    if unknown.is_empty() {
        Ok(linker)
    } else {
        Err(format!("the module imports what ABI 0.2.1 does not have: {}", unknown.join(", ")))
    }
}

/// Links functions by their ABI names and lists the names.
macro_rules! played {
    ($($name:literal => $function:expr),* $(,)?) => {
        const PLAYED: &[&str] = &[$($name),*];

        fn define(linker: &mut Linker<VmData>) -> Result<(), wasmi::errors::LinkerError> {
            $(linker.func_wrap("env", $name, $function)?;)*
            Ok(())
        }
    };
}

played! {
    "proxy_log" => log,
    "proxy_get_log_level" => get_log_level,
    "proxy_get_current_time_nanoseconds" => get_current_time_nanoseconds,
    "proxy_set_tick_period_milliseconds" => set_tick_period_milliseconds,
    "proxy_get_buffer_bytes" => get_buffer_bytes,
    "proxy_set_buffer_bytes" => set_buffer_bytes,
    "proxy_get_header_map_pairs" => get_header_map_pairs,
    "proxy_set_header_map_pairs" => set_header_map_pairs,
    "proxy_get_header_map_value" => get_header_map_value,
    "proxy_add_header_map_value" => add_header_map_value,
    "proxy_replace_header_map_value" => replace_header_map_value,
    "proxy_remove_header_map_value" => remove_header_map_value,
    "proxy_get_property" => get_property,
    "proxy_set_property" => set_property,
    "proxy_call_foreign_function" => call_foreign_function,
    "proxy_get_shared_data" => get_shared_data,
    "proxy_set_shared_data" => set_shared_data,
    "proxy_register_shared_queue" => register_shared_queue,
    "proxy_enqueue_shared_queue" => enqueue_shared_queue,
    "proxy_dequeue_shared_queue" => dequeue_shared_queue,
    "proxy_send_local_response" => send_local_response,
    "proxy_continue_stream" => continue_stream,
    "proxy_define_metric" => define_metric,
    "proxy_get_metric" => get_metric,
    "proxy_record_metric" => record_metric,
    "proxy_increment_metric" => increment_metric,
    "proxy_set_effective_context" => set_effective_context,
    "proxy_http_call" => http_call,
    "proxy_done" => done,
}

/// What precedes every host call: it is counted, and a rule of the test may take its place.
fn enter(
    host: &mut Host<'_>,
    name: &'static str,
    subject: &str,
    write: Option<(u32, usize)>,
) -> Result<Option<u32>, Error> {
    let data = host.data_mut();
    if data.is_starting && name != "log" {
        return Err(Error::host(Stopped::Forbidden(format!(
            "{name} was called in _initialize, where Envoy lets a module only log"
        ))));
    }
    let before = data.calls;
    data.calls += 1;
    // A tick's calls for a stream are that stream's.
    let context = if data.streams.contains_key(&data.current) { data.current } else { data.context() };
    if let Some(stream) = data.streams.get_mut(&context) {
        stream.calls.count(name);
    }
    let (token, size) = write.unzip();
    let writes_bytes = size.unwrap_or(0);
    let call = Call { thread: data.thread, seat: data.seat, name, subject, token, writes_bytes, before };
    match data.host().fault(&call) {
        None => Ok(None),
        Some(Fault::Status(status)) => Ok(Some(status)),
        Some(Fault::Trap) => Err(Error::host(Stopped::OnPurpose)),
    }
}

/// Returns from the host call if a rule took its place.
macro_rules! enter {
    ($host:expr, $name:literal, $subject:expr) => {
        enter!($host, $name, $subject, None)
    };
    ($host:expr, $name:literal, $subject:expr, $write:expr) => {
        if let Some(status) = enter(&mut $host, $name, $subject, $write)? {
            return Ok(status);
        }
    };
}

/// Bytes of the module's memory, or the status for a pointer that leaves it.
macro_rules! bytes {
    ($host:expr, $at:expr, $size:expr) => {
        match bytes(&$host, $at, $size) {
            Some(bytes) => bytes,
            None => return Ok(status::INVALID_MEMORY_ACCESS),
        }
    };
}

fn bytes(host: &Host<'_>, at: u32, size: u32) -> Option<Vec<u8>> {
    let memory = host.data().memory?;
    let (at, size) = (at as usize, size as usize);
    memory.data(host).get(at..at.checked_add(size)?).map(<[u8]>::to_vec)
}

fn put(host: &mut Host<'_>, at: u32, bytes: &[u8]) -> u32 {
    let Some(memory) = host.data().memory else { return status::INVALID_MEMORY_ACCESS };
    match memory.write(host, at as usize, bytes) {
        Ok(()) => status::OK,
        Err(_) => status::INVALID_MEMORY_ACCESS,
    }
}

/// Gives bytes to the module, in memory that its own allocator provides; nothing is allocated for none.
fn give(host: &mut Host<'_>, value: &[u8], pointer_at: u32, size_at: u32) -> Answer {
    let mut pointer = 0_u32;
    if !value.is_empty() {
        let malloc = host.data().malloc.expect("checked at the start");
        pointer = malloc.call(&mut *host, value.len() as i32)? as u32;
        if pointer == 0 || put(host, pointer, value) != status::OK {
            return Ok(status::INVALID_MEMORY_ACCESS);
        }
    }
    let first = put(host, pointer_at, &pointer.to_le_bytes());
    let second = put(host, size_at, &(value.len() as u32).to_le_bytes());
    Ok(first.max(second))
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    if bytes.contains(&0) { Cow::Owned(text.replace('\0', ".")) } else { text }
}

fn log(mut host: Host<'_>, level: u32, at: u32, size: u32) -> Answer {
    let line = bytes!(host, at, size);
    let line = text(&line);
    enter!(host, "log", &line);
    let data = host.data();
    data.host().write_log(data.thread, data.seat, level, line.into_owned());
    Ok(status::OK)
}

fn get_log_level(mut host: Host<'_>, at: u32) -> Answer {
    enter!(host, "get_log_level", "");
    // Info, Envoy's default.
    Ok(put(&mut host, at, &2_u32.to_le_bytes()))
}

fn get_current_time_nanoseconds(mut host: Host<'_>, at: u32) -> Answer {
    enter!(host, "get_current_time_nanoseconds", "");
    let now = host.data().host().wall_nanos();
    Ok(put(&mut host, at, &now.to_le_bytes()))
}

fn set_tick_period_milliseconds(mut host: Host<'_>, period: u32) -> Answer {
    enter!(host, "set_tick_period_milliseconds", "");
    let now = host.data().host().steady_nanos();
    let nanos = u64::from(period) * 1_000_000;
    match host.data_mut().root() {
        Some((_, root)) => root.tick = (period > 0).then_some((nanos, now + nanos)),
        None => return Ok(status::NOT_FOUND),
    }
    Ok(status::OK)
}

fn get_buffer_bytes(mut host: Host<'_>, kind: u32, start: u32, length: u32, pointer_at: u32, size_at: u32) -> Answer {
    let name = match kind {
        6 => "vm configuration",
        7 => "plugin configuration",
        4 => "call",
        _ => "body",
    };
    enter!(host, "get_buffer_bytes", name);
    let data = host.data_mut();
    let whole = match kind {
        0 => data.stream().map(|stream| stream.request_body.clone()),
        1 => data.stream().map(|stream| stream.response_body.clone()),
        4 => call_answer(data).map(|answer| answer.body.clone()),
        6 => Some(data.vm_configuration.clone()),
        7 if data.is_configuring => data.root().map(|(_, root)| root.configuration.as_bytes().to_vec()),
        _ => None,
    };
    let Some(whole) = whole else { return Ok(status::NOT_FOUND) };
    let start = (start as usize).min(whole.len());
    let end = start.saturating_add(length as usize).min(whole.len());
    give(&mut host, &whole[start..end], pointer_at, size_at)
}

fn set_buffer_bytes(mut host: Host<'_>, kind: u32, start: u32, length: u32, at: u32, size: u32) -> Answer {
    let new = bytes!(host, at, size);
    enter!(host, "set_buffer_bytes", "body");
    let Some(stream) = host.data_mut().stream() else { return Ok(status::BAD_ARGUMENT) };
    let body = match kind {
        0 => &mut stream.request_body,
        1 => &mut stream.response_body,
        _ => return Ok(status::BAD_ARGUMENT),
    };
    let start = (start as usize).min(body.len());
    let end = start.saturating_add(length as usize).min(body.len());
    body.splice(start..end, new);
    Ok(status::OK)
}

/// The map of the response's headers.
const RESPONSE: u32 = 2;

fn register_shared_queue(mut host: Host<'_>, at: u32, size: u32, token_at: u32) -> Answer {
    let name = bytes!(host, at, size);
    enter!(host, "register_shared_queue", "");
    let data = host.data_mut();
    let (thread, seat) = (data.thread, data.seat);
    let Some((root, _)) = data.root() else { return Ok(status::NOT_FOUND) };
    let token = data.host().queues_mut().register(&name, Registrant { thread, seat, root });
    Ok(put(&mut host, token_at, &token.to_le_bytes()))
}

fn enqueue_shared_queue(mut host: Host<'_>, token: u32, at: u32, size: u32) -> Answer {
    let item = bytes!(host, at, size);
    enter!(host, "enqueue_shared_queue", "");
    let is_there = host.data().host().queues_mut().enqueue(token, item);
    Ok(if is_there { status::OK } else { status::NOT_FOUND })
}

fn dequeue_shared_queue(mut host: Host<'_>, token: u32, pointer_at: u32, size_at: u32) -> Answer {
    enter!(host, "dequeue_shared_queue", "");
    let item = host.data().host().queues_mut().dequeue(token);
    match item {
        None => Ok(status::NOT_FOUND),
        Some(None) => Ok(status::EMPTY),
        Some(Some(item)) => give(&mut host, &item, pointer_at, size_at),
    }
}

fn map_of(stream: &Stream, kind: u32) -> Option<&Map> {
    match kind {
        0 => Some(&stream.request),
        RESPONSE => Some(&stream.response),
        3 => Some(&stream.trailers),
        _ => None,
    }
}

/// The answer to a call of the current root context, while the module is told of it.
fn call_answer(data: &mut VmData) -> Option<&CallAnswer> {
    let (id, _) = data.root()?;
    data.call_answer.as_ref().filter(|(root, _)| *root == id).map(|(_, answer)| answer)
}

/// Reads a header map of the current stream, or of the answer to a call; `None` if this phase does not have it.
fn read<R>(host: &mut Host<'_>, kind: u32, read: impl FnOnce(&Headers) -> R) -> Option<R> {
    match kind {
        6 => return call_answer(host.data_mut()).map(|answer| read(&answer.headers)),
        7 => return call_answer(host.data_mut())?.trailers.as_ref().map(read),
        _ => {}
    }
    let is_logging = host.data().is_logging;
    let map = map_of(host.data_mut().stream()?, kind)?;
    (map.is_readable || is_logging).then(|| read(&map.headers.borrow()))
}

/// Changes a header map. Nothing can be changed while the access log is written.
fn change(host: &mut Host<'_>, kind: u32, change: impl FnOnce(&mut Headers)) -> u32 {
    let is_logging = host.data().is_logging;
    let map = host.data_mut().stream().and_then(|stream| map_of(stream, kind));
    match map.filter(|map| map.is_readable && !is_logging) {
        Some(map) => {
            change(&mut map.headers.borrow_mut());
            status::OK
        }
        None => status::BAD_ARGUMENT,
    }
}

fn get_header_map_pairs(mut host: Host<'_>, kind: u32, pointer_at: u32, size_at: u32) -> Answer {
    enter!(host, "get_header_map_pairs", "");
    // A map that the phase does not have reads as empty.
    let serialized = read(&mut host, kind, Headers::serialize).unwrap_or_default();
    give(&mut host, &serialized, pointer_at, size_at)
}

fn set_header_map_pairs(mut host: Host<'_>, kind: u32, at: u32, size: u32) -> Answer {
    let new = Headers::parse(&bytes!(host, at, size));
    enter!(host, "set_header_map_pairs", "");
    Ok(change(&mut host, kind, |headers| *headers = new))
}

fn get_header_map_value(mut host: Host<'_>, kind: u32, at: u32, size: u32, pointer_at: u32, size_at: u32) -> Answer {
    let name = bytes!(host, at, size);
    enter!(host, "get_header_map_value", &text(&name));
    let is_logging = host.data().is_logging;
    let Some(value) = read(&mut host, kind, |headers| headers.get(&name).map(<[u8]>::to_vec)) else {
        return Ok(if is_logging { status::NOT_FOUND } else { status::BAD_ARGUMENT });
    };
    match value {
        Some(value) => give(&mut host, &value, pointer_at, size_at),
        None => Ok(status::NOT_FOUND),
    }
}

fn add_header_map_value(mut host: Host<'_>, kind: u32, at: u32, size: u32, value_at: u32, value_size: u32) -> Answer {
    let (name, value) = (bytes!(host, at, size), bytes!(host, value_at, value_size));
    enter!(host, "add_header_map_value", &text(&name));
    Ok(change(&mut host, kind, |headers| headers.add(&name, &value)))
}

fn replace_header_map_value(
    mut host: Host<'_>,
    kind: u32,
    at: u32,
    size: u32,
    value_at: u32,
    value_size: u32,
) -> Answer {
    let (name, value) = (bytes!(host, at, size), bytes!(host, value_at, value_size));
    enter!(host, "replace_header_map_value", &text(&name));
    let changed = change(&mut host, kind, |headers| headers.set(&name, &value));
    if let Some(stream) = host.data_mut().stream().filter(|_| changed == status::OK) {
        stream.is_rewritten |= kind == RESPONSE && name == b":status";
    }
    Ok(changed)
}

fn remove_header_map_value(mut host: Host<'_>, kind: u32, at: u32, size: u32) -> Answer {
    let name = bytes!(host, at, size);
    enter!(host, "remove_header_map_value", &text(&name));
    Ok(change(&mut host, kind, |headers| headers.remove(&name)))
}

fn get_property(mut host: Host<'_>, at: u32, size: u32, pointer_at: u32, size_at: u32) -> Answer {
    let path = bytes!(host, at, size);
    enter!(host, "get_property", &text(&path));
    match host.data_mut().stream().and_then(|stream| stream.info.borrow().property(&path)) {
        Some(value) => give(&mut host, &value, pointer_at, size_at),
        None => Ok(status::NOT_FOUND),
    }
}

fn set_property(mut host: Host<'_>, at: u32, size: u32, value_at: u32, value_size: u32) -> Answer {
    let (path, value) = (bytes!(host, at, size), bytes!(host, value_at, value_size));
    enter!(host, "set_property", &text(&path));
    match host.data_mut().stream() {
        Some(stream) => stream.info.borrow_mut().filter_state.insert(path, value),
        None => return Ok(status::NOT_FOUND),
    };
    Ok(status::OK)
}

fn call_foreign_function(
    mut host: Host<'_>,
    at: u32,
    size: u32,
    arguments_at: u32,
    arguments_size: u32,
    pointer_at: u32,
    size_at: u32,
) -> Answer {
    let (name, _) = (bytes!(host, at, size), bytes!(host, arguments_at, arguments_size));
    let name = text(&name);
    enter!(host, "call_foreign_function", &name);
    if name != "clear_route_cache" {
        return Ok(status::NOT_FOUND);
    }
    if let Some(stream) = host.data_mut().stream() {
        stream.info.borrow_mut().is_route_cleared = true;
    }
    let given = put(&mut host, pointer_at, &0_u32.to_le_bytes());
    Ok(given.max(put(&mut host, size_at, &0_u32.to_le_bytes())))
}

fn get_shared_data(mut host: Host<'_>, at: u32, size: u32, pointer_at: u32, size_at: u32, token_at: u32) -> Answer {
    let key = bytes!(host, at, size);
    let key = text(&key);
    enter!(host, "get_shared_data", &key);
    let Some((value, version)) = host.data().host().shared(&key) else { return Ok(status::NOT_FOUND) };
    let given = give(&mut host, &value, pointer_at, size_at)?;
    Ok(given.max(put(&mut host, token_at, &version.to_le_bytes())))
}

fn set_shared_data(mut host: Host<'_>, at: u32, size: u32, value_at: u32, value_size: u32, token: u32) -> Answer {
    let (key, value) = (bytes!(host, at, size), bytes!(host, value_at, value_size));
    let key = text(&key);
    enter!(host, "set_shared_data", &key, Some((token, value.len())));
    Ok(host.data().host().write_shared(&key, value, token))
}

#[expect(clippy::too_many_arguments, reason = "the ABI's")]
fn send_local_response(
    mut host: Host<'_>,
    status: u32,
    details_at: u32,
    details_size: u32,
    body_at: u32,
    body_size: u32,
    headers_at: u32,
    headers_size: u32,
    grpc_status: u32,
) -> Answer {
    let details = bytes!(host, details_at, details_size);
    let details = text(&details);
    let (body, headers) = (bytes!(host, body_at, body_size), bytes!(host, headers_at, headers_size));
    enter!(host, "send_local_response", &details);
    // Without a stream it does nothing; a second one is ignored. Both are no errors.
    if let Some(stream) = host.data_mut().stream()
        && !stream.has_replied
    {
        stream.has_replied = true;
        let (headers, status) = (Headers::parse(&headers), u16::try_from(status).unwrap_or(500));
        stream.reply = Some(LocalReply { status, details: details.replace(' ', "_"), body, headers, grpc_status });
        note_action(host.data_mut());
    }
    Ok(status::OK)
}

fn continue_stream(mut host: Host<'_>, kind: u32) -> Answer {
    enter!(host, "continue_stream", "");
    let direction = match kind {
        0 => Direction::Request,
        1 => Direction::Response,
        // Connections, of which an HTTP context has none.
        2 => return Ok(status::OK),
        3 => return Ok(status::UNIMPLEMENTED),
        _ => return Ok(status::BAD_ARGUMENT),
    };
    let Some(stream) = host.data_mut().stream() else { return Ok(status::OK) };
    if !stream.has_replied {
        if stream.held != Some(direction) {
            // Envoy would send the headers a second time.
            let what = format!("{direction:?} goes on that is not kept");
            return Err(Error::host(Stopped::Forbidden(what)));
        }
        (stream.held, stream.resumed) = (None, Some(direction));
    }
    stream.request.is_readable = false;
    note_action(host.data_mut());
    Ok(status::OK)
}

/// The current stream's next step is not its own callback's to take.
fn note_action(data: &mut VmData) {
    let context = data.context();
    data.acted.insert(context);
}

fn define_metric(mut host: Host<'_>, kind: u32, at: u32, size: u32, id_at: u32) -> Answer {
    let name = bytes!(host, at, size);
    let name = text(&name);
    enter!(host, "define_metric", &name);
    let Some(kind) = Kind::of(kind) else { return Ok(status::BAD_ARGUMENT) };
    let data = host.data();
    let is_apart = data.seat == Seat::Attempt && !data.host().shares_metrics();
    let shown = if is_apart { format!("{}{name}", metrics::OF_CLUSTER).into() } else { name };
    let place = data.host().metrics_mut().define(kind, &shown);
    // A name that is defined again has a new id for the same value.
    let id = host.data_mut().define(kind, place);
    Ok(put(&mut host, id_at, &id.to_le_bytes()))
}

/// The place of the metric with this id, after the call was let in.
macro_rules! metric {
    ($host:expr, $name:literal, $id:expr) => {{
        let place = $host.data().metric($id);
        let all = $host.data().host();
        // Only rules want the name.
        let place_of_name = place.filter(|_| all.has_rules());
        let name = place_of_name.map(|place| all.metrics_mut().name(place).to_owned()).unwrap_or_default();
        enter!($host, $name, &name);
        match place {
            Some(place) => place,
            None => return Ok(status::NOT_FOUND),
        }
    }};
}

fn get_metric(mut host: Host<'_>, id: u32, at: u32) -> Answer {
    let place = metric!(host, "get_metric", id);
    let value = host.data().host().metrics_mut().get(place);
    Ok(match value {
        Ok(value) => put(&mut host, at, &value.to_le_bytes()),
        Err(status) => status,
    })
}

fn record_metric(mut host: Host<'_>, id: u32, value: u64) -> Answer {
    let place = metric!(host, "record_metric", id);
    Ok(host.data().host().metrics_mut().record(place, value))
}

fn increment_metric(mut host: Host<'_>, id: u32, by: i64) -> Answer {
    let place = metric!(host, "increment_metric", id);
    Ok(host.data().host().metrics_mut().increment(place, by))
}

fn set_effective_context(mut host: Host<'_>, context: u32) -> Answer {
    enter!(host, "set_effective_context", "");
    let data = host.data_mut();
    if !data.streams.contains_key(&context) && !data.roots.contains_key(&context) {
        return Ok(status::BAD_ARGUMENT);
    }
    data.effective = Some(context);
    Ok(status::OK)
}

#[expect(clippy::too_many_arguments, reason = "the ABI's")]
fn http_call(
    mut host: Host<'_>,
    cluster_at: u32,
    cluster_size: u32,
    headers_at: u32,
    headers_size: u32,
    body_at: u32,
    body_size: u32,
    trailers_at: u32,
    trailers_size: u32,
    timeout: i32,
    token_at: u32,
) -> Answer {
    let cluster = bytes!(host, cluster_at, cluster_size);
    let cluster = text(&cluster);
    let (headers, body) = (bytes!(host, headers_at, headers_size), bytes!(host, body_at, body_size));
    // No host here looks at the trailers of a request.
    let _ = bytes!(host, trailers_at, trailers_size);
    enter!(host, "http_call", &cluster);
    if put(&mut host, token_at, &0_u32.to_le_bytes()) != status::OK {
        return Ok(status::INVALID_MEMORY_ACCESS);
    }
    let (headers, data) = (Headers::parse(&headers), host.data_mut());
    let is_whole = [":method", ":path", ":authority"].iter().all(|name| headers.get(name).is_some());
    let Ok(millis) = u64::try_from(timeout) else { return Ok(status::BAD_ARGUMENT) };
    let all = data.host();
    if all.clusters().find(&cluster).is_none() || !is_whole {
        return Ok(status::BAD_ARGUMENT);
    }
    if data.seat == Seat::Attempt && all.calls_pass_attempt_seat(&cluster) {
        let what = format!("the attempt seat calls {cluster}, which it sits in: its VM is entered while it runs");
        return Err(Error::host(Stopped::Forbidden(what)));
    }
    let (thread, seat, incarnation) = (data.thread, data.seat, data.incarnation);
    let Some((root, _)) = data.root() else { return Ok(status::INTERNAL_FAILURE) };
    let token = data.take_token();
    let is_grpc = headers.get("content-type").is_some_and(|value| value.starts_with(b"application/grpc"));
    let asking = Asking { seat, incarnation, root, token, is_grpc, answer: CallAnswer::default() };
    let (timeout, began) = (Duration::from_millis(millis), all.elapsed());
    let call = Outgoing { thread, seat, cluster: cluster.into(), headers, body, timeout, began };
    match all.call_out(call, asking) {
        Ok(()) => Ok(put(&mut host, token_at, &token.to_le_bytes())),
        Err(status) => Ok(status),
    }
}

fn done(mut host: Host<'_>) -> Answer {
    enter!(host, "done", "");
    Ok(status::NOT_FOUND)
}
