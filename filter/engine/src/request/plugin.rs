//! The plugin of the request seat: its policies, and what is to be done for them now and then.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use holdfast_policy::config;
use holdfast_policy::document::{Document, Policy};

use super::active::ActivePolicy;
use super::blocks::Pools;
use super::calling::{DueCall, DueCalls};
use super::calls::Call;
use super::effect::RequestEffect;
use super::held::{HeldAnswer, HeldAnswers};
use super::policy::RequestPolicy;
use super::running::{RunningProbe, RunningProbes};
use crate::base::pauses::{Pauses, SIGN_EVERY, Waiting};
use crate::base::time::{Timestamp, millis_up};
use crate::cx::Cx;
use crate::event::Event;
use crate::fallback::{Placed, Replacement, ReplacementEffect};
use crate::host::{Host, RootHost};
use crate::http::index::Index;
use crate::http::request::Field;
use crate::outlier::calls::CallResponse;
use crate::store::Store;
use crate::store::block::{BlockKind, ByKind};
use crate::store::keys::Key;
use crate::store::own_slot::SLOTS_WAIT;
use crate::store::registry::{self, Configured, Identity, Registry};
use crate::store::worker::Worker;

/// The most often that claims and counts are renewed, and that the host is asked for a tick.
const LEAST_TICK: Duration = Duration::from_millis(10);

/// How long the host may wait to be told what was counted.
const COUNTS_WAIT: Duration = Duration::from_millis(100);

/// The most contents of policies of which a VM remembers when they were configured; more than that have been replaced by updates long
/// ago.
const MOST_CONFIGURED: usize = 2000;

/// How often the leases of policies are looked at while nothing has changed.
const LOOK_EVERY: Duration = Duration::from_secs(4);

/// What a VM knows of a content that was configured.
#[derive(Debug, Clone, Copy, Default)]
struct ConfiguredPolicy {
    /// The number of the last configuration with it.
    number: u64,
    /// Since when it was the newest of its name when it was entered last.
    since: Option<Timestamp>,
}

/// What all plugins of the request seat in one VM share.
///
/// Two listeners, or the old and the new configuration during an update, are two plugins in one VM. Equal policies in them are one and
/// share their counts, and different ones share what they agree on, so that a slot in the store keeps its one writer.
pub struct RequestVm {
    /// This VM as one of the workers.
    pub worker: RefCell<Worker>,
    in_use: RefCell<Vec<Weak<ActivePolicy>>>,
    pools: RefCell<Pools>,
    /// What is known of contents that were configured, by content.
    configured: RefCell<HashMap<u64, ConfiguredPolicy>>,
    /// How many configurations there were.
    configurations: Cell<u64>,
    /// The change signal when the leases were looked at, and when that was.
    looked: Cell<Option<(Option<u64>, Timestamp)>>,
}

impl RequestVm {
    /// A VM without policies. `seed` should differ between VMs.
    pub fn new(seed: u64) -> Self {
        RequestVm {
            worker: RefCell::new(Worker::new(seed)),
            in_use: RefCell::default(),
            pools: RefCell::default(),
            configured: RefCell::default(),
            configurations: Cell::new(0),
            looked: Cell::new(None),
        }
    }

    /// The policy at work: the one already in use if it is equal, else a new one. `text` is a document with just this policy.
    fn activate(&self, host: &Rc<dyn RootHost>, policy: Policy, text: &str) -> Rc<ActivePolicy> {
        let activate =
            |policy: Policy| Rc::new(ActivePolicy::new(Rc::clone(host), RequestPolicy::new(policy.into()), text));
        let Ok(mut in_use) = self.in_use.try_borrow_mut() else { return activate(policy) };
        in_use.retain(|weak| weak.strong_count() > 0);
        let known = in_use.iter().filter_map(Weak::upgrade).find(|known| known.is(&policy));
        known.unwrap_or_else(|| {
            let active = activate(policy);
            in_use.push(Rc::downgrade(&active));
            active
        })
    }

