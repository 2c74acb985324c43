//! What a scene is: a service, who calls it, what happens to it, and the policy that should help.
//!
//! A scene is data. Performing, telling and drawing know nothing of a particular one, so a new scene is a new file
//! beside [`outage`] and a line in [`all`].

mod outage;

use std::ops::Range;
use std::time::Duration;

use holdfast_tests::Action;

use crate::claims::Claim;
use crate::recording::Runs;

/// All scenes; the first is the one shown unless another is asked for.
pub fn all() -> Vec<Scene> {
    vec![outage::scene()]
}

/// One story, performed twice: with Holdfast and without.
pub struct Scene {
    /// What to ask for it by.
    pub name: &'static str,
    /// What it is about, as the end of "Holdfast demo: ".
    pub title: &'static str,
    /// The service that is called, also the name of its Envoy cluster.
    pub service: &'static str,
    /// How many servers it has.
    pub hosts: usize,
    /// Who calls it, all the time and whatever the answers are.
    pub callers: Vec<Caller>,
    /// How long a caller waits for an answer before it gives up.
    pub patience: Duration,
    /// What happens to the service, in this order.
    pub phases: Vec<Phase>,
    /// The policy document, as it is given to the module and shown on the page.
    pub policy: &'static str,
    /// The policy in a sentence, without capital and full stop.
    pub policy_in_words: &'static str,
    /// What a reader of the drawing may wonder about.
    pub remark: &'static str,
    /// What must have happened for the demonstration to be one.
    pub claims: fn(&Scene, Runs<'_>) -> Vec<Claim>,
}

/// A steady stream of equal requests.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Their method.
    pub method: http::Method,
    /// Their path.
    pub path: &'static str,
    /// How many are sent each second.
    pub per_second: u32,
    /// The name of the policy that governs them.
    pub policy: &'static str,
}

/// A part of the story.
pub struct Phase {
    /// Its place in the story.
    pub kind: Kind,
    /// How long it lasts.
    pub seconds: u32,
    /// What is done to the service, as a sentence.
    pub told: String,
    /// What each server does, by its number from 0.
    pub hosts: fn(usize) -> Action,
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

    /// The seconds of the first phase of this kind; none if there is none.
    pub fn span(&self, kind: Kind) -> Range<u32> {
        self.spans().find(|(phase, _)| phase.kind == kind).map_or(0..0, |(_, span)| span)
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
        }
    }
}
