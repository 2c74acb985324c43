//! The module as an HTTP filter, by itself or by discovery.

use std::time::Duration;

use super::{from_control_plane, typed};
use holdfast_yaml::Yaml;

/// Where Envoy finds the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Module {
    /// A file where Envoy runs.
    File(String),
    /// An address that an agent beside Envoy fetches, with the digest that it checks.
    Remote {
        /// `oci://` or `https://`
        uri: String,
        /// SHA-256 in hexadecimal digits.
        sha256: Option<String>,
    },
}

/// Which seat a filter has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seat<'a> {
    /// Before the router, with the policy document.
    Request(&'a str),
    /// Beside each host.
    Attempt,
}

impl Seat<'_> {
    /// The seat's name.
    pub fn name(self) -> &'static str {
        match self {
            Seat::Request(_) => "request",
            Seat::Attempt => "attempt",
        }
    }
}

const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
const NOTHING: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const CODEC: &str = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";

/// The id of the virtual machines, by which both seats share their state.
pub const VM_ID: &str = "holdfast";

/// The filter's configuration. `vm_id` is `holdfast` unless something else in the same Envoy has to share it.
pub fn wasm(seat: Seat<'_>, module: &Module, vm_id: &str) -> Yaml {
    let attempt = (seat == Seat::Attempt).then(|| string("{\"seat\": \"attempt\"}"));
    let vm = Yaml::map()
        .with_some("vm_id", (!vm_id.is_empty()).then_some(vm_id))
        .with("runtime", "envoy.wasm.runtime.v8")
        .with("code", code(module))
        .with_some("configuration", attempt);
    let policy = match seat {
        Seat::Request(policy) => {
            Some(typed("google.protobuf.StringValue").with("value", Yaml::Block(policy.to_owned())))
        }
        Seat::Attempt => None,
    };
    let config = Yaml::map()
        .with("name", "holdfast")
        .with("root_id", "holdfast")
        .with("failure_policy", "FAIL_RELOAD")
        .with("vm_config", vm)
        .with_some("configuration", policy);
    typed(WASM).with("config", config)
}

/// What Envoy reads in a file that it follows: a discovery response with the seat's filter.
pub fn response(name: &str, seat: Seat<'_>, module: &Module, version: &str) -> Yaml {
    let filter = typed("envoy.config.core.v3.TypedExtensionConfig")
        .with("name", name)
        .with("typed_config", wasm(seat, module, VM_ID));
    Yaml::map().with("version_info", version).with("resources", vec![filter])
}

fn string(text: &str) -> Yaml {
    typed("google.protobuf.StringValue").with("value", text)
}

fn code(module: &Module) -> Yaml {
    match module {
        Module::File(path) => Yaml::map().with("local", Yaml::map().with("filename", path.as_str()).line()),
        Module::Remote { uri, sha256 } => {
            // The agent reads the address and the time; no cluster of this name is ever used.
            let http =
                Yaml::map().with("uri", uri.as_str()).with("timeout", Duration::from_secs(30)).with("cluster", "_");
            let remote = Yaml::map().with("http_uri", http).with_some("sha256", sha256.as_deref());
            Yaml::map().with("remote", remote)
        }
    }
}

/// A filter that Envoy is told of later, under `name`. Until then, and where the module cannot be had or refuses its
/// policy, a filter that does nothing is in its place.
pub fn discovered(name: &str) -> Yaml {
    discovered_from(name, from_control_plane())
}

/// The same, told by this `config_source`.
pub fn discovered_from(name: &str, source: Yaml) -> Yaml {
    let types = [WASM, NOTHING].map(|name| Yaml::from(format!("type.googleapis.com/{name}")));
    let discovery = Yaml::map()
        .with("config_source", source)
        .with("type_urls", types.to_vec())
        .with("default_config", typed(NOTHING))
        .with("apply_default_config_without_warming", true);
    Yaml::map().with("name", name).with("config_discovery", discovery)
}

/// The filter with its configuration in it.
pub fn inline(name: &str, config: Yaml) -> Yaml {
    Yaml::map().with("name", name).with("typed_config", config)
}

/// What ends the filters of a cluster.
pub fn codec() -> Yaml {
    inline("envoy.filters.http.upstream_codec", typed(CODEC))
}
