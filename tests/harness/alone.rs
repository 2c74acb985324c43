//! Who runs beside whom: the tests of a process share the machine, but one that measures it can have it alone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;

static RUNNING: Mutex<Running> = Mutex::new(Running { envoys: Vec::new(), alone: None, waiting: 0 });

static CHANGED: Notify = Notify::const_new();

/// A test is known by its runtime.
struct Running {
    /// The test of each Envoy.
    envoys: Vec<Id>,
    alone: Option<Id>,
    /// How many tests wait to be alone.
    waiting: usize,
}

/// Waits until no Envoy of another test in this process runs, and lets others start none while the value lives. It is for a
/// test that measures milliseconds, or that takes every core for itself.
///
/// # Panics
/// When this test runs an Envoy already: two such tests would wait for each other.
pub async fn alone() -> Alone {
    let me = Handle::current().id();
    assert!(!running().envoys.contains(&me), "a test is alone before it starts its first Envoy");
    running().waiting += 1;
    let _waiting = Waiting;
    until(|running| {
        let may = running.alone.is_none() && running.envoys.is_empty();
        if may {
            running.alone = Some(me);
        }
        may
    })
    .await;
    Alone(())
}

/// See [`alone`].
#[derive(Debug)]
#[must_use]
pub struct Alone(());

impl Drop for Alone {
    fn drop(&mut self) {
        running().alone = None;
        CHANGED.notify_waiters();
    }
}

/// While one waits, no other test begins.
struct Waiting;

impl Drop for Waiting {
    fn drop(&mut self) {
        running().waiting -= 1;
        CHANGED.notify_waiters();
    }
}

/// What an Envoy needs to run.
pub(crate) struct Permit(Id);

impl Drop for Permit {
    fn drop(&mut self) {
        let mut running = running();
        if let Some(mine) = running.envoys.iter().position(|id| *id == self.0) {
            running.envoys.swap_remove(mine);
        }
        drop(running);
        CHANGED.notify_waiters();
    }
}

/// Waits while another test is alone, or waits to be and this one does not run yet.
pub(crate) async fn permit() -> Permit {
    let me = Handle::current().id();
    until(|running| {
        let may = match running.alone {
            Some(one) => one == me,
            None => running.waiting == 0 || running.envoys.contains(&me),
        };
        if may {
            running.envoys.push(me);
        }
        may
    })
    .await;
    Permit(me)
}

async fn until(mut may: impl FnMut(&mut Running) -> bool) {
    loop {
        let changed = CHANGED.notified();
        if may(&mut running()) {
            return;
        }
        changed.await;
    }
}

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::runtime::Builder;

    use super::*;

    /// Sixteen tests, each on a thread of its own, of which every fourth wants to be alone.
    #[test]
    fn who_is_alone_runs_beside_nobody_and_everybody_gets_to_run() {
        let (beside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let run = async || {
            let now = beside.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(beside.fetch_sub(1, Ordering::SeqCst) >= 1);
            now
        };
        let one = async |number: usize| {
            for _ in 0..5 {
                if number.is_multiple_of(4) {
                    let _alone = alone().await;
                    let _permits = (permit().await, permit().await);
                    assert_eq!((run().await, beside.load(Ordering::SeqCst)), (1, 0));
                } else {
                    let _first = permit().await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    let _second = permit().await;
                    run().await;
                }
            }
        };
        std::thread::scope(|threads| {
            for number in 0..16 {
                threads
                    .spawn(move || Builder::new_current_thread().enable_time().build().unwrap().block_on(one(number)));
            }
        });
        assert!(most.into_inner() > 1, "the others do run beside each other");
        assert!(running().envoys.is_empty() && running().alone.is_none() && running().waiting == 0);
    }
}
