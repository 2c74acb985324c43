//! The panel of waits: how long clients waited, on a logarithmic scale.

use std::time::Duration;

use maud::{Markup, html};

use super::lines::{self, Line};
use super::{Area, Time, panel_title, scale};
use crate::recording::Runs;
use crate::words;

/// Median and 99th percentile of each second, for both runs.
pub(super) fn render(time: Time, title: Area, area: Area, runs: Runs<'_>) -> Markup {
    let waits = [
        ("without, p99", "without p99", runs.without, 99),
        ("without, median", "without median", runs.without, 50),
        ("with Holdfast, p99", "with p99", runs.with, 99),
        ("with Holdfast, median", "with median", runs.with, 50),
    ]
    .map(|(name, class, recording, percent)| {
        let waits: Vec<Duration> = (0..time.seconds).map(|second| recording.second(second).wait(percent)).collect();
        (name, class, waits)
    });
    let scale = Decades::over(waits.iter().flat_map(|(.., waits)| waits));
    let lines = waits.map(|(name, class, waits)| {
        let point = |(wait, second): (Duration, u32)| {
            let share = scale.share(wait.as_secs_f64() * 1000.0);
            (share, format!("second {second}: {name} {}", words::wait(wait)))
        };
        Line { name, class, points: waits.into_iter().zip(1..).map(point).collect() }
    });
    html! {
        (panel_title(title, "How long clients waited", "logarithmic"))
        @for decade in scale.from..=scale.to {
            (scale::grid(area.at(scale.share(10f64.powi(decade))), &decade_name(decade)))
        }
        (lines::render(&lines, time, title, area))
    }
}

/// A logarithmic scale over whole decades of milliseconds.
#[derive(Clone, Copy, Debug)]
struct Decades {
    from: i32,
    to: i32,
}

impl Decades {
    fn over<'a>(waits: impl Iterator<Item = &'a Duration>) -> Self {
        let log = waits.filter(|wait| !wait.is_zero()).map(|wait| (wait.as_secs_f64() * 1000.0).log10());
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
        let scale = Decades::over([Duration::from_micros(700), ms(1010)].iter());
        assert_eq!((scale.from, scale.to), (-1, 3));
        assert!((scale.share(0.1), scale.share(1000.0)) == (0.0, 1.0));
        assert_eq!((decade_name(-1), decade_name(0), decade_name(3)), ("0.1 ms".into(), "1 ms".into(), "1 s".into()));
    }
}
