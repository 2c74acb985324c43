//! An Envoy that runs what Istio makes of resources: from Istio's own generator while it runs, or from a fixture, which is what
//! the generator has made.
//!
//! A case is a line of a table: files of resources, and the proxy that gets what Istio makes of them. `HOLDFAST_ISTIO` names
//! the generator (`./build.sh istio` builds and sets it). Without it the case's fixture is run, which must be made of the same
//! resources. `HOLDFAST_ISTIO_RENEW=1` writes the fixtures.
//!
//! Ports in the files stand for what a run chooses: those in [`IstioCase::ports`] for the listeners', 20001 and so on for the
//! backends'. The module's address stands for the module on the disk, as with Istio's agent, which fetches it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::bootstrap::render_endpoints;
use crate::watchdog::Watched;
use crate::{Backend, Client, EnvoyOptions, PATIENCE, Scene, envoy_version, eventually, wasm_module};

/// The port of the first backend; the next ones follow.
const FIRST_HOST: u16 = 20001;

/// The cluster in Istio's own bootstrap that leads to the proxy's admin interface.
const ADMIN: &str = "prometheus_stats";

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct IstioCase {
    /// The name of its fixture.
    pub name: &'static str,
    /// The proxy, as flags of the generator: `--node sidecar --namespace shop`.
    pub proxy: &'static str,
    /// A file with settings of the mesh, below `meshConfig` as in values of Istio's chart.
    pub mesh: Option<&'static str>,
    /// What Istio gets: files by their paths from the root of the repository.
    pub files: &'static [&'static str],
    /// The ports the proxy listens on; the first is what a test's client asks.
    pub ports: &'static [u16],
}

impl IstioCase {
    fn fixture(&self) -> PathBuf {
        root().join("tests/istio/fixtures").join(format!("{}.json", self.name))
    }

    /// All resources, in the order of the files.
    fn resources(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for file in self.files {
            let text = read(&root().join(file));
            for document in serde_norway::Deserializer::from_str(&text) {
                let value = Value::deserialize(document).unwrap_or_else(|error| panic!("{file}: {error}"));
                if !value.is_null() {
                    all.push(value);
                }
            }
        }
        all
    }

    /// The settings of the mesh.
    fn mesh_config(&self) -> Option<Value> {
        let text = read(&root().join(self.mesh?));
        let values: Value = serde_norway::from_str(&text).expect("the mesh's settings are YAML");
        Some(values["meshConfig"].clone())
    }

    /// The same as flags of the generator, with a file in this directory.
    fn mesh_flags(&self, dir: &Path) -> Vec<String> {
        let Some(config) = self.mesh_config() else { return Vec::new() };
        let file = dir.join("mesh.json");
        fs::write(&file, config.to_string()).expect("a file can be written");
        vec!["--mesh".to_owned(), file.display().to_string()]
    }

    /// Of the proxy and of all that Istio gets. Comments in the files do not count.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let inputs = match self.mesh_config() {
            Some(mesh) => json!([self.proxy, self.resources(), mesh]),
            None => json!([self.proxy, self.resources()]),
        };
        hash.update(inputs.to_string());
        hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// An Envoy with what Istio has made for it, and the way to change that.
pub struct Mesh {
    scene: Scene,
    source: Source,
    case: IstioCase,
    ports: BTreeMap<u16, u16>,
    module: PathBuf,
    dir: TempDir,
}

impl Deref for Mesh {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({}, {:?})", self.case.name, self.scene)
    }
}

enum Source {
    Live(Istiod),
    Fixture(Discovered),
}

/// What may be different in a run.
#[derive(Clone, Debug, Default)]
pub struct MeshOptions {
    /// The module, instead of the one that `HOLDFAST_WASM` names; need not exist.
    pub module: Option<PathBuf>,
    /// The policy, instead of the case's.
    pub policy: Option<Value>,
    /// Envoy's log levels of single components.
    pub log: Option<String>,
}

