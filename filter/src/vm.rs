//! What all plugins of one VM share: the worker, and the policies that are in use.
//!
//! Two listeners, or the old and the new configuration during an update, are two root contexts in one VM. Equal policies in
//! them are one and share their counts, so that a slot in shared data keeps its one writer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use holdfast_engine::attempt::Attempts;
use holdfast_engine::base::time::Timestamp;
use holdfast_engine::request::Governed;
use holdfast_engine::seats::retry_context::Exchange;
use holdfast_engine::store::worker::Worker;
use holdfast_policy::document::Policy;

use crate::governing::Governing;
use crate::host;
use crate::shared::SharedData;

/// The most policies that an attempt seat keeps; more than that have been replaced by updates long ago.
const MOST_POLICIES: usize = 2000;

thread_local! {
    static VM: Rc<Vm> = Rc::new(Vm::new());
}

/// One VM's common state.
pub struct Vm {
    /// This VM as one of the workers.
    pub worker: RefCell<Worker>,
    /// This VM as one of the attempt seats', which count hosts' tries.
    pub attempt_worker: RefCell<Worker>,
    /// The policies of the attempt seats, by their content.
    attempts: RefCell<HashMap<u64, Rc<RefCell<Attempts>>>>,
    in_use: RefCell<Vec<Weak<Governing>>>,
    /// What [`Governed::configure`] gave, by content.
    configured: RefCell<HashMap<u64, Timestamp>>,
}

impl Vm {
    fn new() -> Self {
        let seed = host::now();
        Vm {
            worker: RefCell::new(Worker::new(seed)),
            attempt_worker: RefCell::new(Worker::of_attempts(seed.rotate_left(17))),
            attempts: RefCell::default(),
            in_use: RefCell::new(Vec::new()),
            configured: RefCell::default(),
        }
    }

    /// The policy of an exchange as the attempt seats see it; `None` if the request seat's VM has not published it.
    pub fn attempts(&self, exchange: &Exchange, mut shared: SharedData) -> Option<Rc<RefCell<Attempts>>> {
        let mut policies = self.attempts.try_borrow_mut().ok()?;
        if let Some(known) = policies.get(&exchange.fingerprint)
            && known.try_borrow().is_ok_and(|known| known.is(exchange))
        {
            return Some(Rc::clone(known));
        }
        let fetched = Attempts::fetch(&mut shared, &exchange.policy, exchange.fingerprint)?;
        if policies.len() >= MOST_POLICIES {
            policies.clear();
        }
        let fetched = Rc::new(RefCell::new(fetched));
        policies.insert(exchange.fingerprint, Rc::clone(&fetched));
        Some(fetched)
    }

    /// Writes what the attempt seats have counted of hosts. When there is more to write at the latest.
    pub fn flush(&self, mut shared: SharedData, now: Timestamp) -> Option<Timestamp> {
        let (mut worker, policies) = (self.attempt_worker.try_borrow_mut().ok()?, self.attempts.try_borrow().ok()?);
        worker.tick(&mut shared, now);
        let flush = |policy: &Rc<RefCell<Attempts>>| policy.try_borrow_mut().ok()?.flush(&mut worker, &mut shared, now);
        policies.values().filter_map(flush).min()
    }

    /// The VM that runs this.
    pub fn current() -> Rc<Vm> {
        VM.with(Rc::clone)
    }

    /// Notes that a policy is configured now.
    pub fn configure(&self, governed: &mut Governed, mut shared: SharedData) {
        let Ok(mut configured) = self.configured.try_borrow_mut() else { return };
        let (content, now) = (governed.fingerprint(), Timestamp(host::now()));
        let since = governed.configure(&mut shared, configured.get(&content).copied(), now);
        if configured.len() >= MOST_POLICIES {
            configured.clear();
        }
        configured.extend(since.map(|since| (content, since)));
    }

    /// The policy at work: the one already in use if it is equal, else a new one.
    pub fn govern(&self, policy: Policy) -> Rc<Governing> {
        let fresh = Governed::new(policy.into());
        let Ok(mut in_use) = self.in_use.try_borrow_mut() else { return Rc::new(Governing::new(fresh)) };
        in_use.retain(|weak| weak.strong_count() > 0);
        let known = in_use.iter().filter_map(Weak::upgrade).find(|known| known.is(&fresh));
        known.unwrap_or_else(|| {
            let governing = Rc::new(Governing::new(fresh));
            in_use.push(Rc::downgrade(&governing));
            governing
        })
    }
}
