//! What to run: listeners, routes, clusters and the policy, rendered into an Envoy bootstrap.
//!
//! Everything has a typed option for the common case and a `raw` merge patch (RFC 7396) for the rest.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::stats_tags;

/// A policy document as it is given to the module: a JSON value, or text that need not even be JSON.
#[derive(Clone, Debug)]
pub struct Policy(String);

impl Policy {
    /// The text the module receives.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl From<Value> for Policy {
    fn from(document: Value) -> Self {
        Self(document.to_string())
    }
}

impl From<&Value> for Policy {
    fn from(document: &Value) -> Self {
        Self(document.to_string())
    }
}

impl From<&str> for Policy {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Policy {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Where the module sits in this Envoy: the request seat in every listener that has a policy, the attempt seat where
/// this says.
///
/// With an attempt seat, those listeners also get the [`retry_policy`] that retries by Holdfast want, and every cluster
/// circuit breakers that stand in the way of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seats {
    /// No attempt seat: only an HTTP filter just before the router.
    #[default]
    Request,
    /// An attempt seat in every cluster but those [`without_attempt_seat`](Cluster::without_attempt_seat).
    Both,
    /// The attempt seat once for all clusters, in the router of every listener that has a policy.
    BothInRouter,
}

/// Where a cluster keeps its HTTP options and its filters.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The request header that names the hosts to go to, the first for the first attempt.
pub const HOSTS: &str = "x-holdfast-hosts";

/// The alternatives of which the HTTP options of a cluster need exactly one.
const PROTOCOLS: [&str; 3] = ["explicit_http_config", "use_downstream_protocol_config", "auto_config"];

/// More than any test has under way at once.
const GENEROUS: u32 = 1_000_000;

/// Merge patches in their order. Merged into one they would lose each `null` that removes a rendered field.
#[derive(Clone, Debug, Default)]
struct Patches(Vec<Value>);

impl Patches {
    fn apply(&self, rendered: &mut Value) {
        for patch in &self.0 {
            json_patch::merge(rendered, patch);
        }
    }
}

/// Where the hosts of a cluster stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoints {
    /// In the bootstrap.
    Fixed,
    /// In a file that Envoy watches.
    FromFile,
    /// In such a file, as soon as Envoy has said where its admin interface is.
    Admin,
}

/// A cluster, with fixed endpoints unless it is said otherwise.
#[derive(Clone, Debug)]
pub struct Cluster {
    name: String,
    endpoints: Vec<SocketAddr>,
    from: Endpoints,
    connect_timeout: Duration,
    http2: bool,
    /// What chooses where no host is named, if some are.
    steered: Option<Value>,
    attempt_seat: bool,
    raw: Patches,
}

