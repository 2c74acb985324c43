//! What the module's metrics are called in Envoy, and how their labels are found in the name.

use serde_json::{Value, json};

/// The stat of a metric of a policy's key. With an empty `metric`: how the names of all metrics of that key begin.
#[must_use]
pub fn metric_name(policy: &str, key: &str, metric: &str) -> String {
    format!("wasmcustom.holdfast.policy=.={policy};.;key=.={key};.;{metric}")
}

/// `stats_tags` that turn the policy and the key of a Holdfast metric into labels. They are of the form that Istio makes of
/// `extraStatTags`: Envoy removes what the first group matches from the name, and takes the second as the label's value.
#[must_use]
pub fn stats_tags() -> Value {
    let tag = |name: &str| json!({"tag_name": name, "regex": format!(r"({name}=\.=(.*?);\.;)")});
    json!([tag("policy"), tag("key")])
}
