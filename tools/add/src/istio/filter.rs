//! The EnvoyFilter: both seats, and the cluster's own settings around them.

use std::time::Duration;

use super::cluster::{Cluster, Clusters, Proxy};
use super::route::Retries;
use crate::envoy::balancing::steered;
use crate::envoy::protocol::options;
use crate::envoy::seat::{Module, Seat, VM_ID, codec, discovered, inline, wasm};
use crate::envoy::typed;
use crate::facts::Steering;
use crate::policy::Policy;
use crate::yaml::Yaml;

/// What is asked for.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The resource's name.
    pub name: String,
    /// Its namespace: that of the callers, or of the gateway.
    pub namespace: String,
    /// Labels of the pods that it is for; none for all of the namespace.
    pub labels: Vec<(String, String)>,
    /// Which proxies.
    pub proxy: Proxy,
    /// The services.
    pub services: &'a [Clusters],
    /// The policy document.
    pub policy: &'a Policy,
    /// Where the module is.
    pub module: Module,
    /// Whether the module stands in the patches themselves.
    pub inline: bool,
}

impl Plan<'_> {
    fn context(&self) -> &'static str {
        match self.proxy {
            Proxy::Sidecar => "SIDECAR_OUTBOUND",
            Proxy::Gateway => "GATEWAY",
        }
    }

    /// What a seat's filter is called, everywhere in an Envoy. No two resources have one alike.
    fn filter_name(&self, seat: Seat<'_>) -> String {
        format!("holdfast.{}.{}.{}", self.namespace, self.name, seat.name())
    }

    fn seat(&self, seat: Seat<'_>) -> Yaml {
        let name = self.filter_name(seat);
        if self.inline { inline(&name, wasm(seat, &self.module, VM_ID)) } else { discovered(&name) }
    }
}

/// The resource.
pub fn resource(plan: &Plan<'_>) -> Yaml {
    let mut patches = request_seat(plan);
    for service in plan.services {
        patches.extend(attempt_seats(plan, service));
    }
    if !plan.inline {
        patches.extend([Seat::Request(&plan.policy.text), Seat::Attempt].map(|seat| extension(plan, seat)));
    }
    let spec = selector(&plan.labels).with("configPatches", patches);
    Yaml::map()
        .with("apiVersion", "networking.istio.io/v1alpha3")
        .with("kind", "EnvoyFilter")
        .with("metadata", Yaml::map().with("name", plan.name.as_str()).with("namespace", plan.namespace.as_str()))
        .with("spec", spec)
}

fn selector(labels: &[(String, String)]) -> Yaml {
    if labels.is_empty() {
        return Yaml::map();
    }
    let labels = labels.iter().fold(Yaml::map(), |map, (key, value)| map.with(key, value.as_str()));
    Yaml::map().with("workloadSelector", Yaml::map().with("labels", labels))
}

fn patch(comment: &str, to: &str, matches: Yaml, operation: &str, value: Option<Yaml>) -> Yaml {
    Yaml::map()
        .noted(comment, "applyTo", to)
        .with("match", matches)
        .with("patch", Yaml::map().with("operation", operation).with_some("value", value))
}

/// The request seat, just before the router of each listener through which requests come. One filter for all services of a
/// port: there is one connection manager for them.
fn request_seat(plan: &Plan<'_>) -> Vec<Yaml> {
    let router = Yaml::map()
        .with("name", "envoy.filters.network.http_connection_manager")
        .with("subFilter", Yaml::map().with("name", "envoy.filters.http.router"));
    let chain = Yaml::map().with("filter", router);
    let mut ports: Vec<Option<u16>> = match plan.proxy {
        Proxy::Sidecar => {
            plan.services.iter().flat_map(|service| service.listeners.iter().copied().map(Some)).collect()
        }
        // A gateway's listeners have the ports of its pods, and routes for any host.
        Proxy::Gateway => vec![None],
    };
    ports.sort_unstable();
    ports.dedup();
    let comment = match plan.proxy {
        Proxy::Sidecar => {
            "The request seat: it governs what goes to the clusters that its policies name, and nothing else."
        }
        Proxy::Gateway => {
            "The request seat, in every listener of the gateway: it governs what its policies name, nothing else."
        }
    };
    let seat = |(index, port): (usize, &Option<u16>)| {
        let listener = Yaml::map().with_some("portNumber", *port).with("filterChain", chain.clone());
        let matches = Yaml::map().with("context", plan.context()).with("listener", listener);
        let comment = if index == 0 { comment } else { "" };
        let value = plan.seat(Seat::Request(&plan.policy.text));
        patch(comment, "HTTP_FILTER", matches, "INSERT_BEFORE", Some(value))
    };
    ports.iter().enumerate().map(seat).collect()
}

