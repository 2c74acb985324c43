//! How the seats find each other in the store: the request seat publishes its policies, the attempt seat shows that it is
//! there.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::store::record::{Kind, Reader, Record, Writer};

/// How often an attempt seat shows itself while it is used.
pub const TELL_EVERY: Duration = Duration::from_secs(30);

/// How long it then counts as there. It goes away only by a change of the configuration.
pub const LASTS: Duration = Duration::from_secs(120);

/// When an attempt seat was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    /// Then.
    pub seen: Timestamp,
}

impl Presence {
    /// Whether it still counts as there.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.seen.plus(LASTS).remaining(now, LASTS).is_some()
    }
}

impl Record for Presence {
    const KIND: Kind = Kind::AttemptSeat;
    fn write(&self, out: &mut Writer) {
        out.time(self.seen);
    }
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        input.time().map(|seen| Presence { seen })
    }
}

/// A document with one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText(pub Vec<u8>);

impl Record for PolicyText {
    const KIND: Kind = Kind::PolicyText;
    fn size(&self) -> usize {
        self.0.len()
    }
    fn write(&self, out: &mut Writer) {
        out.rest(&self.0);
    }
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        Some(PolicyText(input.rest().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_seat_that_is_not_seen_any_more_is_gone_after_a_while() {
        let seen = Presence { seen: Timestamp::from_secs(1000) };
        assert!(seen.holds(Timestamp::from_secs(1119)));
        assert!(!seen.holds(Timestamp::from_secs(1120)));
        assert!(!seen.holds(Timestamp::from_secs(900)), "the clock was put back");
    }

    #[test]
    fn a_text_longer_than_other_fields_can_be_is_kept_whole() {
        let text = PolicyText(vec![b'x'; 100_000]);
        assert_eq!(PolicyText::decode(&text.encode(7), 7), Some(text));
    }
}
