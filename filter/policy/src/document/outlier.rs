//! `outlier`: which hosts are taken out, for how long, and how they come back.

use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;

use super::{Mode, StatusSet};
use crate::percent::Percent;

/// Ejection of bad hosts. Unless `mode` is off, or a host is chosen for each request, at least one detector, the heartbeat among them,
/// is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outlier {
    /// The mode of every detector that does not say its own; the detectors below already hold theirs.
    pub mode: Mode,
    /// Failures in a row, of any kind.
    pub consecutive_failures: Option<Consecutive>,
    /// 502, 503, 504 and no answer in a row.
    pub consecutive_gateway_failures: Option<Consecutive>,
    /// No answer (connect failure, reset, time-out) in a row.
    pub consecutive_local_failures: Option<Consecutive>,
    /// A share of failures in one interval.
    pub failure_rate: Option<FailureRate>,
    /// A share of successes far below that of the others in one interval.
    pub success_rate: Option<SuccessRate>,
    /// Answers far slower than those of the others in one interval.
    pub latency: Option<Latency>,
    /// Checks by requests of our own.
    pub heartbeat: Option<Heartbeat>,
    /// What the rates look at; 100 ms..=1 h.
    pub interval: Duration,
    /// How long the first ejection of a host lasts; 1 ms..=24 h.
    pub base_ejection_time: Duration,
    /// The longest ejection before jitter; `base_ejection_time`..=24 h.
    pub max_ejection_time: Duration,
    /// Percent of the time added uniformly.
    pub ejection_jitter: Percent,
    /// At most this share of the cluster's hosts is out, the candidate included.
    pub max_ejected: Percent,
    /// Whether one host may be out however small its cluster is.
    pub always_eject_one: bool,
    /// With a smaller share of hosts left, ejections are ignored.
    pub panic_threshold: Percent,
    /// How many requests an ejected host gets after its time, all of which have to succeed; 1..=100.
    pub probe_requests: NonZeroU16,
    /// How long a host that is back gets a growing share; zero: all of it at once. At most 1 h.
    pub slow_start: Duration,
    /// Hosts that are known from the beginning. At most 1,000, each once.
    pub hosts: Vec<NamedHost>,
    /// Where the hosts can be read.
    pub discover: Option<Discover>,
    /// Which host a request goes to. One but [`Balance::Envoy`] knows the hosts by `hosts` or `discover`.
    pub balance: Balance,
}

/// A host that the policy names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedHost {
    /// As Envoy writes it: `10.0.0.1:8080`, `[2001:db8::1]:8080`.
    pub address: String,
    /// Its weight among the hosts of its locality.
    pub weight: NonZeroU32,
    /// 0 comes first; at most 127.
    pub priority: u8,
    /// The name of its locality; hosts without one are in the same.
    pub locality: Option<String>,
}

impl NamedHost {
    /// A host of which nothing is known but its address, as Envoy writes it.
    #[must_use]
    pub fn at(address: String) -> Self {
        NamedHost { address, weight: NonZeroU32::MIN, priority: 0, locality: None }
    }
}

/// Which of the hosts that are in a request goes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Balance {
    /// The one that the cluster's own policy chooses; while hosts are out, each in turn by its weight.
    #[default]
    Envoy,
    /// Each in turn, whatever its weight.
    RoundRobin,
    /// Any, all alike.
    Random,
    /// Each in turn by its weight.
    Weighted,
    /// Of two that are drawn by weight the one with fewer requests in flight.
    LeastRequest,
    /// Of two that are drawn by weight the one that has been answering sooner.
    LeastLatency,
    /// The one that something of the request belongs to: the first of these that it has.
    Hash(Vec<HashBy>),
}

/// What of a request says which host it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashBy {
    /// The first value of the header of this lower-case name.
    Header(String),
    /// The cookie of this name.
    Cookie(String),
    /// The client's address, as Envoy knows it, without the port.
    SourceIp,
    /// The path without its query.
    Path,
}

/// So many in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Consecutive {
    /// Ejects at this many; at most 1,000.
    pub limit: NonZeroU16,
    /// Whether it acts.
    pub mode: Mode,
}

