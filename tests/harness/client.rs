//! A client that keeps every answer, byte for byte.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Channel, Full};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::{PATIENCE, TimedOut, eventually};

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers, as bytes.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers, if any came.
    pub trailers: Option<HeaderMap>,
}

impl Response {
    /// The first value of a header, with bytes that are not UTF-8 replaced.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// The body as text, with bytes that are not UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` when it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether the body has fewer bytes than `content-length` announced. Before Envoy 1.37 a response that a host breaks off ends
    /// so for a client over HTTP/2: its stream is reset with a code that is no error. From 1.37 on it is a [`SendError`].
    #[must_use]
    pub fn is_cut_short(&self) -> bool {
        let announced = self.header("content-length").and_then(|length| length.parse().ok());
        announced.is_some_and(|length: usize| self.body.len() < length)
    }

    /// The gRPC status, from the trailers or, in an answer of trailers only, from the headers.
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        let status = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        self.trailers.as_ref().and_then(status).or_else(|| status(&self.headers))
    }
}

/// A request that got no whole answer.
#[derive(Clone, Debug)]
pub struct SendError {
    /// The status, when the answer broke off after its head.
    pub status: Option<u16>,
    /// What happened, causes included.
    pub message: String,
}

impl SendError {
    fn new(status: Option<StatusCode>, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self { status: status.map(|status| status.as_u16()), message }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "broke off after status {status}: {}", self.message),
            None => write!(f, "no answer: {}", self.message),
        }
    }
}

impl std::error::Error for SendError {}

/// One request of a burst or a load.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was sent, from the start of the run.
    pub at: Duration,
    /// How long the whole answer took.
    pub latency: Duration,
    /// The answer.
    pub outcome: Result<Response, SendError>,
}

impl Record {
    /// The status of a whole answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.outcome.as_ref().ok().map(|response| response.status)
    }
}

/// What a burst or a load brought back, in the order of sending.
#[derive(Clone, Debug, Default)]
pub struct Records(pub Vec<Record>);

impl Records {
    /// Whole answers by status.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for status in self.0.iter().filter_map(Record::status) {
            *counts.entry(status).or_default() += 1;
        }
        counts
    }

    /// The number of whole answers with this status.
    #[must_use]
    pub fn count(&self, status: u16) -> usize {
        self.0.iter().filter(|record| record.status() == Some(status)).count()
    }

    /// The whole answers.
    pub fn responses(&self) -> impl Iterator<Item = &Response> {
        self.0.iter().filter_map(|record| record.outcome.as_ref().ok())
    }

    /// The requests without a whole answer.
    pub fn errors(&self) -> impl Iterator<Item = &SendError> {
        self.0.iter().filter_map(|record| record.outcome.as_ref().err())
    }

    /// The latency that `percent` of the requests did not exceed; zero for an empty run.
    #[must_use]
    pub fn latency(&self, percent: f64) -> Duration {
        let mut all: Vec<Duration> = self.0.iter().map(|record| record.latency).collect();
        all.sort_unstable();
        let rank = (percent / 100.0 * all.len() as f64).ceil() as usize;
        all.get(rank.clamp(1, all.len().max(1)) - 1).copied().unwrap_or_default()
    }
}

/// A client of one address. Clones share the connections.
#[derive(Clone)]
pub struct Client {
    addr: SocketAddr,
    authority: String,
    timeout: Duration,
    version: Version,
    inner: legacy::Client<Dial, Body>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?} to {})", self.version, self.addr)
    }
}

impl Client {
    /// HTTP/1.1 with a pool of kept connections.
    #[must_use]
    pub fn http1(addr: SocketAddr) -> Self {
        Self::new(addr, Version::HTTP_11)
    }

    /// HTTP/2 without TLS, over one connection.
    #[must_use]
    pub fn http2(addr: SocketAddr) -> Self {
        Self::new(addr, Version::HTTP_2)
    }

    fn new(addr: SocketAddr, version: Version) -> Self {
        let inner = Self::pool(addr, version);
        Self { addr, authority: addr.to_string(), timeout: PATIENCE, version, inner }
    }

    fn pool(addr: SocketAddr, version: Version) -> legacy::Client<Dial, Body> {
        legacy::Client::builder(TokioExecutor::new()).http2_only(version == Version::HTTP_2).build(Dial(addr))
    }

