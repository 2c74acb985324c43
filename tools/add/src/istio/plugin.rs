//! The request seat as a resource of Istio's own: a WasmPlugin, or a TrafficExtension, which is its successor.

use serde_norway::Value;

use super::filter::{Plan, Pods, gateway_reference, labelled, object};
use crate::envoy::seat::Module;
use crate::request::{Form, Proxy};
use holdfast_yaml::Yaml;

/// The resource; `None` where the EnvoyFilter has the request seat.
pub fn resource(plan: &Plan<'_>) -> Option<Yaml> {
    let (url, sha256) = match &plan.module {
        Module::File(path) => (format!("file://{path}"), None),
        Module::Remote { uri, sha256 } => (uri.clone(), sha256.as_deref()),
    };
    let fail = "Should the agent not get the module, Istio lets traffic through with FAIL_OPEN, and denies all of it \
        otherwise. Should the module crash, FAIL_OPEN leaves it out until the proxy starts anew.";
    let plugin = Yaml::map().with("url", url).with_some("sha256", sha256).with("pluginName", "holdfast").noted(
        fail,
        "failStrategy",
        "FAIL_OPEN",
    );
    // Keys in the order of the document; Istio makes JSON of it again.
    let policy =
        serde_json::from_str(&plan.policy.text).map(|value: Value| tree(&value)).unwrap_or_else(|_| Yaml::map());
    let plugin = plugin.with("pluginConfig", policy);
    let spec = match &plan.pods {
        Pods::Labels(labels) if labels.is_empty() => Yaml::map(),
        Pods::Labels(labels) => Yaml::map().with("selector", Yaml::map().with("matchLabels", labelled(labels))),
        Pods::Waypoint(name) => Yaml::map().with("targetRefs", vec![gateway_reference(name)]),
    };
    let spec = spec.with_some("match", traffic(plan));
    match plan.form {
        Form::Discovered | Form::Inline => None,
        Form::WasmPlugin => {
            Some(object("extensions.istio.io/v1alpha1", "WasmPlugin", plan).with("spec", spec.and(plugin)))
        }
        Form::TrafficExtension => {
            let spec = spec.with("wasm", plugin);
            Some(object("extensions.istio.io/v1alpha1", "TrafficExtension", plan).with("spec", spec))
        }
    }
}

/// Which listeners; a gateway's and a waypoint's are not told apart by ports that are known here.
fn traffic(plan: &Plan<'_>) -> Option<Vec<Yaml>> {
    let mode = match plan.proxy {
        Proxy::Sidecar => "CLIENT",
        Proxy::Inbound => "SERVER",
        Proxy::Gateway | Proxy::Waypoint => return None,
    };
    let ports: Vec<Yaml> = plan.ports().into_iter().map(|port| Yaml::map().with("number", port)).collect();
    Some(vec![Yaml::map().with("mode", mode).with_some("ports", (!ports.is_empty()).then_some(ports))])
}

fn tree(value: &Value) -> Yaml {
    match value {
        Value::Sequence(items) => {
            let list = Yaml::List(items.iter().map(tree).collect());
            if items.iter().all(|item| !item.is_mapping() && !item.is_sequence()) { list.line() } else { list }
        }
        Value::Mapping(entries) => entries
            .iter()
            .filter_map(|(key, item)| Some((key.as_str()?, tree(item))))
            .fold(Yaml::map(), |map, (key, item)| map.with(key, item)),
        Value::String(text) => Yaml::Text(text.clone()),
        other => Yaml::Plain(serde_json::to_string(other).unwrap_or_default()),
    }
}
