//! Which hosts a cluster has, read from an endpoint that lists them.
//!
//! Two shapes are read. The admin interface of Envoy, at `/clusters?format=json`:
//!
//! ```json
//! {"cluster_statuses": [{"name": "orders", "host_statuses": [
//!     {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 8080}}}]}]}
//! ```
//!
//! and, for every other source:
//!
//! ```json
//! {"clusters": {"orders": ["10.0.0.1:8080", "[2001:db8::1]:8080"]}}
//! ```
//!
//! A listing may be long: the admin interface lists all clusters, each host with all its counters. So what is not asked for is
//! skipped while it is parsed, and never kept.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BinaryHeap;

use crate::config::json::{Reader, SyntaxError, Value};
use crate::time::Timestamp;

/// The most hosts of a cluster.
pub const MOST_HOSTS: usize = 1000;

/// The time-out of a request for a listing.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest text that an error repeats, in characters.
const LONGEST_SHOWN: usize = 64;

/// The hosts of `cluster` as the listing `body` has them: sorted as text, each once, written as `10.0.0.1:8080` or
/// `[2001:db8::1]:8080`, at most [`MOST_HOSTS`]; none if the cluster is listed without any. All that are listed,
/// but those that Envoy's health checks or its management server call unhealthy or draining. Hosts that are not an address and a port, such as Unix sockets in Envoy's listing, are left out.
///
/// The error says in one line why there is nothing to go by: no JSON, neither of the shapes, the cluster not in it, something
/// that is not an address where one is due, or too many hosts.
pub fn hosts(body: &[u8], cluster: &str) -> Result<Vec<String>, String> {
    let mut reader = Reader::new(body);
    let listing = Listing { cluster, depth: TOP };
    let kept = listing.read(&mut reader).and_then(|kept| reader.end().map(|()| kept));
    let kept = kept.map_err(|error| format!("not JSON: {error}"))?;
    let mut found = Found::default();
    if let Some(Kept::List(statuses)) = kept.get("cluster_statuses") {
        let is_it = |status: &&Kept| matches!(status.get("name"), Some(Kept::Text(name)) if name == cluster);
        for status in statuses.iter().filter(is_it) {
            found.listed = true;
            match status.get("host_statuses") {
                Some(Kept::List(hosts)) => hosts.iter().try_for_each(|host| found.add_status(host))?,
                None | Some(Kept::Null) => {}
                Some(_) => return Err("host_statuses: not a list".to_owned()),
            }
        }
    } else if let Some(clusters @ Kept::Map(_)) = kept.get("clusters") {
        match clusters.get(cluster) {
            Some(Kept::List(hosts)) => {
                found.listed = true;
                hosts.iter().try_for_each(|host| found.add_text(host))?;
            }
            Some(_) => return Err(format!("clusters.{}: not a list", shown(cluster))),
            None => {}
        }
    } else {
        return Err("neither `cluster_statuses` nor `clusters` is in it".to_owned());
    }
    if !found.listed {
        return Err(format!("cluster `{}` is not in it", shown(cluster)));
    }
    found.finish()
}

/// `text` on one line, cut to a length that does not fill the log.
fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let start = chars.by_ref().take(LONGEST_SHOWN);
    let mut shown: String = start.map(|c| if c.is_control() { '?' } else { c }).collect();
    if chars.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// The addresses up to now.
#[derive(Default)]
struct Found {
    /// Whether the cluster is in the listing.
    listed: bool,
    /// In canonical form.
    addresses: Vec<String>,
}

impl Found {
    /// Adds one of Envoy's `host_statuses`, unless it is of another kind.
    fn add_status(&mut self, status: &Kept) -> Result<(), String> {
        let Some(socket) = status.get("address").and_then(|address| address.get("socket_address")) else {
            return Ok(());
        };
        if !status.get("health_status").is_none_or(is_fit) {
            return Ok(());
        }
        match (socket.get("address"), socket.get("port_value")) {
            (Some(Kept::Text(address)), Some(Kept::Number(port))) if address.contains(':') => {
                self.add(&format!("[{address}]:{port}"))
            }
            (Some(Kept::Text(address)), Some(Kept::Number(port))) => self.add(&format!("{address}:{port}")),
            _ => Err("not an address: a socket_address without address or port_value".to_owned()),
        }
    }

    /// Adds an address as text.
    fn add_text(&mut self, host: &Kept) -> Result<(), String> {
        match host {
            Kept::Text(text) => self.add(text),
            _ => Err("not an address: a host that is no string".to_owned()),
        }
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let address: SocketAddr = text.parse().map_err(|_| format!("not an address: `{}`", shown(text)))?;
        self.addresses.push(address.to_string());
        Ok(())
    }

    fn finish(self) -> Result<Vec<String>, String> {
        // As `&str`, which the module sorts elsewhere too, and by a heap, which is a tenth of a sort's code.
        let hosts: BinaryHeap<&str> = self.addresses.iter().map(String::as_str).collect();
        let mut hosts = hosts.into_sorted_vec();
        hosts.dedup();
        let count = hosts.len();
        if count > MOST_HOSTS {
            return Err(format!("{count} hosts, at most {MOST_HOSTS}"));
        }
        Ok(hosts.into_iter().map(str::to_owned).collect())
    }
}

/// Whether Envoy itself would send requests to a host of this `health_status`: named hosts get them whatever its checks or its
/// management server say. What it ejects itself is not looked at.
fn is_fit(health: &Kept) -> bool {
    let fails = matches!(health.get("failed_active_health_check"), Some(Kept::True));
    let is_out = matches!(health.get("eds_health_status"), Some(Kept::Text(status))
        if matches!(status.as_str(), "UNHEALTHY" | "DRAINING" | "TIMEOUT"));
    !fails && !is_out
}

