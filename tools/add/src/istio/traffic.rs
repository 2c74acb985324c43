//! `trafficPolicy`: what a DestinationRule says about connections, balancing, ejection and TLS.

use std::time::Duration;

use super::mesh::Mesh;
use crate::facts::Keepalive;
use crate::fields::{Field, Object};
use crate::place::{Place, Report};

/// What holds for a port of a service or a subset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Traffic {
    /// `connectionPool`
    pub pool: Option<Pool>,
    /// `loadBalancer`
    pub balancer: Option<Balancer>,
    /// `outlierDetection`
    pub outlier: Option<Outlier>,
    /// `tls`
    pub tls: Option<Tls>,
    /// `proxyProtocol`
    pub proxy_protocol: Option<Place>,
    /// `retryBudget`
    pub retry_budget: Option<RetryBudget>,
}

/// A `trafficPolicy` as it is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// What holds for all ports.
    pub all: Traffic,
    /// What holds for single ports instead.
    pub ports: Vec<(u16, Traffic)>,
}

/// `connectionPool`
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pool {
    /// `tcp`
    pub tcp: Tcp,
    /// `http`
    pub http: Http,
}

/// `connectionPool.tcp`
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tcp {
    /// `maxConnections`
    pub max_connections: Option<u32>,
    /// `connectTimeout`
    pub connect_timeout: Option<Duration>,
    /// `tcpKeepalive`: probes, time, interval
    pub keepalive: Option<(Option<u32>, Option<Duration>, Option<Duration>)>,
    /// `maxConnectionDuration`
    pub max_connection_duration: Option<Duration>,
    /// `idleTimeout`
    pub idle_timeout: Option<Duration>,
}

/// `connectionPool.http`
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Http {
    /// `http1MaxPendingRequests`
    pub max_pending: Option<u32>,
    /// `http2MaxRequests`
    pub max_requests: Option<u32>,
    /// `maxRequestsPerConnection`
    pub max_per_connection: Option<u32>,
    /// `maxRetries`
    pub max_retries: Option<u32>,
    /// `idleTimeout`
    pub idle_timeout: Option<Duration>,
    /// `h2UpgradePolicy`: whether HTTP/1.1 ports are spoken to in HTTP/2.
    pub upgrade: Option<bool>,
    /// `useClientProtocol`
    pub client_protocol: bool,
    /// `maxConcurrentStreams`
    pub max_streams: Option<u32>,
    /// `http2KeepAlive`
    pub keepalive: Option<Keepalive>,
}

/// `loadBalancer`
#[derive(Debug, Clone, PartialEq)]
pub struct Balancer {
    /// How a host is chosen.
    pub choice: Choice,
    /// `warmup`, or the older `warmupDurationSecs`.
    pub warmup: Option<Warmup>,
    /// `localityLbSetting`
    pub locality: Option<LocalitySetting>,
    /// `zoneAwareLbSetting`
    pub zones: Option<ZoneSetting>,
    /// Where it stands.
    pub place: Place,
}

/// How a host is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Nothing is said, or `LEAST_REQUEST`.
    LeastRequest,
    /// `ROUND_ROBIN`
    RoundRobin,
    /// `RANDOM`
    Random,
    /// `PASSTHROUGH`: the caller has chosen.
    Passthrough,
    /// `consistentHash` by a ring, of this size.
    Ring(Option<u64>),
    /// `consistentHash` by Maglev, of this size.
    Maglev(Option<u64>),
}

/// Warm-up of new hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct Warmup {
    /// How long.
    pub duration: Duration,
    /// `aggression`
    pub aggression: Option<f64>,
    /// `minimumPercent`
    pub minimum: Option<f64>,
}

/// `localityLbSetting`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalitySetting {
    /// Not switched off.
    pub enabled: bool,
    /// `distribute`, which always weighs localities.
    pub distribute: bool,
    /// `failover` or `failoverPriority`, which weigh them beside an `outlierDetection`.
    pub failover: bool,
}

