//! The configurations of `tests/add/`: placed onto this machine, and given to `holdfast add`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_tests::{Backend, Envoy, EnvoyOptions, SeenRequest, holdfast_program, wasm_module};
use regex::{Captures, Regex};
use serde_json::Value;
use tempfile::TempDir;

/// The folder of all of them.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("add")
}

/// The names of the files in one of its folders, without their endings.
pub fn files_in(kind: &str) -> Vec<String> {
    let files = fs::read_dir(folder().join(kind)).unwrap().map(|file| file.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|file| file.is_file())
        .map(|file| file.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The file of this name.
pub fn file(kind: &str, name: &str) -> PathBuf {
    let yaml = folder().join(kind).join(format!("{name}.yaml"));
    if yaml.exists() { yaml } else { yaml.with_extension("json") }
}

/// Runs `holdfast add FILE --cluster orders` with more arguments.
pub fn add(file: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(holdfast_program().unwrap());
    command.arg("add").arg(file).args(["--cluster", "orders"]).args(arguments).output().unwrap()
}

/// What `add` makes of a file with this policy, as text.
pub fn added(file: &Path, policy: &Value) -> String {
    let folder = TempDir::new().unwrap();
    let (document, output) = (folder.path().join("policy.json"), folder.path().join("added"));
    fs::write(&document, policy.to_string()).unwrap();
    let module = wasm_module().unwrap();
    let arguments = ["--policy", "--module", "--output"].into_iter().zip([&document, &module, &output]);
    let arguments: Vec<&str> = arguments.flat_map(|(name, value)| [name, value.to_str().unwrap()]).collect();
    let ran = add(file, &arguments);
    assert!(ran.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&ran.stderr));
    fs::read_to_string(output).unwrap()
}

/// The hosts that the files name by ports.
pub struct Hosts {
    orders: [Backend; 4],
    other: Backend,
    mirror: Backend,
    tls: Option<TlsHost>,
    /// What `/etc/envoy/` stands for.
    files: TempDir,
}

impl Hosts {
    /// Those that a file with this text asks for.
    pub async fn start(text: &str) -> Self {
        let start = async || Backend::start().await.unwrap();
        let hosts = Self {
            orders: [start().await, start().await, start().await, start().await],
            other: start().await,
            mirror: start().await,
            tls: if text.contains("8443") { Some(TlsHost::start().await) } else { None },
            files: TempDir::new().unwrap(),
        };
        for from in fs::read_dir(folder().join("shapes/files")).unwrap() {
            let from = from.unwrap().path();
            let to = hosts.files.path().join(from.file_name().unwrap());
            fs::write(to, hosts.placed(&fs::read_to_string(from).unwrap())).unwrap();
        }
        hosts
    }

    /// A text with addresses of this machine.
    pub fn placed(&self, text: &str) -> String {
        let port = Regex::new(r#"(port_value["']?\s*:\s*)(\d+)"#).unwrap();
        let text = port.replace_all(text, |found: &Captures<'_>| format!("{}{}", &found[1], self.port(&found[2])));
        let name = Regex::new(r"\b[a-z0-9-]+\.internal\b").unwrap();
        let text = name.replace_all(&text, "127.0.0.1").replace("0.0.0.0", "127.0.0.1");
        let module = wasm_module().unwrap();
        text.replace("/etc/envoy/holdfast.wasm", module.to_str().expect("the module's path is UTF-8"))
            .replace("/etc/envoy", self.files.path().to_str().expect("the folder's path is UTF-8"))
    }

    fn port(&self, written: &str) -> u16 {
        let of = |host: &Backend| host.addr().port();
        match written {
            "8081" => of(&self.orders[0]),
            "8082" => of(&self.orders[1]),
            "8083" => of(&self.orders[2]),
            "8084" => of(&self.orders[3]),
            "8091" => of(&self.other),
            "8095" => of(&self.mirror),
            "8096" | "8097" => 1,
            "8443" => self.tls.as_ref().expect("the file asks for TLS").addr().port(),
            "9901" | "10000" | "10001" | "10002" | "10003" => 0,
            other => panic!("{other} is none of the ports that tests/add/README.md lists"),
        }
    }

    /// An Envoy of this text. It has one worker: taking turns is then exact.
    pub async fn envoy(&self, text: &str) -> Envoy {
        Envoy::start(EnvoyOptions::new().bootstrap(self.placed(text)).concurrency(1)).await.unwrap()
    }

    /// All hosts, those of `orders` first.
    pub fn all(&self) -> Vec<&Backend> {
        let tls = self.tls.iter().map(|host| &host.backend);
        self.orders.iter().chain(tls).chain([&self.other, &self.mirror]).collect()
    }

    /// The host that is the first of `orders`.
    pub fn first(&self) -> &Backend {
        self.tls.as_ref().map_or(&self.orders[0], |host| &host.backend)
    }

    /// Its address as Envoy knows it.
    pub fn first_address(&self) -> SocketAddr {
        self.tls.as_ref().map_or(self.orders[0].addr(), TlsHost::addr)
    }

    /// The hosts of `orders`.
    pub fn orders(&self) -> impl Iterator<Item = &Backend> {
        self.orders.iter().chain(self.tls.iter().map(|host| &host.backend))
    }

    /// What came to which host, by its place in [`all`](Self::all), of requests that bear a `x-key`; health checks do not.
    pub fn seen(&self) -> Vec<(usize, SeenRequest)> {
        let all = self.all().into_iter().enumerate();
        all.flat_map(|(place, host)| host.seen().into_iter().map(move |request| (place, request)))
            .filter(|(_, request)| request.header("x-key").is_some())
            .collect()
    }

    /// Forgets it.
    pub fn reset(&self) {
        for host in self.all() {
            host.reset_counters();
        }
    }
}

/// A host that speaks TLS: an Envoy that says by headers what was agreed on, before a backend.
struct TlsHost {
    envoy: Envoy,
    backend: Backend,
}

impl TlsHost {
    async fn start() -> Self {
        let backend = Backend::start().await.unwrap();
        let files = folder().join("shapes/files");
        let text = TLS_HOST
            .replace("FOLDER", files.to_str().expect("the folder's path is UTF-8"))
            .replace("PORT", &backend.addr().port().to_string());
        Self { envoy: Envoy::start(EnvoyOptions::new().bootstrap(text).concurrency(1)).await.unwrap(), backend }
    }

    fn addr(&self) -> SocketAddr {
        self.envoy.addr()
    }
}

const TLS_HOST: &str = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
static_resources:
  listeners:
  - name: tls
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    listener_filters:
    - name: inspector
      typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{ certificate_chain: { filename: FOLDER/ca.pem }, private_key: { filename: FOLDER/key.pem } }]
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: tls
          route_config:
            request_headers_to_add:
            - { header: { key: x-seen-protocol, value: "%PROTOCOL%" } }
            - { header: { key: x-seen-sni, value: "%REQUESTED_SERVER_NAME%" } }
            virtual_hosts:
            - { name: all, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: backend } }] }
          http_filters:
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: backend
    type: STATIC
    load_assignment:
      cluster_name: backend
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: PORT } } } }] }]
"#;
