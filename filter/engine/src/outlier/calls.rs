//! Requests of our own for one group of hosts, which one VM makes for all: heartbeats, and readings of which hosts there are.

use core::time::Duration;
use std::collections::HashMap;

use holdfast_policy::document::{HeartbeatCheck, Mode, Outlier};

use super::cause::EjectionCause;
use super::discover::{self, Discovery};
use super::grpc_health::{self, GrpcAnswer, GrpcHealth};
use super::heartbeat::{self, CheckVerdict, Checks, Found, MOST_IN_FLIGHT};
use super::hosts::Hosts;
use super::leader::{self, Held};
use super::table::HostId;
use super::topology::HostListing;
use crate::base::pauses::Pauses;
use crate::base::time::Timestamp;
use crate::cx::Cx;
use crate::event::Event;
use crate::http::outcome;
use crate::metric::Metric;

/// How often the same trouble with reading the hosts is reported.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What a request of our own is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Heartbeat(HostId),
    Discover,
}

/// A request to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRequest {
    purpose: Purpose,
    /// The cluster that it goes to.
    pub upstream: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// How long it may take.
    pub timeout: Duration,
}

impl CallRequest {
    /// Whether an answer's body of so many bytes matters. One that a host makes long for a check is not copied.
    pub fn reads_body(&self, bytes: usize) -> bool {
        match self.purpose {
            Purpose::Heartbeat(_) => self.is_grpc() && bytes <= grpc_health::MOST_BYTES,
            Purpose::Discover => true,
        }
    }

    /// Of our calls those of gRPC alone have a body.
    fn is_grpc(&self) -> bool {
        !self.body.is_empty()
    }
}

/// How a call was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallResponse<'a> {
    /// The status.
    pub status: u16,
    /// Whether a host gave it, and not Envoy in place of one.
    pub is_hosts: bool,
    /// Whether it has the header by which an attempt seat says, in place of a host, that the cluster has no such host.
    pub is_gone: bool,
    /// Whether its content type is that of gRPC; known where the call was gRPC's.
    is_grpc: bool,
    /// The status of gRPC; likewise.
    grpc_status: Option<u32>,
    /// The body.
    pub body: &'a [u8],
}

impl<'a> CallResponse<'a> {
    /// The answer to `request` whose headers and trailers `header` and `trailer` give; `None` where there was none.
    pub fn read(
        request: &CallRequest,
        header: &dyn Fn(&str) -> Option<Vec<u8>>,
        trailer: &dyn Fn(&str) -> Option<Vec<u8>>,
        body: &'a [u8],
    ) -> Option<Self> {
        let status: u16 = core::str::from_utf8(&header(":status")?).ok()?.parse().ok()?;
        let is_grpc =
            request.is_grpc() && header("content-type").is_some_and(|value| outcome::is_grpc_content_type(&value));
        let grpc_status = if is_grpc {
            trailer(GRPC_STATUS).or_else(|| header(GRPC_STATUS)).map(|value| outcome::grpc_status(&value))
        } else {
            None
        };
        // To a request of gRPC Envoy gives its own answers as gRPC's, with status 200.
        let may_be_envoys = status >= 500 || is_grpc;
        Some(CallResponse {
            status,
            // Envoy's own say nothing of how long the host took.
            is_hosts: !may_be_envoys || header("x-envoy-upstream-service-time").is_some(),
            is_gone: may_be_envoys && header(heartbeat::GONE).is_some(),
            is_grpc,
            grpc_status,
            body,
        })
    }

    /// What it says of its host: an HTTP status, or a [`GrpcHealth::code`].
    fn answer(&self, check: &HeartbeatCheck) -> u16 {
        match check {
            HeartbeatCheck::Grpc { .. } if self.status == 200 => {
                let CallResponse { is_grpc, grpc_status: status, body, .. } = *self;
                GrpcHealth::read(GrpcAnswer { is_grpc, status, body }).code()
            }
            _ => self.status,
        }
    }
}

