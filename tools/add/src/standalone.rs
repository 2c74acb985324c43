//! An Envoy's own files: a bootstrap, and what it reads from other files. Holdfast is put in, and all else stays as it is.

mod balancing;
mod detours;
mod file;
mod found;
mod holdfast;
mod options;
mod output;
mod retries;
mod stats;

use std::collections::BTreeSet;

use detours::Chosen;
use file::{At, File, Path, Step};
use found::{Found, Manager, Ways, found};
use holdfast_yaml::Yaml;

use crate::envoy::balancing::HOSTS;
use crate::envoy::seat::Module;
use crate::place::Report;
use crate::policy::{self, Policy, Side, Target};
use crate::request::Request;

pub use output::{Output, put};

/// What is put in where it is new.
const MODULE: &str = "/etc/envoy/holdfast.wasm";

/// A change of one file: the value at a path becomes another.
struct Change {
    file: usize,
    path: Path,
    apply: Box<dyn FnOnce(&mut Yaml)>,
}

/// All changes, in an order in which no path is moved by one before it.
#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn at(&mut self, at: &At<'_>, apply: impl FnOnce(&mut Yaml) + 'static) {
        self.0.push(Change { file: at.file, path: at.path.clone(), apply: Box::new(apply) });
    }
}

/// The files with Holdfast in them; `None` where an error stands in the report.
pub fn add(request: &Request, report: &mut Report) -> Option<Vec<Output>> {
    let mut files = file::read(&request.files, report);
    if !report.errors.is_empty() {
        return None;
    }
    let changes = changes(&files, request, report)?;
    for Change { file, path, apply } in changes.0 {
        let Some(value) = files.get_mut(file).and_then(|file| file.wanted(&path)) else { continue };
        apply(value);
    }
    let outputs = files.iter().filter_map(|file| {
        let after = file.edited(report)?;
        Some(Output { name: file.name.clone(), before: file.text.clone(), after })
    });
    let outputs: Vec<Output> = outputs.collect();
    report.errors.is_empty().then_some(outputs)
}

/// A cluster that is asked for.
struct Asked<'a> {
    name: &'a str,
    at: At<'a>,
    /// Managers whose requests come to it.
    ways: Vec<(Manager<'a>, Ways<'a>)>,
}

