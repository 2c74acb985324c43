//! The user's routes, Gateways and policies, and what Envoy Gateway calls what it makes of them.
//!
//! Names are those of Envoy Gateway v1.9.1. Source: envoyproxy/gateway, internal/gatewayapi/helpers.go and
//! internal/xds/translator/listener.go.

use std::fmt;

use crate::documents::{self, Document};
use crate::fields::{Field, Object};
use crate::place::{Place, Report};
use crate::policy::Policy;
use crate::request::{HostPort, Request};
use crate::service::{self, Service};

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const ENVOY_GATEWAY: &str = "gateway.envoyproxy.io";

/// What was read.
#[derive(Debug, Default)]
pub struct Known {
    services: Vec<Service>,
    routes: Vec<Route>,
    gateways: Vec<Gateway>,
    traffic: Vec<Traffic>,
}

/// A namespace and a name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Where.
    pub namespace: String,
    /// What.
    pub name: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An HTTPRoute or a GRPCRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    kind: String,
    namespace: String,
    /// Its name.
    pub name: String,
    hostnames: Vec<String>,
    parents: Vec<Parent>,
    /// Its rules.
    pub rules: Vec<Rule>,
    place: Place,
}

impl Route {
    /// What the names of its clusters begin with.
    pub fn prefix(&self) -> String {
        format!("{}/{}/{}/", self.kind.to_ascii_lowercase(), self.namespace, self.name)
    }

    /// Whether its requests are gRPC.
    pub fn is_grpc(&self) -> bool {
        self.kind == "GRPCRoute"
    }
}

/// A listener, or all of a Gateway's, that a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parent {
    gateway: Named,
    section: Option<String>,
    port: Option<u16>,
    place: Place,
}

/// A rule of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    backends: Vec<Backend>,
    retries: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Backend {
    is_service: bool,
    named: Named,
    port: Option<u16>,
    filters: bool,
}

/// A Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The EnvoyProxy that it names.
    pub parameters: Option<String>,
    listeners: Vec<Listener>,
    /// Where it was read.
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Listener {
    name: String,
    port: u16,
    protocol: String,
    hostname: Option<String>,
}

impl Listener {
    fn is_http(&self) -> bool {
        matches!(self.protocol.as_str(), "HTTP" | "HTTPS")
    }
}

/// A BackendTrafficPolicy, as far as it matters.
#[derive(Debug)]
struct Traffic {
    namespace: String,
    targets: Vec<(String, String)>,
    retries: bool,
    zones: bool,
    passive: Option<Place>,
    admission: Option<Place>,
    overrides: Option<Place>,
}

/// A service behind a route: which rules send to it, and by which clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The service.
    pub service: Named,
    /// The route.
    pub route: Route,
    /// The rules.
    pub rules: Vec<Reached>,
}

/// A rule that sends to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// What Envoy Gateway calls the rule's destination: the name of its cluster.
    pub destination: String,
    /// Whether each backend has a cluster of its own.
    pub by_backend: bool,
    backends: Vec<usize>,
    retries: bool,
}

impl Upstream {
    /// The names of the clusters.
    pub fn clusters(&self) -> Vec<String> {
        let of_rule = |rule: &Reached| -> Vec<String> {
            if rule.by_backend {
                rule.backends.iter().map(|index| format!("{}/backend/{index}", rule.destination)).collect()
            } else {
                vec![rule.destination.clone()]
            }
        };
        self.rules.iter().flat_map(of_rule).collect()
    }
}

/// Through what requests come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// Listeners, as Envoy has them.
    pub listeners: Vec<String>,
    /// Route configurations, and whether a route in them has a retry of its own.
    pub routes: Vec<(String, bool)>,
}

impl Known {
    /// Reads all files.
    pub fn read(request: &Request, report: &mut Report) -> Self {
        let mut known = Known::default();
        for document in documents::all(&request.files, report) {
            known.take(&document, &request.domain, report);
        }
        known
    }

