//! The marks of examples, and what is wrong with one.

use std::net::SocketAddr;

use holdfast_schema_tests::refusal;
use serde_json::{Map, Value, json};

use crate::contained::{anywhere, object_in};

/// Blocks of a policy, each a mark for an example of what stands in it.
const BLOCKS: [&str; 7] = ["outcome", "breaker", "concurrency", "throttle", "retry", "outlier", "fallback"];

/// Where examples are looked up: the configuration that is shipped, and the text of the build's one entry.
#[derive(Debug, Clone, Copy)]
pub struct Shipped<'a> {
    /// `envoy/envoy.yaml`.
    pub configuration: &'a Value,
    /// `build.sh`.
    pub build: &'a str,
}

/// What is wrong with an example, by what its fence says that it is:
///
/// | mark | what it is |
/// |---|---|
/// | `json` | a whole policy document, which must be accepted |
/// | `json policy` | one policy of a document |
/// | `json outlier`, and so for each block | what stands in that block of a policy |
/// | `json listing` | what an endpoint of `discover` answers |
/// | `json seat` | the configuration of a VM |
/// | `yaml` | a whole policy document |
/// | `yaml envoy` | a part of the shipped configuration, which must say the same |
/// | `yaml extra` | a part of a configuration that the shipped one lacks |
/// | `sh` | commands; those of `build.sh` must be targets of it |
/// | `text` | anything else, such as lines of a log |
#[must_use]
pub fn fault(info: &str, text: &str, shipped: Shipped<'_>) -> Option<String> {
    let marks: Vec<&str> = info.split_whitespace().collect();
    match marks.as_slice() {
        ["json"] => document(text),
        ["json", mark] => json(mark, text),
        ["yaml"] => match serde_norway::from_str::<Value>(text) {
            Ok(value) => document(&value.to_string()),
            Err(error) => Some(format!("is no YAML: {error}")),
        },
        ["yaml", "envoy"] => yaml(text, |part| {
            let is_there = anywhere(shipped.configuration, part);
            (!is_there).then(|| "the shipped configuration does not say this".to_owned())
        }),
        ["yaml", "extra"] => yaml(text, |part| {
            let is_there = anywhere(shipped.configuration, part);
            is_there.then(|| "the shipped configuration has it: mark it as `yaml envoy`".to_owned())
        }),
        ["sh"] => commands(text, shipped.build),
        ["text"] => None,
        [] => Some("has no mark, or is indented and not fenced".to_owned()),
        _ => Some(format!("has the unknown mark `{info}`")),
    }
}

fn document(text: &str) -> Option<String> {
    match object_in(text) {
        Some(object) if object.get("policies").is_some() => refusal(text),
        Some(_) => Some("is no policy document: a fragment needs a mark behind `json`".to_owned()),
        None => Some("is no JSON object".to_owned()),
    }
}

fn json(mark: &str, text: &str) -> Option<String> {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return Some(format!("is no JSON: {error}")),
    };
    match mark {
        "policy" => refusal(&json!({"policies": [value]}).to_string()),
        "listing" => listing(&value),
        "seat" => {
            let seats = [json!({"seat": "request"}), json!({"seat": "attempt"})];
            (!seats.contains(&value)).then(|| "is no seat".to_owned())
        }
        block if BLOCKS.contains(&block) => {
            // With the other blocks there every reason of a fallback can be given.
            let mut policy: Map<String, Value> =
                ["breaker", "throttle", "retry"].into_iter().map(|name| (name.to_owned(), json!({}))).collect();
            policy.insert("name".to_owned(), json!("example"));
            policy.insert("concurrency".to_owned(), json!({"max_requests": 1}));
            policy.insert(block.to_owned(), value);
            refusal(&json!({"policies": [policy]}).to_string())
        }
        _ => Some(format!("has the unknown mark `json {mark}`")),
    }
}

/// Of the two shapes the one that is Holdfast's own: clusters with the addresses of their hosts.
fn listing(value: &Value) -> Option<String> {
    let is_address = |host: &Value| host.as_str().is_some_and(|host| host.parse::<SocketAddr>().is_ok());
    let is_cluster =
        |hosts: &Value| hosts.as_array().is_some_and(|hosts| !hosts.is_empty() && hosts.iter().all(is_address));
    let clusters = value.get("clusters").and_then(Value::as_object);
    let is_listing = clusters.is_some_and(|clusters| !clusters.is_empty() && clusters.values().all(is_cluster));
    (!is_listing).then(|| "lists no hosts".to_owned())
}

