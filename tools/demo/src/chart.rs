//! The drawing: both runs over one time axis, panel by panel: what clients got, what the breakers did, how long clients
//! waited, what the servers had to take.
//!
//! Colours come from the page's style sheet, so that the drawing follows the reader's light or dark scheme. Every kind
//! of answer and every state has a pattern or a word beside its colour.

mod attempts;
mod bars;
mod hosts;
mod lines;
mod scale;
mod states;
mod waits;

use std::time::Duration;

use maud::{Markup, html};

use crate::answer::Fate;
use crate::change::State;
use crate::column::Column;
use crate::recording::Runs;
use crate::scene::{Kind, Scene};
use crate::words;

/// A part of the drawing, as wide as the time axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panel {
    /// What clients got in each second, with Holdfast and below it without; between them the states of the breakers.
    Answers,
    /// What reached each host, in both runs, and when it was out.
    Hosts,
    /// How long clients waited, in both runs.
    Waits,
    /// The attempts that reached the servers, in both runs, and the requests that clients sent.
    Attempts,
}

/// The drawing's own units; the page scales it.
const WIDTH: f64 = 1080.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 16.0;
const PLOT: f64 = WIDTH - LEFT - RIGHT;

const PHASES_HEIGHT: f64 = 24.0;
const TITLE_HEIGHT: f64 = 34.0;
const BARS_HEIGHT: f64 = 170.0;
const STRIP_HEIGHT: f64 = 20.0;
const WAITS_HEIGHT: f64 = 170.0;
const TRIES_HEIGHT: f64 = 220.0;
const AXIS_HEIGHT: f64 = 40.0;
const GAP: f64 = 10.0;

/// A place in the drawing: from the top, how high.
#[derive(Clone, Copy, Debug)]
struct Area {
    top: f64,
    height: f64,
}

impl Area {
    fn bottom(self) -> f64 {
        self.top + self.height
    }

    /// Where `share` (0 to 1) of the height is.
    fn at(self, share: f64) -> f64 {
        self.bottom() - share * self.height
    }
}

/// Hands out places from the top down.
struct Layout(f64);

impl Layout {
    fn take(&mut self, height: f64) -> Area {
        let area = Area { top: self.0, height };
        self.0 += height;
        area
    }
}

/// The drawing as an SVG element. The page that holds it needs the [`patterns`].
pub fn render(scene: &Scene, runs: Runs<'_>) -> Markup {
    let time = Time { seconds: scene.seconds() };
    let mut layout = Layout(0.0);
    let phases = layout.take(PHASES_HEIGHT);
    let body_top = layout.0;
    let mut panels: Vec<Markup> = Vec::new();
    for panel in &scene.panels {
        if !panels.is_empty() {
            layout.take(GAP);
        }
        panels.push(panel.draw(scene, time, &mut layout, runs));
    }
    let body = Area { top: body_top, height: layout.0 - body_top };
    let axis = layout.take(AXIS_HEIGHT);
    let (title, desc) = (format!("{}-chart-title", scene.name), format!("{}-chart-description", scene.name));
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", layout.0)) role="img" aria-labelledby=(format!("{title} {desc}")) {
            title id=(title) { "What happened in each second, with Holdfast and without" }
            desc id=(desc) { (description(scene, runs)) }
            (phase_bands(scene, time, phases, body))
            @for panel in panels { (panel) }
            (time_axis(time, axis))
        }
    }
}

impl Panel {
    fn draw(self, scene: &Scene, time: Time, layout: &mut Layout, runs: Runs<'_>) -> Markup {
        match self {
            Panel::Answers => answers(scene, time, layout, runs),
            Panel::Hosts => hosts::render(scene, time, layout, runs),
            Panel::Waits => {
                let (title, area) = (layout.take(TITLE_HEIGHT), layout.take(WAITS_HEIGHT));
                waits::render(time, title, area, runs)
            }
            Panel::Attempts => {
                let (title, area) = (layout.take(TITLE_HEIGHT), layout.take(TRIES_HEIGHT));
                attempts::render(scene, time, title, area, runs)
            }
        }
    }
}

