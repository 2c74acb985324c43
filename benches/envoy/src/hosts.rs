//! The hosts behind Envoy, as cheap as hosts can be, so that Envoy is what a load keeps busy: one thread, which answers each
//! request with the same bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::cores::Cores;

/// What a healthy host answers.
const HEALTHY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n\
{\"id\":42,\"name\":\"an item ordered\",\"state\":\"shipped\",\"items\":[{\"id\":7,\"count\":2},{\"id\":9,\"count\":1}]}";

/// What a failing one answers.
const FAILING: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nout of order";

/// What a healthy one answers where a case asks for long answers: a head, and a body that is as long as it says.
fn long_answer(length: usize) -> Bytes {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncache-control: public, max-age=60\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len().saturating_add(length), b'x');
    answer.into()
}

/// How the head of every request ends.
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Running hosts, each at an address of its own in 127.0.0.0/8. They end when this is dropped.
pub struct Hosts {
    all: Vec<Arc<Host>>,
    _until: oneshot::Sender<()>,
}

/// One of them.
pub struct Host {
    addr: SocketAddr,
    failing: AtomicBool,
    /// What it answers while it is well.
    healthy: Mutex<Bytes>,
    requests: AtomicU64,
}

impl Hosts {
    /// Starts so many, on a thread that keeps to `core` where one is given.
    pub fn start(count: u16, core: Option<usize>) -> anyhow::Result<Self> {
        let (listeners, all) = (0..count).map(listen).collect::<anyhow::Result<(Vec<_>, Vec<_>)>>()?;
        let (until, over) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let hosts: Vec<(std::net::TcpListener, Arc<Host>)> =
            listeners.into_iter().zip(all.iter().map(Arc::clone)).collect();
        thread::Builder::new().name("hosts".to_owned()).spawn(move || {
            Cores::keep_to(core);
            runtime.block_on(async {
                for (listener, host) in hosts {
                    tokio::spawn(accept(listener, host));
                }
                let _ = over.await;
            });
        })?;
        Ok(Hosts { all, _until: until })
    }

    /// The first `count` of them.
    pub fn first(&self, count: usize) -> &[Arc<Host>] {
        self.all.get(..count).unwrap_or(&self.all)
    }
}

impl Host {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets it answer 503, or well again.
    pub fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// Lets it answer so many bytes that any cache may keep, or with 0 a few that none may.
    pub fn set_answer(&self, length: usize) {
        let answer = if length > 0 { long_answer(length) } else { Bytes::from_static(HEALTHY) };
        *self.healthy.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// What it answers now.
    fn answer(&self) -> Bytes {
        if self.failing.load(Ordering::Relaxed) {
            return Bytes::from_static(FAILING);
        }
        self.healthy.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests it has answered.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

fn listen(number: u16) -> anyhow::Result<(std::net::TcpListener, Arc<Host>)> {
    let [high, low] = number.to_be_bytes();
    let ip = Ipv4Addr::new(127, 0, high.saturating_add(1), low.saturating_add(1));
    let listener = std::net::TcpListener::bind((ip, 0)).with_context(|| format!("a host cannot listen at {ip}"))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let healthy = Mutex::new(Bytes::from_static(HEALTHY));
    Ok((listener, Arc::new(Host { addr, failing: AtomicBool::new(false), healthy, requests: AtomicU64::new(0) })))
}

async fn accept(listener: std::net::TcpListener, host: Arc<Host>) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, Arc::clone(&host)));
    }
}

/// Answers whatever comes on a connection. The next request comes when the last is answered.
async fn serve(mut stream: TcpStream, host: Arc<Host>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::with_capacity(4096);
    while stream.read_buf(&mut request).await? > 0 {
        if is_whole(&request) {
            request.clear();
            host.requests.fetch_add(1, Ordering::Relaxed);
            stream.write_all(&host.answer()).await?;
        }
    }
    Ok(())
}

/// Whether all of a request is there, with as much of a body as it says.
fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(END_OF_HEAD.len()).position(|bytes| bytes == END_OF_HEAD) else { return false };
    let (head, rest) = request.split_at(end);
    rest.len() >= END_OF_HEAD.len().saturating_add(content_length(head))
}

/// The length of the body that a head announces.
fn content_length(head: &[u8]) -> usize {
    let lines = head.split(|byte| *byte == b'\n');
    let value = lines.filter_map(|line| line.strip_prefix(b"content-length:")).next();
    value.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_with_the_body_that_it_announces() {
        let get = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        assert!(is_whole(get) && !is_whole(get.get(..20).unwrap()));
        let post = |body: &str| format!("POST / HTTP/1.1\r\ncontent-length: 3\r\nhost: a\r\n\r\n{body}");
        assert!(!is_whole(post("").as_bytes()) && !is_whole(post("xx").as_bytes()) && is_whole(post("xxx").as_bytes()));
    }

    #[test]
    fn answers_are_as_long_as_they_say() {
        let long = long_answer(1024);
        assert!(long.ends_with(&[b'x'; 1024]));
        for answer in [HEALTHY, FAILING, &long] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head} is followed by {}", body.len());
        }
    }

    #[tokio::test]
    async fn a_host_answers_well_or_fails_and_counts() {
        let hosts = Hosts::start(2, None).unwrap();
        let [first, second] = hosts.first(2) else { panic!("two hosts") };
        let client = holdfast_tests::Client::http1(second.addr());
        assert_eq!(client.get("/").await.unwrap().status, 200);
        second.set_failing(true);
        assert_eq!(client.get("/").await.unwrap().status, 503);
        assert_eq!((first.requests(), second.requests()), (0, 2));
    }
}