    fn take(&mut self, document: &Document, domain: &str, report: &mut Report) {
        match (document.group.as_str(), document.kind.as_str()) {
            ("", "Service") => self.services.extend(service::kubernetes(document, domain, report)),
            (GATEWAY_API, "HTTPRoute" | "GRPCRoute") => self.routes.extend(route(document, report)),
            (GATEWAY_API, "Gateway") => self.gateways.extend(gateway(document, report)),
            (ENVOY_GATEWAY, "BackendTrafficPolicy") => self.traffic.extend(traffic(document, report)),
            (ENVOY_GATEWAY, "EnvoyProxy") => refuse_merging(document, report),
            (ENVOY_GATEWAY, "ClientTrafficPolicy") => warn_of_http3(document, report),
            // Nothing that they say is replaced by a patch.
            (GATEWAY_API, "GatewayClass" | "ReferenceGrant" | "BackendTLSPolicy")
            | (ENVOY_GATEWAY, "SecurityPolicy" | "EnvoyExtensionPolicy")
            | ("discovery.k8s.io", "EndpointSlice")
            | ("", "Secret" | "ConfigMap") => {}
            _ => report.warn(&document.place, "is of no matter here and was not read"),
        }
    }

    /// The routes of each service that is asked for.
    pub fn upstreams(&self, request: &Request, report: &mut Report) -> Vec<Upstream> {
        let mut found: Vec<Upstream> = Vec::new();
        for (index, asked) in request.services.iter().enumerate() {
            if request.services.iter().take(index).any(|earlier| earlier == asked) {
                report.wrong(format!("{}:{} is asked for twice", asked.host, asked.port));
                continue;
            }
            self.check(asked, &request.domain, report);
            let before = found.len();
            for route in &self.routes {
                let rules = self.reached(route, asked, &request.domain);
                let Some(service) = rules.first().map(|(service, _)| service.clone()) else { continue };
                let rules = rules.into_iter().map(|(_, rule)| rule).collect();
                found.push(Upstream { service, route: route.clone(), rules });
            }
            if found.len() == before {
                let backends = self.routes.iter().flat_map(|route| &route.rules).flat_map(|rule| &rule.backends);
                let mut known: Vec<String> = backends.filter_map(Backend::shown).collect();
                known.sort();
                known.dedup();
                let known = if known.is_empty() { "none at all".to_owned() } else { known.join(", ") };
                report.wrong(format!(
                    "{}:{}: no HTTPRoute or GRPCRoute of these resources has it as a backend (they have {known})",
                    asked.host, asked.port
                ));
            }
        }
        found
    }

    /// Where its Service is among the resources, it has this port.
    fn check(&self, asked: &HostPort, domain: &str, report: &mut Report) {
        let named = |service: &&Service| {
            is_asked(&Named { namespace: service.namespace.clone(), name: service.name.clone() }, asked, domain)
        };
        for service in self.services.iter().filter(named) {
            service.port(asked.port, report);
        }
    }

    fn reached(&self, route: &Route, asked: &HostPort, domain: &str) -> Vec<(Named, Reached)> {
        let of_rule = |(number, rule): (usize, &Rule)| {
            let is_this = |backend: &Backend| {
                backend.is_service && backend.port == Some(asked.port) && is_asked(&backend.named, asked, domain)
            };
            let backends: Vec<usize> =
                rule.backends.iter().enumerate().filter(|(_, one)| is_this(one)).map(|(index, _)| index).collect();
            let service = rule.backends.iter().find(|one| is_this(one))?.named.clone();
            let reached = Reached {
                destination: format!("{}rule/{number}", route.prefix()),
                by_backend: self.by_backend(route, rule),
                backends,
                retries: rule.retries || self.traffic_of(route).any(|traffic| traffic.retries),
            };
            Some((service, reached))
        };
        route.rules.iter().enumerate().filter_map(of_rule).collect()
    }

