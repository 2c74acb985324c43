//! A server that misbehaves on request and counts what it sees.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Channel, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::{PATIENCE, TimedOut, eventually};

/// How many requests are remembered with their headers and bodies.
const REMEMBERED: usize = 1024;

/// Long enough for the first half of a truncated body to be on the wire before the connection closes.
const HALF_SENT: Duration = Duration::from_millis(50);

/// What the server does with a request.
#[derive(Clone, Debug)]
pub struct Action {
    delay: Duration,
    ending: Ending,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Answer,
    Truncate,
    Reset,
    Hang,
}

impl Action {
    fn new(ending: Ending) -> Self {
        Self {
            delay: Duration::ZERO,
            ending,
            status: StatusCode::OK,
            headers: Vec::new(),
            body: Bytes::new(),
            trailers: None,
        }
    }

    /// Answers `200` with the body `ok`.
    #[must_use]
    pub fn ok() -> Self {
        Self::new(Ending::Answer).body("ok")
    }

    /// Answers with this status and an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status: StatusCode::from_u16(status).expect("a status code"), ..Self::new(Ending::Answer) }
    }

    /// Answers as gRPC does: status 200, one empty message, `grpc-status` in the trailers.
    #[must_use]
    pub fn grpc(status: u32) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status));
        Self { trailers: Some(trailers), ..Self::new(Ending::Answer) }
            .header("content-type", "application/grpc")
            .body(Bytes::from_static(&[0; 5]))
    }

    /// Answers as gRPC does without a message: `grpc-status` in the headers, and nothing after them.
    #[must_use]
    pub fn grpc_trailers_only(status: u32) -> Self {
        Self::new(Ending::Answer).header("content-type", "application/grpc").header("grpc-status", status.to_string())
    }

    /// Never answers. The request ends when the peer gives up.
    #[must_use]
    pub fn hang() -> Self {
        Self::new(Ending::Hang)
    }

    /// Closes the connection with a TCP reset instead of an answer. Over HTTP/2 all its streams go with it.
    #[must_use]
    pub fn reset() -> Self {
        Self::new(Ending::Reset)
    }

    /// Answers `200`, sends half of the body it announced, and closes the connection (HTTP/1.1) or resets the stream
    /// (HTTP/2).
    #[must_use]
    pub fn truncate() -> Self {
        Self::new(Ending::Truncate).body("a body of which only the first half arrives")
    }

    /// Waits before doing so.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Adds a header. The value may hold any bytes that HTTP allows, UTF-8 or not.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name = name.parse().expect("a header name");
        self.headers.push((name, HeaderValue::from_bytes(value.as_ref()).expect("a header value")));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// A request the server has seen.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// Its number, from 0, in the order of arrival since the last [`Backend::reset_counters`].
    pub index: u64,
    /// The method.
    pub method: Method,
    /// The path with its query.
    pub path: String,
    /// The headers, as bytes.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl SeenRequest {
    /// The first value of a header, with bytes that are not UTF-8 replaced.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
}

/// An HTTP/1.1 and HTTP/2 (prior knowledge) server on a loopback port, answering `200 ok` until told otherwise.
///
/// A change of behaviour holds for every request that has not been acted upon, so also for requests at the gate.
/// Dropping the server closes its port and its connections.
pub struct Backend {
    shared: Arc<Shared>,
    addr: SocketAddr,
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// Bound but not listening, while connections are refused: the port stays ours.
    reserved: Mutex<Option<TcpSocket>>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backend({})", self.addr)
    }
}

