//! The hosts of one group as one worker sees them, and everything it does to their common state.
//!
//! The healthy path reads nothing shared: a success is counted in this worker's own slot if a detector asks for that, and the
//! signal of runs is compared with what it was when no host had failed. A failure swaps the host's run, and the table when a
//! limit is reached.

use crate::cx::Cx;
use core::time::Duration;
use std::collections::HashMap;

use super::balance::load::{InFlight, Loads};
use super::cause::EjectionCause;
use super::host_events::{HostCount, HostEvents};
use super::interval::interval_number;
use super::open_runs::{LOOKED_AT, OpenRuns};
use super::run::HostRun;
use super::slot::HostSlot;
use super::steering::{self, Asked, Rotation, Trickle};
use super::subset::SubsetsSeen;
use super::sweep::{self, Tallies};
use super::table::{Ejection, Host, HostId, HostTable, ProbeResult};
use super::topology::HostListing;
use crate::base::random::fraction;
use crate::base::time::{SKEW, Timestamp, nanos};
use crate::http::attempt::End;
use crate::http::outcome::Verdict;
use crate::store::address::Address;
use crate::store::paths::HostPaths;
use crate::store::record::{Mark, Record};
use crate::store::worker::{Seen, Worker, slots};
use crate::store::workers;
use crate::store::{NotUpdated, Store, Version, update};
use holdfast_policy::document::{Balance, Detector, Mode, Outlier};

/// Of the successes that no detector counts, one in about so many is looked at: which hosts there are must be known before one
/// fails. After a random number each time, or the cluster's own turns could be in step with it.
const SAMPLE: u32 = 16;

/// And at least one in so long.
const SAMPLE_AFTER: Duration = Duration::from_secs(1);

/// How many successes are looked at from the beginning on, and after each host that is new.
const SAMPLE_FIRST: u32 = 64;

/// A worker's counts for the rates reach the others so late at most, for a group of up to 100 hosts.
pub const FLUSH_AFTER: Duration = Duration::from_millis(10);

const FEW_HOSTS: u32 = 100;

/// An interval is looked at so long after its end, when the workers have written what they counted: this much, or a tenth
/// of short intervals.
const SWEEP_LAG: Duration = Duration::from_millis(100);

/// How long a host whose time is over waits for a request that may be tried again elsewhere, before any request may be
/// its probe.
const PATIENCE: Duration = Duration::from_secs(1);

/// A worker changes the table at most this often for what it finds and cannot act on.
const IN_VAIN_EVERY: Duration = Duration::from_millis(100);

/// At least so many hosts are named to the router: it passes over one that has left.
const LEAST_NAMED: usize = 3;

/// How often a host's label is looked at where all have the same: the endpoint discovery may change it.
const LABEL_EVERY: Duration = Duration::from_secs(10);

/// One request that did not go where it was sent weighs as much as so many that did.
const ONE_UNFOLLOWED: u16 = 20;

/// This shows that nobody goes where it is sent: five, if there are not very many others between them.
const UNFOLLOWED: u16 = 100;

/// So many in a row show that all do.
const FOLLOWED: u16 = 200;

/// The most selectors for which turns are kept.
const MOST_ROTATIONS: usize = 256;

/// An attempt that has ended.
#[derive(Debug, Clone, Copy)]
pub struct HostAttempt<'a> {
    /// The host's address as Envoy writes it.
    pub host: &'a [u8],
    /// How it ended.
    pub end: End,
    /// What that counts as.
    pub verdict: Verdict,
    /// How long it took from the request's last byte on.
    pub took: Duration,
    /// When its headers were sent.
    pub sent: Timestamp,
}

/// What of a request decides where it goes, each looked at only if something follows from it.
pub struct Asks<'a> {
    /// Its [selector](super::subset), if it has one.
    pub selector: &'a dyn Fn() -> Option<u64>,
    /// The hash of what its host is chosen by, if it has that.
    pub hash: &'a dyn Fn() -> Option<u64>,
}

impl Asks<'_> {
    /// A request of which nothing is known.
    pub const NOTHING: Asks<'static> = Asks { selector: &|| None, hash: &|| None };
}

/// How a request is sent where its hosts are named.
#[derive(Debug, PartialEq, Eq)]
pub struct Steering {
    /// The hosts in the order in which they are to be tried, as the header's value.
    pub hosts: String,
    /// The first of them.
    pub first: HostId,
    /// Counts as in flight there, where that matters.
    pub in_flight: Option<InFlight>,
    /// The host that this request is the probe of, and its address.
    pub probe: Option<(HostId, String)>,
    /// How many hosts are out.
    pub out: u16,
    /// How many there are.
    pub of: u16,
}

impl Steering {
    /// Whether there is nothing to say of it: no host is out.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.out == 0 && self.probe.is_none()
    }

    /// Whether the host with this address is the first one.
    #[must_use]
    pub fn leads_to(&self, address: &[u8]) -> bool {
        self.hosts.as_bytes().split(|byte| *byte == b',').next() == Some(address)
    }
}

/// Which hosts are named to requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// None: the cluster's own balancing chooses.
    None,
    /// Those that are in, as one is out.
    PastOthers,
    /// Those that are in, as the policy says.
    In,
    /// All, as the policy says: too few are in.
    All,
}

