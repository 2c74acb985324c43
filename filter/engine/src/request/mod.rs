//! The request's life: admission, settlement, and what the access log says of it.

pub mod access_log;
mod active;
mod admission;
mod affinity;
mod blocks;
mod calling;
mod calls;
mod capturing;
mod chain;
mod clusters;
mod detour;
mod effect;
mod facts;
mod held;
mod hosts;
mod life;
mod plugin;
mod policy;
mod repeat;
mod retries;
mod running;
mod settlement;
mod stale;
mod ticket;

pub use active::ActivePolicy;
pub use blocks::{MOST_GROUPS, Pools};
pub use calling::{Calling, DueCall, PendingCall};
pub use calls::Call;
pub use effect::RequestEffect;
pub use hosts::{Sending, Sent};
pub use life::{Admitted, RequestState};
pub use plugin::{Configuration, MakeCall, RequestPlugin, RequestVm};
pub use policy::RequestPolicy;
pub use repeat::OutgoingCall;
pub use retries::{Accounted, Asked, AttemptsMade, Plan};
pub use ticket::{Decision, InFlightHold, Rejection, Ticket};

#[cfg(test)]
mod tests;
