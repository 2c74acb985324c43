//! Random events in the life of retried requests on three workers, with random faults, from fixed seeds.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use holdfast_engine::base::random::Random;
use holdfast_host_tests::{Host, Request, Reset, Response, Route, Routed, Seat, Thread};

use crate::fuzz::seeds;
use crate::support::{HOUR, millis, policy, seats_meet, seconds};

const WORKERS: u64 = 3;
const MOST_TRIES: usize = 3;

/// The policy gives a request two seconds; where the router is not told so, the route gives it three.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The budget, of which every run uses much more than there is: a tenth of the requests, and three in ten seconds.
const WINDOW: Duration = Duration::from_secs(10);
const RATIO: f64 = 0.1;
const RESERVE: f64 = 3.0;

/// The policy, with so much white space in it; that changes nothing.
fn document(white_space: &str, hedges: bool) -> String {
    policy(&format!(
        r#"{white_space}"breaker":{{"window":"5s","min_requests":15,"failure_rate":80,"open_for":"1s","open_max":"2s",
            "half_open":{{"probes":2,"lease":"2s"}}}},
        "concurrency":{{"max_requests":50}},
        "retry":{{"on":["5xx","connect-failure","unavailable"],"max_retries":2,"timeout":"2s","per_try_timeout":"300ms",
            "backoff":{{"base":"50ms","max":"200ms"}},"hedge_on_per_try_timeout":{hedges},
            "budget":{{"ratio":10,"min_per_second":0.3,"window":"10s"}}}}"#,
    ))
}

/// A request that is not over, and when it came.
struct UnderWay {
    request: Routed,
    worker: usize,
    began: Duration,
}

type AllUnderWay = Rc<RefCell<Vec<UnderWay>>>;

struct Fuzz {
    host: Host,
    random: Random,
    under_way: AllUnderWay,
    hedges: bool,
    /// Of 100 attempts so many are answered well.
    health: u64,
    /// Whether workers only race and die in this run; in the others calls are refused and clocks set.
    only_races: bool,
    /// When requests came, and when retries were sent.
    came: Vec<Duration>,
    further: Vec<Duration>,
}

/// Something happens to an attempt that its host has, of a request on another worker than `but`.
fn host_acts(under_way: &AllUnderWay, random: &mut Random, health: u64, but: Option<usize>) -> String {
    let under_way: Vec<_> = {
        let under_way = under_way.borrow();
        under_way.iter().filter(|one| Some(one.worker) != but).map(|one| one.request.clone()).collect()
    };
    let attempts = under_way.iter().flat_map(Routed::attempts).filter(|one| !one.is_held());
    let attempts: Vec<_> = attempts.filter(|one| !one.has_answered()).collect();
    if attempts.is_empty() {
        return "no host has anything to answer".to_owned();
    }
    let attempt = &attempts[(random.next() % attempts.len() as u64) as usize];
    let what = match random.next() % 100 {
        share if share < health => {
            attempt.responds(200);
            "200"
        }
        share => match share % 10 {
            0 => {
                attempt.resets();
                "a reset"
            }
            1 => {
                attempt.connect_fails();
                "no connection"
            }
            2 => {
                attempt.refuses_stream();
                "a refused stream"
            }
            3 => {
                attempt.fails(Reset::Overflow);
                "Envoy's own ceiling"
            }
            4 => {
                attempt.responds(Response::status(503).header("retry-after", "1").without_body());
                "503 with Retry-After"
            }
            5 => {
                attempt.responds(Response::grpc_headers_only(14));
                "gRPC 14"
            }
            6 => {
                attempt.responds(404);
                "404"
            }
            7 => {
                attempt.responds(Response::grpc(14));
                "gRPC 14 in trailers"
            }
            _ => {
                attempt.responds(503);
                "503"
            }
        },
    };
    format!("try {} has {what}", attempt.number())
}

