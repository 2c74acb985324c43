//! `outlier`: what takes a host out, for how long, how many may be out, and where the hosts are known from.

use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU16;

use super::error::{Report, Reported, gather};
use super::json::Node;
use super::reader::{Fields, Item, key_path, quoted, whole_number};
use super::table::{
    CONSECUTIVE, DISCOVER, FAILURE_RATE, HEARTBEAT, HEARTBEAT_GRPC, HOST, LATENCY, Numeric, OUTLIER, PROBE,
    SUCCESS_RATE, key, keys,
};
use super::{balance, duration, header, outcome};
use crate::authority;
use crate::document::{
    Balance, Consecutive, Discover, FailureRate, Heartbeat, HeartbeatCheck, Latency, Mode, NamedHost, Outlier,
    SuccessRate,
};

const ADDRESS: &str = "an address and a port such as \"10.0.0.1:8080\" or \"[2001:db8::1]:8080\"";

pub(super) fn read(item: &Item<'_>, policy_mode: Mode, report: &mut Report) -> Result<Outlier, Reported> {
    let fields = item.object(keys!(OUTLIER), report)?;
    // First, because the detectors take it over. Where it is wrong nothing comes of them.
    let mode = fields.mode(key!(OUTLIER.mode("mode")), policy_mode, report);
    let given = mode.unwrap_or_default();

    let mut run = |key: &Numeric<u32>| match fields.get(key.name) {
        Some(item) => consecutive(&item, key, given, report),
        None => Ok(detector(key.default, given)),
    };
    let consecutive_failures = run(key!(OUTLIER.whole("consecutive_failures")));
    let consecutive_gateway_failures = run(key!(OUTLIER.whole("consecutive_gateway_failures")));
    let consecutive_local_failures = run(key!(OUTLIER.whole("consecutive_local_failures")));
    let failure_rate =
        fields.optional(key!(OUTLIER.object("failure_rate")), report, |item, report| failure_rate(item, given, report));
    let success_rate =
        fields.optional(key!(OUTLIER.object("success_rate")), report, |item, report| success_rate(item, given, report));
    let latency = fields.optional(key!(OUTLIER.object("latency")), report, |item, report| latency(item, given, report));
    let heartbeat =
        fields.optional(key!(OUTLIER.object("heartbeat")), report, |item, report| heartbeat(item, given, report));

    let interval = fields.duration(key!(OUTLIER.duration("interval")), report);
    let first = fields.duration(key!(OUTLIER.duration("base_ejection_time")), report);
    let longest_key = key!(OUTLIER.duration("max_ejection_time"));
    let longest = fields.optional(longest_key.name, report, |item, report| {
        let longest = duration::read(item, &longest_key.range, report)?;
        match first {
            Ok(first) if longest < first => {
                Err(item.refused(&format!("at least base_ejection_time ({})", duration::text(first)), report))
            }
            _ => Ok(longest),
        }
    });
    let ejection_jitter = fields.percent(key!(OUTLIER.percent("ejection_jitter")), report);
    let max_ejected = fields.percent(key!(OUTLIER.percent("max_ejected")), report);
    let panic_threshold = fields.percent(key!(OUTLIER.percent("panic_threshold")), report);
    let always_eject_one = fields.boolean(key!(OUTLIER.boolean("always_eject_one")), report);

    let probe_requests = probe(&fields.block(key!(OUTLIER.object("probe"))), report);
    let slow_start = fields.duration(key!(OUTLIER.duration("slow_start")), report);
    let hosts = fields.or(key!(OUTLIER.strings("hosts")).name, Vec::new(), report, hosts);
    let discover = fields.optional(key!(OUTLIER.object("discover")), report, discover);
    let balance = balance::read(&fields, report);

    let base_ejection_time = first?;
    let outlier = Outlier {
        mode: mode?,
        consecutive_failures: consecutive_failures?,
        consecutive_gateway_failures: consecutive_gateway_failures?,
        consecutive_local_failures: consecutive_local_failures?,
        failure_rate: failure_rate?,
        success_rate: success_rate?,
        latency: latency?,
        heartbeat: heartbeat?,
        interval: interval?,
        base_ejection_time,
        // A first ejection longer than the default maximum is meant.
        max_ejection_time: longest?.unwrap_or(longest_key.default.max(base_ejection_time)),
        ejection_jitter: ejection_jitter?,
        max_ejected: max_ejected?,
        always_eject_one: always_eject_one?,
        panic_threshold: panic_threshold?,
        probe_requests: probe_requests?,
        slow_start: slow_start?,
        hosts: hosts?,
        discover: discover?,
        balance: balance?,
    };
    if outlier.balance != Balance::Envoy && outlier.hosts.is_empty() && outlier.discover.is_none() {
        let path = key_path(&item.path, key!(OUTLIER.name("balance")));
        return Err(balance::refuse_without_hosts(&path, &outlier.balance, report));
    }
    if outlier.mode != Mode::Off && !outlier.is_active() {
        let problem = "judges no host: every detector is off; give one of consecutive_failures, \
                       consecutive_gateway_failures, consecutive_local_failures, failure_rate, success_rate, latency and \
                       heartbeat, or set mode to off";
        return Err(report.add(&item.path, problem));
    }
    Ok(outlier)
}

