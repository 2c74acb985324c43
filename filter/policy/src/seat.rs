//! Which seat a module takes: the VM's configuration says so.

use crate::config;
use crate::config::json::Node;
use crate::config::reader::quoted;

/// Where the module sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seat {
    /// An HTTP filter just before the router: the default.
    Request,
    /// An upstream HTTP filter of a cluster.
    Attempt,
}

impl Seat {
    /// Reads `vm_config.configuration`: nothing, `{"seat": "request"}` or `{"seat": "attempt"}`, as a text or a
    /// `google.protobuf.Struct`. The error says what is accepted.
    pub fn parse(bytes: &[u8]) -> Result<Seat, String> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Seat::Request);
        }
        const EXPECTED: &str = r#"vm_config.configuration: must be empty, {"seat": "request"} or {"seat": "attempt"}"#;
        let written = || format!("{EXPECTED}, was {}", quoted(&String::from_utf8_lossy(bytes)));
        let node = config::tree(bytes).ok_or_else(written)?;
        let seat = match &node {
            Node::Object(entries) => match entries.as_slice() {
                [(key, seat @ Node::String(name))] if key == "seat" => Some((seat, name.as_str())),
                _ => None,
            },
            _ => None,
        };
        match seat {
            Some((_, "request")) => Ok(Seat::Request),
            Some((_, "attempt")) => Ok(Seat::Attempt),
            Some((seat, _)) => Err(format!("{EXPECTED}, was the seat {}", seat.to_text())),
            None => Err(format!("{EXPECTED}, was {}", node.to_text().chars().take(80).collect::<String>())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_request_seat_is_the_default_and_unknown_ones_are_refused() {
        assert_eq!(Seat::parse(b""), Ok(Seat::Request));
        assert_eq!(Seat::parse(br#"{"seat":"request"}"#), Ok(Seat::Request));
        assert_eq!(Seat::parse(br#"{"seat":"attempt"}"#), Ok(Seat::Attempt));
        assert!(Seat::parse(br#"{"seat":"back"}"#).unwrap_err().contains("was the seat \"back\""));
        assert!(Seat::parse(b"[]").unwrap_err().contains("must be empty"));
        assert!(Seat::parse(b"\xff").unwrap_err().contains("must be empty"));
        assert!(Seat::parse(b"seat: attempt").unwrap_err().ends_with(", was \"seat: attempt\""));
    }

    #[test]
    fn a_struct_says_the_same() {
        assert_eq!(Seat::parse(b"\x0a\x11\x0a\x04seat\x12\x09\x1a\x07attempt"), Ok(Seat::Attempt));
        assert!(
            Seat::parse(b"\x0a\x0e\x0a\x04seat\x12\x06\x1a\x04back").unwrap_err().contains("was the seat \"back\"")
        );
        assert!(Seat::parse(b"\x0a\x11\x0a\x04seat").unwrap_err().contains("must be empty"));
    }
}
