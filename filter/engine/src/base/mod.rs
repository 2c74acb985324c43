//! What everything else stands on: it knows no policy and no host.

pub mod fingerprint;
pub mod pauses;
pub mod random;
pub mod recent;
pub mod text;
pub mod time;
