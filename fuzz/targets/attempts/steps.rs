//! What can happen, as the fuzzer puts it together.

use libfuzzer_sys::arbitrary::{self, Arbitrary};

#[derive(Debug, Arbitrary)]
pub struct Input<'a> {
    pub policy: u8,
    pub signalled: bool,
    pub seed: u64,
    /// Whether bodies come by while their headers are held.
    pub sees_held_bodies: bool,
    pub steps: Vec<Step<'a>>,
}

/// Numbers of requests and attempts are taken modulo how many there are; those of workers and clusters are mostly 0, so that most steps
/// have to do with each other.
#[derive(Debug, Arbitrary)]
pub enum Step<'a> {
    /// A request comes.
    Request {
        worker: u8,
        request: RequestHead<'a>,
    },
    /// A request comes, and its one attempt is answered at once, by a host with or without an attempt seat.
    Serve {
        worker: u8,
        cluster: u8,
        status: Status,
        seated: bool,
    },
    /// A request comes, its first attempt is answered, and the router begins what is to follow.
    Retry {
        worker: u8,
        cluster: u8,
        status: Status,
    },
    /// A request comes, and its attempts take too long, so that the router begins others beside them, if it was told to.
    Hedge {
        worker: u8,
        cluster: u8,
        hedges: u8,
    },
    /// Requests come whose one attempt fails.
    Outage {
        worker: u8,
        cluster: u8,
        requests: u8,
    },
    /// A request comes whose one attempt fails, or that Envoy replies to. The rest of its answer comes in pieces, and milliseconds
    /// pass after each. At last the client leaves, the body ends, or trailers come. Pieces are so many bytes.
    Pieces {
        worker: u8,
        cluster: u8,
        seated: bool,
        local: bool,
        pieces: Vec<(u8, u8)>,
        ended: Option<bool>,
    },
    /// Milliseconds pass, and every worker has its ticks.
    Pass(u16),
    /// The last byte of a request's body comes, to the request seat and the attempts under way.
    Uploaded {
        request: u8,
    },
    /// The router begins an attempt, if it wants one.
    Begin {
        request: u8,
        attempt: Attempt<'a>,
    },
    /// An attempt has taken as long as one may, and the router hedges if it was told to.
    Overdue {
        request: u8,
        one: u8,
    },
    /// An attempt has a response.
    Respond {
        request: u8,
        one: u8,
        response: Response<'a>,
    },
    /// An attempt ends without a response.
    Silence {
        request: u8,
        one: u8,
        connection: Connection,
        flags: u64,
        named: bool,
    },
    /// A piece of the body of the response that went to the client: so many bytes.
    Body {
        request: u8,
        piece: u8,
        ended: bool,
    },
    /// The trailers of the response that went to the client.
    Trailers {
        request: u8,
        grpc_status: Option<&'a [u8]>,
    },
    /// Envoy or another filter replies in place of what was still to come.
    Local {
        request: u8,
        reply: Local<'a>,
        order: Order,
    },
    /// The client leaves.
    Leave {
        request: u8,
        order: Order,
    },
    /// A request is over.
    Finish {
        request: u8,
        order: Order,
    },
    /// Response headers and trailers that come to the request seat after all was said.
    Again {
        request: u8,
        headers: Vec<(Name<'a>, &'a str)>,
    },
    /// Something else is where the retry context was.
    Replace {
        request: u8,
        head: bool,
        body: &'a [u8],
    },
    /// Some bytes of the retry context are others.
    Patch {
        request: u8,
        at: u8,
        bytes: &'a [u8],
    },
    /// The retry context says something else, and is well-formed. Times are milliseconds from now.
    Pretend {
        request: u8,
        retries: u8,
        eligibility: u8,
        next: Pretended,
        deadline: Option<i16>,
        attempt_lasts: Option<u16>,
    },
    /// Changes of shared data were given up.
    Contend {
        request: u8,
        given_up: u32,
    },
    /// Something else is where a record was.
    Scribble {
        record: u8,
        number: u8,
        head: bool,
        body: &'a [u8],
    },
    /// The tick of one of a worker's seats.
    Tick {
        worker: u8,
        seat: Seat,
    },
    /// A call of our own is answered.
    Answer {
        worker: u8,
        one: u8,
        headers: Vec<(CallName<'a>, &'a [u8])>,
        body: &'a [u8],
    },
    /// A worker's VMs crash, and new ones begin.
    Restart {
        worker: u8,
    },
    /// The configuration comes again; requests that have begun go on with the plugin before.
    Reload {
        worker: u8,
    },
    Forward(u32),
    Back(u32),
    At(u64),
    Signal,
}

/// Of so many, half of the numbers are the first, half of the others the second, and so on.
pub fn mostly_first(number: u8, count: u32) -> u8 {
    number.leading_ones().min(count.saturating_sub(1)) as u8
}

/// A request's headers, and what its route and its cluster are like.
#[derive(Debug, Arbitrary)]
pub struct RequestHead<'a> {
    pub cluster: u8,
    pub method: Method,
    pub headers: Vec<(RequestName<'a>, &'a [u8])>,
    pub ended: bool,
    /// Whether its cluster has an attempt seat.
    pub seated: bool,
    /// Whether another filter holds the names of our properties.
    pub refuses: bool,
    /// How often the route would retry, where the request does not say.
    pub route_retries: u8,
    /// Whether the route has `envoy-ratelimited` among its own words.
    pub route_ratelimited: bool,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Method {
    Get,
    Post,
    Put,
    Unknown,
}

