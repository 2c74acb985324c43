//! What a client gets instead: an answer that is rewritten in place of the host's, or a reply to a request that was turned away.

mod call;
mod place;
mod replacement;
mod reply;
mod rewrite;
mod serve;
mod stale;
mod template;

pub use call::{answer, headers_again};
pub use place::{Answered, Placed, place, place_grpc_rejection};
pub use replacement::{PATIENCE, Replacement, ReplacementEffect};
pub use reply::{
    Disposition, FALLBACK_HEADER, Failed, GrpcStatus, LocalReply, REJECT_HEADER, Reply, ReplyContext, Unserved,
    retry_after_seconds,
};
pub use serve::{
    AskedCall, Detour, FailedAnswer, Served, Sources, StandIn, call_reply, choose_further, detour_says,
    serve_after_call, serve_failure, serve_rejection, would_serve,
};
pub(crate) use serve::{CALL, ROUTE, STALE, STATIC};
pub use stale::{AnswerIndex, AskedFor, CacheControl, Capture, Kept, KeptAnswer, ServedAnswer, StaleKey};
pub use template::{field, kept_parts, parts_on_detour};