impl Cluster {
    /// A cluster without endpoints, speaking HTTP/1.1, with one second to connect.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            endpoints: Vec::new(),
            from: Endpoints::Fixed,
            connect_timeout: Duration::from_secs(1),
            http2: false,
            steered: None,
            attempt_seat: true,
            raw: Patches::default(),
        }
    }

    /// A cluster of this Envoy's own admin interface, without an attempt seat. It has no host until Envoy has started.
    #[must_use]
    pub fn admin(name: &str) -> Self {
        Self { from: Endpoints::Admin, attempt_seat: false, ..Self::new(name) }
    }

    /// Adds a host.
    #[must_use]
    pub fn endpoint(mut self, addr: SocketAddr) -> Self {
        self.endpoints.push(addr);
        self
    }

    /// Sets the time a connection may take.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Speaks HTTP/2 to the hosts, as gRPC needs.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Goes to the hosts that the header [`HOSTS`] names, and by turns to all of them where there is none.
    #[must_use]
    pub fn steered(self) -> Self {
        self.falling_back_to(balancing("round_robin", "RoundRobin", json!({})))
    }

    /// Goes to the hosts that the header [`HOSTS`] names, and as this `load_balancing_policy` says where there is none.
    #[must_use]
    pub fn falling_back_to(mut self, policy: Value) -> Self {
        self.steered = Some(policy);
        self
    }

    /// Reads the hosts from a file, so that [`Envoy::set_endpoints`](crate::Envoy::set_endpoints) can replace them while
    /// Envoy runs. Those given here are the first.
    #[must_use]
    pub fn dynamic_endpoints(mut self) -> Self {
        self.from = Endpoints::FromFile;
        self
    }

    /// Leaves the attempt seat out of this cluster, wherever it sits in this Envoy.
    #[must_use]
    pub fn without_attempt_seat(mut self) -> Self {
        self.attempt_seat = false;
        self
    }

    /// Merges `patch` into the rendered cluster; later patches win, `null` removes a field.
    #[must_use]
    pub fn raw(mut self, patch: Value) -> Self {
        self.raw.0.push(patch);
        self
    }

    fn render(&self, seats: Seats, files: &Files) -> Value {
        let mut cluster = json!({"name": self.name, "connect_timeout": seconds(self.connect_timeout)});
        if self.from == Endpoints::Fixed {
            cluster["type"] = json!("STATIC");
            cluster["load_assignment"] = load_assignment(&self.name, &self.endpoints);
        } else {
            cluster["type"] = json!("EDS");
            cluster["eds_cluster_config"] = json!({"eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": files.endpoints(&self.name)},
            }});
        }
        if let Some(fallback) = &self.steered {
            let sources = json!([{"header": HOSTS}]);
            let rest = json!({"override_host_sources": sources, "fallback_policy": fallback});
            cluster["load_balancing_policy"] = balancing("override_host", "OverrideHost", rest);
        }
        if self.http2 {
            cluster["typed_extension_protocol_options"] = json!({
                HTTP_OPTIONS: {
                    "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            });
        }
        if seats != Seats::Request {
            cluster["circuit_breakers"] = json!({"thresholds": [{
                "max_connections": GENEROUS,
                "max_pending_requests": GENEROUS,
                "max_requests": GENEROUS,
                "max_retries": GENEROUS,
            }]});
        }
        self.raw.apply(&mut cluster);
        match (seats, self.attempt_seat) {
            (Seats::Both, true) => {
                set_upstream_filters(&mut cluster, &[attempt_seat_filter(&files.wasm), upstream_codec()]);
            }
            // A cluster's own list of filters takes the place of the router's.
            (Seats::BothInRouter, false) => set_upstream_filters(&mut cluster, &[upstream_codec()]),
            (Seats::Request, _) | (Seats::Both, false) | (Seats::BothInRouter, true) => {}
        }
        cluster
    }
}

/// A cluster's hosts as Envoy reads them (`config.endpoint.v3.ClusterLoadAssignment`).
fn load_assignment(cluster: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|addr| json!({"endpoint": {"address": socket_address(*addr)}})).collect();
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": endpoints}]})
}

/// A cluster's hosts as a discovery response.
pub(crate) fn render_endpoints(cluster: &str, version: u64, endpoints: &[SocketAddr]) -> Value {
    let mut resource = load_assignment(cluster, endpoints);
    resource["@type"] = json!("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
    json!({"version_info": version.to_string(), "resources": [resource]})
}

/// A `load_balancing_policy` of this one.
fn balancing(name: &str, message: &str, rest: Value) -> Value {
    let kind = format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}.v3.{message}");
    let mut config = json!({"@type": kind});
    json_patch::merge(&mut config, &rest);
    let name = format!("envoy.load_balancing_policies.{name}");
    json!({"policies": [{"typed_extension_config": {"name": name, "typed_config": config}}]})
}

/// Adds to what patches have made of the cluster's HTTP options: the protocol they chose stays, and so do their filters.
fn set_upstream_filters(cluster: &mut Value, filters: &[Value]) {
    let options = &mut cluster["typed_extension_protocol_options"][HTTP_OPTIONS];
    options["@type"] = json!(format!("type.googleapis.com/{HTTP_OPTIONS}"));
    if PROTOCOLS.iter().all(|protocol| options[*protocol].is_null()) {
        options["explicit_http_config"] = json!({"http_protocol_options": {}});
    }
    if options["http_filters"].is_null() {
        options["http_filters"] = json!(filters);
    }
}

/// A route by path prefix, to a cluster or to an answer of Envoy's own.
#[derive(Clone, Debug)]
pub struct Route {
    rendered: Value,
}

impl Route {
    /// Sends paths that begin with `prefix` to `cluster`.
    #[must_use]
    pub fn to(prefix: &str, cluster: &str) -> Self {
        Self { rendered: json!({"match": {"prefix": prefix}, "route": {"cluster": cluster}}) }
    }

