//! What Istio makes of a port of a service: its clusters, their names, and the facts about each.

use super::mesh::Mesh;
use super::restated;
use super::rule::Rule;
use super::traffic::{Choice, LocalitySetting, Traffic, effective};
use crate::facts::{Balancing, Connections, Locality, Names, Protocol, Steering, Upstream, Warmup};
use crate::place::Report;
use crate::request::Proxy;
use crate::service::{Port, PortProtocol, Resolution, Service};

/// One cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Its name in Envoy.
    pub name: String,
    /// The subset's name; empty for the whole service.
    pub subset: String,
    /// What a DestinationRule says of it.
    pub traffic: Traffic,
    /// How it is reached and balanced.
    pub upstream: Upstream,
    /// Whether it has to be made anew, because a merge cannot take away what Envoy refuses beside Holdfast.
    pub restated: bool,
}

/// A service's port with all its clusters: the whole, then subset by subset.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// The service.
    pub service: Service,
    /// The port.
    pub port: Port,
    /// The listeners through which requests for it come, by their ports.
    pub listeners: Vec<u16>,
    /// Its clusters.
    pub all: Vec<Cluster>,
    /// Labels of the callers that the rule is for; none for all.
    pub callers: Vec<(String, String)>,
    /// What holds for all of the mesh.
    pub mesh: Mesh,
    /// What the routes do about retries, where all of them do the same.
    pub retries: super::route::Retries,
}

impl Clusters {
    /// The name of the cluster of the whole service, as these proxies have it.
    pub fn name(&self, proxy: Proxy) -> String {
        let (host, port) = (&self.service.host, self.port.number);
        match proxy {
            Proxy::Sidecar | Proxy::Gateway => format!("outbound|{port}||{host}"),
            Proxy::Inbound => format!("inbound|{}||", self.listeners.first().copied().unwrap_or(port)),
            Proxy::Waypoint => format!("inbound-vip|{port}|http|{host}"),
        }
    }

    /// A glob for all of its clusters, today's and tomorrow's subsets.
    pub fn glob(&self, proxy: Proxy) -> String {
        let (host, port) = (&self.service.host, self.port.number);
        match proxy {
            Proxy::Sidecar | Proxy::Gateway => format!("outbound|{port}|*|{host}"),
            Proxy::Inbound => self.name(proxy),
            Proxy::Waypoint => format!("inbound-vip|{port}|http*|{host}"),
        }
    }

    /// Whether one patch does for all of them.
    pub fn alike(&self) -> bool {
        let restated = self.all.iter().any(|cluster| cluster.restated);
        !restated && self.all.windows(2).all(|two| matches!(two, [a, b] if a.upstream == b.upstream))
    }

    /// Whether Istio gives hosts of one of them priorities by their locality.
    pub fn fails_over(&self) -> bool {
        self.all.iter().any(|cluster| cluster.traffic.outlier.is_some())
    }

    /// Whether one of them weighs its localities.
    pub fn weighs_localities(&self) -> bool {
        self.all.iter().any(|cluster| cluster.upstream.locality == Locality::Weighted)
    }

    /// Whether a host of every one of them can be named.
    pub fn steered(&self) -> bool {
        self.all.iter().all(|cluster| cluster.upstream.steering.possible())
    }
}

