//! Attempts of requests that are governed and that this seat knows nothing of: the two seats do not belong together.

use core::cell::Cell;
use core::time::Duration;

use crate::base::time::Timestamp;
use crate::host::Host;
use crate::store::{Store, told};

/// Why an attempt is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// The policy that governs it is not in this seat's shared data.
    OfAnotherVm,
    /// What the request seat has left for it cannot be read.
    OfAnotherRelease,
}

/// While the seats are updated one after the other there are some for a moment.
const LASTS: Duration = Duration::from_secs(10);

/// And fewer than this are none worth saying.
const MANY: u32 = 20;

/// The attempts since the last one that was known.
#[derive(Debug, Default)]
pub struct Strangers {
    count: Cell<u32>,
    since: Cell<Timestamp>,
}

impl Strangers {
    /// An attempt is known.
    pub fn end(&self) {
        self.count.set(0);
    }

    /// An attempt is not known. It is said, now and then, if none has been for a while.
    pub fn meet(&self, store: &mut dyn Store, host: &dyn Host, stranger: Stranger, now: Timestamp) {
        if self.count.get() == 0 {
            self.since.set(now);
        }
        self.count.set(self.count.get().saturating_add(1));
        if self.count.get() < MANY || now.apart(self.since.get()) < LASTS {
            return;
        }
        // The next look is after as many.
        self.count.set(0);
        let (what, line) = match stranger {
            Stranger::OfAnotherVm => (
                "vm_id",
                "attempt seat: the policies of requests are not in the shared data of this seat, so their attempts are left to \
                 Envoy: give both seats the same `vm_id`",
            ),
            Stranger::OfAnotherRelease => (
                "release",
                "attempt seat: requests come from a request seat of another release, so their attempts are left to Envoy: give \
                 both seats the same module",
            ),
        };
        if told::is_due(store, what, now) {
            host.log(true, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_host::MemoryHost;
    use crate::store::memory::MemoryStore;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn strangers_are_told_when_they_are_many_and_last() {
        let (mut store, host, strangers) = (MemoryStore::default(), MemoryHost::default(), Strangers::default());
        let mut said = |second: u64, is_known: bool| {
            if is_known {
                strangers.end();
            } else {
                strangers.meet(&mut store, &host, Stranger::OfAnotherVm, Timestamp::from_secs(second));
            }
            host.take_lines().len()
        };
        // An update, of a few seconds.
        assert_eq!((0..100).map(|number| said(1000 + number / 20, false)).sum::<usize>(), 0);
        assert_eq!(said(1006, true), 0);
        // One now and then.
        assert_eq!((0..100).map(|number| said(1010 + number, number % 10 == 0)).sum::<usize>(), 0);
        assert_eq!((0..1500).map(|number| said(2000 + number, false)).sum::<usize>(), 3, "every ten minutes");
    }
}