    /// Sends the requests for which a fallback of Holdfast's has chosen `cluster` there. It belongs in front of the usual route.
    #[must_use]
    pub fn chosen_by_fallback(cluster: &str) -> Self {
        let chosen = json!([{"key": "wasm.holdfast_route", "string_match": {"exact": cluster}}]);
        Self::to("/", cluster).raw(json!({"match": {"filter_state": chosen}}))
    }

    /// Answers paths that begin with `prefix` without any backend.
    #[must_use]
    pub fn direct(prefix: &str, status: u16, body: &str) -> Self {
        let response = json!({"status": status, "body": {"inline_string": body}});
        Self { rendered: json!({"match": {"prefix": prefix}, "direct_response": response}) }
    }

    /// Names the route.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        self.raw(json!({"name": name}))
    }

    /// Sets the time for the whole answer, all attempts included. Envoy's default is 15 seconds.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.raw(json!({"route": {"timeout": seconds(timeout)}}))
    }

    /// Sets Envoy's own retry policy (`config.route.v3.RetryPolicy`), in place of all that the virtual host's says.
    #[must_use]
    pub fn retry_policy(self, policy: Value) -> Self {
        self.raw(json!({"route": {"retry_policy": policy}}))
    }

    /// Merges `patch` into the rendered route.
    #[must_use]
    pub fn raw(mut self, patch: Value) -> Self {
        json_patch::merge(&mut self.rendered, &patch);
        self
    }
}

/// An HTTP listener on a loopback port of its own.
#[derive(Clone, Debug)]
pub struct Listener {
    name: String,
    policy: Option<Policy>,
    routes: Vec<Route>,
    filters: Vec<Value>,
    filters_behind: Vec<Value>,
    raw_seat: Patches,
    raw_virtual_host: Patches,
    raw_hcm: Patches,
}

impl Listener {
    /// A listener without routes and without Holdfast.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            policy: None,
            routes: Vec::new(),
            filters: Vec::new(),
            filters_behind: Vec::new(),
            raw_seat: Patches::default(),
            raw_virtual_host: Patches::default(),
            raw_hcm: Patches::default(),
        }
    }

    /// Adds a route; the first that matches serves.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Puts Holdfast before the router, with this document.
    #[must_use]
    pub fn policy(mut self, document: impl Into<Policy>) -> Self {
        self.policy = Some(document.into());
        self
    }

    /// Takes Holdfast out.
    #[must_use]
    pub fn without_policy(mut self) -> Self {
        self.policy = None;
        self
    }

    /// Adds an HTTP filter in front of Holdfast: `{"name": ..., "typed_config": ...}`.
    #[must_use]
    pub fn filter(mut self, filter: Value) -> Self {
        self.filters.push(filter);
        self
    }

    /// Adds an HTTP filter between Holdfast and the router.
    #[must_use]
    pub fn filter_behind(mut self, filter: Value) -> Self {
        self.filters_behind.push(filter);
        self
    }

    /// Merges `patch` into Holdfast's own filter.
    #[must_use]
    pub fn raw_seat(mut self, patch: Value) -> Self {
        self.raw_seat.0.push(patch);
        self
    }

    /// Leaves out the retry policy that an attempt seat would bring with it.
    #[must_use]
    pub fn without_retry_policy(self) -> Self {
        self.raw_virtual_host(json!({"retry_policy": null}))
    }

    /// Merges `patch` into the rendered virtual host, the only one.
    #[must_use]
    pub fn raw_virtual_host(mut self, patch: Value) -> Self {
        self.raw_virtual_host.0.push(patch);
        self
    }

    /// Merges `patch` into the rendered HTTP connection manager. Lists are replaced whole.
    #[must_use]
    pub fn raw_hcm(mut self, patch: Value) -> Self {
        self.raw_hcm.0.push(patch);
        self
    }

    fn render(&self, seats: Seats, files: &Files) -> Value {
        let mut filters = self.filters.clone();
        let mut router = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
        let routes: Vec<&Value> = self.routes.iter().map(|route| &route.rendered).collect();
        let mut virtual_host = json!({"name": "all", "domains": ["*"], "routes": routes});
        if let Some(policy) = &self.policy {
            let mut seat = holdfast_filter(&files.wasm, policy);
            self.raw_seat.apply(&mut seat);
            filters.push(seat);
            if seats != Seats::Request {
                virtual_host["retry_policy"] = retry_policy();
            }
            if seats == Seats::BothInRouter {
                router["upstream_http_filters"] = json!([attempt_seat_filter(&files.wasm), upstream_codec()]);
            }
        }
        filters.extend(self.filters_behind.iter().cloned());
        filters.push(json!({"name": "envoy.filters.http.router", "typed_config": router}));
        self.raw_virtual_host.apply(&mut virtual_host);
        let mut hcm = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": self.name,
            "codec_type": "AUTO",
            "route_config": {
                "name": self.name,
                "virtual_hosts": [virtual_host],
            },
            "http_filters": filters,
            "access_log": [{
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": files.access_log,
                    "log_format": {"json_format": access_log_format()},
                },
            }],
        });
        self.raw_hcm.apply(&mut hcm);
        json!({
            "name": self.name,
            "address": socket_address(SocketAddr::from(([127, 0, 0, 1], 0))),
            "filter_chains": [{
                "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}],
            }],
        })
    }
}

