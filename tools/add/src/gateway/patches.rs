//! What is printed: the policies as a ConfigMap, the proxies' volumes as an EnvoyProxy, and the patches.

use super::known::{Entry, Gateway};
use crate::envoy::balancing::{HOSTS, override_host};
use crate::envoy::retries::{HOST_ATTEMPTS, hardly_any_wait, previous_hosts};
use crate::envoy::seat::{Module, Seat, codec, discovered_from, response};
use crate::policy::Policy;
use holdfast_yaml::Yaml;

/// Where the proxies have the files of the ConfigMap.
const FOLDER: &str = "/etc/holdfast/policy";
/// Where they have the module.
const MODULE_FOLDER: &str = "/etc/holdfast/module";

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// The router, in whatever chain of a listener.
const ROUTER: &str = "..http_filters[?(@.name=='envoy.filters.http.router')]";

/// What is asked for.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The resources' name.
    pub name: String,
    /// The namespace of the proxies.
    pub proxies: String,
    /// The Gateway.
    pub gateway: &'a Gateway,
    /// Through what requests come.
    pub entry: &'a Entry,
    /// The clusters that are steered.
    pub clusters: Vec<String>,
    /// The policy document.
    pub policy: &'a Policy,
    /// Where the module is.
    pub module: Module,
}

impl Plan<'_> {
    /// The resources, each a document.
    pub fn documents(&self) -> String {
        [self.config_map(), self.envoy_proxy(), self.patch_policy()].map(|resource| resource.document()).join("---\n")
    }

    fn config_map(&self) -> Yaml {
        let seats = [Seat::Request(&self.policy.text), Seat::Attempt];
        let data =
            seats.iter().fold(Yaml::map(), |data, seat| data.with(&file(*seat), Yaml::Block(self.resource(*seat))));
        Yaml::map()
            .noted(
                "The policies, and where the module is. Envoy reads these files again when they change: no restart, no new listener. \
                 A policy that is wrong is refused, and the one before goes on.",
                "apiVersion",
                "v1",
            )
            .with("kind", "ConfigMap")
            .with("metadata", metadata(&self.name, &self.proxies))
            .with("data", data)
    }

    /// What Envoy reads in a file: a discovery response with the seat's filter.
    fn resource(&self, seat: Seat<'_>) -> String {
        response(&filter_name(seat), seat, &self.module, "1").document()
    }

    fn envoy_proxy(&self) -> Yaml {
        let volume = |name: &str, map: &str| {
            Yaml::map().with("name", name).with("configMap", Yaml::map().with("name", map).line())
        };
        let mount = |name: &str, path: &str| {
            Yaml::map().with("name", name).with("mountPath", path).with("readOnly", true).line()
        };
        let module = format!("{}-module", self.name);
        let deployment = Yaml::map()
            .with(
                "container",
                Yaml::map().with(
                    "volumeMounts",
                    vec![mount("holdfast-policy", FOLDER), mount("holdfast-module", MODULE_FOLDER)],
                ),
            )
            .noted(
                &format!(
                    "A pod without them would have no listener, so it waits for them. The module's is made by: kubectl -n {} create \
                     configmap {module} --from-file=holdfast.wasm=dist/holdfast.wasm",
                    self.proxies
                ),
                "pod",
                Yaml::map().with(
                    "volumes",
                    vec![volume("holdfast-policy", &self.name), volume("holdfast-module", &module)],
                ),
            );
        let kubernetes = Yaml::map().with("envoyDeployment", deployment);
        let tag = |label: &str| {
            let tag = Yaml::map().with("tag_name", label).with("regex", format!(r"({label}=\.=(.*?);\.;)"));
            Yaml::map().with("op", "add").with("path", "/stats_config/stats_tags/-").with("value", tag.line())
        };
        let bootstrap = Yaml::map().with("type", "JSONPatch").with("jsonPatches", vec![tag("policy"), tag("key")]);
        Yaml::map()
            .noted(
                &format!(
                    "What the proxies need for it. Gateway {}/{} names it: spec.infrastructure.parametersRef: {{ group: \
                     gateway.envoyproxy.io, kind: EnvoyProxy, name: {} }}",
                    self.gateway.namespace, self.gateway.name, self.name
                ),
                "apiVersion",
                "gateway.envoyproxy.io/v1alpha1",
            )
            .with("kind", "EnvoyProxy")
            .with("metadata", metadata(&self.name, &self.gateway.namespace))
            .with(
                "spec",
                Yaml::map()
                    .with("provider", Yaml::map().with("type", "Kubernetes").with("kubernetes", kubernetes))
                    .noted("The policy and the key of a metric become labels.", "bootstrap", bootstrap),
            )
    }

    fn patch_policy(&self) -> Yaml {
        let mut patches = Vec::new();
        for (index, listener) in self.entry.listeners.iter().enumerate() {
            patches.extend(seats(listener, index == 0));
        }
        for (index, (routes, retries)) in self.entry.routes.iter().enumerate() {
            patches.extend(routing(routes, *retries, index == 0));
        }
        for (index, cluster) in self.clusters.iter().enumerate() {
            patches.extend(steering(cluster, index == 0));
        }
        let target = Yaml::map()
            .with("group", "gateway.networking.k8s.io")
            .with("kind", "Gateway")
            .with("name", self.gateway.name.as_str());
        Yaml::map()
            .with("apiVersion", "gateway.envoyproxy.io/v1alpha1")
            .with("kind", "EnvoyPatchPolicy")
            .with("metadata", metadata(&self.name, &self.gateway.namespace))
            .with("spec", Yaml::map().with("targetRef", target).with("type", "JSONPatch").with("jsonPatches", patches))
    }
}

