//! How one attempt ended.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::http::outcome::{Answer, Verdict};

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The host's address and port as Envoy writes them.
    pub host: Vec<u8>,
    /// How it ended.
    pub end: End,
    /// What that counts as.
    pub verdict: Verdict,
    /// How long it took, from when it was sent with its last byte to its response's headers or its end.
    pub took: Duration,
    /// When it ended.
    pub ended: Timestamp,
    /// What its host asks of retries, if it does and the policy heeds that.
    pub wish: Option<RetryWish>,
}

/// What a host asks of the retries of a request whose attempt it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryWish {
    /// None comes to it for so long from the end of the attempt on.
    Wait(Duration),
    /// None begins at all, at whatever host. Source: gRPC proposal A6, "Pushback".
    Never,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The host answered with this HTTP status.
    Http(u16),
    /// The host answered a gRPC call with this gRPC status.
    Grpc(u32),
    /// There was no connection to the host.
    ConnectFailure,
    /// The host, or the connection to it, ended the attempt without an answer.
    Reset,
    /// The host did not answer in time.
    TimedOut,
    /// The host broke its answer off after the headers.
    Broken,
}

impl End {
    /// The end as an answer.
    pub fn answer(self) -> Answer {
        match self {
            End::Http(status) => Answer::Http(status),
            End::Grpc(status) => Answer::Grpc(status),
            End::ConnectFailure | End::Reset => Answer::NoAnswer,
            End::TimedOut => Answer::TimedOut,
            End::Broken => Answer::Broken,
        }
    }

    /// Whether nothing had come of the host by then.
    pub fn is_without_answer(self) -> bool {
        matches!(self, End::ConnectFailure | End::Reset | End::TimedOut)
    }

    /// The end that this answer of a host is; `None` where it is none of a host.
    pub fn of(answer: Answer) -> Option<End> {
        match answer {
            Answer::Http(status) => Some(End::Http(status)),
            Answer::Grpc(status) => Some(End::Grpc(status)),
            Answer::NoAnswer => Some(End::Reset),
            Answer::TimedOut => Some(End::TimedOut),
            Answer::Broken => Some(End::Broken),
            Answer::NoHost | Answer::CutShort | Answer::ClientLeft | Answer::NotTheHost => None,
        }
    }
}

impl core::fmt::Display for End {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            End::Http(status) => write!(f, "{status}"),
            End::Grpc(status) => write!(f, "grpc-{status}"),
            End::ConnectFailure => f.write_str("connect_failure"),
            End::Reset => f.write_str("reset"),
            End::TimedOut => f.write_str("timeout"),
            End::Broken => f.write_str("broken"),
        }
    }
}