const GRPC_STATUS: &str = "grpc-status";

/// What one VM remembers of the requests that it makes for a group.
#[derive(Debug, Default)]
pub struct Calls {
    held: Held,
    checks: Checks,
    discovery: Discovery,
    /// How many requests each host had had that is out, when it was last listed.
    requests: HashMap<String, u64>,
    /// What was reported last, and when.
    complained: Option<(Timestamp, String)>,
}

impl Calls {
    /// Appends the requests to make now, if this VM, which `nonce` names, is the one to make them. Each is to be [`Calls::made`].
    pub fn due(
        &mut self,
        cx: &mut Cx<'_>,
        rules: &Outlier,
        nonce: u64,
        hosts: &mut Hosts,
        pauses: &Pauses,
        requests: &mut Vec<CallRequest>,
    ) {
        let now = cx.now;
        let beats = rules.heartbeat.as_ref().filter(|heartbeat| heartbeat.mode != Mode::Off);
        let cluster = hosts.table().map(|table| table.cluster.clone()).unwrap_or_default();
        let Some(name) = String::from_utf8(cluster).ok().filter(|name| !name.is_empty()) else { return };
        let leader = hosts.paths().leader();
        if !leader::lead(cx.store, &leader, hosts.mark(), nonce, &mut self.held, now) {
            // A later term begins with nothing.
            self.checks = Checks::default();
            self.requests.clear();
            return;
        }
        if let Some(beats) = beats {
            let overdue = self.checks.overdue(beats, now, |since| excuse(pauses, since, now, cx.events));
            overdue.into_iter().for_each(|found| act(cx, rules, hosts, found));
            let all = hosts.table().into_iter().flat_map(|table| table.hosts());
            let due = self.checks.due(beats, all.map(|(id, host)| (id, host.address.as_slice())), now);
            for id in due {
                let Some(host) = hosts.address(id).and_then(|host| core::str::from_utf8(host).ok()) else { continue };
                requests.push(CallRequest {
                    purpose: Purpose::Heartbeat(id),
                    upstream: name.clone(),
                    headers: owned(&heartbeat::request(beats, &name, host)),
                    body: heartbeat::body(beats),
                    timeout: beats.timeout,
                });
            }
        }
        if let Some(discover) = &rules.discover
            && self.discovery.due(discover.interval, now)
        {
            let headers = [(":method", "GET"), (":path", &discover.path), (":authority", &discover.cluster)];
            requests.push(CallRequest {
                purpose: Purpose::Discover,
                upstream: discover.cluster.clone(),
                headers: owned(&headers),
                body: Vec::new(),
                timeout: discover::TIMEOUT,
            });
        }
    }

    /// Notes that a call was made, and its name; `None` if it could not be made.
    pub fn made(&mut self, request: &CallRequest, token: Option<u32>, now: Timestamp, events: &mut Vec<Event>) {
        match (request.purpose, token) {
            (Purpose::Heartbeat(host), Some(token)) => self.checks.sent(host, token, now),
            // There is no such cluster, no host in it, or one of Envoy's own limits is reached: none is this host's fault.
            (Purpose::Heartbeat(host), None) => self.checks.withdrawn(host),
            (Purpose::Discover, Some(token)) => self.discovery.sent(token),
            (Purpose::Discover, None) => {
                let why = format!("cluster {} cannot be asked", request.upstream);
                self.complain(why, now, events);
            }
        }
    }