impl Mesh {
    /// Runs this case, with these backends as the hosts 20001 and so on.
    ///
    /// # Panics
    /// When Envoy does not start, or the fixture is not made of these resources.
    pub async fn start(case: IstioCase, hosts: &[Backend]) -> Self {
        Self::with(case, hosts, MeshOptions::default()).await
    }

    /// Runs this case with options.
    ///
    /// # Panics
    /// When Envoy does not start, or the fixture is not made of these resources.
    pub async fn with(case: IstioCase, hosts: &[Backend], options: MeshOptions) -> Self {
        let dir = TempDir::with_prefix("holdfast-istio-").expect("a directory can be made");
        let module = options.module.unwrap_or_else(|| wasm_module().expect("the module is named"));
        let mut ports: BTreeMap<u16, u16> = (FIRST_HOST..).zip(hosts.iter().map(|host| host.addr().port())).collect();
        renew(&case, dir.path());
        let (bootstrap, source) = if let Some(binary) = generator() {
            ports.extend(case.ports.iter().map(|port| (*port, free_port())));
            let file = write_resources(&case, options.policy.as_ref(), &ports, &module, dir.path());
            let istiod = Istiod::start(&binary, &case, &file);
            (live_bootstrap(&binary, &case, istiod.addr), Source::Live(istiod))
        } else {
            let mut discovered = Discovered::read(&case, &ports, &module, dir.path());
            if let Some(policy) = &options.policy {
                discovered.set_policy(policy);
            }
            (discovered.bootstrap(&case), Source::Fixture(discovered))
        };
        let bootstrap = with_admin_cluster(bootstrap, dir.path());
        let envoy = EnvoyOptions::new().bootstrap(bootstrap.to_string());
        let envoy = match &options.log {
            Some(levels) => envoy.component_log_level(levels),
            None => envoy,
        };
        let mut mesh = Self { scene: Scene::with(envoy).await, source, case, ports, module, dir };
        mesh.scene.client = Client::http1(mesh.listener_of(case.ports[0]));
        mesh.open_admin_cluster().await;
        mesh
    }

    /// Gives the cluster of the admin interface its host, which is known once Envoy runs.
    async fn open_admin_cluster(&self) {
        let admin = self.scene.admin_addr();
        write_admin_hosts(self.dir.path(), &[admin]);
        let has_it = || async {
            let hosts = self.scene.hosts(ADMIN).await.expect("the admin interface answers");
            hosts.contains_key(&admin)
        };
        eventually(PATIENCE, has_it).await.expect("Envoy takes the host of its admin interface");
    }

    /// Whether Istio's generator runs, rather than a fixture.
    #[must_use]
    pub fn is_live() -> bool {
        generator().is_some()
    }