    /// Backends that cannot share a cluster get one each.
    fn by_backend(&self, route: &Route, rule: &Rule) -> bool {
        let several = rule.backends.len() > 1;
        let services =
            || rule.backends.iter().filter_map(|backend| Some((self.service(&backend.named)?, backend.port?)));
        let near = services().any(|(service, _)| service.nearby.is_some());
        let zones = near || self.traffic_of(route).any(|traffic| traffic.zones);
        let mut protocols: Vec<_> = services()
            .filter_map(|(service, number)| service.ports.iter().find(|port| port.number == number))
            .map(|port| port.protocol)
            .collect();
        protocols.dedup();
        let mixed = rule.backends.iter().any(|one| one.is_service) && rule.backends.iter().any(|one| !one.is_service);
        rule.backends.iter().any(|backend| backend.filters) || (several && (zones || mixed || protocols.len() > 1))
    }

    fn service(&self, named: &Named) -> Option<&Service> {
        self.services.iter().find(|service| service.namespace == named.namespace && service.name == named.name)
    }

    fn traffic_of<'a>(&'a self, route: &'a Route) -> impl Iterator<Item = &'a Traffic> {
        self.traffic.iter().filter(move |traffic| {
            traffic.targets.iter().any(|(kind, name)| {
                let is_route = *kind == route.kind && *name == route.name && traffic.namespace == route.namespace;
                let is_parent = |parent: &Parent| {
                    kind == "Gateway" && *name == parent.gateway.name && traffic.namespace == parent.gateway.namespace
                };
                is_route || route.parents.iter().any(is_parent)
            })
        })
    }

    /// The one Gateway.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.gateways.first()
    }

    /// Through which listeners of the Gateway requests for these come.
    pub fn entry(&self, upstreams: &[Upstream], report: &mut Report) -> Option<Entry> {
        let gateway = match self.gateways.as_slice() {
            [one] => one,
            [] => {
                report.wrong("no Gateway among these resources: the listeners' names are made of its own");
                return None;
            }
            [_, others @ ..] => {
                for other in others {
                    report.error(&other.place, "is a second Gateway: give one a call, each has proxies of its own");
                }
                return None;
            }
        };
        let mut entry = Entry::default();
        for upstream in upstreams {
            let here =
                |parent: &&Parent| parent.gateway.namespace == gateway.namespace && parent.gateway.name == gateway.name;
            let parents: Vec<&Parent> = upstream.route.parents.iter().filter(here).collect();
            if parents.is_empty() {
                let title = format!("Gateway {}/{}", gateway.namespace, gateway.name);
                report.error(&upstream.route.place.root("spec.parentRefs"), format!("names another one than {title}"));
                continue;
            }
            let retries = upstream.rules.iter().any(|rule| rule.retries);
            for parent in parents {
                listeners(gateway, parent, &upstream.route, retries, &mut entry, report);
            }
        }
        Some(entry)
    }

    /// What is worth a word beside the output.
    pub fn warn(&self, upstreams: &[Upstream], policy: &Policy, report: &mut Report) {
        for traffic in upstreams.iter().flat_map(|upstream| self.traffic_of(&upstream.route)) {
            if let Some(place) = traffic.passive.as_ref().filter(|_| policy.ejects) {
                report.warn(
                    place,
                    "judges the same hosts as `outlier`, and the two get into each other's way: leave one out",
                );
            }
            if let Some(place) = &traffic.overrides {
                report
                    .warn(place, "names hosts by a header of its own; Holdfast's comes before it while a host is out");
            }
            if let Some(place) = &traffic.admission {
                report.warn(
                    place,
                    "gives the cluster filters of its own, and with them no attempt seat: `retry` and `outlier` do not work there",
                );
            }
        }
    }
}

impl Backend {
    fn shown(&self) -> Option<String> {
        Some(format!("{}.{}:{}", self.named.name, self.named.namespace, self.port?))
    }
}

