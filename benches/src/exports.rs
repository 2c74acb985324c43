//! What Node calls, in a module of one thread and without imports.

#![allow(unsafe_code)] // An export's name must be free of mangling, and that alone counts as unsafe.

use std::cell::RefCell;

use crate::{Bench, CASES, Case};

thread_local! {
    static ALL: RefCell<Vec<Bench>> = const { RefCell::new(Vec::new()) };
}

/// Sets up all cases and gives their number.
#[unsafe(no_mangle)]
pub extern "C" fn start() -> usize {
    ALL.set(CASES.iter().copied().map(Bench::new).collect());
    CASES.len()
}

/// The size of a case's batches.
#[unsafe(no_mangle)]
pub extern "C" fn batch(case: usize) -> u32 {
    CASES.get(case).map_or(0, Case::batch)
}

/// Sets the scene for the next batch of a case.
#[unsafe(no_mangle)]
pub extern "C" fn prepare(case: usize) {
    ALL.with_borrow_mut(|all| {
        if let Some(bench) = all.get_mut(case) {
            bench.prepare();
        }
    });
}

/// Runs the batch and says how many operations did what the case is about.
#[unsafe(no_mangle)]
pub extern "C" fn run(case: usize) -> u32 {
    ALL.with_borrow_mut(|all| all.get_mut(case).map_or(0, Bench::run))
}
