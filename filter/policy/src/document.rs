//! The compiled policy document: types that cannot hold an invalid policy.
//!
//! [`crate::config`] builds them from JSON. All fields are already checked and defaulted; nothing here needs a second
//! look on the request path.

use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;

use crate::glob::Glob;
use crate::percent::Percent;

mod outlier;

pub use outlier::{
    Balance, Consecutive, Detector, Discover, FailureRate, HashBy, Heartbeat, HeartbeatCheck, Latency, NamedHost,
    Outlier, SuccessRate,
};

/// A whole document: the first policy whose `matches` holds governs a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// In the order they were written. Names are unique.
    pub policies: Vec<Policy>,
}

/// One policy. Its hash over all fields tells two contents apart.
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
    /// Retries after one that failed.
    pub retry: Option<Retry>,
    /// Ejection of bad hosts.
    pub outlier: Option<Outlier>,
    /// In order of preference.
    pub fallback: Vec<Fallback>,
}

/// The default of `half_open.lease`, where there is no breaker.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);

impl Policy {
    /// The rules for hosts, if they judge any.
    pub fn active_outlier(&self) -> Option<&Outlier> {
        self.outlier.as_ref().filter(|outlier| outlier.is_active())
    }

    /// Whether it holds an answer that does not come against anybody.
    pub fn judges(&self) -> bool {
        let breaker = self.breaker.as_ref().is_some_and(|breaker| breaker.mode != Mode::Off);
        breaker
            || self.throttle.as_ref().is_some_and(|throttle| throttle.mode != Mode::Off)
            || self.active_outlier().is_some()
    }

    /// How long a stream that has begun well runs before it is a success to probes: `half_open.lease`.
    pub fn stream_lease(&self) -> Duration {
        self.breaker.as_ref().map_or(DEFAULT_LEASE, |breaker| breaker.lease)
    }

    /// Whether an outcome's `Retry-After` is of any use to this policy.
    pub fn wants_retry_after(&self) -> bool {
        self.breaker.as_ref().is_some_and(|breaker| breaker.honor_retry_after)
    }

    /// The fallbacks for any of `reasons`, in the order in which they are tried.
    pub fn fallbacks_for(&self, reasons: &[Reason]) -> impl Iterator<Item = &Fallback> {
        self.fallback.iter().filter(|entry| reasons.iter().any(|reason| entry.on.contains(*reason)))
    }

    /// How good answers are kept, if they are.
    pub fn stale(&self) -> Option<&Stale> {
        let mut kinds = self.fallback.iter().map(|entry| &entry.kind).filter(|_| self.mode != Mode::Off);
        kinds.find_map(|kind| if let FallbackKind::Stale(stale) = kind { Some(stale) } else { None })
    }

    /// Whether another cluster may serve after the last attempt.
    pub fn goes_further(&self) -> bool {
        self.mode != Mode::Off && self.fallback.iter().any(Fallback::goes_further)
    }

    /// The clusters that may serve after the last attempt, each once.
    pub fn further_routes(&self) -> impl Iterator<Item = &Route> {
        let entries = || self.fallback.iter().filter(|entry| entry.goes_further());
        let routes = move || entries().filter_map(|entry| entry.kind.as_route());
        let is_first = move |(index, route): &(usize, &Route)| routes().take(*index).all(|other| other != *route);
        routes().enumerate().filter(is_first).map(|(_, route)| route)
    }

    /// Whether an answer that was kept may serve in the place of a cluster after the last attempt.
    pub fn has_stale_before_further(&self) -> bool {
        let mut entries = self.fallback.iter().filter(|entry| entry.replaces_answers());
        entries.any(|entry| matches!(entry.kind, FallbackKind::Stale(_)))
            && entries.any(|entry| matches!(entry.kind, FallbackKind::Route(_)))
    }

    /// Whether a request may be repeated in another cluster.
    pub fn has_calls(&self) -> bool {
        self.calls().next().is_some()
    }

    /// The calls that may repeat a request in another cluster.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        let entries = self.fallback.iter().filter(|_| self.mode != Mode::Off);
        entries.filter_map(|entry| if let FallbackKind::Call(call) = &entry.kind { Some(call) } else { None })
    }

    /// Whether a fallback could be needed once the host's answer is known; request headers cannot be read any more then.
    pub fn replaces_answers(&self) -> bool {
        self.mode != Mode::Off && self.fallback.iter().any(Fallback::replaces_answers)
    }
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

