//! What the seats tell each other: through shared data for all requests, through filter state for one.

pub mod further;
pub mod policy_text;
pub mod presence;
pub mod retry_context;
