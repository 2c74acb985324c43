//! What happens to hosts in metrics, and in words for the log.

use core::time::Duration;

use super::cause::EjectionCause;
use super::grpc_health::GrpcHealth;
use super::host_events::{HostCount, HostEvent, HostEventKind};
use super::table::{MOST_HOSTS, slow_start};
use super::trial;
use crate::base::text::{seconds, share};
use crate::event::Event;
use crate::metric::Metric;
use holdfast_policy::document::{Detector, Outlier};
use holdfast_policy::percent::{Percent, decimal};

/// The line of the log:
/// `host 10.0.0.1:8080 ejected for 31s: 5 consecutive failures, last 503; 1 of 5 hosts out`.
pub fn line(rules: &Outlier, event: &HostEvent) -> Event {
    let HostEvent { out, of, .. } = event;
    let left = u64::from(of.saturating_sub(*out));
    let is_panic = *out > 0 && (left == 0 || !rules.panic_threshold.reached(left, u64::from(*of)));
    let ignored = if is_panic { ": too few are left, so requests go to all of them" } else { "" };
    let host = String::from_utf8_lossy(&event.host);
    let (alarming, shadow, text) = match event.kind {
        HostEventKind::Ejected(found, lasts) => {
            let lasts = if found.detector() == Detector::Heartbeat {
                "until its heartbeat is back".to_owned()
            } else {
                format!("for {}", seconds(lasts))
            };
            (
                true,
                false,
                format!("host {host} ejected {lasts}: {}; {out} of {of} hosts out{ignored}", cause(rules, &found)),
            )
        }
        HostEventKind::WouldEject(found) => {
            (false, true, format!("host {host} would be ejected: {}", cause(rules, &found)))
        }
        HostEventKind::Overflow(found) => {
            let limit = rules.max_ejected;
            let out = format!("{out} of {of} hosts are out, at most {limit}");
            (true, false, format!("host {host} not ejected: {}; {out}", cause(rules, &found)))
        }
        HostEventKind::ProbeFailed { end, lasts, ejections } => {
            let out = format!("ejected {ejections} times; {out} of {of} hosts out{ignored}");
            (true, false, format!("host {host} failed its probe ({end}): out for {} more, {out}", seconds(lasts)))
        }
        HostEventKind::StillSlow { mean, lasts } => {
            let (mean, lasts, part) = (millis(mean), seconds(lasts), tenths(f64::from(trial::TRICKLE) / 10.0));
            let text = format!(
                "host {host} is still slow, {mean} in the mean of its probes: out for {lasts} more but for {part}% of its"
            );
            (true, false, format!("{text} share; {out} of {of} hosts out{ignored}"))
        }
        HostEventKind::Readmitted { after, by_trial } => {
            let why = match by_trial {
                true => "it is not slow any more",
                false if rules.probes_by_heartbeat() => "its heartbeat succeeded",
                false => "its probe succeeded",
            };
            let starts = match slow_start(rules, by_trial) {
                Duration::ZERO => String::new(),
                slow_start => format!(", full share in {}", seconds(slow_start)),
            };
            (
                false,
                false,
                format!(
                    "host {host} is back after {}: {why}{starts}; {out} of {of} hosts out{ignored}",
                    seconds(after)
                ),
            )
        }
        HostEventKind::TakenOver(left) => {
            let who = match out.saturating_sub(1) {
                0 => format!("host {host} is"),
                more => format!("host {host} and {more} more are"),
            };
            let next = match left {
                _ if rules.probes_by_heartbeat() => String::new(),
                Duration::ZERO => "; the next request may be a probe".to_owned(),
                left => format!("; next probe in {}", seconds(left)),
            };
            let text = format!("{who} out, taken over by the changed policy{next}; {out} of {of} hosts out{ignored}");
            (false, false, text)
        }
        HostEventKind::Unfollowed => {
            let text = "requests do not go to the hosts that are named to them, so hosts that are out go on getting requests: give \
                        the cluster the load balancing policy `override_host` with the header `x-holdfast-hosts`, and let no \
                        `stateful_session` or aggregate cluster choose before it; one of type `ORIGINAL_DST` or `LOGICAL_DNS` cannot be \
                        steered: leave it out of match.cluster, or set outlier.mode to off";
            (true, false, text.to_owned())
        }
        HostEventKind::Unaddressed => {
            let host: String = host.chars().map(|char| if char.is_ascii_graphic() { char } else { '_' }).collect();
            let text = format!(
                "host {host} has no IP address and port, so it cannot be judged, nor named to the router: outlier is for hosts with \
                 addresses of their own; set outlier.mode to off for such clusters, or leave them out of match.cluster"
            );
            (true, false, text)
        }
        HostEventKind::RouteUnnamed => {
            let text = "requests are not steered away from hosts that are out: the hosts have different `envoy.lb` metadata, and \
                        the route has no name by which its subset is known; give each route a name";
            (true, false, text.to_owned())
        }
        HostEventKind::Full => {
            let text = format!(
                "host {host} is one more than the {MOST_HOSTS} that are kept for a cluster: while there are more, none is left out"
            );
            (true, false, text)
        }
    };
    Event::Log { alarming, shadow, text }
}