/// The attempt seat, and steering, in a service's clusters: by one patch where they are alike, else by one for each.
fn attempt_seats(plan: &Plan<'_>, service: &Clusters) -> Vec<Yaml> {
    let (host, port) = (service.service.host.as_str(), service.port.number);
    let matching = |cluster: Yaml| Yaml::map().with("context", plan.context()).with("cluster", cluster);
    if service.alike() {
        let Some(first) = service.all.first() else { return Vec::new() };
        let named = Yaml::map().with("service", host).with("portNumber", port);
        let comment =
            format!("The attempt seat beside each host of {host}, port {port}, in all of its subsets. {}", kept(first));
        return vec![patch(&comment, "CLUSTER", matching(named), "MERGE", Some(merged(plan, service, first)))];
    }
    let one = |cluster: &Cluster| {
        let named = matching(Yaml::map().with("name", cluster.name.as_str()));
        let comment = format!("The attempt seat beside each host of {}. {}", cluster.name, kept(cluster));
        patch(&comment, "CLUSTER", named, "MERGE", Some(merged(plan, service, cluster)))
    };
    service.all.iter().map(one).collect()
}

fn kept(cluster: &Cluster) -> String {
    match &cluster.upstream.steering {
        Steering::Possible => "What Istio has made of the cluster stays: its balancing is the fallback.".to_owned(),
        Steering::Impossible(reason) => format!("No host can be left out here: {reason}."),
    }
}

/// What is merged into a cluster.
fn merged(plan: &Plan<'_>, service: &Clusters, cluster: &Cluster) -> Yaml {
    let upstream = &cluster.upstream;
    let balancing = upstream.steering.possible().then(|| steered(upstream));
    let retries = plan.policy.retries.then(|| retries(&service.retries, upstream.balancing.by_hash())).flatten();
    let options = options(upstream, vec![plan.seat(Seat::Attempt), codec()], retries);
    Yaml::map().with_some("load_balancing_policy", balancing).with("typed_extension_protocol_options", options)
}

/// The cluster's retry policy, which takes the place of the routes': what they say, with a wait that leaves the waiting to the
/// attempt seat. Nothing where routes differ: they keep their own.
fn retries(retries: &Retries, by_hash: bool) -> Option<Yaml> {
    // What Istio does by default; with hashing a retry stays with its host.
    // Source: istio/istio, pilot/pkg/networking/core/route/retry.
    const ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    let wait = |base: Duration| {
        Yaml::map().with("base_interval", base).with("max_interval", base.max(Duration::from_millis(1))).line()
    };
    let soon = wait(Duration::from_millis(1));
    let previous = |policy: Yaml| {
        let predicate = typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate");
        let predicate =
            Yaml::map().with("name", "envoy.retry_host_predicates.previous_hosts").with("typed_config", predicate);
        policy.with("retry_host_predicate", vec![predicate])
    };
    let most = |policy: Yaml| policy.with("host_selection_retry_max_attempts", 5_u32);
    match retries {
        Retries::Various => None,
        Retries::Off => Some(previous(most(Yaml::map().with("retry_back_off", soon)))),
        Retries::Default => {
            let policy = most(Yaml::map().with("retry_on", ON).with("num_retries", 2_u32).with("retry_back_off", soon));
            Some(if by_hash { policy } else { previous(policy) })
        }
        Retries::Set { attempts, on, statuses, per_try_timeout, ignore_previous, remote, backoff: _ } => {
            let on = on.as_deref().unwrap_or(ON);
            let mut policy = Yaml::map().with("retry_on", on).with("num_retries", *attempts);
            if !statuses.is_empty() {
                let statuses = statuses.iter().map(|status| Yaml::from(*status)).collect();
                policy = policy.with("retriable_status_codes", Yaml::List(statuses).line());
            }
            policy = most(policy.with_some("per_try_timeout", *per_try_timeout).with("retry_back_off", soon));
            if *remote {
                let priority = typed("envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig")
                    .with("update_frequency", 2_u32);
                let priority = Yaml::map()
                    .with("name", "envoy.retry_priorities.previous_priorities")
                    .with("typed_config", priority);
                policy = policy.with("retry_priority", priority);
            }
            Some(if ignore_previous.unwrap_or(!by_hash) { previous(policy) } else { policy })
        }
    }
}

/// A seat's filter as a resource of its own, which Envoy asks for by name.
fn extension(plan: &Plan<'_>, seat: Seat<'_>) -> Yaml {
    let comment = match seat {
        Seat::Request(_) => {
            "The filters themselves. A proxy that cannot have the module, or whose module refuses the policy, goes on without them."
        }
        Seat::Attempt => "",
    };
    let value = Yaml::map().with("name", plan.filter_name(seat)).with("typed_config", wasm(seat, &plan.module, VM_ID));
    let matches = Yaml::map().with("context", plan.context());
    patch(comment, "EXTENSION_CONFIG", matches, "ADD", Some(value))
}