    /// The address that it asks.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Asks for this authority (`host` or `:authority`) instead of the address.
    #[must_use]
    pub fn authority(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// Sets the time for a whole answer, instead of [`PATIENCE`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same client without its connections. After an update of a listener an old connection may still be served
    /// by the old configuration.
    #[must_use]
    pub fn reconnected(&self) -> Self {
        Self { inner: Self::pool(self.addr, self.version), ..self.clone() }
    }

    /// A GET request for `path`, to be changed and given to [`send`](Self::send).
    #[must_use]
    pub fn request(path: &str) -> Request<Bytes> {
        Request::builder().uri(path).body(Bytes::new()).expect("a path begins with / and holds no spaces")
    }

    /// A POST request for `path` with this body.
    #[must_use]
    pub fn post_request(path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
        let mut request = Self::request(path).map(|_| body.into());
        *request.method_mut() = Method::POST;
        request
    }

    /// A gRPC request for `path` (`/package.Service/Method`) with one empty message.
    #[must_use]
    pub fn grpc_request(path: &str) -> Request<Bytes> {
        Request::builder()
            .method("POST")
            .uri(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Bytes::from_static(&[0; 5]))
            .expect("a path begins with / and holds no spaces")
    }

    /// Sends a GET request and reads the whole answer.
    ///
    /// # Errors
    /// When no whole answer came.
    pub async fn get(&self, path: &str) -> Result<Response, SendError> {
        self.send(Self::request(path)).await
    }

    /// Sends a request and reads the whole answer. A request target without an authority gets the client's.
    ///
    /// # Errors
    /// When no whole answer came.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response, SendError> {
        self.exchange(request.map(|body| Full::new(body).boxed_unsync())).await
    }

    async fn exchange(&self, mut request: Request<Body>) -> Result<Response, SendError> {
        if request.uri().authority().is_none() {
            *request.uri_mut() = self.absolute(request.uri());
        }
        let whole = async {
            let answer = self.inner.request(request).await.map_err(|error| SendError::new(None, &error))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| SendError::new(Some(head.status), &error))?;
            let trailers = body.trailers().cloned();
            Ok(Response { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes(), trailers })
        };
        tokio::time::timeout(self.timeout, whole).await.unwrap_or_else(|elapsed| Err(SendError::new(None, &elapsed)))
    }

    fn absolute(&self, target: &Uri) -> Uri {
        let path = target.path_and_query().map_or("/", |path| path.as_str());
        Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build()
            .expect("the authority is a valid one")
    }

    /// Sends `count` copies of `request` at once and waits for all answers.
    pub async fn burst(&self, count: usize, request: impl Into<Template>) -> Records {
        self.drive(count, count, request).await
    }

    /// Closed loop: `concurrency` senders, each sending its next request when the last is answered, `total` in all.
    pub async fn drive(&self, concurrency: usize, total: usize, request: impl Into<Template>) -> Records {
        let request = request.into();
        let sent = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let mut senders = JoinSet::new();
        for _ in 0..concurrency {
            let (client, request, sent) = (self.clone(), request.clone(), Arc::clone(&sent));
            senders.spawn(async move {
                let mut records = Vec::new();
                loop {
                    let index = sent.fetch_add(1, Ordering::Relaxed);
                    if index >= total as u64 {
                        return records;
                    }
                    records.push(client.record(start, request.at(index)).await);
                }
            });
        }
        in_order(senders.join_all().await.into_iter().flatten().collect())
    }

    /// Open loop: a request every 1/`rps` seconds for `duration`, whatever the answers do.
    pub async fn steady(&self, rps: f64, duration: Duration, request: impl Into<Template>) -> Records {
        let request = request.into();
        let start = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rps));
        let mut sent = JoinSet::new();
        let mut index = 0;
        loop {
            let due = ticks.tick().await;
            if due.duration_since(start) >= duration {
                return in_order(sent.join_all().await);
            }
            let (client, request) = (self.clone(), request.at(index));
            sent.spawn(async move { client.record(start, request).await });
            index += 1;
        }
    }

    pub(crate) async fn record(&self, start: Instant, request: Request<Bytes>) -> Record {
        let at = start.elapsed();
        let outcome = self.send(request).await;
        Record { at, latency: start.elapsed().saturating_sub(at), outcome }
    }

    /// Sends a request whose answer may be waited for or given up.
    pub fn open(&self, request: Request<Bytes>) -> OpenRequest {
        let client = self.clone();
        let exchange = tokio::spawn(async move { client.send(request).await });
        OpenRequest { exchange, body: None, continued: Arc::default() }
    }

    /// Sends the head and the body given here, but not the end of the body.
    pub fn open_unfinished(&self, request: Request<Bytes>) -> OpenRequest {
        let (head, start) = request.into_parts();
        let (mut sender, body) = Channel::<Bytes>::new(1);
        if !start.is_empty() {
            // The channel has room for one frame and nobody reads before the request is sent.
            let _ = sender.try_send(hyper::body::Frame::data(start));
        }
        let mut request = Request::from_parts(head, body.boxed_unsync());
        let continued = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&continued);
        hyper::ext::on_informational(&mut request, move |response| {
            seen.fetch_or(response.status() == StatusCode::CONTINUE, Ordering::Relaxed);
        });
        let client = self.clone();
        let exchange = tokio::spawn(async move { client.exchange(request).await });
        OpenRequest { exchange, body: Some(sender), continued }
    }

    /// Sends the body over time, in pieces of `size` bytes (the last may be shorter) with a pause after each. An answer
    /// that comes before the end is final.
    ///
    /// # Panics
    /// When `size` is 0.
    pub fn open_in_pieces(&self, request: Request<Bytes>, size: usize, pause: Duration) -> OpenRequest {
        let (head, body) = request.into_parts();
        let mut open = self.open_unfinished(Request::from_parts(head, Bytes::new()));
        assert_ne!(size, 0, "a piece holds something");
        if let Some(mut sender) = open.body.take() {
            tokio::spawn(async move {
                let mut rest = body;
                while !rest.is_empty() {
                    let piece = rest.split_to(size.min(rest.len()));
                    if sender.send_data(piece).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            });
        }
        open
    }
}

