//! Which attempts of a cluster are under way in this VM, and whether one of them has a connection to a host.
//!
//! An attempt that waits for a connection in vain waits for its host, or for one of Envoy's own ceilings (`max_connections`).
//! Nothing that Envoy says of it tells these apart. A ceiling is reached by connections that serve other attempts: Envoy makes
//! at least one connection to each host for each worker, and gives one that becomes free to whoever has waited longest. So while
//! an attempt waits for a ceiling, an older one has a connection to the same host.
//! Source: Envoy, `ConnPoolImplBase::tryCreateNewConnection`; seen on Envoy 1.36 and 1.40.

/// Of those at one host that have no connection the oldest so many are asked: the oldest has the first that there is.
const ASKED: usize = 8;

/// The properties of an attempt that are asked for.
const ADDRESS: &str = "upstream\0address";
const CONNECTED: &str = "upstream\0local_address";

/// The streams of attempts that have begun and not ended, as they have begun. Those whose host somebody wanted to know have its
/// address.
#[derive(Debug, Default)]
pub(super) struct InFlight(Vec<(u32, Option<Vec<u8>>)>);

impl InFlight {
    /// Adds an attempt that begins.
    pub(super) fn begin(&mut self, stream: u32) {
        self.0.push((stream, None));
    }

    /// Notes the host of an attempt of a hedged request: Envoy names only that of the attempt begun last.
    pub(super) fn place(&mut self, stream: u32, address: Option<&[u8]>) {
        if let (Some(index), Some(address)) = (self.index(stream), address)
            && let Some((_, known)) = self.0.get_mut(index)
        {
            *known = Some(address.to_owned());
        }
    }

    /// Takes an attempt out that is over.
    pub(super) fn end(&mut self, stream: u32) {
        if let Some(index) = self.index(stream) {
            self.0.remove(index);
        }
    }

    /// Where a stream stands. Those that last long stand at the beginning, and most that end near the end.
    fn index(&self, stream: u32) -> Option<usize> {
        self.0.iter().rposition(|(known, _)| *known == stream)
    }

    /// Whether one of them has a connection to this host. `ask` asks for a property of a stream.
    pub(super) fn has_connection(&mut self, host: &[u8], ask: impl Fn(u32, &str) -> Option<Vec<u8>>) -> bool {
        let mut asked = 0;
        for (stream, address) in &mut self.0 {
            let is_known = address.is_some();
            if !is_known {
                *address = ask(*stream, ADDRESS);
            }
            if address.as_deref() != Some(host) {
                continue;
            }
            if ask(*stream, CONNECTED).is_some_and(|local| !local.is_empty()) {
                return true;
            }
            // A hedge has taken its place in what Envoy says. Envoy begins one only when there is a connection.
            if is_known && ask(*stream, ADDRESS).is_some_and(|current| current != host) {
                return true;
            }
            asked += 1;
            if asked >= ASKED {
                break;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Streams at hosts, each with or without a connection.
    struct Streams<'a>(&'a [(u32, &'a str, bool)], Cell<u32>);

    impl Streams<'_> {
        fn ask(&self, stream: u32, path: &str) -> Option<Vec<u8>> {
            self.1.set(self.1.get() + 1);
            let (_, address, is_connected) = self.0.iter().find(|(known, _, _)| *known == stream)?;
            match path {
                ADDRESS => Some(address.as_bytes().to_owned()),
                _ => is_connected.then(|| b"127.0.0.1:50000".to_vec()),
            }
        }

        fn in_flight(&self) -> InFlight {
            let mut in_flight = InFlight::default();
            self.0.iter().for_each(|(stream, _, _)| in_flight.begin(*stream));
            in_flight
        }
    }

    fn has_connection(in_flight: &mut InFlight, host: &str, streams: &Streams<'_>) -> bool {
        in_flight.has_connection(host.as_bytes(), |stream, path| streams.ask(stream, path))
    }

    #[test]
    fn a_connection_counts_for_the_host_that_it_leads_to() {
        let streams = Streams(&[(1, "a", true), (2, "b", false), (3, "b", false)], Cell::new(0));
        let mut in_flight = streams.in_flight();
        assert!(has_connection(&mut in_flight, "a", &streams));
        assert!(!has_connection(&mut in_flight, "b", &streams));
        assert!(!has_connection(&mut in_flight, "c", &streams));
        in_flight.end(1);
        assert!(!has_connection(&mut in_flight, "a", &streams), "it is over");
    }

    #[test]
    fn a_host_is_asked_for_once_and_of_many_that_wait_the_oldest_are_asked_for_their_connection() {
        let many: Vec<_> = (0..100).map(|stream| (stream, if stream < 50 { "a" } else { "b" }, false)).collect();
        let streams = Streams(&many, Cell::new(0));
        let mut in_flight = streams.in_flight();
        assert!(!has_connection(&mut in_flight, "b", &streams));
        assert_eq!(streams.1.replace(0), 58 + 8);
        assert!(!has_connection(&mut in_flight, "b", &streams));
        assert_eq!(streams.1.replace(0), 8 + 8, "these are looked at for a hedge in their place");
    }

    #[test]
    fn an_attempt_in_whose_place_envoy_names_a_hedge_had_a_connection() {
        // Both are of one request, and Envoy says of both what is true of the later one.
        let streams = Streams(&[(1, "b", false), (2, "b", false)], Cell::new(0));
        let mut in_flight = streams.in_flight();
        in_flight.place(1, Some(b"a"));
        in_flight.place(2, Some(b"b"));
        in_flight.place(3, Some(b"c"));
        assert!(has_connection(&mut in_flight, "a", &streams));
        assert!(!has_connection(&mut in_flight, "b", &streams));
    }

    #[test]
    fn a_stream_of_which_nothing_is_known_counts_for_no_host() {
        let mut in_flight = InFlight::default();
        in_flight.begin(7);
        assert!(!in_flight.has_connection(b"a", |_, _| None));
    }
}
