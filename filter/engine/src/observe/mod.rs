//! What an operator sees.

pub mod metrics;