    /// Where the proxy listens for what the resources call this port.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn listener_of(&self, port: u16) -> SocketAddr {
        let named = self.in_this_run(port);
        let found = self.scene.listeners().find(|(name, _)| name.ends_with(&format!("_{named}")));
        let (_, addr) = found.unwrap_or_else(|| panic!("no listener of port {port} in {:?}", self.scene));
        // A gateway binds every address.
        SocketAddr::from(([127, 0, 0, 1], addr.port()))
    }

    /// The name of a cluster, as `outbound|8080||orders.shop.svc.cluster.local`, in this run.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        replace_words(name, &self.words())
    }

    /// What stands for this port in names.
    fn in_this_run(&self, port: u16) -> u16 {
        match self.source {
            Source::Live(_) => self.ports.get(&port).copied().unwrap_or(port),
            Source::Fixture(_) => port,
        }
    }

    /// Ports in names: in a fixture they stay.
    fn words(&self) -> BTreeMap<u16, u16> {
        match self.source {
            Source::Live(_) => self.ports.clone(),
            Source::Fixture(_) => BTreeMap::new(),
        }
    }

    /// Gives the request seat another policy, as a changed EnvoyFilter does, and waits until Envoy has taken or refused it.
    ///
    /// # Panics
    /// When Envoy does neither.
    pub async fn set_policy(&mut self, policy: &Value) {
        let before = self.taken().await;
        match &mut self.source {
            Source::Live(istiod) => {
                write_resources(&self.case, Some(policy), &self.ports, &self.module, self.dir.path());
                istiod.wait_for("updated: ");
            }
            Source::Fixture(discovered) => {
                discovered.set_policy(policy);
            }
        }
        eventually(PATIENCE, || async { self.taken().await > before }).await.expect("Envoy notices a new policy");
    }

    /// How often a filter by ECDS was taken or refused.
    async fn taken(&self) -> u64 {
        self.extension_stats("config_reload").await
            + self.extension_stats("config_fail").await
            + self.extension_stats("update_rejected").await
    }

    /// The sum of one statistic over all filters that come by ECDS.
    ///
    /// # Panics
    /// When the admin interface does not answer.
    pub async fn extension_stats(&self, name: &str) -> u64 {
        let stats = self.scene.stats().await.expect("the admin interface answers");
        let mine = |stat: &str| stat.contains("extension_config_discovery.") && stat.ends_with(&format!(".{name}"));
        stats.iter().filter(|(stat, _)| mine(stat)).map(|(_, value)| value).sum()
    }

    /// A cluster as Envoy runs it, with what is packed in it shown.
    ///
    /// # Panics
    /// When there is none of this name.
    pub async fn cluster(&self, name: &str) -> Value {
        let name = self.name(name);
        let dump = self.scene.admin_get("/config_dump").await.expect("the admin interface answers");
        let dump: Value = serde_json::from_str(&dump).expect("the dump is JSON");
        let mut found = Vec::new();
        walk(&dump, &mut |object| {
            let is_cluster =
                object.get("@type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("cluster.v3.Cluster"));
            if is_cluster && object.get("name").and_then(Value::as_str) == Some(name.as_str()) {
                found.push(Value::Object(object.clone()));
            }
        });
        assert_eq!(found.len(), 1, "one cluster {name}");
        found.remove(0)
    }
}

/// Writes the fixture, where that is asked for: what the generator makes of the files as they stand.
fn renew(case: &IstioCase, dir: &Path) {
    if std::env::var_os("HOLDFAST_ISTIO_RENEW").is_none_or(|renew| renew.is_empty()) {
        return;
    }
    let binary = generator().expect("HOLDFAST_ISTIO_RENEW needs HOLDFAST_ISTIO");
    let file = dir.join("as-they-stand.json");
    fs::write(&file, list(case.resources()).to_string()).expect("a file can be written");
    let mut command = Command::new(binary);
    command.arg("generate").args(case.proxy.split_whitespace()).args(case.mesh_flags(dir)).arg(file);
    let mut made: Value = serde_json::from_str(&output_of(command)).expect("the generator prints JSON");
    made["inputs"] = json!(case.fingerprint());
    // The moment at which the generator read a WasmPlugin.
    change_objects(&mut made, &|object| {
        if let Some(version) = object.get_mut("ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION") {
            *version = json!("1");
        }
    });
    let text = serde_json::to_string_pretty(&made).expect("a value is JSON") + "\n";
    // Beside it under a name of its own first: several tests may run the same case at the same time.
    let unique = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let fresh = case.fixture().with_file_name(format!(".{unique}"));
    fs::write(&fresh, text).expect("a file can be written");
    fs::rename(fresh, case.fixture()).expect("a file can be renamed");
}

fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// Writes what Istio gets in this run, by rename.
fn write_resources(
    case: &IstioCase,
    policy: Option<&Value>,
    ports: &BTreeMap<u16, u16>,
    module: &Path,
    dir: &Path,
) -> PathBuf {
    let mut resources = list(case.resources());
    fetch_module(&mut resources, module);
    if let Some(policy) = policy {
        put_policy(&mut resources, policy);
    }
    let text = replace_words(&resources.to_string(), ports);
    let file = dir.join("resources.json");
    let fresh = dir.join("resources.new");
    fs::write(&fresh, text).expect("a file can be written");
    fs::rename(fresh, &file).expect("a file can be renamed");
    file
}

