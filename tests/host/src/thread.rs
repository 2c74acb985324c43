//! Where a VM runs.

/// One of Envoy's threads, each with its own VM of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Thread {
    /// A VM that only attempts the configuration and is then thrown away.
    Canary,
    /// The main thread: configured and ticking, but without requests.
    Main,
    /// A worker, by its number from 0.
    Worker(usize),
}

impl std::fmt::Display for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Thread::Canary => f.write_str("canary"),
            Thread::Main => f.write_str("main"),
            Thread::Worker(number) => write!(f, "worker {number}"),
        }
    }
}
