//! The panel of hosts: a lane for each, with a thin line for every attempt that reached it, in both runs.

use std::time::Duration;

use maud::{Markup, html};

use super::{Area, GAP, LEFT, Layout, TITLE_HEIGHT, Time, panel_title, px, tag};
use crate::ejection::What;
use crate::recording::{Recording, Runs};
use crate::scene::{Manner, Scene};
use crate::words;

const LANE_HEIGHT: f64 = 26.0;
const LANE_GAP: f64 = 5.0;

/// The narrowest stretch of time out that has room for its word.
const ROOM: f64 = 60.0;

/// Both runs, one above the other.
pub(super) fn render(scene: &Scene, time: Time, layout: &mut Layout, runs: Runs<'_>) -> Markup {
    let titles = [
        ("With Holdfast", "each line is an attempt that reached the host", runs.with),
        ("Without Holdfast", "the same load, Envoy's own detection", runs.without),
    ];
    let parts = titles.map(|(name, more, run)| {
        let title = layout.take(TITLE_HEIGHT);
        let lanes: Vec<Markup> = (0..scene.hosts)
            .map(|host| {
                let lane = layout.take(LANE_HEIGHT);
                layout.take(LANE_GAP);
                self::lane(scene, time, lane, host, name, run)
            })
            .collect();
        layout.take(GAP);
        html! {
            (panel_title(title, name, more))
            @for lane in lanes { (lane) }
        }
    });
    html! { @for part in parts { (part) } }
}

fn lane(scene: &Scene, time: Time, area: Area, host: usize, name: &str, run: &Recording) -> Markup {
    let end = Duration::from_secs(time.seconds.into());
    let (top, height) = (px(area.top), px(area.height));
    let counts: Vec<String> =
        (0..time.seconds).map(|second| run.attempts_at(host, second..second + 1).to_string()).collect();
    html! {
        text class="tick" x=(px(LEFT - 8.0)) y=(px(area.at(0.3))) text-anchor="end" { "host " (host + 1) }
        g {
            title { (format!("{name}, host {}: attempts for the requests of each second: {}", host + 1, counts.join(", "))) }
            rect class="lane" x=(px(time.x(0.0))) y=(top) width=(px(time.of(end) - time.x(0.0))) height=(height) {}
            @for (manner, from, to) in manners(scene, host) {
                @let (left, right) = (time.of(from), time.of(to));
                rect class=(format!("ill {}", class(manner))) x=(px(left)) y=(top) width=(px(right - left)) height=(height) {}
            }
            @for out in run.out(host, end) {
                @let (left, right) = (time.of(out.start), time.of(out.end));
                rect class="out" x=(px(left)) y=(top) width=(px(right - left)) height=(height) {
                    title { (format!("host {}: out from {} to {}", host + 1, words::seconds(out.start), words::seconds(out.end))) }
                }
            }
            @for manner in [Manner::Well, Manner::Slow, Manner::Failing] {
                @let path = rug(scene, time, area, host, run, manner);
                @if !path.is_empty() { path class=(format!("rug {}", class(manner))) d=(path) {} }
            }
            @for out in run.out(host, end) {
                @let (left, right) = (time.of(out.start), time.of(out.end));
                // Beside the probe that failed, and not on it.
                @let right = failed_probe(run, host).map_or(right, |at| time.of(at).min(right));
                @if right - left >= ROOM { (tag((left + right) / 2.0, area.at(0.5), "out", "")) }
            }
            @for told in run.told_of(host) {
                @match told.what {
                    What::ProbeFailed => (tag(time.of(told.at) + 48.0, area.at(0.5), "probe failed", "failed")),
                    What::Back => (tag((time.of(told.at) - 34.0).max(LEFT), area.at(0.5), "probe ok", "well")),
                    What::Ejected | What::Other => "",
                }
            }
        }
    }
}

fn failed_probe(run: &Recording, host: usize) -> Option<Duration> {
    run.told_of(host).find(|told| told.what == What::ProbeFailed).map(|told| told.at)
}

/// When something is wrong with a host, and what.
fn manners(scene: &Scene, host: usize) -> Vec<(Manner, Duration, Duration)> {
    let seconds = |second: u32| Duration::from_secs(second.into());
    let ill = scene.spans().map(|(phase, span)| ((phase.servers)(host).manner, seconds(span.start), seconds(span.end)));
    ill.filter(|(manner, ..)| *manner != Manner::Well).collect()
}

/// A line for each of the attempts that found the host in this condition.
fn rug(scene: &Scene, time: Time, area: Area, host: usize, run: &Recording, manner: Manner) -> String {
    let (top, height) = (area.top + 3.0, area.height - 6.0);
    let arrivals = run.hosts.get(host).into_iter().flatten();
    let lines = arrivals.filter(|arrival| scene.manner(host, arrival.at) == manner);
    lines.map(|arrival| format!("M{} {}v{}", px(time.of(arrival.at)), px(top), px(height))).collect()
}

/// What the conditions look like, for the legend.
pub(super) fn legend() -> Markup {
    let samples = [
        (Manner::Well, "an attempt, answered well"),
        (Manner::Failing, "an attempt at a host that fails"),
        (Manner::Slow, "an attempt at a host that is slow"),
    ];
    html! {
        ul class="legend" {
            @for (manner, said) in samples {
                li {
                    svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" {
                        rect class=(format!("ill {}", class(manner))) width="16" height="16" {}
                        path class=(format!("rug {}", class(manner))) d="M3 2v12M8 2v12M13 2v12" {}
                    }
                    (said)
                }
            }
            li {
                svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" { rect class="out" width="16" height="16" {} }
                "out: ejected by Holdfast"
            }
        }
    }
}

fn class(manner: Manner) -> &'static str {
    match manner {
        Manner::Well => "well",
        Manner::Failing => "failing",
        Manner::Slow => "slow",
    }
}
