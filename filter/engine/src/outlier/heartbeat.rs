//! Checks of a group's hosts by requests of our own: what their leader remembers of them.
//!
//! At every tick and after every report the leader says what is [`Checks::overdue`], asks which hosts are [`Checks::due`],
//! and makes a request to each of them, with the heartbeat's time-out, by way of the cluster's `override_host` balancing. All
//! this is in the leader's memory alone: a new leader starts counting anew, which delays a verdict by a few intervals.
//!
//! Each host has its own moment within the interval, which its address determines, so that many hosts are not asked all at
//! once. The first check of a host that was not known before waits for that moment too.

use core::time::Duration;

use super::grpc_health::{self, GrpcHealth};
use super::table::HostId;
use super::{authority, steering};
use crate::base::fingerprint;
use crate::base::time::{Timestamp, nanos};
use holdfast_policy::document::{Heartbeat, HeartbeatCheck};

/// The most checks under way at once for one group. Where that is too few to ask each host in each interval, those that
/// have waited longest come first.
pub const MOST_IN_FLIGHT: usize = 32;

/// All that the leader of one group knows of its checks.
#[derive(Debug, Default)]
pub struct Checks {
    /// By place, which is below the most hosts of a group.
    hosts: Vec<Option<Host>>,
    /// At most [`MOST_IN_FLIGHT`].
    calls: Vec<Call>,
}

/// One host's answers.
#[derive(Debug)]
struct Host {
    host: HostId,
    /// Its moment within the interval, in nanoseconds.
    moment: u64,
    /// Whether the group still has it.
    seen: bool,
    under_way: bool,
    /// The interval that it is in now, by its own moment.
    number: u64,
    /// The interval that it was last asked in, or first seen in.
    asked: u64,
    /// Good answers in a row up to now.
    good: u16,
    /// Bad answers in a row up to now.
    bad: u16,
}

/// A check under way.
#[derive(Debug)]
struct Call {
    host: HostId,
    /// Its name; none until it was sent.
    token: Option<u32>,
    since: Timestamp,
}

/// What an answer says of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The host.
    pub host: HostId,
    /// What follows.
    pub verdict: CheckVerdict,
}

/// What follows from a host's answers up to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckVerdict {
    /// `healthy_after` good ones in a row, or more.
    Healthy,
    /// `unhealthy_after` bad ones in a row, or more.
    Unhealthy {
        /// How many.
        failures: u16,
        /// The answer to the last, a status or a [`GrpcHealth::code`]; `None` if there was none.
        last: Option<u16>,
    },
    /// Fewer of either.
    Nothing,
}

impl Checks {
    /// The hosts to ask now, each with its address, of all `hosts` of the group: each host once per interval and not again
    /// while a check of it is under way. Hosts that are not among `hosts` are forgotten. Each of those returned is to be
    /// [`Checks::sent`] or [`Checks::withdrawn`].
    ///
    /// Checks that are [`Checks::overdue`] by now are counted as failed, without a word.
    pub fn due<'a>(
        &mut self,
        heartbeat: &Heartbeat,
        hosts: impl Iterator<Item = (HostId, &'a [u8])>,
        now: Timestamp,
    ) -> Vec<HostId> {
        self.overdue(heartbeat, now, |_| false);
        self.enter(hosts, nanos(heartbeat.interval).max(1), now);
        let mut due = Vec::new();
        while self.calls.len() < MOST_IN_FLIGHT {
            let hosts = self.hosts.iter_mut().flatten();
            let waiting = hosts.filter(|host| !host.under_way && host.number != host.asked);
            // Wraps where the clock was put back: whoever was asked at a time still to come has waited longest.
            let Some(next) = waiting.max_by_key(|host| host.number.wrapping_sub(host.asked)) else { break };
            next.under_way = true;
            next.asked = next.number;
            self.calls.push(Call { host: next.host, token: None, since: now });
            due.push(next.host);
        }
        due
    }

