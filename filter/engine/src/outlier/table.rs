//! The hosts of one group: which are known, which are out, and every step between the two.
//!
//! One cell for all of them, so that a limit on how many are out is kept by the swap that takes one more out. A step is a pure
//! function of the table and gives what happened; none is possible that passes a limit.
//!
//! A host is *in*, *out* until a time, then *due*: it gets so many probes, which a permit each. All of them
//! succeeding, it is in again, perhaps with a share that grows; one failing, it is out for longer. One that was out for its latency
//! is judged by the times of more of them: it is on [trial](super::trial).

use core::time::Duration;

use super::cause::EjectionCause;
use super::host_events::{HostCount, HostEvent, HostEventKind, HostEvents};
use super::interval::interval_number;
use super::topology::{self, HostListing, Locality, MOST_LOCALITIES, Part, Topology};
use super::trial::{Trial, TrialVerdict};
use crate::base::random::scale;
use crate::base::time::{SKEW, Timestamp, nanos};
use crate::http::attempt::End;
use crate::store::record::{Kind, Reader, Record, Writer, are_different};
use crate::store::told::is_to_be_said;
use holdfast_policy::document::{Detector, Latency, Mode, Outlier};

/// The most hosts of a group.
pub const MOST_HOSTS: usize = 1000;

/// The longest address: `[ipv6]:port` has 47 bytes.
pub const LONGEST_ADDRESS: usize = 64;

/// How long a probe may take before another one may be sent in its place.
pub const PROBE_LEASE: Duration = Duration::from_secs(10);

/// How long after the first host went out a request explores, and each time it finds nobody twice as long after that.
const EXPLORE_AFTER: Duration = Duration::from_secs(5);

/// One explores at least this often.
const EXPLORE_AT_LEAST: Duration = Duration::from_secs(60);

/// These times are for one host out of so many. The fewer are out, the fewer requests that explore meet one, and the more
/// may: as many meet one in any case.
const EXPLORE_SHARE: u32 = 5;

/// However few are out.
const EXPLORE_AT_MOST: Duration = Duration::from_millis(100);

/// A line about what a detector found and did not do comes at most this often for each host, in seconds.
const REPEAT: u32 = 10;

/// The share of a host that gets all of its own.
pub const FULL_SHARE: u32 = 1000;

/// Names one host for as long as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId {
    /// Its place in the table, below [`MOST_HOSTS`]; another host may have it later.
    pub index: u16,
    /// Nobody else's in this table.
    pub id: u32,
}

/// One host.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// As Envoy writes it: `10.0.0.1:8080`, `[2001:db8::1]:8080`. Empty: the place is free.
    pub address: Vec<u8>,
    /// See [`HostId::id`].
    pub id: u32,
    /// Whether the policy or a listing names it.
    pub listed: bool,
    /// When traffic or a listing last showed that it belongs to the cluster.
    pub seen: Timestamp,
    /// About how often it would have been seen since, had it had its share, in thousandths.
    pub missed: u32,
    /// Where it stands in its cluster, as far as a listing says.
    pub topology: Topology,
    /// Its [label](super::subset); 0 before it was seen.
    pub label: u32,
    /// How often it has been ejected lately: each ejection adds one, each interval with successes takes one off.
    pub ejections: u16,
    /// Since when it is there, in seconds: it has come, or is back after it was out for anything but its latency.
    pub arrived: u32,
    /// When a line last told what was found of it and not acted on, in seconds.
    noted: u32,
    /// Whether it gets traffic.
    pub state: State,
}

/// Whether a host gets traffic.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It does.
    In {
        /// Attempts sent earlier say nothing about it.
        since: Timestamp,
    },
    /// It gets a growing share.
    Starting {
        /// From then on.
        since: Timestamp,
        /// Whether it was out for its latency.
        by_trial: bool,
    },
    /// It does not.
    Out {
        /// Why.
        by: Detector,
        /// Since then.
        since: Timestamp,
        /// Then probes may be sent.
        until: Timestamp,
        /// When the probes that are under way were sent.
        probes: Vec<Timestamp>,
        /// How many probes succeeded.
        passed: u16,
        /// Where it was too slow: how it comes back, in place of probes.
        trial: Option<Trial>,
    },
}

/// The hosts of one group.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostTable {
    /// The cluster's name, once a request seat has told it.
    pub cluster: Vec<u8>,
    /// The number of the last interval that was looked at.
    pub swept: u64,
    /// When a request last went wherever the cluster's own balancing sends it, to find hosts.
    explored: Timestamp,
    /// In how many such requests in a row nobody new was found.
    explored_in_vain: u8,
    /// How many requests more explore at once: where one new host was found there may be others.
    round: u16,
    /// When there last was a host for which there was no place.
    pub full: Timestamp,
    /// When it was last said that requests could not be steered, as their routes have no name.
    unnamed: Timestamp,
    /// When it was last said that requests do not go to the hosts that are named to them; zero since they do.
    unfollowed: Timestamp,
    /// When it was last said that a host has no address by which it could be named.
    unaddressed: Timestamp,
    next_id: u32,
    hosts: Vec<Host>,
    /// The localities of the cluster, as far as they are known.
    localities: Vec<Locality>,
    /// What has not been told yet.
    pub events: HostEvents,
}

/// What became of an attempt to take a host out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ejection {
    /// It is out.
    Ejected,
    /// Too many are out.
    Overflow,
    /// The detector only pretends.
    Shadowed,
    /// It was not in.
    Nothing,
}

impl Host {
    /// Whether requests are sent to it as to any other.
    pub fn is_in(&self) -> bool {
        !matches!(self.state, State::Out { .. })
    }

