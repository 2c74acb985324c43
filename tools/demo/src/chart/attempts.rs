//! The panel of attempts: what reached the servers in both runs, beside what clients sent.

use maud::{Markup, html};

use super::lines::{self, Line};
use super::scale::{self, ticks};
use super::{Area, Time, panel_title, px, tag};
use crate::recording::{Recording, Runs};
use crate::scene::{Kind, Scene};
use crate::words;

/// How much is left free above the highest line, for the word on it.
const HEADROOM: f64 = 1.2;

/// How far above its line a word stands.
const ABOVE: f64 = 17.0;

/// The attempts for the requests of each second, and how many requests those were.
pub(super) fn render(scene: &Scene, time: Time, title: Area, area: Area, runs: Runs<'_>) -> Markup {
    let count = |each: &dyn Fn(u32) -> u64| (0..time.seconds).map(each).collect::<Vec<u64>>();
    let attempts = |run: &Recording| count(&|second| run.attempts(second..second + 1));
    let counts = [
        ("requests of clients", "clients", count(&|second| runs.with.second(second).sent().into())),
        ("attempts without", "without", attempts(runs.without)),
        ("attempts with Holdfast", "with", attempts(runs.with)),
    ];
    let most = counts.iter().flat_map(|(.., counts)| counts).copied().max().unwrap_or_default().max(1);
    let top = most as f64 * HEADROOM;
    let lines = counts.map(|(name, class, counts)| {
        let point = |(count, second): (u64, u32)| (count as f64 / top, format!("second {second}: {count} {name}"));
        Line { name, class, points: counts.into_iter().zip(1..).map(point).collect() }
    });
    html! {
        (panel_title(title, &format!("What {} had to take", scene.service), "per second"))
        @for tick in ticks(u32::try_from(most).unwrap_or(u32::MAX)) {
            (scale::grid(area.at(f64::from(tick) / top), &tick.to_string()))
        }
        @if let Some(capacity) = scene.capacity.filter(|capacity| f64::from(*capacity) <= top) {
            (ceiling(time, area.at(f64::from(capacity) / top), capacity))
        }
        (lines::render(&lines, time, title, area))
        (label(scene, time, area, top, runs.without, "without"))
        (label(scene, time, area, top, runs.with, "with"))
    }
}

/// What the servers bear.
fn ceiling(time: Time, y: f64, capacity: u32) -> Markup {
    html! {
        line class="ceiling" x1=(px(time.x(0.0))) x2=(px(time.x(f64::from(time.seconds)))) y1=(px(y)) y2=(px(y)) {
            title { (format!("over {capacity} attempts a second the service answers 503 to all")) }
        }
        text class="tick" x=(px(time.x(0.0) + 6.0)) y=(px(y - 5.0)) { (format!("over {capacity} it collapses")) }
    }
}

/// The numbers of the second in the middle of the trouble.
fn label(scene: &Scene, time: Time, area: Area, top: f64, run: &Recording, class: &str) -> Markup {
    let span = scene.span(Kind::Outage);
    let second = span.start + u32::try_from(span.len()).unwrap_or_default() / 2;
    let attempts = run.attempts(second..second + 1);
    let said = format!("{attempts} attempts, {}", words::factor(attempts, run.second(second).sent()));
    tag(time.x(f64::from(second) + 0.5), area.at(attempts as f64 / top) - ABOVE, &said, class)
}
