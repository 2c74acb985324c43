//! What a policy says about bad hosts that is legal and yet most likely not what was meant.

use holdfast_policy::config::defaults;
use holdfast_policy::document::{Balance, Detector, Dimension, Mode, Outlier, Policy};
use holdfast_policy::percent::Percent;

/// The mode of the detector that does most.
pub fn strongest(outlier: &Outlier) -> Mode {
    if outlier.ejects() {
        Mode::Enforce
    } else if outlier.is_active() {
        Mode::Shadow
    } else {
        Mode::Off
    }
}

/// Whether a detector that is on looks at failures.
pub fn counts_failures(outlier: &Outlier) -> bool {
    let on = |detector| outlier.mode_of(detector) != Mode::Off;
    outlier.counts_runs() || on(Detector::FailureRate) || on(Detector::SuccessRate)
}

/// Warnings about a policy's ejection of hosts: the rest of the path and the problem.
pub fn about(outlier: &Outlier, policy: &Policy) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut warn = |key: &str, problem: String| found.push((key.to_owned(), problem));
    if !outlier.is_active() {
        return found;
    }
    if outlier.mode == Mode::Off && policy.mode != Mode::Off {
        warn(".mode", "is off, but not for the detectors that have a mode of their own".to_owned());
    }
    for dimension in &policy.scope.by {
        if let Dimension::Header(name) = dimension {
            let problem =
                format!("judges hosts by the attempts of one value of header {name} alone: a host that is out");
            warn("", format!("{problem} for one still serves the others, and each has to learn it"));
            if outlier.mode_of(Detector::Heartbeat) != Mode::Off {
                warn(
                    ".heartbeat",
                    format!("is sent to each host for every value of header {name}, up to max_keys times"),
                );
            }
        }
    }

    // Each counts some of the failures that those before it count.
    let runs = [
        (Detector::ConsecutiveFailures, outlier.consecutive_failures),
        (Detector::ConsecutiveGatewayFailures, outlier.consecutive_gateway_failures),
        (Detector::ConsecutiveLocalFailures, outlier.consecutive_local_failures),
    ];
    for (index, (detector, run)) in runs.iter().enumerate() {
        let Some(run) = run.filter(|run| run.mode != Mode::Off) else { continue };
        let first = runs.iter().take(index).find_map(|(wider, other)| {
            let other = other.filter(|other| other.mode == Mode::Enforce)?;
            let comes_first = other.limit < run.limit || (other.limit == run.limit && run.mode == Mode::Enforce);
            comes_first.then(|| (wider.name(), other.limit))
        });
        if let Some((wider, limit)) = first {
            let key = format!(".{}", detector.name());
            warn(&key, format!("{}: adds nothing, for {wider} counts these too and ejects at {limit}", run.limit));
        }
    }
    if outlier.consecutive_local_failures.is_some_and(|run| run.mode != Mode::Off) && !policy.outcome.failure_local {
        let problem = "never ejects: outcome.failure.local is false, so that no answer is no failure";
        warn(".consecutive_local_failures", problem.to_owned());
    }
    if let Some(rate) = outlier.success_rate.filter(|rate| rate.mode != Mode::Off) {
        // Of n shares none is more than sqrt(n - 1) population standard deviations below their mean (Samuelson's
        // inequality). The factor is in thousandths.
        let least = rate.stdev_factor * rate.stdev_factor / 1_000_000 + 2;
        if u32::from(rate.min_hosts.get()) < least {
            let factor = f64::from(rate.stdev_factor) / 1000.0;
            let problem = format!("{}: of fewer than {least} hosts none can be", rate.min_hosts);
            let problem = format!("{problem} more than {factor} standard deviations (stdev_factor) below the mean");
            warn(".success_rate.min_hosts", problem);
        }
    }

    if matches!(outlier.balance, Balance::Hash(_)) && outlier.mode_of(Detector::Latency) != Mode::Off {
        let problem = "looks at hosts that balance gives different work: one with heavier requests looks slow";
        warn(".latency", problem.to_owned());
    }

    if !outlier.ejects() {
        return found;
    }
    if outlier.max_ejected.is_zero() {
        let problem = if outlier.always_eject_one {
            "is 0: only one host of a cluster is out at a time (always_eject_one)"
        } else {
            "is 0 and always_eject_one is false: no host is ever out"
        };
        warn(".max_ejected", problem.to_owned());
    }
    let panic = outlier.panic_threshold;
    if panic == Percent::FULL {
        warn(".panic_threshold", "is 100%: as soon as one host is out, ejections are ignored".to_owned());
    } else if outlier.max_ejected.millis() + panic.millis() > Percent::FULL.millis() {
        let most = Percent::FULL.millis() - panic.millis();
        let most = f64::from(most) / 1000.0;
        let problem = format!("{} is beyond {most}%: with more hosts out than that", outlier.max_ejected);
        let problem = format!("{problem} (panic_threshold {panic}) requests go to all of them again");
        warn(".max_ejected", problem);
    }
    let heartbeat = outlier.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.mode == Mode::Enforce);
    if heartbeat && outlier.probe_requests != defaults::outlier(Mode::Enforce).probe_requests {
        warn(".probe", "has no effect: with a heartbeat no user's request is a probe".to_owned());
    }
    found
}
