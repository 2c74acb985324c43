//! The compiled policy document: types that cannot hold an invalid policy.
//!
//! [`crate::config`] builds them from JSON. All fields are already checked and defaulted; nothing here needs a second
//! look on the request path.

use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;

use crate::glob::Glob;
use crate::percent::Percent;

/// A whole document: the first policy whose `matches` holds governs a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// In the order they were written. Names are unique.
    pub policies: Vec<Policy>,
}

/// One policy. Its hash over all fields tells two contents apart, see [`crate::fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// `[a-z0-9_-]{1,63}`.
    pub name: String,
    /// Which requests it governs.
    pub matches: Match,
    /// What gets its own state.
    pub scope: Scope,
    /// The mode of every feature that does not say its own; the feature blocks below already hold theirs.
    pub mode: Mode,
    /// What counts as what.
    pub outcome: OutcomeRules,
    /// Service-level circuit breaker.
    pub breaker: Option<Breaker>,
    /// Ceiling on requests in flight.
    pub concurrency: Option<Concurrency>,
    /// Adaptive client-side throttling.
    pub throttle: Option<Throttle>,
    /// In order of preference.
    pub fallback: Vec<Fallback>,
}

/// Conditions on a request; an empty list holds for every request, a non-empty one when any of its globs matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Match {
    /// The upstream cluster's name. One segment.
    pub cluster: Vec<Glob>,
    /// The route's name. One segment.
    pub route: Vec<Glob>,
    /// `:authority`, with its port if it has one; segments end at `.`, case is folded (globs are stored in lower case).
    pub authority: Vec<Glob>,
    /// `:path` without the query; segments end at `/`.
    pub path: Vec<Glob>,
    /// `:method`. One segment, upper case as sent.
    pub method: Vec<Glob>,
    /// Header name (lower case) and a glob on its value (one segment); all must hold. An absent header matches nothing.
    pub headers: Vec<(String, Glob)>,
}

/// What gets its own state within a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// In the order written, no duplicates. Empty: one state for the policy.
    pub by: Vec<Dimension>,
    /// How many keys have their own state; later ones share one overflow key.
    pub max_keys: NonZeroU16,
}

/// One part of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dimension {
    /// The upstream cluster's name.
    Cluster,
    /// The route's name.
    Route,
    /// `:authority` in lower case.
    Authority,
    /// The value of the header of this (lower-case) name.
    Header(String),
}

/// Whether a feature acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Decide, count and act.
    #[default]
    Enforce,
    /// Decide and count, change nothing that a client or host can see.
    Shadow,
    /// Do nothing.
    Off,
}

/// What counts as a failure, as nothing, and as slow. `ignore` is looked at first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OutcomeRules {
    /// HTTP statuses that are failures.
    pub failure_status: StatusSet,
    /// gRPC statuses that are failures.
    pub failure_grpc: GrpcSet,
    /// Whether no answer from the host (connect failure, reset, timeout) is a failure; otherwise it is ignored.
    pub failure_local: bool,
    /// HTTP statuses that are neither success nor failure.
    pub ignore_status: StatusSet,
    /// gRPC statuses that are neither success nor failure.
    pub ignore_grpc: GrpcSet,
    /// A request that takes at least this long is slow.
    pub slow_after: Option<Duration>,
}

/// A set of HTTP statuses 100..=599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StatusSet([u64; 8]);

impl StatusSet {
    /// Adds `first..=last`; statuses outside 100..=599 are left out.
    pub fn insert_range(&mut self, first: u16, last: u16) {
        for status in first.max(100)..=last.min(599) {
            let bit = status - 100;
            if let Some(word) = self.0.get_mut(usize::from(bit / 64)) {
                *word |= 1 << (bit % 64);
            }
        }
    }

    /// Whether `status` is in the set.
    pub fn contains(&self, status: u16) -> bool {
        status
            .checked_sub(100)
            .is_some_and(|bit| self.0.get(usize::from(bit / 64)).is_some_and(|word| word >> (bit % 64) & 1 == 1))
    }

    /// The set as ascending inclusive ranges.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for status in (100..600).filter(|status| self.contains(*status)) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == status => *last = status,
                _ => ranges.push((status, status)),
            }
        }
        ranges
    }
}

/// A set of gRPC statuses 0..=16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct GrpcSet(u32);

impl GrpcSet {
    /// Adds a status; one outside 0..=16 is left out.
    pub fn insert(&mut self, status: u8) {
        if status <= 16 {
            self.0 |= 1 << status;
        }
    }

    /// Whether `status` is in the set.
    pub fn contains(&self, status: u8) -> bool {
        status <= 16 && self.0 >> status & 1 == 1
    }
}

