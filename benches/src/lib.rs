//! What a decision costs: cases that a timer outside of here runs in batches.
//!
//! The cases drive the lives of requests and attempts as the wasm shell does, so they cost what ships: reading header maps, finding the
//! policy, its key and the decision, what is written to the access log and to the other seat, metrics. The host's part is left out. It
//! is one whose answers are prepared: a host call costs the copy of what it gives, and what is set is only noted. The store is a hash
//! map in memory.
//!
//! Native code and Node drive the same functions: [`prepare`](Bench::prepare) sets the scene for a batch, untimed,
//! and [`run`](Bench::run) is the batch itself. No clock is read in here; virtual time passes with the requests.

#![allow(clippy::expect_used, clippy::panic)] // A benchmark that cannot be set up has nothing to say.

pub mod case;
mod exports;
mod host;
mod listing;
mod scene;

pub use case::{CASES, Case, Kind, Part};

use scene::Scene;

/// One case with all that it needs.
pub struct Bench {
    case: Case,
    scene: Scene,
}

impl Bench {
    /// The scene of a case: its policies compiled, its workers and keys known to each other, its windows filled.
    pub fn new(case: Case) -> Self {
        Bench { case, scene: Scene::new(&case) }
    }

    /// Sets the scene for the next batch. Not to be timed.
    pub fn prepare(&mut self) {
        self.scene.prepare(&self.case);
    }

    /// Runs the batch and says how many operations did what the case is about; it must be all of them.
    pub fn run(&mut self) -> u32 {
        match self.case.part {
            Part::Admit => self.scene.admit(&self.case),
            Part::Reject => self.scene.reject(&self.case),
            Part::Succeed => self.scene.report(&self.case, true),
            Part::Fail => self.scene.report(&self.case, false),
            Part::Plan | Part::PlanPerTry => self.scene.plan(&self.case),
            Part::Grant => self.scene.grant(&self.case),
            Part::Send
            | Part::Steer
            | Part::SteerSpread
            | Part::SteerAnew
            | Part::SendInTurn
            | Part::SendByHash
            | Part::SendByLatency => self.scene.send(&self.case),
            Part::Judge | Part::JudgeRates => self.scene.judge(&self.case, true),
            Part::JudgeFailed => self.scene.judge(&self.case, false),
            Part::Serve => self.scene.serve(&self.case, false),
            Part::ServeBoth | Part::ServeHosts | Part::ServeSteered => self.scene.serve(&self.case, true),
            Part::Retry => self.scene.retry(&self.case),
            Part::List => self.scene.list(&self.case),
            Part::TakeOver => self.scene.take_over(),
        }
    }

    /// Reads and writes of the shared store until now.
    pub fn store_calls(&self) -> (usize, usize) {
        self.scene.store_calls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_measures_what_it_says() {
        for case in CASES {
            let mut bench = Bench::new(*case);
            for _ in 0..3 {
                bench.prepare();
                assert_eq!(bench.run(), case.batch(), "{case:?}");
            }
        }
    }

    #[test]
    fn the_healthy_path_reads_nothing_shared() {
        let healthy = [
            Part::Admit,
            Part::Succeed,
            Part::Plan,
            Part::PlanPerTry,
            Part::Send,
            Part::Steer,
            Part::SteerSpread,
            Part::SendInTurn,
            Part::SendByHash,
            Part::SendByLatency,
            Part::Judge,
            Part::JudgeRates,
            Part::Serve,
            Part::ServeBoth,
            Part::ServeHosts,
            Part::ServeSteered,
        ];
        for case in CASES.iter().filter(|case| healthy.contains(&case.part)) {
            let mut bench = Bench::new(*case);
            bench.prepare();
            let (before, _) = bench.store_calls();
            bench.run();
            assert_eq!(bench.store_calls().0 - before, 0, "{case:?}");
        }
    }

    #[test]
    fn a_retry_is_granted_by_what_all_workers_have_counted() {
        for case in CASES.iter().filter(|case| case.part == Part::Grant) {
            let mut bench = Bench::new(*case);
            bench.prepare();
            let before = bench.store_calls();
            bench.run();
            let after = bench.store_calls();
            let (reads, writes) = (after.0 - before.0, after.1 - before.1);
            // The breaker, every slot and the budget; the table of workers once a second.
            let each = (reads / case.batch() as usize, writes / case.batch() as usize);
            assert_eq!(each, (2 + case.workers, 1), "{case:?}");
        }
    }
}
