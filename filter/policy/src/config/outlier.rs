//! `outlier`: what takes a host out, for how long, how many may be out, and where the hosts are known from.

use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU16;
use core::ops::RangeInclusive;
use core::time::Duration;

use super::error::{Report, Reported, gather};
use super::json::Node;
use super::reader::{Item, Keys, quoted};
use super::{defaults, duration, outcome};
use crate::document::{Consecutive, Discover, FailureRate, Heartbeat, Latency, Mode, Outlier, SuccessRate};

const KEYS: Keys = Keys::new(&[
    "consecutive_failures",
    "consecutive_gateway_failures",
    "consecutive_local_failures",
    "failure_rate",
    "success_rate",
    "latency",
    "heartbeat",
    "interval",
    "base_ejection_time",
    "max_ejection_time",
    "ejection_jitter",
    "max_ejected",
    "always_eject_one",
    "panic_threshold",
    "probe",
    "slow_start",
    "hosts",
    "discover",
    "balance",
    "mode",
]);
const CONSECUTIVE_KEYS: Keys = Keys::new(&["threshold", "mode"]);
const FAILURE_RATE_KEYS: Keys = Keys::new(&["threshold", "min_requests", "min_hosts", "mode"]);
const SUCCESS_RATE_KEYS: Keys = Keys::new(&["stdev_factor", "min_requests", "min_hosts", "mode"]);
const LATENCY_KEYS: Keys = Keys::new(&["deviation", "min_requests", "min_hosts", "floor", "mode"]);
const HEARTBEAT_KEYS: Keys =
    Keys::new(&["path", "interval", "timeout", "unhealthy_after", "healthy_after", "status", "mode"]);
const PROBE_KEYS: Keys = Keys::new(&["requests"]);
const DISCOVER_KEYS: Keys = Keys::new(&["cluster", "path", "interval"]);

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const EJECTION: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(24 * 3600);
const SLOW_START: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const FLOOR: RangeInclusive<Duration> = Duration::ZERO..=MINUTE;
const TIMEOUT: RangeInclusive<Duration> = MILLISECOND..=MINUTE;

const RUN: RangeInclusive<u32> = 0..=1000;
const DEVIATION: RangeInclusive<u32> = 1..=100_000;
const MAX_MIN_REQUESTS: u32 = 1_000_000;
const MAX_MIN_HOSTS: u16 = 1000;
/// The most heartbeats or probes in a row.
const MAX_ROW: u16 = 100;

/// The most hosts in a list: no more are kept of a cluster.
const MAX_HOSTS: usize = 1000;
const HOST: &str = "an address and a port such as \"10.0.0.1:8080\" or \"[2001:db8::1]:8080\"";

const BALANCES_NOT_YET: &[&str] = &["round_robin", "random", "weighted", "least_request", "least_latency", "hash"];

pub(super) fn read(item: &Item<'_>, policy_mode: Mode, report: &mut Report) -> Result<Outlier, Reported> {
    let fields = item.object(KEYS, report)?;
    // First, because the detectors take it over. Where it is wrong nothing comes of them.
    let mode = fields.mode(policy_mode, report);
    let given = mode.unwrap_or_default();
    let base = defaults::outlier(given);

    let mut run = |key, default| fields.or(key, default, report, |item, report| consecutive(item, given, report));
    let consecutive_failures = run("consecutive_failures", base.consecutive_failures);
    let consecutive_gateway_failures = run("consecutive_gateway_failures", base.consecutive_gateway_failures);
    let consecutive_local_failures = run("consecutive_local_failures", base.consecutive_local_failures);
    let failure_rate = fields.optional("failure_rate", report, |item, report| failure_rate(item, given, report));
    let success_rate = fields.optional("success_rate", report, |item, report| success_rate(item, given, report));
    let latency = fields.optional("latency", report, |item, report| latency(item, given, report));
    let heartbeat = fields.optional("heartbeat", report, |item, report| heartbeat(item, given, report));

    let interval = fields.duration("interval", base.interval, &INTERVAL, report);
    let first = fields.duration("base_ejection_time", base.base_ejection_time, &EJECTION, report);
    let longest = fields.optional("max_ejection_time", report, |item, report| {
        let longest = duration::read(item, &EJECTION, report)?;
        match first {
            Ok(first) if longest < first => {
                Err(item.refused(&format!("at least base_ejection_time ({})", duration::text(first)), report))
            }
            _ => Ok(longest),
        }
    });
    let mut percent = |key, default| fields.percent(key, default, 0, report);
    let ejection_jitter = percent("ejection_jitter", base.ejection_jitter);
    let max_ejected = percent("max_ejected", base.max_ejected);
    let panic_threshold = percent("panic_threshold", base.panic_threshold);
    let always_eject_one = fields.boolean("always_eject_one", base.always_eject_one, report);

    let probe_requests = fields.or("probe", base.probe_requests, report, |item, report| {
        let fields = item.object(PROBE_KEYS, report)?;
        fields.small_count("requests", base.probe_requests, MAX_ROW, report)
    });
    let slow_start = fields.duration("slow_start", base.slow_start, &SLOW_START, report);
    let hosts = fields.or("hosts", Vec::new(), report, hosts);
    let discover = fields.optional("discover", report, discover);
    let balance = fields.or("balance", (), report, balance);

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
        max_ejection_time: longest?.unwrap_or(base.max_ejection_time.max(base_ejection_time)),
        ejection_jitter: ejection_jitter?,
        max_ejected: max_ejected?,
        always_eject_one: always_eject_one?,
        panic_threshold: panic_threshold?,
        probe_requests: probe_requests?,
        slow_start: slow_start?,
        hosts: hosts?,
        discover: discover?,
    };
    balance?;
    if outlier.mode != Mode::Off && !outlier.is_active() {
        let problem = "judges no host: every detector is off; give one of consecutive_failures, \
                       consecutive_gateway_failures, consecutive_local_failures, failure_rate, success_rate, latency and \
                       heartbeat, or set mode to off";
        return Err(report.add(&item.path, problem));
    }
    Ok(outlier)
}

