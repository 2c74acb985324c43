//! Which hosts a cluster has, read from an endpoint that lists them.
//!
//! Three shapes are read. The admin interface of Envoy, at `/clusters?format=json`:
//!
//! ```json
//! {"cluster_statuses": [{"name": "orders", "host_statuses": [
//!     {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 8080}}}]}]}
//! ```
//!
//! its dump of endpoints, at `/config_dump?include_eds&resource=dynamic_endpoint_configs`, which is the only one that says what
//! localities weigh:
//!
//! ```json
//! {"configs": [{"endpoint_config": {"cluster_name": "orders", "endpoints": [{"load_balancing_weight": 3, "lb_endpoints": [
//!     {"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 8080}}}}]}]}}]}
//! ```
//!
//! and, for every other source, addresses and objects as a policy names hosts:
//!
//! ```json
//! {"clusters": {"orders": ["10.0.0.1:8080", {"address": "[2001:db8::1]:8080", "weight": 2}]}}
//! ```
//!
//! A listing may be long: the admin interface lists all clusters, each host with all its counters. So the hosts of the other
//! clusters are passed over unread, and what is read is borrowed from the listing.

use core::fmt;
use core::net::SocketAddr;
use core::num::NonZeroU32;
use core::time::Duration;
use std::borrow::Cow;
use std::collections::HashMap;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::topology::{HostListing, ListedHost, MOST_LOCALITIES, Topology};
use crate::base::time::Timestamp;
use holdfast_policy::config::json;
use holdfast_policy::document::NamedHost;

/// The most hosts of a cluster.
pub const MOST_HOSTS: usize = 1000;

/// The time-out of a request for a listing.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest text of a listing that an error repeats, in characters.
const LONGEST_SHOWN: usize = 64;
/// The longest that an error says of a listing's form, in characters: it may repeat a text, too.
const LONGEST_ERROR: usize = 160;

/// The hosts of `cluster` as the listing `body` has them, each once, at most [`MOST_HOSTS`]; none if the cluster is listed without any. Those
/// that Envoy's health checks or its management server call unhealthy are only counted, those that drain not even that. Hosts that are not an address
/// and a port, such as Unix sockets in Envoy's listing, are left out.
///
/// The error says in one line why there is nothing to go by: no JSON, none of the shapes, the cluster not in it, something
/// that is not an address where one is due, or too many hosts.
///
/// `counts` names the addresses of which it matters how many requests they have had, which only Envoy's listing says.
pub fn hosts(body: &[u8], cluster: &str, counts: &dyn Fn(&str) -> bool) -> Result<HostListing, String> {
    let listing: Listing<'_> = serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => format!("not a listing: {}", shown(&error.to_string(), LONGEST_ERROR)),
        _ => format!("not JSON: {error}"),
    })?;
    let hosts = match listing {
        Listing { cluster_statuses: Some(statuses), .. } => of_statuses(&statuses, cluster, counts)?,
        Listing { configs: Some(configs), .. } => of_configs(&configs, cluster)?,
        Listing { clusters: Some(clusters), .. } => of_clusters(&clusters, cluster)?,
        _ => return Err("none of `cluster_statuses`, `configs` and `clusters` is in it".to_owned()),
    };
    let listing = hosts.ok_or_else(|| format!("cluster `{}` is not in it", shown(cluster, LONGEST_SHOWN)))?.in_order();
    if listing.localities.len() > MOST_LOCALITIES {
        return Err(format!("{} localities, at most {MOST_LOCALITIES}", listing.localities.len()));
    }
    match listing.hosts.len() {
        ..=MOST_HOSTS => Ok(listing),
        count => Err(format!("{count} hosts, at most {MOST_HOSTS}")),
    }
}

/// A listing in any shape.
#[derive(Deserialize)]
#[serde(expecting = "an object with `cluster_statuses`, `configs` or `clusters`")]
struct Listing<'a> {
    #[serde(borrow)]
    cluster_statuses: Option<Vec<ClusterStatus<'a>>>,
    #[serde(borrow)]
    configs: Option<Vec<Config<'a>>>,
    #[serde(borrow)]
    clusters: Option<HashMap<String, &'a RawValue>>,
}

/// One of Envoy's `cluster_statuses`.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct ClusterStatus<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    /// A list of [`HostStatus`].
    #[serde(borrow)]
    host_statuses: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct HostStatus<'a> {
    #[serde(borrow, default)]
    address: Address<'a>,
    /// A list of [`Stat`], mostly passed over.
    #[serde(borrow)]
    stats: Option<&'a RawValue>,
    #[serde(default)]
    health_status: HealthStatus,
    #[serde(default)]
    priority: u8,
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    Topology::default().weight
}