/// The counter of what happens to hosts.
pub const fn metric(counted: HostCount) -> Metric {
    match counted {
        HostCount::Detected(Detector::ConsecutiveFailures) => Metric::DetectedConsecutiveFailures,
        HostCount::Detected(Detector::ConsecutiveGatewayFailures) => Metric::DetectedConsecutiveGatewayFailures,
        HostCount::Detected(Detector::ConsecutiveLocalFailures) => Metric::DetectedConsecutiveLocalFailures,
        HostCount::Detected(Detector::FailureRate) => Metric::DetectedFailureRate,
        HostCount::Detected(Detector::SuccessRate) => Metric::DetectedSuccessRate,
        HostCount::Detected(Detector::Latency) => Metric::DetectedLatency,
        HostCount::Detected(Detector::Heartbeat) => Metric::DetectedHeartbeat,
        HostCount::Ejected(Detector::ConsecutiveFailures) => Metric::EjectedConsecutiveFailures,
        HostCount::Ejected(Detector::ConsecutiveGatewayFailures) => Metric::EjectedConsecutiveGatewayFailures,
        HostCount::Ejected(Detector::ConsecutiveLocalFailures) => Metric::EjectedConsecutiveLocalFailures,
        HostCount::Ejected(Detector::FailureRate) => Metric::EjectedFailureRate,
        HostCount::Ejected(Detector::SuccessRate) => Metric::EjectedSuccessRate,
        HostCount::Ejected(Detector::Latency) => Metric::EjectedLatency,
        HostCount::Ejected(Detector::Heartbeat) => Metric::EjectedHeartbeat,
        HostCount::Would(Detector::ConsecutiveFailures) => Metric::WouldEjectConsecutiveFailures,
        HostCount::Would(Detector::ConsecutiveGatewayFailures) => Metric::WouldEjectConsecutiveGatewayFailures,
        HostCount::Would(Detector::ConsecutiveLocalFailures) => Metric::WouldEjectConsecutiveLocalFailures,
        HostCount::Would(Detector::FailureRate) => Metric::WouldEjectFailureRate,
        HostCount::Would(Detector::SuccessRate) => Metric::WouldEjectSuccessRate,
        HostCount::Would(Detector::Latency) => Metric::WouldEjectLatency,
        HostCount::Would(Detector::Heartbeat) => Metric::WouldEjectHeartbeat,
        HostCount::Overflow => Metric::EjectionsOverflow,
        HostCount::Readmitted => Metric::Readmitted,
        HostCount::ProbeFailed => Metric::ProbeFailed,
    }
}

/// The line that says how many others there would be.
pub fn left_out(count: u32) -> Event {
    let text = format!("{count} more changes of hosts are counted and not listed");
    Event::Log { alarming: false, shadow: false, text }
}

