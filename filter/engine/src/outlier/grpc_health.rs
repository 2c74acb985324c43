//! The health check of gRPC: what a heartbeat asks, and what an answer says.
//!
//! It is a unary call of `grpc.health.v1.Health/Check`, one request and one answer. Sources: GRPC Health Checking Protocol,
//! `health.proto`; gRPC over HTTP2, "Requests" and "Responses".
//!
//! Each of its two messages has one field, of number 1: the service's name, and a status. On the wire they are what the wrappers of a
//! text and of a number are (`google.protobuf.StringValue`, `Int32Value`), and prost knows these.

use core::fmt;

use holdfast_policy::document::GRPC_STATUS_NAMES;
use prost::Message;

/// What is asked for.
pub const PATH: &str = "/grpc.health.v1.Health/Check";

/// What makes a request gRPC.
pub const HEADERS: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// The longest answer that is looked at, in bytes. One has seven, and more where a later protocol adds to it.
pub const MOST_BYTES: usize = 1024;

/// Ahead of each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// `OK` among the statuses of gRPC.
const OK: u32 = 0;
/// `UNKNOWN` among them, which stands for those that do not exist or are missing.
const UNKNOWN: u8 = 2;

/// The names of `HealthCheckResponse.ServingStatus`, by number.
const STATUS_NAMES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u8 = 1;

/// The body that asks for a service; an empty name asks for the server as a whole.
pub fn request(service: &str) -> Vec<u8> {
    let message = service.to_owned().encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcAnswer<'a> {
    /// Whether its content type is that of gRPC.
    pub is_grpc: bool,
    /// The status, of its trailers or of its headers.
    pub status: Option<u32>,
    /// The body; empty where it was longer than [`MOST_BYTES`].
    pub body: &'a [u8],
}

/// What an answer says of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcHealth {
    /// A health status, by number.
    Health(u8),
    /// A status of gRPC other than OK.
    Refused(u8),
    /// It is no gRPC.
    Foreign,
    /// It has no message that says a health status, or more than one.
    Garbled,
}

impl GrpcHealth {
    /// What an answer says.
    pub fn read(answer: GrpcAnswer<'_>) -> Self {
        match answer.status {
            _ if !answer.is_grpc => GrpcHealth::Foreign,
            Some(OK) => serving_status(answer.body).map_or(GrpcHealth::Garbled, GrpcHealth::Health),
            status => {
                let known = status.and_then(|status| u8::try_from(status).ok());
                let known = known.filter(|status| usize::from(*status) < GRPC_STATUS_NAMES.len());
                GrpcHealth::Refused(known.unwrap_or(UNKNOWN))
            }
        }
    }

    /// Whether the host is well.
    pub fn is_good(self) -> bool {
        self == GrpcHealth::Health(SERVING)
    }

    /// A number that is no HTTP status, which begin at 100, and not 0.
    pub fn code(self) -> u16 {
        match self {
            GrpcHealth::Refused(status) => status.into(),
            GrpcHealth::Health(status) => u16::from(status).saturating_add(HEALTH),
            GrpcHealth::Foreign => FOREIGN,
            GrpcHealth::Garbled => GARBLED,
        }
    }

    /// What has this number.
    pub fn of_code(code: u16) -> Option<Self> {
        let offset = code.checked_sub(HEALTH).and_then(|status| u8::try_from(status).ok());
        match (offset, u8::try_from(code).ok()?) {
            (Some(status), _) if usize::from(status) < STATUS_NAMES.len() => Some(GrpcHealth::Health(status)),
            (None, status @ 1..) if usize::from(status) < GRPC_STATUS_NAMES.len() => Some(GrpcHealth::Refused(status)),
            _ if code == FOREIGN => Some(GrpcHealth::Foreign),
            _ if code == GARBLED => Some(GrpcHealth::Garbled),
            _ => None,
        }
    }
}

/// What [`GrpcHealth::code`] adds to a health status.
const HEALTH: u16 = 50;
const FOREIGN: u16 = 90;
const GARBLED: u16 = 91;

impl fmt::Display for GrpcHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            |names: &'static [&'static str], number: u8| names.get(usize::from(number)).copied().unwrap_or_default();
        match self {
            GrpcHealth::Health(status) => f.write_str(name(&STATUS_NAMES, *status)),
            GrpcHealth::Refused(status) => write!(f, "gRPC status {}", name(&GRPC_STATUS_NAMES, *status)),
            GrpcHealth::Foreign => f.write_str("an answer that is not gRPC"),
            GrpcHealth::Garbled => f.write_str("a gRPC answer without a health status"),
        }
    }
}

