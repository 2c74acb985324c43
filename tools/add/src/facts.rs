//! What is known of a cluster, whoever says it: Istio's resources today. Envoy's shapes are made of this.

use std::time::Duration;

/// How an upstream cluster is reached and balanced without Holdfast.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// What is spoken to its hosts.
    pub protocol: Protocol,
    /// Whether HTTP/1.1 keeps the case of header names.
    pub header_case: bool,
    /// What holds for connections of any version of HTTP.
    pub connections: Connections,
    /// Whether TLS takes its names from the request.
    pub names: Names,
    /// How a host is chosen.
    pub balancing: Balancing,
    /// How localities weigh in that choice.
    pub locality: Locality,
    /// Whether Holdfast can name the host.
    pub steering: Steering,
}

/// The protocol between Envoy and the hosts.
#[derive(Debug, Clone, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2, with or without TLS.
    Http2 {
        /// The most streams on a connection.
        max_concurrent_streams: Option<u32>,
        /// Pings on a connection.
        keepalive: Option<Keepalive>,
    },
    /// What the client speaks.
    Client,
}

/// HTTP/2's pings.
#[derive(Debug, Clone, PartialEq)]
pub struct Keepalive {
    /// The time between two.
    pub interval: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
}

/// Limits of connections.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Connections {
    /// How long a connection may be idle.
    pub idle_timeout: Option<Duration>,
    /// How many requests a connection carries.
    pub max_requests: Option<u32>,
    /// How old a connection may become.
    pub max_duration: Option<Duration>,
}

/// Names in TLS that come from the request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names {
    /// The server name is the request's authority.
    pub auto_sni: bool,
    /// The certificate must be for that name.
    pub auto_san_validation: bool,
}

/// A load balancing policy.
#[derive(Debug, Clone, PartialEq)]
pub enum Balancing {
    /// The better one of two.
    LeastRequest(Option<Warmup>),
    /// By turns.
    RoundRobin(Option<Warmup>),
    /// By chance.
    Random,
    /// A ring of hashes, of at least this size.
    RingHash(Option<u64>),
    /// Maglev's table, of this size.
    Maglev(Option<u64>),
}

impl Balancing {
    /// Whether the request decides on the host.
    pub fn by_hash(&self) -> bool {
        matches!(self, Balancing::RingHash(_) | Balancing::Maglev(_))
    }
}

/// How a new host gets its share.
#[derive(Debug, Clone, PartialEq)]
pub struct Warmup {
    /// How long it takes.
    pub window: Duration,
    /// The exponent's inverse; 1 is a straight line.
    pub aggression: Option<f64>,
    /// The least share, in percent.
    pub minimum: Option<f64>,
}

/// How localities weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locality {
    /// Not at all, beside priorities.
    None,
    /// By the weights that come with the endpoints.
    Weighted,
    /// By Envoy's own zone, from this many hosts on.
    ZoneAware {
        /// The least number of hosts.
        min_cluster_size: Option<u64>,
        /// Whether requests prefer their zone.
        enabled: bool,
    },
}

/// Whether Holdfast can name the host of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steering {
    /// It can.
    Possible,
    /// It cannot, and why.
    Impossible(String),
}

impl Steering {
    /// Whether it can.
    pub fn possible(&self) -> bool {
        *self == Steering::Possible
    }
}