/// A number, or an object that may say a mode. 0 is off.
fn consecutive(item: &Item<'_>, mode: Mode, report: &mut Report) -> Result<Option<Consecutive>, Reported> {
    let (threshold, mode) = match item.node {
        Node::Number(_) => (item.whole(RUN, report)?, mode),
        Node::Object(_) => {
            let fields = item.object(CONSECUTIVE_KEYS, report)?;
            let default = u32::from(defaults::CONSECUTIVE.get());
            let threshold = fields.whole("threshold", default, RUN, report);
            let mode = fields.mode(mode, report);
            (threshold?, mode?)
        }
        _ => {
            let expected = "a whole number within 0..=1000 (0 is off), or an object with the keys threshold, mode";
            return Err(item.mismatch(expected, report));
        }
    };
    Ok(NonZeroU16::new(threshold as u16).map(|limit| Consecutive { limit, mode }))
}

fn failure_rate(item: &Item<'_>, mode: Mode, report: &mut Report) -> Result<FailureRate, Reported> {
    let fields = item.object(FAILURE_RATE_KEYS, report)?;
    let base = defaults::failure_rate(mode);
    let threshold = fields.or("threshold", base.threshold, report, |item, report| {
        let threshold = item.percent(0, report)?;
        if threshold.is_zero() {
            return Err(item.refused("above 0, or every host is out (mode \"off\" switches the detector off)", report));
        }
        Ok(threshold)
    });
    let min_requests = fields.count("min_requests", base.min_requests, MAX_MIN_REQUESTS, report);
    let min_hosts = fields.small_count("min_hosts", base.min_hosts, MAX_MIN_HOSTS, report);
    let mode = fields.mode(mode, report);
    Ok(FailureRate { threshold: threshold?, min_requests: min_requests?, min_hosts: min_hosts?, mode: mode? })
}

fn success_rate(item: &Item<'_>, mode: Mode, report: &mut Report) -> Result<SuccessRate, Reported> {
    let fields = item.object(SUCCESS_RATE_KEYS, report)?;
    let base = defaults::success_rate(mode);
    let stdev_factor = fields.factor("stdev_factor", base.stdev_factor, 0..=10, report);
    let min_requests = fields.count("min_requests", base.min_requests, MAX_MIN_REQUESTS, report);
    let min_hosts = fields.small_count("min_hosts", base.min_hosts, MAX_MIN_HOSTS, report);
    let mode = fields.mode(mode, report);
    Ok(SuccessRate { stdev_factor: stdev_factor?, min_requests: min_requests?, min_hosts: min_hosts?, mode: mode? })
}

