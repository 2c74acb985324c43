//! Services: Kubernetes' own and Istio's `ServiceEntry`, their hosts, ports and protocols.

use crate::documents::Document;
use crate::fields::Object;
use crate::place::{Place, Report};

/// A host that requests go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name in Istio: `orders.shop.svc.cluster.local`, `api.example.com`.
    pub host: String,
    /// The name in its resource.
    pub name: String,
    /// Where its resource stands.
    pub namespace: String,
    /// Its ports.
    pub ports: Vec<Port>,
    /// How its hosts are found.
    pub resolution: Resolution,
    /// Whether it is outside of the mesh, so that Istio does not encrypt for it by itself.
    pub external: bool,
    /// Whether it prefers hosts nearby, which Istio does by priorities and weights of localities.
    pub nearby: Option<Place>,
    /// Whether it is a ServiceEntry's.
    pub entry: bool,
    /// Names that its hosts' certificates are for, where a ServiceEntry says so.
    pub names: Vec<String>,
    /// Labels of its pods.
    pub selector: Vec<(String, String)>,
    /// Where it says that it is an alias of another host, if it does.
    pub alias: Option<Place>,
    /// Where it was read, if it was.
    pub place: Option<Place>,
}

impl Service {
    /// The port with this number; where there is none, the report says which there are.
    pub fn port(&self, number: u16, report: &mut Report) -> Option<&Port> {
        let found = self.ports.iter().find(|port| port.number == number);
        if found.is_none() {
            let ports = self.ports.iter().map(|port| port.number.to_string()).collect::<Vec<_>>().join(", ");
            let problem = format!("has no port {number} (it has {ports})");
            match &self.place {
                Some(place) => report.error(&place.root("spec.ports"), problem),
                None => report.wrong(format!("{}: {problem}", self.host)),
            }
        }
        found
    }
}

/// A Kubernetes Service's name in full. `domain` is the cluster's, without a dot before it.
pub fn full_name(name: &str, namespace: &str, domain: &str) -> String {
    format!("{name}.{namespace}.svc.{domain}")
}

/// Whether `host` is a name of a Kubernetes Service: `orders`, `orders.shop`, `orders.shop.svc` or the whole name.
pub fn is_name_of(host: &str, name: &str, namespace: &str, domain: &str) -> bool {
    let full = full_name(name, namespace, domain);
    let short =
        [name.len(), name.len() + 1 + namespace.len(), name.len() + 1 + namespace.len() + ".svc".len(), full.len()];
    short.iter().any(|end| full.get(..*end) == Some(host))
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The number that callers use.
    pub number: u16,
    /// The number that the pods listen on, or its name there.
    pub target: Option<Target>,
    /// What it speaks.
    pub protocol: PortProtocol,
    /// Where it was read, if it was.
    pub place: Option<Place>,
}

/// A pod's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By number.
    Number(u16),
    /// By its name in the pod.
    Name(String),
}

/// What a port says that it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortProtocol {
    /// HTTP/1.1
    Http,
    /// HTTP/2
    Http2,
    /// gRPC, over HTTP/2
    Grpc,
    /// TLS that the application makes; HTTP only where a DestinationRule originates TLS.
    Https,
    /// Nothing: Istio looks at what comes.
    Undeclared,
    /// Something else.
    Other(&'static str),
}

/// How Istio finds a service's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It knows them.
    Endpoints,
    /// By DNS, every address a host.
    Dns,
    /// By DNS, one host.
    DnsOne,
    /// A wildcard host, looked up as it is asked for.
    DnsDynamic,
    /// The caller has chosen it: a headless service, or `resolution: NONE`.
    None,
}

/// A port's protocol by name, as Istio reads it; names and `appProtocol` count up to their first dash.
pub fn protocol(number: u16, name: &str, app: Option<&str>) -> PortProtocol {
    let text = match app {
        Some("kubernetes.io/h2c") => return PortProtocol::Http2,
        Some("kubernetes.io/ws") => return PortProtocol::Http,
        Some("kubernetes.io/wss") => return PortProtocol::Https,
        Some(app) => app,
        None => name,
    };
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("grpc-web") {
        return PortProtocol::Grpc;
    }
    match lower.split('-').next().unwrap_or_default() {
        "http" => PortProtocol::Http,
        "http2" => PortProtocol::Http2,
        "grpc" => PortProtocol::Grpc,
        "https" => PortProtocol::Https,
        "tcp" => PortProtocol::Other("TCP"),
        "udp" => PortProtocol::Other("UDP"),
        "tls" => PortProtocol::Other("TLS"),
        "mongo" => PortProtocol::Other("Mongo"),
        "redis" => PortProtocol::Other("Redis"),
        "mysql" => PortProtocol::Other("MySQL"),
        "http_proxy" => PortProtocol::Other("HTTP_PROXY"),
        // Ports of protocols in which the server speaks first are never looked into.
        _ if [25, 53, 3306, 27017].contains(&number) => PortProtocol::Other("TCP"),
        _ => PortProtocol::Undeclared,
    }
}

