//! A server that misbehaves on request and counts what it sees.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Channel, Empty, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::action::Ending;
use crate::stream_reset::stream_error;
use crate::{Action, PATIENCE, SeenRequest, TimedOut, eventually};

/// How many requests are remembered with their headers and bodies.
const REMEMBERED: usize = 8192;

/// Long enough for the first half of a truncated body to be on the wire before the connection closes.
const HALF_SENT: Duration = Duration::from_millis(50);

/// An HTTP/1.1 and HTTP/2 (prior knowledge) server on a loopback port, answering `200 ok` until told otherwise.
///
/// A change of behaviour holds for every request that has not been acted upon, so also for requests at the gate.
/// Dropping the server closes its port and its connections.
pub struct Backend {
    shared: Arc<Shared>,
    addr: SocketAddr,
    /// Bound to the end and never listening, so that the port stays ours while connections are refused.
    _reserved: Socket,
    accepting: Mutex<Option<Accepting>>,
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
        let reserved = bind(addr)?;
        let addr = reserved.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let shared = Arc::new(Shared::new());
        let backend = Self { shared, addr, _reserved: reserved, accepting: Mutex::default() };
        backend.resume()?;
        Ok(backend)
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

    /// Lets a function choose when only the headers are there, before the body is read; [`SeenRequest::body`] is empty
    /// then. Requests for which it returns `None` are read whole and left to the script, as all are at the start.
    ///
    /// An answer over HTTP/1.1 before the end of the body closes the connection. A body announced with
    /// `expect: 100-continue` is not asked for.
    pub fn script_at_headers(&self, script: impl Fn(&SeenRequest) -> Option<Action> + Send + Sync + 'static) {
        *self.shared.script_at_headers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
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
    /// When the system does not let it.
    pub async fn refuse(&self) -> io::Result<()> {
        let accepting = lock(&self.accepting).take();
        match accepting {
            Some(accepting) => accepting.end().await,
            None => Ok(()),
        }
    }

    /// Accepts connections again, on the same port.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub fn resume(&self) -> io::Result<()> {
        let mut accepting = lock(&self.accepting);
        if accepting.is_none() {
            *accepting = Some(Accepting::start(self.addr, Arc::clone(&self.shared))?);
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

    /// Requests that have arrived and whose answers have not begun.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        lock(&self.shared.counts).in_flight
    }

    /// Requests whose answers have not been sent to the end, nor broken off.
    #[must_use]
    pub fn open_streams(&self) -> u64 {
        lock(&self.shared.counts).open_streams
    }

    /// Connections that are open. A kept one without a request is one too.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        lock(&self.shared.counts).open_connections
    }

    /// The most requests that were in flight at once.
    #[must_use]
    pub fn max_in_flight(&self) -> u64 {
        lock(&self.shared.counts).max_in_flight
    }

    /// Connections that were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        lock(&self.shared.counts).connections
    }

    /// The last requests (up to 8192) whose bodies have arrived whole or were not waited for, oldest first.
    #[must_use]
    pub fn seen(&self) -> Vec<SeenRequest> {
        lock(&self.shared.seen).iter().cloned().collect()
    }

    /// The last of [`seen`](Self::seen).
    #[must_use]
    pub fn last_seen(&self) -> Option<SeenRequest> {
        lock(&self.shared.seen).back().cloned()
    }

    /// Those of [`seen`](Self::seen) with this value of a header: the attempts of one request, when clients give each its
    /// own.
    #[must_use]
    pub fn seen_with(&self, header: &str, value: &str) -> Vec<SeenRequest> {
        seen_by_all(&[self], header, value)
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

    /// Waits until no stream is open: nothing leaks.
    ///
    /// # Errors
    /// When that does not happen within [`PATIENCE`].
    pub async fn wait_idle(&self) -> Result<(), TimedOut> {
        eventually(PATIENCE, || async {
            let open = self.open_streams();
            if open == 0 { Ok(()) } else { Err(format!("{open} streams are open")) }
        })
        .await
    }

    /// Sets all counters back, except for what is in flight or open now.
    pub fn reset_counters(&self) {
        let mut counts = lock(&self.shared.counts);
        *counts = Counts {
            in_flight: counts.in_flight,
            max_in_flight: counts.in_flight,
            open_streams: counts.open_streams,
            open_connections: counts.open_connections,
            ..Counts::default()
        };
        lock(&self.shared.seen).clear();
    }
}

/// What all these backends have seen with this value of a header, by arrival: the attempts of one request, on whichever
/// host they fell.
#[must_use]
pub fn seen_by_all(backends: &[&Backend], header: &str, value: &str) -> Vec<SeenRequest> {
    let all = backends.iter().flat_map(|backend| backend.seen());
    let mut seen: Vec<SeenRequest> = all.filter(|request| request.header(header).as_deref() == Some(value)).collect();
    seen.sort_by_key(|request| request.at);
    seen
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(accepting) = lock(&self.accepting).take() {
            let _ = accepting.stop();
        }
    }
}

/// A listening socket, and the task that owns it and, through its set of tasks, every connection.
struct Accepting {
    task: JoinHandle<()>,
    socket: Socket,
}

impl Accepting {
    fn start(addr: SocketAddr, shared: Arc<Shared>) -> io::Result<Self> {
        let socket = bind(addr)?;
        socket.listen(1024)?;
        let listener = TcpListener::from_std(socket.try_clone()?.into())?;
        Ok(Self { task: tokio::spawn(accept(listener, shared)), socket })
    }

    fn stop(&self) -> io::Result<()> {
        self.task.abort();
        // When it was only closed, it would go on as long as a process that is just being started has a copy of it.
        self.socket.shutdown(Shutdown::Read)
    }

