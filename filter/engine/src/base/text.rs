//! Numbers in words, for the log.

use core::time::Duration;

/// A share in whole percent, rounded down, so that it never claims a threshold that was not reached.
pub fn share(part: u32, whole: u32) -> String {
    let percent = u64::from(part).saturating_mul(100).checked_div(u64::from(whole)).unwrap_or(0);
    format!("{percent}%")
}

/// Whole seconds, or tenths and milliseconds where they matter.
pub fn seconds(duration: Duration) -> String {
    // Not `as_millis`: formatting 128 bits would add to the module.
    let millis = duration.as_secs().saturating_mul(1000).saturating_add(duration.subsec_millis().into());
    if millis >= 10_000 || millis.is_multiple_of(1000) {
        format!("{}s", millis.saturating_add(500) / 1000)
    } else if millis >= 1000 {
        format!("{}.{}s", millis / 1000, millis % 1000 / 100)
    } else {
        format!("{millis}ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(250)), "250ms");
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5s");
        assert_eq!(seconds(Duration::from_millis(2000)), "2s");
        assert_eq!(seconds(Duration::from_millis(61_600)), "62s");
    }
}
