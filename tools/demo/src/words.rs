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
pub fn count(count: u64) -> String {
    if count == 0 { "-".to_owned() } else { count.to_string() }
}

/// `part` of `whole` in whole percent.
pub fn percent(part: u64, whole: u64) -> String {
    format!("{}%", (part * 100 + whole / 2).checked_div(whole).unwrap_or_default())
}

/// How many `attempts` a request became, on average: `1.20x`, with nothing where there is nothing to see.
pub fn factor(attempts: u64, requests: u32) -> String {
    if requests == 0 { "-".to_owned() } else { format!("{:.2}x", attempts as f64 / f64::from(requests)) }
}

/// `1 server`, `2 servers`, `2 stories`.
pub fn plural(count: usize, thing: &str) -> String {
    match thing.strip_suffix('y') {
        _ if count == 1 => format!("{count} {thing}"),
        Some(stem) => format!("{count} {stem}ies"),
        None => format!("{count} {thing}s"),
    }
}

/// Who serves: `2 servers of the service orders`, and under how many attempts they break down.
pub fn servers(scene: &Scene) -> String {
    let servers = format!("{} of the service {}", plural(scene.hosts, "server"), scene.service);
    let servers = match scene.standby {
        Some(name) => format!("{servers} and one of its {name}"),
        None => servers,
    };
    match scene.capacity {
        Some(capacity) => format!("{servers}, which collapse over {capacity} attempts a second (503 to all of them)"),
        None => servers,
    }
}

/// The load: `100 GET /items and 25 POST /checkout a second`, and how many resources are asked for where it is several.
pub fn load(scene: &Scene) -> String {
    let callers: Vec<String> = scene
        .callers
        .iter()
        .map(|caller| {
            let said = format!("{} {} {}", caller.per_second, caller.method, caller.path);
            match caller.resources {
                1 => said,
                many if many >= caller.per_second * scene.seconds() => format!("{said}/* (each a new one)"),
                some => format!("{said}/* ({some} in turn)"),
            }
        })
        .collect();
    format!("{} a second", callers.join(" and "))
}

/// The text with its first letter as a capital.
pub fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The course: `5 s healthy, 8 s outage, 6 s recovery`.
pub fn course(scene: &Scene) -> String {
    let phases: Vec<String> = scene.phases.iter().map(|phase| format!("{} s {}", phase.seconds, phase.name)).collect();
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

    #[test]
    fn more_than_one_is_many() {
        assert_eq!(
            [plural(1, "story"), plural(2, "story"), plural(2, "server")],
            ["1 story", "2 stories", "2 servers"]
        );
    }

    #[test]
    fn a_factor_has_two_decimals() {
        assert_eq!((factor(400, 100), factor(121, 100), factor(0, 0)), ("4.00x".into(), "1.21x".into(), "-".into()));
    }
}
