//! The configuration around the policies: whether what Holdfast needs of Envoy is there.

mod clusters;
mod filter;
mod headers;
mod managers;
mod names;
mod patches;
mod protocol;
mod retries;
mod seats;
mod specifiers;
mod stats;
mod steering;
mod timeouts;

use holdfast_policy::document::{Mode, Policy};

use crate::documents::Checked;
use crate::finding::Finding;
use crate::rules::Rule;
use crate::sources::{Kind, Plugin, kind};
use crate::texts::{At, Texts};
use crate::wasm::{Held, Wasm};

pub use clusters::Cluster;
pub use managers::Manager;

/// What belongs together: an Envoy's bootstrap with the files of its discovery, or the documents of one file of another kind.
#[derive(Debug, Default)]
pub struct Unit<'a> {
    /// Its documents.
    pub roots: Vec<At<'a>>,
    /// The module in filters.
    pub filters: Vec<Wasm<'a>>,
    /// The module in resources that become filters.
    pub plugins: Vec<Plugin<'a>>,
    /// Files that are policy documents, and can only be meant for this Envoy: it is the only one that is given.
    pub companions: Vec<usize>,
}

/// What is known of a unit, and what was found.
pub struct Assembly<'a, 'c> {
    texts: &'a Texts,
    unit: &'c Unit<'a>,
    checked: &'c [Checked<'a>],
    /// Filters by the names under which discovery gives them, over all files.
    discovered: Vec<(&'a str, Wasm<'a>)>,
    bootstraps: Vec<At<'a>>,
    managers: Vec<Manager<'a>>,
    /// Route configurations that stand by themselves.
    routes: Vec<At<'a>>,
    clusters: Vec<Cluster<'a>>,
    /// Whether clusters come from elsewhere too.
    more_clusters: bool,
    /// Whether listeners do.
    more_listeners: bool,
    findings: Vec<Finding>,
}

/// A cluster with the policies that govern requests to it, on the way from a manager.
struct Governed<'a, 's> {
    manager: &'s Manager<'a>,
    cluster: &'s Cluster<'a>,
    policies: Vec<&'s Policy>,
}

impl Governed<'_, '_> {
    /// The first policy that wants something.
    fn first(&self, wants: impl Fn(&Policy) -> bool) -> Option<&Policy> {
        self.policies.iter().find(|policy| wants(policy)).copied()
    }
}

/// Whether a policy retries, or counts what it would retry.
fn retries(policy: &Policy) -> bool {
    policy.retry.as_ref().is_some_and(|retry| retry.mode != Mode::Off && retry.max_retries > 0)
}

/// Whether a policy changes anything by retries.
fn makes_retries(policy: &Policy) -> bool {
    policy.retry.as_ref().is_some_and(|retry| retry.mode == Mode::Enforce && retry.max_retries > 0)
}

/// Whether a policy takes hosts out.
fn ejects(policy: &Policy) -> bool {
    policy.active_outlier().is_some_and(holdfast_policy::document::Outlier::ejects)
}

/// Looks at a unit.
pub fn check<'a>(
    texts: &'a Texts,
    unit: &Unit<'a>,
    checked: &[Checked<'a>],
    discovered: &[(&'a str, Wasm<'a>)],
) -> Vec<Finding> {
    let mut assembly = Assembly {
        texts,
        unit,
        checked,
        discovered: discovered.to_vec(),
        bootstraps: Vec::new(),
        managers: Vec::new(),
        routes: Vec::new(),
        clusters: Vec::new(),
        more_clusters: false,
        more_listeners: false,
        findings: Vec::new(),
    };
    assembly.read();
    assembly.filters();
    assembly.patches();
    assembly.seats();
    assembly.steering();
    assembly.protocol();
    assembly.retries();
    assembly.timeouts();
    assembly.names();
    assembly.specifiers();
    assembly.headers();
    assembly.stats();
    assembly.findings
}