/// Reads a Kubernetes Service. `domain` is the cluster's, without a dot before it.
pub fn kubernetes(document: &Document, domain: &str, report: &mut Report) -> Option<Service> {
    const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
    // The API server keeps what it does not know out of a Service, so only what matters here is read.
    let spec = document.spec(report)?;
    let text = |key| spec.get(key).and_then(|field| field.value.as_str().map(|text| (text.to_owned(), field.place)));
    let alias = text("type").filter(|(kind, _)| kind == "ExternalName").map(|(_, place)| place);
    let headless = text("clusterIP").is_some_and(|(address, _)| address == "None");
    let nearby = text("trafficDistribution")
        .filter(|(value, _)| ["PreferClose", "PreferSameZone", "PreferSameNode"].contains(&value.as_str()))
        .map(|(_, place)| place)
        .or_else(|| {
            let value = document.annotation(TRAFFIC_DISTRIBUTION)?.to_ascii_lowercase();
            let near = ["preferclose", "prefersamezone", "prefersamenode"].contains(&value.as_str());
            near.then(|| document.place.root("metadata.annotations").field(TRAFFIC_DISTRIBUTION))
        });
    let ports = spec.get("ports").map(|field| field.list(report)).unwrap_or_default();
    let ports = ports.iter().filter_map(|field| service_port(&field.object(report)?, report)).collect();
    let selector = spec.get("selector").and_then(|field| field.object(report));
    let selector = selector.iter().flat_map(|object| object.entries());
    Some(Service {
        host: full_name(&document.name, &document.namespace, domain),
        name: document.name.clone(),
        namespace: document.namespace.clone(),
        ports,
        resolution: if headless { Resolution::None } else { Resolution::Endpoints },
        external: false,
        nearby,
        entry: false,
        names: Vec::new(),
        selector: selector
            .filter_map(|(key, field)| Some((key.to_owned(), field.value.as_str()?.to_owned())))
            .collect(),
        alias,
        place: Some(document.place.clone()),
    })
}

fn service_port(port: &Object<'_>, report: &mut Report) -> Option<Port> {
    let number = port.required("port", report)?.port(report)?;
    let name = port.get("name").and_then(|field| field.value.as_str()).unwrap_or_default();
    let app = port.get("appProtocol").and_then(|field| field.value.as_str());
    let transport = port.get("protocol").and_then(|field| field.value.as_str()).unwrap_or("TCP");
    let target = port.get("targetPort").and_then(|field| match field.value.as_str() {
        Some(name) => Some(name.parse().map_or_else(|_| Target::Name(name.to_owned()), Target::Number)),
        None => field.port(report).map(Target::Number),
    });
    let protocol = match transport {
        "TCP" => protocol(number, name, app),
        "UDP" => PortProtocol::Other("UDP"),
        _ => PortProtocol::Other("SCTP"),
    };
    Some(Port { number, target: target.or(Some(Target::Number(number))), protocol, place: Some(port.place.clone()) })
}

/// Reads a ServiceEntry: a service for each of its hosts.
pub fn entry(document: &Document, report: &mut Report) -> Vec<Service> {
    let Some(spec) = document.spec(report) else { return Vec::new() };
    let found = entry_of(document, &spec, report).unwrap_or_default();
    // Who sees it, and which addresses it has, is no matter here.
    spec.known(&["addresses", "endpoints", "exportTo"]);
    spec.finish(report);
    found
}