    /// Notes that policies are configured now, to be entered when they are used. Gives their number in the order of configurations.
    fn note(&self, policies: &[Rc<ActivePolicy>]) -> u64 {
        let number = self.configurations.get().saturating_add(1);
        self.configurations.set(number);
        let Ok(mut configured) = self.configured.try_borrow_mut() else { return number };
        if configured.len() >= MOST_CONFIGURED {
            configured.clear();
        }
        for active in policies {
            configured.entry(active.identity().content).or_default().number = number;
        }
        number
    }

    /// Enters the policies of the configuration that has this number.
    fn configure(&self, store: &mut dyn Store, policies: &[Rc<ActivePolicy>], number: u64, now: Timestamp) {
        store.refresh();
        let Ok(mut configured) = self.configured.try_borrow_mut() else { return };
        let later = |(content, known): (&u64, &ConfiguredPolicy)| (known.number > number).then_some(*content);
        let later: Vec<u64> = configured.iter().filter_map(later).collect();
        let mut used: HashMap<(BlockKind, u64), Timestamp> = HashMap::new();
        for active in self.in_use() {
            let Some(at) = active.state.try_borrow().ok().and_then(|state| state.used()) else { continue };
            for kind in BlockKind::ALL {
                if let Some(block) = active.identity().blocks.get(kind) {
                    let last = used.entry((kind, *block)).or_insert(at);
                    *last = at.max(*last);
                }
            }
        }
        let used_with = |identity: &Identity, kind| used.get(&(kind, (*identity.blocks.get(kind))?)).copied();
        let contents = policies.iter().map(|active| Configured {
            identity: *active.identity(),
            before: configured.get(&active.identity().content).and_then(|known| known.since),
            used: ByKind::new(|kind| used_with(active.identity(), kind)),
        });
        let registry = registry::configure(store, &contents.collect::<Vec<_>>(), &later, now);
        policies.iter().for_each(|active| active.is_entered.set(true));
        self.stand(store, registry.as_ref(), now);
        for active in policies {
            if let Some(standing) = registry.as_ref().and_then(|registry| registry.standing(active.identity(), now)) {
                configured.entry(active.identity().content).or_default().since = Some(standing.since);
            }
        }
    }

    /// Renews what the policies in use are entered with, and looks where they stand. To be called about once a second.
    fn renew(&self, store: &mut dyn Store, now: Timestamp) {
        let epoch = store.epoch();
        let is_fresh = |(seen, at): (Option<u64>, Timestamp)| seen == epoch && now.apart(at) < LOOK_EVERY;
        if epoch.is_some() && self.looked.get().is_some_and(is_fresh) {
            return;
        }
        let since = |active: Rc<ActivePolicy>| {
            let state = active.state.try_borrow().ok()?;
            // One that has no place gets one where there is room again.
            let since = state.standing().map_or(Timestamp::ZERO, |standing| standing.since);
            Some((*active.identity(), since))
        };
        let entered: Vec<_> =
            self.in_use().into_iter().filter(|active| active.is_entered.get()).filter_map(since).collect();
        if !entered.is_empty() {
            let registry = registry::renew(store, &entered, now);
            self.stand(store, registry.as_ref(), now);
        }
        self.looked.set(Some((epoch, now)));
    }

    /// Has the policies in use take over where they stand. Where the registry could not be changed all stays as it is.
    fn stand(&self, store: &mut dyn Store, registry: Option<&Registry>, now: Timestamp) {
        let (Some(registry), Ok(mut pools)) = (registry, self.pools.try_borrow_mut()) else { return };
        for active in self.in_use() {
            // One that could not be entered stays where it was: what has lost its place shows there.
            if let Some(standing) = registry.standing(active.identity(), now) {
                active.stand(store, &mut pools, standing);
            }
        }
    }

    fn in_use(&self) -> Vec<Rc<ActivePolicy>> {
        self.in_use.try_borrow().map_or_else(|_| Vec::new(), |all| all.iter().filter_map(Weak::upgrade).collect())
    }
}

