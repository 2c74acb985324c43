//! Lines over time with a mark for each second, and the keys that name them.

use maud::{Markup, html};

use super::{Area, LEFT, PLOT, Time, px};

/// How much room a key takes: its sample, each letter of its name, and the gap to the next.
const SAMPLE: f64 = 30.0;
const LETTER: f64 = 6.4;
const KEY_GAP: f64 = 22.0;

/// One line.
pub(super) struct Line {
    /// Its name.
    pub name: &'static str,
    /// Its looks in the style sheet: `with`, `without` or `clients`, and more.
    pub class: &'static str,
    /// For each second the height as a share of the panel, and what the mark says.
    pub points: Vec<(f64, String)>,
}

/// The lines, and their keys at the right of the title.
pub(super) fn render(lines: &[Line], time: Time, title: Area, area: Area) -> Markup {
    let mut right = LEFT + PLOT + KEY_GAP;
    let mut places: Vec<f64> = lines
        .iter()
        .rev()
        .map(|line| {
            right -= KEY_GAP + SAMPLE + 8.0 + line.name.len() as f64 * LETTER;
            right
        })
        .collect();
    places.reverse();
    html! {
        @for (line, key_x) in lines.iter().zip(places) {
            @let placed = line.points.iter().zip(0_u32..).map(|((share, said), second)| {
                (time.x(f64::from(second) + 0.5), area.at(*share), said)
            }).collect::<Vec<_>>();
            g class=(format!("line {}", line.class)) {
                polyline points=(placed.iter().map(|(x, y, _)| format!("{},{}", px(*x), px(*y))).collect::<Vec<_>>().join(" ")) {}
                @for (x, y, said) in placed { (mark(line, x, y, said)) }
                (key(line, key_x, title.at(0.42)))
            }
        }
    }
}

/// A round mark with Holdfast, a square one without, none for what clients do.
fn mark(line: &Line, x: f64, y: f64, title: &str) -> Markup {
    html! {
        @if line.class.starts_with("without") {
            rect class="mark" x=(px(x - 3.0)) y=(px(y - 3.0)) width="6" height="6" { title { (title) } }
        } @else {
            circle class="mark" cx=(px(x)) cy=(px(y)) r="3.2" { title { (title) } }
        }
    }
}

fn key(line: &Line, x: f64, y: f64) -> Markup {
    html! {
        polyline points=(format!("{},{} {},{}", px(x), px(y), px(x + SAMPLE), px(y))) {}
        (mark(line, x + SAMPLE / 2.0, y, line.name))
        text class="key" x=(px(x + SAMPLE + 8.0)) y=(px(y + 4.0)) { (line.name) }
    }
}
