//! What a policy does about bad hosts: what takes one out, for how long, how many at most, and how one comes back.

use std::time::Duration;

use holdfast_policy::config::duration;
use holdfast_policy::document::{
    Balance, Detector, HashBy, Heartbeat, HeartbeatCheck, Latency, Mode, NamedHost, Outlier,
};

use super::{PERIODS_SHOWN, count, own_mark, statuses};

/// How many of the listed hosts are named.
const HOSTS_SHOWN: usize = 3;

/// The lines about `outlier`.
pub fn lines(outlier: &Outlier) -> Vec<String> {
    let mut lines =
        vec!["judges the hosts of each cluster by their attempts, over all workers, and takes one out".to_owned()];
    for detector in Detector::ALL {
        let Some(text) = reason(outlier, detector) else { continue };
        lines.push(format!("- {text}{}", own_mark(outlier.mode_of(detector), outlier.mode)));
    }
    if !outlier.is_active() {
        return lines;
    }
    lines.push(ejections(outlier));
    lines.push(limits(outlier));
    if outlier.max_ejected.is_zero() && !outlier.always_eject_one {
        return lines;
    }
    if !outlier.panic_threshold.is_zero() {
        let threshold = outlier.panic_threshold;
        lines.push(format!("with less than {threshold} of them left, requests go to all hosts as if none were out"));
    }
    // In shadow as well what would happen is said.
    let returns = |mode| mode == Mode::Enforce || (mode == Mode::Shadow && outlier.mode == Mode::Shadow);
    let mut back = match outlier.heartbeat.as_ref().filter(|heartbeat| returns(heartbeat.mode)) {
        Some(heartbeat) => by_heartbeat(heartbeat),
        None => by_probe(outlier.probe_requests.get()),
    };
    if !outlier.slow_start.is_zero() {
        let time = duration::text(outlier.slow_start);
        back.push_str(&format!("; then its share of the requests rises to the whole in {time}"));
    }
    lines.push(back);
    lines.extend(known(outlier));
    lines.extend(balance(&outlier.balance));
    lines
}

/// When a detector takes a host out; `None` where it is not given.
fn reason(outlier: &Outlier, detector: Detector) -> Option<String> {
    let interval = duration::text(outlier.interval);
    let needs = |hosts: u16, requests, of| match hosts {
        1 => format!("needs {requests} {of}"),
        _ => format!("needs {hosts} hosts with {requests} {of} each"),
    };
    let row = |limit| if limit == 1 { "" } else { " in a row" };
    Some(match detector {
        Detector::ConsecutiveFailures => {
            let limit = outlier.consecutive_failures?.limit.get();
            format!("at {}{}", count(limit.into(), "failure", "failures"), row(limit))
        }
        Detector::ConsecutiveGatewayFailures => {
            let limit = outlier.consecutive_gateway_failures?.limit.get();
            let failures = count(limit.into(), "gateway failure", "gateway failures");
            let which = "status 502-504, gRPC status DEADLINE_EXCEEDED, UNAVAILABLE, no answer";
            format!("at {failures}{} ({which})", row(limit))
        }
        Detector::ConsecutiveLocalFailures => {
            let limit = outlier.consecutive_local_failures?.limit.get();
            let failures = count(limit.into(), "attempt", "attempts");
            format!("at {failures}{} without an answer (connect failure, reset, time-out)", row(limit))
        }
        Detector::FailureRate => {
            let rate = outlier.failure_rate?;
            let needs = needs(rate.min_hosts.get(), rate.min_requests, "attempts");
            format!("if {} or more of its attempts in {interval} failed; {needs}", rate.threshold)
        }
        Detector::SuccessRate => {
            let rate = outlier.success_rate?;
            let factor = f64::from(rate.stdev_factor) / 1000.0;
            let needs = needs(rate.min_hosts.get(), rate.min_requests, "attempts");
            format!(
                "if its share of successes in {interval} is below the mean of all hosts by more than {factor} times \
                 the standard deviation; {needs}"
            )
        }
        Detector::Latency => {
            let Latency { deviation, min_requests, min_hosts, floor, grace, .. } = outlier.latency?;
            let floor = if floor.is_zero() { String::new() } else { format!(", and above {}", duration::text(floor)) };
            let needs = needs(min_hosts.get(), min_requests, "answers");
            let spared = match grace {
                Duration::ZERO => String::new(),
                grace => format!("; one that has come or is back is spared for {}", duration::text(grace)),
            };
            format!(
                "if its mean time to an answer in {interval} is above that of the others by {deviation}% or more{floor}, and by more \
                 than chance explains; {needs}{spared}"
            )
        }
        Detector::Heartbeat => {
            let heartbeat = outlier.heartbeat.as_ref()?;
            let Heartbeat { check, interval, timeout, unhealthy_after, .. } = heartbeat;
            let (interval, timeout) = (duration::text(*interval), duration::text(*timeout));
            let bad = count(unhealthy_after.get().into(), "bad heartbeat", "bad heartbeats");
            let (row, beside) = (row(unhealthy_after.get()), beside_check(heartbeat));
            let (asked, good) = match check {
                HeartbeatCheck::Http { path, status } => (format!("for {path}"), statuses(status)),
                HeartbeatCheck::Grpc { service } if service.is_empty() => {
                    ("for its health by gRPC".to_owned(), "SERVING".to_owned())
                }
                HeartbeatCheck::Grpc { service } => {
                    (format!("for the health of {service} by gRPC"), "SERVING".to_owned())
                }
            };
            format!(
                "at {bad}{row}: each host is asked {asked}{beside} every {interval}, good is {good} within {timeout}"
            )
        }
    })
}