impl Backend {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts on this address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_on(addr: SocketAddr) -> io::Result<Self> {
        let listener = bind(addr)?.listen(1024)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, addr, accepting: Mutex::new(Some(accepting)), reserved: Mutex::new(None) })
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Does the same with every request.
    pub fn always(&self, action: Action) {
        self.script(move |_| action.clone());
    }

    /// Does `action` with every `k`-th request (numbers k-1, 2k-1, ...) and answers `200 ok` otherwise.
    pub fn every(&self, k: u64, action: Action) {
        self.script(move |request| if (request.index + 1).is_multiple_of(k) { action.clone() } else { Action::ok() });
    }

    /// Lets a function choose, by the request.
    pub fn script(&self, script: impl Fn(&SeenRequest) -> Action + Send + Sync + 'static) {
        *self.shared.script.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// Closes the gate: requests are counted and then wait.
    pub fn hold(&self) {
        let gate = &self.shared.gate;
        gate.permits.forget_permits(Semaphore::MAX_PERMITS);
        gate.closed.send_replace(true);
    }

    /// Lets `count` requests through the gate, in the order of their arrival, waiting ones first.
    pub fn release(&self, count: usize) {
        self.shared.gate.permits.add_permits(count);
    }

    /// Opens the gate.
    pub fn release_all(&self) {
        self.shared.gate.closed.send_replace(false);
    }

    /// Refuses connections from now on and cuts those that exist, with their requests. The port stays reserved.
    ///
    /// # Errors
    /// When the port cannot be reserved.
    pub async fn refuse(&self) -> io::Result<()> {
        let accepting = lock(&self.accepting).take();
        if let Some(task) = accepting {
            task.abort();
            let _ = task.await;
            *lock(&self.reserved) = Some(bind(self.addr)?);
        }
        Ok(())
    }

    /// Accepts connections again, on the same port.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub fn resume(&self) -> io::Result<()> {
        if let Some(socket) = lock(&self.reserved).take() {
            let task = tokio::spawn(accept(socket.listen(1024)?, Arc::clone(&self.shared)));
            *lock(&self.accepting) = Some(task);
        }
        Ok(())
    }

    /// Requests that have arrived.
    #[must_use]
    pub fn requests(&self) -> u64 {
        lock(&self.shared.counts).requests
    }

    /// Requests that have arrived, by path with query.
    #[must_use]
    pub fn requests_by_path(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.counts).by_path.clone()
    }

    /// Requests that have arrived for this path with query.
    #[must_use]
    pub fn requests_to(&self, path: &str) -> u64 {
        lock(&self.shared.counts).by_path.get(path).copied().unwrap_or_default()
    }

    /// Requests that have arrived and are not answered.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        lock(&self.shared.counts).in_flight
    }

    /// The most requests that were in flight at once.
    #[must_use]
    pub fn max_in_flight(&self) -> u64 {
        lock(&self.shared.counts).max_in_flight
    }

    /// Connections that were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The last requests (up to 1024) whose bodies have arrived whole, oldest first.
    #[must_use]
    pub fn seen(&self) -> Vec<SeenRequest> {
        lock(&self.shared.seen).iter().cloned().collect()
    }

    /// The last of [`seen`](Self::seen).
    #[must_use]
    pub fn last_seen(&self) -> Option<SeenRequest> {
        lock(&self.shared.seen).back().cloned()
    }

    /// Waits until exactly `count` requests are in flight.
    ///
    /// # Errors
    /// When that does not happen within [`PATIENCE`].
    pub async fn wait_in_flight(&self, count: u64) -> Result<(), TimedOut> {
        eventually(PATIENCE, || async {
            let now = self.in_flight();
            if now == count { Ok(()) } else { Err(format!("{now} in flight, not {count}")) }
        })
        .await
    }

    /// Sets all counters back, except for what is in flight now.
    pub fn reset_counters(&self) {
        let mut counts = lock(&self.shared.counts);
        *counts = Counts { in_flight: counts.in_flight, max_in_flight: counts.in_flight, ..Counts::default() };
        lock(&self.shared.seen).clear();
        self.shared.connections.store(0, Ordering::Relaxed);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // The task owns the listener and, through its set of tasks, every connection.
        if let Some(task) = lock(&self.accepting).take() {
            task.abort();
        }
    }
}

type Script = dyn Fn(&SeenRequest) -> Action + Send + Sync;

struct Shared {
    script: RwLock<Arc<Script>>,
    gate: Gate,
    counts: Mutex<Counts>,
    seen: Mutex<VecDeque<SeenRequest>>,
    connections: AtomicU64,
}

#[derive(Default)]
struct Counts {
    requests: u64,
    by_path: BTreeMap<String, u64>,
    in_flight: u64,
    max_in_flight: u64,
}

struct Gate {
    closed: watch::Sender<bool>,
    permits: Semaphore,
}

