//! Tells two policies' contents apart, so that state never mixes between them.

use core::hash::{Hash, Hasher};

use holdfast_policy::document::Policy;

/// FNV-1a, 64 bits, with every integer widened to 8 little-endian bytes so that all platforms agree.
/// Source: Fowler, Noll, Vo; the constants are those of the 64-bit variant.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    fn write_usize(&mut self, value: usize) {
        self.write(&(value as u64).to_le_bytes());
    }
    fn write_isize(&mut self, value: isize) {
        self.write(&(value as i64).to_le_bytes());
    }
}

/// A hash of the policy's whole compiled content: equal for policies that decide alike however they were written
/// (`"1s"` or `"1000ms"`, a default spelled out or not), different otherwise but for chance (2^-64).
pub fn of_policy(policy: &Policy) -> u64 {
    of(policy)
}

/// The same hash of a text.
pub fn of_text(text: &[u8]) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    hasher.write(text);
    hasher.finish()
}

/// The same hash of anything.
pub fn of<T: Hash>(value: &T) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}
