//! Envoy's shapes, made of facts: what every control plane's resources have in common.

pub mod balancing;
pub mod protocol;
pub mod seat;

use crate::yaml::Yaml;

/// An `Any` whose type is `name`, to be filled.
pub fn typed(name: &str) -> Yaml {
    Yaml::map().with("@type", format!("type.googleapis.com/{name}"))
}