/// How to run an Envoy.
///
/// [`route`](Self::route), [`policy`](Self::policy), [`filter`](Self::filter) and [`raw_hcm`](Self::raw_hcm) speak of
/// the first listener, named `ingress`; [`listener`](Self::listener) adds more.
#[derive(Clone, Debug)]
pub struct EnvoyOptions {
    pub(crate) binary: Option<PathBuf>,
    pub(crate) wasm: Option<PathBuf>,
    pub(crate) concurrency: u32,
    pub(crate) log_level: String,
    pub(crate) component_log_level: Option<String>,
    pub(crate) drain_time: Duration,
    pub(crate) dynamic_listeners: bool,
    pub(crate) fragile: bool,
    pub(crate) bootstrap: Option<String>,
    listeners: Vec<Listener>,
    clusters: Vec<Cluster>,
    seats: Seats,
    stats_tags: Value,
    stats_matcher: Option<Value>,
    raw: Patches,
}

impl Default for EnvoyOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl EnvoyOptions {
    /// Two workers, one listener `ingress` without Holdfast, log level `info`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            binary: None,
            wasm: None,
            concurrency: 2,
            log_level: "info".to_owned(),
            component_log_level: None,
            drain_time: Duration::from_secs(10),
            dynamic_listeners: false,
            fragile: false,
            bootstrap: None,
            listeners: vec![Listener::new("ingress")],
            clusters: Vec::new(),
            seats: Seats::default(),
            stats_tags: stats_tags(),
            stats_matcher: None,
            raw: Patches::default(),
        }
    }

    /// The Envoy binary, instead of the one `HOLDFAST_ENVOY` names.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// The module, instead of the one `HOLDFAST_WASM` names.
    #[must_use]
    pub fn wasm(mut self, path: impl Into<PathBuf>) -> Self {
        self.wasm = Some(path.into());
        self
    }

    /// Runs a copy of the module whose VM fails at a request like [`fatal_request`](crate::fatal_request).
    #[must_use]
    pub fn fragile(mut self) -> Self {
        self.fragile = true;
        self
    }

    /// The number of worker threads.
    #[must_use]
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// Envoy's log level (`trace` to `off`).
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// Levels of single components, as `wasm:debug,router:trace`.
    #[must_use]
    pub fn component_log_level(mut self, levels: &str) -> Self {
        self.component_log_level = Some(levels.to_owned());
        self
    }

    /// How long requests of a replaced listener configuration may go on.
    #[must_use]
    pub fn drain_time(mut self, time: Duration) -> Self {
        self.drain_time = time;
        self
    }

    /// Serves the listeners from a file, so that [`Envoy::update_policy`](crate::Envoy::update_policy) can replace
    /// them while Envoy runs.
    #[must_use]
    pub fn dynamic_listeners(mut self) -> Self {
        self.dynamic_listeners = true;
        self
    }

    /// Adds a cluster.
    #[must_use]
    pub fn cluster(mut self, cluster: Cluster) -> Self {
        self.clusters.push(cluster);
        self
    }

    /// Adds a listener beside `ingress`, or replaces the one of the same name.
    #[must_use]
    pub fn listener(mut self, listener: Listener) -> Self {
        match self.listeners.iter_mut().find(|other| other.name == listener.name) {
            Some(other) => *other = listener,
            None => self.listeners.push(listener),
        }
        self
    }

    /// Adds a route to the first listener.
    #[must_use]
    pub fn route(self, route: Route) -> Self {
        self.first(|listener| listener.route(route))
    }

    /// Puts Holdfast into the first listener, with this document.
    #[must_use]
    pub fn policy(self, document: impl Into<Policy>) -> Self {
        self.first(|listener| listener.policy(document))
    }

    /// Takes Holdfast out of the first listener.
    #[must_use]
    pub fn without_policy(self) -> Self {
        self.first(Listener::without_policy)
    }

    /// Adds an HTTP filter in front of Holdfast in the first listener.
    #[must_use]
    pub fn filter(self, filter: Value) -> Self {
        self.first(|listener| listener.filter(filter))
    }

    /// Adds an HTTP filter between Holdfast and the router of the first listener.
    #[must_use]
    pub fn filter_behind(self, filter: Value) -> Self {
        self.first(|listener| listener.filter_behind(filter))
    }

    /// Merges `patch` into Holdfast's own filter in the first listener.
    #[must_use]
    pub fn raw_seat(self, patch: Value) -> Self {
        self.first(|listener| listener.raw_seat(patch))
    }

    /// Leaves the retry policy that an attempt seat would bring with it out of the first listener.
    #[must_use]
    pub fn without_retry_policy(self) -> Self {
        self.first(Listener::without_retry_policy)
    }

    /// Merges `patch` into the virtual host of the first listener.
    #[must_use]
    pub fn raw_virtual_host(self, patch: Value) -> Self {
        self.first(|listener| listener.raw_virtual_host(patch))
    }

    /// Merges `patch` into the HTTP connection manager of the first listener.
    #[must_use]
    pub fn raw_hcm(self, patch: Value) -> Self {
        self.first(|listener| listener.raw_hcm(patch))
    }

    /// Which seats the module takes.
    #[must_use]
    pub fn seats(mut self, seats: Seats) -> Self {
        self.seats = seats;
        self
    }

    /// Replaces the `stats_tags` ([`stats_tags`] by default).
    #[must_use]
    pub fn tags(mut self, tags: Value) -> Self {
        self.stats_tags = tags;
        self
    }

    /// Sets a stats matcher (`config.metrics.v3.StatsMatcher`).
    #[must_use]
    pub fn stats_matcher(mut self, matcher: Value) -> Self {
        self.stats_matcher = Some(matcher);
        self
    }

    /// Merges `patch` into the rendered bootstrap.
    #[must_use]
    pub fn raw(mut self, patch: Value) -> Self {
        self.raw.0.push(patch);
        self
    }

    /// Runs this bootstrap, YAML or JSON, instead of a rendered one. Listeners, clusters and patches given here are then
    /// not used, and the first listener is the first by name.
    #[must_use]
    pub fn bootstrap(mut self, text: impl Into<String>) -> Self {
        self.bootstrap = Some(text.into());
        self
    }

    fn first(mut self, change: impl FnOnce(Listener) -> Listener) -> Self {
        let first = self.listeners.remove(0);
        self.listeners.insert(0, change(first));
        self
    }

    pub(crate) fn needs_wasm(&self) -> bool {
        let in_listener = self.listeners.iter().any(|listener| listener.policy.is_some());
        let in_cluster = self.seats == Seats::Both && self.clusters.iter().any(|cluster| cluster.attempt_seat);
        self.bootstrap.is_none() && (in_listener || in_cluster)
    }

    /// The names the running Envoy must show before it counts as started; none for a bootstrap given as text.
    pub(crate) fn listener_names(&self) -> Vec<String> {
        if self.bootstrap.is_some() {
            return Vec::new();
        }
        self.listeners.iter().map(|listener| listener.name.clone()).collect()
    }

    /// Clusters whose hosts stand in files, each with the first ones.
    pub(crate) fn endpoints_in_files(&self) -> impl Iterator<Item = (&str, &[SocketAddr])> {
        let in_files = self.clusters.iter().filter(|cluster| cluster.from != Endpoints::Fixed);
        in_files.map(|cluster| (cluster.name.as_str(), cluster.endpoints.as_slice()))
    }

    /// Clusters of the admin interface, which has to open first.
    pub(crate) fn admin_clusters(&self) -> impl Iterator<Item = &str> {
        let admin = self.clusters.iter().filter(|cluster| cluster.from == Endpoints::Admin);
        admin.map(|cluster| cluster.name.as_str())
    }

    /// The listeners as a discovery response.
    pub(crate) fn render_listeners(&self, version: u64, files: &Files) -> Value {
        let resources: Vec<Value> = self
            .listeners
            .iter()
            .map(|listener| {
                let mut resource = listener.render(self.seats, files);
                resource["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
                resource
            })
            .collect();
        json!({"version_info": version.to_string(), "resources": resources})
    }

    pub(crate) fn render_bootstrap(&self, files: &Files) -> String {
        if let Some(given) = &self.bootstrap {
            return given.clone();
        }
        let clusters: Vec<Value> = self.clusters.iter().map(|cluster| cluster.render(self.seats, files)).collect();
        let mut bootstrap = json!({
            // Discovery, even from a file, wants to know who asks.
            "node": {"id": "holdfast-test", "cluster": "holdfast-test"},
            "admin": {"address": socket_address(SocketAddr::from(([127, 0, 0, 1], 0)))},
            "stats_flush_interval": "1s",
            "stats_config": {"stats_tags": self.stats_tags},
            "static_resources": {"clusters": clusters},
        });
        if let Some(matcher) = &self.stats_matcher {
            bootstrap["stats_config"]["stats_matcher"] = matcher.clone();
        }
        if self.dynamic_listeners {
            bootstrap["dynamic_resources"] = json!({
                "lds_config": {"resource_api_version": "V3", "path_config_source": {"path": files.listeners}},
            });
        } else {
            let listeners: Vec<Value> =
                self.listeners.iter().map(|listener| listener.render(self.seats, files)).collect();
            bootstrap["static_resources"]["listeners"] = json!(listeners);
        }
        self.raw.apply(&mut bootstrap);
        bootstrap.to_string()
    }
}

