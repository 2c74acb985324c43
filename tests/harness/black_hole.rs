//! A host that swallows connections: it listens, and nobody hears from it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Of so many connections the first fill the queue, and the rest go on asking.
const FILLERS: usize = 4;

/// Without an answer for so long there is none.
const SILENT: Duration = Duration::from_millis(500);

/// A loopback port whose queue of connections is full and never served. The kernel drops what asks for another one, as a
/// firewall does, or a machine that is gone.
#[derive(Debug)]
pub struct BlackHole {
    addr: SocketAddr,
    _listener: TcpListener,
    _fillers: JoinSet<io::Result<TcpStream>>,
}

impl BlackHole {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound, or connections to it are answered all the same.
    pub async fn start() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(1)?;
        let addr = listener.local_addr()?;
        let mut fillers = JoinSet::new();
        for _ in 0..FILLERS {
            fillers.spawn(async move {
                let stream = TcpStream::connect(addr).await?;
                // It fills its place until it is dropped with this task.
                std::future::pending::<()>().await;
                Ok(stream)
            });
        }
        for _ in 0..FILLERS {
            if timeout(SILENT, TcpStream::connect(addr)).await.is_err() {
                return Ok(Self { addr, _listener: listener, _fillers: fillers });
            }
        }
        Err(io::Error::other(format!("{addr} goes on answering")))
    }

    /// The address it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