/// The module from the disk, wherever it was to come from: Istio's agent does so with what it has fetched.
fn fetch_module(tree: &mut Value, module: &Path) {
    change_objects(tree, &|object| {
        if let Some(code) = object.get_mut("code").filter(|code| code.is_object()) {
            *code = json!({"local": {"filename": module}});
        }
        // A WasmPlugin's, and a TrafficExtension's.
        if let Some(url) = object.get_mut("url").filter(|url| url.is_string()) {
            *url = json!(format!("file://{}", module.display()));
        }
    });
}

/// Gives the request seat this policy, in resources and in what Istio has made of them alike.
fn put_policy(tree: &mut Value, policy: &Value) {
    let changed = Cell::new(0);
    change_objects(tree, &|object| {
        let is_request = object.get("name").and_then(Value::as_str).is_some_and(|name| name.ends_with(".request"));
        if !is_request {
            return;
        }
        if let Some(value) =
            object.get_mut("typed_config").and_then(|seat| seat.pointer_mut("/config/configuration/value"))
        {
            *value = json!(policy.to_string());
            changed.set(changed.get() + 1);
        }
    });
    assert_eq!(changed.get(), 1, "one request seat");
}

/// Istio's discovery server.
struct Istiod {
    child: Child,
    watched: Option<Watched>,
    addr: SocketAddr,
    events: Receiver<String>,
    log: PathBuf,
}

impl Istiod {
    fn start(binary: &Path, case: &IstioCase, file: &Path) -> Self {
        let log = file.with_file_name("istiod.log");
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        if case.proxy.contains("waypoint") {
            command.arg("--ambient");
        }
        command.args(case.mesh_flags(file.parent().expect("it is in a directory")));
        let stderr = File::create(&log).expect("a file can be made");
        command.arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().expect("the generator starts");
        let watched = Some(Watched::begin(child.id()));
        let stdout = child.stdout.take().expect("its output is a pipe");
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut istiod = Self { child, watched, addr: SocketAddr::from(([127, 0, 0, 1], 0)), events, log };
        istiod.addr = istiod.wait_for("listening on ").parse().expect("an address");
        istiod
    }

    /// The rest of the next line that begins so.
    fn wait_for(&self, start: &str) -> String {
        let line = self.events.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("the generator does not say {start:?}: {}", fs::read_to_string(&self.log).unwrap_or_default())
        });
        line.strip_prefix(start).unwrap_or_else(|| panic!("{line:?} is not {start:?}")).to_owned()
    }
}

impl Drop for Istiod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.watched = None;
        let _ = self.child.wait();
    }
}

fn live_bootstrap(binary: &Path, case: &IstioCase, istiod: SocketAddr) -> Value {
    let mut command = Command::new(binary);
    command.arg("node").args(case.proxy.split_whitespace());
    let node: Value = serde_json::from_str(&output_of(command)).expect("the generator prints JSON");
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    json!({
        "node": node,
        "admin": admin(),
        "stats_flush_interval": "1s",
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
            "lds_config": ads,
            "cds_config": ads,
        },
        "static_resources": {"clusters": [{
            "name": "xds-grpc",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "xds-grpc", "endpoints": [{"lb_endpoints": [{
                "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": istiod.port()}}},
            }]}]},
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
        }]},
    })
}

/// As Istio's own bootstrap has it, but for its host.
fn with_admin_cluster(mut bootstrap: Value, dir: &Path) -> Value {
    write_admin_hosts(dir, &[]);
    let source =
        json!({"path_config_source": {"path": resource_file(dir, "admin", ADMIN)}, "resource_api_version": "V3"});
    let cluster = json!({
        "name": ADMIN,
        "type": "EDS",
        "connect_timeout": "0.250s",
        "lb_policy": "ROUND_ROBIN",
        "eds_cluster_config": {"eds_config": source},
    });
    bootstrap["static_resources"]["clusters"].as_array_mut().expect("the bootstrap has clusters").push(cluster);
    bootstrap
}

