//! The EnvoyFilter: both seats, and the cluster's own settings around them.

use super::cluster::{Cluster, Clusters};
use super::restated;
use super::route::Retries;
use crate::envoy::balancing::{HOSTS, steered};
use crate::envoy::protocol::options;
use crate::envoy::retries::{HOST_ATTEMPTS, hardly_any_wait, previous_hosts};
use crate::envoy::seat::{Module, Seat, VM_ID, codec, discovered, inline, wasm};
use crate::envoy::typed;
use crate::facts::Steering;
use crate::policy::Policy;
use crate::request::{Form, Proxy};
use holdfast_yaml::Yaml;

/// What is asked for.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The resource's name.
    pub name: String,
    /// Its namespace: that of the callers, or of the gateway.
    pub namespace: String,
    /// Which pods of the namespace it is for.
    pub pods: Pods,
    /// Which proxies.
    pub proxy: Proxy,
    /// The services; none for whatever there is.
    pub services: &'a [Clusters],
    /// The policy document.
    pub policy: &'a Policy,
    /// Where the module is.
    pub module: Module,
    /// How the filters come to the proxies.
    pub form: Form,
    /// Without the attempt seat.
    pub request_only: bool,
}

/// Pods that a resource is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pods {
    /// Those with these labels; none for all.
    Labels(Vec<(String, String)>),
    /// A waypoint's, by the name of its Gateway.
    Waypoint(String),
}

impl Plan<'_> {
    fn context(&self) -> &'static str {
        match self.proxy {
            Proxy::Sidecar => "SIDECAR_OUTBOUND",
            Proxy::Gateway => "GATEWAY",
            // A waypoint's listeners count as the inbound ones of a sidecar.
            Proxy::Inbound | Proxy::Waypoint => "SIDECAR_INBOUND",
        }
    }

    /// What a seat's filter is called, everywhere in an Envoy. No two resources have one alike.
    fn filter_name(&self, seat: Seat<'_>) -> String {
        format!("holdfast.{}.{}.{}", self.namespace, self.name, seat.name())
    }

    /// The virtual machines' id: Istio gives its plugins none, and both seats have to have the same.
    fn vm_id(&self) -> &'static str {
        if self.form.plugin() { "" } else { VM_ID }
    }

    fn seat(&self, seat: Seat<'_>) -> Yaml {
        let name = self.filter_name(seat);
        match self.form {
            Form::Inline => inline(&name, wasm(seat, &self.module, self.vm_id())),
            Form::Discovered | Form::WasmPlugin | Form::TrafficExtension => discovered(&name),
        }
    }

    /// The listeners through which requests come, by their ports.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.services.iter().flat_map(|service| service.listeners.iter().copied()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn request(&self) -> Seat<'_> {
        Seat::Request(&self.policy.text)
    }

    /// Whether there is an attempt seat.
    fn attempts(&self) -> bool {
        self.proxy != Proxy::Inbound && !self.request_only
    }
}

/// The EnvoyFilter; `None` where there is nothing to patch.
pub fn resource(plan: &Plan<'_>) -> Option<Yaml> {
    let mut patches = Vec::new();
    let mut filters = Vec::new();
    if !plan.form.plugin() {
        patches.extend(request_seat(plan));
        filters.push(plan.request());
    }
    if plan.attempts() {
        patches.extend(no_client_chooses(plan));
        patches.extend(attempt_seat(plan));
        filters.push(Seat::Attempt);
    }
    if plan.form != Form::Inline {
        patches.extend(filters.iter().enumerate().map(|(index, seat)| extension(plan, *seat, index == 0)));
    }
    if patches.is_empty() {
        return None;
    }
    let spec = match &plan.pods {
        Pods::Labels(labels) if labels.is_empty() => Yaml::map(),
        Pods::Labels(labels) => Yaml::map().with("workloadSelector", Yaml::map().with("labels", labelled(labels))),
        Pods::Waypoint(name) => Yaml::map().with("targetRefs", vec![gateway_reference(name)]),
    };
    Some(object("networking.istio.io/v1alpha3", "EnvoyFilter", plan).with("spec", spec.with("configPatches", patches)))
}