fn is_asked(named: &Named, asked: &HostPort, domain: &str) -> bool {
    service::is_name_of(&asked.host, &named.name, &named.namespace, domain)
}

fn listeners(gateway: &Gateway, parent: &Parent, route: &Route, retries: bool, entry: &mut Entry, report: &mut Report) {
    let fits = |listener: &&Listener| {
        listener.is_http()
            && parent.section.as_ref().is_none_or(|section| *section == listener.name)
            && parent.port.is_none_or(|port| port == listener.port)
            && meet(listener.hostname.as_deref(), &route.hostnames)
    };
    let found: Vec<&Listener> = gateway.listeners.iter().filter(fits).collect();
    if found.is_empty() {
        let all = gateway.listeners.iter().map(|listener| format!("{} ({})", listener.name, listener.protocol));
        let all = all.collect::<Vec<_>>().join(", ");
        report.error(
            &parent.place,
            format!("fits no HTTP listener of Gateway {}/{} (it has {all})", gateway.namespace, gateway.name),
        );
    }
    for listener in found {
        let name = |listener: &Listener| format!("{}/{}/{}", gateway.namespace, gateway.name, listener.name);
        // Listeners of a port are one of Envoy's, which has the first one's name.
        let first = gateway.listeners.iter().find(|other| other.port == listener.port && other.is_http());
        let shared = name(first.unwrap_or(listener));
        let routes = if listener.protocol == "HTTPS" { name(listener) } else { shared.clone() };
        if !entry.listeners.contains(&shared) {
            entry.listeners.push(shared);
        }
        match entry.routes.iter_mut().find(|(name, _)| *name == routes) {
            Some((_, any)) => *any |= retries,
            None => entry.routes.push((routes, retries)),
        }
    }
}

/// Whether a listener's host and a route's have any in common.
fn meet(listener: Option<&str>, route: &[String]) -> bool {
    let Some(listener) = listener.filter(|_| !route.is_empty()) else { return true };
    let within = |one: &str, other: &str| other.strip_prefix('*').is_some_and(|suffix| one.ends_with(suffix));
    route.iter().any(|host| host == listener || within(host, listener) || within(listener, host))
}

fn route(document: &Document, report: &mut Report) -> Option<Route> {
    let spec = document.spec(report)?;
    let hostnames = spec.get("hostnames").map(|field| field.list(report)).unwrap_or_default();
    let hostnames = hostnames.iter().filter_map(|field| field.text(report).map(str::to_owned)).collect();
    let parents = spec.required("parentRefs", report)?.list(report);
    let parents = parents.iter().filter_map(|field| parent(field, &document.namespace, report)).collect();
    let rules = spec.get("rules").map(|field| field.list(report)).unwrap_or_default();
    Some(Route {
        kind: document.kind.clone(),
        namespace: document.namespace.clone(),
        name: document.name.clone(),
        hostnames,
        parents,
        rules: rules.iter().filter_map(|field| rule(field, &document.namespace, report)).collect(),
        place: document.place.clone(),
    })
}

fn parent(field: &Field<'_>, namespace: &str, report: &mut Report) -> Option<Parent> {
    let object = field.object(report)?;
    if let Some(kind) = object.get("kind")
        && kind.text(report)? != "Gateway"
    {
        report.error(&kind.place, "is not supported here: a route has to name a Gateway");
        return None;
    }
    Some(Parent {
        gateway: named(&object, namespace, report)?,
        section: object.get("sectionName").and_then(|field| field.text(report)).map(str::to_owned),
        port: object.get("port").and_then(|field| field.port(report)),
        place: field.place.clone(),
    })
}

fn named(object: &Object<'_>, namespace: &str, report: &mut Report) -> Option<Named> {
    let name = object.required("name", report)?.text(report)?.to_owned();
    let given = object.get("namespace").and_then(|field| field.text(report));
    Some(Named { namespace: given.unwrap_or(namespace).to_owned(), name })
}

