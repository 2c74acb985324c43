//! All that the user's resources say, and what of it is about the services that are asked for.

use super::cluster::{Cluster, Clusters, clusters};
use super::filter::Plan;
use super::mesh::{self, Mesh};
use super::route::{self, Route};
use super::rule::{self, Rule};
use super::traffic::Outlier;
use crate::documents::{self, Document};
use crate::envoy::balancing::HOSTS;
use crate::place::{Place, Report};
use crate::policy::Policy;
use crate::request::{HostPort, Proxy, Request};
use crate::service::{self, Port, PortProtocol, Resolution, Service, Target};

/// What was read.
#[derive(Debug, Default)]
pub struct Known {
    services: Vec<Service>,
    rules: Vec<Rule>,
    routes: Vec<Route>,
    gateways: Vec<Gateway>,
    mesh: Mesh,
    /// Whether any resource was given.
    any: bool,
}

/// A gateway's pods.
#[derive(Debug, Clone)]
struct Gateway {
    name: String,
    waypoint: bool,
    namespace: String,
    labels: Vec<(String, String)>,
    place: Place,
}

impl Known {
    /// Reads all files.
    pub fn read(request: &Request, report: &mut Report) -> Self {
        let mut known = Known::default();
        for document in documents::all(&request.files, report) {
            known.take(&document, &request.domain, report);
        }
        known.any = !request.files.is_empty();
        known.contradictions(report);
        known
    }

    fn take(&mut self, document: &Document, domain: &str, report: &mut Report) {
        match (document.group.as_str(), document.kind.as_str()) {
            ("", "Service") => self.services.extend(service::kubernetes(document, domain, report)),
            ("networking.istio.io", "ServiceEntry") => self.services.extend(service::entry(document, report)),
            ("networking.istio.io", "DestinationRule") => self.rules.extend(rule::read(document, domain, report)),
            ("networking.istio.io", "VirtualService") => self.routes.extend(route::read(document, domain, report)),
            ("networking.istio.io", "Gateway") => self.gateways.extend(istio_gateway(document, report)),
            ("gateway.networking.k8s.io", "Gateway") => self.gateways.extend(kubernetes_gateway(document, report)),
            ("", "ConfigMap") if mesh::holds(document) => {
                if let Some(mesh) = mesh::read(document, report) {
                    self.mesh = mesh;
                }
            }
            ("", "Namespace") => {}
            _ => report.warn(&document.place, "is of no matter here and was not read"),
        }
    }

    /// Two resources for one host cannot both hold.
    fn contradictions(&self, report: &mut Report) {
        for (index, service) in self.services.iter().enumerate() {
            let same = |other: &&Service| other.host == service.host && other.namespace == service.namespace;
            let Some(first) = self.services.iter().take(index).find(same) else { continue };
            let (Some(place), Some(earlier)) = (&service.place, &first.place) else { continue };
            for port in &service.ports {
                let Some(known) = first.ports.iter().find(|known| known.number == port.number) else { continue };
                if known.protocol != port.protocol {
                    let place = port.place.as_ref().unwrap_or(place);
                    report.error(
                        place,
                        format!("port {} of {} speaks something else in {earlier}", port.number, service.host),
                    );
                }
            }
            if first.resolution != service.resolution {
                report.error(
                    &place.root("spec"),
                    format!("the hosts of {} are found in another way in {earlier}", service.host),
                );
            }
        }
    }

    /// The clusters of each service that is asked for.
    pub fn services(&self, request: &Request, report: &mut Report) -> Vec<Clusters> {
        self.all(request, report).unwrap_or_default()
    }