fn cause(rules: &Outlier, cause: &EjectionCause) -> String {
    match cause {
        EjectionCause::Run { detector, length, last } => {
            let kind = match detector {
                Detector::ConsecutiveGatewayFailures => "gateway failures",
                Detector::ConsecutiveLocalFailures => "local failures",
                _ => "failures",
            };
            format!("{length} consecutive {kind}, last {last}")
        }
        EjectionCause::FailureRate { failures, total } => {
            let threshold = rules.failure_rate.map_or(Percent::ZERO, |detector| detector.threshold);
            format!("failure rate {} of {total} >= {threshold}", share(*failures, *total))
        }
        EjectionCause::SuccessRate { share, mean, stdev, hosts } => {
            let factor = rules.success_rate.map_or(0, |detector| detector.stdev_factor);
            let limit = f64::from(*mean) - f64::from(factor) / 1000.0 * f64::from(*stdev);
            let percent = |milli: f64| tenths(milli / 1000.0) + "%";
            format!(
                "success rate {} < {} (mean {} - {} x {} of {hosts} hosts)",
                percent((*share).into()),
                percent(limit),
                percent((*mean).into()),
                decimal(factor),
                percent((*stdev).into()),
            )
        }
        EjectionCause::Latency { own, peers, hosts } => {
            let above = own.saturating_sub(*peers).as_nanos().saturating_mul(100).checked_div(peers.as_nanos());
            let above = above.map(|above| u64::try_from(above).unwrap_or(u64::MAX));
            let above = above.map_or_else(String::new, |above| format!("{above}% "));
            let limit = rules.latency.map_or(0, |detector| detector.deviation);
            let (own, peers) = (millis(*own), millis(*peers));
            format!("mean latency {own} is {above}above its peers' {peers} ({hosts} hosts, limit {limit}%)")
        }
        EjectionCause::Heartbeat { failures, last } => {
            let last = last.map(|answer| {
                GrpcHealth::of_code(answer).map_or_else(|| answer.to_string(), |health| health.to_string())
            });
            let last = last.unwrap_or_else(|| "no answer".to_owned());
            format!("{failures} heartbeats failed, last {last}")
        }
    }
}

/// A number with one decimal, rounded as `{:.1}` rounds: exactly, and half to even. It is not formatted as a float, which
/// would add 18 kB to the module. For what is within a million of 0; shares in percent are.
fn tenths(value: f64) -> String {
    let bits = value.abs().to_bits();
    // The value is `whole` / 2^`shift`.
    let exponent = bits >> 52;
    let whole = if exponent == 0 { 0 } else { bits & ((1 << 52) - 1) | 1 << 52 };
    let shift = 1075_u64.saturating_sub(exponent).min(63);
    let scaled = whole.saturating_mul(10);
    let (tenths, rest, half) = (scaled >> shift, scaled & ((1 << shift) - 1), 1_u64 << shift >> 1);
    let tenths = tenths + u64::from(rest > half || rest == half && tenths % 2 == 1);
    let sign = if value.is_sign_negative() { "-" } else { "" };
    format!("{sign}{}.{}", tenths / 10, tenths % 10)
}

