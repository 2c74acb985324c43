//! What a scene is: a service, who calls it, what happens to it, and the policy that should help.
//!
//! A scene is data. Performing, telling and drawing know nothing of a particular one, so a new scene is a new file
//! beside [`outage`], [`storm`], [`ejection`], [`stale`] and [`failover`] and a line in [`all`].

mod ejection;
mod failover;
mod outage;
mod stale;
mod storm;

use std::ops::Range;
use std::time::Duration;

use holdfast_tests::{Action, Seats, SeenRequest};
use http::Method;
use serde_json::Value;

use crate::chart::Panel;
use crate::claims::Claim;
use crate::column::Column;
use crate::recording::Runs;
use crate::summary::Table;

/// All scenes, in the order in which they are shown.
pub fn all() -> Vec<Scene> {
    vec![outage::scene(), storm::scene(), ejection::scene(), stale::scene(), failover::scene()]
}

/// One story, performed twice: with Holdfast and without.
pub struct Scene {
    /// What to ask for it by.
    pub name: &'static str,
    /// What it is about, as a heading.
    pub title: &'static str,
    /// The service that is called, also the name of its Envoy cluster.
    pub service: &'static str,
    /// How many servers it has.
    pub hosts: usize,
    /// Another service, of one server that is always well, also the name of its cluster. A fallback may have it serve.
    pub standby: Option<&'static str>,
    /// How many attempts a second they can take, all together; over that each answers 503 to all. None: any number.
    pub capacity: Option<u32>,
    /// Who calls it, all the time and whatever the answers are.
    pub callers: Vec<Caller>,
    /// How long a caller waits for an answer before it gives up.
    pub patience: Duration,
    /// What happens to the service, in this order.
    pub phases: Vec<Phase>,
    /// Where Holdfast sits in the run with it.
    pub seats: Seats,
    /// The policy document, as it is given to the module and shown on the page.
    pub policy: &'static str,
    /// The policy in a sentence, without capital and full stop.
    pub policy_in_words: &'static str,
    /// What Envoy does by itself in the run without Holdfast.
    pub without: Without,
    /// What is shown of each second and each phase, on the terminal and in the page's table of numbers.
    pub columns: Vec<Column>,
    /// What is drawn, from the top down.
    pub panels: Vec<Panel>,
    /// What a reader of the drawing may wonder about.
    pub remark: &'static str,
    /// The comparison of both runs.
    pub tables: fn(&Scene, Runs<'_>) -> Vec<Table>,
    /// What happened, in a few sentences with numbers.
    pub sentences: fn(&Scene, Runs<'_>) -> String,
    /// What to remember of it, in one sentence with numbers.
    pub gist: fn(&Scene, Runs<'_>) -> String,
    /// What must have happened for the demonstration to be one.
    pub claims: fn(&Scene, Runs<'_>) -> Vec<Claim>,
}

/// Envoy without Holdfast.
pub struct Without {
    /// The retry policy of its route (`config.route.v3.RetryPolicy`); none: it does not retry.
    pub retry_policy: Option<Value>,
    /// The only method that is retried; none: all are.
    pub retried: Option<Method>,
    /// What its cluster has besides (a merge patch of `config.cluster.v3.Cluster`).
    pub cluster: Value,
    /// What it does in a sentence, without capital and full stop.
    pub in_words: &'static str,
}

/// A steady stream of equal requests.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Their method.
    pub method: Method,
    /// Their path, or what stands before the number where there are several.
    pub path: &'static str,
    /// How many resources are asked for in turn; 1: that at `path`.
    pub resources: u32,
    /// How many are sent each second.
    pub per_second: u32,
    /// The name of the policy that governs them.
    pub policy: &'static str,
}

impl Caller {
    /// What request number `index`, from 0, asks for.
    pub fn path_of(&self, index: u32) -> String {
        match index.checked_rem(self.resources) {
            Some(number) if self.resources > 1 => format!("{}/{number}", self.path),
            _ => self.path.to_owned(),
        }
    }
}

/// A part of the story.
pub struct Phase {
    /// Its place in the story.
    pub kind: Kind,
    /// What it is called, in a few words.
    pub name: &'static str,
    /// How long it lasts.
    pub seconds: u32,
    /// What is done to the service, as a sentence.
    pub told: String,
    /// What each server does, by its number from 0.
    pub servers: fn(usize) -> Script,
}

/// What a server does with an attempt.
pub type Act = Box<dyn Fn(&SeenRequest) -> Action + Send + Sync>;

/// What a server does with all attempts, and how it should be drawn where servers are.
pub struct Script {
    /// What it does.
    pub act: Act,
    /// What is wrong with it.
    pub manner: Manner,
}

/// What is wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Nothing that would be drawn.
    Well,
    /// It fails.
    Failing,
    /// It is slow.
    Slow,
}

/// The place of a phase in the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Before the trouble.
    Healthy,
    /// The trouble.
    Outage,
    /// After the trouble.
    Recovery,
}

impl Kind {
    /// One word for it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Healthy => "healthy",
            Kind::Outage => "outage",
            Kind::Recovery => "recovery",
        }
    }
}

