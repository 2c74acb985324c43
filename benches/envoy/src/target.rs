//! What the figures are hoped to be. They are shown beside what was measured, and nothing depends on them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::case::{MANY_HOSTS, MANY_KEYS, MANY_POLICIES, named};
use crate::report::{overheads, ratios};
use crate::rounds::Rounds;
use crate::stage::{Module, Subject};
use crate::statistics::{Spread, by_median, paired};
use crate::{memory, saturation};

/// In what a target is told.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// So many times as much.
    Times,
    /// So many percent more.
    PercentMore,
    /// MiB.
    Mib,
    /// KiB.
    Kib,
}

/// One target.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// The module's name, where there are several.
    pub module: Option<String>,
    /// What was compared.
    pub what: String,
    /// What it was.
    pub measured: Spread,
    /// What it should not exceed.
    pub at_most: f64,
    /// What would be good.
    pub reach: f64,
    /// In what.
    pub unit: Unit,
}

/// What the targets are compared with.
pub struct Found<'a> {
    /// The cost of requests.
    pub cost: &'a Rounds<saturation::Sample>,
    /// The memory of workers.
    pub memory: &'a Rounds<memory::Sample>,
    /// The modules' sizes in bytes.
    pub sizes: &'a BTreeMap<String, u64>,
}

impl Found<'_> {
    /// All targets for which there are figures.
    pub fn targets(&self, modules: &[Module]) -> Vec<Target> {
        modules
            .iter()
            .flat_map(|module| OfModule { found: self, module, several: modules.len() > 1 }.targets())
            .collect()
    }
}

struct OfModule<'a> {
    found: &'a Found<'a>,
    module: &'a Module,
    several: bool,
}

impl OfModule<'_> {
    fn targets(&self) -> Vec<Target> {
        let growth = |few, many| self.growth(few, many);
        let memory = |case, noop| self.memory_above(case, noop);
        let size = self.found.sizes.get(&self.module.name).map(|bytes| *bytes as f64 / 1024.0);
        [
            self.target("request-seat / noop", Unit::Times, 1.3, 1.0, self.ratio("request-seat", "noop")),
            self.target("both-seats / noop-2", Unit::Times, 1.4, 1.1, self.ratio("both-seats", "noop-2")),
            self.target("ejected / noop-2", Unit::Times, 1.6, 1.3, self.ratio("ejected", "noop-2")),
            self.target("CPU of open / none", Unit::Times, 0.6, 0.4, self.whole("open", "none")),
            self.target(
                &format!("1 -> {MANY_POLICIES} policies"),
                Unit::PercentMore,
                10.0,
                3.0,
                growth("policies-1", "policies-100"),
            ),
            self.target(&format!("1 -> {MANY_KEYS} keys"), Unit::PercentMore, 10.0, 3.0, growth("keys-1", "keys-256")),
            self.target(
                &format!("3 -> {MANY_HOSTS} hosts"),
                Unit::PercentMore,
                10.0,
                3.0,
                growth("hosts-3", "hosts-200"),
            ),
            self.target("memory, request-seat - noop", Unit::Mib, 1.5, 0.5, memory("request-seat", "noop")),
            self.target("memory, both-seats - noop-2", Unit::Mib, 1.5, 0.5, memory("both-seats", "noop-2")),
            self.target("module", Unit::Kib, 480.0, 250.0, size.into_iter().collect()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn target(&self, what: &str, unit: Unit, at_most: f64, reach: f64, measured: Vec<f64>) -> Option<Target> {
        let module = self.several.then(|| self.module.name.clone());
        Some(Target { module, what: what.to_owned(), measured: Spread::of(measured)?, at_most, reach, unit })
    }

    /// What the case with this module is called.
    fn label(&self, case: &str) -> String {
        if self.several { Subject::label(case, self.module) } else { case.to_owned() }
    }

    fn overheads(&self, case: &str) -> Vec<f64> {
        named(case).map(|named| overheads(self.found.cost, &self.label(case), named)).unwrap_or_default()
    }

    fn ratio(&self, case: &str, noop: &str) -> Vec<f64> {
        named(case).map(|named| ratios(self.found.cost, &self.label(case), named, noop)).unwrap_or_default()
    }

    fn whole(&self, case: &str, base: &str) -> Vec<f64> {
        let cost = |label: &str| self.found.cost.figures(label, |sample| sample.cpu_us);
        paired(&cost(&self.label(case)), &cost(base), |cost, base| cost / base)
    }

    /// By how many percent the overhead with many is above that with few.
    fn growth(&self, few: &str, many: &str) -> Vec<f64> {
        let times = by_median(self.overheads(many), self.overheads(few));
        times.into_iter().map(|times| (times - 1.0) * 100.0).collect()
    }

    fn memory_above(&self, case: &str, noop: &str) -> Vec<f64> {
        self.found.memory.above(&self.label(case), noop, |sample| sample.per_worker_mib)
    }
}
