//! How Envoy executes retries that Holdfast decides on: a wait of its own that is hardly one, and another host each time.

use std::time::Duration;

use super::typed;
use holdfast_yaml::Yaml;

/// How many hosts Envoy looks at for one that a request has not yet been to.
pub const HOST_ATTEMPTS: u32 = 5;

/// Envoy's own wait before a retry, from `base`.
pub fn wait(base: Duration) -> Yaml {
    Yaml::map().with("base_interval", base).with("max_interval", base.max(Duration::from_millis(1))).line()
}

/// The wait beside the attempt seat, which waits as the policy says.
pub fn hardly_any_wait() -> Yaml {
    wait(Duration::from_millis(1))
}

/// The predicate that keeps a retry from the hosts that the request has been to.
pub fn previous_hosts() -> Yaml {
    Yaml::map()
        .with("name", "envoy.retry_host_predicates.previous_hosts")
        .with("typed_config", typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"))
}