impl Dimension {
    /// Those that are a word in the policy document, in the order of the documentation.
    pub const WORDS: [(&'static str, Dimension); 3] =
        [("cluster", Dimension::Cluster), ("route", Dimension::Route), ("authority", Dimension::Authority)];
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

impl Mode {
    /// All, with their words in the policy document, in the order of the documentation.
    pub const WORDS: [(&'static str, Mode); 3] =
        [("enforce", Mode::Enforce), ("shadow", Mode::Shadow), ("off", Mode::Off)];
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
    /// Response headers, names in lower case, that make a response a failure where one of their values matches.
    pub failure_headers: Vec<(String, Glob)>,
    /// Response headers that make a response neither success nor failure, likewise.
    pub ignore_headers: Vec<(String, Glob)>,
    /// Whether a response that the host breaks off after its headers is a failure; otherwise it counts as its headers say.
    pub failure_broken: bool,
    /// A request that takes at least this long is slow.
    pub slow_after: Option<Duration>,
    /// What a client that leaves before the response stands for.
    pub client_gone: ClientGone,
}

/// What a client that leaves before the response stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClientGone {
    /// A time-out when its own deadline has passed, a slow response after `slow_after`, else nothing.
    #[default]
    Auto,
    /// Nothing.
    Ignore,
}

impl ClientGone {
    /// All, with their words in the policy document, in the order of the documentation.
    pub const WORDS: [(&'static str, ClientGone); 2] = [("auto", ClientGone::Auto), ("ignore", ClientGone::Ignore)];
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

impl Breaker {
    /// The open period before jitter when the breaker has opened `opens` times before without a close in between:
    /// `min(open_for * open_growth^opens, open_max)`.
    pub fn period(&self, opens: u16) -> Duration {
        let limit = self.open_max.as_nanos();
        let mut period = self.open_for.as_nanos().min(limit);
        for _ in 0..opens {
            if period >= limit || self.open_growth <= 1000 {
                break;
            }
            period = (period * u128::from(self.open_growth) / 1000).min(limit);
        }
        Duration::from_nanos(u64::try_from(period).unwrap_or(u64::MAX))
    }
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

impl BreakerControl {
    /// All, with their words in the policy document, in the order of the documentation.
    pub const WORDS: [(&'static str, BreakerControl); 3] = [
        ("auto", BreakerControl::Auto),
        ("forced_open", BreakerControl::ForcedOpen),
        ("forced_closed", BreakerControl::ForcedClosed),
    ];
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

/// Retries after one that failed: decided here, executed by Envoy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Whether it acts.
    pub mode: Mode,
    /// Attempts after the first, 0..=20.
    pub max_retries: u8,
    /// After which ends of an attempt.
    pub on: RetryOn,
    /// Methods (as sent) whose requests may have reached a host and still be sent again.
    pub methods: Vec<String>,
    /// The (lower-case) name of the header whose presence makes any request one of those.
    pub idempotency_header: String,
    /// How long one attempt may take. At most `timeout`.
    pub per_try_timeout: Option<Duration>,
    /// How long all attempts may take, with the waits between them.
    pub timeout: Option<Duration>,
    /// The wait before each retry.
    pub backoff: Backoff,
    /// Whether a host's own wish is heard.
    pub retry_after: RetryAfter,
    /// How many retries all requests together may have.
    pub budget: Budget,
    /// Whether a request that is itself a retry of a proxy before this one gets none.
    pub skip_retries_of_retries: bool,
    /// Whether an attempt that is too slow goes on beside its successor.
    pub hedge_on_per_try_timeout: bool,
}

/// After which ends of an attempt there is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RetryOn {
    /// Envoy's words.
    pub words: WordSet,
    /// Statuses that are named by number.
    pub statuses: StatusSet,
}

/// A word of Envoy's `retry_on` or `retry_grpc_on`.
/// Source: Envoy, "Router", `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetryWord {
    /// Any 5xx, or no answer.
    FiveXx,
    /// 502, 503, 504, or no answer.
    GatewayError,
    /// No answer: disconnect, reset, time-out of the attempt.
    Reset,
    /// No answer, and nothing of the request had been sent.
    ResetBeforeRequest,
    /// No connection to the host.
    ConnectFailure,
    /// An answer with `x-envoy-ratelimited`.
    EnvoyRatelimited,
    /// 409.
    Retriable4xx,
    /// The host reset the stream with REFUSED_STREAM.
    RefusedStream,
    /// The statuses that the route names.
    RetriableStatusCodes,
    /// The response headers that the route names.
    RetriableHeaders,
    /// No answer over HTTP/3 after the connection stood.
    Http3PostConnectFailure,
    /// gRPC status 1 in the headers.
    Cancelled,
    /// gRPC status 4 in the headers.
    DeadlineExceeded,
    /// gRPC status 13 in the headers.
    Internal,
    /// gRPC status 8 in the headers.
    ResourceExhausted,
    /// gRPC status 14 in the headers.
    Unavailable,
}

impl RetryWord {
    /// All words, in the order of Envoy's documentation; those from `Cancelled` on are `retry_grpc_on`'s.
    pub const ALL: [RetryWord; 16] = [
        RetryWord::FiveXx,
        RetryWord::GatewayError,
        RetryWord::Reset,
        RetryWord::ResetBeforeRequest,
        RetryWord::ConnectFailure,
        RetryWord::EnvoyRatelimited,
        RetryWord::Retriable4xx,
        RetryWord::RefusedStream,
        RetryWord::RetriableStatusCodes,
        RetryWord::RetriableHeaders,
        RetryWord::Http3PostConnectFailure,
        RetryWord::Cancelled,
        RetryWord::DeadlineExceeded,
        RetryWord::Internal,
        RetryWord::ResourceExhausted,
        RetryWord::Unavailable,
    ];

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            RetryWord::FiveXx => "5xx",
            RetryWord::GatewayError => "gateway-error",
            RetryWord::Reset => "reset",
            RetryWord::ResetBeforeRequest => "reset-before-request",
            RetryWord::ConnectFailure => "connect-failure",
            RetryWord::EnvoyRatelimited => "envoy-ratelimited",
            RetryWord::Retriable4xx => "retriable-4xx",
            RetryWord::RefusedStream => "refused-stream",
            RetryWord::RetriableStatusCodes => "retriable-status-codes",
            RetryWord::RetriableHeaders => "retriable-headers",
            RetryWord::Http3PostConnectFailure => "http3-post-connect-failure",
            RetryWord::Cancelled => "cancelled",
            RetryWord::DeadlineExceeded => "deadline-exceeded",
            RetryWord::Internal => "internal",
            RetryWord::ResourceExhausted => "resource-exhausted",
            RetryWord::Unavailable => "unavailable",
        }
    }

    /// For a word of `retry_grpc_on` the gRPC status that it names.
    pub const fn grpc_status(self) -> Option<u8> {
        match self {
            RetryWord::Cancelled => Some(1),
            RetryWord::DeadlineExceeded => Some(4),
            RetryWord::ResourceExhausted => Some(8),
            RetryWord::Internal => Some(13),
            RetryWord::Unavailable => Some(14),
            _ => None,
        }
    }
}

/// A set of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct WordSet(u16);

impl WordSet {
    /// The set of these words.
    pub const fn of(words: &[RetryWord]) -> Self {
        let (mut bits, mut rest) = (0, words);
        while let [word, after @ ..] = rest {
            bits |= 1 << *word as u8;
            rest = after;
        }
        WordSet(bits)
    }

    /// Adds a word.
    pub fn insert(&mut self, word: RetryWord) {
        self.0 |= 1 << word as u8;
    }

    /// Whether `word` is in the set.
    pub const fn contains(self, word: RetryWord) -> bool {
        self.0 >> word as u8 & 1 == 1
    }

    /// Whether one of `words` is in the set.
    pub const fn has_any(self, words: WordSet) -> bool {
        self.0 & words.0 != 0
    }

    /// Whether the set has no word.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The words in order.
    pub fn iter(self) -> impl Iterator<Item = RetryWord> {
        RetryWord::ALL.into_iter().filter(move |word| self.contains(*word))
    }
}

/// The wait before a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backoff {
    /// The wait that the first is made of; at most `max`.
    pub base: Duration,
    /// No wait is longer.
    pub max: Duration,
    /// How it is spread.
    pub jitter: Jitter,
}

/// How a wait is spread. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Jitter {
    /// Uniform from 0 to the exponential wait.
    Full,
    /// Half of the exponential wait, and uniform over the other half.
    Equal,
    /// Uniform from `base` to three times the wait before.
    Decorrelated,
    /// The exponential wait itself.
    None,
}

impl Jitter {
    /// All, with their words in the policy document, in the order of the documentation.
    pub const WORDS: [(&'static str, Jitter); 4] = [
        ("full", Jitter::Full),
        ("equal", Jitter::Equal),
        ("decorrelated", Jitter::Decorrelated),
        ("none", Jitter::None),
    ];
}

/// Whether a host's own wish when to come again is heard: `retry-after` or `grpc-retry-pushback-ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryAfter {
    /// Whether it is.
    pub honor: bool,
    /// A longer one means that there is no retry.
    pub max: Duration,
}

/// How many retries all requests of a key together may have. Not zero: one of the first two is more than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Retries for each hundred requests.
    pub ratio: Percent,
    /// Retries in a second whatever the number of requests, in thousandths.
    pub min_per_second: u32,
    /// How long a request counts, and how much of the reserve can be used at once; at least 1 s.
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

impl Fallback {
    /// Whether it serves for a reason that only the host's answer gives, or that there is none.
    pub fn replaces_answers(&self) -> bool {
        let reasons = [Reason::Failure, Reason::Timeout, Reason::RetriesExhausted, Reason::NoHost];
        reasons.into_iter().any(|reason| self.on.contains(reason))
    }

    /// Whether it has another cluster serve after the last attempt.
    pub fn goes_further(&self) -> bool {
        matches!(self.kind, FallbackKind::Route(_)) && self.replaces_answers()
    }
}

/// What a fallback does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FallbackKind {
    /// Answers with a fixed response.
    Static(StaticResponse),
    /// Answers with the last good answer to the same GET. At most one entry of a policy does.
    Stale(Stale),
    /// Has another cluster serve: before the first attempt, or as a further one after the last. Not for [`Reason::NoHost`]; for a reason that
    /// only an answer gives only in a policy with [`Retry`] that is enforced, does not hedge and leaves nothing to the route's statuses.
    Route(Route),
    /// Repeats the request in another cluster, and answers with what comes from there. Only for reasons that an answer gives, or that there
    /// is none.
    Call(Call),
}

impl FallbackKind {
    /// The other cluster, if it is one.
    pub fn as_route(&self) -> Option<&Route> {
        if let FallbackKind::Route(route) = self { Some(route) } else { None }
    }
}

/// Where a request goes in place of its own cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// The cluster's name.
    pub cluster: String,
}

impl Route {
    /// The property that holds the name of the cluster that a fallback has chosen for a request.
    pub const PROPERTY: &str = "holdfast_route";

