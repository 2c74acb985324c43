//! How the request seat learns that there is an attempt seat: that announces itself in the store.

use core::time::Duration;

use crate::base::recent::Recent;
use crate::base::time::Timestamp;
use crate::event::Event;
use crate::store::Store;
use crate::store::address::Address;
use crate::store::block::BlockKind;
use crate::store::cluster::GroupId;
use crate::store::directory::Occupant;
use crate::store::paths;
use crate::store::record::{Kind, Reader, Record, Writer};
use crate::store::worker::VIEW_LASTS;

/// How often an attempt seat announces itself while it is used.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);

/// How long it then counts as there. It goes away only by a change of the configuration.
pub const LASTS: Duration = Duration::from_secs(120);

/// Where an attempt seat says that it is there, for a cluster under a key in the block of keys that has this place; `None` for a
/// cluster that has none.
#[must_use]
pub fn seat(keys: Occupant, key: Occupant, group: GroupId) -> Option<Address> {
    let path = paths::of_group(BlockKind::Keys, keys.index, key.index, group)?;
    Some(Address::new(format!("{path}/seat"), group.mark(keys.tenancy, key)))
}

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

/// So long after the first request that wants an attempt seat one that has not shown itself is missing.
const MISSING_AFTER: Duration = Duration::from_secs(10);

/// Where no request wants one for so long nothing is known any more.
const WANTED_LASTS: Duration = Duration::from_secs(10);

/// Each worker looks so often whether it is to be said again.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long an attempt seat is not counted on after one was missed.
const MISSED_LASTS: Duration = Duration::from_secs(60);

/// Whether there is an attempt seat for one cluster under one key, as one worker of the request seat knows it.
#[derive(Debug)]
pub struct AttemptSeatView {
    /// What it says of itself.
    cell: Address,
    /// Whether there is one.
    known: Recent<bool>,
    /// Until then one that shows itself is not counted on: it did not see a request. It may be another listener's.
    missed_until: Timestamp,
    /// Since when requests want one that is not there, and when one last did.
    wanted: Option<(Timestamp, Timestamp)>,
}

impl AttemptSeatView {
    /// Nothing is known yet.
    pub fn new(cell: Address) -> Self {
        AttemptSeatView { cell, known: Recent::default(), missed_until: Timestamp::ZERO, wanted: None }
    }

    /// Whether there is one that can be counted on, for a request that wants one; looked up once a second.
    pub fn is_there(&mut self, store: &mut dyn Store, now: Timestamp) -> bool {
        let is_there = self.look(store, now);
        let since = self.wanted.filter(|(_, last)| now.apart(*last) < WANTED_LASTS).map_or(now, |(since, _)| since);
        self.wanted = (!is_there).then_some((since, now));
        is_there
    }

    /// Whether requests have wanted one for a while and none shows itself.
    pub fn is_missing(&self, now: Timestamp) -> bool {
        self.wanted.is_some_and(|(since, last)| now.apart(last) < WANTED_LASTS && now.apart(since) >= MISSING_AFTER)
    }

    fn look(&mut self, store: &mut dyn Store, now: Timestamp) -> bool {
        if self.missed_until.remaining(now, MISSED_LASTS).is_some() {
            return false;
        }
        self.known.get(now, VIEW_LASTS).unwrap_or_else(|| {
            let presence: Option<Presence> = self.cell.read(store);
            self.known.set(now, presence.is_some_and(|presence| presence.holds(now)))
        })
    }

    /// Notes that one that was counted on has not seen a request.
    pub fn miss(&mut self, now: Timestamp) {
        self.missed_until = now.plus(MISSED_LASTS);
    }
}

/// What an attempt seat says of itself to the request seats, for one cluster under one key.
#[derive(Debug)]
pub struct Announcement {
    cell: Address,
    last: Option<Timestamp>,
}

impl Announcement {
    /// Nothing has been said yet.
    pub fn new(cell: Address) -> Self {
        Announcement { cell, last: None }
    }

    /// Says, now and then, that there is an attempt seat.
    pub fn announce(&mut self, store: &mut dyn Store, now: Timestamp) {
        if self.last.is_none_or(|last| now.apart(last) >= ANNOUNCE_EVERY) {
            self.last = Some(now);
            // A later occupant's is left alone, and what cannot be said now is said in a while.
            let _ = self.cell.update(store, |_: Option<&Presence>| ((), Some(Presence { seen: now })));
        }
    }
}

/// The line of the log that says that one is missing.
pub fn missing() -> Event {
    let text = "no attempt seat sees its attempts, so only a request's last attempt judges its host, and retries are bounded by what \
                the router knows: give the cluster the attempt seat among its `http_filters`, with the `vm_id` and the module of \
                this seat";
    Event::Log { alarming: true, shadow: false, text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::record::Mark;
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
    fn one_that_no_request_finds_is_missing_after_a_while() {
        let mut store = MemoryStore::default();
        let cell = || Address::new("seat".to_owned(), Mark::default());
        let (mut seat, at) = (AttemptSeatView::new(cell()), Timestamp::from_secs);
        for second in 1000..1010 {
            assert!(!seat.is_there(&mut store, at(second)) && !seat.is_missing(at(second)), "it may show itself yet");
        }
        for second in 1010..1700 {
            assert!(!seat.is_there(&mut store, at(second)) && seat.is_missing(at(second)));
        }
        assert!(!seat.is_missing(at(1720)), "no request has wanted it for a while");
        Announcement::new(cell()).announce(&mut store, at(1720));
        assert!(seat.is_there(&mut store, at(1722)) && !seat.is_missing(at(1722)));
    }
}