/// The clusters of a port, or why there is nothing that Holdfast could do for it.
pub fn clusters(
    service: &Service,
    port: &Port,
    rule: Option<&Rule>,
    proxy: Proxy,
    mesh: &Mesh,
    report: &mut Report,
) -> Option<Vec<Cluster>> {
    let policy = rule.and_then(|rule| rule.policy.as_ref());
    let whole = std::iter::once((String::new(), None));
    let subsets = rule.into_iter().flat_map(|rule| &rule.subsets);
    let subsets = subsets.map(|subset| (subset.name.clone(), subset.policy.as_ref()));
    let mut found = Vec::new();
    for (subset, own) in whole.chain(subsets) {
        let traffic = effective(policy, own, port.number, mesh);
        let name = format!("outbound|{}|{subset}|{}", port.number, service.host);
        let protocol = protocol(port, &traffic, proxy, mesh, report)?;
        let steering = steering(service, &traffic, proxy);
        let locality = locality(service, &traffic, mesh);
        let mut upstream = Upstream {
            header_case: mesh.header_case && matches!(port.protocol, PortProtocol::Http | PortProtocol::Undeclared),
            protocol,
            connections: connections(&traffic),
            names: names(&traffic),
            balancing: balancing(&traffic),
            locality,
            steering,
        };
        let weighs = locality != Locality::None;
        let obstacle = obstacle(service, &traffic).filter(|_| weighs && upstream.steering.possible());
        if let Some(obstacle) = obstacle {
            let problem = format!(
                "its localities weigh by a setting that Envoy refuses beside override_host, and the cluster cannot be stated \
                 again without it: {obstacle}"
            );
            upstream.steering = Steering::Impossible(problem);
        }
        let restated = weighs && upstream.steering.possible();
        found.push(Cluster { name, subset, traffic, upstream, restated });
    }
    Some(found)
}

/// Why a cluster cannot be stated again, if so.
fn obstacle(service: &Service, traffic: &Traffic) -> Option<&'static str> {
    match service.resolution {
        Resolution::Dns | Resolution::DnsOne => {
            Some("its DNS hosts are in it, with priorities that Istio makes for each proxy")
        }
        _ => restated::obstacle(traffic),
    }
}

/// HTTP, or an error that says what it is instead.
fn protocol(port: &Port, traffic: &Traffic, proxy: Proxy, mesh: &Mesh, report: &mut Report) -> Option<Protocol> {
    let http = traffic.pool.as_ref().map(|pool| pool.http.clone()).unwrap_or_default();
    let http2 = || Protocol::Http2 { max_concurrent_streams: http.max_streams, keepalive: http.keepalive.clone() };
    let originates = || {
        use super::traffic::TlsMode::{Mutual, Simple};
        traffic.tls.as_ref().is_some_and(|tls| matches!(tls.mode, Simple | Mutual))
    };
    let wrong = |problem: String, report: &mut Report| {
        match &port.place {
            Some(place) => report.error(place, problem),
            None => report.wrong(problem),
        }
        None
    };
    let (declared, sniffed) = match port.protocol {
        PortProtocol::Http => (Protocol::Http1, false),
        PortProtocol::Http2 | PortProtocol::Grpc => (http2(), false),
        // A gateway never looks into what comes: it speaks HTTP/1.1.
        PortProtocol::Undeclared if proxy == Proxy::Gateway => (Protocol::Http1, false),
        PortProtocol::Undeclared => (Protocol::Client, true),
        PortProtocol::Https if originates() => (Protocol::Http1, false),
        PortProtocol::Https => {
            let problem = format!(
                "port {} is HTTPS, made by the application: Envoy sees no requests in it. A DestinationRule with tls.mode \
                 SIMPLE makes TLS of HTTP",
                port.number
            );
            return wrong(problem, report);
        }
        PortProtocol::Other(name) => {
            let problem = format!(
                "port {} speaks {name}, not HTTP: name it http, http2 or grpc (or http-...), or set appProtocol, if it does",
                port.number
            );
            return wrong(problem, report);
        }
    };
    if http.client_protocol {
        return Some(Protocol::Client);
    }
    let plain = matches!(port.protocol, PortProtocol::Http | PortProtocol::Undeclared);
    // Istio upgrades no cluster that has options for HTTP/1.1 already.
    let upgraded = match http.upgrade {
        Some(upgrade) => upgrade,
        None => mesh.upgrade && port.protocol == PortProtocol::Http,
    };
    Some(if upgraded && !sniffed && !(plain && mesh.header_case) { http2() } else { declared })
}

