//! A request and its attempts on their way through router and seats.

use core::mem;
use core::time::Duration;
use std::rc::Rc;

use holdfast_engine::attempt::{AttemptEffect, AttemptPlugin, AttemptReply, AttemptState};
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::host::{Headers, Host};
use holdfast_engine::http::outcome::client_left;
use holdfast_engine::http::response::ResponseHead;
use holdfast_engine::memory_host::MemoryHost;
use holdfast_engine::request::{RequestEffect, RequestState};
use holdfast_engine::seats::retry_context::{Next, RetryContext};
use holdfast_engine::store::memory::MemoryStore;

use crate::checks::Change;
use crate::request::{Attempt, Held, Phase, Replies, Request, Router};
use crate::steps::{self, AnyHost, Connection, Local, Name, Order, RequestHead, mostly_first};
use crate::world::{World, at_work};

/// How Envoy's response flags say that the client has closed its connection or its stream.
pub const CLIENT_LEFT: [u64; 2] = [1 << 14, 1 << 28];

/// How they say that there was no connection.
const CONNECTION_FAILURE: u64 = 1 << 5;

impl World<'_> {
    pub fn put_flags(&self, request: usize, flags: u64) {
        self.requests[request].host.put_property("response\0flags", Some(&flags.to_le_bytes()));
    }

    pub fn request(&mut self, worker: usize, head: &RequestHead<'_>) {
        let host = self.root.another();
        if head.refuses {
            host.refuse_properties();
        }
        host.put_property("xds\0cluster_name", Some(format!("c{}", mostly_first(head.cluster, 4)).as_bytes()));
        let own = [(":method", head.method.text().as_bytes()), (":path", b"/a?b"), (":authority", b"A.example")];
        let others = head.headers.iter().map(|(name, value)| (name.text(), *value));
        let headers: Vec<(&str, &[u8])> = own.into_iter().chain(others).collect();
        host.put_headers(Headers::Request, &headers);
        self.keys
            .insert((mostly_first(head.cluster, 4), host.header(Headers::Request, "x-tenant").unwrap_or_default()));
        let plugin = Rc::clone(&self.at_work(worker).request);
        let (state, effect) = RequestState::on_request_headers(&plugin, &mut self.store, &host, head.ended);
        let router = Router::new(&host, head);
        let is_admitted = matches!(state, RequestState::Admitted(_));
        self.governed += u64::from(is_admitted || effect != RequestEffect::Continue);
        let stream = self.next_name();
        self.requests.push(Request {
            worker,
            plugin,
            host,
            state,
            attempts: Vec::new(),
            router,
            seated: head.seated,
            own_headers: headers.iter().map(|(name, _)| (*name).to_owned()).collect(),
            is_refused: head.refuses,
            is_answered: false,
            is_open: false,
            stream,
            held: None,
            passed: Vec::new(),
            is_held: is_admitted && self.shape.counts_in_flight(),
            is_bodyless: head.ended,
            replies: Replies::default(),
            sent: 0,
            replaced: false,
            is_unseen: false,
        });
        let number = self.requests.len() - 1;
        self.check_lines(&self.requests[number]);
        self.check_in_flight();
        match effect {
            RequestEffect::Continue => self.check_admitted(&self.requests[number]),
            RequestEffect::Reply(local) => {
                assert!(!is_admitted, "what is turned away is not admitted");
                let request = &mut self.requests[number];
                request.replies.request_seat += 1;
                request.is_answered = true;
                // Envoy has the reply come back as a response.
                let reply = local.reply;
                let status = [(":status".to_owned(), reply.status.to_string())];
                request.host.put_headers(Headers::Response, &[&status[..], &reply.headers].concat());
                let again = self.on_request(number, |state, plugin, store, host| {
                    state.on_response_headers(plugin, store, host, stream, reply.body.is_empty())
                });
                assert_eq!(again, RequestEffect::Continue, "a reply to a reply");
                assert!(!self.requests[number].state.wants_body(false), "its body is ours");
            }
            RequestEffect::Hold | RequestEffect::Resume => panic!("there is no response"),
        }
    }

    /// A request that has nothing special.
    pub fn get(&mut self, worker: usize, cluster: u8, seated: bool) -> usize {
        let head = RequestHead {
            cluster,
            method: steps::Method::Get,
            headers: Vec::new(),
            ended: true,
            seated,
            refuses: false,
            route_retries: 0,
            route_ratelimited: false,
        };
        self.request(worker, &head);
        self.requests.len() - 1
    }

    /// Such a request whose first attempt is answered, and whose router retries or has no retries left.
    pub fn serve(&mut self, worker: usize, cluster: u8, status: steps::Status, seated: bool, retries: bool) -> usize {
        let number = self.get(worker, cluster, seated);
        if !retries {
            self.requests[number].router.retries_left = 0;
        }
        self.begin(number, steps::Attempt::default());
        let (headers, flags) = (Vec::new(), 0);
        let response = steps::Response { status, headers, ended: true, timed: true, named: false, lasts: false, flags };
        if self.requests[number].attempts.first().is_some_and(|one| one.phase == Phase::Sent) {
            self.respond(number, 0, &response);
        }
        number
    }

    /// Such a request whose answer has begun, and is a failure: of a host, or Envoy's own.
    pub fn begin_failing(&mut self, worker: usize, cluster: u8, seated: bool, local: bool) -> usize {
        let number = self.get(worker, cluster, seated);
        self.requests[number].router.retries_left = 0;
        self.begin(number, steps::Attempt::default());
        let (status, flags, ended) = (steps::Status::Unavailable, 0, false);
        if local && self.requests[number].is_waited_for() {
            let details = steps::Details::Bytes(b"upstream_reset_before_response_started{connection_failure}");
            let flags = CONNECTION_FAILURE;
            let reply = Local { status, headers: Vec::new(), details, flags, ended };
            self.local_reply(number, &reply, Order::AttemptsFirst);
        } else if self.requests[number].attempts.first().is_some_and(|one| one.phase == Phase::Sent) {
            let headers = Vec::new();
            let response = steps::Response { status, headers, ended, timed: true, named: false, lasts: true, flags };
            self.respond(number, 0, &response);
        }
        number
    }

    /// The router begins an attempt, and the attempt seat sees its headers.
    pub fn begin(&mut self, number: usize, attempt: steps::Attempt<'_>) {
        let stream = self.next_name();
        let request = &mut self.requests[number];
        if request.is_answered || request.router.wanted == 0 {
            return;
        }
        request.router.wanted -= 1;
        request.router.begun += 1;
        let host = &request.host;
        let numbered;
        let address: &[u8] = match attempt.host {
            AnyHost::First => b"10.0.0.1:80",
            AnyHost::Second => b"[::1]:80",
            AnyHost::Number(one) => {
                numbered = format!("10.0.0.{one}:80");
                numbered.as_bytes()
            }
            AnyHost::Bytes(bytes) => bytes,
            AnyHost::Nobody => b"",
        };
        host.put_property("upstream\0address", Some(address));
        host.put_property("upstream\0local_address", Some(b"10.0.0.9:5000"));
        host.put_property("upstream\0transport_failure_reason", None);
        host.put_property("upstream\0request_attempt_count", Some(&request.router.begun.to_le_bytes()));
        host.put_property("xds\0route_name", Some(attempt.route));
        host.put_headers::<&str, &str>(Headers::Response, &[]);
        if let Some(millis) = attempt.time_left {
            host.set_header(Headers::Request, "x-envoy-expected-rq-timeout-ms", &millis.to_string());
        }
        let mut one = Attempt { stream, state: AttemptState::Ungoverned, phase: Phase::Sent, is_hedged: false };
        if !request.seated {
            request.attempts.push(one);
            return;
        }
        let ended = request.is_bodyless;
        let begun = |plugin: &AttemptPlugin, store: &mut MemoryStore, host: &MemoryHost| {
            AttemptState::on_request_headers(plugin, store, host, stream, ended)
        };
        let ((state, effect), change) = self.on_attempt(number, begun);
        one.state = state;
        match effect {
            AttemptEffect::Continue => {
                self.check_sent(&self.requests[number], &one.state);
                self.requests[number].attempts.push(one);
                self.check_retry(number, &change);
            }
            AttemptEffect::Pause => {
                let not_before = self.due(&change, address).unwrap_or(self.now);
                one.phase = Phase::Waiting { since: self.now, not_before };
                self.requests[number].attempts.push(one);
                self.check_ticks(self.requests[number].worker);
            }
            AttemptEffect::Reply(reply) => {
                one.phase = Phase::Stopped;
                self.requests[number].attempts.push(one);
                self.replied(number, &reply);
            }
            AttemptEffect::Resume => panic!("it was not held"),
        }
    }

    /// The last byte of a request's body comes.
    pub fn uploaded(&mut self, number: usize) {
        let Request { state, host, attempts, .. } = &mut self.requests[number];
        state.on_request_end(host);
        attempts.iter().for_each(|attempt| attempt.state.on_request_end(host));
    }

    /// When the attempt that was decided on before is due, if it goes to the host with this address.
    pub fn due(&self, change: &Change, address: &[u8]) -> Option<Timestamp> {
        let before = change.before.as_ref().filter(|context| context.governs_retries)?;
        let longest = self.longest()?;
        let (Next::Retry { due, .. } | Next::Due(due)) = before.next else { return None };
        let due = match before.asked_by(address, self.now) {
            Some(asked) if asked.replaces_backoff => self.now.plus(asked.left),
            Some(asked) => due.max(self.now.plus(asked.left)),
            None => due,
        };
        Some(due.min(self.now.plus(longest)))
    }

    /// No wait is longer.
    pub fn longest(&self) -> Option<Duration> {
        self.shape.retry().map(|retry| retry.backoff.max.max(retry.retry_after.max))
    }

    /// The router begins another attempt beside one that takes too long.
    pub fn hedge(&mut self, number: usize, one: usize) {
        let request = &mut self.requests[number];
        if request.router.hedges
            && !request.is_answered
            && !request.attempts[one].is_hedged
            && request.router.take_retry()
        {
            request.attempts[one].is_hedged = true;
        }
    }

    /// An attempt replies in place of all: what the request seat makes of it.
    pub fn replied(&mut self, number: usize, reply: &AttemptReply) {
        let request = &mut self.requests[number];
        request.replies.attempt_seat += 1;
        assert_eq!(request.replies.attempt_seat, 1, "a second reply would crash Envoy");
        assert!(!request.is_answered, "the client has its response");
        assert!((100..600).contains(&reply.status), "{}", reply.status);
        let status = [(":status".to_owned(), reply.status.to_string())];
        let headers = [&status[..], &reply.headers].concat();
        self.respond_to_client(number, &headers, Some(reply.details.as_bytes()), reply.body.is_empty());
        self.end_attempts(number);
    }

    pub fn respond(&mut self, number: usize, one: usize, response: &steps::Response<'_>) {
        let mut headers = response_headers(response.status, &response.headers);
        if response.timed {
            headers.push(("x-envoy-upstream-service-time".to_owned(), "3".to_owned()));
        }
        let request = &mut self.requests[number];
        request.host.put_headers(Headers::Response, &headers);
        self.put_flags(number, without_client(response.flags));
        let request = &mut self.requests[number];
        let head =
            ResponseHead::read(&request.host.headers(Headers::Response), self.now, true, &self.shape.policy.outcome);
        if request.seated {
            let stream = request.attempts[one].stream;
            let state = mem::take(&mut request.attempts[one].state);
            let seen = |plugin: &AttemptPlugin, store: &mut MemoryStore, host: &MemoryHost| {
                state.on_response_headers(plugin, store, host, stream, response.ended);
                state
            };
            let (state, change) = self.on_attempt(number, seen);
            self.check_marks(&self.requests[number], &state, &change);
            self.requests[number].attempts[one].state = state;
            self.note_passed(number, &change);
        }
        let request = &mut self.requests[number];
        if request.router.would_retry(&request.host, &head, response.named) {
            let others = request.attempts.len() > 1 || request.router.wanted > 0;
            // gRPC's status stands in trailers that nobody waits for.
            let is_retried = request.router.take_retry();
            request.is_unseen |= is_retried && head.answer(response.ended).is_none();
            if is_retried || others {
                self.end_attempt(number, one);
                return;
            }
        }
        let headers = self.requests[number].host.take_headers(Headers::Response);
        // The router ends the others first.
        self.end_others(number, one);
        if !response.lasts {
            if !response.ended {
                self.end_responses(number);
            }
            self.end_attempt(number, 0);
        } else {
            self.requests[number].attempts[0].phase = Phase::Answered;
        }
        self.respond_to_client(number, &headers, Some(b"via_upstream"), response.ended);
    }

    /// Of a first attempt that passed without a record the attempt seat remembers what it can.
    pub fn note_passed(&mut self, number: usize, change: &Change) {
        let (Some(before), Some(after)) = (&change.before, &change.after) else { return };
        let request = &mut self.requests[number];
        if request.router.begun > 1 || before != after {
            return;
        }
        let other = at_work(&mut self.workers, request.worker).passed.insert(before.seed % 1024, before.seed);
        if let Some(other) = other.filter(|other| *other != before.seed) {
            let forgotten = |request: &&mut Request| request.context().is_some_and(|context| context.seed == other);
            self.requests.iter_mut().filter(forgotten).for_each(|request| request.is_unseen = true);
        }
    }

    /// An attempt ends without a response.
    pub fn silence(&mut self, number: usize, one: usize, connection: Connection, flags: u64, named: bool) {
        let request = &mut self.requests[number];
        let has = |path: &str, value: &[u8], is_there: bool| request.host.put_property(path, is_there.then_some(value));
        let is_connected = matches!(connection, Connection::There);
        has("upstream\0local_address", b"10.0.0.9:5000", is_connected);
        has("upstream\0transport_failure_reason", b"refused", matches!(connection, Connection::Failed));
        has("upstream\0cx_pool_ready_duration", b"1", matches!(connection, Connection::There | Connection::Without));
        self.put_flags(number, without_client(flags));
        self.end_attempt(number, one);
        let request = &mut self.requests[number];
        let is_retried = request.router.would_retry_reset(is_connected, named) && request.router.take_retry();
        if is_retried || request.others_left() {
            return;
        }
        let headers = [(":status", "503")];
        self.respond_to_client(
            number,
            &headers,
            Some(b"upstream_reset_before_response_started{connection_failure}"),
            false,
        );
    }

    /// Ends a request's attempts.
    pub fn end_attempts(&mut self, number: usize) {
        self.end_others(number, usize::MAX);
    }

    /// Ends a request's attempts but for one.
    pub fn end_others(&mut self, number: usize, one: usize) {
        for other in (0..self.requests[number].attempts.len()).rev().filter(|other| *other != one) {
            self.end_attempt(number, other);
        }
    }

    pub fn end_attempt(&mut self, number: usize, one: usize) {
        let Attempt { stream, state, phase, .. } = self.requests[number].attempts.remove(one);
        if !self.requests[number].seated {
            return;
        }
        let host = &self.requests[number].host;
        let is_without = matches!(phase, Phase::Waiting { .. }) && has_no_connection(host);
        let ended = |plugin: &AttemptPlugin, store: &mut MemoryStore, host: &MemoryHost| {
            state.on_end(plugin, store, host, stream);
        };
        let ((), change) = self.on_attempt(number, ended);
        let waited = |context: &Option<RetryContext>| context.as_ref().map_or(0, |context| context.waiting);
        if is_without && waited(&change.after) < waited(&change.before) {
            // The router counts an attempt that had no connection, and so does the budget.
            self.tokens -= 1;
        }
        let has_token = change.after.is_some_and(|context| matches!(context.next, Next::Retry { .. }));
        let is_settled = !matches!(self.requests[number].state, RequestState::Admitted(_));
        if matches!(phase, Phase::Waiting { .. }) && has_token && is_settled {
            // The request seat, which would give its token back, has looked before: it comes back with the window.
            self.tokens -= 1;
        }
    }

    /// A response comes to the request seat, from wherever it is.
    pub fn respond_to_client<N: AsRef<str>, V: AsRef<[u8]>>(
        &mut self,
        number: usize,
        headers: &[(N, V)],
        details: Option<&[u8]>,
        ended: bool,
    ) {
        let request = &mut self.requests[number];
        assert!(!request.is_answered, "one response");
        request.is_answered = true;
        request.is_open = !ended;
        request.host.put_headers(Headers::Response, headers);
        request.host.put_property("response\0code_details", details);
        let is_governed = matches!(request.state, RequestState::Admitted(_));
        let (stream, now) = (request.stream, self.now);
        let effect = self.on_request(number, |state, plugin, store, host| {
            state.on_response_headers(plugin, store, host, stream, ended)
        });
        self.check_in_flight();
        if is_governed {
            self.check_answer(&self.requests[number]);
        }
        match effect {
            RequestEffect::Continue => {}
            RequestEffect::Hold => {
                assert!(is_governed && !ended, "what has ended is not held");
                let held = Held { since: now, kept: Vec::new(), has_ended: false, trailers: None };
                self.requests[number].held = Some(held);
            }
            RequestEffect::Resume => panic!("it was not held"),
            RequestEffect::Reply(local) => {
                assert!(is_governed && !local.details().is_empty());
                self.take_the_place(number);
            }
        }
    }

    /// The request seat's reply takes the place of the response, of which the client has nothing.
    fn take_the_place(&mut self, number: usize) {
        let request = &mut self.requests[number];
        request.replies.request_seat += 1;
        assert_eq!(request.replies.request_seat, 1, "one reply");
        (request.is_open, request.held) = (false, None);
        self.end_attempts(number);
    }

    /// The request seat has let a response go at a tick, or replies in its place.
    pub fn let_go(&mut self, stream: u32, effect: RequestEffect) {
        let Some(number) = self.requests.iter().position(|request| request.stream == stream) else {
            panic!("nothing has happened since")
        };
        match effect {
            RequestEffect::Continue | RequestEffect::Hold => {}
            RequestEffect::Reply(_) => {
                assert!(self.requests[number].held.is_some(), "a reply after the response was let go");
                self.take_the_place(number);
            }
            RequestEffect::Resume => {
                let Held { kept, has_ended, trailers, .. } =
                    self.requests[number].held.take().expect("what is let go was held");
                assert!(has_ended || trailers.is_some(), "it is complete");
                self.pass_body(number, kept, has_ended);
                if let Some(trailers) = trailers {
                    self.pass_trailers(number, trailers.as_deref());
                }
            }
        }
    }

    /// A piece of a response's body comes to the request seat, or is kept where that holds the response.
    pub fn body(&mut self, number: usize, piece: &[u8], ended: bool) {
        if ended {
            self.complete(number);
            self.end_responses(number);
        }
        let sees_held_bodies = self.sees_held_bodies;
        let request = &mut self.requests[number];
        let mut whole = piece.to_vec();
        if let Some(held) = &mut request.held {
            held.kept.extend_from_slice(piece);
            held.has_ended = ended;
            if !sees_held_bodies {
                return;
            }
            whole = mem::take(&mut held.kept);
        }
        self.pass_body(number, whole, ended);
    }

    /// The last piece of a host's answer comes to the attempts that are left.
    fn end_responses(&mut self, number: usize) {
        if !self.requests[number].seated {
            return;
        }
        for one in 0..self.requests[number].attempts.len() {
            let state = mem::take(&mut self.requests[number].attempts[one].state);
            let seen = |plugin: &AttemptPlugin, store: &mut MemoryStore, host: &MemoryHost| {
                state.on_response_end(plugin, store, host);
                state
            };
            self.requests[number].attempts[one].state = self.on_attempt(number, seen).0;
        }
    }

    /// The host's answer is complete.
    fn complete(&mut self, number: usize) {
        let request = &mut self.requests[number];
        request.is_open = false;
        request.host.put_property("response\0backend_latency", Some(&1_u64.to_le_bytes()));
    }

    /// An empty piece comes by only where it is the last.
    fn pass_body(&mut self, number: usize, piece: Vec<u8>, ended: bool) {
        if piece.is_empty() && !ended {
            return;
        }
        let mut effect = RequestEffect::Continue;
        self.requests[number].host.put_response_body(&piece);
        if self.requests[number].state.wants_body(ended) {
            effect = self.on_request(number, |state, plugin, store, host| {
                state.on_response_body(plugin, store, host, piece.len(), ended)
            });
        }
        let request = &mut self.requests[number];
        let passes = request.host.take_response_body();
        match effect {
            RequestEffect::Continue => {
                request.held = None;
                request.passed.push(passes);
            }
            RequestEffect::Hold => {
                assert!(!ended, "nothing else comes");
                request.held.as_mut().expect("its headers are held").kept = passes;
            }
            RequestEffect::Resume => panic!("a callback of its own lets it go"),
            RequestEffect::Reply(_) => {
                assert!(request.held.is_some(), "a reply after the response was let go");
                return self.take_the_place(number);
            }
        }
        if ended {
            self.end_attempts(number);
            self.check_new_body(number);
        }
    }

    /// The client has the whole response: what stands in for a host's has one body, which is ours.
    fn check_new_body(&self, number: usize) {
        let request = &self.requests[number];
        if !request.state.wants_body(false) {
            return;
        }
        let pieces: Vec<_> = request.passed.iter().filter(|piece| !piece.is_empty()).collect();
        let name = self.shape.policy.name.as_bytes();
        let is_ours = |piece: &&&Vec<u8>| piece.windows(name.len()).any(|part| part == name);
        assert_eq!(pieces.iter().filter(is_ours).count(), pieces.len(), "nothing of the host's: {pieces:?}");
        assert!(pieces.len() <= 1, "once: {pieces:?}");
        if let Some(length) = request.host.text(Headers::Response, "content-length") {
            assert_eq!(length, request.passed.iter().map(Vec::len).sum::<usize>().to_string());
        }
    }

    pub fn trailers(&mut self, number: usize, grpc_status: Option<&[u8]>) {
        self.complete(number);
        let sees_held_bodies = self.sees_held_bodies;
        let request = &mut self.requests[number];
        let trailers: Vec<_> = grpc_status.map(|status| ("grpc-status", status)).into_iter().collect();
        request.host.put_headers(Headers::ResponseTrailers, &trailers);
        if request.seated {
            for one in 0..request.attempts.len() {
                let state = mem::take(&mut self.requests[number].attempts[one].state);
                let seen = |plugin: &AttemptPlugin, store: &mut MemoryStore, host: &MemoryHost| {
                    state.on_response_trailers(plugin, store, host);
                    state
                };
                self.requests[number].attempts[one].state = self.on_attempt(number, seen).0;
            }
        }
        match &mut self.requests[number].held {
            Some(held) if !sees_held_bodies => held.trailers = Some(grpc_status.map(<[u8]>::to_vec)),
            _ => self.pass_trailers(number, grpc_status),
        }
    }

    fn pass_trailers(&mut self, number: usize, grpc_status: Option<&[u8]>) {
        let trailers: Vec<_> = grpc_status.map(|status| ("grpc-status", status)).into_iter().collect();
        self.requests[number].host.put_headers(Headers::ResponseTrailers, &trailers);
        let effect =
            self.on_request(number, |state, plugin, store, host| state.on_response_trailers(plugin, store, host));
        let request = &mut self.requests[number];
        match effect {
            RequestEffect::Continue => {
                let left = request.host.take_headers(Headers::ResponseTrailers);
                assert!(left.is_empty() || !request.state.wants_body(false), "nothing of the host's: {left:?}");
                request.passed.extend(request.held.take().map(|held| held.kept));
                if request.passed.iter().any(|piece| !piece.is_empty()) {
                    self.check_new_body(number);
                }
            }
            RequestEffect::Hold | RequestEffect::Resume => panic!("nothing else comes"),
            RequestEffect::Reply(_) => {
                assert!(request.held.is_some(), "a reply after the response was let go");
                self.take_the_place(number);
            }
        }
    }

    /// Envoy, or another filter, replies in place of what was still to come.
    pub fn local_reply(&mut self, number: usize, reply: &Local<'_>, order: Order) {
        self.put_flags(number, without_client(reply.flags));
        if order == Order::AttemptsFirst {
            self.end_attempts(number);
        }
        let headers = response_headers(reply.status, &reply.headers);
        let is_timed = headers.iter().any(|(name, _)| name == "x-envoy-upstream-service-time");
        self.doubts.pretences |= is_timed || reply.details.bytes() == Some(b"via_upstream");
        self.respond_to_client(number, &headers, reply.details.bytes(), reply.ended);
        self.end_attempts(number);
    }

    /// What comes after the outcome is known changes nothing.
    pub fn again(&mut self, number: usize, headers: &[(Name<'_>, &str)]) {
        let request = &self.requests[number];
        if matches!(request.state, RequestState::Admitted(_)) || request.state.wants_body(false) {
            return;
        }
        let stream = request.stream;
        let host = &self.requests[number].host;
        let kept = host.take_headers(Headers::Response);
        host.put_headers(Headers::Response, &response_headers(steps::Status::Unavailable, headers));
        let effect = self.on_request(number, |state, plugin, store, host| {
            state.on_response_headers(plugin, store, host, stream, true)
        });
        assert_eq!(effect, RequestEffect::Continue, "the request has its reply");
        let effect =
            self.on_request(number, |state, plugin, store, host| state.on_response_trailers(plugin, store, host));
        assert_eq!(effect, RequestEffect::Continue, "the request has its reply");
        self.requests[number].host.put_headers(Headers::Response, &kept);
        self.check_in_flight();
    }

    /// A request is over, whatever became of it, and with it its attempts.
    pub fn finish(&mut self, number: usize, order: Order) {
        if order == Order::AttemptsFirst {
            self.end_attempts(number);
        }
        // Whoever still waits for its outcome has none.
        self.on_request(number, |state, plugin, store, host| {
            state.on_end(plugin, store, host);
            (RequestState::Over, ())
        });
        self.end_attempts(number);
        let request = self.requests.swap_remove(number);
        assert!(request.replies.request_seat <= 1 && request.replies.attempt_seat <= 1, "{:?}", request.replies);
        self.check_in_flight();
    }
}

fn response_headers(status: steps::Status, others: &[(Name<'_>, &str)]) -> Vec<(String, String)> {
    let status = (":status".to_owned(), status.code().to_string());
    let others = others.iter().map(|(name, value)| (name.text().to_owned(), name.value(value).to_owned()));
    core::iter::once(status).chain(others).collect()
}

/// Flags that do not say that the client has left.
fn without_client(flags: u64) -> u64 {
    let flags = flags & !CLIENT_LEFT[0] & !CLIENT_LEFT[1];
    assert!(!client_left(flags));
    flags
}

/// Whether it is certain that there is no connection, and the client waits.
fn has_no_connection(host: &MemoryHost) -> bool {
    let flags = host.property("response\0flags").and_then(|value| Some(u64::from_le_bytes(value.try_into().ok()?)));
    let is_there = |path| host.property(path).is_some_and(|value: Vec<u8>| !value.is_empty());
    let address = host.property("upstream\0address").unwrap_or_default();
    let is_address = core::str::from_utf8(&address).is_ok_and(|text| text.parse::<core::net::SocketAddr>().is_ok());
    !client_left(flags.unwrap_or(0))
        && !is_there("upstream\0local_address")
        && (is_there("upstream\0transport_failure_reason") || is_address)
}
