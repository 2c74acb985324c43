//! Load over several clients at once, so over several workers of Envoy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::in_order;
use crate::{Client, PATIENCE, Record, Records, Template, TimedOut, eventually};

/// Closed loop over these clients in turn: `senders` senders, `total` requests in all.
pub async fn drive_all(clients: &[Client], senders: usize, total: usize, request: impl Into<Template>) -> Records {
    let going = Going { until: Some(total as u64), ..Going::new(request.into(), Duration::ZERO) };
    in_order(going.spawn(clients, senders).join_all().await.into_iter().flatten().collect())
}

/// Requests that go on in the background until they are told to stop. Dropping it stops them at once.
#[derive(Debug)]
pub struct Traffic {
    going: Going,
    senders: JoinSet<Vec<Record>>,
}

impl Traffic {
    /// Closed loop over these clients in turn: each of `senders` senders waits `pause` before its next request.
    pub fn start(clients: &[Client], senders: usize, pause: Duration, request: impl Into<Template>) -> Self {
        let going = Going::new(request.into(), pause);
        let senders = going.spawn(clients, senders);
        Self { going, senders }
    }

    /// How many requests have been answered or given up.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.going.answered.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers.
    ///
    /// # Errors
    /// When they do not come within [`PATIENCE`].
    pub async fn goes_on(&self, count: u64) -> Result<(), TimedOut> {
        let until = self.answered() + count;
        eventually(PATIENCE, || async { self.answered() >= until }).await
    }

    /// Lets each sender finish its request.
    pub async fn stop(self) -> Records {
        self.going.stopped.store(true, Ordering::Relaxed);
        in_order(self.senders.join_all().await.into_iter().flatten().collect())
    }
}

/// What the senders of one load share.
#[derive(Clone, Debug)]
struct Going {
    request: Template,
    pause: Duration,
    until: Option<u64>,
    start: Instant,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

impl Going {
    fn new(request: Template, pause: Duration) -> Self {
        let (sent, answered, stopped) = (Arc::default(), Arc::default(), Arc::default());
        Self { request, pause, until: None, start: Instant::now(), sent, answered, stopped }
    }

    fn spawn(&self, clients: &[Client], senders: usize) -> JoinSet<Vec<Record>> {
        let mut running = JoinSet::new();
        for client in clients.iter().cycle().take(senders).cloned() {
            running.spawn(self.clone().send_through(client));
        }
        running
    }

    async fn send_through(self, client: Client) -> Vec<Record> {
        let mut records = Vec::new();
        while !self.stopped.load(Ordering::Relaxed) {
            let index = self.sent.fetch_add(1, Ordering::Relaxed);
            if self.until.is_some_and(|total| index >= total) {
                break;
            }
            records.push(client.record(self.start, self.request.at(index)).await);
            self.answered.fetch_add(1, Ordering::Relaxed);
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
        }
        records
    }
}