/// A copy of the table.
#[derive(Debug)]
struct View {
    table: HostTable,
    version: Option<Version>,
    seen: Seen,
    by_address: HashMap<Vec<u8>, HostId>,
    /// Whether a host is out, comes back, or has been out lately.
    is_unsettled: bool,
    named: Named,
    /// The hosts that are out, in the order of the table.
    out: Vec<HostId>,
    /// Those of them that get a little all the same.
    trickles: Vec<Trickle>,
    /// How many there are.
    of: u16,
    /// Whether the cluster may have subsets.
    has_subsets: bool,
    /// Whether the hosts that the policy names have been looked for in it.
    is_registered: bool,
}

/// The hosts of one group as one worker sees them.
#[derive(Debug)]
pub struct Hosts {
    paths: HostPaths,
    mark: Mark,
    /// The table.
    cell: Address,
    view: Option<View>,
    slot: HostSlot,
    /// Whether the store lacks what was counted last.
    is_unwritten: bool,
    written: Timestamp,
    /// How late it may be written.
    flush_after: Duration,
    /// What is known of the hosts' runs of failures.
    open_runs: OpenRuns,
    /// Successes since one was looked at, and when that was.
    unsampled: u32,
    sampled: Timestamp,
    /// After how many the next one is looked at.
    gap: u32,
    /// Successes to look at whatever their number.
    to_sample: u32,
    /// What detectors found and the table lacks.
    uncounted: Vec<(HostCount, u32)>,
    /// When this worker last changed the table for something that could not be acted on.
    in_vain: Timestamp,
    /// The turns of the hosts, by selector where the cluster may have subsets.
    rotations: HashMap<u64, Rotation>,
    /// How busy this worker has the hosts.
    loads: Loads,
    /// What is known of subsets.
    subsets: SubsetsSeen,
    /// When a label was last looked at.
    labelled: Timestamp,
    /// Of the requests that were looked at so many went to a host that was named to them, in a row.
    followed: u16,
    /// Rises with each that did not, and falls with each that did.
    unfollowed: u16,
}

impl Hosts {
    /// Hosts that this worker knows nothing about yet. `before` are the tables of the blocks that theirs follows, the newest
    /// first.
    pub fn new(paths: HostPaths, mark: Mark, before: Vec<Address>) -> Self {
        Hosts {
            cell: Address::new(paths.table(), mark).after(before),
            paths,
            mark,
            view: None,
            slot: HostSlot::default(),
            is_unwritten: false,
            written: Timestamp::ZERO,
            flush_after: FLUSH_AFTER,
            open_runs: OpenRuns::default(),
            unsampled: 0,
            sampled: Timestamp::ZERO,
            gap: SAMPLE,
            to_sample: SAMPLE_FIRST,
            uncounted: Vec::new(),
            in_vain: Timestamp::ZERO,
            rotations: HashMap::new(),
            loads: Loads::default(),
            subsets: SubsetsSeen::default(),
            labelled: Timestamp::ZERO,
            followed: 0,
            unfollowed: 0,
        }
    }

    /// That of the records.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The names in the store.
    pub fn paths(&self) -> &HostPaths {
        &self.paths
    }

    /// The table as this worker last saw it.
    pub fn table(&self) -> Option<&HostTable> {
        self.view.as_ref().map(|view| &view.table)
    }

    /// Makes the next look read the table, whatever the signal says.
    pub fn invalidate(&mut self) {
        if let Some(view) = &mut self.view {
            view.seen.at = Timestamp::ZERO;
        }
    }

    /// Brings the view up to date. Whether it changed.
    pub fn refresh(&mut self, cx: &mut Cx<'_>, rules: &Outlier) -> bool {
        let now = cx.now;
        self.take_over(cx, rules);
        let epoch = cx.store.epoch();
        if self.view.as_ref().is_some_and(|view| view.seen.holds(epoch, now)) {
            return false;
        }
        self.refresh_now(cx, rules, epoch)
    }

    /// Has the table begin with what is true out there, where the block follows others. Does nothing but for the first time.
    fn take_over(&mut self, cx: &mut Cx<'_>, rules: &Outlier) {
        if self.cell.before().is_empty() {
            return;
        }
        let now = cx.now;
        if self.cell.take_over(cx.store, |table: &HostTable| table.taken_over(rules, now)).is_some() {
            cx.store.raise_epoch();
        } else {
            // It begins without hosts, once for all workers: what the block before it finds from now on is not taken over by
            // the next.
            let _ = self.cell.update(cx.store, |old: Option<&HostTable>| ((), old.is_none().then(HostTable::default)));
        }
    }

    fn refresh_now(&mut self, cx: &mut Cx<'_>, rules: &Outlier, epoch: Option<u64>) -> bool {
        let now = cx.now;
        let seen = Seen { epoch, at: now };
        let stored = cx.store.get(&self.paths.table());
        let version = stored.as_ref().map(|(_, version)| *version);
        if let Some(view) = self.view.as_mut().filter(|view| view.version == version) {
            view.seen = seen;
            // Slow starts and the lack of places end by time alone.
            view.named = named(&view.table, rules, view.is_unsettled, now);
            return false;
        }
        let table = stored.and_then(|(bytes, _)| HostTable::decode(&bytes, self.mark)).unwrap_or_default();
        if let Some(view) = self.view.as_mut().filter(|view| view.table == table) {
            (view.version, view.seen) = (version, seen);
            view.named = named(&view.table, rules, view.is_unsettled, now);
            return false;
        }
        let unsignalled = self.view.as_ref().filter(|view| view.seen.epoch == epoch);
        let stood_still = unsignalled.is_some();
        // It was changed without a signal that reaches this seat, or by a worker that died before it gave one.
        cx.worker.misses_signals |= unsignalled.is_some_and(|view| !table.looks_like(&view.table));
        // If the signal has moved it may have been for something else, and workers have looked between that and the change.
        // Whoever finds news that nobody has told is the first.
        let is_first = cx.worker.misses_signals && !table.events.is_empty();
        self.take(rules, table, version, seen, now);
        if stood_still || is_first {
            cx.store.raise_epoch();
        }
        true
    }

