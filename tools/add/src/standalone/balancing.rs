//! A cluster's own balancing, whatever words it is written in, as the fallback of `override_host`.

use holdfast_yaml::{Node, Yaml};

use super::file::At;
use crate::envoy::balancing::{HOSTS, around, policy};

/// Keys that say in the older form how a cluster balances.
pub const OLDER: [&str; 7] = [
    "lb_policy",
    "lb_subset_config",
    "ring_hash_lb_config",
    "maglev_lb_config",
    "least_request_lb_config",
    "round_robin_lb_config",
    "original_dst_lb_config",
];

/// Parts of `common_lb_config` that belong to the balancing itself.
pub const COMMON: [&str; 3] = ["zone_aware_lb_config", "locality_weighted_lb_config", "consistent_hashing_lb_config"];

/// What becomes of a cluster's balancing.
#[derive(Debug)]
pub enum Steering {
    /// It follows the header already.
    There,
    /// It gets this `load_balancing_policy`.
    Put(Yaml),
    /// Holdfast cannot name its hosts, for this reason.
    Cannot(String),
}

/// Makes it.
pub fn steering(cluster: &At<'_>, source: &str) -> Steering {
    if let Some(problem) = obstacle(cluster) {
        return Steering::Cannot(problem);
    }
    match cluster.get("load_balancing_policy") {
        Some(present) => typed(&present, source),
        None => match older(cluster) {
            Ok(fallback) => Steering::Put(around(vec![fallback])),
            Err(problem) => Steering::Cannot(problem),
        },
    }
}

/// Why no host of a cluster can be named.
fn obstacle(cluster: &At<'_>) -> Option<String> {
    let kind = cluster.text("type").unwrap_or_default();
    if kind == "ORIGINAL_DST" {
        return Some(
            "type ORIGINAL_DST: the client has chosen the host, and Envoy refuses override_host here".to_owned(),
        );
    }
    let custom = cluster.get("cluster_type")?;
    let name = custom.text("name").unwrap_or_default();
    let message = custom.get("typed_config").and_then(|config| config.text("@type")).unwrap_or_default();
    let kind = message.rsplit('.').next().unwrap_or_default();
    match kind {
        // Source: Envoy's API, extensions/clusters.
        "DnsCluster" | "DnsClusterConfig" | "" if name.contains("dns") && !name.contains("dynamic") => None,
        _ if ["static", "eds"].iter().any(|plain| name.ends_with(plain)) => None,
        "DnsCluster" => None,
        "ClusterConfig" if message.contains("aggregate") => Some(format!(
            "{name}: an aggregate cluster hands no header on to its clusters: a host that is out would go on getting its share. \
             Ask for its clusters where routes can name them"
        )),
        _ => Some(format!("{name}: a cluster of this kind chooses its hosts itself, so that none can be named")),
    }
}

/// A `load_balancing_policy` goes whole into the fallback, with its comments.
fn typed(present: &At<'_>, source: &str) -> Steering {
    let policies = present.list("policies");
    for policy in policies.iter().filter_map(|policy| policy.at(&["typed_extension_config", "typed_config"])) {
        if policy.is("OverrideHost") {
            let sources = policy.list("override_host_sources");
            return if sources.iter().any(|source| source.text("header") == Some(HOSTS)) {
                Steering::There
            } else {
                let problem = "its balancing follows another header or metadata already (override_host): Envoy reads one list of hosts";
                Steering::Cannot(problem.to_owned())
            };
        }
        if policy.is("ClusterProvided") {
            let problem =
                "its balancing is cluster_provided: Envoy crashes where that is the fallback of override_host";
            return Steering::Cannot(problem.to_owned());
        }
    }
    match present.get("policies") {
        Some(policies) if !policies.node.items().is_empty() => {
            Steering::Put(crate::envoy::balancing::around_all(Yaml::moved(policies.node, source)))
        }
        _ => Steering::Cannot("its load_balancing_policy has no policies".to_owned()),
    }
}

/// The older keys as a policy.
fn older(cluster: &At<'_>) -> Result<Yaml, String> {
    let common = cluster.get("common_lb_config");
    let common = |key: &str| common.as_ref().and_then(|common| common.get(key)).map(|at| Yaml::from(at.node));
    let by = cluster.text("lb_policy").unwrap_or("ROUND_ROBIN");
    let (name, message, key) = match by {
        "ROUND_ROBIN" | "0" => ("round_robin", "RoundRobin", "round_robin_lb_config"),
        "LEAST_REQUEST" | "1" => ("least_request", "LeastRequest", "least_request_lb_config"),
        "RING_HASH" | "2" => ("ring_hash", "RingHash", "ring_hash_lb_config"),
        "RANDOM" | "3" => ("random", "Random", ""),
        "MAGLEV" | "5" => ("maglev", "Maglev", "maglev_lb_config"),
        "CLUSTER_PROVIDED" | "6" => {
            return Err("lb_policy CLUSTER_PROVIDED: the cluster chooses its hosts itself, so that none can be named"
                .to_owned());
        }
        other => return Err(format!("lb_policy {other} is not known here")),
    };
    let mut config = match cluster.get(key) {
        Some(own) => own.node.entries().iter().fold(Yaml::map(), |config, (key, value)| {
            config.with(key.text().unwrap_or_default(), renamed(by, key, value))
        }),
        None => Yaml::map(),
    };
    if matches!(name, "ring_hash" | "maglev") {
        config = config
            .with_some("consistent_hashing_lb_config", common("consistent_hashing_lb_config"))
            .with_some("locality_weighted_lb_config", common("locality_weighted_lb_config"));
    } else {
        let by_locality = ["zone_aware_lb_config", "locality_weighted_lb_config"]
            .into_iter()
            .find_map(|key| Some(Yaml::map().with(key, common(key)?)));
        config = config.with_some("locality_lb_config", by_locality);
    }
    let own = policy(name, message, config);
    let Some(subsets) = cluster.get("lb_subset_config") else { return Ok(own) };
    let config = subsets
        .node
        .entries()
        .iter()
        .fold(Yaml::map(), |config, (key, value)| config.with(key.text().unwrap_or_default(), Yaml::from(value)));
    let within = Yaml::map().with("policies", vec![own]);
    Ok(policy("subset", "Subset", config.with("subset_lb_policy", within)))
}

/// A value that has another number in the newer form.
fn renamed(by: &str, key: &Node, value: &Node) -> Yaml {
    match (by, key.text(), value.text()) {
        // Source: Envoy's API, `RingHashLbConfig.HashFunction` and `RingHash.HashFunction`.
        ("RING_HASH" | "2", Some("hash_function"), Some("0")) => "XX_HASH".into(),
        ("RING_HASH" | "2", Some("hash_function"), Some("1")) => "MURMUR_HASH_2".into(),
        _ => Yaml::from(value),
    }
}
