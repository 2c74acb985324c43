//! The lines: how long clients waited, on a logarithmic scale.

use std::time::Duration;

use maud::{Markup, html};

use super::{Area, LEFT, PLOT, Time, px};
use crate::recording::{Recording, Runs};
use crate::words;

/// One line of the panel of waits.
struct Line<'a> {
    name: &'static str,
    class: &'static str,
    recording: &'a Recording,
    percent: u32,
}

/// Median and 99th percentile of each second, for both runs.
pub(super) fn render(time: Time, area: Area, runs: Runs<'_>) -> Markup {
    let lines = [
        Line { name: "without, p99", class: "without p99", recording: runs.without, percent: 99 },
        Line { name: "without, median", class: "without median", recording: runs.without, percent: 50 },
        Line { name: "with Holdfast, p99", class: "with p99", recording: runs.with, percent: 99 },
        Line { name: "with Holdfast, median", class: "with median", recording: runs.with, percent: 50 },
    ];
    let points = |line: &Line<'_>| -> Vec<(u32, Duration)> {
        (0..time.seconds).map(|second| (second, line.recording.second(second).wait(line.percent))).collect()
    };
    let all: Vec<Duration> = lines.iter().flat_map(|line| points(line).into_iter().map(|(_, wait)| wait)).collect();
    let scale = Decades::over(&all);
    html! {
        @for decade in scale.from..=scale.to {
            @let y = area.at(scale.share(10f64.powi(decade)));
            line class="grid" x1=(px(LEFT)) x2=(px(LEFT + PLOT)) y1=(px(y)) y2=(px(y)) {}
            text class="tick" x=(px(LEFT - 8.0)) y=(px(y + 4.0)) text-anchor="end" { (decade_name(decade)) }
        }
        @for (number, line) in lines.iter().enumerate() {
            @let placed = points(line).into_iter().map(|(second, wait)| {
                (time.x(f64::from(second) + 0.5), area.at(scale.share(wait.as_secs_f64() * 1000.0)), second, wait)
            }).collect::<Vec<_>>();
            g class=(format!("wait {}", line.class)) {
                polyline points=(placed.iter().map(|(x, y, ..)| format!("{},{}", px(*x), px(*y))).collect::<Vec<_>>().join(" ")) {}
                @for (x, y, second, wait) in placed {
                    (mark(line, x, y, &format!("second {}: {} {}", second + 1, line.name, words::wait(wait))))
                }
                (key(line, time, area, number))
            }
        }
    }
}

/// A round mark with Holdfast, a square one without.
fn mark(line: &Line<'_>, x: f64, y: f64, title: &str) -> Markup {
    html! {
        @if line.class.starts_with("without") {
            rect class="mark" x=(px(x - 3.0)) y=(px(y - 3.0)) width="6" height="6" { title { (title) } }
        } @else {
            circle class="mark" cx=(px(x)) cy=(px(y)) r="3.2" { title { (title) } }
        }
    }
}

/// The line's name at the top right of the panel, where nothing is drawn once all is well again.
fn key(line: &Line<'_>, time: Time, area: Area, number: usize) -> Markup {
    let x = time.x(f64::from(time.seconds)) - 190.0;
    let y = area.top + 14.0 + 18.0 * number as f64;
    html! {
        polyline points=(format!("{},{} {},{}", px(x), px(y), px(x + 30.0), px(y))) {}
        (mark(line, x + 15.0, y, line.name))
        text class="key" x=(px(x + 38.0)) y=(px(y + 4.0)) { (line.name) }
    }
}

/// A logarithmic scale over whole decades of milliseconds.
#[derive(Clone, Copy, Debug)]
struct Decades {
    from: i32,
    to: i32,
}

impl Decades {
    fn over(waits: &[Duration]) -> Self {
        let log = waits.iter().filter(|wait| !wait.is_zero()).map(|wait| (wait.as_secs_f64() * 1000.0).log10());
        let (low, high) = log.fold((0.0_f64, 1.0_f64), |(low, high), log| (low.min(log), high.max(log)));
        // A little over a whole decade does not deserve another one.
        Decades { from: low.floor() as i32, to: (high - 0.1).ceil() as i32 }
    }

    fn share(self, ms: f64) -> f64 {
        let log = ms.max(1e-6).log10();
        ((log - f64::from(self.from)) / f64::from((self.to - self.from).max(1))).clamp(0.0, 1.03)
    }
}

fn decade_name(decade: i32) -> String {
    if decade >= 3 { format!("{} s", 10f64.powi(decade - 3)) } else { format!("{} ms", 10f64.powi(decade)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_of_waits_covers_them() {
        let ms = Duration::from_millis;
        let scale = Decades::over(&[Duration::from_micros(700), ms(1010)]);
        assert_eq!((scale.from, scale.to), (-1, 3));
        assert!((scale.share(0.1), scale.share(1000.0)) == (0.0, 1.0));
        assert_eq!((decade_name(-1), decade_name(0), decade_name(3)), ("0.1 ms".into(), "1 ms".into(), "1 s".into()));
    }
}