impl Gate {
    async fn pass(&self) {
        let mut closed = self.closed.subscribe();
        if !*closed.borrow_and_update() {
            return;
        }
        tokio::select! {
            permit = self.permits.acquire() => permit.expect("the gate's semaphore is never closed").forget(),
            open = closed.wait_for(|closed| !closed) => drop(open),
        }
    }
}

/// Counts one request as in flight for as long as it lives.
struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        lock(&self.0.counts).in_flight -= 1;
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            script: RwLock::new(Arc::new(|_| Action::ok())),
            gate: Gate { closed: watch::Sender::new(false), permits: Semaphore::new(0) },
            counts: Mutex::default(),
            seen: Mutex::default(),
            connections: AtomicU64::new(0),
        }
    }

    fn arrive(self: &Arc<Self>, path: &str) -> (u64, InFlight) {
        let mut counts = lock(&self.counts);
        let index = counts.requests;
        counts.requests += 1;
        *counts.by_path.entry(path.to_owned()).or_default() += 1;
        counts.in_flight += 1;
        counts.max_in_flight = counts.max_in_flight.max(counts.in_flight);
        (index, InFlight(Arc::clone(self)))
    }

    fn remember(&self, request: SeenRequest) {
        let mut seen = lock(&self.seen);
        if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(request);
    }

    async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        cut: Arc<Notify>,
    ) -> hyper::Result<Response<ReplyBody>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let (index, _in_flight) = self.arrive(&path);
        let body = body.collect().await?.to_bytes();
        let seen = SeenRequest { index, method: head.method, path, headers: head.headers, body };
        self.remember(seen.clone());
        self.gate.pass().await;
        let script = Arc::clone(&self.script.read().unwrap_or_else(PoisonError::into_inner));
        let action = script(&seen);
        tokio::time::sleep(action.delay).await;
        match action.ending {
            Ending::Answer => Ok(answer(action)),
            Ending::Truncate => Ok(truncated(action)),
            Ending::Hang => pending().await,
            Ending::Reset => {
                cut.notify_one();
                pending().await
            }
        }
    }
}

type ReplyBody = UnsyncBoxBody<Bytes, io::Error>;

fn answer(action: Action) -> Response<ReplyBody> {
    let body = if action.body.is_empty() {
        Empty::new().map_err(never).boxed_unsync()
    } else {
        Full::new(action.body.clone()).map_err(never).boxed_unsync()
    };
    let body = match action.trailers.clone() {
        Some(trailers) => body.with_trailers(async { Some(Ok(trailers)) }).boxed_unsync(),
        None => body,
    };
    head(&action, body)
}

fn truncated(mut action: Action) -> Response<ReplyBody> {
    action.headers.push((http::header::CONTENT_LENGTH, HeaderValue::from(action.body.len())));
    let half = action.body.slice(..action.body.len() / 2);
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
    tokio::spawn(async move {
        if sender.send_data(half).await.is_ok() {
            tokio::time::sleep(HALF_SENT).await;
            sender.abort(io::Error::other("the script truncates this body"));
        }
    });
    head(&action, body.boxed_unsync())
}

fn head(action: &Action, body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = action.status;
    for (name, value) in &action.headers {
        response.headers_mut().append(name, value.clone());
    }
    response
}

fn never(never: Infallible) -> io::Error {
    match never {}
}

fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections that linger from an earlier listener on the port must not stand in the way.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        // Finished connections are let go here, or the set would grow with every one.
        while connections.try_join_next().is_some() {}
        if let Ok((stream, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::Relaxed);
            connections.spawn(connection(stream, Arc::clone(&shared)));
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    // The server owns the stream; a second descriptor of the same socket is the handle to cut it with.
    let Ok(handle) = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned() else { return };
    let cut = Arc::new(Notify::new());
    let server = auto::Builder::new(TokioExecutor::new());
    {
        let service = service_fn(|request| Arc::clone(&shared).serve(request, Arc::clone(&cut)));
        let serving = server.serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // The peer decides how a connection ends; there is nothing to report.
            _ = serving => {}
            () = cut.notified() => {
                // With no time to linger, closing the last descriptor sends a reset.
                let _ = SockRef::from(&handle).set_linger(Some(Duration::ZERO));
            }
        }
    }
    drop(handle);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
