//! What a client gets instead: a reply in place of the host's answer, or of a request that was turned away.

mod reply;
mod serve;
mod template;

pub use reply::{Disposition, FALLBACK_HEADER, LocalReply, REJECT_HEADER, Reply, ReplyContext, retry_after_seconds};
pub use serve::{serve_failure, serve_rejection};
pub use template::{field, kept_parts};
