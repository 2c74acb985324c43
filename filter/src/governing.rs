//! A policy at work together with its metrics.

use std::cell::RefCell;
use std::sync::Arc;

use holdfast_policy::access::{self, Fate};
use holdfast_policy::document::{Policy, TemplatePart};
use holdfast_policy::governed::{Event, Governed};
use holdfast_policy::keys::KeyNumber;
use holdfast_policy::metrics::Metric;
use holdfast_policy::narrate;
use holdfast_policy::retry::Leave;

use crate::counters::Counters;
use crate::host;

/// What the operator sees of one key.
struct Key {
    counters: Box<Counters>,
    /// What the access log says of most requests.
    admitted: String,
}

impl Key {
    #[inline(never)] // Once for each key.
    fn new(governed: &Governed, key: KeyNumber) -> Self {
        let (policy, text) = (governed.policy(), governed.key_text(key));
        Key { counters: Counters::define(policy, text), admitted: access::line(&policy.name, text, Fate::Admitted) }
    }
}

/// A policy at work.
pub struct Governing {
    /// Its decisions.
    pub governed: RefCell<Governed>,
    /// Whether it does anything at all.
    pub is_active: bool,
    /// Whether nothing but a breaker that is not closed wants to know when a request came.
    pub is_untimed: bool,
    /// What fallbacks insert of a request whose answer they replace.
    pub kept: Vec<TemplatePart>,
    /// Whether a fallback could replace an answer.
    pub replaces_answers: bool,
    /// What the router is told about retries, by [`Governing::router_headers`].
    router_headers: Vec<Vec<(&'static str, String)>>,
    policy: Arc<Policy>,
    fingerprint: u64,
    /// By number.
    keys: RefCell<Vec<Option<Key>>>,
    /// Keys of which something was counted that the host has not been told yet.
    counted: RefCell<Vec<KeyNumber>>,
    /// Events on their way to the metrics; kept to reuse its memory.
    events: RefCell<Vec<Event>>,
}

impl Governing {
    /// A policy at work.
    pub fn new(governed: Governed) -> Self {
        Governing {
            is_active: governed.is_active(),
            is_untimed: governed.is_untimed(),
            kept: governed.policy().kept_parts(),
            replaces_answers: governed.policy().replaces_answers(),
            router_headers: router_headers(governed.policy()),
            policy: Arc::clone(governed.policy()),
            fingerprint: governed.fingerprint(),
            governed: RefCell::new(governed),
            keys: RefCell::new(Vec::new()),
            counted: RefCell::new(Vec::new()),
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

    /// Tells the operator of events of one key: metrics, and a log line for each transition. What is counted waits for
    /// [`Governing::flush`], unless there is something to say in the log.
    #[inline(never)] // In many places.
    pub fn tell(&self, governed: &Governed, key: KeyNumber, mut events: Vec<Event>) {
        self.with_key(governed, key, |seen| {
            let mut is_alone = true;
            for event in events.drain(..) {
                match event {
                    Event::Count(metric) => self.count(key, seen, metric, 1),
                    Event::Add(metric, by) => self.count(key, seen, metric, by),
                    Event::Gauge(metric, value) => seen.counters.set(metric, value),
                    Event::State(state) => seen.counters.set(Metric::BreakerState, state as u64),
                    Event::Said { alarming, line } => {
                        is_alone = false;
                        log::log!(level(alarming), "{line}");
                    }
                    Event::Moved(transition) => {
                        is_alone = false;
                        let line = narrate::line(governed.policy(), governed.key_text(key), &transition);
                        log::log!(level(transition.is_alarming()), "{line}");
                    }
                }
            }
            // Who reads the line and looks at the metrics finds what led to it.
            if !is_alone {
                seen.counters.flush();
            }
        });
        if let Ok(mut kept) = self.events.try_borrow_mut() {
            *kept = events;
        }
    }

    fn count(&self, key: KeyNumber, seen: &mut Key, metric: Metric, by: u32) {
        if by > 0
            && seen.counters.count(metric, by)
            && let Ok(mut counted) = self.counted.try_borrow_mut()
        {
            counted.push(key);
        }
    }

    /// Tells the access log of a request that went on to the host, and of nothing else.
    pub fn tell_admitted(&self, governed: &Governed, key: KeyNumber) {
        self.with_key(governed, key, |seen| tell_access_log(&seen.admitted));
    }

    /// Whether something was counted that the host has not been told yet.
    pub fn has_counted(&self) -> bool {
        self.counted.try_borrow().is_ok_and(|counted| !counted.is_empty())
    }

    /// Tells the host what was counted. Whether that was anything.
    pub fn flush(&self) -> bool {
        let (Ok(mut keys), Ok(mut counted)) = (self.keys.try_borrow_mut(), self.counted.try_borrow_mut()) else {
            return false;
        };
        let is_any = !counted.is_empty();
        for key in counted.drain(..) {
            if let Some(Some(seen)) = keys.get_mut(usize::from(key.0)) {
                seen.counters.flush();
            }
        }
        is_any
    }

    fn with_key(&self, governed: &Governed, key: KeyNumber, act: impl FnOnce(&mut Key)) {
        let Ok(mut keys) = self.keys.try_borrow_mut() else { return };
        let index = usize::from(key.0);
        if keys.len() <= index {
            keys.resize_with(index + 1, || None);
        }
        let Some(slot) = keys.get_mut(index) else { return };
        act(slot.get_or_insert_with(|| Key::new(governed, key)));
    }
}

/// What was counted when a policy goes out of use is not lost.
impl Drop for Governing {
    fn drop(&mut self) {
        self.flush();
    }
}

fn level(alarming: bool) -> log::Level {
    if alarming { log::Level::Warn } else { log::Level::Info }
}

/// Sets what the access log says of the request.
pub fn tell_access_log(line: &str) {
    // Another filter may hold the name; the access log then lacks the line.
    let _ = host::set_property(access::PROPERTY, line.as_bytes());
}

/// The headers for each leave, without and with an attempt seat.
fn router_headers(policy: &Policy) -> Vec<Vec<(&'static str, String)>> {
    let Some(retry) = &policy.retry else { return Vec::new() };
    let both = |leave| [false, true].map(|seat| retry.router_headers(leave, seat));
    [Leave::All, Leave::Unsent, Leave::Nothing].into_iter().flat_map(both).collect()
}