/// The configured plugin.
pub struct RequestPlugin {
    host: Rc<dyn RootHost>,
    /// The VM that it is in.
    pub vm: Rc<RequestVm>,
    /// In the document's order.
    pub policies: Vec<Rc<ActivePolicy>>,
    /// Finds the one that governs a request.
    pub index: Index,
    /// How often the host was asked for a tick; zero before it was.
    tick: Cell<Duration>,
    /// How often there is something to write or to tell.
    work_every: Cell<Duration>,
    /// When that is to be done next, where ticks come more often.
    work_due: Cell<Timestamp>,
    /// The answers that are held back.
    held: HeldAnswers,
    /// The calls of fallbacks that are to be made.
    due_calls: DueCalls,
    /// Probes whose responses last.
    running: RunningProbes,
    /// When this worker did not run.
    pub(super) pauses: Pauses,
    /// The calls that wait to be answered, by their names.
    calling: RefCell<HashMap<u32, Waiting>>,
    /// How often claims and counts are renewed, and hosts looked after.
    renewal_every: Duration,
    /// When that is to be done next.
    renewal_due: Cell<Timestamp>,
    /// Whether the policies were entered.
    is_entered: Cell<bool>,
    /// Counts the configurations of this VM.
    number: u64,
}

/// A configuration that was read.
pub struct Configuration {
    document: Document,
    /// Each policy as the text of a document of its own.
    texts: Vec<String>,
}

impl Configuration {
    /// Reads the plugin's configuration, a policy document.
    ///
    /// # Errors
    /// What is wrong with it, line by line.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let document = config::parse(bytes).map_err(|errors| errors.to_string())?;
        Ok(Configuration { document, texts: config::policy_texts(bytes) })
    }
}

impl RequestPlugin {
    /// Begins with this configuration. Its policies are entered when it has its first request or tick: Envoy may still refuse what it
    /// is a part of.
    pub fn new(host: &Rc<dyn RootHost>, vm: Rc<RequestVm>, Configuration { document, texts }: Configuration) -> Self {
        let index = Index::new(&document);
        let texts = texts.iter().map(String::as_str).chain(core::iter::repeat(""));
        let policies: Vec<_> =
            document.policies.into_iter().zip(texts).map(|(policy, text)| vm.activate(host, policy, text)).collect();
        let number = vm.note(&policies);
        let every = policies.iter().filter_map(|active| Some(active.state.try_borrow().ok()?.tick_every())).min();
        RequestPlugin {
            host: Rc::clone(host),
            renewal_every: every.unwrap_or(Duration::from_secs(1)).max(LEAST_TICK),
            policies,
            index,
            vm,
            tick: Cell::new(Duration::ZERO),
            work_every: Cell::new(Duration::MAX),
            work_due: Cell::new(Timestamp::ZERO),
            held: HeldAnswers::default(),
            due_calls: DueCalls::default(),
            running: RunningProbes::default(),
            pauses: Pauses::default(),
            calling: RefCell::default(),
            renewal_due: Cell::new(Timestamp::ZERO),
            is_entered: Cell::new(false),
            number,
        }
    }

    /// Enters the policies, if they were not yet: at the first request or tick.
    #[inline]
    pub fn enter(&self, store: &mut dyn Store) {
        if !self.is_entered.get() && !self.policies.is_empty() {
            self.is_entered.set(true);
            self.vm.configure(store, &self.policies, self.number, self.host.now());
        }
    }

    /// Ends: the policies that nothing else in the VM uses leave no gauge behind that nobody speaks with any more.
    pub fn end(&self, store: &mut dyn Store) {
        store.refresh();
        let registry = registry::read(store);
        self.vm.stand(store, registry.as_ref(), self.host.now());
    }

    /// Makes this VM's random numbers differ from those of VMs that began in the same moment: each has moved the change signal, so each
    /// sees another value.
    pub fn reseed(&self, store: &mut dyn Store) {
        store.refresh();
        if let (Ok(mut worker), Some(epoch)) = (self.vm.worker.try_borrow_mut(), store.epoch()) {
            worker.reseed(epoch);
        }
    }