fn changes(files: &[File], request: &Request, report: &mut Report) -> Option<Changes> {
    let found = found(files);
    let place = |at: &At<'_>| files.get(at.file).map(|file| file.place(&at.path));
    let error = |at: &At<'_>, problem: String, report: &mut Report| match place(at) {
        Some(place) => report.error(&place, problem),
        None => report.wrong(problem),
    };
    let asked = asked(&found, files, request, report)?;
    let module = module(request);
    let targets: Vec<Target> = asked.iter().map(|cluster| target(cluster, request)).collect();
    let managers = reached(&asked);
    let present = managers.iter().find_map(|manager| holdfast::request_seat(manager, &targets));
    let policies = policies(&managers, files, &targets, request, report)?;
    let policy = Needs::of(&policies);
    let module = module.or_else(|| present.as_ref().and_then(|seat| seat.module.clone()));
    let module = module.unwrap_or_else(|| Module::File(MODULE.to_owned()));
    let mut changes = Changes::default();
    let attempts = !request.request_only && (policy.retries || policy.ejects);
    let steer = !request.request_only && policy.ejects;

    let seats = if attempts { options::seats(&asked, &managers, &found) } else { options::Seats::default() };
    for manager in &seats.routers {
        options::into_router(manager, &module, &mut changes);
    }
    for cluster in &seats.clusters {
        options::into_cluster(cluster, &module, &mut changes);
    }
    // Behind the routers' changes: the filter before it moves the router.
    for (manager, policy) in managers.iter().zip(&policies) {
        holdfast::put_request_seat(manager, &targets, policy, &module, files, &mut changes, report);
    }
    for cluster in asked.iter().filter(|_| steer) {
        let source = files.get(cluster.at.file).map(|file| file.text.as_str()).unwrap_or_default();
        // Places are counted behind the mark of the encoding.
        let source = source.strip_prefix('\u{feff}').unwrap_or(source);
        match balancing::steering(&cluster.at, source) {
            balancing::Steering::There => {}
            balancing::Steering::Put(policy) => put_balancing(&cluster.at, policy, &mut changes),
            balancing::Steering::Cannot(problem) => {
                let cure = "--request-only puts the request seat in alone, with a policy without outlier";
                error(&cluster.at, format!("{problem} ({cure})"), report);
            }
        }
    }
    if attempts && policy.retries && !policy.enforces_retries {
        report.note("`retry` is in shadow, so Envoy's own settings of retries stay: run `add` again when it decides");
    } else if attempts && policy.retries {
        let names: Vec<&str> = asked.iter().map(|cluster| cluster.name).collect();
        for cluster in &asked {
            retries::put(cluster.name, &cluster.at, &cluster.ways, &names, files, &mut changes, report);
        }
    }
    for configuration in configurations(&asked, &found) {
        let list = configuration.get("internal_only_headers");
        let is_it = |name: &str| name.eq_ignore_ascii_case(HOSTS);
        let there = list.is_some_and(|list| list.node.items().iter().any(|name| name.text().is_some_and(is_it)));
        if !there {
            changes.at(&configuration, |routes| {
                if routes.get("internal_only_headers").is_none() {
                    let comment = "Holdfast: no client chooses a host.";
                    routes.set_behind(&["name"], comment, "internal_only_headers", Yaml::List(Vec::new()).line());
                }
                if let Some(list) = routes.get_mut("internal_only_headers").and_then(Yaml::items_mut) {
                    list.push(HOSTS.into());
                }
            });
        }
    }
    for bootstrap in &found.bootstraps {
        stats::put(bootstrap, files, &mut changes, report);
    }
    let chosen = |cluster: &Asked<'_>| -> BTreeSet<String> {
        policies.iter().flat_map(|policy| policy.chosen_by_fallbacks(cluster.name)).collect()
    };
    let goes_further = |cluster: &Asked<'_>| policies.iter().any(|policy| policy.goes_further(cluster.name));
    let chosen: Vec<Chosen<'_>> = asked
        .iter()
        .map(|cluster| Chosen {
            cluster: cluster.name,
            targets: chosen(cluster).into_iter().collect(),
            is_further: attempts && goes_further(cluster),
        })
        .collect();
    if chosen.iter().any(|chosen| chosen.is_further) {
        report.note("a fallback has another cluster serve after the last attempt: for `refresh_cluster_on_retry` Envoy must be 1.39 or later");
    }
    for (cluster, chosen) in asked.iter().zip(&chosen).filter(|_| found.more_clusters.is_none()) {
        for target in chosen.targets.iter().filter(|target| !found.clusters.iter().any(|(name, _)| name == target)) {
            let problem = format!("a fallback of its policy has {target} serve, which is no cluster of these files");
            error(&cluster.at, problem, report);
        }
    }
    for configuration in configurations(&asked, &found) {
        detours::put(&configuration, &chosen, files, &mut changes, report);
    }
    if found.bootstraps.is_empty() {
        report.note(
            "no bootstrap is among the files: two stats_tags in it make labels of policy and key (docs/envoy.md)",
        );
    }
    warn(&asked, &found, files, &policy, report);
    report.errors.is_empty().then_some(changes)
}

