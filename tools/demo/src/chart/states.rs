//! The strips: the state of each breaker over time.

use std::time::Duration;

use maud::{Markup, html};

use super::{Area, LEFT, Time, px};
use crate::change::State;
use crate::recording::Recording;
use crate::words;

/// The narrowest stretch of a state that still shows, and the narrowest that has room for its word.
const THINNEST: f64 = 3.0;
const ROOM_PER_LETTER: f64 = 6.2;

/// A breaker's states one after the other.
pub(super) fn strip(time: Time, area: Area, policy: &str, recording: &Recording) -> Markup {
    html! {
        text class="tick" x=(px(LEFT - 8.0)) y=(px(area.at(0.3))) text-anchor="end" { (policy) }
        @for (state, from, to) in states(policy, recording, Duration::from_secs(time.seconds.into())) {
            @let x = time.of(from);
            @let width = (time.of(to) - x).max(THINNEST);
            g {
                title { (format!("breaker {policy}: {} from {} to {}", state.word(), words::seconds(from), words::seconds(to))) }
                (state_box(state, area, x, width - 1.0))
                @if let Some(word) = fitting(state, width) {
                    text class=(format!("state-name {}", state.word())) x=(px(x + width / 2.0)) y=(px(area.at(0.3)))
                        text-anchor="middle" { (word) }
                }
            }
        }
    }
}

/// What a state looks like.
pub(super) fn state_box(state: State, area: Area, x: f64, width: f64) -> Markup {
    let (x, y, width, height) = (px(x), px(area.top), px(width), px(area.height));
    html! {
        rect class=(format!("state {}", state.word())) x=(x) y=(y) width=(width) height=(height) rx="2" {}
        @if matches!(state, State::HalfOpen | State::Ramping) {
            rect fill="url(#stripes)" x=(x) y=(y) width=(width) height=(height) rx="2" {}
        }
    }
}

fn states(policy: &str, recording: &Recording, end: Duration) -> Vec<(State, Duration, Duration)> {
    let mut states = Vec::new();
    let mut now = (State::Closed, Duration::ZERO);
    for change in recording.changes_of(policy) {
        states.push((now.0, now.1, change.at));
        now = (change.to, change.at);
    }
    states.push((now.0, now.1, end.max(now.1)));
    states
}

fn fitting(state: State, width: f64) -> Option<&'static str> {
    let word = state.word();
    (word.len() as f64 * ROOM_PER_LETTER + 4.0 <= width).then_some(word)
}