    fn take(&mut self, rules: &Outlier, table: HostTable, version: Option<Version>, seen: Seen, now: Timestamp) {
        let before = self.view.take();
        let known = before.as_ref().map_or(0, |view| view.by_address.len());
        // Mostly it is the same hosts in another state.
        let same = before.filter(|view| view.table.has_hosts_of(&table));
        let by_address: HashMap<_, _> = match same {
            Some(view) => view.by_address,
            None => table.hosts().map(|(id, host)| (host.address.clone(), id)).collect(),
        };
        if by_address.len() > known {
            self.to_sample = SAMPLE_FIRST.max(self.to_sample);
        }
        let is_unsettled = table.is_unsettled(rules, now);
        let named = named(&table, rules, is_unsettled, now);
        self.rotations.clear();
        let has_subsets = table.has_subsets();
        let out = table.hosts().filter(|(_, host)| !host.is_in()).map(|(id, _)| id).collect();
        let of = table.known() as u16;
        let trickles = steering::trickles(&table, rules);
        self.view = Some(View {
            table,
            version,
            seen,
            by_address,
            is_unsettled,
            named,
            out,
            trickles,
            of,
            has_subsets,
            is_registered: false,
        });
    }

    /// Changes the table by `step`, which gives something if it did anything and is repeated on a newer table when another worker
    /// was faster.
    fn change<V>(
        &mut self,
        cx: &mut Cx<'_>,
        rules: &Outlier,
        mut step: impl FnMut(&mut HostTable) -> Option<V>,
    ) -> Result<Option<V>, NotUpdated> {
        let mut verdict = None;
        self.change_if(cx, rules, &mut |table| {
            verdict = step(table);
            verdict.is_some()
        })?;
        Ok(verdict)
    }

    fn change_if(
        &mut self,
        cx: &mut Cx<'_>,
        rules: &Outlier,
        step: &mut dyn FnMut(&mut HostTable) -> bool,
    ) -> Result<(), NotUpdated> {
        let now = cx.now;
        self.take_over(cx, rules);
        let epoch = cx.store.epoch();
        let uncounted = core::mem::take(&mut self.uncounted);
        let mut is_seen = false;
        let updated = self.cell.update(cx.store, |old: Option<&HostTable>| {
            let mut table = old.cloned().unwrap_or_default();
            let changed = step(&mut table);
            is_seen = old.is_none_or(|old| !table.looks_like(old));
            uncounted.iter().for_each(|(counted, times)| table.events.count(*counted, *times));
            ((), changed.then_some(table))
        });
        if !updated.as_ref().is_ok_and(|updated| updated.written) {
            self.uncounted = uncounted;
        }
        let updated = updated?;
        if updated.written && is_seen {
            // What is only told or counted may wait for the next look.
            cx.store.raise_epoch();
        }
        // The signal from before the swap: whatever changed since then makes this view look old, never new.
        let table = updated.record.unwrap_or_default();
        self.take(rules, table, None, Seen { epoch, at: now }, now);
        Ok(())
    }

    /// Whether the host of an attempt that succeeded must be known. What this costs where it is not is one look at the signal of
    /// runs.
    pub fn wants_host(&mut self, store: &mut dyn Store, rules: &Outlier, now: Timestamp) -> bool {
        if rules.counts_all() || self.to_sample > 0 {
            return true;
        }
        let is_unsettled = self.view.as_ref().is_none_or(|view| view.is_unsettled);
        self.unsampled = self.unsampled.saturating_add(1);
        let is_its_turn = self.unsampled >= self.gap || now.apart(self.sampled) >= SAMPLE_AFTER;
        is_unsettled || is_its_turn || rules.counts_runs() && !self.open_runs.is_quiet(store.runs(), now)
    }

    /// Whether the host of a response whose headers have come is to be met: there are hosts to get to know, one is out, or it is
    /// the turn of one of many. Costs nothing.
    pub fn wants_to_meet(&self, now: Timestamp) -> bool {
        self.to_sample > 0
            || self.view.as_ref().is_none_or(|view| view.is_unsettled)
            || self.unsampled.saturating_add(1) >= self.gap
            || now.apart(self.sampled) >= SAMPLE_AFTER
    }

    /// Notes that a host has sent the headers of a response that goes on: it is there, whenever that ends. Whether it is out.
    pub fn meet(&mut self, cx: &mut Cx<'_>, rules: &Outlier, address: &[u8]) -> bool {
        self.refresh(cx, rules);
        self.note_sample(cx);
        let Some(id) = self.id_of(cx, rules, address) else { return false };
        self.slot.record_met(id, interval_number(cx.now, rules.interval));
        self.write_in_time(cx, rules);
        self.table().and_then(|table| table.host(id)).is_some_and(|host| !host.is_in())
    }

