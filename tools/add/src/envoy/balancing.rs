//! `load_balancing_policy`: the policy that the cluster has, behind the header that names hosts.

use super::typed;
use crate::facts::{Balancing, Locality, Upstream, Warmup};
use holdfast_yaml::Yaml;

/// The package of all these policies.
const PACKAGE: &str = "envoy.extensions.load_balancing_policies";

/// The header by which the request seat names hosts.
pub const HOSTS: &str = "x-holdfast-hosts";

/// The cluster's own policy as the fallback of `override_host`.
pub fn steered(upstream: &Upstream) -> Yaml {
    one(("override_host", overriding(own(upstream))))
}

/// A policy of Envoy's with its configuration.
pub fn policy(name: &'static str, message: &str, config: Yaml) -> Yaml {
    let config = typed(&format!("{PACKAGE}.{name}.v3.{message}")).and(config);
    Yaml::map().with("typed_extension_config", extension((name, config)))
}

/// A `load_balancing_policy` that follows the header, and without it these policies.
pub fn around(policies: Vec<Yaml>) -> Yaml {
    around_all(Yaml::List(policies))
}

/// The same, of a list as it stands in a file.
pub fn around_all(policies: Yaml) -> Yaml {
    let config = typed(&format!("{PACKAGE}.override_host.v3.OverrideHost"))
        .with("override_host_sources", vec![Yaml::map().with("header", HOSTS)])
        .with("fallback_policy", Yaml::map().with("policies", policies));
    Yaml::map().with("policies", vec![Yaml::map().with("typed_extension_config", extension(("override_host", config)))])
}

/// `override_host` by itself, with a fallback that is to be replaced by the policy that is there.
pub fn override_host() -> Yaml {
    let placeholder = ("round_robin", typed(&format!("{PACKAGE}.round_robin.v3.RoundRobin")));
    Yaml::map().with("typed_extension_config", extension(("override_host", overriding(placeholder))))
}

fn overriding(fallback: (&str, Yaml)) -> Yaml {
    typed(&format!("{PACKAGE}.override_host.v3.OverrideHost"))
        .with("override_host_sources", vec![Yaml::map().with("header", HOSTS)])
        .with("fallback_policy", one(fallback))
}

/// A list of one policy.
fn one(policy: (&str, Yaml)) -> Yaml {
    Yaml::map().with("policies", vec![Yaml::map().with("typed_extension_config", extension(policy))])
}

fn extension((name, config): (&str, Yaml)) -> Yaml {
    Yaml::map().with("name", format!("envoy.load_balancing_policies.{name}")).with("typed_config", config)
}

/// The cluster's own policy, by itself.
pub fn fallback(upstream: &Upstream) -> Yaml {
    extension(own(upstream))
}

/// What balances without Holdfast.
fn own(upstream: &Upstream) -> (&'static str, Yaml) {
    let (name, message) = match upstream.balancing {
        Balancing::LeastRequest(_) => ("least_request", "LeastRequest"),
        Balancing::RoundRobin(_) => ("round_robin", "RoundRobin"),
        Balancing::Random => ("random", "Random"),
        Balancing::RingHash(_) => ("ring_hash", "RingHash"),
        Balancing::Maglev(_) => ("maglev", "Maglev"),
    };
    let config = typed(&format!("{PACKAGE}.{name}.v3.{message}"));
    let config = match &upstream.balancing {
        Balancing::LeastRequest(warmup) | Balancing::RoundRobin(warmup) => {
            config.with_some("slow_start_config", warmup.as_ref().map(slow_start))
        }
        Balancing::Random => config,
        Balancing::RingHash(size) => config.with_some("minimum_ring_size", *size),
        Balancing::Maglev(size) => config.with_some("table_size", *size),
    };
    (name, locality(upstream, config))
}

fn slow_start(warmup: &Warmup) -> Yaml {
    // Envoy wants a key by which its runtime can change the number.
    let aggression = |value: f64| {
        Yaml::map().with("default_value", value).with("runtime_key", "holdfast.slow_start.aggression").line()
    };
    Yaml::map()
        .with("slow_start_window", warmup.window)
        .with_some("aggression", warmup.aggression.map(aggression))
        .with_some("min_weight_percent", warmup.minimum.map(|value| Yaml::map().with("value", value).line()))
}

/// Hashing policies know the weights of localities alone, under a name of their own.
fn locality(upstream: &Upstream, config: Yaml) -> Yaml {
    let hash = upstream.balancing.by_hash();
    match upstream.locality {
        Locality::None => config,
        Locality::Weighted if hash => config.with("locality_weighted_lb_config", Yaml::map()),
        Locality::Weighted => {
            config.with("locality_lb_config", Yaml::map().with("locality_weighted_lb_config", Yaml::map()).line())
        }
        Locality::ZoneAware { .. } if hash => config,
        Locality::ZoneAware { min_cluster_size, enabled } => {
            let disabled = (!enabled).then(|| Yaml::map().with("value", 0_u32).line());
            let zones =
                Yaml::map().with_some("routing_enabled", disabled).with_some("min_cluster_size", min_cluster_size);
            config.with("locality_lb_config", Yaml::map().with("zone_aware_lb_config", zones).line())
        }
    }
}
