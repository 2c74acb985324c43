//! The same as values of the Helm chart, which makes the resource of them.

use super::cluster::{Cluster, Clusters};
use super::filter::{Plan, Pods, labelled, retry_policy};
use super::restated;
use crate::envoy::balancing::fallback;
use crate::envoy::protocol::filled;
use crate::envoy::seat::Module;
use crate::request::{Form, Proxy};
use holdfast_yaml::Yaml;

/// The values.
pub fn values(plan: &Plan<'_>) -> Yaml {
    let (proxy, listeners) = match plan.proxy {
        Proxy::Sidecar => ("sidecar", plan.ports()),
        Proxy::Inbound => ("inbound", plan.ports()),
        // The chart has no values for a waypoint, and the command line takes none.
        Proxy::Gateway | Proxy::Waypoint => ("gateway", Vec::new()),
    };
    let module = match &plan.module {
        Module::File(path) => Yaml::map().with("file", path.as_str()).with("url", ""),
        Module::Remote { uri, sha256 } => Yaml::map().with("url", uri.as_str()).with_some("sha256", sha256.as_deref()),
    };
    let labels = match &plan.pods {
        Pods::Labels(labels) => labelled(labels),
        Pods::Waypoint(_) => Yaml::map(),
    };
    let listeners: Vec<Yaml> = listeners.into_iter().map(Yaml::from).collect();
    let services: Vec<Yaml> = plan.services.iter().map(|service| values_of(plan, service)).collect();
    Yaml::map()
        .with("name", plan.name.as_str())
        .with("namespace", plan.namespace.as_str())
        .with("proxy", proxy)
        .with("labels", labels)
        .with("module", module)
        .with("inline", plan.form == Form::Inline)
        .with("listeners", Yaml::List(listeners).line())
        .with("services", services)
        .with("policy", Yaml::Block(plan.policy.text.clone()))
}

fn values_of(plan: &Plan<'_>, service: &Clusters) -> Yaml {
    let values = Yaml::map().with("host", service.service.host.as_str()).with("port", service.port.number);
    if plan.proxy == Proxy::Inbound {
        return values;
    }
    let alike = service.alike();
    let found: Vec<&Cluster> = service.all.iter().take(if alike { 1 } else { usize::MAX }).collect();
    let one = |cluster: &&Cluster| {
        let upstream = &cluster.upstream;
        let anew = cluster.restated.then(|| restated::cluster(service, cluster));
        Yaml::map()
            .with_some("name", (!alike).then_some(cluster.name.as_str()))
            .with_some("fallback", upstream.steering.possible().then(|| fallback(upstream)))
            .with("options", filled(upstream, None, retry_policy(plan, service, cluster)))
            .with_some("anew", anew)
    };
    values.with("clusters", found.iter().map(one).collect::<Vec<Yaml>>())
}
