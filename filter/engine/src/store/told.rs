//! What is said at most every so often, by whoever is first of all workers, of any release.

use core::time::Duration;

use super::{Expected, Store, paths};
use crate::base::time::Timestamp;

/// So often what is missing is said.
pub const SAY_EVERY: Duration = Duration::from_secs(600);

/// Whether what was said then is to be said again.
pub fn is_to_be_said(last: Timestamp, now: Timestamp) -> bool {
    last.plus(SAY_EVERY).remaining(now, SAY_EVERY).is_none()
}

/// Whether `what` is to be said now. It then counts as said.
pub fn is_due(store: &mut dyn Store, what: &str, now: Timestamp) -> bool {
    let key = paths::told(what);
    let before = store.get(&key);
    let last =
        before.as_ref().and_then(|(bytes, _)| Some(Timestamp(u64::from_le_bytes(bytes.as_slice().try_into().ok()?))));
    if last.is_some_and(|last| !is_to_be_said(last, now)) {
        return false;
    }
    let expected = before.map_or(Expected::Absent, |(_, version)| Expected::Version(version));
    store.swap(&key, &now.0.to_le_bytes(), expected).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn each_thing_is_said_once_in_a_while() {
        let (mut store, at) = (MemoryStore::default(), Timestamp::from_secs);
        let mut is_due = |what, second| is_due(&mut store, what, at(second));
        assert_eq!([is_due("a", 1000), is_due("a", 1001), is_due("b", 1001)], [true, false, true]);
        assert_eq!([is_due("a", 1599), is_due("a", 1600), is_due("a", 1601)], [false, true, false]);
        assert!(is_due("a", 10), "the clock was put back");
    }

    #[test]
    fn bytes_of_others_are_no_time() {
        let mut store = MemoryStore::default();
        store.set(&paths::told("a"), b"seven");
        assert!(is_due(&mut store, "a", Timestamp::from_secs(1000)));
        assert!(!is_due(&mut store, "a", Timestamp::from_secs(1001)));
    }
}