    /// Counts an attempt whose client left after `slow_after` among the host's times. It was sent then and took so long.
    pub fn abandon(&mut self, cx: &mut Cx<'_>, rules: &Outlier, address: &[u8], sent: Timestamp, took: Duration) {
        let now = cx.now;
        self.refresh(cx, rules);
        let Some(id) = self.id_of(cx, rules, address) else { return };
        let host = self.table().and_then(|table| table.host(id));
        if host.is_some_and(|host| host.serves(rules, now) && host.is_judged_by(rules, sent, now)) {
            let took = rules.counts_times().then_some(took);
            self.slot.record_abandoned(id, took, interval_number(now, rules.interval));
            self.write_in_time(cx, rules);
        }
    }

    /// Notes that an attempt is looked at, and draws when the next one is.
    fn note_sample(&mut self, cx: &mut Cx<'_>) {
        self.unsampled = 0;
        self.sampled = cx.now;
        self.gap = 1 + cx.worker.random.below(2 * u64::from(SAMPLE) - 1) as u32;
        self.to_sample = self.to_sample.saturating_sub(1);
    }

    /// Judges a host by one of its attempts. `probe` is the host that the attempt was the probe of, if it was one: had the
    /// cluster still had it, the attempt would have gone there.
    pub fn judge(&mut self, cx: &mut Cx<'_>, rules: &Outlier, one: HostAttempt<'_>, probe: Option<HostId>) {
        let now = cx.now;
        if probe.is_some() {
            // The signal of the seat that took the permit may not reach this one.
            self.invalidate();
        }
        self.refresh(cx, rules);
        self.note_sample(cx);
        let Some(id) = self.id_of(cx, rules, one.host) else {
            self.open_runs.follow(cx.store.runs(), now);
            self.become_quiet(cx.store, now);
            return;
        };
        if let Some(gone) = probe.filter(|probe| *probe != id) {
            self.forget(cx, rules, gone);
        }
        let has_permit = probe == Some(id);
        let host = self.table().and_then(|table| table.host(id));
        let by_heartbeat = host.is_some_and(|host| host.is_probed_by_heartbeat(rules));
        // One that trickles is judged by its failures as one that is in.
        let (serves, is_judged) =
            host.map_or((false, false), |host| (host.serves(rules, now), host.is_judged_by(rules, one.sent, now)));
        if serves && is_judged && one.verdict != Verdict::Ignored {
            self.count(cx, rules, id, one);
        }
        match one.verdict {
            _ if !is_judged => {}
            _ if !serves && by_heartbeat => {}
            Verdict::Ignored if !serves && has_permit => self.return_probe(cx, rules, id, one.sent),
            Verdict::Ignored => {}
            Verdict::Success | Verdict::Failure if !serves => {
                let (random, failed) = (cx.worker.random.next(), one.verdict == Verdict::Failure);
                let tried = ProbeResult { end: one.end, failed, took: one.took, has_permit };
                let judged = self.change(cx, rules, |table| {
                    table.judge_probe(rules, id, tried, one.sent, now, random).then_some(())
                });
                if !failed && matches!(judged, Ok(Some(()))) {
                    // What it failed before it went out is long ago.
                    self.end_run(cx.store, id);
                }
            }
            Verdict::Success if rules.counts_runs() => self.succeed(cx.store, id, now),
            Verdict::Success => {}
            Verdict::Failure if rules.counts_runs() => self.fail(cx, rules, id, one.end),
            Verdict::Failure => {}
        }
    }

    /// Gives the permit back of a probe that was sent then and says nothing about its host.
    pub fn return_probe(&mut self, cx: &mut Cx<'_>, rules: &Outlier, id: HostId, sent: Timestamp) {
        let _ = self.change(cx, rules, |table| table.return_probe(id, sent).then_some(()));
    }

    /// The host of this address, entered into the table if it is new and an address that a request can be steered to.
    fn id_of(&mut self, cx: &mut Cx<'_>, rules: &Outlier, address: &[u8]) -> Option<HostId> {
        let now = cx.now;
        if let Some(id) = self.view.as_ref().and_then(|view| view.by_address.get(address)) {
            return Some(*id);
        }
        if self.table().is_some_and(|table| table.is_full(now)) {
            return None;
        }
        let is_address = core::str::from_utf8(address).is_ok_and(|text| text.parse::<core::net::SocketAddr>().is_ok());
        if !is_address {
            if !address.is_empty() && self.table().is_none_or(|table| !table.has_unaddressed(now)) {
                let _ = self.change(cx, rules, |table| table.say_unaddressed(address, now).then_some(()));
            }
            return None;
        }
        self.change(cx, rules, |table| {
            let before = (table.known(), table.full);
            let id = table.enter(address, false, now);
            (before != (table.known(), table.full)).then_some(id)
        })
        .ok()?;
        self.view.as_ref().and_then(|view| view.by_address.get(address)).copied()
    }

    /// Counts an attempt in this worker's slot.
    fn count(&mut self, cx: &mut Cx<'_>, rules: &Outlier, id: HostId, one: HostAttempt<'_>) {
        let now = cx.now;
        let failed = one.verdict == Verdict::Failure;
        let took = rules.counts_times().then_some(one.took);
        self.slot.record(id, failed, took, interval_number(now, rules.interval));
        self.write_in_time(cx, rules);
    }

