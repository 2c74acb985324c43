//! DestinationRules: which one is for a host, and its subsets.

use super::traffic::{self, Policy};
use crate::documents::Document;
use crate::place::{Place, Report};
use crate::service::Service;

/// A DestinationRule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The host that it names, in full, or a wildcard.
    pub host: String,
    /// Its namespace.
    pub namespace: String,
    /// Its `trafficPolicy`.
    pub policy: Option<Policy>,
    /// Its subsets.
    pub subsets: Vec<Subset>,
    /// Labels of the callers that it is for; none for all.
    pub callers: Vec<(String, String)>,
    /// Where it stands.
    pub place: Place,
}

/// A subset.
#[derive(Debug, Clone, PartialEq)]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// Its own `trafficPolicy`.
    pub policy: Option<Policy>,
}

/// Istio's root namespace, unless the mesh is set up otherwise.
pub const ROOT: &str = "istio-system";

/// Reads a DestinationRule. A short host is one of its own namespace.
pub fn read(document: &Document, domain: &str, report: &mut Report) -> Option<Rule> {
    let spec = document.spec(report)?;
    let host = spec.required("host", report).and_then(|field| field.text(report));
    let policy = spec.get("trafficPolicy").and_then(|field| traffic::read(&field, report));
    let mut subsets: Vec<Subset> = Vec::new();
    for field in spec.get("subsets").map(|field| field.list(report)).unwrap_or_default() {
        let Some(object) = field.object(report) else { continue };
        let name = object.required("name", report).and_then(|field| field.text(report));
        let policy = object.get("trafficPolicy").and_then(|field| traffic::read(&field, report));
        object.known(&["labels"]);
        object.finish(report);
        let Some(name) = name else { continue };
        if subsets.iter().any(|subset| subset.name == name) {
            report.error(&field.place.field("name"), format!("there is a subset {name} already"));
        }
        subsets.push(Subset { name: name.to_owned(), policy });
    }
    let callers = spec.get("workloadSelector").and_then(|field| {
        let object = field.object(report)?;
        let labels = object.get("matchLabels").and_then(|field| field.object(report));
        object.finish(report);
        labels
    });
    let callers = callers.iter().flat_map(|object| object.entries());
    let callers = callers.filter_map(|(key, field)| Some((key.to_owned(), field.value.as_str()?.to_owned()))).collect();
    spec.known(&["exportTo"]);
    spec.finish(report);
    Some(Rule {
        host: full(host?, &document.namespace, domain),
        namespace: document.namespace.clone(),
        policy,
        subsets,
        callers,
        place: document.place.clone(),
    })
}

/// A host in full: one without a dot is a service of the same namespace.
pub fn full(host: &str, namespace: &str, domain: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.contains('.') || host.starts_with('*') { host } else { format!("{host}.{namespace}.svc.{domain}") }
}

impl Rule {
    /// How well it fits a host: the longer what it names, the better. `None` where it does not.
    pub fn fits(&self, host: &str) -> Option<usize> {
        if self.host == host {
            return Some(usize::MAX);
        }
        let rest = self.host.strip_prefix('*')?;
        host.ends_with(rest).then_some(rest.len())
    }
}

/// The rule for a service, as callers in `namespace` see it: their own namespace's, else the service's, else the root's;
/// within one the most specific host. Several of one host are one, as long as only one of them has a `trafficPolicy`.
pub fn choose(rules: &[Rule], service: &Service, namespace: &str, report: &mut Report) -> Option<Rule> {
    let levels =
        if namespace == ROOT { vec![&service.namespace[..], ROOT] } else { vec![namespace, &service.namespace, ROOT] };
    for level in levels {
        let here = || rules.iter().filter(|rule| rule.namespace == level);
        let Some(best) = here().filter_map(|rule| rule.fits(&service.host)).max() else { continue };
        let mut found = here().filter(|rule| rule.fits(&service.host) == Some(best));
        let mut first = found.next()?.clone();
        for other in found {
            merge(&mut first, other, report);
        }
        return Some(first);
    }
    None
}

fn merge(first: &mut Rule, other: &Rule, report: &mut Report) {
    if first.callers != other.callers {
        let problem = format!("is for other callers than {}: ask for them one at a time", first.place);
        report.error(&other.place.field("spec.workloadSelector"), problem);
    } else if first.policy.is_some() && other.policy.is_some() {
        let problem = format!(
            "contradicts {}: Istio takes one trafficPolicy for {}, and no one can say which",
            first.place, first.host
        );
        report.error(&other.place.field("spec.trafficPolicy"), problem);
    }
    first.policy = first.policy.take().or_else(|| other.policy.clone());
    for subset in &other.subsets {
        if first.subsets.iter().any(|known| known.name == subset.name) {
            let problem = format!("there is a subset {} in {} already", subset.name, first.place);
            report.error(&other.place.field("spec.subsets"), problem);
        } else {
            first.subsets.push(subset.clone());
        }
    }
}