fn latency(item: &Item<'_>, mode: Mode, report: &mut Report) -> Result<Latency, Reported> {
    let fields = item.object(LATENCY_KEYS, report)?;
    let base = defaults::latency(mode);
    let deviation = fields.whole("deviation", base.deviation, DEVIATION, report);
    let min_requests = fields.count("min_requests", base.min_requests, MAX_MIN_REQUESTS, report);
    let min_hosts = fields.or("min_hosts", base.min_hosts, report, |item, report| {
        // A host without peers has nothing to be compared with.
        let hosts = item.whole(2..=MAX_MIN_HOSTS.into(), report)?;
        NonZeroU16::new(hosts as u16).ok_or_else(|| item.refused("at least 2", report))
    });
    let floor = fields.duration("floor", base.floor, &FLOOR, report);
    let mode = fields.mode(mode, report);
    Ok(Latency {
        deviation: deviation?,
        min_requests: min_requests?,
        min_hosts: min_hosts?,
        floor: floor?,
        mode: mode?,
    })
}

fn heartbeat(item: &Item<'_>, mode: Mode, report: &mut Report) -> Result<Heartbeat, Reported> {
    let fields = item.object(HEARTBEAT_KEYS, report)?;
    let base = defaults::heartbeat(mode);
    let path = fields.or("path", base.path, report, path);
    let interval = fields.duration("interval", base.interval, &INTERVAL, report);
    let timeout = fields.duration("timeout", base.timeout, &TIMEOUT, report);
    let mut row = |key, default| fields.small_count(key, default, MAX_ROW, report);
    let unhealthy_after = row("unhealthy_after", base.unhealthy_after);
    let healthy_after = row("healthy_after", base.healthy_after);
    let status = fields.or("status", base.status, report, |item, report| {
        let status = outcome::statuses(item, report)?;
        if status.ranges().is_empty() {
            return Err(report.add(&item.path, "must name at least one status, or no heartbeat is ever good"));
        }
        Ok(status)
    });
    let mode = fields.mode(mode, report);
    Ok(Heartbeat {
        path: path?,
        interval: interval?,
        timeout: timeout?,
        unhealthy_after: unhealthy_after?,
        healthy_after: healthy_after?,
        status: status?,
        mode: mode?,
    })
}

fn discover(item: &Item<'_>, report: &mut Report) -> Result<Discover, Reported> {
    const CLUSTER: &str = "the name of the cluster to ask";
    const LISTING: &str = "a path such as \"/clusters?format=json\"";
    let fields = item.object(DISCOVER_KEYS, report)?;
    let cluster = fields.required("cluster", CLUSTER, report, |item, report| match item.string(CLUSTER, report)? {
        "" => Err(item.refused(CLUSTER, report)),
        cluster => Ok(cluster.to_owned()),
    });
    let path = fields.required("path", LISTING, report, path);
    let interval = fields.duration("interval", defaults::DISCOVER_INTERVAL, &INTERVAL, report);
    Ok(Discover { cluster: cluster?, path: path?, interval: interval? })
}

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

fn hosts(item: &Item<'_>, report: &mut Report) -> Result<Vec<String>, Reported> {
    let items = item.list("a list of hosts such as [\"10.0.0.1:8080\", \"[2001:db8::1]:8080\"]", report)?;
    if items.len() > MAX_HOSTS {
        return Err(report.add(&item.path, format!("must have at most {MAX_HOSTS} hosts, has {}", items.len())));
    }
    // In order, with their paths.
    let mut seen: Vec<(String, &str)> = Vec::new();
    gather(items.iter().map(|item| {
        // As Envoy writes addresses, which is how tries name their hosts; each address has one such text.
        let address = host(item, report)?.to_string();
        match seen.binary_search_by(|(other, _)| other.cmp(&address)) {
            Ok(at) => {
                let first = seen.get(at).map_or("", |(_, path)| path);
                Err(report.add(&item.path, format!("is the same host as {first}")))
            }
            Err(at) => {
                seen.insert(at, (address.clone(), &item.path));
                Ok(address)
            }
        }
    }))
}

fn host(item: &Item<'_>, report: &mut Report) -> Result<SocketAddr, Reported> {
    let text = item.string(HOST, report)?;
    match text.parse() {
        Ok(address) if SocketAddr::port(&address) == 0 => {
            Err(item.refused("a host with a port within 1..=65535", report))
        }
        // Its number means an interface of one machine.
        Ok(SocketAddr::V6(address)) if address.scope_id() != 0 => {
            Err(item.refused("an address without a zone", report))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(report.add(&item.path, format!("must be {HOST}, was {}{}", quoted(text), why_no_host(text)))),
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

/// How hosts are chosen while none is out: by the cluster's own policy.
fn balance(item: &Item<'_>, report: &mut Report) -> Result<(), Reported> {
    if let Node::String(text) = item.node
        && BALANCES_NOT_YET.contains(&text.as_str())
    {
        return Err(report.add(&item.path, format!("\"{text}\" is not supported yet; accepted here: envoy")));
    }
    item.word(&[("envoy", ())], report)
}
