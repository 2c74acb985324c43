//! The exchange in filter state, where both seats find it.

use holdfast_engine::seats::retry_context::{self, Exchange};

use crate::host::{self, Refusal};

/// What the seats have written about the request; `None` if that is nothing.
pub fn read() -> Option<Exchange> {
    Exchange::read_property(&host::property(retry_context::PROPERTY)?)
}

/// The same for the attempt seat, which leaves its mark on all that it writes back.
pub fn read_in_attempt_seat() -> Option<Exchange> {
    read().map(|exchange| Exchange { seen: true, ..exchange })
}

/// Leaves the exchange where the other tries and the other seat find it. Where the host refuses, the next try begins as a
/// first one and the access log lacks the tries.
pub fn write(exchange: &Exchange) -> Result<(), Refusal> {
    host::set_property(retry_context::PROPERTY, &exchange.property())
}