/// `zoneAwareLbSetting`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneSetting {
    /// Not switched off.
    pub enabled: bool,
    /// `minClusterSize`
    pub min_cluster_size: Option<u64>,
}

/// `outlierDetection`
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outlier {
    /// `splitExternalLocalOriginErrors`
    pub split: bool,
    /// `consecutiveLocalOriginFailures`
    pub local: Option<u32>,
    /// `consecutiveGatewayErrors`
    pub gateway: Option<u32>,
    /// `consecutive5xxErrors`
    pub errors: Option<u32>,
    /// `interval`
    pub interval: Option<Duration>,
    /// `baseEjectionTime`
    pub base: Option<Duration>,
    /// `maxEjectionPercent`
    pub max_ejected: Option<u32>,
    /// `minHealthPercent`
    pub min_health: u32,
}

impl Outlier {
    /// Whether Envoy ejects hosts by it. Envoy's own defaults eject for what is not set.
    pub fn ejects(&self) -> bool {
        let off = self.errors == Some(0) && self.gateway.is_none_or(|gateway| gateway == 0);
        !off
    }
}

/// `tls`
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// `mode`
    pub mode: TlsMode,
    /// `clientCertificate`
    pub certificate: Option<String>,
    /// `privateKey`
    pub key: Option<String>,
    /// `caCertificates`
    pub authorities: Option<String>,
    /// `credentialName`
    pub credential: Option<String>,
    /// `subjectAltNames`
    pub names: Vec<String>,
    /// `sni`
    pub sni: Option<String>,
    /// `insecureSkipVerify`
    pub unverified: bool,
    /// `caCrl`
    pub revoked: Option<String>,
    /// Where it stands.
    pub place: Place,
}

/// `tls.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// None.
    Disable,
    /// With a server's certificate.
    Simple,
    /// With both certificates.
    Mutual,
    /// With Istio's own.
    IstioMutual,
}

/// `retryBudget`
#[derive(Debug, Clone, PartialEq)]
pub struct RetryBudget {
    /// `percent`
    pub percent: Option<f64>,
    /// `minRetryConcurrency`
    pub least: Option<u32>,
    /// `budgetInterval`
    pub interval: Option<Duration>,
}

/// Reads a `trafficPolicy`.
pub fn read(field: &Field<'_>, report: &mut Report) -> Option<Policy> {
    let object = field.object(report)?;
    let all = traffic(&object, report);
    let mut policy = Policy { all, ports: Vec::new() };
    for field in object.get("portLevelSettings").map(|field| field.list(report)).unwrap_or_default() {
        let Some(settings) = field.object(report) else { continue };
        let number = settings.required("port", report).and_then(|field| {
            let port = field.object(report)?;
            let number = port.required("number", report).and_then(|field| field.port(report));
            port.finish(report);
            number
        });
        let found = traffic(&settings, report);
        settings.finish(report);
        let Some(number) = number else { continue };
        if policy.ports.iter().any(|(port, _)| *port == number) {
            report.error(&field.place, format!("port {number} has settings already"));
        }
        policy.ports.push((number, found));
    }
    // TCP tunnels by HTTP are for TCP and TLS routes alone.
    object.known(&["tunnel"]);
    object.finish(report);
    Some(policy)
}

fn traffic(object: &Object<'_>, report: &mut Report) -> Traffic {
    Traffic {
        pool: object.get("connectionPool").and_then(|field| pool(&field, report)),
        balancer: object.get("loadBalancer").and_then(|field| balancer(&field, report)),
        outlier: object.get("outlierDetection").and_then(|field| outlier(&field, report)),
        tls: object.get("tls").and_then(|field| tls(&field, report)),
        proxy_protocol: object.get("proxyProtocol").map(|field| field.place),
        retry_budget: object.get("retryBudget").and_then(|field| retry_budget(&field, report)),
    }
}

/// Istio takes 0 for "not set" in these.
fn set(object: &Object<'_>, key: &'static str, report: &mut Report) -> Option<u32> {
    object.get(key)?.small(report).filter(|number| *number > 0)
}