    fn all(&self, request: &Request, report: &mut Report) -> Option<Vec<Clusters>> {
        let proxy = request.proxy;
        let mut found: Vec<Clusters> = Vec::new();
        for asked in self.asked(request, report) {
            let Some(service) = self.service(&asked, request, report) else { continue };
            if let Some(place) = &service.alias {
                report.error(place, "ExternalName is an alias: ask for the service that it stands for");
                continue;
            }
            let Some(port) = service.port(asked.port, report).cloned() else { continue };
            if found.iter().any(|other| other.service.host == service.host && other.port.number == port.number) {
                report.wrong(format!("{}:{} is asked for twice", asked.host, asked.port));
                continue;
            }
            let namespace = request.namespace.clone().unwrap_or_else(|| {
                if proxy == Proxy::Gateway { rule::ROOT.to_owned() } else { service.namespace.clone() }
            });
            let rule = rule::choose(&self.rules, &service, &namespace, report);
            let Some(all) = clusters(&service, &port, rule.as_ref(), proxy, &self.mesh, report) else { continue };
            let listeners = match proxy {
                Proxy::Inbound => vec![target(&service, &port, request, report)?],
                _ => route::listeners(&self.routes, &self.services, &service, port.number),
            };
            found.push(Clusters {
                listeners,
                retries: route::retries_of(&self.routes, &service, port.number, &self.mesh.retries),
                mesh: self.mesh.clone(),
                callers: rule.map(|rule| rule.callers).unwrap_or_default(),
                service,
                port,
                all,
            });
        }
        self.strangers(&found, report);
        Some(found)
    }

    /// What is asked for; `*.shop.svc.cluster.local:8080` is every service of the resources with that port.
    fn asked(&self, request: &Request, report: &mut Report) -> Vec<HostPort> {
        let mut found = Vec::new();
        for asked in &request.services {
            let exact = self.services.iter().any(|service| service.host == asked.host);
            let Some(rest) = asked.host.strip_prefix('*').filter(|_| !exact && self.any) else {
                found.push(asked.clone());
                continue;
            };
            let fits = |service: &&Service| {
                let kubernetes = format!("{}.{}", service.name, service.namespace);
                let named = service.host.ends_with(rest) || kubernetes.ends_with(rest);
                named && service.ports.iter().any(|port| port.number == asked.port)
            };
            let before = found.len();
            for service in self.services.iter().filter(fits) {
                let port = service.ports.iter().find(|port| port.number == asked.port);
                match port.map(|port| port.protocol) {
                    Some(PortProtocol::Other(name)) => {
                        report.note(format!("{}: left out, its port {} speaks {name}", service.host, asked.port));
                    }
                    _ => found.push(HostPort { host: service.host.clone(), port: asked.port }),
                }
            }
            if found.len() == before {
                report.wrong(format!(
                    "{}:{}: no service of these resources has this port with HTTP",
                    asked.host, asked.port
                ));
            }
        }
        found
    }