/// What is kept of a listing.
enum Kept {
    True,
    Null,
    Number(u64),
    Text(String),
    List(Vec<Kept>),
    /// With the keys that are of interest only, in the order written.
    Map(Vec<(String, Kept)>),
    Other,
}

impl Kept {
    /// The first value of this key of a map.
    fn get(&self, key: &str) -> Option<&Kept> {
        let Kept::Map(entries) = self else { return None };
        entries.iter().find_map(|(name, value)| (name == key).then_some(value))
    }
}

/// The document itself.
const TOP: u8 = 0;
/// The value of `clusters` or, as a list, of `cluster_statuses`.
const CLUSTERS: u8 = 1;
/// One of `cluster_statuses`.
const CLUSTER: u8 = 2;
/// One of `host_statuses`.
const HOST: u8 = 4;
/// Its `address`, and its `health_status`.
const ADDRESS: u8 = 5;
/// The `socket_address` of that.
const SOCKET: u8 = 6;

/// Reads one value that many levels deep in a listing.
#[derive(Clone, Copy)]
struct Listing<'a> {
    cluster: &'a str,
    depth: u8,
}

impl Listing<'_> {
    /// Whether the value of this key is to be read.
    fn wants(self, key: &str) -> bool {
        match self.depth {
            TOP => matches!(key, "cluster_statuses" | "clusters"),
            CLUSTERS => key == self.cluster,
            CLUSTER => matches!(key, "name" | "host_statuses"),
            HOST => matches!(key, "address" | "health_status"),
            ADDRESS => matches!(key, "socket_address" | "failed_active_health_check" | "eds_health_status"),
            SOCKET => matches!(key, "address" | "port_value"),
            _ => false,
        }
    }

    /// The level below.
    fn below(self) -> Self {
        Listing { depth: self.depth.saturating_add(1), ..self }
    }

    fn read(self, reader: &mut Reader<'_>) -> Result<Kept, SyntaxError> {
        Ok(match reader.value()? {
            Value::Null => Kept::Null,
            Value::Bool(true) => Kept::True,
            Value::Bool(false) => Kept::Other,
            Value::Number(number) => number.as_u64().map_or(Kept::Other, Kept::Number),
            Value::String(text) => Kept::Text(text),
            Value::Array => {
                let (mut items, mut first) = (Vec::new(), true);
                while reader.item(first)? {
                    first = false;
                    let item = self.below().read(reader)?;
                    // The other clusters of Envoy's listing.
                    if self.depth != CLUSTERS || matches!(item, Kept::Map(_)) {
                        items.push(item);
                    }
                }
                Kept::List(items)
            }
            Value::Object => {
                let (mut entries, mut first) = (Vec::new(), true);
                let mut is_another = false;
                while let Some(key) = reader.key(first)? {
                    first = false;
                    if is_another || !self.wants(&key) {
                        reader.skip()?;
                        continue;
                    }
                    let value = self.below().read(reader)?;
                    // Envoy writes the name first, so the hosts of other clusters are skipped.
                    is_another = self.depth == CLUSTER && matches!(&value, Kept::Text(name) if name != self.cluster);
                    entries.push((key, value));
                }
                if is_another { Kept::Other } else { Kept::Map(entries) }
            }
        })
    }
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
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

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
            {{"host_statuses": [{other}], "name": "late"}}, {{}}, 7]}}"#,
            other = socket("192.168.0.1", 1),
            hosts = hosts.join(",")
        )
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
        let neither = "neither `cluster_statuses` nor `clusters` is in it";
        for body in ["[]", "null", "{}", r#"{"clusters": []}"#, r#"{"cluster_statuses": {}}"#] {
            assert_eq!(wrong(body), neither, "{body}");
        }
        assert_eq!(wrong(r#"{"clusters": {"users": []}}"#), "cluster `orders` is not in it");
        assert_eq!(wrong(r#"{"cluster_statuses": []}"#), "cluster `orders` is not in it");
        assert_eq!(wrong(r#"{"clusters": {"orders": "10.0.0.1:80"}}"#), "clusters.orders: not a list");
        assert_eq!(
            wrong(r#"{"cluster_statuses": [{"name": "orders", "host_statuses": 1}]}"#),
            "host_statuses: not a list"
        );
        assert_eq!(wrong(r#"{"clusters": {"orders": [1]}}"#), "not an address: a host that is no string");
        assert_eq!(wrong(r#"{"clusters": {"orders": ["a\nb"]}}"#), "not an address: `a?b`");
        for host in ["orders.internal:80", "10.0.0.1", "::1:80", "10.0.0.1:65536", " 10.0.0.1:80", "/run/orders.sock"] {
            let listing = format!(r#"{{"clusters": {{"orders": ["{host}"]}}}}"#);
            assert_eq!(wrong(&listing), format!("not an address: `{host}`"));
        }
        let long = wrong(&format!(r#"{{"clusters": {{"orders": ["{}"]}}}}"#, "x".repeat(1000)));
        assert_eq!(long, format!("not an address: `{}...`", "x".repeat(64)));
        assert_eq!(wrong(&envoy(&[socket("orders", 80)])), "not an address: `orders:80`");
        assert_eq!(wrong(&envoy(&[socket("10.0.0.1", 65536)])), "not an address: `10.0.0.1:65536`");
        let nameless = status(r#"{"socket_address": {"address": "10.0.0.1", "named_port": "http"}}"#);
        assert_eq!(wrong(&envoy(&[nameless])), "not an address: a socket_address without address or port_value");
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