fn yaml(text: &str, fault: impl FnOnce(&Value) -> Option<String>) -> Option<String> {
    let value: Value = match serde_norway::from_str(text) {
        Ok(value) => value,
        Err(error) => return Some(format!("is no YAML: {error}")),
    };
    if !(value.is_object() || value.is_array()) {
        return Some("is no part of a configuration".to_owned());
    }
    policies_in(&value).or_else(|| fault(&value))
}

/// What is wrong with the policy documents within a configuration.
fn policies_in(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => {
            object_in(text).filter(|object| object.get("policies").is_some()).and_then(|_| refusal(text))
        }
        Value::Object(fields) => fields.values().find_map(policies_in),
        Value::Array(items) => items.iter().find_map(policies_in),
        _ => None,
    }
}

fn commands(text: &str, build: &str) -> Option<String> {
    let calls = text.split("./build.sh ").skip(1);
    let targets = calls.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default());
    targets.filter(|target| !target.is_empty()).find_map(|target| {
        let is_target = build.contains(&format!("\ntarget_{target}() {{"));
        (!is_target).then(|| format!("build.sh has no target `{target}`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault_of(info: &str, text: &str) -> Option<String> {
        let configuration = json!({"cluster": {"name": "orders", "type": "STATIC"}});
        let shipped = Shipped { configuration: &configuration, build: "#\ntarget_test() {\n}\n" };
        fault(info, text, shipped)
    }

    #[test]
    fn what_can_be_loaded_has_no_fault() {
        for (info, text) in [
            ("json", r#"{"policies": [{"name": "orders", "breaker": {}}]}"#),
            ("json policy", r#"{"name": "orders", "breaker": {}}"#),
            ("json outlier", r#"{"heartbeat": {"path": "/healthz"}}"#),
            ("json fallback", r#"[{"on": ["open", "retries_exhausted"], "respond": {"status": 503}}]"#),
            ("json listing", r#"{"clusters": {"orders": ["10.0.0.1:8080", "[2001:db8::1]:8080"]}}"#),
            ("json seat", r#"{"seat": "attempt"}"#),
            ("yaml", "policies:\n  - name: orders\n    breaker: {open_for: 10s}\n"),
            ("yaml envoy", "name: orders"),
            ("yaml extra", "name: users"),
            ("sh", "./build.sh test unit   # the quick ones\nls $(./build.sh test)\n./build.sh"),
            ("text", "closed -> open"),
        ] {
            assert_eq!(fault_of(info, text), None, "{info}: {text}");
        }
    }

    #[test]
    fn what_cannot_be_loaded_is_told() {
        for (info, text, expected) in [
            ("", "x", "no mark"),
            ("rust", "x", "unknown mark `rust`"),
            ("json hosts", "{}", "unknown mark `json hosts`"),
            ("json", r#"{"heartbeat": {}}"#, "needs a mark"),
            ("json", r#""discover": {}"#, "no JSON object"),
            ("json", r#"{"policies": [{"name": "orders", "braker": {}}]}"#, "braker"),
            ("json policy", r#"{"breaker": {}}"#, "name"),
            ("json outlier", r#"{"interval": 10}"#, "outlier.interval"),
            ("json outlier", "{", "no JSON"),
            ("json listing", r#"{"clusters": {"orders": ["orders.internal:80"]}}"#, "no hosts"),
            ("json listing", "{}", "no hosts"),
            ("json seat", r#"{"seat": "back"}"#, "no seat"),
            ("yaml", "policies:\n  - name: orders\n    braker: {}\n", "braker"),
            ("yaml", "name: orders", "no policy document"),
            ("yaml", "a: b: c", "no YAML"),
            ("yaml envoy", "name: users", "does not say this"),
            ("yaml envoy", "a: b: c", "no YAML"),
            ("yaml envoy", "orders", "no part"),
            ("yaml extra", "type: STATIC", "mark it"),
            ("yaml extra", r#"value: '{"policies": [{}]}'"#, "name"),
            ("sh", "ENVOY_VERSION=1.36.2 ./build.sh tests", "no target `tests`"),
        ] {
            let fault = fault_of(info, text).unwrap_or_default();
            assert!(fault.contains(expected), "{info}: {text}: {fault:?}");
        }
    }
}