    fn service(&self, asked: &HostPort, request: &Request, report: &mut Report) -> Option<Service> {
        let fits = |service: &&Service| fits(service, &asked.host, request);
        let found: Vec<&Service> = self.services.iter().filter(fits).collect();
        match found.as_slice() {
            [] if self.any => {
                let known = self.services.iter().map(|service| service.host.as_str()).collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "none at all".to_owned() } else { known };
                report.wrong(format!(
                    "{}:{}: no Service or ServiceEntry of these resources is this host (they are {known})",
                    asked.host, asked.port
                ));
                None
            }
            [] => undocumented(asked, request, report),
            [first, rest @ ..]
                if rest.iter().all(|other| other.host == first.host && other.namespace == first.namespace) =>
            {
                // Several ServiceEntries may have a port each.
                let mut service = (*first).clone();
                service.ports.extend(rest.iter().flat_map(|other| other.ports.clone()));
                Some(service)
            }
            several => {
                let hosts = several
                    .iter()
                    .map(|service| format!("{} in {}", service.host, service.namespace))
                    .collect::<Vec<_>>()
                    .join(", ");
                report.wrong(format!("{}:{}: could be each of {hosts}: give it in full", asked.host, asked.port));
                None
            }
        }
    }

    /// A rule for a host that none of the resources is: most likely one for another service than was meant.
    fn strangers(&self, found: &[Clusters], report: &mut Report) {
        if found.is_empty() {
            return;
        }
        for rule in &self.rules {
            if !self.services.iter().any(|service| rule.fits(&service.host).is_some())
                && !found.iter().any(|clusters| rule.fits(&clusters.service.host).is_some())
            {
                let hosts = found.iter().map(|clusters| clusters.service.host.as_str()).collect::<Vec<_>>().join(", ");
                let problem = format!("is for {}, and the services here are {hosts}", rule.host);
                report.error(&rule.place.root("spec.host"), problem);
            }
        }
    }

    /// The namespace and the labels of the gateway's pods.
    pub fn gateway(&self, request: &Request, report: &mut Report) -> Option<(String, Vec<(String, String)>)> {
        if !request.labels.is_empty() {
            return Some((rule::ROOT.to_owned(), request.labels.clone()));
        }
        let Some(first) = self.gateways.iter().find(|gateway| !gateway.waypoint) else {
            report.wrong("--gateway needs the Gateway among the resources, or --label KEY=VALUE of its pods");
            return None;
        };
        if let Some(other) =
            self.gateways.iter().find(|other| (&other.namespace, &other.labels) != (&first.namespace, &first.labels))
        {
            report.error(&other.place, format!("has other pods than {}: ask for one gateway at a time", first.place));
            return None;
        }
        Some((first.namespace.clone(), first.labels.clone()))
    }

    /// The namespace and the name of the waypoint.
    pub fn waypoint(&self, request: &Request, services: &[Clusters], report: &mut Report) -> Option<(String, String)> {
        let given = request.waypoint.as_deref().filter(|name| *name != "*");
        if let Some(name) = given {
            return Some((services.first()?.service.namespace.clone(), name.to_owned()));
        }
        let found: Vec<&Gateway> = self.gateways.iter().filter(|gateway| gateway.waypoint).collect();
        if let [gateway] = found.as_slice() {
            return Some((gateway.namespace.clone(), gateway.name.clone()));
        }
        report.wrong(
            "--waypoint needs the waypoint's Gateway among the resources, one of class istio-waypoint, or its name",
        );
        None
    }

    /// What works, and not as one might think.
    pub fn warn(&self, plan: &Plan<'_>, report: &mut Report) {
        let policy = plan.policy;
        if plan.proxy == Proxy::Inbound && (policy.ejects || policy.retries) {
            let problem =
                "there is one host, the application: retry sends a request to it again, and outlier judges nobody";
            report.note(format!("--inbound: {problem}"));
        }
        if plan.form.plugin() && plan.request_only {
            report
                .note("without an attempt seat retries are less exact, and hosts are judged by the last attempt alone");
        }
        for clusters in plan.services {
            let host = &clusters.service.host;
            if clusters.port.protocol == PortProtocol::Undeclared {
                let problem = "says no protocol: Istio looks at what comes, and only what looks like HTTP is governed";
                report.note(format!("{host}: port {} {problem}", clusters.port.number));
            }
            if matches!(plan.proxy, Proxy::Sidecar | Proxy::Gateway) {
                warn_of_clusters(clusters, policy, report);
                if policy.ejects && !plan.request_only {
                    self.warn_of_mirrors(clusters, plan, report);
                }
            }
        }
    }

    /// A copy of a request is made behind the request seat. Without an attempt seat in the other cluster it leaves with the header.
    fn warn_of_mirrors(&self, clusters: &Clusters, plan: &Plan<'_>, report: &mut Report) {
        let seated = |host: &str| plan.services.iter().any(|other| other.service.host == host);
        for (host, route) in route::mirrors_of(&self.routes, &clusters.service, clusters.port.number) {
            if !seated(host) {
                let problem = format!(
                    "{host} gets copies of these requests, and while a host is out their {HOSTS} with the addresses of the \
                     others: ask for it too, and its clusters get an attempt seat, which takes that off"
                );
                report.warn(&route.place, problem);
            }
        }
    }
}

fn warn_of_clusters(clusters: &Clusters, policy: &Policy, report: &mut Report) {
    let host = &clusters.service.host;
    for cluster in &clusters.all {
        let pool = cluster.traffic.pool.as_ref();
        if let Some(most) = pool.and_then(|pool| pool.http.max_retries).filter(|_| policy.retries) {
            let problem = format!(
                "connectionPool.http.maxRetries lets {most} retries be in flight, whatever the policy's budget says"
            );
            report.note(format!("{}: {problem}", cluster.name));
        }
        if cluster.traffic.retry_budget.is_some() && policy.retries {
            report.note(format!("{}: its retryBudget limits retries beside the policy's own budget", cluster.name));
        }
    }
    let ejects = |cluster: &Cluster| cluster.traffic.outlier.as_ref().is_some_and(Outlier::ejects);
    if policy.ejects && clusters.all.iter().any(ejects) {
        let problem = "outlierDetection ejects hosts beside the policy's outlier: with consecutive5xxErrors: 0 and \
            consecutiveGatewayErrors: 0 it keeps locality failover and ejects nothing";
        report.note(format!("{host}: {problem}"));
    }
    if policy.ejects && !policy.discovers && clusters.steered() && clusters.fails_over() {
        let problem = "outlierDetection gives its hosts priorities by locality, which outlier knows by discover only: without it \
            nobody fails over while hosts are out";
        report.note(format!("{host}: {problem}"));
    }
    if clusters.retries == route::Retries::Various && policy.retries {
        let problem = "its routes differ in their retries, so each keeps its own wait before a retry; the longer one of that \
            and the policy's counts";
        report.note(format!("{host}: {problem}"));
    }
}