/// The policy of each manager: the one that is asked for, the one that is there, or one with every default. Managers that have a
/// document of their own keep it; a new seat gets that of the first one.
fn policies(
    managers: &[Manager<'_>],
    files: &[File],
    targets: &[Target],
    request: &Request,
    report: &mut Report,
) -> Option<Vec<Policy>> {
    let present: Vec<_> = managers.iter().map(|manager| holdfast::request_seat(manager, targets)).collect();
    if let Some(file) = &request.policy {
        present.iter().flatten().for_each(|seat| seat.takes_policy(files, report));
        let policy = policy::from_file(file, targets, report)?;
        return Some(vec![policy; managers.len()]);
    }
    let own: Vec<_> =
        present.iter().map(|seat| seat.as_ref().map(|seat| seat.updated(files, targets, report))).collect();
    let new = match own.iter().flatten().next() {
        Some(first) => first.clone(),
        None => policy::by_default(targets, Side::Calls, report),
    };
    own.into_iter().map(|own| own.unwrap_or_else(|| new.clone())).collect()
}

/// What the policies need of clusters and routes.
struct Needs {
    retries: bool,
    enforces_retries: bool,
    ejects: bool,
}

impl Needs {
    fn of(policies: &[Policy]) -> Self {
        Needs {
            retries: policies.iter().any(|policy| policy.retries),
            enforces_retries: policies.iter().any(|policy| policy.enforces_retries),
            ejects: policies.iter().any(|policy| policy.ejects),
        }
    }
}

/// The clusters that are asked for, with the managers before them.
fn asked<'a>(found: &Found<'a>, files: &[File], request: &Request, report: &mut Report) -> Option<Vec<Asked<'a>>> {
    let mut asked: Vec<Asked<'a>> = Vec::new();
    for name in &request.clusters {
        let Some((name, at)) = found.clusters.iter().find(|(known, _)| known == name) else {
            let known = found.clusters.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "they have none".to_owned() } else { format!("they have {known}") };
            let elsewhere = found
                .more_clusters
                .as_ref()
                .map(|from| format!("; more clusters come from {from}: give that file too"));
            let problem = format!("no cluster {name} is in these files ({known}){}", elsewhere.unwrap_or_default());
            match found.bootstraps.first().and_then(|bootstrap| Some(files.get(bootstrap.file)?.place(&bootstrap.path)))
            {
                Some(place) => report.error(&place.field("static_resources.clusters"), problem),
                None => report.wrong(format!("{}: {problem}", request.files.join(", "))),
            }
            continue;
        };
        if asked.iter().any(|other| other.name == *name) {
            report.wrong(format!("cluster {name} is asked for twice"));
            continue;
        }
        let ways = found.managers.iter().map(|manager| (manager.clone(), found.ways(manager, name)));
        let ways: Vec<_> = ways.filter(|(_, ways)| ways.named || ways.open).collect();
        if ways.is_empty() {
            let place = files.get(at.file).map(|file| file.place(&at.path));
            let problem = match &found.more_listeners {
                _ if !found.managers.is_empty() => "no route of these files goes to it".to_owned(),
                Some(from) => {
                    format!("no route of these files goes to it; listeners come from {from}: give that file too")
                }
                None => "no route goes to it: these files have no HTTP connection manager, and Holdfast works on HTTP"
                    .to_owned(),
            };
            match place {
                Some(place) => report.error(&place, problem),
                None => report.wrong(problem),
            }
            continue;
        }
        asked.push(Asked { name, at: at.clone(), ways });
    }
    report.errors.is_empty().then_some(asked)
}

/// The managers before any of the clusters, each once.
fn reached<'a>(asked: &[Asked<'a>]) -> Vec<Manager<'a>> {
    let mut managers: Vec<Manager<'a>> = Vec::new();
    for (manager, _) in asked.iter().flat_map(|cluster| &cluster.ways) {
        if !managers.iter().any(|other| other.at.is_same(&manager.at)) {
            managers.push(manager.clone());
        }
    }
    managers
}

/// All route configurations that lead to the clusters, each once: a client could name a host on any of them.
fn configurations<'a>(asked: &[Asked<'a>], found: &Found<'a>) -> Vec<At<'a>> {
    let mut all: Vec<At<'a>> = Vec::new();
    for cluster in asked {
        let of_managers = cluster.ways.iter().flat_map(|(_, ways)| ways.configurations.iter().cloned());
        for one in of_managers.chain(found.routes_of_others(cluster.name)) {
            if !all.iter().any(|other| other.is_same(&one)) {
                all.push(one);
            }
        }
    }
    all
}

fn module(request: &Request) -> Option<Module> {
    request.module_given.then(|| request.module.clone())
}

