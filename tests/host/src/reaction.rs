//! What hosts do by themselves, so that hours of traffic need no hand of the test.

use std::time::Duration;

use crate::headers::Headers;
use crate::message::Response;
use crate::reset::Reset;
use crate::thread::Thread;

/// A request that has come to a host.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The cluster of the host.
    pub cluster: &'a str,
    /// The address of the host.
    pub host: &'a str,
    /// What the host sees.
    pub headers: &'a Headers,
    /// The number of the attempt, from 1.
    pub number: usize,
    /// The thread that has sent it.
    pub thread: Thread,
    /// The time, since the run began.
    pub at: Duration,
}

impl Arrival<'_> {
    /// A header of it, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

/// What a host does with a request, and when.
#[derive(Debug, Clone)]
pub struct Reaction {
    pub(crate) after: Duration,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Responds(Response),
    /// There is no response.
    Fails(Reset),
    /// Headers come, and nothing else.
    BreaksOff,
    /// There is no connection to it, and nothing says so.
    IsUnreached,
}

impl Reaction {
    /// It answers, a status or more.
    pub fn responds(response: impl Into<Response>) -> Self {
        Reaction { after: Duration::ZERO, what: What::Responds(response.into()) }
    }

    /// It ends before there is a response.
    pub fn fails(reset: Reset) -> Self {
        Reaction { after: Duration::ZERO, what: What::Fails(reset) }
    }

    /// It answers 200, and the response breaks off.
    pub fn breaks_off() -> Self {
        Reaction { after: Duration::ZERO, what: What::BreaksOff }
    }

    /// It swallows connections: the attempt goes on waiting for one.
    pub fn is_unreached() -> Self {
        Reaction { after: Duration::ZERO, what: What::IsUnreached }
    }

    /// It takes so long.
    pub fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }
}

impl From<u16> for Reaction {
    fn from(status: u16) -> Self {
        Reaction::responds(status)
    }
}

impl From<Response> for Reaction {
    fn from(response: Response) -> Self {
        Reaction::responds(response)
    }
}

/// What hosts do: `None` leaves a request to the test.
pub(crate) type React = Box<dyn FnMut(&Arrival<'_>) -> Option<Reaction>>;