/// The port on which the pods listen.
fn target(service: &Service, port: &Port, request: &Request, report: &mut Report) -> Option<u16> {
    match (&port.target, request.target_port) {
        (_, Some(given)) => Some(given),
        (Some(Target::Number(number)), None) => Some(*number),
        (Some(Target::Name(name)), None) => {
            let problem =
                format!("targetPort {name} is a name that its pods give to a port: say which with --target-port");
            match &port.place {
                Some(place) => report.error(&place.field("targetPort"), problem),
                None => report.wrong(format!("{}: {problem}", service.host)),
            }
            None
        }
        (None, None) => Some(port.number),
    }
}

/// Whether what was asked for names a service: in full, `orders.shop`, or `orders` in the callers' namespace or the only one.
fn fits(service: &Service, host: &str, request: &Request) -> bool {
    if service.host == host {
        return true;
    }
    let kubernetes = service.host == service::full_name(&service.name, &service.namespace, &request.domain);
    kubernetes && service::is_name_of(host, &service.name, &service.namespace, &request.domain)
}

/// A service of which nothing was given but its name and what it speaks.
fn undocumented(asked: &HostPort, request: &Request, report: &mut Report) -> Option<Service> {
    let HostPort { host, port } = asked;
    let Some(protocol) = &request.protocol else {
        let problem = "give its resources (kubectl get service,destinationrule,virtualservice -o yaml), so that nothing that \
            they say is lost, or --protocol if there are none";
        report.wrong(format!("{host}:{port}: {problem}"));
        return None;
    };
    let protocol = match protocol.as_str() {
        "http2" => PortProtocol::Http2,
        "grpc" => PortProtocol::Grpc,
        _ => PortProtocol::Http,
    };
    let parts: Vec<&str> = host.split('.').collect();
    let suffix = format!(".svc.{}", request.domain);
    let (name, namespace) = match parts.as_slice() {
        [name, namespace, ..] if host.ends_with(&suffix) => ((*name).to_owned(), (*namespace).to_owned()),
        _ => {
            let Some(namespace) = &request.namespace else {
                report.wrong(format!(
                    "{host}:{port}: give the host in full (orders.shop{suffix}), or --namespace of its callers"
                ));
                return None;
            };
            (host.trim_start_matches("*.").to_owned(), namespace.clone())
        }
    };
    let port = Port { number: *port, target: Some(Target::Number(*port)), protocol, place: None };
    Some(Service {
        host: host.clone(),
        name,
        namespace,
        ports: vec![port],
        resolution: Resolution::Endpoints,
        external: false,
        nearby: None,
        entry: false,
        names: Vec::new(),
        selector: Vec::new(),
        alias: None,
        place: None,
    })
}

fn istio_gateway(document: &Document, report: &mut Report) -> Option<Gateway> {
    let spec = document.spec(report)?;
    let selector = spec.required("selector", report)?.object(report)?;
    let labels = selector.entries().filter_map(|(key, field)| Some((key.to_owned(), field.value.as_str()?.to_owned())));
    // Its pods may be in any namespace: in Istio's root namespace a resource is for all.
    Some(Gateway {
        name: document.name.clone(),
        waypoint: false,
        namespace: rule::ROOT.to_owned(),
        labels: labels.collect(),
        place: document.place.clone(),
    })
}

fn kubernetes_gateway(document: &Document, report: &mut Report) -> Option<Gateway> {
    let spec = document.spec(report)?;
    let class = spec.required("gatewayClassName", report)?.text(report)?;
    let label = ("gateway.networking.k8s.io/gateway-name".to_owned(), document.name.clone());
    Some(Gateway {
        name: document.name.clone(),
        waypoint: class == "istio-waypoint",
        namespace: document.namespace.clone(),
        labels: vec![label],
        place: document.place.clone(),
    })
}
