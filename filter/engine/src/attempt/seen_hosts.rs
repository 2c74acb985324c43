//! Which hosts the attempts of a cluster have gone to lately. Where no list of hosts says so, it shows whether there is more than one.

/// Of fewer attempts nothing follows.
const FEW: u32 = 16;

/// After these, two in so many attempts are looked at: two that follow each other, as the cluster may take its hosts by turns.
const ONE_IN: u32 = 16;

/// A host that so many looks have not met counts as gone.
const FORGOTTEN_AFTER: u32 = 64;

/// The most hosts that are remembered. A request that has asked so many may try any other.
const MOST: usize = 8;

/// The hosts of one cluster as one worker has seen them.
#[derive(Debug, Default)]
pub(super) struct SeenHosts {
    attempts: u32,
    looks: u32,
    /// Their addresses, each with the number of the look that last met it.
    hosts: Vec<(Vec<u8>, u32)>,
}

impl SeenHosts {
    /// Counts an attempt that begins, and looks at its host's address when it is its turn.
    pub(super) fn begin(&mut self, address: impl FnOnce() -> Vec<u8>) {
        self.attempts = self.attempts.wrapping_add(1);
        if self.looks >= FEW && self.attempts % ONE_IN > 1 {
            return;
        }
        self.looks = self.looks.saturating_add(1);
        let (address, look) = (address(), self.looks);
        if let Some(known) = self.hosts.iter_mut().find(|(known, _)| *known == address) {
            known.1 = look;
            return;
        }
        if self.hosts.len() >= MOST
            && let Some(oldest) = self.hosts.iter().enumerate().min_by_key(|(_, host)| host.1).map(|(index, _)| index)
        {
            self.hosts.swap_remove(oldest);
        }
        self.hosts.push((address, look));
    }

    /// Whether there may be a host that is none of `these`: one was seen, or too little is known.
    pub(super) fn may_be_another(&self, these: impl Fn(&[u8]) -> bool) -> bool {
        let is_there = |look: u32| self.looks.saturating_sub(look) < FORGOTTEN_AFTER;
        self.looks < FEW || self.hosts.iter().any(|(address, look)| is_there(*look) && !these(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn begin(seen: &mut SeenHosts, address: &str, times: u32) {
        for _ in 0..times {
            seen.begin(|| address.into());
        }
    }

    fn may_be_another(seen: &SeenHosts, than: &str) -> bool {
        seen.may_be_another(|address| address == than.as_bytes())
    }

    #[test]
    fn a_host_is_alone_when_enough_attempts_have_gone_to_it() {
        let mut seen = SeenHosts::default();
        assert!(may_be_another(&seen, "a"), "nothing is known");
        begin(&mut seen, "a", FEW - 1);
        assert!(may_be_another(&seen, "a"));
        begin(&mut seen, "a", 1);
        assert!(!may_be_another(&seen, "a"));
        assert!(may_be_another(&seen, "b"));
    }

    #[test]
    fn a_host_that_comes_later_is_seen_also_where_hosts_take_turns() {
        for turns in 2..20 {
            let mut seen = SeenHosts::default();
            begin(&mut seen, "a", FEW);
            for number in 0..20 * ONE_IN {
                begin(&mut seen, if number % turns == 0 { "a" } else { "b" }, 1);
            }
            assert!(may_be_another(&seen, "a") && may_be_another(&seen, "b"), "{turns}");
        }
    }

    #[test]
    fn a_host_that_is_gone_is_forgotten() {
        let mut seen = SeenHosts::default();
        begin(&mut seen, "b", 1);
        begin(&mut seen, "a", FEW);
        assert!(may_be_another(&seen, "a"));
        begin(&mut seen, "a", FORGOTTEN_AFTER * ONE_IN);
        assert!(!may_be_another(&seen, "a"));
    }

    #[test]
    fn of_many_hosts_the_last_ones_are_kept() {
        let mut seen = SeenHosts::default();
        for number in 0..FEW {
            begin(&mut seen, &number.to_string(), 1);
        }
        assert_eq!(seen.hosts.len(), MOST);
        let last = |address: &[u8]| {
            core::str::from_utf8(address).is_ok_and(|text| text.parse::<usize>().unwrap() >= FEW as usize - MOST)
        };
        assert!(!seen.may_be_another(last));
    }
}