    /// Writes what was counted if it is time.
    fn write_in_time(&mut self, cx: &mut Cx<'_>, rules: &Outlier) {
        let now = cx.now;
        self.is_unwritten = true;
        self.flush_after = self.flush_after(rules);
        if now.apart(self.written) >= self.flush_after {
            self.write(cx);
        }
    }

    /// How late what was counted may reach the others: soon for the rates, while the time grows with the number of hosts, for so
    /// do the bytes; else it only shows who is there. In any case well within an interval.
    fn flush_after(&self, rules: &Outlier) -> Duration {
        let hosts = self.table().map_or(0, HostTable::indexes) as u32;
        let soon = (FLUSH_AFTER * hosts.max(FEW_HOSTS)).checked_div(FEW_HOSTS).unwrap_or(FLUSH_AFTER);
        let late = if rules.counts_all() { soon } else { Duration::from_secs(1) };
        late.min(rules.interval / 4)
    }

    /// Writes what was counted, if the store lacks it, and tells the table what was found in vain and not told yet.
    pub fn flush(&mut self, cx: &mut Cx<'_>, rules: &Outlier) {
        let now = cx.now;
        self.write(cx);
        if !self.uncounted.is_empty() && !self.was_in_vain(now) {
            let _ = self.change(cx, rules, |_| Some(()));
        }
    }

    fn write(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now;
        if !self.is_unwritten {
            return;
        }
        let Some(index) = cx.worker.slot(cx.store, now) else { return };
        let key = self.paths.slot(cx.worker.is_of_attempts(), index.number);
        cx.store.set(&key, &self.slot.encode(self.mark));
        self.is_unwritten = false;
        self.written = now;
    }

    /// When what was counted should be written at the latest.
    pub fn flush_due(&self) -> Option<Timestamp> {
        let counts = self.is_unwritten.then(|| self.written.plus(self.flush_after));
        let found = (!self.uncounted.is_empty()).then(|| self.in_vain.plus(IN_VAIN_EVERY));
        [counts, found].into_iter().flatten().min()
    }

    /// A success ends the host's run of failures, if there is one.
    fn succeed(&mut self, store: &mut dyn Store, id: HostId, now: Timestamp) {
        let signal = store.runs();
        if self.open_runs.is_quiet(signal, now) {
            return;
        }
        self.open_runs.follow(signal, now);
        if !self.open_runs.is_empty(id.index) {
            if self.end_run(store, id) {
                return;
            }
            self.open_runs.found(id.index, true);
        }
        self.become_quiet(store, now);
    }

    /// Looks at the runs of some hosts that were not looked at since the signal changed: they may not succeed for a long time,
    /// and until all are known each success has to know its host.
    fn become_quiet(&mut self, store: &mut dyn Store, now: Timestamp) {
        let Some(view) = &self.view else { return };
        for _ in 0..LOOKED_AT {
            let Some(index) = self.open_runs.next(&view.table, now) else { return };
            let stored = store.get(&self.paths.run(index));
            let run = stored.and_then(|(bytes, _)| HostRun::decode(&bytes, self.mark));
            self.open_runs
                .found(index, view.table.id_at(index).is_none_or(|id| HostRun::of(id, run.as_ref()).is_empty()));
        }
    }

    /// Ends a run. Whether there was one.
    fn end_run(&mut self, store: &mut dyn Store, id: HostId) -> bool {
        let ended = update(store, &self.paths.run(id.index), self.mark, |old: Option<&HostRun>| {
            let is_there = !HostRun::of(id, old).is_empty();
            (is_there, is_there.then_some(HostRun { id: id.id, ..HostRun::default() }))
        });
        let ended = ended.is_ok_and(|done| done.verdict);
        if ended {
            store.raise_runs();
        }
        ended
    }

    /// A failure adds to the host's runs, and takes it out when one of them reaches its limit.
    fn fail(&mut self, cx: &mut Cx<'_>, rules: &Outlier, id: HostId, end: End) {
        let now = cx.now;
        let reached = update(cx.store, &self.paths.run(id.index), self.mark, |old: Option<&HostRun>| {
            let mut run = HostRun::of(id, old);
            run.fail(end);
            let reached = reached(rules, &mut run);
            (reached, Some(run))
        });
        cx.store.raise_runs();
        let Ok(reached) = reached else { return };
        for (detector, length) in reached.verdict.into_iter().flatten() {
            let (cause, random) = (EjectionCause::Run { detector, length, last: end }, cx.worker.random.next());
            let as_expected = self.table().and_then(|table| table.expects(rules, id, detector));
            if let Some(in_vain) = as_expected.filter(|_| self.was_in_vain(now)) {
                // In an outage this comes at every few failures of every host. The table hears of it a little later.
                self.count_later(&[HostCount::Detected(detector), in_vain]);
                continue;
            }
            if as_expected.is_some() {
                self.in_vain = now;
            }
            let _ = self.change(cx, rules, |table| {
                let ejection = table.eject(rules, id, cause, now, random);
                (ejection != Ejection::Nothing).then_some(())
            });
        }
    }

    fn was_in_vain(&self, now: Timestamp) -> bool {
        now.apart(self.in_vain) < IN_VAIN_EVERY
    }

