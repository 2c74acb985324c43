//! The requests that one worker has sent for one key, which the retry budget counts.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::store::record::{Kind, Reader, Record, Writer};
use crate::store::slot::Slot;
use crate::store::window::Deposits;

/// One worker's requests for one key. Its shape is the length of the budget's window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DepositSlot(Deposits);

impl DepositSlot {
    /// Counts a request.
    pub fn deposit(&mut self, window: &Duration, now: Timestamp) {
        if let Some(bucket) = self.0.current(now, *window) {
            *bucket = bucket.saturating_add(1);
        }
    }

    /// The requests in the window.
    #[must_use]
    pub fn tally(&self, window: &Duration, now: Timestamp) -> u32 {
        self.0.tally(now, *window)
    }
}

impl Slot for DepositSlot {
    type Shape = Duration;

    fn empty(_: &Duration) -> Self {
        DepositSlot::default()
    }

    fn has(&self, _: &Duration) -> bool {
        true
    }
}

impl Record for DepositSlot {
    const KIND: Kind = Kind::DepositSlot;

    fn size(&self) -> usize {
        Deposits::size(4)
    }

    fn write(&self, out: &mut Writer) {
        self.0.write(out);
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        Deposits::read(input).map(DepositSlot)
    }
}
