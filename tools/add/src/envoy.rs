//! Envoy's shapes, made of facts: what every control plane's resources have in common.

pub mod balancing;
pub mod matcher;
pub mod protocol;
pub mod retries;
pub mod seat;

use std::time::Duration;

use holdfast_yaml::Yaml;

/// Where a proxy gets what its control plane sends, without a wait for it.
pub fn from_control_plane() -> Yaml {
    Yaml::map()
        .with("ads", Yaml::map())
        .with("initial_fetch_timeout", Duration::ZERO)
        .with("resource_api_version", "V3")
        .line()
}

/// An `Any` whose type is `name`, to be filled.
pub fn typed(name: &str) -> Yaml {
    Yaml::map().with("@type", format!("type.googleapis.com/{name}"))
}
