//! What Envoy has read of a configuration and of what `add` made of it: the same, but for what `add` puts in.

use serde_json::{Map, Value, json};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const OVERRIDE_HOST: &str =
    "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost";

/// What a cluster says of balancing and of its protocol without being an extension, and what `add` sets beside them.
const TRANSLATED: [&str; 17] = [
    "circuit_breakers",
    "common_http_protocol_options",
    "common_lb_config",
    "http2_protocol_options",
    "http_protocol_options",
    "lb_policy",
    "lb_subset_config",
    "least_request_lb_config",
    "load_balancing_policy",
    "maglev_lb_config",
    "max_requests_per_connection",
    "outlier_detection",
    "protocol_selection",
    "ring_hash_lb_config",
    "round_robin_lb_config",
    "typed_extension_protocol_options",
    "upstream_http_protocol_options",
];

/// Everything but what concerns Holdfast and what a translation moves: equal before and after.
pub fn rest(bootstrap: &Value) -> Value {
    let mut rest = bootstrap.clone();
    if let Some(node) = rest.get_mut("node").and_then(Value::as_object_mut) {
        // What this Envoy can do, in any order.
        node.remove("extensions");
    }
    for_each_object(&mut rest, &mut |object| {
        if object.get("@type").and_then(Value::as_str).is_some_and(|name| name.ends_with(".HttpConnectionManager")) {
            object.remove("access_log");
            if let Some(filters) = object.get_mut("http_filters").and_then(Value::as_array_mut) {
                filters.retain(|filter| !is_holdfast(filter));
            }
        }
        if object.contains_key("upstream_http_filters") {
            without(object, "upstream_http_filters", &is_holdfast);
        }
        if object.contains_key("virtual_hosts") {
            without(object, "internal_only_headers", &|header| header == "x-holdfast-hosts");
        }
        if let Some(policy) = object.get_mut("retry_policy").and_then(Value::as_object_mut) {
            for name in ["retry_back_off", "retry_host_predicate", "host_selection_retry_max_attempts"] {
                policy.remove(name);
            }
            if policy.is_empty() {
                object.remove("retry_policy");
            }
        }
    });
    if let Some(config) = rest.get_mut("stats_config").and_then(Value::as_object_mut) {
        without(config, "stats_tags", &|tag| tag["tag_name"] == "policy" || tag["tag_name"] == "key");
        if let Some(patterns) = config.get_mut("stats_matcher").and_then(|matcher| matcher.get_mut("inclusion_list")) {
            let patterns = patterns.as_object_mut().expect("an inclusion list is an object");
            without(patterns, "patterns", &|pattern| pattern["prefix"] == "wasmcustom.holdfast.");
        }
        if config.is_empty() {
            rest.as_object_mut().expect("a bootstrap is an object").remove("stats_config");
        }
    }
    for cluster in rest.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut).into_iter().flatten() {
        let steered = cluster["name"] == "orders";
        let cluster = cluster.as_object_mut().expect("a cluster is an object");
        if steered {
            cluster.retain(|name, _| !TRANSLATED.contains(&name.as_str()));
        } else if filters_of(cluster).iter().any(is_holdfast) {
            // A mirror's, which has the seat so that it does not see the header.
            cluster.remove("typed_extension_protocol_options");
        }
    }
    rest
}

fn without(object: &mut Map<String, Value>, name: &str, goes: &dyn Fn(&Value) -> bool) {
    if let Some(list) = object.get_mut(name).and_then(Value::as_array_mut) {
        list.retain(|one| !goes(one));
        if list.is_empty() {
            object.remove(name);
        }
    }
}

fn for_each_object(value: &mut Value, act: &mut dyn FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            act(object);
            object.values_mut().for_each(|value| for_each_object(value, act));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| for_each_object(value, act)),
        _ => {}
    }
}

/// Whether this filter is one of Holdfast's seats.
fn is_holdfast(filter: &Value) -> bool {
    let wasm = filter["typed_config"]["@type"] == "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
    wasm && filter["typed_config"]["config"]["root_id"] == "holdfast"
}

fn filters_of(cluster: &Map<String, Value>) -> Vec<Value> {
    let options = cluster.get("typed_extension_protocol_options").map(|options| &options[HTTP_OPTIONS]["http_filters"]);
    options.and_then(Value::as_array).cloned().unwrap_or_default()
}

