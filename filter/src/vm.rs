//! What all plugins of one VM share: the worker, and the policies that are in use.
//!
//! Two listeners, or the old and the new configuration during an update, are two root contexts in one VM. Equal policies in
//! them are one and share their counts, so that a slot in shared data keeps its one writer.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use holdfast_policy::document::Policy;
use holdfast_policy::governed::Governed;
use holdfast_policy::worker::Worker;

use crate::governing::Governing;
use crate::host;

thread_local! {
    static VM: Rc<Vm> = Rc::new(Vm::new());
}

/// One VM's common state.
pub struct Vm {
    /// This VM as one of the workers.
    pub worker: RefCell<Worker>,
    in_use: RefCell<Vec<Weak<Governing>>>,
}

impl Vm {
    fn new() -> Self {
        Vm { worker: RefCell::new(Worker::new(host::now())), in_use: RefCell::new(Vec::new()) }
    }

    /// The VM that runs this.
    pub fn current() -> Rc<Vm> {
        VM.with(Rc::clone)
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
