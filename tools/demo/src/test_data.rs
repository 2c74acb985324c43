//! Made-up observations for unit tests.

use std::time::Duration;

use serde_json::Value;

use crate::answer::{Answer, Fate};
use crate::change::{Change, State};
use crate::ejection::{Told, What};
use crate::recording::{Arrival, Recording, Runs};
use crate::scene::{self, Kind, Manner, Scene};
use crate::summary::Table;

/// An answer, times in milliseconds.
pub fn answer(caller: usize, sent: u64, waited: u64, fate: Fate) -> Answer {
    let (sent, waited) = (Duration::from_millis(sent), Duration::from_millis(waited));
    Answer { caller, sent, waited, fate, is_own: fate == Fate::Served, age: None }
}

/// A change, time in milliseconds.
pub fn change(at: u64, policy: &str, from: State, to: State) -> Change {
    let why = format!("made up, {} <ok> & \"fine\"", to.word());
    Change { at: Duration::from_millis(at), policy: policy.to_owned(), from, to, why }
}

/// Something told of a host, time in milliseconds.
pub fn told(at: u64, host: usize, what: What, text: &str) -> Told {
    Told { at: Duration::from_millis(at), host, what, text: text.to_owned() }
}

/// The scene of this name with both of its runs.
pub fn runs(name: &str) -> (Scene, Recording, Recording) {
    let scene = scene::all().into_iter().find(|scene| scene.name == name).unwrap();
    let (with, without) = (run(&scene, true), run(&scene, false));
    (scene, with, without)
}

/// What the scene claims and these runs do not show.
pub fn broken(scene: &Scene, with: &Recording, without: &Recording) -> Vec<String> {
    let claims = (scene.claims)(scene, Runs { with, without });
    claims.into_iter().filter(|claim| !claim.holds).map(|claim| claim.what).collect()
}

/// A row of the comparison.
pub fn row<'a>(tables: &'a [Table], what: &str) -> (&'a str, &'a str) {
    let row = tables.iter().flat_map(|table| &table.rows).find(|row| row.what == what).unwrap();
    (&row.with, &row.without)
}

/// The policy's breaker is as the scenes describe it: it opens at 50% failures in 2 s, and sends so many probes after 2 s.
#[track_caller]
pub fn assert_breaker_in_words(policy: &Value, probes: u32) {
    let breaker = &policy["breaker"];
    assert_eq!(breaker["failure_rate"], 50);
    assert_eq!(breaker["window"], "2s");
    assert_eq!(breaker["open_for"], "2s");
    assert_eq!(breaker["half_open"]["probes"], probes);
}

/// The sentences about the scene of this name, and what to remember of it, have these parts.
#[track_caller]
pub fn assert_told(name: &str, sentences: &[&str], gist: &[&str]) {
    let (scene, with, without) = runs(name);
    let runs = Runs { with: &with, without: &without };
    for (said, parts) in [((scene.sentences)(&scene, runs), sentences), ((scene.gist)(&scene, runs), gist)] {
        for part in parts {
            assert!(said.contains(part), "{part:?} in {said}");
        }
    }
}

/// A run of `scene` as it should be, with Holdfast or without.
///
/// Breakers open after the first second of the trouble, probe in vain in the third, and close a second after its end.
/// Retries make 5% more attempts before the trouble and 25% more in it with a budget; without one they make four of each,
/// and the trouble does not end.
pub fn run(scene: &Scene, with: bool) -> Recording {
    if scene.steers() {
        return run_of_hosts(scene, with);
    }
    let mut recording = Recording::default();
    let trouble = scene.span(Kind::Outage);
    let open = if with && !scene.breakers().is_empty() { trouble.start + 1..trouble.end + 1 } else { 0..0 };
    let retries = scene.without.retry_policy.is_some();
    let buried = retries && !with;
    for second in 0..scene.seconds() {
        let down = trouble.contains(&second) || (buried && second >= trouble.end);
        let mut attempts = 0;
        for (number, caller) in scene.callers.iter().enumerate() {
            let has_fallback = scene.policies_with("fallback").contains(&caller.policy);
            let (waited, fate) = match (open.contains(&second), down) {
                (true, _) if has_fallback => (1, Fate::Fallback),
                (true, _) => (1, Fate::Rejected),
                (false, true) => (1000, Fate::Failed),
                (false, false) => (6, Fate::Served),
            };
            // What has several resources is kept, and serves failed requests too; what is new each time is not.
            let keeps = with && caller.resources > 1;
            let fate = if keeps && fate == Fate::Failed { Fate::Fallback } else { fate };
            let is_kept = keeps && fate == Fate::Fallback && caller.resources < u32::MAX;
            for request in 0..caller.per_second {
                let sent = u64::from(second) * 1000 + u64::from(request * 1000 / caller.per_second);
                let mut answer = answer(number, sent, waited, fate);
                if is_kept {
                    (answer.is_own, answer.age) = (true, Some(second - trouble.start + 1));
                }
                recording.answers.push(answer);
            }
            let percent = match (open.contains(&second), retries, down) {
                (true, ..) => 0,
                (false, true, true) if buried => 400,
                (false, true, true) => 125,
                (false, true, false) if second < trouble.start => 105,
                (false, ..) => 100,
            };
            attempts += u64::from(caller.per_second) * percent / 100;
        }
        recording.attempts.push(attempts);
    }
    if with {
        for policy in scene.breakers() {
            for (after, from, to) in [
                (0, State::Closed, State::Open),
                (2000, State::Open, State::HalfOpen),
                (3000, State::HalfOpen, State::Open),
                (u64::from(open.end - open.start) * 1000 - 10, State::Open, State::HalfOpen),
                (u64::from(open.end - open.start) * 1000, State::HalfOpen, State::Closed),
            ] {
                recording.changes.push(change(u64::from(open.start) * 1000 + after, policy, from, to));
            }
        }
        recording.changes.sort_by_key(|change| change.at);
        count(scene, &mut recording);
    }
    if scene.standby.is_some() {
        recording.at_standby = recording.total().count(Fate::Fallback).into();
    }
    recording
}

