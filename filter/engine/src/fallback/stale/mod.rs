//! The last good answer to the same GET, kept as answers pass and served when there is none.
//!
//! What may be kept and served is what RFC 9111 lets a shared cache keep (section 3) and serve while it is cut off from the host
//! (section 4.2.4), and an answer's own `stale-if-error` (RFC 5861). Who asks for something gets only what was an answer to the same:
//! all that an answer is chosen by is kept with it, and compared.

mod answer;
mod asked;
mod cache_control;
mod capture;
mod conditional;
mod freshness;
mod index;
mod key;
mod vary;

pub use answer::{KeptAnswer, ServedAnswer};
pub use asked::AskedFor;
pub use cache_control::CacheControl;
pub use capture::Capture;
pub use index::{AnswerIndex, Kept};
pub use key::StaleKey;
