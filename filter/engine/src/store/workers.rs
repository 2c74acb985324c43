//! The table of workers: who may write which slots.
//!
//! A worker (one VM on one thread) claims a place before its first request and renews the claim while it lives. The place's
//! number is part of the key of its slots. A worker that crashed stops renewing; another then takes the place over.

use core::time::Duration;

use crate::base::time::Timestamp;
use crate::store::record::{Kind, Reader, Record, Writer};

/// The key of the table. It names the records' version, so that an old and a new module in one process, which cannot read
/// each other's tables, do not overwrite them either.
pub const KEY: &str = "holdfast/9/workers";

/// The key of the table of the attempt seats' VMs, which have slots of their own.
pub const ATTEMPTS_KEY: &str = "holdfast/9/attempt_workers";

/// How long a claim lasts without being renewed.
pub const LEASE: Duration = Duration::from_secs(15);

/// How old a claim is renewed at. A worker that is late by less than the difference keeps its place.
pub const RENEW_AFTER: Duration = Duration::from_secs(3);

/// The most workers of one process. Beyond them a worker enforces but does not count.
pub const MOST: usize = 512;

/// The table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Workers {
    /// Counts the claims.
    pub next_nonce: u64,
    /// By place.
    pub claims: Vec<Claim>,
}

/// One claim on a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Names the claimant.
    pub nonce: u64,
    /// When it is void.
    pub expires: Timestamp,
}

/// A place that a worker holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerSlot {
    /// Its number, below [`MOST`].
    pub number: u16,
    /// The holder's nonce.
    pub nonce: u64,
}

impl Workers {
    /// Claims the first free place, or a new one; `None` when all [`MOST`] are taken. The nonce is made of the table's
    /// counter and of `random`: should the table be lost and begin again, it is still nobody else's.
    pub fn claim(&mut self, now: Timestamp, random: u64) -> Option<WorkerSlot> {
        let nonce = random.wrapping_add(self.next_nonce);
        let claim = Claim { nonce, expires: now.plus(LEASE) };
        let free = self.claims.iter().position(|claim| claim.expires.remaining(now, LEASE).is_none());
        let number = match free {
            Some(number) => {
                if let Some(slot) = self.claims.get_mut(number) {
                    *slot = claim;
                }
                number
            }
            None if self.claims.len() < MOST => {
                self.claims.push(claim);
                self.claims.len() - 1
            }
            None => return None,
        };
        self.next_nonce = self.next_nonce.wrapping_add(1);
        Some(WorkerSlot { number: u16::try_from(number).ok()?, nonce })
    }

    /// Renews the claim on `place`; `false` if somebody else has taken it over.
    pub fn renew(&mut self, slot: WorkerSlot, now: Timestamp) -> bool {
        match self.claims.get_mut(usize::from(slot.number)) {
            Some(claim) if claim.nonce == slot.nonce => {
                claim.expires = now.plus(LEASE);
                true
            }
            _ => false,
        }
    }
}

impl Record for Workers {
    const KIND: Kind = Kind::Workers;

    fn write(&self, out: &mut Writer) {
        out.u64(self.next_nonce);
        out.u16(self.claims.len().min(MOST) as u16);
        for claim in self.claims.iter().take(MOST) {
            out.u64(claim.nonce);
            out.time(claim.expires);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let next_nonce = input.u64()?;
        let len = usize::from(input.u16()?);
        if len > MOST {
            return None;
        }
        let mut claims = Vec::with_capacity(len);
        for _ in 0..len {
            claims.push(Claim { nonce: input.u64()?, expires: input.time()? });
        }
        Some(Workers { next_nonce, claims })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_crashed_workers_place_is_taken_over_after_its_lease_and_not_before() {
        let mut table = Workers::default();
        let start = Timestamp::from_secs(1000);
        let first = table.claim(start, 7).unwrap();
        let second = table.claim(start, 7).unwrap();
        assert_eq!((first.number, second.number), (0, 1));

        let just_before = start.plus(LEASE - Duration::from_millis(1));
        assert!(table.renew(second, just_before));
        let after = start.plus(LEASE);
        let third = table.claim(after, 7).unwrap();
        assert_eq!(third.number, 0, "the first never renewed");
        assert!(!table.renew(first, after), "and learns that it lost its place");
        assert!(table.renew(second, after));
    }

    #[test]
    fn a_claim_from_a_clock_that_was_ahead_does_not_block_its_place_for_ever() {
        let mut table = Workers::default();
        table.claim(Timestamp::from_secs(10_000), 7).unwrap();
        assert_eq!(table.claim(Timestamp::from_secs(1000), 7).unwrap().number, 0);
    }

    #[test]
    fn the_key_names_the_version_of_the_records() {
        assert_eq!(KEY, format!("holdfast/{}/workers", crate::store::record::VERSION));
        assert_eq!(ATTEMPTS_KEY, format!("holdfast/{}/attempt_workers", crate::store::record::VERSION));
    }

    #[test]
    fn a_full_table_refuses() {
        let mut table = Workers::default();
        for _ in 0..MOST {
            assert!(table.claim(Timestamp::from_secs(1), 7).is_some());
        }
        assert_eq!(table.claim(Timestamp::from_secs(1), 7), None);
    }
}