/// What a heartbeat says besides. Values of headers may be secrets.
fn beside_check(heartbeat: &Heartbeat) -> String {
    let host = heartbeat.host.as_ref().map(|host| format!(" as {host}")).unwrap_or_default();
    let names: Vec<&str> = heartbeat.headers.iter().map(|(name, _)| name.as_str()).collect();
    let headers = if names.is_empty() { String::new() } else { format!(" with {}", names.join(", ")) };
    host + &headers
}

/// How long a host is out, with the growth worked out.
fn ejections(outlier: &Outlier) -> String {
    let (base, max) = (outlier.base_ejection_time, outlier.max_ejection_time);
    let mut times: Vec<Duration> = Vec::new();
    let mut more = false;
    for ejections in 1_u32.. {
        let time = base.saturating_mul(ejections).min(max);
        if times.last() == Some(&time) {
            break;
        }
        if times.len() == PERIODS_SHOWN {
            more = true;
            break;
        }
        times.push(time);
    }
    let mut texts: Vec<String> = times.into_iter().map(duration::text).collect();
    texts.extend(more.then(|| format!("... up to {}", duration::text(max))));
    let jitter = match outlier.ejection_jitter {
        none if none.is_zero() => String::new(),
        jitter => format!(", plus up to {jitter} at random"),
    };
    match texts.split_first() {
        Some((first, later)) if !later.is_empty() => {
            let interval = duration::text(outlier.interval);
            format!(
                "it is out for {first}, then {} if that happens again{jitter}; each {interval} in which it serves \
                 successes takes one step back",
                later.join(", ")
            )
        }
        _ => format!("it is out for {} each time{jitter}", texts.concat()),
    }
}

/// How many hosts may be out.
fn limits(outlier: &Outlier) -> String {
    let share = outlier.max_ejected;
    match (share.is_zero(), outlier.always_eject_one) {
        (true, true) => "at most one host of a cluster is out".to_owned(),
        (true, false) => "no host is ever out: max_ejected is 0".to_owned(),
        (false, true) => format!("at most {share} of a cluster's hosts are out, or one where that is less than one"),
        (false, false) => format!("at most {share} of a cluster's hosts are out"),
    }
}

fn by_heartbeat(heartbeat: &Heartbeat) -> String {
    let good = count(heartbeat.healthy_after.get().into(), "good heartbeat", "good heartbeats in a row");
    format!("it is back after its time and {good}, without the time if the heartbeat took it out")
}

fn by_probe(requests: u16) -> String {
    match requests {
        1 => "after its time it gets one request as a probe; if that fails it is out again, for longer".to_owned(),
        _ => format!("after its time it gets {requests} requests as probes; if one fails it is out again, for longer"),
    }
}

/// Which of the hosts that are in a request goes to; nothing where that is the cluster's choice.
fn balance(balance: &Balance) -> Option<String> {
    let chosen = match balance {
        Balance::Envoy => return None,
        Balance::RoundRobin => "the next of the hosts that are in".to_owned(),
        Balance::Random => "any of the hosts that are in".to_owned(),
        Balance::Weighted => "the next of the hosts that are in, each by its weight".to_owned(),
        Balance::LeastRequest => "that of two hosts which has fewer requests of its worker in flight".to_owned(),
        Balance::LeastLatency => "that of two hosts which is quicker and has fewer requests in flight".to_owned(),
        Balance::Hash(by) => {
            let by: Vec<String> = by.iter().map(hashed).collect();
            format!("the host that {} belongs to, to the next one while that is out", by.join(", else "))
        }
    };
    Some(format!("a request goes to {chosen}"))
}

/// What of a request is hashed.
fn hashed(by: &HashBy) -> String {
    match by {
        HashBy::Header(name) => format!("its header {name}"),
        HashBy::Cookie(name) => format!("its cookie {name}"),
        HashBy::SourceIp => "its client's address".to_owned(),
        HashBy::Path => "its path".to_owned(),
    }
}

/// A host with what is said of it.
fn named(host: &NamedHost) -> String {
    let mut said = Vec::new();
    if host.weight.get() != 1 {
        said.push(format!("weight {}", host.weight));
    }
    if host.priority != 0 {
        said.push(format!("priority {}", host.priority));
    }
    if let Some(locality) = &host.locality {
        said.push(format!("in {locality}"));
    }
    if said.is_empty() { host.address.clone() } else { format!("{} ({})", host.address, said.join(", ")) }
}

/// Where the hosts are known from.
fn known(outlier: &Outlier) -> Vec<String> {
    let mut lines = Vec::new();
    let hosts = &outlier.hosts;
    if !hosts.is_empty() {
        let mut names: Vec<String> = hosts.iter().take(HOSTS_SHOWN).map(named).collect();
        if hosts.len() > HOSTS_SHOWN {
            names.push("...".to_owned());
        }
        let known = count(hosts.len(), "host is", "hosts are");
        lines.push(format!("{known} known from the beginning: {}", names.join(", ")));
    }
    let others = if hosts.is_empty() { "hosts" } else { "others" };
    lines.push(match &outlier.discover {
        Some(discover) => {
            let interval = duration::text(discover.interval);
            format!("{others} are read from {} of cluster {} every {interval}", discover.path, discover.cluster)
        }
        None => format!("{others} are learned from the traffic"),
    });
    lines
}
