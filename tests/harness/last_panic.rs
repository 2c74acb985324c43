//! What a thread has last panicked with, to be said again below a long log.

use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Has the panics of all threads remembered from now on, besides what is done about them already.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            LAST.with_borrow_mut(|last| *last = panic.to_string());
            before(panic);
        }));
    });
}

/// What this thread has last panicked with; empty if it has not.
pub(crate) fn said() -> String {
    LAST.with_borrow(String::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_panic_is_said_again() {
        watch();
        let host = String::from("a host");
        let _ = panic::catch_unwind(|| panic!("{host} is out"));
        assert!(said().contains("a host is out"), "{}", said());
    }
}