/// The names of the gRPC statuses 0..=16, in order.
/// Source: gRPC core, statuscodes.
pub const GRPC_STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The circuit breaker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Breaker {
    /// Whether it acts.
    pub mode: Mode,
    /// Which outcomes the rates look at.
    pub window: Window,
    /// Below this many outcomes in the window the rates decide nothing.
    pub min_requests: NonZeroU32,
    /// Opens when failures/total reaches it; 0 = off.
    pub failure_rate: Percent,
    /// Opens when slow/total reaches it; 0 = off. Above 0 only together with `OutcomeRules::slow_after`.
    pub slow_rate: Percent,
    /// Opens at this many failures in a row; `None` = off.
    pub consecutive_failures: Option<NonZeroU16>,
    /// First open period.
    pub open_for: Duration,
    /// Factor on the period for each re-open without a close in between, in thousandths (2000 = twice); >= 1000.
    pub open_growth: u32,
    /// Longest open period before jitter; >= `open_for`.
    pub open_max: Duration,
    /// Percent of the period added uniformly.
    pub open_jitter: Percent,
    /// Whether a `Retry-After` on the tripping response lengthens the open period.
    pub honor_retry_after: bool,
    /// Half-open: at most this many requests in flight or judged.
    pub probes: NonZeroU16,
    /// Half-open: a probe that has not reported by then gives its permit back.
    pub lease: Duration,
    /// After half-open the admitted share rises over this time; zero = closes at once.
    pub ramp: Duration,
    /// A state set by hand.
    pub state: BreakerControl,
}

/// Which outcomes a rate looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Window {
    /// The outcomes of the last `Duration`, in 10 buckets. At least 100 ms.
    Time(Duration),
    /// The last so many outcomes, 1..=1000.
    Count(NonZeroU16),
}

/// Whether the breaker decides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BreakerControl {
    /// It decides.
    #[default]
    Auto,
    /// Every request is rejected.
    ForcedOpen,
    /// No request is rejected and nothing is judged.
    ForcedClosed,
}

/// Ceiling on requests in flight for a key, over all workers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Concurrency {
    /// Whether it acts.
    pub mode: Mode,
    /// More than this many are rejected.
    pub max_requests: NonZeroU32,
}

/// Adaptive client-side throttling.
/// Source: Google SRE book, "Handling Overload"; Envoy `admission_control`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Throttle {
    /// Whether it acts.
    pub mode: Mode,
    /// Successes below this share of requests start rejections; 1..=100 %.
    pub success_rate: Percent,
    /// Exponent's inverse, in thousandths (1000 = linear); >= 1000.
    pub aggression: u32,
    /// Never reject more than this share.
    pub max_rejection: Percent,
    /// Below this many requests per second over the window nothing is rejected.
    pub min_rps: u32,
    /// How far back requests and successes are counted.
    pub window: Duration,
}

/// One entry of the fallback list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fallback {
    /// For which reasons it serves; at least one.
    pub on: ReasonSet,
    /// What it does.
    pub kind: FallbackKind,
}

/// What a fallback does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FallbackKind {
    /// Answers with a fixed response.
    Static(StaticResponse),
}

/// A fixed response.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StaticResponse {
    /// 200..=599.
    pub status: u16,
    /// Names in lower case, in the order written; `content-type` is always among them when there is a body.
    pub headers: Vec<(String, String)>,
    /// The body, in parts.
    pub body: Vec<TemplatePart>,
    /// How inserted values are escaped, from the content type.
    pub escape: Escape,
    /// The status of the answer to a gRPC request, 0..=16.
    pub grpc_status: u8,
}

/// A piece of a body template.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TemplatePart {
    /// Literal text.
    Text(String),
    /// `${reason}`.
    Reason,
    /// `${policy}`.
    Policy,
    /// `${retry_after}`: whole seconds, 0 where there is nothing to wait for.
    RetryAfter,
    /// `${path}`: the request's path with its query.
    Path,
    /// `${header.NAME}`: the request header of this (lower-case) name, empty when absent.
    Header(String),
}

/// How a value from the request is made harmless where it is inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Escape {
    /// The content type is JSON: the inside of a JSON string.
    Json,
    /// The content type is HTML or XML: character references.
    Markup,
    /// Anything else: as it is.
    None,
}

/// Why a fallback is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The breaker is open.
    Open,
    /// Too many requests in flight.
    Concurrency,
    /// Throttled.
    Throttled,
    /// The final answer was a failure.
    Failure,
    /// The final answer was a time-out.
    Timeout,
}

impl Reason {
    /// All reasons, in the order of the documentation.
    pub const ALL: [Reason; 5] =
        [Reason::Open, Reason::Concurrency, Reason::Throttled, Reason::Failure, Reason::Timeout];

    /// The word in the policy document, headers, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Open => "open",
            Reason::Concurrency => "concurrency",
            Reason::Throttled => "throttled",
            Reason::Failure => "failure",
            Reason::Timeout => "timeout",
        }
    }
}

/// A set of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReasonSet(u8);

impl ReasonSet {
    /// Adds a reason.
    pub fn insert(&mut self, reason: Reason) {
        self.0 |= 1 << reason as u8;
    }

    /// Whether `reason` is in the set.
    pub fn contains(self, reason: Reason) -> bool {
        self.0 >> (reason as u8) & 1 == 1
    }

    /// Whether the set has no reason.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}