    fn count_later(&mut self, found: &[HostCount]) {
        for counted in found {
            match self.uncounted.iter_mut().find(|(known, _)| known == counted) {
                Some((_, times)) => *times = times.saturating_add(1),
                None => self.uncounted.push((*counted, 1)),
            }
        }
    }

    /// Decides where a request goes; `None`: wherever the cluster's own balancing sends it. `attempts` is how many it may have, each of
    /// which is named a host, one of them again where there are fewer: Envoy's own choice beyond them may be one that is out.
    /// `waits` that others may be better probes, because they can be tried again elsewhere.
    pub fn steer(
        &mut self,
        cx: &mut Cx<'_>,
        rules: &Outlier,
        attempts: usize,
        waits: bool,
        asks: &Asks<'_>,
    ) -> Option<Steering> {
        let now = cx.now;
        let view = self.view.as_ref().filter(|view| view.named != Named::None)?;
        let selector = match view.has_subsets {
            false => None,
            // What leads where is seen only of requests that are not steered.
            true if view.named != Named::PastOthers => return None,
            true => match (asks.selector)() {
                Some(selector) => Some(selector),
                None => {
                    if self.table().is_some_and(|table| table.wants_to_say_unnamed(now)) {
                        let _ = self.change(cx, rules, |table| table.say_unnamed(now).then_some(()));
                    }
                    return None;
                }
            },
        };
        let probe = self.take_probe(cx, rules, waits, selector);
        let trickle = if probe.is_none() { self.draw_trickle(cx, rules, selector) } else { None };
        let view = self.view.as_ref().filter(|view| view.named != Named::None)?;
        // Whoever lists the hosts says who there is, but not what their labels are.
        let is_told =
            (rules.discover.is_some() || !rules.hosts.is_empty()) && !(view.has_subsets && view.table.lacks_labels());
        let longer = if waits { PATIENCE } else { Duration::ZERO };
        if probe.is_none() && trickle.is_none() && !is_told && view.table.wants_discovery_request(longer, now) {
            let wants_discovery_request =
                self.change(cx, rules, |table| table.send_discovery_request(longer, now).then_some(()));
            // The table may also be another by now, of which nobody is left out.
            if matches!(wants_discovery_request, Ok(Some(())))
                || self.view.as_ref().is_none_or(|view| view.named == Named::None)
            {
                return None;
            }
        }
        let Hosts { view, rotations, subsets, loads, .. } = self;
        let View { table, named, out, of, .. } = view.as_ref()?;
        if rotations.len() >= MOST_ROTATIONS && !rotations.contains_key(&selector.unwrap_or(0)) {
            rotations.clear();
        }
        let random = &mut cx.worker.random;
        let rotation = rotations.entry(selector.unwrap_or(0)).or_insert_with(|| {
            let may = |host: &Host| may_get(subsets, selector, host);
            Rotation::new(table, rules, &may, *named == Named::All, random)
        });
        let (wanted, hash) = (attempts.max(LEAST_NAMED), (asks.hash)());
        let mut hosts = rotation.next(&Asked { table, rules, wanted, hash, loads, now }, random);
        if let Some(sent_to) = probe.or(trickle) {
            hosts.insert(0, sent_to);
        }
        // None of those may be in that this request may come to: the cluster's own choice is among them.
        let first = *hosts.first()?;
        let counts = matches!(rules.acting_balance(), Balance::LeastRequest | Balance::LeastLatency);
        Some(Steering {
            hosts: steering::header(table, &hosts),
            first,
            in_flight: if counts { loads.send(first) } else { None },
            probe: probe.map(|probe| (probe, steering::header(table, &[probe]))),
            out: u16::try_from(out.len()).unwrap_or(u16::MAX),
            of: *of,
        })
    }

    /// Takes in that the host that was named first to a request has answered it after so long, or has failed.
    pub fn observe(&mut self, host: HostId, took: Duration, failed: bool, now: Timestamp) {
        if failed {
            self.loads.fail(host, took, now);
        } else {
            self.loads.observe(host, took, now);
        }
    }

    /// A host that trickles, if this request is one of those that go there.
    fn draw_trickle(&self, cx: &mut Cx<'_>, rules: &Outlier, selector: Option<u64>) -> Option<HostId> {
        let now = cx.now;
        let view = self.view.as_ref().filter(|view| view.named == Named::PastOthers && !view.trickles.is_empty())?;
        let mut drawn = fraction(cx.worker.random.next());
        let of_request = view.trickles.iter().find(|one| {
            drawn -= one.share;
            drawn < 0.0
        })?;
        let host = view.table.host(of_request.host)?;
        (host.serves(rules, now) && may_get(&self.subsets, selector, host)).then_some(of_request.host)
    }

    /// Takes a permit for the probe of a host whose time is over.
    fn take_probe(&mut self, cx: &mut Cx<'_>, rules: &Outlier, waits: bool, selector: Option<u64>) -> Option<HostId> {
        let now = cx.now;
        let view = self.view.as_ref().filter(|view| view.named == Named::PastOthers)?;
        let is_ready = |host: &Host| {
            let has_waited = host.due_since().is_none_or(|due| due.plus(PATIENCE).remaining(now, PATIENCE).is_none());
            !host.is_probed_by_heartbeat(rules)
                && host.wants_probe(rules, now)
                && (!waits || has_waited)
                && may_get(&self.subsets, selector, host)
        };
        let id = view.out.iter().copied().find(|id| view.table.host(*id).is_some_and(is_ready))?;
        let taken = self
            .change(cx, rules, |table| (table.steers(rules, now) && table.take_probe(rules, id, now)).then_some(()));
        matches!(taken, Ok(Some(()))).then_some(id)
    }