    /// Takes over how a call was answered; `None`: not at all. Gives whether others wait for their turn.
    pub fn reported(
        &mut self,
        cx: &mut Cx<'_>,
        rules: &Outlier,
        hosts: &mut Hosts,
        (request, token): (&CallRequest, u32),
        response: Option<CallResponse<'_>>,
        pauses: &Pauses,
    ) -> bool {
        let mut others_wait = false;
        hosts.refresh(cx, rules);
        match (request.purpose, &rules.heartbeat) {
            (Purpose::Heartbeat(host), Some(beats)) => {
                others_wait = self.checks.in_flight() >= MOST_IN_FLIGHT;
                let answer =
                    response.filter(|response| response.is_hosts).map(|response| response.answer(&beats.check));
                if answer.is_none() {
                    self.checks.excuse(token, |since| excuse(pauses, since, cx.now, cx.events));
                }
                let found = self.checks.reported(beats, token, answer);
                if response.is_some_and(|response| response.is_gone && !response.is_hosts) {
                    hosts.forget(cx, rules, host);
                } else if let Some(found) = found {
                    act(cx, rules, hosts, found);
                }
            }
            (Purpose::Heartbeat(_), None) => {}
            (Purpose::Discover, _) => {
                if self.discovery.reported(token) {
                    let name = hosts.table().map(|table| table.cluster.clone()).unwrap_or_default();
                    let is_out = |address: &str| hosts.is_out(address.as_bytes());
                    match listed(response, &String::from_utf8_lossy(&name), &is_out) {
                        Ok(listed) => {
                            let replaced = self.replaced(&listed);
                            hosts.list(cx, rules, &listed, &replaced);
                        }
                        Err(why) => self.complain(why, cx.now, cx.events),
                    }
                }
            }
        }
        others_wait
    }

    /// The hosts that have had fewer requests than before: others have come under their addresses between two listings.
    fn replaced(&mut self, listed: &HostListing) -> Vec<String> {
        let before = core::mem::replace(&mut self.requests, listed.requests.iter().cloned().collect());
        let is_less = |(address, now): &&(String, u64)| before.get(address).is_some_and(|before| now < before);
        listed.requests.iter().filter(is_less).map(|(address, _)| address.clone()).collect()
    }

    /// Says that the hosts cannot be read, unless that was said a moment ago.
    fn complain(&mut self, why: String, now: Timestamp, events: &mut Vec<Event>) {
        let is_known =
            self.complained.as_ref().is_some_and(|(at, last)| *last == why && now.apart(*at) < COMPLAIN_EVERY);
        if !is_known {
            let text = format!("the hosts cannot be read: {why}; those known so far stay");
            events.push(Event::Log { alarming: true, shadow: false, text });
            self.complained = Some((now, why));
        }
    }
}

/// The hosts in a listing.
fn listed(
    response: Option<CallResponse<'_>>,
    cluster: &str,
    counts: &dyn Fn(&str) -> bool,
) -> Result<HostListing, String> {
    let Some(response) = response else { return Err("no answer".to_owned()) };
    if response.status != 200 {
        return Err(format!("the answer was {}", response.status));
    }
    let listed = discover::hosts(response.body, cluster, counts)?;
    // Nothing could be sent anywhere; more likely that it is wrong for a moment.
    if listed.hosts.is_empty() { Err(format!("no host of {cluster} is listed")) } else { Ok(listed) }
}

/// Whether a check that was sent at `since` and has had no answer says nothing of its host, since this worker did not run. Counts it.
fn excuse(pauses: &Pauses, since: Timestamp, now: Timestamp, events: &mut Vec<Event>) -> bool {
    let is_excused = pauses.excuse(since, now);
    if is_excused {
        events.push(Event::Count(Metric::PausedChecks));
    }
    is_excused
}

/// Acts on what a check has found.
fn act(cx: &mut Cx<'_>, rules: &Outlier, hosts: &mut Hosts, found: Found) {
    match found.verdict {
        CheckVerdict::Healthy => hosts.find_healthy(cx, rules, found.host),
        CheckVerdict::Unhealthy { failures, last } => {
            hosts.find_unhealthy(cx, rules, found.host, EjectionCause::Heartbeat { failures, last });
        }
        CheckVerdict::Nothing => {}
    }
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