    /// Takes over which hosts there are, and in which interval each of them is.
    fn enter<'a>(&mut self, hosts: impl Iterator<Item = (HostId, &'a [u8])>, interval: u64, now: Timestamp) {
        for host in self.hosts.iter_mut().flatten() {
            host.seen = false;
        }
        let number = |moment: u64| now.0.saturating_sub(moment).checked_div(interval).unwrap_or(0);
        for (host, address) in hosts {
            let index = usize::from(host.index);
            if self.hosts.len() <= index {
                self.hosts.resize_with(index.saturating_add(1), || None);
            }
            let Some(entry) = self.hosts.get_mut(index) else { continue };
            match entry {
                Some(known) if known.host == host => {
                    known.seen = true;
                    known.number = number(known.moment);
                }
                _ => {
                    let moment = fingerprint::of_text(address).checked_rem(interval).unwrap_or(0);
                    let number = number(moment);
                    let (seen, under_way) = (true, false);
                    *entry = Some(Host { host, moment, seen, under_way, number, asked: number, good: 0, bad: 0 });
                }
            }
        }
        for entry in &mut self.hosts {
            entry.take_if(|host| !host.seen);
        }
    }

    /// The check of this host was sent at `now`; its report will name it by `token`.
    pub fn sent(&mut self, host: HostId, token: u32, now: Timestamp) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.host == host && call.token.is_none()) {
            call.token = Some(token);
            call.since = now;
        }
    }

    /// The check of this host was not sent, for a reason that has nothing to do with the host. Nothing is counted, and it
    /// is asked again in the next interval.
    pub fn withdrawn(&mut self, host: HostId) {
        let withdrawn = self.take_call(|call| call.host == host && call.token.is_none());
        self.let_be(withdrawn.as_ref());
    }

    /// A check that was under way counts for nothing.
    fn let_be(&mut self, call: Option<&Call>) {
        if let Some(host) = call.and_then(|call| self.host(call.host)) {
            host.under_way = false;
        }
    }

    /// The check of this name was answered, with this HTTP status or [`GrpcHealth::code`], or ended without an answer. `None` if it
    /// is not, or no more, one of these checks.
    pub fn reported(&mut self, heartbeat: &Heartbeat, token: u32, answer: Option<u16>) -> Option<Found> {
        let call = self.take_call(|call| call.token == Some(token))?;
        self.judge(heartbeat, call.host, answer)
    }

    /// The check of this name has had no answer, and that says nothing of its host if `excuses` says so of when it was sent: nothing is
    /// counted, and the host is asked again in the next interval. Gives whether it is so.
    pub fn excuse(&mut self, token: u32, mut excuses: impl FnMut(Timestamp) -> bool) -> bool {
        let excused = self.take_call(|call| call.token == Some(token) && excuses(call.since));
        self.let_be(excused.as_ref());
        excused.is_some()
    }

    /// The checks that should have been reported long ago, after twice their time-out. They count as failed, unless `excuses` says of when
    /// one was sent that it says nothing of its host, and a report that comes yet is none of theirs.
    pub fn overdue(
        &mut self,
        heartbeat: &Heartbeat,
        now: Timestamp,
        mut excuses: impl FnMut(Timestamp) -> bool,
    ) -> Vec<Found> {
        let limit = heartbeat.timeout.saturating_mul(2).max(Duration::from_nanos(1));
        let mut found = Vec::new();
        while let Some(call) = self.take_call(|call| call.since.plus(limit).remaining(now, limit).is_none()) {
            if excuses(call.since) {
                self.let_be(Some(&call));
            } else {
                found.extend(self.judge(heartbeat, call.host, None));
            }
        }
        found
    }

    /// How many checks are under way.
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    fn take_call(&mut self, is_it: impl FnMut(&Call) -> bool) -> Option<Call> {
        let at = self.calls.iter().position(is_it)?;
        Some(self.calls.swap_remove(at))
    }

    fn host(&mut self, host: HostId) -> Option<&mut Host> {
        self.hosts.get_mut(usize::from(host.index))?.as_mut().filter(|known| known.host == host)
    }

    /// Counts an answer; `None` if its host has been forgotten.
    fn judge(&mut self, heartbeat: &Heartbeat, id: HostId, answer: Option<u16>) -> Option<Found> {
        let host = self.host(id)?;
        host.under_way = false;
        let verdict = if answer.is_some_and(|answer| is_good(heartbeat, answer)) {
            host.bad = 0;
            host.good = host.good.saturating_add(1);
            if host.good >= heartbeat.healthy_after.get() { CheckVerdict::Healthy } else { CheckVerdict::Nothing }
        } else {
            host.good = 0;
            host.bad = host.bad.saturating_add(1);
            if host.bad >= heartbeat.unhealthy_after.get() {
                CheckVerdict::Unhealthy { failures: host.bad, last: answer }
            } else {
                CheckVerdict::Nothing
            }
        };
        Some(Found { host: id, verdict })
    }
}