    /// Asks for the first ticks.
    pub fn start(&self) {
        self.work_within(self.renewal_every, self.host.now());
    }

    /// The policy that governs a request; `value` gives a field of it, if it has it.
    pub(super) fn governing<'v>(
        &self,
        value: impl FnMut(Field<'_>) -> Option<Cow<'v, [u8]>>,
    ) -> Option<&Rc<ActivePolicy>> {
        self.policies.get(self.index.find(value)?)
    }

    /// Publishes events of one key, and sees to it that what waits is told and written in time.
    pub fn publish(&self, active: &ActivePolicy, state: &RequestPolicy, key: Key, events: Vec<Event>) {
        active.publish(state, key, events);
        if state.has_unwritten() {
            self.tick_within(SLOTS_WAIT);
        } else if active.metrics.has_counted() {
            self.tick_within(COUNTS_WAIT);
        }
    }

    /// Asks for ticks at least so often.
    fn tick_within(&self, within: Duration) {
        if self.work_every.get() > within {
            self.work_every.set(within);
            self.work_due.set(self.host.recently().plus(within));
            if self.tick.get() > within {
                self.tick_every(within);
            }
        }
    }

    /// Has what is to be written or told done so often from now on.
    fn work_within(&self, every: Duration, now: Timestamp) {
        self.work_every.set(every);
        self.work_due.set(now.plus(every));
        self.arm(now);
    }

    /// Asks for ticks such that the next comes when there is work, or an answer to look at.
    fn arm(&self, now: Timestamp) {
        let every = self.work_every.get();
        let work = whole_millis(self.work_due.get().left(now, every).unwrap_or_default());
        let due_calls = self.due_calls.are_any().then_some(Duration::ZERO);
        let looks = [self.held.due_within(now), self.running.due_within(now), due_calls].into_iter().flatten().min();
        let sign = if self.pauses.are_signs_expected() { SIGN_EVERY } else { every };
        let period = looks.map_or(work, |look| whole_millis(look).min(work)).min(every).min(sign);
        if self.tick.get() != period {
            self.tick_every(period);
        }
    }

    fn tick_every(&self, period: Duration) {
        self.host.tick_every(period);
        self.tick.set(period);
    }

    /// Whether there is work to be done now, at a tick. Ticks that come for something else leave it for its time.
    fn is_work_due(&self, now: Timestamp) -> bool {
        let are_others =
            self.holds() || self.due_calls.are_any() || self.running.are_any() || self.pauses.are_signs_expected();
        !are_others || self.work_due.get().left(now, self.work_every.get()).is_none()
    }

    /// Has an answer looked at until it is complete: when what the host has received now is dealt with, and by ticks if it is not
    /// complete then.
    fn hold(&self, stream: u32, replacement: &Rc<Replacement>, now: Timestamp) {
        let wakes = self.host.wake_soon();
        self.held.add(stream, replacement, wakes, now);
        self.arm(now);
    }

    /// Has an answer replaced as a fallback was placed. Gives what replaces it from now on, if anything does.
    pub(super) fn replace(
        &self,
        placed: Placed,
        stream: u32,
        now: Timestamp,
    ) -> (Option<Rc<Replacement>>, RequestEffect) {
        match placed {
            Placed::Whole => (None, RequestEffect::Continue),
            Placed::Passing(replacement) => (Some(replacement), RequestEffect::Continue),
            Placed::Held(replacement) => {
                self.hold(stream, &replacement, now);
                (Some(replacement), RequestEffect::Hold)
            }
            Placed::Reply(local) => (None, RequestEffect::Reply(local)),
        }
    }

    /// Has a call made, which one of the plugin's own contexts does as soon as it is called.
    pub(super) fn call_soon(&self, call: DueCall, now: Timestamp) {
        self.due_calls.add(call);
        if !self.host.wake_soon() {
            self.arm(now);
        }
    }