fn answers(scene: &Scene, time: Time, layout: &mut Layout, runs: Runs<'_>) -> Markup {
    let (with_title, with_bars) = (layout.take(TITLE_HEIGHT), layout.take(BARS_HEIGHT));
    layout.take(GAP);
    let strips = scene.breakers().into_iter().map(|policy| {
        let strip = layout.take(STRIP_HEIGHT);
        layout.take(GAP / 2.0);
        states::strip(time, strip, policy, runs.with)
    });
    let strips: Vec<Markup> = strips.collect();
    let (without_title, without_bars) = (layout.take(TITLE_HEIGHT), layout.take(BARS_HEIGHT));
    html! {
        (panel_title(with_title, "With Holdfast", "answers per second"))
        (bars::render(scene, time, with_bars, runs.with))
        @for strip in strips { (strip) }
        (panel_title(without_title, "Without Holdfast", "the same load"))
        (bars::render(scene, time, without_bars, runs.without))
    }
}

/// What the kinds of answers and the states look like; stands above the drawing.
pub fn legend(scene: &Scene) -> Markup {
    let states = [
        (State::Closed, "closed: requests pass"),
        (State::Open, "open: none passes"),
        (State::HalfOpen, "half-open: a few probe the service"),
    ];
    html! {
        @if scene.panels.contains(&Panel::Hosts) { (hosts::legend()) }
        @if scene.panels.contains(&Panel::Answers) { ul class="legend" {
            @for fate in Fate::ALL.into_iter().filter(|fate| scene.columns.contains(&Column::Answers(*fate))) {
                li {
                    svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" { (swatch(fate)) }
                    (explanation(fate))
                }
            }
        } }
        @if !scene.breakers().is_empty() {
            ul class="legend" {
                @for (state, explanation) in states {
                    li {
                        svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" {
                            (states::state_box(state, Area { top: 1.0, height: 14.0 }, 1.0, 14.0))
                        }
                        "breaker " (explanation)
                    }
                }
            }
        }
    }
}

fn swatch(fate: Fate) -> Markup {
    html! {
        rect class=(format!("bar {}", class(fate))) width="16" height="16" rx="2" {}
        @if let Some(pattern) = pattern(fate) { rect fill=(pattern) width="16" height="16" rx="2" {} }
    }
}

fn explanation(fate: Fate) -> &'static str {
    match fate {
        Fate::Served => "ok: answered by the service",
        Fate::Fallback => "fallback: the answer the policy chose",
        Fate::Rejected => "rejected at once: 503 with retry-after",
        Fate::Failed => "errors",
    }
}

fn class(fate: Fate) -> &'static str {
    match fate {
        Fate::Served => "served",
        Fate::Fallback => "fallback",
        Fate::Rejected => "rejected",
        Fate::Failed => "failed",
    }
}

/// What lies over the colour.
fn pattern(fate: Fate) -> Option<&'static str> {
    match fate {
        Fate::Served => None,
        Fate::Fallback => Some("url(#diagonal)"),
        Fate::Rejected => Some("url(#dots)"),
        Fate::Failed => Some("url(#crosses)"),
    }
}

/// The patterns that drawings and legends use, once for a page.
pub fn patterns() -> Markup {
    html! {
        svg class="patterns" width="0" height="0" aria-hidden="true" {
            defs {
                pattern id="diagonal" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    path class="ink" d="M0 0V7" {}
                }
                pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    path class="state-ink" d="M1.5 0V6" {}
                }
                pattern id="dots" width="7" height="7" patternUnits="userSpaceOnUse" {
                    circle class="ink-dot" cx="2" cy="2" r="1.2" {}
                    circle class="ink-dot" cx="5.5" cy="5.5" r="1.2" {}
                }
                pattern id="crosses" width="8" height="8" patternUnits="userSpaceOnUse" {
                    path class="ink" d="M0 0L8 8M8 0L0 8" {}
                }
            }
        }
    }
}

