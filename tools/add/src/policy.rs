//! The policy document: the user's, or one with every default; bound to the clusters that the resources are about.

use std::collections::BTreeSet;

use holdfast_policy::config;
use holdfast_policy::document::{Document, FallbackKind, Mode};
use holdfast_policy::glob::Glob;
use serde_norway::{Mapping, Value};

use crate::document::{self, Failure};
use crate::json;
use crate::place::Report;

/// A service as policies see it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Names for its policy, the best one first; the first that no other target has is taken.
    pub names: Vec<String>,
    /// The glob that its clusters' names match.
    pub cluster: String,
    /// One of those names, to try globs with.
    pub example: String,
    /// Whether a host can be named.
    pub steered: bool,
    /// Whether its port says that it speaks gRPC.
    pub grpc: bool,
    /// Where its hosts have priorities and can be read: hosts that are learned from traffic have none.
    pub listing: Option<Listing>,
}

/// Where Envoy lists the hosts of clusters.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The cluster of its admin interface.
    pub cluster: &'static str,
    /// What is asked for there.
    pub path: String,
}

/// A document that is ready to be printed.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its text, in lines.
    pub text: String,
    /// Whether a policy of it has `retry`.
    pub retries: bool,
    /// Whether one of these is more than shadow.
    pub enforces_retries: bool,
    /// Whether a policy of it has `outlier`.
    pub ejects: bool,
    /// Whether each of these reads its hosts.
    pub discovers: bool,
}

impl Policy {
    /// The clusters that fallbacks have serve in place of a cluster, and in place of those, and so on.
    pub fn chosen_by_fallbacks(&self, cluster: &str) -> BTreeSet<String> {
        let Ok(document) = config::parse(self.text.as_bytes()) else { return BTreeSet::new() };
        let mut found = BTreeSet::new();
        let mut left = vec![cluster.to_owned()];
        while let Some(from) = left.pop() {
            let entries = document
                .policies
                .iter()
                .filter(|policy| decides_for(policy, &from))
                .flat_map(|policy| &policy.fallback);
            for entry in entries {
                if let FallbackKind::Route(route) = &entry.kind
                    && route.cluster != cluster
                    && found.insert(route.cluster.clone())
                {
                    left.push(route.cluster.clone());
                }
            }
        }
        found
    }

    /// Whether a fallback has another cluster serve after the last attempt in a cluster.
    pub fn goes_further(&self, cluster: &str) -> bool {
        let Ok(document) = config::parse(self.text.as_bytes()) else { return false };
        document.policies.iter().filter(|policy| decides_for(policy, cluster)).any(|policy| policy.goes_further())
    }

    /// Says which routes of the targets have to let a fallback choose, where that is put in by hand, as `page` shows.
    pub fn note_routes(&self, targets: &[Target], page: &str, report: &mut Report) {
        for target in targets {
            for chosen in self.chosen_by_fallbacks(&target.example) {
                let from = &target.example;
                report.note(format!(
                    "{from}: a fallback has {chosen} serve: its routes have to let that choose ({page})"
                ));
            }
            if self.goes_further(&target.example) {
                report.note(format!(
                    "{}: a fallback serves after the last attempt: for that its routes need a matcher, and Envoy must be 1.39 or later \
                     ({page})",
                    target.example
                ));
            }
        }
    }
}

/// Whether a policy decides on requests to a cluster, as far as its name tells.
fn decides_for(policy: &holdfast_policy::document::Policy, cluster: &str) -> bool {
    let globs = &policy.matches.cluster;
    policy.mode == Mode::Enforce && (globs.is_empty() || globs.iter().any(|glob| glob.matches(cluster.as_bytes())))
}

/// The characters of a policy's name, and at most as many.
pub fn word(text: &str) -> String {
    let good = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c) { c } else { '-' };
    text.chars().map(good).take(63).collect()
}

/// What the document is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Requests that leave for a service.
    Calls,
    /// Requests that come to one's own application.
    Served,
}