    /// Takes a call that is to be made now; `None` if there is none.
    pub fn take_call(&self) -> Option<DueCall> {
        self.due_calls.take()
    }

    /// A request begins to wait for its answer. `now` is the time, where it was just asked for.
    pub(super) fn wait_for_answer(&self, now: Option<Timestamp>) -> Waiting {
        let is_first = !self.pauses.are_signs_expected();
        let waiting = self.pauses.wait(|| now.unwrap_or_else(|| self.host.now()));
        if is_first && (self.tick.get().is_zero() || self.tick.get() > SIGN_EVERY) {
            self.arm(self.host.recently());
        }
        waiting
    }

    /// Has a probe that was sent then and whose response goes on taken as a success when it has run for the lease.
    pub(super) fn watch(&self, probe: &Rc<RunningProbe>, sent: Timestamp, now: Timestamp) {
        self.running.add(probe, sent, probe.active.policy().stream_lease());
        self.arm(now);
    }

    /// Takes the probes as successes that have run for the lease.
    fn pass_running(&self, store: &mut dyn Store, now: Timestamp) {
        for probe in self.running.take_due(now) {
            let active = &probe.active;
            let mut events = active.metrics.events();
            let (Ok(mut worker), Ok(mut policy)) = (self.vm.worker.try_borrow_mut(), active.state.try_borrow_mut())
            else {
                return;
            };
            store.refresh();
            policy.pass_running(&mut Cx::new(store, &mut worker, now, &mut events), &probe);
            self.publish(active, &policy, probe.key, events);
        }
    }

    /// Whether any answer is held back.
    pub fn holds(&self) -> bool {
        self.held.are_any()
    }

    /// Takes the held answers out that are to be looked at now, at a tick or a wake-up. Each is to be [woken](RequestPlugin::wake) for its stream, if
    /// that is still there.
    pub fn take_held(&self, is_wake: bool, now: Timestamp) -> Vec<HeldAnswer> {
        self.held.take_due(is_wake, now)
    }

    /// Asks for the ticks that are wanted after a wake-up.
    pub fn end_wake(&self, now: Timestamp) {
        self.arm(now);
    }

    /// Looks at a held answer.
    pub fn wake(&self, host: &dyn Host, held: HeldAnswer, now: Timestamp) -> RequestEffect {
        let Some(replacement) = held.replacement() else { return RequestEffect::Continue };
        let effect = replacement.wake(host, now);
        if effect == ReplacementEffect::Hold {
            self.held.add_again(held, now);
        }
        effect.into()
    }

    /// Whether claims and counts are to be renewed now, at a tick.
    fn is_renewal_due(&self, now: Timestamp) -> bool {
        // The tick that is nearest to the time: the host's ticks are not exact.
        let near = self.work_every.get() / 2;
        let left = self.renewal_due.get().since(now);
        // Further off than it was set, the clock was put back.
        let is_due = left <= near || left > self.renewal_every;
        if is_due {
            self.renewal_due.set(now.plus(self.renewal_every));
        }
        is_due
    }

    /// Does what is to be done now and then. `make` makes the requests of our own that are due: see [`RequestPlugin::calls`].
    pub fn on_tick(&self, store: &mut dyn Store, make: &mut MakeCall<'_>) {
        let now = self.host.now();
        self.pauses.tick(now);
        if let Some(told) = self.pauses.tell("requests and checks", now) {
            self.host.log(true, &told);
        }
        self.pass_running(store, now);
        if !self.is_work_due(now) {
            return self.arm(now);
        }
        self.enter(store);
        let is_due = self.is_renewal_due(now);
        if is_due {
            self.renew(store, now, make);
        }
        // Afterwards: renewing may have found something to tell.
        let soon = self.flush(store, now);
        let next = match soon {
            // Ticks go back to being seldom where that does not put off the next renewal.
            None if is_due => self.renewal_every,
            None => COUNTS_WAIT,
            Some(soon) => soon,
        };
        self.work_within(next.min(self.renewal_every), now);
    }

