//! A policy at work together with its metrics.

use holdfast_engine::fallback;
use holdfast_engine::retry::router;
use std::cell::RefCell;
use std::sync::Arc;

use holdfast_engine::breaker::words;
use holdfast_engine::observe::metrics::Metric;
use holdfast_engine::request::access_log::{self, Fate};
use holdfast_engine::request::{Event, Governed};
use holdfast_engine::retry::Leave;
use holdfast_engine::store::keys::{Key, Series};
use holdfast_policy::document::{Policy, TemplatePart};

use crate::counters::Counters;
use crate::host;

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
    /// The policy's name in metrics.
    name: RefCell<String>,
    /// By the series' index.
    counters: RefCell<Vec<Option<Box<Counters>>>>,
    /// Series of which something was counted that the host has not been told yet.
    counted: RefCell<Vec<Series>>,
    /// What the access log says of most requests, by the key's place.
    admitted: RefCell<Vec<Option<(Key, String)>>>,
    /// Events on their way to the metrics; kept to reuse its memory.
    events: RefCell<Vec<Event>>,
}

impl Governing {
    /// A policy at work.
    pub fn new(governed: Governed) -> Self {
        Governing {
            is_active: governed.is_active(),
            is_untimed: governed.is_untimed(),
            kept: fallback::kept_parts(governed.policy()),
            replaces_answers: governed.policy().replaces_answers(),
            router_headers: router_headers(governed.policy()),
            policy: Arc::clone(governed.policy()),
            fingerprint: governed.fingerprint(),
            name: RefCell::new(governed.metrics_name().into_owned()),
            governed: RefCell::new(governed),
            counters: RefCell::new(Vec::new()),
            counted: RefCell::new(Vec::new()),
            admitted: RefCell::new(Vec::new()),
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
    pub fn tell(&self, governed: &Governed, key: Key, mut events: Vec<Event>) {
        match host::take_contentions() {
            0 => {}
            given_up => events.push(Event::Add(Metric::Contention, given_up)),
        }
        self.with_counters(governed, key, |counters| {
            let mut is_alone = true;
            for event in events.drain(..) {
                match event {
                    Event::Count(metric) => self.count(key.series, counters, metric, 1),
                    Event::Add(metric, by) => self.count(key.series, counters, metric, by),
                    Event::Gauge(..) | Event::State(_) if !governed.has_gauges(key) => {}
                    Event::Gauge(metric, value) => counters.set(metric, value),
                    Event::State(state) => counters.set(Metric::BreakerState, state as u64),
                    Event::Said { alarming, line } => {
                        is_alone = false;
                        log::log!(level(alarming), "{line}");
                    }
                    Event::Moved(transition) => {
                        is_alone = false;
                        let line = words::line(governed.policy(), governed.key_text(key), &transition);
                        log::log!(level(transition.is_alarming()), "{line}");
                    }
                }
            }
            // Who reads the line and looks at the metrics finds what led to it.
            if !is_alone {
                counters.flush();
            }
        });
        if let Ok(mut kept) = self.events.try_borrow_mut() {
            *kept = events;
        }
    }

    fn count(&self, series: Series, counters: &mut Counters, metric: Metric, by: u32) {
        if by > 0
            && counters.count(metric, by)
            && let Ok(mut counted) = self.counted.try_borrow_mut()
        {
            counted.push(series);
        }
    }

    /// Takes over the name that the policy now has in metrics.
    pub fn name(&self, governed: &Governed) {
        let new = governed.metrics_name();
        let Ok(mut name) = self.name.try_borrow_mut() else { return };
        if *name != *new {
            self.leave_series();
            *name = new.into_owned();
        }
    }

    /// Tells what was counted, and leaves no gauge that says what is not so any more. Another worker that goes on says it again.
    fn leave_series(&self) {
        self.flush();
        if let Ok(mut counters) = self.counters.try_borrow_mut() {
            counters.drain(..).flatten().for_each(|counters| counters.clear_gauges());
        }
    }

    /// Tells the access log of a request that went on to the host, and of nothing else.
    pub fn tell_admitted(&self, governed: &Governed, key: Key) {
        let Ok(mut admitted) = self.admitted.try_borrow_mut() else { return };
        let place = usize::from(key.occupant.place);
        if admitted.len() <= place {
            admitted.resize_with(place + 1, || None);
        }
        let Some(known) = admitted.get_mut(place) else { return };
        if known.as_ref().is_none_or(|(whose, _)| *whose != key) {
            let line = access_log::line(&self.policy.name, governed.key_text(key), Fate::Admitted);
            *known = Some((key, line));
        }
        if let Some((_, line)) = known {
            tell_access_log(line);
        }
    }

    /// Whether something was counted that the host has not been told yet.
    pub fn has_counted(&self) -> bool {
        self.counted.try_borrow().is_ok_and(|counted| !counted.is_empty())
    }

    /// Tells the host what was counted. Whether that was anything.
    pub fn flush(&self) -> bool {
        let (Ok(mut counters), Ok(mut counted)) = (self.counters.try_borrow_mut(), self.counted.try_borrow_mut())
        else {
            return false;
        };
        let is_any = !counted.is_empty();
        for series in counted.drain(..) {
            if let Some(Some(counters)) = counters.get_mut(series.index()) {
                counters.flush();
            }
        }
        is_any
    }

    fn with_counters(&self, governed: &Governed, key: Key, act: impl FnOnce(&mut Counters)) {
        let Ok(mut counters) = self.counters.try_borrow_mut() else { return };
        let index = key.series.index();
        if counters.len() <= index {
            counters.resize_with(index + 1, || None);
        }
        let Some(own) = counters.get_mut(index) else { return };
        let Ok(name) = self.name.try_borrow() else { return };
        act(own.get_or_insert_with(|| Counters::define(governed.policy(), &name, governed.series_text(key))));
    }
}

/// What was counted when a policy goes out of use is not lost.
impl Drop for Governing {
    fn drop(&mut self) {
        self.leave_series();
    }
}

fn level(alarming: bool) -> log::Level {
    if alarming { log::Level::Warn } else { log::Level::Info }
}

/// Sets what the access log says of the request.
pub fn tell_access_log(line: &str) {
    // Another filter may hold the name; the access log then lacks the line.
    let _ = host::set_property(access_log::PROPERTY, line.as_bytes());
}

/// The headers for each leave, without and with an attempt seat.
fn router_headers(policy: &Policy) -> Vec<Vec<(&'static str, String)>> {
    let Some(retry) = &policy.retry else { return Vec::new() };
    let both = |leave| [false, true].map(|seat| router::router_headers(&retry, leave, seat));
    [Leave::All, Leave::Unsent, Leave::Nothing].into_iter().flat_map(both).collect()
}