/// The document of a file, JSON or YAML, each policy that names no cluster bound to the targets' clusters.
pub fn from_file(file: &str, targets: &[Target], report: &mut Report) -> Option<Policy> {
    let mut value: Value = match document::read(file) {
        Ok(json) => serde_json::from_str(&json).ok()?,
        Err(Failure::Invalid(lines)) => {
            lines.into_iter().for_each(|line| report.wrong(line));
            return None;
        }
        Err(Failure::Inaccessible(line)) => {
            report.wrong(line);
            return None;
        }
    };
    bind(file, &mut value, targets, report);
    finished(file, &value, targets, report)
}

/// The document's value, if the module takes it. `within` says where a path of it stands, for a report.
fn valid(text: &str, within: &dyn Fn(&str) -> String, report: &mut Report) -> Option<Value> {
    if let Err(errors) = config::parse(text.as_bytes()) {
        for error in errors.listed() {
            report.wrong(format!("{}{error}", within(&error.path)));
        }
        if errors.unlisted() > 0 {
            report.wrong(format!("{}and {} more", within(""), errors.unlisted()));
        }
        return None;
    }
    serde_json::from_str(text).ok()
}

/// A document that is in use, with a policy behind its others for each target that none of them governs.
pub fn extended(
    text: &str,
    targets: &[Target],
    within: &dyn Fn(&str) -> String,
    report: &mut Report,
) -> Option<Policy> {
    let mut value = valid(text, within, report)?;
    let policies = value.get_mut("policies").and_then(Value::as_sequence_mut)?;
    let governed = |policies: &[Value], target: &Target| {
        policies.iter().filter_map(Value::as_mapping).any(|policy| governs(policy, std::slice::from_ref(target)))
    };
    let names = |policies: &[Value]| -> BTreeSet<String> {
        policies.iter().filter_map(|policy| Some(policy.get("name")?.as_str()?.to_owned())).collect()
    };
    let mut same = true;
    for target in targets {
        if !governed(policies, target) {
            let taken = names(policies);
            let numbered =
                (2..100).map(|number| format!("{}-{number}", target.names.first().map_or("policy", String::as_str)));
            let Some(name) = target.names.iter().cloned().chain(numbered).find(|name| !taken.contains(name)) else {
                continue;
            };
            policies.push(default_policy(&name, target, Side::Calls));
            same = false;
        }
    }
    let finished = finished(&within("policies"), &value, targets, report)?;
    // What nothing is added to keeps its words.
    Some(if same { Policy { text: text.to_owned(), ..finished } } else { finished })
}

fn bind(file: &str, value: &mut Value, targets: &[Target], report: &mut Report) {
    let Some(Value::Sequence(policies)) = value.get_mut("policies") else { return };
    for (index, policy) in policies.iter_mut().enumerate() {
        let Some(policy) = policy.as_mapping_mut() else { continue };
        let clusters: Vec<Value> = targets.iter().map(|target| target.cluster.clone().into()).collect();
        let bound = match policy.get_mut("match") {
            Some(Value::Mapping(found)) => {
                let bound = found.contains_key("cluster");
                if !bound {
                    found.insert("cluster".into(), clusters.into());
                }
                bound
            }
            _ => {
                let mut found = Mapping::new();
                found.insert("cluster".into(), clusters.into());
                put_behind(policy, "name", "match", Value::Mapping(found));
                false
            }
        };
        if bound && !governs(policy, targets) {
            let names = targets.iter().map(|target| format!("\"{}\"", target.cluster)).collect::<Vec<_>>().join(", ");
            report.note(format!("{file}: policies[{index}].match.cluster: matches none of the clusters here: {names}"));
        }
    }
}

/// Puts a key behind another one: a match reads well behind its policy's name.
fn put_behind(policy: &mut Mapping, before: &str, key: &str, value: Value) {
    let mut value = Some(value);
    let mut out = Mapping::new();
    for (name, old) in std::mem::take(policy) {
        if name == key {
            continue;
        }
        let here = name == before;
        out.insert(name, old);
        if here && let Some(value) = value.take() {
            out.insert(key.into(), value);
        }
    }
    if let Some(value) = value {
        out.insert(key.into(), value);
    }
    *policy = out;
}