/// The time axis.
#[derive(Clone, Copy, Debug)]
struct Time {
    seconds: u32,
}

impl Time {
    fn x(self, seconds: f64) -> f64 {
        LEFT + PLOT * seconds / f64::from(self.seconds.max(1))
    }

    fn of(self, at: Duration) -> f64 {
        self.x(at.as_secs_f64().min(f64::from(self.seconds)))
    }
}

fn phase_bands(scene: &Scene, time: Time, labels: Area, body: Area) -> Markup {
    html! {
        @for (phase, span) in scene.spans() {
            @let (from, to) = (time.x(f64::from(span.start)), time.x(f64::from(span.end)));
            rect class=(format!("phase {}", phase.kind.word())) x=(px(from)) y="0" width=(px(to - from))
                height=(px(body.bottom())) {
                title { (phase.told) }
            }
            @if span.start > 0 { line class="boundary" x1=(px(from)) x2=(px(from)) y1="0" y2=(px(body.bottom())) {} }
            text class="phase-name" x=(px((from + to) / 2.0)) y=(px(labels.at(0.3))) text-anchor="middle" {
                @if phase.name == Kind::Outage.word() { "outage: " (scene.service) " is down" } @else { (phase.name) }
            }
        }
    }
}

fn panel_title(area: Area, title: &str, more: &str) -> Markup {
    html! {
        text class="panel" x=(px(LEFT)) y=(px(area.at(0.3))) {
            tspan class="strong" { (title) }
            tspan class="soft" dx="8" { (more) }
        }
    }
}

/// A word on the drawing, readable on any colour, around this place.
fn tag(x: f64, y: f64, text: &str, class: &str) -> Markup {
    let width = text.len() as f64 * 6.8 + 14.0;
    html! {
        g class=(format!("tag {class}")) aria-hidden="true" {
            rect x=(px(x - width / 2.0)) y=(px(y - 9.0)) width=(px(width)) height="18" rx="9" {}
            text x=(px(x)) y=(px(y + 4.0)) text-anchor="middle" { (text) }
        }
    }
}

fn time_axis(time: Time, area: Area) -> Markup {
    html! {
        line class="axis" x1=(px(LEFT)) x2=(px(LEFT + PLOT)) y1=(px(area.top)) y2=(px(area.top)) {}
        @for second in 0..=time.seconds {
            @let x = time.x(f64::from(second));
            line class="axis" x1=(px(x)) x2=(px(x)) y1=(px(area.top)) y2=(px(area.top + 4.0)) {}
            text class="tick" x=(px(x)) y=(px(area.top + 17.0)) text-anchor="middle" { (second) }
        }
        text class="tick" x=(px(LEFT + PLOT / 2.0)) y=(px(area.top + 35.0)) text-anchor="middle" { "seconds" }
    }
}

/// What the drawing shows, for those who cannot see it.
fn description(scene: &Scene, runs: Runs<'_>) -> String {
    let mut said = format!("Each of {} seconds in panels over one time axis. ", scene.seconds());
    for (name, recording) in [("With Holdfast", runs.with), ("Without Holdfast", runs.without)] {
        for (phase, span) in scene.spans() {
            let tally = recording.tally(span.clone());
            let attempts = recording.attempts(span);
            let counts: Vec<String> = Fate::ALL
                .into_iter()
                .filter(|fate| tally.count(*fate) > 0)
                .map(|fate| format!("{} {}", tally.count(fate), fate.word()))
                .collect();
            let median = words::wait(tally.wait(50));
            said.push_str(&format!(
                "{name}, {}: {}, median wait {median}, {attempts} attempts at {}. ",
                phase.name,
                counts.join(", "),
                scene.service
            ));
        }
    }
    said
}

