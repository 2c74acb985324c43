//! Where the module sits, each seat with a VM of its own on every thread.

/// A seat of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Seat {
    /// The HTTP filter just before the router: one context for a request.
    #[default]
    Request,
    /// The upstream filter of the cluster: one context for an attempt.
    Attempt,
}

impl Seat {
    /// This seat's VM on a worker.
    pub fn on(self, worker: usize) -> Place {
        Place { worker, seat: self }
    }
}

/// One worker's VM of one seat. A plain number is a worker's VM of the request seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The worker, by its number from 0.
    pub worker: usize,
    /// The seat.
    pub seat: Seat,
}

impl From<usize> for Place {
    fn from(worker: usize) -> Self {
        Seat::Request.on(worker)
    }
}