/// What Envoy has counted of a host.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Stat<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    /// A number as text, as 64 bits are more than JSON's numbers bear everywhere. Absent where it is 0.
    #[serde(borrow, default)]
    value: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(expecting = "an object")]
struct Address<'a> {
    /// There is none for a host of another kind.
    #[serde(borrow)]
    socket_address: Option<SocketAddress<'a>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct SocketAddress<'a> {
    #[serde(borrow)]
    address: Cow<'a, str>,
    port_value: u16,
}

/// Whether Envoy itself would send requests to a host: named hosts get them whatever its checks or its management server say.
/// What it ejects itself is not looked at.
#[derive(Default, Deserialize)]
#[serde(default, expecting = "an object")]
struct HealthStatus {
    failed_active_health_check: bool,
    failed_active_degraded_check: bool,
    pending_active_hc: bool,
    excluded_via_immediate_hc_fail: bool,
    eds_health_status: EdsHealthStatus,
}

impl HealthStatus {
    /// Whether Envoy leaves it out when it counts how many hosts there are. Source: `source/common/upstream/upstream_impl.cc`,
    /// `excludeBasedOnHealthFlag`.
    fn is_excluded(&self) -> bool {
        let is_draining = matches!(self.eds_health_status, EdsHealthStatus::Draining);
        is_draining || self.pending_active_hc || self.excluded_via_immediate_hc_fail
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EdsHealthStatus {
    Unhealthy,
    Draining,
    Timeout,
    Degraded,
    #[default]
    #[serde(other)]
    Usable,
}

impl EdsHealthStatus {
    fn is_usable(self) -> bool {
        matches!(self, EdsHealthStatus::Usable | EdsHealthStatus::Degraded)
    }
}

/// One of the `configs` of a dump: the endpoints of a cluster, or lists of such in a dump of everything.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Config<'a> {
    #[serde(borrow)]
    endpoint_config: Option<Assignment<'a>>,
    #[serde(borrow)]
    static_endpoint_configs: Option<Vec<Config<'a>>>,
    #[serde(borrow)]
    dynamic_endpoint_configs: Option<Vec<Config<'a>>>,
}

/// Envoy's `ClusterLoadAssignment`.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Assignment<'a> {
    #[serde(borrow, default)]
    cluster_name: Cow<'a, str>,
    /// A list of [`LocalityEndpoints`].
    #[serde(borrow)]
    endpoints: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct LocalityEndpoints<'a> {
    #[serde(borrow, default)]
    lb_endpoints: Vec<LbEndpoint<'a>>,
    #[serde(default)]
    load_balancing_weight: u32,
    #[serde(default)]
    priority: u8,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct LbEndpoint<'a> {
    #[serde(borrow, default)]
    endpoint: Endpoint<'a>,
    #[serde(default)]
    health_status: EdsHealthStatus,
    #[serde(default = "one")]
    load_balancing_weight: u32,
}

#[derive(Default, Deserialize)]
#[serde(expecting = "an object")]
struct Endpoint<'a> {
    #[serde(borrow, default)]
    address: Address<'a>,
}

/// A host as a policy names it.
struct Listed(NamedHost);

