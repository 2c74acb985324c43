//! The calls of fallbacks: those that are to be made, and those under way. A root context makes them, which outlives the stream whose answer
//! is held back meanwhile.

use core::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::active::{ActivePolicy, CallPermit};
use super::repeat::{OutgoingCall, Repeat};
use crate::fallback::{AskedCall, AskedFor, Failed, Replacement, Unserved};
use crate::http::outcome::Answer;
use crate::store::keys::Key;

/// What a request was settled with, which is to be repeated.
pub(super) struct ToRepeat {
    pub(super) active: Rc<ActivePolicy>,
    pub(super) key: Key,
    pub(super) asked: Box<AskedCall>,
    /// The request.
    pub(super) repeat: Box<Repeat>,
    /// What other fallbacks insert of it, in the order of [`ActivePolicy::kept`].
    pub(super) kept: Vec<Option<Vec<u8>>>,
    /// What it asks for, where the last good answer to the same is kept.
    pub(super) stale: Option<Box<AskedFor>>,
    /// How it has ended at its own cluster.
    pub(super) answer: Answer,
    /// Why no other cluster serves by a route.
    pub(super) unrouted: Unserved,
    /// The fallbacks that could not serve.
    pub(super) failed: Vec<Failed>,
    /// The end of the line in the access log.
    pub(super) tail: String,
}

/// A request whose answer is held back while another cluster is asked the same.
pub struct Calling {
    /// How the host names its stream: its context.
    pub stream: u32,
    /// Whose fallback it is.
    pub(super) active: Rc<ActivePolicy>,
    /// Of the answer that is held back: whether it is nothing but headers, and whether a host gave it.
    pub(super) ended: bool,
    pub(super) is_hosts: bool,
    /// Whether its body has come by meanwhile, and is held back with it.
    pub(super) has_body: Cell<bool>,
    pub(super) phase: RefCell<Phase>,
}

/// How far a call has come.
pub(super) enum Phase {
    /// It is to be answered.
    Waiting(Box<ToRepeat>),
    /// It was, and the answer that was held back is being replaced, or goes on as it is.
    Over(Option<Rc<Replacement>>),
}

/// A call that is to be made.
pub struct DueCall {
    /// What to send, and where.
    pub request: OutgoingCall,
    pending: PendingCall,
}

/// A call under way, which counts until this is dropped.
pub struct PendingCall {
    calling: Weak<Calling>,
    _permit: CallPermit,
}

impl DueCall {
    /// One for a request.
    pub(super) fn new(calling: &Rc<Calling>, permit: CallPermit, request: OutgoingCall) -> Self {
        DueCall { request, pending: PendingCall { calling: Rc::downgrade(calling), _permit: permit } }
    }

    /// It was made, or could not be.
    pub fn into_pending(self) -> PendingCall {
        self.pending
    }
}

impl PendingCall {
    /// It is over. Gives who waits for it, if that is still there.
    pub fn end(self) -> Option<Rc<Calling>> {
        self.calling.upgrade()
    }
}

/// The calls of a plugin that are to be made.
#[derive(Default)]
pub struct DueCalls(RefCell<VecDeque<DueCall>>);

impl DueCalls {
    /// One more.
    pub(super) fn add(&self, call: DueCall) {
        if let Ok(mut all) = self.0.try_borrow_mut() {
            all.push_back(call);
        }
    }

    /// Whether there are any. Costs nothing.
    pub(super) fn are_any(&self) -> bool {
        self.0.try_borrow().is_ok_and(|all| !all.is_empty())
    }

    /// Takes the first that somebody still waits for.
    pub(super) fn take(&self) -> Option<DueCall> {
        let mut all = self.0.try_borrow_mut().ok()?;
        while let Some(call) = all.pop_front() {
            if call.pending.calling.strong_count() > 0 {
                return Some(call);
            }
        }
        None
    }
}
