//! What was looked up a moment ago.

use core::time::Duration;

use crate::base::time::Timestamp;

/// A value, and when it was looked up, if it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent<T>(Option<(Timestamp, T)>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent(None)
    }
}

impl<T: Copy> Recent<T> {
    /// The value, if it was looked up less than `lasts` ago. A look from the future is from before the clock was put back.
    pub fn get(&self, now: Timestamp, lasts: Duration) -> Option<T> {
        self.0.filter(|(at, _)| *at <= now && now.since(*at) < lasts).map(|(_, value)| value)
    }

    /// Takes over what was looked up now, and gives it.
    pub fn set(&mut self, now: Timestamp, value: T) -> T {
        self.0 = Some((now, value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_value_lasts_so_long_and_one_from_the_future_not_at_all() {
        let (lasts, at) = (Duration::from_millis(10), Timestamp::from_millis);
        let mut recent = Recent::default();
        assert_eq!(recent.get(at(1000), lasts), None, "nothing was looked up");
        assert_eq!(recent.set(at(1000), 7), 7);
        assert_eq!(recent.get(at(1000), lasts), Some(7));
        assert_eq!(recent.get(at(1009), lasts), Some(7));
        assert_eq!(recent.get(at(1010), lasts), None);
        assert_eq!(recent.get(at(999), lasts), None);
    }
}