/// Failures of all outcomes in one interval. Source: Envoy, `failure_percentage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FailureRate {
    /// Ejects from this share on; above 0.
    pub threshold: Percent,
    /// A host with fewer outcomes is not judged.
    pub min_requests: NonZeroU32,
    /// With fewer hosts that have so many nobody is judged.
    pub min_hosts: NonZeroU16,
    /// Whether it acts.
    pub mode: Mode,
}

/// Ejects hosts whose share of successes lies below `mean - stdev_factor * stdev` of the shares of all hosts that are judged,
/// with the population's standard deviation. Source: Envoy, `success_rate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SuccessRate {
    /// The factor in thousandths (1900 = 1.9); at most 10,000.
    pub stdev_factor: u32,
    /// A host with fewer outcomes is not judged.
    pub min_requests: NonZeroU32,
    /// With fewer hosts that have so many nobody is judged.
    pub min_hosts: NonZeroU16,
    /// Whether it acts.
    pub mode: Mode,
}

/// Ejects a host whose mean time to the response's headers P is above the mean E of its peers' means by `deviation` percent:
/// `(P - E) / E`, above `floor`, and by more than chance explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Latency {
    /// In percent, 1..=100,000: 200 means three times as slow as the others.
    pub deviation: u32,
    /// A host with fewer answers is not judged.
    pub min_requests: NonZeroU32,
    /// With fewer hosts that have so many nobody is judged; at least 2.
    pub min_hosts: NonZeroU16,
    /// A host that is faster than this is not slow, whatever the others are; at most 1 min.
    pub floor: Duration,
    /// A host that arrives later than the others, or comes back, is not judged for so long; at most 1 h.
    pub grace: Duration,
    /// Whether it acts.
    pub mode: Mode,
}

/// A check per host by requests of our own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// What is asked, and which answer is good.
    pub check: HeartbeatCheck,
    /// The authority that is asked for; `None`: one that follows from the cluster's name. Valid.
    pub host: Option<String>,
    /// Headers of the request beside our own: lower-case names, each once, and values. At most 16.
    pub headers: Vec<(String, String)>,
    /// How often each host is asked; 100 ms..=1 h.
    pub interval: Duration,
    /// When an answer is too late; 1 ms..=1 min.
    pub timeout: Duration,
    /// Ejects after this many bad answers in a row; at most 100.
    pub unhealthy_after: NonZeroU16,
    /// Lets an ejected host back after this many good ones in a row; at most 100.
    pub healthy_after: NonZeroU16,
    /// Whether it acts.
    pub mode: Mode,
}

/// What a heartbeat asks, and which answer is good.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeartbeatCheck {
    /// `GET`.
    Http {
        /// What is asked for; begins with `/`, visible ASCII.
        path: String,
        /// The good statuses; not empty.
        status: StatusSet,
    },
    /// The health check of gRPC, `grpc.health.v1.Health/Check`; `SERVING` is good.
    Grpc {
        /// The service that is asked about; empty: the server as a whole. Printable ASCII, at most 255 characters.
        service: String,
    },
}

/// Where the hosts of a cluster can be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Discover {
    /// The cluster to ask; not empty.
    pub cluster: String,
    /// What is asked for; begins with `/`, visible ASCII.
    pub path: String,
    /// How often; 100 ms..=1 h.
    pub interval: Duration,
}

/// What ejects a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Detector {
    /// Failures in a row.
    ConsecutiveFailures,
    /// Gateway failures in a row.
    ConsecutiveGatewayFailures,
    /// No answers in a row.
    ConsecutiveLocalFailures,
    /// The share of failures.
    FailureRate,
    /// The share of successes beside that of the others.
    SuccessRate,
    /// The time of answers beside that of the others.
    Latency,
    /// Our own checks.
    Heartbeat,
}

impl Detector {
    /// How many there are; their numbers are below it.
    pub const COUNT: usize = 7;