/// Whether a policy is for one of the targets; one that names no cluster is for all.
fn governs(policy: &Mapping, targets: &[Target]) -> bool {
    if policy.get("match").and_then(|found| found.get("cluster")).is_none() {
        return true;
    }
    let globs = policy.get("match").and_then(|found| found.get("cluster")).and_then(Value::as_sequence);
    let globs = globs.into_iter().flatten().filter_map(|glob| Glob::new(glob.as_str()?, None).ok());
    globs.into_iter().any(|glob| targets.iter().any(|target| glob.matches(target.example.as_bytes())))
}

/// Whether a policy of this document is for one of the targets.
pub fn governs_any(text: &str, targets: &[Target]) -> bool {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let policies = value.as_ref().and_then(|value| value.get("policies")).and_then(Value::as_sequence);
    policies.into_iter().flatten().filter_map(Value::as_mapping).any(|policy| governs(policy, targets))
}

/// A policy for each target, with every default, and a fallback while its breaker is open.
pub fn by_default(targets: &[Target], side: Side, report: &mut Report) -> Option<Policy> {
    let mut taken = BTreeSet::new();
    let mut policies = Vec::new();
    for target in targets {
        let free = target.names.iter().find(|name| taken.insert((*name).clone()));
        let Some(name) = free else {
            report.wrong(format!("{} is asked for twice", target.example));
            return None;
        };
        policies.push(default_policy(name, target, side));
    }
    let mut document = Mapping::new();
    document.insert("policies".into(), policies.into());
    finished("the default policy", &Value::Mapping(document), targets, report)
}

fn default_policy(name: &str, target: &Target, side: Side) -> Value {
    let object = |entries: &[(&str, Value)]| {
        Value::Mapping(entries.iter().map(|(key, value)| (Value::from(*key), value.clone())).collect())
    };
    let list = |items: &[Value]| Value::Sequence(items.to_vec());
    let mut policy =
        vec![("name", Value::from(name)), ("match", object(&[("cluster", list(&[target.cluster.clone().into()]))]))];
    match side {
        Side::Calls => {
            let respond = if target.grpc {
                object(&[("status", 503.into()), ("grpc_status", "UNAVAILABLE".into())])
            } else {
                // Only in a text can a variable stand for a number.
                let body = format!("{{\"error\": \"{name} is not available\", \"retry_after\": ${{retry_after}}}}");
                let headers = object(&[("content-type", "application/json".into())]);
                object(&[("status", 503.into()), ("headers", headers), ("body", body.into())])
            };
            policy.push(("breaker", object(&[])));
            policy.push(("retry", object(&[])));
            if target.steered {
                let discover = target.listing.as_ref().map(|listing| {
                    let from = [("cluster", Value::from(listing.cluster)), ("path", listing.path.clone().into())];
                    ("discover", object(&from))
                });
                policy.push(("outlier", object(discover.as_slice())));
            }
            policy.push(("fallback", list(&[object(&[("on", list(&["open".into()])), ("respond", respond)])])));
        }
        Side::Served => policy.push(("throttle", object(&[]))),
    }
    object(&policy)
}

fn finished(name: &str, value: &Value, targets: &[Target], report: &mut Report) -> Option<Policy> {
    let text = json::pretty(value);
    // Binding may have made a glob or a list too long; the document as a whole is what the module reads.
    let document: Document = match config::parse(text.as_bytes()) {
        Ok(document) => document,
        Err(errors) => {
            for error in errors.listed() {
                report.wrong(format!("{name}, bound to its clusters: {error}"));
            }
            return None;
        }
    };
    let mut outliers = document.policies.iter().filter_map(|policy| policy.outlier.as_ref()).peekable();
    let ejects = outliers.peek().is_some();
    let discovers = outliers.all(|outlier| outlier.discover.is_some());
    for target in targets.iter().filter(|target| ejects && !target.steered) {
        report.note(format!(
            "{}: hosts are judged, but none can be left out: see the comments in the output",
            target.example
        ));
    }
    let retries = document.policies.iter().any(|policy| policy.retry.is_some());
    let enforces_retries =
        document.policies.iter().any(|policy| policy.retry.as_ref().is_some_and(|retry| retry.mode == Mode::Enforce));
    Some(Policy { text: text + "\n", retries, enforces_retries, ejects, discovers })
}