/// A number, or an object that may say a mode.
fn consecutive(
    item: &Item<'_>,
    key: &Numeric<u32>,
    mode: Mode,
    report: &mut Report,
) -> Result<Option<Consecutive>, Reported> {
    match item.node {
        Node::Number(_) => Ok(detector(item.whole(&key.range, report)?, mode)),
        Node::Object(_) => {
            let fields = item.object(keys!(CONSECUTIVE), report)?;
            let threshold = fields.whole(key!(CONSECUTIVE.whole("threshold")), report);
            let mode = fields.mode(key!(CONSECUTIVE.mode("mode")), mode, report);
            Ok(detector(threshold?, mode?))
        }
        _ => {
            let (number, keys) = (whole_number(&key.range), keys!(CONSECUTIVE).accepted.join(", "));
            Err(item.mismatch(&format!("{number} (0 is off), or an object with the keys {keys}"), report))
        }
    }
}

/// Ejects at so many in a row. 0 is off.
pub(super) fn detector(limit: u32, mode: Mode) -> Option<Consecutive> {
    NonZeroU16::new(limit as u16).map(|limit| Consecutive { limit, mode })
}

fn failure_rate(item: &Item<'_>, mode: Mode, report: &mut Report) -> Result<FailureRate, Reported> {
    let fields = item.object(keys!(FAILURE_RATE), report)?;
    let key = key!(FAILURE_RATE.percent("threshold"));
    let threshold = fields.or(key.name, key.default, report, |item, report| {
        let threshold = item.percent(key.range, report)?;
        if threshold.is_zero() {
            return Err(item.refused("above 0, or every host is out (mode \"off\" switches the detector off)", report));
        }
        Ok(threshold)
    });
    let min_requests = fields.count(key!(FAILURE_RATE.count("min_requests")), report);
    let min_hosts = fields.small_count(key!(FAILURE_RATE.small_count("min_hosts")), report);
    let mode = fields.mode(key!(FAILURE_RATE.mode("mode")), mode, report);
    Ok(FailureRate { threshold: threshold?, min_requests: min_requests?, min_hosts: min_hosts?, mode: mode? })
}

fn success_rate(item: &Item<'_>, mode: Mode, report: &mut Report) -> Result<SuccessRate, Reported> {
    let fields = item.object(keys!(SUCCESS_RATE), report)?;
    let stdev_factor = fields.number(key!(SUCCESS_RATE.number("stdev_factor")), report);
    let min_requests = fields.count(key!(SUCCESS_RATE.count("min_requests")), report);
    let min_hosts = fields.small_count(key!(SUCCESS_RATE.small_count("min_hosts")), report);
    let mode = fields.mode(key!(SUCCESS_RATE.mode("mode")), mode, report);
    Ok(SuccessRate { stdev_factor: stdev_factor?, min_requests: min_requests?, min_hosts: min_hosts?, mode: mode? })
}

fn latency(item: &Item<'_>, mode: Mode, report: &mut Report) -> Result<Latency, Reported> {
    let fields = item.object(keys!(LATENCY), report)?;
    let deviation = fields.whole(key!(LATENCY.whole("deviation")), report);
    let min_requests = fields.count(key!(LATENCY.count("min_requests")), report);
    let min_hosts = fields.small_count(key!(LATENCY.small_count("min_hosts")), report);
    let floor = fields.duration(key!(LATENCY.duration("floor")), report);
    let grace = fields.duration(key!(LATENCY.duration("grace")), report);
    let mode = fields.mode(key!(LATENCY.mode("mode")), mode, report);
    Ok(Latency {
        deviation: deviation?,
        min_requests: min_requests?,
        min_hosts: min_hosts?,
        floor: floor?,
        grace: grace?,
        mode: mode?,
    })
}

