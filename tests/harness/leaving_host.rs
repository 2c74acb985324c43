//! An HTTP/2 host that is about to leave: it answers each request with a GOAWAY that says that it has processed none.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// RFC 9113, section 3.4.
const PREFACE: usize = 24;
/// The types of frames (RFC 9113, section 6) that it reads or writes, and their flags.
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;

/// The server. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct LeavingHost {
    addr: SocketAddr,
    requests: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl LeavingHost {
    /// Starts on a free port of 127.0.0.1. It `closes` a connection after its GOAWAY, or leaves that to the client.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(closes: bool) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                // The peer decides how a connection ends; there is nothing to report.
                serving.spawn(async move { drop(serve(stream, closes, &counted).await) });
            }
        });
        Ok(Self { addr, requests, accepting })
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests that have come to their end, since this was last asked.
    #[must_use]
    pub fn take_requests(&self) -> u64 {
        self.requests.swap(0, Ordering::Relaxed)
    }
}

impl Drop for LeavingHost {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A frame of this type with these flags, on the connection itself.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let size = u8::try_from(payload.len()).expect("a short frame");
    [&[0, 0, size, kind, flags, 0, 0, 0, 0], payload].concat()
}

async fn serve(mut stream: TcpStream, closes: bool, requests: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut [0; PREFACE]).await?;
    stream.write_all(&frame(SETTINGS, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [high, middle, low, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        stream.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, &[])).await?,
            DATA | HEADERS if flags & END_STREAM != 0 => {
                requests.fetch_add(1, Ordering::Relaxed);
                // The last stream that it has processed is none, and nothing is wrong.
                stream.write_all(&frame(GOAWAY, 0, &[0; 8])).await?;
                if closes {
                    return stream.shutdown().await;
                }
            }
            _ => {}
        }
    }
}
