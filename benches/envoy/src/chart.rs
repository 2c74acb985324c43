//! The cost of a request as a chart: a bar for each of the main cases, what Envoy costs by itself in grey, what is added in
//! colour, and a whisker over the middle half of the rounds.

use anyhow::{Context, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::case::Group;
use crate::report::{Cost, Report};

const WIDTH: u32 = 960;
const TOP: i32 = 84;
const BOTTOM: i32 = 60;
const ROW: i32 = 30;
const BAR: i32 = 18;

/// Where the bars begin, and where the longest ends.
const LEFT: i32 = 330;
const RIGHT: i32 = 830;

const INK: RGBColor = RGBColor(33, 37, 41);
const FAINT: RGBColor = RGBColor(110, 118, 125);
const LINE: RGBColor = RGBColor(222, 226, 230);
const ENVOY: RGBColor = RGBColor(190, 197, 203);
const HOLDFAST: RGBColor = RGBColor(31, 111, 181);
const IDLE: RGBColor = RGBColor(224, 151, 46);
const PEER: RGBColor = RGBColor(122, 98, 168);

/// Draws the chart as SVG.
pub fn render(report: &Report) -> anyhow::Result<String> {
    let costs: Vec<&Cost> = report.cases.iter().filter(|cost| cost.group != Group::Scale).collect();
    let most = costs.iter().map(|cost| cost.cpu_us.high).fold(1.0, f64::max);
    let step = step(most);
    let end = (most / step).ceil() * step;
    let rows = i32::try_from(costs.len())?;
    let height = TOP + ROW * rows + BOTTOM;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height.unsigned_abs())).into_drawing_area();
        let sheet = Sheet { area, end };
        sheet.draw(report, &costs, step, TOP + ROW * rows).map_err(|error| anyhow!("{error}")).context("the chart")?;
    }
    Ok(svg)
}

/// The distance of two lines: 1, 2 or 5 times a power of ten, so that there are at most ten of them.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 10.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| most / step <= 10.0).unwrap_or(most)
}

struct Sheet<'a> {
    area: DrawingArea<SVGBackend<'a>, plotters::coord::Shift>,
    /// The microseconds at [`RIGHT`].
    end: f64,
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

impl<'a> Sheet<'a> {
    fn x(&self, us: f64) -> i32 {
        LEFT + (f64::from(RIGHT - LEFT) * us / self.end).round() as i32
    }

    fn text(&self, text: &str, at: (i32, i32), size: f64, color: RGBColor, from: HPos) -> Drawn<'a> {
        let style = TextStyle::from(("sans-serif", size).into_font()).color(&color).pos(Pos::new(from, VPos::Center));
        self.area.draw(&Text::new(text.to_owned(), at, style))
    }

    fn bar(&self, y: i32, from: f64, to: f64, color: RGBColor) -> Drawn<'a> {
        let corners = [(self.x(from), y - BAR / 2), (self.x(to), y + BAR / 2)];
        self.area.draw(&Rectangle::new(corners, color.filled()))
    }

    fn line(&self, from: (i32, i32), to: (i32, i32), color: RGBColor) -> Drawn<'a> {
        self.area.draw(&PathElement::new(vec![from, to], color.stroke_width(1)))
    }

    fn draw(&self, report: &Report, costs: &[&Cost], step: f64, bottom: i32) -> Drawn<'a> {
        self.area.fill(&WHITE)?;
        self.text("Processor time of Envoy per request", (20, 24), 20.0, INK, HPos::Left)?;
        let where_and_when = format!(
            "microseconds, user and system; medians of {} rounds, whiskers over their middle half; Envoy {}, {}, {}",
            report.parameters.rounds, report.envoy, report.machine.cpu, report.date
        );
        self.text(&where_and_when, (20, 50), 13.0, FAINT, HPos::Left)?;
        let lines = (0..=10).map(|number| f64::from(number) * step).take_while(|us| *us <= self.end * 1.001);
        for us in lines {
            self.line((self.x(us), TOP - 6), (self.x(us), bottom), LINE)?;
            self.text(&format!("{us}"), (self.x(us), bottom + 12), 12.0, FAINT, HPos::Center)?;
        }
        for (row, cost) in (0..).zip(costs) {
            self.row(TOP + ROW * row + ROW / 2, cost)?;
        }
        self.legend(bottom + 40)?;
        self.area.present()
    }

    fn row(&self, y: i32, cost: &Cost) -> Drawn<'a> {
        self.text(&cost.label, (20, y), 14.0, INK, HPos::Left)?;
        self.text(cost.what, (LEFT - 10, y), 12.0, FAINT, HPos::Right)?;
        let whole = cost.cpu_us.median;
        let above = cost.overhead_us.map_or(0.0, |overhead| overhead.median);
        let color = color(cost);
        // A rejection has no part that is the cost of a request without filter.
        let own = if color == ENVOY { whole } else { (whole - above).min(whole) };
        let own = if cost.rejected { 0.0 } else { own };
        self.bar(y, 0.0, own, ENVOY)?;
        self.bar(y, own, whole, color)?;
        let (least, most) = (self.x(cost.cpu_us.low), self.x(cost.cpu_us.high));
        self.line((least, y), (most, y), INK)?;
        self.line((least, y - 4), (least, y + 4), INK)?;
        self.line((most, y - 4), (most, y + 4), INK)?;
        let figure = match cost.times_base {
            Some(times) if cost.rejected => format!("{whole:.1}  ({:.2} x none)", times.median),
            Some(_) => format!("{whole:.1}  ({above:+.1})"),
            None => format!("{whole:.1}"),
        };
        self.text(&figure, (most.max(self.x(whole)) + 8, y), 12.0, INK, HPos::Left)
    }

    fn legend(&self, y: i32) -> Drawn<'a> {
        let entries = [
            (ENVOY, "Envoy without filter"),
            (IDLE, "filters that do nothing"),
            (HOLDFAST, "Holdfast"),
            (PEER, "Envoy's own, and Lua"),
        ];
        for (column, (color, name)) in (0..).zip(entries) {
            let x = 20 + column * 190;
            self.area.draw(&Rectangle::new([(x, y - 6), (x + 12, y + 6)], color.filled()))?;
            self.text(name, (x + 20, y), 12.0, INK, HPos::Left)?;
        }
        Ok(())
    }
}

fn color(cost: &Cost) -> RGBColor {
    match (cost.group, cost.module.is_some()) {
        (_, true) => HOLDFAST,
        (Group::Peers, false) => PEER,
        _ if cost.base == cost.case => ENVOY,
        _ => IDLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_at_round_figures() {
        assert_eq!(step(76.0), 10.0);
        assert_eq!(step(101.0), 20.0);
        assert_eq!(step(340.0), 50.0);
        assert_eq!(step(7.5), 1.0);
    }
}