/// The cluster `orders`.
pub fn orders(bootstrap: &Value) -> &Map<String, Value> {
    let clusters = bootstrap.pointer("/static_resources/clusters").and_then(Value::as_array).expect("clusters");
    clusters.iter().find(|cluster| cluster["name"] == "orders").and_then(Value::as_object).expect("orders")
}

/// The cluster's HTTP options without its filters, and how many of the filters are attempt seats.
///
/// # Panics
/// When the filters do not begin with the attempt seat, or do not end with the codec.
pub fn http_options(cluster: &Map<String, Value>) -> (Value, usize) {
    let filters = filters_of(cluster);
    let mut options = cluster["typed_extension_protocol_options"][HTTP_OPTIONS].clone();
    let fields = options.as_object_mut().expect("the cluster has HTTP options");
    fields.remove("@type");
    fields.remove("http_filters");
    let seat = &filters.first().expect("the cluster has filters")["typed_config"]["config"]["vm_config"];
    assert_eq!(seat["configuration"]["value"], r#"{"seat": "attempt"}"#, "the attempt seat comes first");
    assert_eq!(filters.last().unwrap()["name"], "envoy.filters.http.upstream_codec", "the codec comes last");
    (options, filters.iter().filter(|filter| is_holdfast(filter)).count())
}

/// What balances while no host is out: the policies within `override_host`.
///
/// # Panics
/// When the cluster does not go where the header says.
pub fn balancing(cluster: &Map<String, Value>) -> Vec<Value> {
    let first = &cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"];
    assert_eq!(first["@type"], OVERRIDE_HOST);
    assert_eq!(first["override_host_sources"], json!([{"header": "x-holdfast-hosts"}]));
    let policies = first["fallback_policy"]["policies"].as_array().expect("a fallback policy");
    policies.iter().map(|policy| plain(&policy["typed_extension_config"]["typed_config"])).collect()
}

/// A policy with a short type and without what is said by saying nothing.
fn plain(policy: &Value) -> Value {
    let mut policy = policy.clone();
    let fields = policy.as_object_mut().expect("a policy is an object");
    let name = fields.remove("@type").expect("a policy has a type");
    let name = name.as_str().and_then(|name| name.rsplit('.').next()).unwrap_or_default();
    fields.retain(|name, value| name != "hash_function" || (value != "XX_HASH" && value != "DEFAULT_HASH"));
    if let Some(inner) = fields.get("subset_lb_policy") {
        let inner = plain(&inner["policies"][0]["typed_extension_config"]["typed_config"]);
        fields.insert("subset_lb_policy".to_owned(), inner);
    }
    json!({name: fields})
}

/// The upstream filters of a connection manager's router.
pub fn router_filters(bootstrap: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    for_each_object(&mut bootstrap.clone(), &mut |object| {
        found.extend(object.get("upstream_http_filters").and_then(Value::as_array).cloned().unwrap_or_default());
    });
    found
}

/// How many request seats each connection manager has, by its prefix for statistics.
pub fn request_seats(bootstrap: &Value) -> Vec<(String, usize)> {
    let mut seats = Vec::new();
    for_each_object(&mut bootstrap.clone(), &mut |object| {
        if let (Some(filters), Some(prefix)) = (object.get("http_filters"), object.get("stat_prefix")) {
            let filters = filters.as_array().into_iter().flatten();
            seats
                .push((prefix.as_str().unwrap_or_default().to_owned(), filters.filter(|one| is_holdfast(one)).count()));
        }
    });
    seats
}

/// Where two values differ first, and how.
pub fn difference(place: &str, one: &Value, other: &Value) -> Option<String> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys());
            let field = |object: &Map<String, Value>, name: &String| object.get(name).cloned().unwrap_or_default();
            names
                .map(|name| difference(&format!("{place}/{name}"), &field(one, name), &field(other, name)))
                .find_map(|found| found)
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let pairs = one.iter().zip(other).enumerate();
            pairs
                .map(|(index, (one, other))| difference(&format!("{place}/{index}"), one, other))
                .find_map(|found| found)
        }
        _ => (one != other).then(|| format!("{place} was {one} and is {other}")),
    }
}