/// A coordinate, short.
fn px(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scene, test_data};

    fn drawn(scene: &Scene) -> String {
        let (with, without) = (test_data::run(scene, true), test_data::run(scene, false));
        render(scene, Runs { with: &with, without: &without }).into_string()
    }

    #[test]
    fn every_second_of_both_runs_has_its_bar_with_its_numbers() {
        let (scene, ..) = test_data::runs("outage");
        let svg = drawn(&scene);
        for second in 1..=scene.seconds() {
            assert_eq!(svg.matches(&format!("<title>second {second}: ")).count(), 2 + 4, "two bars and four marks");
        }
        assert!(svg.contains("second 1: 125 ok, 0 fallback, 0 rejected, 0 errors; waits: median 6.0 ms"), "{svg}");
        assert!(svg.contains("second 8: 0 ok, 100 fallback, 25 rejected, 0 errors"), "{svg}");
        assert!(svg.contains("second 8: 0 ok, 0 fallback, 0 rejected, 125 errors"), "{svg}");
    }

    #[test]
    fn the_panel_of_attempts_has_both_runs_and_what_clients_sent() {
        let (scene, ..) = test_data::runs("storm");
        let svg = drawn(&scene);
        for part in [
            "second 5: 100 requests of clients",
            "second 5: 125 attempts with Holdfast",
            "second 5: 400 attempts without",
            ">400 attempts, 4.00x<",
            ">125 attempts, 1.25x<",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert!(!svg.contains("breaker"), "there is none in this scene");
    }

    #[test]
    fn each_host_has_a_lane_in_both_runs_and_says_when_it_was_out() {
        let (scene, ..) = test_data::runs("ejection");
        let svg = drawn(&scene);
        for name in ["With Holdfast", "Without Holdfast"] {
            for host in 1..=scene.hosts {
                assert!(
                    svg.contains(&format!("<title>{name}, host {host}: attempts for the requests of each second: 4"))
                );
            }
        }
        for part in
            ["host 2: out from 3.2 s to 12.4 s", "host 4: out from 6.0 s to 9.1 s", ">probe failed<", ">probe ok<"]
        {
            assert!(svg.contains(part), "{part}");
        }
    }

    #[test]
    fn a_legend_explains_what_is_drawn_and_nothing_else() {
        let legends: Vec<String> = scene::all().iter().map(|scene| legend(scene).into_string()).collect();
        let [outage, storm, ejection, stale, failover] = legends.as_slice() else { panic!("five scenes") };
        for part in ["fallback", "half-open"] {
            let has = [outage, stale, failover].map(|legend| legend.contains(part));
            assert!(has == [true; 3] && !storm.contains(part), "{part}");
        }
        assert!(storm.contains("ok: answered by the service") && storm.contains("errors"), "{storm}");
        assert!(ejection.contains("a host that is slow") && !storm.contains("a host that is slow"), "{ejection}");
    }

    #[test]
    fn the_strip_shows_each_state_from_when_to_when() {
        let (scene, ..) = test_data::runs("outage");
        let svg = drawn(&scene);
        for part in [
            "breaker items: closed from 0.0 s to 6.0 s",
            "breaker items: open from 6.0 s to 8.0 s",
            "breaker items: half-open from 8.0 s to 9.0 s",
            "breaker checkout: closed from 14.0 s to 19.0 s",
        ] {
            assert!(svg.contains(part), "{part}");
        }
    }

    #[test]
    fn all_is_drawn_inside_the_drawing() {
        for scene in scene::all() {
            let svg = drawn(&scene);
            let numbers = |attribute: &str| -> Vec<f64> {
                let begin = format!(" {attribute}=\"");
                let values = svg.split(&begin).skip(1).filter_map(|rest| rest.split('"').next());
                values.map(|number| number.parse().unwrap()).collect()
            };
            let height: f64 = svg.split('"').nth(1).unwrap().split(' ').next_back().unwrap().parse().unwrap();
            for (attribute, most) in [("x", WIDTH), ("cx", WIDTH), ("y", height), ("cy", height)] {
                for number in numbers(attribute) {
                    assert!((0.0..=most).contains(&number), "{}: {attribute} is {number}", scene.name);
                }
            }
        }
    }
}
