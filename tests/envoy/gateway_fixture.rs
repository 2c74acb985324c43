//! What Envoy Gateway made of resources (`tests/gateway/`), placed onto this machine: its clusters get the test's hosts, its
//! listener a port of loopback, and what a pod mounts is a folder.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use holdfast_tests::{EnvoyOptions, wasm_module};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::inputs::{hash_of, hash_of_bytes};

/// Where a pod of the gateway has the ConfigMap `holdfast`, and the one with the module.
const POLICY_FOLDER: &str = "/etc/holdfast/policy";
const MODULE_FILE: &str = "/etc/holdfast/module/holdfast.wasm";

/// The shipped resources.
pub const SHIPPED: &str = "envoy/gateway/holdfast.yaml";

/// The listener of all cases, and its route configuration.
pub const LISTENER: &str = "shop/eg/http";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The documents of a file of the repository.
pub fn documents(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(repository().join(file)).unwrap();
    serde_norway::Deserializer::from_str(&text)
        .map(|document| serde::Deserialize::deserialize(document).expect("a YAML document"))
        .collect()
}

/// The names of all cases.
pub fn cases() -> Vec<String> {
    let cases = fs::read_dir(repository().join("tests/gateway/cases")).unwrap();
    let mut names: Vec<String> =
        cases.map(|case| case.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// One case's fixture.
pub struct Fixture {
    case: String,
    made: Value,
}

impl Fixture {
    /// # Panics
    /// When it was made from other resources than those that are there now.
    pub fn of(case: &str) -> Self {
        let file = repository().join("tests/gateway/fixtures").join(format!("{case}.json"));
        let text =
            fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}: run ./build.sh gateway", file.display()));
        let made: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            made["inputs_sha256"],
            inputs_hash(case),
            "{} is older than what it is made from: run ./build.sh gateway",
            file.display()
        );
        Self { case: case.to_owned(), made }
    }

    /// What a user would see by kubectl: conditions that do not hold.
    pub fn complaints(&self) -> Vec<&str> {
        self.made["complaints"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect()
    }

    /// All of it.
    pub fn made(&self) -> &Value {
        &self.made
    }

    /// The resource of this name among `listeners`, `routes`, `clusters` or `endpoints`.
    pub fn resource(&self, kind: &str, name: &str) -> &Value {
        let all = self.made[kind].as_array().unwrap();
        let named = |resource: &&Value| resource["name"] == name || resource["cluster_name"] == name;
        all.iter().find(named).unwrap_or_else(|| panic!("{}: no {name} among its {kind}", self.case))
    }

    /// The HTTP filters of the listener's first filter chain.
    pub fn http_filters(&self) -> &[Value] {
        self.resource("listeners", LISTENER)["default_filter_chain"]["filters"][0]["typed_config"]["http_filters"]
            .as_array()
            .unwrap()
    }

    /// An Envoy of it: each address of its endpoints is one of `hosts`, in their order, and what the pod mounts is `mounted`.
    pub fn options(&self, hosts: &[SocketAddr], mounted: &Mounted) -> EnvoyOptions {
        let bootstrap = self.bootstrap(hosts).to_string();
        EnvoyOptions::new().bootstrap(bootstrap.replace(POLICY_FOLDER, mounted.policy().to_str().unwrap()))
    }

    /// An Envoy of it that mounts nothing: it fetches `module` from `server`, which stands for Envoy Gateway's own.
    pub fn with_server(&self, hosts: &[SocketAddr], server: SocketAddr, module: &[u8]) -> EnvoyOptions {
        let mut bootstrap = self.bootstrap(hosts);
        let mut cluster = self.resource("clusters", "wasm_cluster").clone();
        let fields = cluster.as_object_mut().unwrap();
        // Names and certificates of a Kubernetes cluster.
        fields.retain(|name, _| !["cluster_type", "transport_socket"].contains(&name.as_str()));
        cluster["type"] = json!("STATIC");
        let endpoint = cluster.pointer_mut("/load_assignment/endpoints/0/lb_endpoints/0/endpoint").unwrap();
        endpoint["address"] = address(server);
        bootstrap["static_resources"]["clusters"].as_array_mut().unwrap().push(cluster);
        let bootstrap = bootstrap.to_string();
        let placeholder = "0".repeat(64);
        assert_eq!(bootstrap.matches(&placeholder).count(), 1, "the module's hash");
        EnvoyOptions::new().bootstrap(bootstrap.replace(&placeholder, &hash_of_bytes(module)))
    }

    fn bootstrap(&self, hosts: &[SocketAddr]) -> Value {
        let mut listener = self.resource("listeners", LISTENER).clone();
        listener["address"] = address(SocketAddr::from(([127, 0, 0, 1], 0)));
        let routes = self.resource("routes", LISTENER).clone();
        let manager = listener.pointer_mut("/default_filter_chain/filters/0/typed_config").unwrap().as_object_mut();
        let manager = manager.unwrap();
        assert!(manager.remove("rds").is_some(), "its routes come by RDS");
        manager.insert("route_config".to_owned(), routes);

        let mut hosts = hosts.iter();
        let clusters = self.made["clusters"].as_array().unwrap().iter();
        let clusters: Vec<Value> = clusters
            .filter(|cluster| cluster["type"] == "EDS")
            .map(|cluster| {
                let mut cluster = cluster.clone();
                let service = cluster["eds_cluster_config"]["service_name"].as_str().unwrap();
                let mut endpoints = self.resource("endpoints", service).clone();
                for locality in endpoints["endpoints"].as_array_mut().unwrap() {
                    for endpoint in locality["lb_endpoints"].as_array_mut().unwrap() {
                        endpoint["endpoint"]["address"] = address(*hosts.next().expect("a host for each endpoint"));
                    }
                }
                cluster.as_object_mut().unwrap().remove("eds_cluster_config");
                cluster["type"] = json!("STATIC");
                cluster["load_assignment"] = endpoints;
                cluster
            })
            .collect();
        assert!(hosts.next().is_none(), "{} has an endpoint for each host", self.case);
        json!({
            // Discovery, even from a file, wants to know who asks.
            "node": {"id": "gateway", "cluster": "gateway"},
            "admin": {"address": address(SocketAddr::from(([127, 0, 0, 1], 0)))},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        })
    }
}

fn inputs_hash(case: &str) -> String {
    let file = format!("tests/gateway/cases/{case}.yaml");
    let text = fs::read_to_string(repository().join(&file)).unwrap();
    let first = text.lines().next().unwrap();
    let named = first.strip_prefix("# inputs: ").unwrap_or_else(|| panic!("{file}: its first line names its inputs"));
    let inputs: Vec<PathBuf> = named.split(' ').chain([file.as_str()]).map(|input| repository().join(input)).collect();
    hash_of(&inputs)
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// The shipped ConfigMap as the kubelet mounts it: files are links through `..data`, a link that an update replaces.
pub struct Mounted {
    folder: TempDir,
    data: Value,
}

impl Mounted {
    /// With the module where the files look for it.
    pub fn new() -> Self {
        Self::with_module(wasm_module().unwrap().to_str().expect("the module's path is UTF-8"))
    }

    /// With `module` as the place where the files look for it.
    pub fn with_module(module: &str) -> Self {
        let documents = documents(SHIPPED);
        let map = documents.iter().find(|document| document["kind"] == "ConfigMap").unwrap();
        let data = map["data"].to_string();
        assert_eq!(data.matches(MODULE_FILE).count(), 2, "one in each seat");
        let data = serde_json::from_str(&data.replace(MODULE_FILE, module)).unwrap();
        let mounted = Self { folder: TempDir::new().unwrap(), data };
        mounted.write("..1");
        for file in mounted.files() {
            symlink(Path::new("..data").join(file), mounted.policy().join(file)).unwrap();
        }
        mounted
    }

    /// The folder.
    pub fn policy(&self) -> &Path {
        self.folder.path()
    }

    /// The policy document becomes another one, as after `kubectl apply`.
    pub fn update(&mut self, document: &Value) {
        let mut request: Value = serde_norway::from_str(self.data["request.yaml"].as_str().unwrap()).unwrap();
        request["version_info"] = json!("2");
        request["resources"][0]["typed_config"]["config"]["configuration"]["value"] = json!(document.to_string());
        self.data["request.yaml"] = json!(request.to_string());
        self.write("..2");
    }

    fn files(&self) -> impl Iterator<Item = &String> {
        self.data.as_object().unwrap().keys()
    }

    fn write(&self, generation: &str) {
        let folder = self.policy().join(generation);
        fs::create_dir(&folder).unwrap();
        for (file, text) in self.data.as_object().unwrap() {
            fs::write(folder.join(file), text.as_str().unwrap()).unwrap();
        }
        let fresh = self.policy().join("..data_tmp");
        symlink(generation, &fresh).unwrap();
        fs::rename(fresh, self.policy().join("..data")).unwrap();
    }
}