fn write_admin_hosts(dir: &Path, hosts: &[SocketAddr]) {
    let answer = render_endpoints(ADMIN, hosts.len() as u64 + 1, hosts);
    replace_file(&resource_file(dir, "admin", ADMIN), &answer.to_string());
}

fn admin() -> Value {
    json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}})
}

/// A fixture, with every resource that is discovered in a file.
struct Discovered {
    made: Value,
    dir: PathBuf,
    version: u64,
}

impl Discovered {
    fn read(case: &IstioCase, ports: &BTreeMap<u16, u16>, module: &Path, dir: &Path) -> Self {
        let path = case.fixture();
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}: ./build.sh istio makes it", path.display()));
        let mut made: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let wanted = case.fingerprint();
        assert_eq!(
            made["inputs"].as_str(),
            Some(wanted.as_str()),
            "{} was made of other resources than there are now: ./build.sh istio makes it anew",
            path.display()
        );
        fetch_module(&mut made, module);
        if !has_cluster_retries() {
            drop_cluster_retries(&mut made["clusters"]);
        }
        // Only where a host or a listener is: elsewhere the number is part of a name.
        let port_of = |port: u64| u16::try_from(port).ok().and_then(|port| ports.get(&port)).copied();
        for part in ["endpoints", "clusters"] {
            change_addresses(&mut made[part], &|address| {
                let port = address["port_value"].as_u64().and_then(port_of);
                if let Some(port) = port {
                    address["port_value"] = json!(port);
                }
            });
        }
        let discovered = Self { made, dir: dir.to_owned(), version: 0 };
        discovered.with_files()
    }

    /// Points every `ads` at a file.
    fn with_files(mut self) -> Self {
        let dir = self.dir.clone();
        let file = |kind: &str, name: &str| json!({"path_config_source": {"path": resource_file(&dir, kind, name)}, "resource_api_version": "V3"});
        for part in ["clusters", "listeners"] {
            change_objects(&mut self.made[part], &|object| {
                if object.get("type").and_then(Value::as_str) == Some("EDS") {
                    let name =
                        object["eds_cluster_config"]["service_name"].as_str().or_else(|| object["name"].as_str());
                    let source = file("endpoints", name.unwrap_or_default());
                    object["eds_cluster_config"]["eds_config"] = source;
                }
                if let Some(rds) = object.get_mut("rds") {
                    rds["config_source"] = file("routes", rds["route_config_name"].as_str().unwrap_or_default());
                }
                let name = object.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                if let Some(discovery) = object.get_mut("config_discovery") {
                    let time = discovery["config_source"]["initial_fetch_timeout"].clone();
                    discovery["config_source"] = file("extension_configs", &name);
                    if !time.is_null() {
                        discovery["config_source"]["initial_fetch_timeout"] = time;
                    }
                }
            });
        }
        self.write();
        self
    }

    fn bootstrap(&self, case: &IstioCase) -> Value {
        let mut listeners = Vec::new();
        for listener in self.made["listeners"].as_array().into_iter().flatten() {
            let mut listener = listener.clone();
            let address = &mut listener["address"]["socket_address"];
            let port = address["port_value"].as_u64().and_then(|port| u16::try_from(port).ok());
            if port.is_some_and(|port| case.ports.contains(&port)) {
                *address = json!({"address": "127.0.0.1", "port_value": 0});
                // An inbound chain is for its port, which is another one here.
                change_objects(&mut listener, &|object| {
                    if let Some(matching) = object.get_mut("filter_chain_match").and_then(Value::as_object_mut) {
                        matching.remove("destination_port");
                    }
                });
                listeners.push(listener);
            }
        }
        json!({
            "node": self.made["node"],
            "admin": admin(),
            "stats_flush_interval": "1s",
            "static_resources": {"clusters": self.made["clusters"], "listeners": listeners},
        })
    }

    fn set_policy(&mut self, policy: &Value) {
        put_policy(&mut self.made["extension_configs"], policy);
        self.write();
    }

    /// Each resource in a file of its own, by rename. One that nobody has made is an answer without it.
    fn write(&mut self) {
        self.version += 1;
        let types = [
            ("endpoints", "cluster_name", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
            ("routes", "name", "envoy.config.route.v3.RouteConfiguration"),
            ("extension_configs", "name", "envoy.config.core.v3.TypedExtensionConfig"),
        ];
        let mut wanted = BTreeMap::new();
        for part in ["clusters", "listeners"] {
            walk(&self.made[part], &mut |object| {
                if let Some(path) = object.get("path_config_source").and_then(|source| source["path"].as_str()) {
                    wanted.insert(path.to_owned(), Vec::new());
                }
            });
        }
        for (part, name, kind) in types {
            for resource in self.made[part].as_array().into_iter().flatten() {
                let mut resource = resource.clone();
                let file = resource_file(&self.dir, part, resource[name].as_str().unwrap_or_default());
                resource["@type"] = json!(format!("type.googleapis.com/{kind}"));
                wanted.insert(file, vec![resource]);
            }
        }
        for (file, resources) in wanted {
            let answer = json!({"version_info": self.version.to_string(), "resources": resources}).to_string();
            replace_file(&file, &answer);
        }
    }
}

