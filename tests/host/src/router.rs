//! Envoy's router for one request: what it does when an attempt ends or a timer fires. It decides and touches nothing; what is
//! to be done comes back as [`Effect`]s, in Envoy's order. Source: Envoy, `source/common/router/router.cc`.

use std::time::Duration;

use crate::clock::nanos;
use crate::flags;
use crate::headers::Headers;
use crate::reset::Reset;
use crate::retry_state::{Decision, RetryState};
use crate::route::Route;
use crate::stream::LocalReply;
use crate::timeouts::Timeouts;

/// UNAVAILABLE, which Envoy makes of 502, 503 and 504.
const UNAVAILABLE: u32 = 14;

/// What the router does, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The next attempt starts.
    Start,
    /// An attempt's stream is reset, if it is not over, and deleted.
    End(usize),
    /// Response flags are set.
    Flag(u64),
    /// This attempt's response is the one for the client.
    Choose(usize),
    /// It goes on to the client.
    Forward(usize),
    /// Envoy answers, with these response flags.
    Reply { reply: LocalReply, flags: u64 },
    /// The response, of which the client has a part, breaks off.
    BreakOff { details: String, flags: u64 },
}

#[derive(Debug)]
struct Try {
    is_live: bool,
    awaits_headers: bool,
    /// It goes on waiting for a connection.
    is_unreached: bool,
    /// A retry was started because this one took too long; it is not retried again.
    is_retried: bool,
    /// The host has seen some of the request.
    was_sent: bool,
    times_out: Option<u64>,
}

/// The router's view of one request. Times are nanoseconds on the steady clock.
#[derive(Debug)]
pub(crate) struct Router {
    retry: Option<RetryState>,
    timeouts: Timeouts,
    back_off: Duration,
    counts_attempts: bool,
    /// Whether it adds headers of its own.
    adds_headers: bool,
    tries: Vec<Try>,
    /// When the request's last byte had come.
    complete: Option<u64>,
    times_out: Option<u64>,
    /// When the next attempt starts, while one is waited for.
    next_try: Option<u64>,
    has_response: bool,
}

impl Router {
    /// Takes a request whose headers have come, and what they say to the router out of them.
    pub(crate) fn new(route: &Route, headers: &mut Headers, adds_headers: bool) -> Self {
        let timeouts = Timeouts::take(route, headers);
        let retry = RetryState::take(route, headers);
        Router {
            retry,
            timeouts,
            back_off: route.back_off,
            counts_attempts: route.counts_attempts,
            adds_headers,
            tries: Vec::new(),
            complete: None,
            times_out: None,
            next_try: None,
            has_response: false,
        }
    }

    /// The request's last byte has come: its time begins, and that of the attempts that it has. Source: Envoy,
    /// `Filter::onRequestComplete`.
    pub(crate) fn request_complete(&mut self, now: u64) {
        self.complete = Some(now);
        // One that waits for its next attempt has no time-out from then on.
        if self.tries.is_empty() || !self.live().is_empty() {
            self.times_out = after(now, self.timeouts.global);
        }
        for one in self.tries.iter_mut().filter(|one| one.is_live && one.awaits_headers && !one.is_unreached) {
            one.times_out = after(now, self.timeouts.per_try);
        }
    }

    /// Starts an attempt, on `headers`, which all attempts share.
    pub(crate) fn start(&mut self, headers: &mut Headers, now: u64) -> usize {
        let number = self.tries.len() + 1;
        if self.counts_attempts {
            headers.set("x-envoy-attempt-count", number.to_string());
        }
        if self.adds_headers {
            self.timeouts.announce(headers, self.elapsed(now).unwrap_or_default());
        }
        self.tries.push(Try {
            is_live: true,
            awaits_headers: true,
            is_retried: false,
            is_unreached: false,
            was_sent: false,
            times_out: self.complete.and_then(|_| after(now, self.timeouts.per_try)),
        });
        number - 1
    }

    /// An attempt gets no connection: its own time-out does not begin (Envoy, `UpstreamRequest::onPoolReady`).
    pub(crate) fn is_unreached(&mut self, index: usize) {
        let one = &mut self.tries[index];
        (one.times_out, one.is_unreached, one.was_sent) = (None, true, false);
    }

