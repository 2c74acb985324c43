//! One run of a scene: the phases in their time, the callers, and everything that is observed meanwhile.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::change::Change;
use crate::ejection::Told;
use crate::load;
use crate::recording::Recording;
use crate::scene::Scene;
use crate::sequence::{self, Sequence};
use crate::stage::Stage;

/// How often Envoy's log is looked at: also how exact the time of a change is.
const LOOK: Duration = Duration::from_millis(20);

/// How long Envoy may take to count the last request.
const SETTLE: Duration = Duration::from_millis(200);

/// What is told while a run goes on.
pub type Moment = sequence::Moment<Event>;

/// What happens beside the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The phase of this number begins.
    Phase(usize),
    /// A breaker changes its state.
    Change(Change),
    /// Holdfast tells of a host.
    Told(Told),
}

/// Performs the scene and tells of it in the order of the run's clock.
pub async fn perform(
    scene: &Scene,
    stage: &mut Stage,
    mut tell: impl FnMut(&Moment, &Recording) -> anyhow::Result<()>,
) -> anyhow::Result<Recording> {
    let start = Instant::now() + LOOK;
    let mut load = load::begin(scene, &stage.client(), start);
    let mut recording = Recording::default();
    let mut sequence = Sequence::new();
    let mut answered = vec![0; scene.seconds() as usize];
    let mut phases = scene.spans().enumerate().peekable();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);

    while sequence.seconds_told() < scene.seconds() {
        let next = phases.peek().map(|(_, (_, span))| Duration::from_secs(span.start.into()));
        tokio::select! {
            // Phases begin when they should, however many answers there are.
            biased;
            () = sleep_until(start + next.unwrap_or_default()), if next.is_some() => {
                if let (Some(at), Some((number, (phase, _)))) = (next, phases.next()) {
                    stage.set(phase);
                    sequence.happened(at, Event::Phase(number));
                }
            }
            _ = look.tick() => {
                stage.check()?;
                let now = start.elapsed();
                for event in stage.events(now) {
                    match &event {
                        Event::Change(change) => recording.changes.push(change.clone()),
                        Event::Told(told) => recording.told.push(told.clone()),
                        Event::Phase(_) => {}
                    }
                    sequence.happened(now, event);
                }
            }
            Some(answer) = load.answers.recv() => {
                if let Some(count) = answered.get_mut(answer.sent.as_secs() as usize) {
                    *count += 1;
                }
                recording.answers.push(answer);
            }
        }
        let over = start.elapsed().as_secs();
        let complete = |second: u32| {
            let all = answered.get(second as usize).is_some_and(|count| *count == scene.rate());
            all && over > second.into()
        };
        while let Some(moment) = sequence.next(complete) {
            if matches!(moment, Moment::Second(_)) {
                // A request that has been answered is tried no more.
                recording.take_tries(stage.attempts(start));
            }
            tell(&moment, &recording)?;
        }
    }
    sleep(SETTLE).await;
    recording.take_tries(stage.attempts(start));
    recording.at_standby = stage.at_standby();
    recording.stats = stage.stats().await?;
    Ok(recording)
}