    /// The filter state which that is in Envoy, by which a route lets a fallback choose.
    pub const FILTER_STATE: &str = "wasm.holdfast_route";
}

/// How a request is repeated in another cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    /// The cluster's name.
    pub cluster: String,
    /// How long it may take.
    pub timeout: Duration,
    /// The longest body of a request that is kept for it, in bytes.
    pub max_body: u32,
    /// The most calls of the policy that each worker has under way.
    pub max_concurrent: NonZeroU16,
    /// The methods of requests that may be sent twice, as [`Retry::methods`] has them.
    pub methods: Vec<String>,
    /// The header that says that a request may be sent twice, as [`Retry::idempotency_header`] has it.
    pub idempotency_header: String,
}

/// How good answers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stale {
    /// The oldest that is served.
    pub max_age: Duration,
    /// The longest body that is kept, in bytes.
    pub max_body: u32,
    /// The most answers that are kept for a key.
    pub entries: NonZeroU16,
}

/// A fixed response.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StaticResponse {
    /// 200..=599.
    pub status: u16,
    /// Names in lower case, in the order written, and values in parts; `content-type` is always among them when there is a body, and
    /// has nothing but text.
    pub headers: Vec<(String, Vec<TemplatePart>)>,
    /// The body, in parts.
    pub body: Vec<TemplatePart>,
    /// How values that are inserted into the body are escaped, from the content type.
    pub escape: Escape,
    /// The status of the answer to a gRPC request, 0..=16.
    pub grpc_status: u8,
}

/// A piece of a template: of a body, or of a header's value.
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
    /// The body is a JSON value and the content type is HTML or XML: the inside of a JSON string without anything that markup begins
    /// with.
    JsonInMarkup,
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
    /// The final answer was a failure, and the request had been retried.
    RetriesExhausted,
    /// The cluster had no host for the request.
    NoHost,
}

impl Reason {
    /// All reasons, in the order of the documentation.
    pub const ALL: [Reason; 7] = [
        Reason::Open,
        Reason::Concurrency,
        Reason::Throttled,
        Reason::Failure,
        Reason::Timeout,
        Reason::RetriesExhausted,
        Reason::NoHost,
    ];

    /// The word in the policy document, headers, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Open => "open",
            Reason::Concurrency => "concurrency",
            Reason::Throttled => "throttled",
            Reason::Failure => "failure",
            Reason::Timeout => "timeout",
            Reason::RetriesExhausted => "retries_exhausted",
            Reason::NoHost => "no_host",
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
