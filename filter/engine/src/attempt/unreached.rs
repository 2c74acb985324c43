//! Hosts to which no connection could be had for as long as a request lasted.
//!
//! A single wait in vain may be a handshake that takes longer than the request was given: the connection goes on being made, and
//! serves the next one. Only the next wait that begins after it says that nothing came of it. All that wait beside each other wait
//! for the same connections, and are one wait.

use crate::base::time::Timestamp;

/// The most hosts that are remembered. Where there are more, the one that was waited for longest ago is waited for anew.
const MOST: usize = 64;

/// The hosts that were waited for in vain, as one worker has met them, each with the end of the last wait that counted.
#[derive(Debug, Default)]
pub(super) struct Unreached(Vec<(Vec<u8>, Timestamp)>);

impl Unreached {
    /// Notes that an attempt waited for a host from `began` to `now` and had no connection. Whether that counts: another had waited
    /// in vain before it began.
    pub(super) fn wait_in_vain(&mut self, host: &[u8], began: Timestamp, now: Timestamp) -> bool {
        let Some(known) = self.0.iter_mut().find(|(known, _)| known == host) else {
            if self.0.len() >= MOST
                && let Some(oldest) = self.0.iter().enumerate().min_by_key(|(_, (_, end))| *end).map(|(index, _)| index)
            {
                self.0.swap_remove(oldest);
            }
            self.0.push((host.to_owned(), now));
            return false;
        };
        // A wait from before the clock was put back is over.
        let counts = began >= known.1 || known.1 > now;
        if counts {
            known.1 = now;
        }
        counts
    }

    /// Notes that there is a connection to a host.
    pub(super) fn reach(&mut self, host: &[u8]) {
        self.0.retain(|(known, _)| known != host);
    }

    /// Whether no host is waited for.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn waits(hosts: &mut Unreached, host: &str, began: u64, now: u64) -> bool {
        hosts.wait_in_vain(host.as_bytes(), Timestamp::from_millis(began), Timestamp::from_millis(now))
    }

    #[test]
    fn waits_beside_each_other_are_one_and_the_first_says_nothing() {
        let mut hosts = Unreached::default();
        for began in 0..50 {
            assert!(!waits(&mut hosts, "a", began, began + 500), "{began}");
        }
        assert!(waits(&mut hosts, "a", 500, 1000), "it began when the first was over");
        assert!(!waits(&mut hosts, "a", 510, 1010));
        assert!(!waits(&mut hosts, "a", 999, 1499));
        assert!(waits(&mut hosts, "a", 1000, 1500));
        assert!(waits(&mut hosts, "a", 60_000, 60_500));
    }

    #[test]
    fn each_host_is_waited_for_by_itself_and_anew_after_a_connection() {
        let mut hosts = Unreached::default();
        assert!(hosts.is_empty());
        assert!(!waits(&mut hosts, "a", 0, 500));
        assert!(!waits(&mut hosts, "b", 500, 1000));
        assert!(waits(&mut hosts, "a", 1000, 1500));
        hosts.reach(b"a");
        assert!(!waits(&mut hosts, "a", 2000, 2500));
        assert!(waits(&mut hosts, "b", 3000, 3500));
    }

    #[test]
    fn a_clock_that_is_put_back_holds_no_host_free() {
        let mut hosts = Unreached::default();
        assert!(!waits(&mut hosts, "a", 1_000_000, 1_000_500));
        assert!(waits(&mut hosts, "a", 500, 1000));
        assert!(!waits(&mut hosts, "a", 600, 1100));
    }

    #[test]
    fn of_many_hosts_the_last_ones_are_kept() {
        let mut hosts = Unreached::default();
        for number in 0..100 {
            assert!(!waits(&mut hosts, &number.to_string(), number, number + 1));
        }
        assert_eq!(hosts.0.len(), MOST);
        assert!(!waits(&mut hosts, "0", 200, 201));
        assert!(waits(&mut hosts, "99", 200, 201));
    }
}
