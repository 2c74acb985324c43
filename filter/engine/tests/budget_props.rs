//! Properties of the retry budget for any timeline of requests and failures, over several workers.

#![cfg(not(target_arch = "wasm32"))]
// A test may stop at the first broken expectation; clippy knows that of test functions only, not of their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use holdfast_engine::cx::Cx;
use holdfast_engine::retry::budget;
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::attempt::{AfterResponse, AttemptPolicy, RouteEnds};
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::http::attempt::{AttemptRecord, End};
use holdfast_engine::http::client::ClientWaits;
use holdfast_engine::http::outcome::{Outcome, Verdict};
use holdfast_engine::http::response::ResponseHead;
use holdfast_engine::request::{Asked, Decision, RequestPolicy};
use holdfast_engine::retry::{Denial, Eligibility};
use holdfast_engine::seats::presence::{Presence, seat};
use holdfast_engine::seats::retry_context::{Next, RetryContext};
use holdfast_engine::store::block::BlockKind;
use holdfast_engine::store::cluster::{ClusterHash, GroupId};
use holdfast_engine::store::keys::Key;
use holdfast_engine::store::memory::MemoryStore;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::config;
use holdfast_policy::document::Budget;
use proptest::prelude::*;

const FAILURE: Outcome = Outcome { verdict: Verdict::Failure, slow: false, retry_after: None };

/// One thing that happens. Numbers of workers and tokens are taken modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    /// So many thousandths of the budget's window pass.
    Pass(u64),
    /// So many requests are over that asked for nothing.
    Requests(usize, usize),
    /// So many requests fail, ask for a retry, and are over.
    Failures(usize, usize),
    /// An attempt that has a token is not sent after all.
    GiveBack(usize, usize),
    /// Both VMs of the worker crash, and new ones take their place.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![0..10_u64, 0..400_u64, Just(100), 0..1500_u64].prop_map(Step::Pass),
        3 => (0..3_usize, 1..20_usize).prop_map(|(worker, count)| Step::Requests(worker, count)),
        4 => (0..3_usize, 1..12_usize).prop_map(|(worker, count)| Step::Failures(worker, count)),
        2 => (0..3_usize, any::<usize>()).prop_map(|(worker, token)| Step::GiveBack(worker, token)),
        1 => (0..3_usize).prop_map(Step::Crash),
    ]
}

/// Budgets of every kind, of which a timeline can reach the end: by share, by reserve, by both.
fn budget() -> impl Strategy<Value = (u32, u32, u64)> {
    let ratio = prop_oneof![Just(0), Just(100), 0..=100_u32];
    let reserve = prop_oneof![Just(0), Just(1), 0..=30_u32];
    let window = prop_oneof![Just(1000), Just(10_000), Just(300_000), 1000..=20_000_u64];
    (ratio, reserve, window).prop_filter("it allows something", |(ratio, reserve, _)| *ratio > 0 || *reserve > 0)
}

/// Both seats of one worker thread.
struct Thread {
    request: Worker,
    request_policy: RequestPolicy,
    attempt: Worker,
    attempts: AttemptPolicy,
    /// A request as the attempt seat is told of it.
    context: RetryContext,
}

/// All workers of one process, and what happened.
struct Process {
    text: String,
    store: MemoryStore,
    threads: Vec<Thread>,
    seed: u64,
    budget: Budget,
    now: Timestamp,
    /// When requests were sent.
    deposits: Vec<Timestamp>,
    /// Retries that have a token, and when they got it.
    tokens: Vec<(Timestamp, RetryContext)>,
    refused: usize,
}