/// The request header by which an attempt seat knows a check. It lets none pass to another host than the one that is asked.
pub const MARK: &str = "x-holdfast-heartbeat";

/// The response header by which an attempt seat says that the cluster has no such host any more.
pub const GONE: &str = "x-holdfast-gone";

const USER_AGENT: &str = "user-agent";

/// Whether an answer is good: one with this HTTP status, or with this [`GrpcHealth::code`] where the policy asks by gRPC.
fn is_good(heartbeat: &Heartbeat, answer: u16) -> bool {
    match &heartbeat.check {
        HeartbeatCheck::Http { status, .. } => status.contains(answer),
        HeartbeatCheck::Grpc { .. } => GrpcHealth::of_code(answer).is_some_and(GrpcHealth::is_good),
    }
}

/// The body of a check.
pub fn body(heartbeat: &Heartbeat) -> Vec<u8> {
    match &heartbeat.check {
        HeartbeatCheck::Http { .. } => Vec::new(),
        HeartbeatCheck::Grpc { service } => grpc_health::request(service),
    }
}

/// The headers of a check: `cluster` is asked to send it to `host`, an address as in `x-holdfast-hosts`. A retry policy of the
/// cluster (Envoy 1.37 on) would send it to other hosts too.
pub fn request<'a>(heartbeat: &'a Heartbeat, cluster: &'a str, host: &'a str) -> Vec<(&'a str, &'a str)> {
    let (method, path, of_kind): (_, &str, &[_]) = match &heartbeat.check {
        HeartbeatCheck::Http { path, .. } => ("GET", path, &[]),
        HeartbeatCheck::Grpc { .. } => ("POST", grpc_health::PATH, &grpc_health::HEADERS),
    };
    let mut headers = vec![
        (":method", method),
        (":path", path),
        (":authority", heartbeat.host.as_deref().unwrap_or_else(|| authority::of(cluster, host))),
        (steering::HEADER, host),
        (MARK, "1"),
        ("x-envoy-max-retries", "0"),
    ];
    headers.extend(of_kind);
    if !heartbeat.headers.iter().any(|(name, _)| name == USER_AGENT) {
        headers.push((USER_AGENT, "holdfast-heartbeat"));
    }
    headers.extend(heartbeat.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    headers
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU16;

    use super::*;
    use holdfast_policy::document::{Mode, StatusSet};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const INTERVAL: u64 = 1000;

    fn heartbeat() -> Heartbeat {
        let mut status = StatusSet::default();
        status.insert_range(200, 299);
        Heartbeat {
            check: HeartbeatCheck::Http { path: "/healthz".to_owned(), status },
            host: None,
            headers: Vec::new(),
            interval: Duration::from_millis(INTERVAL),
            timeout: Duration::from_secs(2),
            unhealthy_after: NonZeroU16::new(3).unwrap(),
            healthy_after: NonZeroU16::new(2).unwrap(),
            mode: Mode::Enforce,
        }
    }

    fn t(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    /// A group whose hosts are numbered.
    struct Group {
        heartbeat: Heartbeat,
        addresses: Vec<(HostId, String)>,
        checks: Checks,
        next_token: u32,
    }

    impl Group {
        fn new(hosts: u16) -> Self {
            let address = |index| (HostId { index, id: 7 }, format!("10.0.{}.{}:8080", index / 250, index % 250));
            Group {
                heartbeat: heartbeat(),
                addresses: (0..hosts).map(address).collect(),
                checks: Checks::default(),
                next_token: 0,
            }
        }

        /// Who is to be asked.
        fn due(&mut self, now: u64) -> Vec<HostId> {
            let hosts = self.addresses.iter().map(|(host, address)| (*host, address.as_bytes()));
            self.checks.due(&self.heartbeat, hosts, t(now))
        }

        /// Asks who is to be asked.
        fn ask(&mut self, now: u64) -> Vec<(HostId, u32)> {
            let due = self.due(now);
            due.into_iter()
                .map(|host| {
                    self.next_token += 1;
                    self.checks.sent(host, self.next_token, t(now));
                    (host, self.next_token)
                })
                .collect()
        }

        /// One interval, in ticks of a tenth, in which every check is answered at once.
        fn interval(&mut self, from: u64, status: Option<u16>) -> Vec<CheckVerdict> {
            let mut verdicts = Vec::new();
            for now in (from..from + INTERVAL).step_by(100) {
                for (host, token) in self.ask(now) {
                    let found = self.checks.reported(&self.heartbeat, token, status).unwrap();
                    assert_eq!(found.host, host);
                    verdicts.push(found.verdict);
                }
            }
            verdicts
        }
    }

    const fn unhealthy(failures: u16, last: Option<u16>) -> CheckVerdict {
        CheckVerdict::Unhealthy { failures, last }
    }

    #[test]
    fn three_bad_answers_in_a_row_are_told_and_so_is_each_further_one() {
        let mut group = Group::new(1);
        group.due(0);
        assert_eq!(group.interval(1000, Some(503)), [CheckVerdict::Nothing]);
        assert_eq!(group.interval(2000, Some(200)), [CheckVerdict::Nothing], "a good one between begins anew");
        assert_eq!(group.interval(3000, Some(503)), [CheckVerdict::Nothing]);
        assert_eq!(group.interval(4000, None), [CheckVerdict::Nothing]);
        assert_eq!(group.interval(5000, Some(302)), [unhealthy(3, Some(302))]);
        assert_eq!(group.interval(6000, None), [unhealthy(4, None)], "limits may let the host go only now");
    }

    #[test]
    fn two_good_answers_in_a_row_are_told_and_so_is_each_further_one() {
        let mut group = Group::new(1);
        group.due(0);
        assert_eq!(group.interval(1000, Some(204)), [CheckVerdict::Nothing]);
        assert_eq!(group.interval(2000, Some(299)), [CheckVerdict::Healthy]);
        assert_eq!(group.interval(3000, Some(200)), [CheckVerdict::Healthy]);
        assert_eq!(group.interval(4000, Some(300)), [CheckVerdict::Nothing]);
    }

    #[test]
    fn a_thousand_hosts_are_asked_once_an_interval_and_never_all_at_once() {
        let mut group = Group::new(1000);
        assert_eq!(group.due(0), [], "not even by a leader that has just begun");
        let mut asked = vec![0; 1000];
        let mut most = 0;
        for now in 1..=10 * INTERVAL {
            let mut now_asked = 0;
            for (host, token) in group.ask(now) {
                asked[usize::from(host.index)] += 1;
                now_asked += 1;
                group.checks.reported(&group.heartbeat, token, Some(200)).unwrap();
            }
            most = most.max(now_asked);
        }
        assert!(asked.iter().all(|times| *times == 10), "each host once per interval: {asked:?}");
        assert!(most <= 10, "{most} in one millisecond, where 1 is the mean");
    }

    #[test]
    fn at_most_so_many_are_under_way_and_none_waits_for_ever() {
        let mut group = Group::new(500);
        group.due(0);
        let mut asked = vec![0; 500];
        // All hosts take a second to answer, so of 500 that are due each second 32 can be asked.
        for round in 1..=160 {
            let sent = group.ask(round * INTERVAL);
            assert_eq!(sent.len(), MOST_IN_FLIGHT);
            assert_eq!(group.due(round * INTERVAL + 500), [], "none while so many are under way");
            for (host, token) in sent {
                asked[usize::from(host.index)] += 1;
                group.checks.reported(&group.heartbeat, token, Some(200)).unwrap();
            }
        }
        let (least, most) = (asked.iter().min().unwrap(), asked.iter().max().unwrap());
        assert!(*least >= 9 && *most <= 12, "160 x 32 / 500 = 10.2 each: {least}..={most}");
    }

    #[test]
    fn a_host_that_is_slow_to_answer_is_not_asked_a_second_time_meanwhile() {
        let mut group = Group::new(1);
        group.due(0);
        assert_eq!(group.ask(1000).len(), 1);
        assert_eq!(group.ask(2000), []);
        assert_eq!(group.ask(3000), []);
        assert!(group.checks.reported(&group.heartbeat, 1, Some(200)).is_some());
        assert_eq!(group.ask(3001).len(), 1, "its moment has long come");
    }

    #[test]
    fn a_check_that_is_excused_counts_for_nothing_and_is_made_again() {
        let mut group = Group::new(1);
        group.due(0);
        let excuses = |since: Timestamp| since == t(3000);
        for now in [1000, 2000] {
            let (_, token) = group.ask(now)[0];
            assert!(!group.checks.excuse(token, excuses));
            group.checks.reported(&group.heartbeat, token, None).unwrap();
        }
        let (_, token) = group.ask(3000)[0];
        assert!(group.checks.excuse(token, excuses));
        assert_eq!(group.checks.reported(&group.heartbeat, token, None), None, "it is none of these any more");
        let (_, token) = group.ask(4000)[0];
        let found = group.checks.reported(&group.heartbeat, token, None).unwrap();
        assert_eq!(found.verdict, unhealthy(3, None), "those before and after it are in a row");

        let (_, token) = group.ask(5000)[0];
        assert_eq!(group.checks.overdue(&group.heartbeat, t(9000), |since| since == t(5000)), []);
        assert_eq!((group.checks.in_flight(), group.checks.excuse(token, |_| true)), (0, false));
        assert_eq!(group.ask(9000).len(), 1);
    }

    #[test]
    fn a_check_that_never_reports_is_a_failed_one_after_twice_its_timeout() {
        let mut group = Group::new(1);
        group.due(0);
        for failures in 1..=3 {
            let now = 10_000 * failures;
            assert_eq!(group.ask(now).len(), 1);
            assert_eq!(group.checks.overdue(&group.heartbeat, t(now + 3999), |_| false), []);
            let found = group.checks.overdue(&group.heartbeat, t(now + 4000), |_| false);
            let verdicts: Vec<_> = found.iter().map(|found| found.verdict).collect();
            assert_eq!(verdicts, [if failures < 3 { CheckVerdict::Nothing } else { unhealthy(3, None) }]);
            assert_eq!(group.checks.in_flight(), 0);
        }
        assert_eq!(group.checks.reported(&group.heartbeat, 3, Some(200)), None, "too late");
    }

    #[test]
    fn a_check_that_was_withdrawn_counts_for_nothing() {
        let mut group = Group::new(1);
        group.due(0);
        for failures in 1..=3 {
            let expected = if failures < 3 { CheckVerdict::Nothing } else { unhealthy(3, Some(500)) };
            assert_eq!(group.interval(1000 * failures, Some(500)), [expected]);
        }
        let host = group.due(4000)[0];
        group.checks.withdrawn(host);
        assert_eq!(group.checks.in_flight(), 0);
        assert_eq!(group.interval(5000, Some(500)), [unhealthy(4, Some(500))], "asked again, and nothing was counted");
    }

    #[test]
    fn a_host_that_was_neither_sent_nor_refused_does_not_hold_its_place_for_ever() {
        let mut group = Group::new(100);
        group.due(0);
        assert_eq!(group.due(1000).len(), MOST_IN_FLIGHT);
        assert_eq!(group.due(4999), []);
        assert_eq!(group.due(5000).len(), MOST_IN_FLIGHT);
    }

    #[test]
    fn hosts_that_vanish_are_forgotten_and_their_reports_with_them() {
        let mut group = Group::new(2);
        group.due(0);
        let sent = group.ask(1000);
        assert_eq!(sent.len(), 2);
        let (gone, _) = group.addresses.remove(0);
        group.ask(1100);
        for (host, token) in sent {
            let found = group.checks.reported(&group.heartbeat, token, Some(200));
            assert_eq!(found.is_some(), host != gone);
        }
        // Another host in the same place starts from nothing.
        group.addresses.push((HostId { id: 8, ..gone }, "10.0.0.0:8080".to_owned()));
        group.ask(1200);
        assert_eq!(group.ask(2300).len(), 2);
        let found = [1, 2, 3, 4].map(|token| group.checks.reported(&group.heartbeat, token, Some(200)));
        let healthy = found.iter().flatten().filter(|found| found.verdict == CheckVerdict::Healthy).count();
        assert_eq!(healthy, 1, "only for the host that was there before");
    }

    #[test]
    fn a_clock_that_is_put_back_stops_no_checks() {
        let mut group = Group::new(1);
        group.due(3_600_000);
        assert_eq!(group.ask(3_601_000).len(), 1);
        let found = group.checks.overdue(&group.heartbeat, t(0), |_| false);
        assert_eq!(found.len(), 1, "sent further ahead than its time-out can explain");
        assert_eq!(group.interval(0, Some(200))[0], CheckVerdict::Nothing);
        assert_eq!(
            group.interval(1000, Some(200)),
            [CheckVerdict::Healthy],
            "and once per interval by the clock as it is now"
        );
    }

    #[test]
    fn a_check_names_its_host_and_itself() {
        let heartbeat = heartbeat();
        let headers = request(&heartbeat, "orders", "[::1]:8080");
        assert_eq!(
            headers,
            [
                (":method", "GET"),
                (":path", "/healthz"),
                (":authority", "orders"),
                ("x-holdfast-hosts", "[::1]:8080"),
                ("x-holdfast-heartbeat", "1"),
                ("x-envoy-max-retries", "0"),
                ("user-agent", "holdfast-heartbeat"),
            ]
        );
    }

    #[test]
    fn a_check_by_grpc_is_a_unary_call() {
        let mut heartbeat = heartbeat();
        heartbeat.check = HeartbeatCheck::Grpc { service: "a.B".to_owned() };
        assert_eq!(
            request(&heartbeat, "orders", "[::1]:8080"),
            [
                (":method", "POST"),
                (":path", "/grpc.health.v1.Health/Check"),
                (":authority", "orders"),
                ("x-holdfast-hosts", "[::1]:8080"),
                ("x-holdfast-heartbeat", "1"),
                ("x-envoy-max-retries", "0"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("user-agent", "holdfast-heartbeat"),
            ]
        );
        assert_eq!(body(&heartbeat), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        assert!(is_good(&heartbeat, GrpcHealth::Health(1).code()));
        for answer in (0..=u16::MAX).filter(|answer| *answer != GrpcHealth::Health(1).code()) {
            assert!(!is_good(&heartbeat, answer), "{answer}");
        }
    }

    #[test]
    fn a_check_asks_as_the_policy_says() {
        let mut heartbeat = heartbeat();
        let authority = |heartbeat: &Heartbeat, cluster: &str| {
            let headers = request(heartbeat, cluster, "10.0.0.1:8080");
            headers.iter().find(|(name, _)| *name == ":authority").map(|(_, value)| (*value).to_owned()).unwrap()
        };
        assert_eq!(authority(&heartbeat, "outbound|8080||orders.svc"), "orders.svc");
        heartbeat.host = Some("shop:80".to_owned());
        assert_eq!(authority(&heartbeat, "outbound|8080||orders.svc"), "shop:80");
        heartbeat.headers = [("authorization", "Bearer a"), ("user-agent", "probe")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let headers = request(&heartbeat, "orders", "10.0.0.1:8080");
        assert!(headers.ends_with(&[("authorization", "Bearer a"), ("user-agent", "probe")]), "{headers:?}");
        assert_eq!(headers.iter().filter(|(name, _)| *name == "user-agent").count(), 1);
    }
}