impl<'a, 'c> Assembly<'a, 'c> {
    fn read(&mut self) {
        let mut routes = Vec::new();
        let (mut managers, mut listeners, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
        for root in &self.unit.roots {
            match kind(root) {
                Kind::Bootstrap => {
                    let fixed = root.get("static_resources");
                    let list = |name: &str| fixed.as_ref().map(|all| all.list(name)).unwrap_or_default();
                    list("listeners").iter().for_each(|listener| managers::listener(listener, &mut managers));
                    self.clusters.extend(list("clusters").into_iter().map(|at| Cluster::of(at, false)));
                    let dynamic = root.get("dynamic_resources");
                    let has = |name: &str| dynamic.as_ref().is_some_and(|all| all.get(name).is_some());
                    self.more_clusters |= has("cds_config");
                    self.more_listeners |= has("lds_config");
                    self.bootstraps.push(root.clone());
                }
                Kind::Resources => {
                    let all = root.list("resources");
                    let one = all.is_empty().then(|| root.clone());
                    for resource in all.into_iter().chain(one) {
                        // A resource may stand in a wrapper that names it.
                        let resource = if resource.is("Resource") {
                            resource.get("resource").unwrap_or(resource)
                        } else {
                            resource
                        };
                        match resource.type_name() {
                            Some("Listener") => listeners.push(resource),
                            Some("Cluster") => clusters.push(resource),
                            Some("RouteConfiguration") => routes.push(resource),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        // The files of discovery that are given take the place of what is not known.
        let given = |kinds: &[At<'a>]| !kinds.is_empty();
        self.more_clusters = self.bootstraps.is_empty() || (self.more_clusters && !given(&clusters));
        self.more_listeners = self.bootstraps.is_empty() || (self.more_listeners && !given(&listeners));
        self.clusters.extend(clusters.into_iter().map(|at| Cluster::of(at, false)));
        listeners.iter().for_each(|listener| managers::listener(listener, &mut managers));
        let discovered = &self.discovered;
        self.managers = managers.into_iter().map(|at| Manager::of(at, &routes, discovered)).collect();
        for cluster in &mut self.clusters {
            cluster.find_seat(discovered);
        }
        self.routes = routes;
    }

    fn add(&mut self, rule: &'static Rule, at: &At<'a>, problem: impl Into<String>) {
        self.findings.push(Finding {
            severity: rule.severity,
            rule: rule.id,
            file: self.texts.file(at),
            at: Some(self.texts.position(at)),
            path: self.texts.path(at),
            label: self.texts.label(at),
            problem: problem.into(),
            cure: rule.cure.to_owned(),
            count: 1,
        });
    }

    /// The policy document of a filter, as it was read.
    fn read_of(&self, wasm: &Wasm<'a>) -> Option<&'c Checked<'a>> {
        let at = match &wasm.configuration {
            Held::Text(at) | Held::Bytes(at, _) | Held::Struct(at, _) => at.key(),
            _ => return None,
        };
        self.checked.iter().find(|checked| checked.at.key() == at)
    }

    /// The policies of a manager's request seats.
    fn policies(&self, manager: &Manager<'a>) -> Vec<&'c Policy> {
        let documents = manager.seats().filter_map(|filter| self.read_of(filter.wasm.as_ref()?)?.document.as_ref());
        documents.flat_map(|document| &document.policies).collect()
    }

    /// Clusters with the policies that govern requests to them.
    fn governed(&self) -> Vec<Governed<'a, '_>> {
        let mut found = Vec::new();
        for manager in &self.managers {
            let policies = self.policies(manager);
            for cluster in self.clusters.iter().filter(|cluster| !cluster.partial) {
                let governs = |policy: &&&Policy| {
                    let globs = &policy.matches.cluster;
                    let named = globs.iter().any(|glob| glob.matches(cluster.name.as_bytes()));
                    if manager.reach.open { named } else { globs.is_empty() || named }
                };
                if !manager.reach.open && !manager.reach.clusters.contains(&cluster.name) {
                    continue;
                }
                let policies: Vec<&Policy> = policies.iter().filter(governs).copied().collect();
                if !policies.is_empty() {
                    found.push(Governed { manager, cluster, policies });
                }
            }
        }
        found
    }
}