/// By rename, as Envoy wants it.
fn replace_file(file: &str, content: &str) {
    let fresh = format!("{file}.new");
    fs::write(&fresh, content).expect("a file can be written");
    fs::rename(fresh, file).expect("a file can be renamed");
}

/// A cluster has a `retry_policy` from Envoy 1.37 on, which is Istio 1.29.
#[must_use]
pub fn has_cluster_retries() -> bool {
    envoy_version() >= (1, 37)
}

/// An older Envoy runs the rest of a fixture, with the retries of Istio's routes.
fn drop_cluster_retries(clusters: &mut Value) {
    change_objects(clusters, &|object| {
        if object.contains_key("http_filters") {
            object.remove("retry_policy");
        }
    });
}

/// The file of a discovered resource; its name may hold anything.
fn resource_file(dir: &Path, kind: &str, name: &str) -> String {
    let safe: String = name.chars().map(|sign| if sign.is_ascii_alphanumeric() { sign } else { '_' }).collect();
    dir.join(format!("{kind}-{safe}.json")).display().to_string()
}

fn walk(tree: &Value, visit: &mut impl FnMut(&Map<String, Value>)) {
    match tree {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(object) => {
            visit(object);
            object.values().for_each(|member| walk(member, visit));
        }
        _ => {}
    }
}

fn change_objects(tree: &mut Value, change: &impl Fn(&mut Map<String, Value>)) {
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| change_objects(item, change)),
        Value::Object(object) => {
            change(object);
            object.values_mut().for_each(|member| change_objects(member, change));
        }
        _ => {}
    }
}

fn change_addresses(tree: &mut Value, change: &impl Fn(&mut Value)) {
    change_objects(tree, &|object| {
        if let Some(address) = object.get_mut("socket_address") {
            change(address);
        }
    });
}

/// Puts other numbers in the place of these, where they are whole words.
fn replace_words(text: &str, words: &BTreeMap<u16, u16>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let is_word = char::is_alphanumeric;
        let in_word = rest.starts_with(is_word);
        let end = rest.find(|sign| is_word(sign) != in_word).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        match part.parse().ok().and_then(|port| words.get(&port)) {
            Some(other) if !part.starts_with('0') => out.push_str(&other.to_string()),
            _ => out.push_str(part),
        }
        rest = after;
    }
    out
}

/// A port that nobody has had at this moment.
fn free_port() -> u16 {
    let socket = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    socket.local_addr().expect("it has an address").port()
}

fn generator() -> Option<PathBuf> {
    std::env::var_os("HOLDFAST_ISTIO").filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn output_of(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// Of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_replaced_as_words() {
        let words = BTreeMap::from([(8080, 4711), (20001, 5)]);
        let text = "outbound|8080||a:8080 18080 8080x \"20001\" 127.0.0.1_8080";
        assert_eq!(replace_words(text, &words), "outbound|4711||a:4711 18080 8080x \"5\" 127.0.0.1_4711");
    }
}
