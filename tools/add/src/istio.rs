//! Istio's resources: reading those of the user, and writing those that put Holdfast in.

pub mod cluster;
pub mod filter;
pub mod known;
pub mod route;
pub mod rule;
pub mod service;
pub mod traffic;

use cluster::{Clusters, Proxy};
use filter::Plan;
use known::Known;

use crate::place::Report;
use crate::policy::{self, Side, Target};
use crate::request::Request;

/// The resources that are asked for, as text; `None` where an error stands in the report.
pub fn print(request: &Request, report: &mut Report) -> Option<String> {
    let known = Known::read(request, report);
    let services = known.services(request, report);
    if !report.errors.is_empty() {
        return None;
    }
    let targets: Vec<Target> = services.iter().map(target).collect();
    let policy = match &request.policy {
        Some(file) => policy::from_file(file, &targets, report),
        None => policy::by_default(&targets, Side::Calls, report),
    }?;
    let plan = plan(request, &known, &services, &policy, report)?;
    known.warn(&services, &policy, report);
    Some(filter::resource(&plan).document())
}

fn target(clusters: &Clusters) -> Target {
    let Clusters { service, port, .. } = clusters;
    // The characters of a policy's name, and at most as many.
    let word = |text: &str| {
        let good = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c) { c } else { '-' };
        text.chars().map(good).take(63).collect::<String>()
    };
    let (name, namespace, number) = (&service.name, &service.namespace, port.number);
    let names = [
        name.clone(),
        format!("{name}-{number}"),
        format!("{name}-{namespace}"),
        format!("{name}-{namespace}-{number}"),
    ];
    Target {
        names: names.iter().map(|name| word(name)).collect(),
        cluster: clusters.glob(),
        example: clusters.name(""),
        steered: clusters.steered(),
        grpc: port.protocol == service::PortProtocol::Grpc,
    }
}

fn plan<'a>(
    request: &Request,
    known: &Known,
    services: &'a [Clusters],
    policy: &'a policy::Policy,
    report: &mut Report,
) -> Option<Plan<'a>> {
    let first = services.first()?;
    let proxy = if request.gateway { Proxy::Gateway } else { Proxy::Sidecar };
    let mut labels = request.labels.clone();
    for service in services {
        for label in &service.callers {
            if !labels.contains(label) {
                labels.push(label.clone());
            }
        }
    }
    let namespace = request.namespace.clone();
    let namespace = match proxy {
        Proxy::Sidecar => namespace.unwrap_or_else(|| first.service.namespace.clone()),
        Proxy::Gateway => {
            let (found, selector) = known.gateway(request, report)?;
            labels.extend(selector);
            namespace.unwrap_or(found)
        }
    };
    if request.inline && labels.is_empty() {
        report.wrong(
            "--inline needs --label KEY=VALUE, a label that pods with the module's file have: another pod would lose the service",
        );
        return None;
    }
    let name = request.name.clone().unwrap_or_else(|| names(services));
    if name.len() > 253 {
        report.wrong("the name that follows from the services is too long: give one with --name");
        return None;
    }
    Some(Plan {
        name,
        namespace,
        labels,
        proxy,
        services,
        policy,
        module: request.module.clone(),
        inline: request.inline,
    })
}

/// `holdfast-orders.shop-8080`: no two services have one alike, for a name in Kubernetes has no dot.
fn names(services: &[Clusters]) -> String {
    let one = |clusters: &Clusters| {
        let Clusters { service, port, .. } = clusters;
        let kubernetes = service.host == format!("{}.{}.svc", service.name, service.namespace)
            || service.host.starts_with(&format!("{}.{}.svc.", service.name, service.namespace));
        if kubernetes {
            format!("-{}.{}-{}", service.name, service.namespace, port.number)
        } else {
            format!("-{}-{}", service.host.replace("*.", "any."), port.number)
        }
    };
    format!("holdfast{}", services.iter().map(one).collect::<String>())
}
