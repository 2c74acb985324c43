//! The kinds of block: what has state, and so a place in the store of its own.

/// What has a place of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum BlockKind {
    /// The policy's text, for the attempt seats.
    Text,
    /// Which keys and clusters there are.
    Keys,
    /// The breaker.
    Breaker,
    /// The requests in flight.
    Concurrency,
    /// What the throttle counts.
    Throttle,
    /// The retry budget.
    Retry,
    /// The hosts.
    Outlier,
    /// The answers that are kept.
    Stale,
}

/// How many kinds there are.
pub const KINDS: usize = 8;

impl BlockKind {
    /// All, by number.
    pub const ALL: [BlockKind; KINDS] = [
        BlockKind::Text,
        BlockKind::Keys,
        BlockKind::Breaker,
        BlockKind::Concurrency,
        BlockKind::Throttle,
        BlockKind::Retry,
        BlockKind::Outlier,
        BlockKind::Stale,
    ];

    /// Whether a new block of this kind begins with what is true of the one before it. The others count afresh, or go on with what they
    /// had.
    #[must_use]
    pub const fn is_taken_over(self) -> bool {
        matches!(self, BlockKind::Breaker | BlockKind::Concurrency | BlockKind::Outlier)
    }

    /// The word in the names of what belongs to it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            BlockKind::Text => "text",
            BlockKind::Keys => "keys",
            BlockKind::Breaker => "breaker",
            BlockKind::Concurrency => "concurrency",
            BlockKind::Throttle => "throttle",
            BlockKind::Retry => "retry",
            BlockKind::Outlier => "outlier",
            BlockKind::Stale => "stale",
        }
    }
}

/// One thing for each kind of block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ByKind<T>([T; KINDS]);

impl<T> ByKind<T> {
    /// What `make` gives for each.
    pub fn new(make: impl FnMut(BlockKind) -> T) -> Self {
        ByKind(BlockKind::ALL.map(make))
    }

    /// That of a kind.
    #[must_use]
    pub fn get(&self, kind: BlockKind) -> &T {
        let ByKind([text, keys, breaker, concurrency, throttle, retry, outlier, stale]) = self;
        match kind {
            BlockKind::Text => text,
            BlockKind::Keys => keys,
            BlockKind::Breaker => breaker,
            BlockKind::Concurrency => concurrency,
            BlockKind::Throttle => throttle,
            BlockKind::Retry => retry,
            BlockKind::Outlier => outlier,
            BlockKind::Stale => stale,
        }
    }

    /// The same to change.
    pub fn get_mut(&mut self, kind: BlockKind) -> &mut T {
        let ByKind([text, keys, breaker, concurrency, throttle, retry, outlier, stale]) = self;
        match kind {
            BlockKind::Text => text,
            BlockKind::Keys => keys,
            BlockKind::Breaker => breaker,
            BlockKind::Concurrency => concurrency,
            BlockKind::Throttle => throttle,
            BlockKind::Retry => retry,
            BlockKind::Outlier => outlier,
            BlockKind::Stale => stale,
        }
    }
}