    /// Renews what would otherwise expire, and looks after the hosts.
    fn renew(&self, store: &mut dyn Store, now: Timestamp, make: &mut MakeCall<'_>) {
        {
            let Ok(mut worker) = self.vm.worker.try_borrow_mut() else { return };
            worker.tick(store, now);
            self.vm.renew(store, now);
            for active in &self.policies {
                if let Ok(mut state) = active.state.try_borrow_mut() {
                    let mut none = Vec::new();
                    let reports = state.tick(&mut Cx::new(store, &mut worker, now, &mut none));
                    reports.into_iter().for_each(|(key, events)| active.publish(&state, key, events));
                }
            }
        }
        for active in &self.policies {
            self.calls(store, active, make);
        }
    }

    /// Writes and tells what has waited. How soon there may be more.
    fn flush(&self, store: &mut dyn Store, now: Timestamp) -> Option<Duration> {
        store.refresh();
        let mut soon = None;
        for active in &self.policies {
            if active.metrics.flush() {
                soon = soon.or(Some(COUNTS_WAIT));
            }
            if let (Ok(mut worker), Ok(mut state)) = (self.vm.worker.try_borrow_mut(), active.state.try_borrow_mut())
                && state.has_unwritten()
            {
                state.flush(&mut Cx::new(store, &mut worker, now, &mut Vec::new()));
                soon = Some(SLOTS_WAIT);
            }
        }
        soon
    }

    /// Makes the requests of our own that are due for a policy. `make` gives the name of each, or `None` where it could not be made: there
    /// is no such cluster, no host in it, or one of the host's limits is reached.
    pub fn calls(&self, store: &mut dyn Store, active: &Rc<ActivePolicy>, make: &mut MakeCall<'_>) {
        store.refresh();
        let (now, mut reports) = (self.host.now(), Vec::new());
        let (Ok(mut worker), Ok(mut state)) = (self.vm.worker.try_borrow_mut(), active.state.try_borrow_mut()) else {
            return;
        };
        self.pauses.sign(now);
        let calls = state.calls(&mut Cx::new(store, &mut worker, now, &mut Vec::new()), &self.pauses, &mut reports);
        for call in calls {
            let mut events = Vec::new();
            let (key, token) = (call.key(), make(active, &call));
            if let (Some(token), Ok(mut calling)) = (token, self.calling.try_borrow_mut()) {
                calling.insert(token, self.wait_for_answer(Some(now)));
            }
            state.call_made(&call, token, now, &mut events);
            if !events.is_empty() {
                reports.push((key, events));
            }
        }
        reports.into_iter().for_each(|(key, events)| self.publish(active, &state, key, events));
    }

    /// Takes over how a call was answered; `None`: not at all.
    pub fn call_reported(
        &self,
        store: &mut dyn Store,
        active: &Rc<ActivePolicy>,
        call: &Call,
        token: u32,
        response: Option<CallResponse<'_>>,
        make: &mut MakeCall<'_>,
    ) {
        let (now, mut events) = (self.host.now(), active.metrics.events());
        self.pauses.sign(now);
        if let Ok(mut calling) = self.calling.try_borrow_mut() {
            calling.remove(&token);
        }
        let (Ok(mut worker), Ok(mut state)) = (self.vm.worker.try_borrow_mut(), active.state.try_borrow_mut()) else {
            return;
        };
        let cx = &mut Cx::new(store, &mut worker, now, &mut events);
        let others_wait = state.call_reported(cx, call, token, response, &self.pauses);
        self.publish(active, &state, call.key(), events);
        drop((worker, state));
        if others_wait {
            self.calls(store, active, make);
        }
    }
}

/// As the host counts time between ticks: at least a millisecond.
fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(millis_up(duration).max(1))
}

/// Makes a request of our own for a policy, and gives its name.
pub type MakeCall<'a> = dyn FnMut(&Rc<ActivePolicy>, &Call) -> Option<u32> + 'a;