impl Process {
    /// `reserve` is in tokens per window, `window` in milliseconds.
    fn new((ratio, reserve, window): (u32, u32, u64)) -> Self {
        let per_second = f64::from(reserve) * 1000.0 / window as f64;
        // Rounded up to what can be said, so that a reserve is not none.
        let per_second = (per_second * 1000.0).ceil() / 1000.0;
        let text = format!(
            r#"{{"policies":[{{"name":"p","scope":[],"retry":{{"backoff":{{"jitter":"none"}},
                "budget":{{"ratio":{ratio},"min_per_second":{per_second},"window":"{window}ms"}}}}}}]}}"#
        );
        let policy = config::parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}")).policies.remove(0);
        let budget = policy.retry.expect("it has retries").budget;
        let mut process = Process {
            text,
            store: MemoryStore::default(),
            threads: Vec::new(),
            seed: 0,
            budget,
            now: Timestamp::from_secs(1_700_000_000),
            deposits: Vec::new(),
            tokens: Vec::new(),
            refused: 0,
        };
        for _ in 0..3 {
            let thread = process.thread();
            process.threads.push(thread);
        }
        process
    }

    fn thread(&mut self) -> Thread {
        self.seed += 1;
        let policy = config::parse(self.text.as_bytes()).expect("valid").policies.remove(0);
        let (mut request, store, now) = (Worker::new(self.seed), &mut self.store, self.now);
        let mut request_policy = RequestPolicy::entered(policy.into(), store, now);
        request_policy.publish(store, &config::policy_texts(self.text.as_bytes())[0]);
        let attempts =
            request_policy.text_place().and_then(|place| AttemptPolicy::fetch(store, place, |_| Rc::default()));
        let attempts = attempts.expect("it is published");

        let cluster = ClusterHash::OF_THE_KEY;
        let key = request_policy.key(&mut request, store, now, |_| Some(Cow::Borrowed(b"")));
        let keys = request_policy.standing().and_then(|standing| *standing.places.get(BlockKind::Keys));
        let seat = keys.and_then(|keys| seat(keys, key.occupant, GroupId::OfTheKey));
        seat.expect("it is the key's").update(store, |_| ((), Some(Presence { seen: now }))).expect("it is written");
        let decision = request_policy.admit(&mut Cx::new(store, &mut request, now, &mut Vec::new()), key);
        let Decision::Admitted(ticket) = decision else { panic!("{decision:?}") };
        let asked = Asked { eligibility: Eligibility::All, cluster, ended: true, client_waits: ClientWaits::default() };
        let plan =
            request_policy.plan_retries(&mut Cx::new(store, &mut request, now, &mut Vec::new()), &ticket, asked, None);
        let context = plan.and_then(|plan| plan.context).expect("it may be retried");
        self.deposits.push(now);
        Thread { request, request_policy, attempt: Worker::new(!self.seed), attempts, context }
    }

    /// A request is sent, a deposit, and is over.
    fn request(&mut self, number: usize) {
        let (now, mut events) = (self.now, Vec::new());
        let Thread { request, request_policy, .. } = &mut self.threads[number];
        let decision = request_policy.admit(&mut Cx::new(&mut self.store, request, now, &mut events), Key::ALL);
        let Decision::Admitted(ticket) = decision else { panic!("{decision:?}") };
        let hold = request_policy.report(&mut Cx::new(&mut self.store, request, now, &mut events), ticket, &FAILURE);
        assert_eq!(hold, None, "the policy limits no requests in flight");
        self.deposits.push(now);
    }

    /// The first attempt of a request fails. Gives whether there is to be another.
    fn failure(&mut self, number: usize) -> bool {
        let (now, store) = (self.now, &mut self.store);
        let Thread { attempt, attempts, context, .. } = &mut self.threads[number];
        let mut context = RetryContext { admitted: now, ..context.clone() };
        let end = End::Http(503);
        let one = AttemptRecord {
            host: Vec::new(),
            end,
            verdict: Verdict::Failure,
            took: Duration::ZERO,
            ended: now,
            wish: None,
        };
        let head = ResponseHead { status: 503, ..ResponseHead::default() };
        let after = attempts.after_response(
            &mut Cx::new(store, attempt, now, &mut Vec::new()),
            &mut context,
            one,
            &head,
            RouteEnds::Unknown,
        );
        let granted = after == AfterResponse::Ask;
        if granted {
            self.tokens.push((now, context));
        } else {
            assert_eq!(context.next, Next::Denied(Denial::Budget), "nothing else is in the way");
            self.refused += 1;
        }
        granted
    }

    fn give_back(&mut self, number: usize, token: usize) {
        if !self.tokens.is_empty() {
            let (taken, mut context) = self.tokens.swap_remove(token % self.tokens.len());
            self.threads[number].attempts.abandon(&mut self.store, &mut context, taken, self.now);
        }
    }

    /// Every worker writes what waits.
    fn flush(&mut self) {
        for Thread { request, request_policy, .. } in &mut self.threads {
            request_policy.flush(&mut Cx::new(&mut self.store, request, self.now, &mut Vec::new()));
        }
    }

    /// How many of these times are in the span of `length` that ends now.
    fn within(&self, times: impl Iterator<Item = Timestamp>, length: Duration) -> u32 {
        times.filter(|time| self.now.since(*time) < length).count() as u32
    }

    /// The retries with a token in every window that ends now.
    fn granted(&self, length: Duration) -> u32 {
        self.within(self.tokens.iter().map(|(taken, _)| *taken), length)
    }

    /// That in the window that ends now there are no more retries than its requests allow. (A window with too many
    /// of them has too many when the last one is granted.)
    fn check_limit(&self) {
        let granted = self.granted(self.budget.window);
        let requests = self.within(self.deposits.iter().copied(), self.budget.window * 11 / 10);
        let allowed = budget::allowed(&self.budget, requests);
        assert!(u64::from(granted) * 1000 <= allowed, "{granted} further tries for {requests} requests: {allowed}");
    }

    /// That a retry was refused because there was no token left: requests count for nine tenths of a window at least
    /// and after 10 ms at most, and tokens are gone for eleven tenths at most.
    fn check_refusal(&self) {
        let taken = self.granted(self.budget.window * 11 / 10);
        let tenth = self.budget.window / 10;
        let counted = self.deposits.iter().filter(|time| self.now.since(**time) >= Duration::from_millis(10));
        let requests = self.within(counted.copied(), tenth * 9);
        let allowed = budget::allowed(&self.budget, requests);
        assert!(u64::from(taken + 1) * 1000 > allowed, "{taken} further tries for {requests} requests: {allowed}");
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            match *step {
                Step::Pass(thousandths) => {
                    let passed = self.budget.window * u32::try_from(thousandths).unwrap() / 1000;
                    self.now = self.now.plus(passed);
                    self.flush();
                    for Thread { request, request_policy, .. } in &mut self.threads {
                        request.tick(&mut self.store, self.now);
                        request_policy.tick(&mut Cx::new(&mut self.store, request, self.now, &mut Vec::new()));
                    }
                }
                Step::Requests(number, count) => (0..count).for_each(|_| self.request(number)),
                Step::Failures(number, count) => {
                    for _ in 0..count {
                        if self.failure(number) {
                            self.check_limit();
                        } else {
                            self.check_refusal();
                        }
                        self.request(number);
                    }
                }
                Step::GiveBack(number, token) => self.give_back(number, token),
                Step::Crash(number) => {
                    // Lost would be what it had counted for less than 10 ms.
                    self.flush();
                    self.threads[number] = self.thread();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever requests, failures, attempts that are not sent and crashes there are: in no window are there more retries
    /// than its requests and one reserve allow, and none is refused that a token is left for.
    #[test]
    fn in_no_window_are_there_more_retries_than_its_requests_allow(
        budget in budget(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        Process::new(budget).run(&steps);
    }
}

/// The property above would also hold if nothing was ever granted, or everything.
#[test]
fn timelines_of_an_outage_have_attempts_that_are_granted_and_attempts_that_are_refused() {
    let mut process = Process::new((20, 5, 10_000));
    let second = [Step::Failures(0, 10), Step::Failures(1, 10), Step::Failures(2, 10), Step::Pass(100)];
    for _ in 0..30 {
        process.run(&second);
    }
    let (granted, refused) = (process.tokens.len(), process.refused);
    assert_eq!(granted + refused, 900);
    assert!((150..=200).contains(&granted), "{granted}: a fifth of the requests, and a reserve of 5 in each window");
}
