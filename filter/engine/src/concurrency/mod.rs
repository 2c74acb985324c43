//! `concurrency`: a limit on requests in flight.

pub mod in_flight;