fn time(object: &Object<'_>, key: &'static str, report: &mut Report) -> Option<Duration> {
    object.get(key)?.duration(report)
}

/// Reads a block of a `trafficPolicy`, or the mesh's default for it.
pub fn pool(field: &Field<'_>, report: &mut Report) -> Option<Pool> {
    let object = field.object(report)?;
    let tcp = object.get("tcp").and_then(|field| tcp(&field, report)).unwrap_or_default();
    let http = object.get("http").and_then(|field| http(&field, report)).unwrap_or_default();
    object.finish(report);
    Some(Pool { tcp, http })
}

fn tcp(field: &Field<'_>, report: &mut Report) -> Option<Tcp> {
    let object = field.object(report)?;
    let keepalive = object.get("tcpKeepalive").and_then(|field| {
        let object = field.object(report)?;
        let found = (set(&object, "probes", report), time(&object, "time", report), time(&object, "interval", report));
        object.finish(report);
        Some(found)
    });
    let tcp = Tcp {
        max_connections: set(&object, "maxConnections", report),
        connect_timeout: time(&object, "connectTimeout", report),
        keepalive,
        max_connection_duration: time(&object, "maxConnectionDuration", report),
        idle_timeout: time(&object, "idleTimeout", report),
    };
    object.finish(report);
    Some(tcp)
}

fn http(field: &Field<'_>, report: &mut Report) -> Option<Http> {
    const UPGRADE: [(&str, Option<bool>); 3] =
        [("DEFAULT", None), ("DO_NOT_UPGRADE", Some(false)), ("UPGRADE", Some(true))];
    let object = field.object(report)?;
    let keepalive = object.get("http2KeepAlive").and_then(|field| {
        let object = field.object(report)?;
        let found =
            Keepalive { interval: time(&object, "interval", report), timeout: time(&object, "timeout", report) };
        object.finish(report);
        Some(found)
    });
    let http = Http {
        max_pending: set(&object, "http1MaxPendingRequests", report),
        max_requests: set(&object, "http2MaxRequests", report),
        max_per_connection: set(&object, "maxRequestsPerConnection", report),
        max_retries: set(&object, "maxRetries", report),
        idle_timeout: time(&object, "idleTimeout", report),
        upgrade: object.get("h2UpgradePolicy").and_then(|field| field.word(&UPGRADE, report)).flatten(),
        client_protocol: object.get("useClientProtocol").and_then(|field| field.boolean(report)).unwrap_or(false),
        max_streams: set(&object, "maxConcurrentStreams", report),
        keepalive,
    };
    object.finish(report);
    Some(http)
}

fn balancer(field: &Field<'_>, report: &mut Report) -> Option<Balancer> {
    const SIMPLE: [(&str, Choice); 6] = [
        ("UNSPECIFIED", Choice::LeastRequest),
        ("LEAST_CONN", Choice::LeastRequest),
        ("LEAST_REQUEST", Choice::LeastRequest),
        ("RANDOM", Choice::Random),
        ("ROUND_ROBIN", Choice::RoundRobin),
        ("PASSTHROUGH", Choice::Passthrough),
    ];
    let object = field.object(report)?;
    let simple = object.get("simple");
    let hash = object.get("consistentHash");
    if let (Some(_), Some(hash)) = (&simple, &hash) {
        report.error(&hash.place, "contradicts simple beside it: a loadBalancer has one of the two");
    }
    let choice = match (simple, hash) {
        (Some(field), _) => field.word(&SIMPLE, report),
        (None, Some(field)) => consistent_hash(&field, report),
        (None, None) => Some(Choice::LeastRequest),
    };
    // Istio prefers the newer form.
    let older = object.get("warmupDurationSecs").and_then(|field| field.duration(report));
    let older = older.map(|duration| Warmup { duration, aggression: None, minimum: None });
    let newer = object.get("warmup").and_then(|field| warmup(&field, report));
    let found = Balancer {
        choice: choice.unwrap_or(Choice::LeastRequest),
        warmup: newer.or(older),
        locality: object.get("localityLbSetting").and_then(|field| locality(&field, report)),
        zones: object.get("zoneAwareLbSetting").and_then(|field| zones(&field, report)),
        place: field.place.clone(),
    };
    if found.warmup.is_some() && !matches!(found.choice, Choice::LeastRequest | Choice::RoundRobin) {
        report.warn(
            &field.place,
            "Istio takes a warm-up beside LEAST_REQUEST and ROUND_ROBIN alone, so there is none here",
        );
    }
    object.finish(report);
    Some(found)
}

