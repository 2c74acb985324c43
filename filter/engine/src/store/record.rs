//! Records as bytes: a version, a kind, the fingerprint of what they belong to, then fixed-width little-endian integers.
//!
//! Shared data outlives the code and the configuration that wrote it, so anything may be read: bytes of another
//! version, kind or content read as absent, and so do bytes that are too short, too long or out of range.

use crate::base::time::Timestamp;
use crate::http::attempt::End;

/// The version of all record layouts below; raised when any of them changes.
pub const VERSION: u8 = 5;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A breaker's state.
    Breaker = 1,
    /// One worker's counts for one key.
    Slot = 2,
    /// The table of workers.
    Workers = 3,
    /// Requests in flight for one key.
    InFlight = 4,
    /// The name of one key of a policy.
    KeyName = 5,
    /// What has been taken from a retry budget.
    Budget = 6,
    /// A policy's own text.
    PolicyText = 7,
    /// When an attempt seat was last seen.
    AttemptSeat = 8,
    /// What the seats tell each other about one request.
    RetryContext = 9,
    /// The hosts of one group.
    Hosts = 10,
    /// One worker's counts for the hosts of one group.
    HostSlot = 11,
    /// A host's run of failures.
    HostRun = 12,
    /// Who does for all workers what is to be done once.
    Leader = 13,
    /// Who has the numbered places of a policy.
    Occupants = 14,
    /// Which keys of a policy have metric series.
    Series = 15,
    /// The contents that live under one policy's name.
    Variants = 16,
}

/// 2^64 divided by the golden ratio, and the number that it gives 1 with modulo 2^64. Multiplied by the first, small differences
/// become large ones that bytes damaged or written by somebody else do not have. Source: Knuth, TAOCP 3, 6.4.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const GATHER: u64 = 0xf1de_83e1_9937_733d;

/// The fingerprint of what belongs to the occupant of a place: that of the policy, moved on with each new occupant, so that what one
/// before has left reads as absent.
#[must_use]
pub fn occupied(fingerprint: u64, tenancy: u32) -> u64 {
    fingerprint.wrapping_add(SPREAD.wrapping_mul(tenancy.into()))
}

/// Whether `bytes` are a record of this kind that a later occupant of the same place wrote than the one with this fingerprint.
#[must_use]
pub fn is_of_later_occupant(bytes: &[u8], kind: Kind, fingerprint: u64) -> bool {
    let mut input = Reader(bytes);
    let later =
        |stored: u64| (1..=u64::from(u32::MAX)).contains(&stored.wrapping_sub(fingerprint).wrapping_mul(GATHER));
    input.u8() == Some(VERSION) && input.u8() == Some(kind as u8) && input.u64().is_some_and(later)
}

/// Something that is stored.
pub trait Record: Sized {
    /// Which sort of record this is.
    const KIND: Kind;

    /// Appends the fields.
    fn write(&self, out: &mut Writer);

    /// Reads the fields; `None` when they cannot be right.
    fn read(input: &mut Reader<'_>) -> Option<Self>;

    /// Whether the fields fit together. Bytes that somebody else wrote may not; a change of ours keeps it so, which builds with debug
    /// assertions check after each one.
    fn invariants(&self) -> bool {
        true
    }

    /// About how many bytes the fields take, to reserve them at once.
    fn size(&self) -> usize {
        54
    }

    /// The whole record.
    fn encode(&self, fingerprint: u64) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(self.size().saturating_add(10)));
        out.u8(VERSION);
        out.u8(Self::KIND as u8);
        out.u64(fingerprint);
        self.write(&mut out);
        out.0
    }

    /// The record in `bytes` if they are one of this kind, version and fingerprint, whole and with nothing after it.
    fn decode(bytes: &[u8], fingerprint: u64) -> Option<Self> {
        let mut input = Reader(bytes);
        if input.u8()? != VERSION || input.u8()? != Self::KIND as u8 || input.u64()? != fingerprint {
            return None;
        }
        let record = Self::read(&mut input)?;
        input.0.is_empty().then_some(record)
    }
}

/// Whether no two of these are equal.
pub fn are_different<T: Ord>(items: impl Iterator<Item = T>) -> bool {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.is_sorted_by(|one, next| one < next)
}

/// Appends integers.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Eight bytes.
    pub fn time(&mut self, value: Timestamp) {
        self.u64(value.0);
    }
    /// Five bytes.
    pub fn end(&mut self, value: End) {
        let (kind, number) = match value {
            End::Http(status) => (0, status.into()),
            End::Grpc(status) => (1, status),
            End::ConnectFailure => (2, 0),
            End::Reset => (3, 0),
            End::TimedOut => (4, 0),
            End::Broken => (5, 0),
        };
        self.u8(kind);
        self.u32(number);
    }
    /// All bytes that are left, without their count: to be the last field.
    pub fn rest(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }
    /// A count of two bytes and that many bytes; what is over 65,535 is cut off.
    pub fn bytes(&mut self, value: &[u8]) {
        let len = value.len().min(usize::from(u16::MAX));
        self.u16(len as u16);
        self.0.extend_from_slice(value.get(..len).unwrap_or_default());
    }
}

/// Takes integers off the front.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    /// Eight bytes.
    pub fn time(&mut self) -> Option<Timestamp> {
        self.u64().map(Timestamp)
    }
    /// Five bytes.
    pub fn end(&mut self) -> Option<End> {
        let (kind, number) = (self.u8()?, self.u32()?);
        match kind {
            0 => u16::try_from(number).ok().map(End::Http),
            1 => Some(End::Grpc(number)),
            2 if number == 0 => Some(End::ConnectFailure),
            3 if number == 0 => Some(End::Reset),
            4 if number == 0 => Some(End::TimedOut),
            5 if number == 0 => Some(End::Broken),
            _ => None,
        }
    }
    /// One byte that is 0 or 1.
    pub fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
    /// All bytes that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }
    /// A count of two bytes and that many bytes.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
}
