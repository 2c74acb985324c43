//! What must hold, and what can be known from outside to say so.

use holdfast_engine::attempt::AttemptState;
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::breaker::key::lets_retry;
use holdfast_engine::concurrency::in_flight::{InFlight, LEASE};
use holdfast_engine::host::{Headers, Host};
use holdfast_engine::http::markers;
use holdfast_engine::memory_host::MemoryHost;
use holdfast_engine::outlier::steering;
use holdfast_engine::request::RequestState;
use holdfast_engine::retry::Eligibility;
use holdfast_engine::retry::budget::Withdrawn;
use holdfast_engine::seats::retry_context::RetryContext;
use holdfast_engine::store::Store;
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::directory::Occupant;
use holdfast_engine::store::paths;
use holdfast_engine::store::place::Place;
use holdfast_engine::store::record::{self, Kind, Record};
use holdfast_policy::document::{Budget, Mode};
use holdfast_policy::percent::Percent;

use crate::request::{Phase, Request};
use crate::world::World;

/// So many hosts are named where the policy says nothing about retries, and the route may.
const ROUTES_ATTEMPTS: usize = 6;

/// The names of headers that tell Envoy's router about retries begin so.
const ROUTER: &str = "x-envoy-";

/// What can no longer be counted on, because somebody else had a hand in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Doubts {
    /// A record was written over.
    pub records: bool,
    /// The clock was put back.
    pub clock: bool,
    /// A retry context was written over.
    pub contexts: bool,
    /// VMs crashed with what they held.
    pub crashes: bool,
    /// A reply of another filter pretended to be a host's.
    pub pretences: bool,
}

impl Doubts {
    pub fn is_tampered(self) -> bool {
        self.records || self.clock || self.contexts
    }
}

/// The retry context before and after an event of the attempt seat.
pub struct Change {
    pub before: Option<RetryContext>,
    pub after: Option<RetryContext>,
}

impl Change {
    /// Whether the policy decides on retries of the request.
    pub fn is_governed(&self) -> bool {
        self.before.as_ref().is_some_and(|context| context.governs_retries)
    }
}