    /// All, by number.
    pub const ALL: [Detector; Detector::COUNT] = [
        Detector::ConsecutiveFailures,
        Detector::ConsecutiveGatewayFailures,
        Detector::ConsecutiveLocalFailures,
        Detector::FailureRate,
        Detector::SuccessRate,
        Detector::Latency,
        Detector::Heartbeat,
    ];

    /// The word in the policy document, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Detector::ConsecutiveFailures => "consecutive_failures",
            Detector::ConsecutiveGatewayFailures => "consecutive_gateway_failures",
            Detector::ConsecutiveLocalFailures => "consecutive_local_failures",
            Detector::FailureRate => "failure_rate",
            Detector::SuccessRate => "success_rate",
            Detector::Latency => "latency",
            Detector::Heartbeat => "heartbeat",
        }
    }

    /// The detector of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Detector::ALL.get(usize::from(number)).copied()
    }
}

impl Outlier {
    /// Whether the policy names the host with this address.
    #[must_use]
    pub fn names(&self, address: &[u8]) -> bool {
        self.hosts.iter().any(|host| host.address.as_bytes() == address)
    }

    /// The mode of a detector; `Off` where it is not given.
    pub fn mode_of(&self, detector: Detector) -> Mode {
        match detector {
            Detector::ConsecutiveFailures => self.consecutive_failures.map(|detector| detector.mode),
            Detector::ConsecutiveGatewayFailures => self.consecutive_gateway_failures.map(|detector| detector.mode),
            Detector::ConsecutiveLocalFailures => self.consecutive_local_failures.map(|detector| detector.mode),
            Detector::FailureRate => self.failure_rate.map(|detector| detector.mode),
            Detector::SuccessRate => self.success_rate.map(|detector| detector.mode),
            Detector::Latency => self.latency.map(|detector| detector.mode),
            Detector::Heartbeat => self.heartbeat.as_ref().map(|heartbeat| heartbeat.mode),
        }
        .unwrap_or(Mode::Off)
    }

    /// Whether any detector does anything, or all requests are balanced.
    pub fn is_active(&self) -> bool {
        let balances = self.mode != Mode::Off && self.balance != Balance::Envoy;
        balances || Detector::ALL.into_iter().any(|detector| self.mode_of(detector) != Mode::Off)
    }

    /// The balance that acts: in a shadow none does.
    pub fn acting_balance(&self) -> &Balance {
        if self.mode == Mode::Enforce { &self.balance } else { &Balance::Envoy }
    }

    /// Whether a host is chosen for each request, also while none is out.
    pub fn balances(&self) -> bool {
        *self.acting_balance() != Balance::Envoy
    }

    /// Whether our own checks take the place of probes.
    pub fn probes_by_heartbeat(&self) -> bool {
        self.mode_of(Detector::Heartbeat) == Mode::Enforce
    }

    /// Whether a host can be taken out.
    pub fn ejects(&self) -> bool {
        Detector::ALL.into_iter().any(|detector| self.mode_of(detector) == Mode::Enforce)
    }

    /// Whether a detector looks at every outcome and not only at failures.
    pub fn counts_all(&self) -> bool {
        let rates = [Detector::FailureRate, Detector::SuccessRate, Detector::Latency];
        rates.into_iter().any(|detector| self.mode_of(detector) != Mode::Off)
    }

    /// Whether a detector looks at how long answers take.
    pub fn counts_times(&self) -> bool {
        self.mode_of(Detector::Latency) != Mode::Off
    }

    /// Whether a detector counts failures in a row.
    pub fn counts_runs(&self) -> bool {
        let runs =
            [Detector::ConsecutiveFailures, Detector::ConsecutiveGatewayFailures, Detector::ConsecutiveLocalFailures];
        runs.into_iter().any(|detector| self.mode_of(detector) != Mode::Off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_detector_has_its_number_and_its_own_name() {
        for (number, detector) in Detector::ALL.into_iter().enumerate() {
            assert_eq!(detector as usize, number);
            assert_eq!(Detector::from_number(number as u8), Some(detector));
            assert_eq!(Detector::ALL.iter().filter(|other| other.name() == detector.name()).count(), 1);
        }
        assert_eq!(Detector::from_number(Detector::COUNT as u8), None);
    }
}
