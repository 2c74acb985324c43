//! Random numbers for jitter and shares. Not for secrets.

/// SplitMix64. Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence that `seed` determines.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// Mixes something more into the seed.
    pub fn reseed(&mut self, more: u64) {
        self.0 ^= more.rotate_left(32);
        self.next();
    }

    /// The next number, uniform over all `u64`.
    #[allow(clippy::should_implement_trait)] // It never ends and gives no Option.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
    /// A number below `end`, uniform; 0 for an `end` of 0.
    pub fn below(&mut self, end: u64) -> u64 {
        scale(self.next(), end)
    }
}

/// A uniform number over all `u64` as one in [0, 1).
pub fn fraction(random: u64) -> f64 {
    // 53 bits are what an f64 between 0 and 1 can tell apart.
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// Scales a uniform number over all `u64` to a uniform one below `end`.
/// Source: Lemire, "Fast Random Integer Generation in an Interval", 2019, without its correction, which matters only for
/// ends near 2^64.
pub fn scale(random: u64, end: u64) -> u64 {
    ((u128::from(random) * u128::from(end)) >> 64) as u64
}