fn target(cluster: &Asked<'_>, request: &Request) -> Target {
    let grpc = cluster.ways.iter().flat_map(|(_, ways)| &ways.configurations).any(|routes| {
        let all = routes.list("virtual_hosts").into_iter().flat_map(|host| host.list("routes"));
        let mut here =
            all.filter(|route| route.get("route").is_some_and(|action| found::goes_to(&action, cluster.name)));
        here.any(|route| route.get("match").is_some_and(|matches| matches.node.get("grpc").is_some()))
    });
    Target {
        names: vec![policy::word(&cluster.name.to_ascii_lowercase())],
        // A cluster's name is no glob.
        cluster: cluster.name.to_owned(),
        example: cluster.name.to_owned(),
        steered: !request.request_only,
        grpc,
        listing: None,
    }
}

/// The cluster's older words for its balancing go where the new ones say the same.
fn put_balancing(cluster: &At<'_>, policy: Yaml, changes: &mut Changes) {
    const COMMENT: &str =
        "Holdfast: `x-holdfast-hosts` names the hosts while some are out. Without it this cluster balances as before.";
    changes.at(cluster, move |cluster| {
        if cluster.get("load_balancing_policy").is_some() {
            cluster.set("", "load_balancing_policy", policy);
            return;
        }
        cluster.set_behind(&["name", "type", "connect_timeout", "lb_policy"], COMMENT, "load_balancing_policy", policy);
        for key in balancing::OLDER {
            cluster.remove(key);
        }
        if let Some(common) = cluster.get_mut("common_lb_config") {
            for key in balancing::COMMON {
                common.remove(key);
            }
            if common.entries().is_empty() {
                cluster.remove("common_lb_config");
            }
        }
    });
}

/// What works, and less than somebody might think.
fn warn(asked: &[Asked<'_>], found: &Found<'_>, files: &[File], policy: &Needs, report: &mut Report) {
    let zones = found.bootstraps.iter().find_map(|bootstrap| bootstrap.at(&["cluster_manager", "local_cluster_name"]));
    for Asked { name, at, ways } in asked {
        let Some(file) = files.get(at.file) else { continue };
        if policy.ejects {
            let weighted = at.at(&["common_lb_config", "locality_weighted_lb_config"]).is_some();
            if let (Some(zones), Some(file)) = (&zones, zones.as_ref().and_then(|zones| files.get(zones.file)))
                && !weighted
            {
                let problem = format!(
                    "routing by zones needs Envoy 1.39 beside {HOSTS}: an earlier one does not tell override_host's fallback its own zone"
                );
                report.warn(&file.place(&zones.path), problem);
            }
            let mut note = |key: &str, problem: &str| {
                if at.get(key).is_some() {
                    let mut path = at.path.clone();
                    path.push(Step::Key(key.to_owned()));
                    report.warn(&file.place(&path), problem);
                }
            };
            note(
                "outlier_detection",
                "Envoy goes on ejecting hosts by itself, and a host that Holdfast names gets its requests all the same: take it \
                 out when Holdfast ejects",
            );
            note(
                "lb_subset_config",
                "while a host is out, Holdfast names hosts to which it has seen requests of the same route go: give each route to \
                 this cluster a name of its own, or its requests are not steered",
            );
        }
        for (manager, ways) in ways {
            let Some(file) = files.get(manager.at.file) else { continue };
            if let Some(missing) = ways.missing {
                let problem = format!(
                    "the routes {missing} are not among the files: give that file too, so that internal_only_headers and \
                     retry settings get into it"
                );
                report.warn(&file.place(&manager.at.path), problem);
            } else if ways.open && !ways.named {
                let problem = format!(
                    "what routes here is chosen by a header or a plugin; where that is {name}, the policy governs"
                );
                report.warn(&file.place(&manager.at.path), problem);
            }
            for filter in manager.at.list("http_filters") {
                let stateful = filter.get("typed_config").is_some_and(|config| config.is("StatefulSession"));
                if stateful && policy.ejects {
                    let problem = "a session's host comes before the hosts that Holdfast names: a host that is out keeps its sessions";
                    report.warn(&file.place(&filter.path), problem);
                }
            }
        }
    }
}