    /// Takes note of the label of an attempt's host, if it is not known yet or the cluster may have subsets. `label` reads it.
    pub fn note_label(&mut self, cx: &mut Cx<'_>, rules: &Outlier, address: &[u8], label: &dyn Fn() -> u32) {
        let Some(view) = &self.view else { return };
        let Some(id) = view.by_address.get(address).copied() else { return };
        let known = view.table.host(id).map_or(0, |host| host.label);
        if known == 0 || view.has_subsets || cx.now.apart(self.labelled) >= LABEL_EVERY {
            self.labelled = cx.now;
            let label = label();
            if label != known {
                let _ = self.change(cx, rules, |table| table.set_label(id, label).then_some(()));
            }
        }
    }

    /// Takes note of whether a request went to one of the hosts that were named to it. Now and then one does not: they may all have
    /// left. Where nobody follows many come to one of them all the same.
    pub fn check_steering(&mut self, cx: &mut Cx<'_>, rules: &Outlier, is_followed: bool) {
        self.refresh(cx, rules);
        let is_known = self.table().is_some_and(HostTable::is_unfollowed);
        (self.followed, self.unfollowed) = match is_followed {
            true => (self.followed.saturating_add(1), self.unfollowed.saturating_sub(1)),
            false => (0, self.unfollowed.saturating_add(ONE_UNFOLLOWED)),
        };
        let is_news = if is_known { self.followed >= FOLLOWED } else { self.unfollowed >= UNFOLLOWED };
        if is_news {
            (self.followed, self.unfollowed) = (0, 0);
            let now = cx.now;
            let _ = self.change(cx, rules, |table| table.set_followed(is_known, now).then_some(()));
        }
    }

    /// Whether the cluster may have subsets, as far as this worker knows.
    #[must_use]
    pub fn has_subsets(&self) -> bool {
        self.view.as_ref().is_some_and(|view| view.has_subsets)
    }

    /// Takes note of where a request went that nobody steered: of its selector, and of the label of its host, which `label` reads.
    pub fn note_subset(&mut self, worker: &mut Worker, selector: u64, label: &dyn Fn() -> Option<u32>) {
        if self.subsets.wants(selector, &mut worker.random)
            && let Some(label) = label()
        {
            self.subsets.saw(selector, label);
            self.rotations.remove(&selector);
        }
    }

    /// Whether there is something that was not told yet.
    pub fn has_events(&self) -> bool {
        self.table().is_some_and(|table| !table.events.is_empty())
    }

    /// Takes what has not been told yet out of the table: it is this worker's to tell.
    pub fn take_events(&mut self, cx: &mut Cx<'_>, rules: &Outlier) -> Option<HostEvents> {
        if !self.has_events() {
            return None;
        }
        let taken = self.change(cx, rules, |table| {
            let events = core::mem::take(&mut table.events);
            (!events.is_empty()).then_some(events)
        });
        taken.ok().flatten()
    }

    /// Enters the hosts that the policy names and the cluster's name, where the table lacks them.
    pub fn register(&mut self, cx: &mut Cx<'_>, rules: &Outlier, cluster: &[u8]) {
        if self.view.as_ref().is_some_and(|view| !view.is_registered) {
            self.register_now(cx, rules, cluster);
        }
    }

    fn register_now(&mut self, cx: &mut Cx<'_>, rules: &Outlier, cluster: &[u8]) {
        let now = cx.now;
        let Some(view) = &mut self.view else { return };
        view.is_registered = true;
        let names_cluster = view.table.cluster != cluster && !cluster.is_empty();
        if !names_cluster && rules.hosts.iter().all(|host| view.by_address.contains_key(host.address.as_bytes())) {
            return;
        }
        let _ = self.change(cx, rules, |table| {
            let renames = table.cluster != cluster && !cluster.is_empty();
            if renames {
                table.cluster = cluster.to_owned();
            }
            (table.enter_named(rules, now) || renames).then_some(())
        });
        if let Some(view) = &mut self.view {
            view.is_registered = true;
        }
    }

    /// Looks at the last interval, if nobody has. To be called at every tick of a request seat.
    pub fn sweep(&mut self, cx: &mut Cx<'_>, rules: &Outlier) {
        let now = cx.now;
        let lag = SWEEP_LAG.min(rules.interval / 10).max(self.flush_after(rules));
        let number = |time: Timestamp| interval_number(time, rules.interval);
        let current = number(Timestamp(now.0.saturating_sub(nanos(lag))));
        // A worker whose look at the clock is a moment old comes too late; one further behind shows that the clock was put back.
        let is_swept = |table: &HostTable| (current..=number(now.plus(SKEW))).contains(&table.swept);
        if self.table().is_none_or(|table| is_swept(table) || table.known() == 0) {
            return;
        }
        // One worker's swap makes the interval its own; only it reads the slots.
        let claimed = self.change(cx, rules, |table| (!is_swept(table)).then(|| table.swept = current));
        if !matches!(claimed, Ok(Some(()))) {
            return;
        }
        let swept = current.saturating_sub(1);
        let began = Timestamp(swept.saturating_mul(nanos(rules.interval)));
        let tallies = self.gather(cx.store, swept);
        let random = cx.worker.random.next();
        let _ = self.change(cx, rules, |table| {
            let before = table.clone();
            sweep::sweep(table, rules, &tallies, began, now, random);
            (*table != before).then_some(())
        });
    }