fn rule(field: &Field<'_>, namespace: &str, report: &mut Report) -> Option<Rule> {
    let object = field.object(report)?;
    let backends = object.get("backendRefs").map(|field| field.list(report)).unwrap_or_default();
    let backend = |field: &Field<'_>, report: &mut Report| {
        let object = field.object(report)?;
        let kind = object.get("kind").and_then(|field| field.text(report)).unwrap_or("Service");
        Some(Backend {
            is_service: kind == "Service",
            named: named(&object, namespace, report)?,
            port: object.get("port").and_then(|field| field.port(report)),
            filters: object.get("filters").is_some_and(|field| !field.list(report).is_empty()),
        })
    };
    Some(Rule {
        backends: backends.iter().filter_map(|field| backend(field, report)).collect(),
        retries: object.get("retry").is_some(),
    })
}

fn gateway(document: &Document, report: &mut Report) -> Option<Gateway> {
    let spec = document.spec(report)?;
    let mut listeners = Vec::new();
    for field in spec.required("listeners", report)?.list(report) {
        let object = field.object(report)?;
        listeners.push(Listener {
            name: object.required("name", report)?.text(report)?.to_owned(),
            port: object.required("port", report)?.port(report)?,
            protocol: object.required("protocol", report)?.text(report)?.to_owned(),
            hostname: object.get("hostname").and_then(|field| field.text(report)).map(str::to_owned),
        });
    }
    let parameters = spec
        .get("infrastructure")
        .and_then(|field| field.object(report))
        .and_then(|object| object.get("parametersRef"))
        .and_then(|field| field.object(report))
        .and_then(|object| object.required("name", report)?.text(report).map(str::to_owned));
    Some(Gateway {
        namespace: document.namespace.clone(),
        name: document.name.clone(),
        parameters,
        listeners,
        place: document.place.clone(),
    })
}

fn traffic(document: &Document, report: &mut Report) -> Option<Traffic> {
    let spec = document.spec(report)?;
    let mut fields = spec.get("targetRefs").map(|field| field.list(report)).unwrap_or_default();
    fields.extend(spec.get("targetRef"));
    if let Some(selectors) = spec.get("targetSelectors") {
        report.error(
            &selectors.place,
            "is not supported here: whom it is for is not known; give the policy with `targetRefs`",
        );
    }
    let mut targets = Vec::new();
    for field in fields {
        let object = field.object(report)?;
        let kind = object.required("kind", report)?.text(report)?.to_owned();
        targets.push((kind, object.required("name", report)?.text(report)?.to_owned()));
    }
    let balancer = spec.get("loadBalancer").and_then(|field| field.object(report));
    let part = |key| balancer.as_ref().and_then(|object| object.get(key));
    let passive =
        spec.get("healthCheck").and_then(|field| field.object(report)).and_then(|object| object.get("passive"));
    Some(Traffic {
        namespace: document.namespace.clone(),
        targets,
        retries: spec.get("retry").is_some(),
        zones: part("zoneAware").is_some(),
        passive: passive.map(|field| field.place),
        admission: spec.get("admissionControl").map(|field| field.place),
        overrides: part("endpointOverride").map(|field| field.place),
    })
}

/// Then listeners and clusters have other names, and other owners.
fn refuse_merging(document: &Document, report: &mut Report) {
    let Some(spec) = document.spec(report) else { return };
    let on = spec.get("mergeGateways").filter(|field| field.value.as_bool() != Some(false));
    for field in on.into_iter().chain(spec.get("mergeBackends")) {
        report.error(
            &field.place,
            "is not supported here: routes and Gateways then share what is to be patched for one of them",
        );
    }
}

fn warn_of_http3(document: &Document, report: &mut Report) {
    if let Some(field) = document.spec(report).and_then(|spec| spec.get("http3")) {
        report.warn(
            &field.place,
            "HTTP/3 has a listener of its own (its name ends in -quic), which the output does not patch",
        );
    }
}