fn connections(traffic: &Traffic) -> Connections {
    let Some(pool) = &traffic.pool else { return Connections::default() };
    Connections {
        idle_timeout: pool.http.idle_timeout.or(pool.tcp.idle_timeout),
        max_requests: pool.http.max_per_connection,
        max_duration: pool.tcp.max_connection_duration,
    }
}

/// Istio takes names from requests where TLS is originated and the rule names none.
fn names(traffic: &Traffic) -> Names {
    use super::traffic::TlsMode::{Mutual, Simple};
    match &traffic.tls {
        Some(tls) if matches!(tls.mode, Simple | Mutual) => {
            let auto_sni = tls.sni.is_none();
            Names { auto_sni, auto_san_validation: auto_sni && tls.names.is_empty() && !tls.unverified }
        }
        _ => Names::default(),
    }
}

fn balancing(traffic: &Traffic) -> Balancing {
    let Some(balancer) = &traffic.balancer else { return Balancing::LeastRequest(None) };
    let warmup = balancer.warmup.as_ref().map(|warmup| Warmup {
        window: warmup.duration,
        aggression: warmup.aggression,
        minimum: warmup.minimum,
    });
    match balancer.choice {
        Choice::LeastRequest | Choice::Passthrough => Balancing::LeastRequest(warmup),
        Choice::RoundRobin => Balancing::RoundRobin(warmup),
        Choice::Random => Balancing::Random,
        Choice::Ring(size) => Balancing::RingHash(size),
        Choice::Maglev(size) => Balancing::Maglev(size),
    }
}

/// What Istio sets beside priorities. Source: istio/istio, loadbalancer.go, `ApplyToCluster` and `GetEffectiveLbSetting`.
fn locality(service: &Service, traffic: &Traffic, mesh: &Mesh) -> Locality {
    let balancer = traffic.balancer.as_ref();
    if let Some(zones) = balancer.and_then(|balancer| balancer.zones.as_ref()) {
        return Locality::ZoneAware { min_cluster_size: zones.min_cluster_size, enabled: zones.enabled };
    }
    if let Some(setting) = balancer.and_then(|balancer| balancer.locality.as_ref()) {
        return weighs(setting, traffic);
    }
    if service.nearby.is_some() {
        return Locality::Weighted;
    }
    if let Some(zones) = &mesh.zones {
        return Locality::ZoneAware { min_cluster_size: zones.min_cluster_size, enabled: zones.enabled };
    }
    mesh.locality.as_ref().map_or(Locality::None, |setting| weighs(setting, traffic))
}

fn weighs(setting: &LocalitySetting, traffic: &Traffic) -> Locality {
    let fails_over = traffic.outlier.is_some() && setting.failover;
    let weighs = setting.enabled && (setting.distribute || fails_over);
    if weighs { Locality::Weighted } else { Locality::None }
}

fn steering(service: &Service, traffic: &Traffic, proxy: Proxy) -> Steering {
    let no = |reason: &str| Steering::Impossible(reason.to_owned());
    match proxy {
        Proxy::Sidecar | Proxy::Gateway => {}
        Proxy::Inbound => return no("there is one host, the application"),
        Proxy::Waypoint => return no("a waypoint reaches hosts by tunnels, whose addresses are its own"),
    }
    if traffic.balancer.as_ref().is_some_and(|balancer| balancer.choice == Choice::Passthrough) {
        return no("its loadBalancer is PASSTHROUGH: the caller has chosen the host (ORIGINAL_DST)");
    }
    match service.resolution {
        Resolution::Endpoints | Resolution::Dns | Resolution::DnsOne => Steering::Possible,
        // A gateway has no original destination, so Istio gives it the endpoints.
        Resolution::None if proxy == Proxy::Gateway => Steering::Possible,
        Resolution::None => {
            no("the caller has chosen the host: the service is headless or has resolution NONE (ORIGINAL_DST)")
        }
        Resolution::DnsDynamic => no("its hosts are looked up request by request (DYNAMIC_DNS)"),
    }
}
