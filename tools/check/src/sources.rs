//! Where in the texts policy documents and the module stand.

use crate::texts::{At, Texts};
use crate::wasm::{Held, Wasm};

/// A policy document.
#[derive(Debug, Clone)]
pub struct Source<'a> {
    /// Where it stands: the document itself, or the scalar that holds it.
    pub at: At<'a>,
    /// How it is written.
    pub form: Form,
}

/// How a policy document is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// As the whole of a JSON text.
    Json,
    /// As YAML.
    Yaml,
    /// As YAML in a resource of Kubernetes, whose tools read `on` as a boolean.
    Kubernetes,
    /// As JSON in a text.
    Text,
    /// As the encoded bytes of JSON.
    Bytes(Vec<u8>),
    /// As a `google.protobuf.Struct`.
    Struct,
}

/// The module as a resource of Istio or Envoy Gateway, which makes a filter of it.
#[derive(Debug, Clone)]
pub struct Plugin<'a> {
    /// The part of the resource about it.
    pub at: At<'a>,
    /// The field of the policy document.
    pub field: &'static str,
    /// The policy document.
    pub policy: Option<At<'a>>,
}

/// What a document of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A policy document.
    Policy,
    /// Envoy's bootstrap.
    Bootstrap,
    /// Resources of Envoy, as discovery gives them.
    Resources,
    /// A resource of Kubernetes, or a list of them.
    Kubernetes,
    /// None of these.
    Other,
}

/// What kind of document this is.
pub fn kind(at: &At<'_>) -> Kind {
    const BOOTSTRAP: [&str; 6] =
        ["static_resources", "dynamic_resources", "admin", "node", "layered_runtime", "stats_config"];
    if BOOTSTRAP.iter().any(|key| at.get(key).is_some()) {
        Kind::Bootstrap
    } else if at.get("kind").is_some() && at.get("apiVersion").is_some() {
        Kind::Kubernetes
    } else if at.get("resources").is_some() || at.type_name().is_some() {
        Kind::Resources
    } else if at.get("policies").is_some() {
        Kind::Policy
    } else {
        Kind::Other
    }
}

/// What a policy has and other things that have a name do not.
const FEATURES: [&str; 6] = ["breaker", "concurrency", "throttle", "retry", "outlier", "fallback"];

/// Everything of Holdfast's.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// Policy documents that stand by themselves.
    pub documents: Vec<Source<'a>>,
    /// The module in filters.
    pub filters: Vec<Wasm<'a>>,
    /// The module in resources of Istio and Envoy Gateway.
    pub plugins: Vec<Plugin<'a>>,
}

/// Looks through a document.
pub fn sources<'a>(texts: &Texts, root: &At<'a>) -> Sources<'a> {
    let mut found = Sources::default();
    let json = texts.all.get(root.text).is_some_and(|text| text.json);
    match kind(root) {
        Kind::Policy => {
            let form = if json { Form::Json } else { Form::Yaml };
            found.documents.push(Source { at: root.clone(), form });
        }
        Kind::Kubernetes => {
            for resource in std::iter::once(root.clone()).chain(root.list("items")) {
                plugins(&resource, &mut found.plugins);
            }
            filters(root, &mut found.filters);
        }
        Kind::Other => {
            filters(root, &mut found.filters);
            // A text that holds one, and a policy without the list around it: the module's own reader says what is wrong.
            let is_meant = root.node.text().is_some() && json;
            if is_meant || (root.get("name").is_some() && FEATURES.iter().any(|feature| root.get(feature).is_some())) {
                let form = if json { Form::Json } else { Form::Yaml };
                found.documents.push(Source { at: root.clone(), form });
            } else if found.filters.is_empty() {
                held(root, &mut found.documents);
            }
            if found.filters.is_empty() && found.documents.is_empty() && json {
                found.documents.push(Source { at: root.clone(), form: Form::Json });
            }
        }
        _ => {
            filters(root, &mut found.filters);
            // A configuration by itself, without the filter around it.
            found.documents.extend(of_held(&Held::of(Some(root.clone()))));
        }
    }
    found
}

/// The policy document of a filter, if it is one that can be read.
pub fn of_filter<'a>(wasm: &Wasm<'a>) -> Option<Source<'a>> {
    of_held(&wasm.configuration)
}

fn of_held<'a>(held: &Held<'a>) -> Option<Source<'a>> {
    let (at, form) = match held {
        Held::Text(at) => (at.clone(), Form::Text),
        Held::Bytes(at, Some(bytes)) => (at.clone(), Form::Bytes(bytes.clone())),
        Held::Struct(at, _) => (at.clone(), Form::Struct),
        _ => return None,
    };
    Some(Source { at, form })
}

/// The policy document of a resource, if it has one.
pub fn of_plugin<'a>(plugin: &Plugin<'a>) -> Option<Source<'a>> {
    let at = plugin.policy.clone()?;
    Some(Source { at, form: Form::Kubernetes })
}

fn filters<'a>(at: &At<'a>, found: &mut Vec<Wasm<'a>>) {
    if let Some(wasm) = Wasm::of(at) {
        found.push(wasm);
        return;
    }
    let before = found.len();
    at.items().iter().for_each(|item| filters(item, found));
    at.entries().iter().for_each(|(_, value)| filters(value, found));
    // A name and a configuration are what discovery gives.
    let own = at.get("typed_config").map(|config| config.key());
    for wasm in found.iter_mut().skip(before).filter(|wasm| Some(wasm.at.key()) == own) {
        wasm.extension = at.text("name");
    }
}

/// Texts that are policy documents, as those among the values of a Helm chart.
fn held<'a>(at: &At<'a>, found: &mut Vec<Source<'a>>) {
    let text = at.node.text().unwrap_or_default();
    if text.trim_start().starts_with('{') && text.contains("\"policies\"") {
        found.push(Source { at: at.clone(), form: Form::Text });
    }
    at.items().iter().for_each(|item| held(item, found));
    at.entries().iter().for_each(|(_, value)| held(value, found));
}

fn plugins<'a>(resource: &At<'a>, found: &mut Vec<Plugin<'a>>) {
    let mut add = |at: Option<At<'a>>, field: &'static str, names: &[&[&str]]| {
        let Some(at) = at else { return };
        let policy = at.get(field);
        let named = names
            .iter()
            .any(|way| at.at(way).and_then(|at| at.node.text()).is_some_and(|text| text.contains("holdfast")));
        if named || policy.as_ref().is_some_and(|policy| policy.get("policies").is_some()) {
            found.push(Plugin { at, field, policy });
        }
    };
    let spec = resource.get("spec");
    match resource.text("kind") {
        Some("WasmPlugin") => add(spec, "pluginConfig", &[&["pluginName"], &["url"]]),
        Some("TrafficExtension") => {
            add(spec.and_then(|spec| spec.get("wasm")), "pluginConfig", &[&["pluginName"], &["url"]]);
        }
        Some("EnvoyExtensionPolicy") => {
            let names: [&[&str]; 3] = [&["name"], &["code", "image", "url"], &["code", "http", "url"]];
            for wasm in spec.map(|spec| spec.list("wasm")).unwrap_or_default() {
                add(Some(wasm), "config", &names);
            }
        }
        _ => {}
    }
}
