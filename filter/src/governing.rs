//! A policy at work together with its metrics.

use std::cell::RefCell;
use std::sync::Arc;

use holdfast_policy::document::{Policy, TemplatePart};
use holdfast_policy::governed::{Event, Governed};
use holdfast_policy::keys::KeyNumber;
use holdfast_policy::metrics::{self, Metric};
use holdfast_policy::narrate;
use holdfast_policy::retry::Leave;

use crate::host::{self, Level, MetricKind};

/// The host's ids of one key's metrics, by metric number.
type Ids = [Option<u32>; Metric::COUNT];

/// A policy at work.
pub struct Governing {
    /// Its decisions.
    pub governed: RefCell<Governed>,
    /// Whether it does anything at all.
    pub is_active: bool,
    /// What fallbacks insert of a request whose answer they replace.
    pub kept: Vec<TemplatePart>,
    /// Whether a fallback could replace an answer.
    pub replaces_answers: bool,
    /// What the router is told about retries, by [`Governing::router_headers`].
    router_headers: Vec<Vec<(&'static str, String)>>,
    policy: Arc<Policy>,
    fingerprint: u64,
    ids: RefCell<Vec<Option<Box<Ids>>>>,
    /// Events on their way to the metrics; kept to reuse its memory.
    events: RefCell<Vec<Event>>,
}

impl Governing {
    /// A policy at work.
    pub fn new(governed: Governed) -> Self {
        Governing {
            is_active: governed.is_active(),
            kept: governed.policy().kept_parts(),
            replaces_answers: governed.policy().replaces_answers(),
            router_headers: router_headers(governed.policy()),
            policy: Arc::clone(governed.policy()),
            fingerprint: governed.fingerprint(),
            governed: RefCell::new(governed),
            ids: RefCell::new(Vec::new()),
            events: RefCell::new(Vec::new()),
        }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The request headers that tell the router how to retry a request with this leave.
    pub fn router_headers(&self, leave: Leave, seat: bool) -> &[(&'static str, String)] {
        self.router_headers.get(leave as usize * 2 + usize::from(seat)).map_or(&[], Vec::as_slice)
    }

    /// Whether `other` is the same policy, by name and content.
    pub fn is(&self, other: &Governed) -> bool {
        self.fingerprint == other.fingerprint() && self.policy.name == other.policy().name
    }

    /// An empty list to collect events in.
    pub fn events(&self) -> Vec<Event> {
        self.events.try_borrow_mut().map_or_else(|_| Vec::new(), |mut events| std::mem::take(&mut *events))
    }

    /// Tells the operator of events of one key: metrics, and a log line for each transition.
    pub fn tell(&self, governed: &Governed, key: KeyNumber, mut events: Vec<Event>) {
        for event in events.drain(..) {
            match event {
                Event::Count(metric) => self.with_id(governed, key, metric, |id| host::increment_metric(id, 1)),
                Event::Add(metric, by) => {
                    self.with_id(governed, key, metric, |id| host::increment_metric(id, by.into()));
                }
                Event::Gauge(metric, value) => {
                    self.with_id(governed, key, metric, |id| host::record_metric(id, value));
                }
                Event::Said { alarming, line } => {
                    host::log(if alarming { Level::Warn } else { Level::Info }, &line);
                }
                Event::State(state) => {
                    self.with_id(governed, key, Metric::BreakerState, |id| host::record_metric(id, state as u64));
                }
                Event::Moved(transition) => {
                    let line = narrate::line(governed.policy(), governed.key_text(key), &transition);
                    let level = if transition.is_alarming() { Level::Warn } else { Level::Info };
                    host::log(level, &line);
                }
            }
        }
        if let Ok(mut kept) = self.events.try_borrow_mut() {
            *kept = events;
        }
    }

    /// Uses a metric's id. Recording is never in the way of a request: what the host refuses is not recorded.
    fn with_id(
        &self,
        governed: &Governed,
        key: KeyNumber,
        metric: Metric,
        record: impl FnOnce(u32) -> Result<(), host::Refusal>,
    ) {
        let Ok(mut ids) = self.ids.try_borrow_mut() else { return };
        let index = usize::from(key.0);
        if ids.len() <= index {
            ids.resize_with(index + 1, || None);
        }
        let Some(slot) = ids.get_mut(index) else { return };
        let known = slot.get_or_insert_with(|| define(governed.policy(), governed.key_text(key)));
        if let Some(Some(id)) = known.get(metric as usize) {
            let _ = record(*id);
        }
    }
}

/// The headers for each leave, without and with an attempt seat.
fn router_headers(policy: &Policy) -> Vec<Vec<(&'static str, String)>> {
    let Some(retry) = &policy.retry else { return Vec::new() };
    let both = |leave| [false, true].map(|seat| retry.router_headers(leave, seat));
    [Leave::All, Leave::Unsent, Leave::Nothing].into_iter().flat_map(both).collect()
}

/// Defines the metrics that a policy can record for a key, so that they are all there, at 0, from its first request.
fn define(policy: &Policy, key: &str) -> Box<Ids> {
    let mut ids = Box::new([None; Metric::COUNT]);
    for (id, metric) in ids.iter_mut().zip(Metric::ALL) {
        if metric.concerns(policy) {
            let kind = if metric.is_gauge() { MetricKind::Gauge } else { MetricKind::Counter };
            *id = host::define_metric(kind, &metrics::full_name(&policy.name, key, metric)).ok();
        }
    }
    ids
}
