//! `concurrency`: a limit on requests in flight, over all workers.

pub mod in_flight;
pub mod key;
