//! The process's queues. Whoever has registered a queue last is called back for each item, on its own thread, as soon as what that thread
//! does is done. Source: proxy-wasm-cpp-host, `SharedQueue`; seen on Envoy 1.40.0: a wake-up comes with the whole of what a host has sent at once.

use std::collections::{BTreeMap, VecDeque};

use crate::seat::Seat;
use crate::thread::Thread;

/// Whom a queue calls back: a root context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registrant {
    pub(crate) thread: Thread,
    pub(crate) seat: Seat,
    pub(crate) root: u32,
}

#[derive(Debug)]
struct Queue {
    registrant: Registrant,
    items: VecDeque<Vec<u8>>,
}

/// All queues.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    tokens: BTreeMap<Vec<u8>, u32>,
    queues: BTreeMap<u32, Queue>,
    news: VecDeque<(Registrant, u32)>,
}

impl Queues {
    /// Has the registrant called back for a queue, which keeps what is in it; gives its token.
    pub(crate) fn register(&mut self, name: &[u8], registrant: Registrant) -> u32 {
        let next = u32::try_from(self.tokens.len() + 1).unwrap();
        let token = *self.tokens.entry(name.to_vec()).or_insert(next);
        let queue = self.queues.entry(token).or_insert(Queue { registrant, items: VecDeque::new() });
        queue.registrant = registrant;
        token
    }

    /// Puts an item in; `false` if there is no such queue.
    pub(crate) fn enqueue(&mut self, token: u32, item: Vec<u8>) -> bool {
        let Some(queue) = self.queues.get_mut(&token) else { return false };
        queue.items.push_back(item);
        self.news.push_back((queue.registrant, token));
        true
    }

    /// Takes an item out: the outer `None` if there is no such queue, the inner one if it is empty.
    pub(crate) fn dequeue(&mut self, token: u32) -> Option<Option<Vec<u8>>> {
        Some(self.queues.get_mut(&token)?.items.pop_front())
    }

    /// The next whom to call back on a thread, and for which queue.
    pub(crate) fn take_news(&mut self, thread: Thread) -> Option<(Registrant, u32)> {
        let position = self.news.iter().position(|(registrant, _)| registrant.thread == thread)?;
        self.news.remove(position)
    }

    /// How many items wait in all queues.
    pub(crate) fn len(&self) -> usize {
        self.queues.values().map(|queue| queue.items.len()).sum()
    }
}