impl Fuzz {
    fn new(seed: u64) -> Self {
        let hedges = seed % 3 == 1;
        let route = Route::new().timeout(TIMEOUT).back_off(millis(if seed % 4 > 1 { 25 } else { 0 }));
        let host = Host::with(&document(" ", hedges)).workers(WORKERS as usize).attempt_seat().route(route).start();
        seats_meet(&host);
        let came = vec![host.elapsed(); 2 * WORKERS as usize];
        Fuzz {
            host,
            random: Random::new(seed),
            under_way: AllUnderWay::default(),
            hedges,
            health: 60,
            only_races: seed.is_multiple_of(2),
            came,
            further: Vec::new(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.next() % limit
    }

    fn request(&mut self) -> String {
        let worker = self.below(WORKERS) as usize;
        let (what, request) = match self.below(6) {
            0 => ("POST", Request::new("POST", "/").body("one")),
            1 => ("POST with a key", Request::new("POST", "/").body("one").header("idempotency-key", "7")),
            2 => ("gRPC", Request::grpc("/a.B/C").header("idempotency-key", "7")),
            3 => ("retry of a retry", Request::get("/").header("x-envoy-attempt-count", "2")),
            _ => ("GET", Request::get("/")),
        };
        let began = self.host.elapsed();
        let request = self.host.send(worker, request);
        self.came.push(began);
        self.under_way.borrow_mut().push(UnderWay { request, worker, began });
        format!("{what} on {worker}")
    }

    /// One random event.
    fn step(&mut self) -> String {
        let host = self.host.clone();
        match self.below(100) {
            0..30 => self.request(),
            30..62 => host_acts(&self.under_way, &mut self.random, self.health, None),
            62..66 => {
                let under_way: Vec<_> = self.under_way.borrow().iter().map(|one| one.request.clone()).collect();
                let Some(leaving) = under_way.get(self.below(20) as usize).filter(|one| !one.is_over()) else {
                    return "no client leaves".to_owned();
                };
                leaving.client_leaves();
                format!("a client leaves after {} tries", leaving.tries().len())
            }
            66..84 => {
                let millis = match self.below(10) {
                    0..5 => self.below(20),
                    5..9 => self.below(300),
                    _ => self.below(3_000),
                };
                host.advance(Duration::from_millis(millis));
                format!("{millis} ms pass")
            }
            84..87 => {
                self.health = [0, 30, 95][self.below(3) as usize];
                format!("from here on {} of 100 tries are answered well", self.health)
            }
            87..89 => {
                let place = self.seat().on(self.below(WORKERS) as usize);
                host.crash(place);
                format!("{place:?} dies")
            }
            89..92 => {
                let (place, nth) = (self.seat().on(self.below(WORKERS) as usize), self.below(30));
                let mut seen = 0;
                host.crash_at(place, move |_| {
                    seen += 1;
                    seen > nth
                });
                format!("{place:?} is to die at its call {nth}")
            }
            92 => {
                host.nothing_fails();
                let spaces = " ".repeat(1 + self.below(2) as usize);
                host.update(&document(&spaces, self.hedges)).unwrap();
                "the same policy is sent again".to_owned()
            }
            93..96 => {
                let (under_way, health) = (Rc::clone(&self.under_way), self.health);
                let (mut random, mut left) = (Random::new(self.random.next()), 10);
                host.on_call(move |_, call| {
                    if let Thread::Worker(worker) = call.thread
                        && left > 0
                        && call.swaps("/retry/")
                    {
                        left -= 1;
                        host_acts(&under_way, &mut random, health, Some(worker));
                    }
                    None
                });
                "hosts of other workers are to answer just before tokens are taken".to_owned()
            }
            96 if !self.only_races => {
                // One call in 20 is refused, for the next 100 calls.
                let mut random = Random::new(self.random.next());
                let mut left = 100;
                host.on_call(move |_, call| {
                    left -= i32::from(left > 0);
                    let strikes = left > 0 && random.next().is_multiple_of(20) && call.name != "get_buffer_bytes";
                    call.refused().filter(|_| strikes)
                });
                "some calls are to be refused".to_owned()
            }
            97 if !self.only_races => {
                host.nothing_fails();
                let by = [seconds(1), seconds(20), HOUR][self.below(3) as usize];
                if self.below(2) == 0 {
                    host.set_clock_forward(by);
                    format!("the clock is set forward by {by:?}")
                } else {
                    host.set_clock_back(by);
                    format!("the clock is set back by {by:?}")
                }
            }
            _ => {
                host.nothing_fails();
                "nothing fails any more".to_owned()
            }
        }
    }

    fn seat(&mut self) -> Seat {
        if self.below(3) == 0 { Seat::Request } else { Seat::Attempt }
    }

    /// What must hold after every step.
    fn check(&mut self) -> Result<(), String> {
        if let Some(crash) = self.host.crashes().into_iter().find(|crash| !crash.wanted) {
            return Err(format!("a VM stopped by itself: {crash:?}"));
        }
        let now = self.host.elapsed();
        let (over, under_way): (Vec<_>, Vec<_>) =
            self.under_way.take().into_iter().partition(|one| one.request.is_over());
        for UnderWay { request, .. } in over {
            let tries = request.tries();
            if tries.len() > MOST_TRIES {
                return Err(format!("{} tries of one request", tries.len()));
            }
            let (is_post, is_keyed) = match tries.first().and_then(|one| one.headers.as_ref()) {
                Some(headers) => (headers.get(":method") == Some(b"POST"), headers.get("idempotency-key").is_some()),
                None => (false, false),
            };
            let reached = tries.iter().filter(|one| one.headers.is_some()).count();
            if is_post && !is_keyed && reached > 1 && self.only_races {
                return Err(format!("a POST has reached {reached} hosts: {tries:?}"));
            }
            self.further.extend(tries.iter().skip(1).filter_map(|one| one.sent));
        }
        let late = under_way.iter().find(|one| now - one.began > TIMEOUT + millis(1));
        let late =
            late.map(|one| format!("a request lasts for {:?} in try {}", now - one.began, one.request.tries().len()));
        *self.under_way.borrow_mut() = under_way;
        late.map_or(Ok(()), Err)
    }

    /// In no window are more retries than the requests that came in it, and a second before, allow.
    fn check_budget(&self) -> Result<(), String> {
        for last in &self.further {
            let within = |times: &[Duration], from: Duration| {
                times.iter().filter(|at| (from..=*last).contains(*at)).count() as f64
            };
            let made = within(&self.further, last.saturating_sub(WINDOW) + Duration::from_nanos(1));
            let came = within(&self.came, last.saturating_sub(WINDOW + TIMEOUT));
            if made > came * RATIO + RESERVE {
                return Err(format!("{made} retries before {last:?} in a window with {came} requests"));
            }
        }
        Ok(())
    }

    /// Everything is healthy from here on: nothing may be left, and retries are made again.
    fn heal(&mut self) -> Result<(), String> {
        self.host.nothing_fails();
        self.host.advance(TIMEOUT);
        self.check()?;
        let left = self.under_way.borrow().len();
        if left > 0 {
            return Err(format!("{left} requests are not over after their time-out"));
        }
        self.host.assert_nothing_is_left();
        // The breaker's open period, the lease of its probes, the window. What was taken just before the clock was put back
        // counts once more when it gets there again.
        for _ in 0..if self.only_races { 16 } else { 36 } {
            self.host.advance(seconds(1));
            for worker in 0..WORKERS as usize {
                let request = self.host.send(worker, Request::get("/"));
                self.came.push(self.host.elapsed());
                request.attempts().iter().for_each(|one| one.responds(200));
            }
        }
        let request = self.host.send(0, Request::get("/"));
        self.came.push(self.host.elapsed());
        request.attempt().responds(503);
        self.host.advance(millis(250));
        if request.is_over() || request.tries().len() != 2 {
            return Err(format!(
                "a failed try of a healthy service is not followed by another: {:?}",
                request.answer()
            ));
        }
        self.further.extend(request.attempt().tried().sent);
        request.attempt().responds(200);
        self.host.assert_nothing_is_left();
        Ok(())
    }
}

#[test]
fn whatever_happens_requests_end_within_their_time_and_retries_within_their_budget() {
    for seed in seeds(0..10) {
        let mut fuzz = Fuzz::new(seed);
        let mut steps: Vec<String> = Vec::new();
        let fail = |steps: &[String], problem: String| {
            let from = steps.len().saturating_sub(60);
            panic!("seed {seed}, after step {}: {problem}\n{}", steps.len(), steps[from..].join("\n"));
        };
        for number in 0..300 {
            let step = fuzz.step();
            steps.push(step);
            if let Err(problem) = fuzz.check() {
                fail(&steps, problem);
            }
            if number % 150 == 149 {
                steps.push("all is to heal".to_owned());
                let healed = fuzz.heal();
                let exact = if fuzz.only_races { fuzz.check_budget() } else { Ok(()) };
                if let Err(problem) = healed.and(exact) {
                    fail(&steps, problem);
                }
            }
        }
    }
}
