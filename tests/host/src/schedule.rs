//! What is under way, and whose timer fires next.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::caller::Asking;
use crate::flow::Flow;
use crate::thread::Thread;

pub(crate) type SharedFlow = Rc<RefCell<Flow>>;

/// Of one thread.
#[derive(Default)]
struct OfThread {
    /// When timers fire, and whose.
    timers: BTreeSet<(u64, u64)>,
    /// Answers that the module is still to be told of.
    answers: VecDeque<Asking>,
}

/// Requests and calls under way, in the order they came.
#[derive(Default)]
pub(crate) struct Schedule {
    flows: BTreeMap<u64, (SharedFlow, Option<u64>)>,
    next: u64,
    /// By thread, the main one first.
    threads: Vec<OfThread>,
}

fn place(thread: Thread) -> usize {
    match thread {
        Thread::Worker(number) => number + 1,
        Thread::Main | Thread::Canary => 0,
    }
}

impl Schedule {
    pub(crate) fn new(workers: usize) -> Self {
        Schedule { threads: (0..=workers).map(|_| OfThread::default()).collect(), ..Schedule::default() }
    }

    /// One more is under way.
    pub(crate) fn add(&mut self, mut flow: Flow) -> SharedFlow {
        flow.number = self.next;
        let flow = Rc::new(RefCell::new(flow));
        self.flows.insert(self.next, (Rc::clone(&flow), None));
        self.next += 1;
        flow
    }

    /// After a step of one: its timer is set anew, and one that is over leaves.
    pub(crate) fn stepped(&mut self, flow: &mut Flow) {
        let of_thread = &mut self.threads[place(flow.thread)];
        let Some((_, timer)) = self.flows.get_mut(&flow.number) else { return };
        let due = flow.due();
        if *timer != due {
            timer.take().map(|due| of_thread.timers.remove(&(due, flow.number)));
            of_thread.timers.extend(due.map(|due| (due, flow.number)));
            *timer = due;
        }
        if flow.answer.is_some() {
            self.flows.remove(&flow.number);
            of_thread.answers.extend(flow.take_call_answer());
        }
    }

    /// The next answer that the module on a thread is to be told of.
    pub(crate) fn take_answer(&mut self, thread: Thread) -> Option<Asking> {
        self.threads[place(thread)].answers.pop_front()
    }

    /// The timer that fires next on a thread; those of one that takes a step right now wait.
    pub(crate) fn next_timer(&self, thread: Thread) -> Option<(u64, u64)> {
        let is_free = |number: &u64| self.flows.get(number).is_some_and(|(flow, _)| flow.try_borrow().is_ok());
        self.threads[place(thread)].timers.iter().find(|(_, number)| is_free(number)).copied()
    }

    pub(crate) fn get(&self, number: u64) -> Option<SharedFlow> {
        self.flows.get(&number).map(|(flow, _)| Rc::clone(flow))
    }

    /// All that are under way.
    pub(crate) fn all(&self) -> impl Iterator<Item = &SharedFlow> {
        self.flows.values().map(|(flow, _)| flow)
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }
}