    /// How long ago the request's last byte had come.
    pub(crate) fn elapsed(&self, now: u64) -> Option<Duration> {
        self.complete.map(|complete| Duration::from_nanos(now - complete))
    }

    /// The host has the attempt's request.
    pub(crate) fn sent(&mut self, index: usize) {
        self.tries[index].was_sent = true;
    }

    /// An attempt's stream is deleted.
    pub(crate) fn ended(&mut self, index: usize) {
        let one = &mut self.tries[index];
        (one.is_live, one.awaits_headers, one.times_out) = (false, false, None);
    }

    /// Nothing happens any more; gives the attempts that are still to be ended, in order.
    pub(crate) fn stop(&mut self) -> Vec<usize> {
        (self.retry, self.times_out, self.next_try) = (None, None, None);
        self.live()
    }

    /// Attempts that are not over, the oldest first.
    pub(crate) fn live(&self) -> Vec<usize> {
        self.tries.iter().enumerate().filter(|(_, one)| one.is_live).map(|(index, _)| index).collect()
    }

    /// Whether some of a response has gone to the client.
    pub(crate) fn has_response(&self) -> bool {
        self.has_response
    }

    /// Whether a retry, or the headers of one under way, may still come.
    fn expects_more(&self) -> bool {
        self.next_try.is_some() || self.tries.iter().any(|one| one.is_live && one.awaits_headers)
    }

    fn act_on(&mut self, decision: Decision, now: u64, effects: &mut Vec<Effect>) -> bool {
        match decision {
            Decision::Retry => self.next_try = Some(now + nanos(self.back_off)),
            Decision::LimitExceeded => effects.push(Effect::Flag(flags::UPSTREAM_RETRY_LIMIT_EXCEEDED)),
            Decision::No => {}
        }
        decision == Decision::Retry
    }

    /// An attempt's response headers have come, past the module.
    pub(crate) fn on_headers(&mut self, index: usize, headers: &Headers, now: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        let one = &mut self.tries[index];
        one.awaits_headers = false;
        let was_retried = one.is_retried;
        let mut is_unwanted = false;
        if let Some(retry) = &mut self.retry {
            if was_retried {
                is_unwanted = retry.would_retry(headers);
            } else {
                let decision = retry.after_headers(headers);
                if self.act_on(decision, now, &mut effects) {
                    effects.push(Effect::End(index));
                    return effects;
                }
                is_unwanted = decision == Decision::LimitExceeded;
            }
        }
        if is_unwanted && self.expects_more() {
            effects.push(Effect::End(index));
            return effects;
        }
        self.retry = None;
        self.next_try = None;
        self.has_response = true;
        self.tries.iter_mut().for_each(|one| one.times_out = None);
        effects.push(Effect::Choose(index));
        effects.extend(self.live().into_iter().filter(|other| *other != index).map(Effect::End));
        effects.push(Effect::Forward(index));
        effects
    }

    /// An attempt's stream was reset.
    pub(crate) fn on_reset(&mut self, index: usize, reset: Reset, now: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.tries[index].awaits_headers = false;
        if self.has_response {
            effects.push(Effect::End(index));
            effects.push(Effect::BreakOff { details: reset.details(true), flags: reset.flag() });
            return effects;
        }
        if self.retries_reset(index, reset, now, &mut effects) {
            return effects;
        }
        effects.push(Effect::End(index));
        if !self.expects_more() {
            effects.push(self.reset_reply(reset));
        }
        effects
    }

    fn retries_reset(&mut self, index: usize, reset: Reset, now: u64, effects: &mut Vec<Effect>) -> bool {
        let Try { is_retried, was_sent, .. } = self.tries[index];
        let Some(retry) = self.retry.as_mut().filter(|_| !is_retried) else { return false };
        let decision = retry.after_reset(reset, was_sent && reset != Reset::ConnectFailure);
        let is_retried = self.act_on(decision, now, effects);
        if is_retried {
            effects.push(Effect::End(index));
        }
        is_retried
    }

    fn reset_reply(&self, reset: Reset) -> Effect {
        let retried = if self.tries.len() > 1 { "retried and the latest " } else { "" };
        let overloaded = (reset == Reset::Overflow && self.adds_headers).then_some(("x-envoy-overloaded", "true"));
        let reply = LocalReply {
            status: reset.status(),
            details: reset.details(false),
            body: format!(
                "upstream connect error or disconnect/reset before headers. {retried}reset reason: {}",
                reset.name()
            )
            .into_bytes(),
            headers: overloaded.into_iter().collect(),
            grpc_status: UNAVAILABLE,
        };
        Effect::Reply { reply, flags: reset.flag() }
    }