fn entry_of(document: &Document, spec: &Object<'_>, report: &mut Report) -> Option<Vec<Service>> {
    const RESOLUTIONS: [(&str, Resolution); 5] = [
        ("NONE", Resolution::None),
        ("STATIC", Resolution::Endpoints),
        ("DNS", Resolution::Dns),
        ("DNS_ROUND_ROBIN", Resolution::DnsOne),
        ("DYNAMIC_DNS", Resolution::DnsDynamic),
    ];
    let hosts = spec.required("hosts", report)?.list(report);
    let ports = spec.get("ports").map(|field| field.list(report)).unwrap_or_default();
    let ports: Vec<Port> = ports.iter().filter_map(|field| entry_port(&field.object(report)?, report)).collect();
    let resolution = match spec.get("resolution") {
        Some(field) => field.word(&RESOLUTIONS, report)?,
        None => Resolution::None,
    };
    let external = match spec.get("location") {
        Some(field) => field.word(&[("MESH_EXTERNAL", true), ("MESH_INTERNAL", false)], report)?,
        None => true,
    };
    let selector = spec.get("workloadSelector").and_then(|field| field.object(report)).and_then(|object| {
        let labels = object.get("labels").and_then(|field| field.object(report));
        object.finish(report);
        labels
    });
    let labels = selector.iter().flat_map(|object| object.entries());
    let selector: Vec<_> =
        labels.filter_map(|(key, field)| Some((key.to_owned(), field.value.as_str()?.to_owned()))).collect();
    let nearby = document
        .annotation("networking.istio.io/traffic-distribution")
        .map(|_| document.place.root("metadata.annotations"));
    let names = spec.get("subjectAltNames").map(|field| field.list(report)).unwrap_or_default();
    let names: Vec<String> = names.iter().filter_map(|field| field.text(report)).map(str::to_owned).collect();
    let service = |host: &str| Service {
        host: host.to_ascii_lowercase(),
        // Its resource's name is shorter than the host, where it has one host alone.
        name: if hosts.len() == 1 { document.name.clone() } else { host.trim_start_matches("*.").to_ascii_lowercase() },
        namespace: document.namespace.clone(),
        ports: ports.clone(),
        resolution,
        external,
        nearby: nearby.clone(),
        entry: true,
        names: names.clone(),
        selector: selector.clone(),
        alias: None,
        place: Some(document.place.clone()),
    };
    Some(hosts.iter().filter_map(|field| field.text(report)).map(service).collect())
}

fn entry_port(port: &Object<'_>, report: &mut Report) -> Option<Port> {
    let number = port.required("number", report).and_then(|field| field.port(report));
    port.required("name", report);
    let said = port.get("protocol").and_then(|field| field.text(report));
    let target = port.get("targetPort").and_then(|field| field.port(report));
    let number = number?;
    let protocol = entry_protocol(said.unwrap_or_default());
    Some(Port {
        number,
        target: Some(Target::Number(target.unwrap_or(number))),
        protocol,
        place: Some(port.place.clone()),
    })
}

/// A ServiceEntry's port says its protocol as a whole word; its name says nothing.
fn entry_protocol(said: &str) -> PortProtocol {
    match said.to_ascii_lowercase().as_str() {
        "" => PortProtocol::Undeclared,
        "grpc-web" => PortProtocol::Grpc,
        word if word.contains('-') => PortProtocol::Undeclared,
        word => protocol(0, word, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_speaks_what_its_name_or_app_protocol_says() {
        let named = |name| protocol(8080, name, None);
        assert_eq!(named("http"), PortProtocol::Http);
        assert_eq!(named("http-web"), PortProtocol::Http);
        assert_eq!(named("HTTP2-api"), PortProtocol::Http2);
        assert_eq!(named("grpc"), PortProtocol::Grpc);
        assert_eq!(named("grpc-web-x"), PortProtocol::Grpc);
        assert_eq!(named("https"), PortProtocol::Https);
        assert_eq!(named("tcp-x"), PortProtocol::Other("TCP"));
        assert_eq!(named("web"), PortProtocol::Undeclared);
        assert_eq!(named(""), PortProtocol::Undeclared);
        assert_eq!(protocol(3306, "db", None), PortProtocol::Other("TCP"));
        assert_eq!(protocol(80, "http", Some("grpc")), PortProtocol::Grpc, "appProtocol comes first");
        assert_eq!(protocol(80, "x", Some("kubernetes.io/h2c")), PortProtocol::Http2);
        assert_eq!(protocol(80, "x", Some("kubernetes.io/wss")), PortProtocol::Https);
    }
}