/// The head of a resource.
pub fn object(version: &str, kind: &str, plan: &Plan<'_>) -> Yaml {
    Yaml::map()
        .with("apiVersion", version)
        .with("kind", kind)
        .with("metadata", Yaml::map().with("name", plan.name.as_str()).with("namespace", plan.namespace.as_str()))
}

/// Labels as an object.
pub fn labelled(labels: &[(String, String)]) -> Yaml {
    labels.iter().fold(Yaml::map(), |map, (key, value)| map.with(key, value.as_str()))
}

/// A Gateway as the target of a resource.
pub fn gateway_reference(name: &str) -> Yaml {
    Yaml::map().with("group", "gateway.networking.k8s.io").with("kind", "Gateway").with("name", name)
}

fn patch(comment: &str, to: &str, matches: Yaml, operation: &str, value: Option<Yaml>) -> Yaml {
    Yaml::map()
        .noted(comment, "applyTo", to)
        .with("match", matches)
        .with("patch", Yaml::map().with("operation", operation).with_some("value", value))
}

/// The filter chains through which requests come, as matches of listeners.
fn chains(plan: &Plan<'_>) -> Vec<Yaml> {
    let router = Yaml::map()
        .with("name", "envoy.filters.network.http_connection_manager")
        .with("subFilter", Yaml::map().with("name", "envoy.filters.http.router"));
    if plan.proxy == Proxy::Waypoint {
        let chain = |service: &Clusters| {
            let chain = Yaml::map().with("name", service.name(Proxy::Waypoint)).with("filter", router.clone());
            Yaml::map().with("name", "main_internal").with("filterChain", chain)
        };
        return plan.services.iter().map(chain).collect();
    }
    let mut ports: Vec<Option<u16>> = plan.ports().into_iter().map(Some).collect();
    // A gateway's listeners have the ports of its pods, and routes for any host.
    if plan.proxy == Proxy::Gateway || ports.is_empty() {
        ports = vec![None];
    }
    let listener = |port: &Option<u16>| {
        Yaml::map().with_some("portNumber", *port).with("filterChain", Yaml::map().with("filter", router.clone()))
    };
    ports.iter().map(listener).collect()
}

fn in_chains(plan: &Plan<'_>, comment: &str, operation: &str, value: impl Fn() -> Yaml) -> Vec<Yaml> {
    let one = |(index, chain): (usize, Yaml)| {
        let matches = Yaml::map().with("context", plan.context()).with("listener", chain);
        patch(if index == 0 { comment } else { "" }, "HTTP_FILTER", matches, operation, Some(value()))
    };
    chains(plan).into_iter().enumerate().map(one).collect()
}

/// The request seat, just before the router. One filter for all services of a port: there is one connection manager for them.
fn request_seat(plan: &Plan<'_>) -> Vec<Yaml> {
    let comment = match plan.proxy {
        Proxy::Gateway => {
            "The request seat, in every listener of the gateway: it governs what its policies name, nothing else."
        }
        Proxy::Inbound => "The request seat, before the application.",
        Proxy::Sidecar | Proxy::Waypoint => {
            "The request seat: it governs what goes to the clusters that its policies name, and nothing else."
        }
    };
    in_chains(plan, comment, "INSERT_BEFORE", || plan.seat(plan.request()))
}

/// `override_host` obeys the header whoever has set it, and without the module nobody else takes it away.
fn no_client_chooses(plan: &Plan<'_>) -> Option<Yaml> {
    let comment =
        "No client names hosts: what it says in Holdfast's own header is dropped, with or without the module.";
    let steered =
        plan.services.iter().flat_map(|service| &service.all).any(|cluster| cluster.upstream.steering.possible());
    let headers = Yaml::map().with("internal_only_headers", vec![HOSTS.into()]);
    steered.then(|| {
        patch(comment, "ROUTE_CONFIGURATION", Yaml::map().with("context", plan.context()), "MERGE", Some(headers))
    })
}

