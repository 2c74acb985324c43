//! The callers: requests at a steady rate, whatever the answers do.

use std::sync::Arc;
use std::time::Duration;

use holdfast_tests::{Client, with_header};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::answer::{Answer, Fate};
use crate::scene::{Caller, Scene};
use crate::server::{SENT_IN, content};

/// Callers at work. They stop when this is dropped.
pub struct Load {
    /// What they get, as it comes. Ends after the last.
    pub answers: UnboundedReceiver<Answer>,
    _callers: JoinSet<()>,
}

/// Sends all requests of a scene from `start` on.
pub fn begin(scene: &Scene, client: &Client, start: Instant) -> Load {
    let (sender, answers) = unbounded_channel();
    let mut callers = JoinSet::new();
    for (number, caller) in scene.callers.iter().enumerate() {
        callers.spawn(call(number, caller.clone(), scene.seconds(), client.clone(), start, sender.clone()));
    }
    Load { answers, _callers: callers }
}

async fn call(
    number: usize,
    caller: Caller,
    seconds: u32,
    client: Client,
    start: Instant,
    answers: UnboundedSender<Answer>,
) {
    let answers = Arc::new(answers);
    let mut under_way = JoinSet::new();
    for index in 0..caller.per_second * seconds {
        let due = due(index, caller.per_second);
        sleep_until(start + due).await;
        let path = caller.path_of(index);
        let mut request = with_header(Client::request(&path), SENT_IN, due.as_secs().to_string());
        *request.method_mut() = caller.method.clone();
        let (client, answers) = (client.clone(), Arc::clone(&answers));
        under_way.spawn(async move {
            let sent = Instant::now();
            let outcome = client.send(request).await;
            let (waited, fate) = (sent.elapsed(), Fate::of(&outcome));
            let is_own = outcome.as_ref().is_ok_and(|response| response.body == content(&path));
            let age = outcome.ok().and_then(|response| response.headers.get("age")?.to_str().ok()?.parse().ok());
            // Nobody listens any more when the run has been broken off.
            let _ = answers.send(Answer { caller: number, sent: due, waited, fate, is_own, age });
        });
        while under_way.try_join_next().is_some() {}
    }
    under_way.join_all().await;
}

/// When a request is due: evenly in the first nine tenths of its second, so that it is answered by a healthy service
/// before a full second, where the phases change.
fn due(index: u32, per_second: u32) -> Duration {
    let (second, place) = (index / per_second, index % per_second);
    Duration::from_secs(second.into()) + Duration::from_millis(900) * (2 * place + 1) / (2 * per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_share_of_requests() {
        for per_second in [1, 7, 25, 100] {
            let in_second = |second: u64| {
                (0..per_second * 20).filter(|index| due(*index, per_second).as_secs() == second).count() as u32
            };
            assert!((0..20).all(|second| in_second(second) == per_second), "{per_second} a second");
        }
    }
}