fn consistent_hash(field: &Field<'_>, report: &mut Report) -> Option<Choice> {
    let object = field.object(report)?;
    // The key is the route's: Istio makes its hash policy there, and that stays as it is.
    let keys = ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"];
    let given = keys.iter().filter(|key| object.get(key).is_some()).count();
    if given != 1 {
        report.error(&field.place, format!("must have exactly one of {}", keys.join(", ")));
    }
    let size = |key: &'static str, size: &'static str, report: &mut Report| {
        let inner = object.get(key)?.object(report)?;
        let found = inner.get(size).and_then(|field| field.number(u64::MAX, report)).filter(|number| *number > 0);
        inner.finish(report);
        Some(found)
    };
    let maglev = size("maglev", "tableSize", report);
    if maglev == Some(None) {
        report.error(&field.place.field("maglev.tableSize"), "is missing");
    }
    let ring = size("ringHash", "minimumRingSize", report);
    if maglev.is_some() && ring.is_some() {
        report.error(&field.place, "must have at most one of ringHash, maglev");
    }
    let older = object.get("minimumRingSize").and_then(|field| field.number(u64::MAX, report));
    object.finish(report);
    // Without an algorithm Istio asks for a ring of 1024.
    let older = older.filter(|number| *number > 0).unwrap_or(1024);
    Some(match (maglev, ring) {
        (Some(size), _) => Choice::Maglev(size),
        (None, Some(size)) => Choice::Ring(size),
        (None, None) => Choice::Ring(Some(older)),
    })
}

fn warmup(field: &Field<'_>, report: &mut Report) -> Option<Warmup> {
    let object = field.object(report)?;
    let duration = object.required("duration", report).and_then(|field| field.duration(report));
    let minimum = object.get("minimumPercent").and_then(|field| field.fraction(report));
    let aggression = object.get("aggression").and_then(|field| field.fraction(report));
    object.finish(report);
    Some(Warmup { duration: duration?, aggression, minimum })
}

/// Reads a block of a `trafficPolicy`, or the mesh's default for it.
pub fn locality(field: &Field<'_>, report: &mut Report) -> Option<LocalitySetting> {
    let object = field.object(report)?;
    let mut some = |key: &'static str| object.get(key).is_some_and(|field| !field.list(report).is_empty());
    let (distribute, failover, priority) = (some("distribute"), some("failover"), some("failoverPriority"));
    let enabled = object.get("enabled").and_then(|field| field.boolean(report)).unwrap_or(true);
    object.finish(report);
    Some(LocalitySetting { enabled, distribute, failover: failover || priority })
}

/// Reads a block of a `trafficPolicy`, or the mesh's default for it.
pub fn zones(field: &Field<'_>, report: &mut Report) -> Option<ZoneSetting> {
    let object = field.object(report)?;
    let enabled = object.get("enabled").and_then(|field| field.boolean(report)).unwrap_or(true);
    let min_cluster_size = object.get("minClusterSize").and_then(|field| field.small(report)).map(u64::from);
    // Who fails over to whom is in the endpoints.
    object.known(&["failover", "failoverPriority"]);
    object.finish(report);
    Some(ZoneSetting { enabled, min_cluster_size })
}

