//! Scales: the lines that say how much a height is.

use maud::{Markup, html};

use super::{LEFT, PLOT, px};

/// A line across the drawing with its value.
pub(super) fn grid(y: f64, value: &str) -> Markup {
    html! {
        line class="grid" x1=(px(LEFT)) x2=(px(LEFT + PLOT)) y1=(px(y)) y2=(px(y)) {}
        text class="tick" x=(px(LEFT - 8.0)) y=(px(y + 4.0)) text-anchor="end" { (value) }
    }
}

/// Round steps from 0 to at most `top`, four or so.
pub(super) fn ticks(top: u32) -> Vec<u32> {
    let steps = [1, 2, 5].into_iter().cycle().zip(0..).map(|(digit, number)| digit * 10_u32.saturating_pow(number / 3));
    let step = steps.take(27).find(|step| top / step <= 5).unwrap_or(top.max(1));
    (0..=top / step).map(|number| number * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(125), [0, 50, 100]);
        assert_eq!(ticks(20), [0, 5, 10, 15, 20]);
        assert_eq!(ticks(0), [0]);
    }
}