impl Method {
    pub fn text(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Unknown => "get",
        }
    }
}

#[derive(Debug, Arbitrary)]
pub enum RequestName<'a> {
    Authority,
    Tenant,
    ContentType,
    AttemptCount,
    IdempotencyKey,
    Hosts,
    Heartbeat,
    Other(&'a str),
}

impl RequestName<'_> {
    pub fn text(&self) -> &str {
        match self {
            RequestName::Authority => ":authority",
            RequestName::Tenant => "x-tenant",
            RequestName::ContentType => "content-type",
            RequestName::AttemptCount => "x-envoy-attempt-count",
            RequestName::IdempotencyKey => "idempotency-key",
            RequestName::Hosts => "x-holdfast-hosts",
            RequestName::Heartbeat => "x-holdfast-heartbeat",
            RequestName::Other(name) => name,
        }
    }
}

/// An attempt, as the router begins it.
#[derive(Debug, Clone, Copy, Default, Arbitrary)]
pub struct Attempt<'a> {
    pub host: AnyHost<'a>,
    pub route: &'a [u8],
    /// How long the route lets the request go on, in milliseconds.
    pub time_left: Option<u16>,
}

#[derive(Debug, Clone, Copy, Default, Arbitrary)]
pub enum AnyHost<'a> {
    #[default]
    First,
    Second,
    Number(u8),
    Bytes(&'a [u8]),
    Nobody,
}

/// A host's response.
#[derive(Debug, Arbitrary)]
pub struct Response<'a> {
    pub status: Status,
    pub headers: Vec<(Name<'a>, &'a str)>,
    pub ended: bool,
    /// Whether the router says how long the host took.
    pub timed: bool,
    /// Whether one of the route's own conditions has the router retry it.
    pub named: bool,
    /// Whether the attempt goes on until the response has ended.
    pub lasts: bool,
    pub flags: u64,
}

/// The statuses that policies here name in one way or another, and any.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Status {
    Ok,
    Conflict,
    TooManyRequests,
    Internal,
    Unavailable,
    Any(u16),
}

impl Status {
    pub fn code(self) -> u16 {
        match self {
            Status::Ok => 200,
            Status::Conflict => 409,
            Status::TooManyRequests => 429,
            Status::Internal => 500,
            Status::Unavailable => 503,
            Status::Any(status) => status,
        }
    }
}

#[derive(Debug, Arbitrary)]
pub enum Name<'a> {
    Status,
    /// A content type; the value is gRPC's.
    Grpc,
    ContentType,
    GrpcStatus,
    RetryAfter,
    Pushback,
    Ratelimited,
    AsksRetry,
    HasAttempts,
    Other(&'a str),
}

impl Name<'_> {
    pub fn text(&self) -> &str {
        match self {
            Name::Status => ":status",
            Name::Grpc | Name::ContentType => "content-type",
            Name::GrpcStatus => "grpc-status",
            Name::RetryAfter => "retry-after",
            Name::Pushback => "grpc-retry-pushback-ms",
            Name::Ratelimited => "x-envoy-ratelimited",
            Name::AsksRetry => "x-holdfast-retry",
            Name::HasAttempts => "x-holdfast-tries",
            Name::Other(name) => name,
        }
    }

    pub fn value<'v>(&self, value: &'v str) -> &'v str {
        if matches!(self, Name::Grpc) { "application/grpc" } else { value }
    }
}

/// What is known of the connection of an attempt that ends without a response.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Connection {
    There,
    Failed,
    Without,
    Unheard,
}

/// A reply that is not of a host.
#[derive(Debug, Arbitrary)]
pub struct Local<'a> {
    pub status: Status,
    pub headers: Vec<(Name<'a>, &'a str)>,
    pub details: Details<'a>,
    pub flags: u64,
    pub ended: bool,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Details<'a> {
    ViaUpstream,
    Timeout,
    IdleTimeout,
    NotRetried,
    None,
    Bytes(&'a [u8]),
}

impl<'a> Details<'a> {
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Details::ViaUpstream => Some(b"via_upstream"),
            Details::Timeout => Some(b"response_timeout"),
            Details::IdleTimeout => Some(b"stream_idle_timeout"),
            Details::NotRetried => Some(b"holdfast_not_retried{budget}"),
            Details::None => None,
            Details::Bytes(bytes) => Some(bytes),
        }
    }
}

/// Which seat hears first that a request is over.
#[derive(Debug, Clone, Copy, PartialEq, Arbitrary)]
pub enum Order {
    AttemptsFirst,
    RequestFirst,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Seat {
    Request,
    Attempt,
}

#[derive(Debug, Arbitrary)]
pub enum CallName<'a> {
    Status,
    ServiceTime,
    Gone,
    Other(&'a str),
}

impl CallName<'_> {
    pub fn text(&self) -> &str {
        match self {
            CallName::Status => ":status",
            CallName::ServiceTime => "x-envoy-upstream-service-time",
            CallName::Gone => "x-holdfast-gone",
            CallName::Other(name) => name,
        }
    }
}

/// What is to happen next, as somebody else would have it.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub enum Pretended {
    Open,
    Retry { due: i16, taken: i16 },
    Due(i16),
    Denied(u8),
}