    /// [`stop`](Self::stop), and every connection is cut.
    async fn end(self) -> io::Result<()> {
        self.stop()?;
        let _ = self.task.await;
        Ok(())
    }
}

type Script = dyn Fn(&SeenRequest) -> Action + Send + Sync;
type ScriptAtHeaders = dyn Fn(&SeenRequest) -> Option<Action> + Send + Sync;

struct Shared {
    script: RwLock<Arc<Script>>,
    script_at_headers: RwLock<Arc<ScriptAtHeaders>>,
    gate: Gate,
    counts: Mutex<Counts>,
    seen: Mutex<VecDeque<SeenRequest>>,
}

#[derive(Default)]
struct Counts {
    requests: u64,
    by_path: BTreeMap<String, u64>,
    in_flight: u64,
    max_in_flight: u64,
    open_streams: u64,
    connections: u64,
    open_connections: u64,
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

/// Counts one of what `of` counts, for as long as it lives.
struct Counted {
    shared: Arc<Shared>,
    of: fn(&mut Counts) -> &mut u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        *(self.of)(&mut lock(&self.shared.counts)) -= 1;
    }
}

impl Shared {
    fn new() -> Self {
        Self {
            script: RwLock::new(Arc::new(|_| Action::ok())),
            script_at_headers: RwLock::new(Arc::new(|_| None)),
            gate: Gate { closed: watch::Sender::new(false), permits: Semaphore::new(0) },
            counts: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    fn counted(self: &Arc<Self>, of: fn(&mut Counts) -> &mut u64) -> Counted {
        *of(&mut lock(&self.counts)) += 1;
        Counted { shared: Arc::clone(self), of }
    }

    fn arrive(self: &Arc<Self>, path: &str) -> (u64, Counted) {
        let mut counts = lock(&self.counts);
        let index = counts.requests;
        counts.requests += 1;
        *counts.by_path.entry(path.to_owned()).or_default() += 1;
        counts.in_flight += 1;
        counts.max_in_flight = counts.max_in_flight.max(counts.in_flight);
        (index, Counted { shared: Arc::clone(self), of: |counts| &mut counts.in_flight })
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
    ) -> Result<Response<Reply>, hyper::Error> {
        let at = Instant::now();
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let open = self.counted(|counts| &mut counts.open_streams);
        let (index, _in_flight) = self.arrive(&path);
        let mut seen = SeenRequest {
            index,
            at,
            version: head.version,
            method: head.method,
            path,
            headers: head.headers,
            body: Bytes::new(),
        };
        let script = Arc::clone(&self.script_at_headers.read().unwrap_or_else(PoisonError::into_inner));
        let action = if let Some(action) = script(&seen) {
            self.remember(seen);
            self.gate.pass().await;
            action
        } else {
            seen.body = body.collect().await?.to_bytes();
            self.remember(seen.clone());
            self.gate.pass().await;
            let script = Arc::clone(&self.script.read().unwrap_or_else(PoisonError::into_inner));
            script(&seen)
        };
        tokio::time::sleep(action.delay).await;
        let response = match action.ending {
            Ending::Answer => answer(action),
            Ending::Truncate => truncated(action),
            Ending::Stall => head_of(&action, Never.boxed_unsync()),
            Ending::Hang => pending().await,
            Ending::ResetStream(code) => return Err(stream_error(code).await),
            Ending::ResetConnection => {
                cut.notify_one();
                pending().await
            }
        };
        Ok(response.map(|body| Reply { body, _open: open }))
    }
}

type ReplyBody = UnsyncBoxBody<Bytes, io::Error>;

/// A body whose stream counts as open until it has been sent or given up.
struct Reply {
    body: ReplyBody,
    _open: Counted,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that never comes.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Pending
    }
}

fn answer(action: Action) -> Response<ReplyBody> {
    let body = match action.lasts {
        Some(time) => later(action.body.clone(), time),
        None if action.body.is_empty() => Empty::new().map_err(never).boxed_unsync(),
        None => Full::new(action.body.clone()).map_err(never).boxed_unsync(),
    };
    let body = match action.trailers.clone() {
        Some(trailers) => body.with_trailers(async { Some(Ok(trailers)) }).boxed_unsync(),
        None => body,
    };
    head_of(&action, body)
}

/// A body that comes, and ends, after this time.
fn later(data: Bytes, time: Duration) -> ReplyBody {
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        // Whoever has left reads nothing more.
        let _ = sender.send_data(data).await;
    });
    body.boxed_unsync()
}

fn truncated(mut action: Action) -> Response<ReplyBody> {
    action.headers.push((http::header::CONTENT_LENGTH, HeaderValue::from(action.body.len())));
    let half_sent = action.lasts.unwrap_or(HALF_SENT);
    let half = action.body.slice(..action.body.len() / 2);
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(1);
    tokio::spawn(async move {
        if sender.send_data(half).await.is_ok() {
            tokio::time::sleep(half_sent).await;
            sender.abort(io::Error::other("the script truncates this body"));
        }
    });
    head_of(&action, body.boxed_unsync())
}

fn head_of(action: &Action, body: ReplyBody) -> Response<ReplyBody> {
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

fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Connections that linger from an earlier listener on the port must not stand in the way.
    socket.set_reuse_address(true)?;
    // Two sockets of ours share the port; the system gives it to nobody who asks for any.
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        // Finished connections are let go here, or the set would grow with every one.
        while connections.try_join_next().is_some() {}
        if let Ok((stream, _)) = listener.accept().await {
            lock(&shared.counts).connections += 1;
            connections.spawn(connection(stream, Arc::clone(&shared)));
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let _open = shared.counted(|counts| &mut counts.open_connections);
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