impl Scene {
    /// Requests per second, all callers together.
    pub fn rate(&self) -> u32 {
        self.callers.iter().map(|caller| caller.per_second).sum()
    }

    /// How long one performance takes.
    pub fn seconds(&self) -> u32 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }

    /// The phases with the seconds they take: from, and up to but without.
    pub fn spans(&self) -> impl Iterator<Item = (&Phase, Range<u32>)> {
        self.phases.iter().scan(0, |start, phase| {
            let span = *start..*start + phase.seconds;
            *start = span.end;
            Some((phase, span))
        })
    }

    /// The seconds of the phases of this kind, which follow each other; none if there is none.
    pub fn span(&self, kind: Kind) -> Range<u32> {
        let spans = self.spans().filter(|(phase, _)| phase.kind == kind).map(|(_, span)| span);
        spans.reduce(|all, span| all.start..span.end).unwrap_or(0..0)
    }

    /// What is wrong with a server at a time.
    pub fn manner(&self, server: usize, at: Duration) -> Manner {
        let now = self.spans().find(|(_, span)| at < Duration::from_secs(span.end.into()));
        now.map_or(Manner::Well, |(phase, _)| (phase.servers)(server).manner)
    }

    /// The names of the policies, in the order of the callers they govern.
    pub fn policies(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = Vec::new();
        for caller in &self.callers {
            if !names.contains(&caller.policy) {
                names.push(caller.policy);
            }
        }
        names
    }

    /// The policies whose document has this feature, in the same order.
    pub fn policies_with(&self, feature: &str) -> Vec<&'static str> {
        let document: Value = serde_json::from_str(self.policy).unwrap_or_default();
        let governing = document.get("policies").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let has = |name: &str| {
            governing
                .iter()
                .any(|policy| policy.get("name").and_then(Value::as_str) == Some(name) && policy.get(feature).is_some())
        };
        self.policies().into_iter().filter(|name| has(name)).collect()
    }

    /// Whether Holdfast chooses hosts, for which its cluster must be prepared.
    pub fn steers(&self) -> bool {
        !self.policies_with("outlier").is_empty()
    }

    /// The policies that have a breaker.
    pub fn breakers(&self) -> Vec<&'static str> {
        self.policies_with("breaker")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scene_holds_together() {
        for scene in all() {
            assert!(!scene.span(Kind::Healthy).is_empty(), "{}: a story begins well", scene.name);
            assert!(!scene.span(Kind::Outage).is_empty(), "{}: and has its trouble", scene.name);
            assert_eq!(scene.spans().last().map(|(_, span)| span.end), Some(scene.seconds()));
            let policy: serde_json::Value = serde_json::from_str(scene.policy).unwrap();
            let named = |name| policy["policies"].as_array().unwrap().iter().any(|policy| policy["name"] == name);
            for caller in &scene.callers {
                assert!(named(caller.policy), "{}: {} has its policy", scene.name, caller.path);
                assert!(caller.per_second > 0, "{}: {} is called", scene.name, caller.path);
            }
            assert!(!scene.columns.is_empty() && !scene.panels.is_empty(), "{}: something is shown", scene.name);
        }
    }

    #[test]
    fn features_are_read_off_the_policy_document() {
        let features = |feature| all().iter().map(|scene| scene.policies_with(feature)).collect::<Vec<_>>();
        assert_eq!(features("breaker"), [vec!["items", "checkout"], vec![], vec![], vec!["catalog"], vec!["orders"]]);
        assert_eq!(features("retry"), [vec![], vec!["orders"], vec!["orders"], vec![], vec![]]);
        assert_eq!(features("outlier"), [vec![], vec![], vec!["orders"], vec![], vec![]]);
    }

    #[test]
    fn resources_are_asked_for_in_turn() {
        let mut caller = Caller { method: Method::GET, path: "/items", resources: 1, per_second: 1, policy: "orders" };
        assert_eq!(caller.path_of(7), "/items");
        caller.resources = 3;
        assert_eq!([0, 2, 3].map(|index| caller.path_of(index)), ["/items/0", "/items/2", "/items/0"]);
    }

    #[test]
    fn phases_of_one_kind_follow_each_other() {
        for scene in all() {
            let kinds: Vec<Kind> = scene.phases.iter().map(|phase| phase.kind).collect();
            let mut groups: Vec<Kind> =
                kinds.chunk_by(|one, other| one == other).filter_map(|group| group.first().copied()).collect();
            let count = groups.len();
            groups.dedup();
            assert_eq!(groups, [Kind::Healthy, Kind::Outage, Kind::Recovery], "{}: {count} groups", scene.name);
        }
    }
}