    /// There is no host for the next attempt.
    pub(crate) fn no_host() -> Effect {
        let reply = LocalReply {
            status: 503,
            details: "no_healthy_upstream".to_owned(),
            body: b"no healthy upstream".to_vec(),
            headers: Headers::default(),
            grpc_status: UNAVAILABLE,
        };
        Effect::Reply { reply, flags: flags::NO_HEALTHY_UPSTREAM }
    }

    /// When the next timer fires.
    pub(crate) fn due(&self) -> Option<u64> {
        let per_try = self.tries.iter().filter_map(|one| one.times_out);
        per_try.chain(self.times_out).chain(self.next_try).min()
    }

    /// The first of the timers that are due fires.
    pub(crate) fn on_timer(&mut self, now: u64) -> Vec<Effect> {
        let first = self.due().filter(|due| *due <= now);
        if first.is_none() {
            return Vec::new();
        }
        if self.times_out == first {
            return self.on_timeout();
        }
        if self.next_try == first {
            self.next_try = None;
            return vec![Effect::Start];
        }
        match self.tries.iter().position(|one| one.times_out == first) {
            Some(index) => self.on_per_try_timeout(index, now),
            None => Vec::new(),
        }
    }

    fn on_timeout(&mut self) -> Vec<Effect> {
        let mut effects: Vec<Effect> = self.stop().into_iter().map(Effect::End).collect();
        effects.push(if self.has_response {
            Effect::BreakOff { details: "response_timeout".to_owned(), flags: flags::UPSTREAM_TIMEOUT }
        } else {
            timeout_reply("response_timeout")
        });
        effects
    }

    fn on_per_try_timeout(&mut self, index: usize, now: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.tries[index].times_out = None;
        if self.timeouts.hedges {
            if let Some(retry) = &mut self.retry {
                let decision = retry.hedge();
                self.tries[index].is_retried = self.act_on(decision, now, &mut effects);
            }
            return effects;
        }
        if !self.retries_reset(index, Reset::Local, now, &mut effects) {
            effects.push(Effect::End(index));
            effects.push(timeout_reply("upstream_per_try_timeout"));
        }
        effects
    }
}

fn after(now: u64, timeout: Duration) -> Option<u64> {
    (!timeout.is_zero()).then(|| now + nanos(timeout))
}

