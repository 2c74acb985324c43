//! Envoy Gateway's resources: reading those of the user, and writing those that put Holdfast in.

mod known;
mod patches;

use known::{Known, Upstream};
use patches::Plan;

use crate::envoy::seat::Module;
use crate::place::Report;
use crate::policy::{self, Side, Target};
use crate::request::{self, Form, Proxy, Request};

/// Where a proxy has the module, by the volume that the printed EnvoyProxy mounts.
const MODULE: &str = "/etc/holdfast/module/holdfast.wasm";

/// Where Envoy Gateway runs its proxies unless it is told otherwise.
const PROXIES: &str = "envoy-gateway-system";

/// The resources that are asked for, as text; `None` where an error stands in the report.
pub fn print(request: &Request, report: &mut Report) -> Option<String> {
    let module = module(request, report);
    refuse_what_is_istios(request, report);
    let known = Known::read(request, report);
    let upstreams = known.upstreams(request, report);
    let entry = known.entry(&upstreams, report);
    if !report.errors.is_empty() {
        return None;
    }
    let (gateway, entry, module) = (known.gateway()?, entry?, module?);
    let targets: Vec<Target> = upstreams.iter().flat_map(targets).collect();
    let policy = match &request.policy {
        Some(file) => policy::from_file(file, &targets, report),
        None => policy::by_default(&targets, Side::Calls, report),
    }?;
    known.warn(&upstreams, &policy, report);
    policy.note_routes(&targets, "docs/envoy.md#a-route-that-a-fallback-may-choose", report);
    let plan = Plan {
        name: request.name.clone().unwrap_or_else(|| format!("holdfast-{}-{}", gateway.namespace, gateway.name)),
        proxies: request.namespace.clone().unwrap_or_else(|| PROXIES.to_owned()),
        gateway,
        entry: &entry,
        clusters: upstreams.iter().flat_map(Upstream::clusters).collect(),
        policy: &policy,
        module,
    };
    if let Some(proxy) = &gateway.parameters {
        report.note(format!(
            "{}: the proxies' EnvoyProxy is {proxy} already: take `volumes`, `volumeMounts` and `bootstrap` of the printed one over \
             into it, and leave the printed one out",
            gateway.place.root("spec.infrastructure.parametersRef"),
        ));
    }
    Some(plan.documents())
}

/// The module has to be a file: Envoy Gateway's proxies have no agent that could fetch it.
fn module(request: &Request, report: &mut Report) -> Option<Module> {
    match &request.module {
        Module::File(file) if file == request::FILE => Some(Module::File(MODULE.to_owned())),
        Module::File(_) => Some(request.module.clone()),
        Module::Remote { uri, .. } => {
            report.wrong(format!(
                "--module {uri}: must be a path in the proxies' containers, for nothing beside them fetches it (an \
                 EnvoyExtensionPolicy can load an image, for the request seat alone)"
            ));
            None
        }
    }
}

fn refuse_what_is_istios(request: &Request, report: &mut Report) {
    let unfit = [
        ("--gateway", request.proxy == Proxy::Gateway),
        ("--inbound", request.proxy == Proxy::Inbound),
        ("--waypoint", request.proxy == Proxy::Waypoint),
        ("--all", request.all),
        ("--inline", request.form == Form::Inline),
        ("--wasm-plugin", request.form == Form::WasmPlugin),
        ("--traffic-extension", request.form == Form::TrafficExtension),
        ("--request-only", request.request_only),
        ("--helm", request.helm),
        ("--target-port", request.target_port.is_some()),
        ("--label", !request.labels.is_empty()),
        ("--protocol", request.protocol.is_some()),
    ];
    for (option, _) in unfit.iter().filter(|(_, given)| *given) {
        report.wrong(format!("{option} has no meaning with --envoy-gateway"));
    }
}

/// A policy for each service, or for each rule where a route has rules for others too.
fn targets(upstream: &Upstream) -> Vec<Target> {
    let Upstream { service, rules, route } = upstream;
    let target = |cluster: String, example: String, names: Vec<String>| Target {
        names: names.iter().map(|name| policy::word(name)).collect(),
        cluster,
        example,
        steered: true,
        grpc: route.is_grpc(),
        listing: None,
    };
    let (name, namespace) = (&service.name, &service.namespace);
    let plain = rules.iter().all(|rule| !rule.by_backend);
    if plain && rules.len() == route.rules.len() {
        let names = [name.clone(), format!("{name}-{}", route.name), format!("{name}-{namespace}-{}", route.name)];
        let example = rules.first().map(|rule| rule.destination.clone()).unwrap_or_default();
        return vec![target(format!("{}rule/*", route.prefix()), example, names.to_vec())];
    }
    let of_cluster = |(index, cluster): (usize, String)| {
        let names = [name.clone(), format!("{name}-{}", route.name), format!("{name}-{}-{index}", route.name)];
        target(cluster.clone(), cluster, names.to_vec())
    };
    upstream.clusters().into_iter().enumerate().map(of_cluster).collect()
}
