//! The cases: what is in Envoy's way, and what must be seen for a measurement to count.

use serde::Serialize;
use serde_json::Value;

use crate::policies;

/// What a table puts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Everything is well.
    Healthy,
    /// Something is not, or is only watched.
    Special,
    /// Others that do similar things.
    Peers,
    /// More of something.
    Scale,
}

/// Which filters requests go through.
#[derive(Clone, Copy, Debug)]
pub enum Filters {
    /// None but the router.
    None,
    /// One that does nothing, built with the SDK.
    Noop(Seats),
    /// The same with the fewest exports.
    NoopLean(Seats),
    /// Holdfast with this document.
    Holdfast(Seats, fn() -> Value),
    /// Envoy's own admission control, outlier detection and retries under a budget.
    Native,
    /// A breaker in Lua.
    Lua,
}

/// Where a WebAssembly module sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seats {
    /// In the listener.
    Request,
    /// In the listener and in the cluster.
    Both,
    /// In the listener, behind another one that governs nothing.
    Second,
}

/// What happens before the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// All hosts answer once, then fail until the breaker opens, and are well again.
    TheBreakerOpens,
    /// One host fails until it is ejected, and goes on failing.
    AHostIsEjected,
}

/// What a good run shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Hosts answered everything, with 200.
    Answers,
    /// Hosts answered everything, and every answer was a failure that was replaced with 200.
    Replacements,
    /// Hosts answered everything, with 503.
    Failures,
    /// Hosts answered everything, with 200, as those of the cluster that a fallback chose.
    Detours,
    /// Nothing reached a host; Envoy answered everything with this status, in place of hosts, and the gauge of the breaker's state
    /// is this.
    Rejections {
        /// The answers' status.
        status: u16,
        /// The gauge `breaker_state`.
        state: u64,
    },
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Its place in tables.
    pub group: Group,
    /// What it is, in a few words.
    pub what: &'static str,
    /// The case whose cost is not its own: the same without filters. A base is its own.
    pub base: &'static str,
    /// What requests go through.
    pub filters: Filters,
    /// How many hosts the cluster has.
    pub hosts: usize,
    /// How many threads serve.
    pub workers: u32,
    /// How many tenants send by turns; without, all requests are the same.
    pub tenants: Option<u32>,
    /// How long a body requests have; without one they are GETs.
    pub body: usize,
    /// How long answers are that any cache may keep; 0: short ones that none may.
    pub answer: usize,
    /// What happens before the load.
    pub before: Before,
    /// Whether hosts fail while it is loaded.
    pub fails: bool,
    /// What a good run shows.
    pub shows: Shows,
}

impl Case {
    /// A case without anything special.
    const fn plain(name: &'static str, group: Group, filters: Filters, what: &'static str) -> Self {
        Case {
            name,
            group,
            what,
            base: "none",
            filters,
            hosts: 3,
            workers: 1,
            tenants: None,
            body: 0,
            answer: 0,
            before: Before::Nothing,
            fails: false,
            shows: Shows::Answers,
        }
    }

    /// The same with answers of this length that any cache may keep, beside this base.
    const fn answered(self, base: &'static str, answer: usize) -> Self {
        Case { base, answer, ..self }
    }

    /// Whether its cost depends on the module.
    pub fn has_holdfast(&self) -> bool {
        matches!(self.filters, Filters::Holdfast(..))
    }
}

/// The number of hosts of the cases with many.
pub const MANY_HOSTS: usize = 200;

/// The number of policies of the cases with many.
pub const MANY_POLICIES: usize = 100;

/// The number of tenants of the cases with many.
pub const MANY_KEYS: u32 = 256;

/// A kibibyte.
const KIB: usize = 1024;

/// What an open breaker answers.
const OPEN: Shows = Shows::Rejections { status: 503, state: 2 };

/// What its fallback answers.
const SERVED: Shows = Shows::Rejections { status: 200, state: 2 };