/// A run of a scene of which host 2 fails from 3 s to 8 s and host 4 is slow from 5 s to 8 s, times in milliseconds.
///
/// Both runs take host 2 out after 200 ms, for 3 s. Then it gets one attempt as its probe, or its share for 200 ms.
fn run_of_hosts(scene: &Scene, with: bool) -> Recording {
    let mut recording = Recording::default();
    let mut hosts: Vec<Vec<Arrival>> = vec![Vec::new(); scene.hosts];
    let mut probes = if with { vec![(9_100, 3), (6_250, 1)] } else { Vec::new() };
    let out = |host: usize, at: u64| match (host, with) {
        (1, true) => (3_200..12_400).contains(&at),
        (1, false) => (3_200..6_600).contains(&at) || (6_800..12_800).contains(&at),
        (3, true) => (6_000..9_100).contains(&at),
        _ => false,
    };
    let mut turn = 0;
    for number in 0..u64::from(scene.rate() * scene.seconds()) {
        let (caller, at) = ((number % 2) as usize, number * 1000 / u64::from(scene.rate()));
        let probe = if caller == 0 { probes.pop_if(|(due, _)| at >= *due).map(|(_, host)| host) } else { None };
        let mut next = || {
            turn = (1..=scene.hosts).map(|step| (turn + step) % scene.hosts).find(|host| !out(*host, at)).unwrap();
            turn
        };
        let host = probe.unwrap_or_else(&mut next);
        let mut arrive = |host: usize| {
            hosts[host].push(Arrival { second: (at / 1000) as u32, at: Duration::from_millis(at) });
            scene.manner(host, Duration::from_millis(at))
        };
        let mut manner = arrive(host);
        if manner == Manner::Failing && caller == 0 {
            // Beside the others' turns, or only one caller's requests would ever meet the failing host.
            manner = arrive(2);
        }
        let (waited, fate) = match manner {
            Manner::Well => (10, Fate::Served),
            Manner::Slow => (240, Fate::Served),
            Manner::Failing => (100, Fate::Failed),
        };
        recording.answers.push(answer(caller, at, waited, fate));
    }
    recording.take_tries(hosts);
    if with {
        recording.told = vec![
            told(3_200, 1, What::Ejected, "ejected for 3s: 5 consecutive failures, last 503; 1 of 5 hosts out"),
            told(
                6_000,
                3,
                What::Ejected,
                "ejected for 3s: mean latency 241.3ms is 2292% above its peers' 10.1ms (3 hosts, limit 200%); 2 of 5 hosts out",
            ),
            told(
                6_350,
                1,
                What::ProbeFailed,
                "failed its probe (503): out for 6s more, ejected 2 times; 2 of 5 hosts out",
            ),
            told(9_100, 3, What::Back, "is back after 3s: its probe succeeded; 1 of 5 hosts out"),
            told(12_400, 1, What::Back, "is back after 9s: its probe succeeded; 0 of 5 hosts out"),
        ];
        let retries = recording.attempts.iter().sum::<u64>() - recording.answers.len() as u64;
        for (metric, value) in [
            ("requests", recording.answers.len() as u64),
            ("retries", retries),
            ("hosts", 5),
            ("hosts_ejected", 0),
            ("ejections.consecutive_failures", 1),
            ("ejections.latency", 1),
            ("probe_failed", 1),
            ("readmitted", 2),
        ] {
            recording.stats.insert(format!("orders;.;key=.=cluster=orders;.;{metric}"), value);
        }
    }
    recording
}

/// Adds the statistics that go with the answers.
fn count(scene: &Scene, recording: &mut Recording) {
    for policy in scene.policies() {
        let is_its_own =
            |answer: &&Answer| scene.callers.get(answer.caller).is_some_and(|caller| caller.policy == policy);
        let answers: Vec<Answer> = recording.answers.iter().filter(is_its_own).copied().collect();
        let count = |fate, is_own: bool| {
            answers.iter().filter(|answer| answer.fate == fate && answer.is_own == is_own).count() as u64
        };
        let mut stats = vec![("requests", answers.len() as u64)];
        if scene.breakers().contains(&policy) {
            let (kept, fallback) = (count(Fate::Fallback, true), count(Fate::Fallback, false));
            stats.extend([("rejected.open", kept + fallback + count(Fate::Rejected, false)), ("breaker_state", 0)]);
            stats.extend([("fallback.static", fallback), ("fallback.stale", kept)]);
        }
        if scene.policies_with("retry").contains(&policy) {
            stats.push(("retries", recording.attempts.iter().sum::<u64>() - answers.len() as u64));
        }
        for (metric, value) in stats {
            recording.stats.insert(format!("{policy};.;key=.=cluster={};.;{metric}", scene.service), value);
        }
    }
}
