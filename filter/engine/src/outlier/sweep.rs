//! What an interval's counts say about the hosts: rates, times, and who is not there any more.

use core::time::Duration;
use std::collections::HashMap;

use super::cause::EjectionCause;
use super::slot::HostTally;
use super::table::{Ejection, HostId, HostTable, slow_from};
use super::times::Times;
use crate::base::random::Random;
use crate::base::time::{SKEW, Timestamp};
use holdfast_policy::document::{FailureRate, Latency, Mode, Outlier, SuccessRate};

/// A host is forgotten when it was not seen for this long and would have been seen 20 times, had it had its share.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);

/// In thousandths of a time: see [`FORGET_AFTER`]. By chance alone, a host that is there is missed so often once in e^20 = 485 million times.
const MISSED: u32 = 20_000;

/// A host is forgotten in any case when it was not seen for this long.
pub const FORGET_ANYWAY: Duration = Duration::from_secs(600);

/// Hosts that come within so many seconds of the first have come together.
const TOGETHER: u32 = 1;

/// An interval's counts over all workers.
pub type Tallies = HashMap<HostId, HostTally>;

/// Looks at one interval, which began at `began`: judges the hosts by it, lets the memory of ejections fade, forgets who left.
pub fn sweep(table: &mut HostTable, rules: &Outlier, tallies: &Tallies, began: Timestamp, now: Timestamp, random: u64) {
    let mut random = Random::new(random);
    table.end_slow_starts(rules, now);
    table.see_no_future(now);
    note_presence(table, tallies, now);
    for (id, tally) in tallies {
        if tally.successes() > 0 {
            table.decay(rules, *id);
        }
    }
    // What a host did before it came back does not count again.
    let whole: Tallies = table
        .hosts()
        .filter(|(_, host)| host.in_since().is_some_and(|since| since <= began || since > now.plus(SKEW)))
        .filter_map(|(id, _)| tallies.get(&id).map(|tally| (id, *tally)))
        .collect();
    if let Some(detector) = rules.failure_rate.filter(|detector| detector.mode != Mode::Off) {
        failure_rate(table, rules, detector, &whole, now, &mut random);
    }
    if let Some(detector) = rules.success_rate.filter(|detector| detector.mode != Mode::Off) {
        success_rate(table, rules, detector, &whole, now, &mut random);
    }
    if let Some(detector) = rules.latency.filter(|detector| detector.mode != Mode::Off) {
        let times = compared(table, detector, &whole, now);
        if let Some(peers) = mean_of(&times).filter(|_| times.len() + 1 >= usize::from(detector.min_hosts.get())) {
            table.set_slow_from(slow_from(detector, peers));
        }
        latency(table, rules, detector, times, now, &mut random);
    }
    forget(table, rules, now);
}

fn note_presence(table: &mut HostTable, tallies: &Tallies, now: Timestamp) {
    let attempts: u64 = tallies.values().map(|tally| u64::from(tally.seen())).sum();
    let ids: Vec<HostId> = table.hosts().filter(|(_, host)| host.is_in()).map(|(id, _)| id).collect();
    let share = attempts.saturating_mul(1000).checked_div(ids.len() as u64).unwrap_or(0);
    for id in ids {
        if !tallies.contains_key(&id) {
            table.miss(id, u32::try_from(share).unwrap_or(u32::MAX));
        }
    }
    tallies.keys().for_each(|id| table.see(*id, now));
}

fn forget(table: &mut HostTable, rules: &Outlier, now: Timestamp) {
    let gone: Vec<HostId> = table
        .hosts()
        .filter(|(_, host)| {
            let unseen = now.since(host.seen);
            let is_listed = host.listed && rules.discover.is_some();
            let is_missed = host.missed >= MISSED && unseen >= FORGET_AFTER || unseen >= FORGET_ANYWAY;
            is_missed && !is_listed && !rules.names(&host.address)
        })
        .map(|(id, _)| id)
        .collect();
    gone.into_iter().for_each(|id| table.forget(id));
}

/// Hosts that are in and have so much to be judged by, in a fixed order.
fn judged(table: &HostTable, tallies: &Tallies, has_enough: impl Fn(&HostTally) -> bool) -> Vec<(HostId, HostTally)> {
    table
        .hosts()
        .filter(|(_, host)| host.is_in())
        .filter_map(|(id, _)| tallies.get(&id).map(|tally| (id, *tally)))
        .filter(|(_, tally)| has_enough(tally))
        .collect()
}

/// Source: Envoy, "Failure percentage".
fn failure_rate(
    table: &mut HostTable,
    rules: &Outlier,
    detector: FailureRate,
    tallies: &Tallies,
    now: Timestamp,
    random: &mut Random,
) {
    let mut hosts = judged(table, tallies, |tally| tally.total >= detector.min_requests.get());
    if hosts.len() < usize::from(detector.min_hosts.get()) {
        return;
    }
    // Should the limits not let all of them out, the worst go first.
    while let Some((id, tally)) = take_worst(&mut hosts, |(_, tally)| share(tally.failures, tally.total)) {
        if !detector.threshold.reached(tally.failures.into(), tally.total.into()) {
            return;
        }
        let cause = EjectionCause::FailureRate { failures: tally.failures, total: tally.total };
        table.eject(rules, id, cause, now, random.next());
    }
}

