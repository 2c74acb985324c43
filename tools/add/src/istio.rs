//! Istio's resources: reading those of the user, and writing those that put Holdfast in.

pub mod cluster;
pub mod filter;
pub mod known;
pub mod mesh;
pub mod plugin;
pub mod restated;
pub mod route;
pub mod rule;
pub mod traffic;
pub mod values;

use cluster::Clusters;
use filter::{Plan, Pods};
use known::Known;

use crate::place::Report;
use crate::policy::{self, Listing, Policy, Side, Target};
use crate::request::{Form, Proxy, Request};
use crate::service::PortProtocol;
use holdfast_yaml::Yaml;

/// The resources that are asked for, as text; `None` where an error stands in the report.
pub fn print(request: &Request, report: &mut Report) -> Option<String> {
    let known = Known::read(request, report);
    // What could not be read may be what is asked for.
    if !report.errors.is_empty() {
        return None;
    }
    let services = known.services(request, report);
    if !report.errors.is_empty() {
        return None;
    }
    let mut targets: Vec<Target> = services.iter().map(|service| target(service, request.proxy)).collect();
    if request.all {
        targets.push(everything());
    }
    let side = if request.proxy == Proxy::Inbound { Side::Served } else { Side::Calls };
    let policy = match &request.policy {
        Some(file) => policy::from_file(file, &targets, report),
        None => policy::by_default(&targets, side, report),
    }?;
    let plan = plan(request, &known, &services, &policy, report)?;
    known.warn(&plan, report);
    policy.note_routes(&targets, "envoy/istio/README.md#another-cluster-serves", report);
    if request.helm {
        return Some(values::values(&plan).document());
    }
    let resources: Vec<Yaml> = plugin::resource(&plan).into_iter().chain(filter::resource(&plan)).collect();
    Some(resources.iter().map(Yaml::document).collect::<Vec<_>>().join("---\n"))
}

fn target(clusters: &Clusters, proxy: Proxy) -> Target {
    let Clusters { service, port, .. } = clusters;
    let (name, namespace, number) = (&service.name, &service.namespace, port.number);
    let names = [
        name.clone(),
        format!("{name}-{number}"),
        format!("{name}-{namespace}"),
        format!("{name}-{namespace}-{number}"),
    ];
    Target {
        names: names.iter().map(|name| policy::word(name)).collect(),
        cluster: clusters.glob(proxy),
        example: clusters.name(proxy),
        steered: clusters.steered(),
        grpc: port.protocol == PortProtocol::Grpc,
        listing: clusters.fails_over().then(|| listing(&service.host, clusters.weighs_localities())),
    }
}

/// What Istio's bootstrap has in every proxy. Only the dump says what localities weigh. Envoy makes the dump short, and `/clusters` from
/// 1.38 on; before it passes over that filter.
fn listing(host: &str, weighs_localities: bool) -> Listing {
    let (all, filter) = match weighs_localities {
        false => ("/clusters?format=json", format!("&filter={host}")),
        true => ("/config_dump?include_eds&resource=dynamic_endpoint_configs", format!("&name_regex=.*{host}")),
    };
    let filter = if host.contains('*') { String::new() } else { filter };
    Listing { cluster: "prometheus_stats", path: format!("{all}{filter}") }
}

/// Every service that callers reach, each with a state of its own.
fn everything() -> Target {
    Target {
        names: vec!["services".to_owned()],
        cluster: "outbound|**".to_owned(),
        example: "outbound|80||example.default.svc.cluster.local".to_owned(),
        steered: false,
        grpc: false,
        listing: None,
    }
}

fn plan<'a>(
    request: &Request,
    known: &Known,
    services: &'a [Clusters],
    policy: &'a Policy,
    report: &mut Report,
) -> Option<Plan<'a>> {
    let (pods, found) = match request.proxy {
        Proxy::Sidecar => {
            // Without a service there is a namespace that was asked for.
            let namespace = services.first().map(|first| first.service.namespace.clone()).unwrap_or_default();
            (Pods::Labels(callers(request, services)), namespace)
        }
        Proxy::Inbound => inbound(request, services, report)?,
        Proxy::Gateway => {
            let (namespace, labels) = known.gateway(request, report)?;
            (Pods::Labels(labels), namespace)
        }
        Proxy::Waypoint => {
            let (namespace, name) = known.waypoint(request, services, report)?;
            (Pods::Waypoint(name), namespace)
        }
    };
    if request.form == Form::Inline && !matches!(&pods, Pods::Labels(labels) if !labels.is_empty()) {
        let problem = "--inline needs --label KEY=VALUE, a label that pods with the module's file have: a pod without the file \
            loses the service";
        report.wrong(problem);
        return None;
    }
    let name = request.name.clone().unwrap_or_else(|| name(request.proxy, services));
    if name.len() > 253 {
        report.wrong("the name that follows from the services is too long: give one with --name");
        return None;
    }
    Some(Plan {
        name,
        namespace: request.namespace.clone().unwrap_or(found),
        pods,
        proxy: request.proxy,
        services,
        policy,
        module: request.module.clone(),
        form: request.form,
        request_only: request.request_only,
    })
}

/// Labels of callers: those asked for, and those that a rule is for.
fn callers(request: &Request, services: &[Clusters]) -> Vec<(String, String)> {
    let mut labels = request.labels.clone();
    for label in services.iter().flat_map(|service| &service.callers) {
        if !labels.contains(label) {
            labels.push(label.clone());
        }
    }
    labels
}

/// The pods of the service itself.
fn inbound(request: &Request, services: &[Clusters], report: &mut Report) -> Option<(Pods, String)> {
    let first = &services.first()?.service;
    if let Some(other) =
        services.iter().map(|clusters| &clusters.service).find(|other| other.selector != first.selector)
    {
        report
            .wrong(format!("{} and {} have other pods: ask for one at a time with --inbound", first.host, other.host));
        return None;
    }
    let labels = if request.labels.is_empty() { first.selector.clone() } else { request.labels.clone() };
    if labels.is_empty() {
        report.wrong(format!(
            "{}: --inbound needs its pods: a Service with a selector, or --label KEY=VALUE",
            first.host
        ));
        return None;
    }
    Some((Pods::Labels(labels), first.namespace.clone()))
}

/// `holdfast-orders.shop-8080`: no two services have one alike, for a name in Kubernetes has no dot.
fn name(proxy: Proxy, services: &[Clusters]) -> String {
    let one = |clusters: &Clusters| {
        let Clusters { service, port, .. } = clusters;
        if service.host.starts_with(&format!("{}.{}.svc.", service.name, service.namespace)) {
            format!("-{}.{}-{}", service.name, service.namespace, port.number)
        } else {
            format!("-{}-{}", service.host.replace("*.", "any."), port.number)
        }
    };
    let side = match proxy {
        Proxy::Sidecar | Proxy::Gateway => "",
        Proxy::Inbound => "-inbound",
        Proxy::Waypoint => "-waypoint",
    };
    let services = services.iter().map(one).collect::<String>();
    format!("holdfast{side}{}", if services.is_empty() { "-services" } else { &services })
}
