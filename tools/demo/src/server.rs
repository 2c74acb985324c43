//! One server of the service: it counts the attempts that reach it, and breaks down under too many.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_tests::{Action, Backend, Cluster, SeenRequest};

use crate::recording::Arrival;
use crate::scene::{Manner, Script};

/// The header in which a request says in which second of the run it was sent: so a server knows whose attempt it sees.
pub const SENT_IN: &str = "demo-sent-in";

/// Over how long a server's load is taken. Longer than a busy machine may hold the callers up.
const LOAD: Duration = Duration::from_secs(2);

/// A running server. It ends when this is dropped.
pub struct Server {
    backend: Backend,
    meter: Arc<Mutex<Meter>>,
    capacity: Option<u32>,
}

impl Server {
    /// Starts one that breaks down under more than `capacity` attempts a second.
    pub async fn start(capacity: Option<u32>) -> anyhow::Result<Self> {
        Ok(Server { backend: Backend::start().await?, meter: Arc::default(), capacity })
    }

    /// The cluster with this server in it.
    pub fn join(&self, cluster: Cluster) -> Cluster {
        cluster.endpoint(self.backend.addr())
    }

    /// Does as the script says from the next attempt on, unless there are too many.
    pub fn follow(&self, script: Script) {
        let (meter, capacity) = (Arc::clone(&self.meter), self.capacity);
        self.backend.script(move |seen| {
            let sent_in = seen.header(SENT_IN).and_then(|second| second.parse().ok());
            let load = lock(&meter).count(sent_in, seen.at);
            if capacity.is_some_and(|capacity| load > capacity) { Action::status(503) } else { (script.act)(seen) }
        });
    }

    /// The attempts so far.
    pub fn attempts(&self, start: Instant) -> Vec<Arrival> {
        let arrival =
            |(second, at): &(u32, Instant)| Arrival { second: *second, at: at.saturating_duration_since(start) };
        lock(&self.meter).arrivals.iter().map(arrival).collect()
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.backend.addr()
    }
}

/// Does the same with every attempt.
pub fn always(action: Action) -> Script {
    Script { act: Box::new(move |_| action.clone()), manner: Manner::Well }
}

/// The same, and what is wrong with it.
pub fn unwell(manner: Manner, action: Action) -> Script {
    Script { manner, ..always(action) }
}

/// Answers each path with its own content.
pub fn contents(delay: Duration) -> Script {
    let act = move |seen: &SeenRequest| {
        let answer = Action::ok().header("content-type", "application/json").header("cache-control", "max-age=1");
        answer.body(content(&seen.path)).after(delay)
    };
    Script { act: Box::new(act), manner: Manner::Well }
}

/// What [`contents`] has under a path: no two have the same.
pub fn content(path: &str) -> String {
    format!("{{\"path\":\"{path}\",\"text\":\"{}\"}}", path.repeat(40))
}

/// Does `action` with every `k`-th attempt, beginning with attempt number `first` (from 0), and `otherwise` with the others.
pub fn every(k: u64, first: u64, action: Action, otherwise: Action) -> Script {
    let act = move |seen: &SeenRequest| {
        let chosen = seen.index >= first && (seen.index - first).is_multiple_of(k);
        if chosen { action.clone() } else { otherwise.clone() }
    };
    Script { act: Box::new(act), manner: Manner::Well }
}

/// What a server has had to take.
#[derive(Debug, Default)]
struct Meter {
    /// The second of the request, and when the attempt came.
    arrivals: Vec<(u32, Instant)>,
    recent: VecDeque<Instant>,
}

impl Meter {
    /// Counts an attempt and gives the load with it, in attempts per second.
    fn count(&mut self, sent_in: Option<u32>, at: Instant) -> u32 {
        self.arrivals.extend(sent_in.map(|second| (second, at)));
        self.recent.push_back(at);
        while self.recent.front().is_some_and(|first| at.saturating_duration_since(*first) >= LOAD) {
            self.recent.pop_front();
        }
        u32::try_from(self.recent.len()).unwrap_or(u32::MAX) / LOAD.as_secs() as u32
    }
}

fn lock(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_count_for_the_second_of_their_request() {
        let (mut meter, now) = (Meter::default(), Instant::now());
        for second in [Some(0), Some(2), None, Some(2)] {
            meter.count(second, now);
        }
        let seconds: Vec<u32> = meter.arrivals.iter().map(|(second, _)| *second).collect();
        assert_eq!(seconds, [0, 2, 2]);
    }

    #[test]
    fn the_load_is_that_of_the_last_two_seconds() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let load = |meter: &mut Meter, millis| meter.count(None, start + Duration::from_millis(millis));
        let steady: Vec<u32> = (0..50).map(|number| load(&mut meter, number * 100)).collect();
        assert_eq!(steady.last(), Some(&10), "ten a second: {steady:?}");
        assert_eq!(load(&mut meter, 60_000), 0, "after a long rest one is less than one a second");
    }
}