    /// Whether attempts sent at `sent` say something about it as it is now.
    pub fn is_judged_by(&self, rules: &Outlier, sent: Timestamp, now: Timestamp) -> bool {
        let since = match &self.state {
            State::In { since } | State::Starting { since, .. } => *since,
            State::Out { until, .. } if self.is_due(rules, now) => *until,
            State::Out { since, .. } if self.trickles() => *since,
            State::Out { .. } => return false,
        };
        // What lies further ahead is from before the clock was put back.
        sent >= since || since > now.plus(SKEW)
    }

    /// Since when it is in, if it is; from the beginning on as zero.
    pub fn in_since(&self) -> Option<Timestamp> {
        match &self.state {
            State::In { since } | State::Starting { since, .. } => Some(*since),
            State::Out { .. } => None,
        }
    }

    /// A place without a host.
    fn vacant() -> Self {
        Host {
            address: Vec::new(),
            id: 0,
            listed: false,
            seen: Timestamp::ZERO,
            missed: 0,
            topology: Topology::default(),
            label: 0,
            ejections: 0,
            arrived: 0,
            noted: 0,
            state: State::In { since: Timestamp::ZERO },
        }
    }

    /// Since when it is out, if it is.
    pub fn out_since(&self) -> Option<Timestamp> {
        match &self.state {
            State::Out { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// Whether its time is over.
    pub fn is_due(&self, rules: &Outlier, now: Timestamp) -> bool {
        match &self.state {
            State::Out { until, .. } => until.remaining(now, longest(rules)).is_none(),
            _ => false,
        }
    }

    /// Whether its time is over and another probe may be sent.
    pub fn wants_probe(&self, rules: &Outlier, now: Timestamp) -> bool {
        match &self.state {
            State::Out { probes, passed, .. } if self.is_due(rules, now) => {
                let under_way = probes.iter().filter(|sent| is_under_way(**sent, now)).count();
                under_way + usize::from(*passed) < usize::from(rules.probe_requests.get())
            }
            _ => false,
        }
    }

    /// Whether it comes back by a [trial](super::trial).
    pub fn is_on_trial(&self) -> bool {
        matches!(self.state, State::Out { trial: Some(_), .. })
    }

    /// Whether our own checks are its probes, where there are any. Of how fast it answers they say nothing.
    pub fn is_probed_by_heartbeat(&self, rules: &Outlier) -> bool {
        rules.probes_by_heartbeat() && !self.is_on_trial()
    }

    /// Whether it is out and gets a little all the same.
    pub fn trickles(&self) -> bool {
        matches!(&self.state, State::Out { trial: Some(trial), .. } if trial.trickles)
    }

    /// Whether it gets requests that are no probes: it is in, or it trickles while it is out.
    pub fn serves(&self, rules: &Outlier, now: Timestamp) -> bool {
        self.is_in() || self.trickles() && !self.is_due(rules, now)
    }

    /// Since when its time is over.
    pub fn due_since(&self) -> Option<Timestamp> {
        match &self.state {
            State::Out { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// The share of its turns that it takes, in thousandths. Never less than a tenth, as in Envoy's slow start, or it would
    /// get nothing at first.
    pub fn share(&self, rules: &Outlier, now: Timestamp) -> u32 {
        match &self.state {
            State::In { .. } => FULL_SHARE,
            State::Out { .. } => 0,
            State::Starting { since, by_trial } => {
                let full = u64::from(FULL_SHARE);
                let age = nanos(now.since(*since)).saturating_mul(full);
                let share = age.checked_div(nanos(slow_start(rules, *by_trial))).unwrap_or(full);
                share.clamp(full / 10, full) as u32
            }
        }
    }

    /// Whether it still gets less than its share.
    pub fn is_starting(&self, rules: &Outlier, now: Timestamp) -> bool {
        // A beginning in the future is from before the clock was put back.
        let State::Starting { since, by_trial } = self.state else { return false };
        let lasts = slow_start(rules, by_trial);
        since.plus(lasts).remaining(now, lasts).is_some()
    }
}

impl Host {
    /// What a changed block knows of it; see [`HostTable::taken_over`].
    fn taken_over(&self, rules: &Outlier, configured: &HostListing, now: Timestamp) -> Self {
        let configured = configured.find(&self.address);
        let listed = configured.is_some() || self.listed && rules.discover.is_some();
        let ejections = self.ejections.min(most_ejections(rules));
        // What no listing renews any more is not so for long.
        let topology = match rules.discover {
            Some(_) => self.topology,
            None => configured.map(|host| host.topology).unwrap_or_default(),
        };
        let mut host = Host { listed, ejections, topology, ..self.clone() };
        // What ejects nobody keeps nobody back either.
        let since = host.in_since().filter(|_| Detector::ALL.into_iter().all(|by| rules.mode_of(by) != Mode::Enforce));
        if let Some(since) = since {
            host.state = State::In { since };
        }
        let State::Out { by, since, until, probes, passed, .. } = &mut host.state else { return host };
        if rules.mode_of(*by) != Mode::Enforce {
            host.state = back(rules, false, now);
            host.see(now);
            return host;
        }
        let longest = rules.max_ejection_time;
        let longest = longest.saturating_add(Duration::from_nanos(rules.ejection_jitter.of(nanos(longest))));
        // One that has failed its probe is out since before its present time began, and when that was is not known.
        let from = if self.ejections > 1 { now.max(*since) } else { *since };
        let end = from.plus(longest);
        if *until > end {
            *until = end;
            host.seen = host.seen.min(end.max(now));
        }
        let requests = rules.probe_requests.get();
        *passed = (*passed).min(requests.saturating_sub(1));
        probes.retain(|sent| is_under_way(*sent, now));
        // Of more than the new block sends, those are kept that are under way longest from now: a free permit comes no sooner
        // with all.
        while probes.len() > usize::from(requests.saturating_sub(*passed)) {
            let first = probes.iter().enumerate().min_by_key(|(_, sent)| **sent).map(|(at, _)| at);
            probes.remove(first.unwrap_or(0));
        }
        host
    }
}

/// How long a host that is back has not all of its share. One that was out for its latency is judged again meanwhile.
pub fn slow_start(rules: &Outlier, by_trial: bool) -> Duration {
    let judged = if by_trial { rules.interval.saturating_mul(3) } else { Duration::ZERO };
    rules.slow_start.max(judged)
}

/// The state of a host that is let back.
fn back(rules: &Outlier, by_trial: bool, now: Timestamp) -> State {
    let acts = Detector::ALL.into_iter().any(|by| rules.mode_of(by) == Mode::Enforce);
    let is_at_once = slow_start(rules, by_trial).is_zero() || !acts;
    if is_at_once { State::In { since: now } } else { State::Starting { since: now, by_trial } }
}

/// An attempt of a host whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeResult {
    /// How it ended.
    pub end: End,
    /// Whether that is a failure.
    pub failed: bool,
    /// How long it took.
    pub took: Duration,
    /// Whether it has a probe's permit, and did not come to the host by itself.
    pub has_permit: bool,
}

/// How a host comes back that was found for this, if not by probes. What would have made it an outlier then is slow.
fn trial_after(rules: &Outlier, cause: &EjectionCause) -> Option<Trial> {
    match (cause, rules.latency) {
        (EjectionCause::Latency { peers, .. }, Some(latency)) => Some(Trial::new(slow_from(latency, *peers))),
        _ => None,
    }
}

/// From which mean on a host is slow beside peers with this one.
pub fn slow_from(latency: Latency, peers: Duration) -> Duration {
    let limit = nanos(peers).saturating_mul(100 + u64::from(latency.deviation)).div_ceil(100);
    Duration::from_nanos(limit).max(latency.floor)
}

/// Whether a probe sent then may still be answered.
fn is_under_way(sent: Timestamp, now: Timestamp) -> bool {
    sent.plus(PROBE_LEASE).remaining(now, PROBE_LEASE).is_some()
}

/// How many ejections are remembered of a host: one more than make the longest time, so that after a bad day they are forgotten
/// as soon as after a bad hour. Envoy counts one more while `base * ejections < max + base`. Source: Envoy,
/// `source/common/upstream/outlier_detection_impl.cc`, `DetectorImpl::ejectHost`.
fn most_ejections(rules: &Outlier) -> u16 {
    let steps = nanos(rules.max_ejection_time).div_ceil(nanos(rules.base_ejection_time).max(1));
    u16::try_from(steps.saturating_add(1)).unwrap_or(u16::MAX)
}

/// No ejection is longer.
fn longest(rules: &Outlier) -> Duration {
    rules.max_ejection_time.saturating_mul(2)
}

impl HostTable {
    /// What a changed block begins with, where this is the table of the block before it. The hosts stay known under their
    /// names. Those that are out stay out, also where the new block lets fewer be out: until their time, which is at most the
    /// new longest one, and with their multiplier and the probes under way, for their lease. One comes back at once if the new
    /// block does not act on what had found it. Slow starts go on. `None` if no host is known, or what somebody else wrote does
    /// not fit together.
    ///
    /// What the old block has to tell stays its own, and the first interval that is looked at is the one that it is now.
    #[must_use]
    pub fn taken_over(&self, rules: &Outlier, now: Timestamp) -> Option<HostTable> {
        let configured = HostListing::of_named(&rules.hosts);
        let mut table = HostTable {
            cluster: self.cluster.clone(),
            swept: interval_number(now, rules.interval),
            hosts: self.hosts.iter().map(|host| host.taken_over(rules, &configured, now)).collect(),
            localities: if rules.discover.is_some() { self.localities.clone() } else { configured.localities },
            events: HostEvents::default(),
            ..*self
        };
        if table.known() == 0 || !table.invariants() {
            return None;
        }
        let left = |host: &Host| host.due_since().and_then(|until| until.remaining(now, longest(rules)));
        let out = table.hosts().filter(|(_, host)| !host.is_in());
        let next = out.map(|(_, host)| (left(host).unwrap_or_default(), host)).min_by_key(|(left, _)| *left);
        if let Some((left, address)) = next.map(|(left, host)| (left, host.address.clone())) {
            table.note(&address, HostEventKind::TakenOver(left));
        }
        Some(table)
    }

    /// The hosts with their places.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &Host)> {
        let known = self.hosts.iter().enumerate().filter(|(_, host)| !host.address.is_empty());
        known.map(|(index, host)| (HostId { index: index as u16, id: host.id }, host))
    }

    /// The name of the host at a place.
    pub fn id_at(&self, index: u16) -> Option<HostId> {
        let host = self.hosts.get(usize::from(index)).filter(|host| !host.address.is_empty())?;
        Some(HostId { index, id: host.id })
    }

    /// Whether there is a host at a place that is in.
    pub fn is_in(&self, index: u16) -> bool {
        self.hosts.get(usize::from(index)).is_some_and(|host| !host.address.is_empty() && host.is_in())
    }

    /// The host of this name.
    pub fn host(&self, id: HostId) -> Option<&Host> {
        self.hosts.get(usize::from(id.index)).filter(|host| host.id == id.id && !host.address.is_empty())
    }

    fn host_mut(&mut self, id: HostId) -> Option<&mut Host> {
        self.hosts.get_mut(usize::from(id.index)).filter(|host| host.id == id.id && !host.address.is_empty())
    }

    /// The host with this address.
    pub fn find(&self, address: &[u8]) -> Option<HostId> {
        self.hosts().find(|(_, host)| host.address == address).map(|(id, _)| id)
    }

    /// How many places there are, and so how many runs there may be.
    pub fn indexes(&self) -> usize {
        self.hosts.len()
    }

    /// How many hosts there are.
    pub fn known(&self) -> usize {
        self.hosts().count()
    }

    /// How many of them are out.
    pub fn out(&self) -> usize {
        self.hosts().filter(|(_, host)| !host.is_in()).count()
    }

    /// The hosts of each locality, of those that `may` get requests: those that are not in get none. After the localities that are
    /// known one of each priority for the hosts of which it is not known where they stand.
    #[must_use]
    pub fn parts(&self, may: &dyn Fn(&Host) -> bool, is_in: &dyn Fn(&Host) -> bool) -> Vec<Part> {
        // Nobody can see which subset the unusable ones are of.
        let has_subsets = self.has_subsets();
        let known = self.localities.iter().map(|locality| {
            let mut part = Part { priority: locality.priority, weight: locality.weight, ..Part::default() };
            part.level.all = if has_subsets { 0 } else { locality.unusable.into() };
            part
        });
        let mut parts: Vec<Part> = known.collect();
        for (_, host) in self.hosts().filter(|(_, host)| may(host)) {
            let at = self.part_of(host);
            while parts.len() <= at {
                let priority = u8::try_from(parts.len().saturating_sub(self.localities.len())).unwrap_or(u8::MAX);
                parts.push(Part { priority, ..Part::default() });
            }
            if let Some(Part { level, .. }) = parts.get_mut(at) {
                level.all += 1;
                level.degraded += u32::from(is_in(host) && host.topology.is_degraded);
                level.healthy += u32::from(is_in(host) && !host.topology.is_degraded);
            }
        }
        topology::weigh_rest(&mut parts, self.localities.len());
        parts
    }

    /// Which of the [parts](Self::parts) a host is in.
    #[must_use]
    pub fn part_of(&self, host: &Host) -> usize {
        let Topology { priority, locality, .. } = host.topology;
        let at = usize::from(locality);
        let is_there = self.localities.get(at).is_some_and(|locality| locality.priority == priority);
        if is_there { at } else { self.localities.len() + usize::from(priority) }
    }

    /// Whether the cluster may have subsets: its hosts have different labels.
    #[must_use]
    pub fn has_subsets(&self) -> bool {
        let mut labels = self.hosts().map(|(_, host)| host.label).filter(|label| *label != 0);
        let first = labels.next();
        labels.any(|label| Some(label) != first)
    }

    /// Whether there is a host whose label was not seen yet.
    #[must_use]
    pub fn lacks_labels(&self) -> bool {
        self.hosts().any(|(_, host)| host.label == 0)
    }

    /// Takes note of a host's label. Whether it is another one than before.
    pub fn set_label(&mut self, id: HostId, label: u32) -> bool {
        self.host_mut(id).is_some_and(|host| core::mem::replace(&mut host.label, label) != label)
    }

    /// Whether requests do not go to the hosts that are named to them: nothing is steered then, whatever is found of hosts.
    #[must_use]
    pub fn is_unfollowed(&self) -> bool {
        self.unfollowed > Timestamp::ZERO
    }

    /// Takes note of whether requests go to the hosts that are named to them, and has it said now and then that they do not. Whether
    /// that changed anything.
    pub fn set_followed(&mut self, is_followed: bool, now: Timestamp) -> bool {
        if is_followed {
            return core::mem::take(&mut self.unfollowed) > Timestamp::ZERO;
        }
        let is_due = is_to_be_said(self.unfollowed, now);
        if is_due {
            self.unfollowed = now;
            self.note(b"", HostEventKind::Unfollowed);
        }
        is_due
    }

    /// Whether it is to be said that a request could not be steered as its route has no name: now and then.
    #[must_use]
    pub fn wants_to_say_unnamed(&self, now: Timestamp) -> bool {
        is_to_be_said(self.unnamed, now)
    }

    /// Has it said, if it is to be said.
    pub fn say_unnamed(&mut self, now: Timestamp) -> bool {
        let is_due = self.wants_to_say_unnamed(now);
        if is_due {
            self.unnamed = now;
            self.note(b"", HostEventKind::RouteUnnamed);
        }
        is_due
    }

    /// Whether there were lately hosts that have no address by which they could be named.
    #[must_use]
    pub fn has_unaddressed(&self, now: Timestamp) -> bool {
        !is_to_be_said(self.unaddressed, now)
    }

    /// Has it said, now and then, that this is no address by which a host could be named. Whether it was to be said.
    pub fn say_unaddressed(&mut self, host: &[u8], now: Timestamp) -> bool {
        let is_due = is_to_be_said(self.unaddressed, now);
        if is_due {
            self.unaddressed = now;
            self.note(host.get(..LONGEST_ADDRESS).unwrap_or(host), HostEventKind::Unaddressed);
        }
        is_due
    }

    /// Whether a host is out, comes back, or has been out lately.
    #[must_use]
    pub fn is_unsettled(&self, rules: &Outlier, now: Timestamp) -> bool {
        self.hosts().any(|(_, host)| !host.is_in() || host.ejections > 0 || host.is_starting(rules, now))
    }

    /// Whether there were lately more hosts than the table holds.
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.full.plus(FULL_LASTS).remaining(now, FULL_LASTS).is_some()
    }

    /// Whether requests are to be steered: somebody is out or coming back, and enough are left.
    pub fn steers(&self, rules: &Outlier, now: Timestamp) -> bool {
        let (mut known, mut out, mut starting) = (0_u64, 0_u64, false);
        for (_, host) in self.hosts() {
            known += 1;
            out += u64::from(!host.is_in());
            starting |= host.is_starting(rules, now);
        }
        let left = known.saturating_sub(out);
        // The panic threshold is reached by those that are left: below it nobody is left out.
        (out > 0 || starting) && left > 0 && rules.panic_threshold.reached(left, known) && !self.is_full(now)
    }

    /// Whether one more may be taken out.
    fn has_room(&self, rules: &Outlier) -> bool {
        let (known, out) = (self.known() as u64, self.out() as u64);
        let within = (out + 1).saturating_mul(100_000) <= u64::from(rules.max_ejected.millis()).saturating_mul(known);
        within || out == 0 && rules.always_eject_one
    }

    /// Whether a request may explore now; `waits` longer if others would better do it.
    pub fn wants_discovery_request(&self, waits: Duration, now: Timestamp) -> bool {
        let gap = EXPLORE_AFTER.saturating_mul(1 << self.explored_in_vain.min(8)).min(EXPLORE_AT_LEAST);
        let (known, out) = (self.known() as u32, self.out() as u32);
        // Where nobody is out one is not back to its full share yet, and is not to get more by this.
        let share = out.max(1).saturating_mul(EXPLORE_SHARE).min(known);
        let gap = gap.saturating_mul(share).checked_div(known).unwrap_or(gap).max(EXPLORE_AT_MOST);
        let gap = if self.round > 0 { Duration::ZERO } else { gap }.saturating_add(waits);
        self.explored.plus(gap).remaining(now, gap).is_none()
    }

    /// Has a request explore, if it may.
    pub fn send_discovery_request(&mut self, waits: Duration, now: Timestamp) -> bool {
        let wants_discovery_request = self.wants_discovery_request(waits, now);
        if wants_discovery_request {
            self.explored = now;
            match self.round.checked_sub(1) {
                Some(left) => self.round = left,
                None => self.explored_in_vain = self.explored_in_vain.saturating_add(1),
            }
        }
        wants_discovery_request
    }

    /// Why a detector's finding would change nothing: too many are out, or it only pretends. `None` if it would.
    pub fn expects(&self, rules: &Outlier, id: HostId, detector: Detector) -> Option<HostCount> {
        self.host(id).filter(|host| host.is_in())?;
        match rules.mode_of(detector) {
            Mode::Enforce if !self.has_room(rules) => Some(HostCount::Overflow),
            Mode::Shadow => Some(HostCount::Would(detector)),
            _ => None,
        }
    }

    /// Enters a host, or shows that it is still there. `None` when there is no place for it.
    pub fn enter(&mut self, address: &[u8], listed: bool, now: Timestamp) -> Option<HostId> {
        if let Some(id) = self.find(address) {
            if let Some(host) = self.host_mut(id) {
                host.see(now);
                host.listed |= listed;
            }
            return Some(id);
        }
        if address.is_empty() || address.len() > LONGEST_ADDRESS {
            return None;
        }
        let id = self.next_id;
        let host =
            Host { address: address.to_owned(), id, listed, seen: now, arrived: now.seconds(), ..Host::vacant() };
        let free = self.hosts.iter().position(|host| host.address.is_empty());
        let index = match free {
            Some(index) => {
                if let Some(old) = self.hosts.get_mut(index) {
                    *old = host;
                }
                index
            }
            None if self.hosts.len() < MOST_HOSTS => {
                self.hosts.push(host);
                self.hosts.len() - 1
            }
            None => {
                if !self.is_full(now) {
                    self.note(address, HostEventKind::Full);
                }
                self.full = now;
                return None;
            }
        };
        self.next_id = self.next_id.wrapping_add(1);
        if self.out() > 0 {
            // As many as the cluster's turns take to come round.
            self.round = self.known() as u16;
            self.explored_in_vain = 0;
        }
        Some(HostId { index: index as u16, id })
    }

    /// Enters the hosts that the policy names, where they are missing. Whether any was.
    pub fn enter_named(&mut self, rules: &Outlier, now: Timestamp) -> bool {
        let named = HostListing::of_named(&rules.hosts);
        let known = self.known();
        for host in &named.hosts {
            if self.find(host.address.as_bytes()).is_none()
                && let Some(id) = self.enter(host.address.as_bytes(), true, now)
                && let Some(entered) = self.host_mut(id)
            {
                // The localities of a listing are numbered otherwise.
                let locality =
                    if rules.discover.is_some() { Topology::default().locality } else { host.topology.locality };
                entered.topology = Topology { locality, ..host.topology };
            }
        }
        if rules.discover.is_none() {
            self.localities = named.localities;
        }
        known != self.known()
    }

    /// Shows that a host is still there.
    pub fn see(&mut self, id: HostId, now: Timestamp) {
        if let Some(host) = self.host_mut(id) {
            host.see(now);
        }
    }

    /// After the clock was put back: takes what was seen later as seen now.
    pub fn see_no_future(&mut self, now: Timestamp) {
        let latest = now.plus(SKEW);
        for host in self.hosts.iter_mut().filter(|host| host.is_in() && host.seen > latest) {
            host.seen = now;
        }
    }

    /// Whether requests see the same in the other table: who there is, and who gets traffic.
    pub fn looks_like(&self, other: &HostTable) -> bool {
        let looks = |host: &Host, other: &Host| {
            host.id == other.id
                && host.state == other.state
                && host.topology == other.topology
                && host.label == other.label
                && host.address == other.address
        };
        self.full == other.full
            && self.localities == other.localities
            && self.hosts.len() == other.hosts.len()
            && self.hosts.iter().zip(&other.hosts).all(|(host, other)| looks(host, other))
    }

    /// Whether the other table has the same hosts at the same places.
    pub fn has_hosts_of(&self, other: &HostTable) -> bool {
        let is_same = |host: &Host, other: &Host| host.id == other.id && host.address == other.address;
        self.hosts.len() == other.hosts.len()
            && self.hosts.iter().zip(&other.hosts).all(|(host, other)| is_same(host, other))
    }

    /// Adds to what a host would have been seen, had it had its share, in thousandths of a time.
    pub fn miss(&mut self, id: HostId, times: u32) {
        if let Some(host) = self.host_mut(id) {
            host.missed = host.missed.saturating_add(times);
        }
    }

    /// Forgets a host.
    pub fn forget(&mut self, id: HostId) {
        if let Some(host) = self.host_mut(id) {
            *host = Host::vacant();
            // Where one has left another has mostly come.
            self.explored_in_vain = 0;
            self.round = if self.out() > 0 { self.known() as u16 } else { 0 };
        }
        while self.hosts.last().is_some_and(|host| host.address.is_empty()) {
            self.hosts.pop();
        }
    }

    /// Takes over a listing of the whole cluster: enters what is new, and forgets what it lacks, but those that the policy `names`.
    pub fn list(&mut self, listing: &HostListing, names: &dyn Fn(&[u8]) -> bool, now: Timestamp) {
        let is_listed = |address: &[u8]| listing.find(address).is_some() || names(address);
        let gone: Vec<HostId> = self.hosts().filter(|(_, host)| !is_listed(&host.address)).map(|(id, _)| id).collect();
        gone.into_iter().for_each(|id| self.forget(id));
        // Mostly all are known, and looking for each of a thousand takes long.
        let mut is_known = vec![false; listing.hosts.len()];
        for host in self.hosts.iter_mut().filter(|host| !host.address.is_empty()) {
            if let Some((at, listed)) = listing.position(&host.address) {
                host.see(now);
                host.listed = true;
                host.topology = listed.topology;
                if let Some(is_known) = is_known.get_mut(at) {
                    *is_known = true;
                }
            }
        }
        for (listed, _) in listing.hosts.iter().zip(is_known).filter(|(_, is_known)| !is_known) {
            if let Some(id) = self.enter(listed.address.as_bytes(), true, now)
                && let Some(host) = self.host_mut(id)
            {
                host.topology = listed.topology;
            }
        }
        self.localities.clone_from(&listing.localities);
    }

    fn note(&mut self, host: &[u8], kind: HostEventKind) {
        let (out, of) = (self.out() as u16, self.known() as u16);
        self.events.note(HostEvent { host: host.to_owned(), kind, out, of });
    }

    /// Takes a host out for what a detector has found, if the limits let it.
    pub fn eject(
        &mut self,
        rules: &Outlier,
        id: HostId,
        cause: EjectionCause,
        now: Timestamp,
        random: u64,
    ) -> Ejection {
        let detector = cause.detector();
        let mode = rules.mode_of(detector);
        let Some(host) = self.host(id).filter(|host| host.serves(rules, now)) else { return Ejection::Nothing };
        // One that trickles is out already.
        let has_room = !host.is_in() || self.has_room(rules);
        let address = host.address.clone();
        let is_noted = now.seconds().abs_diff(host.noted) < REPEAT;
        if mode == Mode::Off {
            return Ejection::Nothing;
        }
        self.events.count(HostCount::Detected(detector), 1);
        let without = match mode {
            Mode::Enforce if has_room => {
                let lasts = self.take_out(rules, id, (detector, trial_after(rules, &cause)), now, random);
                self.events.count(HostCount::Ejected(detector), 1);
                self.note(&address, HostEventKind::Ejected(cause, lasts.unwrap_or_default()));
                return Ejection::Ejected;
            }
            Mode::Enforce => {
                self.events.count(HostCount::Overflow, 1);
                Ejection::Overflow
            }
            _ => {
                self.events.count(HostCount::Would(detector), 1);
                Ejection::Shadowed
            }
        };
        if !is_noted {
            if let Some(host) = self.host_mut(id) {
                host.noted = now.seconds();
            }
            let kind = if without == Ejection::Overflow {
                HostEventKind::Overflow(cause)
            } else {
                HostEventKind::WouldEject(cause)
            };
            self.note(&address, kind);
        }
        without
    }

    /// Puts a host out for its next time. Source of the growth: Envoy, "Ejection algorithm"; of its end, see [`most_ejections`].
    fn take_out(
        &mut self,
        rules: &Outlier,
        id: HostId,
        (by, trial): (Detector, Option<Trial>),
        now: Timestamp,
        random: u64,
    ) -> Option<Duration> {
        if self.out() == 0 {
            // From the beginning of steering.
            self.explored = now;
            self.explored_in_vain = 0;
            self.round = 0;
        }
        let host = self.host_mut(id)?;
        host.ejections = host.ejections.saturating_add(1).min(most_ejections(rules));
        let time = rules.base_ejection_time.saturating_mul(host.ejections.into()).min(rules.max_ejection_time);
        let jitter = Duration::from_nanos(scale(random, rules.ejection_jitter.of(nanos(time))));
        let lasts = if by == Detector::Heartbeat { Duration::ZERO } else { time.saturating_add(jitter) };
        let since = host.out_since().unwrap_or(now);
        host.state = State::Out { by, since, until: now.plus(lasts), probes: Vec::new(), passed: 0, trial };
        host.seen = host.seen.max(now.plus(lasts));
        host.missed = 0;
        Some(lasts)
    }

    /// Takes a permit for a probe of a host whose time is over.
    pub fn take_probe(&mut self, rules: &Outlier, id: HostId, now: Timestamp) -> bool {
        let Some(host) = self.host_mut(id) else { return false };
        if !host.wants_probe(rules, now) {
            return false;
        }
        if let State::Out { probes, .. } = &mut host.state {
            probes.retain(|sent| is_under_way(*sent, now));
            probes.push(now);
        }
        true
    }

    /// Gives the permit back of a probe that was sent then and said nothing about the host.
    pub fn return_probe(&mut self, id: HostId, sent: Timestamp) -> bool {
        self.host_mut(id).is_some_and(|host| host.end_probe(sent))
    }

    /// Judges a host by an attempt that was sent after its time was over: by one with a permit, or by one that came to it by
    /// itself. Whether that changed anything.
    #[allow(clippy::too_many_arguments)] // All of them are facts of this one attempt.
    pub fn judge_probe(
        &mut self,
        rules: &Outlier,
        id: HostId,
        tried: ProbeResult,
        sent: Timestamp,
        now: Timestamp,
        random: u64,
    ) -> bool {
        let Some(host) = self.host_mut(id).filter(|host| host.is_judged_by(rules, sent, now)) else { return false };
        let address = host.address.clone();
        if tried.has_permit {
            host.end_probe(sent);
        }
        let State::Out { by, since, passed, trial, .. } = &mut host.state else { return false };
        let (by, since) = (*by, *since);
        if tried.failed {
            let mut trial = trial.take();
            if let Some(trial) = &mut trial {
                trial.fail();
            }
            let lasts = self.take_out(rules, id, (by, trial), now, random).unwrap_or_default();
            self.events.count(HostCount::ProbeFailed, 1);
            let ejections = self.host(id).map_or(0, |host| host.ejections);
            self.note(&address, HostEventKind::ProbeFailed { end: tried.end, lasts, ejections });
            return true;
        }
        if let Some(trial) = trial {
            let min_requests = rules.latency.map_or(u32::MAX, |latency| latency.min_requests.get());
            match trial.judge(tried.took, min_requests) {
                TrialVerdict::Waits => {}
                TrialVerdict::Passed => self.readmit(rules, id, since, now),
                TrialVerdict::Slow(mean) => {
                    let trial = Some(trial.clone());
                    let lasts = self.take_out(rules, id, (by, trial), now, random).unwrap_or_default();
                    self.events.count(HostCount::ProbeFailed, 1);
                    self.note(&address, HostEventKind::StillSlow { mean, lasts });
                }
            }
            return true;
        }
        *passed = passed.saturating_add(1);
        if *passed >= rules.probe_requests.get() {
            self.readmit(rules, id, since, now);
        }
        true
    }

    fn readmit(&mut self, rules: &Outlier, id: HostId, since: Timestamp, now: Timestamp) {
        let Some(host) = self.host_mut(id) else { return };
        let address = host.address.clone();
        let by_trial = host.is_on_trial();
        if !by_trial {
            host.arrived = now.seconds();
        }
        host.state = back(rules, by_trial, now);
        host.see(now);
        self.events.count(HostCount::Readmitted, 1);
        self.note(&address, HostEventKind::Readmitted { after: now.since(since), by_trial });
    }

    /// Compares those on trial with how fast their peers are now.
    pub fn set_slow_from(&mut self, slow_from: Duration) {
        for host in &mut self.hosts {
            if let State::Out { trial: Some(trial), .. } = &mut host.state {
                trial.set_slow_from(slow_from);
            }
        }
    }

    /// Lets a host back that our own checks find healthy: at once if only they had found it bad, else when its time is over.
    /// Whether that changed anything.
    pub fn readmit_healthy(&mut self, rules: &Outlier, id: HostId, now: Timestamp) -> bool {
        let Some(host) = self.host(id) else { return false };
        let State::Out { by, since, .. } = host.state else { return false };
        if by != Detector::Heartbeat && !host.is_due(rules, now) || host.is_on_trial() {
            return false;
        }
        self.readmit(rules, id, since, now);
        true
    }

    /// Begins an interval for a host that has served successes.
    pub fn decay(&mut self, rules: &Outlier, id: HostId) {
        if let Some(host) = self.host_mut(id).filter(|host| host.is_in()) {
            // One of an earlier version of the module, or of other times, may have more.
            host.ejections = host.ejections.min(most_ejections(rules)).saturating_sub(1);
        }
    }

    /// Ends the slow starts whose time is over.
    pub fn end_slow_starts(&mut self, rules: &Outlier, now: Timestamp) {
        for host in &mut self.hosts {
            if let State::Starting { since, .. } = host.state
                && !host.is_starting(rules, now)
            {
                host.state = State::In { since };
            }
        }
    }
}

/// How long a table counts as full after a host had no place in it.
const FULL_LASTS: Duration = Duration::from_secs(600);

impl Host {
    fn see(&mut self, now: Timestamp) {
        // One that is out cannot be seen before its time is over.
        self.seen = if self.is_in() { now } else { self.seen.max(now) };
        self.missed = 0;
    }

    /// Ends the permit of a probe that was sent then: the latest that was taken before.
    fn end_probe(&mut self, sent: Timestamp) -> bool {
        let State::Out { probes, .. } = &mut self.state else { return false };
        let own = probes.iter().enumerate().filter(|(_, taken)| **taken <= sent).max_by_key(|(_, taken)| **taken);
        match own.map(|(at, _)| at) {
            Some(at) => {
                probes.swap_remove(at);
                true
            }
            None => false,
        }
    }
}

impl Record for HostTable {
    const KIND: Kind = Kind::Hosts;

    /// Each host is there once, under a name of its own.
    fn invariants(&self) -> bool {
        self.hosts.len() <= MOST_HOSTS
            && are_different(self.hosts().map(|(_, host)| host.address.as_slice()))
            && are_different(self.hosts().map(|(id, _)| id.id))
    }

    fn size(&self) -> usize {
        80 + self.hosts.len() * 92 + self.localities.len() * 7
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(&self.cluster);
        out.u64(self.swept);
        out.time(self.explored);
        out.u8(self.explored_in_vain);
        out.u16(self.round);
        out.time(self.full);
        out.time(self.unnamed);
        out.time(self.unfollowed);
        out.time(self.unaddressed);
        out.u32(self.next_id);
        self.events.write(out);
        out.u16(self.localities.len().min(MOST_LOCALITIES) as u16);
        for locality in self.localities.iter().take(MOST_LOCALITIES) {
            out.u8(locality.priority);
            out.u32(locality.weight);
            out.u16(locality.unusable);
        }
        out.u16(self.hosts.len().min(MOST_HOSTS) as u16);
        for host in self.hosts.iter().take(MOST_HOSTS) {
            host.write(out);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let mut table = HostTable {
            cluster: input.bytes()?.to_owned(),
            swept: input.u64()?,
            explored: input.time()?,
            explored_in_vain: input.u8()?,
            round: input.u16()?,
            full: input.time()?,
            unnamed: input.time()?,
            unfollowed: input.time()?,
            unaddressed: input.time()?,
            next_id: input.u32()?,
            events: HostEvents::read(input)?,
            localities: Vec::new(),
            hosts: Vec::new(),
        };
        let count = usize::from(input.u16()?);
        if count > MOST_LOCALITIES {
            return None;
        }
        let mut locality = || Some(Locality { priority: input.u8()?, weight: input.u32()?, unusable: input.u16()? });
        table.localities = (0..count).map(|_| locality()).collect::<Option<_>>()?;
        let count = usize::from(input.u16()?);
        if count > MOST_HOSTS {
            return None;
        }
        table.hosts.reserve(count);
        for _ in 0..count {
            table.hosts.push(Host::read(input)?);
        }
        Some(table)
    }
}

impl Host {
    fn write(&self, out: &mut Writer) {
        out.bytes(&self.address);
        if self.address.is_empty() {
            return;
        }
        out.u32(self.id);
        out.u8(self.listed.into());
        out.time(self.seen);
        out.u32(self.missed);
        out.u8(self.topology.priority);
        out.u16(self.topology.locality);
        out.u32(self.topology.weight);
        out.u8(self.topology.is_degraded.into());
        out.u32(self.label);
        out.u16(self.ejections);
        out.u32(self.arrived);
        out.u32(self.noted);
        match &self.state {
            State::In { since } => {
                out.u8(0);
                out.time(*since);
            }
            State::Starting { since, by_trial } => {
                out.u8(1);
                out.time(*since);
                out.u8((*by_trial).into());
            }
            State::Out { by, since, until, probes, passed, trial } => {
                out.u8(2);
                out.u8(*by as u8);
                out.time(*since);
                out.time(*until);
                out.u16(*passed);
                out.u8(trial.is_some().into());
                if let Some(trial) = trial {
                    trial.write(out);
                }
                out.u8(probes.len().min(MOST_PROBES) as u8);
                probes.iter().take(MOST_PROBES).for_each(|sent| out.time(*sent));
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let address = input.bytes()?.to_owned();
        if address.len() > LONGEST_ADDRESS {
            return None;
        }
        let mut host = Host { address, ..Host::vacant() };
        if host.address.is_empty() {
            return Some(host);
        }
        host.id = input.u32()?;
        host.listed = input.flag()?;
        host.seen = input.time()?;
        host.missed = input.u32()?;
        let (priority, locality) = (input.u8()?, input.u16()?);
        let weight = Some(input.u32()?).filter(|weight| *weight > 0)?;
        host.topology = Topology { priority, locality, weight, is_degraded: input.flag()? };
        host.label = input.u32()?;
        host.ejections = input.u16()?;
        host.arrived = input.u32()?;
        host.noted = input.u32()?;
        host.state = match input.u8()? {
            0 => State::In { since: input.time()? },
            1 => State::Starting { since: input.time()?, by_trial: input.flag()? },
            2 => {
                let (by, since, until) = (Detector::from_number(input.u8()?)?, input.time()?, input.time()?);
                let passed = input.u16()?;
                let trial = if input.flag()? { Some(Trial::read(input)?) } else { None };
                let count = usize::from(input.u8()?);
                if count > MOST_PROBES {
                    return None;
                }
                let probes = (0..count).map(|_| input.time()).collect::<Option<_>>()?;
                State::Out { by, since, until, probes, passed, trial }
            }
            _ => return None,
        };
        Some(host)
    }
}

/// The most probes that a policy can ask for.
const MOST_PROBES: usize = 100;

#[cfg(test)]
mod tests;
