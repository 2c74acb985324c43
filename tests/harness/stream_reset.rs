//! The error with which a service makes hyper reset an HTTP/2 stream with a chosen code.
//!
//! hyper takes the code from an error of its HTTP/2 library among the causes, and has no other way to name one. So a
//! server is run for a peer made of canned bytes, which leaves with that code: it fails with the error that is wanted.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;

use crate::action::StreamError;

/// RFC 9113, section 7.
const INTERNAL_ERROR: u8 = 0x2;
const REFUSED_STREAM: u8 = 0x7;

/// An error whose cause holds this code.
pub(crate) async fn stream_error(code: StreamError) -> hyper::Error {
    let code = match code {
        StreamError::Internal => INTERNAL_ERROR,
        StreamError::Refused => REFUSED_STREAM,
    };
    let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) });
    let served = http2::Builder::new(TokioExecutor::new()).serve_connection(Leaving::with(code), service).await;
    served.expect_err("a peer that leaves with an error ends the connection with it")
}

/// A client that greets and leaves: its preface, empty SETTINGS, GOAWAY with the code, and the end.
struct Leaving {
    bytes: Vec<u8>,
    sent: usize,
}

impl Leaving {
    fn with(code: u8) -> Self {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        // Of each frame the length, the type, the flags and the stream. A GOAWAY holds the last stream and the code.
        const SETTINGS: [u8; 9] = [0, 0, 0, 0x4, 0, 0, 0, 0, 0];
        let goaway = [0, 0, 8, 0x7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code];
        Self { bytes: [PREFACE, &SETTINGS, &goaway].concat(), sent: 0 }
    }
}

impl Read for Leaving {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let count = buf.remaining().min(self.bytes.len() - self.sent);
        buf.put_slice(&self.bytes[self.sent..self.sent + count]);
        self.sent += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Leaving {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_error_names_the_code_every_time() {
        for _ in 0..1000 {
            for (code, told) in [(StreamError::Refused, "refused"), (StreamError::Internal, "internal")] {
                let error = stream_error(code).await;
                let cause = error.source().expect("the error has a cause").to_string();
                assert!(cause.contains(told), "{cause}");
            }
        }
    }
}