impl World<'_> {
    /// How many tokens are withdrawn for a key, where nobody has written over them.
    pub fn used(&mut self, key: Occupant) -> u32 {
        if self.doubts.is_tampered() {
            return 0;
        }
        let Some(retry) = self.shape.retry() else { return 0 };
        let stored = place(BlockKind::Retry, key).cell().read::<Withdrawn>(&mut self.store);
        let Some(cell) = stored else { return 0 };
        let one_each = Budget { ratio: Percent::FULL, min_per_second: 0, ..retry.budget };
        (0..).find(|used| cell.has_left(&one_each, used + 1, self.now)).unwrap_or(u32::MAX)
    }

    /// What an event of the attempt seat leaves: the other seat reads it, and no more is retried than may be.
    pub fn check_context(&self, request: &Request, old: &[u8], change: &Change) {
        if request.property() != old {
            assert!(change.after.is_some(), "the other seat reads it");
        }
        let (Some(after), Some(retry)) = (&change.after, self.shape.retry()) else { return };
        let was = change.before.as_ref().map_or(0, |before| before.retries);
        let most = retry.max_retries.max(if request.replaced { was } else { 0 });
        assert!(after.retries <= most, "{} of {most} retries", after.retries);
    }

    /// An attempt after the first leaves for its host.
    pub fn check_retry(&mut self, number: usize, change: &Change) {
        let request = &mut self.requests[number];
        if request.router.begun < 2 || !change.is_governed() {
            return;
        }
        let (Some(retry), Some(before), Some(after)) = (self.shape.retry(), &change.before, &change.after) else {
            return;
        };
        if request.is_unseen && before.retries == 0 && after.retries == 0 {
            // To the attempt seat it is the first.
            return;
        }
        request.sent += 1;
        let (sent, most) = (request.sent, u32::from(retry.max_retries));
        assert!(request.replaced || sent <= most, "{sent} retries of {most}");
        self.tokens -= 1;
        if self.doubts.is_tampered() {
            return;
        }
        assert!(self.tokens >= 0, "a retry without a token of its own");
        let cell = place(BlockKind::Breaker, before.key).cell();
        assert!(lets_retry(&mut self.store, self.shape.policy.breaker.as_ref(), &cell), "a retry at an open breaker");
        let is_late = after.deadline.is_some_and(|deadline| self.now >= deadline);
        assert!(!is_late, "a retry after the end of its request's time");
    }

    /// What the request seat has left in the headers of a request that goes on.
    pub fn check_admitted(&self, request: &Request) {
        let RequestState::Admitted(_) = &request.state else { return };
        let context = request.context();
        let header = |name| request.host.text(Headers::Request, name);
        let steered = header(steering::HEADER);
        if let Some(hosts) = &steered {
            assert!(context.as_ref().is_some_and(|context| context.steered), "a client's own: {hosts}");
            // Where the policy does not retry, the route may.
            let attempts = self.shape.retry().map_or(ROUTES_ATTEMPTS, |retry| 1 + usize::from(retry.max_retries));
            let most = attempts.max(3) + 1;
            assert!(hosts.split(',').count() <= most, "at most {most}, one for each attempt and the probe: {hosts}");
        }
        let Some(retry) = self.shape.retry() else {
            assert!(context.is_none_or(|context| !context.governs_retries), "retries are not the policy's");
            return;
        };
        let number = |name| header(name).and_then(|value| value.parse::<u64>().ok());
        let told = number("x-envoy-max-retries");
        assert!(told.is_some_and(|told| told <= retry.max_retries.into()), "{told:?} retries");
        match context.as_ref().filter(|context| context.governs_retries) {
            Some(context) => {
                assert!(context.eligibility != Eligibility::Nothing && retry.max_retries > 0);
                assert_eq!((context.retries, context.waiting, context.attempts.len()), (0, 0, 0));
                let lasts = context.attempt_lasts;
                assert!(lasts >= retry.per_try_timeout, "no wait eats an attempt");
                let room = lasts.unwrap_or_default().saturating_sub(retry.per_try_timeout.unwrap_or_default());
                assert!(room <= retry.backoff.max, "and no attempt lasts longer than a wait needs");
            }
            // Where the seats cannot tell each other anything, the router retries alone.
            None if request.is_refused => {}
            None => assert_eq!(told, Some(0), "only what is retried is told of"),
        }
        for (name, value) in pairs(&request.host, Headers::Request) {
            let is_ours = name.starts_with(ROUTER) && !request.own_headers.contains(&name);
            assert!(!is_ours || !value.is_empty() && value.iter().all(is_printable), "{name}: {value:?}");
        }
    }

    /// What the attempt seat lets leave for the host.
    pub fn check_sent(&self, request: &Request, state: &AttemptState) {
        if let (AttemptState::Governed(_), false) = (state, request.replaced) {
            let named = request.host.header(Headers::Request, steering::HEADER);
            assert_eq!(named, None, "hosts do not see each other's names");
        }
    }

    /// What the attempt seat has made of a response: the retries that it asks for are allowed.
    pub fn check_marks(&self, request: &Request, state: &AttemptState, change: &Change) {
        let AttemptState::Governed(_) = state else { return };
        let asks = request.host.header(Headers::Response, markers::RETRY_HEADER).is_some();
        let forbids = request.host.header(Headers::Response, markers::FORBID_HEADER);
        if asks {
            let eligibility = change.after.as_ref().map(|context| context.eligibility);
            assert_eq!(eligibility, Some(Eligibility::All), "what a host has seen is sent again only if it may be");
            let is_ours = forbids.is_some_and(|value| value == markers::FORBID_VALUE.as_bytes());
            assert!(!is_ours, "asked for and forbidden");
        }
    }

    /// What goes to the client has none of the seats' own headers.
    pub fn check_answer(&self, request: &Request) {
        let header = |name| request.host.header(Headers::Response, name);
        assert_eq!(header(markers::RETRY_HEADER), None);
        assert_eq!(header(markers::ATTEMPTS_HEADER), None);
        assert_ne!(header(markers::FORBID_HEADER).as_deref(), Some(markers::FORBID_VALUE.as_bytes()));
    }

    /// The access log's line, and the lines of the log.
    pub fn check_lines(&self, request: &Request) {
        let line = request.host.property("holdfast").unwrap_or_default();
        assert!(line.iter().all(is_printable), "{:?}", String::from_utf8_lossy(&line));
        self.check_log();
    }

    pub fn check_log(&self) {
        for line in self.root.take_lines() {
            assert!(!line.chars().any(char::is_control), "one line: {line:?}");
        }
    }

    /// What is counted in flight are the requests that have begun and not ended.
    pub fn check_in_flight(&mut self) {
        let concurrency = self.shape.policy.concurrency.as_ref();
        let is_exact = concurrency.is_some_and(|concurrency| concurrency.mode == Mode::Enforce)
            && !self.doubts.records
            && !self.doubts.clock
            && !self.doubts.crashes
            && self.now.since(self.began) < LEASE;
        if is_exact {
            let held = self.requests.iter().filter(|request| request.is_held).count() as u64;
            let counted = self.counted_in_flight(Timestamp::ZERO);
            assert!(counted <= held, "{counted} of {held} requests in flight");
            // One that met a place which its key had just lost passes uncounted.
            let has_places = self.keys.len() as u64 <= u64::from(self.shape.policy.scope.max_keys.get());
            assert!(counted == held || !has_places, "{counted} of {held} requests in flight");
        }
    }

    /// The requests in flight by all cells, of those counts that hold after `since`.
    pub fn counted_in_flight(&mut self, since: Timestamp) -> u64 {
        let mut counted = 0;
        for index in 0..=self.shape.policy.scope.max_keys.get().min(9) {
            let name = format!("{}/{index}", paths::of_block(BlockKind::Concurrency, 0));
            let Some((bytes, _)) = self.store.get(&name) else { continue };
            // Of whichever occupant it is.
            let Some(mark) = record::mark_of(&bytes, Kind::InFlight) else { continue };
            let Some(cell) = InFlight::decode(&bytes, mark) else { continue };
            let holds = cell.counts.iter().filter(|count| count.expires > since);
            counted += holds.map(|count| u64::from(count.requests)).sum::<u64>();
        }
        counted
    }

    /// Whoever is held is woken in time: a tick is asked for.
    pub fn check_ticks(&self, worker: usize) {
        let is_held = |request: &Request| request.attempts.iter().any(|one| matches!(one.phase, Phase::Waiting { .. }));
        if self.requests.iter().any(|request| request.worker == worker && is_held(request)) {
            let every = self.at_work(worker).ticks.tick().as_millis();
            assert!((1..=1000).contains(&every), "a tick every {every} ms");
        }
    }
}

/// The place of a key in the policy's block, which is alone.
fn place(kind: BlockKind, key: Occupant) -> Place {
    Place::new(kind, Occupant::default(), key)
}

fn is_printable(byte: &u8) -> bool {
    (b' '..=b'~').contains(byte)
}

fn pairs(host: &MemoryHost, map: Headers) -> Vec<(String, Vec<u8>)> {
    let bytes = host.headers(map);
    let all = holdfast_engine::http::headers::read(&bytes);
    all.map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec())).collect()
}
