//! One policy's metrics and lines of the log.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use holdfast_policy::document::Policy;

use super::counters::Counters;
use crate::event::Event;
use crate::host::RootHost;
use crate::metric::Metric;
use crate::store::keys::Series;

/// What a key is called.
#[derive(Debug, Clone, Copy)]
pub struct KeyNames<'a> {
    /// In the log.
    pub text: &'a str,
    /// Its metric series, and what that is called.
    pub series: Series,
    /// The name of the series.
    pub series_text: &'a str,
    /// Whether a gauge of the series speaks of this key.
    pub has_gauges: bool,
}

/// Which gauges of the policy's name speak of another content's state now: they are left to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GaugesElsewhere {
    /// The breaker's.
    pub breaker: bool,
    /// The hosts'.
    pub hosts: bool,
    /// The attempt seat's.
    pub seats: bool,
    /// Those of the answers that are kept.
    pub stale: bool,
}

impl GaugesElsewhere {
    fn has(self, metric: Metric) -> bool {
        match metric {
            Metric::BreakerState => self.breaker,
            Metric::MisassembledAttemptSeat => self.seats,
            _ if Metric::OF_STALE.contains(&metric) => self.stale,
            _ => self.hosts && Metric::OF_HOSTS.contains(&metric),
        }
    }
}

/// One policy's metrics. What was counted when it goes out of use is not lost.
pub struct PolicyMetrics {
    host: Rc<dyn RootHost>,
    /// The policy's name in metrics.
    name: RefCell<String>,
    /// What others would say under this name, were it given up.
    elsewhere: Cell<GaugesElsewhere>,
    /// By the series' index.
    counters: RefCell<Vec<Option<Box<Counters>>>>,
    /// Series of which something was counted that the host has not been told yet.
    counted: RefCell<Vec<Series>>,
    /// Events on their way to the metrics; kept to reuse its memory.
    events: RefCell<Vec<Event>>,
}

impl PolicyMetrics {
    /// Those of a policy that has this name in metrics.
    pub fn new(host: Rc<dyn RootHost>, name: String) -> Self {
        PolicyMetrics {
            host,
            name: RefCell::new(name),
            elsewhere: Cell::default(),
            counters: RefCell::default(),
            counted: RefCell::default(),
            events: RefCell::default(),
        }
    }

    /// An empty list to collect events in.
    pub fn events(&self) -> Vec<Event> {
        self.events.try_borrow_mut().map_or_else(|_| Vec::new(), |mut events| core::mem::take(&mut *events))
    }

    /// Publishes events of one key: metrics, and lines of the log. What is counted waits for [`PolicyMetrics::flush`], unless there
    /// is something to say in the log.
    pub fn publish(&self, policy: &Policy, key: KeyNames<'_>, mut events: Vec<Event>) {
        match self.host.take_contentions() {
            0 => {}
            given_up => events.push(Event::Add(Metric::Contention, given_up)),
        }
        self.with_counters(policy, key, |counters| {
            let mut has_line = false;
            for event in events.drain(..) {
                match event {
                    Event::Count(metric) => self.count(key.series, counters, metric, 1),
                    Event::Add(metric, by) => self.count(key.series, counters, metric, by),
                    Event::Gauge(..) if !key.has_gauges => {}
                    Event::Gauge(metric, value) => counters.set(&*self.host, metric, value),
                    Event::Log { .. } => {
                        has_line = true;
                        if let Some((alarming, line)) = event.line(&policy.name, key.text) {
                            self.host.log(alarming, &line);
                        }
                    }
                }
            }
            // Who reads the line and looks at the metrics finds what led to it.
            if has_line {
                counters.flush(&*self.host);
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

    /// Takes over the name that the policy now has in metrics, and which gauges newer contents of its name have. Whether the name is
    /// another one.
    pub fn rename(&self, new: &str, elsewhere: GaugesElsewhere) -> bool {
        let Ok(mut name) = self.name.try_borrow_mut() else { return false };
        self.elsewhere.set(elsewhere);
        let is_other = *name != new;
        if is_other {
            self.leave_series(&name);
            new.clone_into(&mut name);
        }
        is_other
    }

    /// Tells what was counted, and leaves no gauge that says what is not so any more. Another worker that goes on says it again.
    fn leave_series(&self, name: &str) {
        self.flush();
        // Only the newest content takes over a name, which is the policy's own: `orders`, not `orders~2`.
        let elsewhere = if name.contains('~') { GaugesElsewhere::default() } else { self.elsewhere.get() };
        if let Ok(mut counters) = self.counters.try_borrow_mut() {
            let clear = |counters: Box<Counters>| counters.clear_gauges(&*self.host, |metric| elsewhere.has(metric));
            counters.drain(..).flatten().for_each(clear);
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
                counters.flush(&*self.host);
            }
        }
        is_any
    }

    fn with_counters(&self, policy: &Policy, key: KeyNames<'_>, act: impl FnOnce(&mut Counters)) {
        let Ok(mut counters) = self.counters.try_borrow_mut() else { return };
        let index = key.series.index();
        if counters.len() <= index {
            counters.resize_with(index.saturating_add(1), || None);
        }
        let Some(own) = counters.get_mut(index) else { return };
        let Ok(name) = self.name.try_borrow() else { return };
        act(own.get_or_insert_with(|| Counters::define(&*self.host, policy, &name, key.series_text)));
    }
}

impl Drop for PolicyMetrics {
    fn drop(&mut self) {
        let name = core::mem::take(self.name.get_mut());
        self.leave_series(&name);
    }
}