/// The status in a body of one message that is not compressed. A number that has no name is UNKNOWN.
fn serving_status(body: &[u8]) -> Option<u8> {
    let (prefix, message) = body.split_first_chunk::<PREFIX>()?;
    let (compressed, length) = prefix.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if *compressed != 0 || usize::try_from(length) != Ok(message.len()) || body.len() > MOST_BYTES {
        return None;
    }
    let status = u8::try_from(i32::decode(message).ok()?).unwrap_or_default();
    Some(if usize::from(status) < STATUS_NAMES.len() { status } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    fn read(status: Option<u32>, body: &[u8]) -> GrpcHealth {
        GrpcHealth::read(GrpcAnswer { is_grpc: true, status, body })
    }

    #[test]
    fn a_request_is_a_frame_with_one_field() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = "a".repeat(255);
        let body = request(&long);
        assert_eq!(body[..8], [0, 0, 0, 1, 2, 0x0a, 0xff, 0x01]);
        assert_eq!(&body[8..], long.as_bytes());
    }

    #[test]
    fn only_serving_is_good() {
        for (message, expected, is_good) in [
            (&[8, 1][..], GrpcHealth::Health(1), true),
            // A status of 0 is not written.
            (&[], GrpcHealth::Health(0), false),
            (&[8, 0], GrpcHealth::Health(0), false),
            (&[8, 2], GrpcHealth::Health(2), false),
            (&[8, 3], GrpcHealth::Health(3), false),
            (&[8, 4], GrpcHealth::Health(0), false),
            (&[8, 0x81, 2], GrpcHealth::Health(0), false),
            // -1.
            (&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], GrpcHealth::Health(0), false),
            // The last one counts, and fields of later protocols are passed over.
            (&[8, 2, 8, 1], GrpcHealth::Health(1), true),
            (&[8, 1, 8, 2], GrpcHealth::Health(2), false),
            (
                &[0x12, 1, b'x', 8, 1, 0x18, 7, 0x25, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0, 0, 0, 0],
                GrpcHealth::Health(1),
                true,
            ),
        ] {
            let health = read(Some(0), &framed(message));
            assert_eq!((health, health.is_good()), (expected, is_good), "{message:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_garbled() {
        let good = framed(&[8, 1]);
        for cut in 0..good.len() {
            assert_eq!(read(Some(0), &good[..cut]), GrpcHealth::Garbled, "{cut} bytes");
        }
        let long = framed(&[[0x12, 0xf7, 0x07].as_slice(), &[0; 1015], &[8, 1]].concat());
        assert_eq!(long.len(), MOST_BYTES + 1);
        for (what, body) in [
            ("two messages", [good.as_slice(), &good].concat()),
            ("more than it says", [good.as_slice(), &[0]].concat()),
            ("compressed", vec![1, 0, 0, 0, 2, 8, 1]),
            ("a length beyond all", vec![0, 255, 255, 255, 255, 8, 1]),
            ("a text in the place of the status", framed(&[0x0a, 1, 1])),
            ("a field that is cut off", framed(&[8, 1, 0x12, 9])),
            ("a number without an end", framed(&[8, 0x81])),
            ("a number that is too long", framed(&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1])),
            ("field number 0", framed(&[0, 1])),
            ("a group without an end", framed(&[0x13])),
            ("a wire type that there is not", framed(&[0x0f])),
            ("too long", long),
        ] {
            assert_eq!(read(Some(0), &body), GrpcHealth::Garbled, "{what}");
        }
    }

    #[test]
    fn hostile_bytes_are_never_good_by_chance() {
        // Of all messages of up to two bytes the one that says SERVING.
        let mut good = Vec::new();
        for message in (0..=255).flat_map(|a| (0..=255).map(move |b| [a, b])) {
            good.extend(read(Some(0), &framed(&message)).is_good().then_some(message));
            assert!(!read(Some(0), &framed(&message[..1])).is_good());
            assert!(!read(Some(0), &message).is_good());
        }
        assert_eq!(good, [[8, 1]]);
    }

    #[test]
    fn without_the_status_ok_nothing_else_counts() {
        let body = framed(&[8, 1]);
        assert_eq!(read(None, &body), GrpcHealth::Refused(2));
        assert_eq!(read(Some(12), &body), GrpcHealth::Refused(12));
        assert_eq!(read(Some(14), &[]), GrpcHealth::Refused(14));
        assert_eq!(read(Some(17), &body), GrpcHealth::Refused(2));
        assert_eq!(read(Some(256), &body), GrpcHealth::Refused(2));
        let foreign = GrpcAnswer { is_grpc: false, status: Some(0), body: &body };
        assert_eq!(GrpcHealth::read(foreign), GrpcHealth::Foreign);
    }

    #[test]
    fn a_number_stands_for_each_and_is_no_http_status() {
        let mut all: Vec<GrpcHealth> = (1..=16).map(GrpcHealth::Refused).collect();
        all.extend((0..=3).map(GrpcHealth::Health));
        all.extend([GrpcHealth::Foreign, GrpcHealth::Garbled]);
        for health in &all {
            assert!((1..100).contains(&health.code()), "{health}");
            assert_eq!(GrpcHealth::of_code(health.code()), Some(*health));
        }
        assert_eq!((0..=u16::MAX).filter_map(GrpcHealth::of_code).count(), all.len());
    }

    #[test]
    fn each_has_words() {
        let words = [
            (GrpcHealth::Health(2), "NOT_SERVING"),
            (GrpcHealth::Refused(12), "gRPC status UNIMPLEMENTED"),
            (GrpcHealth::Foreign, "an answer that is not gRPC"),
            (GrpcHealth::Garbled, "a gRPC answer without a health status"),
        ];
        for (health, expected) in words {
            assert_eq!(health.to_string(), expected);
        }
    }
}
