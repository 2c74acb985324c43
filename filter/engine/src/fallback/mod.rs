//! What a client gets instead: an answer that is rewritten in place of the host's, or a reply to a request that was turned away.

mod place;
mod replacement;
mod reply;
mod rewrite;
mod serve;
mod template;

pub use place::{Answered, Placed, place, place_grpc_rejection};
pub use replacement::{PATIENCE, Replacement, ReplacementEffect};
pub use reply::{
    Disposition, FALLBACK_HEADER, GrpcStatus, LocalReply, REJECT_HEADER, Reply, ReplyContext, retry_after_seconds,
};
pub use serve::{serve_failure, serve_rejection};
pub use template::{field, kept_parts};
