//! What the seats tell each other.

pub mod presence;
pub mod retry_context;