    /// Adds up what all workers have counted in an interval.
    fn gather(&self, store: &mut dyn Store, interval: u64) -> Tallies {
        let mut tallies = Tallies::new();
        for (of_attempts, table) in [(false, workers::KEY), (true, workers::ATTEMPTS_KEY)] {
            for index in 0..slots(store, table) {
                let stored = store.get(&self.paths.slot(of_attempts, index));
                let slot = stored.and_then(|(bytes, _)| HostSlot::decode(&bytes, self.mark));
                for (id, tally) in slot.iter().flat_map(|slot| slot.tallies(interval)) {
                    tallies.entry(id).or_default().add(tally);
                }
            }
        }
        tallies
    }

    /// Takes a host out that our own checks find bad.
    pub fn find_unhealthy(&mut self, cx: &mut Cx<'_>, rules: &Outlier, id: HostId, cause: EjectionCause) {
        let now = cx.now;
        let Some(host) = self.table().and_then(|table| table.host(id)) else { return };
        if !host.serves(rules, now) {
            // It is not forgotten as long as our own checks reach for it.
            if now.since(host.seen) >= sweep::FORGET_AFTER {
                let _ = self.change(cx, rules, |table| {
                    table.see(id, now);
                    Some(())
                });
            }
            return;
        }
        let random = cx.worker.random.next();
        let _ = self
            .change(cx, rules, |table| (table.eject(rules, id, cause, now, random) != Ejection::Nothing).then_some(()));
    }

    /// Lets a host back that our own checks find good.
    pub fn find_healthy(&mut self, cx: &mut Cx<'_>, rules: &Outlier, id: HostId) {
        let now = cx.now;
        if self.table().and_then(|table| table.host(id)).is_none_or(Host::is_in) {
            return;
        }
        let back = self.change(cx, rules, |table| table.readmit_healthy(rules, id, now).then_some(()));
        if matches!(back, Ok(Some(()))) {
            self.end_run(cx.store, id);
        }
    }

    /// The address of a host.
    pub fn address(&self, id: HostId) -> Option<&[u8]> {
        self.table()?.host(id).map(|host| host.address.as_slice())
    }

    /// Forgets a host that the cluster does not have any more, unless the policy names it.
    pub fn forget(&mut self, cx: &mut Cx<'_>, rules: &Outlier, id: HostId) {
        let _ = self.change(cx, rules, |table| {
            let host = table.host(id)?;
            let is_configured = rules.names(&host.address);
            (!is_configured).then(|| table.forget(id))
        });
    }

    /// Whether the host with this address is out.
    #[must_use]
    pub fn is_out(&self, address: &[u8]) -> bool {
        let Some(View { table, by_address, .. }) = &self.view else { return false };
        by_address.get(address).and_then(|id| table.host(*id)).is_some_and(|host| !host.is_in())
    }

    /// Takes over a listing of all hosts of the cluster. Behind each of these addresses there is another host than before.
    pub fn list(&mut self, cx: &mut Cx<'_>, rules: &Outlier, listing: &HostListing, replaced: &[String]) {
        let now = cx.now;
        let _ = self.change(cx, rules, |table| {
            let gone = replaced.iter().filter_map(|address| table.find(address.as_bytes()));
            gone.collect::<Vec<_>>().into_iter().for_each(|id| table.forget(id));
            table.list(listing, &|address| rules.names(address), now);
            Some(())
        });
    }
}

/// Which hosts are named to requests now.
fn named(table: &HostTable, rules: &Outlier, is_unsettled: bool, now: Timestamp) -> Named {
    if is_unsettled && table.steers(rules, now) {
        return Named::PastOthers;
    }
    // Of a cluster with more hosts than the table holds the others would get nothing.
    match rules.balances() && table.known() > 0 && !table.is_full(now) {
        false => Named::None,
        true if table.out() == 0 => Named::In,
        true => Named::All,
    }
}

/// Whether a request of this selector may get to a host, as far as is known; without one, to any.
fn may_get(subsets: &SubsetsSeen, selector: Option<u64>, host: &Host) -> bool {
    selector.is_none_or(|selector| subsets.leads_to(selector, host.label))
}

/// The detectors whose limit a run has reached, with its length. Such a run begins anew: one that was not acted on is told
/// again when it is reached again.
fn reached(rules: &Outlier, run: &mut HostRun) -> [Option<(Detector, u16)>; 3] {
    let one = |rule: Option<holdfast_policy::document::Consecutive>, detector: Detector, length: &mut u16| {
        let rule = rule.filter(|rule| rule.mode != Mode::Off && *length >= rule.limit.get())?;
        let reached = (*length).max(rule.limit.get());
        *length = 0;
        Some((detector, reached))
    };
    [
        one(rules.consecutive_failures, Detector::ConsecutiveFailures, &mut run.failures),
        one(rules.consecutive_gateway_failures, Detector::ConsecutiveGatewayFailures, &mut run.gateway),
        one(rules.consecutive_local_failures, Detector::ConsecutiveLocalFailures, &mut run.local),
    ]
}

#[cfg(test)]
mod tests;