fn heartbeat(item: &Item<'_>, mode: Mode, report: &mut Report) -> Result<Heartbeat, Reported> {
    let fields = item.object(keys!(HEARTBEAT), report)?;
    let grpc = fields.get(key!(HEARTBEAT.object("grpc")));
    let check = match &grpc {
        Some(item) => grpc_check(item, &fields, report),
        None => http_check(&fields, report),
    };
    let host = fields.optional(key!(HEARTBEAT.name("host")), report, |item, report| authority(item, report));
    let headers = fields.or(key!(HEARTBEAT.name("headers")), Vec::new(), report, headers);
    let interval = fields.duration(key!(HEARTBEAT.duration("interval")), report);
    let timeout = fields.duration(key!(HEARTBEAT.duration("timeout")), report);
    let unhealthy_after = fields.small_count(key!(HEARTBEAT.small_count("unhealthy_after")), report);
    let healthy_after = fields.small_count(key!(HEARTBEAT.small_count("healthy_after")), report);
    let mode = fields.mode(key!(HEARTBEAT.mode("mode")), mode, report);
    Ok(Heartbeat {
        check: check?,
        host: host?,
        headers: headers?,
        interval: interval?,
        timeout: timeout?,
        unhealthy_after: unhealthy_after?,
        healthy_after: healthy_after?,
        mode: mode?,
    })
}

fn http_check(fields: &Fields<'_>, report: &mut Report) -> Result<HeartbeatCheck, Reported> {
    let key = key!(HEARTBEAT.string("path"));
    let path = match fields.get(key.name) {
        Some(item) => path(&item, report),
        None => Ok(key.default.to_owned()),
    };
    let status = fields.statuses(key!(HEARTBEAT.statuses("status")), report, |item, report| {
        let status = outcome::statuses(item, report)?;
        if status.ranges().is_empty() {
            return Err(report.add(&item.path, "must name at least one status, or no heartbeat is ever good"));
        }
        Ok(status)
    });
    Ok(HeartbeatCheck::Http { path: path?, status: status? })
}

fn grpc_check(item: &Item<'_>, fields: &Fields<'_>, report: &mut Report) -> Result<HeartbeatCheck, Reported> {
    let key = key!(HEARTBEAT_GRPC.text("service"));
    let service = item.object(keys!(HEARTBEAT_GRPC), report).and_then(|fields| match fields.get(key.name) {
        Some(item) => header::text(&item, key.range, report),
        None => Ok(key.default.to_owned()),
    });
    let mut refuse = |name: &str, why: &str| match fields.get(name) {
        Some(item) => Err(report.add(&item.path, why)),
        None => Ok(()),
    };
    let path = refuse(key!(HEARTBEAT.string("path")).name, NO_PATH_BESIDE_GRPC);
    let status = refuse(key!(HEARTBEAT.statuses("status")).name, NO_STATUS_BESIDE_GRPC);
    path.and(status)?;
    Ok(HeartbeatCheck::Grpc { service: service? })
}

/// The authority of a request of our own.
fn authority(item: &Item<'_>, report: &mut Report) -> Result<String, Reported> {
    let expected = format!(
        "a host such as \"orders.example.com\" or \"orders:8080\", of at most {} characters",
        authority::MAX_LEN
    );
    let text = item.string(&expected, report)?;
    if authority::is_valid(text) { Ok(text.to_owned()) } else { Err(item.refused(&expected, report)) }
}

/// What a request of our own carries besides.
fn headers(item: &Item<'_>, report: &mut Report) -> Result<Vec<(String, String)>, Reported> {
    let entry = key!(HEARTBEAT.text_headers("headers"));
    let (names, most, longest) = entry.range;
    let fields = item.dictionary("an object of header names and texts such as {\"x-a\": \"b\"}", report)?;
    header::pairs(&fields, names, most, report, |_, item, report| header::text(item, longest, report))
}

fn probe(item: &Item<'_>, report: &mut Report) -> Result<NonZeroU16, Reported> {
    item.object(keys!(PROBE), report)?.small_count(key!(PROBE.small_count("requests")), report)
}