/// A body of `size` bytes that is a row of numbers, so that parts lost, doubled or exchanged on the way show.
#[must_use]
pub fn body_of(size: usize) -> Bytes {
    let numbers = (0_u64..).flat_map(u64::to_be_bytes);
    numbers.take(size).collect()
}

/// The request with one more header. The value may hold any bytes that HTTP allows, UTF-8 or not.
#[must_use]
pub fn with_header<B>(mut request: Request<B>, name: &str, value: impl AsRef<[u8]>) -> Request<B> {
    let name: HeaderName = name.parse().expect("a header name");
    request.headers_mut().append(name, HeaderValue::from_bytes(value.as_ref()).expect("a header value"));
    request
}

/// A request under way. Dropping it leaves it under way.
#[derive(Debug)]
pub struct OpenRequest {
    exchange: JoinHandle<Result<Response, SendError>>,
    body: Option<http_body_util::channel::Sender<Bytes>>,
    continued: Arc<AtomicBool>,
}

impl OpenRequest {
    /// Sends more of an unfinished body.
    ///
    /// # Errors
    /// When the body is not read any more.
    ///
    /// # Panics
    /// When the request was not opened with [`Client::open_unfinished`].
    pub async fn send_more(&mut self, data: impl Into<Bytes>) -> Result<(), SendError> {
        let body = self.body.as_mut().expect("the body is unfinished");
        body.send_data(data.into()).await.map_err(|error| SendError::new(None, &error))
    }

    /// Ends an unfinished body with a trailer, which HTTP/1.1 loses, without waiting for the answer.
    ///
    /// # Errors
    /// When the body is not read any more.
    ///
    /// # Panics
    /// When the request was not opened with [`Client::open_unfinished`].
    pub async fn end_with_trailer(&mut self, name: &'static str, value: &'static str) -> Result<(), SendError> {
        let mut body = self.body.take().expect("the body is unfinished");
        let trailers = [(HeaderName::from_static(name), HeaderValue::from_static(value))].into_iter().collect();
        body.send_trailers(trailers).await.map_err(|error| SendError::new(None, &error))
    }

    /// Ends an unfinished body, without waiting for the answer.
    pub fn end_body(&mut self) {
        self.body = None;
    }

    /// Whether a `100 Continue` has come for an unfinished body. Over HTTP/2 none is ever seen: hyper drops it.
    #[must_use]
    pub fn is_continued(&self) -> bool {
        self.continued.load(Ordering::Relaxed)
    }

    /// Waits for the `100 Continue` that a request with `expect: 100-continue` asks for.
    ///
    /// # Errors
    /// When none comes before the answer, nor within [`PATIENCE`].
    pub async fn wait_continue(&self) -> Result<(), TimedOut> {
        eventually(PATIENCE, || async { self.is_continued() || self.is_finished() }).await?;
        if self.is_continued() {
            return Ok(());
        }
        Err(TimedOut { waited: Duration::ZERO, last: "the request ended without 100 Continue".to_owned() })
    }

    /// Ends the body, if it is still open, and waits for the answer.
    ///
    /// # Errors
    /// When no whole answer came.
    pub async fn finish(mut self) -> Result<Response, SendError> {
        self.end_body();
        self.exchange.await.expect("the request's task neither panics nor is aborted")
    }

    /// Whether the answer is there, or will never be.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.exchange.is_finished()
    }

    /// Goes away: closes the connection (HTTP/1.1) or resets the stream (HTTP/2).
    pub async fn disconnect(self) {
        self.exchange.abort();
        let _ = self.exchange.await;
    }
}

/// What a burst or a load sends: the same request each time, or one made from its number.
#[derive(Clone)]
pub struct Template(Arc<dyn Fn(u64) -> Request<Bytes> + Send + Sync>);

impl Template {
    /// Makes each request from its number, from 0.
    pub fn new(make: impl Fn(u64) -> Request<Bytes> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    pub(crate) fn at(&self, index: u64) -> Request<Bytes> {
        (self.0)(index)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template")
    }
}

impl From<Request<Bytes>> for Template {
    fn from(request: Request<Bytes>) -> Self {
        Self::new(move |_| request.clone())
    }
}

impl From<&str> for Template {
    fn from(path: &str) -> Self {
        Client::request(path).into()
    }
}

pub(crate) fn in_order(mut records: Vec<Record>) -> Records {
    records.sort_by_key(|record| record.at);
    Records(records)
}

/// Connects to one address, whatever authority the request names.
#[derive(Clone, Copy)]
struct Dial(SocketAddr);

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let addr = self.0;
        Box::pin(async move {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}
