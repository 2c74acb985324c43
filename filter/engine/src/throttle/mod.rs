//! `throttle`: the less of what it asked for a service delivers, the less it is asked for.

pub mod key;
mod rejection;
pub mod slot;

pub use rejection::{rejection, rejects};