/// Takes out what `badness` is highest for, the first of several. (A sort of each of these types would add 15 kB to the module;
/// few are taken.)
fn take_worst<T, B: PartialOrd>(hosts: &mut Vec<T>, badness: impl Fn(&T) -> B) -> Option<T> {
    let mut worst: Option<(usize, B)> = None;
    for (at, host) in hosts.iter().enumerate() {
        let bad = badness(host);
        if worst.as_ref().is_none_or(|(_, most)| bad > *most) {
            worst = Some((at, bad));
        }
    }
    worst.map(|(at, _)| hosts.swap_remove(at))
}

/// A share in thousandths of a percent.
fn share(part: u32, whole: u32) -> u32 {
    (u64::from(part) * 100_000).checked_div(whole.into()).unwrap_or(0) as u32
}

/// Source: Envoy, "Success Rate" and `DetectorImpl::successRateEjectionThreshold`: the population's standard deviation.
fn success_rate(
    table: &mut HostTable,
    rules: &Outlier,
    detector: SuccessRate,
    tallies: &Tallies,
    now: Timestamp,
    random: &mut Random,
) {
    let hosts = judged(table, tallies, |tally| tally.total >= detector.min_requests.get());
    if hosts.len() < usize::from(detector.min_hosts.get()).max(1) {
        return;
    }
    let mut shares: Vec<(f64, HostId)> =
        hosts.iter().map(|(id, tally)| (f64::from(tally.successes()) / f64::from(tally.total.max(1)), *id)).collect();
    let count = shares.len() as f64;
    let mean = shares.iter().map(|(share, _)| share).sum::<f64>() / count;
    let variance = shares.iter().map(|(share, _)| (share - mean) * (share - mean)).sum::<f64>() / count;
    let stdev = variance.sqrt();
    // What rounding alone makes of equal shares is no difference.
    let threshold = mean - f64::from(detector.stdev_factor) / 1000.0 * stdev - 1e-9;
    let count = shares.len() as u16;
    while let Some((share, id)) = take_worst(&mut shares, |(share, _)| -share).filter(|(share, _)| *share < threshold) {
        let milli = |share: f64| (share * 100_000.0).round() as u32;
        let cause =
            EjectionCause::SuccessRate { share: milli(share), mean: milli(mean), stdev: milli(stdev), hosts: count };
        table.eject(rules, id, cause, now, random.next());
    }
}

/// Whose times are compared, in a fixed order: of hosts that have enough, and that have not come later than the others a moment ago.
fn compared(table: &HostTable, detector: Latency, tallies: &Tallies, now: Timestamp) -> Vec<(HostId, Times)> {
    let arrivals = table.hosts().filter(|(_, host)| host.is_in()).map(|(_, host)| host.arrived);
    let first = arrivals.min().unwrap_or(u32::MAX);
    let is_spared = |id: HostId| {
        let arrived = table.host(id).map_or(0, |host| host.arrived);
        let until = Timestamp::from_secs(arrived.into()).plus(detector.grace);
        arrived > first.saturating_add(TOGETHER) && until.remaining(now, detector.grace).is_some()
    };
    let hosts = judged(table, tallies, |tally| tally.times.count() >= detector.min_requests.get());
    hosts.into_iter().filter(|(id, _)| !is_spared(*id)).map(|(id, tally)| (id, tally.times)).collect()
}

/// The mean of hosts' means.
fn mean_of(hosts: &[(HostId, Times)]) -> Option<Duration> {
    let sum: u128 = hosts.iter().map(|(_, times)| times.mean().as_nanos()).sum();
    divided(sum, hosts.len())
}

fn divided(sum: u128, hosts: usize) -> Option<Duration> {
    let mean = sum.checked_div(hosts as u128)?;
    Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
}

/// Judges the slowest against the mean of the others' means, takes it out of the count if it goes, and goes on with the
/// next: one very slow host must not hide another.
fn latency(
    table: &mut HostTable,
    rules: &Outlier,
    detector: Latency,
    mut hosts: Vec<(HostId, Times)>,
    now: Timestamp,
    random: &mut Random,
) {
    if hosts.len() < usize::from(detector.min_hosts.get()) {
        return;
    }
    let all = hosts.len();
    let mut sum: u128 = hosts.iter().map(|(_, times)| times.mean().as_nanos()).sum();
    // Those that are far above the others by chance.
    let mut stay: Vec<Times> = Vec::new();
    while let Some((id, own)) = take_worst(&mut hosts, |(_, times)| times.mean()) {
        let (mean, peers) = (own.mean(), hosts.len() + stay.len());
        let Some(expected) = divided(sum.saturating_sub(mean.as_nanos()), peers) else { return };
        if mean <= detector.floor || mean < slow_from(detector, expected) {
            return;
        }
        let times: Vec<Times> = hosts.iter().map(|(_, times)| *times).chain(stay.iter().copied()).collect();
        if !own.are_longer(&times, all) {
            stay.push(own);
            continue;
        }
        sum = sum.saturating_sub(mean.as_nanos());
        let cause = EjectionCause::Latency { own: mean, peers: expected, hosts: peers as u16 };
        if table.eject(rules, id, cause, now, random.next()) == Ejection::Overflow {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
