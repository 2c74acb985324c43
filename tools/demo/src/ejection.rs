//! What becomes of a host, read from the module's log lines.

use std::time::Duration;

/// Something that Holdfast tells of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When, from the start of the run.
    pub at: Duration,
    /// The server, counted from 0.
    pub host: usize,
    /// What happened to it.
    pub what: What,
    /// The same with the reason and the numbers, in the module's words.
    pub text: String,
}

/// What happened to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It gets no requests any more.
    Ejected,
    /// It got one when its time was over, and failed it.
    ProbeFailed,
    /// It gets requests again.
    Back,
    /// Something else.
    Other,
}

impl Told {
    /// Reads a line of Envoy's log, which ends in `<policy>/<key>: host <address> <what happened>` when it tells of one of
    /// these hosts.
    pub fn parse(line: &str, addresses: &[String], at: Duration) -> Option<Told> {
        let (before, after) = line.split_once(": host ")?;
        let name = before.rsplit(' ').next()?;
        name.split_once('/')?;
        let (address, text) = after.split_once(' ')?;
        let host = addresses.iter().position(|known| known == address)?;
        let what = [("ejected ", What::Ejected), ("failed its probe", What::ProbeFailed), ("is back", What::Back)]
            .into_iter()
            .find(|(words, _)| text.starts_with(words));
        let what = what.map_or(What::Other, |(_, what)| what);
        Some(Told { at, host, what, text: text.trim_end().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Option<Told> {
        let line = format!(
            "[2026-01-02 03:04:05.678][7][warning][wasm] [context.cc:1198] wasm log holdfast holdfast holdfast: {text}"
        );
        Told::parse(&line, &["10.0.0.1:80".to_owned(), "10.0.0.2:80".to_owned()], Duration::from_secs(3))
    }

    #[test]
    fn what_happened_to_a_host_is_read_out_of_envoys_log() {
        let ejected = told("orders/cluster=orders: host 10.0.0.2:80 ejected for 3s: 5 consecutive failures, last 503");
        let ejected = ejected.unwrap();
        assert_eq!((ejected.host, ejected.what, ejected.at), (1, What::Ejected, Duration::from_secs(3)));
        assert_eq!(ejected.text, "ejected for 3s: 5 consecutive failures, last 503");
        let what = |text| told(&format!("orders/cluster=orders: host 10.0.0.1:80 {text}")).map(|told| told.what);
        assert_eq!(what("failed its probe (503): out for 6s more"), Some(What::ProbeFailed));
        assert_eq!(what("is back after 9s: its probe succeeded"), Some(What::Back));
        assert_eq!(what("not ejected: 5 consecutive failures"), Some(What::Other));
    }

    #[test]
    fn other_lines_tell_nothing_of_a_host() {
        for text in
            ["", "a/b: closed -> open: why", "a/b: host 10.9.9.9:80 ejected for 3s: why", "no: host 10.0.0.1:80 x"]
        {
            assert_eq!(told(text), None, "{text:?}");
        }
    }
}