fn timeout_reply(details: &str) -> Effect {
    let reply = LocalReply {
        status: 504,
        details: details.to_owned(),
        body: b"upstream request timeout".to_vec(),
        headers: Headers::default(),
        grpc_status: UNAVAILABLE,
    };
    Effect::Reply { reply, flags: flags::UPSTREAM_TIMEOUT }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;

    /// One request through the router, with whoever does what it says: attempts start and end as it wants.
    struct Story {
        router: Router,
        headers: Headers,
        now: u64,
    }

    impl Story {
        fn on(route: Route) -> Self {
            Story::with(route, &[])
        }

        fn with(route: Route, headers: &[(&str, &str)]) -> Self {
            let mut headers: Headers = headers.iter().copied().collect();
            let mut router = Router::new(&route, &mut headers, true);
            router.request_complete(0);
            let mut story = Story { router, headers, now: 0 };
            story.start();
            story
        }

        fn start(&mut self) {
            let index = self.router.start(&mut self.headers, self.now);
            self.router.sent(index);
        }

        fn does(&mut self, effects: Vec<Effect>) -> Vec<String> {
            let mut said = Vec::new();
            for effect in effects {
                match &effect {
                    Effect::Start => self.start(),
                    Effect::End(index) => self.router.ended(*index),
                    _ => {}
                }
                said.push(match effect {
                    Effect::Choose(_) => continue,
                    Effect::Start => format!("starts try {}", self.router.tries.len()),
                    Effect::End(index) => format!("ends try {}", index + 1),
                    Effect::Flag(flag) => format!("flag {flag}"),
                    Effect::Forward(index) => format!("forwards try {}", index + 1),
                    Effect::Reply { reply, flags } => format!("replies {} {} {flags}", reply.status, reply.details),
                    Effect::BreakOff { details, flags } => format!("breaks off {details} {flags}"),
                });
            }
            said
        }

        /// Try `number` answers with this status.
        fn answers(&mut self, number: usize, status: u16) -> Vec<String> {
            let headers = [(":status", status.to_string())].into_iter().collect();
            let effects = self.router.on_headers(number - 1, &headers, self.now);
            self.does(effects)
        }

        fn resets(&mut self, number: usize, reset: Reset) -> Vec<String> {
            let effects = self.router.on_reset(number - 1, reset, self.now);
            self.does(effects)
        }

        /// What happens within so many milliseconds, each line with the millisecond it happens at.
        fn within(&mut self, millis: u64) -> Vec<String> {
            let end = self.now + millis * MILLI;
            let mut said = Vec::new();
            while let Some(due) = self.router.due().filter(|due| *due <= end) {
                self.now = due;
                let effects = self.router.on_timer(due);
                let lines = self.does(effects);
                said.extend(lines.into_iter().map(|line| format!("{} ms: {line}", due / MILLI)));
            }
            self.now = end;
            said
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn route() -> Route {
        Route::new().retry_on("5xx").retries(1)
    }

    #[test]
    fn a_good_answer_is_forwarded_and_nothing_more_happens() {
        let mut story = Story::on(route().per_try_timeout(millis(100)));
        assert_eq!(story.answers(1, 200), ["forwards try 1"]);
        story.router.ended(0);
        story.router.stop();
        assert_eq!(story.within(60_000), [""; 0]);
    }

    #[test]
    fn a_bad_answer_is_tried_again_after_the_back_off_until_there_are_no_retries_left() {
        let mut story = Story::on(route().back_off(millis(25)));
        assert_eq!(story.answers(1, 503), ["ends try 1"]);
        assert_eq!(story.within(24), [""; 0]);
        assert_eq!(story.within(1), ["25 ms: starts try 2"]);
        assert_eq!(story.answers(2, 503), ["flag 32768", "forwards try 2"]);
    }

    #[test]
    fn without_a_back_off_the_next_attempt_starts_at_once_but_not_within_the_same_call() {
        let mut story = Story::on(route());
        assert_eq!(story.answers(1, 503), ["ends try 1"]);
        assert_eq!(story.within(0), ["0 ms: starts try 2"]);
    }

    #[test]
    fn a_reset_is_tried_again_and_the_last_one_is_answered() {
        let mut story = Story::on(route());
        assert_eq!(story.resets(1, Reset::Remote), ["ends try 1"]);
        story.within(0);
        assert_eq!(
            story.resets(2, Reset::ConnectionTermination),
            [
                "flag 32768",
                "ends try 2",
                "replies 503 upstream_reset_before_response_started{connection_termination} 64"
            ]
        );
        let mut story = Story::on(Route::new());
        assert_eq!(
            story.resets(1, Reset::ProtocolError),
            ["ends try 1", "replies 502 upstream_reset_before_response_started{protocol_error} 8388608"]
        );
    }

    #[test]
    fn the_reply_says_whether_there_was_more_than_one_attempt() {
        let mut story = Story::on(route());
        story.resets(1, Reset::Remote);
        story.within(0);
        let Some(Effect::Reply { reply, .. }) = story.router.on_reset(1, Reset::Remote, 0).pop() else { panic!() };
        assert_eq!(
            String::from_utf8(reply.body).unwrap(),
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote reset"
        );
    }

    #[test]
    fn a_response_that_has_begun_is_not_tried_again() {
        let mut story = Story::on(route());
        story.answers(1, 200);
        assert_eq!(
            story.resets(1, Reset::Remote),
            ["ends try 1", "breaks off upstream_reset_after_response_started{remote_reset} 16"]
        );
    }

    #[test]
    fn an_attempt_that_takes_too_long_is_a_local_reset() {
        let mut story = Story::on(route().per_try_timeout(millis(100)));
        assert_eq!(story.within(100), ["100 ms: ends try 1", "100 ms: starts try 2"]);
        assert_eq!(
            story.within(100),
            ["200 ms: flag 32768", "200 ms: ends try 2", "200 ms: replies 504 upstream_per_try_timeout 4"]
        );
        let mut story = Story::on(route().retry_on("connect-failure,refused-stream").per_try_timeout(millis(100)));
        assert_eq!(story.within(100), ["100 ms: ends try 1", "100 ms: replies 504 upstream_per_try_timeout 4"]);
    }

    #[test]
    fn the_whole_timeout_ends_everything_whatever_is_under_way() {
        let mut story = Story::on(route().timeout(millis(50)));
        assert_eq!(story.within(60_000), ["50 ms: ends try 1", "50 ms: replies 504 response_timeout 4"]);
        let mut story = Story::on(route().timeout(millis(50)).back_off(millis(100)));
        story.answers(1, 503);
        assert_eq!(story.within(60_000), ["50 ms: replies 504 response_timeout 4"], "in the back-off too");
        let mut story = Story::on(route().timeout(millis(50)));
        story.answers(1, 200);
        assert_eq!(story.within(60_000), ["50 ms: ends try 1", "50 ms: breaks off response_timeout 4"]);
    }

    #[test]
    fn a_response_that_has_begun_may_take_longer_than_an_attempt() {
        let mut story = Story::on(route().timeout(Duration::ZERO).per_try_timeout(millis(100)));
        story.answers(1, 200);
        assert_eq!(story.within(60_000), [""; 0]);
    }

    #[test]
    fn a_hedged_request_takes_whichever_attempt_answers_well_first() {
        let hedging = || Story::on(route().per_try_timeout(millis(100)).hedging());
        let mut story = hedging();
        assert_eq!(story.within(100), ["100 ms: starts try 2"], "and try 1 goes on");
        assert_eq!(story.answers(2, 200), ["ends try 1", "forwards try 2"]);
        let mut story = hedging();
        story.within(100);
        assert_eq!(story.answers(1, 200), ["ends try 2", "forwards try 1"]);
    }

    #[test]
    fn a_hedged_request_waits_for_the_other_attempt_when_one_fails() {
        let hedging = || Story::on(route().per_try_timeout(millis(100)).hedging());
        let mut story = hedging();
        story.within(100);
        assert_eq!(story.answers(2, 503), ["flag 32768", "ends try 2"]);
        assert_eq!(story.answers(1, 503), ["forwards try 1"], "the last one is what the client gets");
        let mut story = hedging();
        story.within(100);
        assert_eq!(story.resets(1, Reset::Remote), ["ends try 1"], "it is not tried a second time");
        assert_eq!(story.answers(2, 200), ["forwards try 2"]);
    }

    #[test]
    fn a_hedged_attempt_follows_without_any_word_for_it() {
        let mut story = Story::on(route().retry_on("retriable-4xx").per_try_timeout(millis(100)).hedging());
        assert_eq!(story.within(100), ["100 ms: starts try 2"]);
        assert_eq!(story.within(100), ["200 ms: flag 32768"], "there are no retries left, and both go on");
        let mut story = Story::on(Route::new().per_try_timeout(millis(100)).hedging());
        assert_eq!(story.within(1000), [""; 0], "without any retry policy it simply goes on");
    }

    #[test]
    fn an_attempt_that_the_module_holds_was_not_sent() {
        let mut headers = Headers::default();
        let route = Route::new().retry_on("reset-before-request").per_try_timeout(millis(100));
        let mut router = Router::new(&route, &mut headers, true);
        router.request_complete(0);
        router.start(&mut headers, 0);
        assert_eq!(router.on_timer(100 * MILLI), [Effect::End(0)], "so its time-out is a reset before the request");
    }

    #[test]
    fn each_attempt_is_told_its_number_and_its_time() {
        let route = route().timeout(millis(1000)).back_off(millis(25)).counting_attempts();
        let mut story = Story::with(route, &[("x-envoy-retry-on", "reset"), ("x-own", "stays")]);
        let told = |story: &Story| -> Vec<String> {
            let pairs = story.headers.iter();
            pairs.map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
        };
        assert_eq!(told(&story), ["x-own: stays", "x-envoy-attempt-count: 1", "x-envoy-expected-rq-timeout-ms: 1000"]);
        story.answers(1, 503);
        story.within(25);
        assert_eq!(told(&story), ["x-own: stays", "x-envoy-attempt-count: 2", "x-envoy-expected-rq-timeout-ms: 975"]);
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }
}
