//! The bars: what became of the requests of each second.

use std::ops::Range;

use maud::{Markup, html};

use super::scale::{self, ticks};
use super::{Area, Time, class, pattern, px, tag};
use crate::answer::Fate;
use crate::recording::{Recording, Tally};
use crate::scene::{Kind, Scene};
use crate::words;

/// A bar for each second, with a scale and a word on the ones that stand for many.
pub(super) fn render(scene: &Scene, time: Time, area: Area, recording: &Recording) -> Markup {
    let top = f64::from(scene.rate().max(1));
    html! {
        @for tick in ticks(scene.rate()) { (scale::grid(area.at(f64::from(tick) / top), &tick.to_string())) }
        @for second in 0..scene.seconds() { (bar(time, area, top, second, &recording.second(second))) }
        @for (kind, fate, second, count, floor) in labels(scene, recording) {
            @let middle = (f64::from(floor) + f64::from(count) / 2.0) / top;
            (tag(time.x(f64::from(second) + 0.5), area.at(middle), &format!("{count} {}", fate.word()), kind.word()))
        }
    }
}

fn bar(time: Time, area: Area, top: f64, second: u32, tally: &Tally) -> Markup {
    let (left, right) = (time.x(f64::from(second)) + 1.5, time.x(f64::from(second) + 1.0) - 1.5);
    let mut floor = 0.0;
    let segments: Vec<(Fate, Area)> = Fate::ALL
        .into_iter()
        .filter(|fate| tally.count(*fate) > 0)
        .map(|fate| {
            let height = f64::from(tally.count(fate)) / top * area.height;
            floor += height;
            (fate, Area { top: area.bottom() - floor, height })
        })
        .collect();
    let counts: Vec<String> =
        Fate::ALL.into_iter().map(|fate| format!("{} {}", tally.count(fate), fate.word())).collect();
    html! {
        g {
            title { (format!("second {}: {}; waits: median {}, p99 {}", second + 1, counts.join(", "),
                words::wait(tally.wait(50)), words::wait(tally.wait(99)))) }
            @for (fate, segment) in segments {
                @let (y, height) = (px(segment.top + 0.5), px((segment.height - 1.0).max(0.5)));
                rect class=(format!("bar {}", class(fate))) x=(px(left)) y=(y) width=(px(right - left)) height=(height) {}
                @if let Some(pattern) = pattern(fate) {
                    rect fill=(pattern) x=(px(left)) y=(y) width=(px(right - left)) height=(height) {}
                }
            }
        }
    }
}

/// Which bars say their numbers: in each phase, for each kind of answer that matters there, the bar in the middle of
/// those that have the most of it. Gives the phase, the kind, the second, the count and the count of what is below it.
fn labels(scene: &Scene, recording: &Recording) -> Vec<(Kind, Fate, u32, u32, u32)> {
    let mut labels = Vec::new();
    for (phase, span) in scene.spans() {
        let phase_tally = recording.tally(span.clone());
        for (number, fate) in Fate::ALL.into_iter().enumerate() {
            if phase_tally.count(fate) * 10 < phase_tally.sent() {
                continue;
            }
            let Some((second, tally)) = fullest(recording, span.clone(), fate) else { continue };
            let below = Fate::ALL.into_iter().take(number).map(|fate| tally.count(fate)).sum();
            labels.push((phase.kind, fate, second, tally.count(fate), below));
        }
    }
    labels
}

fn fullest(recording: &Recording, span: Range<u32>, fate: Fate) -> Option<(u32, Tally)> {
    let tallies: Vec<(u32, Tally)> = span.map(|second| (second, recording.second(second))).collect();
    let most = tallies.iter().map(|(_, tally)| tally.count(fate)).max()?;
    let full: Vec<&(u32, Tally)> = tallies.iter().filter(|(_, tally)| tally.count(fate) == most).collect();
    full.get(full.len() / 2).map(|found| (*found).clone())
}