/// Reads a block of a `trafficPolicy`, or the mesh's default for it.
pub fn outlier(field: &Field<'_>, report: &mut Report) -> Option<Outlier> {
    let object = field.object(report)?;
    let number = |key: &'static str, report: &mut Report| object.get(key)?.small(report);
    let outlier = Outlier {
        split: object.get("splitExternalLocalOriginErrors").and_then(|field| field.boolean(report)).unwrap_or(false),
        local: number("consecutiveLocalOriginFailures", report),
        gateway: number("consecutiveGatewayErrors", report),
        errors: number("consecutive5xxErrors", report),
        interval: time(&object, "interval", report),
        base: time(&object, "baseEjectionTime", report),
        max_ejected: set(&object, "maxEjectionPercent", report),
        min_health: number("minHealthPercent", report).unwrap_or(0),
    };
    // Istio has long ignored the first; the second is no part of the cluster's fields that a patch replaces.
    object.known(&["consecutiveErrors", "outlierDetectionHttpErrorCodes"]);
    object.finish(report);
    Some(outlier)
}

fn tls(field: &Field<'_>, report: &mut Report) -> Option<Tls> {
    const MODES: [(&str, TlsMode); 4] = [
        ("DISABLE", TlsMode::Disable),
        ("SIMPLE", TlsMode::Simple),
        ("MUTUAL", TlsMode::Mutual),
        ("ISTIO_MUTUAL", TlsMode::IstioMutual),
    ];
    let object = field.object(report)?;
    let mode = match object.get("mode") {
        Some(field) => field.word(&MODES, report).unwrap_or(TlsMode::Disable),
        None => TlsMode::Disable,
    };
    let text = |key: &'static str, report: &mut Report| object.get(key)?.text(report).map(str::to_owned);
    let names = object.get("subjectAltNames").map(|field| field.list(report)).unwrap_or_default();
    let tls = Tls {
        mode,
        certificate: text("clientCertificate", report),
        key: text("privateKey", report),
        authorities: text("caCertificates", report),
        credential: text("credentialName", report),
        names: names.iter().filter_map(|field| field.text(report)).map(str::to_owned).collect(),
        sni: text("sni", report),
        unverified: object.get("insecureSkipVerify").and_then(|field| field.boolean(report)).unwrap_or(false),
        revoked: text("caCrl", report),
        place: field.place.clone(),
    };
    object.finish(report);
    Some(tls)
}

fn retry_budget(field: &Field<'_>, report: &mut Report) -> Option<RetryBudget> {
    let object = field.object(report)?;
    let found = RetryBudget {
        percent: object.get("percent").and_then(|field| field.fraction(report)),
        least: set(&object, "minRetryConcurrency", report),
        interval: time(&object, "budgetInterval", report),
    };
    object.finish(report);
    Some(found)
}

impl Policy {
    /// What holds for a port, and whether it is the port's own, which takes nothing from the rest.
    fn of(&self, port: u16) -> (&Traffic, bool) {
        let own = self.ports.iter().find(|(number, _)| *number == port);
        own.map_or((&self.all, false), |(_, traffic)| (traffic, true))
    }
}

/// What holds for a port of a service, or of its subset: block by block the subset's, unless it is a port's own, which takes
/// the place of all of them.
pub fn effective(rule: Option<&Policy>, subset: Option<&Policy>, port: u16, mesh: &Mesh) -> Traffic {
    let base = rule.map(|policy| policy.of(port).0.clone());
    let fills = mesh.pool.is_some() || mesh.outlier.is_some();
    let base = if base.is_some() || fills {
        let mut base = base.unwrap_or_default();
        base.pool = base.pool.or_else(|| mesh.pool.clone());
        base.outlier = base.outlier.or_else(|| mesh.outlier.clone());
        Some(base)
    } else {
        None
    };
    let Some((own, whole)) = subset.map(|policy| policy.of(port)) else { return base.unwrap_or_default() };
    let own = own.clone();
    let Some(base) = base else { return own };
    Traffic {
        pool: if whole { own.pool } else { own.pool.or(base.pool) },
        balancer: if whole { own.balancer } else { own.balancer.or(base.balancer) },
        outlier: if whole { own.outlier } else { own.outlier.or(base.outlier) },
        tls: if whole { own.tls } else { own.tls.or(base.tls) },
        proxy_protocol: own.proxy_protocol.or(base.proxy_protocol),
        retry_budget: own.retry_budget.or(base.retry_budget),
    }
}