/// Paths that a rendered configuration names.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) wasm: PathBuf,
    pub(crate) access_log: PathBuf,
    pub(crate) listeners: PathBuf,
    /// Where the hosts of clusters are that stand in files.
    pub(crate) dir: PathBuf,
}

impl Files {
    pub(crate) fn endpoints(&self, cluster: &str) -> PathBuf {
        self.dir.join(format!("endpoints-{cluster}.json"))
    }
}

/// The module as the HTTP filter of the request seat.
#[must_use]
pub fn holdfast_filter(wasm: &Path, policy: &Policy) -> Value {
    holdfast_schema_tests::assert_no_stricter(policy.text());
    let mut filter = wasm_filter(wasm);
    filter["typed_config"]["config"]["configuration"] = text(policy.text());
    filter
}

/// The module as the upstream HTTP filter of the attempt seat. It must not be the last: [`upstream_codec`] is.
#[must_use]
pub fn attempt_seat_filter(wasm: &Path) -> Value {
    let mut filter = wasm_filter(wasm);
    // The other seat has no VM configuration: so each gets a VM of its own, over the same shared data.
    filter["typed_config"]["config"]["vm_config"]["configuration"] = text(r#"{"seat":"attempt"}"#);
    filter
}

/// The filter with which every list of upstream HTTP filters ends.
#[must_use]
pub fn upstream_codec() -> Value {
    json!({
        "name": "envoy.filters.http.upstream_codec",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        },
    })
}

/// What Holdfast's retries want of the virtual host's or route's retry policy: hardly any back-off of Envoy's own, since
/// the attempt seat waits, and another host for each attempt. Without `retry_on` it asks for no retry.
#[must_use]
pub fn retry_policy() -> Value {
    json!({
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
        "host_selection_retry_max_attempts": 5,
    })
}

fn wasm_filter(wasm: &Path) -> Value {
    json!({
        "name": "holdfast",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "holdfast",
                "root_id": "holdfast",
                "failure_policy": "FAIL_RELOAD",
                "vm_config": {
                    "vm_id": "holdfast",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": wasm}},
                },
            },
        },
    })
}

fn text(value: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": value})
}

fn access_log_format() -> Value {
    json!({
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "code": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "holdfast": "%FILTER_STATE(wasm.holdfast:PLAIN)%",
        "route": "%ROUTE_NAME%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "host": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "grpc_status": "%GRPC_STATUS_NUMBER%",
        "duration_ms": "%DURATION%",
    })
}

fn socket_address(addr: SocketAddr) -> Value {
    json!({"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}})
}

/// A protobuf duration in JSON.
fn seconds(duration: Duration) -> String {
    format!("{}.{:09}s", duration.as_secs(), duration.subsec_nanos())
}