fn metadata(name: &str, namespace: &str) -> Yaml {
    Yaml::map().with("name", name).with("namespace", namespace)
}

fn filter_name(seat: Seat<'_>) -> String {
    format!("holdfast-{}", seat.name())
}

fn file(seat: Seat<'_>) -> String {
    format!("{}.yaml", seat.name())
}

/// A patch of the resource `name`, with a comment where it has one.
fn patch(comment: &str, kind: &str, name: &str, operation: Yaml) -> Yaml {
    Yaml::map().noted(comment, "type", kind).with("name", name).with("operation", operation)
}

fn add(path: (&str, &str), value: impl Into<Yaml>) -> Yaml {
    Yaml::map().with("op", "add").with(path.0, path.1).with("value", value)
}

/// The seat's filter, from its file.
fn seat(seat: Seat<'_>) -> Yaml {
    let path = Yaml::map()
        .with("path", format!("{FOLDER}/{}", file(seat)))
        .with("watched_directory", Yaml::map().with("path", FOLDER).line());
    let source = Yaml::map()
        .with("path_config_source", path)
        .with("initial_fetch_timeout", std::time::Duration::ZERO)
        .with("resource_api_version", "V3");
    discovered_from(&filter_name(seat), source)
}

fn seats(listener: &str, comments: bool) -> Vec<Yaml> {
    let comment = |text| if comments { text } else { "" };
    let upstream = Yaml::map()
        .with("op", "add")
        .with("jsonPath", ROUTER)
        .with("path", "typed_config/upstream_http_filters")
        .with("value", vec![seat(Seat::Attempt), codec()]);
    vec![
        patch(
            comment(
                "The request seat, just before the router of every chain of the listener. While Envoy has no right policy or no \
                 module, `default_config` stands in, which does nothing.",
            ),
            LISTENER,
            listener,
            add(("jsonPath", ROUTER), seat(Seat::Request(""))),
        ),
        patch(
            comment(
                "The attempt seat, in the router: beside every host of every cluster, whose protocol and settings so stay as they are.",
            ),
            LISTENER,
            listener,
            upstream,
        ),
    ]
}

fn routing(routes: &str, retries: bool, comments: bool) -> Vec<Yaml> {
    let comment = |text| if comments { text } else { "" };
    let policy = Yaml::map()
        .with("retry_back_off", hardly_any_wait())
        .with("host_selection_retry_max_attempts", HOST_ATTEMPTS)
        .with("retry_host_predicate", vec![previous_hosts()]);
    let each = |json_path: &str, path: &str, value: Yaml| {
        Yaml::map().with("op", "add").with("jsonPath", json_path).with("path", path).with("value", value)
    };
    let mut patches = vec![
        patch(
            comment("No client may choose a host."),
            ROUTES,
            routes,
            add(("path", "/internal_only_headers"), Yaml::List(vec![HOSTS.into()]).line()),
        ),
        patch(
            comment(
                "How Envoy executes retries: hardly any wait of its own, for the attempt seat waits, and another host each time. \
                 Without `retry_on` it asks for none.",
            ),
            ROUTES,
            routes,
            each("$.virtual_hosts[*]", "retry_policy", policy),
        ),
    ];
    if retries {
        patches.push(patch(
            comment("A route with a retry of its own keeps it, but for the wait."),
            ROUTES,
            routes,
            each("..routes[*].route.retry_policy", "retry_back_off", hardly_any_wait()),
        ));
    }
    patches
}

/// Puts `override_host` first, moves what was there into its fallback, and takes the placeholder out.
fn steering(cluster: &str, comments: bool) -> Vec<Yaml> {
    const FIRST: &str = "/load_balancing_policy/policies/0";
    let fallback = format!("{FIRST}/typed_extension_config/typed_config/fallback_policy/policies");
    let comment = if comments {
        "The cluster follows `x-holdfast-hosts`, and without that header the balancing that Envoy Gateway has made for it, which \
         becomes the fallback."
    } else {
        ""
    };
    vec![
        patch(comment, CLUSTER, cluster, add(("path", FIRST), override_host())),
        patch(
            "",
            CLUSTER,
            cluster,
            Yaml::map()
                .with("op", "move")
                .with("from", "/load_balancing_policy/policies/1")
                .with("path", format!("{fallback}/0")),
        ),
        patch("", CLUSTER, cluster, Yaml::map().with("op", "remove").with("path", format!("{fallback}/1"))),
    ]
}
