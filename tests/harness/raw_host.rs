//! A host that writes its answers byte for byte, for what no HTTP library would send.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What a [`RawHost`] does when it has written its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It waits for the next request.
    Wait,
    /// It closes the connection.
    Close,
    /// It writes nothing more and keeps the connection open.
    Stall,
}

/// An HTTP/1.1 server on a loopback port for requests without a body.
///
/// Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct RawHost {
    addr: SocketAddr,
    connections: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl RawHost {
    /// Starts on a free port of 127.0.0.1. `answer` gives the bytes for a path.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(answer: impl Fn(&str) -> (Vec<u8>, Then) + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let connections = Arc::new(AtomicU64::new(0));
        let (answer, counted) = (Arc::new(answer), Arc::clone(&connections));
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let answer = Arc::clone(&answer);
                // The peer decides how a connection ends; there is nothing to report.
                serving.spawn(async move { drop(serve(stream, &*answer).await) });
            }
        });
        Ok(Self { addr, connections, accepting })
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections that were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for RawHost {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: &(impl Fn(&str) -> (Vec<u8>, Then) + Sync)) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        head.push(stream.read_u8().await?);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let (bytes, then) = answer(text.split(' ').nth(1).unwrap_or_default());
        stream.write_all(&bytes).await?;
        match then {
            Then::Wait => head.clear(),
            Then::Close => return stream.shutdown().await,
            Then::Stall => std::future::pending().await,
        }
    }
}
