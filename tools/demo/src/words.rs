//! Numbers as people read them.

use std::time::Duration;

use crate::scene::Scene;

/// A client's wait: `0.8 ms`, `6.1 ms`, `250 ms`, `1.00 s`.
pub fn wait(wait: Duration) -> String {
    let ms = wait.as_secs_f64() * 1000.0;
    if ms < 9.95 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.2} s", ms / 1000.0)
    }
}

/// A moment or a stretch of the story: `6.6 s`.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A count, with nothing where there is nothing to see.
pub fn count(count: u32) -> String {
    if count == 0 { "-".to_owned() } else { count.to_string() }
}

/// `part` of `whole` in whole percent.
pub fn percent(part: u64, whole: u64) -> String {
    format!("{}%", (part * 100 + whole / 2).checked_div(whole).unwrap_or_default())
}

/// `one thing`, `2 things`.
pub fn plural(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// The load: `100 GET /items and 25 POST /checkout a second`.
pub fn load(scene: &Scene) -> String {
    let callers: Vec<String> =
        scene.callers.iter().map(|caller| format!("{} {} {}", caller.per_second, caller.method, caller.path)).collect();
    format!("{} a second", callers.join(" and "))
}

/// The course: `5 s healthy, 8 s outage, 6 s recovery`.
pub fn course(scene: &Scene) -> String {
    let phases: Vec<String> =
        scene.phases.iter().map(|phase| format!("{} s {}", phase.seconds, phase.kind.word())).collect();
    phases.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_keep_two_or_three_digits() {
        let us = Duration::from_micros;
        assert_eq!(wait(us(840)), "0.8 ms");
        assert_eq!(wait(us(9_960)), "10 ms");
        assert_eq!(wait(us(250_400)), "250 ms");
        assert_eq!(wait(us(999_600)), "1.00 s");
        assert_eq!(wait(us(1_004_000)), "1.00 s");
    }

    #[test]
    fn shares_are_rounded_and_nothing_of_nothing_is_nothing() {
        assert_eq!(percent(1, 3), "33%");
        assert_eq!(percent(2, 3), "67%");
        assert_eq!(percent(0, 0), "0%");
    }
}