/// The same as an object.
#[derive(Deserialize)]
struct ListedObject {
    address: String,
    weight: Option<NonZeroU32>,
    #[serde(default)]
    priority: u8,
    locality: Option<String>,
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Listed;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an address or an object")
            }

            fn visit_str<E: Error>(self, address: &str) -> Result<Listed, E> {
                Ok(Listed(NamedHost::at(address.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listed, A::Error> {
                let ListedObject { address, weight, priority, locality } =
                    Deserialize::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Listed(NamedHost { address, weight: weight.unwrap_or(NonZeroU32::MIN), priority, locality }))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl SocketAddress<'_> {
    fn canonical(&self) -> Result<String, String> {
        canonical(&match self.address.contains(':') {
            true => format!("[{}]:{}", self.address, self.port_value),
            false => format!("{}:{}", self.address, self.port_value),
        })
    }
}

/// The hosts of `cluster` in Envoy's listing, `None` if it is not in it.
fn of_statuses(
    statuses: &[ClusterStatus<'_>],
    cluster: &str,
    counts: &dyn Fn(&str) -> bool,
) -> Result<Option<HostListing>, String> {
    let mut found = None;
    for status in statuses.iter().filter(|status| status.name == cluster) {
        let found = found.get_or_insert_with(HostListing::default);
        let Some(listed) = status.host_statuses else { continue };
        for HostStatus { address, stats, health_status, priority, weight } in
            part::<Vec<HostStatus<'_>>>(listed, "host_statuses")?
        {
            let eds = health_status.eds_health_status;
            let locality = found.plain_locality(priority);
            if !eds.is_usable() || health_status.failed_active_health_check {
                if !health_status.is_excluded() {
                    found.add_unusable(locality);
                }
                continue;
            }
            let Some(address) = address.socket_address else { continue };
            let is_degraded = matches!(eds, EdsHealthStatus::Degraded) || health_status.failed_active_degraded_check;
            let topology = Topology { priority, locality, weight: weight.max(1), is_degraded };
            let address = address.canonical()?;
            if counts(&address)
                && let Some(stats) = stats
            {
                let stats = part::<Vec<Stat<'_>>>(stats, "stats")?;
                let total = stats.iter().find(|stat| stat.name == "rq_total");
                found.requests.push((address.clone(), total.map_or(0, |total| total.value.parse().unwrap_or(0))));
            }
            found.hosts.push(ListedHost { address, topology });
        }
    }
    Ok(found)
}

/// The hosts of `cluster` in Envoy's dump, `None` if it is not in it. What Envoy itself ejects is unhealthy there, and what drains.
fn of_configs(configs: &[Config<'_>], cluster: &str) -> Result<Option<HostListing>, String> {
    let mut assignments = configs.iter().flat_map(|config| {
        let lists = [&config.static_endpoint_configs, &config.dynamic_endpoint_configs];
        let listed = lists.into_iter().flatten().flatten().filter_map(|listed| listed.endpoint_config.as_ref());
        config.endpoint_config.iter().chain(listed)
    });
    // Clusters may share a name in the discovery, and then have the same endpoints.
    let Some(assignment) = assignments.find(|assignment| assignment.cluster_name == cluster) else { return Ok(None) };
    let mut found = HostListing::default();
    let Some(endpoints) = assignment.endpoints else { return Ok(Some(found)) };
    for LocalityEndpoints { lb_endpoints, load_balancing_weight, priority } in
        part::<Vec<LocalityEndpoints<'_>>>(endpoints, "endpoints")?
    {
        let locality = found.add_locality(priority, load_balancing_weight);
        for LbEndpoint { endpoint, health_status, load_balancing_weight } in lb_endpoints {
            if !health_status.is_usable() {
                found.add_unusable(locality);
                continue;
            }
            let Some(address) = endpoint.address.socket_address else { continue };
            let is_degraded = matches!(health_status, EdsHealthStatus::Degraded);
            let topology = Topology { priority, locality, weight: load_balancing_weight.max(1), is_degraded };
            found.hosts.push(ListedHost { address: address.canonical()?, topology });
        }
    }
    Ok(Some(found))
}

/// The hosts of `cluster` in a listing of the other shape, `None` if it is not in it.
fn of_clusters(clusters: &HashMap<String, &RawValue>, cluster: &str) -> Result<Option<HostListing>, String> {
    let Some(listed) = clusters.get(cluster) else { return Ok(None) };
    let name = format!("clusters.{}", shown(cluster, LONGEST_SHOWN));
    let mut hosts: Vec<NamedHost> = part::<Vec<Listed>>(listed, &name)?.into_iter().map(|Listed(host)| host).collect();
    for host in &mut hosts {
        host.address = canonical(&host.address)?;
    }
    // Each once, or its weight would count twice.
    hosts.sort_by(|one, two| (&one.address, one.priority).cmp(&(&two.address, two.priority)));
    hosts.dedup_by(|one, two| one.address == two.address);
    Ok(Some(HostListing::of_named(&hosts)))
}

/// Reads the part of a listing that has been passed over.
fn part<'a, T: Deserialize<'a>>(part: &'a RawValue, name: &str) -> Result<T, String> {
    // The error's position is one within the part.
    serde_json::from_slice(part.get().as_bytes())
        .map_err(|error| format!("{name}: {}", shown(&json::cause(&error), LONGEST_ERROR)))
}

fn canonical(text: &str) -> Result<String, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("not an address: `{}`", shown(text, LONGEST_SHOWN)))?;
    Ok(address.to_string())
}

/// `text` on one line, cut to `longest` characters, which do not fill the log.
fn shown(text: &str, longest: usize) -> String {
    let mut chars = text.chars();
    let start = chars.by_ref().take(longest);
    let mut shown: String = start.map(|c| if c.is_control() { '?' } else { c }).collect();
    if chars.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// When the leader of a group asks for the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Discovery {
    /// When it last asked.
    asked: Option<Timestamp>,
    /// The request under way.
    token: Option<u32>,
}

impl Discovery {
    /// Whether to ask at `now`, which then counts as asked whether that can be done or not: at once, then every
    /// `interval`, and not while a listing is under way, which it is for at most twice [`TIMEOUT`].
    pub fn due(&mut self, interval: Duration, now: Timestamp) -> bool {
        let wait = if self.token.is_some() { interval.max(TIMEOUT.saturating_mul(2)) } else { interval };
        // A request from the future is from before the clock was put back.
        if self.asked.is_some_and(|asked| asked <= now && now.since(asked) < wait) {
            return false;
        }
        self.token = None;
        // Ticks come a little early or late: what counts is when it was due, as long as that is not long ago.
        let planned = self.asked.map(|asked| asked.plus(interval));
        self.asked = planned.filter(|planned| *planned <= now && now.since(*planned) < interval).or(Some(now));
        true
    }

    /// The request was sent; its answer will name it by `token`.
    pub fn sent(&mut self, token: u32) {
        self.token = Some(token);
    }

    /// Whether the answer of this name is the listing that was asked for. To be read with [`hosts`] if so.
    pub fn reported(&mut self, token: u32) -> bool {
        self.token.take_if(|asked| *asked == token).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlier::topology::Locality;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// The addresses in a listing.
    fn hosts(body: &[u8], cluster: &str) -> Result<Vec<String>, String> {
        super::hosts(body, cluster, &|_| false)
            .map(|listing| listing.hosts.into_iter().map(|host| host.address).collect())
    }

    /// One host of Envoy's listing with what comes beside its address.
    fn status(address: &str) -> String {
        format!(
            r#"{{"address": {address}, "stats": [{{"name": "cx_connect_fail"}}, {{"type": "GAUGE", "value": "3", "name": "rq_active"}}],
            "health_status": {{"eds_health_status": "HEALTHY", "failed_outlier_check": true}}, "weight": 1, "hostname": "",
            "locality": {{}}, "success_rate": {{"value": 99.5}}}}"#
        )
    }

    fn socket(address: &str, port: u32) -> String {
        status(&format!(r#"{{"socket_address": {{"protocol": "TCP", "address": "{address}", "port_value": {port}}}}}"#))
    }

    /// Envoy's listing of one cluster among others.
    fn envoy(hosts: &[String]) -> String {
        format!(
            r#"{{"cluster_statuses": [
            {{"name": "admin", "added_via_api": false, "host_statuses": [{other}], "observability_name": "admin"}},
            {{"name": "orders", "added_via_api": true, "host_statuses": [{hosts}], "circuit_breakers": {{"thresholds": [{{}}]}}}},
            {{"host_statuses": [{other}], "name": "late"}}, {{}}, {{"name": "odd", "host_statuses": 7}}]}}"#,
            other = socket("192.168.0.1", 1),
            hosts = hosts.join(",")
        )
    }

    #[test]
    fn texts_may_be_escaped() {
        let body = br#"{"cluster_statuses": [{"name": "or\u0064ers", "host_statuses": [
            {"address": {"socket_address": {"address": "10.0.0\u002e1", "port_value": 80}}}]}]}"#;
        assert_eq!(hosts(body, "orders").unwrap(), ["10.0.0.1:80"]);
        assert_eq!(
            hosts(br#"{"clusters": {"or\u0064ers": ["10.0.0\u002e1:80"]}}"#, "orders").unwrap(),
            ["10.0.0.1:80"]
        );
    }

    #[test]
    fn envoys_listing_is_read_whomever_envoy_has_ejected() {
        let body = envoy(&[socket("10.0.0.2", 8080), socket("10.0.0.1", 8080), socket("2001:db8::1", 8080)]);
        let expected = ["10.0.0.1:8080", "10.0.0.2:8080", "[2001:db8::1]:8080"];
        assert_eq!(hosts(body.as_bytes(), "orders").unwrap(), expected);
        assert_eq!(hosts(body.as_bytes(), "late").unwrap(), ["192.168.0.1:1"], "the name may come last");
    }

    #[test]
    fn hosts_that_envoy_would_not_use_are_left_out() {
        let host = |port: u16, health: &str| {
            format!(
                r#"{{"address":{{"socket_address":{{"address":"10.0.0.1","port_value":{port}}}}},"health_status":{{{health}}}}}"#
            )
        };
        let hosts_of = [
            host(1, r#""eds_health_status":"HEALTHY""#),
            host(2, r#""failed_active_health_check":true,"eds_health_status":"HEALTHY""#),
            host(3, r#""eds_health_status":"DRAINING""#),
            host(4, r#""failed_active_health_check":false,"eds_health_status":"UNKNOWN""#),
            host(5, ""),
        ];
        let listing =
            format!(r#"{{"cluster_statuses":[{{"name":"orders","host_statuses":[{}]}}]}}"#, hosts_of.join(","));
        let listed = hosts(listing.as_bytes(), "orders");
        assert_eq!(listed.as_deref(), Ok(&["10.0.0.1:1", "10.0.0.1:4", "10.0.0.1:5"].map(str::to_owned)[..]));
    }

    #[test]
    fn envoys_listing_says_where_hosts_stand() {
        let host = |port: u16, more: &str| {
            format!(r#"{{"address":{{"socket_address":{{"address":"10.0.0.1","port_value":{port}}}}}{more}}}"#)
        };
        let eds = |status: &str| format!(r#","priority":2,"health_status":{{"eds_health_status":"{status}"}}"#);
        let listed = [
            host(1, ""),
            host(2, r#","weight":7,"priority":1,"locality":{"region":"r","zone":"a"}"#),
            host(3, &eds("DEGRADED")),
            host(4, r#","health_status":{"failed_active_degraded_check":true}"#),
            host(5, &eds("UNHEALTHY")),
            host(6, &eds("DRAINING")),
            host(7, r#","health_status":{"failed_active_health_check":true,"eds_health_status":"HEALTHY"}"#),
            host(9, r#","health_status":{"failed_active_health_check":true,"pending_active_hc":true}"#),
            // Each host once: where Envoy uses it first.
            host(2, r#","priority":3"#),
            host(8, r#","weight":0"#),
        ];
        let listing = format!(r#"{{"cluster_statuses":[{{"name":"orders","host_statuses":[{}]}}]}}"#, listed.join(","));
        let listing = super::hosts(listing.as_bytes(), "orders", &|_| false).unwrap();
        let of = |priority, locality, weight, is_degraded| Topology { priority, locality, weight, is_degraded };
        let expected = [
            (1, of(0, 0, 1, false)),
            (2, of(1, 1, 7, false)),
            (3, of(2, 2, 1, true)),
            (4, of(0, 0, 1, true)),
            (8, of(0, 0, 1, false)),
        ];
        let expected = expected.map(|(port, topology)| ListedHost { address: format!("10.0.0.1:{port}"), topology });
        assert_eq!(listing.hosts, expected);
        let of = |priority, unusable| Locality { priority, weight: 0, unusable };
        assert_eq!(
            listing.localities,
            [of(0, 1), of(1, 0), of(2, 1), of(3, 0)],
            "Envoy does not count those that drain"
        );
        let other = super::hosts(br#"{"clusters": {"orders": ["10.0.0.1:1"]}}"#, "orders", &|_| false).unwrap();
        assert_eq!((other.hosts[0].topology, other.localities.len()), (of_all(0, 0, 1), 1));
    }

    /// A host that is well.
    fn of_all(priority: u8, locality: u16, weight: u32) -> Topology {
        Topology { priority, locality, weight, is_degraded: false }
    }

    /// As Envoy 1.40 writes it, for two localities of the first priority and one of the second.
    fn dump(kind: &str, cluster: &str) -> String {
        let endpoint = |port: u16, more: &str| {
            format!(
                r#"{{"endpoint": {{"address": {{"socket_address": {{"address": "10.0.0.1", "port_value": {port}}}}}, "health_check_config": {{}}}},
                {more}}}"#
            )
        };
        let locality = |place: &str, endpoints: &[String]| {
            format!(r#"{{"locality": {{}}, "lb_endpoints": [{}], {place}}}"#, endpoints.join(","))
        };
        let well = r#""health_status": "HEALTHY", "load_balancing_weight": 1"#;
        let localities = [
            locality(
                r#""load_balancing_weight": 3"#,
                &[
                    endpoint(
                        1,
                        r#""health_status": "HEALTHY", "load_balancing_weight": 5, "metadata": {"filter_metadata": {}}"#,
                    ),
                    endpoint(2, r#""health_status": "UNHEALTHY", "load_balancing_weight": 1"#),
                ],
            ),
            locality(r#""load_balancing_weight": 1"#, &[endpoint(3, well)]),
            locality(
                r#""load_balancing_weight": 0, "priority": 1"#,
                &[endpoint(4, r#""health_status": "DEGRADED", "load_balancing_weight": 1"#)],
            ),
            r#"{"locality": {}}"#.to_owned(),
        ];
        format!(
            r#"{{"@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump.{kind}EndpointConfig", "endpoint_config": {{
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": "{cluster}",
            "endpoints": [{}], "policy": {{"overprovisioning_factor": 140}}}}}}"#,
            localities.join(",")
        )
    }

    #[test]
    fn envoys_dump_says_what_localities_weigh() {
        let listed = |port: u16, topology| ListedHost { address: format!("10.0.0.1:{port}"), topology };
        let degraded = Topology { is_degraded: true, ..of_all(1, 2, 1) };
        let of = |priority, weight, unusable| Locality { priority, weight, unusable };
        let expected = HostListing {
            hosts: vec![listed(1, of_all(0, 0, 5)), listed(3, of_all(0, 1, 1)), listed(4, degraded)],
            localities: vec![of(0, 3, 1), of(0, 1, 0), of(1, 0, 0), of(0, 0, 0)],
            requests: Vec::new(),
        };
        let (one, other) = (dump("Static", "orders"), dump("Dynamic", "users"));
        for body in [
            format!(r#"{{"configs": [{other}, {one}, {one}]}}"#),
            // A dump of everything.
            format!(
                r#"{{"configs": [{{"@type": "b", "bootstrap": {{"static_resources": {{}}}}}}, {{"@type": "e",
                "static_endpoint_configs": [{other}, {{}}], "dynamic_endpoint_configs": [{one}]}}]}}"#
            ),
        ] {
            assert_eq!(super::hosts(body.as_bytes(), "orders", &|_| false), Ok(expected.clone()));
            assert_eq!(
                super::hosts(body.as_bytes(), "carts", &|_| false),
                Err("cluster `carts` is not in it".to_owned())
            );
        }
        let wrong =
            br#"{"configs": [{"endpoint_config": {"cluster_name": "orders", "endpoints": [{"lb_endpoints": 1}]}}]}"#;
        let error = "endpoints: invalid type: integer `1`, expected a sequence".to_owned();
        assert_eq!(super::hosts(wrong, "orders", &|_| false), Err(error));
        let none = br#"{"configs": [{"endpoint_config": {"cluster_name": "orders"}}]}"#;
        assert_eq!(super::hosts(none, "orders", &|_| false), Ok(HostListing::default()));
    }

    #[test]
    fn how_many_requests_a_host_has_had_is_read_where_it_matters() {
        let host = |port: u16, stats: &str| {
            format!(
                r#"{{"address":{{"socket_address":{{"address":"10.0.0.1","port_value":{port}}}}},"stats":{stats}}}"#
            )
        };
        let total = |value: &str| format!(r#"[{{"name":"cx_total","value":"9"}},{{{value}"name":"rq_total"}}]"#);
        let listed = [
            host(1, &total(r#""value":"18446744073709551615","#)),
            host(2, &total("")),
            host(3, "[]"),
            host(4, &total(r#""value":"x","#)),
            host(5, "7"),
        ];
        let body = format!(r#"{{"cluster_statuses":[{{"name":"orders","host_statuses":[{}]}}]}}"#, listed.join(","));
        let read =
            |counts: &dyn Fn(&str) -> bool| super::hosts(body.as_bytes(), "orders", counts).map(|read| read.requests);
        assert_eq!(read(&|_| false), Ok(Vec::new()), "others are passed over");
        let expected = [(1, u64::MAX), (2, 0), (3, 0), (4, 0)].map(|(port, count)| (format!("10.0.0.1:{port}"), count));
        assert_eq!(read(&|address| !address.ends_with(":5")), Ok(expected.to_vec()));
        let error = "stats: invalid type: integer `7`, expected a sequence".to_owned();
        assert_eq!(read(&|_| true), Err(error));
    }

    #[test]
    fn any_source_may_say_where_hosts_stand() {
        let body = br#"{"clusters": {"orders": ["10.0.0.1:1", {"address": "10.0.0.1:2", "weight": 3, "locality": "b"},
            {"address": "10.0.0.1:3", "priority": 2, "comment": "more"}, {"weight": 4, "address": "10.0.0.1:02", "locality": "b"}]}}"#;
        let body = std::str::from_utf8(body).unwrap().replace(":02", ":2");
        let listing = super::hosts(body.as_bytes(), "orders", &|_| false).unwrap();
        let stands: Vec<Topology> = listing.hosts.iter().map(|host| host.topology).collect();
        assert_eq!(stands, [of_all(0, 0, 1), of_all(0, 1, 3), of_all(2, 2, 1)]);
        let weights: Vec<u32> = listing.localities.iter().map(|locality| locality.weight).collect();
        assert_eq!(weights, [1, 3, 0], "each host once");
        let wrong = br#"{"clusters": {"orders": [{"weight": 0, "address": "10.0.0.1:1"}]}}"#;
        let error = super::hosts(wrong, "orders", &|_| false).unwrap_err();
        assert!(error.starts_with("clusters.orders: invalid value: integer `0`, expected a nonzero u32"), "{error}");
    }

    #[test]
    fn hosts_without_an_address_and_a_port_are_left_out() {
        let pipe = status(r#"{"pipe": {"path": "/run/orders.sock"}}"#);
        let internal = status(r#"{"envoy_internal_address": {"server_listener_name": "inner"}}"#);
        let body = envoy(&[pipe.clone(), socket("10.0.0.1", 80), internal]);
        assert_eq!(hosts(body.as_bytes(), "orders").unwrap(), ["10.0.0.1:80"]);
        assert_eq!(hosts(envoy(&[pipe]).as_bytes(), "orders").unwrap(), [""; 0]);
    }

    #[test]
    fn the_documented_shape_is_read() {
        let body =
            br#"{"comment": [1], "clusters": {"users": ["-"], "orders": ["[::1]:8080", "10.0.0.1:8080"], "name": 3}}"#;
        assert_eq!(hosts(body, "orders").unwrap(), ["10.0.0.1:8080", "[::1]:8080"]);
        assert_eq!(
            hosts(br#"{"name": "mine", "clusters": {"name": ["10.0.0.1:1"]}}"#, "name").unwrap(),
            ["10.0.0.1:1"]
        );
    }

    #[test]
    fn a_cluster_without_hosts_has_none_and_that_is_no_error() {
        assert_eq!(hosts(envoy(&[]).as_bytes(), "orders").unwrap(), [""; 0]);
        assert_eq!(hosts(br#"{"cluster_statuses": [{"name": "orders"}]}"#, "orders").unwrap(), [""; 0]);
        assert_eq!(hosts(br#"{"clusters": {"orders": []}}"#, "orders").unwrap(), [""; 0]);
    }

    #[test]
    fn a_host_is_listed_once_and_in_one_spelling() {
        let body =
            br#"{"clusters": {"orders": ["[2001:DB8:0::1]:80", "[2001:db8::1]:80", "10.0.0.1:080", "10.0.0.1:80"]}}"#;
        assert_eq!(hosts(body, "orders").unwrap(), ["10.0.0.1:80", "[2001:db8::1]:80"]);
    }

    #[test]
    fn an_error_says_in_one_line_what_is_wrong() {
        let wrong = |body: &str| hosts(body.as_bytes(), "orders").expect_err("must be refused");
        assert_eq!(wrong("upstream connect error"), "not JSON: expected value at line 1 column 1");
        assert_eq!(wrong(""), "not JSON: EOF while parsing a value at line 1 column 0");
        assert_eq!(wrong(r#"{"clusters": {}} {}"#), "not JSON: trailing characters at line 1 column 18");
        assert_eq!(wrong("{}"), "none of `cluster_statuses`, `configs` and `clusters` is in it");
        let form = "an object with `cluster_statuses`, `configs` or `clusters`";
        assert_eq!(wrong("null"), format!("not a listing: invalid type: null, expected {form} at line 1 column 4"));
        assert_eq!(wrong("[]"), format!("not a listing: invalid length 0, expected {form} at line 1 column 2"));
        let no_map = "not a listing: invalid type: sequence, expected a map at line 1 column 13";
        assert_eq!(wrong(r#"{"clusters": []}"#), no_map);
        let no_list = "not a listing: invalid type: map, expected a sequence at line 1 column 21";
        assert_eq!(wrong(r#"{"cluster_statuses": {}}"#), no_list);
        assert_eq!(wrong(r#"{"clusters": {"users": []}}"#), "cluster `orders` is not in it");
        assert_eq!(wrong(r#"{"cluster_statuses": []}"#), "cluster `orders` is not in it");
        assert_eq!(
            wrong(r#"{"clusters": {"orders": "10.0.0.1:80"}}"#),
            "clusters.orders: invalid type: string \"10.0.0.1:80\", expected a sequence"
        );
        assert_eq!(
            wrong(r#"{"cluster_statuses": [{"name": "orders", "host_statuses": 1}]}"#),
            "host_statuses: invalid type: integer `1`, expected a sequence"
        );
        assert_eq!(
            wrong(r#"{"clusters": {"orders": [1]}}"#),
            "clusters.orders: invalid type: integer `1`, expected an address or an object"
        );
        assert_eq!(wrong(r#"{"clusters": {"orders": ["a\nb"]}}"#), "not an address: `a?b`");
        for host in ["orders.internal:80", "10.0.0.1", "::1:80", "10.0.0.1:65536", " 10.0.0.1:80", "/run/orders.sock"] {
            let listing = format!(r#"{{"clusters": {{"orders": ["{host}"]}}}}"#);
            assert_eq!(wrong(&listing), format!("not an address: `{host}`"));
        }
        let long = wrong(&format!(r#"{{"clusters": {{"orders": ["{}"]}}}}"#, "x".repeat(1000)));
        assert_eq!(long, format!("not an address: `{}...`", "x".repeat(64)));
        assert_eq!(wrong(&envoy(&[socket("orders", 80)])), "not an address: `orders:80`");
        let too_high = "host_statuses: invalid value: integer `65536`, expected u16";
        assert_eq!(wrong(&envoy(&[socket("10.0.0.1", 65536)])), too_high);
        let nameless = status(r#"{"socket_address": {"address": "10.0.0.1", "named_port": "http"}}"#);
        assert_eq!(wrong(&envoy(&[nameless])), "host_statuses: missing field `port_value`");
        let hostile = format!(r#"{{"clusters": {{"orders": "\n{}"}}}}"#, "x".repeat(1000));
        assert!(!wrong(&hostile).contains('\n') && wrong(&hostile).len() < 200, "one line that does not fill the log");
    }

    #[test]
    fn a_listing_with_too_many_hosts_is_refused_and_not_cut() {
        let listed = |count: usize| {
            // Each host twice.
            let all: Vec<_> = (0..2 * count).map(|n| format!(r#""10.0.{}.{}:80""#, n / 2 / 250, n / 2 % 250)).collect();
            hosts(format!(r#"{{"clusters": {{"orders": [{}]}}}}"#, all.join(",")).as_bytes(), "orders")
        };
        assert_eq!(listed(MOST_HOSTS).unwrap().len(), MOST_HOSTS);
        assert_eq!(listed(MOST_HOSTS + 1).unwrap_err(), "1001 hosts, at most 1000");
    }

    #[test]
    fn deep_listings_do_not_exhaust_the_stack() {
        for body in ["[".repeat(100_000), r#"{"clusters":"#.repeat(100_000), r#"{"stats":"#.repeat(100_000)] {
            assert!(hosts(body.as_bytes(), "orders").is_err());
        }
    }

    fn t(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    #[test]
    fn a_listing_is_asked_for_at_once_and_then_every_interval() {
        let (mut discovery, interval) = (Discovery::default(), Duration::from_secs(5));
        assert!(discovery.due(interval, t(0)));
        discovery.sent(1);
        assert!(discovery.reported(1));
        assert!(!discovery.reported(1), "once");
        assert!(!discovery.due(interval, t(4999)));
        assert!(discovery.due(interval, t(5300)), "the tick is late");
        assert!(!discovery.due(interval, t(9999)), "it could not be sent: the next try is in its turn");
        assert!(discovery.due(interval, t(10_000)), "which the late tick did not put off");
        assert!(discovery.due(interval, t(60_000)));
        assert!(!discovery.due(interval, t(64_999)), "intervals that were missed are not made up for");
    }

    #[test]
    fn a_listing_that_never_comes_is_given_up() {
        let (mut discovery, interval) = (Discovery::default(), Duration::from_secs(1));
        assert!(discovery.due(interval, t(0)));
        discovery.sent(1);
        assert!(!discovery.due(interval, t(9999)), "it is under way");
        assert!(discovery.due(interval, t(10_000)));
        discovery.sent(2);
        assert!(!discovery.reported(1), "the old one comes yet");
        assert!(discovery.reported(2));
    }

    #[test]
    fn a_clock_that_is_put_back_does_not_stop_it() {
        let (mut discovery, interval) = (Discovery::default(), Duration::from_secs(5));
        assert!(discovery.due(interval, t(3_600_000)));
        assert!(discovery.due(interval, t(0)));
        assert!(!discovery.due(interval, t(4999)));
    }
}