fn attempt_seat(plan: &Plan<'_>) -> Vec<Yaml> {
    if plan.proxy != Proxy::Waypoint && !plan.services.is_empty() {
        return plan.services.iter().flat_map(|service| attempt_seats(plan, service)).collect();
    }
    let comment = match plan.proxy {
        Proxy::Waypoint => "The attempt seat. No patch reaches a waypoint's clusters, so it stands in the router.",
        _ => "The attempt seat, beside each host of every cluster: it stands in the router, so no cluster is touched.",
    };
    in_chains(plan, comment, "MERGE", || {
        let router = typed("envoy.extensions.filters.http.router.v3.Router")
            .with("upstream_http_filters", vec![plan.seat(Seat::Attempt), codec()]);
        Yaml::map().with("name", "envoy.filters.http.router").with("typed_config", router)
    })
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
        if cluster.restated {
            let made = restated::cluster(service, cluster);
            let added = Yaml::map().with("context", plan.context());
            return vec![
                patch(&comment, "CLUSTER", named, "REMOVE", None),
                patch("", "CLUSTER", added, "ADD", Some(made.and(merged(plan, service, cluster)))),
            ];
        }
        vec![patch(&comment, "CLUSTER", named, "MERGE", Some(merged(plan, service, cluster)))]
    };
    service.all.iter().flat_map(one).collect()
}

fn kept(cluster: &Cluster) -> String {
    match &cluster.upstream.steering {
        Steering::Possible if cluster.restated => "Istio weighs its localities by a setting that Envoy refuses beside \
            override_host and that a merge cannot take away. So the cluster is made anew, and all else that Istio had made \
            of it is stated again."
            .to_owned(),
        Steering::Possible => "What Istio has made of the cluster stays: its balancing is the fallback.".to_owned(),
        Steering::Impossible(reason) => format!("No host can be left out here: {reason}."),
    }
}

/// What is merged into a cluster.
fn merged(plan: &Plan<'_>, service: &Clusters, cluster: &Cluster) -> Yaml {
    let upstream = &cluster.upstream;
    let balancing = upstream.steering.possible().then(|| steered(upstream));
    let retries = retry_policy(plan, service, cluster);
    let options = options(upstream, vec![plan.seat(Seat::Attempt), codec()], retries);
    Yaml::map().with_some("load_balancing_policy", balancing).with("typed_extension_protocol_options", options)
}

/// The cluster's retry policy, where a policy of Holdfast retries.
pub fn retry_policy(plan: &Plan<'_>, service: &Clusters, cluster: &Cluster) -> Option<Yaml> {
    let policy = plan.policy.retries.then(|| retries(&service.retries, cluster.upstream.balancing.by_hash())).flatten();
    // A further attempt chooses the cluster anew.
    let again = plan.policy.goes_further(&cluster.name);
    policy.map(|policy| if again { policy.with("refresh_cluster_on_retry", true) } else { policy })
}

/// The cluster's retry policy, which takes the place of the routes': what they say, with a wait that leaves the waiting to the
/// attempt seat. Nothing where routes differ: they keep their own.
fn retries(retries: &Retries, by_hash: bool) -> Option<Yaml> {
    // What Istio does by default; with hashing a retry stays with its host.
    // Source: istio/istio, pilot/pkg/networking/core/route/retry.
    const ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    let soon = hardly_any_wait();
    let previous = |policy: Yaml| policy.with("retry_host_predicate", vec![previous_hosts()]);
    let most = |policy: Yaml| policy.with("host_selection_retry_max_attempts", HOST_ATTEMPTS);
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
fn extension(plan: &Plan<'_>, seat: Seat<'_>, first: bool) -> Yaml {
    let comment = "The filters themselves. A proxy that cannot have the module, or whose module refuses the policy, goes on \
        without them.";
    let value =
        Yaml::map().with("name", plan.filter_name(seat)).with("typed_config", wasm(seat, &plan.module, plan.vm_id()));
    let matches = Yaml::map().with("context", plan.context());
    patch(if first { comment } else { "" }, "EXTENSION_CONFIG", matches, "ADD", Some(value))
}