/// All cases, in the order of tables.
pub const CASES: &[Case] = &[
    Case::plain("none", Group::Healthy, Filters::None, "no filter"),
    Case::plain("noop-lean", Group::Healthy, Filters::NoopLean(Seats::Request), "does nothing, 4 calls"),
    Case::plain("noop", Group::Healthy, Filters::Noop(Seats::Request), "does nothing, Rust SDK"),
    Case::plain(
        "request-seat",
        Group::Healthy,
        Filters::Holdfast(Seats::Request, policies::request_seat),
        "breaker, fallback",
    ),
    Case::plain("noop-lean-2", Group::Healthy, Filters::NoopLean(Seats::Both), "noop-lean, both places"),
    Case::plain("noop-2", Group::Healthy, Filters::Noop(Seats::Both), "noop, both places"),
    Case::plain(
        "both-seats",
        Group::Healthy,
        Filters::Holdfast(Seats::Both, policies::both_seats),
        "breaker, retry, outlier",
    ),
    Case::plain(
        "both-seats-rates",
        Group::Healthy,
        Filters::Holdfast(Seats::Both, policies::rates),
        "the same, with rates",
    ),
    Case {
        before: Before::TheBreakerOpens,
        shows: OPEN,
        ..Case::plain("open", Group::Special, Filters::Holdfast(Seats::Request, policies::open), "open: 503")
    },
    Case {
        shows: Shows::Rejections { status: 503, state: 4 },
        ..Case::plain(
            "forced-open",
            Group::Special,
            Filters::Holdfast(Seats::Request, policies::forced_open),
            "forced open: 503",
        )
    },
    Case {
        before: Before::TheBreakerOpens,
        shows: SERVED,
        ..Case::plain(
            "open-fallback",
            Group::Special,
            Filters::Holdfast(Seats::Request, policies::open_with_fallback),
            "open: static fallback",
        )
    },
    Case {
        shows: Shows::Detours,
        ..Case::plain(
            "detour",
            Group::Special,
            Filters::Holdfast(Seats::Request, policies::detouring),
            "open: another cluster",
        )
    },
    Case::plain(
        "further",
        Group::Special,
        Filters::Holdfast(Seats::Both, policies::going_further),
        "both-seats, route for failure",
    ),
    Case {
        fails: true,
        shows: Shows::Failures,
        ..Case::plain(
            "failing",
            Group::Special,
            Filters::Holdfast(Seats::Request, policies::failing),
            "hosts fail, no fallback",
        )
    },
    Case {
        fails: true,
        shows: Shows::Replacements,
        ..Case::plain(
            "replaced",
            Group::Special,
            Filters::Holdfast(Seats::Request, policies::replacing),
            "hosts fail: fallback",
        )
    },
    Case {
        hosts: 5,
        before: Before::AHostIsEjected,
        ..Case::plain(
            "ejected",
            Group::Special,
            Filters::Holdfast(Seats::Both, policies::ejecting),
            "1 of 5 hosts is out",
        )
    },
    Case {
        hosts: 5,
        ..Case::plain(
            "five-hosts",
            Group::Special,
            Filters::Holdfast(Seats::Both, policies::both_seats),
            "5 hosts, Envoy's balance",
        )
    },
    Case {
        hosts: 5,
        ..Case::plain(
            "in-turn",
            Group::Special,
            Filters::Holdfast(Seats::Both, policies::in_turn),
            "5 hosts, each in turn",
        )
    },
    Case {
        hosts: 5,
        ..Case::plain(
            "by-hash",
            Group::Special,
            Filters::Holdfast(Seats::Both, policies::by_hash),
            "5 hosts, hash of the path",
        )
    },
    Case {
        hosts: 5,
        ..Case::plain(
            "by-latency",
            Group::Special,
            Filters::Holdfast(Seats::Both, policies::by_latency),
            "5 hosts, least latency",
        )
    },
    Case::plain("shadow", Group::Special, Filters::Holdfast(Seats::Both, policies::shadow), "all features, counting"),
    Case::plain(
        "second-seat",
        Group::Special,
        Filters::Holdfast(Seats::Second, policies::request_seat),
        "behind one that matches not",
    ),
    Case::plain("native", Group::Peers, Filters::Native, "admission, outlier det."),
    Case::plain("lua", Group::Peers, Filters::Lua, "a breaker in Lua"),
    Case::plain("policies-1", Group::Scale, Filters::Holdfast(Seats::Both, policies::single), "1 policy"),
    Case::plain("policies-100", Group::Scale, Filters::Holdfast(Seats::Both, policies::by_cluster), "100, by cluster"),
    Case::plain(
        "policies-100-globs",
        Group::Scale,
        Filters::Holdfast(Seats::Both, policies::by_glob),
        "100, globs of paths",
    ),
    Case {
        tenants: Some(1),
        ..Case::plain(
            "keys-1",
            Group::Scale,
            Filters::Holdfast(Seats::Request, policies::by_tenant),
            "header scope, 1 value",
        )
    },
    Case {
        tenants: Some(MANY_KEYS),
        ..Case::plain(
            "keys-256",
            Group::Scale,
            Filters::Holdfast(Seats::Request, policies::by_tenant),
            "header scope, 256 values",
        )
    },
    Case::plain("hosts-3", Group::Scale, Filters::Holdfast(Seats::Both, policies::both_seats), "3 hosts"),
    Case {
        base: "none-200",
        hosts: MANY_HOSTS,
        ..Case::plain("none-200", Group::Scale, Filters::None, "no filter, 200 hosts")
    },
    Case {
        base: "none-200",
        hosts: MANY_HOSTS,
        ..Case::plain("hosts-200", Group::Scale, Filters::Holdfast(Seats::Both, policies::both_seats), "200 hosts")
    },
    Case {
        base: "none-workers-2",
        workers: 2,
        ..Case::plain("none-workers-2", Group::Scale, Filters::None, "no filter, 2 workers")
    },
    Case {
        base: "none-workers-2",
        workers: 2,
        ..Case::plain("workers-2", Group::Scale, Filters::Holdfast(Seats::Both, policies::both_seats), "2 workers")
    },
    Case {
        base: "none-1k",
        body: KIB,
        ..Case::plain("none-1k", Group::Scale, Filters::None, "no filter, POST of 1 KiB")
    },
    Case {
        base: "none-1k",
        body: KIB,
        ..Case::plain(
            "body-1k",
            Group::Scale,
            Filters::Holdfast(Seats::Request, policies::slow),
            "POST of 1 KiB, request seat",
        )
    },
    Case {
        base: "none-1k",
        body: KIB,
        ..Case::plain("body-1k-2", Group::Scale, Filters::Holdfast(Seats::Both, policies::rates), "POST of 1 KiB")
    },
    Case {
        base: "none-64k",
        body: 64 * KIB,
        ..Case::plain("none-64k", Group::Scale, Filters::None, "no filter, POST of 64 KiB")
    },
    Case {
        base: "none-64k",
        body: 64 * KIB,
        ..Case::plain(
            "body-64k",
            Group::Scale,
            Filters::Holdfast(Seats::Request, policies::slow),
            "POST of 64 KiB, request seat",
        )
    },
    Case {
        base: "none-64k",
        body: 64 * KIB,
        ..Case::plain("body-64k-2", Group::Scale, Filters::Holdfast(Seats::Both, policies::rates), "POST of 64 KiB")
    },
    Case::plain("none-answer-1k", Group::Scale, Filters::None, "no filter, 1 KiB back").answered("none-answer-1k", KIB),
    Case::plain("answer-1k", Group::Scale, Filters::Holdfast(Seats::Request, policies::request_seat), "1 KiB back")
        .answered("none-answer-1k", KIB),
    Case::plain("kept-1k", Group::Scale, Filters::Holdfast(Seats::Request, policies::keeping), "1 KiB, each kept")
        .answered("none-answer-1k", KIB),
    Case {
        before: Before::TheBreakerOpens,
        shows: SERVED,
        ..Case::plain(
            "stale-1k",
            Group::Scale,
            Filters::Holdfast(Seats::Request, policies::open_with_kept),
            "open: 1 KiB that were kept",
        )
        .answered("none-answer-1k", KIB)
    },
    Case::plain("none-answer-64k", Group::Scale, Filters::None, "no filter, 64 KiB back")
        .answered("none-answer-64k", 64 * KIB),
    Case::plain("answer-64k", Group::Scale, Filters::Holdfast(Seats::Request, policies::request_seat), "64 KiB back")
        .answered("none-answer-64k", 64 * KIB),
    Case::plain("kept-64k", Group::Scale, Filters::Holdfast(Seats::Request, policies::keeping), "64 KiB, each kept")
        .answered("none-answer-64k", 64 * KIB),
    Case {
        before: Before::TheBreakerOpens,
        shows: SERVED,
        ..Case::plain(
            "stale-64k",
            Group::Scale,
            Filters::Holdfast(Seats::Request, policies::open_with_kept),
            "open: 64 KiB that were kept",
        )
        .answered("none-answer-64k", 64 * KIB)
    },
];

/// The case of this name.
pub fn named(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_bases_are_cases_without_filters() {
        let names: BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
        for case in CASES {
            let base = named(case.base).unwrap();
            assert!(matches!(base.filters, Filters::None) && base.base == base.name, "{}", case.name);
            assert_eq!((base.workers, base.body, base.answer), (case.workers, case.body, case.answer), "{}", case.name);
        }
    }
}