/// Milliseconds with a tenth.
fn millis(duration: Duration) -> String {
    let tenths = duration.as_secs().saturating_mul(10_000).saturating_add((duration.subsec_micros() / 100).into());
    format!("{}.{}ms", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::attempt::End;
    use holdfast_policy::config;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const RULES: &str =
        r#""failure_rate":{"threshold":85},"success_rate":{},"latency":{},"heartbeat":{"path":"/x","mode":"off"}"#;

    fn told(rules: &str, kind: HostEventKind) -> String {
        let text = format!(r#"{{"policies":[{{"name":"orders","outlier":{{{rules}}}}}]}}"#);
        let rules = config::parse(text.as_bytes()).unwrap().policies.remove(0).outlier.unwrap();
        let event = HostEvent { host: b"10.0.0.1:8080".to_vec(), kind, out: 1, of: 5 };
        line(&rules, &event).line("orders", "cluster=orders").unwrap().1
    }

    #[test]
    fn an_ejection_is_told_with_its_numbers() {
        let for_31s = |cause| told(RULES, HostEventKind::Ejected(cause, Duration::from_secs(31)));
        let run = EjectionCause::Run { detector: Detector::ConsecutiveFailures, length: 5, last: End::Http(503) };
        assert_eq!(
            for_31s(run),
            "orders/cluster=orders: host 10.0.0.1:8080 ejected for 31s: 5 consecutive failures, last 503; 1 of 5 hosts out"
        );
        let rate = for_31s(EjectionCause::FailureRate { failures: 60, total: 66 });
        assert!(rate.contains(": failure rate 90% of 66 >= 85%;"), "{rate}");
        let rate = for_31s(EjectionCause::SuccessRate { share: 71_200, mean: 97_000, stdev: 4_500, hosts: 5 });
        assert!(rate.contains(": success rate 71.2% < 88.5% (mean 97.0% - 1.9 x 4.5% of 5 hosts);"), "{rate}");
        let (own, peers) = (Duration::from_micros(121_300), Duration::from_millis(5));
        let latency = for_31s(EjectionCause::Latency { own, peers, hosts: 4 });
        assert!(
            latency.contains(": mean latency 121.3ms is 2326% above its peers' 5.0ms (4 hosts, limit 200%);"),
            "{latency}"
        );
        let heartbeat = for_31s(EjectionCause::Heartbeat { failures: 3, last: None });
        assert!(
            heartbeat.contains("ejected until its heartbeat is back: 3 heartbeats failed, last no answer;"),
            "{heartbeat}"
        );
    }

    #[test]
    fn tenths_are_rounded_as_the_language_does() {
        for milli in 0..200_000 {
            for value in [f64::from(milli) / 1000.0, f64::from(milli) / -1000.0 * 9.7, f64::from(milli) / 7.0] {
                assert_eq!(tenths(value), format!("{value:.1}"));
            }
        }
        for value in [0.0, -0.0, -0.04, 0.05, 0.15, 0.25, 0.75, 1e-300, 5e-324, -99_999.95] {
            assert_eq!(tenths(value), format!("{value:.1}"));
        }
    }

    #[test]
    fn below_the_panic_threshold_it_says_that_nobody_is_left_out() {
        let run = EjectionCause::Run { detector: Detector::ConsecutiveFailures, length: 5, last: End::Http(503) };
        let line = told(r#""panic_threshold":90"#, HostEventKind::Ejected(run, Duration::from_secs(31)));
        assert!(line.ends_with("; 1 of 5 hosts out: too few are left, so requests go to all of them"), "{line}");
    }

    #[test]
    fn what_follows_is_told_too() {
        let failed = HostEventKind::ProbeFailed { end: End::Reset, lasts: Duration::from_secs(62), ejections: 2 };
        assert_eq!(
            told("", failed),
            "orders/cluster=orders: host 10.0.0.1:8080 failed its probe (reset): out for 62s more, ejected 2 times; \
             1 of 5 hosts out"
        );
        assert_eq!(
            told("", HostEventKind::StillSlow { mean: Duration::from_millis(240), lasts: Duration::from_secs(62) }),
            "orders/cluster=orders: host 10.0.0.1:8080 is still slow, 240.0ms in the mean of its probes: out for 62s more but \
             for 3.0% of its share; 1 of 5 hosts out"
        );
        let back = |by_trial| HostEventKind::Readmitted { after: Duration::from_secs(33), by_trial };
        let warm = told("", back(true));
        assert!(
            warm.ends_with("is back after 33s: it is not slow any more, full share in 30s; 1 of 5 hosts out"),
            "{warm}"
        );
        let back = told(r#""slow_start":"5s""#, back(false));
        assert!(back.ends_with("is back after 33s: its probe succeeded, full share in 5s; 1 of 5 hosts out"), "{back}");
        let run = EjectionCause::Run { detector: Detector::ConsecutiveLocalFailures, length: 3, last: End::TimedOut };
        let kept = told("", HostEventKind::Overflow(run));
        assert!(
            kept.ends_with(
                "not ejected: 3 consecutive local failures, last timeout; 1 of 5 hosts are out, at most 50%"
            ),
            "{kept}"
        );
    }
    #[test]
    fn hosts_that_a_changed_policy_takes_over_are_told_in_one_line() {
        let left = HostEventKind::TakenOver(Duration::from_secs(12));
        assert_eq!(
            told("", left),
            "orders/cluster=orders: host 10.0.0.1:8080 is out, taken over by the changed policy; next probe in 12s; \
             1 of 5 hosts out"
        );
        assert!(told("", HostEventKind::TakenOver(Duration::ZERO)).contains("; the next request may be a probe; 1 of"));
        let beats = told(r#""heartbeat":{"path":"/x"}"#, left);
        assert!(beats.contains("is out, taken over by the changed policy; 1 of 5"), "{beats}");
        let text = r#"{"policies":[{"name":"orders","outlier":{}}]}"#;
        let rules = config::parse(text.as_bytes()).unwrap().policies.remove(0).outlier.unwrap();
        let event = HostEvent { host: b"10.0.0.1:8080".to_vec(), kind: left, out: 3, of: 9 };
        let line = line(&rules, &event).line("orders", "cluster=orders").unwrap();
        assert!(!line.0, "it is no news");
        assert!(line.1.contains("host 10.0.0.1:8080 and 2 more are out, taken over"), "{}", line.1);
    }
}
