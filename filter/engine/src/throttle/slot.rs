//! What one worker has counted for one key's throttle.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::store::record::{Kind, Reader, Record, Writer};
use crate::store::slot::Slot;
use crate::store::window::{Tally, TimeWindow};

/// One worker's counts for one key. Its shape is the length of the window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficSlot(pub TimeWindow);

impl TrafficSlot {
    /// What the window holds.
    #[must_use]
    pub fn tally(&self, window: &Duration, now: Timestamp) -> Tally {
        self.0.tally(now, *window)
    }
}

impl Slot for TrafficSlot {
    type Shape = Duration;

    fn empty(_: &Duration) -> Self {
        TrafficSlot::default()
    }

    fn has(&self, _: &Duration) -> bool {
        true
    }
}

impl Record for TrafficSlot {
    const KIND: Kind = Kind::TrafficSlot;

    fn size(&self) -> usize {
        TimeWindow::size(12)
    }

    fn write(&self, out: &mut Writer) {
        self.0.write(out);
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        TimeWindow::read(input).map(TrafficSlot)
    }
}