fn discover(item: &Item<'_>, report: &mut Report) -> Result<Discover, Reported> {
    const CLUSTER: &str = "the name of the cluster to ask";
    const LISTING: &str = "a path such as \"/clusters?format=json\"";
    let fields = item.object(keys!(DISCOVER), report)?;
    let cluster = fields.required(key!(DISCOVER.required("cluster")), CLUSTER, report, |item, report| {
        match item.string(CLUSTER, report)? {
            "" => Err(item.refused(CLUSTER, report)),
            cluster => Ok(cluster.to_owned()),
        }
    });
    let path = fields.required(key!(DISCOVER.required("path")), LISTING, report, path);
    let interval = fields.duration(key!(DISCOVER.duration("interval")), report);
    Ok(Discover { cluster: cluster?, path: path?, interval: interval? })
}

pub(super) const NO_PATH_BESIDE_GRPC: &str =
    "must not be there beside grpc, which asks for /grpc.health.v1.Health/Check";
pub(super) const NO_STATUS_BESIDE_GRPC: &str = "must not be there beside grpc, of which SERVING is the good answer";

/// What a request of our own asks for, with its query.
fn path(item: &Item<'_>, report: &mut Report) -> Result<String, Reported> {
    const EXPECTED: &str = "a path that begins with \"/\", of visible ASCII characters";
    let text = item.string(EXPECTED, report)?;
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(item.refused(EXPECTED, report))
    }
}

/// The hosts in a list of addresses and objects.
fn hosts(item: &Item<'_>, report: &mut Report) -> Result<Vec<NamedHost>, Reported> {
    let items = item.list("a list of hosts such as [\"10.0.0.1:8080\", \"[2001:db8::1]:8080\"]", report)?;
    let most = *key!(OUTLIER.most("hosts"));
    if items.len() > most {
        return Err(report.add(&item.path, format!("must have at most {most} hosts, has {}", items.len())));
    }
    // In order, with their paths.
    let mut seen: Vec<(String, &str)> = Vec::new();
    gather(items.iter().map(|item| {
        let host = named_host(item, report)?;
        match seen.binary_search_by(|(other, _)| other.cmp(&host.address)) {
            Ok(at) => {
                let first = seen.get(at).map_or("", |(_, path)| path);
                Err(report.add(&item.path, format!("is the same host as {first}")))
            }
            Err(at) => {
                seen.insert(at, (host.address.clone(), &item.path));
                Ok(host)
            }
        }
    }))
}

/// An address, or an object that says more.
fn named_host(item: &Item<'_>, report: &mut Report) -> Result<NamedHost, Reported> {
    const LOCALITY: &str = "the name of a locality";
    let Node::Object(_) = item.node else { return Ok(NamedHost::at(host(item, report)?)) };
    let fields = item.object(keys!(HOST), report)?;
    let address = fields.required(key!(HOST.required("address")), ADDRESS, report, host);
    let weight = fields.count(key!(HOST.count("weight")), report);
    let priority = fields.whole(key!(HOST.whole("priority")), report);
    let locality =
        fields.optional(key!(HOST.name("locality")), report, |item, report| match item.string(LOCALITY, report)? {
            "" => Err(item.refused(LOCALITY, report)),
            name => Ok(name.to_owned()),
        });
    Ok(NamedHost { address: address?, weight: weight?, priority: priority? as u8, locality: locality? })
}

/// An address and a port, as Envoy writes addresses, which is how tries name their hosts; each address has one such text.
fn host(item: &Item<'_>, report: &mut Report) -> Result<String, Reported> {
    let text = item.string(ADDRESS, report)?;
    match text.parse() {
        Ok(address) if SocketAddr::port(&address) == 0 => {
            Err(item.refused("a host with a port within 1..=65535", report))
        }
        // Its number means an interface of one machine.
        Ok(SocketAddr::V6(address)) if address.scope_id() != 0 => {
            Err(item.refused("an address without a zone", report))
        }
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(report.add(&item.path, format!("must be {ADDRESS}, was {}{}", quoted(text), why_no_host(text)))),
    }
}

/// What is missing where something else is written that stands for a host.
fn why_no_host(text: &str) -> &'static str {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) if bare.len() == text.len() => return "; an IPv6 address stands in brackets before its port",
        Ok(_) => return "; the port is missing",
        Err(_) => {}
    }
    let name = text.split_once(':').map_or(text, |(name, _)| name);
    let named = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if named && name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        "; a name is not enough: hosts are told apart by their addresses"
    } else {
        ""
    }
}
